//! Linearizability of every key by all methods that apply; they must agree.

use std::collections::BTreeMap;

use super::register::{Registers, Step, plainly_wrong, registers};
use super::{Verdict, Violation, by_revision, by_search, by_zones, listing};
use crate::history::History;

/// Steps of one key up to which the search runs although a faster method has decided.
const SEARCH_MAX: usize = 2_000;

/// The verdict on each (bucket, key).
pub type Verdicts = BTreeMap<(String, String), Verdict>;

/// Check every key of `history` by revision, by zones and by search. A key that no method can decide is reported, and
/// one on which two methods disagree.
pub fn linearizable(history: &History) -> Vec<Violation> {
    let (ranges, _) = listing::ranges(history);
    let registers = registers(history, &ranges);
    let mut violations = plainly_wrong(history, &registers);
    for ((_, key), steps) in &registers {
        if !violations.iter().any(|violation| violation.is_of(key)) {
            violations.extend(judge(key, steps));
        }
    }
    violations
}

/// What the search of Wing, Gong and Lowe says of each key.
pub fn linearizable_by_search(history: &History) -> Verdicts {
    by(history, by_search::judge)
}

/// What the zones of its values say of each key.
pub fn linearizable_by_zones(history: &History) -> Verdicts {
    by(history, by_zones::judge)
}

/// What the revisions of the replies say of each key.
pub fn linearizable_by_revision(history: &History) -> Verdicts {
    by(history, by_revision::judge)
}

fn by(history: &History, judge: fn(&[Step<'_>]) -> Verdict) -> Verdicts {
    let (ranges, _) = listing::ranges(history);
    let registers: Registers<'_> = registers(history, &ranges);
    registers.iter().map(|((bucket, key), steps)| (((*bucket).to_owned(), (*key).to_owned()), judge(steps))).collect()
}

/// One key.
fn judge(key: &str, steps: &[Step<'_>]) -> Vec<Violation> {
    let mut verdicts = vec![("by revision", by_revision::judge(steps)), ("by zones", by_zones::judge(steps))];
    let decided = verdicts.iter().any(|(_, verdict)| !matches!(verdict, Verdict::Undecided(_)));
    if !decided || steps.len() <= SEARCH_MAX {
        verdicts.push(("by search", by_search::judge(steps)));
    }
    let all = |verdicts: &[(&str, Verdict)]| {
        let lines = verdicts.iter().map(|(method, verdict)| format!("{method}: {verdict}"));
        lines.collect::<Vec<_>>().join("\n  ")
    };
    let key = key.to_owned();
    let holds = verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Linearizable);
    let violated = verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Violated(_)));
    match (holds, violated) {
        (true, false) => Vec::new(),
        (false, true) => vec![Violation::NotLinearizable { key, explanation: all(&verdicts) }],
        (true, true) => vec![Violation::Disagreement { key, verdicts: all(&verdicts) }],
        (false, false) => vec![Violation::Undecided { key, reasons: all(&verdicts) }],
    }
}
