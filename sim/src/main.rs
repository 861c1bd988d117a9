#![doc = include_str!("../README.md")]

#[cfg(madsim)]
mod cluster;
#[cfg(madsim)]
mod command;
#[cfg(madsim)]
mod judge;
#[cfg(madsim)]
mod leaks;
#[cfg(madsim)]
mod nemesis;
#[cfg(madsim)]
#[allow(dead_code, reason = "replaying and shrinking read and edit saved plans")]
mod plan;
#[cfg(madsim)]
mod run;
#[cfg(madsim)]
mod sweep;

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
