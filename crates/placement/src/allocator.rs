//! Which drives a new volume gets. Pure and deterministic: same map, same number, same exclusions, same drives.
//!
//! One consistent-hash ring per zone, each drive on it as many times as its weight says. A volume's slots are spread
//! over zones as evenly as their drives allow, in each zone over racks, in each rack over nodes; what is left to
//! choose, the ring chooses. Invariant: never two slots on one drive, never a slot on an excluded drive.

use protocol::{ClusterMap, DriveId, DriveState, NodeId, SlotPlace};
use std::collections::{BTreeMap, BTreeSet};

/// Points of an ordinary drive (weight 100) on its zone's ring.
const POINTS: u64 = 64;
/// Most points of one drive.
const POINTS_MAX: u64 = 6400;
/// Distinct drives that are looked at from a place on the ring before racks and nodes are weighed: exact in zones
/// of up to so many drives, and in larger ones more than enough to find as many racks as a volume has slots.
const LOOK_AHEAD: usize = 4096;

/// The rings of one cluster map.
pub struct Allocator {
    /// By zone name.
    rings: Vec<Ring>,
}

/// The drives of one zone around a circle.
pub struct Ring {
    /// Sorted by place.
    points: Vec<(u64, DriveId)>,
    seats: BTreeMap<DriveId, Seat>,
}

/// A drive on a ring.
struct Seat {
    node: NodeId,
    /// Number of the rack within the zone.
    rack: usize,
    points: u64,
}

/// Fewer drives can be used than a volume has slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shortage {
    pub needed: usize,
    pub usable: usize,
}

impl Allocator {
    /// Rings of all drives that are In and have a weight.
    pub fn new(map: &ClusterMap) -> Allocator {
        let mut zones: BTreeMap<&str, Vec<&protocol::Node>> = BTreeMap::new();
        for node in &map.nodes {
            zones.entry(&node.zone).or_default().push(node);
        }
        Allocator { rings: zones.into_values().map(Ring::new).collect() }
    }

    /// `count` drives none of which is in `excluded`; `number` (of the volume) decides among the many right answers.
    pub fn choose(&self, count: usize, number: u64, excluded: &BTreeSet<DriveId>) -> Result<Vec<SlotPlace>, Shortage> {
        let room: Vec<usize> = self.rings.iter().map(|ring| ring.usable(excluded)).collect();
        let usable = room.iter().sum();
        if count > usable {
            return Err(Shortage { needed: count, usable });
        }
        let at = mix(number);
        let zones = self.zones_of_slots(count, at, &room);
        let mut chosen: Vec<_> = self
            .rings
            .iter()
            .enumerate()
            .map(|(zone, ring)| ring.choose(zones.iter().filter(|&&z| z == zone).count(), at, excluded).into_iter())
            .collect();
        Ok(zones.iter().map(|&zone| chosen[zone].next().expect("a zone is given no more slots than it has usable drives")).collect())
    }

    /// For each slot its zone: always one with the fewest slots that has a drive left; among equals by weight.
    fn zones_of_slots(&self, count: usize, at: u64, room: &[usize]) -> Vec<usize> {
        let mut taken = vec![0; room.len()];
        let mut zones = Vec::with_capacity(count);
        for slot in 0..count as u64 {
            let open = |zone: &usize| taken[*zone] < room[*zone];
            let fewest = (0..room.len()).filter(open).map(|zone| taken[zone]).min().expect("there are drives for every slot");
            let equal: Vec<usize> = (0..room.len()).filter(|zone| open(zone) && taken[*zone] == fewest).collect();
            let total: u64 = equal.iter().map(|&zone| self.rings[zone].points.len() as u64).sum();
            let mut draw = mix(at ^ mix(slot)) % total;
            let zone = equal.into_iter().find(|&zone| {
                let share = self.rings[zone].points.len() as u64;
                let found = draw < share;
                draw = draw.saturating_sub(share);
                found
            });
            let zone = zone.expect("a draw below the total falls into one share");
            taken[zone] += 1;
            zones.push(zone);
        }
        zones
    }
}

impl Ring {
    fn new(nodes: Vec<&protocol::Node>) -> Ring {
        let racks: Vec<&str> = nodes.iter().map(|node| node.rack.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
        let mut seats = BTreeMap::new();
        let mut points = Vec::new();
        for node in nodes {
            let rack = racks.binary_search(&node.rack.as_str()).expect("the racks of these very nodes");
            for drive in node.drives.iter().filter(|drive| drive.state == DriveState::In && drive.weight > 0) {
                let count = (u64::from(drive.weight) * POINTS / 100).clamp(1, POINTS_MAX);
                points.extend((0..count).map(|point| (mix(mix(drive.id.0) ^ point), drive.id)));
                seats.insert(drive.id, Seat { node: node.id, rack, points: count });
            }
        }
        points.sort();
        Ring { points, seats }
    }

    /// The drive that owns the place `at`: the first at or after it.
    pub fn owner(&self, at: u64) -> Option<DriveId> {
        self.from(at).next()
    }

    /// The share of `drive` in all points of this ring, as (its, all).
    pub fn share(&self, drive: DriveId) -> (u64, u64) {
        (self.seats.get(&drive).map_or(0, |seat| seat.points), self.points.len() as u64)
    }

    /// Points once around from `at`; a drive occurs as often as it has points.
    fn from(&self, at: u64) -> impl Iterator<Item = DriveId> {
        let start = self.points.partition_point(|(place, _)| *place < at);
        self.points[start..].iter().chain(&self.points[..start]).map(|(_, drive)| *drive)
    }

    fn usable(&self, excluded: &BTreeSet<DriveId>) -> usize {
        self.seats.keys().filter(|drive| !excluded.contains(drive)).count()
    }

    /// `count` drives in ring order from `at`, but a rack with fewer slots before one with more, then nodes likewise.
    fn choose(&self, count: usize, at: u64, excluded: &BTreeSet<DriveId>) -> Vec<SlotPlace> {
        let mut seen = BTreeSet::new();
        let usable = self.from(at).filter(|drive| !excluded.contains(drive) && seen.insert(*drive));
        let mut candidates: Vec<DriveId> = if count == 0 { Vec::new() } else { usable.take(LOOK_AHEAD).collect() };
        let (mut racks, mut nodes) = (BTreeMap::<usize, usize>::new(), BTreeMap::<NodeId, usize>::new());
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..count {
            let load = |drive: &DriveId| {
                let seat = &self.seats[drive];
                (racks.get(&seat.rack).copied().unwrap_or(0), nodes.get(&seat.node).copied().unwrap_or(0))
            };
            // The first among equals: `min_by_key` keeps ring order.
            let best = (0..candidates.len()).min_by_key(|&index| load(&candidates[index]));
            let drive = candidates.remove(best.expect("the caller counted the usable drives"));
            let seat = &self.seats[&drive];
            *racks.entry(seat.rack).or_default() += 1;
            *nodes.entry(seat.node).or_default() += 1;
            chosen.push(SlotPlace { node: seat.node, drive });
        }
        chosen
    }
}

/// A fixed, well spread permutation of 64-bit numbers (the finalizer of splitmix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::testing::map;
    use protocol::Drive;
    use quickcheck::{QuickCheck, TestResult};

    fn drives(map: &ClusterMap) -> Vec<DriveId> {
        map.nodes.iter().flat_map(|node| &node.drives).map(|drive| drive.id).collect()
    }

    /// A map of uneven shape from random bytes: each byte is a node (zone, rack, drives).
    fn shaped(shape: &[u8]) -> ClusterMap {
        let mut all = map(1, shape.len().max(1) as u64, 4);
        for (node, byte) in all.nodes.iter_mut().zip(shape) {
            node.zone = format!("z{}", byte % 4);
            node.rack = format!("r{}", byte / 4 % 3);
            node.drives.truncate(usize::from(byte / 12 % 4) + 1);
        }
        all
    }

    fn tally<K: Ord>(slots: &[SlotPlace], of: impl Fn(&SlotPlace) -> K) -> BTreeMap<K, usize> {
        slots.iter().fold(BTreeMap::new(), |mut counts, slot| {
            *counts.entry(of(slot)).or_default() += 1;
            counts
        })
    }

    /// Of two domains on one level the one with more slots may exceed the other by one, unless the other is full.
    fn even(counts: &[(usize, usize)]) -> bool {
        counts.iter().all(|(slots, _)| counts.iter().all(|(other, room)| *slots <= other + 1 || other == room))
    }

    #[test]
    fn slots_are_on_distinct_usable_drives_and_even_over_zones_racks_and_nodes() {
        fn property(shape: Vec<u8>, count: u8, number: u64, out: Vec<u8>) -> TestResult {
            let shape = &shape[..shape.len().min(24)];
            let map = shaped(shape);
            let all = drives(&map);
            let excluded: BTreeSet<_> = out.iter().map(|byte| all[usize::from(*byte) % all.len()]).collect();
            let count = usize::from(count % 16) + 1;
            let allocator = Allocator::new(&map);
            let usable = all.len() - excluded.len();
            let slots = match allocator.choose(count, number, &excluded) {
                Ok(slots) => slots,
                Err(shortage) => return TestResult::from_bool(shortage == Shortage { needed: count, usable } && usable < count),
            };
            let again = Allocator::new(&map).choose(count, number, &excluded).unwrap();
            let distinct: BTreeSet<_> = slots.iter().map(|slot| slot.drive).collect();
            if slots != again || slots.len() != count || distinct.len() != count || !distinct.is_disjoint(&excluded) {
                return TestResult::failed();
            }
            // Evenness, level by level: (slots, room) of every zone; of the racks of a zone; of the nodes of a rack.
            let node_of = |slot: &SlotPlace| map.node(slot.node).unwrap();
            let room = |select: &dyn Fn(&protocol::Node) -> bool| {
                let usable = |node: &protocol::Node| node.drives.iter().filter(|drive| !excluded.contains(&drive.id)).count();
                map.nodes.iter().filter(|node| select(node)).map(usable).sum::<usize>()
            };
            let zones: BTreeSet<_> = map.nodes.iter().map(|node| &node.zone).collect();
            let racks: BTreeSet<_> = map.nodes.iter().map(|node| (&node.zone, &node.rack)).collect();
            let by_zone = tally(&slots, |slot| &node_of(slot).zone);
            let by_rack = tally(&slots, |slot| (&node_of(slot).zone, &node_of(slot).rack));
            let by_node = tally(&slots, |slot| slot.node);
            let of_zones: Vec<_> = zones.iter().map(|z| (by_zone.get(z).copied().unwrap_or(0), room(&|n| &n.zone == *z))).collect();
            let racks_even = zones.iter().all(|zone| {
                let inside = racks.iter().filter(|(z, _)| z == zone);
                let counts: Vec<_> =
                    inside.map(|rack| (by_rack.get(rack).copied().unwrap_or(0), room(&|n| (&n.zone, &n.rack) == *rack))).collect();
                even(&counts)
            });
            let nodes_even = racks.iter().all(|rack| {
                let inside = map.nodes.iter().filter(|node| (&node.zone, &node.rack) == *rack);
                let counts: Vec<_> = inside.map(|node| (by_node.get(&node.id).copied().unwrap_or(0), room(&|n| n.id == node.id))).collect();
                even(&counts)
            });
            TestResult::from_bool(even(&of_zones) && racks_even && nodes_even)
        }
        QuickCheck::new().tests(400).quickcheck(property as fn(Vec<u8>, u8, u64, Vec<u8>) -> TestResult);
    }

    #[test]
    fn a_new_drive_takes_places_from_others_only_for_itself_and_no_more_than_its_fair_share() {
        fn property(nodes: u8, weight: u8, salt: u64) -> bool {
            let before = map(1, u64::from(nodes % 6) + 4, 4);
            let mut after = before.clone();
            let new = DriveId::at_bootstrap(after.nodes[0].id, 9);
            let weight = u32::from(weight % 4 + 1) * 50;
            after.nodes[0].drives.push(Drive { id: new, state: DriveState::In, weight, label: "new".into() });
            let (before, after) = (Allocator::new(&before), Allocator::new(&after));
            let (samples, mut moved) = (4000u64, 0u64);
            for sample in 0..samples {
                let place = mix(salt.wrapping_add(sample));
                let (old, now) = (before.rings[0].owner(place), after.rings[0].owner(place));
                if old != now {
                    if now != Some(new) {
                        return false;
                    }
                    moved += 1;
                }
            }
            // Within a factor of two of the share by weight: 64 points scatter by an eighth.
            let (its, all) = after.rings[0].share(new);
            let fair = samples * its / all;
            fair / 2 <= moved && moved <= fair * 2
        }
        QuickCheck::new().tests(60).quickcheck(property as fn(u8, u8, u64) -> bool);
    }

    #[test]
    fn over_many_volumes_drives_are_used_by_weight() {
        let mut uneven = map(3, 4, 4);
        for node in &mut uneven.nodes {
            node.drives[0].weight = 200;
        }
        let allocator = Allocator::new(&uneven);
        let mut used = BTreeMap::<DriveId, u64>::new();
        for number in 0..4000 {
            for slot in allocator.choose(6, number, &BTreeSet::new()).unwrap() {
                *used.entry(slot.drive).or_default() += 1;
            }
        }
        assert_eq!(used.len(), 48);
        let sum = |heavy: bool| used.iter().filter(|(drive, _)| (drive.0 & 0xffff == 0) == heavy).map(|(_, count)| count).sum::<u64>();
        // A heavy drive counts as two among the three light ones beside it: two fifths of the slots.
        let share = sum(true) * 100 / (sum(true) + sum(false));
        assert!((33..48).contains(&share), "{share} %");
    }

    #[test]
    fn drives_that_are_out_or_weigh_nothing_get_no_slots() {
        let mut six = map(1, 1, 8);
        six.nodes[0].drives[1].state = DriveState::Out;
        six.nodes[0].drives[4].weight = 0;
        let allocator = Allocator::new(&six);
        let slots = allocator.choose(6, 1, &BTreeSet::new()).unwrap();
        let bad = [six.nodes[0].drives[1].id, six.nodes[0].drives[4].id];
        assert!(slots.iter().all(|slot| !bad.contains(&slot.drive)));
        assert_eq!(allocator.choose(7, 1, &BTreeSet::new()), Err(Shortage { needed: 7, usable: 6 }));
    }
}
