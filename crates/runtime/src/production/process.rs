//! The process: its executor, its limits and the signals that ask it to stop.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::future::Future;

/// Buffers of at least this many bytes are given back to the system when they are freed. Fixed, because the allocator would
/// otherwise raise it to the size of the largest buffer freed so far, and from then on keep blobs in its heaps.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD_BYTES: libc::c_int = 4 << 20;
/// Free bytes at the end of a heap that are kept for the next allocation.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD_BYTES: libc::c_int = 8 << 20;
/// Heaps: by default there are eight per core, and what a burst leaves in one of them does not serve the others.
#[cfg(target_env = "gnu")]
const HEAPS_MAX: libc::c_int = 4;

/// Run `future` on a new multi-threaded executor; everything that it started ends with it.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    bound_the_allocator();
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

/// Keep what is resident close to what is in use: the bound on the bytes that a gateway holds is worth nothing if the allocator
/// keeps as much again in its heaps.
fn bound_the_allocator() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES), (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES), (libc::M_ARENA_MAX, HEAPS_MAX)]
    {
        // SAFETY: mallopt takes two numbers and locks for itself.
        let taken = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(taken, 1, "parameter {parameter} of the allocator is not {value}");
    }
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
