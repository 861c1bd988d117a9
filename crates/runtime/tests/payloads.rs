//! Payloads of a short period cost next to nothing, however many gigabytes of them a simulation writes.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test: what fails here fails it")]

use runtime::disk::{Disk, DiskFile, Open};
use runtime::side::{SimDrive, shared_page_bytes};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
/// What a shard lies behind: then no page of it begins where its payload does.
const HEADER_BYTES: u64 = 1536;

fn resident_bytes() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "the memory of this very process")]
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn fill(disk: &Arc<dyn Disk>, name: &str, bytes: u64, drive: u64) -> Arc<dyn DiskFile> {
    let file = disk.open(name, Open::New).unwrap();
    let mut offset = 0;
    while offset < bytes {
        // Each shard repeats its own 64 bytes.
        let period: Vec<u8> = (0..64).map(|byte| (byte * 7 + offset / MIB + drive * 31) as u8).collect();
        file.write_at(offset, &vec![0xcc; HEADER_BYTES as usize]).unwrap();
        file.write_at(offset + HEADER_BYTES, &period.repeat(((MIB - HEADER_BYTES) / 64) as usize)).unwrap();
        file.sync().unwrap();
        offset += MIB;
    }
    file
}

#[test]
fn gigabytes_of_short_period_payload_and_of_zeros_stay_below_a_hundred_megabytes() {
    let before = resident_bytes();
    // A quarter of a gigabyte for each of eight drives; as much again in zeros.
    let drives: Vec<SimDrive> = (0..8).map(|number| SimDrive::new(&format!("drive {number}"), 4 << 30)).collect();
    let mut files = Vec::new();
    for (number, drive) in drives.iter().enumerate() {
        let disk = drive.mount();
        let file = fill(&disk, "a", 256 * MIB, number as u64);
        for offset in 256..512 {
            file.write_at(offset * MIB, &vec![0; MIB as usize]).unwrap();
        }
        file.sync().unwrap();
        assert_eq!(disk.space().unwrap().free, (4 << 30) - 512 * MIB, "space is counted as written");
        files.push(file);
    }
    let grown = resident_bytes().saturating_sub(before);
    println!("4 GiB written: {} MiB more resident, {} MiB of pages", grown / MIB, shared_page_bytes() / MIB);
    assert!(grown < 100 * MIB, "{} MiB", grown / MIB);
    assert!(shared_page_bytes() < 16 * MIB);
    let mut bytes = vec![0; 64];
    files[3].read_at(77 * MIB + HEADER_BYTES + 640, &mut bytes).unwrap();
    assert_eq!(bytes, (0..64).map(|byte| (byte * 7 + 77 + 3 * 31) as u8).collect::<Vec<u8>>());
    drop(files);
    drop(drives);
    assert_eq!(shared_page_bytes(), 0, "nobody refers to a page any more");
}
