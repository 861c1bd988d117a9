//! Values of a partition's rows: a format version, then postcard. Checksums over key and value are put beneath by
//! `consensus`, so that what is read here is what was written under that key.

use bytes::Bytes;
use consensus::{Rows, RowsMut};
use protocol::{BlobRef, BucketId, Home, Lifecycle, Marker, Record, Revision, UploadId, Versioning, wire};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Cursor, Error, Part, Upload, keys};

/// Whether a bucket takes writes in this partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BucketState {
    Open,
    /// A DeleteBucket is under way.
    Closed,
    /// The incarnation is gone for good. The row stays, so that a delayed open cannot bring it back.
    Removed,
}

/// Which keys of a bucket lie in a partition: those with `key_hash % of == index`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Share {
    pub index: u32,
    pub of: u32,
}

impl Share {
    /// Whether a key of this hash lies here.
    pub fn holds(self, key_hash: u64) -> bool {
        key_hash % u64::from(self.of.max(1)) == u64::from(self.index)
    }
}

/// Row of a bucket's incarnation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BucketRow {
    pub state: BucketState,
    /// Highest attempt of the root group that was obeyed.
    pub attempt: u64,
    pub share: Share,
    pub versioning: Versioning,
    /// Versions that are no markers.
    pub objects: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Uploads under way.
    pub uploads: u64,
}

/// The counters row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counters {
    /// The last one given.
    pub revision: Revision,
    /// Results of completed uploads that are kept.
    pub completed: u32,
}

impl Default for Counters {
    /// Of a partition that took no command yet.
    fn default() -> Counters {
        Counters { revision: Revision(0), completed: 0 }
    }
}

/// Row of a bucket's lifecycle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LifecycleRow {
    pub lifecycle: Lifecycle,
    /// Where the walk that carries it out is.
    pub cursor: Cursor,
    /// Cluster time of its last step, in milliseconds: none goes back behind it.
    pub walked_ms: u64,
}

/// The row of ages.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ages {
    /// What has a revision up to this one was made when cluster time, in milliseconds, was no later than this. Both rise.
    pub marks: Vec<(Revision, u64)>,
}

/// An upload under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UploadRow {
    pub revision: Revision,
    pub upload: Upload,
}

/// A part. Its first fields can be read without its blobs: see [`PartHead`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartRow {
    /// Of the upload of this part: tells a part from the one that it replaced.
    pub revision: Revision,
    pub part: Part,
}

/// The result of a completed upload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CompletedRow {
    pub bucket: BucketId,
    pub key: String,
    pub record: Record,
    /// Whether clients are told its version id.
    pub versioned: bool,
}

/// What an entry of the garbage queue gives up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Condemned {
    Blobs(Vec<BlobRef>),
    /// All part rows of an upload.
    Upload(UploadId),
    /// The part rows that Complete did not name; their numbers are in the row of unnamed parts.
    Unnamed(UploadId),
}

/// An entry of the garbage queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GarbageRow {
    pub home: Home,
    pub condemned: Condemned,
}

/// A version without headers and body of its record, borrowed from its row. The variants are those of
/// [`protocol::Version`], in order.
#[derive(Deserialize)]
pub(crate) enum VersionHead<'a> {
    #[serde(borrow)]
    Object(RecordHead<'a>),
    Marker(Marker),
}

/// A record up to its tags, without its headers and its body, borrowed from its row. The fields are those of [`Record`], in order.
#[derive(Deserialize)]
pub(crate) struct RecordHead<'a> {
    pub revision: Revision,
    pub null: bool,
    pub bytes: u64,
    pub etag: &'a str,
    #[serde(borrow)]
    pub checksum: Option<ChecksumHead<'a>>,
    #[serde(borrow)]
    _headers: HeadersHead<'a>,
    pub modified_ms: u64,
    #[serde(borrow)]
    pub tags: Vec<(&'a str, &'a str)>,
}

/// A checksum, borrowed. The fields are those of [`protocol::Checksum`], in order.
#[derive(Deserialize)]
pub(crate) struct ChecksumHead<'a> {
    pub kind: protocol::ChecksumKind,
    pub value: &'a [u8],
    pub composite: bool,
}

/// Six content headers and the user's, borrowed. The fields are those of [`protocol::record::Headers`], in order.
#[derive(Deserialize)]
struct HeadersHead<'a> {
    #[serde(borrow)]
    _content: [Option<&'a str>; 6],
    #[serde(borrow)]
    _user: Vec<(&'a str, &'a str)>,
}

/// A part row without its body, borrowed. The fields are those of [`PartRow`] and [`Part`], in order.
#[derive(Deserialize)]
pub(crate) struct PartHead<'a> {
    pub _revision: Revision,
    pub number: u16,
    pub bytes: u64,
    pub etag: &'a str,
    #[serde(borrow)]
    pub checksum: Option<ChecksumHead<'a>>,
}

/// What [`Rows`] and [`RowsMut`] have in common.
pub(crate) trait Read {
    fn bytes(&self, key: &[u8]) -> Option<Bytes>;
    fn first_in(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)>;
    fn last_in(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)>;
    fn visit(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool);

    /// The row `key`, decoded.
    fn row<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Error> {
        self.bytes(key).map(|value| decode(key, &value)).transpose()
    }

    /// The last revision given.
    fn counters(&self) -> Result<Counters, Error> {
        Ok(self.row(&keys::counters())?.unwrap_or_default())
    }
}

impl Read for Rows<'_> {
    fn bytes(&self, key: &[u8]) -> Option<Bytes> {
        self.get(key)
    }

    fn first_in(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        self.first(from, to)
    }

    fn last_in(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        self.last(from, to)
    }

    fn visit(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.scan(from, to, visit);
    }
}

impl Read for RowsMut<'_> {
    fn bytes(&self, key: &[u8]) -> Option<Bytes> {
        self.get(key)
    }

    fn first_in(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        self.first(from, to)
    }

    fn last_in(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        self.last(from, to)
    }

    fn visit(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        self.scan(from, to, visit);
    }
}

/// Write a row.
pub(crate) fn write<T: Serialize>(rows: &mut RowsMut<'_>, key: &[u8], value: &T) {
    rows.put(key, &wire::encode(value));
}

/// Revisions that are left out when the group is founded anew: more than replicas that were lost can have given. Version ids
/// are made of them, caches and marks of ages count by them.
const SKIPPED: u64 = 1 << 32;

/// Leave out the revisions that others may have given.
pub(crate) fn skip_revisions(rows: &mut RowsMut<'_>) -> Result<(), Error> {
    let mut counters = rows.counters()?;
    counters.revision.0 += SKIPPED;
    write(rows, &keys::counters(), &counters);
    Ok(())
}

/// Give the next revision.
pub(crate) fn next_revision(rows: &mut RowsMut<'_>) -> Result<Revision, Error> {
    let mut counters = rows.counters()?;
    counters.revision.0 += 1;
    write(rows, &keys::counters(), &counters);
    Ok(counters.revision)
}

/// The value under `key`. Fails with [`Error::Unavailable`] if a newer build, or a bug, wrote it: this replica cannot
/// answer, another one may.
pub fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, Error> {
    wire::decode(value).map_err(|error| unreadable(key, &error.to_string()))
}

/// The first fields of the value under `key`, borrowed from it.
pub(crate) fn decode_head<'a, T: Deserialize<'a>>(key: &[u8], value: &'a [u8]) -> Result<T, Error> {
    match value.split_first() {
        Some((&wire::FORMAT_VERSION, rest)) => {
            postcard::take_from_bytes(rest).map(|(head, _)| head).map_err(|error| unreadable(key, &error.to_string()))
        }
        _ => Err(unreadable(key, "unknown format version")),
    }
}

/// What to say of a row that cannot be read.
pub(crate) fn unreadable(key: &[u8], why: &str) -> Error {
    let family = key.first().copied().unwrap_or_default();
    Error::Unavailable(format!("a row of family `{}` cannot be read on this replica: {why}", char::from(family)))
}
