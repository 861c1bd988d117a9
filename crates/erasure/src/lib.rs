//! Schemes at work: bytes of a blob to n shards and back. Pure.
//!
//! Layout of a blob of B bytes under k data shards: stripes of k x 64 KiB; stripe j holds bytes
//! `j*k*64Ki ..`; shard i of a whole stripe is its i-th 64 KiB. The last stripe holds the remaining R bytes in
//! blocks of `ceil(R / k)` bytes each (the last block zero filled), so that a small blob is not padded to a
//! whole block. Shard i of the blob is the concatenation of its blocks.

use bytes::Bytes;
/// A code: any `data` of `data + parity` shards restore a blob. With `data == 1` shards are whole copies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Code {
    pub data: usize,
    pub parity: usize,
}

/// Why shards do not make a blob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{have} shards of {need} needed")]
    TooFew { have: usize, need: usize },
    #[error("shard {index} has {got} bytes, expected {expected}")]
    Length { index: usize, got: usize, expected: usize },
    #[error("checksum of the blob is {got:016x}, expected {expected:016x}")]
    Checksum { got: u64, expected: u64 },
}

/// CRC-64/NVME.
pub fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

/// Bytes of each shard of a blob of `blob_bytes`.
pub fn shard_bytes(code: Code, blob_bytes: usize) -> usize {
    let _ = (code, blob_bytes);
    todo!()
}

/// The n shards of `blob`, in slot order. Copies share the blob's memory.
pub fn encode(code: Code, blob: &[Bytes]) -> Vec<Bytes> {
    let _ = (code, blob);
    todo!()
}

/// The blob from any k whole shards (`None`: missing).
pub fn decode(code: Code, blob_bytes: usize, shards: &[Option<Bytes>]) -> Result<Bytes, Error> {
    let _ = (code, blob_bytes, shards);
    todo!()
}

/// The shards that are `None`, from any k whole shards.
pub fn rebuild(code: Code, blob_bytes: usize, shards: &[Option<Bytes>]) -> Result<Vec<Bytes>, Error> {
    let _ = (code, blob_bytes, shards);
    todo!()
}

/// The stripes that hold a byte range of a blob, and where in each shard their blocks lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stripes {
    /// First block (= stripe) to read of each shard.
    pub first: u32,
    /// Blocks to read of each shard.
    pub count: u32,
}

/// Stripes that cover `range` of a blob.
pub fn stripes_of(code: Code, blob_bytes: usize, range: std::ops::Range<usize>) -> Stripes {
    let _ = (code, blob_bytes, range);
    todo!()
}

/// The bytes of `stripes` from the same blocks of any k shards (`None`: missing), in order; the caller cuts the
/// ends of its range off.
pub fn decode_stripes(code: Code, blob_bytes: usize, stripes: Stripes, blocks: &[Option<Bytes>]) -> Result<Bytes, Error> {
    let _ = (code, blob_bytes, stripes, blocks);
    todo!()
}
