//! The versions of one key: which is current, which is the null version, and how they come and go.
//!
//! Always holds: the newest row of a key is its current version; a key has at most one null version, and only that one
//! is ever replaced; a null version that is not the newest row of its key is named by the key's null row, so that it is
//! found in one step. A null row may stay when its version becomes the newest again; it never names what is not there.

use consensus::RowsMut;
use protocol::{Body, BucketId, Home, Revision, Version, VersionId, Versioning};
use runtime::{planted, probe};

use crate::rows::{BucketRow, Condemned, Read, decode, write};
use crate::{Error, garbage, keys};

/// The newest version of a key, a marker or not.
pub(crate) fn newest(rows: &impl Read, bucket: BucketId, key: &str) -> Result<Option<Version>, Error> {
    let all = keys::versions(bucket, key);
    rows.first_in(&all.start, &all.end).map(|(row, value)| decode(&row, &value)).transpose()
}

/// What a read without a version id sees.
pub(crate) fn current(rows: &impl Read, bucket: BucketId, key: &str) -> Result<Option<Version>, Error> {
    let newest = newest(rows, bucket, key)?;
    if let Some(Version::Marker(marker)) = newest
        && planted("delete-marker-hides-nothing")
    {
        let mut all = keys::versions(bucket, key);
        all.start = keys::successor(&keys::object(bucket, key, marker.revision));
        return rows.first_in(&all.start, &all.end).map(|(row, value)| decode(&row, &value)).transpose();
    }
    Ok(newest)
}

/// The version of that name.
pub(crate) fn named(rows: &impl Read, bucket: BucketId, key: &str, id: VersionId) -> Result<Option<Version>, Error> {
    match id {
        VersionId::Null => null(rows, bucket, key, newest(rows, bucket, key)?),
        VersionId::Numbered(revision) => {
            let found: Option<Version> = rows.row(&keys::object(bucket, key, revision))?;
            // A null version has one name only.
            Ok(found.filter(|version| !version.is_null()))
        }
    }
}

/// Where the version of that name stands among those of its key, if it is there.
pub(crate) fn place(rows: &impl Read, bucket: BucketId, key: &str, id: VersionId) -> Result<Option<Revision>, Error> {
    match id {
        VersionId::Numbered(revision) => Ok(Some(revision)),
        VersionId::Null => Ok(named(rows, bucket, key, id)?.map(|version| version.revision())),
    }
}

/// Make `version` the newest of its key. One that is null takes the place of the null version before it; no other
/// version goes. `newest` is the newest before.
pub(crate) fn add(
    rows: &mut RowsMut<'_>,
    bucket: BucketId,
    key: &str,
    row: &mut BucketRow,
    newest: Option<Version>,
    version: &Version,
) -> Result<(), Error> {
    let revision = version.revision();
    if version.is_null() {
        let old = if planted("suspended-put-removes-a-version") { newest } else { null(rows, bucket, key, newest)? };
        if let Some(old) = old {
            remove(rows, bucket, key, row, old, revision);
        }
    } else if let Some(newest) = newest.filter(Version::is_null) {
        probe!("null-version-covered");
        write(rows, &keys::null(bucket, key), &newest.revision());
    }
    if let Version::Object(record) = version {
        row.objects += 1;
        row.bytes = row.bytes.saturating_add(record.bytes);
    }
    write(rows, &keys::object(bucket, key, revision), version);
    Ok(())
}

/// Remove exactly this version, for the command of `revision`, and queue its blobs as garbage.
pub(crate) fn remove(rows: &mut RowsMut<'_>, bucket: BucketId, key: &str, row: &mut BucketRow, version: Version, revision: Revision) {
    rows.remove(&keys::object(bucket, key, version.revision()));
    if version.is_null() && row.versioning != Versioning::Unversioned {
        rows.remove(&keys::null(bucket, key));
    }
    let Version::Object(record) = version else { return };
    row.objects = row.objects.saturating_sub(1);
    row.bytes = row.bytes.saturating_sub(record.bytes);
    let condemned = match record.body {
        Body::Inline(_) => return,
        Body::Blobs(blobs) if blobs.is_empty() => return,
        Body::Blobs(blobs) => Condemned::Blobs(blobs),
        Body::Parts { upload, .. } => Condemned::Upload(upload),
    };
    garbage::queue(rows, revision, garbage::REPLACED, Home::of(bucket, key), condemned);
}

/// The null version, when `newest` is the newest one.
fn null(rows: &impl Read, bucket: BucketId, key: &str, newest: Option<Version>) -> Result<Option<Version>, Error> {
    match newest {
        Some(version) if !version.is_null() => {
            let Some(revision) = rows.row::<Revision>(&keys::null(bucket, key))? else { return Ok(None) };
            if planted("null-version-doubled") {
                return Ok(None);
            }
            rows.row(&keys::object(bucket, key, revision))
        }
        newest => Ok(newest),
    }
}
