//! Slot append with real syncs: one after another, and 16 writers that share them.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use drive::{Drive, Slot};
use protocol::layout::{ShardHeader, SlotAddress};
use protocol::{BlobId, BucketId, Epoch, Generation, Home, Scheme, SlotIndex, VolumeId, WriterId};
use runtime::process::block_on;
use runtime::task;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SCHEME: Scheme = Scheme::Replicas { n: 1 };

fn shard(bytes: usize) -> (ShardHeader, Bytes) {
    let bytes = Bytes::from((0..bytes).map(|at| (at * 31 % 251) as u8).collect::<Vec<u8>>());
    let checksum = erasure::checksum(&bytes);
    let home = Home { bucket: BucketId(1), key_hash: 1 };
    let blob_bytes = u32::try_from(bytes.len()).expect("small");
    (ShardHeader { home, scheme: SCHEME, blob_bytes, blob_checksum: checksum, shard_checksums: vec![checksum] }, bytes)
}

/// `rounds` times `writers` appends at once, each to a slot that is replaced when it is full.
async fn append(drive: &Arc<Drive>, next: &AtomicU64, rounds: u64, writers: u64, shard: &(ShardHeader, Bytes)) {
    let mut slot = new_slot(drive, next).await;
    let mut bytes = 0;
    for _ in 0..rounds {
        if bytes > 900 << 20 {
            slot = new_slot(drive, next).await;
            bytes = 0;
        }
        let appends: Vec<_> = (0..writers)
            .map(|_| {
                let (slot, (header, content)) = (slot.clone(), shard.clone());
                let blob = BlobId { writer: WriterId(1), counter: next.fetch_add(1, Ordering::Relaxed) };
                task::spawn(async move { slot.append(blob, Epoch(1), header, content).await })
            })
            .collect();
        for append in appends {
            append.await.expect("the drive has space");
        }
        bytes += writers * shard.1.len() as u64;
    }
}

async fn new_slot(drive: &Arc<Drive>, next: &AtomicU64) -> Arc<Slot> {
    let at = SlotAddress { volume: VolumeId(next.fetch_add(1, Ordering::Relaxed)), generation: Generation(1), slot: SlotIndex(0) };
    drive.create_slot(at, Epoch(1), SCHEME).await.expect("the drive works");
    drive.slot(at).expect("created")
}

fn appends(criterion: &mut Criterion) {
    for bytes in [4 << 10, 256 << 10, 2 << 20] {
        let shard = shard(bytes);
        for writers in [1, 16] {
            let mut group = criterion.benchmark_group(format!("append/{}KiB", bytes >> 10));
            group.throughput(Throughput::Bytes(bytes as u64 * writers)).sample_size(10);
            group.bench_function(format!("{writers} writers"), |bencher| {
                bencher.iter_custom(|rounds| {
                    let folder = tempfile::TempDir::new_in(".").expect("a folder on a real drive");
                    let elapsed = block_on(async {
                        let disk = runtime::disk::open_folder(folder.path()).expect("an empty folder");
                        let drive = Arc::new(Drive::open(disk).expect("an empty drive"));
                        let next = AtomicU64::new(1);
                        let begun = runtime::time::now();
                        append(&drive, &next, rounds, writers, &shard).await;
                        begun.elapsed()
                    });
                    folder.close().expect("removable");
                    elapsed
                });
            });
            group.finish();
        }
    }
}

criterion_group!(benches, appends);
criterion_main!(benches);
