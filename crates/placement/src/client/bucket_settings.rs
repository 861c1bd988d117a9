//! What is set for buckets and steers no write.

use super::Client;
use crate::commands::{Command, Query, Reply};
use crate::service::{applied_somehow, unexpected};
use crate::{BucketLifecycle, Error};
use protocol::Lifecycle;
use runtime::time::Instant;

impl Client {
    /// Set the tags of a live bucket in place of those that it has; none removes them. Sorted by their keys, each key once.
    pub async fn set_bucket_tags(&self, name: &str, tags: Vec<(String, String)>, deadline: Instant) -> Result<(), Error> {
        match self.command(Command::SetBucketTags { name: name.to_string(), tags }, deadline).await? {
            (_, Reply::Done) => Ok(()),
            (_, other) => Err(applied_somehow(&other)),
        }
    }

    /// The tags of a bucket, linearizable, sorted by their keys.
    pub async fn bucket_tags(&self, name: &str, deadline: Instant) -> Result<Vec<(String, String)>, Error> {
        match self.query(Query::BucketTags { name: name.to_string() }, deadline).await? {
            (_, Reply::Tags(tags)) => Ok(tags),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Begin to set the lifecycle of a live bucket under a new attempt, one without rules to have none; `None`: go on with what
    /// is under way. If nothing is, the answer has nothing to set.
    pub async fn begin_set_lifecycle(&self, name: &str, lifecycle: Option<Lifecycle>, deadline: Instant) -> Result<BucketLifecycle, Error> {
        let begun = self.command(Command::BeginSetLifecycle { name: name.to_string(), lifecycle }, deadline).await;
        self.forget_bucket(name);
        lifecycle_of(begun?.1)
    }

    /// Every partition has the lifecycle under `attempt`: it is the bucket's.
    pub async fn finish_set_lifecycle(&self, name: &str, attempt: u64, deadline: Instant) -> Result<(), Error> {
        self.done(name, Command::FinishSetLifecycle { name: name.to_string(), attempt }, deadline).await
    }

    /// The lifecycle of a bucket, linearizable.
    pub async fn bucket_lifecycle(&self, name: &str, deadline: Instant) -> Result<BucketLifecycle, Error> {
        lifecycle_of(self.query(Query::BucketLifecycle { name: name.to_string() }, deadline).await?.1)
    }
}

fn lifecycle_of(reply: Reply) -> Result<BucketLifecycle, Error> {
    match reply {
        Reply::Lifecycle(lifecycle) => Ok(*lifecycle),
        other => Err(unexpected(&other)),
    }
}
