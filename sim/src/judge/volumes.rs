//! A volume takes blobs only after every slot of it is durable: whatever the root group calls open has all its slot files.

use super::acknowledged::Missing;
use super::drives::Drives;
use super::logs::Logs;
use drive::file_name;
use drive::inspect::SlotView;
use node::inspect;
use protocol::layout::SlotAddress;
use protocol::{SlotIndex, Volume, VolumeId};
use runtime::disk::{Disk, Open};
use std::collections::BTreeSet;

/// The volumes that were looked at.
#[derive(Default)]
pub struct Volumes {
    judged: BTreeSet<VolumeId>,
    /// Of the root group, as far as they were looked for.
    applied: u64,
}

impl Volumes {
    /// What is missing of the volumes that were opened since the last call.
    pub fn judge(&mut self, logs: &Logs, drives: &Drives) -> Vec<Missing> {
        if logs.root().applied() == self.applied {
            return Vec::new();
        }
        self.applied = logs.root().applied();
        let mut found = Vec::new();
        for volume in inspect::open_volumes(logs.root().rows()) {
            if self.judged.insert(volume.id) {
                found.extend(missing_slots(&volume, drives));
            }
        }
        found
    }
}

fn missing_slots(volume: &Volume, drives: &Drives) -> Vec<Missing> {
    let mut found = Vec::new();
    for (index, place) in (0..).zip(&volume.slots) {
        let at = SlotAddress { volume: volume.id, generation: volume.generation, slot: SlotIndex(index) };
        if let Err(reason) = slot(drives.durable(place.drive).as_ref(), at) {
            let text = format!("I2: volume {} is open, but slot {index} on {}: {reason}", volume.id, drives.label(place.drive));
            found.push(Missing::of(place.drive, "open-volume-built", text));
        }
    }
    found
}

/// That the file of slot `at` is there.
fn slot(disk: &dyn Disk, at: SlotAddress) -> Result<(), String> {
    let file = disk.open(&file_name(at), Open::Existing).map_err(|error| error.to_string())?;
    let slot = SlotView::open(&*file).map_err(|error| error.to_string())??;
    if slot.at == at { Ok(()) } else { Err(format!("its file says that it is {:?}", slot.at)) }
}
