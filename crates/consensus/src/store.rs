//! What raft-rs reads of a replica's log: entries in memory, as they stand or soon will stand on the drive.
//!
//! Entries are put here before their batch is written, as raft-rs asks of asynchronous appends; it is told that they
//! persist only afterwards. What they take is bounded: see [`crate::budget`], and `Settings::log_memory_bytes` for what checkpoints cut.

use crate::budget::Share;
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
    /// Entries up to here are applied.
    applied: u64,
    /// Of `bytes`, those behind it.
    unapplied: usize,
    /// Bytes of entries that Raft was given and that are not here yet.
    coming: usize,
    /// Bytes of entries that stay behind a checkpoint.
    pub tail: usize,
    share: Share,
    /// Frozen rows that followers may fetch.
    pub offer: Option<SnapshotOffer>,
    /// Raft asked for a snapshot and there was none that would do.
    wanted: AtomicBool,
}

/// Bytes of memory that an entry takes.
pub(crate) fn weight(entry: &Entry) -> usize {
    weight_of(entry.data.len())
}

/// Bytes of memory that an entry with so many bytes of data takes.
pub(crate) fn weight_of(bytes: usize) -> usize {
    bytes + size_of::<Entry>()
}

impl Store {
    pub(crate) fn new(
        hard: Hard,
        conf: ConfState,
        start: Start,
        entries: impl IntoIterator<Item = Entry>,
        applied: u64,
        share: Share,
    ) -> Store {
        let (queue, wanted) = (VecDeque::new(), AtomicBool::new(false));
        let mut store =
            Store { hard, conf, start, entries: queue, bytes: 0, applied, unapplied: 0, coming: 0, tail: 0, share, offer: None, wanted };
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

    /// Of that, what checkpoints may give back.
    pub(crate) fn applied_bytes(&self) -> usize {
        self.bytes - self.unapplied
    }

    /// Bytes of memory that its group holds on to until it has committed, applied and checkpointed them, with those that are coming.
    pub(crate) fn held(&self) -> usize {
        (self.bytes + self.coming).saturating_sub(self.tail)
    }

    /// Raft was given entries of this weight, so they will be here when it is asked what it wants done.
    pub(crate) fn expect(&mut self, bytes: usize) {
        self.coming += bytes;
        self.count();
    }

    /// Raft wants nothing more done: whatever it took of what it was given is here.
    pub(crate) fn nothing_comes(&mut self) {
        self.coming = 0;
        self.count();
    }

    fn count(&mut self) {
        self.share.set(self.bytes + self.coming);
    }

    /// What it holds of the node's memory.
    pub(crate) fn share(&self) -> &Share {
        &self.share
    }

    /// Entries up to `index` are applied.
    pub(crate) fn applied_to(&mut self, index: u64) {
        let from = self.applied.max(self.start.index);
        let (skip, take) = (from - self.start.index, index.saturating_sub(from));
        let applied = self.entries.iter().skip(skip as usize).take(take as usize);
        self.unapplied -= applied.map(weight).sum::<usize>();
        self.applied = self.applied.max(index);
    }

    fn gain(&mut self, entry: &Entry) {
        self.bytes += weight(entry);
        if entry.index > self.applied {
            self.unapplied += weight(entry);
        }
    }

    fn lose(&mut self, entry: &Entry) {
        self.bytes -= weight(entry);
        if entry.index > self.applied {
            self.unapplied -= weight(entry);
        }
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
            self.lose(&dropped);
        }
        for entry in entries {
            self.coming = self.coming.saturating_sub(weight(entry));
            self.gain(entry);
            self.entries.push_back(entry.clone());
        }
        self.count();
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
            let front = self.entries.pop_front().expect("it is the front");
            self.lose(&front);
        }
        self.count();
        (self.start != before).then_some(self.start)
    }

    /// A snapshot took the place of everything.
    pub(crate) fn reset(&mut self, start: Start) {
        self.start = start;
        self.entries.clear();
        (self.bytes, self.applied, self.unapplied) = (0, start.index, 0);
        self.count();
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
    use crate::budget::Budget;
    use bytes::Bytes;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    #[test]
    fn appending_replaces_the_tail_and_cutting_keeps_what_is_above() {
        let share = Budget::new(0).share();
        let mut store = Store::new(Hard::default(), ConfState::default(), Start::default(), (1..=5).map(|index| entry(index, 1)), 0, share);
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

    #[test]
    fn what_is_held_and_what_of_it_is_not_applied_is_known_at_any_time() {
        let budget = Budget::new(0);
        let sized = |index, bytes| Entry { data: Bytes::from(vec![7; bytes]), ..entry(index, 1) };
        let weighs = |bytes: &[usize]| bytes.iter().map(|bytes| weight(&sized(1, *bytes))).sum::<usize>();
        let opened = (1..=3).map(|index| sized(index, 100 * index as usize));
        let mut store = Store::new(Hard::default(), ConfState::default(), Start::default(), opened, 2, budget.share());
        let check = |store: &Store, all: &[usize], unapplied: &[usize]| {
            assert_eq!((store.bytes(), store.unapplied), (weighs(all), weighs(unapplied)));
            assert_eq!(budget.held().entries, store.bytes());
        };
        check(&store, &[100, 200, 300], &[300]);
        store.append(&[sized(3, 30), sized(4, 40), sized(5, 50)]);
        check(&store, &[100, 200, 30, 40, 50], &[30, 40, 50]);
        store.applied_to(4);
        store.applied_to(3);
        check(&store, &[100, 200, 30, 40, 50], &[50]);
        store.cut(3, 0);
        check(&store, &[40, 50], &[50]);
        store.applied_to(5);
        check(&store, &[40, 50], &[]);
        store.append(&[sized(6, 60)]);
        store.reset(Start { index: 9, term: 2 });
        check(&store, &[], &[]);
        store.expect(weight_of(10) + weight_of(20));
        assert_eq!((store.bytes(), store.held(), budget.held().entries), (0, weighs(&[10, 20]), weighs(&[10, 20])));
        store.append(&[Entry { index: 10, ..sized(1, 10) }]);
        assert_eq!((store.bytes(), store.held(), budget.held().entries), (weighs(&[10]), weighs(&[10, 20]), weighs(&[10, 20])));
        store.nothing_comes();
        check(&store, &[10], &[10]);
        store.tail = 5;
        assert_eq!(store.held(), weighs(&[10]) - 5);
        drop(store);
        assert_eq!(budget.held().entries, 0);
    }
}
