//! Reading a log back: which batches are durable, what a torn tail takes off, what rot took away.
//!
//! Batches are written one after another, each synced before the next begins. So a batch that any later one follows
//! had been durable, and whatever is missing of it is rot. The last batch is torn, and cut, if one of its sectors was
//! never written; if all were and some are bad, it is rot. An entry that may have been acknowledged is never cut
//! silently: it is reported as lost, by index and term.

#[cfg(test)]
use super::batch::runs;
use super::batch::{Head, HeadRecord, Read};
use super::sector::{Found, Header, SECTOR_BYTES, judge};
use super::{Error, Hard, Key, Start};
use raft::eraftpb::Entry;
use runtime::disk::DiskFile;
use std::collections::BTreeMap;

/// Sectors of the smallest batch: its head, twice. Fewer than two of these are one batch, which the next one names.
const BATCH_SECTORS_MIN: usize = 2;
/// Sectors that are read at once: a mebibyte.
const CHUNK_SECTORS: usize = (1 << 20) / SECTOR_BYTES;

/// What the log knows of one replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovered {
    pub hard: Option<Hard>,
    pub start: Start,
    /// By index; consecutive from `start.index + 1` but for those that are lost.
    pub entries: BTreeMap<u64, Entry>,
    /// Index and term of entries that were durable once and are lost. The term is 0 if nothing tells it.
    pub lost: BTreeMap<u64, u64>,
    /// It was found that it must not run again.
    pub damaged: bool,
    /// It left its group; nothing of it is needed.
    pub removed: bool,
}

impl Recovered {
    /// Whether nothing of this replica ever left it: no vote, no entry, no state. One whose vote is not known may have voted.
    pub(crate) fn is_blank(&self) -> bool {
        let never = self.hard == Some(Hard::default());
        never && !self.damaged && self.start == Start::default() && self.last() == 0
    }

    /// What is lost of its log, if anything is.
    #[cfg(test)]
    pub(crate) fn damage(&self) -> Option<String> {
        let runs = runs(self.lost.iter().map(|(index, term)| (*index, *term)));
        let told: Vec<String> =
            runs.iter().map(|run| format!("{} to {} of term {}", run.first, run.first + run.count - 1, run.term)).collect();
        (!told.is_empty()).then(|| format!("entries {}", told.join(", ")))
    }

    /// Index of the last entry, lost or not; 0 if there is none.
    pub(crate) fn last(&self) -> u64 {
        let lost = self.lost.keys().next_back().copied().unwrap_or(0);
        self.entries.keys().next_back().copied().unwrap_or(0).max(lost)
    }

    /// Take in a record; `entries` are `None` if they are lost.
    fn take(&mut self, record: &HeadRecord, entries: Option<Vec<Entry>>) {
        self.hard = record.hard.or(self.hard);
        self.damaged |= record.damaged;
        self.removed |= record.removed;
        if let Some(start) = record.start {
            self.cut(start, record.reset);
        }
        for (index, term) in record.lost.iter().flat_map(|run| run.names()) {
            self.entries.remove(&index);
            self.lost.insert(index, term);
        }
        if record.entries.is_empty() {
            return;
        }
        self.entries.split_off(&record.first());
        self.lost.split_off(&record.first());
        match entries {
            Some(entries) => self.entries.extend(entries.into_iter().map(|entry| (entry.index, entry))),
            None => self.lost.extend(record.names()),
        }
    }

    fn cut(&mut self, start: Start, reset: bool) {
        self.start = start;
        self.entries = if reset { BTreeMap::new() } else { self.entries.split_off(&(start.index + 1)) };
        self.lost = if reset { BTreeMap::new() } else { self.lost.split_off(&(start.index + 1)) };
    }

    /// Judge what is left when every batch was taken in.
    fn settle(&mut self) {
        if self.removed {
            *self = Recovered { hard: self.hard, start: self.start, removed: true, ..Recovered::default() };
            return;
        }
        // A tail that was written forward may begin below a start that was recorded in the same batch.
        self.cut(self.start, false);
        let known = |index: &u64| self.entries.contains_key(index) || self.lost.contains_key(index);
        let last = self.entries.keys().next_back().copied().unwrap_or(0);
        let missing: Vec<u64> = (self.start.index + 1..last).filter(|index| !known(index)).collect();
        self.lost.extend(missing.into_iter().map(|index| (index, 0)));
        if !self.lost.is_empty() {
            runtime::probe!("consensus-log-entries-rotten");
        }
    }
}

/// All sectors of one segment, judged.
pub(crate) struct Segment {
    pub generation: u64,
    /// As far as batches reach.
    bytes: Vec<u8>,
    /// Of every sector.
    found: Vec<Found>,
    /// Start and shape of each batch of which a good sector is left, by number.
    batches: BTreeMap<u32, Shape>,
}

#[derive(Clone, Copy)]
struct Shape {
    sector: usize,
    count: usize,
    head: usize,
}

/// How the last batch of a segment stands.
#[derive(PartialEq, Eq, Debug)]
enum Standing {
    Whole,
    Torn,
    Rotten,
}

impl Segment {
    /// Read a whole segment. Sectors that the drive cannot read count as rotten.
    pub(crate) fn read(file: &dyn DiskFile, generation: u64) -> Result<Segment, Error> {
        let sectors = usize::try_from(file.len()?).expect("segments are bounded") / SECTOR_BYTES;
        let (mut bytes, mut found) = (Vec::new(), Vec::with_capacity(sectors));
        let mut buffer = vec![0; CHUNK_SECTORS.min(sectors) * SECTOR_BYTES];
        for first in (0..sectors).step_by(CHUNK_SECTORS) {
            let chunk = &mut buffer[..CHUNK_SECTORS.min(sectors - first) * SECTOR_BYTES];
            let unreadable = read_chunk(file, first, chunk)?;
            let sector = |nth: usize| u32::try_from(first + nth).expect("segments are bounded");
            found.extend(chunk.chunks(SECTOR_BYTES).enumerate().map(|(nth, bytes)| judge(bytes, generation, sector(nth))));
            for at in unreadable {
                runtime::probe!("consensus-log-sector-unreadable");
                found[at] = Found::Rotten;
            }
            // Most of a segment was never written: only as much is held as has something in it.
            if found[first..].iter().any(|found| *found != Found::Unwritten) {
                bytes.resize(first * SECTOR_BYTES, 0);
                bytes.extend_from_slice(chunk);
            }
        }
        let mut batches: BTreeMap<u32, Shape> = BTreeMap::new();
        for (at, one) in found.iter().enumerate() {
            if let Found::Good(Header { batch, index, count, head, .. }) = one {
                let shape = Shape { sector: at - *index as usize, count: *count as usize, head: usize::from(*head) };
                batches.entry(*batch).or_insert(shape);
            }
        }
        let end = batches.values().map(|shape| (shape.sector + shape.count).min(sectors)).max().unwrap_or(0);
        bytes.resize(end * SECTOR_BYTES, 0);
        Ok(Segment { generation, bytes, found, batches })
    }

    fn found_of(&self, shape: Shape) -> &[Found] {
        let end = (shape.sector + shape.count).min(self.found.len());
        &self.found[shape.sector..end]
    }

    fn batch(&self, shape: Shape) -> Read<'_> {
        let found = self.found_of(shape);
        let from = shape.sector * SECTOR_BYTES;
        Read { bytes: &self.bytes[from..from + found.len() * SECTOR_BYTES], found, head: shape.head }
    }

    /// Whether any sector of it is rotten.
    pub(super) fn has_rot(&self) -> bool {
        self.found.contains(&Found::Rotten)
    }

    /// Its batches in order, each with its first sector.
    pub(super) fn reads(&self) -> impl Iterator<Item = (usize, Read<'_>)> {
        self.batches.values().map(|shape| (shape.sector, self.batch(*shape)))
    }

    fn standing(&self, shape: Shape) -> Standing {
        let found = self.found_of(shape);
        if found.len() < shape.count {
            return Standing::Torn;
        }
        let swapped = runtime::planted("torn-and-rot-swapped");
        let (unwritten, rotten) = if swapped { (Found::Rotten, Found::Unwritten) } else { (Found::Unwritten, Found::Rotten) };
        if found.contains(&unwritten) {
            Standing::Torn
        } else if found.contains(&rotten) {
            Standing::Rotten
        } else {
            Standing::Whole
        }
    }

    /// The last batch that had been durable and where it ends, in sectors, if this is the last segment of its log.
    fn durable_end(&self, what: &dyn Fn(String) -> Error) -> Result<Option<(u32, usize)>, Error> {
        let Some((&last, &shape)) = self.batches.last_key_value() else {
            return Ok(None);
        };
        let end = shape.sector + shape.count;
        match self.standing(shape) {
            Standing::Torn if runtime::planted("torn-log-tail-believed") && self.batch(shape).decode_head().is_some() => {
                Ok(Some((last, end)))
            }
            Standing::Torn => {
                runtime::probe!("consensus-log-torn-tail-cut");
                let before = last.checked_sub(1);
                Ok(before.map(|before| (before, shape.sector)))
            }
            Standing::Whole | Standing::Rotten => {
                // Two bad sectors in a row where the next batch would begin may be a whole batch that rotted away.
                let after = &self.found[end.min(self.found.len())..];
                if after.iter().take_while(|found| **found == Found::Rotten).count() >= 2 {
                    return Err(what(format!("segment {}: everything after batch {last}", self.generation)));
                }
                Ok(Some((last, end)))
            }
        }
    }

    /// The head of the first batch, if a copy is whole.
    fn first_head(&self) -> Option<Head> {
        self.batch(*self.batches.get(&0)?).decode_head()
    }
}

/// Read a chunk that begins at the sector `first`; returns the sectors that the drive cannot read, which are zeros here.
fn read_chunk(file: &dyn DiskFile, first: usize, chunk: &mut [u8]) -> Result<Vec<usize>, Error> {
    let offset = |sector: usize| (sector * SECTOR_BYTES) as u64;
    match file.read_at(offset(first), chunk) {
        Ok(()) => return Ok(Vec::new()),
        Err(runtime::disk::Error::Io { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut unreadable = Vec::new();
    for (nth, sector) in chunk.chunks_mut(SECTOR_BYTES).enumerate() {
        match file.read_at(offset(first + nth), sector) {
            Ok(()) => {}
            Err(runtime::disk::Error::Io { .. }) => {
                sector.fill(0);
                unreadable.push(first + nth);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(unreadable)
}

/// The outcome of reading a log.
pub(crate) struct Replayed {
    pub replicas: BTreeMap<Key, Recovered>,
    /// Generations that belong to the log, oldest first, each with its length in sectors.
    pub chain: Vec<(u64, u32)>,
    /// Which entries each of them holds that may still be needed.
    pub live: Vec<BTreeMap<Key, (u64, u64)>>,
    /// Records of the last batch.
    pub table: Vec<HeadRecord>,
}

/// Take in `segments`, which are all that the drive has, oldest first. `label` is the drive as people know it.
pub(crate) fn replay(label: &str, segments: &[Segment]) -> Result<Replayed, Error> {
    let damaged = |detail: String| Error::Damaged { drive: label.to_owned(), what: "Raft log".to_owned(), detail };
    let mut last = None;
    for (at, segment) in segments.iter().enumerate().rev() {
        if let Some(end) = segment.durable_end(&damaged)? {
            last = Some((at, end));
            break;
        }
    }
    let Some((mut at, (mut last_batch, mut end))) = last else {
        let nothing = Replayed { replicas: BTreeMap::new(), chain: Vec::new(), live: Vec::new(), table: Vec::new() };
        return Ok(nothing);
    };
    // Walk back along the chain: what each first batch says of the segment before it.
    let mut chain = Vec::new();
    let mut lost = 0;
    loop {
        let segment = &segments[at];
        chain.push((at, last_batch, end, lost));
        let before = match segment.first_head() {
            Some(head) => {
                let found = segments[..at].iter().position(|one| one.generation == head.previous_generation);
                found.map(|found| (found, Some(head.previous_sectors as usize)))
            }
            // Its head rotted in both copies: the one before is the next lower one that holds anything.
            None => (0..at).rev().find(|found| !segments[*found].batches.is_empty()).map(|found| (found, None)),
        };
        let Some((before, sectors)) = before else { break };
        at = before;
        let known = &segments[at];
        // Batches beyond the recorded end are torn tails of a start before the next one.
        let within = |shape: &Shape| sectors.is_none_or(|sectors| shape.sector < sectors);
        let Some((number, shape)) = known.batches.iter().rfind(|(_, shape)| within(shape)) else {
            return Err(damaged(format!("segment {} is unreadable", known.generation)));
        };
        last_batch = *number;
        let found = shape.sector + shape.count;
        end = sectors.unwrap_or(found);
        // Sectors of which nothing is left, though a segment was begun behind them.
        lost = end.saturating_sub(found);
        if lost >= 2 * BATCH_SECTORS_MIN {
            return Err(damaged(format!("segment {}: {lost} sectors after batch {number}", known.generation)));
        }
    }
    chain.reverse();

    let mut replicas: BTreeMap<Key, Recovered> = BTreeMap::new();
    let mut live: Vec<BTreeMap<Key, (u64, u64)>> = Vec::new();
    let mut last_table: Vec<HeadRecord> = Vec::new();
    // An unreadable batch waits here for the batch after it, which names what it held.
    let mut unreadable: Option<String> = None;
    for (at, last_batch, _, lost) in &chain {
        let segment = &segments[*at];
        live.push(BTreeMap::new());
        for number in 0..=*last_batch {
            let read = segment.batches.get(&number).map(|shape| segment.batch(*shape));
            let Some((read, head)) = read.and_then(|read| read.decode_head().map(|head| (read, head))) else {
                if let Some(before) = unreadable {
                    return Err(damaged(format!("{before} and the batch after it")));
                }
                unreadable = Some(format!("segment {} batch {number}", segment.generation));
                continue;
            };
            if unreadable.take().is_some() {
                runtime::probe!("consensus-log-batch-named-by-the-next");
                for record in &head.previous {
                    take(record, None, &mut replicas, &mut live);
                }
            }
            for record in &head.records {
                let mut entries = read.decode_entries(record);
                if entries.is_none() && runtime::planted("torn-log-tail-believed") {
                    entries = Some(record.names().map(|(index, term)| Entry { index, term, ..Entry::default() }).collect());
                }
                take(record, entries, &mut replicas, &mut live);
            }
            last_table = head.records;
        }
        if *lost > 0 {
            let what = format!("the batch after batch {last_batch} of segment {}", segment.generation);
            if let Some(before) = unreadable.replace(what) {
                return Err(damaged(format!("{before} and the batch after it")));
            }
        }
    }
    if let Some(what) = unreadable {
        return Err(damaged(format!("{what}, the last one")));
    }
    replicas.values_mut().for_each(Recovered::settle);
    let chain =
        chain.into_iter().map(|(at, _, end, _)| (segments[at].generation, u32::try_from(end).expect("segments are bounded"))).collect();
    Ok(Replayed { replicas, chain, live, table: last_table })
}

fn take(record: &HeadRecord, entries: Option<Vec<Entry>>, replicas: &mut BTreeMap<Key, Recovered>, live: &mut [BTreeMap<Key, (u64, u64)>]) {
    replicas.entry(record.key).or_default().take(record, entries);
    if let Some(start) = record.start {
        forget_live(live, record.key, start.index, record.reset);
    }
    note_live(live, record.key, record.first(), record.count());
}

/// Entries from `first` on now live in the last of `live` and nowhere else.
pub(crate) fn note_live(live: &mut [BTreeMap<Key, (u64, u64)>], key: Key, first: u64, count: u64) {
    if count == 0 {
        return;
    }
    for ranges in live.iter_mut() {
        if let Some(range) = ranges.get_mut(&key) {
            range.1 = range.1.min(first.saturating_sub(1));
            if range.0 > range.1 {
                ranges.remove(&key);
            }
        }
    }
    let last = first + count - 1;
    if let Some(ranges) = live.last_mut() {
        ranges.entry(key).or_insert((first, last)).1 = last;
    }
}

/// Entries of `key` up to `index` (all of them, on a reset) are no longer needed.
pub(crate) fn forget_live(live: &mut [BTreeMap<Key, (u64, u64)>], key: Key, index: u64, reset: bool) {
    for ranges in live.iter_mut() {
        if let Some(range) = ranges.get_mut(&key) {
            range.0 = range.0.max(index + 1);
            if reset || range.0 > range.1 {
                ranges.remove(&key);
            }
        }
    }
}
