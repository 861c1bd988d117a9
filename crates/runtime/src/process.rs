//! The process of a production node: its executor, its limits and its signals.

pub use crate::side::process::{block_on, raise_open_files, stop_requested};
