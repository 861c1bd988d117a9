//! Jobs of a simulated drive. In production a job blocks a thread of its drive while the drive works; here each job has a stack
//! of its own, and whoever would block leaves it until what it waits for has come.
//!
//! Invariants: one job runs at a time, and only between two turns of the executor; a job whose machine was killed never goes on,
//! and its destructors never run, as those of a thread in a killed process.

use corosensei::{Coroutine, CoroutineResult, Yielder, stack::DefaultStack};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, Waker};

/// What a job waits for.
pub(super) type Wait = Pin<Box<dyn Future<Output = ()>>>;

/// Jobs after which finished tasks are forgotten.
const COUNT_TASKS_EVERY: u64 = 1024;
/// How soon a lock is looked at again that another simulation of this process may hold.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_micros(100);
const STACK_BYTES: usize = 1 << 20;
/// Stacks that are kept for the next jobs.
const STACKS_MAX: usize = 64;

thread_local! {
    /// How the job that runs now suspends itself; null outside of any.
    static RUNNING: Cell<*const Yielder<(), Wait>> = const { Cell::new(std::ptr::null()) };
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
    static LOCKS: RefCell<Vec<Parked>> = const { RefCell::new(Vec::new()) };
    static LAST_PARKED: Cell<u64> = const { Cell::new(0) };
    static STARTED: Cell<u64> = const { Cell::new(0) };
    /// Jobs that have not ended, those of killed machines included.
    static UNFINISHED: Cell<usize> = const { Cell::new(0) };
}

/// A job that has not ended.
pub(super) struct Job(
    /// Never unwound: see the invariants.
    ManuallyDrop<Coroutine<(), Wait, ()>>,
);

impl Job {
    pub fn new(work: Box<dyn FnOnce() + Send>) -> Job {
        let stack = STACKS.with_borrow_mut(Vec::pop);
        let stack = stack.unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("the system gives address space"));
        UNFINISHED.set(UNFINISHED.get() + 1);
        STARTED.set(STARTED.get() + 1);
        if STARTED.get().is_multiple_of(COUNT_TASKS_EVERY) {
            // madsim keeps something of every task that ever was, until somebody asks how many there are.
            madsim::runtime::Handle::current().metrics().num_tasks_by_node();
        }
        let body = move |yielder: &Yielder<(), Wait>, ()| {
            RUNNING.set(yielder);
            work();
        };
        Job(ManuallyDrop::new(Coroutine::with_stack(stack, body)))
    }

    /// Let it run until it waits for something, which is returned, or ends. Not called again after its end. A panic of the job
    /// goes on in the caller.
    pub fn go_on(&mut self) -> Option<Wait> {
        // A job may itself start one.
        let outer = RUNNING.get();
        let _restore = Restore(outer);
        match self.0.resume(()) {
            CoroutineResult::Yield(wait) => Some(wait),
            CoroutineResult::Return(()) => {
                UNFINISHED.set(UNFINISHED.get() - 1);
                // SAFETY: taken once, as nobody goes on after the end.
                let ended = unsafe { ManuallyDrop::take(&mut self.0) };
                STACKS.with_borrow_mut(|stacks| {
                    if stacks.len() < STACKS_MAX {
                        stacks.push(ended.into_stack());
                    }
                });
                None
            }
        }
    }
}

struct Restore(*const Yielder<(), Wait>);

impl Drop for Restore {
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}

/// Suspend the job that runs now until `until` is ready. False, and nothing happens, outside of a job.
pub(super) fn wait(until: impl Future<Output = ()> + 'static) -> bool {
    let running = RUNNING.get();
    // SAFETY: not null only while its job runs, on whose stack it lives.
    let Some(yielder) = (unsafe { running.as_ref() }) else { return false };
    yielder.suspend(Box::pin(until));
    RUNNING.set(running);
    true
}

/// A job that waits for a lock, by the address of what the lock's owner changes.
struct Parked {
    number: u64,
    address: usize,
    woken: bool,
    waker: Option<Waker>,
}

/// Whether a job may hold a lock.
pub(super) fn any_unfinished() -> bool {
    UNFINISHED.get() > 0
}

/// Wait in a job while `word` is `expected`, as the kernel's futex does. False outside of a job.
pub(super) fn wait_for_lock(word: &AtomicU32, expected: u32) -> bool {
    if RUNNING.get().is_null() {
        return false;
    }
    if word.load(Ordering::SeqCst) != expected {
        return true;
    }
    if super::run::running() > 1 {
        // Another simulation may hold it, and would wake nobody here: look again soon.
        let soon = super::clock::true_now().expect("in a simulation") + LOOK_AGAIN;
        return wait(super::clock::true_sleep_until(soon));
    }
    let number = LAST_PARKED.get() + 1;
    LAST_PARKED.set(number);
    let address = std::ptr::from_ref(word) as usize;
    LOCKS.with_borrow_mut(|locks| locks.push(Parked { number, address, woken: false, waker: None }));
    wait(Unlocked(number))
}

/// Wake at most `count` jobs that wait at `address`.
pub(super) fn wake_for_lock(address: usize, count: usize) {
    let wakers: Vec<Waker> = LOCKS.with_borrow_mut(|locks| {
        let woken = locks.iter_mut().filter(|parked| parked.address == address && !parked.woken).take(count);
        woken
            .filter_map(|parked| {
                parked.woken = true;
                parked.waker.take()
            })
            .collect()
    });
    wakers.into_iter().for_each(Waker::wake);
}

struct Unlocked(u64);

impl Future for Unlocked {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<()> {
        LOCKS.with_borrow_mut(|locks| {
            let parked = locks.iter_mut().find(|parked| parked.number == self.0).expect("there until it is dropped");
            if parked.woken {
                return Poll::Ready(());
            }
            parked.waker = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        LOCKS.with_borrow_mut(|locks| locks.retain(|parked| parked.number != self.0));
    }
}
