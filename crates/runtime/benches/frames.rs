//! Calls over loopback: what frames, checksums and MACs cost, from an empty request to a shard of a mebibyte.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use protocol::{ClusterId, NodeId};
use runtime::rpc::{Class, Method, Reply, Rpc, Secret, Settings};
use runtime::time::now;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn settings(node: u64) -> Settings {
    Settings {
        node: NodeId(node),
        cluster: ClusterId(1),
        secret: Secret(b"secret".as_slice().into()),
        listen: "127.0.0.1:0".parse().expect("an address"),
        peers: BTreeMap::new(),
    }
}

fn frames(criterion: &mut Criterion) {
    let executor = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let (client, _listening) = executor.block_on(async {
        let server = Rpc::new(settings(1));
        server.register(
            1,
            Arc::new(|request| {
                Box::pin(async move {
                    let asked = if request.method == Method(0x0101) { Bytes::new() } else { request.body.clone() };
                    Reply { meta: Bytes::new(), body: vec![asked] }
                })
            }),
        );
        let listening = server.listen().await.expect("a port");
        let client = Rpc::new(settings(2));
        client.introduce(NodeId(1), server.address().expect("bound"));
        (client, listening)
    });
    let mut group = criterion.benchmark_group("frames");
    for bytes in [0, 4 << 10, 64 << 10, 1 << 20] {
        let body = Bytes::from(vec![7; bytes]);
        group.throughput(Throughput::Bytes(bytes as u64));
        for (direction, method) in [("there", Method(0x0101)), ("there and back", Method(0x0102))] {
            group.bench_function(format!("{bytes} bytes {direction}"), |bencher| {
                bencher.iter(|| {
                    let deadline = now() + Duration::from_secs(10);
                    let call = client.call(NodeId(1), Class::Bulk, method, 1, Bytes::new(), vec![body.clone()], deadline);
                    executor.block_on(call).expect("a reply")
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
