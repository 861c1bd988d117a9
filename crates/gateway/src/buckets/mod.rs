//! What is done to a bucket in several steps: it is created, deleted, its versioning or its lifecycle is set.
//!
//! Each runs under an attempt number of the root group, one at a time (I10): partitions are opened before the bucket is live, closed and
//! proved empty before it is removed, and all have a setting before it is acknowledged. Each is a task of its own: a client that hangs up
//! leaves nothing half done. What a gateway leaves so, as it ends or gives up, any gateway ends, see [`abandoned`].

mod abandoned;
mod creation;
mod deletion;
mod setting;

use crate::{Cluster, error};
use metadata::BucketRef;
use placement::Bucket;
use protocol::limits::PUT_WAIT;
use protocol::{Lifecycle, Versioning};
use runtime::sync::oneshot;
use runtime::task::{Task, TaskSet};
use runtime::time::Instant;
use s3s::{S3Error, S3Result, s3_error};

/// Most that clients have under way at a time, those who hung up included.
const UNDER_WAY_MAX: usize = 256;

/// See the head of this file. What is under way ends with it.
pub(crate) struct Buckets {
    steps: Steps,
    under_way: TaskSet,
    _abandoned: Task<()>,
}

/// The steps themselves, which end with who awaits them.
#[derive(Clone)]
struct Steps {
    placement: placement::Client,
    metadata: metadata::Client,
}

impl Buckets {
    pub fn new(cluster: &Cluster) -> Buckets {
        let steps = Steps { placement: cluster.placement.clone(), metadata: cluster.metadata.clone() };
        let _abandoned = runtime::task::spawn(abandoned::end_all(steps.clone()));
        Buckets { steps, under_way: TaskSet::new(UNDER_WAY_MAX), _abandoned }
    }

    /// Create a bucket that is not there.
    pub async fn create(&self, name: &str, owner: &str) -> S3Result<()> {
        let (steps, name, owner) = (self.steps.clone(), name.to_owned(), owner.to_owned());
        self.to_the_end(async move { steps.create(&name, &owner).await }).await
    }

    /// Delete an empty bucket.
    pub async fn delete(&self, name: &str) -> S3Result<()> {
        let (steps, name) = (self.steps.clone(), name.to_owned());
        self.to_the_end(async move { steps.delete(&name).await }).await
    }

    /// Set `versioning`, or with `None` finish the setting that is under way; what is set then.
    pub async fn set_versioning(&self, name: &str, versioning: Option<Versioning>) -> S3Result<Versioning> {
        let (steps, name) = (self.steps.clone(), name.to_owned());
        self.to_the_end(async move { steps.set_versioning(&name, versioning, soon()).await }).await
    }

    /// Set `lifecycle`, or with `None` finish the setting that is under way; what is set then.
    pub async fn set_lifecycle(&self, name: &str, lifecycle: Option<Lifecycle>) -> S3Result<Lifecycle> {
        let (steps, name) = (self.steps.clone(), name.to_owned());
        self.to_the_end(async move { steps.set_lifecycle(&name, lifecycle, soon()).await }).await
    }

    /// Do `work`, whether or not the caller waits for its end.
    async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = S3Result<T>> + Send + 'static) -> S3Result<T> {
        let (answer, answered) = oneshot::channel();
        let started = self.under_way.spawn(async move {
            if answer.send(work.await).is_err() {
                runtime::probe!("bucket-steps-outlived-their-client");
            }
        });
        if !started {
            return Err(error::slow_down());
        }
        answered.await.unwrap_or_else(|_| Err(s3_error!(InternalError, "We encountered an internal error. Please try again.")))
    }
}

/// Of a request that is half done by then: a 503 must not say that nothing was changed.
fn half_done(error: S3Error, what: &str) -> S3Error {
    if !is_unavailable(&error) {
        return error;
    }
    runtime::probe!("bucket-steps-left-half-done");
    tracing::warn!(%error, what, "left half done, for now");
    unknown(what)
}

fn unknown(what: &str) -> S3Error {
    s3_error!(ServiceUnavailable, "It is not known whether {what}. Look before you repeat it.")
}

fn is_unavailable(error: &S3Error) -> bool {
    error.status_code() == Some(http::StatusCode::SERVICE_UNAVAILABLE)
}

/// What the partitions know of the bucket.
pub(crate) fn reference(bucket: &Bucket) -> BucketRef {
    BucketRef { id: bucket.id, partitions: bucket.partitions.clone() }
}

/// The deadline of a request that carries no body.
pub(crate) fn soon() -> Instant {
    runtime::time::now() + PUT_WAIT
}
