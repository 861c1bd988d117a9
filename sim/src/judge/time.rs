//! Cluster time against the clocks that make it: it never goes back, it is never later than most root voters' clocks ever
//! showed, and once all is well it goes on with them if most agree, and stands if they do not.

use super::logs::Logs;
use crate::cluster::Cluster;
use crate::violation::Violation;
use consensus::Members;
use jepsen_like::scenario::Fault;
use protocol::{GroupId, NodeId, ROOT};
use std::time::Duration;

/// In which simulated time cluster time must have come as far as the clocks were, when all is well.
pub const GOES_ON_WITHIN: Duration = Duration::from_secs(60);

/// In which simulated time the last mark by clocks that were set since is made.
pub const LAST_MARK_WITHIN: Duration = Duration::from_secs(30);

/// For so long it is watched whether it stands: a few marks.
pub const STANDS_FOR: Duration = Duration::from_secs(35);

/// How far readings may be from what the clocks show, in milliseconds: they are of a moment ago.
const READING_MS: u64 = 20_000;

/// Cluster time as it was seen so far.
#[derive(Default)]
pub struct ClusterTime {
    seen_ms: u64,
}

impl ClusterTime {
    /// It is `now_ms` by the root group's log; most clocks of voters never showed more than `most_ms`.
    pub fn judge(&mut self, now_ms: u64, most_ms: impl FnOnce() -> u64) -> Option<Violation> {
        let before = std::mem::replace(&mut self.seen_ms, now_ms);
        if now_ms < before {
            return Some(Violation::new("cluster-time-rises", format!("cluster time went back from {before} to {now_ms} ms")));
        }
        if now_ms == before {
            return None;
        }
        let most = most_ms();
        (now_ms > most).then(|| {
            let text = format!("cluster time is {now_ms} ms, and most root voters' clocks never showed more than {most} ms");
            Violation::new("cluster-time-of-most", text)
        })
    }

    pub fn seen_ms(&self) -> u64 {
        self.seen_ms
    }
}

/// What expires is judged by readings of cluster time, which is never later than what most root voters' clocks ever showed, `most`.
pub fn judge_readings(readings: &[(GroupId, u64)], most: u64) -> Vec<Violation> {
    let text = |(group, now_ms): &(GroupId, u64)| {
        format!("group {group} was told that cluster time is {now_ms} ms, and most root voters' clocks never showed more than {most} ms")
    };
    readings.iter().filter(|(_, now_ms)| *now_ms > most).map(|reading| Violation::new("expiry-by-cluster-time", text(reading))).collect()
}

/// Whether a fault makes clocks wrong.
pub fn is_of_clocks(fault: Fault) -> bool {
    matches!(fault, Fault::ClockSkew | Fault::ClockDrift | Fault::ClockJump | Fault::ClockFreeze)
}

/// For each voter of `root` what the wall clock of its machine shows, and the latest that it ever showed.
fn clocks<'a>(cluster: &'a Cluster, root: &'a Members) -> impl Iterator<Item = (u64, u64)> + 'a {
    let machine =
        |node: NodeId| cluster.bootstrap.map.nodes.iter().position(|one| one.id == node).expect("voters live on nodes of the map");
    root.voters.iter().map(move |voter| cluster.machines[machine(voter.node)].wall_ms())
}

/// What most clocks of the root voters show now, as `root` has them.
pub fn most_show(cluster: &Cluster, root: &Members) -> u64 {
    middle(clocks(cluster, root).map(|(shows, _)| shows).collect())
}

/// Whether most clocks of the root voters agree at present; `None` where that depends on how old their readings are.
pub fn most_agree(cluster: &Cluster, root: &Members) -> Option<bool> {
    agree(clocks(cluster, root).map(|(shows, _)| shows).collect())
}

fn agree(mut shown: Vec<u64>) -> Option<bool> {
    shown.sort_unstable();
    let majority = shown.len() / 2 + 1;
    let apart = shown.windows(majority).map(|some| some[majority - 1] - some[0]).min()?;
    let bound = node::inspect::CLUSTER_TIME_AGREE_MS;
    let near = apart.abs_diff(bound) < READING_MS;
    (!near).then_some(apart < bound)
}

/// What most clocks of the root voters never showed more than, as any configuration of the root group so far has them.
pub fn most_showed(cluster: &Cluster, logs: &Logs) -> u64 {
    let latest = |root| middle(clocks(cluster, root).map(|(_, latest)| latest).collect());
    logs.configurations(ROOT, 0, u64::MAX).map(latest).max().expect("the founding one stays")
}

/// The one in the middle, the lower one of two: a minority lies on either side of it.
fn middle(mut shown: Vec<u64>) -> u64 {
    shown.sort_unstable();
    shown[(shown.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree_if_most_are_close_together() {
        let now = 1_700_000_000_000;
        let of = |offsets: [u64; 5]| agree(offsets.map(|seconds| now + seconds * 1000).to_vec());
        assert_eq!(of([0, 900, 50, 600, 10]), Some(true));
        assert_eq!(of([0, 900, 100, 600, 10]), Some(false));
        assert_eq!(of([0, 900, 75, 600, 10]), None);
    }

    #[test]
    fn a_time_that_goes_back_or_runs_ahead_of_most_clocks_is_found() {
        let mut time = ClusterTime::default();
        let clocks = || middle(vec![500, 100, 300]);
        assert_eq!(time.judge(0, || unreachable!("it does not move")), None);
        assert_eq!(time.judge(300, clocks), None);
        assert_eq!(time.judge(300, || unreachable!("it does not move")), None);
        assert_eq!(time.judge(301, clocks).map(|found| found.check), Some("cluster-time-of-most".to_owned()));
        assert_eq!(time.judge(300, clocks).map(|found| found.check), Some("cluster-time-rises".to_owned()));
        let found = judge_readings(&[(GroupId(1), 300), (GroupId(2), 301)], clocks());
        assert_eq!(found.iter().map(|found| found.check.as_str()).collect::<Vec<_>>(), ["expiry-by-cluster-time"]);
    }
}
