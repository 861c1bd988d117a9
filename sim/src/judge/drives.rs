//! [`Drives`]: the simulated drives by their ids, with the machine and the zone that each stands in, and what faults did
//! to them.

use crate::cluster::Cluster;
use protocol::DriveId;
use runtime::disk::Disk;
use runtime::side::{FaultMark, SimDrive};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Where a drive stands.
pub struct Place {
    pub drive: SimDrive,
    /// Index of its machine.
    pub machine: usize,
    pub zone: String,
}

/// All drives of a cluster.
pub struct Drives(BTreeMap<DriveId, Place>);

impl Drives {
    /// The drives as the cluster was founded: position, not content.
    pub fn of(cluster: &Cluster) -> Drives {
        let mut places = BTreeMap::new();
        for (machine, node) in cluster.bootstrap.map.nodes.iter().enumerate() {
            for (drive, listed) in cluster.machines[machine].drives().iter().zip(&node.drives) {
                places.insert(listed.id, Place { drive: drive.clone(), machine, zone: node.zone.clone() });
            }
        }
        Drives(places)
    }

    /// What would be there if power failed now.
    pub fn durable(&self, id: DriveId) -> Arc<dyn Disk> {
        self.0[&id].drive.durable()
    }

    pub fn get(&self, id: DriveId) -> Option<&Place> {
        self.0.get(&id)
    }

    /// The drive with this ordinal of a machine.
    pub fn at(&self, machine: usize, ordinal: usize) -> Option<DriveId> {
        self.iter().filter(|(_, place)| place.machine == machine).map(|(id, _)| id).nth(ordinal)
    }

    pub fn label(&self, id: DriveId) -> String {
        self.0.get(&id).map_or_else(|| format!("drive {id}"), |place| place.drive.label().to_string())
    }

    pub fn iter(&self) -> impl Iterator<Item = (DriveId, &Place)> {
        self.0.iter().map(|(id, place)| (*id, place))
    }
}

/// Why the shards and replicas of a drive are out of reach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Out {
    /// It is gone, has failed, or its node has closed it.
    Drive,
    /// Its machine does not run.
    Machine,
    /// No machine of its zone runs.
    Zone,
}

/// What faults did to the drives, as of one moment.
#[derive(Default)]
pub struct Harm {
    out: BTreeMap<DriveId, Out>,
    marks: BTreeMap<(DriveId, String), Vec<FaultMark>>,
}

impl Harm {
    /// Look at all drives now.
    pub fn now(drives: &Drives, cluster: &Cluster) -> Harm {
        let dead: Vec<bool> = cluster.machines.iter().map(|machine| machine.is_dead()).collect();
        let living: BTreeSet<&str> =
            drives.iter().filter(|(_, place)| !dead[place.machine]).map(|(_, place)| place.zone.as_str()).collect();
        let closed: BTreeSet<DriveId> = (0..cluster.machines.len())
            .filter_map(|index| cluster.node(index))
            .flat_map(|node| node.storage().status())
            .filter(|status| status.closed.is_some())
            .map(|status| status.drive)
            .collect();
        let mut harm = Harm::default();
        for (id, place) in drives.iter() {
            let out = if !living.contains(place.zone.as_str()) {
                Some(Out::Zone)
            } else if dead[place.machine] {
                Some(Out::Machine)
            } else if place.drive.gone().is_some() || place.drive.has_failed() || closed.contains(&id) {
                Some(Out::Drive)
            } else {
                None
            };
            harm.out.extend(out.map(|out| (id, out)));
            for mark in place.drive.fault_marks() {
                harm.marks.entry((id, mark.file.clone())).or_default().push(mark);
            }
        }
        harm
    }

    /// Why a drive is out of reach, if it is.
    pub fn out(&self, id: DriveId) -> Option<Out> {
        self.out.get(&id).copied()
    }

    /// What is wrong with these bytes as the drive shows them.
    pub fn mark(&self, id: DriveId, file: &str, bytes: &Range<u64>) -> Option<&FaultMark> {
        let marks = self.marks.get(&(id, file.to_string()))?;
        marks.iter().find(|mark| mark.bytes.start < bytes.end && bytes.start < mark.bytes.end)
    }

    /// Files with wrong bytes.
    pub fn marked(&self) -> impl Iterator<Item = &(DriveId, String)> {
        self.marks.keys()
    }

    /// Drives that are out of reach.
    pub fn outs(&self) -> impl Iterator<Item = DriveId> {
        self.out.keys().copied()
    }
}
