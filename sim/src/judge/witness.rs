//! [`Witness`]: a replica of a group in the simulator's memory. It is fed with what the drives of the real replicas hold
//! durably, and so knows every version that was ever committed, and which blobs it has. It counts commands by itself:
//! a command that is retried is applied once here whatever the replicas do.

use super::expiry::Expiry;
use super::rules::Rules;
use crate::violation::Violation;
use bytes::Bytes;
use consensus::inspect::{LoggedEntry, Session, decode_change, decode_command};
use consensus::rows::MemoryRows;
use consensus::{Change, StateMachine};
use metadata::commands::{Command, Reply};
use metadata::rows::{PartRow, decode};
use metadata::{Applied, Completed, keys};
use protocol::{BlobId, BlobRef, Body, BucketId, GroupId, Home, Record, Revision, wire};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Commands of a writer that may be unfinished, as `consensus` promises.
const WINDOW: u64 = 1024;
/// Commands that are kept for sending them again: the latest, so that many of their writers have gone on since, and some not.
const ACCEPTED_MAX: usize = 128;
/// User metadata in which the workloads name what they wrote: `id:bytes`.
const VALUE: &str = "value";

/// A write of a key that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    pub bucket: BucketId,
    /// Where in the group's log.
    pub index: u64,
    pub term: u64,
    pub revision: Revision,
    /// `None`: a delete, of the key or of one version of it.
    pub version: Option<Version>,
}

/// A version of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    pub etag: String,
    /// What the client called it, if it is a workload's.
    pub value: Option<String>,
    /// Empty: its bytes lie in its record.
    pub blobs: Vec<BlobRef>,
}

/// A command as it stands in the log, with its place in its writer's session.
#[derive(Clone)]
pub struct Accepted {
    pub session: Session,
    pub command: Bytes,
}

/// What the simulator knows of one group.
pub struct Witness {
    pub group: GroupId,
    machine: Arc<dyn StateMachine>,
    rows: MemoryRows,
    applied: u64,
    writers: BTreeMap<u64, Writer>,
    written: BTreeMap<String, Vec<Written>>,
    accepted: VecDeque<Accepted>,
    rules: Rules,
    expiry: Expiry,
    broken: Vec<Violation>,
}

#[derive(Default)]
struct Writer {
    lowest: u64,
    done: BTreeSet<u64>,
}

impl Witness {
    /// Of a group that applied nothing yet.
    pub fn new(group: GroupId, machine: Arc<dyn StateMachine>) -> Witness {
        Witness {
            group,
            machine,
            rows: MemoryRows::default(),
            applied: 0,
            writers: BTreeMap::new(),
            written: BTreeMap::new(),
            accepted: VecDeque::new(),
            rules: Rules::default(),
            expiry: Expiry::default(),
            broken: Vec::new(),
        }
    }

    /// Rules that commands broke since the last call.
    pub fn take_broken(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.broken)
    }

    /// Blobs that were named since the last call, and by which homes.
    pub fn take_named(&mut self) -> Vec<(BlobId, Home)> {
        self.rules.take_named()
    }

    /// Readings of cluster time that commands brought since the last call.
    pub fn take_readings(&mut self) -> Vec<u64> {
        self.expiry.take_readings()
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The rows as of then.
    pub fn rows(&self) -> &MemoryRows {
        &self.rows
    }

    /// Commands that were applied lately, the oldest first.
    pub fn accepted(&self) -> impl Iterator<Item = &Accepted> {
        self.accepted.iter()
    }

    /// Writes of `key` in whatever bucket, in their order.
    pub fn written(&self, key: &str) -> &[Written] {
        self.written.get(key).map_or(&[], Vec::as_slice)
    }

    /// The versions that keys have at present, also those that are not current.
    pub fn living(&self) -> Vec<(&str, &Written, &Version)> {
        let rows = self.rows.rows();
        let mut living = Vec::new();
        for (key, written) in &self.written {
            let stands = |one: &&Written| rows.get(&keys::object(one.bucket, key, one.revision)).is_some();
            let standing = written.iter().filter(stands);
            living.extend(standing.filter_map(|one| Some((key.as_str(), one, one.version.as_ref()?))));
        }
        living
    }

    /// Apply the next committed entry, which was made when cluster time was `known_ms` or later.
    pub fn apply(&mut self, index: u64, entry: &LoggedEntry, known_ms: u64) {
        assert_eq!(index, self.applied + 1, "entries are applied one after another");
        self.applied = index;
        if entry.change {
            // Who belongs to the group is no business of its state machine; at which version commands are is.
            if let Some(Change::Raise(version)) = decode_change(&entry.data) {
                self.rows.set_version(version);
            }
            return;
        }
        let Some((session, command)) = decode_command(&entry.data) else { return };
        if session.is_some_and(|session| !self.admit(session)) {
            return;
        }
        if let Some(session) = session {
            self.accepted.push_back(Accepted { session, command: Bytes::copy_from_slice(command) });
            self.accepted.drain(..self.accepted.len().saturating_sub(ACCEPTED_MAX));
        }
        let reply = self.machine.apply(&mut self.rows.rows_mut(), command);
        if self.group != protocol::ROOT {
            self.note(index, entry.term, command, &reply, known_ms);
        }
    }

    /// The group was founded anew with all that was applied by now, as of the entry `index`.
    pub fn refounded(&mut self, index: u64) {
        self.machine.refounded(&mut self.rows.rows_mut());
        self.applied = index;
    }

    /// Whether a command is new, and within its writer's window.
    fn admit(&mut self, session: Session) -> bool {
        let writer = self.writers.entry(session.writer).or_default();
        if session.lowest_unfinished > writer.lowest && session.lowest_unfinished <= session.counter {
            writer.lowest = session.lowest_unfinished;
            writer.done = writer.done.split_off(&writer.lowest);
        }
        let sound = session.counter >= writer.lowest && session.lowest_unfinished <= session.counter;
        let room = session.counter - writer.lowest.min(session.counter) < WINDOW && (writer.done.len() as u64) < WINDOW;
        sound && room && writer.done.insert(session.counter)
    }

    fn note(&mut self, index: u64, term: u64, command: &[u8], reply: &[u8], known_ms: u64) {
        let Ok(command) = wire::decode::<Command>(command) else { return };
        let broken = self.rules.judge(&command, reply);
        let expired = self.expiry.judge(&command, reply, known_ms);
        self.broken.extend(broken.into_iter().chain(expired).map(|mut broken| {
            broken.text += &format!(" (group {}, entry {index})", self.group);
            broken
        }));
        let (bucket, key, revision, version) = match command {
            Command::Put { bucket, key, record, .. } => {
                let Some(Applied { revision, .. }) = accepted(reply) else { return };
                (bucket, key, revision, Some(self.version(&record)))
            }
            Command::Delete { bucket, key, .. } => {
                let Some(Applied { revision, .. }) = accepted(reply) else { return };
                (bucket, key, revision, None)
            }
            Command::CompleteUpload { bucket, key, .. } => {
                let Some(Completed { record, .. }) = accepted(reply) else { return };
                // A repeated Complete answers with the record that it made before: nothing new was written.
                if self.written(&key).iter().any(|one| one.bucket == bucket && one.revision == record.revision) {
                    return;
                }
                (bucket, key, record.revision, Some(self.version(&record)))
            }
            _ => return,
        };
        self.written.entry(key).or_default().push(Written { bucket, index, term, revision, version });
    }

    fn version(&self, record: &Record) -> Version {
        let value = record.headers.user.iter().find(|(name, _)| name == VALUE).map(|(_, value)| value.clone());
        Version { etag: record.etag.clone(), value, blobs: self.blobs(&record.body) }
    }

    fn blobs(&self, body: &Body) -> Vec<BlobRef> {
        match body {
            Body::Inline(_) => Vec::new(),
            Body::Blobs(blobs) => blobs.clone(),
            Body::Parts { upload, parts } => {
                let rows = self.rows.rows();
                let part = |number| {
                    let key = keys::part(*upload, number);
                    let row: Option<PartRow> = rows.get(&key).and_then(|value| decode(&key, &value).ok());
                    row.map_or_else(Vec::new, |row| self.blobs(&row.part.body))
                };
                parts.iter().flat_map(|named| part(named.number)).collect()
            }
        }
    }
}

/// What a partition answered to a command that it accepted.
fn accepted<T: serde::de::DeserializeOwned>(reply: &[u8]) -> Option<T> {
    wire::decode::<Reply<T>>(reply).ok()?.result.ok()
}
