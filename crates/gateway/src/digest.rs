//! Digests of object bodies: the MD5 of the ETag and S3's five checksums, computed while bytes stream by, verified against what
//! the client sent, stored, and shown again.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use http::HeaderMap;
use md5::{Digest as _, Md5};
use protocol::{Checksum, ChecksumKind};
use s3s::dto::{ChecksumAlgorithm, ChecksumType};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use sha1::Sha1;
use sha2::Sha256;

/// All kinds, in the order in which S3 shows them.
const KINDS: [ChecksumKind; 5] =
    [ChecksumKind::Crc32, ChecksumKind::Crc32C, ChecksumKind::Crc64Nvme, ChecksumKind::Sha1, ChecksumKind::Sha256];

/// The kind as S3 spells it in `x-amz-checksum-algorithm`.
pub fn name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::Crc32 => ChecksumAlgorithm::CRC32,
        ChecksumKind::Crc32C => ChecksumAlgorithm::CRC32C,
        ChecksumKind::Crc64Nvme => ChecksumAlgorithm::CRC64NVME,
        ChecksumKind::Sha1 => ChecksumAlgorithm::SHA1,
        ChecksumKind::Sha256 => ChecksumAlgorithm::SHA256,
    }
}

/// The kind that S3 spells so.
pub fn kind(algorithm: &ChecksumAlgorithm) -> S3Result<ChecksumKind> {
    let named = KINDS.into_iter().find(|kind| name(*kind) == algorithm.as_str());
    named.ok_or_else(|| s3_error!(InvalidRequest, "The algorithm type you specified in x-amz-checksum- header is invalid."))
}

/// Header and trailer of the kind.
fn header(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::Crc32 => "x-amz-checksum-crc32",
        ChecksumKind::Crc32C => "x-amz-checksum-crc32c",
        ChecksumKind::Crc64Nvme => "x-amz-checksum-crc64nvme",
        ChecksumKind::Sha1 => "x-amz-checksum-sha1",
        ChecksumKind::Sha256 => "x-amz-checksum-sha256",
    }
}

/// Bytes of a value of the kind.
fn value_bytes(kind: ChecksumKind) -> usize {
    match kind {
        ChecksumKind::Crc32 | ChecksumKind::Crc32C => 4,
        ChecksumKind::Crc64Nvme => 8,
        ChecksumKind::Sha1 => 20,
        ChecksumKind::Sha256 => 32,
    }
}

fn crc(kind: ChecksumKind) -> Option<CrcAlgorithm> {
    match kind {
        ChecksumKind::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumKind::Crc32C => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumKind::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumKind::Sha1 | ChecksumKind::Sha256 => None,
    }
}

/// Whether the checksum of a multipart object of this kind can be of the full object.
pub fn can_be_of_full_object(kind: ChecksumKind) -> bool {
    crc(kind).is_some()
}

/// Whether it can be of the parts' checksums.
pub fn can_be_composite(kind: ChecksumKind) -> bool {
    kind != ChecksumKind::Crc64Nvme
}

/// A value as a header or XML element carries it.
fn parse(kind: ChecksumKind, text: &str) -> S3Result<Vec<u8>> {
    match STANDARD.decode(text.trim()) {
        Ok(value) if value.len() == value_bytes(kind) => Ok(value),
        _ => Err(s3_error!(InvalidRequest, "Value for {} header is invalid.", header(kind))),
    }
}

/// One checksum under way.
enum Hasher {
    Crc(crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    fn new(kind: ChecksumKind) -> Hasher {
        match (crc(kind), kind) {
            (Some(algorithm), _) => Hasher::Crc(crc_fast::Digest::new(algorithm)),
            (None, ChecksumKind::Sha1) => Hasher::Sha1(Sha1::new()),
            (None, _) => Hasher::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Crc(digest) => digest.update(bytes),
            Hasher::Sha1(digest) => digest.update(bytes),
            Hasher::Sha256(digest) => digest.update(bytes),
        }
    }

    fn finish(self, kind: ChecksumKind) -> Vec<u8> {
        match self {
            // CRCs are big endian; the narrow ones lie in the low bytes.
            Hasher::Crc(digest) => digest.finalize().to_be_bytes()[8 - value_bytes(kind)..].to_vec(),
            Hasher::Sha1(digest) => digest.finalize().to_vec(),
            Hasher::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

/// The checksum of `bytes`.
fn of(kind: ChecksumKind, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::new(kind);
    hasher.update(bytes);
    hasher.finish(kind)
}

/// What the client says that the body hashes to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expected {
    content_md5: Option<[u8; 16]>,
    /// The one kind to compute, and store.
    kind: Option<ChecksumKind>,
    /// Its value, if it came in a header.
    value: Option<Vec<u8>>,
    /// Its value must come in a trailer.
    trailer: bool,
}

impl Expected {
    /// From a request's `Content-MD5`, checksum headers and announced trailers. `algorithm` is what
    /// `x-amz-sdk-checksum-algorithm` names; `wanted` what an upload under way asks for.
    pub fn of_request(headers: &HeaderMap, algorithm: Option<&ChecksumAlgorithm>, wanted: Option<ChecksumKind>) -> S3Result<Expected> {
        let mut expected = Expected::default();
        if let Some(text) = headers.get("content-md5") {
            let md5 = text.to_str().ok().and_then(|text| STANDARD.decode(text.trim()).ok());
            let md5 = md5.and_then(|md5| <[u8; 16]>::try_from(md5).ok());
            expected.content_md5 = Some(md5.ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid."))?);
        }
        for kind in KINDS {
            if let Some(text) = headers.get(header(kind)) {
                let text = text.to_str().map_err(|_| s3_error!(InvalidRequest, "Value for {} header is invalid.", header(kind)))?;
                expected.set_kind(kind)?;
                expected.value = Some(parse(kind, text)?);
            }
        }
        for announced in headers.get_all("x-amz-trailer") {
            let announced = announced.to_str().map_err(|_| s3_error!(InvalidRequest, "The x-amz-trailer header is invalid."))?;
            for named in announced.split(',').map(|named| named.trim().to_ascii_lowercase()).filter(|named| !named.is_empty()) {
                let kind = KINDS.into_iter().find(|kind| header(*kind) == named);
                let kind =
                    kind.ok_or_else(|| s3_error!(InvalidRequest, "The value specified in the x-amz-trailer header is not supported"))?;
                expected.set_kind(kind)?;
                expected.trailer = true;
            }
        }
        if let Some(algorithm) = algorithm {
            let named = kind(algorithm)?;
            if expected.kind.is_some_and(|kind| kind != named) {
                return Err(s3_error!(InvalidRequest, "Value for x-amz-sdk-checksum-algorithm header is invalid."));
            }
            expected.kind = Some(named);
        }
        if let Some(wanted) = wanted {
            if let Some(sent) = expected.kind.filter(|sent| *sent != wanted) {
                let (wanted, sent) = (name(wanted).to_lowercase(), name(sent).to_lowercase());
                return Err(s3_error!(
                    InvalidRequest,
                    "Checksum Type mismatch occurred, expected checksum Type: {wanted}, actual checksum Type: {sent}"
                ));
            }
            expected.kind = Some(wanted);
        }
        Ok(expected)
    }

    /// Nothing is expected; the kind, if any, is computed.
    pub fn compute(kind: Option<ChecksumKind>) -> Expected {
        Expected { kind, ..Expected::default() }
    }

    fn set_kind(&mut self, kind: ChecksumKind) -> S3Result<()> {
        if self.kind.is_some_and(|other| other != kind) {
            let text = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
            return Err(s3_error!(InvalidRequest, "{text}"));
        }
        self.kind = Some(kind);
        Ok(())
    }
}

/// Digests of a body under way.
pub struct Digests {
    expected: Expected,
    md5: Md5,
    checksum: Option<Hasher>,
}

/// Digests of a whole body that agree with all that was expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digested {
    /// MD5 in hex.
    pub etag: String,
    /// Of the whole body.
    pub checksum: Option<Checksum>,
}

impl Digests {
    pub fn new(expected: Expected) -> Digests {
        let checksum = expected.kind.map(Hasher::new);
        Digests { expected, md5: Md5::new(), checksum }
    }

    /// The next bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        if let Some(checksum) = &mut self.checksum {
            checksum.update(bytes);
        }
    }

    /// The body has ended, `trailers` came after it: compare.
    pub fn finish(self, trailers: Option<&HeaderMap>) -> S3Result<Digested> {
        let md5: [u8; 16] = self.md5.finalize().into();
        if self.expected.content_md5.is_some_and(|expected| expected != md5) {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
        }
        let computed = match (self.checksum, self.expected.kind) {
            (Some(hasher), Some(kind)) => Some((kind, hasher.finish(kind))),
            _ => None,
        };
        let Some((kind, value)) = computed else {
            return Ok(Digested { etag: hex::encode(md5), checksum: None });
        };
        let trailer = trailers.and_then(|trailers| trailers.get(header(kind)));
        let trailer = match trailer {
            Some(text) => {
                let text =
                    text.to_str().map_err(|_| s3_error!(InvalidRequest, "Value for {} trailing header is invalid.", header(kind)))?;
                Some(parse(kind, text)?)
            }
            None if self.expected.trailer => {
                // The body ended, so it came whole, but without the promised proof.
                let mut error = S3Error::with_message(
                    S3ErrorCode::Custom("MalformedTrailerError".into()),
                    format!("The request announced the trailer {} and did not send it.", header(kind)),
                );
                error.set_status_code(http::StatusCode::BAD_REQUEST);
                return Err(error);
            }
            None => None,
        };
        for expected in [self.expected.value, trailer].into_iter().flatten() {
            if expected != value {
                return Err(bad_digest(kind));
            }
        }
        Ok(Digested { etag: hex::encode(md5), checksum: Some(Checksum { kind, value, composite: false }) })
    }
}

/// The value that the client sent is not the body's.
pub fn bad_digest(kind: ChecksumKind) -> S3Error {
    s3_error!(BadDigest, "The {} you specified did not match the calculated checksum.", name(kind))
}

/// The checksum of the parts' checksums.
pub fn composite<'a>(kind: ChecksumKind, parts: impl IntoIterator<Item = &'a [u8]>) -> Checksum {
    let joined: Vec<u8> = parts.into_iter().flatten().copied().collect();
    Checksum { kind, value: of(kind, &joined), composite: true }
}

/// The checksum of the full object from those of its parts, each with its length; none for SHA, which cannot be combined.
pub fn combined<'a>(kind: ChecksumKind, parts: impl IntoIterator<Item = (&'a [u8], u64)>) -> Option<Checksum> {
    let algorithm = crc(kind)?;
    let number = |value: &[u8]| value.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let mut whole = number(&of(kind, b""));
    for (value, bytes) in parts {
        whole = crc_fast::checksum_combine(algorithm, whole, number(value), bytes);
    }
    Some(Checksum { kind, value: whole.to_be_bytes()[8 - value_bytes(kind)..].to_vec(), composite: false })
}

/// As S3 shows a checksum; a composite one names the number of its parts.
pub fn show(checksum: Option<&Checksum>, parts: usize) -> s3s::dto::Checksum {
    let mut shown = s3s::dto::Checksum::default();
    let Some(checksum) = checksum else { return shown };
    let text = STANDARD.encode(&checksum.value);
    let text = if checksum.composite { format!("{text}-{parts}") } else { text };
    match checksum.kind {
        ChecksumKind::Crc32 => shown.checksum_crc32 = Some(text),
        ChecksumKind::Crc32C => shown.checksum_crc32c = Some(text),
        ChecksumKind::Crc64Nvme => shown.checksum_crc64nvme = Some(text),
        ChecksumKind::Sha1 => shown.checksum_sha1 = Some(text),
        ChecksumKind::Sha256 => shown.checksum_sha256 = Some(text),
    }
    shown.checksum_type = Some(checksum_type(checksum.composite));
    shown
}

/// `COMPOSITE` or `FULL_OBJECT`.
pub fn checksum_type(composite: bool) -> ChecksumType {
    ChecksumType::from_static(if composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT })
}

/// The checksum that a part of CompleteMultipartUpload, or the request itself, names: of at most one kind. A `-N` suffix, as
/// composite checksums are shown, must name `parts` if that is given.
pub fn named(values: [(ChecksumKind, Option<&str>); 5], parts: Option<usize>) -> S3Result<Option<Checksum>> {
    let mut found = None;
    for (kind, text) in values {
        let Some(text) = text else { continue };
        if found.is_some() {
            return Err(s3_error!(InvalidRequest, "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."));
        }
        let (text, suffix) = match text.split_once('-') {
            Some((text, suffix)) => (text, Some(suffix)),
            None => (text, None),
        };
        if suffix.is_some_and(|suffix| parts.is_none_or(|parts| suffix != parts.to_string())) {
            return Err(s3_error!(InvalidRequest, "Value for {} header is invalid.", header(kind)));
        }
        found = Some(Checksum { kind, value: parse(kind, text)?, composite: suffix.is_some() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn digested(expected: Expected, body: &[u8], trailers: Option<&HeaderMap>) -> S3Result<Digested> {
        let mut digests = Digests::new(expected);
        digests.update(body);
        digests.finish(trailers)
    }

    #[test]
    fn the_published_check_values_come_out() {
        let check = b"123456789";
        assert_eq!(of(ChecksumKind::Crc32, check), 0xCBF43926_u32.to_be_bytes());
        assert_eq!(of(ChecksumKind::Crc32C, check), 0xE3069283_u32.to_be_bytes());
        assert_eq!(of(ChecksumKind::Crc64Nvme, check), 0xAE8B14860A799888_u64.to_be_bytes());
        assert_eq!(hex::encode(of(ChecksumKind::Sha1, b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(digested(Expected::default(), b"", None).unwrap().etag, "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn a_right_value_in_header_or_trailer_passes_and_a_wrong_one_does_not() {
        for kind in KINDS {
            let right = STANDARD.encode(of(kind, b"body"));
            let wrong = STANDARD.encode(of(kind, b"other"));
            for (value, passes) in [(&right, true), (&wrong, false)] {
                let expected = Expected::of_request(&headers(&[(header(kind), value)]), None, None).unwrap();
                assert_eq!(digested(expected, b"body", None).is_ok(), passes, "{kind:?} in a header");
                let expected = Expected::of_request(&headers(&[("x-amz-trailer", header(kind))]), None, None).unwrap();
                let trailers = headers(&[(header(kind), value)]);
                let result = digested(expected, b"body", Some(&trailers));
                assert_eq!(result.is_ok(), passes, "{kind:?} in a trailer");
                if let Err(error) = result {
                    assert_eq!(error.code(), &S3ErrorCode::BadDigest);
                }
            }
        }
    }

    #[test]
    fn an_announced_trailer_that_does_not_come_is_refused() {
        let expected = Expected::of_request(&headers(&[("x-amz-trailer", "x-amz-checksum-crc32")]), None, None).unwrap();
        assert!(digested(expected.clone(), b"body", None).is_err());
        assert!(digested(expected, b"body", Some(&HeaderMap::new())).is_err());
    }

    #[test]
    fn content_md5_is_verified() {
        let right = STANDARD.encode(Md5::digest(b"body"));
        let expected = Expected::of_request(&headers(&[("content-md5", &right)]), None, None).unwrap();
        assert!(digested(expected.clone(), b"body", None).is_ok());
        assert_eq!(digested(expected, b"bodz", None).unwrap_err().code(), &S3ErrorCode::BadDigest);
        let error = Expected::of_request(&headers(&[("content-md5", "short")]), None, None).unwrap_err();
        assert_eq!(error.code(), &S3ErrorCode::InvalidDigest);
    }

    #[test]
    fn two_kinds_at_once_are_refused() {
        let two = headers(&[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")]);
        assert!(Expected::of_request(&two, None, None).is_err());
        let two = headers(&[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-trailer", "x-amz-checksum-sha1")]);
        assert!(Expected::of_request(&two, None, None).is_err());
        let one = headers(&[("x-amz-checksum-crc32", "AAAAAA==")]);
        assert!(Expected::of_request(&one, None, Some(ChecksumKind::Sha1)).is_err());
        let algorithm = ChecksumAlgorithm::from_static(ChecksumAlgorithm::SHA256);
        assert!(Expected::of_request(&one, Some(&algorithm), None).is_err());
    }

    #[test]
    fn values_of_a_wrong_length_are_refused() {
        for text in ["AAAA", "", "AAAAAAA=", "not base64"] {
            assert!(Expected::of_request(&headers(&[("x-amz-checksum-crc32", text)]), None, None).is_err(), "{text}");
        }
    }

    #[test]
    fn a_composite_names_its_parts() {
        let parts = [of(ChecksumKind::Sha256, b"a"), of(ChecksumKind::Sha256, b"b")];
        let checksum = composite(ChecksumKind::Sha256, parts.iter().map(Vec::as_slice));
        let shown = show(Some(&checksum), 2);
        let text: &'static str = shown.checksum_sha256.unwrap().leak();
        assert!(text.ends_with("=-2"), "{text}");
        let values = |text: &'static str| {
            [
                (ChecksumKind::Crc32, None),
                (ChecksumKind::Crc32C, None),
                (ChecksumKind::Crc64Nvme, None),
                (ChecksumKind::Sha1, None),
                (ChecksumKind::Sha256, Some(text)),
            ]
        };
        assert_eq!(named(values(text), Some(2)).unwrap().unwrap().value, checksum.value);
        assert!(named(values(text), Some(3)).is_err());
        assert!(named(values(text), None).is_err());
    }

    quickcheck! {
        fn crcs_of_parts_combine_to_that_of_the_whole(parts: Vec<Vec<u8>>) -> bool {
            let whole: Vec<u8> = parts.iter().flatten().copied().collect();
            [ChecksumKind::Crc32, ChecksumKind::Crc32C, ChecksumKind::Crc64Nvme].into_iter().all(|kind| {
                let sums: Vec<(Vec<u8>, u64)> = parts.iter().map(|part| (of(kind, part), part.len() as u64)).collect();
                let combined = combined(kind, sums.iter().map(|(sum, bytes)| (sum.as_slice(), *bytes))).unwrap();
                combined.value == of(kind, &whole)
            })
        }

        fn any_cut_of_the_body_gives_the_same_digests(body: Vec<u8>, cut: usize) -> bool {
            let cut = if body.is_empty() { 0 } else { cut % body.len() };
            KINDS.into_iter().all(|kind| {
                let mut digests = Digests::new(Expected::compute(Some(kind)));
                digests.update(&body[..cut]);
                digests.update(&body[cut..]);
                let whole = digested(Expected::compute(Some(kind)), &body, None).unwrap();
                digests.finish(None).unwrap() == whole && whole.checksum.unwrap().value == of(kind, &body)
            })
        }
    }
}
