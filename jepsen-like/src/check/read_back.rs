//! What stands at the end, when all faults are healed: every acknowledged write is there byte for byte, one of unknown
//! outcome wholly or not at all, and a listing shows exactly what reads show.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::model::version::versioned;
use super::register::{Effect, Step, registers};
use crate::history::{History, Seen};

/// What a key gave at the end: what was seen, or why it cannot be read.
pub type Final = Result<Seen, String>;

/// Compare what every key of `bucket` gave at the end with what `history` allows. Keys of the history that `finals`
/// lacks are unreadable.
pub fn read_back(history: &History, bucket: &str, finals: &BTreeMap<String, Final>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let registers = registers(history, &[]);
    // What they may show there the model of versions says.
    let is_versioned = versioned(history).contains(bucket);
    for ((_, key), _) in history.by_key().into_iter().filter(|((of, key), _)| *of == bucket && !key.is_empty()) {
        let steps = registers.get(&(bucket, key)).map_or(&[][..], Vec::as_slice);
        let key = key.to_owned();
        let found = match finals.get(&key) {
            Some(Ok(Seen::Wrong(reason))) => {
                violations.push(Violation::WrongBytes { key, begun: u64::MAX, reason: reason.clone() });
                continue;
            }
            Some(Ok(seen)) => seen,
            Some(Err(reason)) => {
                violations.push(Violation::Unreadable { key, reason: reason.clone() });
                continue;
            }
            None => {
                violations.push(Violation::Unreadable { key, reason: "it was not read".to_owned() });
                continue;
            }
        };
        let acceptable = acceptable(steps);
        if !is_versioned && !acceptable.contains(found) {
            violations.push(Violation::Lost { key, found: found.clone(), acceptable });
        }
    }
    violations
}

/// Compare a listing at rest with what reads gave.
pub fn listing(finals: &BTreeMap<String, Final>, listed: &[String]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut say = |key: &str, reason: &str| violations.push(Violation::Listing { key: key.to_owned(), reason: reason.to_owned() });
    if let Some(pair) = listed.windows(2).find(|pair| pair[0].as_bytes() >= pair[1].as_bytes()) {
        say(&pair[1], "listed twice, or out of order");
    }
    let shown: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    for (key, found) in finals {
        match (found, shown.contains(key.as_str())) {
            (Ok(Seen::Absent), true) => say(key, "listed, but reads say that it does not exist"),
            (Ok(Seen::Value(_)), false) => say(key, "readable, but not listed"),
            _ => {}
        }
    }
    for key in shown {
        if !finals.contains_key(key) {
            say(key, "listed, but nobody ever wrote it");
        }
    }
    violations
}

/// What the last write to a key may have been: any that no acknowledged write wholly follows.
fn acceptable(steps: &[Step<'_>]) -> Vec<Seen> {
    // A failed condition or a read changes nothing; what was certainly not done is no step.
    let writes: Vec<&Step<'_>> = steps.iter().filter(|step| !step.effect.only_reads()).collect();
    let last_begun = writes.iter().filter(|write| write.ended.is_some()).map(|write| write.begun).max();
    let mut acceptable = Vec::new();
    if last_begun.is_none() {
        acceptable.push(Seen::Absent);
    }
    for write in writes {
        if last_begun.is_some_and(|begun| write.end() < begun) {
            continue;
        }
        let seen = match &write.effect {
            Effect::WriteOneOf(values) => values.iter().copied().map(Seen::Value).collect(),
            effect => vec![effect.writes().map_or(Seen::Absent, Seen::Value)],
        };
        for seen in seen {
            if !acceptable.contains(&seen) {
                acceptable.push(seen);
            }
        }
    }
    acceptable
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::history::{Action, Operation, Outcome, Value};

    /// Writes histories of one key by hand.
    #[derive(Default)]
    pub(crate) struct Log {
        pub history: History,
        next: u64,
    }

    pub(crate) fn value(id: u64) -> Value {
        Value { id, bytes: 100 }
    }

    impl Log {
        pub(crate) fn begin(&mut self, action: Action) -> usize {
            let outcome = Outcome::Unknown("never ended".to_owned());
            self.history.operations.push(Operation {
                client: 0,
                bucket: "b".to_owned(),
                key: "k".to_owned(),
                action,
                begun: self.next,
                begun_us: 0,
                ended: None,
                ended_us: None,
                outcome,
                revision: None,
            });
            self.next += 1;
            self.history.operations.len() - 1
        }

        pub(crate) fn finish(&mut self, entry: usize, outcome: Outcome) -> &mut Log {
            self.history.operations[entry].ended = Some(self.next);
            self.history.operations[entry].outcome = outcome;
            self.next += 1;
            self
        }

        pub(crate) fn end(&mut self, action: Action, outcome: Outcome) -> &mut Log {
            let entry = self.begin(action);
            self.finish(entry, outcome)
        }

        pub(crate) fn done(&mut self, action: Action) -> &mut Log {
            self.end(action, Outcome::Done)
        }

        pub(crate) fn unknown(&mut self, action: Action) -> &mut Log {
            self.end(action, Outcome::Unknown("cut".to_owned()))
        }

        pub(crate) fn put(&mut self, id: u64) -> &mut Log {
            self.done(Action::Put(value(id)))
        }

        pub(crate) fn delete(&mut self) -> &mut Log {
            self.done(Action::Delete)
        }

        pub(crate) fn get(&mut self, id: Option<u64>) -> &mut Log {
            self.end(Action::Get, Outcome::Read(id.map_or(Seen::Absent, |id| Seen::Value(value(id)))))
        }
    }

    fn judge(log: &Log, found: Final) -> Vec<Violation> {
        read_back(&log.history, "b", &[("k".to_owned(), found)].into())
    }

    #[test]
    fn the_last_acknowledged_write_must_be_there() {
        let mut log = Log::default();
        log.put(1).put(2);
        assert_eq!(judge(&log, Ok(Seen::Value(value(2)))), []);
        for found in [Seen::Value(value(1)), Seen::Absent, Seen::Value(value(3))] {
            assert!(matches!(judge(&log, Ok(found))[..], [Violation::Lost { .. }]));
        }
        assert!(matches!(judge(&log, Ok(Seen::Wrong("x".to_owned())))[..], [Violation::WrongBytes { .. }]));
        assert!(matches!(judge(&log, Err("503".to_owned()))[..], [Violation::Unreadable { .. }]));
        assert!(matches!(read_back(&log.history, "b", &BTreeMap::new())[..], [Violation::Unreadable { .. }]));
    }

    #[test]
    fn an_acknowledged_delete_must_hold() {
        let mut log = Log::default();
        log.put(1).delete();
        assert_eq!(judge(&log, Ok(Seen::Absent)), []);
        assert!(matches!(judge(&log, Ok(Seen::Value(value(1))))[..], [Violation::Lost { .. }]));
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not_even_late() {
        let mut log = Log::default();
        log.put(1).unknown(Action::Put(value(2))).put(3);
        for id in [2, 3] {
            assert_eq!(judge(&log, Ok(Seen::Value(value(id)))), []);
        }
        assert!(matches!(judge(&log, Ok(Seen::Value(value(1))))[..], [Violation::Lost { .. }]));
        assert!(matches!(judge(&log, Ok(Seen::Absent))[..], [Violation::Lost { .. }]));
    }

    #[test]
    fn a_refused_write_is_nowhere() {
        let mut log = Log::default();
        log.end(Action::Put(value(1)), Outcome::NotDone("403".to_owned()));
        assert_eq!(judge(&log, Ok(Seen::Absent)), []);
        assert!(matches!(judge(&log, Ok(Seen::Value(value(1))))[..], [Violation::Lost { .. }]));
    }

    #[test]
    fn either_of_two_overlapping_writes_may_be_last() {
        let mut log = Log::default();
        let (a, b) = (log.begin(Action::Put(value(1))), log.begin(Action::Put(value(2))));
        log.finish(a, Outcome::Done).finish(b, Outcome::Done);
        for id in [1, 2] {
            assert_eq!(judge(&log, Ok(Seen::Value(value(id)))), []);
        }
    }

    #[test]
    fn a_listing_shows_exactly_what_reads_show() {
        let finals: BTreeMap<String, Final> =
            [("a".to_owned(), Ok(Seen::Value(value(1)))), ("b".to_owned(), Ok(Seen::Absent)), ("c".to_owned(), Ok(Seen::Value(value(2))))]
                .into();
        let judge = |keys: &[&str]| listing(&finals, &keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>()).len();
        assert_eq!(judge(&["a", "c"]), 0);
        assert_eq!(judge(&["a"]), 1);
        assert_eq!(judge(&["a", "b", "c"]), 1);
        assert_eq!(judge(&["a", "c", "d"]), 1);
        assert_eq!(judge(&["c", "a"]), 1);
        assert_eq!(judge(&["a", "a", "c"]), 1);
    }
}
