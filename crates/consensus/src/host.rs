//! The replicas of one node: for each drive a shared log and the replicas that live on it.

use crate::StateMachine;
use crate::budget::{Budget, EntriesHeld, Inbox, NODE_BYTES_MIN, Queued};
use crate::client::Directory;
use crate::digest::States;
use crate::driver::{Driver, Input};
use crate::log::Key;
use crate::members::Members;
use crate::opening::Opening;
use crate::snapshot::Offers;
use crate::store::weight;
use crate::wire::Told;
use crate::{Client, methods};
use futures::FutureExt;
use protocol::limits::METADATA_BYTES_MAX;
use protocol::{DriveId, GroupId, NodeId, ReplicaId};
use raft::eraftpb::{Message, MessageType};
use runtime::disk::{self, Disk};
use runtime::rpc::Rpc;
use runtime::sync::{Sender, TrySendError, channel, oneshot};
use runtime::task::{self, Task};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, resume_unwind};
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
    /// Memory for the entries of all replicas of a node, in bytes, 8 MiB at least. Commands that find no room are refused as busy. Each
    /// group has its tail (`tail_bytes`) and 64 KiB however little is left, so that none is held up by others: the tails of all may take a
    /// quarter beyond it, what is kept beside snapshots another, and 500 replicas 32 MiB. What waits for the drives' tasks takes a quarter of it besides, or 4 MiB a drive if that is more, and what waits to be sent another one, or 1 MiB
    /// for each other node.
    pub entries_bytes: usize,
    /// Of it, memory for entries that are applied, in bytes, for all replicas of a drive: beyond it those with most make checkpoints. All
    /// drives together have half of `entries_bytes` at most.
    pub log_memory_bytes: usize,
    /// Bytes of entries kept behind a checkpoint, so that a follower that lags a little needs no snapshot; of all replicas of a drive
    /// together half of `log_memory_bytes` at most.
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
        Settings::within(METADATA_BYTES_MAX)
    }
}

impl Settings {
    /// For a node that may use `bytes` of memory for its replicas: two thirds for pages of databases, one for entries.
    pub fn within(bytes: usize) -> Settings {
        Settings {
            segment_bytes: 16 << 20,
            segments_max: 4,
            cache_bytes: bytes / 3 * 2,
            entries_bytes: bytes / 3,
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

    /// With the share of each of `replicas` and `drives` in what all of a node have together.
    fn shared_by(self, replicas: usize, drives: usize) -> Settings {
        let entries_bytes = self.entries_bytes.max(NODE_BYTES_MIN);
        Settings {
            cache_bytes: (self.cache_bytes / replicas.max(1)).max(CACHE_BYTES_MIN),
            entries_bytes,
            log_memory_bytes: self.log_memory_bytes.min(entries_bytes / 2 / drives.max(1)),
            ..self
        }
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
    /// The last entry of which its drive has said that it is durable, and that entry's term; `None` if there is none yet: the log is
    /// new, or a snapshot is about to take its place. Nothing is applied before it is durable here, also where this replica leads.
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
    /// Memory for entries.
    pub budget: Arc<Budget>,
    pub machine: Box<MachineOf>,
    /// Where replicas are, as this node knows it.
    pub directory: Arc<Directory>,
    drivers: BTreeMap<DriveId, (Sender<Input>, Inbox)>,
    /// The drive of each replica that runs.
    routes: Mutex<BTreeMap<Key, DriveId>>,
    /// The drive of this node on which each replica is, comes to be, or was until it left. It never is on another one.
    homes: Mutex<BTreeMap<Key, DriveId>>,
    status: Mutex<BTreeMap<Key, (ReplicaStatus, bool)>>,
    /// Drives whose drivers ended though nobody asked them to.
    failed: Mutex<BTreeSet<DriveId>>,
    pub states: States,
}

impl Switchboard {
    /// Give `input` to the driver of `key`; what cannot be taken at once comes back.
    pub(crate) fn offer(&self, key: Key, input: Input) -> Result<(), Refused> {
        self.tell(self.route_of(key)?, input)
    }

    fn route_of(&self, key: Key) -> Result<DriveId, Refused> {
        self.routes.lock().expect("no holder panics").get(&key).copied().ok_or(Refused::NoReplica)
    }

    /// Room for `bytes` that are to wait for the driver of `key`.
    pub(crate) fn queue(&self, key: Key, bytes: usize) -> Result<Queued, Refused> {
        let (_, inbox) = self.drivers.get(&self.route_of(key)?).ok_or(Refused::NoReplica)?;
        inbox.queue(bytes).ok_or(Refused::Busy)
    }

    /// Give `input` to the driver of `drive`.
    pub(crate) fn tell(&self, drive: DriveId, input: Input) -> Result<(), Refused> {
        let (driver, _) = self.drivers.get(&drive).ok_or(Refused::NoReplica)?;
        driver.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Closed(_) => Refused::NoReplica,
        })
    }

    /// Whether the drive is one of this node that is open.
    pub(crate) fn has(&self, drive: DriveId) -> bool {
        self.drivers.contains_key(&drive)
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

    /// Give Raft's `message`, which node `from` sent, to the driver of `key`, or drop it: Raft sends what matters again.
    pub(crate) fn pass_on(&self, key: Key, from: NodeId, message: Message) {
        let Ok(drive) = self.route_of(key) else { return };
        let Some((_, inbox)) = self.drivers.get(&drive) else { return };
        let appends = message.get_msg_type() == MessageType::MsgAppend;
        let bytes = if appends { message.entries.iter().map(weight).sum() } else { 0 };
        match inbox.queue(bytes) {
            Some(queued) => _ = self.tell(drive, Input::Message { key, from, message, queued }),
            None => runtime::probe!("consensus-append-found-no-room-in-the-inbox"),
        }
    }

    /// Bytes that may wait to be sent to one node.
    pub(crate) fn outbox_bytes(&self) -> usize {
        self.budget.outbox(self.rpc.known_peers().len())
    }

    /// Give an input to the driver of `key`, or drop it: whoever sent it does so again if it matters.
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

    /// The driver of `drive` has ended, by a panic or as it was asked to: none of its replicas runs, whatever they said of themselves last.
    fn driver_ended(&self, drive: DriveId, panicked: bool) {
        if panicked {
            tracing::error!(%drive, "the task that drives this drive's replicas panicked; none of them runs until the node starts again");
            self.failed.lock().expect("no holder panics").insert(drive);
        }
        let mut all = self.status.lock().expect("no holder panics");
        for (status, leads) in all.values_mut().filter(|(status, _)| status.drive == drive) {
            (status.leader, status.members, *leads) = (None, None, false);
            status.trouble.get_or_insert_with(|| "the task that drives this drive's replicas ended".to_owned());
        }
    }
}

/// Run `driver`, and see to it that nobody takes its replicas for running when it has ended.
async fn drive_replicas(driver: Driver, shared: Arc<Switchboard>, drive: DriveId) {
    let ended = AssertUnwindSafe(driver.run()).catch_unwind().await;
    shared.driver_ended(drive, ended.is_err());
    if let Err(panic) = ended {
        resume_unwind(panic);
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
        let replicas = founding.values().flat_map(|spec| &spec.voters).filter(|voter| voter.node == node).count();
        let (settings, drive_count) = (settings.shared_by(replicas, drives.len()), drives.len());
        let budget = Budget::new(settings.entries_bytes);
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
                    senders.insert(drive, (sender.clone(), budget.inbox(drive_count)));
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
            budget,
            settings,
            offers: Offers::default(),
            machine: Box::new(machine),
            drivers: senders,
            routes: Mutex::new(routes),
            homes: Mutex::new(homes),
            status: Mutex::default(),
            failed: Mutex::default(),
            states: States::default(),
        });
        methods::register(&shared);
        let mut drivers = Vec::new();
        for (drive, disk, mut found, sender, receiver) in opened {
            found.stop_those(&twice);
            let driver = found.into_driver(shared.clone(), drive, disk, receiver);
            drivers.push((drive, task::spawn(drive_replicas(driver, shared.clone(), drive)), sender));
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

    /// Replicas of this node that nothing heals, so that others have to take their places; at most `max`, and others each time, at
    /// random, where there are more. Without those that are known to belong to their groups no more: nobody takes a place that there is not.
    pub fn to_be_replaced(&self, max: usize) -> Vec<(GroupId, ReplicaId)> {
        let spent: Vec<_> = {
            let status = self.shared.status.lock().expect("no holder panics");
            let spent = status.iter().filter(|(_, (status, _))| status.to_be_replaced);
            spent.map(|(key, _)| (key.group, key.replica)).collect()
        };
        let gone = |group, replica| self.shared.directory.members(group).is_some_and(|members| members.is_gone(replica));
        let spent: Vec<_> = spent.into_iter().filter(|(group, replica)| !gone(*group, *replica)).collect();
        if spent.len() <= max {
            return spent;
        }
        from_anywhere(&spent, max, runtime::entropy::u64())
    }

    /// Groups of replicas that run on this node that were founded anew, with the era ([`Members::era`]) that those have applied; at most `max`.
    pub fn refounded(&self, max: usize) -> Vec<(GroupId, u64)> {
        let status = self.shared.status.lock().expect("no holder panics");
        let eras = status.iter().filter_map(|(key, (status, _))| Some((key.group, status.members.as_ref()?.era())));
        eras.filter(|(_, era)| *era > 0).take(max).collect()
    }

    /// Drives of this node whose replicas do not run, and can have no new ones, until the node starts again: a bug ended what drives them.
    pub fn failed_drives(&self) -> BTreeSet<DriveId> {
        self.shared.failed.lock().expect("no holder panics").clone()
    }

    /// What the entries of all replicas of this node take of its memory at present.
    pub fn entries_held(&self) -> EntriesHeld {
        self.shared.budget.held()
    }

    /// All replicas of this node.
    pub fn status(&self) -> Vec<ReplicaStatus> {
        let status = self.shared.status.lock().expect("no holder panics");
        status.values().map(|(status, _)| status.clone()).collect()
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

/// So many of `all`, which are more, that follow one another from a place that was drawn on.
fn from_anywhere<T: Copy>(all: &[T], count: usize, drawn: u64) -> Vec<T> {
    let from = (drawn % all.len() as u64) as usize;
    all.iter().cycle().skip(from).take(count).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_of_at_some_time() {
        let told = |drawn| from_anywhere(&[1, 2, 3, 4, 5], 2, drawn);
        assert_eq!([0, 2, 4, 5].map(told), [[1, 2], [3, 4], [5, 1], [1, 2]]);
    }
}
