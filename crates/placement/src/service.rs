//! What the root group's leader does beside its state machine: heartbeats, reports, choosing drives.
//!
//! Everything here is soft state: it may be wrong or lost at any time. What it decides becomes true only as a
//! command, judged again by the state machine; two who both believe that they lead harm nobody.

use crate::changes::Changes;
use crate::commands::{Answer, Command, Query, Reply};
use crate::leader::{ASK, Ask, HEARTBEAT, Refusal, SERVICE, Told, WATCH, error_of};
use crate::open_volumes::{Decision, OpenVolumes};
use crate::pushing;
use crate::replacing::replace_lost;
use crate::root::time::agree;
use crate::watch::{Spent, TICK_MAX, Watch};
use crate::{Allocator, Bootstrap, Error, Health, Heartbeat};
use bytes::Bytes;
use consensus::Host;
use protocol::{ClusterMap, DriveId, GroupId, NodeId, ROOT, ReplicaId, Volume, VolumeId, wire};
use runtime::planted;
use runtime::rpc::{Reply as RpcReply, Request, Rpc};
use runtime::sync::Notify;
use runtime::task::Task;
use runtime::time::{Instant, now, sleep, timeout_at};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

/// Interval at which the leader counts silence and looks for work.
const TICK: Duration = Duration::from_millis(500);
/// The list of unsealed volumes is fetched again when somebody asks and it is as old as this.
const REFRESH: Duration = Duration::from_secs(1);
/// And when it is as old as this, though nobody asks: all changes pass through the leader, so an idle one may be idle.
const REFRESH_IDLE: Duration = Duration::from_secs(30);
/// The longest that the leader waits for its own group in its own work.
const WORK: Duration = Duration::from_secs(2);
/// The longest that a writer waits for another volume to be entered while it could have one that is open.
const WIDEN: Duration = Duration::from_secs(1);
/// The leader brings cluster time forward so often, by its own ticks.
pub const MARK_EVERY: Duration = Duration::from_secs(10);
/// Seals proposed at a time.
const SEALS_AT_ONCE: usize = 16;
/// Longest reason of a report that is kept.
const REASON_BYTES_MAX: usize = 200;

/// Runs on every node; acts only while a replica of the root group on it leads.
pub struct Service {
    _inner: Arc<Inner>,
    _work: Vec<Task<()>>,
}

pub(crate) struct Inner {
    host: Arc<Host>,
    pub groups: consensus::Client,
    /// As this node was configured; the stored one, once read, is the truth.
    configured: Bootstrap,
    /// What watchers are told.
    pub changes: Changes,
    state: Mutex<State>,
    /// Held while a volume is being entered, so that a crowd of writers enters one and not one each.
    entering: runtime::sync::Mutex<()>,
    /// There is something to seal.
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// The term of our leadership to which the soft state belongs.
    term: Option<u64>,
    founded: Option<Arc<Founded>>,
    watch: Watch,
    volumes: OpenVolumes,
    refreshed: Option<Instant>,
    /// The difference between configuration and state was logged in this term.
    complained: bool,
    /// At the last mark no majority of the clocks agreed.
    time_held: bool,
}

/// The stored cluster and what follows from it.
struct Founded {
    bootstrap: Bootstrap,
    allocator: Allocator,
}

impl Service {
    /// Register the placement methods (service 3) with `rpc` and run. Proposes `bootstrap` once if the root
    /// group is empty; panics never, and logs loudly if the stored cluster differs from it. `changes` are fed by the root
    /// group's replicas on this node.
    pub fn start(rpc: Rpc, host: Arc<Host>, bootstrap: Bootstrap, changes: Changes) -> Service {
        let inner = Arc::new(Inner {
            groups: host.client(),
            host,
            configured: bootstrap,
            changes: changes.clone(),
            state: Mutex::default(),
            entering: runtime::sync::Mutex::new(()),
            wake: Notify::new(),
        });
        // Weak: the registry outlives this service, and must not keep it and its host alive.
        let weak: Weak<Inner> = Arc::downgrade(&inner);
        rpc.register(
            SERVICE,
            Arc::new(move |request| {
                let (weak, changes) = (weak.clone(), changes.clone());
                Box::pin(async move {
                    if request.method == WATCH {
                        return encoded(&pushing::serve(&weak, &changes, &request).await);
                    }
                    match weak.upgrade() {
                        Some(inner) => inner.serve(request).await,
                        None => refuse(Refusal::NotLeader { hint: None }),
                    }
                })
            }),
        );
        let work = vec![runtime::task::spawn(work(inner.clone())), runtime::task::spawn(replace_lost(inner.clone()))];
        Service { _inner: inner, _work: work }
    }
}

/// Count silence, found the cluster, keep the list of volumes, seal: while leading.
async fn work(inner: Arc<Inner>) {
    let mut last = now();
    // Since the last mark, or since this node leads: leaders that follow one another fast bring time no further than one.
    let mut led = Duration::ZERO;
    loop {
        runtime::select! {
            _ = inner.wake.notified() => {}
            _ = sleep(TICK) => {}
        }
        let elapsed = now().saturating_duration_since(last);
        last = now();
        let former = inner.state().term;
        let Some(term) = inner.lead() else { continue };
        if former == Some(term) {
            // Only time led in this term counts, and of a pause no more than a tick.
            inner.state().watch.tick(elapsed);
            led += elapsed.min(TICK_MAX);
        } else {
            led = Duration::ZERO;
        }
        if let Err(error) = inner.prepare_within(REFRESH_IDLE, now() + WORK).await {
            tracing::debug!(%error, "the root's leader cannot read its group yet");
            continue;
        }
        inner.seal_what_failed().await;
        if led >= MARK_EVERY {
            led = Duration::ZERO;
            inner.mark_time().await;
        }
    }
}

impl Inner {
    async fn serve(&self, request: Request) -> RpcReply {
        let answer = match request.method {
            HEARTBEAT => self.heartbeat(&request),
            ASK => match wire::decode::<Ask>(&request.meta) {
                Ok(ask) => self.answer(ask, request.deadline).await,
                Err(error) => Err(Refusal::Failed(Error::Malformed(error.to_string()))),
            },
            other => Err(Refusal::Failed(Error::Malformed(format!("no method {:#06x}", other.0)))),
        };
        encoded(&answer)
    }

    /// Taken also by those who do not lead: the next leader then knows of closed drives at once.
    fn heartbeat(&self, request: &Request) -> Result<Told, Refusal> {
        let heartbeat: Heartbeat = wire::decode(&request.meta).map_err(|error| Refusal::Failed(Error::Malformed(error.to_string())))?;
        if heartbeat.node != request.from {
            let why = format!("node {} sent a heartbeat as node {}", request.from, heartbeat.node);
            return Err(Refusal::Failed(Error::Refused(why)));
        }
        let mut state = self.state();
        let founded = state.founded.clone();
        let map = founded.as_ref().map_or(&self.configured.map, |founded| &founded.bootstrap.map);
        if state.watch.heard(map, heartbeat) {
            self.wake.notify_one();
        }
        Ok(Told::Done)
    }

    /// Say who leads instead, unless this node does.
    pub fn refuse_unless_leading(&self) -> Result<(), Refusal> {
        if self.lead().is_some() { Ok(()) } else { Err(Refusal::NotLeader { hint: self.hint() }) }
    }

    async fn answer(&self, ask: Ask, deadline: Instant) -> Result<Told, Refusal> {
        self.refuse_unless_leading()?;
        match ask {
            Ask::Volumes { avoid } => self.volumes(&avoid, deadline).await.map(Told::Volumes),
            Ask::Built { volume } => self.built(volume, deadline).await.map(Told::Volume),
            Ask::Slot { volume, epoch, slot, reason } => self.prepare(deadline).await.map(|()| {
                let reason: String = reason.chars().take(REASON_BYTES_MAX).collect();
                if self.state().volumes.report(volume, epoch, &format!("slot {slot}: {reason}")) {
                    self.wake.notify_one();
                }
                Told::Done
            }),
            Ask::Unreachable { node } => {
                runtime::probe!("placement: a gateway reported an unreachable node");
                self.state().watch.unreachable(node);
                Ok(Told::Done)
            }
            Ask::Health => self.prepare(deadline).await.map(|()| Told::Health(self.health())),
        }
        .map_err(Refusal::Failed)
    }

    /// Volumes for a writer: open ones, or one to build.
    async fn volumes(&self, avoid: &[DriveId], deadline: Instant) -> Result<Vec<Volume>, Error> {
        self.prepare(deadline).await?;
        let avoid: BTreeSet<DriveId> = avoid.iter().take(crate::root::map::DRIVES_MAX).copied().collect();
        if let (Decision::Hand(volumes), _) = self.decide(&avoid)? {
            return Ok(volumes);
        }
        let _turn = timeout_at(deadline, self.entering.lock()).await.map_err(|_| Error::Busy)?;
        // Another may have entered one while this one waited.
        let (choice, slots, meanwhile) = match self.decide(&avoid)? {
            (Decision::Hand(volumes), _) => return Ok(volumes),
            (Decision::Create { choice, slots }, meanwhile) => (choice, slots, meanwhile),
        };
        let limit = if meanwhile.is_empty() { deadline } else { deadline.min(now() + WIDEN) };
        let command = Command::CreateVolume { scheme: choice.scheme, slots, at_risk: choice.at_risk };
        match self.propose(command, limit).await {
            Ok((revision, Reply::Volume(volume))) => {
                tracing::info!(volume = %volume.id, scheme = %volume.scheme, at_risk = volume.at_risk, "entered a volume");
                self.state().volumes.learn(revision, volume.clone());
                Ok(vec![volume])
            }
            Ok((_, other)) => Err(unexpected(&other)),
            Err(error) => {
                // It may have been entered all the same: look before deciding again.
                self.state().refreshed = None;
                if meanwhile.is_empty() { Err(error) } else { Ok(meanwhile) }
            }
        }
    }

    /// The decision, and the open volumes that would do if nothing can be created now.
    fn decide(&self, avoid: &BTreeSet<DriveId>) -> Result<(Decision, Vec<Volume>), Error> {
        let mut state = self.state();
        let founded = state.founded.clone().ok_or_else(|| Error::Unavailable("the cluster is not founded yet".into()))?;
        let unusable = state.watch.unusable(&founded.bootstrap.map);
        state.volumes.decide(&founded.bootstrap, &founded.allocator, &unusable, avoid)
    }

    async fn built(&self, volume: VolumeId, deadline: Instant) -> Result<Volume, Error> {
        match self.propose(Command::VolumeBuilt { volume }, deadline).await? {
            (revision, Reply::Volume(volume)) => {
                self.state().volumes.learn(revision, volume.clone());
                Ok(volume)
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Seal volumes with a failed slot or a closed drive. Those that fail to be sealed are tried again with the next tick.
    async fn seal_what_failed(&self) {
        let seals = {
            let mut state = self.state();
            let closed = state.watch.closed();
            state.volumes.close_drives(&closed);
            state.volumes.seals(SEALS_AT_ONCE)
        };
        let more = seals.len() == SEALS_AT_ONCE;
        let deadline = now() + WORK;
        let done = futures::future::join_all(seals.into_iter().map(async |(volume, epoch, why)| {
            match self.propose(Command::SealVolume { volume, epoch }, deadline).await {
                Ok((revision, Reply::Volume(sealed))) => {
                    runtime::probe!("placement: a volume was sealed");
                    tracing::warn!(%volume, epoch = %sealed.epoch, %why, "sealed a volume");
                    self.state().volumes.learn(revision, sealed);
                    true
                }
                Ok((_, other)) => {
                    tracing::error!(%volume, ?other, "unexpected reply to a seal");
                    false
                }
                Err(error) => {
                    tracing::warn!(%volume, %error, "could not seal a volume; trying again");
                    false
                }
            }
        }))
        .await;
        if more && done.into_iter().all(|done| done) {
            self.wake.notify_one();
        }
    }

    /// Bring cluster time forward to what the voters' clocks show. Their readings go as they came: how old they are nobody could
    /// say but this node's clock, which is one of them.
    async fn mark_time(&self) {
        let Ok(members) = self.groups.known(ROOT) else { return };
        let clocks: Vec<(ReplicaId, Option<u64>)> = {
            let state = self.state();
            let own = planted("cluster-time-by-the-leaders-clock").then(runtime::time::wall_ms);
            members.voters.iter().map(|voter| (voter.replica, own.or(state.watch.clock_ms(voter.node)))).collect()
        };
        let held = !agree(&clocks.iter().map(|(_, shown)| *shown).collect::<Vec<_>>());
        if held && !std::mem::replace(&mut self.state().time_held, held) {
            tracing::error!(
                ?clocks,
                "no majority of the root voters' clocks agrees: cluster time stands, and nothing expires; set them right"
            );
        }
        self.state().time_held = held;
        if let Err(error) = self.propose(Command::MarkTime { clocks }, now() + WORK).await {
            tracing::debug!(%error, "cluster time was not brought forward");
        }
    }

    fn health(&self) -> Health {
        let state = self.state();
        Health {
            suspected_nodes: state.watch.suspected().into_keys().collect(),
            closed_drives: state.watch.closed(),
            cluster_time_held: state.time_held,
            volumes_open: state.volumes.open(),
            volumes_sealed: state.volumes.sealed,
            volumes_at_risk: state.volumes.at_risk,
        }
    }

    /// The term in which this node leads the root group. What was believed in an earlier one is forgotten first.
    fn lead(&self) -> Option<u64> {
        let term = self.host.leads(ROOT);
        let mut state = self.state();
        if term != state.term {
            state.term = term;
            // Watchers go to whoever leads now.
            self.changes.wake();
            if let Some(term) = term {
                tracing::info!(term, "this node leads the root group");
                let founded = state.founded.clone();
                let map = founded.as_ref().map_or(&self.configured.map, |founded| &founded.bootstrap.map);
                state.watch.begin_term(map);
                state.volumes = OpenVolumes::default();
                state.refreshed = None;
                (state.complained, state.time_held) = (false, false);
            }
        }
        term
    }

    /// Who leads, as far as the replica here knows.
    fn hint(&self) -> Option<NodeId> {
        let root = self.host.status().into_iter().find(|replica| replica.group == ROOT)?;
        Some(self.groups.known(ROOT).ok()?.place(root.leader?)?.node)
    }

    /// Have the stored cluster and a list of volumes that is not too old for an answer.
    async fn prepare(&self, deadline: Instant) -> Result<(), Error> {
        self.prepare_within(REFRESH, deadline).await
    }

    async fn prepare_within(&self, age_max: Duration, deadline: Instant) -> Result<(), Error> {
        let (founded, refreshed) = {
            let state = self.state();
            (state.founded.is_some(), state.refreshed)
        };
        if !founded {
            self.found(deadline).await?;
        }
        if refreshed.is_some_and(|at| now().saturating_duration_since(at) < age_max) {
            return Ok(());
        }
        let asked = now();
        match self.read(Query::Unsealed, deadline).await {
            Ok((revision, Reply::Unsealed(unsealed))) => {
                let mut state = self.state();
                state.volumes.refresh(revision, unsealed);
                state.refreshed = Some(asked);
                Ok(())
            }
            Ok((_, other)) => Err(unexpected(&other)),
            // A list that was once fetched in this term is better than nothing.
            Err(_) if refreshed.is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Read the stored cluster; found it if there is none.
    async fn found(&self, deadline: Instant) -> Result<(), Error> {
        let stored = match self.read(Query::Bootstrap, deadline).await? {
            (_, Reply::Bootstrap(Some(stored))) => stored,
            (_, Reply::Bootstrap(None)) => {
                let founded = self.propose(Command::Bootstrap(self.configured.clone()), deadline).await;
                if let Err(Error::Refused(why)) = &founded {
                    self.complain(|| tracing::error!(%why, "the cluster cannot be founded as configured"));
                }
                founded?;
                tracing::info!(cluster = %self.configured.map.cluster, scheme = %self.configured.scheme, "founded the cluster");
                // Two leaders may have founded it, with one result: read which.
                match self.read(Query::Bootstrap, deadline).await? {
                    (_, Reply::Bootstrap(Some(stored))) => stored,
                    (_, other) => return Err(unexpected(&other)),
                }
            }
            (_, other) => return Err(unexpected(&other)),
        };
        let differences = stored.differences(&self.configured);
        if !differences.is_empty() {
            let differences = differences.join("; ");
            self.complain(|| tracing::error!(%differences, "the configuration differs from the stored cluster, which stands"));
        }
        let allocator = Allocator::new(&stored.map);
        self.state().founded = Some(Arc::new(Founded { bootstrap: stored, allocator }));
        Ok(())
    }

    /// Replicas that nothing heals, as their nodes said.
    pub fn spent(&self) -> Spent {
        self.state().watch.spent()
    }

    /// Groups that were founded anew, as nodes with a replica of them say: the latest era, and by which node's word.
    pub fn refounded(&self) -> BTreeMap<GroupId, (u64, NodeId)> {
        self.state().watch.refounded()
    }

    /// Whether the node is not heard, as far as is believed here.
    pub fn is_silent(&self, node: NodeId) -> bool {
        self.state().watch.suspected().contains_key(&node)
    }

    /// The term in which this node leads the root group, as its replica has it.
    pub fn term(&self) -> Option<u64> {
        self.host.leads(ROOT)
    }

    /// Do with the stored map and the drives that get no new replicas, as far as is believed here.
    pub fn with_unusable<T>(&self, choose: impl FnOnce(&ClusterMap, &BTreeSet<DriveId>) -> T) -> Result<T, Error> {
        let state = self.state();
        let founded = state.founded.as_ref().ok_or_else(|| Error::Unavailable("the cluster is not founded yet".into()))?;
        let map = &founded.bootstrap.map;
        let unusable = state.watch.unusable(map).into_keys().chain(state.watch.spent().drives()).collect();
        Ok(choose(map, &unusable))
    }

    /// Whether the drive gets no new replicas, as far as is believed here.
    pub fn is_barred(&self, drive: DriveId) -> bool {
        self.with_unusable(|_, unusable| unusable.contains(&drive)).unwrap_or(false)
    }

    /// Log once a term.
    fn complain(&self, log: impl FnOnce()) {
        if !std::mem::replace(&mut self.state().complained, true) {
            log();
        }
    }

    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<(u64, Reply), Error> {
        // Without a session: a command of the leader that is applied late changes nothing or enters a spare volume.
        let answer = self.groups.propose(ROOT, None, Bytes::from(wire::encode(&command)), deadline).await;
        decoded(&answer.map_err(error_of)?)
    }

    pub async fn read(&self, query: Query, deadline: Instant) -> Result<(u64, Reply), Error> {
        decoded(&self.groups.read(ROOT, Bytes::from(wire::encode(&query)), deadline).await.map_err(error_of)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

/// The revision and the reply of an answer, or its error.
pub(crate) fn decoded(answer: &[u8]) -> Result<(u64, Reply), Error> {
    let answer: Answer = wire::decode(answer).map_err(|error| Error::Malformed(error.to_string()))?;
    Ok((answer.revision, answer.result?))
}

/// The answer to a command, which was applied, whatever it did: one that this program cannot read is no refusal.
pub(crate) fn applied(answer: &[u8]) -> Result<(u64, Reply), Error> {
    let answer: Answer = wire::decode(answer).map_err(|error| Error::Unknown(error.to_string()))?;
    Ok((answer.revision, answer.result?))
}

/// A command was applied, and its reply is of another kind than this program knows.
pub(crate) fn applied_somehow(reply: &Reply) -> Error {
    Error::Unknown(format!("unexpected reply {reply:?}"))
}

pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::Malformed(format!("unexpected reply {reply:?}"))
}

fn refuse(refusal: Refusal) -> RpcReply {
    encoded(&Err(refusal))
}

fn encoded(answer: &Result<Told, Refusal>) -> RpcReply {
    RpcReply { meta: Bytes::from(wire::encode(answer)), body: Vec::new() }
}
