//! What the sources declare: every probe (and waypoint) and every planted bug, with the place where it stands. Collected
//! by the build script from `probe!("...")`, `waypoint("...")` and `planted("...")`.

include!(concat!(env!("OUT_DIR"), "/inventory.rs"));

/// Whether a bug called `name` is planted anywhere.
pub fn is_planted(name: &str) -> bool {
    PLANTED.iter().any(|(known, _)| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_sources_is_here() {
        for name in ["acknowledge-before-fsync", "vote-not-persisted", "list-drops-key-at-page-border"] {
            assert!(is_planted(name), "{name}");
        }
        assert!(PROBES.iter().any(|(name, _)| *name == "commit-outcome-unknown"));
        assert!(PLANTED.len() >= 20, "{} bugs are planted", PLANTED.len());
    }
}
