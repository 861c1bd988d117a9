//! What is set for buckets and steers no write.

use super::Client;
use crate::Error;
use crate::commands::{Command, Query, Reply};
use crate::service::unexpected;
use runtime::time::Instant;

impl Client {
    /// Set the tags of a live bucket in place of those that it has; none removes them. Sorted by their keys, each key once.
    pub async fn set_bucket_tags(&self, name: &str, tags: Vec<(String, String)>, deadline: Instant) -> Result<(), Error> {
        match self.command(Command::SetBucketTags { name: name.to_string(), tags }, deadline).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The tags of a bucket, linearizable, sorted by their keys.
    pub async fn bucket_tags(&self, name: &str, deadline: Instant) -> Result<Vec<(String, String)>, Error> {
        match self.query(Query::BucketTags { name: name.to_string() }, deadline).await? {
            Reply::Tags(tags) => Ok(tags),
            other => Err(unexpected(&other)),
        }
    }
}
