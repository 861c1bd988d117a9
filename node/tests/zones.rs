//! Six real processes in three zones, through the example's own script: any one zone may go.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of real processes")]

use jepsen_like::s3::{Client, Content, Credentials};
use runtime::process::block_on;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Away from the ports of the example itself, of other tests and of ephemeral ports.
const S3_PORT: u16 = 19_400;
const RPC_PORT: u16 = 17_400;
/// The longest that a PUT may wait.
const PUT_WAIT: Duration = Duration::from_secs(5);

struct Zones {
    data: PathBuf,
}

impl Zones {
    fn script(&self, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/three-zones/start.sh");
        let output = Command::new("bash")
            .arg(script)
            .args(arguments)
            .env("KEEPSTONE", env!("CARGO_BIN_EXE_keepstone"))
            .env("KEEPSTONE_DATA", &self.data)
            .env("S3_PORT", S3_PORT.to_string())
            .env("RPC_PORT", RPC_PORT.to_string())
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    }

    fn clients(&self) -> Vec<Client> {
        let text = std::fs::read_to_string(self.data.join("credentials.toml")).unwrap();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split('"').nth(1).unwrap().to_string()
        };
        (1..=6u16)
            .map(|node| {
                let address = SocketAddr::from(([127, 0, 0, 1], S3_PORT + node));
                Client::new(address, Credentials::new(value("access_key"), value("secret_key")), "us-east-1")
            })
            .collect()
    }
}

impl Drop for Zones {
    fn drop(&mut self) {
        for node in 1..=6 {
            if let Ok(pid) = std::fs::read_to_string(self.data.join(format!("node-{node}.pid"))) {
                let _ = Command::new("kill").arg("-9").arg(pid.trim()).status();
            }
        }
    }
}

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
    let zones = Zones { data: folder.path().join("zones") };
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
