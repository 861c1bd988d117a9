//! A drive that has no room at one moment only, the worst one.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
mod machine;

use cluster::{Cluster, GROUP, healed, list, quick, session, within};
use consensus::{Bootstrap, Settings};
use machine::append;
use runtime::disk::{Disk, DiskFile, Entry, Error, Lane, Open, Result, Space};
use runtime::time;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A drive that once has no room for a file whose name ends like this.
struct OnceFull {
    disk: Arc<dyn Disk>,
    end: &'static str,
    refused: Arc<AtomicBool>,
}

impl Disk for OnceFull {
    fn label(&self) -> &str {
        self.disk.label()
    }
    fn open(&self, name: &str, how: Open) -> Result<Arc<dyn DiskFile>> {
        if name.ends_with(self.end) && !self.refused.swap(true, Ordering::Relaxed) {
            return Err(Error::Full { drive: self.label().to_owned() });
        }
        self.disk.open(name, how)
    }
    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.disk.list(folder)
    }
    fn create_folder(&self, folder: &str) -> Result<()> {
        self.disk.create_folder(folder)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self, folder: &str) -> Result<()> {
        self.disk.sync_dir(folder)
    }
    fn space(&self) -> Result<Space> {
        self.disk.space()
    }
    fn watch(&self, name: &str) -> Result<()> {
        self.disk.watch(name)
    }
    fn verify(&self) -> Result<()> {
        self.disk.verify()
    }
    fn close(&self, reason: &str) {
        self.disk.close(reason);
    }
    fn closed(&self) -> Option<String> {
        self.disk.closed()
    }
    fn submit(&self, lane: Lane, job: Box<dyn FnOnce() + Send>) {
        self.disk.submit(lane, job);
    }
}

#[test]
fn a_replica_that_finds_no_room_while_it_switches_to_a_snapshot_is_healed() {
    runtime::process::block_on(async {
        // Small enough that the log is cut behind a host that is away.
        let settings = Settings { checkpoint_bytes: 64 << 10, tail_bytes: 0, segment_bytes: 64 << 10, segments_max: 2, ..quick() };
        let mut cluster = Cluster::start(3, 1, settings).await;
        cluster.kill(3).await;
        for number in 1..=200 {
            cluster.client().propose(GROUP, session(number, number), append(1, number, 1000), within(10)).await.unwrap();
        }
        let refused = Arc::new(AtomicBool::new(false));
        let noted = refused.clone();
        cluster.open_with(3, Bootstrap::Again, |disk| Arc::new(OnceFull { disk, end: ".manifest.new", refused: noted })).await;
        // It stops, and not before that is anything healed.
        let stopped = || cluster.nodes[&3].host.status().iter().any(|one| one.trouble.as_ref().is_some_and(|why| why.contains("no space")));
        let give_up = within(20);
        while !stopped() {
            assert!(time::now() < give_up, "it never stopped; refused: {refused:?}");
            time::sleep(Duration::from_millis(1)).await;
        }
        healed(&cluster, 3).await;
        assert_eq!(list(&cluster.client()).await, (1..=200).collect::<Vec<_>>());
    });
}
