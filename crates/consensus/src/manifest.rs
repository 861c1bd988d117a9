//! Which file holds the state of a replica. Switching to a snapshot is one rename of this file.
//!
//! `raft/g<group>-r<replica>.manifest`: CRC-32C (4, little endian) of the rest, then [`Manifest`] behind its format
//! version. A replica exists on a drive if and only if its manifest does.

use crate::host::Error;
use crate::log::{FOLDER, Key};
use crc_fast::{CrcAlgorithm, checksum};
use protocol::{DriveId, GroupId, ReplicaId, wire};
use runtime::disk::{self, Disk, Open};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the name of a prepared manifest ends in.
const PREPARED: &str = ".refounded";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub drive: DriveId,
    pub key: Key,
    /// Number of the state file; a new one for each snapshot installed.
    pub file: u64,
}

/// Name of the `file`-th state file of a replica.
pub(crate) fn state_name(key: Key, file: u64) -> String {
    format!("{FOLDER}/g{}-r{}-{file}.redb", key.group, key.replica)
}

/// Name of the file for what follows a snapshot that is fetched into the `file`-th state file.
pub(crate) fn tail_name(key: Key, file: u64) -> String {
    format!("{FOLDER}/g{}-r{}-{file}.tail", key.group, key.replica)
}

fn manifest_name(key: Key) -> String {
    format!("{FOLDER}/g{}-r{}.manifest", key.group, key.replica)
}

fn prepared_name(key: Key) -> String {
    format!("{}{PREPARED}", manifest_name(key))
}

/// The replicas that a drive has a manifest of.
pub(crate) fn list(disk: &dyn Disk) -> Result<Vec<Key>, disk::Error> {
    list_of(disk, ".manifest")
}

fn list_of(disk: &dyn Disk, suffix: &str) -> Result<Vec<Key>, disk::Error> {
    let key = |name: &str| {
        let (group, replica) = name.strip_prefix('g')?.strip_suffix(suffix)?.split_once("-r")?;
        Some(Key { group: GroupId(group.parse().ok()?), replica: ReplicaId(replica.parse().ok()?) })
    };
    Ok(disk.list(FOLDER)?.iter().filter_map(|entry| key(&entry.name)).collect())
}

/// Finish what was cut short when groups were founded anew on this drive: prepared replicas that the log has standing get their manifest, and
/// are returned; of those that it knows nothing of, everything goes.
pub(crate) fn settle_prepared(disk: &dyn Disk, stands: impl Fn(Key) -> bool) -> Result<Vec<Key>, disk::Error> {
    let (standing, abandoned): (Vec<Key>, Vec<Key>) =
        list_of(disk, &format!(".manifest{PREPARED}"))?.into_iter().partition(|key| stands(*key));
    for key in &standing {
        disk.rename(&prepared_name(*key), &manifest_name(*key))?;
    }
    for key in &abandoned {
        remove_files(disk, *key)?;
        // Last: it shows where the others are.
        disk.sync_dir(FOLDER)?;
        disk.remove(&prepared_name(*key))?;
    }
    if !(standing.is_empty() && abandoned.is_empty()) {
        disk.sync_dir(FOLDER)?;
    }
    Ok(standing)
}

/// Remove all files of a replica that left its group, the manifest first: without it, the rest counts for nothing. The
/// caller syncs the folder, or does it again at the next start.
pub(crate) fn remove_files(disk: &dyn Disk, key: Key) -> Result<(), disk::Error> {
    match disk.remove(&manifest_name(key)) {
        Ok(()) | Err(disk::Error::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let prefix = format!("g{}-r{}-", key.group, key.replica);
    for entry in disk.list(FOLDER)?.iter().filter(|entry| entry.name.starts_with(&prefix)) {
        disk.remove(&format!("{FOLDER}/{}", entry.name))?;
    }
    Ok(())
}

impl Manifest {
    /// Read the manifest of a replica, if it has one.
    pub(crate) fn read(disk: &dyn Disk, drive: DriveId, key: Key) -> Result<Option<Manifest>, Error> {
        Manifest::read_from(disk, drive, key, manifest_name(key))
    }

    /// Read what was prepared for a replica, if anything was.
    pub(crate) fn read_prepared(disk: &dyn Disk, drive: DriveId, key: Key) -> Result<Option<Manifest>, Error> {
        Manifest::read_from(disk, drive, key, prepared_name(key))
    }

    fn read_from(disk: &dyn Disk, drive: DriveId, key: Key, name: String) -> Result<Option<Manifest>, Error> {
        let damaged = |detail: String| Error::Damaged { drive: disk.label().to_owned(), what: name.clone(), detail };
        let file = match disk.open(&name, Open::Existing) {
            Ok(file) => file,
            Err(disk::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let bytes = file.len()?;
        if !(4..=4096).contains(&bytes) {
            return Err(damaged(format!("{bytes} bytes long")));
        }
        let mut content = vec![0; bytes as usize];
        file.read_at(0, &mut content)?;
        let (sum, encoded) = content.split_at(4);
        if sum != (checksum(CrcAlgorithm::Crc32Iscsi, encoded) as u32).to_le_bytes() {
            return Err(damaged("it fails its checksum".to_owned()));
        }
        let manifest: Manifest = wire::decode(encoded).map_err(|error| damaged(error.to_string()))?;
        if manifest.drive != drive || manifest.key != key {
            return Err(damaged(format!("it is of drive {} {}", manifest.drive, manifest.key)));
        }
        Ok(Some(manifest))
    }

    /// Put this manifest in the place of the one before, durably.
    pub(crate) fn write(&self, disk: &dyn Disk) -> Result<(), disk::Error> {
        let name = manifest_name(self.key);
        let fresh = format!("{name}.new");
        self.write_as(disk, &fresh)?;
        disk.rename(&fresh, &name)?;
        disk.sync_dir(FOLDER)
    }

    /// Write, durably, what is to be the manifest of a replica of a group that is being founded anew: it counts from when the log has
    /// the replica standing, see [`settle_prepared`].
    pub(crate) fn prepare(&self, disk: &dyn Disk) -> Result<(), disk::Error> {
        self.write_as(disk, &prepared_name(self.key))?;
        disk.sync_dir(FOLDER)
    }

    fn write_as(&self, disk: &dyn Disk, name: &str) -> Result<(), disk::Error> {
        let encoded = wire::encode(self);
        let mut content = (checksum(CrcAlgorithm::Crc32Iscsi, &encoded) as u32).to_le_bytes().to_vec();
        content.extend_from_slice(&encoded);
        let file = disk.open(name, Open::OrNew)?;
        file.set_len(0)?;
        file.write_at(0, &content)?;
        file.sync()
    }

    /// Remove state files of this replica that the manifest does not name, and what is beside them: snapshots that were never switched to.
    pub(crate) fn remove_strays(&self, disk: &Arc<dyn Disk>) -> Result<(), disk::Error> {
        let keep = state_name(self.key, self.file);
        let prefix = format!("g{}-r{}-", self.key.group, self.key.replica);
        for entry in disk.list(FOLDER)? {
            let name = format!("{FOLDER}/{}", entry.name);
            let fetched = entry.name.ends_with(".redb") || entry.name.ends_with(".tail");
            if entry.name.starts_with(&prefix) && fetched && name != keep {
                disk.remove(&name)?;
            }
        }
        Ok(())
    }
}
