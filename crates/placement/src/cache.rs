//! A bounded cache of what the root group said. Entries are safe to be stale: what they lead to is fenced.
//!
//! An entry is *covered* if whoever fills the cache hears of every change to it that came after it. Then it is fresh for as long as
//! that holds, whatever its age.

use runtime::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// At most `max` entries; the one that was entered first makes room.
pub(crate) struct Cache<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    /// Keys by the order in which they were entered.
    order: BTreeMap<u64, K>,
    entered: u64,
    max: usize,
    age_max: Duration,
}

struct Entry<V> {
    value: V,
    /// `None`: too old, whatever the time.
    since: Option<Instant>,
    /// The revision of the root group of which it is; 0 if that is not known.
    revision: u64,
    covered: bool,
    order: u64,
}

/// What the cache knows of a key.
pub(crate) enum Cached<V> {
    Fresh(V),
    /// Older than the cache's age: good enough where the root cannot be asked.
    Stale(V),
    Absent,
}

impl<K: Ord + Clone, V: Clone> Cache<K, V> {
    pub fn new(max: usize, age_max: Duration) -> Cache<K, V> {
        Cache { entries: BTreeMap::new(), order: BTreeMap::new(), entered: 0, max, age_max }
    }

    /// `live`: changes are heard of at present, so that what is covered is fresh.
    pub fn get(&self, key: &K, now: Instant, live: bool) -> Cached<V> {
        let Some(entry) = self.entries.get(key) else { return Cached::Absent };
        let young = entry.since.is_some_and(|since| now.saturating_duration_since(since) < self.age_max);
        if young || (live && entry.covered) { Cached::Fresh(entry.value.clone()) } else { Cached::Stale(entry.value.clone()) }
    }

    /// The entry, however old.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Enter what is as of `revision` (0: not known), unless the entry is of a later one.
    pub fn put(&mut self, key: K, value: V, now: Instant, revision: u64, covered: bool) {
        if revision > 0 && self.entries.get(&key).is_some_and(|known| known.revision > revision) {
            return;
        }
        self.forget(&key);
        if self.entries.len() >= self.max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.entered += 1;
        self.order.insert(self.entered, key.clone());
        self.entries.insert(key, Entry { value, since: Some(now), revision, covered, order: self.entered });
    }

    /// The key has `value` since `revision`: if it is cached as of before, it is from then on. Covered, as this was heard of.
    pub fn renew(&mut self, key: &K, value: V, now: Instant, revision: u64) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.revision < revision) {
            *entry = Entry { value, since: Some(now), revision, covered: true, order: entry.order };
        }
    }

    /// The entry counts as young again.
    pub fn touch(&mut self, key: &K, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.since = Some(now);
        }
    }

    /// Nothing is known of changes up to `revision`: entries of before it are too old from now on.
    pub fn doubt(&mut self, revision: u64) {
        for entry in self.entries.values_mut().filter(|entry| entry.revision < revision) {
            (entry.since, entry.covered) = (None, false);
        }
    }

    /// What is covered.
    pub fn covered(&self) -> impl Iterator<Item = &V> {
        self.entries.values().filter(|entry| entry.covered).map(|entry| &entry.value)
    }

    pub fn forget<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
    {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entered_makes_room_and_age_makes_stale() {
        let now = runtime::time::now();
        let mut cache = Cache::new(2, Duration::from_secs(5));
        cache.put(1, "one", now, 0, false);
        cache.put(2, "two", now, 0, false);
        cache.put(1, "uno", now, 0, false);
        cache.put(3, "three", now, 0, false);
        assert!(matches!(cache.get(&2, now, true), Cached::Absent));
        assert!(matches!(cache.get(&1, now, true), Cached::Fresh("uno")));
        assert!(matches!(cache.get(&3, now + Duration::from_secs(5), true), Cached::Stale("three")));
        cache.forget(&3);
        assert!(matches!(cache.get(&3, now, true), Cached::Absent));
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
    }

    #[test]
    fn what_is_covered_is_fresh_while_changes_are_heard_of_and_no_longer() {
        let now = runtime::time::now();
        let late = now + Duration::from_secs(60);
        let mut cache = Cache::new(9, Duration::from_secs(5));
        cache.put(1, "one", now, 7, true);
        cache.put(2, "two", now, 7, false);
        assert!(matches!(cache.get(&1, late, true), Cached::Fresh("one")));
        assert!(matches!(cache.get(&1, late, false), Cached::Stale("one")));
        assert!(matches!(cache.get(&2, late, true), Cached::Stale("two")));
        cache.touch(&2, late);
        assert!(matches!(cache.get(&2, late, false), Cached::Fresh("two")));
        // What was asked for before something else was heard is not put in its place.
        cache.renew(&2, "zwei", now, 9);
        cache.put(2, "two", late, 8, false);
        assert!(matches!(cache.get(&2, late, true), Cached::Fresh("zwei")));
        cache.renew(&2, "two", late, 9);
        cache.renew(&3, "three", late, 9);
        assert_eq!((cache.peek(&2), cache.peek(&3)), (Some(&"zwei"), None));
        cache.doubt(8);
        assert!(matches!(cache.get(&1, now, true), Cached::Stale("one")));
        assert!(matches!(cache.get(&2, late, true), Cached::Fresh("zwei")));
        assert_eq!(cache.covered().collect::<Vec<_>>(), [&"zwei"]);
    }
}
