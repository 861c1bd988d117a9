//! What comes to a driver from outside: messages, proposals, reads, and time.

use super::upkeep::Stop;
use super::{Driver, Input, TURN_BYTES_MAX};
use crate::log::Key;
use crate::replica::Replica;
use crate::wire::{Answer, Note};
use bytes::Bytes;
use protocol::{NodeId, ReplicaId};
use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, SnapshotStatus};
use runtime::time;
use std::time::Duration;

/// Inputs taken in one turn at most.
const INPUTS_MAX: usize = 256;
/// The longest that leadership is waited to be taken over at a shutdown.
const HANDOVER_WAIT: Duration = Duration::from_millis(1500);
/// Ticks between two questions of a replica that nobody sends entries.
const OUTSIDE_TICKS: u64 = 16;
/// Silence after which a follower is taken to have given up on an offered snapshot.
const OFFER_SILENCE: Duration = Duration::from_secs(10);
/// How much longer one may be silent that fetches another one: each offer has all of a state read.
const OFFER_PAUSE: Duration = Duration::from_secs(30);

impl Driver {
    pub(super) fn take_all(&mut self, first: Input) {
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
            Input::Message { key, from, message, queued } => {
                // What is taken of it is counted by its replica from now on.
                if runtime::planted("inbox-room-never-given-back") {
                    std::mem::forget(queued);
                } else {
                    drop(queued);
                }
                let bytes = message.entries.iter().map(|entry| entry.data.len()).sum();
                self.message(key, from, message);
                bytes
            }
            Input::Note { from, note } => {
                self.note(from, note);
                0
            }
            Input::Change { key, change, waiter } => {
                self.propose_change(key, change, waiter);
                0
            }
            Input::Create { key, waiter } => {
                self.create(key, waiter);
                0
            }
            Input::Remove { key, members, waiter } => {
                self.remove_proved(key, &members, waiter);
                0
            }
            Input::Propose { key, data, queued, waiter } => {
                drop(queued);
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
            Input::Fetch { key, from, asked, waiter } => {
                if self.may_speak(key, asked.from, from) {
                    self.serve_fetch(key, &asked, waiter);
                }
                0
            }
            Input::Tail { key, from, asked, waiter } => {
                if self.may_speak(key, asked.from, from) {
                    self.serve_tail(key, asked, waiter);
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
    fn message(&mut self, key: Key, from: NodeId, mut message: Message) {
        if message.to != key.replica.0 || !self.may_speak(key, ReplicaId(message.from), from) {
            return;
        }
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        let log = &replica.raw.raft.raft_log;
        match message.get_msg_type() {
            MessageType::MsgHeartbeat if message.term >= replica.raw.raft.term && message.commit > log.last_index() => {
                // The leader counts entries as acknowledged by this replica which it does not have.
                let reason = format!("acknowledged entries up to {} are missing, the log ends at {}", message.commit, log.last_index());
                // Nothing showed that bytes are gone, so votes may be gone as well: this is an older copy, or the drive lied.
                self.stop(key, &reason, Stop::Damaged);
                return;
            }
            MessageType::MsgAppend => replica.shorten(&mut message),
            // It would stand for election, see `Replica::tick`.
            MessageType::MsgTimeoutNow if replica.takes_snapshot() => return,
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

    fn note(&mut self, from: NodeId, note: Note) {
        let key = note.to();
        if let Note::Gone { from: by, members, .. } = &note {
            return self.told_gone(key, *by, from, members);
        }
        if !self.may_speak(key, note.from(), from) {
            return;
        }
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        match note {
            // Had it gone, it would have been told.
            Note::Gone { .. } | Note::AmIGone { .. } => {}
            Note::Knows { from, version, .. } => replica.note_known(from, version),
            Note::Hash { from, index, hash, .. } => {
                replica.note_hash(from, index, hash);
                self.compare(key);
            }
            Note::SnapshotBusy { from, .. } => {
                if let Some(at) = replica.offered.get_mut(&from.0) {
                    *at = time::now() + OFFER_PAUSE;
                }
            }
            Note::SnapshotFailed { from, .. } => {
                replica.offered.remove(&from.0);
                replica.raw.report_snapshot(from.0, SnapshotStatus::Failure);
                self.dirty.insert(key);
            }
        }
    }

    pub(super) fn compare(&mut self, key: Key) {
        if self.replicas.get_mut(&key).is_some_and(Replica::compare) {
            self.stop(key, "its state differs from that of a majority of its group", Stop::Damaged);
        }
    }

    pub(super) fn tick(&mut self) {
        let now = time::now();
        // After a pause the missed ticks are not made up for: they would depose leaders that nobody missed.
        self.next_tick = (self.next_tick + self.shared.settings.tick).max(now);
        self.ticks += 1;
        let (mut tell, mut at_rest) = (Vec::new(), Vec::new());
        let (tail, kept) = (self.tail_bytes(), self.kept_bytes(now));
        for replica in self.replicas.values_mut() {
            replica.raw.mut_store().tail = replica.stays(tail, kept, now);
            replica.tick_reads();
            replica.finish_exchange();
            if let Some(leader) = replica.agree_on_version() {
                let (group, from, version) = (replica.key.group, replica.key.replica, replica.machine.version());
                tell.push((leader.node, Note::Knows { group, to: leader.replica, from, version }));
            }
            if let Some((index, hash)) = replica.tick_rest() {
                at_rest.push(replica.key);
                tell.extend(replica.hash_for_others(index, hash));
            }
            if replica.tick(now) {
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
                    let silent = replica.fetched_from_since(ReplicaId(**peer)).unwrap_or(Duration::MAX);
                    !waits || now.saturating_duration_since(**at).min(idle).min(silent) > OFFER_SILENCE
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
        for (node, note) in tell {
            self.send_note(node, note);
        }
        for key in at_rest {
            self.compare(key);
        }
        if self.ticks.is_multiple_of(OUTSIDE_TICKS) {
            self.ask_whether_gone();
        }
        self.heal();
        if self.ticks.is_multiple_of(10) {
            self.shared.offers.expire(self.shared.settings.snapshot_idle);
        }
        self.outbox_bytes = self.shared.outbox_bytes();
        if self.ticks.is_multiple_of(10) || self.shared.budget.is_short() {
            self.relieve(now);
        }
    }
}
