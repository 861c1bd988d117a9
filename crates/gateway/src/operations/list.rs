//! Listings: ListObjects, ListObjectsV2.
//!
//! Keys come in the order of their UTF-8 bytes; a page ends where the partitions can prove its end. Tokens hold a key, nothing else.

use super::{OWNER, Operations, etag, signed, soon, timestamp};
use crate::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use metadata::{BucketRef, ListPage, ListQuery, Listed};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::limits::{KEY_BYTES_MAX, LIST_KEYS_MAX};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// First byte of a continuation token: its format.
const TOKEN_VERSION: u8 = 1;
/// What `encoding-type=url` leaves as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The token that continues after `key`.
pub(super) fn token(key: &str) -> String {
    let mut bytes = vec![TOKEN_VERSION];
    bytes.extend_from_slice(key.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The key that a token continues after.
pub(super) fn token_key(token: Option<&str>) -> S3Result<Option<String>> {
    let Some(token) = token else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let key = bytes.and_then(|bytes| bytes.strip_prefix(&[TOKEN_VERSION]).map(<[u8]>::to_vec)).and_then(|key| String::from_utf8(key).ok());
    let key = key.filter(|key| key.len() <= KEY_BYTES_MAX);
    key.map(Some).ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
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
    truncated: bool,
    /// The last key or prefix.
    last: Option<String>,
}

impl Operations {
    pub(super) async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = req.input;
        let escape = escaping(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys, "max-keys")?;
        let prefix = input.prefix.unwrap_or_default();
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let marker = input.marker.unwrap_or_default();
        let after = Some(marker.clone()).filter(|marker| !marker.is_empty());
        let query = ListQuery { prefix: prefix.clone(), delimiter: delimiter.clone(), after, max, passed: None };
        let page = self.page(&input.bucket, query, escape, true).await?;
        // Without a delimiter the last key is the marker, and S3 does not repeat it.
        let next = page.last.filter(|_| page.truncated && delimiter.is_some());
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(shown(&prefix, escape)),
            marker: Some(shown(&marker, escape)),
            max_keys: Some(i32::try_from(max).unwrap_or(i32::MAX)),
            is_truncated: Some(page.truncated),
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
        let after = match token_key(input.continuation_token.as_deref())? {
            Some(key) => Some(key),
            None => input.start_after.clone().filter(|start| !start.is_empty()),
        };
        let query = ListQuery { prefix: prefix.clone(), delimiter: delimiter.clone(), after, max, passed: None };
        let page = self.page(&input.bucket, query, escape, input.fetch_owner == Some(true)).await?;
        let next = page.last.as_deref().filter(|_| page.truncated).map(token);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(shown(&prefix, escape)),
            max_keys: Some(i32::try_from(max).unwrap_or(i32::MAX)),
            key_count: Some(i32::try_from(page.contents.len() + page.prefixes.len()).unwrap_or(i32::MAX)),
            continuation_token: input.continuation_token,
            is_truncated: Some(page.truncated),
            next_continuation_token: next,
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

fn show(page: ListPage, escape: bool, owner: bool) -> Page {
    let last = page.entries.last().map(|entry| match entry {
        Listed::Object { key, .. } => key.clone(),
        Listed::Prefix(prefix) => prefix.clone(),
    });
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
    Page { contents, prefixes, truncated: page.truncated, last }
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
        }
    }

    #[test]
    fn keys_and_prefixes_are_shown_apart_and_the_last_of_both_is_known() {
        let object = Listed::Object { key: "a b".into(), bytes: 3, etag: "e".into(), modified_ms: 0, checksum: None };
        let page = ListPage { entries: vec![object, Listed::Prefix("b/".into())], truncated: true, read: 2 };
        let page = show(page, true, false);
        assert_eq!(page.contents[0].key.as_deref(), Some("a%20b"));
        assert!(page.contents[0].owner.is_none());
        assert_eq!(page.prefixes[0].prefix.as_deref(), Some("b/"));
        assert_eq!(page.last.as_deref(), Some("b/"));
    }

    quickcheck! {
        fn tokens_come_back(key: String) -> bool {
            key.len() > KEY_BYTES_MAX || token_key(Some(&token(&key))).unwrap() == Some(key)
        }

        fn any_token_is_decoded_without_panic(text: String) -> bool {
            let _ = token_key(Some(&text));
            true
        }

        fn escaped_names_come_back(name: String) -> bool {
            percent_encoding::percent_decode_str(&shown(&name, true)).decode_utf8().unwrap() == name
        }
    }
}
