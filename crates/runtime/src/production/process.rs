//! The process: its executor and the signals that ask it to stop.

use std::future::Future;

/// Run `future` on a new multi-threaded executor; everything that it started ends with it.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let executor = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the system gives threads");
    let output = executor.block_on(future);
    executor.shutdown_timeout(std::time::Duration::from_secs(1));
    output
}

/// Wait for SIGINT or SIGTERM.
pub async fn stop_requested() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    crate::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
