//! Listings of one partition: ordered walks over keys that seek past common prefixes and past versions that are hidden.
//!
//! Always holds: the work of one query is bounded by [`WORK_BYTES`], never by the keys that hide behind a common prefix or the
//! versions behind a current one; a page says `truncated` exactly if there is an entry behind its last one, or if it ran out
//! of work before it could tell.

use protocol::BucketId;
use protocol::record::Headers;
use runtime::{planted, probe};
use std::ops::Range;

use crate::commands::{Page, UploadLine};
use crate::rows::{ChecksumHead, Read, UploadRow, VersionHead, decode, decode_head, unreadable};
use crate::{Error, ListQuery, Listed, ListedVersion, Upload, UploadQuery, VersionQuery, bucket, keys};

/// A page ends early when the rows that were read, and [`SEEK_BYTES`] for each seek, reach this: so little that it is answered
/// before its asker tries another replica, also from a drive that must read all of it. The merge asks on.
pub(crate) const WORK_BYTES: usize = 2 << 20;
/// A seek may read a block that nothing else is found in.
const SEEK_BYTES: usize = 8 << 10;
/// A page of whole rows ends, with at least one entry, when they reach this.
pub(crate) const REPLY_BYTES: usize = 2 << 20;

/// Keys that have a current object, and common prefixes of such.
pub(crate) fn objects(rows: &impl Read, bucket: BucketId, query: &ListQuery, work_max: usize) -> Result<Page<Listed>, Error> {
    bucket::readable(rows, bucket)?;
    let mut walk = Walk::new(keys::OBJECTS, bucket, &query.prefix, query.delimiter.as_deref(), query.max);
    if let Some(after) = &query.after {
        walk.start_after(after, None);
    }
    if let Some(passed) = &query.passed {
        walk.start_at(keys::after_key(keys::OBJECTS, bucket, passed));
    }
    let mut lost = planted("list-drops-key-at-page-border") && query.after.is_some();
    let mut last = String::new();
    walk.run(rows, work_max, Listed::Prefix, |row, key, value| {
        if key == last {
            return Ok(Judged::Behind);
        }
        last.clone_from(&key);
        if std::mem::take(&mut lost) {
            return Ok(Judged::Nothing);
        }
        match decode_head(row, value)? {
            VersionHead::Object(head) => Ok(Judged::Entry(Listed::Object {
                key,
                bytes: head.bytes,
                etag: head.etag.to_string(),
                modified_ms: head.modified_ms,
                checksum: kind(head.checksum),
            })),
            VersionHead::Marker(_) if planted("delete-marker-hides-nothing") => {
                last.clear();
                Ok(Judged::Nothing)
            }
            VersionHead::Marker(_) => {
                probe!("list-passed-a-delete-marker");
                Ok(Judged::Nothing)
            }
        }
    })
}

/// Versions, markers and common prefixes.
pub(crate) fn versions(rows: &impl Read, bucket: BucketId, query: &VersionQuery, work_max: usize) -> Result<Page<ListedVersion>, Error> {
    bucket::readable(rows, bucket)?;
    let mut walk = Walk::new(keys::OBJECTS, bucket, &query.prefix, query.delimiter.as_deref(), query.max);
    let mut last = String::new();
    if let Some(after) = &query.after_key {
        let inside = query.after_version.filter(|_| !planted("versions-listed-without-noncurrent-at-page-border"));
        walk.start_after(after, inside.map(|version| keys::object(bucket, after, version)));
        // Those that are listed first may have been removed since: then an older one is the latest.
        let all = keys::versions(bucket, after);
        if rows.first_in(&all.start, &all.end).is_some_and(|(first, _)| first < walk.range.start) {
            last.clone_from(after);
        }
    }
    walk.run(rows, work_max, ListedVersion::Prefix, |row, key, value| {
        let latest = key != last;
        if latest {
            last.clone_from(&key);
        }
        Ok(Judged::Entry(match decode_head(row, value)? {
            VersionHead::Object(head) => ListedVersion::Object {
                key,
                revision: head.revision,
                null: head.null,
                latest,
                bytes: head.bytes,
                etag: head.etag.to_string(),
                modified_ms: head.modified_ms,
                checksum: kind(head.checksum),
            },
            VersionHead::Marker(marker) => ListedVersion::Marker { key, latest, marker },
        }))
    })
}

/// Uploads under way and common prefixes.
pub(crate) fn uploads(rows: &impl Read, bucket: BucketId, query: &UploadQuery, work_max: usize) -> Result<Page<UploadLine>, Error> {
    bucket::readable(rows, bucket)?;
    let mut walk = Walk::new(keys::UPLOADS, bucket, &query.prefix, query.delimiter.as_deref(), query.max);
    if let Some(after) = &query.after_key {
        walk.start_after(after, query.after_upload.map(|upload| keys::upload(bucket, after, upload)));
    }
    walk.run(rows, work_max, UploadLine::Prefix, |row, _, value| {
        // Of what the object will have a listing says nothing, and there may be a lot of it.
        let upload = Upload { headers: Headers::default(), tags: Vec::new(), ..decode::<UploadRow>(row, value)?.upload };
        Ok(Judged::Entry(UploadLine::Upload(upload)))
    })
}

fn kind(checksum: Option<ChecksumHead<'_>>) -> Option<(protocol::ChecksumKind, bool)> {
    checksum.map(|checksum| (checksum.kind, checksum.composite))
}

/// A walk over the rows of one family whose keys start with a prefix.
struct Walk<'a> {
    family: u8,
    bucket: BucketId,
    prefix: &'a str,
    delimiter: Option<&'a str>,
    max: usize,
    range: Range<Vec<u8>>,
}

/// What a row is to a listing.
enum Judged<T> {
    Entry(T),
    Nothing,
    /// Nothing, and so are all rows behind it of the same key.
    Behind,
}

/// Why a scan ended.
enum Stop {
    /// No more rows.
    End,
    /// There is more than the page takes.
    Full,
    /// Too much was read.
    Tired,
    /// The rest of a key or of a common prefix makes no entry: go on behind it.
    Seek(Vec<u8>),
    Failed(Error),
}

impl<'a> Walk<'a> {
    fn new(family: u8, bucket: BucketId, prefix: &'a str, delimiter: Option<&'a str>, max: u32) -> Walk<'a> {
        Walk {
            family,
            bucket,
            prefix,
            delimiter: delimiter.filter(|delimiter| !delimiter.is_empty()),
            max: (max as usize).min(protocol::limits::LIST_KEYS_MAX),
            range: keys::prefixed(family, bucket, prefix),
        }
    }

    /// Only entries that sort after `after`; with `row`, one of that very key, also the rows of it that follow.
    fn start_after(&mut self, after: &str, row: Option<Vec<u8>>) {
        let start = match (self.common_prefix(after), row) {
            // `after` lies inside a common prefix, so that one sorts before it or equals it.
            (Some(hidden), _) => keys::prefixed(self.family, self.bucket, &after[..hidden]).end,
            (None, Some(row)) => keys::successor(&row),
            (None, None) => keys::after_key(self.family, self.bucket, after),
        };
        self.start_at(start);
    }

    fn start_at(&mut self, start: Vec<u8>) {
        if start > self.range.start {
            self.range.start = start;
        }
    }

    /// The length of the common prefix into which `key` is rolled up.
    fn common_prefix(&self, key: &str) -> Option<usize> {
        let delimiter = self.delimiter?;
        let at = key.strip_prefix(self.prefix)?.find(delimiter)?;
        Some(self.prefix.len() + at + delimiter.len())
    }

    /// Collect a page for work of about `work_max` bytes; `judge` says what a row is (its row key, its key, its value). A
    /// common prefix is listed if it holds an entry.
    fn run<T>(
        mut self,
        rows: &impl Read,
        work_max: usize,
        prefix_line: impl Fn(String) -> T,
        mut judge: impl FnMut(&[u8], String, &[u8]) -> Result<Judged<T>, Error>,
    ) -> Result<Page<T>, Error> {
        let mut entries = Vec::new();
        let mut work = 0;
        let mut read = 0_u32;
        if self.max == 0 {
            return Ok(Page { entries, truncated: false, passed: None, read });
        }
        let mut walked: Option<String> = None;
        loop {
            let mut stop = Stop::End;
            rows.visit(&self.range.start, &self.range.end, &mut |row, value| {
                let Some((key, _)) = keys::split(row) else {
                    stop = Stop::Failed(unreadable(row, "its key is no key"));
                    return false;
                };
                if work >= work_max && (!entries.is_empty() || walked.as_ref().is_some_and(|walked| *walked != key)) {
                    probe!("list-ran-out-of-work");
                    stop = Stop::Tired;
                    return false;
                }
                work += row.len() + value.len();
                read += 1;
                let hidden = self.common_prefix(&key);
                stop = match judge(row, key.clone(), value) {
                    Err(error) => Stop::Failed(error),
                    Ok(Judged::Behind) => {
                        let behind = keys::after_key(self.family, self.bucket, &key);
                        walked = Some(key);
                        Stop::Seek(behind)
                    }
                    Ok(Judged::Nothing) => {
                        walked = Some(key);
                        return true;
                    }
                    Ok(Judged::Entry(_)) if entries.len() >= self.max => Stop::Full,
                    Ok(Judged::Entry(entry)) => {
                        let Some(hidden) = hidden else {
                            entries.push(entry);
                            walked = Some(key);
                            return true;
                        };
                        probe!("list-sought-past-a-common-prefix");
                        entries.push(prefix_line(key[..hidden].to_string()));
                        Stop::Seek(keys::prefixed(self.family, self.bucket, &key[..hidden]).end)
                    }
                };
                false
            });
            match stop {
                Stop::End => return Ok(Page { entries, truncated: false, passed: None, read }),
                Stop::Full => return Ok(Page { entries, truncated: true, passed: None, read }),
                // The last entry says where to go on, if there is one.
                Stop::Tired => {
                    let passed = walked.filter(|_| entries.is_empty());
                    return Ok(Page { entries, truncated: true, passed, read });
                }
                Stop::Seek(behind) => {
                    work += SEEK_BYTES;
                    self.range.start = behind;
                }
                Stop::Failed(error) => return Err(error),
            }
        }
    }
}
