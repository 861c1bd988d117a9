//! The replicas of one node: for each drive a shared log and the replicas that live on it.

use crate::StateMachine;
use crate::client::Directory;
use crate::digest::States;
use crate::driver::{Driver, Hope, Input, Stopped};
use crate::log::{FOLDER, Hard, Key, Log, Record, Recovered, Start};
use crate::manifest::{self, Manifest, state_name};
use crate::members::Members;
use crate::refetch::Patient;
use crate::replica::{Opened, Replica};
use crate::snapshot::Offers;
use crate::state::{Meta, State};
use crate::wire::Told;
use crate::{Client, methods};
use protocol::{DriveId, GroupId, NodeId, ReplicaId};
use runtime::disk::{self, Disk};
use runtime::rpc::Rpc;
use runtime::sync::{Receiver, Sender, TrySendError, channel, oneshot};
use runtime::task::{self, Task};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Inputs that wait for the driver of one drive; beyond it messages are dropped and requests refused as busy.
const INBOX_MAX: usize = 4096;
/// The longest that a shutdown waits for one drive.
const SHUT_DOWN_WAIT: Duration = Duration::from_secs(10);

/// Where one replica lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaPlace {
    /// Unique in its group, above 0.
    pub replica: ReplicaId,
    pub node: NodeId,
    pub drive: DriveId,
}

/// A group and its first voters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    pub group: GroupId,
    pub voters: Vec<ReplicaPlace>,
}

/// Whether a drive may be without its replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bootstrap {
    /// The cluster's very first start, as far as this drive can tell: missing replicas are created. A caller passes
    /// it until [`Host::open`] succeeded once for the drive, and records that durably.
    First,
    /// The drive had its replicas: one that is missing has lost its votes, and must not come back as if it had none.
    Again,
}

/// A drive for replicas to live on.
pub struct HostDrive {
    pub drive: DriveId,
    pub disk: Arc<dyn Disk>,
    pub bootstrap: Bootstrap,
}

/// What redb needs to work with, in bytes: some hundred pages.
const CACHE_BYTES_MIN: usize = 512 << 10;

/// What can be tuned. The same for all replicas of a group where it says so.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Segments of a drive's log beyond which whatever pins the oldest one is written forward.
    pub segments_max: usize,
    /// Memory for pages of the databases of all replicas of a node, in bytes. Each has the same share, 512 KiB at least; one that comes
    /// later has as much.
    pub cache_bytes: usize,
    /// Raft's unit of time.
    pub tick: Duration,
    /// Silence after which a follower stands for election, in ticks: between this and twice this.
    pub election_ticks: usize,
    /// Interval of heartbeats, in ticks.
    pub heartbeat_ticks: usize,
    /// Bytes of applied commands after which a state is made durable.
    pub checkpoint_bytes: usize,
    /// Time after which it is in any case.
    pub checkpoint_after: Duration,
    /// Memory for the entries of all replicas of a drive, beyond which the largest is cut, in bytes.
    pub log_memory_bytes: usize,
    /// Bytes of entries kept behind a checkpoint, so that a follower that lags a little needs no snapshot.
    pub tail_bytes: usize,
    /// Entries between two comparisons of state hashes; the same on all replicas.
    pub mark_interval: u64,
    /// Bytes of rows in one page of a snapshot, about.
    pub snapshot_page_bytes: usize,
    /// Time after which a snapshot that nobody asks for is let go.
    pub snapshot_idle: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            segment_bytes: 16 << 20,
            segments_max: 4,
            cache_bytes: 256 << 20,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            heartbeat_ticks: 3,
            checkpoint_bytes: 8 << 20,
            checkpoint_after: Duration::from_secs(30),
            log_memory_bytes: 8 << 20,
            tail_bytes: 256 << 10,
            mark_interval: 1024,
            snapshot_page_bytes: 1 << 20,
            snapshot_idle: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// With the share of each of `replicas` in what all replicas of a node have together.
    fn shared_by(self, replicas: usize) -> Settings {
        Settings { cache_bytes: (self.cache_bytes / replicas.max(1)).max(CACHE_BYTES_MIN), ..self }
    }
}

/// All replicas of this node, running. Dropping it ends them at once, as a crash would.
pub struct Host {
    pub(crate) shared: Arc<Switchboard>,
    drivers: Vec<(DriveId, Task<()>, Sender<Input>)>,
}

/// What stopped a host or one of its drives from opening.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Disk(#[from] runtime::disk::Error),
    /// Bytes on the drive are damaged where they had been durable.
    #[error("{drive}: {what} is damaged: {detail}")]
    Damaged { drive: String, what: String, detail: String },
    /// A replica could not be made at the first start; start again when the reason is gone.
    #[error("{drive}: {what} could not be made: {detail}")]
    Create { drive: String, what: String, detail: String },
}

/// State of one replica, for status pages and for the simulator's checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub drive: DriveId,
    pub term: u64,
    pub leader: Option<ReplicaId>,
    pub applied: u64,
    pub committed: u64,
    /// The last entry of which its drive has said that it is durable, and that entry's term; `None` if its log already begins
    /// behind it, as a leader may apply, and cut, before its own drive has answered.
    pub persisted: Option<(u64, u64)>,
    /// Who belongs to its group, as it applied it; `None` if it does not run.
    pub members: Option<Members>,
    /// Rolling hash over every row written, comparable between replicas at the same `applied` (I9).
    pub state_hash: u64,
    /// Why this replica does not run, or what is wrong with it.
    pub trouble: Option<String>,
    /// Nothing heals it: another replica has to take its place.
    pub to_be_replaced: bool,
    /// It is good, and stands still until its node runs a newer program.
    pub program_too_old: bool,
    /// What it had lost and got back from its group since its node started.
    pub healed: Option<String>,
}

/// Makes the state machine of a group.
type MachineOf = dyn Fn(GroupId) -> Arc<dyn StateMachine> + Send + Sync;

/// What the drivers, the methods and the host share.
pub(crate) struct Switchboard {
    pub rpc: Rpc,
    pub node: NodeId,
    /// The groups as they were founded.
    pub founding: BTreeMap<GroupId, GroupSpec>,
    pub settings: Settings,
    pub offers: Offers,
    pub machine: Box<MachineOf>,
    /// Where replicas are, as this node knows it.
    pub directory: Arc<Directory>,
    drivers: BTreeMap<DriveId, Sender<Input>>,
    /// The drive of each replica that runs.
    routes: Mutex<BTreeMap<Key, DriveId>>,
    /// The drive of this node on which each replica is, comes to be, or was until it left. It never is on another one.
    homes: Mutex<BTreeMap<Key, DriveId>>,
    status: Mutex<BTreeMap<Key, (ReplicaStatus, bool)>>,
    pub states: States,
}

impl Switchboard {
    /// Give `input` to the driver of `key`; what cannot be taken at once comes back.
    pub(crate) fn offer(&self, key: Key, input: Input) -> Result<(), Refused> {
        let drive = self.routes.lock().expect("no holder panics").get(&key).copied().ok_or(Refused::NoReplica)?;
        self.tell(drive, input)
    }

    /// Give `input` to the driver of `drive`.
    pub(crate) fn tell(&self, drive: DriveId, input: Input) -> Result<(), Refused> {
        let driver = self.drivers.get(&drive).ok_or(Refused::NoReplica)?;
        driver.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Closed(_) => Refused::NoReplica,
        })
    }

    /// A replica runs on `drive` from now on.
    pub(crate) fn connect(&self, key: Key, drive: DriveId) {
        self.routes.lock().expect("no holder panics").insert(key, drive);
    }

    /// A replica is to be on `drive` from now on. The error is the other drive that it is or was on.
    pub(crate) fn claim(&self, key: Key, drive: DriveId) -> Result<(), DriveId> {
        let home = *self.homes.lock().expect("no holder panics").entry(key).or_insert(drive);
        if home == drive { Ok(()) } else { Err(home) }
    }

    /// A replica is gone.
    pub(crate) fn disconnect(&self, key: Key) {
        self.routes.lock().expect("no holder panics").remove(&key);
        self.status.lock().expect("no holder panics").remove(&key);
    }

    /// The drive of this node on which a replica is, running or not.
    pub(crate) fn drive_of(&self, key: Key) -> Option<DriveId> {
        self.status.lock().expect("no holder panics").get(&key).map(|(status, _)| status.drive)
    }

    /// What is known of a group here, the newest of it.
    pub(crate) fn told(&self, group: GroupId) -> Option<Told> {
        let members = self.directory.members(group)?;
        let status = self.status.lock().expect("no holder panics");
        let here = status.iter().filter(|(key, _)| key.group == group).filter_map(|(_, (status, _))| status.leader.zip(Some(status.term)));
        let leader = here.max_by_key(|(_, term)| *term).map(|(leader, _)| leader);
        Some(Told { members, leader })
    }

    /// Give a message to the driver of `key`, or drop it: Raft sends what matters again.
    pub(crate) fn route(&self, key: Key, input: Input) {
        let _ = self.offer(key, input);
    }

    pub(crate) fn publish(&self, key: Key, status: ReplicaStatus) {
        let leads = status.leader == Some(key.replica);
        if let Some(members) = &status.members {
            self.directory.learn(key.group, members);
        }
        self.status.lock().expect("no holder panics").insert(key, (status, leads));
    }
}

/// Why an input was not taken.
pub(crate) enum Refused {
    NoReplica,
    Busy,
}

impl Host {
    /// Open (first start: create) the replicas of `groups` that live on `drives`, recover them, register the
    /// consensus methods (service 2) with `rpc`, and run. A drive that cannot be opened is left out with its
    /// replicas and reported in the second result; the host runs with the others. A single replica that is damaged
    /// or missing is left out, too, and says so in its status.
    pub async fn open(
        rpc: Rpc,
        drives: Vec<HostDrive>,
        groups: Vec<GroupSpec>,
        machine: impl Fn(GroupId) -> Arc<dyn StateMachine> + Send + Sync + 'static,
    ) -> (Host, Vec<(DriveId, Error)>) {
        Host::open_with(Settings::default(), rpc, drives, groups, machine).await
    }

    /// [`Host::open`] with settings.
    pub async fn open_with(
        settings: Settings,
        rpc: Rpc,
        drives: Vec<HostDrive>,
        groups: Vec<GroupSpec>,
        machine: impl Fn(GroupId) -> Arc<dyn StateMachine> + Send + Sync + 'static,
    ) -> (Host, Vec<(DriveId, Error)>) {
        let node = rpc.node();
        let founding: BTreeMap<GroupId, GroupSpec> = groups.into_iter().map(|spec| (spec.group, spec)).collect();
        let settings = settings.shared_by(founding.values().flat_map(|spec| &spec.voters).filter(|voter| voter.node == node).count());
        let mut failed = Vec::new();
        let mut opened = Vec::new();
        let mut homes = BTreeMap::new();
        let mut twice = BTreeSet::new();
        let mut routes = BTreeMap::new();
        let mut senders = BTreeMap::new();
        for HostDrive { drive, disk, bootstrap } in drives {
            let founders = founding.values().flat_map(|spec| {
                let here = spec.voters.iter().filter(|voter| voter.node == node && voter.drive == drive);
                here.map(|voter| Key { group: spec.group, replica: voter.replica })
            });
            let founders = founders.collect();
            let known = founding.keys().map(|group| (*group, machine(*group).version())).collect();
            let (settings, founding) = (settings.clone(), founding.clone());
            let opening = Opening { disk: disk.clone(), drive, bootstrap, settings, founding, founders, known };
            match disk::run(&disk, move || opening.open()).await {
                Ok(found) => {
                    let (sender, receiver) = channel(INBOX_MAX);
                    for key in found.keys() {
                        routes.insert(key, drive);
                    }
                    for key in found.known() {
                        if homes.insert(key, drive).is_some() {
                            twice.insert(key);
                        }
                    }
                    senders.insert(drive, sender.clone());
                    opened.push((drive, disk, found, sender, receiver));
                }
                Err(error) => {
                    tracing::error!(%drive, %error, "a drive is left out with its replicas");
                    failed.push((drive, error));
                }
            }
        }
        let shared = Arc::new(Switchboard {
            rpc,
            node,
            directory: Arc::new(Directory::of(founding.values())),
            founding,
            settings,
            offers: Offers::default(),
            machine: Box::new(machine),
            drivers: senders,
            routes: Mutex::new(routes),
            homes: Mutex::new(homes),
            status: Mutex::default(),
            states: States::default(),
        });
        methods::register(&shared);
        let mut drivers = Vec::new();
        for (drive, disk, mut found, sender, receiver) in opened {
            found.stop_those(&twice);
            let driver = found.into_driver(shared.clone(), drive, disk, receiver);
            drivers.push((drive, task::spawn(driver.run()), sender));
        }
        (Host { shared, drivers }, failed)
    }

    /// A client for all groups known to this node. What the replicas here learn of their groups, it knows.
    pub fn client(&self) -> Client {
        Client::with_directory(self.shared.rpc.clone(), self.shared.directory.clone())
    }

    /// Whether a replica of this node leads `group`, and the term in which it does.
    pub fn leads(&self, group: GroupId) -> Option<u64> {
        let status = self.shared.status.lock().expect("no holder panics");
        let mut leading = status.values().filter(|(status, leads)| *leads && status.group == group && status.trouble.is_none());
        leading.next().map(|(status, _)| status.term)
    }

    /// Hand leadership of `group` to the voter with most of the log, if a replica of this node leads it. Says whether it
    /// was begun; Raft gives up silently if the successor does not answer.
    pub fn transfer_leadership(&self, group: GroupId) -> bool {
        let leading = {
            let status = self.shared.status.lock().expect("no holder panics");
            status.iter().find(|(key, (status, leads))| *leads && key.group == group && status.trouble.is_none()).map(|(key, _)| *key)
        };
        leading.is_some_and(|key| self.shared.offer(key, Input::Transfer { key }).is_ok())
    }

    /// Replicas of this node that nothing heals, so that others have to take their places; at most `max`.
    pub fn to_be_replaced(&self, max: usize) -> Vec<(GroupId, ReplicaId)> {
        let status = self.shared.status.lock().expect("no holder panics");
        let spent = status.iter().filter(|(_, (status, _))| status.to_be_replaced);
        spent.map(|(key, _)| (key.group, key.replica)).take(max).collect()
    }

    /// All replicas of this node.
    pub fn status(&self) -> Vec<ReplicaStatus> {
        let ended: Vec<DriveId> = self.drivers.iter().filter(|(_, task, _)| task.is_finished()).map(|(drive, ..)| *drive).collect();
        let status = self.shared.status.lock().expect("no holder panics");
        let mut all: Vec<ReplicaStatus> = status.values().map(|(status, _)| status.clone()).collect();
        for one in all.iter_mut().filter(|one| ended.contains(&one.drive)) {
            one.leader = None;
            one.trouble.get_or_insert_with(|| "the task that drives this drive's replicas ended".to_owned());
        }
        all
    }

    /// Hand leadership away where possible, checkpoint every replica, and stop.
    pub async fn shut_down(&self) {
        let mut waits = Vec::new();
        for (drive, _, sender) in &self.drivers {
            let (done, wait) = oneshot::channel();
            if sender.send(Input::ShutDown { done }).await.is_ok() {
                waits.push((*drive, wait));
            }
        }
        for (drive, wait) in waits {
            if runtime::time::timeout(SHUT_DOWN_WAIT, wait).await.is_err() {
                tracing::warn!(%drive, "replicas did not stop in time; their log has everything that they acknowledged");
            }
        }
    }
}

/// What is needed to open a drive; runs where blocking is allowed.
struct Opening {
    disk: Arc<dyn Disk>,
    drive: DriveId,
    bootstrap: Bootstrap,
    settings: Settings,
    founding: BTreeMap<GroupId, GroupSpec>,
    /// The replicas with which groups were founded on this drive.
    founders: BTreeSet<Key>,
    /// Up to which version this program knows the commands of each group.
    known: BTreeMap<GroupId, u32>,
}

/// An opened drive.
struct Found {
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
    fn open(self) -> Result<Found, Error> {
        self.disk.create_folder(FOLDER)?;
        let mut keys = self.founders.clone();
        keys.extend(manifest::list(self.disk.as_ref())?);
        let keys: Vec<Key> = keys.into_iter().collect();
        let create = self.bootstrap == Bootstrap::First;
        let (mut log, mut recovered) = Log::open(self.disk.clone(), self.drive, self.settings.segment_bytes, create, &keys)?;
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
        let out = |patient: Patient, final_word: bool, reason: String| {
            let left = Left { final_word, damaged, ..Left::new(patient, voted || fresh, reason) };
            Ok(Err(Box::new(left)))
        };
        let Some(spec) = self.founding.get(&key.group) else {
            return out(patient, true, "no group names this replica".to_owned());
        };
        let manifest = match Manifest::read(self.disk.as_ref(), self.drive, key) {
            Ok(manifest) => manifest,
            Err(Error::Disk(error)) => return Err(error.into()),
            // Which file holds the state is not known, so there is none.
            Err(error) => return out(patient, !voted, error.to_string()),
        };
        let opened = match &manifest {
            Some(_) if !voted && !fresh => {
                let reason = "its term and vote are lost, it might vote a second time: it has to be replaced";
                return out(patient, true, reason.to_owned());
            }
            Some(_) if damaged => return out(patient, true, "it was found at an earlier start that it must not run".to_owned()),
            Some(manifest) => {
                manifest.remove_strays(&self.disk)?;
                let known = self.known.get(&key.group).copied().unwrap_or(0);
                State::open(&self.disk, &state_name(key, manifest.file), cache_bytes, mark_interval, key, known)
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
            None => return out(patient, true, "it is missing from a drive that had it: it has to be replaced".to_owned()),
        };
        if !voted {
            resets.push(Record { key, hard: Some(Hard::default()), ..Record::default() });
        }
        let file = manifest.map_or(1, |manifest| manifest.file);
        let state = match opened {
            Ok(state) if state.meta().applied < patient.start.index => {
                let reason = format!("its state ends at {}, its log begins after {}", state.meta().applied, patient.start.index);
                let left = Left { file, ..Left::new(patient, true, reason) };
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
            return out(patient, true, reason);
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
}

fn patient_of(recovered: Recovered) -> Patient {
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
    /// Number of its state file; 0 if that is not known.
    file: u64,
}

impl Left {
    fn new(patient: Patient, voted: bool, reason: String) -> Left {
        Left { patient, voted, damaged: false, final_word: false, newer: false, reason, state: None, file: 0 }
    }
}

impl Found {
    /// Whose driver is to be asked: also of those that do not run, for what is left of them.
    fn keys(&self) -> Vec<Key> {
        let stopped = self.stopped.iter().filter(|(_, named, _)| *named).map(|(key, ..)| *key);
        self.replicas.iter().map(|replica| replica.key).chain(stopped).collect()
    }

    /// All that the drive has or had.
    fn known(&self) -> Vec<Key> {
        let here = self.replicas.iter().map(|replica| replica.key).chain(self.stopped.iter().map(|(key, ..)| *key));
        here.chain(self.gone.iter().copied()).collect()
    }

    /// Replicas that are on another drive of this node as well: they would vote twice, and none is to be preferred.
    fn stop_those(&mut self, twice: &BTreeSet<Key>) {
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

    fn into_driver(self, shared: Arc<Switchboard>, drive: DriveId, disk: Arc<dyn Disk>, receiver: Receiver<Input>) -> Driver {
        let mut replicas = Vec::new();
        let mut stopped = BTreeMap::new();
        for (key, named, left) in self.stopped {
            let Left { patient, voted, damaged, final_word, newer, reason, state, file } = left;
            tracing::error!(replica = %key, %drive, reason, "a replica is left out; its group goes on without it");
            let hope = match (final_word, newer) {
                (true, _) => Hope::Replacement,
                (false, true) => Hope::NewerProgram,
                (false, false) => Hope::Fetch,
            };
            let machine = named.then(|| (shared.machine)(key.group));
            let mut one = Stopped::new(patient, voted, damaged, machine, hope, reason);
            // Above whatever another life left behind.
            let next_file = next_state_file(disk.as_ref(), key).max(file + 1);
            (one.state, one.file, one.next_file) = (state, file, next_file);
            shared.publish(key, one.status(key, drive));
            stopped.insert(key, one);
        }
        for found in self.replicas {
            let FoundReplica { key, state, file, patient } = found;
            let Patient { hard, start, entries, .. } = patient;
            let entries = entries.into_values().collect();
            let opened = Opened { key, machine: (shared.machine)(key.group), state, file, hard, start, entries };
            match Replica::new(opened, &shared.settings) {
                Ok(replica) => replicas.push(replica),
                Err(error) => {
                    let patient = Patient { hard, start, ..Patient::default() };
                    let one = Stopped::new(patient, true, false, None, Hope::Replacement, error.to_string());
                    shared.publish(key, one.status(key, drive));
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
