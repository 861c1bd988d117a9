//! What the sources of the product may name: the seam's rules, and names that say nothing.
//!
//! Tests, benches, examples and this crate are free; so are the files of [`ALLOWED`], each with its reason.

use std::path::{Path, PathBuf};

use crate::blank;

/// A rule for the sources outside `runtime`.
struct Rule {
    /// Short name, used in [`ALLOWED`].
    name: &'static str,
    /// Whole words that break it.
    words: &'static [&'static str],
    instead: &'static str,
}

const RULES: [Rule; 9] = [
    Rule { name: "files", words: &["std::fs", "std::os::unix::fs", "std::os::fd"], instead: "drives come in as `runtime::disk::Disk`" },
    Rule {
        name: "sockets",
        words: &["std::net::TcpStream", "std::net::TcpListener", "std::net::UdpSocket", "std::net::*", "std::net::ToSocketAddrs"],
        instead: "runtime::net",
    },
    Rule { name: "threads", words: &["std::thread"], instead: "runtime::task, or Disk::submit" },
    Rule { name: "processes", words: &["std::process"], instead: "only the composition roots touch the process" },
    Rule {
        name: "clocks",
        words: &["SystemTime", "Instant::now", "elapsed()", "OffsetDateTime::now_utc", "Utc::now"],
        instead: "runtime::time::{now, since, wall_ms}",
    },
    Rule {
        name: "runtimes",
        words: &["tokio", "madsim_tokio", "madsim", "cfg(madsim)"],
        instead: "runtime; cfg(madsim) stands in one file of it",
    },
    Rule {
        name: "entropy",
        words: &["thread_rng", "OsRng", "from_os_rng", "from_entropy", "getrandom", "rand::rng", "rand::random"],
        instead: "runtime::entropy",
    },
    Rule {
        name: "unbounded",
        words: &["unbounded_channel", "UnboundedSender", "UnboundedReceiver", "mpsc::unbounded"],
        instead: "everything has a limit: runtime::sync::channel(n)",
    },
    Rule { name: "unsafe", words: &["unsafe"], instead: "unsafe stands in runtime only" },
];

/// Rules that hold in `runtime` too.
const EVERYWHERE: Rule = Rule { name: "unfinished", words: &["todo!", "unimplemented!", "dbg!"], instead: "finish it" };

/// (path, rule, why): the only exceptions. A path that ends in `/` stands for all below it.
const ALLOWED: [(&str, &str, &str); 9] = [
    ("node/src/main.rs", "processes", "the binary's exit code"),
    ("node/src/files.rs", "files", "configuration, credentials and the status file of the composition root"),
    ("node/src/files.rs", "processes", "names of temporary files"),
    ("sim/src/", "processes", "a process for each seed"),
    ("sim/src/", "files", "reads scenarios, writes reports"),
    ("sim/src/", "threads", "each simulation needs a fresh thread; the driver waits for processes"),
    ("sim/src/", "clocks", "the driver shows how long a sweep took"),
    ("sim/src/", "runtimes", "the second composition root drives madsim itself"),
    ("sim/src/", "unsafe", "real time inside a simulation needs a raw system call"),
];

/// Names that say nothing about what a file or type is.
const VAGUE: [&str; 19] = [
    "util",
    "utils",
    "common",
    "core",
    "helper",
    "helpers",
    "misc",
    "shared",
    "manager",
    "handler",
    "processor",
    "service",
    "context",
    "global",
    "bridge",
    "ext",
    "v2",
    "info",
    "data",
];

/// (path, name, why): vague words that are the glossary's own.
const NAMED: [(&str, &str, &str); 4] = [
    ("crates/placement/src/service.rs", "", "the placement service is the glossary's word"),
    ("crates/consensus/src/service.rs", "", "the methods of RPC service 2"),
    ("crates/placement/src/", "Service", "the placement service is the glossary's word"),
    ("crates/runtime/src/rpc/", "Service", "what serves the methods of one number, in RPC's own word"),
];

/// Folders whose Rust files are judged.
const FOLDERS: [&str; 4] = ["crates", "node", "sim", "jepsen-like"];

/// Judge all sources below `root`: how many files, and what is wrong.
pub fn scan(root: &Path) -> Result<(usize, Vec<String>), String> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut wrong = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(file).to_string_lossy().replace('\\', "/");
        wrong.extend(judge(&path, &text));
    }
    Ok((files.len(), wrong))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    if !folder.exists() {
        return Ok(());
    }
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !["target", "tests", "benches", "examples"].contains(&name.as_str()) {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") && name != "build.rs" {
            files.push(path);
        }
    }
    Ok(())
}

/// What is wrong with the source `text` at `path`.
fn judge(path: &str, text: &str) -> Vec<String> {
    let code = blank::without_tests(&blank::without_words(text));
    let mut wrong = Vec::new();
    let in_runtime = path.starts_with("crates/runtime/");
    if !in_runtime {
        let uses = blank::uses(&code);
        for rule in &RULES {
            broken(path, &code, &uses, rule, &mut wrong);
        }
        for at in blank::words(&code, "select!") {
            if !code[..at].ends_with("runtime::") {
                wrong.push(format!("{path}:{}: select! draws its order at random: write runtime::select!", blank::line_of(&code, at)));
            }
        }
    }
    broken(path, &code, &[], &EVERYWHERE, &mut wrong);
    wrong.extend(vague_names(path, &code));
    wrong
}

fn broken(path: &str, code: &str, uses: &[(usize, String)], rule: &Rule, wrong: &mut Vec<String>) {
    if ALLOWED.iter().any(|(place, name, _)| *name == rule.name && is_at(path, place)) {
        return;
    }
    let mut lines: Vec<(usize, &str)> = Vec::new();
    for word in rule.words {
        for at in blank::words(code, word) {
            if *word == "tokio" && !code[at + word.len()..].starts_with("::") {
                continue;
            }
            if *word == "std::process" && code[at..].starts_with("std::process::ExitCode") {
                continue;
            }
            lines.push((blank::line_of(code, at), word));
        }
        for (line, used) in uses {
            let below = used.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
            if below && !used.starts_with("std::process::ExitCode") && !lines.contains(&(*line, word)) {
                lines.push((*line, word));
            }
        }
    }
    lines.sort_unstable();
    lines.dedup_by_key(|(line, _)| *line);
    for (line, word) in lines {
        wrong.push(format!("{path}:{line}: {word} [{}]: {}", rule.name, rule.instead));
    }
}

/// Files and types whose names end in a vague word.
fn vague_names(path: &str, code: &str) -> Vec<String> {
    let allowed = |name: &str| NAMED.iter().any(|(place, allowed, _)| *allowed == name && is_at(path, place));
    let mut wrong = Vec::new();
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    if VAGUE.contains(&stem.rsplit('_').next().unwrap_or(stem)) && !allowed("") {
        wrong.push(format!("{path}: a file called {stem} could hold anything: name the noun in it"));
    }
    for kind in ["struct ", "enum ", "trait ", "type "] {
        for at in blank::words(code, kind.trim()) {
            let Some(rest) = code[at..].strip_prefix(kind) else { continue };
            // An associated type, named by its trait.
            if kind == "type " && code[..at].ends_with("    ") {
                continue;
            }
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let last = name.rfind(|c: char| c.is_ascii_uppercase()).map_or("", |from| &name[from..]);
            if VAGUE.contains(&last.to_ascii_lowercase().as_str()) && !allowed(&name) {
                wrong.push(format!("{path}:{}: {name}: \"{last}\" says nothing; name what it is", blank::line_of(code, at)));
            }
        }
    }
    wrong
}

fn is_at(path: &str, place: &str) -> bool {
    if place.ends_with('/') { path.starts_with(place) } else { path == place }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        let wrong = judge(path, text);
        for line in &wrong {
            println!("{line}");
        }
        wrong.len()
    }

    const GATEWAY: &str = "crates/gateway/src/put.rs";

    #[test]
    fn each_way_past_the_seam_is_found() {
        for text in [
            "let x = std::fs::read(y);",
            "use std::{fs, io};",
            "use std::fs::File;",
            "use std::net::{SocketAddr, TcpStream};",
            "std::thread::spawn(x);",
            "use std::process::Command;",
            "let t = SystemTime::now();",
            "let t = std::time::Instant::now();",
            "let age = begun.elapsed();",
            "tokio::spawn(x);",
            "use tokio::sync::mpsc;",
            "#[cfg(madsim)]\nmod x;",
            "let r = rand::rng();",
            "let (a, b) = mpsc::unbounded_channel();",
            "unsafe { x() }",
            "todo!()",
            "tokio_select! {}; select! { a => b }",
            "futures::select! { a => b }",
        ] {
            assert_eq!(count(GATEWAY, text), 1, "{text}");
        }
    }

    #[test]
    fn the_seam_itself_tests_and_words_are_free() {
        assert_eq!(count("crates/runtime/src/production/mod.rs", "use tokio::net; unsafe { std::fs::x() }"), 0);
        assert_eq!(count("crates/runtime/src/rpc/mod.rs", "todo!()"), 1);
        for text in [
            "// std::fs\nlet x = \"tokio::spawn\";",
            "#[cfg(test)]\nmod tests { use std::fs; }",
            "use std::net::SocketAddr; use std::process::ExitCode;",
            "runtime::select! { a => b }",
            "let tokio_like = 1; let unsafe_looking = 2;",
            "fn now() { runtime::time::now() }",
        ] {
            assert_eq!(count(GATEWAY, text), 0, "{text}");
        }
    }

    #[test]
    fn exceptions_hold_for_their_file_and_rule_only() {
        assert_eq!(count("node/src/files.rs", "use std::fs;"), 0);
        assert_eq!(count("node/src/files.rs", "use std::thread;"), 1);
        assert_eq!(count("node/src/other.rs", "use std::fs;"), 1);
    }

    #[test]
    fn vague_names_are_found_as_whole_words_only() {
        assert_eq!(count("crates/drive/src/util.rs", ""), 1);
        assert_eq!(count("crates/drive/src/slot_helpers.rs", ""), 1);
        assert_eq!(count("crates/drive/src/slot.rs", "pub struct SlotManager; enum ReadContext {} type DriveInfo = u8;"), 3);
        assert_eq!(
            count(
                "crates/drive/src/slot.rs",
                "pub struct Metadata; struct Information; trait Servicing {} impl Body for X {\n    type Data = u8; }"
            ),
            0
        );
        assert_eq!(count("crates/placement/src/service.rs", "pub struct Service;"), 0);
    }
}
