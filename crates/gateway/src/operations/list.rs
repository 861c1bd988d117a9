//! Listings: ListObjects, ListObjectsV2.
//!
//! Keys come in the order of their UTF-8 bytes; a page ends where the partitions can prove its end. Where they have looked for
//! long and found nothing but what is hidden, it ends early, be it without an entry, and the next one goes on from there. Tokens
//! hold a key and what it means, nothing else.

use super::{OWNER, Operations, etag, signed, soon, timestamp};
use crate::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use metadata::{BucketRef, ListPage, ListQuery, Listed};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::limits::{KEY_BYTES_MAX, LIST_KEYS_MAX};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

/// First byte of a continuation token: go on behind this entry,
const BEHIND_ENTRY: u8 = 1;
/// or behind this key, up to which there is no entry.
const BEHIND_KEY: u8 = 2;
/// What `encoding-type=url` leaves as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The token that continues after the entry `key`.
pub(super) fn token(key: &str) -> String {
    token_of(BEHIND_ENTRY, key)
}

/// The entry that a token continues after.
pub(super) fn token_key(token: Option<&str>) -> S3Result<Option<String>> {
    token.map(|token| decoded(token).filter(|(kind, _)| *kind == BEHIND_ENTRY).map(|(_, key)| key).ok_or_else(no_token)).transpose()
}

fn token_of(kind: u8, key: &str) -> String {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(key.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decoded(token: &str) -> Option<(u8, String)> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (kind, key) = bytes.split_first()?;
    let key = String::from_utf8(key.to_vec()).ok().filter(|key| key.len() <= KEY_BYTES_MAX)?;
    Some((*kind, key))
}

fn no_token() -> S3Error {
    s3_error!(InvalidArgument, "The continuation token provided is incorrect")
}

/// Where a listing goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Next {
    /// Behind the entry that was shown last, or that the client names; the rest of a common prefix that it lies in is left out.
    Entry(String),
    /// Behind this key, as no key up to it gives another entry. It may lie in a common prefix that the keys behind it give.
    Key(String),
}

impl Next {
    fn token(&self) -> String {
        match self {
            Next::Entry(entry) => token_of(BEHIND_ENTRY, entry),
            Next::Key(key) => token_of(BEHIND_KEY, key),
        }
    }

    fn of_token(token: &str) -> S3Result<Next> {
        match decoded(token) {
            Some((BEHIND_ENTRY, entry)) => Ok(Next::Entry(entry)),
            Some((BEHIND_KEY, key)) => Ok(Next::Key(key)),
            _ => Err(no_token()),
        }
    }

    /// As a marker of version 1 of the listing. A marker is an entry; what is none, because it lies in a common prefix, is
    /// written as a text that is too long for an entry: itself, dots, and its length in the last [`DIGITS`] bytes.
    fn marker(&self, prefix: &str, delimiter: Option<&str>) -> String {
        match self {
            Next::Key(key) if is_rolled_up(key, prefix, delimiter) => {
                let dots = KEY_BYTES_MAX + 1 - key.len();
                format!("{key}{}{:0DIGITS$}", ".".repeat(dots), key.len())
            }
            Next::Entry(name) | Next::Key(name) => name.clone(),
        }
    }

    fn of_marker(marker: String) -> Next {
        match key_of_marker(&marker) {
            Some(key) => Next::Key(key.to_string()),
            None => Next::Entry(marker),
        }
    }
}

/// Digits of the length of a key in a marker.
const DIGITS: usize = 4;

/// The key of a marker that is no entry.
fn key_of_marker(marker: &str) -> Option<&str> {
    if marker.len() != KEY_BYTES_MAX + 1 + DIGITS {
        return None;
    }
    let (padded, length) = marker.split_at_checked(KEY_BYTES_MAX + 1)?;
    let (key, dots) = padded.split_at_checked(length.parse().ok()?)?;
    (!dots.is_empty() && dots.bytes().all(|byte| byte == b'.')).then_some(key)
}

/// Whether a key of the listing is shown as a common prefix.
fn is_rolled_up(key: &str, prefix: &str, delimiter: Option<&str>) -> bool {
    delimiter.is_some_and(|delimiter| key.strip_prefix(prefix).is_some_and(|rest| rest.contains(delimiter)))
}

/// Most entries of one page: what was asked for, at most a thousand.
pub(super) fn page_size(asked: Option<i32>, name: &str) -> S3Result<u32> {
    let most = u32::try_from(LIST_KEYS_MAX).unwrap_or(u32::MAX);
    let asked = asked.map(u32::try_from).transpose();
    let asked = asked.map_err(|_| s3_error!(InvalidArgument, "Argument {name} must be an integer between 0 and 2147483647"))?;
    Ok(asked.unwrap_or(most).min(most))
}

/// Whether names are to be percent-encoded.
pub(super) fn escaping(encoding: Option<&EncodingType>) -> S3Result<bool> {
    match encoding.map(EncodingType::as_str) {
        None => Ok(false),
        Some(EncodingType::URL) => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
    }
}

/// A name as the answer shows it.
pub(super) fn shown(name: &str, escape: bool) -> String {
    if escape { utf8_percent_encode(name, ESCAPED).to_string() } else { name.to_string() }
}

/// A prefix that no key can have lists nothing.
pub(super) fn possible_prefix(prefix: &str) -> bool {
    prefix.len() <= KEY_BYTES_MAX
}

/// A page as both versions of the listing show it.
struct Page {
    contents: Vec<Object>,
    prefixes: Vec<CommonPrefix>,
    /// Where to go on, if it is truncated.
    next: Option<Next>,
}

impl Operations {
    pub(super) async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = req.input;
        let escape = escaping(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys, "max-keys")?;
        let prefix = input.prefix.unwrap_or_default();
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let marker = input.marker.unwrap_or_default();
        let begin = Some(marker.clone()).filter(|marker| !marker.is_empty()).map(Next::of_marker);
        let query = query_of(&prefix, delimiter.as_deref(), begin, max);
        let page = self.page(&input.bucket, query, escape, true).await?;
        // Without a delimiter the last key, if there is one, is the marker, and S3 does not repeat it.
        let told = delimiter.is_some() || page.contents.is_empty();
        let next = page.next.as_ref().filter(|_| told).map(|next| next.marker(&prefix, delimiter.as_deref()));
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(shown(&prefix, escape)),
            marker: Some(shown(&marker, escape)),
            max_keys: Some(i32::try_from(max).unwrap_or(i32::MAX)),
            is_truncated: Some(page.next.is_some()),
            contents: Some(page.contents),
            common_prefixes: Some(page.prefixes),
            delimiter: delimiter.map(|delimiter| shown(&delimiter, escape)),
            next_marker: next.map(|next| shown(&next, escape)),
            encoding_type: input.encoding_type,
            ..ListObjectsOutput::default()
        }))
    }

    pub(super) async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let escape = escaping(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys, "max-keys")?;
        let prefix = input.prefix.unwrap_or_default();
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        // A token outweighs where the listing once started.
        let begin = match input.continuation_token.as_deref() {
            Some(token) => Some(Next::of_token(token)?),
            None => input.start_after.clone().filter(|start| !start.is_empty()).map(Next::Entry),
        };
        let query = query_of(&prefix, delimiter.as_deref(), begin, max);
        let page = self.page(&input.bucket, query, escape, input.fetch_owner == Some(true)).await?;
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(shown(&prefix, escape)),
            max_keys: Some(i32::try_from(max).unwrap_or(i32::MAX)),
            key_count: Some(i32::try_from(page.contents.len() + page.prefixes.len()).unwrap_or(i32::MAX)),
            continuation_token: input.continuation_token,
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_ref().map(Next::token),
            contents: Some(page.contents),
            common_prefixes: Some(page.prefixes),
            delimiter: delimiter.map(|delimiter| shown(&delimiter, escape)),
            encoding_type: input.encoding_type,
            start_after: input.start_after.map(|start| shown(&start, escape)),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn page(&self, bucket: &str, query: ListQuery, escape: bool, owner: bool) -> S3Result<Page> {
        let deadline = soon();
        let metadata = &self.cluster.metadata;
        // Even a page of nothing must prove that the bucket exists.
        let nothing = query.max == 0 || !possible_prefix(&query.prefix);
        let asked = if nothing { ListQuery { max: 1, ..ListQuery::default() } } else { query };
        let list = |bucket: BucketRef| {
            let asked = asked.clone();
            async move { metadata.list(&bucket, asked, deadline).await }
        };
        let (_, page) = self.in_bucket(bucket, deadline, list).await?;
        Ok(show(if nothing { ListPage::default() } else { page }, escape, owner))
    }
}

fn query_of(prefix: &str, delimiter: Option<&str>, begin: Option<Next>, max: u32) -> ListQuery {
    let (after, passed) = match begin {
        Some(Next::Entry(entry)) => (Some(entry), None),
        Some(Next::Key(key)) => (None, Some(key)),
        None => (None, None),
    };
    ListQuery { prefix: prefix.to_string(), delimiter: delimiter.map(str::to_string), after, max, passed }
}

fn show(page: ListPage, escape: bool, owner: bool) -> Page {
    let last = page.entries.last().map(|entry| match entry {
        Listed::Object { key, .. } => key.clone(),
        Listed::Prefix(prefix) => prefix.clone(),
    });
    let next = last.map(Next::Entry).or(page.passed.map(Next::Key)).filter(|_| page.truncated);
    let mut contents = Vec::new();
    let mut prefixes = Vec::new();
    for entry in page.entries {
        match entry {
            Listed::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(shown(&prefix, escape)) }),
            Listed::Object { key, bytes, etag: tag, modified_ms, checksum } => contents.push(Object {
                key: Some(shown(&key, escape)),
                size: Some(signed(bytes)),
                e_tag: Some(etag(&tag)),
                last_modified: Some(timestamp(modified_ms)),
                checksum_algorithm: checksum.map(|(kind, _)| vec![ChecksumAlgorithm::from_static(digest::name(kind))]),
                checksum_type: checksum.map(|(_, composite)| digest::checksum_type(composite)),
                owner: owner.then(|| Owner { id: Some(OWNER.into()), display_name: Some(OWNER.into()) }),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                ..Object::default()
            }),
        }
    }
    Page { contents, prefixes, next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn a_page_has_at_most_a_thousand_entries_and_no_less_than_none() {
        assert_eq!(page_size(None, "max-keys").unwrap(), 1000);
        assert_eq!(page_size(Some(0), "max-keys").unwrap(), 0);
        assert_eq!(page_size(Some(1_000_000), "max-keys").unwrap(), 1000);
        assert!(page_size(Some(-1), "max-keys").is_err());
    }

    #[test]
    fn names_are_escaped_as_clients_unescape_them() {
        assert_eq!(shown("a/b c+d&é", true), "a/b%20c%2Bd%26%C3%A9");
        assert_eq!(shown("a/b c+d", false), "a/b c+d");
    }

    #[test]
    fn a_token_that_we_did_not_make_is_refused() {
        for text in ["", "!", "AA", "not a token"] {
            assert!(token_key(Some(text)).is_err(), "{text}");
            assert!(Next::of_token(text).is_err(), "{text}");
        }
        assert!(token_key(Some(&Next::Key("k".into()).token())).is_err(), "of objects, not of buckets");
    }

    #[test]
    fn a_page_without_entries_says_where_to_go_on() {
        let page = |passed: Option<&str>| {
            let page = ListPage { truncated: passed.is_some(), passed: passed.map(str::to_string), ..ListPage::default() };
            show(page, false, false).next
        };
        assert_eq!(page(None), None);
        let next = page(Some("deep/0700")).unwrap();
        assert_eq!(next.marker("", None), "deep/0700", "without a delimiter any key is a marker");
        assert_eq!(next.marker("deep/", Some("/")), "deep/0700");
        let query = |begin: Next| query_of("", Some("/"), Some(begin), 10);
        // A marker within a common prefix cuts off the rest of it; this one must not.
        for begin in [Next::of_marker(next.marker("", Some("/"))), Next::of_token(&next.token()).unwrap()] {
            assert_eq!((query(begin.clone()).after, query(begin).passed.as_deref()), (None, Some("deep/0700")));
        }
        assert_eq!(query(Next::of_marker("deep/0700".into())).after.as_deref(), Some("deep/0700"));
    }

    #[test]
    fn keys_and_prefixes_are_shown_apart_and_the_last_of_both_is_known() {
        let object = Listed::Object { key: "a b".into(), bytes: 3, etag: "e".into(), modified_ms: 0, checksum: None };
        let page = ListPage { entries: vec![object, Listed::Prefix("b/".into())], truncated: true, passed: None, read: 2 };
        let page = show(page, true, false);
        assert_eq!(page.contents[0].key.as_deref(), Some("a%20b"));
        assert!(page.contents[0].owner.is_none());
        assert_eq!(page.prefixes[0].prefix.as_deref(), Some("b/"));
        assert_eq!(page.next, Some(Next::Entry("b/".into())));
    }

    quickcheck! {
        fn tokens_come_back(key: String) -> bool {
            key.len() > KEY_BYTES_MAX || token_key(Some(&token(&key))).unwrap() == Some(key)
        }

        fn any_token_or_marker_is_decoded_without_panic(text: String, length: u16) -> bool {
            let _ = (token_key(Some(&text)), Next::of_token(&text));
            let long = format!("{}{length:04}", text.repeat(KEY_BYTES_MAX + 1).chars().take(KEY_BYTES_MAX + 1).collect::<String>());
            let _ = (Next::of_marker(text), Next::of_marker(long));
            true
        }

        fn where_a_page_ended_comes_back(key: String, rolled: bool) -> bool {
            let key: String = key.chars().take(100).collect();
            let next = if rolled { Next::Key(format!("{key}/")) } else { Next::Entry(key) };
            Next::of_token(&next.token()).unwrap() == next && Next::of_marker(next.marker("", Some("/"))) == next
        }

        fn escaped_names_come_back(name: String) -> bool {
            percent_encoding::percent_decode_str(&shown(&name, true)).decode_utf8().unwrap() == name
        }
    }
}
