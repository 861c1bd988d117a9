//! `planted()` and `probe!`: how the simulator proves its power. Constant false and empty in production.

/// Whether the planted bug `name` is switched on in this simulation. Always false in production.
#[inline(always)]
pub fn planted(name: &'static str) -> bool {
    crate::side::planted(name)
}

/// Note that a rare state was reached. A sweep prints which were never reached.
#[macro_export]
macro_rules! probe {
    ($name:literal) => {
        $crate::side::probe($name)
    };
}
