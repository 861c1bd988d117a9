//! `cargo ci clients`: unmodified S3 clients against the real binary, byte for byte, with an eye on its memory.
//!
//! Each client is driven by `ci/clients/NAME.py`, which prints a line `operation<TAB>ok|FAIL<TAB>reason` per check.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use crate::server::{self, Server};
use crate::workspace::{self, Flavour};

/// What a server may have resident, whatever is asked of it.
const RESIDENT_BYTES_MAX: u64 = 400 << 20;
const CLIENTS: [&str; 4] = ["awscli", "boto3", "s3cmd", "rclone"];
/// From PyPI into an environment of our own.
const PACKAGES: [&str; 3] = ["awscli", "boto3", "s3cmd"];
/// Room for the small files, the replicas' logs and whoever else uses the disk.
const SPARE_BYTES: u64 = 2 << 30;
/// Sizes at which something changes: nothing, one byte, the largest inline object, a stripe, a blob.
const SIZES: [u64; 7] = [0, 1, 8 << 10, (8 << 10) + 1, 1 << 20, (8 << 20) + 1, 64 << 20];

struct Options {
    bytes_max: u64,
    only: Vec<String>,
}

/// What one client said.
#[derive(Default)]
struct Results {
    /// operation -> reason for failing, if it did.
    operations: BTreeMap<String, Option<String>>,
    resident_peak: Option<u64>,
    seconds: f64,
}

pub fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let options = parse(arguments)?;
    let folder = workspace::root().join("target/clients");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let binary = server::build_release()?;
    let venv = python_environment(&folder)?;
    let rclone = if options.only.iter().any(|client| client == "rclone") { Some(rclone()?) } else { None };
    let _ = std::fs::remove_dir_all(folder.join("server"));
    check_space(&folder, options.bytes_max)?;
    let files = make_files(&folder.join("files"), options.bytes_max)?;

    let mut all = Vec::new();
    for client in CLIENTS.iter().filter(|client| options.only.iter().any(|only| only == *client)) {
        // A fresh server for each: its memory is this client's doing, and its disk space is given back.
        let mut server = Server::start(&binary, &folder.join("server"))?;
        println!("{client}:");
        let begun = Instant::now();
        let mut results = run_client(client, &venv, rclone.as_deref(), &server, &folder, &files)?;
        results.seconds = begun.elapsed().as_secs_f64();
        if let Some(reason) = server.ended() {
            results.operations.insert("server".to_owned(), Some(reason));
        }
        results.resident_peak = server.resident_peak();
        let resident = match results.resident_peak {
            Some(bytes) if bytes < RESIDENT_BYTES_MAX => None,
            Some(bytes) => Some(format!("{} MiB resident, {} allowed", bytes >> 20, RESIDENT_BYTES_MAX >> 20)),
            None => Some("the server's memory cannot be read".to_owned()),
        };
        results.operations.insert("memory".to_owned(), resident);
        all.push((*client, results));
    }
    let _ = std::fs::remove_dir_all(folder.join("server"));
    Ok(report(&all))
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options { bytes_max: 5 << 30, only: Vec::new() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => options.bytes_max = 64 << 20,
            "--max-size" => options.bytes_max = parse_bytes(rest.next().ok_or("--max-size needs a size like 512MiB")?)?,
            "--only" => {
                let client = rest.next().ok_or("--only needs the name of a client")?;
                if !CLIENTS.contains(&client.as_str()) {
                    return Err(format!("no client \"{client}\"; there are: {}", CLIENTS.join(", ")));
                }
                options.only.push(client.clone());
            }
            other => return Err(format!("clients has no option \"{other}\"; `cargo ci help` lists them")),
        }
    }
    if options.only.is_empty() {
        options.only = CLIENTS.iter().map(|client| (*client).to_owned()).collect();
    }
    if options.bytes_max > 5 << 30 {
        return Err("--max-size: one PUT takes at most 5GiB".to_owned());
    }
    Ok(options)
}

/// Refuse a run that would fill the disk: the largest file is stored whole and in parts, each half as large again, and downloaded.
fn check_space(folder: &Path, bytes_max: u64) -> Result<(), String> {
    let made = folder.join(format!("files/{bytes_max}.bin"));
    let sources = if std::fs::metadata(made).is_ok_and(|made| made.len() == bytes_max) { 0 } else { bytes_max };
    let needed = 4 * bytes_max + sources + SPARE_BYTES;
    let output = Command::new("df").args(["--output=avail", "--block-size=1"]).arg(folder).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).map_err(|error| format!("df: {error}"))?;
    let free: u64 = text.lines().nth(1).and_then(|line| line.trim().parse().ok()).ok_or_else(|| format!("df says \"{text}\""))?;
    if free < needed {
        let (free, needed) = (free >> 20, needed >> 20);
        return Err(format!("{free} MiB are free in {}, {needed} MiB are needed: choose a smaller --max-size", folder.display()));
    }
    Ok(())
}

/// Bytes of `64MiB`, `5GiB`, `100`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        unit => return Err(format!("unknown unit \"{unit}\" in \"{text}\": KiB, MiB, GiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("\"{text}\" is no size like 64MiB"))?;
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(|| format!("{text} is too large"))
}

/// A Python environment with the clients; made once, and again when the list changes.
fn python_environment(folder: &Path) -> Result<PathBuf, String> {
    let venv = folder.join("venv");
    let stamp = folder.join("venv.packages");
    let wanted = PACKAGES.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(venv);
    }
    println!("making a Python environment with {wanted} (PyPI) in {}", venv.display());
    let say = "needs python3 with venv (Debian: apt-get install python3-venv) and PyPI";
    workspace::must(say, Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let mut install = Command::new(venv.join("bin/python"));
    workspace::must(say, install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES))?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(venv)
}

/// Debian's rclone, installed if we may.
fn rclone() -> Result<PathBuf, String> {
    let there = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join("rclone")).find(|file| file.is_file())
    };
    if let Some(found) = there() {
        return Ok(found);
    }
    let ask = "rclone is missing: install it (Debian: apt-get install rclone), or leave it out with --only";
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    if !root {
        return Err(ask.to_owned());
    }
    println!("installing rclone from Debian");
    workspace::must("apt-get update", Command::new("apt-get").args(["update", "-qq"])).map_err(|error| format!("{ask}: {error}"))?;
    let mut install = Command::new("apt-get");
    let install = install.args(["install", "-y", "-qq", "--no-install-recommends", "rclone"]).env("DEBIAN_FRONTEND", "noninteractive");
    workspace::must("apt-get install rclone", install).map_err(|error| format!("{ask}: {error}"))?;
    there().ok_or_else(|| ask.to_owned())
}

/// Files of incompressible bytes, one per size up to `bytes_max`; kept for the next run.
fn make_files(folder: &Path, bytes_max: u64) -> Result<Vec<PathBuf>, String> {
    let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(fail)?;
    let mut sizes: Vec<u64> = SIZES.iter().copied().filter(|size| *size < bytes_max).collect();
    sizes.push(bytes_max);
    let mut files = Vec::new();
    for size in sizes {
        let file = folder.join(format!("{size}.bin"));
        if std::fs::metadata(&file).is_ok_and(|made| made.len() == size) {
            files.push(file);
            continue;
        }
        let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&file).map_err(fail)?);
        let mut state = size ^ 0x9e37_79b9_7f4a_7c15;
        let mut left = size;
        while left > 0 {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let word = (z ^ (z >> 31)).to_le_bytes();
            let take = left.min(8) as usize;
            out.write_all(&word[..take]).map_err(fail)?;
            left -= take as u64;
        }
        out.flush().map_err(fail)?;
        files.push(file);
    }
    Ok(files)
}

fn run_client(
    client: &str,
    venv: &Path,
    rclone: Option<&Path>,
    server: &Server,
    folder: &Path,
    files: &[PathBuf],
) -> Result<Results, String> {
    let work = folder.join("work").join(client);
    if work.exists() {
        std::fs::remove_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    }
    std::fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let script = workspace::root().join(format!("ci/clients/{client}.py"));
    let mut command = Command::new(venv.join("bin/python"));
    // Nothing of the user's own configuration takes part: profiles, certificate bundles, proxies, flags of rclone.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("AWS_") || name.starts_with("RCLONE_") || name.to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .arg(&script)
        .args(files)
        .current_dir(&work)
        .env("KEEPSTONE_ENDPOINT", format!("http://{}", server.endpoint))
        .env("KEEPSTONE_BIN", venv.join("bin"))
        .env("KEEPSTONE_RCLONE", rclone.unwrap_or(Path::new("rclone")))
        .env("AWS_ACCESS_KEY_ID", server::ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", server::SECRET_KEY)
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_CONFIG_FILE", work.join("aws-config"))
        .env("AWS_SHARED_CREDENTIALS_FILE", work.join("aws-credentials"))
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", &work)
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", script.display()))?;
    let mut results = Results::default();
    let output = child.stdout.take().expect("piped above");
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let mut fields = line.splitn(3, '\t');
        match (fields.next(), fields.next(), fields.next()) {
            (Some(operation), Some("ok"), note) => {
                println!("  {operation:<34} ok    {}", note.unwrap_or(""));
                results.operations.entry(family(operation)).or_insert(None);
            }
            (Some(operation), Some("FAIL"), reason) => {
                let reason = reason.unwrap_or("no reason given").to_owned();
                println!("  {operation:<34} FAIL  {reason}");
                let first = results.operations.entry(family(operation)).or_insert(None);
                first.get_or_insert(format!("{operation}: {reason}"));
            }
            _ => println!("  {line}"),
        }
    }
    let status = child.wait().map_err(|error| format!("waiting for {client}: {error}"))?;
    if !status.success() {
        results.operations.insert("script".to_owned(), Some(format!("{client}.py ended with {status}")));
    }
    let _ = std::fs::remove_dir_all(&work);
    Ok(results)
}

/// `put 5 GiB` belongs to column `put`.
fn family(operation: &str) -> String {
    operation.split(' ').next().unwrap_or(operation).to_owned()
}

fn report(all: &[(&str, Results)]) -> ExitCode {
    let mut columns: Vec<String> = all.iter().flat_map(|(_, results)| results.operations.keys().cloned()).collect();
    columns.sort();
    columns.dedup();
    println!("\n| client | {} | resident peak | time |", columns.join(" | "));
    println!("|{}", "---|".repeat(columns.len() + 3));
    let mut failures = Vec::new();
    let (mut passed, mut failed) = (0, 0);
    for (client, results) in all {
        print!("| {client} |");
        for column in &columns {
            match results.operations.get(column) {
                None => print!(" - |"),
                Some(None) => {
                    passed += 1;
                    print!(" ok |");
                }
                Some(Some(reason)) => {
                    failed += 1;
                    failures.push(format!("{client}: {reason}"));
                    print!(" FAIL |");
                }
            }
        }
        let peak = results.resident_peak.map_or("?".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        println!(" {peak} | {:.0} s |", results.seconds);
    }
    for failure in &failures {
        println!("FAIL {failure}");
    }
    println!("{passed} passed, {failed} failed (built in {})", workspace::target(Flavour::Production).display());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("100"), Ok(100));
        assert!(parse_bytes("5GB").is_err() && parse_bytes("x").is_err() && parse_bytes("99999999999GiB").is_err());
        assert!(parse(&["--max-size".to_owned(), "6GiB".to_owned()]).is_err());
    }
}
