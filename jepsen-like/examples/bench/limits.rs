//! What the bare machine can do: the figures that no store on it can pass.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use md5::Digest;

/// Each in the unit of its name.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub cores: usize,
    pub fdatasync_per_s_1: f64,
    pub fdatasync_per_s_16: f64,
    pub sequential_write_mib_per_s: f64,
    pub memcpy_mib_per_s: f64,
    pub md5_mib_per_s: f64,
    pub sha256_mib_per_s: f64,
    /// 4 KiB there and back over loopback TCP.
    pub round_trips_per_s_1: f64,
    pub round_trips_per_s_16: f64,
    pub loopback_mib_per_s: f64,
}

/// Measure in `folder`, which is made and removed.
pub fn measure(folder: &Path, quick: bool) -> std::io::Result<Limits> {
    std::fs::create_dir_all(folder)?;
    let time = if quick { Duration::from_millis(300) } else { Duration::from_secs(2) };
    let limits = Limits {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        fdatasync_per_s_1: syncs(folder, 1, time)?,
        fdatasync_per_s_16: syncs(folder, 16, time)?,
        sequential_write_mib_per_s: sequential(folder, if quick { 128 } else { 1024 })?,
        memcpy_mib_per_s: copies(time),
        md5_mib_per_s: hashes::<md5::Md5>(time),
        sha256_mib_per_s: hashes::<sha2::Sha256>(time),
        round_trips_per_s_1: round_trips(1, time)?,
        round_trips_per_s_16: round_trips(16, time)?,
        loopback_mib_per_s: loopback(time)?,
    };
    std::fs::remove_dir_all(folder)?;
    Ok(limits)
}

/// Run `work` on so many threads for `time`: rounds per second of all together.
fn rate(threads: usize, time: Duration, work: impl Fn(usize, Instant) -> std::io::Result<u64> + Sync) -> std::io::Result<f64> {
    let begun = Instant::now();
    let until = begun + time;
    let rounds: Vec<std::io::Result<u64>> = std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number, until))).collect();
        running.into_iter().map(|thread| thread.join().expect("a measuring thread does not panic")).collect()
    });
    let mut total = 0;
    for count in rounds {
        total += count?;
    }
    Ok(total as f64 / begun.elapsed().as_secs_f64())
}

/// Each writer appends 4 KiB to a file of its own and syncs.
fn syncs(folder: &Path, writers: usize, time: Duration) -> std::io::Result<f64> {
    rate(writers, time, |number, until| {
        let path = folder.join(format!("sync-{number}"));
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let page = [0x5a; 4096];
        let mut count = 0;
        while Instant::now() < until {
            file.write_all(&page)?;
            file.sync_data()?;
            count += 1;
        }
        Ok(count)
    })
}

fn sequential(folder: &Path, mib: usize) -> std::io::Result<f64> {
    let mut file = File::create(folder.join("sequential"))?;
    let piece = vec![0xa5; 1 << 20];
    let begun = Instant::now();
    for _ in 0..mib {
        file.write_all(&piece)?;
    }
    file.sync_data()?;
    Ok(mib as f64 / begun.elapsed().as_secs_f64())
}

fn copies(time: Duration) -> f64 {
    let from = vec![7u8; 64 << 20];
    let mut to = vec![0u8; 64 << 20];
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < time {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        rounds += 64;
    }
    f64::from(rounds) / begun.elapsed().as_secs_f64()
}

fn hashes<D: Digest>(time: Duration) -> f64 {
    let piece = vec![7u8; 1 << 20];
    let mut sum = D::new();
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < time {
        sum.update(std::hint::black_box(&piece));
        rounds += 1;
    }
    std::hint::black_box(sum.finalize());
    f64::from(rounds) / begun.elapsed().as_secs_f64()
}

fn round_trips(clients: usize, time: Duration) -> std::io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || {
        for _ in 0..clients {
            let Ok((mut stream, _)) = listener.accept() else { return };
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut page = [0; 4096];
                while stream.read_exact(&mut page).is_ok() && stream.write_all(&page).is_ok() {}
            });
        }
    });
    let result = rate(clients, time, |_, until| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut page = [0; 4096];
        let mut count = 0;
        while Instant::now() < until {
            stream.write_all(&page)?;
            stream.read_exact(&mut page)?;
            count += 1;
        }
        Ok(count)
    });
    let _ = echo.join();
    result
}

fn loopback(time: Duration) -> std::io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let source = std::thread::spawn(move || {
        let piece = vec![1u8; 256 << 10];
        if let Ok((mut stream, _)) = listener.accept() {
            while stream.write_all(&piece).is_ok() {}
        }
    });
    let mut stream = TcpStream::connect(address)?;
    let mut piece = vec![0u8; 256 << 10];
    let (begun, mut bytes) = (Instant::now(), 0);
    while begun.elapsed() < time {
        bytes += stream.read(&mut piece)?;
    }
    let rate = bytes as f64 / (1 << 20) as f64 / begun.elapsed().as_secs_f64();
    drop(stream);
    let _ = source.join();
    Ok(rate)
}
