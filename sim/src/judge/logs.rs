//! The Raft logs on the raw drives: who holds which command durably.
//!
//! What counts as held is decided by the bytes of the drives alone; no node is asked. A node's word is taken only for how
//! far entries are committed, which decides what the [`Witness`] applies, never whether an acknowledgement was sound.

use super::drives::Drives;
use super::witness::{Version, Witness, Written};
use crate::next;
use crate::violation::Violation;
use consensus::inspect::{LogView, LoggedEntry, ReplicaLog};
use consensus::{GroupSpec, ReplicaPlace};
use protocol::{BlobId, DriveId, GroupId, Home, ROOT, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// The logs of all drives, read as far as they go.
pub struct Logs {
    groups: BTreeMap<GroupId, GroupSpec>,
    views: BTreeMap<DriveId, LogView>,
    witnesses: BTreeMap<GroupId, Witness>,
    /// Groups of which an entry was cut before it was read: from then on nothing can be said of them. They are not taken up
    /// again from a checkpoint's rows: those do not tell which entry wrote them, so that the gap would excuse whatever was
    /// acknowledged in it. The run has failed by then, and the judge must look more often.
    out_of_sight: BTreeSet<GroupId>,
    /// By which home each blob was named.
    homes: BTreeMap<BlobId, Home>,
}

impl Logs {
    pub fn new(groups: Vec<GroupSpec>) -> Logs {
        let witnesses = groups.iter().map(|spec| (spec.group, Witness::new(spec.group, next::machine(spec.group)))).collect();
        Logs {
            groups: groups.into_iter().map(|spec| (spec.group, spec)).collect(),
            views: BTreeMap::new(),
            witnesses,
            out_of_sight: BTreeSet::new(),
            homes: BTreeMap::new(),
        }
    }

    /// Take in what became durable since the last call. `committed` is how far the nodes say that a group is.
    pub fn advance(&mut self, drives: &Drives, committed: &BTreeMap<GroupId, u64>) -> Vec<Violation> {
        let mut found = Vec::new();
        let homes: BTreeSet<DriveId> = self.groups.values().flat_map(|spec| spec.voters.iter().map(|voter| voter.drive)).collect();
        for drive in homes {
            let disk = drives.durable(drive);
            if let Err(error) = self.views.entry(drive).or_default().advance(disk.as_ref()) {
                let text = format!("the log on {} cannot be followed: {error}", drives.label(drive));
                found.push(Violation::new("log-can-be-followed", text));
            }
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.witness_more(group, committed.get(&group).copied().unwrap_or(0));
            let witness = self.witnesses.get_mut(&group).expect("one for each group");
            found.extend(witness.take_broken());
            for (blob, home) in witness.take_named() {
                if let Some(other) = self.homes.insert(blob, home).filter(|other| *other != home) {
                    let text = format!("{blob:?} is named by {home:?} in group {group}, and was by {other:?}: it has two homes");
                    found.push(Violation::new("blob-home", text));
                }
            }
            let next = self.witnesses[&group].applied() + 1;
            let cut = |log: &ReplicaLog| log.start >= next && !log.entries.contains_key(&next);
            if self.logs(group).filter(|log| cut(log)).count() > self.groups[&group].voters.len() / 2 && self.out_of_sight.insert(group) {
                let text = format!("the judge lost sight of group {group}: entry {next} was cut before it was read");
                found.push(Violation::new("judge-sees-all", text));
            }
            for view in self.views.values_mut() {
                view.forget(group, next - 1);
            }
        }
        found
    }

    /// Whether something can be said of all groups.
    pub fn sees_all(&self) -> bool {
        self.out_of_sight.is_empty()
    }

    /// The witness of a group.
    pub fn witness(&self, group: GroupId) -> &Witness {
        &self.witnesses[&group]
    }

    /// The witness of the root group.
    pub fn root(&self) -> &Witness {
        self.witness(ROOT)
    }

    /// All partitions' witnesses.
    pub fn partitions(&self) -> impl Iterator<Item = &Witness> {
        self.witnesses.values().filter(|witness| witness.group != ROOT)
    }

    /// Replicas of a group of which each holds the entry `index` of `term` durably, and how many there are in all.
    pub fn holders(&self, group: GroupId, index: u64, term: u64) -> (usize, usize) {
        (self.logs(group).filter(|log| log.holds(index, term)).count(), self.groups[&group].voters.len())
    }

    /// Where the replicas of a group live.
    pub fn places(&self, group: GroupId) -> impl Iterator<Item = &ReplicaPlace> {
        self.groups[&group].voters.iter()
    }

    /// What the log of `drive` holds of a replica.
    pub fn log(&self, group: GroupId, replica: ReplicaId, drive: DriveId) -> Option<&ReplicaLog> {
        self.views.get(&drive)?.replica(group, replica)
    }

    /// Drives on which the replicas of a group live.
    pub fn voters(&self, group: GroupId) -> impl Iterator<Item = DriveId> {
        self.groups[&group].voters.iter().map(|voter| voter.drive)
    }

    /// The write of `key` that `is` picks, the newest first, with its group.
    pub fn find(&self, key: &str, is: impl Fn(&Written) -> bool) -> Option<(GroupId, &Written)> {
        self.partitions().find_map(|witness| Some((witness.group, witness.written(key).iter().rev().find(|written| is(written))?)))
    }

    /// Whether a record has named `blob`.
    pub fn has_home(&self, blob: BlobId) -> bool {
        self.homes.contains_key(&blob)
    }

    /// Every key's version at present.
    pub fn living(&self) -> impl Iterator<Item = (GroupId, &str, &Written, &Version)> {
        self.partitions()
            .flat_map(|witness| witness.living().into_iter().map(|(key, written, version)| (witness.group, key, written, version)))
    }

    fn logs(&self, group: GroupId) -> impl Iterator<Item = &ReplicaLog> {
        self.groups[&group].voters.iter().filter_map(move |voter| self.views.get(&voter.drive)?.replica(group, voter.replica))
    }

    /// Let the witness of `group` apply what is committed.
    fn witness_more(&mut self, group: GroupId, said: u64) {
        let written = self.logs(group).map(|log| log.commit).max().unwrap_or(0);
        let end = said.max(written).max(self.surely_committed(group));
        let mut entries = Vec::new();
        for index in self.witnesses[&group].applied() + 1..=end {
            // Cut everywhere, or not durable anywhere yet.
            let Some(entry) = self.held_by_most(group, index) else { break };
            entries.push((index, entry));
        }
        let witness = self.witnesses.get_mut(&group).expect("one for each group");
        entries.iter().for_each(|(index, entry)| witness.apply(*index, entry));
    }

    /// The last entry of the greatest term that a majority holds: by Raft's rule, it is committed with all before it.
    fn surely_committed(&self, group: GroupId) -> u64 {
        let majority = self.groups[&group].voters.len() / 2 + 1;
        let term = self.logs(group).map(|log| log.term).max().unwrap_or(0);
        let mut ends: Vec<u64> = self
            .logs(group)
            .filter_map(|log| log.entries.iter().next_back().filter(|(_, entry)| entry.term == term).map(|(index, _)| *index))
            .collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends.get(majority - 1).copied().unwrap_or(0)
    }

    fn held_by_most(&self, group: GroupId, index: u64) -> Option<LoggedEntry> {
        let mut terms: BTreeMap<u64, (usize, &LoggedEntry)> = BTreeMap::new();
        for entry in self.logs(group).filter_map(|log| log.entries.get(&index)) {
            terms.entry(entry.term).or_insert((0, entry)).0 += 1;
        }
        terms.into_iter().max_by_key(|(term, (count, _))| (*count, *term)).map(|(_, (_, entry))| entry.clone())
    }
}
