//! Waypoints: places in the code at which the simulator can hold a task and let a fault strike.
//!
//! Invariant: a waypoint that is not armed costs neither time nor a yield, so that arming one changes nothing before it is
//! reached.

use std::sync::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Waypoints that somebody waits for.
static ARMED: Mutex<Vec<Waiting>> = Mutex::new(Vec::new());
/// Number of the next arming.
static NEXT: Mutex<u64> = Mutex::new(0);

struct Waiting {
    number: u64,
    name: String,
    /// Passages until it counts.
    left: u64,
    reached: mpsc::Sender<Reached>,
}

/// A waypoint that is armed until this is dropped or it was reached.
pub struct Armed {
    number: u64,
    reached: mpsc::Receiver<Reached>,
}

/// A task stands at a waypoint. It goes on when this is dropped.
pub struct Reached {
    /// Number of the machine that it runs on.
    machine: u64,
    _go: oneshot::Sender<()>,
}

/// Let the `nth` task (from 1) that passes the waypoint `name` from now on stand still there. Several armings of one
/// waypoint count each for itself.
pub fn arm_waypoint(name: &str, nth: u64) -> Armed {
    // One task at most is sent: an arming counts once.
    let (sender, reached) = mpsc::channel(1);
    let mut next = NEXT.lock().expect("nothing panics under this lock");
    *next += 1;
    let waiting = Waiting { number: *next, name: name.to_string(), left: nth.max(1), reached: sender };
    ARMED.lock().expect("nothing panics under this lock").push(waiting);
    Armed { number: *next, reached }
}

impl Armed {
    /// Wait until it is reached.
    pub async fn reached(&mut self) -> Reached {
        match self.reached.recv().await {
            Some(reached) => reached,
            // Reached before and taken by an earlier call: never again.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        ARMED.lock().expect("nothing panics under this lock").retain(|waiting| waiting.number != self.number);
    }
}

impl Reached {
    /// Whether the task that stands here is one of `machine`.
    pub fn is_on(&self, machine: &super::Machine) -> bool {
        self.machine == machine.number()
    }
}

/// See [`crate::probe::waypoint`].
pub(crate) async fn waypoint(name: &'static str) {
    assert!(crate::probe::WAYPOINTS.contains(&name), "the waypoint {name} is not in the list");
    super::probe(name);
    let machine = super::machine_number();
    let mut held = Vec::new();
    ARMED.lock().expect("nothing panics under this lock").retain_mut(|waiting| {
        if waiting.name != name {
            return true;
        }
        waiting.left -= 1;
        if waiting.left > 0 {
            return true;
        }
        let (go, wait) = oneshot::channel();
        // Whoever armed it may be gone: then the task is not held.
        if waiting.reached.try_send(Reached { machine, _go: go }).is_ok() {
            held.push(wait);
        }
        false
    });
    if !held.is_empty() {
        super::note("waypoint", name.as_bytes());
    }
    for wait in held {
        // An error means that it was let go.
        let _ = wait.await;
    }
}
