//! Objects: put, delete, get, and the conditions on them.
//!
//! Always holds: a refused command has changed nothing; conditions are judged on the version that the command
//! replaces; what it replaces is queued as garbage by the same command. A bucket without versioning has at most one
//! version of a key.

use consensus::RowsMut;
use protocol::{Body, BucketId, Home, Record, Revision};
use runtime::{planted, probe};

use crate::bucket::{self, malformed};
use crate::rows::{BucketRow, Condemned, Read, decode, next_revision, write};
use crate::{Applied, Error, Etags, Preconditions, blob, blobs_of, garbage, keys};

/// Commit `record` as the key's version.
pub(crate) fn put(
    rows: &mut RowsMut<'_>,
    bucket: BucketId,
    key: &str,
    record: Record,
    conditions: &Preconditions,
) -> Result<Applied, Error> {
    let row = bucket::writable(rows, bucket, key)?;
    check_body(&record.body, record.bytes)?;
    let current = current(rows, bucket, key)?;
    judge(conditions, current.as_ref())?;
    blob::check_new(rows, blobs_of(&record.body))?;
    if let Some(newer) = current.as_ref().filter(|current| current.modified_ms > record.modified_ms)
        && planted("version-order-by-clock")
    {
        // Acknowledged, and never seen: the writer's clock is behind that of the one before.
        return Ok(Applied { revision: newer.revision, replaced: true });
    }

    let revision = next_revision(rows)?;
    let replaced = current.is_some();
    blob::name(rows, Home::of(bucket, key), blobs_of(&record.body));
    replace(rows, bucket, key, row, current, Record { revision, ..record });
    Ok(Applied { revision, replaced })
}

/// Delete the key's version, if there is one.
pub(crate) fn delete(rows: &mut RowsMut<'_>, bucket: BucketId, key: &str, conditions: &Preconditions) -> Result<Applied, Error> {
    let mut row = bucket::writable(rows, bucket, key)?;
    let current = current(rows, bucket, key)?;
    judge(conditions, current.as_ref())?;
    let Some(old) = current else {
        return Ok(Applied { revision: rows.counters()?.revision, replaced: false });
    };
    let revision = next_revision(rows)?;
    discard(rows, bucket, key, &mut row, old, revision);
    bucket::store(rows, bucket, &row);
    Ok(Applied { revision, replaced: true })
}

/// The key's version.
pub(crate) fn get(rows: &impl Read, bucket: BucketId, key: &str) -> Result<Option<Record>, Error> {
    bucket::readable(rows, bucket)?;
    current(rows, bucket, key)
}

/// The newest version of a key.
pub(crate) fn current(rows: &impl Read, bucket: BucketId, key: &str) -> Result<Option<Record>, Error> {
    let versions = keys::versions(bucket, key);
    rows.first_in(&versions.start, &versions.end).map(|(row, value)| decode(&row, &value)).transpose()
}

/// Put `record`, whose revision is its own, in the place of `current`.
pub(crate) fn replace(rows: &mut RowsMut<'_>, bucket: BucketId, key: &str, mut row: BucketRow, current: Option<Record>, record: Record) {
    if let Some(old) = current {
        discard(rows, bucket, key, &mut row, old, record.revision);
    }
    row.objects += 1;
    row.bytes = row.bytes.saturating_add(record.bytes);
    write(rows, &keys::object(bucket, key, record.revision), &record);
    bucket::store(rows, bucket, &row);
}

/// Whether the conditions hold for the current version.
pub(crate) fn judge(conditions: &Preconditions, current: Option<&Record>) -> Result<(), Error> {
    let names = |etags: &Etags, record: &Record| match etags {
        Etags::Any => true,
        Etags::Of(etags) => etags.contains(&record.etag),
    };
    match (&conditions.if_match, current) {
        (Some(_), None) => return Err(Error::NoSuchKey),
        (Some(etags), Some(record)) if !names(etags, record) => {
            probe!("if-match-failed");
            return Err(Error::Precondition);
        }
        _ => {}
    }
    match (&conditions.if_none_match, current) {
        (Some(etags), Some(record)) if names(etags, record) => {
            probe!("if-none-match-failed");
            Err(Error::Precondition)
        }
        _ => Ok(()),
    }
}

/// A body that an uploader may bring: inline or blobs, of `bytes` together.
pub(crate) fn check_body(body: &Body, bytes: u64) -> Result<(), Error> {
    let held = match body {
        Body::Inline(inline) => inline.0.len() as u64,
        Body::Blobs(blobs) => blobs.iter().map(|blob| u64::from(blob.bytes)).sum(),
        Body::Parts { .. } => return Err(malformed("parts become a version by completing their upload")),
    };
    if held != bytes {
        return Err(malformed("the body has another length than its record says"));
    }
    if bytes > protocol::limits::PUT_BYTES_MAX {
        return Err(malformed("larger than 5 GiB"));
    }
    Ok(())
}

fn discard(rows: &mut RowsMut<'_>, bucket: BucketId, key: &str, row: &mut BucketRow, old: Record, revision: Revision) {
    rows.remove(&keys::object(bucket, key, old.revision));
    row.objects = row.objects.saturating_sub(1);
    row.bytes = row.bytes.saturating_sub(old.bytes);
    let condemned = match old.body {
        Body::Inline(_) => return,
        Body::Blobs(blobs) if blobs.is_empty() => return,
        Body::Blobs(blobs) => Condemned::Blobs(blobs),
        Body::Parts { upload, .. } => Condemned::Upload(upload),
    };
    garbage::queue(rows, revision, garbage::REPLACED, Home::of(bucket, key), condemned);
}
