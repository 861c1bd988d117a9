//! What the simulator judges of a run: what the clients saw, and what lies on the simulated drives where no client can
//! look. All is judged when the run is over.

mod panics;
mod replicas;

pub use panics::watch_panics;

use crate::cluster::Cluster;
use jepsen_like::check::{self, Violation};
use jepsen_like::history::History;
use jepsen_like::scenario::Scenario;
use jepsen_like::workload::Standing;
use std::collections::BTreeMap;
use std::sync::Arc;

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

    /// The run is over, all is healed, and each bucket was read back: everything that is wrong.
    pub async fn end(&self, history: &History, read_back: &BTreeMap<String, Standing>) -> Vec<String> {
        let mut found = self.judge_history(history, read_back);
        found.extend(replicas::compare(&self.cluster).await);
        found.extend(panics::take().into_iter().map(|panic| format!("a task panicked: {panic}")));
        found
    }

    /// What the clients saw.
    fn judge_history(&self, history: &History, read_back: &BTreeMap<String, Standing>) -> Vec<String> {
        let (mut violations, mut found): (Vec<Violation>, Vec<String>) = (Vec::new(), Vec::new());
        for (bucket, Standing { finals, listed }) in read_back {
            violations.extend(check::read_back(history, bucket, finals));
            match listed {
                Ok(listed) => violations.extend(check::listing(finals, listed)),
                Err(error) => found.push(format!("no listing of {bucket} at the end: {error}")),
            }
        }
        if self.scenario.expect.linearizable {
            violations.extend(check::linearizable(history));
        }
        if self.scenario.expect.listings_complete {
            violations.extend(check::listings(history));
        }
        found.extend(violations.iter().map(ToString::to_string));
        found
    }
}
