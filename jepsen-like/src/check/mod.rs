//! Judges histories. A checker never excuses: what it cannot decide it reports as well.

mod linearizable;
mod read_back;

pub use linearizable::linearizable;
pub use read_back::{Final, listing, read_back};

use crate::history::{Seen, Value};

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// I4: a complete reply with wrong bytes.
    #[error("{key}: wrong bytes were returned (operation begun at {begun}): {reason}")]
    WrongBytes { key: String, begun: u64, reason: String },
    /// A read returned what nobody had asked to be written to this key.
    #[error("{key}: operation begun at {begun} read {value:?}, which nobody wrote there")]
    NeverWritten { key: String, begun: u64, value: Value },
    /// I3: no order of the operations explains their results.
    #[error("{key}: not linearizable: {explanation}")]
    NotLinearizable { key: String, explanation: String },
    /// The search was given up; the history is too concurrent to be judged.
    #[error("{key}: undecided after {states} states: fewer clients per key, or fewer unknown outcomes")]
    Undecided { key: String, states: usize },
    /// I1: what was acknowledged is gone, or what was replaced is back.
    #[error("{key}: reads {found:?} at the end; acceptable: {acceptable:?}")]
    Lost { key: String, found: Seen, acceptable: Vec<Seen> },
    /// I1: it cannot be read although all faults are healed.
    #[error("{key}: not readable at the end: {reason}")]
    Unreadable { key: String, reason: String },
    /// A listing at rest does not show what reads show.
    #[error("{key}: {reason}")]
    Listing { key: String, reason: String },
}
