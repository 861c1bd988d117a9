//! Every limit of the system, in one place.

use std::time::Duration;

/// Longest object key in bytes of UTF-8 (S3's limit).
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest object in one PUT, and largest part (S3's limit, 5 GiB).
pub const PUT_BYTES_MAX: u64 = 5 << 30;
/// Largest object (S3's limit, 5 TiB).
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Smallest part but the last (S3's limit).
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// Largest part number (S3's limit).
pub const PART_NUMBER_MAX: u16 = 10_000;
/// Most user metadata, names and values (S3's limit).
pub const USER_METADATA_BYTES_MAX: usize = 2 * 1024;
/// Most tags of an object (S3's limit).
pub const TAGS_MAX: usize = 10;
/// Longest key of a tag in units of UTF-16 (S3's limit).
pub const TAG_KEY_UNITS_MAX: usize = 128;
/// Longest value of a tag in units of UTF-16 (S3's limit).
pub const TAG_VALUE_UNITS_MAX: usize = 256;
/// Most tags of a bucket (S3's limit).
pub const BUCKET_TAGS_MAX: usize = 50;
/// Most rules of a bucket's lifecycle (S3's limit).
pub const LIFECYCLE_RULES_MAX: usize = 1000;
/// Largest lifecycle of a bucket, encoded.
pub const LIFECYCLE_BYTES_MAX: usize = 128 << 10;
/// Most entries in one page of a listing.
pub const LIST_KEYS_MAX: usize = 1000;
/// Most keys in one DeleteObjects.
pub const DELETE_OBJECTS_MAX: usize = 1000;
/// Largest body of a request that carries XML.
pub const XML_BYTES_MAX: usize = 2 << 20;

/// Largest blob.
pub const BLOB_BYTES_MAX: usize = 32 << 20;
/// Blob size of a gateway, unless pressure shrinks it.
pub const BLOB_BYTES: usize = 8 << 20;
/// Most bytes that a stripe puts into one shard; also the unit of a shard's block checksums.
pub const SHARD_BLOCK_BYTES: usize = 64 << 10;
/// Objects up to this size lie inline in their record.
pub const INLINE_BYTES_MAX: usize = 8 << 10;
/// Most slots in a volume.
pub const SLOTS_MAX: usize = 32;
/// Bytes in a slot beyond which its volume is sealed as full.
pub const SLOT_BYTES: u64 = 1 << 30;

/// Largest command of a Raft group.
pub const COMMAND_BYTES_MAX: usize = 2 << 20;
/// Largest meta section of an RPC frame.
pub const FRAME_META_BYTES_MAX: usize = 4 << 20;
/// Largest body of an RPC frame.
pub const FRAME_BODY_BYTES_MAX: usize = 36 << 20;
/// Requests under way on one connection between two nodes.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 1024;
/// Most bytes of object bodies that a gateway holds at once.
pub const GATEWAY_BYTES_MAX: usize = 192 << 20;
/// Memory of a node for the replicas of its metadata groups: pages of their databases, and entries of their logs.
pub const METADATA_BYTES_MAX: usize = 384 << 20;

/// The longest that a PUT waits for the cluster, from its last byte.
pub const PUT_WAIT: Duration = Duration::from_secs(5);
/// A node without heartbeat for this long is suspected: nothing new goes there.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(15);
/// Interval of heartbeats to the root group.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
