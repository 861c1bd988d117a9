//! A client of Raft groups: finds leaders, proposes commands, reads linearizably.

use bytes::Bytes;
use protocol::{CommandId, GroupId};
use runtime::time::Instant;

/// Proposes to and reads from groups; cheap to clone.
#[derive(Clone)]
pub struct Client {
    _todo: (),
}

/// A command's place in its writer's session: the group remembers replies above `lowest_unfinished`, so that a
/// retried command is applied once and a late duplicate never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    pub id: CommandId,
    /// No command of this writer below it will be retried.
    pub lowest_unfinished: u64,
}

/// Why there is no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Certainly not applied, and never will be.
    #[error("group {group} does not answer: {reason}")]
    Unavailable { group: GroupId, reason: String },
    /// It may have been applied, or may yet be.
    #[error("outcome unknown in group {group}: {reason}")]
    Unknown { group: GroupId, reason: String },
    /// The group shed load before taking it.
    #[error("group {group} is busy")]
    Busy { group: GroupId },
    /// The session says that this command was finished long ago.
    #[error("command {id:?} is too old")]
    TooOld { id: CommandId },
}

impl Client {
    /// Propose `command` and return the state machine's reply. With a session it is retried over leader changes
    /// until `deadline`; without one it is sent once.
    pub async fn propose(&self, group: GroupId, session: Option<Session>, command: Bytes, deadline: Instant) -> Result<Bytes, Error> {
        let _ = (group, session, command, deadline);
        todo!()
    }

    /// Query linearizably (ReadIndex); retried over leader changes until `deadline`.
    pub async fn read(&self, group: GroupId, query: Bytes, deadline: Instant) -> Result<Bytes, Error> {
        let _ = (group, query, deadline);
        todo!()
    }
}
