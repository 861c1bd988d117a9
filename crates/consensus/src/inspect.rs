//! What lies on a drive, read without changing it: for the simulator's judge, and for operators
//! who look at drives of nodes that do not run. It decides nothing, repairs nothing, and takes no locks.

use crate::log::Key;
use crate::manifest::{Manifest, state_name};
use crate::members::{Change, Members};
use crate::{host, state, wire};
use protocol::{DriveId, GroupId, ReplicaId};
use runtime::disk::{Disk, Open};
use std::io;
use std::sync::Mutex;

pub use crate::log::{EntrySector, LogView, LoggedEntry, ReplicaLog, entry_sectors};

/// Whose command an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Session {
    pub writer: u64,
    pub counter: u64,
    pub lowest_unfinished: u64,
}

/// Take an entry's data apart into session and command; `None` for a new leader's first entry, which is empty, and for
/// what does not decode.
pub fn decode_command(data: &[u8]) -> Option<(Option<Session>, &[u8])> {
    let (word, command) = wire::decode_command(data)?;
    let session = word.map(|word| Session { writer: word.writer, counter: word.counter, lowest_unfinished: word.lowest_unfinished });
    Some((session, command))
}

/// Take an entry apart that is a change of members.
pub fn decode_change(data: &[u8]) -> Option<Change> {
    Change::decode(data)
}

/// The state of a replica as of its last checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    pub applied: u64,
    pub term: u64,
    pub state_hash: u64,
    pub rows: u64,
    pub members: Members,
}

/// The checkpoint of a replica, if the drive holds that replica. Works on a copy in memory: opening a state may mend it.
pub fn read_checkpoint(disk: &dyn Disk, drive: DriveId, group: GroupId, replica: ReplicaId) -> Result<Option<Checkpoint>, String> {
    let key = Key { group, replica };
    // Whoever has a standing in the log, and asks, may be about to get its manifest.
    let found = Manifest::read(disk, drive, key);
    let manifest = match found.and_then(|found| found.map_or_else(|| Manifest::read_prepared(disk, drive, key), |found| Ok(Some(found)))) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => return Ok(None),
        Err(error @ (host::Error::Disk(_) | host::Error::Damaged { .. } | host::Error::Create { .. })) => return Err(error.to_string()),
    };
    let name = state_name(key, manifest.file);
    let file = disk.open(&name, Open::Existing).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; usize::try_from(file.len().map_err(|error| error.to_string())?).map_err(|error| error.to_string())?];
    file.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
    let (meta, rows) = state::read_copy(Copy(Mutex::new(bytes))).map_err(|error| format!("{name}: {error}"))?;
    if meta.key != key {
        return Err(format!("{name} is of {}", meta.key));
    }
    Ok(Some(Checkpoint { applied: meta.applied, term: meta.term, state_hash: meta.state_hash, rows, members: meta.members }))
}

/// A file's bytes in memory as redb's storage.
#[derive(Debug)]
pub(crate) struct Copy(Mutex<Vec<u8>>);

impl Copy {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

fn past_the_end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "past the end")
}

impl redb::StorageBackend for Copy {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let bytes = self.bytes();
        let from = usize::try_from(offset).map_err(|_| past_the_end())?;
        out.copy_from_slice(bytes.get(from..from.saturating_add(out.len())).ok_or_else(past_the_end)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.bytes().resize(usize::try_from(len).map_err(|_| past_the_end())?, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut bytes = self.bytes();
        let from = usize::try_from(offset).map_err(|_| past_the_end())?;
        let end = from.checked_add(data.len()).ok_or_else(past_the_end)?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[from..end].copy_from_slice(data);
        Ok(())
    }
}
