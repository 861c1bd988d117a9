//! The founding of the cluster: map, partitions, the scheme of the class STANDARD and the region.
//!
//! Invariant: written once. A process that comes with another configuration is refused and told what differs.

use super::{Verdict, decode_row, groups};
use crate::commands::Reply;
use crate::durability::durability;
use crate::{Bootstrap, Error};
use consensus::RowsMut;
use protocol::{ClusterMap, ROOT, wire};
use std::collections::BTreeSet;

pub(super) const BOOTSTRAP: &[u8] = b"bootstrap";

/// Most partitions of a cluster.
pub const PARTITIONS_MAX: usize = 1024;
/// Most drives in the static bootstrap: the map must fit in a command.
pub const DRIVES_MAX: usize = 4096;
/// Longest name of a region.
pub const REGION_BYTES_MAX: usize = 64;

pub(super) fn bootstrap(rows: &mut RowsMut<'_>, wanted: &Bootstrap) -> Result<Verdict, Error> {
    if let Some(stored) = decode_row::<Bootstrap>(rows.get(BOOTSTRAP)) {
        let differences = stored.differences(wanted);
        return if differences.is_empty() { Ok(Verdict::Unchanged(Reply::Done)) } else { Err(Error::Refused(differences.join("; "))) };
    }
    wanted.check().map_err(Error::Refused)?;
    rows.put(BOOTSTRAP, &wire::encode(wanted));
    groups::found(rows, wanted);
    Ok(Verdict::Changed(Reply::Done))
}

impl Bootstrap {
    /// Whether a cluster can be founded like this; the error says what to change. Callers should ask before they
    /// start anything, as the root group asks again and refuses.
    pub fn check(&self) -> Result<(), String> {
        check_map(&self.map)?;
        let partitions: BTreeSet<_> = self.partitions.iter().collect();
        if self.partitions.is_empty() || partitions.len() != self.partitions.len() || partitions.contains(&ROOT) {
            return Err("partitions must be distinct groups other than the root group, at least one".into());
        }
        if self.partitions.len() > PARTITIONS_MAX {
            return Err(format!("{} partitions, at most {PARTITIONS_MAX}", self.partitions.len()));
        }
        check_region(&self.region)?;
        let durability = durability(&self.map, self.scheme);
        if !durability.fits {
            let drives: usize = self.map.nodes.iter().map(|node| node.drives.len()).sum();
            return Err(format!("{} needs {} distinct drives, there are {drives}", self.scheme, self.scheme.total()));
        }
        if !self.best_effort && durability.spare_after_widest.unwrap_or(0) == 0 {
            let lost = durability.spare_after_widest.map_or("loses data", |_| "has no spare left");
            let widest = durability.widest;
            return Err(format!("{} {lost} when one {widest} is lost; choose a wider scheme, or accept it with best-effort", self.scheme));
        }
        Ok(())
    }

    /// What differs in `other`, for people; empty if they are equal.
    pub fn differences(&self, other: &Bootstrap) -> Vec<String> {
        let mut found = Vec::new();
        let (stored, wanted) = (&self.map, &other.map);
        if stored.cluster != wanted.cluster {
            found.push(format!("the stored cluster is {}, the configuration says {}", stored.cluster, wanted.cluster));
        }
        for node in &stored.nodes {
            match wanted.node(node.id) {
                None => found.push(format!("node {} is missing in the configuration", node.id)),
                Some(other) if other != node => found.push(format!("node {} differs: stored {node:?}, configured {other:?}", node.id)),
                Some(_) => {}
            }
        }
        for node in wanted.nodes.iter().filter(|node| stored.node(node.id).is_none()) {
            found.push(format!("node {} is new in the configuration; nodes cannot join yet", node.id));
        }
        if self.partitions != other.partitions {
            found.push(format!("{} partitions are stored, {} configured", self.partitions.len(), other.partitions.len()));
        }
        if self.scheme != other.scheme {
            found.push(format!("the stored scheme is {}, the configuration says {}", self.scheme, other.scheme));
        }
        if self.best_effort != other.best_effort {
            found.push(format!("best-effort is stored as {}, configured as {}", self.best_effort, other.best_effort));
        }
        if self.region != other.region {
            found.push(format!("the stored region is {}, the configuration says {}", self.region, other.region));
        }
        if found.is_empty() && self != other {
            found.push("the order or the version of the maps differs".into());
        }
        found
    }
}

/// Whether this can be the name of a region; the error says what can.
pub fn check_region(region: &str) -> Result<(), String> {
    let is_of_names = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if region.is_empty() || region.len() > REGION_BYTES_MAX || !region.bytes().all(is_of_names) {
        return Err(format!("a region has 1 to {REGION_BYTES_MAX} lower-case letters, digits and hyphens, not {region:?}"));
    }
    Ok(())
}

fn check_map(map: &ClusterMap) -> Result<(), String> {
    let nodes: BTreeSet<_> = map.nodes.iter().map(|node| node.id).collect();
    if nodes.len() != map.nodes.len() {
        return Err("two nodes have one id".into());
    }
    let drives: Vec<_> = map.nodes.iter().flat_map(|node| &node.drives).map(|drive| drive.id).collect();
    if drives.is_empty() || drives.len() > DRIVES_MAX {
        return Err(format!("{} drives; at least 1 and at most {DRIVES_MAX}", drives.len()));
    }
    if drives.iter().collect::<BTreeSet<_>>().len() != drives.len() {
        return Err("two drives have one id".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::Error;
    use crate::commands::{Command, Query, Reply};
    use crate::root::testing::{Model, bootstrap};

    #[test]
    fn a_cluster_is_founded_once_and_another_configuration_is_told_what_differs() {
        let mut model = Model::default();
        let first = bootstrap(3, 2, 2);
        assert_eq!(model.query(Query::Bootstrap).result, Ok(Reply::Bootstrap(None)));
        assert_eq!(model.apply(Command::Bootstrap(first.clone())).result, Ok(Reply::Done));
        assert_eq!(model.apply(Command::Bootstrap(first.clone())).result, Ok(Reply::Done));
        let mut other = first.clone();
        other.scheme = "rs(2,1)".parse().unwrap();
        other.map.nodes.pop();
        other.region = "eu-1".into();
        let Err(Error::Refused(why)) = model.apply(Command::Bootstrap(other)).result else { panic!("not refused") };
        assert!(why.contains("node 6 is missing") && why.contains("rs(4,2)") && why.contains("rs(2,1)"), "{why}");
        assert!(why.contains("the stored region is us-east-1, the configuration says eu-1"), "{why}");
        assert_eq!(model.query(Query::Bootstrap).result, Ok(Reply::Bootstrap(Some(first))));
        assert_eq!(model.query(Query::Bootstrap).revision, 1);
    }

    #[test]
    fn a_scheme_without_spare_after_a_zone_needs_best_effort() {
        let mut wanted = bootstrap(3, 2, 2);
        wanted.best_effort = false;
        let why = wanted.check().unwrap_err();
        assert!(why.contains("no spare") && why.contains("zone") && why.contains("best-effort"), "{why}");
        let mut one_machine = bootstrap(1, 1, 6);
        one_machine.best_effort = false;
        one_machine.check().unwrap();
        let mut too_few = bootstrap(1, 1, 5);
        assert!(too_few.check().unwrap_err().contains("6 distinct drives"));
        too_few.partitions.clear();
        assert!(too_few.check().is_err());
    }

    #[test]
    fn a_region_that_nobody_could_sign_for_is_refused() {
        for region in ["", "eu/1", "EU-1", "eu 1", &"e".repeat(65)] {
            let wanted = crate::Bootstrap { region: region.into(), ..bootstrap(3, 2, 2) };
            assert!(wanted.check().unwrap_err().contains("region"), "{region}");
        }
    }

    #[test]
    fn ids_that_occur_twice_are_refused() {
        let mut wanted = bootstrap(3, 2, 2);
        let copy = wanted.map.nodes[0].drives[0].clone();
        wanted.map.nodes[1].drives.push(copy);
        assert!(wanted.check().unwrap_err().contains("two drives"));
    }
}
