//! [`Server`]: a `keepstone up` of the release build in a fresh folder, ended with this process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::workspace::{self, Flavour};

pub const ACCESS_KEY: &str = "KEEPSTONETESTKEY";
pub const SECRET_KEY: &str = "keepstone-test-secret-key-0123456789";

pub struct Server {
    child: Child,
    pub endpoint: SocketAddr,
    log: PathBuf,
}

/// Build the product as it ships; returns its path.
pub fn build_release() -> Result<PathBuf, String> {
    // The packages of the bench driver, so that both are built from the same dependencies.
    let mut build = workspace::cargo(Flavour::Production);
    workspace::must(
        "building keepstone",
        build.args(["build", "--release", "--package", "node", "--package", "jepsen-like", "--bin", "keepstone"]),
    )?;
    Ok(workspace::target(Flavour::Production).join("release/keepstone"))
}

impl Server {
    /// Start `binary` with all its data in `folder`, which is emptied, and wait until it answers HTTP.
    pub fn start(binary: &Path, folder: &Path) -> Result<Server, String> {
        let say = |what: &str, error: std::io::Error| format!("{what} {}: {error}", folder.display());
        if folder.exists() {
            std::fs::remove_dir_all(folder).map_err(|error| say("emptying", error))?;
        }
        std::fs::create_dir_all(folder).map_err(|error| say("making", error))?;
        let log = folder.join("server.log");
        let output = std::fs::File::create(&log).map_err(|error| say("a log in", error))?;
        let errors = output.try_clone().map_err(|error| say("a log in", error))?;
        let endpoint = free_address().map_err(|error| format!("no free port: {error}"))?;
        let child = Command::new(binary)
            .arg("up")
            .arg("--data")
            .arg(folder.join("data"))
            .args(["--listen", &endpoint.to_string(), "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let mut server = Server { child, endpoint, log };
        let begun = Instant::now();
        while !answers_http(endpoint) {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("keepstone up ended at once ({status}):\n{}", server.log_tail()));
            }
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(format!("keepstone up does not answer after 60 s:\n{}", server.log_tail()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// Most memory that was ever resident, in bytes.
    pub fn resident_peak(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    }

    /// Why it is no longer running, if so.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(format!("the server ended ({status}):\n{}", self.log_tail())),
            Ok(None) => None,
            Err(error) => Some(format!("the server cannot be asked: {error}")),
        }
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has promised to survive this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn answers_http(endpoint: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&endpoint, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    ask().unwrap_or(false)
}
