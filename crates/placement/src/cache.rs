//! A bounded cache of what the root group said. Entries are safe to be stale: what they lead to is fenced.

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
    since: Instant,
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

    pub fn get(&self, key: &K, now: Instant) -> Cached<V> {
        match self.entries.get(key) {
            None => Cached::Absent,
            Some(entry) if now.saturating_duration_since(entry.since) < self.age_max => Cached::Fresh(entry.value.clone()),
            Some(entry) => Cached::Stale(entry.value.clone()),
        }
    }

    pub fn put(&mut self, key: K, value: V, now: Instant) {
        self.forget(&key);
        if self.entries.len() >= self.max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.entered += 1;
        self.order.insert(self.entered, key.clone());
        self.entries.insert(key, Entry { value, since: now, order: self.entered });
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
        cache.put(1, "one", now);
        cache.put(2, "two", now);
        cache.put(1, "uno", now);
        cache.put(3, "three", now);
        assert!(matches!(cache.get(&2, now), Cached::Absent));
        assert!(matches!(cache.get(&1, now), Cached::Fresh("uno")));
        assert!(matches!(cache.get(&3, now + Duration::from_secs(5)), Cached::Stale("three")));
        cache.forget(&3);
        assert!(matches!(cache.get(&3, now), Cached::Absent));
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
    }
}
