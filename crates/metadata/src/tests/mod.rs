//! Tests of the state machine over rows in memory.

mod claims;
mod golden;
mod lifecycle;
mod listings;
mod model;
mod transcripts;
mod versions;

use crate::commands::{Command, Query, Reply};
use crate::rows::Share;
use crate::{Completed, Error, Found, NamedPart, Part, Partition, Preconditions};
use consensus::StateMachine;
use consensus::rows::MemoryRows;
use protocol::record::{Headers, run};
use protocol::{BlobId, BlobRef, Body, BucketId, Record, Revision, UploadId, Version, VersionId, VolumeId, WriterId, wire};
use serde::de::DeserializeOwned;

pub const BUCKET: BucketId = BucketId(7);
pub const WHOLE: Share = Share { index: 0, of: 1 };
pub const MIB: u64 = 1 << 20;

/// One replica of one partition.
#[derive(Clone, Default)]
pub struct Machine {
    pub rows: MemoryRows,
}

impl Machine {
    /// With [`BUCKET`] open.
    pub fn open() -> Machine {
        let mut machine = Machine::default();
        machine.apply::<()>(&Command::OpenBucket { bucket: BUCKET, attempt: 1, share: WHOLE }).unwrap();
        machine
    }

    pub fn apply<T: DeserializeOwned>(&mut self, command: &Command) -> Result<T, Error> {
        let before = self.rows.state_hash();
        let reply: Reply<T> = wire::decode(&Partition.apply(&mut self.rows.rows_mut(), &wire::encode(command))).unwrap();
        if reply.result.is_err() {
            assert_eq!(before, self.rows.state_hash(), "a refused command wrote a row: {command:?}");
        }
        reply.result
    }

    pub fn ask<T: DeserializeOwned>(&self, query: &Query) -> Result<T, Error> {
        let reply: Reply<T> = wire::decode(&Partition.query(&self.rows.rows(), &wire::encode(query))).unwrap();
        reply.result
    }

    pub fn put(&mut self, key: &str, record: Record) -> Result<crate::Applied, Error> {
        self.apply(&Command::Put { bucket: BUCKET, key: key.into(), record, conditions: Preconditions::default() })
    }

    pub fn get(&self, key: &str) -> Option<Record> {
        self.version(key, None).and_then(Version::record)
    }

    pub fn version(&self, key: &str, version: Option<VersionId>) -> Option<Version> {
        self.ask::<Found>(&Query::Get { bucket: BUCKET, key: key.into(), version }).unwrap().version
    }

    pub fn delete(&mut self, key: &str) -> Result<crate::Applied, Error> {
        self.delete_version(key, None)
    }

    pub fn delete_version(&mut self, key: &str, version: Option<VersionId>) -> Result<crate::Applied, Error> {
        let conditions = Preconditions::default();
        self.apply(&Command::Delete { bucket: BUCKET, key: key.into(), version, conditions, modified_ms: 12 })
    }

    pub fn set_tags(&mut self, key: &str, version: Option<VersionId>, tags: Vec<(String, String)>) -> Result<crate::Tagged, Error> {
        self.apply(&Command::SetTags { bucket: BUCKET, key: key.into(), version, tags })
    }

    pub fn create_upload(&mut self, key: &str, upload: u128) -> Result<(), Error> {
        let headers = Headers::default();
        self.apply(&Command::CreateUpload {
            bucket: BUCKET,
            key: key.into(),
            upload: UploadId(upload),
            headers,
            tags: tags(&[("upload", "1")]),
            checksum: None,
            created_ms: 9,
        })
    }

    pub fn put_part(&mut self, key: &str, upload: u128, part: Part) -> Result<(), Error> {
        self.apply(&Command::PutPart { bucket: BUCKET, key: key.into(), upload: UploadId(upload), part })
    }

    pub fn complete(&mut self, key: &str, upload: u128, parts: Vec<NamedPart>) -> Result<Record, Error> {
        let completed: Result<Completed, Error> = self.apply(&Command::CompleteUpload {
            bucket: BUCKET,
            key: key.into(),
            upload: UploadId(upload),
            parts,
            conditions: Preconditions::default(),
            checksum: None,
            modified_ms: 11,
        });
        completed.map(|completed| completed.record)
    }

    pub fn garbage(&self) -> Vec<crate::Garbage> {
        self.ask(&Query::Garbage { after: None, max: 100 }).unwrap()
    }

    /// Keys of the rows of a family.
    pub fn family(&self, family: u8) -> Vec<Vec<u8>> {
        let range = crate::keys::family(family);
        let mut keys = Vec::new();
        self.rows.rows().scan(&range.start, &range.end, &mut |key, _| {
            keys.push(key.to_vec());
            true
        });
        keys
    }
}

pub fn blob_id(counter: u64) -> BlobId {
    BlobId { writer: WriterId(3), counter }
}

pub fn blob(counter: u64, bytes: u32) -> BlobRef {
    BlobRef { volume: VolumeId(1), blob: blob_id(counter), bytes, checksum: counter }
}

pub fn record(etag: &str, body: Body) -> Record {
    let bytes = match &body {
        Body::Inline(inline) => inline.0.len() as u64,
        Body::Blobs(blobs) => blobs.iter().map(|blob| u64::from(blob.bytes)).sum(),
        Body::Parts { parts, .. } => parts.iter().map(|part| part.bytes).sum(),
    };
    let headers = Headers::default();
    Record { revision: Revision(0), null: false, bytes, etag: etag.into(), checksum: None, headers, modified_ms: 5, tags: Vec::new(), body }
}

pub fn inline(text: &'static str) -> Body {
    Body::Inline(run::Bytes(bytes::Bytes::from_static(text.as_bytes())))
}

pub fn tags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// An ETag that is an MD5 in form.
pub fn etag(number: u64) -> String {
    format!("{number:032x}")
}

pub fn part(number: u16, tag: u64, blobs: &[BlobRef]) -> Part {
    Part {
        number,
        bytes: blobs.iter().map(|blob| u64::from(blob.bytes)).sum(),
        etag: etag(tag),
        checksum: None,
        modified_ms: 6,
        body: Body::Blobs(blobs.to_vec()),
    }
}

pub fn named(number: u16, tag: u64) -> NamedPart {
    NamedPart { number, etag: etag(tag), checksum: None }
}
