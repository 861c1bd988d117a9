#![doc = include_str!("../README.md")]

mod code;
mod decode;
mod encode;
mod stripe;

pub use code::{Code, SHARDS_MAX};
pub use decode::{decode, decode_pieces, decode_stripes, rebuild};
pub use encode::encode;
pub use stripe::{BLOCK_BYTES, Stripes, block_bytes, shard_bytes, stripe_count, stripes_of};

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

/// CRC-64/NVME of pieces that follow one another.
pub fn checksum_of_pieces(pieces: &[bytes::Bytes]) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    pieces.iter().for_each(|piece| digest.update(piece));
    digest.finalize()
}

/// That `blob` is what its record says: the last check before a whole blob is served or called rebuilt.
pub fn verify(blob: &[bytes::Bytes], expected: u64) -> Result<(), Error> {
    let got = checksum_of_pieces(blob);
    if got == expected { Ok(()) } else { Err(Error::Checksum { got, expected }) }
}
