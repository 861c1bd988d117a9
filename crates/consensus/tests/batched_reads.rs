//! Readers that come together share the question how far the group is, and the transaction that answers them: counted over a simulated network.
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
    use super::world::{self, address};
    use bytes::Bytes;
    use consensus::{Bootstrap, Client, GroupSpec, Host, HostDrive, Settings};
    use protocol::{DriveId, GroupId};
    use runtime::rpc::Rpc;
    use runtime::side::{self, Machine, SimDrive};
    use runtime::time::{self, sleep};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    const NODES: u64 = 3;
    const GROUP: GroupId = GroupId(1);
    const READERS: u64 = 1000;

    /// What was counted of a kind: how often, and of how many queries.
    type Count = [AtomicU64; 2];
    static ASKED: Count = [const { AtomicU64::new(0) }; 2];
    static TRANSACTIONS: Count = [const { AtomicU64::new(0) }; 2];

    fn take(count: &Count) -> [u64; 2] {
        [count[0].swap(0, Ordering::Relaxed), count[1].swap(0, Ordering::Relaxed)]
    }

    pub fn main() {
        side::pin_address_space();
        side::listen(Box::new(|kind, numbers| {
            let count = match kind {
                "consensus-read-index-asked" => &ASKED,
                "consensus-read-transaction" => &TRANSACTIONS,
                _ => return,
            };
            count[0].fetch_add(1, Ordering::Relaxed);
            count[1].fetch_add(numbers[1], Ordering::Relaxed);
        }));
        side::run(side::Settings::new(1), scenario);
    }

    fn rpc(node: u64) -> Rpc {
        world::rpc(node, NODES + 1)
    }

    fn groups() -> Vec<GroupSpec> {
        world::groups(1, NODES)
    }

    async fn node(number: u64, drive: SimDrive) {
        let rpc = rpc(number);
        let drives = vec![HostDrive { drive: DriveId(number), disk: drive.mount(), bootstrap: Bootstrap::First }];
        let (_host, failed) = Host::open_with(Settings::default(), rpc.clone(), drives, groups(), |_| Arc::new(Lists)).await;
        assert!(failed.is_empty(), "{failed:?}");
        let _listening = rpc.listen().await.expect("its own port");
        std::future::pending().await
    }

    async fn scenario() {
        let nodes: Vec<Machine> = (1..=NODES)
            .map(|number| {
                let drive = SimDrive::new(&format!("drive {number}"), 64 << 20);
                let mounted = drive.clone();
                let start = move || node(number, mounted.clone());
                Machine::start(&format!("node {number}"), address(number).ip(), vec![drive], start)
            })
            .collect();
        let clients = Machine::start("clients", address(NODES + 1).ip(), Vec::new(), std::future::pending::<()>);
        let reading = clients.spawn(async {
            let client = Client::new(rpc(NODES + 1), groups());
            let within = || time::now() + Duration::from_secs(30);
            client.propose(GROUP, None, append(1, 7, 0), within()).await.expect("all nodes are there");
            sleep(Duration::from_secs(1)).await;
            let read = || client.read(GROUP, Bytes::from_static(&[1]), within());
            // What came before does not count.
            take(&ASKED);
            take(&TRANSACTIONS);
            read().await.expect("all nodes are there");
            assert_eq!((take(&ASKED), take(&TRANSACTIONS)), ([1, 1], [1, 1]), "one alone");
            for reply in futures::future::join_all((0..READERS).map(|_| read())).await {
                assert_eq!(numbers(&reply.expect("all nodes are there")), [7]);
            }
            let ([asked, askers], [transactions, answered]) = (take(&ASKED), take(&TRANSACTIONS));
            println!("{READERS} readers at once: {asked} read indexes, {transactions} transactions");
            assert_eq!((askers, answered), (READERS, READERS), "each query once");
            assert!(asked * 20 <= READERS && transactions * 20 <= READERS, "{asked} and {transactions}");
        });
        reading.await;
        drop(nodes);
    }
}
