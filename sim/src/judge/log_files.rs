//! The log that the replicas of a drive share is cut behind what all of them need no more. One that keeps an old segment for
//! ever, because nothing is written to its group, lets the log grow until the drive is full: when all is quiet, no more
//! segments may be left than a drive is allowed.

use super::drives::{Drives, Harm};
use crate::cluster::Cluster;
use crate::violation::Violation;
use node::settings::ConsensusSettings;
use protocol::DriveId;
use runtime::time;
use std::collections::BTreeSet;
use std::time::Duration;

/// A checkpoint is waited for, and more than one if several replicas keep old segments.
const WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// The clients are gone: whether the log of each drive is as short as it should be at some moment from now on. `touched`: drives that
/// a fault struck; what is rotten may be kept.
pub(super) async fn judge(cluster: &Cluster, drives: &Drives, touched: &BTreeSet<DriveId>) -> Vec<Violation> {
    let max = ConsensusSettings::default().segments_max;
    let deadline = time::now() + WITHIN;
    let mut left: Vec<DriveId> = drives.iter().map(|(drive, _)| drive).filter(|drive| !touched.contains(drive)).collect();
    loop {
        let harm = Harm::now(drives, cluster);
        left.retain(|drive| harm.out(*drive).is_none() && segments(drives, *drive) > max);
        if left.is_empty() {
            return Vec::new();
        }
        if time::now() >= deadline {
            let text =
                |drive: DriveId| format!("nothing is written, and {} keeps {} segments", drives.label(drive), segments(drives, drive));
            return left.into_iter().map(|drive| Violation::new("log-is-cut", text(drive))).collect();
        }
        time::sleep(PAUSE).await;
    }
}

/// Segments of the log that lie durably on the drive.
fn segments(drives: &Drives, drive: DriveId) -> usize {
    let files = drives.durable(drive).list("raft").unwrap_or_default();
    files.iter().filter(|file| file.name.starts_with("log-")).count()
}
