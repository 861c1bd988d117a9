//! `cargo ci`: everything that checks or measures Keepstone, behind one command.

mod bench;
mod blank;
mod clients;
mod edges;
mod server;
mod sim;
mod sources;
mod test;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
Checks and measures Keepstone.

Usage: cargo ci COMMAND [OPTIONS]

Commands:
  test      everything that must pass before a change lands
              --only STEP      just this step (may be repeated); --list names them
              --from STEP      this step and those after it
              --wall SECONDS   time of the sweep (default 120)
              --verbose        show the output of passing steps too
  edges     dependencies between crates, and what sources may name
  sim ...   the simulator, built for it: `cargo sim` is the same (try `cargo sim --help`)
  bench     S3 on loopback against the machine's limits, and against Garage if it is installed
              --quick          small and short; more: cargo ci bench --help
  clients   awscli, boto3, s3cmd and rclone against the real binary
              --quick          up to 64 MiB instead of 5 GiB
              --max-size SIZE  like 512MiB or 5GiB
              --only CLIENT    just this client (may be repeated)
  help      this

Exit code: 0 all passed, 1 something failed, 2 wrong usage.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let wants_help = rest.iter().any(|argument| argument == "--help" || argument == "-h");
    let outcome = match command {
        "sim" => sim::run(rest),
        "bench" => bench::run(rest),
        "help" | "--help" | "-h" => Ok(help()),
        "test" | "edges" | "clients" if wants_help => Ok(help()),
        "test" => test::run(rest),
        "edges" => edges::run(rest),
        "clients" => clients::run(rest),
        other => Err(format!("no command \"{other}\"; `cargo ci help` lists them")),
    };
    outcome.unwrap_or_else(|reason| {
        eprintln!("cargo ci: {reason}");
        ExitCode::from(2)
    })
}

fn help() -> ExitCode {
    print!("{HELP}");
    ExitCode::SUCCESS
}
