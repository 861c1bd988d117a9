//! Buckets: Create, Head, Delete, List, GetBucketLocation.
//!
//! Creating and deleting run under an attempt number of the root group, one at a time (I10): partitions are opened before the
//! bucket is live, and closed and proved empty before it is removed. Whoever finds the work of a dead attempt goes on with it.

use super::{OWNER, Operations, not_implemented, reference, soon, timestamp};
use crate::error;
use placement::BucketState;
use runtime::probe::waypoint;
use runtime::time::Instant;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};
use std::time::Duration;

/// A DeleteBucket makes new attempts for so long: one that is given up leaves the bucket closed to writers.
const DELETE_WAIT: Duration = Duration::from_secs(12);
/// Between two attempts.
const DELETE_PAUSE: Duration = Duration::from_millis(250);
/// Pages of the bucket list that one ListBuckets with a prefix may walk.
const PAGES_MAX: usize = 100;
/// Most buckets in one answer, as S3 has it.
const BUCKETS_MAX: i32 = 10_000;

impl Operations {
    pub(super) async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let input = req.input;
        check_name(&input.bucket)?;
        if input.object_lock_enabled_for_bucket == Some(true) {
            return Err(not_implemented("object lock"));
        }
        if let Some(configuration) = &input.create_bucket_configuration {
            if configuration.bucket.is_some() || configuration.location.is_some() {
                return Err(not_implemented("directory buckets"));
            }
            let constraint = configuration.location_constraint.as_ref().map_or("", |constraint| constraint.as_str());
            if !constraint.is_empty() && constraint != self.region {
                return Err(s3_error!(
                    IllegalLocationConstraintException,
                    "The {constraint} location constraint is incompatible with the region of this endpoint, {}.",
                    self.region
                ));
            }
        }
        let deadline = soon();
        // Once more if another creation of the same name overtook this one: it is then live, and the second attempt says so.
        for last in [false, true] {
            match self.try_create(&input.bucket, deadline).await {
                Err(error) if !last && error.code() == &s3s::S3ErrorCode::OperationAborted => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
    }

    async fn try_create(&self, name: &str, deadline: Instant) -> S3Result<()> {
        let placement = &self.cluster.placement;
        let bucket = match placement.begin_create_bucket(name, OWNER, runtime::time::wall_ms(), deadline).await {
            Ok(bucket) => bucket,
            Err(placement::Error::BucketExists { owner }) if owner == OWNER => {
                return Err(s3_error!(
                    BucketAlreadyOwnedByYou,
                    "Your previous request to create the named bucket succeeded and you already own it."
                ));
            }
            Err(other) => return Err(error::of_placement(other)),
        };
        waypoint("bucket-creation-begun").await;
        self.cluster.metadata.open_bucket(&reference(&bucket), bucket.attempt, deadline).await.map_err(error::of_metadata)?;
        waypoint("bucket-creation-open-everywhere").await;
        placement.finish_create_bucket(name, bucket.attempt, deadline).await.map_err(error::of_placement)?;
        placement.forget_bucket(name);
        Ok(())
    }

    pub(super) async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.present_bucket(&req.input.bucket, soon()).await?;
        Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(self.region.clone()), ..HeadBucketOutput::default() }))
    }

    pub(super) async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.present_bucket(&req.input.bucket, soon()).await?;
        // The first region of S3 has no name here.
        let location = (self.region != "us-east-1").then(|| BucketLocationConstraint::from(self.region.clone()));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint: location }))
    }

    pub(super) async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        let name = &req.input.bucket;
        let patience = runtime::time::now() + DELETE_WAIT;
        // Whatever a failed attempt left half closed, the next one closes again, and then removes or reopens. Nothing is opened
        // in between: another attempt may have proved the bucket empty and be removing it.
        let attempt = loop {
            match self.try_empty(name).await {
                Ok(Some(attempt)) => break attempt,
                Ok(None) => return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty")),
                Err(error) if error.status_code() != Some(http::StatusCode::SERVICE_UNAVAILABLE) => return Err(error),
                Err(error) => pause(name, patience, error).await?,
            }
        };
        self.remove(name, attempt, patience).await?;
        Ok(S3Response::with_status(DeleteBucketOutput::default(), http::StatusCode::NO_CONTENT))
    }

    /// One attempt: close everywhere; if that proved it empty, remove it from the partitions, else reopen. Returns the attempt
    /// under which the root group is to remove it, if it was empty.
    async fn try_empty(&self, name: &str) -> S3Result<Option<u64>> {
        let deadline = soon();
        let (placement, metadata) = (&self.cluster.placement, &self.cluster.metadata);
        let bucket = placement.begin_delete_bucket(name, deadline).await.map_err(error::of_placement)?;
        waypoint("bucket-deletion-begun").await;
        let (partitions, attempt) = (reference(&bucket), bucket.attempt);
        let empty = metadata.close_bucket(&partitions, attempt, deadline).await.map_err(error::of_metadata)?;
        waypoint("bucket-deletion-closed-everywhere").await;
        if empty {
            metadata.remove_bucket(&partitions, attempt, deadline).await.map_err(error::of_metadata)?;
            waypoint("bucket-deletion-removed-everywhere").await;
            return Ok(Some(attempt));
        }
        match metadata.open_bucket(&partitions, attempt, deadline).await {
            // A later attempt is at work: the bucket is its to open.
            Err(metadata::Error::StaleAttempt) => return Ok(None),
            opened => opened.map_err(error::of_metadata)?,
        }
        match placement.finish_delete_bucket(name, attempt, false, deadline).await {
            Ok(()) | Err(placement::Error::StaleAttempt) => Ok(None),
            Err(error) => Err(error::of_placement(error)),
        }
    }

    /// Have the root group remove the bucket under `attempt`, and under no other: once that was asked and not answered, a new
    /// attempt would meet no bucket, or the next one of the name, and could not know who removed the first.
    async fn remove(&self, name: &str, attempt: u64, patience: Instant) -> S3Result<()> {
        let mut unanswered = false;
        loop {
            let error = match self.cluster.placement.finish_delete_bucket(name, attempt, true, soon()).await {
                Ok(()) => return Ok(()),
                // That request removed it, or another deletion overtook it and answers so itself: both may not.
                Err(placement::Error::NoSuchBucket | placement::Error::StaleAttempt) if unanswered => {
                    runtime::probe!("bucket-removed-by-whom-is-unknown");
                    return Err(s3_error!(ServiceUnavailable, "It is not known whether this request or another one deleted the bucket."));
                }
                Err(error) => error,
            };
            unanswered |= matches!(error, placement::Error::Unknown(_));
            let error = error::of_placement(error);
            if error.status_code() != Some(http::StatusCode::SERVICE_UNAVAILABLE) {
                return Err(error);
            }
            pause(name, patience, error).await?;
        }
    }

    pub(super) async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let input = req.input;
        let owner = Owner { id: Some(OWNER.into()), display_name: Some(OWNER.into()) };
        let max = input.max_buckets.unwrap_or(BUCKETS_MAX);
        if !(1..=BUCKETS_MAX).contains(&max) {
            return Err(s3_error!(InvalidArgument, "max-buckets must be between 1 and {BUCKETS_MAX}"));
        }
        let max = usize::try_from(max).unwrap_or(1);
        let prefix = input.prefix.clone().unwrap_or_default();
        let mut after = super::list::token_key(input.continuation_token.as_deref())?.unwrap_or_default().max(just_before(&prefix));
        let here = input.bucket_region.as_ref().is_none_or(|region| *region == self.region);
        let deadline = soon();
        let mut found = Vec::new();
        let mut more = here;
        for _ in 0..PAGES_MAX {
            if !more || found.len() > max {
                break;
            }
            let page = self.cluster.placement.list_buckets(&after, 1000, deadline).await.map_err(error::of_placement)?;
            // Names are in order: past the prefix there are no more.
            more = page.last().is_some_and(|last| last.name.starts_with(&prefix) || last.name.as_str() < prefix.as_str());
            if let Some(last) = page.last() {
                after = last.name.clone();
            }
            found.extend(page.into_iter().filter(|bucket| bucket.state == BucketState::Live && bucket.name.starts_with(&prefix)));
        }
        let truncated = found.len() > max;
        found.truncate(max);
        let token = found.last().filter(|_| truncated).map(|last| super::list::token(&last.name));
        let region = input.max_buckets.is_some() || input.bucket_region.is_some() || input.prefix.is_some();
        let buckets = found
            .into_iter()
            .map(|bucket| Bucket {
                name: Some(bucket.name),
                creation_date: Some(timestamp(bucket.created_ms)),
                bucket_region: region.then(|| self.region.clone()),
            })
            .collect();
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets),
            owner: Some(owner),
            continuation_token: token,
            prefix: input.prefix,
        }))
    }
}

/// Wait before a deletion goes on, or fail with `error` if it took too long.
async fn pause(name: &str, patience: Instant, error: S3Error) -> S3Result<()> {
    if runtime::time::now() >= patience {
        runtime::probe!("bucket-left-closed");
        tracing::warn!(bucket = %name, "a bucket stays closed to writers until it is deleted again");
        return Err(error);
    }
    runtime::time::sleep(DELETE_PAUSE).await;
    Ok(())
}

/// S3's rules for new names, and the endings that it keeps to itself.
fn check_name(name: &str) -> S3Result<()> {
    let reserved = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
    let kept = ["sthree-", "amzn-s3-demo-"];
    if !s3s::path::check_bucket_name(name)
        || reserved.iter().any(|ending| name.ends_with(ending))
        || kept.iter().any(|start| name.starts_with(start))
    {
        return Err(s3_error!(InvalidBucketName, "The specified bucket is not valid."));
    }
    Ok(())
}

/// A text that sorts before every name with this prefix and after every smaller name. Names have only `a-z0-9.-`.
fn just_before(prefix: &str) -> String {
    match prefix.char_indices().next_back() {
        Some((at, last)) if last.is_ascii_graphic() => format!("{}{}~", &prefix[..at], char::from(u8::try_from(last).unwrap_or(b'!') - 1)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_s3() {
        for name in ["abc", "a.b-c.1", "123", &"a".repeat(63)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["ab", "Abc", "a_b", "-abc", "abc-", "a..b", "10.0.0.1", "xn--abc", "abc-s3alias", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn just_before_a_prefix_lies_between_smaller_names_and_those_that_have_it() {
        for prefix in ["abc", "a", "b-", "x.0", "a1"] {
            let bound = just_before(prefix);
            assert!(bound.as_str() < prefix, "{bound}");
            for smaller in ["0zz", "-", "a--", "ab"].into_iter().filter(|name| *name < prefix) {
                assert!(smaller <= bound.as_str(), "{smaller} {bound}");
            }
        }
        assert_eq!(just_before(""), "");
    }
}
