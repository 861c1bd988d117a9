//! [`Client`]: sends requests over a small pool of keep-alive connections. It never repeats a request that may have
//! reached the server: histories need to know what was asked once.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{self, SendRequest};
use runtime::io::{AsyncReadExt, AsyncWriteExt};
use runtime::net::TcpStream;
use runtime::sync::{OwnedSemaphorePermit, Semaphore};
use runtime::task::{self, Task};
use runtime::time::{self, Instant};

use super::body::Outgoing;
use super::content::{Content, Mismatch, Verifier};
use super::request::{self, Auth, Prepared, Request};
use super::sign::Credentials;
use super::xml::Element;

/// Connections that a client has at most, unless told otherwise.
pub const CONNECTIONS: usize = 64;
/// Longest wait for a reply, unless told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest reply that is read into memory whole without the caller naming a limit.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// Why a request has no good reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// S3 answered, with an error. `code` is empty where the reply had no body (HEAD).
    #[error("{status} {code}: {message}")]
    Refused { status: u16, code: String, message: String },
    /// Certainly not done: no byte of it was sent.
    #[error("not sent: {0}")]
    Unsent(String),
    /// It may have been done, or may yet be done.
    #[error("no whole reply: {0}")]
    Unknown(String),
    /// The server's reply makes no sense.
    #[error("bad reply: {0}")]
    BadReply(String),
    /// The bytes are not those that were expected.
    #[error("wrong bytes: {0}")]
    WrongBytes(#[from] Mismatch),
}

impl Error {
    /// Whether the request certainly changed nothing, now and later. A refusal by the server's own failing (5xx)
    /// proves nothing.
    pub fn is_certainly_not_done(&self) -> bool {
        match self {
            Error::Unsent(_) => true,
            Error::Refused { status, .. } => *status < 500,
            Error::Unknown(_) | Error::BadReply(_) | Error::WrongBytes(_) => false,
        }
    }

    /// S3's code, if the server refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// HTTP status, if the server refused.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// An S3 client; cheap to clone, clones share their connections.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
    credentials: Credentials,
    region: String,
    host: String,
    timeout: Duration,
}

struct Pool {
    endpoint: SocketAddr,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

struct Connection {
    sender: SendRequest<Outgoing>,
    /// Drives the connection; dropped with it, which closes the socket.
    _driver: Task<()>,
}

/// The head of a reply, and its body as it comes.
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    body: hyper::body::Incoming,
    /// Given back to the pool when the body was read to its end.
    connection: Option<Connection>,
    pool: Arc<Pool>,
    timeout: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Client {
    /// A client of `endpoint`. Nothing is connected yet.
    pub fn new(endpoint: SocketAddr, credentials: Credentials, region: impl Into<String>) -> Client {
        Client::with_connections(endpoint, credentials, region, CONNECTIONS)
    }

    /// With at most `connections` at a time; further requests wait for one.
    pub fn with_connections(endpoint: SocketAddr, credentials: Credentials, region: impl Into<String>, connections: usize) -> Client {
        let pool = Pool { endpoint, idle: Mutex::new(Vec::new()), permits: Arc::new(Semaphore::new(connections)) };
        Client { pool: Arc::new(pool), credentials, region: region.into(), host: endpoint.to_string(), timeout: TIMEOUT }
    }

    /// The same connections under other credentials.
    pub fn with_credentials(&self, credentials: Credentials) -> Client {
        Client { credentials, ..self.clone() }
    }

    /// The same connections with another default timeout.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { timeout, ..self.clone() }
    }

    /// The same connections, naming another `host`.
    pub fn with_host(&self, host: impl Into<String>) -> Client {
        Client { host: host.into(), ..self.clone() }
    }

    /// Where it connects to.
    pub fn endpoint(&self) -> SocketAddr {
        self.pool.endpoint
    }

    /// The URL that lets anybody send `request`, with its [`Auth::Query`] or [`Auth::QueryV2`]; headers of the
    /// request must be sent with it.
    pub fn presigned_url(&self, request: &Request) -> String {
        assert!(matches!(request.auth, Auth::Query { .. } | Auth::QueryV2 { .. }), "only a query can carry its own signature");
        format!("http://{}{}", self.host, self.prepare(request).target)
    }

    fn prepare(&self, request: &Request) -> Prepared {
        request::prepare(request, &self.credentials, &self.region, &self.host, time::wall_ms())
    }

    /// Send `request` and wait for the head of its reply, whatever its status.
    pub async fn send(&self, request: &Request) -> Result<Reply, Error> {
        let limit = request.timeout.unwrap_or(self.timeout);
        let deadline = time::now() + limit;
        let permit = time::timeout_at(deadline, self.pool.permits.clone().acquire_owned())
            .await
            .map_err(|_| Error::Unsent("all connections are busy".to_owned()))?
            .expect("the pool's permits are never closed");
        let prepared = self.prepare(request);
        let mut message = hyper_request(prepared)?;
        loop {
            let (mut connection, fresh) = self.pool.connection(deadline).await?;
            let sent = connection.sender.try_send_request(message);
            match time::timeout_at(deadline, sent).await {
                Err(_) => return Err(Error::Unknown(format!("timed out after {limit:?}"))),
                Ok(Ok(response)) => {
                    let (head, body) = response.into_parts();
                    return Ok(Reply {
                        status: head.status.as_u16(),
                        headers: head.headers,
                        body,
                        connection: Some(connection),
                        pool: self.pool.clone(),
                        timeout: limit,
                        _permit: permit,
                    });
                }
                Ok(Err(mut error)) => match error.take_message() {
                    // The server had closed a kept connection: nothing was sent, so another may be tried.
                    Some(unsent) if !fresh => message = unsent,
                    Some(_) => return Err(Error::Unsent(chain(error.error()))),
                    None => return Err(Error::Unknown(chain(error.error()))),
                },
            }
        }
    }

    /// Send `request`; a status of 400 or more is an [`Error::Refused`].
    pub async fn call(&self, request: &Request) -> Result<Reply, Error> {
        let reply = self.send(request).await?;
        if reply.status >= 400 { Err(reply.into_refusal().await?) } else { Ok(reply) }
    }

    /// Send `request` and read the whole reply of at most [`REPLY_BYTES_MAX`].
    pub async fn call_whole(&self, request: &Request) -> Result<(http::HeaderMap, Bytes), Error> {
        let mut reply = self.call(request).await?;
        let headers = std::mem::take(&mut reply.headers);
        Ok((headers, reply.bytes(REPLY_BYTES_MAX).await?))
    }
}

/// What to do on a bare connection, see [`raw_exchange`].
#[derive(Clone, Debug)]
pub enum Step {
    Send(Bytes),
    Pause(Duration),
    /// Close our direction.
    Shutdown,
}

/// Do `steps` on a new connection, then read until the server closes or is silent for `quiet`; at most `bytes_max`.
/// For requests that are not even HTTP. Returns what was read, and whether the server closed.
pub async fn raw_exchange(endpoint: SocketAddr, steps: &[Step], quiet: Duration, bytes_max: usize) -> std::io::Result<(Bytes, bool)> {
    let mut stream = TcpStream::connect(endpoint).await?;
    for step in steps {
        let done = match step {
            Step::Send(bytes) => match stream.write_all(bytes).await {
                Ok(()) => stream.flush().await,
                Err(error) => Err(error),
            },
            Step::Pause(pause) => {
                time::sleep(*pause).await;
                Ok(())
            }
            Step::Shutdown => stream.shutdown().await,
        };
        if done.is_err() {
            // The server had enough; what it said may still be read.
            break;
        }
    }
    let mut read = BytesMut::new();
    loop {
        if read.len() >= bytes_max {
            return Ok((read.freeze(), false));
        }
        let mut piece = [0; 4096];
        match time::timeout(quiet, stream.read(&mut piece)).await {
            Err(_) => return Ok((read.freeze(), false)),
            Ok(Ok(0) | Err(_)) => return Ok((read.freeze(), true)),
            Ok(Ok(count)) => read.extend_from_slice(&piece[..count]),
        }
    }
}

impl Pool {
    /// A kept connection that still lives, or a new one.
    async fn connection(&self, deadline: Instant) -> Result<(Connection, bool), Error> {
        loop {
            let Some(mut kept) = self.idle.lock().expect("never poisoned: no code panics under it").pop() else { break };
            // Its last request may not have been sent to the end (an early refusal): such a connection is of no use.
            if let Ok(Ok(())) = time::timeout(Duration::from_millis(100), kept.sender.ready()).await {
                return Ok((kept, false));
            }
        }
        let connect = async {
            let stream = TcpStream::connect(self.endpoint).await.map_err(|error| Error::Unsent(format!("connect: {error}")))?;
            let (sender, connection) =
                http1::Builder::new().handshake(runtime::http::Io::new(stream)).await.map_err(|error| Error::Unsent(chain(&error)))?;
            let driver = task::spawn(async move {
                // Its error reaches whoever waits for the reply.
                let _ = connection.await;
            });
            Ok((Connection { sender, _driver: driver }, true))
        };
        match time::timeout_at(deadline, connect).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::Unsent(format!("connect to {}: timed out", self.endpoint))),
        }
    }
}

impl Reply {
    /// A header's value; empty if it is missing or no text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The next piece of the body; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match time::timeout(self.timeout, self.body.frame()).await {
                Err(_) => return Err(Error::Unknown(format!("the body stalled for {:?}", self.timeout))),
                Ok(None) => {
                    if let Some(connection) = self.connection.take()
                        && !connection.sender.is_closed()
                    {
                        self.pool.idle.lock().expect("never poisoned: no code panics under it").push(connection);
                    }
                    return Ok(None);
                }
                Ok(Some(Err(error))) => return Err(Error::Unknown(format!("body cut: {}", chain(&error)))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// The whole body, at most `bytes_max`.
    pub async fn bytes(mut self, bytes_max: usize) -> Result<Bytes, Error> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if whole.len() + piece.len() > bytes_max {
                return Err(Error::BadReply(format!("more than {bytes_max} bytes")));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Read the body to its end and compare it with `content`.
    pub async fn verify(self, content: Content) -> Result<(), Error> {
        self.verify_all(vec![content]).await
    }

    /// Read the body to its end and compare it with `contents`, one after another.
    pub async fn verify_all(mut self, contents: Vec<Content>) -> Result<(), Error> {
        let mut verifier = Verifier::of(contents);
        while let Some(piece) = self.next().await? {
            verifier.feed(&piece)?;
        }
        Ok(verifier.finish()?)
    }

    /// Read the body as XML.
    pub async fn xml(self) -> Result<Element, Error> {
        let bytes = self.bytes(REPLY_BYTES_MAX).await?;
        let root = Element::parse(&bytes).map_err(Error::BadReply)?;
        // Complete and Copy may answer 200 first and then fail.
        if root.name == "Error" {
            return Err(refusal(500, &root));
        }
        Ok(root)
    }

    /// This reply as the error that it is.
    pub async fn into_refusal(self) -> Result<Error, Error> {
        let status = self.status;
        let bytes = self.bytes(1 << 20).await?;
        Ok(match Element::parse(&bytes) {
            Ok(root) if root.name == "Error" => refusal(status, &root),
            _ => Error::Refused { status, code: String::new(), message: String::from_utf8_lossy(&bytes).into_owned() },
        })
    }
}

fn refusal(status: u16, root: &Element) -> Error {
    Error::Refused { status, code: root.text_of("Code").to_owned(), message: root.text_of("Message").to_owned() }
}

fn hyper_request(prepared: Prepared) -> Result<hyper::Request<Outgoing>, Error> {
    let mut builder = hyper::Request::builder().method(prepared.method.as_str()).uri(prepared.target);
    for (name, value) in &prepared.headers {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).map_err(|error| Error::Unsent(format!("header {name}: {error}")))?;
        builder = builder.header(name.as_str(), value);
    }
    builder.body(prepared.body).map_err(|error| Error::Unsent(format!("no HTTP request: {error}")))
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
