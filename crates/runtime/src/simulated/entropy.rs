//! Randomness of a simulation: a stream for each (seed, purpose, machine), so that drawing more from one never shifts
//! what the others give.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What `entropy::fill` draws from, for each machine.
static BYTES: Mutex<BTreeMap<u64, ChaCha12Rng>> = Mutex::new(BTreeMap::new());
/// How often a stream was opened: a machine that restarts must not draw the same numbers again.
static OPENED: Mutex<BTreeMap<(String, u64), u64>> = Mutex::new(BTreeMap::new());

pub(crate) fn fill_entropy(target: &mut [u8]) {
    let machine = super::machine_number();
    let mut streams = BYTES.lock().expect("nothing panics under this lock");
    streams.entry(machine).or_insert_with(|| stream_for(seed(), "bytes", machine, 0)).fill_bytes(target);
}

pub(crate) fn stream(purpose: &str) -> ChaCha12Rng {
    let machine = super::machine_number();
    let mut opened = OPENED.lock().expect("nothing panics under this lock");
    let times = opened.entry((purpose.to_string(), machine)).or_default();
    *times += 1;
    stream_for(seed(), purpose, machine, *times)
}

fn seed() -> u64 {
    madsim::runtime::Handle::current().seed()
}

/// The stream for the `time`-th opening of `purpose` on `machine` under `seed`. Needs no running simulation: plans are
/// drawn from it before the run.
pub fn stream_for(seed: u64, purpose: &str, machine: u64, time: u64) -> ChaCha12Rng {
    let mut digest = Sha256::new();
    digest.update(b"keepstone simulation stream 1");
    for number in [seed, machine, time] {
        digest.update(number.to_le_bytes());
    }
    digest.update(purpose.as_bytes());
    ChaCha12Rng::from_seed(digest.finalize().into())
}
