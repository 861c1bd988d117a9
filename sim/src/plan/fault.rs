//! A fault of a plan: what strikes, when, where and for how long.

use super::{Place, Shape};
use jepsen_like::scenario::{Fault, Side};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A fault of the plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// Its name in the plan, which stays when others are removed.
    pub number: u64,
    pub when: Moment,
    /// Time until it is healed; 0 for faults that are not.
    pub lasts_us: u64,
    pub fault: Fault,
    pub aim: Aim,
    /// The silent direction of an asymmetric fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// When the copy is taken that an old drive is replaced with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_us: Option<u64>,
    /// Whether it may cost what was acknowledged.
    #[serde(default, skip_serializing_if = "is_false")]
    pub beyond: bool,
    /// Seed of all that it draws during the run: offsets, files, which sectors a power cut keeps.
    pub draw: u64,
}

/// When a fault strikes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Moment {
    /// So long after the start of the workloads.
    At { us: u64 },
    /// When code reaches the waypoint for the `nth` time (from 1) within this time. Never, if it is not reached so often.
    Reached { waypoint: String, nth: u64, from_us: u64, until_us: u64 },
}

/// What a fault strikes, as far as it is known before the run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Aim {
    Nodes(Vec<usize>),
    /// All nodes, in an arrangement of groups.
    Groups(Vec<Vec<usize>>),
    Drives(Vec<Place>),
    /// One of these drives, one that holds shards; if none does, nothing.
    Shards {
        among: Vec<Place>,
    },
    /// One of these drives, one that holds a log; if none does, nothing.
    Logs {
        among: Vec<Place>,
    },
    /// The node that leads the root group then, or its drive with that replica; if none does, nothing.
    RootLeader,
    /// The same of a partition, drawn.
    PartitionLeader,
    /// The node that reached the waypoint, or a drive of it, drawn.
    NodeThere,
    /// The machine of the clients.
    Clients,
    /// A volume that has slots then, drawn; if none does, nothing.
    Volume,
    /// All metadata partitions.
    Partitions,
}

impl Planned {
    /// When it strikes at the earliest, from the start of the workloads.
    pub fn from(&self) -> Duration {
        match self.when {
            Moment::At { us } | Moment::Reached { from_us: us, .. } => Duration::from_micros(us),
        }
    }

    /// When it is healed at the latest.
    pub fn until(&self) -> Duration {
        let latest = match self.when {
            Moment::At { us } | Moment::Reached { until_us: us, .. } => Duration::from_micros(us),
        };
        latest + self.lasts()
    }

    /// Time until it is healed.
    pub fn lasts(&self) -> Duration {
        Duration::from_micros(self.lasts_us)
    }

    /// What it draws from during the run: its own, so that it draws the same whatever else happens.
    pub fn stream(&self) -> ChaCha12Rng {
        ChaCha12Rng::seed_from_u64(self.draw)
    }
}

impl Aim {
    /// Every drive that it may strike, or take out of reach; `None` if that is not known before the run.
    pub fn places(&self, shape: &Shape) -> Option<Vec<Place>> {
        match self {
            Aim::Nodes(nodes) => Some(nodes.iter().flat_map(|node| shape.drives_of(*node)).collect()),
            Aim::Groups(groups) => Some(groups.iter().flatten().flat_map(|node| shape.drives_of(*node)).collect()),
            Aim::Drives(places) | Aim::Shards { among: places } | Aim::Logs { among: places } => Some(places.clone()),
            Aim::Clients | Aim::Volume | Aim::Partitions => Some(Vec::new()),
            Aim::RootLeader | Aim::PartitionLeader | Aim::NodeThere => None,
        }
    }
}

impl std::fmt::Display for Planned {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = |us: u64| us as f64 / 1e6;
        match &self.when {
            Moment::At { us } => write!(formatter, "at {:.3} s", seconds(*us))?,
            Moment::Reached { waypoint, nth, from_us, until_us } => {
                write!(formatter, "at {waypoint} no. {nth} in {:.1}..{:.1} s", seconds(*from_us), seconds(*until_us))?;
            }
        }
        if self.lasts_us > 0 {
            write!(formatter, " for {:.3} s", seconds(self.lasts_us))?;
        }
        write!(formatter, ": {} ", self.fault.name())?;
        match &self.aim {
            Aim::Nodes(nodes) => write!(formatter, "nodes {nodes:?}"),
            Aim::Groups(groups) => write!(formatter, "nodes {groups:?}"),
            Aim::Drives(places) => write!(formatter, "drives {}", listed(places)),
            Aim::Shards { among } => write!(formatter, "one with shards of drives {}", listed(among)),
            Aim::Logs { among } => write!(formatter, "one with logs of drives {}", listed(among)),
            Aim::RootLeader => write!(formatter, "the root leader"),
            Aim::PartitionLeader => write!(formatter, "a partition leader"),
            Aim::NodeThere => write!(formatter, "the node there"),
            Aim::Clients => write!(formatter, "the clients"),
            Aim::Volume => write!(formatter, "a volume"),
            Aim::Partitions => write!(formatter, "all partitions"),
        }
    }
}

fn listed(places: &[Place]) -> String {
    places.iter().map(|place| format!("{}/{}", place.node, place.drive)).collect::<Vec<_>>().join(", ")
}

fn is_false(flag: &bool) -> bool {
    !flag
}
