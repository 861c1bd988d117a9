#![doc = include_str!("../README.md")]

pub mod allocator;
mod cache;
pub mod changes;
pub mod client;
pub mod commands;
pub mod durability;
mod leader;
pub mod open_volumes;
mod pushing;
mod replacing;
pub mod replicas;
pub mod root;
pub mod scheme_choice;
pub mod service;
pub mod watch;

pub use allocator::Allocator;
pub use changes::Changes;
pub use client::Client;
pub use client::IDENTITY_AGE_MAX;
pub use durability::{Durability, default_scheme, describe, durability};
pub use replicas::{place_replicas, replacement};
pub use root::Root;
pub use root::groups::{Group, Replacing};
pub use root::identities::Identity;
pub use service::Service;

use protocol::{BucketId, ClusterMap, DriveId, GroupId, Lifecycle, NodeId, ReplicaId, Scheme, Versioning};
use serde::{Deserialize, Serialize};

/// What the cluster is at its first start; every root voter derives the same from the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bootstrap {
    pub map: ClusterMap,
    /// All partitions.
    pub partitions: Vec<GroupId>,
    /// The scheme of the class STANDARD.
    pub scheme: Scheme,
    /// Accept a scheme that does not survive the loss of the widest domain with a spare.
    pub best_effort: bool,
    /// What clients sign for, at every gateway.
    pub region: String,
}

/// Life of a bucket in the root group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BucketState {
    /// Not every partition is known to have opened it. Invisible to readers; CreateBucket by anyone goes on with it.
    Creating,
    Live,
    /// A DeleteBucket is under way (or died on its way): the next attempt goes on or reopens.
    Deleting,
}

/// A bucket in the root group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bucket {
    pub name: String,
    pub id: BucketId,
    pub owner: String,
    pub created_ms: u64,
    pub state: BucketState,
    /// Rises with every creation, deletion, reopening or setting of versioning or of a lifecycle; commands under a smaller one change
    /// nothing.
    pub attempt: u64,
    /// Where its keys are.
    pub partitions: Vec<GroupId>,
    /// As it was last set in every partition. Partitions judge by their own rows, never by this.
    pub versioning: Versioning,
    /// What it is being set to: some partitions may have it already. Whoever meets it goes on with it or with another.
    pub setting: Option<Versioning>,
}

/// The lifecycle of a bucket in the root group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BucketLifecycle {
    pub bucket: Bucket,
    /// As it was last set in every partition; without rules: the bucket has none.
    pub set: Lifecycle,
    /// What it is being set to: some partitions may have it already. Whoever meets it goes on with it or with another.
    pub setting: Option<Lifecycle>,
}

/// Why the root group did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    #[error("bucket exists")]
    BucketExists { owner: String },
    #[error("no such bucket")]
    NoSuchBucket,
    /// The root group holds as many buckets as it may; delete one first.
    #[error("{limit} buckets exist, which is the limit")]
    TooManyBuckets { limit: u64 },
    /// Another attempt at this bucket began since (I11).
    #[error("stale attempt")]
    StaleAttempt,
    /// No volume can be placed: which drives to bring back, by name, for people.
    #[error("cannot place a volume of {scheme}: {missing}")]
    CannotPlace { scheme: Scheme, missing: String },
    #[error("no such volume")]
    NoSuchVolume,
    /// The request contradicts the state: it will be refused again until something else changes.
    #[error("refused: {0}")]
    Refused(String),
    /// A newer or broken peer sent it.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Certainly not done; the root group had no leader or no quorum in time.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// May have been done, or may yet be.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Certainly not done: shed for load.
    #[error("busy")]
    Busy,
    #[error("no such identity")]
    NoSuchIdentity,
    /// The root group holds as many identities as it may; remove one first.
    #[error("{limit} identities exist, which is the limit")]
    TooManyIdentities { limit: u64 },
}

/// What a node tells the root's leader with each heartbeat.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub node: NodeId,
    /// Random per process start.
    pub incarnation: u64,
    pub drives: Vec<DriveHealth>,
    /// What its clock shows, in milliseconds since 1970: one voice of many for cluster time, if it is a root voter's.
    pub clock_ms: u64,
    /// Replicas on it that nothing heals, so that others have to take their places; at most [`TO_BE_REPLACED_MAX`].
    pub to_be_replaced: Vec<(GroupId, ReplicaId)>,
    /// Groups of replicas that run on it that were founded anew, and their eras ([`consensus::Members::era`]); at most [`REFOUNDED_MAX`].
    pub refounded: Vec<(GroupId, u64)>,
}

/// Most groups of a node of which one heartbeat says that they were founded anew: as many as there can be.
pub const REFOUNDED_MAX: usize = 1025;

/// Most replicas of a node that one heartbeat names as to be replaced: the others follow when these are.
pub const TO_BE_REPLACED_MAX: usize = 256;

/// One drive of a heartbeat.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DriveHealth {
    pub drive: DriveId,
    /// Why it takes nothing, if it does not.
    pub closed: Option<String>,
    /// The log of its replicas is damaged, or what drives them has failed: none of those that it had runs, or may be counted on to run
    /// again, and none can be made. Its slots serve.
    pub without_replicas: bool,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// Health as the root's leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    pub suspected_nodes: Vec<NodeId>,
    pub closed_drives: Vec<(DriveId, String)>,
    /// Cluster time stands, and nothing expires: the clocks of no majority of the root voters are heard and agree.
    pub cluster_time_held: bool,
    pub volumes_open: u64,
    pub volumes_sealed: u64,
    pub volumes_at_risk: u64,
}
