//! What differs from seed to seed although no scenario names it: the network's pace, limits of nodes, clocks that are off.
//! Small limits reach in seconds what production reaches in days.

use super::Shape;
use jepsen_like::scenario;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::side::{Link, stream_for};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Capacity of a drive where the scenario does not say.
const DRIVE_BYTES: u64 = 64 << 30;

/// Settings of the cluster and its world.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Shortest and longest time of a delivery between machines.
    pub latency_us: (u64, u64),
    /// Deliveries that take much longer.
    pub tail: Option<Tail>,
    /// Bytes that a link carries each second, if it is limited.
    pub bytes_per_second: Option<u64>,
    /// Largest blob of an object.
    pub blob_bytes: usize,
    /// Objects up to this size live in metadata.
    pub inline_bytes_max: usize,
    /// Bytes of objects that a gateway holds at a time.
    pub gateway_bytes_max: usize,
    /// Capacity of a drive.
    pub drive_bytes: u64,
    /// Metadata partitions.
    pub partitions: u16,
    /// Bytes of applied commands after which a replica's state is made durable.
    pub checkpoint_bytes: usize,
    /// Time after which it is in any case.
    pub checkpoint_after_ms: u64,
    /// Bytes of log kept behind a checkpoint for replicas that lag.
    pub tail_bytes: usize,
    /// Bytes of a segment of the shared log.
    pub segment_bytes: u64,
    /// Memory of a node for pages of its replicas' databases.
    #[serde(default = "cache_bytes")]
    pub cache_bytes: usize,
    /// Entries between two comparisons of state hashes.
    #[serde(default = "mark_interval")]
    pub mark_interval: u64,
    /// Bytes of a page of a snapshot.
    pub snapshot_page_bytes: usize,
    /// Share of the scenario's clients that take part.
    pub clients_percent: usize,
    /// Length of the days of lifecycles, if some buckets have one.
    #[serde(default)]
    pub day_ms: Option<u64>,
    /// An operator makes and ends identities.
    #[serde(default)]
    pub identities: bool,
    /// By node.
    pub clocks: Vec<ClockKnob>,
}

/// All nodes share one process.
fn cache_bytes() -> usize {
    16 << 20
}

fn mark_interval() -> u64 {
    1024
}

/// A share of deliveries that take longer.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    pub per_million: u32,
    pub latency_us: (u64, u64),
}

/// How a node's clock is off from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockKnob {
    pub offset_ms: i64,
    pub drift_ppm: i32,
}

impl Knobs {
    /// What links are like where no fault has changed them.
    pub fn link(&self) -> Link {
        let range = |(from, to): (u64, u64)| Duration::from_micros(from)..Duration::from_micros(to);
        Link {
            latency: range(self.latency_us),
            tail: self.tail.map(|tail| (f64::from(tail.per_million) / 1e6, range(tail.latency_us))),
            bytes_per_second: self.bytes_per_second,
            loss: 0.0,
        }
    }

    /// The knobs that `seed` draws, but for those that the scenario fixes. Each has a stream of its own.
    pub fn draw(seed: u64, shape: &Shape, fixed: &scenario::Knobs) -> Knobs {
        let mut knobs = Knobs::draw_all(seed, shape);
        let size = |bytes: Option<u64>, drawn: usize| bytes.map_or(drawn, |bytes| usize::try_from(bytes).expect("64 bits"));
        knobs.blob_bytes = size(fixed.blob_bytes, knobs.blob_bytes);
        knobs.inline_bytes_max = size(fixed.inline_bytes_max, knobs.inline_bytes_max);
        knobs.gateway_bytes_max = size(fixed.gateway_bytes_max, knobs.gateway_bytes_max);
        knobs.drive_bytes = fixed.drive_bytes.unwrap_or(knobs.drive_bytes);
        knobs.segment_bytes = fixed.log_segment_bytes.unwrap_or(knobs.segment_bytes);
        knobs.tail_bytes = size(fixed.log_tail_bytes, knobs.tail_bytes);
        knobs.checkpoint_bytes = size(fixed.checkpoint_bytes, knobs.checkpoint_bytes);
        knobs.cache_bytes = size(fixed.cache_bytes, knobs.cache_bytes);
        if let Some(partitions) = fixed.partitions {
            knobs.partitions = u16::try_from(partitions).expect("a scenario has at most 1000");
        }
        if let Some(latency) = &fixed.latency {
            let us = |time: &Duration| u64::try_from(time.as_micros()).expect("less than a year");
            // A range of links is half open, and never empty.
            knobs.latency_us = (us(latency.start()), us(latency.end()).max(us(latency.start()) + 1));
        }
        knobs.identities = fixed.identities;
        knobs.day_ms = fixed.day.map(|day| u64::try_from(day.as_millis()).expect("less than a year"));
        knobs
    }

    fn draw_all(seed: u64, shape: &Shape) -> Knobs {
        let stream = |knob: &str| stream_for(seed, &format!("plan knob {knob}"), 0, 0);
        let latency_us = *one(&mut stream("latency"), &[(200, 3_000), (50, 400), (100, 1_000), (1_000, 8_000)]);
        let tail = one(&mut stream("tail"), &[None, None, Some(1_000), Some(10_000)])
            .map(|per_million| Tail { per_million, latency_us: (latency_us.1 * 5, latency_us.1 * 50) });
        let mut clocks = stream("clocks");
        // Half of the seeds have perfect clocks.
        let (offset_max_ms, drift_max_ppm) = *one(&mut clocks, &[(0, 0), (0, 0), (2_000, 50), (60_000, 500)]);
        let clocks = (0..shape.nodes())
            .map(|_| ClockKnob {
                offset_ms: clocks.random_range(-offset_max_ms..=offset_max_ms),
                drift_ppm: clocks.random_range(-drift_max_ppm..=drift_max_ppm),
            })
            .collect();
        let checkpoint_bytes = *one(&mut stream("checkpoint"), &[8 << 20, 256 << 10, 16 << 10]);
        Knobs {
            latency_us,
            tail,
            bytes_per_second: *one(&mut stream("bandwidth"), &[None, None, None, Some(20 << 20)]),
            blob_bytes: *one(&mut stream("blob"), &[256 << 10, 64 << 10, 1 << 20]),
            inline_bytes_max: *one(&mut stream("inline"), &[protocol::limits::INLINE_BYTES_MAX, 0, 512]),
            gateway_bytes_max: protocol::limits::GATEWAY_BYTES_MAX,
            drive_bytes: DRIVE_BYTES,
            partitions: *one(&mut stream("partitions"), &[4, 1, 2, 7]),
            checkpoint_bytes,
            checkpoint_after_ms: *one(&mut stream("checkpoint time"), &[30_000, 5_000, 1_000]),
            tail_bytes: *one(&mut stream("log tail"), &[256 << 10, 4 << 10, 0]),
            segment_bytes: *one(&mut stream("segment"), &[16 << 20, 1 << 20]),
            cache_bytes: *one(&mut stream("cache"), &[cache_bytes(), cache_bytes(), 1 << 20]),
            mark_interval: *one(&mut stream("marks"), &[mark_interval(), 64, 16]),
            snapshot_page_bytes: *one(&mut stream("snapshot page"), &[1 << 20, 4 << 10]),
            clients_percent: *one(&mut stream("clients"), &[100, 100, 50, 20]),
            day_ms: None,
            identities: false,
            clocks,
        }
    }
}

fn one<'a, T>(random: &mut ChaCha12Rng, choices: &'a [T]) -> &'a T {
    &choices[random.random_range(0..choices.len())]
}
