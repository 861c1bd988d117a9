//! A file of a drive as redb's storage: every fault of the drive reaches redb, none is hidden by a cache of ours.

use redb::StorageBackend;
use runtime::disk::{self, DiskFile};
use std::io;
use std::sync::Arc;

pub(crate) struct Backend(pub Arc<dyn DiskFile>);

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend(..)")
    }
}

fn to_io(error: disk::Error) -> io::Error {
    let kind = match &error {
        disk::Error::NotFound { .. } => io::ErrorKind::NotFound,
        disk::Error::Exists { .. } => io::ErrorKind::AlreadyExists,
        disk::Error::Full { .. } => io::ErrorKind::StorageFull,
        disk::Error::Closed { .. } | disk::Error::Io { .. } => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.len().map_err(to_io)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read_at(offset, out).map_err(to_io)
    }

    /// Durable at once: redb derives its layout from the length. Were the new length lost and a write behind the old
    /// one kept, the file would have a length that redb never gave it, and would not open again. (A cut before the sync
    /// leaves one of both lengths, see [`DiskFile::set_len`]; both are layouts of redb.)
    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len).and_then(|()| self.0.sync()).map_err(to_io)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync().map_err(to_io)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_at(offset, data).map_err(to_io)
    }
}
