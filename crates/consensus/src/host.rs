//! The replicas of one node: for each drive a shared log and the replicas that live on it.

use crate::StateMachine;
use protocol::{DriveId, GroupId, NodeId, ReplicaId};
use runtime::disk::Disk;
use runtime::rpc::Rpc;
use std::sync::Arc;

/// Where one replica lives, by the static bootstrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaPlace {
    pub replica: ReplicaId,
    pub node: NodeId,
    pub drive: DriveId,
}

/// A group and its first voters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    pub group: GroupId,
    pub voters: Vec<ReplicaPlace>,
}

/// All replicas of this node, running.
pub struct Host {
    _todo: (),
}

/// What stopped a host or one of its drives from opening.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Disk(#[from] runtime::disk::Error),
    /// Bytes on the drive are damaged where they had been durable.
    #[error("{drive}: {what} is damaged: {detail}")]
    Damaged { drive: String, what: String, detail: String },
}

/// State of one replica, for status pages and for the simulator's checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub drive: DriveId,
    pub term: u64,
    pub leader: Option<ReplicaId>,
    pub applied: u64,
    pub committed: u64,
    /// Rolling hash over every row written, comparable between replicas at the same `applied` (I9).
    pub state_hash: u64,
}

impl Host {
    /// Open (first start: create) the replicas of `groups` that live on `drives`, recover them, register the
    /// consensus methods (service 2) with `rpc`, and run. A drive that cannot be opened is left out with its
    /// replicas and reported in the second result; the host runs with the others.
    pub async fn open(
        rpc: Rpc,
        drives: Vec<(DriveId, Arc<dyn Disk>)>,
        groups: Vec<GroupSpec>,
        machine: impl Fn(GroupId) -> Arc<dyn StateMachine> + Send + Sync + 'static,
    ) -> (Host, Vec<(DriveId, Error)>) {
        let _ = (rpc, drives, groups, &machine);
        todo!()
    }

    /// A client for all groups known to this node.
    pub fn client(&self) -> crate::Client {
        todo!()
    }

    /// Whether a replica of this node leads `group`, and the term in which it does.
    pub fn leads(&self, group: GroupId) -> Option<u64> {
        let _ = group;
        todo!()
    }

    /// All replicas of this node.
    pub fn status(&self) -> Vec<ReplicaStatus> {
        todo!()
    }

    /// Hand leadership away where possible, checkpoint every replica, and stop.
    pub async fn shut_down(self) {
        todo!()
    }
}
