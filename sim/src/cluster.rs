//! A simulated cluster: machines with drives that run the very node of production.

use jepsen_like::s3::{Client, Credentials};
use jepsen_like::scenario::Scenario;
use node::config::{ClusterFile, ClusterNode};
use node::drives::{self, Slot};
use node::{Node, settings};
use protocol::NodeId;
use runtime::disk::Disk;
use runtime::rpc::Secret;
use runtime::side::{Machine, SimDrive};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};

const RPC_PORT: u16 = 7000;
const S3_PORT: u16 = 9000;
/// Capacity of a drive.
const DRIVE_BYTES: u64 = 64 << 30;
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "SIMULATED";
const SECRET_KEY: &str = "simulated-secret";

/// How large a cluster is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    pub zones: usize,
    pub nodes_per_zone: usize,
    pub drives_per_node: usize,
    pub scheme: protocol::Scheme,
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

    /// Nodes of a zone, by index.
    pub fn zone(&self, zone: usize) -> Vec<usize> {
        (zone * self.nodes_per_zone..(zone + 1) * self.nodes_per_zone).collect()
    }
}

/// The cluster, and what the simulator sees of it that no client could.
pub struct Cluster {
    pub machines: Vec<Machine>,
    /// The node that runs on each machine at present.
    running: Arc<Mutex<Vec<Weak<Node>>>>,
}

impl Cluster {
    /// Format the drives and start every machine.
    pub fn start(shape: &Shape) -> Cluster {
        let bootstrap = bootstrap(shape);
        let running: Vec<Weak<Node>> = bootstrap.map.nodes.iter().map(|_| Weak::new()).collect();
        let running = Arc::new(Mutex::new(running));
        let mut machines = Vec::new();
        for (index, node) in bootstrap.map.nodes.iter().enumerate() {
            let drives: Vec<SimDrive> = node.drives.iter().map(|drive| SimDrive::new(&drive.label, DRIVE_BYTES)).collect();
            let slots: Vec<Slot> = drives.iter().map(|drive| Ok(drive.mount())).collect();
            drives::bootstrap(bootstrap.map.cluster, node.id, &slots).expect("new drives are empty");
            drop(slots);
            let settings = settings::Settings {
                node: node.id,
                secret: Secret(Arc::from(&b"the secret of a simulated cluster"[..])),
                bootstrap: bootstrap.clone(),
                listens: true,
                gateway: gateway_settings(address(index, S3_PORT)),
            };
            let name = format!("node-{}", node.id);
            let (mounted, running) = (drives.clone(), running.clone());
            let machine = Machine::start(&name, node.address.ip(), drives, move || {
                let (settings, drives, running) = (settings.clone(), mounted.clone(), running.clone());
                async move {
                    let slots: Vec<Slot> = drives.iter().map(|drive| Ok(drive.mount() as Arc<dyn Disk>)).collect();
                    match Node::start(settings, slots).await {
                        Ok(node) => {
                            let node = Arc::new(node);
                            running.lock().expect("nothing panics under this lock")[index] = Arc::downgrade(&node);
                            std::future::pending::<()>().await;
                            drop(node);
                        }
                        Err(error) => panic!("node {index} does not start: {error}"),
                    }
                }
            });
            machines.push(machine);
        }
        Cluster { machines, running }
    }

    /// The node that runs on a machine, if it has started.
    pub fn node(&self, index: usize) -> Option<Arc<Node>> {
        self.running.lock().expect("nothing panics under this lock")[index].upgrade()
    }

    /// An S3 client of one node's gateway.
    pub fn client(&self, index: usize) -> Client {
        Client::new(address(index, S3_PORT), Credentials::new(ACCESS_KEY, SECRET_KEY), REGION)
    }
}

/// Address of the `index`-th node: 10.1.0.(index + 1).
fn address(index: usize, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 0, index as u8 + 1)), port)
}

/// Address of the `index`-th machine of clients.
pub fn client_address(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 2, 0, index as u8 + 1))
}

fn bootstrap(shape: &Shape) -> settings::Bootstrap {
    let nodes = shape.zones * shape.nodes_per_zone;
    let file = ClusterFile {
        id: "5eed5eed5eed5eed5eed5eed5eed5eed".to_string(),
        secret_file: "unused".into(),
        scheme: shape.scheme.to_string(),
        best_effort: true,
        partitions: 4,
        node: (0..nodes)
            .map(|index| ClusterNode {
                id: NodeId(index as u64 + 1).0,
                zone: format!("zone-{}", index / shape.nodes_per_zone),
                rack: None,
                address: address(index, RPC_PORT),
                drives: shape.drives_per_node as u16,
            })
            .collect(),
    };
    settings::bootstrap(&file).expect("a scenario's cluster is sound")
}

fn gateway_settings(listen: SocketAddr) -> settings::GatewaySettings {
    settings::GatewaySettings {
        listen,
        region: REGION.to_string(),
        access_key: ACCESS_KEY.to_string(),
        secret_key: Secret(Arc::from(SECRET_KEY.as_bytes())),
        presigned_v2: true,
        bytes_max: protocol::limits::GATEWAY_BYTES_MAX,
        domains: Vec::new(),
        inline_bytes_max: protocol::limits::INLINE_BYTES_MAX,
        // Small, so that small objects have several blobs.
        blob_bytes: 256 << 10,
    }
}
