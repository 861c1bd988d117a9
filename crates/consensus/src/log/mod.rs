//! The Raft log of one drive, shared by all replicas that live on it.
//!
//! Always holds: one batch is written and synced before the next is begun; a batch is durable when [`Log::write`]
//! returns. Terms and votes of every replica stand at the beginning of every segment, so that only entries pin an
//! old one. Every start begins a new segment: sectors of a torn tail are never written over, hence never mixed.

mod batch;
mod places;
mod recovery;
mod sector;
mod view;

pub(crate) use batch::{Record, Run, kind_of, runs, type_of};

pub use places::{EntrySector, entry_sectors};
pub(crate) use recovery::Recovered;
pub use view::{LogView, LoggedEntry, ReplicaLog};

use crate::host::Error;
use batch::{Encoded, HeadRecord, Place};
use protocol::{DriveId, GroupId, ReplicaId};
use recovery::{Replayed, Segment, forget_live, note_live, replay};
use runtime::disk::{Disk, DiskFile, Open};
use sector::SECTOR_BYTES;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Folder of everything that this crate keeps on a drive.
pub(crate) const FOLDER: &str = "raft";
/// Segments kept for reuse: their blocks are written already, so that a sync does not wait for the file system.
const SPARES_MAX: usize = 2;

/// A replica of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Key {
    pub group: GroupId,
    pub replica: ReplicaId,
}

impl Default for Key {
    fn default() -> Key {
        Key { group: GroupId(0), replica: ReplicaId(0) }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "group {} replica {}", self.group, self.replica)
    }
}

/// Term, vote and commit index of a replica (Raft's hard state).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Hard {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// The entry after which a replica's log begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Start {
    pub index: u64,
    pub term: u64,
}

/// What every segment's first batch repeats of a replica.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// `None` for a replica that has no vote here: it must not come to have one by being repeated.
    hard: Option<Hard>,
    start: Start,
    damaged: bool,
    removed: bool,
    /// Index and term of entries that are lost.
    lost: BTreeMap<u64, u64>,
}

/// The log of one drive. Calls block on the drive.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    drive: DriveId,
    segment_bytes: u64,
    /// Generations of the segments, oldest first; the last one is written to.
    generations: Vec<u64>,
    /// Entries that each of them holds and that may still be needed: first and last.
    live: Vec<BTreeMap<Key, (u64, u64)>>,
    /// The last segment's file; `None` only while a log is being opened.
    active: Option<Arc<dyn DiskFile>>,
    active_sectors: u32,
    next_sector: u32,
    next_batch: u32,
    table: Vec<HeadRecord>,
    standing: BTreeMap<Key, Standing>,
    spares: Vec<String>,
    next_generation: u64,
    /// Segments in which rot was found.
    rotten: BTreeSet<u64>,
}

fn segment_name(generation: u64) -> String {
    format!("{FOLDER}/log-{generation:016x}.seg")
}

fn generation_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("log-")?.strip_suffix(".seg")?, 16).ok()
}

impl Log {
    /// Open the log of a drive, or create it if `create` and there is none.
    ///
    /// `replicas` are those that live on the drive: they are given a standing in the log if they have none.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        drive: DriveId,
        segment_bytes: u64,
        create: bool,
        replicas: &[Key],
    ) -> Result<(Log, BTreeMap<Key, Recovered>), Error> {
        disk.create_folder(FOLDER)?;
        let files = disk.list(FOLDER)?;
        let mut generations: Vec<u64> = files.iter().filter_map(|entry| generation_of(&entry.name)).collect();
        generations.sort_unstable();
        let mut segments = Vec::with_capacity(generations.len());
        for generation in &generations {
            let file = disk.open(&segment_name(*generation), Open::Existing)?;
            segments.push(Segment::read(file.as_ref(), *generation)?);
        }
        let Replayed { replicas: mut recovered, chain, live, table } = replay(disk.label(), &segments)?;
        let rotten = segments.iter().filter(|segment| segment.has_rot()).map(|segment| segment.generation).collect();
        drop(segments);
        // Who wrote the last batch may have been killed before its sync: it counts as acknowledged from now on. Whatever
        // stands before it was synced before it was written.
        if let Some((last, _)) = chain.last() {
            disk.open(&segment_name(*last), Open::Existing)?.sync()?;
        }
        if chain.is_empty() && !create {
            return Err(Error::Damaged {
                drive: disk.label().to_owned(),
                what: "Raft log".to_owned(),
                detail: "this drive took part in groups before, and its log is gone".to_owned(),
            });
        }
        for key in replicas {
            recovered.entry(*key).or_default();
        }
        let standing = recovered
            .iter()
            .map(|(key, one)| {
                let Recovered { start, damaged, removed, .. } = *one;
                (*key, Standing { hard: one.hard, start, damaged, removed, lost: one.lost.clone() })
            })
            .collect();
        let spares = files.iter().filter(|entry| entry.name.starts_with("spare-")).map(|entry| format!("{FOLDER}/{}", entry.name));
        let next_generation = generations.last().map_or(1, |last| last + 1);
        let before = chain.last().copied();
        let mut log = Log {
            active: None,
            disk,
            drive,
            segment_bytes,
            generations: chain.iter().map(|(generation, _)| *generation).collect(),
            live,
            active_sectors: 0,
            next_sector: 0,
            next_batch: 0,
            table,
            standing,
            spares: spares.collect(),
            next_generation,
            rotten,
        };
        log.roll(before, &[])?;
        // Only now are the others superfluous: torn beginnings of segments, and old ones whose removal was not durable.
        for generation in generations {
            if !log.generations.contains(&generation) {
                log.retire(generation)?;
            }
        }
        log.cut()?;
        Ok((log, recovered))
    }

    /// Make `records` durable: one write, one sync. Then let go of what they made superfluous.
    ///
    /// After an error nothing is known of the records, and the drive is closed.
    pub(crate) fn write(&mut self, records: &[Record]) -> Result<(), Error> {
        let encoded = Encoded::new(self.drive, self.table.clone(), None, records);
        let sectors = encoded.sectors();
        if self.next_sector as usize + sectors > self.active_sectors as usize {
            let before = (*self.generations.last().expect("open() began one"), self.next_sector);
            self.roll(Some(before), records)?;
        } else {
            self.put(&encoded, records)?;
        }
        self.cut()
    }

    /// Segments on the drive.
    pub(crate) fn segments(&self) -> usize {
        self.generations.len()
    }

    /// Replicas whose entries keep the oldest segment, if it is not the one that is written to.
    pub(crate) fn pinned_by(&self) -> Vec<Key> {
        if self.generations.len() < 2 { Vec::new() } else { self.live[0].keys().copied().collect() }
    }

    /// Write one encoded batch at the end of the active segment and sync it.
    fn put(&mut self, encoded: &Encoded, records: &[Record]) -> Result<(), Error> {
        let generation = *self.generations.last().expect("open() began one");
        let bytes = encoded.place(Place { generation, sector: self.next_sector, batch: self.next_batch });
        let file = self.active.as_ref().expect("open() began one");
        let written = file.write_at(u64::from(self.next_sector) * SECTOR_BYTES as u64, &bytes).and_then(|()| match file.sync() {
            Err(_) if runtime::planted("fsync-error-believed") => Ok(()),
            synced => synced,
        });
        if let Err(error) = written {
            // Whether the bytes are there is unknown, and the next batch would claim that they are.
            self.disk.close(&format!("Raft log: {error}"));
            return Err(error.into());
        }
        self.next_sector += u32::try_from(bytes.len() / SECTOR_BYTES).expect("batches are bounded");
        self.next_batch += 1;
        self.table.clone_from(&encoded.head.records);
        for record in records {
            let standing = self.standing.entry(record.key).or_default();
            standing.hard = record.hard.or(standing.hard);
            if let Some(start) = record.start {
                standing.start = start;
                standing.lost = if record.reset { BTreeMap::new() } else { standing.lost.split_off(&(start.index + 1)) };
                forget_live(&mut self.live, record.key, start.index, record.reset);
            }
            standing.damaged |= record.damaged;
            standing.lost.extend(record.lost.iter().flat_map(|run| run.names()));
            standing.removed |= record.removed;
            if let Some(first) = record.entries.first() {
                standing.lost.split_off(&first.index);
                note_live(&mut self.live, record.key, first.index, record.entries.len() as u64);
            }
        }
        Ok(())
    }

    /// Begin a new segment: its first batch holds the standing of every replica, and `records`.
    fn roll(&mut self, before: Option<(u64, u32)>, records: &[Record]) -> Result<(), Error> {
        let mut all: Vec<Record> = self
            .standing
            .iter()
            .map(|(key, one)| Record {
                key: *key,
                hard: one.hard,
                start: Some(one.start),
                damaged: one.damaged,
                removed: one.removed,
                lost: runs(one.lost.iter().map(|(index, term)| (*index, *term))),
                ..Record::default()
            })
            .collect();
        all.extend_from_slice(records);
        let encoded = Encoded::new(self.drive, self.table.clone(), before, &all);
        let bytes_min = (encoded.sectors() * SECTOR_BYTES) as u64;
        let generation = self.next_generation;
        self.next_generation += 1;
        let name = segment_name(generation);
        let file = match self.spares.pop() {
            Some(spare) => {
                self.disk.rename(&spare, &name)?;
                self.disk.open(&name, Open::Existing)?
            }
            None => self.disk.open(&name, Open::New)?,
        };
        let bytes = bytes_min.max(self.segment_bytes).next_multiple_of(SECTOR_BYTES as u64);
        if file.len()? < bytes {
            file.allocate(bytes)?;
        }
        self.disk.sync_dir(FOLDER)?;
        self.active_sectors = u32::try_from(file.len()? / SECTOR_BYTES as u64).expect("segments are bounded");
        self.active = Some(file);
        self.generations.push(generation);
        self.live.push(BTreeMap::new());
        self.next_sector = 0;
        self.next_batch = 0;
        self.put(&encoded, &all)
    }

    /// Let go of the oldest segments while nothing in them is needed.
    fn cut(&mut self) -> Result<(), Error> {
        while self.generations.len() > 1 && self.live[0].is_empty() {
            runtime::probe!("consensus-log-segment-cut");
            let generation = self.generations.remove(0);
            self.live.remove(0);
            self.retire(generation)?;
        }
        Ok(())
    }

    /// Keep a segment's file for reuse, or remove it. Durable one by one: a later one must not go before an older.
    fn retire(&mut self, generation: u64) -> Result<(), Error> {
        let name = segment_name(generation);
        let fits = self.disk.open(&name, Open::Existing)?.len()? == self.segment_bytes.next_multiple_of(SECTOR_BYTES as u64);
        // Rot that is left behind the batches of a later life would be taken for a batch of it.
        if self.spares.len() < SPARES_MAX && fits && !self.rotten.contains(&generation) {
            let spare = format!("{FOLDER}/spare-{generation:016x}.seg");
            self.disk.rename(&name, &spare)?;
            self.spares.push(spare);
        } else {
            self.disk.remove(&name)?;
        }
        self.disk.sync_dir(FOLDER)?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
