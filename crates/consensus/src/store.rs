//! What raft-rs reads of a replica's log: entries in memory, as they stand or soon will stand on the drive.
//!
//! Entries are put here before their batch is written, as raft-rs asks of asynchronous appends; it is told that they
//! persist only afterwards. Memory is bounded by checkpoints: see `Settings::log_memory_bytes`.

use crate::log::{Hard, Start};
use crate::wire::SnapshotOffer;
use protocol::ReplicaId;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Store {
    pub hard: Hard,
    /// As of the applied index at the opening; later ones are Raft's own business.
    conf: ConfState,
    pub start: Start,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Frozen rows that followers may fetch.
    pub offer: Option<SnapshotOffer>,
    /// Raft asked for a snapshot and there was none that would do.
    wanted: AtomicBool,
}

fn weight(entry: &Entry) -> usize {
    entry.data.len() + size_of::<Entry>()
}

impl Store {
    pub(crate) fn new(hard: Hard, conf: ConfState, start: Start, entries: impl IntoIterator<Item = Entry>) -> Store {
        let mut store = Store { hard, conf, start, entries: VecDeque::new(), bytes: 0, offer: None, wanted: AtomicBool::new(false) };
        store.append(&entries.into_iter().collect::<Vec<_>>());
        store
    }

    pub(crate) fn last(&self) -> u64 {
        self.start.index + self.entries.len() as u64
    }

    /// Bytes of memory that the entries take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The entry at `index`, if it is not cut.
    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.start.index + 1)?).ok()?)
    }

    /// Somebody other than Raft wants a snapshot.
    pub(crate) fn want_offer(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    /// Replace everything from the first of `entries` on by them.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.start.index && first.index <= self.last() + 1, "Raft appends without gaps and never below the cut");
        while self.last() >= first.index {
            let dropped = self.entries.pop_back().expect("last() counts it");
            self.bytes -= weight(&dropped);
        }
        for entry in entries {
            self.bytes += weight(entry);
            self.entries.push_back(entry.clone());
        }
    }

    /// Drop entries from the front, up to `index` at most, until no more than `bytes` are left. Returns the new start
    /// if it moved.
    pub(crate) fn cut(&mut self, index: u64, bytes: usize) -> Option<Start> {
        let before = self.start;
        while self.bytes > bytes
            && let Some(front) = self.entries.front()
            && front.index <= index
        {
            self.start = Start { index: front.index, term: front.term };
            self.bytes -= weight(front);
            self.entries.pop_front();
        }
        (self.start != before).then_some(self.start)
    }

    /// A snapshot took the place of everything.
    pub(crate) fn reset(&mut self, start: Start) {
        self.start = start;
        self.entries.clear();
        self.bytes = 0;
        self.offer = None;
    }
}

impl Storage for Store {
    fn initial_state(&self) -> Result<RaftState> {
        let mut hard = HardState::default();
        (hard.term, hard.vote, hard.commit) = (self.hard.term, self.hard.vote, self.hard.commit);
        Ok(RaftState::new(hard, self.conf.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> Result<Vec<Entry>> {
        if low <= self.start.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut found = Vec::new();
        for index in low..high {
            let entry = &self.entries[(index - self.start.index - 1) as usize];
            size += entry.data.len() as u64 + 16;
            if size > max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.start.index {
            return Ok(self.start.term);
        }
        if index < self.start.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.entries.get((index - self.start.index - 1) as usize).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.start.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        match &self.offer {
            // Whoever installs it must be able to go on from this log, and a new replica find itself in it.
            Some(offer)
                if offer.index >= request_index && offer.index >= self.start.index && offer.members.place(ReplicaId(to)).is_some() =>
            {
                Ok(offer.to_raft())
            }
            _ => {
                self.wanted.store(true, Ordering::Relaxed);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    #[test]
    fn appending_replaces_the_tail_and_cutting_keeps_what_is_above() {
        let mut store = Store::new(Hard::default(), ConfState::default(), Start::default(), (1..=5).map(|index| entry(index, 1)));
        store.append(&[entry(4, 2)]);
        assert_eq!((store.last(), store.term(4).unwrap(), store.term(3).unwrap()), (4, 2, 1));
        assert_eq!(store.cut(3, 0), Some(Start { index: 3, term: 1 }));
        assert_eq!(store.cut(3, 0), None);
        assert_eq!(store.term(3).unwrap(), 1);
        assert_eq!(store.term(2), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(store.entries(4, 5, None, GetEntriesContext::empty(false)).unwrap(), vec![entry(4, 2)]);
        assert!(store.entries(3, 5, None, GetEntriesContext::empty(false)).is_err());
        store.reset(Start { index: 9, term: 3 });
        assert_eq!((store.first_index().unwrap(), store.last(), store.bytes()), (10, 9, 0));
    }
}
