//! PutBucketVersioning, PutBucketLifecycleConfiguration, DeleteBucketLifecycle: a setting reaches every partition before it is
//! acknowledged. From then on each write, and what expires, is judged by it, whatever its gateway knows.
//!
//! One attempt is made, and not again under another one: a setting that was overtaken must not come back after the one that overtook it.

use super::{Steps, reference};
use crate::error;
use protocol::{Lifecycle, Versioning};
use runtime::probe::waypoint;
use runtime::time::Instant;
use s3s::{S3Error, S3Result, s3_error};

impl Steps {
    pub(super) async fn set_versioning(&self, name: &str, versioning: Option<Versioning>, deadline: Instant) -> S3Result<Versioning> {
        let begun = self.placement.begin_set_versioning(name, versioning, deadline).await.map_err(error::of_placement)?;
        let Some(setting) = begun.setting else { return Ok(begun.versioning) };
        waypoint("versioning-begun").await;
        let everywhere = self.metadata.set_versioning(&reference(&begun), begun.attempt, setting, deadline).await;
        everywhere.map_err(|error| half_set(&error, "versioning"))?;
        waypoint("versioning-set-everywhere").await;
        let finished = self.placement.finish_set_versioning(name, begun.attempt, deadline).await;
        finished.map_err(|error| half_set(&error, "versioning"))?;
        Ok(setting)
    }

    pub(super) async fn set_lifecycle(&self, name: &str, lifecycle: Option<Lifecycle>, deadline: Instant) -> S3Result<Lifecycle> {
        let begun = self.placement.begin_set_lifecycle(name, lifecycle, deadline).await.map_err(error::of_placement)?;
        let Some(setting) = begun.setting else { return Ok(begun.set) };
        let attempt = begun.bucket.attempt;
        waypoint("lifecycle-begun").await;
        let everywhere = self.metadata.set_lifecycle(&reference(&begun.bucket), attempt, &setting, deadline).await;
        everywhere.map_err(|error| half_set(&error, "the lifecycle"))?;
        waypoint("lifecycle-set-everywhere").await;
        let finished = self.placement.finish_set_lifecycle(name, attempt, deadline).await;
        finished.map_err(|error| half_set(&error, "the lifecycle"))?;
        Ok(setting)
    }
}

/// Some partitions may have it: whatever stopped it, a refusal that says that nothing was done would be a lie.
fn half_set(error: &dyn std::error::Error, what: &str) -> S3Error {
    runtime::probe!("bucket-setting-left-half-done");
    tracing::warn!(%error, what, "a setting was left half done, for now");
    s3_error!(ServiceUnavailable, "It is not known whether {what} was set for all keys. Set it again.")
}
