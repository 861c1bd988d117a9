//! Starts the real binary for tests and stops it, gently or not.
#![allow(dead_code, reason = "each test binary uses its share of this module")]

use jepsen_like::s3::{Client, Credentials};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub const ACCESS_KEY: &str = "TESTACCESSKEY";
pub const SECRET_KEY: &str = "test-secret-key-0123456789";
const START: Duration = Duration::from_secs(60);

/// A running `keepstone up`; killed with SIGKILL when dropped.
pub struct Up {
    child: Child,
    pub address: SocketAddr,
    /// What it printed until it was ready.
    pub printed: String,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The binary under test.
pub fn keepstone() -> Command {
    Command::new(env!("CARGO_BIN_EXE_keepstone"))
}

impl Up {
    /// Start on `data` and wait until S3 is served.
    pub fn start(data: &Path) -> Up {
        Up::try_start(data).unwrap_or_else(|printed| panic!("keepstone up did not start:\n{printed}"))
    }

    /// Start, or what it said when it ended.
    pub fn try_start(data: &Path) -> Result<Up, String> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = keepstone();
        command.arg("up").arg("--data").arg(data).arg("--listen").arg(address.to_string());
        command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        let (child, printed) = spawn_until(command, "Ctrl-C")?;
        Ok(Up { child, address, printed })
    }

    pub fn client(&self) -> Client {
        Client::new(self.address, Credentials::new(ACCESS_KEY, SECRET_KEY), "us-east-1")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM; panics if it does not stop by itself.
    pub fn stop(mut self) {
        assert!(Command::new("kill").arg(self.pid().to_string()).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "did not stop on SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.end();
    }
}

/// Start `command` and wait until a line of its stdout contains `word`; else what it printed.
pub fn spawn_until(mut command: Command, word: &'static str) -> Result<(Child, String), String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (sender, lines) = mpsc::channel();
    for stream in [Box::new(child.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>, Box::new(child.stderr.take().unwrap())] {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // After the start nobody listens; the pipe must be drained all the same.
                let _ = sender.send(line);
            }
        });
    }
    drop(sender);
    let mut printed = String::new();
    let deadline = Instant::now() + START;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                printed.push_str(&line);
                printed.push('\n');
                if line.contains(word) {
                    return Ok((child, printed));
                }
            }
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(printed);
            }
        }
    }
}

/// The six folders of a data folder.
pub fn folders(data: &Path) -> Vec<PathBuf> {
    (1..=6).map(|number| data.join(format!("drive-{number}"))).collect()
}
