//! The services of this node and the requests that they work on, from other nodes and from this one.
//!
//! Invariants: a request that was begun runs to its end, whether or not anybody still waits for its reply: a
//! half-done write is never cut at an arbitrary await. Requests under way and the bytes of their bodies are bounded.

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use protocol::NodeId;
use protocol::limits::REQUESTS_PER_CONNECTION_MAX;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Class, Error, Method, Received, Reply, Request, Service, frame};
use crate::sync::{OwnedSemaphorePermit, Semaphore, Sender, channel, oneshot};
use crate::task::TaskSet;
use crate::time::{Instant, now, timeout_at};

/// Requests that a node works on, over all connections.
const RUNNING_MAX: usize = 8192;
/// Bytes of bodies of control requests that a node holds.
const CONTROL_BYTES_MAX: usize = 64 << 20;
/// Bytes of bodies of bulk requests that a node holds.
const BULK_BYTES_MAX: usize = 96 << 20;
/// One-way messages of this node to itself that wait for their turn.
const OWN_CASTS_MAX: usize = 1024;
/// How long a one-way message stays worth working on.
pub(crate) const CAST_DEADLINE: Duration = Duration::from_secs(5);
/// Unit of the budgets for bodies.
const BUDGET_UNIT: usize = 1024;

pub(crate) struct Services {
    own: NodeId,
    registered: Mutex<Registered>,
    running: TaskSet,
    own_calls: Arc<Semaphore>,
    control_bytes: Arc<Semaphore>,
    bulk_bytes: Arc<Semaphore>,
}

#[derive(Default)]
struct Registered {
    services: BTreeMap<u8, Service>,
    own_casts: Option<Sender<Request>>,
    stopped: bool,
}

/// What became of a request that was begun.
pub(crate) enum Outcome {
    Reply(Reply),
    /// It was stopped before its end: the node stops, or the service panicked.
    Stopped,
}

/// Where the outcome of a request goes; sees [`Outcome::Stopped`] if it is dropped before.
pub(crate) struct Answer(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Answer {
    pub fn new(deliver: impl FnOnce(Outcome) + Send + 'static) -> Answer {
        Answer(Some(Box::new(deliver)))
    }

    fn give(mut self, outcome: Outcome) {
        if let Some(deliver) = self.0.take() {
            deliver(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(deliver) = self.0.take() {
            deliver(Outcome::Stopped);
        }
    }
}

impl Services {
    pub fn new(own: NodeId) -> Services {
        Services {
            own,
            registered: Mutex::default(),
            running: TaskSet::new(RUNNING_MAX),
            own_calls: Arc::new(Semaphore::new(REQUESTS_PER_CONNECTION_MAX)),
            control_bytes: Arc::new(Semaphore::new(CONTROL_BYTES_MAX / BUDGET_UNIT)),
            bulk_bytes: Arc::new(Semaphore::new(BULK_BYTES_MAX / BUDGET_UNIT)),
        }
    }

    /// Bytes of requests that are under way here.
    pub fn held_bytes(&self) -> usize {
        let free = self.control_bytes.available_permits() + self.bulk_bytes.available_permits();
        CONTROL_BYTES_MAX + BULK_BYTES_MAX - free * BUDGET_UNIT
    }

    pub fn register(&self, service: u8, serve: Service) {
        let mut registered = self.registered();
        assert!(!registered.services.contains_key(&service), "service {service} is registered once");
        if !registered.stopped {
            registered.services.insert(service, serve);
        }
    }

    /// End all work and forget the services, which hold clones of the `Rpc` that holds us.
    pub fn stop(&self) {
        let forgotten = {
            let mut registered = self.registered();
            registered.stopped = true;
            (std::mem::take(&mut registered.services), registered.own_casts.take())
        };
        drop(forgotten);
        self.running.end();
    }

    /// The service of `method`, or why there is none.
    pub fn find(&self, method: Method) -> Result<Service, String> {
        let registered = self.registered();
        if registered.stopped {
            return Err("this node stops".to_string());
        }
        let service = (method.0 >> 8) as u8;
        registered.services.get(&service).cloned().ok_or_else(|| format!("node {} has no service {service} (yet)", self.own))
    }

    /// Reserve room for a body of `bytes`: control requests at once or not at all, bulk requests until `deadline`.
    pub async fn reserve(&self, class: Class, bytes: u32, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(BUDGET_UNIT as u32);
        match class {
            Class::Control => self.control_bytes.clone().try_acquire_many_owned(units).ok(),
            Class::Bulk => match self.bulk_bytes.clone().try_acquire_many_owned(units) {
                Ok(permit) => Some(permit),
                Err(_) => timeout_at(deadline, self.bulk_bytes.clone().acquire_many_owned(units)).await.ok()?.ok(),
            },
        }
    }

    /// Begin `request` as a task of its own; `held` is given back when it ends. False: too many are under way.
    pub fn begin(&self, serve: Service, request: Request, answer: Answer, held: OwnedSemaphorePermit) -> bool {
        self.running.spawn(async move {
            let _held = held;
            let reply = serve(request).await;
            answer.give(Outcome::Reply(reply));
        })
    }

    /// Hand a one-way message to its service, in the order of the calls; what it does not finish at once becomes a task.
    pub fn deliver(&self, request: Request) {
        let Ok(serve) = self.find(request.method) else { return };
        let mut work = serve(request);
        if (&mut work).now_or_never().is_none() {
            // Full: the message is lost, as any one-way message may be.
            self.running.spawn(work.map(|_| ()));
        }
    }

    /// A call of this node to itself: the same limits, deadline, admission and task, but no socket.
    pub async fn call_own(&self, method: Method, epoch: u64, meta: Bytes, body: Vec<Bytes>, deadline: Instant) -> Result<Received, Error> {
        let to = self.own;
        let unreachable = |reason: String| Error::Unreachable { to, reason };
        let body_bytes = body.iter().map(Bytes::len).sum();
        frame::check_sizes(meta.len(), body_bytes).map_err(|error| unreachable(error.to_string()))?;
        if now() >= deadline {
            return Err(unreachable("the deadline passed before it was begun".to_string()));
        }
        let serve = self.find(method).map_err(unreachable)?;
        let held = self.own_calls.clone().try_acquire_owned().map_err(|_| Error::Busy { to })?;
        let (sender, receiver) = oneshot::channel();
        let answer = Answer::new(move |outcome| {
            // The caller may have given up.
            let _ = sender.send(outcome);
        });
        let request = Request { from: to, method, epoch, deadline, meta, body: concat(body) };
        if !self.begin(serve, request, answer, held) {
            return Err(Error::Busy { to });
        }
        let stopped = || Error::Unknown { to, reason: "the service stopped before its end".to_string() };
        match timeout_at(deadline, receiver).await {
            Ok(Ok(Outcome::Reply(reply))) => {
                let body = concat(reply.body);
                let fits = frame::check_sizes(reply.meta.len(), body.len());
                fits.map_err(|error| Error::Unknown { to, reason: format!("reply: {error}") })?;
                Ok(Received { meta: reply.meta, body })
            }
            Ok(_) => Err(stopped()),
            Err(_) => Err(Error::Unknown { to, reason: "no reply by the deadline".to_string() }),
        }
    }

    /// A one-way message of this node to itself.
    pub fn cast_own(self: &Arc<Self>, method: Method, meta: Bytes, body: Vec<Bytes>) {
        let deadline = now() + CAST_DEADLINE;
        let request = Request { from: self.own, method, epoch: 0, deadline, meta, body: concat(body) };
        let mut registered = self.registered();
        if registered.stopped {
            return;
        }
        let queue = registered.own_casts.get_or_insert_with(|| {
            let (sender, mut receiver) = channel::<Request>(OWN_CASTS_MAX);
            let services = Arc::downgrade(self);
            self.running.spawn(async move {
                while let Some(request) = receiver.recv().await {
                    let Some(services) = services.upgrade() else { return };
                    services.deliver(request);
                }
            });
            sender
        });
        // Full: lost, as any one-way message may be.
        let _ = queue.try_send(request);
    }

    fn registered(&self) -> std::sync::MutexGuard<'_, Registered> {
        self.registered.lock().expect("nothing panics under this lock but a second registration, which ends the node")
    }
}

/// The parts as one run; copied only if there are several.
fn concat(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        0 => Bytes::new(),
        1 => parts.remove(0),
        _ => {
            let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
            for part in &parts {
                whole.extend_from_slice(part);
            }
            whole.freeze()
        }
    }
}
