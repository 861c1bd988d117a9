//! The simulated side: madsim's executor, clock and entropy; our drives.

pub(crate) mod process;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

pub(crate) fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

pub(crate) fn fill_entropy(target: &mut [u8]) {
    rand::rng().fill_bytes(target);
}

pub(crate) fn entropy_stream(_purpose: &str) -> ChaCha12Rng {
    ChaCha12Rng::from_os_rng()
}

pub(crate) fn planted(_name: &'static str) -> bool {
    false
}

/// Note that `name` was reached.
pub fn probe(_name: &'static str) {}

/// Feed the event hash of the simulation; nothing in production.
#[inline(always)]
pub(crate) fn note(_kind: &'static str, _bytes: &[u8]) {}

/// Refused: a simulation's drives are handed over by the simulator.
pub(crate) fn open_folder(path: &std::path::Path) -> crate::disk::Result<std::sync::Arc<dyn crate::disk::Disk>> {
    Err(crate::disk::Error::Closed { drive: path.display().to_string(), reason: "a simulation has no folders".to_string() })
}

pub(crate) fn syncs() -> u64 {
    0
}
