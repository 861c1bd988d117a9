//! I2, at the moment of an acknowledgement: all n shards of each blob and a Raft quorum of the record are durable, on
//! drives that keep the failure domains apart.

use super::drives::Drives;
use super::logs::Logs;
use super::slots::Slots;
use super::witness::{Version, Written};
use crate::violation::Violation;
use jepsen_like::history::{Action, Operation, Outcome, Value};
use node::inspect;
use protocol::layout::SlotAddress;
use protocol::{BlobRef, DriveId, Home, SlotIndex, Volume};
use std::collections::{BTreeMap, BTreeSet};

/// What an acknowledgement promised.
enum Promise<'a> {
    /// This value, named in the version's metadata.
    Value(&'a Value),
    /// Some version: of a copy or a completed upload, whose metadata name something else.
    Version,
    Deleted,
}

/// What `operation` promised durably, if it is a write that was acknowledged.
fn promise(operation: &Operation) -> Option<Promise<'_>> {
    match (&operation.action, &operation.outcome) {
        (Action::Put(value) | Action::PutIfAbsent(value) | Action::PutIfMatches { value, .. }, Outcome::Done | Outcome::Made(_)) => {
            Some(Promise::Value(value))
        }
        (Action::CopyVersion { value, .. }, Outcome::Made(_)) if !value.is_composed() => Some(Promise::Value(value)),
        (Action::Copy(_), Outcome::Copied(_))
        | (Action::Complete { .. } | Action::CopyVersion { .. }, Outcome::Done | Outcome::Made(_)) => Some(Promise::Version),
        (Action::Delete | Action::DeleteIfMatches(_) | Action::DeleteVersion(_), Outcome::Done | Outcome::Made(_)) => {
            Some(Promise::Deleted)
        }
        _ => None,
    }
}

/// Whether `operation` is an acknowledgement that promises something durable.
pub fn is_promise(operation: &Operation) -> bool {
    promise(operation).is_some()
}

fn keeps(written: &Written, promise: &Promise<'_>, revision: Option<u64>) -> bool {
    let kept = match (promise, &written.version) {
        (Promise::Value(value), Some(version)) => version.value.as_deref() == Some(&format!("{}:{}", value.id, value.bytes)),
        (Promise::Version, Some(_)) | (Promise::Deleted, None) => true,
        _ => false,
    };
    kept && revision.is_none_or(|revision| revision == written.revision.0)
}

/// Something that is missing of what was acknowledged.
pub struct Missing {
    /// The drive that should hold it, where it is one drive.
    pub drive: Option<DriveId>,
    pub what: Violation,
}

impl Missing {
    fn of_the_record(text: String) -> Missing {
        Missing { drive: None, what: Violation::new("acknowledged-record", text) }
    }

    fn of_the_layout(text: String) -> Missing {
        Missing { drive: None, what: Violation::new("acknowledged-layout", text) }
    }

    /// What `drive` should hold.
    pub fn of(drive: DriveId, check: &str, text: String) -> Missing {
        Missing { drive: Some(drive), what: Violation::new(check, text) }
    }
}

/// What is missing of what `operation` acknowledged.
pub fn judge(operation: &Operation, drives: &Drives, logs: &Logs, slots: &mut Slots) -> Vec<Missing> {
    let Some(promise) = promise(operation) else { return Vec::new() };
    let who = format!("I2: {} of {}/{} was acknowledged", name(&operation.action), operation.bucket, operation.key);
    let Some((group, written)) = logs.find(&operation.key, |written| keeps(written, &promise, operation.revision)) else {
        // Told once, where it happened: the product is not to be blamed for what the judge missed.
        if !logs.sees_all() {
            return Vec::new();
        }
        return vec![Missing::of_the_record(format!("{who}, but no quorum of synced logs holds its command"))];
    };
    let mut found = Vec::new();
    let (enough, held, voters) = logs.holders(group, written.index, written.term);
    if !enough {
        let what = format!("{who}, but {held} of {voters} synced logs of group {group} hold its command ({})", written.index);
        found.push(Missing::of_the_record(what));
    }
    if let Some(version) = &written.version {
        found.extend(
            missing_shards(written, version, &operation.key, drives, logs, slots).into_iter().map(|missing| Missing {
                what: Violation { text: format!("{who}, but {}", missing.what.text), ..missing.what },
                ..missing
            }),
        );
    }
    found
}

fn missing_shards(written: &Written, version: &Version, key: &str, drives: &Drives, logs: &Logs, slots: &mut Slots) -> Vec<Missing> {
    let home = Home::of(written.bucket, key);
    let mut found = Vec::new();
    for blob in &version.blobs {
        let Some(volume) = inspect::volume(logs.root().rows(), blob.volume) else {
            found.push(Missing::of_the_layout(format!("its {:?} is unknown to the root group", blob.volume)));
            continue;
        };
        found.extend(layout(&volume, drives).into_iter().map(Missing::of_the_layout));
        for slot in 0..volume.slots.len() {
            if let Err(reason) = shard(&volume, slot, blob, home, drives, slots) {
                let drive = volume.slots[slot].drive;
                let text = format!("shard {slot} of {:?} in volume {} on {}: {reason}", blob.blob, volume.id, drives.label(drive));
                found.push(Missing::of(drive, "acknowledged-shard", text));
            }
        }
    }
    found
}

/// A shard that is durable, intact and the right one.
pub fn shard(
    volume: &Volume,
    slot: usize,
    blob: &BlobRef,
    home: Home,
    drives: &Drives,
    slots: &mut Slots,
) -> Result<super::slots::Shard, String> {
    let drive = volume.slots[slot].drive;
    let index = SlotIndex(u8::try_from(slot).expect("a volume has at most 32 slots"));
    let at = SlotAddress { volume: volume.id, generation: volume.generation, slot: index };
    let shard = slots.shard(drive, drives.durable(drive).as_ref(), at, blob.blob)?;
    let header = &shard.view.header;
    if shard.view.address.at != at || header.home != home || header.scheme != volume.scheme {
        return Err(format!("it says that it is {:?} of {:?} under {}", shard.view.address, header.home, header.scheme));
    }
    if (header.blob_bytes, header.blob_checksum) != (blob.bytes, blob.checksum) {
        return Err("it is of a blob with other bytes".to_string());
    }
    Ok(shard)
}

/// What is wrong with where a volume's slots lie.
fn layout(volume: &Volume, drives: &Drives) -> Vec<String> {
    let places: Vec<(DriveId, usize, &str)> = volume
        .slots
        .iter()
        .filter_map(|slot| drives.get(slot.drive).map(|place| (slot.drive, place.machine, place.zone.as_str())))
        .collect();
    let all: Vec<(usize, &str)> = drives.iter().map(|(_, place)| (place.machine, place.zone.as_str())).collect();
    spread(volume, &places, &all)
}

/// Pure: `places` are the slots' drives with machine and zone, `all` machine and zone of each drive of the cluster.
fn spread(volume: &Volume, places: &[(DriveId, usize, &str)], all: &[(usize, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    let distinct: BTreeSet<DriveId> = places.iter().map(|(drive, ..)| *drive).collect();
    if distinct.len() != volume.scheme.total() {
        found.push(format!("volume {} of {} lies on {} drives", volume.id, volume.scheme, distinct.len()));
    }
    if volume.at_risk {
        return found;
    }
    let zones: BTreeSet<&str> = all.iter().map(|(_, zone)| *zone).collect();
    let machines: BTreeSet<usize> = all.iter().map(|(machine, _)| *machine).collect();
    let (parity, total) = (volume.scheme.parity(), volume.scheme.total());
    // What the class cannot survive on any layout it does not promise.
    if zones.len() > 1 && total.div_ceil(zones.len()) <= parity {
        let most = most(places.iter().map(|(_, _, zone)| *zone));
        if most > parity {
            found.push(format!("volume {} of {} has {most} slots in one zone and is not marked at risk", volume.id, volume.scheme));
        }
    }
    if machines.len() > 1 && total.div_ceil(machines.len()) <= parity {
        let most = most(places.iter().map(|(_, machine, _)| *machine));
        if most > parity {
            found.push(format!("volume {} of {} has {most} slots on one node and is not marked at risk", volume.id, volume.scheme));
        }
    }
    found
}

fn most<T: Ord>(domains: impl Iterator<Item = T>) -> usize {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    domains.for_each(|domain| *counts.entry(domain).or_default() += 1);
    counts.into_values().max().unwrap_or(0)
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Put(_) | Action::PutIfAbsent(_) | Action::PutIfMatches { .. } => "a PUT",
        Action::Delete | Action::DeleteIfMatches(_) | Action::DeleteVersion(_) => "a DELETE",
        Action::Copy(_) | Action::CopyVersion { .. } => "a copy",
        Action::Complete { .. } => "an upload",
        _ => "an operation",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Epoch, Generation, NodeId, SlotPlace, VolumeId, VolumeState};

    const ZONES: [&str; 3] = ["a", "b", "c"];

    /// rs(4,2) on 12 drives of 6 nodes in three zones; slot i on drive `drives[i]`.
    fn judge_layout(drives: [u64; 6], at_risk: bool) -> usize {
        let machine = |drive: u64| usize::try_from(drive / 2).unwrap();
        let zone = |drive: u64| ZONES[machine(drive) / 2];
        let slots = drives.map(|drive| SlotPlace { node: NodeId(drive / 2 + 1), drive: DriveId(drive) }).to_vec();
        let scheme = "rs(4,2)".parse().unwrap();
        let volume =
            Volume { id: VolumeId(1), scheme, epoch: Epoch(1), generation: Generation(0), state: VolumeState::Open, slots, at_risk };
        let places = drives.map(|drive| (DriveId(drive), machine(drive), zone(drive)));
        let all: Vec<(usize, &str)> = (0..12).map(|drive| (machine(drive), zone(drive))).collect();
        spread(&volume, &places, &all).len()
    }

    #[test]
    fn slots_on_one_drive_and_too_many_in_a_zone_are_found() {
        assert_eq!(judge_layout([0, 2, 4, 6, 8, 10], false), 0);
        assert_eq!(judge_layout([0, 0, 4, 6, 8, 10], false), 1);
        assert_eq!(judge_layout([0, 1, 2, 6, 8, 10], false), 1);
        assert_eq!(judge_layout([0, 1, 2, 6, 8, 10], true), 0);
    }
}
