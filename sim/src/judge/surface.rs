//! What lies in the slot files of all drives at the end: every record intact, every blob one blob.

use super::drives::Drives;
use super::slots::{files, scan, verified};
use crate::violation::Violation;
use drive::file_name;
use drive::inspect::SlotView;
use protocol::layout::SlotAddress;
use protocol::{BlobId, DriveId, Home, VolumeId};
use runtime::disk::{Disk, Open};
use std::collections::{BTreeMap, BTreeSet};

/// What all shards of a blob must agree on.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Identity {
    home: Home,
    volume: VolumeId,
    bytes: u32,
    checksum: u64,
    shard_checksums: Vec<u64>,
}

/// Blobs as they were met.
#[derive(Default)]
struct Met(BTreeMap<BlobId, Identity>);

impl Met {
    /// Whether `blob` was met before as another one.
    fn differs(&mut self, blob: BlobId, identity: Identity) -> bool {
        *self.0.entry(blob).or_insert_with(|| identity.clone()) != identity
    }
}

/// Verify every slot file of every drive as it was written. What a drive shows instead is not looked at here; files that a
/// fault ever struck are left out, as the node may have mended, cut or sealed them after what it was shown.
pub fn judge(drives: &Drives, struck: &BTreeSet<(DriveId, String)>) -> Vec<Violation> {
    let say = |text: String| Violation::new("slot-sound", text);
    let mut found = Vec::new();
    let mut met = Met::default();
    for (id, _) in drives.iter() {
        let disk = drives.durable(id);
        let label = drives.label(id);
        match files(disk.as_ref()) {
            Ok(slots) => {
                for at in slots {
                    if struck.contains(&(id, file_name(at))) {
                        continue;
                    }
                    let problems = judge_slot(disk.as_ref(), at, &mut met).unwrap_or_else(|reason| vec![reason]);
                    found.extend(problems.into_iter().map(|problem| say(format!("{label}: {}: {problem}", file_name(at)))));
                }
            }
            Err(error) => found.push(say(format!("{label}: {error}"))),
        }
    }
    found
}

fn judge_slot(disk: &dyn Disk, at: SlotAddress, met: &mut Met) -> Result<Vec<String>, String> {
    let file = disk.open(&file_name(at), Open::Existing).map_err(|error| error.to_string())?;
    let slot = SlotView::open(&*file).map_err(|error| error.to_string())??;
    let mut found = Vec::new();
    if slot.at != at {
        found.push(format!("its header says that it is {:?}", slot.at));
    }
    if !slot.whole {
        found.push("a copy of its header is damaged".to_string());
    }
    let scan = scan(&*file, &slot).map_err(|error| error.to_string())?;
    // Beyond the horizon a write may be torn, if its process ended in the middle of it and nobody has opened the file since.
    found.extend(scan.gaps.iter().filter(|gap| gap.start < scan.horizon).map(|gap| format!("bytes {gap:?} are no record")));
    for shard in scan.records.iter().filter_map(|record| record.shard.as_ref()) {
        if shard.bytes.end <= scan.horizon
            && let Err(reason) = verified(&*file, shard)
        {
            found.push(format!("{:?}: {reason}", shard.address.blob));
        }
        let header = &shard.header;
        let identity = Identity {
            home: header.home,
            volume: at.volume,
            bytes: header.blob_bytes,
            checksum: header.blob_checksum,
            shard_checksums: header.shard_checksums.clone(),
        };
        if met.differs(shard.address.blob, identity) {
            found.push(format!("{:?} was seen elsewhere as another blob", shard.address.blob));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{BucketId, WriterId};

    #[test]
    fn an_id_that_is_met_with_another_home_or_content_is_found() {
        let blob = BlobId { writer: WriterId(1), counter: 2 };
        let home = Home { bucket: BucketId(1), key_hash: 5 };
        let identity = Identity { home, volume: VolumeId(1), bytes: 9, checksum: 7, shard_checksums: vec![1, 2] };
        let mut met = Met::default();
        assert!(!met.differs(blob, identity.clone()));
        assert!(!met.differs(blob, identity.clone()));
        assert!(met.differs(blob, Identity { checksum: 8, ..identity.clone() }));
        assert!(met.differs(blob, Identity { home: Home { key_hash: 6, ..home }, ..identity }));
    }
}
