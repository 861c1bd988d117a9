//! [`SimDrive`]: a drive that outlives the processes that use it; [`Disk`] handles onto it that do not.
//!
//! Invariants: a handle works only in the incarnation that it was mounted in, so that destructors of a killed process,
//! which run after the kill, write nothing; every operation is an event of the event hash; the cost of operations adds
//! up on the drive, so that a busy drive is slow for everybody.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::platter::{Cut, Fault, Platter};
use crate::disk::{Disk, DiskFile, Entry, Error, Open, Result, Space, is_sound_name};
use crate::time::{Instant, now};

/// Simulated time of operations, before bytes count.
const READ_COST: Duration = Duration::from_micros(80);
const WRITE_COST: Duration = Duration::from_micros(10);
const SYNC_COST: Duration = Duration::from_micros(400);
const NAME_COST: Duration = Duration::from_micros(20);
/// Simulated time of a byte: one gigabyte each second.
const BYTE_NANOS: u64 = 1;
/// Costs below this are kept for later: simulated sleep has a floor of a millisecond.
const COST_MIN: Duration = Duration::from_micros(250);

/// A simulated drive; cheap to clone. The simulator holds it and hands [`SimDrive::mount`]s to its nodes.
#[derive(Clone)]
pub struct SimDrive {
    body: Arc<Body>,
}

struct Body {
    label: String,
    state: Mutex<State>,
    power_lost: tokio::sync::Notify,
}

struct State {
    platter: Platter,
    /// Raised by each mount and each end of a process: older handles fail.
    incarnation: u64,
    gone: Option<String>,
    slow: u32,
    failing_sync: Option<ChaCha12Rng>,
    refuses_writes: bool,
    /// Operations until power is lost, and what decides about the rest.
    cut_after: Option<(u64, ChaCha12Rng)>,
    was_cut: bool,
    cost: Duration,
    busy_until: Option<Instant>,
    operations: u64,
    syncs: u64,
}

impl SimDrive {
    /// An empty drive of `capacity` bytes.
    pub fn new(label: &str, capacity: u64) -> SimDrive {
        SimDrive::holding(label, Platter::new(capacity))
    }

    fn holding(label: &str, platter: Platter) -> SimDrive {
        let state = State {
            platter,
            incarnation: 0,
            gone: None,
            slow: 1,
            failing_sync: None,
            refuses_writes: false,
            cut_after: None,
            was_cut: false,
            cost: Duration::ZERO,
            busy_until: None,
            operations: 0,
            syncs: 0,
        };
        SimDrive { body: Arc::new(Body { label: label.to_string(), state: Mutex::new(state), power_lost: tokio::sync::Notify::new() }) }
    }

    /// The drive as people know it.
    pub fn label(&self) -> &str {
        &self.body.label
    }

    /// Open it for a process. Handles of earlier mounts fail from now on.
    pub fn mount(&self) -> Arc<dyn Disk> {
        let mut state = self.state();
        state.incarnation += 1;
        state.platter.close_all();
        state.was_cut = false;
        Arc::new(SimDisk { mount: self.handle(Life::Incarnation(state.incarnation)) })
    }

    /// Look at what it truly holds, without cost, events or faults. Changes are refused.
    pub fn inspect(&self) -> Arc<dyn Disk> {
        Arc::new(SimDisk { mount: self.handle(Life::Inspection) })
    }

    fn handle(&self, life: Life) -> Arc<Mount> {
        Arc::new(Mount { drive: self.clone(), life, closed: Mutex::new(None) })
    }

    /// A drive that holds now what this one holds: an old copy that may be brought back.
    pub fn copy(&self, label: &str) -> SimDrive {
        SimDrive::holding(label, self.state().platter.clone())
    }

    /// The process that had it mounted is no more; what it wrote stays, synced or not.
    pub fn process_ended(&self) {
        let mut state = self.state();
        state.incarnation += 1;
        state.platter.close_all();
    }

    /// Power is lost: each unsynced sector and each unsynced change of a folder is kept or dropped.
    pub fn cut_power(&self, random: &mut ChaCha12Rng) {
        self.cut_power_as(None, random);
    }

    /// As [`SimDrive::cut_power`], with the say of how much is kept.
    pub fn cut_power_as(&self, cut: Option<Cut>, random: &mut ChaCha12Rng) {
        let mut state = self.state();
        state.incarnation += 1;
        state.cut_after = None;
        state.platter.cut_power(cut, random);
    }

    /// Lose power in the middle of work: `operations` more are done, the next is done halfway, or not at all, and its
    /// caller and all later ones see a closed drive. The simulator learns by [`SimDrive::power_lost`] and kills the machine.
    pub fn cut_power_after(&self, operations: u64, random: &mut ChaCha12Rng) {
        self.state().cut_after = Some((operations, ChaCha12Rng::from_seed(random.random())));
    }

    /// Wait until [`SimDrive::cut_power_after`] has struck.
    pub async fn power_lost(&self) {
        loop {
            let notice = self.body.power_lost.notified();
            if self.state().was_cut {
                return;
            }
            notice.await;
        }
    }

    /// The drive is gone (pulled, or its folder deleted), or back: all operations fail meanwhile.
    pub fn set_gone(&self, reason: Option<&str>) {
        self.state().gone = reason.map(str::to_string);
    }

    /// Operations take `factor` times as long; 1 is healthy.
    pub fn set_slow(&self, factor: u32) {
        self.state().slow = factor.max(1);
    }

    /// No new blocks are to be had, or again.
    pub fn set_full(&self, full: bool) {
        self.state().platter.full = full;
    }

    /// Writes fail with EIO, or work again.
    pub fn set_refuses_writes(&self, refuses: bool) {
        self.state().refuses_writes = refuses;
    }

    /// The next sync of a file fails, and drops some of what it should have made durable.
    pub fn fail_next_sync(&self, random: &mut ChaCha12Rng) {
        self.state().failing_sync = Some(ChaCha12Rng::from_seed(random.random()));
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
        self.state().platter.names()
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Syncs of files and folders so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.body.state.lock().expect("nothing panics under this lock but a broken simulation")
    }

    fn error(&self, name: &str, fault: Fault) -> Error {
        let (drive, name) = (self.label().to_string(), name.to_string());
        match fault {
            Fault::NotFound => Error::NotFound { drive, name },
            Fault::Exists => Error::Exists { drive, name },
            Fault::Full => Error::Full { drive },
            Fault::Io { offset, reason } => Error::Io { drive, name, offset, reason: reason.to_string() },
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Life {
    Incarnation(u64),
    /// Of the simulator, which looks and changes nothing.
    Inspection,
}

struct Mount {
    drive: SimDrive,
    life: Life,
    closed: Mutex<Option<String>>,
}

/// What an operation is, for its cost, its faults and the event hash.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Read,
    Write,
    Sync,
    /// Reads names or lengths.
    Look,
    /// Changes names or lengths.
    Alter,
}

struct Operation<'a> {
    kind: Kind,
    what: &'static str,
    name: &'a str,
    offset: u64,
    bytes: u64,
    content: &'a [u8],
}

impl<'a> Operation<'a> {
    fn new(kind: Kind, what: &'static str, name: &'a str) -> Operation<'a> {
        Operation { kind, what, name, offset: 0, bytes: 0, content: &[] }
    }

    fn at(self, offset: u64, bytes: u64) -> Operation<'a> {
        Operation { offset, bytes, ..self }
    }
}

impl Mount {
    fn closed(&self) -> Option<String> {
        self.closed.lock().expect("nothing panics under this lock").clone()
    }

    fn close(&self, reason: &str) {
        self.closed.lock().expect("nothing panics under this lock").get_or_insert_with(|| reason.to_string());
    }

    fn refuse<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::Closed { drive: self.drive.label().to_string(), reason: reason.into() })
    }

    /// Whether operations of this mount reach the drive.
    fn check(&self, state: &State) -> Result<()> {
        if let Some(reason) = self.closed() {
            return self.refuse(reason);
        }
        match self.life {
            Life::Incarnation(incarnation) if incarnation != state.incarnation => self.refuse("its process has ended"),
            Life::Incarnation(_) => state.gone.as_ref().map_or(Ok(()), |reason| self.refuse(reason.clone())),
            Life::Inspection => Ok(()),
        }
    }

    /// Do one operation, with all that belongs to it.
    fn act<T>(&self, operation: Operation<'_>, work: impl FnOnce(&mut Platter) -> std::result::Result<T, Fault>) -> Result<T> {
        let mut state = self.drive.state();
        self.check(&state)?;
        if !operation.name.is_empty() && !is_sound_name(operation.name) {
            let fault = Fault::Io { offset: 0, reason: "not a name that a drive may have" };
            return Err(self.drive.error(operation.name, fault));
        }
        let changes = matches!(operation.kind, Kind::Write | Kind::Sync | Kind::Alter);
        if self.life == Life::Inspection {
            if changes {
                return self.refuse("it is only looked at");
            }
            return work(&mut state.platter).map_err(|fault| self.drive.error(operation.name, fault));
        }
        self.note(&operation);
        state.charge(&operation);
        if state.loses_power_now() {
            // Of a sync nothing is certain; anything else is done, but not durable.
            if operation.kind != Kind::Sync {
                let _ = work(&mut state.platter);
            }
            let (_, mut random) = state.cut_after.take().expect("it has just struck");
            state.incarnation += 1;
            state.platter.cut_power(None, &mut random);
            state.was_cut = true;
            self.drive.body.power_lost.notify_one();
            return self.refuse("power was lost");
        }
        if changes && operation.kind != Kind::Sync && state.refuses_writes {
            let fault = Fault::Io { offset: operation.offset, reason: "the drive refuses writes" };
            return Err(self.drive.error(operation.name, fault));
        }
        work(&mut state.platter).map_err(|fault| self.drive.error(operation.name, fault))
    }

    fn note(&self, operation: &Operation<'_>) {
        let content = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, operation.content);
        let (label, name) = (self.drive.label(), operation.name);
        let mut event = Vec::with_capacity(26 + label.len() + name.len());
        for text in [label, name] {
            event.extend_from_slice(text.as_bytes());
            event.push(0);
        }
        for number in [operation.offset, operation.bytes, content] {
            event.extend_from_slice(&number.to_le_bytes());
        }
        super::note(operation.what, &event);
    }
}

impl State {
    fn charge(&mut self, operation: &Operation<'_>) {
        let fixed = match operation.kind {
            Kind::Read => READ_COST,
            Kind::Write => WRITE_COST,
            Kind::Sync => SYNC_COST,
            Kind::Look | Kind::Alter => NAME_COST,
        };
        let moved = if matches!(operation.kind, Kind::Read | Kind::Write) { operation.bytes } else { 0 };
        self.cost += (fixed + Duration::from_nanos(moved * BYTE_NANOS)) * self.slow;
        self.operations += 1;
        self.syncs += u64::from(operation.kind == Kind::Sync);
    }

    fn loses_power_now(&mut self) -> bool {
        match &mut self.cut_after {
            None => false,
            Some((0, _)) => true,
            Some((left, _)) => {
                *left -= 1;
                false
            }
        }
    }
}

struct SimDisk {
    mount: Arc<Mount>,
}

impl Disk for SimDisk {
    fn label(&self) -> &str {
        self.mount.drive.label()
    }

    fn open(&self, name: &str, how: Open) -> Result<Arc<dyn DiskFile>> {
        let file = if self.mount.life == Life::Inspection {
            // Without a handle: the simulator holds no file open between two looks.
            self.mount.act(Operation::new(Kind::Look, "disk open", name), |platter| platter.find(name))?
        } else {
            self.mount.act(Operation::new(Kind::Alter, "disk open", name), |platter| platter.open(name, how))?
        };
        Ok(Arc::new(SimFile { mount: self.mount.clone(), name: name.to_string(), file }))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.mount.act(Operation::new(Kind::Look, "disk list", folder), |platter| Ok(platter.list(folder)))
    }

    fn create_folder(&self, folder: &str) -> Result<()> {
        self.mount.act(Operation::new(Kind::Alter, "disk create folder", folder), |platter| platter.create_folder(folder))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        if !is_sound_name(to) {
            let fault = Fault::Io { offset: 0, reason: "not a name that a drive may have" };
            return Err(self.mount.drive.error(to, fault));
        }
        let operation = Operation { content: to.as_bytes(), ..Operation::new(Kind::Alter, "disk rename", from) };
        self.mount.act(operation, |platter| platter.rename(from, to))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.mount.act(Operation::new(Kind::Alter, "disk remove", name), |platter| platter.remove(name))
    }

    fn sync_dir(&self, folder: &str) -> Result<()> {
        self.mount.act(Operation::new(Kind::Sync, "disk sync folder", folder), |platter| platter.sync_dir(folder))
    }

    fn space(&self) -> Result<Space> {
        let (total, free) = self.mount.act(Operation::new(Kind::Look, "disk space", ""), |platter| Ok(platter.space()))?;
        Ok(Space { total, free })
    }

    fn watch(&self, name: &str) -> Result<()> {
        self.mount.act(Operation::new(Kind::Look, "disk watch", name), |platter| platter.find(name).map(|_| ()))
    }

    fn verify(&self) -> Result<()> {
        let found = self.mount.check(&self.mount.drive.state());
        if let Err(Error::Closed { reason, .. }) = &found {
            // As with a real folder: what is once found gone stays closed for this process.
            self.mount.close(reason);
        }
        found
    }

    fn close(&self, reason: &str) {
        self.mount.close(reason);
    }

    fn closed(&self) -> Option<String> {
        self.mount.closed()
    }

    fn submit(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    fn take_cost(&self) -> Duration {
        let mut state = self.mount.drive.state();
        let cost = std::mem::take(&mut state.cost);
        if cost.is_zero() {
            return Duration::ZERO;
        }
        let now = now();
        let busy_until = state.busy_until.map_or(now, |until| until.max(now)) + cost;
        state.busy_until = Some(busy_until);
        let wait = busy_until - now;
        if wait < COST_MIN { Duration::ZERO } else { wait }
    }
}

struct SimFile {
    mount: Arc<Mount>,
    name: String,
    file: u64,
}

impl SimFile {
    fn operation(&self, kind: Kind, what: &'static str) -> Operation<'_> {
        Operation::new(kind, what, &self.name)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<()> {
        let truth = self.mount.life == Life::Inspection;
        let operation = self.operation(Kind::Read, "disk read").at(offset, target.len() as u64);
        self.mount.act(operation, |platter| platter.read(self.file, offset, target, truth))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let operation = Operation { content: bytes, ..self.operation(Kind::Write, "disk write").at(offset, bytes.len() as u64) };
        self.mount.act(operation, |platter| platter.write(self.file, offset, bytes))
    }

    fn len(&self) -> Result<u64> {
        self.mount.act(self.operation(Kind::Look, "disk length"), |platter| Ok(platter.length(self.file)))
    }

    fn set_len(&self, bytes: u64) -> Result<()> {
        let operation = self.operation(Kind::Alter, "disk set length").at(bytes, 0);
        self.mount.act(operation, |platter| {
            platter.set_length(self.file, bytes);
            Ok(())
        })
    }

    fn sync(&self) -> Result<()> {
        let failing = {
            let mut state = self.mount.drive.state();
            self.mount.check(&state)?;
            if self.mount.life == Life::Inspection { None } else { state.failing_sync.take() }
        };
        let outcome = self.mount.act(self.operation(Kind::Sync, "disk sync"), |platter| match failing {
            None => {
                platter.sync(self.file);
                Ok(())
            }
            Some(mut random) => {
                platter.fail_sync(self.file, &mut random);
                Err(Fault::Io { offset: 0, reason: "sync failed" })
            }
        });
        if let Err(Error::Io { reason, .. }) = &outcome {
            self.mount.close(&format!("sync of {} failed: {reason}", self.name));
        }
        outcome
    }

    fn allocate(&self, bytes: u64) -> Result<()> {
        let operation = self.operation(Kind::Alter, "disk allocate").at(0, bytes);
        self.mount.act(operation, |platter| platter.allocate(self.file, bytes))
    }

    fn punch(&self, offset: u64, bytes: u64) -> Result<()> {
        let operation = self.operation(Kind::Alter, "disk punch").at(offset, bytes);
        self.mount.act(operation, |platter| {
            platter.punch(self.file, offset, bytes);
            Ok(())
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.mount.drive.state();
        // Handles of an earlier incarnation were closed with it.
        if self.mount.life == Life::Incarnation(state.incarnation) {
            state.platter.close(self.file);
        }
    }
}
