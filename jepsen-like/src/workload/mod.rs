//! Clients at work. What they do is drawn before the run and is data ([`Step`]); every operation is recorded before it
//! is sent and after it is answered.
//!
//! Every value that is written has bytes of its own, and is known by its ETag before it is sent (`values.rs`): whatever a
//! reply shows is compared byte for byte, and an ETag that nobody made is a wrong reply.

mod answer;
mod draw;
mod draws;
mod ending;
mod listing;
mod objects;
mod rude;
mod step;
mod tags;
mod uploads;
mod values;
mod versions;
mod worker;

pub use draw::draw;
pub use draws::Draws;
pub use ending::{READER, Standing};
pub use step::{Naming, Place, PlannedAction, PlannedList, Rudeness, Step, UploadName, VersionAction, bucket_name, key_name};
pub use worker::Work;

use crate::scenario::{Scenario, WorkloadKind};

/// Buckets that must exist before the clients of `scenario` begin: all but those that they create themselves.
pub fn buckets(scenario: &Scenario) -> Vec<String> {
    let given = scenario.workloads.iter().enumerate().filter(|(_, workload)| workload.kind != WorkloadKind::Buckets);
    given.map(|(number, _)| bucket_name(u32::try_from(number).expect("a scenario has few workloads"), 0)).collect()
}
