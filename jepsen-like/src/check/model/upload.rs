//! A multipart upload: it is begun, takes parts of which the last of a number counts, and is completed or aborted, once.
//!
//! Complete names parts in ascending order, each by the ETag that it has now; all but the last have 5 MiB at least. One
//! that is repeated with the same parts is done again without effect; with other parts there is no such upload.

use std::collections::{BTreeMap, BTreeSet};

use super::judge;
use crate::check::Violation;
use crate::check::search::{Machine, Span};
use crate::history::{Action, History, Operation, Outcome, Part, PartPage, Refusal, Value};

/// S3's least size of all parts but the last.
const PART_BYTES_MIN: u64 = 5 << 20;

/// Check every upload of `history`.
pub fn uploads(history: &History) -> Vec<Violation> {
    let mut uploads: BTreeMap<(&str, &str, &str), Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        let id = match (&operation.action, &operation.outcome) {
            (Action::CreateUpload, Outcome::Begun(upload)) => upload,
            (Action::UploadPart { upload, .. } | Action::Complete { upload, .. } | Action::Abort { upload }, _) => upload,
            (Action::ListParts { upload, .. }, _) => upload,
            _ => continue,
        };
        uploads.entry((&operation.bucket, &operation.key, id)).or_default().push(operation);
    }
    let mut violations = strangers(history, &uploads);
    for ((bucket, key, upload), mut operations) in uploads {
        // Each listing of the bucket shows this upload or does not.
        let lists = |operation: &&Operation| operation.bucket == bucket && matches!(operation.outcome, Outcome::Uploads(_));
        operations.extend(history.operations.iter().filter(lists));
        operations.sort_by_key(|operation| operation.begun);
        // What tells nothing: refusals of other kinds, and that the bucket is gone.
        let tells = |operation: &&Operation| {
            let reads = matches!(operation.action, Action::ListParts { .. } | Action::ListUploads);
            matches!(operation.outcome, Outcome::Done | Outcome::Made(_) | Outcome::Begun(_) | Outcome::Parts(_) | Outcome::Uploads(_))
                || (matches!(operation.outcome, Outcome::Unknown(_)) && !reads)
                || matches!(operation.outcome, Outcome::Refused(refusal) if refusal != Refusal::NoSuchBucket)
        };
        let operations: Vec<&Operation> = operations.into_iter().filter(tells).collect();
        let spans: Vec<Span> = operations.iter().map(|operation| span(operation)).collect();
        let object = format!("{bucket}/{key} upload {upload}");
        violations.extend(judge(&object, &operations, &spans, &Upload { id: upload, operations: &operations }, State::NotBegun));
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

struct Upload<'a> {
    id: &'a str,
    operations: &'a [&'a Operation],
}

impl Machine for Upload<'_> {
    type State = State;

    fn step(&self, state: &State, operation: usize, _way: usize) -> Option<State> {
        let operation = self.operations[operation];
        let after = apply(state, &operation.action);
        match &operation.outcome {
            Outcome::Uploads(shown) => {
                let is_shown = shown.iter().any(|listed| listed.upload == self.id);
                (is_shown == matches!(state, State::UnderWay(_))).then(|| state.clone())
            }
            Outcome::Parts(page) => (list(state, &operation.action).as_ref() == Some(page)).then(|| state.clone()),
            Outcome::Refused(refusal) => (after == Err(*refusal)).then(|| state.clone()),
            // Of unknown outcome: placed only where it has an effect.
            _ => after.ok(),
        }
    }

    fn only_reads(&self, operation: usize) -> bool {
        matches!(self.operations[operation].outcome, Outcome::Refused(_) | Outcome::Parts(_) | Outcome::Uploads(_))
    }
}

/// The page of parts that a listing must show; none if there is no such upload.
fn list(state: &State, action: &Action) -> Option<PartPage> {
    let (State::UnderWay(parts), Action::ListParts { after, parts_max, .. }) = (state, action) else { return None };
    let mut behind = parts.range(after.saturating_add(1)..).map(|(number, value)| Part { number: *number, value: *value });
    let parts: Vec<Part> = behind.by_ref().take(usize::from(*parts_max)).collect();
    Some(PartPage { parts, truncated: behind.next().is_some() })
}

/// Uploads of a key that were begun by requests of unknown outcome.
#[derive(Default)]
struct Unnamed<'a> {
    /// When each was asked for.
    begun: Vec<u64>,
    /// Names that listings showed and that no reply told.
    names: BTreeSet<&'a str>,
}

/// Uploads that a listing shows although nobody can have begun them: those of unknown outcome may have any name, but only
/// as many of a key as were asked for.
fn strangers(history: &History, known: &BTreeMap<(&str, &str, &str), Vec<&Operation>>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut unnamed: BTreeMap<(&str, &str), Unnamed<'_>> = BTreeMap::new();
    for operation in &history.operations {
        if let (Action::CreateUpload, Outcome::Unknown(_)) = (&operation.action, &operation.outcome) {
            unnamed.entry((&operation.bucket, &operation.key)).or_default().begun.push(operation.begun);
        }
    }
    for operation in &history.operations {
        let Outcome::Uploads(shown) = &operation.outcome else { continue };
        for listed in shown {
            if known.contains_key(&(&operation.bucket, &listed.key, &listed.upload)) {
                continue;
            }
            let of_key = unnamed.entry((&operation.bucket, &listed.key)).or_default();
            of_key.names.insert(&listed.upload);
            let asked = of_key.begun.iter().filter(|begun| **begun < operation.ended.unwrap_or(u64::MAX)).count();
            if of_key.names.len() > asked {
                let object = format!("{}/{} upload {}", operation.bucket, listed.key, listed.upload);
                let explanation = format!("listed (from {} on), although nobody has begun it", operation.begun);
                violations.push(Violation::Model { object, explanation });
            }
        }
    }
    violations
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
        (Action::ListParts { .. }, State::UnderWay(_)) => Ok(state.clone()),
        _ => Err(Refusal::NoSuchUpload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::read_back::tests::Log;
    use crate::history::ListedUpload;

    fn big(id: u64) -> Value {
        Value { id, bytes: PART_BYTES_MIN }
    }

    fn part(number: u16, value: Value) -> Action {
        Action::UploadPart { upload: "u".to_owned(), number, value }
    }

    fn complete(parts: &[(u16, Value)]) -> Action {
        let parts = parts.iter().map(|(number, value)| Part { number: *number, value: *value }).collect();
        Action::Complete { upload: "u".to_owned(), parts, if_absent: false }
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

    fn list_parts(after: u16, parts_max: u16) -> Action {
        Action::ListParts { upload: "u".to_owned(), after, parts_max }
    }

    fn page(parts: &[(u16, Value)], truncated: bool) -> Outcome {
        Outcome::Parts(PartPage { parts: parts.iter().map(|(number, value)| Part { number: *number, value: *value }).collect(), truncated })
    }

    /// A listing of the bucket that shows these uploads of the log's key.
    fn list_uploads(log: &mut Log, shown: &[&str]) {
        let index = log.begin(Action::ListUploads);
        let key = std::mem::take(&mut log.history.operations[index].key);
        let listed = |upload: &&str| ListedUpload { key: key.clone(), upload: (*upload).to_owned() };
        log.finish(index, Outcome::Uploads(shown.iter().map(listed).collect()));
    }

    #[test]
    fn listings_show_the_parts_and_uploads_that_there_are() {
        let mut log = begun();
        list_uploads(&mut log, &["u"]);
        log.end(list_parts(0, 1000), page(&[], false));
        log.done(part(1, big(1))).done(part(4, big(2))).done(part(1, big(3)));
        log.end(list_parts(0, 1000), page(&[(1, big(3)), (4, big(2))], false));
        log.end(list_parts(0, 1), page(&[(1, big(3))], true)).end(list_parts(1, 1), page(&[(4, big(2))], false));
        // While a part is under way, it is listed or not.
        let sending = log.begin(part(9, big(5)));
        log.end(list_parts(4, 9), page(&[(9, big(5))], false)).finish(sending, Outcome::Unknown("cut".to_owned()));
        list_uploads(&mut log, &["u"]);
        log.done(abort()).end(list_parts(0, 1000), Outcome::Refused(Refusal::NoSuchUpload));
        list_uploads(&mut log, &[]);
        // One whose name nobody was told.
        log.unknown(Action::CreateUpload);
        list_uploads(&mut log, &["v"]);
        list_uploads(&mut log, &[]);
        assert!(holds(&log), "{:?}", uploads(&log.history));
    }

    #[test]
    fn doctored_listings_are_found() {
        let lies: [&dyn Fn(&mut Log); 8] = [
            &|log| {
                log.end(list_parts(0, 9), page(&[], false));
            },
            &|log| {
                log.end(list_parts(0, 9), page(&[(1, big(1))], true));
            },
            &|log| {
                log.done(part(1, big(2))).end(list_parts(0, 9), page(&[(1, big(1))], false));
            },
            &|log| {
                log.done(part(2, big(2))).end(list_parts(1, 9), page(&[(1, big(1)), (2, big(2))], false));
            },
            &|log| {
                log.done(abort()).end(list_parts(0, 9), page(&[(1, big(1))], false));
            },
            &|log| list_uploads(log, &[]),
            &|log| {
                log.done(abort());
                list_uploads(log, &["u"]);
            },
            &|log| list_uploads(log, &["u", "w"]),
        ];
        for (number, lie) in lies.iter().enumerate() {
            let mut log = begun();
            log.done(part(1, big(1)));
            lie(&mut log);
            assert!(!holds(&log), "lie {number}");
        }
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
