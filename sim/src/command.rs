//! The command line of the simulator.

use crate::judge;
use crate::leaks::{self, Leak};
use crate::plan::Plan;
use crate::run;
use crate::sweep::{self, Sweep};
use clap::{Args, Parser, Subcommand};
use jepsen_like::scenario::Scenario;
use runtime::side;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Run Keepstone's own node code in a simulated cluster, under a seed.
#[derive(Parser)]
#[command(name = "cargo sim")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one seed of a scenario; the last line on stdout is the event hash
    Run(Run),
    /// Run many seeds of a scenario, one process each
    Sweep(SweepArguments),
    /// Let a known leak of nondeterminism into a run: its event hash must differ from process to process
    Leak {
        kind: Leak,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Name the scenarios
    List,
}

#[derive(Args)]
struct Run {
    /// Name of a file in chaos-scenarios, without .toml
    scenario: String,
    #[arg(long)]
    seed: u64,
    /// Write every event to FILE: number, simulated nanoseconds, kind, length, checksum, hash so far
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Switch a planted bug on
    #[arg(long, value_name = "NAME")]
    bug: Vec<String>,
    /// Log of all nodes to stderr: error, warn, info, debug, or `crate=level` pairs
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Print the plan and stop
    #[arg(long)]
    plan: bool,
}

#[derive(Args)]
struct SweepArguments {
    scenario: String,
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Seeds at once; default: one per processor
    #[arg(long)]
    jobs: Option<usize>,
    /// Seconds of wall time that one seed may take
    #[arg(long, default_value_t = 120)]
    limit: u64,
}

/// Parse the command line and do what it says.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(arguments) => run_one(&arguments),
        Command::Sweep(arguments) => start_sweep(&arguments),
        Command::Leak { kind, seed } => {
            side::run(side::Settings::new(seed), move || async move { leaks::spill(kind) });
            print_hash();
            Ok(ExitCode::SUCCESS)
        }
        Command::List => list(),
    };
    outcome.unwrap_or_else(|reason| {
        eprintln!("sim: {reason}");
        ExitCode::from(2)
    })
}

fn run_one(arguments: &Run) -> Result<ExitCode, String> {
    let plan = Plan::draw(&arguments.scenario, &text(&arguments.scenario)?, arguments.seed).map_err(|error| error.to_string())?;
    let scenario = plan.scenario().map_err(|error| error.to_string())?;
    println!("scenario {} seed {}: {}", arguments.scenario, arguments.seed, scenario.claim);
    for fault in &plan.faults {
        println!("  {fault}");
    }
    if arguments.plan {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(filter) = &arguments.log {
        let filter = tracing_subscriber::EnvFilter::try_new(format!("{filter},s3s=off")).map_err(|error| error.to_string())?;
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    }
    if let Some(path) = &arguments.events {
        let file = std::fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        side::record_events(Box::new(std::io::BufWriter::new(file)));
    }
    side::plant(arguments.bug.clone());
    for expectation in scenario.expect.not_judged() {
        println!("  expectation `{expectation}`: not judged yet");
    }
    judge::watch_panics();
    let seed = arguments.seed;
    let report = side::run(side::Settings::new(seed), move || run::run(plan));
    let tally: Vec<String> = report.tally.iter().map(|(name, count)| format!("{count} {name}")).collect();
    println!("{:.1} simulated seconds, {} events; {}", report.took.as_secs_f64(), side::event_count(), tally.join(", "));
    for violation in &report.violations {
        println!("VIOLATION: {violation}");
    }
    print_hash();
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start_sweep(arguments: &SweepArguments) -> Result<ExitCode, String> {
    // Refuse a scenario that cannot run before starting processes for it.
    Plan::draw(&arguments.scenario, &text(&arguments.scenario)?, arguments.from).map_err(|error| error.to_string())?;
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    Ok(sweep::run(&Sweep {
        scenario: arguments.scenario.clone(),
        first_seed: arguments.from,
        seeds: arguments.seeds,
        jobs,
        limit: Duration::from_secs(arguments.limit),
    }))
}

fn print_hash() {
    println!("event hash: {:016x}", side::event_hash());
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../chaos-scenarios")
}

fn text(name: &str) -> Result<String, String> {
    let path = folder().join(format!("{name}.toml"));
    std::fs::read_to_string(&path).map_err(|_| format!("there is no scenario `{name}`; `cargo sim list` names them"))
}

fn load(name: &str) -> Result<Scenario, String> {
    Scenario::parse(name, &text(name)?).map_err(|error| error.to_string())
}

fn list() -> Result<ExitCode, String> {
    let entries = std::fs::read_dir(folder()).map_err(|error| error.to_string())?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.path().file_name()?.to_string_lossy().strip_suffix(".toml")?.to_string())).collect();
    names.sort();
    for name in names {
        println!("{name:24} {}", load(&name)?.claim);
    }
    Ok(ExitCode::SUCCESS)
}
