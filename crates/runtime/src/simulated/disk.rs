//! A simulated drive as a node sees it: [`Disk`] and [`DiskFile`] on a [`SimDrive`].
//!
//! Invariants: every operation of a node is an event of the event hash; an operation holds up its job, and only its job, until
//! the drive has served it; a sync makes durable what was written before it began, when it ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::content::View;
use super::drive::{SimDrive, State};
use super::job::{self, Job};
use super::platter::{Fault, is_within};
use crate::disk::{Disk, DiskFile, Entry, Error, Lane, Open, Result, Space, is_sound_name};

/// Waits below this are left to the operations that follow: each costs the simulator a timer.
const WAIT_MIN: Duration = Duration::from_micros(250);

type Work = Box<dyn FnOnce() + Send>;
type Outcome<T> = std::result::Result<T, Fault>;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Life {
    /// Of a process.
    Mounted(u64),
    /// Of the simulator, which looks and changes nothing.
    Looking(View),
}

pub(super) struct Mount {
    drive: SimDrive,
    life: Life,
    closed: Mutex<Option<String>>,
    /// By lane.
    threads: Mutex<[Threads; Lane::ALL.len()]>,
}

/// The jobs of a mount's lane: as many as it has threads are under way, the others wait.
#[derive(Default)]
struct Threads {
    busy: usize,
    waiting: VecDeque<Work>,
}

/// What an operation is, for its cost, its faults and the event hash.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
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
    pub fn new(drive: &SimDrive, life: Life) -> Arc<Mount> {
        Arc::new(Mount { drive: drive.clone(), life, closed: Mutex::default(), threads: Mutex::default() })
    }

    fn closed(&self) -> Option<String> {
        self.closed.lock().expect("nothing panics under this lock").clone()
    }

    fn close(&self, reason: &str) {
        self.closed.lock().expect("nothing panics under this lock").get_or_insert_with(|| reason.to_string());
    }

    fn refuse<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::Closed { drive: self.drive.label().to_string(), reason: reason.into() })
    }

    fn error(&self, name: &str, fault: Fault) -> Error {
        self.drive.error(name, fault)
    }

    /// The view of the simulator, if it is its.
    fn looks(&self) -> Option<View> {
        if let Life::Looking(view) = self.life { Some(view) } else { None }
    }

    fn view(&self) -> View {
        self.looks().unwrap_or(View::Shown)
    }

    fn number(&self) -> u64 {
        if let Life::Mounted(number) = self.life { number } else { 0 }
    }

    /// Whether operations of this mount reach the drive.
    fn check(&self, state: &State) -> Result<()> {
        let Life::Mounted(number) = self.life else { return Ok(()) };
        if let Some(reason) = self.closed() {
            return self.refuse(reason);
        }
        if !state.is_live(number) {
            return self.refuse("its process has ended, or another drive is in its place");
        }
        state.gone.as_ref().map_or(Ok(()), |reason| self.refuse(reason.clone()))
    }

    /// Begin an operation, with all that belongs to it; returns when the drive will have served it.
    fn begin(&self, state: &mut State, operation: &Operation<'_>) -> Result<Option<Instant>> {
        self.check(state)?;
        if !operation.name.is_empty() && !is_sound_name(operation.name) {
            return Err(self.error(operation.name, Fault::Io { offset: 0, reason: "not a name that a drive may have" }));
        }
        let changes = matches!(operation.kind, Kind::Write | Kind::Sync | Kind::Alter);
        if self.looks().is_some() {
            return if changes { self.refuse("it is only looked at") } else { Ok(None) };
        }
        self.note(operation);
        let served = state.charge(operation.kind, operation.bytes);
        if changes && operation.kind != Kind::Sync && state.refuses_writes {
            return Err(self.error(operation.name, Fault::Io { offset: operation.offset, reason: "the drive refuses writes" }));
        }
        Ok(served)
    }

    /// Do one operation that is no sync.
    fn act<T>(&self, operation: Operation<'_>, work: impl FnOnce(&mut State) -> Outcome<T>) -> Result<T> {
        let (outcome, served, cut) = {
            let mut state = self.drive.state();
            let served = self.begin(&mut state, &operation)?;
            let cut = if self.looks().is_none() { state.loses_power_now() } else { None };
            // At a loss of power it is done, but not durable.
            (work(&mut state), served, cut)
        };
        if let Some(mut random) = cut {
            self.drive.cut_power(&mut random);
            return self.refuse("power was lost");
        }
        wait_until(served);
        outcome.map_err(|fault| self.error(operation.name, fault))
    }

    /// Do a sync: what `begin` saw is durable after `end`, which comes when the drive has served it, and not while it is stuck.
    fn sync<S>(
        &self,
        operation: Operation<'_>,
        begin: impl FnOnce(&mut State) -> Outcome<S>,
        end: impl FnOnce(&mut State, S) -> Outcome<()>,
    ) -> Result<()> {
        let (begun, served, cut) = {
            let mut state = self.drive.state();
            let served = self.begin(&mut state, &operation)?;
            let cut = state.loses_power_now();
            (begin(&mut state).map_err(|fault| self.error(operation.name, fault))?, served, cut)
        };
        if let Some(mut random) = cut {
            // Of a sync nothing is certain then.
            self.drive.cut_power(&mut random);
            return self.refuse("power was lost");
        }
        wait_until(served);
        if self.is_stuck() {
            let drive = self.drive.clone();
            let number = self.number();
            let freed = async move {
                loop {
                    let notice = drive.body.changed.notified();
                    if !holds_up_syncs(&drive.state(), number) {
                        return;
                    }
                    notice.await;
                }
            };
            if !job::wait(freed) {
                // It would never come back, and neither would the thread that runs everything here.
                self.close("a sync outside of a job of the drive met a stuck drive");
            }
        }
        let mut state = self.drive.state();
        self.check(&state)?;
        end(&mut state, begun).map_err(|fault| self.error(operation.name, fault))
    }

    fn is_stuck(&self) -> bool {
        holds_up_syncs(&self.drive.state(), self.number())
    }

    fn note(&self, operation: &Operation<'_>) {
        let checksum = |bytes: &[u8]| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
        let Operation { what, name, offset, bytes, content, .. } = operation;
        let numbers = [checksum(self.drive.label().as_bytes()), checksum(name.as_bytes()), *offset, *bytes, checksum(content)];
        let mut event = [0; 40];
        for (place, number) in event.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        super::note(what, &event);
    }

    /// Its tasks are being killed: jobs that have not begun never will.
    pub fn abandon_jobs(&self) {
        let waiting = self.threads().each_mut().map(|threads| std::mem::take(&mut threads.waiting));
        drop(waiting);
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, [Threads; Lane::ALL.len()]> {
        self.threads.lock().expect("nothing panics under this lock")
    }

    /// Work off `work` and what waits for its thread.
    fn run(self: &Arc<Mount>, lane: Lane, work: Work) {
        let mut next = Some(work);
        while let Some(work) = next {
            let mut job = Job::new(work);
            if let Some(wait) = job.go_on() {
                let mount = self.clone();
                // Ends with its machine: then the job never goes on, as a thread in a system call when its process is killed.
                madsim::task::spawn_local(async move {
                    let mut wait = wait;
                    loop {
                        wait.await;
                        match job.go_on() {
                            Some(longer) => wait = longer,
                            None => break,
                        }
                    }
                    if let Some(work) = mount.next_job(lane) {
                        mount.run(lane, work);
                    }
                });
                return;
            }
            next = self.next_job(lane);
        }
    }

    /// What a thread that has become free does next.
    fn next_job(&self, lane: Lane) -> Option<Work> {
        let threads = &mut self.threads()[lane as usize];
        let next = threads.waiting.pop_front();
        threads.busy -= usize::from(next.is_none());
        next
    }
}

/// Whether syncs of a mount do not come back. Those of a drive that is pulled, or of a process that has ended, fail.
fn holds_up_syncs(state: &State, mount: u64) -> bool {
    state.stuck && state.gone.is_none() && state.is_live(mount)
}

fn wait_until(served: Option<Instant>) {
    let (Some(served), Some(now)) = (served, super::clock::true_now()) else { return };
    if served.saturating_duration_since(now) >= WAIT_MIN {
        job::wait(super::clock::true_sleep_until(served));
    }
}

pub(super) struct SimDisk {
    pub mount: Arc<Mount>,
}

impl Disk for SimDisk {
    fn label(&self) -> &str {
        self.mount.drive.label()
    }

    fn open(&self, name: &str, how: Open) -> Result<Arc<dyn DiskFile>> {
        let mount = &self.mount;
        let file = match mount.looks() {
            // Without a handle: the simulator holds no file open between two looks.
            Some(view) => mount.act(Operation::new(Kind::Look, "disk open", name), |state| state.platter.find(name, view))?,
            None => {
                let open = |state: &mut State| state.platter.open(name, how, mount.number());
                mount.act(Operation::new(Kind::Alter, "disk open", name), open)?
            }
        };
        Ok(Arc::new(SimFile { mount: mount.clone(), name: name.to_string(), file }))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let view = self.mount.view();
        self.mount.act(Operation::new(Kind::Look, "disk list", folder), |state| Ok(state.platter.list(folder, view)))
    }

    fn create_folder(&self, folder: &str) -> Result<()> {
        self.mount.act(Operation::new(Kind::Alter, "disk create folder", folder), |state| state.platter.create_folder(folder))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        if !is_sound_name(to) {
            return Err(self.mount.error(to, Fault::Io { offset: 0, reason: "not a name that a drive may have" }));
        }
        let operation = Operation { content: to.as_bytes(), ..Operation::new(Kind::Alter, "disk rename", from) };
        self.mount.act(operation, |state| state.platter.rename(from, to))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.mount.act(Operation::new(Kind::Alter, "disk remove", name), |state| state.platter.remove(name))
    }

    fn sync_dir(&self, folder: &str) -> Result<()> {
        let begin = |state: &mut State| state.platter.begin_sync_dir(folder);
        let end = |state: &mut State, last| {
            state.platter.end_sync_dir(folder, last);
            Ok(())
        };
        self.mount.sync(Operation::new(Kind::Sync, "disk sync folder", folder), begin, end)
    }

    fn space(&self) -> Result<Space> {
        let (total, free) = self.mount.act(Operation::new(Kind::Look, "disk space", ""), |state| Ok(state.platter.space()))?;
        Ok(Space { total, free })
    }

    fn watch(&self, name: &str) -> Result<()> {
        let view = self.mount.view();
        self.mount.act(Operation::new(Kind::Look, "disk watch", name), |state| state.platter.find(name, view).map(|_| ()))
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

    fn submit(&self, lane: Lane, job: Work) {
        if !super::present::is_simulated() {
            // No time passes, so nothing waits.
            return job();
        }
        {
            let threads = &mut self.mount.threads()[lane as usize];
            if threads.busy == lane.threads() {
                threads.waiting.push_back(job);
                return;
            }
            threads.busy += 1;
        }
        self.mount.run(lane, job);
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
        let (view, file) = (self.mount.view(), self.file);
        let operation = self.operation(Kind::Read, "disk read").at(offset, target.len() as u64);
        self.mount.act(operation, |state| {
            let next = &mut state.next.misdirected_read;
            if view == View::Shown
                && let Some((folder, mut random)) = next.take_if(|(folder, _)| is_within(&self.name, folder))
                && let Some((other, at)) = state.platter.other_place(file, offset, target.len() as u64, &folder, &mut random)
            {
                return state.platter.read(other, at, target, view);
            }
            state.platter.read(file, offset, target, view)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file;
        let operation = Operation { content: bytes, ..self.operation(Kind::Write, "disk write").at(offset, bytes.len() as u64) };
        self.mount.act(operation, |state| {
            let State { platter, next, .. } = state;
            if next.lost_write.take_if(|folder| is_within(&self.name, folder)).is_some() {
                return platter.lose_write(file, offset, bytes);
            }
            match next.misdirected_write.take_if(|(folder, _)| is_within(&self.name, folder)) {
                Some((folder, mut random)) => platter.misdirect_write(file, offset, bytes, &folder, &mut random),
                None => platter.write(file, offset, bytes),
            }
        })
    }

    fn len(&self) -> Result<u64> {
        let view = self.mount.view();
        self.mount.act(self.operation(Kind::Look, "disk length"), |state| Ok(state.platter.length(self.file, view)))
    }

    fn set_len(&self, bytes: u64) -> Result<()> {
        let operation = self.operation(Kind::Alter, "disk set length").at(bytes, 0);
        self.mount.act(operation, |state| {
            state.platter.set_length(self.file, bytes);
            Ok(())
        })
    }

    fn sync(&self) -> Result<()> {
        let file = self.file;
        let begin = |state: &mut State| Ok((state.platter.begin_sync(file), state.next.failing_sync.take()));
        let outcome = self.mount.sync(self.operation(Kind::Sync, "disk sync"), begin, |state, (syncing, failing)| match failing {
            None => state.platter.end_sync(file, syncing),
            Some(mut random) => {
                state.platter.fail_sync(file, &mut random);
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
        self.mount.act(operation, |state| state.platter.allocate(self.file, bytes))
    }

    fn punch(&self, offset: u64, bytes: u64) -> Result<()> {
        let operation = self.operation(Kind::Alter, "disk punch").at(offset, bytes);
        self.mount.act(operation, |state| {
            state.platter.punch(self.file, offset, bytes);
            Ok(())
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let Life::Mounted(number) = self.mount.life else { return };
        let mut state = self.mount.drive.state();
        // Handles of a mount that is no more were closed with it.
        if state.is_live(number) {
            state.platter.close(self.file, number);
        }
    }
}
