//! Where the simulations' nodes are, and what is like in all of them.

use consensus::{GroupSpec, ReplicaPlace};
use protocol::{ClusterId, DriveId, GroupId, NodeId, ReplicaId};
use runtime::rpc::{Rpc, Secret};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

pub fn address(node: u64) -> SocketAddr {
    SocketAddr::new(IpAddr::from([10, 0, 0, node as u8]), 7000)
}

/// Of `node`, which knows `machines` of them, clients included.
pub fn rpc(node: u64, machines: u64) -> Rpc {
    let peers: BTreeMap<_, _> = (1..=machines).map(|node| (NodeId(node), address(node))).collect();
    let secret = Secret(b"secret".as_slice().into());
    Rpc::new(runtime::rpc::Settings { node: NodeId(node), cluster: ClusterId(5), secret, listen: address(node), peers })
}

/// The replica of this number, on the drive and the node of this number.
pub fn place(number: u64) -> ReplicaPlace {
    ReplicaPlace { replica: ReplicaId(number), node: NodeId(number), drive: DriveId(number) }
}

/// Groups from 1 on, each with the first `voters` nodes.
pub fn groups(groups: u64, voters: u64) -> Vec<GroupSpec> {
    (1..=groups).map(|group| GroupSpec { group: GroupId(group), voters: (1..=voters).map(place).collect() }).collect()
}
