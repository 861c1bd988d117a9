//! Group commit and admission, on a drive that stalls.
//! On the real executor: one process runs one simulation, and these are many.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod memory_disk;

use bytes::Bytes;
use drive::{Drive, Refusal};
use memory_disk::{Draw, MemoryDisk};
use protocol::layout::{ShardHeader, SlotAddress};
use protocol::{BlobId, BucketId, Epoch, Generation, Home, Scheme, SlotIndex, VolumeId, WriterId};
use runtime::process::block_on;
use runtime::task;
use std::sync::Arc;

const AT: SlotAddress = SlotAddress { volume: VolumeId(7), generation: Generation(1), slot: SlotIndex(0) };
const SCHEME: Scheme = Scheme::Replicas { n: 1 };

fn blob(counter: u64) -> BlobId {
    BlobId { writer: WriterId(1), counter }
}

fn shard(seed: u64, bytes: usize) -> (ShardHeader, Bytes) {
    let bytes = Bytes::from(Draw(seed).bytes(bytes));
    let checksum = erasure::checksum(&bytes);
    let home = Home { bucket: BucketId(3), key_hash: seed };
    let header =
        ShardHeader { home, scheme: SCHEME, blob_bytes: bytes.len() as u32, blob_checksum: checksum, shard_checksums: vec![checksum] };
    (header, bytes)
}

async fn drive() -> (MemoryDisk, Arc<Drive>) {
    let disk = MemoryDisk::new();
    let drive = Arc::new(Drive::open(disk.disk()).unwrap());
    drive.create_slot(AT, Epoch(1), SCHEME).await.unwrap();
    (disk, drive)
}

/// Let all tasks reach the point where they wait.
async fn settle() {
    runtime::time::sleep(std::time::Duration::from_millis(50)).await;
}

#[test]
fn appends_that_wait_for_a_sync_share_the_next_one() {
    block_on(async {
        let (disk, drive) = drive().await;
        let slot = drive.slot(AT).unwrap();
        disk.stall();
        let before = disk.syncs();
        let appends: Vec<_> = (1..=100)
            .map(|counter| {
                let (slot, (header, bytes)) = (slot.clone(), shard(counter, 2000));
                task::spawn(async move { slot.append(blob(counter), Epoch(1), header, bytes).await })
            })
            .collect();
        settle().await;
        assert!(appends.iter().all(|append| !append.is_finished()), "nothing is answered before it is durable");
        assert!(matches!(slot.usage(), (0, 0)));
        disk.go_on();
        for append in appends {
            assert_eq!(append.await, Ok(()));
        }
        assert!(disk.syncs() - before <= 3, "{} syncs for 100 appends", disk.syncs() - before);
        assert_eq!(slot.usage(), (100, 200_000));
    });
}

#[test]
fn an_append_that_nobody_waits_for_is_dropped_before_it_starts() {
    block_on(async {
        let (disk, drive) = drive().await;
        let slot = drive.slot(AT).unwrap();
        disk.stall();
        let start = |counter| {
            let (slot, (header, bytes)) = (slot.clone(), shard(counter, 2000));
            task::spawn(async move { slot.append(blob(counter), Epoch(1), header, bytes).await })
        };
        let first = start(1);
        settle().await;
        let abandoned = start(2);
        settle().await;
        drop(abandoned);
        let last = start(3);
        settle().await;
        disk.go_on();
        assert_eq!((first.await, last.await), (Ok(()), Ok(())));
        assert_eq!(slot.read(blob(2), 0, 1).await.unwrap_err(), Refusal::NotFound);
    });
}

#[test]
fn a_drive_that_stalls_answers_busy_and_recovers() {
    block_on(async {
        let (disk, drive) = drive().await;
        let slot = drive.slot(AT).unwrap();
        disk.stall();
        let (header, bytes) = shard(1, 8 << 20);
        let appends: Vec<_> = (1..=20)
            .map(|counter| {
                let (slot, header, bytes) = (slot.clone(), header.clone(), bytes.clone());
                task::spawn(async move { slot.append(blob(counter), Epoch(1), header, bytes).await })
            })
            .collect();
        settle().await;
        disk.go_on();
        let mut busy = 0;
        for append in appends {
            match append.await {
                Ok(()) => {}
                Err(Refusal::Busy) => busy += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!((5..15).contains(&busy), "{busy} of 20 appends of 8 MiB were refused");
        assert_eq!(slot.append(blob(99), Epoch(1), header, bytes).await, Ok(()));
    });
}

#[test]
fn a_fence_ends_what_is_in_flight_before_it_is_answered() {
    block_on(async {
        let (disk, drive) = drive().await;
        let slot = drive.slot(AT).unwrap();
        disk.stall();
        let mut appends = Vec::new();
        let mut start = |counter| {
            let (slot, (header, bytes)) = (slot.clone(), shard(counter, 2000));
            appends.push(task::spawn(async move { slot.append(blob(counter), Epoch(1), header, bytes).await }));
        };
        start(1);
        start(2);
        settle().await;
        let fence = {
            let slot = slot.clone();
            task::spawn(async move { slot.fence(Epoch(2)).await })
        };
        settle().await;
        start(3);
        settle().await;
        disk.go_on();
        assert_eq!(fence.await, Ok(()));
        let page = slot.list(Epoch(2), None).await.unwrap();
        assert_eq!(page.shards.len(), 2);
        let mut outcomes = Vec::new();
        for append in appends {
            outcomes.push(append.await);
        }
        assert_eq!(outcomes, [Ok(()), Ok(()), Err(Refusal::Sealed { slot: Epoch(2) })]);
        assert_eq!(slot.list(Epoch(3), None).await.unwrap_err(), Refusal::StaleEpoch { slot: Epoch(2) });
    });
}

#[test]
fn reads_that_nobody_waits_for_are_never_made_and_hold_their_room_until_their_turn() {
    block_on(async {
        let (disk, drive) = drive().await;
        let slot = drive.slot(AT).unwrap();
        let (header, bytes) = shard(1, 100_000);
        slot.append(blob(1), Epoch(1), header, bytes.clone()).await.unwrap();
        disk.stall();
        let start = || {
            let slot = slot.clone();
            task::spawn(async move { slot.read(blob(1), 0, 1).await })
        };
        let before = disk.reads();
        let abandoned: Vec<_> = (0..100).map(|_| start()).collect();
        settle().await;
        drop(abandoned);
        settle().await;
        assert!(drive.held_bytes() >= 100 * 4096, "they stand in the drive's queue yet: {} bytes", drive.held_bytes());
        let awaited = start();
        settle().await;
        disk.go_on();
        awaited.await.unwrap();
        assert!(disk.reads() - before < 10, "{} reads for one that was awaited", disk.reads() - before);
        assert_eq!(drive.held_bytes(), 0);
    });
}
