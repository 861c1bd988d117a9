//! A simulated cluster: machines with drives that run the very node of production.

use crate::next;
use crate::plan::{Knobs, Place, Plan, Shape};
use jepsen_like::s3::{Client, Credentials};
use node::config::{ClusterFile, ClusterNode};
use node::drives::{self, Refused, Slot};
use node::operator::Operator;
use node::{Node, settings};
use protocol::{DriveId, NodeId};
use runtime::disk::{self, Disk};
use runtime::rpc::Secret;
use runtime::side::{Machine, SimDrive};
use runtime::sync::Notify;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

const RPC_PORT: u16 = 7000;
const S3_PORT: u16 = 9000;
/// Walks for lifecycles in a day, where days are short.
const WALKS_A_DAY: u64 = 5;
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "SIMULATED";
const SECRET_KEY: &str = "simulated-secret";

/// The cluster, and what the simulator sees of it that no client could.
pub struct Cluster {
    pub machines: Vec<Machine>,
    /// What it was founded as.
    pub bootstrap: settings::Bootstrap,
    /// By machine.
    seats: Vec<Arc<Mutex<Seat>>>,
}

/// What the simulator and the lives of one machine share.
#[derive(Default)]
struct Seat {
    /// The node that runs at present.
    running: Weak<Node>,
    /// Tells it to end in order.
    stop: Arc<Notify>,
    /// Drives that show in the place of another, by ordinal.
    shown: BTreeMap<usize, SimDrive>,
    /// Drives that some life refused, by ordinal, and the last reason.
    refused: BTreeMap<usize, String>,
    /// Its next lives run the next program.
    upgraded: bool,
    /// Its next lives do this instead of running a node.
    errand: Option<Errand>,
}

/// What an operator does on a machine whose node does not run, with his tool.
#[derive(Clone)]
pub struct Errand {
    /// The drive, by ordinal, that he works on.
    pub drive: usize,
    pub work: Arc<Work>,
}

/// Gets all drives of the machine and the settings of its node. Blocks.
type Work = dyn Fn(&[(DriveId, Arc<dyn Disk>)], &settings::ConsensusSettings) + Send + Sync;

impl Cluster {
    /// Format the drives and start every machine.
    pub fn start(plan: &Plan) -> Cluster {
        let bootstrap = bootstrap(&plan.shape, &plan.knobs);
        let mut machines = Vec::new();
        let mut seats = Vec::new();
        for (index, node) in bootstrap.map.nodes.iter().enumerate() {
            let drives: Vec<SimDrive> = node.drives.iter().map(|drive| SimDrive::new(&drive.label, plan.knobs.drive_bytes)).collect();
            let slots: Vec<Slot> = drives.iter().map(|drive| Ok(drive.mount())).collect();
            drives::bootstrap(bootstrap.map.cluster, node.id, &slots).expect("new drives are empty");
            drop(slots);
            let settings = settings::Settings {
                node: node.id,
                secret: cluster_secret(),
                bootstrap: bootstrap.clone(),
                listens: true,
                gateway: gateway_settings(address(index, S3_PORT), &plan.knobs),
                consensus: consensus_settings(&plan.knobs),
                lifecycle_every: plan.knobs.day_ms.map_or(settings::LIFECYCLE_EVERY, |day_ms| Duration::from_millis(day_ms / WALKS_A_DAY)),
                machine: node::inspect::machine,
            };
            let name = format!("node-{}", node.id);
            let seat: Arc<Mutex<Seat>> = Arc::default();
            seats.push(seat.clone());
            let mounted = drives.clone();
            let machine = Machine::start(&name, node.address.ip(), drives, move || live(settings.clone(), mounted.clone(), seat.clone()));
            machines.push(machine);
        }
        Cluster { machines, bootstrap, seats }
    }

    /// The node that runs on a machine, if it has started.
    pub fn node(&self, index: usize) -> Option<Arc<Node>> {
        lock(&self.seats[index]).running.upgrade()
    }

    /// Tell a node to end in order. Its machine is dead when it has.
    pub fn stop(&self, index: usize) {
        lock(&self.seats[index]).stop.notify_one();
    }

    /// A node runs the next program from its next life on.
    pub fn upgrade(&self, index: usize) {
        lock(&self.seats[index]).upgraded = true;
    }

    /// The next lives of a machine do an errand instead of running its node; they end when it is done.
    pub fn send(&self, index: usize, errand: Option<Errand>) {
        lock(&self.seats[index]).errand = errand;
    }

    /// Let a node's next life find `drive` in this place, or its own again.
    pub fn show(&self, place: Place, drive: Option<SimDrive>) {
        let mut seat = lock(&self.seats[place.node]);
        match drive {
            Some(drive) => seat.shown.insert(place.drive, drive),
            None => seat.shown.remove(&place.drive),
        };
    }

    /// Drives that their nodes have refused at some start, and why.
    pub fn refused(&self) -> BTreeMap<Place, String> {
        let of_node = |(node, seat): (usize, &Arc<Mutex<Seat>>)| {
            let refused = lock(seat).refused.clone();
            refused.into_iter().map(move |(drive, reason)| (Place { node, drive }, reason))
        };
        self.seats.iter().enumerate().flat_map(of_node).collect()
    }

    /// An operator of the cluster, as it was founded; to be called on the machine where he sits.
    pub fn operator(&self) -> Operator {
        Operator::new(&self.bootstrap, cluster_secret())
    }

    /// An S3 client of one node's gateway.
    pub fn client(&self, index: usize) -> Client {
        Client::new(address(index, S3_PORT), Credentials::new(ACCESS_KEY, SECRET_KEY), REGION)
    }
}

/// One life of a machine: the node runs until it is told to end. One that finds no drive ends by itself, as production's does.
async fn live(mut settings: settings::Settings, drives: Vec<SimDrive>, seat: Arc<Mutex<Seat>>) {
    let (id, stop) = (settings.node, Arc::new(Notify::new()));
    let errand = lock(&seat).errand.clone();
    if let Some(Errand { drive, work }) = errand {
        let mounted: Vec<_> = drives::ids(id).zip(drives.iter().map(SimDrive::mount)).collect();
        let Some((_, disk)) = mounted.get(drive).cloned() else { return };
        return disk::run(&disk, move || work(&mounted, &settings.consensus)).await;
    }
    let slots: Vec<Slot> = {
        let mut seat = lock(&seat);
        seat.stop = stop.clone();
        if seat.upgraded {
            settings.machine = next::machine;
        }
        let mount = |(ordinal, drive): (usize, &SimDrive)| match seat.shown.get(&ordinal) {
            Some(other) => Ok(other.mount_again()),
            None => Ok(drive.mount()),
        };
        drives.iter().enumerate().map(mount).collect()
    };
    let note = |refused: &[Refused]| {
        let ordinal = |drive: DriveId| drives::ids(id).take(drives.len()).position(|id| id == drive);
        lock(&seat).refused.extend(refused.iter().filter_map(|refused| Some((ordinal(refused.drive)?, refused.reason.clone()))));
    };
    match Node::start(settings, slots).await {
        Ok(node) => {
            note(node.refused());
            note(node.without_replicas());
            let node = Arc::new(node);
            lock(&seat).running = Arc::downgrade(&node);
            stop.notified().await;
            if let Some(node) = Arc::into_inner(node) {
                node.shut_down().await;
            }
        }
        Err(node::node::Error::NoDrives(refused)) => note(&refused),
        Err(error) => panic!("node {id} does not start: {error}"),
    }
}

fn lock(seat: &Mutex<Seat>) -> MutexGuard<'_, Seat> {
    seat.lock().expect("nothing panics under this lock")
}

fn cluster_secret() -> Secret {
    Secret(Arc::from(&b"the secret of a simulated cluster"[..]))
}

/// Address of the `index`-th node: 10.1.0.(index + 1).
fn address(index: usize, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 0, index as u8 + 1)), port)
}

/// Address of the `index`-th machine of clients.
pub fn client_address(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 2, 0, index as u8 + 1))
}

fn bootstrap(shape: &Shape, knobs: &Knobs) -> settings::Bootstrap {
    let nodes = shape.zones * shape.nodes_per_zone;
    let file = ClusterFile {
        id: "5eed5eed5eed5eed5eed5eed5eed5eed".to_string(),
        secret_file: "unused".into(),
        scheme: shape.scheme.to_string(),
        best_effort: true,
        partitions: knobs.partitions,
        region: REGION.to_string(),
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

fn gateway_settings(listen: SocketAddr, knobs: &Knobs) -> settings::GatewaySettings {
    settings::GatewaySettings {
        listen,
        region: REGION.to_string(),
        access_key: ACCESS_KEY.to_string(),
        secret_key: Secret(Arc::from(SECRET_KEY.as_bytes())),
        presigned_v2: true,
        bytes_max: knobs.gateway_bytes_max,
        domains: Vec::new(),
        inline_bytes_max: knobs.inline_bytes_max,
        // Small, so that small objects have several blobs.
        blob_bytes: knobs.blob_bytes,
        day_ms: knobs.day_ms.unwrap_or(protocol::lifecycle::DAY_MS),
    }
}

fn consensus_settings(knobs: &Knobs) -> settings::ConsensusSettings {
    settings::ConsensusSettings {
        checkpoint_bytes: knobs.checkpoint_bytes,
        checkpoint_after: Duration::from_millis(knobs.checkpoint_after_ms),
        tail_bytes: knobs.tail_bytes,
        segment_bytes: knobs.segment_bytes,
        snapshot_page_bytes: knobs.snapshot_page_bytes,
        cache_bytes: knobs.cache_bytes,
        mark_interval: knobs.mark_interval,
        ..settings::ConsensusSettings::default()
    }
}
