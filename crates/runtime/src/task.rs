//! Tasks. Who spawns a task holds its handle; dropping the handle ends the task.

use std::future::Future;
use std::pin::Pin;
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
