//! The drives of a node at its start: which are ours, which are refused, and when folders may be formatted.
//!
//! A drive is formatted only by [`bootstrap`], and only while no drive of the node was ever mounted: what was never
//! mounted holds nothing. A refused drive is named with its reason; the node runs with the others.

use drive::{Found, Identity};
use protocol::{ClusterId, DriveId, NodeId};
use runtime::disk::{Disk, Open};
use std::sync::Arc;

/// Written durably after a drive's first replicas exist; before it, missing replicas may be created.
const REPLICAS_CREATED: &str = "replicas-created";

/// A drive that is not used, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    pub drive: DriveId,
    pub label: String,
    pub reason: String,
}

/// A drive in use.
#[derive(Clone)]
pub struct Mounted {
    pub identity: Identity,
    pub disk: Arc<dyn Disk>,
    /// The first start of the cluster on this drive: its replicas may be created.
    pub first_start: bool,
}

/// A drive that could not even be opened stands in its place in the list with its reason.
pub type Slot = Result<Arc<dyn Disk>, Refused>;

/// Drives may not be formatted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("{label}: {reason}")]
    Refused { label: String, reason: String },
    #[error("{label} belongs to cluster {found} already; nothing was formatted")]
    InUse { label: String, found: ClusterId },
}

/// Whether [`bootstrap`] would format anything: no drive was ever mounted, and at least one is empty.
pub fn is_first_start(drives: &[Slot]) -> bool {
    let found: Vec<Found> = drives.iter().flatten().filter_map(|disk| drive::inspect(disk).ok()).collect();
    let unused = found.iter().all(|found| match found {
        Found::Empty => true,
        Found::Formatted(identity) => identity.mounts == 0,
        Found::Foreign { .. } | Found::Corrupt { .. } => false,
    });
    unused && found.len() == drives.len() && found.contains(&Found::Empty)
}

/// Format the node's empty drives as first members of `cluster`. Refuses as a whole if any drive was mounted before,
/// belongs elsewhere, or cannot be read. Repeatable: a crash on the way is mended by calling it again.
pub fn bootstrap(cluster: ClusterId, node: NodeId, drives: &[Slot]) -> Result<(), Error> {
    let mut empty = Vec::new();
    for (disk, id) in drives.iter().zip(ids(node)) {
        let disk = disk.as_ref().map_err(|refused| Error::Refused { label: refused.label.clone(), reason: refused.reason.clone() })?;
        let label = disk.label().to_string();
        match drive::inspect(disk).map_err(|error| Error::Refused { label: label.clone(), reason: error.to_string() })? {
            Found::Empty => empty.push((disk, id)),
            Found::Formatted(identity) if identity.cluster == cluster && identity.drive == id && identity.mounts == 0 => {}
            Found::Formatted(identity) => return Err(Error::InUse { label, found: identity.cluster }),
            Found::Foreign { example } => {
                return Err(Error::Refused { label, reason: format!("holds files that are not ours, such as {example}") });
            }
            Found::Corrupt { detail } => return Err(Error::Refused { label, reason: format!("superblock damaged: {detail}") }),
        }
    }
    for (disk, id) in empty {
        drive::format(disk, cluster, id).map_err(|error| Error::Refused { label: disk.label().to_string(), reason: error.to_string() })?;
    }
    Ok(())
}

/// Mount the node's drives. Blocking.
pub fn mount(cluster: ClusterId, node: NodeId, drives: Vec<Slot>) -> (Vec<Mounted>, Vec<Refused>) {
    let mut mounted = Vec::new();
    let mut refused = Vec::new();
    for (disk, id) in drives.into_iter().zip(ids(node)) {
        let disk = match disk {
            Ok(disk) => disk,
            Err(why) => {
                refused.push(why);
                continue;
            }
        };
        let label = disk.label().to_string();
        match mount_one(&disk, cluster, id) {
            Ok((identity, first_start)) => mounted.push(Mounted { identity, disk, first_start }),
            Err(error) => refused.push(Refused { drive: id, label, reason: error.to_string() }),
        }
    }
    (mounted, refused)
}

fn mount_one(disk: &Arc<dyn Disk>, cluster: ClusterId, id: DriveId) -> Result<(Identity, bool), drive::Error> {
    let identity = drive::mount(disk, cluster, id)?;
    Ok((identity, !has_had_replicas(disk)?))
}

/// Whether the drive's first replicas exist, or did.
pub fn has_had_replicas(disk: &Arc<dyn Disk>) -> runtime::disk::Result<bool> {
    Ok(disk.list("")?.iter().any(|entry| entry.name == REPLICAS_CREATED))
}

/// Note durably that the drive's first replicas exist: from now on a missing one is a loss, never created again,
/// as it may have voted.
pub fn mark_replicas_created(disk: &Arc<dyn Disk>) -> runtime::disk::Result<()> {
    disk.open(REPLICAS_CREATED, Open::OrNew)?.sync()?;
    disk.sync_dir("")
}

/// The drive ids of a node, by the ordinal of its folders.
pub fn ids(node: NodeId) -> impl Iterator<Item = DriveId> {
    (0..u16::MAX).map(move |ordinal| DriveId::at_bootstrap(node, ordinal))
}
