//! The proof of power: each planted bug must be found by the normal sweep, in its normal order, within so many runs.
//!
//! A run finds a bug if a check fails in it that does not fail in the same run without the bug.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::inventory;
use crate::outcome::Outcome;
use crate::processes::{self, Driver, Run, Source};
use crate::progress::Progress;
use crate::scenarios;

#[derive(Args)]
pub struct Arguments {
    /// Runs within which each bug must be found: seeds of the scenarios in turns
    #[arg(long, default_value_t = 1000, value_name = "MAX")]
    seeds: u64,
    /// Just this bug; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The scenarios that take turns
    #[arg(long, value_name = "SCENARIO", default_values_t = [scenarios::ALL.to_owned()])]
    scenario: Vec<String>,
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    from: u64,
    /// Runs at once; default: one per processor
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Seconds of wall time that one run may take
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    limit: u64,
    /// Name the planted bugs and where they stand
    #[arg(long)]
    list: bool,
}

/// Look for each bug; success if all are found.
pub fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    if arguments.list {
        for (name, place) in inventory::PLANTED {
            println!("{name:40} {place}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    for name in &arguments.only {
        if !inventory::is_planted(name) {
            return Err(format!("no bug called `{name}` is planted; `cargo sim bugs --list` names them"));
        }
    }
    let chosen = scenarios::chosen(&arguments.scenario)?;
    let wanted: Vec<&str> = inventory::PLANTED
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name))
        .collect();
    let (jobs, limit) = (arguments.jobs.unwrap_or_else(processes::jobs_here), Duration::from_secs(arguments.limit));
    let mut without: BTreeMap<(String, u64), BTreeSet<String>> = BTreeMap::new();
    let mut progress = Progress::new("bugs");
    let mut missed = 0;
    for (number, bug) in wanted.iter().enumerate() {
        let mut hunt = Hunt::new(bug, &chosen, arguments.from, arguments.seeds, without, (number, wanted.len()), progress);
        processes::drive(&mut hunt, jobs, limit);
        let verdict = hunt.verdict();
        missed += usize::from(hunt.found.is_none());
        (without, progress) = (hunt.without, hunt.progress);
        progress.say(&verdict);
    }
    progress.end();
    println!("{} of {} planted bugs found", wanted.len() - missed, wanted.len());
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a run of the hunt is for.
pub enum Aim {
    /// With the bug: its place in the order.
    With(u64),
    /// The same without the bug, because it failed with it.
    Without(u64),
}

/// The search for one bug.
struct Hunt {
    bug: &'static str,
    scenarios: Vec<String>,
    from: u64,
    runs_max: u64,
    /// The next place in the order.
    next: u64,
    /// Places whose run failed, and which checks; they are judged when their twin without the bug has ended.
    failed: BTreeMap<u64, BTreeSet<String>>,
    /// Twins that are to be run.
    twins: Vec<u64>,
    /// What fails without any bug, of all hunts so far.
    without: BTreeMap<(String, u64), BTreeSet<String>>,
    /// The lowest place that found it, and by which check.
    found: Option<(u64, String)>,
    /// Runs in which the bug's code was reached.
    reached: u64,
    ended: u64,
    /// Number of this bug, and of all.
    of: (usize, usize),
    progress: Progress,
}

impl Hunt {
    fn new(
        bug: &'static str,
        scenarios: &[String],
        from: u64,
        runs_max: u64,
        without: BTreeMap<(String, u64), BTreeSet<String>>,
        of: (usize, usize),
        progress: Progress,
    ) -> Hunt {
        Hunt {
            bug,
            scenarios: scenarios.to_vec(),
            from,
            runs_max,
            next: 0,
            failed: BTreeMap::new(),
            twins: Vec::new(),
            without,
            found: None,
            reached: 0,
            ended: 0,
            of,
            progress,
        }
    }

    /// Scenario and seed at a place of the order: all scenarios with the first seed, then all with the second.
    fn at(&self, place: u64) -> (String, u64) {
        let count = self.scenarios.len() as u64;
        (self.scenarios[(place % count) as usize].clone(), self.from + place / count)
    }

    fn judge(&mut self, place: u64) {
        let Some(with) = self.failed.remove(&place) else { return };
        let without = self.without.get(&self.at(place)).cloned().unwrap_or_default();
        if let Some(check) = with.difference(&without).next()
            && self.found.as_ref().is_none_or(|(lowest, _)| place < *lowest)
        {
            self.found = Some((place, check.clone()));
        }
    }

    fn verdict(&self) -> String {
        let bug = self.bug;
        match &self.found {
            Some((place, check)) => {
                let (scenario, seed) = self.at(*place);
                format!("{bug} found after {} seeds (seed {seed}, scenario {scenario}: {check})", place + 1)
            }
            None => format!("{bug} missed ({} seeds; its code was reached in {} of them)", self.ended, self.reached),
        }
    }
}

impl Driver for Hunt {
    type Tag = Aim;

    fn next(&mut self) -> Option<(Aim, Run)> {
        if let Some(place) = self.twins.pop() {
            let (scenario, seed) = self.at(place);
            return Some((Aim::Without(place), Run::new(Source::Seed { scenario, seed })));
        }
        // Those before it are under way and may yet be the first.
        if self.found.is_some() || self.next >= self.runs_max || self.scenarios.is_empty() {
            return None;
        }
        let place = self.next;
        self.next += 1;
        let (scenario, seed) = self.at(place);
        Some((Aim::With(place), Run { source: Source::Seed { scenario, seed }, bugs: vec![self.bug.to_owned()] }))
    }

    fn ended(&mut self, aim: Aim, outcome: Outcome) {
        match aim {
            Aim::With(place) => {
                self.ended += 1;
                self.reached += u64::from(outcome.probes.contains_key(self.bug));
                if outcome.failed() {
                    self.failed.insert(place, outcome.checks());
                    if self.without.contains_key(&self.at(place)) {
                        self.judge(place);
                    } else {
                        self.twins.push(place);
                    }
                }
            }
            Aim::Without(place) => {
                let key = self.at(place);
                self.without.insert(key, outcome.checks());
                self.judge(place);
            }
        }
        let (number, count) = self.of;
        let part = (number as f64 + self.ended as f64 / self.runs_max.max(1) as f64) / count.max(1) as f64;
        self.progress.show(part, &format!("{}: {} seeds", self.bug, self.ended));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::violation::Violation;

    fn hunt(runs_max: u64) -> Hunt {
        let names = ["a".to_owned(), "b".to_owned()];
        Hunt::new("bug", &names, 1, runs_max, BTreeMap::new(), (0, 1), Progress::new("bugs"))
    }

    fn outcome(checks: &[&str]) -> Outcome {
        let violations = checks.iter().map(|check| Violation::new(check, "")).collect();
        Outcome { hash: Some(String::new()), violations, ..Outcome::default() }
    }

    /// Run the hunt alone, one run at a time.
    fn drive(hunt: &mut Hunt, judge: impl Fn(&Run) -> Outcome) {
        while let Some((aim, run)) = hunt.next() {
            let outcome = judge(&run);
            hunt.ended(aim, outcome);
        }
    }

    #[test]
    fn a_check_that_fails_only_with_the_bug_finds_it() {
        let mut hunt = hunt(100);
        drive(&mut hunt, |run| {
            let third = matches!(&run.source, Source::Seed { scenario, seed: 2 } if scenario == "a");
            if third && !run.bugs.is_empty() { outcome(&["lost"]) } else { outcome(&[]) }
        });
        assert_eq!(hunt.verdict(), "bug found after 3 seeds (seed 2, scenario a: lost)");
    }

    #[test]
    fn a_check_that_fails_without_the_bug_too_finds_nothing() {
        let mut hunt = hunt(4);
        drive(&mut hunt, |_| outcome(&["slow"]));
        assert_eq!(hunt.verdict(), "bug missed (4 seeds; its code was reached in 0 of them)");
    }
}
