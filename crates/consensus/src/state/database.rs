//! redb as states use it: over a file with sums, and closed without harm.

use super::{Error, catching};
use crate::sums::Summed;

/// A database. Closing it writes, wherever its last holder lets go of it, and may stumble over whatever stopped the replica: that ends
/// nobody else.
pub(super) struct Database(Option<redb::Database>);

impl Database {
    /// Open the database in `storage`, or make it if there is nothing yet.
    pub(super) fn new(storage: impl redb::StorageBackend, cache_bytes: usize) -> Result<Database, Error> {
        let database = redb::Builder::new().set_cache_size(cache_bytes).create_with_backend(Summed::new(storage))?;
        Ok(Database(Some(database)))
    }
}

impl std::ops::Deref for Database {
    type Target = redb::Database;

    fn deref(&self) -> &redb::Database {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let database = self.0.take();
        let close = || {
            drop(database);
            Ok(())
        };
        if let Err(error) = catching(close) {
            tracing::warn!(%error, "a state was not closed in order; the log has all that it holds");
        }
    }
}
