//! ListObjectVersions. Versions and markers are shown in one order, that of S3: by key, newest first within it. s3s writes
//! them as two lists; [`interleave`] puts them back in their order.

use super::list::{escaping, page_size, possible_prefix, shown};
use super::{OWNER, Operations, etag, signed, soon, timestamp};
use crate::{digest, version};
use bytes::Bytes;
use metadata::{BucketRef, ListedVersion, VersionPage, VersionQuery};
use protocol::{BucketId, Revision, VersionId};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

impl Operations {
    pub(super) async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = req.input;
        let escape = escaping(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys, "max-keys")?;
        let prefix = input.prefix.unwrap_or_default();
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let after_key = input.key_marker.clone().filter(|marker| !marker.is_empty());
        let marker = version::named(input.version_id_marker.as_deref().filter(|marker| !marker.is_empty()))?;
        if marker.is_some() && after_key.is_none() {
            return Err(s3_error!(InvalidArgument, "A version-id marker cannot be specified without a key marker."));
        }
        // Even a page of nothing must prove that the bucket exists.
        let nothing = max == 0 || !possible_prefix(&prefix);
        let query = if nothing {
            VersionQuery { max: 1, ..VersionQuery::default() }
        } else {
            VersionQuery { prefix: prefix.clone(), delimiter: delimiter.clone(), after_key, after_version: None, max }
        };
        let (metadata, query, deadline) = (&self.cluster.metadata, &query, soon());
        let list = |bucket: BucketRef| async move {
            let mut query = query.clone();
            if let (Some(key), Some(marker)) = (&query.after_key, marker) {
                query.after_version = match marker.within(bucket.id) {
                    VersionId::Numbered(revision) => Some(revision),
                    // Gone since: rather some versions of the key once more than not at all.
                    VersionId::Null => metadata.place(&bucket, key, VersionId::Null, deadline).await?.or(Some(Revision(u64::MAX))),
                };
            }
            metadata.list_versions(&bucket, query, deadline).await
        };
        let (bucket, page) = self.in_bucket(&input.bucket, deadline, list).await?;
        let page = if nothing { VersionPage::default() } else { page };
        let order = Order(page.entries.iter().filter_map(is_marker).collect());
        let page = Page::of(page, bucket.id, escape);
        let mut response = S3Response::new(ListObjectVersionsOutput {
            name: Some(input.bucket),
            prefix: Some(shown(&prefix, escape)),
            delimiter: delimiter.map(|delimiter| shown(&delimiter, escape)),
            key_marker: Some(shown(&input.key_marker.unwrap_or_default(), escape)),
            version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
            max_keys: Some(i32::try_from(max).unwrap_or(i32::MAX)),
            is_truncated: Some(page.truncated),
            next_key_marker: page.next.as_ref().map(|(key, _)| shown(key, escape)),
            next_version_id_marker: page.next.and_then(|(_, version)| version),
            versions: Some(page.versions),
            delete_markers: Some(page.markers),
            common_prefixes: Some(page.prefixes),
            encoding_type: input.encoding_type,
            ..ListObjectVersionsOutput::default()
        });
        response.extensions.insert(order);
        Ok(response)
    }
}

/// Which entries of a page are markers, common prefixes left out; beside the response on its way out.
#[derive(Clone, Debug)]
pub struct Order(Vec<bool>);

fn is_marker(entry: &ListedVersion) -> Option<bool> {
    match entry {
        ListedVersion::Object { .. } => Some(false),
        ListedVersion::Marker { .. } => Some(true),
        ListedVersion::Prefix(_) => None,
    }
}

/// The document with its elements `Version` and `DeleteMarker` in this order. Texts are escaped and neither element holds
/// one of its own name, so they are found by their tags.
pub fn interleave(document: &Bytes, order: &Order) -> Bytes {
    let Ok(mut rest) = std::str::from_utf8(document) else { return document.clone() };
    let (mut around, mut at) = (String::with_capacity(rest.len()), None);
    let mut found: [std::collections::VecDeque<&str>; 2] = Default::default();
    while let Some((start, marker)) =
        [("<Version>", false), ("<DeleteMarker>", true)].into_iter().filter_map(|(tag, marker)| Some((rest.find(tag)?, marker))).min()
    {
        let end = if marker { "</DeleteMarker>" } else { "</Version>" };
        let Some(length) = rest[start..].find(end).map(|length| length + end.len()) else { return document.clone() };
        around.push_str(&rest[..start]);
        at.get_or_insert(around.len());
        found[usize::from(marker)].push_back(&rest[start..start + length]);
        rest = &rest[start + length..];
    }
    around.push_str(rest);
    let ordered: String = order.0.iter().filter_map(|marker| found[usize::from(*marker)].pop_front()).collect();
    // As long as before: nothing was lost.
    if ordered.len() + around.len() != document.len() {
        return document.clone();
    }
    around.insert_str(at.unwrap_or(0), &ordered);
    Bytes::from(around)
}

/// A page as it is shown.
struct Page {
    versions: Vec<ObjectVersion>,
    markers: Vec<DeleteMarkerEntry>,
    prefixes: Vec<CommonPrefix>,
    truncated: bool,
    /// Key and version that the next page goes on behind.
    next: Option<(String, Option<String>)>,
}

impl Page {
    fn of(page: VersionPage, bucket: BucketId, escape: bool) -> Page {
        let owner = || Some(Owner { id: Some(OWNER.into()), display_name: Some(OWNER.into()) });
        let id = |revision: Revision, null: bool| {
            Some(version::shown(bucket, if null { VersionId::Null } else { VersionId::Numbered(revision) }))
        };
        // By its place also for a null version: that name may soon be another one's.
        let next = page.entries.last().filter(|_| page.truncated).map(|last| match last {
            ListedVersion::Object { key, revision, .. } => (key.clone(), Some(version::place(bucket, *revision))),
            ListedVersion::Marker { key, marker, .. } => (key.clone(), Some(version::place(bucket, marker.revision))),
            ListedVersion::Prefix(prefix) => (prefix.clone(), None),
        });
        let mut shows = Page { versions: Vec::new(), markers: Vec::new(), prefixes: Vec::new(), truncated: page.truncated, next };
        for entry in page.entries {
            match entry {
                ListedVersion::Prefix(prefix) => shows.prefixes.push(CommonPrefix { prefix: Some(shown(&prefix, escape)) }),
                ListedVersion::Marker { key, latest, marker } => shows.markers.push(DeleteMarkerEntry {
                    key: Some(shown(&key, escape)),
                    version_id: id(marker.revision, marker.null),
                    is_latest: Some(latest),
                    last_modified: Some(timestamp(marker.modified_ms)),
                    owner: owner(),
                }),
                ListedVersion::Object { key, revision, null, latest, bytes, etag: tag, modified_ms, checksum } => {
                    shows.versions.push(ObjectVersion {
                        key: Some(shown(&key, escape)),
                        version_id: id(revision, null),
                        is_latest: Some(latest),
                        size: Some(signed(bytes)),
                        e_tag: Some(etag(&tag)),
                        last_modified: Some(timestamp(modified_ms)),
                        checksum_algorithm: checksum.map(|(kind, _)| vec![ChecksumAlgorithm::from_static(digest::name(kind))]),
                        checksum_type: checksum.map(|(_, composite)| digest::checksum_type(composite)),
                        owner: owner(),
                        storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
                        ..ObjectVersion::default()
                    });
                }
            }
        }
        shows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_markers_come_in_one_order() {
        let document = |inner: &str| Bytes::from(format!("<?xml?><R><DM>x</DM>{inner}<Name>&lt;Version&gt;</Name></R>"));
        let (a, b, c) = ("<Version><VersionId>1</VersionId></Version>", "<Version>2</Version>", "<DeleteMarker>3</DeleteMarker>");
        let told = document(&format!("{c}<Max>1</Max>{a}{b}"));
        let expected = document(&format!("{a}{c}{b}<Max>1</Max>"));
        assert_eq!(interleave(&told, &Order(vec![false, true, false])), expected);
        assert_eq!(interleave(&told, &Order(vec![false, true])), told, "rather out of order than incomplete");
        assert_eq!(interleave(&document(""), &Order(vec![])), document(""));
    }
}
