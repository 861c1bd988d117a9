//! A sector of the log: 512 bytes that say what they are.
//!
//! Always holds: a sector that was written whole by this generation of its segment proves it by checksum, generation
//! and position. One that is zero, or whole but of an older generation, was never reached by the writer: it is *torn*
//! off. Anything else is *rot*.

use crc_fast::{CrcAlgorithm, checksum};

/// Bytes of a sector: the unit that a drive writes whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;
const HEADER_BYTES: usize = 32;
/// Bytes of payload in a sector.
pub(crate) const PAYLOAD_BYTES: usize = SECTOR_BYTES - HEADER_BYTES;
/// Most sectors of a batch: they are counted in three bytes.
pub(crate) const BATCH_SECTORS_MAX: usize = (1 << 24) - 1;
const FORMAT_VERSION: u8 = 1;

/// Which part of its batch a sector holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The batch's head.
    Head = 1,
    /// Entries.
    Entries = 2,
    /// The second copy of the head.
    Tail = 3,
}

/// What a sector says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub kind: Kind,
    /// Payload bytes in use.
    pub used: u16,
    /// Incarnation of the segment.
    pub generation: u64,
    /// Position in the segment, in sectors.
    pub sector: u32,
    /// Number of the batch in the segment.
    pub batch: u32,
    /// Position in the batch, in sectors; below `count`.
    pub index: u32,
    /// Sectors of the batch, at most [`BATCH_SECTORS_MAX`].
    pub count: u32,
    /// Sectors of one copy of the batch's head.
    pub head: u16,
}

/// What was found where a sector should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Good(Header),
    /// Zero or of an older generation: never written by this one.
    Unwritten,
    /// Written once, and no longer what it was.
    Rotten,
}

fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Append one sector to `target`. `payload` is at most [`PAYLOAD_BYTES`].
pub(crate) fn push(target: &mut Vec<u8>, header: Header, payload: &[u8]) {
    assert!(payload.len() <= PAYLOAD_BYTES && payload.len() == usize::from(header.used), "the caller cuts payloads to size");
    assert!(header.index < header.count && header.count as usize <= BATCH_SECTORS_MAX, "a batch has at most 2^24 - 1 sectors");
    let at = target.len();
    target.resize(at + SECTOR_BYTES, 0);
    let sector = &mut target[at..];
    sector[4] = FORMAT_VERSION;
    sector[5] = header.kind as u8;
    sector[6..8].copy_from_slice(&header.used.to_le_bytes());
    sector[8..16].copy_from_slice(&header.generation.to_le_bytes());
    sector[16..20].copy_from_slice(&header.sector.to_le_bytes());
    sector[20..24].copy_from_slice(&header.batch.to_le_bytes());
    sector[24..27].copy_from_slice(&header.index.to_le_bytes()[..3]);
    sector[27..30].copy_from_slice(&header.count.to_le_bytes()[..3]);
    sector[30..32].copy_from_slice(&header.head.to_le_bytes());
    sector[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
    let sum = crc(&sector[4..]);
    sector[..4].copy_from_slice(&sum.to_le_bytes());
}

/// Most sectors of a segment: compared as a whole, since a start looks at all of them.
const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// Judge the sector that stands at position `at` of a segment of `generation`.
pub(crate) fn judge(sector: &[u8], generation: u64, at: u32) -> Found {
    assert_eq!(sector.len(), SECTOR_BYTES, "the caller cuts sectors");
    if *sector == ZEROS {
        return Found::Unwritten;
    }
    let u16_at = |at: usize| u16::from_le_bytes([sector[at], sector[at + 1]]);
    let u24_at = |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], 0]);
    let u32_at = |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
    if u32_at(0) != crc(&sector[4..]) || sector[4] != FORMAT_VERSION {
        return Found::Rotten;
    }
    let kind = match sector[5] {
        1 => Kind::Head,
        2 => Kind::Entries,
        3 => Kind::Tail,
        _ => return Found::Rotten,
    };
    let header = Header {
        kind,
        used: u16_at(6),
        generation: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
        sector: u32_at(16),
        batch: u32_at(20),
        index: u24_at(24),
        count: u24_at(27),
        head: u16_at(30),
    };
    // Whole, but meant for elsewhere: the drive put it here by mistake.
    if header.sector != at || header.generation > generation {
        return Found::Rotten;
    }
    if header.generation < generation {
        return Found::Unwritten;
    }
    let shape = header.head >= 1 && u32::from(header.head) * 2 <= header.count && header.index < header.count;
    if !shape || header.index > at || usize::from(header.used) > PAYLOAD_BYTES {
        return Found::Rotten;
    }
    Found::Good(header)
}

/// The payload in use of a sector that was judged good.
pub(crate) fn payload<'a>(sector: &'a [u8], header: &Header) -> &'a [u8] {
    &sector[HEADER_BYTES..HEADER_BYTES + usize::from(header.used)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { kind: Kind::Head, used: 3, generation: 7, sector: 9, batch: 4, index: 0, count: 2, head: 1 }
    }

    #[test]
    fn a_sector_proves_itself_and_every_flipped_byte_shows() {
        let mut bytes = Vec::new();
        push(&mut bytes, header(), b"abc");
        assert_eq!(judge(&bytes, 7, 9), Found::Good(header()));
        assert_eq!(payload(&bytes, &header()), b"abc");
        for at in 0..SECTOR_BYTES {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            assert_eq!(judge(&rotten, 7, 9), Found::Rotten, "byte {at}");
        }
    }

    #[test]
    fn old_generations_and_zeros_are_unwritten_and_misplaced_sectors_are_rot() {
        let mut bytes = Vec::new();
        push(&mut bytes, header(), b"abc");
        assert_eq!(judge(&bytes, 8, 9), Found::Unwritten);
        assert_eq!(judge(&[0; SECTOR_BYTES], 8, 9), Found::Unwritten);
        assert_eq!(judge(&bytes, 6, 9), Found::Rotten);
        assert_eq!(judge(&bytes, 7, 10), Found::Rotten);
    }

    #[test]
    fn golden_bytes_of_a_sector() {
        let mut bytes = Vec::new();
        push(&mut bytes, header(), b"abc");
        assert_eq!(bytes[4..35], [1, 1, 3, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0, b'a', b'b', b'c']);
        assert!(bytes[35..].iter().all(|byte| *byte == 0));
    }
}
