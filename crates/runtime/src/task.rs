//! Tasks. Who spawns a task holds its handle; dropping the handle ends the task.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// A running task; aborted when dropped.
#[must_use = "dropping a task ends it"]
pub struct Task<T> {
    handle: Option<tokio::task::JoinHandle<T>>,
}

/// Start `future` as a task of this node.
pub fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Task { handle: Some(tokio::spawn(future)) }
}

/// Hold a task that was started elsewhere.
#[allow(dead_code, reason = "only the simulated side starts tasks on other machines")]
pub(crate) fn held<T>(handle: tokio::task::JoinHandle<T>) -> Task<T> {
    Task { handle: Some(handle) }
}

/// Let other tasks run.
pub async fn yield_now() {
    tokio::task::yield_now().await;
}

impl<T> Task<T> {
    /// Let the task run to its end without a holder. Only for work that ends by itself within a bounded time.
    pub fn detach(mut self) {
        self.handle.take();
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(|handle| handle.is_finished())
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    /// A panic of the task continues in who awaits it.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let handle = self.handle.as_mut().expect("awaited once, and never after detach");
        match Pin::new(handle).poll(cx) {
            Poll::Ready(Ok(value)) => {
                self.handle.take();
                Poll::Ready(value)
            }
            Poll::Ready(Err(error)) if error.is_panic() => panic!("a task that was awaited panicked: {error}"),
            // Cancelled: the node is being killed or the runtime is shutting down.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            handle.abort();
        }
    }
}

/// Tasks that are held together: at most `limit` at a time, all ended when the set is ended or dropped.
/// A task leaves the set when it ends.
pub struct TaskSet {
    held: Arc<Mutex<Held>>,
    limit: usize,
}

struct Held {
    tasks: BTreeMap<u64, Task<()>>,
    next: u64,
    ended: bool,
}

impl TaskSet {
    /// An empty set for at most `limit` tasks.
    pub fn new(limit: usize) -> TaskSet {
        TaskSet { held: Arc::new(Mutex::new(Held { tasks: BTreeMap::new(), next: 0, ended: false })), limit }
    }

    /// Start `future` as a task of this set. False, and nothing is started, if the set is full or was ended.
    pub fn spawn<F>(&self, future: F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut held = self.held.lock().expect("nothing panics under this lock");
        if held.ended || held.tasks.len() >= self.limit {
            return false;
        }
        let key = held.next;
        held.next += 1;
        // The task's end waits for this lock, so it cannot leave before it was entered.
        let leave = Leave { held: Arc::downgrade(&self.held), key };
        let task = spawn(async move {
            let _leave = leave;
            future.await;
        });
        held.tasks.insert(key, task);
        true
    }

    /// Tasks that run now.
    pub fn len(&self) -> usize {
        self.held.lock().expect("nothing panics under this lock").tasks.len()
    }

    /// Whether no task runs now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// End all tasks and take no more.
    pub fn end(&self) {
        let tasks = {
            let mut held = self.held.lock().expect("nothing panics under this lock");
            held.ended = true;
            std::mem::take(&mut held.tasks)
        };
        // Outside of the lock: an aborted task may be dropped here and now, and leaves the set then.
        drop(tasks);
    }
}

impl Drop for TaskSet {
    fn drop(&mut self) {
        self.end();
    }
}

struct Leave {
    held: std::sync::Weak<Mutex<Held>>,
    key: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let Some(held) = self.held.upgrade() else { return };
        let task = held.lock().expect("nothing panics under this lock").tasks.remove(&self.key);
        if let Some(task) = task {
            task.detach();
        }
    }
}
