//! Buckets: Create, Head, Delete, List, GetBucketLocation.

use super::{OWNER, Operations, not_implemented, soon, timestamp};
use crate::error;
use placement::BucketState;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

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
        self.buckets.create(&input.bucket, OWNER).await?;
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
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
        self.buckets.delete(&req.input.bucket).await?;
        Ok(S3Response::with_status(DeleteBucketOutput::default(), http::StatusCode::NO_CONTENT))
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
            // One that is being deleted is there until it is removed.
            let hidden = |state| state == BucketState::Deleting && runtime::planted("deleting-bucket-not-listed");
            found.extend(page.into_iter().filter(|bucket| bucket.name.starts_with(&prefix) && !hidden(bucket.state)));
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
