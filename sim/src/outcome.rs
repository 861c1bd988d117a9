//! How one run ended, as its process tells whoever started it: one line of JSON on stdout.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Words of a violation that name its check, at most.
const CHECK_WORDS: usize = 6;

/// What a run found, and what it took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub scenario: String,
    pub seed: u64,
    /// The event hash, if the run came to its end.
    pub hash: Option<String>,
    /// Broken promises, panics, and why it did not come to its end, if so.
    pub violations: Vec<String>,
    /// Operations by what became of them.
    pub tally: BTreeMap<String, usize>,
    pub events: u64,
    pub simulated_seconds: f64,
    pub wall_seconds: f64,
    /// Rare states that were reached, and how often.
    pub probes: BTreeMap<String, u64>,
}

impl Outcome {
    /// Whether anything was wrong.
    pub fn failed(&self) -> bool {
        !self.violations.is_empty() || self.hash.is_none()
    }

    /// The checks that failed.
    pub fn checks(&self) -> BTreeSet<String> {
        let mut checks: BTreeSet<String> = self.violations.iter().map(|violation| check(violation)).collect();
        if self.hash.is_none() && checks.is_empty() {
            checks.insert("no event hash".to_owned());
        }
        checks
    }
}

/// The kind of a violation: its text without keys, numbers and other particulars, so that two runs that break the same
/// promise in different places agree.
pub fn check(violation: &str) -> String {
    // A panic is known by its file: lines shift, and messages hold values.
    if let Some((_, rest)) = violation.split_once("panicked at ")
        && let Some((file, _)) = rest.split_once(".rs:")
    {
        return format!("panic in {}.rs", file.rsplit(' ').next().unwrap_or(file));
    }
    let mut words: Vec<&str> = Vec::new();
    for word in violation.split_whitespace() {
        let bare = word.trim_end_matches([':', ',', ';', '.']);
        let plain = !bare.is_empty() && bare.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        if plain {
            words.push(bare);
        }
        // What follows is particulars: of the first colon only if it named the check, not the key.
        let ends = bare.contains(['(', '{', '[', '"', '`']) || word.ends_with(':') || word.ends_with(';');
        if words.len() == CHECK_WORDS || (ends && !words.is_empty()) {
            break;
        }
    }
    if words.is_empty() { "a violation without words".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_promise_broken_elsewhere_is_the_same_check() {
        for (violation, expected) in [
            ("key-0003: not linearizable: operation begun at 7", "not linearizable"),
            ("key-0011: not linearizable: nothing explains 9", "not linearizable"),
            ("key-0003: reads Value(Value { id: 1 }) at the end; acceptable: []", "reads"),
            ("key-0003: not readable at the end: 503", "not readable at the end"),
            ("key-0003: wrong bytes were returned (operation begun at 12): a", "wrong bytes were returned"),
            ("replicas of group 5 differ (applied, state hash, replica): [(1, 2, 3)]", "replicas of group differ"),
            ("a task panicked: panicked at crates/drive/src/slot.rs:81:5: index 7", "panic in crates/drive/src/slot.rs"),
            ("a cluster without faults does not serve within 60 s: x", "a cluster without faults does not"),
            ("ended: killed after 120 s", "ended"),
        ] {
            assert_eq!(check(violation), expected, "{violation}");
        }
    }
}
