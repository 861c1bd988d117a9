//! Client of storage nodes.

use crate::Error;
use bytes::Bytes;
use protocol::layout::{ShardAddress, ShardHeader, SlotAddress};
use protocol::{BlobId, Epoch, Scheme, SlotPlace};
use runtime::rpc::Rpc;
use runtime::time::Instant;

/// Talks to slots; cheap to clone.
#[derive(Clone)]
pub struct Client {
    _rpc: Rpc,
}

/// Blocks of one shard, each verified against its checksum here, after the network.
#[derive(Clone, Debug)]
pub struct Blocks {
    pub header: ShardHeader,
    /// The blocks asked for, one after another.
    pub bytes: Bytes,
}

/// One line of a slot's list.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Listed {
    pub blob: BlobId,
    pub header: ShardHeader,
}

impl Client {
    pub fn new(rpc: Rpc) -> Client {
        Client { _rpc: rpc }
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
        let _ = (place, at, epoch, scheme, deadline);
        todo!()
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
        let _ = (place, shard, epoch, header, bytes, deadline);
        todo!()
    }

    /// Read blocks `first .. first + count` of a shard, under any epoch. Verified on the drive's node and again here.
    pub async fn read(&self, place: SlotPlace, shard: ShardAddress, first: u32, count: u32, deadline: Instant) -> Result<Blocks, Error> {
        let _ = (place, shard, first, count, deadline);
        todo!()
    }

    /// Raise the slot's epoch durably, end appends in flight, and return its list page by page.
    pub async fn fence(&self, place: SlotPlace, at: SlotAddress, epoch: Epoch, deadline: Instant) -> Result<Vec<Listed>, Error> {
        let _ = (place, at, epoch, deadline);
        todo!()
    }

    /// Let the slot take shards again under `epoch` (greater than its present one). Used when a volume reopens.
    pub async fn reopen(&self, place: SlotPlace, at: SlotAddress, epoch: Epoch, deadline: Instant) -> Result<(), Error> {
        let _ = (place, at, epoch, deadline);
        todo!()
    }
}
