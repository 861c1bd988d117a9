//! What a sweep found: for people at its end, and for machines as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Purpose;
use crate::inventory;
use crate::outcome::Outcome;
use crate::reproduce::Origin;

/// Names on one line of a list.
const NAMES_PER_LINE: usize = 4;

/// One run and what came of it.
#[derive(Serialize)]
pub struct Finding {
    pub purpose: Purpose,
    /// Its event hash is not that of the other run of the same seed.
    pub differs: bool,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// All of a sweep.
#[derive(Serialize)]
pub struct Summary {
    origin: Origin,
    wall_seconds: f64,
    failed: usize,
    compared: usize,
    differ: usize,
    canary_found: bool,
    probes_never_reached: Vec<&'static str>,
    runs: Vec<Finding>,
}

impl Summary {
    pub fn of(runs: Vec<Finding>, canary_found: bool, took: Duration) -> Summary {
        let judged = |finding: &&Finding| finding.purpose != Purpose::Canary;
        let reached: BTreeSet<&str> =
            runs.iter().filter(judged).flat_map(|finding| finding.outcome.probes.keys()).map(String::as_str).collect();
        let never = inventory::PROBES.iter().map(|(name, _)| *name).filter(|name| !reached.contains(name)).collect();
        Summary {
            origin: Origin::here().clone(),
            wall_seconds: took.as_secs_f64(),
            failed: runs.iter().filter(judged).filter(|finding| finding.outcome.failed()).count(),
            compared: runs.iter().filter(|finding| finding.purpose == Purpose::Again).count(),
            differ: runs.iter().filter(|finding| finding.differs).count(),
            canary_found,
            probes_never_reached: never,
            runs,
        }
    }

    /// Whether all is well: something was run, nothing failed or differs, and the canary was found.
    pub fn passed(&self) -> bool {
        let any = self.runs.iter().any(|finding| matches!(finding.purpose, Purpose::Seed | Purpose::PastFailure));
        any && self.failed == 0 && self.differ == 0 && self.canary_found
    }

    /// For people; the last line says it all.
    pub fn print(&self) {
        self.print_scenarios();
        if !self.probes_never_reached.is_empty() {
            println!("{} of {} probes were never reached:", self.probes_never_reached.len(), inventory::PROBES.len());
            for names in self.probes_never_reached.chunks(NAMES_PER_LINE) {
                println!("    {}", names.join(" | "));
            }
        }
        println!(
            "sweep {}: {} runs in {:.0} s, {} failed, {} of {} compared differ, canary {}",
            if self.passed() { "passed" } else { "FAILED" },
            self.runs.len(),
            self.wall_seconds,
            self.failed,
            self.differ,
            self.compared,
            if self.canary_found { "found" } else { "NOT FOUND" },
        );
    }

    fn print_scenarios(&self) {
        let mut scenarios: BTreeMap<&str, (usize, usize, f64, f64, u64)> = BTreeMap::new();
        for finding in self.runs.iter().filter(|finding| finding.purpose != Purpose::Canary) {
            let outcome = &finding.outcome;
            let (runs, failed, wall, simulated, peak) = scenarios.entry(&outcome.scenario).or_default();
            *runs += 1;
            *failed += usize::from(outcome.failed());
            *wall += outcome.wall_seconds;
            *simulated += outcome.simulated_seconds;
            *peak = (*peak).max(outcome.peak_bytes);
        }
        let width = scenarios.keys().map(|name| name.len()).max().unwrap_or(0);
        for (name, (runs, failed, wall, simulated, peak)) in scenarios {
            let each = wall / runs as f64;
            println!(
                "{name:width$}  {runs:>4} runs, {failed:>3} failed, {each:>5.1} s each, {:>5.0} simulated seconds a second, {:>4} MiB",
                simulated / wall,
                peak >> 20
            );
        }
    }

    /// For machines.
    pub fn save(&self, path: &Path) -> Result<(), String> {
        let json = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(path, json + "\n").map_err(|error| format!("{}: {error}", path.display()))
    }
}
