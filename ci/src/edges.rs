//! `cargo ci edges`: who may depend on whom, and what sources may name. The table is DESIGN's.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use serde_json::Value;

use crate::sources;
use crate::workspace::{self, Flavour};

/// crate -> those of ours that it may depend on, outside its tests.
const TABLE: [(&str, &[&str]); 14] = [
    ("protocol", &[]),
    ("erasure", &[]),
    ("runtime", &["protocol"]),
    ("drive", &["runtime", "protocol", "erasure"]),
    ("consensus", &["runtime", "protocol"]),
    ("storage", &["drive", "runtime", "protocol"]),
    ("metadata", &["consensus", "runtime", "protocol"]),
    ("placement", &["consensus", "runtime", "protocol"]),
    ("gateway", &["placement", "metadata", "storage", "erasure", "runtime", "protocol"]),
    ("repair", &["placement", "metadata", "storage", "erasure", "runtime", "protocol"]),
    ("node", &["gateway", "repair", "placement", "metadata", "storage", "consensus", "drive", "erasure", "runtime", "protocol"]),
    ("jepsen-like", &["runtime", "protocol"]),
    ("sim", &["node", "jepsen-like", "runtime", "protocol", "drive", "erasure", "consensus", "metadata"]),
    ("ci", &[]),
];

/// Crates of others with few who may name them, and why.
const RESERVED: [(&str, &[&str], &str); 6] = [
    ("madsim", &["runtime", "sim"], "the seam: use runtime::{time, task, net, sync}"),
    ("madsim-tokio", &["runtime"], "the seam: use runtime::{time, task, net, sync}"),
    ("tokio", &["runtime"], "the seam: use runtime::{time, task, net, sync}"),
    ("rustix", &["runtime"], "system calls stand behind runtime::disk"),
    ("getrandom", &["runtime"], "use runtime::entropy"),
    ("futures-timer", &[], "starts threads: use runtime::time"),
];

/// Crates that must not be in the lock file at all, and why.
const BANNED: [(&str, &str); 3] = [
    ("quanta", "reads the processor's time stamp counter, which no simulation can intercept"),
    ("minstant", "reads the processor's time stamp counter, which no simulation can intercept"),
    ("fastant", "reads the processor's time stamp counter, which no simulation can intercept"),
];

pub fn run(arguments: &[String]) -> Result<ExitCode, String> {
    if let Some(unknown) = arguments.first() {
        return Err(format!("edges takes no arguments, got \"{unknown}\""));
    }
    let mut wrong = dependencies(&packages()?);
    let lock = workspace::root().join("Cargo.lock");
    wrong.extend(locked(&std::fs::read_to_string(&lock).map_err(|error| format!("{}: {error}", lock.display()))?));
    let (files, found) = sources::scan(workspace::root())?;
    wrong.extend(found);
    for line in &wrong {
        println!("{line}");
    }
    println!("edges: {} crates, {files} files, {} wrong", TABLE.len(), wrong.len());
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A crate of the workspace: its normal and build dependencies.
struct Package {
    name: String,
    dependencies: BTreeSet<String>,
}

fn packages() -> Result<Vec<Package>, String> {
    let output = workspace::cargo(Flavour::Production)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let list = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    list.iter().map(package).collect()
}

fn package(value: &Value) -> Result<Package, String> {
    let name = value["name"].as_str().ok_or("a package without a name")?.to_owned();
    let list = value["dependencies"].as_array().ok_or("a package without dependencies")?;
    let dependencies = list
        .iter()
        .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
        .collect();
    Ok(Package { name, dependencies })
}

fn dependencies(packages: &[Package]) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = TABLE.into_iter().collect();
    let mut wrong = Vec::new();
    for Package { name, dependencies } in packages {
        let Some(allowed) = table.get(name.as_str()) else {
            wrong.push(format!("{name}: a new crate; give it a row in ci/src/edges.rs"));
            continue;
        };
        for dependency in dependencies {
            if table.contains_key(dependency.as_str()) && !allowed.contains(&dependency.as_str()) {
                wrong.push(format!("{name} -> {dependency}: {name} may depend on {allowed:?} of ours only"));
            }
            for (reserved, holders, reason) in RESERVED {
                if dependency == reserved && !holders.contains(&name.as_str()) {
                    wrong.push(format!("{name} -> {dependency}: {reason}"));
                }
            }
        }
    }
    wrong
}

fn locked(lock: &str) -> Vec<String> {
    let is_locked = |name: &str| lock.lines().any(|line| line == format!("name = \"{name}\""));
    BANNED.iter().filter(|(name, _)| is_locked(name)).map(|(name, reason)| format!("Cargo.lock: {name}: {reason}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        Package { name: name.to_owned(), dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn an_edge_outside_the_table_is_named() {
        assert!(dependencies(&[package("gateway", &["storage", "metadata", "hyper"])]).is_empty());
        assert_eq!(dependencies(&[package("storage", &["metadata"])]).len(), 1);
        assert_eq!(dependencies(&[package("drive", &["storage"])]).len(), 1);
        assert_eq!(dependencies(&[package("gateway", &["madsim-tokio"])]).len(), 1);
        assert_eq!(dependencies(&[package("sim", &["madsim"])]).len(), 0);
        assert_eq!(dependencies(&[package("novelty", &[])]).len(), 1);
    }

    #[test]
    fn the_table_has_no_cycle_and_names_only_its_own_rows() {
        let mut done: BTreeSet<&str> = BTreeSet::new();
        while done.len() < TABLE.len() {
            let ready: Vec<&str> = TABLE
                .iter()
                .filter(|(name, needs)| !done.contains(name) && needs.iter().all(|need| done.contains(need)))
                .map(|(name, _)| *name)
                .collect();
            assert!(!ready.is_empty(), "a cycle, or an unknown name, among the rest of {done:?}");
            done.extend(ready);
        }
    }

    #[test]
    fn a_locked_crate_that_reads_the_cycle_counter_is_named() {
        assert_eq!(locked("[[package]]\nname = \"quanta\"\nversion = \"1\"").len(), 1);
        assert!(locked("name = \"quantam\"").is_empty());
    }
}
