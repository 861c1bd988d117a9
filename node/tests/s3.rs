//! S3 as clients see it, against the real binary.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of a real process")]

mod server;

use jepsen_like::s3::{Auth, Checksum, Client, Condition, Content, Element, Error, List, ListKind, Payload, Request, Tamper};
use runtime::process::block_on;
use server::Up;
use std::future::Future;
use std::time::Duration;

/// A server with one bucket.
fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Client, u32) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data"));
    block_on(async {
        let client = up.client();
        client.create_bucket("bucket").await.unwrap();
        test(client, up.pid()).await;
    });
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => panic!("succeeded: {value:?}"),
        Err(error) => error.code().map_or_else(|| format!("{error}"), str::to_string),
    }
}

fn status<T: std::fmt::Debug>(result: Result<T, Error>) -> u16 {
    let error = result.expect_err("must be refused");
    error.status().unwrap_or_else(|| panic!("no reply: {error}"))
}

#[test]
fn buckets_live_and_die() {
    with_server(|client, _| async move {
        assert_eq!(code(client.create_bucket("bucket").await), "BucketAlreadyOwnedByYou");
        assert_eq!(code(client.create_bucket("No_Good").await), "InvalidBucketName");
        client.create_bucket("another.bucket").await.unwrap();
        assert_eq!(client.list_buckets().await.unwrap(), ["another.bucket", "bucket"]);
        let first = client.list_buckets_page("", Some(1), None).await.unwrap();
        let second = client.list_buckets_page("", Some(1), first.next.as_deref()).await.unwrap();
        assert_eq!((first.names, second.names, second.next), (vec!["another.bucket".to_owned()], vec!["bucket".to_owned()], None));
        assert_eq!(client.list_buckets_page("b", None, None).await.unwrap().names, ["bucket"]);
        client.head_bucket("bucket").await.unwrap();
        assert_eq!(status(client.head_bucket("missing").await), 404);
        assert_eq!(code(client.put("missing", "k", Content::new(1, 10)).await), "NoSuchBucket");
        client.put("bucket", "k", Content::new(1, 10)).await.unwrap();
        assert_eq!(code(client.delete_bucket("bucket").await), "BucketNotEmpty");
        client.put("bucket", "k2", Content::new(1, 10)).await.expect("a bucket that was not empty is open again");
        client.delete("bucket", "k").await.unwrap();
        client.delete("bucket", "k2").await.unwrap();
        client.delete_bucket("bucket").await.unwrap();
        assert_eq!(code(client.get("bucket", "k").await), "NoSuchBucket");
        client.create_bucket("bucket").await.unwrap();
        assert_eq!(code(client.get("bucket", "k").await), "NoSuchKey");
        let location = client.call_whole(&Request::bucket("GET", "bucket").query("location", "")).await.unwrap();
        assert!(String::from_utf8_lossy(&location.1).contains("LocationConstraint"));
    });
}

#[test]
fn objects_of_every_size_come_back_whole_and_in_ranges() {
    with_server(|client, _| async move {
        for (number, bytes) in [0, 1, 4095, 8192, 8193, 262_144, 1 << 20, (8 << 20) - 1, 8 << 20, (24 << 20) + 7].into_iter().enumerate() {
            let content = Content::new(number as u64, bytes);
            let key = format!("size/{bytes}");
            let written = client.put("bucket", &key, content).await.unwrap();
            let head = client.head("bucket", &key).await.unwrap();
            assert_eq!((head.bytes, &head.etag), (bytes, &written.etag));
            client.get_stream("bucket", &key).await.unwrap().verify(content).await.unwrap();
            if bytes > 10 {
                for (from, to) in [(0, 0), (bytes / 2, bytes / 2 + 5), (bytes - 1, bytes - 1), (bytes / 3, bytes - 2), (0, bytes - 1)] {
                    let (head, got) = client.get_range("bucket", &key, &format!("bytes={from}-{to}")).await.unwrap();
                    assert!(got == content.slice(from, to - from + 1).bytes(), "{key} {from}-{to}");
                    assert_eq!(head.headers["content-range"], format!("bytes {from}-{to}/{bytes}"));
                }
                let (_, suffix) = client.get_range("bucket", &key, "bytes=-7").await.unwrap();
                assert!(suffix == content.slice(bytes - 7, 7).bytes());
                let (_, open) = client.get_range("bucket", &key, &format!("bytes={}-", bytes - 9)).await.unwrap();
                assert!(open == content.slice(bytes - 9, 9).bytes());
            }
            assert_eq!(code(client.get_range("bucket", &key, &format!("bytes={}-", bytes + 1)).await), "InvalidRange");
        }
        client.put("bucket", "size/1", Content::new(77, 5000)).await.unwrap();
        client.get_stream("bucket", "size/1").await.unwrap().verify(Content::new(77, 5000)).await.unwrap();
        client.delete("bucket", "size/1").await.unwrap();
        client.delete("bucket", "size/1").await.expect("deleting what is not there succeeds");
        assert_eq!(code(client.get("bucket", "size/1").await), "NoSuchKey");
        assert_eq!(status(client.head("bucket", "size/1").await), 404);
    });
}

#[test]
fn conditions_are_judged_once() {
    with_server(|client, _| async move {
        let first = client.put_if("bucket", "k", Content::new(1, 100), &Condition::Absent).await.unwrap();
        assert_eq!(code(client.put_if("bucket", "k", Content::new(2, 100), &Condition::Absent).await), "PreconditionFailed");
        let second = client.put_if("bucket", "k", Content::new(2, 100), &Condition::Matches(first.etag.clone())).await.unwrap();
        assert_eq!(
            code(client.put_if("bucket", "k", Content::new(3, 100), &Condition::Matches(first.etag.clone())).await),
            "PreconditionFailed"
        );
        assert_eq!(code(client.put_if("bucket", "none", Content::new(3, 100), &Condition::Matches(first.etag)).await), "NoSuchKey");
        let get =
            async |name: &str, value: &str| client.send(&Request::object("GET", "bucket", "k").header(name, value)).await.unwrap().status;
        assert_eq!(get("if-none-match", &second.etag).await, 304);
        assert_eq!(get("if-match", "\"00000000000000000000000000000000\"").await, 412);
        assert_eq!(get("if-match", &second.etag).await, 200);
        assert_eq!(get("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT").await, 304);
        assert_eq!(get("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT").await, 412);

        // Of many who create a key at once exactly one wins.
        let racers: Vec<_> = (0..16u64)
            .map(|seed| {
                let client = client.clone();
                runtime::task::spawn(async move { client.put_if("bucket", "race", Content::new(seed, 20_000), &Condition::Absent).await })
            })
            .collect();
        let mut won = 0;
        for racer in racers {
            match racer.await {
                Ok(_) => won += 1,
                Err(error) => assert!(matches!(error.status(), Some(412 | 409)), "{error}"),
            }
        }
        assert_eq!(won, 1);
    });
}

#[test]
fn deletions_and_completes_take_place_only_on_their_condition() {
    with_server(|client, _| async move {
        let wrong = "\"00000000000000000000000000000000\"";
        let put = async |key: &str| client.put("bucket", key, Content::new(1, 100)).await.unwrap().etag;
        let stands = async |key: &str| client.get("bucket", key).await.is_ok();
        let delete =
            async |key: &str, etag: &str| client.call_whole(&Request::object("DELETE", "bucket", key).header("if-match", etag)).await;
        let etag = put("k").await;
        assert_eq!(code(delete("k", wrong).await), "PreconditionFailed");
        assert!(stands("k").await);
        delete("k", &etag).await.unwrap();
        assert!(!stands("k").await);
        assert_eq!(code(delete("k", &etag).await), "NoSuchKey", "it was asked for a version, and there is none");
        put("k").await;
        delete("k", "*").await.unwrap();
        assert!(!stands("k").await);

        // Each row of DeleteObjects has a condition of its own.
        let (kept, gone) = (put("kept").await, put("gone").await);
        assert_eq!(kept, gone);
        let row = |key: &str, etag: &str| format!("<Object><Key>{key}</Key><ETag>{etag}</ETag></Object>");
        let document =
            format!("<Delete>{}{}</Delete>", row("kept", &wrong.replace('"', "&quot;")), row("gone", &gone.replace('"', "&quot;")));
        let request = Request::bucket("POST", "bucket").query("delete", "").source(document);
        let (_, body) = client.call_whole(&request).await.unwrap();
        let root = Element::parse(&body).unwrap();
        let told: Vec<_> = root.children.iter().map(|row| (row.name.as_str(), row.text_of("Key"), row.text_of("Code"))).collect();
        assert_eq!(told.len(), 2);
        assert!(told.contains(&("Error", "kept", "PreconditionFailed")) && told.contains(&("Deleted", "gone", "")), "{told:?}");
        assert!(stands("kept").await && !stands("gone").await);

        let complete = async |key: &str, name: &str, value: &str| {
            let upload = client.create_upload("bucket", key).await.unwrap();
            let part = client.upload_part("bucket", key, &upload, 1, Content::new(2, 50)).await.unwrap();
            let request = Request::object("POST", "bucket", key).header(name, value);
            let done = client.complete_upload_with(request, &upload, &[(1, part)]).await;
            (done, upload)
        };
        let (refused, upload) = complete("kept", "if-none-match", "*").await;
        assert_eq!(code(refused), "PreconditionFailed");
        assert_eq!(client.get("bucket", "kept").await.unwrap().1.len(), 100);
        let under_way = client.list_uploads("bucket", "").await.unwrap();
        assert_eq!(under_way, [("kept".to_string(), upload.clone())], "an upload that was refused can be completed otherwise");
        client.abort_upload("bucket", "kept", &upload).await.unwrap();
        let (refused, _) = complete("kept", "if-match", wrong).await;
        assert_eq!(code(refused), "PreconditionFailed");
        complete("kept", "if-match", &kept).await.0.unwrap();
        complete("new", "if-none-match", "*").await.0.unwrap();
        for key in ["kept", "new"] {
            assert_eq!(client.get("bucket", key).await.unwrap().1.len(), 50);
        }
    });
}

#[test]
fn listings_are_complete_ordered_and_paged() {
    with_server(|client, _| async move {
        let mut keys: Vec<String> =
            ["a", "a/b", "a/b/c", "a/b/d", "a-b", "a b+c", "ü/ö", "z\u{1F600}", "dir/", "dir/x", "quo\"te&<x>"].map(str::to_string).into();
        keys.extend((0..40).map(|number| format!("many/{number:03}")));
        for key in &keys {
            client.put("bucket", key, Content::new(1, 3)).await.unwrap();
        }
        keys.sort();
        for kind in [ListKind::V1, ListKind::V2] {
            let mut listed = Vec::new();
            let mut list = List { keys_max: Some(7), ..List::default() };
            loop {
                let page = client.list("bucket", kind, &list).await.unwrap();
                assert!(page.objects.len() <= 7);
                listed.extend(page.objects.iter().map(|object| object.key.clone()));
                if !page.truncated {
                    break;
                }
                match kind {
                    ListKind::V1 => list.after = page.next.unwrap(),
                    ListKind::V2 => list.token = page.next,
                }
            }
            assert_eq!(listed, keys);
            let mut found = (Vec::new(), Vec::new());
            let mut list = List { delimiter: "/".to_string(), keys_max: Some(2), ..List::default() };
            loop {
                let page = client.list("bucket", kind, &list).await.unwrap();
                assert!(page.objects.len() + page.prefixes.len() <= 2);
                found.0.extend(page.objects.iter().map(|object| object.key.clone()));
                found.1.extend(page.prefixes);
                if !page.truncated {
                    break;
                }
                match kind {
                    ListKind::V1 => list.after = page.next.unwrap(),
                    ListKind::V2 => list.token = page.next,
                }
            }
            assert_eq!(found.0, ["a", "a b+c", "a-b", "quo\"te&<x>", "z\u{1F600}"]);
            assert_eq!(found.1, ["a/", "dir/", "many/", "ü/"]);
        }
        let page = client
            .list("bucket", ListKind::V2, &List { prefix: "many/".into(), after: "many/037".into(), ..List::default() })
            .await
            .unwrap();
        assert_eq!(page.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["many/038", "many/039"]);
        let page =
            client.list("bucket", ListKind::V2, &List { prefix: "a/".into(), delimiter: "/".into(), ..List::default() }).await.unwrap();
        assert_eq!((page.objects.len(), page.prefixes), (1, vec!["a/b/".to_string()]));
        let none = client.list("bucket", ListKind::V2, &List { keys_max: Some(0), ..List::default() }).await.unwrap();
        assert!(none.objects.is_empty() && !none.truncated);
        let errors = client.delete_objects("bucket", &keys).await.unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        assert!(client.list_all("bucket", "", 1000).await.unwrap().is_empty());
    });
}

#[test]
fn multipart_uploads_complete_abort_and_copy() {
    with_server(|client, _| async move {
        let parts: Vec<Content> =
            [5 << 20, (6 << 20) + 3, 100].into_iter().zip(1..).map(|(bytes, seed)| Content::new(seed, bytes)).collect();
        let upload = client.create_upload("bucket", "big").await.unwrap();
        let mut named = Vec::new();
        for (part, number) in parts.iter().zip(1u16..) {
            named.push((number, client.upload_part("bucket", "big", &upload, number, *part).await.unwrap()));
        }
        assert_eq!(client.list_uploads("bucket", "").await.unwrap(), [("big".to_string(), upload.clone())]);
        let (listed, truncated) = client.list_parts("bucket", "big", &upload, 1, 1000).await.unwrap();
        assert_eq!((listed.len(), truncated), (2, false));
        assert_eq!(code(client.get("bucket", "big").await), "NoSuchKey");
        let mut wrong = named.clone();
        wrong.swap(0, 1);
        assert_eq!(code(client.complete_upload("bucket", "big", &upload, &wrong).await), "InvalidPartOrder");
        wrong = named.clone();
        wrong[0].1 = "\"00000000000000000000000000000000\"".to_string();
        assert_eq!(code(client.complete_upload("bucket", "big", &upload, &wrong).await), "InvalidPart");
        let written = client.complete_upload("bucket", "big", &upload, &named).await.unwrap();
        assert!(written.etag.ends_with("-3\""), "{}", written.etag);
        let again = client.complete_upload("bucket", "big", &upload, &named).await.expect("Complete may be repeated");
        assert_eq!(again.etag, written.etag);
        let mut whole = Vec::new();
        for part in &parts {
            whole.extend_from_slice(&part.bytes());
        }
        assert!(client.get("bucket", "big").await.unwrap().1 == whole);
        let border = 5 << 20;
        let (_, range) = client.get_range("bucket", "big", &format!("bytes={}-{}", border - 10, border + 9)).await.unwrap();
        assert!(range == whole[border - 10..border + 10]);

        client.copy("bucket", "big", "bucket", "copy of big").await.unwrap();
        assert!(client.get("bucket", "copy of big").await.unwrap().1 == whole);
        client.delete("bucket", "big").await.unwrap();
        assert!(client.get("bucket", "copy of big").await.unwrap().1 == whole);

        let upload = client.create_upload("bucket", "aborted").await.unwrap();
        client.upload_part("bucket", "aborted", &upload, 1, Content::new(1, 10)).await.unwrap();
        client.abort_upload("bucket", "aborted", &upload).await.unwrap();
        assert_eq!(code(client.upload_part("bucket", "aborted", &upload, 2, Content::new(1, 10)).await), "NoSuchUpload");
        assert!(client.list_uploads("bucket", "").await.unwrap().is_empty());

        let upload = client.create_upload("bucket", "small").await.unwrap();
        let one = client.upload_part("bucket", "small", &upload, 1, Content::new(1, 10)).await.unwrap();
        let two = client.upload_part("bucket", "small", &upload, 2, Content::new(1, 10)).await.unwrap();
        assert_eq!(code(client.complete_upload("bucket", "small", &upload, &[(1, one), (2, two)]).await), "EntityTooSmall");
        assert_eq!(code(client.delete_bucket("bucket").await), "BucketNotEmpty");
    });
}

#[test]
fn checksums_are_verified_stored_and_returned() {
    with_server(|client, _| async move {
        let content = Content::new(5, 300_000);
        for kind in Checksum::ALL {
            let value = kind.of(&content.bytes());
            let put = |value: &str| Request::object("PUT", "bucket", kind.name()).source(content).header(kind.header(), value);
            client.call_whole(&put(&value)).await.unwrap();
            assert_eq!(code(client.call_whole(&put(&kind.of(b"other"))).await), "BadDigest");
            let head = client
                .call_whole(&Request::object("HEAD", "bucket", kind.name()).header("x-amz-checksum-mode", "ENABLED"))
                .await
                .unwrap()
                .0;
            assert_eq!(head[kind.header()], value.as_str());
            for payload in [
                Payload::UnsignedTrailer { chunk_bytes: 64 << 10, checksum: kind },
                Payload::SignedChunksTrailer { chunk_bytes: 64 << 10, checksum: kind },
            ] {
                let key = format!("trailer-{}", kind.name());
                let request = Request::object("PUT", "bucket", &key).source(content).payload(payload);
                client.call_whole(&request).await.unwrap();
                client.get_stream("bucket", &key).await.unwrap().verify(content).await.unwrap();
                let wrong = request.tamper(Tamper { trailer_value: Some(kind.of(b"other")), ..Tamper::default() });
                assert_eq!(status(client.call_whole(&wrong).await), 400);
            }
        }
        let md5 = |value: &str| Request::object("PUT", "bucket", "md5").source(content).header("content-md5", value);
        assert_eq!(code(client.call_whole(&md5("1B2M2Y8AsgTpgAmY7PhCfg==")).await), "BadDigest");
        assert_eq!(code(client.call_whole(&md5("nonsense")).await), "InvalidDigest");
        assert_eq!(code(client.get("bucket", "md5").await), "NoSuchKey");
    });
}

#[test]
fn headers_and_metadata_are_kept_and_unknown_ones_refused() {
    with_server(|client, _| async move {
        let request = Request::object("PUT", "bucket", "k")
            .source(Content::new(1, 10))
            .header("content-type", "text/x-test")
            .header("cache-control", "no-store")
            .header("content-disposition", "attachment")
            .header("x-amz-meta-colour", "blue")
            .header("x-amz-acl", "private")
            .header("x-amz-storage-class", "STANDARD");
        client.call_whole(&request).await.unwrap();
        let head = client.head("bucket", "k").await.unwrap();
        assert_eq!((head.content_type.as_str(), head.metadata["colour"].as_str()), ("text/x-test", "blue"));
        assert_eq!((head.headers["cache-control"].as_str(), head.headers["content-disposition"].as_str()), ("no-store", "attachment"));
        let copy = Request::object("PUT", "bucket", "copy")
            .header("x-amz-copy-source", "/bucket/k")
            .header("x-amz-metadata-directive", "REPLACE")
            .header("x-amz-meta-colour", "red");
        client.call_whole(&copy).await.unwrap();
        assert_eq!(client.head("bucket", "copy").await.unwrap().metadata["colour"], "red");
        assert_eq!(code(client.copy("bucket", "k", "bucket", "k").await), "InvalidRequest");
        let answered =
            client.call_whole(&Request::object("GET", "bucket", "k").query("response-content-type", "text/other")).await.unwrap();
        assert_eq!(answered.0["content-type"], "text/other");
        for (name, value) in [
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-storage-class", "GLACIER"),
            ("x-amz-acl", "public-read"),
            ("x-amz-object-lock-mode", "GOVERNANCE"),
            ("x-amz-unheard-of", "1"),
        ] {
            let refused = Request::object("PUT", "bucket", "refused").source(Content::new(1, 10)).header(name, value);
            assert_eq!(status(client.call_whole(&refused).await), 501, "{name}: {value}");
        }
        for (method, query) in [("PUT", "append"), ("PUT", "renameObject"), ("PUT", "acl"), ("DELETE", "retention"), ("GET", "torrent")] {
            assert_eq!(status(client.call_whole(&Request::object(method, "bucket", "k").query(query, "")).await), 501, "{method} ?{query}");
        }
        assert!(client.get("bucket", "k").await.is_ok());
        assert_eq!(code(client.get("bucket", "refused").await), "NoSuchKey");
    });
}

#[test]
fn only_the_rightly_signed_get_in() {
    with_server(|client, _| async move {
        client.put("bucket", "k", Content::new(1, 10)).await.unwrap();
        let get = || Request::object("GET", "bucket", "k");
        assert_eq!(code(client.call_whole(&get().auth(Auth::Anonymous)).await), "AccessDenied");
        assert_eq!(code(client.call_whole(&Request::object("GET", "missing", "k").auth(Auth::Anonymous)).await), "AccessDenied");
        let tampered = |tamper: Tamper| get().tamper(tamper);
        assert_eq!(code(client.call_whole(&tampered(Tamper { signature: true, ..Tamper::default() })).await), "SignatureDoesNotMatch");
        let old = runtime::time::wall_ms() - 16 * 60 * 1000;
        assert_eq!(code(client.call_whole(&tampered(Tamper { at_ms: Some(old), ..Tamper::default() })).await), "RequestTimeTooSkewed");
        assert_eq!(
            code(client.call_whole(&tampered(Tamper { region: Some("mars-1".into()), ..Tamper::default() })).await),
            "AuthorizationHeaderMalformed"
        );
        let unsigned = Tamper { unsigned_headers: vec![("x-amz-meta-a".into(), "bucket".into())], ..Tamper::default() };
        assert_eq!(
            status(client.call_whole(&Request::object("PUT", "bucket", "k").source(Content::new(1, 10)).tamper(unsigned)).await),
            403
        );
        let stranger = client.with_credentials(jepsen_like::s3::Credentials::new("SOMEONE", "else-else-else"));
        assert_eq!(code(stranger.call_whole(&get()).await), "InvalidAccessKeyId");

        client.call_whole(&get().auth(Auth::Query { expires_s: 60 })).await.unwrap();
        client.call_whole(&get().auth(Auth::QueryV2 { expires_s: 60 })).await.unwrap();
        assert_eq!(status(client.call_whole(&get().auth(Auth::HeaderV2)).await), 400);
        assert!(client.call_whole(&get().auth(Auth::Query { expires_s: 8 * 24 * 3600 })).await.is_err());
        let expired = get()
            .auth(Auth::Query { expires_s: 60 })
            .tamper(Tamper { at_ms: Some(runtime::time::wall_ms() - 120_000), ..Tamper::default() });
        assert_eq!(code(client.call_whole(&expired).await), "AccessDenied");
        let put = Request::object("PUT", "bucket", "presigned").source(Content::new(9, 50_000)).auth(Auth::Query { expires_s: 60 });
        client.call_whole(&put).await.unwrap();
        client.get_stream("bucket", "presigned").await.unwrap().verify(Content::new(9, 50_000)).await.unwrap();
    });
}

#[test]
fn broken_requests_leave_no_trace_and_no_memory() {
    with_server(|client, pid| async move {
        let put = |key: &str| Request::object("PUT", "bucket", key).source(Content::new(1, 9 << 20)).timeout(Duration::from_secs(20));
        let before = resident_kib(pid);
        for round in 0..20 {
            let aborted = put("aborted").tamper(Tamper { abort_after: Some(8_500_000 + round), ..Tamper::default() });
            assert!(client.call_whole(&aborted).await.is_err());
        }
        let chunks = Payload::SignedChunks { chunk_bytes: 64 << 10 };
        let cut = put("cut").payload(chunks.clone()).tamper(Tamper { omit_last_chunk: true, ..Tamper::default() });
        assert_eq!(status(client.call_whole(&cut).await), 400);
        let spoiled = put("spoiled").payload(chunks).tamper(Tamper { chunk_signature: Some(100), ..Tamper::default() });
        assert_eq!(status(client.call_whole(&spoiled).await), 403);
        let huge = put("huge").payload(Payload::UnsignedTrailer { chunk_bytes: 64 << 20, checksum: Checksum::Crc32 });
        let huge = huge.source(Content::new(1, 65 << 20));
        assert!(client.call_whole(&huge).await.is_err());
        let hash = put("hash").tamper(Tamper { payload_hash: Some("00".repeat(32)), ..Tamper::default() });
        assert_eq!(status(client.call_whole(&hash).await), 400);
        // Slowly, so that the refusal comes before the client notices that its body is shorter than it claims.
        let pace = Some((64 << 10, Duration::from_millis(50)));
        let too_large = Tamper { content_length: Some(Some((5 << 30) + 1)), pace, ..Tamper::default() };
        let too_large = put("large").payload(Payload::Unsigned).tamper(too_large);
        assert_eq!(status(client.call_whole(&too_large).await), 400);
        let form =
            Request::bucket("POST", "bucket").header("content-type", "multipart/form-data; boundary=x").source(Content::new(1, 1000));
        assert_eq!(status(client.call_whole(&form).await), 501);
        let xml = Request::bucket("POST", "bucket").query("delete", "").source(Content::new(1, 3 << 20));
        assert!(client.call_whole(&xml).await.is_err());
        let long = "k".repeat(1025);
        assert_eq!(code(client.put("bucket", &long, Content::new(1, 1)).await), "KeyTooLongError");
        for key in ["aborted", "cut", "spoiled", "huge", "hash", "large"] {
            assert_eq!(code(client.get("bucket", key).await), "NoSuchKey", "{key}");
        }
        assert!(client.list_all("bucket", "", 1000).await.unwrap().is_empty());
        let after = resident_kib(pid);
        assert!(after < before + 150 * 1024, "{before} KiB before, {after} KiB after");
    });
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
