//! A code and its matrices. Invariant: the matrix of a code never changes, for shards written under it lie on
//! drives: rows of `reed-solomon-erasure`'s systematic Vandermonde matrix over GF(2^8), polynomial 0x11d.

use reed_solomon_erasure::galois_8::{ReedSolomon, mul_slice, mul_slice_xor};
use std::sync::{Arc, Mutex, PoisonError};

/// Most shards of a code.
pub const SHARDS_MAX: usize = 32;

/// A code: any `data` of `data + parity` shards restore a blob. With `data == 1` shards are whole copies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Code {
    pub data: usize,
    pub parity: usize,
}

/// One output shard as a sum of `data` input shards: a coefficient for each.
pub(crate) type Row = Vec<u8>;

/// Codes in use at once are few (one or two a storage class); the bound keeps a caller of many codes from
/// holding all their matrices.
const CACHED_MAX: usize = 16;

static CACHE: Mutex<Vec<(Code, Arc<ReedSolomon>)>> = Mutex::new(Vec::new());

impl Code {
    /// All shards of a blob.
    pub fn total(self) -> usize {
        self.data + self.parity
    }

    pub(crate) fn check(self) {
        assert!(self.data >= 1, "a code has a data shard");
        assert!(self.total() <= SHARDS_MAX, "a code has at most {SHARDS_MAX} shards");
    }

    /// The matrices; building them costs an inversion, so they are kept.
    pub(crate) fn matrices(self) -> Arc<ReedSolomon> {
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = cache.iter().position(|(code, _)| *code == self) {
            let entry = cache.remove(position);
            let matrices = entry.1.clone();
            cache.push(entry);
            return matrices;
        }
        let matrices = Arc::new(ReedSolomon::new(self.data, self.parity).expect("checked: 1..=32 shards, with parity"));
        if cache.len() == CACHED_MAX {
            cache.remove(0);
        }
        cache.push((self, matrices.clone()));
        matrices
    }

    /// Rows that make the shards `wanted` from the shards `present` (exactly `data` of them, ascending).
    ///
    /// The library inverts the matrix for us: shards that are unit vectors of `data` bytes are reconstructed, and
    /// what comes out for a missing shard are its coefficients. So inputs need not be copied into its containers.
    pub(crate) fn rows(self, present: &[usize], wanted: &[usize]) -> Vec<Row> {
        assert_eq!(present.len(), self.data, "a row has one coefficient for each of k shards");
        let mut shards: Vec<Option<Vec<u8>>> = vec![None; self.total()];
        for (position, &index) in present.iter().enumerate() {
            let mut unit = vec![0; self.data];
            unit[position] = 1;
            shards[index] = Some(unit);
        }
        self.matrices().reconstruct(&mut shards).expect("k shards of equal length are present");
        wanted.iter().map(|&index| shards[index].take().expect("reconstructed, and wanted once")).collect()
    }
}

/// `output` = the sum of `inputs`, each times its coefficient.
pub(crate) fn combine(row: &Row, inputs: &[&[u8]], output: &mut [u8]) {
    for (position, (&coefficient, input)) in row.iter().zip(inputs).enumerate() {
        if position == 0 {
            mul_slice(coefficient, input, output);
        } else if coefficient != 0 {
            mul_slice_xor(coefficient, input, output);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_stays_bounded_and_returns_the_right_matrices() {
        for data in 2..12 {
            for parity in 1..4 {
                let code = Code { data, parity };
                let matrices = code.matrices();
                assert_eq!((matrices.data_shard_count(), matrices.parity_shard_count()), (data, parity));
            }
        }
        assert!(CACHE.lock().unwrap().len() <= CACHED_MAX);
    }

    #[test]
    fn parity_rows_of_a_code_never_change() {
        // Golden: shards on drives depend on these numbers.
        let rows = Code { data: 4, parity: 2 }.rows(&[0, 1, 2, 3], &[4, 5]);
        assert_eq!(rows, vec![vec![27, 28, 18, 20], vec![28, 27, 20, 18]]);
    }
}
