//! What the rows of a replica are, for comparing replicas: equal on two of a group that applied the same. The rolling hash is
//! one of writes, and cannot tell that a row was lost.

use crate::Host;
use crate::log::Key;
use crate::state::{State, catching};
use protocol::{DriveId, GroupId, ReplicaId};
use runtime::disk::{self, Disk};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

/// All rows of a replica in a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowsDigest {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub drive: DriveId,
    /// Index of the last entry that the rows are made of; 0 if they cannot be read.
    pub applied: u64,
    /// Number of rows and their CRC-64 (as snapshots count them), or why they cannot be read.
    pub digest: Result<(u64, u64), String>,
    /// What in the sessions contradicts itself, if anything does: a command was applied twice, or a reply is gone.
    pub session_contradiction: Option<String>,
}

/// The states of the replicas that run on this node, while they live.
#[derive(Default)]
pub(crate) struct States(Mutex<BTreeMap<Key, Shown>>);

#[derive(Clone)]
struct Shown {
    drive: DriveId,
    disk: Arc<dyn Disk>,
    state: Weak<State>,
}

impl States {
    /// The state that replica `key` has from now on.
    pub fn show(&self, key: Key, drive: DriveId, disk: &Arc<dyn Disk>, state: &Arc<State>) {
        let shown = Shown { drive, disk: disk.clone(), state: Arc::downgrade(state) };
        self.0.lock().expect("no holder panics").insert(key, shown);
    }
}

impl Host {
    /// Read all rows of every replica that runs here: work for idle times.
    pub async fn digests(&self) -> Vec<RowsDigest> {
        let states = self.shared.states.0.lock().expect("no holder panics").clone();
        let mut digests = Vec::new();
        for (key, Shown { drive, disk, state }) in states {
            let read = move || {
                let state = state.upgrade()?;
                Some(catching(|| {
                    let frozen = state.freeze()?;
                    Ok((frozen.meta.applied, frozen.digest()?, frozen.session_contradiction()?))
                }))
            };
            let Some(read) = disk::run(&disk, read).await else { continue };
            let (applied, digest, session_contradiction) = match read {
                Ok((applied, digest, contradiction)) => (applied, Ok(digest), contradiction),
                Err(error) => (0, Err(error.to_string()), None),
            };
            digests.push(RowsDigest { group: key.group, replica: key.replica, drive, applied, digest, session_contradiction });
        }
        digests
    }
}
