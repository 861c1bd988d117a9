//! Superblocks on a drive in memory: what is refused, and power cuts.
//! On the real executor: one process runs one simulation, and these are many.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod memory_disk;

use drive::{Found, format, inspect, mount};
use memory_disk::{Draw, MemoryDisk};
use protocol::{ClusterId, DriveId};

const CLUSTER: ClusterId = ClusterId(42);
const DRIVE: DriveId = DriveId(65536);

fn refusal(disk: &MemoryDisk, cluster: ClusterId, drive: DriveId) -> String {
    mount(&disk.disk(), cluster, drive).unwrap_err().to_string()
}

#[test]
fn a_formatted_drive_mounts_with_a_higher_number_each_time() {
    let disk = MemoryDisk::new();
    assert_eq!(inspect(&disk.disk()).unwrap(), Found::Empty);
    let formatted = format(&disk.disk(), CLUSTER, DRIVE).unwrap();
    assert_eq!(inspect(&disk.disk()).unwrap(), Found::Formatted(formatted));
    for mounts in 1..5 {
        let mounted = mount(&disk.disk(), CLUSTER, DRIVE).unwrap();
        assert_eq!((mounted.uuid, mounted.mounts), (formatted.uuid, mounts));
    }
    assert!(format(&disk.disk(), CLUSTER, DRIVE).unwrap_err().to_string().contains("already"));
}

#[test]
fn every_wrong_drive_is_refused_by_name() {
    let disk = MemoryDisk::new();
    assert!(refusal(&disk, CLUSTER, DRIVE).starts_with("memory: empty"));
    disk.set_content("holiday.jpg", vec![1]);
    assert!(refusal(&disk, CLUSTER, DRIVE).contains("`holiday.jpg`"));
    assert!(format(&disk.disk(), CLUSTER, DRIVE).unwrap_err().to_string().contains("`holiday.jpg`"));

    let disk = MemoryDisk::new();
    disk.set_content("slots/0000000000000001-00000001-00.slot", vec![1]);
    assert!(format(&disk.disk(), CLUSTER, DRIVE).is_err(), "a drive that lost its superblocks still holds data");

    let disk = MemoryDisk::new();
    format(&disk.disk(), CLUSTER, DRIVE).unwrap();
    assert!(refusal(&disk, ClusterId(43), DRIVE).contains("another cluster"));
    assert!(refusal(&disk, CLUSTER, DriveId(7)).contains("swapped"));
    disk.rot("superblock-a", 30);
    disk.rot("superblock-b", 500);
    assert!(refusal(&disk, CLUSTER, DRIVE).contains("corrupted superblock"));
    assert!(format(&disk.disk(), CLUSTER, DRIVE).is_err());
}

#[test]
fn torn_superblock_write_recovers_the_previous_one() {
    for seed in 0..300 {
        let mut draw = Draw(seed);
        let mut disk = MemoryDisk::new();
        let mut formatted = None;
        let mut mounts = 0;
        for _ in 0..8 {
            disk.cut_after(draw.below(12));
            let mounted = if formatted.is_none() { format(&disk.disk(), CLUSTER, DRIVE) } else { mount(&disk.disk(), CLUSTER, DRIVE) };
            if let Ok(identity) = mounted {
                assert!(formatted.is_none_or(|uuid| uuid == identity.uuid) && (identity.mounts > mounts || identity.mounts == 0));
                formatted = Some(identity.uuid);
                mounts = identity.mounts;
            }
            disk = disk.after_power_cut(&mut draw);
            match inspect(&disk.disk()).unwrap() {
                Found::Empty => assert!(formatted.is_none(), "seed {seed}"),
                Found::Formatted(identity) => {
                    assert!(identity.mounts >= mounts, "seed {seed}: a mount number would be given out twice");
                    formatted = Some(identity.uuid);
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
    }
}

#[test]
fn rot_of_one_copy_neither_refuses_the_drive_nor_repeats_a_mount_number() {
    for copy in ["superblock-a", "superblock-b"] {
        for mounts in 0..4 {
            let disk = MemoryDisk::new();
            format(&disk.disk(), CLUSTER, DRIVE).unwrap();
            let mut last = 0;
            for _ in 0..mounts {
                last = mount(&disk.disk(), CLUSTER, DRIVE).unwrap().mounts;
            }
            disk.rot(copy, 70);
            for _ in 0..3 {
                let now = mount(&disk.disk(), CLUSTER, DRIVE).unwrap().mounts;
                assert!(now > last);
                last = now;
            }
        }
    }
}
