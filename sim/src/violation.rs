//! [`Violation`]: a promise that a run broke, under the name of the check that found it.

use serde::{Deserialize, Serialize};

/// Violations of one check that are told one by one.
const TOLD_MAX: usize = 20;

/// A broken promise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Violation {
    /// The check that failed, in kebab-case. Two runs that break the same promise in different places share it, so that
    /// `shrink` keeps to it and `bugs` compares by it: it holds no key, number or other particular.
    pub check: String,
    /// What was found, where.
    pub text: String,
}

impl Violation {
    pub fn new(check: &str, text: impl Into<String>) -> Violation {
        debug_assert!(is_name(check), "{check}");
        Violation { check: check.to_owned(), text: text.into() }
    }

    /// A panic is known by its file: lines shift, and messages hold values.
    pub fn panic(message: &str) -> Violation {
        let place = message.split_once("panicked at ").and_then(|(_, rest)| rest.split_once(".rs:")).map(|(file, _)| file);
        let file = place.map_or_else(|| "an unknown file".to_owned(), |file| format!("{}.rs", file.rsplit(' ').next().unwrap_or(file)));
        let name: String = file.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        Violation::new(&format!("panic-in-{}", name.trim_matches('-')), message)
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.check, self.text)
    }
}

/// Whether `name` may name a check.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// No more of each check than people read; the last one says how many more there are.
pub fn abridged(violations: Vec<Violation>) -> Vec<Violation> {
    let mut told: Vec<Violation> = Vec::new();
    let mut counts: std::collections::BTreeMap<String, (usize, usize)> = std::collections::BTreeMap::new();
    for violation in violations {
        let (count, last) = counts.entry(violation.check.clone()).or_default();
        *count += 1;
        if *count <= TOLD_MAX {
            *last = told.len();
            told.push(violation);
        }
    }
    for (count, last) in counts.into_values().filter(|(count, _)| *count > TOLD_MAX) {
        told[last].text += &format!(" (and {} more of this check)", count - TOLD_MAX);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_named_by_its_file() {
        for (message, check) in [
            ("panicked at crates/drive/src/slot.rs:81:5: index 7", "panic-in-crates-drive-src-slot-rs"),
            ("panicked at /root/registry/src/raft-0.7.0/src/raft.rs:81:5: index 7", "panic-in-root-registry-src-raft-0-7-0-src-raft-rs"),
            ("no place", "panic-in-an-unknown-file"),
        ] {
            assert_eq!(Violation::panic(message).check, check);
        }
    }

    #[test]
    fn of_many_violations_each_check_is_told() {
        let mut many: Vec<Violation> = (0..70).map(|number| Violation::new("lost", format!("key-{number}"))).collect();
        many.push(Violation::new("other", "a"));
        let told = abridged(many);
        assert_eq!(told.len(), TOLD_MAX + 1);
        assert_eq!(told[TOLD_MAX - 1].to_string(), "lost: key-19 (and 50 more of this check)");
        assert_eq!(told[TOLD_MAX].to_string(), "other: a");
    }
}
