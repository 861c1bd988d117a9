#![doc = include_str!("../README.md")]

#[cfg(madsim)]
mod bugs;
#[cfg(madsim)]
mod cluster;
#[cfg(madsim)]
mod command;
#[cfg(madsim)]
mod diff;
#[cfg(madsim)]
mod identities;
#[cfg(madsim)]
mod inventory;
#[cfg(madsim)]
mod judge;
#[cfg(madsim)]
mod leaks;
#[cfg(madsim)]
mod lifecycle;
#[cfg(madsim)]
mod nemesis;
#[cfg(madsim)]
mod next;
#[cfg(madsim)]
mod once;
#[cfg(madsim)]
mod outcome;
#[cfg(madsim)]
mod plan;
#[cfg(madsim)]
mod processes;
#[cfg(madsim)]
mod progress;
#[cfg(madsim)]
mod report;
#[cfg(madsim)]
mod reproduce;
#[cfg(madsim)]
mod run;
#[cfg(madsim)]
mod scenarios;
#[cfg(madsim)]
mod shrink;
#[cfg(madsim)]
mod sweep;
#[cfg(madsim)]
mod timeline;
#[cfg(madsim)]
mod violation;
#[cfg(madsim)]
mod which;

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    runtime::side::pin_address_space();
    command::main()
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    eprintln!("sim: built for production; run it as `cargo sim ...`");
    std::process::ExitCode::from(2)
}
