//! There is no process of its own in a simulation: the simulator runs all nodes.

use std::future::Future;

/// Panics: a binary built for simulation cannot run as a node.
pub fn block_on<T>(_future: impl Future<Output = T>) -> T {
    panic!("this binary was built for simulation; build it without --cfg madsim")
}

/// Nothing to raise: files of a simulation are memory.
pub fn raise_open_files() -> std::io::Result<()> {
    Ok(())
}

/// Never, in a simulation: nodes are stopped by killing them.
pub async fn stop_requested() -> std::io::Result<()> {
    std::future::pending().await
}
