//! The Raft logs on the raw drives: who holds which command durably.
//!
//! What counts as held is decided by the bytes of the drives alone; no node is asked. A node's word is taken only for how
//! far entries are committed, which decides what the [`Witness`] applies, never whether an acknowledgement was sound. Who belongs
//! to a group is read from its log as well, change by change.

use super::drives::Drives;
use super::refoundings::{Anew, Planned, Refoundings};
use super::witness::{Version, Witness, Written};
use crate::next;
use crate::violation::Violation;
use consensus::inspect::{LogView, LoggedEntry, ReplicaLog, decode_change};
use consensus::refounding::Refounding;
use consensus::{Change, GroupSpec, Members, ReplicaPlace};
use protocol::{BlobId, DriveId, GroupId, Home, ROOT, ReplicaId};
use runtime::disk::Disk;
use std::collections::{BTreeMap, BTreeSet};

/// The logs of all drives, read as far as they go.
pub struct Logs {
    /// By group: its configurations, each with the index of the entry that made it; the founding one has 0.
    groups: BTreeMap<GroupId, Vec<(u64, Members)>>,
    /// Drives that have, or are about to have, a replica.
    homes_of_replicas: BTreeSet<DriveId>,
    views: BTreeMap<DriveId, LogView>,
    witnesses: BTreeMap<GroupId, Witness>,
    /// Groups of which an entry was cut before it was read: from then on nothing can be said of them. They are not taken up
    /// again from a checkpoint's rows: those do not tell which entry wrote them, so that the gap would excuse whatever was
    /// acknowledged in it. The run has failed by then, and the judge must look more often.
    out_of_sight: BTreeSet<GroupId>,
    /// By which home each blob was named.
    homes: BTreeMap<BlobId, Home>,
    refoundings: Refoundings,
}

impl Logs {
    pub fn new(groups: Vec<GroupSpec>) -> Logs {
        let witnesses = groups.iter().map(|spec| (spec.group, Witness::new(spec.group, next::machine(spec.group)))).collect();
        let drives = groups.iter().flat_map(|spec| spec.voters.iter().map(|voter| voter.drive)).collect();
        Logs {
            groups: groups.into_iter().map(|spec| (spec.group, vec![(0, Members::founding(&spec))])).collect(),
            homes_of_replicas: drives,
            views: BTreeMap::new(),
            witnesses,
            out_of_sight: BTreeSet::new(),
            homes: BTreeMap::new(),
            refoundings: Refoundings::default(),
        }
    }

    /// Take in what became durable since the last call, when cluster time was `known_ms`. `committed` is how far the nodes say that
    /// a group is.
    pub fn advance(&mut self, drives: &Drives, committed: &BTreeMap<GroupId, u64>, known_ms: u64) -> Vec<Violation> {
        let mut found = Vec::new();
        found.extend(self.homes_of_replicas.clone().into_iter().filter_map(|drive| self.advance_drive(drive, drives)));
        // Before a replica is made, the log of its group names its drive.
        for drive in self.drives_to_come() {
            self.homes_of_replicas.insert(drive);
            found.extend(self.advance_drive(drive, drives));
        }
        for planned in self.refoundings.decided(&self.views) {
            found.extend(self.found_anew(planned, known_ms));
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.witness_more(group, committed.get(&group).copied().unwrap_or(0), known_ms);
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
            let members = self.members(group);
            if self.is_quorum(members, group, |log| log.is_some_and(cut)) && self.out_of_sight.insert(group) {
                let text = format!("the judge lost sight of group {group}: entry {next} was cut before it was read");
                found.push(Violation::new("judge-sees-all", text));
            }
            for view in self.views.values_mut() {
                view.forget(group, next - 1);
            }
        }
        found
    }

    /// An operator is about to found a group anew from a replica on `disk`.
    pub fn expect(&mut self, plan: &Refounding, disk: &dyn Disk) {
        self.refoundings.expect(plan, disk);
    }

    /// A group is what it was decided to be: it goes on with all that the survivor's log had, committed or not.
    fn found_anew(&mut self, planned: Planned, known_ms: u64) -> Option<Violation> {
        let group = planned.members.group;
        let mut next = self.witnesses[&group].applied() + 1;
        while let Some(entry) = planned.entries.get(&next).filter(|_| next < planned.index) {
            self.witnesses.get_mut(&group).expect("one for each group").apply(next, entry, known_ms);
            if let Some(change) = decode_change(&entry.data).filter(|_| entry.change) {
                self.follow(group, next, change);
            }
            next += 1;
        }
        let before = self.members(group).clone();
        self.refoundings.done(&planned, &before);
        self.witnesses.get_mut(&group).expect("one for each group").refounded(planned.index);
        let Planned { from, members, index, .. } = planned;
        self.groups.get_mut(&group).expect("one for each group").push((index, members));
        (next != index).then(|| {
            let text = format!("group {group} goes on from replica {} as of {}, and {} was committed", from.replica, index - 1, next - 1);
            Violation::new("refounded-whole", text)
        })
    }

    fn advance_drive(&mut self, drive: DriveId, drives: &Drives) -> Option<Violation> {
        let disk = drives.durable(drive);
        let error = self.views.entry(drive).or_default().advance(disk.as_ref()).err()?;
        let text = format!("the log on {} cannot be followed: {error}", drives.label(drive));
        Some(Violation::new("log-can-be-followed", text))
    }

    /// Drives of replicas that are about to come, as entries say that are durable and were not applied by the witnesses.
    fn drives_to_come(&self) -> BTreeSet<DriveId> {
        let mut drives = BTreeSet::new();
        for view in self.views.values() {
            for ((group, _), log) in view.replicas() {
                let Some(witness) = self.witnesses.get(group) else { continue };
                for (_, entry) in log.entries.range(witness.applied() + 1..).filter(|(_, entry)| entry.change) {
                    if let Some(Change::AddLearner(place)) = decode_change(&entry.data) {
                        drives.insert(place.drive);
                    }
                }
            }
        }
        drives.difference(&self.homes_of_replicas).copied().collect()
    }

    /// Readings of cluster time that commands brought since the last call, each with its group.
    pub fn take_readings(&mut self) -> Vec<(GroupId, u64)> {
        let of = |witness: &mut Witness| witness.take_readings().into_iter().map(|now_ms| (witness.group, now_ms)).collect::<Vec<_>>();
        self.witnesses.values_mut().flat_map(of).collect()
    }

    /// Groups that cannot go on without the drives that are `away`, if each of them has in this moment a voter elsewhere that durably
    /// holds all that any of its replicas does: then nothing that was acknowledged is lost with them.
    pub fn endangered(&self, away: &BTreeSet<DriveId>) -> Option<Vec<GroupId>> {
        let stuck = |voters: &[ReplicaPlace]| {
            let left = voters.iter().filter(|voter| !away.contains(&voter.drive)).count();
            !voters.is_empty() && left <= voters.len() / 2
        };
        let endangered = |group: &GroupId| stuck(&self.members(*group).voters) || stuck(&self.members(*group).outgoing);
        let groups: Vec<GroupId> = self.groups().filter(endangered).collect();
        groups.iter().all(|group| self.is_held_elsewhere(*group, away)).then_some(groups)
    }

    fn is_held_elsewhere(&self, group: GroupId, away: &BTreeSet<DriveId>) -> bool {
        let members = self.members(group);
        let end = |log: &ReplicaLog| log.entries.keys().next_back().map_or(log.start, |last| log.start.max(*last));
        let has_all = |own: &ReplicaLog| {
            self.logs(group).all(|other| end(other) <= end(own) && other.entries.iter().all(|(index, entry)| own.holds(*index, entry.term)))
        };
        let left = members.voters.iter().filter(|voter| !away.contains(&voter.drive));
        let mut left = left.filter_map(|voter| self.log(group, voter.replica, voter.drive)).filter(|log| !log.damaged);
        members.is_settled() && left.any(has_all)
    }

    /// Groups that were founded anew.
    pub fn founded_anew(&self) -> &BTreeMap<GroupId, Anew> {
        self.refoundings.all()
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

    /// Whether the entry `index` of `term` is held durably by those who can have committed it: a majority of the voters, in a
    /// joint configuration of both. How many of how many there are, for people.
    pub fn holders(&self, group: GroupId, index: u64, term: u64) -> (bool, usize, usize) {
        if self.refoundings.of(group).is_some_and(|anew| index < anew.index) {
            // It was made durable in a state before it was decided to go on from that.
            return (true, 1, 1);
        }
        let configurations = &self.groups[&group];
        // Its leader may have followed the last change before it later than it committed it, and who was a voter then may have
        // left by now.
        let before = configurations.iter().rposition(|(at, _)| *at < index).unwrap_or(0);
        let holds = |log: Option<&ReplicaLog>| log.is_some_and(|log| log.holds(index, term));
        let held = configurations[before.saturating_sub(1)..].iter().any(|(_, members)| self.is_quorum(members, group, holds));
        let members = &configurations[before].1;
        let count = members.voters.iter().filter(|voter| holds(self.log(group, voter.replica, voter.drive))).count();
        (held, count, members.voters.len())
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied()
    }

    /// Who belongs to a group, as of what its witness applied.
    pub fn members(&self, group: GroupId) -> &Members {
        &self.groups[&group].last().expect("the founding one stays").1
    }

    /// The configurations of a group that were in force when `from` had been applied, or after it, up to `to`.
    pub fn configurations(&self, group: GroupId, from: u64, to: u64) -> impl Iterator<Item = &Members> {
        let all = &self.groups[&group];
        let first = all.iter().rposition(|(index, _)| *index <= from).unwrap_or(0);
        all[first..].iter().take_while(move |(index, _)| *index <= to).map(|(_, members)| members)
    }

    /// Whether a majority of the voters, in a joint configuration of both, have a log that `does`.
    fn is_quorum(&self, members: &Members, group: GroupId, does: impl Fn(Option<&ReplicaLog>) -> bool) -> bool {
        let most = |voters: &[ReplicaPlace]| {
            let count = voters.iter().filter(|voter| does(self.log(group, voter.replica, voter.drive))).count();
            voters.is_empty() || count > voters.len() / 2
        };
        most(&members.voters) && most(&members.outgoing)
    }

    /// What the log of `drive` holds of a replica.
    pub fn log(&self, group: GroupId, replica: ReplicaId, drive: DriveId) -> Option<&ReplicaLog> {
        self.views.get(&drive)?.replica(group, replica)
    }

    /// Drives on which the voters of a group live.
    pub fn voters(&self, group: GroupId) -> impl Iterator<Item = DriveId> {
        self.members(group).voters.iter().map(|voter| voter.drive)
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

    /// What the drives hold of the replicas of a group, without those of before it was founded anew.
    fn logs(&self, group: GroupId) -> impl Iterator<Item = &ReplicaLog> {
        let first = self.refoundings.of(group).map_or(ReplicaId(0), |anew| anew.first);
        let counts = move |(of, replica): &(GroupId, ReplicaId)| *of == group && *replica >= first;
        self.views.values().flat_map(move |view| view.replicas().iter().filter(move |(key, _)| counts(key)).map(|(_, log)| log))
    }

    /// Let the witness of `group` apply what is committed.
    fn witness_more(&mut self, group: GroupId, said: u64, known_ms: u64) {
        let written = self.logs(group).map(|log| log.commit).max().unwrap_or(0);
        loop {
            let end = said.max(written).max(self.surely_committed(group));
            let mut entries = Vec::new();
            for index in self.witnesses[&group].applied() + 1..=end {
                // Cut everywhere, or not durable anywhere yet.
                let Some(entry) = self.held_by_most(group, index) else { break };
                let changes = entry.change;
                entries.push((index, entry));
                if changes {
                    // What is committed after it shows by who belongs then.
                    break;
                }
            }
            let witness = self.witnesses.get_mut(&group).expect("one for each group");
            entries.iter().for_each(|(index, entry)| witness.apply(*index, entry, known_ms));
            let Some((index, entry)) = entries.last().filter(|(_, entry)| entry.change) else { return };
            if let Some(change) = decode_change(&entry.data) {
                self.follow(group, *index, change);
            }
        }
    }

    /// A change of who belongs to a group was committed.
    fn follow(&mut self, group: GroupId, index: u64, change: Change) {
        let mut members = self.members(group).clone();
        if members.take(change) == Ok(true) {
            self.groups.get_mut(&group).expect("one for each group").push((index, members));
        }
    }

    /// The last entry of the greatest term that a majority holds: by Raft's rule, it is committed with all before it. No further
    /// than to the next change of who belongs: what follows may need other majorities.
    fn surely_committed(&self, group: GroupId) -> u64 {
        let members = self.members(group);
        let term = self.logs(group).map(|log| log.term).max().unwrap_or(0);
        let end_of = |voter: &ReplicaPlace| {
            let (index, entry) = self.log(group, voter.replica, voter.drive)?.entries.iter().next_back()?;
            (entry.term == term).then_some(*index)
        };
        let end_of_most = |voters: &[ReplicaPlace]| {
            let mut ends: Vec<u64> = voters.iter().filter_map(end_of).collect();
            ends.sort_unstable_by(|a, b| b.cmp(a));
            ends.get(voters.len() / 2).copied().unwrap_or(0)
        };
        let mut end = end_of_most(&members.voters);
        if members.is_joint() {
            end = end.min(end_of_most(&members.outgoing));
        }
        let applied = self.witnesses[&group].applied();
        let changes =
            self.logs(group).flat_map(|log| log.entries.range(applied + 1..).filter(|(_, entry)| entry.change).map(|(index, _)| *index));
        changes.min().map_or(end, |change| end.min(change))
    }

    fn held_by_most(&self, group: GroupId, index: u64) -> Option<LoggedEntry> {
        let mut terms: BTreeMap<u64, (usize, &LoggedEntry)> = BTreeMap::new();
        for entry in self.logs(group).filter_map(|log| log.entries.get(&index)) {
            terms.entry(entry.term).or_insert((0, entry)).0 += 1;
        }
        terms.into_iter().max_by_key(|(term, (count, _))| (*count, *term)).map(|(_, (_, entry))| entry.clone())
    }
}
