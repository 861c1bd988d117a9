//! Calls between nodes whose peer goes silent while callers give up.

use super::simulated::*;
use bytes::Bytes;
use protocol::{ClusterId, NodeId};
use runtime::rpc::{Class, Error, Method, Received, Reply, Rpc, Secret, Settings};
use runtime::side::{self, Connections, Machine};
use runtime::task::Task;
use runtime::time::{now, since, sleep, timeout};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub const CLAIMS: &[Claim] = &[
    ("calls-that-are-given-up-do-not-hide-a-cut-peer", || Box::pin(given_up_calls_do_not_hide(cut))),
    ("calls-that-are-given-up-do-not-hide-a-hanging-peer", || Box::pin(given_up_calls_do_not_hide(|nodes| nodes.two.pause()))),
    ("one-call-that-is-given-up-is-enough-to-notice-silence", || Box::pin(one_given_up_call_is_enough())),
    ("a-peer-that-is-slow-to-answer-is-not-silent", || Box::pin(a_slow_peer_is_not_silent())),
    ("a-call-that-is-given-up-frees-its-body-at-once", || Box::pin(a_given_up_call_frees_its_body())),
    ("a-call-that-was-withdrawn-unwritten-is-never-sent", || Box::pin(a_withdrawn_call_is_never_sent())),
];

const ECHO: Method = Method(0x0101);
/// Takes longer than a connection may be silent, but not as long as it may be idle.
const SLOW: Method = Method(0x0102);
const SHARD_BYTES: usize = 2 << 20;
/// As long as the gateway waits before it looks for another shard.
const GIVE_UP: Duration = Duration::from_millis(200);

/// A node on machine 1 that calls one on machine 2.
struct Nodes {
    one: Machine,
    two: Machine,
    client: Rpc,
    /// Requests that reached the service.
    served: Arc<AtomicUsize>,
    _server: (Rpc, Task<()>),
}

fn settings(number: u8) -> Settings {
    let (node, cluster) = (NodeId(u64::from(number)), ClusterId(77));
    let secret = Secret(b"secret".as_slice().into());
    Settings { node, cluster, secret, listen: address(number), peers: BTreeMap::from([(NodeId(2), address(2))]) }
}

/// Two nodes that are connected.
async fn nodes() -> Nodes {
    let (one, two) = (machine(1), machine(2));
    let served: Arc<AtomicUsize> = Arc::default();
    let counting = served.clone();
    let server = two.spawn(async move {
        let rpc = Rpc::new(settings(2));
        let serve = move |request: runtime::rpc::Request| {
            counting.fetch_add(1, Ordering::SeqCst);
            let pause = if request.method == SLOW { Duration::from_secs(20) } else { Duration::ZERO };
            Box::pin(async move {
                sleep(pause).await;
                Reply::default()
            }) as futures::future::BoxFuture<'static, Reply>
        };
        rpc.register(1, Arc::new(serve));
        let listening = rpc.listen().await.unwrap();
        (rpc, listening)
    });
    let nodes = Nodes { one, two, client: Rpc::new(settings(1)), served, _server: server.await };
    assert!(matches!(nodes.call(ECHO, vec![]).await, Some(Ok(_))));
    assert!(nodes.client.is_reachable(NodeId(2)));
    nodes
}

fn cut(nodes: &Nodes) {
    side::partition(std::slice::from_ref(&nodes.one), std::slice::from_ref(&nodes.two));
}

impl Nodes {
    /// None: it was given up before its deadline.
    async fn call(&self, method: Method, body: Vec<Bytes>) -> Option<Result<Received, Error>> {
        self.call_within(method, body, GIVE_UP, Duration::from_secs(30)).await
    }

    async fn call_within(
        &self,
        method: Method,
        body: Vec<Bytes>,
        give_up: Duration,
        deadline: Duration,
    ) -> Option<Result<Received, Error>> {
        let client = self.client.clone();
        let calling = async move {
            let called = client.call(NodeId(2), Class::Bulk, method, 0, Bytes::new(), body, now() + deadline);
            timeout(give_up, called).await.ok()
        };
        self.one.spawn(calling).await
    }

    fn open_connections(&self) -> usize {
        side::connections(&self.one).open
    }
}

/// Shards whose bytes are counted for as long as anything holds them.
#[derive(Default)]
struct Shards {
    held: Arc<()>,
}

struct Shard {
    _held: Arc<()>,
}

impl AsRef<[u8]> for Shard {
    fn as_ref(&self) -> &[u8] {
        static BYTES: [u8; SHARD_BYTES] = [7; SHARD_BYTES];
        &BYTES
    }
}

impl Shards {
    fn one(&self) -> Vec<Bytes> {
        vec![Bytes::from_owner(Shard { _held: self.held.clone() })]
    }

    fn held(&self) -> usize {
        Arc::strong_count(&self.held) - 1
    }
}

async fn given_up_calls_do_not_hide(silence: impl FnOnce(&Nodes)) {
    let nodes = nodes().await;
    silence(&nodes);
    let begun = now();
    loop {
        match nodes.call(ECHO, vec![]).await {
            None => sleep(ms(1300)).await,
            Some(Err(Error::Unreachable { .. })) => break,
            Some(other) => panic!("{other:?}"),
        }
        assert!(since(begun) < Duration::from_secs(9), "it is silent, and calls still wait for it");
    }
    assert!(!nodes.client.is_reachable(NodeId(2)));
    assert!(since(begun) > Duration::from_secs(5), "silence is judged in its time: {:?}", since(begun));
}

async fn one_given_up_call_is_enough() {
    let nodes = nodes().await;
    // At rest it owes nothing.
    sleep(Duration::from_secs(15)).await;
    cut(&nodes);
    sleep(Duration::from_secs(10)).await;
    assert!(nodes.client.is_reachable(NodeId(2)));
    assert!(nodes.call(ECHO, vec![]).await.is_none());
    sleep(Duration::from_secs(7)).await;
    assert!(!nodes.client.is_reachable(NodeId(2)));
    assert_eq!(nodes.open_connections(), 0);
    side::heal_all();
    // It is dialled behind the back of the first that asks.
    assert!(matches!(nodes.call(ECHO, vec![]).await, Some(Err(Error::Unreachable { .. }))));
    settle().await;
    assert!(matches!(nodes.call(ECHO, vec![]).await, Some(Ok(_))));
    assert!(nodes.client.is_reachable(NodeId(2)));
}

async fn a_slow_peer_is_not_silent() {
    let nodes = nodes().await;
    // Nobody waits for the one; somebody waits for the other, far longer than a peer may be silent.
    assert!(nodes.call(SLOW, vec![]).await.is_none());
    sleep(Duration::from_secs(10)).await;
    let waited = nodes.call_within(SLOW, vec![], Duration::from_secs(60), Duration::from_secs(60)).await;
    assert!(matches!(waited, Some(Ok(_))), "{waited:?}");
    assert!(nodes.client.is_reachable(NodeId(2)));
    assert_eq!(nodes.open_connections(), 1);
    // Then it is idle, and closed in good order.
    sleep(Duration::from_secs(25)).await;
    assert_eq!(nodes.open_connections(), 1);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(side::connections(&nodes.one), Connections::default());
    assert!(nodes.client.is_reachable(NodeId(2)));
}

async fn a_given_up_call_frees_its_body() {
    let (nodes, shards) = (nodes().await, Shards::default());
    nodes.two.pause();
    let given_up = futures::future::join_all((0..100).map(|_| nodes.call(ECHO, shards.one()))).await;
    assert!(given_up.iter().all(Option::is_none));
    assert_eq!(shards.held(), 1, "the one that is being written");
    // One that reaches its deadline leaves nothing either, and was certainly not done.
    let overdue = futures::future::join_all((0..100).map(|_| nodes.call_within(ECHO, shards.one(), ms(500), GIVE_UP))).await;
    assert!(overdue.iter().all(|result| matches!(result, Some(Err(Error::Unreachable { .. })))), "{overdue:?}");
    assert_eq!(shards.held(), 1);
    // That one goes with its connection.
    sleep(Duration::from_secs(7)).await;
    assert_eq!(shards.held(), 0);
    assert!(!nodes.client.is_reachable(NodeId(2)));
}

async fn a_withdrawn_call_is_never_sent() {
    let (nodes, shards) = (nodes().await, Shards::default());
    nodes.two.pause();
    let overdue = futures::future::join_all((0..10).map(|_| nodes.call_within(ECHO, shards.one(), ms(500), GIVE_UP))).await;
    let unknown = overdue.iter().filter(|result| matches!(result, Some(Err(Error::Unknown { .. })))).count();
    let unreachable = overdue.iter().filter(|result| matches!(result, Some(Err(Error::Unreachable { .. })))).count();
    assert_eq!((unknown, unreachable), (1, 9), "only the first was begun to be written: {overdue:?}");
    nodes.two.resume();
    sleep(Duration::from_secs(3)).await;
    assert!(matches!(nodes.call(ECHO, vec![]).await, Some(Ok(_))));
    // Those that were answered, and the one whose outcome is unknown.
    assert_eq!(nodes.served.load(Ordering::SeqCst), 3);
    assert_eq!(nodes.open_connections(), 1);
}
