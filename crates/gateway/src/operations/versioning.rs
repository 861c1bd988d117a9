//! Versioning of a bucket: PutBucketVersioning, GetBucketVersioning.
//!
//! A setting runs under an attempt number of the root group, one at a time, and reaches every partition before it is
//! acknowledged: from then on each write is judged by it, whatever its gateway knows. One that is left half done is
//! finished by whoever looks at it, or replaced by the next one.

use super::{Operations, not_implemented, reference, soon};
use crate::error;
use protocol::Versioning;
use runtime::probe::waypoint;
use runtime::time::Instant;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

impl Operations {
    pub(super) async fn put_bucket_versioning(
        &self,
        req: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let input = req.input;
        let configuration = input.versioning_configuration;
        match configuration.mfa_delete.as_ref().map(MFADelete::as_str) {
            None | Some(MFADelete::DISABLED) => {}
            Some(_) => return Err(not_implemented("MfaDelete")),
        }
        let versioning = match configuration.status.as_ref().map(BucketVersioningStatus::as_str) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            _ => {
                return Err(s3_error!(
                    IllegalVersioningConfigurationException,
                    "The Versioning element must be specified, with the Status Enabled or Suspended."
                ));
            }
        };
        self.set_versioning(&input.bucket, Some(versioning), soon()).await?;
        Ok(S3Response::new(PutBucketVersioningOutput::default()))
    }

    pub(super) async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let (name, deadline) = (req.input.bucket, soon());
        let bucket = self.present_bucket(&name, deadline).await?;
        let versioning = match bucket.setting {
            None => bucket.versioning,
            // Some partitions may have it and others not: neither answer would be true before all have it.
            Some(_) => self.set_versioning(&name, None, deadline).await?,
        };
        let status = match versioning {
            Versioning::Unversioned => None,
            Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
            Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
        };
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() }))
    }

    /// One attempt to set `versioning`, or to finish the setting that is under way. It is not made again under another
    /// attempt: a setting that was overtaken must not come back after the one that overtook it.
    async fn set_versioning(&self, name: &str, versioning: Option<Versioning>, deadline: Instant) -> S3Result<Versioning> {
        let (placement, metadata) = (&self.cluster.placement, &self.cluster.metadata);
        let begun = placement.begin_set_versioning(name, versioning, deadline).await.map_err(error::of_placement)?;
        let Some(setting) = begun.setting else { return Ok(begun.versioning) };
        waypoint("versioning-begun").await;
        let everywhere = metadata.set_versioning(&reference(&begun), begun.attempt, setting, deadline).await;
        everywhere.map_err(|error| half_done(&error))?;
        waypoint("versioning-set-everywhere").await;
        placement.finish_set_versioning(name, begun.attempt, deadline).await.map_err(|error| half_done(&error))?;
        Ok(setting)
    }
}

/// Some partitions may have it: whatever stopped it, a refusal that says that nothing was done would be a lie.
fn half_done(error: &dyn std::error::Error) -> S3Error {
    runtime::probe!("versioning-left-half-done");
    tracing::warn!(%error, "a setting of versioning was left half done");
    s3_error!(ServiceUnavailable, "It is not known whether versioning was set for all keys. Set it again.")
}
