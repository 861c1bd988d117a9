//! Schemes, volumes and their slots.

use crate::ids::{BlobId, DriveId, Epoch, Generation, NodeId, SlotIndex, VolumeId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a blob is made redundant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// k data shards and m parity shards of a Reed-Solomon code; any k restore the blob.
    ReedSolomon { k: u8, m: u8 },
    /// n whole copies.
    Replicas { n: u8 },
}

impl Scheme {
    /// Data shards: the fewest shards from which a blob can be read.
    pub fn data(self) -> usize {
        match self {
            Scheme::ReedSolomon { k, .. } => usize::from(k),
            Scheme::Replicas { .. } => 1,
        }
    }

    /// All shards of a blob: the slots of a volume.
    pub fn total(self) -> usize {
        match self {
            Scheme::ReedSolomon { k, m } => usize::from(k) + usize::from(m),
            Scheme::Replicas { n } => usize::from(n),
        }
    }

    /// Shards that may be lost.
    pub fn parity(self) -> usize {
        self.total() - self.data()
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scheme::ReedSolomon { k, m } => write!(f, "rs({k},{m})"),
            Scheme::Replicas { n } => write!(f, "replicas({n})"),
        }
    }
}

impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a scheme.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{0}` is not a scheme: expected rs(k,m) with k, m >= 1 and k + m <= 32, or replicas(n) with 1 <= n <= 32")]
pub struct NotAScheme(String);

impl FromStr for Scheme {
    type Err = NotAScheme;

    fn from_str(text: &str) -> Result<Scheme, NotAScheme> {
        let fail = || NotAScheme(text.to_string());
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let inside = |prefix: &str| compact.strip_prefix(prefix)?.strip_suffix(')').map(str::to_string);
        let scheme = if let Some(arguments) = inside("rs(") {
            let (k, m) = arguments.split_once(',').ok_or_else(fail)?;
            let (k, m) = (k.parse().map_err(|_| fail())?, m.parse().map_err(|_| fail())?);
            Scheme::ReedSolomon { k, m }
        } else if let Some(n) = inside("replicas(") {
            Scheme::Replicas { n: n.parse().map_err(|_| fail())? }
        } else {
            return Err(fail());
        };
        let sound = match scheme {
            Scheme::ReedSolomon { k, m } => k >= 1 && m >= 1 && usize::from(k) + usize::from(m) <= crate::limits::SLOTS_MAX,
            Scheme::Replicas { n } => n >= 1 && usize::from(n) <= crate::limits::SLOTS_MAX,
        };
        if sound { Ok(scheme) } else { Err(fail()) }
    }
}

/// Where one slot of a volume lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotPlace {
    pub node: NodeId,
    pub drive: DriveId,
}

/// State of a volume in the root group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VolumeState {
    /// The root chose the drives; not every slot is known to be durable yet. Takes no blobs.
    Building,
    /// Takes blobs.
    Open,
    /// Takes no more blobs; `epoch` was raised when it was sealed.
    Sealed,
}

/// n slots on n drives; the one level of indirection between records and drives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Volume {
    pub id: VolumeId,
    pub scheme: Scheme,
    pub epoch: Epoch,
    pub generation: Generation,
    pub state: VolumeState,
    /// Slot i lies at `slots[i]`; `scheme.total()` of them.
    pub slots: Vec<SlotPlace>,
    /// The layout does not survive the loss of the widest domain that its class promises (an AZ is out).
    pub at_risk: bool,
}

/// One slot of one generation of a volume: what a slot file is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SlotAddress {
    pub volume: VolumeId,
    pub generation: Generation,
    pub slot: SlotIndex,
}

/// A shard: one blob's bytes in one slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ShardAddress {
    pub at: SlotAddress,
    pub blob: BlobId,
}

/// What every shard of a blob carries besides its own bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardHeader {
    pub home: crate::ids::Home,
    pub scheme: Scheme,
    /// Bytes of the whole blob.
    pub blob_bytes: u32,
    /// CRC-64/NVME of the whole blob.
    pub blob_checksum: u64,
    /// CRC-64/NVME of each of the n shards, so that a rebuilt shard can be compared with what the writer signed.
    pub shard_checksums: Vec<u64>,
}
