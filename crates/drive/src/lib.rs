//! One drive: superblock, slots, catalog, recovery.

use protocol::{ClusterId, DriveId};
use runtime::disk::Disk;
use std::sync::Arc;

/// Who a drive says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    pub drive: DriveId,
    /// Random, made when the drive was formatted.
    pub uuid: u128,
    /// Raised durably by each mount.
    pub mounts: u64,
}

/// What is found where a drive should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// No superblock and nothing else: an empty folder, or a mount point without its mount.
    Empty,
    /// No superblock, but files.
    Foreign {
        example: String,
    },
    /// A superblock of which no copy is intact.
    Corrupt {
        detail: String,
    },
    Formatted(Identity),
}

/// Look, and change nothing.
pub fn inspect(disk: &Arc<dyn Disk>) -> runtime::disk::Result<Found> {
    let _ = disk;
    todo!()
}

/// Write superblocks to an empty drive, durably. Fails if it is not [`Found::Empty`].
pub fn format(disk: &Arc<dyn Disk>, cluster: ClusterId, drive: DriveId) -> Result<Identity, Error> {
    let _ = (disk, cluster, drive);
    todo!()
}

/// Why a drive is refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Disk(#[from] runtime::disk::Error),
    #[error("{drive}: {detail}")]
    Refused { drive: String, detail: String },
}
