//! [`Ledger`]: every version that a key has, down to its shards, and how each of them stands on the raw drives.

use super::acknowledged;
use super::drives::{Drives, Harm, Out};
use super::logs::Logs;
use super::slots::Slots;
use super::witness::Version;
use bytes::Bytes;
use drive::file_name;
use erasure::Code;
use node::inspect;
use protocol::{BlobRef, BucketId, GroupId, Home};
use runtime::side::Wrong;
use std::collections::BTreeSet;

/// How one shard stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    Intact,
    /// Written and synced, but the drive shows something else.
    Marked(Wrong),
    /// Out of reach.
    Out(Out),
    /// Not there, or not what was written; why.
    Missing(String),
}

/// One blob of a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stripe {
    pub blob: BlobRef,
    /// Shards that are needed.
    pub need: usize,
    pub shards: Vec<Standing>,
}

impl Stripe {
    /// Shards that may yet be lost; `None`: it is lost.
    pub fn spare(&self) -> Option<usize> {
        self.shards.iter().filter(|shard| **shard == Standing::Intact).count().checked_sub(self.need)
    }
}

/// A version that a key has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    pub bucket: BucketId,
    pub key: String,
    pub version: Version,
    pub stripes: Vec<Stripe>,
    /// Its group has no quorum of replicas that can be reached.
    pub without_quorum: bool,
    /// Its bytes do not come out right although enough shards are there.
    pub wrong: Option<String>,
}

impl Line {
    /// A stripe of it has fewer shards than are needed, or nobody can tell where it is.
    pub fn is_lost(&self) -> bool {
        self.without_quorum || self.stripes.iter().any(|stripe| stripe.spare().is_none())
    }

    /// Not lost, and one more loss may do it.
    pub fn is_at_risk(&self) -> bool {
        !self.is_lost() && self.stripes.iter().any(|stripe| stripe.spare() == Some(0))
    }
}

/// All versions that keys have.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Ledger(pub Vec<Line>);

impl Ledger {
    /// Look at every shard of every version that a key has now.
    pub fn take(drives: &Drives, harm: &Harm, logs: &Logs, slots: &mut Slots) -> Ledger {
        let without_quorum = without_quorum(harm, logs);
        let mut lines = Vec::new();
        for (group, key, written, version) in logs.living() {
            let home = Home::of(written.bucket, key);
            let mut line = Line {
                bucket: written.bucket,
                key: key.to_string(),
                version: version.clone(),
                stripes: Vec::new(),
                without_quorum: without_quorum.contains(&group),
                wrong: None,
            };
            for blob in &version.blobs {
                let Some(volume) = inspect::volume(logs.root().rows(), blob.volume) else {
                    line.wrong = Some(format!("{:?} is unknown to the root group", blob.volume));
                    continue;
                };
                let mut shards: Vec<Result<Bytes, Standing>> = Vec::new();
                for (slot, place) in volume.slots.iter().enumerate() {
                    let shard = acknowledged::shard(&volume, slot, blob, home, drives, slots).map_err(Standing::Missing);
                    shards.push(shard.and_then(|shard| {
                        let mark = harm.mark(place.drive, &file_name(shard.view.address.at), &shard.record);
                        match (harm.out(place.drive), mark) {
                            (Some(out), _) => Err(Standing::Out(out)),
                            (None, Some(mark)) => Err(Standing::Marked(mark.wrong)),
                            (None, None) => Ok(shard.bytes),
                        }
                    }));
                }
                let code = Code { data: volume.scheme.data(), parity: volume.scheme.parity() };
                line.wrong = line.wrong.or_else(|| decode(code, blob, &shards).err());
                let shards = shards.into_iter().map(|shard| shard.err().unwrap_or(Standing::Intact)).collect();
                line.stripes.push(Stripe { blob: *blob, need: code.data, shards });
            }
            lines.push(line);
        }
        Ledger(lines)
    }

    /// Versions of which a stripe has too few shards.
    pub fn lost(&self) -> impl Iterator<Item = &Line> {
        self.0.iter().filter(|line| line.is_lost())
    }

    /// Versions that are one loss away from it.
    pub fn at_risk(&self) -> impl Iterator<Item = &Line> {
        self.0.iter().filter(|line| line.is_at_risk())
    }
}

/// Groups of which fewer than a majority of the replicas can be reached.
pub fn without_quorum(harm: &Harm, logs: &Logs) -> BTreeSet<GroupId> {
    let lacks = |group: &GroupId| {
        let voters: Vec<bool> = logs.voters(*group).map(|drive| harm.out(drive).is_none()).collect();
        voters.iter().filter(|reachable| **reachable).count() <= voters.len() / 2
    };
    logs.partitions().map(|witness| witness.group).filter(lacks).collect()
}

/// That the intact shards make the blob: from data shards first, then from parity as far as it goes.
fn decode(code: Code, blob: &BlobRef, shards: &[Result<Bytes, Standing>]) -> Result<(), String> {
    let all: Vec<Option<Bytes>> = shards.iter().map(|shard| shard.as_ref().ok().cloned()).collect();
    let present: Vec<usize> = (0..all.len()).filter(|index| all[*index].is_some()).collect();
    if present.len() < code.data {
        // Lost, which is told by the count of its shards.
        return Ok(());
    }
    for chosen in [&present[..code.data], &present[present.len() - code.data..]] {
        let some: Vec<Option<Bytes>> =
            all.iter().enumerate().map(|(index, shard)| shard.clone().filter(|_| chosen.contains(&index))).collect();
        let bytes = erasure::decode(code, blob.bytes as usize, &some).map_err(|error| format!("{:?}: {error}", blob.blob))?;
        erasure::verify(&[bytes], blob.checksum).map_err(|error| format!("{:?} from shards {chosen:?}: {error}", blob.blob))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{BlobId, VolumeId, WriterId};

    const CODE: Code = Code { data: 4, parity: 2 };

    fn blob_and_shards() -> (BlobRef, Vec<Result<Bytes, Standing>>) {
        let bytes = Bytes::from((0..5000u32).map(|number| number.to_le_bytes()[0]).collect::<Vec<u8>>());
        let blob = BlobRef {
            volume: VolumeId(1),
            blob: BlobId { writer: WriterId(1), counter: 1 },
            bytes: 5000,
            checksum: erasure::checksum(&bytes),
        };
        (blob, erasure::encode(CODE, &[bytes]).into_iter().map(Ok).collect())
    }

    #[test]
    fn a_parity_shard_that_does_not_fit_the_others_is_found() {
        let (blob, mut shards) = blob_and_shards();
        assert_eq!(decode(CODE, &blob, &shards), Ok(()));
        let mut other = shards[5].clone().unwrap().to_vec();
        other[17] ^= 1;
        shards[5] = Ok(other.into());
        assert!(decode(CODE, &blob, &shards).is_err());
    }

    #[test]
    fn a_version_is_at_risk_without_spare_shards_and_lost_below_k() {
        let (blob, _) = blob_and_shards();
        let line = |damaged: usize| {
            let mut shards = vec![Standing::Intact; 6];
            shards[..damaged].fill(Standing::Marked(Wrong::Rotten));
            let version = Version { etag: String::new(), value: None, blobs: vec![blob] };
            Line {
                bucket: BucketId(1),
                key: "k".into(),
                version,
                stripes: vec![Stripe { blob, need: 4, shards }],
                without_quorum: false,
                wrong: None,
            }
        };
        let ledger = Ledger((0..4).map(line).collect());
        assert_eq!((ledger.at_risk().count(), ledger.lost().count()), (1, 1));
        assert!(ledger.0[2].is_at_risk() && ledger.0[3].is_lost());
    }
}
