//! Planted bugs, probes, and what code tells the judge: how a sweep proves its power.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock};

/// Hears what code tells the judge: kind and numbers.
pub type Listener = Box<dyn Fn(&'static str, &[u64]) + Send + Sync>;

static PLANTED: OnceLock<BTreeSet<String>> = OnceLock::new();
/// Places of planted bugs that code came to, whether they are switched on or not.
static PLACES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
static LISTENER: OnceLock<Listener> = OnceLock::new();
static PROBES: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// Switch the planted bugs `names` on, for the whole life of this process. Panics if it was done before.
pub fn plant(names: impl IntoIterator<Item = String>) {
    PLANTED.set(names.into_iter().collect()).expect("bugs are planted once, before the simulation starts");
}

pub(crate) fn planted(name: &'static str) -> bool {
    PLACES.lock().expect("nothing panics under this lock").insert(name);
    PLANTED.get().is_some_and(|planted| planted.contains(name))
}

/// Names of the planted bugs whose places were reached in this process. If one was not, the run with it would be the same.
pub fn places_of_bugs() -> BTreeSet<&'static str> {
    PLACES.lock().expect("nothing panics under this lock").clone()
}

pub(crate) fn tell(kind: &'static str, numbers: &[u64]) {
    if let Some(listener) = LISTENER.get() {
        listener(kind, numbers);
    }
}

/// Let `listener` hear what code tells the judge, for the whole life of this process. It is called in the midst of that code:
/// it must neither wait nor change anything that the code sees. Panics if it was done before.
pub fn listen(listener: Listener) {
    assert!(LISTENER.set(listener).is_ok(), "one judge listens, from before the first run");
}

/// Note that `name` was reached.
pub fn probe(name: &'static str) {
    *PROBES.lock().expect("nothing panics under this lock").entry(name).or_default() += 1;
}

/// How often each probe was reached in this process.
pub fn probes() -> BTreeMap<&'static str, u64> {
    PROBES.lock().expect("nothing panics under this lock").clone()
}
