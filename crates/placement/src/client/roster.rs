//! All identities of the cluster, as a client knows them: so that one whom nobody knows costs the root no more than one whom everybody
//! knows, and so that one who was removed is refused in time, whatever is cut off.
//!
//! Always holds: at [`Roster::true_at`], or later, the rows were what the root group had. That moment is when the root was *asked*, by this
//! node's own monotonic clock, not when its answer came: an answer may have lain in a buffer while the process stood still.

use super::AGE_MAX;
use crate::cache::Cached;
use crate::root::identities::Identity;
use runtime::planted;
use runtime::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest that an identity is taken for what it was: from then on whoever removed, disabled or rotated it may rely on that no
/// gateway takes its former secret key. Longer than two questions of a watch take, so that a gateway that is told of changes need not ask.
pub const IDENTITY_AGE_MAX: Duration = Duration::from_secs(30);
/// The root could not be asked: for so long it is not asked again on behalf of those who are known.
const EXCUSED: Duration = Duration::from_secs(1);

pub(super) struct Roster {
    rows: BTreeMap<String, Identity>,
    /// All changes up to it are in the rows.
    revision: u64,
    true_at: Instant,
    /// Every change after `revision` was told, or will be.
    covered: bool,
    excused: Option<Instant>,
}

impl Roster {
    /// What the root had at `revision`, when it was asked at `asked`.
    pub fn new(identities: Vec<Identity>, revision: u64, asked: Instant, covered: bool) -> Roster {
        let rows = identities.into_iter().map(|identity| (identity.access_key.clone(), identity)).collect();
        Roster { rows, revision, true_at: asked, covered, excused: None }
    }

    /// Whether a list of `revision` is older than this one, where changes up to `told` are known.
    pub fn is_later_than(&self, revision: u64, told: Option<u64>) -> bool {
        let covered_to = told.filter(|_| self.covered).unwrap_or(0);
        self.revision.max(covered_to) > revision
    }

    /// What this identity is since `revision`; `None`: there is none.
    pub fn take(&mut self, revision: u64, access_key: &str, identity: Option<&Identity>) {
        if revision <= self.revision {
            return;
        }
        if self.covered {
            // Else changes of others may have been missed between: this one is taken, and the rest is as old as it was.
            self.revision = revision;
        }
        match identity {
            Some(identity) => drop(self.rows.insert(access_key.to_owned(), identity.clone())),
            None => drop(self.rows.remove(access_key)),
        }
    }

    /// Nothing is known of changes up to `revision`.
    pub fn doubt(&mut self, revision: u64) {
        self.covered &= self.revision >= revision;
    }

    /// The root was asked at `asked` what changed, and all of that was taken in.
    pub fn confirm(&mut self, asked: Instant) {
        if self.covered {
            self.true_at = self.true_at.max(asked);
        }
    }

    /// The root was asked at `asked` for all, and had nothing later.
    pub fn confirm_as_listed(&mut self, asked: Instant) {
        self.true_at = self.true_at.max(asked);
    }

    /// The root cannot be asked at `now`.
    pub fn excuse(&mut self, now: Instant) {
        self.excused = Some(now);
    }

    /// The identity, or `None` within if there is none. Absent: it is too long ago that this was known. `live`: changes are heard of at
    /// present.
    pub fn get(&self, access_key: &str, now: Instant, live: bool) -> Cached<Option<Identity>> {
        let age = now.saturating_duration_since(self.true_at);
        if age >= IDENTITY_AGE_MAX && !planted("removed-identity-still-served") {
            runtime::probe!("placement: what is known of identities became too old");
            return Cached::Absent;
        }
        let found = self.rows.get(access_key).cloned();
        let excused = self.excused.is_some_and(|at| now.saturating_duration_since(at) < EXCUSED);
        if (live && self.covered) || age < AGE_MAX || (excused && found.is_some()) { Cached::Fresh(found) } else { Cached::Stale(found) }
    }

    /// All of them, if every change is told.
    pub fn covered(&self) -> Option<Vec<Identity>> {
        self.covered.then(|| self.rows.values().cloned().collect())
    }
}

// Outside of any simulation: unit tests have no machine whose time it were.
#[cfg(test)]
#[cfg(not(madsim))]
mod tests {
    use super::*;
    use runtime::time::now;

    fn identity(access_key: &str, generation: u64) -> Identity {
        Identity { access_key: access_key.into(), name: String::new(), generation, salt: [7; 16], enabled: true, created_ms: 5 }
    }

    fn generation(cached: Cached<Option<Identity>>) -> (&'static str, Option<u64>) {
        match cached {
            Cached::Fresh(found) => ("fresh", found.map(|identity| identity.generation)),
            Cached::Stale(found) => ("stale", found.map(|identity| identity.generation)),
            Cached::Absent => ("absent", None),
        }
    }

    #[test]
    fn what_is_told_is_fresh_while_it_is_told_and_nothing_outlives_the_bound() {
        let asked = now();
        let at = |seconds| asked + Duration::from_secs(seconds);
        let mut roster = Roster::new(vec![identity("A", 1)], 7, asked, true);
        assert_eq!(generation(roster.get("A", at(25), true)), ("fresh", Some(1)));
        assert_eq!(generation(roster.get("A", at(25), false)), ("stale", Some(1)));
        assert_eq!(generation(roster.get("B", at(25), true)), ("fresh", None));
        assert_eq!(generation(roster.get("A", at(30), true)), ("absent", None));
        roster.confirm(at(20));
        assert_eq!(generation(roster.get("A", at(49), true)), ("fresh", Some(1)));
        assert_eq!(generation(roster.get("A", at(49), false)), ("stale", Some(1)));
        assert_eq!(generation(roster.get("A", at(50), false)), ("absent", None));
        // Who is not told of changes gains nothing by being told of others.
        roster.doubt(9);
        roster.confirm(at(40));
        assert_eq!(generation(roster.get("A", at(24), true)), ("fresh", Some(1)), "it is young");
        assert_eq!(generation(roster.get("A", at(26), true)), ("stale", Some(1)));
        roster.confirm_as_listed(at(40));
        assert_eq!(generation(roster.get("A", at(44), false)), ("fresh", Some(1)));
    }

    #[test]
    fn changes_are_taken_once_and_in_order() {
        let asked = now();
        let mut roster = Roster::new(vec![identity("A", 3)], 7, asked, true);
        roster.take(7, "A", None);
        roster.take(5, "B", Some(&identity("B", 1)));
        assert_eq!(generation(roster.get("A", asked, true)), ("fresh", Some(3)), "the list has it already");
        roster.take(8, "B", Some(&identity("B", 1)));
        roster.take(9, "A", None);
        assert_eq!((roster.rows.get("A"), roster.rows.get("B")), (None, Some(&identity("B", 1))));
        assert_eq!(roster.covered().map(|all| all.len()), Some(1));
        assert!(roster.is_later_than(8, None) && !roster.is_later_than(9, None) && roster.is_later_than(11, Some(12)));
        roster.doubt(12);
        assert!(!roster.is_later_than(9, Some(12)) && roster.covered().is_none());
        // It knows of this one, and not of what may have changed before.
        roster.take(15, "C", Some(&identity("C", 1)));
        assert!(roster.rows.contains_key("C") && !roster.is_later_than(13, Some(15)));
    }

    #[test]
    fn while_the_root_cannot_be_asked_only_those_who_are_known_are_spared_the_wait() {
        let asked = now();
        let at = |ms| asked + Duration::from_millis(ms);
        let mut roster = Roster::new(vec![identity("A", 1)], 7, asked, false);
        roster.excuse(at(6_000));
        assert_eq!(generation(roster.get("A", at(6_500), false)), ("fresh", Some(1)));
        assert_eq!(generation(roster.get("B", at(6_500), false)), ("stale", None));
        assert_eq!(generation(roster.get("A", at(7_000), false)), ("stale", Some(1)));
        roster.excuse(at(29_900));
        assert_eq!(generation(roster.get("A", at(30_000), false)), ("absent", None), "no excuse outlives the bound");
    }
}
