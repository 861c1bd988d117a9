//! Requests between nodes: own frames with request ids, deadlines, epoch and checksum, over authenticated TCP.
//!
//! Each pair of nodes has two connections a direction, [`Class::Control`] and [`Class::Bulk`], so that a shard never
//! delays a heartbeat. A call to the own node takes a short cut inside the process that passes the same
//! limits, deadline and fences, but no socket.

mod calls;
mod frame;
mod handshake;
mod incoming;
mod life;
mod outgoing;
mod services;

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use self::handshake::Identity;
use self::incoming::Listener;
use self::outgoing::Link;
use self::services::Services;
use crate::net::TcpListener;
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
    inner: Arc<Inner>,
}

struct Inner {
    own: Arc<Identity>,
    listen: SocketAddr,
    services: Arc<Services>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    address: Mutex<Option<SocketAddr>>,
}

#[derive(Clone)]
struct Peer {
    control: Arc<Link>,
    bulk: Arc<Link>,
}

impl Rpc {
    /// Not yet listening: services need a client before they can exist. Calls to other nodes work at once.
    pub fn new(settings: Settings) -> Rpc {
        let Settings { node, cluster, secret, listen, peers } = settings;
        let own = Arc::new(Identity { node, cluster, secret });
        let services = Arc::new(Services::new(node));
        let inner = Inner { own, listen, services, peers: Mutex::default(), address: Mutex::default() };
        let rpc = Rpc { inner: Arc::new(inner) };
        for (peer, address) in peers {
            rpc.introduce(peer, address);
        }
        rpc
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.own.node
    }

    /// Bytes that requests to this node hold of the room for them, in units of 1 KiB.
    pub fn held_bytes(&self) -> usize {
        self.inner.services.held_bytes()
    }

    /// `peer` is reached at `address` from now on. The own node needs no introduction.
    pub fn introduce(&self, peer: NodeId, address: SocketAddr) {
        if peer == self.node() {
            return;
        }
        let link = |class| Link::new(self.inner.own.clone(), peer, class, address);
        let known = {
            let mut peers = self.peers();
            peers.entry(peer).or_insert_with(|| Peer { control: link(Class::Control), bulk: link(Class::Bulk) }).clone()
        };
        known.control.set_address(address);
        known.bulk.set_address(address);
    }

    /// The other nodes of which an address is known, whether they can be reached or not.
    pub fn known_peers(&self) -> Vec<NodeId> {
        self.peers().keys().copied().collect()
    }

    /// Serve all methods whose high byte is `service`. Panics if it is taken.
    ///
    /// Requests run as tasks of their own, in no order. One-way messages of one sender are handed over in the order in
    /// which they were sent: the service's function is called and its future polled once, in turn; so a service that
    /// needs their order must have taken its place in a queue by its first await.
    pub fn register(&self, service: u8, serve: Service) {
        self.inner.services.register(service, serve);
    }

    /// Listen, and serve until the returned task is dropped. Then all services are ended and forgotten, calls to the
    /// own node fail, and connections to others are closed.
    pub async fn listen(&self) -> std::io::Result<crate::task::Task<()>> {
        let socket = TcpListener::bind(self.inner.listen).await?;
        *self.inner.address.lock().expect("nothing panics under this lock") = Some(socket.local_addr()?);
        let listener = Listener::new(self.inner.own.clone(), self.inner.services.clone());
        let stop = Stop(Arc::downgrade(&self.inner));
        Ok(crate::task::spawn(async move {
            let _stop = stop;
            listener.accept_all(socket).await;
        }))
    }

    /// The address that [`Rpc::listen`] bound: the port, if 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        *self.inner.address.lock().expect("nothing panics under this lock")
    }

    /// Call `method` on node `to` and wait for the reply until `deadline`.
    ///
    /// A peer that is known to be unreachable fails the call at once; otherwise connecting takes at most two seconds.
    #[allow(clippy::too_many_arguments)] // They are the fields of a request; a struct would only name them twice.
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
        if to == self.node() {
            return self.inner.services.call_own(method, epoch, meta, body, deadline).await;
        }
        frame::check_sizes(meta.len(), body.iter().map(Bytes::len).sum())
            .map_err(|error| Error::Unreachable { to, reason: error.to_string() })?;
        let link = self.link(to, class).ok_or_else(|| Error::Unreachable { to, reason: "its address is not known".to_string() })?;
        link.call(method, epoch, meta, body, deadline).await
    }

    /// Send a one-way message on the control connection; dropped if it cannot go at once.
    pub fn cast(&self, to: NodeId, method: Method, meta: Bytes, body: Vec<Bytes>) {
        if frame::check_sizes(meta.len(), body.iter().map(Bytes::len).sum()).is_err() {
            tracing::error!(%to, method = method.0, "a one-way message is too large and was dropped");
        } else if to == self.node() {
            self.inner.services.cast_own(method, meta, body);
        } else if let Some(link) = self.link(to, Class::Control) {
            link.cast(method, meta, body);
        }
    }

    /// Bytes of one-way messages to `to` that wait to be written. As many messages as may wait may hold much: a sender of large ones looks here first.
    pub fn queued_bytes(&self, to: NodeId) -> usize {
        self.link(to, Class::Control).map_or(0, |link| link.queued_bytes())
    }

    /// A hint: false if the last attempt to reach `to` failed, in either class, and none has succeeded since; or if its
    /// address is not known.
    pub fn is_reachable(&self, to: NodeId) -> bool {
        let is_up = |class| self.link(to, class).is_some_and(|link| link.is_up());
        to == self.node() || (is_up(Class::Control) && is_up(Class::Bulk))
    }

    fn link(&self, to: NodeId, class: Class) -> Option<Arc<Link>> {
        let peers = self.peers();
        let peer = peers.get(&to)?;
        Some(match class {
            Class::Control => peer.control.clone(),
            Class::Bulk => peer.bulk.clone(),
        })
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.inner.peers.lock().expect("nothing panics under this lock")
    }
}

/// Closes the connections that this node dialled when it stops listening.
struct Stop(Weak<Inner>);

impl Drop for Stop {
    fn drop(&mut self) {
        let Some(inner) = self.0.upgrade() else { return };
        inner.services.stop();
        let peers: Vec<Peer> = inner.peers.lock().expect("nothing panics under this lock").values().cloned().collect();
        for peer in peers {
            peer.control.close();
            peer.bulk.close();
        }
    }
}
