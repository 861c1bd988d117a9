//! `keepstone up`: one process with every role on six drive folders of one machine.

use crate::files;
use ::node::config::Credentials;
use ::node::drives::{self, Refused, Slot};
use ::node::node::{self, Node};
use ::node::settings::{self, Settings};
use clap::Args;
use protocol::{ClusterMap, Drive, DriveId, DriveState, GroupId, NodeId, Scheme};
use runtime::rpc::Secret;
use serde::Deserialize;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folders, and so drives, of a one-machine cluster.
pub const FOLDERS: u16 = 6;
const SCHEME: Scheme = Scheme::ReedSolomon { k: 4, m: 2 };
const PARTITIONS: u64 = 4;
const THIS: NodeId = NodeId(1);

/// Start a whole Keepstone on this machine: six drive folders, an S3 endpoint, one process.
#[derive(Args, Debug, Clone)]
pub struct Up {
    /// Folder for the six drives, the cluster's identity and the credentials; made if missing
    #[arg(long, default_value = "./keepstone-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Address of the S3 endpoint
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Access key, 3 to 128 letters and digits; with --secret-key. Default: made at the first start and kept in DIR/credentials.toml
    #[arg(long, requires = "secret_key", value_name = "KEY")]
    pub access_key: Option<String>,
    /// Secret key, 8 to 128 characters; others on this machine can see it in the process list, DIR/credentials.toml they cannot
    #[arg(long, requires = "access_key", value_name = "SECRET")]
    pub secret_key: Option<String>,
    /// Region that clients must sign for. What is said at the first start stands. Default: us-east-1
    #[arg(long)]
    pub region: Option<String>,
    /// Refuse presigned URLs of signature version 2 (boto3, awscli v1 and s3cmd make them by default)
    #[arg(long)]
    pub no_presigned_v2: bool,
    /// Write figures about this process to FILE as JSON every second
    #[arg(long, value_name = "FILE")]
    pub status_file: Option<PathBuf>,
}

/// `up` cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Files(#[from] files::Error),
    #[error(transparent)]
    Settings(#[from] settings::Error),
    #[error(transparent)]
    Drives(#[from] drives::Error),
    #[error(transparent)]
    Node(#[from] node::Error),
    #[error("{0}")]
    Credentials(String),
    #[error("{0}")]
    Region(String),
}

/// The identity of a one-machine cluster, kept in `DIR/cluster.toml` with mode 0600.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    id: String,
    secret: String,
    region: String,
}

/// A started one-machine cluster.
pub struct Running {
    pub node: Node,
    /// For people: endpoint, keys, protection, snippets.
    pub banner: String,
}

impl Up {
    /// Start everything and wait until S3 is served.
    pub async fn start(self) -> Result<Running, Error> {
        files::create_folder(&self.data)?;
        let identity = self.identity()?;
        let credentials = self.credentials()?;
        let cluster = settings::cluster_id(&identity.id)?;
        let mut secret = [0; 32];
        hex::decode_to_slice(&identity.secret, &mut secret)
            .map_err(|_| Error::Credentials("cluster.toml: the secret must be 64 hex digits".to_string()))?;

        let paths: Vec<PathBuf> = (1..=FOLDERS).map(|number| self.data.join(format!("drive-{number}"))).collect();
        let bootstrap = placement::Bootstrap {
            map: map(cluster, self.listen, &paths),
            partitions: (1..=PARTITIONS).map(GroupId).collect(),
            scheme: SCHEME,
            best_effort: true,
            region: identity.region.clone(),
        };
        let first_start = paths.iter().all(|path| !files::exists(path)) || is_unused(&paths);
        if first_start {
            for path in &paths {
                files::create_folder(path)?;
            }
        }
        let slots = open(&paths);
        if first_start && drives::is_first_start(&slots) {
            drives::bootstrap(cluster, THIS, &slots)?;
        }
        let settings = Settings {
            node: THIS,
            secret: Secret(Arc::from(&secret[..])),
            bootstrap: bootstrap.clone(),
            listens: false,
            gateway: gateway_settings(self.listen, &identity.region, &credentials, Vec::new(), !self.no_presigned_v2),
            consensus: Default::default(),
            lifecycle_every: settings::LIFECYCLE_EVERY,
            machine: node::machine,
        };
        let node = Node::start(settings, slots).await?;
        let endpoint = node.ready().await?;
        let banner = banner(&self.data, endpoint, &credentials, &bootstrap, &node);
        Ok(Running { node, banner })
    }

    /// Read or make the cluster's identity.
    fn identity(&self) -> Result<Identity, Error> {
        let path = self.data.join("cluster.toml");
        if !files::exists(&path) {
            let (mut id, mut secret) = ([0; 16], [0; 32]);
            runtime::entropy::fill(&mut id);
            runtime::entropy::fill(&mut secret);
            let region = self.region.clone().unwrap_or_else(::node::config::default_region);
            // It stands for good: refused before anything is made.
            placement::root::map::check_region(&region).map_err(Error::Region)?;
            let (id, secret) = (hex::encode(id), hex::encode(secret));
            files::write_secret(&path, &format!("id = \"{id}\"\nsecret = \"{secret}\"\nregion = \"{region}\"\n"))?;
        }
        let identity: Identity = files::read_secret_toml(&path)?;
        match &self.region {
            Some(region) if *region != identity.region => {
                Err(Error::Region(format!("--region {region}: this cluster was founded with the region {}, which stands", identity.region)))
            }
            _ => Ok(identity),
        }
    }

    /// The keys given by flags, or the kept ones, or new ones.
    fn credentials(&self) -> Result<Credentials, Error> {
        let path = self.data.join("credentials.toml");
        let credentials = match (&self.access_key, &self.secret_key) {
            (Some(access_key), Some(secret_key)) => Credentials { access_key: access_key.clone(), secret_key: secret_key.clone() },
            _ => {
                if !files::exists(&path) {
                    let (mut access, mut secret) = ([0; 10], [0; 20]);
                    runtime::entropy::fill(&mut access);
                    runtime::entropy::fill(&mut secret);
                    let access = hex::encode_upper(access);
                    files::write_secret(&path, &format!("access_key = \"{access}\"\nsecret_key = \"{}\"\n", hex::encode(secret)))?;
                }
                files::read_secret_toml(&path)?
            }
        };
        check_credentials(&credentials).map_err(Error::Credentials)?;
        Ok(credentials)
    }
}

/// Lengths and characters that every S3 client can carry.
pub fn check_credentials(credentials: &Credentials) -> Result<(), String> {
    let access = &credentials.access_key;
    if !(3..=128).contains(&access.len()) || !access.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("the access key must have 3 to 128 letters and digits".to_string());
    }
    if !(8..=128).contains(&credentials.secret_key.len()) || !credentials.secret_key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the secret key must have 8 to 128 printable ASCII characters".to_string());
    }
    Ok(())
}

/// Settings of a gateway with the default limits.
pub fn gateway_settings(
    listen: SocketAddr,
    region: &str,
    credentials: &Credentials,
    domains: Vec<String>,
    presigned_v2: bool,
) -> gateway::Settings {
    gateway::Settings {
        listen,
        region: region.to_string(),
        access_key: credentials.access_key.clone(),
        secret_key: Secret(Arc::from(credentials.secret_key.as_bytes())),
        presigned_v2,
        bytes_max: protocol::limits::GATEWAY_BYTES_MAX,
        domains,
        inline_bytes_max: protocol::limits::INLINE_BYTES_MAX,
        day_ms: protocol::lifecycle::DAY_MS,
        blob_bytes: protocol::limits::BLOB_BYTES,
    }
}

/// Open each folder as a drive; one that cannot be opened stands in the list with its reason.
pub fn open_folders(node: NodeId, paths: &[PathBuf]) -> Vec<Slot> {
    paths
        .iter()
        .zip(drives::ids(node))
        .map(|(path, drive)| {
            let refuse = |reason: String| Refused { drive, label: path.display().to_string(), reason };
            if !files::exists(path) {
                return Err(refuse("the folder is missing; bring it back, or mount its disk, and start again".to_string()));
            }
            runtime::disk::open_folder(path).map_err(|error| refuse(error.to_string()))
        })
        .collect()
}

fn open(paths: &[PathBuf]) -> Vec<Slot> {
    open_folders(THIS, paths)
}

/// Whether none of the folders that exist holds anything of a mounted drive: a first start that was cut short.
fn is_unused(paths: &[PathBuf]) -> bool {
    paths.iter().filter(|path| files::exists(path)).all(|path| match runtime::disk::open_folder(path) {
        Ok(disk) => match drive::inspect(&disk) {
            Ok(drive::Found::Empty) => true,
            Ok(drive::Found::Formatted(identity)) => identity.mounts == 0,
            Ok(_) | Err(_) => false,
        },
        Err(_) => false,
    })
}

fn map(cluster: protocol::ClusterId, address: SocketAddr, paths: &[PathBuf]) -> ClusterMap {
    let drives = paths
        .iter()
        .zip(0..)
        .map(|(path, ordinal)| Drive { id: DriveId::at_bootstrap(THIS, ordinal), state: DriveState::In, weight: 100, label: label(path) })
        .collect();
    let node = protocol::Node { id: THIS, zone: "here".to_string(), rack: "here".to_string(), address, drives };
    ClusterMap { cluster, version: 1, nodes: vec![node] }
}

fn label(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn banner(data: &Path, endpoint: SocketAddr, credentials: &Credentials, bootstrap: &placement::Bootstrap, node: &Node) -> String {
    let (access, secret, region, data) = (&credentials.access_key, &credentials.secret_key, &bootstrap.region, data.display());
    let protection = placement::describe(&bootstrap.map, bootstrap.scheme, true);
    let mut text = format!(
        "Keepstone serves S3 at  http://{endpoint}\n\
         \x20 access key            {access}\n\
         \x20 secret key            {secret}\n\
         \x20 region                {region}\n\
         \x20 data                  {data}\n\
         \x20 protection            {protection}\n"
    );
    for drive in node.refused() {
        let _ = writeln!(text, "  REFUSED               {}: {}", drive.label, drive.reason);
    }
    for drive in node.without_replicas() {
        let _ = writeln!(text, "  WITHOUT METADATA      {}: {}; its objects' shards are served", drive.label, drive.reason);
    }
    let _ = write!(
        text,
        "\nawscli:\n\
         \x20 export AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY='{secret}' AWS_DEFAULT_REGION={region}\n\
         \x20 export AWS_ENDPOINT_URL=http://{endpoint}\n\
         \x20 aws s3 mb s3://photos\n\
         \x20 aws s3 cp README.md s3://photos/\n\
         \nboto3:\n\
         \x20 import boto3\n\
         \x20 s3 = boto3.client('s3', endpoint_url='http://{endpoint}', region_name='{region}',\n\
         \x20                   aws_access_key_id='{access}', aws_secret_access_key='{secret}')\n\
         \x20 s3.create_bucket(Bucket='photos')\n\
         \x20 s3.put_object(Bucket='photos', Key='hello', Body=b'world')\n\
         \nCtrl-C stops it; the data stays in {data}.\n"
    );
    text
}
