//! Which run is meant: a scenario under a seed, or a saved plan.

use std::path::PathBuf;

use clap::Args;

use crate::plan::Plan;
use crate::processes::Source;
use crate::scenarios;

/// A run, as the command line names it.
#[derive(Args)]
pub struct Which {
    /// A scenario, with --seed
    scenario: Option<String>,
    #[arg(long, requires = "scenario")]
    seed: Option<u64>,
    /// Or a saved plan
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    plan: Vec<PathBuf>,
}

impl Which {
    /// The one run that is named; it exists.
    pub fn one(&self) -> Result<Source, String> {
        match &self.all()?[..] {
            [source] => Ok(source.clone()),
            _ => Err("name one run: SCENARIO --seed N, or --plan FILE".to_owned()),
        }
    }

    /// All that are named: none, one, or several plans. A scenario among them exists.
    pub fn all(&self) -> Result<Vec<Source>, String> {
        match (&self.scenario, self.seed) {
            (Some(scenario), Some(seed)) => {
                scenarios::draw(scenario, seed)?;
                Ok(vec![Source::Seed { scenario: scenario.clone(), seed }])
            }
            (None, None) => Ok(self.plan.iter().cloned().map(Source::Plan).collect()),
            _ => Err("a scenario is named with its --seed".to_owned()),
        }
    }
}

/// The plan of a run.
pub fn plan(source: &Source) -> Result<Plan, String> {
    match source {
        Source::Seed { scenario, seed } => scenarios::draw(scenario, *seed),
        Source::Plan(path) => Plan::load(path).map_err(|error| format!("{}: {error}", path.display())),
    }
}
