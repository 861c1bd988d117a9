//! What nodes hold on behalf of callers is bounded by rooms from which each request takes its share before it takes memory.
//! Whoever keeps a share for ever makes them smaller, until nobody is served: when nobody asks for anything, all must be back.

use crate::cluster::Cluster;
use crate::violation::Violation;
use node::Held;
use runtime::time;
use std::collections::BTreeMap;
use std::time::Duration;

/// Requests end by then, with or without an answer.
const WITHIN: Duration = Duration::from_secs(60);
/// Between two looks. Heartbeats and the messages of groups come and go all the time, and hold little for a short time.
const PAUSE: Duration = Duration::from_millis(7);

/// The clients are gone: whether each node has given back all at some moment from now on.
pub(super) async fn judge(cluster: &Cluster) -> Vec<Violation> {
    let mut least: BTreeMap<usize, Held> = BTreeMap::new();
    let deadline = time::now() + WITHIN;
    loop {
        for index in (0..cluster.machines.len()).filter(|index| !cluster.machines[*index].is_dead()) {
            let Some(held) = cluster.node(index).map(|node| node.held()) else { continue };
            let known = least.entry(index).or_insert(held);
            *known = Held {
                bodies: known.bodies.min(held.bodies),
                requests: known.requests.min(held.requests),
                shards: known.shards.min(held.shards),
                inboxes: known.inboxes.min(held.inboxes),
            };
        }
        let kept = || least.iter().filter(|(_, held)| **held != Held::default());
        if kept().next().is_none() {
            return Vec::new();
        }
        if time::now() >= deadline {
            let text = |(node, held): (&usize, &Held)| format!("nobody asks for anything, and node {node} keeps memory: {held:?}");
            return kept().map(|kept| Violation::new("memory-given-back", text(kept))).collect();
        }
        time::sleep(PAUSE).await;
    }
}
