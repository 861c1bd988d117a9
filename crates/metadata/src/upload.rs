//! Multipart uploads: create, parts, complete, abort.
//!
//! Always holds: parts are rows of their own, and completing an upload moves no byte of them: the version references
//! the upload, and who replaces the version queues one entry that references it too. An upload that was completed
//! has a result row, so that a repeated Complete gets the same answer.

use consensus::RowsMut;
use md5::{Digest, Md5};
use protocol::limits::{OBJECT_BYTES_MAX, PART_BYTES_MIN, PART_NUMBER_MAX};
use protocol::record::PartRef;
use protocol::{Body, BucketId, Checksum, ChecksumKind, Home, Record, Revision, UploadId, Version, Versioning};
use runtime::probe;

use crate::bucket::{self, malformed};
use crate::commands::Page;
use crate::listing::REPLY_BYTES;
use crate::rows::{CompletedRow, Condemned, PartHead, PartRow, Read, UploadRow, decode, decode_head, next_revision, write};
use crate::{Completed, Error, NamedPart, Part, Preconditions, Upload, blob, blobs_of, garbage, keys, object, tags, versions};

/// Results of completed uploads that a partition keeps; the oldest, by revision, goes first.
pub(crate) const RESULTS_KEPT: u32 = 1000;

/// Begin an upload.
pub(crate) fn create(rows: &mut RowsMut<'_>, bucket: BucketId, upload: Upload) -> Result<(), Error> {
    let mut row = bucket::writable(rows, bucket, &upload.key)?;
    tags::check(&upload.tags)?;
    let key = keys::upload(bucket, &upload.key, upload.id);
    let parts = keys::parts(upload.id, 0);
    let known =
        rows.get(&key).is_some() || rows.get(&keys::completed(upload.id)).is_some() || rows.first(&parts.start, &parts.end).is_some();
    if known {
        return Err(malformed("an upload with this id was begun before"));
    }
    let revision = next_revision(rows)?;
    row.uploads += 1;
    write(rows, &key, &UploadRow { revision, upload });
    bucket::store(rows, bucket, &row);
    Ok(())
}

/// Commit a part; one with the same number is replaced.
pub(crate) fn put_part(rows: &mut RowsMut<'_>, bucket: BucketId, key: &str, upload: UploadId, part: Part) -> Result<(), Error> {
    bucket::writable(rows, bucket, key)?;
    find(rows, bucket, key, upload)?;
    if part.number == 0 || part.number > PART_NUMBER_MAX {
        return Err(malformed("a part has a number from 1 to 10,000"));
    }
    if binary_md5(&part.etag).is_none() {
        return Err(malformed("a part's ETag is an MD5 in hex"));
    }
    object::check_body(&part.body, part.bytes)?;
    blob::check_new(rows, blobs_of(&part.body))?;

    let revision = next_revision(rows)?;
    let home = Home::of(bucket, key);
    let part_key = keys::part(upload, part.number);
    if let Some(old) = rows.row::<PartRow>(&part_key)? {
        probe!("part-uploaded-again");
        if let Body::Blobs(blobs) = old.part.body
            && !blobs.is_empty()
        {
            garbage::queue(rows, revision, garbage::REPLACED, home, Condemned::Blobs(blobs));
        }
    }
    blob::name(rows, home, blobs_of(&part.body));
    write(rows, &part_key, &PartRow { revision, part });
    Ok(())
}

/// What Complete brings besides the upload's name.
pub(crate) struct Completion {
    pub parts: Vec<NamedPart>,
    pub conditions: Preconditions,
    pub checksum: Option<Checksum>,
    pub modified_ms: u64,
}

/// Make the parts that are named the key's version.
pub(crate) fn complete(
    rows: &mut RowsMut<'_>,
    bucket: BucketId,
    key: &str,
    upload: UploadId,
    completion: Completion,
) -> Result<Completed, Error> {
    let mut row = bucket::writable(rows, bucket, key)?;
    check_order(&completion.parts)?;
    let begun = match find(rows, bucket, key, upload) {
        Err(Error::NoSuchUpload) => return repeated(rows, bucket, key, upload, &completion.parts),
        found => found?,
    };
    check_checksum(&begun, completion.checksum.as_ref())?;
    let (parts, unnamed) = choose(rows, upload, &completion.parts)?;
    let bytes = parts.iter().map(|part| part.bytes).sum();
    if bytes > OBJECT_BYTES_MAX {
        return Err(malformed("larger than 5 TiB"));
    }
    let newest = versions::newest(rows, bucket, key)?;
    object::judge(&completion.conditions, newest.as_ref().and_then(object::object))?;

    let revision = next_revision(rows)?;
    let record = Record {
        revision,
        null: object::is_null(&row),
        bytes,
        etag: composite_etag(&completion.parts)?,
        checksum: completion.checksum,
        headers: begun.headers,
        modified_ms: completion.modified_ms,
        tags: begun.tags,
        body: Body::Parts { upload, parts },
    };
    rows.remove(&keys::upload(bucket, key, upload));
    row.uploads = row.uploads.saturating_sub(1);
    versions::add(rows, bucket, key, &mut row, newest, &Version::Object(record.clone()))?;
    bucket::store(rows, bucket, &row);
    if !unnamed.is_empty() {
        probe!("completed-without-some-parts");
        write(rows, &keys::unnamed(upload), &unnamed);
        garbage::queue(rows, revision, garbage::UNNAMED, Home::of(bucket, key), Condemned::Unnamed(upload));
    }
    let versioned = row.versioning != Versioning::Unversioned;
    keep_result(rows, revision, upload, &CompletedRow { bucket, key: key.to_string(), record: record.clone(), versioned })?;
    Ok(Completed { record, versioned })
}

/// Give an upload up.
pub(crate) fn abort(rows: &mut RowsMut<'_>, bucket: BucketId, key: &str, upload: UploadId) -> Result<(), Error> {
    let mut row = bucket::writable(rows, bucket, key)?;
    find(rows, bucket, key, upload)?;
    let revision = next_revision(rows)?;
    rows.remove(&keys::upload(bucket, key, upload));
    row.uploads = row.uploads.saturating_sub(1);
    bucket::store(rows, bucket, &row);
    let parts = keys::parts(upload, 0);
    if rows.first(&parts.start, &parts.end).is_some() {
        garbage::queue(rows, revision, garbage::REPLACED, Home::of(bucket, key), Condemned::Upload(upload));
    }
    Ok(())
}

/// The upload, if it is under way.
pub(crate) fn get(rows: &impl Read, bucket: BucketId, key: &str, upload: UploadId) -> Result<Upload, Error> {
    bucket::readable(rows, bucket)?;
    find(rows, bucket, key, upload)
}

/// Parts of an upload under way with `number > after`.
pub(crate) fn list_parts(
    rows: &impl Read,
    bucket: BucketId,
    key: &str,
    upload: UploadId,
    after: u16,
    max: u32,
) -> Result<(Upload, Page<Part>), Error> {
    let begun = get(rows, bucket, key, upload)?;
    let page = match after.checked_add(1) {
        Some(first) => page(rows, upload, first, max, &[])?,
        None => Page { entries: Vec::new(), truncated: false, passed: None, read: 0 },
    };
    Ok((begun, page))
}

/// The parts that make a completed upload. They stay as long as the garbage queue needs them: a reader that began
/// before its object was deleted can go on.
pub(crate) fn completed_parts(rows: &impl Read, upload: UploadId, first: u16, max: u32) -> Result<Page<Part>, Error> {
    page(rows, upload, first, max, &garbage::unnamed(rows, upload)?)
}

fn page(rows: &impl Read, upload: UploadId, first: u16, max: u32, without: &[u16]) -> Result<Page<Part>, Error> {
    let mut page = Page { entries: Vec::new(), truncated: false, passed: None, read: 0 };
    let mut bytes = 0;
    let mut failed = None;
    let range = keys::parts(upload, first);
    rows.visit(&range.start, &range.end, &mut |key, value| {
        page.read += 1;
        let full = page.entries.len() >= max as usize || (bytes >= REPLY_BYTES && !page.entries.is_empty());
        match decode::<PartRow>(key, value) {
            Ok(row) if without.binary_search(&row.part.number).is_ok() => true,
            Ok(_) if full => {
                page.truncated = true;
                false
            }
            Ok(row) => {
                bytes += value.len();
                page.entries.push(row.part);
                true
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    });
    failed.map_or(Ok(page), Err)
}

fn find(rows: &impl Read, bucket: BucketId, key: &str, upload: UploadId) -> Result<Upload, Error> {
    let row: Option<UploadRow> = rows.row(&keys::upload(bucket, key, upload))?;
    row.map(|row| row.upload).ok_or(Error::NoSuchUpload)
}

fn check_order(parts: &[NamedPart]) -> Result<(), Error> {
    if parts.is_empty() {
        return Err(malformed("an upload is completed with at least one part"));
    }
    if !parts.is_sorted_by(|left, right| left.number < right.number) {
        return Err(Error::InvalidPartOrder);
    }
    Ok(())
}

/// The kind that the upload was begun with, and as many bytes as that kind has. The state machine does not compute
/// checksums: a gateway that gives a composite one names each part's checksum, which [`choose`] compares.
fn check_checksum(upload: &Upload, checksum: Option<&Checksum>) -> Result<(), Error> {
    let Some(checksum) = checksum else { return Ok(()) };
    let bytes = match checksum.kind {
        ChecksumKind::Crc32 | ChecksumKind::Crc32C => 4,
        ChecksumKind::Crc64Nvme => 8,
        ChecksumKind::Sha1 => 20,
        ChecksumKind::Sha256 => 32,
    };
    if checksum.value.len() != bytes {
        return Err(malformed("the checksum has another length than its kind"));
    }
    if upload.checksum.is_some_and(|(kind, _)| kind != checksum.kind) {
        return Err(malformed("the checksum is of another kind than the upload's"));
    }
    Ok(())
}

/// Compare the parts with what is named, in one pass over at most 10,000 rows; return them, and the others' numbers.
fn choose(rows: &impl Read, upload: UploadId, named: &[NamedPart]) -> Result<(Vec<PartRef>, Vec<u16>), Error> {
    let mut chosen = Vec::with_capacity(named.len().min(usize::from(PART_NUMBER_MAX)));
    let mut unnamed = Vec::new();
    let mut wanted = named.iter().peekable();
    let mut failed = None;
    let range = keys::parts(upload, 0);
    rows.visit(&range.start, &range.end, &mut |key, value| {
        let head: PartHead<'_> = match decode_head(key, value) {
            Ok(head) => head,
            Err(error) => {
                failed = Some(error);
                return false;
            }
        };
        match wanted.next_if(|part| part.number <= head.number) {
            None => unnamed.push(head.number),
            Some(part) if part.number == head.number && agrees(part, &head) => {
                chosen.push(PartRef { number: head.number, bytes: head.bytes });
            }
            Some(part) => failed = Some(Error::InvalidPart { number: part.number }),
        }
        failed.is_none()
    });
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(part) = wanted.next() {
        return Err(Error::InvalidPart { number: part.number });
    }
    let all_but_last = &chosen[..chosen.len().saturating_sub(1)];
    if let Some(small) = all_but_last.iter().find(|part| part.bytes < PART_BYTES_MIN) {
        return Err(Error::EntityTooSmall { number: small.number });
    }
    Ok((chosen, unnamed))
}

fn agrees(named: &NamedPart, head: &PartHead<'_>) -> bool {
    let checksums_agree = match (&named.checksum, &head.checksum) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(named), Some(head)) => named.kind == head.kind && named.value == head.value,
    };
    named.etag == head.etag && checksums_agree
}

/// The answer to a Complete whose upload is not under way: that of the first one, if it named the same parts.
fn repeated(rows: &impl Read, bucket: BucketId, key: &str, upload: UploadId, named: &[NamedPart]) -> Result<Completed, Error> {
    let Some(row) = result_of(rows, bucket, key, upload)? else { return Err(Error::NoSuchUpload) };
    let same_parts = match &row.record.body {
        Body::Parts { parts, .. } => parts.iter().map(|part| part.number).eq(named.iter().map(|part| part.number)),
        Body::Inline(_) | Body::Blobs(_) => false,
    };
    if row.bucket != bucket || row.key != key || !same_parts || composite_etag(named).ok().as_ref() != Some(&row.record.etag) {
        return Err(Error::NoSuchUpload);
    }
    probe!("complete-repeated");
    Ok(Completed { record: row.record, versioned: row.versioned })
}

/// What completing `upload` came to: as it is kept, or, if that was long ago, as the object says that it made and that nobody has replaced.
fn result_of(rows: &impl Read, bucket: BucketId, key: &str, upload: UploadId) -> Result<Option<CompletedRow>, Error> {
    if let Some(kept) = rows.row(&keys::completed(upload))? {
        return Ok(Some(kept));
    }
    let Some(Version::Object(record)) = versions::newest(rows, bucket, key)? else { return Ok(None) };
    if !matches!(record.body, Body::Parts { upload: made_by, .. } if made_by == upload) {
        return Ok(None);
    }
    probe!("complete-repeated-long-after");
    let versioned = bucket::readable(rows, bucket)?.versioning != Versioning::Unversioned;
    Ok(Some(CompletedRow { bucket, key: key.to_string(), record, versioned }))
}

/// Keep a result, and drop the oldest beyond [`RESULTS_KEPT`]: by revision, as clocks do not order anything here.
fn keep_result(rows: &mut RowsMut<'_>, revision: Revision, upload: UploadId, result: &CompletedRow) -> Result<(), Error> {
    write(rows, &keys::completed(upload), result);
    write(rows, &keys::completion(revision), &upload);
    let mut counters = rows.counters()?;
    counters.completed += 1;
    let all = keys::family(keys::COMPLETIONS);
    while counters.completed > RESULTS_KEPT
        && let Some((key, value)) = rows.first(&all.start, &all.end)
    {
        rows.remove(&keys::completed(decode(&key, &value)?));
        rows.remove(&key);
        counters.completed -= 1;
    }
    write(rows, &keys::counters(), &counters);
    Ok(())
}

/// MD5 of the parts' binary MD5s, and their count.
fn composite_etag(parts: &[NamedPart]) -> Result<String, Error> {
    let mut digest = Md5::new();
    for part in parts {
        digest.update(binary_md5(&part.etag).ok_or(Error::InvalidPart { number: part.number })?);
    }
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{hex}-{}", parts.len()))
}

fn binary_md5(hex: &str) -> Option<[u8; 16]> {
    let digits = hex.as_bytes().as_chunks::<2>();
    let ([..], []) = digits else { return None };
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|nibble| u8::try_from(nibble).ok());
    let mut binary = [0; 16];
    if digits.0.len() != binary.len() {
        return None;
    }
    for (byte, [high, low]) in binary.iter_mut().zip(digits.0) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(binary)
}
