//! What a simulated drive keeps and loses.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test: what fails here fails it")]

use quickcheck::quickcheck;
use rand::Rng;
use runtime::disk::{Disk, DiskFile, Error, Open};
use runtime::side::{Cut, SimDrive, stream_for};
use std::collections::BTreeSet;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn drive() -> SimDrive {
    SimDrive::new("drive", 16 * MIB)
}

fn random(seed: u64) -> rand_chacha::ChaCha12Rng {
    stream_for(seed, "test", 0, 0)
}

fn all(file: &Arc<dyn DiskFile>) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn synced(disk: &Arc<dyn Disk>, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(name, Open::New).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file
}

#[test]
fn a_kill_keeps_what_was_written_and_ends_old_handles() {
    let drive = drive();
    let disk = drive.mount();
    let file = disk.open("a", Open::New).unwrap();
    file.write_at(0, b"unsynced").unwrap();
    drive.process_ended();
    assert!(matches!(file.write_at(0, b"zombie"), Err(Error::Closed { .. })));
    assert!(matches!(disk.list(""), Err(Error::Closed { .. })));
    let disk = drive.mount();
    assert_eq!(all(&disk.open("a", Open::Existing).unwrap()), b"unsynced");
}

#[test]
fn a_power_cut_keeps_synced_bytes_and_names_and_may_lose_all_others() {
    let drive = drive();
    let disk = drive.mount();
    let file = synced(&disk, "a", &[1; 3000]);
    file.write_at(0, &[2; 6000]).unwrap();
    disk.open("b", Open::New).unwrap().sync().unwrap();
    drive.cut_power_as(Some(Cut::DropAll), &mut random(1));
    let disk = drive.mount();
    assert_eq!(all(&disk.open("a", Open::Existing).unwrap()), [1; 3000]);
    assert!(matches!(disk.open("b", Open::Existing), Err(Error::NotFound { .. })), "its folder was not synced");

    let file = disk.open("a", Open::Existing).unwrap();
    file.write_at(0, &[2; 6000]).unwrap();
    drive.cut_power_as(Some(Cut::KeepAll), &mut random(1));
    assert_eq!(all(&drive.mount().open("a", Open::Existing).unwrap()), [2; 6000]);
}

#[test]
fn a_power_cut_tears_writes_between_sectors_and_never_inside_one() {
    let mut shapes = BTreeSet::new();
    for seed in 0..200 {
        let drive = drive();
        let disk = drive.mount();
        let file = synced(&disk, "a", &[1; 4 * 512]);
        file.write_at(0, &[2; 4 * 512]).unwrap();
        drive.cut_power(&mut random(seed));
        let bytes = all(&drive.mount().open("a", Open::Existing).unwrap());
        let sectors: Vec<u8> = bytes
            .chunks(512)
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}: a torn sector");
                sector[0]
            })
            .collect();
        shapes.insert(sectors);
    }
    assert_eq!(shapes.len(), 16, "every subset of the sectors is kept under some seed");
}

#[test]
fn unsynced_renames_and_removals_are_kept_or_lost_each_on_its_own() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let drive = drive();
        let disk = drive.mount();
        synced(&disk, "old", b"old");
        synced(&disk, "new", b"new");
        synced(&disk, "gone", b"gone");
        disk.rename("new", "old").unwrap();
        disk.remove("gone").unwrap();
        drive.cut_power(&mut random(seed));
        let disk = drive.mount();
        let kept = all(&disk.open("old", Open::Existing).unwrap());
        let renamed = disk.open("new", Open::Existing).is_err();
        assert_eq!(renamed, kept == b"new", "seed {seed}: a rename is atomic");
        outcomes.insert((renamed, disk.open("gone", Open::Existing).is_err()));
    }
    assert_eq!(outcomes.len(), 4);
}

#[test]
fn synced_folders_keep_their_changes() {
    for seed in 0..50 {
        let drive = drive();
        let disk = drive.mount();
        disk.create_folder("logs").unwrap();
        let file = disk.open("logs/tmp", Open::New).unwrap();
        file.write_at(0, b"state").unwrap();
        file.sync().unwrap();
        disk.rename("logs/tmp", "logs/state").unwrap();
        disk.sync_dir("logs").unwrap();
        drive.cut_power(&mut random(seed));
        let disk = drive.mount();
        let names: Vec<String> = disk.list("logs").unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["state"]);
        assert_eq!(all(&disk.open("logs/state", Open::Existing).unwrap()), b"state");
    }
}

#[test]
fn a_lost_truncation_brings_the_old_bytes_back() {
    for seed in 0..100 {
        let drive = drive();
        let disk = drive.mount();
        let file = synced(&disk, "a", &[7; 10_000]);
        file.set_len(512).unwrap();
        drive.cut_power(&mut random(seed));
        let bytes = all(&drive.mount().open("a", Open::Existing).unwrap());
        assert!([512, 10_000].contains(&bytes.len()), "a length that is set is there or not");
        assert!(bytes.iter().all(|byte| *byte == 7), "seed {seed}");
    }
}

#[test]
fn power_is_lost_in_the_middle_of_a_job() {
    for operations in 0..5 {
        let drive = drive();
        let disk = drive.mount();
        let file = synced(&disk, "a", &[1; 512]);
        drive.cut_power_after(operations, &mut random(operations));
        let outcome = (0..2).try_for_each(|round| {
            file.write_at(0, &[round + 2; 512])?;
            file.sync()
        });
        assert_eq!(outcome.is_err(), operations < 4);
        if outcome.is_err() {
            assert!(matches!(disk.list(""), Err(Error::Closed { .. })));
            let first = all(&drive.mount().open("a", Open::Existing).unwrap())[0];
            let synced_before = operations >= 2;
            assert!(if synced_before { first >= 2 } else { first <= 2 }, "{operations} operations: {first}");
        }
    }
}

#[test]
fn rot_and_damage_stay_until_the_bytes_are_written_again_and_the_truth_is_kept() {
    let drive = drive();
    let disk = drive.mount();
    let file = synced(&disk, "a", &[7; 2048]);
    drive.rot("a", 100, 3, &mut random(1)).unwrap();
    let shown = all(&file);
    assert_eq!(shown.iter().filter(|byte| **byte != 7).count(), 3);
    assert_eq!(all(&file), shown, "a retry sees the same");
    assert_eq!(all(&drive.inspect().open("a", Open::Existing).unwrap()), [7; 2048]);
    drive.damage("a", 512, 1).unwrap();
    let mut byte = [0];
    assert!(matches!(file.read_at(1023, &mut byte), Err(Error::Io { offset: 512, .. })));
    file.read_at(1024, &mut byte).unwrap();
    file.write_at(0, &[8; 2048]).unwrap();
    assert_eq!(all(&file), [8; 2048]);
}

#[test]
fn a_failed_sync_closes_the_drive_for_its_process() {
    let drive = drive();
    let disk = drive.mount();
    let file = synced(&disk, "a", &[1; 512]);
    file.write_at(0, &[2; 512]).unwrap();
    drive.fail_next_sync(&mut random(3));
    assert!(matches!(file.sync(), Err(Error::Io { .. })));
    assert!(matches!(file.sync(), Err(Error::Closed { .. })));
    assert!(disk.closed().unwrap().contains("sync of a failed"));
    assert!(drive.mount().closed().is_none());
}

#[test]
fn space_is_counted_reserved_and_given_back() {
    let drive = SimDrive::new("small", 10 * 4096);
    let disk = drive.mount();
    let free = || disk.space().unwrap().free / 4096;
    let file = disk.open("a", Open::New).unwrap();
    file.allocate(4 * 4096).unwrap();
    assert_eq!((file.len().unwrap(), free()), (4 * 4096, 6));
    file.write_at(0, &[1; 5 * 4096]).unwrap();
    assert_eq!(free(), 5);
    assert!(matches!(file.allocate(11 * 4096), Err(Error::Full { .. })));
    file.punch(4096, 2 * 4096).unwrap();
    assert_eq!(free(), 7);
    assert!(matches!(file.write_at(5 * 4096, &[1; 8 * 4096]), Err(Error::Full { .. })));
    assert_eq!((file.len().unwrap(), free()), (12 * 4096, 0), "what there was room for was written");
    file.set_len(5 * 4096).unwrap();
    assert_eq!(free(), 7);
    let mut bytes = [9; 4096];
    file.read_at(4096, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4096]);
    drive.set_full(true);
    file.write_at(0, b"an old block").unwrap();
    assert!(matches!(file.write_at(4096, b"a new block"), Err(Error::Full { .. })));
    drive.set_full(false);
    disk.remove("a").unwrap();
    drop(file);
    disk.sync_dir("").unwrap();
    assert_eq!(free(), 10);
}

#[test]
fn a_drive_that_is_gone_closes_at_the_next_look_and_an_old_copy_holds_the_past() {
    let drive = drive();
    let disk = drive.mount();
    let file = synced(&disk, "a", b"past");
    let copy = drive.copy("copy");
    file.write_at(0, b"more").unwrap();
    assert_eq!(all(&copy.mount().open("a", Open::Existing).unwrap()), b"past");
    drive.set_gone(Some("pulled"));
    assert!(matches!(file.read_at(0, &mut [0]), Err(Error::Closed { .. })));
    assert!(disk.verify().is_err());
    drive.set_gone(None);
    assert!(disk.verify().is_err(), "once found gone, gone for this process");
    assert_eq!(all(&drive.mount().open("a", Open::Existing).unwrap()), b"more");
}

#[test]
fn names_outside_of_the_drive_are_refused() {
    let disk = drive().mount();
    for name in ["../a", "/a", "a//b", ".", "a/../b", "A", "a/b/c/d", ""] {
        assert!(disk.open(name, Open::OrNew).is_err(), "{name}");
    }
}

quickcheck! {
    fn without_faults_a_file_is_what_a_vector_is(seed: u64, steps: u8) -> bool {
        let mut random = random(seed);
        let drive = drive();
        let mut disk = drive.mount();
        let mut file = disk.open("a", Open::New).unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        let (mut model, mut durable) = (Vec::<u8>::new(), Vec::<u8>::new());
        for step in 0..steps {
            let (offset, length) = (random.random_range(0..20_000), random.random_range(0..9_000));
            match random.random_range(0..7) {
                0 | 1 => {
                    if length > 0 {
                        model.resize(model.len().max(offset + length), 0);
                        model[offset..offset + length].fill(step);
                    }
                    file.write_at(offset as u64, &vec![step; length]).unwrap();
                }
                2 => {
                    model.resize(offset, 0);
                    file.set_len(offset as u64).unwrap();
                }
                3 => {
                    let (from, to) = (offset.min(model.len()), (offset + length).min(model.len()));
                    model[from..to].fill(0);
                    file.punch(offset as u64, length as u64).unwrap();
                }
                4 => {
                    file.sync().unwrap();
                    durable = model.clone();
                }
                5 => {
                    model.resize(model.len().max(length), 0);
                    file.allocate(length as u64).unwrap();
                }
                _ => {
                    let keeps = random.random_bool(0.5);
                    drive.cut_power_as(Some(if keeps { Cut::KeepAll } else { Cut::DropAll }), &mut random);
                    if !keeps {
                        model = durable.clone();
                    }
                    durable = model.clone();
                    disk = drive.mount();
                    file = disk.open("a", Open::Existing).unwrap();
                }
            }
            if all(&file) != model {
                return false;
            }
        }
        disk.remove("a").unwrap();
        disk.sync_dir("").unwrap();
        drop(file);
        let space = disk.space().unwrap();
        space.free == space.total
    }
}
