//! Monotonic time for waiting, wall time for showing. No invariant may depend on either.

use std::future::Future;
use std::time::Duration;

pub use tokio::time::{Instant, Interval, MissedTickBehavior, error::Elapsed, interval};

/// Monotonic now.
pub fn now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "this is what the ban names instead")]
    Instant::now()
}

/// Wait for `duration`. A function of our own: the linter bans the one that it calls, by path, everywhere else.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Wait until `deadline`.
pub async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(deadline).await;
}

/// Wait for `future`, at most for `limit`.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(limit, future).await
}

/// Wait for `future`, at most until `deadline`.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(deadline.saturating_duration_since(now()), future).await
}

/// Milliseconds since 1970 by this node's clock, which may be wrong: for showing and for S3's signature window.
pub fn wall_ms() -> u64 {
    crate::side::wall_ms()
}
