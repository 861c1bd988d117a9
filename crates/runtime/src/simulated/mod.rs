//! The simulated side: madsim's executor, clock and entropy, made deterministic; our drives; the event hash.
//!
//! One process runs one simulation: libraries keep process-wide counters and seeds that would differ in a second one.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this side is what the banned names are replaced with")]

mod disk;
mod entropy;
mod event;
mod interpose;
mod machine;
mod platter;
mod probes;
pub(crate) mod process;
mod run;

pub use disk::SimDrive;
pub use entropy::stream_for;
pub use event::{event_count, event_hash, record_events};
pub use interpose::pin_address_space;
pub use machine::{Machine, heal, partition};
pub use platter::Cut;
pub use probes::{plant, probes};
pub use run::{Settings, run};

pub(crate) use entropy::{fill_entropy, stream as entropy_stream};
pub(crate) use event::note;
pub(crate) use machine::wall_ms;
pub(crate) use probes::planted;
pub use probes::probe;

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
    // madsim shows the number only as text.
    madsim::plugin::node().to_string().parse().expect("a machine's number is a number")
}
