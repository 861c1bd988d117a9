//! Which losses a scheme survives on a map, for data and for metadata. Pure arithmetic; README.md shows it.
//!
//! Claims are conservative: where the allocator may choose, the worst of its choices is counted. Failure domains
//! are nested, drive < node < rack < zone; a domain of which there is only one is not counted as one that can fail.

use crate::replicas::place_replicas;
use protocol::limits::SLOTS_MAX;
use protocol::{ClusterMap, DriveId, DriveState, ROOT, Scheme};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A failure domain, from narrow to wide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Domain {
    Drive,
    Node,
    Rack,
    Zone,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Domain::Drive => "drive",
            Domain::Node => "node",
            Domain::Rack => "rack",
            Domain::Zone => "zone",
        })
    }
}

/// How many whole domains of each kind may be lost, whichever they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    pub drives: usize,
    pub nodes: usize,
    pub racks: usize,
    pub zones: usize,
}

impl Losses {
    /// Losses of one kind.
    pub fn of(&self, domain: Domain) -> usize {
        match domain {
            Domain::Drive => self.drives,
            Domain::Node => self.nodes,
            Domain::Rack => self.racks,
            Domain::Zone => self.zones,
        }
    }
}

/// What a class holds on a map. It is as durable as the weaker of data and metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Durability {
    pub scheme: Scheme,
    /// The map has a distinct drive for every slot. If not, everything below about data is zero.
    pub fits: bool,
    pub losses: Losses,
    /// The widest domain of which the map has more than one.
    pub widest: Domain,
    /// Slots that may still be lost after one widest domain is gone; None: data is lost with it already.
    pub spare_after_widest: Option<usize>,
    /// Without any one widest domain there are still distinct drives for all slots.
    pub writable_after_widest: bool,
    pub metadata: Metadata,
}

/// What the Raft groups hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    pub replicas: usize,
    pub losses: Losses,
    /// Replicas that may still be lost after one widest domain is gone; None: no quorum then.
    pub spare_after_widest: Option<usize>,
}

/// Durability of `scheme` on all drives of `map` that are In.
pub fn durability(map: &ClusterMap, scheme: Scheme) -> Durability {
    let shape = Shape::of(map, &BTreeSet::new());
    let widest = shape.widest();
    let worst = shape.worst(scheme.total());
    let most_in_one_widest = shape.domains(widest).into_iter().max().unwrap_or(0);
    Durability {
        scheme,
        fits: worst.is_some(),
        losses: worst.as_ref().map_or(Losses::default(), |worst| worst.losses(scheme.parity())),
        widest,
        spare_after_widest: worst.and_then(|worst| scheme.parity().checked_sub(worst.most(widest))),
        writable_after_widest: shape.drives() - most_in_one_widest >= scheme.total(),
        metadata: metadata(map, widest),
    }
}

fn metadata(map: &ClusterMap, widest: Domain) -> Metadata {
    let Some(group) = place_replicas(map, &[ROOT]).pop() else {
        return Metadata { replicas: 0, losses: Losses::default(), spare_after_widest: None };
    };
    let replicas = group.voters.len();
    let mut counts = Worst::default();
    let tally = |domain: Domain| {
        let mut by_domain = BTreeMap::<String, usize>::new();
        for voter in &group.voters {
            let node = map.node(voter.node).expect("replicas are placed on nodes of the map");
            let name = match domain {
                Domain::Drive => voter.drive.to_string(),
                Domain::Node => node.id.to_string(),
                Domain::Rack => format!("{}/{}", node.zone, node.rack),
                Domain::Zone => node.zone.clone(),
            };
            *by_domain.entry(name).or_default() += 1;
        }
        by_domain.into_values().collect::<Vec<_>>()
    };
    counts.zones = tally(Domain::Zone);
    counts.racks = tally(Domain::Rack);
    counts.nodes = tally(Domain::Node);
    counts.total = replicas;
    let may_be_lost = (replicas - 1) / 2;
    Metadata { replicas, losses: counts.losses(may_be_lost), spare_after_widest: may_be_lost.checked_sub(counts.most(widest)) }
}

/// The scheme of the class STANDARD where the operator names none, and whether it is only best effort.
///
/// The cheapest (then the widest, up to 15 slots) that keeps one spare after the widest domain is lost and whose
/// slots still fit on distinct drives then. On a single machine folders are the domain and nobody expects the next
/// disk to be there at once: rs(4,2) from six drives up.
pub fn default_scheme(map: &ClusterMap) -> (Scheme, bool) {
    let shape = Shape::of(map, &BTreeSet::new());
    let widest = shape.widest();
    let drives = shape.drives();
    if widest == Domain::Drive {
        return match drives {
            0 | 1 => (Scheme::Replicas { n: 1 }, true),
            2 => (Scheme::Replicas { n: 2 }, true),
            3 => (Scheme::Replicas { n: 3 }, false),
            4 | 5 => (Scheme::ReedSolomon { k: 2, m: 2 }, false),
            _ => (Scheme::ReedSolomon { k: 4, m: 2 }, false),
        };
    }
    let left = drives - shape.domains(widest).into_iter().max().unwrap_or(0);
    let holds = |scheme: &Scheme| {
        let worst = shape.worst(scheme.total());
        scheme.total() <= left && worst.is_some_and(|worst| worst.most(widest) < scheme.parity())
    };
    let codes = (2..=13u8).flat_map(|k| (1..=15 - k).map(move |m| Scheme::ReedSolomon { k, m }));
    let copies = (2..=5u8).map(|n| Scheme::Replicas { n });
    let kept = codes.chain(copies).filter(holds).min_by(|a, b| cheaper(*a, *b).then(b.total().cmp(&a.total())));
    match kept {
        Some(scheme) => (scheme, false),
        // Nothing keeps a spare: then what keeps at least the data, the cheapest first.
        None => {
            let codes = (2..=13u8).flat_map(|k| (1..=15 - k).map(move |m| Scheme::ReedSolomon { k, m }));
            let copies = (1..=5u8).map(|n| Scheme::Replicas { n });
            let survives = |scheme: &Scheme| shape.worst(scheme.total()).is_some_and(|worst| worst.most(widest) <= scheme.parity());
            let scheme = codes.chain(copies).filter(survives).min_by(|a, b| cheaper(*a, *b).then(b.total().cmp(&a.total())));
            (scheme.unwrap_or(Scheme::Replicas { n: 1 }), true)
        }
    }
}

/// Order by bytes stored per byte.
pub(crate) fn cheaper(a: Scheme, b: Scheme) -> std::cmp::Ordering {
    (a.total() * b.data()).cmp(&(b.total() * a.data()))
}

/// One paragraph for people: what survives what. `one_disk`: the folders share a disk, whose loss is the loss of all.
pub fn describe(map: &ClusterMap, scheme: Scheme, one_disk: bool) -> String {
    let d = durability(map, scheme);
    let shape = Shape::of(map, &BTreeSet::new());
    let drives = shape.drives();
    if d.widest == Domain::Drive {
        let folders = if drives == 1 { "folder" } else { "folders" };
        let place = if one_disk { " on one disk" } else { "" };
        let shared = if one_disk && drives > 1 { "; all share one disk" } else { "" };
        return format!(
            "{scheme} over {} {folders}{place}: {}; metadata: {}, {}{shared}",
            count_word(drives),
            any("folder", d.losses.drives, "survives the loss of", "survives no loss"),
            plural(d.metadata.replicas, "replica"),
            any("", d.metadata.losses.drives, "survives", "survives no loss"),
        );
    }
    let nodes = shape.domains(Domain::Node).len();
    let zones = shape.domains(Domain::Zone).len();
    let widest = d.widest;
    let spare = |spare: Option<usize>, lost: &str| match spare {
        None => format!("{lost} with a {widest}"),
        Some(spare) => format!("{spare} to spare after a {widest} is lost"),
    };
    let writable = if d.writable_after_widest { "writable" } else { "not writable" };
    format!(
        "{scheme} over {} of {} in {}: survives the loss of {}, {}, {writable} then; metadata: {}, survives the loss of {}, {}",
        plural(drives, "drive"),
        plural(nodes, "node"),
        plural(zones, "zone"),
        listed(&d.losses, widest),
        spare(d.spare_after_widest, "data is lost"),
        plural(d.metadata.replicas, "replica"),
        listed(&d.metadata.losses, widest),
        spare(d.metadata.spare_after_widest, "the quorum is lost"),
    )
}

fn listed(losses: &Losses, widest: Domain) -> String {
    let kinds = [Domain::Zone, Domain::Rack, Domain::Node, Domain::Drive];
    let counted = kinds.into_iter().filter(|domain| *domain <= widest && losses.of(*domain) > 0);
    let parts: Vec<_> = counted.map(|domain| plural(losses.of(domain), &domain.to_string())).collect();
    if parts.is_empty() { "nothing".into() } else { format!("any {}", parts.join(" or ")) }
}

fn any(noun: &str, count: usize, survives: &str, none: &str) -> String {
    match (count, noun) {
        (0, _) => none.into(),
        (_, "") => format!("{survives} any {count}"),
        (_, _) => format!("{survives} any {}", plural(count, noun)),
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn count_word(count: usize) -> String {
    let words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    words.get(count).map_or_else(|| count.to_string(), |word| (*word).to_string())
}

/// Counts of usable drives, nested as zone, rack, node.
pub(crate) struct Shape {
    zones: Vec<Vec<Vec<usize>>>,
}

/// The most slots that the allocator may put into each domain of a kind.
#[derive(Default)]
pub(crate) struct Worst {
    /// Exact, as a multiset; the others are upper bounds each by itself.
    zones: Vec<usize>,
    racks: Vec<usize>,
    nodes: Vec<usize>,
    total: usize,
}

impl Shape {
    /// Drives of `map` that take slots and are not excluded.
    pub fn of(map: &ClusterMap, excluded: &BTreeSet<DriveId>) -> Shape {
        let mut zones: BTreeMap<&str, BTreeMap<&str, Vec<usize>>> = BTreeMap::new();
        for node in &map.nodes {
            let takes = |drive: &&protocol::Drive| drive.state == DriveState::In && drive.weight > 0 && !excluded.contains(&drive.id);
            let count = node.drives.iter().filter(takes).count();
            if count > 0 {
                zones.entry(&node.zone).or_default().entry(&node.rack).or_default().push(count);
            }
        }
        Shape { zones: zones.into_values().map(|racks| racks.into_values().collect()).collect() }
    }

    pub fn drives(&self) -> usize {
        self.domains(Domain::Zone).into_iter().sum()
    }

    /// Drives of each domain of a kind.
    pub fn domains(&self, domain: Domain) -> Vec<usize> {
        let racks = || self.zones.iter().flatten();
        match domain {
            Domain::Zone => self.zones.iter().map(|zone| zone.iter().flatten().sum()).collect(),
            Domain::Rack => racks().map(|rack| rack.iter().sum()).collect(),
            Domain::Node => racks().flatten().copied().collect(),
            Domain::Drive => vec![1; racks().flatten().sum()],
        }
    }

    /// The widest kind of domain of which there is more than one.
    pub fn widest(&self) -> Domain {
        let kinds = [Domain::Zone, Domain::Rack, Domain::Node];
        kinds.into_iter().find(|domain| self.domains(*domain).len() > 1).unwrap_or(Domain::Drive)
    }

    /// The worst spread of `slots` that the allocator may choose; None if they do not fit.
    pub fn worst(&self, slots: usize) -> Option<Worst> {
        if slots == 0 || slots > self.drives() || slots > SLOTS_MAX {
            return None;
        }
        let room = self.domains(Domain::Zone);
        let mut worst = Worst { zones: fill(slots, &room, None), total: slots, ..Worst::default() };
        for (zone, racks) in self.zones.iter().enumerate() {
            let in_zone = fill(slots, &room, Some(zone))[zone];
            let rack_room: Vec<usize> = racks.iter().map(|rack| rack.iter().sum()).collect();
            for (rack, nodes) in racks.iter().enumerate() {
                let in_rack = fill(in_zone, &rack_room, Some(rack))[rack];
                worst.racks.push(in_rack);
                worst.nodes.extend((0..nodes.len()).map(|node| fill(in_rack, nodes, Some(node))[node]));
            }
        }
        Some(worst)
    }
}

impl Worst {
    /// The most slots in one domain of a kind.
    pub fn most(&self, domain: Domain) -> usize {
        match domain {
            Domain::Drive => 1,
            Domain::Node => self.nodes.iter().copied().max().unwrap_or(0),
            Domain::Rack => self.racks.iter().copied().max().unwrap_or(0),
            Domain::Zone => self.zones.iter().copied().max().unwrap_or(0),
        }
    }

    /// How many whole domains may be lost so that no more than `parity` slots are lost. The narrower a domain,
    /// the more of them, and never more than would be all of them.
    fn losses(&self, parity: usize) -> Losses {
        let most = |counts: &[usize]| {
            let mut sorted = counts.to_vec();
            sorted.sort_by(|a, b| b.cmp(a));
            let mut lost = 0;
            let within = |count: &&usize| {
                lost += **count;
                lost <= parity
            };
            sorted.iter().filter(|count| **count > 0).take_while(within).count()
        };
        let zones = most(&self.zones);
        Losses { drives: parity.min(self.total), nodes: most(&self.nodes), racks: most(&self.racks), zones }
    }
}

/// Spread `count` over places with `room`, always to one with the fewest; among equals to `favoured` first.
fn fill(count: usize, room: &[usize], favoured: Option<usize>) -> Vec<usize> {
    let mut taken = vec![0; room.len()];
    for _ in 0..count {
        let open = (0..room.len()).filter(|&place| taken[place] < room[place]);
        let Some(place) = open.min_by_key(|&place| (taken[place], favoured != Some(place), place)) else { break };
        taken[place] += 1;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::Allocator;
    use crate::root::testing::map;
    use quickcheck::{QuickCheck, TestResult};

    fn scheme(text: &str) -> Scheme {
        text.parse().unwrap()
    }

    /// DESIGN's table: spare losses after a zone is gone over 3, 4, 5 and 6 zones.
    #[test]
    fn the_table_of_spare_losses_after_a_zone_is_gone() {
        let table: [(&str, [Option<usize>; 4]); 7] = [
            ("rs(4,2)", [Some(0), Some(0), Some(0), Some(1)]),
            ("rs(6,3)", [Some(0), Some(0), Some(1), Some(1)]),
            ("rs(8,4)", [Some(0), Some(1), Some(1), Some(2)]),
            ("rs(14,4)", [None, None, Some(0), Some(1)]),
            ("rs(9,6)", [Some(1), Some(2), Some(3), Some(3)]),
            ("rs(5,4)", [Some(1), Some(1), Some(2), Some(2)]),
            ("rs(6,6)", [Some(2), Some(3), Some(3), Some(4)]),
        ];
        for (name, row) in table {
            for (zones, expected) in (3..=6).zip(row) {
                let found = durability(&map(zones, 4, 4), scheme(name));
                assert_eq!((found.widest, found.spare_after_widest), (Domain::Zone, expected), "{name} on {zones} zones");
                assert_eq!(found.losses.zones > 0, expected.is_some(), "{name} on {zones} zones");
                assert!(found.writable_after_widest);
            }
        }
    }

    #[test]
    fn five_replicas_on_three_zones_have_no_spare_after_a_zone() {
        let metadata = durability(&map(3, 2, 2), scheme("rs(4,2)")).metadata;
        assert_eq!((metadata.replicas, metadata.spare_after_widest), (5, Some(0)));
        assert_eq!(metadata.losses, Losses { drives: 2, nodes: 2, racks: 2, zones: 1 });
        let metadata = durability(&map(5, 1, 2), scheme("rs(4,2)")).metadata;
        assert_eq!((metadata.losses.zones, metadata.spare_after_widest), (2, Some(1)));
    }

    #[test]
    fn writable_without_a_zone_needs_a_drive_for_every_slot_in_the_others() {
        let of = |drives: u16, name: &str| durability(&map(3, 1, drives), scheme(name));
        assert!(!of(2, "rs(4,2)").writable_after_widest);
        assert!(of(3, "rs(4,2)").writable_after_widest);
        assert!(!of(7, "rs(9,6)").writable_after_widest);
        assert!(of(8, "rs(9,6)").writable_after_widest);
    }

    #[test]
    fn on_one_machine_the_drive_is_the_widest_domain() {
        let found = durability(&map(1, 1, 6), scheme("rs(4,2)"));
        assert_eq!((found.widest, found.spare_after_widest, found.writable_after_widest), (Domain::Drive, Some(1), false));
        assert_eq!((found.losses.drives, found.losses.nodes, found.losses.zones), (2, 0, 0));
        assert!(!durability(&map(1, 1, 5), scheme("rs(4,2)")).fits);
    }

    #[test]
    fn defaults_by_topology() {
        let of = |zones, nodes, drives| {
            let (scheme, best_effort) = default_scheme(&map(zones, nodes, drives));
            format!("{scheme}{}", if best_effort { " best-effort" } else { "" })
        };
        assert_eq!(of(1, 1, 6), "rs(4,2)");
        assert_eq!(of(1, 1, 12), "rs(4,2)");
        assert_eq!(of(1, 1, 4), "rs(2,2)");
        assert_eq!(of(1, 1, 1), "replicas(1) best-effort");
        assert_eq!(of(3, 4, 4), "rs(9,6)");
        assert_eq!(of(3, 2, 2), "rs(4,4)");
        assert_eq!(of(2, 1, 1), "replicas(2) best-effort");
    }

    /// Whatever the allocator chooses, losing as many domains as claimed leaves at least k slots.
    #[test]
    fn no_choice_of_the_allocator_breaks_a_claim() {
        fn property(shape: Vec<u8>, k: u8, m: u8, number: u64) -> TestResult {
            let mut map = map(1, shape.len().clamp(1, 16) as u64, 4);
            for (node, byte) in map.nodes.iter_mut().zip(&shape) {
                node.zone = format!("z{}", byte % 4);
                node.rack = format!("r{}", byte / 4 % 3);
                node.drives.truncate(usize::from(byte / 12 % 4) + 1);
            }
            let scheme = Scheme::ReedSolomon { k: k % 8 + 1, m: m % 6 + 1 };
            let claimed = durability(&map, scheme);
            let Ok(slots) = Allocator::new(&map).choose(scheme.total(), number, &BTreeSet::new()) else {
                return TestResult::from_bool(!claimed.fits);
            };
            let worst_loss = |domain: Domain| {
                let mut counts = BTreeMap::<String, usize>::new();
                for slot in &slots {
                    let node = map.node(slot.node).unwrap();
                    let name = match domain {
                        Domain::Drive => slot.drive.to_string(),
                        Domain::Node => node.id.to_string(),
                        Domain::Rack => format!("{}/{}", node.zone, node.rack),
                        Domain::Zone => node.zone.clone(),
                    };
                    *counts.entry(name).or_default() += 1;
                }
                let mut counts: Vec<_> = counts.into_values().collect();
                counts.sort_by(|a, b| b.cmp(a));
                counts.iter().take(claimed.losses.of(domain)).sum::<usize>()
            };
            let kinds = [Domain::Drive, Domain::Node, Domain::Rack, Domain::Zone];
            TestResult::from_bool(claimed.fits && kinds.into_iter().all(|domain| worst_loss(domain) <= scheme.parity()))
        }
        QuickCheck::new().tests(400).quickcheck(property as fn(Vec<u8>, u8, u8, u64) -> TestResult);
    }

    #[test]
    fn the_words_that_people_read() {
        assert_eq!(
            describe(&map(1, 1, 6), scheme("rs(4,2)"), true),
            "rs(4,2) over six folders on one disk: survives the loss of any 2 folders; \
             metadata: 5 replicas, survives any 2; all share one disk"
        );
        assert_eq!(
            describe(&map(3, 2, 2), scheme("rs(4,2)"), false),
            "rs(4,2) over 12 drives of 6 nodes in 3 zones: survives the loss of any 1 zone or 2 racks or 2 nodes or 2 drives, \
             0 to spare after a zone is lost, writable then; metadata: 5 replicas, survives the loss of any 1 zone or 2 racks \
             or 2 nodes or 2 drives, 0 to spare after a zone is lost"
        );
        assert_eq!(
            describe(&map(1, 1, 1), scheme("replicas(1)"), true),
            "replicas(1) over one folder on one disk: survives no loss; metadata: 1 replica, survives no loss"
        );
    }
}
