//! Opening a drive: which of its replicas run, which are left out, and why.
//!
//! Always holds: a replica without its vote, with less than it had acknowledged, or on two drives never runs; what left its group is
//! removed; a replica is made only at the first start of its drive.

use crate::driver::{Driver, Hope, Input, Stopped};
use crate::host::{Bootstrap, Error, GroupSpec, Settings, Switchboard};
use crate::log::{FOLDER, Hard, Key, Log, Record, Recovered, Start};
use crate::manifest::{self, Manifest, state_name};
use crate::members::Members;
use crate::refetch::Patient;
use crate::replica::{Opened, Replica};
use crate::state::{self, Meta, State};
use protocol::{DriveId, GroupId};
use runtime::disk::Disk;
use runtime::sync::Receiver;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is needed to open a drive; runs where blocking is allowed.
pub(crate) struct Opening {
    pub disk: Arc<dyn Disk>,
    pub drive: DriveId,
    pub bootstrap: Bootstrap,
    pub settings: Settings,
    pub founding: BTreeMap<GroupId, GroupSpec>,
    /// The replicas with which groups were founded on this drive.
    pub founders: BTreeSet<Key>,
    /// Up to which version this program knows the commands of each group.
    pub known: BTreeMap<GroupId, u32>,
}

/// An opened drive.
pub(crate) struct Found {
    log: Log,
    replicas: Vec<FoundReplica>,
    /// Each with whether its group is known.
    stopped: Vec<(Key, bool, Left)>,
    /// Replicas that left their groups.
    gone: BTreeSet<Key>,
}

struct FoundReplica {
    key: Key,
    state: State,
    file: u64,
    patient: Patient,
}

impl Opening {
    pub fn open(self) -> Result<Found, Error> {
        self.disk.create_folder(FOLDER)?;
        let mut keys = self.founders.clone();
        keys.extend(manifest::list(self.disk.as_ref())?);
        let mut keys: Vec<Key> = keys.into_iter().collect();
        let create = self.bootstrap == Bootstrap::First;
        let (mut log, mut recovered) = Log::open(self.disk.clone(), self.drive, self.settings.segment_bytes, create, &keys)?;
        keys.extend(manifest::settle_prepared(self.disk.as_ref(), |key| stands(&recovered, key))?);
        let mut replicas = Vec::new();
        let mut stopped = Vec::new();
        let mut resets = Vec::new();
        let mut gone = BTreeSet::new();
        for (key, one) in &recovered {
            if one.removed {
                manifest::remove_files(self.disk.as_ref(), *key)?;
                gone.insert(*key);
            }
        }
        if !gone.is_empty() {
            self.disk.sync_dir(FOLDER)?;
        }
        for key in keys.into_iter().filter(|key| !gone.contains(key)) {
            let one = recovered.remove(&key).unwrap_or_default();
            match self.open_replica(key, one, &mut resets)? {
                Ok(replica) => replicas.push(replica),
                Err(left) => stopped.push((key, self.founding.contains_key(&key.group), *left)),
            }
        }
        // What was begun to be created and never answered for is no replica yet: it may be created again.
        for (key, one) in recovered.into_iter().filter(|(key, one)| !gone.contains(key) && !one.is_blank()) {
            let voted = one.hard.is_some();
            let left = Left::new(patient_of(one), voted, "it is missing from a drive that had it: it has to be replaced".to_owned());
            stopped.push((key, self.founding.contains_key(&key.group), Left { final_word: true, ..left }));
        }
        if !resets.is_empty() {
            log.write(&resets)?;
        }
        Ok(Found { log, replicas, stopped, gone })
    }

    /// Open one replica; the inner error leaves it out, the outer one the whole drive.
    fn open_replica(&self, key: Key, recovered: Recovered, resets: &mut Vec<Record>) -> Result<Result<FoundReplica, Box<Left>>, Error> {
        let Settings { cache_bytes, mark_interval, .. } = self.settings;
        let (voted, damaged) = (recovered.hard.is_some(), recovered.damaged);
        // A first start may have ended between the manifest and the first vote.
        let fresh = self.bootstrap == Bootstrap::First && recovered.start.index == 0 && recovered.last() == 0;
        let mut patient = patient_of(recovered);
        let out = |patient: Patient, final_word: bool, members: Option<Members>, reason: String| {
            let left = Left { final_word, damaged, members, ..Left::new(patient, voted || fresh, reason) };
            Ok(Err(Box::new(left)))
        };
        let Some(spec) = self.founding.get(&key.group) else {
            return out(patient, true, None, "no group names this replica".to_owned());
        };
        let manifest = match Manifest::read(self.disk.as_ref(), self.drive, key) {
            Ok(manifest) => manifest,
            Err(Error::Disk(error)) => return Err(error.into()),
            // Which file holds the state is not known, so there is none.
            Err(error) => return out(patient, !voted, None, error.to_string()),
        };
        let opened = match &manifest {
            Some(manifest) if !voted && !fresh => {
                let reason = "its term and vote are lost, it might vote a second time: it has to be replaced";
                return out(patient, true, self.members_of(manifest), reason.to_owned());
            }
            Some(manifest) if damaged => {
                let reason = "it was found at an earlier start that it must not run";
                return out(patient, true, self.members_of(manifest), reason.to_owned());
            }
            Some(manifest) => {
                manifest.remove_strays(&self.disk)?;
                self.open_state(manifest)
            }
            None if fresh => {
                let meta = Meta { key, applied: 0, term: 0, members: Members::founding(spec), state_hash: 0, marks: Vec::new() };
                let name = state_name(key, 1);
                // Not made, the replica is not there, and made by the next start: the drive counts as new until then.
                let state = State::create(&self.disk, &name, cache_bytes, mark_interval, meta).map_err(|error| Error::Create {
                    drive: self.disk.label().to_owned(),
                    what: name,
                    detail: error.to_string(),
                })?;
                Manifest { drive: self.drive, key, file: 1 }.write(self.disk.as_ref())?;
                Ok(state)
            }
            None => return out(patient, true, None, "it is missing from a drive that had it: it has to be replaced".to_owned()),
        };
        if !voted {
            resets.push(Record { key, hard: Some(Hard::default()), ..Record::default() });
        }
        let file = manifest.map_or(1, |manifest| manifest.file);
        let state = match opened {
            Ok(state) if state.meta().applied < patient.start.index => {
                let reason = format!("its state ends at {}, its log begins after {}", state.meta().applied, patient.start.index);
                let left = Left { file, members: Some(state.meta().members), ..Left::new(patient, true, reason) };
                return Ok(Err(Box::new(left)));
            }
            Ok(state) => state,
            Err(error) => {
                let left = Left { file, newer: error.is_newer(), ..Left::new(patient, true, error.to_string()) };
                return Ok(Err(Box::new(left)));
            }
        };
        let meta = state.meta();
        let applied = Start { index: meta.applied, term: meta.term };
        let own = patient.entries.get(&meta.applied).map(|entry| entry.term);
        let known = if meta.applied == patient.start.index { Some(patient.start.term) } else { own };
        patient.applied = Some(applied);
        if known != Some(meta.term) {
            // A snapshot was switched to, and the log not yet reset: the state stands, the log goes.
            runtime::probe!("consensus-log-reset-at-start");
            patient.cover(applied);
            resets.extend(patient.records(Record { key, ..Record::default() }));
        } else if patient.lean_on_state() {
            resets.extend(patient.records(Record { key, ..Record::default() }));
        }
        let last = patient.last();
        if patient.hard.commit > last {
            // Nothing showed that bytes are gone, so votes may be gone as well.
            let reason = format!("entries up to {} were committed, its log ends at {last}", patient.hard.commit);
            return out(patient, true, Some(meta.members), reason);
        }
        let mut reason = patient.damage().map(|lost| format!("its log lost {lost}"));
        if reason.is_some() && runtime::planted("crippled-replica-votes") {
            patient.forget_lost();
            reason = None;
        }
        Ok(match reason {
            Some(reason) => Err(Box::new(Left { file, state: Some(state), ..Left::new(patient, true, reason) })),
            None => Ok(FoundReplica { key, state, file, patient }),
        })
    }

    fn open_state(&self, manifest: &Manifest) -> Result<State, state::Error> {
        let Settings { cache_bytes, mark_interval, .. } = self.settings;
        let known = self.known.get(&manifest.key.group).copied().unwrap_or(0);
        State::open(&self.disk, &state_name(manifest.key, manifest.file), cache_bytes, mark_interval, manifest.key, known)
    }

    /// Who belonged to the group of a replica that must not run, if that can be read: it may be of an earlier founding than whoever
    /// shows it that it left.
    fn members_of(&self, manifest: &Manifest) -> Option<Members> {
        self.open_state(manifest).ok().map(|state| state.meta().members)
    }
}

/// Whether the log knows the replica, which has no manifest yet, and has not let go of it.
pub(crate) fn stands(recovered: &BTreeMap<Key, Recovered>, key: Key) -> bool {
    recovered.get(&key).is_some_and(|one| !one.removed)
}

pub(crate) fn patient_of(recovered: Recovered) -> Patient {
    let Recovered { hard, start, entries, lost, .. } = recovered;
    Patient { hard: hard.unwrap_or_default(), start, entries, lost, applied: None }
}

/// A replica that is left out at a start.
struct Left {
    patient: Patient,
    voted: bool,
    damaged: bool,
    /// Nothing can be done for it but to replace it.
    final_word: bool,
    /// It is good, and this program is too old for it.
    newer: bool,
    reason: String,
    state: Option<State>,
    /// Who belonged to its group, where its state was good and is not kept open.
    members: Option<Members>,
    /// Number of its state file; 0 if that is not known.
    file: u64,
}

impl Left {
    fn new(patient: Patient, voted: bool, reason: String) -> Left {
        Left { patient, voted, damaged: false, final_word: false, newer: false, reason, state: None, members: None, file: 0 }
    }
}

impl Found {
    /// Whose driver is to be asked: also of those that do not run, for what is left of them.
    pub fn keys(&self) -> Vec<Key> {
        let stopped = self.stopped.iter().filter(|(_, named, _)| *named).map(|(key, ..)| *key);
        self.replicas.iter().map(|replica| replica.key).chain(stopped).collect()
    }

    /// All that the drive has or had.
    pub fn known(&self) -> Vec<Key> {
        let here = self.replicas.iter().map(|replica| replica.key).chain(self.stopped.iter().map(|(key, ..)| *key));
        here.chain(self.gone.iter().copied()).collect()
    }

    /// Replicas that are on another drive of this node as well: they would vote twice, and none is to be preferred.
    pub fn stop_those(&mut self, twice: &BTreeSet<Key>) {
        let reason = "it is on two drives of this node, and might vote twice: it has to be replaced";
        for (_, _, left) in self.stopped.iter_mut().filter(|(key, ..)| twice.contains(key)) {
            (left.final_word, left.reason) = (true, format!("{reason} ({})", left.reason));
        }
        let (stop, run) = std::mem::take(&mut self.replicas).into_iter().partition(|found| twice.contains(&found.key));
        self.replicas = run;
        let stop: Vec<FoundReplica> = stop;
        for FoundReplica { key, state, file, patient } in stop {
            let left = Left { final_word: true, file, state: Some(state), ..Left::new(patient, true, reason.to_owned()) };
            self.stopped.push((key, true, left));
        }
    }

    pub fn into_driver(self, shared: Arc<Switchboard>, drive: DriveId, disk: Arc<dyn Disk>, receiver: Receiver<Input>) -> Driver {
        let mut replicas = Vec::new();
        let mut stopped = BTreeMap::new();
        for (key, named, left) in self.stopped {
            let Left { patient, voted, damaged, final_word, newer, reason, state, members, file } = left;
            tracing::error!(replica = %key, %drive, reason, "a replica is left out; its group goes on without it");
            let hope = match (final_word, newer) {
                (true, _) => Hope::Replacement,
                (false, true) => Hope::NewerProgram,
                (false, false) => Hope::Fetch,
            };
            let machine = named.then(|| (shared.machine)(key.group));
            let mut one = Stopped::new(patient, voted, damaged, machine, hope, reason, shared.budget.share());
            // Above whatever another life left behind.
            let next_file = next_state_file(disk.as_ref(), key).max(file + 1);
            (one.state, one.last_members, one.file, one.next_file) = (state, members, file, next_file);
            shared.publish(key, one.status(key, drive));
            stopped.insert(key, one);
        }
        for found in self.replicas {
            let FoundReplica { key, state, file, patient } = found;
            let (hard, start, entries) = (patient.hard, patient.start, patient.entries.values().cloned().collect());
            let opened = Opened { key, machine: (shared.machine)(key.group), state, file, hard, start, entries };
            match Replica::new(opened, &shared.settings, &shared.budget) {
                Ok(replica) => replicas.push(replica),
                Err(error) => {
                    // What it has stays in the log, and must not pin it.
                    tracing::error!(replica = %key, %drive, %error, "a replica does not run; its group goes on without it");
                    let mut one = Stopped::new(patient, true, false, None, Hope::Replacement, error.to_string(), shared.budget.share());
                    (one.file, one.next_file) = (file, file + 1);
                    shared.publish(key, one.status(key, drive));
                    stopped.insert(key, one);
                }
            }
        }
        Driver::new(shared, drive, disk, receiver, self.log, replicas, stopped, self.gone)
    }
}

/// A number that no state file of the replica has.
fn next_state_file(disk: &dyn Disk, key: Key) -> u64 {
    let prefix = format!("g{}-r{}-", key.group, key.replica);
    let number = |name: &str| name.strip_prefix(&prefix)?.strip_suffix(".redb")?.parse::<u64>().ok();
    let files = disk.list(crate::log::FOLDER).unwrap_or_default();
    files.iter().filter_map(|entry| number(&entry.name)).max().unwrap_or(0) + 1
}
