//! Replicas that do not run, and how those that can be healed come to run again. What may be believed of what the others say
//! is decided in [`crate::refetch`]; here it is asked for, made durable, and acted on.
//!
//! Always holds: a replica that is here neither votes nor acknowledges, for it has no Raft to do so. What it still has it
//! gives to the others of its group. It runs again in this order: the missing entries and, if need be, a state in a new
//! file are fetched; the manifest names that file; all of its log is written anew and synced; then Raft begins.

use super::upkeep::{Room, bytes_of};
use super::{Done, Driver};
use crate::Client;
use crate::StateMachine;
use crate::budget::Share;
use crate::host::{ReplicaPlace, ReplicaStatus};
use crate::log::{Key, Record, Start};
use crate::manifest::{Manifest, state_name};
use crate::members::Members;
use crate::refetch::{Patient, Testimony};
use crate::replica::{Opened, Replica};
use crate::snapshot::{self, Source, Target};
use crate::state::{Error, State, catching};
use crate::store::weight;
use crate::wire::{FETCH, Fetch, Fetched, SnapshotOffer, join_entries, split_entries};
use protocol::limits::COMMAND_BYTES_MAX;
use protocol::wire::{decode, encode};
use raft::eraftpb::Entry;
use runtime::disk;
use runtime::probe::waypoint;
use runtime::rpc::{Class, Reply, Rpc};
use runtime::sync::oneshot;
use runtime::time::{self, Instant};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Entries asked for at once, and bytes of them in one answer, about: what stands before a lost entry leaves room for it.
const ENTRIES_MAX: usize = 1024;
const ANSWER_BYTES: usize = COMMAND_BYTES_MAX + (64 << 10);
/// The longest that one of the others is waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Between two attempts: at first, and at most.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A replica that stops within this time after it was healed is healed more slowly.
const RELAPSE: Duration = Duration::from_secs(60);

/// What can be done for a replica that does not run.
pub(crate) enum Hope {
    /// Nothing but another replica in its place.
    Replacement,
    /// What it lost can be fetched.
    Fetch,
    /// Nothing in this life: it is good, and of a newer program.
    NewerProgram,
    /// Its drive had no room: once the state is closed everywhere it is opened again.
    Reopen(Weak<State>),
}

/// A replica that does not run.
pub(crate) struct Stopped {
    pub patient: Patient,
    /// Whether its vote is known. Without it, and for ever, it is not healed.
    pub voted: bool,
    /// Must not run again, and the log says so.
    pub damaged: bool,
    /// `None` if no group is known that it is of.
    pub machine: Option<Arc<dyn StateMachine>>,
    pub hope: Hope,
    /// Its state, if that is good.
    pub state: Option<State>,
    /// Who belonged to its group, as it last knew while its state was open; see [`Stopped::members`].
    pub last_members: Option<Members>,
    /// Numbers of its state file and of the next new one.
    pub file: u64,
    pub next_file: u64,
    pub reason: String,
    /// It lost nothing: there was no room.
    pub full: bool,
    /// How far its healing is.
    progress: Option<String>,
    /// The others have cut what is missing: a state that covers this index is asked for.
    state_wanted: Option<u64>,
    /// A job works for it.
    busy: bool,
    /// Its log is in this batch: it runs when the batch is durable.
    waking: Option<u64>,
    at: Instant,
    pause: Duration,
    /// Between the first attempts after a step forward: longer for one that stops again and again.
    pause_first: Duration,
    /// The memory of what is left of its log, and of what was fetched.
    share: Share,
}

/// A finished job for a replica that does not run.
pub(super) enum Step {
    Heard(Vec<(Source, Testimony, Option<SnapshotOffer>)>),
    /// A state was fetched, and the manifest names it; or not.
    Installed(u64, Result<State, Error>),
    Reopened(Result<State, Error>),
}

impl Stopped {
    pub(crate) fn new(
        patient: Patient,
        voted: bool,
        damaged: bool,
        machine: Option<Arc<dyn StateMachine>>,
        hope: Hope,
        reason: String,
        share: Share,
    ) -> Stopped {
        let (state, last_members, file, next_file) = (None, None, 0, 1);
        let (state_wanted, busy, waking, progress) = (None, false, None, None);
        let (at, pause, pause_first) = (time::now(), PAUSE, PAUSE);
        let mut stopped = Stopped {
            patient,
            voted,
            damaged,
            machine,
            hope,
            state,
            last_members,
            file,
            next_file,
            reason,
            full: false,
            progress,
            state_wanted,
            busy,
            waking,
            at,
            pause,
            pause_first,
            share,
        };
        stopped.weigh();
        stopped
    }

    /// Count what it holds.
    fn weigh(&mut self) {
        self.share.set(self.patient.entries.values().map(weight).sum());
    }

    /// It was healed at `at` after pauses that began at `pause`: not long ago, and it is not tried again so soon.
    pub(super) fn relapsed(&mut self, at: Instant, pause: Duration) {
        if time::now().saturating_duration_since(at) < RELAPSE {
            self.pause_first = (pause * 2).min(PAUSE_MAX);
            self.pause = self.pause_first;
            self.later();
        }
    }

    /// Something was achieved: go on at once.
    fn forward(&mut self) {
        self.at = time::now();
        self.pause = self.pause_first;
    }

    /// Who belongs to its group by what it knows itself, if that can be read: which founding it is of shows by nothing else.
    pub(super) fn members(&self) -> Option<Members> {
        self.state.as_ref().map(|state| state.meta().members).or_else(|| self.last_members.clone())
    }

    /// The records that write all that is left of it into the log anew.
    pub(super) fn records(&self, key: Key) -> Vec<Record> {
        let mut records = self.patient.records(Record { key, damaged: self.damaged, ..Record::default() });
        if !self.voted {
            // A vote that is not known must not come to be one by being repeated.
            records[0].hard = None;
        }
        records
    }

    pub(crate) fn status(&self, key: Key, drive: protocol::DriveId) -> ReplicaStatus {
        ReplicaStatus {
            group: key.group,
            replica: key.replica,
            drive,
            term: self.patient.hard.term,
            leader: None,
            applied: self.patient.applied.map_or(0, |applied| applied.index),
            committed: self.patient.hard.commit,
            persisted: None,
            state_hash: 0,
            members: None,
            trouble: Some(match &self.progress {
                Some(progress) => format!("{}; {progress}", self.reason),
                None => self.reason.clone(),
            }),
            to_be_replaced: matches!(self.hope, Hope::Replacement),
            program_too_old: matches!(self.hope, Hope::NewerProgram),
            healed: None,
        }
    }

    /// A job for it is under way yet.
    pub(super) fn hold(&mut self) {
        self.busy = true;
    }

    pub(super) fn is_waking(&self) -> bool {
        self.waking.is_some()
    }

    /// Whether nothing is under way for it.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy && self.waking.is_none()
    }

    fn later(&mut self) {
        self.at = time::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

impl Driver {
    /// Another replica lost something of its log and asks what this one has of it. Served from memory, whether this one runs
    /// or not: intact entries are what they are.
    pub(super) fn serve_fetch(&mut self, key: Key, asked: &Fetch, waiter: oneshot::Sender<Reply>) {
        let mut testimony = Testimony::default();
        let mut offer = None;
        let wanted = asked.wanted.iter().take(ENTRIES_MAX).flat_map(|run| run.names()).map(|(index, _)| index).take(ENTRIES_MAX);
        let mut bytes = 0;
        let mut take = |entry: &Entry| {
            if bytes < ANSWER_BYTES {
                bytes += entry.data.len() + 16;
                testimony.entries.insert(entry.index, entry.clone());
            }
        };
        if let Some(replica) = self.replicas.get_mut(&key) {
            let store = replica.raw.store();
            wanted.filter_map(|index| store.entry(index)).for_each(&mut take);
            let raft = &replica.raw.raft;
            testimony.term = raft.term;
            testimony.leads = replica.leads();
            // As of the entries in the store, see `serve_tail`.
            testimony.commit = store.hard.commit;
            testimony.start = store.start.index;
            testimony.last = store.last();
            if let Some(progress) = raft.prs().get(asked.from.0).filter(|_| testimony.leads) {
                testimony.acknowledged = progress.matched;
            }
            if let Some(index) = asked.state {
                offer = store.offer.clone().filter(|offer| offer.index >= index);
                if offer.is_none() && replica.applied >= index {
                    // Ready when it asks again.
                    replica.raw.store().want_offer();
                    self.dirty.insert(key);
                }
            }
        } else if let Some(stopped) = self.stopped.get(&key).filter(|stopped| stopped.voted) {
            runtime::probe!("consensus-entries-served-by-a-crippled-replica");
            let patient = &stopped.patient;
            wanted.filter_map(|index| patient.entries.get(&index)).for_each(&mut take);
            testimony.term = patient.hard.term;
            testimony.commit = patient.hard.commit;
            testimony.start = patient.start.index;
            testimony.last = patient.last();
        } else {
            return;
        }
        let mut body = Vec::new();
        let entries = split_entries(testimony.entries.values(), &mut body);
        let Testimony { term, leads, commit, start, last, acknowledged, .. } = testimony;
        let meta = encode(&Fetched { term, leads, commit, start, last, acknowledged, entries, offer });
        let _ = waiter.send(Reply { meta: meta.into(), body });
    }

    /// Begin the next step for every replica that can be healed and whose time has come.
    pub(super) fn heal(&mut self) {
        let now = time::now();
        if self.disk.closed().is_some() || self.failed.is_some() || self.closing.is_some() {
            return;
        }
        let due = |stopped: &Stopped| !stopped.busy && stopped.waking.is_none() && stopped.at <= now;
        let due: Vec<Key> = self.stopped.iter().filter(|(_, stopped)| due(stopped)).map(|(key, _)| *key).collect();
        for key in due {
            let stopped = self.stopped.get_mut(&key).expect("it was there");
            if stopped.machine.is_none() || !stopped.voted || stopped.damaged {
                continue;
            }
            match &stopped.hope {
                Hope::Replacement | Hope::NewerProgram => {}
                Hope::Reopen(open) if open.strong_count() > 0 => stopped.later(),
                Hope::Reopen(_) => self.reopen(key),
                Hope::Fetch if stopped.patient.lost.is_empty() && stopped.state.is_some() => self.wake(key),
                Hope::Fetch => self.ask(key),
            }
        }
    }

    /// Ask everybody else of the group for what is missing.
    fn ask(&mut self, key: Key) {
        let Some(members) = self.members_of_stopped(key) else { return };
        // Whoever is asked reads all of its state for one.
        let may_fetch = self.may_fetch();
        let Some(stopped) = self.stopped.get_mut(&key) else { return };
        stopped.busy = true;
        stopped.later();
        let wanted = stopped.patient.wanted(ENTRIES_MAX);
        let state = stopped.state_wanted.or(stopped.patient.applied.is_none().then_some(stopped.patient.start.index)).filter(|_| may_fetch);
        let asked = Fetch { group: key.group, to: key.replica, from: key.replica, wanted, state };
        let others: Vec<ReplicaPlace> = members.all().filter(|place| place.replica != key.replica).copied().collect();
        let rpc = self.shared.rpc.clone();
        let client = Client::with_directory(rpc.clone(), self.shared.directory.clone());
        self.jobs.push(Box::pin(async move {
            waypoint("consensus-crippled-before-asking").await;
            let deadline = time::now() + ANSWER_WAIT;
            let answers = others.into_iter().map(|place| ask_one(rpc.clone(), place, asked.clone(), deadline));
            let heard: Vec<_> = futures::future::join_all(answers).await.into_iter().flatten().collect();
            if heard.is_empty() {
                // They may have left: whoever is there now is asked the next time.
                let _ = client.members(key.group, deadline + ANSWER_WAIT).await;
            }
            Done::Healing { key, step: Step::Heard(heard) }
        }));
    }

    pub(super) fn healing(&mut self, key: Key, step: Step) {
        self.fetches -= usize::from(matches!(step, Step::Installed(..)));
        let Some(stopped) = self.stopped.get_mut(&key) else { return };
        stopped.busy = false;
        match step {
            Step::Heard(heard) => self.heard(key, heard),
            Step::Installed(file, Ok(state)) => {
                runtime::probe!("consensus-state-refetched");
                let meta = state.meta();
                stopped.patient.cover(Start { index: meta.applied, term: meta.term });
                stopped.weigh();
                stopped.state_wanted = None;
                let old = std::mem::replace(&mut stopped.file, file);
                stopped.forward();
                let before = stopped.state.replace(state);
                if old != 0 {
                    self.remove_file(state_name(key, old), before);
                }
            }
            Step::Installed(file, Err(error)) => {
                if error.is_newer() {
                    stopped.hope = Hope::NewerProgram;
                }
                stopped.progress = Some(format!("a state could not be fetched: {error}"));
                self.remove_file(state_name(key, file), None);
            }
            Step::Reopened(Ok(state)) => {
                runtime::probe!("consensus-state-reopened");
                let meta = state.meta();
                stopped.hope = Hope::Fetch;
                if meta.applied < stopped.patient.start.index {
                    // The log was cut behind a checkpoint that is not in it.
                    return self.publish_stopped(key);
                }
                stopped.patient.applied = Some(Start { index: meta.applied, term: meta.term });
                stopped.state = Some(state);
                stopped.at = time::now();
            }
            Step::Reopened(Err(error)) if error.is_full() => {}
            Step::Reopened(Err(error)) if error.is_newer() => stopped.hope = Hope::NewerProgram,
            Step::Reopened(Err(_)) => {
                stopped.hope = Hope::Fetch;
                stopped.full = false;
            }
        }
        self.publish_stopped(key);
    }

    /// Take over what may be believed, and fetch a state if one is needed.
    fn heard(&mut self, key: Key, heard: Vec<(Source, Testimony, Option<SnapshotOffer>)>) {
        let Some(stopped) = self.stopped.get_mut(&key) else { return };
        let witnesses: Vec<Testimony> = heard.iter().map(|(_, testimony, _)| testimony.clone()).collect();
        let cure = stopped.patient.hear(&witnesses);
        stopped.weigh();
        tracing::info!(replica = %key, ?cure, witnesses = witnesses.len(), "a crippled replica heard its group");
        let lost = stopped.patient.lost.len();
        stopped.progress = Some(match &cure.contradiction {
            Some(told) => told.clone(),
            None => format!("{lost} entries are missing yet, {} of them at all {} who answered", cure.missing, witnesses.len()),
        });
        if cure.contradiction.is_some() {
            return;
        }
        if cure.found > 0 || cure.superseded.is_some() || cure.doubted.is_some() {
            stopped.forward();
        }
        stopped.state_wanted = cure.state;
        // The newest state that does.
        let needed = cure.state.filter(|_| cure.found == 0);
        let offers = heard.into_iter().filter_map(|(source, _, offer)| Some((source, offer?)));
        let best = offers.filter(|(_, offer)| needed.is_some_and(|needed| offer.index >= needed)).max_by_key(|(_, offer)| offer.index);
        // If others are fetching it asks again, and may be offered a newer one.
        if let Some((source, offer)) = best.filter(|_| self.may_fetch()) {
            self.install(key, source, offer);
        }
    }

    /// Fetch a state into a new file and let the manifest name it.
    fn install(&mut self, key: Key, source: Source, offer: SnapshotOffer) {
        let Some(stopped) = self.stopped.get_mut(&key) else { return };
        stopped.busy = true;
        let file = stopped.next_file;
        stopped.next_file += 1;
        self.fetches += 1;
        let target = Target { disk: self.disk.clone(), key, file, machine: (self.shared.machine)(key.group) };
        let (rpc, settings, disk) = (self.shared.rpc.clone(), self.shared.settings.clone(), self.disk.clone());
        let manifest = Manifest { drive: self.drive, key, file };
        self.jobs.push(Box::pin(async move {
            let fetched = snapshot::fetch(rpc, source, offer, target, settings).await;
            waypoint("consensus-snapshot-before-manifest").await;
            let result = match fetched {
                Ok(state) => {
                    let run = disk.clone();
                    disk::run(&run, move || manifest.write(disk.as_ref())).await.map(|()| state).map_err(Error::from)
                }
                Err(error) => Err(error),
            };
            waypoint("consensus-snapshot-before-log-reset").await;
            Done::Healing { key, step: Step::Installed(file, result) }
        }));
    }

    /// Open the state again that no longer went on because there was no room.
    fn reopen(&mut self, key: Key) {
        let Some(stopped) = self.stopped.get_mut(&key) else { return };
        stopped.busy = true;
        stopped.later();
        let name = state_name(key, stopped.file);
        let (disk, settings) = (self.disk.clone(), self.shared.settings.clone());
        let known = (self.shared.machine)(key.group).version();
        self.jobs.push(Box::pin(async move {
            let run = disk.clone();
            let open = move || catching(|| State::open(&disk, &name, settings.cache_bytes, settings.mark_interval, key, known));
            Done::Healing { key, step: Step::Reopened(disk::run(&run, open).await) }
        }));
    }

    /// Nothing is missing any more: write the log of a replica anew, and let it run when that is durable.
    fn wake(&mut self, key: Key) {
        let Some(stopped) = self.stopped.get_mut(&key) else { return };
        stopped.patient.lean_on_state();
        if stopped.patient.hard.commit > stopped.patient.last() {
            stopped.hope = Hope::Replacement;
            stopped.progress = Some("what was committed is not there after all".to_owned());
            return self.publish_stopped(key);
        }
        let records = stopped.records(key);
        if !Room::beside(&self.forward).take(bytes_of(&records)) {
            // Others wake with this batch: it is tried again with the next tick.
            return;
        }
        stopped.waking = Some(self.batch);
        // What it was about to write is in there, or was given up.
        if let Some(record) = self.forming.remove(&key) {
            self.forming_bytes -= record.entries.iter().map(|entry| entry.data.len() + 16).sum::<usize>().min(self.forming_bytes);
        }
        self.forward.extend(records);
        self.urgent = true;
    }

    /// A batch is durable: replicas whose logs are in it run.
    pub(super) fn wake_durable(&mut self) {
        let durable = self.durable_batch;
        let awake = |stopped: &Stopped| stopped.waking.is_some_and(|batch| batch <= durable);
        let keys: Vec<Key> = self.stopped.iter().filter(|(_, stopped)| awake(stopped)).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(mut stopped) = self.stopped.remove(&key) else { continue };
            let (Some(machine), Some(state)) = (stopped.machine.clone(), stopped.state.take()) else { continue };
            let Patient { hard, start, ref entries, .. } = stopped.patient;
            let entries = entries.values().cloned().collect();
            let opened = Opened { key, machine, state, file: stopped.file, hard, start, entries };
            match Replica::new(opened, &self.shared.settings, &self.shared.budget) {
                Ok(mut replica) => {
                    runtime::probe!("consensus-crippled-replica-runs-again");
                    tracing::warn!(replica = %key, reason = stopped.reason, "a replica is whole again and runs");
                    replica.next_file = replica.next_file.max(stopped.next_file);
                    replica.healed_at = Some((time::now(), stopped.pause_first));
                    replica.healed = (!stopped.full).then_some(stopped.reason);
                    if replica.votes_alone() {
                        let _ = replica.raw.campaign();
                    }
                    self.replicas.insert(key, replica);
                    self.dirty.insert(key);
                }
                Err(error) => {
                    tracing::error!(replica = %key, %error, "a replica that was healed does not run");
                    (stopped.hope, stopped.waking, stopped.reason) = (Hope::Replacement, None, error.to_string());
                    self.stopped.insert(key, stopped);
                    self.publish_stopped(key);
                }
            }
        }
    }

    /// A job that was under way when a replica stopped has ended.
    pub(super) fn job_ended(&mut self, key: Key) {
        if let Some(stopped) = self.stopped.get_mut(&key) {
            stopped.busy = false;
        }
    }

    pub(super) fn publish_stopped(&self, key: Key) {
        if let Some(stopped) = self.stopped.get(&key) {
            self.shared.publish(key, stopped.status(key, self.drive));
        }
    }
}

async fn ask_one(rpc: Rpc, place: ReplicaPlace, asked: Fetch, deadline: Instant) -> Option<(Source, Testimony, Option<SnapshotOffer>)> {
    let (wanted, wanted_of) = (asked.wanted.clone(), asked.group);
    let meta = encode(&Fetch { to: place.replica, ..asked });
    let received = rpc.call(place.node, Class::Bulk, FETCH, 0, meta.into(), Vec::new(), deadline).await.ok()?;
    let Fetched { term, leads, commit, start, last, acknowledged, entries, offer } = decode(&received.meta).ok()?;
    let entries = join_entries(entries, received.body)?;
    let offer = offer.filter(|offer| offer.members.group == wanted_of && offer.members.is_sound());
    let asked = |index: u64| wanted.iter().any(|run| (run.first..run.first + run.count).contains(&index));
    let entries = entries.into_iter().filter(|entry| asked(entry.index)).map(|entry| (entry.index, entry)).collect();
    Some((
        Source { node: place.node, replica: place.replica },
        Testimony { term, leads, commit, start, last, acknowledged, entries },
        offer,
    ))
}
