//! Offering a snapshot: rows are held frozen and offered at once, their proof follows; and what is committed meanwhile is kept for who fetches
//! them, within bounds, and handed to it.

use super::{Done, Driver};
use crate::host::{Settings, Switchboard};
use crate::log::Key;
use crate::members::MEMBERS_MAX;
use crate::replica::Replica;
use crate::state::{Error, Frozen, State, catching};
use crate::wire::{SnapshotOffer, Tail, TailRequest, split_entries};
use protocol::ReplicaId;
use protocol::wire::encode;
use runtime::disk::{self, Disk};
use runtime::rpc::Reply;
use runtime::sync::oneshot;
use runtime::time::{self, Instant};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of entries in one answer, about.
const ANSWER_BYTES: usize = 1 << 20;
/// Silence after which nothing is kept any more for who fetches a snapshot, and for whoever a new one is offered to.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Rows that are offered and not proved yet.
pub(super) struct Offered {
    offer: SnapshotOffer,
    frozen: Arc<Frozen>,
    /// Held as long as they are read: a state that is opened anew would write over their pages.
    state: Arc<State>,
}

/// Hold the rows of `state` as they are, and offer them.
pub(super) async fn freeze(key: Key, state: Arc<State>, shared: Arc<Switchboard>, disk: Arc<dyn Disk>) -> Done {
    let held = disk.clone();
    let freeze = move || {
        let frozen = Arc::new(state.freeze()?);
        let offer = shared.offers.add(held, frozen.clone());
        Ok(Offered { offer, frozen, state })
    };
    Done::Frozen { key, result: disk::run(&disk, move || catching(freeze)).await }
}

impl Driver {
    fn freeze_ended(&mut self) {
        self.freezes -= 1;
        self.long_job_ended();
    }

    /// Rows are held: they are offered, and read for their proof.
    pub(super) fn frozen(&mut self, key: Key, result: Result<Offered, Error>) {
        let Some(replica) = self.replicas.get_mut(&key) else {
            // It stopped meanwhile, and what it offered is not to be read any more.
            if let Ok(Offered { offer, .. }) = result {
                self.shared.offers.withdraw(offer.token);
            }
            return self.freeze_ended();
        };
        let frozen = match result {
            Ok(frozen) => frozen,
            Err(error) => {
                replica.freezing = false;
                self.freeze_ended();
                return self.stop_of(key, &error);
            }
        };
        replica.raw.mut_store().offer = Some(frozen.offer.clone());
        replica.offered_at = Some(time::now());
        let disk = self.disk.clone();
        self.jobs.push(Box::pin(async move {
            let rows = frozen.frozen.clone();
            let result = disk::run(&disk, move || catching(|| rows.digest())).await;
            Done::Proved { key, frozen, result }
        }));
    }

    /// The rows were read.
    pub(super) fn proved(&mut self, key: Key, frozen: &Offered, result: Result<(u64, u64), Error>) {
        self.freeze_ended();
        if let Some(replica) = self.replicas.get_mut(&key) {
            replica.freezing = false;
        }
        match result {
            Ok((rows, rows_hash)) => self.shared.offers.prove(frozen.offer.token, rows, rows_hash),
            Err(error) => {
                self.shared.offers.withdraw(frozen.offer.token);
                if self.replicas.get(&key).is_some_and(|replica| Arc::ptr_eq(&replica.state, &frozen.state)) {
                    self.stop_of(key, &error);
                }
            }
        }
    }

    /// Another replica fetches a snapshot of this one, and wants what follows `asked.after`. What it has is not kept for it any more.
    pub(super) fn serve_tail(&mut self, key: Key, asked: TailRequest, waiter: oneshot::Sender<Reply>) {
        let mut body = Vec::new();
        let tail = match self.replicas.get_mut(&key) {
            Some(replica) if asked.after >= replica.raw.store().start.index => {
                let mut bytes = 0;
                let store = replica.raw.store();
                // As of the entries in the store: Raft may have put others in their place that are not there yet, and know these to be committed.
                let committed = store.hard.commit;
                let entries = (asked.after + 1..=committed).map_while(|index| store.entry(index)).take_while(|entry| {
                    let more = bytes < ANSWER_BYTES;
                    bytes += entry.data.len() + size_of_val(*entry);
                    more
                });
                let entries = split_entries(entries, &mut body);
                let now = time::now();
                replica.fetched_by.retain(|_, (_, at)| now.saturating_duration_since(*at) < KEPT_FOR);
                // Whoever it does not know yet is kept for as well, as long as these are no more than can belong.
                if replica.fetched_by.len() < MEMBERS_MAX || replica.fetched_by.contains_key(&asked.from) {
                    replica.fetched_by.insert(asked.from, (asked.after, now));
                }
                Tail::Entries(entries)
            }
            _ => Tail::Gone,
        };
        let _ = waiter.send(Reply { meta: encode(&tail).into(), body });
    }

    /// Bytes of entries that one replica keeps for those who fetch its snapshot: all together they take a part of the memory for entries.
    pub(super) fn kept_bytes(&self, now: Instant) -> usize {
        let Settings { log_memory_bytes, .. } = self.shared.settings;
        let count = self.replicas.values().filter(|replica| replica.kept_from(now).is_some()).count();
        log_memory_bytes / 2 / count.max(1)
    }
}

impl Replica {
    /// The entry behind which all is kept for who fetches a snapshot, or is about to.
    pub(super) fn kept_from(&self, now: Instant) -> Option<u64> {
        let lately = |at: Instant| now.saturating_duration_since(at) < KEPT_FOR;
        let fetched = self.fetched_by.values().filter(|(_, at)| lately(*at)).map(|(after, _)| *after).min();
        // Whoever it was offered to lately may not have begun.
        let offered = self.offered_at.filter(|at| lately(*at)).and(self.raw.store().offer.as_ref()).map(|offer| offer.index);
        fetched.into_iter().chain(offered).min()
    }

    /// Bytes of entries that stay behind its checkpoint: a tail of them, or what is kept for who fetches a snapshot.
    pub(super) fn stays(&self, tail: usize, kept: usize, now: Instant) -> usize {
        if self.kept_from(now).is_some() { kept.max(tail) } else { tail }
    }

    /// Time since `from` last asked for what follows a snapshot; `None` if it never did.
    pub(super) fn fetched_from_since(&self, from: ReplicaId) -> Option<Duration> {
        self.fetched_by.get(&from).map(|(_, at)| time::since(*at))
    }
}
