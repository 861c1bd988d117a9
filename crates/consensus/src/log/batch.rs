//! A batch of the log: what one write and one sync make durable, for all replicas of a drive together.
//!
//! Layout, in sectors: head, entries, head again. The head names every record of the batch and repeats the table of
//! the batch before, so that a rotten sector tells whom it hurt. Votes stand in the head, hence in two places.

use super::sector::{self, Found, Header, Kind, PAYLOAD_BYTES, SECTOR_BYTES};
use super::{Hard, Key, Start};
use bytes::Bytes;
use protocol::{DriveId, wire};
use raft::eraftpb::{Entry, EntryType};
use serde::{Deserialize, Serialize};

/// Bytes before the data of each entry: term (8), kind (1), length (4).
const ENTRY_HEAD_BYTES: usize = 13;

/// What one batch says about one replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub key: Key,
    pub hard: Option<Hard>,
    /// The log of this replica begins after it; entries up to it are gone.
    pub start: Option<Start>,
    /// With `start`: the entries after it are gone, too (a snapshot took their place).
    pub reset: bool,
    /// This replica lost durable bytes; stays until it is repaired.
    pub damaged: bool,
    /// Consecutive; they replace whatever stood from the first one on.
    pub entries: Vec<Entry>,
}

/// One line of the table that the next batch repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub key: Key,
    pub hard: bool,
    pub start: bool,
    /// First entry; meaningless if `count` is 0.
    pub first: u64,
    pub count: u32,
}

/// The head of a batch as it is encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub drive: DriveId,
    /// In the first batch of a segment: the segment before, and its length in sectors. 0 if there is none.
    pub previous_generation: u64,
    pub previous_sectors: u32,
    /// Table of the batch before, in this segment or at the end of the one before.
    pub previous: Vec<Line>,
    pub records: Vec<HeadRecord>,
}

/// A record without its entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeadRecord {
    pub key: Key,
    pub hard: Option<Hard>,
    pub start: Option<Start>,
    pub reset: bool,
    pub damaged: bool,
    pub first: u64,
    pub count: u32,
    /// Where its entries lie in the entries' part, in bytes.
    pub offset: u32,
    pub bytes: u32,
}

/// The table of a batch of `records`.
pub(crate) fn table(records: &[HeadRecord]) -> Vec<Line> {
    let line = |record: &HeadRecord| Line {
        key: record.key,
        hard: record.hard.is_some(),
        start: record.start.is_some(),
        first: record.first,
        count: record.count,
    };
    records.iter().map(line).collect()
}

/// Where a batch goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub generation: u64,
    pub sector: u32,
    pub batch: u32,
}

/// A batch that is ready to be placed.
pub(crate) struct Encoded {
    pub head: Head,
    head_bytes: Vec<u8>,
    entries: Vec<u8>,
}

impl Encoded {
    pub(crate) fn new(drive: DriveId, previous: Vec<Line>, before: Option<(u64, u32)>, records: &[Record]) -> Encoded {
        let mut entries = Vec::new();
        let mut heads = Vec::with_capacity(records.len());
        for record in records {
            let offset = entries.len();
            for entry in &record.entries {
                entries.extend_from_slice(&entry.term.to_le_bytes());
                // Membership is static in this format: entries of other types are refused where they come in.
                entries.push(0);
                entries.extend_from_slice(&u32::try_from(entry.data.len()).expect("commands are bounded").to_le_bytes());
                entries.extend_from_slice(&entry.data);
            }
            heads.push(HeadRecord {
                key: record.key,
                hard: record.hard,
                start: record.start,
                reset: record.reset,
                damaged: record.damaged,
                first: record.entries.first().map_or(0, |entry| entry.index),
                count: u32::try_from(record.entries.len()).expect("batches are bounded"),
                offset: u32::try_from(offset).expect("batches are bounded"),
                bytes: u32::try_from(entries.len() - offset).expect("batches are bounded"),
            });
        }
        let (previous_generation, previous_sectors) = before.unwrap_or_default();
        let head = Head { drive, previous_generation, previous_sectors, previous, records: heads };
        let encoded = wire::encode(&head);
        let mut head_bytes = u32::try_from(encoded.len()).expect("heads are bounded").to_le_bytes().to_vec();
        head_bytes.extend_from_slice(&encoded);
        Encoded { head, head_bytes, entries }
    }

    fn head_sectors(&self) -> usize {
        self.head_bytes.len().div_ceil(PAYLOAD_BYTES)
    }

    /// Sectors that the batch takes.
    pub(crate) fn sectors(&self) -> usize {
        2 * self.head_sectors() + self.entries.len().div_ceil(PAYLOAD_BYTES)
    }

    /// The bytes to write at `place`.
    pub(crate) fn place(&self, place: Place) -> Vec<u8> {
        let count = u16::try_from(self.sectors()).expect("the writer bounds batches");
        let head = u16::try_from(self.head_sectors()).expect("the writer bounds batches");
        let mut bytes = Vec::with_capacity(usize::from(count) * SECTOR_BYTES);
        let parts = [(Kind::Head, &self.head_bytes), (Kind::Entries, &self.entries), (Kind::Tail, &self.head_bytes)];
        for (kind, part) in parts {
            for payload in part.chunks(PAYLOAD_BYTES) {
                let index = u16::try_from(bytes.len() / SECTOR_BYTES).expect("below count");
                let used = u16::try_from(payload.len()).expect("at most a sector");
                let sector = place.sector + u32::from(index);
                let header = Header { kind, used, generation: place.generation, sector, batch: place.batch, index, count, head };
                sector::push(&mut bytes, header, payload);
            }
        }
        bytes
    }
}

/// A batch as recovery finds it: its sectors, some of which may be bad.
pub(crate) struct Read<'a> {
    pub bytes: &'a [u8],
    pub found: &'a [Found],
    /// Sectors of one copy of the head.
    pub head: usize,
}

impl Read<'_> {
    /// The head, from whichever copy is whole.
    pub(crate) fn decode_head(&self) -> Option<Head> {
        let count = self.found.len();
        self.decode_head_at(0).or_else(|| {
            runtime::probe!("consensus-log-head-read-from-its-second-copy");
            self.decode_head_at(count.checked_sub(self.head)?)
        })
    }

    fn decode_head_at(&self, from: usize) -> Option<Head> {
        let bytes = self.payloads(from, from + self.head)?;
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        wire::decode(rest.get(..u32::from_le_bytes(*length) as usize)?).ok()
    }

    fn payloads(&self, from: usize, to: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity((to - from) * PAYLOAD_BYTES);
        for index in from..to {
            let Found::Good(header) = self.found.get(index)? else { return None };
            bytes.extend_from_slice(sector::payload(&self.bytes[index * SECTOR_BYTES..(index + 1) * SECTOR_BYTES], header));
        }
        Some(bytes)
    }

    /// The entries of `record`, unless a sector under them is bad.
    pub(crate) fn decode_entries(&self, record: &HeadRecord) -> Option<Vec<Entry>> {
        if record.count == 0 {
            return Some(Vec::new());
        }
        let (from, to) = (record.offset as usize, record.offset as usize + record.bytes as usize);
        let first = from / PAYLOAD_BYTES;
        let payloads = self.payloads(self.head + first, self.head + to.div_ceil(PAYLOAD_BYTES))?;
        let mut rest = payloads.get(from - first * PAYLOAD_BYTES..to - first * PAYLOAD_BYTES)?;
        let mut entries = Vec::with_capacity(record.count.min(1 << 16) as usize);
        for nth in 0..u64::from(record.count) {
            let (head, after) = rest.split_first_chunk::<ENTRY_HEAD_BYTES>()?;
            let length = u32::from_le_bytes([head[9], head[10], head[11], head[12]]) as usize;
            let data = after.get(..length)?;
            let mut entry = Entry::default();
            entry.set_entry_type(EntryType::EntryNormal);
            entry.index = record.first + nth;
            entry.term = u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]]);
            entry.data = Bytes::copy_from_slice(data);
            entries.push(entry);
            rest = &after[length..];
        }
        rest.is_empty().then_some(entries)
    }
}
