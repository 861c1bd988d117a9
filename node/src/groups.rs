//! What is left of each group on the drives at hand, for an operator whose group has no quorum. Reads, and changes nothing.

use consensus::inspect::{Checkpoint, LogView, ReplicaLog, decode_change, read_checkpoint};
use consensus::{Members, ReplicaPlace};
use protocol::{DriveId, GroupId, ReplicaId};
use runtime::disk::Disk;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// What one drive has of one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remains {
    pub replica: ReplicaId,
    pub drive: DriveId,
    /// The drive as people know it.
    pub label: String,
    /// Term and vote, as its log has them.
    pub term: u64,
    pub vote: u64,
    /// Entries up to this it knows to be committed.
    pub commit: u64,
    /// Its log begins after this.
    pub start: u64,
    /// The last entry: index and term; those of its state if it has no entries.
    pub last: (u64, u64),
    /// Entries between start and last that are lost.
    pub missing: Vec<u64>,
    /// Term of the last entry up to which nothing is missing.
    pub whole_term: u64,
    /// Why it must not be gone on from, whatever it has.
    pub out: Option<&'static str>,
    /// Applied index, number of rows and state hash of its state; or why that cannot be read.
    pub state: Result<(u64, u64, u64), String>,
    /// Who belonged to the group from which entry on, by its state and then change by change by its log; the last ones may not be committed.
    pub configurations: Vec<(u64, Members)>,
}

impl Remains {
    /// The last index up to which nothing is missing, if its state reaches the beginning of its log.
    pub fn whole_to(&self) -> Option<u64> {
        let (applied, ..) = self.state.as_ref().ok()?;
        let end = self.missing.iter().copied().find(|index| index > applied).map_or(self.last.0, |index| index - 1);
        (*applied >= self.start).then_some(end.max(*applied))
    }
}

/// All that was found of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    pub group: GroupId,
    pub remains: Vec<Remains>,
}

impl Survey {
    /// The replica that a recovery would go on from: whose last entry before which nothing is missing is the newest by Raft's
    /// order (term, then index).
    pub fn best(&self) -> Option<&Remains> {
        let rank = |one: &&Remains| one.whole_to().filter(|_| one.out.is_none()).map(|whole| (one.whole_term, whole));
        self.remains.iter().filter(|one| rank(one).is_some()).max_by_key(rank)
    }

    /// Who belongs to the group, by the newest that was found.
    pub fn members(&self) -> Option<&Members> {
        let all = self.remains.iter().flat_map(|one| &one.configurations);
        all.map(|(_, members)| members).max_by_key(|members| members.version)
    }

    /// The configurations of which one was in force last: the last one that is known to be committed, and those behind it.
    fn possible(&self) -> Vec<&Members> {
        let commit = self.remains.iter().map(|one| one.commit).max().unwrap_or(0);
        let all = || self.remains.iter().flat_map(|one| &one.configurations);
        let sure = all().filter(|(from, _)| *from <= commit).map(|(_, members)| members.version).max().unwrap_or(0);
        all().map(|(_, members)| members).filter(|members| members.version >= sure).collect()
    }

    /// Whether somebody who is here has all that the replica ever acknowledged.
    fn is_here(&self, place: &ReplicaPlace) -> bool {
        let whole = |one: &Remains| one.out.is_none() && one.whole_to().is_some_and(|whole| whole >= one.last.0.max(one.commit));
        self.remains.iter().any(|one| one.replica == place.replica && whole(one))
    }

    /// Voters of which no drive that is here has anything whole, in any configuration that may have been in force.
    pub fn absent(&self) -> Vec<ReplicaPlace> {
        let all = self.possible().into_iter().flat_map(|members| members.voters.iter().chain(&members.outgoing));
        let mut absent: Vec<ReplicaPlace> = all.filter(|place| !self.is_here(place)).copied().collect();
        absent.sort_by_key(|place| place.replica);
        absent.dedup();
        absent
    }

    /// Whether a command may have been acknowledged of which nothing here knows: in one of the configurations that may have been
    /// in force, enough voters are absent to commit it without any that is here.
    pub fn is_blind(&self) -> bool {
        let quorum = |voters: &[ReplicaPlace]| voters.iter().filter(|voter| !self.is_here(voter)).count() > voters.len() / 2;
        let alone = |members: &&Members| quorum(&members.voters) && (members.outgoing.is_empty() || quorum(&members.outgoing));
        let possible = self.possible();
        possible.is_empty() || possible.iter().any(alone)
    }

    /// Entries that some replica has, or knows to be committed, and the best survivor does not: acknowledged commands may be
    /// among them. What only drives that are not here have nobody can say.
    pub fn in_doubt(&self) -> Option<(u64, u64)> {
        self.in_doubt_beyond(self.best().and_then(Remains::whole_to).unwrap_or(0))
    }

    /// The same of a survivor that is whole to `whole`.
    pub(crate) fn in_doubt_beyond(&self, whole: u64) -> Option<(u64, u64)> {
        let known = self.remains.iter().map(|one| one.commit.max(one.last.0)).max()?;
        (known > whole).then_some((whole + 1, known))
    }

    /// Whether most voters, without those that are `lost`, are here and whole, whichever configuration was in force: then they go on by
    /// themselves.
    pub(crate) fn has_quorum(&self, lost: &BTreeSet<ReplicaId>) -> bool {
        let here = |voter: &ReplicaPlace| !lost.contains(&voter.replica) && self.is_here(voter);
        self.possible().iter().all(|members| has_most(members, here))
    }

    /// Whether most voters of a configuration that may have been in force, without those that are `lost`, are here with their votes, though
    /// damaged: each may have what others lost.
    pub(crate) fn may_heal(&self, lost: &BTreeSet<ReplicaId>) -> bool {
        let found = |voter: &ReplicaPlace| self.remains.iter().any(|one| one.replica == voter.replica && one.out.is_none());
        self.possible().iter().any(|members| has_most(members, |voter| !lost.contains(&voter.replica) && found(voter)))
    }

    /// Where the replica is, by any configuration.
    pub(crate) fn place(&self, replica: ReplicaId) -> Option<ReplicaPlace> {
        let all = self.remains.iter().flat_map(|one| one.configurations.iter().rev());
        all.filter_map(|(_, members)| members.place(replica).copied()).next()
    }

    /// Of the copies of a replica the one from which most is left.
    pub(crate) fn find(&self, replica: ReplicaId) -> Option<&Remains> {
        let rank = |one: &&Remains| one.whole_to().map(|whole| (one.whole_term, whole));
        self.remains.iter().filter(|one| one.replica == replica && rank(one).is_some()).max_by_key(rank)
    }
}

/// Whether `have` is so of most voters, on both sides of an exchange.
fn has_most(members: &Members, have: impl Fn(&ReplicaPlace) -> bool) -> bool {
    let quorum = |voters: &[ReplicaPlace]| voters.iter().filter(|voter| have(voter)).count() > voters.len() / 2;
    quorum(&members.voters) && (members.outgoing.is_empty() || quorum(&members.outgoing))
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let voters = self.members().map_or(0, |members| members.voters.len());
        writeln!(f, "group {}: {} replicas found, of {voters} voters", self.group, self.remains.len())?;
        for one in &self.remains {
            let (last, last_term) = one.last;
            write!(f, "  replica {} on {} (drive {}): term {}, voted for {}, ", one.replica, one.label, one.drive, one.term, one.vote)?;
            write!(f, "log after {} to {last} (term {last_term}), committed to {}, ", one.start, one.commit)?;
            match &one.state {
                Ok((applied, rows, hash)) => write!(f, "state at {applied} with {rows} rows ({hash:016x})")?,
                Err(reason) => write!(f, "NO STATE: {reason}")?,
            }
            if let Some(why) = one.out {
                write!(f, ", MUST NOT BE GONE ON FROM: {why}")?;
            }
            match one.missing.len() {
                0 => writeln!(f)?,
                count => writeln!(f, ", {count} entries LOST, the first is {}", one.missing[0])?,
            }
        }
        match self.best() {
            Some(best) => writeln!(f, "  best: replica {} on {}, whole to {}", best.replica, best.label, best.whole_to().unwrap_or(0))?,
            None => writeln!(f, "  none of them could go on")?,
        }
        for place in self.absent() {
            writeln!(f, "  not here, or not whole: replica {} of node {}, drive {}", place.replica, place.node, place.drive)?;
        }
        match self.in_doubt() {
            Some((from, to)) => {
                writeln!(f, "  IN DOUBT: entries {from} to {to} are known of and not in it; acknowledged commands may be among them")?;
            }
            None => writeln!(f, "  nothing that these drives know of would be lost")?,
        }
        match self.is_blind() {
            true => writeln!(f, "  UNKNOWN: those who are not here may have acknowledged commands without any that is; bring more drives"),
            false => writeln!(f, "  every command that was acknowledged is known to one of these drives"),
        }
    }
}

/// Look at all groups of which `drives` hold something. A drive whose log cannot be read is told of in the second result.
pub fn survey(drives: &[(DriveId, Arc<dyn Disk>)]) -> (Vec<Survey>, Vec<String>) {
    let mut groups: BTreeMap<GroupId, Vec<Remains>> = BTreeMap::new();
    let mut unreadable = Vec::new();
    for (drive, disk) in drives {
        let mut view = LogView::default();
        if let Err(error) = view.advance(disk.as_ref()) {
            unreadable.push(format!("{}: its log cannot be read: {error}", disk.label()));
        }
        match view.is_cut_short(disk.as_ref()) {
            Ok(false) => {}
            Ok(true) => unreadable.push(format!(
                "{}: a part of its log is damaged, and what follows it could not be read: terms, votes and entries are older than the truth",
                disk.label()
            )),
            Err(error) => unreadable.push(format!("{}: its log cannot be read: {error}", disk.label())),
        }
        if view.lost_batches() > 0 {
            unreadable.push(format!("{}: {} batches of its log are lost", disk.label(), view.lost_batches()));
        }
        for ((group, replica), log) in view.replicas() {
            groups.entry(*group).or_default().push(remains(*drive, disk, *group, *replica, log));
        }
    }
    (groups.into_iter().map(|(group, remains)| Survey { group, remains }).collect(), unreadable)
}

fn remains(drive: DriveId, disk: &Arc<dyn Disk>, group: GroupId, replica: ReplicaId, log: &ReplicaLog) -> Remains {
    let state = match read_checkpoint(disk.as_ref(), drive, group, replica) {
        Ok(Some(state)) => Ok(state),
        Ok(None) => Err("it has no manifest".to_owned()),
        Err(reason) => Err(reason),
    };
    let mut entries = log.entries.range(log.start + 1..);
    let of_state = state.as_ref().map_or((log.start, 0), |state| (state.applied, state.term));
    let last = entries.next_back().map_or(of_state, |(index, entry)| (*index, entry.term));
    let missing = (log.start + 1..=last.0.max(log.commit)).filter(|index| !log.entries.contains_key(index)).collect();
    let ReplicaLog { term, vote, commit, start, removed, damaged, .. } = *log;
    let out = match (removed, damaged) {
        (true, _) => Some("it left its group"),
        (_, true) => Some("its state differed from that of the others, or what it had acknowledged was missing"),
        (false, false) => None,
    };
    let configurations = state.as_ref().map_or_else(|_| Vec::new(), |state| configurations(state, log));
    let state = state.map(|state| (state.applied, state.rows, state.state_hash));
    let label = disk.label().to_owned();
    let mut remains =
        Remains { replica, drive, label, term, vote, commit, start, last, missing, whole_term: 0, out, state, configurations };
    let whole = remains.whole_to().unwrap_or(0);
    remains.whole_term = if whole == last.0 { last.1 } else { log.entries.get(&whole).map_or(of_state.1, |entry| entry.term) };
    remains
}

/// Those that a replica went through, or is to go through: its state's, and then those that the changes in its log make of it.
fn configurations(state: &Checkpoint, log: &ReplicaLog) -> Vec<(u64, Members)> {
    let mut members = state.members.clone();
    let mut all = vec![(state.applied, members.clone())];
    for (index, entry) in log.entries.range(state.applied + 1..).filter(|(_, entry)| entry.change) {
        if let Some(change) = decode_change(&entry.data)
            && members.take(change) == Ok(true)
        {
            all.push((*index, members.clone()));
        }
    }
    all
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use consensus::GroupSpec;
    use protocol::NodeId;

    pub fn remains(replica: u64, last: (u64, u64), commit: u64, missing: &[u64], state: Option<u64>) -> Remains {
        Remains {
            replica: ReplicaId(replica),
            drive: DriveId(replica),
            label: format!("/data/{replica}"),
            term: last.1,
            vote: 1,
            commit,
            start: 4,
            last,
            missing: missing.to_vec(),
            whole_term: last.1,
            out: None,
            state: state.map(|applied| (applied, 7, 0xabc)).ok_or_else(|| "the state is damaged".to_owned()),
            configurations: state.map(|applied| (applied, members(3))).into_iter().collect(),
        }
    }

    pub fn members(voters: u64) -> Members {
        let place = |id| ReplicaPlace { replica: ReplicaId(id), node: NodeId(id), drive: DriveId(id) };
        Members::founding(&GroupSpec { group: GroupId(2), voters: (1..=voters).map(place).collect() })
    }

    #[test]
    fn what_the_absent_may_have_acknowledged_among_themselves_is_unknown() {
        let whole = |id| remains(id, (12, 3), 10, &[], Some(5));
        let survey = |remains: Vec<Remains>| Survey { group: GroupId(2), remains };
        let one = survey(vec![whole(1)]);
        assert_eq!(one.absent().iter().map(|place| place.replica.0).collect::<Vec<_>>(), [2, 3]);
        assert!(one.is_blind() && one.to_string().contains("UNKNOWN"), "two of three commit without the third");
        let two = survey(vec![whole(1), whole(3)]);
        assert!(!two.is_blind() && two.to_string().contains("not here, or not whole: replica 2 of node 2, drive 2"));
        let damaged = survey(vec![whole(1), remains(3, (12, 3), 10, &[11], Some(5))]);
        assert!(damaged.is_blind(), "who lost entries cannot tell what it acknowledged");
        // In a joint configuration both sides have to agree.
        let mut joint = members(3);
        joint.outgoing = joint.voters.clone();
        joint.voters[0].replica = ReplicaId(4);
        joint.version = 7;
        let joint = survey(vec![whole(1), Remains { configurations: vec![(6, joint)], ..whole(2) }]);
        assert_eq!(joint.absent().iter().map(|place| place.replica.0).collect::<Vec<_>>(), [3, 4]);
        assert!(!joint.is_blind(), "of those before, two are here");
    }

    #[test]
    fn the_newest_whole_replica_is_best_and_what_it_lacks_is_in_doubt() {
        let damaged = remains(1, (12, 3), 10, &[8], Some(6));
        let older = remains(2, (14, 2), 9, &[], Some(5));
        let newer = remains(3, (11, 3), 10, &[], Some(5));
        let without_state = remains(4, (20, 3), 18, &[], None);
        let survey = Survey { group: GroupId(2), remains: vec![damaged.clone(), older, newer, without_state] };
        assert_eq!(survey.best().map(|best| best.replica), Some(ReplicaId(3)));
        assert_eq!(survey.in_doubt(), Some((12, 20)));
        let told = survey.to_string();
        assert!(told.contains("IN DOUBT: entries 12 to 20") && told.contains("1 entries LOST, the first is 8"), "{told}");
        let alone = Survey { group: GroupId(2), remains: vec![damaged] };
        assert_eq!(alone.best().and_then(Remains::whole_to), Some(7));
        assert_eq!(alone.in_doubt(), Some((8, 12)));
    }

    #[test]
    fn who_left_in_the_log_behind_the_checkpoint_does_not_vouch_for_those_who_came() {
        let before = members(3);
        let mut after = members(3);
        after.voters[2].replica = ReplicaId(4);
        after.version = 7;
        let whole = |id, commit| remains(id, (12, 3), commit, &[], Some(5));
        let changed = |commit| Remains { configurations: vec![(5, before.clone()), (9, after.clone())], ..whole(1, commit) };
        let survey = |commit| Survey { group: GroupId(2), remains: vec![changed(commit), whole(3, commit)] };
        assert!(survey(10).is_blind(), "2 and 4 commit without 1, and 3 left");
        assert!(survey(6).is_blind(), "whether 3 left is not known");
        let with_two = |commit| Survey { group: GroupId(2), remains: vec![changed(commit), whole(2, commit)] };
        assert!(!with_two(10).is_blind() && !with_two(6).is_blind());
    }

    #[test]
    fn who_must_not_run_is_not_best_and_an_old_replica_is_not_better_for_being_whole() {
        let diverged = Remains { out: Some("it differs"), ..remains(1, (20, 4), 10, &[], Some(9)) };
        let late = remains(2, (901, 3), 900, &[901], Some(6));
        let old = remains(3, (100, 2), 100, &[], Some(50));
        let survey = Survey { group: GroupId(2), remains: vec![diverged, late, old] };
        assert_eq!(survey.best().map(|best| best.replica), Some(ReplicaId(2)));
        assert!(survey.to_string().contains("MUST NOT BE GONE ON FROM: it differs"));
    }

    #[test]
    fn a_replica_whose_state_does_not_reach_its_log_cannot_go_on() {
        let survey = Survey { group: GroupId(2), remains: vec![remains(1, (12, 3), 10, &[], Some(3))] };
        assert!(survey.best().is_none());
        assert_eq!(survey.in_doubt(), Some((1, 12)));
    }
}
