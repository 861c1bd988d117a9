//! What fences of metadata are for: commands of gateways that know old things, settlements of what such gateways left, and
//! commands that arrive a second time. Whether they were refused is judged by the logs (`judge/rules.rs`).

use super::{Blow, Stage, World};
use crate::judge::Accepted;
use bytes::Bytes;
use consensus::client::Session;
use jepsen_like::scenario::Fault;
use metadata::{BucketRef, Client, Preconditions};
use protocol::record::Headers;
use protocol::{BlobId, Body, BucketId, CommandId, GroupId, Home, Record, Revision, WriterId, key_hash};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha12Rng;
use runtime::time::{self, Instant};
use std::collections::BTreeMap;
use std::time::Duration;

/// A command that is not answered by then is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Stray writes to each bucket in each partition.
const STRAYS: usize = 3;
/// Keys among which one is looked for that lies elsewhere.
const KEYS_MAX: usize = 100;
/// Commands that arrive again in each partition.
const DUPLICATES: usize = 4;

/// Strike: there is nothing to heal. Who stands at a waypoint goes on when all is answered.
pub async fn carry_out(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let world = blow.world;
    let share: f64 = random.random();
    let running: Vec<usize> = (0..world.cluster.machines.len()).filter(|node| world.cluster.node(*node).is_some()).collect();
    let through = running.get((share * running.len() as f64) as usize).copied();
    let Some((through, node)) = through.and_then(|node| Some((node, world.cluster.node(node)?))) else {
        return world.note(blow.planned, Stage::Idle, "no node to go through".to_string());
    };
    // Of no gateway: the root group counts from 1, and no two faults of a plan have one number.
    let groups = node.host().client();
    let client = Client::new(groups.clone(), WriterId(u64::MAX - blow.planned.number));
    drop(node);
    let deadline = time::now() + PATIENCE;
    let (commands, what): (Vec<Sent>, &str) = match blow.planned.fault {
        Fault::StrayCommands => (strays(world, &blow.struck.partitions, blow.planned.number), "stray commands"),
        Fault::OrphansSettled => (settlements(world), "settlements"),
        Fault::LateDuplicates => (duplicates(world, &blow.struck.partitions, random), "late duplicates"),
        other => unreachable!("{} is no fault of partitions", other.name()),
    };
    let count = commands.len();
    let sending = world.machine(through).spawn(async move {
        let mut accepted = 0;
        for command in commands {
            accepted += usize::from(command.send(&client, &groups, deadline).await);
        }
        accepted
    });
    // The machine may die meanwhile, and the task with it.
    let told = match time::timeout(PATIENCE * 2, sending).await {
        Ok(accepted) => format!("{accepted} of {count} {what} accepted through node {through}"),
        Err(_) => format!("{what} through node {through} did not end"),
    };
    world.note(blow.planned, Stage::Told, told);
}

/// What is sent to one partition.
enum Sent {
    Put { to: GroupId, bucket: BucketId, key: String },
    Settle { to: GroupId, writer: WriterId, asked: Vec<(Home, BlobId)> },
    Again { to: GroupId, session: Session, command: Bytes },
}

impl Sent {
    /// Whether it was accepted, or had been: a command that its writer may still ask for again gets its first reply.
    async fn send(self, client: &Client, groups: &consensus::Client, deadline: Instant) -> bool {
        match self {
            Sent::Put { to, bucket, key } => {
                let record = Record {
                    revision: Revision(0),
                    null: true,
                    bytes: 5,
                    etag: "stray".to_string(),
                    checksum: None,
                    headers: Headers::default(),
                    modified_ms: 0,
                    tags: Vec::new(),
                    body: Body::Inline(protocol::record::run::Bytes(bytes::Bytes::from_static(b"stray"))),
                };
                // Its list of partitions is not the bucket's: all keys go to the one.
                let bucket = BucketRef { id: bucket, partitions: vec![to] };
                client.put(&bucket, &key, record, Preconditions::default(), deadline).await.is_ok()
            }
            Sent::Settle { to, writer, asked } => {
                let up_to = asked.iter().map(|(_, blob)| blob.counter).max().unwrap_or(0);
                client.settle(to, writer, up_to, asked, deadline).await.is_ok()
            }
            Sent::Again { to, session, command } => groups.propose(to, Some(session), command, deadline).await.is_ok(),
        }
    }
}

/// To each partition, writes that it must refuse.
fn strays(world: &World, partitions: &[GroupId], number: u64) -> Vec<Sent> {
    let mut sent = Vec::new();
    let buckets = world.judge.buckets();
    for to in partitions {
        sent.push(Sent::Put { to: *to, bucket: BucketId(u64::MAX - number), key: "never-opened".to_string() });
        for (bucket, of) in &buckets {
            let elsewhere = |key: &String| of.get((key_hash(*bucket, key) % of.len().max(1) as u64) as usize) != Some(to);
            let keys = (0..KEYS_MAX).map(|number| format!("stray-{number}")).filter(elsewhere).take(STRAYS);
            sent.extend(keys.map(|key| Sent::Put { to: *to, bucket: *bucket, key }));
        }
    }
    sent
}

/// Some of the commands that each partition accepted lately.
fn duplicates(world: &World, partitions: &[GroupId], random: &mut ChaCha12Rng) -> Vec<Sent> {
    let mut sent = Vec::new();
    for to in partitions {
        let accepted = world.judge.accepted(*to);
        sent.extend(accepted.choose_multiple(random, DUPLICATES).map(|Accepted { session, command }| {
            let id = CommandId { writer: WriterId(session.writer), counter: session.counter };
            let session = Session { id, lowest_unfinished: session.lowest_unfinished };
            Sent::Again { to: *to, session, command: command.clone() }
        }));
    }
    sent
}

/// Each writer's blobs that no record names, to the partitions that would name them.
fn settlements(world: &World) -> Vec<Sent> {
    let buckets = world.judge.buckets();
    let mut asked: BTreeMap<(GroupId, WriterId), Vec<(Home, BlobId)>> = BTreeMap::new();
    for (home, blob) in world.judge.orphans() {
        let Some(of) = buckets.get(&home.bucket).filter(|of| !of.is_empty()) else { continue };
        let to = of[(home.key_hash % of.len() as u64) as usize];
        asked.entry((to, blob.writer)).or_default().push((home, blob));
    }
    asked.into_iter().map(|((to, writer), asked)| Sent::Settle { to, writer, asked }).collect()
}
