//! Versions as S3's clients see them, against the real binary.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of a real process")]

mod server;

use jepsen_like::s3::{Client, Content, Element, Error, Request};
use runtime::process::block_on;
use server::Up;
use std::collections::BTreeMap;

/// Headers and body.
type Whole = (BTreeMap<String, String>, bytes::Bytes);
type Answer = Result<Whole, Error>;

fn code(answer: Answer) -> String {
    match answer {
        Ok(_) => "no error".into(),
        Err(error) => error.code().map_or_else(|| format!("{error}"), str::to_string),
    }
}

fn header(answer: &Whole, name: &str) -> Option<String> {
    answer.0.get(name).cloned()
}

fn id(answer: Answer) -> String {
    header(&answer.unwrap(), "x-amz-version-id").expect("a version id is told")
}

struct Bucket(Client);

impl Bucket {
    async fn ask(&self, request: Request) -> Answer {
        let (headers, body) = self.0.call_whole(&request).await?;
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string())).collect();
        Ok((headers, body))
    }

    async fn set(&self, inner: &str) -> Answer {
        let body = format!("<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inner}</VersioningConfiguration>");
        self.ask(Request::bucket("PUT", "bucket").query("versioning", "").source(body)).await
    }

    async fn status(&self) -> String {
        let (_, body) = self.ask(Request::bucket("GET", "bucket").query("versioning", "")).await.unwrap();
        Element::parse(&body).unwrap().text_of("Status").to_string()
    }

    async fn put(&self, key: &str, seed: u64) -> Answer {
        self.ask(Request::object("PUT", "bucket", key).source(Content::new(seed, 20_000))).await
    }

    async fn get(&self, key: &str, id: &str) -> Answer {
        self.ask(Request::object("GET", "bucket", key).query("versionId", id)).await
    }

    async fn delete(&self, key: &str, id: &str) -> Answer {
        self.ask(Request::object("DELETE", "bucket", key).query("versionId", id)).await
    }

    /// `key id`, a marker in brackets, the latest with a star; then prefixes, and where the next page begins.
    async fn list(&self, queries: &[(&str, &str)]) -> (Vec<String>, Vec<String>, Option<(String, String)>) {
        let request = queries
            .iter()
            .fold(Request::bucket("GET", "bucket").query("versions", ""), |request, (name, value)| request.query(name, *value));
        let (_, body) = self.ask(request).await.unwrap();
        let root = Element::parse(&body).unwrap();
        assert_eq!(root.name, "ListVersionsResult");
        let line = |row: &Element| {
            let latest = if row.text_of("IsLatest") == "true" { "*" } else { "" };
            let (key, id) = (row.text_of("Key"), row.text_of("VersionId"));
            if row.name == "DeleteMarker" { format!("{key} ({id}){latest}") } else { format!("{key} {id}{latest}") }
        };
        let rows = root.children.iter().filter(|child| ["Version", "DeleteMarker"].contains(&child.name.as_str())).map(line).collect();
        let prefixes = root.all("CommonPrefixes").map(|prefix| prefix.text_of("Prefix").to_string()).collect();
        let next = (root.text_of("IsTruncated") == "true")
            .then(|| (root.text_of("NextKeyMarker").to_string(), root.text_of("NextVersionIdMarker").to_string()));
        (rows, prefixes, next)
    }
}

impl Bucket {
    fn tagging(method: &str, key: &str, id: Option<&str>) -> Request {
        let request = Request::object(method, "bucket", key).query("tagging", "");
        id.into_iter().fold(request, |request, id| request.query("versionId", id))
    }

    /// PutObjectTagging of these, as in `x-amz-tagging`.
    async fn tag(&self, key: &str, id: Option<&str>, tags: &str) -> Answer {
        let pairs = tags.split('&').filter_map(|pair| pair.split_once('='));
        let tags: String = pairs.map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>")).collect();
        let body = format!("<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><TagSet>{tags}</TagSet></Tagging>");
        self.ask(Bucket::tagging("PUT", key, id).source(body)).await
    }

    /// As in `x-amz-tagging`, or why not.
    async fn tags(&self, key: &str, id: Option<&str>) -> String {
        match self.ask(Bucket::tagging("GET", key, id)).await {
            Ok((_, body)) => {
                let root = Element::parse(&body).unwrap();
                assert_eq!(root.name, "Tagging");
                let tags = root.child("TagSet").unwrap().all("Tag");
                tags.map(|tag| format!("{}={}", tag.text_of("Key"), tag.text_of("Value"))).collect::<Vec<_>>().join("&")
            }
            refused => code(refused),
        }
    }
}

#[test]
fn tags_change_without_changing_their_version() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data"));
    block_on(async {
        let bucket = Bucket(up.client());
        bucket.0.create_bucket("bucket").await.unwrap();
        let put = Request::object("PUT", "bucket", "k").header("x-amz-tagging", "b=2&a+%C3%A9=1%2F").source(Content::new(1, 20_000));
        let written = bucket.ask(put).await.unwrap();
        assert_eq!(bucket.tags("k", None).await, "a é=1/&b=2");
        let before = bucket.ask(Request::object("HEAD", "bucket", "k")).await.unwrap();
        assert_eq!(header(&before, "x-amz-tagging-count").as_deref(), Some("2"));
        let tagged = bucket.tag("k", None, "c=3").await.unwrap();
        assert_eq!(header(&tagged, "x-amz-version-id"), None);
        let after = bucket.ask(Request::object("GET", "bucket", "k")).await.unwrap();
        assert_eq!(header(&after, "x-amz-tagging-count").as_deref(), Some("1"));
        for name in ["etag", "last-modified"] {
            assert_eq!(header(&after, name), header(&before, name));
        }
        assert_eq!((header(&after, "etag"), after.1), (header(&written, "etag"), Content::new(1, 20_000).bytes()));
        let revision = |answer: &Whole| header(answer, "x-keepstone-revision").unwrap().parse::<u64>().unwrap();
        assert!(revision(&tagged) > revision(&written));
        bucket.ask(Bucket::tagging("DELETE", "k", None)).await.unwrap();
        assert_eq!(bucket.tags("k", None).await, "");
        assert_eq!(header(&bucket.ask(Request::object("HEAD", "bucket", "k")).await.unwrap(), "x-amz-tagging-count"), None);

        // What is refused changes nothing.
        bucket.tag("k", None, "d=4").await.unwrap();
        let many = (0..11).map(|number| format!("{number}=x")).collect::<Vec<_>>().join("&");
        for (tags, expected) in [
            (many.as_str(), "BadRequest"),
            ("a=1&a=2", "InvalidTag"),
            ("aws:a=1", "InvalidTag"),
            ("=1", "InvalidTag"),
            ("a=*", "InvalidTag"),
        ] {
            assert_eq!(code(bucket.tag("k", None, tags).await), expected, "{tags}");
        }
        let with_header = |tags: &str| Request::object("PUT", "bucket", "k").header("x-amz-tagging", tags).source(Content::new(2, 10));
        for (tags, expected) in [(many.as_str(), "BadRequest"), ("a=1&a=2", "InvalidArgument"), ("%ff=1", "InvalidArgument")] {
            assert_eq!(code(bucket.ask(with_header(tags)).await), expected, "{tags}");
        }
        let document = |text: &str| Bucket::tagging("PUT", "k", None).source(text.to_string());
        assert_eq!(code(bucket.ask(document("<Tagging></Tagging>")).await), "MalformedXML");
        assert_eq!(code(bucket.ask(document("<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>")).await), "MalformedXML");
        assert_eq!(code(bucket.ask(document("<Tagging><TagSet></TagSet><Other/></Tagging>")).await), "NotImplemented");
        assert_eq!(code(bucket.tag("missing", None, "a=1").await), "NoSuchKey");
        assert_eq!(bucket.tags("missing", None).await, "NoSuchKey");
        assert_eq!(bucket.tags("k", None).await, "d=4");

        // Copies take tags with them, or others; uploads are begun with theirs.
        let copy = |to: &str| Request::object("PUT", "bucket", to).header("x-amz-copy-source", "/bucket/k");
        bucket.ask(copy("copy")).await.unwrap();
        bucket.ask(copy("other").header("x-amz-tagging-directive", "REPLACE").header("x-amz-tagging", "e=5")).await.unwrap();
        bucket.ask(copy("none").header("x-amz-tagging-directive", "REPLACE")).await.unwrap();
        let begin = Request::object("POST", "bucket", "upload").header("x-amz-tagging", "f=6");
        let upload = bucket.0.create_upload_with(begin).await.unwrap();
        let part = bucket.0.upload_part("bucket", "upload", &upload, 1, Content::new(6, 9000)).await.unwrap();
        let document =
            format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{part}</ETag></Part></CompleteMultipartUpload>");
        bucket.ask(Request::object("POST", "bucket", "upload").query("uploadId", &upload).source(document)).await.unwrap();
        for (key, tags) in [("copy", "d=4"), ("other", "e=5"), ("none", ""), ("upload", "f=6")] {
            assert_eq!(bucket.tags(key, None).await, tags, "{key}");
        }

        // Each version has its own; a marker has none.
        bucket.set("<Status>Enabled</Status>").await.unwrap();
        let second = id(bucket.put("k", 2).await);
        assert_eq!(bucket.tags("k", None).await, "");
        assert_eq!(id(bucket.tag("k", None, "two=2").await), second);
        assert_eq!(id(bucket.tag("k", Some("null"), "null=0").await), "null");
        let third = id(bucket.put("k", 3).await);
        assert_eq!((bucket.tags("k", Some(&second)).await, bucket.tags("k", Some("null")).await), ("two=2".into(), "null=0".into()));
        assert_eq!(code(bucket.tag("k", Some(&third.replace(|_| true, "f")), "a=1").await), "NoSuchVersion");
        let marker = id(bucket.ask(Request::object("DELETE", "bucket", "k")).await);
        assert_eq!((bucket.tags("k", None).await, code(bucket.tag("k", None, "a=1").await)), ("NoSuchKey".into(), "NoSuchKey".into()));
        let of_marker = bucket.tags("k", Some(&marker)).await;
        assert_eq!((of_marker, code(bucket.tag("k", Some(&marker), "a=1").await)), ("MethodNotAllowed".into(), "MethodNotAllowed".into()));
        let reply = bucket.0.send(&Bucket::tagging("DELETE", "k", Some(&marker))).await.unwrap();
        assert_eq!((reply.status, reply.header("x-amz-delete-marker"), reply.header("allow")), (405, "true", "DELETE"));
        assert_eq!(bucket.list(&[("prefix", "k")]).await.0.len(), 4);
    });
}

#[test]
fn versions_live_as_s3_says() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data"));
    block_on(async {
        let bucket = Bucket(up.client());
        bucket.0.create_bucket("bucket").await.unwrap();
        assert_eq!(bucket.status().await, "");
        let unversioned = bucket.put("k", 1).await.unwrap();
        assert_eq!(header(&unversioned, "x-amz-version-id"), None);
        assert_eq!(bucket.list(&[]).await.0, ["k null*"]);

        // What is not honoured is refused.
        assert_eq!(code(bucket.set("<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>").await), "NotImplemented");
        assert_eq!(code(bucket.set("<Status>Enabled</Status><Other>1</Other>").await), "NotImplemented");
        assert_eq!(code(bucket.set("").await), "IllegalVersioningConfigurationException");
        assert_eq!(bucket.status().await, "");
        bucket.set("<Status>Enabled</Status><MfaDelete>Disabled</MfaDelete>").await.unwrap();
        assert_eq!(bucket.status().await, "Enabled");

        let (second, third) = (id(bucket.put("k", 2).await), id(bucket.put("k", 3).await));
        assert!(second.len() == 32 && second != third);
        for (id, seed) in [("null", 1), (&second, 2), (&third, 3)] {
            let answer = bucket.get("k", id).await.unwrap();
            assert_eq!(header(&answer, "x-amz-version-id").as_deref(), Some(id));
            assert_eq!(answer.1, Content::new(seed, 20_000).bytes());
        }
        assert_eq!(code(bucket.get("k", "0000").await), "InvalidArgument");
        assert_eq!(code(bucket.get("k", &second.replace(|_| true, "f")).await), "NoSuchVersion");
        assert_eq!(code(bucket.get("other", &second).await), "NoSuchVersion");

        // A marker hides, and is named.
        let deleted = bucket.ask(Request::object("DELETE", "bucket", "k")).await.unwrap();
        assert_eq!(header(&deleted, "x-amz-delete-marker").as_deref(), Some("true"));
        let marker = id(Ok(deleted));
        assert_eq!(code(bucket.ask(Request::object("GET", "bucket", "k")).await), "NoSuchKey");
        assert_eq!(code(bucket.get("k", &marker).await), "MethodNotAllowed");
        for (request, status) in
            [(Request::object("GET", "bucket", "k"), 404), (Request::object("HEAD", "bucket", "k").query("versionId", &marker), 405)]
        {
            let reply = bucket.0.send(&request).await.unwrap();
            assert_eq!(
                (reply.status, reply.header("x-amz-delete-marker"), reply.header("x-amz-version-id")),
                (status, "true", marker.as_str())
            );
        }
        let (rows, _, _) = bucket.list(&[]).await;
        assert_eq!(rows, [format!("k ({marker})*"), format!("k {third}"), format!("k {second}"), "k null".into()]);
        let plain = bucket.0.list("bucket", jepsen_like::s3::ListKind::V2, &jepsen_like::s3::List::default()).await.unwrap();
        assert!(plain.objects.is_empty(), "{plain:?}");
        assert_eq!(bucket.0.delete_bucket("bucket").await.unwrap_err().code(), Some("BucketNotEmpty"));

        // Copies of versions, also onto their own key.
        let copy = Request::object("PUT", "bucket", "k").header("x-amz-copy-source", format!("/bucket/k?versionId={second}"));
        let copied = bucket.ask(copy).await.unwrap();
        assert_eq!(header(&copied, "x-amz-copy-source-version-id").as_deref(), Some(second.as_str()));
        let fifth = id(Ok(copied));
        assert_eq!(bucket.ask(Request::object("GET", "bucket", "k")).await.unwrap().1, Content::new(2, 20_000).bytes());
        let of_marker = Request::object("PUT", "bucket", "x").header("x-amz-copy-source", format!("/bucket/k?versionId={marker}"));
        assert_eq!(code(bucket.ask(of_marker).await), "InvalidRequest");

        // An upload makes a version, too.
        let upload = bucket.0.create_upload("bucket", "k").await.unwrap();
        let part = bucket.0.upload_part("bucket", "k", &upload, 1, Content::new(6, 9000)).await.unwrap();
        let document =
            format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{part}</ETag></Part></CompleteMultipartUpload>");
        let sixth = id(bucket.ask(Request::object("POST", "bucket", "k").query("uploadId", &upload).source(document)).await);
        assert_eq!(bucket.get("k", &sixth).await.unwrap().1, Content::new(6, 9000).bytes());

        // Suspended: the null version is replaced, and no other one.
        bucket.set("<Status>Suspended</Status>").await.unwrap();
        assert_eq!((bucket.status().await.as_str(), id(bucket.put("k", 7).await).as_str()), ("Suspended", "null"));
        let all = [
            "k null*".to_owned(),
            format!("k {sixth}"),
            format!("k {fifth}"),
            format!("k ({marker})"),
            format!("k {third}"),
            format!("k {second}"),
        ];
        assert_eq!(bucket.list(&[]).await.0, all);
        for page_keys in 1..=6 {
            let (mut joined, mut markers): (Vec<String>, _) = (Vec::new(), Some((String::new(), String::new())));
            while let Some((key, version)) = markers {
                let most = page_keys.to_string();
                let mut queries = vec![("max-keys", most.as_str()), ("encoding-type", "url")];
                if !key.is_empty() {
                    queries.extend([("key-marker", key.as_str()), ("version-id-marker", version.as_str())]);
                }
                let (rows, _, next) = bucket.list(&queries).await;
                assert!(rows.len() <= page_keys);
                joined.extend(rows);
                markers = next;
            }
            assert_eq!(joined, all, "pages of {page_keys}");
        }
        assert_eq!(bucket.list(&[("key-marker", "k"), ("version-id-marker", &fifth)]).await.0, all[3..]);
        assert_eq!(bucket.list(&[("key-marker", "k"), ("version-id-marker", "null")]).await.0, all[1..]);
        assert_eq!(bucket.list(&[("key-marker", "k")]).await.0, [""; 0]);
        let marker_alone = Request::bucket("GET", "bucket").query("versions", "").query("version-id-marker", &fifth);
        assert_eq!(code(bucket.ask(marker_alone).await), "InvalidArgument");
        bucket.put("a/1", 8).await.unwrap();
        bucket.put("a/2", 9).await.unwrap();
        let (rows, prefixes, _) = bucket.list(&[("delimiter", "/"), ("prefix", "")]).await;
        assert_eq!((rows.len(), prefixes), (6, vec!["a/".to_string()]));

        // By id, exactly that version; what is not there is no error.
        let removed = bucket.delete("k", &marker).await.unwrap();
        assert_eq!(header(&removed, "x-amz-delete-marker").as_deref(), Some("true"));
        bucket.delete("k", &marker).await.unwrap();
        bucket.delete("k", "null").await.unwrap();
        assert_eq!(
            bucket.ask(Request::object("HEAD", "bucket", "k")).await.map(|answer| header(&answer, "x-amz-version-id")).unwrap(),
            Some(sixth.clone())
        );
        let doomed: String =
            [&sixth, &fifth, &third, &second].map(|id| format!("<Object><Key>k</Key><VersionId>{id}</VersionId></Object>")).concat();
        let rest = "<Object><Key>a/1</Key></Object><Object><Key>a/2</Key><VersionId>null</VersionId></Object>";
        let document = format!("<Delete>{doomed}{rest}</Delete>");
        let (_, body) = bucket.ask(Request::bucket("POST", "bucket").query("delete", "").source(document)).await.unwrap();
        let root = Element::parse(&body).unwrap();
        assert_eq!((root.all("Deleted").count(), root.all("Error").count()), (6, 0));
        let marked = root.all("Deleted").find(|row| row.text_of("Key") == "a/1").unwrap();
        assert_eq!((marked.text_of("DeleteMarker"), marked.text_of("DeleteMarkerVersionId")), ("true", "null"));
        assert_eq!(bucket.list(&[]).await.0, ["a/1 (null)*"]);
        bucket.delete("a/1", "null").await.unwrap();
        bucket.0.delete_bucket("bucket").await.unwrap();
    });
}
