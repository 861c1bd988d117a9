//! Shards to the bytes of their blob, and to the shards that are lost. Inputs are never copied into containers
//! of the codec; data shards that are there are passed on as slices of themselves.

use crate::code::{Row, combine};
use crate::stripe::{BLOCK_BYTES, Stripes, shard_bytes, stripe_count};
use crate::{Code, Error};
use bytes::{Bytes, BytesMut};

/// The blob from any k whole shards (`None`: missing).
pub fn decode(code: Code, blob_bytes: usize, shards: &[Option<Bytes>]) -> Result<Bytes, Error> {
    decode_stripes(code, blob_bytes, Stripes::all(code, blob_bytes), shards)
}

/// The bytes of `stripes` from the same blocks of any k shards (`None`: missing), in order; the caller cuts the
/// ends of its range off.
pub fn decode_stripes(code: Code, blob_bytes: usize, stripes: Stripes, blocks: &[Option<Bytes>]) -> Result<Bytes, Error> {
    let mut pieces = decode_pieces(code, blob_bytes, stripes, blocks)?;
    if pieces.len() == 1 {
        return Ok(pieces.swap_remove(0));
    }
    let mut joined = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
    Ok(joined.freeze())
}

/// As [`decode_stripes`], but the bytes as pieces that follow one another: nothing is copied unless a data shard is
/// missing.
pub fn decode_pieces(code: Code, blob_bytes: usize, stripes: Stripes, blocks: &[Option<Bytes>]) -> Result<Vec<Bytes>, Error> {
    code.check();
    let end = stripes.first as usize + stripes.count as usize;
    assert!(end <= stripe_count(code, blob_bytes), "{stripes:?} lie in a blob of {blob_bytes} bytes");
    let range = stripes.in_shard(code, blob_bytes);
    let present = check(code, range.len(), blocks)?;
    if range.is_empty() {
        return Ok(Vec::new());
    }
    if code.data == 1 {
        return Ok(vec![blocks[present[0]].clone().expect("present")]);
    }
    let lost: Vec<usize> = (0..code.data).filter(|&index| blocks[index].is_none()).collect();
    let mut restored = restore(code, &present, &lost, blocks).into_iter();
    let data: Vec<Bytes> =
        blocks[..code.data].iter().map(|block| block.clone().unwrap_or_else(|| restored.next().expect("one for each lost"))).collect();

    let mut left = stripes.in_blob(code, blob_bytes).len();
    let mut pieces = Vec::with_capacity(code.data * stripes.count as usize);
    let mut start = 0;
    while start < range.len() {
        let block_end = (start + BLOCK_BYTES).min(range.len());
        for shard in &data {
            // The last blocks of the last stripe may be filling.
            let wanted = left.min(block_end - start);
            left -= wanted;
            if wanted > 0 {
                pieces.push(shard.slice(start..start + wanted));
            }
        }
        start = block_end;
    }
    Ok(pieces)
}

/// The shards that are `None`, in slot order, from any k whole shards.
pub fn rebuild(code: Code, blob_bytes: usize, shards: &[Option<Bytes>]) -> Result<Vec<Bytes>, Error> {
    code.check();
    let present = check(code, shard_bytes(code, blob_bytes), shards)?;
    let lost: Vec<usize> = (0..code.total()).filter(|&index| shards[index].is_none()).collect();
    if code.data == 1 {
        return Ok(lost.iter().map(|_| shards[present[0]].clone().expect("present")).collect());
    }
    Ok(restore(code, &present, &lost, shards))
}

/// The first k shards that are there, all lengths being right.
fn check(code: Code, expected: usize, shards: &[Option<Bytes>]) -> Result<Vec<usize>, Error> {
    assert_eq!(shards.len(), code.total(), "one place for each shard of {code:?}");
    for (index, shard) in shards.iter().enumerate() {
        if let Some(shard) = shard
            && shard.len() != expected
        {
            return Err(Error::Length { index, got: shard.len(), expected });
        }
    }
    let mut present: Vec<usize> = (0..code.total()).filter(|&index| shards[index].is_some()).collect();
    if present.len() < code.data {
        return Err(Error::TooFew { have: present.len(), need: code.data });
    }
    present.truncate(code.data);
    Ok(present)
}

/// The shards `lost` from the shards `present`, block by block so that the working set stays in the cache.
fn restore(code: Code, present: &[usize], lost: &[usize], shards: &[Option<Bytes>]) -> Vec<Bytes> {
    if lost.is_empty() {
        return Vec::new();
    }
    let inputs: Vec<&Bytes> = present.iter().map(|&index| shards[index].as_ref().expect("present")).collect();
    let bytes = inputs[0].len();
    let rows: Vec<Row> = code.rows(present, lost);
    let mut outputs = vec![BytesMut::zeroed(bytes); lost.len()];
    let mut start = 0;
    while start < bytes {
        let end = (start + BLOCK_BYTES).min(bytes);
        let blocks: Vec<&[u8]> = inputs.iter().map(|input| &input[start..end]).collect();
        for (row, output) in rows.iter().zip(&mut outputs) {
            combine(row, &blocks, &mut output[start..end]);
        }
        start = end;
    }
    outputs.into_iter().map(BytesMut::freeze).collect()
}
