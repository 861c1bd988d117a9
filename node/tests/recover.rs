//! Three of six nodes are lost for good with all they held: groups that had most of their voters there are founded anew by their operator, the
//! root group among them, and come to have all their voters again, while those of them that come back serve no more.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of real processes")]

mod three_zones;

use jepsen_like::s3::{Client, Content};
use runtime::process::block_on;
use std::time::{Duration, Instant};
use three_zones::{Zones, said};

const BUCKET: &str = "recovered";
const OBJECTS: u64 = 40;
/// Small enough to be in the metadata: the shards of larger ones are lost with so many drives.
const BYTES: u64 = 3000;
const LOST: [u16; 3] = [1, 2, 3];
const LEFT: [u16; 3] = [4, 5, 6];

/// What `group status` says of each group: how many voters it has, and how many of them on nodes that are lost.
fn voters(status: &str) -> Vec<(usize, usize)> {
    let mut groups = Vec::new();
    for line in status.lines() {
        if line.starts_with("root group") || line.starts_with("partition") {
            groups.push((0, 0));
        } else if line.starts_with("  replica")
            && let Some(group) = groups.last_mut()
        {
            group.0 += 1;
            group.1 += usize::from(LOST.iter().any(|node| line.contains(&format!(" on node {node}, "))));
        }
    }
    groups
}

async fn all_there(client: &Client, objects: u64) {
    for number in 0..objects {
        let reply = client.get_stream(BUCKET, &number.to_string()).await.unwrap_or_else(|error| panic!("{number}: {error}"));
        reply.verify(Content::new(number, BYTES)).await.unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    assert_eq!(client.list_all(BUCKET, "", 1000).await.unwrap().len() as u64, objects);
}

#[test]
fn groups_that_lost_most_of_their_voters_are_recovered_by_their_operator() {
    let folder = tempfile::tempdir().unwrap();
    let zones = Zones::new(folder.path(), 800);
    zones.script(&["up"]);
    let clients = zones.clients();
    block_on(async {
        clients[5].create_bucket(BUCKET).await.unwrap();
        for number in 0..OBJECTS {
            clients[5].put(BUCKET, &number.to_string(), Content::new(number, BYTES)).await.unwrap();
        }
    });
    // Followers hear of the last commands.
    std::thread::sleep(Duration::from_secs(2));
    let before = voters(&zones.group(6, &["status"]));
    assert!(before.len() == 5 && before.iter().all(|(all, _)| *all == 5), "{before:?}");
    (1..=6).for_each(|node| zones.kill(node));
    std::thread::sleep(Duration::from_secs(1));
    // Out of the way; one of them comes back later.
    for node in LOST {
        std::fs::rename(zones.data.join(format!("node-{node}")), zones.data.join(format!("away-{node}"))).unwrap();
    }
    let drives: Vec<String> = LEFT.iter().flat_map(|node| (1..=2).map(move |drive| format!("node-{node}/drive-{drive}"))).collect();
    let drives: Vec<String> = drives.iter().map(|drive| zones.data.join(drive).to_str().unwrap().to_owned()).collect();
    let drives: Vec<&str> = drives.iter().map(String::as_str).collect();
    let mut recovered = 0;
    for (group, (_, lost)) in before.iter().enumerate() {
        let number = group.to_string();
        let recover = |more: &[&str]| {
            let said = said(&[&["group", "recover", "--group", &number], more, &drives].concat());
            (said.success, format!("{}{}", said.stdout, said.stderr))
        };
        let (done, told) = recover(&["--apply"]);
        assert!(!done, "{told}");
        if *lost < 3 {
            assert!(told.contains("it goes on by itself"), "{told}");
            continue;
        }
        let (_, named) = told.rsplit_once("--lost ").unwrap_or_else(|| panic!("{told}"));
        let named = named.trim();
        let (done, told) = recover(&["--lost", named]);
        assert!(done && told.contains("nothing was changed") && told.contains("UNKNOWN"), "{told}");
        let (done, told) = recover(&["--lost", named, "--apply"]);
        assert!(done && told.contains(&format!("group {group} goes on as replica")), "{told}");
        // Once more: there is nothing left to do.
        let (done, told) = recover(&["--lost", named, "--apply"]);
        assert!(!done && told.contains("it goes on by itself"), "{told}");
        recovered += 1;
    }
    assert!(recovered > 0, "{before:?}");
    LEFT.iter().for_each(|node| zones.start(*node));
    LEFT.iter().for_each(|node| zones.serves(*node));
    block_on(async {
        for node in LEFT {
            all_there(&clients[usize::from(node) - 1], OBJECTS).await;
        }
        clients[3].put(BUCKET, &OBJECTS.to_string(), Content::new(OBJECTS, BYTES)).await.unwrap();
    });
    // The root group brings other voters; of drives that are gone it has to be told.
    for node in LOST {
        for drive in 0..2 {
            let told = zones.group(4, &["replace", "--drive", &(u64::from(node) << 16 | drive).to_string(), "--wait", "90"]);
            assert!(told.contains(": 0 replicas left to replace"), "{told}");
        }
    }
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        let status = zones.group(5, &["status"]);
        if voters(&status).iter().all(|counts| *counts == (5, 0)) && !status.contains("TOO FEW") {
            assert!(status.contains("  former replica"), "{status}");
            break;
        }
        assert!(Instant::now() < end, "{status}");
        std::thread::sleep(Duration::from_millis(500));
    }
    // All of it stands after a restart, and one of those that were lost comes back.
    LEFT.iter().for_each(|node| zones.kill(*node));
    std::thread::sleep(Duration::from_millis(500));
    std::fs::rename(zones.data.join("away-1"), zones.data.join("node-1")).unwrap();
    LEFT.iter().for_each(|node| zones.start(*node));
    LEFT.iter().for_each(|node| zones.serves(*node));
    zones.start(1);
    let end = Instant::now() + Duration::from_secs(60);
    while zones.group(5, &["status"]).lines().any(|line| line.starts_with("  former replica") && line.contains(" on node 1, ")) {
        assert!(Instant::now() < end, "{}", zones.group(5, &["status"]));
        std::thread::sleep(Duration::from_millis(500));
    }
    block_on(all_there(&clients[4], OBJECTS + 1));
}
