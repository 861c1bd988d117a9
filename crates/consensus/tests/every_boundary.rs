//! A power cut at every single write of a replica's drive: founding, votes, appends, checkpoints, segments that are begun and cut, a
//! snapshot that is installed. Whatever it leaves, the replica comes back, nothing that was acknowledged is missing, and it holds what the
//! others hold.
//!
//! Each run cuts behind another operation of the drive, until one is over before its cut. What of the unsynced writes is kept is drawn: `--draw N` draws
//! anew, `--at N` runs one cut, `--plant NAME` has a planted bug.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[cfg(madsim)]
mod machine;
#[cfg(madsim)]
mod world;

fn main() {
    #[cfg(madsim)]
    simulated::main();
}

#[cfg(madsim)]
mod simulated {
    use super::machine::{Lists, append, numbers};
    use super::world::{Arguments, address, groups, rpc};
    use bytes::Bytes;
    use consensus::client::Session;
    use consensus::host::ReplicaStatus;
    use consensus::{Bootstrap, Client, Host, HostDrive, Settings};
    use protocol::{CommandId, DriveId, GroupId, WriterId};
    use runtime::side::{self, Machine, SimDrive, stream_for};
    use runtime::time::{self, sleep};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    const NODES: u64 = 3;
    /// The node of whom the power is cut.
    const STRUCK: u64 = 1;
    const GROUP: GroupId = GroupId(1);
    /// Commands before the struck node is cut off from the others, and while it is.
    const COMMANDS: u64 = 30;

    pub fn main() {
        let arguments = Arguments::of_this_process();
        side::plant(arguments.value("--plant"));
        let strike = |boundary| strike(boundary, arguments.number("--draw").unwrap_or(0));
        if let Some(boundary) = arguments.number("--at") {
            println!("struck: {}", strike(boundary));
            return;
        }
        let boundaries = (0..).take_while(|boundary| strike(*boundary)).count();
        println!("the power was cut at {boundaries} boundaries");
        // Of the last run at least, which nothing disturbed.
        let probes = side::probes();
        for step in ["consensus-log-segment-cut", "consensus-snapshot-before-seal", "consensus-snapshot-before-log-reset"] {
            assert!(probes.get(step).is_some_and(|count| *count > 0), "{step} is no part of it: {probes:?}");
        }
    }

    /// False if all was over before the cut.
    fn strike(boundary: u64, draw: u64) -> bool {
        // What fails must say where.
        eprintln!("cut behind operation {boundary}");
        side::run(side::Settings::new(boundary + (draw << 32)), move || scenario(boundary, draw))
    }

    /// Everything small: a few commands fill a segment, and who misses some needs a snapshot.
    fn settings() -> Settings {
        Settings {
            segment_bytes: 8 << 10,
            segments_max: 2,
            checkpoint_bytes: 4 << 10,
            checkpoint_after: Duration::from_secs(1),
            tail_bytes: 0,
            mark_interval: 8,
            snapshot_page_bytes: 2 << 10,
            ..Settings::default()
        }
    }

    #[derive(Default)]
    struct World {
        created: Mutex<BTreeSet<u64>>,
        status: Mutex<BTreeMap<u64, ReplicaStatus>>,
        /// Commands that may be proposed, and those that were acknowledged.
        wanted: AtomicU64,
        acknowledged: AtomicU64,
        /// What the last read found.
        list: Mutex<Option<Vec<u64>>>,
    }

    async fn node(number: u64, drive: SimDrive, world: Arc<World>) {
        world.status.lock().unwrap().remove(&number);
        let rpc = rpc(number, NODES + 1);
        let bootstrap = if world.created.lock().unwrap().contains(&number) { Bootstrap::Again } else { Bootstrap::First };
        let drives = vec![HostDrive { drive: DriveId(number), disk: drive.mount(), bootstrap }];
        let (host, failed) = Host::open_with(settings(), rpc.clone(), drives, groups(1, NODES), |_| Arc::new(Lists)).await;
        if let Some((_, error)) = failed.first() {
            // The power went while it was opened; anything else is a bug, as nothing rots here.
            assert!(matches!(error, consensus::host::Error::Disk(_) | consensus::host::Error::Create { .. }), "{error}");
            return;
        }
        world.created.lock().unwrap().insert(number);
        let _listening = rpc.listen().await.expect("its own port");
        loop {
            for status in host.status() {
                world.status.lock().unwrap().insert(number, status);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Append numbers in order, each until it is acknowledged, as far as they are wanted; then read all.
    async fn client(world: Arc<World>) {
        let client = Client::new(rpc(NODES + 1, NODES + 1), groups(1, NODES));
        loop {
            let next = world.acknowledged.load(Ordering::Relaxed) + 1;
            let deadline = time::now() + Duration::from_secs(30);
            if next <= world.wanted.load(Ordering::Relaxed) {
                let id = CommandId { writer: WriterId(1), counter: next };
                let session = Some(Session { id, lowest_unfinished: next });
                client.propose(GROUP, session, append(1, next, 600), deadline).await.expect("two of three nodes are there");
                world.acknowledged.store(next, Ordering::Relaxed);
            } else if world.list.lock().unwrap().is_none() && next > 2 * COMMANDS {
                let reply = client.read(GROUP, Bytes::from_static(&[1]), deadline).await.expect("all nodes are there");
                *world.list.lock().unwrap() = Some(numbers(&reply));
            } else {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn until(what: &str, world: &World, so: impl Fn(&World) -> bool) {
        let give_up = time::now() + Duration::from_secs(120);
        while !so(world) {
            assert!(time::now() < give_up, "{what}: {:#?}", world.status.lock().unwrap());
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn scenario(boundary: u64, draw: u64) -> bool {
        let world: Arc<World> = Arc::default();
        let drives: Vec<SimDrive> = (1..=NODES).map(|number| SimDrive::new(&format!("drive {number}"), 16 << 20)).collect();
        let struck = &drives[STRUCK as usize - 1];
        let mut random = stream_for(boundary, "cut", draw, 0);
        struck.cut_power_after(boundary, &mut random);
        let nodes: Vec<Machine> = (1..=NODES)
            .map(|number| {
                let (drive, world) = (drives[number as usize - 1].clone(), world.clone());
                let mounted = drive.clone();
                let start = move || node(number, mounted.clone(), world.clone());
                Machine::start(&format!("node {number}"), address(number).ip(), vec![drive], start)
            })
            .collect();
        let nodes = Arc::new(nodes);
        let was_struck = Arc::new(AtomicU64::new(0));
        let (machines, drive, noted) = (nodes.clone(), struck.clone(), was_struck.clone());
        let cutting = runtime::task::spawn(async move {
            drive.power_lost().await;
            noted.store(1, Ordering::Relaxed);
            let machine = &machines[STRUCK as usize - 1];
            machine.cut_power(&mut random);
            sleep(Duration::from_millis(500)).await;
            machine.restart();
        });
        let asking = world.clone();
        let client = Machine::start("client", address(NODES + 1).ip(), Vec::new(), move || client(asking.clone()));
        world.wanted.store(COMMANDS, Ordering::Relaxed);
        until("the first commands", &world, |world| world.acknowledged.load(Ordering::Relaxed) == COMMANDS).await;
        let (one, others) = nodes.split_at(STRUCK as usize);
        side::partition(one, others);
        world.wanted.store(2 * COMMANDS, Ordering::Relaxed);
        until("commands without it", &world, |world| world.acknowledged.load(Ordering::Relaxed) == 2 * COMMANDS).await;
        // The others cut their logs.
        sleep(Duration::from_secs(3)).await;
        side::heal(one, others);
        let equal = |world: &World| {
            let status = world.status.lock().unwrap();
            let states: BTreeSet<_> = status.values().map(|one| (one.applied, one.state_hash)).collect();
            status.len() as u64 == NODES && states.len() == 1 && status.values().all(|one| one.trouble.is_none())
        };
        until("all hold the same", &world, |world| equal(world) && !nodes[STRUCK as usize - 1].is_dead()).await;
        until("the last read", &world, |world| world.list.lock().unwrap().is_some()).await;
        let list = world.list.lock().unwrap().clone().expect("it is there");
        assert_eq!(list, (1..=2 * COMMANDS).collect::<Vec<_>>(), "each number once, in order");
        for status in world.status.lock().unwrap().values() {
            assert_eq!(status.healed, None, "nothing rots here");
        }
        client.kill();
        drop(cutting);
        was_struck.load(Ordering::Relaxed) == 1
    }
}
