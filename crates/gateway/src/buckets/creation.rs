//! CreateBucket: open the partitions, then have the root group make it live.

use super::{Steps, half_done, reference, soon};
use crate::error;
use placement::Bucket;
use runtime::probe::waypoint;
use runtime::time::Instant;
use s3s::{S3ErrorCode, S3Result, s3_error};

const WHAT: &str = "the bucket was created";

impl Steps {
    pub(super) async fn create(&self, name: &str, owner: &str) -> S3Result<()> {
        // Once more if another creation of the same name overtook this one: it is then live, and the second attempt says so.
        match self.try_create(name, owner, soon()).await {
            Err(error) if error.code() == &S3ErrorCode::OperationAborted => self.try_create(name, owner, soon()).await,
            outcome => outcome,
        }
    }

    async fn try_create(&self, name: &str, owner: &str, deadline: Instant) -> S3Result<()> {
        let begun = self.placement.begin_create_bucket(name, owner, runtime::time::wall_ms(), deadline).await;
        let bucket = match begun {
            Ok(bucket) => bucket,
            Err(placement::Error::BucketExists { owner: other }) if other == owner => {
                return Err(s3_error!(
                    BucketAlreadyOwnedByYou,
                    "Your previous request to create the named bucket succeeded and you already own it."
                ));
            }
            Err(other) => return Err(error::of_placement(other)),
        };
        waypoint("bucket-creation-begun").await;
        let opened = self.metadata.open_bucket(&reference(&bucket), bucket.attempt, deadline).await;
        if let Err(metadata::Error::StaleAttempt) = opened {
            self.clear(&bucket, deadline).await.map_err(|error| half_done(error, WHAT))?;
        }
        opened.map_err(|error| half_done(error::of_metadata(error), WHAT))?;
        waypoint("bucket-creation-open-everywhere").await;
        match self.placement.finish_create_bucket(name, bucket.attempt, deadline).await {
            // Another creation overtook this one and what it made was deleted since, or it was taken back.
            Err(placement::Error::NoSuchBucket) => Err(error::of_placement(placement::Error::StaleAttempt)),
            finished => finished.map_err(|error| half_done(error::of_placement(error), WHAT)),
        }
    }

    /// A bucket that was being taken back when this attempt began cannot be opened any more. Bring that to its end, so that the next
    /// attempt finds no trace of it.
    async fn clear(&self, bucket: &Bucket, deadline: Instant) -> S3Result<()> {
        if !self.is_removed_somewhere(&reference(bucket), deadline).await? {
            return Ok(());
        }
        runtime::probe!("bucket-creation-met-one-that-was-taken-back");
        self.end(bucket).await
    }
}
