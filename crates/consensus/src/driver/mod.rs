//! The one task that drives all replicas of one drive.
//!
//! Each turn takes what came in (messages, proposals, reads, ticks, finished jobs), lets Raft look at it, and passes on
//! what Raft wants done. The order that everything rests on stands in `order` alone:
//!
//! 1. **persist**: entries, votes and terms of all replicas go into one batch ([`Driver::write_batch`]), one write and
//!    one sync, while the loop goes on taking input for the next batch;
//! 2. **send**: what Raft wants sent after persisting leaves in [`Driver::batch_durable`], never before;
//! 3. **apply**: entries that are committed and durable here are applied by a job ([`Driver::start_jobs`]);
//! 4. **acknowledge**: proposers and readers are answered in [`Driver::entries_applied`], after the transaction.
//!
//! Installing a snapshot (`install`): new state file synced, then the manifest, then the log is reset, then Raft may
//! answer ([`Driver::switched`]). Cutting the log (`upkeep`): checkpoint durable, then the new start in the log, then
//! segments go ([`Driver::checkpointed`]).

mod crippled;
mod install;
mod intake;
mod members;
mod offering;
mod order;
mod outbox;
mod upkeep;

pub(crate) use crippled::{Hope, Stopped};

use crate::budget::Queued;
use crate::host::Switchboard;
use crate::log::{Key, Log, Record};
use crate::members::{Change, Members};
use crate::replica::{Query, Replica, Waiter};
use crate::state::{Applied, Error, Meta, State};
use crate::wire::{Fetch, Note, TailRequest};
use crippled::Step;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use members::{Coming, Leaving, SetAside};
use offering::Offered;
use outbox::Outgoing;
use protocol::{DriveId, NodeId};
use raft::eraftpb::Message;
use runtime::disk::Disk;
use runtime::rpc::Reply;
use runtime::sync::{Receiver, oneshot};
use runtime::time::{self, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes taken in one turn, and bytes of a batch that waits, beyond which no more input is taken.
const TURN_BYTES_MAX: usize = 4 << 20;

/// What comes to a driver from outside.
pub(crate) enum Input {
    Message {
        key: Key,
        /// The node that sent it.
        from: NodeId,
        message: Message,
        /// Held until it is taken, or dropped.
        queued: Queued,
    },
    Note {
        from: NodeId,
        note: Note,
    },
    Propose {
        key: Key,
        data: Vec<u8>,
        queued: Queued,
        waiter: Waiter,
    },
    Read {
        key: Key,
        query: Query,
    },
    Change {
        key: Key,
        change: Change,
        waiter: Waiter,
    },
    /// Make a replica on this drive.
    Create {
        key: Key,
        waiter: Waiter,
    },
    /// Remove a replica that is not in `members`, a configuration of its group.
    Remove {
        key: Key,
        members: Members,
        waiter: Waiter,
    },
    /// Hand leadership to whoever has most of the log.
    Transfer {
        key: Key,
    },
    /// Another replica asks for entries that it lost.
    Fetch {
        key: Key,
        from: NodeId,
        asked: Fetch,
        waiter: oneshot::Sender<Reply>,
    },
    /// Another replica fetches a snapshot, and asks for what was committed meanwhile.
    Tail {
        key: Key,
        from: NodeId,
        asked: TailRequest,
        waiter: oneshot::Sender<Reply>,
    },
    ShutDown {
        done: oneshot::Sender<()>,
    },
}

/// A finished job.
enum Done {
    Logged { log: Box<Log>, batch: u64, result: Result<(), crate::host::Error> },
    Applied { key: Key, result: Result<Applied, Error> },
    Checkpointed { key: Key, result: Result<Meta, Error> },
    Frozen { key: Key, result: Result<Offered, Error> },
    Proved { key: Key, frozen: Offered, result: Result<(u64, u64), Error> },
    Fetched { key: Key, message: Box<Message>, file: u64, result: Result<State, Error> },
    Switched { key: Key, result: Result<(), runtime::disk::Error> },
    Queried { key: Key, result: Result<(), Error> },
    Healing { key: Key, step: Step },
    Created { key: Key, result: Result<State, Error> },
    Removed,
}

pub(crate) struct Driver {
    shared: Arc<Switchboard>,
    drive: DriveId,
    disk: Arc<dyn Disk>,
    inbox: Receiver<Input>,
    replicas: BTreeMap<Key, Replica>,
    stopped: BTreeMap<Key, Stopped>,
    /// Replicas that lived on this drive and left their groups.
    gone: BTreeSet<Key>,
    coming: BTreeMap<Key, Coming>,
    leaving: Vec<Leaving>,
    aside: Vec<SetAside>,
    /// `None` while a batch is being written.
    log: Option<Box<Log>>,
    /// The batch that is being gathered, by replica; its number; whether somebody waits for it.
    forming: BTreeMap<Key, Record>,
    forward: Vec<Record>,
    forming_bytes: usize,
    batch: u64,
    urgent: bool,
    /// A term or vote is in the batch that is being gathered.
    votes: bool,
    durable_batch: u64,
    /// Jobs under way that take long.
    long_jobs: usize,
    /// Of them those that make snapshots ready.
    freezes: usize,
    /// Snapshots that are being fetched.
    fetches: usize,
    dirty: BTreeSet<Key>,
    outgoing: BTreeMap<NodeId, Outgoing>,
    /// Bytes of frames that may wait to be sent to one node.
    outbox_bytes: usize,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    next_tick: Instant,
    ticks: u64,
    closing: Option<(Instant, oneshot::Sender<()>)>,
    /// Why the log is no longer written, if it is not.
    failed: Option<String>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Switchboard>,
        drive: DriveId,
        disk: Arc<dyn Disk>,
        inbox: Receiver<Input>,
        log: Log,
        replicas: Vec<Replica>,
        stopped: BTreeMap<Key, Stopped>,
        gone: BTreeSet<Key>,
    ) -> Driver {
        let replicas: BTreeMap<Key, Replica> = replicas.into_iter().map(|replica| (replica.key, replica)).collect();
        Driver {
            drive,
            disk,
            inbox,
            dirty: replicas.keys().copied().collect(),
            replicas,
            stopped,
            gone,
            coming: BTreeMap::new(),
            leaving: Vec::new(),
            aside: Vec::new(),
            log: Some(Box::new(log)),
            forming: BTreeMap::new(),
            forward: Vec::new(),
            forming_bytes: 0,
            batch: 1,
            urgent: false,
            votes: false,
            durable_batch: 0,
            long_jobs: 0,
            freezes: 0,
            fetches: 0,
            outgoing: BTreeMap::new(),
            outbox_bytes: shared.outbox_bytes(),
            jobs: FuturesUnordered::new(),
            next_tick: time::now() + shared.settings.tick,
            ticks: 0,
            closing: None,
            failed: None,
            shared,
        }
    }

    /// Drive until told to shut down.
    pub(crate) async fn run(mut self) {
        // A group with one voter need not wait for silence before it elects itself.
        for replica in self.replicas.values_mut().filter(|replica| replica.votes_alone()) {
            let _ = replica.raw.campaign();
        }
        self.turn();
        loop {
            // Taking more input while the next batch is full would only grow memory.
            let room = self.forming_bytes < TURN_BYTES_MAX;
            runtime::select! {
                () = time::sleep_until(self.next_tick) => self.tick(),
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.finished(done),
                input = self.inbox.recv(), if room => match input {
                    Some(input) => self.take_all(input),
                    None => return,
                },
            }
            self.turn();
            if self.closing.is_some() && self.may_close() {
                return self.close().await;
            }
        }
    }

    /// What Raft wants done, for every replica that something happened to; then the next batch, and the frames.
    fn turn(&mut self) {
        if let Some(reason) = self.disk.closed()
            && !self.replicas.is_empty()
        {
            self.failed = Some(reason.clone());
            self.stop_all(&reason);
        }
        for key in std::mem::take(&mut self.dirty) {
            self.ready(key);
            self.start_jobs(key);
            self.publish(key);
        }
        self.write_batch();
        for node in self.outgoing.keys().copied().collect::<Vec<_>>() {
            self.flush(node);
        }
    }

    /// There is room for another one: whoever waits for it looks again.
    fn long_job_ended(&mut self) {
        self.long_jobs -= 1;
        self.dirty.extend(self.replicas.iter().filter(|(_, replica)| replica.checkpoint_wanted).map(|(key, _)| *key));
    }

    fn finished(&mut self, done: Done) {
        match done {
            Done::Logged { log, batch, result } => {
                self.log = Some(log);
                match result {
                    Ok(()) => {
                        self.durable_batch = batch;
                        self.batch_durable();
                    }
                    Err(error) => {
                        self.failed = Some(error.to_string());
                        self.stop_all(&error.to_string());
                    }
                }
            }
            Done::Applied { key, result } => self.entries_applied(key, result),
            Done::Checkpointed { key, result } => {
                self.long_job_ended();
                self.checkpointed(key, result);
            }
            Done::Frozen { key, result } => self.frozen(key, result),
            Done::Proved { key, frozen, result } => self.proved(key, &frozen, result),
            Done::Fetched { key, message, file, result } => self.fetched(key, *message, file, result),
            Done::Switched { key, result } => self.switched(key, result),
            Done::Queried { key, result } => {
                if let Err(error) = result {
                    self.stop_of(key, &error);
                }
            }
            Done::Healing { key, step } => self.healing(key, step),
            Done::Created { key, result } => self.created(key, result),
            Done::Removed => {}
        }
    }
}
