//! Walks over the versions and uploads of a bucket, in the order of the rows, that find what is doomed. Nothing is changed here.
//!
//! Always holds: whether a version is doomed is judged by how it stands among those of its key at this moment, also where a walk
//! begins in the midst of them.

use protocol::{BucketId, Revision, VersionId};
use runtime::planted;

use super::rules::{Judge, NEWER_MAX, Seen, Standing};
use crate::bucket::malformed;
use crate::rows::{Read, UploadRow, VersionHead, decode, decode_head, unreadable};
use crate::{Doomed, Error, keys};

/// Rows of a key that are looked at to say how many newer objects a version has, where a walk begins at it.
const ABOVE_ROWS_MAX: u32 = 1024;

/// How far a walk goes.
pub(crate) struct Bounds {
    pub rows: u32,
    pub bytes: usize,
    /// No further than to the first that is doomed.
    pub first_only: bool,
}

/// What a walk found.
#[derive(Default)]
pub(crate) struct Walked {
    pub doomed: Vec<(String, Doomed)>,
    /// The row at which to go on.
    pub at: Vec<u8>,
    /// There is none.
    pub end: bool,
    pub read: u32,
}

/// The rows of a key above the one that is looked at.
struct Above {
    key: String,
    /// The next newer one.
    since: Revision,
    /// Objects among them, without the current version.
    objects: u32,
}

/// Walk from the row `at` on; empty: from the first.
pub(crate) fn walk(rows: &impl Read, bucket: BucketId, judge: &Judge<'_>, at: &[u8], bounds: &Bounds) -> Result<Walked, Error> {
    let (objects, uploads) = (keys::prefixed(keys::OBJECTS, bucket, ""), keys::prefixed(keys::UPLOADS, bucket, ""));
    let inside = at.is_empty() || [&objects, &uploads].iter().any(|range| range.start.as_slice() <= at && at <= range.end.as_slice());
    if !inside {
        return Err(malformed("a walk leaves its bucket"));
    }
    let mut walk = Walk { rows, bucket, judge, bounds, bytes: 0, above: None, found: Walked::default() };
    if at < objects.end.as_slice() && !walk.through(at.max(objects.start.as_slice()), &objects.end, Walk::version)? {
        return Ok(walk.found);
    }
    if walk.through(at.max(uploads.start.as_slice()), &uploads.end, Walk::upload)? {
        walk.found.at = uploads.end;
        walk.found.end = true;
    }
    Ok(walk.found)
}

struct Walk<'a, R> {
    rows: &'a R,
    bucket: BucketId,
    judge: &'a Judge<'a>,
    bounds: &'a Bounds,
    bytes: usize,
    above: Option<Above>,
    found: Walked,
}

impl<R: Read> Walk<'_, R> {
    /// Whether it came to the end of these rows.
    fn through(
        &mut self,
        from: &[u8],
        to: &[u8],
        look: impl Fn(&mut Self, &[u8], &[u8]) -> Result<Option<(String, Doomed)>, Error>,
    ) -> Result<bool, Error> {
        let (rows, mut ended) = (self.rows, Ok(true));
        rows.visit(from, to, &mut |row, value| {
            if self.found.read >= self.bounds.rows || self.bytes >= self.bounds.bytes {
                self.found.at = row.to_vec();
                ended = Ok(false);
                return false;
            }
            self.found.read += 1;
            self.bytes += row.len() + value.len();
            match look(self, row, value) {
                Ok(None) => true,
                Ok(Some(doomed)) => {
                    self.found.doomed.push(doomed);
                    if self.bounds.first_only {
                        self.found.at = row.to_vec();
                        ended = Ok(false);
                    }
                    !self.bounds.first_only
                }
                Err(error) => {
                    ended = Err(error);
                    false
                }
            }
        });
        ended
    }

    fn version(&mut self, row: &[u8], value: &[u8]) -> Result<Option<(String, Doomed)>, Error> {
        let (key, revision) = named(row)?;
        let above = match self.above.take() {
            Some(above) if above.key == key => Some(above),
            None => above(self.rows, self.bucket, &key, row)?,
            Some(_) => None,
        };
        let head: VersionHead<'_> = decode_head(row, value)?;
        let is_object = matches!(head, VersionHead::Object(_));
        let standing = match &above {
            Some(above) if planted("noncurrent-age-from-its-own-birth") => Standing::Noncurrent { since: revision, newer: above.objects },
            Some(above) => Standing::Noncurrent { since: above.since, newer: above.objects },
            None => Standing::Current { alone: !is_object && self.is_last(&key, row) },
        };
        let (object, null) = match &head {
            VersionHead::Object(head) => (Some((head.bytes, head.tags.as_slice())), head.null),
            VersionHead::Marker(marker) => (None, marker.null),
        };
        let aged = if planted("expiry-ignores-newer-write") && above.is_none() { self.oldest(&key)?.unwrap_or(revision) } else { revision };
        let doomed = self.judge.dooms(&Seen { key: &key, revision: aged, object, standing });
        let objects = above.as_ref().map_or(0, |above| above.objects.saturating_add(u32::from(is_object)));
        let what = match standing {
            Standing::Current { .. } if is_object => Doomed::Current(revision),
            _ => Doomed::Version(revision, if null { VersionId::Null } else { VersionId::Numbered(revision) }),
        };
        let found = doomed.then(|| (key.clone(), what));
        self.above = Some(Above { key, since: revision, objects });
        Ok(found)
    }

    fn upload(&mut self, row: &[u8], value: &[u8]) -> Result<Option<(String, Doomed)>, Error> {
        let UploadRow { revision, upload } = decode(row, value)?;
        Ok(self.judge.dooms_upload(&upload.key, revision).then_some((upload.key, Doomed::Upload(upload.id))))
    }

    fn is_last(&self, key: &str, row: &[u8]) -> bool {
        self.rows.first_in(&keys::successor(row), &keys::versions(self.bucket, key).end).is_none()
    }

    /// The revision of the oldest version of a key.
    fn oldest(&self, key: &str) -> Result<Option<Revision>, Error> {
        let all = keys::versions(self.bucket, key);
        self.rows.last_in(&all.start, &all.end).map(|(row, _)| named(&row).map(|(_, revision)| revision)).transpose()
    }
}

/// What stands above `row` among the versions of its key, where a walk begins.
fn above(rows: &impl Read, bucket: BucketId, key: &str, row: &[u8]) -> Result<Option<Above>, Error> {
    let start = keys::versions(bucket, key).start;
    let Some((next, _)) = rows.last_in(&start, row) else { return Ok(None) };
    let since = named(&next)?.1;
    let (mut objects, mut seen, mut failed) = (0, 0, None);
    rows.visit(&start, row, &mut |row, value| {
        match decode_head(row, value) {
            // The first one is current.
            Ok(VersionHead::Object(_)) if seen > 0 => objects += 1,
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
        seen += 1;
        failed.is_none() && objects < NEWER_MAX && seen < ABOVE_ROWS_MAX
    });
    // Not looked at to the end: fewer than there are, so that more of them stay.
    failed.map_or(Ok(Some(Above { key: key.to_string(), since, objects })), Err)
}

/// Key and revision of a version's row.
fn named(row: &[u8]) -> Result<(String, Revision), Error> {
    let found = keys::split(row).and_then(|(key, inverted)| Some((key, Revision(!u64::from_be_bytes(inverted.try_into().ok()?)))));
    found.ok_or_else(|| unreadable(row, "its key is no key"))
}
