//! How the bytes of a request's body are framed, judged before a single one is asked for.

use http::{HeaderMap, HeaderName, header};
use protocol::limits::{PUT_BYTES_MAX, XML_BYTES_MAX};
use s3s::S3ErrorCode;

use super::operation::{ALGORITHMS, Content, Operation};
use super::refusal::Refusal;
use super::signing::Mechanism;

/// The body as announced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Framing {
    /// `length` bytes; hyper holds the client to it.
    Plain { length: u64 },
    /// aws-chunked: the chunks hold `length` bytes together.
    Chunked {
        length: u64,
        /// Each chunk carries a signature.
        signed: bool,
        /// The one checksum header that must follow the last chunk, if any.
        trailer: Option<String>,
    },
}

impl Framing {
    /// Bytes after decoding.
    pub fn length(&self) -> u64 {
        match self {
            Framing::Plain { length } | Framing::Chunked { length, .. } => *length,
        }
    }
}

/// Read the announcement in `headers`.
pub fn read_framing(headers: &HeaderMap, operation: Operation, content: Content, mechanism: Mechanism) -> Result<Framing, Refusal> {
    let content_length = read_length(headers, &header::CONTENT_LENGTH)?;
    let http_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    if http_chunked && content_length.is_some() {
        return Err(Refusal::new(S3ErrorCode::InvalidRequest, "The request has both Content-Length and Transfer-Encoding."));
    }
    let decoded_length = read_length(headers, &HeaderName::from_static("x-amz-decoded-content-length"))?;
    let payload = text(headers, "x-amz-content-sha256").unwrap_or_default();
    if mechanism == Mechanism::QueryV2 && !matches!(payload, "" | "UNSIGNED-PAYLOAD") {
        return Err(Refusal::header_not_implemented("x-amz-content-sha256"));
    }
    if payload.starts_with("STREAMING-") {
        if content == Content::Nothing {
            return Err(no_body(operation));
        }
        return read_chunked(headers, payload, content, mechanism, content_length, decoded_length);
    }

    if headers.contains_key("x-amz-trailer") {
        return Err(Refusal::header_not_implemented("x-amz-trailer"));
    }
    let length = match (content, content_length) {
        (Content::Nothing, None) => 0,
        (Content::Nothing, Some(0)) => 0,
        (Content::Nothing, Some(_)) => return Err(no_body(operation)),
        (Content::Xml, None) if !http_chunked => 0,
        (_, None) => return Err(missing_length("Content-Length")),
        (_, Some(length)) => length,
    };
    if decoded_length.is_some_and(|decoded| decoded != length) {
        return Err(Refusal::new(S3ErrorCode::InvalidRequest, "x-amz-decoded-content-length differs from Content-Length."));
    }
    check_size(length, content)?;
    check_promised_algorithm(headers, None)?;
    Ok(Framing::Plain { length })
}

fn read_chunked(
    headers: &HeaderMap,
    payload: &str,
    content: Content,
    mechanism: Mechanism,
    content_length: Option<u64>,
    decoded_length: Option<u64>,
) -> Result<Framing, Refusal> {
    if mechanism != Mechanism::HeaderV4 {
        return Err(Refusal::header_not_implemented("x-amz-content-sha256"));
    }
    let (signed, trailing) = match payload {
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => (true, false),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => (true, true),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => (false, true),
        _ => return Err(Refusal::header_not_implemented("x-amz-content-sha256")),
    };
    let length = decoded_length.ok_or_else(|| missing_length("x-amz-decoded-content-length"))?;
    check_size(length, content)?;
    if content_length.is_some_and(|raw| raw < length) {
        return Err(Refusal::new(S3ErrorCode::IncompleteBody, "Content-Length is less than x-amz-decoded-content-length."));
    }
    // A document's chunks cannot take more room than twice the document and some frames.
    if content == Content::Xml && content_length.is_some_and(|raw| raw > 2 * XML_BYTES_MAX as u64) {
        return Err(too_large(content));
    }
    let trailer = match (trailing, text(headers, "x-amz-trailer")) {
        (false, None) => None,
        (true, Some(name)) => Some(read_trailer(name)?),
        (true, None) => {
            return Err(Refusal::new(
                S3ErrorCode::InvalidRequest,
                "x-amz-content-sha256 announces a trailer but x-amz-trailer is missing.",
            ));
        }
        (false, Some(_)) => {
            return Err(Refusal::new(S3ErrorCode::InvalidRequest, "x-amz-trailer needs an x-amz-content-sha256 that ends in -TRAILER."));
        }
    };
    check_promised_algorithm(headers, trailer.as_deref())?;
    Ok(Framing::Chunked { length, signed, trailer })
}

/// One checksum of those that are built.
fn read_trailer(value: &str) -> Result<String, Refusal> {
    let name = value.trim().trim_end_matches(',').trim().to_ascii_lowercase();
    let known = ALGORITHMS.iter().any(|algorithm| name == checksum_header(algorithm));
    if !known {
        return Err(Refusal::header_not_implemented("x-amz-trailer").detail("Trailer", name));
    }
    Ok(name)
}

/// `x-amz-sdk-checksum-algorithm` promises a checksum of that algorithm, in a header or a trailer.
fn check_promised_algorithm(headers: &HeaderMap, trailer: Option<&str>) -> Result<(), Refusal> {
    let Some(algorithm) = text(headers, "x-amz-sdk-checksum-algorithm") else { return Ok(()) };
    let name = checksum_header(algorithm);
    if headers.contains_key(name.as_str()) || trailer == Some(name.as_str()) {
        return Ok(());
    }
    Err(Refusal::new(
        S3ErrorCode::InvalidRequest,
        "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.",
    ))
}

/// The header of an algorithm: `x-amz-checksum-crc32`.
pub fn checksum_header(algorithm: &str) -> String {
    format!("x-amz-checksum-{}", algorithm.to_ascii_lowercase())
}

fn check_size(length: u64, content: Content) -> Result<(), Refusal> {
    let most = match content {
        Content::Nothing => 0,
        Content::Xml => XML_BYTES_MAX as u64,
        Content::Bytes => PUT_BYTES_MAX,
    };
    if length > most {
        Err(too_large(content).detail("ProposedSize", length.to_string()).detail("MaxSizeAllowed", most.to_string()))
    } else {
        Ok(())
    }
}

fn too_large(content: Content) -> Refusal {
    match content {
        Content::Xml => Refusal::new(S3ErrorCode::MaxMessageLengthExceeded, "Your request was too large."),
        _ => Refusal::new(S3ErrorCode::EntityTooLarge, "Your proposed upload exceeds the maximum allowed size. Use a multipart upload."),
    }
}

fn no_body(operation: Operation) -> Refusal {
    Refusal::new(S3ErrorCode::InvalidRequest, format!("{} takes no body.", operation.name()))
}

fn missing_length(name: &str) -> Refusal {
    Refusal::new(S3ErrorCode::MissingContentLength, format!("You must provide the {name} HTTP header."))
}

fn read_length(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|text| text.parse().ok()) {
        Some(length) => Ok(Some(length)),
        None => Err(Refusal::new(S3ErrorCode::InvalidRequest, format!("The header {name} is not a length."))),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn framing(content: Content, mechanism: Mechanism, pairs: &[(&'static str, &'static str)]) -> Result<Framing, S3ErrorCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        read_framing(&headers, Operation::PutObject, content, mechanism).map_err(|refusal| refusal.code)
    }

    const SIGNED: (&str, &str) = ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    const SIGNED_TRAILER: (&str, &str) = ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER");
    const UNSIGNED_TRAILER: (&str, &str) = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    const CRC: (&str, &str) = ("x-amz-trailer", "x-amz-checksum-crc32");
    const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");

    #[test]
    fn announcements_are_judged_before_the_body() {
        use Content::*;
        use S3ErrorCode::*;
        let chunked = |length, signed, trailer: Option<&str>| Framing::Chunked { length, signed, trailer: trailer.map(str::to_owned) };
        let (length, decoded) = (("content-length", "100"), ("x-amz-decoded-content-length", "5"));
        for (content, pairs, expected) in [
            (Bytes, vec![], Err(MissingContentLength)),
            (Bytes, vec![CHUNKED], Err(MissingContentLength)),
            (Bytes, vec![length], Ok(Framing::Plain { length: 100 })),
            (Bytes, vec![("content-length", "5368709120")], Ok(Framing::Plain { length: 5 << 30 })),
            (Bytes, vec![("content-length", "5368709121")], Err(EntityTooLarge)),
            (Bytes, vec![("content-length", "+5")], Err(InvalidRequest)),
            (Bytes, vec![length, CHUNKED], Err(InvalidRequest)),
            (Bytes, vec![length, decoded], Err(InvalidRequest)),
            (Bytes, vec![length, CRC], Err(NotImplemented)),
            (Bytes, vec![SIGNED, length], Err(MissingContentLength)),
            (Bytes, vec![SIGNED, length, decoded], Ok(chunked(5, true, None))),
            (Bytes, vec![SIGNED, CHUNKED, decoded], Ok(chunked(5, true, None))),
            (Bytes, vec![SIGNED, ("content-length", "4"), decoded], Err(IncompleteBody)),
            (Bytes, vec![SIGNED, length, decoded, CRC], Err(InvalidRequest)),
            (Bytes, vec![SIGNED, CHUNKED, ("x-amz-decoded-content-length", "5368709121")], Err(EntityTooLarge)),
            (Bytes, vec![SIGNED_TRAILER, length, decoded], Err(InvalidRequest)),
            (Bytes, vec![SIGNED_TRAILER, length, decoded, CRC], Ok(chunked(5, true, Some("x-amz-checksum-crc32")))),
            (Bytes, vec![UNSIGNED_TRAILER, length, decoded, CRC], Ok(chunked(5, false, Some("x-amz-checksum-crc32")))),
            (Bytes, vec![UNSIGNED_TRAILER, length, decoded, ("x-amz-trailer", "x-amz-checksum-sha512")], Err(NotImplemented)),
            (Bytes, vec![("x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), length, decoded], Err(NotImplemented)),
            (Bytes, vec![length, ("x-amz-sdk-checksum-algorithm", "CRC32")], Err(InvalidRequest)),
            (
                Bytes,
                vec![length, ("x-amz-sdk-checksum-algorithm", "CRC32"), ("x-amz-checksum-crc32", "AAAAAA==")],
                Ok(Framing::Plain { length: 100 }),
            ),
            (Xml, vec![], Ok(Framing::Plain { length: 0 })),
            (Xml, vec![CHUNKED], Err(MissingContentLength)),
            (Xml, vec![("content-length", "2097152")], Ok(Framing::Plain { length: 2 << 20 })),
            (Xml, vec![("content-length", "2097153")], Err(MaxMessageLengthExceeded)),
            (Xml, vec![SIGNED, ("content-length", "9000000"), decoded], Err(MaxMessageLengthExceeded)),
            (Nothing, vec![], Ok(Framing::Plain { length: 0 })),
            (Nothing, vec![("content-length", "0")], Ok(Framing::Plain { length: 0 })),
            (Nothing, vec![length], Err(InvalidRequest)),
            (Nothing, vec![SIGNED, length, decoded], Err(InvalidRequest)),
        ] {
            assert_eq!(framing(content, Mechanism::HeaderV4, &pairs), expected, "{content:?} {pairs:?}");
        }
        assert_eq!(framing(Bytes, Mechanism::QueryV4, &[SIGNED, length, decoded]), Err(NotImplemented));
        assert_eq!(framing(Bytes, Mechanism::QueryV2, &[("x-amz-content-sha256", "00"), length]), Err(NotImplemented));
    }
}
