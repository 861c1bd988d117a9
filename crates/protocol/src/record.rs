//! The record of one object version.

use crate::ids::{BlobId, Revision, UploadId, VolumeId};
use serde::{Deserialize, Serialize};

/// A blob as a record names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlobRef {
    pub volume: VolumeId,
    pub blob: BlobId,
    /// Bytes of the object in this blob.
    pub bytes: u32,
    /// CRC-64/NVME of those bytes.
    pub checksum: u64,
}

/// Kind of an S3 checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum ChecksumKind {
    Crc32,
    Crc32C,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// An S3 checksum: of the whole object, or (multipart, SHA and some CRC) of the parts' checksums.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checksum {
    pub kind: ChecksumKind,
    /// Raw bytes, big endian for CRCs, as S3 encodes them in base64.
    pub value: Vec<u8>,
    /// True: checksum of checksums (`COMPOSITE`, shown with a `-N` suffix); false: `FULL_OBJECT`.
    pub composite: bool,
}

/// Where the bytes of a version are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body {
    /// In the record itself.
    Inline(run::Bytes),
    /// In blobs, in order.
    Blobs(Vec<BlobRef>),
    /// In the parts of a completed upload, in order; each part is a row of its own.
    Parts { upload: UploadId, parts: Vec<PartRef> },
}

/// One part of a completed upload as its record names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartRef {
    pub number: u16,
    pub bytes: u64,
}

/// Content headers and user metadata, kept as they came.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Headers {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    /// As the client sent it.
    pub expires: Option<String>,
    /// Sorted by name; names in lower case without `x-amz-meta-`.
    pub user: Vec<(String, String)>,
}

/// Versioning of a bucket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum Versioning {
    /// Never set. Writes replace the one version that a key has, its null version.
    #[default]
    Unversioned,
    /// Writes add versions.
    Enabled,
    /// Writes replace the null version of their key, and no other one.
    Suspended,
}

/// A version of a key as requests name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum VersionId {
    /// The one that was written while versioning was not enabled.
    Null,
    /// One that was written while it was.
    Numbered(Revision),
}

/// A delete marker: the version that hides those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// Place in the order of versions.
    pub revision: Revision,
    /// It is its key's null version.
    pub null: bool,
    /// Milliseconds since 1970 by the gateway's clock; shown to clients, judged by nobody.
    pub modified_ms: u64,
}

/// One version of a key.
#[allow(clippy::large_enum_variant, reason = "nearly every version is an object, and few are held at once")]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Version {
    Object(Record),
    Marker(Marker),
}

impl Version {
    /// Place in the order of versions.
    pub fn revision(&self) -> Revision {
        match self {
            Version::Object(record) => record.revision,
            Version::Marker(marker) => marker.revision,
        }
    }

    /// Whether it is its key's null version.
    pub fn is_null(&self) -> bool {
        match self {
            Version::Object(record) => record.null,
            Version::Marker(marker) => marker.null,
        }
    }

    /// How requests name it.
    pub fn id(&self) -> VersionId {
        if self.is_null() { VersionId::Null } else { VersionId::Numbered(self.revision()) }
    }

    /// The object, unless it is a marker.
    pub fn record(self) -> Option<Record> {
        match self {
            Version::Object(record) => Some(record),
            Version::Marker(_) => None,
        }
    }
}

/// Metadata of one object version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Place in the order of versions; set by the partition when it applies the write.
    pub revision: Revision,
    /// It is its key's null version; set by the partition, too.
    pub null: bool,
    /// Bytes of the object.
    pub bytes: u64,
    /// ETag without quotes: MD5 in hex, or MD5 of MD5s with `-N`.
    pub etag: String,
    pub checksum: Option<Checksum>,
    pub headers: Headers,
    /// Milliseconds since 1970 by the gateway's clock; shown to clients, judged by nobody.
    pub modified_ms: u64,
    /// Key and value. Sorted by key, each key once; bounded by [`crate::limits::TAGS_MAX`] and what follows it. They change
    /// without making another version.
    pub tags: Vec<(String, String)>,
    pub body: Body,
}

/// Bytes that postcard writes as one run instead of element by element.
pub mod run {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use std::fmt;

    /// A run of bytes.
    #[derive(Clone, PartialEq, Eq, Default)]
    pub struct Bytes(pub bytes::Bytes);

    impl fmt::Debug for Bytes {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} bytes", self.0.len())
        }
    }

    impl Serialize for Bytes {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Bytes {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
            struct Visitor;
            impl de::Visitor<'_> for Visitor {
                type Value = Bytes;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("bytes")
                }

                fn visit_bytes<E: de::Error>(self, run: &[u8]) -> Result<Bytes, E> {
                    Ok(Bytes(bytes::Bytes::copy_from_slice(run)))
                }

                fn visit_byte_buf<E: de::Error>(self, run: Vec<u8>) -> Result<Bytes, E> {
                    Ok(Bytes(run.into()))
                }
            }
            deserializer.deserialize_bytes(Visitor)
        }
    }
}
