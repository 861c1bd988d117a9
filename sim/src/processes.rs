//! Runs in processes of their own, several at once: one process is one run, because libraries keep process-wide counters
//! and seeds that would make a second run in it differ.
#![allow(clippy::disallowed_methods, reason = "outside of any simulation: processes, their output and the real clock")]

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::outcome::Outcome;
use crate::violation::Violation;

/// Of what a run wrote to stderr, so much of the end is kept.
const ERRORS_KEPT: usize = 4000;
/// The check that a run comes to its end.
const ENDED: &str = "run-ends";
/// It took more wall time than it was given, perhaps because others had the processors.
const TOO_LONG: &str = "killed-for-time";
/// Its command line, or its scenario, is wrong.
const NOT_RUN: &str = "not-run";
/// What says nothing of the code that ran.
pub const INCONCLUSIVE: [&str; 2] = [TOO_LONG, NOT_RUN];

/// What is run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    Seed { scenario: String, seed: u64 },
    Plan(PathBuf),
}

/// One run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    pub source: Source,
    /// Planted bugs that are switched on.
    pub bugs: Vec<String>,
}

impl Source {
    /// The command line that runs it, as words.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Source::Seed { scenario, seed } => ["run", scenario, "--seed", &seed.to_string()].map(str::to_owned).to_vec(),
            Source::Plan(path) => vec!["replay".to_owned(), "--plan".to_owned(), path.display().to_string()],
        }
    }
}

impl Run {
    pub fn new(source: Source) -> Run {
        Run { source, bugs: Vec::new() }
    }

    /// The command line that runs it, as words.
    pub fn arguments(&self) -> Vec<String> {
        let bugs = self.bugs.iter().flat_map(|bug| ["--bug".to_owned(), bug.clone()]);
        self.source.arguments().into_iter().chain(bugs).collect()
    }

    /// The same for people.
    pub fn command(&self) -> String {
        format!("cargo sim {}", self.arguments().join(" "))
    }
}

/// Decides what is run next, and learns how each run ended.
pub trait Driver {
    /// What it knows a run by.
    type Tag: Send + 'static;

    /// The next run. None: nothing for now; it is asked again when one of those under way has ended, and when none is
    /// under way all is over.
    fn next(&mut self) -> Option<(Self::Tag, Run)>;

    /// A run ended.
    fn ended(&mut self, tag: Self::Tag, outcome: Outcome);
}

/// Let `driver` run what it wants, `jobs` at once, each for at most `limit` of wall time.
pub fn drive<D: Driver>(driver: &mut D, jobs: usize, limit: Duration) {
    let (sender, receiver) = mpsc::sync_channel(jobs.max(1));
    let mut under_way = 0;
    loop {
        while under_way < jobs.max(1) {
            let Some((tag, run)) = driver.next() else { break };
            let sender = sender.clone();
            std::thread::spawn(move || {
                let outcome = run_one(&run, limit);
                // The receiver lives as long as anything is under way.
                let _ = sender.send((tag, outcome));
            });
            under_way += 1;
        }
        if under_way == 0 {
            return;
        }
        let (tag, outcome) = receiver.recv().expect("a sender is held here");
        under_way -= 1;
        driver.ended(tag, outcome);
    }
}

/// Processors of this machine.
pub fn jobs_here() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// This binary again, with its output to be read.
pub fn start(arguments: &[String]) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// Run `run` in a process of its own, to its end or for `limit`.
pub fn run_one(run: &Run, limit: Duration) -> Outcome {
    let mut arguments = run.arguments();
    arguments.push("--json".to_owned());
    let started = Instant::now();
    let mut outcome = match start(&arguments) {
        Ok(child) => follow(child, limit),
        Err(error) => failed(ENDED, format!("this program does not start again: {error}")),
    };
    // A run that came to no end did not say what it was.
    match &run.source {
        Source::Seed { scenario, seed } => (outcome.scenario, outcome.seed) = (scenario.clone(), *seed),
        Source::Plan(path) if outcome.scenario.is_empty() => outcome.scenario = path.display().to_string(),
        Source::Plan(_) => {}
    }
    outcome.wall_seconds = started.elapsed().as_secs_f64();
    outcome
}

fn follow(mut child: Child, limit: Duration) -> Outcome {
    let started = Instant::now();
    let stdout = child.stdout.take().expect("piped by start");
    let stderr = child.stderr.take().expect("piped by start");
    let printed = std::thread::spawn(move || read_all(stdout, usize::MAX));
    let errors = std::thread::spawn(move || read_all(stderr, ERRORS_KEPT));
    let mut killed = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return failed(ENDED, format!("waiting for it failed: {error}")),
        }
        if !killed && started.elapsed() > limit {
            killed = true;
            // Seen as an end above.
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (printed, errors) = (printed.join().unwrap_or_default(), errors.join().unwrap_or_default());
    if killed {
        return failed(TOO_LONG, format!("killed after {} s", limit.as_secs()));
    }
    // Its last line; libraries may print before it.
    match printed.lines().last().map(serde_json::from_str::<Outcome>) {
        Some(Ok(outcome)) => outcome,
        _ => {
            let check = if status.code() == Some(2) { NOT_RUN } else { ENDED };
            failed(check, format!("no outcome, {status}: {}", errors.trim().replace('\n', " | ")))
        }
    }
}

/// All of `stream`, or the last `most` bytes of it.
fn read_all(mut stream: impl Read, most: usize) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..length]);
        if kept.len() > most.saturating_mul(2) {
            kept.drain(..kept.len() - most);
        }
    }
    let from = kept.len().saturating_sub(most);
    String::from_utf8_lossy(&kept[from..]).into_owned()
}

fn failed(check: &str, text: String) -> Outcome {
    Outcome { violations: vec![Violation::new(check, text)], ..Outcome::default() }
}
