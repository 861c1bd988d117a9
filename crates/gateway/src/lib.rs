#![doc = include_str!("../README.md")]

mod admission;
mod body;
mod buckets;
mod chunks;
mod conditions;
mod digest;
mod dispatch;
mod document;
mod error;
pub mod gate;
pub mod http;
pub mod identity;
mod incoming;
mod latency;
mod lifecycle;
pub mod operations;
mod patience;
mod range;
mod read;
mod revision;
pub mod secret_keys;
mod suspects;
mod tags;
mod version;
mod volumes;
mod write;

pub use operations::Operations;

use std::net::SocketAddr;
use std::sync::Arc;

/// What a gateway needs.
#[derive(Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    pub region: String,
    /// Access key and secret of the identity that this gateway has of its own, beside those of the root group.
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
    /// Length of the days of lifecycles in milliseconds: [`protocol::lifecycle::DAY_MS`], but where tests have no time.
    pub day_ms: u64,
}

/// The clients of the services below.
#[derive(Clone)]
pub struct Cluster {
    pub placement: placement::Client,
    pub metadata: metadata::Client,
    pub storage: storage::Client,
    pub writer: protocol::WriterId,
    /// Of the identities that the root group has.
    pub secret_keys: secret_keys::SecretKeys,
}

/// A running gateway; ends when dropped.
pub struct Gateway {
    _task: runtime::task::Task<()>,
    address: SocketAddr,
    memory: BodyMemory,
}

/// What requests hold of the memory that they share.
#[derive(Clone)]
pub struct BodyMemory {
    admission: Arc<admission::Admission>,
    room: body::ChunkRoom,
}

impl BodyMemory {
    /// Bytes of bodies that are held at present, as they were admitted.
    pub fn held_bytes(&self) -> usize {
        self.admission.held_bytes() + self.room.held_bytes()
    }
}

impl Gateway {
    /// Listen and serve.
    pub async fn start(settings: Settings, cluster: Cluster) -> std::io::Result<Gateway> {
        let gate = Gateway::gate(&settings, &cluster)?;
        let operations = Operations::new(settings.clone(), cluster);
        let admission = operations.admission().clone();
        let listener = runtime::net::TcpListener::bind(settings.listen).await?;
        let address = listener.local_addr()?;
        let edge = Arc::new(http::Edge::new(gate, operations, http::Limits::default()));
        let memory = BodyMemory { admission, room: edge.room().clone() };
        Ok(Gateway { _task: runtime::task::spawn(edge.serve(listener)), address, memory })
    }

    /// The gate of `settings`. Refuses settings that nobody could sign for.
    fn gate(settings: &Settings, cluster: &Cluster) -> std::io::Result<gate::Gate> {
        let invalid = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, why.to_owned());
        let secret_key = std::str::from_utf8(&settings.secret_key.0).map_err(|_| invalid("the secret key is not UTF-8"))?;
        if settings.access_key.is_empty() || settings.access_key.contains('/') || secret_key.is_empty() {
            return Err(invalid("access key and secret key must not be empty, and the access key must have no slash"));
        }
        if settings.region.is_empty() || settings.region.contains('/') {
            return Err(invalid("the region must not be empty and must have no slash"));
        }
        let own = identity::Identity::new(&settings.access_key, secret_key);
        Ok(gate::Gate {
            identities: identity::Identities::new(own, cluster.placement.clone(), cluster.secret_keys.clone()),
            region: settings.region.clone(),
            hosts: gate::target::Hosts::new(&settings.domains),
            presigned_v2: settings.presigned_v2,
        })
    }

    /// What requests hold; goes on telling when the gateway is served elsewhere.
    pub fn memory(&self) -> &BodyMemory {
        &self.memory
    }

    /// The address that is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
