//! Delays that adapt: a moving percentile of what was measured, and a budget that keeps hedging rare.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Measurements that count.
const WINDOW: usize = 256;
/// The percentile is computed anew after this many.
const REFRESH: usize = 32;

/// A moving 99th percentile.
pub struct Latency {
    ring: Mutex<Ring>,
    p99_us: AtomicU64,
}

struct Ring {
    samples: Vec<u64>,
    next: usize,
    fresh: usize,
}

impl Latency {
    /// Starts as if `initial` had been measured.
    pub fn new(initial: Duration) -> Latency {
        Latency {
            ring: Mutex::new(Ring { samples: Vec::with_capacity(WINDOW), next: 0, fresh: 0 }),
            p99_us: AtomicU64::new(micros(initial)),
        }
    }

    /// Note one measurement.
    pub fn note(&self, took: Duration) {
        let mut ring = self.ring.lock().expect("nothing panics while holding it");
        let at = ring.next;
        if ring.samples.len() < WINDOW {
            ring.samples.push(micros(took));
        } else {
            ring.samples[at] = micros(took);
        }
        ring.next = (at + 1) % WINDOW;
        ring.fresh += 1;
        if ring.fresh < REFRESH {
            return;
        }
        ring.fresh = 0;
        let mut sorted = ring.samples.clone();
        drop(ring);
        let rank = sorted.len() * 99 / 100;
        let rank = rank.min(sorted.len() - 1);
        let (_, p99, _) = sorted.select_nth_unstable(rank);
        self.p99_us.store(*p99, Ordering::Relaxed);
    }

    /// `factor` times the percentile, within `least..=most`.
    pub fn delay(&self, factor: u32, least: Duration, most: Duration) -> Duration {
        let p99 = Duration::from_micros(self.p99_us.load(Ordering::Relaxed));
        p99.saturating_mul(factor).clamp(least, most)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Hundredths of a hedge that each request earns: at most 5 % of requests are hedged in the long run.
const EARNED: u64 = 5;
const HEDGE: u64 = 100;
/// Hedges that may follow one another.
const BURST: u64 = 16;

/// Keeps hedging rare.
pub struct Budget {
    hundredths: AtomicU64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { hundredths: AtomicU64::new(BURST * HEDGE) }
    }
}

impl Budget {
    /// A request was made.
    pub fn earn(&self) {
        let _ = self.hundredths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |have| Some((have + EARNED).min(BURST * HEDGE)));
    }

    /// Spend one hedge, if there is one.
    pub fn spend(&self) -> bool {
        self.hundredths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |have| have.checked_sub(HEDGE)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_follows_what_is_measured_within_its_bounds() {
        let latency = Latency::new(Duration::from_millis(5));
        let (least, most) = (Duration::from_millis(200), Duration::from_secs(1));
        assert_eq!(latency.delay(4, least, most), least);
        for _ in 0..WINDOW {
            latency.note(Duration::from_millis(100));
        }
        assert_eq!(latency.delay(4, least, most), Duration::from_millis(400));
        for _ in 0..WINDOW {
            latency.note(Duration::from_secs(9));
        }
        assert_eq!(latency.delay(4, least, most), most);
    }

    #[test]
    fn one_slow_request_in_a_thousand_does_not_move_the_delay() {
        let latency = Latency::new(Duration::ZERO);
        for i in 0..WINDOW {
            latency.note(if i == 7 { Duration::from_secs(5) } else { Duration::from_millis(1) });
        }
        assert!(latency.delay(1, Duration::ZERO, Duration::from_secs(10)) <= Duration::from_millis(1));
    }

    #[test]
    fn hedges_are_at_most_one_in_twenty() {
        let budget = Budget::default();
        let mut spent = 0;
        for _ in 0..10_000 {
            budget.earn();
            spent += u64::from(budget.spend());
        }
        assert!(spent <= 10_000 / 20 + BURST + 1, "{spent}");
        assert!(spent >= 10_000 / 20, "{spent}");
    }
}
