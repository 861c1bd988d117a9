//! Slot files on the raw drives: where each shard lies, and whether its bytes are what the format says. The checksum of a
//! block is computed here by itself, from the format's description and not by the product's function.

use bytes::Bytes;
use drive::inspect::{RecordView, ShardView, SlotView, address_of};
use drive::{SECTOR_BYTES, file_name};
use protocol::layout::{ShardAddress, SlotAddress};
use protocol::limits::SHARD_BLOCK_BYTES;
use protocol::{BlobId, DriveId, Home};
use runtime::disk::{Disk, DiskFile, Open};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where the shards of all slots lie, as far as they were looked for.
#[derive(Default)]
pub struct Slots(BTreeMap<(DriveId, SlotAddress), Index>);

#[derive(Default)]
struct Index {
    /// Records up to here were entered.
    end: u64,
    offsets: BTreeMap<BlobId, u64>,
}

/// A shard whose bytes were read and verified.
#[derive(Clone, Debug)]
pub struct Shard {
    pub view: ShardView,
    /// The record's place in its file.
    pub record: Range<u64>,
    pub bytes: Bytes,
}

impl Slots {
    /// The shard of `blob` in slot `at` of a drive, verified, or what is wrong.
    pub fn shard(&mut self, id: DriveId, disk: &dyn Disk, at: SlotAddress, blob: BlobId) -> Result<Shard, String> {
        let file = disk.open(&file_name(at), Open::Existing).map_err(|error| error.to_string())?;
        let slot = SlotView::open(&*file).map_err(|error| error.to_string())??;
        if slot.at != at {
            return Err(format!("its file says that it is {:?}", slot.at));
        }
        let index = self.0.entry((id, at)).or_default();
        let record = match index.find(&*file, &slot, blob) {
            Some(record) => record,
            None => {
                // Cut back or written over since it was looked at, or behind a record that is not intact.
                *index = Index::default();
                index.find_everywhere(&*file, &slot, blob).ok_or("no record of it")?
            }
        };
        let range = record.offset..record.offset + record.bytes;
        let view = record.shard.expect("found as a shard's");
        let bytes = verified(&*file, &view)?;
        Ok(Shard { view, record: range, bytes })
    }
}

impl Index {
    fn find(&mut self, file: &dyn DiskFile, slot: &SlotView, blob: BlobId) -> Option<RecordView> {
        let is = |record: &RecordView| record.shard.as_ref().is_some_and(|shard| shard.address.blob == blob);
        if let Some(offset) = self.offsets.get(&blob) {
            return slot.record(file, *offset).ok().flatten().filter(is);
        }
        let mut offset = self.end.max(SlotView::RECORDS_START);
        while let Ok(Some(record)) = slot.record(file, offset) {
            offset += record.bytes;
            self.end = offset;
            if let Some(shard) = &record.shard {
                self.offsets.insert(shard.address.blob, record.offset);
            }
            if is(&record) {
                return Some(record);
            }
        }
        None
    }

    fn find_everywhere(&mut self, file: &dyn DiskFile, slot: &SlotView, blob: BlobId) -> Option<RecordView> {
        let scan = scan(file, slot).ok()?;
        scan.records.into_iter().find(|record| record.shard.as_ref().is_some_and(|shard| shard.address.blob == blob))
    }
}

/// The records of a slot file, and what of it is none.
pub struct Scan {
    pub records: Vec<RecordView>,
    pub gaps: Vec<Range<u64>>,
    /// Bytes that were durable for certain: nothing below is torn.
    pub horizon: u64,
}

/// Walk over a slot file from end to end.
pub fn scan(file: &dyn DiskFile, slot: &SlotView) -> runtime::disk::Result<Scan> {
    let len = file.len()?;
    let mut scan = Scan { records: Vec::new(), gaps: Vec::new(), horizon: slot.durable };
    let mut offset = SlotView::RECORDS_START;
    while offset < len {
        match slot.record(file, offset)? {
            Some(record) => {
                offset += record.bytes;
                scan.horizon = scan.horizon.max(record.durable);
                scan.records.push(record);
            }
            None => {
                let end = (offset + SECTOR_BYTES as u64).min(len);
                match scan.gaps.last_mut() {
                    Some(gap) if gap.end == offset => gap.end = end,
                    _ => scan.gaps.push(offset..end),
                }
                offset = end;
            }
        }
    }
    if len < scan.horizon {
        scan.gaps.push(len..scan.horizon);
    }
    Ok(scan)
}

/// The slot files of a drive.
pub fn files(disk: &dyn Disk) -> runtime::disk::Result<Vec<SlotAddress>> {
    Ok(disk.list("slots")?.iter().filter_map(|entry| address_of(&entry.name)).collect())
}

/// The blobs of which a drive holds shards, each with the home that it says.
pub fn shards(disk: &dyn Disk) -> Vec<(BlobId, Home)> {
    let mut found = Vec::new();
    for at in files(disk).unwrap_or_default() {
        let Ok(file) = disk.open(&file_name(at), Open::Existing) else { continue };
        let Ok(Ok(slot)) = SlotView::open(&*file) else { continue };
        let Ok(scan) = scan(&*file, &slot) else { continue };
        let shards = scan.records.into_iter().filter_map(|record| record.shard);
        found.extend(shards.map(|shard| (shard.address.blob, shard.header.home)));
    }
    found
}

/// A shard's bytes, if block by block and as a whole they are what was written.
pub fn verified(file: &dyn DiskFile, view: &ShardView) -> Result<Bytes, String> {
    let mut bytes = vec![0; usize::try_from(view.bytes.end - view.bytes.start).map_err(|error| error.to_string())?];
    file.read_at(view.bytes.start, &mut bytes).map_err(|error| error.to_string())?;
    check_blocks(&view.address, &view.block_checksums, &bytes)?;
    let expected = view.header.shard_checksums.get(usize::from(view.address.at.slot.0)).ok_or("its slot has no checksum")?;
    let got = erasure::checksum(&bytes);
    if got != *expected {
        return Err(format!("the shard has checksum {got:016x}, its writer signed {expected:016x}"));
    }
    Ok(bytes.into())
}

fn check_blocks(address: &ShardAddress, expected: &[u32], bytes: &[u8]) -> Result<(), String> {
    if bytes.chunks(SHARD_BLOCK_BYTES).len() != expected.len() {
        return Err(format!("{} bytes under {} checksums of blocks", bytes.len(), expected.len()));
    }
    for ((block, expected), index) in bytes.chunks(SHARD_BLOCK_BYTES).zip(expected).zip(0u32..) {
        let got = block_checksum(address, index, block);
        if got != *expected {
            return Err(format!("block {index} has checksum {got:08x}, its record says {expected:08x}"));
        }
    }
    Ok(())
}

/// CRC-32C of volume, generation, slot, writer, counter, index, length and bytes of a block, as the README of `drive` says.
fn block_checksum(address: &ShardAddress, index: u32, block: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&address.at.volume.0.to_le_bytes());
    digest.update(&address.at.generation.0.to_le_bytes());
    digest.update(&[address.at.slot.0]);
    digest.update(&address.blob.writer.0.to_le_bytes());
    digest.update(&address.blob.counter.to_le_bytes());
    digest.update(&index.to_le_bytes());
    digest.update(&u32::try_from(block.len()).expect("a block has 64 KiB").to_le_bytes());
    digest.update(block);
    u32::try_from(digest.finalize()).expect("a CRC-32 has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Generation, SlotIndex, VolumeId, WriterId};

    fn address(counter: u64) -> ShardAddress {
        let at = SlotAddress { volume: VolumeId(1), generation: Generation(0), slot: SlotIndex(2) };
        ShardAddress { at, blob: BlobId { writer: WriterId(3), counter } }
    }

    #[test]
    fn the_format_as_described_is_the_format_as_written() {
        let bytes = vec![7; SHARD_BLOCK_BYTES + 9];
        for (block, index) in bytes.chunks(SHARD_BLOCK_BYTES).zip(0..) {
            assert_eq!(block_checksum(&address(4), index, block), drive::block_checksum(&address(4), index, block));
        }
    }

    #[test]
    fn a_flipped_byte_another_address_and_a_missing_checksum_are_found() {
        let mut bytes = vec![7; SHARD_BLOCK_BYTES + 9];
        let sums: Vec<u32> =
            bytes.chunks(SHARD_BLOCK_BYTES).zip(0..).map(|(block, index)| block_checksum(&address(4), index, block)).collect();
        assert_eq!(check_blocks(&address(4), &sums, &bytes), Ok(()));
        assert!(check_blocks(&address(5), &sums, &bytes).is_err());
        assert!(check_blocks(&address(4), &sums[..1], &bytes).is_err());
        bytes[SHARD_BLOCK_BYTES + 3] ^= 1;
        assert!(check_blocks(&address(4), &sums, &bytes).is_err());
    }
}
