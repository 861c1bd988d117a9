//! Tags of a version: they change without making another one.
//!
//! Always holds: a change of tags leaves everything else of its version as it was, its id, its place in the order, its ETag,
//! its times and its blobs; and it is one with the choice of the version. So it hits the version that is current in the
//! order of the writes, be it older or newer than the one that its client last saw, and never brings back one that was
//! replaced. Like every change it makes a revision, which orders it among the writes of its key.

use consensus::RowsMut;
use protocol::limits::{TAG_KEY_UNITS_MAX, TAG_VALUE_UNITS_MAX, TAGS_MAX};
use protocol::{BucketId, Version, VersionId};
use runtime::{planted, probe};

use crate::bucket::{self, malformed};
use crate::rows::{next_revision, write};
use crate::{Error, Tagged, keys, object, versions};

/// Set the tags of the key's current version, or of the one that is named, in place of those that it has.
pub(crate) fn set(
    rows: &mut RowsMut<'_>,
    bucket: BucketId,
    key: &str,
    version: Option<VersionId>,
    tags: Vec<(String, String)>,
) -> Result<Tagged, Error> {
    let row = bucket::writable(rows, bucket, key)?;
    check(&tags)?;
    let found = match version {
        Some(id) => versions::named(rows, bucket, key, id)?,
        None => versions::newest(rows, bucket, key)?,
    };
    let mut record = match (found, version) {
        (Some(Version::Object(record)), _) => record,
        (Some(Version::Marker(marker)), _) => {
            probe!("tags-of-a-delete-marker");
            return Err(Error::Marked(marker));
        }
        (None, Some(_)) => return Err(Error::NoSuchVersion),
        (None, None) => return Err(Error::NoSuchKey),
    };
    let revision = next_revision(rows)?;
    record.tags = tags;
    if planted("tags-make-a-version") {
        record.revision = revision;
    }
    let place = record.revision;
    let version = Version::Object(record);
    write(rows, &keys::object(bucket, key, place), &version);
    Ok(Tagged { revision, version: object::shown(&row, &version) })
}

/// Fails unless tags are as [`protocol::Record::tags`] says. Which characters S3 takes is the gateway's business.
pub(crate) fn check(tags: &[(String, String)]) -> Result<(), Error> {
    if tags.len() > TAGS_MAX {
        return Err(malformed("an object has at most 10 tags"));
    }
    if !tags.is_sorted_by(|(left, _), (right, _)| left < right) {
        return Err(malformed("tags are sorted by their keys, and no key occurs twice"));
    }
    let fits = |text: &str, most: usize| text.encode_utf16().count() <= most;
    if tags.iter().any(|(key, value)| key.is_empty() || !fits(key, TAG_KEY_UNITS_MAX) || !fits(value, TAG_VALUE_UNITS_MAX)) {
        return Err(malformed("a tag has a key of 1 to 128 characters, and a value of at most 256"));
    }
    Ok(())
}
