//! How a replica that lost entries of its log, or its state, gets them back from its group. Pure: what the others say goes
//! in, what may be believed comes out.
//!
//! A crippled replica has promised things: its term and vote, and for each entry that it acknowledged, that it has it. Term
//! and vote are intact (a replica without them is never healed, only replaced). While entries are lost it keeps its
//! promises by silence: it neither votes nor acknowledges. It runs again when each lost entry was dealt with in one of these
//! ways, and no other:
//!
//! - **The very entry.** Somebody, crippled or not, has an intact entry of the same index and term. One leader makes the
//!   entries of a term, each index once: it is the one that was lost. Its bytes are covered by checksums all the way.
//! - **Committed.** Somebody knows that the index is committed and has an intact entry there. If it is of another term than
//!   the lost one, the lost one was never committed and never will be: it goes, with all that followed it here. If what was
//!   lost there is not known, but that it was committed is, then this is it.
//! - **Disowned by the leader.** Who leads in a term no lower than this replica's has every entry that was or can be
//!   committed in terms below its own (that this replica takes part in none of those since is what keeps it true). An entry
//!   of an older term that its log does not have there goes, with all that followed it. An entry whose term is not known is
//!   replaced by the leader's, with all that follows, once what stands before it here is known to be the leader's, too: logs
//!   that have an entry in common have all before it in common, and Raft rests on that.
//! - **In a state.** Where the others have cut their logs, a state that covers the index is fetched.
//! - **Behind the own checkpoint.** Nobody needs it (that is dealt with before anybody is asked).
//!
//! With an entry comes what its giver knows to be committed, up to there: Raft lets nobody have an entry durably without it,
//! and looks no further for changes of members that it has to apply before it stands for election. Who has `Leave` would
//! otherwise campaign among the voters before the exchange that it ends.
//!
//! An entry that nobody has and no leader disowns may have been acknowledged by a quorum: its replica stays crippled, and
//! says what it misses. Time never gives an entry up.

use crate::log::{Hard, Record, Run, Start, runs};
use raft::eraftpb::Entry;
use std::collections::BTreeMap;

/// What is left of the log of a replica that does not run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Patient {
    pub hard: Hard,
    pub start: Start,
    /// Intact entries, by index.
    pub entries: BTreeMap<u64, Entry>,
    /// Index and term of those that are lost; the term is 0 where it is not known.
    pub lost: BTreeMap<u64, u64>,
    /// What its state has applied; `None` if the state is lost.
    pub applied: Option<Start>,
}

/// What another replica says of its log where it was asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Testimony {
    pub term: u64,
    /// It leads in that term.
    pub leads: bool,
    /// Entries up to this are committed.
    pub commit: u64,
    /// Its log begins after this, and all up to there is committed.
    pub start: u64,
    /// Its log ends here.
    pub last: u64,
    /// As a leader: the asker has acknowledged entries up to this.
    pub acknowledged: u64,
    /// Intact entries among those asked for, by index.
    pub entries: BTreeMap<u64, Entry>,
}

/// What came of hearing the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cure {
    /// Entries that were found.
    pub found: u64,
    /// The own entries from here on were never committed and never will be: they are gone.
    pub superseded: Option<u64>,
    /// The own entries from here on count as lost and unknown now: the leader has others before them.
    pub doubted: Option<u64>,
    /// A state that covers this index is needed.
    pub state: Option<u64>,
    /// Entries of which nobody who answered can say anything.
    pub missing: u64,
    /// What the others say contradicts what this replica knows: it stays as it is.
    pub contradiction: Option<String>,
}

/// What becomes of a lost entry.
enum Fate {
    /// This is it, or what was committed in its place where it is not known.
    Found(Entry),
    /// The leader has this there; whether it is what was lost nobody knows.
    Replaced(Entry),
    /// The own log from this index on was never committed and never will be.
    Superseded(u64),
    InState,
    Missing,
}

impl Patient {
    /// The end of the log, lost entries included.
    pub(crate) fn last(&self) -> u64 {
        let lost = self.lost.keys().next_back().copied().unwrap_or(0);
        self.entries.keys().next_back().copied().unwrap_or(0).max(lost).max(self.start.index)
    }

    /// What to ask the others for, at most `count_max` entries of it: what is lost, and what stands before an entry that is not
    /// even known.
    pub(crate) fn wanted(&self, count_max: usize) -> Vec<Run> {
        let mut names = self.lost.clone();
        let unknown = self.lost.iter().filter(|(_, term)| **term == 0).map(|(index, _)| index.saturating_sub(1));
        let before = unknown.filter(|index| *index > self.hard.commit).filter_map(|index| self.entries.get(&index));
        names.extend(before.map(|entry| (entry.index, entry.term)));
        runs(names.into_iter().take(count_max))
    }

    /// Entries that the own state has applied are needed no more, lost or not. True if that changed anything.
    pub(crate) fn lean_on_state(&mut self) -> bool {
        match self.applied {
            Some(applied) if self.lost.first_key_value().is_some_and(|(index, _)| *index <= applied.index) => {
                runtime::probe!("consensus-rot-behind-checkpoint");
                self.cover(applied);
                true
            }
            _ => false,
        }
    }

    /// A state that ends at `state` covers everything up to there; what stands behind is kept if it may follow it.
    pub(crate) fn cover(&mut self, state: Start) {
        let own = self.entries.get(&state.index).map(|entry| entry.term).or(self.lost.get(&state.index).copied());
        let same = match own {
            _ if state.index == self.start.index => true,
            Some(0) => state.index <= self.hard.commit,
            Some(term) => term == state.term,
            // It ends before, or has nothing to tell.
            None => false,
        };
        match (same, own) {
            (true, _) => {}
            (false, Some(0)) => self.doubt(state.index + 1),
            (false, _) => self.end_before(state.index),
        }
        self.entries = self.entries.split_off(&(state.index + 1));
        self.lost = self.lost.split_off(&(state.index + 1));
        self.start = state;
        self.applied = Some(state);
        self.hard.commit = self.hard.commit.max(state.index);
        self.reach(state.term);
    }

    /// Nothing in the log is of a higher term than its replica takes part in. In a term that is new to it, it has not voted.
    fn reach(&mut self, term: u64) {
        if term > self.hard.term {
            (self.hard.term, self.hard.vote) = (term, 0);
        }
    }

    /// Judge what `witnesses` said, and take it over.
    pub(crate) fn hear(&mut self, witnesses: &[Testimony]) -> Cure {
        let mut cure = Cure::default();
        // A deposed leader of a lower term may be without entries that a later one committed.
        let leader = witnesses.iter().find(|one| one.leads && one.term >= self.hard.term);
        let acknowledged = leader.map_or(0, |leader| leader.acknowledged);
        if acknowledged > self.last() {
            // Bytes are gone of which nothing showed it, so votes may be gone as well.
            cure.contradiction = Some(format!("it acknowledged entries up to {acknowledged}, its log ends at {}", self.last()));
            return cure;
        }
        if self.applied.is_none() {
            cure.state = Some(self.start.index);
        }
        for (index, term) in self.lost.clone() {
            match self.judge(index, term, witnesses, leader) {
                Fate::Found(entry) => {
                    self.fill(entry, witnesses);
                    cure.found += 1;
                }
                Fate::Replaced(entry) => {
                    self.fill(entry, witnesses);
                    cure.found += 1;
                    cure.doubted = Some(index + 1);
                    self.doubt(index + 1);
                    return cure;
                }
                Fate::Superseded(_) if index <= self.hard.commit => {
                    cure.contradiction = Some(format!("entry {index} of term {term} was committed, and others have another one there"));
                    return cure;
                }
                Fate::Superseded(from) => {
                    runtime::probe!("consensus-lost-entry-superseded");
                    cure.superseded = Some(from);
                    self.end_before(from);
                    return cure;
                }
                Fate::InState => cure.state = cure.state.max(Some(index)),
                Fate::Missing => cure.missing += 1,
            }
        }
        cure
    }

    fn judge(&self, index: u64, term: u64, witnesses: &[Testimony], leader: Option<&Testimony>) -> Fate {
        let very = witnesses.iter().filter_map(|one| one.entries.get(&index)).find(|entry| term != 0 && entry.term == term);
        if let Some(entry) = very {
            return Fate::Found(entry.clone());
        }
        let committed = witnesses.iter().filter(|one| one.commit >= index).find_map(|one| one.entries.get(&index));
        let of_leader = leader.and_then(|leader| leader.entries.get(&index));
        if term == 0 {
            match (committed.or(of_leader), of_leader) {
                (Some(entry), _) if index <= self.hard.commit => return Fate::Found(entry.clone()),
                (_, Some(entry)) => return self.judge_unknown(entry, leader),
                _ => {}
            }
        } else if committed.is_some() {
            return Fate::Superseded(index);
        }
        // Every entry of its own term the leader made itself.
        let disowned = |leader: &Testimony| term < leader.term && (of_leader.is_some() || leader.last < index);
        if leader.is_some_and(disowned) {
            return Fate::Superseded(index);
        }
        if witnesses.iter().any(|one| one.start >= index) { Fate::InState } else { Fate::Missing }
    }

    /// The leader has `entry` where it is not known what was lost: it may follow only what the leader has before it.
    fn judge_unknown(&self, entry: &Entry, leader: Option<&Testimony>) -> Fate {
        let before = entry.index - 1;
        if before <= self.hard.commit.max(self.start.index) {
            return Fate::Replaced(entry.clone());
        }
        let Some((leader, own)) = leader.zip(self.entries.get(&before)) else { return Fate::Missing };
        match leader.entries.get(&before) {
            Some(other) if other.term == own.term => Fate::Replaced(entry.clone()),
            Some(_) if own.term < leader.term => Fate::Superseded(before),
            None if leader.start >= before => Fate::InState,
            _ => Fate::Missing,
        }
    }

    /// Put an entry in. Who has the same entry has the same before it: what it knows to be committed of that is so here, too.
    fn fill(&mut self, entry: Entry, witnesses: &[Testimony]) {
        runtime::probe!("consensus-lost-entry-fetched");
        let has_it = |one: &&Testimony| one.entries.get(&entry.index).is_some_and(|other| other.term == entry.term);
        let committed = witnesses.iter().filter(has_it).map(|one| one.commit.min(entry.index)).max();
        self.hard.commit = self.hard.commit.max(committed.unwrap_or(0));
        self.reach(entry.term);
        self.lost.remove(&entry.index);
        self.entries.insert(entry.index, entry);
    }

    fn doubt(&mut self, from: u64) {
        let last = self.last();
        self.end_before(from);
        self.lost.extend((from..=last).map(|index| (index, 0)));
    }

    fn end_before(&mut self, index: u64) {
        self.entries.split_off(&index);
        self.lost.split_off(&index);
    }

    /// What is lost of its log, if anything is.
    pub(crate) fn damage(&self) -> Option<String> {
        let told = |run: &Run| format!("{} to {} of term {}", run.first, run.first + run.count - 1, run.term);
        let runs = runs(self.lost.iter().map(|(index, term)| (*index, *term)));
        (!runs.is_empty()).then(|| format!("entries {}", runs.iter().map(told).collect::<Vec<_>>().join(", ")))
    }

    /// Go on with what stands before the first lost entry, as if nothing had been acknowledged behind. What a planted bug does.
    pub(crate) fn forget_lost(&mut self) {
        if let Some(first) = self.lost.keys().next().copied() {
            self.end_before(first);
            self.hard.commit = self.hard.commit.min(first - 1);
        }
    }

    /// The records that write it into a log anew: first that all before is gone, then each run of entries, intact or lost.
    pub(crate) fn records(&self, head: Record) -> Vec<Record> {
        let key = head.key;
        let mut records = vec![Record { hard: Some(self.hard), start: Some(self.start), reset: true, ..head }];
        let last = |records: &mut Vec<Record>| records.pop().expect("the head is there");
        for index in self.start.index + 1..=self.last() {
            let mut record = last(&mut records);
            match self.entries.get(&index) {
                Some(entry) if record.entries.last().map_or(record.lost.is_empty(), |before| before.index + 1 == index) => {
                    record.entries.push(entry.clone());
                    records.push(record);
                }
                Some(entry) => records.extend([record, Record { key, entries: vec![entry.clone()], ..Record::default() }]),
                None => {
                    let term = self.lost.get(&index).copied().unwrap_or(0);
                    let one = Run { first: index, count: 1, term };
                    match record.lost.last_mut() {
                        Some(before) if before.first + before.count == index && before.term == term => before.count += 1,
                        _ if record.entries.is_empty() => record.lost.push(one),
                        _ => records.push(std::mem::replace(&mut record, Record { key, lost: vec![one], ..Record::default() })),
                    }
                    records.push(record);
                }
            }
        }
        records
    }
}

#[cfg(test)]
#[path = "refetch_tests.rs"]
mod tests;
