//! Where the replicas of all Raft groups live: the static bootstrap. Pure: every node computes the same from the
//! same map, so nobody has to be asked before the root group exists.
//!
//! Invariants: the voters of a group are on distinct drives; over zones, then nodes, they are as even as can be; the
//! groups' replicas and first voters (the natural first leaders) are even over nodes and drives.

use consensus::{GroupSpec, ReplicaPlace};
use protocol::{ClusterMap, DriveId, DriveState, GroupId, NodeId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// Voters of a group where there are so many drives.
const VOTERS: [usize; 3] = [5, 3, 1];

/// The voters of `groups` on the drives of `map` that are In: five, or three or one where drives are fewer. None
/// without drives. A group's place depends only on the groups before it in `groups`.
pub fn place_replicas(map: &ClusterMap, groups: &[GroupId]) -> Vec<GroupSpec> {
    let seats: Vec<Seat> = seats(map).filter(|(_, state)| *state == DriveState::In).map(|(seat, _)| seat).collect();
    let Some(voters) = VOTERS.into_iter().find(|count| *count <= seats.len()) else { return Vec::new() };
    let mut before = Load::default();
    groups.iter().map(|group| place(*group, &seats, voters, &mut before)).collect()
}

/// The drive for a new replica in the place of `leaves`, or of none, among the `voters` of a group: In, none of `barred`, without a voter of
/// the group; so that zones, then nodes, come to be as even as can be, in the zone of who leaves if that is as good. `all` are
/// the replicas of all groups. `None` if there is no such drive.
pub fn replacement(
    map: &ClusterMap,
    voters: &[ReplicaPlace],
    leaves: Option<ReplicaId>,
    all: &[ReplicaPlace],
    barred: &BTreeSet<DriveId>,
) -> Option<(NodeId, DriveId)> {
    let seat_of = |place: &ReplicaPlace| seats(map).map(|(seat, _)| seat).find(|seat| seat.drive == place.drive);
    let zone = voters.iter().find(|voter| Some(voter.replica) == leaves).and_then(seat_of).map(|seat| seat.zone);
    let (mut own, mut before) = (Load::default(), Load::default());
    voters.iter().filter(|voter| Some(voter.replica) != leaves).filter_map(seat_of).for_each(|seat| own.add(seat));
    all.iter().filter_map(seat_of).for_each(|seat| before.add(seat));
    let free = |drive: DriveId| !barred.contains(&drive) && voters.iter().all(|voter| voter.drive != drive);
    let taking = seats(map).filter(|(seat, state)| *state == DriveState::In && free(seat.drive)).map(|(seat, _)| seat);
    let best = taking.min_by_key(|seat| {
        let [in_zone, rest @ ..] = own.of(seat);
        (in_zone, Some(seat.zone) != zone, rest, before.of(seat), seat.drive)
    });
    best.map(|seat| (seat.node, seat.drive))
}

fn seats(map: &ClusterMap) -> impl Iterator<Item = (Seat<'_>, DriveState)> {
    map.nodes.iter().flat_map(|node| {
        let seat = |drive: &protocol::Drive| Seat { zone: &node.zone, rack: &node.rack, node: node.id, drive: drive.id };
        node.drives.iter().map(move |drive| (seat(drive), drive.state))
    })
}

#[derive(Clone, Copy)]
struct Seat<'a> {
    zone: &'a str,
    rack: &'a str,
    node: NodeId,
    drive: DriveId,
}

/// How many replicas are in each domain.
#[derive(Default)]
struct Load<'a> {
    zones: BTreeMap<&'a str, usize>,
    racks: BTreeMap<(&'a str, &'a str), usize>,
    nodes: BTreeMap<NodeId, usize>,
    drives: BTreeMap<DriveId, usize>,
    /// First voters by node and by drive.
    firsts: BTreeMap<NodeId, usize>,
    firsts_of_drives: BTreeMap<DriveId, usize>,
}

impl<'a> Load<'a> {
    fn add(&mut self, seat: Seat<'a>) {
        *self.zones.entry(seat.zone).or_default() += 1;
        *self.racks.entry((seat.zone, seat.rack)).or_default() += 1;
        *self.nodes.entry(seat.node).or_default() += 1;
        *self.drives.entry(seat.drive).or_default() += 1;
    }

    fn of(&self, seat: &Seat<'a>) -> [usize; 4] {
        let count = |found: Option<&usize>| found.copied().unwrap_or(0);
        [
            count(self.zones.get(seat.zone)),
            count(self.racks.get(&(seat.zone, seat.rack))),
            count(self.nodes.get(&seat.node)),
            count(self.drives.get(&seat.drive)),
        ]
    }
}

fn place<'a>(group: GroupId, seats: &[Seat<'a>], voters: usize, before: &mut Load<'a>) -> GroupSpec {
    let mut own = Load::default();
    let mut chosen: Vec<Seat> = Vec::with_capacity(voters);
    for _ in 0..voters {
        let free = seats.iter().filter(|seat| !own.drives.contains_key(&seat.drive));
        // First what this group needs (zones, racks, nodes apart), then what is even over all groups.
        let best = free.min_by_key(|seat| (own.of(seat), before.of(seat), seat.drive));
        let seat = *best.expect("no more voters than drives");
        own.add(seat);
        chosen.push(seat);
    }
    chosen.iter().for_each(|seat| before.add(*seat));
    let firsts = |seat: &Seat| {
        let count = |found: Option<&usize>| found.copied().unwrap_or(0);
        (count(before.firsts.get(&seat.node)), count(before.firsts_of_drives.get(&seat.drive)))
    };
    let first = (0..chosen.len()).min_by_key(|&index| firsts(&chosen[index])).expect("at least one voter");
    chosen.swap(0, first);
    *before.firsts.entry(chosen[0].node).or_default() += 1;
    *before.firsts_of_drives.entry(chosen[0].drive).or_default() += 1;
    let voters = chosen
        .iter()
        .enumerate()
        .map(|(index, seat)| ReplicaPlace { replica: replica_id(group, index), node: seat.node, drive: seat.drive })
        .collect();
    GroupSpec { group, voters }
}

/// The id of the `index`-th first voter of `group`. Ids given later, to replacements, continue behind these.
pub fn replica_id(group: GroupId, index: usize) -> ReplicaId {
    ReplicaId(group.0 << 16 | (index as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::testing::map;

    fn groups(count: u64) -> Vec<GroupId> {
        (0..count).map(GroupId).collect()
    }

    fn tally<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
        keys.fold(BTreeMap::new(), |mut counts, key| {
            *counts.entry(key).or_default() += 1;
            counts
        })
    }

    #[test]
    fn five_voters_over_three_zones_are_two_two_one_on_five_nodes() {
        let map = map(3, 2, 2);
        for spec in place_replicas(&map, &groups(9)) {
            let mut zones: Vec<_> = tally(spec.voters.iter().map(|v| &map.node(v.node).unwrap().zone)).into_values().collect();
            zones.sort();
            assert_eq!(zones, [1, 2, 2]);
            assert_eq!(spec.voters.iter().map(|voter| voter.node).collect::<BTreeSet<_>>().len(), 5);
        }
    }

    #[test]
    fn six_folders_hold_five_voters_each_group_and_share_the_load() {
        let map = map(1, 1, 6);
        let specs = place_replicas(&map, &groups(9));
        assert!(specs.iter().all(|spec| spec.voters.iter().map(|v| v.drive).collect::<BTreeSet<_>>().len() == 5));
        let all: Vec<_> = tally(specs.iter().flat_map(|spec| &spec.voters).map(|voter| voter.drive)).into_values().collect();
        assert!(all.len() == 6 && all.iter().all(|count| (7..=8).contains(count)), "{all:?}");
        let firsts = tally(specs.iter().map(|spec| spec.voters[0].drive));
        assert!(firsts.len() == 6 && firsts.values().all(|count| *count <= 2), "{firsts:?}");
    }

    #[test]
    fn replicas_and_first_leaders_are_even_over_nodes() {
        let map = map(3, 2, 2);
        let specs = place_replicas(&map, &groups(12));
        let nodes = tally(specs.iter().flat_map(|spec| &spec.voters).map(|voter| voter.node));
        assert!(nodes.len() == 6 && nodes.values().all(|count| (9..=11).contains(count)), "{nodes:?}");
        let firsts = tally(specs.iter().map(|spec| spec.voters[0].node));
        assert!(firsts.len() == 6 && firsts.values().all(|count| (1..=3).contains(count)), "{firsts:?}");
    }

    #[test]
    fn replica_ids_are_unique_and_name_their_group() {
        let specs = place_replicas(&map(3, 2, 2), &groups(40));
        let ids: BTreeSet<_> = specs.iter().flat_map(|spec| &spec.voters).map(|voter| voter.replica).collect();
        assert_eq!(ids.len(), 200);
        assert_eq!(specs[2].voters[0].replica, ReplicaId(2 << 16 | 1));
    }

    #[test]
    fn a_replacement_keeps_zones_even_and_stays_in_its_zone_if_it_can() {
        let map = map(3, 2, 2);
        let specs = place_replicas(&map, &groups(9));
        let all: Vec<ReplicaPlace> = specs.iter().flat_map(|spec| spec.voters.clone()).collect();
        let zone = |node: NodeId| map.node(node).unwrap().zone.clone();
        for spec in &specs {
            for leaves in &spec.voters {
                let at = |barred: &BTreeSet<DriveId>| replacement(&map, &spec.voters, Some(leaves.replica), &all, barred);
                let (node, drive) = at(&BTreeSet::from([leaves.drive])).unwrap();
                assert!(spec.voters.iter().all(|voter| voter.drive != drive));
                assert_eq!(zone(node), zone(leaves.node));
                // Its zone is gone: another one, and none of those that are gone.
                let zone_drives = map.nodes.iter().filter(|node| node.zone == zone(leaves.node));
                let barred: BTreeSet<DriveId> = zone_drives.flat_map(|node| node.drives.iter().map(|drive| drive.id)).collect();
                let (node, drive) = at(&barred).unwrap();
                assert!(zone(node) != zone(leaves.node) && !barred.contains(&drive));
            }
        }
        let everywhere = map.nodes.iter().flat_map(|node| node.drives.iter().map(|drive| drive.id)).collect();
        assert_eq!(replacement(&map, &specs[0].voters, Some(specs[0].voters[0].replica), &all, &everywhere), None);
    }

    #[test]
    fn fewer_drives_fewer_voters_and_more_groups_move_nobody() {
        let voters = |drives| place_replicas(&map(1, 1, drives), &groups(1)).first().map(|spec| spec.voters.len());
        assert_eq!([voters(5), voters(4), voters(3), voters(2), voters(1), voters(0)], [Some(5), Some(3), Some(3), Some(1), Some(1), None]);
        let map = map(3, 3, 2);
        assert_eq!(place_replicas(&map, &groups(5)), place_replicas(&map, &groups(9))[..5]);
    }
}
