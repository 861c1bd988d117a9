//! One run in this process: what `run` and `replay` do, and what the processes of a sweep are.
#![allow(clippy::disallowed_methods, reason = "around the simulation, not in it: the real clock")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use runtime::side;

use crate::inventory;
use crate::judge;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::processes::Source;
use crate::reproduce;
use crate::run;
use crate::timeline::Watch;

/// What is to be seen of a run.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Write every event to FILE, or to stdout if it is `-`: number, simulated nanoseconds, machine, kind, length,
    /// checksum, hash so far, and what can be read of it
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Switch a planted bug on (`cargo sim bugs --list` names them)
    #[arg(long, value_name = "NAME")]
    pub bug: Vec<String>,
    /// Log of all nodes to stderr: error, warn, info, debug, or `crate=level` pairs
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Print the outcome as one line of JSON, and nothing else
    #[arg(long)]
    pub json: bool,
    /// Write what nodes, groups, faults and clients did over time to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub timeline: Option<PathBuf>,
}

/// Follow `plan`; `source` is where it came from.
pub fn run(plan: Plan, source: &Source, options: &Options) -> Result<ExitCode, String> {
    let scenario = plan.scenario().map_err(|error| error.to_string())?;
    let to_stdout = options.events.as_ref().is_some_and(|path| path.as_os_str() == "-");
    let quiet = options.json || to_stdout;
    if !quiet {
        println!("scenario {} seed {}: {}", plan.scenario, plan.seed, scenario.claim);
        print_faults(&plan);
        for expectation in scenario.expect.not_judged() {
            println!("  expectation `{expectation}`: not judged yet");
        }
    }
    for bug in &options.bug {
        if !inventory::is_planted(bug) {
            return Err(format!("no bug called `{bug}` is planted; `cargo sim bugs --list` names them"));
        }
    }
    if let Some(filter) = &options.log {
        let filter = tracing_subscriber::EnvFilter::try_new(format!("{filter},s3s=off")).map_err(|error| error.to_string())?;
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    }
    if to_stdout {
        side::record_events(Box::new(std::io::BufWriter::with_capacity(1 << 16, std::io::stdout())));
    } else if let Some(path) = &options.events {
        let file = std::fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        side::record_events(Box::new(std::io::BufWriter::with_capacity(1 << 16, file)));
    }
    side::plant(options.bug.clone());
    judge::watch_panics();

    let watch = if options.timeline.is_some() { Watch::on() } else { Watch::off() };
    let (name, seed) = (plan.scenario.clone(), plan.seed);
    let started = Instant::now();
    let (watched, settings) = (watch.clone(), side::Settings::new(seed));
    let report = side::run(settings, move || run::run(plan, watched));
    let wall_seconds = started.elapsed().as_secs_f64();
    side::end_record();

    let idle: Vec<String> = report.deeds.idle().map(|deed| format!("at {:.3} s: {}", deed.at.as_secs_f64(), deed.what)).collect();
    let outcome = Outcome {
        scenario: name,
        seed,
        hash: Some(format!("{:016x}", side::event_hash())),
        violations: report.violations,
        tally: report.tally,
        events: side::event_count(),
        simulated_seconds: report.took.as_secs_f64(),
        wall_seconds,
        peak_bytes: peak_bytes(),
        places: side::places_of_bugs().into_iter().map(str::to_owned).collect(),
        probes: side::probes().into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
    };
    if let (Some(path), Some(mut timeline)) = (&options.timeline, watch.take()) {
        timeline.violations = outcome.violations.iter().map(ToString::to_string).collect();
        let json = serde_json::to_string(&timeline).map_err(|error| error.to_string())?;
        std::fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if options.json {
        println!("{}", serde_json::to_string(&outcome).map_err(|error| error.to_string())?);
    } else if !quiet {
        print(&outcome, &idle, &again(source, options));
    }
    Ok(if outcome.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The faults of a plan, one a line.
pub fn print_faults(plan: &Plan) {
    for fault in &plan.faults {
        println!("  {fault}");
    }
}

fn again(source: &Source, options: &Options) -> String {
    crate::processes::Run { source: source.clone(), bugs: options.bug.clone() }.command()
}

/// Most memory that this process ever had resident; 0 where the system does not tell.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn print(outcome: &Outcome, idle: &[String], command: &str) {
    let tally: Vec<String> = outcome.tally.iter().map(|(name, count)| format!("{count} {name}")).collect();
    println!(
        "{:.1} simulated seconds in {:.2} s ({:.0} a second), {} events, at most {} MiB; {}",
        outcome.simulated_seconds,
        outcome.wall_seconds,
        outcome.simulated_seconds / outcome.wall_seconds,
        outcome.events,
        outcome.peak_bytes >> 20,
        tally.join(", ")
    );
    for idle in idle {
        println!("a fault found nothing to strike, {idle}");
    }
    for violation in &outcome.violations {
        println!("VIOLATION: {violation}");
    }
    if outcome.failed() {
        println!("again: {}", reproduce::line(command));
    }
    println!("event hash: {}", outcome.hash.as_deref().unwrap_or("none"));
}
