//! A blob to its shards. Copies nothing where the shard is a run of the blob: copies, and blobs of one stripe.

use crate::Code;
use crate::stripe::{BLOCK_BYTES, block_bytes, shard_bytes, stripe_count};
use bytes::{Bytes, BytesMut};

/// The n shards of `blob`, in slot order. Copies share the blob's memory, and so do the data shards of a blob of
/// one stripe where a shard lies within one piece.
pub fn encode(code: Code, blob: &[Bytes]) -> Vec<Bytes> {
    code.check();
    let blob_bytes = blob.iter().map(Bytes::len).sum();
    let mut pieces = Pieces { pieces: blob, at: 0 };
    if code.data == 1 {
        return vec![pieces.take(blob_bytes); code.total()];
    }
    match stripe_count(code, blob_bytes) {
        0 => vec![Bytes::new(); code.total()],
        1 => one_stripe(code, blob_bytes, pieces),
        stripes => many_stripes(code, blob_bytes, stripes, pieces),
    }
}

fn one_stripe(code: Code, blob_bytes: usize, mut pieces: Pieces<'_>) -> Vec<Bytes> {
    let block = block_bytes(code, blob_bytes, 0);
    let mut left = blob_bytes;
    let mut shards = Vec::with_capacity(code.total());
    for _ in 0..code.data {
        let taken = left.min(block);
        left -= taken;
        if taken == block {
            shards.push(pieces.take(block));
        } else {
            let mut padded = BytesMut::zeroed(block);
            pieces.copy_to(&mut padded[..taken]);
            shards.push(padded.freeze());
        }
    }
    if code.parity > 0 {
        let mut parity = vec![vec![0; block]; code.parity];
        code.matrices().encode_sep(&shards, &mut parity).expect("shards of a stripe have equal lengths");
        shards.extend(parity.into_iter().map(Bytes::from));
    }
    shards
}

fn many_stripes(code: Code, blob_bytes: usize, stripes: usize, mut pieces: Pieces<'_>) -> Vec<Bytes> {
    let shard_bytes = shard_bytes(code, blob_bytes);
    let matrices = (code.parity > 0).then(|| code.matrices());
    let mut shards: Vec<Vec<u8>> = vec![vec![0; shard_bytes]; code.total()];
    let mut left = blob_bytes;
    for stripe in 0..stripes {
        let start = stripe * BLOCK_BYTES;
        let block = block_bytes(code, blob_bytes, stripe);
        let mut blocks: Vec<&mut [u8]> = shards.iter_mut().map(|shard| &mut shard[start..start + block]).collect();
        let (data, parity) = blocks.split_at_mut(code.data);
        for target in data.iter_mut() {
            let taken = left.min(block);
            left -= taken;
            pieces.copy_to(&mut target[..taken]);
        }
        // Straight after the copy, while the stripe is in the cache.
        if let Some(matrices) = &matrices {
            matrices.encode_sep(data, parity).expect("blocks of a stripe have equal lengths");
        }
    }
    shards.into_iter().map(Bytes::from).collect()
}

/// A blob's bytes in order, from the pieces in which it came.
struct Pieces<'a> {
    pieces: &'a [Bytes],
    /// Bytes of the first piece that were taken.
    at: usize,
}

impl Pieces<'_> {
    /// The next `bytes`, shared if they lie in one piece.
    fn take(&mut self, bytes: usize) -> Bytes {
        self.skip_empty();
        match self.pieces.first() {
            Some(piece) if piece.len() - self.at >= bytes => {
                let taken = piece.slice(self.at..self.at + bytes);
                self.at += bytes;
                taken
            }
            _ => {
                let mut joined = BytesMut::zeroed(bytes);
                self.copy_to(&mut joined);
                joined.freeze()
            }
        }
    }

    fn copy_to(&mut self, mut target: &mut [u8]) {
        while !target.is_empty() {
            self.skip_empty();
            let piece = &self.pieces.first().expect("the lengths of the pieces were added up")[self.at..];
            let count = piece.len().min(target.len());
            let (now, later) = target.split_at_mut(count);
            now.copy_from_slice(&piece[..count]);
            self.at += count;
            target = later;
        }
    }

    fn skip_empty(&mut self) {
        while let Some(piece) = self.pieces.first()
            && piece.len() == self.at
        {
            self.pieces = &self.pieces[1..];
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_single_stripes_share_the_memory_of_the_blob() {
        let blob = Bytes::from(vec![7; 4000]);
        let inside = |shard: &Bytes| blob.as_ptr_range().contains(&shard.as_ptr());
        assert!(encode(Code { data: 1, parity: 2 }, std::slice::from_ref(&blob)).iter().all(inside));
        let shards = encode(Code { data: 4, parity: 2 }, std::slice::from_ref(&blob));
        assert!(shards[..4].iter().all(inside));
    }

    #[test]
    fn shards_of_a_small_blob_are_as_documented() {
        // Golden: 5 bytes under rs(2,1) are blocks of 3 bytes, the last zero filled; parity of rs(2,1) is 3a + 2b.
        let shards = encode(Code { data: 2, parity: 1 }, &[Bytes::from_static(&[1, 2]), Bytes::from_static(&[3, 4, 5])]);
        assert_eq!(shards[0], &[1, 2, 3][..]);
        assert_eq!(shards[1], &[4, 5, 0][..]);
        assert_eq!(shards[2], &[11, 12, 5][..]);
    }
}
