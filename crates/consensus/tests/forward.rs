//! A drive whose log is pinned: by groups that cannot commit, with more entries than one batch of it could once hold; by a replica that
//! does not run.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
mod machine;

use bytes::Bytes;
use cluster::{Cluster, GROUP, list, quick, session, within};
use consensus::client::Error;
use consensus::{Bootstrap, GroupSpec, ReplicaPlace, Settings};
use machine::{append, numbers};
use protocol::limits::COMMAND_BYTES_MAX;
use protocol::{DriveId, GroupId, NodeId, ReplicaId};
use runtime::time;
use std::time::Duration;

/// The one with all its voters on the node that stays.
const LIVING: GroupId = GroupId(1);
const STUCK: [GroupId; 3] = [GroupId(2), GroupId(3), GroupId(4)];
/// Largest commands that each of the others holds uncommitted: 14 MiB.
const COMMANDS: u64 = 7;

fn groups() -> Vec<GroupSpec> {
    let place = |node| ReplicaPlace { replica: ReplicaId(node), node: NodeId(node), drive: DriveId(node) };
    let spec = |group, nodes: &[u64]| GroupSpec { group, voters: nodes.iter().map(|node| place(*node)).collect() };
    std::iter::once(spec(LIVING, &[1])).chain(STUCK.map(|group| spec(group, &[1, 2]))).collect()
}

#[test]
fn what_many_groups_cannot_commit_is_written_forward_piece_by_piece() {
    runtime::process::block_on(async {
        // All of it lies in the first segment, and the leader of a group takes 3 s to find that it is alone.
        let settings = Settings { segment_bytes: 64 << 20, segments_max: 1, election_ticks: 150, ..quick() };
        let mut cluster = Cluster::closed(2, groups(), settings);
        cluster.open(1, Bootstrap::First).await;
        cluster.open(2, Bootstrap::First).await;
        let end = within(60);
        while !STUCK.iter().all(|group| cluster.nodes[&1].host.leads(*group).is_some()) {
            assert!(time::now() < end, "{:?}", cluster.nodes[&1].host.status());
            for group in STUCK {
                cluster.nodes[&2].host.transfer_leadership(group);
            }
            time::sleep(Duration::from_millis(50)).await;
        }
        cluster.kill(2).await;
        let client = cluster.client();
        let largest = |number| append(1, number, COMMAND_BYTES_MAX - 9);
        for group in STUCK {
            let soon = time::now() + Duration::from_millis(600);
            let outcomes = (0..COMMANDS).map(|number| client.propose(group, None, largest(number), soon));
            for outcome in futures::future::join_all(outcomes).await {
                assert!(matches!(outcome, Err(Error::Unknown { .. })), "{outcome:?}");
            }
        }
        let raft = cluster.folders[0].path().join("raft");
        let first = raft.join("log-0000000000000001.seg");
        let mut proposed = 0;
        while first.exists() {
            proposed += 1;
            assert!(proposed <= 100, "the first segment stays");
            client.propose(LIVING, None, largest(proposed), within(20)).await.unwrap();
        }
        assert!(cluster.nodes[&1].host.status().iter().all(|one| one.trouble.is_none()));
        // All is there that was, after a start as well, and is committed as soon as it can be.
        cluster.kill(1).await;
        cluster.open(1, Bootstrap::Again).await;
        cluster.open(2, Bootstrap::Again).await;
        let list = async |group| numbers(&cluster.client().read(group, Bytes::from_static(&[1]), within(60)).await.unwrap());
        assert_eq!(list(LIVING).await, (1..=proposed).collect::<Vec<_>>());
        for group in STUCK {
            let mut there = list(group).await;
            there.sort_unstable();
            assert_eq!(there, (0..COMMANDS).collect::<Vec<_>>(), "group {group}");
        }
    });
}

#[test]
fn a_replica_that_raft_refuses_is_shown_and_pins_nothing() {
    runtime::process::block_on(async {
        let mut cluster = Cluster::start(1, 1, Settings { segment_bytes: 64 << 10, segments_max: 2, ..quick() }).await;
        for number in 1..=5 {
            cluster.client().propose(GROUP, session(number, number), append(1, number, 1000), within(10)).await.unwrap();
        }
        // Who stands for election between two heartbeats: Raft takes no such settings. Each start begins a segment.
        let sound = std::mem::replace(&mut cluster.settings.election_ticks, 1);
        for _ in 0..8 {
            cluster.kill(1).await;
            cluster.open(1, Bootstrap::Again).await;
            let status = cluster.nodes[&1].host.status();
            assert!(status.len() == 1 && status[0].trouble.is_some() && status[0].to_be_replaced, "{status:?}");
        }
        let raft = cluster.folders[0].path().join("raft");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let segments = || std::fs::read_dir(&raft).unwrap().map(name).filter(|name| name.starts_with("log-")).count();
        let end = within(20);
        while segments() > 3 {
            assert!(time::now() < end, "{} segments", segments());
            time::sleep(Duration::from_millis(20)).await;
        }
        // What it has was written forward.
        cluster.settings.election_ticks = sound;
        cluster.kill(1).await;
        cluster.open(1, Bootstrap::Again).await;
        assert_eq!(list(&cluster.client()).await, [1, 2, 3, 4, 5]);
    });
}
