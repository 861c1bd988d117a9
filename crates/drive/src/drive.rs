//! A mounted drive: its slots.
//! Invariant: a slot is in the map only when its file and its directory entry are durable.

use crate::slot::{Admission, Slot};
use crate::slot_file::{SlotFile, file_name};
use crate::{Error, Refusal};
use protocol::layout::SlotAddress;
use protocol::{Epoch, Generation, Scheme, SlotIndex, VolumeId};
use runtime::disk::{self, Disk};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

/// Most slots of one drive: each is an open file. A drive is meant to hold some 200.
const SLOTS_OF_DRIVE_MAX: usize = 8192;

/// The slots of one drive.
pub struct Drive {
    disk: Arc<dyn Disk>,
    slots: RwLock<BTreeMap<SlotAddress, Known>>,
    admission: Arc<Admission>,
    /// Held while a slot is created: two callers may ask for the same one.
    creating: Mutex<()>,
}

#[derive(Clone)]
enum Known {
    Open(Arc<Slot>),
    /// The file is there but cannot be used; it is left alone.
    Damaged(String),
}

/// How much a drive holds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DriveUsage {
    pub slots: u64,
    pub shards: u64,
    /// Of shards, without headers.
    pub bytes: u64,
    /// Damaged ranges found by recovery, and slot files that cannot be used.
    pub damage: u64,
}

impl Drive {
    /// Recover all slots of a drive that was mounted. A slot that cannot be recovered is left alone and answers
    /// [`Refusal::Corrupt`]; only a drive that fails as a whole is an error.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Drive, Error> {
        disk.create_folder("slots")?;
        let admission = Admission::new();
        let mut slots = BTreeMap::new();
        for entry in disk.list("slots")? {
            if entry.name.ends_with(".slot.new") {
                // Its creation was never answered.
                disk.remove(&format!("slots/{}", entry.name))?;
                continue;
            }
            let Some(at) = parse_file_name(&entry.name) else {
                tracing::warn!(drive = disk.label(), file = entry.name, "not a slot file; it is left alone");
                continue;
            };
            let known = match SlotFile::open(&disk, at) {
                Ok(file) => Known::Open(Slot::new(disk.clone(), file, admission.clone())),
                Err(Error::Disk(error @ (disk::Error::Closed { .. } | disk::Error::Full { .. }))) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(slot = entry.name, %error, "a slot cannot be used");
                    Known::Damaged(error.to_string())
                }
            };
            slots.insert(at, known);
        }
        // A slot created before a mere restart of the process may not be durable yet.
        disk.sync_dir("slots")?;
        Ok(Drive { disk, slots: RwLock::new(slots), admission, creating: Mutex::new(()) })
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The slot at this address.
    pub fn slot(&self, at: SlotAddress) -> Result<Arc<Slot>, Refusal> {
        if let Some(reason) = self.disk.closed() {
            return Err(Refusal::Closed { detail: format!("{}: {reason}", self.disk.label()) });
        }
        match self.slots().get(&at) {
            Some(Known::Open(slot)) => Ok(slot.clone()),
            Some(Known::Damaged(detail)) => Err(Refusal::Corrupt { detail: detail.clone() }),
            None => Err(Refusal::NotFound),
        }
    }

    /// Create a slot; file and directory are durable when this returns. The same slot again succeeds.
    pub async fn create_slot(self: &Arc<Drive>, at: SlotAddress, epoch: Epoch, scheme: Scheme) -> Result<(), Refusal> {
        let drive = self.clone();
        disk::run(&self.disk, move || {
            let _creating = drive.creating.lock().expect("nothing panics under this lock");
            match drive.slot(at) {
                Ok(slot) => confirm(&slot, epoch, scheme),
                Err(Refusal::NotFound) if drive.slots().len() >= SLOTS_OF_DRIVE_MAX => Err(Refusal::Full),
                Err(Refusal::NotFound) => {
                    let file = SlotFile::create(&drive.disk, at, epoch, scheme)?;
                    let slot = Slot::new(drive.disk.clone(), file, drive.admission.clone());
                    drive.slots.write().expect("nothing panics under this lock").insert(at, Known::Open(slot));
                    Ok(())
                }
                Err(refusal) => Err(refusal),
            }
        })
        .await
    }

    /// Bytes that appends and reads under way hold of the room for them, in units of 4 KiB.
    pub fn held_bytes(&self) -> usize {
        self.admission.held_bytes()
    }

    pub fn usage(&self) -> DriveUsage {
        let mut usage = DriveUsage::default();
        for known in self.slots().values() {
            usage.slots += 1;
            match known {
                Known::Open(slot) => {
                    let (shards, bytes) = slot.usage();
                    usage.shards += shards;
                    usage.bytes += bytes;
                    usage.damage += slot.damage().count;
                }
                Known::Damaged(_) => usage.damage += 1,
            }
        }
        usage
    }

    fn slots(&self) -> RwLockReadGuard<'_, BTreeMap<SlotAddress, Known>> {
        self.slots.read().expect("nothing panics under this lock")
    }
}

/// Whether the slot that is there is the one asked for.
fn confirm(slot: &Slot, epoch: Epoch, scheme: Scheme) -> Result<(), Refusal> {
    let (present, sealed) = slot.fence_state();
    if slot.scheme() != scheme {
        return Err(Refusal::Invalid { detail: format!("the slot is there already, under {}", slot.scheme()) });
    }
    if present > epoch {
        return Err(Refusal::StaleEpoch { slot: present });
    }
    if sealed {
        return Err(Refusal::Sealed { slot: present });
    }
    if present < epoch {
        return Err(Refusal::Invalid { detail: format!("the slot is there already, at epoch {present}") });
    }
    Ok(())
}

/// The address in `<volume>-<generation>-<slot>.slot`, all in hex digits of fixed width.
pub(crate) fn parse_file_name(name: &str) -> Option<SlotAddress> {
    let stem = name.strip_suffix(".slot")?;
    let mut parts = stem.split('-');
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    let volume = VolumeId(number()?);
    let generation = Generation(u32::try_from(number()?).ok()?);
    let slot = SlotIndex(u8::try_from(number()?).ok()?);
    let at = SlotAddress { volume, generation, slot };
    // Written by us in exactly one way.
    (file_name(at).strip_prefix("slots/") == Some(name)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_give_their_address_back_and_others_give_none() {
        let at = SlotAddress { volume: VolumeId(0xabc), generation: Generation(3), slot: SlotIndex(31) };
        assert_eq!(file_name(at), "slots/0000000000000abc-00000003-1f.slot");
        assert_eq!(parse_file_name("0000000000000abc-00000003-1f.slot"), Some(at));
        for other in ["", ".slot", "abc-3-1f.slot", "0000000000000ABC-00000003-1f.slot", "0000000000000abc-00000003-1f-0.slot"] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }
}
