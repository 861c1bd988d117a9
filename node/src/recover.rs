//! Founding a group anew from one replica when its quorum is lost for good: judging what an operator asks for, and doing it.
//!
//! Always holds: nothing is done while the drives that are here could make a quorum by themselves, nor before the operator has named every
//! voter that is not here as lost. What the program cannot know it asks, and says what its answer costs.

use crate::groups::Survey;
use consensus::refounding::{Refounded, Refounding, refound};
use consensus::{ReplicaPlace, Settings};
use protocol::{DriveId, ReplicaId};
use runtime::disk::Disk;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What an operator asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wish {
    /// The replica to go on from; the best one if it is not said.
    pub from: Option<ReplicaId>,
    /// Voters that will never come back with what they held.
    pub lost: BTreeSet<ReplicaId>,
}

/// What would be done.
#[derive(Clone, Debug)]
pub struct Plan {
    pub refounding: Refounding,
    /// The survivor's drive, as people know it.
    pub label: String,
    /// Entries that are known of and would be lost.
    in_doubt: Option<(u64, u64)>,
    /// Those who are not here may have acknowledged commands of which nobody here knows.
    blind: bool,
}

/// Why nothing is done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("nothing of this group is on these drives")]
    Nothing,
    #[error("most voters of this group are here and whole: start their nodes, and it goes on by itself, with nothing lost")]
    Quorum,
    #[error(
        "most voters of this group are here, or may be, though not whole: start their nodes first, each may have what others lost; if it does not go on, say which one to go on from: --from REPLICA"
    )]
    MayHeal,
    #[error("{}: bring their drives, or say that they are lost for good: --lost {}", places(.0), ids(.0))]
    NotNamed(Vec<ReplicaPlace>),
    #[error("replica {0} is said to be lost, and is here")]
    NotLost(ReplicaId),
    #[error("none of the replicas that are here can be gone on from")]
    Hopeless,
    #[error("replica {0} is not on these drives, or cannot be gone on from")]
    Unfit(ReplicaId),
}

fn places(absent: &[ReplicaPlace]) -> String {
    let place = |one: &ReplicaPlace| format!("replica {} of node {}, drive {}", one.replica, one.node, one.drive);
    format!("not on these drives: {}", absent.iter().map(place).collect::<Vec<_>>().join("; "))
}

fn ids(absent: &[ReplicaPlace]) -> String {
    absent.iter().map(|one| one.replica.to_string()).collect::<Vec<_>>().join(",")
}

/// Judge what is wished for a group of which `survey` is all that is left. `at_s` is when, in seconds since 1970; `random` tells this
/// decision from every other one.
pub fn plan(survey: &Survey, wish: &Wish, at_s: u64, random: u64) -> Result<Plan, Refusal> {
    let newest = survey.members().ok_or(if survey.remains.is_empty() { Refusal::Nothing } else { Refusal::Hopeless })?;
    if survey.has_quorum(&wish.lost) {
        return Err(Refusal::Quorum);
    }
    if wish.from.is_none() && survey.may_heal(&wish.lost) {
        return Err(Refusal::MayHeal);
    }
    let is_here = |replica: ReplicaId| survey.remains.iter().any(|one| one.replica == replica && one.state.is_ok());
    // Who names the replica to go on from may give up others that are here: they may not go on with it, whatever they hold.
    if let Some(named) = wish.lost.iter().find(|replica| wish.from.is_none() && is_here(**replica)) {
        return Err(Refusal::NotLost(*named));
    }
    let missing = survey.absent().into_iter().filter(|place| !is_here(place.replica) && !wish.lost.contains(&place.replica));
    let missing: Vec<ReplicaPlace> = missing.collect();
    if !missing.is_empty() {
        return Err(Refusal::NotNamed(missing));
    }
    let survivor = match wish.from {
        // Said by name, also one of which it was found that it must not run: there may be none other.
        Some(from) => survey.find(from).ok_or(Refusal::Unfit(from))?,
        None => survey.best().ok_or(Refusal::Hopeless)?,
    };
    let unfit = Refusal::Unfit(survivor.replica);
    let (Some(whole_to), Some(place)) = (survivor.whole_to(), survey.place(survivor.replica)) else { return Err(unfit) };
    let from = ReplicaPlace { drive: survivor.drive, ..place };
    let term = survey.remains.iter().map(|one| one.term.max(one.last.1)).max().unwrap_or(0);
    let refounding = Refounding { group: survey.group, from, whole_to, newest: newest.clone(), term, at_s, random };
    let (in_doubt, blind) = (survey.in_doubt_beyond(whole_to), survey.is_blind());
    Ok(Plan { refounding, label: survivor.label.clone(), in_doubt, blind })
}

/// Do it, on the drive of the survivor. Blocks.
pub fn carry_out(plan: &Plan, drives: &[(DriveId, Arc<dyn Disk>)], settings: &Settings) -> Result<Refounded, String> {
    let Refounding { group, from: ReplicaPlace { drive, .. }, .. } = plan.refounding;
    let disk = drives.iter().find(|(id, _)| *id == drive).map(|(_, disk)| disk).ok_or("its drive is not here")?;
    if !crate::drives::has_had_replicas(disk).map_err(|error| error.to_string())? {
        return Err(format!("{}: the first start of its node never came to an end; start it", plan.label));
    }
    let machine = crate::node::machine(group);
    refound(disk, settings, &plan.refounding, machine.as_ref()).map_err(|error| format!("{}: {error}", plan.label))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refounding { group, from: ReplicaPlace { replica, .. }, whole_to, .. } = &self.refounding;
        writeln!(f, "group {group} would go on from replica {replica} on {}, with all entries to {whole_to}", self.label)?;
        match self.in_doubt {
            Some((from, to)) => writeln!(f, "LOST: entries {from} to {to}; acknowledged commands may be among them")?,
            None => writeln!(f, "nothing that these drives know of is lost")?,
        }
        if self.blind {
            writeln!(
                f,
                "UNKNOWN: the voters that are lost may have acknowledged commands of which nothing here knows; those are lost, too"
            )?;
        }
        writeln!(
            f,
            "what was removed by a command that is lost is there again, though its data may be gone; volumes that the root group lost are not found"
        )?;
        writeln!(
            f,
            "the replicas that are said to be lost must never serve again: wipe their drives, or leave their nodes off; never start two of them at once"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::Remains;
    use crate::groups::tests::{members, remains};
    use protocol::GroupId;

    fn survey(remains: Vec<Remains>) -> Survey {
        Survey { group: GroupId(2), remains }
    }

    fn wish(from: Option<u64>, lost: &[u64]) -> Wish {
        Wish { from: from.map(ReplicaId), lost: lost.iter().copied().map(ReplicaId).collect() }
    }

    fn judged(survey: &Survey, wish: &Wish) -> Result<Plan, Refusal> {
        plan(survey, wish, 1_700_000_000, 7)
    }

    #[test]
    fn every_voter_is_here_or_said_to_be_lost() {
        let alone = survey(vec![remains(1, (12, 3), 10, &[], Some(5))]);
        let refused = judged(&alone, &wish(None, &[3])).unwrap_err();
        assert!(refused.to_string().ends_with("or say that they are lost for good: --lost 2"), "{refused}");
        assert_eq!(judged(&alone, &wish(None, &[1, 2, 3])).unwrap_err(), Refusal::NotLost(ReplicaId(1)));
        let plan = judged(&alone, &wish(None, &[2, 3])).unwrap();
        let Refounding { from, whole_to, newest, term, .. } = plan.refounding.clone();
        assert_eq!((from, whole_to, term, plan.blind), (newest.voters[0], 12, 3, true));
        assert_eq!(newest, members(3));
        assert!(plan.to_string().contains("UNKNOWN") && !plan.to_string().contains("LOST: entries"));
    }

    #[test]
    fn a_group_that_goes_on_by_itself_is_left_alone() {
        let whole = |id| remains(id, (12, 3), 10, &[], Some(5));
        let two = survey(vec![whole(1), whole(2)]);
        assert_eq!(judged(&two, &wish(None, &[3])).unwrap_err(), Refusal::Quorum);
        assert_eq!(judged(&two, &wish(Some(1), &[3])).unwrap_err(), Refusal::Quorum);
        // As when they differ, and each waits for those who are lost: who gives one up says so.
        assert_eq!(judged(&two, &wish(None, &[2, 3])).unwrap_err(), Refusal::NotLost(ReplicaId(2)));
        assert_eq!(judged(&two, &wish(Some(1), &[2, 3])).unwrap().refounding.from.replica, ReplicaId(1));
        assert_eq!(judged(&survey(Vec::new()), &wish(None, &[])).unwrap_err(), Refusal::Nothing);
        assert_eq!(judged(&survey(vec![remains(1, (12, 3), 10, &[], None)]), &wish(None, &[])).unwrap_err(), Refusal::Hopeless);
    }

    #[test]
    fn those_who_may_heal_each_other_are_started_first() {
        let both = survey(vec![remains(1, (30, 3), 30, &[10], Some(6)), remains(2, (30, 3), 30, &[20], Some(6))]);
        assert_eq!(judged(&both, &wish(None, &[3])).unwrap_err(), Refusal::MayHeal);
        let named = judged(&both, &wish(Some(2), &[3])).unwrap();
        assert_eq!((named.refounding.whole_to, named.in_doubt), (19, Some((20, 30))));
        let stateless = survey(vec![remains(1, (30, 3), 30, &[], Some(6)), remains(2, (31, 3), 31, &[], None)]);
        assert_eq!(judged(&stateless, &wish(None, &[3])).unwrap_err(), Refusal::MayHeal, "its log may have what the other lacks");
    }

    #[test]
    fn a_majority_of_only_one_of_the_configurations_that_may_be_in_force_may_not_go_on() {
        let mut joint = members(3);
        joint.outgoing = joint.voters.clone();
        (joint.voters[2].replica, joint.last, joint.version) = (ReplicaId(4), ReplicaId(4), 7);
        let left = consensus::Members { outgoing: Vec::new(), version: 8, ..joint.clone() };
        let of = |id| Remains { configurations: vec![(5, joint.clone()), (12, left.clone())], ..remains(id, (12, 3), 10, &[], Some(5)) };
        let two = survey(vec![of(1), of(4)]);
        assert_eq!(judged(&two, &wish(None, &[2, 3])).unwrap_err(), Refusal::MayHeal, "who left the old one alone cannot say so");
        assert_eq!(judged(&two, &wish(Some(1), &[2, 3])).unwrap().refounding.from.replica, ReplicaId(1));
    }

    #[test]
    fn the_best_is_taken_or_the_one_that_is_named_and_what_is_lost_is_said_of_that_one() {
        let damaged = remains(1, (12, 3), 10, &[8], Some(6));
        let older = Remains { out: Some("it differs"), ..remains(2, (9, 3), 9, &[], Some(5)) };
        let both = survey(vec![damaged, older]);
        let best = judged(&both, &wish(None, &[3])).unwrap();
        assert_eq!((best.refounding.from.replica, best.in_doubt), (ReplicaId(1), Some((8, 12))));
        let named = judged(&both, &wish(Some(2), &[3])).unwrap();
        assert_eq!((named.refounding.from.replica, named.in_doubt), (ReplicaId(2), Some((10, 12))));
        assert_eq!(judged(&both, &wish(Some(4), &[3])).unwrap_err(), Refusal::Unfit(ReplicaId(4)));
        // Two copies of a drive: the newer one.
        let copies =
            survey(vec![remains(1, (7, 3), 7, &[], Some(5)), Remains { drive: DriveId(9), ..remains(1, (12, 3), 10, &[], Some(5)) }]);
        let newer = judged(&copies, &wish(Some(1), &[2, 3])).unwrap();
        assert_eq!((newer.refounding.from.drive, newer.refounding.whole_to), (DriveId(9), 12));
    }
}
