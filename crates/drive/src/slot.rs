//! A slot as its callers see it: asynchronous, with group commit. Appends queue; one task writes what has queued
//! up with one sync, while the next ones queue.
//! Invariants: at most one commit of a slot is under way; appends that wait are bounded in bytes and number; an
//! operation that nobody waits for any more is dropped before it starts, never in the middle.

use crate::slot_file::{Blocks, Operation, Page, SlotFile, Written};
use crate::{Damage, Refusal};
use bytes::Bytes;
use protocol::layout::{ShardHeader, SlotAddress};
use protocol::limits::SHARD_BLOCK_BYTES;
use protocol::{BlobId, Epoch, Scheme};
use runtime::disk::{self, Disk};
use runtime::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use runtime::task::Task;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Most entries of one page of [`Slot::list`].
pub const LIST_PAGE_MAX: usize = 1000;
/// Most operations and bytes that one sync serves.
const COMMIT_OPERATIONS_MAX: usize = 256;
const COMMIT_BYTES_MAX: usize = 32 << 20;
/// Most bytes of appends that wait for one drive.
const QUEUED_BYTES_MAX: usize = 96 << 20;
/// Most bytes that one drive reads at once.
const READING_BYTES_MAX: usize = 64 << 20;
/// Every request counts for this much at least, which bounds their number as well.
const GRAIN_BYTES: usize = 4 << 10;

/// Admission of one drive, shared by its slots.
pub(crate) struct Admission {
    queued: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

impl Admission {
    pub(crate) fn new() -> Arc<Admission> {
        let grains = |bytes: usize| Arc::new(Semaphore::new(bytes / GRAIN_BYTES));
        Arc::new(Admission { queued: grains(QUEUED_BYTES_MAX), reading: grains(READING_BYTES_MAX) })
    }

    pub(crate) fn held_bytes(&self) -> usize {
        let free = self.queued.available_permits() + self.reading.available_permits();
        QUEUED_BYTES_MAX + READING_BYTES_MAX - free * GRAIN_BYTES
    }
}

fn grains(bytes: usize) -> u32 {
    u32::try_from(bytes / GRAIN_BYTES + 1).expect("no request has 4 KiB * 4 Gi")
}

/// One slot of one drive.
pub struct Slot {
    disk: Arc<dyn Disk>,
    file: Arc<SlotFile>,
    admission: Arc<Admission>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Runs while something waits, and no longer.
    committer: Option<Task<()>>,
    committing: bool,
}

struct Waiting {
    operation: Operation,
    answer: oneshot::Sender<Written>,
    /// Held until the operation has ended, whoever still waits for it.
    permit: Option<OwnedSemaphorePermit>,
}

impl Slot {
    pub(crate) fn new(disk: Arc<dyn Disk>, file: SlotFile, admission: Arc<Admission>) -> Arc<Slot> {
        Arc::new(Slot { disk, file: Arc::new(file), admission, queue: Mutex::default() })
    }

    /// Append one shard; returns when it is durable. The same shard again succeeds, other content under its id is
    /// refused, and so is any epoch but the slot's. [`Refusal::Busy`] if too much waits for the drive.
    pub async fn append(self: &Arc<Slot>, blob: BlobId, epoch: Epoch, header: ShardHeader, bytes: Bytes) -> Written {
        let permit = match self.admission.queued.clone().try_acquire_many_owned(grains(bytes.len())) {
            Ok(permit) => permit,
            Err(_) => {
                runtime::probe!("drive busy");
                return Err(Refusal::Busy);
            }
        };
        self.perform(Some(permit), Operation::Append { blob, epoch, header, bytes }).await
    }

    /// End appends in flight and take no more; durable when this returns.
    pub async fn fence(self: &Arc<Slot>, epoch: Epoch) -> Written {
        // Never refused for the appends that it is to end.
        self.perform(None, Operation::Fence { epoch }).await
    }

    /// Take shards again under `epoch`; durable when this returns.
    pub async fn reopen(self: &Arc<Slot>, epoch: Epoch) -> Written {
        self.perform(None, Operation::Reopen { epoch }).await
    }

    /// Blocks of a shard, each verified. Waits while too much is being read from the drive.
    pub async fn read(&self, blob: BlobId, first: u32, count: u32) -> Result<Blocks, Refusal> {
        let bytes = (count as usize).saturating_mul(SHARD_BLOCK_BYTES).min(READING_BYTES_MAX / 2);
        let permit = self.admission.reading.clone().acquire_many_owned(grains(bytes)).await.expect("never closed");
        self.open()?;
        let file = self.file.clone();
        // Held until the drive came to it, whoever still waits: what waits in the drive's queue is bounded by it.
        let read = move || {
            let _permit = permit;
            file.read(blob, first, count)
        };
        disk::run_if_awaited(&self.disk, read).await
    }

    /// A page of at most [`LIST_PAGE_MAX`] shards after `after`. Only while the slot is fenced at `epoch`: then no shard
    /// can be added between two pages.
    pub async fn list(&self, epoch: Epoch, after: Option<BlobId>) -> Result<Page, Refusal> {
        self.open()?;
        let file = self.file.clone();
        disk::run_if_awaited(&self.disk, move || {
            let page = file.list(after, LIST_PAGE_MAX)?;
            // Judged after reading: it was fenced all the while, as an epoch never comes back.
            match file.fence_state() {
                (slot, true) if slot == epoch => Ok(page),
                (slot, _) => Err(Refusal::StaleEpoch { slot }),
            }
        })
        .await
    }

    pub fn address(&self) -> SlotAddress {
        self.file.address()
    }

    pub fn scheme(&self) -> Scheme {
        self.file.scheme()
    }

    /// The slot's epoch, and whether it was fenced at it.
    pub fn fence_state(&self) -> (Epoch, bool) {
        self.file.fence_state()
    }

    /// Shards, and their bytes without headers.
    pub fn usage(&self) -> (u64, u64) {
        self.file.usage()
    }

    /// What recovery found damaged.
    pub fn damage(&self) -> Damage {
        self.file.damage()
    }

    /// That the drive is open.
    fn open(&self) -> Result<(), Refusal> {
        match self.disk.closed() {
            None => Ok(()),
            Some(reason) => Err(Refusal::Closed { detail: format!("{}: {reason}", self.disk.label()) }),
        }
    }

    async fn perform(self: &Arc<Slot>, permit: Option<OwnedSemaphorePermit>, operation: Operation) -> Written {
        self.open()?;
        let (answer, outcome) = oneshot::channel();
        {
            let mut queue = self.queue();
            queue.waiting.push_back(Waiting { operation, answer, permit });
            if !queue.committing {
                queue.committing = true;
                queue.committer = Some(runtime::task::spawn(commit_all(self.clone())));
            }
        }
        // The committer goes only with the drive or the process.
        outcome.await.unwrap_or_else(|_| Err(Refusal::Closed { detail: format!("{}: shut down", self.disk.label()) }))
    }

    /// The next batch; `None`, and the committer must end, if nothing waits.
    fn take_batch(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue();
        let mut batch: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = queue.waiting.front() {
            let size = match &next.operation {
                Operation::Append { bytes, .. } => bytes.len(),
                Operation::Fence { .. } | Operation::Reopen { .. } => 0,
            };
            if !batch.is_empty() && (batch.len() == COMMIT_OPERATIONS_MAX || bytes + size > COMMIT_BYTES_MAX) {
                break;
            }
            let next = queue.waiting.pop_front().expect("looked at above");
            // Its caller gave up, and nothing has been done for it yet.
            if !next.answer.is_closed() {
                bytes += size;
                batch.push(next);
            }
        }
        if batch.is_empty() {
            queue.committing = false;
            return None;
        }
        Some(batch)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics under this lock")
    }
}

/// Commit batch after batch until nothing waits.
async fn commit_all(slot: Arc<Slot>) {
    let ended = Ended(&slot);
    while let Some(batch) = slot.take_batch() {
        let mut operations = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        for Waiting { operation, answer, permit } in batch {
            operations.push(operation);
            waiting.push((answer, permit));
        }
        let file = slot.file.clone();
        let outcomes = disk::run(&slot.disk, move || file.write(operations)).await;
        for ((answer, permit), outcome) in waiting.into_iter().zip(outcomes) {
            drop(permit);
            // Who waited may be gone; the shard is durable all the same.
            let _ = answer.send(outcome);
        }
    }
    std::mem::forget(ended);
}

/// If the committer ends before its time (its node is being killed, or it panicked), who waits must not wait for ever.
struct Ended<'a>(&'a Slot);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.0.queue();
            queue.committing = false;
            std::mem::take(&mut queue.waiting)
        };
        drop(waiting);
    }
}
