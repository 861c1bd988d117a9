//! [`Link`]: what one direction between two machines is like, and what a segment costs on it.

use rand::Rng;
use rand_chacha::ChaCha12Rng;
use std::ops::Range;
use std::time::Duration;

/// The first retransmission of a segment comes this much later; each further one after twice the time.
pub(super) const RETRANSMIT_NANOS: u64 = 200_000_000;
/// A segment is lost at most this often in a row by chance: what loses more is a block.
const LOSSES_MAX: u32 = 6;
/// What a segment weighs on a link of bounded bandwidth beside its bytes.
const SEGMENT_OVERHEAD_BYTES: u64 = 64;
/// Within a machine.
const LOOPBACK_NANOS: u64 = 20_000;

/// One direction between two machines.
#[derive(Clone, PartialEq, Debug)]
pub struct Link {
    /// Delay of what is sent, drawn anew for each burst.
    pub latency: Range<Duration>,
    /// Chance of a burst to take this much longer.
    pub tail: Option<(f64, Range<Duration>)>,
    /// Everything that is sent this way queues for this.
    pub bytes_per_second: Option<u64>,
    /// Chance of a segment (up to 64 KiB) to be lost: it comes a retransmission later, and so does what follows it on its
    /// connection. Never loses bytes.
    pub loss: f64,
}

impl Link {
    /// Latency alone: no tail, no loss, any bandwidth.
    pub fn calm(latency: Range<Duration>) -> Link {
        Link { latency, tail: None, bytes_per_second: None, loss: 0.0 }
    }

    pub(super) fn check(&self) {
        assert!(self.bytes_per_second != Some(0), "a link without bandwidth: block it instead");
        assert!((0.0..1.0).contains(&self.loss), "loss {} is not a chance below 1: block the link instead", self.loss);
        assert!(self.tail.as_ref().is_none_or(|(chance, _)| (0.0..=1.0).contains(chance)), "the chance of a tail is between 0 and 1");
    }

    /// Delay of a burst. Takes as much from `random` whatever the link is like, so that another link does not shift
    /// what is drawn next.
    pub(super) fn draw_latency(&self, random: &mut ChaCha12Rng) -> u64 {
        let (place, chance, tail_place): (f64, f64, f64) = (random.random(), random.random(), random.random());
        let tail = match &self.tail {
            Some((tail_chance, tail)) if chance < *tail_chance => within(tail, tail_place),
            _ => 0,
        };
        within(&self.latency, place) + tail
    }

    /// Delay of a segment by retransmissions, mostly none.
    pub(super) fn draw_losses(&self, random: &mut ChaCha12Rng) -> u64 {
        let chance: f64 = random.random();
        // The chance that it is lost n times in a row is the n-th power.
        let mut losses = 0;
        let mut power = self.loss;
        while losses < LOSSES_MAX && chance < power {
            losses += 1;
            power *= self.loss;
        }
        RETRANSMIT_NANOS * ((1 << losses) - 1)
    }

    pub(super) fn shortest(&self) -> u64 {
        nanos(self.latency.start)
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn within(range: &Range<Duration>, place: f64) -> u64 {
    nanos(range.start + range.end.saturating_sub(range.start).mul_f64(place))
}

/// What is known of one direction between two machines.
#[derive(Default)]
pub(super) struct LinkState {
    /// The default link if none.
    pub settings: Option<Link>,
    /// Blocks that stand; nothing passes unless there is none.
    pub blocks: u32,
    /// Everything that was sent has left by this time.
    free_at: u64,
    /// Connections that were dialled in this direction.
    pub dialled: u64,
}

/// When a segment leaves and arrives.
pub(super) struct Passage {
    pub departs: u64,
    pub arrives: u64,
    /// It was lost at first and had to be sent again.
    pub is_late: bool,
}

/// The latency of a burst: what is sent in quick succession travels together.
#[derive(Default)]
pub(super) struct Burst {
    sent: u64,
    latency: Option<u64>,
}

/// What is sent within this time after a burst began belongs to it.
const BURST_NANOS: u64 = 50_000;

impl LinkState {
    pub(super) fn pass(&mut self, default: &Link, now: u64, bytes: usize, burst: &mut Burst, random: &mut ChaCha12Rng) -> Passage {
        let link = self.settings.as_ref().unwrap_or(default);
        let latency = match burst.latency {
            Some(latency) if now < burst.sent + BURST_NANOS => latency,
            _ => {
                let latency = link.draw_latency(random);
                *burst = Burst { sent: now, latency: Some(latency) };
                latency
            }
        };
        let losses = link.draw_losses(random);
        let mut departs = now;
        if let Some(rate) = link.bytes_per_second {
            let weight = (bytes as u64 + SEGMENT_OVERHEAD_BYTES) as u128 * 1_000_000_000;
            departs = now.max(self.free_at) + (weight / u128::from(rate)) as u64;
            self.free_at = departs;
        }
        Passage { departs, arrives: departs + latency + losses, is_late: losses > 0 }
    }
}

pub(super) fn loopback(now: u64) -> Passage {
    Passage { departs: now, arrives: now + LOOPBACK_NANOS, is_late: false }
}
