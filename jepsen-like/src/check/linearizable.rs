//! Linearizability per key by the search of Wing, Gong and Lowe: is there an order of the operations, each placed
//! between its beginning and its end, in which a single register gives the results that were seen?
//!
//! An operation of unknown outcome may take effect at any time after it began, or never: it has no end, and the
//! search need not place it. What was certainly not done, and reads without a result, say nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::history::{Action, History, Operation, Outcome, Seen, Value};

/// States of the search for one key after which it gives up.
const STATES_MAX: usize = 500_000;

/// Check every key of `history`.
pub fn linearizable(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for ((_, key), operations) in history.by_key() {
        let bad = plainly_wrong(key, &operations);
        if !bad.is_empty() {
            violations.extend(bad);
            continue;
        }
        let telling: Vec<&Operation> = operations.into_iter().filter(|operation| says_something(operation)).collect();
        match search(&telling) {
            Verdict::Explained => {}
            Verdict::GivenUp => violations.push(Violation::Undecided { key: key.to_owned(), states: STATES_MAX }),
            Verdict::Impossible { placed, stuck } => {
                violations.push(Violation::NotLinearizable { key: key.to_owned(), explanation: explain(&telling, placed, stuck) });
            }
        }
    }
    violations
}

/// Reads that no order could explain.
fn plainly_wrong(key: &str, operations: &[&Operation]) -> Vec<Violation> {
    let mut written: BTreeMap<Value, u64> = BTreeMap::new();
    for operation in operations {
        if let Action::Put(value) | Action::PutIfAbsent(value) | Action::PutIfMatches { value, .. } = operation.action {
            written.insert(value, operation.begun);
        }
    }
    let mut violations = Vec::new();
    for operation in operations {
        let (key, begun) = (key.to_owned(), operation.begun);
        match &operation.outcome {
            Outcome::Read(Seen::Wrong(reason)) => violations.push(Violation::WrongBytes { key, begun, reason: reason.clone() }),
            Outcome::Read(Seen::Value(value)) if !written.contains_key(value) => {
                violations.push(Violation::NeverWritten { key, begun, value: *value });
            }
            _ => {}
        }
    }
    violations
}

fn says_something(operation: &Operation) -> bool {
    match &operation.outcome {
        Outcome::NotDone(_) => false,
        Outcome::Unknown(_) => operation.action != Action::Get,
        _ => true,
    }
}

/// The register after `operation` took place on `state`; `None` if it cannot have taken place there.
fn step(state: Option<Value>, operation: &Operation) -> Option<Option<Value>> {
    match (operation.action.clone(), &operation.outcome) {
        (Action::Put(value), _) => Some(Some(value)),
        (Action::Delete, _) => Some(None),
        (Action::Get, Outcome::Read(Seen::Absent)) => state.is_none().then_some(state),
        (Action::Get, Outcome::Read(Seen::Value(value))) => (state == Some(*value)).then_some(state),
        (Action::Get, _) => None,
        (conditional @ (Action::PutIfAbsent(_) | Action::PutIfMatches { .. }), outcome) => {
            let (value, holds) = match conditional {
                Action::PutIfAbsent(value) => (value, state.is_none()),
                Action::PutIfMatches { value, expected } => (value, state.is_some_and(|held| held.same_bytes(expected))),
                _ => unreachable!("all others are matched above"),
            };
            match outcome {
                Outcome::PreconditionFailed => (!holds).then_some(state),
                // Of unknown outcome: placed only where it has an effect; elsewhere it need not be placed.
                _ => holds.then_some(Some(value)),
            }
        }
        // Of other operations it knows nothing.
        _ => Some(state),
    }
}

enum Verdict {
    Explained,
    /// At best `placed` operations fit; then the end of `stuck` came first.
    Impossible {
        placed: usize,
        stuck: usize,
    },
    GivenUp,
}

/// A beginning or an end in the order of the run; entries form a linked list from which placed ones are taken out.
struct Entries {
    /// (operation, whether it is its end), from index 1; 0 is the head.
    all: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    end_of: Vec<Option<usize>>,
}

impl Entries {
    fn new(operations: &[&Operation]) -> Entries {
        let mut order: Vec<(u64, usize, bool)> = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            order.push((operation.begun, index, false));
            if let (Some(ended), false) = (operation.ended, matches!(operation.outcome, Outcome::Unknown(_))) {
                order.push((ended, index, true));
            }
        }
        order.sort_unstable();
        let mut all = vec![(usize::MAX, false)];
        let mut end_of = vec![None; operations.len()];
        for (_, operation, is_end) in order {
            if is_end {
                end_of[operation] = Some(all.len());
            }
            all.push((operation, is_end));
        }
        let count = all.len();
        // The list ends in the head's own index.
        let next = (1..count).chain([0]).collect();
        let previous = [count - 1].into_iter().chain(0..count - 1).collect();
        Entries { all, next, previous, end_of }
    }

    fn unlink(&mut self, entry: usize) {
        let (before, after) = (self.previous[entry], self.next[entry]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    /// Undo the last `unlink` that was not undone.
    fn relink(&mut self, entry: usize) {
        let (before, after) = (self.previous[entry], self.next[entry]);
        self.next[before] = entry;
        self.previous[after] = entry;
    }
}

fn search(operations: &[&Operation]) -> Verdict {
    let mut entries = Entries::new(operations);
    let mut to_place = entries.end_of.iter().flatten().count();
    let mut placed = vec![0u64; operations.len().div_ceil(64)];
    let mut state: Option<Value> = None;
    let mut tried: BTreeSet<(Vec<u64>, Option<Value>)> = BTreeSet::new();
    let mut stack: Vec<(usize, Option<Value>)> = Vec::new();
    let mut best = (0, usize::MAX);
    let mut entry = entries.next[0];
    while to_place > 0 {
        assert!(entry != 0, "the end of an operation that is still to be placed lies ahead");
        let (operation, is_end) = entries.all[entry];
        if !is_end {
            let (word, bit) = (operation / 64, 1u64 << (operation % 64));
            if let Some(after) = step(state, operations[operation]) {
                placed[word] |= bit;
                if tried.insert((placed.clone(), after)) {
                    if tried.len() > STATES_MAX {
                        return Verdict::GivenUp;
                    }
                    stack.push((entry, state));
                    state = after;
                    entries.unlink(entry);
                    if let Some(end) = entries.end_of[operation] {
                        entries.unlink(end);
                        to_place -= 1;
                    }
                    entry = entries.next[0];
                    continue;
                }
                placed[word] &= !bit;
            }
            entry = entries.next[entry];
            continue;
        }
        // This operation had ended before anything else could be placed: one of the choices so far was wrong.
        if stack.len() >= best.0 {
            best = (stack.len(), operation);
        }
        let Some((undone, before)) = stack.pop() else { return Verdict::Impossible { placed: best.0, stuck: best.1 } };
        let operation = entries.all[undone].0;
        state = before;
        placed[operation / 64] &= !(1 << (operation % 64));
        if let Some(end) = entries.end_of[operation] {
            entries.relink(end);
            to_place += 1;
        }
        entries.relink(undone);
        entry = entries.next[undone];
    }
    Verdict::Explained
}

/// For people: what could not be placed, and what surrounds it.
fn explain(operations: &[&Operation], placed: usize, stuck: usize) -> String {
    let Some(culprit) = operations.get(stuck) else { return format!("only {placed} of {} operations fit", operations.len()) };
    let end = culprit.ended.unwrap_or(u64::MAX);
    let mut text = format!("at best {placed} of {} operations fit; then this one does not:", operations.len());
    let describe = |operation: &Operation| {
        let until = operation.ended.map_or("open".to_owned(), |ended| ended.to_string());
        format!("\n    [{}..{until}] client {} {:?} -> {:?}", operation.begun, operation.client, operation.action, operation.outcome)
    };
    text.push_str(&describe(culprit));
    text.push_str("\n  the ones around it:");
    let near = operations.iter().filter(|other| other.begun < end && !std::ptr::eq(**other, *culprit));
    for operation in near.rev().take(8).collect::<Vec<_>>().into_iter().rev() {
        text.push_str(&describe(operation));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::read_back::tests::{Log, value};
    use super::*;
    use quickcheck::{Gen, QuickCheck};

    fn verdict(log: Log) -> Vec<Violation> {
        linearizable(&log.history)
    }

    #[test]
    fn reads_that_see_the_last_write_are_explained() {
        let mut log = Log::default();
        log.get(None).put(1).get(Some(1)).delete().get(None).put(2).get(Some(2));
        assert_eq!(verdict(log), []);
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut log = Log::default();
        log.put(1).put(2).get(Some(1));
        assert!(matches!(verdict(log)[..], [Violation::NotLinearizable { .. }]));
    }

    #[test]
    fn an_acknowledged_write_that_vanishes_is_found() {
        let mut log = Log::default();
        log.put(1).get(None);
        assert!(matches!(verdict(log)[..], [Violation::NotLinearizable { .. }]));
    }

    #[test]
    fn a_delete_that_comes_undone_is_found() {
        let mut log = Log::default();
        log.put(1).delete().get(Some(1));
        assert!(matches!(verdict(log)[..], [Violation::NotLinearizable { .. }]));
    }

    #[test]
    fn an_unknown_write_may_show_late_or_never_but_not_come_and_go() {
        let mut never = Log::default();
        never.put(1).unknown(Action::Put(value(2))).get(Some(1));
        assert_eq!(verdict(never), []);
        let mut late = Log::default();
        late.put(1).unknown(Action::Put(value(2))).get(Some(1)).get(Some(2)).get(Some(2));
        assert_eq!(verdict(late), []);
        let mut flickers = Log::default();
        flickers.put(1).unknown(Action::Put(value(2))).get(Some(2)).get(Some(1));
        assert!(matches!(verdict(flickers)[..], [Violation::NotLinearizable { .. }]));
    }

    #[test]
    fn two_winners_of_one_condition_are_found() {
        let mut log = Log::default();
        log.done(Action::PutIfAbsent(value(1))).done(Action::PutIfAbsent(value(2)));
        assert!(matches!(verdict(log)[..], [Violation::NotLinearizable { .. }]));
        let mut log = Log::default();
        log.put(1).done(Action::PutIfMatches { value: value(2), expected: value(1) });
        log.done(Action::PutIfMatches { value: value(3), expected: value(1) });
        assert!(matches!(verdict(log)[..], [Violation::NotLinearizable { .. }]));
    }

    #[test]
    fn a_refused_condition_must_have_been_false() {
        let mut log = Log::default();
        log.put(1).end(Action::PutIfAbsent(value(2)), Outcome::PreconditionFailed).get(Some(1));
        assert_eq!(verdict(log), []);
        let mut log = Log::default();
        log.end(Action::PutIfAbsent(value(2)), Outcome::PreconditionFailed);
        assert!(matches!(verdict(log)[..], [Violation::NotLinearizable { .. }]));
    }

    #[test]
    fn concurrent_writes_may_take_effect_in_either_order_but_in_one() {
        let overlapping = |first: u64, second: u64| {
            let mut log = Log::default();
            let (a, b) = (log.begin(Action::Put(value(1))), log.begin(Action::Put(value(2))));
            log.finish(a, Outcome::Done).finish(b, Outcome::Done).get(Some(first)).get(Some(second));
            verdict(log)
        };
        assert_eq!(overlapping(1, 1), []);
        assert_eq!(overlapping(2, 2), []);
        assert!(matches!(overlapping(1, 2)[..], [Violation::NotLinearizable { .. }]));
    }

    #[test]
    fn wrong_bytes_and_values_from_nowhere_are_found() {
        let mut log = Log::default();
        log.end(Action::Get, Outcome::Read(Seen::Wrong("byte 7".to_owned())));
        assert!(matches!(verdict(log)[..], [Violation::WrongBytes { .. }]));
        let mut log = Log::default();
        log.put(1).get(Some(9));
        assert!(matches!(verdict(log)[..], [Violation::NeverWritten { .. }]));
    }

    /// A register that takes each operation at a random moment between its beginning and its end.
    fn simulated(seed: u64, length: u64) -> Log {
        let mut draws = crate::workload::Draws::new(seed, "register");
        let mut log = Log::default();
        let mut register: Option<Value> = None;
        // (entry, action, outcome once it took effect)
        let mut open: Vec<(usize, Action, Option<Outcome>)> = Vec::new();
        let mut next = 0;
        while next < length || !open.is_empty() {
            let choice = draws.below(3);
            if choice == 0 && next < length && open.len() < 5 {
                next += 1;
                let action = match draws.below(6) {
                    0 => Action::Delete,
                    1 => Action::PutIfAbsent(value(next)),
                    2 => Action::PutIfMatches { value: value(next), expected: register.unwrap_or(value(1_000_000)) },
                    3 => Action::Put(value(next)),
                    _ => Action::Get,
                };
                open.push((log.begin(action.clone()), action, None));
            } else if !open.is_empty() {
                let index = usize::try_from(draws.below(open.len() as u64)).unwrap();
                let (entry, action, outcome) = &mut open[index];
                match outcome.take() {
                    None => {
                        let held = register;
                        *outcome = Some(match action.clone() {
                            Action::Get => Outcome::Read(held.map_or(Seen::Absent, Seen::Value)),
                            Action::PutIfAbsent(_) if held.is_some() => Outcome::PreconditionFailed,
                            Action::PutIfMatches { expected, .. } if held != Some(expected) => Outcome::PreconditionFailed,
                            Action::Delete => {
                                register = None;
                                Outcome::Done
                            }
                            Action::Put(value) | Action::PutIfAbsent(value) | Action::PutIfMatches { value, .. } => {
                                register = Some(value);
                                Outcome::Done
                            }
                            other => unreachable!("{other:?} is not drawn"),
                        });
                    }
                    Some(outcome) => {
                        let lost = draws.below(8) == 0;
                        log.finish(*entry, if lost { Outcome::Unknown("lost".to_owned()) } else { outcome });
                        open.remove(index);
                    }
                }
            }
        }
        log
    }

    #[test]
    fn whatever_a_register_does_is_explained() {
        fn holds(seed: u64) -> bool {
            verdict(simulated(seed, 60)).is_empty()
        }
        QuickCheck::new().rng(Gen::from_size_and_seed(100, 1)).tests(300).quickcheck(holds as fn(u64) -> bool);
    }

    #[test]
    fn a_doctored_history_of_a_register_is_found() {
        let mut found = 0;
        let mut doctored = 0;
        for seed in 0..200 {
            let mut log = simulated(seed, 40);
            // The last read that had ended before a later write was acknowledged is moved behind it.
            let operations = &mut log.history.operations;
            let Some(read) = operations.iter().position(|o| matches!(o.outcome, Outcome::Read(Seen::Value(_)))) else { continue };
            let last = operations.iter().filter_map(|o| o.ended).max().unwrap() + 1;
            let value = operations[read].outcome.clone();
            let Some(write) = operations.iter().rposition(|o| matches!(o.action, Action::Put(_)) && o.outcome == Outcome::Done) else {
                continue;
            };
            let Outcome::Read(Seen::Value(read_value)) = value else { unreachable!("chosen above") };
            if operations[write].action == Action::Put(read_value) || operations[write].begun < operations[read].begun {
                continue;
            }
            let writer = operations.iter().find(|o| matches!(o.action, Action::Put(v) if v == read_value));
            if writer
                .is_none_or(|writer| writer.ended.is_none_or(|ended| ended > operations[write].begun) || writer.outcome != Outcome::Done)
            {
                continue;
            }
            doctored += 1;
            let mut moved = operations[read].clone();
            (moved.begun, moved.ended) = (last, Some(last + 1));
            operations.push(moved);
            found += usize::from(!linearizable(&log.history).is_empty());
        }
        assert!(doctored > 10, "{doctored}");
        assert_eq!(found, doctored);
    }
}
