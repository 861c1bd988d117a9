//! The root group for real: hosts over folders, sockets on loopback, service and client together.
#![cfg(not(madsim))]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of real files and sockets")]

use consensus::{Host, HostDrive};
use placement::{
    Bootstrap, BucketState, Changes, Client, DriveHealth, Error, Heartbeat, REFOUNDED_MAX, Root, Service, TO_BE_REPLACED_MAX,
    place_replicas,
};
use protocol::{
    ClusterId, ClusterMap, Drive, DriveId, DriveState, GroupId, Node, NodeId, ROOT, SlotIndex, Versioning, VolumeState, WriterId,
};
use runtime::rpc::{Rpc, Secret, Settings};
use runtime::task::Task;
use runtime::time::{Instant, now, sleep};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn soon() -> Instant {
    now() + Duration::from_secs(20)
}

/// `zones` zones of one node each with `drives` drives, on these ports.
fn bootstrap(addresses: &[SocketAddr], drives: u16) -> Bootstrap {
    let node = |index: usize| {
        let id = NodeId(index as u64 + 1);
        let drive = |ordinal| Drive {
            id: DriveId::at_bootstrap(id, ordinal),
            state: DriveState::In,
            weight: 100,
            label: format!("n{}/d{ordinal}", id.0),
        };
        let (zone, rack) = (format!("z{index}"), "r".to_string());
        Node { id, zone, rack, address: addresses[index], drives: (0..drives).map(drive).collect() }
    };
    let nodes = (0..addresses.len()).map(node).collect();
    let map = ClusterMap { cluster: ClusterId(5), version: 1, nodes };
    let partitions = vec![GroupId(1), GroupId(2)];
    Bootstrap { map, partitions, scheme: "rs(4,2)".parse().unwrap(), best_effort: true, region: "us-east-1".into() }
}

struct Process {
    client: Client,
    host: Arc<Host>,
    service: Service,
    heartbeats: Task<()>,
    watching: Task<()>,
    listening: Task<()>,
    /// Said of the node's first drive.
    closed: Arc<Mutex<Option<String>>>,
}

async fn start(node: NodeId, bootstrap: &Bootstrap, folder: &Path) -> Process {
    let map = bootstrap.map.clone();
    let peers: BTreeMap<_, _> = map.nodes.iter().map(|node| (node.id, node.address)).collect();
    let listen = peers[&node];
    let rpc = Rpc::new(Settings { node, cluster: map.cluster, secret: Secret(Arc::from(&b"secret"[..])), listen, peers });
    let drives: Vec<_> = map.node(node).unwrap().drives.iter().map(|drive| drive.id).collect();
    let disks = drives
        .iter()
        .map(|drive| {
            let path = folder.join(drive.0.to_string());
            let first = !path.exists();
            std::fs::create_dir_all(&path).unwrap();
            let bootstrap = if first { consensus::Bootstrap::First } else { consensus::Bootstrap::Again };
            HostDrive { drive: *drive, disk: runtime::disk::open_folder(&path).unwrap(), bootstrap }
        })
        .collect();
    let groups = place_replicas(&map, &[ROOT]);
    let listening = rpc.listen().await.unwrap();
    let changes = Changes::default();
    let fed = changes.clone();
    let (host, failed) = Host::open(rpc.clone(), disks, groups, move |_| fed.fed_by(Arc::new(Root))).await;
    assert!(failed.is_empty(), "{failed:?}");
    let host = Arc::new(host);
    let service = Service::start(rpc.clone(), host.clone(), bootstrap.clone(), changes);
    let client = Client::new(rpc, host.client());
    let closed = Arc::new(Mutex::new(None::<String>));
    let (said, speaking) = (closed.clone(), host.clone());
    let heartbeats = client.heartbeat(move || {
        let health = |drive: &DriveId| DriveHealth {
            drive: *drive,
            closed: None,
            without_replicas: false,
            free_bytes: 1 << 40,
            total_bytes: 1 << 41,
        };
        let mut health: Vec<_> = drives.iter().map(health).collect();
        health[0].closed = said.lock().unwrap().clone();
        let to_be_replaced = speaking.to_be_replaced(TO_BE_REPLACED_MAX);
        let refounded = speaking.refounded(REFOUNDED_MAX);
        Heartbeat { node, incarnation: 1, drives: health, clock_ms: runtime::time::wall_ms(), to_be_replaced, refounded }
    });
    let watching = client.watch();
    Process { client, host, service, heartbeats, watching, listening, closed }
}

impl Process {
    async fn stop(self) {
        let Process { client, host, service, heartbeats, watching, listening, .. } = self;
        drop((service, client, heartbeats, watching));
        // The tasks that were dropped let go of the host when they are next polled.
        for _ in 0..100 {
            if Arc::strong_count(&host) == 1 {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        Arc::try_unwrap(host).ok().expect("nobody else holds the host").shut_down().await;
        drop(listening);
        // Connections and drives are let go of when their tasks are next polled.
        sleep(Duration::from_millis(100)).await;
    }
}

fn ports(count: usize) -> Vec<SocketAddr> {
    // Bound all at once, so that they differ; free again for the nodes.
    let held: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

async fn create(client: &Client, name: &str) {
    let begun = client.begin_create_bucket(name, "ann", 7, soon()).await.unwrap();
    assert_eq!(begun.state, BucketState::Creating);
    assert_eq!(client.bucket(name, soon()).await.unwrap_err(), Error::NoSuchBucket);
    client.finish_create_bucket(name, begun.attempt, soon()).await.unwrap();
}

#[test]
fn one_machine_end_to_end_and_after_a_restart() {
    runtime::process::block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = bootstrap(&ports(1), 6);
        let node = NodeId(1);
        let process = start(node, &bootstrap, folder.path()).await;
        let client = &process.client;

        let first = client.open_writer(soon()).await.unwrap();
        assert!(client.open_writer(soon()).await.unwrap() > first);
        assert_eq!(*client.map(soon()).await.unwrap(), bootstrap.map);

        create(client, "photos").await;
        let live = client.bucket("photos", soon()).await.unwrap();
        assert_eq!((live.state, live.partitions.as_slice()), (BucketState::Live, &bootstrap.partitions[..]));
        let again = client.begin_create_bucket("photos", "bob", 8, soon()).await;
        assert_eq!(again, Err(Error::BucketExists { owner: "ann".into() }));
        create(client, "old").await;
        let deleting = client.begin_delete_bucket("old", soon()).await.unwrap();
        assert_eq!(client.bucket("old", soon()).await.unwrap().state, BucketState::Deleting);
        let stale = client.finish_delete_bucket("old", deleting.attempt - 1, true, soon()).await;
        assert_eq!(stale, Err(Error::StaleAttempt));
        client.finish_delete_bucket("old", deleting.attempt, true, soon()).await.unwrap();
        let names: Vec<_> = client.list_buckets("", 10, soon()).await.unwrap().into_iter().map(|b| b.name).collect();
        assert_eq!(names, ["photos"]);

        // Volumes: entered, built, handed out in turns, sealed for a failed slot.
        let building = client.volume_for_writing(&[], soon()).await.unwrap();
        assert_eq!((building.state, building.slots.len()), (VolumeState::Building, 6));
        let open = client.volume_built(building.id, soon()).await.unwrap();
        assert_eq!((open.state, open.epoch), (VolumeState::Open, building.epoch));
        let mut used = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let volume = client.volume_for_writing(&[], soon()).await.unwrap();
            if volume.state == VolumeState::Building {
                client.volume_built(volume.id, soon()).await.unwrap();
            }
            used.insert(volume.id);
        }
        assert_eq!(used.len(), 4);
        client.report_slot(open.id, SlotIndex(3), "no space left");
        let sealed = loop {
            let volume = client.refresh_volume(open.id, soon()).await.unwrap();
            if volume.state == VolumeState::Sealed {
                break volume;
            }
            sleep(Duration::from_millis(20)).await;
        };
        assert!(sealed.epoch > open.epoch);

        // A drive closes: its volumes are sealed, and nothing can be placed until it is back.
        *process.closed.lock().unwrap() = Some("path shows another drive".into());
        let missing = loop {
            match client.volume_for_writing(&[], soon()).await {
                Err(Error::CannotPlace { missing, .. }) => break missing,
                other => drop(other.unwrap()),
            }
            sleep(Duration::from_millis(50)).await;
        };
        assert!(missing.contains("n1/d0 (closed: path shows another drive)"), "{missing}");
        loop {
            let health = client.health(soon()).await.unwrap();
            if health.volumes_open == 0 {
                assert_eq!(health.closed_drives.len(), 1);
                assert!(health.suspected_nodes.is_empty() && health.volumes_sealed >= 4);
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        *process.closed.lock().unwrap() = None;
        process.stop().await;

        let process = start(node, &bootstrap, folder.path()).await;
        let client = &process.client;
        assert!(client.open_writer(soon()).await.unwrap() > WriterId(first.0 + 1));
        assert_eq!(*client.bucket("photos", soon()).await.unwrap(), *live);
        assert_eq!(*client.volume(sealed.id, soon()).await.unwrap(), *sealed);
        let fresh = client.volume_for_writing(&[], soon()).await.unwrap();
        assert!(fresh.id > *used.last().unwrap(), "volume ids are not reused");
        process.stop().await;
    });
}

#[test]
fn three_zones_find_the_leader_and_new_volumes_avoid_a_zone_that_is_gone() {
    runtime::process::block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = bootstrap(&ports(3), 4);
        let mut processes = Vec::new();
        for node in 1..=3 {
            processes.push(start(NodeId(node), &bootstrap, folder.path()).await);
        }
        // Every node finds the leader, wherever it is.
        let mut writers = Vec::new();
        for process in &processes {
            writers.push(process.client.open_writer(soon()).await.unwrap());
            let volume = process.client.volume_for_writing(&[], soon()).await.unwrap();
            assert_eq!(volume.scheme, bootstrap.scheme);
            process.client.volume_built(volume.id, soon()).await.unwrap();
            process.client.health(soon()).await.unwrap();
        }
        writers.dedup();
        assert_eq!(writers.len(), 3);

        // The node that leads stops; a gateway says that it cannot reach it, long before its heartbeat is missed.
        let leader = (0..3).find(|&index| processes[index].host.leads(ROOT).is_some()).expect("somebody led just now");
        let gone = NodeId(leader as u64 + 1);
        processes.remove(leader).stop().await;
        let client = &processes[0].client;
        let from = now();
        loop {
            client.report_unreachable(gone);
            let volume = client.volume_for_writing(&[], soon()).await.unwrap();
            if volume.slots.iter().all(|slot| slot.node != gone) {
                // Survives the loss of either living zone.
                assert_eq!((volume.scheme, volume.at_risk), ("rs(4,4)".parse().unwrap(), false));
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let waited = now().saturating_duration_since(from);
        assert!(waited < Duration::from_secs(10), "{waited:?}");
        for process in processes {
            process.stop().await;
        }
    });
}

/// Wait until `what` holds, and say how long that took.
async fn until(what: impl Fn() -> bool) -> Duration {
    let from = now();
    while !what() {
        assert!(now() < from + Duration::from_secs(20), "it never came to be");
        sleep(Duration::from_millis(5)).await;
    }
    now().saturating_duration_since(from)
}

#[test]
fn what_one_node_changes_the_others_know_at_once_and_without_a_watch_after_a_while() {
    // Shorter than the age at which caches ask again, and longer than a busy machine may take.
    const AT_ONCE: Duration = Duration::from_secs(3);
    runtime::process::block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = bootstrap(&ports(3), 4);
        let mut processes = Vec::new();
        for node in 1..=3 {
            processes.push(start(NodeId(node), &bootstrap, folder.path()).await);
        }
        processes[0].client.open_writer(soon()).await.unwrap();
        let leader = (0..3).find(|&index| processes[index].host.leads(ROOT).is_some()).expect("somebody led just now");
        // Neither of them leads: what they hear comes over sockets.
        let [changes, hears] = [0, 1, 2].into_iter().filter(|index| *index != leader).collect::<Vec<_>>()[..] else {
            panic!("three nodes")
        };
        let (here, there) = (&processes[changes].client, &processes[hears].client);
        create(here, "photos").await;
        let volume = here.volume_for_writing(&[], soon()).await.unwrap();
        let volume = here.volume_built(volume.id, soon()).await.unwrap();
        let kept = |name: &str| there.covered().0.into_iter().find(|bucket| bucket.name == name);

        // Asked for once, it is covered, and all that becomes of it is known without asking again.
        loop {
            there.bucket("photos", soon()).await.unwrap();
            if kept("photos").is_some() {
                break;
            }
            there.forget_bucket("photos");
            sleep(Duration::from_millis(20)).await;
        }
        there.volume(volume.id, soon()).await.unwrap();
        let begun = here.begin_set_versioning("photos", Some(Versioning::Enabled), soon()).await.unwrap();
        here.finish_set_versioning("photos", begun.attempt, soon()).await.unwrap();
        let took = until(|| kept("photos").is_some_and(|bucket| bucket.versioning == Versioning::Enabled)).await;
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(there.bucket("photos", soon()).await.unwrap().versioning, Versioning::Enabled);
        assert!(!there.is_outdated(&volume));
        here.seal_volume(volume.id, volume.epoch, soon()).await.unwrap();
        let took = until(|| there.is_outdated(&volume)).await;
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(there.volume(volume.id, soon()).await.unwrap().state, VolumeState::Sealed);
        let deleting = here.begin_delete_bucket("photos", soon()).await.unwrap();
        let took = until(|| kept("photos").is_none()).await;
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(there.bucket("photos", soon()).await.unwrap().state, BucketState::Deleting);
        here.finish_delete_bucket("photos", deleting.attempt, true, soon()).await.unwrap();
        assert_eq!(there.bucket("photos", soon()).await.unwrap_err(), Error::NoSuchBucket);

        // The leader goes, and the next one tells.
        create(here, "music").await;
        there.bucket("music", soon()).await.unwrap();
        let gone = processes.remove(leader);
        gone.stop().await;
        let [here, there] = [&processes[0].client, &processes[1].client];
        let begun = here.begin_set_versioning("music", Some(Versioning::Enabled), soon()).await.unwrap();
        here.finish_set_versioning("music", begun.attempt, soon()).await.unwrap();
        for client in [here, there] {
            loop {
                let covered = client.covered().0.into_iter().find(|bucket| bucket.name == "music");
                if covered.is_some_and(|bucket| bucket.versioning == Versioning::Enabled) {
                    break;
                }
                client.bucket("music", soon()).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
        }

        // Without a watch nothing is taken for granted, and age is what it was.
        drop(std::mem::replace(&mut processes[1].watching, runtime::task::spawn(async {})));
        let [here, there] = [&processes[0].client, &processes[1].client];
        until(|| there.covered().0.is_empty()).await;
        there.forget_bucket("music");
        there.bucket("music", soon()).await.unwrap();
        let from = now();
        let begun = here.begin_set_versioning("music", Some(Versioning::Suspended), soon()).await.unwrap();
        here.finish_set_versioning("music", begun.attempt, soon()).await.unwrap();
        while there.bucket("music", soon()).await.unwrap().versioning != Versioning::Suspended {
            sleep(Duration::from_millis(50)).await;
        }
        let took = now().saturating_duration_since(from);
        assert!(took > Duration::from_secs(3) && took < Duration::from_secs(10), "{took:?}");
        for process in processes {
            process.stop().await;
        }
    });
}

#[test]
fn a_replica_that_nothing_heals_is_replaced_although_its_drive_is_good() {
    runtime::process::block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = bootstrap(&ports(3), 4);
        let mut processes = Vec::new();
        for node in 1..=3 {
            processes.push(start(NodeId(node), &bootstrap, folder.path()).await);
        }
        create(&processes[0].client, "photos").await;
        let root = async |client: &Client| client.groups(soon()).await.unwrap().into_iter().find(|row| row.group == ROOT).unwrap();
        let before = root(&processes[0].client).await;
        // One that does not lead loses its state and the record of it, and so its standing: it might vote a second time.
        let index = (0..3).find(|&index| processes[index].host.leads(ROOT).is_none()).unwrap();
        let lost = processes[index].host.status().into_iter().find(|replica| replica.group == ROOT).unwrap();
        let node = NodeId(index as u64 + 1);
        processes.remove(index).stop().await;
        let raft = folder.path().join(lost.drive.0.to_string()).join("raft");
        let mut removed = 0;
        for file in std::fs::read_dir(&raft).unwrap().map(|file| file.unwrap()) {
            if file.file_name().to_str().unwrap().starts_with(&format!("g{}-r{}", ROOT, lost.replica)) {
                std::fs::remove_file(file.path()).unwrap();
                removed += 1;
            }
        }
        assert_eq!(removed, 2, "its state and its manifest");
        processes.insert(index, start(node, &bootstrap, folder.path()).await);
        assert_eq!(processes[index].host.to_be_replaced(9), [(ROOT, lost.replica)]);
        let client = &processes[index].client;
        let from = now();
        let after = loop {
            let row = root(client).await;
            if row.replacing.is_none() && row.voters != before.voters {
                break row;
            }
            assert!(now() < from + Duration::from_secs(30), "{row:?}");
            sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(after.voters.len(), before.voters.len());
        assert!(after.voters.iter().all(|voter| voter.replica != lost.replica && voter.drive != lost.drive), "{after:?}");
        // All its voters run, and the one that left is gone.
        until(|| {
            let running = processes.iter().flat_map(|process| process.host.status()).filter(|replica| replica.trouble.is_none());
            let running: std::collections::BTreeSet<_> = running.map(|replica| replica.replica).collect();
            after.voters.iter().all(|voter| running.contains(&voter.replica))
        })
        .await;
        until(|| processes[index].host.to_be_replaced(9).is_empty()).await;
        assert_eq!(client.bucket("photos", soon()).await.unwrap().state, BucketState::Live);
        let settled = root(client).await;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(root(client).await, settled, "nothing more is replaced");
        for process in processes {
            process.stop().await;
        }
    });
}
