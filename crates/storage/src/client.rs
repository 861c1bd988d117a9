//! Client of storage nodes.
//! Invariant: bytes that it returns were verified here, against checksums that cover their address.

use crate::messages::{self, Append, CreateSlot, Fence, Listed, Page, Read, ReadReply, Reopen};
use crate::{DriveStatus, Error};
use bytes::Bytes;
use protocol::layout::{ShardAddress, ShardHeader, SlotAddress};
use protocol::limits::SHARD_BLOCK_BYTES;
use protocol::{BlobId, Epoch, NodeId, Scheme, SlotPlace};
use runtime::rpc::{Class, Method, Received, Rpc};
use runtime::time::Instant;
use serde::Serialize;

/// Most shards that a slot can hold: each takes a header of a sector at least.
const LISTED_MAX: usize = (protocol::limits::SLOT_BYTES / 512) as usize;

/// Talks to slots; cheap to clone.
#[derive(Clone)]
pub struct Client {
    rpc: Rpc,
}

/// Blocks of one shard, each verified against its checksum here, after the network.
#[derive(Clone, Debug)]
pub struct Blocks {
    pub header: ShardHeader,
    /// The blocks asked for, one after another.
    pub bytes: Bytes,
}

/// What a fenced slot holds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct List {
    pub shards: Vec<Listed>,
    /// False if parts of the slot are damaged: then that a shard is missing here says nothing.
    pub intact: bool,
}

impl Client {
    pub fn new(rpc: Rpc) -> Client {
        Client { rpc }
    }

    /// Create the slot, file and directory durable. Idempotent for the same epoch and scheme.
    pub async fn create_slot(
        &self,
        place: SlotPlace,
        at: SlotAddress,
        epoch: Epoch,
        scheme: Scheme,
        deadline: Instant,
    ) -> Result<(), Error> {
        let message = CreateSlot { drive: place.drive, at, scheme };
        let reply = self.call(place.node, Class::Control, messages::CREATE_SLOT, epoch, &message, Vec::new(), deadline).await?;
        messages::decode_reply(&reply.meta)
    }

    /// Append one shard under `epoch`; returns when its bytes are durable. Appending the same shard again succeeds.
    pub async fn append(
        &self,
        place: SlotPlace,
        shard: ShardAddress,
        epoch: Epoch,
        header: ShardHeader,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<(), Error> {
        let message = Append { drive: place.drive, shard, header };
        let reply = self.call(place.node, Class::Bulk, messages::APPEND, epoch, &message, vec![bytes], deadline).await?;
        messages::decode_reply(&reply.meta)
    }

    /// Read blocks `first .. first + count` of a shard, under any epoch. Verified on the drive's node and again here.
    pub async fn read(&self, place: SlotPlace, shard: ShardAddress, first: u32, count: u32, deadline: Instant) -> Result<Blocks, Error> {
        let message = Read { drive: place.drive, shard, first, count };
        let reply = self.call(place.node, Class::Bulk, messages::READ, Epoch(0), &message, Vec::new(), deadline).await?;
        let ReadReply { header, checksums } = messages::decode_reply(&reply.meta)?;
        if checksums.len() != count as usize || reply.body.len() > count as usize * SHARD_BLOCK_BYTES {
            return Err(Error::Corrupt { detail: format!("{} blocks came, {count} were asked for", checksums.len()) });
        }
        drive::verify_blocks(&shard, first, &checksums, &reply.body)?;
        Ok(Blocks { header, bytes: reply.body })
    }

    /// Raise the slot's epoch durably, end appends in flight, and return its list.
    pub async fn fence(&self, place: SlotPlace, at: SlotAddress, epoch: Epoch, deadline: Instant) -> Result<List, Error> {
        let mut list = List { shards: Vec::new(), intact: true };
        let mut after: Option<BlobId> = None;
        loop {
            let message = Fence { drive: place.drive, at, after };
            let reply = self.call(place.node, Class::Control, messages::FENCE, epoch, &message, Vec::new(), deadline).await?;
            let Page { shards, intact, next } = messages::decode_reply(&reply.meta)?;
            list.intact &= intact;
            list.shards.extend(shards);
            if next.is_none() {
                return Ok(list);
            }
            if next <= after || list.shards.len() > LISTED_MAX {
                return Err(Error::Invalid { detail: "the pages of a slot's list do not go on".to_string() });
            }
            after = next;
        }
    }

    /// Let the slot take shards again under `epoch` (greater than its present one). Used when a volume reopens.
    pub async fn reopen(&self, place: SlotPlace, at: SlotAddress, epoch: Epoch, deadline: Instant) -> Result<(), Error> {
        let message = Reopen { drive: place.drive, at };
        let reply = self.call(place.node, Class::Control, messages::REOPEN, epoch, &message, Vec::new(), deadline).await?;
        messages::decode_reply(&reply.meta)
    }

    /// All drives of a node.
    pub async fn status(&self, node: NodeId, deadline: Instant) -> Result<Vec<DriveStatus>, Error> {
        let reply = self.call(node, Class::Control, messages::STATUS, Epoch(0), &(), Vec::new(), deadline).await?;
        messages::decode_reply(&reply.meta)
    }

    #[allow(clippy::too_many_arguments)] // They are the fields of a request.
    async fn call<T: Serialize>(
        &self,
        node: NodeId,
        class: Class,
        method: Method,
        epoch: Epoch,
        message: &T,
        body: Vec<Bytes>,
        deadline: Instant,
    ) -> Result<Received, Error> {
        Ok(self.rpc.call(node, class, method, epoch.0, messages::encode(message), body, deadline).await?)
    }
}
