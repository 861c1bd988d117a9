//! Bounding what grows: memory and drive space of the log. And the end of a replica, of all of them, of the driver.

use super::order::record_of;
use super::{Done, Driver, Hope, Stopped};
use crate::host::Settings;
use crate::log::{Key, Record};
use crate::refetch::Patient;
use crate::replica::Replica;
use crate::state::{Error, Meta, catching};
use futures::StreamExt;
use runtime::disk;
use runtime::time::{self, Instant};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of entries that one batch writes forward, about. What one replica has goes whole, however much that is, with nothing beside it.
const FORWARD_BYTES: usize = 8 << 20;

/// Room in the next batch for what is written forward: logs of replicas, each as a whole. Those for whom there is none wait for
/// another batch.
pub(super) struct Room {
    taken: usize,
}

impl Room {
    /// What is left beside `records`.
    pub(super) fn beside(records: &[Record]) -> Room {
        Room { taken: bytes_of(records) }
    }

    /// Take room for so many bytes of entries, if there is any.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let fits = self.taken == 0 || self.taken + bytes <= FORWARD_BYTES;
        if fits {
            self.taken += bytes;
        } else {
            runtime::probe!("consensus-log-tail-waits-for-another-batch");
        }
        fits
    }
}

/// Bytes of entries in `records`, about.
pub(super) fn bytes_of(records: &[Record]) -> usize {
    records.iter().flat_map(|record| &record.entries).map(|entry| entry.data.len() + 16).sum()
}

/// Why a replica stops.
pub(super) enum Stop {
    /// It must not run again.
    Damaged,
    /// Its state is lost.
    State,
    /// There was no room for its state.
    Full,
    /// The log of the drive is gone.
    Log,
    /// Its group is at a version of its commands that this program does not know.
    Newer,
}

/// The largest of `replicas`, by their bytes, that give back `bytes` together; all that give anything, if that is not enough. Behind the bytes of
/// each stands how many of them stay.
fn chosen(mut replicas: Vec<(usize, usize, Key)>, mut bytes: usize) -> BTreeSet<Key> {
    replicas.sort_unstable_by(|one, other| other.cmp(one));
    let mut chosen = BTreeSet::new();
    for (has, stays, key) in replicas.into_iter().filter(|(has, stays, _)| has > stays) {
        if bytes == 0 {
            break;
        }
        bytes = bytes.saturating_sub(has - stays);
        chosen.insert(key);
    }
    chosen
}

impl Driver {
    /// Bound what grows: memory and drive space of the log, and the time until a state is durable.
    pub(super) fn relieve(&mut self, now: Instant) {
        let settings = &self.shared.settings;
        let crowded = self.log.as_ref().is_some_and(|log| log.segments() > settings.segments_max);
        let pinning = if crowded { self.log.as_ref().map(|log| log.pinned_by()).unwrap_or_default() } else { Vec::new() };
        let (heaviest, tail) = (self.heaviest(now), self.tail_bytes());
        let mut room = Room::beside(&self.forward);
        for replica in self.replicas.values_mut() {
            let old = replica.dirty_since.is_some_and(|since| now.saturating_duration_since(since) >= settings.checkpoint_after);
            let full = replica.applied_bytes >= settings.checkpoint_bytes;
            let heavy = heaviest.contains(&replica.key);
            let pins = pinning.contains(&replica.key);
            // A checkpoint moves nothing that is kept for who fetches a snapshot.
            let kept = replica.kept_from(now);
            let ahead = replica.applied > replica.durable && kept.is_none();
            if old || full || heavy || (pins && ahead) {
                replica.checkpoint_wanted = true;
                self.dirty.insert(replica.key);
            } else if pins
                && replica.switching.is_none()
                // A checkpoint will cut what is about to be applied.
                && (replica.apply.is_empty() || kept.is_some())
                && !runtime::planted("idle-tail-not-written-forward")
                && room.take(replica.raw.store().bytes())
            {
                runtime::probe!("consensus-log-tail-written-forward");
                let upto = kept.map_or(replica.durable, |from| from.min(replica.durable));
                let store = replica.raw.mut_store();
                let start = store.cut(upto, 0);
                let record = record_of(&mut self.forming, replica.key);
                record.start = start.or(record.start);
                record.entries = store.iter().cloned().collect();
                self.forming_bytes += store.bytes();
                self.urgent = true;
            } else if !ahead
                && replica.switching.is_none()
                && replica.kept_from(now).is_none()
                && replica.raw.store().applied_bytes() > tail
            {
                // Less stays than at its last checkpoint, and there is none that it would have to make.
                if let Some(start) = replica.raw.mut_store().cut(replica.durable, tail) {
                    record_of(&mut self.forming, replica.key).start = Some(start);
                    self.urgent = true;
                }
            }
        }
        for key in pinning {
            if let Some(stopped) = self.stopped.get(&key).filter(|stopped| !stopped.is_waking()) {
                let records = stopped.records(key);
                if room.take(bytes_of(&records)) {
                    self.forward.extend(records);
                    self.urgent = true;
                }
            }
        }
    }

    /// Replicas, those with most entries first, whose checkpoints bring the entries of this drive back to the memory that they may take.
    fn heaviest(&self, now: Instant) -> BTreeSet<Key> {
        let max = self.shared.settings.log_memory_bytes;
        // No checkpoint gives back what is not applied yet.
        let applied = |replica: &Replica| replica.raw.store().applied_bytes();
        let total: usize = self.replicas.values().map(applied).sum();
        if total <= max {
            return BTreeSet::new();
        }
        // Only entries that are applied and not durable in the state yet can be cut by a checkpoint.
        let ahead = self.replicas.values().filter(|replica| replica.applied > replica.durable);
        let (tail, kept) = (self.tail_bytes(), self.kept_bytes(now));
        chosen(ahead.map(|replica| (applied(replica), replica.stays(tail, kept, now), replica.key)).collect(), total - max)
    }

    /// Bytes of entries that each replica keeps behind its checkpoint: all together they take a part of the memory for entries.
    pub(super) fn tail_bytes(&self) -> usize {
        let Settings { tail_bytes, log_memory_bytes, .. } = self.shared.settings;
        tail_bytes.min(log_memory_bytes / 2 / self.replicas.len().max(1))
    }

    /// A checkpoint is durable: the log may begin behind it.
    pub(super) fn checkpointed(&mut self, key: Key, result: Result<Meta, Error>) {
        let meta = match result {
            Ok(meta) => meta,
            Err(error) => return self.stop_of(key, &error),
        };
        let now = time::now();
        let (tail, kept) = (self.tail_bytes(), self.kept_bytes(now));
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        replica.job = false;
        replica.durable = meta.applied;
        replica.applied_bytes = 0;
        replica.dirty_since = (replica.applied > meta.applied).then_some(now);
        self.dirty.insert(key);
        let kept_from = replica.kept_from(now);
        let store = replica.raw.mut_store();
        let start = store.cut(kept_from.map_or(meta.applied, |from| from.min(meta.applied)), tail);
        if let Some(start) = store.cut(meta.applied, kept.max(tail)).or(start) {
            record_of(&mut self.forming, key).start = Some(start);
            self.urgent = true;
        }
    }

    /// The state of a replica cannot be read or written.
    pub(super) fn stop_of(&mut self, key: Key, error: &Error) {
        let why = match error {
            error if error.is_full() => Stop::Full,
            error if error.is_newer() => Stop::Newer,
            _ => Stop::State,
        };
        self.stop(key, &error.to_string(), why);
    }

    /// A replica cannot go on as it is. Whether and how it can be healed is seen to from the next tick on.
    pub(super) fn stop(&mut self, key: Key, reason: &str, why: Stop) {
        let Some(mut replica) = self.replicas.remove(&key) else { return };
        tracing::error!(replica = %key, drive = self.disk.label(), reason, "a replica stops; its group goes on without it");
        self.shared.offers.forget(key);
        let store = replica.raw.mut_store();
        let entries = store.iter().map(|entry| (entry.index, entry.clone())).collect();
        let patient = Patient { hard: store.hard, start: store.start, entries, ..Patient::default() };
        let hope = match why {
            Stop::Damaged => Hope::Replacement,
            Stop::State if runtime::planted("rotten-state-given-up") => Hope::Replacement,
            Stop::State => Hope::Fetch,
            Stop::Newer => Hope::NewerProgram,
            Stop::Full | Stop::Log => Hope::Reopen(Arc::downgrade(&replica.state)),
        };
        let full = matches!(why, Stop::Full);
        let damaged = matches!(why, Stop::Damaged);
        let share = self.shared.budget.share();
        let mut stopped = Stopped::new(patient, true, damaged, Some(replica.machine.clone()), hope, reason.to_owned(), share);
        (stopped.file, stopped.next_file, stopped.full) = (replica.file, replica.next_file, full);
        stopped.last_members = Some(replica.members.clone());
        if let Some((at, pause)) = replica.healed_at {
            stopped.relapsed(at, pause);
        }
        if let Some(switching) = &mut replica.switching
            && switching.fetched.is_none()
        {
            // A manifest is being written, for a state or a log that are not switched to: another one is fetched after it.
            stopped.hold();
            stopped.hope = Hope::Fetch;
        }
        if damaged {
            record_of(&mut self.forming, key).damaged = !runtime::planted("set-aside-until-the-next-start");
            self.urgent = true;
        }
        self.stopped.insert(key, stopped);
        self.publish_stopped(key);
        let (state, disk) = (replica.state.clone(), self.disk.clone());
        replica.abandon();
        // Closing it may wait for the drive.
        self.jobs.push(Box::pin(async move {
            disk::run(&disk, move || drop(state)).await;
            Done::Removed
        }));
    }

    /// The drive is gone.
    pub(super) fn stop_all(&mut self, reason: &str) {
        for key in self.replicas.keys().copied().collect::<Vec<_>>() {
            self.stop(key, reason, Stop::Log);
        }
        self.forming.clear();
        self.forward.clear();
        self.forming_bytes = 0;
        self.urgent = false;
    }

    pub(super) fn may_close(&self) -> bool {
        let waits = self.replicas.values().any(|replica| replica.leads() && !replica.votes_alone());
        let late = self.closing.as_ref().is_none_or(|(deadline, _)| time::now() >= *deadline);
        let busy = self.log.is_none() || self.replicas.values().any(|replica| replica.job);
        late || (!waits && !busy)
    }

    /// Checkpoint every replica and end.
    pub(super) async fn close(mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{GroupId, ReplicaId};

    #[test]
    fn one_batch_writes_forward_what_fits_and_one_replica_whole() {
        let mut room = Room::beside(&[]);
        let taken = [0, 3, 4, 2, 1, 9].map(|mebibytes| room.take(mebibytes << 20));
        assert_eq!(taken, [true, true, true, false, true, false]);
        // The largest one has its turn when those before it pin nothing any more.
        let mut room = Room::beside(&[]);
        assert_eq!([40, 0, 1].map(|mebibytes| room.take(mebibytes << 20)), [true, false, false]);
        let entry = raft::eraftpb::Entry { data: vec![0; FORWARD_BYTES].into(), ..Default::default() };
        let waking = Record { entries: vec![entry], ..Record::default() };
        assert!(!Room::beside(&[waking]).take(1));
    }

    #[test]
    fn the_largest_give_back_as_much_as_is_needed() {
        let key = |group| Key { group: GroupId(group), replica: ReplicaId(1) };
        let replicas = |tail| vec![(100, tail, key(1)), (900, tail, key(2)), (500, tail, key(3)), (90, tail, key(4)), (1000, 1000, key(5))];
        let told = |bytes, tail| chosen(replicas(tail), bytes).into_iter().map(|key| key.group.0).collect::<Vec<_>>();
        assert_eq!(told(0, 100), [0; 0]);
        assert_eq!(told(1, 100), [2]);
        assert_eq!(told(800, 100), [2]);
        assert_eq!(told(801, 100), [2, 3]);
        assert_eq!(told(10_000, 95), [1, 2, 3], "the tails of small ones stay");
    }
}
