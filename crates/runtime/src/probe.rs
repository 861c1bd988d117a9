//! `planted()`, `probe!` and `waypoint()`: how the simulator proves its power. Constant false and empty in production.

/// Whether the planted bug `name` is switched on in this simulation. Always false in production.
#[inline(always)]
pub fn planted(name: &'static str) -> bool {
    crate::side::planted(name)
}

/// Feed the event hash of a simulation with something that happened: a reply to a client, a step of the nemesis. Nothing
/// in production.
#[inline(always)]
pub fn note_event(kind: &'static str, bytes: &[u8]) {
    crate::side::note(kind, bytes);
}

/// Say that these numbers were given out as an id of the kind `kind`, which must never happen twice, over all machines and lives.
/// A simulation keeps them all, and one that comes again is a violation. Nothing in production.
#[inline(always)]
pub fn never_twice(kind: &'static str, id: &[u64]) {
    crate::side::never_twice(kind, id);
}

/// Tell the simulator's judge, at this very moment, of a step that must keep an invariant which only somebody who sees all
/// machines can judge. What the numbers mean stands where they are told. Nothing in production.
#[inline(always)]
pub fn tell(kind: &'static str, numbers: &[u64]) {
    crate::side::tell(kind, numbers);
}

/// The names of all waypoints. The README of this crate says where they stand.
pub const WAYPOINTS: &[&str] = &[
    "bucket-creation-begun",
    "bucket-creation-open-everywhere",
    "bucket-deletion-begun",
    "bucket-deletion-closed-everywhere",
    "bucket-deletion-removed-everywhere",
    "consensus-batch-durable",
    "consensus-before-checkpoint",
    "consensus-before-vote",
    "consensus-checkpoint-before-log-cut",
    "consensus-crippled-before-asking",
    "consensus-leader-before-answer",
    "consensus-leader-entered-joint",
    "consensus-leader-left-joint",
    "consensus-snapshot-before-log-reset",
    "consensus-snapshot-before-manifest",
    "consensus-snapshot-before-seal",
    "consensus-snapshot-page",
    "consensus-vote-durable",
    "gateway-before-commit",
    "gateway-between-blobs",
    "gateway-committed-before-reply",
    "gateway-volume-before-opening",
    "gateway-volume-before-slots",
    "lifecycle-begun",
    "lifecycle-set-everywhere",
    "versioning-begun",
    "versioning-set-everywhere",
];

/// A place in the code, like "after the commit, before the reply", at which a simulation may let a fault strike. It counts as
/// a probe. If the simulator armed it, the task waits here until the simulator lets it go on; after a kill that is never.
/// Constant ready in production. The names are listed in this crate's README.
#[inline(always)]
pub async fn waypoint(name: &'static str) {
    crate::side::waypoint(name).await;
}

/// Note that a rare state was reached. A sweep prints which were never reached.
#[macro_export]
macro_rules! probe {
    ($name:literal) => {
        $crate::side::probe($name)
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_names_every_waypoint() {
        let readme = include_str!("../README.md");
        for name in super::WAYPOINTS {
            assert!(readme.contains(&format!("`{name}`")), "{name}");
        }
    }
}
