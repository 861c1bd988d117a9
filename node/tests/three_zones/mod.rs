//! Six real processes in three zones, through the example's own script.
#![allow(dead_code, reason = "each test binary uses its share of this module")]

use jepsen_like::s3::{Client, Credentials};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The example's cluster in a folder; all of it is killed when dropped.
pub struct Zones {
    pub data: PathBuf,
    /// Added to all ports: away from those of the example itself, of other tests and of ephemeral ports.
    ports: u16,
}

impl Zones {
    pub fn new(folder: &Path, ports: u16) -> Zones {
        Zones { data: folder.join("zones"), ports }
    }

    /// Run the script.
    pub fn script(&self, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/three-zones/start.sh");
        let output = Command::new("bash")
            .arg(script)
            .args(arguments)
            .env("KEEPSTONE", env!("CARGO_BIN_EXE_keepstone"))
            .env("KEEPSTONE_DATA", &self.data)
            .env("S3_PORT", (19_000 + self.ports).to_string())
            .env("RPC_PORT", (17_000 + self.ports).to_string())
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    }

    /// A client of each node's gateway.
    pub fn clients(&self) -> Vec<Client> {
        let text = std::fs::read_to_string(self.data.join("credentials.toml")).unwrap();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split('"').nth(1).unwrap().to_string()
        };
        (1..=6u16)
            .map(|node| {
                let address = SocketAddr::from(([127, 0, 0, 1], 19_000 + self.ports + node));
                Client::new(address, Credentials::new(value("access_key"), value("secret_key")), "us-east-1")
            })
            .collect()
    }

    /// Start one node.
    pub fn start(&self, node: u16) {
        let path = |what: &str| self.data.join(format!("node-{node}.{what}"));
        let log = std::fs::File::create(path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepstone"));
        command.arg("node").arg("--config").arg(path("toml")).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        std::fs::write(path("pid"), command.spawn().unwrap().id().to_string()).unwrap();
    }

    /// Wait until a node that was started says that it serves S3.
    pub fn serves(&self, node: u16) {
        let log = || std::fs::read_to_string(self.data.join(format!("node-{node}.log"))).unwrap();
        let end = Instant::now() + Duration::from_secs(40);
        while !log().contains("serves S3") {
            assert!(Instant::now() < end, "{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// SIGKILL to one node.
    pub fn kill(&self, node: u16) {
        if let Ok(pid) = std::fs::read_to_string(self.data.join(format!("node-{node}.pid"))) {
            let _ = Command::new("kill").arg("-9").arg(pid.trim()).status();
        }
    }

    /// What `keepstone group` prints, asked through the configuration of `node`.
    pub fn group(&self, node: u16, arguments: &[&str]) -> String {
        let said = self.keepstone(node, &[&["group"], arguments].concat());
        format!("{}{}", said.stdout, said.stderr)
    }

    /// What `keepstone` says to these arguments, asked through the configuration of `node`; panics if it fails.
    pub fn keepstone(&self, node: u16, arguments: &[&str]) -> Said {
        let said = self.try_keepstone(node, arguments);
        assert!(said.success, "{arguments:?}: {said:?}");
        said
    }

    /// The same, whatever comes of it.
    pub fn try_keepstone(&self, node: u16, arguments: &[&str]) -> Said {
        let config = self.data.join(format!("node-{node}.toml"));
        said(&[arguments, &["--config", config.to_str().unwrap()]].concat())
    }
}

/// What `keepstone` says to these arguments, whatever comes of it.
pub fn said(arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_keepstone")).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Drop for Zones {
    fn drop(&mut self) {
        (1..=6).for_each(|node| self.kill(node));
    }
}
