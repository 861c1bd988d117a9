//! A bucket, and one of its keys at a time: it is created once, deleted only while the key is absent, and takes nothing
//! while it does not exist (I10). So an accepted PUT is never lost by an accepted DeleteBucket that raced it, and of
//! two CreateBucket, with no DeleteBucket between them, one wins.
//!
//! A listing of the buckets proves of each bucket by itself that it exists, or that it does not. Its pages are walked one after
//! another, so it need not show the buckets of one moment: what it names and what it leaves out each fits into its own time.
//!
//! Besides, a DeleteBucket is refused as not empty only if some key may have stood, or some upload been under way.

use std::collections::{BTreeMap, BTreeSet};

use super::judge;
use crate::check::Violation;
use crate::check::listing::{Time, may_stand};
use crate::check::register::{Effect, Registers, Step, registers};
use crate::check::search::{Machine, Span};
use crate::history::{Action, History, Operation, Outcome, Refusal, Value};

/// Check every bucket of `history` that somebody created or deleted, and where somebody listed the buckets, all that were
/// named or stand; `standing` existed before it began.
pub fn buckets(history: &History, standing: &[&str]) -> Vec<Violation> {
    let of_bucket = |operation: &&Operation| matches!(operation.action, Action::CreateBucket | Action::DeleteBucket);
    let mortal: BTreeSet<&str> = history.operations.iter().filter(of_bucket).map(|operation| operation.bucket.as_str()).collect();
    let mut names = mortal.clone();
    for operation in &history.operations {
        let Outcome::Buckets(listed) = &operation.outcome else { continue };
        names.extend(standing.iter().copied().chain(listed.iter().map(String::as_str)));
    }
    let registers = registers(history, &[]);
    let mut violations = Vec::new();
    for name in names {
        let exists = standing.contains(&name);
        let own: Vec<(&Operation, Deed)> = history.operations.iter().filter_map(|one| Some((one, deed(one, name)?))).collect();
        // The bucket alone, then with each of its keys.
        violations.extend(judge_key(name, "", &own, &[], exists));
        if !mortal.contains(name) {
            continue;
        }
        for ((_, key), steps) in registers.range((name, "")..).take_while(|((of, _), _)| *of == name) {
            if !key.is_empty() {
                violations.extend(judge_key(name, key, &own, steps, exists));
            }
        }
        violations.extend(judge_refusals(name, history, &registers));
    }
    violations
}

/// What an operation does to the bucket itself.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Deed {
    Create,
    Delete,
    /// It proves that the bucket exists.
    Exists,
    /// It proves that it does not.
    Missing,
    /// What it does to the key, which needs the bucket.
    Key(Effect),
}

/// What `operation` does to the bucket `name`, or tells of it.
fn deed(operation: &Operation, name: &str) -> Option<Deed> {
    if let (Action::ListBuckets { prefix, .. }, Outcome::Buckets(listed)) = (&operation.action, &operation.outcome) {
        let named = listed.iter().any(|one| one == name);
        return name.starts_with(prefix).then_some(if named { Deed::Exists } else { Deed::Missing });
    }
    if operation.bucket != name {
        return None;
    }
    Some(match (&operation.action, &operation.outcome) {
        (Action::CreateBucket, Outcome::Done | Outcome::Unknown(_)) => Deed::Create,
        (Action::DeleteBucket, Outcome::Done | Outcome::Unknown(_)) => Deed::Delete,
        (Action::CreateBucket, Outcome::Refused(Refusal::BucketExists)) => Deed::Exists,
        (Action::DeleteBucket, Outcome::Refused(Refusal::BucketNotEmpty)) => Deed::Exists,
        // Which of a copy's two buckets is missing it does not say.
        (Action::Copy(_), Outcome::Refused(_)) => return None,
        (_, Outcome::Refused(Refusal::NoSuchBucket)) => Deed::Missing,
        (Action::List(_), Outcome::Listed(_)) | (Action::CreateUpload, Outcome::Begun(_)) => Deed::Exists,
        (_, Outcome::Parts(_) | Outcome::Uploads(_)) => Deed::Exists,
        (Action::UploadPart { .. } | Action::Abort { .. }, Outcome::Done) => Deed::Exists,
        _ => return None,
    })
}

fn judge_key(bucket: &str, key: &str, own: &[(&Operation, Deed)], steps: &[Step<'_>], exists: bool) -> Option<Violation> {
    let end = |operation: &Operation| if matches!(operation.outcome, Outcome::Unknown(_)) { None } else { operation.ended };
    let of_bucket = own.iter().map(|(one, deed)| (*one, Span { begun: one.begun, ended: end(one) }, deed.clone()));
    // Those are among the bucket's own.
    let is_own = |step: &Step<'_>| {
        step.operation.action == Action::DeleteBucket || matches!(step.operation.outcome, Outcome::Refused(Refusal::NoSuchBucket))
    };
    let of_key = steps.iter().filter(|step| !is_own(step)).map(|step| {
        let span = Span { begun: step.begun, ended: step.ended };
        (step.operation, span, Deed::Key(step.effect.clone()))
    });
    let mut all: Vec<(&Operation, Span, Deed)> = of_bucket.chain(of_key).collect();
    all.sort_by_key(|(_, span, _)| span.begun);
    let operations: Vec<&Operation> = all.iter().map(|(operation, ..)| *operation).collect();
    let spans: Vec<Span> = all.iter().map(|(_, span, _)| *span).collect();
    let deeds = Bucket(all.into_iter().map(|(_, _, deed)| deed).collect());
    let object = if key.is_empty() { format!("bucket {bucket}") } else { format!("bucket {bucket} with key {key}") };
    judge(&object, &operations, &spans, &deeds, State { exists, held: None })
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct State {
    exists: bool,
    held: Option<Value>,
}

struct Bucket(Vec<Deed>);

impl Machine for Bucket {
    type State = State;

    fn ways(&self, operation: usize) -> usize {
        if let Deed::Key(effect) = &self.0[operation] { effect.ways() } else { 1 }
    }

    /// The reference model.
    fn step(&self, state: &State, operation: usize, way: usize) -> Option<State> {
        let State { exists, held } = *state;
        match &self.0[operation] {
            Deed::Create => (!exists).then_some(State { exists: true, held: None }),
            Deed::Delete => (exists && held.is_none()).then_some(State { exists: false, held: None }),
            Deed::Exists => exists.then_some(*state),
            Deed::Missing => (!exists).then_some(*state),
            Deed::Key(effect) if exists => effect.apply(held, way).map(|held| State { exists, held }),
            Deed::Key(_) => None,
        }
    }

    fn only_reads(&self, operation: usize) -> bool {
        match &self.0[operation] {
            Deed::Exists | Deed::Missing => true,
            Deed::Create | Deed::Delete => false,
            Deed::Key(effect) => effect.only_reads(),
        }
    }
}

/// Refusals with BucketNotEmpty while nothing can have been there.
fn judge_refusals(bucket: &str, history: &History, registers: &Registers<'_>) -> Vec<Violation> {
    let of_bucket: Vec<&Operation> = history.operations.iter().filter(|operation| operation.bucket == bucket).collect();
    // When each upload began and was over for certain.
    let mut uploads: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut unnamed = u64::MAX;
    for operation in &of_bucket {
        match (&operation.action, &operation.outcome) {
            (Action::CreateUpload, Outcome::Begun(id)) => drop(uploads.insert(id, (operation.begun, u64::MAX))),
            // An upload that nobody can name is never over.
            (Action::CreateUpload, Outcome::Unknown(_)) => unnamed = unnamed.min(operation.begun),
            (Action::Complete { upload, .. } | Action::Abort { upload }, Outcome::Done | Outcome::Refused(Refusal::NoSuchUpload)) => {
                let ended = operation.ended.unwrap_or(u64::MAX);
                uploads.entry(upload).and_modify(|(_, over)| *over = ended.min(*over));
            }
            _ => {}
        }
    }
    let mut violations = Vec::new();
    for operation in of_bucket {
        if operation.action != Action::DeleteBucket || operation.outcome != Outcome::Refused(Refusal::BucketNotEmpty) {
            continue;
        }
        let time = Time { begun: operation.begun, ended: operation.ended.unwrap_or(u64::MAX) };
        let mut keys = registers.range((bucket, "")..).take_while(|((of, _), _)| *of == bucket);
        let is_under_way = unnamed < time.ended || uploads.values().any(|(begun, over)| *begun < time.ended && *over > time.begun);
        if !is_under_way && !keys.any(|(_, steps)| may_stand(steps, None, time)) {
            let explanation = format!("refused as not empty (from {} to {}), although nothing was in it", time.begun, time.ended);
            violations.push(Violation::Model { object: format!("bucket {bucket}"), explanation });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::read_back::tests::{Log, value};
    use crate::history::Seen;

    fn holds(log: &mut Log) -> bool {
        holds_with(log, &[])
    }

    fn holds_with(log: &mut Log, standing: &[&str]) -> bool {
        for operation in &mut log.history.operations {
            if matches!(operation.action, Action::CreateBucket | Action::DeleteBucket | Action::ListBuckets { .. }) {
                operation.key.clear();
            }
            if matches!(operation.action, Action::ListBuckets { .. }) {
                operation.bucket.clear();
            }
        }
        buckets(&log.history, standing).is_empty()
    }

    fn refused(refusal: Refusal) -> Outcome {
        Outcome::Refused(refusal)
    }

    #[test]
    fn a_bucket_lives_as_s3_says() {
        let mut log = Log::default();
        log.end(Action::Get, refused(Refusal::NoSuchBucket)).done(Action::CreateBucket);
        log.end(Action::CreateBucket, refused(Refusal::BucketExists)).put(1);
        log.end(Action::DeleteBucket, refused(Refusal::BucketNotEmpty)).delete().done(Action::DeleteBucket);
        log.end(Action::Put(value(2)), refused(Refusal::NoSuchBucket)).unknown(Action::CreateBucket).put(3).get(Some(3));
        assert!(holds(&mut log));
    }

    #[test]
    fn doctored_buckets_are_found() {
        let lies: [&dyn Fn(&mut Log); 8] = [
            // Both win.
            &|log| {
                log.done(Action::CreateBucket);
            },
            &|log| {
                let (a, b) = (log.begin(Action::DeleteBucket), log.begin(Action::DeleteBucket));
                log.finish(a, Outcome::Done).finish(b, Outcome::Done);
            },
            // A PUT and a DeleteBucket that race are both accepted.
            &|log| {
                let (put, delete) = (log.begin(Action::Put(value(1))), log.begin(Action::DeleteBucket));
                log.finish(put, Outcome::Done).finish(delete, Outcome::Done);
            },
            &|log| {
                log.put(1).done(Action::DeleteBucket);
            },
            &|log| {
                log.done(Action::DeleteBucket).put(1);
            },
            &|log| {
                log.done(Action::DeleteBucket).get(None);
            },
            &|log| {
                log.put(1).end(Action::Get, refused(Refusal::NoSuchBucket));
            },
            &|log| {
                log.put(1).delete().end(Action::DeleteBucket, refused(Refusal::BucketNotEmpty));
            },
        ];
        for (number, lie) in lies.iter().enumerate() {
            let mut log = Log::default();
            log.done(Action::CreateBucket);
            lie(&mut log);
            assert!(!holds(&mut log), "lie {number}");
        }
    }

    #[test]
    fn a_race_that_one_side_lost_is_explained() {
        let race = |put_outcome: Outcome, delete_outcome: Outcome, last: Outcome| {
            let mut log = Log::default();
            log.done(Action::CreateBucket);
            let (put, delete) = (log.begin(Action::Put(value(1))), log.begin(Action::DeleteBucket));
            log.finish(put, put_outcome).finish(delete, delete_outcome).end(Action::Get, last);
            holds(&mut log)
        };
        let seen = || Outcome::Read(Seen::Value(value(1)));
        assert!(race(Outcome::Done, refused(Refusal::BucketNotEmpty), seen()));
        assert!(race(refused(Refusal::NoSuchBucket), Outcome::Done, refused(Refusal::NoSuchBucket)));
        assert!(race(Outcome::NotDone("409 OperationAborted".to_owned()), Outcome::Done, refused(Refusal::NoSuchBucket)));
        assert!(race(Outcome::Done, Outcome::Unknown("cut".to_owned()), seen()));
        assert!(!race(Outcome::Done, Outcome::Done, seen()));
    }

    fn list(prefix: &str) -> Action {
        Action::ListBuckets { prefix: prefix.to_owned(), buckets_max: Some(1) }
    }

    fn named(names: &[&str]) -> Outcome {
        Outcome::Buckets(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// Adds the bucket's operations and those that list the buckets.
    type Story<'a> = &'a dyn Fn(&mut Log);

    #[test]
    fn a_listing_names_the_buckets_that_exist() {
        let truths: [Story<'_>; 8] = [
            &|log| {
                log.end(list(""), named(&[])).done(Action::CreateBucket).end(list(""), named(&["b"]));
                log.put(1).end(list("b"), named(&["b"])).delete().done(Action::DeleteBucket).end(list(""), named(&[]));
            },
            // Of another prefix it tells nothing.
            &|log| {
                log.done(Action::CreateBucket).end(list("c"), named(&[]));
            },
            // It goes on while the bucket is created, and while it is deleted: either will do.
            &|log| {
                let (before, after) = (log.begin(list("")), log.begin(list("")));
                log.done(Action::CreateBucket).finish(before, named(&[])).finish(after, named(&["b"]));
            },
            &|log| {
                log.done(Action::CreateBucket);
                let (before, after) = (log.begin(list("")), log.begin(list("")));
                log.done(Action::DeleteBucket).finish(before, named(&["b"])).finish(after, named(&[]));
            },
            // What may have been created or deleted shows, or not.
            &|log| {
                log.unknown(Action::CreateBucket).end(list(""), named(&[])).end(list(""), named(&["b"]));
            },
            &|log| {
                log.done(Action::CreateBucket).unknown(Action::DeleteBucket).end(list(""), named(&["b"])).end(list(""), named(&[]));
            },
            // One that failed says nothing, nor does one whose outcome is unknown.
            &|log| {
                log.done(Action::CreateBucket).unknown(list("")).end(list(""), Outcome::NotDone("503".to_owned()));
            },
            &|log| {
                let deleting = log.done(Action::CreateBucket).put(1).begin(Action::DeleteBucket);
                log.end(list(""), named(&["b"])).finish(deleting, refused(Refusal::BucketNotEmpty)).end(list(""), named(&["b"]));
            },
        ];
        for (number, truth) in truths.iter().enumerate() {
            let mut log = Log::default();
            truth(&mut log);
            assert!(holds(&mut log), "truth {number}");
        }
    }

    #[test]
    fn a_listing_that_lies_is_found() {
        let lies: [Story<'_>; 8] = [
            // It misses one that stands.
            &|log| {
                log.done(Action::CreateBucket).end(list(""), named(&[]));
            },
            &|log| {
                log.done(Action::CreateBucket).end(list("b"), named(&[])).put(1);
            },
            // It names one that was deleted before, or not created yet.
            &|log| {
                log.done(Action::CreateBucket).done(Action::DeleteBucket).end(list(""), named(&["b"]));
            },
            &|log| {
                log.end(list(""), named(&["b"])).done(Action::CreateBucket);
            },
            // It misses one that somebody tries to delete, and cannot.
            &|log| {
                let deleting = log.done(Action::CreateBucket).put(1).begin(Action::DeleteBucket);
                log.end(list(""), named(&[])).finish(deleting, refused(Refusal::BucketNotEmpty));
            },
            // It takes back what the one before it told.
            &|log| {
                let deleting = log.done(Action::CreateBucket).begin(Action::DeleteBucket);
                log.end(list(""), named(&[])).end(list(""), named(&["b"])).finish(deleting, Outcome::Done);
            },
            &|log| {
                let creating = log.begin(Action::CreateBucket);
                log.end(list(""), named(&["b"])).end(Action::Get, refused(Refusal::NoSuchBucket)).finish(creating, Outcome::Done);
            },
            // Nobody ever created it.
            &|log| {
                log.done(Action::CreateBucket).end(list(""), named(&["b", "c"]));
            },
        ];
        for (number, lie) in lies.iter().enumerate() {
            let mut log = Log::default();
            lie(&mut log);
            assert!(!holds(&mut log), "lie {number}");
        }
    }

    #[test]
    fn what_stands_from_the_beginning_is_always_listed() {
        let judged = |names: &[&str]| {
            let mut log = Log::default();
            log.end(list(""), named(names));
            holds_with(&mut log, &["s"])
        };
        assert!(judged(&["s"]) && !judged(&[]));
    }
}
