//! What faults hold at present, so that healing one does not heal what another still holds.

use crate::plan::{Place, Plan};
use runtime::side::{Clock, Link};
use std::collections::BTreeMap;
use std::time::Duration;

/// Ends of links: a node, or the machine of the clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    Node(usize),
    Clients,
}

/// A machine's process.
#[derive(Clone, Default)]
pub struct Process {
    /// Faults that keep it down.
    pub down: u32,
    /// Faults that keep its present life paused.
    pub paused: u32,
    /// Raised by each death: a pause belongs to one life.
    pub life: u64,
}

/// A drive's conditions, each with the faults that hold it.
#[derive(Clone, Default)]
pub struct Conditions {
    pub full: BTreeMap<u64, u64>,
    pub slow: BTreeMap<u64, u32>,
    pub stuck: u32,
}

/// What all faults hold together.
pub struct Standing {
    pub processes: Vec<Process>,
    /// By node: what each fault adds to its clock; the plan's own knob has the number `u64::MAX`.
    pub clocks: Vec<BTreeMap<u64, Clock>>,
    /// By direction, by fault: the one with the highest number shows.
    pub links: BTreeMap<(End, End), BTreeMap<u64, Link>>,
    /// By node, by fault: the longest shows.
    pub accepts: Vec<BTreeMap<u64, Duration>>,
    pub drives: BTreeMap<Place, Conditions>,
}

impl Standing {
    /// At the start of a plan only its knobs hold.
    pub fn new(plan: &Plan) -> Standing {
        let nodes = plan.shape.nodes();
        let knob = |node: usize| {
            let knob = plan.knobs.clocks[node];
            BTreeMap::from([(u64::MAX, Clock { offset_ms: knob.offset_ms, drift_ppm: knob.drift_ppm, frozen: false })])
        };
        Standing {
            processes: vec![Process::default(); nodes],
            clocks: (0..nodes).map(knob).collect(),
            links: BTreeMap::new(),
            accepts: vec![BTreeMap::new(); nodes],
            drives: BTreeMap::new(),
        }
    }
}
