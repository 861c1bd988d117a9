//! Two processes with the same seed have the same event hash; another seed has another.
//!
//! Its own `main`, as a simulation wants a process of its own with a pinned address space.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "a test: what fails here fails it")]

fn main() {
    #[cfg(madsim)]
    simulated::main();
}

#[cfg(madsim)]
mod simulated {
    use bytes::Bytes;
    use protocol::{ClusterId, NodeId};
    use rand::Rng;
    use runtime::disk::{Disk, Open};
    use runtime::probe::note_event;
    use runtime::rpc::{Class, Error, Method, Reply, Rpc, Secret, Settings};
    use runtime::side::{self, Machine, SimDrive, stream_for};
    use runtime::time::{now, sleep};
    use std::collections::BTreeMap;
    use std::net::{IpAddr, SocketAddr};
    use std::sync::Arc;
    use std::time::Duration;

    const APPEND: Method = Method(0x0101);
    const SYNCED: &[u8] = b"synced";

    pub fn main() {
        side::pin_address_space();
        let arguments: Vec<String> = std::env::args().collect();
        if let Some(seed) = arguments.iter().position(|argument| argument == "--seed") {
            let seed = arguments[seed + 1].parse().expect("a number");
            let leaks = arguments.iter().any(|argument| argument == "--leak");
            let served = side::run(side::Settings::new(seed), move || async move {
                if leaks {
                    leak();
                }
                scenario(seed).await
            });
            println!("{:016x} {} events, {served} served", side::event_hash(), side::event_count());
            return;
        }
        let outcome = |arguments: &[&str]| {
            let program = std::env::current_exe().expect("this program");
            let output = std::process::Command::new(program).args(arguments).output().expect("a child");
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        };
        let mut seen = Vec::new();
        for seed in ["1", "2", "3"] {
            let (first, second) = (outcome(&["--seed", seed]), outcome(&["--seed", seed]));
            assert_eq!(first, second, "seed {seed} in two processes");
            println!("seed {seed}: {}", first.trim());
            assert!(!seen.contains(&first), "another seed, another run");
            seen.push(first);
        }
        let leaking = || outcome(&["--seed", "1", "--leak"]);
        assert_ne!(leaking(), leaking(), "the real clock in one event is noticed");
    }

    fn address(node: u64) -> SocketAddr {
        SocketAddr::new(IpAddr::from([10, 0, 0, node as u8]), 7000)
    }

    fn rpc(node: u64) -> Rpc {
        Rpc::new(Settings {
            node: NodeId(node),
            cluster: ClusterId(5),
            secret: Secret(b"secret".as_slice().into()),
            listen: address(node),
            peers: (1..=4).map(|node| (NodeId(node), address(node))).collect::<BTreeMap<_, _>>(),
        })
    }

    /// A node that appends what it is sent to a file, and answers when it is durable.
    async fn serve(node: u64, disk: Arc<dyn Disk>) {
        let rpc = rpc(node);
        let file = disk.open("log", Open::OrNew).unwrap();
        disk.sync_dir("").unwrap();
        let mut length = file.len().unwrap();
        note_event("found", &length.to_le_bytes());
        let (sender, mut receiver) = runtime::sync::channel::<(Bytes, runtime::sync::oneshot::Sender<u64>)>(64);
        rpc.register(
            1,
            Arc::new(move |request| {
                let sender = sender.clone();
                Box::pin(async move {
                    let (done, waits) = runtime::sync::oneshot::channel();
                    let _ = sender.send((request.body, done)).await;
                    let at = waits.await.unwrap_or(u64::MAX);
                    Reply { meta: Bytes::copy_from_slice(&at.to_le_bytes()), body: vec![Bytes::from_static(SYNCED)] }
                })
            }),
        );
        let _listening = rpc.listen().await.expect("its own port");
        while let Some((body, done)) = receiver.recv().await {
            let (file, at) = (file.clone(), length);
            length += body.len() as u64;
            let outcome = runtime::disk::run(&disk, move || file.write_at(at, &body).and_then(|()| file.sync())).await;
            match outcome {
                Ok(()) => drop(done.send(at)),
                Err(_) => return,
            }
        }
    }

    async fn scenario(seed: u64) -> u64 {
        leaks_are_plugged();
        let mut random = stream_for(seed, "nemesis", 0, 0);
        let machines: Vec<Machine> = (1..=3)
            .map(|node| {
                let drive = SimDrive::new(&format!("drive {node}"), 1 << 24);
                let mounted = drive.clone();
                Machine::start(&format!("node {node}"), address(node).ip(), vec![drive], move || serve(node, mounted.mount()))
            })
            .collect();
        let (report, mut served) = runtime::sync::watch::channel(0_u64);
        let report = Arc::new(report);
        let client = Machine::start("client", address(4).ip(), vec![], move || {
            let report = report.clone();
            async move {
                let rpc = rpc(4);
                let mut random = runtime::entropy::stream("client");
                for number in 0..200_u64 {
                    let to = NodeId(random.random_range(1..=3));
                    let body = vec![number as u8; random.random_range(1..200_000)];
                    let class = if random.random_bool(0.5) { Class::Control } else { Class::Bulk };
                    let deadline = now() + Duration::from_millis(random.random_range(50..2000));
                    match rpc.call(to, class, APPEND, 1, Bytes::new(), vec![body.into()], deadline).await {
                        Ok(reply) => {
                            assert_eq!(reply.body, SYNCED);
                            report.send_modify(|served| *served += 1);
                            note_event("appended", &reply.meta);
                        }
                        Err(Error::Unreachable { .. } | Error::Busy { .. }) => sleep(Duration::from_millis(50)).await,
                        Err(Error::Unknown { .. }) => {}
                    }
                }
            }
        });
        for _ in 0..6 {
            sleep(Duration::from_millis(random.random_range(100..1500))).await;
            let victim = &machines[random.random_range(0..machines.len())];
            match random.random_range(0..4) {
                0 => victim.kill(),
                1 => victim.cut_power(&mut random),
                2 => {
                    victim.pause();
                    sleep(Duration::from_millis(random.random_range(10..3000))).await;
                    victim.resume();
                    continue;
                }
                _ => {
                    victim.drives()[0].cut_power_after(random.random_range(0..5), &mut random);
                    let _ = runtime::time::timeout(Duration::from_secs(2), victim.drives()[0].power_lost()).await;
                    victim.cut_power(&mut random);
                }
            }
            sleep(Duration::from_millis(random.random_range(10..500))).await;
            victim.restart();
        }
        while !client.is_dead() {
            sleep(Duration::from_millis(100)).await;
        }
        let served = *served.borrow_and_update();
        assert!(served > 50, "seed {seed}: only {served} served");
        served
    }

    /// The real time, by a way that nothing plugs.
    fn leak() {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call fills the structure that it is given.
        let got = unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &mut time as *mut libc::timespec) };
        assert_eq!(got, 0);
        note_event("leak", &time.tv_nsec.to_le_bytes());
    }

    /// What would differ between two processes goes into the hash.
    #[allow(clippy::disallowed_methods, reason = "this is the test of what they are replaced with")]
    fn leaks_are_plugged() {
        note_event("pid", &std::process::id().to_le_bytes());
        note_event("address of a box", format!("{:p}", Box::new(1)).as_bytes());
        note_event("address of code", format!("{:p}", main as fn()).as_bytes());
        let mut bytes = [0_u8; 16];
        // SAFETY: the buffer has 16 writable bytes.
        let filled = unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) };
        assert_eq!(filled, 16);
        note_event("getrandom by syscall", &bytes);
        // SAFETY: a null pointer asks for the value alone.
        let time = unsafe { libc::time(std::ptr::null_mut()) };
        note_event("time", &time.to_le_bytes());
        note_event("entropy", &runtime::entropy::u64().to_le_bytes());
        note_event("wall clock", &runtime::time::wall_ms().to_le_bytes());
        let map: std::collections::HashMap<u32, u32> = (0..100).map(|i| (i, i)).collect();
        note_event("order of a map", format!("{:?}", map.keys().collect::<Vec<_>>()).as_bytes());
    }
}
