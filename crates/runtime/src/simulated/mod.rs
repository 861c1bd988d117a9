//! The simulated side: madsim's executor, clock and entropy, made deterministic; our network and drives; the event hash.
//!
//! One process runs one simulation: libraries keep process-wide counters and seeds that would differ in a second one.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this side is what the banned names are replaced with")]

mod clock;
mod content;
mod disk;
mod drive;
mod entropy;
mod event;
mod ids;
mod interpose;
mod job;
mod machine;
mod net;
mod pages;
mod platter;
mod present;
mod probes;
pub(crate) mod process;
mod run;
mod waypoint;

pub use clock::{Clock, DRIFT_PPM_MAX};
pub use drive::SimDrive;
pub use entropy::stream_for;
pub use event::{Watcher, elapsed_ns, end_record, event_count, event_hash, record_events, watch_events};
pub use ids::repeated;
pub use interpose::pin_address_space;
pub use machine::Machine;
pub use net::{
    Connections, Link, block, clear_link, connections, heal, heal_all, partition, partition_one_way, reset_connections, set_default_link,
    set_link, set_slow_accept, unblock,
};
pub use pages::shared_page_bytes;
pub use platter::{Cut, FaultMark, Wrong};
pub use probes::{listen, places_of_bugs, plant, probes};
pub use run::{Settings, run};
pub use waypoint::{Armed, Reached, arm_waypoint};

pub(crate) use clock::{now, sleep, sleep_until, timeout, wall_ms};
pub(crate) use entropy::{fill_entropy, stream as entropy_stream};
pub(crate) use event::note;
pub(crate) use ids::never_twice;
pub(crate) use net::{TcpListener, TcpStream};
pub use probes::probe;
pub(crate) use probes::{planted, tell};
pub(crate) use waypoint::waypoint;

/// Refused: a simulation's drives are handed over by the simulator.
pub(crate) fn open_folder(path: &std::path::Path) -> crate::disk::Result<std::sync::Arc<dyn crate::disk::Disk>> {
    Err(crate::disk::Error::Closed { drive: path.display().to_string(), reason: "a simulation has no folders".to_string() })
}

/// Syncs are counted per drive in a simulation.
pub(crate) fn syncs() -> u64 {
    0
}

/// The number of the simulated machine that the present task runs on; 0 is the simulator itself.
fn machine_number() -> u64 {
    number_of(madsim::plugin::node())
}

/// As [`machine_number`], and 0 outside of a simulation.
fn machine_or_simulator() -> u64 {
    if present::is_simulated() { machine_number() } else { 0 }
}

/// madsim shows a machine's number only as text and as what it hashes; the latter costs nothing.
fn number_of(machine: madsim::task::NodeId) -> u64 {
    #[derive(Default)]
    struct Taken(u64);

    impl std::hash::Hasher for Taken {
        fn finish(&self) -> u64 {
            self.0
        }

        fn write(&mut self, _: &[u8]) {
            unreachable!("a machine's number is a u64");
        }

        fn write_u64(&mut self, number: u64) {
            self.0 = number;
        }
    }

    let mut taken = Taken::default();
    std::hash::Hash::hash(&machine, &mut taken);
    taken.0
}
