//! DeleteBucket: close the partitions, remove the bucket from them if all are empty, then have the root group remove it.

use super::{Steps, half_done, is_unavailable, reference, soon};
use crate::error;
use placement::Bucket;
use runtime::probe::waypoint;
use runtime::time::Instant;
use s3s::{S3Error, S3Result, s3_error};
use std::time::Duration;

/// A deletion makes new attempts for so long: one that is given up leaves the bucket closed to writers until it counts as abandoned.
const PATIENCE: Duration = Duration::from_secs(12);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);
const WHAT: &str = "the bucket was deleted";

impl Steps {
    pub(super) async fn delete(&self, name: &str) -> S3Result<()> {
        let patience = runtime::time::now() + PATIENCE;
        let mut begun = false;
        // Whatever a failed attempt left half closed, the next one closes again, and then removes or reopens. Nothing is opened
        // in between: another attempt may have proved the bucket empty and be removing it.
        let attempt = loop {
            let deadline = soon();
            let error = match self.placement.begin_delete_bucket(name, deadline).await {
                Ok(bucket) => {
                    begun = true;
                    waypoint("bucket-deletion-begun").await;
                    match self.empty(&bucket, deadline).await {
                        Ok(Some(attempt)) => break attempt,
                        Ok(None) => return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty")),
                        Err(error) => error,
                    }
                }
                Err(error) => {
                    begun |= matches!(error, placement::Error::Unknown(_));
                    error::of_placement(error)
                }
            };
            if !is_unavailable(&error) {
                return Err(error);
            }
            pause(patience, error).await.map_err(|error| if begun { half_done(error, WHAT) } else { error })?;
        };
        self.remove(name, attempt, patience).await
    }

    /// What is left to do once a deletion has begun under the attempt of `bucket`: whether it was deleted, or is open again.
    pub(super) async fn end(&self, bucket: &Bucket) -> S3Result<bool> {
        let Some(attempt) = self.empty(bucket, soon()).await? else { return Ok(false) };
        self.remove(&bucket.name, attempt, runtime::time::now() + PATIENCE).await.map(|()| true)
    }

    /// Close everywhere; if that proved it empty, remove it from the partitions, else reopen. Returns the attempt under which the root
    /// group is to remove it, if it was empty.
    async fn empty(&self, bucket: &Bucket, deadline: Instant) -> S3Result<Option<u64>> {
        let (partitions, attempt) = (reference(bucket), bucket.attempt);
        let empty = self.metadata.close_bucket(&partitions, attempt, deadline).await.map_err(error::of_metadata)?;
        waypoint("bucket-deletion-closed-everywhere").await;
        if empty {
            self.metadata.remove_bucket(&partitions, attempt, deadline).await.map_err(error::of_metadata)?;
            waypoint("bucket-deletion-removed-everywhere").await;
            return Ok(Some(attempt));
        }
        match self.metadata.open_bucket(&partitions, attempt, deadline).await {
            // A later attempt is at work: the bucket is its to open.
            Err(metadata::Error::StaleAttempt) => return Ok(None),
            opened => opened.map_err(error::of_metadata)?,
        }
        match self.placement.finish_delete_bucket(&bucket.name, attempt, false, deadline).await {
            Ok(()) | Err(placement::Error::StaleAttempt) => Ok(None),
            Err(error) => Err(error::of_placement(error)),
        }
    }

    /// Have the root group remove the bucket under `attempt`, and under no other: once that was asked and not answered, a new
    /// attempt would meet no bucket, or the next one of the name, and could not know who removed the first.
    async fn remove(&self, name: &str, attempt: u64, patience: Instant) -> S3Result<()> {
        let mut unanswered = false;
        loop {
            let error = match self.placement.finish_delete_bucket(name, attempt, true, soon()).await {
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
            if !is_unavailable(&error) {
                return Err(error);
            }
            pause(patience, error).await.map_err(|error| half_done(error, WHAT))?;
        }
    }
}

/// Wait before a deletion goes on, or fail with `error` if it took too long.
async fn pause(patience: Instant, error: S3Error) -> S3Result<()> {
    if runtime::time::now() >= patience {
        runtime::probe!("bucket-left-closed");
        return Err(error);
    }
    runtime::time::sleep(PAUSE).await;
    Ok(())
}
