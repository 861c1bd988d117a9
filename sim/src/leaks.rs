//! Known leaks of nondeterminism, made on purpose: the proof that comparing event hashes of two processes would notice.
//! An unbiased select leaks nothing between processes of one binary; `cargo ci edges` refuses it in the sources.

use clap::ValueEnum;

/// Where the nondeterminism comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Leak {
    /// None: the control.
    None,
    /// The system's clock, read past the simulator.
    Clock,
    /// The system's entropy, read past the simulator.
    Entropy,
    /// Order of a map whose hasher is seeded by the system.
    HashOrder,
}

/// Let `leak` reach the event hash.
pub fn spill(leak: Leak) {
    let bytes = match leak {
        Leak::None => Vec::new(),
        Leak::Clock => clock().to_le_bytes().to_vec(),
        Leak::Entropy => urandom().to_vec(),
        Leak::HashOrder => hash_order(),
    };
    runtime::probe::note_event("leak", &bytes);
}

/// The kernel's own accounting of time: no interposer sees it.
fn clock() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let schedule = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let mut digits = 0u64;
    for byte in uptime.bytes().chain(schedule.bytes()) {
        digits = digits.wrapping_mul(31).wrapping_add(u64::from(byte));
    }
    digits
}

fn urandom() -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Ok(mut file) = std::fs::File::open("/dev/urandom") {
        // A short read would leave zeros, which the test would notice.
        let _ = std::io::Read::read_exact(&mut file, &mut bytes);
    }
    bytes
}

fn hash_order() -> Vec<u8> {
    use std::hash::{BuildHasher, Hasher};

    #[derive(Clone, Copy)]
    struct Seeded(u64);
    struct Mixed(u64);
    impl BuildHasher for Seeded {
        type Hasher = Mixed;
        fn build_hasher(&self) -> Mixed {
            Mixed(self.0)
        }
    }
    impl Hasher for Mixed {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
            }
        }
    }
    let seed = u64::from_le_bytes(urandom()[..8].try_into().expect("eight of sixteen bytes"));
    let mut order: Vec<u8> = (0..=255).collect();
    order.sort_by_key(|number| Seeded(seed).hash_one(number));
    order
}
