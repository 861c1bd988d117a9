//! Scenarios times seeds, each run in a process of its own. A sweep fails if any run fails, if two runs of a seed differ,
//! or if the canary, which has a bug, passes.

mod schedule;
mod summary;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::outcome::Outcome;
use crate::processes::{self, Driver, Run, Source};
use crate::progress::Progress;
use crate::reproduce::{self, Origin};
use crate::scenarios;
pub use schedule::Purpose;
use schedule::{Schedule, Seeds};
use summary::{Finding, Summary};

/// Failed runs that are shown in full; all are saved and named.
const SHOWN_MAX: usize = 5;
/// Violations of a run that are shown.
const VIOLATIONS_SHOWN: usize = 6;
/// Seeds per scenario where neither a number nor a time is given.
const SEEDS: u64 = 50;

#[derive(Args)]
pub struct Arguments {
    /// Scenarios by name; `all` for every one
    #[arg(required = true)]
    scenarios: Vec<String>,
    /// Seeds for each scenario; default: 50, or as many as fit into --wall
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed; default: 1, unless --commit or --fresh say otherwise
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// Seeds that follow from the commit; takes turns with --from and --fresh
    #[arg(long)]
    commit: bool,
    /// Seeds that nobody has run, printed; takes turns with --from and --commit
    #[arg(long)]
    fresh: bool,
    /// Begin no more runs after so many seconds of wall time; scenarios have equal shares
    #[arg(long, value_name = "SECONDS")]
    wall: Option<u64>,
    /// Runs at once; default: one per processor
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Seconds of wall time that one run may take
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    limit: u64,
    /// Write a summary to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Switch a planted bug on in all runs
    #[arg(long, value_name = "NAME")]
    bug: Vec<String>,
}

/// Run the sweep.
pub fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let chosen = scenarios::chosen(&arguments.scenarios)?;
    let seeds = seeds(arguments)?;
    // Refuse what cannot be planned before starting processes for it.
    for name in &chosen {
        scenarios::draw(name, seeds.firsts[0])?;
    }
    let past = scenarios::past_failures()?.into_iter().filter(|(scenario, _)| chosen.contains(scenario)).collect();
    let schedule = Schedule::new(chosen, seeds, past, arguments.bug.clone());
    let wall = arguments.wall.map(Duration::from_secs);
    let mut sweep = Sweep { total: schedule.total(), schedule, wall, progress: Progress::new("sweep"), ..Sweep::empty() };
    processes::drive(&mut sweep, arguments.jobs.unwrap_or_else(processes::jobs_here), Duration::from_secs(arguments.limit));
    sweep.progress.end();
    let summary = Summary::of(sweep.findings, sweep.canary_found, sweep.progress.elapsed());
    summary.print();
    if let Some(path) = &arguments.json {
        summary.save(path)?;
    }
    Ok(if summary.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn seeds(arguments: &Arguments) -> Result<Seeds, String> {
    let mut firsts = Vec::new();
    firsts.extend(arguments.from);
    if arguments.commit {
        let origin = Origin::here();
        let seed = origin.seed().ok_or("--commit needs a checkout: git names no commit here")?;
        println!("seeds of commit {}: --from {seed}", origin.commit);
        firsts.push(seed);
    }
    if arguments.fresh {
        let seed = fresh_seed()?;
        println!("fresh seeds: --from {seed}");
        firsts.push(seed);
    }
    if firsts.is_empty() {
        firsts.push(1);
    }
    let count = arguments.seeds.unwrap_or(if arguments.wall.is_some() { u64::MAX } else { SEEDS });
    Ok(Seeds { firsts, count })
}

/// A seed from the system's entropy: short enough to be typed.
fn fresh_seed() -> Result<u64, String> {
    let mut bytes = [0; 8];
    let mut file = std::fs::File::open("/dev/urandom").map_err(|error| format!("/dev/urandom: {error}"))?;
    std::io::Read::read_exact(&mut file, &mut bytes[..5]).map_err(|error| format!("/dev/urandom: {error}"))?;
    Ok(u64::from_le_bytes(bytes))
}

struct Sweep {
    schedule: Schedule,
    total: u64,
    wall: Option<Duration>,
    findings: Vec<Finding>,
    /// Event hashes of seeds, to be compared.
    hashes: BTreeMap<(String, u64), Option<String>>,
    /// Second runs that ended before the first one.
    early: BTreeMap<(String, u64), Outcome>,
    canary_found: bool,
    failed: usize,
    progress: Progress,
}

impl Sweep {
    fn empty() -> Sweep {
        Sweep {
            schedule: Schedule::new(Vec::new(), Seeds { firsts: Vec::new(), count: 0 }, Vec::new(), Vec::new()),
            total: 0,
            wall: None,
            findings: Vec::new(),
            hashes: BTreeMap::new(),
            early: BTreeMap::new(),
            canary_found: false,
            failed: 0,
            progress: Progress::new("sweep"),
        }
    }

    /// Save the plan of a failed run and say what it found.
    fn failed(&mut self, run: &Run, outcome: &Outcome) {
        self.failed += 1;
        let name = format!("{} seed {}", outcome.scenario, outcome.seed);
        let saved = match &run.source {
            Source::Plan(path) => Some(path.clone()),
            Source::Seed { scenario, seed } => save_plan(scenario, *seed).map_err(|reason| self.progress.say(&reason)).ok(),
        };
        let checks: Vec<String> = outcome.checks().into_iter().collect();
        self.progress.say(&format!("FAILED {name}: {}", checks.join("; ")));
        if self.failed <= SHOWN_MAX {
            for violation in outcome.violations.iter().take(VIOLATIONS_SHOWN) {
                self.progress.say(&format!("    {violation}"));
            }
            if outcome.violations.len() > VIOLATIONS_SHOWN {
                self.progress.say(&format!("    and {} more", outcome.violations.len() - VIOLATIONS_SHOWN));
            }
            if let Some(saved) = saved {
                self.progress.say(&format!("    plan:  {}", saved.display()));
            }
            self.progress.say(&format!("    again: {}", reproduce::line(&run.command())));
        }
    }

    /// The second run of a seed: compare it with the first.
    fn compare(&mut self, key: &(String, u64), outcome: &Outcome) -> bool {
        let first = self.hashes.get(key).cloned().flatten();
        // Runs that came to no end have said so themselves.
        let differs = first.is_some() && outcome.hash.is_some() && first != outcome.hash;
        if differs {
            let (scenario, seed) = key;
            self.progress.say(&format!("NOT DETERMINISTIC {scenario} seed {seed}: two processes end with different event hashes"));
            self.progress.say(&format!("    see:   {}", reproduce::line(&format!("cargo sim diff {scenario} --seed {seed}"))));
        }
        differs
    }
}

impl Driver for Sweep {
    type Tag = (Purpose, Run);

    fn next(&mut self) -> Option<(Self::Tag, Run)> {
        let over = self.wall.is_some_and(|wall| self.progress.elapsed() >= wall);
        let (purpose, run) = self.schedule.next(over)?;
        Some(((purpose, run.clone()), run))
    }

    fn ended(&mut self, (purpose, run): Self::Tag, outcome: Outcome) {
        let key = (outcome.scenario.clone(), outcome.seed);
        let mut differs = false;
        match purpose {
            Purpose::PastFailure | Purpose::Seed => {
                if outcome.failed() {
                    self.failed(&run, &outcome);
                }
                if purpose == Purpose::Seed {
                    self.hashes.insert(key.clone(), outcome.hash.clone());
                    if let Some(second) = self.early.remove(&key) {
                        differs = self.compare(&key, &second);
                    }
                }
            }
            Purpose::Canary => {
                self.canary_found |= outcome.failed() && outcome.hash.is_some();
                if !self.canary_found && !self.schedule.canary_passed() {
                    let (scenario, bug) = schedule::CANARY;
                    self.progress
                        .say(&format!("THE CANARY PASSED: the bug `{bug}` goes unnoticed in `{scenario}`: this sweep proves nothing"));
                }
            }
            Purpose::Again => {
                if self.hashes.contains_key(&key) {
                    differs = self.compare(&key, &outcome);
                } else {
                    self.early.insert(key, outcome.clone());
                }
            }
        }
        self.findings.push(Finding { purpose, differs, outcome });
        let done = self.findings.len() as f64 / self.total as f64;
        let done = self.wall.map_or(done, |wall| done.max(self.progress.elapsed().as_secs_f64() / wall.as_secs_f64()));
        self.progress.show(done, &format!("{} runs, {} failed", self.findings.len(), self.failed));
    }
}

/// Save the plan of a seed that failed, for `replay`, `shrink` and, once the bug is fixed, `chaos-scenarios/regression`.
fn save_plan(scenario: &str, seed: u64) -> Result<PathBuf, String> {
    let folder = reproduce::root().join("target/simulation/failures");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let path = folder.join(format!("{scenario}-{seed}.json"));
    scenarios::draw(scenario, seed)?.save(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(PathBuf::from("target/simulation/failures").join(format!("{scenario}-{seed}.json")))
}
