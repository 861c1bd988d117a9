//! Callers that misbehave. Whatever they get wrong must be refused with the right code, or cut, and must change
//! nothing: its outcome is *not done*, so a trace of it anywhere is a violation. A refusal for the wrong reason, or none
//! at all, is a wrong reply.

use std::time::Duration;

use bytes::Bytes;

use super::answer::{ask, failed, head, wrong};
use super::objects::{put_request, written};
use super::step::Rudeness;
use super::values::Values;
use crate::history::{Outcome, Reply, Value};
use crate::s3::{Auth, Checksum, Client, Error, Payload, REPLY_BYTES_MAX, Request, Step, Tamper, raw_exchange};

/// More than a gateway takes of headers in all.
const HUGE_HEADER_BYTES: usize = 40 << 10;
const CHUNK_BYTES: usize = 8 << 10;
const CHECKSUM: Checksum = Checksum::Crc32c;
/// How slow a slow caller is: in pieces of this size ...
const SLOW_PIECE_BYTES: usize = 1 << 10;
/// ... with about this time for all of them.
const SLOW_TIME: Duration = Duration::from_secs(4);
/// Bytes that are no HTTP are answered or cut within this time, or given up.
const QUIET: Duration = Duration::from_secs(2);

/// The PUT of `value` by a caller that is rude in this `manner`.
pub(super) async fn put(client: &Client, values: &Values, bucket: &str, key: &str, value: Value, manner: Rudeness) -> Reply {
    let etag = values.add(value);
    let request = request(bucket, key, value, manner);
    let answer = ask(client, &request).await;
    if manner == Rudeness::Slow {
        return answer.told(|headers, _| written(headers, &etag));
    }
    let outcome = match &answer.result {
        Ok(_) => wrong(format!("{manner:?}: accepted")),
        Err(error) => refused(manner, error),
    };
    Reply { outcome, revision: None }
}

/// What a refusal of rudeness tells.
fn refused(manner: Rudeness, error: &Error) -> Outcome {
    let (status, codes) = expected(manner);
    match error {
        // The server is in trouble of its own, which proves that it did not take this for a success.
        Error::Refused { status: 500.., code, .. } => Outcome::NotDone(format!("rude, {code}")),
        Error::Refused { status: got, code, .. } if *got == status && codes.contains(&code.as_str()) => {
            Outcome::NotDone(format!("rude, {code}"))
        }
        Error::Refused { status: got, code, .. } => wrong(format!("{manner:?}: refused as {got} {code}, not as {status} {codes:?}")),
        Error::BadReply(reason) => wrong(format!("{manner:?}: {reason}")),
        // No reply, or none that could be read before the connection went: what was asked is refused all the same.
        Error::Unsent(_) | Error::Unknown(_) | Error::WrongBytes(_) => Outcome::NotDone("rude, cut".to_owned()),
    }
}

/// Status and codes with which S3 refuses it.
fn expected(manner: Rudeness) -> (u16, &'static [&'static str]) {
    match manner {
        // Never whole, so there is nobody to read a refusal; but one that is read must say this.
        Rudeness::Aborted | Rudeness::Truncated | Rudeness::WrongDecodedLength => (400, &["IncompleteBody"]),
        Rudeness::NoTrailer => (400, &["InvalidRequest"]),
        Rudeness::WrongTrailer => (400, &["BadDigest"]),
        Rudeness::WrongHash => (400, &["XAmzContentSHA256Mismatch"]),
        Rudeness::MuchMetadata => (400, &["MetadataTooLarge"]),
        Rudeness::LongKey => (400, &["KeyTooLongError"]),
        Rudeness::HugeLength => (400, &["EntityTooLarge"]),
        Rudeness::HugeHeaders => (400, &["RequestHeaderSectionTooLarge"]),
        Rudeness::WrongChunkSignature | Rudeness::WrongSignature => (403, &["SignatureDoesNotMatch"]),
        Rudeness::Unsigned | Rudeness::UnsignedHeader => (403, &["AccessDenied"]),
        Rudeness::Replayed => (403, &["RequestTimeTooSkewed"]),
        Rudeness::Slow | Rudeness::Garbage | Rudeness::HangUp => (400, &[]),
    }
}

fn request(bucket: &str, key: &str, value: Value, manner: Rudeness) -> Request {
    let good = put_request(bucket, key, value);
    let chunks = Payload::SignedChunks { chunk_bytes: CHUNK_BYTES };
    let trailer = Payload::UnsignedTrailer { chunk_bytes: CHUNK_BYTES, checksum: CHECKSUM };
    let tampered = |request: Request, tamper: Tamper| request.tamper(tamper);
    let plain = Tamper::default();
    match manner {
        Rudeness::Slow => {
            let pieces = value.bytes.div_ceil(SLOW_PIECE_BYTES as u64).max(1);
            let bytes = usize::try_from(value.bytes).unwrap_or(usize::MAX).clamp(1, SLOW_PIECE_BYTES);
            let pause = SLOW_TIME / u32::try_from(pieces).unwrap_or(u32::MAX);
            tampered(good.payload(Payload::Unsigned), Tamper { pace: Some((bytes, pause)), ..plain })
        }
        Rudeness::Aborted => tampered(good, Tamper { abort_after: Some(value.bytes / 2), ..plain }),
        Rudeness::Truncated => tampered(good.payload(chunks), Tamper { omit_last_chunk: true, ..plain }),
        Rudeness::NoTrailer => tampered(good.payload(trailer), Tamper { omit_trailer: true, ..plain }),
        Rudeness::WrongTrailer => tampered(good.payload(trailer), Tamper { trailer_value: Some(CHECKSUM.of(b"another body")), ..plain }),
        Rudeness::WrongChunkSignature => tampered(good.payload(chunks), Tamper { chunk_signature: Some(0), ..plain }),
        Rudeness::WrongHash => tampered(good.payload(Payload::Signed), Tamper { payload_hash: Some("5a".repeat(32)), ..plain }),
        Rudeness::WrongSignature => tampered(good.payload(Payload::Signed), Tamper { signature: true, ..plain }),
        Rudeness::Unsigned => good.payload(Payload::Signed).auth(Auth::Anonymous),
        Rudeness::Replayed => {
            let hour_ms = 3_600_000;
            tampered(good, Tamper { at_ms: Some(runtime::time::wall_ms().saturating_sub(hour_ms)), ..plain })
        }
        Rudeness::UnsignedHeader => {
            tampered(good, Tamper { unsigned_headers: vec![("x-amz-meta-added".to_owned(), "later".to_owned())], ..plain })
        }
        Rudeness::MuchMetadata => good.header("x-amz-meta-much", "m".repeat(3000)),
        Rudeness::HugeHeaders => good.header("cookie", "c".repeat(HUGE_HEADER_BYTES)),
        Rudeness::LongKey => {
            let long = Request::object("PUT", bucket, &format!("{key}{}", "k".repeat(1024)));
            Request { path: long.path, ..good }
        }
        Rudeness::HugeLength => {
            // Slowly, so that the refusal comes before the client notices that its body is shorter than it claims.
            let pace = Some((CHUNK_BYTES, Duration::from_millis(500)));
            tampered(good.payload(Payload::Unsigned), Tamper { content_length: Some(Some((5 << 30) + 1)), pace, ..plain })
        }
        Rudeness::WrongDecodedLength => tampered(good.payload(chunks), Tamper { decoded_length: Some(value.bytes - 1), ..plain }),
        Rudeness::Garbage | Rudeness::HangUp => unreachable!("{manner:?} is no PUT"),
    }
}

/// A GET whose reader hangs up after the head of the reply: it learns nothing.
pub(super) async fn hang_up(client: &Client, bucket: &str, key: &str) -> Reply {
    let (outcome, revision) = match head(client, &Request::object("GET", bucket, key)).await {
        Ok((reply, revision)) => {
            drop(reply);
            (Outcome::Unknown("rude, hung up".to_owned()), revision)
        }
        Err((error, revision)) => (failed(&error), revision),
    };
    Reply { outcome, revision }
}

/// Bytes that are no HTTP. They concern no key, so there is nothing to record; the others show whether they hurt.
pub(super) async fn garbage(client: &Client, value: Value) {
    let bytes = value.content().slice(0, value.bytes.min(CHUNK_BYTES as u64)).bytes();
    let head = Bytes::from_static(b"PUT /nowhere HTTP/1.1\r\ncontent-length: -1\r\n");
    let steps =
        if value.id.is_multiple_of(2) { vec![Step::Send(bytes)] } else { vec![Step::Send(head), Step::Send(bytes), Step::Shutdown] };
    // Whether it is answered or cut is the server's affair.
    let _ = raw_exchange(client.endpoint(), &steps, QUIET, REPLY_BYTES_MAX).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_refusal_is_accepted() {
        let refuse = |status, code: &str| Error::Refused { status, code: code.to_owned(), message: String::new() };
        let told = |manner, error: Error| matches!(refused(manner, &error), Outcome::NotDone(_));
        assert!(told(Rudeness::WrongSignature, refuse(403, "SignatureDoesNotMatch")));
        assert!(!told(Rudeness::WrongSignature, refuse(403, "AccessDenied")));
        assert!(!told(Rudeness::WrongSignature, refuse(400, "SignatureDoesNotMatch")));
        assert!(told(Rudeness::WrongSignature, refuse(503, "SlowDown")));
        assert!(told(Rudeness::Aborted, Error::Unknown("cut".to_owned())));
        assert!(!told(Rudeness::Aborted, Error::BadReply("x".to_owned())));
    }

    #[test]
    fn every_rude_put_is_another_request_than_the_good_one() {
        let value = Value { id: 7, bytes: 1000 };
        let good = format!("{:?}", put_request("b", "k", value));
        for manner in Rudeness::ALL {
            if !matches!(manner, Rudeness::Garbage | Rudeness::HangUp) {
                assert_ne!(format!("{:?}", request("b", "k", value, manner)), good, "{manner:?}");
            }
        }
    }
}
