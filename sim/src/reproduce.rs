//! The line that reproduces a run: its command, and what must be the same for the same events: commit, lock file, compiler.
#![allow(clippy::disallowed_methods, reason = "outside of any simulation: asks git")]

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// What must be the same for a run to repeat event for event.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// `unknown` outside of a checkout; ends in `+changes` where files differ from it.
    pub commit: String,
    /// First digits of the SHA-256 of Cargo.lock, as `sha256sum` prints it, when this binary was built.
    pub lock: String,
    pub compiler: String,
}

impl Origin {
    /// Of this binary and the tree that it stands in.
    pub fn here() -> &'static Origin {
        static HERE: OnceLock<Origin> = OnceLock::new();
        HERE.get_or_init(|| Origin { commit: commit(), lock: lock(), compiler: env!("KEEPSTONE_COMPILER").to_owned() })
    }

    /// A number drawn from the commit alone, changed files or not: seeds of one commit are the same everywhere.
    pub fn seed(&self) -> Option<u64> {
        let digits = self.commit.get(..10)?;
        u64::from_str_radix(digits, 16).ok()
    }
}

/// `command`, and what it needs to repeat.
pub fn line(command: &str) -> String {
    let Origin { commit, lock, compiler } = Origin::here();
    format!("{command}  # commit {commit}, Cargo.lock {lock}, {compiler}")
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(root()).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    // Plans that a sweep saves lie below target/, which is ignored.
    let changed = git(&["status", "--porcelain"]).is_none_or(|files| !files.is_empty());
    if changed { format!("{commit}+changes") } else { commit }
}

fn lock() -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(include_bytes!("../../Cargo.lock"));
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies one folder below the root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_commit_lock_file_and_compiler() {
        let line = line("cargo sim run smoke --seed 7");
        assert!(line.starts_with("cargo sim run smoke --seed 7  # commit "), "{line}");
        assert!(line.contains(", Cargo.lock ") && line.contains("rustc 1."), "{line}");
    }

    #[test]
    fn seeds_come_from_the_commit_whatever_files_changed() {
        let origin = |commit: &str| Origin { commit: commit.to_owned(), lock: String::new(), compiler: String::new() };
        assert_eq!(origin("d2c139b00112").seed(), Some(0x00d2_c139_b001));
        assert_eq!(origin("d2c139b00112+changes").seed(), origin("d2c139b00112").seed());
        assert_eq!(origin("unknown").seed(), None);
    }
}
