//! The workspace's folders, and cargo in the environment of one of its two flavours.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

/// What is built: the product, or the same sources for the simulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    Production,
    Simulation,
}

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies one folder below the root")
}

/// Where `flavour` is built. The flavours never share a folder: each would overwrite the other's binaries.
pub fn target(flavour: Flavour) -> PathBuf {
    match flavour {
        // Not target/sim: the profile is called sim.
        Flavour::Simulation => root().join("target/simulation"),
        Flavour::Production => match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::env::current_dir().map_or_else(|_| PathBuf::from(&folder), |here| here.join(&folder)),
            None => root().join("target"),
        },
    }
}

/// The packages that are built together in `flavour`. Features are those of all selected packages together, so another
/// selection would build most dependencies once more: everything that builds for tests names this one.
pub fn selection(flavour: Flavour) -> &'static [&'static str] {
    match flavour {
        Flavour::Production => &["--workspace", "--exclude", "sim"],
        // The library of `node` is there as a dependency of `sim`; its binary has no meaning in a simulation.
        Flavour::Simulation => &["--profile", "sim", "--workspace", "--exclude", "ci", "--exclude", "node"],
    }
}

/// Crates without anything that a simulator could change: their tests run in production only.
pub const NOT_SIMULATED: [&str; 3] = ["protocol", "erasure", "jepsen-like"];

/// `cargo VERB` for the tests of `flavour`.
pub fn tests(flavour: Flavour, verb: &str) -> Command {
    let mut command = cargo(flavour);
    command.arg(verb).args(selection(flavour));
    if flavour == Flavour::Simulation {
        command.args(NOT_SIMULATED.iter().flat_map(|name| ["--exclude", name]));
    }
    command
}

/// Build the simulator. Its own test is named too: only with a test do dependencies get the features that the tests of
/// the workspace build them with, and nothing is built twice.
pub fn build_simulator() -> Command {
    let mut command = tests(Flavour::Simulation, "build");
    command.args(["--bin", "sim", "--test", "processes"]);
    command
}

/// Where [`build_simulator`] puts it. Folder = profile, file = package.
pub fn simulator() -> PathBuf {
    target(Flavour::Simulation).join("sim/sim")
}

/// `cargo` at the root. For the simulation, flags of the user's environment or configuration would silently win over
/// `--config`, and the result would be a production build: so the environment is set here.
pub fn cargo(flavour: Flavour) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env("CARGO_TARGET_DIR", target(flavour));
    // Left by `cargo run` around us; build scripts would see them change and run again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST") || name == "CARGO_CRATE_NAME" || name == "CARGO_BIN_NAME" {
            command.env_remove(&*name);
        }
    }
    if flavour == Flavour::Simulation {
        command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", "--cfg\u{1f}madsim");
    }
    command
}

/// Run `command` with our own input and output.
pub fn run(command: &mut Command) -> Result<ExitStatus, String> {
    command.status().map_err(|error| format!("cannot start {}: {error}", command.get_program().to_string_lossy()))
}

/// Run `command`; failing is an error.
pub fn must(what: &str, command: &mut Command) -> Result<(), String> {
    let status = run(command)?;
    if status.success() { Ok(()) } else { Err(format!("{what} failed ({status})")) }
}

/// A child's end as ours.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        // Killed by a signal.
        None => ExitCode::FAILURE,
    }
}
