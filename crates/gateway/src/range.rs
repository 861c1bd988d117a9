//! Which bytes of an object a read asks for. Pure.

use s3s::dto::Range;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

/// The bytes of an object of `bytes` that `range` names. A range that names none is 416 with the object's length.
pub fn resolve(range: Range, bytes: u64) -> S3Result<std::ops::Range<u64>> {
    let (first, end) = match range {
        Range::Int { first, last } => (first, last.map_or(bytes, |last| last.saturating_add(1).min(bytes))),
        Range::Suffix { length } => (bytes.saturating_sub(length), bytes),
    };
    if first < end { Ok(first..end) } else { Err(not_satisfiable(bytes)) }
}

/// `Content-Range` of a part of an object of `bytes`.
pub fn content_range(range: &std::ops::Range<u64>, bytes: u64) -> String {
    // An empty part can be named by its number alone; HTTP has no notation for it, and S3 shows it so.
    format!("bytes {}-{}/{bytes}", range.start, range.end.saturating_sub(1).max(range.start))
}

/// `x-amz-copy-source-range`: `bytes=first-last`, both there and within the source.
pub fn of_copy_source(text: &str, bytes: u64) -> S3Result<std::ops::Range<u64>> {
    let malformed = || {
        s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
        )
    };
    match Range::parse(text.trim()).map_err(|_| malformed())? {
        Range::Int { first, last: Some(last) } if last < bytes => Ok(first..last + 1),
        Range::Int { last: Some(_), .. } => {
            Err(s3_error!(InvalidArgument, "Range specified is not valid for source object of size: {bytes}"))
        }
        Range::Int { last: None, .. } | Range::Suffix { .. } => Err(malformed()),
    }
}

/// 416 with `Content-Range: bytes */length`.
fn not_satisfiable(bytes: u64) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::InvalidRange, "The requested range is not satisfiable");
    // The headers given here replace those that s3s would set.
    let headers = [
        (http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/xml")),
        (http::header::CONTENT_RANGE, http::HeaderValue::try_from(format!("bytes */{bytes}")).expect("digits are fit for a header")),
    ];
    error.set_headers(headers.into_iter().collect());
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn resolved(text: &str, bytes: u64) -> Option<std::ops::Range<u64>> {
        resolve(Range::parse(text).unwrap(), bytes).ok()
    }

    #[test]
    fn ranges_name_what_rfc_9110_says() {
        assert_eq!(resolved("bytes=0-0", 10), Some(0..1));
        assert_eq!(resolved("bytes=2-5", 10), Some(2..6));
        assert_eq!(resolved("bytes=2-", 10), Some(2..10));
        assert_eq!(resolved("bytes=2-99", 10), Some(2..10));
        assert_eq!(resolved("bytes=-3", 10), Some(7..10));
        assert_eq!(resolved("bytes=-99", 10), Some(0..10));
        for (text, bytes) in [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0), ("bytes=0-0", 0)] {
            assert_eq!(resolved(text, bytes), None, "{text} of {bytes}");
        }
    }

    #[test]
    fn a_range_that_names_nothing_tells_the_length() {
        let error = resolve(Range::Int { first: 9, last: None }, 9).unwrap_err();
        assert_eq!(error.code(), &S3ErrorCode::InvalidRange);
        assert_eq!(error.headers().unwrap()["content-range"], "bytes */9");
    }

    #[test]
    fn a_copy_range_must_lie_within_its_source() {
        assert_eq!(of_copy_source("bytes=0-9", 10).unwrap(), 0..10);
        for text in ["bytes=0-10", "bytes=5-", "bytes=-5", "0-5", "bytes=5-2", ""] {
            assert!(of_copy_source(text, 10).is_err(), "{text}");
        }
    }

    quickcheck! {
        fn a_range_is_never_empty_nor_beyond_the_end(first: u64, last: Option<u64>, suffix: bool, bytes: u64) -> bool {
            let range = if suffix { Range::Suffix { length: first } } else { Range::Int { first, last: last.map(|last| last.max(first)) } };
            resolve(range, bytes).is_ok_and(|range| range.start < range.end && range.end <= bytes)
                || bytes == 0 || first >= bytes || (suffix && first == 0)
        }
    }
}
