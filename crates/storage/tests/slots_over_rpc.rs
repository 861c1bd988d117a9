//! Slots behind real RPC: over loopback, and by the short cut of the own node.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use drive::file_name;
use protocol::layout::{ShardAddress, ShardHeader, SlotAddress};
use protocol::{BlobId, BucketId, ClusterId, DriveId, Epoch, Generation, Home, NodeId, Scheme, SlotIndex, SlotPlace, VolumeId, WriterId};
use runtime::disk::{Disk, Open, open_folder, syncs};
use runtime::process::block_on;
use runtime::rpc::{Rpc, Secret, Settings};
use runtime::task::Task;
use runtime::time::{Instant, now, sleep};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::{Client, Error, Server};
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId(5);
const DRIVE: DriveId = DriveId(0x1_0000);
const PLACE: SlotPlace = SlotPlace { node: NodeId(1), drive: DRIVE };
const AT: SlotAddress = SlotAddress { volume: VolumeId(7), generation: Generation(1), slot: SlotIndex(0) };
const SCHEME: Scheme = Scheme::Replicas { n: 3 };

struct Fixture {
    server: Server,
    folder: TempDir,
    disk: Arc<dyn Disk>,
    /// Of another node, and of the server's own.
    clients: [Client; 2],
    _listening: Task<()>,
}

fn settings(node: u64) -> Settings {
    Settings {
        node: NodeId(node),
        cluster: CLUSTER,
        secret: Secret(b"secret".as_slice().into()),
        listen: "127.0.0.1:0".parse().unwrap(),
        peers: BTreeMap::new(),
    }
}

fn drive_in(folder: &TempDir) -> Arc<dyn Disk> {
    let disk = open_folder(folder.path()).unwrap();
    if drive::inspect(&disk).unwrap() == drive::Found::Empty {
        drive::format(&disk, CLUSTER, DRIVE).unwrap();
    }
    drive::mount(&disk, CLUSTER, DRIVE).unwrap();
    disk
}

async fn fixture() -> Fixture {
    let folder = TempDir::new().unwrap();
    let disk = drive_in(&folder);
    let rpc = Rpc::new(settings(1));
    let (server, failed) = Server::open(&rpc, vec![(DRIVE, disk.clone())]).await;
    assert!(failed.is_empty());
    let listening = rpc.listen().await.unwrap();
    let other = Rpc::new(settings(2));
    other.introduce(NodeId(1), rpc.address().unwrap());
    Fixture { server, folder, disk, clients: [Client::new(other), Client::new(rpc)], _listening: listening }
}

fn soon() -> Instant {
    now() + Duration::from_secs(10)
}

fn address(counter: u64) -> ShardAddress {
    ShardAddress { at: AT, blob: BlobId { writer: WriterId(1), counter } }
}

fn shard(counter: u64, bytes: usize) -> (ShardHeader, Bytes) {
    let bytes: Bytes = (0..bytes as u64).map(|at| (at * 31 + counter * 7 + (at >> 16)) as u8).collect();
    let checksum = checksum(&bytes);
    let header = ShardHeader {
        home: Home { bucket: BucketId(1), key_hash: counter },
        scheme: SCHEME,
        blob_bytes: bytes.len() as u32,
        blob_checksum: checksum,
        shard_checksums: vec![checksum; 3],
    };
    (header, bytes)
}

/// CRC-64/NVME, bit by bit: the server must agree with what it is defined to be.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |crc: u64, byte: &u8| (0..8).fold(crc ^ u64::from(*byte), |crc, _| (crc >> 1) ^ (0x9a6c_9329_ac4b_c9b5 * (crc & 1)));
    !bytes.iter().fold(!0, step)
}

async fn append(client: &Client, epoch: u64, counter: u64, bytes: usize) -> Result<(), Error> {
    let (header, bytes) = shard(counter, bytes);
    client.append(PLACE, address(counter), Epoch(epoch), header, bytes, soon()).await
}

#[test]
fn shards_go_there_and_back_by_socket_and_by_short_cut() {
    block_on(async {
        let fixture = fixture().await;
        for (volume, client) in (1..).zip(&fixture.clients) {
            let at = SlotAddress { volume: VolumeId(volume), ..AT };
            for _ in 0..2 {
                client.create_slot(PLACE, at, Epoch(1), SCHEME, soon()).await.unwrap();
            }
            let other = client.create_slot(PLACE, at, Epoch(1), Scheme::Replicas { n: 2 }, soon()).await;
            assert!(matches!(other, Err(Error::Invalid { .. })), "{other:?}");
            for bytes in [0, 1, 65536, 300_000] {
                let shard_address = ShardAddress { at, blob: BlobId { writer: WriterId(1), counter: bytes as u64 } };
                let (header, content) = shard(9, bytes);
                for _ in 0..2 {
                    client.append(PLACE, shard_address, Epoch(1), header.clone(), content.clone(), soon()).await.unwrap();
                }
                let blocks = bytes.div_ceil(65536) as u32;
                let got = client.read(PLACE, shard_address, 0, blocks, soon()).await.unwrap();
                assert!(got.header == header && got.bytes == content);
                if blocks > 2 {
                    let middle = client.read(PLACE, shard_address, 1, 2, soon()).await.unwrap();
                    assert_eq!(middle.bytes, content.slice(65536..3 * 65536));
                }
            }
        }
        let status = &fixture.clients[0].status(NodeId(1), soon()).await.unwrap()[..];
        assert_eq!(status, fixture.server.status());
        assert_eq!((status[0].slots, status[0].shards, status[0].bytes, status[0].damage), (2, 8, 2 * 365_537, 0));
    });
}

#[test]
fn what_is_not_sound_or_not_there_is_refused() {
    block_on(async {
        let fixture = fixture().await;
        let client = &fixture.clients[0];
        assert_eq!(append(client, 1, 1, 10).await, Err(Error::NotFound));
        client.create_slot(PLACE, AT, Epoch(1), SCHEME, soon()).await.unwrap();
        assert_eq!(client.read(PLACE, address(1), 0, 1, soon()).await.unwrap_err(), Error::NotFound);
        let (header, bytes) = shard(1, 1000);
        let wrong = bytes.slice(1..);
        let outcome = client.append(PLACE, address(1), Epoch(1), header.clone(), wrong, soon()).await;
        assert!(matches!(outcome, Err(Error::Invalid { .. })), "{outcome:?}");
        let flipped: Bytes = bytes.iter().map(|byte| byte ^ 1).collect();
        let outcome = client.append(PLACE, address(1), Epoch(1), header, flipped, soon()).await;
        assert!(matches!(outcome, Err(Error::Invalid { .. })), "{outcome:?}");
        let nowhere = SlotPlace { drive: DriveId(99), ..PLACE };
        let outcome = client.create_slot(nowhere, AT, Epoch(1), SCHEME, soon()).await;
        assert_eq!(outcome, Err(Error::Drive { detail: "drive 99 is not mounted here".to_string() }));
        let slot = SlotAddress { slot: SlotIndex(3), ..AT };
        assert!(matches!(client.create_slot(PLACE, slot, Epoch(1), SCHEME, soon()).await, Err(Error::Invalid { .. })));
        let past = now();
        assert!(client.read(PLACE, address(1), 0, 1, past).await.is_err());
    });
}

#[test]
fn a_fenced_slot_lists_every_shard_and_takes_no_more_until_it_reopens() {
    block_on(async {
        let fixture = fixture().await;
        let client = &fixture.clients[0];
        client.create_slot(PLACE, AT, Epoch(1), SCHEME, soon()).await.unwrap();
        let before = syncs();
        let appends = (1..=2100).map(|counter| append(client, 1, counter, 5));
        let mut outcomes = Vec::new();
        for chunk in appends.collect::<Vec<_>>().into_iter().fold(vec![Vec::new()], |mut chunks, next| {
            if chunks.last().is_some_and(|chunk: &Vec<_>| chunk.len() == 300) {
                chunks.push(Vec::new());
            }
            chunks.last_mut().unwrap().push(next);
            chunks
        }) {
            outcomes.extend(futures::future::join_all(chunk).await);
        }
        assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|outcome| outcome.is_err()));
        assert!(syncs() - before < 1000, "appends that wait share syncs: {}", syncs() - before);

        assert_eq!(append(client, 2, 5000, 5).await, Err(Error::StaleEpoch { slot: Epoch(1) }));
        let list = client.fence(PLACE, AT, Epoch(2), soon()).await.unwrap();
        assert!(list.intact);
        assert_eq!(list.shards.iter().map(|listed| listed.blob.counter).collect::<Vec<_>>(), (1..=2100).collect::<Vec<_>>());
        assert_eq!(list.shards[7].header, shard(8, 5).0);
        assert_eq!(client.fence(PLACE, AT, Epoch(2), soon()).await.unwrap(), list);
        assert_eq!(client.fence(PLACE, AT, Epoch(1), soon()).await, Err(Error::StaleEpoch { slot: Epoch(2) }));
        for epoch in [1, 2, 3] {
            assert_eq!(append(client, epoch, 5000, 5).await, Err(Error::Sealed { slot: Epoch(2) }));
        }
        assert_eq!(client.read(PLACE, address(3), 0, 1, soon()).await.unwrap().bytes, shard(3, 5).1, "reads have no epoch");
        assert_eq!(client.reopen(PLACE, AT, Epoch(2), soon()).await, Err(Error::StaleEpoch { slot: Epoch(2) }));
        for _ in 0..2 {
            client.reopen(PLACE, AT, Epoch(3), soon()).await.unwrap();
        }
        append(client, 3, 5000, 5).await.unwrap();
    });
}

#[test]
fn rot_is_never_sent() {
    block_on(async {
        let fixture = fixture().await;
        let client = &fixture.clients[0];
        client.create_slot(PLACE, AT, Epoch(1), SCHEME, soon()).await.unwrap();
        append(client, 1, 1, 1000).await.unwrap();
        let file = fixture.disk.open(&file_name(AT), Open::Existing).unwrap();
        file.write_at(8192 + 512 + 77, b"rot").unwrap();
        assert!(matches!(client.read(PLACE, address(1), 0, 1, soon()).await, Err(Error::Corrupt { .. })));
    });
}

async fn until_let_go(server: &Server) {
    let begun = now();
    while server.status()[0].closed.is_none() || server.status()[0].slots > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "a closed drive is let go");
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_drive_whose_folder_is_gone_answers_by_name_and_another_takes_its_place() {
    block_on(async {
        let fixture = fixture().await;
        let client = &fixture.clients[0];
        client.create_slot(PLACE, AT, Epoch(1), SCHEME, soon()).await.unwrap();
        append(client, 1, 1, 1000).await.unwrap();
        let path = fixture.folder.path().display().to_string();
        fixture.folder.close().unwrap();
        until_let_go(&fixture.server).await;
        let outcome = client.read(PLACE, address(1), 0, 1, soon()).await;
        assert!(matches!(&outcome, Err(Error::Drive { detail }) if detail.contains(&path)), "{outcome:?}");

        let elsewhere = TempDir::new().unwrap();
        fixture.server.add_drive(DRIVE, drive_in(&elsewhere)).await.unwrap();
        assert_eq!(append(client, 1, 2, 1000).await, Err(Error::NotFound));
        client.create_slot(PLACE, AT, Epoch(1), SCHEME, soon()).await.unwrap();
        append(client, 1, 2, 1000).await.unwrap();
    });
}

#[test]
fn a_drive_that_was_closed_is_let_go_and_mounts_again_with_all_it_held() {
    block_on(async {
        let Fixture { server, folder, disk, clients, _listening } = fixture().await;
        let client = &clients[0];
        client.create_slot(PLACE, AT, Epoch(1), SCHEME, soon()).await.unwrap();
        append(client, 1, 1, 1000).await.unwrap();
        disk.close("a sync failed");
        let outcome = append(client, 1, 2, 1000).await;
        assert!(matches!(&outcome, Err(Error::Drive { detail }) if detail.ends_with("a sync failed")), "{outcome:?}");
        drop(disk);
        until_let_go(&server).await;
        // The last request that used it may still hold the folder's lock for a moment.
        let begun = now();
        while let Err(error) = open_folder(folder.path()) {
            assert!(begun.elapsed() < Duration::from_secs(5), "{error}");
            sleep(Duration::from_millis(20)).await;
        }
        server.add_drive(DRIVE, drive_in(&folder)).await.unwrap();
        assert_eq!(client.read(PLACE, address(1), 0, 1, soon()).await.unwrap().bytes, shard(1, 1000).1);
        append(client, 1, 2, 1000).await.unwrap();

        server.refuse_drive(DriveId(9), "/mnt/nine".to_string(), "its superblock is damaged".to_string());
        let nine = SlotPlace { drive: DriveId(9), ..PLACE };
        let outcome = client.read(nine, address(1), 0, 1, soon()).await;
        assert!(matches!(&outcome, Err(Error::Drive { detail }) if detail == "/mnt/nine: its superblock is damaged"), "{outcome:?}");
        assert_eq!(server.status().len(), 2);
    });
}
