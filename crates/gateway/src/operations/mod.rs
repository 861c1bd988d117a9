//! The operations of S3, one file per family. The gate has already refused what is not honoured here; what slips past it is
//! refused again, never ignored.

mod bucket;
mod bucket_tagging;
mod copy;
mod lifecycle;
mod list;
mod multipart;
mod object;
mod tagging;
mod versioning;
mod versions;

pub(crate) use versions::{Order, interleave};

use crate::admission::Admission;
use crate::buckets::{Buckets, reference, soon};
use crate::error;
use crate::read::ReadPath;
use crate::revision;
use crate::suspects::Suspects;
use crate::version::{self, Named};
use crate::volumes::Volumes;
use crate::write::WritePath;
use crate::{Cluster, Settings};
use http::{HeaderMap, HeaderValue};
use metadata::BucketRef;
use placement::{Bucket, BucketState};
use protocol::limits::{KEY_BYTES_MAX, USER_METADATA_BYTES_MAX};
use protocol::record::Headers;
use protocol::{Body, Marker, Record, Revision, Version, Versioning};
use runtime::probe::waypoint;
use runtime::time::Instant;
use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};
use std::pin::Pin;
use std::sync::Arc;

/// The one owner of all buckets and objects.
const OWNER: &str = "keepstone";

/// S3 over the services of the cluster.
pub struct Operations {
    region: String,
    /// Length of the days of lifecycles, in milliseconds.
    day_ms: u64,
    cluster: Cluster,
    admission: Arc<Admission>,
    buckets: Buckets,
    write: WritePath,
    read: Arc<ReadPath>,
    /// For copies: the largest piece that is read at a time.
    blob_bytes: usize,
}

impl Operations {
    pub fn new(settings: Settings, cluster: Cluster) -> Operations {
        let admission = Arc::new(Admission::new(settings.bytes_max));
        let suspects = Arc::new(Suspects::default());
        let volumes = Volumes::new(cluster.clone(), suspects.clone());
        let read = ReadPath::new(cluster.clone(), admission.clone(), suspects.clone());
        let inline = settings.inline_bytes_max.min(protocol::limits::COMMAND_BYTES_MAX / 2);
        let write = WritePath::new(cluster.clone(), admission.clone(), volumes, suspects, settings.blob_bytes, inline);
        let buckets = Buckets::new(&cluster);
        let Settings { region, day_ms, blob_bytes, .. } = settings;
        Operations { region, day_ms, cluster, admission, buckets, write, read, blob_bytes }
    }

    /// The bound of the bytes of bodies.
    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// The bucket, if requests may go to its partitions. One that is being deleted is among them: its partitions decide.
    async fn bucket(&self, name: &str, deadline: Instant) -> S3Result<Arc<Bucket>> {
        let bucket = self.cluster.placement.bucket(name, deadline).await.map_err(error::of_placement)?;
        match bucket.state {
            BucketState::Live | BucketState::Deleting => Ok(bucket),
            BucketState::Creating => Err(error::no_such_bucket()),
        }
    }

    /// The bucket as the root knows it now: for what no partition is asked that would notice a stale one.
    async fn present_bucket(&self, name: &str, deadline: Instant) -> S3Result<Arc<Bucket>> {
        self.cluster.placement.bucket_now(name, deadline).await.map_err(error::of_placement)
    }

    /// Do something in the bucket's partitions; once more if they do not know this incarnation, as it may be cached.
    async fn in_bucket<T, F, Fut>(&self, name: &str, deadline: Instant, what: F) -> S3Result<(BucketRef, T)>
    where
        F: Fn(BucketRef) -> Fut + Send,
        Fut: Future<Output = Result<T, metadata::Error>> + Send,
    {
        let bucket = reference(&*self.bucket(name, deadline).await?);
        match what(bucket.clone()).await {
            Err(metadata::Error::NotOpen) => {}
            result => return Ok((bucket, result.map_err(error::of_metadata)?)),
        }
        self.cluster.placement.forget_bucket(name);
        let bucket = reference(&*self.bucket(name, deadline).await?);
        let result = what(bucket.clone()).await.map_err(error::of_metadata)?;
        Ok((bucket, result))
    }

    /// The current object, or the version that is named.
    async fn read_record(&self, bucket: &str, key: &str, named: Option<Named>) -> S3Result<Current> {
        let deadline = soon();
        let metadata = &self.cluster.metadata;
        let get = |bucket: BucketRef| async move {
            let version = named.map(|named| named.within(bucket.id));
            metadata.get_seen(&bucket, key, version, deadline).await
        };
        let (bucket, (found, seen)) = self.in_bucket(bucket, deadline, get).await?;
        let id = found.version.as_ref().filter(|_| found.versioned).map(|found| version::shown(bucket.id, found.id()));
        match (found.version, named) {
            (Some(Version::Object(record)), _) => Ok(Current { bucket, record, seen, version: id }),
            (Some(Version::Marker(marker)), named) => Err(revision::with_error(marker_error(&bucket, marker, named), seen)),
            (None, None) => Err(revision::with_error(error::no_such_key(), seen)),
            (None, Some(_)) => Err(revision::with_error(error::no_such_version(), seen)),
        }
    }

    /// Do the last command of a write whose `body` was stored for `bucket`; once more if the partition does not know this
    /// incarnation and it proves to be the present one. Blobs of another incarnation have another home and cannot move.
    async fn commit<T, F, Fut>(&self, name: &str, bucket: &BucketRef, body: &Body, deadline: Instant, what: F) -> S3Result<(BucketRef, T)>
    where
        F: Fn(BucketRef) -> Fut + Send,
        Fut: Future<Output = Result<T, metadata::Error>> + Send,
    {
        waypoint("gateway-before-commit").await;
        match what(bucket.clone()).await {
            Err(metadata::Error::NotOpen) => {}
            result => {
                waypoint("gateway-committed-before-reply").await;
                return Ok((bucket.clone(), result.map_err(error::of_metadata)?));
            }
        }
        self.cluster.placement.forget_bucket(name);
        let present = reference(&*self.bucket(name, deadline).await?);
        if present.id != bucket.id && !matches!(body, Body::Inline(_)) {
            return Err(s3_error!(
                OperationAborted,
                "The bucket was deleted and created again while the body was being received. Try again."
            ));
        }
        let done = what(present.clone()).await.map_err(error::of_metadata)?;
        Ok((present, done))
    }
}

/// A version that is read.
struct Current {
    bucket: BucketRef,
    record: Record,
    /// The last revision that the read saw.
    seen: Revision,
    /// Its id, if clients are told it.
    version: Option<String>,
}

/// A delete marker where an object was asked for.
fn marker_error(bucket: &BucketRef, marker: Marker, named: Option<Named>) -> S3Error {
    // Where there are markers, versioning was set.
    let mut headers = version::headers(true, Some(&version::shown(bucket.id, Version::Marker(marker).id())));
    let error = if named.is_some() {
        headers.insert(http::header::ALLOW, HeaderValue::from_static("DELETE"));
        if let Some(modified) = http_date(marker.modified_ms) {
            headers.insert(http::header::LAST_MODIFIED, modified);
        }
        s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource.")
    } else {
        error::no_such_key()
    };
    revision::with_headers(error, headers)
}

fn check_key(key: &str) -> S3Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(s3_error!(KeyTooLongError, "Your key is too long: {} bytes of UTF-8, at most {KEY_BYTES_MAX}.", key.len()));
    }
    if key.is_empty() { Err(s3_error!(UserKeyMustBeSpecified)) } else { Ok(()) }
}

/// What a record of this bucket says of being null: nothing, as the partition decides.
fn null_by_cache(bucket: &Bucket) -> bool {
    runtime::planted("versioning-by-the-gateways-cache") && bucket.versioning != Versioning::Enabled
}

/// Conditions that only directory buckets know.
fn not_implemented(what: &str) -> S3Error {
    s3_error!(NotImplemented, "A header or parameter you provided implies functionality that is not implemented: {what}")
}

pub(crate) fn timestamp(ms: u64) -> Timestamp {
    let nanos = i128::from(ms) * 1_000_000;
    time::OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(time::OffsetDateTime::UNIX_EPOCH).into()
}

fn http_date(ms: u64) -> Option<HeaderValue> {
    let mut date = Vec::new();
    timestamp(ms).format(TimestampFormat::HttpDate, &mut date).ok()?;
    HeaderValue::from_bytes(&date).ok()
}

fn etag(etag: &str) -> ETag {
    ETag::Strong(etag.to_string())
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Content headers as s3s parsed them, and what it loses.
struct ContentHeaders<'a> {
    content_type: Option<String>,
    content_encoding: Option<String>,
    content_language: Option<String>,
    content_disposition: Option<String>,
    cache_control: Option<String>,
    metadata: Option<Metadata>,
    request: &'a HeaderMap,
}

/// Take the fields of [`ContentHeaders`] out of an input that has them.
macro_rules! content_headers {
    ($input:expr, $headers:expr) => {
        crate::operations::ContentHeaders {
            content_type: $input.content_type.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_disposition: $input.content_disposition.take(),
            cache_control: $input.cache_control.take(),
            metadata: $input.metadata.take(),
            request: $headers,
        }
    };
}
use content_headers;

impl ContentHeaders<'_> {
    /// As a record keeps them.
    fn into_record(self) -> S3Result<Headers> {
        // A std HashMap has no order; a record must have one.
        let mut user: Vec<(String, String)> =
            self.metadata.into_iter().flatten().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        user.sort();
        let bytes: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > USER_METADATA_BYTES_MAX {
            return Err(s3_error!(
                MetadataTooLarge,
                "Your metadata headers exceed the maximum allowed metadata size: {bytes} bytes, at most {USER_METADATA_BYTES_MAX}."
            ));
        }
        let expires = self.request.get(http::header::EXPIRES).and_then(|text| text.to_str().ok()).map(str::to_string);
        Ok(Headers {
            content_type: self.content_type,
            content_encoding: self.content_encoding.and_then(without_aws_chunked),
            content_language: self.content_language,
            content_disposition: self.content_disposition,
            cache_control: self.cache_control,
            expires,
            user,
        })
    }
}

/// `aws-chunked` is the framing of the request, not an encoding of the object.
fn without_aws_chunked(encoding: String) -> Option<String> {
    let kept: Vec<&str> =
        encoding.split(',').map(str::trim).filter(|one| !one.is_empty() && !one.eq_ignore_ascii_case("aws-chunked")).collect();
    if kept.is_empty() { None } else { Some(kept.join(",")) }
}

/// The length of a body that must say it.
fn content_length(length: Option<i64>) -> S3Result<u64> {
    let length = length.and_then(|length| u64::try_from(length).ok());
    let length = length.ok_or_else(|| s3_error!(MissingContentLength, "You must provide the Content-Length HTTP header."))?;
    if length > protocol::limits::PUT_BYTES_MAX {
        return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size of 5 GiB; use a multipart upload."));
    }
    Ok(length)
}

/// Set the five checksum fields of an output.
macro_rules! set_checksums {
    ($output:expr, $shown:expr) => {{
        let shown = $shown;
        $output.checksum_crc32 = shown.checksum_crc32;
        $output.checksum_crc32c = shown.checksum_crc32c;
        $output.checksum_crc64nvme = shown.checksum_crc64nvme;
        $output.checksum_sha1 = shown.checksum_sha1;
        $output.checksum_sha256 = shown.checksum_sha256;
        shown.checksum_type
    }};
}
use set_checksums;

/// Parts that a composite checksum of this record names.
fn parts_of(record: &Record) -> usize {
    match &record.body {
        Body::Parts { parts, .. } => parts.len(),
        Body::Inline(_) | Body::Blobs(_) => 1,
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;

/// The trait's methods, each to the method of the same name in its family's file.
macro_rules! operations {
    ($($name:ident($input:ty) -> $output:ty;)*) => {
        impl S3 for Operations {
            $(
                fn $name<'life0, 'async_trait>(&'life0 self, req: S3Request<$input>) -> Answer<'async_trait, $output>
                where
                    'life0: 'async_trait,
                    Self: 'async_trait,
                {
                    Box::pin(Operations::$name(self, req))
                }
            )*
        }
    };
}

operations! {
    create_bucket(CreateBucketInput) -> CreateBucketOutput;
    head_bucket(HeadBucketInput) -> HeadBucketOutput;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput;
    list_buckets(ListBucketsInput) -> ListBucketsOutput;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput;
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
    put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput;
    get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput;
    put_bucket_tagging(PutBucketTaggingInput) -> PutBucketTaggingOutput;
    delete_bucket_tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput;
    get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput) -> GetBucketLifecycleConfigurationOutput;
    put_bucket_lifecycle_configuration(PutBucketLifecycleConfigurationInput) -> PutBucketLifecycleConfigurationOutput;
    delete_bucket_lifecycle(DeleteBucketLifecycleInput) -> DeleteBucketLifecycleOutput;
    put_object(PutObjectInput) -> PutObjectOutput;
    get_object(GetObjectInput) -> GetObjectOutput;
    head_object(HeadObjectInput) -> HeadObjectOutput;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput;
    put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput;
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput;
    delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput;
    copy_object(CopyObjectInput) -> CopyObjectOutput;
    list_objects(ListObjectsInput) -> ListObjectsOutput;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output;
    list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput;
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    upload_part(UploadPartInput) -> UploadPartOutput;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
    list_parts(ListPartsInput) -> ListPartsOutput;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput;
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::S3ErrorCode;

    #[test]
    fn aws_chunked_is_no_encoding_of_the_object() {
        let kept = |text: &str| without_aws_chunked(text.to_string());
        assert_eq!(kept("aws-chunked"), None);
        assert_eq!(kept("AWS-chunked, gzip"), Some("gzip".into()));
        assert_eq!(kept("gzip,aws-chunked,br"), Some("gzip,br".into()));
        assert_eq!(kept("gzip"), Some("gzip".into()));
    }

    #[test]
    fn user_metadata_is_sorted_and_bounded() {
        let headers = |pairs: &[(&str, String)]| {
            let metadata: Metadata = pairs.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
            ContentHeaders {
                content_type: None,
                content_encoding: None,
                content_language: None,
                content_disposition: None,
                cache_control: None,
                metadata: Some(metadata),
                request: &HeaderMap::new(),
            }
            .into_record()
        };
        let record = headers(&[("b", "2".into()), ("A", "1".into()), ("c", "3".into())]).unwrap();
        assert_eq!(record.user, [("a", "1"), ("b", "2"), ("c", "3")].map(|(name, value)| (name.to_string(), value.to_string())));
        let error = headers(&[("a", "x".repeat(2048))]).unwrap_err();
        assert_eq!(error.code(), &S3ErrorCode::MetadataTooLarge);
    }

    #[test]
    fn a_body_must_say_its_length_and_keep_to_five_gib() {
        assert_eq!(content_length(Some(5 << 30)).unwrap(), 5 << 30);
        assert_eq!(content_length(Some((5 << 30) + 1)).unwrap_err().code(), &S3ErrorCode::EntityTooLarge);
        assert_eq!(content_length(None).unwrap_err().code(), &S3ErrorCode::MissingContentLength);
        assert_eq!(content_length(Some(-1)).unwrap_err().code(), &S3ErrorCode::MissingContentLength);
    }
}
