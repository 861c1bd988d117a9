//! [`Target`]: what a fault strikes, as it is written.

use std::fmt;

use serde::{Serialize, Serializer};

use super::fault::{Fault, Strikes};
use super::text::{FromText, from_text};

/// What a fault strikes. In JSON it is the text of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// So many, drawn.
    Some(u32, Unit),
    /// Every one.
    All(Unit),
    /// One drive drawn among those with shards.
    DrivesThatHoldShards,
    /// One drive drawn among those with logs of groups.
    DrivesThatHoldLogs,
    /// Node that leads the root group when the fault comes.
    RootLeader,
    /// Node that then leads one partition, drawn.
    PartitionLeader,
    /// The fewest nodes that are more than half, drawn.
    MajorityOfNodes,
    /// Node that reached the waypoint.
    NodeThere,
    /// The machines of the clients.
    Clients,
    /// One volume, drawn among those with shards.
    Volume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Drive,
    Node,
    Zone,
    /// Of metadata.
    Partition,
}

const NAMED: [(&str, Target); 8] = [
    ("drives that hold shards", Target::DrivesThatHoldShards),
    ("drives that hold logs", Target::DrivesThatHoldLogs),
    ("the root leader", Target::RootLeader),
    ("a partition leader", Target::PartitionLeader),
    ("a majority of nodes", Target::MajorityOfNodes),
    ("the node there", Target::NodeThere),
    ("the clients", Target::Clients),
    ("a volume", Target::Volume),
];

impl Target {
    /// Why `fault` cannot strike this, if it cannot.
    pub(super) fn unfit_for(self, fault: Fault) -> Option<&'static str> {
        use Target::{All, Clients, DrivesThatHoldLogs, DrivesThatHoldShards, MajorityOfNodes, NodeThere, PartitionLeader, RootLeader};
        let leader = matches!(self, RootLeader | PartitionLeader);
        let of_nodes =
            matches!(self, Target::Some(_, Unit::Node | Unit::Zone) | All(Unit::Node | Unit::Zone) | MajorityOfNodes | NodeThere);
        let of_drives =
            matches!(self, Target::Some(_, Unit::Drive) | All(Unit::Drive) | DrivesThatHoldShards | DrivesThatHoldLogs | NodeThere);
        match fault.strikes() {
            Strikes::Nodes if !of_nodes && !leader => Some("it strikes nodes or zones"),
            Strikes::Links if !of_nodes && !leader && self != Clients => Some("it strikes nodes, zones or the clients"),
            Strikes::Arrangement if !matches!(self, All(Unit::Node | Unit::Zone)) => Some("it arranges all nodes or all zones"),
            Strikes::Drives if !of_drives && !leader => Some("it strikes drives, or those of one leader or of the node there"),
            Strikes::Leaders if !leader => Some("it strikes the root leader or a partition leader"),
            Strikes::Partitions if self != All(Unit::Partition) => Some("it strikes all partitions"),
            Strikes::Volumes if self != Target::Volume => Some("it strikes a volume"),
            _ if fault == Fault::DrivesSwapped && !matches!(self, Target::Some(2, Unit::Drive)) => Some("it swaps 2 drives"),
            _ => None,
        }
    }
}

from_text!(Target);

impl FromText for Target {
    const FORM: &'static str =
        "a target like \"one node\", \"2 drives\", \"all nodes\", \"drives that hold shards\" or \"the root leader\"";
    fn from_text(text: &str) -> Option<Target> {
        if let Some((_, target)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Some(*target);
        }
        let (count, unit) = text.split_once(' ')?;
        let unit = match unit {
            "drive" | "drives" => Unit::Drive,
            "node" | "nodes" => Unit::Node,
            "zone" | "zones" => Unit::Zone,
            "partition" | "partitions" => Unit::Partition,
            _ => return None,
        };
        match count {
            "all" => Some(Target::All(unit)),
            "one" => Some(Target::Some(1, unit)),
            "two" => Some(Target::Some(2, unit)),
            "three" => Some(Target::Some(3, unit)),
            number => number.parse().ok().filter(|count| *count > 0).map(|count| Target::Some(count, unit)),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Drive => "drive",
            Unit::Node => "node",
            Unit::Zone => "zone",
            Unit::Partition => "partition",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Some(1, unit) => write!(f, "one {unit}"),
            Target::Some(count, unit) => write!(f, "{count} {unit}s"),
            Target::All(unit) => write!(f, "all {unit}s"),
            named => {
                let name = NAMED.iter().find(|(_, target)| target == named).map(|(name, _)| *name);
                f.write_str(name.expect("every other target is named"))
            }
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_come_back_as_they_were_written() {
        let counted = ["one node", "2 drives", "3 zones", "all nodes", "all drives", "all zones", "all partitions"];
        for text in counted.into_iter().chain(NAMED.iter().map(|(name, _)| *name)) {
            let target = Target::from_text(text).unwrap();
            assert_eq!(target.to_string(), text);
            assert_eq!(serde_json::from_str::<Target>(&serde_json::to_string(&target).unwrap()).unwrap(), target);
        }
        for bad in ["", "node", "0 nodes", "one thing", "no node", "the leader", "all the nodes"] {
            assert_eq!(Target::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_fault_takes_its_own_targets() {
        let fits = |fault: Fault, text: &str| Target::from_text(text).unwrap().unfit_for(fault).is_none();
        for (fault, good, bad) in [
            (Fault::Kill, "one zone", "one drive"),
            (Fault::Pause, "the node there", "the clients"),
            (Fault::ClockJump, "a majority of nodes", "drives that hold logs"),
            (Fault::BadNetwork, "the clients", "one drive"),
            (Fault::Ring, "all nodes", "one node"),
            (Fault::BitRot, "drives that hold shards", "one node"),
            (Fault::SyncError, "a partition leader", "all zones"),
            (Fault::DrivesSwapped, "2 drives", "one drive"),
            (Fault::LeaderTransfer, "the root leader", "one node"),
            (Fault::VolumeSealed, "a volume", "one node"),
            (Fault::StrayCommands, "all partitions", "one partition"),
            (Fault::Kill, "all nodes", "all partitions"),
        ] {
            assert!(fits(fault, good) && !fits(fault, bad), "{fault:?}");
        }
    }
}
