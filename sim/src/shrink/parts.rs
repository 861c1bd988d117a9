//! The parts that a plan can do without: faults, whole clients, all that concerns a key, single operations, and what its
//! world is like. Pure: every fault and step was drawn alone, so any of them may go and shifts no other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use jepsen_like::workload::{Place, PlannedAction, Step, UploadName, VersionAction};

use crate::plan::{Knobs, Plan};

/// Parts of a kind, numbered from 0 in a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Faults,
    /// Operations in the order of their times, in a few stretches: a shorter run makes all later trials quicker.
    Stretches,
    /// Every operation of a client.
    Clients,
    /// Every operation on a key, or on a bucket as a whole.
    Keys,
    Operations,
    /// That links are slow, clocks wrong: without them the world is as calm as it gets.
    World,
}

/// In the order in which they are taken out: what takes most with it first.
pub const KINDS: [Kind; 6] = [Kind::Faults, Kind::Stretches, Kind::Clients, Kind::Keys, Kind::Operations, Kind::World];

/// Stretches of a plan at most.
const STRETCHES: usize = 16;

/// What calms the world.
const CALMS: [fn(&mut Knobs); 4] = [
    |knobs| knobs.clocks.fill(Default::default()),
    |knobs| knobs.tail = None,
    |knobs| knobs.bytes_per_second = None,
    |knobs| knobs.latency_us = (200, 3000),
];

/// How many parts of a kind a plan has.
pub fn count(plan: &Plan, kind: Kind) -> usize {
    match kind {
        Kind::Faults => plan.faults.len(),
        Kind::Stretches => plan.steps.len().min(STRETCHES),
        Kind::Clients => clients(plan).len(),
        Kind::Keys => keys(plan).0.len(),
        Kind::Operations => plan.steps.len(),
        Kind::World => calms(plan).len(),
    }
}

/// The plan without the parts in `pieces`, which do not overlap.
pub fn without(plan: &Plan, kind: Kind, pieces: &[Range<usize>]) -> Plan {
    let goes = |number: usize| pieces.iter().any(|piece| piece.contains(&number));
    let mut less = plan.clone();
    match kind {
        Kind::Faults => retain(&mut less.faults, |number, _| !goes(number)),
        Kind::Operations => retain(&mut less.steps, |number, _| !goes(number)),
        Kind::Stretches => {
            let (steps, stretches) = (plan.steps.len(), count(plan, kind));
            retain(&mut less.steps, |number, _| !goes(number * stretches / steps));
        }
        Kind::Clients => {
            let clients = clients(plan);
            less.steps.retain(|step| !clients.get(&client(step)).is_some_and(|number| goes(*number)));
        }
        Kind::Keys => {
            let (keys, of_steps) = keys(plan);
            retain(&mut less.steps, |number, _| !of_steps[number].is_some_and(|key| goes(keys[&key])));
        }
        Kind::World => {
            let calms = calms(plan);
            calms.iter().enumerate().filter(|(number, _)| goes(*number)).for_each(|(_, calm)| calm(&mut less.knobs));
        }
    }
    less
}

fn retain<T>(list: &mut Vec<T>, mut keep: impl FnMut(usize, &T) -> bool) {
    let mut number = 0;
    list.retain(|entry| {
        number += 1;
        keep(number - 1, entry)
    });
}

fn client(step: &Step) -> (u32, u32) {
    (step.workload, step.client)
}

/// Clients with their numbers.
fn clients(plan: &Plan) -> BTreeMap<(u32, u32), usize> {
    let clients: BTreeSet<(u32, u32)> = plan.steps.iter().map(client).collect();
    clients.into_iter().zip(0..).collect()
}

/// Workload and place of a key; of a bucket as a whole where the key has no number.
type Key = (u32, u32, Option<u32>);

/// Keys with their numbers, and the key of each step, if it has one.
fn keys(plan: &Plan) -> (BTreeMap<Key, usize>, Vec<Option<Key>>) {
    let mut begun: BTreeMap<(u32, u32, u32), Place> = BTreeMap::new();
    for step in &plan.steps {
        if let PlannedAction::CreateUpload(at) = step.action {
            begun.insert((step.workload, step.client, step.number), at);
        }
    }
    let of_upload = |step: &Step, upload: UploadName| match upload {
        UploadName::Own(number) => begun.get(&(step.workload, step.client, number)).copied(),
        UploadName::LatestOf(_) => None,
    };
    let key = |step: &Step| {
        let action = match &step.action {
            PlannedAction::Version(VersionAction::Plain(action)) => action,
            action => action,
        };
        let at = match action {
            PlannedAction::Version(
                VersionAction::Get(at, _)
                | VersionAction::Delete(at, _)
                | VersionAction::Copy { to: at, .. }
                | VersionAction::SetTags { at, .. }
                | VersionAction::GetTags(at, _),
            ) => *at,
            PlannedAction::Version(_) => return Some((step.workload, 0, None)),
            PlannedAction::Put { at, .. }
            | PlannedAction::PutIfAbsent { at, .. }
            | PlannedAction::PutIfMatches { at, .. }
            | PlannedAction::GetRange { at, .. }
            | PlannedAction::Rude { at, .. }
            | PlannedAction::Delete(at)
            | PlannedAction::DeleteIfMatches(at)
            | PlannedAction::Get(at)
            | PlannedAction::Head(at)
            | PlannedAction::CreateUpload(at)
            | PlannedAction::CopyOntoItself(at)
            | PlannedAction::Copy { to: at, .. } => *at,
            PlannedAction::ListBuckets { .. } => return None,
            PlannedAction::DeleteMany(places) => *places.first()?,
            PlannedAction::List(list) => return Some((step.workload, list.bucket, None)),
            PlannedAction::CreateBucket(bucket) | PlannedAction::DeleteBucket(bucket) | PlannedAction::ListUploads(bucket) => {
                return Some((step.workload, *bucket, None));
            }
            PlannedAction::UploadPart { upload, .. }
            | PlannedAction::ListParts { upload, .. }
            | PlannedAction::CopyPart { upload, .. }
            | PlannedAction::Complete { upload, .. }
            | PlannedAction::CompleteAgain { upload }
            | PlannedAction::Abort { upload } => of_upload(step, *upload)?,
        };
        Some((step.workload, at.0, Some(at.1)))
    };
    let of_steps: Vec<Option<Key>> = plan.steps.iter().map(key).collect();
    let keys: BTreeSet<Key> = of_steps.iter().flatten().copied().collect();
    (keys.into_iter().zip(0..).collect(), of_steps)
}

/// What would change something.
fn calms(plan: &Plan) -> Vec<fn(&mut Knobs)> {
    let changes = |calm: &fn(&mut Knobs)| {
        let mut knobs = plan.knobs.clone();
        calm(&mut knobs);
        knobs != plan.knobs
    };
    CALMS.into_iter().filter(changes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(scenario: &str) -> Plan {
        crate::scenarios::draw(scenario, 3).unwrap()
    }

    #[test]
    fn parts_of_every_kind_are_all_that_there_is() {
        for scenario in ["smoke", "workload-multipart", "two-deletebuckets-one-put"] {
            let whole = plan(scenario);
            for kind in KINDS {
                let all = count(&whole, kind);
                let less = without(&whole, kind, &[0..all / 3, all / 3..all]);
                assert_eq!(count(&less, kind), 0, "{scenario} {kind:?}");
                assert_eq!(without(&whole, kind, &[]), whole, "{scenario} {kind:?}");
            }
        }
    }

    #[test]
    fn a_client_and_a_key_go_with_all_their_operations_and_nothing_else_changes() {
        let whole = plan("workload-multipart");
        let less = without(&whole, Kind::Clients, std::slice::from_ref(&(1..2)));
        let of_second = |step: &&Step| step.client == 1;
        assert_eq!(whole.steps.len() - less.steps.len(), whole.steps.iter().filter(of_second).count());
        assert_eq!(Plan { steps: Vec::new(), ..less }, Plan { steps: Vec::new(), ..whole.clone() });
        let (keys, of_steps) = keys(&whole);
        let less = without(&whole, Kind::Keys, std::slice::from_ref(&(0..1)));
        let of_first = of_steps.iter().flatten().filter(|key| keys[key] == 0).count();
        assert!(of_first > 0 && whole.steps.len() - less.steps.len() == of_first);
    }
}
