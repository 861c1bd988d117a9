//! [`Workload`]: what clients do, how many, for how long.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::text::{ByteRange, Time};

/// Pause between two operations where the scenario does not say.
const PAUSE: Duration = Duration::from_millis(20);
/// Limits of a scenario: what a plan and a simulation can hold.
const CLIENTS_MAX: usize = 1000;
const KEYS_MAX: usize = 100_000;

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
        let fits = (1..=CLIENTS_MAX).contains(&self.clients) && (1..=KEYS_MAX).contains(&self.keys);
        let reason = || format!("{}: 1 to {CLIENTS_MAX} clients, and 1 to {KEYS_MAX} keys", self.kind.get_ref().name());
        (!fits).then(|| (self.kind.span().start, reason()))
    }
}

impl From<WorkloadTable> for Workload {
    fn from(table: WorkloadTable) -> Workload {
        Workload {
            kind: table.kind.into_inner(),
            clients: table.clients,
            keys: table.keys,
            object_bytes: table.object_bytes.0,
            until: table.until.0,
            pause: table.pause.map_or(PAUSE, |pause| pause.0),
        }
    }
}
