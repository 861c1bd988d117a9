//! A node: every role on its drives. Two callers start one: the `keepstone` binary and the simulator.

use crate::drives::{self, Mounted, Refused, Slot};
use crate::settings::Settings;
use placement::{DriveHealth, Heartbeat};
use protocol::{DriveId, GroupId, ROOT, Volume, VolumeId};
use runtime::disk::Disk;
use runtime::rpc::{self, Rpc};
use runtime::sync::watch;
use runtime::task::{self, Task};
use runtime::time::{self, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How often each drive compares its open superblock with what its path shows.
const VERIFY_INTERVAL: Duration = Duration::from_secs(1);
/// One try to get a writer id from the root group.
const WRITER_TRY: Duration = Duration::from_secs(10);

/// A running node; ends when dropped.
pub struct Node {
    host: Arc<consensus::Host>,
    storage: Arc<storage::Server>,
    clients: (placement::Client, storage::Client),
    rpc: Rpc,
    refused: Vec<Refused>,
    without_replicas: Vec<Refused>,
    ready: watch::Receiver<Option<Result<Served, String>>>,
    _service: placement::Service,
    tasks: Vec<Task<()>>,
}

/// S3 is served.
#[derive(Clone)]
struct Served {
    address: SocketAddr,
    memory: gateway::BodyMemory,
    region: String,
}

/// Bytes that a node holds for those who ask something of it, of rooms that are bounded. Nothing, when nobody does.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// Bodies of objects, at the gateway.
    pub bodies: usize,
    /// Requests of other nodes and its own.
    pub requests: usize,
    /// Appends and reads of drives.
    pub shards: usize,
    /// Commands, and entries of other nodes, that wait to be taken by a drive's replicas.
    pub inboxes: usize,
}

/// A node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("node {0} is not in the cluster's file")]
    NotListed(protocol::NodeId),
    #[error("node {node} has {listed} drives in the cluster's file, but {given} folders were given")]
    Drives { node: protocol::NodeId, listed: usize, given: usize },
    #[error("none of the drives can be used:\n{}", lines(.0))]
    NoDrives(Vec<Refused>),
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error("the S3 front end cannot start: {0}")]
    Gateway(String),
}

fn lines(refused: &[Refused]) -> String {
    refused.iter().map(|refused| format!("  {}: {}", refused.label, refused.reason)).collect::<Vec<_>>().join("\n")
}

impl Node {
    /// Mount `drives` (in the order of the cluster's file), recover, and run. Returns before the node is part of a
    /// quorum; [`ready`](Self::ready) tells when S3 is served.
    pub async fn start(settings: Settings, drives: Vec<Slot>) -> Result<Node, Error> {
        let map = &settings.bootstrap.map;
        let this = map.node(settings.node).ok_or(Error::NotListed(settings.node))?;
        if this.drives.len() != drives.len() {
            return Err(Error::Drives { node: settings.node, listed: this.drives.len(), given: drives.len() });
        }
        let (mounted, mut refused) = mount(&settings, drives).await;
        if mounted.is_empty() {
            return Err(Error::NoDrives(refused));
        }

        let rpc = Rpc::new(rpc::Settings {
            node: settings.node,
            cluster: map.cluster,
            secret: settings.secret.clone(),
            listen: this.address,
            peers: map.nodes.iter().filter(|node| node.id != settings.node).map(|node| (node.id, node.address)).collect(),
        });
        let mut groups = vec![ROOT];
        groups.extend(&settings.bootstrap.partitions);
        let groups = placement::place_replicas(map, &groups);
        let host_drives = mounted.iter().map(host_drive).collect();
        let changes = placement::Changes::default();
        let machine = fed(settings.machine, changes.clone());
        let (host, failed) = consensus::Host::open_with(settings.consensus.clone(), rpc.clone(), host_drives, groups, machine).await;
        let host = Arc::new(host);
        let mut without_replicas = Vec::new();
        for (drive, error) in failed {
            // What a damaged log held is lost, votes and all, so that its replicas never run again. Slots do not depend on it.
            let slots_remain = matches!(error, consensus::host::Error::Damaged { .. });
            note_refused(if slots_remain { &mut without_replicas } else { &mut refused }, &mounted, drive, &error.to_string());
        }
        mark_first_start(&mounted, &mut refused, &without_replicas).await;
        let drives = mounted.iter().map(|drive| (drive.identity.drive, drive.disk.clone())).collect();
        let (storage, failed) = storage::Server::open(&rpc, drives).await;
        let storage = Arc::new(storage);
        for (drive, error) in failed {
            note_refused(&mut refused, &mounted, drive, &error.to_string());
        }
        for drive in &refused {
            tracing::error!(drive = %drive.label, reason = %drive.reason, "drive refused");
        }
        for drive in &without_replicas {
            tracing::error!(drive = %drive.label, reason = %drive.reason, "drive without its replicas: its shards are served");
        }

        let mut tasks = Vec::new();
        if settings.listens {
            let listening = rpc.listen().await;
            tasks.push(listening.map_err(|error| Error::Listen { address: this.address, reason: error.to_string() })?);
        }
        // On every node: a replica of the root group may come to any.
        let service = placement::Service::start(rpc.clone(), host.clone(), settings.bootstrap.clone(), changes);
        let placement = placement::Client::new(rpc.clone(), host.client());
        tasks.push(task::spawn(watch_drives(mounted.iter().map(|drive| drive.disk.clone()).collect())));
        tasks.push(placement.heartbeat(pulse(&settings, &mounted, &refused, &without_replicas, host.clone())));
        tasks.push(placement.watch());

        let (sender, ready) = watch::channel(None);
        tasks.push(repair::carry_out_lifecycles(
            placement.clone(),
            metadata::Walks::new(host.client()),
            settings.lifecycle_every,
            led(&host, &settings.bootstrap.partitions),
        ));

        let groups = host.client();
        let clients = (placement.clone(), storage::Client::new(rpc.clone()));
        let secret_keys = gateway::secret_keys::SecretKeys::new(&settings.secret, map.cluster);
        tasks.push(task::spawn(serve_s3(settings.gateway, placement, groups, clients.1.clone(), secret_keys, sender)));
        Ok(Node { host, storage, clients, rpc, refused, without_replicas, ready, _service: service, tasks })
    }

    /// Wait until S3 is served, and where.
    pub async fn ready(&self) -> Result<SocketAddr, Error> {
        let mut ready = self.ready.clone();
        let state = ready.wait_for(Option::is_some).await.expect("the serving task lives as long as the node");
        state.clone().expect("waited for").map(|served| served.address).map_err(Error::Gateway)
    }

    /// What clients sign for, once S3 is served: what the cluster was founded with, whatever this node's file says.
    pub fn region(&self) -> Option<String> {
        self.ready.borrow().as_ref()?.as_ref().ok().map(|served| served.region.clone())
    }

    /// What is held at present for those who ask.
    pub fn held(&self) -> Held {
        let served = self.ready.borrow();
        let bodies = served.iter().flatten().map(|served| served.memory.held_bytes()).sum();
        let inboxes = self.host.entries_held().queued;
        Held { bodies, requests: self.rpc.held_bytes(), shards: self.storage.held_bytes(), inboxes }
    }

    /// Drives that are not used, and why.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Drives whose shards are served and whose replicas are not, as the log that they share is damaged, and why.
    pub fn without_replicas(&self) -> &[Refused] {
        &self.without_replicas
    }

    /// The replicas of this node.
    pub fn host(&self) -> &consensus::Host {
        &self.host
    }

    /// The slots of this node.
    pub fn storage(&self) -> &storage::Server {
        &self.storage
    }

    /// Buckets and volumes that this node takes for what they are without asking, as it is told of their changes.
    pub fn covered(&self) -> (Vec<Arc<placement::Bucket>>, Vec<Arc<Volume>>) {
        self.clients.0.covered()
    }

    /// Identities that this node takes for what they are without asking; `None` while it takes none.
    pub fn covered_identities(&self) -> Option<Vec<placement::Identity>> {
        self.clients.0.covered_identities()
    }

    /// Seal a volume and fence its slots, as an operator may ask, and as all that rewrites a volume begins.
    pub async fn seal_volume(&self, volume: VolumeId, deadline: Instant) -> Result<repair::Sealed, repair::Error> {
        let (placement, storage) = &self.clients;
        repair::seal(placement, storage, volume, deadline).await
    }

    /// A drive will not come back with what it held, as an operator says: its replicas are replaced by others elsewhere.
    pub async fn lose_drive(&self, drive: DriveId, deadline: Instant) -> Result<(), placement::Error> {
        self.clients.0.lose_drive(drive, deadline).await
    }

    /// Stop serving, hand leadership away, checkpoint, and end.
    pub async fn shut_down(self) {
        let Node { host, tasks, storage, _service, .. } = self;
        drop(tasks);
        drop(_service);
        host.shut_down().await;
        drop(storage);
    }
}

/// The state machine of each group.
pub fn machine(group: GroupId) -> Arc<dyn consensus::StateMachine> {
    if group == ROOT { Arc::new(placement::Root) } else { Arc::new(metadata::Partition) }
}

/// The machines of a node, of which the root group's feeds `changes`.
fn fed(
    machine: fn(GroupId) -> Arc<dyn consensus::StateMachine>,
    changes: placement::Changes,
) -> impl Fn(GroupId) -> Arc<dyn consensus::StateMachine> {
    move |group| if group == ROOT { changes.fed_by(machine(group)) } else { machine(group) }
}

fn host_drive(drive: &Mounted) -> consensus::HostDrive {
    let bootstrap = if drive.first_start { consensus::Bootstrap::First } else { consensus::Bootstrap::Again };
    consensus::HostDrive { drive: drive.identity.drive, disk: drive.disk.clone(), bootstrap }
}

async fn mount(settings: &Settings, drives: Vec<Slot>) -> (Vec<Mounted>, Vec<Refused>) {
    let Some(first) = drives.iter().flatten().next().cloned() else {
        return (Vec::new(), drives.into_iter().filter_map(Result::err).collect());
    };
    let (cluster, node) = (settings.bootstrap.map.cluster, settings.node);
    runtime::disk::run(&first, move || drives::mount(cluster, node, drives)).await
}

fn note_refused(refused: &mut Vec<Refused>, mounted: &[Mounted], drive: DriveId, reason: &str) {
    let label = mounted.iter().find(|mounted| mounted.identity.drive == drive).map_or("?", |mounted| mounted.disk.label());
    // Errors of drives begin with the drive's name.
    let reason = reason.strip_prefix(&format!("{label}: ")).unwrap_or(reason);
    refused.push(Refused { drive, label: label.to_string(), reason: reason.to_string() });
}

async fn mark_first_start(mounted: &[Mounted], refused: &mut Vec<Refused>, without_replicas: &[Refused]) {
    for drive in mounted.iter().filter(|drive| drive.first_start) {
        let id = drive.identity.drive;
        if refused.iter().chain(without_replicas).any(|refused| refused.drive == id) {
            continue;
        }
        let disk = drive.disk.clone();
        if let Err(error) = runtime::disk::run(&drive.disk, move || drives::mark_replicas_created(&disk)).await {
            note_refused(refused, mounted, id, &error.to_string());
        }
    }
}

/// Close each drive whose path shows another drive, or none.
async fn watch_drives(disks: Vec<Arc<dyn Disk>>) {
    let mut closed = vec![false; disks.len()];
    loop {
        time::sleep(VERIFY_INTERVAL).await;
        for (disk, closed) in disks.iter().zip(&mut closed) {
            let check = disk.clone();
            let verified = runtime::disk::run(disk, move || check.verify()).await;
            if let (Err(error), false) = (verified, *closed) {
                tracing::error!(drive = disk.label(), %error, "drive closed; bring it back and start the node again");
                *closed = true;
            }
        }
    }
}

/// What heartbeats say of this node's drives and replicas.
fn pulse(
    settings: &Settings,
    mounted: &[Mounted],
    refused: &[Refused],
    without_replicas: &[Refused],
    host: Arc<consensus::Host>,
) -> impl Fn() -> Heartbeat + Send + Sync + 'static {
    let node = settings.node;
    let incarnation = runtime::entropy::u64();
    let refused: BTreeMap<DriveId, String> = refused.iter().map(|refused| (refused.drive, refused.reason.clone())).collect();
    let logless: BTreeSet<DriveId> = without_replicas.iter().map(|drive| drive.drive).collect();
    let disks: Vec<(DriveId, Arc<dyn Disk>)> = mounted.iter().map(|drive| (drive.identity.drive, drive.disk.clone())).collect();
    move || {
        let mut drives: Vec<DriveHealth> = Vec::new();
        let failed = host.failed_drives();
        for (drive, disk) in &disks {
            let closed = refused.get(drive).cloned().or_else(|| disk.closed());
            let (free_bytes, total_bytes) = disk.space().map_or((0, 0), |space| (space.free, space.total));
            let without_replicas = logless.contains(drive) || failed.contains(drive);
            drives.push(DriveHealth { drive: *drive, closed, without_replicas, free_bytes, total_bytes });
        }
        for (drive, reason) in &refused {
            if !disks.iter().any(|(mounted, _)| mounted == drive) {
                let closed = Some(reason.clone());
                drives.push(DriveHealth { drive: *drive, closed, without_replicas: false, free_bytes: 0, total_bytes: 0 });
            }
        }
        let to_be_replaced = host.to_be_replaced(placement::TO_BE_REPLACED_MAX);
        let refounded = host.refounded(placement::REFOUNDED_MAX);
        Heartbeat { node, incarnation, drives, clock_ms: time::wall_ms(), to_be_replaced, refounded }
    }
}

/// Which of these groups the replicas of this node lead at present.
fn led(host: &Arc<consensus::Host>, groups: &[GroupId]) -> impl Fn() -> Vec<GroupId> + Send + Sync + 'static {
    // Weak: who asks must not keep the replicas alive.
    let (host, groups) = (Arc::downgrade(host), groups.to_vec());
    move || match host.upgrade() {
        Some(host) => groups.iter().copied().filter(|group| host.leads(*group).is_some()).collect(),
        None => Vec::new(),
    }
}

/// Get a writer id, then serve S3 for as long as the node lives.
async fn serve_s3(
    mut settings: gateway::Settings,
    placement: placement::Client,
    groups: consensus::Client,
    storage: storage::Client,
    secret_keys: gateway::secret_keys::SecretKeys,
    ready: watch::Sender<Option<Result<Served, String>>>,
) {
    let writer = loop {
        match placement.open_writer(time::now() + WRITER_TRY).await {
            Ok(writer) => break writer,
            Err(error) => tracing::warn!(%error, "waiting for the root group"),
        }
        time::sleep(Duration::from_millis(200)).await;
    };
    // Clients sign for one region at every gateway: that of the founding, which no file can change.
    let region = loop {
        match placement.founding(time::now() + WRITER_TRY).await {
            Ok(founding) => break founding.region,
            Err(error) => tracing::warn!(%error, "waiting for what the cluster was founded with"),
        }
        time::sleep(Duration::from_millis(200)).await;
    };
    if region != settings.region {
        tracing::error!(founded = region, configured = settings.region, "another region is configured than the cluster has, which stands");
        settings.region = region.clone();
    }
    let metadata = metadata::Client::new(groups, writer);
    let cluster = gateway::Cluster { placement, metadata, storage, writer, secret_keys };
    match gateway::Gateway::start(settings, cluster).await {
        Ok(gateway) => {
            ready.send_replace(Some(Ok(Served { address: gateway.address(), memory: gateway.memory().clone(), region })));
            // Held for as long as this task runs: until the node is dropped.
            std::future::pending::<()>().await;
            drop(gateway);
        }
        Err(error) => {
            ready.send_replace(Some(Err(error.to_string())));
        }
    }
}
