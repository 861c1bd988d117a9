//! Each kind of lie, told at the end of a good history, must be caught by each method.

use super::simulated::{Work, simulated, verdicts};
use super::*;

/// Goes on with a good history, one operation after the other.
struct Tail {
    history: History,
    next: u64,
    revision: u64,
}

const A: u64 = 1_000_001;
const B: u64 = 1_000_002;

impl Tail {
    fn new(seed: u64) -> Tail {
        // No unknown outcomes: a delete that may yet take effect would explain most lies.
        let history = simulated(seed, Work { operations: 40, clients: 4, lost: 0, deletes_if: false });
        let times = |operation: &crate::history::Operation| operation.ended.unwrap_or(0).max(operation.begun);
        let next = history.operations.iter().map(times).max().unwrap() + 1;
        let revision = history.operations.iter().filter_map(|operation| operation.revision).max().unwrap_or(0) + 100;
        Tail { history, next, revision }
    }

    fn push(&mut self, action: Action, outcome: Outcome, revision: u64) {
        let mut log = Log::default();
        log.end(action, outcome);
        let mut operation = log.history.operations.remove(0);
        (operation.begun, operation.ended, operation.revision) = (self.next, Some(self.next + 1), Some(revision));
        self.next += 2;
        self.history.operations.push(operation);
    }

    fn done(&mut self, action: Action) -> u64 {
        self.revision += 1;
        self.push(action, Outcome::Done, self.revision);
        self.revision
    }

    fn put(&mut self, id: u64) -> u64 {
        self.done(Action::Put(value(id)))
    }

    fn read(&mut self, id: Option<u64>, revision: u64) {
        self.push(Action::Get, Outcome::Read(id.map_or(Seen::Absent, |id| Seen::Value(value(id)))), revision);
    }
}

/// Every method must say that it is violated, of every base.
fn caught(lie: impl Fn(&mut Tail)) {
    for seed in 0..40 {
        let mut tail = Tail::new(seed);
        tail.put(A);
        tail.read(Some(A), tail.revision);
        let good = verdicts(&tail.history);
        assert!(!good.iter().any(|verdict| matches!(verdict, Verdict::Violated(_))), "{good:?}");
        lie(&mut tail);
        let found = verdicts(&tail.history);
        for (method, verdict) in ["search", "zones", "revision"].iter().zip(&found) {
            // A good base that leaves a method in doubt does so still.
            let was_undecided =
                good.iter().zip(&found).any(|(before, now)| std::ptr::eq(now, verdict) && matches!(before, Verdict::Undecided(_)));
            assert!(
                was_undecided || matches!(verdict, Verdict::Violated(_)),
                "seed {seed}, by {method}: {verdict}\n{}",
                tail.history.to_lines()
            );
        }
        assert!(!linearizable(&tail.history).is_empty());
    }
}

#[test]
fn stale_reads() {
    caught(|tail| {
        let old = tail.revision;
        tail.put(B);
        tail.read(Some(A), old);
    });
    caught(|tail| {
        let new = tail.put(B);
        tail.read(Some(A), new);
    });
}

#[test]
fn lost_updates() {
    caught(|tail| {
        tail.put(B);
        tail.read(None, tail.revision);
    });
    caught(|tail| {
        tail.done(Action::PutIfMatches { value: value(B), expected: value(A) });
        tail.done(Action::PutIfMatches { value: value(B + 1), expected: value(A) });
    });
}

#[test]
fn values_from_nowhere() {
    caught(|tail| tail.read(Some(77_777_777), tail.revision));
    // Read before it was written.
    caught(|tail| {
        tail.read(Some(B), tail.revision);
        tail.put(B);
    });
}

#[test]
fn violated_conditions() {
    // Deleted although it was another value, or none; refused although it was this one.
    caught(|tail| {
        tail.put(B);
        tail.done(Action::DeleteIfMatches(value(A)));
    });
    caught(|tail| {
        tail.delete();
        tail.done(Action::DeleteIfMatches(value(A)));
    });
    caught(|tail| {
        let revision = tail.revision;
        tail.push(Action::DeleteIfMatches(value(A)), Outcome::PreconditionFailed, revision);
        tail.read(Some(A), revision);
    });
    caught(|tail| {
        tail.put(B);
        tail.done(Action::PutIfMatches { value: value(B + 1), expected: value(A) });
    });
    caught(|tail| {
        tail.delete();
        tail.done(Action::PutIfMatches { value: value(B), expected: value(A) });
    });
    caught(|tail| {
        let revision = tail.revision;
        tail.push(Action::PutIfMatches { value: value(B), expected: value(A) }, Outcome::PreconditionFailed, revision);
        tail.read(Some(A), revision);
    });
    caught(|tail| {
        tail.delete();
        tail.push(Action::PutIfAbsent(value(B)), Outcome::PreconditionFailed, tail.revision);
        tail.read(None, tail.revision);
        tail.done(Action::PutIfAbsent(value(B + 1)));
    });
}

#[test]
fn reads_of_deleted_values() {
    caught(|tail| {
        tail.delete();
        tail.read(Some(A), tail.revision);
    });
    caught(|tail| {
        let old = tail.revision;
        tail.delete();
        tail.read(Some(A), old);
    });
}

#[test]
fn swapped_orders() {
    caught(|tail| {
        let new = tail.put(B);
        tail.read(Some(B), new);
        tail.read(Some(A), new - 1);
    });
    caught(|tail| {
        tail.put(B);
        let count = tail.history.operations.len();
        // The revisions tell the other order as well.
        tail.history.operations[count - 1].revision = Some(tail.revision - 1);
        tail.history.operations[count - 2].revision = Some(tail.revision);
        tail.history.operations[count - 3].revision = Some(tail.revision);
        tail.read(Some(A), tail.revision);
    });
}

/// The revisions alone are wrong: some order explains the results, but not the one that the replies named.
#[test]
fn a_wrong_witness_is_a_disagreement() {
    let mut tail = Tail::new(2);
    let first = tail.put(A);
    tail.put(B);
    let count = tail.history.operations.len();
    tail.history.operations[count - 2].revision = Some(first + 1);
    tail.history.operations[count - 1].revision = Some(first);
    assert!(matches!(linearizable(&tail.history)[..], [Violation::Disagreement { .. }]));
}

impl Tail {
    fn delete(&mut self) {
        self.done(Action::Delete);
    }
}
