//! Fetching a snapshot: its rows, and what its group commits meanwhile, into a state of which nobody knows until it is whole and durable.

use super::tail::Tail;
use crate::StateMachine;
use crate::host::Settings;
use crate::log::Key;
use crate::manifest::{state_name, tail_name};
use crate::state::{Error, Meta, State, catching};
use crate::wire::{self, Page, PageRequest, Proof, ProofRequest, SNAPSHOT_PAGE, SNAPSHOT_PROOF, SNAPSHOT_TAIL, SnapshotOffer, TailRequest};
use bytes::Bytes;
use protocol::wire::{decode, encode};
use protocol::{NodeId, ReplicaId};
use runtime::disk::{self, Disk};
use runtime::probe::waypoint;
use runtime::rpc::{Class, Method, Received, Rpc};
use runtime::time::{self, Instant};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest that one page is waited for, and asked for again: a sender that is silent for longer may be gone, and another one offers.
const PAGE_PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait for one answer.
const PAGE_WAIT: Duration = Duration::from_secs(5);
/// Between two attempts for one page, and two looks at what was committed meanwhile.
const PAGE_PAUSE: Duration = Duration::from_millis(200);
/// The longest wait for the proof: the sender reads all rows for it, and began when it made its offer.
const PROOF_PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at it while there is other work to do.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Answers in one look: pages must not wait for ever because a group commits faster than anybody can take it.
const LOOKS_MAX: usize = 4;
/// Bytes of entries in the file, beyond which no more are asked for: the state is taken as old as it is then.
const TAIL_BYTES_MAX: u64 = 8 << 30;
/// An answer with so many bytes of commands is followed by another question at once.
const LOOK_AGAIN_BYTES: usize = 128 << 10;
/// A state is as new as it gets when no more than so many bytes of commands came while those before them were applied and made durable ...
const BEHIND_BYTES: usize = 512 << 10;
/// ... or after so many times: a group that commits faster than this drive applies leaves it behind in any case.
const ROUNDS_MAX: usize = 16;
/// Why a lock is there to be had.
const ALONE: &str = "no holder panics";
const LET_GO: &str = "the sender let go of it";

/// Who offers it.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub node: NodeId,
    pub replica: ReplicaId,
}

/// Where it goes.
pub(crate) struct Target {
    pub disk: Arc<dyn Disk>,
    pub key: Key,
    /// Number of the state file.
    pub file: u64,
    /// What applies the entries that follow it; commands up to its version are known.
    pub machine: Arc<dyn StateMachine>,
}

/// Entries that follow a snapshot, asked for again and again while its rows are fetched, before the log of its sender is cut.
struct Behind {
    rpc: Rpc,
    source: Source,
    key: Key,
    disk: Arc<dyn Disk>,
    tail: Arc<Mutex<Tail>>,
    /// All up to this one are in the state or in `tail`.
    upto: u64,
    /// Bytes that were got since this was last set to 0.
    bytes: usize,
    /// When it was asked last, and when the sender last answered.
    asked: Instant,
    heard: Instant,
    /// The sender has no more of them, or is silent: what there is has to do.
    ended: bool,
}

impl Behind {
    /// Ask for what was committed meanwhile, unless that was done just now. That nothing comes is no error: a state that is older than it could be
    /// is one yet.
    async fn look(&mut self) -> Result<(), Error> {
        if self.ended || time::since(self.asked) < LOOK_PAUSE {
            return Ok(());
        }
        for _ in 0..LOOKS_MAX {
            self.asked = time::now();
            let asked = TailRequest { group: self.key.group, to: self.source.replica, from: self.key.replica, after: self.upto };
            let until = time::now() + PAGE_WAIT;
            let answer = self.rpc.call(self.source.node, Class::Bulk, SNAPSHOT_TAIL, 0, encode(&asked).into(), Vec::new(), until).await;
            let Ok(received) = answer else {
                self.ended = time::since(self.heard) > PAGE_PATIENCE;
                return Ok(());
            };
            self.heard = time::now();
            let Ok(wire::Tail::Entries(heads)) = decode(&received.meta) else {
                runtime::probe!("consensus-snapshot-tail-ended");
                self.ended = true;
                return Ok(());
            };
            let Some(last) = heads.last() else { return Ok(()) };
            let more = received.body.len() >= LOOK_AGAIN_BYTES;
            let follow = heads.iter().zip(self.upto + 1..).all(|(head, index)| head.index == index);
            let sum: usize = heads.iter().map(|head| head.bytes as usize).sum();
            if !follow || sum != received.body.len() {
                return Err(Error::of_sender("what follows it has gaps"));
            }
            runtime::probe!("consensus-snapshot-tail-fetched");
            let upto = last.index;
            let tail = self.tail.clone();
            let length = disk::run(&self.disk, move || {
                let mut tail = tail.lock().expect(ALONE);
                tail.push(&heads, &received.body)?;
                Ok::<_, Error>(tail.bytes())
            });
            self.ended = length.await? > TAIL_BYTES_MAX;
            self.upto = upto;
            self.bytes += sum;
            if !more || self.ended {
                break;
            }
        }
        Ok(())
    }

    /// Look again and again until `job` is done; what came of it.
    async fn look_during<T>(&mut self, job: impl Future<Output = T>) -> Result<T, Error> {
        let mut job = std::pin::pin!(job);
        loop {
            runtime::select! {
                done = &mut job => return Ok(done),
                () = time::sleep(PAGE_PAUSE) => {}
            }
            // Both go on. A look that is begun is ended: what it got is on its way into the file.
            let mut look = std::pin::pin!(self.look());
            let mut ended = None;
            loop {
                runtime::select! {
                    done = &mut job, if ended.is_none() => ended = Some(done),
                    looked = &mut look => {
                        looked?;
                        break;
                    }
                }
            }
            if let Some(done) = ended {
                return Ok(done);
            }
        }
    }
}

/// Fetch all rows of `offer` into a new state file, and what the group commits meanwhile; whole, proved and durable when it returns. It
/// covers the offer, or more: its meta says what.
pub(crate) async fn fetch(rpc: Rpc, source: Source, offer: SnapshotOffer, target: Target, settings: Settings) -> Result<State, Error> {
    let meta = Meta {
        key: target.key,
        applied: offer.index,
        term: offer.term,
        members: offer.members.clone(),
        state_hash: offer.state_hash,
        marks: offer.marks.clone(),
    };
    let Target { disk, key, file, machine } = target;
    let known = machine.version();
    if offer.members.machine > known {
        return Err(Error::newer(offer.members.machine, known));
    }
    let (created, tail) = {
        let (drive, meta) = (disk.clone(), meta.clone());
        // Until it is sealed the file says that nothing was applied; no manifest names it anyway.
        let empty = Meta { applied: 0, term: 0, state_hash: 0, marks: Vec::new(), ..meta };
        let (cache, interval) = (settings.cache_bytes, settings.mark_interval);
        let create = move || {
            let state = State::create(&drive, &state_name(key, file), cache, interval, empty)?;
            Ok::<_, Error>((state, Tail::create(drive, tail_name(key, file))?))
        };
        disk::run(&disk, create).await?
    };
    let begun = time::now();
    let mut behind = Behind {
        rpc,
        source,
        key,
        disk,
        tail: Arc::new(Mutex::new(tail)),
        upto: offer.index,
        bytes: 0,
        asked: begun,
        heard: begun,
        ended: false,
    };
    let result = fill(&mut behind, Arc::new(created), &offer, meta, machine).await;
    let Behind { disk, tail, .. } = behind;
    disk::run(&disk, move || tail.lock().expect(ALONE).remove()).await;
    result
}

async fn fill(
    behind: &mut Behind,
    state: Arc<State>,
    offer: &SnapshotOffer,
    meta: Meta,
    machine: Arc<dyn StateMachine>,
) -> Result<State, Error> {
    let (rpc, from, disk) = (behind.rpc.clone(), behind.source.node, behind.disk.clone());
    for table in 0..2 {
        let mut page = fetch_page(&rpc, from, PageRequest { token: offer.token, table, after: None }).await?;
        loop {
            let (mut rows, done) = page;
            let after = rows.last().map(|(key, _)| key.to_vec());
            if done && table == 0 && runtime::planted("snapshot-without-last-rows") {
                rows.pop();
            }
            waypoint("consensus-snapshot-page").await;
            let filled = state.clone();
            let fill = disk::run(&disk, move || filled.fill(table, &rows));
            if done {
                fill.await?;
                break;
            }
            // The next page travels while this one is written.
            let (filled, next) = futures::join!(fill, fetch_page(&rpc, from, PageRequest { token: offer.token, table, after }));
            filled?;
            page = next?;
            behind.look().await?;
        }
    }
    let (rows, rows_hash) = behind.look_during(fetch_proof(&rpc, from, offer.token)).await??;
    waypoint("consensus-snapshot-before-seal").await;
    let sealed = state.clone();
    behind.look_during(disk::run(&disk, move || sealed.seal(meta, rows, rows_hash))).await??;
    for round in 1.. {
        behind.look().await?;
        // In the last round nothing more is asked for: it would not be applied any more, and the sender would take it for granted.
        let last = behind.ended || behind.bytes <= BEHIND_BYTES || round >= ROUNDS_MAX;
        behind.bytes = 0;
        let frames = behind.tail.lock().expect(ALONE).len();
        if frames == 0 {
            break;
        }
        for _ in 0..frames {
            let (state, machine, tail) = (state.clone(), machine.clone(), behind.tail.clone());
            let apply = move || {
                let entries = tail.lock().expect(ALONE).pop()?.unwrap_or_default();
                catching(|| state.apply(machine.as_ref(), &entries)).map(drop)
            };
            disk::run(&disk, apply).await?;
            if !last {
                behind.look().await?;
            }
        }
        let durable = state.clone();
        let checkpoint = disk::run(&disk, move || catching(|| durable.checkpoint().map(drop)));
        if last {
            checkpoint.await?;
            break;
        }
        behind.look_during(checkpoint).await??;
    }
    Ok(Arc::into_inner(state).expect("every job has ended"))
}

async fn fetch_page(rpc: &Rpc, from: NodeId, request: PageRequest) -> Result<(Vec<(Bytes, Bytes)>, bool), Error> {
    let received = ask(rpc, from, SNAPSHOT_PAGE, &encode(&request).into()).await?;
    match decode(&received.meta) {
        Ok(Page::Rows { count, done }) => match split_rows(received.body, count) {
            // A page without rows that is not the last would be asked for for ever.
            Some(rows) if done || !rows.is_empty() => Ok((rows, done)),
            _ => Err(Error::of_sender("a page is malformed")),
        },
        Ok(Page::Gone) => Err(Error::of_sender(LET_GO)),
        Err(error) => Err(Error::of_sender(&error.to_string())),
    }
}

/// Number of the rows, and the hash over all of them.
async fn fetch_proof(rpc: &Rpc, from: NodeId, token: u64) -> Result<(u64, u64), Error> {
    let until = time::now() + PROOF_PATIENCE;
    let request: Bytes = encode(&ProofRequest { token }).into();
    while time::now() < until {
        let received = ask(rpc, from, SNAPSHOT_PROOF, &request).await?;
        match decode(&received.meta) {
            Ok(Proof::Known { rows, rows_hash }) => return Ok((rows, rows_hash)),
            Ok(Proof::NotYet) => time::sleep(PAGE_PAUSE).await,
            Ok(Proof::Gone) => return Err(Error::of_sender(LET_GO)),
            Err(error) => return Err(Error::of_sender(&error.to_string())),
        }
    }
    Err(Error::of_sender("it took too long to be proved"))
}

/// Ask the sender, again and again while it does not answer.
async fn ask(rpc: &Rpc, from: NodeId, method: Method, meta: &Bytes) -> Result<Received, Error> {
    let (mut last, mut attempts) = ("no time was left".to_owned(), 0);
    let until = time::now() + PAGE_PATIENCE;
    while time::now() < until {
        attempts += 1;
        if attempts == 2 {
            runtime::probe!("consensus-snapshot-page-asked-again");
        }
        match rpc.call(from, Class::Bulk, method, 0, meta.clone(), Vec::new(), until.min(time::now() + PAGE_WAIT)).await {
            Ok(received) => return Ok(received),
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
