//! Ordered rows of one replica, as its state machine sees them.
//!
//! Always holds: a state machine never sees an answer that a failing drive made up. A row that cannot be read or
//! written unwinds out of the state machine ([`StorageFailure`], caught where it was called), the transaction is
//! aborted, and the replica stops.
//!
//! In a database each value stands behind the CRC-32C of its key and itself. Rot on the drive does not get as far ([`crate::sums`]); this
//! is for whatever happens to a row on its way through memory.
//!
//! Every write goes into the rolling state hash, in order: replicas that applied the same commands have the same
//! hash (I9), and a machine that is not deterministic shows.

use bytes::Bytes;
use redb::{ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Rows of the state machine in a replica's database.
pub(crate) const ROWS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("rows");
/// Replies kept for retried commands, in a replica's database.
pub(crate) const SESSIONS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("sessions");

/// What unwinds out of a state machine when a row cannot be read or written.
pub(crate) struct StorageFailure(pub redb::StorageError);

/// A consistent snapshot of a replica's rows.
pub struct Rows<'a> {
    inner: RowsInner<'a>,
}

enum RowsInner<'a> {
    Database(&'a redb::ReadOnlyTable<&'static [u8], &'static [u8]>),
    Memory(&'a BTreeMap<Vec<u8>, Bytes>),
}

/// A replica's rows inside the transaction that applies commands; reads see the writes before them.
pub struct RowsMut<'a> {
    inner: RowsMutInner<'a>,
    hash: &'a mut StateHash,
    version: u32,
}

enum RowsMutInner<'a> {
    Database(redb::Table<'a, &'static [u8], &'static [u8]>),
    Memory(&'a mut BTreeMap<Vec<u8>, Bytes>),
}

/// Rolling hash over every row write of a replica since its group began: CRC-64/NVME over the hash before, a tag
/// of the table, and key and value with their lengths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct StateHash(pub u64);

impl StateHash {
    pub(crate) const TAG_ROWS: u8 = 1;
    pub(crate) const TAG_SESSIONS: u8 = 2;
    pub(crate) const TAG_MEMBERS: u8 = 3;

    /// Take in one write; `None` is a removal.
    pub(crate) fn write(&mut self, tag: u8, key: &[u8], value: Option<&[u8]>) {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        let mut head = [0; 26];
        head[..8].copy_from_slice(&self.0.to_le_bytes());
        head[8] = tag;
        head[9] = u8::from(value.is_some());
        head[10..18].copy_from_slice(&(key.len() as u64).to_le_bytes());
        head[18..].copy_from_slice(&(value.map_or(0, <[u8]>::len) as u64).to_le_bytes());
        digest.update(&head);
        digest.update(key);
        digest.update(value.unwrap_or_default());
        self.0 = digest.finalize();
    }
}

fn or_unwind<T>(result: Result<T, redb::StorageError>) -> T {
    match result {
        Ok(value) => value,
        // Not a panic of ours: no hook runs and no message is printed; who called the machine catches it.
        Err(error) => std::panic::resume_unwind(Box::new(StorageFailure(error))),
    }
}

/// `value` as it stands in a database: behind the CRC-32C (little endian) of key and value.
pub(crate) fn encode_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(value.len() + 4);
    stored.extend_from_slice(&value_crc(key, value).to_le_bytes());
    stored.extend_from_slice(value);
    stored
}

/// The value in what [`encode_value`] made, if it is whole.
pub(crate) fn decode_value<'v>(key: &[u8], stored: &'v [u8]) -> Result<&'v [u8], redb::StorageError> {
    match stored.split_first_chunk::<4>() {
        Some((sum, value)) if u32::from_le_bytes(*sum) == value_crc(key, value) => Ok(value),
        _ => Err(redb::StorageError::Corrupted(format!("row {} fails its checksum", key.escape_ascii()))),
    }
}

fn value_crc(key: &[u8], value: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&(key.len() as u64).to_le_bytes());
    digest.update(key);
    digest.update(value);
    digest.finalize() as u32
}

fn get_from(table: &impl ReadableTable<&'static [u8], &'static [u8]>, key: &[u8]) -> Option<Bytes> {
    let stored = or_unwind(table.get(key))?;
    Some(Bytes::copy_from_slice(or_unwind(decode_value(key, stored.value()))))
}

fn scan_table(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    from: &[u8],
    to: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) {
    if from >= to {
        return;
    }
    for row in or_unwind(table.range::<&[u8]>(from..to)) {
        let (key, value) = or_unwind(row);
        if !visit(key.value(), or_unwind(decode_value(key.value(), value.value()))) {
            return;
        }
    }
}

fn scan_memory(rows: &BTreeMap<Vec<u8>, Bytes>, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
    if from >= to {
        return;
    }
    for (key, value) in rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
        if !visit(key, value) {
            return;
        }
    }
}

fn last_of_table(table: &impl ReadableTable<&'static [u8], &'static [u8]>, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
    if from >= to {
        return None;
    }
    let (key, value) = or_unwind(or_unwind(table.range::<&[u8]>(from..to)).next_back()?);
    let whole = or_unwind(decode_value(key.value(), value.value()));
    Some((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(whole)))
}

fn last_of_memory(rows: &BTreeMap<Vec<u8>, Bytes>, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
    if from >= to {
        return None;
    }
    let (key, value) = rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).next_back()?;
    Some((Bytes::copy_from_slice(key), value.clone()))
}

fn first_of(scan: impl FnOnce(&mut dyn FnMut(&[u8], &[u8]) -> bool)) -> Option<(Bytes, Bytes)> {
    let mut found = None;
    scan(&mut |key, value| {
        found = Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        false
    });
    found
}

impl<'a> Rows<'a> {
    pub(crate) fn of_table(table: &'a redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Rows<'a> {
        Rows { inner: RowsInner::Database(table) }
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        match &self.inner {
            RowsInner::Database(table) => get_from(*table, key),
            RowsInner::Memory(rows) => rows.get(key).cloned(),
        }
    }

    /// The first row with `from <= key < to`.
    pub fn first(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        first_of(|visit| self.scan(from, to, visit))
    }

    /// The last row with `from <= key < to`.
    pub fn last(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        match &self.inner {
            RowsInner::Database(table) => last_of_table(*table, from, to),
            RowsInner::Memory(rows) => last_of_memory(rows, from, to),
        }
    }

    /// Visit rows with `from <= key < to` in order until `visit` returns false.
    pub fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        match &self.inner {
            RowsInner::Database(table) => scan_table(*table, from, to, visit),
            RowsInner::Memory(rows) => scan_memory(rows, from, to, visit),
        }
    }
}

impl<'a> RowsMut<'a> {
    pub(crate) fn of_table(table: redb::Table<'a, &'static [u8], &'static [u8]>, hash: &'a mut StateHash, version: u32) -> RowsMut<'a> {
        RowsMut { inner: RowsMutInner::Database(table), hash, version }
    }

    /// The version of commands and rows at which this group is, see [`StateMachine::version`](crate::StateMachine::version).
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Commands after this one are applied at `version`.
    pub(crate) fn set_version(&mut self, version: u32) {
        self.version = version;
    }

    /// The rolling hash, for writes beside the rows.
    pub(crate) fn hash(&mut self) -> &mut StateHash {
        self.hash
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        match &self.inner {
            RowsMutInner::Database(table) => get_from(table, key),
            RowsMutInner::Memory(rows) => rows.get(key).cloned(),
        }
    }

    /// The first row with `from <= key < to`.
    pub fn first(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        first_of(|visit| self.scan(from, to, visit))
    }

    /// The last row with `from <= key < to`.
    pub fn last(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        match &self.inner {
            RowsMutInner::Database(table) => last_of_table(table, from, to),
            RowsMutInner::Memory(rows) => last_of_memory(rows, from, to),
        }
    }

    /// Visit rows with `from <= key < to` in order until `visit` returns false.
    pub fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        match &self.inner {
            RowsMutInner::Database(table) => scan_table(table, from, to, visit),
            RowsMutInner::Memory(rows) => scan_memory(rows, from, to, visit),
        }
    }

    /// Set `key` to `value`.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.hash.write(StateHash::TAG_ROWS, key, Some(value));
        match &mut self.inner {
            RowsMutInner::Database(table) => {
                or_unwind(table.insert(key, encode_value(key, value).as_slice()));
            }
            RowsMutInner::Memory(rows) => {
                rows.insert(key.to_vec(), Bytes::copy_from_slice(value));
            }
        }
    }

    /// Remove `key` if it is there.
    pub fn remove(&mut self, key: &[u8]) {
        self.hash.write(StateHash::TAG_ROWS, key, None);
        match &mut self.inner {
            RowsMutInner::Database(table) => {
                or_unwind(table.remove(key));
            }
            RowsMutInner::Memory(rows) => {
                rows.remove(key);
            }
        }
    }
}

/// Rows in memory behind the same types: for the unit tests of state machines.
#[derive(Clone)]
pub struct MemoryRows {
    rows: BTreeMap<Vec<u8>, Bytes>,
    hash: StateHash,
    version: u32,
}

impl Default for MemoryRows {
    /// No rows, at version 1.
    fn default() -> MemoryRows {
        MemoryRows { rows: BTreeMap::new(), hash: StateHash::default(), version: 1 }
    }
}

impl MemoryRows {
    /// Rows for [`StateMachine::query`](crate::StateMachine::query).
    pub fn rows(&self) -> Rows<'_> {
        Rows { inner: RowsInner::Memory(&self.rows) }
    }

    /// Rows for [`StateMachine::apply`](crate::StateMachine::apply).
    pub fn rows_mut(&mut self) -> RowsMut<'_> {
        RowsMut { inner: RowsMutInner::Memory(&mut self.rows), hash: &mut self.hash, version: self.version }
    }

    /// From now on commands are applied at `version`.
    pub fn set_version(&mut self, version: u32) {
        self.version = version;
    }

    /// The rolling hash over every write so far: equal machines fed equal commands agree on it.
    pub fn state_hash(&self) -> u64 {
        self.hash.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(rows: &Rows<'_>, from: &[u8], to: &[u8]) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        rows.scan(from, to, &mut |key, _| {
            keys.push(key.to_vec());
            true
        });
        keys
    }

    #[test]
    fn scan_is_ordered_half_open_and_stops_when_told() {
        let mut memory = MemoryRows::default();
        for key in [b"b", b"a", b"d", b"c"] {
            memory.rows_mut().put(key, key);
        }
        memory.rows_mut().remove(b"c");
        let rows = memory.rows();
        assert_eq!(keys(&rows, b"a", b"d"), [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(keys(&rows, b"d", b"a"), Vec::<Vec<u8>>::new());
        assert_eq!(rows.first(b"aa", b"z"), Some((Bytes::from_static(b"b"), Bytes::from_static(b"b"))));
        assert_eq!(rows.last(b"a", b"d"), Some((Bytes::from_static(b"b"), Bytes::from_static(b"b"))));
        assert_eq!((rows.last(b"c", b"d"), rows.last(b"d", b"a")), (None, None));
        let mut seen = 0;
        rows.scan(b"", b"z", &mut |_, _| {
            seen += 1;
            false
        });
        assert_eq!(seen, 1);
    }

    #[test]
    fn database_rows_and_memory_rows_agree_row_by_row_and_hash_by_hash() {
        fn agree(writes: Vec<(u8, Option<Vec<u8>>)>) -> bool {
            let database = redb::Builder::new().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
            let transaction = database.begin_write().unwrap();
            let mut hash = StateHash::default();
            let mut memory = MemoryRows::default();
            {
                let mut rows = RowsMut::of_table(transaction.open_table(ROWS).unwrap(), &mut hash, 1);
                let mut reference = memory.rows_mut();
                for (key, value) in &writes {
                    match value {
                        Some(value) => {
                            rows.put(&[*key], value);
                            reference.put(&[*key], value);
                        }
                        None => {
                            rows.remove(&[*key]);
                            reference.remove(&[*key]);
                        }
                    }
                    assert_eq!(rows.get(&[*key]), reference.get(&[*key]));
                    assert_eq!(rows.first(&[*key], &[255]), reference.first(&[*key], &[255]));
                    assert_eq!(rows.last(&[0], &[*key]), reference.last(&[0], &[*key]));
                }
            }
            transaction.commit().unwrap();
            use redb::ReadableDatabase;
            let table = database.begin_read().unwrap().open_table(ROWS).unwrap();
            keys(&Rows::of_table(&table), b"", &[255]) == keys(&memory.rows(), b"", &[255]) && hash.0 == memory.state_hash()
        }
        quickcheck::quickcheck(agree as fn(Vec<(u8, Option<Vec<u8>>)>) -> bool);
    }

    #[test]
    fn state_hash_depends_on_order_key_value_and_table() {
        type Write<'a> = (u8, &'a [u8], Option<&'a [u8]>);
        let hash = |writes: &[Write<'_>]| {
            let mut hash = StateHash::default();
            for (tag, key, value) in writes {
                hash.write(*tag, key, *value);
            }
            hash.0
        };
        let base = hash(&[(1, b"a", Some(b"1")), (1, b"b", Some(b"2"))]);
        assert_ne!(base, hash(&[(1, b"b", Some(b"2")), (1, b"a", Some(b"1"))]));
        assert_ne!(base, hash(&[(2, b"a", Some(b"1")), (1, b"b", Some(b"2"))]));
        assert_ne!(hash(&[(1, b"ab", Some(b""))]), hash(&[(1, b"a", Some(b"b"))]));
        assert_ne!(hash(&[(1, b"a", Some(b""))]), hash(&[(1, b"a", None)]));
    }
}
