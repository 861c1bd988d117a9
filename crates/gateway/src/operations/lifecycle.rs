//! Lifecycle of a bucket: PutBucketLifecycleConfiguration, GetBucketLifecycleConfiguration, DeleteBucketLifecycle.
//!
//! A setting runs as that of versioning does, under an attempt number of the root group, and reaches every partition before it is
//! acknowledged: from then on what expires is judged by it, whoever walks. After a DeleteBucketLifecycle that was acknowledged
//! nothing expires any more.

use super::{Operations, reference, soon};
use crate::{error, lifecycle};
use protocol::Lifecycle;
use runtime::probe::waypoint;
use runtime::time::Instant;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

impl Operations {
    pub(super) async fn put_bucket_lifecycle_configuration(
        &self,
        req: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let input = req.input;
        let rules = input.lifecycle_configuration.map(|configuration| configuration.rules).unwrap_or_default();
        let lifecycle = lifecycle::of_document(rules, self.day_ms, || format!("{:016x}", runtime::entropy::u64()))?;
        self.set_lifecycle(&input.bucket, Some(lifecycle), soon()).await?;
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
    }

    pub(super) async fn delete_bucket_lifecycle(
        &self,
        req: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
        self.set_lifecycle(&req.input.bucket, Some(Lifecycle::default()), soon()).await?;
        Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
    }

    pub(super) async fn get_bucket_lifecycle_configuration(
        &self,
        req: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let (name, deadline) = (req.input.bucket, soon());
        let known = self.cluster.placement.bucket_lifecycle(&name, deadline).await.map_err(error::of_placement)?;
        let lifecycle = match known.setting {
            None => known.set,
            // Some partitions may have it and others not: neither answer would be true before all have it.
            Some(_) => self.set_lifecycle(&name, None, deadline).await?,
        };
        if lifecycle.rules.is_empty() {
            return Err(s3_error!(NoSuchLifecycleConfiguration, "The lifecycle configuration does not exist"));
        }
        let rules = Some(lifecycle::to_document(lifecycle));
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput { rules, ..GetBucketLifecycleConfigurationOutput::default() }))
    }

    /// One attempt to set a lifecycle, or to finish the setting that is under way. It is not made again under another attempt: one
    /// that was overtaken must not come back after the one that overtook it.
    async fn set_lifecycle(&self, name: &str, lifecycle: Option<Lifecycle>, deadline: Instant) -> S3Result<Lifecycle> {
        let (placement, metadata) = (&self.cluster.placement, &self.cluster.metadata);
        let begun = placement.begin_set_lifecycle(name, lifecycle, deadline).await.map_err(error::of_placement)?;
        let Some(setting) = begun.setting else { return Ok(begun.set) };
        let attempt = begun.bucket.attempt;
        waypoint("lifecycle-begun").await;
        let everywhere = metadata.set_lifecycle(&reference(&begun.bucket), attempt, &setting, deadline).await;
        everywhere.map_err(|error| half_done(&error))?;
        waypoint("lifecycle-set-everywhere").await;
        placement.finish_set_lifecycle(name, attempt, deadline).await.map_err(|error| half_done(&error))?;
        Ok(setting)
    }
}

/// Some partitions may have it: whatever stopped it, a refusal that says that nothing was done would be a lie.
fn half_done(error: &dyn std::error::Error) -> S3Error {
    runtime::probe!("lifecycle-left-half-done");
    tracing::warn!(%error, "a setting of a lifecycle was left half done");
    s3_error!(ServiceUnavailable, "It is not known whether the lifecycle was set for all keys. Set it again.")
}
