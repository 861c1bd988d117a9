//! Multipart uploads: Create, UploadPart, Complete, Abort, ListParts, ListMultipartUploads.
//!
//! Parts are rows of their own, in their object's partition, so that Complete is one small command there.

use super::list::{escaping, page_size, possible_prefix, shown};
use super::{OWNER, Operations, check_key, content_headers, content_length, etag, parts_of, set_checksums, signed, soon, timestamp};
use crate::digest::{self, Expected};
use crate::incoming::Incoming;
use crate::revision::{self, Witness};
use crate::write::Memory;
use crate::{conditions, error, tags, version};
use metadata::{BucketRef, NamedPart, Upload, UploadQuery};
use protocol::limits::PART_NUMBER_MAX;
use protocol::{Checksum, ChecksumKind, Home, UploadId, VersionId};
use runtime::time::Instant;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use std::collections::BTreeMap;

/// Rows of parts fetched at a time.
const PART_ROWS: u32 = 500;

/// An upload id as clients show it: 32 hex digits. Anything else was not given by us.
pub(super) fn upload_id(text: &str) -> S3Result<UploadId> {
    let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(text, 16).ok().filter(|_| hex);
    id.map(UploadId).ok_or_else(error::no_such_upload)
}

fn show_upload(id: UploadId) -> String {
    format!("{:032x}", id.0)
}

/// A part's number.
pub(super) fn check_part_number(number: i32) -> S3Result<u16> {
    let number = u16::try_from(number).ok().filter(|number| (1..=PART_NUMBER_MAX).contains(number));
    number.ok_or_else(|| s3_error!(InvalidArgument, "Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive"))
}

/// Kind of an upload's checksum, and whether it is of the full object, from what CreateMultipartUpload asks for.
fn upload_checksum(algorithm: Option<&ChecksumAlgorithm>, checksum_type: Option<&ChecksumType>) -> S3Result<Option<(ChecksumKind, bool)>> {
    let Some(algorithm) = algorithm else {
        return match checksum_type {
            None => Ok(None),
            Some(_) => {
                Err(s3_error!(InvalidRequest, "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."))
            }
        };
    };
    let kind = digest::kind(algorithm)?;
    let full = match checksum_type.map(ChecksumType::as_str) {
        None => !digest::can_be_composite(kind),
        Some(ChecksumType::FULL_OBJECT) => true,
        Some(ChecksumType::COMPOSITE) => false,
        Some(_) => return Err(s3_error!(InvalidRequest, "Value for x-amz-checksum-type header is invalid.")),
    };
    let possible = if full { digest::can_be_of_full_object(kind) } else { digest::can_be_composite(kind) };
    if !possible {
        let wanted = if full { ChecksumType::FULL_OBJECT } else { ChecksumType::COMPOSITE };
        return Err(s3_error!(
            InvalidRequest,
            "The {wanted} checksum type cannot be used with the {} checksum algorithm.",
            digest::name(kind).to_lowercase()
        ));
    }
    Ok(Some((kind, full)))
}

/// The five checksum fields of an input, by kind.
macro_rules! checksum_fields {
    ($input:expr) => {
        [
            (ChecksumKind::Crc32, $input.checksum_crc32.as_deref()),
            (ChecksumKind::Crc32C, $input.checksum_crc32c.as_deref()),
            (ChecksumKind::Crc64Nvme, $input.checksum_crc64nvme.as_deref()),
            (ChecksumKind::Sha1, $input.checksum_sha1.as_deref()),
            (ChecksumKind::Sha256, $input.checksum_sha256.as_deref()),
        ]
    };
}

/// What is known of an uploaded part when its upload completes.
struct Uploaded {
    bytes: u64,
    checksum: Option<Checksum>,
}

impl Operations {
    pub(super) async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let S3Request { mut input, headers, .. } = req;
        check_key(&input.key)?;
        let checksum = upload_checksum(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
        let content = content_headers!(input, &headers).into_record()?;
        let tags = &tags::of_header(input.tagging.as_deref())?;
        let deadline = soon();
        let (metadata, key, content) = (&self.cluster.metadata, input.key.as_str(), &content);
        let create = |bucket: BucketRef| async move {
            metadata.create_upload(&bucket, key, content.clone(), tags.clone(), checksum, runtime::time::wall_ms(), deadline).await
        };
        let (_, id) = self.in_bucket(&input.bucket, deadline, create).await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            upload_id: Some(show_upload(id)),
            checksum_algorithm: checksum.map(|(kind, _)| ChecksumAlgorithm::from_static(digest::name(kind))),
            checksum_type: checksum.map(|(_, full)| digest::checksum_type(!full)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    /// The upload under way.
    pub(super) async fn upload(&self, bucket: &str, key: &str, id: UploadId) -> S3Result<(BucketRef, Upload)> {
        let deadline = soon();
        let metadata = &self.cluster.metadata;
        let get = |bucket: BucketRef| async move { metadata.upload(&bucket, key, id, deadline).await };
        self.in_bucket(bucket, deadline, get).await
    }

    pub(super) async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let S3Request { mut input, headers, trailing_headers, .. } = req;
        check_key(&input.key)?;
        let number = check_part_number(input.part_number)?;
        let id = upload_id(&input.upload_id)?;
        let bytes = content_length(input.content_length)?;
        let (bucket, upload) = self.upload(&input.bucket, &input.key, id).await?;
        let wanted = upload.checksum.map(|(kind, _)| kind);
        let expected = Expected::of_request(&headers, input.checksum_algorithm.as_ref(), wanted)?;
        let home = Home::of(bucket.id, &input.key);
        let mut incoming = Incoming::of_client(input.body.take(), bytes, trailing_headers, expected);
        let stored = self.write.store_part(home, &mut incoming, Memory::PerBlob).await.map_err(error::of_write)?;
        let part = metadata::Part {
            number,
            bytes: stored.bytes,
            etag: stored.digested.etag,
            checksum: stored.digested.checksum,
            modified_ms: runtime::time::wall_ms(),
            body: stored.body,
        };
        self.put_part(&input.bucket, &bucket, &input.key, id, &part, stored.deadline).await?;
        let mut output = UploadPartOutput { e_tag: Some(etag(&part.etag)), ..UploadPartOutput::default() };
        let _ = set_checksums!(output, digest::show(part.checksum.as_ref(), 1));
        Ok(S3Response::new(output))
    }

    pub(super) async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let S3Request { input, headers, .. } = req;
        check_key(&input.key)?;
        let id = upload_id(&input.upload_id)?;
        let conditions = &conditions::of_write(&headers)?;
        let mut parts = named_parts(input.multipart_upload.as_ref())?;
        let stated = digest::named(checksum_fields!(input), Some(parts.len()))?;
        let deadline = soon();
        let checksum = match self.uploaded(&input.bucket, &input.key, id, deadline).await? {
            Some((upload, uploaded)) => {
                check_size(input.mpu_object_size, &parts, &uploaded)?;
                if let (Some((_, full)), Some(stated)) = (upload.checksum, &input.checksum_type)
                    && *stated != digest::checksum_type(!full)
                {
                    return Err(s3_error!(
                        InvalidRequest,
                        "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
                        digest::checksum_type(!full).as_str()
                    ));
                }
                let checksum = object_checksum(upload.checksum, &parts, &uploaded, stated.as_ref())?;
                // What it was computed from is named too: a part that is replaced meanwhile is noticed.
                for part in &mut parts {
                    let uploaded = uploaded.get(&part.number).and_then(|row| row.checksum.clone());
                    part.checksum = part.checksum.take().or(uploaded);
                }
                checksum
            }
            // Completed before: the partition compares the parts and answers as it did then.
            None => None,
        };
        let (metadata, key, checksum, parts) = (&self.cluster.metadata, input.key.as_str(), &checksum, &parts);
        let witness = &Witness::default();
        let complete = |bucket: BucketRef| async move {
            let (parts, conditions, now) = (parts.clone(), conditions.clone(), runtime::time::wall_ms());
            let seen = metadata.complete_upload_seen(&bucket, key, id, parts, conditions, checksum.clone(), now, deadline).await;
            witness.of(seen)
        };
        let (bucket, completed) = self.in_bucket(&input.bucket, deadline, complete).await.map_err(|error| witness.tell(error))?;
        let record = completed.record;
        let id = if record.null { VersionId::Null } else { VersionId::Numbered(record.revision) };
        let host = headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!("http://{host}/{}/{}", input.bucket, shown(&input.key, true))),
            e_tag: Some(etag(&record.etag)),
            version_id: completed.versioned.then(|| version::shown(bucket.id, id)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..CompleteMultipartUploadOutput::default()
        };
        output.checksum_type = set_checksums!(output, digest::show(record.checksum.as_ref(), parts_of(&record)));
        // Of the first Complete, if this one repeats it.
        Ok(S3Response::with_headers(output, revision::headers(record.revision)))
    }

    /// The upload and all its parts; none if it is not under way.
    async fn uploaded(
        &self,
        bucket: &str,
        key: &str,
        id: UploadId,
        deadline: Instant,
    ) -> S3Result<Option<(Upload, BTreeMap<u16, Uploaded>)>> {
        let metadata = &self.cluster.metadata;
        let mut found = BTreeMap::new();
        let mut after = 0;
        loop {
            let list = |bucket: BucketRef| async move {
                match metadata.list_parts(&bucket, key, id, after, PART_ROWS, deadline).await {
                    Ok(page) => Ok(Some(page)),
                    Err(metadata::Error::NoSuchUpload) => Ok(None),
                    Err(other) => Err(other),
                }
            };
            let (_, page) = self.in_bucket(bucket, deadline, list).await?;
            let Some((upload, parts, more)) = page else { return Ok(None) };
            let last = parts.last().map(|part| part.number);
            found.extend(parts.into_iter().map(|part| (part.number, Uploaded { bytes: part.bytes, checksum: part.checksum })));
            match last {
                Some(last) if more => after = last,
                _ => return Ok(Some((upload, found))),
            }
        }
    }

    pub(super) async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        check_key(&input.key)?;
        if input.if_match_initiated_time.is_some() {
            return Err(super::not_implemented("x-amz-if-match-initiated-time"));
        }
        let id = upload_id(&input.upload_id)?;
        let deadline = soon();
        let (metadata, key) = (&self.cluster.metadata, input.key.as_str());
        let abort = |bucket: BucketRef| async move { metadata.abort_upload(&bucket, key, id, deadline).await };
        self.in_bucket(&input.bucket, deadline, abort).await?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), http::StatusCode::NO_CONTENT))
    }

    pub(super) async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        check_key(&input.key)?;
        let id = upload_id(&input.upload_id)?;
        let max = page_size(input.max_parts, "max-parts")?;
        let marker = input.part_number_marker.unwrap_or(0);
        let invalid = |_| s3_error!(InvalidArgument, "Argument part-number-marker must be an integer between 0 and 2147483647");
        let marker = u32::try_from(marker).map_err(invalid)?;
        let mut after = u16::try_from(marker).unwrap_or(u16::MAX);
        let deadline = soon();
        let (metadata, key) = (&self.cluster.metadata, input.key.as_str());
        let mut rows: Vec<metadata::Part> = Vec::new();
        let (upload, truncated) = loop {
            let wanted = (max - u32::try_from(rows.len()).unwrap_or(max)).clamp(1, PART_ROWS);
            let list = |bucket: BucketRef| async move { metadata.list_parts(&bucket, key, id, after, wanted, deadline).await };
            let (_, (upload, page, more)) = self.in_bucket(&input.bucket, deadline, list).await?;
            if max == 0 {
                break (upload, false);
            }
            let progress = page.last().map(|part| part.number);
            rows.extend(page);
            match progress {
                Some(last) if more && rows.len() < max as usize => after = last,
                _ => break (upload, more),
            }
        };
        let next = rows.last().map(|part| i32::from(part.number));
        let parts = rows
            .into_iter()
            .map(|part| {
                let mut row = Part {
                    part_number: Some(i32::from(part.number)),
                    size: Some(signed(part.bytes)),
                    e_tag: Some(etag(&part.etag)),
                    last_modified: Some(timestamp(part.modified_ms)),
                    ..Part::default()
                };
                let _ = set_checksums!(row, digest::show(part.checksum.as_ref(), 1));
                row
            })
            .collect();
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(show_upload(id)),
            part_number_marker: Some(i32::try_from(marker).unwrap_or(i32::MAX)),
            next_part_number_marker: next.filter(|_| truncated),
            max_parts: Some(i32::try_from(max).unwrap_or(i32::MAX)),
            is_truncated: Some(truncated),
            parts: Some(parts),
            owner: Some(Owner { id: Some(OWNER.into()), display_name: Some(OWNER.into()) }),
            initiator: Some(Initiator { id: Some(OWNER.into()), display_name: Some(OWNER.into()) }),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            checksum_algorithm: upload.checksum.map(|(kind, _)| ChecksumAlgorithm::from_static(digest::name(kind))),
            checksum_type: upload.checksum.map(|(_, full)| digest::checksum_type(!full)),
            ..ListPartsOutput::default()
        }))
    }

    pub(super) async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        let escape = escaping(input.encoding_type.as_ref())?;
        let max = page_size(input.max_uploads, "max-uploads")?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let key_marker = input.key_marker.clone().filter(|marker| !marker.is_empty());
        // An upload marker means something only beside its key.
        let upload_marker = input.upload_id_marker.as_deref().filter(|marker| !marker.is_empty() && key_marker.is_some());
        let invalid = |_| s3_error!(InvalidArgument, "Invalid uploadId marker");
        let after_upload = upload_marker.map(upload_id).transpose().map_err(invalid)?;
        // Even a page of nothing must prove that the bucket exists.
        let nothing = max == 0 || !possible_prefix(&prefix);
        let query = if nothing {
            UploadQuery { max: 1, ..UploadQuery::default() }
        } else {
            UploadQuery { prefix: prefix.clone(), delimiter: delimiter.clone(), after_key: key_marker.clone(), after_upload, max }
        };
        let deadline = soon();
        let (metadata, query) = (&self.cluster.metadata, &query);
        let list = |bucket: BucketRef| async move { metadata.list_uploads(&bucket, query.clone(), deadline).await };
        let (_, listed) = self.in_bucket(&input.bucket, deadline, list).await?;
        let page = if nothing { metadata::UploadPage::default() } else { listed };
        let (next_key, next_upload) = next_markers(&page);
        let owner = Owner { id: Some(OWNER.into()), display_name: Some(OWNER.into()) };
        let uploads = page
            .uploads
            .iter()
            .map(|upload| MultipartUpload {
                key: Some(shown(&upload.key, escape)),
                upload_id: Some(show_upload(upload.id)),
                initiated: Some(timestamp(upload.created_ms)),
                owner: Some(owner.clone()),
                initiator: Some(Initiator { id: Some(OWNER.into()), display_name: Some(OWNER.into()) }),
                storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                checksum_algorithm: upload.checksum.map(|(kind, _)| ChecksumAlgorithm::from_static(digest::name(kind))),
                checksum_type: upload.checksum.map(|(_, full)| digest::checksum_type(!full)),
            })
            .collect();
        let prefixes = page.prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(shown(prefix, escape)) }).collect();
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: Some(shown(&prefix, escape)),
            delimiter: delimiter.map(|delimiter| shown(&delimiter, escape)),
            key_marker: Some(shown(&key_marker.unwrap_or_default(), escape)),
            upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
            next_key_marker: next_key.filter(|_| page.truncated).map(|key| shown(&key, escape)),
            next_upload_id_marker: next_upload.filter(|_| page.truncated).map(show_upload),
            max_uploads: Some(i32::try_from(max).unwrap_or(i32::MAX)),
            is_truncated: Some(page.truncated),
            uploads: Some(uploads),
            common_prefixes: Some(prefixes),
            encoding_type: input.encoding_type,
            ..ListMultipartUploadsOutput::default()
        }))
    }
}

/// Where the next page of uploads goes on: after the greater of the last upload and the last prefix.
fn next_markers(page: &metadata::UploadPage) -> (Option<String>, Option<UploadId>) {
    match (page.uploads.last(), page.prefixes.last()) {
        (Some(upload), Some(prefix)) if *prefix > upload.key => (Some(prefix.clone()), None),
        (Some(upload), _) => (Some(upload.key.clone()), Some(upload.id)),
        (None, prefix) => (prefix.cloned(), None),
    }
}

/// The parts that Complete names, in their order.
fn named_parts(upload: Option<&CompletedMultipartUpload>) -> S3Result<Vec<NamedPart>> {
    let malformed = || s3_error!(MalformedXML, "The XML you provided was not well-formed or did not validate against our published schema");
    let parts = upload.and_then(|upload| upload.parts.as_deref()).unwrap_or_default();
    if parts.is_empty() || parts.len() > usize::from(PART_NUMBER_MAX) {
        return Err(malformed());
    }
    let mut named: Vec<NamedPart> = Vec::with_capacity(parts.len());
    for part in parts {
        let number = check_part_number(part.part_number.ok_or_else(malformed)?)?;
        if named.last().is_some_and(|last| last.number >= number) {
            return Err(s3_error!(InvalidPartOrder, "The list of parts was not in ascending order. Parts must be ordered by part number."));
        }
        let etag = part.e_tag.as_ref().ok_or_else(malformed)?.value().to_string();
        let checksum = digest::named(checksum_fields!(part), None)?;
        named.push(NamedPart { number, etag, checksum });
    }
    Ok(named)
}

/// `x-amz-mp-object-size` must be the sum of the parts.
fn check_size(stated: Option<i64>, parts: &[NamedPart], uploaded: &BTreeMap<u16, Uploaded>) -> S3Result<()> {
    let Some(stated) = stated else { return Ok(()) };
    let bytes: u64 = parts.iter().filter_map(|part| uploaded.get(&part.number)).map(|part| part.bytes).sum();
    if u64::try_from(stated) == Ok(bytes) {
        return Ok(());
    }
    Err(s3_error!(InvalidRequest, "The provided 'x-amz-mp-object-size' header value {stated} does not match what was computed: {bytes}"))
}

/// The object's checksum from those of its parts, of the kind that the upload asked for, or that Complete states. What is stated must
/// be what was computed; what cannot be computed cannot be verified, and is refused.
fn object_checksum(
    wanted: Option<(ChecksumKind, bool)>,
    parts: &[NamedPart],
    uploaded: &BTreeMap<u16, Uploaded>,
    stated: Option<&Checksum>,
) -> S3Result<Option<Checksum>> {
    let (kind, full) = match (wanted, stated) {
        (Some((kind, _)), Some(stated)) if stated.kind != kind => {
            return Err(s3_error!(
                InvalidRequest,
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                digest::name(kind).to_lowercase(),
                digest::name(stated.kind).to_lowercase()
            ));
        }
        (Some(wanted), _) => wanted,
        (None, Some(stated)) => (stated.kind, !stated.composite && digest::can_be_of_full_object(stated.kind)),
        (None, None) => return Ok(None),
    };
    let mut sums = Vec::with_capacity(parts.len());
    for part in parts {
        // A part that is missing is refused by the partition, with its number.
        let Some(row) = uploaded.get(&part.number) else { return Ok(None) };
        match &row.checksum {
            Some(checksum) if checksum.kind == kind => sums.push((checksum.value.as_slice(), row.bytes)),
            _ => {
                return Err(s3_error!(
                    InvalidRequest,
                    "The upload's part {} has no {} checksum, so that of the object cannot be verified.",
                    part.number,
                    digest::name(kind)
                ));
            }
        }
    }
    let computed = match full {
        true => digest::combined(kind, sums),
        false => Some(digest::composite(kind, sums.into_iter().map(|(value, _)| value))),
    };
    match (&computed, stated) {
        (Some(computed), Some(stated)) if computed.value != stated.value => Err(digest::bad_digest(kind)),
        _ => Ok(computed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(parts: &[(i32, &str)]) -> CompletedMultipartUpload {
        let parts = parts.iter().map(|(number, tag)| CompletedPart {
            part_number: Some(*number),
            e_tag: Some(etag(tag)),
            ..CompletedPart::default()
        });
        CompletedMultipartUpload { parts: Some(parts.collect()) }
    }

    fn code(result: S3Result<Vec<NamedPart>>) -> String {
        result.unwrap_err().code().as_str().to_string()
    }

    #[test]
    fn upload_ids_are_32_hex_digits_and_nothing_else() {
        let id = UploadId(0xabc << 64 | 7);
        assert_eq!(upload_id(&show_upload(id)).unwrap(), id);
        for text in ["", "0", "+0000000000000000000000000000007", &"g".repeat(32), &"0".repeat(33)] {
            assert!(upload_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parts_must_ascend_and_be_named_soundly() {
        assert_eq!(named_parts(Some(&completed(&[(1, "a"), (3, "b")]))).unwrap().len(), 2);
        assert_eq!(code(named_parts(Some(&completed(&[(2, "a"), (1, "b")])))), "InvalidPartOrder");
        assert_eq!(code(named_parts(Some(&completed(&[(1, "a"), (1, "a")])))), "InvalidPartOrder");
        assert_eq!(code(named_parts(Some(&completed(&[(0, "a")])))), "InvalidArgument");
        assert_eq!(code(named_parts(Some(&completed(&[(10_001, "a")])))), "InvalidArgument");
        assert_eq!(code(named_parts(Some(&completed(&[])))), "MalformedXML");
        assert_eq!(code(named_parts(None)), "MalformedXML");
    }

    #[test]
    fn each_kind_has_its_types() {
        let asked = |kind: &'static str, of: Option<&'static str>| {
            upload_checksum(Some(&ChecksumAlgorithm::from_static(kind)), of.map(ChecksumType::from_static).as_ref()).ok().flatten()
        };
        assert_eq!(asked("CRC32", None), Some((ChecksumKind::Crc32, false)));
        assert_eq!(asked("CRC32C", Some("FULL_OBJECT")), Some((ChecksumKind::Crc32C, true)));
        assert_eq!(asked("CRC64NVME", None), Some((ChecksumKind::Crc64Nvme, true)));
        assert_eq!(asked("CRC64NVME", Some("COMPOSITE")), None);
        assert_eq!(asked("SHA256", None), Some((ChecksumKind::Sha256, false)));
        assert_eq!(asked("SHA1", Some("FULL_OBJECT")), None);
        assert!(upload_checksum(None, Some(&ChecksumType::from_static("COMPOSITE"))).is_err());
    }

    #[test]
    fn a_stated_object_checksum_is_verified_or_refused() {
        let sum = |body: &[u8]| {
            let mut digests = digest::Digests::new(Expected::compute(Some(ChecksumKind::Crc32)));
            digests.update(body);
            digests.finish(None).unwrap().checksum.unwrap()
        };
        let row = |body: &[u8]| Uploaded { bytes: body.len() as u64, checksum: Some(sum(body)) };
        let uploaded = BTreeMap::from([(1, row(b"hello ")), (2, row(b"world"))]);
        let parts = named_parts(Some(&completed(&[(1, "a"), (2, "b")]))).unwrap();
        let whole = sum(b"hello world");
        let full = object_checksum(Some((ChecksumKind::Crc32, true)), &parts, &uploaded, Some(&whole)).unwrap().unwrap();
        assert_eq!(full, whole);
        let wrong = sum(b"other");
        assert_eq!(
            object_checksum(Some((ChecksumKind::Crc32, true)), &parts, &uploaded, Some(&wrong)).unwrap_err().code(),
            &s3s::S3ErrorCode::BadDigest
        );
        let composite = object_checksum(Some((ChecksumKind::Crc32, false)), &parts, &uploaded, None).unwrap().unwrap();
        assert!(composite.composite && composite.value != whole.value);
        assert_eq!(object_checksum(None, &parts, &uploaded, Some(&whole)).unwrap().unwrap(), whole);
        let other = Checksum { kind: ChecksumKind::Sha1, value: vec![0; 20], composite: true };
        assert!(object_checksum(None, &parts, &uploaded, Some(&other)).is_err());
        assert_eq!(object_checksum(None, &parts, &uploaded, None).unwrap(), None);
    }

    #[test]
    fn the_next_page_of_uploads_goes_on_after_the_greater_of_upload_and_prefix() {
        let upload =
            Upload { id: UploadId(5), key: "m".into(), headers: Default::default(), tags: Vec::new(), checksum: None, created_ms: 0 };
        let page = |uploads: Vec<Upload>, prefixes: &[&str]| metadata::UploadPage {
            uploads,
            prefixes: prefixes.iter().map(|prefix| prefix.to_string()).collect(),
            truncated: true,
        };
        assert_eq!(next_markers(&page(vec![upload.clone()], &["a/"])), (Some("m".into()), Some(UploadId(5))));
        assert_eq!(next_markers(&page(vec![upload], &["z/"])), (Some("z/".into()), None));
        assert_eq!(next_markers(&page(vec![], &["z/"])), (Some("z/".into()), None));
        assert_eq!(next_markers(&page(vec![], &[])), (None, None));
    }
}
