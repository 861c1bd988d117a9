//! Commands to and queries of the root group, and its answers: what crosses the Raft log.
//!
//! Encoded by [`protocol::wire`]. A variant is never removed or moved, only appended: the log of an older build
//! must still mean the same.

use crate::root::bucket_settings::Tags;
use crate::root::groups::Group;
use crate::root::identities::{Identity, SALT_BYTES};
use crate::{Bootstrap, Bucket, BucketLifecycle, Error};
use consensus::Members;
use protocol::{DriveId, Epoch, GroupId, Lifecycle, NodeId, ReplicaId, Scheme, SlotPlace, Versioning, Volume, VolumeId, WriterId};
use serde::{Deserialize, Serialize};

/// What changes the root group's state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Found the cluster. Accepted once; the same again is accepted and changes nothing.
    Bootstrap(Bootstrap),
    /// A new writer id.
    OpenWriter,
    /// Enter or go on with state Creating, under a new attempt.
    BeginCreateBucket { name: String, owner: String, created_ms: u64 },
    /// Creating to Live, for the current attempt only.
    FinishCreateBucket { name: String, attempt: u64 },
    /// Live or Deleting to Deleting, under a new attempt.
    BeginDeleteBucket { name: String },
    /// Remove, or back to Live, for the current attempt only. Also removes what was never Live, which its creator left.
    FinishDeleteBucket { name: String, attempt: u64, removed: bool },
    /// A volume on drives that the leader chose; judged again inside the state machine.
    CreateVolume { scheme: Scheme, slots: Vec<SlotPlace>, at_risk: bool },
    /// Building to Open.
    VolumeBuilt { volume: VolumeId },
    /// Building or Open to Sealed under `epoch + 1`, if the volume is still at `epoch`.
    SealVolume { volume: VolumeId, epoch: Epoch },
    /// Begin to set the versioning of a live bucket, under a new attempt. `None`: go on with the setting that is under
    /// way, if there is one.
    BeginSetVersioning { name: String, versioning: Option<Versioning> },
    /// Every partition has it, for the current attempt only.
    FinishSetVersioning { name: String, attempt: u64 },
    /// What the clock of each root voter showed when it was last heard, in milliseconds since 1970.
    MarkTime { clocks: Vec<(ReplicaId, Option<u64>)> },
    /// A new replica on `drive` is to take the place of the voter `leaves`, or to vote beside the others, under a new attempt.
    BeginReplace { group: GroupId, leaves: Option<ReplicaId>, node: NodeId, drive: DriveId },
    /// The group has made the exchange, for the current attempt only.
    FinishReplace { group: GroupId, attempt: u64 },
    /// The group has refused the new replica for good, for the current attempt only.
    AbandonReplace { group: GroupId, attempt: u64 },
    /// The drive will not come back with what it held. For good.
    LoseDrive { drive: DriveId },
    /// Set the tags of a live bucket in place of those that it has.
    SetBucketTags { name: String, tags: Tags },
    /// Begin to set the lifecycle of a live bucket, one without rules to have none, under a new attempt. `None`: go on with
    /// what is under way, if anything is.
    BeginSetLifecycle { name: String, lifecycle: Option<Lifecycle> },
    /// Every partition has it, for the current attempt only.
    FinishSetLifecycle { name: String, attempt: u64 },
    /// A new identity. Whoever proposes it draws access key and salt.
    CreateIdentity { access_key: String, name: String, salt: [u8; SALT_BYTES] },
    /// The next generation of an identity, and with it another secret key.
    RotateIdentity { access_key: String, salt: [u8; SALT_BYTES] },
    /// Refuse what an identity signs, or take it again.
    SetIdentityEnabled { access_key: String, enabled: bool },
    /// For good.
    RemoveIdentity { access_key: String },
    /// What a group says of itself, which was founded anew, or of which the root group knows too little since it was itself.
    NoteMembers { members: Members },
    /// A former replica of a group that was founded anew has been told so.
    FormerTold { group: GroupId, replica: ReplicaId },
    /// Take over the creation, deletion or setting that stands under this attempt, to end it under a new one.
    TakeOverBucket { name: String, attempt: u64 },
}

/// What is asked without changing anything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Query {
    Bootstrap,
    Bucket {
        name: String,
    },
    /// Buckets that exist (Live or Deleting) with names after `after`, at most `max`.
    Buckets {
        after: String,
        max: u32,
    },
    Volume {
        volume: VolumeId,
    },
    /// All volumes that are Building or Open, and the counts of volumes.
    Unsealed,
    /// Cluster time.
    Time,
    /// Groups with ids from `from` on, at most `max`.
    Groups {
        from: GroupId,
        max: u32,
    },
    /// Drives that will not come back.
    LostDrives,
    /// The tags of a bucket that exists.
    BucketTags {
        name: String,
    },
    /// The lifecycle of a bucket that exists.
    BucketLifecycle {
        name: String,
    },
    /// All identities.
    Identities,
    /// Buckets that are being created, deleted or set, with names after `after`, at most 1000.
    UnfinishedBuckets {
        after: String,
    },
}

/// What a command or query came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Writer(WriterId),
    Bucket(Bucket),
    Buckets(Vec<Bucket>),
    Volume(Volume),
    /// None: the cluster was not founded yet.
    Bootstrap(Option<Bootstrap>),
    Unsealed(Unsealed),
    /// Milliseconds since 1970; 0 before the first mark.
    Time {
        now_ms: u64,
    },
    Group(Group),
    Groups(Vec<Group>),
    Drives(Vec<DriveId>),
    Tags(Tags),
    Lifecycle(Box<BucketLifecycle>),
    Identity(Identity),
    /// By access key.
    Identities(Vec<Identity>),
}

/// The volumes that may still change by writing, and how many there are of each kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Unsealed {
    pub volumes: Vec<Volume>,
    /// Volumes ever created; ids are 1 up to this.
    pub created: u64,
    pub sealed: u64,
    pub at_risk: u64,
}

/// The reply with the state's revision that it saw (for a command: the one it made).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub revision: u64,
    pub result: Result<Reply, Error>,
}
