#![doc = include_str!("../README.md")]

mod seal;

pub use seal::{Error, Sealed, seal};
