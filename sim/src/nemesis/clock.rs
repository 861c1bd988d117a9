//! Faults of clocks. Those of several faults add up; signatures stay within S3's window of 15 minutes, so that nobody is
//! refused for ever.

use super::{Blow, World};
use jepsen_like::scenario::Fault;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::side::{Clock, DRIFT_PPM_MAX};

/// Furthest that a clock is off, all faults together.
const OFF_MAX_MS: i64 = 13 * 60 * 1000;

/// Strike and heal; false: the fault is none of clocks.
pub async fn carry_out(blow: &Blow<'_>, random: &mut ChaCha12Rng) -> bool {
    let (world, number) = (blow.world, blow.planned.number);
    let wrong: fn(i64, i32) -> Clock = match blow.planned.fault {
        Fault::ClockDrift => |_, drift_ppm| Clock { drift_ppm, ..Clock::default() },
        Fault::ClockFreeze => |_, _| Clock { frozen: true, ..Clock::default() },
        Fault::ClockSkew | Fault::ClockJump => |offset_ms, _| Clock { offset_ms, ..Clock::default() },
        _ => return false,
    };
    for node in &blow.struck.nodes {
        let off = far(random);
        let drift = random.random_range(1..=DRIFT_PPM_MAX) * if random.random() { 1 } else { -1 };
        world.standing().clocks[*node].insert(number, wrong(off, drift));
        world.set_clock(*node);
    }
    blow.last().await;
    // A jump is not undone.
    if blow.planned.fault.ends() {
        for node in &blow.struck.nodes {
            world.standing().clocks[*node].remove(&number);
            world.set_clock(*node);
        }
    }
    true
}

/// From milliseconds to ten minutes, every magnitude alike, forward or back.
fn far(random: &mut ChaCha12Rng) -> i64 {
    let magnitude = random.random_range(0.0..1.0f64);
    let ms = (600_000f64).powf(magnitude).max(1.0) as i64;
    if random.random() { ms } else { -ms }
}

impl World {
    /// Set a node's clock to what its faults and the plan make of it.
    pub(super) fn set_clock(&self, node: usize) {
        let clocks: Vec<Clock> = self.standing().clocks[node].values().copied().collect();
        let off: i64 = clocks.iter().map(|clock| clock.offset_ms).sum();
        let drift: i32 = clocks.iter().map(|clock| clock.drift_ppm).sum();
        self.machine(node).set_clock(Clock {
            offset_ms: off.clamp(-OFF_MAX_MS, OFF_MAX_MS),
            drift_ppm: drift.clamp(-DRIFT_PPM_MAX, DRIFT_PPM_MAX),
            frozen: clocks.iter().any(|clock| clock.frozen),
        });
    }
}
