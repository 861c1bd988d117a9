//! No bucket stays half created, deleted or set: what clients and gateways abandon is gone on with soon, whoever hung up or died.

use crate::violation::Violation;
use runtime::time;
use std::time::Duration;

/// Simulated time after the last fault: until it counts as abandoned, until a gateway looks, and for what is left to do.
const WITHIN: Duration = Duration::from_secs(75);

/// Waits until `unfinished` names none.
pub async fn judge(unfinished: impl Fn() -> Vec<String>) -> Vec<Violation> {
    let deadline = time::now() + WITHIN;
    loop {
        let left = unfinished();
        if left.is_empty() || time::now() >= deadline {
            let text = |bucket| format!("nobody goes on with {bucket}");
            return left.into_iter().map(|bucket| Violation::new("bucket-left-half-done", text(bucket))).collect();
        }
        time::sleep(Duration::from_secs(1)).await;
    }
}
