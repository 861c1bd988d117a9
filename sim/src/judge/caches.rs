//! A node that is told of the root group's changes takes what it keeps of its rows for what they are, however old it is: then it
//! must be that, as soon as nothing changes any more.

use crate::cluster::Cluster;
use crate::violation::Violation;
use consensus::rows::MemoryRows;
use protocol::Volume;
use runtime::time;
use std::sync::Arc;
use std::time::Duration;

/// News are on their way for so long at most: a watcher that lost its leader asks others.
const WITHIN: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// What one node takes for granted.
pub(super) struct Kept {
    node: usize,
    buckets: Vec<Arc<node::inspect::Bucket>>,
    volumes: Vec<Arc<Volume>>,
    identities: Option<Vec<node::inspect::Identity>>,
}

/// Whether what each node that runs takes for granted comes to be what the rows are.
pub(super) async fn judge(cluster: &Cluster, differing: impl Fn(&Kept) -> Vec<String>) -> Vec<Violation> {
    let deadline = time::now() + WITHIN;
    loop {
        let mut wrong = Vec::new();
        for (index, machine) in cluster.machines.iter().enumerate().filter(|(_, machine)| !machine.is_dead()) {
            let Some(node) = cluster.node(index) else { continue };
            // On its machine: whether changes are heard of is judged by its clock.
            let ((buckets, volumes), identities) = machine.spawn(async move { (node.covered(), node.covered_identities()) }).await;
            wrong.extend(differing(&Kept { node: index, buckets, volumes, identities }));
        }
        if wrong.is_empty() || time::now() >= deadline {
            return wrong.into_iter().map(|text| Violation::new("cached-as-told", text)).collect();
        }
        time::sleep(PAUSE).await;
    }
}

/// Where it is not what the rows of the root group are.
pub(super) fn differing(kept: &Kept, root: &MemoryRows) -> Vec<String> {
    let mut found = Vec::new();
    for bucket in &kept.buckets {
        let row = node::inspect::bucket(root, &bucket.name);
        if row.as_ref() != Some(&**bucket) {
            found.push(format!("node {} takes bucket {bucket:?} for granted, and it is {row:?}", kept.node));
        }
    }
    for volume in &kept.volumes {
        let row = node::inspect::volume(root, volume.id);
        if row.as_ref() != Some(&**volume) {
            found.push(format!("node {} takes volume {volume:?} for granted, and it is {row:?}", kept.node));
        }
    }
    if let Some(identities) = &kept.identities {
        let rows = node::inspect::identities(root);
        if rows != *identities {
            found.push(format!("node {} takes the identities {identities:?} for granted, and they are {rows:?}", kept.node));
        }
    }
    found
}
