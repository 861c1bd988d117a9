//! A node dies for good: its replicas are replaced by others elsewhere while clients go on writing.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of real processes")]

mod three_zones;

use jepsen_like::s3::{Client, Content};
use runtime::process::block_on;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use three_zones::Zones;

const BUCKET: &str = "replaced";
/// The longest that a PUT may wait while a node is found to be dead.
const PUT_WAIT: Duration = Duration::from_secs(6);

/// Write and read back until told to stop; what was written.
async fn write(clients: &[Client], stop: &AtomicBool) -> Vec<(String, Content)> {
    let mut written = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = written.len();
        let (key, content) = (format!("key-{number}"), Content::new(number as u64, if number % 2 == 0 { 2000 } else { 200_000 }));
        let client = &clients[number % clients.len()];
        let began = Instant::now();
        client.put(BUCKET, &key, content).await.unwrap_or_else(|error| panic!("PUT {key}: {error}"));
        let took = began.elapsed();
        assert!(took < PUT_WAIT, "PUT {key} took {took:?}");
        written.push((key, content));
        runtime::time::sleep(Duration::from_millis(50)).await;
    }
    written
}

#[test]
fn the_replicas_of_a_node_that_died_are_replaced_under_writes() {
    let folder = tempfile::tempdir().unwrap();
    let zones = Zones::new(folder.path(), 600);
    zones.script(&["up"]);
    let mut clients = zones.clients();
    block_on(async { clients[0].create_bucket(BUCKET).await.unwrap() });
    let whole = zones.group(2, &["status"]);
    let on_the_first = |status: &str| status.lines().filter(|line| line.starts_with("  replica") && line.contains(" on node 1, ")).count();
    let replicas = |status: &str| status.lines().filter(|line| line.starts_with("  replica")).count();
    assert!(on_the_first(&whole) > 0, "{whole}");
    zones.kill(1);
    clients.remove(0);
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| block_on(write(&clients, &stop)));
        // Both of its drives: their numbers are its own, 16 bits up.
        for drive in ["65536", "65537"] {
            let told = zones.group(3, &["replace", "--drive", drive, "--wait", "90"]);
            assert!(told.contains(": 0 replicas left to replace"), "{told}");
        }
        stop.store(true, Ordering::Relaxed);
        writing.join().unwrap()
    });
    let after = zones.group(2, &["status"]);
    assert_eq!((on_the_first(&after), replicas(&after)), (0, replicas(&whole)), "{after}");
    assert_eq!(after.matches("none of its replicas is needed any more").count(), 2, "{after}");
    assert!(written.len() > 10, "{} objects", written.len());
    block_on(async {
        for (key, content) in &written {
            let reply = clients[0].get_stream(BUCKET, key).await.unwrap_or_else(|error| panic!("GET {key}: {error}"));
            reply.verify(*content).await.unwrap_or_else(|error| panic!("GET {key}: {error}"));
        }
    });
}
