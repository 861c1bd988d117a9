//! Partitions: records, uploads, listing, preconditions. Never sees a drive.
//!
//! [`Partition`] is the deterministic state machine; [`Client`] the typed way to it.

pub mod client;
pub mod partition;

pub use client::Client;
pub use partition::Partition;

use protocol::record::Headers;
use protocol::{BlobRef, Body, BucketId, Checksum, ChecksumKind, GroupId, Revision, UploadId};
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ListQuery {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Only what sorts after this. A common prefix that equals it or whose keys would be hidden by it is skipped.
    pub after: Option<String>,
    pub max: u32,
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
    /// There is more after the last entry.
    pub truncated: bool,
}

/// A page of uploads under way, by (key, upload id).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UploadPage {
    pub uploads: Vec<Upload>,
    pub prefixes: Vec<String>,
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
    pub max: u32,
}

/// A write was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Applied {
    pub revision: Revision,
    /// The key had a version before.
    pub replaced: bool,
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
    #[error("no such upload")]
    NoSuchUpload,
    /// A part that Complete names is missing or has another ETag or checksum.
    #[error("part {number} is missing or differs")]
    InvalidPart { number: u16 },
    #[error("parts out of order")]
    InvalidPartOrder,
    #[error("part {number} is smaller than 5 MiB")]
    EntityTooSmall { number: u16 },
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

/// The blobs of a body that a failed commit must leave to the audit, or a refused one may abandon.
pub fn blobs_of(body: &Body) -> &[BlobRef] {
    match body {
        Body::Blobs(blobs) => blobs,
        Body::Inline(_) | Body::Parts { .. } => &[],
    }
}
