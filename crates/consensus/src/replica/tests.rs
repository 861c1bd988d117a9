//! What a replica takes, and when it waits.

use super::*;
use crate::host::GroupSpec;
use crate::log::tests::MemoryDisk;
use crate::rows::{Rows, RowsMut};
use crate::state::Meta;
use protocol::GroupId;
use runtime::disk::Disk;

struct Machine;

impl StateMachine for Machine {
    fn apply(&self, _: &mut RowsMut<'_>, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn refounded(&self, _: &mut RowsMut<'_>) {}

    fn query(&self, _: &Rows<'_>, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

/// One of three voters, whose state hash was `marks` at those indexes.
fn voter(marks: &[(u64, u64)]) -> Replica {
    voter_in(marks, &Budget::new(128 << 20))
}

/// The same, in memory of this `budget`.
fn voter_in(marks: &[(u64, u64)], budget: &Arc<Budget>) -> Replica {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let key = Key { group: GroupId(1), replica: ReplicaId(1) };
    let place = |id| ReplicaPlace { replica: ReplicaId(id), node: NodeId(id), drive: DriveId(id) };
    let members = Members::founding(&GroupSpec { group: key.group, voters: (1..=3).map(place).collect() });
    let meta = Meta { key, applied: 0, term: 0, members, state_hash: 0, marks: marks.to_vec() };
    let state = State::create(&disk, "raft/state", 1 << 20, 1024, meta).unwrap();
    let (hard, start, entries) = (Hard::default(), Start::default(), Vec::new());
    let opened = Opened { key, machine: Arc::new(Machine), state, file: 1, hard, start, entries };
    Replica::new(opened, &Settings::default(), budget).unwrap()
}

/// The leader of three voters of whom the others do not answer.
fn lonely_leader() -> Replica {
    let mut replica = voter(&[]);
    replica.raw.raft.become_candidate();
    replica.raw.raft.become_leader();
    replica
}

fn outcome(wait: &mut oneshot::Receiver<(Answer, Bytes)>) -> Option<Answer> {
    wait.try_recv().ok().map(|(answer, _)| answer)
}

/// What is answered to a change when commands of `bytes` were proposed until the group was busy.
fn change_under_load(bytes: usize) -> Option<Answer> {
    let mut replica = lonely_leader();
    let mut waits = Vec::new();
    loop {
        let (waiter, mut wait) = oneshot::channel();
        replica.propose(vec![1; bytes], waiter);
        match outcome(&mut wait) {
            None => waits.push(wait),
            Some(answer) => {
                assert_eq!(answer, Answer::Busy);
                break;
            }
        }
    }
    assert!(waits.len() > 10);
    let place = ReplicaPlace { replica: ReplicaId(4), node: NodeId(4), drive: DriveId(4) };
    let (waiter, mut wait) = oneshot::channel();
    replica.propose_change(Change::AddLearner(place), waiter);
    outcome(&mut wait)
}

#[test]
fn a_group_that_is_busy_with_commands_still_takes_a_change() {
    // By their number, and by their bytes.
    assert_eq!(change_under_load(1), None);
    assert_eq!(change_under_load(1 << 20), None);
}

#[test]
fn raft_stands_still_while_a_snapshot_is_switched_to() {
    let offered = || {
        let mut replica = voter(&[]);
        let mut message = Message::default();
        message.set_msg_type(raft::eraftpb::MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (2, 1, 3);
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (9, 3);
        metadata.set_conf_state(replica.members.to_raft());
        replica.raw.step(message).unwrap();
        let ready = replica.raw.ready();
        assert!(!ready.snapshot().is_empty());
        let start = Start { index: 9, term: 3 };
        replica.raw.mut_store().reset(start);
        let number = ready.number();
        replica.raw.advance_append_async(ready);
        // Of what it had been durable nothing is in its log any more.
        assert_eq!(replica.status(DriveId(1)).persisted, None);
        (replica, Switching { number, start, hard: None, entries: Vec::new(), messages: Vec::new(), fetched: None })
    };
    let (mut replica, switching) = offered();
    replica.switching = Some(switching);
    let now = runtime::time::now();
    (0..100).for_each(|_| assert!(!replica.tick(now)));
    replica.switching = None;
    replica.waiting.push_back(Waiting { number: 1, batch: 1, messages: Vec::new(), snapshot: Some(9) });
    (0..100).for_each(|_| assert!(!replica.tick(now)));
    assert_eq!(replica.raw.raft.state, StateRole::Follower);
    // That this is needed: if it fails, raft-rs has learned to bear it.
    let (mut replica, _) = offered();
    let ticks = std::panic::AssertUnwindSafe(|| (0..100).for_each(|_| _ = replica.raw.tick()));
    assert!(std::panic::catch_unwind(ticks).is_err());
}

#[test]
fn a_leader_whose_drive_is_slower_than_the_others_hands_over() {
    let mut replica = lonely_leader();
    let mut ready = replica.raw.ready();
    let entries = ready.take_entries();
    let last = entries.last().unwrap().index;
    replica.raw.mut_store().append(&entries);
    let number = ready.number();
    replica.raw.advance_append_async(ready);
    let now = runtime::time::now();
    let late = now + SLOW_DRIVE + SLOW_DRIVE_PAUSE;
    replica.tick(now);
    replica.tick(late);
    assert_eq!(replica.raw.raft.lead_transferee, None, "nobody else has it either");
    for peer in [2, 3] {
        let mut message = Message::default();
        message.set_msg_type(raft::eraftpb::MessageType::MsgAppendResponse);
        (message.from, message.to, message.term, message.index) = (peer, 1, replica.raw.raft.term, last);
        replica.raw.step(message).unwrap();
    }
    assert_eq!(replica.raw.raft.raft_log.committed, last);
    replica.tick(late);
    replica.tick(late + SLOW_DRIVE / 2);
    assert_eq!(replica.raw.raft.lead_transferee, None, "not yet");
    let mut healthy = replica;
    healthy.raw.on_persist_ready(number);
    healthy.tick(late + SLOW_DRIVE);
    assert_eq!(healthy.raw.raft.lead_transferee, None, "its drive has it now");
}

/// A leader whose entries all others have, and its own drive not yet.
fn outrun_leader() -> Replica {
    let mut replica = lonely_leader();
    let mut ready = replica.raw.ready();
    let entries = ready.take_entries();
    replica.raw.mut_store().append(&entries);
    replica.raw.advance_append_async(ready);
    for peer in [2, 3] {
        let mut message = Message::default();
        message.set_msg_type(raft::eraftpb::MessageType::MsgAppendResponse);
        (message.from, message.to, message.term, message.index) = (peer, 1, replica.raw.raft.term, entries.last().unwrap().index);
        replica.raw.step(message).unwrap();
    }
    replica
}

#[test]
fn a_slow_drive_is_left_once_in_a_while() {
    let mut replica = outrun_leader();
    let now = runtime::time::now();
    replica.tick(now);
    replica.tick(now + SLOW_DRIVE);
    assert!(replica.raw.raft.lead_transferee.is_some());
    replica.raw.raft.lead_transferee = None;
    replica.tick(now + 2 * SLOW_DRIVE);
    assert_eq!(replica.raw.raft.lead_transferee, None, "whoever it was given to may be as slow");
    replica.tick(now + SLOW_DRIVE + SLOW_DRIVE_PAUSE);
    assert!(replica.raw.raft.lead_transferee.is_some());
}

#[test]
fn a_slow_drive_is_left_as_soon_as_somebody_is_there_to_lead() {
    let mut replica = outrun_leader();
    let heard = |replica: &mut Replica, lately: bool| {
        for peer in [2, 3] {
            replica.raw.raft.mut_prs().get_mut(peer).unwrap().recent_active = lately;
        }
    };
    let now = runtime::time::now();
    replica.tick(now);
    heard(&mut replica, false);
    replica.tick(now + SLOW_DRIVE);
    assert_eq!(replica.raw.raft.lead_transferee, None, "nobody is heard of");
    heard(&mut replica, true);
    replica.tick(now + 2 * SLOW_DRIVE);
    assert!(replica.raw.raft.lead_transferee.is_some(), "nothing was handed over yet, so there is nothing to pause after");
}

#[test]
fn nothing_is_taken_while_no_majority_agrees_on_a_state() {
    let mut replica = voter(&[(1024, 7)]);
    let told = |replica: &mut Replica, hashes: &[(u64, u64)]| {
        replica.heard.insert(1024, hashes.iter().map(|(from, hash)| (ReplicaId(*from), *hash)).collect());
        (replica.compare(), replica.disputed)
    };
    assert_eq!(told(&mut replica, &[(2, 7)]), (false, false));
    assert_eq!(told(&mut replica, &[(2, 8)]), (false, true));
    let (waiter, mut wait) = oneshot::channel();
    replica.propose(vec![1], waiter);
    assert_eq!(outcome(&mut wait), Some(Answer::Failed));
    let (waiter, mut wait) = oneshot::channel();
    replica.read(Query { query: Bytes::new(), since: runtime::time::now(), waiter });
    assert_eq!(outcome(&mut wait), Some(Answer::Failed));
    assert_eq!(told(&mut replica, &[(2, 8), (3, 7)]), (false, false), "the third one decides");
    assert!(told(&mut replica, &[(2, 8), (3, 8)]).0, "this one stops");
}

#[test]
fn a_command_whose_caller_is_gone_is_not_taken() {
    let mut replica = lonely_leader();
    let last = replica.raw.raft.raft_log.last_index();
    let (waiter, wait) = oneshot::channel();
    drop(wait);
    replica.propose(vec![1], waiter);
    assert_eq!(replica.raw.raft.raft_log.last_index(), last);
}

#[test]
fn nobody_but_members_fills_memory_with_what_is_said() {
    let mut replica = voter(&[(16, 7)]);
    for stranger in 1000..1100 {
        replica.note_known(ReplicaId(stranger), 2);
        replica.note_hash(ReplicaId(stranger), 16, 8);
    }
    assert!(replica.knows.is_empty() && replica.heard[&16].len() == MEMBERS_MAX);
    assert!(!replica.compare() && !replica.disputed && !replica.diverged, "and what strangers say is in nobody's way");
    // Members are heard all the same.
    replica.note_known(ReplicaId(2), 2);
    replica.note_hash(ReplicaId(2), 16, 7);
    assert_eq!((replica.knows.len(), replica.heard[&16][&ReplicaId(2)]), (1, 7));
    // Nor do they with marks without end.
    for index in 17..100 {
        replica.note_hash(ReplicaId(2), index, 7);
        assert!(!replica.compare());
    }
    assert!(replica.heard.len() <= 16);
    // Who left is forgotten.
    replica.members.voters.retain(|voter| voter.replica != ReplicaId(2));
    replica.note_known(ReplicaId(3), 2);
    assert_eq!(replica.knows.keys().copied().collect::<Vec<_>>(), [ReplicaId(3)]);
}

#[test]
fn a_replica_at_rest_says_its_hash_a_few_times_and_compares_it() {
    let mut replica = voter(&[]);
    let said = |replica: &mut Replica, ticks: u32| (0..ticks).filter_map(|_| replica.tick_rest()).count();
    assert_eq!(said(&mut replica, 1000), 0, "nothing was applied yet");
    replica.state.apply(&Machine, &[entry(1, 1, 0)]).unwrap();
    replica.applied = 1;
    assert_eq!(said(&mut replica, 63), 0);
    assert_eq!(replica.tick_rest(), Some((1, replica.state.meta().state_hash)));
    assert_eq!((said(&mut replica, 63), said(&mut replica, 1), said(&mut replica, 5000)), (0, 1, 3));
    let hash = replica.state.meta().state_hash;
    replica.note_hash(ReplicaId(2), 1, hash);
    assert!(!replica.compare());
    // What was said of this rest counts until the next one, that of indexes without hash does not.
    replica.state.apply(&Machine, &[entry(2, 1, 0), entry(3, 1, 0)]).unwrap();
    replica.applied = 3;
    replica.note_hash(ReplicaId(2), 2, 9);
    assert!(!replica.compare() && !replica.diverged);
    assert_eq!(replica.heard.keys().copied().collect::<Vec<_>>(), [1]);
    // A majority has another state.
    assert_eq!(said(&mut replica, 64), 1);
    replica.note_hash(ReplicaId(2), 3, 9);
    assert!(!replica.compare() && replica.disputed, "one each");
    replica.note_hash(ReplicaId(3), 3, 9);
    assert!(replica.compare());
}

/// A follower of replica 2, which leads in term 3, with entries of `bytes` each behind nothing, of these terms.
fn follower(budget: &Arc<Budget>, terms: &[u64], bytes: usize) -> Replica {
    let mut replica = voter_in(&[], budget);
    let entries: Vec<Entry> = (1..).zip(terms).map(|(index, term)| entry(index, *term, bytes)).collect();
    let mut append = Message::default();
    append.set_msg_type(raft::eraftpb::MessageType::MsgAppend);
    (append.from, append.to, append.term) = (2, 1, 3);
    append.set_entries(entries.into());
    replica.raw.step(append).unwrap();
    while replica.raw.has_ready() {
        let mut ready = replica.raw.ready();
        replica.raw.mut_store().append(&ready.take_entries());
        replica.raw.advance_append_async(ready);
    }
    replica
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry { index, term, data: vec![1; bytes].into(), ..Entry::default() }
}

/// How many of `count` entries of `bytes` each from `first` on the follower takes.
fn taken(replica: &mut Replica, first: u64, count: u64, bytes: usize) -> usize {
    let mut append = Message::default();
    append.set_msg_type(raft::eraftpb::MessageType::MsgAppend);
    (append.from, append.to, append.term, append.index) = (2, 1, 3, first - 1);
    append.set_entries((first..first + count).map(|index| entry(index, 3, bytes)).collect::<Vec<_>>().into());
    replica.shorten(&mut append);
    let kept = append.entries.len();
    replica.raw.mut_store().nothing_comes();
    kept
}

/// A node's memory, and the share that leaves nothing of it to others.
fn full_node() -> (Arc<Budget>, crate::budget::Share) {
    let budget = Budget::new(8 << 20);
    let mut share = budget.share();
    share.set(8 << 20);
    (budget, share)
}

#[test]
fn a_leader_on_a_full_node_takes_its_minimum_and_more_when_there_is_room() {
    let (budget, others) = full_node();
    let mut replica = voter_in(&[], &budget);
    replica.raw.raft.become_candidate();
    replica.raw.raft.become_leader();
    let mut waits = Vec::new();
    let mut busy = |replica: &mut Replica| {
        let (waiter, mut wait) = oneshot::channel();
        replica.propose(vec![1; 8 << 10], waiter);
        let answer = outcome(&mut wait);
        waits.push(wait);
        answer == Some(Answer::Busy)
    };
    let count = (1..).find(|_| busy(&mut replica)).unwrap();
    assert!((7..=8).contains(&count), "64 KiB are there for each, {count} were taken");
    drop(others);
    assert!(!busy(&mut replica));
    assert_eq!(budget.held().entries, replica.raw.store().held(), "counted before Raft says what it wants done");
}

#[test]
fn a_follower_on_a_full_node_takes_what_finds_room_and_never_nothing_for_ever() {
    let (budget, others) = full_node();
    let mut empty = follower(&budget, &[], 0);
    assert_eq!(taken(&mut empty, 1, 20, 8 << 10), 7);
    assert_eq!(taken(&mut empty, 1, 3, 1 << 20), 1, "one, however large it is, if it holds nothing");
    // It has more than its minimum of this leader, who can commit that.
    let mut holding = follower(&budget, &[3; 10], 8 << 10);
    assert_eq!(taken(&mut holding, 11, 5, 1), 0);
    assert_eq!(taken(&mut holding, 6, 10, 1), 5, "what it has takes no room, and has to be answered");
    drop(others);
    assert_eq!(taken(&mut holding, 11, 5, 1), 5);
    // Of another leader: nobody commits that before something of this one follows it.
    let (budget, _others) = full_node();
    let mut inherited = follower(&budget, &[1; 10], 8 << 10);
    assert_eq!(taken(&mut inherited, 11, 20, 8 << 10), 20);
}
