//! Monotonic time for waiting, wall time for showing. No invariant may depend on either.
//!
//! Both are the machine's own: in a simulation they may run too fast or too slow, and the wall clock may jump or stand still.

use std::future::Future;
use std::time::Duration;

pub use tokio::time::{Instant, error::Elapsed};

/// Monotonic now.
pub fn now() -> Instant {
    crate::side::now()
}

/// Time since `begun`, by the clock that it was read from; zero if it lies ahead. Not `Instant::elapsed`: in a simulation that reads
/// the true time, and compared with an instant of a machine whose clock drifts it is wrong, the more the longer the machine runs.
pub fn since(begun: Instant) -> Duration {
    now().saturating_duration_since(begun)
}

/// Wait for `duration`. A function of our own: the linter bans the one that it calls, by path, everywhere else.
pub async fn sleep(duration: Duration) {
    crate::side::sleep(duration).await;
}

/// Wait until `deadline`.
pub async fn sleep_until(deadline: Instant) {
    crate::side::sleep_until(deadline).await;
}

/// Wait for `future`, at most for `limit`.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    crate::side::timeout(limit, future).await
}

/// Wait for `future`, at most until `deadline`.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    crate::side::timeout(deadline.saturating_duration_since(now()), future).await
}

/// Milliseconds since 1970 by this node's clock, which may be wrong: for showing, for S3's signature window, and as one voice of many
/// for cluster time.
pub fn wall_ms() -> u64 {
    crate::side::wall_ms()
}

/// Ticks that are `period` apart, the first at once. Ticks that were missed are skipped.
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "ticks are some time apart");
    Interval { next: now(), period }
}

/// See [`interval`].
#[derive(Debug)]
pub struct Interval {
    next: Instant,
    period: Duration,
}

impl Interval {
    /// Wait for the next tick; returns when it was due. Nothing is lost when the wait is given up.
    pub async fn tick(&mut self) -> Instant {
        let now = now();
        if self.next > now {
            sleep_until(self.next).await;
        }
        let due = self.next;
        let missed = now.saturating_duration_since(due).as_nanos() / self.period.as_nanos();
        self.next = due + self.period * (u32::try_from(missed).unwrap_or(u32::MAX - 1) + 1);
        due
    }
}
