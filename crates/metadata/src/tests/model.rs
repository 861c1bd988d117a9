//! Random commands against a reference model that keeps everything in maps.

use super::listings::{Question, names, reference};
use super::*;
use crate::commands::Page;
use crate::rows::BucketState;
use crate::{Applied, BucketUsage, Completed, Etags, Found, Listed, ListedVersion, Tagged, Upload, VersionQuery, keys};
use md5::{Digest, Md5};
use protocol::limits::PART_BYTES_MIN;
use protocol::record::PartRef;
use protocol::{Home, Marker, Versioning};
use quickcheck::{Arbitrary, Gen, QuickCheck, TestResult};
use std::collections::{BTreeMap, BTreeSet};

const KEYS: [&str; 7] = ["a", "a/b", "a/b/c", "a\0", "a\0b", "é", "\u{10ffff}"];

#[derive(Clone, Copy, Debug)]
enum Condition {
    None,
    Absent,
    Present,
    Is(u8),
    IsNot(u8),
}

/// The version that a deletion names.
#[derive(Clone, Copy, Debug)]
enum Named {
    None,
    Null,
    /// One of the key's, if it has any, or what was one.
    Of(u8),
}

#[derive(Clone, Debug)]
enum Op {
    Open {
        bucket: u64,
        attempt: u64,
    },
    Close {
        bucket: u64,
        attempt: u64,
    },
    Remove {
        bucket: u64,
        attempt: u64,
    },
    Put {
        bucket: u64,
        key: usize,
        etag: u8,
        blobs: Vec<u8>,
        condition: Condition,
    },
    Delete {
        bucket: u64,
        key: usize,
        version: Named,
        condition: Condition,
    },
    SetVersioning {
        bucket: u64,
        attempt: u64,
        versioning: Versioning,
    },
    /// Every fourth set of tags is not in order.
    SetTags {
        bucket: u64,
        key: usize,
        version: Named,
        tags: Vec<u8>,
    },
    Create {
        bucket: u64,
        key: usize,
        upload: u128,
    },
    PutPart {
        bucket: u64,
        key: usize,
        upload: u128,
        number: u16,
        large: bool,
        blobs: Vec<u8>,
    },
    Complete {
        bucket: u64,
        key: usize,
        upload: u128,
        mask: u8,
        spoil: u8,
        condition: Condition,
    },
    Abort {
        bucket: u64,
        key: usize,
        upload: u128,
    },
    Settle {
        up_to: u64,
        asked: Vec<u8>,
    },
    Collect {
        entry: usize,
    },
}

impl Arbitrary for Op {
    fn arbitrary(g: &mut Gen) -> Op {
        let bucket = if u8::arbitrary(g) % 8 == 0 { 2 } else { 1 };
        let key = usize::arbitrary(g) % KEYS.len();
        let upload = u128::from(u8::arbitrary(g) % 4);
        let attempt = u64::from(u8::arbitrary(g) % 8);
        let condition = match u8::arbitrary(g) % 8 {
            0 => Condition::Absent,
            1 => Condition::Present,
            2 => Condition::Is(u8::arbitrary(g) % 3),
            3 => Condition::IsNot(u8::arbitrary(g) % 3),
            _ => Condition::None,
        };
        let blobs = (0..u8::arbitrary(g) % 3).map(|_| u8::arbitrary(g)).collect();
        // Uploads stay with few keys, or hardly any would be completed.
        let key_of_upload = usize::try_from(upload).unwrap() % 2;
        let version = match u8::arbitrary(g) % 8 {
            0 => Named::Null,
            1..=3 => Named::Of(u8::arbitrary(g)),
            _ => Named::None,
        };
        match u8::arbitrary(g) % 40 {
            34..=35 => Op::SetTags { bucket, key, version, tags: (0..u8::arbitrary(g) % 3).map(|_| u8::arbitrary(g) % 8).collect() },
            32..=33 => Op::SetVersioning {
                bucket,
                attempt: attempt.max(u64::from(u8::arbitrary(g) % 8)),
                versioning: *g.choose(&[Versioning::Enabled, Versioning::Enabled, Versioning::Suspended, Versioning::Unversioned]).unwrap(),
            },
            0..=2 => Op::Open { bucket, attempt },
            3 => Op::Close { bucket, attempt },
            4 => Op::Remove { bucket, attempt },
            5..=11 => Op::Put { bucket, key, etag: u8::arbitrary(g) % 3, blobs, condition },
            12..=14 => Op::Delete { bucket, key, version, condition },
            15..=17 | 36..=37 => Op::Create { bucket, key: key_of_upload, upload },
            18..=22 => {
                let (number, large) = (u16::from(u8::arbitrary(g) % 5), bool::arbitrary(g));
                Op::PutPart { bucket, key: key_of_upload, upload, number, large, blobs }
            }
            23..=26 | 38..=39 => {
                Op::Complete { bucket, key: key_of_upload, upload, mask: u8::arbitrary(g), spoil: u8::arbitrary(g) % 16, condition }
            }
            27 => Op::Abort { bucket, key: key_of_upload, upload },
            28 => Op::Settle { up_to: u64::from(u8::arbitrary(g) % 64), asked: Vec::arbitrary(g) },
            _ => Op::Collect { entry: usize::arbitrary(g) % 4 },
        }
    }
}

#[derive(Default)]
struct Model {
    revision: u64,
    buckets: BTreeMap<u64, (BucketState, u64)>,
    versioning: BTreeMap<u64, Versioning>,
    /// Oldest first; none is empty.
    objects: BTreeMap<(u64, String), Vec<Version>>,
    uploads: BTreeMap<(u64, String, u128), BTreeMap<u16, Part>>,
    /// Ids of uploads are never reused: operations name a slot, and this is the last upload of each.
    slots: BTreeMap<u128, u128>,
    last_upload: u128,
    /// Named parts of completed uploads, with the answer to Complete.
    completed: BTreeMap<u128, (u64, String, Completed, Vec<Part>)>,
    /// Blobs that have a home here: named, or condemned and not collected.
    homes: BTreeSet<u64>,
    floor: u64,
    last_blob: u64,
}

/// Answers of all commands in one type. The texts of refusals as malformed are left out.
#[derive(PartialEq, Eq, Debug)]
enum Answer {
    Done,
    Empty(bool),
    Applied(Applied),
    Tagged(Tagged),
    Completed(Box<Completed>),
    Named(Vec<u64>),
}

type Outcome = Result<Answer, Error>;

fn malformed() -> Outcome {
    Err(Error::Malformed(String::new()))
}

fn conditions(condition: Condition) -> Preconditions {
    let none = Preconditions::default();
    let is = |tag: u8| Some(Etags::Of(vec!["never".into(), etag(u64::from(tag))]));
    match condition {
        Condition::None => none,
        Condition::Absent => Preconditions { if_none_match: Some(Etags::Any), ..none },
        Condition::Present => Preconditions { if_match: Some(Etags::Any), ..none },
        Condition::Is(tag) => Preconditions { if_match: is(tag), ..none },
        Condition::IsNot(tag) => Preconditions { if_none_match: is(tag), ..none },
    }
}

impl Model {
    fn writable(&self, bucket: u64) -> Result<(), Error> {
        match self.buckets.get(&bucket) {
            None | Some((BucketState::Removed, _)) => Err(Error::NotOpen),
            Some((BucketState::Closed, _)) => Err(Error::Closed),
            Some((BucketState::Open, _)) => Ok(()),
        }
    }

    fn is_empty(&self, bucket: u64) -> bool {
        !self.objects.keys().any(|(of, _)| *of == bucket) && !self.uploads.keys().any(|(of, _, _)| *of == bucket)
    }

    fn judge(&self, bucket: u64, key: &str, condition: Condition) -> Result<(), Error> {
        self.judge_on(self.current(bucket, key), condition)
    }

    fn judge_on(&self, current: Option<&Record>, condition: Condition) -> Result<(), Error> {
        let current = current.map(|record| record.etag.clone());
        let is = |tag: u8| current == Some(etag(u64::from(tag)));
        match condition {
            Condition::Present | Condition::Is(_) if current.is_none() => Err(Error::NoSuchKey),
            Condition::Absent if current.is_some() => Err(Error::Precondition),
            Condition::Is(tag) if !is(tag) => Err(Error::Precondition),
            Condition::IsNot(tag) if is(tag) => Err(Error::Precondition),
            _ => Ok(()),
        }
    }

    fn versioning(&self, bucket: u64) -> Versioning {
        self.versioning.get(&bucket).copied().unwrap_or_default()
    }

    fn versions(&self, bucket: u64, key: &str) -> &[Version] {
        self.objects.get(&(bucket, key.to_string())).map_or(&[], Vec::as_slice)
    }

    /// The newest version, if it is an object.
    fn current(&self, bucket: u64, key: &str) -> Option<&Record> {
        self.versions(bucket, key).last().and_then(crate::object::object)
    }

    fn named(&self, bucket: u64, key: &str, id: VersionId) -> Option<&Version> {
        self.versions(bucket, key).iter().find(|version| version.id() == id)
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.objects.values().flatten().filter_map(crate::object::object)
    }

    fn is_null(&self, bucket: u64) -> bool {
        self.versioning(bucket) != Versioning::Enabled
    }

    fn shown(&self, bucket: u64, version: &Version) -> Option<VersionId> {
        Some(version.id()).filter(|_| self.versioning(bucket) != Versioning::Unversioned)
    }

    fn add(&mut self, bucket: u64, key: &str, version: Version) {
        let versions = self.objects.entry((bucket, key.to_string())).or_default();
        versions.retain(|old| !(version.is_null() && old.is_null()));
        versions.push(version);
    }

    fn remove(&mut self, bucket: u64, key: &str, id: VersionId) {
        let place = (bucket, key.to_string());
        let versions = self.objects.get_mut(&place).unwrap();
        versions.retain(|version| version.id() != id);
        if versions.is_empty() {
            self.objects.remove(&place);
        }
    }

    /// Most blobs are fresh; some were used before, some are below the floor.
    fn choose_blobs(&mut self, choices: &[u8], bytes: u32) -> Vec<BlobRef> {
        let counter = |choice: &u8| {
            if *choice < 16 {
                u64::from(*choice)
            } else {
                self.last_blob += 1;
                64 + self.last_blob
            }
        };
        choices.iter().map(counter).map(|counter| blob(counter, bytes)).collect()
    }

    fn check_new(&self, blobs: &[BlobRef]) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for blob in blobs.iter().map(|blob| blob.blob.counter) {
            if !seen.insert(blob) {
                return Err(Error::Malformed(String::new()));
            }
            if blob <= self.floor {
                return Err(Error::Settled);
            }
            if self.homes.contains(&blob) {
                return Err(Error::Malformed(String::new()));
            }
        }
        Ok(())
    }

    /// The slot's upload; for Create a fresh one, unless that upload is under way.
    fn upload_of(&mut self, slot: u128, fresh_for: Option<(u64, &str)>) -> u128 {
        let current = self.slots.get(&slot).copied().unwrap_or(slot + 1_000_000);
        if let Some((bucket, key)) = fresh_for
            && !self.uploads.contains_key(&(bucket, key.to_string(), current))
        {
            self.last_upload += 1;
            self.slots.insert(slot, self.last_upload);
        }
        self.slots.get(&slot).copied().unwrap_or(current)
    }

    fn choose_version(&self, bucket: u64, key: &str, version: Named) -> Option<VersionId> {
        match version {
            Named::None => None,
            Named::Null => Some(VersionId::Null),
            Named::Of(choice) => {
                let known = self.versions(bucket, key);
                let chosen = known.get(usize::from(choice) % known.len().max(1)).map_or(u64::from(choice), |one| one.revision().0);
                Some(VersionId::Numbered(Revision(chosen)))
            }
        }
    }

    fn command(&mut self, op: &Op, machine: &Machine) -> Command {
        let name = |key: &usize| KEYS[*key].to_string();
        match op {
            Op::Open { bucket, attempt } => Command::OpenBucket { bucket: BucketId(*bucket), attempt: *attempt, share: WHOLE },
            Op::Close { bucket, attempt } => Command::CloseBucket { bucket: BucketId(*bucket), attempt: *attempt, share: WHOLE },
            Op::Remove { bucket, attempt } => Command::RemoveBucket { bucket: BucketId(*bucket), attempt: *attempt },
            Op::Put { bucket, key, etag: tag, blobs, condition } => {
                let body = if blobs.is_empty() { inline("small") } else { Body::Blobs(self.choose_blobs(blobs, 9)) };
                let record = Record { tags: tags(&[("put", &tag.to_string())]), ..record(&etag(u64::from(*tag)), body) };
                Command::Put { bucket: BucketId(*bucket), key: name(key), record, conditions: conditions(*condition) }
            }
            Op::Delete { bucket, key, version, condition } => {
                let version = self.choose_version(*bucket, KEYS[*key], *version);
                Command::Delete { bucket: BucketId(*bucket), key: name(key), version, conditions: conditions(*condition), modified_ms: 8 }
            }
            Op::SetVersioning { bucket, attempt, versioning } => {
                Command::SetVersioning { bucket: BucketId(*bucket), attempt: *attempt, versioning: *versioning }
            }
            Op::SetTags { bucket, key, version, tags: numbers } => {
                let version = self.choose_version(*bucket, KEYS[*key], *version);
                let tags = numbers.iter().map(|number| (format!("tag {number}"), "value".repeat(usize::from(*number)))).collect();
                Command::SetTags { bucket: BucketId(*bucket), key: name(key), version, tags }
            }
            Op::Create { bucket, key, upload } => Command::CreateUpload {
                bucket: BucketId(*bucket),
                key: name(key),
                upload: UploadId(self.upload_of(*upload, Some((*bucket, KEYS[*key])))),
                headers: Headers::default(),
                tags: tags(&[("slot", &upload.to_string())]),
                checksum: None,
                created_ms: 1,
            },
            Op::PutPart { bucket, key, upload, number, large, blobs } => {
                let bytes = if *large { u32::try_from(PART_BYTES_MIN).unwrap() } else { 3 };
                let part = part(*number, u64::from(*number) + 10, &self.choose_blobs(blobs, bytes));
                Command::PutPart { bucket: BucketId(*bucket), key: name(key), upload: UploadId(self.upload_of(*upload, None)), part }
            }
            Op::Complete { bucket, key, upload, mask, spoil, condition } => {
                let upload = self.upload_of(*upload, None);
                let known = match self.uploads.get(&(*bucket, name(key), upload)) {
                    Some(parts) => parts.values().cloned().collect(),
                    None => self.completed.get(&upload).map_or(Vec::new(), |completed| completed.3.clone()),
                };
                let wanted = |part: &&Part| mask & 1 << part.number != 0 || self.completed.contains_key(&upload);
                let mut parts: Vec<NamedPart> =
                    known.iter().filter(wanted).map(|part| named(part.number, u64::from(part.number) + 10)).collect();
                match spoil {
                    0 => parts.push(named(7, 7)),
                    1 => parts.reverse(),
                    2 => parts.iter_mut().for_each(|part| part.etag = etag(99)),
                    3 => parts.clear(),
                    _ => {}
                }
                Command::CompleteUpload {
                    bucket: BucketId(*bucket),
                    key: name(key),
                    upload: UploadId(upload),
                    parts,
                    conditions: conditions(*condition),
                    checksum: None,
                    modified_ms: 4,
                }
            }
            Op::Abort { bucket, key, upload } => {
                let upload = UploadId(self.upload_of(*upload, None));
                Command::AbortUpload { bucket: BucketId(*bucket), key: name(key), upload }
            }
            Op::Settle { up_to, asked } => {
                let asked = asked.iter().map(|counter| (Home::of(BucketId(1), "any"), blob_id(u64::from(*counter)))).collect();
                Command::Settle { writer: WriterId(3), up_to: *up_to, asked }
            }
            Op::Collect { entry } => {
                let garbage = machine.garbage();
                let (entry, through) = garbage.get(*entry).map_or_else(
                    || (crate::GarbageId { revision: Revision(9999), ordinal: 0 }, 0),
                    |garbage| (garbage.id, garbage.through),
                );
                Command::Collect { entry, through }
            }
        }
    }

    /// What the command must answer, and do.
    fn judge_command(&mut self, op: &Op, command: &Command, machine: &Machine) -> Outcome {
        match (op, command) {
            (Op::Open { bucket, attempt }, _) => match self.buckets.get(bucket) {
                Some((BucketState::Removed, _)) => Err(Error::StaleAttempt),
                Some((_, last)) if attempt < last => Err(Error::StaleAttempt),
                _ => {
                    self.buckets.insert(*bucket, (BucketState::Open, *attempt));
                    Ok(Answer::Done)
                }
            },
            (Op::Close { bucket, attempt }, _) => match self.buckets.get(bucket) {
                Some((_, last)) if attempt < last => Err(Error::StaleAttempt),
                Some((BucketState::Removed, _)) => Ok(Answer::Empty(true)),
                Some((BucketState::Open, last)) if attempt == last => Err(Error::StaleAttempt),
                _ => {
                    self.buckets.insert(*bucket, (BucketState::Closed, *attempt));
                    Ok(Answer::Empty(self.is_empty(*bucket)))
                }
            },
            (Op::Remove { bucket, attempt }, _) => match self.buckets.get(bucket).copied() {
                None => Err(Error::NotOpen),
                Some((_, last)) if *attempt < last => Err(Error::StaleAttempt),
                Some((BucketState::Removed, _)) => Ok(Answer::Done),
                Some((BucketState::Closed, last)) if *attempt == last && self.is_empty(*bucket) => {
                    self.buckets.insert(*bucket, (BucketState::Removed, last));
                    Ok(Answer::Done)
                }
                Some(_) => malformed(),
            },
            (Op::Put { bucket, condition, .. }, Command::Put { key, record, .. }) => {
                self.writable(*bucket)?;
                self.judge(*bucket, key, *condition)?;
                self.check_new(blobs_of(record))?;
                self.revision += 1;
                let record = Record { revision: Revision(self.revision), null: self.is_null(*bucket), ..record.clone() };
                self.homes.extend(blobs_of(&record).iter().map(|blob| blob.blob.counter));
                let replaced = self.current(*bucket, key).is_some();
                let version = Version::Object(record);
                let shown = self.shown(*bucket, &version);
                self.add(*bucket, key, version);
                Ok(Answer::Applied(Applied { revision: Revision(self.revision), replaced, version: shown, marker: false }))
            }
            (Op::Delete { bucket, condition, .. }, Command::Delete { key, version: None, modified_ms, .. }) => {
                self.writable(*bucket)?;
                self.judge(*bucket, key, *condition)?;
                let replaced = self.current(*bucket, key).is_some();
                if self.versioning(*bucket) == Versioning::Unversioned {
                    self.revision += u64::from(replaced);
                    self.objects.remove(&(*bucket, key.clone()));
                    return Ok(Answer::Applied(Applied { revision: Revision(self.revision), replaced, version: None, marker: false }));
                }
                self.revision += 1;
                let marker = Marker { revision: Revision(self.revision), null: self.is_null(*bucket), modified_ms: *modified_ms };
                let marker = Version::Marker(marker);
                let version = self.shown(*bucket, &marker);
                self.add(*bucket, key, marker);
                Ok(Answer::Applied(Applied { revision: Revision(self.revision), replaced, version, marker: true }))
            }
            (Op::Delete { bucket, condition, .. }, Command::Delete { key, version: Some(id), .. }) => {
                self.writable(*bucket)?;
                let found = self.named(*bucket, key, *id).cloned();
                self.judge_on(found.as_ref().and_then(crate::object::object), *condition)?;
                let replaced = found.is_some();
                if replaced {
                    self.revision += 1;
                    self.remove(*bucket, key, *id);
                }
                let marker = matches!(found, Some(Version::Marker(_)));
                Ok(Answer::Applied(Applied { revision: Revision(self.revision), replaced, version: Some(*id), marker }))
            }
            (Op::SetVersioning { bucket, attempt, versioning }, _) => match self.buckets.get(bucket) {
                _ if *versioning == Versioning::Unversioned => malformed(),
                None | Some((BucketState::Removed, _)) => Err(Error::NotOpen),
                Some((_, last)) if attempt < last => Err(Error::StaleAttempt),
                Some((BucketState::Closed, _)) => Err(Error::Closed),
                Some((BucketState::Open, _)) => {
                    self.buckets.insert(*bucket, (BucketState::Open, *attempt));
                    self.versioning.insert(*bucket, *versioning);
                    Ok(Answer::Done)
                }
            },
            (Op::SetTags { bucket, tags: numbers, .. }, Command::SetTags { key, version, tags, .. }) => {
                self.writable(*bucket)?;
                if !numbers.is_sorted_by(|left, right| left < right) {
                    return malformed();
                }
                let chosen = match version {
                    None => self.versions(*bucket, key).last().ok_or(Error::NoSuchKey),
                    Some(id) => self.named(*bucket, key, *id).ok_or(Error::NoSuchVersion),
                };
                let id = match chosen?.clone() {
                    Version::Marker(marker) => return Err(Error::Marked(marker)),
                    version => version.id(),
                };
                self.revision += 1;
                let versions = self.objects.get_mut(&(*bucket, key.clone())).unwrap();
                let Some(Version::Object(record)) = versions.iter_mut().find(|version| version.id() == id) else { unreachable!() };
                record.tags.clone_from(tags);
                let shown = Some(id).filter(|_| self.versioning(*bucket) != Versioning::Unversioned);
                Ok(Answer::Tagged(Tagged { revision: Revision(self.revision), version: shown }))
            }
            (Op::Create { bucket, .. }, Command::CreateUpload { key, upload, .. }) => {
                self.writable(*bucket)?;
                if self.uploads.contains_key(&(*bucket, key.clone(), upload.0)) {
                    return malformed();
                }
                self.revision += 1;
                self.uploads.insert((*bucket, key.clone(), upload.0), BTreeMap::new());
                Ok(Answer::Done)
            }
            (Op::PutPart { bucket, .. }, Command::PutPart { key, upload, part, .. }) => {
                self.writable(*bucket)?;
                let at = (*bucket, key.clone(), upload.0);
                if !self.uploads.contains_key(&at) {
                    return Err(Error::NoSuchUpload);
                }
                if part.number == 0 {
                    return malformed();
                }
                let Body::Blobs(blobs) = &part.body else { panic!("parts have blobs here") };
                self.check_new(blobs)?;
                self.revision += 1;
                self.homes.extend(blobs.iter().map(|blob| blob.blob.counter));
                self.uploads.get_mut(&at).unwrap().insert(part.number, part.clone());
                Ok(Answer::Done)
            }
            (Op::Complete { bucket, condition, .. }, Command::CompleteUpload { key, upload, parts, modified_ms, .. }) => {
                self.writable(*bucket)?;
                self.complete(*bucket, key, upload.0, parts, *condition, *modified_ms)
            }
            (Op::Abort { bucket, .. }, Command::AbortUpload { key, upload, .. }) => {
                self.writable(*bucket)?;
                self.uploads.remove(&(*bucket, key.clone(), upload.0)).ok_or(Error::NoSuchUpload)?;
                self.revision += 1;
                Ok(Answer::Done)
            }
            (Op::Settle { up_to, asked }, _) => {
                if asked.iter().any(|counter| u64::from(*counter) > *up_to) {
                    // The first one that is wrong decides which refusal it is.
                    let first = asked.iter().position(|counter| u64::from(*counter) > *up_to).unwrap();
                    return if first > 0 && !self.buckets.contains_key(&1) { Err(Error::NotOpen) } else { malformed() };
                }
                if !asked.is_empty() && !self.buckets.contains_key(&1) {
                    return Err(Error::NotOpen);
                }
                self.floor = self.floor.max(*up_to);
                Ok(Answer::Named(asked.iter().map(|counter| u64::from(*counter)).filter(|counter| self.homes.contains(counter)).collect()))
            }
            (Op::Collect { .. }, Command::Collect { entry, .. }) => {
                for garbage in machine.garbage().iter().filter(|garbage| garbage.id == *entry) {
                    for blob in &garbage.blobs {
                        self.homes.remove(&blob.blob.counter);
                    }
                }
                Ok(Answer::Empty(true))
            }
            _ => unreachable!("the command was made from the operation"),
        }
    }

    fn complete(&mut self, bucket: u64, key: &str, upload: u128, named: &[NamedPart], condition: Condition, modified_ms: u64) -> Outcome {
        if named.is_empty() {
            return malformed();
        }
        if !named.windows(2).all(|pair| pair[0].number < pair[1].number) {
            return Err(Error::InvalidPartOrder);
        }
        let at = (bucket, key.to_string(), upload);
        let Some(known) = self.uploads.get(&at) else {
            return match self.completed.get(&upload) {
                Some((of, name, record, parts)) if *of == bucket && name == key => {
                    let same = parts.iter().map(|part| (part.number, &part.etag)).eq(named.iter().map(|part| (part.number, &part.etag)));
                    if same { Ok(Answer::Completed(Box::new(record.clone()))) } else { Err(Error::NoSuchUpload) }
                }
                _ => Err(Error::NoSuchUpload),
            };
        };
        let mut parts = Vec::new();
        for part in named {
            match known.get(&part.number) {
                Some(row) if row.etag == part.etag => parts.push(row.clone()),
                _ => return Err(Error::InvalidPart { number: part.number }),
            }
        }
        if let Some(small) = parts[..parts.len() - 1].iter().find(|part| part.bytes < PART_BYTES_MIN) {
            return Err(Error::EntityTooSmall { number: small.number });
        }
        self.judge(bucket, key, condition)?;
        self.revision += 1;
        let binary: Vec<u8> = named.iter().flat_map(|part| u128::from_str_radix(&part.etag, 16).unwrap().to_be_bytes()).collect();
        let hex = format!("{:032x}", u128::from_be_bytes(Md5::digest(binary).into()));
        let record = Record {
            revision: Revision(self.revision),
            null: self.is_null(bucket),
            etag: format!("{hex}-{}", named.len()),
            modified_ms,
            tags: self.tags_of_upload(upload),
            ..record(
                "",
                Body::Parts {
                    upload: UploadId(upload),
                    parts: parts.iter().map(|part| PartRef { number: part.number, bytes: part.bytes }).collect(),
                },
            )
        };
        self.uploads.remove(&at);
        let completed = Completed { record: record.clone(), versioned: self.versioning(bucket) != Versioning::Unversioned };
        self.completed.insert(upload, (bucket, key.to_string(), completed.clone(), parts));
        self.add(bucket, key, Version::Object(record));
        Ok(Answer::Completed(Box::new(completed)))
    }

    /// Of the slot that it has, which no other upload has before it is gone.
    fn tags_of_upload(&self, upload: u128) -> Vec<(String, String)> {
        let slot = self.slots.iter().find(|(_, of)| **of == upload).expect("it was begun").0;
        tags(&[("slot", &slot.to_string())])
    }

    /// Blobs that a record or a part of an upload under way names.
    fn living(&self) -> BTreeSet<u64> {
        let mut living = BTreeSet::new();
        for record in self.records() {
            match &record.body {
                Body::Parts { upload, .. } => {
                    living.extend(
                        self.completed[&upload.0].3.iter().flat_map(|part| crate::blobs_of(&part.body)).map(|blob| blob.blob.counter),
                    );
                }
                _ => living.extend(blobs_of(record).iter().map(|blob| blob.blob.counter)),
            }
        }
        for parts in self.uploads.values() {
            living.extend(parts.values().flat_map(|part| crate::blobs_of(&part.body)).map(|blob| blob.blob.counter));
        }
        living
    }
}

fn blobs_of(record: &Record) -> &[BlobRef] {
    crate::blobs_of(&record.body)
}

fn run(machine: &mut Machine, command: &Command) -> Outcome {
    let outcome = match command {
        Command::CloseBucket { .. } | Command::Collect { .. } => machine.apply(command).map(Answer::Empty),
        Command::Put { .. } | Command::Delete { .. } => machine.apply(command).map(Answer::Applied),
        Command::CompleteUpload { .. } => machine.apply(command).map(|completed| Answer::Completed(Box::new(completed))),
        Command::SetTags { .. } => machine.apply(command).map(Answer::Tagged),
        Command::Settle { .. } => {
            machine.apply::<Vec<BlobId>>(command).map(|named| Answer::Named(named.iter().map(|blob| blob.counter).collect()))
        }
        _ => machine.apply::<()>(command).map(|()| Answer::Done),
    };
    outcome.map_err(|error| if matches!(error, Error::Malformed(_)) { Error::Malformed(String::new()) } else { error })
}

fn check_state(model: &Model, machine: &Machine) {
    let rows: BTreeSet<u64> = machine.family(keys::BLOBS).iter().map(|row| u64::from_be_bytes(row[9..].try_into().unwrap())).collect();
    assert_eq!(rows, model.homes, "rows of blobs");
    let living = model.living();
    let condemned: BTreeSet<u64> = machine.garbage().iter().flat_map(|garbage| &garbage.blobs).map(|blob| blob.blob.counter).collect();
    assert_eq!(condemned, &model.homes - &living, "a blob with a home is either named or in the queue");
    assert!(living.is_subset(&model.homes), "no living blob was collected");
    for (bucket, (state, attempt)) in &model.buckets {
        let of = |other: &u64| other == bucket;
        let versions = model.objects.iter().filter(|((other, _), _)| of(other)).flat_map(|(_, versions)| versions);
        let objects: Vec<&Record> = versions.filter_map(crate::object::object).collect();
        let usage: Option<BucketUsage> = machine.ask(&Query::Usage { bucket: BucketId(*bucket) }).unwrap();
        let expected = BucketUsage {
            open: *state == BucketState::Open,
            removed: *state == BucketState::Removed,
            attempt: *attempt,
            versioning: model.versioning(*bucket),
            objects: objects.len() as u64,
            bytes: objects.iter().map(|record| record.bytes).sum(),
            uploads: model.uploads.keys().filter(|(other, _, _)| of(other)).count() as u64,
        };
        assert_eq!(usage, Some(expected));
    }
}

fn check_queries(model: &Model, machine: &Machine, question: &Question) {
    for bucket in 1..=2 {
        let readable = matches!(model.buckets.get(&bucket), Some((BucketState::Open | BucketState::Closed, _)));
        let listed: Result<Page<Listed>, Error> = machine.ask(&Query::List { bucket: BucketId(bucket), query: question.0.clone() });
        if !readable {
            assert_eq!(listed, Err(Error::NotOpen));
            continue;
        }
        let of_bucket = model.objects.keys().filter(|(of, _)| *of == bucket).map(|(_, key)| key.as_str());
        let keys = of_bucket.clone().filter(|key| model.current(bucket, key).is_some());
        assert_eq!(names(&listed.unwrap()), reference(keys, &question.0));
        let all = VersionQuery { max: 1000, ..VersionQuery::default() };
        let page: Page<ListedVersion> = machine.ask(&Query::ListVersions { bucket: BucketId(bucket), query: all }).unwrap();
        let mut lines = Vec::new();
        for key in of_bucket {
            let versions = model.versions(bucket, key);
            let newest = versions.last().map(Version::revision);
            lines.extend(versions.iter().rev().map(|one| (key, one.id(), one.revision(), Some(one.revision()) == newest)));
        }
        assert_eq!(page.entries.iter().map(super::versions::line).collect::<Vec<_>>(), lines);
        for key in KEYS {
            let get = |version| machine.ask::<Found>(&Query::Get { bucket: BucketId(bucket), key: key.into(), version }).unwrap();
            let versioned = model.versioning(bucket) != Versioning::Unversioned;
            assert_eq!(get(None), Found { version: model.versions(bucket, key).last().cloned(), versioned });
            assert_eq!(get(Some(VersionId::Null)).version.as_ref(), model.named(bucket, key, VersionId::Null));
            for revision in 0..=model.revision {
                let id = VersionId::Numbered(Revision(revision));
                assert_eq!(get(Some(id)).version.as_ref(), model.named(bucket, key, id));
            }
        }
        for upload in 1..=model.last_upload {
            for key in &KEYS[..2] {
                let query =
                    Query::ListParts { bucket: BucketId(bucket), key: key.to_string(), upload: UploadId(upload), after: 0, max: 100 };
                let found = machine.ask::<(Upload, Page<Part>)>(&query).map(|(_, page)| page.entries);
                let expected = model.uploads.get(&(bucket, key.to_string(), upload)).map(|parts| parts.values().cloned().collect());
                assert_eq!(found, expected.ok_or(Error::NoSuchUpload));
            }
        }
    }
    for record in model.records() {
        if let Body::Parts { upload, .. } = record.body {
            let page: Page<Part> = machine.ask(&Query::CompletedParts { upload, first_number: 0, max: 100 }).unwrap();
            assert_eq!(page.entries, model.completed[&upload.0].3);
        }
    }
}

fn agree(ops: Vec<Op>, questions: Vec<Question>) -> TestResult {
    let mut model = Model::default();
    let mut machine = Machine::default();
    let mut replica = Machine::default();
    // Most runs should have an open bucket.
    let first = Op::Open { bucket: 1, attempt: 0 };
    let mut completed = 0;
    for op in std::iter::once(&first).chain(&ops) {
        let command = model.command(op, &machine);
        let expected = model.judge_command(op, &command, &machine);
        let got = run(&mut machine, &command);
        assert_eq!(got, expected, "{op:?} {command:?}");
        assert_eq!(run(&mut replica, &command), expected, "the same command on another replica");
        assert_eq!(machine.rows.state_hash(), replica.rows.state_hash());
        completed += usize::from(matches!(got, Ok(Answer::Completed(_))));
        check_state(&model, &machine);
    }
    for question in &questions {
        check_queries(&model, &machine, question);
    }
    check_queries(&model, &machine, &Question(crate::ListQuery { max: 100, ..crate::ListQuery::default() }));
    COMPLETED.with(|total| total.set(total.get() + completed));
    TestResult::passed()
}

thread_local! {
    static COMPLETED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[test]
fn random_commands_do_what_the_model_does_on_every_replica() {
    QuickCheck::new().rng(Gen::from_size_and_seed(120, 7)).tests(300).quickcheck(agree as fn(Vec<Op>, Vec<Question>) -> TestResult);
    assert!(COMPLETED.with(std::cell::Cell::get) > 50, "the commands are random enough to complete uploads");
}
