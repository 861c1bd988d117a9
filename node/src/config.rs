//! Configuration as it is written: TOML. Parsed here, proved in [`crate::settings`]. Unknown keys are refused.
//!
//! Two files: the cluster's, the same on every node, and the node's own, which names it.

use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {reason}")]
    Read { path: PathBuf, reason: String },
    #[error("{path}: {reason}")]
    Parse { path: PathBuf, reason: String },
}

/// The node's own file, for `keepstone node --config FILE`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Path of the cluster's file, relative to this file.
    pub cluster_file: PathBuf,
    /// Which `[[node]]` of the cluster's file this process is.
    pub node: u64,
    /// Folders of this node's drives, in the order of the cluster's file; relative to this file.
    pub drives: Vec<PathBuf>,
    pub s3: S3,
    #[serde(default)]
    pub metadata: Metadata,
}

/// The replicas of metadata groups on a node.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Memory for pages of their databases (two thirds) and entries of their logs (one third), in bytes.
    pub bytes_max: usize,
}

impl Default for Metadata {
    fn default() -> Metadata {
        Metadata { bytes_max: protocol::limits::METADATA_BYTES_MAX }
    }
}

/// The S3 front end of a node.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    pub listen: SocketAddr,
    /// File with `access_key` and `secret_key`, mode 0600, relative to the node's file.
    pub credentials_file: PathBuf,
    /// Base domains of virtual-host style requests (`bucket.domain`); all others are path style.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Accept presigned URLs of signature version 2, which boto3, awscli v1 and s3cmd make by default.
    #[serde(default = "yes")]
    pub presigned_v2: bool,
    /// Most bytes of object bodies that this gateway holds at once.
    #[serde(default = "default_bytes_max")]
    pub bytes_max: usize,
}

/// The cluster's file: identity, protection, and the nodes of the static bootstrap.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// 32 hex digits, random, made once.
    pub id: String,
    /// File with the cluster secret (64 hex digits), mode 0600, relative to this file.
    pub secret_file: PathBuf,
    /// Scheme of the storage class STANDARD: `rs(k,m)` or `replicas(n)`.
    pub scheme: String,
    /// Take a scheme that has no spare left after the widest failure domain is lost.
    #[serde(default)]
    pub best_effort: bool,
    /// Metadata partitions.
    #[serde(default = "default_partitions")]
    pub partitions: u16,
    /// What clients sign for at every gateway.
    #[serde(default = "default_region")]
    pub region: String,
    pub node: Vec<ClusterNode>,
}

/// A node in the cluster's file.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterNode {
    pub id: u64,
    pub zone: String,
    /// Defaults to a rack of its own.
    pub rack: Option<String>,
    /// Where the node's RPC port listens and is reached.
    pub address: SocketAddr,
    /// Number of its drives.
    pub drives: u16,
}

/// Credentials of the identity that stands in a node's file.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
}

/// `us-east-1`, which clients sign for unless they are told otherwise.
pub fn default_region() -> String {
    "us-east-1".to_string()
}

fn yes() -> bool {
    true
}

fn default_bytes_max() -> usize {
    protocol::limits::GATEWAY_BYTES_MAX
}

fn default_partitions() -> u16 {
    4
}

/// Parse the TOML `text` of `path`.
pub fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, Error> {
    toml::from_str(text).map_err(|error| Error::Parse { path: path.to_path_buf(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let text = "cluster_file='c'\nnode=1\ndrives=[]\ncolour='red'\n[s3]\nlisten='127.0.0.1:1'\ncredentials_file='k'\n";
        let error = parse::<NodeFile>(Path::new("n.toml"), text).unwrap_err().to_string();
        assert!(error.contains("colour"), "{error}");
    }

    #[test]
    fn defaults_hold() {
        let text = "cluster_file='c'\nnode=1\ndrives=['d']\n[s3]\nlisten='127.0.0.1:1'\ncredentials_file='k'\n";
        let file: NodeFile = parse(Path::new("n.toml"), text).unwrap();
        assert!(file.s3.presigned_v2);
        assert_eq!(file.metadata.bytes_max, protocol::limits::METADATA_BYTES_MAX);
        let file: NodeFile = parse(Path::new("n.toml"), &format!("{text}[metadata]\nbytes_max=1\n")).unwrap();
        assert_eq!(file.metadata.bytes_max, 1);
        let text = "id='i'\nsecret_file='s'\nscheme='rs(4,2)'\nnode=[]\n";
        let file: ClusterFile = parse(Path::new("c.toml"), text).unwrap();
        assert_eq!((file.region.as_str(), file.partitions), ("us-east-1", 4));
    }
}
