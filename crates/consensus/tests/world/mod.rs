//! Where the simulations' nodes are, what they are called with, and what else is like in all of them.
#![allow(dead_code, reason = "not every test needs all of it")]

use consensus::{GroupSpec, ReplicaPlace};
use protocol::{ClusterId, DriveId, GroupId, NodeId, ReplicaId};
use runtime::rpc::{Rpc, Secret};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What a simulation was called with: names that begin with `--`, each with its value behind it.
pub struct Arguments(Vec<String>);

impl Arguments {
    /// Those of this process, whose addresses are made the same in each run.
    pub fn of_this_process() -> Arguments {
        runtime::side::pin_address_space();
        Arguments(std::env::args().collect())
    }

    pub fn value(&self, name: &str) -> Option<String> {
        self.0.iter().position(|argument| argument == name).map(|at| self.0[at + 1].clone())
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.value(name).map(|value| value.parse().expect("a number"))
    }
}

/// What this program prints in a process of its own; else what it says of its failure.
pub fn in_a_process(arguments: &[&str]) -> Result<String, String> {
    let program = std::env::current_exe().expect("this program");
    let output = std::process::Command::new(program).args(arguments).output().expect("a process");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

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
