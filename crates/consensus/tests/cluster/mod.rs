//! Hosts of one process on loopback, each with a folder as its drive.
#![allow(dead_code, reason = "not every test needs all of it")]

use crate::machine::{Lists, numbers};
use bytes::Bytes;
use consensus::client::Session;
use consensus::{Bootstrap, Client, GroupSpec, Host, HostDrive, ReplicaPlace, Settings, StateMachine};
use protocol::{ClusterId, CommandId, DriveId, GroupId, NodeId, ReplicaId, WriterId};
use runtime::disk::Disk;
use runtime::rpc::{Rpc, Secret};
use runtime::task::Task;
use runtime::time::{self, Instant};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const GROUP: GroupId = GroupId(1);

pub struct Node {
    pub rpc: Rpc,
    _listening: Task<()>,
    pub host: Host,
}

pub struct Cluster {
    pub folders: Vec<tempfile::TempDir>,
    pub nodes: BTreeMap<u64, Node>,
    pub groups: Vec<GroupSpec>,
    pub settings: Settings,
    /// The machine of each node's replicas.
    machine: fn(u64) -> Arc<dyn StateMachine>,
}

pub fn quick() -> Settings {
    Settings { tick: Duration::from_millis(20), mark_interval: 16, ..Settings::default() }
}

pub fn within(seconds: u64) -> Instant {
    time::now() + Duration::from_secs(seconds)
}

impl Cluster {
    /// With so many folders, and no node that runs.
    pub fn closed(nodes: u64, groups: Vec<GroupSpec>, settings: Settings) -> Cluster {
        let folders = (0..nodes).map(|_| tempfile::tempdir().unwrap()).collect();
        Cluster { folders, nodes: BTreeMap::new(), groups, settings, machine: |_| Arc::new(Lists) }
    }

    pub async fn start(nodes: u64, groups: u64, settings: Settings) -> Cluster {
        Cluster::start_with(nodes, groups, settings, |_| Arc::new(Lists)).await
    }

    pub async fn start_with(nodes: u64, groups: u64, settings: Settings, machine: fn(u64) -> Arc<dyn StateMachine>) -> Cluster {
        let place = |node| ReplicaPlace { replica: ReplicaId(node), node: NodeId(node), drive: DriveId(node) };
        let voters: Vec<ReplicaPlace> = (1..=nodes).map(place).collect();
        let groups = (1..=groups).map(|group| GroupSpec { group: GroupId(group), voters: voters.clone() }).collect();
        let mut cluster = Cluster { machine, ..Cluster::closed(nodes, groups, settings) };
        for node in 1..=nodes {
            cluster.open(node, Bootstrap::First).await;
        }
        cluster
    }

    pub async fn open(&mut self, node: u64, bootstrap: Bootstrap) {
        self.open_with(node, bootstrap, |disk| disk).await;
    }

    /// Open a node whose drive is what `fitted` makes of the folder.
    pub async fn open_with(&mut self, node: u64, bootstrap: Bootstrap, fitted: impl FnOnce(Arc<dyn Disk>) -> Arc<dyn Disk>) {
        let rpc = Rpc::new(runtime::rpc::Settings {
            node: NodeId(node),
            cluster: ClusterId(1),
            secret: Secret(b"secret".as_slice().into()),
            listen: "127.0.0.1:0".parse().unwrap(),
            peers: BTreeMap::new(),
        });
        let listening = rpc.listen().await.unwrap();
        for (peer, other) in &self.nodes {
            rpc.introduce(NodeId(*peer), other.rpc.address().unwrap());
            other.rpc.introduce(NodeId(node), rpc.address().unwrap());
        }
        let disk = runtime::disk::open_folder(self.folders[node as usize - 1].path()).unwrap();
        let drives = vec![HostDrive { drive: DriveId(node), disk: fitted(disk), bootstrap }];
        let machine = self.machine;
        let machine = move |_| machine(node);
        let (host, failed) = Host::open_with(self.settings.clone(), rpc.clone(), drives, self.groups.clone(), machine).await;
        assert!(failed.is_empty(), "{failed:?}");
        self.nodes.insert(node, Node { rpc, _listening: listening, host });
    }

    /// As `kill -9` would, but for what the system's cache holds.
    pub async fn kill(&mut self, node: u64) {
        let path = self.folders[node as usize - 1].path().to_owned();
        drop(self.nodes.remove(&node));
        // Jobs of the drive that are under way end first.
        while runtime::disk::open_folder(&path).is_err() {
            time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn client(&self) -> Client {
        self.nodes.values().next().unwrap().host.client()
    }

    pub async fn leader(&self) -> u64 {
        for _ in 0..500 {
            if let Some((node, _)) = self.nodes.iter().find(|(_, node)| node.host.leads(GROUP).is_some()) {
                return *node;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody leads");
    }

    /// Wait until all replicas that run hold the same.
    pub async fn agree(&self) {
        let mut seen = Vec::new();
        for _ in 0..500 {
            seen = self.nodes.values().flat_map(|node| node.host.status()).filter(|one| one.group == GROUP).collect();
            if seen.iter().all(|one| (one.applied, one.state_hash) == (seen[0].applied, seen[0].state_hash)) {
                assert!(seen.iter().all(|one| one.trouble.is_none()), "{seen:?}");
                return;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
        panic!("replicas differ: {seen:?}");
    }
}

/// Wait until every replica runs and all hold the same; what those of `node` were healed of.
pub async fn healed(cluster: &Cluster, node: u64) -> Vec<String> {
    for _ in 0..500 {
        let seen: Vec<_> = cluster.nodes.values().flat_map(|node| node.host.status()).collect();
        if seen.iter().all(|one| one.trouble.is_none()) {
            cluster.agree().await;
            return cluster.nodes[&node].host.status().into_iter().filter_map(|one| one.healed).collect();
        }
        time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", cluster.nodes.values().flat_map(|node| node.host.status()).collect::<Vec<_>>());
}

pub fn session(counter: u64, lowest_unfinished: u64) -> Option<Session> {
    Some(Session { id: CommandId { writer: WriterId(1), counter }, lowest_unfinished })
}

pub async fn list(client: &Client) -> Vec<u64> {
    numbers(&client.read(GROUP, Bytes::from_static(&[1]), within(10)).await.unwrap())
}
