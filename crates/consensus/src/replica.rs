//! One running replica: its Raft state machine, and who waits for what.
//!
//! Always holds: what Raft wants sent after persisting waits in `waiting` until the batch that holds it is durable;
//! at most one job (apply, checkpoint or switch) works on the state at a time, in order.

mod marks;

use crate::StateMachine;
use crate::budget::Budget;
use crate::host::{ReplicaPlace, ReplicaStatus, Settings};
use crate::log::{Hard, Key, Start};
use crate::members::{Change, MEMBERS_MAX, Members};
use crate::state::State;
use crate::store::Store;
use crate::wire::Answer;
use bytes::Bytes;
use protocol::{DriveId, NodeId, ReplicaId, wire};
use raft::eraftpb::{Entry, EntryType, Message};
use raft::{Config, Progress, ProgressState, RawNode, ReadOnlyOption, StateRole};
use runtime::sync::oneshot;
use runtime::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Most proposals of one group that wait for their outcome; beyond it the group is busy.
const PROPOSALS_MAX: usize = 4096;
/// Most queries of one replica that wait for their read index.
const READS_MAX: usize = 4096;
/// Read indexes under way at once; the queries that come meanwhile share the next one.
const READ_FLIGHTS_MAX: usize = 4;
/// Ticks after which a read index that did not come is asked for anew: Raft drops such requests silently.
const READ_TICKS: u64 = 3;
/// Bytes of uncommitted entries that a leader holds; beyond it the group is busy.
const UNCOMMITTED_BYTES_MAX: u64 = 16 << 20;
/// Kept free beyond it for changes of the members, of which one at a time is under way: load must not hold an exchange up.
const CHANGES_BYTES: u64 = 64 << 10;

/// Committed entries that a learner may lack when it is made a voter.
const CAUGHT_UP_ENTRIES: u64 = 128;
/// Ticks between two looks at whether the version of a group's commands can be raised.
const VERSION_TICKS: u64 = 16;
/// Ticks in which a leader that will not stay a voter tries to hand leadership over.
const HANDOVER_TICKS: u64 = 30;
/// A leader's drive may be this much later than those of a majority of the others: longer than a checkpoint holds up a sound one.
const SLOW_DRIVE: Duration = Duration::from_millis(500);
/// Between two times that a replica hands leadership over because of its drive: the next one may be as slow.
const SLOW_DRIVE_PAUSE: Duration = Duration::from_secs(10);
/// What is answered while nobody knows whose state is the right one.
const DISPUTED: &str = "its replicas hold different states, and no majority agrees on one";

mod intake;

/// Who waits for an answer of the state machine.
pub(crate) type Waiter = oneshot::Sender<(Answer, Bytes)>;

pub(crate) struct Proposal {
    term: u64,
    waiter: Waiter,
}

pub(crate) struct Query {
    pub query: Bytes,
    /// When it came: it sees all that anybody knew to be committed by then.
    pub since: Instant,
    pub waiter: Waiter,
}

/// What Raft may learn, and send, when a batch of the log is durable.
pub(crate) struct Waiting {
    /// Raft's number of the ready.
    pub number: u64,
    /// The batch that has to be durable.
    pub batch: u64,
    pub messages: Vec<Message>,
    /// The index of a snapshot that this ready installed.
    pub snapshot: Option<u64>,
}

/// A snapshot that was fetched and waits for Raft to take or leave it.
pub(crate) struct Fetched {
    pub state: State,
    pub file: u64,
}

/// A snapshot that Raft took and that is being switched to.
pub(crate) struct Switching {
    pub number: u64,
    pub start: Start,
    pub hard: Option<Hard>,
    pub entries: Vec<Entry>,
    pub messages: Vec<Message>,
    pub fetched: Option<Fetched>,
}

pub(crate) struct Replica {
    pub key: Key,
    /// As applied here, or as the snapshot has it that Raft took last.
    pub members: Members,
    /// Nodes of replicas that spoke to this one and that it does not know as members yet.
    met: BTreeMap<ReplicaId, NodeId>,
    /// Ticks that this replica leads in an exchange of voters.
    joint_ticks: u64,
    /// While it leads: up to which version the programs of the others know commands, and at which tick of `ticks` they said so.
    knows: BTreeMap<ReplicaId, (u32, u64)>,
    ticks: u64,
    /// The term in which it proposed an exchange as leader; only a planted bug looks at it.
    entered: Option<u64>,
    pub raw: RawNode<Store>,
    pub machine: Arc<dyn StateMachine>,
    pub state: Arc<State>,
    /// Number of the state file.
    pub file: u64,
    pub waiting: VecDeque<Waiting>,
    /// Committed entries that were not given to a job yet.
    pub apply: VecDeque<Entry>,
    /// A job works on the state.
    pub job: bool,
    pub applied: u64,
    /// Applied as of the last checkpoint.
    pub durable: u64,
    pub applied_bytes: usize,
    pub dirty_since: Option<Instant>,
    pub checkpoint_wanted: bool,
    /// Number of the file that a snapshot is being fetched into.
    pub fetching: Option<u64>,
    /// Next state file number to use.
    pub next_file: u64,
    pub fetched: Option<Fetched>,
    pub switching: Option<Switching>,
    pub freezing: bool,
    proposals: BTreeMap<u64, Proposal>,
    reads_new: Vec<Query>,
    reads_under_way: BTreeMap<u64, (u64, Vec<Query>)>,
    reads_known: BTreeMap<u64, Vec<Query>>,
    incarnation: u64,
    read_sequence: u64,
    /// Hashes of the others at marks that this replica reached or has yet to reach.
    heard: BTreeMap<u64, BTreeMap<ReplicaId, u64>>,
    pub last_mark_sent: u64,
    rest: marks::Rest,
    pub diverged: bool,
    /// Others hold another state at some mark, and no majority is known to hold this replica's: it takes nothing and answers nothing, until
    /// the voters that are not heard of decide.
    pub disputed: bool,
    /// While its drive is behind those of a majority of the others: up to where they were then, and since when.
    outrun: Option<(u64, Instant)>,
    /// When it last handed leadership over because of that.
    handed_over: Option<Instant>,
    /// What it was healed of in this life.
    pub healed: Option<String>,
    /// When, and how patiently.
    pub healed_at: Option<(Instant, Duration)>,
    /// When a snapshot was offered to a peer that has not answered yet.
    pub offered: BTreeMap<u64, Instant>,
    /// When the snapshot was made that is offered.
    pub offered_at: Option<Instant>,
    /// Who fetches a snapshot: up to where it has what was committed meanwhile, and when it said so.
    pub fetched_by: BTreeMap<ReplicaId, (u64, Instant)>,
}

/// The parts that a replica is opened from.
pub(crate) struct Opened {
    pub key: Key,
    pub machine: Arc<dyn StateMachine>,
    pub state: State,
    pub file: u64,
    pub hard: Hard,
    pub start: Start,
    pub entries: Vec<Entry>,
}

impl Replica {
    pub(crate) fn new(opened: Opened, settings: &Settings, budget: &Arc<Budget>) -> Result<Replica, raft::Error> {
        let Opened { key, machine, state, file, mut hard, start, entries } = opened;
        let meta = state.meta();
        // The commit index is written lazily; what was applied had been committed.
        hard.commit = hard.commit.max(meta.applied);
        let store = Store::new(hard, meta.members.to_raft(), start, entries, meta.applied, budget.share());
        let config = Config {
            id: key.replica.0,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: meta.applied,
            max_size_per_msg: 512 << 10,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            batch_append: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX + CHANGES_BYTES,
            max_committed_size_per_ready: 4 << 20,
            ..Config::default()
        };
        let raw = RawNode::new(&config, store, &slog::Logger::root(slog::Discard, slog::o!()))?;
        let incarnation = if runtime::planted("readindex-context-reused") { 0 } else { runtime::entropy::u64() };
        Ok(Replica {
            key,
            members: meta.members,
            met: BTreeMap::new(),
            joint_ticks: 0,
            knows: BTreeMap::new(),
            ticks: 0,
            entered: None,
            raw,
            machine,
            applied: meta.applied,
            durable: meta.applied,
            last_mark_sent: meta.applied,
            state: Arc::new(state),
            file,
            next_file: file + 1,
            waiting: VecDeque::new(),
            apply: VecDeque::new(),
            job: false,
            applied_bytes: 0,
            dirty_since: None,
            checkpoint_wanted: false,
            fetching: None,
            fetched: None,
            switching: None,
            freezing: false,
            proposals: BTreeMap::new(),
            reads_new: Vec::new(),
            reads_under_way: BTreeMap::new(),
            reads_known: BTreeMap::new(),
            incarnation,
            read_sequence: 0,
            heard: BTreeMap::new(),
            rest: marks::Rest::default(),
            diverged: false,
            disputed: false,
            outrun: None,
            handed_over: None,
            healed: None,
            healed_at: None,
            offered: BTreeMap::new(),
            offered_at: None,
            fetched_by: BTreeMap::new(),
        })
    }

    pub(crate) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Where the others are, and who leaves among them.
    pub(crate) fn others(&self) -> Vec<ReplicaPlace> {
        self.members.all().filter(|place| place.replica != self.key.replica).copied().collect()
    }

    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        Some(self.raw.raft.leader_id).filter(|id| *id != raft::INVALID_ID).map(ReplicaId)
    }

    pub(crate) fn status(&self, drive: DriveId) -> ReplicaStatus {
        let meta = self.state.meta();
        let persisted = self.raw.raft.raft_log.persisted;
        ReplicaStatus {
            group: self.key.group,
            replica: self.key.replica,
            drive,
            term: self.raw.raft.term,
            leader: self.leader(),
            applied: meta.applied,
            committed: self.raw.raft.raft_log.committed,
            // Raft says term 0 of what lies outside of its log.
            persisted: self.raw.raft.raft_log.term(persisted).ok().filter(|term| *term > 0).map(|term| (persisted, term)),
            state_hash: meta.state_hash,
            members: Some(self.members.clone()),
            trouble: self.diverged.then(|| "its state differs from that of another replica".to_owned()),
            to_be_replaced: false,
            program_too_old: false,
            healed: self.healed.clone(),
        }
    }

    /// Raft took a snapshot, and it is not switched to yet.
    pub(crate) fn takes_snapshot(&self) -> bool {
        self.switching.is_some() || self.waiting.iter().any(|waiting| waiting.snapshot.is_some())
    }

    /// A tick of Raft's clock at `now`. True if Raft has something to say.
    ///
    /// Raft's time stands still while a snapshot is switched to: a replica that stood for election then would look for the entries between
    /// what it has applied and what it knows to be committed, which the snapshot has in their place, and raft-rs panics.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        if self.takes_snapshot() {
            runtime::probe!("consensus-tick-while-switching");
            return false;
        }
        let leaves = self.leave_slow_drive(now);
        self.raw.tick() || leaves
    }

    /// A leader whose own drive has not synced for [`SLOW_DRIVE`] what a majority of the others has long synced hands leadership over: it
    /// answers nobody before its own drive has. Nothing is measured but the others' drives, so none leaves where all are slow.
    fn leave_slow_drive(&mut self, now: Instant) -> bool {
        let (committed, persisted) = (self.raw.raft.raft_log.committed, self.raw.raft.raft_log.persisted);
        if !self.leads() || committed <= persisted {
            self.outrun = None;
            return false;
        }
        let (index, since) = *self.outrun.get_or_insert((committed, now));
        if index <= persisted {
            self.outrun = Some((committed, now));
            return false;
        }
        let late = now.saturating_duration_since(since);
        let lately = self.handed_over.is_some_and(|at| now.saturating_duration_since(at) < SLOW_DRIVE_PAUSE);
        if late < SLOW_DRIVE || lately || self.raw.raft.lead_transferee.is_some() {
            return false;
        }
        let Some(successor) = self.successor() else { return false };
        self.handed_over = Some(now);
        runtime::probe!("consensus-leader-left-its-slow-drive");
        tracing::warn!(replica = %self.key, late_ms = late.as_millis(), successor, "its drive is slower than those of the others; handing leadership over");
        self.raw.transfer_leader(successor);
        true
    }

    /// Propose a change of the members; the waiter is told what they are when it is applied.
    pub(crate) fn propose_change(&mut self, change: Change, waiter: Waiter) {
        let answer = |answer: Answer, waiter: Waiter| {
            let _ = waiter.send((answer, Bytes::new()));
        };
        if !self.leads() {
            return answer(Answer::NotLeader { leader: self.leader() }, waiter);
        }
        if self.raw.raft.lead_transferee.is_some() {
            return answer(Answer::Dropped, waiter);
        }
        // One at a time: the next is judged by what the one before came to. A new leader first applies what it found. However
        // many commands wait: whoever leads has to be able to bring an exchange to its end.
        if self.raw.raft.has_pending_conf() {
            return answer(Answer::Behind, waiter);
        }
        let mut then = self.members.clone();
        match then.take(change) {
            Ok(true) => {}
            told => {
                let told = told.map(|_| &self.members);
                let _ = waiter.send((Answer::Reply, wire::encode(&told).into()));
                return;
            }
        }
        if let Change::Exchange { enters, .. } | Change::Enter(enters) = change
            && !self.may_enter(enters, &then)
        {
            return answer(Answer::Behind, waiter);
        }
        // What Raft does with a proposal, but without protobuf in the entry: nothing in a log or on the wire is parsed as such.
        let index = self.raw.raft.raft_log.last_index() + 1;
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.data = change.encode().into();
        if !self.raw.raft.append_entry(&mut [entry]) {
            return answer(Answer::Busy, waiter);
        }
        if matches!(change, Change::Exchange { .. } | Change::Enter(_)) {
            self.entered = Some(self.raw.raft.term);
        }
        self.raw.raft.pending_conf_index = index;
        self.raw.raft.bcast_append();
        self.proposals.insert(index, Proposal { term: self.raw.raft.term, waiter });
    }

    /// Whether a learner has most of the log, and has said so to this leader; and the voters after the exchange are enough of them heard of.
    fn may_enter(&self, enters: ReplicaId, then: &Members) -> bool {
        let progress = self.raw.raft.prs();
        let heard = |id: ReplicaId| id == self.key.replica || progress.get(id.0).is_some_and(|one| one.recent_active);
        let committed = self.raw.raft.raft_log.committed;
        // Raft takes a new one for active, and for one that lacks nothing in a short log, before it ever answered.
        let answered = |one: &Progress| one.matched > 0 && one.state != ProgressState::Snapshot;
        let caught_up = progress.get(enters.0).is_some_and(|one| answered(one) && one.matched + CAUGHT_UP_ENTRIES >= committed);
        let living = then.voters.iter().filter(|voter| heard(voter.replica)).count();
        caught_up && heard(enters) && living > then.voters.len() / 2
    }

    /// A tick went by: whoever leads brings an exchange of voters to its end, whoever began it. A leader that does not
    /// stay a voter hands leadership over first, for a while.
    pub(crate) fn finish_exchange(&mut self) {
        let Some(step) = self.members.next_step().filter(|_| self.leads()) else {
            self.joint_ticks = 0;
            return;
        };
        if self.raw.raft.has_pending_conf() {
            return;
        }
        if step == Change::Leave && runtime::planted("joint-left-automatically") && self.entered != Some(self.raw.raft.term) {
            // The planted bug leaves it to whoever entered the joint configuration, who may lead no more.
            return;
        }
        self.joint_ticks += 1;
        if !self.members.is_voter(self.key.replica) && self.joint_ticks < HANDOVER_TICKS {
            if self.raw.raft.lead_transferee.is_none()
                && let Some(successor) = self.successor()
            {
                self.raw.transfer_leader(successor);
            }
            return;
        }
        runtime::probe!("consensus-joint-configuration-left-by-its-leader");
        let (waiter, _) = oneshot::channel();
        self.propose_change(step, waiter);
    }

    /// The program of another replica knows commands up to `version`.
    pub(crate) fn note_known(&mut self, from: ReplicaId, version: u32) {
        // Of members only, and only as long as they are, or anybody could fill memory.
        self.knows.insert(from, (version, self.ticks));
        self.knows.retain(|replica, _| self.members.place(*replica).is_some());
    }

    /// A tick went by. A leader raises the version of the group's commands when all who belong have said lately that they know
    /// a newer one; a follower whose program does says so now and then: the leader to tell is returned.
    pub(crate) fn agree_on_version(&mut self) -> Option<ReplicaPlace> {
        self.ticks += 1;
        let own = self.machine.version();
        if own <= self.members.machine || !self.ticks.is_multiple_of(VERSION_TICKS) {
            return None;
        }
        if !self.leads() {
            self.knows.clear();
            return self.leader().and_then(|leader| self.members.place(leader)).copied();
        }
        let lately = |replica: ReplicaId| {
            let (version, at) = self.knows.get(&replica)?;
            (at + 4 * VERSION_TICKS >= self.ticks).then_some(*version)
        };
        let others = self.others();
        let known = others.iter().try_fold(own, |least, place| Some(least.min(lately(place.replica)?)));
        let known = if runtime::planted("version-raised-before-all-know") { Some(own) } else { known };
        if let Some(version) = known.filter(|version| *version > self.members.machine)
            && !self.raw.raft.has_pending_conf()
        {
            runtime::probe!("consensus-machine-version-raised");
            let (waiter, _) = oneshot::channel();
            self.propose_change(Change::Raise(version), waiter);
        }
        None
    }

    /// Let Raft follow changes that were applied. True if this replica left its group for good.
    pub(crate) fn follow(&mut self, changes: Vec<(Change, Members)>) -> bool {
        for (change, members) in changes {
            if let Some(change) = change.to_raft() {
                self.raw.apply_conf_change(&change).expect("Raft takes every step that the members took");
            }
            let conf = self.raw.raft.prs().conf().to_conf_state();
            assert!(members.is_as(&conf), "{}: Raft is at {conf:?}, the state at {members:?}", self.key);
            self.members = members;
        }
        if self.leads() && !self.members.has_vote(self.key.replica) {
            // Raft leaves it to us.
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        self.met.retain(|replica, _| *replica > self.members.last);
        self.members.is_gone(self.key.replica)
    }

    /// Whether nobody sends it entries, as far as it knows: a new one, or one that left.
    pub(crate) fn is_outside(&self) -> bool {
        !self.members.has_vote(self.key.replica) && !self.members.is_learner(self.key.replica)
    }

    /// Whether it may have left without hearing of it: nobody sends it entries, or nobody does any more. A voter would stand
    /// for election, and be told; a learner never does.
    pub(crate) fn is_forlorn(&self) -> bool {
        let raft = &self.raw.raft;
        let silence = !self.leads() && raft.election_elapsed >= raft.election_timeout();
        self.is_outside() || (self.members.is_learner(self.key.replica) && silence)
    }

    /// Whether it is the only voter.
    pub(crate) fn votes_alone(&self) -> bool {
        let alone = |voters: &[ReplicaPlace]| voters.iter().all(|voter| voter.replica == self.key.replica);
        self.members.voters.len() == 1 && alone(&self.members.voters) && alone(&self.members.outgoing)
    }

    /// `from` speaks to this replica from `node`. A replica that lags may be led by one that it has not heard of yet:
    /// its node is remembered. False for who is not where the configuration has it.
    pub(crate) fn meet(&mut self, from: ReplicaId, node: NodeId) -> bool {
        if let Some(known) = self.members.place(from) {
            return known.node == node;
        }
        if self.met.len() >= MEMBERS_MAX && !self.met.contains_key(&from) {
            self.met.pop_first();
        }
        self.met.insert(from, node);
        true
    }

    /// Where a replica of the group is.
    pub(crate) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.members.place(replica).map(|place| place.node).or_else(|| self.met.get(&replica).copied())
    }

    /// This replica no longer leads: its proposals may be committed by the next leader, or not.
    pub(crate) fn forget_proposals(&mut self) {
        for (_, proposal) in std::mem::take(&mut self.proposals) {
            let _ = proposal.waiter.send((Answer::Unknown, Bytes::new()));
        }
    }

    /// Answer who proposed what was applied, up to `applied`.
    pub(crate) fn answer_applied(&mut self, answers: Vec<(u64, u64, Answer, Bytes)>, applied: u64) {
        for (index, term, answer, reply) in answers {
            if let Some(proposal) = self.proposals.remove(&index) {
                // Another term's entry at its index: the proposal itself can never be committed.
                let outcome = if proposal.term == term { (answer, reply) } else { (Answer::Dropped, Bytes::new()) };
                let _ = proposal.waiter.send(outcome);
            }
        }
        let above = self.proposals.split_off(&(applied + 1));
        for (_, proposal) in std::mem::replace(&mut self.proposals, above) {
            let _ = proposal.waiter.send((Answer::Dropped, Bytes::new()));
        }
    }

    /// Take a query; it is answered from a state at least as new as now.
    pub(crate) fn read(&mut self, query: Query) {
        if self.disputed {
            let _ = query.waiter.send((Answer::Failed, Bytes::from_static(DISPUTED.as_bytes())));
        } else if self.leader().is_none() {
            let _ = query.waiter.send((Answer::NotLeader { leader: None }, Bytes::new()));
        } else if self.reads_new.len() >= READS_MAX {
            let _ = query.waiter.send((Answer::Busy, Bytes::new()));
        } else {
            self.reads_new.push(query);
        }
    }

    /// Ask for a read index for all queries that wait for one. A context is (replica, incarnation, sequence) and is
    /// never used twice: Raft ignores a context that it knows, and answers may outlive a restart.
    pub(crate) fn issue_reads(&mut self) {
        self.reads_new.retain(|query| !query.waiter.is_closed());
        if self.reads_new.is_empty() || self.reads_under_way.len() >= READ_FLIGHTS_MAX {
            return;
        }
        if self.leads() {
            if runtime::planted("read-served-by-deposed-leader") {
                let queries = std::mem::take(&mut self.reads_new);
                self.reads_known.entry(self.applied).or_default().extend(queries);
                return;
            }
            // Raft would drop the request silently.
            if !self.raw.raft.commit_to_current_term() {
                return;
            }
        }
        self.read_sequence += 1;
        let mut context = self.key.replica.0.to_le_bytes().to_vec();
        context.extend_from_slice(&self.incarnation.to_le_bytes());
        context.extend_from_slice(&self.read_sequence.to_le_bytes());
        runtime::probe::never_twice("read context", &[self.key.group.0, self.key.replica.0, self.incarnation, self.read_sequence]);
        // The tick counter is set by `tick_reads`; 0 stands for "in this tick".
        // Group, and the queries that share it.
        runtime::probe::tell("consensus-read-index-asked", &[self.key.group.0, self.reads_new.len() as u64]);
        self.reads_under_way.insert(self.read_sequence, (0, std::mem::take(&mut self.reads_new)));
        self.raw.read_index(context);
    }

    /// A tick went by: read indexes that did not come are asked for anew.
    pub(crate) fn tick_reads(&mut self) {
        let mut late = Vec::new();
        for (sequence, (ticks, _)) in self.reads_under_way.iter_mut() {
            *ticks += 1;
            if *ticks > READ_TICKS {
                late.push(*sequence);
            }
        }
        for sequence in late {
            runtime::probe!("consensus-read-index-asked-again");
            let (_, queries) = self.reads_under_way.remove(&sequence).expect("it is late");
            for query in queries {
                self.read(query);
            }
        }
        for (_, queries) in self.reads_known.iter_mut() {
            queries.retain(|query| !query.waiter.is_closed());
        }
    }

    /// Raft says from which applied index on the queries of `context` may be answered.
    pub(crate) fn read_index(&mut self, context: &[u8], index: u64) {
        let number = |at: usize| context.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        if number(0) != Some(self.key.replica.0) || number(8) != Some(self.incarnation) || context.len() != 24 {
            runtime::probe!("consensus-read-index-of-another-incarnation");
            return;
        }
        if let Some((_, queries)) = number(16).and_then(|sequence| self.reads_under_way.remove(&sequence)) {
            self.reads_known.entry(index).or_default().extend(queries);
        }
    }

    /// Queries that may be answered from the state as it is.
    pub(crate) fn take_answerable(&mut self) -> Vec<Query> {
        if self.reads_known.first_key_value().is_none_or(|(index, _)| *index > self.applied) {
            return Vec::new();
        }
        let later = self.reads_known.split_off(&(self.applied + 1));
        let queries: Vec<Query> = std::mem::replace(&mut self.reads_known, later).into_values().flatten().collect();
        for query in &queries {
            let waited = u64::try_from(runtime::time::since(query.since).as_nanos()).unwrap_or(u64::MAX);
            // Group, what is applied here, and how long ago the query came.
            runtime::probe::tell("consensus-read-answered", &[self.key.group.0, self.applied, waited]);
        }
        queries
    }

    /// The voter who is to lead if this node goes: the one that has most of the log.
    pub(crate) fn successor(&self) -> Option<u64> {
        let may = |id: u64| id != self.key.replica.0 && self.members.is_voter(ReplicaId(id));
        let others = self.raw.raft.prs().iter().filter(|(id, progress)| may(**id) && progress.recent_active);
        others.max_by_key(|(id, progress)| (progress.matched, **id)).map(|(id, _)| *id)
    }

    /// Whoever waits hears that this replica is gone.
    pub(crate) fn abandon(mut self) {
        self.forget_proposals();
        let waiting = self.reads_new.into_iter();
        let under_way = self.reads_under_way.into_values().flat_map(|(_, queries)| queries);
        for query in waiting.chain(under_way).chain(self.reads_known.into_values().flatten()) {
            let _ = query.waiter.send((Answer::NoReplica, Bytes::new()));
        }
    }
}

// Outside of any simulation: a replica draws its incarnation, and unit tests have no machine to draw from.
#[cfg(test)]
#[cfg(not(madsim))]
mod tests;
