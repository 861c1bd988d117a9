//! CopyObject and UploadPartCopy. Copies copy bytes: a blob has one home, and a copy that shared blobs with its source would lie in
//! ruins when the source is deleted.

use super::multipart::{check_part_number, upload_id};
use super::{
    Current, Operations, check_key, content_headers, etag, not_implemented, null_by_cache, reference, set_checksums, soon, timestamp,
};
use crate::conditions::{self, Conditions, Verdict};
use crate::digest::{self, Digested, Expected};
use crate::incoming::Incoming;
use crate::read::{self, Source};
use crate::version::{self, Named};
use crate::write::{Memory, Stored};
use crate::{error, range, revision, tags};
use futures::StreamExt;
use http::HeaderMap;
use metadata::{BucketRef, Part};
use protocol::limits::PUT_BYTES_MAX;
use protocol::{Body, Home, Record, Revision};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use std::time::Duration;

/// A copy waits so long for memory.
const ADMISSION_WAIT: Duration = Duration::from_secs(10);

impl Operations {
    pub(super) async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let S3Request { mut input, headers, .. } = req;
        check_key(&input.key)?;
        let (source_bucket, source_key, source_version) = named_source(&input.copy_source)?;
        let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
            None | Some(MetadataDirective::COPY) => false,
            Some(MetadataDirective::REPLACE) => true,
            Some(_) => return Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
        };
        // As with metadata, what comes beside COPY counts for nothing.
        let new_tags = match input.tagging_directive.as_ref().map(TaggingDirective::as_str) {
            None | Some(TaggingDirective::COPY) => None,
            Some(TaggingDirective::REPLACE) => Some(tags::of_header(input.tagging.as_deref())?),
            Some(_) => return Err(s3_error!(InvalidArgument, "Unknown tagging directive.")),
        };
        if !replace && source_version.is_none() && source_bucket == input.bucket.as_str() && source_key == input.key.as_str() {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, \
                 storage class, website redirect location or encryption attributes."
            ));
        }
        let conditions = conditions::of_write(&headers)?;
        let (source, Current { record, version: copied, .. }) =
            self.copy_source(source_bucket, source_key, source_version, &headers).await?;
        if record.bytes > PUT_BYTES_MAX {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size for a copy source: {PUT_BYTES_MAX}"
            ));
        }
        let tags = new_tags.unwrap_or_else(|| record.tags.clone());
        let content = if replace { content_headers!(input, &headers).into_record()? } else { record.headers.clone() };
        let kind = match &input.checksum_algorithm {
            Some(algorithm) => Some(digest::kind(algorithm)?),
            None => record.checksum.as_ref().map(|checksum| checksum.kind),
        };
        let bucket = self.bucket(&input.bucket, soon()).await?;
        let (null, bucket) = (null_by_cache(&bucket), reference(&bucket));
        let home = Home::of(bucket.id, &input.key);
        let mut stored = self.copy_bytes(home, source, 0..record.bytes, Expected::compute(kind), false).await?;
        // An ETag without a dash is the MD5 of the bytes: what was read must be what was once written.
        if !record.etag.contains('-') && stored.digested.etag != record.etag {
            tracing::error!(bucket = %input.bucket, key = %input.key, "the bytes that were copied are not those of the source's ETag");
            return Err(error::of_read(read::Error::Damaged));
        }
        if runtime::planted("copy-shares-blobs") && matches!(record.body, Body::Blobs(_)) {
            stored.body = record.body.clone();
        }
        let copy = Record {
            revision: Revision(0),
            null,
            bytes: stored.bytes,
            etag: stored.digested.etag,
            checksum: stored.digested.checksum,
            headers: content,
            modified_ms: runtime::time::wall_ms(),
            tags,
            body: stored.body,
        };
        let made = self.put(&input.bucket, &bucket, &input.key, &copy, &conditions, stored.deadline).await?;
        let mut result = CopyObjectResult {
            e_tag: Some(etag(&copy.etag)),
            last_modified: Some(timestamp(copy.modified_ms)),
            ..CopyObjectResult::default()
        };
        result.checksum_type = set_checksums!(result, digest::show(copy.checksum.as_ref(), 1));
        let output = CopyObjectOutput {
            copy_object_result: Some(result),
            copy_source_version_id: copied,
            version_id: made.version,
            ..CopyObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, revision::headers(made.revision)))
    }

    pub(super) async fn upload_part_copy(&self, req: S3Request<UploadPartCopyInput>) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let S3Request { input, headers, .. } = req;
        check_key(&input.key)?;
        let number = check_part_number(input.part_number)?;
        let id = upload_id(&input.upload_id)?;
        let (source_bucket, source_key, source_version) = named_source(&input.copy_source)?;
        let (bucket, upload) = self.upload(&input.bucket, &input.key, id).await?;
        let (source, Current { record, version: copied, .. }) =
            self.copy_source(source_bucket, source_key, source_version, &headers).await?;
        let range = match &input.copy_source_range {
            Some(text) => range::of_copy_source(text, record.bytes)?,
            None => 0..record.bytes,
        };
        if range.end - range.start > PUT_BYTES_MAX {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size for a copy source: {PUT_BYTES_MAX}"
            ));
        }
        let home = Home::of(bucket.id, &input.key);
        let kind = upload.checksum.map(|(kind, _)| kind);
        let stored = self.copy_bytes(home, source, range, Expected::compute(kind), true).await?;
        let Digested { etag: tag, checksum } = stored.digested;
        let part = Part { number, bytes: stored.bytes, etag: tag, checksum, modified_ms: runtime::time::wall_ms(), body: stored.body };
        self.put_part(&input.bucket, &bucket, &input.key, id, &part, stored.deadline).await?;
        let mut result =
            CopyPartResult { e_tag: Some(etag(&part.etag)), last_modified: Some(timestamp(part.modified_ms)), ..CopyPartResult::default() };
        let _ = set_checksums!(result, digest::show(part.checksum.as_ref(), 1));
        let output =
            UploadPartCopyOutput { copy_part_result: Some(result), copy_source_version_id: copied, ..UploadPartCopyOutput::default() };
        Ok(S3Response::new(output))
    }

    /// The source's current version, or the one that is named, if it passes the conditions on it.
    async fn copy_source(&self, bucket: &str, key: &str, named: Option<Named>, headers: &HeaderMap) -> S3Result<(Source, Current)> {
        let conditions = Conditions::of_request(headers, "x-amz-copy-source-")?;
        let current = self.read_record(bucket, key, named).await.map_err(|error| match error.code() {
            S3ErrorCode::MethodNotAllowed => {
                s3_error!(InvalidRequest, "The source of a copy request may not specifically refer to a delete marker by version id.")
            }
            _ => error,
        })?;
        let record = &current.record;
        match conditions.judge(&record.etag, record.modified_ms) {
            Verdict::Proceed => {}
            Verdict::NotModified | Verdict::Failed => {
                return Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"));
            }
        }
        let source = Source { bucket: current.bucket.clone(), key: key.to_string(), body: record.body.clone() };
        Ok((source, current))
    }

    /// Read a range of the source and make it safe, for an object or for a part of one.
    async fn copy_bytes(
        &self,
        home: Home,
        source: Source,
        range: std::ops::Range<u64>,
        expected: Expected,
        part: bool,
    ) -> S3Result<Stored> {
        let bytes = range.end - range.start;
        // One admission for the whole copy: who held memory for reading while waiting for some to write could wait in a ring. It
        // covers a blob on its way out, and a piece of the source with the shards that it is decoded from.
        let piece = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.blob_bytes);
        let memory = self.write.blob_memory(bytes) + piece.saturating_mul(3);
        let deadline = runtime::time::now() + ADMISSION_WAIT;
        let _admitted = self.admission.write(memory, deadline).await.map_err(error::of_busy)?;
        let cursor = self.read.cursor(source, range, false);
        let pieces = futures::stream::try_unfold(cursor, |mut cursor| async move {
            match cursor.next().await {
                Ok(piece) => Ok(piece.map(|piece| (piece, cursor))),
                Err(error) => Err(of_source(error)),
            }
        });
        let mut incoming = Incoming::of_copy(pieces.boxed(), bytes, expected);
        let stored = if part {
            self.write.store_part(home, &mut incoming, Memory::Held).await
        } else {
            self.write.store(home, &mut incoming, Memory::Held).await
        };
        stored.map_err(error::of_write)
    }

    /// Commit a part whose body is safe.
    pub(super) async fn put_part(
        &self,
        name: &str,
        bucket: &BucketRef,
        key: &str,
        upload: protocol::UploadId,
        part: &Part,
        deadline: runtime::time::Instant,
    ) -> S3Result<()> {
        let metadata = &self.cluster.metadata;
        let put = |bucket: BucketRef| async move { metadata.put_part(&bucket, key, upload, part.clone(), deadline).await };
        self.commit(name, bucket, &part.body, deadline, put).await.map(|_| ())
    }
}

/// The source was there when the copy began.
fn of_source(error: read::Error) -> S3Error {
    match error {
        read::Error::Gone => s3_error!(ServiceUnavailable, "The source was replaced or deleted while it was being copied. Try again."),
        other => error::of_read(other),
    }
}

/// Bucket, key and version of a copy's source.
fn named_source(source: &CopySource) -> S3Result<(&str, &str, Option<Named>)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            check_key(key)?;
            Ok((bucket, key, version::named(version_id.as_deref())?))
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => Err(not_implemented("a copy source behind an access point")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_come_with_and_without_a_leading_slash_and_escaped() {
        for text in ["source/a%2Fb%20c", "/source/a/b%20c", "source/a/b%20c", "/source/a%2Fb%20c", "source/a/b%20c?versionId=null"] {
            let source = CopySource::parse(text).unwrap();
            let version = text.ends_with("=null").then_some(Named::Null);
            assert_eq!(named_source(&source).unwrap(), ("source", "a/b c", version), "{text}");
        }
        let source = CopySource::parse("source/a?versionId=3").unwrap();
        assert!(named_source(&source).is_err());
    }
}
