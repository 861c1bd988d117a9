//! Buckets in one partition: open, closed, removed. Closed by default.
//!
//! Always holds: a write is taken only while this incarnation's row says open; the row obeys attempts in rising
//! order, and within one attempt closing comes before reopening; what was removed never opens again.

use consensus::RowsMut;
use protocol::{BucketId, Versioning, key_hash};
use runtime::{planted, probe};

use crate::rows::{BucketRow, BucketState, Read, Share, write};
use crate::{BucketUsage, Error, keys, lifecycle};

/// Open for the keys of `share`, or reopen after a close of the same or an older attempt.
pub(crate) fn open(rows: &mut RowsMut<'_>, bucket: BucketId, attempt: u64, share: Share) -> Result<(), Error> {
    check_share(share)?;
    let row = match find(rows, bucket)? {
        None => BucketRow::new(BucketState::Open, attempt, share),
        Some(row) if row.state == BucketState::Removed => return stale(),
        Some(row) if attempt < row.attempt && !planted("reopen-by-old-attempt") => return stale(),
        Some(row) => BucketRow { state: BucketState::Open, attempt, share, ..row },
    };
    write(rows, &keys::bucket(bucket), &row);
    Ok(())
}

/// Close; the emptiness that is returned holds until the bucket is reopened, as nothing is written to a closed one.
/// An incarnation that was never opened here gets a closed row: a delayed open of an older attempt must not open it.
pub(crate) fn close(rows: &mut RowsMut<'_>, bucket: BucketId, attempt: u64, share: Share) -> Result<bool, Error> {
    check_share(share)?;
    let row = match find(rows, bucket)? {
        None => BucketRow::new(BucketState::Closed, attempt, share),
        Some(row) if attempt < row.attempt => return stale(),
        Some(row) if row.state == BucketState::Removed => return Ok(true),
        // Reopened under this very attempt: the close is a late one.
        Some(row) if attempt == row.attempt && row.state == BucketState::Open => return stale(),
        Some(row) => BucketRow { state: BucketState::Closed, attempt, ..row },
    };
    write(rows, &keys::bucket(bucket), &row);
    Ok(is_empty(rows, bucket))
}

/// Remove what was closed and is empty. The row stays as a mark of the removal.
pub(crate) fn remove(rows: &mut RowsMut<'_>, bucket: BucketId, attempt: u64) -> Result<(), Error> {
    let Some(row) = find(rows, bucket)? else { return Err(Error::NotOpen) };
    match row.state {
        _ if attempt < row.attempt => stale(),
        BucketState::Removed => Ok(()),
        BucketState::Closed if attempt > row.attempt => Err(malformed("remove under an attempt that did not close")),
        BucketState::Closed if is_empty(rows, bucket) || planted("bucket-deleted-while-a-put-lands") => {
            write(rows, &keys::bucket(bucket), &BucketRow { state: BucketState::Removed, ..row });
            lifecycle::forget(rows, bucket);
            Ok(())
        }
        BucketState::Closed => Err(malformed("remove of a bucket that is not empty")),
        BucketState::Open => Err(malformed("remove of a bucket that is open")),
    }
}

/// Set the versioning that later writes are judged by. A closed bucket may be about to go: it takes no setting.
pub(crate) fn set_versioning(rows: &mut RowsMut<'_>, bucket: BucketId, attempt: u64, versioning: Versioning) -> Result<(), Error> {
    if versioning == Versioning::Unversioned {
        return Err(malformed("versioning cannot be unset"));
    }
    let row = settable(rows, bucket, attempt)?;
    write(rows, &keys::bucket(bucket), &BucketRow { versioning, ..row });
    Ok(())
}

/// The row of a bucket that takes a setting under `attempt`, with that attempt in it.
pub(crate) fn settable(rows: &impl Read, bucket: BucketId, attempt: u64) -> Result<BucketRow, Error> {
    let Some(row) = find(rows, bucket)? else { return Err(Error::NotOpen) };
    match row.state {
        BucketState::Removed => Err(Error::NotOpen),
        _ if attempt < row.attempt => stale(),
        BucketState::Closed => Err(Error::Closed),
        BucketState::Open => Ok(BucketRow { attempt, ..row }),
    }
}

/// The row of a bucket that takes a write to `key`.
pub(crate) fn writable(rows: &impl Read, bucket: BucketId, key: &str) -> Result<BucketRow, Error> {
    check_key(key)?;
    let row = match find(rows, bucket)? {
        Some(row) => row,
        None if planted("default-open-partition") => BucketRow::new(BucketState::Open, 0, Share { index: 0, of: 1 }),
        None => return Err(Error::NotOpen),
    };
    match row.state {
        BucketState::Removed => {
            probe!("write-to-a-removed-bucket");
            Err(Error::NotOpen)
        }
        BucketState::Closed if !planted("bucket-deleted-while-a-put-lands") => {
            probe!("write-to-a-closed-bucket");
            Err(Error::Closed)
        }
        // The writer's list of partitions is not ours: it refreshes.
        _ if !row.share.holds(key_hash(bucket, key)) => Err(Error::NotOpen),
        BucketState::Open | BucketState::Closed => Ok(row),
    }
}

/// The row of a bucket that can be read: also a closed one, which may reopen.
pub(crate) fn readable(rows: &impl Read, bucket: BucketId) -> Result<BucketRow, Error> {
    match find(rows, bucket)? {
        Some(row) if row.state != BucketState::Removed => Ok(row),
        _ => Err(Error::NotOpen),
    }
}

/// The row of an incarnation, whatever its state.
pub(crate) fn find(rows: &impl Read, bucket: BucketId) -> Result<Option<BucketRow>, Error> {
    rows.row(&keys::bucket(bucket))
}

/// State and counts.
pub(crate) fn usage(rows: &impl Read, bucket: BucketId) -> Result<Option<BucketUsage>, Error> {
    Ok(find(rows, bucket)?.map(|row| BucketUsage {
        open: row.state == BucketState::Open,
        removed: row.state == BucketState::Removed,
        attempt: row.attempt,
        versioning: row.versioning,
        objects: row.objects,
        bytes: row.bytes,
        uploads: row.uploads,
    }))
}

/// Write the row back with its new counts.
pub(crate) fn store(rows: &mut RowsMut<'_>, bucket: BucketId, row: &BucketRow) {
    write(rows, &keys::bucket(bucket), row);
}

/// Fails unless S3 knows such a key.
pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    if key.is_empty() || key.len() > protocol::limits::KEY_BYTES_MAX {
        return Err(malformed("a key has 1 to 1024 bytes"));
    }
    Ok(())
}

pub(crate) fn malformed(why: &str) -> Error {
    Error::Malformed(why.to_string())
}

impl BucketRow {
    fn new(state: BucketState, attempt: u64, share: Share) -> BucketRow {
        BucketRow { state, attempt, share, versioning: Versioning::Unversioned, objects: 0, bytes: 0, uploads: 0 }
    }
}

/// By the rows themselves, not by the counts.
fn is_empty(rows: &impl Read, bucket: BucketId) -> bool {
    [keys::OBJECTS, keys::UPLOADS].into_iter().all(|family| {
        let range = keys::prefixed(family, bucket, "");
        rows.first_in(&range.start, &range.end).is_none()
    })
}

fn check_share(share: Share) -> Result<(), Error> {
    if share.index < share.of { Ok(()) } else { Err(malformed("the share's index lies beyond its count")) }
}

/// Refused: a later attempt was obeyed.
pub(crate) fn stale<T>() -> Result<T, Error> {
    probe!("bucket-command-of-a-stale-attempt");
    Err(Error::StaleAttempt)
}
