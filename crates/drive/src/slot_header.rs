//! The header of a slot file: which slot it is, and its fence. Two copies of one sector each, written alternately.
//! Invariant: a fence that was answered is in an intact copy, or the slot takes no shards.

use crate::{SECTOR_BYTES, crc_holds, seal_with_crc};
use bytes::{Buf, BufMut};
use protocol::layout::SlotAddress;
use protocol::{Epoch, Generation, Scheme, SlotIndex, VolumeId, limits};
use runtime::disk::{self, DiskFile};

/// Where the two copies lie: in different blocks of 4 KiB, so that one bad physical sector cannot take both.
pub(crate) const COPY_OFFSETS: [u64; 2] = [0, 4096];
/// Where records start.
pub(crate) const RECORDS_START: u64 = 8192;
/// Of slot files, records included.
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"KSTNSLOT";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotHeader {
    /// Raised by each write; the higher of two intact copies counts.
    pub sequence: u64,
    /// Random, repeated in every record: bytes that a client stores cannot pass for records.
    pub salt: u64,
    pub address: SlotAddress,
    pub scheme: Scheme,
    pub epoch: Epoch,
    /// Fenced at `epoch`: takes no shards.
    pub sealed: bool,
    /// Bytes of the file that were durable before this header was written.
    pub durable: u64,
}

/// What the two copies say.
pub(crate) struct Headers {
    pub newest: SlotHeader,
    /// A copy is not intact. One sector is written wholly or not at all, so that this is damage, and the copy that
    /// was lost may have been the newer one.
    pub damaged: bool,
}

/// The newest intact header, or why there is none.
pub(crate) fn read(file: &dyn DiskFile) -> disk::Result<Result<Headers, String>> {
    let mut intact: Vec<SlotHeader> = Vec::new();
    let mut reasons: Vec<String> = Vec::new();
    let len = file.len()?;
    for offset in COPY_OFFSETS {
        let mut sector = [0; SECTOR_BYTES];
        let decoded = if len < offset + SECTOR_BYTES as u64 {
            Err("the file is too short".to_string())
        } else {
            match file.read_at(offset, &mut sector) {
                Ok(()) => decode(&sector),
                Err(error @ disk::Error::Io { .. }) => Err(error.to_string()),
                Err(error) => return Err(error),
            }
        };
        match decoded {
            Ok(header) => intact.push(header),
            Err(reason) => reasons.push(format!("header at byte {offset}: {reason}")),
        }
    }
    let Some(newest) = intact.iter().max_by_key(|header| header.sequence).copied() else {
        return Ok(Err(reasons.join("; ")));
    };
    if intact.iter().any(|header| (header.salt, header.address, header.scheme) != (newest.salt, newest.address, newest.scheme)) {
        return Ok(Err("its two headers are of different slots".to_string()));
    }
    Ok(Ok(Headers { newest, damaged: !reasons.is_empty() }))
}

/// Overwrite the older copy. Not durable before a sync.
pub(crate) fn write(file: &dyn DiskFile, header: &SlotHeader) -> disk::Result<()> {
    file.write_at(COPY_OFFSETS[(header.sequence % 2) as usize], &encode(header))
}

pub(crate) fn encode(header: &SlotHeader) -> Vec<u8> {
    let mut sector = Vec::with_capacity(SECTOR_BYTES);
    sector.put_slice(MAGIC);
    sector.put_u32_le(FORMAT_VERSION);
    sector.put_u32_le(0);
    sector.put_u64_le(header.sequence);
    sector.put_u64_le(header.salt);
    sector.put_u64_le(header.address.volume.0);
    sector.put_u32_le(header.address.generation.0);
    sector.put_u8(header.address.slot.0);
    sector.put_slice(&encode_scheme(header.scheme));
    sector.put_u64_le(header.epoch.0);
    sector.put_u8(if header.sealed { 2 } else { 1 });
    sector.put_bytes(0, 7);
    sector.put_u64_le(header.durable);
    sector.resize(SECTOR_BYTES, 0);
    seal_with_crc(&mut sector);
    sector
}

pub(crate) fn decode(sector: &[u8; SECTOR_BYTES]) -> Result<SlotHeader, String> {
    let mut fields = &sector[..];
    if fields[..8] != MAGIC[..] {
        return Err("not a slot header".to_string());
    }
    fields.advance(8);
    let format_version = fields.get_u32_le();
    if !crc_holds(sector) {
        return Err("its checksum does not match".to_string());
    }
    if format_version != FORMAT_VERSION {
        return Err(format!("format version {format_version}, this build reads {FORMAT_VERSION}: start a newer build"));
    }
    fields.advance(4);
    let sequence = fields.get_u64_le();
    let salt = fields.get_u64_le();
    let volume = VolumeId(fields.get_u64_le());
    let generation = Generation(fields.get_u32_le());
    let slot = SlotIndex(fields.get_u8());
    let scheme = decode_scheme([fields.get_u8(), fields.get_u8(), fields.get_u8()]).ok_or("an unknown scheme")?;
    if usize::from(slot.0) >= scheme.total() {
        return Err(format!("slot {slot} of {scheme}"));
    }
    let epoch = Epoch(fields.get_u64_le());
    let sealed = match fields.get_u8() {
        1 => false,
        2 => true,
        state => return Err(format!("unknown state {state}")),
    };
    fields.advance(7);
    let durable = fields.get_u64_le();
    Ok(SlotHeader { sequence, salt, address: SlotAddress { volume, generation, slot }, scheme, epoch, sealed, durable })
}

/// A scheme in three bytes: its kind, k or n, m.
pub(crate) fn encode_scheme(scheme: Scheme) -> [u8; 3] {
    match scheme {
        Scheme::ReedSolomon { k, m } => [1, k, m],
        Scheme::Replicas { n } => [2, n, 0],
    }
}

/// The scheme, if it is one that can exist.
pub(crate) fn decode_scheme(bytes: [u8; 3]) -> Option<Scheme> {
    let scheme = match bytes {
        [1, k, m] => Scheme::ReedSolomon { k, m },
        [2, n, 0] => Scheme::Replicas { n },
        _ => return None,
    };
    is_sound(scheme).then_some(scheme)
}

/// Whether the scheme lies within the limits; schemes from the network are not trusted.
pub(crate) fn is_sound(scheme: Scheme) -> bool {
    let parts = match scheme {
        Scheme::ReedSolomon { k, m } => k >= 1 && m >= 1,
        Scheme::Replicas { n } => n >= 1,
    };
    parts && scheme.total() <= limits::SLOTS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SlotHeader {
        SlotHeader {
            sequence: 3,
            salt: 0x1122_3344_5566_7788,
            address: SlotAddress { volume: VolumeId(0xaa), generation: Generation(2), slot: SlotIndex(5) },
            scheme: Scheme::ReedSolomon { k: 4, m: 2 },
            epoch: Epoch(7),
            sealed: true,
            durable: 0x2200,
        }
    }

    #[test]
    fn bytes_of_a_slot_header_never_change() {
        let sector = encode(&header());
        let hex: String = sector[..72].iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "4b53544e534c4f54010000000000000003000000000000008877665544332211aa0000000000000002000000050104020700000000000000\
                        02000000000000000022000000000000";
        assert_eq!(hex, expected);
        assert!(sector[72..508].iter().all(|&byte| byte == 0));
        assert_eq!(decode(&sector.try_into().unwrap()), Ok(header()));
    }

    #[test]
    fn mutated_headers_are_refused_without_panic() {
        fn holds(position: usize, flip: u8) -> bool {
            let mut sector: [u8; SECTOR_BYTES] = encode(&header()).try_into().unwrap();
            sector[position % SECTOR_BYTES] ^= flip;
            decode(&sector).is_ok() == (flip == 0)
        }
        quickcheck::quickcheck(holds as fn(usize, u8) -> bool);
    }
}
