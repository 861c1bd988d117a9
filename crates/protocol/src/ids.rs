//! Ids. Numbers that could be confused have types; none is ever reused.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id!(
    /// A process of the cluster; given by the static bootstrap configuration.
    NodeId(u64)
);
id!(
    /// A drive. At bootstrap `node << 16 | ordinal of the folder in the configuration`; written in its superblock.
    DriveId(u64)
);
id!(
    /// A Raft group. 0 is the root group, partitions follow from 1.
    GroupId(u64)
);
id!(
    /// One replica of one group: the Raft id. Never reused, not even after the replica's drive is lost.
    ReplicaId(u64)
);
id!(
    /// A volume: n slots on n drives.
    VolumeId(u64)
);
id!(
    /// Index of a slot in its volume, 0..n; shard i of every stripe lies in slot i.
    SlotIndex(u8)
);
id!(
    /// Number of a volume's layout. Raised by the root group, made durable by every slot before it answers.
    Epoch(u64)
);
id!(
    /// Number of a rewriting of all slots of a volume. Decoding never mixes generations.
    Generation(u32)
);
id!(
    /// Given by the root group to each start of a gateway.
    WriterId(u64)
);
id!(
    /// Incarnation of a bucket: a bucket deleted and created again has another one.
    BucketId(u64)
);
id!(
    /// A multipart upload; made from a [`CommandId`], so unique. Shown to S3 clients as 32 hex digits.
    UploadId(u128)
);
id!(
    /// Order of versions: a counter in the partition's state, never a clock.
    Revision(u64)
);

/// The root group.
pub const ROOT: GroupId = GroupId(0);

impl DriveId {
    /// The id that the static bootstrap gives to the `ordinal`-th folder of `node`.
    pub fn at_bootstrap(node: NodeId, ordinal: u16) -> DriveId {
        DriveId(node.0 << 16 | u64::from(ordinal))
    }
}

/// Identity of a cluster: random, made once, in every superblock and every connection's first frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// A blob: (writer, counter). The counter starts at 1 in each writer and is shared with nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct BlobId {
    pub writer: WriterId,
    pub counter: u64,
}

/// A command to a Raft group: (writer, counter), counted per group and writer from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CommandId {
    pub writer: WriterId,
    pub counter: u64,
}

/// The one row that names a blob: bucket incarnation and key hash, never a partition number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Home {
    pub bucket: BucketId,
    pub key_hash: u64,
}

impl Home {
    /// The home of `key` in the bucket incarnation `bucket`.
    pub fn of(bucket: BucketId, key: &str) -> Home {
        Home { bucket, key_hash: key_hash(bucket, key) }
    }
}

/// CRC-64/NVME over the incarnation (big endian) and the key. Chooses a partition among those of a bucket;
/// stable for ever, as it stands in every shard header.
pub fn key_hash(bucket: BucketId, key: &str) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(&bucket.0.to_be_bytes());
    digest.update(key.as_bytes());
    digest.finalize()
}
