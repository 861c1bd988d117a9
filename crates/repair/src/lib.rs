#![doc = include_str!("../README.md")]

mod expiry;
mod seal;

pub use expiry::carry_out_lifecycles;
pub use seal::{Error, Sealed, seal};
