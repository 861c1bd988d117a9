//! `cargo ci test`: all that must pass before a change lands, in the order in which it is cheapest to fail.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::workspace::{self, Flavour};

/// Crates whose tests also run inside the simulator.
const SIMULATED: [&str; 8] = ["runtime", "drive", "consensus", "storage", "metadata", "placement", "gateway", "sim"];
/// Lines of a failed step that are shown.
const TAIL_LINES: usize = 200;

struct Step {
    name: &'static str,
    what: String,
    command: Command,
}

#[derive(Default)]
struct Options {
    only: Vec<String>,
    from: Option<String>,
    seeds: u32,
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
    let all = steps(options.seeds)?;
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
    let mut options = Options { seeds: 50, ..Options::default() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--only" => options.only.push(value()?),
            "--from" => options.from = Some(value()?),
            "--seeds" => options.seeds = value()?.parse().map_err(|_| "--seeds takes a number".to_owned())?,
            "--verbose" => options.verbose = true,
            "--list" => options.list = true,
            other => return Err(format!("test has no option \"{other}\"; `cargo ci help` lists them")),
        }
    }
    Ok(options)
}

fn steps(seeds: u32) -> Result<Vec<Step>, String> {
    let this = std::env::current_exe().map_err(|error| format!("where this program lies: {error}"))?;
    let step = |name, what: &str, command| Step { name, what: what.to_owned(), command };
    let cargo = |flavour, arguments: &[&str]| {
        let mut command = workspace::cargo(flavour);
        command.args(arguments);
        command
    };
    let own = |arguments: &[&str]| {
        let mut command = Command::new(&this);
        command.current_dir(workspace::root()).args(arguments);
        command
    };
    let mut simulated = vec!["test", "--profile", "sim"];
    for name in SIMULATED {
        simulated.extend(["--package", name]);
    }
    let deny = ["--", "--deny", "warnings"];
    let production = [&["clippy", "--workspace", "--exclude", "sim", "--all-targets"][..], &deny[..]].concat();
    let simulation = [&["clippy", "--profile", "sim", "--workspace", "--exclude", "ci", "--all-targets"][..], &deny[..]].concat();
    let seeds_text = seeds.to_string();
    Ok(vec![
        step("fmt", "formatting", cargo(Flavour::Production, &["fmt", "--all", "--check"])),
        step("edges", "dependencies between crates, and what sources may name", own(&["edges"])),
        step("clippy", "clippy, production", cargo(Flavour::Production, &production)),
        step("clippy-sim", "clippy, simulation", cargo(Flavour::Simulation, &simulation)),
        step("tests", "tests, production", cargo(Flavour::Production, &["test", "--workspace", "--exclude", "sim", "--no-fail-fast"])),
        step("tests-sim", "tests inside the simulator", {
            simulated.push("--no-fail-fast");
            cargo(Flavour::Simulation, &simulated)
        }),
        step("sweep", &format!("scenario smoke under {seeds} seeds"), own(&["sim", "sweep", "smoke", "--seeds", &seeds_text])),
    ])
}

fn run_steps(steps: Vec<Step>, verbose: bool) -> Result<ExitCode, String> {
    let logs = workspace::root().join("target/ci");
    std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let count = steps.len();
    let begun = Instant::now();
    let mut total = Counts::default();
    for (index, mut step) in steps.into_iter().enumerate() {
        print!("[{}/{count}] {:<58}", index + 1, step.what);
        let _ = std::io::stdout().flush();
        if verbose {
            println!();
        }
        let log = logs.join(format!("{}.log", step.name));
        let started = Instant::now();
        let (succeeded, output) = run_logged(&mut step.command, &log, verbose)?;
        let counts = counts(&output);
        total.passed += counts.passed;
        total.failed += counts.failed;
        total.ignored += counts.ignored;
        let tests = if counts == Counts::default() { String::new() } else { format!("  {} tests", counts.passed) };
        println!("{:>7}  {}{tests}", seconds(started.elapsed()), if succeeded { "ok" } else { "FAILED" });
        if !succeeded {
            let lines: Vec<&str> = output.lines().collect();
            if !verbose {
                println!("{}", lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"));
            }
            println!("\nwhole output: {}", log.display());
            println!("run just this step: cargo ci test --only {}", step.name);
            println!("{} passed, {} failed (step {} of {count} failed)", total.passed, total.failed.max(1), index + 1);
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("{} passed, 0 failed, {} ignored ({count} steps in {})", total.passed, total.ignored, seconds(begun.elapsed()));
    Ok(ExitCode::SUCCESS)
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

/// Run `command`, its output into `log` (and shown, if `show`): whether it succeeded, and the output.
fn run_logged(command: &mut Command, log: &PathBuf, show: bool) -> Result<(bool, String), String> {
    let file = std::fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
    let collected = Arc::new(Mutex::new((file, String::new())));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", command.get_program().to_string_lossy()))?;
    let output = child.stdout.take().expect("piped above");
    let errors = child.stderr.take().expect("piped above");
    let readers = [follow(Box::new(output), collected.clone(), show), follow(Box::new(errors), collected.clone(), show)];
    let status = child.wait().map_err(|error| format!("waiting for a step: {error}"))?;
    for reader in readers {
        reader.join().map_err(|_| "a reader of a step's output panicked".to_owned())?;
    }
    let text = std::mem::take(&mut collected.lock().expect("readers have ended").1);
    Ok((status.success(), text))
}

fn follow(stream: Box<dyn Read + Send>, into: Arc<Mutex<(std::fs::File, String)>>, show: bool) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
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
            Step { name, what: name.to_owned(), command: shell }
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
