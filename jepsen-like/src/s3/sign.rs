//! Signatures: SigV4 by header, over chunks and trailers, and in a presigned query; SigV2 in a presigned query and,
//! so that its refusal can be tested, in the header. Pure: the time is an argument.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
pub const STREAMING: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
pub const STREAMING_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
pub const STREAMING_UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

/// SHA-256 of nothing.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Query parameters that SigV2 signs, sorted.
const V2_SUBRESOURCES: [&str; 25] = [
    "acl",
    "cors",
    "delete",
    "lifecycle",
    "location",
    "logging",
    "notification",
    "partNumber",
    "policy",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// Who signs.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
}

impl Credentials {
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Credentials {
        Credentials { access_key: access_key.into(), secret_key: secret_key.into() }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).field("secret_key", &"..").finish()
    }
}

/// What is signed: a request as it goes over the wire, before its `authorization`.
pub struct Signable<'a> {
    pub method: &'a str,
    /// Percent-encoded, starting with a slash.
    pub path: &'a str,
    /// Decoded names and values.
    pub query: &'a [(String, String)],
    /// All headers that shall be signed, `host` among them.
    pub headers: &'a [(String, String)],
}

/// Key, date and scope of one SigV4 signature.
#[derive(Clone)]
pub struct Signer {
    key: [u8; 32],
    access_key: String,
    date: String,
    scope: String,
}

impl Signer {
    /// A signer for one request at `at_ms` milliseconds since 1970.
    pub fn new(credentials: &Credentials, region: &str, service: &str, at_ms: u64) -> Signer {
        let date = amz_date(at_ms);
        let day = &date[..8];
        let mut key = hmac_sha256(format!("AWS4{}", credentials.secret_key).as_bytes(), day.as_bytes());
        for part in [region, service, "aws4_request"] {
            key = hmac_sha256(&key, part.as_bytes());
        }
        let scope = format!("{day}/{region}/{service}/aws4_request");
        Signer { key, access_key: credentials.access_key.clone(), date, scope }
    }

    /// `x-amz-date`: like `20130524T000000Z`.
    pub fn date(&self) -> &str {
        &self.date
    }

    /// The `authorization` header, and the bare signature (the seed of chunk signatures).
    pub fn authorization(&self, request: &Signable<'_>, payload_hash: &str) -> (String, String) {
        let (canonical, signed) = canonical_request(request, payload_hash);
        let signature = self.sign("AWS4-HMAC-SHA256", &hex_sha256(canonical.as_bytes()));
        let header = format!("AWS4-HMAC-SHA256 Credential={}/{},SignedHeaders={signed},Signature={signature}", self.access_key, self.scope);
        (header, signature)
    }

    /// The query that makes `request` valid for `expires_s` seconds, its own parameters included, in order.
    pub fn presigned_query(&self, request: &Signable<'_>, expires_s: u64) -> Vec<(String, String)> {
        let signed = canonical_headers(request.headers).1;
        let mut query = request.query.to_vec();
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{}/{}", self.access_key, self.scope)),
            ("X-Amz-Date", self.date.clone()),
            ("X-Amz-Expires", expires_s.to_string()),
            ("X-Amz-SignedHeaders", signed),
        ] {
            query.push((name.to_owned(), value));
        }
        let with_query = Signable { method: request.method, path: request.path, query: &query, headers: request.headers };
        let (canonical, _) = canonical_request(&with_query, UNSIGNED);
        let signature = self.sign("AWS4-HMAC-SHA256", &hex_sha256(canonical.as_bytes()));
        query.push(("X-Amz-Signature".to_owned(), signature));
        query
    }

    /// Signature of a chunk that follows the one signed `previous`.
    pub fn chunk(&self, previous: &str, data: &[u8]) -> String {
        self.sign("AWS4-HMAC-SHA256-PAYLOAD", &format!("{previous}\n{EMPTY_SHA256}\n{}", hex_sha256(data)))
    }

    /// Signature of the trailing headers: `lines` is `name:value\n` of each.
    pub fn trailer(&self, previous: &str, lines: &str) -> String {
        self.sign("AWS4-HMAC-SHA256-TRAILER", &format!("{previous}\n{}", hex_sha256(lines.as_bytes())))
    }

    fn sign(&self, algorithm: &str, rest: &str) -> String {
        let text = format!("{algorithm}\n{}\n{}\n{rest}", self.date, self.scope);
        hex::encode(hmac_sha256(&self.key, text.as_bytes()))
    }
}

/// The SigV2 query parameters that make `request` valid until `expires_at_s` (seconds since 1970), without its own.
pub fn presigned_v2_query(credentials: &Credentials, request: &Signable<'_>, expires_at_s: u64) -> Vec<(String, String)> {
    let signature = v2_signature(credentials, request, &expires_at_s.to_string());
    vec![
        ("AWSAccessKeyId".to_owned(), credentials.access_key.clone()),
        ("Expires".to_owned(), expires_at_s.to_string()),
        ("Signature".to_owned(), signature),
    ]
}

/// The SigV2 `authorization` header; `date` is the value of the `date` header.
pub fn authorization_v2(credentials: &Credentials, request: &Signable<'_>, date: &str) -> String {
    format!("AWS {}:{}", credentials.access_key, v2_signature(credentials, request, date))
}

fn v2_signature(credentials: &Credentials, request: &Signable<'_>, date_or_expiry: &str) -> String {
    let header = |name: &str| request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim());
    let mut text = format!("{}\n{}\n{}\n{date_or_expiry}\n", request.method, header("content-md5"), header("content-type"));
    let (lines, _) = canonical_headers(request.headers);
    for line in lines.lines().filter(|line| line.starts_with("x-amz-")) {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(request.path);
    let mut separator = '?';
    for name in V2_SUBRESOURCES {
        for (_, value) in request.query.iter().filter(|(n, _)| n == name) {
            text.push(separator);
            separator = '&';
            text.push_str(name);
            if !value.is_empty() {
                text.push('=');
                text.push_str(value);
            }
        }
    }
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(credentials.secret_key.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    BASE64.encode(mac.finalize().into_bytes())
}

/// The canonical request and the list of its signed headers.
fn canonical_request(request: &Signable<'_>, payload_hash: &str) -> (String, String) {
    let (headers, signed) = canonical_headers(request.headers);
    let query = canonical_query(request.query);
    (format!("{}\n{}\n{query}\n{headers}\n{signed}\n{payload_hash}", request.method, request.path), signed)
}

/// `name:value\n` of each header, sorted, and the names joined by `;`.
fn canonical_headers(headers: &[(String, String)]) -> (String, String) {
    let mut sorted: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        sorted.push((name.to_ascii_lowercase(), value));
    }
    // Stable: values of one name keep their order, as S3 wants them joined.
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut lines = String::new();
    let mut names: Vec<&str> = Vec::new();
    for (name, value) in &sorted {
        if names.last() == Some(&name.as_str()) {
            lines.pop();
            lines.push(',');
            lines.push_str(value);
        } else {
            lines.push_str(name);
            lines.push(':');
            lines.push_str(value);
            names.push(name);
        }
        lines.push('\n');
    }
    let names = names.join(";");
    (lines, names)
}

/// Encoded and sorted, as it is signed. Any server reads it, so it is sent in this form too.
pub fn canonical_query(query: &[(String, String)]) -> String {
    let mut pairs: Vec<(String, String)> = query.iter().map(|(name, value)| (encode(name), encode(value))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

const ENCODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const ENCODED_BUT_SLASH: AsciiSet = ENCODED.remove(b'/');

/// Percent-encode all but unreserved characters.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, &ENCODED).to_string()
}

/// Percent-encode a key for a path: slashes stay.
pub fn encode_path(text: &str) -> String {
    utf8_percent_encode(text, &ENCODED_BUT_SLASH).to_string()
}

/// `20130524T000000Z` for milliseconds since 1970.
pub fn amz_date(at_ms: u64) -> String {
    let at = civil(at_ms);
    format!("{:04}{:02}{:02}T{:02}{:02}{:02}Z", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute(), at.second())
}

/// `Tue, 27 Mar 2007 19:36:42 +0000`, as SigV2 signs it.
pub fn rfc2822_date(at_ms: u64) -> String {
    civil(at_ms).format(&time::format_description::well_known::Rfc2822).expect("a date of four-digit years formats")
}

fn civil(at_ms: u64) -> time::OffsetDateTime {
    let seconds = i64::try_from(at_ms / 1000).expect("milliseconds of this era");
    time::OffsetDateTime::from_unix_timestamp(seconds).expect("a date before the year 9999")
}

/// Lower-case hex of SHA-256.
pub fn hex_sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// Test vectors that Amazon published in the S3 documentation.
#[cfg(test)]
mod tests {
    use super::*;

    const AT_MS: u64 = 1_369_353_600_000; // 2013-05-24T00:00:00Z

    fn credentials() -> Credentials {
        Credentials::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    }

    fn signer() -> Signer {
        Signer::new(&credentials(), "us-east-1", "s3", AT_MS)
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn signature(method: &str, path: &str, query: &[(&str, &str)], headers: &[(&str, &str)], hash: &str) -> String {
        let (query, headers) = (pairs(query), pairs(headers));
        signer().authorization(&Signable { method, path, query: &query, headers: &headers }, hash).1
    }

    #[test]
    fn dates() {
        assert_eq!(amz_date(AT_MS), "20130524T000000Z");
        assert_eq!(rfc2822_date(1_175_024_202_000), "Tue, 27 Mar 2007 19:36:42 +0000");
    }

    #[test]
    fn documented_get_object_with_range() {
        let headers = [
            ("Host", "examplebucket.s3.amazonaws.com"),
            ("Range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY_SHA256),
            ("x-amz-date", "20130524T000000Z"),
        ];
        assert_eq!(
            signature("GET", "/test.txt", &[], &headers, EMPTY_SHA256),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }

    #[test]
    fn documented_list_objects_with_query() {
        let headers =
            [("Host", "examplebucket.s3.amazonaws.com"), ("x-amz-content-sha256", EMPTY_SHA256), ("x-amz-date", "20130524T000000Z")];
        assert_eq!(
            signature("GET", "/", &[("prefix", "J"), ("max-keys", "2")], &headers, EMPTY_SHA256),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn documented_presigned_query() {
        let headers = pairs(&[("host", "examplebucket.s3.amazonaws.com")]);
        let query = signer().presigned_query(&Signable { method: "GET", path: "/test.txt", query: &[], headers: &headers }, 86400);
        assert_eq!(
            query.last(),
            Some(&("X-Amz-Signature".to_owned(), "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404".to_owned()))
        );
    }

    #[test]
    fn documented_signed_chunks() {
        let headers = [
            ("host", "s3.amazonaws.com"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", STREAMING),
            ("content-encoding", "aws-chunked"),
            ("x-amz-decoded-content-length", "66560"),
            ("content-length", "66824"),
        ];
        let seed = signature("PUT", "/examplebucket/chunkObject.txt", &[], &headers, STREAMING);
        assert_eq!(seed, "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9");
        let signer = signer();
        let first = signer.chunk(&seed, &[b'a'; 65536]);
        assert_eq!(first, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648");
        let second = signer.chunk(&first, &[b'a'; 1024]);
        assert_eq!(second, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497");
        let last = signer.chunk(&second, b"");
        assert_eq!(last, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9");
    }

    #[test]
    fn documented_signed_trailer() {
        let headers = [
            ("host", "s3.amazonaws.com"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", STREAMING_TRAILER),
            ("content-encoding", "aws-chunked"),
            ("x-amz-decoded-content-length", "66560"),
            ("x-amz-trailer", "x-amz-checksum-crc32c"),
        ];
        let seed = signature("PUT", "/examplebucket/chunkObject.txt", &[], &headers, STREAMING_TRAILER);
        assert_eq!(seed, "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e");
        let signer = signer();
        let first = signer.chunk(&seed, &[b'a'; 65536]);
        assert_eq!(first, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2");
        let second = signer.chunk(&first, &[b'a'; 1024]);
        assert_eq!(second, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7");
        let last = signer.chunk(&second, b"");
        assert_eq!(last, "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992");
        assert_eq!(
            signer.trailer(&last, "x-amz-checksum-crc32c:sOO8/Q==\n"),
            "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
        );
        assert_eq!(crate::s3::Checksum::Crc32c.of(&[b'a'; 66560]), "sOO8/Q==");
    }

    #[test]
    fn documented_sigv2_header_and_query() {
        let headers = pairs(&[("Host", "johnsmith.s3.amazonaws.com"), ("Date", "Tue, 27 Mar 2007 19:36:42 +0000")]);
        let request = Signable { method: "GET", path: "/johnsmith/photos/puppy.jpg", query: &[], headers: &headers };
        assert_eq!(
            authorization_v2(&credentials(), &request, "Tue, 27 Mar 2007 19:36:42 +0000"),
            "AWS AKIAIOSFODNN7EXAMPLE:bWq2s1WEIj+Ydj0vQ697zp+IXMU="
        );
        let request = Signable { method: "GET", path: "/johnsmith/photos/puppy.jpg", query: &[], headers: &[] };
        let query = presigned_v2_query(&credentials(), &request, 1_175_139_620);
        assert_eq!(query[2], ("Signature".to_owned(), "NpgCjnDzrM+WFzoENXmpNDUsSn8=".to_owned()));
    }

    #[test]
    fn keys_are_encoded_as_s3_does() {
        assert_eq!(encode_path("a b/ü+~-._(1)"), "a%20b/%C3%BC%2B~-._%281%29");
        assert_eq!(encode("a/b"), "a%2Fb");
    }
}
