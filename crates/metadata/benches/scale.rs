//! Partitions at scale, over real folders and loopback: rates of put, get and list, memory, bytes on the drive, and the
//! times of a restart and of a snapshot, at as many keys as are asked for.
//!
//! `cargo bench -p metadata --bench scale -- --keys 10000000`; `--help` names the rest. Prints one line per figure.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

fn main() {
    #[cfg(not(madsim))]
    real::main();
}

#[cfg(not(madsim))]
mod real {
    use consensus::{Bootstrap, GroupSpec, Host, HostDrive, ReplicaPlace, Settings};
    use futures::future::join_all;
    use metadata::{BucketRef, Client, ListQuery, Listed, Partition, Preconditions};
    use protocol::record::Headers;
    use protocol::{BlobId, BlobRef, Body, BucketId, ClusterId, DriveId, GroupId, NodeId, Record, ReplicaId, Revision, VolumeId, WriterId};
    use runtime::rpc::{Rpc, Secret};
    use runtime::task::Task;
    use runtime::time::{self, Instant};
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::time::Duration;

    /// Keys lie in so many folders, for listings with a delimiter.
    const FOLDERS: u64 = 10;
    const BUCKET: BucketId = BucketId(7);
    const WRITER: WriterId = WriterId(1);

    struct Options {
        keys: u64,
        replicas: u64,
        partitions: u64,
        /// Commands under way at once.
        clients: u64,
        /// Of each measurement of reads and of listings.
        seconds: u64,
        folder: PathBuf,
    }

    const HELP: &str = "--keys N (10000)  --replicas N (1)  --partitions N (1)  --clients N (64)  --seconds N (5)  --folder PATH (a new one under the system's)";

    /// `None`: help was asked for, or an argument is not known.
    fn options(temporary: &Path) -> Option<Options> {
        let mut options = Options { keys: 10_000, replicas: 1, partitions: 1, clients: 64, seconds: 5, folder: temporary.to_owned() };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            // What the harness adds.
            if name == "--bench" || name == "--test" {
                continue;
            }
            let value = arguments.next()?;
            let target = match name.as_str() {
                "--keys" => &mut options.keys,
                "--replicas" => &mut options.replicas,
                "--partitions" => &mut options.partitions,
                "--clients" => &mut options.clients,
                "--seconds" => &mut options.seconds,
                "--folder" => {
                    options.folder = value.into();
                    continue;
                }
                _ => return None,
            };
            *target = value.parse().ok().filter(|number| *number > 0)?;
        }
        Some(options)
    }

    impl Options {
        /// Of three nodes or more the last one starts when all is there: it shows what a snapshot takes.
        fn first_nodes(&self) -> u64 {
            if self.replicas >= 3 { self.replicas - 1 } else { self.replicas }
        }
    }

    struct Node {
        host: Host,
        rpc: Rpc,
        _listening: Task<()>,
    }

    struct Cluster {
        folders: Vec<PathBuf>,
        groups: Vec<GroupSpec>,
        nodes: BTreeMap<u64, Node>,
    }

    impl Cluster {
        fn new(options: &Options) -> Cluster {
            let place = |node| ReplicaPlace { replica: ReplicaId(node), node: NodeId(node), drive: DriveId(node) };
            let voters: Vec<ReplicaPlace> = (1..=options.replicas).map(place).collect();
            let groups = (1..=options.partitions).map(|group| GroupSpec { group: GroupId(group), voters: voters.clone() }).collect();
            let folders = (1..=options.replicas).map(|node| options.folder.join(format!("node-{node}"))).collect();
            Cluster { folders, groups, nodes: BTreeMap::new() }
        }

        async fn open(&mut self, node: u64, bootstrap: Bootstrap) {
            let rpc = Rpc::new(runtime::rpc::Settings {
                node: NodeId(node),
                cluster: ClusterId(1),
                secret: Secret(b"secret".as_slice().into()),
                listen: "127.0.0.1:0".parse().unwrap(),
                peers: BTreeMap::new(),
            });
            let listening = rpc.listen().await.unwrap();
            for (peer, other) in &self.nodes {
                rpc.introduce(NodeId(*peer), other.rpc.address().unwrap());
                other.rpc.introduce(NodeId(node), rpc.address().unwrap());
            }
            let folder = &self.folders[node as usize - 1];
            std::fs::create_dir_all(folder).unwrap();
            let disk = loop {
                match runtime::disk::open_folder(folder) {
                    Ok(disk) => break disk,
                    // Jobs of the host before are ending.
                    Err(_) => time::sleep(Duration::from_millis(5)).await,
                }
            };
            let drives = vec![HostDrive { drive: DriveId(node), disk, bootstrap }];
            let (host, failed) =
                Host::open_with(Settings::default(), rpc.clone(), drives, self.groups.clone(), |_| Arc::new(Partition)).await;
            assert!(failed.is_empty(), "{failed:?}");
            self.nodes.insert(node, Node { host, rpc, _listening: listening });
        }

        fn groups(&self) -> consensus::Client {
            self.nodes.values().next().unwrap().host.client()
        }

        /// Lowest applied index of a group on the node.
        fn applied(&self, node: u64) -> Vec<u64> {
            self.nodes[&node].host.status().iter().map(|status| status.applied).collect()
        }
    }

    fn late() -> Instant {
        time::now() + Duration::from_secs(300)
    }

    fn key(number: u64) -> String {
        // Neighbours in time are no neighbours in order.
        let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("folder-{}/{scattered:016x}", number % FOLDERS)
    }

    fn record(number: u64) -> Record {
        let blob = BlobRef {
            volume: VolumeId(1 + number / 1000),
            blob: BlobId { writer: WRITER, counter: number + 1 },
            bytes: 1 << 20,
            checksum: number,
        };
        Record {
            revision: Revision(0),
            null: true,
            bytes: 1 << 20,
            etag: format!("{number:032x}"),
            checksum: None,
            headers: Headers::default(),
            modified_ms: 1_700_000_000_000 + number,
            tags: Vec::new(),
            body: Body::Blobs(vec![blob]),
        }
    }

    /// A figure of `/proc/self/status`, in MiB.
    fn memory_mib(name: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or_default() >> 10
    }

    /// Bytes of the files in the folder that begin with `start`, as the file system counts them.
    fn on_disk(folder: &Path, start: &str) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let files = std::fs::read_dir(folder.join("raft")).unwrap();
        files
            .map(|file| file.unwrap())
            .filter(|file| file.file_name().to_string_lossy().starts_with(start))
            .map(|file| file.metadata().unwrap().blocks() * 512)
            .sum()
    }

    fn line(what: &str, figure: impl std::fmt::Display) {
        println!("{what:44} {figure}");
    }

    /// Runs `work` on as many tasks as there are clients until `next` has no more numbers; returns the times of each in
    /// microseconds, in order.
    async fn measure<F: Future<Output = ()>>(clients: u64, next: impl Fn() -> Option<u64>, work: impl Fn(u64) -> F) -> Vec<u64> {
        let (next, work) = (&next, &work);
        let lanes = (0..clients).map(|_| async move {
            let mut times = Vec::new();
            while let Some(number) = next() {
                let begun = time::now();
                work(number).await;
                times.push((time::now() - begun).as_micros() as u64);
            }
            times
        });
        let mut times: Vec<u64> = join_all(lanes).await.into_iter().flatten().collect();
        times.sort_unstable();
        times
    }

    fn rates(what: &str, times: &[u64], took: Duration) {
        let at = |share: usize| {
            times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default() as f64 / 1000.0
        };
        line(what, format!("{:.0}/s, p50 {:.2} ms, p99 {:.2} ms", times.len() as f64 / took.as_secs_f64(), at(50), at(99)));
    }

    /// Numbers below `below` in a scattered order, until the time is over.
    fn until(end: Instant, below: u64) -> impl Fn() -> Option<u64> {
        let drawn = Cell::new(1_u64);
        move || {
            drawn.set(drawn.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
            (time::now() < end).then(|| (drawn.get() >> 16) % below)
        }
    }

    pub(crate) fn main() {
        let temporary = tempfile::tempdir().unwrap();
        match options(temporary.path()) {
            Some(options) => runtime::process::block_on(run(&options)),
            None => println!("{HELP}"),
        }
    }

    async fn run(options: &Options) {
        let mut cluster = Cluster::new(options);
        for node in 1..=options.first_nodes() {
            cluster.open(node, Bootstrap::First).await;
        }
        let bucket = BucketRef { id: BUCKET, partitions: (1..=options.partitions).map(GroupId).collect() };
        let client = Client::new(cluster.groups(), WRITER);
        client.open_bucket(&bucket, 1, late()).await.unwrap();
        line(
            "keys, replicas, partitions, clients",
            format!("{}, {}, {}, {}", options.keys, options.replicas, options.partitions, options.clients),
        );

        fill(options, &client, &bucket).await;
        line("resident, highest so far (all replicas), MiB", format!("{}, {}", memory_mib("VmRSS:"), memory_mib("VmHWM:")));
        // Of one node: the others hold the same.
        let folder = &cluster.folders[0];
        line("bytes on the drive of a replica per key: states", on_disk(folder, "g") / options.keys);
        line("logs on it, MiB", (on_disk(folder, "log-") + on_disk(folder, "spare-")) >> 20);

        read(options, &client, &bucket).await;
        list(options, &client, &bucket).await;
        line("resident, highest so far (all replicas), MiB", format!("{}, {}", memory_mib("VmRSS:"), memory_mib("VmHWM:")));
        if options.first_nodes() < options.replicas {
            snapshot(options, &mut cluster).await;
        }
        // A client keeps its host's drives.
        drop(client);
        restart(options, &mut cluster, &bucket).await;
        line("resident, highest so far (all replicas), MiB", format!("{}, {}", memory_mib("VmRSS:"), memory_mib("VmHWM:")));
    }

    async fn fill(options: &Options, client: &Client, bucket: &BucketRef) {
        let parts = 10.min(options.keys);
        let drawn = Cell::new(0);
        for part in 1..=parts {
            let below = options.keys * part / parts;
            let begun = time::now();
            let next = || {
                let number = drawn.get();
                drawn.set((number + 1).min(below));
                (number < below).then_some(number)
            };
            let times = measure(options.clients, next, |number| async move {
                client.put(bucket, &key(number), record(number), Preconditions::default(), late()).await.unwrap();
            })
            .await;
            rates(&format!("put, up to {below} keys"), &times, time::now() - begun);
        }
    }

    async fn read(options: &Options, client: &Client, bucket: &BucketRef) {
        for clients in [1, options.clients] {
            let begun = time::now();
            let times = measure(clients, until(begun + Duration::from_secs(options.seconds), options.keys), |number| async move {
                assert!(client.get(bucket, &key(number), late()).await.unwrap().is_some(), "key {number} is there");
            })
            .await;
            rates(&format!("get, {clients} at once"), &times, time::now() - begun);
        }
    }

    async fn list(options: &Options, client: &Client, bucket: &BucketRef) {
        let begun = time::now();
        let (mut listed, mut query) = (0, ListQuery { max: 1000, ..ListQuery::default() });
        while time::now() - begun < Duration::from_secs(options.seconds) {
            let page = client.list(bucket, query.clone(), late()).await.unwrap();
            listed += page.entries.len();
            query.after = match page.entries.last() {
                Some(Listed::Object { key, .. }) if page.truncated => Some(key.clone()),
                _ => None,
            };
        }
        line("listed in pages of 1000, keys/s", (listed as f64 / (time::now() - begun).as_secs_f64()) as u64);
        let folders = ListQuery { max: 1000, delimiter: Some("/".to_owned()), ..ListQuery::default() };
        let begun = time::now();
        let page = client.list(bucket, folders, late()).await.unwrap();
        line(
            "one listing with a delimiter: entries, rows, ms",
            format!("{}, {}, {:.2}", page.entries.len(), page.read, (time::now() - begun).as_secs_f64() * 1000.0),
        );
    }

    /// Everything ends as in a crash and starts again.
    async fn restart(options: &Options, cluster: &mut Cluster, bucket: &BucketRef) {
        cluster.nodes.clear();
        let begun = time::now();
        for node in 1..=options.replicas {
            cluster.open(node, Bootstrap::Again).await;
        }
        let opened = time::now() - begun;
        let client = Client::new(cluster.groups(), WriterId(2));
        assert!(client.get(bucket, &key(0), late()).await.unwrap().is_some());
        line(
            "restart after a crash: opened, first answer, s",
            format!("{:.2}, {:.2}", opened.as_secs_f64(), (time::now() - begun).as_secs_f64()),
        );
    }

    /// The last replica starts for the first time: all that it lacks was cut from the log, so it fetches the states.
    async fn snapshot(options: &Options, cluster: &mut Cluster) {
        let last = options.replicas;
        let begun = time::now();
        cluster.open(last, Bootstrap::First).await;
        let behind = |cluster: &Cluster| cluster.applied(last).iter().zip(cluster.applied(1)).any(|(mine, other)| *mine < other);
        while behind(cluster) {
            time::sleep(Duration::from_millis(20)).await;
        }
        let bytes = on_disk(&cluster.folders[last as usize - 1], "g");
        let seconds = (time::now() - begun).as_secs_f64();
        line("a new replica has caught up after, s", format!("{seconds:.2}, of {} MiB", bytes >> 20));
    }
}
