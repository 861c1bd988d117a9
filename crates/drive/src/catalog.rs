//! The catalog of a slot: which shards are in its file, and where. Rebuilt from the records when a slot is opened.
//! Invariant: every entry's record was durable before the entry was made, or was verified by recovery.

use protocol::BlobId;
use std::collections::BTreeMap;
use std::ops::Bound;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Of the record's header.
    pub offset: u64,
    pub header_bytes: u32,
    pub shard_bytes: u32,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Catalog {
    entries: BTreeMap<BlobId, Entry>,
    bytes: u64,
}

impl Catalog {
    pub(crate) fn get(&self, blob: &BlobId) -> Option<Entry> {
        self.entries.get(blob).copied()
    }

    /// Enter a shard that is not there yet.
    pub(crate) fn insert(&mut self, blob: BlobId, entry: Entry) {
        self.bytes += u64::from(entry.shard_bytes);
        let former = self.entries.insert(blob, entry);
        assert!(former.is_none(), "{blob:?} is appended once");
    }

    pub(crate) fn remove(&mut self, blob: &BlobId) {
        if let Some(entry) = self.entries.remove(blob) {
            self.bytes -= u64::from(entry.shard_bytes);
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Bytes of all shards, without headers.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// At most `limit` entries after `after`, in order.
    pub(crate) fn page(&self, after: Option<BlobId>, limit: usize) -> Vec<(BlobId, Entry)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((start, Bound::Unbounded)).take(limit).map(|(&blob, &entry)| (blob, entry)).collect()
    }

    /// Entries whose records lie at or beyond `offset`.
    pub(crate) fn beyond(&self, offset: u64) -> Vec<(BlobId, Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.offset >= offset).map(|(&blob, &entry)| (blob, entry)).collect()
    }
}
