//! Running one simulation.

use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::net::{self, Link, SimNet};

/// A simulation.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    /// Delay of what is sent, on links that nobody changed.
    pub latency: Range<Duration>,
    /// The simulation panics when this much simulated time has passed.
    pub time_max: Duration,
}

impl Settings {
    /// A simulation under `seed` on a calm network, of at most an hour.
    pub fn new(seed: u64) -> Settings {
        Settings { seed, latency: Duration::from_micros(200)..Duration::from_millis(3), time_max: Duration::from_secs(3600) }
    }
}

/// Simulations that run in this process now: one, except in tests.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

pub(super) fn running() -> usize {
    RUNNING.load(Ordering::Relaxed)
}

/// Run the future that `make` makes, as the simulator (machine 0), to its end. Once in a process: a second simulation
/// would differ from the same one alone.
pub fn run<M, F>(settings: Settings, make: M) -> F::Output
where
    M: FnOnce() -> F + Send + 'static,
    F: Future,
    F::Output: Send + 'static,
{
    super::interpose::keep();
    // A fresh thread, as std seeds its hash maps per thread.
    RUNNING.fetch_add(1, Ordering::Relaxed);
    let simulation = std::thread::spawn(move || {
        let mut runtime = madsim::runtime::Runtime::with_seed_and_config(settings.seed, madsim::Config::default());
        runtime.add_simulator::<SimNet>();
        runtime.set_time_limit(settings.time_max);
        runtime.block_on(async move {
            let _present = super::present::enter();
            net::start(settings.seed, Link::calm(settings.latency));
            make().await
        })
    });
    let ended = simulation.join();
    RUNNING.fetch_sub(1, Ordering::Relaxed);
    match ended {
        Ok(output) => output,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
