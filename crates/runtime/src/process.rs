//! The process of a production node: its executor and its signals.

pub use crate::side::process::{block_on, stop_requested};
