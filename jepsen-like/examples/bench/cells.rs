//! [`Cell`]: one kind of request at one size and concurrency, measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jepsen_like::s3::{Content, List, ListKind, Payload, Request, Source};
use jepsen_like::workload::Draws;

use crate::servers::{Server, Usage};

const BUCKET: &str = "bench";
const PAGE_KEYS: u32 = 1000;
/// Folders among which the listed keys are spread.
const FOLDERS: u64 = 10;
/// Share of the most requests a second at which the time of one is measured under load.
const LOAD: f64 = 0.8;
/// Requests under way at most under that load: more would be as many that time out.
const UNDER_WAY_MAX: usize = 256;

/// How long, and how much.
pub struct Plan {
    /// Longest time of a cell.
    pub cell: Duration,
    pub list_keys: u64,
    /// Most bytes that one cell writes.
    pub bytes_max: u64,
    pub quick: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Put,
    Get,
    /// At a steady rate, whether earlier ones were answered or not: 80 % of what the cell before reached.
    GetUnderLoad,
    /// Pages of 1000.
    List,
    /// One page that shows the folders of all keys.
    ListFolders,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Cell {
    pub verb: Verb,
    /// Of an object; of a listing, its number of keys.
    pub size: u64,
    pub concurrency: usize,
    pub operations: u64,
    pub seconds: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// Of the server, for each operation.
    pub cpu: Duration,
    /// Bytes on drives for each byte stored, and bytes sent to drives for each byte stored (PUT only).
    pub on_disk: Option<f64>,
    pub written: Option<f64>,
    /// fdatasyncs for each operation, if the server counts them.
    pub syncs: Option<f64>,
}

impl Cell {
    pub fn operations_per_s(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    pub fn mib_per_s(&self) -> f64 {
        match self.verb {
            Verb::List | Verb::ListFolders => 0.0,
            Verb::Put | Verb::Get | Verb::GetUnderLoad => self.operations_per_s() * self.size as f64 / (1 << 20) as f64,
        }
    }

    pub fn name(&self) -> String {
        match self.verb {
            Verb::Put => format!("PUT {} x{}", size_name(self.size), self.concurrency),
            Verb::Get => format!("GET {} x{}", size_name(self.size), self.concurrency),
            Verb::GetUnderLoad => format!("GET {} at {:.0} % load", size_name(self.size), LOAD * 100.0),
            Verb::List => format!("LIST 1000 of {}", self.size),
            Verb::ListFolders => format!("LIST {FOLDERS} folders of {}", self.size),
        }
    }
}

fn size_name(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

/// Measure all cells on `server`.
pub async fn run(server: &Server, plan: &Plan) -> Result<Vec<Cell>, String> {
    server.client.create_bucket(BUCKET).await.map_err(|error| format!("creating a bucket: {error}"))?;
    let mut cells = Vec::new();
    for size in [4 << 10, 1 << 20, 64 << 20] {
        for concurrency in [1, 16] {
            if plan.quick && size == 64 << 20 && concurrency > 1 {
                continue;
            }
            let prefix = format!("{size}-{concurrency}");
            let (put, keys) = put_cell(server, plan, &prefix, size, concurrency).await?;
            note(&put);
            cells.push(put);
            let get = get_cell(server, plan, &prefix, size, keys, Asking::AtOnce(concurrency)).await?;
            note(&get);
            let rate = get.operations_per_s() * LOAD;
            cells.push(get);
            if size == 4 << 10 && concurrency > 1 {
                let loaded = get_cell(server, plan, &prefix, size, keys, Asking::AtRate(rate)).await?;
                note(&loaded);
                cells.push(loaded);
            }
            // Space for the next; what is never given back would show in the report.
            for index in 0..keys {
                let _ = server.client.delete(BUCKET, &key(&prefix, index)).await;
            }
        }
    }
    for list in list_cells(server, plan).await? {
        note(&list);
        cells.push(list);
    }
    Ok(cells)
}

fn note(cell: &Cell) {
    eprintln!(
        "  {:<20} {:>9.1} op/s {:>8.1} MiB/s  p50 {:>9.2?}  p99 {:>9.2?}  cpu/op {:>9.2?}",
        cell.name(),
        cell.operations_per_s(),
        cell.mib_per_s(),
        cell.p50,
        cell.p99,
        cell.cpu
    );
}

fn key(prefix: &str, index: u64) -> String {
    format!("{prefix}/{index:08}")
}

/// A body is named by its key, so that a reader can check it.
fn content(prefix: &str, index: u64, size: u64) -> Content {
    Content::new(Draws::new(index, prefix).number(), size)
}

async fn put_cell(server: &Server, plan: &Plan, prefix: &str, size: u64, concurrency: usize) -> Result<(Cell, u64), String> {
    let limit = (plan.bytes_max / size).max(concurrency as u64);
    let before = server.usage().await;
    let (client, name) = (server.client.clone(), prefix.to_owned());
    let measured = measure(plan.cell, concurrency, limit, move |index| {
        let (client, name) = (client.clone(), name.clone());
        async move {
            // Unsigned payload: the signature's SHA-256 would measure the hash, of both sides on shared processors.
            let source = Source::from(content(&name, index, size));
            let request = Request::object("PUT", BUCKET, &key(&name, index)).source(source).payload(Payload::Unsigned);
            client.put_with(request).await.map(|_| ()).map_err(|error| format!("PUT: {error}"))
        }
    })
    .await?;
    let after = server.usage().await;
    let keys = measured.latencies.len() as u64;
    Ok((cell(Verb::Put, size, concurrency, measured, &before, &after), keys))
}

/// How requests follow each other.
#[derive(Clone, Copy)]
enum Asking {
    /// So many at once, each when one was answered.
    AtOnce(usize),
    /// So many a second.
    AtRate(f64),
}

async fn get_cell(server: &Server, plan: &Plan, prefix: &str, size: u64, keys: u64, asking: Asking) -> Result<Cell, String> {
    let before = server.usage().await;
    let (client, name) = (server.client.clone(), prefix.to_owned());
    let get = move |index| {
        let (client, name) = (client.clone(), name.clone());
        async move {
            let which = Draws::new(index, "which").below(keys);
            let mut reply = client.get_stream(BUCKET, &key(&name, which)).await.map_err(|error| format!("GET: {error}"))?;
            let mut bytes = 0;
            while let Some(piece) = reply.next().await.map_err(|error| format!("GET: {error}"))? {
                bytes += piece.len() as u64;
            }
            if bytes == size { Ok(()) } else { Err(format!("GET: {bytes} bytes of {size}")) }
        }
    };
    let (verb, concurrency, measured) = match asking {
        Asking::AtOnce(concurrency) => (Verb::Get, concurrency, measure(plan.cell, concurrency, u64::MAX, get).await?),
        Asking::AtRate(rate) => (Verb::GetUnderLoad, UNDER_WAY_MAX, measure_at(plan.cell, rate, get).await?),
    };
    let after = server.usage().await;
    // Outside the measured time: what is fast and wrong does not count.
    for index in [0, keys / 2, keys - 1] {
        let reply = server.client.get_stream(BUCKET, &key(prefix, index)).await.map_err(|error| format!("GET: {error}"))?;
        reply.verify(content(prefix, index, size)).await.map_err(|error| format!("GET {}: {error}", key(prefix, index)))?;
    }
    Ok(cell(verb, size, concurrency, measured, &before, &after))
}

async fn list_cells(server: &Server, plan: &Plan) -> Result<[Cell; 2], String> {
    let client = server.client.clone();
    measure(Duration::MAX, 16, plan.list_keys, move |index| {
        let client = client.clone();
        let key = key(&format!("list/{}", index % FOLDERS), index);
        async move { client.put(BUCKET, &key, Source::Empty).await.map(|_| ()).map_err(|error| format!("PUT: {error}")) }
    })
    .await?;
    Ok([pages_cell(server, plan).await?, folders_cell(server, plan).await?])
}

async fn folders_cell(server: &Server, plan: &Plan) -> Result<Cell, String> {
    let before = server.usage().await;
    let client = server.client.clone();
    let folders = FOLDERS.min(plan.list_keys) as usize;
    let measured = measure(plan.cell, 1, u64::MAX, move |_| {
        let client = client.clone();
        async move {
            let list = List { prefix: "list/".to_owned(), delimiter: "/".to_owned(), ..List::default() };
            let page = client.list(BUCKET, ListKind::V2, &list).await.map_err(|error| format!("LIST: {error}"))?;
            let found = page.prefixes.len();
            if found == folders && !page.truncated { Ok(()) } else { Err(format!("LIST: {found} folders of {folders}")) }
        }
    })
    .await?;
    let after = server.usage().await;
    Ok(cell(Verb::ListFolders, plan.list_keys, 1, measured, &before, &after))
}

async fn pages_cell(server: &Server, plan: &Plan) -> Result<Cell, String> {
    let before = server.usage().await;
    let begun = Instant::now();
    let mut latencies = Vec::new();
    let mut listed = 0;
    let mut list = List { prefix: "list/".to_owned(), keys_max: Some(PAGE_KEYS), ..List::default() };
    loop {
        let asked = Instant::now();
        let page = server.client.list(BUCKET, ListKind::V2, &list).await.map_err(|error| format!("LIST: {error}"))?;
        latencies.push(asked.elapsed());
        listed += page.objects.len() as u64;
        match (page.truncated, page.next) {
            (true, Some(next)) => list.token = Some(next),
            _ if listed < plan.list_keys => return Err(format!("LIST: {listed} keys of {}", plan.list_keys)),
            // Round again, so that a small listing is measured as long as any other cell.
            _ if begun.elapsed() < plan.cell => {
                listed = 0;
                list.token = None;
            }
            _ => break,
        }
    }
    let measured = Measured { seconds: begun.elapsed().as_secs_f64(), latencies };
    let after = server.usage().await;
    Ok(cell(Verb::List, plan.list_keys, 1, measured, &before, &after))
}

struct Measured {
    seconds: f64,
    latencies: Vec<Duration>,
}

/// Call `operation` with 0, 1, 2, ... from `concurrency` tasks until `time` or `limit` is reached; each task does at
/// least one.
async fn measure<F, O>(time: Duration, concurrency: usize, limit: u64, operation: F) -> Result<Measured, String>
where
    F: Fn(u64) -> O + Clone + Send + 'static,
    O: Future<Output = Result<(), String>> + Send + 'static,
{
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut workers = Vec::new();
    for _ in 0..concurrency {
        let (next, operation) = (next.clone(), operation.clone());
        workers.push(runtime::task::spawn(async move {
            let mut latencies = Vec::new();
            while latencies.is_empty() || begun.elapsed() < time {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= limit {
                    break;
                }
                let asked = Instant::now();
                operation(index).await?;
                latencies.push(asked.elapsed());
            }
            Ok::<Vec<Duration>, String>(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.extend(worker.await?);
    }
    Ok(Measured { seconds: begun.elapsed().as_secs_f64(), latencies })
}

/// Call `operation` `rate` times a second for `time`. The time of one counts from when its turn was, so one that had to wait
/// because the server was behind is as slow as a client found it.
async fn measure_at<F, O>(time: Duration, rate: f64, operation: F) -> Result<Measured, String>
where
    F: Fn(u64) -> O + Clone + Send + 'static,
    O: Future<Output = Result<(), String>> + Send + 'static,
{
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let total = (time.as_secs_f64() * rate).ceil().max(1.0) as u64;
    let mut workers = Vec::new();
    for _ in 0..UNDER_WAY_MAX {
        let (next, operation) = (next.clone(), operation.clone());
        workers.push(runtime::task::spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= total {
                    return Ok::<Vec<Duration>, String>(latencies);
                }
                let turn = begun + Duration::from_secs_f64(index as f64 / rate);
                runtime::time::sleep(turn.saturating_duration_since(Instant::now())).await;
                operation(index).await?;
                latencies.push(turn.elapsed());
            }
        }));
    }
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.extend(worker.await?);
    }
    Ok(Measured { seconds: begun.elapsed().as_secs_f64(), latencies })
}

fn cell(verb: Verb, size: u64, concurrency: usize, mut measured: Measured, before: &Usage, after: &Usage) -> Cell {
    measured.latencies.sort_unstable();
    let operations = measured.latencies.len() as u64;
    let at = |share: f64| measured.latencies[((operations - 1) as f64 * share) as usize];
    let stored = (operations * size) as f64;
    let per_byte = |bytes: u64| (verb == Verb::Put).then(|| bytes as f64 / stored);
    Cell {
        verb,
        size,
        concurrency,
        operations,
        seconds: measured.seconds,
        p50: at(0.50),
        p99: at(0.99),
        cpu: (after.cpu.saturating_sub(before.cpu)).div_f64(operations as f64),
        on_disk: per_byte(after.on_disk.saturating_sub(before.on_disk)),
        written: match (before.written, after.written) {
            (Some(before), Some(after)) => per_byte(after - before),
            _ => None,
        },
        syncs: match (before.syncs, after.syncs) {
            (Some(before), Some(after)) => Some(after.saturating_sub(before) as f64 / operations as f64),
            _ => None,
        },
    }
}
