//! Serves the slots of this node's drives.

use protocol::DriveId;
use runtime::disk::Disk;
use runtime::rpc::Rpc;
use std::sync::Arc;

/// The slots of this node's drives, served over RPC (service 1).
pub struct Server {
    _todo: (),
}

/// State of one drive, for status pages and heartbeats.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriveStatus {
    pub drive: DriveId,
    pub label: String,
    /// Why it is closed, if it is.
    pub closed: Option<String>,
    pub slots: u64,
    pub shards: u64,
    pub bytes: u64,
}

impl Server {
    /// Recover the catalogs of `drives` (formatted, identity checked by the caller) and register with `rpc`.
    /// A drive that fails is left out and reported.
    pub async fn open(rpc: &Rpc, drives: Vec<(DriveId, Arc<dyn Disk>)>) -> (Server, Vec<(DriveId, drive::Error)>) {
        let _ = (rpc, drives);
        todo!()
    }

    /// All drives.
    pub fn status(&self) -> Vec<DriveStatus> {
        todo!()
    }
}
