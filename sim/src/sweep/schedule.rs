//! What a sweep runs, in which order: past failures, the canary, then seeds, all scenarios with the first seed, all with
//! the second, and so on: when the time is over every scenario has had its share. Pure.

use std::collections::VecDeque;
use std::path::PathBuf;

use crate::processes::{Run, Source};

/// One in so many seeds is run a second time, in another process, and compared.
const COMPARE_EVERY: usize = 10;
/// The bug that every sweep plants and must find, and where.
pub const CANARY: (&str, &str) = ("smoke", "list-drops-key-at-page-border");
/// Seeds within which it must be found.
const CANARY_SEEDS: u64 = 3;

/// Why something is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A plan that failed once.
    PastFailure,
    /// Must fail.
    Canary,
    Seed,
    /// A seed that was run before: must end with the same event hash.
    Again,
}

/// Seeds to be run with every scenario.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seeds {
    /// First seeds of the ranges that take turns.
    pub firsts: Vec<u64>,
    /// Per scenario.
    pub count: u64,
}

impl Seeds {
    /// The `index`-th seed of every scenario.
    fn get(&self, index: u64) -> Option<u64> {
        let ranges = self.firsts.len() as u64;
        (ranges > 0 && index < self.count).then(|| self.firsts[(index % ranges) as usize].wrapping_add(index / ranges))
    }
}

/// What is yet to be run.
pub struct Schedule {
    past: VecDeque<(String, PathBuf)>,
    scenarios: Vec<String>,
    seeds: Seeds,
    /// How many seed runs were handed out.
    handed: usize,
    again: VecDeque<(String, u64)>,
    canary_seed: u64,
    canary_waiting: bool,
    bugs: Vec<String>,
}

impl Schedule {
    pub fn new(scenarios: Vec<String>, seeds: Seeds, past: Vec<(String, PathBuf)>, bugs: Vec<String>) -> Schedule {
        let canary_seed = seeds.firsts.first().copied().unwrap_or(1);
        Schedule { past: past.into(), scenarios, seeds, handed: 0, again: VecDeque::new(), canary_seed, canary_waiting: true, bugs }
    }

    /// How many runs there will be in all, as far as is known now.
    pub fn total(&self) -> u64 {
        let seeds = self.seeds.count.saturating_mul(self.scenarios.len() as u64);
        seeds.saturating_add(seeds / COMPARE_EVERY as u64).saturating_add(self.past.len() as u64).saturating_add(1)
    }

    /// The next run. When `over`, no more seeds are begun.
    pub fn next(&mut self, over: bool) -> Option<(Purpose, Run)> {
        if let Some((_, path)) = self.past.pop_front() {
            return Some((Purpose::PastFailure, self.run(Source::Plan(path))));
        }
        if std::mem::take(&mut self.canary_waiting) {
            let source = Source::Seed { scenario: CANARY.0.to_owned(), seed: self.canary_seed };
            return Some((Purpose::Canary, Run { source, bugs: vec![CANARY.1.to_owned()] }));
        }
        if let Some((scenario, seed)) = self.again.pop_front() {
            return Some((Purpose::Again, self.run(Source::Seed { scenario, seed })));
        }
        if over || self.scenarios.is_empty() {
            return None;
        }
        let (round, turn) = (self.handed / self.scenarios.len(), self.handed % self.scenarios.len());
        let seed = self.seeds.get(round as u64)?;
        let scenario = self.scenarios[turn].clone();
        self.handed += 1;
        // Another scenario's turn each round.
        if (round + turn).is_multiple_of(COMPARE_EVERY) {
            self.again.push_back((scenario.clone(), seed));
        }
        Some((Purpose::Seed, self.run(Source::Seed { scenario, seed })))
    }

    /// The canary's run passed: whether it is tried under another seed.
    pub fn canary_passed(&mut self) -> bool {
        self.canary_seed = self.canary_seed.wrapping_add(1);
        self.canary_waiting = self.canary_seed.wrapping_sub(self.seeds.firsts.first().copied().unwrap_or(1)) < CANARY_SEEDS;
        self.canary_waiting
    }

    fn run(&self, source: Source) -> Run {
        Run { source, bugs: self.bugs.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(scenarios: &[&str], firsts: &[u64], count: u64) -> Schedule {
        let scenarios = scenarios.iter().map(|name| (*name).to_owned()).collect();
        Schedule::new(scenarios, Seeds { firsts: firsts.to_vec(), count }, vec![("a".to_owned(), "a-1.json".into())], Vec::new())
    }

    fn all(mut schedule: Schedule) -> Vec<(Purpose, Source)> {
        std::iter::from_fn(|| schedule.next(false)).map(|(purpose, run)| (purpose, run.source)).collect()
    }

    #[test]
    fn past_failures_come_first_then_the_canary_then_scenarios_in_turns() {
        let runs = all(schedule(&["a", "b"], &[5], 2));
        let purposes: Vec<Purpose> = runs.iter().map(|(purpose, _)| *purpose).collect();
        assert_eq!(purposes[..4], [Purpose::PastFailure, Purpose::Canary, Purpose::Seed, Purpose::Again]);
        let seeds: Vec<(&str, u64)> = runs
            .iter()
            .filter_map(|(purpose, source)| match (purpose, source) {
                (Purpose::Seed, Source::Seed { scenario, seed }) => Some((scenario.as_str(), *seed)),
                _ => None,
            })
            .collect();
        assert_eq!(seeds, [("a", 5), ("b", 5), ("a", 6), ("b", 6)]);
    }

    #[test]
    fn ranges_of_seeds_take_turns() {
        let seeds = Seeds { firsts: vec![100, 7], count: 4 };
        assert_eq!((0..5).map(|index| seeds.get(index)).collect::<Vec<_>>(), [Some(100), Some(7), Some(101), Some(8), None]);
    }

    #[test]
    fn every_scenario_is_compared_in_time() {
        let names: Vec<String> = (0..25).map(|number| format!("s{number}")).collect();
        let runs = all(Schedule::new(names.clone(), Seeds { firsts: vec![1], count: 10 }, Vec::new(), Vec::new()));
        for name in names {
            assert!(runs.iter().any(|(purpose, source)| {
                *purpose == Purpose::Again && matches!(source, Source::Seed { scenario, .. } if *scenario == name)
            }));
        }
    }

    #[test]
    fn when_the_time_is_over_only_what_was_begun_is_compared() {
        let mut schedule = schedule(&["a", "b"], &[1], u64::MAX);
        for _ in 0..3 {
            schedule.next(false);
        }
        assert_eq!(schedule.next(true).map(|(purpose, _)| purpose), Some(Purpose::Again));
        assert!(schedule.next(true).is_none());
    }

    #[test]
    fn a_canary_that_passes_is_tried_thrice() {
        let mut schedule = schedule(&["a"], &[u64::MAX], 1);
        assert!(schedule.canary_passed() && schedule.canary_passed());
        assert!(!schedule.canary_passed());
    }
}
