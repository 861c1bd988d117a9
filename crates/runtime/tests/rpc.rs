//! RPC between two nodes over real sockets.
#![cfg(not(madsim))]

use bytes::Bytes;
use protocol::{ClusterId, NodeId};
use runtime::io::{AsyncReadExt, AsyncWriteExt};
use runtime::net::{TcpListener, TcpStream};
use runtime::rpc::{Class, Error, Method, Reply, Rpc, Secret, Service, Settings};
use runtime::task::Task;
use runtime::time::{Instant, now, sleep, timeout};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const ECHO: Method = Method(0x0101);
const SLOW: Method = Method(0x0102);
const PANIC: Method = Method(0x0103);
const NOTE: Method = Method(0x0104);

struct Server {
    rpc: Rpc,
    address: SocketAddr,
    finished: Arc<AtomicUsize>,
    noted: Arc<std::sync::Mutex<Vec<u8>>>,
    listening: Task<()>,
}

fn settings(node: u64, secret: &str) -> Settings {
    Settings {
        node: NodeId(node),
        cluster: ClusterId(77),
        secret: Secret(secret.as_bytes().into()),
        listen: "127.0.0.1:0".parse().expect("an address"),
        peers: BTreeMap::new(),
    }
}

fn echo(finished: Arc<AtomicUsize>, noted: Arc<std::sync::Mutex<Vec<u8>>>) -> Service {
    Arc::new(move |request| {
        let (finished, noted) = (finished.clone(), noted.clone());
        if request.method == NOTE {
            noted.lock().expect("no panic").extend_from_slice(&request.meta);
        }
        Box::pin(async move {
            match request.method {
                SLOW => sleep(Duration::from_millis(300)).await,
                PANIC => panic!("as the test wants"),
                _ => {}
            }
            finished.fetch_add(1, Ordering::SeqCst);
            let meta = format!("{} {} {}", request.from, request.epoch, request.body.len()).into();
            Reply { meta, body: vec![request.meta, request.body] }
        })
    })
}

async fn server(node: u64, secret: &str) -> Server {
    let rpc = Rpc::new(settings(node, secret));
    let (finished, noted) = (Arc::new(AtomicUsize::new(0)), Arc::default());
    rpc.register(1, echo(finished.clone(), Arc::clone(&noted)));
    let listening = rpc.listen().await.expect("a free port");
    let address = rpc.address().expect("bound");
    Server { rpc, address, finished, noted, listening }
}

fn client(node: u64, secret: &str, server: u64, address: SocketAddr) -> Rpc {
    let mut settings = settings(node, secret);
    settings.peers.insert(NodeId(server), address);
    Rpc::new(settings)
}

fn soon(ms: u64) -> Instant {
    now() + Duration::from_millis(ms)
}

async fn call(rpc: &Rpc, to: u64, method: Method, body: Vec<Bytes>, ms: u64) -> Result<runtime::rpc::Received, Error> {
    rpc.call(NodeId(to), Class::Bulk, method, 9, Bytes::from_static(b"meta"), body, soon(ms)).await
}

#[tokio::test]
async fn a_call_brings_meta_epoch_and_all_parts_of_the_body_there_and_back() {
    let server = server(2, "secret").await;
    let client = client(1, "secret", 2, server.address);
    let parts = vec![Bytes::from(vec![1; 3]), Bytes::new(), Bytes::from(vec![2; 3 << 20])];
    for rpc in [&client, &client] {
        let reply = call(rpc, 2, ECHO, parts.clone(), 5000).await.unwrap();
        assert_eq!(reply.meta, format!("1 9 {}", 3 + (3 << 20)));
        assert_eq!(reply.body[..7], *b"meta\x01\x01\x01");
        assert!(reply.body[7..].iter().all(|byte| *byte == 2) && reply.body.len() == 7 + (3 << 20));
    }
    assert!(client.is_reachable(NodeId(2)));
    // The own node, by the short cut.
    let reply = call(&server.rpc, 2, ECHO, parts, 5000).await.unwrap();
    assert_eq!(reply.meta, format!("2 9 {}", 3 + (3 << 20)));
    assert_eq!(reply.body.len(), 7 + (3 << 20));
}

#[tokio::test]
async fn many_calls_at_once_share_one_connection() {
    let server = server(2, "secret").await;
    let client = client(1, "secret", 2, server.address);
    let calls = (0..300).map(|i| {
        let client = client.clone();
        async move {
            let reply = client.call(NodeId(2), Class::Control, SLOW, i, Bytes::new(), vec![], soon(5000)).await.unwrap();
            assert_eq!(reply.meta, format!("1 {i} 0"));
        }
    });
    let begun = now();
    futures::future::join_all(calls).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "they do not wait for one another");
}

#[tokio::test]
async fn a_wrong_secret_cluster_or_node_is_refused() {
    let server = server(2, "secret").await;
    let wrong_secret = client(1, "another", 2, server.address);
    let error = call(&wrong_secret, 2, ECHO, vec![], 3000).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("secret")), "{error}");
    let wrong_node = client(1, "secret", 3, server.address);
    let error = call(&wrong_node, 3, ECHO, vec![], 3000).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("another node")), "{error}");
    let wrong_cluster =
        Rpc::new(Settings { cluster: ClusterId(78), peers: BTreeMap::from([(NodeId(2), server.address)]), ..settings(1, "secret") });
    let error = call(&wrong_cluster, 2, ECHO, vec![], 3000).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("another cluster")), "{error}");
    assert_eq!(server.finished.load(Ordering::SeqCst), 0);
    assert!(!wrong_cluster.is_reachable(NodeId(2)));
}

#[tokio::test]
async fn oversize_is_refused_before_it_is_sent_and_unknown_services_say_so() {
    let server = server(2, "secret").await;
    let client = client(1, "secret", 2, server.address);
    let huge = Bytes::from(vec![0; protocol::limits::FRAME_BODY_BYTES_MAX]);
    let error = call(&client, 2, ECHO, vec![huge, Bytes::from_static(b"x")], 3000).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let error = call(&client, 2, Method(0x0901), vec![Bytes::from(vec![0; 100_000])], 3000).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("no service 9")), "{error}");
    call(&client, 2, ECHO, vec![], 3000).await.unwrap();
}

#[tokio::test]
async fn a_stranger_who_sends_garbage_or_nothing_is_closed() {
    let server = server(2, "secret").await;
    let mut garbage = TcpStream::connect(server.address).await.unwrap();
    garbage.write_all(&[0x55; 500]).await.unwrap();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut rest = Vec::new();
    // Closed (or reset) at once, and after the time for the handshake.
    let _ = timeout(Duration::from_secs(1), garbage.read_to_end(&mut rest)).await.expect("closed");
    let _ = timeout(Duration::from_secs(5), silent.read_to_end(&mut rest)).await.expect("closed");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_dead_peer_fails_fast() {
    let free = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().local_addr().unwrap();
    let client = client(1, "secret", 2, free);
    for _ in 0..2 {
        let begun = now();
        let error = call(&client, 2, ECHO, vec![], 5000).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_millis(500));
    }
    // A peer that accepts and says nothing costs the time of a handshake once, then nothing.
    let mute = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    client.introduce(NodeId(2), mute.local_addr().unwrap());
    let begun = now();
    assert!(matches!(call(&client, 2, ECHO, vec![], 5000).await, Err(Error::Unreachable { .. })));
    assert!(begun.elapsed() < Duration::from_millis(2500));
    sleep(Duration::from_millis(250)).await;
    let begun = now();
    assert!(matches!(call(&client, 2, ECHO, vec![], 5000).await, Err(Error::Unreachable { .. })));
    assert!(begun.elapsed() < Duration::from_millis(200));
}

#[tokio::test]
async fn a_request_runs_on_when_its_caller_is_gone() {
    let server = server(2, "secret").await;
    let client = client(1, "secret", 2, server.address);
    let error = call(&client, 2, SLOW, vec![], 100).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    drop(client);
    let own = server.rpc.clone();
    let error = call(&own, 2, SLOW, vec![], 100).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    sleep(Duration::from_millis(600)).await;
    assert_eq!(server.finished.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_service_that_panics_or_a_node_that_stops_fails_its_calls_as_unknown() {
    let server = server(2, "secret").await;
    let client = client(1, "secret", 2, server.address);
    let begun = now();
    let error = call(&client, 2, PANIC, vec![], 5000).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let stopping = async {
        sleep(Duration::from_millis(100)).await;
        drop(server.listening);
    };
    let (result, ()) = futures::join!(call(&client, 2, SLOW, vec![], 5000), stopping);
    assert!(matches!(result, Err(Error::Unknown { .. })), "{result:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(matches!(call(&server.rpc, 2, ECHO, vec![], 1000).await, Err(Error::Unreachable { .. })));
    sleep(Duration::from_millis(50)).await;
    assert!(matches!(call(&client, 2, ECHO, vec![], 1000).await, Err(Error::Unreachable { .. })));
}

#[tokio::test]
async fn one_way_messages_arrive_in_order() {
    let server = server(2, "secret").await;
    let client = client(1, "secret", 2, server.address);
    for number in 0..100 {
        client.cast(NodeId(2), NOTE, Bytes::from(vec![number]), vec![]);
    }
    assert_eq!(client.queued_bytes(NodeId(2)), 100);
    for _ in 0..100 {
        sleep(Duration::from_millis(20)).await;
        if server.finished.load(Ordering::SeqCst) == 100 {
            break;
        }
    }
    assert_eq!(*server.noted.lock().unwrap(), (0..100).collect::<Vec<u8>>());
    assert_eq!(client.queued_bytes(NodeId(2)), 0);
    for number in 0..100 {
        server.rpc.cast(NodeId(2), NOTE, Bytes::from(vec![number]), vec![]);
    }
    sleep(Duration::from_millis(100)).await;
    assert_eq!(server.noted.lock().unwrap().len(), 200);
}

#[tokio::test]
async fn a_restarted_peer_is_reached_again() {
    let first = server(2, "secret").await;
    let client = client(1, "secret", 2, first.address);
    call(&client, 2, ECHO, vec![], 3000).await.unwrap();
    drop(first);
    sleep(Duration::from_millis(100)).await;
    let second = server(2, "secret").await;
    client.introduce(NodeId(2), second.address);
    call(&client, 2, ECHO, vec![], 3000).await.unwrap();
}
