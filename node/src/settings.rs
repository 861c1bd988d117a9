//! Settings as they are proved: every value checked against every other before anything starts.

use crate::config::ClusterFile;
use consensus::StateMachine;
use protocol::{ClusterId, ClusterMap, Drive, DriveId, DriveState, GroupId, Node, NodeId, Scheme};
use runtime::rpc::Secret;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub use consensus::Settings as ConsensusSettings;
pub use gateway::Settings as GatewaySettings;
pub use placement::Bootstrap;

/// How often lifecycles of buckets are carried out: their rules speak of days.
pub const LIFECYCLE_EVERY: Duration = Duration::from_secs(3600);

/// What a node needs to start. Its drives are handed over apart.
#[derive(Clone)]
pub struct Settings {
    pub node: NodeId,
    /// Proves membership to other nodes.
    pub secret: Secret,
    /// What the cluster is at its first start.
    pub bootstrap: Bootstrap,
    /// Whether the RPC port listens: false for a cluster of one process.
    pub listens: bool,
    pub gateway: GatewaySettings,
    /// Limits of the metadata replicas; the same on every node.
    pub consensus: ConsensusSettings,
    /// How often lifecycles of buckets are carried out: [`LIFECYCLE_EVERY`], but where tests have no time.
    pub lifecycle_every: Duration,
    /// Makes the state machine of a group: [`machine`](crate::node::machine), but where a program of another version is tried.
    pub machine: fn(GroupId) -> Arc<dyn StateMachine>,
}

/// Settings contradict each other or a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("cluster id `{0}` is not 32 hex digits")]
    ClusterId(String),
    #[error("{0}")]
    Scheme(String),
    #[error("node {0} is listed twice")]
    NodeTwice(u64),
    #[error("nodes {0} and {1} have the same address")]
    AddressTwice(u64, u64),
    #[error("node {0}: id must be between 1 and 2^40, with 1 to 64 drives")]
    Node(u64),
    #[error("no nodes are listed")]
    NoNodes,
    #[error("partitions must be between 1 and 1024, not {0}")]
    Partitions(u16),
    #[error("the scheme {scheme} needs {needs} drives, the cluster has {has}")]
    TooFewDrives { scheme: Scheme, needs: usize, has: usize },
    #[error("{0}")]
    Unsound(String),
}

/// Parse a cluster id of 32 hex digits.
pub fn cluster_id(text: &str) -> Result<ClusterId, Error> {
    if text.len() != 32 {
        return Err(Error::ClusterId(text.to_string()));
    }
    u128::from_str_radix(text, 16).map(ClusterId).map_err(|_| Error::ClusterId(text.to_string()))
}

/// Prove a cluster's file.
pub fn bootstrap(file: &ClusterFile) -> Result<placement::Bootstrap, Error> {
    let cluster = cluster_id(&file.id)?;
    let scheme: Scheme = file.scheme.parse().map_err(|error: protocol::layout::NotAScheme| Error::Scheme(error.to_string()))?;
    if file.partitions == 0 || file.partitions > 1024 {
        return Err(Error::Partitions(file.partitions));
    }
    if file.node.is_empty() {
        return Err(Error::NoNodes);
    }
    let mut seen = BTreeSet::new();
    let mut nodes: Vec<Node> = Vec::new();
    for node in &file.node {
        if !seen.insert(node.id) {
            return Err(Error::NodeTwice(node.id));
        }
        if node.id == 0 || node.id >= 1 << 40 || node.drives == 0 || node.drives > 64 {
            return Err(Error::Node(node.id));
        }
        if let Some(other) = nodes.iter().find(|other| other.address == node.address) {
            return Err(Error::AddressTwice(other.id.0, node.id));
        }
        let id = NodeId(node.id);
        let drives = (0..node.drives)
            .map(|ordinal| Drive {
                id: DriveId::at_bootstrap(id, ordinal),
                state: DriveState::In,
                weight: 100,
                label: format!("node {} drive {}", node.id, ordinal + 1),
            })
            .collect();
        let rack = node.rack.clone().unwrap_or_else(|| format!("{}-{}", node.zone, node.id));
        nodes.push(Node { id, zone: node.zone.clone(), rack, address: node.address, drives });
    }
    let has: usize = nodes.iter().map(|node| node.drives.len()).sum();
    if has < scheme.total() {
        return Err(Error::TooFewDrives { scheme, needs: scheme.total(), has });
    }
    let bootstrap = Bootstrap {
        map: ClusterMap { cluster, version: 1, nodes },
        partitions: (1..=u64::from(file.partitions)).map(GroupId).collect(),
        scheme,
        best_effort: file.best_effort,
        region: file.region.clone(),
    };
    // The root group asks the same when the cluster is founded; refused there, every node would wait for ever.
    bootstrap.check().map_err(Error::Unsound)?;
    Ok(bootstrap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterNode;

    fn file() -> ClusterFile {
        ClusterFile {
            id: "00112233445566778899aabbccddeeff".to_string(),
            secret_file: "s".into(),
            scheme: "rs(4,2)".to_string(),
            best_effort: true,
            partitions: 4,
            region: "us-east-1".to_string(),
            node: (1..=6u16)
                .map(|id| ClusterNode {
                    id: u64::from(id),
                    zone: format!("z{}", (id - 1) / 2),
                    rack: None,
                    address: std::net::SocketAddr::from(([127, 0, 0, 1], 7000 + id)),
                    drives: 2,
                })
                .collect(),
        }
    }

    #[test]
    fn a_sound_file_is_proved() {
        let bootstrap = bootstrap(&file()).unwrap();
        assert_eq!(bootstrap.map.nodes.len(), 6);
        assert_eq!(bootstrap.partitions.len(), 4);
    }

    #[test]
    fn each_contradiction_is_named() {
        let mut twice = file();
        twice.node[1].id = 1;
        assert_eq!(bootstrap(&twice).unwrap_err(), Error::NodeTwice(1));
        let mut address = file();
        address.node[1].address = address.node[0].address;
        assert_eq!(bootstrap(&address).unwrap_err(), Error::AddressTwice(1, 2));
        let mut few = file();
        few.node.truncate(2);
        assert!(matches!(bootstrap(&few).unwrap_err(), Error::TooFewDrives { needs: 6, has: 4, .. }));
        let mut id = file();
        id.id = "xyz".to_string();
        assert!(matches!(bootstrap(&id).unwrap_err(), Error::ClusterId(_)));
        let mut scheme = file();
        scheme.scheme = "raid5".to_string();
        assert!(matches!(bootstrap(&scheme).unwrap_err(), Error::Scheme(_)));
    }

    #[test]
    fn what_the_root_group_would_refuse_is_refused_before_anything_starts() {
        let mut strict = file();
        strict.best_effort = false;
        let Err(Error::Unsound(reason)) = bootstrap(&strict) else { panic!("rs(4,2) over three zones has no spare after one") };
        assert!(reason.contains("zone"), "{reason}");
        strict.scheme = "rs(3,3)".to_string();
        assert!(bootstrap(&strict).is_ok());
        strict.region = "EU 1".to_string();
        assert!(matches!(bootstrap(&strict), Err(Error::Unsound(reason)) if reason.contains("region")));
    }
}
