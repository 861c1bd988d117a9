//! [`Scenario`]: a claim as a text file of up to about 40 lines; what the cluster is, what is done with it and to it,
//! and what must hold. The same file is run by the simulator and, where the faults allow it, on real processes.
//!
//! Nothing is ignored: an unknown key, fault, target or expectation is refused with its line, and so is a fault that
//! what it names, or real processes if they are named, cannot receive. There is no seed in a file: a run draws
//! everything from its own.

mod cluster;
mod expect;
mod fault;
mod nemesis;
mod target;
mod text;
mod work;

pub use cluster::{Cluster, Knobs, RunsOn};
pub use expect::{Acknowledged, Expect};
pub use fault::{Budget, Fault, Side, Strikes};
pub use nemesis::{Nemesis, When};
pub use target::{Target, Unit};
pub use text::Rate;
pub use work::{Workload, WorkloadKind};

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use cluster::{ClusterTable, KnobsTable};
use expect::ExpectTable;
use nemesis::NemesisTable;
use work::WorkloadTable;

/// A parsed scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// From the first comment: `# Claim: ...`.
    pub claim: String,
    /// Invariants that it attacks, like `I4`.
    pub invariants: Vec<String>,
    pub runs_on: Vec<RunsOn>,
    pub cluster: Cluster,
    pub knobs: Knobs,
    pub workloads: Vec<Workload>,
    pub nemeses: Vec<Nemesis>,
    pub expect: Expect,
}

/// A scenario that is refused: where and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Scenario {
    /// Parse the text of a scenario called `name` (for messages).
    pub fn parse(name: &str, text: &str) -> Result<Scenario, Error> {
        let fail = |at: usize, reason: &str| Error(format!("scenario {name}: line {}: {reason}", line_of(text, at)));
        let claim = claim(text).ok_or_else(|| fail(0, "a scenario begins with its claim: # Claim: ..."))?;
        let file: File = toml::from_str(text).map_err(|error| fail(error.span().map_or(0, |span| span.start), error.message()))?;
        if let Some((at, reason)) = file.unsound() {
            return Err(fail(at, &reason));
        }
        Ok(Scenario {
            claim,
            invariants: file.invariants.into_iter().map(Spanned::into_inner).collect(),
            runs_on: file.runs_on.into_inner(),
            cluster: file.cluster.into(),
            knobs: file.knobs.into(),
            workloads: file.workload.into_iter().map(Workload::from).collect(),
            nemeses: file.nemesis.into_iter().map(Nemesis::from).collect(),
            expect: file.expect.into(),
        })
    }

    /// When the last workload ends.
    pub fn until(&self) -> Duration {
        self.workloads.iter().map(|workload| workload.until).max().unwrap_or_default()
    }

    /// Whether some fault is beyond the budget, so that what was acknowledged may be lost.
    pub fn beyond_budget(&self) -> bool {
        self.nemeses.iter().any(|nemesis| nemesis.budget == Budget::Beyond)
    }
}

/// The comment at the top, without its `Claim:`.
fn claim(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let claim = lines.join(" ");
    claim.strip_prefix("Claim:").map(|claim| claim.trim().to_owned()).filter(|claim| !claim.is_empty())
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    invariants: Vec<Spanned<String>>,
    runs_on: Spanned<Vec<RunsOn>>,
    cluster: ClusterTable,
    #[serde(default)]
    knobs: KnobsTable,
    #[serde(default)]
    workload: Vec<WorkloadTable>,
    #[serde(default)]
    nemesis: Vec<NemesisTable>,
    #[serde(default)]
    expect: ExpectTable,
}

impl File {
    /// What parses but makes no sense: where it begins, and why.
    fn unsound(&self) -> Option<(usize, String)> {
        for invariant in &self.invariants {
            let number = invariant.get_ref().strip_prefix('I').and_then(|number| number.parse::<u32>().ok());
            if !number.is_some_and(|number| (1..=12).contains(&number)) {
                return Some((invariant.span().start, format!("there is no invariant {}: I1 to I12", invariant.get_ref())));
            }
        }
        if self.runs_on.get_ref().is_empty() {
            return Some((self.runs_on.span().start, "runs nowhere".to_owned()));
        }
        let beyond = self.nemesis.iter().any(NemesisTable::is_beyond_budget);
        (self.cluster.unsound())
            .or_else(|| self.knobs.unsound())
            .or_else(|| self.workload.iter().find_map(WorkloadTable::unsound))
            .or_else(|| self.nemesis.iter().find_map(|nemesis| nemesis.unsound(self.runs_on.get_ref())))
            .or_else(|| self.expect.unsound(beyond))
    }
}
