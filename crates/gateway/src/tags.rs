//! Tags as clients give them, in the header `x-amz-tagging` and in documents: parsed, judged by the rules of S3, and sorted
//! by their keys as records keep them.

use percent_encoding::percent_decode;
use protocol::limits::{BUCKET_TAGS_MAX, TAG_KEY_UNITS_MAX, TAG_VALUE_UNITS_MAX, TAGS_MAX};
use s3s::dto::Tag;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

/// Keys that begin with this, in whatever case, are not for clients.
const RESERVED: &str = "aws:";
/// What keys and values may hold besides letters, digits and spaces.
const MARKS: &str = "+-=._:/@";

/// Those of the header `x-amz-tagging`, which is encoded like a form; none without it.
pub fn of_header(header: Option<&str>) -> S3Result<Vec<(String, String)>> {
    let malformed = || {
        s3_error!(
            InvalidArgument,
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates."
        )
    };
    let decode = |text: &str| {
        // What is no escape is no encoding.
        let mut digits = text.split('%').skip(1).map(|rest| rest.as_bytes().get(..2));
        if !digits.all(|two| two.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))) {
            return Err(malformed());
        }
        let text = text.replace('+', " ");
        percent_decode(text.as_bytes()).decode_utf8().map(|text| text.into_owned()).map_err(|_| malformed())
    };
    let mut tags = Vec::new();
    for pair in header.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        tags.push((decode(key)?, decode(value)?));
    }
    let tags = judged(tags, "Object", TAGS_MAX)?;
    if has_twins(&tags) { Err(malformed()) } else { Ok(tags) }
}

/// Those of an object, of a document.
pub fn of_document(tags: Vec<Tag>) -> S3Result<Vec<(String, String)>> {
    of_set(tags, "Object", TAGS_MAX)
}

/// Those of a bucket, of a document.
pub fn of_bucket(tags: Vec<Tag>) -> S3Result<Vec<(String, String)>> {
    of_set(tags, "Bucket", BUCKET_TAGS_MAX)
}

fn of_set(tags: Vec<Tag>, what: &str, most: usize) -> S3Result<Vec<(String, String)>> {
    let malformed = || s3_error!(MalformedXML, "The XML you provided was not well-formed or did not validate against our published schema");
    let tags: S3Result<Vec<_>> =
        tags.into_iter().map(|tag| Ok((tag.key.ok_or_else(malformed)?, tag.value.ok_or_else(malformed)?))).collect();
    let tags = judged(tags?, what, most)?;
    if has_twins(&tags) { Err(s3_error!(InvalidTag, "Cannot provide multiple Tags with the same key")) } else { Ok(tags) }
}

/// By themselves, and sorted.
fn judged(mut tags: Vec<(String, String)>, what: &str, most: usize) -> S3Result<Vec<(String, String)>> {
    if tags.len() > most {
        let mut error =
            S3Error::with_message(S3ErrorCode::Custom("BadRequest".into()), format!("{what} tags cannot be greater than {most}"));
        error.set_status_code(http::StatusCode::BAD_REQUEST);
        return Err(error);
    }
    for (key, value) in &tags {
        if key.is_empty() || !is_text(key, TAG_KEY_UNITS_MAX) {
            return Err(s3_error!(InvalidTag, "The TagKey you have provided is invalid"));
        }
        if !is_text(value, TAG_VALUE_UNITS_MAX) {
            return Err(s3_error!(InvalidTag, "The TagValue you have provided is invalid"));
        }
        if key.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED)) {
            return Err(s3_error!(InvalidTag, "System tags cannot be added/updated by requester"));
        }
    }
    tags.sort();
    Ok(tags)
}

fn has_twins(sorted: &[(String, String)]) -> bool {
    sorted.windows(2).any(|pair| pair[0].0 == pair[1].0)
}

/// Letters, digits, spaces and [`MARKS`], at most so many units of UTF-16.
fn is_text(text: &str, units_max: usize) -> bool {
    let allowed = |one: char| one.is_alphanumeric() || MARKS.contains(one) || (one.is_whitespace() && !one.is_control());
    text.encode_utf16().count() <= units_max && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn tag(key: &str, value: &str) -> Tag {
        Tag { key: Some(key.into()), value: Some(value.into()) }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn code<T>(result: S3Result<T>) -> String {
        result.err().map_or_else(|| "no error".into(), |error| error.code().as_str().to_string())
    }

    #[test]
    fn a_header_is_a_form() {
        assert_eq!(of_header(None).unwrap(), []);
        assert_eq!(of_header(Some("")).unwrap(), []);
        assert_eq!(of_header(Some("foo=bar&bar")).unwrap(), pairs(&[("bar", ""), ("foo", "bar")]));
        assert_eq!(of_header(Some("a+b=%C3%A9%2F&c%3D=d=e")).unwrap(), pairs(&[("a b", "é/"), ("c=", "d=e")]));
        for malformed in ["a=%", "a=%4", "a=%zz", "%ff=a", "a=1&a=2", "a=1&%61=1"] {
            assert_eq!(code(of_header(Some(malformed))), "InvalidArgument", "{malformed}");
        }
        assert_eq!(code(of_header(Some("=a"))), "InvalidTag");
    }

    #[test]
    fn the_limits_of_s3_hold_to_the_character() {
        let numbered = |count: usize| (0..count).map(|number| tag(&number.to_string(), "")).collect::<Vec<_>>();
        assert_eq!(of_document(numbered(10)).unwrap().len(), 10);
        assert_eq!(code(of_document(numbered(11))), "BadRequest");
        assert_eq!(of_bucket(numbered(50)).unwrap().len(), 50);
        assert_eq!(code(of_bucket(numbered(51))), "BadRequest");
        let one = |key: &str, value: &str| code(of_document(vec![tag(key, value)]));
        assert_eq!(one(&"é".repeat(128), &"ü".repeat(256)), "no error");
        assert_eq!(one(&"k".repeat(129), ""), "InvalidTag");
        assert_eq!(one("k", &"v".repeat(257)), "InvalidTag");
        // Two units of UTF-16 each.
        assert_eq!(one(&"𝔸".repeat(64), ""), "no error");
        assert_eq!(one(&"𝔸".repeat(65), ""), "InvalidTag");
        assert_eq!(one("", "v"), "InvalidTag");
        assert_eq!(one("aws:k", "v"), "InvalidTag");
        assert_eq!(one("AWS:k", "v"), "InvalidTag");
        assert_eq!(one("awsk", "aws:v"), "no error");
        assert_eq!(one("a b+-=._:/@ü9", ""), "no error");
        for strange in ["a\u{0}", "a\n", "a!", "a&", "a\u{1f600}"] {
            assert_eq!(one(strange, ""), "InvalidTag", "{strange:?}");
            assert_eq!(one("k", strange), "InvalidTag", "{strange:?}");
        }
    }

    #[test]
    fn a_document_says_everything_once() {
        assert_eq!(of_document(vec![tag("b", "2"), tag("a", "1")]).unwrap(), pairs(&[("a", "1"), ("b", "2")]));
        assert_eq!(code(of_document(vec![tag("a", "2"), tag("a", "1")])), "InvalidTag");
        assert_eq!(code(of_document(vec![Tag { key: None, value: Some("1".into()) }])), "MalformedXML");
        assert_eq!(code(of_document(vec![Tag { key: Some("a".into()), value: None }])), "MalformedXML");
        assert_eq!(of_document(vec![]).unwrap(), []);
    }

    quickcheck! {
        fn any_header_is_parsed_without_panic(text: String) -> bool {
            of_header(Some(&text)).map_or(true, |tags| tags.is_sorted() && !has_twins(&tags))
        }
    }
}
