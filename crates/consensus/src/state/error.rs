//! What goes wrong with a state, and what may not go further.

use crate::rows::StorageFailure;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The state of a replica cannot be read or written; the replica stops.
#[derive(Debug, Clone, thiserror::Error)]
#[error("state: {reason}")]
pub(crate) struct Error {
    reason: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Damaged,
    Full,
    Newer,
}

impl Error {
    pub(super) fn new(reason: impl Into<String>) -> Error {
        Error { reason: reason.into(), kind: Kind::Damaged }
    }

    fn of(reason: String, full: bool) -> Error {
        Error { reason, kind: if full { Kind::Full } else { Kind::Damaged } }
    }

    /// The group applies its commands at `version`, and this program knows them up to `known`.
    pub(crate) fn newer(version: u32, known: u32) -> Error {
        let reason = format!("its group is at version {version} of its commands, this program knows them up to {known}: run a newer one");
        Error { reason, kind: Kind::Newer }
    }

    /// What is there is good, and of a newer program.
    pub(crate) fn is_newer(&self) -> bool {
        self.kind == Kind::Newer
    }

    /// A snapshot cannot be had from who offered it.
    pub(crate) fn of_sender(reason: &str) -> Error {
        Error::new(format!("snapshot: {reason}"))
    }

    /// The drive had no room: what is there is good.
    pub(crate) fn is_full(&self) -> bool {
        self.kind == Kind::Full
    }
}

impl From<redb::StorageError> for Error {
    fn from(error: redb::StorageError) -> Error {
        let full = matches!(&error, redb::StorageError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull);
        Error::of(error.to_string(), full)
    }
}

impl From<runtime::disk::Error> for Error {
    fn from(error: runtime::disk::Error) -> Error {
        Error::of(error.to_string(), matches!(error, runtime::disk::Error::Full { .. }))
    }
}

impl From<redb::SetDurabilityError> for Error {
    fn from(error: redb::SetDurabilityError) -> Error {
        Error::new(error.to_string())
    }
}

macro_rules! from_redb {
    ($($kind:ident),*) => {$(
        impl From<redb::$kind> for Error {
            fn from(error: redb::$kind) -> Error {
                match error {
                    redb::$kind::Storage(error) => error.into(),
                    other => Error::new(other.to_string()),
                }
            }
        }
    )*};
}
from_redb!(DatabaseError, TransactionError, TableError, CommitError);

/// Run work on a state that may unwind: because a row cannot be read (see [`StorageFailure`]), because redb stumbles over
/// damaged pages, or because of a bug in a state machine. Whatever it was stops this replica and no other.
pub(crate) fn catching<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(match panic.downcast::<StorageFailure>() {
            Ok(failure) => Error::from(failure.0),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                Error::new(format!("it panicked: {}", text.unwrap_or("no message")))
            }
        })
    })
}
