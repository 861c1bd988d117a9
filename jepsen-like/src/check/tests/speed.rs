//! A million operations within a minute, in the dev profile.
//!
//! `cargo test -p jepsen-like --lib -- --ignored --nocapture a_million`

use super::simulated::{Work, simulated};
use super::*;

#[test]
#[ignore = "takes seconds; measures the dev profile"]
#[allow(clippy::disallowed_methods)]
fn a_million_operations_within_a_minute() {
    // One key of 500,000 operations, and a thousand of 500 with unknown outcomes among them.
    let mut history = simulated(1, Work { operations: 500_000, clients: 8, lost: 0, deletes_if: false });
    for number in 0..1000 {
        let mut more = simulated(number, Work { operations: 500, clients: 4, lost: 100, deletes_if: false });
        more.operations.iter_mut().for_each(|operation| operation.key = format!("key-{number:04}"));
        history.operations.append(&mut more.operations);
    }
    assert_eq!(history.operations.len(), 1_000_000);
    let timed = |name: &str, judge: &dyn Fn() -> String| {
        let start = std::time::Instant::now();
        let said = judge();
        let took = start.elapsed();
        println!("{name}: {took:?}; {said}");
        assert!(took.as_secs() < 60, "{name} took {took:?}");
    };
    let count = |verdicts: Verdicts| {
        let of = |kind: fn(&Verdict) -> bool| verdicts.values().filter(|verdict| kind(verdict)).count();
        format!(
            "{} linearizable, {} violated, {} undecided",
            of(|verdict| *verdict == Verdict::Linearizable),
            of(|verdict| matches!(verdict, Verdict::Violated(_))),
            of(|verdict| matches!(verdict, Verdict::Undecided(_)))
        )
    };
    timed("by revision", &|| count(linearizable_by_revision(&history)));
    timed("by zones", &|| count(linearizable_by_zones(&history)));
    timed("by search", &|| count(linearizable_by_search(&history)));
    timed("all, agreeing", &|| {
        let violations = linearizable(&history);
        assert!(violations.is_empty(), "{}", violations[0]);
        "no violation".to_owned()
    });
}
