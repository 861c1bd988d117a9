//! Slots on a drive in memory: power cuts, rot, fences, limits.
//! On the real executor: one process runs one simulation, and these are many.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod memory_disk;

use bytes::Bytes;
use drive::{Blocks, Drive, Operation, Refusal, SlotFile, file_name};
use memory_disk::{Draw, MemoryDisk};
use protocol::layout::{ShardHeader, SlotAddress};
use protocol::limits::SHARD_BLOCK_BYTES;
use protocol::{BlobId, BucketId, Epoch, Generation, Home, Scheme, SlotIndex, VolumeId, WriterId};
use std::collections::BTreeMap;
use std::sync::Arc;

const AT: SlotAddress = SlotAddress { volume: VolumeId(7), generation: Generation(1), slot: SlotIndex(1) };
const SCHEME: Scheme = Scheme::ReedSolomon { k: 2, m: 1 };
const RECORDS_START: u64 = 8192;

fn blob(counter: u64) -> BlobId {
    BlobId { writer: WriterId(1), counter }
}

fn shard(seed: u64, bytes: usize) -> (ShardHeader, Bytes) {
    let bytes = Bytes::from(Draw(seed).bytes(bytes));
    let header = ShardHeader {
        home: Home { bucket: BucketId(3), key_hash: seed },
        scheme: SCHEME,
        blob_bytes: 2 * bytes.len() as u32,
        blob_checksum: seed,
        shard_checksums: vec![1, erasure::checksum(&bytes), 3],
    };
    (header, bytes)
}

fn append(counter: u64, epoch: u64, seed: u64, bytes: usize) -> Operation {
    let (header, bytes) = shard(seed, bytes);
    Operation::Append { blob: blob(counter), epoch: Epoch(epoch), header, bytes }
}

fn create(disk: &MemoryDisk) -> SlotFile {
    SlotFile::create(&disk.disk(), AT, Epoch(1), SCHEME).unwrap()
}

fn open(disk: &MemoryDisk) -> SlotFile {
    SlotFile::open(&disk.disk(), AT).unwrap()
}

fn read_all(slot: &SlotFile, counter: u64, bytes: usize) -> Result<Blocks, Refusal> {
    slot.read(blob(counter), 0, bytes.div_ceil(SHARD_BLOCK_BYTES) as u32)
}

fn assert_holds(slot: &SlotFile, counter: u64, seed: u64, bytes: usize) {
    let (header, expected) = shard(seed, bytes);
    let got = read_all(slot, counter, bytes).unwrap();
    assert!(got.header == header && got.bytes == expected, "blob {counter}");
}

#[test]
fn shards_of_all_sizes_read_back_before_and_after_opening_again() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    let sizes = [0, 1, 511, 512, 513, 65535, 65536, 65537, 200_000, 2 << 20];
    for (counter, &bytes) in (1..).zip(&sizes) {
        assert_eq!(slot.write(vec![append(counter, 1, counter, bytes)]), vec![Ok(())]);
    }
    let again = open(&disk);
    for slot in [&slot, &again] {
        for (counter, &bytes) in (1..).zip(&sizes) {
            assert_holds(slot, counter, counter, bytes);
        }
        assert_eq!(slot.usage(), (sizes.len() as u64, sizes.iter().sum::<usize>() as u64));
        assert_eq!(slot.damage().count, 0);
        assert_eq!(read_all(slot, 99, 1).unwrap_err(), Refusal::NotFound);
        assert!(matches!(slot.read(blob(1), 0, 1).unwrap_err(), Refusal::Invalid { .. }));
        assert!(matches!(slot.read(blob(9), u32::MAX, 2).unwrap_err(), Refusal::Invalid { .. }));
        let middle = slot.read(blob(9), 1, 2).unwrap();
        assert_eq!(middle.bytes, shard(9, 200_000).1.slice(65536..3 * 65536));
    }
}

#[test]
fn one_sync_serves_all_appends_of_a_batch() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    let before = disk.syncs();
    let outcomes = slot.write((1..=100).map(|counter| append(counter, 1, counter, 3000)).collect());
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(disk.syncs() - before, 1);
}

#[test]
fn the_same_shard_again_succeeds_and_other_content_is_refused() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    let outcomes = slot.write(vec![append(1, 1, 5, 1000), append(1, 1, 5, 1000), append(1, 1, 6, 1000)]);
    assert!(matches!(&outcomes[..], [Ok(()), Ok(()), Err(Refusal::Invalid { .. })]), "{outcomes:?}");
    let slot = open(&disk);
    let end = disk.content(&file_name(AT)).len();
    let outcomes = slot.write(vec![append(1, 1, 5, 1000), append(1, 1, 6, 1000)]);
    assert!(matches!(&outcomes[..], [Ok(()), Err(Refusal::Invalid { .. })]), "{outcomes:?}");
    assert_eq!(disk.content(&file_name(AT)).len(), end, "nothing was written");
    // A retry does not vouch for bytes that have rotted since.
    disk.rot(&file_name(AT), RECORDS_START + 512 + 10);
    assert!(matches!(&slot.write(vec![append(1, 1, 5, 1000)])[..], [Err(Refusal::Corrupt { .. })]));
}

#[test]
fn unsound_shards_are_refused() {
    let slot = create(&MemoryDisk::new());
    let (header, bytes) = shard(1, 1000);
    let mut bad = vec![header.clone(); 4];
    bad[0].scheme = Scheme::Replicas { n: 3 };
    bad[1].shard_checksums.pop();
    bad[2].blob_bytes += 2;
    bad[3].shard_checksums[1] ^= 1;
    for header in bad {
        let outcome = slot.write(vec![Operation::Append { blob: blob(1), epoch: Epoch(1), header, bytes: bytes.clone() }]);
        assert!(matches!(&outcome[..], [Err(Refusal::Invalid { .. })]), "{outcome:?}");
    }
    assert_eq!(slot.usage(), (0, 0));
}

#[test]
fn a_fence_is_durable_when_answered_and_refuses_every_former_epoch() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    let outcomes = slot.write(vec![
        append(1, 1, 1, 100),
        append(2, 2, 2, 100),
        Operation::Fence { epoch: Epoch(2) },
        append(3, 1, 3, 100),
        append(4, 2, 4, 100),
        Operation::Fence { epoch: Epoch(2) },
        Operation::Fence { epoch: Epoch(1) },
        Operation::Reopen { epoch: Epoch(2) },
    ]);
    let stale = |slot| Err(Refusal::StaleEpoch { slot: Epoch(slot) });
    let sealed = Err(Refusal::Sealed { slot: Epoch(2) });
    assert_eq!(outcomes, [Ok(()), stale(1), Ok(()), sealed.clone(), sealed.clone(), Ok(()), stale(2), stale(2)]);

    let disk = disk.after_power_cut(&mut Draw(1));
    let slot = open(&disk);
    assert_eq!(slot.fence_state(), (Epoch(2), true));
    assert_eq!(slot.write(vec![append(3, 1, 3, 100), append(3, 3, 3, 100)]), [sealed.clone(), sealed]);
    assert_eq!(
        slot.write(vec![Operation::Reopen { epoch: Epoch(3) }, append(3, 3, 3, 100), append(4, 2, 4, 100)]),
        [Ok(()), Ok(()), stale(3)]
    );
    let slot = open(&disk.after_power_cut(&mut Draw(2)));
    assert_eq!(slot.fence_state(), (Epoch(3), false));
    let page = slot.list(None, 1000).unwrap();
    assert_eq!(page.shards.iter().map(|(blob, _)| blob.counter).collect::<Vec<_>>(), [1, 3]);
    assert!(page.intact && page.next.is_none());
    let page = slot.list(Some(blob(1)), 1).unwrap();
    assert_eq!((page.shards, page.next), (vec![(blob(3), shard(3, 100).0)], Some(blob(3))));
}

#[test]
fn a_rotten_header_copy_seals_the_slot_because_it_may_have_been_a_fence() {
    for copy in [0, 4096] {
        let disk = MemoryDisk::new();
        let slot = create(&disk);
        assert_eq!(slot.write(vec![append(1, 1, 1, 100), Operation::Fence { epoch: Epoch(2) }]), [Ok(()), Ok(())]);
        disk.rot(&file_name(AT), copy + 60);
        for _ in 0..2 {
            let slot = open(&disk);
            assert!(matches!(&slot.write(vec![append(2, 1, 2, 100)])[..], [Err(Refusal::Sealed { .. })]));
            assert_holds(&slot, 1, 1, 100);
        }
        disk.rot(&file_name(AT), 60);
        disk.rot(&file_name(AT), 4096 + 60);
        assert!(SlotFile::open(&disk.disk(), AT).is_err());
    }
}

#[test]
fn rot_of_a_header_loses_one_shard_and_framing_finds_the_next() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    for counter in 1..=5 {
        assert_eq!(slot.write(vec![append(counter, 1, counter, 3000)]), [Ok(())]);
    }
    let record = 512 + 3072;
    for broken in [1, 4] {
        disk.rot(&file_name(AT), RECORDS_START + (broken - 1) * record + 20);
    }
    // The last one too: its bytes are no torn write, so it is reported and not cut.
    disk.rot(&file_name(AT), RECORDS_START + 4 * record + 100);
    let len = disk.content(&file_name(AT)).len();
    for _ in 0..2 {
        let slot = open(&disk);
        assert_eq!(disk.content(&file_name(AT)).len(), len, "nothing is cut");
        assert_eq!(slot.damage().count, 2, "{:?}", slot.damage());
        assert_eq!(slot.usage().0, 2);
        for counter in [2, 3] {
            assert_holds(&slot, counter, counter, 3000);
        }
        assert!(matches!(read_all(&slot, 1, 3000).unwrap_err(), Refusal::Corrupt { .. }), "absence cannot be claimed");
        assert!(!slot.list(None, 10).unwrap().intact, "the list is not intact");
    }
    // Appending goes on behind the damage, which is reported for ever.
    assert_eq!(open(&disk).write(vec![append(9, 1, 9, 100)]), [Ok(())]);
    let slot = open(&disk);
    assert_holds(&slot, 9, 9, 100);
    assert_eq!(slot.damage().count, 2);
}

#[test]
fn rot_of_data_is_never_returned_and_other_blocks_are() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    assert_eq!(slot.write(vec![append(1, 1, 1, 150_000)]), [Ok(())]);
    assert_eq!(slot.write(vec![append(2, 1, 2, 10)]), [Ok(())]);
    disk.rot(&file_name(AT), RECORDS_START + 512 + 70_000);
    for slot in [slot, open(&disk)] {
        assert!(matches!(slot.read(blob(1), 0, 3).unwrap_err(), Refusal::Corrupt { .. }));
        assert!(matches!(slot.read(blob(1), 1, 1).unwrap_err(), Refusal::Corrupt { .. }));
        assert_eq!(slot.read(blob(1), 0, 1).unwrap().bytes, shard(1, 150_000).1.slice(..65536));
        assert_eq!(slot.read(blob(1), 2, 1).unwrap().bytes, shard(1, 150_000).1.slice(131_072..));
    }
    disk.unreadable(&file_name(AT), (RECORDS_START + 512) / 512);
    assert!(matches!(open(&disk).read(blob(1), 0, 1).unwrap_err(), Refusal::Corrupt { .. }));
}

#[test]
fn a_record_written_to_another_place_does_not_pass() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    for counter in 1..=3 {
        assert_eq!(slot.write(vec![append(counter, 1, counter, 1000)]), [Ok(())]);
    }
    let mut content = disk.content(&file_name(AT));
    let (start, record) = (RECORDS_START as usize, 512 + 1024);
    // The whole of the first record over the second; the data of the third over the first's.
    content.copy_within(start..start + record, start + record);
    content.copy_within(start + 2 * record + 512..start + 3 * record, start + 512);
    disk.set_content(&file_name(AT), content);
    let slot = open(&disk);
    assert!(matches!(read_all(&slot, 1, 1000).unwrap_err(), Refusal::Corrupt { .. }));
    assert!(matches!(read_all(&slot, 2, 1000).unwrap_err(), Refusal::Corrupt { .. }));
    assert_holds(&slot, 3, 3, 1000);
}

#[test]
fn records_that_a_client_stores_do_not_pass_for_records_when_framing_is_lost() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    assert_eq!(slot.write(vec![append(1, 1, 1, 5000)]), [Ok(())]);
    // The client stores the slot file that it would like to see, where its record would lie.
    let bytes = Bytes::from(disk.content(&file_name(AT)));
    let other = MemoryDisk::new();
    let victim = create(&other);
    let header =
        ShardHeader { blob_bytes: 2 * bytes.len() as u32, shard_checksums: vec![1, erasure::checksum(&bytes), 3], ..shard(1, 0).0 };
    assert_eq!(victim.write(vec![Operation::Append { blob: blob(5), epoch: Epoch(1), header, bytes }]), [Ok(())]);
    assert_eq!(victim.write(vec![append(6, 1, 6, 10)]), [Ok(())]);
    other.rot(&file_name(AT), RECORDS_START + 3);
    let victim = open(&other);
    assert_eq!(victim.list(None, 10).unwrap().shards.len(), 1);
    assert_holds(&victim, 6, 6, 10);
}

#[test]
fn arbitrary_slot_files_never_panic() {
    fn holds(changes: Vec<(u32, u8)>, cut: Option<u32>) -> bool {
        let disk = MemoryDisk::new();
        let slot = create(&disk);
        for counter in 1..=4 {
            slot.write(vec![append(counter, 1, counter, 700 * counter as usize)]);
        }
        let mut content = disk.content(&file_name(AT));
        for (position, value) in changes {
            let position = position as usize % content.len();
            content[position] = value;
        }
        if let Some(cut) = cut {
            content.truncate(cut as usize % (content.len() + 1));
        }
        disk.set_content(&file_name(AT), content);
        if let Ok(slot) = SlotFile::open(&disk.disk(), AT) {
            for counter in 1..=4 {
                if let Ok(blocks) = slot.read(blob(counter), 0, 1) {
                    assert_eq!(blocks.bytes, shard(counter, 700 * counter as usize).1);
                }
            }
        }
        true
    }
    quickcheck::QuickCheck::new().tests(300).quickcheck(holds as fn(Vec<(u32, u8)>, Option<u32>) -> bool);
}

#[test]
fn what_an_opened_slot_found_is_never_taken_for_torn_again() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    assert_eq!(slot.write(vec![append(1, 1, 1, 2000)]), [Ok(())]);
    open(&disk);
    let mut content = disk.content(&file_name(AT));
    let len = content.len();
    // A lost write shows zeros, as a torn one would; but this record was found once.
    content[RECORDS_START as usize..].fill(0);
    disk.set_content(&file_name(AT), content);
    let slot = open(&disk);
    assert_eq!((slot.damage().count, disk.content(&file_name(AT)).len()), (1, len));
    assert!(matches!(read_all(&slot, 1, 2000).unwrap_err(), Refusal::Corrupt { .. }));
}

#[test]
fn a_torn_record_between_intact_ones_becomes_void_and_framing_passes_it() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    let outcomes = slot.write((1..=4).map(|counter| append(counter, 1, counter, 1000)).collect());
    assert!(outcomes.iter().all(Result::is_ok));
    let mut content = disk.content(&file_name(AT));
    let (start, record) = (RECORDS_START as usize, 512 + 1024);
    // The second one's header and the third one's last sector were never written.
    content[start + record..start + record + 512].fill(0);
    content[start + 3 * record - 512..start + 3 * record].fill(0);
    disk.set_content(&file_name(AT), content);
    for _ in 0..3 {
        let slot = open(&disk);
        assert_eq!(slot.damage().count, 0, "{:?}", slot.damage());
        assert_holds(&slot, 1, 1, 1000);
        assert_holds(&slot, 4, 4, 1000);
        for torn in [2, 3] {
            assert_eq!(read_all(&slot, torn, 1000).unwrap_err(), Refusal::NotFound);
        }
    }
    assert_eq!(open(&disk).write(vec![append(2, 1, 2, 1000)]), [Ok(())], "what was torn was not answered, and comes again");
    assert_holds(&open(&disk), 2, 2, 1000);
}

#[test]
fn unreadable_places_lose_what_is_there_and_a_dead_file_is_given_up() {
    let disk = MemoryDisk::new();
    let slot = create(&disk);
    for counter in 1..=200 {
        assert_eq!(slot.write(vec![append(counter, 1, counter, 1000)]), [Ok(())]);
    }
    let sector = |counter: u64| (RECORDS_START + (counter - 1) * (512 + 1024)) / 512;
    disk.unreadable(&file_name(AT), sector(3));
    let slot = open(&disk);
    assert_eq!((slot.usage().0, slot.damage().count), (199, 1));
    assert_holds(&slot, 4, 4, 1000);
    for counter in 4..100 {
        disk.unreadable(&file_name(AT), sector(counter));
    }
    assert!(SlotFile::open(&disk.disk(), AT).is_err());
    let drive = Drive::open(disk.disk()).unwrap();
    assert!(matches!(drive.slot(AT), Err(Refusal::Corrupt { .. })));
}

#[test]
fn a_full_drive_refuses_appends_and_goes_on_when_there_is_space() {
    let disk = MemoryDisk::new();
    disk.set_capacity(1 << 20);
    let slot = create(&disk);
    assert_eq!(slot.write(vec![append(1, 1, 1, 1000), append(2, 1, 2, 2 << 20)]), [Err(Refusal::Full), Err(Refusal::Full)]);
    assert_eq!(slot.write(vec![append(1, 1, 1, 1000)]), [Ok(())]);
    assert_eq!(slot.write(vec![append(2, 1, 2, 2 << 20)]), [Err(Refusal::Full)]);
    disk.set_capacity(1 << 30);
    assert_eq!(slot.write(vec![append(2, 1, 2, 2 << 20)]), [Ok(())]);
    let slot = open(&disk);
    assert_holds(&slot, 1, 1, 1000);
    assert_holds(&slot, 2, 2, 2 << 20);
    assert_eq!(slot.damage().count, 0);
}

/// What must hold after any power cut or kill at any operation: answered shards are there, fences are not lost,
/// nothing is damaged, nothing wrong is returned, and the next appends work.
#[test]
fn power_cuts_and_kills_at_any_moment_lose_nothing_that_was_answered() {
    for seed in 0..300 {
        let mut draw = Draw(seed);
        let mut disk = MemoryDisk::new();
        let mut answered: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
        let mut sent: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
        let mut fence = (Epoch(1), false);
        let mut created = false;
        let mut counter = 0;
        for round in 0..6 {
            let limit = draw.below(30);
            disk.cut_after(limit);
            run(&disk, &mut draw, &mut created, &mut counter, &mut sent, &mut answered, &mut fence);
            disk = if draw.below(4) == 0 { disk.after_kill() } else { disk.after_power_cut(&mut draw) };
            let drive = Drive::open(disk.disk()).unwrap();
            assert_eq!(drive.usage().damage, 0, "seed {seed}, round {round}");
            let Ok(slot) = SlotFile::open(&disk.disk(), AT) else {
                assert!(!created, "seed {seed}, round {round}: a slot that was answered is gone");
                continue;
            };
            created = true;
            let now = slot.fence_state();
            assert!(now.0 >= fence.0 && (now.0 > fence.0 || now.1 == fence.1), "seed {seed}: fence {fence:?} became {now:?}");
            fence = now;
            for (&counter, &(shard_seed, bytes)) in &answered {
                assert_holds(&slot, counter, shard_seed, bytes);
            }
            let page = slot.list(None, 10_000).unwrap();
            assert!(page.intact);
            for (blob, _) in page.shards {
                let (shard_seed, bytes) = sent[&blob.counter];
                assert_holds(&slot, blob.counter, shard_seed, bytes);
                // What recovery shows is durable from now on.
                answered.insert(blob.counter, (shard_seed, bytes));
            }
        }
    }
}

fn run(
    disk: &MemoryDisk,
    draw: &mut Draw,
    created: &mut bool,
    counter: &mut u64,
    sent: &mut BTreeMap<u64, (u64, usize)>,
    answered: &mut BTreeMap<u64, (u64, usize)>,
    fence: &mut (Epoch, bool),
) {
    let opened = if *created {
        SlotFile::open(&disk.disk(), AT).map_err(drop)
    } else {
        SlotFile::create(&disk.disk(), AT, Epoch(1), SCHEME).map_err(drop)
    };
    let Ok(slot) = opened else { return };
    *created = true;
    loop {
        let mut operations = Vec::new();
        let mut meaning = Vec::new();
        for _ in 0..=draw.below(6) {
            let (epoch, sealed) = *fence;
            match draw.below(12) {
                0 => {
                    *fence = (Epoch(epoch.0 + 1), true);
                    meaning.push(None);
                    operations.push(Operation::Fence { epoch: fence.0 });
                }
                _ if sealed => {
                    *fence = (Epoch(epoch.0 + 1), false);
                    meaning.push(None);
                    operations.push(Operation::Reopen { epoch: fence.0 });
                }
                _ => {
                    *counter += 1;
                    let bytes = match draw.below(4) {
                        0 => draw.below(200_000) as usize,
                        _ => draw.below(3000) as usize,
                    };
                    sent.insert(*counter, (*counter, bytes));
                    meaning.push(Some(*counter));
                    operations.push(append(*counter, fence.0.0, *counter, bytes));
                }
            }
        }
        let before = slot.fence_state();
        let outcomes = slot.write(operations);
        for (outcome, meaning) in outcomes.iter().zip(meaning) {
            if let (Ok(()), Some(counter)) = (outcome, meaning) {
                answered.insert(counter, sent[&counter]);
            }
        }
        // What the slot itself took over was answered.
        *fence = slot.fence_state();
        assert!(fence.0 >= before.0);
        if outcomes.iter().any(|outcome| matches!(outcome, Err(Refusal::Closed { .. }))) {
            return;
        }
    }
}

#[test]
fn a_drive_leaves_a_slot_alone_whose_headers_are_lost_and_serves_the_others() {
    let disk = MemoryDisk::new();
    let other = SlotAddress { volume: VolumeId(8), ..AT };
    create(&disk).write(vec![append(1, 1, 1, 100)]);
    SlotFile::create(&disk.disk(), other, Epoch(1), SCHEME).unwrap();
    disk.rot(&file_name(other), 20);
    disk.rot(&file_name(other), 4096 + 20);
    disk.set_content("slots/0000000000000009-00000001-00.slot.new", vec![1; 100]);
    let drive = Arc::new(Drive::open(disk.disk()).unwrap());
    assert!(drive.slot(AT).is_ok());
    assert!(matches!(drive.slot(other), Err(Refusal::Corrupt { .. })));
    assert_eq!((drive.usage().slots, drive.usage().damage), (2, 1));
    disk.disk().close("test");
    assert!(matches!(drive.slot(AT), Err(Refusal::Closed { detail }) if detail.contains("memory")));
}
