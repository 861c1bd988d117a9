//! Where two runs part: their event records side by side, as streams, however long they are.
#![allow(clippy::disallowed_methods, reason = "outside of any simulation: processes and their output")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ExitCode};

use clap::Args;

use crate::processes::{self, Source};
use crate::which::Which;

/// Events that are shown before the first that differs.
const BEFORE: usize = 10;
/// And of each run from there on.
const AFTER: usize = 5;

/// One run in two processes, two plans (--plan twice), or two records.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// A record that `run --events FILE` wrote; twice
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "plan"])]
    events: Vec<PathBuf>,
    /// Switch a planted bug on in the second run only
    #[arg(long, value_name = "NAME")]
    bug: Vec<String>,
}

/// Compare; success if no event differs.
pub fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let (mut first, mut second) = match (&arguments.which.all()?[..], &arguments.events[..]) {
        ([source], []) => (Record::of_run(source, &[])?, Record::of_run(source, &arguments.bug)?),
        ([one, other], []) => (Record::of_run(one, &[])?, Record::of_run(other, &arguments.bug)?),
        ([], [one, other]) => (Record::of_file(one)?, Record::of_file(other)?),
        _ => return Err("diff takes SCENARIO --seed N, --plan FILE once or twice, or --events FILE twice".to_owned()),
    };
    let parting = compare(&mut first.lines, &mut second.lines).map_err(|error| format!("reading events: {error}"))?;
    println!("{}", describe(&parting));
    Ok(if parting.first.is_empty() && parting.second.is_empty() && parting.same > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A record of events while it is read.
struct Record {
    lines: Box<dyn BufRead>,
    child: Option<Child>,
}

impl Record {
    fn of_run(source: &Source, bugs: &[String]) -> Result<Record, String> {
        let run = processes::Run { source: source.clone(), bugs: bugs.to_vec() };
        let mut arguments = run.arguments();
        arguments.extend(["--events".to_owned(), "-".to_owned()]);
        let mut child = processes::start(&arguments).map_err(|error| format!("this program does not start again: {error}"))?;
        let stdout = child.stdout.take().expect("piped by start");
        let mut stderr = child.stderr.take().expect("piped by start");
        // Read and forgotten: a full pipe would stop the run.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Ok(Record { lines: Box::new(BufReader::with_capacity(1 << 16, stdout)), child: Some(child) })
    }

    fn of_file(path: &PathBuf) -> Result<Record, String> {
        let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Record { lines: Box::new(BufReader::with_capacity(1 << 16, file)), child: None })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may be in the middle of its run; nobody reads on.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where two records part.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parting {
    /// Events that both have.
    same: u64,
    /// The last of them.
    before: VecDeque<String>,
    /// How each goes on; empty: it ended.
    first: Vec<String>,
    second: Vec<String>,
}

fn compare(first: &mut dyn BufRead, second: &mut dyn BufRead) -> std::io::Result<Parting> {
    let mut parting = Parting::default();
    let (mut one, mut other) = (Vec::new(), Vec::new());
    loop {
        one.clear();
        other.clear();
        first.read_until(b'\n', &mut one)?;
        second.read_until(b'\n', &mut other)?;
        if one != other {
            parting.first = follow(&one, first)?;
            parting.second = follow(&other, second)?;
            return Ok(parting);
        }
        if one.is_empty() {
            return Ok(parting);
        }
        parting.same += 1;
        if parting.before.len() == BEFORE {
            parting.before.pop_front();
        }
        parting.before.push_back(text(&one));
    }
}

/// This line and the next few.
fn follow(line: &[u8], rest: &mut dyn BufRead) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    if !line.is_empty() {
        lines.push(text(line));
        for next in rest.take(1 << 20).split(b'\n').take(AFTER - 1) {
            lines.push(text(&next?));
        }
    }
    Ok(lines)
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end().to_owned()
}

fn describe(parting: &Parting) -> String {
    let Parting { same, before, first, second } = parting;
    if first.is_empty() && second.is_empty() {
        return match same {
            0 => "no events: neither run came to its first".to_owned(),
            _ => format!("the same, all {same} events"),
        };
    }
    let mut lines = vec![
        format!("the first {same} events are the same; then the runs part"),
        "  number, nanoseconds, machine, kind, bytes, checksum, hash so far, content".to_owned(),
    ];
    lines.extend(before.iter().map(|line| format!("  {line}")));
    for (mark, side) in [('<', first), ('>', second)] {
        if side.is_empty() {
            lines.push(format!("{mark} (ends here)"));
        }
        lines.extend(side.iter().map(|line| format!("{mark} {line}")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(one: &str, other: &str) -> Parting {
        compare(&mut one.as_bytes(), &mut other.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_event_that_differs_is_shown_with_those_before_it() {
        let many: String = (0..100).map(|number| format!("{number} a\n")).collect();
        let parting = compared(&format!("{many}x\ny\n"), &format!("{many}z\n"));
        assert_eq!(parting.same, 100);
        assert_eq!(parting.before.len(), BEFORE);
        assert_eq!(
            (parting.before[BEFORE - 1].as_str(), &parting.first[..], &parting.second[..]),
            ("99 a", &["x".into(), "y".into()][..], &["z".into()][..])
        );
        assert!(describe(&parting).contains("< x\n< y\n> z"));
    }

    #[test]
    fn a_record_that_ends_early_parts_there() {
        let parting = compared("1\n2\n", "1\n");
        assert_eq!((parting.same, parting.first.len(), parting.second.len()), (1, 1, 0));
        assert!(describe(&parting).ends_with("> (ends here)"));
    }

    #[test]
    fn equal_records_are_the_same_and_empty_ones_are_not() {
        assert_eq!(describe(&compared("1\n2\n", "1\n2\n")), "the same, all 2 events");
        assert!(describe(&compared("", "")).starts_with("no events"));
    }
}
