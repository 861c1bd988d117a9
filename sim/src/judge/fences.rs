//! A fence is durable before it is answered (I11), and of fenced volumes: every blob that a record names is in every intact list (I2, I11). A list was taken at the fence, so
//! that a blob that is missing from it became safe behind the fence, or was never whole.

use super::acknowledged::Missing;
use super::drives::Drives;
use super::ledger::Ledger;
use crate::violation::Violation;
use drive::file_name;
use drive::inspect::SlotView;
use node::Sealed;
use protocol::layout::SlotAddress;
use protocol::{DriveId, Epoch, SlotIndex};
use runtime::disk::{Disk, Open};
use std::collections::BTreeSet;

/// At the moment of the answer: the header of each slot that was fenced, as a loss of power would leave it, says so.
pub fn judge_headers(sealed: &Sealed, drives: &Drives) -> Vec<Missing> {
    let (volume, mut found) = (&sealed.volume, Vec::new());
    for ((index, place), list) in (0..).zip(&volume.slots).zip(&sealed.lists) {
        let at = SlotAddress { volume: volume.id, generation: volume.generation, slot: SlotIndex(index) };
        if list.is_ok()
            && let Err(reason) = header(drives.durable(place.drive).as_ref(), at, volume.epoch)
        {
            let (id, epoch, drive) = (volume.id, volume.epoch, drives.label(place.drive));
            let text = format!("I11: slot {index} of volume {id} on {drive} answered that it is fenced at epoch {epoch}, but {reason}");
            found.push(Missing::of(place.drive, "fence-durable", text));
        }
    }
    found
}

fn header(disk: &dyn Disk, at: SlotAddress, epoch: Epoch) -> Result<(), String> {
    let file = disk.open(&file_name(at), Open::Existing).map_err(|error| error.to_string())?;
    let slot = SlotView::open(&*file).map_err(|error| error.to_string())??;
    let fenced = slot.epoch > epoch || (slot.epoch == epoch && slot.sealed);
    if fenced { Ok(()) } else { Err(format!("its header is at epoch {}, sealed: {}", slot.epoch, slot.sealed)) }
}

/// What is wrong with `sealed`, the volumes that were sealed during the run. Lists of `touched` drives are left out:
/// faults took something from them, which need not have been noticed when they were listed.
pub fn judge(sealed: &[Sealed], ledger: &Ledger, touched: &BTreeSet<DriveId>) -> Vec<Violation> {
    let mut found = Vec::new();
    for line in &ledger.0 {
        for blob in line.stripes.iter().map(|stripe| stripe.blob) {
            for sealed in sealed.iter().filter(|sealed| sealed.volume.id == blob.volume) {
                let lists = sealed.intact().filter(|(place, _)| !touched.contains(&place.drive));
                for (place, list) in lists {
                    if !list.shards.iter().any(|listed| listed.blob == blob.blob) {
                        let (volume, epoch) = (sealed.volume.id, sealed.volume.epoch);
                        let text = format!(
                            "I11: {} names {:?}, which drive {} did not list when volume {volume} was fenced at epoch {epoch}",
                            line.key, blob.blob, place.drive
                        );
                        found.push(Violation::new("fenced-list", text));
                    }
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Line, Stripe};
    use super::super::witness::Version;
    use super::*;
    use protocol::layout::ShardHeader;
    use protocol::{BlobId, BlobRef, BucketId, Epoch, Generation, Home, NodeId, SlotPlace, Volume, VolumeId, VolumeState, WriterId};
    use std::sync::Arc;

    fn list(blobs: &[BlobId]) -> node::List {
        let header = ShardHeader {
            home: Home::of(BucketId(1), "k"),
            scheme: "rs(1,1)".parse().unwrap(),
            blob_bytes: 1,
            blob_checksum: 0,
            shard_checksums: vec![0, 0],
        };
        let shards = blobs.iter().map(|blob| node::Listed { blob: *blob, header: header.clone() });
        node::List { shards: shards.collect(), intact: true }
    }

    #[test]
    fn a_named_blob_that_an_intact_list_lacks_is_found() {
        let blob = BlobRef { volume: VolumeId(1), blob: BlobId { writer: WriterId(1), counter: 1 }, bytes: 1, checksum: 0 };
        let place = |drive| SlotPlace { node: NodeId(1), drive: DriveId(drive) };
        let volume = Arc::new(Volume {
            id: VolumeId(1),
            scheme: "rs(1,1)".parse().unwrap(),
            epoch: Epoch(2),
            generation: Generation(0),
            state: VolumeState::Sealed,
            slots: vec![place(1), place(2)],
            at_risk: false,
        });
        let sealed = |second| [Sealed { volume: volume.clone(), lists: vec![Ok(list(&[blob.blob])), Ok(second)] }];
        let ledger = Ledger(vec![Line {
            bucket: BucketId(1),
            key: "k".into(),
            version: Version { etag: String::new(), value: None, blobs: vec![blob] },
            stripes: vec![Stripe { blob, need: 1, shards: Vec::new() }],
            without_quorum: false,
            wrong: None,
        }]);
        assert_eq!(judge(&sealed(list(&[blob.blob])), &ledger, &BTreeSet::new()), Vec::new());
        assert_eq!(judge(&sealed(list(&[])), &ledger, &BTreeSet::new()).len(), 1);
        assert_eq!(judge(&sealed(list(&[])), &ledger, &BTreeSet::from([DriveId(2)])), Vec::new());
        let damaged = node::List { intact: false, ..list(&[]) };
        assert_eq!(judge(&sealed(damaged), &ledger, &BTreeSet::new()), Vec::new());
    }
}
