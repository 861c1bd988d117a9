//! The process: its executor, its limits and the signals that ask it to stop.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::future::Future;

/// Run `future` on a new multi-threaded executor; everything that it started ends with it.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let executor = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the system gives threads");
    let output = executor.block_on(future);
    executor.shutdown_timeout(std::time::Duration::from_secs(1));
    output
}

/// Let the process hold as many files open as the system grants it: slots, segments and connections are a descriptor
/// each, and the usual soft limit of 1024 was made for programs that call `select`.
pub fn raise_open_files() -> std::io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Wait for SIGINT or SIGTERM.
pub async fn stop_requested() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    crate::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_raised_to_the_hard_limit() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(512), maximum }).unwrap();
        raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: maximum, maximum });
    }
}
