//! [`LogView`]: the log of a drive as it lies there, read without changing it and without a driver: what a judge of raw
//! drives goes by. Reads on from where it stopped, so that looking often is cheap.
//!
//! Shares with recovery how a sector, a batch and an entry are decoded, and nothing else: what counts as durable is
//! decided here anew. A batch counts when all its sectors stand on the drive. One that later batches follow and of which
//! sectors are missing is lost; the table in the next batch names whose entries those were.

use super::batch::{Head, Read, kind_of};
use super::sector::{Found, Kind, SECTOR_BYTES, judge};
use super::{FOLDER, generation_of, segment_name};
use bytes::Bytes;
use protocol::{GroupId, ReplicaId};
use runtime::disk::{self, Disk, DiskFile, Open};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sectors behind an unreadable batch in which the next one is looked for.
const AHEAD_SECTORS: u32 = 64;

/// An entry of a replica's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedEntry {
    pub term: u64,
    /// A change of the group's members, not a command.
    pub change: bool,
    /// See [`crate::inspect::decode_command`].
    pub data: Bytes,
}

/// What the log of a drive says of one replica.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReplicaLog {
    pub term: u64,
    pub vote: u64,
    /// Raft's commit index as it was last written: the true one may be higher.
    pub commit: u64,
    /// It left its group.
    pub removed: bool,
    /// It must never run again: its state differed from the others', or what it had acknowledged was missing.
    pub damaged: bool,
    /// Entries up to this are gone from the log, as a checkpoint or a snapshot holds them.
    pub start: u64,
    /// By index; gaps are entries that the drive lost. Those up to `start` stay until [`LogView::forget`]: they may have been
    /// written and cut between two looks.
    pub entries: BTreeMap<u64, LoggedEntry>,
}

impl ReplicaLog {
    /// Whether it holds the entry `index` of `term`, or a checkpoint or snapshot that it was cut behind does.
    pub fn holds(&self, index: u64, term: u64) -> bool {
        self.start >= index || self.entries.get(&index).is_some_and(|entry| entry.term == term)
    }
}

/// The log of one drive.
#[derive(Clone, Default)]
pub struct LogView {
    at: Option<Place>,
    replicas: BTreeMap<(GroupId, ReplicaId), ReplicaLog>,
    lost_batches: u64,
}

/// Where reading goes on.
#[derive(Clone, Copy)]
struct Place {
    generation: u64,
    sector: u32,
    /// Number of the next batch.
    batch: u32,
    /// Where the batch before begins, and the CRC of its first sector.
    last: (u32, [u8; 4]),
}

impl Place {
    /// Whether the last batch that was read is still there.
    fn stands(&self, disk: &dyn Disk) -> disk::Result<bool> {
        let file = disk.open(&segment_name(self.generation), Open::Existing)?;
        let (bytes, found) = sectors(&file, self.generation, self.last.0, self.last.0 + 1)?;
        Ok(matches!(found.first(), Some(Found::Good(_))) && bytes.first_chunk() == Some(&self.last.1))
    }
}

/// A batch whose sectors are all there.
struct Whole {
    head: Head,
    bytes: Vec<u8>,
    found: Vec<Found>,
    head_sectors: usize,
}

impl Whole {
    fn read(&self) -> Read<'_> {
        Read { bytes: &self.bytes, found: &self.found, head: self.head_sectors }
    }
}

impl LogView {
    /// Take in what was written since the last call; whether there was anything.
    pub fn advance(&mut self, disk: &dyn Disk) -> disk::Result<bool> {
        let mut generations: Vec<u64> = disk.list(FOLDER)?.iter().filter_map(|entry| generation_of(&entry.name)).collect();
        generations.sort_unstable();
        let gone = match self.at {
            None => false,
            Some(at) => !generations.contains(&at.generation) || !at.stands(disk)?,
        };
        if gone {
            // Cut away before it was read to its end: what is still needed stands in the segments that are left. Or another
            // drive, or an older copy, lies here now.
            *self = LogView { lost_batches: self.lost_batches, ..LogView::default() };
        }
        let mut changed = false;
        if let Some(at) = self.at {
            changed |= self.read_on(disk, at.generation, None)?;
        }
        for generation in generations {
            if self.at.is_some_and(|at| generation <= at.generation) {
                continue;
            }
            let file = disk.open(&segment_name(generation), Open::Existing)?;
            // A segment whose first batch is not there was never begun.
            let Some(first) = whole_batch(&file, generation, 0, 0)? else { continue };
            if let Some(at) = self.at {
                if first.head.previous_generation != at.generation {
                    continue;
                }
                self.read_on(disk, at.generation, Some(first.head.previous_sectors))?;
                if self.at.is_some_and(|at| at.sector < first.head.previous_sectors) {
                    self.lose(&first.head);
                }
            }
            self.take(generation, 0, 0, &first);
            self.read_on(disk, generation, None)?;
            changed = true;
        }
        Ok(changed)
    }

    /// The replicas that the log knows.
    pub fn replicas(&self) -> &BTreeMap<(GroupId, ReplicaId), ReplicaLog> {
        &self.replicas
    }

    /// What the log says of one of them.
    pub fn replica(&self, group: GroupId, replica: ReplicaId) -> Option<&ReplicaLog> {
        self.replicas.get(&(group, replica))
    }

    /// Entries of `group` up to `index` are no longer asked for.
    pub fn forget(&mut self, group: GroupId, index: u64) {
        for ((_, _), replica) in self.replicas.iter_mut().filter(|((of, _), _)| *of == group) {
            replica.entries = replica.entries.split_off(&(replica.start.min(index) + 1));
        }
    }

    /// Batches that were written once and are not there any more.
    pub fn lost_batches(&self) -> u64 {
        self.lost_batches
    }

    /// Whether the drive holds batches, or rotten sectors, behind the place where reading ended: what is there is lost, and nobody
    /// can tell whose terms, votes and entries it held. A last batch that was torn is not such a loss: its sectors are whole or not
    /// written.
    pub fn is_cut_short(&self, disk: &dyn Disk) -> disk::Result<bool> {
        for entry in disk.list(FOLDER)? {
            let Some(generation) = generation_of(&entry.name) else { continue };
            let (from, after) = match self.at {
                Some(at) if generation < at.generation => continue,
                Some(at) if generation == at.generation => (at.sector, Some(at.batch)),
                _ => (0, None),
            };
            let file = disk.open(&segment_name(generation), Open::Existing)?;
            let (_, found) = sectors(&file, generation, from, u32::MAX)?;
            let lost = |found: &Found| match found {
                Found::Good(header) => after.is_none_or(|after| header.batch > after),
                Found::Rotten => true,
                Found::Unwritten => false,
            };
            if found.iter().any(lost) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Read the batches of segment `generation` that follow, at most to sector `end`.
    fn read_on(&mut self, disk: &dyn Disk, generation: u64, end: Option<u32>) -> disk::Result<bool> {
        let file = disk.open(&segment_name(generation), Open::Existing)?;
        let mut changed = false;
        while let Some(Place { sector, batch, .. }) = self.at {
            if end.is_some_and(|end| sector >= end) {
                break;
            }
            if let Some(whole) = whole_batch(&file, generation, sector, batch)? {
                self.take(generation, sector, batch, &whole);
                changed = true;
                continue;
            }
            // Not written yet, or lost: then the one after it is there.
            let Some(next) = find_batch(&file, generation, sector + 1, batch + 1, end)? else { break };
            let Some(whole) = whole_batch(&file, generation, next, batch + 1)? else { break };
            self.lose(&whole.head);
            self.take(generation, next, batch + 1, &whole);
            changed = true;
        }
        Ok(changed)
    }

    /// The batch before that of `head` is lost.
    fn lose(&mut self, head: &Head) {
        self.lost_batches += 1;
        for record in head.previous.iter().filter(|record| !record.entries.is_empty()) {
            let replica = self.replicas.entry((record.key.group, record.key.replica)).or_default();
            replica.entries.split_off(&record.first());
        }
    }

    fn take(&mut self, generation: u64, sector: u32, batch: u32, whole: &Whole) {
        for record in &whole.head.records {
            let replica = self.replicas.entry((record.key.group, record.key.replica)).or_default();
            if let Some(hard) = record.hard {
                (replica.term, replica.vote, replica.commit) = (hard.term, hard.vote, hard.commit);
            }
            replica.removed |= record.removed;
            replica.damaged |= record.damaged;
            if let Some(start) = record.start {
                replica.start = start.index;
                if record.reset {
                    replica.entries.clear();
                }
            }
            for (index, _) in record.lost.iter().flat_map(|run| run.names()) {
                replica.entries.remove(&index);
            }
            if !record.entries.is_empty() {
                replica.entries.split_off(&record.first());
            }
            for entry in whole.read().decode_entries(record).unwrap_or_default() {
                replica.entries.insert(entry.index, LoggedEntry { term: entry.term, change: kind_of(&entry) == 1, data: entry.data });
            }
        }
        let count = u32::try_from(whole.found.len()).expect("batches are bounded");
        let crc = *whole.bytes.first_chunk().expect("a batch has sectors");
        self.at = Some(Place { generation, sector: sector + count, batch: batch + 1, last: (sector, crc) });
    }
}

/// Sectors `from..to` of a segment, fewer at its end; those that cannot be read are rotten.
fn sectors(file: &Arc<dyn DiskFile>, generation: u64, from: u32, to: u32) -> disk::Result<(Vec<u8>, Vec<Found>)> {
    let end = u32::try_from(file.len()? / SECTOR_BYTES as u64).expect("segments are bounded").min(to);
    let count = end.saturating_sub(from) as usize;
    if count == 0 {
        // A batch may end where its file does.
        return Ok((Vec::new(), Vec::new()));
    }
    let mut bytes = vec![0; count * SECTOR_BYTES];
    let mut readable = vec![true; count];
    let start = u64::from(from) * SECTOR_BYTES as u64;
    match file.read_at(start, &mut bytes) {
        Ok(()) => {}
        Err(disk::Error::Io { .. }) => {
            for (nth, sector) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
                readable[nth] = file.read_at(start + (nth * SECTOR_BYTES) as u64, sector).is_ok();
            }
        }
        Err(error) => return Err(error),
    }
    let positions = from..end;
    let judged = bytes.chunks(SECTOR_BYTES).zip(positions).zip(&readable);
    let found = judged.map(|((sector, at), readable)| if *readable { judge(sector, generation, at) } else { Found::Rotten }).collect();
    Ok((bytes, found))
}

/// The batch that begins at `sector`, if it is number `batch` and all of it is there.
fn whole_batch(file: &Arc<dyn DiskFile>, generation: u64, sector: u32, batch: u32) -> disk::Result<Option<Whole>> {
    let (_, first) = sectors(file, generation, sector, sector + 1)?;
    let Some(Found::Good(first)) = first.first().copied() else { return Ok(None) };
    if first.index != 0 || first.batch != batch || first.kind != Kind::Head {
        return Ok(None);
    }
    let (bytes, found) = sectors(file, generation, sector, sector.saturating_add(first.count))?;
    let there = |found: &Found| matches!(found, Found::Good(header) if header.batch == batch);
    if found.len() < first.count as usize || !found.iter().all(there) {
        return Ok(None);
    }
    let head_sectors = usize::from(first.head);
    let head = Read { bytes: &bytes, found: &found, head: head_sectors }.decode_head();
    Ok(head.map(|head| Whole { head, bytes, found, head_sectors }))
}

/// Where batch number `batch` begins, not far behind `from`.
fn find_batch(file: &Arc<dyn DiskFile>, generation: u64, from: u32, batch: u32, end: Option<u32>) -> disk::Result<Option<u32>> {
    let to = end.unwrap_or(u32::MAX).min(from.saturating_add(AHEAD_SECTORS));
    let (_, found) = sectors(file, generation, from, to)?;
    let begins = |found: &Found| matches!(found, Found::Good(header) if header.batch == batch && header.index == 0);
    Ok((from..).zip(&found).find(|(_, found)| begins(found)).map(|(at, _)| at))
}
