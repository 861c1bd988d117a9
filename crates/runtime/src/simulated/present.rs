//! The simulation that the present thread runs, and its time. Asking madsim clones a handle with all that it leads to, each
//! time; and who has a simulation and what time it is, is asked a thousand times in each simulated second.

use std::cell::RefCell;

use madsim::time::TimeHandle;

thread_local! {
    static TIME: RefCell<Option<TimeHandle>> = const { RefCell::new(None) };
}

/// Until it is dropped, the present thread runs a simulation.
pub(super) struct Entered(());

/// The simulation of the present thread begins.
pub(super) fn enter() -> Entered {
    TIME.set(Some(TimeHandle::current()));
    Entered(())
}

impl Drop for Entered {
    fn drop(&mut self) {
        TIME.set(None);
    }
}

/// Look at the simulation's time; `None` outside of one.
pub(super) fn time<T>(look: impl FnOnce(&TimeHandle) -> T) -> Option<T> {
    // At the end of a thread there is none any more.
    TIME.try_with(|time| time.borrow().as_ref().map(look)).ok().flatten()
}

/// Whether this is inside a simulation.
pub(super) fn is_simulated() -> bool {
    time(|_| ()).is_some()
}
