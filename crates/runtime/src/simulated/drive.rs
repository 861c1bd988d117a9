//! [`SimDrive`]: a drive as the simulator sees it. It outlives the processes that use it, and this is where its faults are
//! switched on and its truth is looked at.
//!
//! Invariants: a mount works only while it is live, so that destructors of a killed process, which run after the kill, write
//! nothing; faults never change the truth; one operation after another is served, so that a busy drive is slow for everybody.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::content::View;
use super::disk::{Kind, Life, Mount, SimDisk};
use super::platter::{Cut, Fault, FaultMark, Platter};
use crate::disk::{Disk, Entry, Error, Result};

/// Simulated time of operations, before bytes count.
const READ_COST: Duration = Duration::from_micros(80);
const WRITE_COST: Duration = Duration::from_micros(10);
const SYNC_COST: Duration = Duration::from_micros(400);
const NAME_COST: Duration = Duration::from_micros(20);
/// Simulated time of a byte: one gigabyte each second.
const BYTE_NANOS: u64 = 1;

/// A simulated drive; cheap to clone. The simulator holds it and hands [`SimDrive::mount`]s to its nodes.
#[derive(Clone)]
pub struct SimDrive {
    pub(super) body: Arc<Body>,
}

pub(super) struct Body {
    pub label: String,
    state: Mutex<State>,
    /// Power was lost, syncs are no longer stuck, or a mount has ended.
    pub changed: tokio::sync::Notify,
}

pub(super) struct State {
    pub platter: Platter,
    /// Mounts that work, by number.
    live: BTreeMap<u64, Live>,
    last_mount: u64,
    pub gone: Option<String>,
    failed_for_good: bool,
    slow: u32,
    pub stuck: bool,
    pub refuses_writes: bool,
    pub next: Next,
    /// Operations until power is lost, and what decides about the rest.
    cut_after: Option<(u64, ChaCha12Rng)>,
    was_cut: bool,
    busy_until: Option<Instant>,
    operations: u64,
    syncs: u64,
}

/// A process that has the drive mounted.
struct Live {
    machine: u64,
    mount: Weak<Mount>,
}

/// Faults that strike once, each with the folder in which it does ("" is the whole drive).
#[derive(Default)]
pub(super) struct Next {
    pub failing_sync: Option<ChaCha12Rng>,
    pub lost_write: Option<String>,
    pub misdirected_write: Option<(String, ChaCha12Rng)>,
    pub misdirected_read: Option<(String, ChaCha12Rng)>,
}

fn branch(random: &mut ChaCha12Rng) -> ChaCha12Rng {
    ChaCha12Rng::from_seed(random.random())
}

impl SimDrive {
    /// An empty drive of `capacity` bytes.
    pub fn new(label: &str, capacity: u64) -> SimDrive {
        SimDrive::holding(label, Platter::new(capacity))
    }

    fn holding(label: &str, platter: Platter) -> SimDrive {
        let state = State {
            platter,
            live: BTreeMap::new(),
            last_mount: 0,
            gone: None,
            failed_for_good: false,
            slow: 1,
            stuck: false,
            refuses_writes: false,
            next: Next::default(),
            cut_after: None,
            was_cut: false,
            busy_until: None,
            operations: 0,
            syncs: 0,
        };
        let body = Body { label: label.to_string(), state: Mutex::new(state), changed: tokio::sync::Notify::new() };
        SimDrive { body: Arc::new(body) }
    }

    /// The drive as people know it.
    pub fn label(&self) -> &str {
        &self.body.label
    }

    /// Open it for a process of the present machine. Handles of earlier mounts fail from now on.
    pub fn mount(&self) -> Arc<dyn Disk> {
        self.end_mounts(|_| true);
        self.mount_again()
    }

    /// Open it once more, beside the mounts that there are: one drive that two machines, or two processes, believe to be
    /// theirs. All of them write to the same platter, see each other's writes at once, and are synced together.
    pub fn mount_again(&self) -> Arc<dyn Disk> {
        let mut state = self.state();
        state.was_cut = false;
        state.last_mount += 1;
        let mount = Mount::new(self, Life::Mounted(state.last_mount));
        let number = state.last_mount;
        state.live.insert(number, Live { machine: super::machine_or_simulator(), mount: Arc::downgrade(&mount) });
        Arc::new(SimDisk { mount })
    }

    /// Look at what was written to it, synced or not, without cost, events or faults. Changes are refused.
    pub fn inspect(&self) -> Arc<dyn Disk> {
        Arc::new(SimDisk { mount: Mount::new(self, Life::Looking(View::Truth)) })
    }

    /// Look at what would be left of it if everything unsynced, bytes and names, were dropped now: without cost, events or
    /// faults, and always as of the moment of each call. Changes are refused.
    pub fn durable(&self) -> Arc<dyn Disk> {
        Arc::new(SimDisk { mount: Mount::new(self, Life::Looking(View::Durable)) })
    }

    /// Bytes that are now shown wrongly or not at all, by file. What was dropped by a power cut or a failed sync is not among
    /// them: nobody was told that it was there.
    pub fn fault_marks(&self) -> Vec<FaultMark> {
        self.state().platter.fault_marks()
    }

    /// A drive that holds now what this one holds, faults of its bytes included: an old copy that may be brought back.
    pub fn copy(&self, label: &str) -> SimDrive {
        let mut platter = self.state().platter.clone();
        platter.close_everything();
        SimDrive::holding(label, platter)
    }

    /// What `copy` holds takes the place of what this drive holds, under the very same mount. Processes that have it mounted
    /// find another drive there.
    pub fn bring_back(&self, copy: &SimDrive) {
        self.end_mounts(|_| true);
        let mut platter = copy.state().platter.clone();
        platter.close_everything();
        self.state().platter = platter;
    }

    /// The two drives change places. Processes that have them mounted find another drive there.
    pub fn swap_contents(&self, other: &SimDrive) {
        assert!(!Arc::ptr_eq(&self.body, &other.body), "a drive cannot change places with itself");
        self.end_mounts(|_| true);
        other.end_mounts(|_| true);
        std::mem::swap(&mut self.state().platter, &mut other.state().platter);
    }

    /// The processes that had it mounted are no more; what they wrote stays, synced or not.
    pub fn process_ended(&self) {
        self.end_mounts(|_| true);
    }

    /// As [`SimDrive::process_ended`], for the process of one machine, whose tasks are being killed.
    pub(super) fn process_ended_on(&self, machine: u64) {
        // What the simulator mounted on behalf of a machine belongs to whoever has the drive.
        let ended = self.end_mounts(|of| of == machine || of == 0);
        ended.iter().for_each(|mount| mount.abandon_jobs());
    }

    fn end_mounts(&self, which: impl Fn(u64) -> bool) -> Vec<Arc<Mount>> {
        let mut ended = Vec::new();
        {
            let mut state = self.state();
            let numbers: Vec<u64> = state.live.iter().filter(|(_, live)| which(live.machine)).map(|(number, _)| *number).collect();
            for number in numbers {
                ended.extend(state.live.remove(&number));
                state.platter.close_all(number);
            }
        }
        self.body.changed.notify_waiters();
        ended.iter().filter_map(|live: &Live| live.mount.upgrade()).collect()
    }

    /// Power is lost: each unsynced sector and each unsynced change of a folder is kept or dropped.
    pub fn cut_power(&self, random: &mut ChaCha12Rng) {
        self.cut_power_as(None, random);
    }

    /// As [`SimDrive::cut_power`], with the say of how much is kept.
    pub fn cut_power_as(&self, cut: Option<Cut>, random: &mut ChaCha12Rng) {
        {
            let mut state = self.state();
            state.cut_after = None;
            state.busy_until = None;
            state.platter.cut_power(cut, random);
        }
        self.end_mounts(|_| true);
    }

    /// Lose power in the middle of work: `operations` more are done, the next is done halfway, or not at all, and its
    /// caller and all later ones see a closed drive. The simulator learns by [`SimDrive::power_lost`] and kills the machine.
    pub fn cut_power_after(&self, operations: u64, random: &mut ChaCha12Rng) {
        self.state().cut_after = Some((operations, branch(random)));
    }

    /// Wait until [`SimDrive::cut_power_after`] has struck.
    pub async fn power_lost(&self) {
        loop {
            let notice = self.body.changed.notified();
            if self.state().was_cut {
                return;
            }
            notice.await;
        }
    }

    /// The drive is gone (pulled, or its folder deleted), or back: all operations fail meanwhile.
    pub fn set_gone(&self, reason: Option<&str>) {
        {
            let mut state = self.state();
            if !state.failed_for_good {
                state.gone = reason.map(str::to_string);
            }
        }
        self.body.changed.notify_waiters();
    }

    /// The drive fails for good: it is gone and will not be back, and nothing that it held can be read again.
    pub fn fail_for_good(&self, reason: &str) {
        self.set_gone(Some(reason));
        self.state().failed_for_good = true;
    }

    /// Whether it has failed for good.
    pub fn has_failed(&self) -> bool {
        self.state().failed_for_good
    }

    /// Why it is gone, if it is.
    pub fn gone(&self) -> Option<String> {
        self.state().gone.clone()
    }

    /// Operations take `factor` times as long; 1 is healthy.
    pub fn set_slow(&self, factor: u32) {
        self.state().slow = factor.max(1);
    }

    /// Syncs that begin or are under way do not come back, and make nothing durable, until this is undone. Each holds one of
    /// the drive's few threads, so that soon nothing of the drive answers.
    pub fn set_stuck(&self, stuck: bool) {
        self.state().stuck = stuck;
        self.body.changed.notify_waiters();
    }

    /// No new blocks are to be had, or again.
    pub fn set_full(&self, full: bool) {
        self.set_free(full.then_some(0));
    }

    /// At most `bytes` more are to be had, so that space runs out in the middle of a write; `None` lifts that.
    pub fn set_free(&self, bytes: Option<u64>) {
        self.state().platter.free_max = bytes.map(|bytes| bytes / super::pages::PAGE_BYTES);
    }

    /// Writes fail with EIO, or work again.
    pub fn set_refuses_writes(&self, refuses: bool) {
        self.state().refuses_writes = refuses;
    }

    /// The next sync of a file fails, and drops some of what it should have made durable.
    pub fn fail_next_sync(&self, random: &mut ChaCha12Rng) {
        self.state().next.failing_sync = Some(branch(random));
    }

    /// The next write in `folder` ("" is the whole drive) is reported as done, and synced, but the old bytes stay.
    pub fn lose_next_write(&self, folder: &str) {
        self.state().next.lost_write = Some(folder.to_string());
    }

    /// The next write in `folder` ("" is the whole drive) is reported as done but lands in another place of that folder. Both
    /// places are wrong then; where there is no other place, the write is lost.
    pub fn misdirect_next_write(&self, folder: &str, random: &mut ChaCha12Rng) {
        self.state().next.misdirected_write = Some((folder.to_string(), branch(random)));
    }

    /// The next read in `folder` ("" is the whole drive) gives the bytes of another place of that folder, once.
    pub fn misdirect_next_read(&self, folder: &str, random: &mut ChaCha12Rng) {
        self.state().next.misdirected_read = Some((folder.to_string(), branch(random)));
    }

    /// Whether a fault that was to strike once has not struck yet.
    pub fn awaits_fault(&self) -> bool {
        let state = self.state();
        let Next { failing_sync, lost_write, misdirected_write, misdirected_read } = &state.next;
        failing_sync.is_some() || lost_write.is_some() || misdirected_write.is_some() || misdirected_read.is_some()
    }

    /// Flip a bit in each of `bytes` bytes of file `name` as they are shown, until they are written again.
    pub fn rot(&self, name: &str, offset: u64, bytes: u64, random: &mut ChaCha12Rng) -> Result<()> {
        self.state().platter.rot(name, offset, bytes, random).map_err(|fault| self.error(name, fault))
    }

    /// Make the sectors of this range of file `name` unreadable (EIO), until they are written again.
    pub fn damage(&self, name: &str, offset: u64, bytes: u64) -> Result<()> {
        self.state().platter.damage(name, offset, bytes).map_err(|fault| self.error(name, fault))
    }

    /// All files with their folders, sorted by name.
    pub fn files(&self) -> Vec<Entry> {
        self.state().platter.entries()
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Syncs of files and folders so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Processes that have it mounted.
    pub fn mounts(&self) -> usize {
        self.state().live.len()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.body.state.lock().expect("nothing panics under this lock but a broken simulation")
    }

    pub(super) fn error(&self, name: &str, fault: Fault) -> Error {
        let (drive, name) = (self.label().to_string(), name.to_string());
        match fault {
            Fault::NotFound => Error::NotFound { drive, name },
            Fault::Exists => Error::Exists { drive, name },
            Fault::Full => Error::Full { drive },
            Fault::Io { offset, reason } => Error::Io { drive, name, offset, reason: reason.to_string() },
        }
    }
}

impl State {
    pub fn is_live(&self, mount: u64) -> bool {
        self.live.contains_key(&mount)
    }

    /// Queue an operation; returns when the drive will have served it. `None` outside of a simulation, where time stands.
    pub fn charge(&mut self, kind: Kind, bytes: u64) -> Option<Instant> {
        self.operations += 1;
        self.syncs += u64::from(kind == Kind::Sync);
        let now = super::clock::true_now()?;
        let cost = match kind {
            Kind::Read => READ_COST + Duration::from_nanos(bytes * BYTE_NANOS),
            Kind::Write => WRITE_COST + Duration::from_nanos(bytes * BYTE_NANOS),
            Kind::Sync => SYNC_COST,
            Kind::Look | Kind::Alter => NAME_COST,
        };
        let served = self.busy_until.map_or(now, |until| until.max(now)) + cost * self.slow;
        self.busy_until = Some(served);
        Some(served)
    }

    /// What decides about the unsynced rest, if power is lost at this operation.
    pub fn loses_power_now(&mut self) -> Option<ChaCha12Rng> {
        match &mut self.cut_after {
            Some((left, _)) if *left > 0 => {
                *left -= 1;
                None
            }
            cut => {
                let (_, random) = cut.take()?;
                self.was_cut = true;
                Some(random)
            }
        }
    }
}
