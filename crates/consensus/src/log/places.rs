//! Where on a drive the entries of its log lie, sector by sector: for faults that are to hit certain ones.

use super::recovery::Segment;
use super::{FOLDER, generation_of, segment_name};
use protocol::{GroupId, ReplicaId};
use runtime::disk::{self, Disk, Open};

const PAYLOAD_BYTES: u64 = super::sector::PAYLOAD_BYTES as u64;

/// A sector that holds entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntrySector {
    pub file: String,
    /// Bytes into the file.
    pub offset: u64,
    /// Group, replica and index of each entry that is lost with it.
    pub entries: Vec<(GroupId, ReplicaId, u64)>,
    /// It is of the last batch that was written.
    pub last_batch: bool,
}

/// All sectors of the log on `disk` that hold entries, those that are needed no more among them, oldest first.
pub fn entry_sectors(disk: &dyn Disk) -> disk::Result<Vec<EntrySector>> {
    let mut generations: Vec<u64> = disk.list(FOLDER)?.iter().filter_map(|entry| generation_of(&entry.name)).collect();
    generations.sort_unstable();
    let mut sectors: Vec<EntrySector> = Vec::new();
    for generation in generations {
        let name = segment_name(generation);
        let Ok(segment) = Segment::read(disk.open(&name, Open::Existing)?.as_ref(), generation) else { continue };
        for (first, read) in segment.reads() {
            let Some(head) = read.decode_head() else { continue };
            sectors.iter_mut().for_each(|sector| sector.last_batch = false);
            for record in head.records.iter().filter(|record| record.bytes > 0) {
                // With one sector of it all entries of the record are lost.
                let entries = || record.names().map(|(index, _)| (record.key.group, record.key.replica, index));
                let bytes = u64::from(record.offset)..u64::from(record.offset) + u64::from(record.bytes);
                for nth in bytes.start / PAYLOAD_BYTES..=(bytes.end - 1) / PAYLOAD_BYTES {
                    let offset = (first as u64 + read.head as u64 + nth) * super::SECTOR_BYTES as u64;
                    match sectors.last_mut().filter(|last| last.offset == offset && last.file == name) {
                        Some(last) => last.entries.extend(entries()),
                        None => sectors.push(EntrySector { file: name.clone(), offset, entries: entries().collect(), last_batch: true }),
                    }
                }
            }
        }
    }
    Ok(sectors)
}
