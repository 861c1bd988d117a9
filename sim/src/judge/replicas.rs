//! I9: replicas that applied the same index hold the same bytes.

use crate::cluster::Cluster;
use runtime::time;
use std::collections::BTreeMap;
use std::time::Duration;

/// Simulated time after the last fault in which the replicas of a group must have applied the same.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Wait until the replicas of each group have applied the same, then compare their state hashes.
pub(super) async fn compare(cluster: &Cluster) -> Vec<String> {
    let deadline = time::now() + SETTLE_MAX;
    loop {
        let mut groups: BTreeMap<u64, Vec<(u64, u64, u64)>> = BTreeMap::new();
        for index in 0..cluster.machines.len() {
            let Some(node) = cluster.node(index) else { continue };
            for replica in node.host().status() {
                groups.entry(replica.group.0).or_default().push((replica.applied, replica.state_hash, replica.replica.0));
            }
        }
        let settled = groups.values().all(|replicas| replicas.iter().all(|replica| replica.0 == replicas[0].0));
        let differing: Vec<String> = groups
            .iter()
            .filter(|(_, replicas)| replicas.iter().any(|one| replicas.iter().any(|other| one.0 == other.0 && one.1 != other.1)))
            .map(|(group, replicas)| format!("replicas of group {group} differ (applied, state hash, replica): {replicas:x?}"))
            .collect();
        if settled || !differing.is_empty() {
            return differing;
        }
        if time::now() >= deadline {
            return vec![format!("replicas do not catch up within {} s (applied, state hash, replica): {groups:x?}", SETTLE_MAX.as_secs())];
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}
