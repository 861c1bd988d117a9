//! The black box: what a cluster looks like from outside, and whether it kept its word.

pub mod s3;
pub mod scenario;
