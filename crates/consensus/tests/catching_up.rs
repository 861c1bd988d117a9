//! A replica that was away needs a snapshot while its group is written to without a pause. The log is cut again and again before the rows
//! are there: it catches up all the same, also when the leader changes meanwhile.
//!
//! `--seed N` runs one seed; without arguments a few.
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
    use super::machine::{Lists, append};
    use super::world::{Arguments, address, groups, in_a_process, rpc};
    use consensus::host::ReplicaStatus;
    use consensus::{Bootstrap, Client, Host, HostDrive, Settings};
    use protocol::{DriveId, GroupId};
    use runtime::side::{self, Machine, SimDrive};
    use runtime::time::{self, sleep};
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    const NODES: u64 = 3;
    const MACHINES: u64 = NODES + 1;
    const GROUP: GroupId = GroupId(1);
    /// The node that is away at first.
    const LATE: u64 = 3;
    const WRITERS: u64 = 8;
    /// Entries that a replica lags behind at the most when it has caught up.
    const LAG: u64 = 100;

    type Seen = Arc<Mutex<BTreeMap<u64, ReplicaStatus>>>;

    fn settings() -> Settings {
        // A checkpoint every 64 commands or so, after which nothing is left of the log; and a snapshot of a thousand pages.
        Settings {
            checkpoint_bytes: 64 << 10,
            tail_bytes: 0,
            segment_bytes: 256 << 10,
            snapshot_page_bytes: 1 << 10,
            mark_interval: 64,
            ..Settings::default()
        }
    }

    pub fn main() {
        let Some(seed) = Arguments::of_this_process().number("--seed") else {
            for seed in 1..=4 {
                let told = in_a_process(&["--seed", &seed.to_string()]).unwrap_or_else(|told| panic!("seed {seed}: {told}"));
                print!("{told}");
            }
            return;
        };
        side::run(side::Settings::new(seed), move || scenario(seed));
        println!("seed {seed}: {:016x}", side::event_hash());
    }

    async fn node(number: u64, drive: SimDrive, seen: Seen) {
        let rpc = rpc(number, MACHINES);
        let drives = vec![HostDrive { drive: DriveId(number), disk: drive.mount(), bootstrap: Bootstrap::First }];
        let (host, failed) = Host::open_with(settings(), rpc.clone(), drives, groups(1, NODES), |_| Arc::new(Lists)).await;
        assert!(failed.is_empty(), "{failed:?}");
        let _listening = rpc.listen().await.expect("its own port");
        loop {
            if let Some(status) = host.status().into_iter().next() {
                seen.lock().unwrap().insert(number, status);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn scenario(seed: u64) {
        let seen = Seen::default();
        let start = |number: u64| {
            let drive = SimDrive::new(&format!("drive {number}"), 256 << 20);
            let (mounted, seen) = (drive.clone(), seen.clone());
            let start = move || node(number, mounted.clone(), seen.clone());
            Machine::start(&format!("node {number}"), address(number).ip(), vec![drive], start)
        };
        let mut nodes: BTreeMap<u64, Machine> =
            (1..=NODES).filter(|number| *number != LATE).map(|number| (number, start(number))).collect();
        let clients = Machine::start("clients", address(MACHINES).ip(), Vec::new(), std::future::pending::<()>);
        let writing = clients.spawn(async {
            let client = &Client::new(rpc(MACHINES, MACHINES), groups(1, NODES));
            let write = |writer: u64| async move {
                for number in 0.. {
                    let _ = client.propose(GROUP, None, append(writer as u8, number, 1000), time::now() + Duration::from_secs(5)).await;
                }
            };
            futures::future::join_all((0..WRITERS).map(write)).await;
        });
        let applied = |number: u64| seen.lock().unwrap().get(&number).map_or(0, |status| status.applied);
        while applied(1).max(applied(2)) < 1000 {
            sleep(Duration::from_millis(100)).await;
        }
        nodes.insert(LATE, start(LATE));
        if seed.is_multiple_of(2) {
            // While it fetches, whoever leads is restarted.
            sleep(Duration::from_millis(500)).await;
            let leads = |number: &u64| seen.lock().unwrap().get(number).is_some_and(|status| status.leader == Some(status.replica));
            let leader = [1, 2].into_iter().find(leads).expect("one of them leads");
            nodes[&leader].kill();
            sleep(Duration::from_millis(100)).await;
            nodes[&leader].restart();
        }
        let begun = (time::now(), applied(1).max(applied(2)));
        let caught_up = || applied(LATE) + LAG >= applied(1).max(applied(2));
        while !caught_up() {
            let waited = time::since(begun.0);
            assert!(waited < Duration::from_secs(60), "seed {seed}: after {waited:?} at {}, {:?}", applied(LATE), seen.lock().unwrap());
            sleep(Duration::from_millis(100)).await;
        }
        println!("seed {seed}: caught up after {:?} and {} entries", time::since(begun.0), applied(1) - begun.1);
        drop(writing);
        sleep(Duration::from_secs(3)).await;
        let statuses: Vec<_> = seen.lock().unwrap().values().cloned().collect();
        let told = |status: &ReplicaStatus| (status.applied, status.state_hash, status.trouble.clone());
        assert!(statuses.iter().all(|status| told(status) == told(&statuses[0])), "seed {seed}: {statuses:?}");
    }
}
