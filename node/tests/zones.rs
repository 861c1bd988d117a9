//! Six real processes in three zones, through the example's own script: any one zone may go.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of real processes")]

mod three_zones;

use jepsen_like::s3::{Client, Content};
use runtime::process::block_on;
use std::time::{Duration, Instant};
use three_zones::Zones;

/// The longest that a PUT may wait.
const PUT_WAIT: Duration = Duration::from_secs(5);

/// Nodes of a zone, as indices of clients.
fn nodes_of(zone: &str) -> [usize; 2] {
    match zone {
        "a" => [0, 1],
        "b" => [2, 3],
        _ => [4, 5],
    }
}

#[test]
fn reads_and_writes_go_on_without_any_one_zone() {
    let folder = tempfile::tempdir().unwrap();
    let zones = Zones::new(folder.path(), 400);
    zones.script(&["up"]);
    let clients = zones.clients();
    let mut written: Vec<(String, Content)> = Vec::new();
    block_on(async { clients[0].create_bucket("zones").await.unwrap() });
    for (round, zone) in ["c", "a", "b"].into_iter().enumerate() {
        let round = round as u64;
        block_on(async {
            for (number, client) in clients.iter().enumerate() {
                write(client, format!("before-{round}-{number}"), round * 100 + number as u64, &mut written).await;
            }
        });
        zones.script(&["kill-zone", zone]);
        let dead = nodes_of(zone);
        let living: Vec<&Client> =
            clients.iter().enumerate().filter(|(index, _)| !dead.contains(index)).map(|(_, client)| client).collect();
        block_on(async {
            let killed = Instant::now();
            for number in 0..24u64 {
                let client = living[number as usize % living.len()];
                let began = Instant::now();
                write(client, format!("during-{round}-{number}"), 1000 + round * 100 + number, &mut written).await;
                assert!(
                    began.elapsed() < PUT_WAIT + Duration::from_secs(1),
                    "a PUT waited {:?} after the loss of zone {zone}",
                    began.elapsed()
                );
            }
            let settled = killed + Duration::from_secs(10);
            runtime::time::sleep(settled.saturating_duration_since(Instant::now())).await;
            for number in 0..8u64 {
                let began = Instant::now();
                write(
                    living[number as usize % living.len()],
                    format!("settled-{round}-{number}"),
                    2000 + round * 100 + number,
                    &mut written,
                )
                .await;
                assert!(began.elapsed() < Duration::from_secs(2), "new volumes still touch zone {zone} after 10 s: {:?}", began.elapsed());
            }
            for client in &living {
                read_all(client, &written).await;
            }
        });
        zones.script(&["start-zone", zone]);
        block_on(async {
            for index in dead {
                read_all(&clients[index], &written).await;
            }
        });
    }
    zones.script(&["down"]);
}

/// Small and large in turn.
async fn write(client: &Client, key: String, seed: u64, written: &mut Vec<(String, Content)>) {
    let content = Content::new(seed, if seed.is_multiple_of(2) { 3000 } else { 700_000 });
    client.put("zones", &key, content).await.unwrap_or_else(|error| panic!("PUT {key}: {error}"));
    written.push((key, content));
}

async fn read_all(client: &Client, written: &[(String, Content)]) {
    for (key, content) in written {
        let reply = client.get_stream("zones", key).await.unwrap_or_else(|error| panic!("GET {key} from {}: {error}", client.endpoint()));
        reply.verify(*content).await.unwrap_or_else(|error| panic!("GET {key} from {}: {error}", client.endpoint()));
    }
    assert_eq!(client.list_all("zones", "", 1000).await.unwrap().len(), written.len());
}
