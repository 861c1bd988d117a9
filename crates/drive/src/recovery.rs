//! A slot file after a crash: finds its records, tells torn writes from rot, and leaves a file that ends with its
//! last record.
//!
//! Every record says how far the file was durable before it was written; the greatest such number (or the slot
//! header's) is the *horizon*. Below it nothing can be torn: what is not intact there is damage, reported and never
//! cut. Beyond it lies the last batch, of which any sector may be missing. A sector that was never written reads as
//! zeros, so that what is not intact there is a torn write if it holds a sector of zeros or runs past the end of the
//! file; otherwise it is damage as well.
//!
//! Invariant: what recovery enters in the catalog was durable or was verified here, and is durable when it returns.

use crate::SECTOR_BYTES;
use crate::catalog::{Catalog, Entry};
use crate::record::{self, Content, Frame, HEADER_BYTES_MAX, Record};
use crate::slot_header::RECORDS_START;
use protocol::limits::SHARD_BLOCK_BYTES;
use runtime::disk::{self, DiskFile};
use std::ops::Range;

/// Bytes read at once while records are small.
const PAGE_BYTES: usize = 128 << 10;
/// Damaged ranges that are remembered; all are counted.
const RANGES_MAX: usize = 64;
/// Places of one slot that may be unreadable before it is given up: a failing drive takes seconds for each.
const UNREADABLE_MAX: u32 = 64;

/// Parts of a slot file that hold no intact record although they were durable.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Damage {
    /// All of them.
    pub count: u64,
    /// The first ones.
    pub ranges: Vec<DamagedRange>,
}

/// Bytes `from..to` of a slot file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedRange {
    pub from: u64,
    pub to: u64,
    pub what: &'static str,
}

impl Damage {
    pub(crate) fn add(&mut self, range: Range<u64>, what: &'static str) {
        self.count += 1;
        if self.ranges.len() < RANGES_MAX {
            self.ranges.push(DamagedRange { from: range.start, to: range.end, what });
        }
    }
}

/// What a slot file holds.
pub(crate) struct Recovered {
    pub catalog: Catalog,
    /// Where the next record goes; all before is durable.
    pub end: u64,
    pub damage: Damage,
    /// Bytes of torn writes that were cut or marked void.
    pub torn: u64,
}

/// Find the records of `file` and make them durable. `durable` is what the slot's header says.
pub(crate) fn recover(file: &dyn DiskFile, frame: &Frame, durable: u64) -> disk::Result<Recovered> {
    let mut scan = Scan::run(file, frame)?;
    let horizon = scan.horizon.max(durable).max(RECORDS_START);
    let mut end = scan.len;

    let mut torn: Vec<Range<u64>> = Vec::new();
    for gap in std::mem::take(&mut scan.gaps) {
        let below = gap.start..gap.end.min(horizon);
        if !below.is_empty() {
            scan.damage.add(below, "no intact record");
        }
        let beyond = gap.start.max(horizon)..gap.end;
        if !beyond.is_empty() {
            if is_torn(file, frame, beyond.clone(), scan.len)? {
                torn.push(beyond);
            } else {
                scan.damage.add(beyond, "no intact record in the last batch");
            }
        }
    }
    if !runtime::planted("catalog-trusts-file-alone") {
        scan.verify_last_batch(horizon, &mut torn)?;
    }
    if scan.len < horizon {
        // The hole that this leaves is reported again by each later recovery.
        scan.damage.add(scan.len..horizon, "the file is shorter than it was");
        end = horizon;
    }

    torn.sort_unstable_by_key(|range| range.start);
    let torn_bytes = torn.iter().map(|range| range.end - range.start).sum();
    while let Some(last) = torn.pop() {
        runtime::probe!("torn tail cut");
        if last.end == end {
            end = last.start;
        } else {
            // Intact records of the same batch follow: they stay, and framing must find them again.
            let bytes = u32::try_from(last.end - last.start - SECTOR_BYTES as u64).expect("a slot has at most 1 GiB");
            let void = Record { offset: last.start, durable: horizon, content: Content::Void { bytes } };
            file.write_at(last.start, &void.encode(frame))?;
        }
    }
    end = end.next_multiple_of(SECTOR_BYTES as u64);
    if end != scan.len {
        file.set_len(end)?;
    }
    // Always: after a mere restart of the process, what was read may not have reached the drive yet.
    file.sync()?;
    Ok(Recovered { catalog: scan.catalog, end, damage: scan.damage, torn: torn_bytes })
}

/// Whether a range beyond the horizon that holds no intact record was torn by a crash.
fn is_torn(file: &dyn DiskFile, frame: &Frame, range: Range<u64>, len: u64) -> disk::Result<bool> {
    if range.end == len {
        if !len.is_multiple_of(SECTOR_BYTES as u64) {
            return Ok(true);
        }
        // A header that promises more than the file has.
        let mut pages = Pages::new(file, len);
        if let Some(bytes) = pages.at(range.start, HEADER_BYTES_MAX)?
            && record::decode(bytes, range.start, frame).is_some_and(|record| range.start + record.total_bytes() > len)
        {
            return Ok(true);
        }
    }
    has_zero_sector(file, range)
}

/// Whether a sector of `range` reads as zeros, as one does that was never written.
fn has_zero_sector(file: &dyn DiskFile, range: Range<u64>) -> disk::Result<bool> {
    let mut start = range.start;
    let mut page = vec![0; PAGE_BYTES];
    while start < range.end {
        let bytes = usize::try_from(range.end - start).unwrap_or(usize::MAX).min(PAGE_BYTES);
        match file.read_at(start, &mut page[..bytes]) {
            Ok(()) => {
                if page[..bytes].chunks(SECTOR_BYTES).any(|sector| sector.iter().all(|&byte| byte == 0)) {
                    return Ok(true);
                }
            }
            // Not readable is not zero: it counts as damage.
            Err(disk::Error::Io { .. }) => {}
            Err(error) => return Err(error),
        }
        start += bytes as u64;
    }
    Ok(false)
}

/// One walk over all headers.
struct Scan<'a> {
    file: &'a dyn DiskFile,
    frame: &'a Frame,
    len: u64,
    catalog: Catalog,
    /// Ranges without an intact record, in order.
    gaps: Vec<Range<u64>>,
    damage: Damage,
    horizon: u64,
}

impl<'a> Scan<'a> {
    fn run(file: &'a dyn DiskFile, frame: &'a Frame) -> disk::Result<Scan<'a>> {
        let len = file.len()?;
        let mut scan = Scan { file, frame, len, catalog: Catalog::default(), gaps: Vec::new(), damage: Damage::default(), horizon: 0 };
        let mut pages = Pages::new(file, len);
        let mut offset = RECORDS_START;
        let mut gap: Option<u64> = None;
        while offset < len {
            let record = match pages.at(offset, HEADER_BYTES_MAX)? {
                Some(bytes) => record::decode(bytes, offset, frame),
                None => None,
            };
            match record.filter(|record| offset + record.total_bytes() <= len) {
                Some(record) => {
                    if let Some(start) = gap.take() {
                        runtime::probe!("resynchronised after a header without sense");
                        scan.gaps.push(start..offset);
                    }
                    offset += record.total_bytes();
                    scan.horizon = scan.horizon.max(record.durable);
                    scan.enter(record)?;
                }
                None => {
                    gap.get_or_insert(offset);
                    offset += SECTOR_BYTES as u64;
                }
            }
        }
        if let Some(start) = gap {
            scan.gaps.push(start..len);
        }
        Ok(scan)
    }

    fn enter(&mut self, record: Record) -> disk::Result<()> {
        let Content::Shard(shard) = &record.content else { return Ok(()) };
        let entry = entry(&record);
        match self.catalog.get(&shard.address.blob) {
            None => self.catalog.insert(shard.address.blob, entry),
            // Appending refuses what is there already, so this is not our writing: the first one counts.
            Some(_) => self.damage.add(record.offset..record.offset + record.total_bytes(), "a blob's second record"),
        }
        Ok(())
    }

    /// Verify the shards beyond the horizon block by block: their headers may have reached the drive alone.
    fn verify_last_batch(&mut self, horizon: u64, torn: &mut Vec<Range<u64>>) -> disk::Result<()> {
        for (blob, entry) in self.catalog.beyond(horizon) {
            let Some(record) = self.read_record(entry)? else { continue };
            let Content::Shard(shard) = &record.content else { continue };
            let data = entry.offset + u64::from(entry.header_bytes);
            let mut bad: Option<Range<u64>> = None;
            let mut block = vec![0; SHARD_BLOCK_BYTES];
            for (index, &expected) in (0u32..).zip(&shard.block_checksums) {
                let from = u64::from(index) * SHARD_BLOCK_BYTES as u64;
                let bytes = (u64::from(entry.shard_bytes) - from).min(SHARD_BLOCK_BYTES as u64) as usize;
                let intact = match self.file.read_at(data + from, &mut block[..bytes]) {
                    Ok(()) => record::block_checksum(&shard.address, index, &block[..bytes]) == expected,
                    Err(disk::Error::Io { .. }) => false,
                    Err(error) => return Err(error),
                };
                if !intact {
                    let to = (data + from + bytes as u64).next_multiple_of(SECTOR_BYTES as u64);
                    bad = Some(bad.map_or(data + from, |bad| bad.start)..to);
                }
            }
            let Some(bad) = bad else { continue };
            if has_zero_sector(self.file, bad.clone())? {
                self.catalog.remove(&blob);
                torn.push(entry.offset..entry.offset + record.total_bytes());
            } else {
                // Reads will find the bad blocks and refuse them; the others are served.
                self.damage.add(bad, "a shard's bytes in the last batch");
            }
        }
        Ok(())
    }

    fn read_record(&self, entry: Entry) -> disk::Result<Option<Record>> {
        let mut bytes = vec![0; entry.header_bytes as usize];
        match self.file.read_at(entry.offset, &mut bytes) {
            Ok(()) => Ok(record::decode(&bytes, entry.offset, self.frame)),
            Err(disk::Error::Io { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The catalog entry of a shard's record.
pub(crate) fn entry(record: &Record) -> Entry {
    let shard_bytes = match &record.content {
        Content::Shard(shard) => shard.bytes(),
        Content::Void { .. } => 0,
    };
    Entry { offset: record.offset, header_bytes: record.header_bytes() as u32, shard_bytes: shard_bytes as u32 }
}

/// Reads a file forwards in bounded memory: whole pages while records are small, headers alone while they are large.
struct Pages<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    page: Vec<u8>,
    start: u64,
    former: u64,
    unreadable: u32,
}

impl<'a> Pages<'a> {
    fn new(file: &'a dyn DiskFile, len: u64) -> Pages<'a> {
        Pages { file, len, page: Vec::new(), start: 0, former: 0, unreadable: 0 }
    }

    /// `want` bytes from `offset`, fewer at the file's end; `None` where the drive cannot read.
    fn at(&mut self, offset: u64, want: usize) -> disk::Result<Option<&[u8]>> {
        let rest = usize::try_from(self.len - offset).unwrap_or(usize::MAX);
        let want = want.min(rest);
        let near = offset - self.former.min(offset) < (PAGE_BYTES / 4) as u64;
        self.former = offset;
        let inside = offset >= self.start && offset + want as u64 <= self.start + self.page.len() as u64;
        if !inside {
            let bytes = if near { PAGE_BYTES.max(want).min(rest) } else { want };
            if let Err(error) = self.fill(offset, bytes)?
                && self.fill(offset, want)?.is_err()
                && self.fill(offset, want.min(SECTOR_BYTES))?.is_err()
            {
                self.unreadable += 1;
                return if self.unreadable > UNREADABLE_MAX { Err(error) } else { Ok(None) };
            }
        }
        let from = (offset - self.start) as usize;
        Ok(Some(&self.page[from..(from + want).min(self.page.len())]))
    }

    /// The inner error: the drive cannot read these bytes, but may read others.
    fn fill(&mut self, offset: u64, bytes: usize) -> disk::Result<disk::Result<()>> {
        self.page.resize(bytes, 0);
        self.start = offset;
        match self.file.read_at(offset, &mut self.page) {
            Ok(()) => Ok(Ok(())),
            Err(error @ disk::Error::Io { .. }) => {
                self.page.clear();
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }
}
