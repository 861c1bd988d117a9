//! Histories as seen by one key: a register that holds a value or nothing. What an operation does to a key, or tells
//! of it, is a [`Step`]; the checkers of linearizability see nothing else.
//!
//! - A copy reads its source and writes its target. One of unknown outcome may have written any value that its source
//!   can have held.
//! - Completes of one upload that name the same parts are one write, as a repeated one does nothing.
//! - A page of a listing reads every key of its range: those that it shows, and those that it does not.
//! - An acknowledged DeleteBucket reads every key of the bucket as absent; so does a refusal with NoSuchBucket its own.
//! - Buckets whose versioning somebody sets are left out: a key is no register there, and its own model judges it.
//! - What was certainly not done, and reads without a result, say nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::listing::{Cover, Range};
use super::model::version::versioned;
use crate::history::{Action, History, Operation, Outcome, Refusal, Seen, Source, Value};

/// What a write asks of the version that it replaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    Absent,
    Matches(Value),
}

impl Condition {
    pub(super) fn holds(self, state: Option<Value>) -> bool {
        match self {
            Condition::Absent => state.is_none(),
            Condition::Matches(expected) => state.is_some_and(|held| held.same_bytes(expected)),
        }
    }
}

/// What happens at the moment at which an operation takes effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Write(Value),
    /// The condition held.
    WriteIf(Condition, Value),
    /// A copy of unknown outcome writes one of these.
    WriteOneOf(Vec<Value>),
    Remove,
    /// The condition held.
    RemoveIf(Condition),
    /// The condition did not hold.
    Failed(Condition),
    Read(Option<Value>),
    /// A listing shows the key, and nobody compared its ETag.
    Present,
}

impl Effect {
    /// In how many ways it may take effect.
    pub(super) fn ways(&self) -> usize {
        if let Effect::WriteOneOf(values) = self { values.len() } else { 1 }
    }

    /// The register afterwards; `None` if it cannot have taken effect on `state`.
    pub(super) fn apply(&self, state: Option<Value>, way: usize) -> Option<Option<Value>> {
        let fits = match self {
            Effect::Write(value) => return Some(Some(*value)),
            Effect::WriteOneOf(values) => return Some(Some(values[way])),
            Effect::Remove => return Some(None),
            Effect::RemoveIf(condition) => return condition.holds(state).then_some(None),
            Effect::WriteIf(condition, value) => return condition.holds(state).then_some(Some(*value)),
            Effect::Failed(condition) => !condition.holds(state),
            Effect::Read(seen) => *seen == state,
            Effect::Present => state.is_some(),
        };
        fits.then_some(state)
    }

    pub(super) fn only_reads(&self) -> bool {
        matches!(self, Effect::Failed(_) | Effect::Read(_) | Effect::Present)
    }

    /// The one value that it writes.
    pub(super) fn writes(&self) -> Option<Value> {
        match self {
            Effect::Write(value) | Effect::WriteIf(_, value) => Some(*value),
            _ => None,
        }
    }
}

/// What an operation does to a key, or tells of it.
#[derive(Clone, Debug)]
pub(super) struct Step<'a> {
    pub operation: &'a Operation,
    pub effect: Effect,
    pub begun: u64,
    /// `None`: it may take effect at any later time, or never.
    pub ended: Option<u64>,
    /// That the reply made or saw, if it is of this key's partition, and comparable with the others.
    pub revision: Option<u64>,
}

impl Step<'_> {
    /// Its end, which never comes if its outcome is unknown.
    pub(super) fn end(&self) -> u64 {
        self.ended.unwrap_or(u64::MAX)
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let operation = self.operation;
        let until = self.ended.map_or("open".to_owned(), |ended| ended.to_string());
        let place = if operation.key.is_empty() { format!(" of bucket {}", operation.bucket) } else { String::new() };
        let revision = self.revision.map_or(String::new(), |revision| format!(" revision {revision}"));
        let mut text = format!("{:?}{place} -> {:?}", operation.action, operation.outcome);
        // A whole page says too much.
        if matches!(operation.action, Action::List(_)) {
            text = format!("a listing{place} -> {:?}", self.effect);
        }
        format!("[{}..{until}] client {} {text}{revision}", self.begun, operation.client)
    }
}

/// The steps of each (bucket, key), in the order in which they began.
pub(super) type Registers<'a> = BTreeMap<(&'a str, &'a str), Vec<Step<'a>>>;

/// All steps of a history; `ranges` are those of its listings.
pub(super) fn registers<'a>(history: &'a History, ranges: &[Range<'a>]) -> Registers<'a> {
    let mut registers = direct(history);
    copies(history, &mut registers);
    for range in ranges {
        let bucket = range.operation.bucket.as_str();
        for ((_, key), steps) in registers.range_mut((bucket, "")..).take_while(|((of, _), _)| *of == bucket) {
            let effect = match range.cover(key) {
                Cover::Shown(Some(value)) => Effect::Read(Some(value)),
                Cover::Shown(None) => Effect::Present,
                Cover::NotShown => Effect::Read(None),
                Cover::UnderPrefix | Cover::Outside => continue,
            };
            let begun = if effect == Effect::Read(None) { range.begun(key) } else { range.operation.begun };
            steps.push(Step { begun, ..whole(range.operation, effect) });
        }
    }
    let mortal = deleted_buckets(history);
    for ((bucket, _), steps) in &mut registers {
        steps.sort_by_key(|step| step.begun);
        if mortal.contains(bucket) {
            steps.iter_mut().for_each(|step| step.revision = None);
        }
    }
    registers
}

/// Buckets that may have been deleted. One that is created again may lie in other partitions, so that revisions of its
/// lives cannot be compared.
fn deleted_buckets(history: &History) -> BTreeSet<&str> {
    let may_delete = |operation: &&Operation| {
        operation.action == Action::DeleteBucket && matches!(operation.outcome, Outcome::Done | Outcome::Unknown(_))
    };
    history.operations.iter().filter(may_delete).map(|operation| operation.bucket.as_str()).collect()
}

/// Values that each key can have held, whoever wrote them.
type Held<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<Value>>;

/// Everything but copies of unknown outcome and listings.
fn direct(history: &History) -> Registers<'_> {
    let mut registers: Registers<'_> = BTreeMap::new();
    // Completes of one upload with the same parts, by the place of their common step.
    let mut completes: BTreeMap<(&str, &str, &str, Value), usize> = BTreeMap::new();
    let mut deleted: Vec<&Operation> = Vec::new();
    let versioned = versioned(history);
    for operation in history.operations.iter().filter(|operation| !versioned.contains(operation.bucket.as_str())) {
        let (bucket, key) = (operation.bucket.as_str(), operation.key.as_str());
        if operation.action == Action::DeleteBucket && operation.outcome == Outcome::Done {
            deleted.push(operation);
        }
        if let Action::Copy(Source { bucket, key }) = &operation.action {
            let seen = match &operation.outcome {
                Outcome::Copied(value) => Some(Some(*value)),
                Outcome::Read(Seen::Absent) => Some(None),
                _ => None,
            };
            let steps = registers.entry((bucket, key)).or_default();
            // The revision is that of the target's partition.
            steps.extend(seen.map(|seen| Step { revision: None, ..whole(operation, Effect::Read(seen)) }));
        }
        if key.is_empty() {
            continue;
        }
        let steps = registers.entry((bucket, key)).or_default();
        let Some(effect) = effect(operation) else { continue };
        let mut step = whole(operation, effect);
        if let (Action::Complete { upload, .. }, Some(value)) = (&operation.action, step.effect.writes()) {
            if let Some(first) = completes.get(&(bucket, key, upload, value)) {
                let first = &mut steps[*first];
                first.ended = first.ended.into_iter().chain(step.ended).min();
                first.revision = first.revision.or(step.revision);
                continue;
            }
            completes.insert((bucket, key, upload, value), steps.len());
        }
        if matches!(operation.outcome, Outcome::Refused(_)) {
            step.revision = None;
        }
        steps.push(step);
    }
    for operation in deleted {
        let bucket = operation.bucket.as_str();
        for (_, steps) in registers.range_mut((bucket, "")..).take_while(|((of, _), _)| *of == bucket) {
            steps.push(whole(operation, Effect::Read(None)));
        }
    }
    registers
}

/// What an operation does to its own key.
fn effect(operation: &Operation) -> Option<Effect> {
    Some(match (&operation.action, &operation.outcome) {
        // The bucket did not exist, and so neither did the key. A copy does not say which of its buckets.
        (Action::Copy(_), Outcome::Refused(_)) => return None,
        (_, Outcome::Refused(Refusal::NoSuchBucket)) => Effect::Read(None),
        (_, Outcome::NotDone(_) | Outcome::Refused(_)) => return None,
        (Action::Put(value), _) => Effect::Write(*value),
        (Action::PutIfAbsent(_), Outcome::PreconditionFailed) => Effect::Failed(Condition::Absent),
        (Action::PutIfAbsent(value), _) => Effect::WriteIf(Condition::Absent, *value),
        (Action::PutIfMatches { expected, .. }, Outcome::PreconditionFailed) => Effect::Failed(Condition::Matches(*expected)),
        (Action::PutIfMatches { value, expected }, _) => Effect::WriteIf(Condition::Matches(*expected), *value),
        (Action::Delete, _) => Effect::Remove,
        (Action::DeleteIfMatches(expected), Outcome::PreconditionFailed) => Effect::Failed(Condition::Matches(*expected)),
        (Action::DeleteIfMatches(expected), _) => Effect::RemoveIf(Condition::Matches(*expected)),
        (Action::Get | Action::Head, Outcome::Read(Seen::Absent)) => Effect::Read(None),
        (Action::Get | Action::Head, Outcome::Read(Seen::Value(value))) => Effect::Read(Some(*value)),
        (Action::Copy(_), Outcome::Copied(value)) => Effect::Write(*value),
        (Action::Complete { if_absent: true, .. }, Outcome::PreconditionFailed) => Effect::Failed(Condition::Absent),
        (Action::Complete { if_absent: true, .. }, Outcome::Done | Outcome::Unknown(_)) => {
            Effect::WriteIf(Condition::Absent, operation.writes()?)
        }
        (Action::Complete { .. }, Outcome::Done | Outcome::Unknown(_)) => Effect::Write(operation.writes()?),
        _ => return None,
    })
}

/// The step of an operation in its own time.
fn whole(operation: &Operation, effect: Effect) -> Step<'_> {
    let ended = if matches!(operation.outcome, Outcome::Unknown(_)) { None } else { operation.ended };
    Step { operation, effect, begun: operation.begun, ended, revision: operation.revision }
}

/// Add the copies of unknown outcome. Of what they may have written only that matters which somebody saw, and one value
/// that nobody did.
fn copies<'a>(history: &'a History, registers: &mut Registers<'a>) {
    let open: Vec<(&Operation, &Source)> = history
        .operations
        .iter()
        .filter_map(|operation| match (&operation.action, &operation.outcome) {
            (Action::Copy(source), Outcome::Unknown(_)) => Some((operation, source)),
            _ => None,
        })
        .collect();
    if open.is_empty() {
        return;
    }
    let written = |steps: &Vec<Step<'_>>| steps.iter().filter_map(|step| step.effect.writes()).collect();
    let mut held: Held<'_> = registers.iter().map(|(place, steps)| (*place, written(steps))).collect();
    // Copies of copies: until nothing is added.
    loop {
        let before: usize = held.values().map(BTreeSet::len).sum();
        for (operation, source) in &open {
            let from = held.get(&(source.bucket.as_str(), source.key.as_str())).cloned().unwrap_or_default();
            held.entry((&operation.bucket, &operation.key)).or_default().extend(from);
        }
        if before == held.values().map(BTreeSet::len).sum::<usize>() {
            break;
        }
    }
    for (operation, source) in &open {
        let steps = registers.entry((&operation.bucket, &operation.key)).or_default();
        let told: BTreeSet<Value> = steps.iter().filter_map(|step| told(&step.effect)).collect();
        let candidates = held.get(&(source.bucket.as_str(), source.key.as_str())).cloned().unwrap_or_default();
        let unseen = candidates.iter().find(|value| !told.contains(value)).copied();
        let values: Vec<Value> = candidates.iter().copied().filter(|value| told.contains(value)).chain(unseen).collect();
        if !values.is_empty() {
            steps.push(whole(operation, Effect::WriteOneOf(values)));
        }
    }
}

/// The value of which an effect tells.
pub(super) fn told(effect: &Effect) -> Option<Value> {
    match effect {
        Effect::Read(seen) => *seen,
        Effect::Failed(Condition::Matches(value)) | Effect::WriteIf(Condition::Matches(value), _) => Some(*value),
        Effect::RemoveIf(Condition::Matches(value)) => Some(*value),
        _ => None,
    }
}

/// Reads that no order could explain: bytes that are no value's, and values that nobody wrote to this key.
pub(super) fn plainly_wrong(history: &History, registers: &Registers<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for operation in &history.operations {
        if let Outcome::Read(Seen::Wrong(reason)) | Outcome::Found { seen: Seen::Wrong(reason), .. } = &operation.outcome {
            let (key, begun, reason) = (operation.key.clone(), operation.begun, reason.clone());
            violations.push(Violation::WrongBytes { key, begun, reason });
        }
    }
    for ((_, key), steps) in registers {
        let mut written: BTreeSet<Value> = BTreeSet::new();
        for step in steps {
            match &step.effect {
                Effect::WriteOneOf(values) => written.extend(values),
                effect => written.extend(effect.writes()),
            }
        }
        for step in steps {
            if let Effect::Read(Some(value)) = step.effect
                && !written.contains(&value)
            {
                violations.push(Violation::NeverWritten { key: (*key).to_owned(), begun: step.begun, value });
            }
        }
    }
    violations
}
