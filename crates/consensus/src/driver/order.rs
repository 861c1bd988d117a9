//! What everything rests on, in this order and in this file alone: **persist, send, apply, acknowledge**.

use super::{Done, Driver, offering};
use crate::log::{Hard, Key, Record, Start};
use crate::manifest::{Manifest, state_name};
use crate::members::Change;
use crate::replica::{Query, Switching, Waiting};
use crate::state::{Applied, Error, State, catching};
use crate::wire::{Answer, SnapshotOffer};
use bytes::Bytes;
use protocol::wire;
use raft::eraftpb::Entry;
use runtime::disk::{self, Lane};
use runtime::probe::waypoint;
use runtime::time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of entries given to one apply job.
const APPLY_JOB_BYTES: usize = 2 << 20;
/// Jobs at once that keep a thread of the drive for long: checkpoints, and snapshots that are being offered. The drive has few threads
/// (`runtime::disk`; the log has one of its own), and whoever asks for a row or a shard needs one, too.
const LONG_JOBS_MAX: usize = 2;
/// Of them snapshots that are being offered: all of a state is read for one, and checkpoints bound the log meanwhile.
const FREEZES_MAX: usize = 1;

impl Driver {
    pub(super) fn ready(&mut self, key: Key) {
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
                store.reset(start);
                store.append(&entries);
                let offer: SnapshotOffer = wire::decode(&ready.snapshot().data).expect("it was decoded when it was fetched");
                replica.members = offer.members;
                replica.raw.advance_append_async(ready);
                let fetched = replica.fetched.take();
                assert!(fetched.is_some(), "Raft sees an offer only after its rows were fetched");
                replica.apply.clear();
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
        if replica.switching.is_none() {
            replica.raw.mut_store().nothing_comes();
        }
        self.send(key, messages);
    }

    /// Persist: everything gathered goes in one write and one sync. Meanwhile the next batch is gathered.
    pub(super) fn write_batch(&mut self) {
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
            let done = disk::run_in(&disk, Lane::Log, move || {
                let result = log.write(&records);
                Done::Logged { log, batch, result }
            })
            .await;
            waypoint(if votes { "consensus-vote-durable" } else { "consensus-batch-durable" }).await;
            done
        }));
    }

    /// Send: a batch is durable, so Raft may count on it, and what waited for it may leave.
    pub(super) fn batch_durable(&mut self) {
        self.members_durable();
        let waiting = self.replicas.iter().filter(|(_, replica)| !replica.waiting.is_empty());
        let keys: Vec<Key> = waiting.map(|(key, _)| *key).collect();
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
        self.wake_durable();
    }

    /// Apply: start the next job on the state of a replica, if none is under way; and answer queries.
    pub(super) fn start_jobs(&mut self, key: Key) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        let disk = self.disk.clone();
        let queries = replica.take_answerable();
        if !queries.is_empty() {
            // Group, and the queries that one transaction answers.
            runtime::probe::tell("consensus-read-transaction", &[key.group.0, queries.len() as u64]);
            let (state, machine) = (replica.state.clone(), replica.machine.clone());
            let run = disk.clone();
            self.jobs.push(Box::pin(async move {
                let result = disk::run(&run, move || catching(|| answer_queries(&state, machine.as_ref(), queries))).await;
                Done::Queried { key, result }
            }));
        }
        if replica.freezing {
            // The one that is coming will do.
            replica.raw.store().take_wanted();
        } else if self.freezes < FREEZES_MAX
            && self.long_jobs < LONG_JOBS_MAX
            && self.shared.offers.has_room()
            && replica.raw.store().take_wanted()
        {
            replica.freezing = true;
            self.freezes += 1;
            self.long_jobs += 1;
            let freezing = offering::freeze(key, replica.state.clone(), self.shared.clone(), disk.clone());
            self.jobs.push(Box::pin(freezing));
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
            if runtime::planted("log-reset-before-state-is-durable") {
                // The planted bug lets the manifest name the new state when the log is long reset.
                self.jobs.push(Box::pin(async move {
                    time::sleep(Duration::from_millis(500)).await;
                    waypoint("consensus-snapshot-before-log-reset").await;
                    let _ = disk::run(&disk.clone(), move || manifest.write(disk.as_ref())).await;
                    Done::Removed
                }));
                self.jobs.push(Box::pin(std::future::ready(Done::Switched { key, result: Ok(()) })));
                return;
            }
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
        } else if replica.checkpoint_wanted && replica.applied > replica.durable && self.long_jobs < LONG_JOBS_MAX {
            replica.job = true;
            self.long_jobs += 1;
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
            let (state, machine) = (replica.state.clone(), replica.machine.clone());
            let leads = replica.leads();
            self.jobs.push(Box::pin(async move {
                let result = disk::run(&disk, move || catching(|| state.apply(machine.as_ref(), &entries))).await;
                if leads {
                    waypoint("consensus-leader-before-answer").await;
                }
                for (change, _) in result.iter().flat_map(|applied| &applied.changes).filter(|_| leads) {
                    match change {
                        Change::Exchange { .. } | Change::Enter(_) => waypoint("consensus-leader-entered-joint").await,
                        Change::Leave => waypoint("consensus-leader-left-joint").await,
                        Change::AddLearner(_) | Change::Release | Change::RemoveLearner(_) | Change::Raise(_) => {}
                    }
                }
                Done::Applied { key, result }
            }));
        }
    }

    /// Acknowledge: the transaction is committed, proposers and readers may know.
    pub(super) fn entries_applied(&mut self, key: Key, result: Result<Applied, Error>) {
        let applied = match result {
            Ok(applied) => applied,
            Err(error) => return self.stop_of(key, &error),
        };
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        replica.job = false;
        // Raft follows a change before it hears that its entry was applied; behind a snapshot it is further already.
        let gone = replica.switching.is_none() && replica.follow(applied.changes);
        replica.applied = applied.meta.applied;
        replica.raw.mut_store().applied_to(replica.applied);
        replica.applied_bytes += applied.bytes;
        replica.dirty_since.get_or_insert_with(time::now);
        if replica.applied_bytes >= self.shared.settings.checkpoint_bytes {
            replica.checkpoint_wanted = true;
        }
        replica.raw.advance_apply_to(applied.meta.applied);
        replica.answer_applied(applied.answers, applied.meta.applied);
        self.dirty.insert(key);
        if gone {
            return self.remove(key, None);
        }
        let Some(&(index, hash)) = applied.meta.marks.last() else { return };
        if index > replica.last_mark_sent {
            replica.last_mark_sent = index;
            for (node, note) in replica.hash_for_others(index, hash) {
                self.send_note(node, note);
            }
            self.compare(key);
        }
    }
}

pub(super) fn record_of(forming: &mut BTreeMap<Key, Record>, key: Key) -> &mut Record {
    forming.entry(key).or_insert_with(|| Record { key, ..Record::default() })
}

/// Append to what a record holds, replacing what stands there from the first one on. Returns the bytes added.
pub(super) fn append_to(record: &mut Record, entries: Vec<Entry>) -> usize {
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
