//! What hyper needs of a runtime: an executor, a timer and its stream adapter.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Adapter from our streams to hyper's; binds to no runtime.
pub use hyper_util::rt::TokioIo as Io;

/// Runs hyper's background futures as tasks. They end with their connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Executor;

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        crate::task::spawn(future).detach();
    }
}

/// Timer for hyper's timeouts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer;

/// A wait on the machine's own clock.
struct Sleep(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl hyper::rt::Sleep for Sleep {}

impl hyper::rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep(Box::pin(crate::time::sleep(duration))))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        #[allow(clippy::useless_conversion, reason = "the simulated instant is std's, the real one tokio's own")]
        let deadline = deadline.into();
        Box::pin(Sleep(Box::pin(crate::time::sleep_until(deadline))))
    }

    fn now(&self) -> std::time::Instant {
        #[allow(clippy::useless_conversion, reason = "the simulated instant is std's, the real one tokio's own")]
        crate::time::now().into()
    }
}
