//! The superblock: who a drive is. Two copies in two files, written alternately with a sequence number.
//! Invariants: at any moment one copy is intact, whatever write was torn; no mount number is ever given out twice.

use crate::{Error, SECTOR_BYTES, crc_holds, seal_with_crc};
use bytes::{Buf, BufMut};
use protocol::{ClusterId, DriveId};
use runtime::disk::{self, Disk, Open};
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

const COPIES: [&str; 2] = ["superblock-a", "superblock-b"];
/// A formatting that was interrupted leaves these; they are nobody's data.
const UNFINISHED: [&str; 2] = ["superblock-a.new", "superblock-b.new"];
const MAGIC: &[u8; 8] = b"KSTNDRIV";
const FORMAT_VERSION: u32 = 1;
/// Folders whose files count as content of a drive, besides those at its root.
const CONTENT_FOLDERS: [&str; 4] = ["slots", "raft", "log", "state"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Superblock {
    /// Raised by each write; the higher of two intact copies counts.
    sequence: u64,
    identity: Identity,
}

/// What a file of a copy holds.
enum Copy {
    Missing,
    Bad(String),
    Intact(Superblock),
}

/// Look, and change nothing.
pub fn inspect(disk: &Arc<dyn Disk>) -> disk::Result<Found> {
    let copies = [read(disk, 0)?, read(disk, 1)?];
    if let Some((_, newest)) = newest(&copies) {
        return Ok(Found::Formatted(newest.identity));
    }
    let reasons: Vec<String> = COPIES
        .iter()
        .zip(&copies)
        .filter_map(|(name, copy)| match copy {
            Copy::Bad(reason) => Some(format!("{name}: {reason}")),
            Copy::Missing | Copy::Intact(_) => None,
        })
        .collect();
    if !reasons.is_empty() {
        return Ok(Found::Corrupt { detail: reasons.join("; ") });
    }
    for folder in ["", CONTENT_FOLDERS[0], CONTENT_FOLDERS[1], CONTENT_FOLDERS[2], CONTENT_FOLDERS[3]] {
        for entry in disk.list(folder)? {
            if folder.is_empty() && UNFINISHED.contains(&entry.name.as_str()) {
                continue;
            }
            let example = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
            return Ok(Found::Foreign { example });
        }
    }
    Ok(Found::Empty)
}

/// Write superblocks to an empty drive, durably. Fails if it is not [`Found::Empty`].
pub fn format(disk: &Arc<dyn Disk>, cluster: ClusterId, drive: DriveId) -> Result<Identity, Error> {
    let refuse = |detail: String| Err(Error::Refused { drive: disk.label().to_string(), detail });
    match inspect(disk)? {
        Found::Empty => {}
        Found::Foreign { example } => return refuse(format!("not formatted: it holds files (`{example}`). Give an empty folder")),
        Found::Corrupt { detail } => return refuse(format!("not formatted: it holds a damaged superblock ({detail}) and maybe data")),
        Found::Formatted(identity) => {
            return refuse(format!("not formatted: it is drive {} of cluster {} already", identity.drive, identity.cluster));
        }
    }
    let mut uuid = [0; 16];
    runtime::entropy::fill(&mut uuid);
    let identity = Identity { cluster, drive, uuid: u128::from_le_bytes(uuid), mounts: 0 };
    // Whole under another name first: a crash leaves no superblock or a whole one, never half of one.
    for (copy, name) in UNFINISHED.iter().enumerate() {
        let file = disk.open(name, Open::OrNew)?;
        file.write_at(0, &encode(&Superblock { sequence: copy as u64, identity }))?;
        file.sync()?;
    }
    for (name, unfinished) in COPIES.iter().zip(UNFINISHED) {
        disk.rename(unfinished, name)?;
    }
    disk.sync_dir("")?;
    Ok(identity)
}

/// Check that this is `drive` of `cluster`, and raise its mount number durably. Every refusal says what to do.
/// From then on [`Disk::verify`] compares the superblocks with what the path shows.
pub fn mount(disk: &Arc<dyn Disk>, cluster: ClusterId, drive: DriveId) -> Result<Identity, Error> {
    let refuse = |detail: String| Err(Error::Refused { drive: disk.label().to_string(), detail });
    match inspect(disk)? {
        Found::Empty => {
            return refuse(format!(
                "empty: drive {drive} of cluster {cluster} should be here. Is its file system mounted? Bring it back and start again"
            ));
        }
        Found::Foreign { example } => {
            return refuse(format!(
                "no superblock, but files (`{example}`): this is not a drive of this system. Correct its path, or bring the drive back"
            ));
        }
        Found::Corrupt { detail } => {
            return refuse(format!(
                "corrupted superblock: {detail}. The drive is left alone; restore the two superblock files, or replace the drive"
            ));
        }
        Found::Formatted(identity) if identity.cluster != cluster => {
            return refuse(format!(
                "belongs to another cluster: {}, and this one is {cluster}. Correct its path; it will not be touched",
                identity.cluster
            ));
        }
        Found::Formatted(identity) if identity.drive != drive => {
            return refuse(format!(
                "is drive {}, but drive {drive} is configured here: folders seem to be swapped. Put them back in their order",
                identity.drive
            ));
        }
        Found::Formatted(_) => {}
    }
    let copies = [read(disk, 0)?, read(disk, 1)?];
    let (position, newest) = newest(&copies).expect("inspected above, and nobody else writes");
    let other = 1 - position;
    // The other copy may have been newer before it was damaged: its mount number is skipped.
    let raise = match &copies[other] {
        Copy::Intact(_) => 1,
        Copy::Missing | Copy::Bad(_) => {
            runtime::probe!("superblock copy lost");
            tracing::warn!(drive = disk.label(), copy = COPIES[other], "a copy of the superblock was damaged; it is written anew");
            2
        }
    };
    let identity = Identity { mounts: newest.identity.mounts + raise, ..newest.identity };
    let file = disk.open(COPIES[other], Open::OrNew)?;
    file.write_at(0, &encode(&Superblock { sequence: newest.sequence + raise, identity }))?;
    file.sync()?;
    disk.sync_dir("")?;
    for (name, copy) in COPIES.iter().zip(&copies) {
        if *name == COPIES[other] || !matches!(copy, Copy::Missing) {
            disk.watch(name)?;
        }
    }
    Ok(identity)
}

fn newest(copies: &[Copy; 2]) -> Option<(usize, Superblock)> {
    let intact = |position: usize| match &copies[position] {
        Copy::Intact(superblock) => Some((position, *superblock)),
        Copy::Missing | Copy::Bad(_) => None,
    };
    match (intact(0), intact(1)) {
        (Some(a), Some(b)) => Some(if a.1.sequence >= b.1.sequence { a } else { b }),
        (a, b) => a.or(b),
    }
}

fn read(disk: &Arc<dyn Disk>, copy: usize) -> disk::Result<Copy> {
    let file = match disk.open(COPIES[copy], Open::Existing) {
        Ok(file) => file,
        Err(disk::Error::NotFound { .. }) => return Ok(Copy::Missing),
        Err(error) => return Err(error),
    };
    let mut sector = [0; SECTOR_BYTES];
    if file.len()? < SECTOR_BYTES as u64 {
        return Ok(Copy::Bad("too short".to_string()));
    }
    match file.read_at(0, &mut sector) {
        Ok(()) => {}
        Err(error @ disk::Error::Io { .. }) => return Ok(Copy::Bad(error.to_string())),
        Err(error) => return Err(error),
    }
    Ok(match decode(&sector) {
        Ok(superblock) => Copy::Intact(superblock),
        Err(reason) => Copy::Bad(reason),
    })
}

fn encode(superblock: &Superblock) -> Vec<u8> {
    let Superblock { sequence, identity } = superblock;
    let mut sector = Vec::with_capacity(SECTOR_BYTES);
    sector.put_slice(MAGIC);
    sector.put_u32_le(FORMAT_VERSION);
    sector.put_u32_le(0);
    sector.put_u64_le(*sequence);
    sector.put_u128_le(identity.cluster.0);
    sector.put_u64_le(identity.drive.0);
    sector.put_u128_le(identity.uuid);
    sector.put_u64_le(identity.mounts);
    sector.resize(SECTOR_BYTES, 0);
    seal_with_crc(&mut sector);
    sector
}

fn decode(sector: &[u8; SECTOR_BYTES]) -> Result<Superblock, String> {
    let mut fields = &sector[..];
    if fields[..8] != MAGIC[..] {
        return Err("not a superblock".to_string());
    }
    fields.advance(8);
    let format_version = fields.get_u32_le();
    if format_version != FORMAT_VERSION {
        return Err(format!("format version {format_version}, this build reads {FORMAT_VERSION}: start a newer build"));
    }
    if !crc_holds(sector) {
        return Err("its checksum does not match".to_string());
    }
    fields.advance(4);
    let sequence = fields.get_u64_le();
    let cluster = ClusterId(fields.get_u128_le());
    let drive = DriveId(fields.get_u64_le());
    let uuid = fields.get_u128_le();
    let mounts = fields.get_u64_le();
    Ok(Superblock { sequence, identity: Identity { cluster, drive, uuid, mounts } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_superblock_never_change() {
        let identity = Identity { cluster: ClusterId(0x1111), drive: DriveId(0x2_0003), uuid: 0x77, mounts: 5 };
        let sector = encode(&Superblock { sequence: 9, identity });
        let start = "4b53544e44524956010000000000000009000000000000001111000000000000000000000000000003000200000000007700000000000000\
                     00000000000000000500000000000000";
        assert_eq!(hex(&sector[..72]), start);
        assert!(sector[72..508].iter().all(|&byte| byte == 0));
        assert_eq!(hex(&sector[508..]), "295bb918");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn mutated_superblocks_are_refused() {
        fn holds(position: usize, flip: u8) -> bool {
            let identity = Identity { cluster: ClusterId(1), drive: DriveId(2), uuid: 3, mounts: 4 };
            let mut sector: [u8; SECTOR_BYTES] = encode(&Superblock { sequence: 1, identity }).try_into().unwrap();
            sector[position % SECTOR_BYTES] ^= flip;
            decode(&sector).is_ok() == (flip == 0)
        }
        quickcheck::quickcheck(holds as fn(usize, u8) -> bool);
    }
}
