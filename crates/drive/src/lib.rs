#![doc = include_str!("../README.md")]

mod catalog;
mod drive;
pub mod inspect;
mod record;
mod recovery;
mod slot;
mod slot_file;
mod slot_header;
mod superblock;

pub use crate::drive::{Drive, DriveUsage};
pub use record::{block_checksum, block_count, verify_blocks};
pub use recovery::{Damage, DamagedRange};
pub use slot::{LIST_PAGE_MAX, Slot};
pub use slot_file::{Blocks, Operation, Page, SlotFile, Written, file_name};
pub use superblock::{Found, Identity, format, inspect, mount};

use protocol::Epoch;

/// Unit of writing: a drive writes a sector wholly or not at all. Part of the formats.
pub const SECTOR_BYTES: usize = 512;

/// Why a drive is refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Disk(#[from] runtime::disk::Error),
    /// The drive is reachable, but is not what should be there. Says what to do.
    #[error("{drive}: {detail}")]
    Refused { drive: String, detail: String },
}

/// Why a slot did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller's epoch is not the slot's; nothing was changed (I11).
    #[error("stale epoch: the slot is at {slot}")]
    StaleEpoch { slot: Epoch },
    /// The slot was fenced: it takes no more shards under any epoch up to this.
    #[error("sealed at epoch {slot}")]
    Sealed { slot: Epoch },
    #[error("no such slot or shard")]
    NotFound,
    /// The bytes there fail their checksum, or the drive cannot read them; they were not returned (I4).
    #[error("corrupt: {detail}")]
    Corrupt { detail: String },
    /// The drive is closed or gone. Names the drive.
    #[error("drive unavailable: {detail}")]
    Closed { detail: String },
    /// The slot has reached its size, or the drive has no space.
    #[error("no space left")]
    Full,
    /// Too many bytes wait for this drive; nothing was changed.
    #[error("busy")]
    Busy,
    /// The request itself is not sound.
    #[error("bad request: {detail}")]
    Invalid { detail: String },
}

impl From<runtime::disk::Error> for Refusal {
    fn from(error: runtime::disk::Error) -> Refusal {
        match error {
            runtime::disk::Error::Full { .. } => Refusal::Full,
            error => Refusal::Closed { detail: error.to_string() },
        }
    }
}

/// CRC-32C (Castagnoli).
fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).expect("a CRC-32 has 32 bits")
}

/// Put the CRC-32C of all but the last four bytes into the last four.
fn seal_with_crc(block: &mut [u8]) {
    let body = block.len() - 4;
    let crc = crc32c(&block[..body]);
    block[body..].copy_from_slice(&crc.to_le_bytes());
}

/// Whether the last four bytes are the CRC-32C of all before.
fn crc_holds(block: &[u8]) -> bool {
    let body = block.len() - 4;
    crc32c(&block[..body]).to_le_bytes() == block[body..]
}
