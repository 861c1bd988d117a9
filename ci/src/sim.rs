//! `cargo sim ...`: build the simulator in its own flavour and pass everything on.

use std::process::{Command, ExitCode};

use crate::workspace;

pub fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let built = workspace::run(workspace::build_simulator().arg("--quiet"))?;
    if !built.success() {
        return Ok(workspace::exit_code(built));
    }
    // In the caller's folder: arguments may name files.
    Ok(workspace::exit_code(workspace::run(Command::new(workspace::simulator()).args(arguments))?))
}
