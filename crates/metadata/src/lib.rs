#![doc = include_str!("../README.md")]

mod ages;
mod blob;
mod bucket;
pub mod client;
pub mod commands;
mod garbage;
pub mod keys;
mod lifecycle;
mod listing;
mod merge;
mod object;
pub mod partition;
pub mod rows;
mod session;
mod tags;
#[cfg(test)]
mod tests;
mod upload;
mod versions;

pub use client::Client;
pub use lifecycle::Walks;
pub use partition::Partition;

use protocol::record::Headers;
use protocol::{
    BlobRef, Body, BucketId, Checksum, ChecksumKind, GroupId, Home, Marker, Record, Revision, UploadId, Version, VersionId, Versioning,
};
use serde::{Deserialize, Serialize};

/// A bucket as its requests reach partitions: incarnation and the partitions that hold its keys.
/// Key k lies in `partitions[key_hash % partitions.len()]`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BucketRef {
    pub id: BucketId,
    pub partitions: Vec<GroupId>,
}

/// What `If-Match` or `If-None-Match` name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Etags {
    /// `*`
    Any,
    /// Without quotes.
    Of(Vec<String>),
}

/// Conditions on the current version of the key, judged inside the state machine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Preconditions {
    pub if_match: Option<Etags>,
    pub if_none_match: Option<Etags>,
}

/// A part as it was uploaded: a row of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    pub number: u16,
    pub bytes: u64,
    /// MD5 in hex.
    pub etag: String,
    pub checksum: Option<Checksum>,
    pub modified_ms: u64,
    /// Inline or blobs; never parts.
    pub body: Body,
}

/// A multipart upload under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Upload {
    pub id: UploadId,
    pub key: String,
    pub headers: Headers,
    /// Of the version that it becomes, as [`Record::tags`].
    pub tags: Vec<(String, String)>,
    /// Checksum that CreateMultipartUpload asked for, and whether of the full object.
    pub checksum: Option<(ChecksumKind, bool)>,
    pub created_ms: u64,
}

/// A part as CompleteMultipartUpload names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamedPart {
    pub number: u16,
    pub etag: String,
    pub checksum: Option<Checksum>,
}

/// What to list. Keys are ordered by their UTF-8 bytes.
///
/// The entries of a listing are the keys that start with `prefix`; those that contain `delimiter` behind it are
/// rolled up into one common prefix that ends with the first delimiter. An empty delimiter is none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ListQuery {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Only entries that sort after this. A common prefix that equals it or that it starts with is skipped, so that
    /// the last entry of a page, whatever it is, begins the next page.
    pub after: Option<String>,
    /// Most entries, keys and common prefixes together; cut to [`protocol::limits::LIST_KEYS_MAX`]. 0: none.
    pub max: u32,
    /// And only keys behind this one, where an earlier page of this very listing ended without an entry: [`ListPage::passed`]. Unlike
    /// `after` it cuts no common prefix off: what is listed of one that it lies in are the keys behind it.
    pub passed: Option<String>,
}

/// What to list of the versions of a bucket. The entries are the versions and markers of the keys that
/// [`ListQuery`] speaks of, newest first within their key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VersionQuery {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Only entries that sort after this key, as in [`ListQuery::after`].
    pub after_key: Option<String>,
    /// With `after_key`: also the versions of that very key that are older than this one, be it still there or not.
    pub after_version: Option<Revision>,
    /// Most versions, markers and common prefixes together; cut to [`protocol::limits::LIST_KEYS_MAX`]. 0: none.
    pub max: u32,
}

/// One line of a listing of versions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ListedVersion {
    Object {
        key: String,
        revision: Revision,
        null: bool,
        /// It is the current one of its key.
        latest: bool,
        bytes: u64,
        etag: String,
        modified_ms: u64,
        checksum: Option<(ChecksumKind, bool)>,
    },
    Marker {
        key: String,
        latest: bool,
        marker: Marker,
    },
    /// Ends with the delimiter.
    Prefix(String),
}

/// A page of a listing of versions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VersionPage {
    pub entries: Vec<ListedVersion>,
    /// There may be more after the last entry; then there is one. A page may be truncated before it is full.
    pub truncated: bool,
}

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Listed {
    Object {
        key: String,
        bytes: u64,
        etag: String,
        modified_ms: u64,
        checksum: Option<(ChecksumKind, bool)>,
    },
    /// Ends with the delimiter.
    Prefix(String),
}

/// A page of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ListPage {
    pub entries: Vec<Listed>,
    /// There may be more after the last entry, or behind `passed`. A page may be truncated before it is full, also without an entry.
    pub truncated: bool,
    /// Only of a truncated page without entries, and then always: none of the keys up to this one gives an entry.
    pub passed: Option<String>,
    /// Rows that the partitions looked at for it.
    pub read: u32,
}

/// A page of uploads under way, by (key, upload id).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UploadPage {
    pub uploads: Vec<Upload>,
    pub prefixes: Vec<String>,
    /// As [`VersionPage::truncated`].
    pub truncated: bool,
}

/// What to list of the uploads under way.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UploadQuery {
    pub prefix: String,
    pub delimiter: Option<String>,
    pub after_key: Option<String>,
    /// With `after_key`: also uploads of that very key with a greater id.
    pub after_upload: Option<UploadId>,
    /// Most uploads and common prefixes together; cut to [`protocol::limits::LIST_KEYS_MAX`]. 0: none.
    pub max: u32,
}

/// A write was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Applied {
    pub revision: Revision,
    /// The key had a current object before; of a deletion that names a version: it was there.
    pub replaced: bool,
    /// The version that was made, or of a deletion the one that it named. `None` where versioning was never set.
    pub version: Option<VersionId>,
    /// Of a deletion: a marker was made, or the version that it named was one.
    pub marker: bool,
}

/// What Delete asks besides the key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deletion {
    /// Remove exactly this version. `None`: hide the key behind a marker; where versioning was never set, delete it.
    pub version: Option<VersionId>,
    /// Judged on the version that is named, or else on the current one.
    pub conditions: Preconditions,
    /// Of the marker, if one is made.
    pub modified_ms: u64,
}

/// Tags were set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tagged {
    pub revision: Revision,
    /// The version that has them. `None` where versioning was never set.
    pub version: Option<VersionId>,
}

/// What a read found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Found {
    pub version: Option<Version>,
    /// Versioning was set at some time: clients are told version ids.
    pub versioned: bool,
}

/// What Complete made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Completed {
    pub record: Record,
    /// Versioning was set at some time: clients are told version ids.
    pub versioned: bool,
}

/// Why a partition did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// This incarnation is not open here: refresh the bucket's record.
    #[error("bucket not open in this partition")]
    NotOpen,
    /// A DeleteBucket is under way: 409 OperationAborted.
    #[error("bucket is being deleted")]
    Closed,
    /// A bucket command under an old attempt number (I11).
    #[error("stale attempt")]
    StaleAttempt,
    #[error("precondition failed")]
    Precondition,
    /// If-Match on a key that has no version: 404 NoSuchKey.
    #[error("no such key")]
    NoSuchKey,
    /// The version that a command names is not there: 404 NoSuchVersion.
    #[error("no such version")]
    NoSuchVersion,
    /// The version that a command would change is a delete marker: 405 MethodNotAllowed if it was named, else 404 NoSuchKey.
    #[error("a delete marker")]
    Marked(Marker),
    #[error("no such upload")]
    NoSuchUpload,
    /// A part that Complete names is missing or has another ETag or checksum.
    #[error("part {number} is missing or differs")]
    InvalidPart { number: u16 },
    #[error("parts out of order")]
    InvalidPartOrder,
    #[error("part {number} is smaller than 5 MiB")]
    EntityTooSmall { number: u16 },
    /// The commit names a new blob that was settled as an orphan while the commit was under way: certainly not
    /// applied, and never will be. 503; the client's retry writes new blobs.
    #[error("a blob of this write was settled: write it again")]
    Settled,
    #[error("malformed command or query: {0}")]
    Malformed(String),
    /// Certainly not applied.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// May have been applied: never clean up after it.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    #[error("busy")]
    Busy,
}

/// Where the walk that carries out a bucket's lifecycle is in one partition. Each of its steps names the one before, so that of
/// two who walk one comes first, and a late one changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// Under which the lifecycle was set.
    pub attempt: u64,
    /// Walks that came to their end since.
    pub walk: u64,
    /// The row at which it goes on; empty: at the first.
    pub at: Vec<u8>,
}

/// How far a look ahead came, without changing anything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ahead {
    /// The row at which to go on: what is due, or where it had seen enough.
    pub at: Vec<u8>,
    /// What stands there is due.
    pub due: bool,
    /// There is nothing behind it.
    pub end: bool,
    /// Rows that were looked at.
    pub read: u32,
}

/// What a step of a walk removed, and where the walk is since.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Expired {
    pub gone: Vec<Gone>,
    pub cursor: Cursor,
}

/// One thing that expired.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gone {
    pub key: String,
    pub what: Doomed,
    /// That its end made.
    pub revision: Revision,
    /// The marker that hides it from now on, where versioning was ever set.
    pub marker: Option<VersionId>,
}

/// What expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Doomed {
    /// A current object, of that revision.
    Current(Revision),
    /// A version that is not current, or a marker that hides nothing.
    Version(Revision, VersionId),
    Upload(UploadId),
}

/// Place of an entry in a partition's garbage queue: the revision of the command that queued it, and its ordinal
/// in that command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct GarbageId {
    pub revision: Revision,
    pub ordinal: u8,
}

/// The next step of one entry of a garbage queue: blobs that no record names any more, and that no command will
/// ever name again. An entry of a large upload takes many steps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Garbage {
    pub id: GarbageId,
    /// What the headers of their shards carry.
    pub home: Home,
    pub blobs: Vec<BlobRef>,
    /// Tell [`Client::collect`] when all of `blobs` are gone from all slots: the part up to which this step goes.
    pub through: u16,
    /// There is more of this entry behind this step.
    pub more: bool,
}

/// State of a bucket in one partition, for status pages and audits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BucketUsage {
    pub open: bool,
    /// For good.
    pub removed: bool,
    pub attempt: u64,
    pub versioning: Versioning,
    /// Versions that are no markers.
    pub objects: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Uploads under way.
    pub uploads: u64,
}

/// The blobs of a body that a failed commit must leave to the audit, or a refused one may abandon.
pub fn blobs_of(body: &Body) -> &[BlobRef] {
    match body {
        Body::Blobs(blobs) => blobs,
        Body::Inline(_) | Body::Parts { .. } => &[],
    }
}
