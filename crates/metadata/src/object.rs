//! Objects: put, delete, get, and the conditions on them.
//!
//! Always holds: a refused command has changed nothing; conditions are judged on the current version, or for a deletion
//! that names a version on that one; what a command removes is queued as garbage by the same command. Whether a write
//! adds a version or replaces one the bucket's row in this partition says, and nothing that the writer believes. A
//! bucket whose versioning was never set has at most one version of a key, its null version.

use consensus::RowsMut;
use protocol::{Body, BucketId, Home, Marker, Record, Version, VersionId, Versioning};
use runtime::{planted, probe};

use crate::bucket::{self, malformed};
use crate::rows::{BucketRow, Read, next_revision};
use crate::{Applied, Deletion, Error, Etags, Found, Preconditions, blob, blobs_of, tags, versions};

/// Commit `record` as the key's newest version.
pub(crate) fn put(
    rows: &mut RowsMut<'_>,
    bucket: BucketId,
    key: &str,
    record: Record,
    conditions: &Preconditions,
) -> Result<Applied, Error> {
    let mut row = bucket::writable(rows, bucket, key)?;
    check_body(&record.body, record.bytes)?;
    tags::check(&record.tags)?;
    let newest = versions::newest(rows, bucket, key)?;
    judge(conditions, newest.as_ref().and_then(object))?;
    blob::check_new(rows, blobs_of(&record.body))?;
    if let Some(newer) = newest.as_ref().and_then(object).filter(|current| current.modified_ms > record.modified_ms)
        && planted("version-order-by-clock")
    {
        // Acknowledged, and never seen: the writer's clock is behind that of the one before.
        return Ok(Applied { revision: newer.revision, replaced: true, version: None, marker: false });
    }

    let revision = next_revision(rows)?;
    let replaced = newest.as_ref().and_then(object).is_some();
    blob::name(rows, Home::of(bucket, key), blobs_of(&record.body));
    let null = if planted("versioning-by-the-gateways-cache") { record.null } else { is_null(&row) };
    let mut version = Record { revision, null, ..record };
    if let (Some(old), true) = (newest.as_ref().and_then(object), planted("overwrite-keeps-tags")) {
        version.tags.clone_from(&old.tags);
    }
    let version = Version::Object(version);
    versions::add(rows, bucket, key, &mut row, newest, &version)?;
    bucket::store(rows, bucket, &row);
    Ok(Applied { revision, replaced, version: shown(&row, &version), marker: false })
}

/// Without a version id: hide the key behind a marker, or where versioning was never set delete its one version. With
/// one: remove exactly that version.
pub(crate) fn delete(rows: &mut RowsMut<'_>, bucket: BucketId, key: &str, deletion: &Deletion) -> Result<Applied, Error> {
    let mut row = bucket::writable(rows, bucket, key)?;
    let found = match deletion.version {
        Some(id) => versions::named(rows, bucket, key, id)?,
        None => versions::newest(rows, bucket, key)?,
    };
    if !planted("delete-ignores-its-condition") {
        judge(&deletion.conditions, found.as_ref().and_then(object))?;
    }
    if deletion.version.is_none() && row.versioning != Versioning::Unversioned {
        let revision = next_revision(rows)?;
        let replaced = found.as_ref().and_then(object).is_some();
        let marker = Version::Marker(Marker { revision, null: is_null(&row), modified_ms: deletion.modified_ms });
        versions::add(rows, bucket, key, &mut row, found, &marker)?;
        bucket::store(rows, bucket, &row);
        return Ok(Applied { revision, replaced, version: Some(marker.id()), marker: true });
    }
    let Some(old) = found else {
        return Ok(Applied { revision: rows.counters()?.revision, replaced: false, version: deletion.version, marker: false });
    };
    let revision = next_revision(rows)?;
    let marker = object(&old).is_none();
    versions::remove(rows, bucket, key, &mut row, old, revision);
    bucket::store(rows, bucket, &row);
    Ok(Applied { revision, replaced: true, version: deletion.version, marker })
}

/// The key's current version, or the one that is named.
pub(crate) fn get(rows: &impl Read, bucket: BucketId, key: &str, version: Option<VersionId>) -> Result<Found, Error> {
    let row = bucket::readable(rows, bucket)?;
    let version = match version {
        None => versions::current(rows, bucket, key)?,
        Some(id) => versions::named(rows, bucket, key, id)?,
    };
    Ok(Found { version, versioned: row.versioning != Versioning::Unversioned })
}

/// Whether a write makes a null version.
pub(crate) fn is_null(row: &BucketRow) -> bool {
    row.versioning != Versioning::Enabled
}

/// The id that clients are told of a version that was made: none where versioning was never set.
pub(crate) fn shown(row: &BucketRow, version: &Version) -> Option<VersionId> {
    (row.versioning != Versioning::Unversioned).then(|| version.id())
}

/// What conditions are judged on: a marker is no object.
pub(crate) fn object(version: &Version) -> Option<&Record> {
    match version {
        Version::Object(record) => Some(record),
        Version::Marker(_) => None,
    }
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
