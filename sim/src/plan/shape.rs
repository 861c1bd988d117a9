//! How large a cluster is, and where in it something stands.

use jepsen_like::scenario::Scenario;
use protocol::Scheme;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How large a cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub zones: usize,
    pub nodes_per_zone: usize,
    pub drives_per_node: usize,
    #[serde(serialize_with = "write_scheme", deserialize_with = "read_scheme")]
    pub scheme: Scheme,
}

/// A drive, by the index of its node and its own in that node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub node: usize,
    pub drive: usize,
}

impl Shape {
    /// The cluster that a scenario asks for.
    pub fn of(scenario: &Scenario) -> Shape {
        let cluster = &scenario.cluster;
        Shape {
            zones: cluster.zones,
            nodes_per_zone: cluster.nodes_per_zone,
            drives_per_node: cluster.drives_per_node,
            scheme: cluster.scheme,
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> usize {
        self.zones * self.nodes_per_zone
    }

    /// Nodes of a zone, by index.
    pub fn zone(&self, zone: usize) -> Vec<usize> {
        (zone * self.nodes_per_zone..(zone + 1) * self.nodes_per_zone).collect()
    }

    /// The zone of a node.
    pub fn zone_of(&self, node: usize) -> usize {
        node / self.nodes_per_zone
    }

    /// The drives of a node.
    pub fn drives_of(&self, node: usize) -> impl Iterator<Item = Place> {
        (0..self.drives_per_node).map(move |drive| Place { node, drive })
    }

    /// Every drive.
    pub fn drives(&self) -> Vec<Place> {
        (0..self.nodes()).flat_map(|node| self.drives_of(node)).collect()
    }
}

fn write_scheme<S: Serializer>(scheme: &Scheme, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(scheme)
}

fn read_scheme<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scheme, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}
