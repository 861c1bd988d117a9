//! Who belongs to a group, and where: exchanges of voters, and what must not be believed, over loopback and real folders.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
mod machine;

use cluster::{Cluster, GROUP, list, quick, session, within};
use consensus::client::Error;
use consensus::members::Change;
use consensus::{Bootstrap, GroupSpec, Host, HostDrive, Members, ReplicaPlace, Settings};
use machine::{Lists, append};
use protocol::{ClusterId, DriveId, GroupId, NodeId, ReplicaId};
use runtime::rpc::{Rpc, Secret};
use runtime::time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn place(number: u64) -> ReplicaPlace {
    ReplicaPlace { replica: ReplicaId(number), node: NodeId(number), drive: DriveId(number) }
}

/// Another node, with nothing on it.
async fn add_node(cluster: &mut Cluster) -> u64 {
    cluster.folders.push(tempfile::tempdir().unwrap());
    let node = cluster.folders.len() as u64;
    cluster.open(node, Bootstrap::First).await;
    node
}

/// Wait until nothing is left of the replicas of `node`.
async fn removed(cluster: &Cluster, node: u64) {
    let raft = cluster.folders[node as usize - 1].path().join("raft");
    let files = || {
        let names = std::fs::read_dir(&raft).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('g')).collect::<Vec<String>>()
    };
    let end = within(20);
    while !files().is_empty() {
        assert!(time::now() < end, "{:?} {:?}", files(), cluster.nodes[&node].host.status());
        time::sleep(Duration::from_millis(20)).await;
    }
    assert!(cluster.nodes[&node].host.status().is_empty(), "{:?}", cluster.nodes[&node].host.status());
}

#[test]
fn a_dead_voter_is_exchanged_and_the_one_that_left_never_votes_again() {
    runtime::process::block_on(async {
        let settings = Settings { checkpoint_bytes: 16 << 10, tail_bytes: 1 << 10, ..quick() };
        let mut cluster = Cluster::start(3, 1, settings).await;
        // A fourth node, with nothing on it.
        cluster.folders.push(tempfile::tempdir().unwrap());
        cluster.open(4, Bootstrap::First).await;
        let leader = cluster.leader().await;
        let client = cluster.client();
        for next in 1..=100 {
            client.propose(GROUP, session(next, next), append(1, next, 500), within(10)).await.unwrap();
        }
        let dead = (1..=3).find(|node| *node != leader).unwrap();
        cluster.kill(dead).await;
        let client = cluster.nodes[&leader].host.client();
        let enters = ReplicaPlace { replica: ReplicaId(4), node: NodeId(4), drive: DriveId(4) };
        let members = client.exchange(GROUP, enters, ReplicaId(dead), within(20)).await.unwrap();
        assert!(members.is_voter(ReplicaId(4)) && members.is_gone(ReplicaId(dead)) && !members.is_joint());
        // Once more: it is so already.
        assert_eq!(client.exchange(GROUP, enters, ReplicaId(dead), within(20)).await.unwrap(), members);
        let again = ReplicaPlace { replica: ReplicaId(dead), node: NodeId(dead), drive: DriveId(dead) };
        assert!(client.exchange(GROUP, again, ReplicaId(4), within(2)).await.is_err(), "an id is never used again");
        // It comes back, is told that it left, and goes.
        cluster.open(dead, Bootstrap::Again).await;
        removed(&cluster, dead).await;
        assert!(client.create_replica(GROUP, again, within(2)).await.is_err(), "its log knows that it left");
        cluster.kill(dead).await;
        // The others live on, and remember over a restart who they are.
        for node in (1..=4).filter(|node| *node != dead) {
            cluster.kill(node).await;
        }
        for node in 1..=4 {
            cluster.open(node, Bootstrap::Again).await;
        }
        // A client that knows nothing but the founding finds them.
        assert_eq!(list(&cluster.client()).await, (1..=100).collect::<Vec<_>>());
        cluster.agree().await;
        let running: Vec<u64> = cluster.nodes.values().flat_map(|node| node.host.status()).map(|one| one.replica.0).collect();
        assert_eq!(running, (1..=4).filter(|node| *node != dead).collect::<Vec<_>>());
    });
}

#[test]
fn what_does_not_prove_that_a_replica_left_does_not_remove_it() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(3, 2, quick()).await;
        add_node(&mut cluster).await;
        let client = cluster.client();
        client.propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
        // It left the other group, which has the same ids.
        let other = client.exchange(GroupId(2), place(4), ReplicaId(3), within(20)).await.unwrap();
        let refused = async |members: &Members| client.remove_replica(GROUP, place(3), members, within(2)).await;
        assert!(matches!(refused(&other).await, Err(Error::Unavailable { .. })));
        // A caller's invention of no newer version, and one that is no configuration at all.
        let mut invented = client.known(GROUP).unwrap();
        invented.voters.retain(|voter| voter.replica != ReplicaId(3));
        assert!(refused(&invented).await.is_err());
        invented.version += 1;
        invented.voters.clear();
        assert!(refused(&invented).await.is_err());
        cluster.agree().await;
        let running = cluster.nodes[&3].host.status().into_iter().filter(|one| one.group == GROUP).count();
        assert_eq!(running, 1, "it is there yet");
        client.remove_replica(GroupId(2), place(3), &other, within(10)).await.unwrap();
    });
}

#[test]
fn a_learner_that_never_answered_does_not_become_a_voter() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(3, 1, quick()).await;
        add_node(&mut cluster).await;
        let client = cluster.client();
        client.propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
        // Nobody creates it.
        client.change(GROUP, Change::AddLearner(place(4)), within(10)).await.unwrap().unwrap();
        let exchange = Change::Exchange { enters: ReplicaId(4), leaves: ReplicaId(3) };
        assert!(client.change(GROUP, exchange, within(1)).await.is_err());
        assert!(client.known(GROUP).unwrap().is_learner(ReplicaId(4)));
        // Now it is there, in an idle group.
        client.exchange(GROUP, place(4), ReplicaId(3), within(20)).await.unwrap();
    });
}

#[test]
fn a_learner_that_was_removed_while_it_was_down_goes_when_it_is_back() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(3, 1, quick()).await;
        let node = add_node(&mut cluster).await;
        let client = cluster.client();
        client.change(GROUP, Change::AddLearner(place(4)), within(10)).await.unwrap().unwrap();
        client.create_replica(GROUP, place(4), within(10)).await.unwrap();
        client.propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
        cluster.agree().await;
        cluster.kill(node).await;
        client.change(GROUP, Change::RemoveLearner(ReplicaId(4)), within(10)).await.unwrap().unwrap();
        cluster.open(node, Bootstrap::Again).await;
        removed(&cluster, node).await;
    });
}

#[test]
fn a_group_that_left_all_its_founders_is_found_by_every_node_after_all_were_restarted() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(3, 1, quick()).await;
        for _ in 0..4 {
            add_node(&mut cluster).await;
        }
        let client = cluster.nodes[&7].host.client();
        client.propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
        for leaves in 1..=3 {
            let members = client.exchange(GROUP, place(leaves + 3), ReplicaId(leaves), within(30)).await.unwrap();
            client.remove_replica(GROUP, place(leaves), &members, within(10)).await.unwrap();
        }
        drop(client);
        for node in 1..=7 {
            cluster.kill(node).await;
        }
        // One founder's node is gone for good.
        for node in 2..=7 {
            cluster.open(node, Bootstrap::Again).await;
        }
        // One that had a replica, one that has one, one that never had any.
        for node in [2, 5, 7] {
            let client = cluster.nodes[&node].host.client();
            assert_eq!(list(&client).await, [1]);
            assert!(client.members(GROUP, within(5)).await.unwrap().members.is_voter(ReplicaId(5)));
        }
        let fresh = cluster.nodes[&7].host.client();
        fresh.propose(GROUP, session(2, 2), append(1, 2, 0), within(10)).await.unwrap();
    });
}

/// One node with two drives, in folders that outlive it.
async fn two_drives(folders: &[tempfile::TempDir], voter: ReplicaPlace, bootstrap: Bootstrap) -> Host {
    let rpc = Rpc::new(runtime::rpc::Settings {
        node: NodeId(1),
        cluster: ClusterId(1),
        secret: Secret(b"secret".as_slice().into()),
        listen: "127.0.0.1:0".parse().unwrap(),
        peers: BTreeMap::new(),
    });
    let mut drives = Vec::new();
    for (nth, folder) in folders.iter().enumerate() {
        let mut disk = runtime::disk::open_folder(folder.path());
        while disk.is_err() {
            time::sleep(Duration::from_millis(5)).await;
            disk = runtime::disk::open_folder(folder.path());
        }
        drives.push(HostDrive { drive: DriveId(nth as u64 + 1), disk: disk.unwrap(), bootstrap });
    }
    let groups = vec![GroupSpec { group: GROUP, voters: vec![voter] }];
    let (host, failed) = Host::open_with(quick(), rpc, drives, groups, |_| Arc::new(Lists)).await;
    assert!(failed.is_empty(), "{failed:?}");
    host
}

#[test]
fn a_replica_is_never_made_on_a_second_drive() {
    runtime::process::block_on(async {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let on = |replica, drive| ReplicaPlace { replica: ReplicaId(replica), node: NodeId(1), drive: DriveId(drive) };
        let host = two_drives(&folders, on(1, 1), Bootstrap::First).await;
        let client = host.client();
        let refused = async |place| {
            let outcome = client.create_replica(GROUP, place, within(2)).await;
            assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{place:?}: {outcome:?}");
        };
        client.create_replica(GROUP, on(1, 1), within(5)).await.unwrap();
        refused(on(1, 2)).await;
        // One that its group has elsewhere, before it is there.
        client.change(GROUP, Change::AddLearner(on(2, 2)), within(10)).await.unwrap().unwrap();
        refused(on(2, 1)).await;
        client.create_replica(GROUP, on(2, 2), within(5)).await.unwrap();
        refused(on(2, 1)).await;
        // One that its group does not know yet, asked for on both drives at once.
        let (one, other) =
            futures::join!(client.create_replica(GROUP, on(3, 1), within(5)), client.create_replica(GROUP, on(3, 2), within(5)),);
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        // One that left.
        let members = client.change(GROUP, Change::RemoveLearner(ReplicaId(2)), within(10)).await.unwrap().unwrap();
        client.remove_replica(GROUP, on(2, 2), &members, within(5)).await.unwrap();
        refused(on(2, 1)).await;
        refused(on(2, 2)).await;
        drop((client, host));
        // The directory knows nothing any more, the drives do.
        let host = two_drives(&folders, on(1, 1), Bootstrap::Again).await;
        let client = host.client();
        assert!(matches!(client.create_replica(GROUP, on(2, 1), within(2)).await, Err(Error::Unavailable { .. })));
        assert_eq!(host.status().iter().map(|one| one.trouble.clone()).collect::<Vec<_>>(), [None, None]);
    });
}

#[test]
fn a_replica_that_is_found_on_two_drives_does_not_run_on_either() {
    runtime::process::block_on(async {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let on = |drive| ReplicaPlace { replica: ReplicaId(1), node: NodeId(1), drive: DriveId(drive) };
        let host = two_drives(&folders, on(1), Bootstrap::First).await;
        host.client().propose(GROUP, session(1, 1), append(1, 1, 0), within(10)).await.unwrap();
        drop(host);
        // Somebody has its group founded elsewhere.
        let host = two_drives(&folders, on(2), Bootstrap::First).await;
        time::sleep(Duration::from_millis(500)).await;
        let status = host.status();
        assert!(
            status.iter().all(|one| one.trouble.as_ref().is_some_and(|told| told.contains("two drives")) && one.to_be_replaced),
            "{status:?}"
        );
        assert!(host.leads(GROUP).is_none());
    });
}
