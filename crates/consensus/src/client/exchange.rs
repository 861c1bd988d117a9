//! Changing who belongs to a group. Each step can be repeated, by anyone, after any crash: what is done already stays
//! as it is, and what came of the steps before is asked of the group, never remembered.

use super::{ATTEMPT, Attempt, Client, Error};
use crate::host::ReplicaPlace;
use crate::members::{Change, Members, Refused};
use crate::wire::{self, Create, ProposeChange, Remove, Told, WhoBelongs};
use bytes::Bytes;
use protocol::wire::{decode, encode};
use protocol::{GroupId, NodeId, ReplicaId};
use runtime::time::{self, Instant};
use std::collections::BTreeSet;
use std::time::Duration;

/// Pause before a step that cannot be taken yet is asked for again.
const STEP_PAUSE: Duration = Duration::from_millis(200);
/// The longest that one replica is waited for to commit and apply a change, or to be created.
const STEP: Duration = Duration::from_secs(3);

/// A group as its nodes know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupView {
    /// The newest configuration that any of them applied.
    pub members: Members,
    /// Who leads, as far as is known.
    pub leader: Option<ReplicaId>,
}

impl Client {
    /// Who belongs to `group`, by the newest that its nodes know. It may be older than the truth; steps are judged by the
    /// group itself.
    pub async fn members(&self, group: GroupId, deadline: Instant) -> Result<GroupView, Error> {
        let known = self.known(group)?;
        let until = deadline.min(time::now() + ATTEMPT);
        let nodes: BTreeSet<NodeId> = known.all().map(|place| place.node).collect();
        let newest = |told: Vec<Told>| told.into_iter().max_by_key(|told| (told.members.version, told.leader.is_some()));
        let mut told = newest(self.ask_nodes(group, nodes, until).await);
        if told.as_ref().is_none_or(|told| told.leader.is_none()) {
            // The group may have moved to other nodes, and those that it left know no more than this one.
            let all = self.ask_all_members(group, deadline.min(time::now() + ATTEMPT)).await;
            told = newest(all.into_iter().chain(told).collect());
        }
        match told {
            Some(Told { members, leader }) => Ok(GroupView { members, leader }),
            None => Err(Error::Unavailable { group, reason: "none of its nodes answers".to_owned() }),
        }
    }

    /// What this client knows of a group without asking.
    pub fn known(&self, group: GroupId) -> Result<Members, Error> {
        let known = self.inner.directory.members(group);
        known.ok_or_else(|| Error::Unavailable { group, reason: "no such group".to_owned() })
    }

    /// Take in a configuration that somebody else told of, if it is newer than what is known.
    pub fn learn(&self, group: GroupId, members: &Members) {
        self.inner.directory.learn(group, members);
    }

    /// Who belongs to `group` by the word of `node` alone; `None` if it does not answer, or knows nothing of it.
    pub async fn members_by(&self, group: GroupId, node: NodeId, deadline: Instant) -> Option<Members> {
        self.ask_members(group, node, deadline.min(time::now() + ATTEMPT)).await.map(|told| told.members)
    }

    /// What every node that this one has an address of knows of a group; taken in.
    pub(super) async fn ask_all_members(&self, group: GroupId, until: Instant) -> Vec<Told> {
        runtime::probe!("consensus-client-asked-everybody");
        let rpc = &self.inner.rpc;
        let nodes = rpc.known_peers().into_iter().chain([rpc.node()]).collect();
        self.ask_nodes(group, nodes, until).await
    }

    /// What `nodes` know of a group; taken in.
    pub(super) async fn ask_nodes(&self, group: GroupId, nodes: BTreeSet<NodeId>, until: Instant) -> Vec<Told> {
        let asked = nodes.into_iter().map(|node| self.ask_members(group, node, until));
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// What `node` knows of a group; taken in.
    pub(super) async fn ask_members(&self, group: GroupId, node: NodeId, until: Instant) -> Option<Told> {
        let received = self.send(node, wire::MEMBERS, encode(&WhoBelongs { group }), Bytes::new(), until).await.ok()?;
        let told: Told = decode::<Option<Told>>(&received.body).ok()??;
        if told.members.group != group || !told.members.is_sound() {
            return None;
        }
        self.learn(group, &told.members);
        Some(told)
    }

    /// Propose `change` until it is applied, refused, or `deadline`. `Ok(Err(..))`: the group refuses it as it is now.
    pub async fn change(&self, group: GroupId, change: Change, deadline: Instant) -> Result<Result<Members, Refused>, Error> {
        let mut tour = self.tour(group)?;
        let mut reason = "no time was left".to_owned();
        while time::now() < deadline {
            let place = tour.place();
            let meta = encode(&ProposeChange { group, replica: place.replica, change });
            match self.attempt(place, wire::CHANGE, meta, Bytes::new(), deadline.min(time::now() + STEP)).await {
                Attempt::Reply(reply) => {
                    let told = decode::<Result<Members, Refused>>(&reply);
                    let told = told.map_err(|error| Error::Unknown { group, reason: error.to_string() })?;
                    if let Ok(members) = &told {
                        self.learn(group, members);
                    }
                    return Ok(told);
                }
                Attempt::Later(why) => {
                    reason = why;
                    time::sleep_until(deadline.min(time::now() + STEP_PAUSE)).await;
                }
                Attempt::Elsewhere(hint, why) => {
                    reason = why;
                    self.go_on(&mut tour, hint, deadline).await;
                }
                Attempt::Missing(why) | Attempt::Unknown(why) => {
                    reason = why;
                    tour.note_silent(place.replica);
                    self.go_on(&mut tour, None, deadline).await;
                }
                Attempt::Busy | Attempt::NodeBusy(_) | Attempt::TooOld => self.go_on(&mut tour, None, deadline).await,
                Attempt::Refused(reason) => return Err(Error::Unavailable { group, reason }),
            }
        }
        Err(Error::Unknown { group, reason })
    }

    /// Create the replica `place`, which belongs to nothing yet; done already if it is there.
    pub async fn create_replica(&self, group: GroupId, place: ReplicaPlace, deadline: Instant) -> Result<(), Error> {
        let meta = encode(&Create { group, replica: place.replica, drive: place.drive });
        self.tell_node(group, place, wire::CREATE, meta, deadline).await
    }

    /// Remove the replica `place`, which left its group, as `members` proves; done already if it is not there.
    pub async fn remove_replica(&self, group: GroupId, place: ReplicaPlace, members: &Members, deadline: Instant) -> Result<(), Error> {
        let meta = encode(&Remove { group, replica: place.replica, drive: place.drive, members: members.clone() });
        self.tell_node(group, place, wire::REMOVE, meta, deadline).await
    }

    async fn tell_node(
        &self,
        group: GroupId,
        place: ReplicaPlace,
        method: runtime::rpc::Method,
        meta: Vec<u8>,
        deadline: Instant,
    ) -> Result<(), Error> {
        loop {
            let until = deadline.min(time::now() + STEP);
            let reason = match self.attempt(place, method, meta.clone(), Bytes::new(), until).await {
                Attempt::Reply(_) => return Ok(()),
                Attempt::Refused(reason) => return Err(Error::Unavailable { group, reason }),
                Attempt::Missing(_) => format!("node {} does not have drive {}", place.node, place.drive),
                Attempt::Elsewhere(_, why) | Attempt::Unknown(why) | Attempt::Later(why) => why,
                Attempt::Busy | Attempt::NodeBusy(_) | Attempt::TooOld => "it is busy".to_owned(),
            };
            if time::now() + STEP_PAUSE >= deadline {
                return Err(Error::Unknown { group, reason });
            }
            time::sleep(STEP_PAUSE).await;
        }
    }

    /// Put the replica `enters` beside the voters, as [`Client::exchange`] puts one in the place of another.
    pub async fn enlarge(&self, group: GroupId, enters: ReplicaPlace, deadline: Instant) -> Result<Members, Error> {
        self.bring_in(group, enters, None, deadline).await
    }

    /// Put the replica `enters` in the place of the voter `leaves`: create it, let it catch up as a learner, exchange
    /// them through a joint configuration, and wait until that was left and who left is released. Returns the configuration in
    /// which it is done. To be asked for again, by anyone, after any error or crash. The replica that left is not removed.
    pub async fn exchange(&self, group: GroupId, enters: ReplicaPlace, leaves: ReplicaId, deadline: Instant) -> Result<Members, Error> {
        self.bring_in(group, enters, Some(leaves), deadline).await
    }

    async fn bring_in(&self, group: GroupId, enters: ReplicaPlace, leaves: Option<ReplicaId>, deadline: Instant) -> Result<Members, Error> {
        let refused = |refused: Refused| Error::Unavailable { group, reason: refused.to_string() };
        while time::now() < deadline {
            // The group's own word: a step that is so already tells the configuration as it is.
            let mut members = match self.change(group, Change::AddLearner(enters), deadline.min(time::now() + STEP)).await {
                Ok(Ok(members)) => members,
                Ok(Err(Refused::Joint)) => {
                    time::sleep(STEP_PAUSE).await;
                    continue;
                }
                Ok(Err(why)) => return Err(refused(why)),
                // No time was left for this one, or it is not known what came of it: the group is asked again.
                Err(Error::Unknown { .. }) if time::now() < deadline => continue,
                Err(error) => return Err(error),
            };
            if members.is_learner(enters.replica) {
                // After the group knows of it: nobody may be left with a replica that no record and no group names.
                self.create_replica(group, enters, deadline).await?;
                let change = match leaves {
                    Some(leaves) => Change::Exchange { enters: enters.replica, leaves },
                    None => Change::Enter(enters.replica),
                };
                members = match self.change(group, change, deadline).await? {
                    Ok(members) => members,
                    Err(Refused::Joint) => members,
                    Err(why) => return Err(refused(why)),
                };
            }
            if !members.is_settled() || members.is_learner(enters.replica) {
                // Whoever leads brings it to its end.
                time::sleep(STEP_PAUSE).await;
                continue;
            }
            if members.is_voter(enters.replica) {
                return match leaves.filter(|leaves| !members.is_gone(*leaves)) {
                    None => Ok(members),
                    Some(leaves) => {
                        let reason = format!("replica {} is a voter in the place of another than {leaves}", enters.replica);
                        Err(Error::Unavailable { group, reason })
                    }
                };
            }
        }
        Err(Error::Unknown { group, reason: "no time was left".to_owned() })
    }
}
