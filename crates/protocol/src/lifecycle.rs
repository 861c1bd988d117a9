//! The lifecycle of a bucket: which versions and uploads its rules choose, and when these go. The root group keeps it, every
//! partition judges by its own copy.

use serde::{Deserialize, Serialize};

use crate::limits::{LIFECYCLE_BYTES_MAX, LIFECYCLE_RULES_MAX};
use crate::wire;

/// A day, in milliseconds.
pub const DAY_MS: u64 = 24 * 3600 * 1000;

/// The rules of a bucket. Without any, nothing expires.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lifecycle {
    /// How long the days of its rules are, in milliseconds: [`DAY_MS`], and less where tests have no time. They begin at
    /// multiples of it since 1970.
    pub day_ms: u64,
    pub rules: Vec<Rule>,
}

/// One rule. Rules add up: what any of them dooms goes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rule {
    pub id: String,
    /// One that is not does nothing.
    pub enabled: bool,
    pub filter: Filter,
    /// Its prefix stands beside its filter, as it did before there were any: it is shown as it came.
    pub bare_prefix: bool,
    pub expiration: Option<Expiration>,
    pub noncurrent: Option<Noncurrent>,
    /// Uploads go so many days after they were begun.
    pub abort_days: Option<u32>,
}

/// What a rule chooses: what all of this holds for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Filter {
    pub prefix: Option<String>,
    /// Key and value; an object has all of them. Delete markers and uploads have none.
    pub tags: Vec<(String, String)>,
    /// Objects of more bytes than this.
    pub larger_than: Option<u64>,
    /// Objects of fewer bytes than this.
    pub smaller_than: Option<u64>,
}

/// When current versions go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Expiration {
    /// So many days after they were made, at the end of that day. A delete marker that hides nothing, too.
    Days(u32),
    /// At this time, in milliseconds since 1970, and whatever is made later.
    At(u64),
    /// Delete markers that hide nothing, at once; or, if not, nothing.
    Markers(bool),
}

/// When versions that are not current go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Noncurrent {
    /// So many days after the next newer version was made, at the end of that day.
    pub days: u32,
    /// So many of the newest objects that are not current stay, however old they are.
    pub newer: u32,
}

impl Filter {
    /// How many conditions it has.
    pub fn conditions(&self) -> usize {
        let single = [self.prefix.is_some(), self.larger_than.is_some(), self.smaller_than.is_some()];
        single.into_iter().filter(|set| *set).count() + self.tags.len()
    }

    /// Whether it asks of an object what neither a delete marker nor an upload has.
    pub fn is_of_objects(&self) -> bool {
        !self.tags.is_empty() || self.larger_than.is_some() || self.smaller_than.is_some()
    }
}

impl Lifecycle {
    /// Why it cannot be kept, if so.
    pub fn unsound(&self) -> Option<&'static str> {
        if self.rules.len() > LIFECYCLE_RULES_MAX {
            return Some("a lifecycle has at most 1000 rules");
        }
        if wire::encode(self).len() > LIFECYCLE_BYTES_MAX {
            return Some("the rules of a lifecycle take at most 128 KiB");
        }
        (!self.rules.is_empty() && self.day_ms == 0).then_some("a day of a lifecycle lasts some time")
    }
}
