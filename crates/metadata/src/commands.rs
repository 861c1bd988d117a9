//! Commands, queries and replies of a partition, as they cross the wire: [`protocol::wire`] over these types.

use protocol::record::Headers;
use protocol::{BlobId, BucketId, Checksum, ChecksumKind, Home, Lifecycle, Record, Revision, UploadId, VersionId, Versioning, WriterId};
use serde::{Deserialize, Serialize};

use crate::rows::Share;
use crate::{
    Cursor, Error, GarbageId, ListQuery, Listed, ListedVersion, NamedPart, Part, Preconditions, Upload, UploadQuery, VersionQuery,
};

/// Everything that changes a partition. The comments name the reply.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Open a bucket's incarnation for the keys of `share`. `()`
    OpenBucket { bucket: BucketId, attempt: u64, share: Share },
    /// Close it, and say whether it is empty here. `bool`
    CloseBucket { bucket: BucketId, attempt: u64, share: Share },
    /// Remove the closed and empty incarnation for good. `()`
    RemoveBucket { bucket: BucketId, attempt: u64 },
    /// Commit a record. [`crate::Applied`]
    Put { bucket: BucketId, key: String, record: Record, conditions: Preconditions },
    /// Delete a key, or one version of it. [`crate::Applied`]
    Delete { bucket: BucketId, key: String, version: Option<VersionId>, conditions: Preconditions, modified_ms: u64 },
    /// Begin an upload. `()`
    CreateUpload {
        bucket: BucketId,
        key: String,
        upload: UploadId,
        headers: Headers,
        tags: Vec<(String, String)>,
        checksum: Option<(ChecksumKind, bool)>,
        created_ms: u64,
    },
    /// Commit a part. `()`
    PutPart { bucket: BucketId, key: String, upload: UploadId, part: Part },
    /// Make a version of an upload. [`crate::Completed`]
    CompleteUpload {
        bucket: BucketId,
        key: String,
        upload: UploadId,
        parts: Vec<NamedPart>,
        conditions: Preconditions,
        checksum: Option<Checksum>,
        modified_ms: u64,
    },
    /// Give an upload up. `()`
    AbortUpload { bucket: BucketId, key: String, upload: UploadId },
    /// From now on refuse every commit of a new blob of `writer` up to `up_to`; say which of `asked` are named. `Vec<BlobId>`
    Settle { writer: WriterId, up_to: u64, asked: Vec<(Home, BlobId)> },
    /// All blobs of a garbage entry's step are gone from all slots: forget them. Whether the entry is finished: `bool`
    Collect { entry: GarbageId, through: u16 },
    /// Set the versioning that later writes are judged by. `()`
    SetVersioning { bucket: BucketId, attempt: u64, versioning: Versioning },
    /// Set the tags of the current version, or of the one that is named. [`crate::Tagged`]
    SetTags { bucket: BucketId, key: String, version: Option<VersionId>, tags: Vec<(String, String)> },
    /// Set the lifecycle; one without rules: none. `()`
    SetLifecycle { bucket: BucketId, attempt: u64, lifecycle: Lifecycle },
    /// Cluster time was read, as `now_ms`, after `revision` was seen: what has a revision up to it was made no later. `()`
    MarkAge { revision: Revision, now_ms: u64 },
    /// Remove what is due by cluster time from the row `at` on, in a walk that is at `from`. [`crate::Expired`]
    Expire { bucket: BucketId, from: Cursor, at: Vec<u8>, now_ms: u64 },
}

/// Everything that can be asked. The comments name the reply.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Query {
    /// The current version, or the one that is named. [`crate::Found`]
    Get { bucket: BucketId, key: String, version: Option<VersionId> },
    /// [`Page<Part>`]
    CompletedParts { upload: UploadId, first_number: u16, max: u32 },
    /// [`Page<Listed>`]
    List { bucket: BucketId, query: ListQuery },
    /// [`Upload`]
    Upload { bucket: BucketId, key: String, upload: UploadId },
    /// `(Upload, Page<Part>)`
    ListParts { bucket: BucketId, key: String, upload: UploadId, after: u16, max: u32 },
    /// [`Page<UploadLine>`]
    ListUploads { bucket: BucketId, query: UploadQuery },
    /// Which of these blobs a row names now: the past, no promise. `Vec<BlobId>`
    Named { asked: Vec<BlobId> },
    /// The next steps of the garbage queue behind `after`. `Vec<Garbage>`
    Garbage { after: Option<GarbageId>, max: u32 },
    /// `Option<BucketUsage>`
    Usage { bucket: BucketId },
    /// [`Page<ListedVersion>`]
    ListVersions { bucket: BucketId, query: VersionQuery },
    /// Where the version of that name stands among those of its key. `Option<Revision>`
    Place { bucket: BucketId, key: String, version: VersionId },
    /// Buckets behind `after` that have a lifecycle, and where their walks are. `Vec<(BucketId, Cursor)>`
    Lifecycles { after: Option<BucketId> },
    /// What is due from the row `at` on. [`crate::Ahead`]
    Ahead { bucket: BucketId, at: Vec<u8>, now_ms: u64 },
}

/// What a partition answers to commands and queries alike.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reply<T> {
    /// The last revision that the answer saw: a witness of the order.
    pub revision: Revision,
    pub result: Result<T, Error>,
}

/// A page of anything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    pub entries: Vec<T>,
    /// There is more after the last entry. Then there is at least one entry, unless none was asked for, or `passed` says
    /// how far the page came.
    pub truncated: bool,
    /// Only of a page without entries: every key up to this one was walked and gives none, so the next page goes on behind it.
    pub passed: Option<String>,
    /// Rows that were looked at for it: what the page costs, whatever it shows.
    pub read: u32,
}

/// One line of a listing of uploads.
#[allow(clippy::large_enum_variant, reason = "nearly every line is an upload, and a page holds few")]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum UploadLine {
    Upload(Upload),
    Prefix(String),
}

/// A line of a listing that is merged from several partitions.
pub(crate) trait Line {
    /// Where it stands: its name, and its place among those of the same name. Two lines at the same place are the same
    /// common prefix.
    fn place(&self) -> (&str, Option<u128>);
}

impl Line for Listed {
    fn place(&self) -> (&str, Option<u128>) {
        match self {
            Listed::Object { key, .. } => (key, None),
            Listed::Prefix(prefix) => (prefix, None),
        }
    }
}

impl Line for UploadLine {
    fn place(&self) -> (&str, Option<u128>) {
        match self {
            UploadLine::Upload(upload) => (&upload.key, Some(upload.id.0)),
            UploadLine::Prefix(prefix) => (prefix, None),
        }
    }
}

impl Line for ListedVersion {
    fn place(&self) -> (&str, Option<u128>) {
        match self {
            ListedVersion::Object { key, revision, .. } => (key, Some(u128::from(!revision.0))),
            ListedVersion::Marker { key, marker, .. } => (key, Some(u128::from(!marker.revision.0))),
            ListedVersion::Prefix(prefix) => (prefix, None),
        }
    }
}
