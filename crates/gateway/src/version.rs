//! Version ids as clients see them: `null`, or 32 lower-case hex digits, the bucket's incarnation and the revision of the
//! write. They are opaque: an id that a bucket of the same name once gave names nothing in the next one.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use protocol::{BucketId, Revision, VersionId};
use s3s::{S3Result, s3_error};

const VERSION: HeaderName = HeaderName::from_static("x-amz-version-id");
const DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");

/// Where no revision is: they count from 1.
const NOWHERE: VersionId = VersionId::Numbered(Revision(0));

/// A version as a request names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    Null,
    Of(BucketId, Revision),
}

impl Named {
    /// The version in this incarnation of the bucket; of another one, a version that cannot be.
    pub fn within(self, bucket: BucketId) -> VersionId {
        match self {
            Named::Null => VersionId::Null,
            Named::Of(of, revision) if of == bucket => VersionId::Numbered(revision),
            Named::Of(..) => NOWHERE,
        }
    }
}

/// The id that a request gives, if it gives one.
pub fn named(text: Option<&str>) -> S3Result<Option<Named>> {
    let Some(text) = text else { return Ok(None) };
    if text == "null" {
        return Ok(Some(Named::Null));
    }
    let is_ours = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let number = |text: Option<&str>| text.and_then(|text| u64::from_str_radix(text, 16).ok());
    match (number(text.get(..16)), number(text.get(16..))) {
        (Some(bucket), Some(revision)) if is_ours => Ok(Some(Named::Of(BucketId(bucket), Revision(revision)))),
        _ => Err(s3_error!(InvalidArgument, "Invalid version id specified")),
    }
}

/// As clients are told it.
pub fn shown(bucket: BucketId, id: VersionId) -> String {
    match id {
        VersionId::Null => "null".into(),
        VersionId::Numbered(revision) => place(bucket, revision),
    }
}

/// The place of a version, be it the null version, as listings go on behind it.
pub fn place(bucket: BucketId, revision: Revision) -> String {
    format!("{:016x}{:016x}", bucket.0, revision.0)
}

/// What is said of a delete marker, and with `None` of a version that is told no id.
pub fn headers(marker: bool, id: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if marker {
        headers.insert(DELETE_MARKER, HeaderValue::from_static("true"));
    }
    if let Some(id) = id {
        headers.insert(VERSION, HeaderValue::try_from(id).expect("hex digits, or null"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn ids_look_like_this() {
        let bucket = BucketId(7);
        assert_eq!(shown(bucket, VersionId::Null), "null");
        assert_eq!(shown(bucket, VersionId::Numbered(Revision(300))), "0000000000000007000000000000012c");
        assert_eq!(named(Some("0000000000000007000000000000012c")).unwrap(), Some(Named::Of(bucket, Revision(300))));
        assert_eq!(named(Some("null")).unwrap(), Some(Named::Null));
        assert_eq!(named(None).unwrap(), None);
    }

    #[test]
    fn what_we_never_gave_is_refused() {
        for text in
            ["", "Null", "1", "0000000000000007000000000000012C", "+000000000000007000000000000012c", &"0".repeat(33), &"é".repeat(16)]
        {
            assert!(named(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_of_a_former_bucket_names_nothing() {
        assert_eq!(Named::Of(BucketId(7), Revision(3)).within(BucketId(7)), VersionId::Numbered(Revision(3)));
        assert_eq!(Named::Of(BucketId(6), Revision(3)).within(BucketId(7)), VersionId::Numbered(Revision(0)));
        assert_eq!(Named::Null.within(BucketId(7)), VersionId::Null);
    }

    quickcheck! {
        fn ids_come_back(bucket: u64, revision: u64) -> bool {
            let (bucket, revision) = (BucketId(bucket), Revision(revision));
            named(Some(&shown(bucket, VersionId::Numbered(revision)))).unwrap() == Some(Named::Of(bucket, revision))
        }

        fn any_text_is_parsed_without_panic(text: String) -> bool {
            let _ = named(Some(&text));
            true
        }
    }
}
