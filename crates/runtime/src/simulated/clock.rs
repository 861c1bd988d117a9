//! Clocks of machines. Each has a wall clock, which may be off, jump, drift or stand still, and a monotonic one, which only
//! drifts. Both run at the machine's own pace; the simulator's are true.
//!
//! Invariant: monotonic time of a machine never goes back, whatever is set.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, UNIX_EPOCH};

use madsim::time::{TimeHandle, error::Elapsed};

use super::present;

/// How wrong the clock of a machine is. The default is right.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Clock {
    /// By how much the wall clock is off.
    pub offset_ms: i64,
    /// By how many millionths both clocks run too fast.
    pub drift_ppm: i32,
    /// The wall clock stands still.
    pub frozen: bool,
}

/// Most that a clock drifts, in millionths.
pub const DRIFT_PPM_MAX: i32 = 500;

struct Running {
    clock: Clock,
    /// At true time `since`, monotonic time was `local`.
    since: Instant,
    local: Instant,
    /// What the wall clock shows while it stands.
    stands_at_ms: Option<u64>,
    /// The latest that the wall clock showed before it was set last.
    showed_ms: u64,
}

thread_local! {
    /// Clocks that were ever set, by machine. A simulation is one thread.
    static CLOCKS: RefCell<BTreeMap<u64, Running>> = const { RefCell::new(BTreeMap::new()) };
    /// Whether there are any: asking for the time must stay cheap.
    static ANY_SET: Cell<bool> = const { Cell::new(false) };
}

/// The simulation's time, if there is one.
pub(super) fn true_now() -> Option<Instant> {
    present::time(TimeHandle::now_instant)
}

fn simulated_now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "outside of a simulation")]
    true_now().unwrap_or_else(Instant::now)
}

fn scaled(duration: Duration, parts: i64) -> Duration {
    let nanos = i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX / 2_000_000);
    Duration::from_nanos((nanos * i128::from(parts) / 1_000_000).try_into().unwrap_or(u64::MAX))
}

impl Running {
    fn right(now: Instant) -> Running {
        Running { clock: Clock::default(), since: now, local: now, stands_at_ms: None, showed_ms: 0 }
    }

    fn local(&self, now: Instant) -> Instant {
        let elapsed = now.saturating_duration_since(self.since);
        self.local + scaled(elapsed, 1_000_000 + i64::from(self.clock.drift_ppm))
    }

    /// The true time at which monotonic time will be `local`, at the present pace.
    fn true_time(&self, local: Instant) -> Instant {
        let ahead = local.saturating_duration_since(self.local).as_nanos();
        let pace = u128::from((1_000_000 + i64::from(self.clock.drift_ppm)).unsigned_abs());
        let nanos = ahead.saturating_mul(1_000_000).div_ceil(pace);
        let far = Duration::from_secs(u32::MAX.into());
        self.since + u64::try_from(nanos).map_or(far, |nanos| Duration::from_nanos(nanos).min(far))
    }

    fn wall_ms(&self, now: Instant) -> u64 {
        self.stands_at_ms.unwrap_or_else(|| {
            let local = self.local(now);
            let ahead = local.saturating_duration_since(now).as_millis() as i64 - now.saturating_duration_since(local).as_millis() as i64;
            true_wall_ms().saturating_add_signed(self.clock.offset_ms.saturating_add(ahead))
        })
    }
}

fn true_wall_ms() -> u64 {
    let Some(now) = present::time(TimeHandle::now_time) else { return 0 };
    now.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

/// Set the clock of a machine from now on. What it has drifted so far stays.
pub(super) fn set(machine: u64, clock: Clock) {
    assert!(clock.drift_ppm.abs() <= DRIFT_PPM_MAX, "a clock drifts by {DRIFT_PPM_MAX} millionths at most");
    let now = simulated_now();
    CLOCKS.with_borrow_mut(|clocks| {
        let running = clocks.entry(machine).or_insert_with(|| Running::right(now));
        let local = running.local(now);
        let stands_at_ms = if !clock.frozen {
            None
        } else if clock.offset_ms == running.clock.offset_ms {
            Some(running.wall_ms(now))
        } else {
            // It jumps, and stands there.
            Some(Running { clock, since: now, local, stands_at_ms: None, showed_ms: 0 }.wall_ms(now))
        };
        let showed_ms = running.showed_ms.max(running.wall_ms(now));
        *running = Running { clock, since: now, local, stands_at_ms, showed_ms };
    });
    ANY_SET.set(true);
}

/// The clock of a machine as it was set last.
pub(super) fn of(machine: u64) -> Clock {
    CLOCKS.with_borrow(|clocks| clocks.get(&machine).map(|running| running.clock).unwrap_or_default())
}

/// What the wall clock of a machine shows, and the latest that it ever showed: between two settings it never goes back.
pub(super) fn wall_of(machine: u64) -> (u64, u64) {
    let now = simulated_now();
    let set = CLOCKS.with_borrow(|clocks| clocks.get(&machine).map(|running| (running.wall_ms(now), running.showed_ms)));
    let (shows, showed) = set.unwrap_or_else(|| (true_wall_ms(), 0));
    (shows, shows.max(showed))
}

/// Look at the present machine's clock; `None` if it is right.
fn with<T>(look: impl FnOnce(&Running) -> T) -> Option<T> {
    if !ANY_SET.get() {
        return None;
    }
    CLOCKS.with_borrow(|clocks| clocks.get(&super::machine_or_simulator()).map(look))
}

pub(crate) fn wall_ms() -> u64 {
    with(|running| running.wall_ms(simulated_now())).unwrap_or_else(true_wall_ms)
}

pub(crate) fn now() -> Instant {
    let now = simulated_now();
    with(|running| running.local(now)).unwrap_or(now)
}

/// The true time at which the present machine's monotonic clock shows `local`.
fn true_time(local: Instant) -> Instant {
    with(|running| running.true_time(local)).unwrap_or(local)
}

/// Wait until the simulation's time is `deadline`, to the nanosecond.
pub(super) fn true_sleep_until(deadline: Instant) -> impl Future<Output = ()> {
    let mut sleep = Box::pin(madsim::time::sleep_until(deadline));
    // Made for at least a millisecond; a drive is faster.
    sleep.as_mut().reset(deadline);
    sleep
}

/// Waits of less than this take as long: the granularity of production's timers.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// Wait until the present machine's monotonic clock shows `deadline`.
pub(crate) fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline: deadline.max(now() + SLEEP_MIN), timer: None }
}

pub(crate) fn sleep(duration: Duration) -> Sleep {
    let now = now();
    Sleep { deadline: now.checked_add(duration.max(SLEEP_MIN)).unwrap_or(now + Duration::from_secs(u32::MAX.into())), timer: None }
}

/// A wait on a machine's own clock.
pub(crate) struct Sleep {
    deadline: Instant,
    /// The timer that was set, and whom it wakes. A second one for the same waker would be a burden on the simulator.
    timer: Option<(Pin<Box<madsim::time::Sleep>>, Waker)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if now() >= self.deadline {
                return Poll::Ready(());
            }
            if let Some((timer, waker)) = &self.timer
                && !timer.is_elapsed()
                && waker.will_wake(cx.waker())
            {
                return Poll::Pending;
            }
            // The pace may have changed while an earlier timer ran.
            let due = true_time(self.deadline);
            let mut timer = Box::pin(madsim::time::sleep_until(due));
            timer.as_mut().reset(due);
            let polled = timer.as_mut().poll(cx);
            self.timer = Some((timer, cx.waker().clone()));
            if polled.is_pending() {
                return Poll::Pending;
            }
        }
    }
}

pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let alarm = sleep(limit);
    crate::select! {
        output = future => Ok(output),
        () = alarm => Err(Elapsed),
    }
}
