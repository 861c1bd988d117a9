//! A seed becomes a [`Plan`]: topology, knobs and faults as data, written before the run; the run follows it and nothing
//! else. A plan is saved as JSON and holds its scenario's text, so that it replays although the file has changed since.
//!
//! Invariants: the same scenario and seed give the same plan. Every nemesis, every strike of it and every purpose draws from
//! a stream of its own, and what is only known during the run is drawn from the fault's own `draw`: removing one fault or
//! step leaves all others as they were.

pub mod budget;
mod draw;
mod fault;
mod knobs;
mod shape;

pub use fault::{Aim, Moment, Planned};
pub use knobs::Knobs;
pub use shape::{Place, Shape};

use jepsen_like::scenario::{Scenario, Target};
use jepsen_like::workload::{self, Step};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the JSON.
const FORMAT_VERSION: u32 = 1;

/// What a run is made of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub format_version: u32,
    /// Name of the scenario.
    pub scenario: String,
    /// The scenario itself, as it was.
    pub text: String,
    pub seed: u64,
    pub shape: Shape,
    pub knobs: Knobs,
    /// In the order of the times at which they strike at the earliest.
    pub faults: Vec<Planned>,
    /// What clients do, in the order of their times.
    pub steps: Vec<Step>,
}

/// There is no such plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Scenario(#[from] jepsen_like::scenario::Error),
    #[error("the fault `{fault}` cannot strike {target}")]
    Target { fault: &'static str, target: Target },
    #[error("`{0}` on drives that hold logs is beyond any budget: budget = \"beyond\"")]
    ForgetfulLog(&'static str),
    #[error("no code has the waypoint `{0}`: their list is in the README of runtime")]
    Waypoint(String),
    #[error("the plan cannot be read: {0}")]
    Unreadable(String),
    #[error("the plan has version {0}, this simulator reads {FORMAT_VERSION}")]
    Version(u32),
}

impl Plan {
    /// The plan that `seed` draws for the scenario `name` with this text.
    pub fn draw(name: &str, text: &str, seed: u64) -> Result<Plan, Error> {
        let scenario = Scenario::parse(name, text)?;
        let shape = Shape::of(&scenario);
        let knobs = Knobs::draw(seed, &shape, &scenario.knobs);
        let mut crowd = scenario.clone();
        for workload in &mut crowd.workloads {
            workload.clients = (workload.clients * knobs.clients_percent).div_ceil(100);
        }
        Ok(Plan {
            format_version: FORMAT_VERSION,
            scenario: name.to_string(),
            text: text.to_string(),
            seed,
            shape,
            knobs,
            faults: draw::faults(&scenario, &shape, seed)?,
            steps: workload::draw(&crowd, seed),
        })
    }

    /// The scenario that it was drawn for.
    pub fn scenario(&self) -> Result<Scenario, Error> {
        Ok(Scenario::parse(&self.scenario, &self.text)?)
    }

    /// From JSON.
    pub fn from_json(json: &str) -> Result<Plan, Error> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let unreadable = |error: serde_json::Error| Error::Unreadable(error.to_string());
        let version: Version = serde_json::from_str(json).map_err(unreadable)?;
        if version.format_version != FORMAT_VERSION {
            return Err(Error::Version(version.format_version));
        }
        let plan: Plan = serde_json::from_str(json).map_err(unreadable)?;
        plan.scenario()?;
        plan.check()?;
        Ok(plan)
    }

    /// As JSON, with a line for each fault and step so that two plans can be compared.
    pub fn to_json(&self) -> String {
        let lines = |values: Vec<String>| if values.is_empty() { "[]".to_string() } else { format!("[\n  {}\n]", values.join(",\n  ")) };
        let fields = [
            ("format_version", line(&self.format_version)),
            ("scenario", line(&self.scenario)),
            ("text", line(&self.text)),
            ("seed", line(&self.seed)),
            ("shape", line(&self.shape)),
            ("knobs", line(&self.knobs)),
            ("faults", lines(self.faults.iter().map(line).collect())),
            ("steps", lines(self.steps.iter().map(line).collect())),
        ];
        let fields: Vec<String> = fields.into_iter().map(|(name, json)| format!("\"{name}\": {json}")).collect();
        format!("{{\n{}\n}}\n", fields.join(",\n"))
    }

    /// Read a plan from a file.
    pub fn load(path: &Path) -> Result<Plan, Error> {
        let json = std::fs::read_to_string(path).map_err(|error| Error::Unreadable(format!("{}: {error}", path.display())))?;
        Plan::from_json(&json)
    }

    /// Write it to a file.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, self.to_json())
    }

    /// A plan is edited by hand and by shrinking: whatever it names must exist.
    fn check(&self) -> Result<(), Error> {
        let nodes = self.shape.nodes();
        let mut places = self.faults.iter().filter_map(|fault| fault.aim.places(&self.shape)).flatten();
        if places.any(|place| place.node >= nodes || place.drive >= self.shape.drives_per_node) {
            return Err(Error::Unreadable("it names a node or drive that its cluster does not have".to_string()));
        }
        if self.knobs.clocks.len() != nodes {
            return Err(Error::Unreadable("it does not have a clock for each node".to_string()));
        }
        Ok(())
    }
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a plan is plain data")
}

#[cfg(test)]
mod tests;
