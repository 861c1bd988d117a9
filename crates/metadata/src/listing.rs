//! Listings of one partition: ordered walks over keys that seek past common prefixes.
//!
//! Always holds: the work of one query is bounded by the entries that it returns and by [`WORK_BYTES`], never by the
//! keys that hide behind a common prefix; a page says `truncated` exactly if there is an entry behind its last one.

use protocol::{BucketId, UploadId};
use runtime::{planted, probe};
use std::ops::Range;

use crate::commands::{Page, UploadLine};
use crate::rows::{Read, RecordHead, UploadRow, decode, decode_head, unreadable};
use crate::{Error, ListQuery, Listed, UploadQuery, bucket, keys};

/// A page ends early, with at least one entry, when the rows that were read reach this.
const WORK_BYTES: usize = 16 << 20;
/// A page of whole rows ends, with at least one entry, when they reach this.
pub(crate) const REPLY_BYTES: usize = 2 << 20;

/// Keys and common prefixes.
pub(crate) fn objects(rows: &impl Read, bucket: BucketId, query: &ListQuery) -> Result<Page<Listed>, Error> {
    bucket::readable(rows, bucket)?;
    let mut walk = Walk::new(keys::OBJECTS, bucket, &query.prefix, query.delimiter.as_deref(), query.max);
    if let Some(after) = &query.after {
        walk.start_after(after, None);
    }
    let mut lost = planted("list-drops-key-at-page-border") && query.after.is_some();
    let mut last = String::new();
    walk.run(rows, Listed::Prefix, |row, key, value| {
        if std::mem::take(&mut lost) || key == last {
            // Older versions of a key follow the one that is listed.
            return Ok(None);
        }
        let head: RecordHead<'_> = decode_head(row, value)?;
        last.clone_from(&key);
        Ok(Some(Listed::Object {
            key,
            bytes: head.bytes,
            etag: head.etag.to_string(),
            modified_ms: head.modified_ms,
            checksum: head.checksum.map(|checksum| (checksum.kind, checksum.composite)),
        }))
    })
}

/// Uploads under way and common prefixes.
pub(crate) fn uploads(rows: &impl Read, bucket: BucketId, query: &UploadQuery) -> Result<Page<UploadLine>, Error> {
    bucket::readable(rows, bucket)?;
    let mut walk = Walk::new(keys::UPLOADS, bucket, &query.prefix, query.delimiter.as_deref(), query.max);
    if let Some(after) = &query.after_key {
        walk.start_after(after, query.after_upload);
    }
    walk.run(rows, UploadLine::Prefix, |row, _, value| Ok(Some(UploadLine::Upload(decode::<UploadRow>(row, value)?.upload))))
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

/// Why a scan ended.
enum Stop {
    /// No more rows.
    End,
    /// There is more than the page takes.
    Full,
    /// A common prefix was entered: go on behind it.
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

    /// Only entries that sort after `after`, and with `after_upload` those of that very key with a greater id.
    fn start_after(&mut self, after: &str, after_upload: Option<UploadId>) {
        let start = match (self.common_prefix(after), after_upload) {
            // `after` lies inside a common prefix, so that one sorts before it or equals it.
            (Some(hidden), _) => keys::prefixed(self.family, self.bucket, &after[..hidden]).end,
            (None, Some(upload)) => keys::successor(&keys::upload(self.bucket, after, upload)),
            (None, None) => keys::after_key(self.family, self.bucket, after),
        };
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

    /// Collect a page; `line` makes an entry of a row (its row key, its key, its value), or none.
    fn run<T>(
        mut self,
        rows: &impl Read,
        prefix_line: impl Fn(String) -> T,
        mut line: impl FnMut(&[u8], String, &[u8]) -> Result<Option<T>, Error>,
    ) -> Result<Page<T>, Error> {
        let mut entries = Vec::new();
        let mut work = 0;
        if self.max == 0 {
            return Ok(Page { entries, truncated: false });
        }
        loop {
            let mut stop = Stop::End;
            rows.visit(&self.range.start, &self.range.end, &mut |row, value| {
                let Some((key, _)) = keys::split(row) else {
                    stop = Stop::Failed(unreadable(row, "its key is no key"));
                    return false;
                };
                let hidden = self.common_prefix(&key);
                if entries.len() >= self.max || (work >= WORK_BYTES && !entries.is_empty()) {
                    // A row that makes no entry does not make a page truncated.
                    stop = match hidden.map_or_else(|| Ok(line(row, key, value)?.is_some()), |_| Ok(true)) {
                        Ok(false) => return true,
                        Ok(true) => Stop::Full,
                        Err(error) => Stop::Failed(error),
                    };
                    return false;
                }
                work += row.len() + value.len();
                if let Some(hidden) = hidden {
                    probe!("list-sought-past-a-common-prefix");
                    let common = &key[..hidden];
                    stop = Stop::Seek(keys::prefixed(self.family, self.bucket, common).end);
                    entries.push(prefix_line(common.to_string()));
                    return false;
                }
                match line(row, key, value) {
                    Ok(made) => entries.extend(made),
                    Err(error) => {
                        stop = Stop::Failed(error);
                        return false;
                    }
                }
                true
            });
            match stop {
                Stop::End => return Ok(Page { entries, truncated: false }),
                Stop::Full => return Ok(Page { entries, truncated: true }),
                Stop::Seek(behind) => self.range.start = behind,
                Stop::Failed(error) => return Err(error),
            }
        }
    }
}
