//! Groups of five replicas under kills, power cuts, pauses and partitions, while an operator who may be killed, too,
//! exchanges their voters over seven nodes: no acknowledged command is lost, none is applied twice, no read is stale, no
//! replica id is used twice, and every group ends up with five voters that are equal and none else.
//!
//! `--seed N` runs one seed, `--seeds N` that many, `--plant NAME` with a planted bug; without arguments a few seeds,
//! the first one twice.
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
    use super::world::{self, Arguments, address, in_a_process};
    use bytes::Bytes;
    use consensus::client::{Error, Session};
    use consensus::host::ReplicaStatus;
    use consensus::{Bootstrap, Client, GroupSpec, Host, HostDrive, ReplicaPlace, Settings};
    use protocol::{CommandId, DriveId, GroupId, NodeId, ReplicaId, WriterId};
    use runtime::rpc::Rpc;
    use runtime::side::{self, Machine, SimDrive, stream_for};
    use runtime::time::{self, sleep};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    const NODES: u64 = 7;
    const VOTERS: u64 = 5;
    const GROUPS: u64 = 2;
    const CLIENTS: u64 = 3;

    pub fn main() {
        let arguments = Arguments::of_this_process();
        let planted = arguments.value("--plant");
        if let Some(seed) = arguments.number("--seed") {
            side::plant(planted);
            let told = side::run(side::Settings::new(seed), move || scenario(seed));
            println!("{:016x} {told}", side::event_hash());
            for (probe, count) in side::probes() {
                if probe.starts_with("consensus") {
                    println!("    {probe}: {count}");
                }
            }
            return;
        }
        let run = |seed: u64| {
            let (seed, mut arguments) = (seed.to_string(), vec!["--seed"]);
            arguments.push(&seed);
            if let Some(planted) = &planted {
                arguments.extend(["--plant", planted]);
            }
            in_a_process(&arguments)
        };
        let seeds = arguments.number("--seeds").unwrap_or(4);
        for seed in 1..=seeds {
            match (run(seed), &planted) {
                (Ok(told), _) => println!("seed {seed}: {told}"),
                (Err(told), Some(planted)) => {
                    println!("seed {seed} finds {planted}: {}", told.lines().take(4).collect::<Vec<_>>().join(" / "));
                    return;
                }
                (Err(told), None) => panic!("seed {seed}: {told}"),
            }
        }
        match planted {
            Some(planted) => panic!("{planted} was not found in {seeds} seeds"),
            None => assert_eq!(run(1), run(1), "the same seed twice"),
        }
    }

    fn rpc(node: u64) -> Rpc {
        world::rpc(node, NODES + CLIENTS + 2)
    }

    fn groups() -> Vec<GroupSpec> {
        world::groups(GROUPS, VOTERS)
    }

    /// Everything small, so that logs are cut and snapshots are needed within seconds.
    fn settings() -> Settings {
        Settings {
            segment_bytes: 32 << 10,
            segments_max: 2,
            checkpoint_bytes: 16 << 10,
            checkpoint_after: Duration::from_secs(2),
            tail_bytes: 4 << 10,
            mark_interval: 8,
            snapshot_page_bytes: 1 << 10,
            ..Settings::default()
        }
    }

    /// What is known of one group's list, by all clients together.
    #[derive(Default)]
    struct Known {
        proposed: BTreeSet<u64>,
        /// Acknowledged numbers, with their place in the list.
        acknowledged: BTreeMap<u64, u64>,
        /// The longest list that a finished read returned.
        seen: Vec<u64>,
    }

    impl Known {
        /// Check what a read returned that began when `before` was known.
        fn check(&mut self, list: &[u64], before: &BTreeMap<u64, u64>, seen_before: usize) {
            let mut numbers = BTreeSet::new();
            for number in list {
                assert!(numbers.insert(*number), "{number} was applied twice");
                assert!(self.proposed.contains(number), "{number} was never proposed");
            }
            for (number, place) in before {
                assert!(numbers.contains(number), "{number} was acknowledged and is lost, or a read is stale");
                assert_eq!(list[*place as usize], *number, "{number} is not where it was acknowledged");
            }
            assert!(list.len() >= seen_before, "a read is older than one that had ended before it began");
            let common = list.len().min(self.seen.len());
            assert_eq!(list[..common], self.seen[..common], "history changed");
            if list.len() > self.seen.len() {
                self.seen = list.to_vec();
            }
        }
    }

    #[derive(Default)]
    struct World {
        known: [Mutex<Known>; GROUPS as usize],
        status: Mutex<BTreeMap<u64, Vec<ReplicaStatus>>>,
        created: Mutex<BTreeSet<u64>>,
        over: std::sync::atomic::AtomicBool,
        outcomes: Mutex<BTreeMap<&'static str, u64>>,
        /// Where each replica ever was.
        homes: Mutex<BTreeMap<(GroupId, ReplicaId), DriveId>>,
        /// Somebody waits for a leader in an exchange of voters.
        hunting: std::sync::atomic::AtomicBool,
        /// Its node.
        prey: Mutex<Option<u64>>,
    }

    impl World {
        fn count(&self, outcome: &'static str) {
            *self.outcomes.lock().unwrap().entry(outcome).or_default() += 1;
        }

        fn is_over(&self) -> bool {
            self.over.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    async fn node(number: u64, drive: SimDrive, world: Arc<World>) {
        world.status.lock().unwrap().remove(&number);
        let rpc = rpc(number);
        let bootstrap = if world.created.lock().unwrap().contains(&number) { Bootstrap::Again } else { Bootstrap::First };
        let drives = vec![HostDrive { drive: DriveId(number), disk: drive.mount(), bootstrap }];
        let (host, failed) = Host::open_with(settings(), rpc.clone(), drives, groups(), |_| Arc::new(Lists)).await;
        if let Some((_, error)) = failed.first() {
            // A drive that lost power while it was opened; anything else is a bug, as nothing rots here.
            assert!(matches!(error, consensus::host::Error::Disk(_)), "{error}");
            return;
        }
        world.created.lock().unwrap().insert(number);
        let _listening = rpc.listen().await.expect("its own port");
        loop {
            let status = host.status();
            for one in &status {
                let home = *world.homes.lock().unwrap().entry((one.group, one.replica)).or_insert(one.drive);
                assert_eq!(home, one.drive, "replica {} of group {} is in two places", one.replica, one.group);
            }
            let hunting = world.hunting.load(std::sync::atomic::Ordering::Relaxed);
            let exchanging =
                |one: &ReplicaStatus| one.leader == Some(one.replica) && one.members.as_ref().is_some_and(|members| !members.is_settled());
            if hunting && status.iter().any(exchanging) {
                world.prey.lock().unwrap().get_or_insert(number);
            }
            world.status.lock().unwrap().insert(number, status);
            sleep(Duration::from_millis(if hunting { 1 } else { 50 })).await;
        }
    }

    async fn client(number: u64, world: Arc<World>) {
        let rpc = rpc(NODES + number);
        let client = Client::new(rpc, groups());
        let mut counters = [0; GROUPS as usize];
        let mut next = 0;
        while !world.is_over() {
            let at = (runtime::entropy::u64() % GROUPS) as usize;
            let group = GroupId(at as u64 + 1);
            let wait = Duration::from_millis(200 + runtime::entropy::u64() % 4000);
            if runtime::entropy::u64().is_multiple_of(4) {
                read(&client, &world, group, time::now() + wait).await;
                continue;
            }
            next += 1;
            counters[at] += 1;
            let unique = number << 32 | next;
            let id = CommandId { writer: WriterId(number), counter: counters[at] };
            let session = Some(Session { id, lowest_unfinished: counters[at] });
            let command = append(1, unique, (runtime::entropy::u64() % 700) as usize);
            world.known[at].lock().unwrap().proposed.insert(unique);
            match client.propose(group, session, command.clone(), time::now() + wait).await {
                Ok(reply) => {
                    world.count("acknowledged");
                    let length = u64::from_le_bytes(reply.as_ref().try_into().expect("a length"));
                    world.known[at].lock().unwrap().acknowledged.insert(unique, length - 1);
                    // A duplicate of it arrives late.
                    if runtime::entropy::u64().is_multiple_of(5) {
                        let again = client.propose(group, session, command, time::now() + wait).await;
                        assert!(again.is_err() || again.as_ref().is_ok_and(|again| *again == reply), "{unique}: {reply:?} then {again:?}");
                    }
                }
                Err(Error::Unknown { .. }) => world.count("unknown"),
                Err(Error::Unavailable { .. } | Error::Busy { .. }) => {
                    world.count("refused");
                    // Certainly not applied: if it shows up, that is a bug.
                    world.known[at].lock().unwrap().proposed.remove(&unique);
                }
                Err(error) => panic!("{error}"),
            }
            if runtime::entropy::u64().is_multiple_of(3) {
                sleep(Duration::from_millis(runtime::entropy::u64() % 60)).await;
            }
        }
    }

    /// Exchange voters, one after another. Remembers nothing: whatever an earlier life began is found in the group itself.
    async fn operator(world: Arc<World>) {
        let client = Client::new(rpc(NODES + CLIENTS + 2), groups());
        let mut round = runtime::entropy::u64();
        loop {
            round += 1;
            let group = GroupId(round % GROUPS + 1);
            let deadline = time::now() + Duration::from_secs(20);
            let Ok(view) = client.members(group, deadline).await else {
                sleep(Duration::from_millis(200)).await;
                continue;
            };
            let members = view.members;
            let begun = members.learners.first().copied();
            if world.is_over() && begun.is_none() && members.is_settled() {
                // Nothing is left to do in this group; is there in the others?
                let mut views = Vec::new();
                for group in 1..=GROUPS {
                    views.extend(client.members(GroupId(group), deadline).await);
                }
                if views.len() as u64 == GROUPS && views.iter().all(|view| view.members.learners.is_empty() && view.members.is_settled()) {
                    return;
                }
                sleep(Duration::from_millis(200)).await;
                continue;
            }
            let voters = members.voters.clone();
            let draw = |below: usize| (runtime::entropy::u64() % below as u64) as usize;
            // Now and then whoever leads, which is the harder case.
            let leads = view.leader.and_then(|leader| voters.iter().find(|voter| voter.replica == leader)).filter(|_| draw(3) == 0);
            let leaves = leads.copied().unwrap_or(voters[draw(voters.len())]);
            let free: Vec<u64> = (1..=NODES).filter(|node| members.all().all(|place| place.node != NodeId(*node))).collect();
            let node = free.get(draw(free.len().max(1))).copied().unwrap_or(leaves.node.0);
            let fresh = ReplicaPlace { replica: ReplicaId(members.last.0 + 1), node: NodeId(node), drive: DriveId(node) };
            match client.exchange(group, begun.unwrap_or(fresh), leaves.replica, deadline).await {
                Ok(now) => {
                    world.count("exchanged");
                    let _ = client.remove_replica(group, leaves, &now, time::now() + Duration::from_secs(2)).await;
                }
                Err(_) => world.count("exchange begun"),
            }
            sleep(Duration::from_millis(draw(3000) as u64)).await;
        }
    }

    async fn read(client: &Client, world: &World, group: GroupId, deadline: time::Instant) -> bool {
        let known = &world.known[group.0 as usize - 1];
        let (before, seen) = {
            let known = known.lock().unwrap();
            (known.acknowledged.clone(), known.seen.len())
        };
        match client.read(group, Bytes::from_static(&[1]), deadline).await {
            Ok(reply) => {
                world.count("read");
                known.lock().unwrap().check(&numbers(&reply), &before, seen);
                true
            }
            Err(_) => {
                world.count("not read");
                false
            }
        }
    }

    async fn scenario(seed: u64) -> String {
        let world: Arc<World> = Arc::default();
        let mut random = stream_for(seed, "nemesis", 0, 0);
        let nodes: Vec<Machine> = (1..=NODES)
            .map(|number| {
                let drive = SimDrive::new(&format!("drive {number}"), 64 << 20);
                let (mounted, world) = (drive.clone(), world.clone());
                let start = move || node(number, mounted.clone(), world.clone());
                Machine::start(&format!("node {number}"), address(number).ip(), vec![drive], start)
            })
            .collect();
        let clients: Vec<Machine> = (1..=CLIENTS)
            .map(|number| {
                let world = world.clone();
                let start = move || client(number, world.clone());
                Machine::start(&format!("client {number}"), address(NODES + number).ip(), Vec::new(), start)
            })
            .collect();
        let exchanging = world.clone();
        let operator = Machine::start("operator", address(NODES + CLIENTS + 2).ip(), Vec::new(), move || operator(exchanging.clone()));
        let draw = |below: u64| runtime::entropy::u64() % below;
        sleep(Duration::from_secs(4)).await;
        for _ in 0..14 {
            sleep(Duration::from_millis(draw(2500))).await;
            let victim = &nodes[draw(NODES) as usize];
            if draw(3) == 0 {
                operator.kill();
                operator.restart();
            }
            match draw(8) {
                7 => {
                    // A leader between two configurations: the next one has to go on.
                    world.hunting.store(true, std::sync::atomic::Ordering::Relaxed);
                    for _ in 0..6000 {
                        sleep(Duration::from_millis(1)).await;
                        if let Some(node) = world.prey.lock().unwrap().take() {
                            world.count("leader killed in an exchange");
                            nodes[node as usize - 1].kill();
                            break;
                        }
                    }
                    world.hunting.store(false, std::sync::atomic::Ordering::Relaxed);
                    world.prey.lock().unwrap().take();
                }
                0 => victim.kill(),
                1 => victim.cut_power(&mut random),
                2 | 3 => {
                    victim.drives()[0].cut_power_after(draw(60), &mut random);
                    let _ = time::timeout(Duration::from_secs(4), victim.drives()[0].power_lost()).await;
                    victim.cut_power(&mut random);
                }
                4 => {
                    victim.pause();
                    sleep(Duration::from_millis(draw(5000))).await;
                    victim.resume();
                    continue;
                }
                5 => {
                    let split = 1 + draw(NODES - 1) as usize;
                    let (one, other) = nodes.split_at(split);
                    side::partition(one, other);
                    sleep(Duration::from_millis(draw(6000))).await;
                    side::heal(one, other);
                    continue;
                }
                _ => {
                    for node in &nodes {
                        node.cut_power(&mut random);
                    }
                }
            }
            // Away for long now and then, so that the others cut their logs.
            sleep(Duration::from_millis(if draw(3) == 0 { 8000 } else { draw(1500) })).await;
            for node in &nodes {
                if node.is_dead() {
                    node.restart();
                }
            }
        }
        world.over.store(true, std::sync::atomic::Ordering::Relaxed);
        for node in &nodes {
            if node.is_dead() {
                node.restart();
            }
        }
        let give_up = time::now() + Duration::from_secs(180);
        while !clients.iter().all(Machine::is_dead) || !operator.is_dead() {
            assert!(time::now() < give_up, "an exchange of voters cannot be finished: {:#?}", world.status.lock().unwrap());
            sleep(Duration::from_millis(100)).await;
        }
        settle(&world).await;
        // The last word: read by a machine of its own.
        let last = world.clone();
        let reader = Machine::start("reader", address(NODES + CLIENTS + 1).ip(), Vec::new(), move || {
            let world = last.clone();
            async move {
                let client = Client::new(rpc(NODES + CLIENTS + 1), groups());
                for group in 1..=GROUPS {
                    assert!(read(&client, &world, GroupId(group), time::now() + Duration::from_secs(30)).await, "no quorum after healing");
                }
            }
        });
        while !reader.is_dead() {
            sleep(Duration::from_millis(100)).await;
        }
        let outcomes = world.outcomes.lock().unwrap().clone();
        assert!(outcomes.get("acknowledged").is_some_and(|count| *count > 100), "{outcomes:?}");
        assert!(outcomes.get("exchanged").is_some_and(|count| *count > 1), "{outcomes:?}");
        format!("{outcomes:?}")
    }

    /// Everything is healed: all replicas must come to hold the same.
    async fn settle(world: &World) {
        let mut seen = Vec::new();
        for _ in 0..600 {
            sleep(Duration::from_millis(100)).await;
            seen = world.status.lock().unwrap().values().flatten().cloned().collect();
            let equal = (1..=GROUPS).all(|group| {
                let of_group: BTreeSet<(u64, u64)> =
                    seen.iter().filter(|one| one.group == GroupId(group)).map(|one| (one.applied, one.state_hash)).collect();
                of_group.len() == 1
            });
            let led = seen.iter().filter(|one| one.leader == Some(one.replica)).count() as u64 == GROUPS;
            // Whoever runs is a voter, and so says everybody.
            let belongs = |one: &ReplicaStatus| {
                one.members.as_ref().is_some_and(|members| {
                    let settled = members.is_settled() && members.learners.is_empty() && members.voters.len() as u64 == VOTERS;
                    settled && members.is_voter(one.replica)
                })
            };
            let versions: BTreeSet<_> = seen.iter().map(|one| (one.group, one.members.as_ref().map(|members| members.version))).collect();
            let agree = versions.len() as u64 == GROUPS && seen.iter().all(belongs);
            if equal && led && agree && seen.len() as u64 == VOTERS * GROUPS && seen.iter().all(|one| one.trouble.is_none()) {
                return;
            }
        }
        panic!("replicas do not come together: {seen:#?}");
    }
}
