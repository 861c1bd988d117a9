//! After the last fault healed, every gateway serves again in time: a fresh key is put and read back through each.

use crate::cluster::Cluster;
use crate::violation::Violation;
use jepsen_like::s3::{Client, Content, Error};
use protocol::limits::INLINE_BYTES_MAX;
use runtime::time::{self, Instant};
use std::time::Duration;

/// Apart from the workloads' buckets, so that no listing shows these keys.
const BUCKET: &str = "fresh";
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for one reply.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether every gateway whose machine runs serves before `deadline`.
pub async fn judge(cluster: &Cluster, clients: &[Client], deadline: Instant) -> Vec<Violation> {
    let running = |index: &usize| !cluster.machines[*index].is_dead();
    let tries = (0..clients.len()).filter(running).map(|index| serves(index, clients[index].with_timeout(PATIENCE), deadline));
    let outcomes = futures::future::join_all(tries).await;
    outcomes.into_iter().flatten().collect()
}

async fn serves(index: usize, client: Client, deadline: Instant) -> Option<Violation> {
    loop {
        let Err(reason) = put_and_get(index, &client).await else { return None };
        if time::now() >= deadline {
            let text = format!("gateway {index} does not serve in time after the last fault: {reason}");
            return Some(Violation::new("serves-after-faults", text));
        }
        time::sleep(PAUSE).await;
    }
}

async fn put_and_get(index: usize, client: &Client) -> Result<(), String> {
    match client.create_bucket(BUCKET).await {
        Ok(()) => {}
        Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => {}
        Err(error) => return Err(error.to_string()),
    }
    let say = |error: Error| error.to_string();
    let key = format!("gateway-{index}");
    // Beyond what lies inline, so that volumes take part.
    let content = Content::new(index as u64, INLINE_BYTES_MAX as u64 * 4);
    client.put(BUCKET, &key, content).await.map_err(say)?;
    client.get_stream(BUCKET, &key).await.map_err(say)?.verify(content).await.map_err(say)
}
