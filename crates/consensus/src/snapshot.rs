//! Snapshots: sorted rows that a follower fetches page by page from rows that its leader holds frozen.
//!
//! Raft's own message is only an offer. The follower fetches all rows into a new state file, proves them against the
//! offer's count and hash, makes them durable, and only then lets Raft see the message.

use crate::host::Settings;
use crate::log::Key;
use crate::state::{Error, Frozen, Meta, State};
use crate::wire::{Page, PageRequest, SNAPSHOT_PAGE, SnapshotOffer};
use bytes::{BufMut, Bytes, BytesMut};
use protocol::NodeId;
use protocol::wire::{decode, encode};
use runtime::disk::{self, Disk};
use runtime::probe::waypoint;
use runtime::rpc::{Class, Reply, Rpc};
use runtime::time::{self, Instant};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Most snapshots that a node holds frozen; each keeps old pages of its database from being reused.
const FROZEN_MAX: usize = 64;
/// The longest that one page is waited for, and asked for again: a sender that is silent for longer may be gone, and another one offers.
const PAGE_PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait for one answer.
const PAGE_WAIT: Duration = Duration::from_secs(5);
/// Between two attempts for one page.
const PAGE_PAUSE: Duration = Duration::from_millis(200);

struct Held {
    frozen: Arc<Frozen>,
    disk: Arc<dyn Disk>,
    last_used: Instant,
}

/// The snapshots that this node offers.
#[derive(Default)]
pub(crate) struct Offers {
    held: Mutex<BTreeMap<u64, Held>>,
}

impl Offers {
    /// Offer frozen rows under a new token.
    pub(crate) fn add(&self, disk: Arc<dyn Disk>, frozen: Frozen, rows: u64, rows_hash: u64) -> SnapshotOffer {
        let token = runtime::entropy::u64();
        let meta = &frozen.meta;
        let offer = SnapshotOffer {
            index: meta.applied,
            term: meta.term,
            members: meta.members.clone(),
            token,
            rows,
            rows_hash,
            state_hash: meta.state_hash,
            marks: meta.marks.clone(),
        };
        let one = Held { frozen: Arc::new(frozen), disk, last_used: time::now() };
        self.held.lock().expect("no holder panics").insert(token, one);
        offer
    }

    /// Whether another one may be frozen. None that is being fetched makes room: it would have to begin anew.
    pub(crate) fn has_room(&self) -> bool {
        self.held.lock().expect("no holder panics").len() < FROZEN_MAX
    }

    /// Let go of what nobody asked for within `idle`.
    pub(crate) fn expire(&self, idle: Duration) {
        let now = time::now();
        self.held.lock().expect("no holder panics").retain(|_, one| now.saturating_duration_since(one.last_used) < idle);
    }

    /// Let go of what a replica offered: its state is opened anew, and its old pages may be written over.
    pub(crate) fn forget(&self, key: Key) {
        self.held.lock().expect("no holder panics").retain(|_, one| one.frozen.meta.key != key);
    }

    /// Time since somebody last asked for the snapshot; `None` if it is gone.
    pub(crate) fn idle(&self, token: u64) -> Option<Duration> {
        let held = self.held.lock().expect("no holder panics");
        held.get(&token).map(|one| time::now().saturating_duration_since(one.last_used))
    }

    /// Serve one page.
    pub(crate) async fn serve(&self, request: PageRequest, bytes_max: usize) -> Reply {
        let found = {
            let mut held = self.held.lock().expect("no holder panics");
            held.get_mut(&request.token).map(|one| {
                one.last_used = time::now();
                (one.frozen.clone(), one.disk.clone())
            })
        };
        let gone = Reply { meta: encode(&Page::Gone).into(), body: Vec::new() };
        let Some((frozen, disk)) = found else { return gone };
        let page = disk::run(&disk, move || frozen.page(request.table, request.after.as_deref(), bytes_max)).await;
        let Ok((rows, done)) = page else { return gone };
        let mut body = BytesMut::new();
        for (key, value) in &rows {
            body.put_u32_le(u32::try_from(key.len()).expect("rows are bounded"));
            body.put_u32_le(u32::try_from(value.len()).expect("rows are bounded"));
            body.put_slice(key);
            body.put_slice(value);
        }
        let count = u32::try_from(rows.len()).expect("pages are bounded");
        Reply { meta: encode(&Page::Rows { count, done }).into(), body: vec![body.freeze()] }
    }
}

/// Where a fetched snapshot goes.
pub(crate) struct Target {
    pub disk: Arc<dyn Disk>,
    pub name: String,
    pub key: Key,
    /// Up to this version the program knows the group's commands.
    pub known: u32,
}

/// Fetch all rows of `offer` from node `from` into a new state file; durable and proved when it returns.
pub(crate) async fn fetch(rpc: Rpc, from: NodeId, offer: SnapshotOffer, target: Target, settings: Settings) -> Result<State, Error> {
    let meta = Meta {
        key: target.key,
        applied: offer.index,
        term: offer.term,
        members: offer.members.clone(),
        state_hash: offer.state_hash,
        marks: offer.marks.clone(),
    };
    let Target { disk, name, known, .. } = target;
    if offer.members.machine > known {
        return Err(Error::newer(offer.members.machine, known));
    }
    let created = {
        let (disk, meta) = (disk.clone(), meta.clone());
        // Until it is sealed the file says that nothing was applied; no manifest names it anyway.
        let empty = Meta { applied: 0, term: 0, state_hash: 0, marks: Vec::new(), ..meta };
        let (cache, interval) = (settings.cache_bytes, settings.mark_interval);
        disk::run(&disk.clone(), move || State::create(&disk, &name, cache, interval, empty)).await?
    };
    let state = Arc::new(created);
    for table in 0..2 {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let (mut rows, done) = fetch_page(&rpc, from, PageRequest { token: offer.token, table, after: after.clone() }).await?;
            after = rows.last().map(|(key, _)| key.to_vec()).or(after);
            if done && table == 0 && runtime::planted("snapshot-without-last-rows") {
                rows.pop();
            }
            waypoint("consensus-snapshot-page").await;
            let filled = state.clone();
            disk::run(&disk, move || filled.fill(table, &rows)).await?;
            if done {
                break;
            }
        }
    }
    waypoint("consensus-snapshot-before-seal").await;
    let sealed = state.clone();
    disk::run(&disk, move || sealed.seal(meta, offer.rows, offer.rows_hash)).await?;
    Ok(Arc::into_inner(state).expect("every job has ended"))
}

async fn fetch_page(rpc: &Rpc, from: NodeId, request: PageRequest) -> Result<(Vec<(Bytes, Bytes)>, bool), Error> {
    let meta: Bytes = encode(&request).into();
    let (mut last, mut attempts) = ("no time was left".to_owned(), 0);
    let until = time::now() + PAGE_PATIENCE;
    while time::now() < until {
        attempts += 1;
        if attempts == 2 {
            runtime::probe!("consensus-snapshot-page-asked-again");
        }
        match rpc.call(from, Class::Bulk, SNAPSHOT_PAGE, 0, meta.clone(), Vec::new(), until.min(time::now() + PAGE_WAIT)).await {
            Ok(received) => {
                return match decode(&received.meta) {
                    Ok(Page::Rows { count, done }) => match split_rows(received.body, count) {
                        // A page without rows that is not the last would be asked for for ever.
                        Some(rows) if done || !rows.is_empty() => Ok((rows, done)),
                        _ => Err(Error::of_sender("a page is malformed")),
                    },
                    Ok(Page::Gone) => Err(Error::of_sender("the sender let go of it")),
                    Err(error) => Err(Error::of_sender(&error.to_string())),
                };
            }
            Err(error) => last = error.to_string(),
        }
        time::sleep(PAGE_PAUSE).await;
    }
    Err(Error::of_sender(&last))
}

fn split_rows(mut body: Bytes, count: u32) -> Option<Vec<(Bytes, Bytes)>> {
    let mut rows = Vec::new();
    for _ in 0..count {
        let (key, rest) = body.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_first_chunk::<4>()?;
        let (key, value) = (u32::from_le_bytes(*key) as usize, u32::from_le_bytes(*value) as usize);
        if rest.len() < key.checked_add(value)? {
            return None;
        }
        let _lengths = body.split_to(8);
        rows.push((body.split_to(key), body.split_to(value)));
    }
    body.is_empty().then_some(rows)
}
