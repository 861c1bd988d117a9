//! Identities that an operator makes and ends, and what all nodes share, on six real processes.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of real processes")]

mod three_zones;

use jepsen_like::s3::{Auth, Client, Credentials, Error, Request};
use runtime::process::block_on;
use std::path::Path;
use std::time::{Duration, Instant};
use three_zones::Zones;

const BUCKET: &str = "identities";
/// The bound that the documents state, in which no gateway takes any more what was ended.
const BOUND: Duration = Duration::from_secs(30);

/// The keys that `create` or `rotate` printed.
fn printed(stdout: &str) -> Credentials {
    let value = |name: &str| {
        let line = stdout.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {stdout}"));
        line.split('"').nth(1).unwrap().to_string()
    };
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    Credentials::new(value("access_key"), value("secret_key"))
}

/// What a gateway says to a PUT and a GET by header, and to both kinds of links.
async fn answers(client: &Client) -> Vec<String> {
    let object = |method| Request::object(method, BUCKET, "key");
    let requests = [
        object("PUT").source("whatever".to_string()),
        object("GET"),
        object("GET").auth(Auth::Query { expires_s: 60 }),
        object("GET").auth(Auth::QueryV2 { expires_s: 60 }),
    ];
    let mut answers = Vec::new();
    for request in requests {
        answers.push(match client.call_whole(&request).await {
            Ok(_) => "served".to_owned(),
            Err(Error::Refused { status, code, .. }) => format!("{status} {code}"),
            Err(error) => error.to_string(),
        });
    }
    answers
}

/// Wait until every gateway answers everything with `expected`; how long it took.
async fn until(clients: &[Client], credentials: &Credentials, expected: &str) -> Duration {
    let began = Instant::now();
    for client in clients {
        let client = client.with_credentials(credentials.clone());
        loop {
            let answers = answers(&client).await;
            if answers.iter().all(|answer| answer == expected) {
                break;
            }
            assert!(began.elapsed() < BOUND, "{} says {answers:?}, not {expected}", client.endpoint());
            runtime::time::sleep(Duration::from_millis(50)).await;
        }
    }
    began.elapsed()
}

/// Files below `folder` in which `secret` stands.
fn holding(folder: &Path, secret: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.extend(holding(&path, secret));
        } else if std::fs::read(&path).unwrap().windows(secret.len()).any(|window| window == secret.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn identities_come_and_go_at_every_gateway_and_no_file_has_their_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let zones = Zones::new(folder.path(), 800);
    zones.script(&["up"]);
    let clients = zones.clients();
    block_on(async { clients[0].create_bucket(BUCKET).await.unwrap() });
    let identity = |node: u16, arguments: &[&str]| zones.keepstone(node, &[&["identity"], arguments].concat());

    let made = identity(2, &["create", "--name", "nightly backup"]);
    assert!(made.stderr.contains("may read, write and delete everything"), "{made:?}");
    let first = printed(&made.stdout);
    let other = printed(&identity(3, &["create"]).stdout);
    assert!(first.access_key != other.access_key && first.secret_key != other.secret_key);
    let listed = identity(5, &["list"]).stdout;
    assert!(listed.contains(&first.access_key) && listed.contains("nightly backup"), "{listed}");
    assert!(!listed.contains(&first.secret_key), "{listed}");

    block_on(async {
        // Other gateways than the one whose configuration made it; the first use of such an identity waits for nothing.
        let fifth = clients[4].with_credentials(first.clone());
        assert_eq!(answers(&fifth).await, ["served"; 4]);
        until(&clients, &first, "served").await;
        until(&clients, &other, "served").await;
        until(&clients, &Credentials::new(&*first.access_key, &*other.secret_key), "403 SignatureDoesNotMatch").await;
        until(&clients, &Credentials::new("KSNOBODYNOBODYNOBO", &*first.secret_key), "403 InvalidAccessKeyId").await;
    });

    let second = printed(&identity(1, &["rotate", &first.access_key]).stdout);
    assert!(second.access_key == first.access_key && second.secret_key != first.secret_key);
    block_on(async {
        until(&clients, &second, "served").await;
        until(&clients, &first, "403 SignatureDoesNotMatch").await;
    });
    identity(6, &["disable", &first.access_key]);
    assert!(identity(6, &["list"]).stdout.contains("disabled"));
    let took = block_on(until(&clients, &second, "403 InvalidAccessKeyId"));
    assert!(took < Duration::from_secs(10), "gateways that are told know sooner than by age: {took:?}");
    identity(4, &["enable", &first.access_key]);
    block_on(until(&clients, &second, "served"));
    identity(2, &["remove", &first.access_key]);
    block_on(async {
        until(&clients, &second, "403 InvalidAccessKeyId").await;
        until(&clients, &other, "served").await;
    });
    assert!(!identity(2, &["list"]).stdout.contains(&first.access_key));
    let gone = zones.try_keepstone(2, &["identity", "rotate", &first.access_key]);
    assert!(!gone.success && gone.stderr.contains("no such identity"), "{gone:?}");

    // The one in the node's file is not the cluster's to end.
    let own = std::fs::read_to_string(zones.data.join("credentials.toml")).unwrap();
    let own = own.split('"').nth(1).unwrap();
    let refused = zones.try_keepstone(2, &["identity", "remove", own]);
    assert!(!refused.success && refused.stderr.contains("credentials.toml"), "{refused:?}");
    block_on(async { clients[3].head_bucket(BUCKET).await.unwrap() });

    zones.script(&["down"]);
    for secret in [&first.secret_key, &second.secret_key, &other.secret_key] {
        assert_eq!(holding(&zones.data, secret), [""; 0]);
    }
}

#[test]
fn a_node_whose_file_names_another_region_says_so_and_serves_the_founded_one() {
    let folder = tempfile::tempdir().unwrap();
    let zones = Zones::new(folder.path(), 1000);
    zones.script(&["up"]);
    let shared = zones.keepstone(4, &["settings"]);
    assert!(shared.stdout.contains("region = \"us-east-1\"\nscheme = \"rs(4,2)\"\nbest_effort = true\npartitions = 4\n"), "{shared:?}");
    assert_eq!(shared.stderr, "");
    zones.script(&["kill-zone", "c"]);
    let path = zones.data.join("cluster.toml");
    let file = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, file.replace("region = \"us-east-1\"", "region = \"eu-1\"")).unwrap();
    zones.script(&["start-zone", "c"]);
    let said = std::fs::read_to_string(zones.data.join("node-6.log")).unwrap();
    assert!(said.contains("the cluster's file says region eu-1: the cluster was founded with us-east-1, which is served"), "{said}");
    let differs = zones.keepstone(6, &["settings"]);
    assert!(differs.stdout.contains("region = \"us-east-1\""), "{differs:?}");
    assert!(differs.stderr.contains("the stored region is us-east-1, the configuration says eu-1"), "{differs:?}");
    block_on(async {
        let clients = zones.clients();
        clients[5].create_bucket("regions").await.unwrap();
        let (_, location) = clients[5].call_whole(&Request::bucket("GET", "regions").query("location", "")).await.unwrap();
        assert!(!String::from_utf8_lossy(&location).contains("eu-1"), "{location:?}");
    });
    zones.script(&["down"]);
}
