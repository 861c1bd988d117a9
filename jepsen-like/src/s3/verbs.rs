//! S3's operations on [`Client`], one method each. What these cannot express goes through [`Client::call`].

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::Digest;

use super::body::Source;
use super::client::{Client, Error, Reply};
use super::request::{Payload, Request};
use super::xml::{self, Element};

/// A condition on a write or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `If-None-Match: *`: only if the key does not exist.
    Absent,
    /// `If-Match`: only if the ETag is this one.
    Matches(String),
    /// `If-None-Match` with an ETag.
    Differs(String),
}

impl Condition {
    /// Add the header to `request`.
    pub fn apply(&self, request: Request) -> Request {
        match self {
            Condition::Absent => request.header("if-none-match", "*"),
            Condition::Matches(etag) => request.header("if-match", etag),
            Condition::Differs(etag) => request.header("if-none-match", etag),
        }
    }
}

/// What a write answers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Written {
    /// With its quotes.
    pub etag: String,
    pub version_id: Option<String>,
}

/// Head of an object.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Head {
    pub bytes: u64,
    /// With its quotes.
    pub etag: String,
    pub content_type: String,
    pub last_modified: String,
    pub version_id: Option<String>,
    /// User metadata without the `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
    /// All headers, in lower case.
    pub headers: BTreeMap<String, String>,
}

/// A row of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Listed {
    pub key: String,
    pub etag: String,
    pub bytes: u64,
    pub last_modified: String,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    pub objects: Vec<Listed>,
    pub prefixes: Vec<String>,
    pub truncated: bool,
    /// Continuation token (V2) or next marker (V1; the last key if the server gave none).
    pub next: Option<String>,
}

/// What to list.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct List {
    pub prefix: String,
    pub delimiter: String,
    /// `start-after` (V2) or `marker` (V1).
    pub after: String,
    /// V2's continuation token.
    pub token: Option<String>,
    pub keys_max: Option<u32>,
    /// Do not ask for `encoding-type=url`.
    pub plain: bool,
}

/// A page of the buckets.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BucketPage {
    /// In the order of the reply.
    pub names: Vec<String>,
    /// Continuation token; `None`: it is the last page.
    pub next: Option<String>,
}

/// A part of an upload, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Part {
    pub number: u16,
    pub etag: String,
    pub bytes: u64,
}

/// The two listings of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    V1,
    V2,
}

impl Client {
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), Error> {
        self.call_whole(&Request::bucket("PUT", bucket)).await.map(|_| ())
    }

    pub async fn head_bucket(&self, bucket: &str) -> Result<(), Error> {
        self.call_whole(&Request::bucket("HEAD", bucket)).await.map(|_| ())
    }

    pub async fn delete_bucket(&self, bucket: &str) -> Result<(), Error> {
        self.call_whole(&Request::bucket("DELETE", bucket)).await.map(|_| ())
    }

    /// Names of all buckets, as many as the server puts on one page.
    pub async fn list_buckets(&self) -> Result<Vec<String>, Error> {
        Ok(self.list_buckets_page("", None, None).await?.names)
    }

    /// One page of the buckets whose names begin with `prefix`, from where the page with `token` as its next one ended.
    pub async fn list_buckets_page(&self, prefix: &str, buckets_max: Option<u32>, token: Option<&str>) -> Result<BucketPage, Error> {
        let mut request = Request::new("GET", "/");
        if !prefix.is_empty() {
            request = request.query("prefix", prefix);
        }
        if let Some(buckets_max) = buckets_max {
            request = request.query("max-buckets", buckets_max.to_string());
        }
        if let Some(token) = token {
            request = request.query("continuation-token", token);
        }
        bucket_page_of(&self.call(&request).await?.xml().await?)
    }

    pub async fn put(&self, bucket: &str, key: &str, source: impl Into<Source>) -> Result<Written, Error> {
        self.put_with(Request::object("PUT", bucket, key).source(source)).await
    }

    /// PUT under a condition.
    pub async fn put_if(&self, bucket: &str, key: &str, source: impl Into<Source>, condition: &Condition) -> Result<Written, Error> {
        self.put_with(condition.apply(Request::object("PUT", bucket, key).source(source))).await
    }

    /// PUT with headers, payload mode and timeout of the caller's choice.
    pub async fn put_with(&self, request: Request) -> Result<Written, Error> {
        let (headers, _) = self.call_whole(&request).await?;
        Ok(Written { etag: text(&headers, "etag"), version_id: optional(&headers, "x-amz-version-id") })
    }

    /// GET into memory (at most [`super::client::REPLY_BYTES_MAX`]).
    pub async fn get(&self, bucket: &str, key: &str) -> Result<(Head, Bytes), Error> {
        let (headers, bytes) = self.call_whole(&Request::object("GET", bucket, key)).await?;
        Ok((head_of(&headers), bytes))
    }

    /// GET as a stream.
    pub async fn get_stream(&self, bucket: &str, key: &str) -> Result<Reply, Error> {
        self.call(&Request::object("GET", bucket, key)).await
    }

    /// GET with a `range` like `bytes=0-9`, `bytes=5-` or `bytes=-5`.
    pub async fn get_range(&self, bucket: &str, key: &str, range: &str) -> Result<(Head, Bytes), Error> {
        let (headers, bytes) = self.call_whole(&Request::object("GET", bucket, key).header("range", range)).await?;
        Ok((head_of(&headers), bytes))
    }

    pub async fn head(&self, bucket: &str, key: &str) -> Result<Head, Error> {
        let (headers, _) = self.call_whole(&Request::object("HEAD", bucket, key)).await?;
        Ok(head_of(&headers))
    }

    pub async fn delete(&self, bucket: &str, key: &str) -> Result<(), Error> {
        self.call_whole(&Request::object("DELETE", bucket, key)).await.map(|_| ())
    }

    /// DeleteObjects; returns the keys that failed, with their codes.
    pub async fn delete_objects(&self, bucket: &str, keys: &[String]) -> Result<Vec<(String, String)>, Error> {
        let body = xml::delete_objects(keys, true);
        let request = Request::bucket("POST", bucket)
            .query("delete", "")
            .header("content-md5", BASE64.encode(md5::Md5::digest(body.as_bytes())))
            .source(body);
        let root = self.call(&request).await?.xml().await?;
        Ok(root.all("Error").map(|error| (error.text_of("Key").to_owned(), error.text_of("Code").to_owned())).collect())
    }

    /// CopyObject.
    pub async fn copy(&self, from_bucket: &str, from_key: &str, bucket: &str, key: &str) -> Result<Written, Error> {
        let source = format!("/{}/{}", super::sign::encode(from_bucket), super::sign::encode_path(from_key));
        let reply = self.call(&Request::object("PUT", bucket, key).header("x-amz-copy-source", source)).await?;
        let version_id = optional(&reply.headers, "x-amz-version-id");
        let root = reply.xml().await?;
        Ok(Written { etag: root.text_of("ETag").to_owned(), version_id })
    }

    /// One page.
    pub async fn list(&self, bucket: &str, kind: ListKind, list: &List) -> Result<Page, Error> {
        let mut request = Request::bucket("GET", bucket);
        if kind == ListKind::V2 {
            request = request.query("list-type", "2");
        }
        let after = if kind == ListKind::V2 { "start-after" } else { "marker" };
        for (name, value) in [("prefix", &list.prefix), ("delimiter", &list.delimiter), (after, &list.after)] {
            if !value.is_empty() {
                request = request.query(name, value);
            }
        }
        if let Some(token) = &list.token {
            request = request.query("continuation-token", token);
        }
        if let Some(keys_max) = list.keys_max {
            request = request.query("max-keys", keys_max.to_string());
        }
        if !list.plain {
            request = request.query("encoding-type", "url");
        }
        page_of(&self.call(&request).await?.xml().await?, kind)
    }

    /// Every object under `prefix`, in order, page by page; at most `keys_max` of them.
    pub async fn list_all(&self, bucket: &str, prefix: &str, keys_max: usize) -> Result<Vec<Listed>, Error> {
        let mut all = Vec::new();
        let mut list = List { prefix: prefix.to_owned(), ..List::default() };
        loop {
            let page = self.list(bucket, ListKind::V2, &list).await?;
            all.extend(page.objects);
            if all.len() > keys_max {
                return Err(Error::BadReply(format!("more than {keys_max} keys listed")));
            }
            if !page.truncated {
                return Ok(all);
            }
            list.token = Some(page.next.ok_or_else(|| Error::BadReply("a truncated page without a token".to_owned()))?);
        }
    }

    /// CreateMultipartUpload; returns the upload id.
    pub async fn create_upload(&self, bucket: &str, key: &str) -> Result<String, Error> {
        self.create_upload_with(Request::object("POST", bucket, key)).await
    }

    /// CreateMultipartUpload with headers; `request` is a POST of the object.
    pub async fn create_upload_with(&self, request: Request) -> Result<String, Error> {
        let root = self.call(&request.query("uploads", "")).await?.xml().await?;
        let id = root.text_of("UploadId");
        if id.is_empty() { Err(Error::BadReply("no UploadId".to_owned())) } else { Ok(id.to_owned()) }
    }

    /// UploadPart; returns the part's ETag.
    pub async fn upload_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: u16,
        source: impl Into<Source>,
    ) -> Result<String, Error> {
        let request = Request::object("PUT", bucket, key)
            .query("partNumber", number.to_string())
            .query("uploadId", upload)
            .source(source)
            .payload(Payload::Unsigned);
        Ok(self.put_with(request).await?.etag)
    }

    /// UploadPartCopy of `range` (like `bytes=0-9`), or of all.
    pub async fn upload_part_copy(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: u16,
        from: (&str, &str),
        range: Option<&str>,
    ) -> Result<String, Error> {
        let source = format!("/{}/{}", super::sign::encode(from.0), super::sign::encode_path(from.1));
        let mut request = Request::object("PUT", bucket, key)
            .query("partNumber", number.to_string())
            .query("uploadId", upload)
            .header("x-amz-copy-source", source);
        if let Some(range) = range {
            request = request.header("x-amz-copy-source-range", range);
        }
        let root = self.call(&request).await?.xml().await?;
        Ok(root.text_of("ETag").to_owned())
    }

    /// CompleteMultipartUpload.
    pub async fn complete_upload(&self, bucket: &str, key: &str, upload: &str, parts: &[(u16, String)]) -> Result<Written, Error> {
        self.complete_upload_with(Request::object("POST", bucket, key), upload, parts).await
    }

    /// CompleteMultipartUpload with headers; `request` is a POST of the object.
    pub async fn complete_upload_with(&self, request: Request, upload: &str, parts: &[(u16, String)]) -> Result<Written, Error> {
        let reply = self.call(&request.query("uploadId", upload).source(xml::complete_upload(parts))).await?;
        let version_id = optional(&reply.headers, "x-amz-version-id");
        let root = reply.xml().await?;
        Ok(Written { etag: root.text_of("ETag").to_owned(), version_id })
    }

    pub async fn abort_upload(&self, bucket: &str, key: &str, upload: &str) -> Result<(), Error> {
        self.call_whole(&Request::object("DELETE", bucket, key).query("uploadId", upload)).await.map(|_| ())
    }

    /// ListParts: up to `parts_max` parts after number `after`, and whether there are more.
    pub async fn list_parts(&self, bucket: &str, key: &str, upload: &str, after: u16, parts_max: u16) -> Result<(Vec<Part>, bool), Error> {
        let mut request = Request::object("GET", bucket, key).query("uploadId", upload).query("max-parts", parts_max.to_string());
        if after > 0 {
            request = request.query("part-number-marker", after.to_string());
        }
        let root = self.call(&request).await?.xml().await?;
        let part = |part: &Element| {
            Ok(Part { number: number(part, "PartNumber")?, etag: part.text_of("ETag").to_owned(), bytes: number(part, "Size")? })
        };
        let parts = root.all("Part").map(part).collect::<Result<Vec<Part>, Error>>()?;
        Ok((parts, root.text_of("IsTruncated") == "true"))
    }

    /// ListMultipartUploads: (key, upload id) of the first page.
    pub async fn list_uploads(&self, bucket: &str, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        let mut request = Request::bucket("GET", bucket).query("uploads", "");
        if !prefix.is_empty() {
            request = request.query("prefix", prefix);
        }
        let root = self.call(&request).await?.xml().await?;
        Ok(root.all("Upload").map(|upload| (upload.text_of("Key").to_owned(), upload.text_of("UploadId").to_owned())).collect())
    }
}

fn text(headers: &http::HeaderMap, name: &str) -> String {
    optional(headers, name).unwrap_or_default()
}

fn optional(headers: &http::HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn head_of(headers: &http::HeaderMap) -> Head {
    let all: BTreeMap<String, String> =
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    let metadata = all.iter().filter_map(|(name, value)| Some((name.strip_prefix("x-amz-meta-")?.to_owned(), value.clone()))).collect();
    Head {
        bytes: text(headers, "content-length").parse().unwrap_or(0),
        etag: text(headers, "etag"),
        content_type: text(headers, "content-type"),
        last_modified: text(headers, "last-modified"),
        version_id: optional(headers, "x-amz-version-id"),
        metadata,
        headers: all,
    }
}

fn number<T: std::str::FromStr>(element: &Element, name: &str) -> Result<T, Error> {
    let text = element.text_of(name);
    text.parse().map_err(|_| Error::BadReply(format!("{name} is \"{text}\", not a number")))
}

fn bucket_page_of(root: &Element) -> Result<BucketPage, Error> {
    let buckets = root.child("Buckets").ok_or_else(|| Error::BadReply("no Buckets".to_owned()))?;
    let names = buckets.all("Bucket").map(|bucket| bucket.text_of("Name").to_owned()).collect();
    Ok(BucketPage { names, next: Some(root.text_of("ContinuationToken")).filter(|token| !token.is_empty()).map(str::to_owned) })
}

fn page_of(root: &Element, kind: ListKind) -> Result<Page, Error> {
    let encoded = root.text_of("EncodingType") == "url";
    let decode = |text: &str| {
        if encoded {
            // S3 encodes a space as '+', which our own server does not; both are understood.
            let spaced = text.replace('+', "%20");
            percent_encoding::percent_decode_str(&spaced)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| Error::BadReply(format!("{text} does not decode to UTF-8")))
        } else {
            Ok(text.to_owned())
        }
    };
    let mut page = Page { truncated: root.text_of("IsTruncated") == "true", ..Page::default() };
    for row in root.all("Contents") {
        page.objects.push(Listed {
            key: decode(row.text_of("Key"))?,
            etag: row.text_of("ETag").to_owned(),
            bytes: number(row, "Size")?,
            last_modified: row.text_of("LastModified").to_owned(),
        });
    }
    for row in root.all("CommonPrefixes") {
        page.prefixes.push(decode(row.text_of("Prefix"))?);
    }
    if page.truncated {
        page.next = match kind {
            ListKind::V2 => root.child("NextContinuationToken").map(|token| token.text.clone()),
            ListKind::V1 => match root.child("NextMarker") {
                Some(marker) => Some(decode(&marker.text)?),
                None => page.objects.last().map(|row| row.key.clone()),
            },
        };
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_with_its_encoding() {
        let document = "<ListBucketResult><IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>\
            <Contents><Key>a%20b/%C3%BC+</Key><Size>12</Size><ETag>&quot;e&quot;</ETag></Contents>\
            <CommonPrefixes><Prefix>p%2F</Prefix></CommonPrefixes>\
            <NextContinuationToken>t+</NextContinuationToken></ListBucketResult>";
        let page = page_of(&Element::parse(document.as_bytes()).unwrap(), ListKind::V2).unwrap();
        assert_eq!((page.objects[0].key.as_str(), page.objects[0].bytes, page.objects[0].etag.as_str()), ("a b/ü ", 12, "\"e\""));
        assert_eq!((page.prefixes, page.next), (vec!["p/".to_owned()], Some("t+".to_owned())));
    }

    #[test]
    fn a_page_of_buckets_names_them_and_where_to_go_on() {
        let page = |rest: &str| {
            let document = format!("<ListAllMyBucketsResult><Owner><ID>o</ID></Owner>{rest}</ListAllMyBucketsResult>");
            bucket_page_of(&Element::parse(document.as_bytes()).unwrap())
        };
        let two = "<Buckets><Bucket><Name>a</Name></Bucket><Bucket><Name>b</Name></Bucket></Buckets>";
        let names = vec!["a".to_owned(), "b".to_owned()];
        let last = BucketPage { names: names.clone(), next: None };
        assert_eq!(page(two).unwrap(), last);
        assert_eq!(page(&format!("{two}<ContinuationToken>t</ContinuationToken>")).unwrap(), BucketPage { names, next: Some("t".into()) });
        assert_eq!(page("<Buckets/>").unwrap(), BucketPage::default());
        assert!(matches!(page(""), Err(Error::BadReply(_))));
    }
}
