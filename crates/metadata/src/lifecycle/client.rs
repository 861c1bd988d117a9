//! What walks over partitions ask of them.
//!
//! Without sessions: a mark is true for good, and a step names the cursor before it, so that one which arrives twice changes
//! nothing the second time.

use bytes::Bytes;
use protocol::{BucketId, GroupId, Revision, wire};
use runtime::time::Instant;
use serde::de::DeserializeOwned;

use crate::client::{answer_of, reading_of};
use crate::commands::{Command, Query};
use crate::{Ahead, Cursor, Error, Expired};

/// Walks over partitions for the lifecycles of their buckets; cheap to clone.
#[derive(Clone)]
pub struct Walks {
    groups: consensus::Client,
}

impl Walks {
    pub fn new(groups: consensus::Client) -> Walks {
        Walks { groups }
    }

    /// Buckets of a partition behind `after` that have a lifecycle, with where their walks are; none: there are no more.
    /// And the last revision of the partition: what [`Walks::mark_age`] speaks of.
    pub async fn lifecycles(
        &self,
        partition: GroupId,
        after: Option<BucketId>,
        deadline: Instant,
    ) -> Result<(Vec<(BucketId, Cursor)>, Revision), Error> {
        self.ask(partition, &Query::Lifecycles { after }, deadline).await
    }

    /// Note that what has a revision up to this one was made when cluster time was no later than `now_ms`: a reading of it that
    /// began after the revision was told.
    pub async fn mark_age(&self, partition: GroupId, revision: Revision, now_ms: u64, deadline: Instant) -> Result<(), Error> {
        self.command(partition, &Command::MarkAge { revision, now_ms }, deadline).await
    }

    /// Look for what is due at `now_ms` of cluster time, from the row `at` on.
    pub async fn ahead(&self, partition: GroupId, bucket: BucketId, at: Vec<u8>, now_ms: u64, deadline: Instant) -> Result<Ahead, Error> {
        Ok(self.ask(partition, &Query::Ahead { bucket, at, now_ms }, deadline).await?.0)
    }

    /// Remove what is due at `now_ms` of cluster time from the row `at` on, some hundreds of rows at most.
    /// [`Error::StaleAttempt`]: the walk is not at `from` any more.
    pub async fn expire(
        &self,
        partition: GroupId,
        bucket: BucketId,
        from: Cursor,
        at: Vec<u8>,
        now_ms: u64,
        deadline: Instant,
    ) -> Result<Expired, Error> {
        self.command(partition, &Command::Expire { bucket, from, at, now_ms }, deadline).await
    }

    async fn command<T: DeserializeOwned>(&self, partition: GroupId, command: &Command, deadline: Instant) -> Result<T, Error> {
        answer_of(self.groups.propose(partition, None, Bytes::from(wire::encode(command)), deadline).await)?.result
    }

    async fn ask<T: DeserializeOwned>(&self, partition: GroupId, query: &Query, deadline: Instant) -> Result<(T, Revision), Error> {
        reading_of(self.groups.read(partition, Bytes::from(wire::encode(query)), deadline).await)
    }
}
