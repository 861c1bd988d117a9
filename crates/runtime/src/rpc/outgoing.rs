//! Connections that this node dials: one [`Link`] per peer and class, each with at most one [`Connection`] at a time.
//!
//! Invariants: a call that was never begun to be written fails as unreachable, one that was fails as unknown;
//! a withdrawn call is not written any more, and at most the one frame that is being written is still held for its
//! sake; queue and calls under way are bounded; a peer that owes an answer is given up after [`SILENCE_MAX`], whether or
//! not anybody still waits; a dead connection fails all its calls at once.

use bytes::Bytes;
use protocol::NodeId;
use protocol::limits::REQUESTS_PER_CONNECTION_MAX;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use super::calls::{Calls, Entry, Refused, Unsent};
use super::frame::{self, Frame, Kind};
use super::handshake::{self, Identity, Session};
use super::life::Life;
use super::{Class, Error, Method, Received};
use crate::io::{AsyncWriteExt, BufReader, split};
use crate::net::TcpStream;
use crate::sync::{Receiver, Sender, channel};
use crate::task::Task;
use crate::time::{Instant, now, since, sleep, timeout, timeout_at};

/// The longest that connecting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// The longest that the handshake may take after it.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(1);
/// After a failure, calls fail at once for this long.
const BACKOFF: Duration = Duration::from_millis(200);
/// For this long after a peer was silent, calls fail at once while it is dialled again.
const SILENCE_REMEMBERED: Duration = Duration::from_secs(5);
/// Interval of pings.
const PING: Duration = Duration::from_secs(1);
/// A connection that has owed an answer for this long, and shown no sign of life, is given up.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A bulk connection without calls, and silent for this long, is closed.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// One-way messages and pings that may wait beside the calls.
const CASTS_QUEUED_MAX: usize = 4096;
/// Reads up to this size are buffered.
const READ_BUFFER_BYTES: usize = 8 << 10;
/// Bytes of a refusal that are shown.
const REASON_BYTES_MAX: usize = 256;

/// One class of connections to one peer.
pub(crate) struct Link {
    own: Arc<Identity>,
    to: NodeId,
    class: Class,
    state: Mutex<State>,
}

struct State {
    address: SocketAddr,
    current: Option<(Arc<Connection>, Task<()>)>,
    failed: Option<Failure>,
}

/// Why and when the last attempt or connection ended badly.
#[derive(Clone)]
struct Failure {
    at: Instant,
    reason: String,
    /// The peer did not even refuse.
    silent: bool,
}

/// One connection, from the first attempt to dial it to its end.
struct Connection {
    queue: Sender<Outbound>,
    calls: Calls,
    established: AtomicBool,
    /// Bytes of one-way messages that wait to be written, or are being written.
    casts: Arc<AtomicUsize>,
    /// Why calls do not wait for this connection to be established, if they do not.
    impatient: Option<String>,
}

enum Outbound {
    /// An id alone: what it sends stays with the call, and goes when that is withdrawn.
    Call(u64),
    Cast {
        method: Method,
        meta: Bytes,
        body: Vec<Bytes>,
        queued: Queued,
    },
    Ping,
}

/// Counts the bytes of a one-way message until it is written, or dropped.
struct Queued {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

impl Queued {
    fn new(of: &Arc<AtomicUsize>, bytes: usize) -> Queued {
        of.fetch_add(bytes, Ordering::Relaxed);
        Queued { of: of.clone(), bytes }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Link {
    pub fn new(own: Arc<Identity>, to: NodeId, class: Class, address: SocketAddr) -> Arc<Link> {
        Arc::new(Link { own, to, class, state: Mutex::new(State { address, current: None, failed: None }) })
    }

    /// The peer is at `address` from now on.
    pub fn set_address(&self, address: SocketAddr) {
        let replaced = {
            let mut state = self.state();
            if state.address == address {
                return;
            }
            state.address = address;
            state.failed = None;
            state.current.take()
        };
        drop(replaced);
    }

    /// End the connection; its calls fail.
    pub fn close(&self) {
        let current = self.state().current.take();
        drop(current);
    }

    /// False if the last attempt failed, or the connection broke and was not established again.
    pub fn is_up(&self) -> bool {
        self.state().failed.is_none()
    }

    /// Call and wait for the reply until `deadline`.
    pub async fn call(
        self: &Arc<Self>,
        method: Method,
        epoch: u64,
        meta: Bytes,
        body: Vec<Bytes>,
        deadline: Instant,
    ) -> Result<Received, Error> {
        let to = self.to;
        if now() >= deadline {
            return Err(Error::Unreachable { to, reason: "the deadline passed before it was sent".to_string() });
        }
        let mut unsent = Unsent { method, epoch, deadline, meta, body };
        let (connection, id, mut receiver) = loop {
            let connection = self.connection()?;
            match connection.calls.enter(unsent) {
                Ok((id, receiver)) => break (connection, id, receiver),
                // An idle connection may have ended since; the next one is a new one.
                Err(Refused::Ended(back)) => unsent = back,
                Err(Refused::Full) => return Err(Error::Busy { to }),
            }
        };
        let entry = Entry { calls: &connection.calls, id };
        if connection.queue.try_send(Outbound::Call(id)).is_err() {
            return Err(Error::Busy { to });
        }
        match timeout_at(deadline, &mut receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Unknown { to, reason: "the connection broke".to_string() }),
            Err(_) => match entry.withdraw() {
                Some(call) if !call.is_written() => {
                    Err(Error::Unreachable { to, reason: "the deadline passed before it was sent".to_string() })
                }
                Some(_) => Err(Error::Unknown { to, reason: "no reply by the deadline".to_string() }),
                // The reply came at the last moment, or is being read.
                None => receiver
                    .try_recv()
                    .unwrap_or_else(|_| Err(Error::Unknown { to, reason: "the reply was not complete by the deadline".to_string() })),
            },
        }
    }

    /// Send without waiting; dropped if it cannot be queued.
    pub fn cast(self: &Arc<Self>, method: Method, meta: Bytes, body: Vec<Bytes>) {
        if let Ok(connection) = self.connection() {
            let queued = Queued::new(&connection.casts, meta.len() + body.iter().map(Bytes::len).sum::<usize>());
            let _ = connection.queue.try_send(Outbound::Cast { method, meta, body, queued });
        }
    }

    /// Bytes of one-way messages that are not written yet.
    pub fn queued_bytes(&self) -> usize {
        self.state().current.as_ref().map_or(0, |(connection, _)| connection.casts.load(Ordering::Relaxed))
    }

    /// The connection to use: the present one, or a new one that is being dialled.
    fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, Error> {
        let mut state = self.state();
        let connection = match &state.current {
            Some((connection, _)) if !connection.calls.has_ended() => connection.clone(),
            _ => {
                let failed = state.failed.as_ref().map(|failure| (failure, since(failure.at)));
                if let Some((failure, age)) = failed
                    && age < BACKOFF
                {
                    return Err(Error::Unreachable { to: self.to, reason: failure.reason.clone() });
                }
                let impatient =
                    failed.filter(|(failure, age)| failure.silent && *age < SILENCE_REMEMBERED).map(|(failure, _)| failure.reason.clone());
                let (queue, queued) = channel(REQUESTS_PER_CONNECTION_MAX + CASTS_QUEUED_MAX);
                let connection = Arc::new(Connection {
                    queue,
                    calls: Calls::new(self.to),
                    established: AtomicBool::new(false),
                    casts: Arc::default(),
                    impatient,
                });
                let driver = Driver {
                    link: Arc::downgrade(self),
                    own: self.own.clone(),
                    to: self.to,
                    class: self.class,
                    address: state.address,
                    connection: connection.clone(),
                };
                let task = crate::task::spawn(driver.drive(queued));
                state.current = Some((connection.clone(), task));
                connection
            }
        };
        match &connection.impatient {
            Some(reason) if !connection.established.load(Ordering::Relaxed) => {
                Err(Error::Unreachable { to: self.to, reason: reason.clone() })
            }
            _ => Ok(connection),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

/// Dials a connection and moves its frames. However it ends, dropped in the middle included, no call waits on.
struct Driver {
    link: Weak<Link>,
    own: Arc<Identity>,
    to: NodeId,
    class: Class,
    address: SocketAddr,
    connection: Arc<Connection>,
}

/// How a connection ended.
struct Ended {
    reason: String,
    silent: bool,
    /// In good order: the next call dials at once.
    clean: bool,
}

impl Driver {
    async fn drive(self, queued: Receiver<Outbound>) {
        let ended = match self.dial().await {
            Ok((stream, session)) => {
                self.connection.established.store(true, Ordering::Relaxed);
                self.note(None);
                self.run(stream, session, queued).await
            }
            Err(ended) => ended,
        };
        tracing::debug!(to = %self.to, class = ?self.class, reason = %ended.reason, "connection ended");
        let failure = Failure { at: now(), reason: ended.reason.clone(), silent: ended.silent };
        self.note(if ended.clean { None } else { Some(failure) });
        self.connection.calls.end(&ended.reason);
    }

    fn note(&self, failure: Option<Failure>) {
        if let Some(link) = self.link.upgrade() {
            let mut state = link.state();
            // Of an older connection only if no newer one took its place.
            if state.current.as_ref().is_none_or(|(current, _)| Arc::ptr_eq(current, &self.connection)) {
                state.failed = failure;
            }
        }
    }

    async fn dial(&self) -> Result<(TcpStream, Session), Ended> {
        let failed = |reason: String, silent| Ended { reason, silent, clean: false };
        let mut stream = match timeout(CONNECT_WAIT, TcpStream::connect(self.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(format!("{}: {error}", self.address), false)),
            Err(_) => return Err(failed(format!("{}: no answer within {CONNECT_WAIT:?}", self.address), true)),
        };
        match timeout(HANDSHAKE_WAIT, handshake::dial(&mut stream, &self.own, self.to, self.class)).await {
            Ok(Ok(session)) => Ok((stream, session)),
            Ok(Err(error)) => Err(failed(format!("{}: {error}", self.address), false)),
            Err(_) => Err(failed(format!("{}: no handshake within {HANDSHAKE_WAIT:?}", self.address), true)),
        }
    }

    async fn run(&self, stream: TcpStream, session: Session, mut queued: Receiver<Outbound>) -> Ended {
        let (reader, mut writer) = split(stream);
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        let (mut send, mut receive) = (session.send, session.receive);
        let life = Life::new();
        let broken = |reason: String| Ended { reason, silent: false, clean: false };

        let reading = async {
            loop {
                match self.read_one(&mut reader, &mut receive, &life).await {
                    Ok(true) => {}
                    Ok(false) => return Ended { reason: "the peer closed the connection".to_string(), silent: false, clean: true },
                    Err(error) => return broken(error.to_string()),
                }
            }
        };
        let writing = async {
            while let Some(outbound) = queued.recv().await {
                let mut next = Some(outbound);
                while let Some(outbound) = next {
                    if let Some((frame, _queued)) = self.frame(outbound) {
                        // Before it is written: a peer that is dead may never let that come to its end.
                        life.ask();
                        if let Err(error) = frame::write(&mut writer, &mut send, &frame, &life).await {
                            return broken(error.to_string());
                        }
                    }
                    next = queued.try_recv().ok();
                }
                if let Err(error) = writer.flush().await {
                    return broken(error.to_string());
                }
            }
            Ended { reason: "this node stops".to_string(), silent: false, clean: true }
        };
        let watching = async {
            loop {
                sleep(PING).await;
                // Not only while calls wait: callers that give up early must not hide that the peer is dead.
                let owed = life.unanswered();
                if let Some(silence) = owed.filter(|silence| *silence >= SILENCE_MAX) {
                    return Ended { reason: format!("silent for {} s", silence.as_secs()), silent: true, clean: false };
                }
                if self.class == Class::Control || owed.is_some() || !self.connection.calls.is_empty() {
                    // Full: enough is under way to show whether the peer lives.
                    let _ = self.connection.queue.try_send(Outbound::Ping);
                } else if life.silence() >= IDLE_MAX && self.connection.calls.end_if_empty() {
                    return Ended { reason: "idle".to_string(), silent: false, clean: true };
                }
            }
        };
        crate::select! {
            ended = reading => ended,
            ended = writing => ended,
            ended = watching => ended,
        }
    }

    /// The frame for `outbound`, and what counts it while it is written, unless nobody waits for it any more.
    fn frame(&self, outbound: Outbound) -> Option<(Frame, Option<Queued>)> {
        match outbound {
            Outbound::Call(id) => {
                let begun = now();
                let Unsent { method, epoch, deadline, meta, body } = self.connection.calls.begin_writing(id, begun)?;
                let remaining_ms = u32::try_from(deadline.saturating_duration_since(begun).as_millis()).unwrap_or(u32::MAX).max(1);
                Some((Frame { kind: Kind::Request, method: method.0, id, epoch, remaining_ms, meta, body }, None))
            }
            Outbound::Cast { method, meta, body, queued } => {
                let frame = Frame { kind: Kind::Cast, method: method.0, id: 0, epoch: 0, remaining_ms: 0, meta, body };
                Some((frame, Some(queued)))
            }
            Outbound::Ping => Some((Frame::bare(Kind::Ping, 0), None)),
        }
    }

    /// Read one frame and give it to who waits for it. False: the peer closed the connection.
    async fn read_one<R>(&self, reader: &mut R, seal: &mut frame::Seal, life: &Life) -> Result<bool, frame::Error>
    where
        R: crate::io::AsyncRead + Unpin,
    {
        let Some(header) = frame::read_header(reader, seal, life).await? else { return Ok(false) };
        let to = self.to;
        let call = match header.kind {
            Kind::Pong => None,
            Kind::Reply | Kind::Busy | Kind::Refused | Kind::Stopped => self.connection.calls.take(header.id),
            got => return Err(frame::Error::Kind { got: got as u8 }),
        };
        let Some(call) = call else {
            frame::discard_sections(reader, &header, life).await?;
            return Ok(true);
        };
        let (meta, body) = frame::read_sections(reader, &header, life).await?;
        let result = match header.kind {
            Kind::Reply => Ok(Received { meta, body }),
            Kind::Busy => Err(Error::Busy { to }),
            Kind::Refused => {
                let reason = String::from_utf8_lossy(&meta[..meta.len().min(REASON_BYTES_MAX)]).into_owned();
                Err(Error::Unreachable { to, reason })
            }
            _ => Err(Error::Unknown { to, reason: "the service stopped before its end".to_string() }),
        };
        call.finish(result);
        Ok(true)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.connection.calls.end("the connection was closed here");
    }
}
