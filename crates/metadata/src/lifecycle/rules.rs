//! Which versions and uploads the rules of a lifecycle doom at a moment of cluster time. Pure.
//!
//! Always holds: what is doomed stays so as time goes on, as long as it stands as it does; what has no age yet is not doomed but
//! by a date.

use protocol::lifecycle::{Expiration, Filter, Rule};
use protocol::{Lifecycle, Revision};

use crate::rows::Ages;

/// Most that [`Standing::Noncurrent`] counts: S3 lets no rule keep more.
pub(crate) const NEWER_MAX: u32 = 100;

/// A version as rules see it.
#[derive(Clone, Debug)]
pub(crate) struct Seen<'a> {
    pub key: &'a str,
    pub revision: Revision,
    /// Bytes and tags. `None`: it is a delete marker.
    pub object: Option<(u64, &'a [(&'a str, &'a str)])>,
    pub standing: Standing,
}

/// How a version stands among those of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// `alone`: there is no other one.
    Current { alone: bool },
    /// The next newer one has the revision `since`; between it and the current one are `newer` objects, or more than
    /// [`NEWER_MAX`].
    Noncurrent { since: Revision, newer: u32 },
}

/// The rules that are enabled, at one moment.
pub(crate) struct Judge<'a> {
    rules: Vec<Timed<'a>>,
}

/// A rule, and the last revisions that are old enough for it.
struct Timed<'a> {
    rule: &'a Rule,
    expiration: Option<Revision>,
    noncurrent: Option<Revision>,
    upload: Option<Revision>,
}

/// Every revision is old enough.
const ALL: Revision = Revision(u64::MAX);

impl<'a> Judge<'a> {
    /// When cluster time is `now_ms`.
    pub fn new(lifecycle: &'a Lifecycle, ages: &Ages, now_ms: u64) -> Judge<'a> {
        // Days end at midnight: what was made at t goes at the first midnight that is no earlier than t and so many days.
        let days_ago = |days: u32| {
            let midnight_ms = now_ms - now_ms % lifecycle.day_ms.max(1);
            midnight_ms.checked_sub(u64::from(days).checked_mul(lifecycle.day_ms)?).and_then(|made_ms| ages.made_by(made_ms))
        };
        let timed = |rule: &'a Rule| Timed {
            rule,
            expiration: match rule.expiration {
                None | Some(Expiration::Markers(_)) => None,
                Some(Expiration::Days(days)) => days_ago(days),
                Some(Expiration::At(time_ms)) => (time_ms <= now_ms).then_some(ALL),
            },
            noncurrent: rule.noncurrent.and_then(|noncurrent| days_ago(noncurrent.days)),
            upload: rule.abort_days.and_then(days_ago),
        };
        Judge { rules: lifecycle.rules.iter().filter(|rule| rule.enabled).map(timed).collect() }
    }

    /// Whether some rule dooms this version.
    pub fn dooms(&self, seen: &Seen<'_>) -> bool {
        self.rules.iter().any(|timed| timed.dooms(seen))
    }

    /// Whether some rule dooms an upload that was begun at this revision.
    pub fn dooms_upload(&self, key: &str, begun: Revision) -> bool {
        let doomed = |timed: &Timed<'_>| timed.upload >= Some(begun) && !timed.rule.filter.is_of_objects() && has_prefix(timed.rule, key);
        self.rules.iter().any(doomed)
    }
}

impl Timed<'_> {
    fn dooms(&self, seen: &Seen<'_>) -> bool {
        let due = match (seen.standing, seen.object) {
            (Standing::Current { .. }, Some(_)) => self.expiration >= Some(seen.revision),
            (Standing::Current { alone: false }, None) => false,
            (Standing::Current { alone: true }, None) => {
                self.rule.expiration == Some(Expiration::Markers(true)) || self.expiration >= Some(seen.revision)
            }
            (Standing::Noncurrent { since, newer }, _) => {
                self.noncurrent >= Some(since) && self.rule.noncurrent.is_some_and(|noncurrent| noncurrent.newer <= newer)
            }
        };
        due && has_prefix(self.rule, seen.key) && chooses(&self.rule.filter, seen.object)
    }
}

fn has_prefix(rule: &Rule, key: &str) -> bool {
    rule.filter.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix.as_str()))
}

fn chooses(filter: &Filter, object: Option<(u64, &[(&str, &str)])>) -> bool {
    let Some((bytes, tags)) = object else { return !filter.is_of_objects() };
    filter.larger_than.is_none_or(|least| bytes > least)
        && filter.smaller_than.is_none_or(|most| bytes < most)
        && filter.tags.iter().all(|(key, value)| tags.contains(&(key.as_str(), value.as_str())))
}
