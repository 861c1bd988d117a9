//! How one run ended, as its process tells whoever started it: one line of JSON on stdout.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::violation::Violation;

/// What a run found, and what it took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub scenario: String,
    pub seed: u64,
    /// The event hash, if the run came to its end.
    pub hash: Option<String>,
    /// Broken promises, panics, and why it did not come to its end, if so.
    pub violations: Vec<Violation>,
    /// Operations by what became of them.
    pub tally: BTreeMap<String, usize>,
    pub events: u64,
    pub simulated_seconds: f64,
    pub wall_seconds: f64,
    /// Most memory that its process had resident.
    #[serde(default)]
    pub peak_bytes: u64,
    /// Rare states that were reached, and how often.
    pub probes: BTreeMap<String, u64>,
    /// Planted bugs whose places were reached, switched on or not.
    #[serde(default)]
    pub places: BTreeSet<String>,
}

impl Outcome {
    /// Whether anything was wrong.
    pub fn failed(&self) -> bool {
        !self.violations.is_empty() || self.hash.is_none()
    }

    /// Names of the checks that failed.
    pub fn checks(&self) -> BTreeSet<String> {
        let mut checks: BTreeSet<String> = self.violations.iter().map(|violation| violation.check.clone()).collect();
        if self.hash.is_none() && checks.is_empty() {
            checks.insert("no-event-hash".to_owned());
        }
        checks
    }
}
