//! How long we wait for a peer that gives or takes too little. Only time spent waiting for the peer counts: what this
//! side takes long for is never blamed on the other.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use runtime::time::{self, Instant};

/// A limit on waiting for `bytes_min` bytes.
pub struct Patience {
    limit: Duration,
    bytes_min: usize,
    /// Waited for the bytes of this window, in waits that are over.
    waited: Duration,
    bytes: usize,
    waiting_since: Option<Instant>,
    /// May ring early, never late.
    alarm: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Patience {
    pub fn new(limit: Duration, bytes_min: usize) -> Patience {
        Patience { limit, bytes_min, waited: Duration::ZERO, bytes: 0, waiting_since: None, alarm: None }
    }

    /// The peer has moved `bytes`.
    pub fn progress(&mut self, bytes: usize) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += time::now().saturating_duration_since(since);
        }
        self.bytes += bytes;
        if self.bytes >= self.bytes_min {
            self.waited = Duration::ZERO;
            self.bytes = 0;
        }
    }

    /// The peer lets us wait: ready when that is no longer bearable.
    pub fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = time::now();
        let since = *self.waiting_since.get_or_insert(now);
        loop {
            let left = self.limit.saturating_sub(self.waited + time::now().saturating_duration_since(since));
            if left.is_zero() {
                return Poll::Ready(());
            }
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(time::sleep(left)));
            match alarm.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => self.alarm = None,
            }
        }
    }
}
