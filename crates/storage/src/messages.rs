//! What travels between [`Client`](crate::Client) and [`Server`](crate::Server): service 1. The epoch that a caller
//! acts under stands in the frame; shard bytes are the frame's body, never part of a message.
//!
//! A request's meta is `wire::encode(message)`, a reply's `wire::encode(Result<message, Error>)`.

use crate::Error;
use bytes::Bytes;
use protocol::layout::{ShardAddress, ShardHeader, SlotAddress};
use protocol::{BlobId, DriveId, Scheme, wire};
use runtime::rpc::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The high byte of all methods here.
pub const SERVICE: u8 = 1;

/// [`CreateSlot`] -> `()`.
pub const CREATE_SLOT: Method = Method(0x0101);
/// [`Append`] with the shard as body -> `()`.
pub const APPEND: Method = Method(0x0102);
/// [`Read`] -> [`ReadReply`] with the blocks as body.
pub const READ: Method = Method(0x0103);
/// [`Fence`] -> [`Page`].
pub const FENCE: Method = Method(0x0104);
/// [`Reopen`] -> `()`.
pub const REOPEN: Method = Method(0x0105);
/// `()` -> `Vec<DriveStatus>`.
pub const STATUS: Method = Method(0x0106);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateSlot {
    pub drive: DriveId,
    pub at: SlotAddress,
    pub scheme: Scheme,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Append {
    pub drive: DriveId,
    pub shard: ShardAddress,
    pub header: ShardHeader,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Read {
    pub drive: DriveId,
    pub shard: ShardAddress,
    pub first: u32,
    pub count: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadReply {
    pub header: ShardHeader,
    /// Of the blocks in the body; each covers the shard's address.
    pub checksums: Vec<u32>,
}

/// Fence the slot under the frame's epoch (again, for further pages), and list what it holds after `after`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fence {
    pub drive: DriveId,
    pub at: SlotAddress,
    pub after: Option<BlobId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    pub shards: Vec<Listed>,
    /// Nothing is known to be missing from the list.
    pub intact: bool,
    /// Where the next page goes on, if there may be one.
    pub next: Option<BlobId>,
}

/// One line of a slot's list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub blob: BlobId,
    pub header: ShardHeader,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reopen {
    pub drive: DriveId,
    pub at: SlotAddress,
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    Bytes::from(wire::encode(message))
}

/// A request's message.
pub(crate) fn decode_request<T: DeserializeOwned>(meta: &[u8]) -> Result<T, Error> {
    wire::decode(meta).map_err(|error| Error::Invalid { detail: error.to_string() })
}

/// A reply's message, or what the service refused. What does not decode says nothing about what was done.
pub(crate) fn decode_reply<T: DeserializeOwned>(meta: &[u8]) -> Result<T, Error> {
    wire::decode::<Result<T, Error>>(meta).unwrap_or_else(|error| Err(Error::Unknown { detail: format!("a reply without sense: {error}") }))
}
