//! What replicas claim, against the raw drives. A vote, a term and an acknowledgement of entries leave a replica only after
//! its drive holds them durably, and a query sees all that was known to be committed when it came (`consensus/README.md`).

use super::logs::Logs;
use crate::violation::Violation;
use consensus::host::ReplicaStatus;
use protocol::{DriveId, GroupId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How long it is remembered what was known to be committed, in nanoseconds: longer than any query waits.
const REMEMBERED_NS: u64 = 120_000_000_000;

/// A claim that some drives do not bear out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unkept {
    /// Drives that do not hold what they should.
    lacking: BTreeSet<DriveId>,
    /// So many may lack it.
    bearable: usize,
    what: Violation,
}

impl Unkept {
    /// The violation, unless what happened to the drives in `excused` explains it.
    pub fn unless(self, excused: &BTreeSet<DriveId>) -> Option<Violation> {
        (self.lacking.difference(excused).count() > self.bearable).then_some(self.what)
    }
}

/// What was claimed so far.
#[derive(Default)]
pub struct Claims {
    unkept: Vec<Unkept>,
    /// Claims that were told already.
    told: BTreeSet<(&'static str, GroupId, u64)>,
    /// Groups and terms whose leader was seen to have the votes: who gave them may leave later.
    elected: BTreeSet<(GroupId, u64)>,
    /// Up to where each replica had cut its log when it was last looked at: behind that it has never stood for election since.
    starts: BTreeMap<(GroupId, ReplicaId), u64>,
    /// By group, when somebody first knew that it had committed so far; both rise.
    committed: BTreeMap<GroupId, VecDeque<(u64, u64)>>,
}

impl Claims {
    /// Note what running replicas know to be committed at `now`, in nanoseconds.
    pub fn note(&mut self, now: u64, status: &[ReplicaStatus]) {
        for replica in status {
            let known = self.committed.entry(replica.group).or_default();
            if known.back().is_none_or(|(_, committed)| *committed < replica.committed) {
                known.push_back((now, replica.committed));
            }
            // The first one tells of all times before the second.
            while known.get(1).is_some_and(|(at, _)| at + REMEMBERED_NS < now) {
                known.pop_front();
            }
        }
    }

    /// A query of `group` that came at `came` is answered from a state of `applied`.
    pub fn answered(&mut self, group: GroupId, applied: u64, came: u64) -> Option<Violation> {
        let known = self.committed.get(&group)?;
        // Of two things that happen in the same instant nobody can say which was first.
        let committed = known.iter().rev().find(|(at, _)| *at < came).map(|(_, committed)| *committed)?;
        if applied >= committed || !self.told.insert(("read", group, committed)) {
            return None;
        }
        let text = format!("I3: a read of group {group} is answered as of {applied}; {committed} was known to be committed when it came");
        Some(Violation::new("read-sees-committed", text))
    }

    /// Compare what `status` says with what the drives hold durably in the same moment.
    pub fn judge(&mut self, status: &[ReplicaStatus], logs: &Logs) {
        for replica in status.iter().filter(|replica| replica.trouble.is_none()) {
            let found = persisted(replica, logs);
            let leads = replica.leader == Some(replica.replica) && !self.elected.contains(&(replica.group, replica.term));
            let start = self.starts.get(&(replica.group, replica.replica)).copied().unwrap_or(0);
            let of_leader = if leads { votes(replica, start, logs) } else { None };
            if leads && of_leader.is_none() {
                self.elected.insert((replica.group, replica.term));
            }
            for unkept in found.into_iter().chain(of_leader) {
                let check = if unkept.bearable == 0 { "entries" } else { "votes" };
                if self.told.insert((check, replica.group, replica.replica.0)) {
                    self.unkept.push(unkept);
                }
            }
            let start = logs.log(replica.group, replica.replica, replica.drive).map_or(0, |log| log.start);
            self.starts.insert((replica.group, replica.replica), start);
        }
    }

    /// What is unkept, but for what happened to the drives in `excused`.
    pub fn end(&mut self, excused: &BTreeSet<DriveId>) -> Vec<Violation> {
        std::mem::take(&mut self.unkept).into_iter().filter_map(|unkept| unkept.unless(excused)).collect()
    }
}

/// The last entry that a replica calls durable lies on its drive.
fn persisted(replica: &ReplicaStatus, logs: &Logs) -> Option<Unkept> {
    let (index, term) = replica.persisted?;
    let held = logs.log(replica.group, replica.replica, replica.drive).is_some_and(|log| log.holds(index, term));
    if index == 0 || held {
        return None;
    }
    let text = format!(
        "I2: replica {} of group {} counts entry {index} of term {term} as durable, and its drive {} does not hold it",
        replica.replica, replica.group, replica.drive
    );
    Some(Unkept { lacking: BTreeSet::from([replica.drive]), bearable: 0, what: Violation::new("entries-persisted", text) })
}

/// Who leads a term has the votes of a majority in that term, each on its voter's drive. `start`: when it stood for election, it had
/// applied as much.
fn votes(leader: &ReplicaStatus, start: u64, logs: &Logs) -> Option<Unkept> {
    let voters = &logs.members(leader.group).voters;
    // A group of one leads before its drive has answered; nothing that it says leaves before.
    let bearable = (voters.len() - 1) / 2;
    if voters.len() < 2 {
        return None;
    }
    let voted = |log: &consensus::inspect::ReplicaLog| log.term > leader.term || (log.term == leader.term && log.vote == leader.replica.0);
    let lacks = |place: &consensus::ReplicaPlace| !logs.log(leader.group, place.replica, place.drive).is_some_and(voted);
    let lacking: BTreeSet<DriveId> = voters.iter().filter(|place| lacks(place)).map(|place| place.drive).collect();
    let most =
        |voters: &[consensus::ReplicaPlace]| voters.iter().filter(|place| lacks(place)).count() <= voters.len().saturating_sub(1) / 2;
    // Elected by those who had the votes by what it had applied then: it may have followed later changes as leader, and the witness may be
    // behind it.
    let mut then = logs.configurations(leader.group, start, leader.applied).chain(&leader.members);
    if then.any(|members| most(&members.voters) && most(&members.outgoing)) {
        return None;
    }
    let text = format!(
        "replica {} leads group {} in term {}, and of {} voters these drives hold no vote of that term for it: {lacking:?}",
        leader.replica,
        leader.group,
        leader.term,
        voters.len()
    );
    Some(Unkept { lacking, bearable, what: Violation::new("votes-persisted", text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(committed: u64) -> ReplicaStatus {
        ReplicaStatus {
            members: None,
            group: GroupId(1),
            replica: ReplicaId(1),
            drive: DriveId(1),
            term: 1,
            leader: None,
            applied: committed,
            committed,
            persisted: Some((committed, 1)),
            state_hash: 0,
            trouble: None,
            to_be_replaced: false,
            program_too_old: false,
            healed: None,
        }
    }

    #[test]
    fn an_answer_that_lacks_what_was_committed_before_the_question_is_found() {
        let mut claims = Claims::default();
        let mut answered = |applied: u64, ms: u64| {
            claims.note(10_000_000, &[status(5), status(4)]);
            claims.note(20_000_000, &[status(7)]);
            claims.answered(GroupId(1), applied, ms * 1_000_000).is_some()
        };
        assert!(!answered(1, 9), "nobody knew of anything");
        assert!(!answered(5, 19) && !answered(7, 21));
        assert!(!answered(6, 20), "it came in the same instant");
        assert!(answered(6, 21) && answered(4, 15));
    }

    #[test]
    fn drives_that_faults_struck_excuse_a_missing_vote_of_theirs_and_no_other() {
        let what = Violation::new("votes-persisted", "");
        let unkept = Unkept { lacking: [1, 2, 3].map(DriveId).into(), bearable: 2, what: what.clone() };
        assert_eq!(unkept.clone().unless(&BTreeSet::new()), Some(what.clone()));
        assert_eq!(unkept.clone().unless(&BTreeSet::from([DriveId(9)])), Some(what));
        assert_eq!(unkept.unless(&BTreeSet::from([DriveId(2)])), None);
    }
}
