//! Good and doctored histories; brute force.

mod doctored;
mod listings;
mod simulated;
mod speed;

use super::read_back::tests::{Log, value};
use super::*;
use crate::history::{Action, History, Outcome};

/// What all methods together say; they were made without revisions.
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

/// A bucket that is created again may lie in other partitions, which count from elsewhere.
#[test]
fn revisions_are_not_compared_over_the_lives_of_a_bucket() {
    let mut log = Log::default();
    log.put(1).delete().done(Action::DeleteBucket).done(Action::CreateBucket).put(2).get(Some(2));
    for (operation, revision) in log.history.operations.iter_mut().zip([40, 41, 0, 0, 3, 3]) {
        operation.revision = Some(revision).filter(|revision| *revision > 0);
        if operation.revision.is_none() {
            operation.key.clear();
        }
    }
    assert_eq!(linearizable(&log.history), []);
    log.history.operations.drain(2..4);
    assert!(matches!(linearizable(&log.history)[..], [Violation::Disagreement { .. }]));
}
