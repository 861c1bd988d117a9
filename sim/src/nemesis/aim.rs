//! What a fault strikes, as far as only the run can tell: leaders, the node at a waypoint, drives that hold something.

use super::World;
use crate::plan::{Aim, Place, Planned};
use jepsen_like::scenario::Strikes;
use protocol::{DriveId, GroupId, NodeId, ROOT, VolumeId};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::side::{Reached, SimDrive};
use std::collections::BTreeSet;

/// Folders of a drive.
pub const SHARDS: &str = "slots";
pub const LOGS: &str = "raft";

/// What is struck.
#[derive(Clone, Default, Debug)]
pub struct Struck {
    pub nodes: Vec<usize>,
    /// Nodes in an arrangement.
    pub groups: Vec<Vec<usize>>,
    pub drives: Vec<Place>,
    /// Where on the drives; "" is anywhere.
    pub folder: &'static str,
    pub clients: bool,
    /// The group whose leader it is.
    pub group: Option<GroupId>,
    pub volume: Option<VolumeId>,
    /// All of them.
    pub partitions: Vec<GroupId>,
}

impl std::fmt::Display for Struck {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.clients {
            return write!(formatter, "the clients");
        }
        if let Some(volume) = self.volume {
            return write!(formatter, "volume {volume}");
        }
        if !self.partitions.is_empty() {
            return write!(formatter, "all {} partitions", self.partitions.len());
        }
        if !self.drives.is_empty() {
            let drives: Vec<String> = self.drives.iter().map(|place| format!("{}/{}", place.node, place.drive)).collect();
            return write!(formatter, "drives {}", drives.join(", "));
        }
        if !self.groups.is_empty() {
            return write!(formatter, "nodes {:?}", self.groups);
        }
        write!(formatter, "nodes {:?}", self.nodes)
    }
}

impl World {
    /// What `planned` strikes now; `None` if there is nothing.
    pub(super) fn resolve(&self, planned: &Planned, reached: Option<&Reached>, random: &mut ChaCha12Rng) -> Option<Struck> {
        let of_drives = planned.fault.strikes() == Strikes::Drives;
        let mut struck = Struck::default();
        match &planned.aim {
            Aim::Nodes(nodes) => struck.nodes = nodes.clone(),
            Aim::Groups(groups) => struck.groups = groups.clone(),
            Aim::Drives(places) => struck.drives = places.clone(),
            Aim::Clients => struck.clients = true,
            Aim::Partitions => struck.partitions = self.partitions(),
            Aim::Volume => struck.volume = Some(one(&self.volumes(), random)?),
            Aim::Shards { among } => {
                struck.folder = SHARDS;
                struck.drives = vec![one(&self.holding(among, SHARDS), random)?];
            }
            Aim::Logs { among } => {
                struck.folder = LOGS;
                struck.drives = vec![one(&self.holding(among, LOGS), random)?];
            }
            Aim::NodeThere => {
                let reached = reached?;
                let node = (0..self.cluster.machines.len()).find(|node| reached.is_on(self.machine(*node)))?;
                struck.nodes = vec![node];
                if of_drives {
                    struck.drives = vec![one(&self.shape.drives_of(node).collect::<Vec<_>>(), random)?];
                }
            }
            Aim::RootLeader | Aim::PartitionLeader => {
                let group = if planned.aim == Aim::RootLeader { ROOT } else { one(&self.partitions(), random)? };
                let (node, drive) = self.leader(group)?;
                struck.group = Some(group);
                struck.nodes = vec![node];
                if of_drives {
                    struck.drives = vec![self.place(node, drive)?];
                }
            }
        }
        Some(struck)
    }

    /// The drives that hold something in `folder` that was ever written.
    fn holding(&self, among: &[Place], folder: &str) -> Vec<Place> {
        let holds = |place: &&Place| {
            let drive = self.drive(**place);
            drive.gone().is_none() && drive.files().iter().any(|file| file.bytes > 0 && file.name.starts_with(folder))
        };
        among.iter().filter(holds).copied().collect()
    }

    /// Volumes with a slot on some drive.
    fn volumes(&self) -> Vec<VolumeId> {
        let drives = self.cluster.machines.iter().flat_map(|machine| machine.drives());
        let slots = drives.flat_map(SimDrive::files).filter_map(|file| drive::inspect::address_of(file.name.strip_prefix("slots/")?));
        slots.map(|at| at.volume).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Groups other than the root that have a leader.
    fn partitions(&self) -> Vec<GroupId> {
        let status = (0..self.cluster.machines.len()).filter_map(|node| self.cluster.node(node)).flat_map(|node| node.host().status());
        let groups: BTreeSet<GroupId> = status.map(|replica| replica.group).filter(|group| *group != ROOT).collect();
        groups.into_iter().collect()
    }

    /// The node that leads `group` in the highest term, and the drive of that replica.
    pub(super) fn leader(&self, group: GroupId) -> Option<(usize, DriveId)> {
        let mut leaders = Vec::new();
        for index in 0..self.cluster.machines.len() {
            let Some(node) = self.cluster.node(index) else { continue };
            let leads = |replica: &consensus::host::ReplicaStatus| replica.group == group && replica.leader == Some(replica.replica);
            leaders.extend(node.host().status().into_iter().filter(leads).map(|replica| (replica.term, index, replica.drive)));
        }
        leaders.into_iter().max_by_key(|(term, ..)| *term).map(|(_, node, drive)| (node, drive))
    }

    /// Where a drive of a node is.
    pub(super) fn place(&self, node: usize, drive: DriveId) -> Option<Place> {
        let ids = ::node::drives::ids(NodeId(node as u64 + 1));
        ids.take(self.shape.drives_per_node).position(|id| id == drive).map(|drive| Place { node, drive })
    }
}

fn one<T: Copy>(among: &[T], random: &mut ChaCha12Rng) -> Option<T> {
    // Drawn also where there is nothing to choose from: what follows is drawn alike.
    let share: f64 = random.random();
    among.get((share * among.len() as f64) as usize).copied()
}
