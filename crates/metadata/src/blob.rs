//! Which blobs this partition names, and which it will never name: the index of blobs and the floors of writers.
//!
//! Always holds: a blob has a row here from the command that names it first until it is collected; a second command
//! that brings the same blob is refused, so a blob is named by one row and condemned once; a blob at or below its
//! writer's floor that has no row never gets one.

use consensus::RowsMut;
use protocol::{BlobId, BlobRef, Home, WriterId};
use runtime::{planted, probe};
use std::collections::BTreeSet;

use crate::bucket::{find, malformed};
use crate::rows::{Read, write};
use crate::{Error, keys};

/// Most blobs in one question.
pub(crate) const ASKED_MAX: usize = 10_000;

/// Whether a command may name these blobs, all of them new.
pub(crate) fn check_new(rows: &impl Read, blobs: &[BlobRef]) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    let mut floor: Option<(WriterId, u64)> = None;
    for blob in blobs.iter().map(|named| named.blob) {
        if !seen.insert(blob) {
            return Err(malformed("a blob is named twice"));
        }
        let limit = match floor {
            Some((writer, limit)) if writer == blob.writer => limit,
            _ => floor_of(rows, blob.writer)?,
        };
        floor = Some((blob.writer, limit));
        if blob.counter <= limit {
            probe!("commit-of-a-settled-blob");
            return Err(Error::Settled);
        }
        if rows.bytes(&keys::blob(blob)).is_some() {
            return Err(malformed("a blob already has a home"));
        }
    }
    Ok(())
}

/// Enter blobs that were checked.
pub(crate) fn name(rows: &mut RowsMut<'_>, home: Home, blobs: &[BlobRef]) {
    for named in blobs {
        write(rows, &keys::blob(named.blob), &home);
    }
}

/// Forget blobs that were collected.
pub(crate) fn forget(rows: &mut RowsMut<'_>, blobs: &[BlobRef]) {
    for named in blobs {
        rows.remove(&keys::blob(named.blob));
    }
}

/// Raise the writer's floor to `up_to`, and say which of `asked` are named: the others never will be. Refused as a
/// whole if a home is not here: "not named" from the wrong partition would condemn living blobs.
pub(crate) fn settle(rows: &mut RowsMut<'_>, writer: WriterId, up_to: u64, asked: &[(Home, BlobId)]) -> Result<Vec<BlobId>, Error> {
    if asked.len() > ASKED_MAX {
        return Err(malformed("more than 10,000 blobs in one settlement"));
    }
    let mut bucket = None;
    for (home, blob) in asked {
        if blob.writer != writer || blob.counter > up_to {
            return Err(malformed("a blob that this settlement does not cover"));
        }
        let row = match bucket.take() {
            Some((id, row)) if id == home.bucket => row,
            _ => find(rows, home.bucket)?.ok_or(Error::NotOpen)?,
        };
        if !row.share.holds(home.key_hash) {
            return Err(Error::NotOpen);
        }
        bucket = Some((home.bucket, row));
    }
    let floor = floor_of(rows, writer)?;
    if floor < up_to && !planted("settle-without-raising-floor") {
        write(rows, &keys::floor(writer), &up_to);
    }
    Ok(asked.iter().map(|(_, blob)| *blob).filter(|blob| is_named(rows, *blob)).collect())
}

/// Which of `asked` are named now.
pub(crate) fn named(rows: &impl Read, asked: &[BlobId]) -> Result<Vec<BlobId>, Error> {
    if asked.len() > ASKED_MAX {
        return Err(malformed("more than 10,000 blobs in one question"));
    }
    Ok(asked.iter().copied().filter(|blob| is_named(rows, *blob)).collect())
}

fn is_named(rows: &impl Read, blob: BlobId) -> bool {
    rows.bytes(&keys::blob(blob)).is_some()
}

fn floor_of(rows: &impl Read, writer: WriterId) -> Result<u64, Error> {
    Ok(rows.row(&keys::floor(writer))?.unwrap_or_default())
}
