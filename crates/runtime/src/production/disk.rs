//! [`FolderDisk`]: a drive as a folder of real files.
//!
//! Invariants: everything happens below the folder that was opened: names are taken relative to its descriptor and
//! no symbolic link is followed, so neither a link nor a replaced folder leads elsewhere. A lock file keeps a second
//! process out for as long as the drive or one of its files is open. The watched superblock is held open, so that its
//! inode number cannot be given to another file; [`Disk::verify`] compares it with what the path shows, and a removed,
//! replaced or unmounted folder closes the drive instead of being written to unseen.

use crate::disk::{Disk, DiskFile, Entry, Error, Lane, Open, Result, Space, is_sound_name};
use rustix::fs::{AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Held exclusively by the process that has the drive open.
const LOCK: &str = "lock";
/// Zeros are written in runs of this length where holes cannot be punched.
const ZEROS_BYTES: u64 = 64 << 10;

static SYNCS: AtomicU64 = AtomicU64::new(0);

/// fdatasyncs and directory syncs of this process so far.
pub(crate) fn syncs() -> u64 {
    SYNCS.load(Ordering::Relaxed)
}

/// Open the folder at `path` as a drive. Fails if it is missing or another process has it open.
pub fn open_folder(path: &Path) -> Result<Arc<dyn Disk>> {
    let label = path.display().to_string();
    let failed = |name: &str, error: &io::Error| translate(&label, name, 0, error);
    // The working folder of the process may change; what the path means must not.
    let absolute = std::path::absolute(path).map_err(|error| failed("", &error))?;
    let folder = File::open(&absolute).map_err(|error| failed("", &error))?;
    let metadata = folder.metadata().map_err(|error| failed("", &error))?;
    if !metadata.is_dir() {
        return Err(Error::Closed { drive: label, reason: "is not a folder".to_string() });
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(&folder, LOCK, flags, FILE_MODE).map_err(|error| failed(LOCK, &error.into()))?;
    let lock = File::from(lock);
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Closed { drive: label, reason: "another process has it open".to_string() });
        }
        Err(TryLockError::Error(error)) => return Err(failed(LOCK, &error)),
    }
    let state = Arc::new(State {
        label,
        path: absolute,
        identity: (metadata.dev(), metadata.ino()),
        folder,
        closed: AtomicBool::new(false),
        reason: Mutex::new(None),
        watched: Mutex::new(BTreeMap::new()),
        _lock: lock,
    });
    let threads =
        Lane::ALL.map(|_| Arc::new(Threads { queue: Mutex::new(Queue { jobs: VecDeque::new(), ended: false }), wake: Condvar::new() }));
    Ok(Arc::new(FolderDisk { state, threads, running: Mutex::new(Vec::new()) }))
}

const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);
const FOLDER_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct FolderDisk {
    state: Arc<State>,
    /// By lane.
    threads: [Arc<Threads>; Lane::ALL.len()],
    /// Started with the first job, joined when the drive is dropped.
    running: Mutex<Vec<JoinHandle<()>>>,
}

struct State {
    label: String,
    path: PathBuf,
    /// Device and inode of the folder when it was opened.
    identity: (u64, u64),
    folder: File,
    closed: AtomicBool,
    reason: Mutex<Option<String>>,
    /// Files whose path must keep showing the object that was opened: superblocks. Held open.
    watched: Mutex<BTreeMap<String, Watched>>,
    /// Unlocked by the system when it is closed: with the last file of the drive, not before.
    _lock: File,
}

struct Watched {
    identity: (u64, u64),
    _file: File,
}

type Job = Box<dyn FnOnce() + Send>;

struct Threads {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// Jobs that wait for a thread: as many as there are requests under way, which their admission bounds.
struct Queue {
    jobs: VecDeque<Job>,
    ended: bool,
}

/// What these locks guard is valid between any two statements, so a panic under one spoils nothing.
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

    fn failed(&self, name: &str, offset: u64, error: impl Into<io::Error>) -> Error {
        translate(&self.label, name, offset, &error.into())
    }

    /// After a failed sync the kernel may have dropped dirty pages: nothing of this drive may be believed again.
    fn synced(&self, name: &str, outcome: io::Result<()>) -> Result<()> {
        SYNCS.fetch_add(1, Ordering::Relaxed);
        outcome.map_err(|error| {
            self.close(&format!("sync of {name} failed: {error}"));
            self.failed(name, 0, error)
        })
    }

    /// The folder `folder`, "" being the drive itself. One component after another, as only the last would be kept from
    /// following a link.
    fn folder(&self, folder: &str) -> Result<OwnedFd> {
        let failed = |error: Errno| self.failed(folder, 0, error);
        let mut opened = rustix::fs::openat(&self.folder, ".", FOLDER_FLAGS, Mode::empty()).map_err(failed)?;
        if !folder.is_empty() {
            self.check_name(folder)?;
            for part in folder.split('/') {
                opened = rustix::fs::openat(&opened, part, FOLDER_FLAGS, Mode::empty()).map_err(failed)?;
            }
        }
        Ok(opened)
    }

    /// The folder that `name` lies in, and its name there.
    fn place<'a>(&self, name: &'a str) -> Result<(OwnedFd, &'a str)> {
        self.check_name(name)?;
        let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
        Ok((self.folder(folder)?, last))
    }

    fn check_name(&self, name: &str) -> Result<()> {
        if is_sound_name(name) {
            return Ok(());
        }
        Err(self.failed(name, 0, io::Error::new(io::ErrorKind::InvalidInput, "not a name that a drive may have")))
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
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let flags = match how {
            Open::Existing => flags,
            Open::New => flags | OFlags::CREATE | OFlags::EXCL,
            Open::OrNew => flags | OFlags::CREATE,
        };
        let (folder, last) = self.state.place(name)?;
        let file = rustix::fs::openat(&folder, last, flags, FILE_MODE).map_err(|error| self.state.failed(name, 0, error))?;
        Ok(Arc::new(FolderFile { state: self.state.clone(), name: name.to_string(), file: File::from(file) }))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.state.check()?;
        let opened = match self.state.folder(folder) {
            Ok(opened) => opened,
            // A missing folder is empty, unless it is the drive itself.
            Err(Error::NotFound { .. }) if !folder.is_empty() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let failed = |error: Errno| self.state.failed(folder, 0, error);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let found = match rustix::fs::statat(&opened, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed(error)),
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && !(folder.is_empty() && name == LOCK);
            if is_ours {
                entries.push(Entry { name, bytes: found.st_size as u64 });
            }
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    fn create_folder(&self, folder: &str) -> Result<()> {
        self.state.check()?;
        let (parent, last) = self.state.place(folder)?;
        match rustix::fs::mkdirat(&parent, last, FOLDER_MODE) {
            // Also if it is there already: who created it may have been killed before this sync.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.state.failed(folder, 0, error)),
        }
        // Something else of that name is an error now rather than later.
        self.state.folder(folder)?;
        self.state.synced(folder, File::from(parent).sync_all())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.state.check()?;
        let ((old_folder, old), (new_folder, new)) = (self.state.place(from)?, self.state.place(to)?);
        rustix::fs::renameat(&old_folder, old, &new_folder, new).map_err(|error| self.state.failed(from, 0, error))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.state.check()?;
        let (folder, last) = self.state.place(name)?;
        rustix::fs::unlinkat(&folder, last, AtFlags::empty()).map_err(|error| self.state.failed(name, 0, error))
    }

    fn sync_dir(&self, folder: &str) -> Result<()> {
        self.state.check()?;
        let opened = self.state.folder(folder)?;
        self.state.synced(folder, File::from(opened).sync_all())
    }

    fn space(&self) -> Result<Space> {
        self.state.check()?;
        let space = rustix::fs::fstatvfs(&self.state.folder).map_err(|error| self.state.failed("", 0, error))?;
        Ok(Space { total: space.f_blocks * space.f_frsize, free: space.f_bavail * space.f_frsize })
    }

    fn watch(&self, name: &str) -> Result<()> {
        self.state.check()?;
        let (folder, last) = self.state.place(name)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, last, flags, Mode::empty()).map_err(|error| self.state.failed(name, 0, error))?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(|error| self.state.failed(name, 0, error))?;
        lock(&self.state.watched).insert(name.to_string(), Watched { identity: (metadata.dev(), metadata.ino()), _file: file });
        Ok(())
    }

    fn verify(&self) -> Result<()> {
        self.state.check()?;
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        // By the path, from the root of the file system: what an operator would see.
        let folder_is_ours = std::fs::metadata(&self.state.path).is_ok_and(|found| identity(found) == self.state.identity);
        let files_are_ours = lock(&self.state.watched).iter().all(|(name, watched)| {
            std::fs::symlink_metadata(self.state.path.join(name)).is_ok_and(|found| identity(found) == watched.identity)
        });
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

    fn submit(&self, lane: Lane, job: Job) {
        {
            let mut running = lock(&self.running);
            if running.is_empty() {
                for lane in Lane::ALL {
                    for number in 0..lane.threads() {
                        let threads = self.threads[lane as usize].clone();
                        let name = match lane {
                            Lane::Work => format!("drive-{number}"),
                            Lane::Log => format!("drive-log-{number}"),
                        };
                        let named = std::thread::Builder::new().name(name);
                        running.push(named.spawn(move || threads.work()).expect("the system gives threads"));
                    }
                }
            }
        }
        let threads = &self.threads[lane as usize];
        lock(&threads.queue).jobs.push_back(job);
        threads.wake.notify_one();
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
            // A panic reaches who waits for the job, as its result never comes; the other jobs go on.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }
}

impl Drop for FolderDisk {
    fn drop(&mut self) {
        for threads in &self.threads {
            lock(&threads.queue).ended = true;
            threads.wake.notify_all();
        }
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
        self.state.failed(&self.name, offset, error)
    }

    fn write_zeros(&self, offset: u64, end: u64) -> Result<()> {
        let zeros = vec![0; ZEROS_BYTES.min(end.saturating_sub(offset)) as usize];
        let mut at = offset;
        while at < end {
            let length = ZEROS_BYTES.min(end - at);
            self.write_at(at, &zeros[..length as usize])?;
            at += length;
        }
        Ok(())
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
        if bytes == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // File systems without it: the length alone, blocks come with the writes.
            Err(Errno::OPNOTSUPP) => {
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
        if bytes == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes) {
            Ok(()) => Ok(()),
            // File systems without it: the bytes read as zero, though nothing is given back.
            Err(Errno::OPNOTSUPP) => self.write_zeros(offset, offset.saturating_add(bytes).min(self.len()?)),
            Err(error) => Err(self.failed(offset, error)),
        }
    }
}
