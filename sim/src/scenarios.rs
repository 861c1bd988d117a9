//! The scenario files of `chaos-scenarios`, and the plans of past failures below it.

use std::path::{Path, PathBuf};

use jepsen_like::scenario::{RunsOn, Scenario};

use crate::plan::Plan;
use crate::reproduce;

/// Stands for every scenario that the simulator can run.
pub const ALL: &str = "all";

/// The scenarios' folder.
pub fn folder() -> PathBuf {
    reproduce::root().join("chaos-scenarios")
}

/// The text of the scenario `name`.
pub fn text(name: &str) -> Result<String, String> {
    let path = folder().join(format!("{name}.toml"));
    std::fs::read_to_string(&path).map_err(|_| format!("there is no scenario `{name}`; `cargo sim list` names them"))
}

/// The scenario `name`.
pub fn load(name: &str) -> Result<Scenario, String> {
    Scenario::parse(name, &text(name)?).map_err(|error| error.to_string())
}

/// The plan that `seed` draws for the scenario `name`.
pub fn draw(name: &str, seed: u64) -> Result<Plan, String> {
    Plan::draw(name, &text(name)?, seed).map_err(|error| format!("{name}: {error}"))
}

/// The names of all scenarios, in order.
pub fn names() -> Result<Vec<String>, String> {
    files(&folder(), ".toml")
}

/// The scenarios that `asked` names, each known and able to run here; `all` stands for every one that is.
pub fn chosen(asked: &[String]) -> Result<Vec<String>, String> {
    if asked.iter().any(|name| name == ALL) {
        let mut chosen = Vec::new();
        for name in names()? {
            if load(&name)?.runs_on.contains(&RunsOn::Sim) {
                chosen.push(name);
            }
        }
        return Ok(chosen);
    }
    for name in asked {
        if !load(name)?.runs_on.contains(&RunsOn::Sim) {
            return Err(format!("the scenario `{name}` does not run in the simulator"));
        }
    }
    Ok(asked.to_vec())
}

/// Plans of past failures, in order, with their scenarios' names.
pub fn past_failures() -> Result<Vec<(String, PathBuf)>, String> {
    let folder = folder().join("regression");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut plans = Vec::new();
    for name in files(&folder, ".json")? {
        let path = folder.join(format!("{name}.json"));
        let plan = Plan::load(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        plans.push((plan.scenario, path));
    }
    Ok(plans)
}

fn files(folder: &Path, ending: &str) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.path().file_name()?.to_string_lossy().strip_suffix(ending)?.to_string())).collect();
    names.sort();
    Ok(names)
}
