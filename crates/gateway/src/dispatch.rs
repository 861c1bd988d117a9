//! s3s between the gate and the operations: it verifies signatures, parses, calls, and writes the reply.
//!
//! Two kinds of requests pass s3s twice, as they must be changed *after* their signature is verified and *before* they
//! are parsed: those with a document as body (s3s can neither decode it from aws-chunked nor verify its digests) and
//! reads whose `Range` S3 ignores. The first pass ends in [`Changing`], which runs only for verified requests; it puts
//! a changed request, without its signature but marked [`Verified`], into the response's extensions.
//!
//! Invariant: an operation is called only for a request whose signature s3s verified, and only if s3s found the same
//! operation as the gate.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{Extensions, HeaderMap, HeaderValue, Method, Uri, header};
use md5::{Digest, Md5};
use protocol::limits::XML_BYTES_MAX;
use s3s::access::{S3Access, S3AccessContext};
use s3s::checksum::ChecksumHasher;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::crypto::Checksum as _;
use s3s::dto::{CopyObjectInput, CreateMultipartUploadInput, PutObjectInput, StreamingBlob, UploadPartInput};
use s3s::route::S3Route;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpRequest, HttpResponse, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use subtle::ConstantTimeEq;

use crate::body::{DecodedBody, classify};
use crate::document;
use crate::gate::Gate;
use crate::gate::framing::{Framing, checksum_header};
use crate::gate::operation::{ALGORITHMS, Content, Operation};
use crate::gate::query::Query;
use crate::gate::refusal::Refusal;
use crate::http::RequestFacts;
use crate::operations::{Order, interleave};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// s3s, set up.
pub struct Dispatch {
    service: S3Service,
}

/// Marks the second pass of a request. Only [`Changing`] makes one; clients cannot send extensions.
#[derive(Clone)]
struct Verified;

/// The request of the second pass.
#[derive(Clone)]
struct SecondPass(Arc<Mutex<Option<HttpRequest>>>);

impl Dispatch {
    pub fn new(operations: impl S3, gate: &Gate) -> Dispatch {
        let mut config = S3Config::default();
        config.xml_max_body_size = XML_BYTES_MAX;
        config.post_object_max_file_size = 0;
        config.form_max_field_size = 0;
        config.form_max_fields_size = 0;
        config.form_max_parts = 0;
        // The gate has judged the date, by our own clock.
        config.presigned_url_max_skew_time_secs = u32::MAX;

        let mut builder = S3ServiceBuilder::new(operations);
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        builder.set_auth(gate.identities.clone());
        builder.set_host(gate.hosts.clone());
        builder.set_access(Fence);
        builder.set_route(Changing);
        Dispatch { service: builder.build() }
    }

    /// Serve an admitted request, which carries its [`RequestFacts`].
    pub async fn call(&self, request: HttpRequest) -> HttpResponse {
        let mut response = self.pass(request).await;
        if let Some(second) = response.extensions_mut().remove::<SecondPass>() {
            let request = second.0.lock().expect("no holder panics").take();
            response = self.pass(request.expect("the first pass left it here, once")).await;
        }
        if let Some(order) = response.extensions_mut().remove::<Order>()
            && let Some(document) = response.body().bytes()
        {
            *response.body_mut() = Body::from(interleave(&document, &order));
        }
        response
    }

    async fn pass(&self, request: HttpRequest) -> HttpResponse {
        match self.service.call(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(?error, "s3s cannot write a response");
                Refusal::new(S3ErrorCode::InternalError, "The response cannot be written.").into_response()
            }
        }
    }
}

/// The last look at a request before its operation is called.
struct Fence;

impl Fence {
    fn check(cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let found = cx.s3_op().name().to_owned();
        let is_known = cx.credentials().is_some() || cx.extensions_mut().get::<Verified>().is_some();
        if !is_known {
            return Err(S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied"));
        }
        match cx.extensions_mut().get::<RequestFacts>() {
            Some(facts) if facts.operation.name() == found => {
                facts.seat.keep();
                Ok(())
            }
            facts => {
                let admitted = facts.map(|facts| facts.operation.name());
                tracing::error!(?admitted, found, "gate and s3s disagree about a request");
                Err(S3Error::with_message(S3ErrorCode::NotImplemented, "The request is ambiguous."))
            }
        }
    }
}

impl S3Access for Fence {
    fn check<'life0, 'life1, 'life2, 'async_trait>(
        &'life0 self,
        cx: &'life1 mut S3AccessContext<'life2>,
    ) -> Boxed<'async_trait, S3Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        Self: 'async_trait,
    {
        let judged = Fence::check(cx);
        Box::pin(async move { judged })
    }

    fn put_object<'life0, 'life1, 'async_trait>(
        &'life0 self,
        request: &'life1 mut S3Request<PutObjectInput>,
    ) -> Boxed<'async_trait, S3Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        strip_aws_chunked(&mut request.headers, &mut request.input.content_encoding);
        let body = request.input.body.take();
        (request.input.body, request.input.content_length) = guard_content(&request.extensions, body);
        Box::pin(async { Ok(()) })
    }

    fn upload_part<'life0, 'life1, 'async_trait>(
        &'life0 self,
        request: &'life1 mut S3Request<UploadPartInput>,
    ) -> Boxed<'async_trait, S3Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        strip_aws_chunked(&mut request.headers, &mut None);
        let body = request.input.body.take();
        (request.input.body, request.input.content_length) = guard_content(&request.extensions, body);
        Box::pin(async { Ok(()) })
    }

    fn create_multipart_upload<'life0, 'life1, 'async_trait>(
        &'life0 self,
        request: &'life1 mut S3Request<CreateMultipartUploadInput>,
    ) -> Boxed<'async_trait, S3Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        strip_aws_chunked(&mut request.headers, &mut request.input.content_encoding);
        Box::pin(async { Ok(()) })
    }

    fn copy_object<'life0, 'life1, 'async_trait>(
        &'life0 self,
        request: &'life1 mut S3Request<CopyObjectInput>,
    ) -> Boxed<'async_trait, S3Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        strip_aws_chunked(&mut request.headers, &mut request.input.content_encoding);
        Box::pin(async { Ok(()) })
    }
}

/// The body as the operation reads it, and its length after decoding.
fn guard_content(extensions: &Extensions, body: Option<StreamingBlob>) -> (Option<StreamingBlob>, Option<i64>) {
    let facts = extensions.get::<RequestFacts>().expect("the fence has just found them");
    let length = facts.framing.length();
    let body = body.unwrap_or_else(|| StreamingBlob::from(Body::empty()));
    let body = StreamingBlob::new(DecodedBody::new(body, length, facts.body.clone()));
    (Some(body), Some(i64::try_from(length).expect("at most 5 GiB")))
}

/// `aws-chunked` says how the request is framed; it is no encoding of the object.
fn strip_aws_chunked(headers: &mut HeaderMap, field: &mut Option<String>) {
    let strip = |value: &str| {
        let kept: Vec<&str> = value.split(',').map(str::trim).filter(|part| !part.eq_ignore_ascii_case("aws-chunked")).collect();
        kept.join(",")
    };
    if let Some(value) = field {
        *value = strip(value);
        if value.is_empty() {
            *field = None;
        }
    }
    let stripped = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).map(strip);
    match stripped.map(|value| HeaderValue::from_str(&value).ok().filter(|_| !value.is_empty())) {
        Some(Some(value)) => {
            headers.insert(header::CONTENT_ENCODING, value);
        }
        Some(None) => {
            headers.remove(header::CONTENT_ENCODING);
        }
        None => {}
    }
}

/// Changes verified requests between their passes.
struct Changing;

impl S3Route for Changing {
    fn is_match(&self, _method: &Method, _uri: &Uri, _headers: &HeaderMap, extensions: &mut Extensions) -> bool {
        let is_first = extensions.get::<Verified>().is_none();
        is_first && extensions.get::<RequestFacts>().is_some_and(|facts| facts.content == Content::Xml || facts.drop_range)
    }

    fn call<'life0, 'async_trait>(&'life0 self, request: S3Request<Body>) -> Boxed<'async_trait, S3Result<S3Response<Body>>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let second = change(request).await?;
            let mut response = S3Response::new(Body::empty());
            response.extensions.insert(SecondPass(Arc::new(Mutex::new(Some(second)))));
            Ok(response)
        })
    }
}

async fn change(request: S3Request<Body>) -> S3Result<HttpRequest> {
    let S3Request { input: mut body, method, uri, mut headers, mut extensions, trailing_headers, .. } = request;
    let facts = extensions.get::<RequestFacts>().expect("is_match has found them").clone();
    facts.seat.keep();
    if facts.content == Content::Xml {
        let document = read_document(&mut body, &facts).await?;
        let trailers = trailing_headers.and_then(|trailers| trailers.take()).unwrap_or_default();
        verify_document(&document, facts.operation, &facts.framing, &headers, &trailers)?;
        check_elements(&document, facts.operation)?;
        let document = document::restate(&document, facts.operation)?;
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(document.len()));
        body = Body::from(document);
    }
    if facts.drop_range {
        headers.remove(header::RANGE);
    }
    strip_aws_chunked(&mut headers, &mut None);
    for name in ["authorization", "x-amz-content-sha256", "x-amz-decoded-content-length", "x-amz-trailer", "transfer-encoding"] {
        headers.remove(name);
    }
    extensions.insert(Verified);

    let mut request = HttpRequest::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = without_signature(uri, &facts)?;
    *request.headers_mut() = headers;
    *request.extensions_mut() = extensions;
    Ok(request)
}

fn without_signature(uri: Uri, facts: &RequestFacts) -> S3Result<Uri> {
    let query = Query::without(uri.query().unwrap_or_default(), |name| facts.mechanism.is_parameter(name));
    let path_and_query = if query.is_empty() { uri.path().to_owned() } else { format!("{}?{query}", uri.path()) };
    let invalid = |_| S3Error::new(S3ErrorCode::InvalidURI);
    path_and_query.parse::<Uri>().map_err(invalid)
}

async fn read_document(body: &mut Body, facts: &RequestFacts) -> S3Result<Bytes> {
    let mut document = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| {
            // What the body itself found wrong is kept already and wins.
            let (code, message) = classify(&error.to_string());
            facts.body.fail(code.clone(), message);
            S3Error::with_message(code, message)
        })?;
        if document.len() + piece.len() > XML_BYTES_MAX {
            return Err(S3Error::with_message(S3ErrorCode::MaxMessageLengthExceeded, "Your request was too large."));
        }
        document.extend_from_slice(&piece);
    }
    if document.len() as u64 != facts.framing.length() {
        return Err(S3Error::with_message(S3ErrorCode::IncompleteBody, "The body is not as long as announced."));
    }
    Ok(document.freeze())
}

/// Compare every digest that the request gives of its document.
fn verify_document(document: &Bytes, operation: Operation, framing: &Framing, headers: &HeaderMap, trailers: &HeaderMap) -> S3Result<()> {
    let payload = headers.get("x-amz-content-sha256").map(HeaderValue::as_bytes).unwrap_or_default();
    // A hash of the payload, or signed chunks, were verified on the way here.
    let mut verified = payload.len() == 64 || matches!(framing, Framing::Chunked { signed: true, .. });
    if let Some(given) = headers.get("content-md5") {
        let given = BASE64.decode(given.as_bytes()).ok().filter(|digest| digest.len() == 16);
        let given = given.ok_or_else(|| S3Error::with_message(S3ErrorCode::InvalidDigest, "The Content-MD5 you specified was invalid."))?;
        if !bool::from(Md5::digest(document).as_slice().ct_eq(&given)) {
            return Err(bad_digest("Content-MD5"));
        }
        verified = true;
    }
    // On CompleteMultipartUpload the checksums are those of the object.
    if operation != Operation::CompleteMultipartUpload {
        for algorithm in ALGORITHMS {
            let name = checksum_header(algorithm);
            for given in [headers.get(&name), trailers.get(&name)].into_iter().flatten() {
                let given = BASE64
                    .decode(given.as_bytes())
                    .map_err(|_| S3Error::with_message(S3ErrorCode::InvalidRequest, format!("Value for {name} header is invalid.")))?;
                if BASE64.encode(given) != checksum(algorithm, document) {
                    return Err(bad_digest(algorithm));
                }
                verified = true;
            }
        }
        // A byte that was damaged on the way would delete what it should not.
        if !verified && matches!(operation, Operation::DeleteObjects | Operation::PutBucketLifecycleConfiguration) {
            return Err(S3Error::with_message(
                S3ErrorCode::InvalidRequest,
                "Missing required header for this request: Content-MD5 OR x-amz-checksum-*",
            ));
        }
    }
    Ok(())
}

/// Elements that s3s leaves out would be silently ignored: refuse them. What is no XML is left to s3s.
fn check_elements(document: &[u8], operation: Operation) -> S3Result<()> {
    let known: &[&str] = match operation {
        // The operation itself refuses the last four.
        Operation::CreateBucket => {
            &["CreateBucketConfiguration", "LocationConstraint", "Location", "Bucket", "Type", "Name", "DataRedundancy"]
        }
        // The operation itself refuses the last one, unless it is off.
        Operation::PutBucketVersioning => &["VersioningConfiguration", "Status", "MfaDelete"],
        Operation::DeleteObjects => &["Delete", "Object", "Quiet", "Key", "VersionId", "ETag", "LastModifiedTime", "Size"],
        Operation::PutObjectTagging | Operation::PutBucketTagging => &["Tagging", "TagSet", "Tag", "Key", "Value"],
        // The operation itself refuses the last three.
        Operation::PutBucketLifecycleConfiguration => &[
            "LifecycleConfiguration",
            "Rule",
            "ID",
            "Status",
            "Filter",
            "Prefix",
            "And",
            "Tag",
            "Key",
            "Value",
            "ObjectSizeGreaterThan",
            "ObjectSizeLessThan",
            "Expiration",
            "Days",
            "Date",
            "ExpiredObjectDeleteMarker",
            "NoncurrentVersionExpiration",
            "NoncurrentDays",
            "NewerNoncurrentVersions",
            "AbortIncompleteMultipartUpload",
            "DaysAfterInitiation",
            "Transition",
            "NoncurrentVersionTransition",
            "StorageClass",
        ],
        Operation::CompleteMultipartUpload => &[
            "CompleteMultipartUpload",
            "Part",
            "PartNumber",
            "ETag",
            "ChecksumCRC32",
            "ChecksumCRC32C",
            "ChecksumCRC64NVME",
            "ChecksumSHA1",
            "ChecksumSHA256",
        ],
        _ => return Ok(()),
    };
    let Ok(text) = std::str::from_utf8(document) else { return Ok(()) };
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('<') {
        rest = after;
        // Within these, a `<` starts no element.
        for (start, end) in [("![CDATA[", "]]>"), ("!--", "-->"), ("?", "?>")] {
            if let Some(inside) = after.strip_prefix(start) {
                rest = inside.split_once(end).map_or("", |(_, after)| after);
            }
        }
        if after.starts_with(['/', '!', '?']) {
            continue;
        }
        let name = after.split(|end: char| end.is_ascii_whitespace() || end == '>' || end == '/').next().unwrap_or_default();
        let name = name.rsplit(':').next().unwrap_or_default();
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !known.contains(&name) {
            return Err(S3Error::with_message(
                S3ErrorCode::NotImplemented,
                format!("The element {name} of the document implies functionality that is not implemented."),
            ));
        }
    }
    Ok(())
}

fn bad_digest(name: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::BadDigest, format!("The {name} you specified did not match the calculated checksum."))
}

/// Base64 of the checksum of one of [`ALGORITHMS`].
fn checksum(algorithm: &str, bytes: &[u8]) -> String {
    let mut hasher = ChecksumHasher::default();
    match algorithm {
        "CRC32" => hasher.crc32 = Some(s3s::crypto::Crc32::new()),
        "CRC32C" => hasher.crc32c = Some(s3s::crypto::Crc32c::new()),
        "CRC64NVME" => hasher.crc64nvme = Some(s3s::crypto::Crc64Nvme::new()),
        "SHA1" => hasher.sha1 = Some(s3s::crypto::Sha1::new()),
        "SHA256" => hasher.sha256 = Some(s3s::crypto::Sha256::new()),
        other => unreachable!("{other} is not in the table"),
    }
    hasher.update(bytes);
    let sums = hasher.finalize();
    let given = [sums.checksum_crc32, sums.checksum_crc32c, sums.checksum_crc64nvme, sums.checksum_sha1, sums.checksum_sha256];
    given.into_iter().flatten().next().expect("one algorithm was set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_chunked_is_no_encoding_of_the_object() {
        for (given, kept) in [
            ("aws-chunked", None),
            ("aws-chunked,gzip", Some("gzip")),
            ("gzip, AWS-Chunked", Some("gzip")),
            ("gzip,br", Some("gzip,br")),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(given));
            let mut field = Some(given.to_owned());
            strip_aws_chunked(&mut headers, &mut field);
            assert_eq!(field.as_deref(), kept, "{given}");
            assert_eq!(headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap()), kept, "{given}");
        }
    }

    #[test]
    fn elements_that_would_be_ignored_are_refused() {
        let check = |operation, document: &str| check_elements(document.as_bytes(), operation).map_err(|error| error.code().clone());
        let location =
            "<c:CreateBucketConfiguration xmlns:c=\"u\"><c:LocationConstraint>a</c:LocationConstraint></c:CreateBucketConfiguration>";
        assert_eq!(check(Operation::CreateBucket, location), Ok(()));
        let tags = "<CreateBucketConfiguration><Tags><Tag><Key>a</Key></Tag></Tags></CreateBucketConfiguration>";
        assert_eq!(check(Operation::CreateBucket, tags), Err(S3ErrorCode::NotImplemented));
        let delete = |object: &str| format!("<?xml version=\"1.0\"?>\n<Delete><!-- <Foo> --><Quiet/><Object>{object}</Object></Delete>");
        for object in ["<Key>a</Key><VersionId>null</VersionId>", "<Key><![CDATA[<Foo>]]></Key>", "<Key >&lt;Foo&gt;</Key >"] {
            assert_eq!(check(Operation::DeleteObjects, &delete(object)), Ok(()), "{object}");
        }
        assert_eq!(check(Operation::DeleteObjects, &delete("<Key>a</Key><IfOlder>1</IfOlder>")), Err(S3ErrorCode::NotImplemented));
        let part = "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag><ChecksumMD5>y</ChecksumMD5></Part>";
        assert_eq!(check(Operation::CompleteMultipartUpload, part), Err(S3ErrorCode::NotImplemented));
        assert_eq!(check(Operation::CompleteMultipartUpload, "hello < <<< >"), Ok(()));
    }

    #[test]
    fn documents_are_compared_with_every_digest() {
        let document = Bytes::from_static(b"hello");
        let plain = Framing::Plain { length: 5 };
        let verify = |operation, pairs: &[(&'static str, &'static str)], trailers: &[(&'static str, &'static str)]| {
            let map = |pairs: &[(&'static str, &'static str)]| {
                pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
            };
            verify_document(&document, operation, &plain, &map(pairs), &map(trailers)).map_err(|error| error.code().clone())
        };
        use S3ErrorCode::*;
        let delete = Operation::DeleteObjects;
        assert_eq!(verify(delete, &[], &[]), Err(InvalidRequest));
        assert_eq!(verify(delete, &[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")], &[]), Ok(()));
        assert_eq!(verify(delete, &[("content-md5", "XUFAKrxLKna5cZ2REBfFkQ==")], &[]), Err(BadDigest));
        assert_eq!(verify(delete, &[("content-md5", "XUFAKrxL")], &[]), Err(InvalidDigest));
        assert_eq!(verify(delete, &[("x-amz-checksum-crc32", "NhCmhg==")], &[]), Ok(()));
        assert_eq!(verify(delete, &[("x-amz-checksum-crc32", "NhCmhw==")], &[]), Err(BadDigest));
        assert_eq!(verify(delete, &[("x-amz-checksum-crc32", "?")], &[]), Err(InvalidRequest));
        assert_eq!(verify(delete, &[("x-amz-checksum-crc32c", "mnG7TA==")], &[]), Ok(()));
        assert_eq!(verify(delete, &[("x-amz-checksum-crc64nvme", "M3eFcAZSQlc=")], &[]), Ok(()));
        assert_eq!(verify(delete, &[("x-amz-checksum-sha1", "qvTGHdzF6KLavt4PO0gs2a6pQ00=")], &[]), Ok(()));
        assert_eq!(verify(delete, &[("x-amz-checksum-sha256", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=")], &[]), Ok(()));
        assert_eq!(verify(delete, &[], &[("x-amz-checksum-crc32", "NhCmhg==")]), Ok(()));
        assert_eq!(verify(delete, &[], &[("x-amz-checksum-crc32", "NhCmhw==")]), Err(BadDigest));
        let complete = Operation::CompleteMultipartUpload;
        assert_eq!(verify(complete, &[("x-amz-checksum-crc32", "AAAAAA==")], &[]), Ok(()));
        assert_eq!(verify(complete, &[("content-md5", "XUFAKrxLKna5cZ2REBfFkQ==")], &[]), Err(BadDigest));
    }
}
