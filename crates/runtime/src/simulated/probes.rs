//! Planted bugs and probes: how a sweep proves its power.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock};

static PLANTED: OnceLock<BTreeSet<String>> = OnceLock::new();
static PROBES: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// Switch the planted bugs `names` on, for the whole life of this process. Panics if it was done before.
pub fn plant(names: impl IntoIterator<Item = String>) {
    PLANTED.set(names.into_iter().collect()).expect("bugs are planted once, before the simulation starts");
}

pub(crate) fn planted(name: &'static str) -> bool {
    let on = PLANTED.get().is_some_and(|planted| planted.contains(name));
    if on {
        // A bug that no sweep finds: was its place reached at all?
        probe(name);
    }
    on
}

/// Note that `name` was reached.
pub fn probe(name: &'static str) {
    *PROBES.lock().expect("nothing panics under this lock").entry(name).or_default() += 1;
}

/// How often each probe was reached in this process.
pub fn probes() -> BTreeMap<&'static str, u64> {
    PROBES.lock().expect("nothing panics under this lock").clone()
}
