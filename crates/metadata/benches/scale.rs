//! Partitions at scale, over real folders and loopback: rates of put, get and list, memory, bytes on the drive, and the
//! times of a restart after `kill -9` and of a snapshot, at as many keys as are asked for; and what idle groups cost.
//!
//! `cargo bench -p metadata --bench scale -- --keys 10000000`; `--help` names the rest. Prints one line per figure.
//! The work is done in a child process, which is killed while it writes: whoever ends in order leaves nothing to be recovered.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "starts a process and kills it")]

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
    use std::process::Command;
    use std::sync::Arc;
    use std::time::Duration;

    /// Keys lie in so many folders, for listings with a delimiter.
    const FOLDERS: u64 = 10;
    /// Entries that a replica lacks at the most when it has caught up.
    const LAG: u64 = 1000;
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
        /// Memory for pages of the databases of a node.
        cache_mib: u64,
        folder: PathBuf,
        /// Do all but the restart, then write until killed.
        until_killed: bool,
        /// Measure groups that nobody asks for anything, and nothing else.
        idle: bool,
    }

    const HELP: &str = "--keys N (10000)  --replicas N (1)  --partitions N (1)  --clients N (64)  --seconds N (5)  --cache-mib N (the default of a node)  --folder PATH (a new one under the system's)  --idle  --until-killed";

    /// `None`: help was asked for, or an argument is not known.
    fn options(temporary: &Path) -> Option<Options> {
        let cache_mib = Settings::default().cache_bytes as u64 >> 20;
        let folder = temporary.to_owned();
        let mut options = Options {
            keys: 10_000,
            replicas: 1,
            partitions: 1,
            clients: 64,
            seconds: 5,
            cache_mib,
            folder,
            until_killed: false,
            idle: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            // What the harness adds.
            if name == "--bench" || name == "--test" {
                continue;
            }
            if name == "--until-killed" || name == "--idle" {
                *if name == "--idle" { &mut options.idle } else { &mut options.until_killed } = true;
                continue;
            }
            let value = arguments.next()?;
            let target = match name.as_str() {
                "--keys" => &mut options.keys,
                "--replicas" => &mut options.replicas,
                "--partitions" => &mut options.partitions,
                "--clients" => &mut options.clients,
                "--seconds" => &mut options.seconds,
                "--cache-mib" => &mut options.cache_mib,
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
            if self.replicas >= 3 && !self.idle { self.replicas - 1 } else { self.replicas }
        }

        fn bucket(&self) -> BucketRef {
            BucketRef { id: BUCKET, partitions: (1..=self.partitions).map(GroupId).collect() }
        }

        /// Stands when there is nothing left to do but to be killed.
        fn mark(&self) -> PathBuf {
            self.folder.join("done")
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
        settings: Settings,
        nodes: BTreeMap<u64, Node>,
    }

    impl Cluster {
        fn new(options: &Options) -> Cluster {
            let place = |node| ReplicaPlace { replica: ReplicaId(node), node: NodeId(node), drive: DriveId(node) };
            let voters: Vec<ReplicaPlace> = (1..=options.replicas).map(place).collect();
            let groups = (1..=options.partitions).map(|group| GroupSpec { group: GroupId(group), voters: voters.clone() }).collect();
            let folders = (1..=options.replicas).map(|node| options.folder.join(format!("node-{node}"))).collect();
            let settings = Settings { cache_bytes: (options.cache_mib as usize) << 20, ..Settings::default() };
            Cluster { folders, groups, settings, nodes: BTreeMap::new() }
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
                Host::open_with(self.settings.clone(), rpc.clone(), drives, self.groups.clone(), |_| Arc::new(Partition)).await;
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
            Some(options) if options.until_killed => runtime::process::block_on(work(&options)),
            Some(options) if options.idle => runtime::process::block_on(idle(&options)),
            Some(options) => {
                crash(&options);
                runtime::process::block_on(restart(&options));
            }
            None => println!("{HELP}"),
        }
    }

    /// The work, in a process of its own that is killed while it writes.
    fn crash(options: &Options) {
        std::fs::create_dir_all(&options.folder).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(std::env::args().skip(1))
            .arg("--folder")
            .arg(&options.folder)
            .arg("--until-killed")
            .spawn()
            .unwrap();
        while !options.mark().exists() {
            assert!(child.try_wait().unwrap().is_none(), "the process that does the work is gone");
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(Duration::from_secs(options.seconds));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// 4 KiB appended and synced, one after another, as often as the drive can: its syncs in a second.
    fn bare_syncs(folder: &Path) -> f64 {
        use std::io::Write;
        let path = folder.join("bare");
        let mut file = std::fs::File::create(&path).unwrap();
        let (begun, mut count) = (time::now(), 0);
        while time::now() - begun < Duration::from_secs(2) {
            file.write_all(&[7; 4096]).unwrap();
            file.sync_data().unwrap();
            count += 1;
        }
        std::fs::remove_file(path).unwrap();
        f64::from(count) / (time::now() - begun).as_secs_f64()
    }

    async fn work(options: &Options) {
        let bare = bare_syncs(&options.folder);
        let mut cluster = Cluster::new(options);
        for node in 1..=options.first_nodes() {
            cluster.open(node, Bootstrap::First).await;
        }
        let bucket = options.bucket();
        let (client, bucket) = (&Client::new(cluster.groups(), WRITER), &bucket);
        client.open_bucket(bucket, 1, late()).await.unwrap();
        line(
            "keys, replicas, partitions, clients",
            format!("{}, {}, {}, {}", options.keys, options.replicas, options.partitions, options.clients),
        );

        fill(options, client, bucket, bare).await;
        line("resident, highest so far (all replicas), MiB", format!("{}, {}", memory_mib("VmRSS:"), memory_mib("VmHWM:")));
        // Of one node: the others hold the same.
        let folder = &cluster.folders[0];
        line("bytes on the drive of a replica per key: states", on_disk(folder, "g") / options.keys);
        line("logs on it, MiB", (on_disk(folder, "log-") + on_disk(folder, "spare-")) >> 20);

        read(options, client, bucket).await;
        list(options, client, bucket).await;
        line("resident, highest so far (all replicas), MiB", format!("{}, {}", memory_mib("VmRSS:"), memory_mib("VmHWM:")));
        // Keys of their own from here on: how many there are is not known.
        let drawn = Cell::new(options.keys);
        let next = || Some(drawn.replace(drawn.get() + 1));
        let put = |number| async move {
            client.put(bucket, &key(number), record(number), Preconditions::default(), late()).await.unwrap();
        };
        if options.first_nodes() < options.replicas {
            let over = Cell::new(false);
            let begun = time::now();
            let until_over = || next().filter(|_| !over.get());
            let caught_up = async {
                snapshot(options, &mut cluster).await;
                over.set(true);
            };
            let (times, ()) = futures::join!(measure(options.clients, until_over, put), caught_up);
            rates("put meanwhile", &times, time::now() - begun);
        }
        std::fs::write(options.mark(), []).unwrap();
        measure(options.clients, next, put).await;
    }

    async fn fill(options: &Options, client: &Client, bucket: &BucketRef, bare: f64) {
        let parts = 10.min(options.keys);
        let drawn = Cell::new(0);
        for part in 1..=parts {
            let below = options.keys * part / parts;
            let (begun, syncs) = (time::now(), runtime::disk::syncs());
            let next = || {
                let number = drawn.get();
                drawn.set((number + 1).min(below));
                (number < below).then_some(number)
            };
            let times = measure(options.clients, next, |number| async move {
                client.put(bucket, &key(number), record(number), Preconditions::default(), late()).await.unwrap();
            })
            .await;
            let took = time::now() - begun;
            rates(&format!("put, up to {below} keys"), &times, took);
            if part == parts {
                // Of each replica; they share the machine, and its drive.
                let synced = (runtime::disk::syncs() - syncs) as f64 / options.first_nodes() as f64;
                let (each, batch) = (synced / took.as_secs_f64(), times.len() as f64 / synced);
                let share = each / bare * 100.0;
                line("a replica's syncs/s, commands for each", format!("{each:.0}, {batch:.1}"));
                line("the bare drive's syncs/s, share of them", format!("{bare:.0}, {share:.0} %"));
            }
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

    /// All nodes start again after the kill.
    async fn restart(options: &Options) {
        let mut cluster = Cluster::new(options);
        let begun = time::now();
        for node in 1..=options.replicas {
            cluster.open(node, Bootstrap::Again).await;
        }
        let opened = time::now() - begun;
        let client = Client::new(cluster.groups(), WriterId(2));
        assert!(client.get(&options.bucket(), &key(0), late()).await.unwrap().is_some());
        line(
            "restart after kill -9: opened, first answer, s",
            format!("{:.2}, {:.2}", opened.as_secs_f64(), (time::now() - begun).as_secs_f64()),
        );
        line("resident, highest so far (all replicas), MiB", format!("{}, {}", memory_mib("VmRSS:"), memory_mib("VmHWM:")));
    }

    /// Processor time of this process, in seconds.
    fn processor_seconds() -> f64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        // Behind the name, which may hold anything: user and system time, in hundredths of a second.
        let fields: Vec<u64> = stat.rsplit(')').next().unwrap().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        (fields[11] + fields[12]) as f64 / 100.0
    }

    /// All groups on all nodes, and nobody asks for anything.
    async fn idle(options: &Options) {
        let mut cluster = Cluster::new(options);
        for node in 1..=options.replicas {
            cluster.open(node, Bootstrap::First).await;
        }
        let led = |cluster: &Cluster| cluster.nodes.values().all(|node| node.host.status().iter().all(|status| status.leader.is_some()));
        while !led(&cluster) {
            time::sleep(Duration::from_millis(100)).await;
        }
        // Checkpoints of what the elections wrote.
        time::sleep(Duration::from_secs(35)).await;
        let (begun, processor, syncs) = (time::now(), processor_seconds(), runtime::disk::syncs());
        time::sleep(Duration::from_secs(options.seconds)).await;
        let took = (time::now() - begun).as_secs_f64();
        let (used, synced) = (processor_seconds() - processor, runtime::disk::syncs() - syncs);
        line("idle: replicas, groups", format!("{}, {}", options.replicas, options.partitions));
        line("processor, % of one, all nodes", format!("{:.1}", used / took * 100.0));
        line("syncs/s, all nodes", format!("{:.1}", synced as f64 / took));
        line("resident (all replicas), MiB", memory_mib("VmRSS:"));
    }

    /// The last replica starts for the first time: all that it lacks was cut from the log, so it fetches the states, while they are written to.
    async fn snapshot(options: &Options, cluster: &mut Cluster) {
        let last = options.replicas;
        let before = on_disk(&cluster.folders[0], "g");
        let begun = time::now();
        cluster.open(last, Bootstrap::First).await;
        let behind = |cluster: &Cluster| {
            let (mine, others) = (cluster.applied(last), cluster.applied(1));
            mine.len() < others.len() || mine.iter().zip(others).any(|(mine, other)| mine + LAG < other)
        };
        let mut highest = before;
        while behind(cluster) {
            time::sleep(Duration::from_millis(20)).await;
            highest = highest.max(on_disk(&cluster.folders[0], "g"));
        }
        let bytes = on_disk(&cluster.folders[last as usize - 1], "g");
        let seconds = (time::now() - begun).as_secs_f64();
        line("a new replica has caught up after, s", format!("{seconds:.2}, of {} MiB", bytes >> 20));
        line("the states it came from before, at the most, MiB", format!("{}, {}", before >> 20, highest >> 20));
    }
}
