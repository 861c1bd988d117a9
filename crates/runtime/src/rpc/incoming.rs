//! Connections that other nodes dialled: accepted, authenticated, served.
//!
//! Invariants: a stranger holds a fixed few hundred bytes for at most [`HANDSHAKE_WAIT`], and strangers and peers are
//! each bounded in number; requests under way on a connection and the bytes of all bodies are bounded before they are
//! read; every request that was begun is answered if the connection lives.

use protocol::NodeId;
use protocol::limits::REQUESTS_PER_CONNECTION_MAX;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::frame::{self, Frame, Header, Kind};
use super::handshake::{self, Identity, Session};
use super::life::Life;
use super::services::{Answer, CAST_DEADLINE, Outcome, Services};
use super::{Class, Method, Request};
use crate::io::{AsyncWriteExt, BufReader, split};
use crate::net::{TcpListener, TcpStream};
use crate::sync::{Notify, OwnedSemaphorePermit, Semaphore, Sender, channel};
use crate::task::TaskSet;
use crate::time::{Instant, now, since, sleep, timeout};

/// The longest that a handshake may take.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(3);
/// Connections that have not proved anything yet.
const STRANGERS_MAX: usize = 256;
/// Connections of peers.
const CONNECTIONS_MAX: usize = 4096;
/// Connections of one class from one peer: a new one and old ones whose end we have not noticed. The oldest gives way.
const CONNECTIONS_PER_PEER_MAX: usize = 4;
/// A control connection brings a ping each second: silent for this long, it is dead.
const CONTROL_SILENCE_MAX: Duration = Duration::from_secs(15);
/// A bulk connection is closed by its dialler when it is idle; silent for this long, it is dead.
const BULK_SILENCE_MAX: Duration = Duration::from_secs(90);
/// How often silence is looked at.
const WATCH: Duration = Duration::from_secs(1);
/// The longest that a service may take for one request, whatever the caller asks for.
const DEADLINE_MAX: Duration = Duration::from_secs(600);
/// Answers beside those of requests under way that may wait: pongs and refusals.
const SPARE_ANSWERS_MAX: usize = 256;
/// Reads up to this size are buffered.
const READ_BUFFER_BYTES: usize = 8 << 10;
/// At most one line about refused peers in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections for as long as it is polled; all of them end with it.
pub(crate) struct Listener {
    own: Arc<Identity>,
    services: Arc<Services>,
    connections: TaskSet,
    strangers: Arc<Semaphore>,
    peers: Mutex<Peers>,
    quiet: Quiet,
}

/// The connections of each peer, oldest first.
#[derive(Default)]
struct Peers {
    admitted: BTreeMap<(NodeId, Class), VecDeque<Arc<Notify>>>,
}

impl Listener {
    pub fn new(own: Arc<Identity>, services: Arc<Services>) -> Listener {
        Listener {
            own,
            services,
            connections: TaskSet::new(STRANGERS_MAX + CONNECTIONS_MAX),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            peers: Mutex::default(),
            quiet: Quiet::default(),
        }
    }

    pub async fn accept_all(self, socket: TcpListener) {
        let listener = Arc::new(self);
        // The tasks of connections must not keep the set alive that holds them.
        let _end = EndWith(listener.clone());
        loop {
            let (stream, address) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    listener.quiet.log(|| format!("accept: {error}"));
                    // Out of file descriptors, or a peer that was gone already: do not spin.
                    sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let Ok(stranger) = listener.strangers.clone().try_acquire_owned() else {
                listener.quiet.log(|| format!("{address}: {STRANGERS_MAX} connections are in their handshake already"));
                continue;
            };
            let serving = listener.clone();
            let started = listener.connections.spawn(async move { serving.welcome(stream, address, stranger).await });
            if !started {
                listener.quiet.log(|| format!("{address}: too many connections"));
            }
        }
    }

    async fn welcome(&self, mut stream: TcpStream, address: SocketAddr, stranger: OwnedSemaphorePermit) {
        let session = match timeout(HANDSHAKE_WAIT, handshake::accept(&mut stream, &self.own)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return self.quiet.log(|| format!("{address}: refused: {error}")),
            Err(_) => return self.quiet.log(|| format!("{address}: refused: no handshake within {HANDSHAKE_WAIT:?}")),
        };
        let (peer, class) = (session.peer, session.class);
        let give_way = self.admit(peer, class);
        drop(stranger);
        let reason = crate::select! {
            reason = self.serve(stream, session) => reason,
            _ = give_way.notified() => "newer connections took its place".to_string(),
        };
        tracing::debug!(from = %peer, ?class, %reason, "connection ended");
        self.dismiss(peer, class, &give_way);
    }

    fn admit(&self, peer: NodeId, class: Class) -> Arc<Notify> {
        let give_way = Arc::new(Notify::new());
        let mut peers = self.peers.lock().expect("nothing panics under this lock");
        let connections = peers.admitted.entry((peer, class)).or_default();
        if connections.len() >= CONNECTIONS_PER_PEER_MAX
            && let Some(oldest) = connections.pop_front()
        {
            oldest.notify_one();
        }
        connections.push_back(give_way.clone());
        give_way
    }

    fn dismiss(&self, peer: NodeId, class: Class, own: &Arc<Notify>) {
        let mut peers = self.peers.lock().expect("nothing panics under this lock");
        if let Some(connections) = peers.admitted.get_mut(&(peer, class)) {
            connections.retain(|other| !Arc::ptr_eq(other, own));
            if connections.is_empty() {
                peers.admitted.remove(&(peer, class));
            }
        }
    }

    async fn serve(&self, stream: TcpStream, session: Session) -> String {
        let (reader, mut writer) = split(stream);
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        let (mut send, mut receive) = (session.send, session.receive);
        let life = Life::new();
        let (queue, mut queued) = channel(REQUESTS_PER_CONNECTION_MAX + SPARE_ANSWERS_MAX);
        let serving = Serving {
            services: &self.services,
            peer: session.peer,
            class: session.class,
            answers: Answers { queue },
            under_way: Arc::new(Semaphore::new(REQUESTS_PER_CONNECTION_MAX)),
        };

        let reading = async {
            loop {
                let header = match frame::read_header(&mut reader, &mut receive, &life).await {
                    Ok(Some(header)) => header,
                    Ok(None) => return "the peer closed it".to_string(),
                    Err(error) => return error.to_string(),
                };
                if let Err(error) = serving.take(&mut reader, &header, &life).await {
                    return error.to_string();
                }
            }
        };
        let writing = async {
            while let Some(answer) = queued.recv().await {
                let mut next: Option<Queued> = Some(answer);
                while let Some(answer) = next {
                    let overdue = answer.deadline.is_some_and(|deadline| now() > deadline);
                    if !overdue && let Err(error) = frame::write(&mut writer, &mut send, &answer.frame, &life).await {
                        return error.to_string();
                    }
                    next = queued.try_recv().ok();
                }
                if let Err(error) = writer.flush().await {
                    return error.to_string();
                }
            }
            "no more answers".to_string()
        };
        let silence_max = if session.class == Class::Control { CONTROL_SILENCE_MAX } else { BULK_SILENCE_MAX };
        let watching = async {
            while life.silence() < silence_max {
                sleep(WATCH).await;
            }
            format!("silent for {} s", silence_max.as_secs())
        };
        crate::select! {
            reason = reading => reason,
            reason = writing => reason,
            reason = watching => reason,
        }
    }
}

/// An answer that waits to be written.
struct Queued {
    frame: Frame,
    /// Nobody waits for it after this.
    deadline: Option<Instant>,
    /// The request counts as under way until its answer is written.
    _under_way: Option<OwnedSemaphorePermit>,
}

/// The way of answers to the connection's writer.
#[derive(Clone)]
struct Answers {
    queue: Sender<Queued>,
}

impl Answers {
    /// Answer a request that is under way. There is always room: each holds one of as many permits as there are places.
    fn finish(&self, frame: Frame, deadline: Instant, under_way: OwnedSemaphorePermit) {
        // An error means that the connection is gone, and the caller knows.
        let _ = self.queue.try_send(Queued { frame, deadline: Some(deadline), _under_way: Some(under_way) });
    }

    /// Say something beside; dropped if the peer does not take it.
    fn tell(&self, frame: Frame) {
        if self.queue.capacity() > REQUESTS_PER_CONNECTION_MAX {
            let _ = self.queue.try_send(Queued { frame, deadline: None, _under_way: None });
        }
    }
}

struct Serving<'a> {
    services: &'a Arc<Services>,
    peer: NodeId,
    class: Class,
    answers: Answers,
    under_way: Arc<Semaphore>,
}

impl Serving<'_> {
    /// Read what follows `header` and act on it.
    async fn take<R>(&self, reader: &mut R, header: &Header, life: &Life) -> Result<(), frame::Error>
    where
        R: crate::io::AsyncRead + Unpin,
    {
        match header.kind {
            Kind::Request => self.take_request(reader, header, life).await,
            Kind::Cast => {
                let deadline = now() + CAST_DEADLINE;
                let Some(room) = self.services.reserve(self.class, header.body_bytes, now()).await else {
                    return frame::discard_sections(reader, header, life).await;
                };
                let (meta, body) = frame::read_sections(reader, header, life).await?;
                self.services.deliver(Request {
                    from: self.peer,
                    method: Method(header.method),
                    epoch: header.epoch,
                    deadline,
                    meta,
                    body,
                });
                drop(room);
                Ok(())
            }
            Kind::Ping => {
                frame::discard_sections(reader, header, life).await?;
                self.answers.tell(Frame::bare(Kind::Pong, 0));
                Ok(())
            }
            got => Err(frame::Error::Kind { got: got as u8 }),
        }
    }

    async fn take_request<R>(&self, reader: &mut R, header: &Header, life: &Life) -> Result<(), frame::Error>
    where
        R: crate::io::AsyncRead + Unpin,
    {
        let deadline = now() + Duration::from_millis(u64::from(header.remaining_ms)).min(DEADLINE_MAX);
        let method = Method(header.method);
        let serve = match self.services.find(method) {
            Ok(serve) => serve,
            Err(reason) => {
                frame::discard_sections(reader, header, life).await?;
                self.answers.tell(Frame { meta: reason.into(), ..Frame::bare(Kind::Refused, header.id) });
                return Ok(());
            }
        };
        let Ok(under_way) = self.under_way.clone().try_acquire_owned() else {
            return self.refuse_as_busy(reader, header, life).await;
        };
        let room = self.services.reserve(self.class, header.body_bytes, deadline).await;
        life.touch();
        let Some(room) = room else {
            return self.refuse_as_busy(reader, header, life).await;
        };
        let (meta, body) = frame::read_sections(reader, header, life).await?;
        let request = Request { from: self.peer, method, epoch: header.epoch, deadline, meta, body };
        let (answers, id) = (self.answers.clone(), header.id);
        let answer = Answer::new(move |outcome| {
            let frame = match outcome {
                Outcome::Reply(reply) => {
                    let frame = Frame { meta: reply.meta, body: reply.body, ..Frame::bare(Kind::Reply, id) };
                    match frame.check() {
                        Ok(()) => frame,
                        Err(error) => {
                            tracing::error!(method = method.0, %error, "a service made a reply that cannot be sent");
                            Frame::bare(Kind::Stopped, id)
                        }
                    }
                }
                Outcome::Stopped => Frame::bare(Kind::Stopped, id),
            };
            answers.finish(frame, deadline, under_way);
        });
        if !self.services.begin(serve, request, answer, room) {
            // Dropping the answer told the peer that it stopped, which is the careful thing to say.
            tracing::debug!(from = %self.peer, "too many requests under way on this node");
        }
        Ok(())
    }

    async fn refuse_as_busy<R>(&self, reader: &mut R, header: &Header, life: &Life) -> Result<(), frame::Error>
    where
        R: crate::io::AsyncRead + Unpin,
    {
        frame::discard_sections(reader, header, life).await?;
        self.answers.tell(Frame::bare(Kind::Busy, header.id));
        Ok(())
    }
}

/// Ends all connections and services when the accepting task ends.
struct EndWith(Arc<Listener>);

impl Drop for EndWith {
    fn drop(&mut self) {
        self.0.connections.end();
        self.0.services.stop();
    }
}

/// Keeps what strangers can cause from filling the log.
#[derive(Default)]
struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    fn log(&self, line: impl FnOnce() -> String) {
        let mut state = self.0.lock().expect("nothing panics under this lock");
        let (last, kept_quiet) = &mut *state;
        if last.is_some_and(|last| since(last) < LOG_INTERVAL) {
            *kept_quiet += 1;
            return;
        }
        tracing::warn!(kept_quiet = *kept_quiet, "{}", line());
        (*last, *kept_quiet) = (Some(now()), 0);
    }
}
