//! Files of the operator outside of drives: configuration, secrets, status. Secrets are written with mode 0600 and
//! refused when others may read them.

use node::config::{self, ClusterFile, Credentials, NodeFile};
use runtime::rpc::Secret;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of the operator cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("cannot read {path}: {reason}")]
    Read { path: PathBuf, reason: String },
    #[error("cannot write {path}: {reason}")]
    Write { path: PathBuf, reason: String },
    #[error("{path} can be read by others; run: chmod 600 {path}")]
    Exposed { path: PathBuf },
    #[error("{path}: {reason}")]
    Content { path: PathBuf, reason: String },
}

/// Read and parse a TOML file.
pub fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    Ok(config::parse(path, &read(path)?)?)
}

/// Read and parse a TOML file that holds secrets.
pub fn read_secret_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    check_private(path)?;
    // The parser's message would quote the line, and with it a secret.
    config::parse(path, &read(path)?).map_err(|_| Error::Content {
        path: path.to_path_buf(),
        reason: "is not the TOML that is expected here, with no other keys".to_string(),
    })
}

/// The cluster secret: 64 hex digits on one line.
pub fn read_cluster_secret(path: &Path) -> Result<Secret, Error> {
    check_private(path)?;
    let content = |reason: &str| Error::Content { path: path.to_path_buf(), reason: reason.to_string() };
    let bytes = hex::decode(read(path)?.trim()).map_err(|_| content("the cluster secret must be 64 hex digits"))?;
    if bytes.len() != 32 {
        return Err(content("the cluster secret must be 64 hex digits"));
    }
    Ok(Secret(Arc::from(bytes)))
}

/// A node's configuration with every path resolved and every file read.
pub struct NodeConfig {
    pub file: NodeFile,
    pub cluster: ClusterFile,
    pub secret: Secret,
    pub credentials: Credentials,
    pub drives: Vec<PathBuf>,
}

/// Read the node's file and all that it names.
pub fn read_node_config(path: &Path) -> Result<NodeConfig, Error> {
    let file: NodeFile = read_toml(path)?;
    let cluster_path = beside(path, &file.cluster_file);
    let cluster: ClusterFile = read_toml(&cluster_path)?;
    let secret = read_cluster_secret(&beside(&cluster_path, &cluster.secret_file))?;
    let credentials = read_secret_toml(&beside(path, &file.s3.credentials_file))?;
    let drives = file.drives.iter().map(|drive| beside(path, drive)).collect();
    Ok(NodeConfig { file, cluster, secret, credentials, drives })
}

/// `relative` as seen from the folder of `file`.
fn beside(file: &Path, relative: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new(".")).join(relative)
}

/// Write a file with mode 0600, durably and as a whole.
pub fn write_secret(path: &Path, content: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::Write { path: path.to_path_buf(), reason: error.to_string() };
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(failed)?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// Replace a status file that others poll; not durable.
pub fn write_status(path: &Path, content: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::Write { path: path.to_path_buf(), reason: error.to_string() };
    let draft = path.with_extension("draft");
    fs::write(&draft, content).map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)
}

/// Create `folder` and its parents.
pub fn create_folder(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|error| Error::Write { path: folder.to_path_buf(), reason: error.to_string() })
}

/// Whether something stands at `path`.
pub fn exists(path: &Path) -> bool {
    path.exists()
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| Error::Read { path: path.to_path_buf(), reason: error.to_string() })
}

fn check_private(path: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(|error| Error::Read { path: path.to_path_buf(), reason: error.to_string() })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Error::Exposed { path: path.to_path_buf() });
    }
    Ok(())
}
