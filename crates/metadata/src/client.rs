//! The typed client of partitions: chooses the partition, keeps the session, merges listings.

use crate::{Applied, BucketRef, Error, ListPage, ListQuery, NamedPart, Part, Preconditions, Upload, UploadPage, UploadQuery};
use protocol::record::Headers;
use protocol::{ChecksumKind, Record, UploadId, WriterId};
use runtime::time::Instant;

/// Reads and writes records; cheap to clone. One writer id, one session per partition.
#[derive(Clone)]
pub struct Client {
    _todo: (),
}

impl Client {
    /// `writer` was given by the root group to this start of this gateway.
    pub fn new(groups: consensus::Client, writer: WriterId) -> Client {
        let _ = (groups, writer);
        todo!()
    }

    /// Open the incarnation in each of its partitions under `attempt` (from the root group, rising). Idempotent.
    pub async fn open_bucket(&self, bucket: &BucketRef, attempt: u64, deadline: Instant) -> Result<(), Error> {
        let _ = (bucket, attempt, deadline);
        todo!()
    }

    /// Close it everywhere under `attempt`: writers get [`Error::Closed`] from then on. Returns whether every
    /// partition is empty (no key and no upload), proved inside the closing commands.
    pub async fn close_bucket(&self, bucket: &BucketRef, attempt: u64, deadline: Instant) -> Result<bool, Error> {
        let _ = (bucket, attempt, deadline);
        todo!()
    }

    /// Remove the closed, empty incarnation's rows under `attempt`. Afterwards its partitions answer [`Error::NotOpen`].
    pub async fn remove_bucket(&self, bucket: &BucketRef, attempt: u64, deadline: Instant) -> Result<(), Error> {
        let _ = (bucket, attempt, deadline);
        todo!()
    }

    /// Commit a record (its revision is set by the partition) and queue what it replaces as garbage.
    pub async fn put(
        &self,
        bucket: &BucketRef,
        key: &str,
        record: Record,
        conditions: Preconditions,
        deadline: Instant,
    ) -> Result<Applied, Error> {
        let _ = (bucket, key, record, conditions, deadline);
        todo!()
    }

    /// Delete the key. Deleting what is not there succeeds with `replaced: false`, as in S3.
    pub async fn delete(&self, bucket: &BucketRef, key: &str, conditions: Preconditions, deadline: Instant) -> Result<Applied, Error> {
        let _ = (bucket, key, conditions, deadline);
        todo!()
    }

    /// The current version, linearizable.
    pub async fn get(&self, bucket: &BucketRef, key: &str, deadline: Instant) -> Result<Option<Record>, Error> {
        let _ = (bucket, key, deadline);
        todo!()
    }

    /// Rows of a completed upload's parts, `first_number..` in order, at most `max`.
    pub async fn completed_parts(
        &self,
        bucket: &BucketRef,
        key: &str,
        upload: UploadId,
        first_number: u16,
        max: u32,
        deadline: Instant,
    ) -> Result<Vec<Part>, Error> {
        let _ = (bucket, key, upload, first_number, max, deadline);
        todo!()
    }

    /// One page, merged from the bucket's partitions, no further than the smallest last key of a truncated one.
    pub async fn list(&self, bucket: &BucketRef, query: ListQuery, deadline: Instant) -> Result<ListPage, Error> {
        let _ = (bucket, query, deadline);
        todo!()
    }

    /// Begin a multipart upload.
    pub async fn create_upload(
        &self,
        bucket: &BucketRef,
        key: &str,
        headers: Headers,
        checksum: Option<(ChecksumKind, bool)>,
        created_ms: u64,
        deadline: Instant,
    ) -> Result<UploadId, Error> {
        let _ = (bucket, key, headers, checksum, created_ms, deadline);
        todo!()
    }

    /// The upload, if it is under way.
    pub async fn upload(&self, bucket: &BucketRef, key: &str, upload: UploadId, deadline: Instant) -> Result<Upload, Error> {
        let _ = (bucket, key, upload, deadline);
        todo!()
    }

    /// Commit a part; one with the same number is replaced and its blobs queued as garbage.
    pub async fn put_part(&self, bucket: &BucketRef, key: &str, upload: UploadId, part: Part, deadline: Instant) -> Result<(), Error> {
        let _ = (bucket, key, upload, part, deadline);
        todo!()
    }

    /// Parts of an upload under way with `number > after`, in order, at most `max`, and whether there are more.
    pub async fn list_parts(
        &self,
        bucket: &BucketRef,
        key: &str,
        upload: UploadId,
        after: u16,
        max: u32,
        deadline: Instant,
    ) -> Result<(Upload, Vec<Part>, bool), Error> {
        let _ = (bucket, key, upload, after, max, deadline);
        todo!()
    }

    /// Complete: the parts named become the key's version in one command; the others are queued as garbage.
    /// A repeated Complete of the same upload and parts returns the same record (kept for a day or 1000 completions).
    #[allow(clippy::too_many_arguments)]
    pub async fn complete_upload(
        &self,
        bucket: &BucketRef,
        key: &str,
        upload: UploadId,
        parts: Vec<NamedPart>,
        conditions: Preconditions,
        checksum: Option<protocol::Checksum>,
        modified_ms: u64,
        deadline: Instant,
    ) -> Result<Record, Error> {
        let _ = (bucket, key, upload, parts, conditions, checksum, modified_ms, deadline);
        todo!()
    }

    /// Abort: the parts are queued as garbage. [`Error::NoSuchUpload`] if there is none.
    pub async fn abort_upload(&self, bucket: &BucketRef, key: &str, upload: UploadId, deadline: Instant) -> Result<(), Error> {
        let _ = (bucket, key, upload, deadline);
        todo!()
    }

    /// Uploads under way, merged from the bucket's partitions.
    pub async fn list_uploads(&self, bucket: &BucketRef, query: UploadQuery, deadline: Instant) -> Result<UploadPage, Error> {
        let _ = (bucket, query, deadline);
        todo!()
    }
}
