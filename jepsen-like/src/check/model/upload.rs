//! A multipart upload: it is begun, takes parts of which the last of a number counts, and is completed or aborted, once.
//!
//! Complete names parts in ascending order, each by the ETag that it has now; all but the last have 5 MiB at least. One
//! that is repeated with the same parts is done again without effect; with other parts there is no such upload.

use std::collections::BTreeMap;

use super::judge;
use crate::check::Violation;
use crate::check::search::{Machine, Span};
use crate::history::{Action, History, Operation, Outcome, Part, Refusal, Value};

/// S3's least size of all parts but the last.
const PART_BYTES_MIN: u64 = 5 << 20;

/// Check every upload of `history`.
pub fn uploads(history: &History) -> Vec<Violation> {
    let mut uploads: BTreeMap<(&str, &str, &str), Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        let id = match (&operation.action, &operation.outcome) {
            (Action::CreateUpload, Outcome::Begun(upload)) => upload,
            (Action::UploadPart { upload, .. } | Action::Complete { upload, .. } | Action::Abort { upload }, _) => upload,
            _ => continue,
        };
        uploads.entry((&operation.bucket, &operation.key, id)).or_default().push(operation);
    }
    let mut violations = Vec::new();
    for ((bucket, key, upload), operations) in uploads {
        // What tells nothing: refusals of other kinds, and that the bucket is gone.
        let tells = |operation: &&Operation| {
            matches!(operation.outcome, Outcome::Done | Outcome::Begun(_) | Outcome::Unknown(_))
                || matches!(operation.outcome, Outcome::Refused(refusal) if refusal != Refusal::NoSuchBucket)
        };
        let operations: Vec<&Operation> = operations.into_iter().filter(tells).collect();
        let spans: Vec<Span> = operations.iter().map(|operation| span(operation)).collect();
        let object = format!("{bucket}/{key} upload {upload}");
        violations.extend(judge(&object, &operations, &spans, &Upload(&operations), State::NotBegun));
    }
    violations
}

fn span(operation: &Operation) -> Span {
    let is_open = matches!(operation.outcome, Outcome::Unknown(_));
    Span { begun: operation.begun, ended: if is_open { None } else { operation.ended } }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    NotBegun,
    UnderWay(BTreeMap<u16, Value>),
    Completed(Vec<Part>),
    Aborted,
}

struct Upload<'a>(&'a [&'a Operation]);

impl Machine for Upload<'_> {
    type State = State;

    fn step(&self, state: &State, operation: usize, _way: usize) -> Option<State> {
        let operation = self.0[operation];
        let after = apply(state, &operation.action);
        match &operation.outcome {
            Outcome::Refused(refusal) => (after == Err(*refusal)).then(|| state.clone()),
            // Of unknown outcome: placed only where it has an effect.
            _ => after.ok(),
        }
    }

    fn only_reads(&self, operation: usize) -> bool {
        matches!(self.0[operation].outcome, Outcome::Refused(_))
    }
}

/// The reference model.
fn apply(state: &State, action: &Action) -> Result<State, Refusal> {
    match (action, state) {
        (Action::CreateUpload, State::NotBegun) => Ok(State::UnderWay(BTreeMap::new())),
        (Action::UploadPart { number, value, .. }, State::UnderWay(parts)) => {
            let mut parts = parts.clone();
            parts.insert(*number, *value);
            Ok(State::UnderWay(parts))
        }
        (Action::Abort { .. }, State::UnderWay(_)) => Ok(State::Aborted),
        (Action::Complete { parts: named, .. }, _) if !named.is_sorted_by(|one, next| one.number < next.number) => {
            Err(Refusal::InvalidPartOrder)
        }
        (Action::Complete { parts: named, .. }, State::UnderWay(parts)) => {
            let agrees = |part: &Part| parts.get(&part.number).is_some_and(|value| value.same_bytes(part.value));
            if !named.iter().all(agrees) {
                return Err(Refusal::InvalidPart);
            }
            let but_last = &named[..named.len().saturating_sub(1)];
            if but_last.iter().any(|part| part.value.bytes < PART_BYTES_MIN) {
                return Err(Refusal::EntityTooSmall);
            }
            Ok(State::Completed(named.clone()))
        }
        (Action::Complete { parts: named, .. }, State::Completed(parts)) if named == parts => Ok(state.clone()),
        _ => Err(Refusal::NoSuchUpload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::read_back::tests::Log;

    fn big(id: u64) -> Value {
        Value { id, bytes: PART_BYTES_MIN }
    }

    fn part(number: u16, value: Value) -> Action {
        Action::UploadPart { upload: "u".to_owned(), number, value }
    }

    fn complete(parts: &[(u16, Value)]) -> Action {
        let parts = parts.iter().map(|(number, value)| Part { number: *number, value: *value }).collect();
        Action::Complete { upload: "u".to_owned(), parts }
    }

    fn abort() -> Action {
        Action::Abort { upload: "u".to_owned() }
    }

    fn begun() -> Log {
        let mut log = Log::default();
        log.end(Action::CreateUpload, Outcome::Begun("u".to_owned()));
        log
    }

    fn holds(log: &Log) -> bool {
        uploads(&log.history).is_empty()
    }

    #[test]
    fn an_upload_is_completed_once_and_repeating_it_changes_nothing() {
        let named = [(1, big(3)), (4, big(2))];
        let mut log = begun();
        log.done(part(1, big(1))).done(part(4, big(2))).done(part(1, big(3)));
        log.end(complete(&[(1, big(1))]), Outcome::Refused(Refusal::InvalidPart));
        log.end(complete(&[(4, big(2)), (1, big(3))]), Outcome::Refused(Refusal::InvalidPartOrder));
        log.done(complete(&named)).done(complete(&named));
        log.end(complete(&[(4, big(2))]), Outcome::Refused(Refusal::NoSuchUpload));
        log.end(part(1, big(9)), Outcome::Refused(Refusal::NoSuchUpload)).end(abort(), Outcome::Refused(Refusal::NoSuchUpload));
        assert!(holds(&log));
    }

    #[test]
    fn doctored_uploads_are_found() {
        let lies: [&dyn Fn(&mut Log); 8] = [
            // A part that was replaced, one that is missing, one too small, a wrong order.
            &|log| {
                log.done(part(1, big(1))).done(part(1, big(2))).done(complete(&[(1, big(1))]));
            },
            &|log| {
                log.done(part(1, big(1))).done(complete(&[(1, big(1)), (2, big(2))]));
            },
            &|log| {
                let small = Value { id: 5, bytes: 9 };
                log.done(part(1, small)).done(part(2, big(2))).done(complete(&[(1, small), (2, big(2))]));
            },
            &|log| {
                log.done(part(1, big(1))).done(part(2, big(2))).done(complete(&[(2, big(2)), (1, big(1))]));
            },
            // Completed twice with different parts; completed and aborted; a part after the end.
            &|log| {
                log.done(part(1, big(1))).done(part(2, big(2)));
                log.done(complete(&[(1, big(1))])).done(complete(&[(2, big(2))]));
            },
            &|log| {
                log.done(part(1, big(1))).done(abort()).done(complete(&[(1, big(1))]));
            },
            &|log| {
                log.done(part(1, big(1))).done(complete(&[(1, big(1))])).done(part(1, big(2)));
            },
            // A good Complete is refused.
            &|log| {
                log.done(part(1, big(1))).end(complete(&[(1, big(1))]), Outcome::Refused(Refusal::NoSuchUpload));
            },
        ];
        for (number, lie) in lies.iter().enumerate() {
            let mut log = begun();
            lie(&mut log);
            assert!(!holds(&log), "lie {number}");
        }
        let mut never_begun = Log::default();
        never_begun.done(part(1, big(1)));
        assert!(!holds(&never_begun));
    }

    #[test]
    fn races_end_in_one_way_or_the_other() {
        let mut log = begun();
        log.done(part(1, big(1)));
        let (first, second) = (log.begin(complete(&[(1, big(1))])), log.begin(abort()));
        log.finish(first, Outcome::Done).finish(second, Outcome::Done);
        assert!(!holds(&log), "both won");
        log.history.operations[second].outcome = Outcome::Refused(Refusal::NoSuchUpload);
        assert!(holds(&log));
        log.history.operations[second].outcome = Outcome::Unknown("cut".to_owned());
        assert!(holds(&log));
        // The first Complete was lost, and had been done.
        let mut log = begun();
        log.done(part(1, big(1))).unknown(complete(&[(1, big(1))])).end(abort(), Outcome::Refused(Refusal::NoSuchUpload));
        log.done(complete(&[(1, big(1))]));
        assert!(holds(&log));
    }
}
