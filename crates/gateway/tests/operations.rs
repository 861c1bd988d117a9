//! The operations of S3 against a whole cluster in this process, on real folders.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;

use cluster::{BLOB_BYTES, Cluster, INLINE_BYTES, broken, noise, received, request, sent, with_headers};
use runtime::process::block_on;
use s3s::dto::*;
use s3s::{S3, S3ErrorCode, S3Result};
use std::time::Duration;

fn code<T>(result: S3Result<T>) -> String {
    match result {
        Ok(_) => "no error".into(),
        Err(error) => error.code().as_str().to_string(),
    }
}

fn keys(output: &ListObjectsV2Output) -> Vec<String> {
    output.contents.iter().flatten().filter_map(|object| object.key.clone()).collect()
}

fn prefixes(output: &ListObjectsV2Output) -> Vec<String> {
    output.common_prefixes.iter().flatten().filter_map(|prefix| prefix.prefix.clone()).collect()
}

#[test]
fn objects_of_all_sizes_come_back_whole_and_in_ranges() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let sizes = [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 65_536, BLOB_BYTES, BLOB_BYTES + 1, 3 * BLOB_BYTES + 12_345];
        for (seed, bytes) in (1..).zip(sizes) {
            let body = noise(bytes, seed);
            let key = format!("of-{bytes}");
            let put = cluster.put("bucket", &key, &body).await.unwrap();
            let md5 = {
                use md5::Digest;
                hex::encode(md5::Md5::digest(&body))
            };
            assert_eq!(put.e_tag, Some(ETag::Strong(md5)));
            assert!(cluster.get("bucket", &key).await.unwrap() == body, "{bytes} bytes");
            let end = bytes as u64;
            for (first, last) in [(0, 0), (end / 3, end / 2), (end.saturating_sub(1), end + 5), (BLOB_BYTES as u64 - 1, BLOB_BYTES as u64)]
            {
                if first >= end {
                    continue;
                }
                let range = Range::Int { first, last: Some(last) };
                let expected = &body[first as usize..(last as usize + 1).min(bytes)];
                assert!(cluster.get_range("bucket", &key, Some(range)).await.unwrap() == expected, "{first}-{last} of {bytes}");
            }
            let suffix = cluster.get_range("bucket", &key, Some(Range::Suffix { length: 7 })).await;
            if bytes == 0 {
                assert_eq!(code(suffix), "InvalidRange");
            } else {
                assert!(suffix.unwrap() == body[bytes.saturating_sub(7)..]);
            }
        }
        assert_eq!(code(cluster.get("bucket", "absent").await), "NoSuchKey");
        assert_eq!(code(cluster.get("nowhere", "absent").await), "NoSuchBucket");
        assert_eq!(code(cluster.put("nowhere", "key", b"x").await), "NoSuchBucket");
    });
}

#[test]
fn buckets_live_and_die_by_the_rules() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("one").await.unwrap();
        assert_eq!(code(cluster.create_bucket("one").await), "BucketAlreadyOwnedByYou");
        cluster.create_bucket("two").await.unwrap();
        let listed = cluster.operations.list_buckets(request(ListBucketsInput::default())).await.unwrap().output;
        let names: Vec<_> = listed.buckets.unwrap().into_iter().filter_map(|bucket| bucket.name).collect();
        assert_eq!(names, ["one", "two"]);
        let paged = ListBucketsInput { max_buckets: Some(1), ..ListBucketsInput::default() };
        let first = cluster.operations.list_buckets(request(paged.clone())).await.unwrap().output;
        let rest = ListBucketsInput { continuation_token: first.continuation_token, ..paged };
        let second = cluster.operations.list_buckets(request(rest)).await.unwrap().output;
        assert_eq!(second.buckets.unwrap()[0].name.as_deref(), Some("two"));
        assert_eq!(second.continuation_token, None);
        cluster.put("one", "key", b"x").await.unwrap();
        assert_eq!(code(cluster.delete_bucket("one").await), "BucketNotEmpty");
        // Reopened: writers go on.
        cluster.put("one", "key", b"y").await.unwrap();
        let delete = DeleteObjectInput { bucket: "one".into(), key: "key".into(), ..DeleteObjectInput::default() };
        cluster.operations.delete_object(request(delete.clone())).await.unwrap();
        cluster.operations.delete_object(request(delete)).await.expect("deleting what is not there succeeds");
        cluster.delete_bucket("one").await.unwrap();
        assert_eq!(code(cluster.delete_bucket("one").await), "NoSuchBucket");
        assert_eq!(code(cluster.put("one", "key", b"z").await), "NoSuchBucket");
        let head = HeadBucketInput { bucket: "one".into(), ..HeadBucketInput::default() };
        assert_eq!(code(cluster.operations.head_bucket(request(head)).await), "NoSuchBucket");
        cluster.create_bucket("one").await.unwrap();
        assert_eq!(code(cluster.get("one", "key").await), "NoSuchKey");
    });
}

#[test]
fn a_body_that_breaks_off_or_lies_leaves_nothing() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let body = noise(2 * BLOB_BYTES + 10, 3);
        let input = |body: StreamingBlob, length: usize| PutObjectInput {
            bucket: "bucket".into(),
            key: "key".into(),
            content_length: Some(length as i64),
            body: Some(body),
            ..PutObjectInput::default()
        };
        for cut in [0, 100, BLOB_BYTES + 5] {
            assert_eq!(code(cluster.operations.put_object(request(input(broken(&body, cut), body.len()))).await), "IncompleteBody");
        }
        assert_eq!(code(cluster.operations.put_object(request(input(sent(&body), body.len() + 1))).await), "IncompleteBody");
        assert_eq!(code(cluster.operations.put_object(request(input(sent(&body), body.len() - 1))).await), "IncompleteBody");
        let zeros = [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")];
        assert_eq!(code(cluster.put_with("bucket", "key", &body, &zeros).await), "BadDigest");
        let wrong = [("x-amz-checksum-crc32", "AAAAAA==")];
        assert_eq!(code(cluster.put_with("bucket", "key", &body, &wrong).await), "BadDigest");
        assert_eq!(code(cluster.put_with("bucket", "key", b"small", &wrong).await), "BadDigest");
        assert_eq!(code(cluster.get("bucket", "key").await), "NoSuchKey");
        // And the memory came back.
        for _ in 0..20 {
            assert_eq!(code(cluster.operations.put_object(request(input(broken(&body, 1000), 40 << 20))).await), "IncompleteBody");
        }
        cluster.put("bucket", "key", &body).await.unwrap();
    });
}

#[test]
fn conditions_are_judged_where_the_write_is_applied() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let none = [("if-none-match", "*")];
        assert_eq!(code(cluster.put_with("bucket", "key", b"0", &[("if-match", "\"x\"")]).await), "NoSuchKey");
        let first = cluster.put_with("bucket", "key", b"1", &none).await.unwrap();
        assert_eq!(code(cluster.put_with("bucket", "key", b"2", &none).await), "PreconditionFailed");
        assert_eq!(code(cluster.put_with("bucket", "key", b"2", &[("if-match", "\"x\"")]).await), "PreconditionFailed");
        let etag = format!("\"{}\"", first.e_tag.unwrap().value());
        cluster.put_with("bucket", "key", b"3", &[("if-match", &etag)]).await.unwrap();
        assert_eq!(cluster.get("bucket", "key").await.unwrap(), b"3");
        // Of many creators at once, one wins.
        let bodies: Vec<String> = (0..8).map(|i| i.to_string()).collect();
        let racing = bodies.iter().map(|body| cluster.put_with("bucket", "race", body.as_bytes(), &none));
        let won: Vec<bool> = futures::future::join_all(racing).await.into_iter().map(|result| result.is_ok()).collect();
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        let winner = won.iter().position(|won| *won).unwrap();
        assert_eq!(cluster.get("bucket", "race").await.unwrap(), bodies[winner].as_bytes());
        // Reads.
        let get = GetObjectInput { bucket: "bucket".into(), key: "key".into(), ..GetObjectInput::default() };
        let etag = format!("\"{}\"", hex::encode(<md5::Md5 as md5::Digest>::digest(b"3")));
        assert_eq!(code(cluster.operations.get_object(with_headers(get.clone(), &[("if-none-match", &etag)])).await), "NotModified");
        assert_eq!(code(cluster.operations.get_object(with_headers(get, &[("if-match", "\"x\"")])).await), "PreconditionFailed");
    });
}

#[test]
fn replies_name_the_revision_that_they_made_or_saw() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let of = |headers: &http::HeaderMap| headers["x-keepstone-revision"].to_str().unwrap().parse::<u64>().unwrap();
        let of_error = |error: s3s::S3Error| of(error.headers().unwrap());
        let put = |condition: &'static [(&'static str, &'static str)]| {
            let body = Some(sent(b"revised"));
            let input = PutObjectInput { bucket: "bucket".into(), key: "k".into(), body, content_length: Some(7), ..Default::default() };
            cluster.operations.put_object(with_headers(input, condition))
        };
        let get = GetObjectInput { bucket: "bucket".into(), key: "k".into(), ..Default::default() };
        let delete = DeleteObjectInput { bucket: "bucket".into(), key: "k".into(), ..Default::default() };

        let absent = of_error(cluster.operations.get_object(request(get.clone())).await.err().unwrap());
        let first = put(&[]).await.unwrap();
        let (made, tag) = (of(&first.headers), first.output.e_tag.unwrap());
        assert!(made > absent);
        assert!(of_error(put(&[("if-none-match", "*")]).await.err().unwrap()) >= made);
        let seen = of(&cluster.operations.get_object(request(get.clone())).await.unwrap().headers);
        let head = HeadObjectInput { bucket: "bucket".into(), key: "k".into(), ..Default::default() };
        assert!(seen >= made && of(&cluster.operations.head_object(request(head)).await.unwrap().headers) >= seen);
        let tag = format!("\"{}\"", tag.value());
        assert!(
            of_error(cluster.operations.get_object(with_headers(get.clone(), &[("if-none-match", &tag)])).await.err().unwrap()) >= made
        );
        of(&cluster.operations.copy_object(request(copy("bucket/k", "bucket", "other"))).await.unwrap().headers);
        let deleted = of(&cluster.operations.delete_object(request(delete)).await.unwrap().headers);
        assert!(deleted > made);
        assert!(of_error(cluster.operations.get_object(request(get)).await.err().unwrap()) >= deleted);
    });
}

#[test]
fn headers_metadata_and_checksums_are_kept() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let input = PutObjectInput {
            bucket: "bucket".into(),
            key: "key".into(),
            content_length: Some(9),
            body: Some(sent(b"123456789")),
            content_type: Some("text/plain".into()),
            content_encoding: Some("aws-chunked,gzip".into()),
            cache_control: Some("no-cache".into()),
            metadata: Some([("color".to_string(), "blue".to_string())].into_iter().collect()),
            ..PutObjectInput::default()
        };
        let headers = [("x-amz-checksum-crc32", "y/Q5Jg=="), ("expires", "never")];
        let put = cluster.operations.put_object(with_headers(input, &headers)).await.unwrap().output;
        assert_eq!(put.checksum_crc32.as_deref(), Some("y/Q5Jg=="));
        let head = HeadObjectInput {
            bucket: "bucket".into(),
            key: "key".into(),
            checksum_mode: Some(ChecksumMode::from_static(ChecksumMode::ENABLED)),
            ..HeadObjectInput::default()
        };
        let head = cluster.operations.head_object(request(head)).await.unwrap();
        assert_eq!(head.headers["expires"], "never");
        let head = head.output;
        assert_eq!(head.content_type.as_deref(), Some("text/plain"));
        assert_eq!(head.content_encoding.as_deref(), Some("gzip"));
        assert_eq!(head.cache_control.as_deref(), Some("no-cache"));
        assert_eq!(head.metadata.unwrap()["color"], "blue");
        assert_eq!(head.checksum_crc32.as_deref(), Some("y/Q5Jg=="));
        assert_eq!(head.checksum_type.unwrap().as_str(), "FULL_OBJECT");
        assert_eq!(head.content_length, Some(9));
    });
}

#[test]
fn listings_are_paged_delimited_and_complete() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let mut all = vec!["a/b".to_string(), "a/b/c".to_string(), "top".to_string(), "a b+c".to_string()];
        all.extend((0..40).map(|i| format!("dir/{i:03}")));
        for key in &all {
            cluster.put("bucket", key, b"x").await.unwrap();
        }
        all.sort();
        let base = ListObjectsV2Input { bucket: "bucket".into(), ..ListObjectsV2Input::default() };
        let mut seen = Vec::new();
        let mut token = None;
        loop {
            let page = ListObjectsV2Input { max_keys: Some(7), continuation_token: token.clone(), ..base.clone() };
            let page = cluster.list(page).await.unwrap();
            assert!(page.key_count.unwrap() <= 7);
            seen.extend(keys(&page));
            token = page.next_continuation_token.clone();
            assert_eq!(page.is_truncated.unwrap(), token.is_some());
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
        let delimited = cluster.list(ListObjectsV2Input { delimiter: Some("/".into()), ..base.clone() }).await.unwrap();
        assert_eq!(keys(&delimited), ["a b+c", "top"]);
        assert_eq!(prefixes(&delimited), ["a/", "dir/"]);
        let inner = ListObjectsV2Input { prefix: Some("a/".into()), delimiter: Some("/".into()), ..base.clone() };
        let inner = cluster.list(inner).await.unwrap();
        assert_eq!((keys(&inner), prefixes(&inner)), (vec!["a/b".to_string()], vec!["a/b/".to_string()]));
        let url =
            ListObjectsV2Input { encoding_type: Some(EncodingType::from_static(EncodingType::URL)), max_keys: Some(1), ..base.clone() };
        assert_eq!(keys(&cluster.list(url).await.unwrap()), ["a%20b%2Bc"]);
        let none = cluster.list(ListObjectsV2Input { max_keys: Some(0), ..base.clone() }).await.unwrap();
        assert_eq!((keys(&none).len(), none.is_truncated), (0, Some(false)));
        // Version 1, by markers.
        let mut marker = None;
        let mut seen = Vec::new();
        loop {
            let input = ListObjectsInput {
                bucket: "bucket".into(),
                delimiter: Some("/".into()),
                max_keys: Some(1),
                marker: marker.clone(),
                ..ListObjectsInput::default()
            };
            let page = cluster.operations.list_objects(request(input)).await.unwrap().output;
            seen.extend(page.contents.into_iter().flatten().filter_map(|object| object.key));
            seen.extend(page.common_prefixes.into_iter().flatten().filter_map(|prefix| prefix.prefix));
            marker = page.next_marker;
            if marker.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["a b+c", "a/", "dir/", "top"]);
        // Deleted in one go.
        let objects = all.iter().map(|key| ObjectIdentifier { key: key.clone(), ..ObjectIdentifier::default() }).collect();
        let delete = Delete { objects, quiet: None };
        let input = DeleteObjectsInput {
            bucket: "bucket".into(),
            delete,
            bypass_governance_retention: None,
            checksum_algorithm: None,
            expected_bucket_owner: None,
            mfa: None,
            request_payer: None,
        };
        let output = cluster.operations.delete_objects(request(input)).await.unwrap().output;
        assert_eq!(output.deleted.unwrap().len(), all.len());
        assert_eq!(output.errors.unwrap().len(), 0);
        assert_eq!(keys(&cluster.list(base).await.unwrap()).len(), 0);
    });
}

fn copy(source: &str, bucket: &str, key: &str) -> CopyObjectInput {
    CopyObjectInput::builder()
        .bucket(bucket.to_string())
        .key(key.to_string())
        .copy_source(CopySource::parse(source).unwrap())
        .build()
        .unwrap()
}

#[test]
fn a_copy_outlives_its_source() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let body = noise(2 * BLOB_BYTES + 77, 5);
        cluster.put("bucket", "source", &body).await.unwrap();
        cluster.operations.copy_object(request(copy("bucket/source", "bucket", "copy"))).await.unwrap();
        assert_eq!(code(cluster.operations.copy_object(request(copy("bucket/source", "bucket", "source"))).await), "InvalidRequest");
        let none = [("if-none-match", "*")];
        let again = with_headers(copy("/bucket/source", "bucket", "copy"), &none);
        assert_eq!(code(cluster.operations.copy_object(again).await), "PreconditionFailed");
        let unless = with_headers(copy("bucket/source", "bucket", "other"), &[("x-amz-copy-source-if-match", "\"x\"")]);
        assert_eq!(code(cluster.operations.copy_object(unless).await), "PreconditionFailed");
        let delete = DeleteObjectInput { bucket: "bucket".into(), key: "source".into(), ..DeleteObjectInput::default() };
        cluster.operations.delete_object(request(delete)).await.unwrap();
        assert!(cluster.get("bucket", "copy").await.unwrap() == body);
        assert_eq!(code(cluster.operations.copy_object(request(copy("bucket/source", "bucket", "x"))).await), "NoSuchKey");
    });
}

#[test]
fn uploads_in_parts_become_objects() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let create = CreateMultipartUploadInput {
            bucket: "bucket".into(),
            key: "big".into(),
            checksum_algorithm: Some(ChecksumAlgorithm::from_static(ChecksumAlgorithm::CRC32)),
            checksum_type: Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
            ..CreateMultipartUploadInput::default()
        };
        let id = cluster.operations.create_multipart_upload(request(create)).await.unwrap().output.upload_id.unwrap();
        let parts = [noise(5 << 20, 1), noise((5 << 20) + 1, 2), noise(99, 3)];
        let mut completed = Vec::new();
        for (number, body) in (1..).zip(&parts) {
            let input = UploadPartInput {
                bucket: "bucket".into(),
                key: "big".into(),
                upload_id: id.clone(),
                part_number: number,
                content_length: Some(body.len() as i64),
                body: Some(sent(body)),
                ..UploadPartInput::default()
            };
            let output = cluster.operations.upload_part(request(input)).await.unwrap().output;
            assert!(output.checksum_crc32.is_some());
            completed.push(CompletedPart { e_tag: output.e_tag, part_number: Some(number), ..CompletedPart::default() });
        }
        // The last part again, as a copy of a range of another object.
        let source = noise(BLOB_BYTES + 200, 4);
        cluster.put("bucket", "source", &source).await.unwrap();
        let input = UploadPartCopyInput::builder()
            .bucket("bucket".to_string())
            .key("big".to_string())
            .upload_id(id.clone())
            .part_number(3)
            .copy_source(CopySource::parse("bucket/source").unwrap())
            .copy_source_range(Some(format!("bytes=100-{}", BLOB_BYTES + 150)))
            .build()
            .unwrap();
        let output = cluster.operations.upload_part_copy(request(input)).await.unwrap().output;
        completed[2].e_tag = output.copy_part_result.unwrap().e_tag;
        let whole = [parts[0].as_slice(), &parts[1], &source[100..=BLOB_BYTES + 150]].concat();
        let listed = ListPartsInput {
            bucket: "bucket".into(),
            key: "big".into(),
            upload_id: id.clone(),
            max_parts: Some(2),
            ..ListPartsInput::default()
        };
        let listed = cluster.operations.list_parts(request(listed)).await.unwrap().output;
        assert_eq!((listed.parts.unwrap().len(), listed.is_truncated, listed.next_part_number_marker), (2, Some(true), Some(2)));
        let uploads = ListMultipartUploadsInput { bucket: "bucket".into(), ..ListMultipartUploadsInput::default() };
        let uploads = cluster.operations.list_multipart_uploads(request(uploads)).await.unwrap().output;
        assert_eq!(uploads.uploads.unwrap()[0].upload_id.as_ref(), Some(&id));
        assert_eq!(code(cluster.delete_bucket("bucket").await), "BucketNotEmpty");
        let complete = |id: &str, parts: Vec<CompletedPart>| CompleteMultipartUploadInput {
            bucket: "bucket".into(),
            key: "big".into(),
            upload_id: id.into(),
            multipart_upload: Some(CompletedMultipartUpload { parts: Some(parts) }),
            ..CompleteMultipartUploadInput::default()
        };
        let mut missing = completed.clone();
        missing[1].e_tag = Some(ETag::Strong("0".repeat(32)));
        assert_eq!(code(cluster.operations.complete_multipart_upload(request(complete(&id, missing))).await), "InvalidPart");
        let output = cluster.operations.complete_multipart_upload(request(complete(&id, completed.clone()))).await.unwrap().output;
        assert!(output.e_tag.as_ref().unwrap().value().ends_with("-3"));
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &whole) as u32;
        use base64::Engine;
        assert_eq!(output.checksum_crc32, Some(base64::engine::general_purpose::STANDARD.encode(crc.to_be_bytes())));
        assert!(cluster.get("bucket", "big").await.unwrap() == whole);
        let across = Range::Int { first: (5 << 20) - 10, last: Some((10 << 20) + 20) };
        assert!(cluster.get_range("bucket", "big", Some(across)).await.unwrap() == whole[(5 << 20) - 10..=(10 << 20) + 20]);
        let part = GetObjectInput { bucket: "bucket".into(), key: "big".into(), part_number: Some(2), ..GetObjectInput::default() };
        let part = cluster.operations.get_object(request(part)).await.unwrap().output;
        assert_eq!(part.parts_count, Some(3));
        assert!(received(part.body.unwrap()).await.unwrap() == parts[1]);
        // A Complete whose answer was lost is answered again.
        let again = cluster.operations.complete_multipart_upload(request(complete(&id, completed))).await.unwrap().output;
        assert_eq!(again.e_tag, output.e_tag);
        let abort = AbortMultipartUploadInput { bucket: "bucket".into(), key: "big".into(), upload_id: id, ..Default::default() };
        assert_eq!(code(cluster.operations.abort_multipart_upload(request(abort)).await), "NoSuchUpload");
    });
}

#[test]
fn with_two_of_six_folders_lost_reads_go_on_and_writes_name_them() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let body = noise(3 * BLOB_BYTES + 1, 9);
        cluster.put("bucket", "big", &body).await.unwrap();
        cluster.put("bucket", "small", b"small").await.unwrap();
        cluster.lose_folder(1).await;
        assert!(cluster.get("bucket", "big").await.unwrap() == body);
        cluster.lose_folder(4).await;
        assert!(cluster.get("bucket", "big").await.unwrap() == body);
        assert_eq!(cluster.get("bucket", "small").await.unwrap(), b"small");
        // Two seconds later than the node the root knows it, too.
        runtime::time::sleep(Duration::from_secs(2)).await;
        for size in [10, 2 * BLOB_BYTES] {
            let since = runtime::time::now();
            let refused = cluster.put("bucket", "more", &noise(size, 1)).await.unwrap_err();
            assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
            assert_eq!(refused.code(), &S3ErrorCode::ServiceUnavailable, "{refused}");
            let message = refused.message().unwrap_or_default();
            for lost in [1, 4] {
                let folder = cluster.folder(lost).display().to_string();
                assert!(message.contains(&folder), "{folder} is not named: {message}");
            }
        }
        assert_eq!(code(cluster.get("bucket", "more").await), "NoSuchKey");
    });
}

#[test]
fn a_write_that_meets_a_lost_folder_first_is_refused_within_five_seconds() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        cluster.put("bucket", "big", &noise(BLOB_BYTES, 1)).await.unwrap();
        std::fs::remove_dir_all(cluster.folder(2)).unwrap();
        let since = runtime::time::now();
        let result = cluster.put("bucket", "more", &noise(BLOB_BYTES, 2)).await;
        assert!(since.elapsed() < Duration::from_millis(5500), "{:?}", since.elapsed());
        // Either the files were still written (the node has not noticed: their folder has no name, but they are there),
        // or it is refused: never an answer after the promise.
        if let Err(error) = result {
            assert_eq!(error.code(), &S3ErrorCode::ServiceUnavailable, "{error}");
        }
    });
}

#[test]
fn rot_in_two_slots_is_reconstructed_and_in_three_refused() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let body = noise(BLOB_BYTES, 21);
        cluster.put("bucket", "key", &body).await.unwrap();
        for (rotten, ordinal) in [0, 3, 5].into_iter().enumerate() {
            for file in cluster.slot_files(ordinal) {
                let mut bytes = std::fs::read(&file).unwrap();
                // Headers of slots and records may stay: what is asked is that bytes are never believed.
                let from = bytes.len().min(8192);
                bytes[from..].iter_mut().for_each(|byte| *byte ^= 0x5a);
                std::fs::write(&file, bytes).unwrap();
            }
            let result = cluster.get("bucket", "key").await;
            if rotten < 2 {
                assert!(result.unwrap() == body, "{} slots rotten", rotten + 1);
            } else {
                assert_eq!(code(result), "InternalError");
            }
        }
    });
}

#[test]
fn many_writers_and_readers_at_once_stay_within_the_bound() {
    block_on(async {
        let cluster = Cluster::start().await;
        cluster.create_bucket("bucket").await.unwrap();
        let bodies: Vec<Vec<u8>> = (0..24).map(|seed| noise(4 * BLOB_BYTES + seed as usize, seed)).collect();
        let keys: Vec<String> = (0..bodies.len()).map(|i| format!("key-{i}")).collect();
        let puts = keys.iter().zip(&bodies).map(|(key, body)| cluster.put("bucket", key, body));
        for result in futures::future::join_all(puts).await {
            result.unwrap();
        }
        let gets = keys.iter().map(|key| cluster.get("bucket", key));
        for (result, body) in futures::future::join_all(gets).await.into_iter().zip(&bodies) {
            assert!(result.unwrap() == *body);
        }
    });
}
