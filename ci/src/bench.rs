//! `cargo ci bench`: build the product and the bench driver as they ship, and run the driver.

use std::process::{Command, ExitCode};

use crate::server;
use crate::workspace::{self, Flavour};

pub fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let binary = server::build_release()?;
    let mut build = workspace::cargo(Flavour::Production);
    workspace::must(
        "building the bench driver",
        build.args(["build", "--release", "--package", "node", "--package", "jepsen-like", "--example", "bench"]),
    )?;
    let target = workspace::target(Flavour::Production);
    let mut driver = Command::new(target.join("release/examples/bench"));
    driver.current_dir(workspace::root()).arg("--keepstone").arg(binary).arg("--out").arg(target.join("bench")).args(arguments);
    Ok(workspace::exit_code(workspace::run(&mut driver)?))
}
