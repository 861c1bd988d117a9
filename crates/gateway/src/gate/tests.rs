//! The gate as a whole: a request in, an operation or a refusal out.

use futures::FutureExt;
use http::Request;
use quickcheck::quickcheck;
use s3s::S3ErrorCode::{self, *};

use super::*;
use crate::identity::Identity;

const NOW_MS: u64 = 1_369_353_600_000; // 20130524T000000Z

fn gate() -> Gate {
    Gate {
        identities: Identity::new("AKIAIOSFODNN7EXAMPLE", "secret").into(),
        region: "us-east-1".into(),
        hosts: Hosts::new(&["s3.test".into()]),
        presigned_v2: true,
    }
}

/// A request that says that everything is signed.
fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut builder = Request::builder().method(method).uri(uri).header("host", "localhost:9000");
    let mut names = vec!["host".to_owned(), "x-amz-content-sha256".into(), "x-amz-date".into()];
    let payload = headers.iter().find(|(name, _)| *name == "x-amz-content-sha256").map_or("UNSIGNED-PAYLOAD", |(_, value)| value);
    builder = builder.header("x-amz-date", "20130524T000000Z").header("x-amz-content-sha256", payload);
    for (name, value) in headers.iter().filter(|(name, _)| *name != "x-amz-content-sha256") {
        names.push((*name).to_owned());
        builder = builder.header(*name, *value);
    }
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders={},Signature=00",
        names.join(";")
    );
    builder.header("authorization", authorization).body(()).unwrap().into_parts().0
}

fn admit(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<Operation, S3ErrorCode> {
    gate().admit(&mut head(method, uri, headers), NOW_MS).map(|admitted| admitted.operation).map_err(|refusal| refusal.code)
}

#[test]
fn served_requests() {
    let length = ("content-length", "5");
    for (method, uri, headers, operation) in [
        ("GET", "/", vec![], Operation::ListBuckets),
        ("GET", "/?x-id=ListBuckets", vec![], Operation::ListBuckets),
        ("PUT", "/bucket", vec![], Operation::CreateBucket),
        ("PUT", "/bucket/", vec![length, ("x-amz-acl", "private")], Operation::CreateBucket),
        ("GET", "/bucket?location=", vec![], Operation::GetBucketLocation),
        ("GET", "/bucket?list-type=2&prefix=a&delimiter=%2F&fetch-owner=true&encoding-type=url", vec![], Operation::ListObjectsV2),
        ("POST", "/bucket?delete", vec![length, ("content-md5", "x")], Operation::DeleteObjects),
        ("PUT", "/bucket/key", vec![length, ("x-amz-meta-a", "b"), ("if-none-match", "*")], Operation::PutObject),
        ("PUT", "/bucket/key?x-id=PutObject", vec![length, ("x-amz-storage-class", "STANDARD")], Operation::PutObject),
        ("PUT", "/bucket/key", vec![("x-amz-copy-source", "/a/b"), ("if-match", "x")], Operation::CopyObject),
        ("GET", "/bucket/key?response-content-type=a", vec![("range", "bytes=0-1")], Operation::GetObject),
        ("DELETE", "/bucket/key", vec![("x-amz-request-payer", "requester")], Operation::DeleteObject),
        ("POST", "/bucket/key?uploads", vec![("x-amz-checksum-algorithm", "CRC64NVME")], Operation::CreateMultipartUpload),
        ("POST", "/bucket/key?uploads", vec![("x-amz-tagging", "a=b")], Operation::CreateMultipartUpload),
        ("PUT", "/bucket/key?tagging&versionId=null", vec![length, ("x-amz-checksum-crc32", "x")], Operation::PutObjectTagging),
        ("DELETE", "/bucket/key?tagging", vec![], Operation::DeleteObjectTagging),
        ("PUT", "/bucket?tagging", vec![length], Operation::PutBucketTagging),
        ("DELETE", "/bucket?tagging", vec![], Operation::DeleteBucketTagging),
        ("PUT", "/bucket?lifecycle", vec![length, ("x-amz-checksum-crc32", "x")], Operation::PutBucketLifecycleConfiguration),
        ("DELETE", "/bucket?lifecycle", vec![], Operation::DeleteBucketLifecycle),
        ("PUT", "/bucket/key?partNumber=1&uploadId=a", vec![length, ("x-amz-checksum-crc32", "x")], Operation::UploadPart),
        ("POST", "/bucket/key?uploadId=a", vec![length, ("x-amz-mp-object-size", "5")], Operation::CompleteMultipartUpload),
    ] {
        assert_eq!(admit(method, uri, &headers), Ok(operation), "{method} {uri} {headers:?}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let length = ("content-length", "5");
    for (method, uri, headers, named) in [
        ("PUT", "/bucket/key?append", vec![length], "append"),
        ("PUT", "/bucket/key?renameObject", vec![length], "renameObject"),
        ("PUT", "/bucket/key?encryption", vec![length], "encryption"),
        ("PUT", "/bucket/key?acl", vec![length], "acl"),
        ("HEAD", "/bucket?tagging", vec![], "tagging"),
        ("HEAD", "/bucket/key?tagging", vec![], "tagging"),
        ("PUT", "/bucket/key?retention", vec![length], "retention"),
        ("PUT", "/bucket/key?partNumber=1", vec![length], "partNumber"),
        ("DELETE", "/bucket/key?acl", vec![], "acl"),
        ("DELETE", "/bucket/key?retention", vec![], "retention"),
        ("DELETE", "/bucket/key?tagging", vec![("if-match", "x")], "if-match"),
        ("DELETE", "/bucket?policy", vec![], "policy"),
        ("DELETE", "/bucket?unknown", vec![], "unknown"),
        ("DELETE", "/bucket?versioning", vec![], "versioning"),
        ("PUT", "/bucket?versioning", vec![length, ("x-amz-mfa", "1 2")], "x-amz-mfa"),
        ("PUT", "/bucket?unknown", vec![], "unknown"),
        ("GET", "/bucket?versions&list-type=2", vec![], "list-type"),
        ("GET", "/bucket?acl", vec![], "acl"),
        ("GET", "/bucket?session", vec![], "session"),
        ("GET", "/bucket/key?attributes", vec![], "attributes"),
        ("PUT", "/bucket/key?versionId=1", vec![length], "versionId"),
        ("GET", "/bucket/key?torrent", vec![], "torrent"),
        ("GET", "/?x-id=ListDirectoryBuckets", vec![], "x-id"),
        ("POST", "/bucket/key?restore", vec![length], "restore"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-acl", "public-read")], "x-amz-acl"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-storage-class", "GLACIER")], "x-amz-storage-class"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-server-side-encryption", "AES256")], "x-amz-server-side-encryption"),
        ("GET", "/bucket/key", vec![("x-amz-tagging", "a=b")], "x-amz-tagging"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-object-lock-event-hold", "ON")], "x-amz-object-lock-event-hold"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-checksum-sha512", "x")], "x-amz-checksum-sha512"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-checksum-xxhash128", "x")], "x-amz-checksum-xxhash128"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-expected-bucket-owner", "1")], "x-amz-expected-bucket-owner"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-security-token", "1")], "x-amz-security-token"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-grant-read", "id=1")], "x-amz-grant-read"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-write-offset-bytes", "1")], "x-amz-write-offset-bytes"),
        ("PUT", "/bucket/key", vec![length, ("x-amz-meta-", "1")], "x-amz-meta-"),
        ("PUT", "/bucket/key", vec![length, ("if-modified-since", "x")], "if-modified-since"),
        ("PUT", "/bucket/key", vec![length, ("content-range", "bytes 0-4/5")], "content-range"),
        ("DELETE", "/bucket/key", vec![("if-none-match", "x")], "if-none-match"),
        ("DELETE", "/bucket", vec![("if-match", "x")], "if-match"),
        ("DELETE", "/bucket/key", vec![("x-amz-if-match-size", "1")], "x-amz-if-match-size"),
        ("DELETE", "/bucket/key", vec![("x-amz-mfa", "1")], "x-amz-mfa"),
        ("GET", "/bucket/key", vec![("x-amz-meta-a", "1")], "x-amz-meta-a"),
        ("GET", "/bucket/key", vec![("x-amz-server-side-encryption-customer-key", "1")], "x-amz-server-side-encryption-customer-key"),
        ("GET", "/bucket", vec![("x-amz-optional-object-attributes", "RestoreStatus")], "x-amz-optional-object-attributes"),
        ("PUT", "/bucket", vec![("x-amz-bucket-object-lock-enabled", "true")], "x-amz-bucket-object-lock-enabled"),
        ("PUT", "/bucket", vec![("x-amz-bucket-namespace", "x")], "x-amz-bucket-namespace"),
        ("POST", "/bucket", vec![("x-amz-request-route", "x"), ("x-amz-request-token", "x")], ""),
        ("PUT", "/bucket/key", vec![("x-amz-copy-source", "/a/b"), ("x-amz-annotation-directive", "x")], "x-amz-annotation-directive"),
        ("PUT", "/bucket/key", vec![("x-amz-copy-source", "/a/b"), ("x-amz-tagging-directive", "MERGE")], "x-amz-tagging-directive"),
    ] {
        let refusal = gate().admit(&mut head(method, uri, &headers), NOW_MS).unwrap_err();
        let code = if named.is_empty() { MethodNotAllowed } else { NotImplemented };
        assert_eq!(refusal.code, code, "{method} {uri} {headers:?}: {}", refusal.message);
        assert!(refusal.message.contains(named), "{method} {uri} {headers:?}: {}", refusal.message);
    }
}

#[test]
fn malformed_requests() {
    let length = ("content-length", "5");
    for (method, uri, headers, code) in [
        ("GET", "/bucket?prefix=a&prefix=b", vec![], InvalidArgument),
        ("GET", "/bucket?encoding-type=base64", vec![], InvalidArgument),
        ("PUT", "/bucket/key", vec![length, ("x-amz-meta-a", "1"), ("x-amz-meta-a", "2")], InvalidArgument),
        ("PUT", "/bucket/key", vec![], MissingContentLength),
        ("PUT", "/Bad_Bucket/key", vec![length], InvalidBucketName),
        ("GET", "/bucket/key", vec![length], InvalidRequest),
        ("POST", "/bucket", vec![("content-type", "multipart/form-data; boundary=x"), length], NotImplemented),
        ("POST", "/bucket?delete", vec![("content-type", "Multipart/Form-Data"), length], NotImplemented),
    ] {
        assert_eq!(admit(method, uri, &headers), Err(code), "{method} {uri} {headers:?}");
    }
    let long = "k".repeat(1025);
    assert_eq!(admit("GET", &format!("/bucket/{long}"), &[]), Err(KeyTooLongError));
    let huge = "k".repeat(URI_BYTES_MAX);
    assert_eq!(admit("GET", &format!("/bucket/{huge}"), &[]), Err(InvalidURI));
    let value = "v".repeat(1024);
    assert_eq!(admit("PUT", "/bucket/key", &[length, ("x-amz-meta-a", &value), ("x-amz-meta-b", &value)]), Err(MetadataTooLarge));
    assert_eq!(admit("GET", "/", &[("cookie", &"c".repeat(HEADER_BYTES_MAX))]), Err(RequestHeaderSectionTooLarge));
}

#[test]
fn a_header_that_is_not_utf8_is_refused_although_it_is_listed_as_signed() {
    let mut head = head("PUT", "/bucket/key", &[("content-length", "5"), ("x-amz-meta-a", "1")]);
    head.headers.insert("x-amz-meta-a", HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(gate().admit(&mut head, NOW_MS).unwrap_err().code, InvalidArgument);
}

#[test]
fn anonymous_requests_learn_nothing() {
    for (method, uri) in [
        ("GET", "/"),
        ("GET", "/bucket"),
        ("GET", "/bucket/key"),
        ("HEAD", "/bucket/key"),
        ("PUT", "/bucket/key"),
        ("DELETE", "/bucket/key?acl"),
        ("GET", "/No_Bucket"),
        ("PATCH", "/bucket"),
        ("OPTIONS", "*"),
        ("POST", "/bucket?delete"),
    ] {
        let request = Request::builder().method(method).uri(uri).header("host", "localhost").body(()).unwrap();
        let refusal = gate().admit(&mut request.into_parts().0, NOW_MS).unwrap_err();
        assert_eq!(refusal.code, AccessDenied, "{method} {uri}");
    }
}

const PRESIGNED: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=key%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
     &X-Amz-Date=20130524T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00";

fn admit_presigned(method: &str, uri: &str, length: Option<&str>) -> Result<(Operation, HeaderMap), S3ErrorCode> {
    let mut builder = Request::builder().method(method).uri(uri).header("host", "localhost");
    if let Some(length) = length {
        builder = builder.header("content-length", length);
    }
    let mut head = builder.body(()).unwrap().into_parts().0;
    let admitted = verified(&mut head).map_err(|refusal| refusal.code)?;
    Ok((admitted.operation, head.headers))
}

/// Admitted, and verified as far as the gate does that.
fn verified(head: &mut request::Parts) -> Result<Admitted, Refusal> {
    let admitted = gate().admit(head, NOW_MS)?;
    gate().verify(&admitted).now_or_never().expect("its own identity needs nobody").map(|()| admitted)
}

#[test]
fn headers_in_a_presigned_query_are_headers() {
    let (operation, headers) =
        admit_presigned("GET", &format!("/b-1/k?{PRESIGNED}&x-id=GetObject&x-amz-checksum-mode=ENABLED"), None).unwrap();
    assert_eq!(operation, Operation::GetObject);
    assert_eq!(headers["x-amz-checksum-mode"], "ENABLED");
    let (_, headers) = admit_presigned("PUT", &format!("/b-1/k?{PRESIGNED}&X-Amz-Meta-Owner=me"), Some("1")).unwrap();
    assert_eq!(headers["x-amz-meta-owner"], "me");
    let (_, headers) = admit_presigned("PUT", &format!("/b-1/k?{PRESIGNED}&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"), Some("1")).unwrap();
    assert_eq!(headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
    for extra in ["x-amz-acl=public-read", "X-Amz-Security-Token=a", "x-amz-server-side-encryption=AES256", "x-amz-%00=a"] {
        assert_eq!(admit_presigned("PUT", &format!("/b-1/k?{PRESIGNED}&{extra}"), Some("1")).unwrap_err(), NotImplemented, "{extra}");
    }
}

#[test]
fn version_2_serves_only_what_it_signs_wholly() {
    let query = "AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature=x&Expires=1369353700";
    for (method, path, code) in [
        ("GET", "/bucket/key?", SignatureDoesNotMatch),
        ("GET", "/bucket?prefix=a&", InvalidRequest),
        ("GET", "/?", InvalidRequest),
        ("DELETE", "/bucket?", InvalidRequest),
        ("GET", "/bucket/key?acl&", NotImplemented),
        ("GET", "/bucket/key?x-amz-checksum-mode=ENABLED&", NotImplemented),
    ] {
        assert_eq!(admit_presigned(method, &format!("{path}{query}"), None).unwrap_err(), code, "{method} {path}");
    }
    let off = Gate { presigned_v2: false, ..gate() };
    let request = Request::builder().uri(format!("/bucket/key?{query}")).header("host", "h").body(()).unwrap();
    assert_eq!(off.admit(&mut request.into_parts().0, NOW_MS).unwrap_err().code, InvalidRequest);
    let other = query.replace("AKIAIOSFODNN7EXAMPLE", "AKIA");
    assert_eq!(admit_presigned("GET", &format!("/bucket/key?{other}"), None).unwrap_err(), InvalidAccessKeyId);
}

#[test]
fn useless_ranges_are_marked() {
    for (range, useless) in [
        ("bytes=0-0", false),
        ("bytes=5-", false),
        ("bytes=-5", false),
        ("bytes=0-1,3-4", true),
        ("bytes=4-1", true),
        ("bytes=a-b", true),
        ("items=0-1", true),
        ("bytes=99999999999999999999-", true),
        ("", true),
    ] {
        let mut head = head("GET", "/bucket/key", &[("range", range)]);
        assert_eq!(gate().admit(&mut head, NOW_MS).unwrap().drop_range, useless, "{range}");
    }
}

/// The README's table, made from the rows.
fn table_as_markdown() -> String {
    use super::operation::{Content, Permitted, Rule, TABLE};
    let permitted = |list: &[Permitted]| {
        let one = |(name, rule): &Permitted| match rule {
            Rule::Any => format!("`{name}`"),
            Rule::Values(values) => format!("`{name}` ({})", values.join(", ")),
        };
        list.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let mut text = String::from("| request | operation | body | parameters | headers |\n|---|---|---|---|---|\n");
    for row in &TABLE {
        let path = match row.level {
            Level::Service => "/",
            Level::Bucket => "/bucket",
            Level::Object => "/bucket/key",
        };
        let selectors: Vec<String> =
            row.selectors.iter().map(|name| if *name == "list-type" { "list-type=2".to_owned() } else { (*name).to_owned() }).collect();
        let selectors = if selectors.is_empty() { String::new() } else { format!("?{}", selectors.join("&")) };
        let copies = if row.copies { " with `x-amz-copy-source`" } else { "" };
        let v2 = if row.presigned_v2 { " (V2)" } else { "" };
        let body = match row.content {
            Content::Nothing => "none",
            Content::Xml => "document",
            Content::Bytes => "bytes",
        };
        let mut headers = vec![permitted(row.headers)];
        headers.push(row.conditions.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
        headers.push(if row.metadata { "`x-amz-meta-*`".to_owned() } else { String::new() });
        headers.retain(|list| !list.is_empty());
        text.push_str(&format!(
            "| `{} {path}{selectors}`{copies} | {}{v2} | {body} | {} | {} |\n",
            row.method,
            row.operation.name(),
            permitted(row.parameters),
            headers.join(", ")
        ));
    }
    text
}

#[test]
fn the_table_in_the_readme_is_the_table_of_the_gate() {
    let table = table_as_markdown();
    assert!(include_str!("../../README.md").contains(&table), "README.md must contain:\n{table}");
}

quickcheck! {
    fn no_request_panics(method: u8, path: String, query: String, headers: Vec<(u8, Vec<u8>)>) -> bool {
        const METHODS: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE"];
        const NAMES: [&str; 16] = [
            "authorization", "host", "x-amz-date", "x-amz-content-sha256", "content-length", "transfer-encoding", "range", "content-type",
            "x-amz-trailer", "x-amz-decoded-content-length", "x-amz-meta-\u{61}", "x-amz-copy-source", "if-match", "x-amz-acl", "expect",
            "x-amz-sdk-checksum-algorithm",
        ];
        let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        for uri in [
            format!("/{}?{}", encode(&path), encode(&query)),
            format!("/{}?{}=1", path.escape_default(), query.escape_default()),
            format!("/bucket/key?{PRESIGNED}&{}", encode(&query)),
        ] {
            let mut builder = Request::builder().method(METHODS[usize::from(method) % 8]).uri(uri);
            for (name, value) in &headers {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    builder = builder.header(NAMES[usize::from(*name) % 16], value);
                }
            }
            if let Ok(request) = builder.body(()) {
                let _ = gate().admit(&mut request.into_parts().0, NOW_MS);
            }
        }
        true
    }

    fn no_authorization_panics(fields: String, date: String, payload: String) -> bool {
        for authorization in [format!("AWS4-HMAC-SHA256 {fields}"), format!("AWS4-HMAC-SHA256 Credential={fields},SignedHeaders=host")] {
            let mut head = head("PUT", "/bucket/key", &[]);
            for (name, value) in [("authorization", &authorization), ("x-amz-date", &date), ("x-amz-content-sha256", &payload)] {
                if let Ok(value) = HeaderValue::from_str(value) {
                    head.headers.insert(name, value);
                }
            }
            let _ = gate().admit(&mut head, NOW_MS);
        }
        true
    }
}

#[test]
fn links_of_version_2_may_repeat_the_headers_that_they_sign() {
    let judge = |parameters: &str, headers: &[(&str, &str)]| {
        let mut builder = Request::builder().method("PUT").header("host", "h").header("content-length", "5");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let uri = format!("/bucket/key?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=1369353660&Signature=x{parameters}");
        let mut parts = builder.uri(uri).body(()).unwrap().into_parts().0;
        verified(&mut parts).unwrap_err().message
    };
    let agreed = "The request signature we calculated does not match the signature you provided. Check your key and signing method.";
    let kind = ("content-type", "text/plain");
    assert_eq!(judge("&content-type=text%2Fplain", &[kind]), agreed);
    assert_eq!(judge("&x-amz-meta-a=b&Content-MD5=c", &[("x-amz-meta-a", "b"), ("content-md5", "c")]), agreed);
    for (parameters, headers) in [
        ("&content-type=text%2Fhtml", vec![kind]),
        ("&content-type=text%2Fplain", vec![]),
        ("&x-amz-meta-a=b", vec![("x-amz-meta-a", "c")]),
    ] {
        assert!(judge(parameters, &headers).starts_with("The link was signed for the header"), "{parameters}");
    }
}

#[test]
fn a_range_without_digits_is_no_range() {
    for (range, dropped) in [("bytes=-", true), ("bytes=-0", false), ("bytes=0-", false), ("bytes=a-b", true)] {
        let admitted = gate().admit(&mut head("GET", "/bucket/key", &[("range", range)]), NOW_MS).unwrap();
        assert_eq!(admitted.drop_range, dropped, "{range}");
    }
}
