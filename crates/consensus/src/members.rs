//! Who belongs to a group, and how that changes. Pure: every replica computes the same from the same entries.
//!
//! Always holds: a replica id that left, or was refused for good, never belongs again; a learner is in no quorum; voters
//! are exchanged, and new ones enter, only through a joint configuration, in which both the voters before and those after have to agree;
//! a joint configuration is left by an entry of its own, never by itself; and who left it can be asked for its vote until
//! the voters after have committed an entry alone, for until then some of them may not know that it was left.

use crate::host::{GroupSpec, ReplicaPlace};
use protocol::{DriveId, GroupId, NodeId, ReplicaId, wire};
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most replicas of a group, learners and leaving voters included.
pub const MEMBERS_MAX: usize = 32;
/// How far beyond the last replica id a new one may be: whatever lies between can never belong.
pub const ID_STEP_MAX: u64 = 1 << 20;
/// A group that is founded anew goes on at a multiple of it as its version: no configuration of before is newer.
pub const ERA: u64 = 1 << 32;

/// The configuration of a group: what its replicas hold beside the applied index, in one transaction with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Members {
    /// Whose configuration it is: one of another group proves nothing.
    pub group: GroupId,
    /// Raised by each change that took effect; 0 at the founding.
    pub version: u64,
    /// Who votes.
    pub voters: Vec<ReplicaPlace>,
    /// The voters before, while the configuration is joint; else empty.
    pub outgoing: Vec<ReplicaPlace>,
    /// Who gets entries, and counts for nothing.
    pub learners: Vec<ReplicaPlace>,
    /// Who was a voter before, and is kept for those who have not heard yet that the joint configuration was left.
    pub parting: Vec<ReplicaPlace>,
    /// The greatest replica id that ever belonged, or never may: ids up to it that do not belong are gone for good.
    pub last: ReplicaId,
    /// The version at which the group applies its commands, see [`crate::StateMachine::version`]; 1 at the founding.
    pub machine: u32,
}

/// A step from one configuration to another. Each can be asked for again: what is so already stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// A new replica begins to receive entries.
    AddLearner(ReplicaPlace),
    /// Into a joint configuration: a learner becomes a voter in the place of another.
    Exchange { enters: ReplicaId, leaves: ReplicaId },
    /// Out of it: the voters before are no longer asked.
    Leave,
    /// The voters after have committed this by themselves: who left is gone for good.
    Release,
    /// A learner goes. One that never came is never to come.
    RemoveLearner(ReplicaId),
    /// Commands from here on are applied at this version. A replica whose program does not know it stops until it does.
    Raise(u32),
    /// Into a joint configuration: a learner becomes a voter beside the others.
    Enter(ReplicaId),
}

/// Why a configuration stays as it is although something else was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// It has to be finished first.
    #[error("an exchange of voters is under way")]
    Joint,
    #[error("replica {0} is gone, and its id is never used again")]
    Gone(ReplicaId),
    #[error("replica {0} is no learner")]
    NotLearner(ReplicaId),
    #[error("replica {0} is no voter")]
    NotVoter(ReplicaId),
    #[error("replica {0} is somewhere else")]
    Elsewhere(ReplicaId),
    #[error("a group has at most {MEMBERS_MAX} replicas")]
    TooMany,
    /// Taking it would make every id before it gone for good.
    #[error("replica {0} is more than {ID_STEP_MAX} beyond the last one")]
    TooFar(ReplicaId),
}

impl Members {
    /// The configuration with which a group begins.
    pub fn founding(spec: &GroupSpec) -> Members {
        let last = spec.voters.iter().map(|voter| voter.replica).max().unwrap_or(ReplicaId(0));
        Members {
            group: spec.group,
            version: 0,
            voters: spec.voters.clone(),
            outgoing: Vec::new(),
            learners: Vec::new(),
            parting: Vec::new(),
            last,
            machine: 1,
        }
    }

    /// Which founding the configuration is of: 0 for the first, and later ones are greater.
    pub fn era(&self) -> u64 {
        self.version / ERA
    }

    /// The configuration with which the group is founded anew on a drive: one voter, under a new id. Its version is beyond every one
    /// of before, and so are its ids, whoever gave out more of them than is known here. Of two foundings that know nothing of each other
    /// the one that was decided later (`at_s`, seconds since 1970) is newer, and `random` keeps their ids so far apart that none comes to
    /// those of the other. `None` if the numbers come to an end.
    pub fn refounded(&self, node: NodeId, drive: DriveId, at_s: u64, random: u64) -> Option<Members> {
        let step = (1 + random % ID_STEP_MAX) * 2 * ID_STEP_MAX;
        let last = ReplicaId(self.last.0.checked_add(step)?);
        let version = (self.era() + 1).max(at_s).checked_mul(ERA)?;
        let voters = vec![ReplicaPlace { replica: last, node, drive }];
        let (outgoing, learners, parting) = (Vec::new(), Vec::new(), Vec::new());
        Some(Members { group: self.group, version, voters, outgoing, learners, parting, last, machine: self.machine })
    }

    /// Everybody who belongs, or is parting, each once.
    pub fn all(&self) -> impl Iterator<Item = &ReplicaPlace> {
        self.with_vote().chain(&self.learners).chain(&self.parting)
    }

    /// Where a replica is, if it belongs or is parting.
    pub fn place(&self, replica: ReplicaId) -> Option<&ReplicaPlace> {
        self.all().find(|place| place.replica == replica)
    }

    /// Whether it votes, in the configuration that is to stay.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.iter().any(|voter| voter.replica == replica)
    }

    /// Whether it receives entries without counting.
    pub fn is_learner(&self, replica: ReplicaId) -> bool {
        self.learners.iter().any(|learner| learner.replica == replica)
    }

    /// Whether its vote counts, now.
    pub fn has_vote(&self, replica: ReplicaId) -> bool {
        self.is_voter(replica) || self.outgoing.iter().any(|voter| voter.replica == replica)
    }

    /// Everybody whose vote counts, each once: who leads is among them.
    pub fn with_vote(&self) -> impl Iterator<Item = &ReplicaPlace> {
        self.voters.iter().chain(self.outgoing.iter().filter(|place| !self.is_voter(place.replica)))
    }

    /// Whether the voters before and those after an exchange have to agree.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether no exchange of voters is under way, to the end of it.
    pub fn is_settled(&self) -> bool {
        self.outgoing.is_empty() && self.parting.is_empty()
    }

    /// The step by which whoever leads brings an exchange nearer to its end.
    pub(crate) fn next_step(&self) -> Option<Change> {
        match (self.is_joint(), self.is_settled()) {
            (true, _) => Some(Change::Leave),
            (false, false) => Some(Change::Release),
            (false, true) => None,
        }
    }

    /// Whether a replica of this id belonged, or might have, and never will again.
    pub fn is_gone(&self, replica: ReplicaId) -> bool {
        replica <= self.last && self.place(replica).is_none()
    }

    /// Whether this, which somebody tells of, proves to `replica` that it left for good: it is of its group, newer than `own`, the
    /// configuration that it knows itself, and all that one knew of ids. A later founding need know nothing of the ids of one before it.
    pub(crate) fn proves_gone(&self, replica: ReplicaId, own: &Members) -> bool {
        let gone = match self.era() > own.era() {
            true => self.place(replica).is_none(),
            false => self.last >= own.last && self.is_gone(replica),
        };
        self.group == own.group && self.version > own.version && self.is_sound() && gone
    }

    /// Whether it can be a configuration at all; what came from elsewhere may not be.
    pub fn is_sound(&self) -> bool {
        let Members { voters, outgoing, learners, parting, .. } = self;
        let lists = [voters, outgoing, learners, parting];
        if voters.is_empty() || lists.iter().any(|list| list.len() > MEMBERS_MAX) || self.all().count() > MEMBERS_MAX {
            return false;
        }
        let once = |among: [&[ReplicaPlace]; 3]| {
            let mut seen = BTreeSet::new();
            among.into_iter().flatten().all(|place| seen.insert(place.replica))
        };
        let moved = |old: &ReplicaPlace| voters.iter().any(|voter| voter.replica == old.replica && voter != old);
        let known = |place: &ReplicaPlace| (ReplicaId(1)..=self.last).contains(&place.replica);
        let apart = once([voters, learners, parting]) && once([outgoing, learners, parting]);
        apart && !outgoing.iter().any(moved) && lists.into_iter().flatten().all(known)
    }

    /// Take a step. `Ok(false)`: it is so already, nothing changed.
    pub fn take(&mut self, change: Change) -> Result<bool, Refused> {
        let changed = match change {
            Change::AddLearner(place) => self.add_learner(place)?,
            Change::Exchange { enters, leaves } => self.exchange(enters, leaves)?,
            Change::Leave => self.leave(),
            Change::Release => !std::mem::take(&mut self.parting).is_empty(),
            Change::RemoveLearner(replica) => self.remove_learner(replica)?,
            Change::Raise(version) => self.raise(version),
            Change::Enter(replica) => self.enter(replica)?,
        };
        self.version += u64::from(changed);
        Ok(changed)
    }

    fn is_too_far(&self, replica: ReplicaId) -> bool {
        replica.0.saturating_sub(self.last.0) > ID_STEP_MAX
    }

    fn add_learner(&mut self, place: ReplicaPlace) -> Result<bool, Refused> {
        match self.place(place.replica) {
            Some(known) if *known != place => return Err(Refused::Elsewhere(place.replica)),
            Some(_) if self.is_voter(place.replica) || self.is_learner(place.replica) => return Ok(false),
            // It is about to leave, or did.
            Some(_) => return Err(Refused::Gone(place.replica)),
            None if place.replica <= self.last => return Err(Refused::Gone(place.replica)),
            None if self.is_too_far(place.replica) => return Err(Refused::TooFar(place.replica)),
            None if self.is_joint() => return Err(Refused::Joint),
            None if self.all().count() >= MEMBERS_MAX => return Err(Refused::TooMany),
            None => {}
        }
        self.last = place.replica;
        self.learners.push(place);
        Ok(true)
    }

    fn exchange(&mut self, enters: ReplicaId, leaves: ReplicaId) -> Result<bool, Refused> {
        if self.is_voter(enters) && !self.is_voter(leaves) {
            return Ok(false);
        }
        if !self.is_settled() {
            return Err(Refused::Joint);
        }
        let learner = self.learners.iter().position(|learner| learner.replica == enters).ok_or(Refused::NotLearner(enters))?;
        let voter = self.voters.iter().position(|voter| voter.replica == leaves).ok_or(Refused::NotVoter(leaves))?;
        self.outgoing = self.voters.clone();
        self.voters[voter] = self.learners.remove(learner);
        Ok(true)
    }

    fn enter(&mut self, replica: ReplicaId) -> Result<bool, Refused> {
        if self.is_voter(replica) {
            return Ok(false);
        }
        if !self.is_settled() {
            return Err(Refused::Joint);
        }
        let learner = self.learners.iter().position(|learner| learner.replica == replica).ok_or(Refused::NotLearner(replica))?;
        self.outgoing = self.voters.clone();
        self.voters.push(self.learners.remove(learner));
        Ok(true)
    }

    fn raise(&mut self, version: u32) -> bool {
        let raised = version > self.machine;
        self.machine = self.machine.max(version);
        raised
    }

    fn leave(&mut self) -> bool {
        let before = std::mem::take(&mut self.outgoing);
        let joint = !before.is_empty();
        self.parting.extend(before.into_iter().filter(|place| !self.voters.contains(place)));
        joint
    }

    fn remove_learner(&mut self, replica: ReplicaId) -> Result<bool, Refused> {
        if self.is_gone(replica) {
            return Ok(false);
        }
        if self.place(replica).is_some() && !self.is_learner(replica) {
            return Err(Refused::NotLearner(replica));
        }
        if self.is_too_far(replica) {
            return Err(Refused::TooFar(replica));
        }
        if self.is_joint() {
            return Err(Refused::Joint);
        }
        self.learners.retain(|learner| learner.replica != replica);
        self.last = self.last.max(replica);
        Ok(true)
    }

    /// Whether Raft has the same.
    pub(crate) fn is_as(&self, conf: &ConfState) -> bool {
        let sorted = |mut conf: ConfState| {
            for ids in [&mut conf.voters, &mut conf.voters_outgoing, &mut conf.learners, &mut conf.learners_next] {
                ids.sort_unstable();
            }
            conf
        };
        sorted(self.to_raft()) == sorted(conf.clone())
    }

    /// The same in Raft's words.
    pub(crate) fn to_raft(&self) -> ConfState {
        let ids = |places: &[ReplicaPlace]| places.iter().map(|place| place.replica.0).collect::<Vec<u64>>();
        let mut conf = ConfState::default();
        conf.set_voters(ids(&self.voters));
        conf.set_voters_outgoing(ids(&self.outgoing));
        conf.set_learners(ids(&self.learners));
        conf
    }
}

impl Change {
    /// The same in Raft's words; `None` if it is no business of Raft's. Joint configurations are entered explicitly: Raft's
    /// own leaving of them may never come when the leader changes, so leaders propose it themselves.
    pub(crate) fn to_raft(self) -> Option<ConfChangeV2> {
        let single = |kind, replica: ReplicaId| {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = replica.0;
            single
        };
        let mut change = ConfChangeV2::default();
        match self {
            Change::AddLearner(place) => change.set_changes(vec![single(ConfChangeType::AddLearnerNode, place.replica)].into()),
            Change::Exchange { enters, leaves } => {
                change.set_transition(ConfChangeTransition::Explicit);
                change.set_changes(vec![single(ConfChangeType::AddNode, enters), single(ConfChangeType::RemoveNode, leaves)].into());
            }
            Change::Enter(replica) => {
                change.set_transition(ConfChangeTransition::Explicit);
                change.set_changes(vec![single(ConfChangeType::AddNode, replica)].into());
            }
            Change::Leave => {}
            Change::Release | Change::Raise(_) => return None,
            Change::RemoveLearner(replica) => change.set_changes(vec![single(ConfChangeType::RemoveNode, replica)].into()),
        }
        Some(change)
    }

    /// As it stands in an entry.
    pub(crate) fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Take apart what [`Change::encode`] made.
    pub(crate) fn decode(data: &[u8]) -> Option<Change> {
        wire::decode(data).ok()
    }
}

#[cfg(test)]
mod tests;
