//! A group of three of which two replicas are lost for good is founded anew from the third, and the power of its drive is cut at every
//! single write on the way. Then two others enter beside it, and those that were lost come back all the same.
//!
//! Whatever the cut leaves: the survivor is as it was, or the new replica stands; to do it again ends it; every number that was acknowledged,
//! before and after, is there once and in order; who comes back takes part in nothing and keeps what it has.
//!
//! And two operators who know nothing of each other found it anew from two survivors: the later one's counts, and the earlier one keeps what
//! it has, however often it is told and its node is started.
//!
//! `--draw N` draws anew what of the unsynced writes is kept, `--at N` runs one cut.
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
    use super::world::{Arguments, address, groups, place, rpc};
    use bytes::Bytes;
    use consensus::client::Session;
    use consensus::host::ReplicaStatus;
    use consensus::inspect::{LogView, read_checkpoint};
    use consensus::members::ID_STEP_MAX;
    use consensus::refounding::{Error, Refounding, refound};
    use consensus::{Bootstrap, Client, Host, HostDrive, Members, ReplicaPlace, Settings};
    use protocol::{CommandId, DriveId, GroupId, ReplicaId, WriterId};
    use runtime::side::{self, Machine, SimDrive, stream_for};
    use runtime::time::{self, sleep};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    /// Nodes 1 to 3 have the group, 4 and 5 come to have it.
    const NODES: u64 = 5;
    const FOUNDERS: u64 = 3;
    const CLIENT: u64 = NODES + 1;
    const GROUP: GroupId = GroupId(1);
    const COMMANDS: u64 = 20;
    /// When it is decided on node 1, and the id that the new replica gets.
    const AT_S: u64 = 1000;
    const NEW: ReplicaId = founded(1);

    /// The id that a decision on the node gives: later on those with greater numbers, and their ids are lower.
    const fn founded(node: u64) -> ReplicaId {
        ReplicaId(FOUNDERS + (1 + random(node)) * 2 * ID_STEP_MAX)
    }

    const fn random(node: u64) -> u64 {
        10 - node
    }

    /// The decision on a node.
    fn decision(node: u64) -> Refounding {
        let newest = Members::founding(&groups(1, FOUNDERS)[0]);
        Refounding { group: GROUP, from: place(node), whole_to: COMMANDS, newest, term: 3, at_s: AT_S * node, random: random(node) }
    }

    pub fn main() {
        let arguments = Arguments::of_this_process();
        let strike = |boundary| strike(boundary, arguments.number("--draw").unwrap_or(0));
        if let Some(boundary) = arguments.number("--at") {
            println!("struck: {}", strike(boundary));
            return;
        }
        eprintln!("two decisions");
        side::run(side::Settings::new(1), twins);
        let boundaries = (0..).take_while(|boundary| strike(*boundary)).count();
        println!("the power was cut at {boundaries} boundaries");
        let probes = side::probes();
        assert!(probes.get("consensus-replica-set-aside").is_some_and(|count| *count > 0), "{probes:?}");
    }

    /// False if all was over before the cut.
    fn strike(boundary: u64, draw: u64) -> bool {
        // What fails must say where.
        eprintln!("cut behind operation {boundary}");
        side::run(side::Settings::new(boundary + (draw << 32)), move || scenario(boundary, draw))
    }

    fn settings() -> Settings {
        Settings {
            segment_bytes: 16 << 10,
            checkpoint_bytes: 4 << 10,
            mark_interval: 8,
            snapshot_page_bytes: 2 << 10,
            ..Settings::default()
        }
    }

    #[derive(Default)]
    struct World {
        created: Mutex<BTreeSet<u64>>,
        status: Mutex<BTreeMap<u64, ReplicaStatus>>,
        /// These nodes are not to run: the group is founded anew on their drives.
        decided: Mutex<BTreeSet<u64>>,
        done: AtomicBool,
        /// Commands that may be proposed, and those that were acknowledged.
        wanted: AtomicU64,
        acknowledged: AtomicU64,
        list: Mutex<Option<Vec<u64>>>,
        /// Other nodes may enter.
        grow: AtomicBool,
        members: Mutex<Option<Members>>,
    }

    async fn node(number: u64, drive: SimDrive, world: Arc<World>) {
        if world.decided.lock().unwrap().contains(&number) {
            return decide(number, drive, world).await;
        }
        world.status.lock().unwrap().remove(&number);
        let rpc = rpc(number, CLIENT);
        let bootstrap = if world.created.lock().unwrap().contains(&number) { Bootstrap::Again } else { Bootstrap::First };
        let drives = vec![HostDrive { drive: DriveId(number), disk: drive.mount(), bootstrap }];
        let (host, failed) = Host::open_with(settings(), rpc.clone(), drives, groups(1, FOUNDERS), |_| Arc::new(Lists)).await;
        assert!(failed.is_empty(), "{failed:?}");
        world.created.lock().unwrap().insert(number);
        let _listening = rpc.listen().await.expect("its own port");
        loop {
            // One that was never committed to may lie beside the one that counts.
            let status = host.status().into_iter().max_by_key(|one| one.trouble.is_none());
            status.into_iter().for_each(|status| drop(world.status.lock().unwrap().insert(number, status)));
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the operator's command does.
    async fn decide(number: u64, drive: SimDrive, world: Arc<World>) {
        let disk = drive.mount();
        let on = disk.clone();
        match runtime::disk::run(&disk, move || refound(&on, &settings(), &decision(number), &Lists)).await {
            Ok(done) => {
                assert_eq!((done.members.era(), done.members.last), (AT_S * number, founded(number)));
                world.done.store(true, Ordering::Relaxed);
            }
            // The decision was durable before the power went.
            Err(Error::Survivor { reason, .. }) if reason.contains("left its group") => world.done.store(true, Ordering::Relaxed),
            Err(Error::Disk(_) | Error::Log(_) | Error::State(_) | Error::Unknown(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn client(world: Arc<World>) {
        let client = Client::new(rpc(CLIENT, CLIENT), groups(1, FOUNDERS));
        loop {
            let next = world.acknowledged.load(Ordering::Relaxed) + 1;
            let deadline = time::now() + Duration::from_secs(30);
            if next <= world.wanted.load(Ordering::Relaxed) {
                let id = CommandId { writer: WriterId(1), counter: next };
                let session = Some(Session { id, lowest_unfinished: next });
                if client.propose(GROUP, session, append(1, next, 600), deadline).await.is_ok() {
                    world.acknowledged.store(next, Ordering::Relaxed);
                }
            } else if world.grow.swap(false, Ordering::Relaxed) {
                let mut members = None;
                for node in [4, 5] {
                    let enters = ReplicaPlace { replica: ReplicaId(NEW.0 + node - 3), ..place(node) };
                    members = Some(client.enlarge(GROUP, enters, deadline).await.expect("all of them run"));
                    assert_eq!(client.enlarge(GROUP, enters, deadline).await.ok(), members, "it is so already");
                }
                *world.members.lock().unwrap() = members;
            } else if world.list.lock().unwrap().is_none() {
                let reply = client.read(GROUP, Bytes::from_static(&[1]), deadline).await;
                *world.list.lock().unwrap() = reply.ok().map(|reply| numbers(&reply));
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

    fn alike(world: &World, nodes: &[u64]) -> bool {
        let status = world.status.lock().unwrap();
        let states: BTreeSet<_> = nodes.iter().map(|node| status.get(node).map(|one| (one.applied, one.state_hash))).collect();
        states.len() == 1 && nodes.iter().all(|node| status.get(node).is_some_and(|one| one.trouble.is_none()))
    }

    async fn read(world: &World) -> Vec<u64> {
        *world.list.lock().unwrap() = None;
        until("a read", world, |world| world.list.lock().unwrap().is_some()).await;
        world.list.lock().unwrap().clone().expect("it is there")
    }

    /// A group of three that took some commands, all of which every node has; none of the nodes runs any more.
    async fn begin() -> (Arc<World>, Vec<Machine>, Machine) {
        let world: Arc<World> = Arc::default();
        let machines: Vec<Machine> = (1..=NODES)
            .map(|number| {
                let (drive, world) = (SimDrive::new(&format!("drive {number}"), 16 << 20), world.clone());
                let mounted = drive.clone();
                let start = move || node(number, mounted.clone(), world.clone());
                Machine::start(&format!("node {number}"), address(number).ip(), vec![drive], start)
            })
            .collect();
        let asking = world.clone();
        let client = Machine::start("client", address(CLIENT).ip(), Vec::new(), move || client(asking.clone()));
        world.wanted.store(COMMANDS, Ordering::Relaxed);
        until("the first commands", &world, |world| world.acknowledged.load(Ordering::Relaxed) == COMMANDS).await;
        until("all hold the same", &world, |world| alike(world, &[1, 2, 3])).await;
        // A leader applies what the others have before its own drive has it: what the survivor never had would be lost.
        sleep(Duration::from_secs(1)).await;
        machines[..FOUNDERS as usize].iter().for_each(Machine::kill);
        (world, machines, client)
    }

    /// Founded anew on the drives of nodes 1 and 2 both.
    async fn twins() {
        let (world, machines, client) = begin().await;
        for node in [1, 2] {
            world.decided.lock().unwrap().insert(node);
            world.done.store(false, Ordering::Relaxed);
            machines[node as usize - 1].restart();
            until("a decision", &world, |world| world.done.load(Ordering::Relaxed)).await;
            machines[node as usize - 1].kill();
        }
        world.decided.lock().unwrap().clear();
        client.kill();
        machines[..2].iter().for_each(Machine::restart);
        until("each leads alone", &world, |world| {
            let status = world.status.lock().unwrap();
            [1, 2].iter().all(|node| status.get(node).is_some_and(|one| one.leader == Some(one.replica)))
        })
        .await;
        let earlier = ReplicaPlace { replica: NEW, ..place(1) };
        let telling = Machine::start("operator", address(CLIENT + 1).ip(), Vec::new(), move || async move {
            let client = Client::new(rpc(CLIENT + 1, CLIENT), groups(1, FOUNDERS));
            let deadline = time::now() + Duration::from_secs(30);
            let view = client.members(GROUP, deadline).await.expect("both answer");
            assert_eq!(view.members.era(), 2 * AT_S, "the later one counts");
            client.remove_replica(GROUP, earlier, &view.members, deadline).await.expect("it is there");
        });
        let aside = |world: &World| world.status.lock().unwrap().get(&1).is_some_and(|one| one.replica == NEW && one.to_be_replaced);
        until("the earlier one is set aside", &world, |world| telling.is_dead() && aside(world)).await;
        // Nobody noted that it was told: it is told again, in this life and in the next ones.
        let (drive, state) = (&machines[0].drives()[0], format!("raft/g{GROUP}-r{NEW}-1.redb"));
        for life in 0..4 {
            telling.restart();
            until("it is told again", &world, |_| telling.is_dead()).await;
            sleep(Duration::from_secs(1)).await;
            let left = drive.files();
            assert!(left.iter().any(|file| file.name == state), "life {life}: what it has is kept: {left:?}");
            assert!(aside(&world), "life {life}: {:?}", world.status.lock().unwrap());
            machines[0].kill();
            if life == 2 {
                // Of which founding it is cannot be read any more.
                drive.rot(&state, 0, 512, &mut stream_for(1, "rot", 0, 0)).unwrap();
            }
            world.status.lock().unwrap().remove(&1);
            machines[0].restart();
            until("it is set aside for good", &world, aside).await;
        }
        world.wanted.store(2 * COMMANDS, Ordering::Relaxed);
        client.restart();
        until("commands of the later one", &world, |world| world.acknowledged.load(Ordering::Relaxed) == 2 * COMMANDS).await;
        assert_eq!(read(&world).await, (1..=2 * COMMANDS).collect::<Vec<_>>());
    }

    /// What an operator who looks at the drive is told: the survivor is there, or the new replica is.
    fn look(drive: &SimDrive) {
        let disk = drive.durable();
        let mut view = LogView::default();
        view.advance(disk.as_ref()).expect("nothing rots here");
        let state = |replica| read_checkpoint(disk.as_ref(), DriveId(1), GROUP, replica).expect("nothing rots here");
        let stands = |replica| view.replica(GROUP, replica).is_some_and(|one| !one.removed);
        assert_ne!(stands(ReplicaId(1)), stands(NEW));
        let there = if stands(NEW) { NEW } else { ReplicaId(1) };
        assert!(state(there).is_some_and(|state| state.members.place(there).is_some()), "{there}");
    }

    async fn scenario(boundary: u64, draw: u64) -> bool {
        let mut random = stream_for(boundary, "cut", draw, 0);
        let (world, machines, client) = begin().await;

        // The decision, cut short.
        let survivor = &machines[0];
        let drive = &survivor.drives()[0];
        world.decided.lock().unwrap().insert(1);
        drive.cut_power_after(boundary, &mut random);
        survivor.restart();
        let struck = runtime::select! {
            () = drive.power_lost() => true,
            () = until("the decision", &world, |world| world.done.load(Ordering::Relaxed)) => false,
        };
        survivor.cut_power(&mut random);
        look(drive);
        if struck && boundary.is_multiple_of(2) {
            // Started as it is: it leads alone only if the decision was made.
            world.decided.lock().unwrap().clear();
            survivor.restart();
            until("the survivor runs", &world, |world| world.status.lock().unwrap().contains_key(&1)).await;
            sleep(Duration::from_secs(5)).await;
            let status = world.status.lock().unwrap()[&1].clone();
            assert_eq!(status.trouble, None);
            assert_eq!(status.leader.is_some(), status.replica == NEW, "{status:?}");
            world.decided.lock().unwrap().insert(1);
            survivor.cut_power(&mut random);
            look(drive);
        }
        if struck {
            world.done.store(false, Ordering::Relaxed);
            survivor.restart();
            until("the decision, again", &world, |world| world.done.load(Ordering::Relaxed)).await;
        }
        world.decided.lock().unwrap().clear();
        survivor.cut_power(&mut random);
        survivor.restart();

        assert_eq!(read(&world).await, (1..=COMMANDS).collect::<Vec<_>>());
        world.grow.store(true, Ordering::Relaxed);
        until("two others entered", &world, |world| world.members.lock().unwrap().is_some()).await;
        world.wanted.store(2 * COMMANDS, Ordering::Relaxed);
        until("commands of the new group", &world, |world| world.acknowledged.load(Ordering::Relaxed) == 2 * COMMANDS).await;
        let members = world.members.lock().unwrap().clone().expect("it is there");
        assert_eq!((members.era(), members.voters.len()), (AT_S, 3));

        // Those that were lost come back, and are a majority of what they know.
        machines[1].restart();
        machines[2].restart();
        until("the old ones have a leader", &world, |world| {
            let status = world.status.lock().unwrap();
            [2, 3].iter().all(|node| status.get(node).is_some_and(|one| one.leader.is_some()))
        })
        .await;
        let told = Client::new(rpc(CLIENT + 1, CLIENT), groups(1, FOUNDERS));
        let removed = Machine::start("operator", address(CLIENT + 1).ip(), Vec::new(), move || {
            let (told, members) = (told.clone(), members.clone());
            async move {
                for node in [2, 3] {
                    told.remove_replica(GROUP, place(node), &members, time::now() + Duration::from_secs(30)).await.expect("it is there");
                }
            }
        });
        let aside = |world: &World| {
            let status = world.status.lock().unwrap();
            [2, 3].iter().all(|node| status.get(node).is_some_and(|one| one.to_be_replaced))
        };
        until("they are set aside", &world, |world| removed.is_dead() && aside(world)).await;
        for machine in &machines[1..3] {
            machine.cut_power(&mut random);
            machine.restart();
        }
        sleep(Duration::from_secs(5)).await;
        assert!(aside(&world), "for good: {:?}", world.status.lock().unwrap());
        for machine in &machines[1..3] {
            let left = machine.drives()[0].files();
            assert!(left.iter().any(|file| format!("{file:?}").contains(".redb")), "what they have is kept: {left:?}");
        }
        until("the new ones hold the same", &world, |world| alike(world, &[1, 4, 5])).await;
        assert_eq!(read(&world).await, (1..=2 * COMMANDS).collect::<Vec<_>>(), "each number once, in order");
        client.kill();
        struck
    }
}
