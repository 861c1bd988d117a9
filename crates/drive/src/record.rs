//! A record of a slot file: one shard, describing itself. Header sectors, then the shard's bytes, then zeros up to
//! the sector's end.
//! Invariants: a header says where it lies and in which slot, so that a write that went elsewhere cannot pass;
//! the checksum of a block covers the shard's address, so that other data's block cannot pass.

use crate::slot_header::{FORMAT_VERSION, decode_scheme, encode_scheme};
use crate::{Refusal, SECTOR_BYTES, crc_holds, seal_with_crc};
use bytes::{Buf, BufMut, Bytes};
use erasure::Code;
use protocol::layout::{ShardAddress, ShardHeader, SlotAddress};
use protocol::limits::{BLOB_BYTES_MAX, SHARD_BLOCK_BYTES, SLOTS_MAX};
use protocol::{BlobId, BucketId, Epoch, Generation, Home, Scheme, SlotIndex, VolumeId, WriterId};

pub(crate) const MAGIC: &[u8; 8] = b"KSTNRECD";
/// Bytes of a header before its two tables.
const FIXED_BYTES: usize = 120;
/// The most that a header can have: all shard checksums, and the blocks of a whole copy of the largest blob.
pub(crate) const HEADER_BYTES_MAX: usize =
    (FIXED_BYTES + 8 * SLOTS_MAX + 4 * (BLOB_BYTES_MAX / SHARD_BLOCK_BYTES) + 4).next_multiple_of(SECTOR_BYTES);

const KIND_SHARD: u8 = 1;
const KIND_VOID: u8 = 2;

/// A record without its shard's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// Where in the file it lies.
    pub offset: u64,
    /// Bytes of the file that were durable before this record was written: damage below it is no torn write.
    pub durable: u64,
    pub content: Content,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    Shard(Shard),
    /// A torn write that recovery has marked: nothing is here.
    Void {
        /// After the header.
        bytes: u32,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shard {
    pub address: ShardAddress,
    /// Under which it was appended.
    pub epoch: Epoch,
    pub header: ShardHeader,
    /// CRC-32C of each block of 64 KiB, with its address.
    pub block_checksums: Vec<u32>,
}

/// What makes a file's records its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub salt: u64,
    pub at: SlotAddress,
    pub scheme: Scheme,
}

impl Shard {
    pub(crate) fn bytes(&self) -> usize {
        shard_bytes(&self.header)
    }
}

impl Record {
    pub(crate) fn header_bytes(&self) -> usize {
        match &self.content {
            Content::Shard(shard) => header_bytes(shard.header.scheme, shard.bytes()),
            Content::Void { .. } => SECTOR_BYTES,
        }
    }

    /// From the first byte of the header to the next record.
    pub(crate) fn total_bytes(&self) -> u64 {
        let payload = match &self.content {
            Content::Shard(shard) => shard.bytes(),
            Content::Void { bytes } => *bytes as usize,
        };
        (self.header_bytes() + payload.next_multiple_of(SECTOR_BYTES)) as u64
    }

    /// The header's sectors.
    pub(crate) fn encode(&self, frame: &Frame) -> Vec<u8> {
        let header_bytes = self.header_bytes();
        let mut out = Vec::with_capacity(header_bytes);
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(header_bytes as u32);
        out.put_u64_le(frame.salt);
        out.put_u64_le(self.offset);
        out.put_u64_le(self.durable);
        out.put_u8(if matches!(self.content, Content::Shard(_)) { KIND_SHARD } else { KIND_VOID });
        out.put_u8(frame.at.slot.0);
        out.put_slice(&encode_scheme(frame.scheme));
        out.put_bytes(0, 3);
        out.put_u64_le(frame.at.volume.0);
        out.put_u32_le(frame.at.generation.0);
        match &self.content {
            Content::Void { bytes } => out.put_u32_le(*bytes),
            Content::Shard(shard) => {
                out.put_u32_le(shard.bytes() as u32);
                out.put_u64_le(shard.address.blob.writer.0);
                out.put_u64_le(shard.address.blob.counter);
                out.put_u64_le(shard.header.home.bucket.0);
                out.put_u64_le(shard.header.home.key_hash);
                out.put_u32_le(shard.header.blob_bytes);
                out.put_u32_le(0);
                out.put_u64_le(shard.header.blob_checksum);
                out.put_u64_le(shard.epoch.0);
                shard.header.shard_checksums.iter().for_each(|&checksum| out.put_u64_le(checksum));
                shard.block_checksums.iter().for_each(|&checksum| out.put_u32_le(checksum));
            }
        }
        out.resize(header_bytes, 0);
        seal_with_crc(&mut out);
        out
    }
}

/// The record whose header starts `bytes`, if it is intact, lies at `offset`, and belongs to this file.
/// `bytes` should hold [`HEADER_BYTES_MAX`] unless the file ends before.
pub(crate) fn decode(bytes: &[u8], offset: u64, frame: &Frame) -> Option<Record> {
    if bytes.len() < SECTOR_BYTES || bytes[..8] != MAGIC[..] {
        return None;
    }
    let mut fields = &bytes[8..];
    let format_version = fields.get_u32_le();
    let header_bytes = fields.get_u32_le() as usize;
    let length_sound = header_bytes.is_multiple_of(SECTOR_BYTES) && (SECTOR_BYTES..=HEADER_BYTES_MAX).contains(&header_bytes);
    if format_version != FORMAT_VERSION || !length_sound || bytes.len() < header_bytes || !crc_holds(&bytes[..header_bytes]) {
        return None;
    }
    let salt = fields.get_u64_le();
    let written_at = fields.get_u64_le();
    let durable = fields.get_u64_le();
    let kind = fields.get_u8();
    let slot = SlotIndex(fields.get_u8());
    let scheme = decode_scheme([fields.get_u8(), fields.get_u8(), fields.get_u8()])?;
    fields.advance(3);
    let at = SlotAddress { volume: VolumeId(fields.get_u64_le()), generation: Generation(fields.get_u32_le()), slot };
    if salt != frame.salt || written_at != offset || at != frame.at || scheme != frame.scheme || durable > offset {
        return None;
    }
    let payload = fields.get_u32_le();
    if kind == KIND_VOID {
        let sound = header_bytes == SECTOR_BYTES && (payload as usize).is_multiple_of(SECTOR_BYTES);
        return sound.then_some(Record { offset, durable, content: Content::Void { bytes: payload } });
    }
    if kind != KIND_SHARD {
        return None;
    }
    let blob = BlobId { writer: WriterId(fields.get_u64_le()), counter: fields.get_u64_le() };
    let home = Home { bucket: BucketId(fields.get_u64_le()), key_hash: fields.get_u64_le() };
    let blob_bytes = fields.get_u32_le();
    fields.advance(4);
    let blob_checksum = fields.get_u64_le();
    let epoch = Epoch(fields.get_u64_le());
    if blob_bytes as usize > BLOB_BYTES_MAX {
        return None;
    }
    let shard_bytes = erasure::shard_bytes(code_of(scheme), blob_bytes as usize);
    if payload as usize != shard_bytes || header_bytes != self::header_bytes(scheme, shard_bytes) {
        return None;
    }
    let shard_checksums = (0..scheme.total()).map(|_| fields.get_u64_le()).collect();
    let block_checksums = (0..block_count(shard_bytes)).map(|_| fields.get_u32_le()).collect();
    let header = ShardHeader { home, scheme, blob_bytes, blob_checksum, shard_checksums };
    let shard = Shard { address: ShardAddress { at, blob }, epoch, header, block_checksums };
    Some(Record { offset, durable, content: Content::Shard(shard) })
}

fn header_bytes(scheme: Scheme, shard_bytes: usize) -> usize {
    (FIXED_BYTES + 8 * scheme.total() + 4 * block_count(shard_bytes) + 4).next_multiple_of(SECTOR_BYTES)
}

pub(crate) fn code_of(scheme: Scheme) -> Code {
    Code { data: scheme.data(), parity: scheme.parity() }
}

/// Bytes of each shard of the blob that `header` describes.
pub(crate) fn shard_bytes(header: &ShardHeader) -> usize {
    erasure::shard_bytes(code_of(header.scheme), header.blob_bytes as usize)
}

/// Blocks of 64 KiB of a shard.
pub fn block_count(shard_bytes: usize) -> usize {
    shard_bytes.div_ceil(SHARD_BLOCK_BYTES)
}

/// CRC-32C of a block together with the address of its shard, its index and its length.
pub fn block_checksum(shard: &ShardAddress, index: u32, block: &[u8]) -> u32 {
    let mut address = [0; 37];
    let mut fields = &mut address[..];
    fields.put_u64_le(shard.at.volume.0);
    fields.put_u32_le(shard.at.generation.0);
    fields.put_u8(shard.at.slot.0);
    fields.put_u64_le(shard.blob.writer.0);
    fields.put_u64_le(shard.blob.counter);
    fields.put_u32_le(index);
    fields.put_u32_le(block.len() as u32);
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    if !runtime::planted("checksum-without-address") {
        digest.update(&address);
    }
    digest.update(block);
    u32::try_from(digest.finalize()).expect("a CRC-32 has 32 bits")
}

/// Checksums of all blocks of a shard.
pub(crate) fn block_checksums(shard: &ShardAddress, bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(SHARD_BLOCK_BYTES).zip(0..).map(|(block, index)| block_checksum(shard, index, block)).collect()
}

/// That `bytes` are the blocks of `shard` from block `first` on, of which `checksums` are given.
pub fn verify_blocks(shard: &ShardAddress, first: u32, checksums: &[u32], bytes: &[u8]) -> Result<(), Refusal> {
    if block_count(bytes.len()) != checksums.len() {
        let detail = format!("{} blocks, but {} checksums", block_count(bytes.len()), checksums.len());
        return Err(Refusal::Corrupt { detail });
    }
    for ((block, &expected), index) in bytes.chunks(SHARD_BLOCK_BYTES).zip(checksums).zip(first..) {
        let got = block_checksum(shard, index, block);
        if got != expected {
            let detail = format!("block {index} of {shard:?} has checksum {got:08x}, expected {expected:08x}");
            return Err(Refusal::Corrupt { detail });
        }
    }
    Ok(())
}

/// That `bytes` are what `header` says, in a slot of `scheme`.
pub(crate) fn check(slot: SlotIndex, scheme: Scheme, header: &ShardHeader, bytes: &Bytes) -> Result<(), Refusal> {
    let invalid = |detail: String| Err(Refusal::Invalid { detail });
    if header.scheme != scheme {
        return invalid(format!("a shard of {} for a slot of {scheme}", header.scheme));
    }
    if header.shard_checksums.len() != scheme.total() {
        return invalid(format!("{} shard checksums under {scheme}", header.shard_checksums.len()));
    }
    if header.blob_bytes as usize > BLOB_BYTES_MAX {
        return invalid(format!("a blob of {} bytes", header.blob_bytes));
    }
    if bytes.len() != shard_bytes(header) {
        return invalid(format!("a shard of {} bytes, expected {}", bytes.len(), shard_bytes(header)));
    }
    let expected = header.shard_checksums[usize::from(slot.0)];
    let got = erasure::checksum(bytes);
    if got != expected {
        return invalid(format!("the shard has checksum {got:016x}, its header says {expected:016x}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        let at = SlotAddress { volume: VolumeId(9), generation: Generation(1), slot: SlotIndex(1) };
        Frame { salt: 0xfeed, at, scheme: Scheme::ReedSolomon { k: 2, m: 1 } }
    }

    fn record() -> Record {
        let frame = frame();
        let address = ShardAddress { at: frame.at, blob: BlobId { writer: WriterId(3), counter: 4 } };
        let home = Home { bucket: BucketId(5), key_hash: 6 };
        let header = ShardHeader { home, scheme: frame.scheme, blob_bytes: 9, blob_checksum: 7, shard_checksums: vec![1, 2, 3] };
        let block_checksums = block_checksums(&address, b"hello");
        Record { offset: 8192, durable: 8192, content: Content::Shard(Shard { address, epoch: Epoch(8), header, block_checksums }) }
    }

    #[test]
    fn bytes_of_a_record_never_change() {
        let sectors = record().encode(&frame());
        assert_eq!(sectors.len(), SECTOR_BYTES);
        let hex: String = sectors[..148].iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "4b53544e524543440100000000020000edfe00000000000000200000000000000020000000000000010101020100000009000000000000000100\
                        0000050000000300000000000000040000000000000005000000000000000600000000000000090000000000000007000000000000000800\
                        000000000000010000000000000002000000000000000300000000000000f7f269af";
        assert_eq!(hex, expected);
        assert_eq!(decode(&sectors, 8192, &frame()), Some(record()));
    }

    #[test]
    fn a_record_passes_only_at_its_place_in_its_file() {
        let sectors = record().encode(&frame());
        assert_eq!(decode(&sectors, 8704, &frame()), None);
        assert_eq!(decode(&sectors, 8192, &Frame { salt: 1, ..frame() }), None);
        let other = SlotAddress { slot: SlotIndex(2), ..frame().at };
        assert_eq!(decode(&sectors, 8192, &Frame { at: other, ..frame() }), None);
    }

    #[test]
    fn a_block_of_another_shard_does_not_pass() {
        let shard = ShardAddress { at: frame().at, blob: BlobId { writer: WriterId(3), counter: 4 } };
        let other = ShardAddress { blob: BlobId { writer: WriterId(3), counter: 5 }, ..shard };
        let bytes = vec![1; SHARD_BLOCK_BYTES + 5];
        let checksums = block_checksums(&shard, &bytes);
        assert_eq!(verify_blocks(&shard, 0, &checksums, &bytes), Ok(()));
        assert!(matches!(verify_blocks(&other, 0, &checksums, &bytes), Err(Refusal::Corrupt { .. })));
        assert!(matches!(verify_blocks(&shard, 1, &checksums, &bytes), Err(Refusal::Corrupt { .. })));
        assert!(matches!(verify_blocks(&shard, 0, &checksums[..1], &bytes), Err(Refusal::Corrupt { .. })));
    }

    #[test]
    fn mutated_records_decode_to_nothing_and_never_panic() {
        fn holds(position: usize, flip: u8, cut: usize) -> bool {
            let mut sectors = record().encode(&frame());
            let position = position % sectors.len();
            sectors[position] ^= flip;
            let _ = decode(&sectors[..cut % (sectors.len() + 1)], 8192, &frame());
            decode(&sectors, 8192, &frame()).is_some() == (flip == 0)
        }
        quickcheck::quickcheck(holds as fn(usize, u8, usize) -> bool);
    }

    #[test]
    fn arbitrary_fields_under_a_valid_checksum_never_panic_or_allocate_wildly() {
        fn holds(position: usize, values: Vec<u8>) -> bool {
            let mut sectors = record().encode(&frame());
            let position = 8 + position % (sectors.len() - 16);
            for (target, value) in sectors[position..].iter_mut().zip(values) {
                *target = value;
            }
            seal_with_crc(&mut sectors);
            if let Some(Record { content: Content::Shard(shard), .. }) = decode(&sectors, 8192, &frame()) {
                assert!(shard.block_checksums.len() <= BLOB_BYTES_MAX / SHARD_BLOCK_BYTES);
            }
            true
        }
        quickcheck::quickcheck(holds as fn(usize, Vec<u8>) -> bool);
    }
}
