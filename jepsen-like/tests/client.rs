//! The client against a server that misbehaves on demand, over real sockets.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request as HttpRequest, Response};
use jepsen_like::s3::{Client, Content, Credentials, Error, Request, Source, Step, Tamper, raw_exchange};
use runtime::net::TcpListener;
use runtime::task::{self, Task};

/// Keeps what is PUT, and does what the path says: `/b/slow`, `/b/refuse`.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _accepting: Task<()>,
}

/// `requests_max`: requests after which it closes a connection, without having said so.
async fn serve(requests_max: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let objects: Arc<Mutex<BTreeMap<String, Bytes>>> = Arc::default();
    let counted = connections.clone();
    let accepting = task::spawn(async move {
        let mut serving = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let objects = objects.clone();
            serving.push(task::spawn(async move {
                let served = Arc::new(AtomicUsize::new(0));
                let count = served.clone();
                let service = hyper::service::service_fn(move |request: HttpRequest<Incoming>| {
                    let objects = objects.clone();
                    count.fetch_add(1, Ordering::SeqCst);
                    async move { Ok::<_, Infallible>(answer(request, &objects).await) }
                });
                let mut connection =
                    std::pin::pin!(hyper::server::conn::http1::Builder::new().serve_connection(runtime::http::Io::new(stream), service));
                runtime::select! {
                    _ = connection.as_mut() => {}
                    () = async {
                        while served.load(Ordering::SeqCst) < requests_max {
                            runtime::time::sleep(Duration::from_millis(2)).await;
                        }
                        runtime::time::sleep(Duration::from_millis(100)).await;
                    } => {}
                }
            }));
        }
    });
    Server { address, connections, _accepting: accepting }
}

async fn answer(request: HttpRequest<Incoming>, objects: &Mutex<BTreeMap<String, Bytes>>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let Ok(body) = request.into_body().collect().await else {
        return Response::builder().status(400).body(Full::default()).unwrap();
    };
    let whole = body.to_bytes();
    let reply = |status: u16, body: Bytes| Response::builder().status(status).body(Full::new(body)).unwrap();
    match (method.as_str(), path.as_str()) {
        (_, "/b/slow") => {
            runtime::time::sleep(Duration::from_secs(5)).await;
            reply(200, Bytes::new())
        }
        (_, "/b/refuse") => reply(
            403,
            Bytes::from_static(b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>no &amp; never</Message></Error>"),
        ),
        ("PUT", _) => {
            objects.lock().unwrap().insert(path, whole);
            reply(200, Bytes::new())
        }
        _ => match objects.lock().unwrap().get(&path) {
            Some(bytes) => reply(200, bytes.clone()),
            None => reply(404, Bytes::from_static(b"<Error><Code>NoSuchKey</Code></Error>")),
        },
    }
}

fn client(server: &Server) -> Client {
    Client::new(server.address, Credentials::new("key", "secret"), "us-east-1")
}

#[test]
fn bodies_stream_both_ways_over_one_kept_connection() {
    runtime::process::block_on(async {
        let server = serve(usize::MAX).await;
        let client = client(&server);
        for (index, length) in [0, 1, 70_000, 9 << 20].into_iter().enumerate() {
            let content = Content::new(index as u64, length);
            client.put("b", "k", content).await.unwrap();
            client.get_stream("b", "k").await.unwrap().verify(content).await.unwrap();
            let (_, bytes) = client.get("b", "k").await.unwrap();
            assert_eq!(bytes, content.bytes());
        }
        assert!(matches!(client.get_stream("b", "k").await.unwrap().verify(Content::new(9, 9 << 20)).await, Err(Error::WrongBytes(_))));
        assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced_unnoticed() {
    runtime::process::block_on(async {
        let server = serve(1).await;
        let client = client(&server);
        for _ in 0..3 {
            client.put("b", "k", "x").await.unwrap();
            runtime::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(server.connections.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn refusals_timeouts_and_missing_servers_are_told_apart() {
    runtime::process::block_on(async {
        let server = serve(usize::MAX).await;
        let client = client(&server);
        let refused = client.put("b", "refuse", "x").await.unwrap_err();
        assert!(matches!(&refused, Error::Refused { status: 403, code, message } if code == "AccessDenied" && message == "no & never"));
        assert!(refused.is_certainly_not_done());
        assert_eq!(client.get("b", "missing").await.unwrap_err().code(), Some("NoSuchKey"));
        let slow = client.call(&Request::object("PUT", "b", "slow").timeout(Duration::from_millis(100))).await;
        assert!(matches!(slow.err(), Some(Error::Unknown(_))));
        let nobody = Client::new("127.0.0.1:1".parse().unwrap(), Credentials::new("k", "s"), "r");
        assert!(matches!(nobody.put("b", "k", "x").await, Err(Error::Unsent(_))));
    });
}

#[test]
fn a_body_broken_off_or_shorter_than_announced_reaches_the_server_as_broken() {
    runtime::process::block_on(async {
        let server = serve(usize::MAX).await;
        let client = client(&server);
        let put = Request::object("PUT", "b", "k").source(Content::new(1, 300_000));
        let broken_off = put.clone().tamper(Tamper { abort_after: Some(100_000), ..Tamper::default() });
        assert!(matches!(client.call(&broken_off).await.err(), Some(Error::Unknown(_))));
        let too_short = put.clone().tamper(Tamper { content_length: Some(Some(300_001)), ..Tamper::default() });
        assert!(client.call(&too_short).await.is_err());
        assert_eq!(client.get("b", "k").await.unwrap_err().code(), Some("NoSuchKey"));
        let paced = put.tamper(Tamper { pace: Some((100_000, Duration::from_millis(1))), ..Tamper::default() });
        client.call_whole(&paced).await.unwrap();
        client.get_stream("b", "k").await.unwrap().verify(Content::new(1, 300_000)).await.unwrap();
        assert!(client.call_whole(&Request::object("GET", "b", "k").source(Source::Empty)).await.is_ok());
    });
}

#[test]
fn bytes_that_are_no_http_are_answered_or_cut_and_never_hang() {
    runtime::process::block_on(async {
        let server = serve(usize::MAX).await;
        let steps =
            [Step::Send(Bytes::from_static(b"\x16\x03 what is this\r\n\r\n")), Step::Pause(Duration::from_millis(5)), Step::Shutdown];
        let (said, closed) = raw_exchange(server.address, &steps, Duration::from_secs(2), 4096).await.unwrap();
        assert!(closed && (said.is_empty() || said.starts_with(b"HTTP/1.1 400")), "{said:?}");
    });
}
