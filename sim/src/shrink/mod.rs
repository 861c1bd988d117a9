//! A failing plan made small: parts are taken out, the largest first, as long as the same check still fails. Bounded by
//! time; what was reached is always saved.
//!
//! A failure is often a matter of chance: without a part all that follows happens at another time, and the same mistake
//! does no harm. So when nothing more can go and the plan is not yet small, each piece is tried under several seeds of
//! the run; the plan keeps the one that failed.
#![allow(clippy::disallowed_methods, reason = "outside of any simulation: files and the real clock")]

mod parts;
mod search;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::processes::{self, Driver, Run, Source};
use crate::progress::Progress;
use crate::reproduce;
use crate::violation::Violation;
use crate::which::{self, Which};
use parts::{Kind, without};
use search::Search;

/// A plan that people can read: with so many faults and operations nothing else is tried.
const FAULTS_AIM: usize = 3;
const OPERATIONS_AIM: usize = 20;
/// How many seeds each piece is tried under, one after another.
const SEEDS: [u64; 3] = [1, 4, 12];

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
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
    let plan = which::plan(&arguments.which.one()?)?;
    let name = format!("{}-{}", plan.scenario, plan.seed);
    let folder = reproduce::root().join("target/simulation/shrunk");
    // Of this process alone: two may shrink at once.
    let workplace = folder.join(format!("{name}.{}", std::process::id()));
    std::fs::create_dir_all(&workplace).map_err(|error| format!("{}: {error}", workplace.display()))?;
    let (jobs, limit) = (arguments.jobs.unwrap_or_else(processes::jobs_here), Duration::from_secs(arguments.limit));

    let mut shrinking = Shrinking::new(plan, workplace.clone(), arguments.bug.clone(), Duration::from_secs(arguments.wall), jobs);
    let first = processes::run_one(&shrinking.write(&shrinking.smallest, 0)?, limit);
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
    let plan = &shrinking.smallest;
    plan.save(&to).map_err(|error| format!("{}: {error}", to.display()))?;
    println!("{} after {} runs, {:.0} s: {}", size(plan), shrinking.runs, shrinking.progress.elapsed().as_secs_f64(), to.display());
    crate::once::print_faults(plan);
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

fn size(plan: &Plan) -> String {
    format!("{} faults and {} operations", plan.faults.len(), plan.steps.len())
}

fn is_small(plan: &Plan) -> bool {
    plan.faults.len() <= FAULTS_AIM && plan.steps.len() <= OPERATIONS_AIM
}

/// The smallest plan without some pieces, under a seed.
struct Trial {
    pieces: Vec<Range<usize>>,
    seed: u64,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Waiting,
    UnderWay,
    /// The check does not fail any more.
    Passed,
    /// It still does, with these violations.
    Failed(Vec<Violation>),
}

/// A trial in which the check still failed.
struct Success {
    pieces: Vec<Range<usize>>,
    seed: u64,
    violations: Vec<Violation>,
}

struct Shrinking {
    /// The smallest plan so far that fails the check.
    smallest: Plan,
    violations: Vec<Violation>,
    check: String,
    workplace: PathBuf,
    bugs: Vec<String>,
    wall: Duration,
    jobs: usize,
    search: Search,
    /// Index into [`SEEDS`].
    effort: usize,
    /// What is tried at present, pieces of one kind.
    batch: Vec<Trial>,
    /// Of the batch, how many are handed out.
    handed: usize,
    /// The batch is one trial without several pieces that may each go alone; if they may not all go, this one does.
    fallback: Option<Success>,
    runs: u64,
    progress: Progress,
}

impl Shrinking {
    fn new(whole: Plan, workplace: PathBuf, bugs: Vec<String>, wall: Duration, jobs: usize) -> Shrinking {
        Shrinking {
            search: Search::new(&whole),
            smallest: whole,
            violations: Vec::new(),
            check: String::new(),
            workplace,
            bugs,
            wall,
            jobs: jobs.max(1),
            effort: 0,
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
    fn write(&self, plan: &Plan, number: usize) -> Result<Run, String> {
        let path = self.workplace.join(format!("{number}.json"));
        plan.save(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Run { source: Source::Plan(path), bugs: self.bugs.clone() })
    }

    fn kind(&self) -> Kind {
        self.search.kind()
    }

    fn fill(&mut self) {
        loop {
            let seeds = SEEDS[self.effort];
            let pieces = self.search.next(&self.smallest, self.jobs.div_ceil(seeds as usize));
            if !pieces.is_empty() {
                let each = pieces.into_iter().flat_map(|piece| (0..seeds).map(move |more| (piece.clone(), more)));
                let seed = self.smallest.seed;
                self.batch =
                    each.map(|(piece, more)| Trial { pieces: vec![piece], seed: seed.wrapping_add(more), state: State::Waiting }).collect();
                return;
            }
            if is_small(&self.smallest) || self.effort + 1 == SEEDS.len() {
                return;
            }
            self.effort += 1;
            self.search = Search::new(&self.smallest);
        }
    }

    /// Whether a trial need not be run: its pieces may go, as another seed has shown.
    fn is_spared(&self, place: usize) -> bool {
        let pieces = &self.batch[place].pieces;
        self.batch.iter().any(|other| other.pieces == *pieces && matches!(other.state, State::Failed(_)))
    }

    /// The batch is known, as far as it will be: take out what may go.
    fn settle(&mut self) {
        self.handed = 0;
        let mut may_go: Vec<Success> = Vec::new();
        for Trial { pieces, seed, state } in self.batch.drain(..) {
            if let State::Failed(violations) = state
                && may_go.iter().all(|success| success.pieces != pieces)
            {
                may_go.push(Success { pieces, seed, violations });
            }
        }
        match (self.fallback.take(), may_go.len()) {
            (Some(success), 0) => self.take_out(success),
            (None, 2..) if !self.is_over() => {
                let pieces = may_go.iter().flat_map(|success| success.pieces.clone()).collect();
                let first = may_go.swap_remove(0);
                self.batch = vec![Trial { pieces, seed: first.seed, state: State::Waiting }];
                self.fallback = Some(first);
            }
            (_, 0) => {}
            (_, 1..) => self.take_out(may_go.swap_remove(0)),
        }
    }

    fn take_out(&mut self, Success { pieces, seed, violations }: Success) {
        self.smallest = Plan { seed, ..without(&self.smallest, self.kind(), &pieces) };
        self.violations = violations;
        self.search.went(&self.smallest);
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
            self.fill();
        }
        while self.handed < self.batch.len() && self.is_spared(self.handed) {
            self.handed += 1;
        }
        let Trial { pieces, seed, .. } = self.batch.get(self.handed)?;
        let plan = Plan { seed: *seed, ..without(&self.smallest, self.kind(), pieces) };
        let run = self.write(&plan, self.handed).ok()?;
        self.batch[self.handed].state = State::UnderWay;
        self.handed += 1;
        Some((self.handed - 1, run))
    }

    fn ended(&mut self, place: usize, outcome: Outcome) {
        self.runs += 1;
        let fails = outcome.checks().contains(&self.check);
        self.batch[place].state = if fails { State::Failed(outcome.violations) } else { State::Passed };
        let open = |place: usize| match self.batch[place].state {
            State::Waiting => !self.is_spared(place),
            State::UnderWay => true,
            State::Passed | State::Failed(_) => false,
        };
        if !(0..self.batch.len()).any(open) {
            self.settle();
        }
        let part = self.progress.elapsed().as_secs_f64() / self.wall.as_secs_f64().max(1.0);
        self.progress.show(part, &format!("{} runs, {}", self.runs, size(&self.smallest)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jepsen_like::workload::Step;

    /// A plan with so many faults and operations, each told from the others by its number.
    fn whole(faults: usize, steps: usize) -> Plan {
        let mut plan = crate::scenarios::draw("smoke", 2).unwrap();
        assert!(!plan.faults.is_empty());
        plan.faults = plan.faults.iter().cycle().take(faults).cloned().collect();
        plan.faults.iter_mut().zip(0..).for_each(|(fault, number)| fault.number = number);
        plan.steps = plan.steps.iter().cycle().take(steps).cloned().collect();
        plan.steps.iter_mut().zip(0..).for_each(|(step, number)| step.number = number);
        plan
    }

    /// Shrink while `fails` says so, `jobs` candidates at once: faults and operations that are left.
    fn shrunk(faults: usize, steps: usize, jobs: usize, fails: impl Fn(&Plan) -> bool) -> (Vec<u64>, Vec<u32>) {
        let folder = std::env::temp_dir().join(format!("keepstone-shrink-{}-{faults}-{steps}-{jobs}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut shrinking = Shrinking::new(whole(faults, steps), folder.clone(), Vec::new(), Duration::from_secs(60), jobs);
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
            let violations = if fails(&Plan::load(&path).unwrap()) { vec![Violation::new("lost", "key-1")] } else { Vec::new() };
            shrinking.ended(tag, Outcome { hash: Some(String::new()), violations, ..Outcome::default() });
        }
        std::fs::remove_dir_all(folder).unwrap();
        assert!(shrinking.runs < 700, "{} runs", shrinking.runs);
        let plan = shrinking.smallest;
        (plan.faults.iter().map(|fault| fault.number).collect(), plan.steps.iter().map(|step: &Step| step.number).collect())
    }

    fn has(plan: &Plan, faults: &[u64], steps: &[u32]) -> bool {
        let has_fault = |number: &u64| plan.faults.iter().any(|fault| fault.number == *number);
        let has_step = |number: &u32| plan.steps.iter().any(|step| step.number == *number);
        faults.iter().all(has_fault) && steps.iter().all(has_step)
    }

    #[test]
    fn only_what_the_failure_needs_stays() {
        for jobs in [1, 2, 4] {
            let left = shrunk(9, 500, jobs, |plan| has(plan, &[3], &[17, 18, 333]));
            assert_eq!(left, (vec![3], vec![17, 18, 333]), "{jobs} at once");
        }
    }

    #[test]
    fn a_fault_that_only_other_operations_needed_goes_too() {
        let left = shrunk(4, 40, 2, |plan| has(plan, &[], &[5]) && (has(plan, &[1], &[]) || !has(plan, &[], &[30])));
        assert_eq!(left, (vec![], vec![5]));
    }

    #[test]
    fn a_failure_that_needs_nothing_leaves_nothing() {
        assert_eq!(shrunk(5, 100, 2, |_| true), (vec![], vec![]));
    }

    #[test]
    fn what_fails_under_some_seeds_only_is_shrunk_under_another() {
        // Of each size only one seed in three fails.
        let lucky = |plan: &Plan| (plan.seed + plan.faults.len() as u64).is_multiple_of(3);
        let left = shrunk(7, 60, 2, |plan| has(plan, &[2], &[9]) && (lucky(plan) || plan.faults.len() == 7));
        assert!(left.0.len() <= FAULTS_AIM && left.1.len() <= OPERATIONS_AIM, "{left:?}");
    }
}
