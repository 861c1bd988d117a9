//! The scheme of new volumes while drives are missing. Pure.
//!
//! Invariant: a volume that is not marked at risk survives the loss of one domain of the widest kind that its class
//! survives on the whole map; so an AZ that burns after another came back takes no such volume with it.

use crate::Error;
use crate::durability::{Domain, Shape, cheaper, durability};
use protocol::limits::SLOTS_MAX;
use protocol::{ClusterMap, DriveId, DriveState, Node, Scheme};
use std::collections::{BTreeMap, BTreeSet};

/// Names of what is missing in one message to people, at most.
const NAMES_MAX: usize = 16;

/// Why a drive cannot be given a slot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unusable {
    /// Its node is suspected; shown by node, not by drive.
    Node(String),
    /// The drive itself is closed, nearly full or out.
    Drive(String),
    /// The asking gateway avoids it for a while: slow, or failed for it just now.
    Avoided,
}

/// What new volumes are made as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    pub scheme: Scheme,
    pub at_risk: bool,
}

/// Choose for a new volume of a class of `class` on the drives of `map` that are not in `unusable`.
///
/// The class's scheme if it survives on these drives what it survives on the whole map. Else, where that is the loss
/// of a zone: the cheapest scheme that survives the loss of a *living* zone, with no less parity than the class.
/// Else the class's scheme, marked at risk. Else [`Error::CannotPlace`] with the names of what to bring back.
pub fn choose_scheme(map: &ClusterMap, class: Scheme, unusable: &BTreeMap<DriveId, Unusable>) -> Result<Choice, Error> {
    let excluded: BTreeSet<DriveId> = unusable.keys().copied().collect();
    let shape = Shape::of(map, &excluded);
    let Some(promise) = promise(map, class) else {
        // The class was founded as best effort: it promises nothing, so nothing is at risk.
        return fitting(&shape, map, class, unusable, false);
    };
    let survives = |scheme: Scheme| shape.worst(scheme.total()).is_some_and(|worst| worst.most(promise) <= scheme.parity());
    if survives(class) {
        return Ok(Choice { scheme: class, at_risk: false });
    }
    if runtime::planted("narrow-volume-keeps-scheme") {
        return fitting(&shape, map, class, unusable, false);
    }
    if promise == Domain::Zone
        && let Some(scheme) = stand_ins(class, shape.drives()).into_iter().filter(|scheme| survives(*scheme)).min_by(|a, b| {
            // Among equals the one that reads from as many drives as the class does, which also has the most parity.
            cheaper(*a, *b).then(b.data().cmp(&a.data()))
        })
    {
        runtime::probe!("placement: a stand-in scheme was chosen while a zone is out");
        return Ok(Choice { scheme, at_risk: false });
    }
    runtime::probe!("placement: no scheme survives a living zone on the drives left");
    fitting(&shape, map, class, unusable, true)
}

/// The widest domain of which the class survives a loss on the whole map.
fn promise(map: &ClusterMap, class: Scheme) -> Option<Domain> {
    let losses = durability(map, class).losses;
    [Domain::Zone, Domain::Rack, Domain::Node, Domain::Drive].into_iter().find(|domain| losses.of(*domain) > 0)
}

/// Schemes that may stand in for `class` on so many drives: never with less parity, never reading from more drives.
fn stand_ins(class: Scheme, drives: usize) -> Vec<Scheme> {
    let most = drives.min(SLOTS_MAX);
    match class {
        Scheme::Replicas { n } => (n..).take_while(|n| usize::from(*n) <= most).map(|n| Scheme::Replicas { n }).collect(),
        Scheme::ReedSolomon { k, m } => {
            let codes = (k.min(2)..=k).flat_map(|k| (m..).map(move |m| Scheme::ReedSolomon { k, m }).take(SLOTS_MAX));
            codes.filter(|scheme| scheme.total() <= most).collect()
        }
    }
}

fn fitting(
    shape: &Shape,
    map: &ClusterMap,
    scheme: Scheme,
    unusable: &BTreeMap<DriveId, Unusable>,
    at_risk: bool,
) -> Result<Choice, Error> {
    let (needed, usable) = (scheme.total(), shape.drives());
    if needed <= usable {
        return Ok(Choice { scheme, at_risk });
    }
    runtime::probe!("placement: no volume can be placed");
    Err(Error::CannotPlace { scheme, missing: missing(map, needed, usable, unusable) })
}

/// Names what to bring back: a node by its number and zone, a drive by the label that the operator gave it.
fn missing(map: &ClusterMap, needed: usize, usable: usize, unusable: &BTreeMap<DriveId, Unusable>) -> String {
    let mut names = Vec::new();
    for node in &map.nodes {
        names.extend(missing_of(node, unusable));
    }
    let total: usize = map.nodes.iter().map(|node| node.drives.len()).sum();
    let lacking = needed - usable;
    let head = format!("needs {needed} drives, {usable} of {total} are usable");
    if names.is_empty() {
        return format!("{head}: add {lacking} more");
    }
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let rest = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{head}: bring back {}{rest}", names.join(", "))
}

fn missing_of(node: &Node, unusable: &BTreeMap<DriveId, Unusable>) -> Vec<String> {
    let mut names = Vec::new();
    for drive in &node.drives {
        match unusable.get(&drive.id) {
            Some(Unusable::Node(why)) => {
                let labels: Vec<_> = node.drives.iter().map(|drive| drive.label.as_str()).collect();
                // One line for the node, whatever its drives are.
                return vec![format!("node {} in zone {} ({why}; {})", node.id, node.zone, labels.join(", "))];
            }
            Some(Unusable::Drive(why)) => names.push(format!("{} ({why})", drive.label)),
            Some(Unusable::Avoided) => names.push(format!("{} (slow or failing for this gateway)", drive.label)),
            None if drive.state == DriveState::Out => names.push(format!("{} (out)", drive.label)),
            None => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::testing::map;

    fn scheme(text: &str) -> Scheme {
        text.parse().unwrap()
    }

    fn without_zones(map: &ClusterMap, zones: &[&str]) -> BTreeMap<DriveId, Unusable> {
        let gone = map.nodes.iter().filter(|node| zones.contains(&node.zone.as_str()));
        let drives = gone.flat_map(|node| &node.drives);
        drives.map(|drive| (drive.id, Unusable::Node("no heartbeat".into()))).collect()
    }

    fn without(map: &ClusterMap, node: usize, drives: &[usize]) -> BTreeMap<DriveId, Unusable> {
        drives.iter().map(|&drive| (map.nodes[node].drives[drive].id, Unusable::Drive("closed: gone".into()))).collect()
    }

    #[test]
    fn with_all_drives_the_class_keeps_its_scheme() {
        for map in [map(3, 2, 2), map(1, 1, 6), map(4, 3, 3)] {
            let choice = choose_scheme(&map, scheme("rs(4,2)"), &BTreeMap::new());
            assert_eq!(choice, Ok(Choice { scheme: scheme("rs(4,2)"), at_risk: false }));
        }
    }

    #[test]
    fn without_one_of_three_zones_volumes_survive_the_loss_of_a_living_one() {
        let map = map(3, 2, 2);
        for zone in ["z0", "z1", "z2"] {
            let choice = choose_scheme(&map, scheme("rs(4,2)"), &without_zones(&map, &[zone]));
            assert_eq!(choice, Ok(Choice { scheme: scheme("rs(4,4)"), at_risk: false }));
        }
    }

    #[test]
    fn with_few_drives_in_two_zones_a_smaller_code_stands_in_or_the_volume_is_marked_at_risk() {
        let small = map(3, 1, 3);
        let choice = choose_scheme(&small, scheme("rs(4,2)"), &without_zones(&small, &["z1"]));
        assert_eq!(choice, Ok(Choice { scheme: scheme("rs(3,3)"), at_risk: false }));
        // All of one zone and none of another: nothing survives the loss of the one that is left.
        let map = map(3, 2, 3);
        let choice = choose_scheme(&map, scheme("rs(4,2)"), &without_zones(&map, &["z0", "z2"]));
        assert_eq!(choice, Ok(Choice { scheme: scheme("rs(4,2)"), at_risk: true }));
    }

    #[test]
    fn a_node_lost_inside_a_zone_changes_nothing_where_its_zone_has_drives_enough() {
        let map = map(3, 2, 2);
        let choice = choose_scheme(&map, scheme("rs(4,2)"), &without(&map, 0, &[0, 1]));
        assert_eq!(choice, Ok(Choice { scheme: scheme("rs(4,2)"), at_risk: false }));
    }

    #[test]
    fn on_one_machine_a_missing_folder_is_named_and_no_smaller_code_is_slipped_in() {
        let map = map(1, 1, 6);
        let Err(Error::CannotPlace { scheme: which, missing }) = choose_scheme(&map, scheme("rs(4,2)"), &without(&map, 0, &[1, 4])) else {
            panic!("placed")
        };
        assert_eq!(which, scheme("rs(4,2)"));
        assert_eq!(missing, "needs 6 drives, 4 of 6 are usable: bring back /n1/d1 (closed: gone), /n1/d4 (closed: gone)");
    }

    #[test]
    fn missing_nodes_are_named_with_their_zone_and_folders() {
        let map = map(3, 1, 2);
        let Err(Error::CannotPlace { missing, .. }) = choose_scheme(&map, scheme("rs(4,2)"), &without_zones(&map, &["z1", "z2"])) else {
            panic!("placed")
        };
        assert!(missing.contains("node 2 in zone z1 (no heartbeat; /n2/d0, /n2/d1)") && missing.contains("node 3"), "{missing}");
    }

    #[test]
    fn a_class_that_promises_nothing_is_never_at_risk() {
        let map = map(1, 1, 2);
        let choice = choose_scheme(&map, scheme("replicas(1)"), &without(&map, 0, &[0]));
        assert_eq!(choice, Ok(Choice { scheme: scheme("replicas(1)"), at_risk: false }));
    }

    /// After an AZ is out and the volume was made, any one living AZ may burn: k slots remain, unless at risk.
    #[test]
    fn the_loss_of_any_living_zone_leaves_k_slots_of_a_volume_that_is_not_at_risk() {
        fn property(zones: u8, nodes: u8, drives: u8, gone: Vec<u8>, number: u64) -> bool {
            let map = map(u64::from(zones % 3) + 2, u64::from(nodes % 3) + 1, u16::from(drives % 3) + 1);
            let all: Vec<_> = map.nodes.iter().flat_map(|node| &node.drives).map(|drive| drive.id).collect();
            let mut unusable = without_zones(&map, &["z0"]);
            unusable.extend(gone.iter().take(4).map(|byte| (all[usize::from(*byte) % all.len()], Unusable::Avoided)));
            for class in ["rs(4,2)", "rs(2,1)", "replicas(3)"] {
                let class = scheme(class);
                let Ok(choice) = choose_scheme(&map, class, &unusable) else { continue };
                let excluded = unusable.keys().copied().collect();
                let slots = crate::Allocator::new(&map).choose(choice.scheme.total(), number, &excluded).unwrap();
                let promised = durability(&map, class).losses.zones > 0;
                for zone in ["z1", "z2", "z3"] {
                    let lost = slots.iter().filter(|slot| map.node(slot.node).unwrap().zone == zone).count();
                    if promised && !choice.at_risk && lost > choice.scheme.parity() {
                        return false;
                    }
                }
            }
            true
        }
        quickcheck::QuickCheck::new().tests(300).quickcheck(property as fn(u8, u8, u8, Vec<u8>, u64) -> bool);
    }
}
