//! `cargo test` alone sweeps too: the simulator, in its own flavour, under a few seeds.
#![allow(clippy::disallowed_methods, reason = "a test of processes")]

use std::path::Path;
use std::process::Command;

#[test]
fn a_few_seeds_of_smoke_find_nothing_and_the_canary_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies one folder below the root");
    let mut cargo = Command::new(env!("CARGO"));
    // Left by the cargo that runs this test; build scripts would see them change and run again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST") || name == "CARGO_CRATE_NAME" {
            cargo.env_remove(name);
        }
    }
    let output = cargo.current_dir(root).args(["sim", "sweep", "smoke", "--seeds", "3"]).output().expect("cargo starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("canary found"), "{text}");
}
