//! What a faulty drive shows, while the truth is kept apart.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test: what fails here fails it")]

use runtime::disk::{Disk, DiskFile, Error, Open};
use runtime::side::{Cut, FaultMark, SimDrive, Wrong, stream_for};
use std::collections::BTreeSet;
use std::sync::Arc;

const PAGE: usize = 4096;

fn drive() -> SimDrive {
    SimDrive::new("drive", 16 << 20)
}

fn random(seed: u64) -> rand_chacha::ChaCha12Rng {
    stream_for(seed, "test", 0, 0)
}

fn all(file: &Arc<dyn DiskFile>) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn content(disk: &Arc<dyn Disk>, name: &str) -> Vec<u8> {
    all(&disk.open(name, Open::Existing).unwrap())
}

fn synced(disk: &Arc<dyn Disk>, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(name, Open::New).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file
}

fn mark(file: &str, bytes: std::ops::Range<u64>, wrong: Wrong) -> FaultMark {
    FaultMark { file: file.to_string(), bytes, wrong }
}

#[test]
fn a_lost_write_is_reported_as_done_and_synced_and_the_old_bytes_are_shown() {
    let drive = drive();
    let disk = drive.mount();
    let file = synced(&disk, "a", &[1; 2000]);
    drive.lose_next_write("");
    file.write_at(100, &[2; 900]).unwrap();
    file.sync().unwrap();
    assert_eq!(all(&file), [1; 2000], "and a retry shows the same");
    assert_eq!(all(&file), [1; 2000]);
    let truth = content(&drive.inspect(), "a");
    assert!(truth[100..1000] == [2; 900] && truth[..100] == [1; 100]);
    assert_eq!(content(&drive.durable(), "a"), truth, "what was synced is durable; that it is not there is the fault's doing");
    assert_eq!(drive.fault_marks(), [mark("a", 100..1000, Wrong::Lost)]);
    drive.cut_power(&mut random(1));
    let disk = drive.mount();
    assert_eq!(content(&disk, "a"), [1; 2000]);
    let file = disk.open("a", Open::Existing).unwrap();
    file.write_at(500, &[3; 1500]).unwrap();
    assert_eq!(drive.fault_marks(), [mark("a", 100..500, Wrong::Lost)], "what is written anew is whole");
    assert!(all(&file)[500..] == [3; 1500]);
}

#[test]
fn a_lost_write_in_a_folder_leaves_others_alone() {
    let drive = drive();
    let disk = drive.mount();
    disk.create_folder("slots").unwrap();
    drive.lose_next_write("slots");
    synced(&disk, "a", &[1; 100]);
    assert!(drive.awaits_fault());
    synced(&disk, "slots/b", &[1; 100]);
    assert!(!drive.awaits_fault());
    assert_eq!(content(&disk, "a"), [1; 100]);
    assert_eq!(content(&disk, "slots/b"), [0; 100]);
}

#[test]
fn a_misdirected_write_leaves_both_places_wrong() {
    let mut victims = BTreeSet::new();
    for seed in 0..40 {
        let drive = drive();
        let disk = drive.mount();
        let a = synced(&disk, "a", &[1; 4 * PAGE]);
        synced(&disk, "b", &[2; 4 * PAGE]);
        drive.misdirect_next_write("", &mut random(seed));
        a.write_at(PAGE as u64, &[9; PAGE]).unwrap();
        a.sync().unwrap();
        let marks = drive.fault_marks();
        let lost = mark("a", PAGE as u64..2 * PAGE as u64, Wrong::Lost);
        assert!(marks.contains(&lost), "seed {seed}: {marks:?}");
        let other: Vec<&FaultMark> = marks.iter().filter(|mark| **mark != lost).collect();
        assert_eq!(other.len(), 1, "seed {seed}: {marks:?}");
        let FaultMark { file, bytes, wrong } = other[0];
        assert_eq!((*wrong, bytes.end - bytes.start), (Wrong::Overwritten, PAGE as u64));
        assert_eq!(content(&disk, file)[bytes.start as usize..bytes.end as usize], [9; PAGE]);
        assert!(content(&disk, "a")[PAGE..2 * PAGE] == [1; PAGE]);
        let truth = content(&drive.inspect(), file);
        assert!(!truth[bytes.start as usize..bytes.end as usize].contains(&9), "the truth of the place that was hit is kept");
        victims.insert(file.clone());
    }
    assert_eq!(victims.len(), 2, "the same file is hit, and the other");
}

#[test]
fn a_misdirected_read_gives_other_bytes_once() {
    let drive = drive();
    let disk = drive.mount();
    let a = synced(&disk, "a", &[1; PAGE]);
    synced(&disk, "b", &[2; PAGE]);
    drive.misdirect_next_read("", &mut random(3));
    assert_eq!(all(&a), [2; PAGE], "there is one other place");
    assert_eq!(all(&a), [1; PAGE]);
    assert_eq!(drive.fault_marks(), []);
}

#[test]
fn faults_of_bytes_come_back_if_what_was_written_over_them_is_lost() {
    let drive = drive();
    let disk = drive.mount();
    let file = synced(&disk, "a", &[7; 2048]);
    drive.rot("a", 10, 1, &mut random(1)).unwrap();
    drive.damage("a", 1024, 512).unwrap();
    let marks = drive.fault_marks();
    assert_eq!(marks, [mark("a", 10..11, Wrong::Rotten), mark("a", 1024..1536, Wrong::Unreadable)]);
    file.write_at(0, &[7; 2048]).unwrap();
    assert_eq!((all(&file), drive.fault_marks()), (vec![7; 2048], vec![]));
    drive.cut_power_as(Some(Cut::DropAll), &mut random(1));
    assert_eq!(drive.fault_marks(), marks, "the medium was never written to");
    let file = drive.mount().open("a", Open::Existing).unwrap();
    file.write_at(0, &[7; 2048]).unwrap();
    file.sync().unwrap();
    drive.cut_power_as(Some(Cut::DropAll), &mut random(1));
    assert_eq!(drive.fault_marks(), []);
}

#[test]
fn space_runs_out_in_the_middle_of_a_write() {
    let drive = drive();
    let disk = drive.mount();
    let file = synced(&disk, "a", &[1; PAGE]);
    drive.set_free(Some(2 * PAGE as u64));
    assert_eq!(disk.space().unwrap().free, 2 * PAGE as u64);
    assert!(matches!(file.write_at(100, &[2; 5 * PAGE]), Err(Error::Full { .. })));
    assert_eq!(file.len().unwrap(), 3 * PAGE as u64, "what there was room for is there");
    assert!(all(&file)[100..] == [2; 3 * PAGE - 100]);
    assert!(matches!(file.write_at(3 * PAGE as u64, &[2]), Err(Error::Full { .. })));
    file.write_at(0, &[3; PAGE]).unwrap();
    drive.set_free(None);
    file.write_at(3 * PAGE as u64, &[2]).unwrap();
}

#[test]
fn a_drive_that_refuses_writes_still_reads() {
    let drive = drive();
    let disk = drive.mount();
    let file = synced(&disk, "a", &[1; 512]);
    drive.set_refuses_writes(true);
    assert!(matches!(file.write_at(0, &[2; 512]), Err(Error::Io { .. })));
    assert!(matches!(disk.open("b", Open::New), Err(Error::Io { .. })));
    assert_eq!(all(&file), [1; 512]);
    drive.set_refuses_writes(false);
    file.write_at(0, &[2; 512]).unwrap();
}

#[test]
fn the_durable_view_has_no_unsynced_byte_and_no_unsynced_name() {
    let drive = drive();
    let disk = drive.mount();
    let durable = drive.durable();
    let file = synced(&disk, "a", &[1; 3000]);
    file.write_at(2000, &[2; 4000]).unwrap();
    let b = disk.open("b", Open::New).unwrap();
    b.write_at(0, b"synced, but its name is not").unwrap();
    b.sync().unwrap();
    assert_eq!(content(&durable, "a"), [1; 3000]);
    let names = |disk: &Arc<dyn Disk>| disk.list("").unwrap().into_iter().map(|entry| (entry.name, entry.bytes)).collect::<Vec<_>>();
    assert_eq!(names(&durable), [("a".to_string(), 3000)]);
    assert_eq!(names(&drive.inspect()).len(), 2);
    disk.rename("b", "a").unwrap();
    assert_eq!(content(&durable, "a"), [1; 3000], "a rename is durable with its folder");
    disk.sync_dir("").unwrap();
    assert_eq!(content(&durable, "a"), b"synced, but its name is not");
    drive.rot("a", 0, 5, &mut random(1)).unwrap();
    assert_eq!(content(&durable, "a"), b"synced, but its name is not", "faults are told apart");
    assert!(durable.open("a", Open::Existing).unwrap().write_at(0, b"no").is_err());
    let before = drive.operations();
    content(&durable, "a");
    assert_eq!(drive.operations(), before);
}

#[test]
fn drives_that_are_swapped_show_each_others_files_to_who_mounts_them_next() {
    let (one, other) = (SimDrive::new("one", 1 << 20), SimDrive::new("other", 1 << 20));
    let disk = one.mount();
    let file = synced(&disk, "a", b"one");
    synced(&other.mount(), "a", b"other");
    one.swap_contents(&other);
    assert!(matches!(file.read_at(0, &mut [0]), Err(Error::Closed { .. })));
    assert!(disk.verify().is_err() && disk.closed().is_some());
    assert_eq!(content(&one.mount(), "a"), b"other");
    assert_eq!(content(&other.mount(), "a"), b"one");
}

#[test]
fn an_old_copy_is_brought_back_under_the_same_mount() {
    let drive = drive();
    let disk = drive.mount();
    let file = synced(&disk, "a", b"old");
    let copy = drive.copy("copy");
    file.write_at(0, b"new").unwrap();
    file.sync().unwrap();
    drive.bring_back(&copy);
    assert!(matches!(file.write_at(0, b"zombie"), Err(Error::Closed { .. })));
    let disk = drive.mount();
    assert_eq!(content(&disk, "a"), b"old");
    disk.open("a", Open::Existing).unwrap().write_at(0, b"own").unwrap();
    assert_eq!(content(&copy.mount(), "a"), b"old", "the copy is still what it was");
}

#[test]
fn a_drive_mounted_twice_is_written_by_both() {
    let drive = drive();
    let one = drive.mount();
    let mine = synced(&one, "a", b"mine");
    let other = drive.mount_again();
    assert_eq!(drive.mounts(), 2);
    let theirs = other.open("a", Open::Existing).unwrap();
    theirs.write_at(0, b"ours").unwrap();
    assert_eq!(all(&mine), b"ours");
    mine.sync().unwrap();
    assert_eq!(content(&drive.durable(), "a"), b"ours", "they are synced together");
    other.remove("a").unwrap();
    other.sync_dir("").unwrap();
    assert_eq!(all(&mine), b"ours", "who has it open keeps it");
    let third = drive.mount();
    assert!(one.list("").is_err() && other.list("").is_err(), "a mount as ever ends all earlier ones");
    assert!(third.list("").unwrap().is_empty());
}

#[test]
fn a_drive_that_failed_for_good_does_not_come_back() {
    let drive = drive();
    let disk = drive.mount();
    synced(&disk, "a", b"a");
    drive.fail_for_good("head crash");
    drive.set_gone(None);
    assert!(drive.has_failed() && drive.gone().is_some());
    assert!(matches!(drive.mount().list(""), Err(Error::Closed { .. })));
}

#[test]
fn a_sector_that_was_written_twice_may_hold_the_first_of_both_after_a_power_cut() {
    let mut kept = BTreeSet::new();
    for seed in 0..100 {
        let drive = drive();
        let file = synced(&drive.mount(), "a", &[1; 512]);
        file.write_at(0, &[2; 512]).unwrap();
        file.write_at(0, &[3; 512]).unwrap();
        drive.cut_power(&mut random(seed));
        kept.insert(content(&drive.mount(), "a")[0]);
    }
    assert_eq!(kept, BTreeSet::from([1, 2, 3]));
}
