//! The read path: from a record to a stream of bytes, for any range.
//!
//! Invariants (I4): only blocks that passed their checksum, of one generation of one volume, and whose header names this very
//! blob are decoded; a whole blob must also match the checksum in its record. What fails is never returned: before the first
//! byte it is an error, later the stream is cut.

use crate::Cluster;
use crate::admission::{Admission, Admitted};
use crate::latency::{Budget, Latency};
use crate::suspects::{SUSPICION, Suspects};
use crate::volumes::slot_index;
use crate::write::{code_of, drive_names};
use bytes::Bytes;
use erasure::Stripes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use metadata::BucketRef;
use protocol::layout::{ShardAddress, SlotAddress};
use protocol::limits::SHARD_BLOCK_BYTES;
use protocol::{BlobRef, Body, Home, SlotPlace, Volume};
use runtime::sync::{Receiver, channel};
use runtime::task::Task;
use runtime::time::Instant;
use s3s::StdError;
use s3s::stream::{ByteStream, RemainingLength};
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The longest that one blob is waited for.
const BLOB_WAIT: Duration = Duration::from_secs(5);
/// The longest wait for memory, before the first byte and between blobs.
const ADMISSION_WAIT: Duration = Duration::from_secs(30);
/// A slot silent for longer than 4 x p99, within these bounds, is hedged.
const HEDGE_LEAST: Duration = Duration::from_millis(5);
const HEDGE_MOST: Duration = Duration::from_millis(50);
/// A slot silent for this long is given up whatever the hedges cost.
const GIVE_UP: Duration = Duration::from_millis(500);
/// Rows of parts fetched at a time.
const PART_ROWS: u32 = 16;

/// Reads bodies.
pub struct ReadPath {
    cluster: Cluster,
    admission: Arc<Admission>,
    suspects: Arc<Suspects>,
    reads: Latency,
    hedges: Budget,
}

/// Where a version's bytes are.
#[derive(Clone)]
pub struct Source {
    pub bucket: BucketRef,
    pub key: String,
    pub body: Body,
}

/// Why bytes could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The version was replaced or deleted meanwhile.
    #[error("gone")]
    Gone,
    #[error("{have} of {need} shards, missing: {missing}")]
    TooFew {
        have: usize,
        need: usize,
        missing: String,
        /// The missing ones are lost or damaged rather than out of reach.
        lost: bool,
    },
    /// Enough shards, all with right checksums of their own, and they do not make the blob of the record.
    #[error("the blob fails its checksum")]
    Damaged,
    #[error("too many bytes held")]
    Busy,
    #[error(transparent)]
    Metadata(metadata::Error),
    #[error(transparent)]
    Placement(placement::Error),
}

impl ReadPath {
    pub fn new(cluster: Cluster, admission: Arc<Admission>, suspects: Arc<Suspects>) -> Arc<ReadPath> {
        let reads = Latency::new(Duration::from_millis(10));
        Arc::new(ReadPath { cluster, admission, suspects, reads, hedges: Budget::default() })
    }

    /// Walk over `range` of the source; memory is admitted piece by piece if `admit`, else it is the caller's.
    pub fn cursor(self: &Arc<Self>, source: Source, range: Range<u64>, admit: bool) -> Cursor {
        Cursor::new(self.clone(), source, range, admit)
    }

    /// A stream of `range` of the source whose first piece is at hand; the next is fetched while one is being sent.
    pub async fn open(self: &Arc<Self>, source: Source, range: Range<u64>) -> Result<Pieces, Error> {
        let remaining = range.end - range.start;
        let mut cursor = self.cursor(source, range, true);
        let first = cursor.next().await?;
        let read = first.as_ref().map_or(0, |first| first.len() as u64);
        if read == remaining {
            return Ok(Pieces { first, rest: None, remaining });
        }
        let (sender, receiver) = channel(1);
        let task = runtime::task::spawn(async move {
            let mut left = remaining - read;
            while left > 0 {
                // A place first: at most one piece waits beside the one that is being sent.
                let Ok(place) = sender.reserve().await else { return };
                let piece = cursor.next().await.and_then(|piece| piece.ok_or(Error::Gone));
                let end = piece.is_err();
                if let Err(error) = &piece {
                    runtime::probe!("response-cut");
                    tracing::warn!(%error, "a response is cut");
                }
                left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
                place.send(piece);
                if end {
                    return;
                }
            }
        });
        Ok(Pieces { first, rest: Some((receiver, task)), remaining })
    }

    /// `range` of one blob.
    async fn blob(&self, home: Home, blob: &BlobRef, range: Range<usize>, admit: bool) -> Result<Bytes, Error> {
        let bytes = range.len();
        if !admit {
            return self.fetch(home, blob, range).await;
        }
        // Shards and what is decoded from them are held at once.
        let deadline = runtime::time::now() + ADMISSION_WAIT;
        let mut admitted = self.admission.read(bytes.saturating_mul(2), deadline).await.map_err(|_| Error::Busy)?;
        let bytes = self.fetch(home, blob, range).await?;
        admitted.shrink_to(bytes.len());
        Ok(Bytes::from_owner(Held { bytes, _admitted: admitted }))
    }

    async fn fetch(&self, home: Home, blob: &BlobRef, range: Range<usize>) -> Result<Bytes, Error> {
        self.hedges.earn();
        let deadline = runtime::time::now() + BLOB_WAIT;
        let layout = self.cluster.placement.volume(blob.volume, deadline).await.map_err(Error::Placement)?;
        let error = match self.gather(home, &layout, blob, range.clone(), deadline).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        // The layout may have changed since it was cached: then the shards are elsewhere.
        runtime::probe!("layout-fetched-again-for-a-read");
        let fresh = match self.cluster.placement.refresh_volume(blob.volume, deadline).await {
            Ok(fresh) => fresh,
            Err(_) => return Err(error),
        };
        if fresh.generation == layout.generation && fresh.slots == layout.slots {
            return Err(error);
        }
        self.gather(home, &fresh, blob, range, deadline).await
    }

    /// Read the blocks of `range` from any k slots of one layout, and decode them.
    async fn gather(&self, home: Home, layout: &Volume, blob: &BlobRef, range: Range<usize>, deadline: Instant) -> Result<Bytes, Error> {
        let whole = range.start == 0 && range.end == blob.bytes as usize;
        let stripes = erasure::stripes_of(code_of(layout.scheme), blob.bytes as usize, range.clone());
        let mut gathering = Gathering {
            path: self,
            home,
            layout,
            blob,
            stripes,
            deadline,
            order: order(layout, |place| self.suspects.suspected(place)).into(),
            silent: Vec::new(),
            blocks: vec![None; layout.slots.len()],
            signed: vec![Vec::new(); layout.slots.len()],
            failed: Vec::new(),
            lost: 0,
            events: FuturesUnordered::new(),
        };
        let decoded = gathering.run(whole).await?;
        let start = range.start - stripes.first as usize * layout.scheme.data() * SHARD_BLOCK_BYTES;
        let end = start + range.len();
        if decoded.len() < end { Err(Error::Damaged) } else { Ok(decoded.slice(start..end)) }
    }
}

/// Bytes with the memory that was admitted for them.
struct Held {
    bytes: Bytes,
    _admitted: Admitted,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Slots in the order in which they are asked: data before parity, whoever is suspected last.
fn order(layout: &Volume, suspected: impl Fn(SlotPlace) -> bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..layout.slots.len()).collect();
    order.sort_by_key(|slot| suspected(layout.slots[*slot]));
    order
}

/// Blocks of one blob on their way here.
struct Gathering<'a> {
    path: &'a ReadPath,
    home: Home,
    layout: &'a Volume,
    blob: &'a BlobRef,
    stripes: Stripes,
    deadline: Instant,
    /// Slots that were not asked yet.
    order: VecDeque<usize>,
    /// Slots that were asked and have not answered.
    silent: Vec<usize>,
    blocks: Vec<Option<Bytes>>,
    /// For each slot, what its header says about all shards.
    signed: Vec<Vec<u64>>,
    failed: Vec<usize>,
    /// Of the failed ones, those that answered that they do not have it intact.
    lost: usize,
    events: FuturesUnordered<BoxFuture<'a, Answer>>,
}

struct Answer {
    slot: usize,
    took: Duration,
    result: Result<storage::client::Blocks, storage::Error>,
}

impl Gathering<'_> {
    async fn run(&mut self, whole: bool) -> Result<Bytes, Error> {
        let need = self.layout.scheme.data();
        for _ in 0..need {
            self.ask();
        }
        let since = runtime::time::now();
        let hedge = self.path.reads.delay(4, HEDGE_LEAST, HEDGE_MOST);
        let mut alarms = [(since + hedge, false), (since + GIVE_UP, true)].into_iter().peekable();
        loop {
            if self.blocks.iter().flatten().count() >= need {
                match self.decode(whole) {
                    Some(decoded) => return Ok(decoded),
                    None if self.blocks.iter().flatten().count() >= need => return Err(Error::Damaged),
                    // A rotten shard was found out and dropped.
                    None => self.ask(),
                }
            }
            if self.events.is_empty() {
                return Err(self.too_few().await);
            }
            let next = alarms.peek().map_or(self.deadline, |(at, _)| *at).min(self.deadline);
            let mut alarm = pin!(runtime::time::sleep(next.saturating_duration_since(runtime::time::now())));
            let answer = runtime::select! {
                answer = self.events.next() => answer,
                () = &mut alarm => None,
            };
            match answer {
                Some(answer) => self.answered(answer),
                None if runtime::time::now() >= self.deadline => return Err(self.too_few().await),
                None => {
                    if let Some((_, forced)) = alarms.next() {
                        self.hedge(forced);
                    }
                }
            }
        }
    }

    /// Ask the next slot.
    fn ask(&mut self) {
        let Some(slot) = self.order.pop_front() else { return };
        self.silent.push(slot);
        let at = SlotAddress { volume: self.layout.id, generation: self.layout.generation, slot: slot_index(slot) };
        let shard = ShardAddress { at, blob: self.blob.blob };
        let (path, place, stripes, deadline) = (self.path, self.layout.slots[slot], self.stripes, self.deadline);
        self.events.push(Box::pin(async move {
            let since = runtime::time::now();
            let result = path.cluster.storage.read(place, shard, stripes.first, stripes.count, deadline).await;
            Answer { slot, took: runtime::time::since(since), result }
        }));
    }

    fn answered(&mut self, answer: Answer) {
        let slot = answer.slot;
        self.silent.retain(|silent| *silent != slot);
        let result = match answer.result {
            // A header that names another blob is as good as rot: ids, home, scheme and checksum must all agree.
            Ok(blocks) if !self.fits(&blocks) => Err(storage::Error::Corrupt { detail: "the shard's header names another blob".into() }),
            result => result,
        };
        match result {
            Ok(blocks) => {
                self.path.reads.note(answer.took);
                self.signed[slot] = blocks.header.shard_checksums;
                self.blocks[slot] = Some(blocks.bytes);
            }
            Err(storage::Error::Corrupt { .. }) if runtime::planted("reconstruct-from-rotten-shard") => {
                let bytes = erasure::shard_bytes(code_of(self.layout.scheme), self.blob.bytes as usize);
                let first = (self.stripes.first as usize * SHARD_BLOCK_BYTES).min(bytes);
                let end = (first + self.stripes.count as usize * SHARD_BLOCK_BYTES).min(bytes);
                self.blocks[slot] = Some(Bytes::from(vec![0; end - first]));
            }
            Err(error) => {
                self.report(slot, &error);
                self.failed.push(slot);
                self.ask();
            }
        }
    }

    fn fits(&self, blocks: &storage::client::Blocks) -> bool {
        let header = &blocks.header;
        header.home == self.home
            && header.scheme == self.layout.scheme
            && header.blob_bytes == self.blob.bytes
            && header.blob_checksum == self.blob.checksum
    }

    /// Tell whom it concerns that a slot does not give its shard.
    fn report(&mut self, slot: usize, error: &storage::Error) {
        use storage::Error::*;
        let place = self.layout.slots[slot];
        let placement = &self.path.cluster.placement;
        tracing::warn!(volume = %self.layout.id, slot, node = %place.node, drive = %place.drive, blob = ?self.blob.blob, %error, "shard not read");
        match error {
            NotFound => {
                runtime::probe!("shard-missing-on-read");
                self.lost += 1;
            }
            Corrupt { .. } => {
                runtime::probe!("shard-corrupt-on-read");
                self.lost += 1;
                placement.report_slot(self.layout.id, slot_index(slot), "a shard is corrupt");
            }
            Drive { .. } => {
                self.path.suspects.suspect_drive(place.drive, SUSPICION);
                placement.report_slot(self.layout.id, slot_index(slot), "drive unavailable");
            }
            Unreachable { .. } => {
                self.path.suspects.suspect_node(place.node, SUSPICION);
                placement.report_unreachable(place.node);
            }
            Unknown { .. } => self.path.suspects.suspect_drive(place.drive, SUSPICION),
            Busy | StaleEpoch { .. } | Sealed { .. } | Full | Invalid { .. } => {}
        }
    }

    /// Ask one more slot for each silent one.
    fn hedge(&mut self, forced: bool) {
        if forced {
            for slot in &self.silent {
                self.path.suspects.suspect_drive(self.layout.slots[*slot].drive, SUSPICION);
            }
        }
        for _ in 0..self.silent.len() {
            if self.order.is_empty() || (!forced && !self.path.hedges.spend()) {
                return;
            }
            runtime::probe!("read-hedged");
            self.ask();
        }
    }

    /// The bytes of the stripes, if the shards at hand make them. If not, and a shard is not what its writer signed, that one is
    /// dropped.
    fn decode(&mut self, whole: bool) -> Option<Bytes> {
        let code = code_of(self.layout.scheme);
        if self.blocks[..code.data].iter().any(Option::is_none) {
            runtime::probe!("read-reconstructed");
        }
        let decoded = erasure::decode_stripes(code, self.blob.bytes as usize, self.stripes, &self.blocks);
        match decoded {
            Ok(decoded) if !whole || erasure::checksum(&decoded) == self.blob.checksum => return Some(decoded),
            Ok(decoded) if runtime::planted("reconstruct-from-rotten-shard") => return Some(decoded),
            Ok(_) => {
                runtime::probe!("blob-checksum-wrong-after-decoding");
                tracing::error!(volume = %self.layout.id, blob = ?self.blob.blob, "a decoded blob fails its checksum");
            }
            Err(error) => tracing::error!(volume = %self.layout.id, blob = ?self.blob.blob, %error, "shards do not decode"),
        }
        let mut dropped = false;
        for slot in 0..self.blocks.len() {
            let Some(block) = &self.blocks[slot] else { continue };
            let rotten = whole && self.signed[slot].get(slot).is_some_and(|signed| *signed != erasure::checksum(block));
            if rotten {
                self.blocks[slot] = None;
                self.report(slot, &storage::Error::Corrupt { detail: "the shard is not what its writer signed".into() });
                self.failed.push(slot);
                // `run` asks one more; each further one is asked here.
                if dropped {
                    self.ask();
                }
                dropped = true;
            }
        }
        None
    }

    async fn too_few(&mut self) -> Error {
        let have = self.blocks.iter().flatten().count();
        let missing: Vec<SlotPlace> = self.failed.iter().chain(&self.silent).map(|slot| self.layout.slots[*slot]).collect();
        let soon = runtime::time::now() + Duration::from_millis(50);
        let map = runtime::time::timeout_at(soon, self.path.cluster.placement.map(soon)).await.ok().and_then(Result::ok);
        let need = self.layout.scheme.data();
        // Out of reach could still suffice: then it is not lost.
        let lost = self.layout.slots.len() - self.lost < need;
        Error::TooFew { have, need, missing: drive_names(map.as_deref(), &missing), lost }
    }
}

/// Walks over a range of a body, piece by piece: at most a blob at a time.
pub struct Cursor {
    path: Arc<ReadPath>,
    source: Source,
    home: Home,
    position: u64,
    end: u64,
    admit: bool,
    /// What is known to lie from `position` on, in order, each with its first byte's place in the object.
    segments: VecDeque<(u64, Segment)>,
    /// Of a body in parts: the index of the next part to load, and its place.
    next_part: usize,
    next_start: u64,
}

enum Segment {
    Inline(Bytes),
    Blob(BlobRef),
}

impl Segment {
    fn bytes(&self) -> u64 {
        match self {
            Segment::Inline(bytes) => bytes.len() as u64,
            Segment::Blob(blob) => u64::from(blob.bytes),
        }
    }
}

impl Cursor {
    fn new(path: Arc<ReadPath>, source: Source, range: Range<u64>, admit: bool) -> Cursor {
        let home = Home::of(source.bucket.id, &source.key);
        let mut cursor = Cursor {
            path,
            home,
            position: range.start,
            end: range.end,
            admit,
            segments: VecDeque::new(),
            next_part: 0,
            next_start: 0,
            source,
        };
        if !matches!(cursor.source.body, Body::Parts { .. }) {
            let body = std::mem::replace(&mut cursor.source.body, Body::Blobs(Vec::new()));
            cursor.add(0, body);
        }
        cursor
    }

    /// The next piece; none at the end of the range.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.position < self.end {
            let Some((start, segment)) = self.segments.front() else {
                self.load_parts().await?;
                continue;
            };
            let (start, bytes) = (*start, segment.bytes());
            if start + bytes <= self.position {
                self.segments.pop_front();
                continue;
            }
            let first = usize::try_from(self.position - start).map_err(|_| Error::Damaged)?;
            let last = usize::try_from((self.end - start).min(bytes)).map_err(|_| Error::Damaged)?;
            let piece = match segment {
                Segment::Inline(inline) => inline.slice(first..last),
                Segment::Blob(blob) => self.path.blob(self.home, blob, first..last, self.admit).await?,
            };
            self.position += piece.len() as u64;
            return Ok(Some(piece));
        }
        Ok(None)
    }

    fn add(&mut self, mut start: u64, body: Body) {
        let segments: Vec<Segment> = match body {
            Body::Inline(bytes) => vec![Segment::Inline(bytes.0)],
            Body::Blobs(blobs) => blobs.into_iter().map(Segment::Blob).collect(),
            Body::Parts { .. } => Vec::new(),
        };
        for segment in segments {
            let end = start + segment.bytes();
            if end > self.position && start < self.end {
                self.segments.push_back((start, segment));
            }
            start = end;
        }
    }

    /// Load the rows of the parts that come next.
    async fn load_parts(&mut self) -> Result<(), Error> {
        let Body::Parts { upload, parts } = &self.source.body else {
            // The record's size and its blobs disagree.
            return Err(Error::Damaged);
        };
        while let Some(part) = parts.get(self.next_part)
            && self.next_start + part.bytes <= self.position
        {
            self.next_start += part.bytes;
            self.next_part += 1;
        }
        let wanted = parts.get(self.next_part).ok_or(Error::Damaged)?;
        let deadline = runtime::time::now() + BLOB_WAIT;
        let metadata = &self.path.cluster.metadata;
        let rows = metadata.completed_parts(&self.source.bucket, &self.source.key, *upload, wanted.number, PART_ROWS, deadline);
        let rows = rows.await.map_err(Error::Metadata)?;
        let mut found = Vec::new();
        let (mut index, mut start) = (self.next_part, self.next_start);
        for row in rows {
            match parts.get(index) {
                Some(part) if part.number == row.number && part.bytes == row.bytes => {
                    found.push((start, row.body));
                    start += row.bytes;
                    index += 1;
                }
                _ => break,
            }
        }
        if found.is_empty() {
            // The rows went with the version that they belonged to.
            return Err(Error::Gone);
        }
        (self.next_part, self.next_start) = (index, start);
        for (start, body) in found {
            self.add(start, body);
        }
        Ok(())
    }
}

type Fetched = Result<Bytes, Error>;

/// The bytes of a response, on their way.
pub struct Pieces {
    first: Option<Bytes>,
    /// The pieces after the first, and the task that fetches them.
    rest: Option<(Receiver<Fetched>, Task<()>)>,
    remaining: u64,
}

impl Stream for Pieces {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let next = match (this.first.take(), &mut this.rest) {
            (Some(first), _) => Some(Ok(first)),
            (None, _) if this.remaining == 0 => None,
            (None, Some((receiver, _))) => match receiver.poll_recv(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => return Poll::Pending,
            },
            (None, None) => None,
        };
        Poll::Ready(match next {
            Some(Ok(piece)) => {
                this.remaining = this.remaining.saturating_sub(piece.len() as u64);
                Some(Ok(piece))
            }
            Some(Err(error)) => {
                this.remaining = 0;
                Some(Err(Box::new(error)))
            }
            // Cut, never padded: an end too early must not look like one.
            None if this.remaining > 0 => {
                this.remaining = 0;
                Some(Err(Box::new(Error::Gone)))
            }
            None => None,
        })
    }
}

impl ByteStream for Pieces {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.remaining).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{DriveId, Epoch, Generation, NodeId, Scheme, VolumeId, VolumeState};

    fn layout(n: u64) -> Volume {
        Volume {
            id: VolumeId(1),
            scheme: Scheme::ReedSolomon { k: 4, m: 2 },
            epoch: Epoch(1),
            generation: Generation(1),
            state: VolumeState::Open,
            slots: (0..n).map(|i| SlotPlace { node: NodeId(i / 2), drive: DriveId(i) }).collect(),
            at_risk: false,
        }
    }

    #[test]
    fn suspected_slots_are_asked_last() {
        assert_eq!(order(&layout(6), |_| false), [0, 1, 2, 3, 4, 5]);
        assert_eq!(order(&layout(6), |place| place.drive.0 < 2), [2, 3, 4, 5, 0, 1]);
        assert_eq!(order(&layout(6), |_| true), [0, 1, 2, 3, 4, 5]);
    }
}
