//! A batch of the log: what one write and one sync make durable, for all replicas of a drive together.
//!
//! Layout, in sectors: head, entries, head again. The head has every record of the batch but the data of its entries,
//! which it names by index and term, and all that the head of the batch before had. So votes, and what each entry was,
//! stand in three places, and a rotten sector tells exactly whom it hurt.
//!
//! A batch is there as a whole or not at all, so all that one replica has can be written anew in one: nobody ever finds half of its log
//! replaced. How much of several goes into one is the driver's to bound (`driver/upkeep`).

use super::sector::{self, BATCH_SECTORS_MAX, Found, Header, Kind, PAYLOAD_BYTES, SECTOR_BYTES};
use super::{Hard, Key, Start};
use bytes::Bytes;
use protocol::{DriveId, wire};
use raft::eraftpb::{Entry, EntryType};
use serde::{Deserialize, Serialize};

/// Bytes before the data of each entry: term (8), kind (1), length (4).
const ENTRY_HEAD_BYTES: usize = 13;

// The entries of a batch lie at offsets of four bytes, each copy of its head takes as many sectors as two bytes can say: that fits. More
// than 4 GiB of entries is more than a node has memory for.
const _: () = assert!(u32::MAX as usize / PAYLOAD_BYTES + 1 + 2 * u16::MAX as usize <= BATCH_SECTORS_MAX);

/// What one batch says about one replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub key: Key,
    pub hard: Option<Hard>,
    /// The log of this replica begins after it; entries up to it are gone.
    pub start: Option<Start>,
    /// With `start`: the entries after it are gone, too (a snapshot took their place).
    pub reset: bool,
    /// This replica must not run again, whatever can be fetched; stays so.
    pub damaged: bool,
    /// This replica left its group: it is not there any more, and never will be again.
    pub removed: bool,
    /// Entries that had been durable and are lost; what stands around them stays.
    pub lost: Vec<Run>,
    /// Consecutive; they replace whatever stood from the first one on.
    pub entries: Vec<Entry>,
}

/// Consecutive entries of one term. Index and term name an entry: no two were ever made that share both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub first: u64,
    pub count: u64,
    /// 0 if it is not known.
    pub term: u64,
}

impl Run {
    /// Index and term of each of its entries.
    pub(crate) fn names(self) -> impl Iterator<Item = (u64, u64)> {
        (self.first..self.first.saturating_add(self.count)).map(move |index| (index, self.term))
    }
}

/// `names` (index and term), in order, as the fewest runs.
pub(crate) fn runs(names: impl IntoIterator<Item = (u64, u64)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, term) in names {
        match runs.last_mut() {
            Some(last) if last.first + last.count == index && last.term == term => last.count += 1,
            _ => runs.push(Run { first: index, count: 1, term }),
        }
    }
    runs
}

/// The head of a batch as it is encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub drive: DriveId,
    /// In the first batch of a segment: the segment before, and its length in sectors. 0 if there is none.
    pub previous_generation: u64,
    pub previous_sectors: u32,
    /// Records of the batch before, in this segment or at the end of the one before.
    pub previous: Vec<HeadRecord>,
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
    pub removed: bool,
    pub lost: Vec<Run>,
    /// What its entries are; consecutive.
    pub entries: Vec<Run>,
    /// Where its entries lie in the entries' part, in bytes.
    pub offset: u32,
    pub bytes: u32,
}

impl HeadRecord {
    /// Index of its first entry; meaningless if there is none.
    pub(crate) fn first(&self) -> u64 {
        self.entries.first().map_or(0, |run| run.first)
    }

    /// Number of its entries.
    pub(crate) fn count(&self) -> u64 {
        self.entries.iter().map(|run| run.count).sum()
    }

    /// Index and term of each of its entries.
    pub(crate) fn names(&self) -> impl Iterator<Item = (u64, u64)> {
        self.entries.iter().flat_map(|run| run.names())
    }

    /// Whether what it says of entries can be: that they follow one another, and that an index has a successor.
    pub(crate) fn is_sound(&self) -> bool {
        let ends = |run: &Run| run.count > 0 && run.first > 0 && run.first.checked_add(run.count).is_some();
        let follows = |pair: &[Run]| pair[0].first + pair[0].count == pair[1].first;
        self.entries.iter().all(ends) && self.lost.iter().all(ends) && self.entries.windows(2).all(follows)
    }
}

/// How an entry's kind is written, here and between nodes: 0 a command, 1 a change of the group's members.
pub(crate) fn kind_of(entry: &Entry) -> u8 {
    match entry.get_entry_type() {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => 1,
    }
}

/// The kind that was written so; `None` if there is no such kind.
pub(crate) fn type_of(kind: u8) -> Option<EntryType> {
    match kind {
        0 => Some(EntryType::EntryNormal),
        1 => Some(EntryType::EntryConfChangeV2),
        _ => None,
    }
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
    pub(crate) fn new(drive: DriveId, previous: Vec<HeadRecord>, before: Option<(u64, u32)>, records: &[Record]) -> Encoded {
        let mut entries = Vec::new();
        let mut heads = Vec::with_capacity(records.len());
        for record in records {
            let offset = entries.len();
            for entry in &record.entries {
                entries.extend_from_slice(&entry.term.to_le_bytes());
                entries.push(kind_of(entry));
                entries.extend_from_slice(&u32::try_from(entry.data.len()).expect("commands are bounded").to_le_bytes());
                entries.extend_from_slice(&entry.data);
            }
            heads.push(HeadRecord {
                key: record.key,
                hard: record.hard,
                start: record.start,
                reset: record.reset,
                damaged: record.damaged,
                removed: record.removed,
                lost: record.lost.clone(),
                entries: runs(record.entries.iter().map(|entry| (entry.index, entry.term))),
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
        let count = u32::try_from(self.sectors()).expect("entries and heads are bounded");
        let head = u16::try_from(self.head_sectors()).expect("a head of 31 MB names more replicas than a drive can hold");
        let mut bytes = Vec::with_capacity(self.sectors() * SECTOR_BYTES);
        let parts = [(Kind::Head, &self.head_bytes), (Kind::Entries, &self.entries), (Kind::Tail, &self.head_bytes)];
        for (kind, part) in parts {
            for payload in part.chunks(PAYLOAD_BYTES) {
                let index = u32::try_from(bytes.len() / SECTOR_BYTES).expect("below count");
                let used = u16::try_from(payload.len()).expect("at most a sector");
                let sector = place.sector + index;
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
        let head: Head = wire::decode(rest.get(..u32::from_le_bytes(*length) as usize)?).ok()?;
        head.records.iter().chain(&head.previous).all(HeadRecord::is_sound).then_some(head)
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
        if record.entries.is_empty() {
            return Some(Vec::new());
        }
        let (from, to) = (record.offset as usize, record.offset as usize + record.bytes as usize);
        let first = from / PAYLOAD_BYTES;
        let payloads = self.payloads(self.head + first, self.head + to.div_ceil(PAYLOAD_BYTES))?;
        let mut rest = payloads.get(from - first * PAYLOAD_BYTES..to - first * PAYLOAD_BYTES)?;
        let mut entries = Vec::with_capacity(record.count().min(1 << 16) as usize);
        for (index, term) in record.names() {
            let (head, after) = rest.split_first_chunk::<ENTRY_HEAD_BYTES>()?;
            let length = u32::from_le_bytes([head[9], head[10], head[11], head[12]]) as usize;
            let data = after.get(..length)?;
            let mut entry = Entry::default();
            entry.set_entry_type(type_of(head[8])?);
            (entry.index, entry.term) = (index, term);
            if head[..8] != term.to_le_bytes() {
                return None;
            }
            entry.data = Bytes::copy_from_slice(data);
            entries.push(entry);
            rest = &after[length..];
        }
        rest.is_empty().then_some(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::MemoryDisk;
    use crate::log::{Log, LogView};
    use protocol::{GroupId, ReplicaId};
    use runtime::disk::Disk;
    use std::sync::Arc;

    const KEY: Key = Key { group: GroupId(1), replica: ReplicaId(11) };

    fn hard(term: u64) -> Option<Hard> {
        Some(Hard { term, vote: 7, commit: 0 })
    }

    fn open(disk: &Arc<MemoryDisk>) -> (Log, Option<Hard>, Vec<Entry>) {
        let (log, mut recovered) = Log::open(disk.clone(), DriveId(3), 1 << 20, true, &[KEY]).unwrap();
        let one = recovered.remove(&KEY).unwrap();
        assert!(one.lost.is_empty());
        (log, one.hard, one.entries.into_values().collect())
    }

    #[test]
    fn a_batch_of_more_sectors_than_two_bytes_count_is_there_as_a_whole_or_not_at_all() {
        let data = Bytes::from(vec![0xa5; 2 << 20]);
        let entries: Vec<Entry> = (1..=17).map(|index| Entry { index, term: 2, data: data.clone(), ..Entry::default() }).collect();
        let written = || {
            let disk = Arc::new(MemoryDisk::default());
            let (mut log, ..) = open(&disk);
            // Another one's entry keeps the segment before.
            let other = Key { group: GroupId(2), ..KEY };
            let one = Entry { index: 1, term: 1, ..Entry::default() };
            let pins = Record { key: other, hard: hard(1), entries: vec![one], ..Record::default() };
            log.write(&[Record { key: KEY, hard: hard(1), ..Record::default() }, pins]).unwrap();
            log.write(&[Record { key: KEY, hard: hard(2), entries: entries.clone(), ..Record::default() }]).unwrap();
            let last = disk.list("raft").unwrap().into_iter().rfind(|file| file.name.starts_with("log-")).unwrap();
            (disk, format!("raft/{}", last.name))
        };
        let (disk, last) = written();
        assert!(disk.bytes(&last).len() > usize::from(u16::MAX) * SECTOR_BYTES);
        let mut view = LogView::default();
        assert!(view.advance(disk.as_ref()).unwrap());
        assert_eq!(view.replica(KEY.group, KEY.replica).unwrap().entries.len(), entries.len());
        let (_, vote, found) = open(&disk);
        assert_eq!((vote, found), (hard(2), entries.clone()));
        // A single sector was not written, one behind all those that two bytes could count.
        let (disk, last) = written();
        let mut torn = disk.bytes(&last);
        torn[66_000 * SECTOR_BYTES..66_001 * SECTOR_BYTES].fill(0);
        disk.set(&last, torn);
        let (_, vote, found) = open(&disk);
        assert_eq!((vote, found), (hard(1), Vec::new()));
    }
}
