//! Whom a client asks.

use super::*;
use crate::members::Change;
use protocol::DriveId;

fn place(id: u64) -> ReplicaPlace {
    ReplicaPlace { replica: ReplicaId(id), node: NodeId(id), drive: DriveId(id) }
}

fn joint() -> (GroupSpec, Members) {
    let spec = GroupSpec { group: GroupId(1), voters: (1..=3).map(place).collect() };
    let mut members = Members::founding(&spec);
    members.take(Change::AddLearner(place(4))).unwrap();
    members.take(Change::Exchange { enters: ReplicaId(4), leaves: ReplicaId(2) }).unwrap();
    (spec, members)
}

#[test]
fn who_is_only_a_voter_before_an_exchange_may_lead_and_is_asked() {
    let tour = Tour::of(GroupId(1), &joint().1, Some(ReplicaId(2)), NodeId(9)).unwrap();
    assert_eq!(tour.voters, [place(1), place(4), place(3), place(2)]);
    assert_eq!(tour.place(), place(2));
}

/// Else the next tour would have nobody to ask, or somebody else's replicas.
#[test]
fn what_cannot_be_a_configuration_of_the_group_is_not_learned() {
    let (spec, members) = joint();
    let directory = Directory::of([&spec]);
    directory.learn(GroupId(1), &members);
    let other = Members { group: GroupId(2), version: 9, ..members.clone() };
    let nobody = Members { voters: Vec::new(), version: 9, ..members.clone() };
    [other, nobody].iter().for_each(|wrong| directory.learn(GroupId(1), wrong));
    assert_eq!(directory.members(GroupId(1)), Some(members));
}
