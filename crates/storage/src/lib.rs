//! The storage node: slots of all its drives behind RPC, with the epoch fence; and its client.
//! Never sees a bucket or a key.

pub mod client;
pub mod server;

pub use client::Client;
pub use server::Server;

/// Why a slot did not do what was asked. Travels in replies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum Error {
    /// The caller's epoch is not the slot's; nothing was changed (I11).
    #[error("stale epoch: the slot is at {slot}")]
    StaleEpoch { slot: protocol::Epoch },
    /// The slot was fenced: it takes no more shards under any epoch up to this.
    #[error("sealed at epoch {slot}")]
    Sealed { slot: protocol::Epoch },
    #[error("no such slot or shard")]
    NotFound,
    /// The bytes there fail their checksum; they were not returned (I4).
    #[error("corrupt: {detail}")]
    Corrupt { detail: String },
    /// The drive is closed or gone.
    #[error("drive unavailable: {detail}")]
    Drive { detail: String },
    #[error("no space left")]
    Full,
    #[error("busy")]
    Busy,
    /// The request itself is not sound.
    #[error("bad request: {detail}")]
    Invalid { detail: String },
    /// No reply, certainly not done.
    #[error("unreachable: {detail}")]
    Unreachable { detail: String },
    /// No reply, may have been done.
    #[error("no reply: {detail}")]
    Unknown { detail: String },
}
