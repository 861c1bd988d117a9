//! Keys of a partition's rows. Always holds: rows sort as S3 sorts, whatever the object keys contain.
//!
//! A family byte, then numbers in big endian, then (objects and uploads) the object key, escaped: a byte 0 becomes
//! `00 FF`, and `00 00` ends the key. So `a` < `a/b` < `a/b/c` and `a` < `a\0` < `a\u{1}`, as the bytes of the keys
//! do, and no key is a prefix of another one.

use protocol::{BlobId, BucketId, Revision, UploadId, WriterId};
use std::ops::Range;

use crate::GarbageId;

/// Rows of buckets: state, attempt, counts.
pub const BUCKETS: u8 = b'b';
/// Results of completed uploads, by upload.
pub const COMPLETED: u8 = b'c';
/// Completed uploads by revision, oldest first.
pub const COMPLETIONS: u8 = b'd';
/// The garbage queue, by revision.
pub const GARBAGE: u8 = b'g';
/// Lifecycles of buckets, and where the walks that carry them out are.
pub const LIFECYCLES: u8 = b'l';
/// Where the null versions of keys are that are not their newest, by key.
pub const NULLS: u8 = b'n';
/// Object versions, by key, newest first.
pub const OBJECTS: u8 = b'o';
/// Parts, by upload and number.
pub const PARTS: u8 = b'p';
/// The counters row.
pub const COUNTERS: u8 = b'r';
/// Numbers of the parts that a completed upload did not name, by upload.
pub const UNNAMED: u8 = b's';
/// The row of ages.
pub const AGES: u8 = b't';
/// Uploads under way, by key and id.
pub const UPLOADS: u8 = b'u';
/// Floors of writers.
pub const FLOORS: u8 = b'w';
/// Every blob that a row of this partition names.
pub const BLOBS: u8 = b'x';

const END: [u8; 2] = [0, 0];
/// Behind every row of a key, and before every row of the next one.
const AFTER_END: [u8; 2] = [0, 1];

/// The one row of the revision counter.
pub fn counters() -> Vec<u8> {
    vec![COUNTERS]
}

/// The row of a bucket's incarnation.
pub fn bucket(bucket: BucketId) -> Vec<u8> {
    numbered(BUCKETS, &bucket.0.to_be_bytes())
}

/// The lifecycle of a bucket's incarnation.
pub fn lifecycle(bucket: BucketId) -> Vec<u8> {
    numbered(LIFECYCLES, &bucket.0.to_be_bytes())
}

/// The bucket whose lifecycle this row is.
pub fn lifecycle_of(row: &[u8]) -> Option<BucketId> {
    row.strip_prefix(&[LIFECYCLES])?.try_into().ok().map(|number| BucketId(u64::from_be_bytes(number)))
}

/// The one row that says how old revisions are.
pub fn ages() -> Vec<u8> {
    vec![AGES]
}

/// One version of an object: newer versions sort before older ones.
pub fn object(bucket: BucketId, key: &str, revision: Revision) -> Vec<u8> {
    let mut row = keyed(OBJECTS, bucket, key);
    row.extend(END);
    row.extend((!revision.0).to_be_bytes());
    row
}

/// All versions of an object, newest first.
pub fn versions(bucket: BucketId, key: &str) -> Range<Vec<u8>> {
    let mut from = keyed(OBJECTS, bucket, key);
    from.extend(END);
    from..after_key(OBJECTS, bucket, key)
}

/// The revision of a null version that is not the newest of its key.
pub fn null(bucket: BucketId, key: &str) -> Vec<u8> {
    let mut row = keyed(NULLS, bucket, key);
    row.extend(END);
    row
}

/// An upload under way.
pub fn upload(bucket: BucketId, key: &str, upload: UploadId) -> Vec<u8> {
    let mut row = keyed(UPLOADS, bucket, key);
    row.extend(END);
    row.extend(upload.0.to_be_bytes());
    row
}

/// Part `number` of an upload, under way or completed.
pub fn part(upload: UploadId, number: u16) -> Vec<u8> {
    let mut row = numbered(PARTS, &upload.0.to_be_bytes());
    row.extend(number.to_be_bytes());
    row
}

/// The parts of an upload with `number >= first`, in order.
pub fn parts(upload: UploadId, first: u16) -> Range<Vec<u8>> {
    part(upload, first)..successor(&numbered(PARTS, &upload.0.to_be_bytes()))
}

/// Numbers of the parts that a completed upload did not name.
pub fn unnamed(upload: UploadId) -> Vec<u8> {
    numbered(UNNAMED, &upload.0.to_be_bytes())
}

/// The result of a completed upload.
pub fn completed(upload: UploadId) -> Vec<u8> {
    numbered(COMPLETED, &upload.0.to_be_bytes())
}

/// The upload that was completed at `revision`.
pub fn completion(revision: Revision) -> Vec<u8> {
    numbered(COMPLETIONS, &revision.0.to_be_bytes())
}

/// An entry of the garbage queue.
pub fn garbage(id: GarbageId) -> Vec<u8> {
    let mut row = numbered(GARBAGE, &id.revision.0.to_be_bytes());
    row.push(id.ordinal);
    row
}

/// The garbage entry whose row this is.
pub fn garbage_of(row: &[u8]) -> Option<GarbageId> {
    let (revision, ordinal) = row.strip_prefix(&[GARBAGE])?.split_last_chunk::<1>()?;
    Some(GarbageId { revision: Revision(u64::from_be_bytes(revision.try_into().ok()?)), ordinal: ordinal[0] })
}

/// The floor of a writer.
pub fn floor(writer: WriterId) -> Vec<u8> {
    numbered(FLOORS, &writer.0.to_be_bytes())
}

/// The row that says that a blob is named in this partition.
pub fn blob(blob: BlobId) -> Vec<u8> {
    let mut row = numbered(BLOBS, &blob.writer.0.to_be_bytes());
    row.extend(blob.counter.to_be_bytes());
    row
}

/// All rows of a family.
pub fn family(family: u8) -> Range<Vec<u8>> {
    vec![family]..vec![family + 1]
}

/// Rows of `family` (objects or uploads) in a bucket whose key starts with `prefix`.
pub fn prefixed(family: u8, bucket: BucketId, prefix: &str) -> Range<Vec<u8>> {
    let from = keyed(family, bucket, prefix);
    let to = successor(&from);
    from..to
}

/// Behind every row of `key` in `family`, and before every row of the next key.
pub fn after_key(family: u8, bucket: BucketId, key: &str) -> Vec<u8> {
    let mut row = keyed(family, bucket, key);
    row.extend(AFTER_END);
    row
}

/// The object key in a row of objects or uploads, and what follows it (inverted revision, or upload id).
/// `None` if it is no such row.
pub fn split(row: &[u8]) -> Option<(String, &[u8])> {
    let mut rest = row.get(9..)?;
    let mut key = Vec::with_capacity(rest.len());
    loop {
        let zero = rest.iter().position(|byte| *byte == 0)?;
        key.extend_from_slice(&rest[..zero]);
        match rest.get(zero + 1)? {
            0 => return Some((String::from_utf8(key).ok()?, &rest[zero + 2..])),
            0xFF => key.push(0),
            _ => return None,
        }
        rest = &rest[zero + 2..];
    }
}

/// The smallest row key that sorts after everything that starts with `start`.
pub fn successor(start: &[u8]) -> Vec<u8> {
    let mut end = start.to_vec();
    while end.pop_if(|byte| *byte == 0xFF).is_some() {}
    *end.last_mut().expect("starts with a family byte, none of which is FF") += 1;
    end
}

fn numbered(family: u8, number: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + number.len() + 8);
    row.push(family);
    row.extend_from_slice(number);
    row
}

fn keyed(family: u8, bucket: BucketId, key: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + 8 + key.len() + 18);
    row.push(family);
    row.extend(bucket.0.to_be_bytes());
    for byte in key.bytes() {
        row.push(byte);
        if byte == 0 {
            row.push(0xFF);
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketId = BucketId(7);

    #[test]
    fn rows_sort_as_the_bytes_of_their_keys() {
        fn sorted(left: String, right: String) -> bool {
            let row = |key: &str| object(BUCKET, key, Revision(1));
            row(&left).cmp(&row(&right)) == left.as_bytes().cmp(right.as_bytes())
        }
        quickcheck::quickcheck(sorted as fn(String, String) -> bool);
        let keys = ["", "\0", "\0\0", "\0a", "\u{1}", "a", "a\0", "a\0b", "a\u{1}", "a/b", "a/b/c", "a0", "é", "\u{ffff}", "\u{10ffff}"];
        for left in keys {
            for right in keys {
                assert!(sorted(left.into(), right.into()), "{left:?} {right:?}");
            }
        }
    }

    #[test]
    fn newer_versions_sort_before_older_ones_inside_their_key() {
        assert!(object(BUCKET, "a", Revision(2)) < object(BUCKET, "a", Revision(1)));
        assert!(object(BUCKET, "a", Revision(1)) < object(BUCKET, "a\0", Revision(2)));
        let versions = versions(BUCKET, "a");
        assert!(versions.contains(&object(BUCKET, "a", Revision(u64::MAX))) && versions.contains(&object(BUCKET, "a", Revision(0))));
        assert!(!versions.contains(&object(BUCKET, "a\0", Revision(u64::MAX))));
    }

    #[test]
    fn a_row_gives_its_key_back() {
        fn back(key: String, revision: u64) -> bool {
            let row = object(BUCKET, &key, Revision(revision));
            split(&row) == Some((key, &(!revision).to_be_bytes()[..]))
        }
        quickcheck::quickcheck(back as fn(String, u64) -> bool);
        assert!(back("a\0\0b\0".into(), 0));
    }

    #[test]
    fn a_prefix_range_holds_exactly_the_keys_with_that_prefix() {
        fn holds(prefix: String, key: String, join: bool) -> bool {
            let key = if join { format!("{prefix}{key}") } else { key };
            prefixed(OBJECTS, BUCKET, &prefix).contains(&object(BUCKET, &key, Revision(1))) == key.starts_with(&prefix)
        }
        quickcheck::quickcheck(holds as fn(String, String, bool) -> bool);
        for (prefix, key) in [("a\0", "a"), ("a\0", "a\0b"), ("a\0", "a\u{1}"), ("\0", "\0\0"), ("\u{10ffff}", "\u{10ffff}\u{10ffff}")] {
            assert!(holds(prefix.into(), key.into(), false), "{prefix:?} {key:?}");
        }
    }

    #[test]
    fn the_successor_of_all_ones_is_in_the_next_family() {
        assert_eq!(prefixed(OBJECTS, BucketId(u64::MAX), "").end, [OBJECTS + 1]);
    }
}
