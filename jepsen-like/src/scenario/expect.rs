//! [`Expect`]: what must hold. That nothing panics, that no wrong byte is returned and that replicas agree is expected of
//! every run, and not written.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::text::{FromText, Time, from_text};

/// What must hold at the end.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Expect {
    /// `reads = "linearizable"`.
    pub linearizable: bool,
    /// `listings = "complete"`.
    pub listings_complete: bool,
    /// `acknowledged = "..."`.
    pub acknowledged: Option<Acknowledged>,
    /// `redundancy = "full within 120s of the last fault"`.
    pub redundancy_within: Option<Duration>,
    /// `service = "back within 10s of the last fault"`.
    pub service_within: Option<Duration>,
    /// `voters = "full"`: each group has as many voters as it was founded with, and all run.
    pub voters_full: bool,
    /// `orphans = "none"`.
    pub no_orphans: bool,
    /// `queues = "empty"`.
    pub queues_empty: bool,
    /// `memory = "bounded"`.
    pub memory_bounded: bool,
}

/// What must be left of acknowledged versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Acknowledged {
    /// All of them.
    #[serde(rename = "never lost")]
    NeverLost,
    /// Beyond the fault budget: what the system says is lost is what the ledger says, and never a wrong byte.
    #[serde(rename = "lost as the ledger says")]
    LostAsTheLedgerSays,
}

impl Expect {
    /// Expectations that are written, but that nothing judges yet. A run must name them, never pass them silently.
    pub fn not_judged(&self) -> Vec<&'static str> {
        let written = [(self.redundancy_within.is_some(), "redundancy"), (self.no_orphans, "orphans"), (self.queues_empty, "queues")];
        written.into_iter().filter(|(written, _)| *written).map(|(_, name)| name).collect()
    }
}

struct FullWithin(Duration);
struct BackWithin(Duration);
from_text!(FullWithin, BackWithin);

/// `WHAT within 10s of the last fault`.
fn within(text: &str, what: &str) -> Option<Duration> {
    let time = text.strip_prefix(what)?.strip_prefix(" within ")?.strip_suffix(" of the last fault")?;
    Time::from_text(time).map(|time| time.0)
}

impl FromText for FullWithin {
    const FORM: &'static str = "\"full within 120s of the last fault\"";
    fn from_text(text: &str) -> Option<FullWithin> {
        within(text, "full").map(FullWithin)
    }
}

impl FromText for BackWithin {
    const FORM: &'static str = "\"back within 10s of the last fault\"";
    fn from_text(text: &str) -> Option<BackWithin> {
        within(text, "back").map(BackWithin)
    }
}

/// The only word that an expectation knows.
macro_rules! word {
    ($name:ident = $word:literal) => {
        #[derive(Deserialize)]
        enum $name {
            #[serde(rename = $word)]
            Said,
        }
    };
}
word!(Linearizable = "linearizable");
word!(Complete = "complete");
word!(Full = "full");
word!(Nothing = "none");
word!(Empty = "empty");
word!(Bounded = "bounded");

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectTable {
    reads: Option<Linearizable>,
    listings: Option<Complete>,
    acknowledged: Option<Spanned<Acknowledged>>,
    redundancy: Option<FullWithin>,
    service: Option<BackWithin>,
    voters: Option<Full>,
    orphans: Option<Nothing>,
    queues: Option<Empty>,
    memory: Option<Bounded>,
}

impl ExpectTable {
    /// Where and why it makes no sense. `beyond`: some fault is beyond the budget.
    pub fn unsound(&self, beyond: bool) -> Option<(usize, String)> {
        let acknowledged = self.acknowledged.as_ref()?;
        let reason = match (acknowledged.get_ref(), beyond) {
            (Acknowledged::NeverLost, true) => "faults beyond the budget may lose what was acknowledged: \"lost as the ledger says\"",
            (Acknowledged::LostAsTheLedgerSays, false) => "nothing is lost unless a fault has budget = \"beyond\": \"never lost\"",
            _ => return None,
        };
        Some((acknowledged.span().start, format!("acknowledged: {reason}")))
    }
}

impl From<ExpectTable> for Expect {
    fn from(table: ExpectTable) -> Expect {
        Expect {
            linearizable: table.reads.is_some(),
            listings_complete: table.listings.is_some(),
            acknowledged: table.acknowledged.map(Spanned::into_inner),
            redundancy_within: table.redundancy.map(|FullWithin(time)| time),
            service_within: table.service.map(|BackWithin(time)| time),
            voters_full: table.voters.is_some(),
            no_orphans: table.orphans.is_some(),
            queues_empty: table.queues.is_some(),
            memory_bounded: table.memory.is_some(),
        }
    }
}
