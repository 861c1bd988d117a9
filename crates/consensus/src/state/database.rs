//! redb as states use it: over a file with sums, and closed without a write.

use super::{Error, catching};
use crate::sums::Summed;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A database. What is to last was made to by a checkpoint, and the log has the rest: closing writes nothing. redb would make what was not to
/// last durable then, after a panic in a single phase, and a power cut in that can leave a file of which neither commit is whole. And
/// closing may stumble over whatever stopped the replica, wherever its last holder lets go of it: that ends nobody else.
pub(super) struct Database {
    redb: Option<redb::Database>,
    closed: Arc<AtomicBool>,
}

impl Database {
    /// Open the database in `storage`, or make it if there is nothing yet.
    pub(super) fn new(storage: impl redb::StorageBackend, cache_bytes: usize) -> Result<Database, Error> {
        let closed = Arc::new(AtomicBool::new(false));
        let storage = Summed::new(storage, closed.clone());
        let database = redb::Builder::new().set_cache_size(cache_bytes).create_with_backend(storage)?;
        Ok(Database { redb: Some(database), closed })
    }
}

impl std::ops::Deref for Database {
    type Target = redb::Database;

    fn deref(&self) -> &redb::Database {
        self.redb.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        let database = self.redb.take();
        let close = || {
            drop(database);
            Ok(())
        };
        if let Err(error) = catching(close) {
            tracing::warn!(%error, "a state was not closed in order; the log has all that it holds");
        }
    }
}
