#![doc = include_str!("../README.md")]

pub mod disk;
pub mod entropy;
pub mod http;
pub mod io;
pub mod net;
pub mod probe;
pub mod process;
pub mod rpc;
pub mod sync;
pub mod task;
pub mod time;

#[cfg_attr(madsim, path = "simulated/mod.rs")]
#[cfg_attr(not(madsim), path = "production/mod.rs")]
pub mod side;

pub use probe::planted;

/// `select!` that polls its branches in the order in which they are written: the random start branch of the
/// plain macro is drawn from a process-wide counter and would break replay.
#[macro_export]
macro_rules! select {
    ($($branches:tt)*) => { $crate::__select! { biased; $($branches)* } };
}

#[doc(hidden)]
pub use tokio::select as __select;
