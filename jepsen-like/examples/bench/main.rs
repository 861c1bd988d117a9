//! `cargo ci bench`: S3 on loopback against the release build, against the machine's own limits measured in the same
//! run, and against Garage if it is installed. Ratios count, not absolute numbers: other work on the machine slows
//! all of them alike.
//!
//! Bodies are incompressible and never repeated. Client and server share the machine's processors.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "starts processes and measures the bare machine")]

mod cells;
mod limits;
mod report;
mod servers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cells::{Cell, Plan};

const HELP: &str = "\
Usage: cargo ci bench [OPTIONS]
  --quick           1 s a cell, no 64 MiB at concurrency 16, 2,000 keys in the listing
  --seconds N       longest time of a cell (default 8)
  --list-keys N     keys in the listing (default 100000)
  --bytes-max SIZE  most bytes that a cell writes, in MiB (default 2048)
  --no-garage       leave Garage out even if it is installed
  --data DIR        where the servers keep their data (default: below the output folder)
";

struct Options {
    keepstone: PathBuf,
    out: PathBuf,
    data: Option<PathBuf>,
    plan: Plan,
    garage: bool,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1).collect()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(reason) => {
            eprintln!("bench: {reason}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match runtime::process::block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: Vec<String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        keepstone: PathBuf::from("target/release/keepstone"),
        out: PathBuf::from("target/bench"),
        data: None,
        plan: Plan { cell: Duration::from_secs(8), list_keys: 100_000, bytes_max: 2 << 30, quick: false },
        garage: true,
    };
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("\"{text}\" is no number"));
        match argument.as_str() {
            "--keepstone" => options.keepstone = value()?.into(),
            "--out" => options.out = value()?.into(),
            "--data" => options.data = Some(value()?.into()),
            "--quick" => options.plan = Plan { cell: Duration::from_secs(1), list_keys: 2000, bytes_max: 256 << 20, quick: true },
            "--seconds" => options.plan.cell = Duration::from_secs(number(value()?)?.max(1)),
            "--list-keys" => options.plan.list_keys = number(value()?)?,
            "--bytes-max" => options.plan.bytes_max = number(value()?)? << 20,
            "--no-garage" => options.garage = false,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("no option \"{other}\"")),
        }
    }
    Ok(Some(options))
}

async fn run(options: Options) -> Result<(), String> {
    let data = options.data.clone().unwrap_or_else(|| options.out.join("data"));
    let fail = |error: std::io::Error| format!("{}: {error}", data.display());
    std::fs::create_dir_all(&options.out).map_err(fail)?;
    std::fs::create_dir_all(&data).map_err(fail)?;

    eprintln!("measuring the machine");
    let limits = limits::measure(&data.join("limits"), options.plan.quick).map_err(fail)?;

    let mut results: Vec<(String, Vec<Cell>)> = Vec::new();
    let server = servers::keepstone(&options.keepstone, &data.join("keepstone")).await?;
    results.push(("keepstone".to_owned(), cells::run(&server, &options.plan).await?));
    let mut peaks = vec![("keepstone".to_owned(), server.resident_peak())];
    drop(server);

    let mut garage = None;
    if options.garage {
        match servers::find_garage() {
            None => eprintln!("garage is not on PATH (cargo install garage): only keepstone is measured"),
            Some((binary, version)) => {
                let server = servers::garage(&binary, &data.join("garage")).await?;
                results.push((version.clone(), cells::run(&server, &options.plan).await?));
                peaks.push((version.clone(), server.resident_peak()));
                garage = Some(version);
            }
        }
    }
    let table = report::table(&limits, &results, &peaks);
    println!("{table}");
    let json = report::json(&limits, &results, &peaks, garage.as_deref());
    let seconds = runtime::time::wall_ms() / 1000;
    for (name, text) in [(format!("{seconds}.json"), &json), (format!("{seconds}.md"), &table)] {
        let path = options.out.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        eprintln!("written: {}", path.display());
    }
    let _ = std::fs::remove_dir_all(&data);
    Ok(())
}
