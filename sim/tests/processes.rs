//! The simulator's commands, as processes: same seed, same binary, same events, in every process and however it is watched;
//! and whatever fails is reported, saved, shrunk and shown.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test of processes")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// Found by any seed of smoke: more keys are left than a page holds.
const BUG: &str = "list-drops-key-at-page-border";

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command that succeeds prints.
fn succeeds(arguments: &[&str]) -> String {
    let output = sim(arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", printed(&output), String::from_utf8_lossy(&output.stderr));
    printed(&output)
}

/// What a command prints that finds something wrong.
fn finds(arguments: &[&str]) -> String {
    let output = sim(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}{}", printed(&output), String::from_utf8_lossy(&output.stderr));
    printed(&output)
}

/// The last line of a run.
fn hash(arguments: &[&str]) -> String {
    let last = succeeds(arguments).lines().last().unwrap_or_default().to_string();
    let digits = last.strip_prefix("event hash: ").unwrap_or_else(|| panic!("the last line is `{last}`"));
    assert!(digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{last}");
    last
}

/// A file of this test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("processes");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

#[test]
fn processes_agree_on_every_event_however_the_run_is_watched() {
    let plain = hash(&["run", "smoke", "--seed", "7"]);
    let timeline = scratch("timeline.json");
    assert_eq!(hash(&["run", "smoke", "--seed", "7", "--timeline", timeline.to_str().unwrap()]), plain);
    assert!(std::fs::metadata(timeline).unwrap().len() > 1000);
    assert!(succeeds(&["diff", "smoke", "--seed", "7"]).starts_with("the same, all "));
}

#[test]
fn other_seeds_are_other_runs() {
    assert_ne!(hash(&["run", "smoke", "--seed", "8"]), hash(&["run", "smoke", "--seed", "9"]));
}

#[test]
fn a_leak_of_clock_entropy_or_hash_order_would_be_noticed() {
    let leak = |kind: &str| hash(&["leak", kind]);
    assert_eq!(leak("none"), leak("none"));
    for kind in ["clock", "entropy", "hash-order"] {
        assert_ne!(leak(kind), leak(kind), "{kind}");
    }
}

#[test]
fn a_failing_sweep_saves_the_plan_and_says_how_to_repeat_it() {
    let summary = scratch("summary.json");
    let text = finds(&["sweep", "smoke", "--seeds", "1", "--from", "3", "--bug", BUG, "--json", summary.to_str().unwrap()]);
    assert!(text.contains(&format!("again: cargo sim run smoke --seed 3 --bug {BUG}  # commit ")), "{text}");
    assert!(text.contains("probes were never reached"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("sweep FAILED: "), "{text}");

    let summary: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(summary).unwrap()).unwrap();
    assert_eq!((&summary["canary_found"], &summary["differ"]), (&true.into(), &0.into()));
    let saved = text.lines().find_map(|line| line.trim().strip_prefix("plan:")).unwrap().trim();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let saved = root.parent().unwrap().join(saved);
    let replayed = finds(&["replay", "--plan", saved.to_str().unwrap(), "--bug", BUG, "--json"]);
    let replayed: serde_json::Value = serde_json::from_str(&replayed).unwrap();
    let swept = summary["runs"].as_array().unwrap().iter().find(|run| run["purpose"] == "seed").unwrap();
    assert_eq!(replayed["hash"], swept["hash"], "the plan is the run");
}

#[test]
fn a_sweep_that_finds_nothing_succeeds_and_its_canary_is_found() {
    let text = succeeds(&["sweep", "smoke", "--seeds", "1", "--from", "8"]);
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("sweep passed: ") && last.ends_with("0 of 1 compared differ, canary found"), "{last}");
}

#[test]
fn a_failing_run_is_shrunk_to_what_it_needs_and_shown() {
    let (small, page) = (scratch("small.json"), scratch("page.html"));
    let (small, page) = (small.to_str().unwrap(), page.to_str().unwrap());
    let text = succeeds(&["shrink", "smoke", "--seed", "3", "--bug", BUG, "--wall", "20", "--to", small]);
    assert!(text.contains("again: cargo sim replay --plan "), "{text}");
    finds(&["replay", "--plan", small, "--bug", BUG]);
    succeeds(&["report", "--plan", small, "--bug", BUG, "--to", page]);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.len() < 5_000_000 && page.contains("VIOLATION") && page.contains("not listed"), "{} bytes", page.len());
}

#[test]
fn the_first_event_that_a_bug_changes_is_shown() {
    let text = finds(&["diff", "smoke", "--seed", "7", "--bug", "acknowledge-before-fsync"]);
    assert!(text.lines().any(|line| line.starts_with("< ") && line.contains("disk-sync")), "{text}");
}

#[test]
fn what_is_not_known_is_refused() {
    for arguments in [
        &["run", "no-such-scenario", "--seed", "1"][..],
        &["run", "smoke", "--seed", "1", "--bug", "no-such-bug"],
        &["replay", "--plan", "no-such-file"],
        &["shrink", "smoke"],
        &["sweep", "smoke", "no-such-scenario"],
    ] {
        assert_eq!(sim(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
