//! DeleteBucket: close the partitions; if all are empty, remove the bucket from them, then from the root group, else reopen them.

use super::{Steps, half_done, is_unavailable, reference, soon, unknown};
use crate::error;
use placement::Bucket;
use runtime::probe::waypoint;
use runtime::time::{self, Instant};
use s3s::{S3Error, S3Result, s3_error};
use std::time::Duration;

/// A deletion makes new attempts for so long: one that is given up leaves the bucket closed to writers until it counts as abandoned.
const PATIENCE: Duration = Duration::from_secs(12);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);
const WHAT: &str = "the bucket was deleted";

impl Steps {
    pub(super) async fn delete(&self, name: &str) -> S3Result<()> {
        let patience = time::now() + PATIENCE;
        let mut begun = false;
        // Whatever a failed attempt left half closed, the next one closes again, and then removes or reopens. Nothing is opened
        // in between: another attempt may have proved the bucket empty and be removing it.
        let empty = loop {
            let error = match self.try_close(name, &mut begun).await {
                Ok(Some(empty)) => break empty,
                Ok(None) => return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty")),
                Err(error) => error,
            };
            pause(patience, error).await.map_err(|error| if begun { half_done(error, WHAT) } else { error })?;
        };
        self.remove(&empty, patience).await
    }

    /// Close everywhere under a new attempt, and reopen unless that proved it empty. Returns the bucket under the attempt that did.
    async fn try_close(&self, name: &str, begun: &mut bool) -> S3Result<Option<Bucket>> {
        let deadline = soon();
        let bucket = self.placement.begin_delete_bucket(name, deadline).await;
        *begun |= matches!(bucket, Ok(_) | Err(placement::Error::Unknown(_)));
        let bucket = bucket.map_err(error::of_placement)?;
        waypoint("bucket-deletion-begun").await;
        let empty = self.metadata.close_bucket(&reference(&bucket), bucket.attempt, deadline).await.map_err(error::of_metadata)?;
        waypoint("bucket-deletion-closed-everywhere").await;
        if empty {
            return Ok(Some(bucket));
        }
        // Whatever becomes of that: what is not empty was not deleted, and will not be by this request.
        if let Err(error) = self.reopen(&bucket, soon()).await {
            runtime::probe!("bucket-left-closed-that-is-not-empty");
            tracing::warn!(bucket = name, %error, "a bucket that is not empty could not be reopened everywhere yet");
        }
        Ok(None)
    }

    /// Take the closing under the attempt of `bucket` back. None of its partitions may have removed it.
    pub(super) async fn reopen(&self, bucket: &Bucket, deadline: Instant) -> S3Result<()> {
        match self.metadata.open_bucket(&reference(bucket), bucket.attempt, deadline).await {
            // A later attempt is at work: the bucket is its to open.
            Err(metadata::Error::StaleAttempt) => return Ok(()),
            opened => opened.map_err(error::of_metadata)?,
        }
        match self.placement.finish_delete_bucket(&bucket.name, bucket.attempt, false, deadline).await {
            Ok(()) | Err(placement::Error::StaleAttempt) => Ok(()),
            Err(error) => Err(error::of_placement(error)),
        }
    }

    /// Remove what its attempt has closed everywhere and proved empty, from the partitions, then from the root group: under this attempt
    /// and no other. A new one might meet no bucket, or the next one of the name, and could not know who removed this one.
    pub(super) async fn remove(&self, empty: &Bucket, patience: Instant) -> S3Result<()> {
        loop {
            let Err(error) = self.try_remove(empty).await else { return Ok(()) };
            if pause(patience, error).await.is_err() {
                // If it was overtaken, then perhaps by who went on with it in its place, who tells no client that it is gone.
                runtime::probe!("bucket-removed-by-whom-is-unknown");
                return Err(unknown(WHAT));
            }
        }
    }

    async fn try_remove(&self, empty: &Bucket) -> S3Result<()> {
        let deadline = soon();
        self.metadata.remove_bucket(&reference(empty), empty.attempt, deadline).await.map_err(error::of_metadata)?;
        waypoint("bucket-deletion-removed-everywhere").await;
        self.placement.finish_delete_bucket(&empty.name, empty.attempt, true, deadline).await.map_err(error::of_placement)
    }
}

/// Wait before a deletion goes on; fail with `error` if that makes no sense, or took too long.
async fn pause(patience: Instant, error: S3Error) -> S3Result<()> {
    if !is_unavailable(&error) {
        return Err(error);
    }
    if time::now() >= patience {
        runtime::probe!("bucket-left-closed");
        return Err(error);
    }
    time::sleep(PAUSE).await;
    Ok(())
}
