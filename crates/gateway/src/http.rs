//! Connections, and what every request and response has: limits, request id, date, errors in S3's form.
//!
//! Invariants: connections, headers, buffers and waits are bounded; a request that is refused early is never asked for
//! its body; a client that is still sending sees the response before the connection ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::time::OffsetDateTime;
use ::time::format_description::BorrowedFormatItem;
use ::time::macros::format_description;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use runtime::http::{Io, Timer};
use runtime::io::{AsyncRead, AsyncWrite, ReadBuf};
use runtime::net::{TcpListener, TcpStream};
use runtime::sync::Notify;
use runtime::task::{self, Task};
use runtime::time::{self, Instant};
use s3s::{Body, HttpResponse, S3};

use crate::body::{BodyWatch, ChunkRoom, GuardedBody};
use crate::dispatch::Dispatch;
use crate::gate::framing::Framing;
use crate::gate::operation::{Content, Operation, TABLE};
use crate::gate::refusal::push_element;
use crate::gate::signing::Mechanism;
use crate::gate::{Admitted, Gate};
use crate::patience::Patience;

/// How much and how long a gateway bears with its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections at once; for a further client one that has proved nothing gives way, else he waits.
    pub connections: usize,
    /// The longest that a request's head may take to arrive, and that a connection may lie idle.
    pub head_wait: Duration,
    /// The longest that we wait for next to nothing of a request's body.
    pub body_idle: Duration,
    /// The longest that a client may take next to nothing of a response.
    pub write_idle: Duration,
    /// The longest that a refused request is still read, so that its client gets to see the refusal: a connection that
    /// is closed with unread bytes is reset, and a reset discards what the client has not read yet.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1024,
            head_wait: Duration::from_secs(30),
            body_idle: Duration::from_secs(30),
            write_idle: Duration::from_secs(60),
            linger: Duration::from_secs(2),
        }
    }
}

/// A response of which less than this is taken in [`Limits::write_idle`] is given up.
const WRITE_BYTES_MIN: usize = 4096;
/// Most bytes buffered for each direction of a connection.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Most bytes of a refused request that are still read.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// A connection that has proved nothing may keep its place at least so long.
const STRANGER_GRACE: Duration = Duration::from_secs(1);
/// How often a newcomer looks for a place while all are taken.
const SEAT_PAUSE: Duration = Duration::from_millis(50);
/// Pause after a failed `accept`, which usually means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the edge knows about a request; in the extensions of the request that the operation gets.
#[derive(Clone, Debug)]
pub struct RequestFacts {
    /// The id that the response carries, unique with high probability.
    pub request_id: String,
    pub operation: Operation,
    pub peer: SocketAddr,
    /// The verdict on the body. When an operation fails while this has a failure, the failure becomes the response.
    pub body: Arc<BodyWatch>,
    pub(crate) content: Content,
    pub(crate) framing: Framing,
    pub(crate) mechanism: Mechanism,
    pub(crate) drop_range: bool,
    pub(crate) seat: Arc<Seat>,
}

/// A connection's place among [`Limits::connections`]. Who has proved who he is keeps it; while all are taken, the
/// stranger who has had his for longest gives way to a newcomer.
#[derive(Debug)]
pub(crate) struct Seat {
    taken: Instant,
    proved: AtomicBool,
    leave: Notify,
}

impl Seat {
    fn take() -> Arc<Seat> {
        Arc::new(Seat { taken: time::now(), proved: AtomicBool::new(false), leave: Notify::new() })
    }

    /// A request of this connection was verified.
    pub(crate) fn keep(&self) {
        self.proved.store(true, Ordering::Relaxed);
    }

    fn is_strange(&self) -> bool {
        !self.proved.load(Ordering::Relaxed) && time::since(self.taken) >= STRANGER_GRACE
    }
}

/// Everything before the operations.
pub struct Edge {
    gate: Gate,
    dispatch: Dispatch,
    room: ChunkRoom,
    limits: Limits,
}

impl Edge {
    pub fn new(gate: Gate, operations: impl S3, limits: Limits) -> Edge {
        let dispatch = Dispatch::new(operations, &gate);
        Edge { gate, dispatch, room: ChunkRoom::default(), limits }
    }

    /// The room for large chunks, of all requests together.
    pub fn room(&self) -> &ChunkRoom {
        &self.room
    }

    /// Serve connections until dropped; that ends all of them.
    pub async fn serve(self: Arc<Edge>, listener: TcpListener) {
        let mut connections: FuturesUnordered<Task<()>> = FuturesUnordered::new();
        // Those of connections that have ended cannot be upgraded.
        let mut seats: VecDeque<Weak<Seat>> = VecDeque::new();
        // One beyond the limit: only who is here already can ask another to leave.
        let mut newcomer: Option<(TcpStream, SocketAddr)> = None;
        loop {
            if connections.len() < self.limits.connections
                && let Some((stream, peer)) = newcomer.take()
            {
                let seat = Seat::take();
                if seats.len() >= 2 * self.limits.connections {
                    seats.retain(|seat| seat.strong_count() > 0);
                }
                seats.push_back(Arc::downgrade(&seat));
                connections.push(task::spawn(self.clone().serve_connection(stream, peer, seat)));
            }
            if newcomer.is_some() {
                // In the order of their arrival.
                let stranger = seats.iter().position(|seat| seat.upgrade().is_some_and(|seat| seat.is_strange()));
                if let Some(seat) = stranger.and_then(|index| seats.remove(index)).and_then(|seat| seat.upgrade()) {
                    runtime::probe!("stranger-gave-way");
                    seat.leave.notify_one();
                }
            }
            runtime::select! {
                _ = connections.next(), if !connections.is_empty() => {}
                () = time::sleep(SEAT_PAUSE), if newcomer.is_some() => {}
                accepted = listener.accept(), if newcomer.is_none() => match accepted {
                    Ok(accepted) => newcomer = Some(accepted),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn serve_connection(self: Arc<Edge>, stream: TcpStream, peer: SocketAddr, seat: Arc<Seat>) {
        let is_clean = Arc::new(AtomicBool::new(true));
        let limits = self.limits;
        let connection = Io::new(Connection::new(stream, is_clean.clone(), limits));
        let own_seat = seat.clone();
        let service = service_fn(move |request| {
            let (edge, is_clean, seat) = (self.clone(), is_clean.clone(), seat.clone());
            async move {
                let (response, read_whole) = edge.respond(request, peer, seat).await;
                is_clean.store(read_whole, Ordering::Relaxed);
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(Timer).header_read_timeout(limits.head_wait).max_buf_size(BUFFER_BYTES_MAX).auto_date_header(false);
        // A panic is our bug; it ends this connection, not those of others.
        let served = runtime::select! {
            served = AssertUnwindSafe(builder.serve_connection(connection, service)).catch_unwind() => served,
            () = own_seat.leave.notified() => return tracing::debug!(%peer, "a connection that proved nothing gave way"),
        };
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%peer, %error, "connection ended"),
            Err(_) => tracing::error!(%peer, "a request panicked; its connection is closed"),
        }
    }

    /// The response, and whether the client has sent all of its request.
    async fn respond(&self, request: Request<Incoming>, peer: SocketAddr, seat: Arc<Seat>) -> (HttpResponse, bool) {
        let request_id = format!("{:016X}", runtime::entropy::u64());
        let (mut head, incoming) = request.into_parts();
        let (method, resource) = (head.method.clone(), head.uri.path().to_owned());

        let admitted = match self.gate.admit(&mut head, time::wall_ms()) {
            Ok(admitted) => self.gate.verify(&admitted).await.map(|()| admitted),
            Err(refusal) => Err(refusal),
        };
        let (mut response, operation, read_whole) = match admitted {
            Err(refusal) => (refusal.into_response(), None, incoming.is_end_stream()),
            Ok(admitted) => {
                let facts = facts(&request_id, peer, admitted, seat);
                let (operation, watch) = (facts.operation, facts.body.clone());
                let body = GuardedBody::new(incoming, &facts.framing, watch.clone(), self.room.clone(), self.limits.body_idle);
                head.extensions.insert(facts);
                let response = self.dispatch.call(Request::from_parts(head, Body::http_body_unsync(body))).await;
                let failed = response.status().is_client_error() || response.status().is_server_error();
                let response = match watch.failure() {
                    Some(refusal) if failed => refusal.into_response(),
                    _ => response,
                };
                (response, Some(operation), watch.is_read_whole())
            }
        };

        finish(&mut response, &method, &resource, &request_id);
        if !read_whole {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let (status, operation) = (response.status().as_u16(), operation.map(Operation::name));
        if status >= 500 && status != 501 {
            tracing::warn!(%peer, request_id, operation, status, "request failed");
        } else {
            tracing::debug!(%peer, request_id, operation, status, "request");
        }
        (response, read_whole)
    }
}

fn facts(request_id: &str, peer: SocketAddr, admitted: Admitted, seat: Arc<Seat>) -> RequestFacts {
    let Admitted { operation, framing, mechanism, drop_range, .. } = admitted;
    let content = TABLE.iter().find(|row| row.operation == operation).expect("every operation has a row").content;
    RequestFacts { request_id: request_id.to_owned(), operation, peer, body: Arc::default(), content, framing, mechanism, drop_range, seat }
}

/// What every response has, and S3's form of errors.
fn finish(response: &mut HttpResponse, method: &Method, resource: &str, request_id: &str) {
    // s3s answers 200 to every HEAD; a part of an object is 206 there as it is for GET.
    if *method == Method::HEAD && response.status() == StatusCode::OK && response.headers().contains_key(header::CONTENT_RANGE) {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let status = response.status();
    if status == StatusCode::NOT_MODIFIED || (method == Method::HEAD && !status.is_success()) {
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
    } else if (status.is_client_error() || status.is_server_error())
        && let Some(document) = response.body().bytes().and_then(|bytes| complete_error(&bytes, resource, request_id))
    {
        *response.body_mut() = Body::from(document);
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("Keepstone"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-amz-request-id", id);
    }
    if let Some(date) = http_date(time::wall_ms()) {
        headers.insert(header::DATE, date);
    }
}

/// Add what s3s leaves out of an error document.
fn complete_error(document: &[u8], resource: &str, request_id: &str) -> Option<String> {
    let document = std::str::from_utf8(document).ok()?;
    let mut xml = document.strip_suffix("</Error>")?.to_owned();
    if !xml.contains("<Message>") {
        let code = xml.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code).to_owned();
        push_element(&mut xml, "Message", default_message(&code));
    }
    if !xml.contains("<Resource>") {
        push_element(&mut xml, "Resource", resource);
    }
    if !xml.contains("<RequestId>") {
        push_element(&mut xml, "RequestId", request_id);
    }
    xml.push_str("</Error>");
    Some(xml)
}

fn default_message(code: &str) -> &str {
    match code {
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check your key and signing method."
        }
        "MalformedXML" => "The XML you provided was not well-formed or did not validate against our published schema.",
        other => other,
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, by our own clock.
fn http_date(ms: u64) -> Option<HeaderValue> {
    const FORM: &[BorrowedFormatItem<'_>] =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(ms / 1000).ok()?).ok()?;
    HeaderValue::from_str(&at.format(FORM).ok()?).ok()
}

/// A stream that gives up on a client that does not read, and lingers at the end for one that is still sending.
struct Connection {
    stream: TcpStream,
    patience: Patience,
    /// Whether all bytes that were read belong to requests that were read whole.
    is_clean: Arc<AtomicBool>,
    /// The client has closed its side.
    is_read_out: bool,
    linger_wait: Duration,
    linger: Option<Linger>,
}

struct Linger {
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    bytes_left: usize,
}

impl Connection {
    fn new(stream: TcpStream, is_clean: Arc<AtomicBool>, limits: Limits) -> Connection {
        let patience = Patience::new(limits.write_idle, WRITE_BYTES_MIN);
        Connection { stream, patience, is_clean, is_read_out: false, linger_wait: limits.linger, linger: None }
    }

    /// Count what was written, or give up when the client has taken too little for too long.
    fn judge_write(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.patience.progress(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(self.patience.poll_exhausted(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read the response")))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.remaining();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.remaining() < before {
            self.is_clean.store(false, Ordering::Relaxed);
        } else if before > 0 {
            self.is_read_out = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge_write(written, cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.judge_write(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if this.is_clean.load(Ordering::Relaxed) || this.is_read_out {
                return Poll::Ready(Ok(()));
            }
            this.linger = Some(Linger { end: Box::pin(time::sleep(this.linger_wait)), bytes_left: LINGER_BYTES_MAX });
        }
        let linger = this.linger.as_mut().expect("set above");
        let mut sink = [0; 16 << 10];
        loop {
            // First the clock: a client that never stops sending must not starve it.
            if linger.end.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::new(&mut sink);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() && read.filled().len() < linger.bytes_left => linger.bytes_left -= read.filled().len(),
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
