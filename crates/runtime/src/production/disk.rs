//! [`FolderDisk`]: a drive as a folder of real files.
//!
//! A lock file keeps a second process out. The drive remembers which file system object its folder was; [`Disk::verify`]
//! compares it with what the path shows, so that a removed, replaced or unmounted folder closes the drive instead of
//! being written to unseen.

use crate::disk::{Disk, DiskFile, Entry, Error, Open, Result, Space};
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that work for one drive: enough that a sync does not hold up reads.
const THREADS: usize = 4;
/// Held exclusively by the process that has the drive open.
const LOCK: &str = "lock";

static SYNCS: AtomicU64 = AtomicU64::new(0);

/// fdatasyncs and directory syncs of this process so far.
pub(crate) fn syncs() -> u64 {
    SYNCS.load(Ordering::Relaxed)
}

/// Open the folder at `path` as a drive. Fails if another process has it open.
pub fn open_folder(path: &Path) -> Result<Arc<dyn Disk>> {
    let label = path.display().to_string();
    let failed = |name: &str, error: &io::Error| translate(&label, name, 0, error);
    let folder = File::open(path).map_err(|error| failed("", &error))?;
    let metadata = folder.metadata().map_err(|error| failed("", &error))?;
    if !metadata.is_dir() {
        return Err(Error::Closed { drive: label, reason: "is not a folder".to_string() });
    }
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK))
        .map_err(|error| failed(LOCK, &error))?;
    if lock.try_lock().is_err() {
        return Err(Error::Closed { drive: label, reason: "another process has it open".to_string() });
    }
    let state = Arc::new(State {
        label,
        path: path.to_path_buf(),
        identity: (metadata.dev(), metadata.ino()),
        folder,
        closed: AtomicBool::new(false),
        reason: Mutex::new(None),
        watched: Mutex::new(BTreeMap::new()),
    });
    let threads = Arc::new(Threads { queue: Mutex::new(Queue { jobs: VecDeque::new(), ended: false }), wake: Condvar::new() });
    Ok(Arc::new(FolderDisk { state, threads, running: Mutex::new(Vec::new()), _lock: lock }))
}

struct FolderDisk {
    state: Arc<State>,
    threads: Arc<Threads>,
    /// Started with the first job, joined when the drive is dropped.
    running: Mutex<Vec<JoinHandle<()>>>,
    /// Unlocked when closed by the system.
    _lock: File,
}

struct State {
    label: String,
    path: PathBuf,
    /// Device and inode of the folder when it was opened.
    identity: (u64, u64),
    folder: File,
    closed: AtomicBool,
    reason: Mutex<Option<String>>,
    /// Files whose path must keep showing the object that was opened: superblocks.
    watched: Mutex<BTreeMap<String, (u64, u64)>>,
}

type Job = Box<dyn FnOnce() + Send>;

struct Threads {
    queue: Mutex<Queue>,
    wake: Condvar,
}

struct Queue {
    jobs: VecDeque<Job>,
    ended: bool,
}

/// A lock that is never poisoned for long: what it guards is valid between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl State {
    fn check(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            let reason = lock(&self.reason).clone().unwrap_or_default();
            return Err(Error::Closed { drive: self.label.clone(), reason });
        }
        Ok(())
    }

    fn close(&self, reason: &str) {
        let mut kept = lock(&self.reason);
        if kept.is_none() {
            *kept = Some(reason.to_string());
            self.closed.store(true, Ordering::Release);
        }
    }

    fn failed(&self, name: &str, offset: u64, error: &io::Error) -> Error {
        translate(&self.label, name, offset, error)
    }

    /// After a failed sync the kernel may have dropped dirty pages: nothing of this drive may be believed again.
    fn synced(&self, name: &str, outcome: io::Result<()>) -> Result<()> {
        SYNCS.fetch_add(1, Ordering::Relaxed);
        outcome.map_err(|error| {
            self.close(&format!("sync of {name} failed: {error}"));
            self.failed(name, 0, &error)
        })
    }

    /// The real path of a name, which can never leave the folder.
    fn at(&self, name: &str) -> PathBuf {
        let sound = name.split('/').count() <= 3
            && name.split('/').all(|part| {
                !part.is_empty()
                    && !part.starts_with('.')
                    && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
            });
        assert!(sound, "a name on a drive is made by us: {name:?}");
        self.path.join(name)
    }

    fn folder_at(&self, folder: &str) -> PathBuf {
        if folder.is_empty() { self.path.clone() } else { self.at(folder) }
    }
}

fn translate(drive: &str, name: &str, offset: u64, error: &io::Error) -> Error {
    let (drive, name) = (drive.to_string(), name.to_string());
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { drive, name },
        io::ErrorKind::AlreadyExists => Error::Exists { drive, name },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { drive },
        _ => Error::Io { drive, name, offset, reason: error.to_string() },
    }
}

impl Disk for FolderDisk {
    fn label(&self) -> &str {
        &self.state.label
    }

    fn open(&self, name: &str, how: Open) -> Result<Arc<dyn DiskFile>> {
        self.state.check()?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match how {
            Open::Existing => {}
            Open::New => {
                options.create_new(true);
            }
            Open::OrNew => {
                options.create(true).truncate(false);
            }
        }
        let file = options.open(self.state.at(name)).map_err(|error| self.state.failed(name, 0, &error))?;
        Ok(Arc::new(FolderFile { state: self.state.clone(), name: name.to_string(), file }))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.state.check()?;
        let failed = |error: io::Error| self.state.failed(folder, 0, &error);
        let listing = match std::fs::read_dir(self.state.folder_at(folder)) {
            Ok(listing) => listing,
            // A missing folder is empty, unless it is the drive itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_empty() => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut entries = Vec::new();
        for entry in listing {
            let entry = entry.map_err(failed)?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            if metadata.is_file() && !(folder.is_empty() && name == LOCK) {
                entries.push(Entry { name, bytes: metadata.len() });
            }
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    fn create_folder(&self, folder: &str) -> Result<()> {
        self.state.check()?;
        let path = self.state.folder_at(folder);
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.state.failed(folder, 0, &error)),
        }
        let parent = path.parent().expect("a folder of a drive has a parent");
        self.state.synced(folder, File::open(parent).and_then(|parent| parent.sync_all()))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.state.check()?;
        std::fs::rename(self.state.at(from), self.state.at(to)).map_err(|error| self.state.failed(from, 0, &error))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.state.check()?;
        std::fs::remove_file(self.state.at(name)).map_err(|error| self.state.failed(name, 0, &error))
    }

    fn sync_dir(&self, folder: &str) -> Result<()> {
        self.state.check()?;
        self.state.synced(folder, File::open(self.state.folder_at(folder)).and_then(|folder| folder.sync_all()))
    }

    fn space(&self) -> Result<Space> {
        self.state.check()?;
        let space = fstatvfs(&self.state.folder).map_err(|error| self.state.failed("", 0, &error.into()))?;
        Ok(Space { total: space.f_blocks * space.f_frsize, free: space.f_bavail * space.f_frsize })
    }

    fn watch(&self, name: &str) -> Result<()> {
        self.state.check()?;
        let metadata = std::fs::metadata(self.state.at(name)).map_err(|error| self.state.failed(name, 0, &error))?;
        lock(&self.state.watched).insert(name.to_string(), (metadata.dev(), metadata.ino()));
        Ok(())
    }

    fn verify(&self) -> Result<()> {
        self.state.check()?;
        let shows = |path: &Path| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let folder_is_ours = shows(&self.state.path) == Some(self.state.identity);
        let files_are_ours = lock(&self.state.watched).iter().all(|(name, identity)| shows(&self.state.at(name)) == Some(*identity));
        if !folder_is_ours || !files_are_ours {
            self.state.close("its folder was removed, replaced or unmounted");
        }
        self.state.check()
    }

    fn close(&self, reason: &str) {
        self.state.close(reason);
    }

    fn closed(&self) -> Option<String> {
        lock(&self.state.reason).clone()
    }

    fn submit(&self, job: Job) {
        {
            let mut running = lock(&self.running);
            if running.is_empty() {
                for number in 0..THREADS {
                    let threads = self.threads.clone();
                    let named = std::thread::Builder::new().name(format!("drive-{number}"));
                    running.push(named.spawn(move || threads.work()).expect("the system gives threads"));
                }
            }
        }
        lock(&self.threads.queue).jobs.push_back(job);
        self.threads.wake.notify_one();
    }

    fn take_cost(&self) -> Duration {
        Duration::ZERO
    }
}

impl Threads {
    fn work(&self) {
        loop {
            let job = {
                let mut queue = lock(&self.queue);
                loop {
                    if let Some(job) = queue.jobs.pop_front() {
                        break job;
                    }
                    if queue.ended {
                        return;
                    }
                    queue = self.wake.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            };
            job();
        }
    }
}

impl Drop for FolderDisk {
    fn drop(&mut self) {
        lock(&self.threads.queue).ended = true;
        self.threads.wake.notify_all();
        let this_thread = std::thread::current().id();
        for thread in lock(&self.running).drain(..) {
            // The last handle may be dropped by a job of the drive itself: that thread ends by itself.
            if thread.thread().id() != this_thread {
                let _ = thread.join();
            }
        }
    }
}

struct FolderFile {
    state: Arc<State>,
    name: String,
    file: File,
}

impl FolderFile {
    fn failed(&self, offset: u64, error: impl Into<io::Error>) -> Error {
        self.state.failed(&self.name, offset, &error.into())
    }
}

impl DiskFile for FolderFile {
    fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<()> {
        self.state.check()?;
        self.file.read_exact_at(target, offset).map_err(|error| self.failed(offset, error))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.state.check()?;
        self.file.write_all_at(bytes, offset).map_err(|error| self.failed(offset, error))
    }

    fn len(&self) -> Result<u64> {
        self.state.check()?;
        Ok(self.file.metadata().map_err(|error| self.failed(0, error))?.len())
    }

    fn set_len(&self, bytes: u64) -> Result<()> {
        self.state.check()?;
        self.file.set_len(bytes).map_err(|error| self.failed(bytes, error))
    }

    fn sync(&self) -> Result<()> {
        self.state.check()?;
        self.state.synced(&self.name, self.file.sync_data())
    }

    fn allocate(&self, bytes: u64) -> Result<()> {
        self.state.check()?;
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // File systems without it: the length alone, blocks come with the writes.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                if self.len()? < bytes {
                    self.set_len(bytes)?;
                }
                Ok(())
            }
            Err(error) => Err(self.failed(bytes, error)),
        }
    }

    fn punch(&self, offset: u64, bytes: u64) -> Result<()> {
        self.state.check()?;
        fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes).map_err(|error| self.failed(offset, error))
    }
}
