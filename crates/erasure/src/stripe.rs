//! Where the bytes of a blob lie in its shards. Pure arithmetic.
//! Invariant: all shards of a blob have the same length, and block j of every shard belongs to stripe j.

use crate::Code;
use std::ops::Range;

/// Most bytes that a stripe puts into one shard: beyond it, the parity kernel's working set leaves the cache.
/// Part of the format.
pub const BLOCK_BYTES: usize = 64 << 10;

/// The stripes that hold a byte range of a blob, and where in each shard their blocks lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stripes {
    /// First block (= stripe) to read of each shard.
    pub first: u32,
    /// Blocks to read of each shard.
    pub count: u32,
}

/// Stripes of a blob: blocks of each of its shards.
pub fn stripe_count(code: Code, blob_bytes: usize) -> usize {
    blob_bytes.div_ceil(code.data * BLOCK_BYTES)
}

/// Bytes of each shard of a blob of `blob_bytes`.
pub fn shard_bytes(code: Code, blob_bytes: usize) -> usize {
    code.check();
    let stripe = code.data * BLOCK_BYTES;
    blob_bytes / stripe * BLOCK_BYTES + (blob_bytes % stripe).div_ceil(code.data)
}

/// Bytes of block `stripe` of each shard: whole but for the last.
pub fn block_bytes(code: Code, blob_bytes: usize, stripe: usize) -> usize {
    (shard_bytes(code, blob_bytes) - stripe * BLOCK_BYTES).min(BLOCK_BYTES)
}

/// Stripes that cover `range` of a blob. An empty range has none.
pub fn stripes_of(code: Code, blob_bytes: usize, range: Range<usize>) -> Stripes {
    code.check();
    assert!(range.start <= range.end && range.end <= blob_bytes, "the range {range:?} lies in the blob of {blob_bytes} bytes");
    let stripe = code.data * BLOCK_BYTES;
    let first = range.start / stripe;
    let end = if range.is_empty() { first } else { range.end.div_ceil(stripe) };
    let narrow = |number: usize| u32::try_from(number).expect("a blob has few stripes");
    Stripes { first: narrow(first), count: narrow(end - first) }
}

impl Stripes {
    /// All stripes of a blob.
    pub fn all(code: Code, blob_bytes: usize) -> Stripes {
        stripes_of(code, blob_bytes, 0..blob_bytes)
    }

    /// Where the blocks of these stripes lie in each shard.
    pub fn in_shard(self, code: Code, blob_bytes: usize) -> Range<usize> {
        let start = self.first as usize * BLOCK_BYTES;
        let end = (start + self.count as usize * BLOCK_BYTES).min(shard_bytes(code, blob_bytes));
        start.min(end)..end
    }

    /// The bytes of the blob that these stripes hold.
    pub fn in_blob(self, code: Code, blob_bytes: usize) -> Range<usize> {
        let stripe = code.data * BLOCK_BYTES;
        let start = (self.first as usize * stripe).min(blob_bytes);
        start..(start + self.count as usize * stripe).min(blob_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RS42: Code = Code { data: 4, parity: 2 };

    #[test]
    fn small_blobs_are_not_padded_to_a_block() {
        let table = [(0, 0), (1, 1), (3, 1), (4, 1), (5, 2), (8192, 2048), (4 * 65536, 65536), (4 * 65536 + 1, 65537), (8 << 20, 2 << 20)];
        for (blob, shard) in table {
            assert_eq!(shard_bytes(RS42, blob), shard, "shard of a blob of {blob} bytes");
        }
    }

    #[test]
    fn a_range_reads_only_the_stripes_that_hold_it() {
        let blob = 10 * 4 * BLOCK_BYTES + 7;
        assert_eq!(stripes_of(RS42, blob, 0..0), Stripes { first: 0, count: 0 });
        assert_eq!(stripes_of(RS42, blob, 0..1), Stripes { first: 0, count: 1 });
        assert_eq!(stripes_of(RS42, blob, 262_143..262_145), Stripes { first: 0, count: 2 });
        assert_eq!(stripes_of(RS42, blob, 262_144..262_145), Stripes { first: 1, count: 1 });
        assert_eq!(stripes_of(RS42, blob, blob - 1..blob), Stripes { first: 10, count: 1 });
        assert_eq!(Stripes { first: 10, count: 1 }.in_shard(RS42, blob), 655_360..655_362);
        assert_eq!(Stripes { first: 10, count: 1 }.in_blob(RS42, blob), blob - 7..blob);
    }
}
