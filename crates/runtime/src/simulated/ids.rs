//! Ids that were given out in this process: none may come twice, whichever machine and life gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};

/// Repeated ids that are remembered.
const REPEATED_MAX: usize = 20;

struct Ids {
    /// By kind, a hash of each: 64 bits, so that among a million different ones none collide by chance.
    given: BTreeMap<&'static str, BTreeSet<u64>>,
    repeated: Vec<(&'static str, Vec<u64>)>,
}

static IDS: Mutex<Ids> = Mutex::new(Ids { given: BTreeMap::new(), repeated: Vec::new() });

fn ids() -> MutexGuard<'static, Ids> {
    IDS.lock().expect("nothing panics under this lock")
}

pub(crate) fn never_twice(kind: &'static str, id: &[u64]) {
    // Not keyed: the same in every process.
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let mut ids = ids();
    if !ids.given.entry(kind).or_default().insert(hasher.finish()) && ids.repeated.len() < REPEATED_MAX {
        ids.repeated.push((kind, id.to_vec()));
    }
}

/// Ids that were given out again, with their kinds.
pub fn repeated() -> Vec<(&'static str, Vec<u64>)> {
    ids().repeated.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_given_again_is_told_and_the_same_value_of_another_kind_is_not() {
        never_twice("one kind", &[1, 2]);
        never_twice("one kind", &[1, 3]);
        never_twice("another kind", &[1, 2]);
        let of_this_test = || repeated().into_iter().filter(|(kind, _)| kind.ends_with(" kind")).collect::<Vec<_>>();
        assert_eq!(of_this_test(), []);
        never_twice("one kind", &[1, 2]);
        assert_eq!(of_this_test(), [("one kind", vec![1, 2])]);
    }
}
