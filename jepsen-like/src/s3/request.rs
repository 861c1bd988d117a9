//! [`Request`]: one S3 request, well-formed unless its [`Tamper`] says otherwise.

use std::time::Duration;

use super::body::{Chunking, Manner, Outgoing, Source};
use super::checksum::Checksum;
use super::sign::{self, Credentials, Signable, Signer};

/// How the payload is covered by the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// SHA-256 of all of it, in the header.
    Signed,
    /// `UNSIGNED-PAYLOAD`.
    Unsigned,
    /// aws-chunked, each chunk signed.
    SignedChunks { chunk_bytes: usize },
    /// aws-chunked, each chunk signed, with a signed trailing checksum.
    SignedChunksTrailer { chunk_bytes: usize, checksum: Checksum },
    /// aws-chunked, unsigned, with a trailing checksum.
    UnsignedTrailer { chunk_bytes: usize, checksum: Checksum },
}

/// How the request proves who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// SigV4 in the `authorization` header.
    Header,
    /// SigV4 in the query, valid for so many seconds.
    Query { expires_s: u64 },
    /// SigV2 in the query, valid until so many seconds after now.
    QueryV2 { expires_s: u64 },
    /// SigV2 in the header.
    HeaderV2,
    /// Not at all.
    Anonymous,
}

/// What a faulty or hostile caller gets wrong. The default changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Tamper {
    /// Sign for this time (milliseconds since 1970) instead of now.
    pub at_ms: Option<u64>,
    /// Sign for this region or service.
    pub region: Option<String>,
    pub service: Option<String>,
    /// Spoil the signature of the request.
    pub signature: bool,
    /// Spoil the signature of this chunk, counted from 0.
    pub chunk_signature: Option<u64>,
    /// Claim this `x-amz-content-sha256`.
    pub payload_hash: Option<String>,
    /// Claim this `content-length`, or with `None` inside, none at all (transfer-encoding chunked).
    pub content_length: Option<Option<u64>>,
    /// Claim this `x-amz-decoded-content-length`.
    pub decoded_length: Option<u64>,
    /// Send this value in the checksum trailer.
    pub trailer_value: Option<String>,
    /// Announce the trailer, but do not send it.
    pub omit_trailer: bool,
    /// End the aws-chunked body at the border of a chunk, with a `content-length` that agrees.
    pub omit_last_chunk: bool,
    /// Headers that are added after signing.
    pub unsigned_headers: Vec<(String, String)>,
    /// Query text that is appended after signing, like `&acl`.
    pub unsigned_query: String,
    /// Break the connection after so many bytes of the body.
    pub abort_after: Option<u64>,
    /// Send at most so many bytes at once, with a pause before the next.
    pub pace: Option<(usize, Duration)>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Any token, not only those that HTTP knows.
    pub method: String,
    /// Percent-encoded, from the slash on.
    pub path: String,
    /// Decoded names and values.
    pub query: Vec<(String, String)>,
    /// Signed with the rest.
    pub headers: Vec<(String, String)>,
    pub source: Source,
    pub payload: Payload,
    pub auth: Auth,
    pub tamper: Tamper,
    /// Longest wait for the head of the reply, from the moment of sending, body included; and then for each of the
    /// reply's pieces. The client's own default if `None`.
    pub timeout: Option<Duration>,
}

impl Request {
    /// A signed request without a body for the service itself.
    pub fn new(method: &str, path: impl Into<String>) -> Request {
        Request {
            method: method.to_owned(),
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            source: Source::Empty,
            payload: Payload::Signed,
            auth: Auth::Header,
            tamper: Tamper::default(),
            timeout: None,
        }
    }

    /// For a bucket.
    pub fn bucket(method: &str, bucket: &str) -> Request {
        Request::new(method, format!("/{}", sign::encode(bucket)))
    }

    /// For an object.
    pub fn object(method: &str, bucket: &str, key: &str) -> Request {
        Request::new(method, format!("/{}/{}", sign::encode(bucket), sign::encode_path(key)))
    }

    pub fn query(mut self, name: &str, value: impl Into<String>) -> Request {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Request {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn source(mut self, source: impl Into<Source>) -> Request {
        self.source = source.into();
        self
    }

    pub fn payload(mut self, payload: Payload) -> Request {
        self.payload = payload;
        self
    }

    pub fn auth(mut self, auth: Auth) -> Request {
        self.auth = auth;
        self
    }

    pub fn tamper(mut self, tamper: Tamper) -> Request {
        self.tamper = tamper;
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Request {
        self.timeout = Some(timeout);
        self
    }
}

/// A request ready to be sent: signed, framed.
pub(super) struct Prepared {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Outgoing,
}

/// Sign and frame `request`. `now_ms` is the caller's clock.
pub(super) fn prepare(request: &Request, credentials: &Credentials, region: &str, host: &str, now_ms: u64) -> Prepared {
    let tamper = &request.tamper;
    let at_ms = tamper.at_ms.unwrap_or(now_ms);
    let region = tamper.region.as_deref().unwrap_or(region);
    let service = tamper.service.as_deref().unwrap_or("s3");
    let signer = Signer::new(credentials, region, service, at_ms);
    let length = request.source.length();

    let mut headers = vec![("host".to_owned(), host.to_owned())];
    headers.extend(request.headers.iter().cloned());
    let mut chunking = chunking(request);
    if let Some(chunking) = &chunking {
        if !has(&headers, "content-encoding") {
            headers.push(("content-encoding".to_owned(), "aws-chunked".to_owned()));
        }
        headers.push(("x-amz-decoded-content-length".to_owned(), tamper.decoded_length.unwrap_or(length).to_string()));
        if let Some(checksum) = chunking.trailer {
            headers.push(("x-amz-trailer".to_owned(), checksum.header().to_owned()));
        }
    }

    let mut query = request.query.clone();
    match &request.auth {
        Auth::Header => {
            let hash = tamper.payload_hash.clone().unwrap_or_else(|| payload_hash(request));
            headers.push(("x-amz-content-sha256".to_owned(), hash.clone()));
            headers.push(("x-amz-date".to_owned(), signer.date().to_owned()));
            // The seed signature does not depend on content-length, which is left unsigned as most clients do.
            let signable = Signable { method: &request.method, path: &request.path, query: &query, headers: &headers };
            let (authorization, seed) = signer.authorization(&signable, &hash);
            headers.push(("authorization".to_owned(), spoil_if(tamper.signature, authorization)));
            if let Some(chunking) = &mut chunking
                && matches!(request.payload, Payload::SignedChunks { .. } | Payload::SignedChunksTrailer { .. })
            {
                chunking.signer = Some((signer, seed));
            }
        }
        Auth::Query { expires_s } => {
            let signable = Signable { method: &request.method, path: &request.path, query: &query, headers: &headers };
            query = signer.presigned_query(&signable, *expires_s);
            spoil_last(tamper.signature, &mut query);
        }
        Auth::QueryV2 { expires_s } => {
            let signable = Signable { method: &request.method, path: &request.path, query: &query, headers: &headers };
            query.extend(sign::presigned_v2_query(credentials, &signable, at_ms / 1000 + expires_s));
            spoil_last(tamper.signature, &mut query);
        }
        Auth::HeaderV2 => {
            let date = sign::rfc2822_date(at_ms);
            headers.push(("date".to_owned(), date.clone()));
            let signable = Signable { method: &request.method, path: &request.path, query: &query, headers: &headers };
            let authorization = sign::authorization_v2(credentials, &signable, &date);
            headers.push(("authorization".to_owned(), spoil_if(tamper.signature, authorization)));
        }
        Auth::Anonymous => {}
    }

    let wire_bytes = chunking.as_ref().map_or(length, |chunking| chunking.wire_bytes(length));
    match tamper.content_length {
        Some(Some(claimed)) => headers.push(("content-length".to_owned(), claimed.to_string())),
        Some(None) => {}
        None if wire_bytes > 0 || matches!(request.method.as_str(), "PUT" | "POST") => {
            headers.push(("content-length".to_owned(), wire_bytes.to_string()));
        }
        None => {}
    }
    headers.extend(tamper.unsigned_headers.iter().cloned());
    let mut target = request.path.clone();
    let text = sign::canonical_query(&query);
    if !text.is_empty() || !tamper.unsigned_query.is_empty() {
        target = format!("{target}?{text}{}", tamper.unsigned_query);
    }
    let manner = Manner { abort_after: tamper.abort_after, pace: tamper.pace };
    Prepared { method: request.method.clone(), target, headers, body: Outgoing::new(request.source.clone(), chunking, manner) }
}

/// Framing of the body, without its signer.
fn chunking(request: &Request) -> Option<Chunking> {
    let (chunk_bytes, trailer) = match request.payload {
        Payload::Signed | Payload::Unsigned => return None,
        Payload::SignedChunks { chunk_bytes } => (chunk_bytes, None),
        Payload::SignedChunksTrailer { chunk_bytes, checksum } | Payload::UnsignedTrailer { chunk_bytes, checksum } => {
            (chunk_bytes, Some(checksum))
        }
    };
    assert!(chunk_bytes > 0, "a chunk holds at least one byte");
    Some(Chunking {
        chunk_bytes,
        signer: None,
        trailer,
        spoil_chunk: request.tamper.chunk_signature,
        trailer_value: request.tamper.trailer_value.clone(),
        omit_trailer: request.tamper.omit_trailer,
        omit_last_chunk: request.tamper.omit_last_chunk,
    })
}

fn payload_hash(request: &Request) -> String {
    use sha2::Digest;
    match request.payload {
        Payload::Signed => {
            let mut sum = sha2::Sha256::new();
            request.source.walk(|piece| sum.update(piece));
            hex::encode(sum.finalize())
        }
        Payload::Unsigned => sign::UNSIGNED.to_owned(),
        Payload::SignedChunks { .. } => sign::STREAMING.to_owned(),
        Payload::SignedChunksTrailer { .. } => sign::STREAMING_TRAILER.to_owned(),
        Payload::UnsignedTrailer { .. } => sign::STREAMING_UNSIGNED_TRAILER.to_owned(),
    }
}

fn has(headers: &[(String, String)], name: &str) -> bool {
    headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
}

/// Change the last character of a signature.
fn spoil_if(spoil: bool, mut text: String) -> String {
    if spoil {
        let last = text.pop().expect("a signature is not empty");
        // A base64 signature ends in '=', where the letter before it must change for the bytes to differ.
        if last == '=' {
            let inner = text.pop().expect("base64 of 20 bytes has 28 characters");
            text.push(if inner == 'A' { 'Q' } else { 'A' });
            text.push('=');
        } else {
            text.push(if last == '0' { '1' } else { '0' });
        }
    }
    text
}

fn spoil_last(spoil: bool, query: &mut [(String, String)]) {
    let last = query.last_mut().expect("a presigned query ends with its signature");
    last.1 = spoil_if(spoil, std::mem::take(&mut last.1));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(request: &Request) -> Prepared {
        prepare(request, &Credentials::new("AK", "SK"), "us-east-1", "127.0.0.1:9000", 1_369_353_600_000)
    }

    fn value<'a>(prepared: &'a Prepared, name: &str) -> Option<&'a str> {
        prepared.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_put_has_the_headers_that_s3_asks_for() {
        let put = prepared(&Request::object("PUT", "b", "a b/ü").source("hello"));
        assert_eq!(put.target, "/b/a%20b/%C3%BC");
        assert_eq!(value(&put, "content-length"), Some("5"));
        assert_eq!(value(&put, "x-amz-content-sha256"), Some(sign::hex_sha256(b"hello").as_str()));
        assert!(value(&put, "authorization").unwrap().contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date,"));
        let get = prepared(&Request::object("GET", "b", "k"));
        assert_eq!(value(&get, "content-length"), None);
    }

    #[test]
    fn tampering_changes_what_it_names_and_nothing_else() {
        let plain = Request::object("PUT", "b", "k").source("hello");
        let spoilt = prepared(&plain.clone().tamper(Tamper { signature: true, ..Tamper::default() }));
        let good = prepared(&plain);
        assert_ne!(value(&spoilt, "authorization"), value(&good, "authorization"));
        assert_eq!(spoilt.headers.len(), good.headers.len());
        let lying = prepared(&plain.tamper(Tamper { content_length: Some(Some(9)), ..Tamper::default() }));
        assert_eq!(value(&lying, "content-length"), Some("9"));
        let v2 = Request::object("GET", "b", "k").auth(Auth::QueryV2 { expires_s: 60 });
        let spoilt = prepared(&v2.clone().tamper(Tamper { signature: true, ..Tamper::default() }));
        assert_ne!(spoilt.target, prepared(&v2).target);
    }
}
