//! What a judge of raw drives has to know of a cluster: where the replicas of each group live, which state machine runs
//! in them, and how a volume stands in the root group's rows. Nothing here changes anything.

use crate::settings::Bootstrap;
use consensus::rows::MemoryRows;
use consensus::{GroupSpec, StateMachine};
use placement::commands::{Answer, Query, Reply};
pub use placement::root::time::{AGREE_MS as CLUSTER_TIME_AGREE_MS, STEP_MS_MAX as CLUSTER_TIME_STEP_MS_MAX};
pub use placement::{Bucket, IDENTITY_AGE_MAX, Identity};
use protocol::{DriveId, GroupId, ROOT, Volume, VolumeId, VolumeState, wire};
use std::sync::Arc;

/// All groups of a cluster and where their replicas live.
pub fn groups(bootstrap: &Bootstrap) -> Vec<GroupSpec> {
    let mut groups = vec![ROOT];
    groups.extend(&bootstrap.partitions);
    placement::place_replicas(&bootstrap.map, &groups)
}

/// The state machine that runs in the replicas of `group`.
pub fn machine(group: GroupId) -> Arc<dyn StateMachine> {
    crate::node::machine(group)
}

/// The volume in these rows of the root group.
pub fn volume(root: &MemoryRows, volume: VolumeId) -> Option<Volume> {
    match ask(root, &Query::Volume { volume })? {
        Reply::Volume(volume) => Some(volume),
        _ => None,
    }
}

/// The drives that these rows of the root group call lost.
pub fn lost_drives(root: &MemoryRows) -> Vec<DriveId> {
    match ask(root, &Query::LostDrives) {
        Some(Reply::Drives(drives)) => drives,
        _ => Vec::new(),
    }
}

/// What these rows of the root group say of the buckets that are being created, deleted or set.
pub fn unfinished_buckets(root: &MemoryRows) -> Vec<String> {
    match ask(root, &Query::UnfinishedBuckets { after: String::new() }) {
        Some(Reply::Buckets(buckets)) => buckets.iter().map(|bucket| format!("{bucket:?}")).collect(),
        _ => Vec::new(),
    }
}

/// The volumes that these rows of the root group call open.
pub fn open_volumes(root: &MemoryRows) -> Vec<Volume> {
    let Some(Reply::Unsealed(unsealed)) = ask(root, &Query::Unsealed) else { return Vec::new() };
    unsealed.volumes.into_iter().filter(|volume| volume.state == VolumeState::Open).collect()
}

/// The buckets that these rows of the root group know, however they stand.
pub fn buckets(root: &MemoryRows) -> Vec<Bucket> {
    let all = Query::Buckets { after: String::new(), max: 1000 };
    match ask(root, &all) {
        Some(Reply::Buckets(buckets)) => buckets,
        _ => Vec::new(),
    }
}

/// The identities in these rows of the root group.
pub fn identities(root: &MemoryRows) -> Vec<Identity> {
    match ask(root, &Query::Identities) {
        Some(Reply::Identities(identities)) => identities,
        _ => Vec::new(),
    }
}

/// Cluster time in these rows of the root group, in milliseconds since 1970.
pub fn cluster_time_ms(root: &MemoryRows) -> u64 {
    match ask(root, &Query::Time) {
        Some(Reply::Time { now_ms }) => now_ms,
        _ => 0,
    }
}

/// The bucket of this name in these rows of the root group.
pub fn bucket(root: &MemoryRows, name: &str) -> Option<Bucket> {
    match ask(root, &Query::Bucket { name: name.to_string() })? {
        Reply::Bucket(bucket) => Some(bucket),
        _ => None,
    }
}

fn ask(root: &MemoryRows, query: &Query) -> Option<Reply> {
    let answer = machine(ROOT).query(&root.rows(), &wire::encode(query));
    wire::decode::<Answer>(&answer).ok()?.result.ok()
}
