//! Randomness: unpredictable bytes for ids and nonces, and seeded streams by purpose.

use rand_chacha::ChaCha12Rng;

/// Fill `target` with unpredictable bytes (in a simulation: drawn from the seed).
pub fn fill(target: &mut [u8]) {
    crate::side::fill_entropy(target);
}

/// An unpredictable number.
pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// A generator of its own for `purpose` on this node: drawing from one never shifts another.
pub fn stream(purpose: &str) -> ChaCha12Rng {
    crate::side::entropy_stream(purpose)
}
