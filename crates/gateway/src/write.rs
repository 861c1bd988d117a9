//! The write path: a body becomes blobs, each of them safe on all n slots of one volume before the record may name it.
//!
//! Invariants (I2): a blob counts only when every slot of one volume has answered that its shard is durable. Its memory is
//! admitted before its first byte is read and held until it is safe. Each attempt on another volume has a new blob id. Nothing
//! is ever cleaned up from here: what a failed write leaves behind is an orphan, and belongs to the audit.

use crate::Cluster;
use crate::admission::{Admission, Admitted};
use crate::digest::Digested;
use crate::incoming::Incoming;
use crate::latency::{Budget, Latency};
use crate::suspects::{SUSPICION, Suspects};
use crate::volumes::{self, Failed, Volumes, slot_index};
use bytes::Bytes;
use erasure::Code;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use protocol::layout::{ShardAddress, ShardHeader, SlotAddress};
use protocol::limits::PUT_WAIT;
use protocol::{BlobId, BlobRef, Body, DriveId, Home, Scheme, SlotPlace, Volume};
use runtime::probe::waypoint;
use runtime::time::Instant;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Of a PUT's patience, what is left for its commit when the last blob used up the rest.
const COMMIT_RESERVE: Duration = Duration::from_millis(800);
/// What is left for the answer to reach the client within the promise.
const ANSWER_RESERVE: Duration = Duration::from_millis(150);
/// A request waits so long for memory before its first byte, and between its blobs.
const FIRST_ADMISSION_WAIT: Duration = Duration::from_secs(10);
const NEXT_ADMISSION_WAIT: Duration = Duration::from_secs(30);
/// Memory of a blob besides its shards.
const BLOB_OVERHEAD: usize = 16 << 10;
/// Under pressure blobs shrink to a quarter, but not below this.
const BLOB_BYTES_LEAST: usize = 1 << 20;
/// A slot silent for longer than 4 x p99, within these bounds, is slow.
const SLOW_LEAST: Duration = Duration::from_millis(200);
const SLOW_MOST: Duration = Duration::from_secs(1);
/// After this long the blob goes to another volume whatever the hedges cost.
const SLOW_FORCED: Duration = Duration::from_millis(1500);
/// Volumes tried for one blob.
const ATTEMPTS_MAX: usize = 8;
/// Pause before a volume is asked for again.
const PAUSE: Duration = Duration::from_millis(250);

/// Where the memory of a body's blobs is accounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Admitted here, blob by blob.
    PerBlob,
    /// The caller holds enough for one blob: see [`WritePath::blob_memory`].
    Held,
}

/// Writes bodies.
pub struct WritePath {
    cluster: Cluster,
    admission: Arc<Admission>,
    volumes: Arc<Volumes>,
    suspects: Arc<Suspects>,
    blob_bytes: usize,
    inline_bytes_max: usize,
    /// The last blob counter of this gateway's writer id.
    counter: AtomicU64,
    appends: Latency,
    hedges: Budget,
    /// n and k of the scheme met last, for the size of admissions.
    total: AtomicUsize,
    data: AtomicUsize,
}

/// A body whose bytes are safe, or lie inline and can be committed.
pub struct Stored {
    pub body: Body,
    pub bytes: u64,
    pub digested: Digested,
    /// By when its record must be committed.
    pub deadline: Instant,
}

/// Why a body was not stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It broke off, was not what its headers said, or could not be read from its source.
    #[error("body: {0}")]
    Body(s3s::S3Error),
    #[error("too many bytes held")]
    Busy,
    #[error(transparent)]
    Volumes(volumes::Error),
    /// No volume had it whole in time.
    #[error("not safe in time, waiting for {waiting}")]
    Late { waiting: String },
}

type Sending<'a> = Option<BoxFuture<'a, Result<BlobRef, Error>>>;

impl WritePath {
    pub fn new(
        cluster: Cluster,
        admission: Arc<Admission>,
        volumes: Arc<Volumes>,
        suspects: Arc<Suspects>,
        blob_bytes: usize,
        inline_bytes_max: usize,
    ) -> WritePath {
        WritePath {
            cluster,
            admission,
            volumes,
            suspects,
            blob_bytes: blob_bytes.clamp(1, protocol::limits::BLOB_BYTES_MAX),
            inline_bytes_max,
            counter: AtomicU64::new(0),
            appends: Latency::new(Duration::from_millis(50)),
            hedges: Budget::default(),
            total: AtomicUsize::new(3),
            data: AtomicUsize::new(2),
        }
    }

    /// Memory that one blob of a body of `bytes` needs until it is safe.
    pub fn blob_memory(&self, bytes: u64) -> usize {
        let blob = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.blob_bytes);
        let (total, data) = (self.total.load(Ordering::Relaxed), self.data.load(Ordering::Relaxed));
        blob.saturating_mul(total) / data.max(1) + BLOB_OVERHEAD
    }

    /// Make the bytes of `incoming` safe. On success nothing but the commit is left to do.
    pub async fn store(&self, home: Home, incoming: &mut Incoming, memory: Memory) -> Result<Stored, Error> {
        self.store_beyond(self.inline_bytes_max as u64, home, incoming, memory).await
    }

    /// The same for a part, none of which lies in its row: those of an upload are read at once by its partition.
    pub async fn store_part(&self, home: Home, incoming: &mut Incoming, memory: Memory) -> Result<Stored, Error> {
        self.store_beyond(0, home, incoming, memory).await
    }

    async fn store_beyond(&self, inline_max: u64, home: Home, incoming: &mut Incoming, memory: Memory) -> Result<Stored, Error> {
        let bytes = incoming.remaining();
        if bytes <= inline_max {
            return self.store_inline(incoming, memory).await;
        }
        let mut blobs = Vec::new();
        let mut sending: Sending<'_> = None;
        loop {
            let (size, admitted) = self.admit(incoming.remaining(), memory, &mut sending, &mut blobs).await?;
            let mut blob = Vec::with_capacity(size);
            while blob.len() < size {
                let room = size - blob.len();
                match alongside(&mut sending, &mut blobs, incoming.next(room)).await? {
                    Ok(piece) => blob.extend_from_slice(&piece),
                    Err(error) => {
                        if runtime::planted("cut-upload-keeps-its-memory") {
                            std::mem::forget(admitted);
                        }
                        return Err(Error::Body(error));
                    }
                }
            }
            let digested = match incoming.remaining() {
                0 => Some(alongside(&mut sending, &mut blobs, incoming.finish()).await?.map_err(Error::Body)?),
                _ => None,
            };
            // The client's patience counts from here.
            let ready = runtime::time::now();
            if let Some(sent) = sending.take() {
                blobs.push(sent.await?);
                waypoint("gateway-between-blobs").await;
            }
            let placing = self.place(home, blob.into(), ready + PUT_WAIT - COMMIT_RESERVE);
            sending = Some(Box::pin(async move {
                let _held_until_safe = admitted;
                placing.await
            }));
            if let Some(digested) = digested {
                if let Some(sent) = sending.take() {
                    blobs.push(sent.await?);
                }
                let deadline = ready + PUT_WAIT - ANSWER_RESERVE;
                return Ok(Stored { body: Body::Blobs(blobs), bytes, digested, deadline });
            }
            runtime::task::yield_now().await;
        }
    }

    /// Small objects go into their record; the class must be writable all the same.
    async fn store_inline(&self, incoming: &mut Incoming, memory: Memory) -> Result<Stored, Error> {
        let bytes = incoming.remaining();
        let size = usize::try_from(bytes).map_err(|_| Error::Busy)?;
        let _admitted = match memory {
            Memory::PerBlob => Some(self.wait_for_memory(size + BLOB_OVERHEAD, FIRST_ADMISSION_WAIT).await?),
            Memory::Held => None,
        };
        let mut whole = Vec::with_capacity(size);
        while whole.len() < size {
            whole.extend_from_slice(&incoming.next(size - whole.len()).await.map_err(Error::Body)?);
        }
        let digested = incoming.finish().await.map_err(Error::Body)?;
        let ready = runtime::time::now();
        self.volumes.writable(ready + PUT_WAIT - COMMIT_RESERVE).await.map_err(Error::Volumes)?;
        let body = Body::Inline(protocol::record::run::Bytes(whole.into()));
        Ok(Stored { body, bytes, digested, deadline: ready + PUT_WAIT - ANSWER_RESERVE })
    }

    /// Memory for the next blob, and its size. With a blob on its way memory is only tried for: holders never wait.
    async fn admit(
        &self,
        remaining: u64,
        memory: Memory,
        sending: &mut Sending<'_>,
        blobs: &mut Vec<BlobRef>,
    ) -> Result<(usize, Option<Admitted>), Error> {
        let full = usize::try_from(remaining).unwrap_or(usize::MAX).min(self.blob_bytes);
        let cost = self.blob_memory(full as u64);
        // The second blob of a body leaves room for the first of another.
        if memory == Memory::PerBlob
            && sending.is_some()
            && let Some(admitted) = self.admission.try_write(cost, cost)
        {
            return Ok((full, Some(admitted)));
        }
        let first = sending.is_none() && blobs.is_empty();
        if let Some(sent) = sending.take() {
            blobs.push(sent.await?);
        }
        if memory == Memory::Held {
            return Ok((full, None));
        }
        if let Some(admitted) = self.admission.try_write(cost, 0) {
            return Ok((full, Some(admitted)));
        }
        runtime::probe!("blob-shrunk-under-pressure");
        let size = full.min((self.blob_bytes / 4).max(BLOB_BYTES_LEAST));
        let wait = if first { FIRST_ADMISSION_WAIT } else { NEXT_ADMISSION_WAIT };
        Ok((size, Some(self.wait_for_memory(self.blob_memory(size as u64), wait).await?)))
    }

    async fn wait_for_memory(&self, bytes: usize, wait: Duration) -> Result<Admitted, Error> {
        self.admission.write(bytes, runtime::time::now() + wait).await.map_err(|_| Error::Busy)
    }

    /// Make one blob safe on all slots of one volume.
    async fn place(&self, home: Home, blob: Bytes, deadline: Instant) -> Result<BlobRef, Error> {
        let bytes = u32::try_from(blob.len()).expect("a blob has at most 32 MiB");
        let checksum = erasure::checksum(&blob);
        self.hedges.earn();
        let mut placing = Placing {
            path: self,
            home,
            bytes,
            checksum,
            shards: Shards::new(blob),
            deadline,
            attempts: Vec::new(),
            failed: Failed::default(),
            full: Vec::new(),
            may_come_back: false,
            picking: false,
            problem: None,
            events: FuturesUnordered::new(),
        };
        let (volume, blob) = placing.run().await?;
        Ok(BlobRef { volume, blob, bytes, checksum })
    }

    /// Drives as people know them.
    async fn names(&self, places: &[SlotPlace]) -> String {
        let soon = runtime::time::now() + Duration::from_millis(50);
        let map = runtime::time::timeout_at(soon, self.cluster.placement.map(soon)).await.ok().and_then(Result::ok);
        drive_names(map.as_deref(), places)
    }
}

/// Drives as people know them: labels and nodes.
pub fn drive_names(map: Option<&protocol::ClusterMap>, places: &[SlotPlace]) -> String {
    let name = |place: &SlotPlace| match map.and_then(|map| map.drive(place.drive)) {
        Some((node, drive)) => format!("{} (node {}, zone {})", drive.label, node.id, node.zone),
        None => format!("drive {} of node {}", place.drive, place.node),
    };
    if places.is_empty() { "the root group".to_string() } else { places.iter().map(name).collect::<Vec<_>>().join(", ") }
}

/// Await `future` while the blob before it is being sent.
async fn alongside<T>(sending: &mut Sending<'_>, blobs: &mut Vec<BlobRef>, future: impl Future<Output = T>) -> Result<T, Error> {
    let mut future = pin!(future);
    loop {
        let Some(send) = sending.as_mut() else { return Ok(future.await) };
        let sent = runtime::select! {
            sent = send => sent,
            done = &mut future => return Ok(done),
        };
        *sending = None;
        blobs.push(sent?);
    }
}

/// A blob, or what became of it: after the first encoding only its shards are kept.
struct Shards {
    whole: Option<Bytes>,
    bytes: usize,
    code: Option<Code>,
    shards: Vec<Bytes>,
    checksums: Vec<u64>,
}

impl Shards {
    fn new(whole: Bytes) -> Shards {
        Shards { bytes: whole.len(), whole: Some(whole), code: None, shards: Vec::new(), checksums: Vec::new() }
    }

    fn encode(&mut self, code: Code) {
        if self.code == Some(code) {
            return;
        }
        let whole = match (self.whole.take(), self.code) {
            (Some(whole), _) => whole,
            (None, Some(old)) => {
                let shards: Vec<Option<Bytes>> = self.shards.iter().cloned().map(Some).collect();
                erasure::decode(old, self.bytes, &shards).expect("all shards are at hand")
            }
            (None, None) => unreachable!("a blob is whole or encoded"),
        };
        self.shards = erasure::encode(code, std::slice::from_ref(&whole));
        self.checksums = self.shards.iter().map(|shard| erasure::checksum(shard)).collect();
        self.code = Some(code);
    }
}

/// The code of a scheme.
pub fn code_of(scheme: Scheme) -> Code {
    Code { data: scheme.data(), parity: scheme.parity() }
}

/// One blob on its way to be safe.
struct Placing<'a> {
    path: &'a WritePath,
    home: Home,
    bytes: u32,
    checksum: u64,
    shards: Shards,
    deadline: Instant,
    attempts: Vec<Attempt>,
    failed: Failed,
    /// Drives that said that they are full: twice, and it is not the slot but the drive.
    full: Vec<DriveId>,
    /// Some failure may pass by itself: it is worth asking again.
    may_come_back: bool,
    picking: bool,
    problem: Option<volumes::Error>,
    events: FuturesUnordered<BoxFuture<'a, Event>>,
}

/// The blob on its way to one volume.
struct Attempt {
    volume: Arc<Volume>,
    blob: BlobId,
    done: Vec<bool>,
    /// A slot refused: it can no longer become safe there.
    failed: bool,
}

enum Event {
    Picked(Result<Arc<Volume>, volumes::Error>),
    Appended { attempt: usize, slot: usize, took: Duration, result: Result<(), storage::Error> },
    Slow { attempt: usize, forced: bool },
    Paused,
}

impl Attempt {
    fn silent(&self) -> Vec<SlotPlace> {
        self.volume.slots.iter().zip(&self.done).filter(|(_, done)| !**done).map(|(place, _)| *place).collect()
    }

    fn safe(&self) -> bool {
        let missing = self.done.iter().filter(|done| !**done).count();
        missing == 0
            || (missing == 1 && runtime::planted("acknowledge-with-a-shard-missing"))
            || (missing * 2 <= self.done.len() && runtime::planted("half-written-put-visible"))
    }
}

impl Placing<'_> {
    async fn run(&mut self) -> Result<(protocol::VolumeId, BlobId), Error> {
        self.pick(self.failed.clone());
        let end = runtime::time::sleep(self.deadline.saturating_duration_since(runtime::time::now()));
        let mut end = pin!(end);
        loop {
            let event = runtime::select! {
                event = self.events.next() => event,
                () = &mut end => return Err(self.late().await),
            };
            // Nothing under way: a failed attempt could not be followed by another.
            let Some(event) = event else { return Err(self.late().await) };
            match event {
                Event::Picked(Ok(volume)) => {
                    self.picking = false;
                    self.send(volume);
                }
                Event::Picked(Err(error)) => {
                    self.picking = false;
                    self.not_picked(error)?;
                }
                Event::Appended { attempt, slot, took, result: Ok(()) } => {
                    self.path.appends.note(took);
                    self.attempts[attempt].done[slot] = true;
                    if self.attempts[attempt].safe() {
                        if attempt > 0 {
                            runtime::probe!("second-volume-won");
                        }
                        return Ok((self.attempts[attempt].volume.id, self.attempts[attempt].blob));
                    }
                }
                Event::Appended { attempt, slot, result: Err(error), .. } => self.refused(attempt, slot, &error),
                Event::Slow { attempt, forced } => self.slow(attempt, forced),
                Event::Paused => {
                    // What could not be reached may be back; suspicion still steers away from it.
                    if self.may_come_back {
                        self.failed = Failed::default();
                    }
                    self.pick(self.failed.clone());
                }
            }
        }
    }

    fn live(&self) -> bool {
        self.attempts.iter().any(|attempt| !attempt.failed)
    }

    fn pick(&mut self, failed: Failed) {
        if self.picking || self.attempts.len() >= ATTEMPTS_MAX {
            return;
        }
        self.picking = true;
        let (volumes, deadline) = (self.path.volumes.clone(), self.deadline);
        self.events.push(Box::pin(async move { Event::Picked(volumes.pick(&failed, deadline).await) }));
    }

    fn pause(&self) {
        self.events.push(Box::pin(async {
            runtime::time::sleep(PAUSE).await;
            Event::Paused
        }));
    }

    fn not_picked(&mut self, error: volumes::Error) -> Result<(), Error> {
        let definite = matches!(error, volumes::Error::CannotPlace { .. }) && !self.may_come_back;
        if self.live() {
            // The attempt under way is all there is.
            self.problem = Some(error);
            return Ok(());
        }
        if definite {
            return Err(Error::Volumes(error));
        }
        self.problem = Some(error);
        self.pause();
        Ok(())
    }

    /// Send all shards to the volume, in parallel.
    fn send(&mut self, volume: Arc<Volume>) {
        let path = self.path;
        let code = code_of(volume.scheme);
        path.total.store(code.data + code.parity, Ordering::Relaxed);
        path.data.store(code.data, Ordering::Relaxed);
        self.shards.encode(code);
        let blob = BlobId { writer: path.cluster.writer, counter: path.counter.fetch_add(1, Ordering::Relaxed) + 1 };
        runtime::probe::never_twice("blob", &[blob.writer.0, blob.counter]);
        let header = ShardHeader {
            home: self.home,
            scheme: volume.scheme,
            blob_bytes: self.bytes,
            blob_checksum: self.checksum,
            shard_checksums: self.shards.checksums.clone(),
        };
        let attempt = self.attempts.len();
        let deadline = self.deadline;
        for (slot, (place, bytes)) in volume.slots.iter().zip(&self.shards.shards).enumerate() {
            let at = SlotAddress { volume: volume.id, generation: volume.generation, slot: slot_index(slot) };
            let (place, bytes, epoch, header) = (*place, bytes.clone(), volume.epoch, header.clone());
            self.events.push(Box::pin(async move {
                let since = runtime::time::now();
                let result = path.cluster.storage.append(place, ShardAddress { at, blob }, epoch, header, bytes, deadline).await;
                Event::Appended { attempt, slot, took: runtime::time::since(since), result }
            }));
        }
        let delay = path.appends.delay(4, SLOW_LEAST, SLOW_MOST);
        for (wait, forced) in [(delay, false), (SLOW_FORCED, true)] {
            self.events.push(Box::pin(async move {
                runtime::time::sleep(wait).await;
                Event::Slow { attempt, forced }
            }));
        }
        let done = vec![false; volume.slots.len()];
        self.attempts.push(Attempt { volume, blob, done, failed: false });
    }

    /// A slot refused its shard: the blob goes whole to another volume.
    fn refused(&mut self, attempt: usize, slot: usize, error: &storage::Error) {
        use storage::Error::*;
        let volume = self.attempts[attempt].volume.clone();
        let place = volume.slots[slot];
        tracing::info!(volume = %volume.id, slot, node = %place.node, drive = %place.drive, %error, "a slot refused a shard");
        self.path.volumes.blame(volume.id, slot, place, error);
        let layout = (volume.id, volume.epoch);
        if !self.failed.volumes.contains(&layout) {
            self.failed.volumes.push(layout);
        }
        let drive_failed = match error {
            Unreachable { .. } | Unknown { .. } | Busy => {
                self.may_come_back = true;
                true
            }
            Drive { .. } | Corrupt { .. } => true,
            Full if self.full.contains(&place.drive) => true,
            Full => {
                self.full.push(place.drive);
                false
            }
            StaleEpoch { .. } | Sealed { .. } | NotFound | Invalid { .. } => false,
        };
        if drive_failed && !self.failed.drives.contains(&place.drive) {
            self.failed.drives.push(place.drive);
        }
        let first = !self.attempts[attempt].failed;
        self.attempts[attempt].failed = true;
        if first {
            runtime::probe!("blob-sent-to-another-volume");
            self.pick(self.failed.clone());
        }
    }

    /// Some slots are silent: try another volume besides.
    fn slow(&mut self, attempt: usize, forced: bool) {
        let slow = &self.attempts[attempt];
        let latest = attempt + 1 == self.attempts.len();
        if slow.failed || !latest {
            return;
        }
        let silent = slow.silent();
        // When most slots are silent it is not a drive that is slow, and a second copy makes it worse.
        let few = silent.len() <= slow.volume.scheme.parity();
        let affordable = forced || (few && self.path.hedges.spend());
        if !affordable {
            return;
        }
        runtime::probe!("blob-hedged-to-another-volume");
        if few {
            for place in &silent {
                self.path.suspects.suspect_drive(place.drive, SUSPICION);
            }
        }
        self.may_come_back = true;
        let mut failed = self.failed.clone();
        failed.volumes.extend(self.attempts.iter().map(|attempt| (attempt.volume.id, attempt.volume.epoch)));
        if few {
            failed.drives.extend(silent.iter().map(|place| place.drive));
        }
        self.pick(failed);
    }

    async fn late(&mut self) -> Error {
        if let Some(error @ volumes::Error::CannotPlace { .. }) = self.problem.take() {
            return Error::Volumes(error);
        }
        let silent = self.attempts.last().map(Attempt::silent).unwrap_or_default();
        Error::Late { waiting: self.path.names(&silent).await }
    }
}
