//! A slot file as it lies on a drive, read without changing it and without recovery: for the simulator's judge. No
//! product code may use it: it decides nothing and repairs nothing.

use crate::SECTOR_BYTES;
use crate::record::{self, Content, Frame, HEADER_BYTES_MAX};
use crate::slot_header::{self, RECORDS_START};
use protocol::layout::{ShardAddress, ShardHeader, SlotAddress};
use protocol::{Epoch, Scheme};
use runtime::disk::{self, DiskFile};
use std::ops::Range;

/// The header of a slot file.
#[derive(Clone, Debug)]
pub struct SlotView {
    pub at: SlotAddress,
    pub scheme: Scheme,
    pub epoch: Epoch,
    pub sealed: bool,
    /// Bytes of the file that were durable before the header was written.
    pub durable: u64,
    /// Both copies of the header are intact.
    pub whole: bool,
    frame: Frame,
}

/// A record of a slot file, its shard's bytes not yet looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordView {
    pub offset: u64,
    /// From the first byte of its header to the next record.
    pub bytes: u64,
    /// Bytes of the file that were durable before this record was written.
    pub durable: u64,
    /// `None`: a void, left by recovery.
    pub shard: Option<ShardView>,
}

/// A shard as its record describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardView {
    pub address: ShardAddress,
    /// Under which it was appended.
    pub epoch: Epoch,
    pub header: ShardHeader,
    /// Where its bytes lie in the file.
    pub bytes: Range<u64>,
    /// CRC-32C of each block of 64 KiB, with its address (see README.md).
    pub block_checksums: Vec<u32>,
}

/// The address in the name of a slot's file, without its folder; `None` if it is the name of something else.
pub fn address_of(name: &str) -> Option<SlotAddress> {
    crate::drive::parse_file_name(name)
}

impl SlotView {
    /// Where the first record lies.
    pub const RECORDS_START: u64 = RECORDS_START;

    /// Read the header of a slot file, or say why there is none.
    pub fn open(file: &dyn DiskFile) -> disk::Result<Result<SlotView, String>> {
        Ok(slot_header::read(file)?.map(|headers| {
            let header = headers.newest;
            let frame = Frame { salt: header.salt, at: header.address, scheme: header.scheme };
            SlotView {
                at: header.address,
                scheme: header.scheme,
                epoch: header.epoch,
                sealed: header.sealed,
                durable: header.durable,
                whole: !headers.damaged,
                frame,
            }
        }))
    }

    /// The record whose header lies at `offset`, if an intact one does and the file is long enough for all of it.
    pub fn record(&self, file: &dyn DiskFile, offset: u64) -> disk::Result<Option<RecordView>> {
        let len = file.len()?;
        let Some(header) = read_sectors(file, offset, len)? else { return Ok(None) };
        let Some(record) = record::decode(&header, offset, &self.frame) else { return Ok(None) };
        let (header_bytes, bytes, durable) = (record.header_bytes() as u64, record.total_bytes(), record.durable);
        if offset + bytes > len {
            return Ok(None);
        }
        let shard = match record.content {
            Content::Void { .. } => None,
            Content::Shard(shard) => {
                let from = offset + header_bytes;
                let bytes = from..from + shard.bytes() as u64;
                Some(ShardView {
                    address: shard.address,
                    epoch: shard.epoch,
                    header: shard.header,
                    bytes,
                    block_checksums: shard.block_checksums,
                })
            }
        };
        Ok(Some(RecordView { offset, bytes, durable, shard }))
    }
}

/// The sectors of the longest header from `offset`, fewer where the file or what can be read of it ends.
fn read_sectors(file: &dyn DiskFile, offset: u64, len: u64) -> disk::Result<Option<Vec<u8>>> {
    let there = len.saturating_sub(offset).min(HEADER_BYTES_MAX as u64) as usize;
    let mut bytes = vec![0; there / SECTOR_BYTES * SECTOR_BYTES];
    loop {
        match file.read_at(offset, &mut bytes) {
            Ok(()) => return Ok(Some(bytes)),
            Err(disk::Error::Io { .. }) if bytes.len() > SECTOR_BYTES => bytes.truncate(bytes.len() - SECTOR_BYTES),
            Err(disk::Error::Io { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
