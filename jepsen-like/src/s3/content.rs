//! [`Content`]: bytes named by a seed, never the same under two seeds, made and checked at any offset without being held:
//! bodies of many GiB stream through a few KiB.
//!
//! A content is random throughout, or it repeats: then each of its rows of 64 bytes is the same 60 bytes, which only its
//! seed has, and four bytes that tell in which block of 512 bytes the row lies. Parity of rows that repeat repeats as well, so that
//! simulated drives hold both at a small part of their size; and yet whatever lies where it does not belong is seen, as
//! every row says whose it is and from where. Only rows that change places within their block of 512 bytes look the same; no
//! code moves or addresses so little.

use bytes::Bytes;

/// Words of a row of a content that repeats.
const ROW_WORDS: u64 = 8;
/// Words of a block, whose rows are all the same.
const BLOCK_WORDS: u64 = 64;
/// The bits of a row's last word that name the block.
const STAMP: u64 = 0xffff_ffff << 32;

/// Bytes `start..start + length` of the endless stream of `seed`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Content {
    pub seed: u64,
    pub start: u64,
    pub length: u64,
    /// Whether it repeats.
    pub repeats: bool,
}

/// Received bytes differ from the content that they should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Mismatch {
    #[error("byte {at} is {got:#04x}, expected {expected:#04x}")]
    Byte { at: u64, got: u8, expected: u8 },
    #[error("{got} bytes, expected {expected}")]
    Length { got: u64, expected: u64 },
}

impl Content {
    /// The first `length` bytes of `seed`, random throughout: they cannot be compressed.
    pub fn new(seed: u64, length: u64) -> Content {
        Content { seed, start: 0, length, repeats: false }
    }

    /// The first `length` bytes of `seed`, in rows that repeat: cheap to hold for whoever compresses.
    pub fn repeating(seed: u64, length: u64) -> Content {
        Content { seed, start: 0, length, repeats: true }
    }

    /// Bytes `from..from + length` of this content. Panics if they reach past its end.
    pub fn slice(&self, from: u64, length: u64) -> Content {
        assert!(from.checked_add(length).is_some_and(|end| end <= self.length), "a slice lies inside its content");
        Content { start: self.start + from, length, ..*self }
    }

    /// Fill `target` with the bytes from `at` (counted from this content's own start).
    pub fn fill(&self, at: u64, target: &mut [u8]) {
        let mut position = self.start + at;
        let mut rest = target;
        let skip = (position % 8) as usize;
        if skip != 0 {
            let word = self.word(position / 8).to_le_bytes();
            let take = rest.len().min(8 - skip);
            rest[..take].copy_from_slice(&word[skip..skip + take]);
            rest = &mut rest[take..];
            position += take as u64;
        }
        let mut index = position / 8;
        let mut words = rest.chunks_exact_mut(8);
        for eight in &mut words {
            eight.copy_from_slice(&self.word(index).to_le_bytes());
            index += 1;
        }
        let tail = words.into_remainder();
        let count = tail.len();
        tail.copy_from_slice(&self.word(index).to_le_bytes()[..count]);
    }

    /// Eight bytes of the stream.
    #[inline]
    fn word(&self, index: u64) -> u64 {
        if !self.repeats {
            return word(self.seed, index);
        }
        let row = word(self.seed, index % ROW_WORDS);
        if index % ROW_WORDS < ROW_WORDS - 1 {
            return row;
        }
        // From the other end of the stream than the row.
        row & !STAMP | word(self.seed, u64::MAX - index / BLOCK_WORDS) & STAMP
    }

    /// All of it in memory: for small contents.
    pub fn bytes(&self) -> Bytes {
        let mut bytes = vec![0; usize::try_from(self.length).expect("a content held in memory is small")];
        self.fill(0, &mut bytes);
        bytes.into()
    }
}

/// Word `index` of the stream of `seed`: the splitmix64 finaliser over a seeded counter.
#[inline]
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_mul(0xd6e8_feb8_6659_fd93).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(seed >> 29);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Compares received pieces with the [`Content`]s that they should be, one after another, as they arrive.
pub struct Verifier {
    contents: Vec<Content>,
    /// The content that comes next, and where it begins.
    next: usize,
    next_from: u64,
    total: u64,
    at: u64,
    expected: Vec<u8>,
}

impl Verifier {
    pub fn new(content: Content) -> Verifier {
        Verifier::of(vec![content])
    }

    /// Expect `contents` without a gap between them.
    pub fn of(contents: Vec<Content>) -> Verifier {
        let total = contents.iter().map(|content| content.length).sum();
        Verifier { contents, next: 0, next_from: 0, total, at: 0, expected: Vec::new() }
    }

    /// Check the next received bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        for piece in bytes.chunks(64 << 10) {
            let end = self.at + piece.len() as u64;
            if end > self.total {
                return Err(Mismatch::Length { got: end, expected: self.total });
            }
            self.expect(piece.len());
            if self.expected != piece {
                let offset = self.expected.iter().zip(piece).position(|(a, b)| a != b).expect("slices of one length that differ");
                let at = self.at + offset as u64;
                return Err(Mismatch::Byte { at, got: piece[offset], expected: self.expected[offset] });
            }
            self.at = end;
        }
        Ok(())
    }

    /// Make the next `length` bytes, which exist.
    fn expect(&mut self, length: usize) {
        self.expected.resize(length, 0);
        let mut filled = 0;
        while filled < length {
            let content = self.contents[self.next];
            let offset = self.at + filled as u64 - self.next_from;
            let take = usize::try_from(content.length - offset).unwrap_or(usize::MAX).min(length - filled);
            content.fill(offset, &mut self.expected[filled..filled + take]);
            filled += take;
            if offset + take as u64 == content.length {
                self.next += 1;
                self.next_from += content.length;
            }
        }
    }

    /// Check that nothing is missing.
    pub fn finish(self) -> Result<(), Mismatch> {
        if self.at == self.total { Ok(()) } else { Err(Mismatch::Length { got: self.at, expected: self.total }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn any_slice_equals_the_same_bytes_of_the_whole() {
        let whole = Content::new(7, 1000).bytes();
        for from in 0..40u64 {
            for length in [0u64, 1, 7, 8, 9, 63, 500] {
                let slice = Content::new(7, 1000).slice(from, length).bytes();
                assert_eq!(slice, whole.slice(from as usize..(from + length) as usize), "{from}+{length}");
            }
        }
        assert_ne!(Content::new(8, 1000).bytes(), whole);
    }

    #[test]
    fn a_repeating_content_is_the_same_at_any_offset() {
        let whole = Content::repeating(7, 3000).bytes();
        for from in [0u64, 1, 59, 63, 64, 511, 512, 1500] {
            let slice = Content::repeating(7, 3000).slice(from, 1400).bytes();
            assert_eq!(slice, whole.slice(from as usize..from as usize + 1400), "{from}");
        }
    }

    #[test]
    fn each_row_tells_whose_it_is_and_in_which_block_it_lies() {
        let mut rows: BTreeMap<Vec<u8>, (u64, usize)> = BTreeMap::new();
        for seed in 1..4 {
            let bytes = Content::repeating(seed, 256 << 10).bytes();
            for (number, row) in bytes.chunks(64).enumerate() {
                let place = (seed, number / 8);
                assert_eq!(*rows.entry(row.to_vec()).or_insert(place), place, "the same row in two places");
            }
            // And cut at any byte: what is moved by a block, and by any number of them, differs.
            for blocks in [1, 2, 128, 300] {
                let moved = blocks * 512;
                assert!(bytes.windows(64).zip(bytes[moved..].windows(64)).step_by(61).all(|(one, other)| one != other), "{blocks}");
            }
        }
    }

    #[test]
    fn verifier_names_the_first_wrong_byte_and_a_wrong_length() {
        let content = Content::new(3, 100_000);
        let mut bytes = content.bytes().to_vec();
        let mut verifier = Verifier::new(content);
        verifier.feed(&bytes[..77]).unwrap();
        verifier.feed(&bytes[77..]).unwrap();
        verifier.finish().unwrap();

        let mut short = Verifier::new(content);
        short.feed(&bytes[..50]).unwrap();
        assert_eq!(short.finish(), Err(Mismatch::Length { got: 50, expected: 100_000 }));

        bytes[70_001] ^= 1;
        let mut verifier = Verifier::new(content);
        assert!(matches!(verifier.feed(&bytes), Err(Mismatch::Byte { at: 70_001, .. })));
        bytes.extend_from_slice(&bytes.clone());
        assert!(matches!(Verifier::new(Content::new(3, 10)).feed(&bytes), Err(Mismatch::Length { .. })));
    }
    #[test]
    fn verifier_goes_on_from_one_content_to_the_next() {
        let contents = vec![Content::new(1, 10), Content::new(2, 0), Content::new(3, 100_000).slice(7, 70_000)];
        let bytes: Vec<u8> = contents.iter().flat_map(|content| content.bytes().to_vec()).collect();
        for cut in [0, 5, 10, 11, 70_010] {
            let mut verifier = Verifier::of(contents.clone());
            verifier.feed(&bytes[..cut]).unwrap();
            verifier.feed(&bytes[cut..]).unwrap();
            verifier.finish().unwrap();
        }
        let swapped: Vec<u8> = contents.iter().rev().flat_map(|content| content.bytes().to_vec()).collect();
        assert!(Verifier::of(contents.clone()).feed(&swapped).is_err());
        let mut short = Verifier::of(contents);
        short.feed(&bytes[..10]).unwrap();
        assert_eq!(short.finish(), Err(Mismatch::Length { got: 10, expected: 70_010 }));
    }
}
