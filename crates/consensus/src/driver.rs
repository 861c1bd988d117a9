//! The one task that drives all replicas of one drive.
//!
//! Each turn takes what came in (messages, proposals, reads, ticks, finished jobs), lets Raft look at it, and passes on
//! what Raft wants done. The order that everything rests on stands in this file alone:
//!
//! 1. **persist**: entries, votes and terms of all replicas go into one batch ([`Driver::write_batch`]), one write and
//!    one sync, while the loop goes on taking input for the next batch;
//! 2. **send**: what Raft wants sent after persisting leaves in [`Driver::batch_durable`], never before;
//! 3. **apply**: entries that are committed and durable here are applied by a job ([`Driver::start_jobs`]);
//! 4. **acknowledge**: proposers and readers are answered in [`Driver::entries_applied`], after the transaction.
//!
//! Installing a snapshot: new state file synced, then the manifest, then the log is reset, then Raft may answer
//! ([`Driver::switched`]). Cutting the log: checkpoint durable, then the new start in the log, then segments go
//! ([`Driver::checkpointed`]).

use crate::host::{ReplicaStatus, Switchboard};
use crate::log::{Hard, Key, Log, Record, Start};
use crate::manifest::{Manifest, state_name};
use crate::replica::{Fetched, Query, Replica, Switching, Waiter, Waiting};
use crate::snapshot::{self, Target};
use crate::state::{Applied, Error, Meta, State, catching};
use crate::wire::{self, Answer, Frame, Note, SnapshotOffer};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use protocol::{DriveId, NodeId, ReplicaId};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{ProgressState, SnapshotStatus};
use runtime::disk::{self, Disk};
use runtime::probe::waypoint;
use runtime::sync::{Receiver, oneshot};
use runtime::time::{self, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Inputs taken in one turn at most.
const INPUTS_MAX: usize = 256;
/// Bytes taken in one turn, and bytes of a batch that waits, beyond which no more input is taken.
const TURN_BYTES_MAX: usize = 4 << 20;
/// Bytes of committed entries that wait to be applied, beyond which appended entries are not taken (Raft resends).
const APPLY_BYTES_MAX: usize = 32 << 20;
/// Bytes of entries given to one apply job.
const APPLY_JOB_BYTES: usize = 2 << 20;
/// Bytes of entries in one frame to another node, about.
const FRAME_BYTES: usize = 1 << 20;
/// The longest that leadership is waited to be taken over at a shutdown.
const HANDOVER_WAIT: Duration = Duration::from_millis(1500);
/// Silence after which a follower is taken to have given up on an offered snapshot.
const OFFER_SILENCE: Duration = Duration::from_secs(10);

/// What comes to a driver from outside.
pub(crate) enum Input {
    Message {
        key: Key,
        message: Message,
    },
    Note(Note),
    Propose {
        key: Key,
        data: Vec<u8>,
        waiter: Waiter,
    },
    Read {
        key: Key,
        query: Query,
    },
    /// Hand leadership to whoever has most of the log.
    Transfer {
        key: Key,
    },
    ShutDown {
        done: oneshot::Sender<()>,
    },
}

/// A finished job.
enum Done {
    Logged { log: Box<Log>, batch: u64, result: Result<(), crate::host::Error> },
    Applied { key: Key, result: Result<Applied, Error> },
    Checkpointed { key: Key, result: Result<Meta, Error> },
    Frozen { key: Key, result: Result<SnapshotOffer, Error> },
    Fetched { key: Key, message: Box<Message>, file: u64, result: Result<State, Error> },
    Switched { key: Key, result: Result<(), runtime::disk::Error> },
    Queried { key: Key, result: Result<(), Error> },
    Removed,
}

/// A replica that does not run: its entries still have to be kept in the log.
pub(crate) struct Stopped {
    pub start: Start,
    pub damaged: bool,
    pub entries: Vec<Entry>,
}

#[derive(Default)]
struct Outgoing {
    frame: Frame,
    body: Vec<Bytes>,
    bytes: usize,
}

pub(crate) struct Driver {
    shared: Arc<Switchboard>,
    drive: DriveId,
    disk: Arc<dyn Disk>,
    inbox: Receiver<Input>,
    replicas: BTreeMap<Key, Replica>,
    stopped: BTreeMap<Key, Stopped>,
    /// `None` while a batch is being written.
    log: Option<Box<Log>>,
    /// The batch that is being gathered, by replica; its number; whether somebody waits for it.
    forming: BTreeMap<Key, Record>,
    forward: Vec<Record>,
    forming_bytes: usize,
    batch: u64,
    urgent: bool,
    /// A term or vote is in the batch that is being gathered.
    votes: bool,
    durable_batch: u64,
    dirty: BTreeSet<Key>,
    outgoing: BTreeMap<NodeId, Outgoing>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    next_tick: Instant,
    ticks: u64,
    closing: Option<(Instant, oneshot::Sender<()>)>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Switchboard>,
        drive: DriveId,
        disk: Arc<dyn Disk>,
        inbox: Receiver<Input>,
        log: Log,
        replicas: Vec<Replica>,
        stopped: BTreeMap<Key, Stopped>,
    ) -> Driver {
        let replicas: BTreeMap<Key, Replica> = replicas.into_iter().map(|replica| (replica.key, replica)).collect();
        Driver {
            drive,
            disk,
            inbox,
            dirty: replicas.keys().copied().collect(),
            replicas,
            stopped,
            log: Some(Box::new(log)),
            forming: BTreeMap::new(),
            forward: Vec::new(),
            forming_bytes: 0,
            batch: 1,
            urgent: false,
            votes: false,
            durable_batch: 0,
            outgoing: BTreeMap::new(),
            jobs: FuturesUnordered::new(),
            next_tick: time::now() + shared.settings.tick,
            ticks: 0,
            closing: None,
            shared,
        }
    }

    /// Drive until told to shut down.
    pub(crate) async fn run(mut self) {
        // A group with one voter need not wait for silence before it elects itself.
        for replica in self.replicas.values_mut().filter(|replica| replica.spec.voters.len() == 1) {
            let _ = replica.raw.campaign();
        }
        self.turn();
        loop {
            // Taking more input while the next batch is full would only grow memory.
            let room = self.forming_bytes < TURN_BYTES_MAX;
            runtime::select! {
                () = time::sleep_until(self.next_tick) => self.tick(),
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.finished(done),
                input = self.inbox.recv(), if room => match input {
                    Some(input) => self.take_all(input),
                    None => return,
                },
            }
            self.turn();
            if self.closing.is_some() && self.may_close() {
                return self.close().await;
            }
        }
    }

    fn take_all(&mut self, first: Input) {
        let mut bytes = self.take(first);
        for _ in 1..INPUTS_MAX {
            if bytes >= TURN_BYTES_MAX {
                break;
            }
            let Ok(input) = self.inbox.try_recv() else { break };
            bytes += self.take(input);
        }
    }

    fn take(&mut self, input: Input) -> usize {
        match input {
            Input::Message { key, message } => {
                let bytes = message.entries.iter().map(|entry| entry.data.len()).sum();
                self.message(key, message);
                bytes
            }
            Input::Note(note) => {
                self.note(note);
                0
            }
            Input::Propose { key, data, waiter } => {
                let bytes = data.len();
                let closing = self.closing.is_some();
                match self.replicas.get_mut(&key) {
                    Some(_) if closing => {
                        let _ = waiter.send((Answer::NotLeader { leader: None }, Bytes::new()));
                    }
                    Some(replica) => {
                        replica.propose(data, waiter);
                        self.dirty.insert(key);
                    }
                    None => {
                        let _ = waiter.send((Answer::NoReplica, Bytes::new()));
                    }
                }
                bytes
            }
            Input::Read { key, query } => {
                match self.replicas.get_mut(&key) {
                    Some(replica) => {
                        replica.read(query);
                        self.dirty.insert(key);
                    }
                    None => {
                        let _ = query.waiter.send((Answer::NoReplica, Bytes::new()));
                    }
                }
                0
            }
            Input::Transfer { key } => {
                if let Some(replica) = self.replicas.get_mut(&key).filter(|replica| replica.leads())
                    && let Some(successor) = replica.successor()
                {
                    replica.raw.transfer_leader(successor);
                    self.dirty.insert(key);
                }
                0
            }
            Input::ShutDown { done } => {
                for replica in self.replicas.values_mut().filter(|replica| replica.leads()) {
                    if let Some(successor) = replica.successor() {
                        replica.raw.transfer_leader(successor);
                    }
                    self.dirty.insert(replica.key);
                }
                self.closing = Some((time::now() + HANDOVER_WAIT, done));
                0
            }
        }
    }

    /// Let Raft see a message, unless it would trip over it.
    fn message(&mut self, key: Key, message: Message) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        if message.to != key.replica.0 || !replica.spec.voters.iter().any(|voter| voter.replica.0 == message.from) {
            return;
        }
        let log = &replica.raw.raft.raft_log;
        match message.get_msg_type() {
            MessageType::MsgHeartbeat if message.term >= replica.raw.raft.term && message.commit > log.last_index() => {
                // The leader counts entries as acknowledged by this replica which it does not have.
                let reason = format!("acknowledged entries up to {} are missing, the log ends at {}", message.commit, log.last_index());
                self.stop(key, &reason, true);
                return;
            }
            MessageType::MsgAppend if replica.apply_bytes > APPLY_BYTES_MAX => {
                runtime::probe!("consensus-append-refused-while-applying");
                return;
            }
            MessageType::MsgSnapshot => {
                self.fetch(key, message);
                return;
            }
            _ => {}
        }
        // Refusals are Raft's business: unknown peers, old terms.
        let _ = replica.raw.step(message);
        self.dirty.insert(key);
    }

    fn note(&mut self, note: Note) {
        let key = note.to();
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        match note {
            Note::Hash { from, index, hash, .. } => {
                replica.heard.entry(index).or_default().insert(from, hash);
                self.compare(key);
            }
            Note::SnapshotFailed { from, .. } => {
                replica.offered.remove(&from.0);
                replica.raw.report_snapshot(from.0, SnapshotStatus::Failure);
                self.dirty.insert(key);
            }
        }
    }

    fn compare(&mut self, key: Key) {
        if self.replicas.get_mut(&key).is_some_and(Replica::compare) {
            self.stop(key, "its state differs from that of a majority of its group", true);
        }
    }

    fn tick(&mut self) {
        let now = time::now();
        // After a pause the missed ticks are not made up for: they would depose leaders that nobody missed.
        self.next_tick = (self.next_tick + self.shared.settings.tick).max(now);
        self.ticks += 1;
        for replica in self.replicas.values_mut() {
            replica.tick_reads();
            if replica.raw.tick() {
                self.dirty.insert(replica.key);
            }
            let dead: Vec<u64> = replica
                .offered
                .iter()
                .filter(|(peer, at)| {
                    let progress = replica.raw.raft.prs().get(**peer);
                    let waits = progress.is_some_and(|progress| progress.state == ProgressState::Snapshot);
                    let token = replica.raw.store().offer.as_ref().map(|offer| offer.token);
                    let idle = token.and_then(|token| self.shared.offers.idle(token)).unwrap_or(Duration::MAX);
                    !waits || now.saturating_duration_since(**at).min(idle) > OFFER_SILENCE
                })
                .map(|(peer, _)| *peer)
                .collect();
            for peer in dead {
                replica.offered.remove(&peer);
                replica.raw.report_snapshot(peer, SnapshotStatus::Failure);
                self.dirty.insert(replica.key);
            }
            let gone = replica.raw.store().offer.as_ref().is_some_and(|offer| self.shared.offers.idle(offer.token).is_none());
            if gone {
                replica.raw.mut_store().offer = None;
            }
            if !replica.waiting.is_empty() || replica.raw.has_ready() {
                self.dirty.insert(replica.key);
            }
        }
        if self.ticks.is_multiple_of(10) {
            self.shared.offers.expire(self.shared.settings.snapshot_idle);
            self.relieve(now);
        }
    }

    /// Bound what grows: memory and drive space of the log, and the time until a state is durable.
    fn relieve(&mut self, now: Instant) {
        let settings = &self.shared.settings;
        let crowded = self.log.as_ref().is_some_and(|log| log.segments() > settings.segments_max);
        let pinning = if crowded { self.log.as_ref().map(|log| log.pinned_by()).unwrap_or_default() } else { Vec::new() };
        let total: usize = self.replicas.values().map(|replica| replica.raw.store().bytes()).sum();
        let largest = self.replicas.values().filter(|replica| replica.applied > replica.raw.store().start.index);
        let largest = largest.max_by_key(|replica| replica.raw.store().bytes()).map(|replica| replica.key);
        for replica in self.replicas.values_mut() {
            let old = replica.dirty_since.is_some_and(|since| now.saturating_duration_since(since) >= settings.checkpoint_after);
            let full = replica.applied_bytes >= settings.checkpoint_bytes;
            let heavy = total > settings.log_memory_bytes && largest == Some(replica.key);
            let pins = pinning.contains(&replica.key);
            let ahead = replica.applied > replica.durable;
            if old || full || (heavy && ahead) || (pins && ahead) {
                replica.checkpoint_wanted = true;
                self.dirty.insert(replica.key);
            } else if pins && replica.switching.is_none() {
                runtime::probe!("consensus-log-tail-written-forward");
                let store = replica.raw.mut_store();
                let start = store.cut(replica.durable, 0);
                let record = record_of(&mut self.forming, replica.key);
                record.start = start.or(record.start);
                record.entries = store.iter().cloned().collect();
                self.forming_bytes += store.bytes();
                self.urgent = true;
            }
        }
        for key in pinning {
            if let Some(stopped) = self.stopped.get(&key) {
                self.forward.extend(stopped.records(key));
                self.urgent = true;
            }
        }
    }

    /// What Raft wants done, for every replica that something happened to; then the next batch, and the frames.
    fn turn(&mut self) {
        if let Some(reason) = self.disk.closed()
            && !self.replicas.is_empty()
        {
            self.stop_all(&reason);
        }
        for key in std::mem::take(&mut self.dirty) {
            self.ready(key);
            self.start_jobs(key);
            self.publish(key);
        }
        self.write_batch();
        for node in self.outgoing.keys().copied().collect::<Vec<_>>() {
            self.flush(node);
        }
    }

    fn ready(&mut self, key: Key) {
        let mut messages = Vec::new();
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        if replica.switching.is_none() {
            replica.issue_reads();
        }
        // While a snapshot is switched to, Raft waits: what follows must not reach the log before the log is reset.
        while replica.switching.is_none() && replica.raw.has_ready() {
            let mut ready = replica.raw.ready();
            if ready.ss().is_some_and(|soft| soft.raft_state != raft::StateRole::Leader) {
                replica.forget_proposals();
                replica.offered.clear();
            }
            let sync = ready.must_sync();
            let number = ready.number();
            let hard = ready.hs().map(|hard| Hard { term: hard.term, vote: hard.vote, commit: hard.commit });
            // A leader need not wait for its own drive before the others hear of an entry; all else does.
            messages.extend(ready.take_messages());
            let persisted = ready.take_persisted_messages();
            for state in ready.take_read_states() {
                replica.read_index(&state.request_ctx, state.index);
            }
            for entry in ready.take_committed_entries() {
                replica.apply_bytes += entry.data.len();
                replica.apply.push_back(entry);
            }
            let entries = ready.take_entries();
            let store = replica.raw.mut_store();
            if let Some(hard) = hard {
                self.votes |= (hard.term, hard.vote) != (store.hard.term, store.hard.vote);
                store.hard = hard;
            }
            if !ready.snapshot().is_empty() {
                let metadata = ready.snapshot().get_metadata();
                let start = Start { index: metadata.index, term: metadata.term };
                store.reset(start, metadata.get_conf_state().voters.clone());
                store.append(&entries);
                replica.raw.advance_append_async(ready);
                let fetched = replica.fetched.take();
                assert!(fetched.is_some(), "Raft sees an offer only after its rows were fetched");
                replica.apply.clear();
                replica.apply_bytes = 0;
                replica.switching = Some(Switching { number, start, hard, entries, messages: persisted, fetched });
                break;
            }
            store.append(&entries);
            replica.raw.advance_append_async(ready);
            if hard.is_some() || !entries.is_empty() {
                let record = record_of(&mut self.forming, key);
                if !runtime::planted("vote-not-persisted") {
                    record.hard = hard.or(record.hard);
                }
                self.forming_bytes += append_to(record, entries);
            }
            self.urgent |= sync;
            if !sync && replica.waiting.is_empty() {
                // Nothing new to persist, and nothing before it under way: it may go at once.
                replica.raw.on_persist_ready(number);
                messages.extend(persisted);
            } else {
                let before = replica.waiting.back().map_or(0, |waiting| waiting.batch);
                let batch = if sync { self.batch } else { before };
                replica.waiting.push_back(Waiting { number, batch, messages: persisted, snapshot: None });
            }
        }
        self.send(key, messages);
    }

    /// Persist: everything gathered goes in one write and one sync. Meanwhile the next batch is gathered.
    fn write_batch(&mut self) {
        if !self.urgent {
            return;
        }
        let Some(mut log) = self.log.take() else { return };
        let mut records: Vec<Record> = std::mem::take(&mut self.forward);
        records.extend(std::mem::take(&mut self.forming).into_values());
        self.forming_bytes = 0;
        self.urgent = false;
        let votes = std::mem::take(&mut self.votes);
        let batch = self.batch;
        self.batch += 1;
        let disk = self.disk.clone();
        self.jobs.push(Box::pin(async move {
            if votes {
                waypoint("consensus-before-vote").await;
            }
            let done = disk::run(&disk, move || {
                let result = log.write(&records);
                Done::Logged { log, batch, result }
            })
            .await;
            waypoint(if votes { "consensus-vote-durable" } else { "consensus-batch-durable" }).await;
            done
        }));
    }

    /// Send: a batch is durable, so Raft may count on it, and what waited for it may leave.
    fn batch_durable(&mut self) {
        let keys: Vec<Key> = self.replicas.keys().copied().collect();
        for key in keys {
            let Some(replica) = self.replicas.get_mut(&key) else { continue };
            let mut messages = Vec::new();
            while let Some(waiting) = replica.waiting.front()
                && waiting.batch <= self.durable_batch
            {
                let waiting = replica.waiting.pop_front().expect("it is the front");
                replica.raw.on_persist_ready(waiting.number);
                if let Some(index) = waiting.snapshot {
                    replica.raw.advance_apply_to(index);
                }
                messages.extend(waiting.messages);
                self.dirty.insert(key);
            }
            self.send(key, messages);
        }
    }

    /// Apply: start the next job on the state of a replica, if none is under way; and answer queries.
    fn start_jobs(&mut self, key: Key) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        let disk = self.disk.clone();
        let queries = replica.take_answerable();
        if !queries.is_empty() {
            let (state, machine) = (replica.state.clone(), replica.machine.clone());
            let run = disk.clone();
            self.jobs.push(Box::pin(async move {
                let result = disk::run(&run, move || catching(|| answer_queries(&state, machine.as_ref(), queries))).await;
                Done::Queried { key, result }
            }));
        }
        if replica.raw.store().take_wanted() && !replica.freezing {
            replica.freezing = true;
            let (state, shared, run) = (replica.state.clone(), self.shared.clone(), disk.clone());
            self.jobs.push(Box::pin(async move {
                let held = run.clone();
                let freeze = move || {
                    let frozen = state.freeze()?;
                    let (rows, hash) = frozen.digest()?;
                    Ok(shared.offers.add(held, frozen, rows, hash))
                };
                let result = disk::run(&run, move || catching(freeze));
                Done::Frozen { key, result: result.await }
            }));
        }
        if replica.job {
            return;
        }
        if let Some(switching) = &mut replica.switching {
            let Some(fetched) = switching.fetched.take() else { return };
            replica.job = true;
            let manifest = Manifest { drive: self.drive, key, file: fetched.file };
            let old = std::mem::replace(&mut replica.state, Arc::new(fetched.state));
            let old_name = state_name(key, std::mem::replace(&mut replica.file, fetched.file));
            self.jobs.push(Box::pin(async move {
                let run = disk.clone();
                waypoint("consensus-snapshot-before-manifest").await;
                let result = disk::run(&run, move || {
                    manifest.write(disk.as_ref())?;
                    // Readers may still hold it; its name can go, now or when the replica is opened next.
                    drop(old);
                    let _ = disk.remove(&old_name);
                    Ok(())
                })
                .await;
                waypoint("consensus-snapshot-before-log-reset").await;
                Done::Switched { key, result }
            }));
        } else if replica.checkpoint_wanted && replica.applied > replica.durable {
            replica.job = true;
            replica.checkpoint_wanted = false;
            let state = replica.state.clone();
            self.jobs.push(Box::pin(async move {
                waypoint("consensus-before-checkpoint").await;
                let result = disk::run(&disk, move || {
                    // The planted bug cuts behind what was applied, durable or not.
                    if runtime::planted("log-cut-before-checkpoint") { Ok(state.meta()) } else { catching(|| state.checkpoint()) }
                })
                .await;
                waypoint("consensus-checkpoint-before-log-cut").await;
                Done::Checkpointed { key, result }
            }));
        } else if !replica.apply.is_empty() {
            replica.job = true;
            let mut entries = Vec::new();
            let mut bytes = 0;
            while bytes < APPLY_JOB_BYTES
                && let Some(entry) = replica.apply.pop_front()
            {
                bytes += entry.data.len();
                entries.push(entry);
            }
            replica.apply_bytes -= bytes;
            let (state, machine) = (replica.state.clone(), replica.machine.clone());
            let leads = replica.leads();
            self.jobs.push(Box::pin(async move {
                let result = disk::run(&disk, move || catching(|| state.apply(machine.as_ref(), &entries))).await;
                if leads {
                    waypoint("consensus-leader-before-answer").await;
                }
                Done::Applied { key, result }
            }));
        }
    }

    fn finished(&mut self, done: Done) {
        match done {
            Done::Logged { log, batch, result } => {
                self.log = Some(log);
                match result {
                    Ok(()) => {
                        self.durable_batch = batch;
                        self.batch_durable();
                    }
                    Err(error) => self.stop_all(&error.to_string()),
                }
            }
            Done::Applied { key, result } => self.entries_applied(key, result),
            Done::Checkpointed { key, result } => self.checkpointed(key, result),
            Done::Frozen { key, result } => {
                let Some(replica) = self.replicas.get_mut(&key) else { return };
                replica.freezing = false;
                match result {
                    Ok(offer) => replica.raw.mut_store().offer = Some(offer),
                    Err(error) => self.stop(key, &error.to_string(), false),
                }
            }
            Done::Fetched { key, message, file, result } => self.fetched(key, *message, file, result),
            Done::Switched { key, result } => self.switched(key, result),
            Done::Queried { key, result } => {
                if let Err(error) = result {
                    self.stop(key, &error.to_string(), false);
                }
            }
            Done::Removed => {}
        }
    }

    /// Acknowledge: the transaction is committed, proposers and readers may know.
    fn entries_applied(&mut self, key: Key, result: Result<Applied, Error>) {
        let applied = match result {
            Ok(applied) => applied,
            Err(error) => return self.stop(key, &error.to_string(), false),
        };
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        replica.job = false;
        replica.applied = applied.meta.applied;
        replica.applied_bytes += applied.bytes;
        replica.dirty_since.get_or_insert_with(time::now);
        if replica.applied_bytes >= self.shared.settings.checkpoint_bytes {
            replica.checkpoint_wanted = true;
        }
        replica.raw.advance_apply_to(applied.meta.applied);
        replica.answer_applied(applied.answers, applied.meta.applied);
        self.dirty.insert(key);
        let Some(&(index, hash)) = applied.meta.marks.last() else { return };
        if index > replica.last_mark_sent {
            replica.last_mark_sent = index;
            let voters = replica.spec.voters.clone();
            for voter in voters.iter().filter(|voter| voter.replica != key.replica) {
                let note = Note::Hash { group: key.group, to: voter.replica, from: key.replica, index, hash };
                self.send_note(voter.node, note);
            }
            self.compare(key);
        }
    }

    /// A checkpoint is durable: the log may begin behind it.
    fn checkpointed(&mut self, key: Key, result: Result<Meta, Error>) {
        let meta = match result {
            Ok(meta) => meta,
            Err(error) => return self.stop(key, &error.to_string(), false),
        };
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        replica.job = false;
        replica.durable = meta.applied;
        replica.applied_bytes = 0;
        replica.dirty_since = (replica.applied > meta.applied).then(time::now);
        self.dirty.insert(key);
        if let Some(start) = replica.raw.mut_store().cut(meta.applied, self.shared.settings.tail_bytes) {
            record_of(&mut self.forming, key).start = Some(start);
            self.urgent = true;
        }
    }

    /// An offer came in: fetch the rows before Raft sees it.
    fn fetch(&mut self, key: Key, message: Message) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        let Ok(offer) = protocol::wire::decode::<SnapshotOffer>(&message.get_snapshot().data) else { return };
        let stale = offer.index <= replica.raw.raft.raft_log.committed || message.term < replica.raw.raft.term;
        let busy = replica.fetching || replica.fetched.is_some() || replica.switching.is_some();
        let from = replica.spec.voters.iter().find(|voter| voter.replica.0 == message.from).map(|voter| voter.node);
        if stale && !busy {
            // Raft answers by itself where it stands, and takes nothing that it has.
            let _ = replica.raw.step(message);
            self.dirty.insert(key);
            return;
        }
        let Some(from) = from.filter(|_| !busy) else { return };
        runtime::probe!("consensus-snapshot-fetched");
        replica.fetching = true;
        let file = replica.next_file;
        replica.next_file += 1;
        let target = Target { disk: self.disk.clone(), name: state_name(key, file), key };
        let (rpc, settings) = (self.shared.rpc.clone(), self.shared.settings.clone());
        self.jobs.push(Box::pin(async move {
            let result = snapshot::fetch(rpc, from, offer, target, settings).await;
            Done::Fetched { key, message: Box::new(message), file, result }
        }));
    }

    fn fetched(&mut self, key: Key, message: Message, file: u64, result: Result<State, Error>) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        replica.fetching = false;
        match result {
            Ok(state) => {
                replica.fetched = Some(Fetched { state, file });
                let _ = replica.raw.step(message);
                // Raft takes it in this very turn, or never.
                self.ready(key);
                self.dirty.insert(key);
            }
            Err(error) => {
                tracing::warn!(replica = %key, %error, "a snapshot could not be fetched");
                let from = ReplicaId(message.from);
                let node = replica.spec.voters.iter().find(|voter| voter.replica == from).map(|voter| voter.node);
                if let Some(node) = node {
                    self.send_note(node, Note::SnapshotFailed { group: key.group, to: from, from: key.replica });
                }
                self.remove_file(state_name(key, file), None);
                return;
            }
        }
        let leftover = self.replicas.get_mut(&key).and_then(|replica| replica.fetched.take());
        if let Some(fetched) = leftover {
            runtime::probe!("consensus-snapshot-not-taken");
            self.remove_file(state_name(key, fetched.file), Some(fetched.state));
        }
    }

    fn remove_file(&mut self, name: String, state: Option<State>) {
        let disk = self.disk.clone();
        self.jobs.push(Box::pin(async move {
            let run = disk.clone();
            disk::run(&run, move || {
                drop(state);
                // What stays behind is removed when the replica is opened next.
                let _ = disk.remove(&name);
            })
            .await;
            Done::Removed
        }));
    }

    /// The manifest names the new state durably: now, and not before, the log is reset.
    fn switched(&mut self, key: Key, result: Result<(), runtime::disk::Error>) {
        if let Err(error) = result {
            return self.stop(key, &error.to_string(), false);
        }
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        let Some(switching) = replica.switching.take() else { return };
        let Switching { number, start, hard, entries, messages, .. } = switching;
        replica.job = false;
        replica.applied = start.index;
        replica.durable = start.index;
        replica.applied_bytes = 0;
        replica.dirty_since = None;
        let record = record_of(&mut self.forming, key);
        record.entries.clear();
        record.start = Some(start);
        record.reset = true;
        record.hard = hard.or(record.hard);
        self.forming_bytes += append_to(record, entries);
        self.urgent = true;
        replica.waiting.push_back(Waiting { number, batch: self.batch, messages, snapshot: Some(start.index) });
        replica.answer_applied(Vec::new(), 0);
        self.dirty.insert(key);
    }

    fn send(&mut self, key: Key, messages: Vec<Message>) {
        for message in messages {
            let Some(replica) = self.replicas.get_mut(&key) else { return };
            let Some(voter) = replica.spec.voters.iter().find(|voter| voter.replica.0 == message.to) else { continue };
            let node = voter.node;
            if message.get_msg_type() == MessageType::MsgSnapshot {
                replica.offered.insert(message.to, time::now());
            }
            if node == self.shared.node {
                let key = Key { group: key.group, replica: ReplicaId(message.to) };
                self.shared.route(key, Input::Message { key, message });
                continue;
            }
            let outgoing = self.outgoing.entry(node).or_default();
            let bytes: usize = message.entries.iter().map(|entry| entry.data.len() + 64).sum();
            if let Some(converted) = wire::Message::from_raft(key.group, message, &mut outgoing.body) {
                outgoing.frame.messages.push(converted);
                outgoing.bytes += bytes;
            }
            if outgoing.bytes >= FRAME_BYTES {
                self.flush(node);
            }
        }
    }

    fn send_note(&mut self, node: NodeId, note: Note) {
        if node == self.shared.node {
            self.shared.route(note.to(), Input::Note(note));
        } else {
            self.outgoing.entry(node).or_default().frame.notes.push(note);
        }
    }

    /// All that this turn has to say to a node, in one frame.
    fn flush(&mut self, node: NodeId) {
        let Some(outgoing) = self.outgoing.remove(&node) else { return };
        let meta = protocol::wire::encode(&outgoing.frame);
        self.shared.rpc.cast(node, wire::MESSAGES, meta.into(), outgoing.body);
    }

    fn publish(&mut self, key: Key) {
        if let Some(replica) = self.replicas.get(&key) {
            let status = replica.status(self.drive);
            self.shared.publish(key, status);
        }
    }

    /// A replica cannot go on. With `damaged` the log remembers it, and it does not run at the next start either.
    fn stop(&mut self, key: Key, reason: &str, damaged: bool) {
        let Some(replica) = self.replicas.remove(&key) else { return };
        tracing::error!(replica = %key, drive = self.disk.label(), reason, "a replica stops; its group goes on without it");
        let store = replica.raw.store();
        let stopped = Stopped { start: store.start, damaged, entries: store.iter().cloned().collect() };
        if damaged {
            let record = record_of(&mut self.forming, key);
            record.damaged = true;
            self.urgent = true;
        }
        let status = ReplicaStatus { leader: None, trouble: Some(reason.to_owned()), ..replica.status(self.drive) };
        self.shared.publish(key, status);
        self.stopped.insert(key, stopped);
        let (state, disk) = (replica.state.clone(), self.disk.clone());
        replica.abandon();
        // Closing a database writes, and may stumble over whatever stopped the replica.
        self.jobs.push(Box::pin(async move {
            let closed = disk::run(&disk, move || {
                catching(|| {
                    drop(state);
                    Ok(())
                })
            });
            if let Err(error) = closed.await {
                tracing::warn!(replica = %key, %error, "the state of a stopped replica was not closed in order");
            }
            Done::Removed
        }));
    }

    /// The drive is gone.
    fn stop_all(&mut self, reason: &str) {
        for key in self.replicas.keys().copied().collect::<Vec<_>>() {
            self.stop(key, reason, false);
        }
        self.forming.clear();
        self.forward.clear();
        self.forming_bytes = 0;
        self.urgent = false;
    }

    fn may_close(&self) -> bool {
        let waits = self.replicas.values().any(|replica| replica.leads() && replica.spec.voters.len() > 1);
        let late = self.closing.as_ref().is_none_or(|(deadline, _)| time::now() >= *deadline);
        let busy = self.log.is_none() || self.replicas.values().any(|replica| replica.job);
        late || (!waits && !busy)
    }

    /// Checkpoint every replica and end.
    async fn close(mut self) {
        // What is under way ends by itself or fails with the drive; only work on the state must not be met.
        while self.log.is_none() || self.replicas.values().any(|replica| replica.job) {
            let Some(done) = self.jobs.next().await else { break };
            self.finished(done);
        }
        let Some((_, done)) = self.closing.take() else { return };
        for (key, replica) in std::mem::take(&mut self.replicas) {
            let state = replica.state.clone();
            replica.abandon();
            if let Err(error) = disk::run(&self.disk, move || catching(|| state.checkpoint().map(drop))).await {
                tracing::warn!(replica = %key, %error, "no checkpoint at the shutdown; the log has it all");
            }
        }
        let _ = done.send(());
    }
}

fn record_of(forming: &mut BTreeMap<Key, Record>, key: Key) -> &mut Record {
    forming.entry(key).or_insert_with(|| Record { key, ..Record::default() })
}

/// Append to what a record holds, replacing what stands there from the first one on. Returns the bytes added.
fn append_to(record: &mut Record, entries: Vec<Entry>) -> usize {
    let bytes = entries.iter().map(|entry| entry.data.len() + 16).sum();
    if let Some(first) = entries.first() {
        record.entries.retain(|entry| entry.index < first.index);
    }
    record.entries.extend(entries);
    bytes
}

fn answer_queries(state: &State, machine: &dyn crate::StateMachine, queries: Vec<Query>) -> Result<(), Error> {
    let asked: Vec<Bytes> = queries.iter().map(|query| query.query.clone()).collect();
    let answers = state.query(machine, &asked)?;
    for (query, answer) in queries.into_iter().zip(answers) {
        let _ = query.waiter.send((Answer::Reply, answer));
    }
    Ok(())
}

impl Stopped {
    /// The records that write its live entries forward: first what is gone, then each consecutive run.
    fn records(&self, key: Key) -> Vec<Record> {
        let head = Record { key, start: Some(self.start), reset: true, damaged: self.damaged, ..Record::default() };
        let mut records = vec![head];
        for entry in &self.entries {
            let last = records.last_mut().expect("the head is there");
            match last.entries.last() {
                Some(before) if before.index + 1 == entry.index => last.entries.push(entry.clone()),
                _ => records.push(Record { key, entries: vec![entry.clone()], ..Record::default() }),
            }
        }
        records
    }
}
