//! Many groups on nodes with little memory, under more load than they can take: what entries take of each node stays within its bound,
//! whatever does not fit is refused before it is taken, and every group goes on. Without the bound the same load takes more.
//!
//! `--bytes N` runs it once, with so much memory for entries.
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
    use consensus::{Bootstrap, Client, EntriesHeld, Host, HostDrive, Settings};
    use protocol::{CommandId, DriveId, GroupId, WriterId};
    use runtime::rpc::Rpc;
    use runtime::side::{self, Machine, SimDrive};
    use runtime::time::{self, sleep};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    const NODES: u64 = 3;
    const GROUPS: u64 = 48;
    /// Clients of each group, of which each has one command under way.
    const WRITERS: u64 = 12;
    /// Commands of each of them.
    const COMMANDS: u64 = 3;
    const COMMAND_BYTES: usize = 32 << 10;
    /// Operations of the drives take so many times as long, so that commands wait.
    const SLOW: u32 = 20;

    /// The least that there is.
    const BYTES: usize = 8 << 20;
    /// Beyond it: tails, what is kept beside snapshots, the minimum of each group, and what waits for the drive's task.
    const BOUND: usize = BYTES / 2 * 3 + GROUPS as usize * (64 << 10) + (4 << 20);

    pub fn main() {
        if let Some(bytes) = Arguments::of_this_process().number("--bytes") {
            let most = side::run(side::Settings::new(1), move || scenario(bytes as usize));
            let probe = |name: &str| side::probes().into_iter().find(|(probe, _)| *probe == name).map_or(0, |(_, count)| count);
            let refused = probe("consensus-command-refused-for-memory");
            println!("{most} {refused} {} {:016x}", probe("consensus-append-shortened"), side::event_hash());
            return;
        }
        let run = |bytes: usize| in_a_process(&["--bytes", &bytes.to_string()]).unwrap_or_else(|told| panic!("{told}"));
        let counts = |told: &str| -> Vec<usize> { told.split(' ').take(3).map(|number| number.parse().expect("a number")).collect() };
        let bounded = run(BYTES);
        let [most, refused, shortened] = counts(&bounded)[..] else { panic!("{bounded}") };
        println!("with {BYTES} bytes: {most} at most, {refused} times a command was refused, {shortened} appends shortened");
        assert!(most <= BOUND, "{most} bytes of entries, more than {BOUND}");
        assert!(refused > 0, "there was room for everything");
        assert_eq!(run(BYTES), bounded, "the same twice");
        // That the load is what the bound is there for.
        let unbounded = run(1 << 40);
        let [most, refused, shortened] = counts(&unbounded)[..] else { panic!("{unbounded}") };
        println!("without a bound: {most} at most");
        assert!(most > 2 * BOUND, "{most} bytes of entries are not much more than the bound of {BOUND}");
        assert_eq!((refused, shortened), (0, 0));
    }

    fn rpc(node: u64) -> Rpc {
        world::rpc(node, NODES + 1)
    }

    /// The most that each node held at any time.
    type Most = Arc<Mutex<BTreeMap<u64, EntriesHeld>>>;

    async fn node(number: u64, drive: SimDrive, bytes: usize, most: Most) {
        let rpc = rpc(number);
        let drives = vec![HostDrive { drive: DriveId(number), disk: drive.mount(), bootstrap: Bootstrap::First }];
        let settings = Settings { entries_bytes: bytes, ..Settings::default() };
        let groups = world::groups(GROUPS, NODES);
        let (host, failed) = Host::open_with(settings, rpc.clone(), drives, groups, |_| Arc::new(Lists)).await;
        assert!(failed.is_empty(), "{failed:?}");
        let _listening = rpc.listen().await.expect("its own port");
        loop {
            most.lock().unwrap().insert(number, host.entries_held());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Have all commands of one writer applied, one after another, whatever is refused meanwhile.
    async fn write(client: &Client, group: GroupId, writer: u64) {
        for counter in 1..=COMMANDS {
            let id = CommandId { writer: WriterId(writer), counter };
            let session = Some(Session { id, lowest_unfinished: counter });
            let give_up = time::now() + Duration::from_secs(300);
            loop {
                assert!(time::now() < give_up, "group {group} stands still");
                let command = append(1, writer << 8 | counter, COMMAND_BYTES);
                match client.propose(group, session, command, time::now() + Duration::from_secs(10)).await {
                    Ok(_) => break,
                    Err(Error::Busy { .. } | Error::Unavailable { .. } | Error::Unknown { .. }) => {
                        sleep(Duration::from_millis(50 + runtime::entropy::u64() % 200)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    async fn scenario(bytes: usize) -> usize {
        let most = Most::default();
        let nodes: Vec<Machine> = (1..=NODES)
            .map(|number| {
                let drive = SimDrive::new(&format!("drive {number}"), 2 << 30);
                let (mounted, most) = (drive.clone(), most.clone());
                let start = move || node(number, mounted.clone(), bytes, most.clone());
                Machine::start(&format!("node {number}"), address(number).ip(), vec![drive], start)
            })
            .collect();
        let clients = Machine::start("clients", address(NODES + 1).ip(), Vec::new(), std::future::pending::<()>);
        sleep(Duration::from_secs(4)).await;
        nodes.iter().for_each(|node| node.drives()[0].set_slow(SLOW));
        let writing = clients.spawn(async {
            let client = Client::new(rpc(NODES + 1), world::groups(GROUPS, NODES));
            let all = (1..=GROUPS * WRITERS).map(|writer| write(&client, GroupId(writer % GROUPS + 1), writer));
            futures::future::join_all(all).await;
            for group in (1..=GROUPS).map(GroupId) {
                let list =
                    client.read(group, Bytes::from_static(&[1]), time::now() + Duration::from_secs(60)).await.expect("nothing fails");
                let list = numbers(&list);
                let once: BTreeSet<u64> = list.iter().copied().collect();
                assert_eq!((list.len() as u64, once.len() as u64), (WRITERS * COMMANDS, WRITERS * COMMANDS), "each once, in {group}");
            }
        });
        writing.await;
        // Nobody sends anything any more: nothing waits.
        sleep(Duration::from_secs(5)).await;
        let held = most.lock().unwrap().clone();
        assert!(held.values().all(|held| held.queued == 0), "{held:?}");
        drop(nodes);
        held.values().map(|held| held.most).max().expect("three nodes")
    }
}
