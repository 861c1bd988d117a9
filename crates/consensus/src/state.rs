//! The state of one replica: rows, sessions and what was applied, in one redb database.
//!
//! Always holds: applied index, its term, the members, the rolling hash and the rows change in one transaction, so a
//! state on a drive is the state after exactly `applied` entries. Applying does not sync (the log already did); a
//! checkpoint makes the state durable, and only behind a checkpoint may the log be cut.
//!
//! Calls block on the drive.

mod database;
mod error;

pub(crate) use error::{Error, catching};

use crate::StateMachine;
use crate::backend::Backend;
use crate::log::{Key, Start, kind_of};
use crate::members::{Change, Members, Refused};
use crate::rows::{ROWS, Rows, RowsMut, SESSIONS, StateHash, decode_value, encode_value};
use crate::session;
use crate::wire::{self, Answer};
use bytes::Bytes;
use database::Database;
use protocol::wire::{decode, encode};
use raft::eraftpb::Entry;
use redb::{Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use runtime::disk::{Disk, Open};
use serde::{Deserialize, Serialize};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
const META_KEY: &str = "replica";
/// Rolling hashes kept for comparing with other replicas.
const MARKS_MAX: usize = 8;

/// What was applied; stands in the database beside the rows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub key: Key,
    pub applied: u64,
    /// Term of the entry at `applied`.
    pub term: u64,
    pub members: Members,
    pub state_hash: u64,
    /// (applied index, rolling hash) at the latest multiples of the mark interval.
    pub marks: Vec<(u64, u64)>,
}

/// The database of one replica.
pub(crate) struct State {
    database: Database,
    /// As of the last commit.
    meta: Mutex<Meta>,
    mark_interval: u64,
    /// Members as of the last checkpoint; only the planted bug that writes them apart looks at it.
    apart: Mutex<Members>,
}

/// The outcome of applying a run of entries.
pub(crate) struct Applied {
    pub meta: Meta,
    /// Index, term and answer of every command and change.
    pub answers: Vec<(u64, u64, Answer, Bytes)>,
    /// Changes of the members that took effect, each with what came of it.
    pub changes: Vec<(Change, Members)>,
    pub bytes: usize,
}

fn read_meta(database: &redb::Database) -> Result<Meta, Error> {
    let transaction = database.begin_read()?;
    let table = transaction.open_table(META)?;
    let stored = table.get(META_KEY)?.ok_or_else(|| Error::new("the row that says what was applied is missing".to_owned()))?;
    let meta: Meta = decode(decode_value(META_KEY.as_bytes(), stored.value())?).map_err(|error| Error::new(error.to_string()))?;
    if meta.members.group != meta.key.group || !meta.members.is_sound() {
        return Err(Error::new(format!("it is of {}, and has a configuration that cannot be: {:?}", meta.key, meta.members)));
    }
    Ok(meta)
}

fn write_meta(transaction: &redb::WriteTransaction, meta: &Meta) -> Result<(), Error> {
    let mut table = transaction.open_table(META)?;
    table.insert(META_KEY, encode_value(META_KEY.as_bytes(), &encode(meta)).as_slice())?;
    Ok(())
}

/// What was applied, as of the last checkpoint in a copy of a state's file; and the number of rows.
pub(crate) fn read_copy(copy: impl redb::StorageBackend) -> Result<(Meta, u64), Error> {
    catching(|| {
        let database = Database::new(copy, 1 << 20)?;
        let rows = database.begin_read()?.open_table(ROWS)?.len()?;
        Ok((read_meta(&database)?, rows))
    })
}

impl State {
    /// Make a new, empty state in the file `name`; durable when it returns. A leftover of that name is replaced.
    pub(crate) fn create(disk: &Arc<dyn Disk>, name: &str, cache_bytes: usize, mark_interval: u64, meta: Meta) -> Result<State, Error> {
        catching(|| {
            let file = disk.open(name, Open::OrNew)?;
            file.set_len(0)?;
            let database = Database::new(Backend(file), cache_bytes)?;
            let mut transaction = database.begin_write()?;
            // In two phases, as every commit that is to last. After one in a single phase redb looks for the next one's pages first, written or
            // not, and they are none (see `sums`).
            transaction.set_quick_repair(true);
            transaction.open_table(ROWS)?;
            transaction.open_table(SESSIONS)?;
            write_meta(&transaction, &meta)?;
            transaction.commit()?;
            disk.sync_dir(crate::log::FOLDER)?;
            Ok(State { database, apart: Mutex::new(meta.members.clone()), meta: Mutex::new(meta), mark_interval })
        })
    }

    /// Open the state in the file `name` as of its last checkpoint, for a program that knows commands up to version `known`.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        name: &str,
        cache_bytes: usize,
        mark_interval: u64,
        key: Key,
        known: u32,
    ) -> Result<State, Error> {
        let file = disk.open(name, Open::Existing)?;
        if file.is_empty()? {
            return Err(Error::new(format!("{name} is empty")));
        }
        let (database, meta) = catching(|| {
            let database = Database::new(Backend(file), cache_bytes)?;
            let meta = read_meta(&database)?;
            Ok((database, meta))
        })?;
        if meta.key != key {
            return Err(Error::new(format!("{name} is of {}", meta.key)));
        }
        if meta.members.machine > known {
            return Err(Error::newer(meta.members.machine, known));
        }
        Ok(State { database, apart: Mutex::new(meta.members.clone()), meta: Mutex::new(meta), mark_interval })
    }

    /// What was applied, as of the last commit.
    pub(crate) fn meta(&self) -> Meta {
        self.meta.lock().expect("no holder panics").clone()
    }

    /// Apply consecutive committed entries, without syncing.
    pub(crate) fn apply(&self, machine: &dyn StateMachine, entries: &[Entry]) -> Result<Applied, Error> {
        let mut meta = self.meta();
        let mut hash = StateHash(meta.state_hash);
        let mut answers = Vec::with_capacity(entries.len());
        let mut changes = Vec::new();
        let mut bytes = 0;
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        {
            let agreed = |members: &Members| {
                if runtime::planted("applied-at-the-programs-own-version") { machine.version() } else { members.machine }
            };
            let mut rows = RowsMut::of_table(transaction.open_table(ROWS)?, &mut hash, agreed(&meta.members));
            let mut sessions = transaction.open_table(SESSIONS)?;
            for entry in entries {
                assert_eq!(entry.index, meta.applied + 1, "entries are applied one after another, each once");
                bytes += entry.data.len();
                if kind_of(entry) == 1 {
                    let outcome = take_change(rows.hash(), &mut meta.members, &entry.data)?;
                    if meta.members.machine > machine.version() {
                        return Err(Error::newer(meta.members.machine, machine.version()));
                    }
                    rows.set_version(agreed(&meta.members));
                    if let Ok(Some(change)) = outcome {
                        changes.push((change, meta.members.clone()));
                    }
                    let told = outcome.map(|_| &meta.members);
                    answers.push((entry.index, entry.term, Answer::Reply, encode(&told).into()));
                } else if !entry.data.is_empty() {
                    // A new leader's first entry is empty.
                    let (answer, reply) = apply_one(&mut rows, &mut sessions, machine, &entry.data);
                    if runtime::planted("apply-depends-on-the-replica") && meta.key.replica.0 & 0xffff == 2 && entry.index % 40 == 0 {
                        // What a machine does that looks at something other than its rows and the command.
                        rows.put(b"\xffplanted", &entry.index.to_le_bytes());
                    }
                    answers.push((entry.index, entry.term, answer, reply));
                }
                meta.applied = entry.index;
                meta.term = entry.term;
                if entry.index.is_multiple_of(self.mark_interval) {
                    meta.marks.push((entry.index, rows.hash().0));
                    let surplus = meta.marks.len().saturating_sub(MARKS_MAX);
                    meta.marks.drain(..surplus);
                }
            }
        }
        meta.state_hash = hash.0;
        write_meta(&transaction, &meta)?;
        transaction.commit()?;
        *self.meta.lock().expect("no holder panics") = meta.clone();
        Ok(Applied { meta, answers, changes, bytes })
    }

    /// The group is founded anew from this state: it has `members` from now on, as of an entry at `at` that no log holds. Durable when
    /// it returns.
    pub(crate) fn refound(&self, machine: &dyn StateMachine, members: Members, at: Start) -> Result<Meta, Error> {
        let mut hash = StateHash(self.meta().state_hash);
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        {
            let mut rows = RowsMut::of_table(transaction.open_table(ROWS)?, &mut hash, members.machine);
            machine.refounded(&mut rows);
            rows.hash().write(StateHash::TAG_MEMBERS, b"members", Some(&encode(&members)));
        }
        let meta = Meta { key: self.meta().key, applied: at.index, term: at.term, members, state_hash: hash.0, marks: Vec::new() };
        write_meta(&transaction, &meta)?;
        transaction.commit()?;
        *self.meta.lock().expect("no holder panics") = meta;
        self.checkpoint()
    }

    /// Make the state durable as it is; says what it holds.
    pub(crate) fn checkpoint(&self) -> Result<Meta, Error> {
        let meta = self.meta();
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // Opening after a crash must not walk the whole database.
        transaction.set_quick_repair(true);
        if runtime::planted("configuration-apart-from-applied-index") {
            let before = std::mem::replace(&mut *self.apart.lock().expect("no holder panics"), meta.members.clone());
            write_meta(&transaction, &Meta { members: before, ..meta.clone() })?;
        } else {
            write_meta(&transaction, &meta)?;
        }
        transaction.commit()?;
        Ok(meta)
    }

    /// Answer queries on one snapshot of the rows.
    pub(crate) fn query(&self, machine: &dyn StateMachine, queries: &[Bytes]) -> Result<Vec<Bytes>, Error> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(ROWS)?;
        let rows = Rows::of_table(&table);
        Ok(queries.iter().map(|query| Bytes::from(machine.query(&rows, query))).collect())
    }

    /// Hold the rows as they are, for sending them as a snapshot.
    pub(crate) fn freeze(&self) -> Result<Frozen, Error> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(META)?;
        let stored = table.get(META_KEY)?.ok_or_else(|| Error::new("the row that says what was applied is missing".to_owned()))?;
        let meta = decode(decode_value(META_KEY.as_bytes(), stored.value())?).map_err(|error| Error::new(error.to_string()))?;
        let frozen = Frozen { meta, tables: [transaction.open_table(ROWS)?, transaction.open_table(SESSIONS)?] };
        Ok(frozen)
    }

    /// Add rows of a snapshot, without syncing.
    pub(crate) fn fill(&self, table: u8, rows: &[(Bytes, Bytes)]) -> Result<(), Error> {
        catching(|| {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            {
                let mut table = transaction.open_table(if table == 0 { ROWS } else { SESSIONS })?;
                for (key, value) in rows {
                    table.insert(key.as_ref(), encode_value(key, value).as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Add all rows of another state, without syncing.
    pub(crate) fn copy(&self, of: &Frozen, page_bytes: usize) -> Result<(), Error> {
        for table in [0, 1] {
            let mut after: Option<Bytes> = None;
            loop {
                let (rows, last) = of.page(table, after.as_deref(), page_bytes)?;
                self.fill(table, &rows)?;
                after = rows.into_iter().next_back().map(|(key, _)| key).or(after);
                if last {
                    break;
                }
            }
        }
        Ok(())
    }

    /// All rows of a snapshot are in: prove it against the sender's count and hash, and make everything durable.
    pub(crate) fn seal(&self, meta: Meta, rows: u64, rows_hash: u64) -> Result<(), Error> {
        let found = catching(|| self.freeze()?.digest())?;
        if found != (rows, rows_hash) && !runtime::planted("snapshot-without-last-rows") {
            runtime::probe!("consensus-snapshot-refused-by-hash");
            return Err(Error::new(format!(
                "the snapshot has {} rows with hash {:016x}, not {rows} with {rows_hash:016x}",
                found.0, found.1
            )));
        }
        *self.meta.lock().expect("no holder panics") = meta;
        catching(|| self.checkpoint())?;
        Ok(())
    }
}

/// Take a step to other members; the change if anything changed. The outer error stops the replica: it would go on with
/// other members than the rest of its group.
fn take_change(hash: &mut StateHash, members: &mut Members, data: &[u8]) -> Result<Result<Option<Change>, Refused>, Error> {
    let change = Change::decode(data).ok_or_else(|| Error::new("it holds a change of members that this node does not know".to_owned()))?;
    let taken = members.take(change);
    if taken == Ok(true) {
        // Replicas that disagree about who belongs must show it (I9).
        hash.write(StateHash::TAG_MEMBERS, b"members", Some(&encode(members)));
    }
    Ok(taken.map(|changed| changed.then_some(change)))
}

/// Apply one command under its session.
fn apply_one(
    rows: &mut RowsMut<'_>,
    sessions: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    machine: &dyn StateMachine,
    data: &[u8],
) -> (Answer, Bytes) {
    let Some((session, command)) = wire::decode_command(data) else {
        return (Answer::Malformed, Bytes::new());
    };
    if let Some(session) = session
        && let Some(known) = session::begin(sessions, rows.hash(), session)
    {
        return known;
    }
    let reply = Bytes::from(machine.apply(rows, command));
    if let Some(session) = session {
        session::finish(sessions, rows.hash(), session, &reply);
    }
    (Answer::Reply, reply)
}

/// The rows of a replica as they were at one applied index.
pub(crate) struct Frozen {
    pub meta: Meta,
    tables: [redb::ReadOnlyTable<&'static [u8], &'static [u8]>; 2],
}

/// Rows of one page, and whether it is the last of its table.
pub(crate) type Rowsful = (Vec<(Bytes, Bytes)>, bool);

impl Frozen {
    /// Rows after `after` (from the first one, if `None`), about `bytes_max` bytes of them.
    pub(crate) fn page(&self, table: u8, after: Option<&[u8]>, bytes_max: usize) -> Result<Rowsful, Error> {
        let table = &self.tables[usize::from(table.min(1))];
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        catching(|| {
            let mut rows = Vec::new();
            let mut bytes = 0;
            for row in table.range::<&[u8]>((from, Bound::Unbounded))? {
                if bytes >= bytes_max {
                    return Ok((rows, false));
                }
                let (key, stored) = row?;
                let value = decode_value(key.value(), stored.value())?;
                bytes += key.value().len() + value.len() + 8;
                rows.push((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value)));
            }
            Ok((rows, true))
        })
    }

    /// Number of rows, and CRC-64/NVME over all of them in order: table (1), key length (8), key, value length (8), value.
    pub(crate) fn digest(&self) -> Result<(u64, u64), Error> {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        let mut count = 0;
        for (number, table) in self.tables.iter().enumerate() {
            for row in table.iter()? {
                let (key, stored) = row?;
                let value = decode_value(key.value(), stored.value())?;
                digest.update(&[number as u8]);
                digest.update(&(key.value().len() as u64).to_le_bytes());
                digest.update(key.value());
                digest.update(&(value.len() as u64).to_le_bytes());
                digest.update(value);
                count += 1;
            }
        }
        Ok((count, digest.finalize()))
    }

    /// What in the sessions contradicts itself, see [`session::contradiction`].
    pub(crate) fn session_contradiction(&self) -> Result<Option<String>, Error> {
        Ok(session::contradiction(&self.tables[1])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::MemoryDisk;
    use crate::rows::MemoryRows;
    use crate::{GroupSpec, ReplicaPlace};
    use protocol::{DriveId, GroupId, NodeId, ReplicaId};
    use raft::eraftpb::EntryType;

    /// Writes the version at which it applied a command under the command.
    struct Machine(u32);

    impl StateMachine for Machine {
        fn version(&self) -> u32 {
            self.0
        }

        fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
            let version = rows.version();
            rows.put(command, &version.to_le_bytes());
            vec![version as u8]
        }

        fn refounded(&self, _: &mut RowsMut<'_>) {}

        fn query(&self, _: &Rows<'_>, _: &[u8]) -> Vec<u8> {
            Vec::new()
        }
    }

    fn entry(index: u64, kind: EntryType, data: Vec<u8>) -> Entry {
        let mut entry = Entry::default();
        entry.set_entry_type(kind);
        (entry.index, entry.term, entry.data) = (index, 1, data.into());
        entry
    }

    /// Panics at a command.
    struct Broken;

    impl StateMachine for Broken {
        fn apply(&self, _: &mut RowsMut<'_>, _: &[u8]) -> Vec<u8> {
            panic!("a bug of the state machine")
        }

        fn refounded(&self, _: &mut RowsMut<'_>) {}

        fn query(&self, _: &Rows<'_>, _: &[u8]) -> Vec<u8> {
            Vec::new()
        }
    }

    #[test]
    fn closing_writes_nothing_and_leaves_the_last_checkpoint() {
        for panics in [false, true] {
            let memory = Arc::new(MemoryDisk::default());
            let disk: Arc<dyn Disk> = memory.clone();
            let key = Key { group: GroupId(1), replica: ReplicaId(1) };
            let place = ReplicaPlace { replica: key.replica, node: NodeId(1), drive: DriveId(1) };
            let members = Members::founding(&GroupSpec { group: key.group, voters: vec![place] });
            let meta = Meta { key, applied: 0, term: 0, members, state_hash: 0, marks: Vec::new() };
            let name = format!("{}/state", crate::log::FOLDER);
            let state = State::create(&disk, &name, 1 << 20, 1024, meta).unwrap();
            let command = |index| entry(index, EntryType::EntryNormal, wire::encode_command(None, b"row"));
            state.apply(&Machine(1), &[command(1)]).unwrap();
            state.checkpoint().unwrap();
            state.apply(&Machine(1), &[command(2)]).unwrap();
            if panics {
                assert!(catching(|| state.apply(&Broken, &[command(3)])).is_err());
            }
            let before = memory.bytes(&name);
            drop(state);
            assert!(memory.bytes(&name) == before, "panics: {panics}");
            assert_eq!(State::open(&disk, &name, 1 << 20, 1024, key, 1).unwrap().meta().applied, 1);
        }
    }

    #[test]
    fn a_state_with_a_configuration_that_cannot_be_does_not_open() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let key = Key { group: GroupId(1), replica: ReplicaId(1) };
        let place = ReplicaPlace { replica: key.replica, node: NodeId(1), drive: DriveId(1) };
        let name = format!("{}/state", crate::log::FOLDER);
        for (group, voters, opens) in
            [(1, vec![place], true), (1, vec![place, place], false), (1, Vec::new(), false), (2, vec![place], false)]
        {
            let members = Members::founding(&GroupSpec { group: GroupId(group), voters });
            let meta = Meta { key, applied: 0, term: 0, members, state_hash: 0, marks: Vec::new() };
            drop(State::create(&disk, &name, 1 << 20, 1024, meta).unwrap());
            assert_eq!(State::open(&disk, &name, 1 << 20, 1024, key, 1).is_ok(), opens);
        }
    }

    #[test]
    fn a_raised_version_holds_for_what_follows_and_stops_a_program_that_does_not_know_it() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let key = Key { group: GroupId(1), replica: ReplicaId(1) };
        let place = ReplicaPlace { replica: key.replica, node: NodeId(1), drive: DriveId(1) };
        let members = Members::founding(&GroupSpec { group: key.group, voters: vec![place] });
        let meta = Meta { key, applied: 0, term: 0, members, state_hash: 0, marks: Vec::new() };
        let name = format!("{}/state", crate::log::FOLDER);
        let state = State::create(&disk, &name, 1 << 20, 1024, meta).unwrap();
        let command = |index, name: &[u8]| entry(index, EntryType::EntryNormal, wire::encode_command(None, name));
        let raise = entry(2, EntryType::EntryConfChangeV2, Change::Raise(2).encode());
        let entries = [command(1, b"before"), raise, command(3, b"after")];
        let refused = state.apply(&Machine(1), &entries).err().expect("it does not know version 2");
        assert!(refused.is_newer() && refused.to_string().contains("version 2"), "{refused}");
        assert_eq!(state.meta().applied, 0, "nothing of it was applied");
        let applied = state.apply(&Machine(2), &entries).unwrap();
        let replies: Vec<&[u8]> = applied.answers.iter().map(|(.., reply)| reply.as_ref()).collect();
        assert_eq!((replies[0], replies[2]), (&[1][..], &[2][..]));
        state.checkpoint().unwrap();
        drop(state);
        let open = |known| State::open(&disk, &name, 1 << 20, 1024, key, known);
        assert!(open(1).err().is_some_and(|error| error.is_newer()));
        let state = open(2).unwrap();
        assert_eq!(state.apply(&Machine(3), &[command(4, b"later")]).unwrap().answers[0].3, Bytes::from_static(&[2]));
        let mut rows = MemoryRows::default();
        assert_eq!(Machine(2).apply(&mut rows.rows_mut(), b"x"), [1], "rows in memory begin at version 1");
    }
}
