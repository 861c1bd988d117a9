//! Every loss pattern of small codes, at blob lengths around all borders.

use bytes::Bytes;
use erasure::{BLOCK_BYTES, Code, Error, Stripes, checksum, decode, decode_pieces, decode_stripes, encode, rebuild, stripes_of, verify};
use quickcheck::{QuickCheck, TestResult};

const CODES: [Code; 6] = [
    Code { data: 2, parity: 1 },
    Code { data: 4, parity: 2 },
    Code { data: 3, parity: 3 },
    Code { data: 1, parity: 0 },
    Code { data: 1, parity: 2 },
    Code { data: 5, parity: 1 },
];

/// Bytes that differ everywhere, cheap to make.
fn blob(bytes: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        out.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    out.truncate(bytes);
    Bytes::from(out)
}

fn lengths(code: Code) -> Vec<usize> {
    let stripe = code.data * BLOCK_BYTES;
    let mut lengths: Vec<usize> = (0..=2 * code.data + 1).collect();
    for border in [BLOCK_BYTES, stripe, 2 * stripe] {
        lengths.extend([border - 1, border, border + 1]);
    }
    lengths.push(2 * stripe + code.data * 777 + 1);
    lengths
}

fn without(shards: &[Bytes], kept: u32) -> Vec<Option<Bytes>> {
    shards.iter().enumerate().map(|(index, shard)| (kept >> index & 1 == 1).then(|| shard.clone())).collect()
}

#[test]
fn every_loss_pattern_decodes_and_rebuilds_or_says_too_few() {
    for code in CODES {
        for bytes in lengths(code) {
            let whole = blob(bytes, bytes as u64);
            let shards = encode(code, std::slice::from_ref(&whole));
            assert_eq!(shards.len(), code.total());
            assert!(shards.iter().all(|shard| shard.len() == erasure::shard_bytes(code, bytes)));
            for kept in 0..1u32 << code.total() {
                let left = without(&shards, kept);
                let have = kept.count_ones() as usize;
                if have < code.data {
                    assert_eq!(decode(code, bytes, &left), Err(Error::TooFew { have, need: code.data }));
                    assert_eq!(rebuild(code, bytes, &left), Err(Error::TooFew { have, need: code.data }));
                    continue;
                }
                assert!(decode(code, bytes, &left).unwrap() == whole, "{code:?}, {bytes} bytes, kept {kept:b}");
                let mut rebuilt = rebuild(code, bytes, &left).unwrap().into_iter();
                for (index, shard) in shards.iter().enumerate() {
                    if left[index].is_none() {
                        assert!(rebuilt.next().unwrap() == *shard, "{code:?}, {bytes} bytes, kept {kept:b}, shard {index}");
                    }
                }
                assert!(rebuilt.next().is_none());
            }
        }
    }
}

#[test]
fn any_range_of_any_blob_decodes_from_any_k_shards() {
    fn holds(code: usize, stripes: u8, extra: u32, ends: (u32, u32), kept: u32) -> TestResult {
        let code = CODES[code % CODES.len()];
        let bytes = usize::from(stripes % 4) * code.data * BLOCK_BYTES + extra as usize % (code.data * BLOCK_BYTES);
        let (a, b) = (ends.0 as usize % (bytes + 1), ends.1 as usize % (bytes + 1));
        let range = a.min(b)..a.max(b);
        if (kept & ((1 << code.total()) - 1)).count_ones() < code.data as u32 {
            return TestResult::discard();
        }
        let whole = blob(bytes, u64::from(extra));
        let shards = encode(code, std::slice::from_ref(&whole));
        let wanted = stripes_of(code, bytes, range.clone());
        let in_shard = wanted.in_shard(code, bytes);
        let blocks: Vec<_> = without(&shards, kept).into_iter().map(|shard| shard.map(|shard| shard.slice(in_shard.clone()))).collect();
        let got = decode_stripes(code, bytes, wanted, &blocks).unwrap();
        let start = wanted.in_blob(code, bytes).start;
        TestResult::from_bool(range.is_empty() || got[range.start - start..range.end - start] == whole[range])
    }
    QuickCheck::new().tests(300).quickcheck(holds as fn(usize, u8, u32, (u32, u32), u32) -> TestResult);
}

#[test]
fn pieces_of_a_blob_encode_as_the_whole() {
    fn holds(code: usize, cuts: Vec<u32>, bytes: u32) -> bool {
        let code = CODES[code % CODES.len()];
        let whole = blob(bytes as usize % (3 * code.data * BLOCK_BYTES), u64::from(bytes));
        let mut ends: Vec<usize> = cuts.iter().take(20).map(|&cut| cut as usize % (whole.len() + 1)).collect();
        ends.push(whole.len());
        ends.sort_unstable();
        let mut start = 0;
        let pieces: Vec<Bytes> = ends.iter().map(|&end| whole.slice(std::mem::replace(&mut start, end)..end)).collect();
        encode(code, &pieces) == encode(code, &[whole])
    }
    QuickCheck::new().tests(200).quickcheck(holds as fn(usize, Vec<u32>, u32) -> bool);
}

#[test]
fn whole_data_shards_are_passed_on_without_a_copy() {
    let code = Code { data: 4, parity: 2 };
    let whole = blob(3 * 4 * BLOCK_BYTES + 5, 1);
    let shards = encode(code, std::slice::from_ref(&whole));
    let pieces = decode_pieces(code, whole.len(), Stripes::all(code, whole.len()), &without(&shards, 0b001111)).unwrap();
    assert!(pieces.iter().all(|piece| shards.iter().any(|shard| shard.as_ptr_range().contains(&piece.as_ptr()))));
    assert_eq!(verify(&pieces, checksum(&whole)), Ok(()));
    assert!(matches!(verify(&pieces[1..], checksum(&whole)), Err(Error::Checksum { .. })));
}

#[test]
fn a_shard_of_the_wrong_length_is_refused() {
    let code = Code { data: 2, parity: 1 };
    let shards = [Some(Bytes::from_static(b"ab")), Some(Bytes::from_static(b"a")), None];
    assert_eq!(decode(code, 4, &shards), Err(Error::Length { index: 1, got: 1, expected: 2 }));
}
