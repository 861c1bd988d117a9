//! The command line of the simulator.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use runtime::side;

use crate::leaks::{self, Leak};
use crate::once::{self, Options};
use crate::processes::Source;
use crate::which::{self, Which};
use crate::{bugs, diff, inventory, report, scenarios, shrink, sweep};

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
    /// Run what failed again: a seed, or a saved plan
    Replay(Replay),
    /// Run scenarios under many seeds, one process each
    Sweep(sweep::Arguments),
    /// Take faults and operations out of a failing plan while the same check still fails
    Shrink(shrink::Arguments),
    /// Show the first event in which two runs differ
    Diff(diff::Arguments),
    /// Draw a run as one HTML file
    Report(report::Arguments),
    /// Prove that each planted bug is found
    Bugs(bugs::Arguments),
    /// Let a known leak of nondeterminism into a run: its event hash must differ from process to process
    Leak {
        kind: Leak,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Name the scenarios
    List,
    /// Name the probes, and where they stand
    Probes,
}

#[derive(Args)]
struct Run {
    /// Name of a file in chaos-scenarios, without .toml
    scenario: String,
    #[arg(long)]
    seed: u64,
    /// Print the faults of the plan and stop
    #[arg(long)]
    plan: bool,
    /// Write the plan to FILE, as JSON, and stop
    #[arg(long, value_name = "FILE")]
    save_plan: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Replay {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    options: Options,
}

/// Parse the command line and do what it says.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Replay(arguments) => replay(&arguments),
        Command::Sweep(arguments) => sweep::run(&arguments),
        Command::Shrink(arguments) => shrink::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Bugs(arguments) => bugs::run(&arguments),
        Command::Leak { kind, seed } => {
            side::run(side::Settings::new(seed), move || async move { leaks::spill(kind) });
            println!("event hash: {:016x}", side::event_hash());
            Ok(ExitCode::SUCCESS)
        }
        Command::List => list(),
        Command::Probes => {
            for (name, place) in inventory::PROBES {
                println!("{name:56} {place}");
            }
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|reason| {
        eprintln!("sim: {reason}");
        ExitCode::from(2)
    })
}

fn run(arguments: &Run) -> Result<ExitCode, String> {
    let plan = scenarios::draw(&arguments.scenario, arguments.seed)?;
    if let Some(path) = &arguments.save_plan {
        plan.save(path).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.plan {
        once::print_faults(&plan);
        return Ok(ExitCode::SUCCESS);
    }
    let source = Source::Seed { scenario: arguments.scenario.clone(), seed: arguments.seed };
    once::run(plan, &source, &arguments.options)
}

fn replay(arguments: &Replay) -> Result<ExitCode, String> {
    let source = arguments.which.one()?;
    once::run(which::plan(&source)?, &source, &arguments.options)
}

fn list() -> Result<ExitCode, String> {
    for name in scenarios::names()? {
        println!("{name:28} {}", scenarios::load(&name)?.claim);
    }
    Ok(ExitCode::SUCCESS)
}
