//! [`Server`]: a store that is measured, in a fresh folder, ended when dropped.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jepsen_like::s3::{Auth, Client, Credentials, Request};

const REGION: &str = "us-east-1";
/// Garage takes keys of this form only.
const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
const SECRET_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

pub struct Server {
    pub client: Client,
    child: Child,
    data: PathBuf,
    /// Keepstone writes its figures here every second.
    status: Option<PathBuf>,
}

/// What a server used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    /// Bytes that the kernel was made to send to the drive.
    pub written: Option<u64>,
    pub syncs: Option<u64>,
    /// Bytes of all blocks of its files.
    pub on_disk: u64,
}

/// Start `keepstone up`.
pub async fn keepstone(binary: &Path, folder: &Path) -> Result<Server, String> {
    make_empty(folder)?;
    let endpoint = free_address()?;
    let status = folder.join("status.json");
    let data = folder.join("data");
    let mut command = Command::new(binary);
    command.arg("up").arg("--data").arg(&data).args(["--listen", &endpoint.to_string()]);
    command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]).arg("--status-file").arg(&status);
    start(command, folder, data, endpoint, Some(status)).await
}

/// Garage's binary and version, if it is installed.
pub fn find_garage() -> Option<(PathBuf, String)> {
    let output = Command::new("garage").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then(|| (PathBuf::from("garage"), text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")))
}

/// Start a single Garage node that syncs as Keepstone does, and give it a layout and our key.
pub async fn garage(binary: &Path, folder: &Path) -> Result<Server, String> {
    make_empty(folder)?;
    let (endpoint, rpc) = (free_address()?, free_address()?);
    let data = folder.join("data");
    let config = folder.join("garage.toml");
    let text = format!(
        "metadata_dir = \"{data}/meta\"\ndata_dir = \"{data}/data\"\ndb_engine = \"lmdb\"\nmetadata_fsync = true\ndata_fsync = true\n\
         replication_factor = 1\nrpc_bind_addr = \"{rpc}\"\nrpc_public_addr = \"{rpc}\"\nrpc_secret = \"{SECRET_KEY}\"\n\
         [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"{endpoint}\"\nroot_domain = \".s3.localhost\"\n",
        data = data.display()
    );
    std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
    let mut command = Command::new(binary);
    command.arg("-c").arg(&config).arg("server").env("RUST_LOG", "garage=warn");
    let server = start(command, folder, data, endpoint, None).await?;
    let ask = |arguments: &[&str]| -> Result<String, String> {
        let output = Command::new(binary).arg("-c").arg(&config).args(arguments).output().map_err(|error| format!("garage: {error}"))?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(said) } else { Err(format!("garage {}: {said}", arguments.join(" "))) }
    };
    let id = ask(&["node", "id", "-q"])?;
    let id = id.split('@').next().unwrap_or("").trim().to_owned();
    ask(&["layout", "assign", "-z", "dc1", "-c", "1T", &id])?;
    ask(&["layout", "apply", "--version", "1"])?;
    ask(&["key", "import", "--yes", ACCESS_KEY, SECRET_KEY])?;
    ask(&["key", "allow", "--create-bucket", ACCESS_KEY])?;
    Ok(server)
}

async fn start(
    mut command: Command,
    folder: &Path,
    data: PathBuf,
    endpoint: SocketAddr,
    status: Option<PathBuf>,
) -> Result<Server, String> {
    let log = folder.join("server.log");
    let output = std::fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = output.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", command.get_program().to_string_lossy()))?;
    let client = Client::new(endpoint, Credentials::new(ACCESS_KEY, SECRET_KEY), REGION).with_timeout(Duration::from_secs(120));
    let mut server = Server { client, child, data, status };
    let begun = Instant::now();
    // Any HTTP reply will do: Garage refuses everything before it has a layout.
    while server.client.send(&Request::new("GET", "/").auth(Auth::Anonymous)).await.is_err() {
        let tail = || std::fs::read_to_string(&log).unwrap_or_default();
        if let Ok(Some(status)) = server.child.try_wait() {
            return Err(format!("the server ended at once ({status}):\n{}", tail()));
        }
        if begun.elapsed() > Duration::from_secs(60) {
            return Err(format!("the server does not answer after 60 s:\n{}", tail()));
        }
        runtime::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(server)
}

impl Server {
    /// What it used so far. Waits for a fresh status file, where there is one.
    pub async fn usage(&self) -> Usage {
        let syncs = match &self.status {
            Some(path) => {
                runtime::time::sleep(Duration::from_millis(2200)).await;
                let text = std::fs::read_to_string(path).unwrap_or_default();
                serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|status| status["syncs"].as_u64())
            }
            None => None,
        };
        Usage { cpu: self.cpu(), written: self.written(), syncs, on_disk: blocks(&self.data) }
    }

    /// Processor time of all its threads.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn written(&self) -> Option<u64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).ok()?;
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.trim().parse().ok())
    }

    /// Most bytes that were ever resident.
    pub fn resident_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_empty(folder: &Path) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(fail)?;
    }
    std::fs::create_dir_all(folder).map_err(fail)
}

fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(|error| format!("no free port: {error}"))
}

fn blocks(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let mut total = 0;
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        total += if metadata.is_dir() { blocks(&entry.path()) } else { metadata.blocks() * 512 };
    }
    total
}
