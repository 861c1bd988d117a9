//! Objects: Put, Get, Head, Delete, DeleteObjects.

use super::{
    Current, Operations, check_key, content_headers, content_length, etag, http_date, not_implemented, null_by_cache, parts_of,
    set_checksums, signed, soon, tagging, timestamp,
};
use crate::conditions::{self, Conditions, Verdict};
use crate::digest::{self, Expected};
use crate::incoming::Incoming;
use crate::range;
use crate::read::{self, Source};
use crate::revision::{self, Witness};
use crate::version::{self, Named};
use crate::write::Memory;
use crate::{error, operations, tags};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use metadata::{BucketRef, Deletion, Etags, Preconditions};
use protocol::limits::DELETE_OBJECTS_MAX;
use protocol::{Body, Home, Record, Revision};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

/// Deletions of one DeleteObjects under way at a time.
const DELETES: usize = 16;
/// What S3 says of objects that came without a type.
const CONTENT_TYPE: &str = "binary/octet-stream";

/// Fill what GetObject and HeadObject show alike.
macro_rules! describe {
    ($output:ident, $record:ident, $version:ident, $asked:ident, $mode:expr) => {
        $output.accept_ranges = Some("bytes".into());
        $output.content_length = Some(signed($asked.range.end - $asked.range.start));
        $output.content_range = $asked.partial.then(|| range::content_range(&$asked.range, $record.bytes));
        $output.parts_count = $asked.parts_count;
        $output.e_tag = Some(etag(&$record.etag));
        $output.last_modified = Some(timestamp($record.modified_ms));
        $output.content_type = Some($record.headers.content_type.clone().unwrap_or_else(|| CONTENT_TYPE.into()));
        $output.content_encoding = $record.headers.content_encoding.clone();
        $output.content_language = $record.headers.content_language.clone();
        $output.content_disposition = $record.headers.content_disposition.clone();
        $output.cache_control = $record.headers.cache_control.clone();
        $output.version_id = $version;
        $output.metadata = Some($record.headers.user.iter().cloned().collect());
        // The checksum is of the whole: shown with a part of it, clients would compare it with that part.
        if $mode.as_ref().is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED) && !$asked.partial {
            $output.checksum_type = set_checksums!($output, digest::show($record.checksum.as_ref(), parts_of(&$record)));
        }
    };
}
impl Operations {
    pub(super) async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let S3Request { mut input, headers, trailing_headers, .. } = req;
        check_key(&input.key)?;
        if input.write_offset_bytes.is_some() {
            return Err(not_implemented("x-amz-write-offset-bytes"));
        }
        let bytes = content_length(input.content_length)?;
        let conditions = conditions::of_write(&headers)?;
        let expected = Expected::of_request(&headers, input.checksum_algorithm.as_ref(), None)?;
        let content = content_headers!(input, &headers).into_record()?;
        let tags = tags::of_header(input.tagging.as_deref())?;
        let bucket = self.bucket(&input.bucket, soon()).await?;
        let (null, bucket) = (null_by_cache(&bucket), operations::reference(&bucket));
        let home = Home::of(bucket.id, &input.key);
        let mut incoming = Incoming::of_client(input.body.take(), bytes, trailing_headers, expected);
        let stored = self.write.store(home, &mut incoming, Memory::PerBlob).await.map_err(error::of_write)?;
        let record = Record {
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
        let made = self.put(&input.bucket, &bucket, &input.key, &record, &conditions, stored.deadline).await?;
        let e_tag = Some(etag(&record.etag));
        let mut output = PutObjectOutput { e_tag, version_id: made.version, ..PutObjectOutput::default() };
        output.checksum_type = set_checksums!(output, digest::show(record.checksum.as_ref(), 1));
        Ok(S3Response::with_headers(output, revision::headers(made.revision)))
    }

    /// Commit a record whose body is safe.
    pub(super) async fn put(
        &self,
        name: &str,
        bucket: &BucketRef,
        key: &str,
        record: &Record,
        conditions: &Preconditions,
        deadline: runtime::time::Instant,
    ) -> S3Result<Made> {
        let (metadata, witness) = (&self.cluster.metadata, &Witness::default());
        let put = |bucket: BucketRef| async move {
            let seen = metadata.put_seen(&bucket, key, record.clone(), conditions.clone(), deadline).await;
            witness.of(seen)
        };
        let (bucket, applied) = self.commit(name, bucket, &record.body, deadline, put).await.map_err(|error| witness.tell(error))?;
        Ok(Made { revision: applied.revision, version: applied.version.map(|id| version::shown(bucket.id, id)) })
    }

    pub(super) async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let S3Request { input, headers, .. } = req;
        let named = version::named(input.version_id.as_deref())?;
        let mut failed: Option<(Revision, read::Error)> = None;
        loop {
            let current = self.read_record(&input.bucket, &input.key, named).await?;
            let asked = Asked::of(&current, &headers, input.range, input.part_number)?;
            let Current { bucket, record, seen, version } = current;
            // Not a byte was sent: if the version was replaced meanwhile, the new one is read.
            match failed {
                Some((revision, error)) if revision == record.revision => return Err(error::of_read(error)),
                _ => {}
            }
            let source = Source { bucket, key: input.key.clone(), body: record.body.clone() };
            let pieces = match self.read.open(source, asked.range.clone()).await {
                Ok(pieces) => pieces,
                Err(error @ (read::Error::Busy | read::Error::Metadata(_))) => return Err(error::of_read(error)),
                Err(error) => {
                    runtime::probe!("record-read-again");
                    failed = Some((record.revision, error));
                    continue;
                }
            };
            let mut output = GetObjectOutput { body: Some(StreamingBlob::new(pieces)), ..GetObjectOutput::default() };
            describe!(output, record, version, asked, input.checksum_mode);
            let mut headers = raw_expires(&record, input.response_expires.is_some());
            headers.extend(revision::headers(seen));
            headers.extend(tagging::count(&record.tags));
            return Ok(S3Response::with_headers(output, headers));
        }
    }

    pub(super) async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let S3Request { input, headers, .. } = req;
        let named = version::named(input.version_id.as_deref())?;
        let current = self.read_record(&input.bucket, &input.key, named).await?;
        let asked = Asked::of(&current, &headers, input.range, input.part_number)?;
        let Current { record, seen, version, .. } = current;
        let mut output = HeadObjectOutput::default();
        describe!(output, record, version, asked, input.checksum_mode);
        // s3s does this for GET alone.
        output.content_type = input.response_content_type.or(output.content_type);
        output.content_language = input.response_content_language.or(output.content_language);
        output.cache_control = input.response_cache_control.or(output.cache_control);
        output.content_disposition = input.response_content_disposition.or(output.content_disposition);
        output.content_encoding = input.response_content_encoding.or(output.content_encoding);
        let mut headers = raw_expires(&record, input.response_expires.is_some());
        headers.extend(revision::headers(seen));
        headers.extend(tagging::count(&record.tags));
        output.expires = input.response_expires;
        Ok(S3Response::with_headers(output, headers))
    }

    pub(super) async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let S3Request { input, headers, .. } = req;
        check_key(&input.key)?;
        let named = version::named(input.version_id.as_deref())?;
        if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
            return Err(not_implemented("x-amz-if-match-last-modified-time, x-amz-if-match-size"));
        }
        let conditions = Preconditions { if_none_match: None, ..conditions::of_write(&headers)? };
        let deleted = self.delete(&input.bucket, &input.key, named, conditions).await?;
        let (delete_marker, version_id) = (deleted.marker.then_some(true), deleted.version);
        let output = DeleteObjectOutput { delete_marker, version_id, ..DeleteObjectOutput::default() };
        let mut response = S3Response::with_status(output, StatusCode::NO_CONTENT);
        response.headers = deleted.witness.headers();
        Ok(response)
    }

    async fn delete(&self, bucket: &str, key: &str, named: Option<Named>, conditions: Preconditions) -> S3Result<Deleted> {
        let deadline = soon();
        let (metadata, witness, conditions) = (&self.cluster.metadata, Witness::default(), &conditions);
        let seen = &witness;
        let delete = |bucket: BucketRef| async move {
            let version = named.map(|named| named.within(bucket.id));
            let deletion = Deletion { version, conditions: conditions.clone(), modified_ms: runtime::time::wall_ms() };
            let answer = metadata.delete_seen(&bucket, key, deletion, deadline).await;
            seen.of(answer)
        };
        let (bucket, applied) = self.in_bucket(bucket, deadline, delete).await.map_err(|error| seen.tell(error))?;
        let version = match named {
            // Said again as it was asked, also one of a former bucket.
            Some(Named::Of(of, revision)) => Some(version::place(of, revision)),
            Some(Named::Null) | None => applied.version.map(|id| version::shown(bucket.id, id)),
        };
        Ok(Deleted { marker: applied.marker, version, witness })
    }

    pub(super) async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        let objects = input.delete.objects;
        if objects.is_empty() || objects.len() > DELETE_OBJECTS_MAX {
            return Err(s3_error!(
                MalformedXML,
                "The XML you provided was not well-formed or did not validate against our published schema"
            ));
        }
        self.bucket(&input.bucket, soon()).await?;
        let bucket = input.bucket.as_str();
        let results = futures::stream::iter(objects.into_iter().map(|object| async move {
            let result = self.delete_one(bucket, &object).await;
            (object, result)
        }));
        let results: Vec<_> = results.buffered(DELETES).collect().await;
        // A bucket that does not exist is one error, not a thousand; that it was known here says little.
        let none = |(_, result): &(_, S3Result<Deleted>)| result.as_ref().is_err_and(|error| error.code() == &S3ErrorCode::NoSuchBucket);
        if results.iter().all(none) {
            return Err(error::no_such_bucket());
        }
        let mut deleted = Vec::new();
        let mut errors = Vec::new();
        for (object, result) in results {
            match result {
                Ok(done) => deleted.push(DeletedObject {
                    key: Some(object.key),
                    version_id: object.version_id,
                    delete_marker: done.marker.then_some(true),
                    delete_marker_version_id: done.version.filter(|_| done.marker),
                }),
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_string()),
                    message: error.message().map(str::to_string),
                    key: Some(object.key),
                    version_id: object.version_id,
                }),
            }
        }
        if input.delete.quiet == Some(true) {
            deleted.clear();
        }
        let output = DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..DeleteObjectsOutput::default() };
        Ok(S3Response::new(output))
    }

    async fn delete_one(&self, bucket: &str, object: &ObjectIdentifier) -> S3Result<Deleted> {
        check_key(&object.key)?;
        let named = version::named(object.version_id.as_deref())?;
        if object.last_modified_time.is_some() || object.size.is_some() {
            return Err(not_implemented("LastModifiedTime, Size"));
        }
        let if_match = object.e_tag.as_ref().map(|tag| match tag {
            ETag::Strong(tag) if tag == "*" => Etags::Any,
            ETag::Strong(tag) => Etags::Of(vec![tag.clone()]),
            // Weak tags never compare equal strongly.
            ETag::Weak(_) => Etags::Of(Vec::new()),
        });
        self.delete(bucket, &object.key, named, Preconditions { if_match, if_none_match: None }).await
    }
}

/// A version that was made.
pub(super) struct Made {
    pub revision: Revision,
    /// Its id, if clients are told it.
    pub version: Option<String>,
}

/// What a deletion did.
struct Deleted {
    /// It made a marker, or removed one.
    marker: bool,
    /// The marker that it made, or the version that it was to remove.
    version: Option<String>,
    witness: Witness,
}

/// What of a version a read asks for, its conditions passed.
struct Asked {
    range: std::ops::Range<u64>,
    /// Less than a plain GET: 206 with `Content-Range`.
    partial: bool,
    /// With `partNumber`, of an object in parts.
    parts_count: Option<i32>,
}

impl Asked {
    /// Refusals tell of the version that they were judged on.
    fn of(current: &Current, headers: &HeaderMap, range: Option<Range>, part: Option<i32>) -> S3Result<Asked> {
        Asked::of_record(&current.record, headers, range, part).map_err(|error| {
            let told = version::headers(false, current.version.as_deref());
            revision::with_headers(revision::with_error(error, current.seen), told)
        })
    }

    fn of_record(record: &Record, headers: &HeaderMap, range: Option<Range>, part: Option<i32>) -> S3Result<Asked> {
        match Conditions::of_request(headers, "")?.judge(&record.etag, record.modified_ms) {
            Verdict::Proceed => {}
            Verdict::NotModified => return Err(not_modified(record)),
            Verdict::Failed => return Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")),
        }
        if let Some(number) = part {
            if range.is_some() {
                return Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber query parameter."));
            }
            return Asked::part(record, number);
        }
        match range {
            Some(range) if conditions::range_holds(headers, &record.etag, record.modified_ms) => {
                Ok(Asked { range: range::resolve(range, record.bytes)?, partial: true, parts_count: None })
            }
            _ => Ok(Asked { range: 0..record.bytes, partial: false, parts_count: None }),
        }
    }

    /// The bytes of the `number`-th part, counted from 1. An object that was not uploaded in parts is its own first.
    fn part(record: &Record, number: i32) -> S3Result<Asked> {
        let number = usize::try_from(number).ok().filter(|number| (1..=usize::from(protocol::limits::PART_NUMBER_MAX)).contains(number));
        let number = number.ok_or_else(|| s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"))?;
        let (range, parts_count) = match &record.body {
            Body::Parts { parts, .. } if number <= parts.len() => {
                let start: u64 = parts[..number - 1].iter().map(|part| part.bytes).sum();
                (start..start + parts[number - 1].bytes, i32::try_from(parts.len()).ok())
            }
            Body::Inline(_) | Body::Blobs(_) if number == 1 => (0..record.bytes, None),
            _ => {
                let mut error =
                    S3Error::with_message(S3ErrorCode::Custom("InvalidPartNumber".into()), "The requested partnumber is not satisfiable");
                error.set_status_code(StatusCode::RANGE_NOT_SATISFIABLE);
                return Err(error);
            }
        };
        // An empty object has no range that a header could name.
        Ok(Asked { partial: !range.is_empty(), range, parts_count })
    }
}

/// `Expires` as the client once sent it, which need not be a date.
fn raw_expires(record: &Record, overridden: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(expires) = &record.headers.expires
        && !overridden
        && let Ok(value) = HeaderValue::try_from(expires)
    {
        headers.insert(http::header::EXPIRES, value);
    }
    headers
}

/// 304 with the headers that caches need.
fn not_modified(record: &Record) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_status_code(StatusCode::NOT_MODIFIED);
    let mut headers = HeaderMap::new();
    headers.extend(http_date(record.modified_ms).map(|date| (http::header::LAST_MODIFIED, date)));
    let mut set = |name: HeaderName, value: Option<String>| {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    };
    set(http::header::ETAG, Some(format!("\"{}\"", record.etag)));
    set(http::header::CACHE_CONTROL, record.headers.cache_control.clone());
    set(http::header::EXPIRES, record.headers.expires.clone());
    error.set_headers(headers);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::UploadId;
    use protocol::record::{Headers, PartRef, run};

    fn record(body: Body, bytes: u64) -> Record {
        Record {
            revision: Revision(1),
            null: true,
            bytes,
            etag: "abc".into(),
            checksum: None,
            headers: Headers::default(),
            modified_ms: 1_000,
            tags: Vec::new(),
            body,
        }
    }

    fn parts(bytes: &[u64]) -> Record {
        let refs = bytes.iter().zip(1..).map(|(bytes, number)| PartRef { number, bytes: *bytes }).collect();
        record(Body::Parts { upload: UploadId(1), parts: refs }, bytes.iter().sum())
    }

    #[test]
    fn a_part_number_names_the_bytes_of_that_part() {
        let record = parts(&[5, 7, 2]);
        let asked = Asked::part(&record, 2).unwrap();
        assert_eq!((asked.range, asked.partial, asked.parts_count), (5..12, true, Some(3)));
        assert_eq!(Asked::part(&record, 4).err().unwrap().status_code(), Some(StatusCode::RANGE_NOT_SATISFIABLE));
        assert_eq!(Asked::part(&record, 0).err().unwrap().code(), &S3ErrorCode::InvalidArgument);
        assert_eq!(Asked::part(&record, 10_001).err().unwrap().code(), &S3ErrorCode::InvalidArgument);
    }

    #[test]
    fn an_object_without_parts_is_its_own_first_part() {
        let record = record(Body::Inline(run::Bytes("hello".into())), 5);
        let asked = Asked::part(&record, 1).unwrap();
        assert_eq!((asked.range, asked.parts_count), (0..5, None));
        assert!(Asked::part(&record, 2).is_err());
    }

    #[test]
    fn a_range_and_a_part_number_exclude_each_other() {
        let range = Some(Range::Int { first: 0, last: None });
        assert!(Asked::of_record(&parts(&[5]), &HeaderMap::new(), range, Some(1)).is_err());
    }

    #[test]
    fn not_modified_tells_what_caches_need() {
        let error = not_modified(&parts(&[5]));
        assert_eq!(error.status_code(), Some(StatusCode::NOT_MODIFIED));
        let headers = error.headers().unwrap();
        assert_eq!(headers["etag"], "\"abc\"");
        assert_eq!(headers["last-modified"], "Thu, 01 Jan 1970 00:00:01 GMT");
    }
}
