//! Marks: indexes at which replicas of a group compare the hashes of their states (I9).

use super::Replica;
use crate::members::MEMBERS_MAX;
use protocol::ReplicaId;

/// Marks of which what the others said is kept.
const MARKS_MAX: usize = 16;

impl Replica {
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
        for (index, hash) in &meta.marks {
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
        let oldest = meta.marks.first().map_or(0, |(index, _)| *index);
        self.heard = self.heard.split_off(&oldest);
        while self.heard.len() > MARKS_MAX {
            self.heard.pop_first();
        }
        false
    }
}
