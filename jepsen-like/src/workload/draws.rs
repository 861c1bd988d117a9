//! [`Draws`]: seeded choices.

/// Seeded choices for one purpose: drawing from one stream never shifts another.
#[derive(Clone, Debug)]
pub struct Draws {
    state: u64,
}

impl Draws {
    pub fn new(seed: u64, purpose: &str) -> Draws {
        // FNV-1a of the purpose, so that streams of one seed differ.
        let hash = purpose.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Draws { state: seed ^ hash }
    }

    /// Any number (splitmix64).
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        u64::try_from((u128::from(self.number()) * u128::from(limit)) >> 64).expect("below a limit of 64 bits")
    }

    /// A number from `least` to `most`, both possible.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        match (most - least).checked_add(1) {
            Some(count) => least + self.below(count),
            None => self.number(),
        }
    }

    /// One of `count` things, which is not 0.
    pub fn one_of(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("an index")
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_within_their_bounds_and_streams_differ() {
        let mut draws = Draws::new(7, "a");
        let numbers: Vec<u64> = (0..1000).map(|_| draws.between(3, 9)).collect();
        assert!((3..=9).all(|number| numbers.contains(&number)) && numbers.iter().all(|number| (3..=9).contains(number)));
        assert_ne!(Draws::new(7, "a").number(), Draws::new(7, "b").number());
        assert_eq!(Draws::new(7, "a").number(), Draws::new(7, "a").number());
        assert_eq!(Draws::new(1, "x").below(1), 0);
    }
}
