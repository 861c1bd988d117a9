//! The edge over real sockets, before a tiny set of operations that writes down what reaches it.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use gateway::gate::Gate;
use gateway::gate::target::Hosts;
use gateway::http::{Edge, Limits, RequestFacts};
use gateway::identity::Identity;
use jepsen_like::s3::{Auth, Checksum, Client, Content, Credentials, Error, Payload, Request, Source, Step, Tamper, raw_exchange};
use runtime::net::TcpListener;
use runtime::process::block_on;
use runtime::task::{self, Task};
use runtime::time;
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

const MINUTE_MS: u64 = 60_000;

/// What reached the operations, in order, and the objects that were stored.
#[derive(Default)]
struct Seen {
    calls: Mutex<Vec<String>>,
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// Endless bodies of responses that are alive.
    streams: AtomicUsize,
}

impl Seen {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn object(&self, key: &str) -> Option<Bytes> {
        self.objects.lock().unwrap().remove(key)
    }
}

struct Stub(Arc<Seen>);

type Answer<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;

macro_rules! stub {
    ($($name:ident($input:ty) -> $output:ty;)*) => {
        impl S3 for Stub {
            $(fn $name<'life0, 'async_trait>(&'life0 self, request: S3Request<$input>) -> Answer<'async_trait, $output>
            where
                'life0: 'async_trait,
                Self: 'async_trait,
            {
                Box::pin(Stub::$name(self, request))
            })*
        }
    };
}

stub! {
    list_buckets(ListBucketsInput) -> ListBucketsOutput;
    create_bucket(CreateBucketInput) -> CreateBucketOutput;
    put_object(PutObjectInput) -> PutObjectOutput;
    get_object(GetObjectInput) -> GetObjectOutput;
    head_object(HeadObjectInput) -> HeadObjectOutput;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput;
    upload_part(UploadPartInput) -> UploadPartOutput;
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
}

/// All of a body; its failure as an error of the operation's own, which the edge must replace by the verdict.
async fn read(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut whole = Vec::new();
    let mut body = body.expect("the edge always gives a body");
    while let Some(piece) = body.next().await {
        whole.extend_from_slice(&piece.map_err(|_| S3Error::new(S3ErrorCode::InternalError))?);
    }
    Ok(whole.into())
}

struct Alive(Arc<Seen>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Stub {
    async fn list_buckets(&self, request: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let facts = request.extensions.get::<RequestFacts>().expect("facts are there");
        self.0.note(format!("ListBuckets {}", facts.request_id));
        Ok(S3Response::new(ListBucketsOutput::default()))
    }

    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let input = request.input;
        self.0.note(format!("CreateBucket {} {}", input.bucket, input.create_bucket_configuration.is_some()));
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let body = read(input.body).await?;
        if input.key == "panic" {
            panic!("on purpose");
        }
        assert_eq!(input.content_length, Some(body.len() as i64));
        let trailers = request.trailing_headers.and_then(|trailers| trailers.take()).map_or(0, |trailers| trailers.len());
        let encoding = [input.content_encoding.as_deref(), request.headers.get("content-encoding").map(|value| value.to_str().unwrap())];
        let owner = input.metadata.unwrap_or_default().remove("owner");
        self.0.note(format!("PutObject {} {} {trailers} {encoding:?} {owner:?}", input.bucket, input.key));
        self.0.objects.lock().unwrap().insert(input.key, body);
        Ok(S3Response::new(PutObjectOutput::default()))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let body = read(request.input.body).await?;
        self.0.note(format!("UploadPart {} {}", request.input.part_number, body.len()));
        Ok(S3Response::new(UploadPartOutput::default()))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        self.0.note(format!("GetObject {} {:?} {:?}", input.key, input.range, input.checksum_mode));
        if input.key == "missing" {
            return Err(S3Error::with_message(S3ErrorCode::NoSuchKey, "The specified key does not exist."));
        }
        if input.key == "unmodified" {
            return Err(S3Error::new(S3ErrorCode::NotModified));
        }
        let mut output = GetObjectOutput::default();
        if input.key == "endless" {
            self.0.streams.fetch_add(1, Ordering::SeqCst);
            let alive = Alive(self.0.clone());
            let piece = Bytes::from(vec![0; 1 << 16]);
            let pieces = futures::stream::repeat_with(move || {
                let _ = &alive;
                Ok::<_, std::io::Error>(piece.clone())
            });
            output.body = Some(StreamingBlob::wrap(pieces));
            return Ok(S3Response::new(output));
        }
        output.content_length = Some(5);
        output.body = Some(StreamingBlob::from(s3s::Body::from(Bytes::from_static(b"hello"))));
        Ok(S3Response::new(output))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.0.note(format!("HeadObject {}", request.input.key));
        if request.input.key == "missing" {
            return Err(S3Error::new(S3ErrorCode::NoSuchKey));
        }
        Ok(S3Response::new(HeadObjectOutput { content_length: Some(5), ..HeadObjectOutput::default() }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.note(format!("DeleteObject {}", request.input.key));
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, request: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let keys: Vec<&str> = request.input.delete.objects.iter().map(|object| object.key.as_str()).collect();
        self.0.note(format!("DeleteObjects {keys:?}"));
        Ok(S3Response::new(DeleteObjectsOutput::default()))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.0.note(format!("CreateMultipartUpload {:?}", request.input.content_encoding));
        Ok(S3Response::new(CreateMultipartUploadOutput::default()))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).map_or(0, |parts| parts.len());
        self.0.note(format!("CompleteMultipartUpload {} {parts} {:?}", input.upload_id, input.checksum_crc32));
        Ok(S3Response::new(CompleteMultipartUploadOutput::default()))
    }
}

/// A gateway's edge on a port of its own, and a client of it.
struct Site {
    client: Client,
    seen: Arc<Seen>,
    address: SocketAddr,
    server: Task<()>,
}

impl Site {
    async fn start(limits: Limits) -> Site {
        Site::start_with(limits, true).await
    }

    async fn start_with(limits: Limits, presigned_v2: bool) -> Site {
        let gate = Gate {
            identities: Identity::new("AKIDEXAMPLE", "secret").into(),
            region: "here".into(),
            hosts: Hosts::new(&["s3.test".into()]),
            presigned_v2,
        };
        let seen = Arc::new(Seen::default());
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let edge = Arc::new(Edge::new(gate, Stub(seen.clone()), limits));
        let server = task::spawn(edge.serve(listener));
        let client = Client::new(address, Credentials::new("AKIDEXAMPLE", "secret"), "here").with_timeout(Duration::from_secs(20));
        Site { client, seen, address, server }
    }

    /// The code of the refusal; panics if there is none.
    async fn refusal(&self, request: Request) -> String {
        match self.client.call(&request).await {
            Err(Error::Refused { status, code, .. }) => format!("{status} {code}"),
            Err(error) => panic!("{error}"),
            Ok(reply) => panic!("{} for {request:?}", reply.status),
        }
    }

    async fn served(&self, request: Request) -> Vec<String> {
        if let Err(error) = self.client.call_whole(&request).await {
            panic!("{error} for {request:?}");
        }
        self.seen.take()
    }
}

fn put(key: &str) -> Request {
    Request::object("PUT", "bucket", key)
}

fn get(key: &str) -> Request {
    Request::object("GET", "bucket", key)
}

#[test]
fn refusals_have_the_form_of_s3() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        let reply = site.client.send(&get("a&b").auth(Auth::Anonymous)).await.unwrap();
        assert_eq!(reply.status, 403);
        let id = reply.header("x-amz-request-id").to_owned();
        assert_eq!(id.len(), 16);
        assert_eq!(reply.header("server"), "Keepstone");
        assert!(reply.header("date").ends_with(" GMT"), "{}", reply.header("date"));
        assert_eq!(reply.header("content-type"), "application/xml");
        let text = String::from_utf8(reply.bytes(1 << 20).await.unwrap().to_vec()).unwrap();
        let expected = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message>\
             <Resource>/bucket/a%26b</Resource><RequestId>{id}</RequestId></Error>"
        );
        assert_eq!(text, expected);

        // Errors of s3s and of operations are completed too.
        let reply = site.client.send(&get("missing")).await.unwrap();
        assert_eq!(reply.status, 404);
        let id = reply.header("x-amz-request-id").to_owned();
        let text = String::from_utf8(reply.bytes(1 << 20).await.unwrap().to_vec()).unwrap();
        let end = format!("<Resource>/bucket/missing</Resource><RequestId>{id}</RequestId></Error>");
        assert!(text.contains("<Message>The specified key does not exist.</Message>") && text.ends_with(&end), "{text}");

        // None of it where there is no body.
        for request in [Request::object("HEAD", "bucket", "missing"), get("unmodified")] {
            let reply = site.client.send(&request).await.unwrap();
            assert!(reply.status == 404 || reply.status == 304, "{}", reply.status);
            assert_eq!(reply.header("content-type"), "");
            assert!(reply.bytes(1 << 20).await.unwrap().is_empty());
        }

        // The id is the one that the operation sees.
        site.seen.take();
        let (headers, _) = site.client.call_whole(&Request::new("GET", "/")).await.unwrap();
        assert_eq!(site.seen.take(), [format!("ListBuckets {}", headers["x-amz-request-id"].to_str().unwrap())]);
    });
}

#[test]
fn whoever_does_not_prove_who_he_is_gets_s3_s_codes() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        let now = time::wall_ms();
        let tampered = |tamper: Tamper| get("key").tamper(tamper);
        for (request, expected) in [
            (get("key").auth(Auth::Anonymous), "403 AccessDenied"),
            (get("key").query("acl", "").auth(Auth::Anonymous), "403 AccessDenied"),
            (tampered(Tamper { signature: true, ..Tamper::default() }), "403 SignatureDoesNotMatch"),
            (tampered(Tamper { region: Some("there".into()), ..Tamper::default() }), "400 AuthorizationHeaderMalformed"),
            (tampered(Tamper { service: Some("sts".into()), ..Tamper::default() }), "400 AuthorizationHeaderMalformed"),
            (tampered(Tamper { at_ms: Some(now - 16 * MINUTE_MS), ..Tamper::default() }), "403 RequestTimeTooSkewed"),
            (tampered(Tamper { at_ms: Some(now + 16 * MINUTE_MS), ..Tamper::default() }), "403 RequestTimeTooSkewed"),
            (tampered(Tamper { unsigned_headers: vec![("x-amz-acl".into(), "private".into())], ..Tamper::default() }), "403 AccessDenied"),
            (
                tampered(Tamper { unsigned_query: "&partNumber=1".into(), ..Tamper::default() }).query("versionId", "null"),
                "403 SignatureDoesNotMatch",
            ),
            (get("key").auth(Auth::HeaderV2), "400 InvalidRequest"),
            (get("key").auth(Auth::Query { expires_s: 8 * 24 * 60 * 60 }), "400 AuthorizationQueryParametersError"),
            (
                get("key").auth(Auth::Query { expires_s: 60 }).tamper(Tamper { at_ms: Some(now - 2 * MINUTE_MS), ..Tamper::default() }),
                "403 AccessDenied",
            ),
            (
                get("key").auth(Auth::Query { expires_s: 60 }).tamper(Tamper { signature: true, ..Tamper::default() }),
                "403 SignatureDoesNotMatch",
            ),
            (
                get("key").auth(Auth::QueryV2 { expires_s: 60 }).tamper(Tamper { at_ms: Some(now - 2 * MINUTE_MS), ..Tamper::default() }),
                "403 AccessDenied",
            ),
            (
                get("key").auth(Auth::QueryV2 { expires_s: 60 }).tamper(Tamper { signature: true, ..Tamper::default() }),
                "403 SignatureDoesNotMatch",
            ),
            (get("key").auth(Auth::QueryV2 { expires_s: 8 * 24 * 60 * 60 }), "400 AuthorizationQueryParametersError"),
        ] {
            assert_eq!(site.refusal(request.clone()).await, expected, "{request:?}");
        }
        let stranger = site.client.with_credentials(Credentials::new("STRANGER", "secret"));
        for auth in [Auth::Header, Auth::Query { expires_s: 60 }, Auth::QueryV2 { expires_s: 60 }] {
            let error = stranger.call(&get("key").auth(auth)).await.map(|reply| reply.status).unwrap_err();
            assert_eq!((error.status(), error.code()), (Some(403), Some("InvalidAccessKeyId")));
        }
        assert_eq!(site.seen.take(), Vec::<String>::new());

        for auth in [Auth::Header, Auth::Query { expires_s: 7 * 24 * 60 * 60 }, Auth::QueryV2 { expires_s: 60 }] {
            assert_eq!(site.served(get("a b+c/ü").auth(auth)).await, ["GetObject a b+c/ü None None"]);
        }
        let late = Tamper { at_ms: Some(now - 14 * MINUTE_MS), ..Tamper::default() };
        assert_eq!(site.served(get("key").tamper(late)).await.len(), 1);

        let without_v2 = Site::start_with(Limits::default(), false).await;
        assert_eq!(without_v2.refusal(get("key").auth(Auth::QueryV2 { expires_s: 60 })).await, "400 InvalidRequest");
    });
}

#[test]
fn what_is_not_built_never_reaches_an_operation() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        for (request, expected) in [
            (put("key").query("append", "").source(b"x".to_vec()), "501 NotImplemented"),
            (put("key").query("renameObject", "").source(b"x".to_vec()), "501 NotImplemented"),
            (put("key").query("encryption", "").source(b"x".to_vec()), "501 NotImplemented"),
            (Request::object("DELETE", "bucket", "key").query("acl", ""), "501 NotImplemented"),
            (Request::object("DELETE", "bucket", "key").query("retention", ""), "501 NotImplemented"),
            (Request::bucket("DELETE", "bucket").query("policy", ""), "501 NotImplemented"),
            (Request::bucket("GET", "bucket").query("policy", ""), "501 NotImplemented"),
            (put("key").header("x-amz-server-side-encryption", "AES256").source(b"x".to_vec()), "501 NotImplemented"),
            (put("key").header("x-amz-checksum-sha512", "x").source(b"x".to_vec()), "501 NotImplemented"),
            (Request::object("POST", "bucket", "key"), "405 MethodNotAllowed"),
            (Request::object("PATCH", "bucket", "key"), "405 MethodNotAllowed"),
            (Request::bucket("POST", "bucket").header("content-type", "multipart/form-data; boundary=b"), "501 NotImplemented"),
            (
                Request::bucket("POST", "bucket").auth(Auth::Anonymous).header("content-type", "multipart/form-data; boundary=b"),
                "501 NotImplemented",
            ),
            (
                put("key").tamper(Tamper { content_length: Some(None), ..Tamper::default() }).source(b"x".to_vec()),
                "411 MissingContentLength",
            ),
        ] {
            assert_eq!(site.refusal(request.clone()).await, expected, "{request:?}");
        }
        assert_eq!(site.seen.take(), Vec::<String>::new());
    });
}

fn payloads(chunk_bytes: usize) -> Vec<Payload> {
    let checksum = Checksum::Crc32;
    vec![
        Payload::Signed,
        Payload::Unsigned,
        Payload::SignedChunks { chunk_bytes },
        Payload::SignedChunksTrailer { chunk_bytes, checksum },
        Payload::UnsignedTrailer { chunk_bytes, checksum },
    ]
}

#[test]
fn bodies_arrive_whole_however_they_are_framed() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        for length in [0, 1, 8191, 65536, 200_000] {
            let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            for payload in payloads(8192) {
                let trailers = usize::from(matches!(payload, Payload::SignedChunksTrailer { .. } | Payload::UnsignedTrailer { .. }));
                let request = put("key").source(body.clone()).payload(payload).header("x-amz-meta-owner", "me");
                assert_eq!(site.served(request).await, [format!("PutObject bucket key {trailers} [None, None] Some(\"me\")")]);
                assert_eq!(site.seen.object("key").unwrap(), body);
            }
        }
        let gzip = put("key").header("content-encoding", "aws-chunked, gzip").source(b"x".to_vec());
        assert_eq!(
            site.served(gzip.payload(Payload::SignedChunks { chunk_bytes: 8192 })).await,
            ["PutObject bucket key 0 [Some(\"gzip\"), Some(\"gzip\")] None"]
        );
        let part = put("key").query("partNumber", "7").query("uploadId", "u").source(vec![1; 100_000]);
        assert_eq!(site.served(part.payload(payloads(65536).remove(4))).await, ["UploadPart 7 100000"]);
        for auth in [Auth::Query { expires_s: 60 }, Auth::QueryV2 { expires_s: 60 }] {
            assert_eq!(site.served(put("key").auth(auth).source(b"x".to_vec()).payload(Payload::Unsigned)).await.len(), 1);
        }
        let create = Request::object("POST", "bucket", "key").query("uploads", "").header("content-encoding", "aws-chunked");
        assert_eq!(site.served(create).await, ["CreateMultipartUpload None"]);
    });
}

#[test]
fn bodies_that_are_not_what_they_claim_leave_nothing() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        let body = vec![7; 40_000];
        let all = payloads(8192);
        let other_hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_owned();
        for (payload, tamper, expected) in [
            (0, Tamper { payload_hash: Some(other_hash), ..Tamper::default() }, "400 XAmzContentSHA256Mismatch"),
            (2, Tamper { chunk_signature: Some(0), ..Tamper::default() }, "403 SignatureDoesNotMatch"),
            (2, Tamper { chunk_signature: Some(4), ..Tamper::default() }, "403 SignatureDoesNotMatch"),
            (2, Tamper { omit_last_chunk: true, ..Tamper::default() }, "400 IncompleteBody"),
            (3, Tamper { omit_last_chunk: true, ..Tamper::default() }, "400 IncompleteBody"),
            (4, Tamper { omit_last_chunk: true, ..Tamper::default() }, "400 IncompleteBody"),
            (2, Tamper { decoded_length: Some(39_999), ..Tamper::default() }, "400 IncompleteBody"),
            (2, Tamper { decoded_length: Some(40_001), ..Tamper::default() }, "400 IncompleteBody"),
            (2, Tamper { decoded_length: Some((5 << 30) + 1), ..Tamper::default() }, "400 EntityTooLarge"),
            (3, Tamper { omit_trailer: true, ..Tamper::default() }, "400 InvalidRequest"),
            (4, Tamper { omit_trailer: true, ..Tamper::default() }, "400 InvalidRequest"),
        ] {
            let request = put("key").source(body.clone()).payload(all[payload].clone()).tamper(tamper);
            assert_eq!(site.refusal(request.clone()).await, expected, "{:?} {:?}", request.payload, request.tamper);
        }
        let url = site.client.presigned_url(&put("key").auth(Auth::Query { expires_s: 60 }));
        let target = &url[url.find("/bucket").unwrap()..];
        let head = format!("PUT {target} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n", site.address, (5_u64 << 30) + 1);
        let (answer, _) = exchange(&site, head, 300).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("<Code>EntityTooLarge</Code>"), "{answer}");
        for payload in all {
            let tamper = Tamper { abort_after: Some(20_000), ..Tamper::default() };
            assert!(site.client.call(&put("key").source(body.clone()).payload(payload).tamper(tamper)).await.is_err());
        }
        time::sleep(Duration::from_millis(100)).await;
        assert_eq!(site.seen.take(), Vec::<String>::new());
    });
}

#[test]
fn a_chunk_larger_than_16_mib_is_refused_at_its_announcement() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        let source = Source::Content(Content::new(1, 17 << 20));
        let payload = |chunk_bytes| Payload::UnsignedTrailer { chunk_bytes, checksum: Checksum::Crc32 };
        let refused = site.refusal(put("key").source(source.clone()).payload(payload(17 << 20))).await;
        assert_eq!(refused, "400 InvalidRequest");
        assert_eq!(site.served(put("key").source(source).payload(payload(16 << 20))).await.len(), 1);
    });
}

#[test]
fn documents_are_decoded_and_verified() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        let document = b"<Delete><Object><Key>a</Key></Object><Object><Key>b</Key></Object></Delete>".to_vec();
        let crc = Checksum::Crc32.of(&document);
        let delete = || Request::bucket("POST", "bucket").query("delete", "").source(document.clone());
        for payload in payloads(16) {
            let request = delete().payload(payload).header("x-amz-checksum-crc32", crc.clone());
            let request = if matches!(request.payload, Payload::SignedChunksTrailer { .. } | Payload::UnsignedTrailer { .. }) {
                delete().payload(request.payload)
            } else {
                request
            };
            assert_eq!(site.served(request).await, ["DeleteObjects [\"a\", \"b\"]"]);
        }
        assert_eq!(site.served(delete().auth(Auth::Query { expires_s: 60 }).header("x-amz-checksum-crc32", crc)).await.len(), 1);
        let all = payloads(16);
        for (request, expected) in [
            (delete().header("x-amz-checksum-crc32", "AAAAAA=="), "400 BadDigest"),
            (delete().header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="), "400 BadDigest"),
            (delete().header("content-md5", "AAAA"), "400 InvalidDigest"),
            (delete().payload(Payload::Unsigned), "400 InvalidRequest"),
            (
                delete().payload(all[4].clone()).tamper(Tamper { trailer_value: Some("AAAAAA==".into()), ..Tamper::default() }),
                "400 BadDigest",
            ),
            (
                delete().payload(all[3].clone()).tamper(Tamper { trailer_value: Some("AAAAAA==".into()), ..Tamper::default() }),
                "400 BadDigest",
            ),
            (delete().payload(all[4].clone()).tamper(Tamper { omit_last_chunk: true, ..Tamper::default() }), "400 IncompleteBody"),
            (
                delete().payload(all[2].clone()).tamper(Tamper { chunk_signature: Some(1), ..Tamper::default() }),
                "403 SignatureDoesNotMatch",
            ),
            (delete().tamper(Tamper { signature: true, ..Tamper::default() }), "403 SignatureDoesNotMatch"),
            (delete().auth(Auth::Anonymous), "403 AccessDenied"),
            (delete().source(vec![b' '; (2 << 20) + 1]), "400 MaxMessageLengthExceeded"),
            (delete().source(b"<Delete><Object>".to_vec()), "400 MalformedXML"),
        ] {
            assert_eq!(site.refusal(request.clone()).await, expected, "{request:?}");
        }
        assert_eq!(site.seen.take(), Vec::<String>::new());

        assert_eq!(site.served(Request::bucket("PUT", "bucket")).await, ["CreateBucket bucket false"]);
        let configuration = b"<CreateBucketConfiguration><LocationConstraint>here</LocationConstraint></CreateBucketConfiguration>";
        let create = Request::bucket("PUT", "bucket").source(configuration.to_vec());
        assert_eq!(site.served(create).await, ["CreateBucket bucket true"]);
        // The checksum is the object's, not the document's.
        let complete = Request::object("POST", "bucket", "key").query("uploadId", "u").header("x-amz-checksum-crc32", "AAAAAA==");
        let parts = b"<CompleteMultipartUpload><Part><ETag>\"e\"</ETag><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>";
        let completed = site.served(complete.source(parts.to_vec()).payload(all[2].clone())).await;
        assert_eq!(completed, ["CompleteMultipartUpload u 1 Some(\"AAAAAA==\")"]);
    });
}

#[test]
fn ranges_that_s3_ignores_are_dropped_after_their_signature_was_verified() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        for (range, expected) in [
            ("bytes=1-2", "GetObject key Some(Int { first: 1, last: Some(2) }) None"),
            ("bytes=1-2,4-5", "GetObject key None None"),
            ("rubbish", "GetObject key None None"),
        ] {
            for auth in [Auth::Header, Auth::Query { expires_s: 60 }, Auth::QueryV2 { expires_s: 60 }] {
                assert_eq!(site.served(get("key").auth(auth).header("range", range)).await, [expected], "{range}");
            }
        }
        let spoilt = get("key").header("range", "rubbish").tamper(Tamper { signature: true, ..Tamper::default() });
        assert_eq!(site.refusal(spoilt).await, "403 SignatureDoesNotMatch");
        let carried = get("key").auth(Auth::Query { expires_s: 60 }).query("x-amz-checksum-mode", "ENABLED");
        assert_eq!(site.served(carried).await, ["GetObject key None Some(ChecksumMode(\"ENABLED\"))"]);
    });
}

#[test]
fn buckets_are_found_by_virtual_host_and_by_path() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        let virtual_host = site.client.with_host("bucket.s3.test:9000");
        for auth in [Auth::Header, Auth::Query { expires_s: 60 }] {
            virtual_host
                .call_whole(&Request::new("PUT", "/key").auth(auth).payload(Payload::Unsigned).source(b"x".to_vec()))
                .await
                .unwrap();
            assert_eq!(site.seen.take(), ["PutObject bucket key 0 [None, None] None"]);
        }
        for host in ["localhost:9000", "s3.test", "elsewhere.example"] {
            let client = site.client.with_host(host);
            client.call_whole(&get("key")).await.unwrap();
            assert_eq!(site.seen.take(), ["GetObject key None None"], "{host}");
        }
    });
}

async fn exchange(site: &Site, request: String, quiet_ms: u64) -> (String, bool) {
    let (read, closed) = raw_exchange(site.address, &[Step::Send(request.into())], Duration::from_millis(quiet_ms), 1 << 20).await.unwrap();
    (String::from_utf8_lossy(&read).into_owned(), closed)
}

#[test]
fn a_refused_body_is_never_asked_for_and_its_sender_sees_why() {
    block_on(async {
        let site = Site::start(Limits { linger: Duration::from_millis(500), ..Limits::default() }).await;
        let form = "POST /bucket HTTP/1.1\r\nhost: h\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: 1073741824\r\n";
        let (answer, _) = exchange(&site, format!("{form}expect: 100-continue\r\n\r\n"), 100).await;
        assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("connection: close"), "{answer}");
        let (answer, closed) = exchange(&site, format!("{form}\r\n{}", "x".repeat(1 << 20)), 2_000).await;
        assert!(answer.starts_with("HTTP/1.1 501 ") && closed, "{answer}");

        // A client that sends all of a body before it reads gets to see the refusal too.
        let refused = site.refusal(put("key").auth(Auth::Anonymous).source(vec![0; 8 << 20])).await;
        assert_eq!(refused, "403 AccessDenied");

        // An accepted one is asked for.
        let url = site.client.presigned_url(&put("key").auth(Auth::Query { expires_s: 60 }).payload(Payload::Unsigned));
        let target = &url[url.find("/bucket").unwrap()..];
        let head = format!("PUT {target} HTTP/1.1\r\nhost: {}\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n", site.address);
        let steps = [Step::Send(head.into()), Step::Pause(Duration::from_millis(100)), Step::Send("hello".into())];
        let (read, _) = raw_exchange(site.address, &steps, Duration::from_millis(300), 1 << 20).await.unwrap();
        let answer = String::from_utf8_lossy(&read);
        assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), "{answer}");
        assert_eq!(site.seen.object("key").unwrap(), "hello");
    });
}

#[test]
fn silent_and_slow_clients_are_given_up() {
    block_on(async {
        let limit = Duration::from_millis(300);
        let site = Site::start(Limits { head_wait: limit, body_idle: limit, write_idle: limit, ..Limits::default() }).await;

        let (answer, closed) = exchange(&site, "GET / HTTP/1.1\r\nhost".into(), 5_000).await;
        assert!(closed, "{answer}");
        let (_, closed) = exchange(&site, String::new(), 5_000).await;
        assert!(closed);

        for payload in payloads(8192) {
            let pace = Tamper { pace: Some((1000, Duration::from_secs(2))), ..Tamper::default() };
            let refused = site.refusal(put("key").source(vec![0; 5_000]).payload(payload).tamper(pace)).await;
            assert_eq!(refused, "400 RequestTimeout");
        }
        let steady = Tamper { pace: Some((4096, Duration::from_millis(100))), ..Tamper::default() };
        assert_eq!(site.served(put("key").source(vec![0; 40_000]).tamper(steady)).await.len(), 1);

        let endless = site.client.send(&get("endless")).await.unwrap();
        assert_eq!(site.seen.streams.load(Ordering::SeqCst), 1);
        for _ in 0..100 {
            time::sleep(Duration::from_millis(50)).await;
            if site.seen.streams.load(Ordering::SeqCst) == 0 {
                drop(endless);
                return;
            }
        }
        panic!("a response that nobody reads is kept");
    });
}

#[test]
fn hostile_bytes_get_an_answer_or_an_end() {
    block_on(async {
        let site = Site::start(Limits { linger: Duration::from_millis(200), ..Limits::default() }).await;
        for request in [
            "rubbish\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "GET /\u{0} HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(),
            format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "k".repeat(300_000)),
            format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "a: b\r\n".repeat(1000)),
            "PUT /bucket/key HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello".to_owned(),
            "PUT /bucket/key HTTP/1.1\r\nhost: h\r\ncontent-length: -5\r\n\r\nhello".to_owned(),
            "PUT /bucket/key HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(),
            "OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(),
            "CONNECT a:1 HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(),
        ] {
            let (answer, _) = exchange(&site, request.clone(), 1_000).await;
            let start = request.get(..60).unwrap_or(&request);
            assert!(answer.starts_with("HTTP/1.1 4"), "{start:?}: {answer}");
        }
        assert_eq!(site.seen.take(), Vec::<String>::new());
    });
}

#[test]
fn a_panic_ends_one_connection_only() {
    block_on(async {
        let site = Site::start(Limits::default()).await;
        assert!(site.client.call(&put("panic").source(b"x".to_vec())).await.is_err());
        assert_eq!(site.served(get("key")).await.len(), 1);
    });
}

/// Say `text` and wait for long.
async fn raw(address: SocketAddr, text: String) {
    let _ = raw_exchange(address, &[Step::Send(text.into())], Duration::from_secs(60), 1 << 20).await;
}

#[test]
fn connections_are_bounded_and_end_with_the_server() {
    block_on(async {
        let site = Site::start(Limits { connections: 1, ..Limits::default() }).await;
        let held = site.client.send(&get("endless")).await.unwrap();
        let impatient = get("key").timeout(Duration::from_millis(300));
        assert!(site.client.call(&impatient).await.is_err(), "a second connection was served");
        drop(held);
        assert_eq!(site.client.call(&get("key")).await.map(|reply| reply.status).ok(), Some(200));

        // Whoever proves nothing cannot keep others out.
        let crowded = Site::start(Limits { connections: 4, ..Limits::default() }).await;
        let silent: Vec<_> = (0..12).map(|_| task::spawn(raw(crowded.address, "GET / HTTP/1.1\r\nhost: h\r\n".into()))).collect();
        time::sleep(Duration::from_millis(200)).await;
        let patient = get("key").timeout(Duration::from_secs(10));
        assert_eq!(crowded.client.call(&patient).await.map(|reply| reply.status).ok(), Some(200), "strangers keep all places");
        drop(silent);

        let other = Site::start(Limits::default()).await;
        let held = other.client.send(&get("endless")).await.unwrap();
        drop(other.server);
        time::sleep(Duration::from_millis(100)).await;
        assert_eq!(other.seen.streams.load(Ordering::SeqCst), 0);
        assert!(held.bytes(1 << 30).await.is_err());
    });
}
