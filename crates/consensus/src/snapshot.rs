//! Snapshots: sorted rows that a follower fetches page by page from rows that its leader holds frozen.
//!
//! Raft's own message is only an offer. The follower fetches all rows into a new state file, and beside it what the group commits meanwhile
//! ([`fetch`]); proves the rows against their count and hash, applies what followed, makes all durable, and only then lets Raft see the
//! message. So a snapshot is about as new as its group when it is taken, however long it took.

mod fetch;
mod tail;

pub(crate) use fetch::{Source, Target, fetch};

use crate::log::Key;
use crate::state::Frozen;
use crate::wire::{Page, PageRequest, Proof, SnapshotOffer};
use bytes::{BufMut, BytesMut};
use protocol::wire::encode;
use runtime::disk::{self, Disk};
use runtime::rpc::Reply;
use runtime::time::{self, Instant};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Most snapshots that a node holds frozen; each keeps old pages of its database from being reused.
const FROZEN_MAX: usize = 64;
struct Held {
    frozen: Arc<Frozen>,
    /// Number of its rows, and the hash over them, when all were read.
    proof: Option<(u64, u64)>,
    disk: Arc<dyn Disk>,
    last_used: Instant,
}

/// The snapshots that this node offers.
#[derive(Default)]
pub(crate) struct Offers {
    held: Mutex<BTreeMap<u64, Held>>,
}

impl Offers {
    /// Offer frozen rows under a new token. Their proof is owed, see [`prove`](Self::prove).
    pub(crate) fn add(&self, disk: Arc<dyn Disk>, frozen: Arc<Frozen>) -> SnapshotOffer {
        let token = runtime::entropy::u64();
        let meta = &frozen.meta;
        let offer = SnapshotOffer {
            index: meta.applied,
            term: meta.term,
            members: meta.members.clone(),
            token,
            state_hash: meta.state_hash,
            marks: meta.marks.clone(),
        };
        let one = Held { frozen, proof: None, disk, last_used: time::now() };
        self.held.lock().expect("no holder panics").insert(token, one);
        offer
    }

    /// The rows under `token` are so many and have this hash.
    pub(crate) fn prove(&self, token: u64, rows: u64, rows_hash: u64) {
        if let Some(one) = self.held.lock().expect("no holder panics").get_mut(&token) {
            one.proof = Some((rows, rows_hash));
        }
    }

    /// What the rows under `token` are proved by.
    pub(crate) fn proof(&self, token: u64) -> Proof {
        match self.held.lock().expect("no holder panics").get_mut(&token) {
            Some(one) => {
                one.last_used = time::now();
                one.proof.map_or(Proof::NotYet, |(rows, rows_hash)| Proof::Known { rows, rows_hash })
            }
            None => Proof::Gone,
        }
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

    /// Let go of a snapshot that cannot be proved, or of which the replica stopped.
    pub(crate) fn withdraw(&self, token: u64) {
        self.held.lock().expect("no holder panics").remove(&token);
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
