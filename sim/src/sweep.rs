//! Many seeds of a scenario: one process a seed, as many at once as there are processors. A share of the seeds is run
//! again in a second process and compared, event hash for event hash.
#![allow(clippy::disallowed_methods, reason = "outside of any simulation: processes, their output and the real clock")]

use std::collections::VecDeque;
use std::io::Write;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Every so many seeds, one is run twice.
const COMPARE_EVERY: u64 = 10;

/// What a sweep was asked for.
pub struct Sweep {
    pub scenario: String,
    pub first_seed: u64,
    pub seeds: u64,
    pub jobs: usize,
    /// Wall time that one seed may take.
    pub limit: Duration,
}

/// How one run ended.
struct Outcome {
    seed: u64,
    /// The last line on stdout.
    last_line: String,
    success: bool,
    /// All that it printed, for a failure.
    printed: String,
}

struct Running {
    seed: u64,
    child: Child,
    reader: std::thread::JoinHandle<String>,
    since: Instant,
}

/// Run the sweep; the exit code is failure if any seed failed or two runs of a seed differ.
pub fn run(sweep: &Sweep) -> ExitCode {
    let mut waiting: VecDeque<u64> = (sweep.first_seed..sweep.first_seed.saturating_add(sweep.seeds)).collect();
    let compared: Vec<u64> = waiting.iter().copied().filter(|seed| (seed - sweep.first_seed).is_multiple_of(COMPARE_EVERY)).collect();
    waiting.extend(&compared);
    let total = waiting.len();
    let mut running: Vec<Running> = Vec::new();
    let mut outcomes: Vec<Outcome> = Vec::new();
    let started = Instant::now();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < sweep.jobs {
            let Some(seed) = waiting.pop_front() else { break };
            running.push(start(&sweep.scenario, seed));
        }
        std::thread::sleep(Duration::from_millis(5));
        let mut index = 0;
        while index < running.len() {
            let over = running[index].since.elapsed() > sweep.limit;
            if over {
                // Ended below like any other; its last line is no hash, so it counts as failed.
                let _ = running[index].child.kill();
            }
            match running[index].child.try_wait() {
                Ok(None) => index += 1,
                ended => {
                    let run = running.swap_remove(index);
                    let success = !over && ended.is_ok_and(|status| status.is_some_and(|status| status.success()));
                    let mut printed = run.reader.join().unwrap_or_default();
                    if over {
                        printed.push_str(&format!("\nkilled after {} s\n", sweep.limit.as_secs()));
                    }
                    let last_line = printed.lines().last().unwrap_or_default().to_string();
                    outcomes.push(Outcome { seed: run.seed, last_line, success, printed });
                    progress(outcomes.len(), total, &outcomes);
                }
            }
        }
    }
    eprintln!();
    report(sweep, &compared, outcomes, started.elapsed())
}

fn start(scenario: &str, seed: u64) -> Running {
    let program = std::env::current_exe().expect("this binary has a path");
    let mut child = Command::new(program)
        .args(["run", scenario, "--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this binary starts again");
    let mut stdout = child.stdout.take().expect("piped above");
    let reader = std::thread::spawn(move || {
        let mut printed = String::new();
        // A run that prints no UTF-8 has failed anyway.
        let _ = std::io::Read::read_to_string(&mut stdout, &mut printed);
        printed
    });
    Running { seed, child, reader, since: Instant::now() }
}

fn progress(done: usize, total: usize, outcomes: &[Outcome]) {
    let failed = outcomes.iter().filter(|outcome| !outcome.success).count();
    eprint!("\r{done}/{total} runs, {failed} failed");
    let _ = std::io::stderr().flush();
}

fn report(sweep: &Sweep, compared: &[u64], mut outcomes: Vec<Outcome>, took: Duration) -> ExitCode {
    outcomes.sort_by_key(|outcome| outcome.seed);
    let mut failed = 0;
    for outcome in outcomes.iter().filter(|outcome| !outcome.success) {
        failed += 1;
        if failed <= 5 {
            println!("seed {} failed:\n{}", outcome.seed, outcome.printed.trim_end());
            println!("again: cargo sim run {} --seed {}", sweep.scenario, outcome.seed);
        }
    }
    let mut differ = 0;
    for seed in compared {
        let mut runs = outcomes.iter().filter(|outcome| outcome.seed == *seed);
        if let (Some(first), Some(second)) = (runs.next(), runs.next())
            && first.last_line != second.last_line
        {
            differ += 1;
            println!("seed {seed} is not deterministic: `{}` and `{}` in two processes", first.last_line, second.last_line);
        }
    }
    println!(
        "sweep {}: seeds {}..{}, {} runs in {:.1} s, {failed} failed, {differ} of {} compared differ",
        sweep.scenario,
        sweep.first_seed,
        sweep.first_seed.saturating_add(sweep.seeds),
        outcomes.len(),
        took.as_secs_f64(),
        compared.len()
    );
    if failed == 0 && differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
