//! Collects what the sources declare where it stands: the names of probes, waypoints and planted bugs; and the compiler.
//! So no list of them can be out of date.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders below the root whose sources run inside a simulation.
const FOLDERS: [&str; 3] = ["crates", "node", "jepsen-like"];
/// What comes before a name, and what it declares.
const MARKS: [(&str, &str); 3] = [("probe!(\"", "PROBES"), ("waypoint(\"", "PROBES"), ("planted(\"", "PLANTED")];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies one folder below the root");
    let mut files = Vec::new();
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    let mut found: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::from([("PROBES", BTreeMap::new()), ("PLANTED", BTreeMap::new())]);
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let path = file.strip_prefix(root).unwrap_or(file).display().to_string();
        for (number, line) in text.lines().enumerate() {
            // Comments and documentation name no state.
            let code = line.split("//").next().unwrap_or_default();
            for (mark, list) in MARKS {
                for rest in code.split(mark).skip(1) {
                    if let Some((name, _)) = rest.split_once('"') {
                        let list = found.get_mut(list).expect("both lists are there");
                        list.entry(name.to_owned()).or_insert_with(|| format!("{path}:{}", number + 1));
                    }
                }
            }
        }
    }
    let mut text = String::new();
    for (list, names) in found {
        writeln!(text, "pub const {list}: [(&str, &str); {}] = {:?};", names.len(), names.iter().collect::<Vec<_>>())
            .expect("a String takes everything");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names it"));
    std::fs::write(out.join("inventory.rs"), text).expect("cargo's folder can be written");

    let compiler = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-V").output();
    let compiler = compiler.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    println!("cargo::rustc-env=KEEPSTONE_COMPILER={compiler}");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a folder that can be read").path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !["target", "tests", "benches", "examples"].contains(&name.as_str()) {
                collect(&path, files);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
}
