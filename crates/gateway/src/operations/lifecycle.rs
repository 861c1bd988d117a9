//! Lifecycle of a bucket: PutBucketLifecycleConfiguration, GetBucketLifecycleConfiguration, DeleteBucketLifecycle.
//!
//! After a DeleteBucketLifecycle that was acknowledged nothing expires any more.

use super::{Operations, soon};
use crate::{error, lifecycle};
use protocol::Lifecycle;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

impl Operations {
    pub(super) async fn put_bucket_lifecycle_configuration(
        &self,
        req: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let input = req.input;
        let rules = input.lifecycle_configuration.map(|configuration| configuration.rules).unwrap_or_default();
        let lifecycle = lifecycle::of_document(rules, self.day_ms, || format!("{:016x}", runtime::entropy::u64()))?;
        self.buckets.set_lifecycle(&input.bucket, Some(lifecycle)).await?;
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
    }

    pub(super) async fn delete_bucket_lifecycle(
        &self,
        req: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
        self.buckets.set_lifecycle(&req.input.bucket, Some(Lifecycle::default())).await?;
        Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
    }

    pub(super) async fn get_bucket_lifecycle_configuration(
        &self,
        req: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let name = req.input.bucket;
        let known = self.cluster.placement.bucket_lifecycle(&name, soon()).await.map_err(error::of_placement)?;
        let lifecycle = match known.setting {
            None => known.set,
            // Some partitions may have it and others not: neither answer would be true before all have it.
            Some(_) => self.buckets.set_lifecycle(&name, None).await?,
        };
        if lifecycle.rules.is_empty() {
            return Err(s3_error!(NoSuchLifecycleConfiguration, "The lifecycle configuration does not exist"));
        }
        let rules = Some(lifecycle::to_document(lifecycle));
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput { rules, ..GetBucketLifecycleConfigurationOutput::default() }))
    }
}
