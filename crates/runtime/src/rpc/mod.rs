//! Requests between nodes: own frames with request ids, deadlines, epoch and checksum, over authenticated TCP.
//!
//! Each pair of nodes has two connections a direction, [`Class::Control`] and [`Class::Bulk`], so that a shard never
//! delays a heartbeat. A call to the own node takes a short cut inside the process that passes the same
//! limits, deadline and fences, but no socket.

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::time::Instant;

/// Number of a request's method. The high byte is the service: 1 storage, 2 consensus, 3 placement, 4 node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Method(pub u16);

/// Which connection a call takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Small and urgent: Raft, heartbeats, metadata.
    Control,
    /// Shards and snapshots.
    Bulk,
}

/// A request as its service sees it.
pub struct Request {
    pub from: NodeId,
    pub method: Method,
    /// The epoch that the caller acts under; 0 where the method has none.
    pub epoch: u64,
    /// When the caller gives up; a service stops working for it then.
    pub deadline: Instant,
    pub meta: Bytes,
    pub body: Bytes,
}

/// A reply. The parts of `body` are sent one after another without being copied together.
#[derive(Debug, Default)]
pub struct Reply {
    pub meta: Bytes,
    pub body: Vec<Bytes>,
}

/// A reply as the caller sees it.
#[derive(Debug, Clone)]
pub struct Received {
    pub meta: Bytes,
    pub body: Bytes,
}

/// Why a call has no reply. What was refused inside a service travels in the reply's meta instead.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Certainly not done: it never left this node or the peer refused it before its service saw it.
    #[error("node {to} unreachable: {reason}")]
    Unreachable { to: NodeId, reason: String },
    /// It may have been done, or may yet be done.
    #[error("no reply from node {to}: {reason}")]
    Unknown { to: NodeId, reason: String },
    /// Too many requests under way here or there; certainly not done.
    #[error("node {to} is busy")]
    Busy { to: NodeId },
}

/// Serves the methods of one service. Must return by the request's deadline.
pub type Service = Arc<dyn Fn(Request) -> BoxFuture<'static, Reply> + Send + Sync>;

/// Who this node is and whom it knows.
#[derive(Clone)]
pub struct Settings {
    pub node: NodeId,
    pub cluster: ClusterId,
    /// The cluster secret: both ends prove that they know it before the first request.
    pub secret: Secret,
    pub listen: SocketAddr,
    pub peers: BTreeMap<NodeId, SocketAddr>,
}

/// A secret that is never printed.
#[derive(Clone)]
pub struct Secret(pub Arc<[u8]>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// This node's end of all its connections; cheap to clone.
#[derive(Clone)]
pub struct Rpc {
    _todo: (),
}

impl Rpc {
    /// Not yet listening: services need a client before they can exist.
    pub fn new(settings: Settings) -> Rpc {
        let _ = settings;
        todo!()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        todo!()
    }

    /// Serve all methods whose high byte is `service`. Panics if it is taken.
    pub fn register(&self, service: u8, serve: Service) {
        let _ = (service, serve);
        todo!()
    }

    /// Listen, and serve until the returned task is dropped.
    pub async fn listen(&self) -> std::io::Result<crate::task::Task<()>> {
        todo!()
    }

    /// Call `method` on node `to` and wait for the reply until `deadline`.
    pub async fn call(
        &self,
        to: NodeId,
        class: Class,
        method: Method,
        epoch: u64,
        meta: Bytes,
        body: Vec<Bytes>,
        deadline: Instant,
    ) -> Result<Received, Error> {
        let _ = (to, class, method, epoch, meta, body, deadline);
        todo!()
    }

    /// Send a one-way message on the control connection; dropped if it cannot go at once.
    pub fn cast(&self, to: NodeId, method: Method, meta: Bytes, body: Vec<Bytes>) {
        let _ = (to, method, meta, body);
        todo!()
    }
}
