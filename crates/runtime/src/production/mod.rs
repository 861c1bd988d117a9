//! The production side: tokio, the system's clocks and entropy, real files.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this side is what the banned names are replaced with")]

mod disk;
mod net;
pub(crate) mod process;

pub(crate) use disk::{open_folder, syncs};
pub(crate) use net::{TcpListener, TcpStream};
pub(crate) use tokio::time::{sleep, sleep_until, timeout};

use rand::{SeedableRng, TryRngCore};
use rand_chacha::ChaCha12Rng;

#[inline(always)]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

pub(crate) fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

pub(crate) fn fill_entropy(target: &mut [u8]) {
    rand::rngs::OsRng.try_fill_bytes(target).expect("the system gives entropy");
}

pub(crate) fn entropy_stream(_purpose: &str) -> ChaCha12Rng {
    ChaCha12Rng::from_os_rng()
}

#[inline(always)]
pub(crate) fn planted(_name: &'static str) -> bool {
    false
}

/// Nothing, in production.
#[inline(always)]
pub fn probe(_name: &'static str) {}

/// Ready at once, in production.
#[inline(always)]
pub(crate) async fn waypoint(_name: &'static str) {}

/// Nothing, in production.
#[inline(always)]
pub(crate) fn never_twice(_kind: &'static str, _id: &[u64]) {}

/// Nothing, in production.
#[inline(always)]
pub(crate) fn tell(_kind: &'static str, _numbers: &[u64]) {}

/// Feed the event hash of the simulation; nothing in production.
#[inline(always)]
pub(crate) fn note(_kind: &'static str, _bytes: &[u8]) {}
