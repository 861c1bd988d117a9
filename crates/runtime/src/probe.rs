//! `planted()` and `probe!`: how the simulator proves its power. Constant false and empty in production.

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

/// Note that a rare state was reached. A sweep prints which were never reached.
#[macro_export]
macro_rules! probe {
    ($name:literal) => {
        $crate::side::probe($name)
    };
}
