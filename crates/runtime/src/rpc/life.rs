//! Signs of life of one connection.
//!
//! Invariant: once something was written, only bytes of the peer's make it count as answered; that nobody waits for the
//! answer any more does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::time::{Instant, now, since};

/// No answer is owed.
const NOTHING: u64 = u64::MAX;

/// When a connection last showed life (bytes came in, or a full socket drained), and since when it owes an answer.
#[derive(Debug)]
pub(crate) struct Life {
    start: Instant,
    last_ms: AtomicU64,
    unanswered_since_ms: AtomicU64,
}

impl Life {
    pub fn new() -> Life {
        Life { start: now(), last_ms: AtomicU64::new(0), unanswered_since_ms: AtomicU64::new(NOTHING) }
    }

    /// It lives, though the peer may not have said anything.
    pub fn touch(&self) {
        self.last_ms.store(self.age_ms(), Ordering::Relaxed);
    }

    /// Bytes came in.
    pub fn hear(&self) {
        self.touch();
        self.unanswered_since_ms.store(NOTHING, Ordering::Relaxed);
    }

    /// Something is being written that the peer must answer.
    pub fn ask(&self) {
        if self.unanswered_since_ms.load(Ordering::Relaxed) == NOTHING {
            self.unanswered_since_ms.store(self.age_ms(), Ordering::Relaxed);
        }
    }

    /// How long there has been no sign of life.
    pub fn silence(&self) -> Duration {
        self.after_ms(self.last_ms.load(Ordering::Relaxed))
    }

    /// How long an answer has been owed without any sign of life. None: none is owed.
    pub fn unanswered(&self) -> Option<Duration> {
        let asked_ms = self.unanswered_since_ms.load(Ordering::Relaxed);
        // A large frame takes its time: while the socket drains, the peer takes it in.
        (asked_ms != NOTHING).then(|| self.after_ms(asked_ms.max(self.last_ms.load(Ordering::Relaxed))))
    }

    fn age_ms(&self) -> u64 {
        since(self.start).as_millis() as u64
    }

    fn after_ms(&self, ms: u64) -> Duration {
        since(self.start).saturating_sub(Duration::from_millis(ms))
    }
}
