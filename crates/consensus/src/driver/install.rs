//! Taking a snapshot: its rows are fetched before Raft sees the offer, and the log is reset after the manifest was renamed.

use super::order::{append_to, record_of};
use super::{Done, Driver};
use crate::log::Key;
use crate::manifest::state_name;
use crate::replica::{Fetched, Replica, Switching, Waiting};
use crate::snapshot::{self, Source, Target};
use crate::state::{Error, Meta, State};
use crate::wire::{Note, SnapshotOffer};
use protocol::ReplicaId;
use raft::eraftpb::Message;
use runtime::disk;

/// Snapshots that a drive fetches at once: each fills a database, and keeps a thread of the drive while it becomes durable.
const FETCHES_MAX: usize = 1;

impl Driver {
    /// Whether another snapshot may be fetched, by one that runs or by one that is being healed.
    pub(super) fn may_fetch(&self) -> bool {
        self.fetches < FETCHES_MAX
    }

    /// An offer came in: fetch the rows before Raft sees it.
    pub(super) fn fetch(&mut self, key: Key, message: Message) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        let Ok(offer) = protocol::wire::decode::<SnapshotOffer>(&message.get_snapshot().data) else { return };
        let stale = offer.index <= replica.raw.raft.raft_log.committed || message.term < replica.raw.raft.term;
        let busy = replica.fetching.is_some() || replica.fetched.is_some() || replica.switching.is_some();
        let from = replica.node_of(ReplicaId(message.from));
        if stale && !busy {
            // Raft answers by itself where it stands, and takes nothing that it has.
            let _ = replica.raw.step(message);
            self.dirty.insert(key);
            return;
        }
        if let Some(node) = from.filter(|_| busy) {
            let note = Note::SnapshotBusy { group: key.group, to: ReplicaId(message.from), from: key.replica };
            return self.send_note(node, note);
        }
        // Whoever comes later is offered it again.
        let Some(from) = from.filter(|_| self.may_fetch()) else { return };
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        runtime::probe!("consensus-snapshot-fetched");
        let file = replica.next_file;
        replica.fetching = Some(file);
        replica.next_file += 1;
        self.fetches += 1;
        let source = Source { node: from, replica: ReplicaId(message.from) };
        let target = Target { disk: self.disk.clone(), key, file, machine: replica.machine.clone() };
        let (rpc, settings) = (self.shared.rpc.clone(), self.shared.settings.clone());
        self.jobs.push(Box::pin(async move {
            let result = snapshot::fetch(rpc, source, offer, target, settings).await;
            Done::Fetched { key, message: Box::new(message), file, result }
        }));
    }

    pub(super) fn fetched(&mut self, key: Key, mut message: Message, file: u64, result: Result<State, Error>) {
        self.fetches -= 1;
        // Whoever fetched it may have stopped since, run again, and fetch another one.
        let Some(replica) = self.replicas.get_mut(&key).filter(|replica| replica.fetching == Some(file)) else {
            return self.remove_file(state_name(key, file), result.ok());
        };
        replica.fetching = None;
        match result {
            Ok(state) => {
                replica.bring_up_to_date(&mut message, state.meta());
                replica.fetched = Some(Fetched { state, file });
                let _ = replica.raw.step(message);
                // Raft takes it in this very turn, or never.
                self.ready(key);
                self.dirty.insert(key);
            }
            Err(error) if error.is_newer() => {
                self.remove_file(state_name(key, file), None);
                return self.stop_of(key, &error);
            }
            Err(error) => {
                tracing::warn!(replica = %key, %error, "a snapshot could not be fetched");
                let from = ReplicaId(message.from);
                if let Some(node) = replica.node_of(from) {
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

    pub(super) fn remove_file(&mut self, name: String, state: Option<State>) {
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
    pub(super) fn switched(&mut self, key: Key, result: Result<(), runtime::disk::Error>) {
        if let Err(error) = result {
            self.stop_of(key, &error.into());
            // Whether it stopped now or while the manifest was written: this was the job that it is held for.
            return self.job_ended(key);
        }
        let Some(replica) = self.replicas.get_mut(&key) else { return self.job_ended(key) };
        let Some(switching) = replica.switching.take() else { return };
        let Switching { number, start, hard, entries, messages, .. } = switching;
        replica.job = false;
        replica.applied = start.index;
        replica.durable = start.index;
        replica.applied_bytes = 0;
        replica.dirty_since = None;
        replica.forget_rest();
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
}

impl Replica {
    /// An offer as it came, and what was fetched, which may be newer by now. Raft is told of that; and by who leads now, if somebody else does:
    /// what is committed is no less so in a later term, and all that is answered is how far this replica has it.
    fn bring_up_to_date(&self, message: &mut Message, meta: Meta) {
        let Meta { applied: index, term, members, state_hash, marks, .. } = meta;
        message.set_snapshot(SnapshotOffer { index, term, members, token: 0, state_hash, marks }.to_raft());
        // No log holds what is of a later term than its replica takes part in.
        let later = self.raw.raft.term.max(term);
        if message.term < later {
            runtime::probe!("consensus-snapshot-taken-in-a-later-term");
            message.term = later;
            // While nobody is known to lead it stays the sender, whom Raft takes for the leader until the next word of the real one.
            let leader = self.leader().filter(|leader| later == self.raw.raft.term && *leader != self.key.replica);
            message.from = leader.map_or(message.from, |leader| leader.0);
        }
    }
}
