//! What the simulator judges of a run: what the clients saw, and what lies on the simulated drives where no client can
//! look. All is judged when the run is over.

mod panics;
mod replicas;

pub use panics::watch_panics;

use crate::cluster::Cluster;
use jepsen_like::check::{self, Final, Violation};
use jepsen_like::history::History;
use jepsen_like::scenario::Scenario;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was read through the gateways after the last fault was healed.
pub struct ReadBack {
    /// The bucket of the workloads.
    pub bucket: String,
    /// Every key of the workloads.
    pub finals: BTreeMap<String, Final>,
    /// All keys as listed page by page, or why there is no list.
    pub listed: Result<Vec<String>, String>,
}

/// Judges one run.
pub struct Judge {
    scenario: Scenario,
    cluster: Arc<Cluster>,
}

impl Judge {
    /// Begin to watch `cluster`.
    pub fn new(scenario: &Scenario, cluster: Arc<Cluster>) -> Judge {
        Judge { scenario: scenario.clone(), cluster }
    }

    /// The run is over, all is healed and read back: everything that is wrong.
    pub async fn end(&self, history: &History, read_back: &ReadBack) -> Vec<String> {
        let mut found = self.judge_history(history, read_back);
        found.extend(replicas::compare(&self.cluster).await);
        found.extend(panics::take().into_iter().map(|panic| format!("a task panicked: {panic}")));
        found
    }

    /// What the clients saw.
    fn judge_history(&self, history: &History, read_back: &ReadBack) -> Vec<String> {
        let mut violations: Vec<Violation> = check::read_back(history, &read_back.bucket, &read_back.finals);
        let mut found = Vec::new();
        match &read_back.listed {
            Ok(listed) => violations.extend(check::listing(&read_back.finals, listed)),
            Err(error) => found.push(format!("no listing at the end: {error}")),
        }
        if self.scenario.expect.linearizable {
            violations.extend(check::linearizable(history));
        }
        found.extend(violations.iter().map(ToString::to_string));
        found
    }
}
