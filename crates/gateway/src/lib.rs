//! The S3 front end: HTTP, the gate, identity, write path, read path.
//!
//! `http` accepts connections and wraps requests; `gate` decides what a request asks for, or refuses it; `s3s` parses;
//! `operations/` do it; `write` and `read` move bytes between clients and slots.

mod admission;
mod conditions;
mod digest;
mod error;
mod incoming;
mod latency;
pub mod operations;
mod range;
mod read;
mod suspects;
mod volumes;
mod write;

pub use operations::Operations;

use std::net::SocketAddr;

/// What a gateway needs.
#[derive(Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    pub region: String,
    /// Access key and secret of the one root identity.
    pub access_key: String,
    pub secret_key: runtime::rpc::Secret,
    /// Accept presigned queries of signature version 2.
    pub presigned_v2: bool,
    /// Most bytes of object bodies held at once.
    pub bytes_max: usize,
    /// Virtual-host style base domains; others are path style.
    pub domains: Vec<String>,
    /// Objects up to this size lie in their record.
    pub inline_bytes_max: usize,
    pub blob_bytes: usize,
}

/// The clients of the services below.
#[derive(Clone)]
pub struct Cluster {
    pub placement: placement::Client,
    pub metadata: metadata::Client,
    pub storage: storage::Client,
    pub writer: protocol::WriterId,
}

/// A running gateway; ends when dropped.
pub struct Gateway {
    _task: runtime::task::Task<()>,
    address: SocketAddr,
}

impl Gateway {
    /// Listen and serve.
    pub async fn start(settings: Settings, cluster: Cluster) -> std::io::Result<Gateway> {
        let _ = (settings, cluster);
        todo!()
    }

    /// The address that is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
