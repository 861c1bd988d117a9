//! What a leader takes when it is busy.

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

    fn query(&self, _: &Rows<'_>, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

/// The leader of three voters of whom the others do not answer.
fn lonely_leader() -> Replica {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let key = Key { group: GroupId(1), replica: ReplicaId(1) };
    let place = |id| ReplicaPlace { replica: ReplicaId(id), node: NodeId(id), drive: DriveId(id) };
    let members = Members::founding(&GroupSpec { group: key.group, voters: (1..=3).map(place).collect() });
    let meta = Meta { key, applied: 0, term: 0, members, state_hash: 0, marks: Vec::new() };
    let state = State::create(&disk, "raft/state", 1 << 20, 1024, meta).unwrap();
    let (hard, start, entries) = (Hard::default(), Start::default(), Vec::new());
    let opened = Opened { key, machine: Arc::new(Machine), state, file: 1, hard, start, entries };
    let mut replica = Replica::new(opened, &Settings::default()).unwrap();
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
