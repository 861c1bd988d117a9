//! Real hosts over loopback and real folders.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
mod machine;

use bytes::Bytes;
use cluster::{Cluster, GROUP, healed, list, quick, session, within};
use consensus::client::Error;
use consensus::{Bootstrap, GroupSpec, Host, HostDrive, ReplicaPlace, Rows, RowsMut, Settings, StateMachine};
use machine::{BROKEN_LIST, Lists, append};
use protocol::{ClusterId, DriveId, GroupId, NodeId, ReplicaId};
use runtime::rpc::{Rpc, Secret};
use runtime::time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn three_hosts_survive_the_loss_of_any_one_and_catch_up_by_snapshot() {
    runtime::process::block_on(async {
        // Small enough that the log is cut behind a host that is away.
        let settings = Settings {
            checkpoint_bytes: 64 << 10,
            tail_bytes: 8 << 10,
            segment_bytes: 64 << 10,
            segments_max: 2,
            snapshot_page_bytes: 4 << 10,
            ..quick()
        };
        let mut cluster = Cluster::start(3, 2, settings).await;
        let mut next = 0;
        for round in 0..4 {
            let victim = if round % 2 == 0 { cluster.leader().await } else { 1 + round % 3 };
            cluster.kill(victim).await;
            let client = cluster.client();
            for _ in 0..200 {
                next += 1;
                client.propose(GROUP, session(next, next), append(1, next, 1000), within(10)).await.unwrap();
            }
            assert_eq!(list(&client).await, (1..=next).collect::<Vec<_>>());
            cluster.open(victim, Bootstrap::Again).await;
            cluster.agree().await;
        }
        // All at once.
        for node in 1..=3 {
            cluster.kill(node).await;
        }
        for node in 1..=3 {
            cluster.open(node, Bootstrap::Again).await;
        }
        assert_eq!(list(&cluster.client()).await, (1..=next).collect::<Vec<_>>());
        cluster.agree().await;
        for node in 1..=3 {
            let raft = cluster.folders[node as usize - 1].path().join("raft");
            let files = || std::fs::read_dir(&raft).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
            // Checkpoints may be under way yet.
            let end = within(40);
            while files().len() > 14 {
                assert!(time::now() < end, "the log is cut and old states are removed: {:?}", files());
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
}

#[test]
fn a_retried_command_is_applied_once_and_an_old_one_never() {
    runtime::process::block_on(async {
        let cluster = Cluster::start(3, 1, quick()).await;
        let client = cluster.client();
        let first = client.propose(GROUP, session(1, 1), append(1, 5, 0), within(10)).await.unwrap();
        let again = client.propose(GROUP, session(1, 1), append(1, 5, 0), within(10)).await.unwrap();
        assert_eq!(first, again);
        assert_eq!(list(&client).await, [5]);
        client.propose(GROUP, session(2, 2), append(1, 6, 0), within(10)).await.unwrap();
        let late = client.propose(GROUP, session(1, 1), append(1, 5, 0), within(10)).await;
        assert!(matches!(late, Err(Error::TooOld { .. })));
        assert_eq!(list(&client).await, [5, 6]);
        let large = Bytes::from(vec![0; protocol::limits::COMMAND_BYTES_MAX + 1]);
        assert!(matches!(client.propose(GROUP, None, large, within(10)).await, Err(Error::Unavailable { .. })));
        let largest = append(2, 1, protocol::limits::COMMAND_BYTES_MAX - 9);
        client.propose(GROUP, session(3, 3), largest, within(10)).await.unwrap();
        assert!(matches!(client.read(GroupId(9), Bytes::new(), within(10)).await, Err(Error::Unavailable { .. })));
        cluster.agree().await;
    });
}

#[test]
fn a_group_without_quorum_does_not_answer_and_says_what_it_knows() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(3, 1, quick()).await;
        let leader = cluster.leader().await;
        for node in (1..=3).filter(|node| *node != leader) {
            cluster.kill(node).await;
        }
        let client = cluster.client();
        let soon = time::now() + Duration::from_millis(1500);
        let outcome = client.propose(GROUP, session(1, 1), append(1, 5, 0), soon).await;
        assert!(matches!(outcome, Err(Error::Unknown { .. } | Error::Unavailable { .. })), "{outcome:?}");
        let soon = time::now() + Duration::from_millis(500);
        assert!(client.read(GROUP, Bytes::from_static(&[1]), soon).await.is_err(), "no stale read from a lonely leader");
    });
}

#[test]
fn one_commit_of_a_lone_replica_is_one_sync_and_many_share_one() {
    runtime::process::block_on(async {
        let cluster = Cluster::start(1, 1, quick()).await;
        let client = cluster.client();
        client.propose(GROUP, None, append(1, 0, 0), within(10)).await.unwrap();
        let before = runtime::disk::syncs();
        for number in 0..50 {
            client.propose(GROUP, None, append(1, number, 100), within(10)).await.unwrap();
        }
        // Other tests of this process sync as well, so these are only upper bounds when it runs alone.
        let serial = runtime::disk::syncs() - before;
        let before = runtime::disk::syncs();
        let at_once = (0..500).map(|number| client.propose(GROUP, None, append(2, number, 100), within(10)));
        for outcome in futures::future::join_all(at_once).await {
            outcome.unwrap();
        }
        let shared = runtime::disk::syncs() - before;
        println!("50 commits one by one: {serial} syncs; 500 at once: {shared} syncs");
    });
}

#[test]
fn leadership_is_handed_over_at_a_shutdown() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(3, 1, quick()).await;
        let client = cluster.client();
        client.propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
        let leader = cluster.leader().await;
        let node = cluster.nodes.remove(&leader).unwrap();
        node.host.shut_down().await;
        let new = cluster.nodes.iter().filter(|(_, node)| node.host.leads(GROUP).is_some()).count();
        assert_eq!(new, 1, "somebody leads already when the shutdown returns");
    });
}

#[test]
fn a_replica_that_is_missing_does_not_come_back_as_if_it_had_never_voted() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(3, 1, quick()).await;
        let client = cluster.client();
        client.propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
        drop(client);
        cluster.kill(3).await;
        {
            let disk = runtime::disk::open_folder(cluster.folders[2].path()).unwrap();
            disk.remove("raft/g1-r3.manifest").unwrap();
        }
        cluster.open(3, Bootstrap::Again).await;
        let status = cluster.nodes[&3].host.status();
        assert!(status[0].trouble.as_ref().unwrap().contains("missing"), "{status:?}");
        // The others go on.
        let client = cluster.client();
        client.propose(GROUP, session(2, 2), append(1, 2, 0), within(10)).await.unwrap();
        assert_eq!(list(&client).await, [1, 2]);
    });
}

#[test]
fn a_replica_that_could_not_be_made_at_the_first_start_is_made_by_the_next() {
    runtime::process::block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let obstacle = folder.path().join("raft/g1-r1-1.redb");
        std::fs::create_dir_all(&obstacle).unwrap();
        let place = ReplicaPlace { replica: ReplicaId(1), node: NodeId(1), drive: DriveId(1) };
        let groups = vec![GroupSpec { group: GROUP, voters: vec![place] }];
        for obstructed in [true, false] {
            let rpc = Rpc::new(runtime::rpc::Settings {
                node: NodeId(1),
                cluster: ClusterId(1),
                secret: Secret(b"secret".as_slice().into()),
                listen: "127.0.0.1:0".parse().unwrap(),
                peers: BTreeMap::new(),
            });
            let mut disk = runtime::disk::open_folder(folder.path());
            while disk.is_err() {
                time::sleep(Duration::from_millis(5)).await;
                disk = runtime::disk::open_folder(folder.path());
            }
            let drives = vec![HostDrive { drive: DriveId(1), disk: disk.unwrap(), bootstrap: Bootstrap::First }];
            let (host, failed) = Host::open_with(quick(), rpc, drives, groups.clone(), |_| Arc::new(Lists)).await;
            // Left out as a whole, so that the drive does not count as one that had its replicas.
            assert_eq!(failed.len(), usize::from(obstructed), "{failed:?}");
            if obstructed {
                std::fs::remove_dir(&obstacle).unwrap();
            } else {
                host.client().propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
            }
        }
    });
}

#[test]
fn a_state_machine_that_panics_stops_its_own_group_and_no_other_on_the_same_drives() {
    runtime::process::block_on(async {
        let cluster = Cluster::start(3, 2, quick()).await;
        let client = cluster.client();
        client.propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
        let soon = time::now() + Duration::from_millis(1000);
        let outcome = client.propose(GroupId(2), session(1, 1), append(BROKEN_LIST, 1, 0), soon).await;
        assert!(matches!(outcome, Err(Error::Unknown { .. })), "{outcome:?}");
        client.propose(GROUP, session(2, 2), append(1, 2, 0), within(10)).await.unwrap();
        assert_eq!(list(&client).await, [1, 2]);
        cluster.agree().await;
        for node in cluster.nodes.values() {
            let broken = node.host.status().into_iter().find(|one| one.group == GroupId(2)).unwrap();
            assert!(broken.trouble.as_ref().unwrap().contains("a bug of the state machine"), "{broken:?}");
        }
    });
}

#[test]
fn entries_that_rot_at_different_places_in_two_of_three_logs_are_there_again() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(3, 1, quick()).await;
        let client = cluster.client();
        for number in 1..=12 {
            client.propose(GROUP, session(number, number), append(1, number, 900), within(10)).await.unwrap();
        }
        cluster.agree().await;
        for node in 1..=3 {
            cluster.kill(node).await;
        }
        for node in 1..=2u64 {
            let disk = runtime::disk::open_folder(cluster.folders[node as usize - 1].path()).unwrap();
            // Entries of the first and of the last third.
            let wanted = if node == 1 { 3..6 } else { 9..12 };
            let sectors = consensus::inspect::entry_sectors(disk.as_ref()).unwrap();
            let sector = sectors.iter().find(|sector| sector.entries.iter().all(|(_, _, index)| wanted.contains(index))).unwrap();
            let file = disk.open(&sector.file, runtime::disk::Open::Existing).unwrap();
            let mut byte = [0];
            file.read_at(sector.offset + 100, &mut byte).unwrap();
            file.write_at(sector.offset + 100, &[!byte[0]]).unwrap();
        }
        // The third has only the two, so nobody leads before they are whole.
        for node in 1..=2 {
            cluster.open(node, Bootstrap::Again).await;
        }
        for node in 1..=2 {
            // What its state has applied already, a replica does not even fetch.
            assert!(healed(&cluster, node).await.iter().all(|reason| reason.contains("lost entries")));
        }
        assert_eq!(list(&cluster.client()).await, (1..=12).collect::<Vec<u64>>());
        cluster.open(3, Bootstrap::Again).await;
        assert!(healed(&cluster, 3).await.is_empty());
    });
}

#[test]
fn a_replica_whose_state_is_damaged_fetches_another_under_its_own_id() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(3, 1, quick()).await;
        for number in 1..=5 {
            cluster.client().propose(GROUP, session(number, number), append(1, number, 100), within(10)).await.unwrap();
        }
        cluster.agree().await;
        let victim = cluster.leader().await;
        cluster.kill(victim).await;
        {
            let disk = runtime::disk::open_folder(cluster.folders[victim as usize - 1].path()).unwrap();
            let state = disk.list("raft").unwrap().into_iter().find(|entry| entry.name.ends_with(".redb")).unwrap();
            let file = disk.open(&format!("raft/{}", state.name), runtime::disk::Open::Existing).unwrap();
            file.write_at(0, &vec![0xee; state.bytes as usize]).unwrap();
        }
        cluster.open(victim, Bootstrap::Again).await;
        assert_eq!(healed(&cluster, victim).await.len(), 1);
        assert_eq!(list(&cluster.client()).await, [1, 2, 3, 4, 5]);
        // It is as good as new, also for the next start.
        cluster.kill(victim).await;
        cluster.open(victim, Bootstrap::Again).await;
        assert!(healed(&cluster, victim).await.is_empty());
    });
}

/// A machine that does something else on one node than on the others.
struct Odd(u64);

impl StateMachine for Odd {
    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
        if self.0 == 2 {
            rows.put(b"\xffodd", command);
        }
        Lists.apply(rows, command)
    }

    fn refounded(&self, _: &mut RowsMut<'_>) {}

    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8> {
        Lists.query(rows, query)
    }
}

#[test]
fn a_replica_with_another_state_is_found_in_a_group_that_rests() {
    runtime::process::block_on(async {
        // No mark is ever reached.
        let settings = Settings { mark_interval: 1 << 40, ..quick() };
        let cluster = Cluster::start_with(3, 1, settings, |node| Arc::new(Odd(node))).await;
        cluster.client().propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
        let end = within(20);
        let troubles = || cluster.nodes.iter().map(|(node, it)| (*node, it.host.status()[0].trouble.clone())).collect::<Vec<_>>();
        while !troubles().iter().any(|(_, trouble)| trouble.as_ref().is_some_and(|text| text.contains("of a majority"))) {
            assert!(time::now() < end, "{:?}", troubles());
            time::sleep(Duration::from_millis(20)).await;
        }
        let stopped: Vec<_> =
            troubles().into_iter().filter(|(_, trouble)| trouble.as_ref().is_some_and(|text| text.contains("majority"))).collect();
        assert!(stopped.len() == 1 && stopped[0].0 == 2, "{:?}", troubles());
        cluster.client().propose(GROUP, session(2, 2), append(1, 2, 0), within(10)).await.unwrap();
    });
}

/// A machine with a bug that shows outside of its work on the state, once it is to.
struct Brittle(Arc<AtomicBool>);

impl StateMachine for Brittle {
    fn version(&self) -> u32 {
        assert!(!self.0.load(Ordering::Relaxed), "a bug in what drives a replica");
        1
    }

    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
        Lists.apply(rows, command)
    }

    fn refounded(&self, _: &mut RowsMut<'_>) {}

    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8> {
        Lists.query(rows, query)
    }
}

#[test]
fn replicas_whose_driver_panicked_lead_nothing_and_say_so() {
    runtime::process::block_on(async {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let rpc = Rpc::new(runtime::rpc::Settings {
            node: NodeId(1),
            cluster: ClusterId(1),
            secret: Secret(b"secret".as_slice().into()),
            listen: "127.0.0.1:0".parse().unwrap(),
            peers: BTreeMap::new(),
        });
        let _listening = rpc.listen().await.unwrap();
        // A group on each drive; the bug is in one group's machine.
        let spec = |number| {
            let voter = ReplicaPlace { replica: ReplicaId(1), node: NodeId(1), drive: DriveId(number) };
            GroupSpec { group: GroupId(number), voters: vec![voter] }
        };
        let drive = |number: u64| {
            let disk = runtime::disk::open_folder(folders[number as usize - 1].path()).unwrap();
            HostDrive { drive: DriveId(number), disk, bootstrap: Bootstrap::First }
        };
        let shown = Arc::new(AtomicBool::new(false));
        let bug = shown.clone();
        let machine =
            move |group| -> Arc<dyn StateMachine> { if group == GROUP { Arc::new(Brittle(bug.clone())) } else { Arc::new(Lists) } };
        let (host, _) = Host::open_with(quick(), rpc, vec![drive(1), drive(2)], vec![spec(1), spec(2)], machine).await;
        for group in [GROUP, GroupId(2)] {
            host.client().propose(group, None, append(1, 5, 0), within(10)).await.unwrap();
            assert!(host.leads(group).is_some());
        }
        assert!(host.failed_drives().is_empty());
        shown.store(true, Ordering::Relaxed);
        let end = within(10);
        while host.leads(GROUP).is_some() {
            assert!(time::now() < end, "{:?}", host.status());
            time::sleep(Duration::from_millis(5)).await;
        }
        let troubled: Vec<_> = host.status().into_iter().filter(|one| one.trouble.is_some()).collect();
        assert!(troubled.len() == 1 && troubled[0].group == GROUP && troubled[0].leader.is_none(), "{troubled:?}");
        assert_eq!(host.failed_drives().into_iter().collect::<Vec<_>>(), [DriveId(1)]);
        assert!(!host.transfer_leadership(GROUP));
        host.client().propose(GroupId(2), None, append(1, 6, 0), within(10)).await.unwrap();
        assert!(host.leads(GroupId(2)).is_some());
        // One that was asked to end has not failed.
        host.shut_down().await;
        assert_eq!(host.failed_drives().len(), 1);
    });
}

#[test]
fn one_host_with_five_drives_goes_on_without_any_two_of_them() {
    runtime::process::block_on(async {
        let folders: Vec<tempfile::TempDir> = (0..5).map(|_| tempfile::tempdir().unwrap()).collect();
        let place = |drive: u64| ReplicaPlace { replica: ReplicaId(drive), node: NodeId(1), drive: DriveId(drive) };
        let spec = |group| GroupSpec { group: GroupId(group), voters: (1..=5).map(place).collect() };
        let mut next = 0;
        for (round, missing) in [vec![], vec![1, 2], vec![4, 5], vec![]].into_iter().enumerate() {
            let rpc = Rpc::new(runtime::rpc::Settings {
                node: NodeId(1),
                cluster: ClusterId(1),
                secret: Secret(b"secret".as_slice().into()),
                listen: "127.0.0.1:0".parse().unwrap(),
                peers: BTreeMap::new(),
            });
            let _listening = rpc.listen().await.unwrap();
            let bootstrap = if round == 0 { Bootstrap::First } else { Bootstrap::Again };
            let mut drives = Vec::new();
            for drive in (1..=5).filter(|drive| !missing.contains(drive)) {
                let path = folders[drive as usize - 1].path();
                let mut disk = runtime::disk::open_folder(path);
                while disk.is_err() {
                    time::sleep(Duration::from_millis(5)).await;
                    disk = runtime::disk::open_folder(path);
                }
                drives.push(HostDrive { drive: DriveId(drive), disk: disk.unwrap(), bootstrap });
            }
            let lost = drives[0].disk.clone();
            let (host, failed) = Host::open_with(quick(), rpc, drives, (1..=3).map(spec).collect(), |_| Arc::new(Lists)).await;
            assert!(failed.is_empty(), "{failed:?}");
            let client = host.client();
            for _ in 0..30 {
                next += 1;
                client.propose(GROUP, session(next, next), append(1, next, 100), within(20)).await.unwrap();
            }
            if missing.is_empty() {
                // A drive goes while all run.
                lost.close("the test took it");
                next += 1;
                client.propose(GROUP, session(next, next), append(1, next, 100), within(20)).await.unwrap();
            }
            assert_eq!(list(&client).await, (1..=next).collect::<Vec<_>>());
            if round % 2 == 0 {
                host.shut_down().await;
            }
        }
    });
}
