//! A slot: one append-only file of records. Synchronous; one writer at a time, readers never wait for it.
//! Invariants: bytes below `end` never change; a shard is in the catalog only after its record was synced; a fence
//! or reopening is durable before it is answered, and no shard is taken under any other epoch than the slot's.

use crate::catalog::{Catalog, Entry};
use crate::record::{self, Content, Frame, Record, Shard};
use crate::recovery::{self, Damage};
use crate::slot_header::{self, COPY_OFFSETS, RECORDS_START, SlotHeader};
use crate::{Error, Refusal, SECTOR_BYTES};
use bytes::{BufMut, Bytes, BytesMut};
use protocol::layout::{ShardAddress, ShardHeader, SlotAddress};
use protocol::limits::{SHARD_BLOCK_BYTES, SLOT_BYTES};
use protocol::{BlobId, Epoch, Scheme};
use runtime::disk::{self, Disk, DiskFile, Open};
use std::sync::{Arc, Mutex, MutexGuard};

/// Shards up to this size are gathered into one write with their neighbours; larger ones are written from where
/// they are.
const GATHERED_BYTES_MAX: usize = 64 << 10;
/// Space that appends leave free, so that headers, logs and tombstones can still be written: a fiftieth of the drive,
/// at most this.
const RESERVED_BYTES_MAX: u64 = 256 << 20;

/// The file of one slot.
pub struct SlotFile {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    name: String,
    frame: Frame,
    /// Held by who writes; never by readers.
    writing: Mutex<()>,
    /// Held for moments, never during I/O.
    state: Mutex<State>,
}

struct State {
    epoch: Epoch,
    sealed: bool,
    /// Of the slot header's newest copy.
    sequence: u64,
    /// Where the next record goes; all before is durable.
    end: u64,
    catalog: Catalog,
    damage: Damage,
}

/// What a writer asks for.
#[derive(Clone, Debug)]
pub enum Operation {
    Append {
        blob: BlobId,
        epoch: Epoch,
        header: ShardHeader,
        bytes: Bytes,
    },
    /// Take no more shards, under this epoch.
    Fence {
        epoch: Epoch,
    },
    /// Take shards again under this epoch, greater than the present one.
    Reopen {
        epoch: Epoch,
    },
}

/// The outcome of an [`Operation`]: what was asked for is durable, or nothing was changed.
pub type Written = Result<(), Refusal>;

/// Blocks of a shard as they were read and verified.
#[derive(Clone, Debug)]
pub struct Blocks {
    pub header: ShardHeader,
    /// Of the blocks that were asked for.
    pub checksums: Vec<u32>,
    pub bytes: Bytes,
}

/// A page of a slot's list.
#[derive(Clone, Debug)]
pub struct Page {
    pub shards: Vec<(BlobId, ShardHeader)>,
    /// Nothing is known to be missing: only then does an absence count.
    pub intact: bool,
    /// Where the next page goes on, if there may be one.
    pub next: Option<BlobId>,
}

/// Name of a slot's file on its drive.
pub fn file_name(at: SlotAddress) -> String {
    format!("slots/{:016x}-{:08x}-{:02x}.slot", at.volume.0, at.generation.0, at.slot.0)
}

impl SlotFile {
    /// A new slot: file and directory are durable when this returns. The folder `slots` exists.
    pub fn create(disk: &Arc<dyn Disk>, at: SlotAddress, epoch: Epoch, scheme: Scheme) -> Result<SlotFile, Refusal> {
        if !slot_header::is_sound(scheme) || usize::from(at.slot.0) >= scheme.total() {
            return Err(Refusal::Invalid { detail: format!("slot {} of {scheme}", at.slot) });
        }
        let frame = Frame { salt: runtime::entropy::u64(), at, scheme };
        let name = file_name(at);
        // Whole under another name first, so that a file of this name always has its headers.
        let unfinished = format!("{name}.new");
        match disk.remove(&unfinished) {
            Ok(()) | Err(disk::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let file = disk.open(&unfinished, Open::New)?;
        let mut header = SlotHeader { sequence: 0, salt: frame.salt, address: at, scheme, epoch, sealed: false, durable: RECORDS_START };
        slot_header::write(&*file, &header)?;
        header.sequence = 1;
        slot_header::write(&*file, &header)?;
        file.set_len(RECORDS_START)?;
        file.sync()?;
        disk.rename(&unfinished, &name)?;
        disk.sync_dir("slots")?;
        let state = State { epoch, sealed: false, sequence: 1, end: RECORDS_START, catalog: Catalog::default(), damage: Damage::default() };
        Ok(SlotFile { disk: disk.clone(), file, name, frame, writing: Mutex::new(()), state: Mutex::new(state) })
    }

    /// Recover the slot in the file of `at`.
    pub fn open(disk: &Arc<dyn Disk>, at: SlotAddress) -> Result<SlotFile, Error> {
        let name = file_name(at);
        let refuse = |detail: String| Err(Error::Refused { drive: disk.label().to_string(), detail: format!("{name}: {detail}") });
        let file = disk.open(&name, Open::Existing)?;
        let headers = match slot_header::read(&*file)? {
            Ok(headers) => headers,
            Err(reason) => return refuse(reason),
        };
        let mut header = headers.newest;
        if header.address != at {
            return refuse(format!("it is the file of {:?}", header.address));
        }
        let frame = Frame { salt: header.salt, at, scheme: header.scheme };
        let recovered = recovery::recover(&*file, &frame, header.durable)?;
        if headers.damaged {
            // The lost copy may have been a fence: without it the slot must not take shards.
            runtime::probe!("slot header copy lost");
            tracing::warn!(drive = disk.label(), slot = name, "a copy of the slot's header was damaged; the slot is sealed");
            header.sealed = true;
            for _ in COPY_OFFSETS {
                header.sequence += 1;
                slot_header::write(&*file, &header)?;
                file.sync()?;
            }
        } else if header.durable < recovered.end {
            // What was found is durable now: from here on, nothing of it can be taken for torn.
            header.durable = recovered.end;
            header.sequence += 1;
            slot_header::write(&*file, &header)?;
            file.sync()?;
        }
        if recovered.torn > 0 {
            tracing::info!(drive = disk.label(), slot = name, bytes = recovered.torn, "writes that a crash had torn were dropped");
        }
        for range in &recovered.damage.ranges {
            tracing::error!(drive = disk.label(), slot = name, from = range.from, to = range.to, what = range.what, "damage found");
        }
        let state = State {
            epoch: header.epoch,
            sealed: header.sealed,
            sequence: header.sequence,
            end: recovered.end,
            catalog: recovered.catalog,
            damage: recovered.damage,
        };
        Ok(SlotFile { disk: disk.clone(), file, name, frame, writing: Mutex::new(()), state: Mutex::new(state) })
    }

    pub fn address(&self) -> SlotAddress {
        self.frame.at
    }

    pub fn scheme(&self) -> Scheme {
        self.frame.scheme
    }

    /// The slot's epoch, and whether it was fenced at it.
    pub fn fence_state(&self) -> (Epoch, bool) {
        let state = self.state();
        (state.epoch, state.sealed)
    }

    /// Shards, and their bytes without headers.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.state();
        (state.catalog.len(), state.catalog.bytes())
    }

    /// What recovery found damaged.
    pub fn damage(&self) -> Damage {
        self.state().damage.clone()
    }

    /// Do what is asked in this order, with one sync for all shards between two changes of the epoch. Returns one
    /// outcome for each.
    pub fn write(&self, operations: Vec<Operation>) -> Vec<Written> {
        let _writing = self.writing.lock().expect("a panic here ends the process");
        let mut outcomes: Vec<Written> = Vec::with_capacity(operations.len());
        let mut batch = Batch::new(self.state().end);
        for operation in operations {
            let outcome = match operation {
                Operation::Append { blob, epoch, header, bytes } => self.admit(&mut batch, outcomes.len(), blob, epoch, header, bytes),
                Operation::Fence { epoch } => {
                    self.flush(&mut batch, &mut outcomes);
                    self.fence(epoch)
                }
                Operation::Reopen { epoch } => {
                    self.flush(&mut batch, &mut outcomes);
                    self.reopen(epoch)
                }
            };
            outcomes.push(outcome);
        }
        self.flush(&mut batch, &mut outcomes);
        outcomes
    }

    /// Judge an append, and put it in the batch: then its outcome is the batch's.
    fn admit(&self, batch: &mut Batch, position: usize, blob: BlobId, epoch: Epoch, header: ShardHeader, bytes: Bytes) -> Written {
        record::check(self.frame.at.slot, self.frame.scheme, &header, &bytes)?;
        let address = ShardAddress { at: self.frame.at, blob };
        let known = {
            let state = self.state();
            let believed = epoch < state.epoch && runtime::planted("old-epoch-accepted");
            if state.sealed && !believed {
                runtime::probe!("append to a sealed slot refused");
                return Err(Refusal::Sealed { slot: state.epoch });
            }
            if epoch != state.epoch && !believed {
                runtime::probe!("stale epoch refused");
                return Err(Refusal::StaleEpoch { slot: state.epoch });
            }
            state.catalog.get(&blob)
        };
        let other = || Refusal::Invalid { detail: format!("{blob:?} is here already with other content") };
        if let Some(entry) = known {
            // A retry. It is answered only after what lies there was read: it may have rotted since.
            let there = self.read(blob, 0, record::block_count(entry.shard_bytes as usize) as u32)?;
            return if there.header == header { Ok(()) } else { Err(other()) };
        }
        if let Some(first) = batch.records.iter().find(|queued| queued.shard.address.blob == blob) {
            if first.shard.header != header {
                return Err(other());
            }
            batch.waiting.push(position);
            return Ok(());
        }
        let block_checksums = record::block_checksums(&address, &bytes);
        let shard = Shard { address, epoch, header, block_checksums };
        batch.push(&self.frame, shard, bytes)?;
        batch.waiting.push(position);
        Ok(())
    }

    /// Write and sync the batch, enter its shards, and settle the outcomes of who waits for it.
    fn flush(&self, next: &mut Batch, outcomes: &mut [Written]) {
        let end = next.end;
        let mut batch = std::mem::replace(next, Batch::new(end));
        if batch.records.is_empty() {
            return;
        }
        batch.finish_gathering(end);
        match self.write_batch(&batch) {
            Ok(()) => {
                let mut state = self.state();
                for queued in &batch.records {
                    state.catalog.insert(queued.shard.address.blob, queued.entry);
                }
                state.end = batch.end;
            }
            Err(error) => {
                *next = Batch::new(batch.start);
                self.undo(batch.start, &error);
                let refusal = Refusal::from(error);
                for position in batch.waiting {
                    outcomes[position] = Err(refusal.clone());
                }
            }
        }
    }

    fn write_batch(&self, batch: &Batch) -> disk::Result<()> {
        let space = self.disk.space()?;
        let reserved = (space.total / 50).min(RESERVED_BYTES_MAX);
        if space.free.saturating_sub(reserved) < batch.end - batch.start {
            return Err(disk::Error::Full { drive: self.disk.label().to_string() });
        }
        for (offset, bytes) in &batch.writes {
            self.file.write_at(*offset, bytes)?;
        }
        if !runtime::planted("acknowledge-before-fsync") {
            match self.file.sync() {
                Err(_) if runtime::planted("fsync-error-believed") => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    /// After a batch that failed: a full drive can go on without it, any other failure closes the drive, since what
    /// lies beyond the end is unknown.
    fn undo(&self, end: u64, error: &disk::Error) {
        let undone = match error {
            disk::Error::Full { .. } => self.file.set_len(end),
            error => Err(error.clone()),
        };
        if let Err(error) = undone {
            self.disk.close(&format!("writing {} failed: {error}", self.name));
        }
    }

    fn fence(&self, epoch: Epoch) -> Written {
        let (slot, sealed) = self.fence_state();
        if epoch < slot {
            runtime::probe!("stale fence refused");
            return Err(Refusal::StaleEpoch { slot });
        }
        if epoch == slot && sealed {
            return Ok(());
        }
        self.change(epoch, true)
    }

    fn reopen(&self, epoch: Epoch) -> Written {
        let (slot, sealed) = self.fence_state();
        if epoch == slot && !sealed {
            return Ok(());
        }
        if epoch <= slot {
            return Err(Refusal::StaleEpoch { slot });
        }
        self.change(epoch, false)
    }

    /// Make the new fence durable, then take it over.
    fn change(&self, epoch: Epoch, sealed: bool) -> Written {
        let header = {
            let state = self.state();
            let Frame { salt, at, scheme } = self.frame;
            SlotHeader { sequence: state.sequence + 1, salt, address: at, scheme, epoch, sealed, durable: state.end }
        };
        if !runtime::planted("seal-in-memory-only") {
            let written = slot_header::write(&*self.file, &header).and_then(|()| self.file.sync());
            if let Err(error) = written {
                self.disk.close(&format!("writing the header of {} failed: {error}", self.name));
                return Err(error.into());
            }
        }
        let mut state = self.state();
        (state.epoch, state.sealed, state.sequence) = (epoch, sealed, header.sequence);
        Ok(())
    }

    /// Blocks `first .. first + count` of a shard, each verified. No block of a shard of 0 bytes is its header alone.
    pub fn read(&self, blob: BlobId, first: u32, count: u32) -> Result<Blocks, Refusal> {
        let entry = {
            let state = self.state();
            match state.catalog.get(&blob) {
                Some(entry) => entry,
                // It may have been there: absence can only be claimed by a slot that is whole.
                None if state.damage.count > 0 => {
                    return Err(Refusal::Corrupt { detail: format!("{blob:?} is not found, and parts of its slot are damaged") });
                }
                None => return Err(Refusal::NotFound),
            }
        };
        let blocks = record::block_count(entry.shard_bytes as usize) as u32;
        if first.checked_add(count).is_none_or(|end| end > blocks) {
            return Err(Refusal::Invalid { detail: format!("blocks {first} + {count} of a shard of {blocks}") });
        }
        let block_bytes = SHARD_BLOCK_BYTES as u64;
        let from = u64::from(first) * block_bytes;
        let to = (from + u64::from(count) * block_bytes).min(u64::from(entry.shard_bytes)).max(from);
        let header_bytes = entry.header_bytes as usize;
        let (head, bytes) = if first == 0 {
            // The header lies right before: one read for both.
            let mut head = self.read_bytes(entry.offset, header_bytes + to as usize)?;
            let bytes = head.split_off(header_bytes);
            (head, bytes)
        } else {
            let data = entry.offset + u64::from(entry.header_bytes);
            (self.read_bytes(entry.offset, header_bytes)?, self.read_bytes(data + from, (to - from) as usize)?)
        };
        let shard = self.decode_shard(blob, entry.offset, &head)?;
        let checksums = shard.block_checksums[first as usize..(first + count) as usize].to_vec();
        record::verify_blocks(&shard.address, first, &checksums, &bytes)?;
        Ok(Blocks { header: shard.header, checksums, bytes })
    }

    /// At most `limit` shards after `after`, in order.
    pub fn list(&self, after: Option<BlobId>, limit: usize) -> Result<Page, Refusal> {
        let (entries, mut intact) = {
            let state = self.state();
            (state.catalog.page(after, limit), state.damage.count == 0)
        };
        let next = entries.last().filter(|_| entries.len() == limit).map(|(blob, _)| *blob);
        let mut shards = Vec::with_capacity(entries.len());
        for (blob, entry) in entries {
            let head = self.read_bytes(entry.offset, entry.header_bytes as usize);
            match head.and_then(|head| self.decode_shard(blob, entry.offset, &head)) {
                Ok(shard) => shards.push((blob, shard.header)),
                Err(Refusal::Corrupt { .. }) => intact = false,
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(Page { shards, intact, next })
    }

    fn read_bytes(&self, offset: u64, bytes: usize) -> Result<Bytes, Refusal> {
        let mut target = BytesMut::zeroed(bytes);
        match self.file.read_at(offset, &mut target) {
            Ok(()) => Ok(target.freeze()),
            // These bytes are lost, others may be fine.
            Err(error @ disk::Error::Io { .. }) => Err(Refusal::Corrupt { detail: error.to_string() }),
            Err(error) => Err(error.into()),
        }
    }

    fn decode_shard(&self, blob: BlobId, offset: u64, head: &[u8]) -> Result<Shard, Refusal> {
        match record::decode(head, offset, &self.frame).map(|record| record.content) {
            Some(Content::Shard(shard)) if shard.address.blob == blob => Ok(shard),
            _ => Err(Refusal::Corrupt { detail: format!("the header of {blob:?} at byte {offset} of {}", self.name) }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

/// Shards that one sync will serve, laid out one after another from `start`.
struct Batch {
    start: u64,
    end: u64,
    records: Vec<Queued>,
    /// Positions of the operations whose outcome is the batch's.
    waiting: Vec<usize>,
    /// In order and without holes.
    writes: Vec<(u64, Bytes)>,
    /// What follows the last of `writes`: headers, small shards, filling.
    gathered: BytesMut,
}

struct Queued {
    shard: Shard,
    entry: Entry,
}

impl Batch {
    fn new(start: u64) -> Batch {
        Batch { start, end: start, records: Vec::new(), waiting: Vec::new(), writes: Vec::new(), gathered: BytesMut::new() }
    }

    fn push(&mut self, frame: &Frame, shard: Shard, bytes: Bytes) -> Result<(), Refusal> {
        let record = Record { offset: self.end, durable: self.start, content: Content::Shard(shard) };
        let end = self.end + record.total_bytes();
        if end > SLOT_BYTES {
            return Err(Refusal::Full);
        }
        self.gathered.extend_from_slice(&record.encode(frame));
        let filling = bytes.len().next_multiple_of(SECTOR_BYTES) - bytes.len();
        if bytes.len() <= GATHERED_BYTES_MAX {
            self.gathered.extend_from_slice(&bytes);
        } else {
            let offset = record.offset + record.header_bytes() as u64;
            self.finish_gathering(offset);
            self.writes.push((offset, bytes));
        }
        self.gathered.put_bytes(0, filling);
        let entry = recovery::entry(&record);
        let Content::Shard(shard) = record.content else { unreachable!("made above") };
        self.records.push(Queued { shard, entry });
        self.end = end;
        Ok(())
    }

    /// What was gathered becomes a write that ends at `end`.
    fn finish_gathering(&mut self, end: u64) {
        if !self.gathered.is_empty() {
            let bytes = self.gathered.split().freeze();
            self.writes.push((end - bytes.len() as u64, bytes));
        }
    }
}
