//! `cargo sim ...`: build the simulator in its own flavour and pass everything on.

use std::process::{Command, ExitCode};

use crate::workspace::{self, Flavour};

pub fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let mut build = workspace::cargo(Flavour::Simulation);
    let built = workspace::run(build.args(["build", "--quiet", "--profile", "sim", "--package", "sim"]))?;
    if !built.success() {
        return Ok(workspace::exit_code(built));
    }
    // Folder = profile, file = package. In the caller's folder: arguments may name files.
    let binary = workspace::target(Flavour::Simulation).join("sim/sim");
    Ok(workspace::exit_code(workspace::run(Command::new(binary).args(arguments))?))
}
