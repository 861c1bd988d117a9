//! Marks: indexes at which replicas of a group compare the hashes of their states (I9). All have the same ones in their states, every
//! so many entries; besides, a replica at rest takes its last entry for one, so that what differs shows where nothing is written for long.

use super::Replica;
use crate::members::MEMBERS_MAX;
use crate::wire::Note;
use protocol::{NodeId, ReplicaId};
use std::ops::RangeInclusive;

/// Marks of which what the others said is kept.
const MARKS_MAX: usize = 16;
/// A replica that applied nothing for so many ticks is at rest, and says what it holds as often as there are powers of two among them.
const REST_TICKS: RangeInclusive<u32> = 64..=1024;

/// Since when a replica has applied nothing.
#[derive(Default)]
pub(super) struct Rest {
    applied: u64,
    ticks: u32,
    /// Index and hash at the last rest.
    mark: Option<(u64, u64)>,
}

impl Replica {
    /// A tick of the clock. Index and hash for the others, if this replica has come to rest: a few times, as a word may be lost, each after
    /// twice as long.
    pub(crate) fn tick_rest(&mut self) -> Option<(u64, u64)> {
        if self.rest.applied != self.applied {
            (self.rest.applied, self.rest.ticks) = (self.applied, 0);
        }
        self.rest.ticks = self.rest.ticks.saturating_add(1);
        if !REST_TICKS.contains(&self.rest.ticks) || !self.rest.ticks.is_power_of_two() || self.job || self.applied == 0 {
            return None;
        }
        let meta = self.state.meta();
        self.rest.mark = Some((meta.applied, meta.state_hash));
        self.rest.mark
    }

    /// What every other replica is to hear of the hash at `index`.
    pub(crate) fn hash_for_others(&self, index: u64, hash: u64) -> Vec<(NodeId, Note)> {
        let note = |to| Note::Hash { group: self.key.group, to, from: self.key.replica, index, hash };
        self.others().into_iter().map(|other| (other.node, note(other.replica))).collect()
    }

    /// Its state is another's: what it had itself at its last rest says nothing of that.
    pub(crate) fn forget_rest(&mut self) {
        self.rest = Rest::default();
    }

    /// Another replica had this hash at the mark `index`. It counts as soon as it is known to vote; of those who are no members as far as
    /// this replica has come, no more are kept than there can be.
    pub(crate) fn note_hash(&mut self, from: ReplicaId, index: u64, hash: u64) {
        let heard = self.heard.entry(index).or_default();
        if self.members.place(from).is_some() || heard.len() < MEMBERS_MAX || heard.contains_key(&from) {
            heard.insert(from, hash);
        }
    }

    /// Compare hashes at the marks that this replica reached (I9). True if a majority of the group agrees on a hash
    /// that this replica does not have. Where no majority is known to agree, nothing is taken or answered any more.
    pub(crate) fn compare(&mut self) -> bool {
        let meta = self.state.meta();
        self.disputed = false;
        for (index, hash) in meta.marks.iter().chain(&self.rest.mark) {
            let Some(heard) = self.heard.get(index) else { continue };
            let mut known = heard.iter().filter(|(from, _)| self.members.place(**from).is_some());
            if known.all(|(_, other)| other == hash) {
                continue;
            }
            if !self.diverged {
                runtime::probe!("consensus-replicas-diverged");
                tracing::error!(replica = %self.key, index, hash, ?heard, "replicas that applied the same entries hold different states");
                self.diverged = true;
            }
            let voters = || heard.iter().filter(|(from, _)| self.members.is_voter(**from)).map(|(_, hash)| hash);
            for other in voters().filter(|other| *other != hash) {
                let count = voters().filter(|one| *one == other).count();
                if count > self.members.voters.len() / 2 {
                    return true;
                }
            }
            let own = usize::from(self.members.is_voter(self.key.replica)) + voters().filter(|other| *other == hash).count();
            self.disputed |= own <= self.members.voters.len() / 2;
        }
        // What was said of an index that this replica went past, and of which it has no hash, is of no use any more.
        let marked = |index| meta.marks.iter().chain(&self.rest.mark).any(|(marked, _)| *marked == index);
        self.heard.retain(|index, _| *index >= meta.applied || marked(*index));
        while self.heard.len() > MARKS_MAX {
            self.heard.pop_first();
        }
        false
    }
}
