#![doc = include_str!("../README.md")]

pub mod check;
pub mod history;
pub mod s3;
pub mod scenario;
pub mod workload;
