//! Groups that their operator founds anew from a replica that is left of them.
//!
//! That it was decided is read from the raw log of the survivor's drive: from when the new replica stands there, it is the group, begins with all
//! that the survivor's log had, and what replicas of before do counts for nothing any more.

use consensus::inspect::{LogView, LoggedEntry};
use consensus::refounding::Refounding;
use consensus::{Members, ReplicaPlace};
use protocol::{DriveId, GroupId, ReplicaId};
use runtime::disk::Disk;
use std::collections::BTreeMap;

/// A refounding that an operator is about to make.
#[derive(Clone)]
pub struct Planned {
    /// The replica that is gone on from.
    pub from: ReplicaPlace,
    /// Who the group is then: one voter.
    pub members: Members,
    /// The entry that stands for the decision, and that no log holds: the one after all that the survivor is whole to.
    pub index: u64,
    /// What the survivor's log has; it goes with the decision.
    pub entries: BTreeMap<u64, LoggedEntry>,
}

impl Planned {
    fn new(plan: &Refounding, disk: &dyn Disk) -> Option<Planned> {
        let mut view = LogView::default();
        view.advance(disk).ok()?;
        let entries = view.replica(plan.group, plan.from.replica)?.entries.clone();
        let members = plan.newest.refounded(plan.from.node, plan.from.drive, plan.at_s, plan.random)?;
        Some(Planned { from: plan.from, members, index: plan.whole_to + 1, entries })
    }

    fn is_decided(&self, view: &LogView) -> bool {
        let stands = |log: &consensus::inspect::ReplicaLog| !log.removed && log.start >= self.index;
        view.replica(self.members.group, self.members.last).is_some_and(stands)
    }
}

/// A group that was founded anew.
#[derive(Clone)]
pub struct Anew {
    /// The replica with which it was: those with lower ids are of before.
    pub first: ReplicaId,
    pub index: u64,
    /// Who voted before, but for the survivors: they must be told, and keep what they have.
    pub former: Vec<ReplicaPlace>,
}

/// What operators plan, and what came of it.
#[derive(Default)]
pub struct Refoundings {
    planned: BTreeMap<GroupId, Planned>,
    anew: BTreeMap<GroupId, Anew>,
}

impl Refoundings {
    /// An operator begins; the survivor's drive holds `disk`. What was planned before and not decided by now never will be.
    pub fn expect(&mut self, plan: &Refounding, disk: &dyn Disk) {
        self.planned.remove(&plan.group);
        self.planned.extend(Planned::new(plan, disk).map(|planned| (plan.group, planned)));
    }

    /// What was decided since the last call, by what the drives' logs hold.
    pub fn decided(&mut self, views: &BTreeMap<DriveId, LogView>) -> Vec<Planned> {
        let is_decided = |_: &GroupId, planned: &mut Planned| views.get(&planned.from.drive).is_some_and(|view| planned.is_decided(view));
        self.planned.extract_if(.., is_decided).map(|(_, planned)| planned).collect()
    }

    /// `planned` was decided; `before` belonged to the group until then.
    pub fn done(&mut self, planned: &Planned, before: &Members) {
        let (group, first, index) = (planned.members.group, planned.members.last, planned.index);
        let mut former: Vec<ReplicaPlace> = before.with_vote().filter(|place| place.replica != planned.from.replica).copied().collect();
        former.extend(self.anew.remove(&group).into_iter().flat_map(|earlier| earlier.former));
        self.anew.insert(group, Anew { first, index, former });
    }

    /// How a group was founded anew the last time, if it was.
    pub fn of(&self, group: GroupId) -> Option<&Anew> {
        self.anew.get(&group)
    }

    /// All groups that were founded anew.
    pub fn all(&self) -> &BTreeMap<GroupId, Anew> {
        &self.anew
    }
}
