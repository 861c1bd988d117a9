//! Judges histories. A checker never excuses: what it cannot decide it reports as well.

mod by_revision;
mod by_search;
mod by_zones;
mod linearizable;
mod listing;
pub mod model;
mod read_back;
mod register;
mod search;
#[cfg(test)]
mod tests;

pub use linearizable::{Verdicts, linearizable, linearizable_by_revision, linearizable_by_search, linearizable_by_zones};
pub use listing::listings;
pub use read_back::{Final, listing, read_back};

use crate::history::{Seen, Value};

/// What one method says of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It found an order that explains every result.
    Linearizable,
    /// There is none, and why.
    Violated(String),
    /// It cannot tell, and why.
    Undecided(String),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Linearizable => formatter.write_str("linearizable"),
            Verdict::Violated(why) => write!(formatter, "violated: {why}"),
            Verdict::Undecided(why) => write!(formatter, "undecided: {why}"),
        }
    }
}

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
    #[error("{key}: not linearizable\n  {explanation}")]
    NotLinearizable { key: String, explanation: String },
    /// One method found an order, another says that there is none: the revisions are wrong, or a checker is.
    #[error("{key}: the methods disagree\n  {verdicts}")]
    Disagreement { key: String, verdicts: String },
    /// No method could decide; the history is too concurrent to be judged.
    #[error("{key}: undecided: fewer clients per key, or fewer unknown outcomes\n  {reasons}")]
    Undecided { key: String, reasons: String },
    /// I1: what was acknowledged is gone, or what was replaced is back.
    #[error("{key}: reads {found:?} at the end; acceptable: {acceptable:?}")]
    Lost { key: String, found: Seen, acceptable: Vec<Seen> },
    /// I1: it cannot be read although all faults are healed.
    #[error("{key}: not readable at the end: {reason}")]
    Unreadable { key: String, reason: String },
    /// A listing does not show what reads show, or what must have been there.
    #[error("{key}: {reason}")]
    Listing { key: String, reason: String },
    /// No run of the reference model gives these results.
    #[error("{object}: the model cannot do this: {explanation}")]
    Model { object: String, explanation: String },
}

impl Violation {
    /// The check that found it, in kebab-case.
    pub fn check(&self) -> &'static str {
        match self {
            Violation::WrongBytes { .. } => "wrong-bytes",
            Violation::NeverWritten { .. } => "never-written",
            Violation::NotLinearizable { .. } => "linearizable",
            Violation::Disagreement { .. } => "methods-disagree",
            Violation::Undecided { .. } => "undecided",
            Violation::Lost { .. } => "read-back",
            Violation::Unreadable { .. } => "readable-at-the-end",
            Violation::Listing { .. } => "listing",
            Violation::Model { .. } => "model",
        }
    }

    /// Whether it speaks of `key`.
    fn is_of(&self, of: &str) -> bool {
        match self {
            Violation::WrongBytes { key, .. }
            | Violation::NeverWritten { key, .. }
            | Violation::NotLinearizable { key, .. }
            | Violation::Disagreement { key, .. }
            | Violation::Undecided { key, .. }
            | Violation::Lost { key, .. }
            | Violation::Unreadable { key, .. }
            | Violation::Listing { key, .. } => key == of,
            Violation::Model { object, .. } => object == of,
        }
    }
}
