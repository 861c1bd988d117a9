//! [`Disk`]: one drive as a folder of files. Raft log, redb state and slots all stand on it, so that every fault
//! of a drive reaches all three.
//!
//! The core is synchronous (redb needs it so); [`run`] is the asynchronous face: in production the work runs on
//! threads of the drive, in a simulation on a stack of its own, which it leaves while it would block.
//!
//! Durability: bytes of a file are durable after [`DiskFile::sync`]; its name, a rename or a removal after
//! [`Disk::sync_dir`] of its folder. A failed sync closes the drive: every later call fails with [`Error::Closed`],
//! as the kernel may have dropped the dirty pages.

use std::sync::Arc;

/// The threads of a drive that do a kind of work: however much there is of one, the other finds one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// All that is not of the log: there may be much of it, and it may take long.
    Work,
    /// The log's writes, one after another: every group of the drive waits for them.
    Log,
}

impl Lane {
    pub(crate) const ALL: [Lane; 2] = [Lane::Work, Lane::Log];

    /// How many: for work enough that a sync does not hold up reads.
    pub(crate) fn threads(self) -> usize {
        match self {
            Lane::Work => 4,
            Lane::Log => 1,
        }
    }
}

/// A drive failed or refuses.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("{drive}: {name} not found")]
    NotFound { drive: String, name: String },
    #[error("{drive}: {name} exists already")]
    Exists { drive: String, name: String },
    /// The drive was closed: a sync failed, its path shows another drive, or its process incarnation ended.
    #[error("{drive}: closed: {reason}")]
    Closed { drive: String, reason: String },
    #[error("{drive}: no space left")]
    Full { drive: String },
    /// The drive could not read or write these bytes (EIO); other bytes may be fine.
    #[error("{drive}: {name}: I/O error at byte {offset}: {reason}")]
    Io { drive: String, name: String, offset: u64, reason: String },
}

pub type Result<T> = std::result::Result<T, Error>;

/// How [`Disk::open`] treats an existing or missing file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// Must exist; read and write.
    Existing,
    /// Must not exist; created empty.
    New,
    /// Created empty if missing.
    OrNew,
}

/// A directory entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// File name without its folder.
    pub name: String,
    pub bytes: u64,
}

/// Space of a drive, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}

/// Whether `name` is one that a file or folder of a drive may have. Names are made by us, so this guards against our own
/// mistakes, and against names that were read from a damaged file; none of them can leave the folder of its drive.
pub fn is_sound_name(name: &str) -> bool {
    let is_sound_part = |part: &str| {
        let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        !part.is_empty() && part.len() <= 128 && !part.starts_with('.') && part.bytes().all(allowed)
    };
    // `lock` is the drive's own.
    name != "lock" && name.split('/').count() <= 3 && name.split('/').all(is_sound_part)
}

/// One drive. Names are relative, `/`-separated, at most two folders deep, of `[a-z0-9._-]`.
pub trait Disk: Send + Sync + 'static {
    /// The drive as people know it: its path.
    fn label(&self) -> &str;
    /// Open a file for reading and writing.
    fn open(&self, name: &str, how: Open) -> Result<Arc<dyn DiskFile>>;
    /// Files of `folder` ("" is the root), sorted by name. A missing folder is empty.
    fn list(&self, folder: &str) -> Result<Vec<Entry>>;
    /// Create a folder if it is missing, durably.
    fn create_folder(&self, folder: &str) -> Result<()>;
    /// Rename, replacing the target.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Remove a file.
    fn remove(&self, name: &str) -> Result<()>;
    /// Make creations, renames and removals in `folder` ("" is the root) durable.
    fn sync_dir(&self, folder: &str) -> Result<()>;
    /// Capacity and free bytes.
    fn space(&self) -> Result<Space>;
    /// Remember which file system object `name` (a superblock) is, for [`verify`](Self::verify).
    fn watch(&self, name: &str) -> Result<()>;
    /// Close the drive if its path shows another folder or another watched file than those that are open, or none.
    /// Cheap; called every second.
    fn verify(&self) -> Result<()>;
    /// Close the drive: every later call on it or its files fails with [`Error::Closed`]. Idempotent.
    fn close(&self, reason: &str);
    /// Why the drive is closed, if it is.
    fn closed(&self) -> Option<String>;
    /// Run `job` where blocking on this drive harms nobody: on one of its few threads of this lane, when one is free.
    fn submit(&self, lane: Lane, job: Box<dyn FnOnce() + Send>);
}

/// Open the folder at `path` as a drive. Fails if it is missing or another process has it open. Production only.
pub fn open_folder(path: &std::path::Path) -> Result<Arc<dyn Disk>> {
    crate::side::open_folder(path)
}

/// Syncs of files and directories by this process so far; 0 in a simulation.
pub fn syncs() -> u64 {
    crate::side::syncs()
}

/// An open file of a drive. Positioned, so that readers and a writer do not disturb each other.
pub trait DiskFile: Send + Sync + 'static {
    /// Fill `target` from `offset`; reading past the end is an [`Error::Io`].
    fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<()>;
    /// Write all of `bytes` at `offset`, extending the file (holes read as zero).
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Length in bytes.
    fn len(&self) -> Result<u64>;
    /// Cut or extend (with zeros). A power cut before the next sync leaves the old length or this one, none between: file systems
    /// (ext4, XFS) log the length as one change of the inode. A file that grows by being written to may be left on the way.
    fn set_len(&self, bytes: u64) -> Result<()>;
    /// Make all that was written and the length durable (fdatasync).
    fn sync(&self) -> Result<()>;
    /// Reserve blocks for `bytes` from the start without changing what reads return; extends the length.
    fn allocate(&self, bytes: u64) -> Result<()>;
    /// Give the range back to the file system; it reads as zero afterwards.
    fn punch(&self, offset: u64, bytes: u64) -> Result<()>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Run `work` on `disk` and wait for its result.
pub async fn run<T, F>(disk: &Arc<dyn Disk>, work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    run_in(disk, Lane::Work, work).await
}

/// [`run`] for work that nobody needs whose caller is gone: it is left out if that is so when its turn comes, and what it holds is dropped then.
/// A drive that is slow for a while would otherwise go on with what was given up long ago, and come to nothing that is still waited for.
pub async fn run_if_awaited<T, F>(disk: &Arc<dyn Disk>, work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let job = Box::new(move || {
        if sender.is_closed() {
            crate::probe!("drive-job-that-nobody-awaits-left-out");
            return;
        }
        let _ = sender.send(work());
    });
    disk.submit(Lane::Work, job);
    receiver.await.expect("a drive runs every job that it accepted, or panics")
}

/// Run `work` on a thread of this lane, and wait for its result.
pub async fn run_in<T, F>(disk: &Arc<dyn Disk>, lane: Lane, work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let job = Box::new(move || {
        // The waiter may have been cancelled; the work is done all the same.
        let _ = sender.send(work());
    });
    disk.submit(lane, job);
    receiver.await.expect("a drive runs every job that it accepted, or panics")
}
