//! The cluster map: nodes, drives and their failure domains.

use crate::ids::{ClusterId, DriveId, NodeId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Name of an availability zone.
pub type Zone = String;

/// Whether a drive may be given new slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DriveState {
    /// Takes new slots.
    In,
    /// Takes no new slots.
    Out,
}

/// A drive of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Drive {
    pub id: DriveId,
    pub state: DriveState,
    /// Relative share of new slots; 100 for an ordinary drive.
    pub weight: u32,
    /// Folder or device as the operator wrote it, for messages to people.
    pub label: String,
}

/// A process with its drives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub zone: Zone,
    pub rack: String,
    /// Where the node's RPC port is reached.
    pub address: SocketAddr,
    pub drives: Vec<Drive>,
}

/// Nodes, drives and failure domains. `version` serves watchers only: it fences nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterMap {
    pub cluster: ClusterId,
    pub version: u64,
    pub nodes: Vec<Node>,
}

impl ClusterMap {
    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The node that holds this drive, and the drive.
    pub fn drive(&self, id: DriveId) -> Option<(&Node, &Drive)> {
        self.nodes.iter().find_map(|node| Some((node, node.drives.iter().find(|drive| drive.id == id)?)))
    }
}
