#![doc = include_str!("../README.md")]

pub mod client;
pub mod messages;
pub mod server;

pub use client::{Blocks, Client, List};
pub use messages::Listed;
pub use server::{DriveStatus, Server};

use drive::Refusal;

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
    /// The drive is closed or gone. Names the drive.
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

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::StaleEpoch { slot } => Error::StaleEpoch { slot },
            Refusal::Sealed { slot } => Error::Sealed { slot },
            Refusal::NotFound => Error::NotFound,
            Refusal::Corrupt { detail } => Error::Corrupt { detail },
            Refusal::Closed { detail } => Error::Drive { detail },
            Refusal::Full => Error::Full,
            Refusal::Busy => Error::Busy,
            Refusal::Invalid { detail } => Error::Invalid { detail },
        }
    }
}

impl From<runtime::rpc::Error> for Error {
    fn from(error: runtime::rpc::Error) -> Error {
        match error {
            runtime::rpc::Error::Unreachable { .. } => Error::Unreachable { detail: error.to_string() },
            runtime::rpc::Error::Unknown { .. } => Error::Unknown { detail: error.to_string() },
            runtime::rpc::Error::Busy { .. } => Error::Busy,
        }
    }
}
