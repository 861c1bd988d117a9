//! A failing plan made small: faults and operations are taken out, halves first, then ever smaller pieces, as long as the
//! same check still fails. Bounded by time; what was reached is always saved.
#![allow(clippy::disallowed_methods, reason = "outside of any simulation: files and the real clock")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::processes::{self, Driver, Run, Source};
use crate::progress::Progress;
use crate::reproduce;
use crate::scenarios;
use crate::violation::Violation;

/// The lists of a plan from which any entry may go: every one was drawn alone and shifts no other.
const LISTS: [&str; 2] = ["faults", "steps"];

#[derive(Args)]
pub struct Arguments {
    /// A scenario, with --seed
    scenario: Option<String>,
    #[arg(long, requires = "scenario")]
    seed: Option<u64>,
    /// Or a saved plan
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    plan: Option<PathBuf>,
    /// Where the small plan goes; default: target/simulation/shrunk/SCENARIO-SEED.json
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Keep failing this check, if the plan fails several
    #[arg(long, value_name = "CHECK")]
    check: Option<String>,
    /// Switch a planted bug on
    #[arg(long, value_name = "NAME")]
    bug: Vec<String>,
    /// Begin no more runs after so many seconds of wall time
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    wall: u64,
    /// Runs at once; default: one per processor
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Seconds of wall time that one run may take
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    limit: u64,
}

/// Shrink; success if the plan failed and a plan was saved.
pub fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let plan = match (&arguments.scenario, arguments.seed, &arguments.plan) {
        (Some(scenario), Some(seed), None) => scenarios::draw(scenario, seed)?,
        (None, None, Some(path)) => Plan::load(path).map_err(|error| format!("{}: {error}", path.display()))?,
        _ => return Err("shrink takes SCENARIO --seed N, or --plan FILE".to_owned()),
    };
    let name = format!("{}-{}", plan.scenario, plan.seed);
    let whole: Value = serde_json::from_str(&plan.to_json()).map_err(|error| error.to_string())?;
    let folder = reproduce::root().join("target/simulation/shrunk");
    // Of this process alone: two may shrink at once.
    let workplace = folder.join(format!("{name}.{}", std::process::id()));
    std::fs::create_dir_all(&workplace).map_err(|error| format!("{}: {error}", workplace.display()))?;
    let (jobs, limit) = (arguments.jobs.unwrap_or_else(processes::jobs_here), Duration::from_secs(arguments.limit));

    let mut shrinking = Shrinking::new(whole, workplace.clone(), arguments.bug.clone(), Duration::from_secs(arguments.wall), jobs);
    let first = processes::run_one(&shrinking.write(&shrinking.smallest.clone(), 0)?, limit);
    let outcome = first.checks().into_iter().find(|check| arguments.check.as_ref().is_none_or(|wanted| check == wanted));
    let Some(check) = outcome else {
        remove(&workplace);
        return Err(match &arguments.check {
            Some(wanted) if first.failed() => format!("no check that fails is called `{wanted}`: {}", listed(&first.checks())),
            _ => "the plan does not fail: there is nothing to shrink".to_owned(),
        });
    };
    println!("{name} fails `{check}` with {}; shrinking for at most {} s", size(&shrinking.smallest), arguments.wall);
    shrinking.check = check;
    processes::drive(&mut shrinking, jobs, limit);
    // What the end of the time left undecided.
    shrinking.settle();
    shrinking.progress.end();
    remove(&workplace);

    let to = arguments.to.clone().unwrap_or_else(|| folder.join(format!("{name}.json")));
    let json = serde_json::to_string_pretty(&shrinking.smallest).map_err(|error| error.to_string())?;
    // Through the plan's own reader and writer, so that what is saved is what `save` would have written.
    let plan = Plan::from_json(&json).map_err(|error| format!("the shrunk plan cannot be read: {error}"))?;
    plan.save(&to).map_err(|error| format!("{}: {error}", to.display()))?;
    println!(
        "{} after {} runs, {:.0} s: {}",
        size(&shrinking.smallest),
        shrinking.runs,
        shrinking.progress.elapsed().as_secs_f64(),
        to.display()
    );
    crate::once::print_faults(&plan);
    for violation in &shrinking.violations {
        println!("VIOLATION: {violation}");
    }
    let replay = Run { source: Source::Plan(to), bugs: arguments.bug.clone() };
    println!("again: {}", reproduce::line(&replay.command()));
    if shrinking.is_over() {
        println!("the time was over: more may go (--wall)");
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(workplace: &Path) {
    // What stays behind lies in target/ and harms nobody.
    let _ = std::fs::remove_dir_all(workplace);
}

fn listed(checks: &BTreeSet<String>) -> String {
    checks.iter().map(|check| format!("`{check}`")).collect::<Vec<_>>().join(", ")
}

/// A piece of a list: entries from..until.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    list: &'static str,
    from: usize,
    until: usize,
}

/// The smallest plan without some pieces.
struct Trial {
    pieces: Vec<Piece>,
    /// Once it has run: the violations, if the check still fails.
    result: Option<Option<Vec<Violation>>>,
}

struct Shrinking {
    /// The smallest plan so far that fails the check.
    smallest: Value,
    violations: Vec<Violation>,
    check: String,
    workplace: PathBuf,
    bugs: Vec<String>,
    wall: Duration,
    jobs: usize,
    search: Search,
    /// What is tried at present, at once.
    batch: Vec<Trial>,
    /// Of the batch, how many are handed out.
    handed: usize,
    /// The batch is one trial without several pieces that may each go alone; if they may not all go, this one does.
    fallback: Option<(Vec<Piece>, Vec<Violation>)>,
    runs: u64,
    progress: Progress,
}

/// Which pieces are tried next. Pure.
#[derive(Debug)]
struct Search {
    list: usize,
    /// Length of pieces.
    length: usize,
    /// Where in the list, from its end: what comes last matters least.
    at: usize,
    /// Whether anything went since the search last began at the first list.
    progress: bool,
    done: bool,
}

impl Search {
    fn new(plan: &Value) -> Search {
        let mut search = Search { list: 0, length: 0, at: 0, progress: false, done: false };
        search.begin(plan);
        search
    }

    fn begin(&mut self, plan: &Value) {
        self.at = count(plan, LISTS[self.list]);
        self.length = self.at.max(1);
    }

    /// The next pieces, at most `most`; none: the plan is as small as it gets.
    fn next(&mut self, plan: &Value, most: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while !self.done && pieces.len() < most {
            if self.at > 0 {
                let from = self.at.saturating_sub(self.length);
                pieces.push(Piece { list: LISTS[self.list], from, until: self.at });
                self.at = from;
            } else if !pieces.is_empty() {
                // Shorter pieces wait until these are known.
                break;
            } else if self.length > 1 {
                self.length = self.length.div_ceil(2);
                self.at = count(plan, LISTS[self.list]);
            } else if self.list + 1 < LISTS.len() {
                self.list += 1;
                self.begin(plan);
            } else if std::mem::take(&mut self.progress) {
                // With fewer operations other faults may go.
                self.list = 0;
                self.begin(plan);
            } else {
                self.done = true;
            }
        }
        pieces
    }
}

fn count(plan: &Value, list: &str) -> usize {
    plan[list].as_array().map_or(0, Vec::len)
}

fn size(plan: &Value) -> String {
    format!("{} faults and {} operations", count(plan, "faults"), count(plan, "steps"))
}

/// `plan` without `pieces`, which do not overlap.
fn without(plan: &Value, pieces: &[Piece]) -> Value {
    let mut plan = plan.clone();
    let mut pieces = pieces.to_vec();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.from));
    for piece in pieces {
        if let Some(entries) = plan[piece.list].as_array_mut() {
            entries.drain(piece.from..piece.until);
        }
    }
    plan
}

impl Shrinking {
    fn new(whole: Value, workplace: PathBuf, bugs: Vec<String>, wall: Duration, jobs: usize) -> Shrinking {
        Shrinking {
            search: Search::new(&whole),
            smallest: whole,
            violations: Vec::new(),
            check: String::new(),
            workplace,
            bugs,
            wall,
            jobs,
            batch: Vec::new(),
            handed: 0,
            fallback: None,
            runs: 0,
            progress: Progress::new("shrink"),
        }
    }

    fn is_over(&self) -> bool {
        self.progress.elapsed() >= self.wall
    }

    /// A run of `plan`, written as candidate number `number`.
    fn write(&self, plan: &Value, number: usize) -> Result<Run, String> {
        let path = self.workplace.join(format!("{number}.json"));
        std::fs::write(&path, plan.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Run { source: Source::Plan(path), bugs: self.bugs.clone() })
    }

    /// The batch is known, as far as it will be: take out what may go.
    fn settle(&mut self) {
        self.handed = 0;
        let mut may_go: Vec<(Vec<Piece>, Vec<Violation>)> =
            self.batch.drain(..).filter_map(|trial| Some((trial.pieces, trial.result??))).collect();
        match (self.fallback.take(), may_go.len()) {
            (Some((pieces, violations)), 0) => self.take_out(&pieces, violations),
            (None, 2..) if !self.is_over() => {
                let all = may_go.iter().flat_map(|(pieces, _)| pieces.clone()).collect();
                self.fallback = Some(may_go.swap_remove(0));
                self.batch = vec![Trial { pieces: all, result: None }];
            }
            (_, 0) => {}
            (_, 1..) => {
                let (pieces, violations) = may_go.swap_remove(0);
                self.take_out(&pieces, violations);
            }
        }
    }

    fn take_out(&mut self, pieces: &[Piece], violations: Vec<Violation>) {
        self.smallest = without(&self.smallest, pieces);
        self.violations = violations;
        self.search.progress = true;
        self.search.at = self.search.at.min(count(&self.smallest, LISTS[self.search.list]));
    }
}

impl Driver for Shrinking {
    /// Place in the batch.
    type Tag = usize;

    fn next(&mut self) -> Option<(usize, Run)> {
        if self.is_over() {
            return None;
        }
        if self.batch.is_empty() {
            let pieces = self.search.next(&self.smallest, self.jobs);
            self.batch = pieces.into_iter().map(|piece| Trial { pieces: vec![piece], result: None }).collect();
        }
        let trial = self.batch.get(self.handed)?;
        let run = self.write(&without(&self.smallest, &trial.pieces), self.handed).ok()?;
        self.handed += 1;
        Some((self.handed - 1, run))
    }

    fn ended(&mut self, place: usize, outcome: Outcome) {
        self.runs += 1;
        let fails = outcome.checks().contains(&self.check);
        self.batch[place].result = Some(fails.then_some(outcome.violations));
        if self.batch.iter().all(|trial| trial.result.is_some()) {
            self.settle();
        }
        let part = self.progress.elapsed().as_secs_f64() / self.wall.as_secs_f64().max(1.0);
        self.progress.show(part, &format!("{} runs, {}", self.runs, size(&self.smallest)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Shrink while `fails` says so, `jobs` candidates at once.
    fn shrunk(faults: usize, steps: usize, jobs: usize, fails: impl Fn(&Value) -> bool) -> Value {
        let whole = json!({ "faults": (0..faults).collect::<Vec<_>>(), "steps": (0..steps).collect::<Vec<_>>() });
        let folder = std::env::temp_dir().join(format!("keepstone-shrink-{}-{faults}-{steps}-{jobs}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut shrinking = Shrinking::new(whole, folder.clone(), Vec::new(), Duration::from_secs(60), jobs);
        shrinking.check = "lost".to_owned();
        let mut waiting = std::collections::VecDeque::new();
        loop {
            while waiting.len() < jobs
                && let Some(next) = shrinking.next()
            {
                waiting.push_back(next);
            }
            let Some((tag, run)) = waiting.pop_front() else { break };
            let Source::Plan(path) = run.source else { panic!("plans only") };
            let plan: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            let violations = if fails(&plan) { vec![Violation::new("lost", "key-1")] } else { Vec::new() };
            shrinking.ended(tag, Outcome { hash: Some(String::new()), violations, ..Outcome::default() });
        }
        std::fs::remove_dir_all(folder).unwrap();
        assert!(shrinking.runs < 400, "{} runs", shrinking.runs);
        shrinking.smallest
    }

    fn has(plan: &Value, list: &str, wanted: &[u64]) -> bool {
        let present: Vec<u64> = plan[list].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
        wanted.iter().all(|number| present.contains(number))
    }

    #[test]
    fn only_what_the_failure_needs_stays() {
        for jobs in [1, 2, 4] {
            let plan = shrunk(9, 500, jobs, |plan| has(plan, "faults", &[3]) && has(plan, "steps", &[17, 18, 333]));
            assert_eq!(plan, json!({ "faults": [3], "steps": [17, 18, 333] }), "{jobs} at once");
        }
    }

    #[test]
    fn a_fault_that_only_other_operations_needed_goes_too() {
        let plan = shrunk(4, 40, 2, |plan| has(plan, "steps", &[5]) && (has(plan, "faults", &[1]) || !has(plan, "steps", &[30])));
        assert_eq!(plan, json!({ "faults": [], "steps": [5] }));
    }

    #[test]
    fn a_failure_that_needs_nothing_leaves_nothing() {
        assert_eq!(shrunk(5, 100, 2, |_| true), json!({ "faults": [], "steps": [] }));
    }
}
