//! The garbage queue: what commands replaced, in the order of their revisions, until it is collected.
//!
//! Always holds: an entry's blobs are named by no record and by no part of an upload under way, and never will be;
//! one command of collection does a bounded amount of work, however large the upload was.

use consensus::RowsMut;
use protocol::{BlobRef, Home, Revision, UploadId};
use runtime::probe;

use crate::rows::{Condemned, GarbageRow, PartRow, Read, decode, unreadable, write};
use crate::{Error, Garbage, GarbageId, blob, blobs_of, keys};

/// Ordinal of the version that a command replaced, or of the upload that it gave up.
pub(crate) const REPLACED: u8 = 0;
/// Ordinal of the parts that Complete did not name.
pub(crate) const UNNAMED: u8 = 1;

/// Most parts in one step.
const STEP_PARTS_MAX: usize = 256;
/// A step ends with the part that reaches this many blobs.
const STEP_BLOBS: usize = 4096;
/// Most entries in one answer.
const ENTRIES_MAX: u32 = 256;

/// Queue what the command of `revision` replaced.
pub(crate) fn queue(rows: &mut RowsMut<'_>, revision: Revision, ordinal: u8, home: Home, condemned: Condemned) {
    write(rows, &keys::garbage(GarbageId { revision, ordinal }), &GarbageRow { home, condemned });
}

/// The next step of each entry behind `after`, as many as make one answer.
pub(crate) fn list(rows: &impl Read, after: Option<GarbageId>, max: u32) -> Result<Vec<Garbage>, Error> {
    let max = max.min(ENTRIES_MAX) as usize;
    let range = keys::family(keys::GARBAGE);
    let from = after.map_or(range.start, |after| keys::successor(&keys::garbage(after)));
    let mut entries = Vec::new();
    let mut failed = None;
    let mut bytes = 0;
    rows.visit(&from, &range.end, &mut |key, value| {
        if entries.len() >= max || bytes >= crate::listing::REPLY_BYTES {
            return false;
        }
        bytes += value.len();
        match keys::garbage_of(key).ok_or_else(|| unreadable(key, "no such key")).and_then(|id| Ok((id, decode::<GarbageRow>(key, value)?)))
        {
            Ok(entry) => entries.push(entry),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let mut steps = Vec::with_capacity(entries.len());
    let mut blobs = 0;
    for (id, row) in entries {
        let step = next_step(rows, &row.condemned, u16::MAX)?;
        blobs += step.blobs.len();
        steps.push(Garbage { id, home: row.home, blobs: step.blobs, through: step.through, more: step.more });
        if blobs >= STEP_BLOBS {
            break;
        }
    }
    Ok(steps)
}

/// Forget the blobs of an entry's step, and the entry if that was its last one. An entry that is not there is finished.
pub(crate) fn collect(rows: &mut RowsMut<'_>, entry: GarbageId, through: u16) -> Result<bool, Error> {
    let key = keys::garbage(entry);
    let Some(row) = rows.row::<GarbageRow>(&key)? else { return Ok(true) };
    let step = next_step(rows, &row.condemned, through)?;
    blob::forget(rows, &step.blobs);
    match row.condemned {
        Condemned::Blobs(_) => {}
        Condemned::Upload(upload) | Condemned::Unnamed(upload) => {
            for number in step.numbers {
                rows.remove(&keys::part(upload, number));
            }
        }
    }
    if step.more {
        probe!("garbage-entry-took-several-steps");
        return Ok(false);
    }
    if let Condemned::Unnamed(upload) = row.condemned {
        rows.remove(&keys::unnamed(upload));
    }
    rows.remove(&key);
    Ok(true)
}

/// Numbers of the parts that a completed upload did not name and that may still have rows.
pub(crate) fn unnamed(rows: &impl Read, upload: UploadId) -> Result<Vec<u16>, Error> {
    Ok(rows.row(&keys::unnamed(upload))?.unwrap_or_default())
}

/// A bounded first piece of what an entry still holds.
struct Step {
    blobs: Vec<BlobRef>,
    numbers: Vec<u16>,
    /// The last part of the step; 0 if there are no parts.
    through: u16,
    more: bool,
}

/// At most the parts up to `through`.
fn next_step(rows: &impl Read, condemned: &Condemned, through: u16) -> Result<Step, Error> {
    let (upload, chosen) = match condemned {
        Condemned::Blobs(blobs) => return Ok(Step { blobs: blobs.clone(), numbers: Vec::new(), through: 0, more: false }),
        Condemned::Upload(upload) => (*upload, None),
        Condemned::Unnamed(upload) => (*upload, Some(unnamed(rows, *upload)?)),
    };
    let mut step = Step { blobs: Vec::new(), numbers: Vec::new(), through: 0, more: false };
    let mut take = |key: &[u8], value: &[u8]| -> Result<bool, Error> {
        let row: PartRow = decode(key, value)?;
        let full = step.numbers.len() >= STEP_PARTS_MAX || step.blobs.len() >= STEP_BLOBS;
        if full || row.part.number > through {
            step.more = true;
            return Ok(false);
        }
        step.blobs.extend_from_slice(blobs_of(&row.part.body));
        step.numbers.push(row.part.number);
        step.through = row.part.number;
        Ok(true)
    };
    match chosen {
        None => {
            let range = keys::parts(upload, 0);
            let mut result = Ok(true);
            rows.visit(&range.start, &range.end, &mut |key, value| {
                result = take(key, value);
                matches!(result, Ok(true))
            });
            result?;
        }
        Some(numbers) => {
            for number in numbers {
                let key = keys::part(upload, number);
                if let Some(value) = rows.bytes(&key)
                    && !take(&key, &value)?
                {
                    break;
                }
            }
        }
    }
    Ok(step)
}
