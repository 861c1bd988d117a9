//! Replicas that come and go on a drive while it runs, and changes of who belongs.
//!
//! A replica is created as: its standing in the log, then state and manifest, then it runs. It goes as: it stops, the
//! log says that it left, durably, and only then its files go. Whoever crashes in between finds either a standing
//! without a vote, which may be created again, or a replica that left, whose files are removed at the next start.

use super::crippled::Hope;
use super::order::record_of;
use super::upkeep::Stop;
use super::{Done, Driver, Stopped};
use crate::host::{ReplicaPlace, Settings};
use crate::log::{FOLDER, Hard, Key, Record, Start};
use crate::manifest::{self, Manifest, state_name};
use crate::members::{Change, Members};
use crate::replica::{Opened, Replica, Waiter};
use crate::state::{Error, Meta, State, catching};
use crate::wire::{Answer, Note};
use bytes::Bytes;
use protocol::{NodeId, ReplicaId};
use runtime::disk;
use std::sync::Arc;

/// A replica that left, until the log says so durably.
pub(super) struct Leaving {
    key: Key,
    /// The batch that says so.
    batch: u64,
    state: Option<Arc<State>>,
    waiter: Option<Waiter>,
}

/// A replica that is set aside, until the log says so durably.
pub(super) struct SetAside {
    batch: u64,
    waiter: Waiter,
}

/// A replica that is being made.
pub(super) struct Coming {
    /// The batch that gives it a standing in the log.
    batch: u64,
    waiter: Waiter,
    begun: bool,
}

/// What a configuration proves to a replica that is not in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gone {
    Unproved,
    /// It left, and the group has all that it has.
    Left,
    /// The group was founded anew, from another replica.
    Refounded,
}

fn done(waiter: Waiter) {
    let _ = waiter.send((Answer::Reply, Bytes::new()));
}

fn failed(waiter: Waiter, why: &str) {
    let _ = waiter.send((Answer::Failed, Bytes::copy_from_slice(why.as_bytes())));
}

impl Driver {
    pub(super) fn propose_change(&mut self, key: Key, change: Change, waiter: Waiter) {
        let closing = self.closing.is_some();
        match self.replicas.get_mut(&key) {
            Some(_) if closing => {
                let _ = waiter.send((Answer::NotLeader { leader: None }, Bytes::new()));
            }
            Some(replica) => {
                replica.propose_change(change, waiter);
                self.dirty.insert(key);
            }
            None => {
                let _ = waiter.send((Answer::NoReplica, Bytes::new()));
            }
        }
    }

    /// Make a replica that belongs to nothing until its group says so. It begins as the founders of its group began:
    /// the log, or a snapshot, tells it the rest.
    pub(super) fn create(&mut self, key: Key, waiter: Waiter) {
        if self.replicas.contains_key(&key) {
            return done(waiter);
        }
        if self.gone.contains(&key) {
            return failed(waiter, "it left its group");
        }
        if self.stopped.contains_key(&key) {
            return failed(waiter, "it is there, and does not run");
        }
        let Some(spec) = self.shared.founding.get(&key.group) else { return failed(waiter, "there is no such group") };
        if key.replica <= Members::founding(spec).last {
            // It may have voted, here or elsewhere, and what was lost of that must not be forgotten.
            return failed(waiter, "it was founded with its group, and is never made again");
        }
        if let Some(members) = self.shared.directory.members(key.group) {
            let here = |place: &ReplicaPlace| place.node == self.shared.node && place.drive == self.drive;
            if members.is_gone(key.replica) {
                return failed(waiter, "it left its group");
            }
            if members.place(key.replica).is_some_and(|place| !here(place)) {
                return failed(waiter, "its group has it somewhere else");
            }
        }
        if self.closing.is_some() || self.coming.contains_key(&key) {
            let _ = waiter.send((Answer::Busy, Bytes::new()));
            return;
        }
        if let Err(other) = self.shared.claim(key, self.drive) {
            return failed(waiter, &format!("it is, or was, on drive {other} of this node"));
        }
        let record = record_of(&mut self.forming, key);
        (record.hard, record.start) = (Some(Hard::default()), Some(Start::default()));
        self.urgent = true;
        self.coming.insert(key, Coming { batch: self.batch, waiter, begun: false });
    }

    /// Its standing is durable: now state and manifest.
    fn make(&mut self, key: Key) {
        let (disk, drive) = (self.disk.clone(), self.drive);
        let members = Members::founding(&self.shared.founding[&key.group]);
        let Settings { cache_bytes, mark_interval, .. } = self.shared.settings;
        self.jobs.push(Box::pin(async move {
            let run = disk.clone();
            let make = move || {
                let meta = Meta { key, applied: 0, term: 0, members, state_hash: 0, marks: Vec::new() };
                let state = State::create(&disk, &state_name(key, 1), cache_bytes, mark_interval, meta)?;
                Manifest { drive, key, file: 1 }.write(disk.as_ref())?;
                Ok(state)
            };
            let result = disk::run(&run, move || catching(make)).await;
            Done::Created { key, result }
        }));
    }

    pub(super) fn created(&mut self, key: Key, result: Result<State, Error>) {
        let Some(Coming { waiter, .. }) = self.coming.remove(&key) else { return };
        let made = result.map_err(|error| error.to_string()).and_then(|state| {
            let machine = (self.shared.machine)(key.group);
            let (hard, start, entries) = (Hard::default(), Start::default(), Vec::new());
            let opened = Opened { key, machine, state, file: 1, hard, start, entries };
            Replica::new(opened, &self.shared.settings, &self.shared.budget).map_err(|error| error.to_string())
        });
        match made {
            Ok(replica) => {
                tracing::info!(replica = %key, drive = self.disk.label(), "a replica was created");
                self.shared.connect(key, self.drive);
                self.replicas.insert(key, replica);
                self.dirty.insert(key);
                self.publish(key);
                done(waiter);
            }
            Err(reason) => failed(waiter, &reason),
        }
    }

    /// Somebody proved with `members` that the replica left its group.
    pub(super) fn remove_proved(&mut self, key: Key, members: &Members, waiter: Waiter) {
        match self.believes_gone(key, members) {
            Gone::Unproved => failed(waiter, "nothing proves that it left its group"),
            Gone::Left => self.remove(key, Some(waiter)),
            Gone::Refounded if runtime::planted("former-replica-removed") => self.remove(key, Some(waiter)),
            Gone::Refounded => self.set_aside(key, waiter),
        }
    }

    /// What `members` proves to the replica, by all that it knows itself.
    fn believes_gone(&self, key: Key, members: &Members) -> Gone {
        let running = self.replicas.get(&key).map(|replica| replica.members.clone());
        let stopped = || self.stopped.get(&key).and_then(Stopped::members);
        let founded = || self.shared.founding.get(&key.group).map(Members::founding);
        // Where it cannot be read which founding the replica is of, it may be of the first one: what it has may be all that is left of it.
        match running.or_else(stopped).or_else(founded) {
            Some(own) if !members.proves_gone(key.replica, &own) => Gone::Unproved,
            // One that never had anything has nothing to keep.
            Some(own) if members.era() > own.era() && !self.is_blank(key) => Gone::Refounded,
            Some(_) => Gone::Left,
            None => Gone::Unproved,
        }
    }

    /// Whether the replica runs and has nothing yet.
    fn is_blank(&self, key: Key) -> bool {
        let blank = |replica: &Replica| replica.applied == 0 && replica.raw.raft.raft_log.last_index() == 0;
        self.replicas.get(&key).is_some_and(blank)
    }

    /// The group was founded anew without the replica, which may have what it lost: it never runs again, and all that it has stays for
    /// whoever looks for it.
    fn set_aside(&mut self, key: Key, waiter: Waiter) {
        const REASON: &str = "its group was founded anew without it: what it has is kept, and it never runs again";
        let switching = self.replicas.get(&key).is_some_and(|replica| replica.switching.is_some());
        if switching || self.coming.contains_key(&key) {
            let _ = waiter.send((Answer::Busy, Bytes::new()));
            return;
        }
        if self.replicas.contains_key(&key) {
            runtime::probe!("consensus-replica-set-aside");
            self.stop(key, REASON, Stop::Damaged);
        } else if let Some(stopped) = self.stopped.get_mut(&key) {
            if !stopped.is_idle() {
                let _ = waiter.send((Answer::Busy, Bytes::new()));
                return;
            }
            (stopped.damaged, stopped.hope) = (true, Hope::Replacement);
            REASON.clone_into(&mut stopped.reason);
            record_of(&mut self.forming, key).damaged = true;
            self.urgent = true;
            self.publish_stopped(key);
        } else {
            return done(waiter);
        }
        self.aside.push(SetAside { batch: self.batch, waiter });
    }

    /// The replica left its group: it stops at once, and goes when the log says so durably.
    pub(super) fn remove(&mut self, key: Key, waiter: Option<Waiter>) {
        let mut state = None;
        let start = match (self.replicas.remove(&key), self.stopped.remove(&key)) {
            (Some(replica), _) => {
                let start = replica.raw.store().start;
                state = Some(replica.state.clone());
                replica.abandon();
                start
            }
            (None, Some(stopped)) => stopped.patient.start,
            (None, None) => {
                waiter.into_iter().for_each(done);
                return;
            }
        };
        runtime::probe!("consensus-replica-removed");
        tracing::info!(replica = %key, drive = self.disk.label(), "a replica left its group and is removed");
        self.forward.retain(|record| record.key != key);
        self.shared.offers.forget(key);
        let forming = self.forming.remove(&key).unwrap_or_default();
        self.forming_bytes -= forming.entries.iter().map(|entry| entry.data.len() + 16).sum::<usize>().min(self.forming_bytes);
        let hard = forming.hard;
        let record = Record { key, hard, start: Some(start), reset: true, removed: true, ..Record::default() };
        self.forming.insert(key, record);
        self.urgent = true;
        self.gone.insert(key);
        self.dirty.remove(&key);
        self.shared.disconnect(key);
        self.leaving.push(Leaving { key, batch: self.batch, state, waiter });
    }

    /// A batch is durable: what waited for its standing is made, what left goes.
    pub(super) fn members_durable(&mut self) {
        let durable = self.durable_batch;
        let mut makes = Vec::new();
        for (key, coming) in self.coming.iter_mut().filter(|(_, coming)| coming.batch <= durable && !coming.begun) {
            coming.begun = true;
            makes.push(*key);
        }
        makes.into_iter().for_each(|key| self.make(key));
        let (told, wait) = std::mem::take(&mut self.aside).into_iter().partition(|aside: &SetAside| aside.batch <= durable);
        self.aside = wait;
        let told: Vec<SetAside> = told;
        told.into_iter().for_each(|aside| done(aside.waiter));
        let (goes, stay) = std::mem::take(&mut self.leaving).into_iter().partition(|leaving| leaving.batch <= durable);
        self.leaving = stay;
        let goes: Vec<Leaving> = goes;
        for Leaving { key, state, waiter, .. } in goes {
            waiter.into_iter().for_each(done);
            let disk = self.disk.clone();
            self.jobs.push(Box::pin(async move {
                let run = disk.clone();
                let remove = move || {
                    drop(state);
                    manifest::remove_files(disk.as_ref(), key)?;
                    Ok(disk.sync_dir(FOLDER)?)
                };
                if let Err(error) = disk::run(&run, move || catching(remove)).await {
                    tracing::warn!(replica = %key, %error, "files of a replica that left stay until the next start");
                }
                Done::Removed
            }));
        }
    }

    /// Replicas that nobody sends entries (any more) ask whether they left for good: what they missed nobody tells them unasked.
    pub(super) fn ask_whether_gone(&mut self) {
        let forlorn = self.replicas.values().filter(|replica| replica.is_forlorn());
        let asking: Vec<_> = forlorn.map(|replica| (replica.key, replica.others())).collect();
        for (key, others) in asking {
            for other in others {
                self.send_note(other.node, Note::AmIGone { group: key.group, to: other.replica, from: key.replica });
            }
        }
    }

    /// Somebody says that the replica left its group for good, as `members` proves.
    pub(super) fn told_gone(&mut self, key: Key, by: ReplicaId, node: NodeId, members: &Members) {
        // To be set aside it is told by the root group's leader, who waits until that is durable.
        if self.may_speak(key, by, node) && self.believes_gone(key, members) == Gone::Left {
            self.remove(key, None);
        }
    }

    /// Who belongs to the group of a replica that does not run, the newest that is known here.
    pub(super) fn members_of_stopped(&self, key: Key) -> Option<Members> {
        let own = self.stopped.get(&key).and_then(Stopped::members);
        own.into_iter().chain(self.shared.directory.members(key.group)).max_by_key(|members| members.version)
    }

    /// Whether `from`, on `node`, may speak to the replica. Those who left for good are told so.
    pub(super) fn may_speak(&mut self, key: Key, from: ReplicaId, node: NodeId) -> bool {
        let Some(replica) = self.replicas.get_mut(&key) else {
            // It does not run, and has nothing to say about who left.
            let Some(members) = self.members_of_stopped(key).filter(|_| self.stopped.contains_key(&key)) else { return false };
            return !members.is_gone(from) && members.place(from).is_none_or(|place| place.node == node);
        };
        if !replica.members.is_gone(from) {
            return replica.meet(from, node);
        }
        runtime::probe!("consensus-message-of-one-who-left");
        if !replica.is_outside() {
            let members = Box::new(replica.members.clone());
            self.send_note(node, Note::Gone { group: key.group, to: from, from: key.replica, members });
        }
        false
    }
}
