//! Jobs of a simulated drive: who waits for what, and what is durable when.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test: what fails here fails it")]

use runtime::disk::{self, Disk, DiskFile, Error, Open};
use runtime::side::{self, Cut, Machine, Settings, SimDrive, stream_for};
use runtime::task::{self, Task};
use runtime::time::{now, sleep, timeout};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn simulate<F: Future<Output = ()>>(make: impl FnOnce() -> F + Send + 'static) {
    side::run(Settings::new(1), make);
}

fn drive_with_file() -> (SimDrive, Arc<dyn Disk>, Arc<dyn DiskFile>) {
    let drive = SimDrive::new("drive", 64 << 20);
    let disk = drive.mount();
    let file = disk.open("a", Open::New).unwrap();
    file.write_at(0, &[1; 8192]).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    (drive, disk, file)
}

fn job<T: Send + 'static>(disk: &Arc<dyn Disk>, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    let disk = disk.clone();
    task::spawn(async move { disk::run(&disk, work).await })
}

fn write_and_sync(disk: &Arc<dyn Disk>, file: &Arc<dyn DiskFile>, offset: u64, byte: u8) -> Task<disk::Result<()>> {
    let file = file.clone();
    job(disk, move || {
        file.write_at(offset, &[byte; 512])?;
        file.sync()
    })
}

fn durable_byte(drive: &SimDrive, offset: u64) -> u8 {
    let mut byte = [0];
    drive.durable().open("a", Open::Existing).unwrap().read_at(offset, &mut byte).unwrap();
    byte[0]
}

#[test]
fn a_stuck_sync_does_not_come_back_and_makes_nothing_durable_until_it_is_freed() {
    simulate(|| async {
        let (drive, disk, file) = drive_with_file();
        drive.set_stuck(true);
        let mut stuck = write_and_sync(&disk, &file, 0, 2);
        assert!(timeout(60 * SECOND, &mut stuck).await.is_err());
        assert_eq!(durable_byte(&drive, 0), 1);
        drive.set_stuck(false);
        stuck.await.unwrap();
        assert_eq!(durable_byte(&drive, 0), 2);
    });
}

#[test]
fn stuck_syncs_hold_the_threads_of_the_drive_until_nothing_of_it_answers() {
    simulate(|| async {
        let (drive, disk, file) = drive_with_file();
        drive.set_stuck(true);
        let read = || {
            let file = file.clone();
            job(&disk, move || file.read_at(0, &mut [0]))
        };
        let mut stuck = Vec::new();
        for number in 0..4 {
            timeout(SECOND, read()).await.expect("a thread is free").unwrap();
            stuck.push(write_and_sync(&disk, &file, 512 * number, 2));
            sleep(SECOND).await;
        }
        let mut waiting = read();
        assert!(timeout(60 * SECOND, &mut waiting).await.is_err());
        drive.set_stuck(false);
        timeout(SECOND, waiting).await.unwrap().unwrap();
        for sync in stuck {
            sync.await.unwrap();
        }
    });
}

#[test]
fn a_sync_covers_what_was_written_before_it_and_nothing_later() {
    simulate(|| async {
        let (drive, disk, file) = drive_with_file();
        drive.set_stuck(true);
        let mut sync = write_and_sync(&disk, &file, 0, 2);
        assert!(timeout(SECOND, &mut sync).await.is_err());
        // Of the same page and of another, and over what the sync covers.
        for offset in [512, 4096, 0] {
            file.write_at(offset, &[3; 512]).unwrap();
        }
        drive.set_stuck(false);
        sync.await.unwrap();
        assert_eq!([0, 512, 4096].map(|offset| durable_byte(&drive, offset)), [2, 1, 1]);
        drive.cut_power_as(Some(Cut::DropAll), &mut stream_for(1, "test", 0, 0));
        assert_eq!([0, 512, 4096].map(|offset| durable_byte(&drive, offset)), [2, 1, 1]);
    });
}

#[test]
fn syncs_that_end_out_of_order_never_take_back_what_is_durable() {
    simulate(|| async {
        for _ in 0..20 {
            let (drive, disk, file) = drive_with_file();
            drive.set_stuck(true);
            let syncs: Vec<_> = (2..6).map(|byte| write_and_sync(&disk, &file, 0, byte)).collect();
            sleep(SECOND).await;
            drive.set_stuck(false);
            for sync in syncs {
                sync.await.unwrap();
            }
            let mut byte = [0];
            file.read_at(0, &mut byte).unwrap();
            assert_eq!(durable_byte(&drive, 0), byte[0], "the last sync to begin saw every write");
        }
    });
}

#[test]
fn a_job_waits_for_a_lock_that_a_stuck_job_holds() {
    simulate(|| async {
        let (drive, disk, file) = drive_with_file();
        let lock = Arc::new(Mutex::new(0));
        drive.set_stuck(true);
        let (held, syncing) = (lock.clone(), file.clone());
        let first = job(&disk, move || {
            let mut count = held.lock().unwrap();
            syncing.sync().unwrap();
            *count += 1;
        });
        let wanted = lock.clone();
        let mut second = job(&disk, move || {
            let mut count = wanted.lock().unwrap();
            *count += 1;
            *count
        });
        assert!(timeout(SECOND, &mut second).await.is_err());
        drive.set_stuck(false);
        first.await;
        assert_eq!(second.await, 2);
    });
}

#[test]
fn a_machine_that_is_killed_in_a_stuck_sync_starts_again_with_its_drive() {
    simulate(|| async {
        let (drive, disk, _) = drive_with_file();
        drop(disk);
        let synced = Arc::new(AtomicU64::new(0));
        let (mounted, count) = (drive.clone(), synced.clone());
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let machine = Machine::start("node", address, vec![drive.clone()], move || {
            let (drive, synced) = (mounted.clone(), count.clone());
            async move {
                let disk = drive.mount();
                let file = disk.open("a", Open::Existing).unwrap();
                loop {
                    write_and_sync(&disk, &file, 0, 7).await.unwrap();
                    synced.fetch_add(1, Ordering::Relaxed);
                    sleep(SECOND).await;
                }
            }
        });
        sleep(5 * SECOND).await;
        for round in 0..10 {
            drive.set_stuck(true);
            sleep(3 * SECOND).await;
            if round % 2 == 0 {
                machine.kill();
            } else {
                machine.cut_power(&mut stream_for(round, "test", 0, 0));
            }
            drive.set_stuck(false);
            let before = synced.load(Ordering::Relaxed);
            sleep(SECOND).await;
            assert_eq!(synced.load(Ordering::Relaxed), before, "the job of a dead process never goes on");
            machine.restart();
            sleep(3 * SECOND).await;
            assert!(synced.load(Ordering::Relaxed) > before, "round {round}");
        }
        assert_eq!(drive.mounts(), 1);
    });
}

#[test]
fn a_stuck_drive_that_is_pulled_fails_its_syncs() {
    simulate(|| async {
        let (drive, disk, file) = drive_with_file();
        drive.set_stuck(true);
        let mut sync = write_and_sync(&disk, &file, 0, 2);
        assert!(timeout(SECOND, &mut sync).await.is_err());
        drive.set_gone(Some("pulled"));
        assert!(matches!(sync.await, Err(Error::Closed { .. })));
        assert_eq!(durable_byte(&drive, 0), 1);
    });
}

#[test]
fn a_sync_outside_of_a_job_closes_a_stuck_drive_instead_of_blocking_everything() {
    simulate(|| async {
        let (drive, disk, file) = drive_with_file();
        drive.set_stuck(true);
        assert!(matches!(file.sync(), Err(Error::Closed { .. })));
        assert!(disk.closed().is_some());
    });
}

#[test]
fn a_slow_drive_is_slow_for_everybody_and_its_queue_grows() {
    simulate(|| async {
        let (drive, disk, file) = drive_with_file();
        sleep(SECOND).await;
        let began = now();
        write_and_sync(&disk, &file, 0, 2).await.unwrap();
        let healthy = now() - began;
        drive.set_slow(100);
        let began = now();
        write_and_sync(&disk, &file, 0, 2).await.unwrap();
        let slow = now() - began;
        assert!(slow > 50 * healthy && slow < 200 * healthy, "{healthy:?}, then {slow:?}");
        let began = now();
        let queue: Vec<_> = (0..20).map(|number| write_and_sync(&disk, &file, number * 512, 3)).collect();
        for sync in queue {
            sync.await.unwrap();
        }
        assert!(now() - began >= 19 * slow, "twenty take twenty times as long, however many ask at once");
    });
}

#[test]
fn bytes_take_time() {
    simulate(|| async {
        let (_drive, disk, file) = drive_with_file();
        let began = now();
        let write = file.clone();
        job(&disk, move || write.write_at(0, &vec![1; 32 << 20])).await.unwrap();
        let took = now() - began;
        assert!(took > Duration::from_millis(30) && took < Duration::from_millis(40), "{took:?}");
    });
}

#[test]
fn power_that_is_lost_during_a_job_ends_it_and_those_that_wait() {
    simulate(|| async {
        let (drive, disk, file) = drive_with_file();
        drive.set_stuck(true);
        let jobs: Vec<_> = (0..6).map(|number| write_and_sync(&disk, &file, number * 512, 2)).collect();
        sleep(SECOND).await;
        drive.cut_power_as(Some(Cut::DropAll), &mut stream_for(1, "test", 0, 0));
        for job in jobs {
            assert!(matches!(job.await, Err(Error::Closed { .. })));
        }
        assert_eq!(durable_byte(&drive, 0), 1);
    });
}

#[test]
fn a_sync_that_fails_takes_those_of_the_same_file_with_it() {
    simulate(|| async {
        let (drive, disk, file) = drive_with_file();
        let twin = drive.mount_again();
        let other = twin.open("a", Open::Existing).unwrap();
        drive.set_stuck(true);
        let first = write_and_sync(&disk, &file, 0, 2);
        sleep(SECOND).await;
        drive.fail_next_sync(&mut stream_for(1, "test", 0, 0));
        let failing = write_and_sync(&disk, &file, 512, 2);
        let second = write_and_sync(&twin, &other, 1024, 2);
        sleep(SECOND).await;
        drive.set_stuck(false);
        let outcomes = [failing.await, first.await, second.await];
        let covered = |offset| durable_byte(&drive, offset) == 2;
        assert!(outcomes[0].is_err());
        assert!(outcomes[1].is_err() || covered(0), "{outcomes:?}");
        assert!(outcomes[2].is_err() || covered(1024), "{outcomes:?}");
        assert!(disk.closed().is_some());
    });
}
