//! `cargo ci test`: all that must pass before a change lands, in the order in which it is cheapest to fail.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::workspace::{self, Flavour};

/// Wall time of the sweep.
const SWEEP_SECONDS: u32 = 120;
/// Lines of a failed step that are shown.
const TAIL_LINES: usize = 200;
/// A step that takes longer says what it is at, this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(30);
/// Characters of a progress line.
const PROGRESS_CHARACTERS: usize = 100;

/// The log and the text of a step's output.
type Collected = Arc<Mutex<(std::fs::File, String)>>;

struct Step {
    name: &'static str,
    what: String,
    /// Run one after the other while they succeed.
    commands: Vec<Command>,
}

#[derive(Default)]
struct Options {
    only: Vec<String>,
    from: Option<String>,
    wall: u32,
    verbose: bool,
    list: bool,
}

/// What the tests of a step said.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

pub fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let options = parse(arguments)?;
    let all = steps(options.wall)?;
    let names: Vec<&str> = all.iter().map(|step| step.name).collect();
    for asked in options.only.iter().chain(&options.from) {
        if !names.contains(&asked.as_str()) {
            return Err(format!("no step \"{asked}\"; there are: {}", names.join(", ")));
        }
    }
    if options.list {
        for step in &all {
            println!("{:<14}{}", step.name, step.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let first = options.from.as_ref().and_then(|name| names.iter().position(|step| step == name)).unwrap_or(0);
    let chosen: Vec<Step> =
        all.into_iter().skip(first).filter(|step| options.only.is_empty() || options.only.iter().any(|name| name == step.name)).collect();
    run_steps(chosen, options.verbose)
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options { wall: SWEEP_SECONDS, ..Options::default() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--only" => options.only.push(value()?),
            "--from" => options.from = Some(value()?),
            "--wall" => options.wall = value()?.parse().map_err(|_| "--wall takes a number of seconds".to_owned())?,
            "--verbose" => options.verbose = true,
            "--list" => options.list = true,
            other => return Err(format!("test has no option \"{other}\"; `cargo ci help` lists them")),
        }
    }
    Ok(options)
}

fn steps(wall: u32) -> Result<Vec<Step>, String> {
    let this = std::env::current_exe().map_err(|error| format!("where this program lies: {error}"))?;
    let step = |name, what: &str, commands| Step { name, what: what.to_owned(), commands };
    let cargo = |flavour, verb: &str, arguments: &[&str]| {
        let mut command = workspace::cargo(flavour);
        command.arg(verb).args(workspace::selection(flavour)).args(arguments);
        command
    };
    let mut formatting = workspace::cargo(Flavour::Production);
    formatting.args(["fmt", "--all", "--check"]);
    let mut edges = Command::new(this);
    edges.current_dir(workspace::root()).arg("edges");
    let lints = ["--all-targets", "--", "--deny", "warnings"];
    let mut simulated = workspace::tests(Flavour::Simulation, "test");
    simulated.arg("--no-fail-fast");
    let mut sweep = Command::new(workspace::simulator());
    sweep.current_dir(workspace::root()).args(["sweep", "all", "--commit", "--fresh", "--wall", &wall.to_string()]);
    sweep.args(["--json".as_ref(), workspace::root().join("target/ci/sweep.json").as_os_str()]);
    Ok(vec![
        step("fmt", "formatting", vec![formatting]),
        step("edges", "dependencies between crates, and what sources may name", vec![edges]),
        step("clippy", "clippy, production", vec![cargo(Flavour::Production, "clippy", &lints)]),
        step("clippy-sim", "clippy, simulation", vec![cargo(Flavour::Simulation, "clippy", &lints)]),
        step("tests", "tests, production", vec![cargo(Flavour::Production, "test", &["--no-fail-fast"])]),
        step("tests-sim", "tests inside the simulator", vec![simulated]),
        step(
            "sweep",
            &format!("all scenarios for {wall} s: past failures, seeds of the commit, fresh seeds, the canary"),
            vec![workspace::build_simulator(), sweep],
        ),
    ])
}

fn run_steps(steps: Vec<Step>, verbose: bool) -> Result<ExitCode, String> {
    let logs = workspace::root().join("target/ci");
    std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let count = steps.len();
    let begun = Instant::now();
    let mut total = Counts::default();
    for (index, mut step) in steps.into_iter().enumerate() {
        println!("[{}/{count}] {}", index + 1, step.what);
        let log = logs.join(format!("{}.log", step.name));
        let started = Instant::now();
        let (succeeded, output) = run_logged(&mut step.commands, &log, verbose)?;
        let mut counts = counts(&output);
        if counts == Counts::default() {
            // No tests: the step itself is one.
            counts.passed = u64::from(succeeded);
        }
        if !succeeded {
            counts.failed = counts.failed.max(1);
        }
        total.passed += counts.passed;
        total.failed += counts.failed;
        total.ignored += counts.ignored;
        println!("      {}, {} passed, {}", if succeeded { "ok" } else { "FAILED" }, counts.passed, seconds(started.elapsed()));
        if !succeeded {
            let lines: Vec<&str> = output.lines().collect();
            if !verbose {
                println!("{}", lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"));
            }
            println!("\nwhole output: {}", log.display());
            println!("run just this step: cargo ci test --only {}", step.name);
            println!("step {} of {count} failed after {}", index + 1, seconds(begun.elapsed()));
            println!("{} passed, {} failed", total.passed, total.failed);
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("{count} steps in {}, {} tests ignored", seconds(begun.elapsed()), total.ignored);
    println!("{} passed, 0 failed", total.passed);
    Ok(ExitCode::SUCCESS)
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

/// Run `commands` until one fails, their output into `log` (and shown, if `show`; otherwise the last line of it now and
/// then): whether all succeeded, and the output.
fn run_logged(commands: &mut [Command], log: &PathBuf, show: bool) -> Result<(bool, String), String> {
    let file = std::fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
    let collected = Arc::new(Mutex::new((file, String::new())));
    let mut succeeded = true;
    for command in commands {
        succeeded = succeeded && run_followed(command, &collected, show)?;
    }
    let text = std::mem::take(&mut collected.lock().expect("readers have ended").1);
    Ok((succeeded, text))
}

fn run_followed(command: &mut Command, collected: &Collected, show: bool) -> Result<bool, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", command.get_program().to_string_lossy()))?;
    let output = child.stdout.take().expect("piped above");
    let errors = child.stderr.take().expect("piped above");
    // Nothing is sent: the channel closes when both readers have ended.
    let (reading, ended) = mpsc::channel::<()>();
    let readers =
        [follow(Box::new(output), collected.clone(), show, reading.clone()), follow(Box::new(errors), collected.clone(), show, reading)];
    let started = Instant::now();
    while ended.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
        if !show {
            let guard = collected.lock().expect("nothing panics under it");
            let line: String = guard
                .1
                .lines()
                .rev()
                .map(str::trim)
                .find(|line| !line.is_empty())
                .unwrap_or_default()
                .chars()
                .take(PROGRESS_CHARACTERS)
                .collect();
            println!("      {:>4} s  {line}", started.elapsed().as_secs());
        }
    }
    let status = child.wait().map_err(|error| format!("waiting for a step: {error}"))?;
    for reader in readers {
        reader.join().map_err(|_| "a reader of a step's output panicked".to_owned())?;
    }
    Ok(status.success())
}

fn follow(stream: Box<dyn Read + Send>, into: Collected, show: bool, reading: mpsc::Sender<()>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let _reading = reading;
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if show {
                println!("{line}");
            }
            let mut guard = into.lock().expect("nothing panics under it");
            // The text itself is kept below: a full disk costs the log only.
            let _ = writeln!(guard.0, "{line}");
            guard.1.push_str(&line);
            guard.1.push('\n');
        }
    })
}

/// Sum of all `test result:` lines.
fn counts(output: &str) -> Counts {
    let mut total = Counts::default();
    for line in output.lines() {
        let Some((_, results)) = line.split_once("test result: ") else { continue };
        for part in results.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(kind)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
            match kind {
                "passed" => total.passed += number,
                "failed" => total.failed += number,
                "ignored" => total.ignored += number,
                _ => {}
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_many_test_binaries_add_up() {
        let output = "x\ntest result: ok. 20 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.36s\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(counts(output), Counts { passed: 23, failed: 2, ignored: 1 });
    }

    #[test]
    fn a_failing_step_ends_the_run() {
        let step = |name, command: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", command]);
            Step { name, what: name.to_owned(), commands: vec![shell] }
        };
        let marker = std::env::temp_dir().join(format!("keepstone-ci-{}", std::process::id()));
        let touch = format!("touch {}", marker.display());
        run_steps(vec![step("test-good", "echo fine"), step("test-bad", "exit 3"), step("test-never", &touch)], false).unwrap();
        assert!(!marker.exists(), "steps after a failed one do not run");
    }

    #[test]
    fn unknown_options_and_steps_are_refused() {
        assert!(run(&["--fast".to_owned()]).is_err());
        assert!(run(&["--only".to_owned(), "nothing".to_owned()]).is_err());
        assert!(run(&["--only".to_owned()]).is_err());
    }
}
