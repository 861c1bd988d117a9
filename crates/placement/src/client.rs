//! Client of the placement service: cached map, buckets and volumes; heartbeats.
//!
//! What changes buckets goes as a command with a session straight to the root group; what concerns volumes goes to
//! its leader's [`Service`](crate::Service). Caches are bounded and safe to be stale: what they lead to is fenced.
//! Where the root cannot be asked, a stale entry serves on. Changes that the leader tells of keep them fresh ([`Client::watch`]).

mod bucket_settings;
mod caches;
mod groups;
mod identities;
mod roster;
mod session;
mod watching;

use crate::cache::Cached;
use crate::commands::{Command, Query, Reply};
use crate::leader::{Ask, HEARTBEAT, Road, Told, error_of};
use crate::service::{applied, applied_somehow, decoded, unexpected};
use crate::{Bootstrap, Bucket, BucketState, Error, Health, Heartbeat};
use bytes::Bytes;
use caches::{Caches, Handed, is_later};
use protocol::{ClusterMap, DriveId, Epoch, NodeId, ROOT, SlotIndex, Versioning, Volume, VolumeId, WriterId, limits, wire};
use runtime::rpc::{Class, Rpc};
use runtime::sync::{Receiver, Sender, channel};
use runtime::task::Task;
use runtime::time::{Instant, now, sleep};
use session::Sessions;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub use roster::IDENTITY_AGE_MAX;

/// After so long the root is asked again, unless it tells of changes by itself.
const AGE_MAX: Duration = Duration::from_secs(5);
const BUCKETS_MAX: usize = 4096;
const VOLUMES_MAX: usize = 65_536;
/// Open volumes are taken from the last answer for so long, in turns.
const HANDED_AGE_MAX: Duration = Duration::from_secs(1);
/// And for so long, if the root does not answer within [`PATIENCE`].
const HANDED_STALE_MAX: Duration = Duration::from_secs(60);
/// The wait for the root where a stale entry would do.
const PATIENCE: Duration = Duration::from_millis(500);
/// Reports on their way to the leader.
const REPORTS_MAX: usize = 64;
/// One report of a kind in so long.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// The longest that a report is worth sending.
const REPORT_AGE_MAX: Duration = Duration::from_secs(3);
/// How often a node looks at its drives' health between heartbeats.
const PULSE: Duration = Duration::from_millis(250);
/// The longest wait for a writer id before another is asked for.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two attempts at the root group.
const PAUSE: Duration = Duration::from_millis(50);

/// Talks to the root group; cheap to clone. Caches are safe to be stale: what they lead to is fenced.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    groups: consensus::Client,
    road: Arc<Road>,
    sessions: Sessions,
    caches: Mutex<Caches>,
    loads: identities::Loads,
    reports: Sender<Ask>,
    _reporter: Task<()>,
}

impl Client {
    /// `groups` know where the root group's replicas are, or were at the founding.
    pub fn new(rpc: Rpc, groups: consensus::Client) -> Client {
        let road = Arc::new(Road::new(rpc, groups.clone()));
        let (reports, queue) = channel(REPORTS_MAX);
        let _reporter = runtime::task::spawn(send_reports(road.clone(), queue));
        let sessions = Sessions::default();
        let (caches, loads) = (Mutex::new(Caches::new()), identities::Loads::default());
        Client { inner: Arc::new(Inner { groups, road, sessions, caches, loads, reports, _reporter }) }
    }

    /// A writer id for this start of a gateway. Retries until `deadline`; an id whose reply is lost is burned.
    pub async fn open_writer(&self, deadline: Instant) -> Result<WriterId, Error> {
        loop {
            let command = Bytes::from(wire::encode(&Command::OpenWriter));
            // Without a session an attempt waits for one replica alone, which may be dead: not for long.
            let limit = deadline.min(now() + ATTEMPT);
            let answer = self.inner.groups.propose(ROOT, None, command, limit).await.map_err(error_of);
            let error = match answer.and_then(|answer| decoded(&answer)) {
                Ok((_, Reply::Writer(writer))) => {
                    runtime::probe::never_twice("writer", &[writer.0]);
                    return Ok(writer);
                }
                Ok((_, other)) => return Err(unexpected(&other)),
                Err(error @ (Error::Unavailable(_) | Error::Unknown(_) | Error::Busy)) => error,
                Err(error) => return Err(error),
            };
            pause(deadline, error).await?;
        }
    }

    /// Send heartbeats of `pulse` every [`protocol::limits::HEARTBEAT`] until the task is dropped; at once when a
    /// drive closes or opens. `pulse` is called a few times a second for each root node and must not block.
    pub fn heartbeat(&self, pulse: impl Fn() -> Heartbeat + Send + Sync + 'static) -> Task<()> {
        let (road, pulse) = (self.inner.road.clone(), Arc::new(pulse));
        runtime::task::spawn(async move {
            // Each root node has a rhythm of its own: one that does not answer delays no other.
            let mut hearts: BTreeMap<NodeId, Task<()>> = BTreeMap::new();
            loop {
                let nodes = road.root_nodes();
                hearts.retain(|node, _| nodes.contains(node));
                for node in nodes {
                    let beat = || runtime::task::spawn(send_heartbeats(road.rpc().clone(), node, pulse.clone()));
                    hearts.entry(node).or_insert_with(beat);
                }
                sleep(limits::HEARTBEAT).await;
            }
        })
    }

    /// The cluster map, at most a few seconds old.
    pub async fn map(&self, deadline: Instant) -> Result<Arc<ClusterMap>, Error> {
        let stale = match self.caches().map() {
            Cached::Fresh(map) => return Ok(map),
            Cached::Stale(map) => Some(map),
            Cached::Absent => None,
        };
        let fetched = self.founded(patience(stale.is_some(), deadline)).await.map(|(revision, bootstrap)| {
            let map = Arc::new(bootstrap.map);
            self.caches().keep_map(map.clone(), revision);
            map
        });
        let map = or_stale(fetched, stale)?;
        self.caches().put_up_with_map();
        Ok(map)
    }

    /// What the cluster was founded with, whatever files say by now: waits until it is founded.
    pub async fn founding(&self, deadline: Instant) -> Result<Bootstrap, Error> {
        self.founded(deadline).await.map(|(_, bootstrap)| bootstrap)
    }

    async fn founded(&self, deadline: Instant) -> Result<(u64, Bootstrap), Error> {
        loop {
            match self.query(Query::Bootstrap, deadline).await? {
                (revision, Reply::Bootstrap(Some(bootstrap))) => return Ok((revision, bootstrap)),
                (_, Reply::Bootstrap(None)) => pause(deadline, Error::Unavailable("the cluster is not founded yet".into())).await?,
                (_, other) => return Err(unexpected(&other)),
            }
        }
    }

    /// Cluster time, in milliseconds since 1970: what expires is judged by it. A lower bound, for good: it never goes back, no single
    /// clock moves it, and whoever keeps an answer is only late. 0 until the cluster has run for some seconds.
    pub async fn cluster_time_ms(&self, deadline: Instant) -> Result<u64, Error> {
        match self.query(Query::Time, deadline).await? {
            (_, Reply::Time { now_ms }) => Ok(now_ms),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Begin or go on with the creation of `name`: state Creating under a new attempt. Fails with
    /// [`Error::BucketExists`] if it is live or being deleted.
    pub async fn begin_create_bucket(&self, name: &str, owner: &str, created_ms: u64, deadline: Instant) -> Result<Bucket, Error> {
        let (name, owner) = (name.to_string(), owner.to_string());
        let begun = self.bucket_command(Command::BeginCreateBucket { name, owner, created_ms }, deadline).await?;
        runtime::probe::never_twice("bucket attempt", &[begun.attempt]);
        Ok(begun)
    }

    /// Every partition opened it under `attempt`: make it live.
    pub async fn finish_create_bucket(&self, name: &str, attempt: u64, deadline: Instant) -> Result<(), Error> {
        self.done(name, Command::FinishCreateBucket { name: name.to_string(), attempt }, deadline).await
    }

    /// Begin a deletion under a new attempt: state Deleting.
    pub async fn begin_delete_bucket(&self, name: &str, deadline: Instant) -> Result<Bucket, Error> {
        self.forget_bucket(name);
        let begun = self.bucket_command(Command::BeginDeleteBucket { name: name.to_string() }, deadline).await;
        self.forget_bucket(name);
        if let Ok(begun) = &begun {
            runtime::probe::never_twice("bucket attempt", &[begun.attempt]);
        }
        begun
    }

    /// Every partition is closed and empty under `attempt`: remove the bucket (`removed`), or it is not empty and
    /// was reopened everywhere: make it live again.
    pub async fn finish_delete_bucket(&self, name: &str, attempt: u64, removed: bool, deadline: Instant) -> Result<(), Error> {
        self.done(name, Command::FinishDeleteBucket { name: name.to_string(), attempt, removed }, deadline).await
    }

    /// Take over the creation, deletion or setting that stands under `attempt`, to end it under a new one. [`Error::StaleAttempt`] if that was ended,
    /// or somebody has begun another.
    pub async fn take_over_bucket(&self, name: &str, attempt: u64, deadline: Instant) -> Result<Bucket, Error> {
        let taken = self.bucket_command(Command::TakeOverBucket { name: name.to_string(), attempt }, deadline).await;
        self.forget_bucket(name);
        if let Ok(taken) = &taken {
            runtime::probe::never_twice("bucket attempt", &[taken.attempt]);
        }
        taken
    }

    /// Buckets that are being created, deleted or set, with names after `after`, at most 1000.
    pub async fn unfinished_buckets(&self, after: &str, deadline: Instant) -> Result<Vec<Bucket>, Error> {
        match self.query(Query::UnfinishedBuckets { after: after.to_owned() }, deadline).await? {
            (_, Reply::Buckets(buckets)) => Ok(buckets),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Begin to set the versioning of a live bucket under a new attempt; `None`: go on with the setting that is under way.
    /// If there is none, the bucket is returned as it is, with nothing to set.
    pub async fn begin_set_versioning(&self, name: &str, versioning: Option<Versioning>, deadline: Instant) -> Result<Bucket, Error> {
        let begun = self.bucket_command(Command::BeginSetVersioning { name: name.to_string(), versioning }, deadline).await;
        self.forget_bucket(name);
        begun
    }

    /// Every partition has the setting under `attempt`: it is the bucket's.
    pub async fn finish_set_versioning(&self, name: &str, attempt: u64, deadline: Instant) -> Result<(), Error> {
        self.done(name, Command::FinishSetVersioning { name: name.to_string(), attempt }, deadline).await
    }

    /// The bucket, possibly cached (partitions refuse incarnations that they do not hold open); absence and
    /// states other than Live are always asked of the root, linearizably. One in state Creating does not exist yet:
    /// [`Error::NoSuchBucket`]. One in state Deleting is returned as such.
    pub async fn bucket(&self, name: &str, deadline: Instant) -> Result<Arc<Bucket>, Error> {
        let stale = match self.caches().bucket(name) {
            Cached::Fresh(bucket) => return Ok(bucket),
            Cached::Stale(bucket) => Some(bucket),
            Cached::Absent => None,
        };
        self.fetch_bucket(name, stale, deadline).await
    }

    /// The bucket as the root has it now, linearizably: for answers that no partition would refuse if they were stale.
    pub async fn bucket_now(&self, name: &str, deadline: Instant) -> Result<Arc<Bucket>, Error> {
        self.fetch_bucket(name, None, deadline).await
    }

    async fn fetch_bucket(&self, name: &str, stale: Option<Arc<Bucket>>, deadline: Instant) -> Result<Arc<Bucket>, Error> {
        let fetched = match self.query(Query::Bucket { name: name.to_string() }, patience(stale.is_some(), deadline)).await {
            Ok((_, Reply::Bucket(Bucket { state: BucketState::Creating, .. }))) => Err(Error::NoSuchBucket),
            Ok((revision, Reply::Bucket(bucket))) => {
                let bucket = Arc::new(bucket);
                self.caches().keep_bucket(&bucket, revision);
                Ok(bucket)
            }
            Ok((_, other)) => Err(unexpected(&other)),
            Err(error) => Err(error),
        };
        let bucket = or_stale(fetched, stale).inspect_err(|_| self.forget_bucket(name))?;
        self.caches().put_up_with_bucket(name);
        Ok(bucket)
    }

    /// Forget the cached bucket: a partition said that it is not open.
    pub fn forget_bucket(&self, name: &str) {
        self.caches().forget_bucket(name);
    }

    /// Buckets that exist (Live, or Deleting until removed) with names after `after` in order, at most `max` and at
    /// most 1000; linearizable. An empty page is the end.
    pub async fn list_buckets(&self, after: &str, max: u32, deadline: Instant) -> Result<Vec<Bucket>, Error> {
        match self.query(Query::Buckets { after: after.to_string(), max }, deadline).await? {
            (_, Reply::Buckets(buckets)) => Ok(buckets),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// An open volume of class STANDARD that uses none of `avoid` and no suspected node or closed drive; chosen
    /// among the open ones, or a new one: then in state Building, whose slots the caller creates before
    /// [`volume_built`](Self::volume_built). Two callers may be given the same one to build: both may.
    ///
    /// [`Error::CannotPlace`] names also drives that are merely avoided: a caller that avoids some for slowness only
    /// may ask again without.
    pub async fn volume_for_writing(&self, avoid: &[DriveId], deadline: Instant) -> Result<Arc<Volume>, Error> {
        if let Some(volume) = self.caches().handed.take(avoid, HANDED_AGE_MAX) {
            return Ok(volume);
        }
        let spare = self.caches().handed.take(avoid, HANDED_STALE_MAX);
        let answer = self.inner.road.ask(&Ask::Volumes { avoid: avoid.to_vec() }, patience(spare.is_some(), deadline)).await;
        let volumes = match answer {
            Ok(Told::Volumes(volumes)) => Ok(volumes.into_iter().map(Arc::new).collect::<Vec<_>>()),
            Ok(other) => Err(Error::Malformed(format!("unexpected answer {other:?}"))),
            Err(error) => Err(error),
        };
        let volumes = or_stale(volumes, spare.map(|volume| vec![volume]))?;
        let first = volumes.first().cloned().ok_or_else(|| Error::Malformed("no volume in the answer".into()))?;
        let mut caches = self.caches();
        volumes.iter().for_each(|volume| caches.keep_volume(volume, 0));
        // A list with all that the leader has to hand: not one made for this caller alone.
        if volumes.len() > 1 {
            caches.handed = Handed { volumes, since: Some(now()), turn: 1 };
        }
        Ok(first)
    }

    /// Every slot of the volume exists durably: it may open. [`Error::Refused`] if it was sealed meanwhile: take another.
    pub async fn volume_built(&self, volume: VolumeId, deadline: Instant) -> Result<Arc<Volume>, Error> {
        match self.inner.road.ask(&Ask::Built { volume }, deadline).await? {
            Told::Volume(volume) => Ok(self.keep(volume, 0)),
            other => Err(Error::Malformed(format!("unexpected answer {other:?}"))),
        }
    }

    /// The layout of a volume, possibly cached.
    pub async fn volume(&self, volume: VolumeId, deadline: Instant) -> Result<Arc<Volume>, Error> {
        let stale = match self.caches().volume(volume) {
            Cached::Fresh(volume) => return Ok(volume),
            Cached::Stale(volume) => Some(volume),
            Cached::Absent => None,
        };
        let fetched = self.fetch_volume(volume, patience(stale.is_some(), deadline)).await;
        let volume = or_stale(fetched, stale)?;
        // Also a stale one counts as new again: else every read waited for a root that does not answer.
        self.caches().put_up_with_volume(volume.id);
        Ok(volume)
    }

    /// Whether more has become of the volume than `known`, as far as this client heard: it was sealed, say.
    pub fn is_outdated(&self, known: &Volume) -> bool {
        self.caches().last_known(known.id).is_some_and(|last| is_later(last, known))
    }

    /// Forget the cached layout and fetch it again.
    pub async fn refresh_volume(&self, volume: VolumeId, deadline: Instant) -> Result<Arc<Volume>, Error> {
        self.caches().forget_volume(volume);
        self.fetch_volume(volume, deadline).await
    }

    /// A slot failed for good (drive closed, shard refused as sealed or full): the root seals the volume under a
    /// raised epoch. The caller does not wait for it.
    pub fn report_slot(&self, volume: VolumeId, slot: SlotIndex, reason: &str) {
        let mut caches = self.caches();
        let epoch = caches.last_known(volume).map(|volume| volume.epoch);
        caches.forget_volume(volume);
        let ask = Ask::Slot { volume, epoch, slot, reason: reason.to_string() };
        self.report(&mut caches, (None, Some(volume)), ask);
    }

    /// Take the volume out of those that writers are given, under a raised epoch, if it is still at `epoch`. Answers with
    /// the volume as it is then. Its slots know nothing of it until they are fenced.
    pub async fn seal_volume(&self, volume: VolumeId, epoch: Epoch, deadline: Instant) -> Result<Arc<Volume>, Error> {
        match self.command(Command::SealVolume { volume, epoch }, deadline).await? {
            (revision, Reply::Volume(volume)) => Ok(self.keep(volume, revision)),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// A node could not be reached: counts at once as a suspicion until its next heartbeat.
    pub fn report_unreachable(&self, node: NodeId) {
        let mut caches = self.caches();
        caches.handed.volumes.retain(|volume| volume.slots.iter().all(|slot| slot.node != node));
        self.report(&mut caches, (Some(node), None), Ask::Unreachable { node });
    }

    /// Health as the root's leader sees it.
    pub async fn health(&self, deadline: Instant) -> Result<Health, Error> {
        match self.inner.road.ask(&Ask::Health, deadline).await? {
            Told::Health(health) => Ok(health),
            other => Err(Error::Malformed(format!("unexpected answer {other:?}"))),
        }
    }

    /// Hand a report to the reporter, unless the same was handed over just now or too many wait.
    fn report(&self, caches: &mut Caches, what: (Option<NodeId>, Option<VolumeId>), ask: Ask) {
        if caches.was_reported(what) {
            return;
        }
        match self.inner.reports.try_send(ask) {
            Ok(()) => caches.note_reported(what),
            Err(_) => runtime::probe!("placement: a report was dropped"),
        }
    }

    async fn fetch_volume(&self, volume: VolumeId, deadline: Instant) -> Result<Arc<Volume>, Error> {
        match self.query(Query::Volume { volume }, deadline).await? {
            (revision, Reply::Volume(volume)) => Ok(self.keep(volume, revision)),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Cache a volume as the root says it is; 0 stands for a revision that is not known.
    fn keep(&self, volume: Volume, revision: u64) -> Arc<Volume> {
        let volume = Arc::new(volume);
        self.caches().keep_volume(&volume, revision);
        volume
    }

    async fn bucket_command(&self, command: Command, deadline: Instant) -> Result<Bucket, Error> {
        match self.command(command, deadline).await? {
            (_, Reply::Bucket(bucket)) => Ok(bucket),
            (_, other) => Err(applied_somehow(&other)),
        }
    }

    async fn done(&self, name: &str, command: Command, deadline: Instant) -> Result<(), Error> {
        let reply = self.command(command, deadline).await;
        self.forget_bucket(name);
        match reply? {
            (_, Reply::Done) => Ok(()),
            (_, other) => Err(applied_somehow(&other)),
        }
    }

    /// Propose with a session, so that a retry is applied once and a late duplicate never. What was certainly not
    /// applied is proposed again, as another command, until `deadline`.
    async fn command(&self, command: Command, deadline: Instant) -> Result<(u64, Reply), Error> {
        let bytes = Bytes::from(wire::encode(&command));
        loop {
            let turn = self.inner.sessions.begin(async || self.open_writer(deadline).await).await?;
            let answer = self.inner.groups.propose(ROOT, Some(turn.session()), bytes.clone(), deadline).await.map_err(error_of);
            drop(turn);
            match answer.and_then(|answer| applied(&answer)) {
                Ok(answer) => return Ok(answer),
                Err(error @ (Error::Unavailable(_) | Error::Busy)) => pause(deadline, error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Ask linearizably; the answer comes with the revision of which it is.
    async fn query(&self, query: Query, deadline: Instant) -> Result<(u64, Reply), Error> {
        let bytes = Bytes::from(wire::encode(&query));
        loop {
            let answer = self.inner.groups.read(ROOT, bytes.clone(), deadline).await.map_err(error_of);
            match answer.and_then(|answer| decoded(&answer)) {
                Ok(answer) => return Ok(answer),
                Err(error @ (Error::Unavailable(_) | Error::Unknown(_) | Error::Busy)) => pause(deadline, error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.inner.caches()
    }
}

impl Inner {
    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.caches.lock().expect("nothing panics under this lock")
    }
}

/// What was fetched, or where the root could not be asked what was known before.
fn or_stale<T>(fetched: Result<T, Error>, stale: Option<T>) -> Result<T, Error> {
    match (fetched, stale) {
        (Err(Error::Unavailable(_) | Error::Unknown(_) | Error::Busy), Some(stale)) => {
            runtime::probe!("placement: a stale answer served while the root could not be asked");
            Ok(stale)
        }
        (fetched, _) => fetched,
    }
}

/// Until when to wait for the root: not long, if a stale entry would do.
fn patience(stale: bool, deadline: Instant) -> Instant {
    if stale { deadline.min(now() + PATIENCE) } else { deadline }
}

/// Wait a little before the next attempt, or fail with `error` if there is no time for one.
async fn pause(deadline: Instant, error: Error) -> Result<(), Error> {
    if now() + PAUSE >= deadline {
        return Err(error);
    }
    sleep(PAUSE).await;
    Ok(())
}

/// Carries reports to the leader, one after another; what cannot be said in time is not worth saying.
async fn send_reports(road: Arc<Road>, mut queue: Receiver<Ask>) {
    while let Some(ask) = queue.recv().await {
        if let Err(error) = road.ask(&ask, now() + REPORT_AGE_MAX).await {
            tracing::warn!(?ask, %error, "a report did not reach the root's leader");
        }
    }
}

async fn send_heartbeats(rpc: Rpc, to: NodeId, pulse: Arc<impl Fn() -> Heartbeat + Send + Sync>) {
    let mut last: Option<(Instant, Vec<bool>)> = None;
    loop {
        let heartbeat = pulse();
        let closed: Vec<bool> = heartbeat.drives.iter().map(|drive| drive.closed.is_some()).collect();
        let due = last.as_ref().is_none_or(|(sent, said)| *said != closed || now().saturating_duration_since(*sent) >= limits::HEARTBEAT);
        if due {
            let sent = now();
            let meta = Bytes::from(wire::encode(&heartbeat));
            let deadline = sent + limits::HEARTBEAT;
            match rpc.call(to, Class::Control, HEARTBEAT, 0, meta, Vec::new(), deadline).await {
                Ok(_) => last = Some((sent, closed)),
                // Said to nobody: the change is said again.
                Err(error) => tracing::debug!(%to, %error, "a heartbeat was lost"),
            }
        }
        sleep(PULSE).await;
    }
}
