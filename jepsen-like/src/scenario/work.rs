//! [`Workload`]: what clients do, how many, for how long.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::text::{ByteRange, Time};

/// Longest pause between two operations where the scenario does not say: 8 clients do some 6000 in two minutes.
const PAUSE: Duration = Duration::from_millis(400);
/// Limits of a scenario: what a plan and a simulation can hold.
const CLIENTS_MAX: usize = 1000;
const KEYS_MAX: usize = 100_000;
const OPERATIONS_MAX: f64 = 200_000.0;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub kind: WorkloadKind,
    pub clients: usize,
    pub keys: usize,
    /// Sizes of objects, drawn between these.
    pub object_bytes: RangeInclusive<u64>,
    /// When clients begin no further operation, from the start.
    pub until: Duration,
    /// Longest pause of a client between two operations, drawn.
    pub pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    /// PUT, conditional PUT, GET, HEAD and DELETE of few keys by many clients.
    PutGetDelete,
    /// Listings by prefix, delimiter and page, while others write and delete.
    List,
    /// Uploads: parts in any order and replaced, completed, completed again, aborted.
    Multipart,
    /// Copies onto other keys and themselves, and of ranges into uploads.
    Copy,
    /// Few buckets, created and deleted by many while others write into them.
    Buckets,
    /// Callers that are slow, break off, lie, replay and sign wrongly.
    Rude,
    /// More clients at once than the cluster can serve.
    Overload,
    /// Writes, deletions and readings of versions, by name too, while versioning is enabled and suspended.
    Versions,
}

impl WorkloadKind {
    /// As in files.
    pub fn name(self) -> &'static str {
        match self {
            WorkloadKind::PutGetDelete => "put-get-delete",
            WorkloadKind::List => "list",
            WorkloadKind::Multipart => "multipart",
            WorkloadKind::Copy => "copy",
            WorkloadKind::Buckets => "buckets",
            WorkloadKind::Rude => "rude",
            WorkloadKind::Overload => "overload",
            WorkloadKind::Versions => "versions",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkloadTable {
    kind: Spanned<WorkloadKind>,
    clients: usize,
    keys: usize,
    object_bytes: ByteRange,
    until: Time,
    pause: Option<Time>,
}

impl WorkloadTable {
    /// Where and why it makes no sense.
    pub fn unsound(&self) -> Option<(usize, String)> {
        let refuse = |reason: String| Some((self.kind.span().start, format!("{}: {reason}", self.kind.get_ref().name())));
        if !(1..=CLIENTS_MAX).contains(&self.clients) || !(1..=KEYS_MAX).contains(&self.keys) {
            return refuse(format!("1 to {CLIENTS_MAX} clients, and 1 to {KEYS_MAX} keys"));
        }
        // Three pauses in four are half of the longest on average, the others are short; none is below a millisecond.
        let between_s = self.pause().as_secs_f64() * 0.39 + 0.001;
        let operations = self.until.0.as_secs_f64() / between_s * self.clients as f64;
        if operations > OPERATIONS_MAX {
            return refuse(format!("it would be {operations:.0} operations, at most {OPERATIONS_MAX}: longer pauses or fewer clients"));
        }
        None
    }

    fn pause(&self) -> Duration {
        self.pause.map_or(PAUSE, |pause| pause.0)
    }
}

impl From<WorkloadTable> for Workload {
    fn from(table: WorkloadTable) -> Workload {
        Workload {
            pause: table.pause(),
            kind: table.kind.into_inner(),
            clients: table.clients,
            keys: table.keys,
            object_bytes: table.object_bytes.0,
            until: table.until.0,
        }
    }
}
