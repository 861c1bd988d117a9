//! Same seed, same binary, same events: in every process. And the proof that a leak would be noticed.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test of processes")]

use std::process::Command;

/// The last line of a run of the simulator.
fn hash(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    let last = printed.lines().last().unwrap_or_default().to_string();
    let digits = last.strip_prefix("event hash: ").unwrap_or_else(|| panic!("the last line is `{last}`"));
    assert!(digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{last}");
    last
}

#[test]
fn two_processes_agree_on_every_event_of_a_run() {
    assert_eq!(hash(&["run", "smoke", "--seed", "7"]), hash(&["run", "smoke", "--seed", "7"]));
}

#[test]
fn other_seeds_are_other_runs() {
    assert_ne!(hash(&["run", "smoke", "--seed", "7"]), hash(&["run", "smoke", "--seed", "8"]));
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
fn a_planted_bug_is_found() {
    let found = (1..=8).any(|seed| {
        let seed = seed.to_string();
        let run =
            Command::new(env!("CARGO_BIN_EXE_sim")).args(["run", "smoke", "--seed", &seed, "--bug", "acknowledge-before-fsync"]).output();
        !run.unwrap().status.success()
    });
    assert!(found, "acknowledging before fsync goes unnoticed");
}
