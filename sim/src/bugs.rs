//! The proof of power: each planted bug must be found by the normal sweep, in its normal order, within so many runs.
//!
//! A run finds a bug if a check fails in it that does not fail in the same run without the bug. A run that does not come to
//! the bug's place is the same run without it, event by event: it is not run again, and counts as one that found nothing.

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
    let mut plain = BTreeMap::new();
    let mut progress = Progress::new("bugs");
    let mut missed = 0;
    for (number, bug) in wanted.iter().enumerate() {
        let order = Order { scenarios: chosen.clone(), from: arguments.from, runs_max: arguments.seeds };
        let mut hunt = Hunt::new(bug, order, plain, (number, wanted.len()), progress);
        processes::drive(&mut hunt, jobs, limit);
        let verdict = hunt.verdict();
        missed += usize::from(hunt.found.is_none());
        (plain, progress) = (hunt.plain, hunt.progress);
        progress.say(&verdict);
    }
    progress.end();
    println!("{} of {} planted bugs found", wanted.len() - missed, wanted.len());
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a run of the hunt is for; with its place in the order.
pub enum Aim {
    /// Without any bug.
    Plain(u64),
    With(u64),
}

/// Scenarios and seeds in turns: all scenarios with the first seed, then all with the second.
struct Order {
    scenarios: Vec<String>,
    from: u64,
    /// Places in it.
    runs_max: u64,
}

impl Order {
    fn at(&self, place: u64) -> (String, u64) {
        let count = self.scenarios.len() as u64;
        (self.scenarios[(place % count) as usize].clone(), self.from + place / count)
    }

    fn source(&self, place: u64) -> Source {
        let (scenario, seed) = self.at(place);
        Source::Seed { scenario, seed }
    }
}

/// A run without any bug, kept for all hunts.
enum Plain {
    UnderWay,
    Ended {
        /// Checks that fail in it.
        fails: BTreeSet<String>,
        /// Bugs to whose places it came; `None`: it came to no end, and nobody knows.
        places: Option<BTreeSet<String>>,
    },
}

/// The search for one bug.
struct Hunt {
    bug: &'static str,
    order: Order,
    /// The next place in the order.
    next: u64,
    plain: BTreeMap<(String, u64), Plain>,
    /// The lowest place that found it, and by which check.
    found: Option<(u64, String)>,
    /// Runs in which the bug's place was reached.
    reached: u64,
    ended: u64,
    /// Number of this bug, and of all.
    of: (usize, usize),
    progress: Progress,
}

/// So many places ahead plain runs are made while others are under way: as many as ever run at once.
const AHEAD: u64 = 64;

impl Hunt {
    fn new(bug: &'static str, order: Order, plain: BTreeMap<(String, u64), Plain>, of: (usize, usize), progress: Progress) -> Hunt {
        Hunt { bug, order, next: 0, plain, found: None, reached: 0, ended: 0, of, progress }
    }

    /// The first place from the next on whose plain run has not begun.
    fn without_plain(&self) -> Option<u64> {
        let until = self.order.runs_max.min(self.next + AHEAD);
        (self.next..until).find(|place| !self.plain.contains_key(&self.order.at(*place)))
    }

    fn judge(&mut self, place: u64, with: &BTreeSet<String>) {
        let Some(Plain::Ended { fails, .. }) = self.plain.get(&self.order.at(place)) else { return };
        let conclusive = |check: &&String| !processes::INCONCLUSIVE.contains(&check.as_str());
        if let Some(check) = with.difference(fails).find(conclusive)
            && self.found.as_ref().is_none_or(|(lowest, _)| place < *lowest)
        {
            self.found = Some((place, check.clone()));
        }
    }

    fn verdict(&self) -> String {
        let bug = self.bug;
        match &self.found {
            Some((place, check)) => {
                let (scenario, seed) = self.order.at(*place);
                format!("{bug} found after {} seeds (seed {seed}, scenario {scenario}: {check})", place + 1)
            }
            None => format!("{bug} missed ({} seeds; its code was reached in {} of them)", self.ended, self.reached),
        }
    }
}

impl Driver for Hunt {
    type Tag = Aim;

    fn next(&mut self) -> Option<(Aim, Run)> {
        // When it is found, those before it are under way and may yet be the first.
        while self.found.is_none() && self.next < self.order.runs_max && !self.order.scenarios.is_empty() {
            let place = self.next;
            match self.plain.get(&self.order.at(place)) {
                Some(Plain::Ended { places: Some(places), .. }) if !places.contains(self.bug) => {
                    self.next += 1;
                    self.ended += 1;
                }
                Some(Plain::Ended { .. }) => {
                    self.next += 1;
                    return Some((Aim::With(place), Run { source: self.order.source(place), bugs: vec![self.bug.to_owned()] }));
                }
                Some(Plain::UnderWay) | None => {
                    let ahead = self.without_plain()?;
                    self.plain.insert(self.order.at(ahead), Plain::UnderWay);
                    return Some((Aim::Plain(ahead), Run::new(self.order.source(ahead))));
                }
            }
        }
        None
    }

    fn ended(&mut self, aim: Aim, outcome: Outcome) {
        match aim {
            Aim::With(place) => {
                self.ended += 1;
                // One that came to no end may have been kept from it by the bug.
                self.reached += u64::from(outcome.hash.is_none() || outcome.places.contains(self.bug));
                self.judge(place, &outcome.checks());
            }
            Aim::Plain(place) => {
                let places = outcome.hash.is_some().then(|| outcome.places.clone());
                self.plain.insert(self.order.at(place), Plain::Ended { fails: outcome.checks(), places });
            }
        }
        let (number, count) = self.of;
        let part = (number as f64 + self.ended as f64 / self.order.runs_max.max(1) as f64) / count.max(1) as f64;
        self.progress.show(part, &format!("{}: {} seeds", self.bug, self.ended));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::violation::Violation;

    fn hunt(runs_max: u64) -> Hunt {
        let order = Order { scenarios: vec!["a".to_owned(), "b".to_owned()], from: 1, runs_max };
        Hunt::new("bug", order, BTreeMap::new(), (0, 1), Progress::new("bugs"))
    }

    fn outcome(checks: &[&str]) -> Outcome {
        let violations = checks.iter().map(|check| Violation::new(check, "")).collect();
        Outcome { hash: Some(String::new()), violations, places: ["bug".to_owned()].into(), ..Outcome::default() }
    }

    /// Run the hunt alone, one run at a time; says how many runs had the bug.
    fn drive(hunt: &mut Hunt, judge: impl Fn(&Run) -> Outcome) -> usize {
        let mut with = 0;
        while let Some((aim, run)) = hunt.next() {
            with += run.bugs.len();
            let outcome = judge(&run);
            hunt.ended(aim, outcome);
        }
        with
    }

    fn is_third(run: &Run) -> bool {
        matches!(&run.source, Source::Seed { scenario, seed: 2 } if scenario == "a")
    }

    #[test]
    fn a_check_that_fails_only_with_the_bug_finds_it() {
        let mut hunt = hunt(100);
        drive(&mut hunt, |run| if is_third(run) && !run.bugs.is_empty() { outcome(&["lost"]) } else { outcome(&[]) });
        assert_eq!(hunt.verdict(), "bug found after 3 seeds (seed 2, scenario a: lost)");
    }

    #[test]
    fn a_check_that_fails_without_the_bug_too_finds_nothing() {
        let mut hunt = hunt(4);
        assert_eq!(drive(&mut hunt, |_| outcome(&["slow"])), 4);
        assert_eq!(hunt.verdict(), "bug missed (4 seeds; its code was reached in 4 of them)");
    }

    #[test]
    fn a_run_that_was_not_made_or_took_too_long_finds_nothing() {
        for check in processes::INCONCLUSIVE {
            let mut hunt = hunt(4);
            drive(&mut hunt, |run| if run.bugs.is_empty() { outcome(&[]) } else { outcome(&[check]) });
            assert_eq!(hunt.found, None, "{check}");
        }
    }

    #[test]
    fn a_run_that_does_not_reach_the_bug_is_not_run_with_it() {
        let mut hunt = hunt(4);
        let with = drive(&mut hunt, |run| if is_third(run) { outcome(&[]) } else { Outcome { places: BTreeSet::new(), ..outcome(&[]) } });
        assert_eq!((with, hunt.verdict()), (1, "bug missed (4 seeds; its code was reached in 1 of them)".to_owned()));
        // What is known of it serves the next hunt.
        let order = Order { scenarios: vec!["a".to_owned(), "b".to_owned()], from: 1, runs_max: 4 };
        let mut next = Hunt::new("other", order, hunt.plain, (1, 2), Progress::new("bugs"));
        assert_eq!(drive(&mut next, |_| panic!("all are known")), 0);
    }
}
