//! A run as one HTML file that needs nothing else: lanes of nodes, drives, groups, volumes and clients over time, with the
//! faults and the check that failed.
#![allow(clippy::disallowed_methods, reason = "outside of any simulation: processes and files")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::processes::{self, Run};
use crate::reproduce;
use crate::timeline::Timeline;
use crate::which::Which;

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
/// Of so many operations every one is shown; of more, those that matter and a share of the rest.
const OPERATIONS_MAX: usize = 12_000;
/// Characters of what is said of one operation.
const DETAIL_CHARACTERS: usize = 140;
/// Violations that are shown.
const VIOLATIONS_MAX: usize = 100;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Where the page goes; default: target/simulation/reports/SCENARIO-SEED.html
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Switch a planted bug on
    #[arg(long, value_name = "NAME")]
    bug: Vec<String>,
}

/// Run it in a process of its own, watched, and write the page. Success if there is a page, whatever the run found.
pub fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let source = arguments.which.one()?;
    let folder = reproduce::root().join("target/simulation/reports");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let seen = folder.join(format!("timeline.{}.json", std::process::id()));
    let run = Run { source, bugs: arguments.bug.clone() };
    let timeline = watch(&run, &seen);
    // Perhaps it was not written.
    let _ = std::fs::remove_file(&seen);
    let timeline = timeline?;
    let to = arguments.to.clone().unwrap_or_else(|| folder.join(format!("{}-{}.html", timeline.scenario, timeline.seed)));
    let page = page(&timeline, &reproduce::line(&run.command()));
    std::fs::write(&to, &page).map_err(|error| format!("{}: {error}", to.display()))?;
    println!(
        "{} violations, {} operations, {} KiB: {}",
        timeline.violations.len(),
        timeline.operations.len(),
        page.len() / 1024,
        to.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn watch(run: &Run, seen: &std::path::Path) -> Result<Timeline, String> {
    let mut arguments = run.arguments();
    arguments.extend(["--json".to_owned(), "--timeline".to_owned(), seen.display().to_string()]);
    let child = processes::start(&arguments).map_err(|error| format!("this program does not start again: {error}"))?;
    let output = child.wait_with_output().map_err(|error| format!("waiting for the run: {error}"))?;
    let text = std::fs::read_to_string(seen)
        .map_err(|_| format!("the run came to no end, so there is nothing to show:\n{}", String::from_utf8_lossy(&output.stderr)))?;
    serde_json::from_str(&text).map_err(|error| format!("the run's timeline cannot be read: {error}"))
}

/// The page as text.
fn page(timeline: &Timeline, again: &str) -> String {
    let (data, title) = (shown(timeline, again), format!("{} seed {}", timeline.scenario, timeline.seed));
    // Nothing inside may end the script; in JSON a slash may be escaped.
    let data = data.to_string().replace("</", "<\\/");
    PAGE.replace("{{TITLE}}", &title.replace('<', "&lt;")).replace("{{SCRIPT}}", SCRIPT).replace("{{DATA}}", &data)
}

/// What the script draws. Operations are rows of numbers: client, key, action, begun, ended (-1: never), outcome, details.
fn shown(timeline: &Timeline, again: &str) -> Value {
    let mut keys = Names::default();
    let mut actions = Names::default();
    let mut outcomes = Names::default();
    for operation in &timeline.operations {
        keys.index(key(operation));
    }
    let violations: Vec<(String, Vec<usize>)> =
        timeline.violations.iter().take(VIOLATIONS_MAX).map(|text| (text.clone(), keys.named_in(text))).collect();
    let wrong: BTreeSet<usize> = violations.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    let count = timeline.operations.len();
    let every = count.div_ceil(OPERATIONS_MAX).max(1);
    let mut rows = Vec::new();
    for (number, operation) in timeline.operations.iter().enumerate() {
        let key = keys.index(key(operation));
        if rows.len() >= OPERATIONS_MAX || !(number.is_multiple_of(every) || wrong.contains(&key)) {
            continue;
        }
        let ended = operation["ended_us"].as_i64().unwrap_or(-1);
        let (action, outcome) = (actions.index(tag(&operation["action"])), outcomes.index(tag(&operation["outcome"])));
        rows.push(json!([operation["client"], key, action, operation["begun_us"], ended, outcome, detail(operation)]));
    }
    let note = if rows.len() < count {
        format!("{} of {count} operations are shown: all of the keys that failed, and a share of the others.", rows.len())
    } else {
        String::new()
    };
    json!({
        "scenario": timeline.scenario, "seed": timeline.seed, "claim": timeline.claim, "until_us": timeline.until_us, "again": again,
        "lanes": timeline.lanes, "faults": timeline.faults, "deeds": timeline.deeds, "marks": timeline.marks, "violations": violations, "wrong": wrong,
        "operations": rows, "operation_count": count, "keys": keys.list, "actions": actions.list, "outcomes": outcomes.list, "note": note,
    })
}

/// The key, or the bucket where a whole one is asked.
fn key(operation: &Value) -> &str {
    let text = |field: &str| operation[field].as_str().filter(|text| !text.is_empty());
    text("key").or_else(|| text("bucket")).unwrap_or("all buckets")
}

/// The name of a variant, as serde writes it.
fn tag(value: &Value) -> &str {
    match value {
        Value::String(name) => name,
        Value::Object(fields) => fields.keys().next().map_or("?", String::as_str),
        _ => "?",
    }
}

fn detail(operation: &Value) -> String {
    let inner = |value: &Value| match value {
        Value::Object(fields) => fields.values().next().map(Value::to_string).unwrap_or_default(),
        _ => String::new(),
    };
    let text = format!("{} -> {}", inner(&operation["action"]), inner(&operation["outcome"])).replace('"', "");
    if text.chars().count() > DETAIL_CHARACTERS { text.chars().take(DETAIL_CHARACTERS).chain("...".chars()).collect() } else { text }
}

/// Texts that occur often, by number.
#[derive(Default)]
struct Names {
    list: Vec<String>,
    numbers: BTreeMap<String, usize>,
}

impl Names {
    fn index(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.numbers.insert(name.to_owned(), self.list.len());
        self.list.push(name.to_owned());
        self.list.len() - 1
    }

    /// Those that `text` names as whole words.
    fn named_in(&self, text: &str) -> Vec<usize> {
        let is_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let whole = |name: &str| {
            text.match_indices(name).any(|(at, _)| {
                !text[..at].chars().next_back().is_some_and(is_word) && !text[at + name.len()..].chars().next().is_some_and(is_word)
            })
        };
        (0..self.list.len()).filter(|index| !self.list[*index].is_empty() && whole(&self.list[*index])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(operations: usize) -> Timeline {
        let operation = |number: usize| {
            json!({ "client": number % 8, "key": format!("key-{:04}", number % 40), "action": { "put": { "id": number, "bytes": 900 } },
                "begun_us": number * 1000, "ended_us": number * 1000 + 800, "outcome": "done" })
        };
        Timeline {
            scenario: "smoke".to_owned(),
            violations: vec!["key-0003: reads </script> at the end".to_owned()],
            operations: (0..operations).map(operation).collect(),
            ..Timeline::default()
        }
    }

    #[test]
    fn a_page_of_many_operations_stays_below_five_megabytes_and_names_no_other_file() {
        let page = page(&timeline(200_000), "cargo sim run smoke --seed 1");
        assert!(page.len() < 5_000_000, "{}", page.len());
        for outside in ["http://", "https://", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("</script>").count(), 1);
    }

    #[test]
    fn a_violation_points_to_the_operations_of_its_key() {
        let shown = shown(&timeline(80), "");
        assert_eq!(shown["violations"][0][1], json!([3]));
        assert_eq!(shown["wrong"], json!([3]));
        assert_eq!(shown["operations"].as_array().unwrap().len(), 80);
    }

    #[test]
    fn names_are_found_as_whole_words() {
        let mut names = Names::default();
        assert_eq!(["key-1", "key-12", "key-1"].map(|name| names.index(name)), [0, 1, 0]);
        assert_eq!(names.named_in("key-12: lost"), [1]);
        assert_eq!(names.named_in("(key-1) and key-12"), [0, 1]);
    }
}
