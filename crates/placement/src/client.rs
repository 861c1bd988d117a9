//! Client of the placement service: cached map, buckets and volumes; heartbeats.

use crate::{Bucket, Error, Health, Heartbeat};
use protocol::{ClusterMap, DriveId, NodeId, SlotIndex, Volume, VolumeId, WriterId};
use runtime::rpc::Rpc;
use runtime::time::Instant;
use std::sync::Arc;

/// Talks to the root group; cheap to clone. Caches are safe to be stale: what they lead to is fenced.
#[derive(Clone)]
pub struct Client {
    _todo: (),
}

impl Client {
    /// `root_nodes` hold the root group's replicas.
    pub fn new(rpc: Rpc, groups: consensus::Client, root_nodes: Vec<NodeId>) -> Client {
        let _ = (rpc, groups, root_nodes);
        todo!()
    }

    /// A writer id for this start of a gateway. Retries until `deadline`; an id whose reply is lost is burned.
    pub async fn open_writer(&self, deadline: Instant) -> Result<WriterId, Error> {
        let _ = deadline;
        todo!()
    }

    /// Send heartbeats of `pulse` every [`protocol::limits::HEARTBEAT`] until the task is dropped.
    pub fn heartbeat(&self, pulse: impl Fn() -> Heartbeat + Send + Sync + 'static) -> runtime::task::Task<()> {
        let _ = pulse;
        todo!()
    }

    /// The cluster map, at most a few seconds old.
    pub async fn map(&self, deadline: Instant) -> Result<Arc<ClusterMap>, Error> {
        let _ = deadline;
        todo!()
    }

    /// Begin or go on with the creation of `name`: state Creating under a new attempt. Fails with
    /// [`Error::BucketExists`] if it is live.
    pub async fn begin_create_bucket(&self, name: &str, owner: &str, created_ms: u64, deadline: Instant) -> Result<Bucket, Error> {
        let _ = (name, owner, created_ms, deadline);
        todo!()
    }

    /// Every partition opened it under `attempt`: make it live.
    pub async fn finish_create_bucket(&self, name: &str, attempt: u64, deadline: Instant) -> Result<(), Error> {
        let _ = (name, attempt, deadline);
        todo!()
    }

    /// Begin a deletion under a new attempt: state Deleting.
    pub async fn begin_delete_bucket(&self, name: &str, deadline: Instant) -> Result<Bucket, Error> {
        let _ = (name, deadline);
        todo!()
    }

    /// Every partition is closed and empty under `attempt`: remove the bucket (`removed`), or it is not empty and
    /// was reopened everywhere: make it live again.
    pub async fn finish_delete_bucket(&self, name: &str, attempt: u64, removed: bool, deadline: Instant) -> Result<(), Error> {
        let _ = (name, attempt, removed, deadline);
        todo!()
    }

    /// The bucket, possibly cached (partitions refuse incarnations that they do not hold open); absence and
    /// states other than Live are always asked of the root, linearizably.
    pub async fn bucket(&self, name: &str, deadline: Instant) -> Result<Arc<Bucket>, Error> {
        let _ = (name, deadline);
        todo!()
    }

    /// Forget the cached bucket: a partition said that it is not open.
    pub fn forget_bucket(&self, name: &str) {
        let _ = name;
        todo!()
    }

    /// Live buckets with names after `after` in order, at most `max`; linearizable.
    pub async fn list_buckets(&self, after: &str, max: u32, deadline: Instant) -> Result<Vec<Bucket>, Error> {
        let _ = (after, max, deadline);
        todo!()
    }

    /// An open volume of class STANDARD that uses none of `avoid` and no suspected node or closed drive; chosen
    /// among the open ones, or a new one: then in state Building, whose slots the caller creates before
    /// [`volume_built`](Self::volume_built).
    pub async fn volume_for_writing(&self, avoid: &[DriveId], deadline: Instant) -> Result<Arc<Volume>, Error> {
        let _ = (avoid, deadline);
        todo!()
    }

    /// Every slot of the volume exists durably: it may open.
    pub async fn volume_built(&self, volume: VolumeId, deadline: Instant) -> Result<Arc<Volume>, Error> {
        let _ = (volume, deadline);
        todo!()
    }

    /// The layout of a volume, possibly cached.
    pub async fn volume(&self, volume: VolumeId, deadline: Instant) -> Result<Arc<Volume>, Error> {
        let _ = (volume, deadline);
        todo!()
    }

    /// Forget the cached layout and fetch it again.
    pub async fn refresh_volume(&self, volume: VolumeId, deadline: Instant) -> Result<Arc<Volume>, Error> {
        let _ = (volume, deadline);
        todo!()
    }

    /// A slot failed for good (drive closed, shard refused as sealed or full): the root seals the volume under a
    /// raised epoch. The caller does not wait for it.
    pub fn report_slot(&self, volume: VolumeId, slot: SlotIndex, reason: &str) {
        let _ = (volume, slot, reason);
        todo!()
    }

    /// A node could not be reached: counts at once as a suspicion until its next heartbeat.
    pub fn report_unreachable(&self, node: NodeId) {
        let _ = node;
        todo!()
    }

    /// Health as the root's leader sees it.
    pub async fn health(&self, deadline: Instant) -> Result<Health, Error> {
        let _ = deadline;
        todo!()
    }
}
