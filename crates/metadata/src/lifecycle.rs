//! Lifecycles of buckets: what their rules doom is removed by commands that judge it themselves.
//!
//! Always holds: a lifecycle is obeyed as this partition's row has it, and no other: once every partition has another one, or
//! none, nothing goes by the one before, whoever walks. What is removed is judged in the step that removes it, by how it
//! stands then and by cluster time; whoever walks only says where to look. A step removes what Delete and Abort would: a
//! current object of a versioned bucket gets a marker, a version goes by its name.
//!
//! The cursor says where the walk is. A step names it as it was, so that of two who walk one comes first, and a late
//! one changes nothing. Looking ahead costs no command: only what is due is one.

mod client;
mod rules;
mod walk;

pub use client::Walks;

use consensus::RowsMut;
use protocol::{BucketId, Lifecycle};
use runtime::probe;

use crate::bucket::{self, malformed, stale};
use crate::rows::{BucketState, LifecycleRow, Read, decode, unreadable, write};
use crate::{Ahead, Cursor, Deletion, Doomed, Error, Expired, Gone, ages, keys, object, upload, versions};
use rules::Judge;
use walk::{Bounds, walk};

/// One command looks at so much.
const STEP: Bounds = Bounds { rows: 256, bytes: 1 << 20, first_only: false };
/// One query looks at so much.
const LOOK: Bounds = Bounds { rows: 4096, bytes: 8 << 20, first_only: true };
/// Most lifecycles in one answer.
const PAGE_MAX: usize = 64;

/// Set the lifecycle that later steps obey; one without rules takes it away.
pub(crate) fn set(rows: &mut RowsMut<'_>, bucket: BucketId, attempt: u64, lifecycle: Lifecycle) -> Result<(), Error> {
    if let Some(why) = lifecycle.unsound() {
        return Err(malformed(why));
    }
    let row = bucket::settable(rows, bucket, attempt)?;
    bucket::store(rows, bucket, &row);
    if lifecycle.rules.is_empty() {
        forget(rows, bucket);
    } else {
        // Whoever walks begins anew.
        let cursor = Cursor { attempt, walk: 0, at: Vec::new() };
        write(rows, &keys::lifecycle(bucket), &LifecycleRow { lifecycle, cursor, walked_ms: 0 });
    }
    Ok(())
}

/// The bucket has no lifecycle any more.
pub(crate) fn forget(rows: &mut RowsMut<'_>, bucket: BucketId) {
    let key = keys::lifecycle(bucket);
    if rows.get(&key).is_some() {
        rows.remove(&key);
    }
}

/// Remove what is due at `now_ms` of cluster time among the rows from `at` on, in the walk that is at `from`.
pub(crate) fn expire(rows: &mut RowsMut<'_>, bucket: BucketId, from: &Cursor, at: &[u8], now_ms: u64) -> Result<Expired, Error> {
    match bucket::find(rows, bucket)?.map(|row| row.state) {
        None | Some(BucketState::Removed) => return Err(Error::NotOpen),
        Some(BucketState::Closed) => return Err(Error::Closed),
        Some(BucketState::Open) => {}
    }
    let Some(mut row) = rows.row::<LifecycleRow>(&keys::lifecycle(bucket))? else { return stale() };
    let ages = ages::of(rows)?;
    if row.cursor != *from || at < row.cursor.at.as_slice() || now_ms < row.walked_ms.max(ages.last_ms()) {
        probe!("lifecycle-step-came-late");
        return stale();
    }
    let found = walk(rows, bucket, &Judge::new(&row.lifecycle, &ages, now_ms), at, &STEP)?;

    let mut gone = Vec::with_capacity(found.doomed.len());
    // The oldest of a key first: a null marker takes the name of a null version, which must be gone by then.
    for (key, what) in found.doomed.into_iter().rev() {
        // Nothing of this is refused: the rows were there a moment ago, in a bucket that takes writes.
        let marker = match what {
            Doomed::Current(_) => {
                probe!("lifecycle-expired-a-current-object");
                let deletion = Deletion { modified_ms: now_ms, ..Deletion::default() };
                let applied = object::delete(rows, bucket, &key, &deletion)?;
                applied.version.filter(|_| applied.marker)
            }
            Doomed::Version(revision, id) => {
                probe!("lifecycle-removed-a-version");
                if versions::place(rows, bucket, &key, id)? != Some(revision) {
                    // Rows that contradict each other: a version that is in doubt stays.
                    probe!("lifecycle-version-has-no-place");
                    continue;
                }
                object::delete(rows, bucket, &key, &Deletion { version: Some(id), ..Deletion::default() })?;
                None
            }
            Doomed::Upload(id) => {
                probe!("lifecycle-aborted-an-upload");
                upload::abort(rows, bucket, &key, id)?;
                None
            }
        };
        gone.push(Gone { key, what, revision: rows.counters()?.revision, marker });
    }
    row.cursor =
        if found.end { Cursor { walk: row.cursor.walk + 1, at: Vec::new(), ..row.cursor } } else { Cursor { at: found.at, ..row.cursor } };
    row.walked_ms = now_ms;
    write(rows, &keys::lifecycle(bucket), &row);
    Ok(Expired { gone, cursor: row.cursor })
}

/// What is due at `now_ms` from the row `at` on: the first of it, or how far nothing is.
pub(crate) fn ahead(rows: &impl Read, bucket: BucketId, at: &[u8], now_ms: u64) -> Result<Ahead, Error> {
    let Some(row) = rows.row::<LifecycleRow>(&keys::lifecycle(bucket))? else { return stale() };
    let found = walk(rows, bucket, &Judge::new(&row.lifecycle, &ages::of(rows)?, now_ms), at, &LOOK)?;
    Ok(Ahead { at: found.at, due: !found.doomed.is_empty(), end: found.end, read: found.read })
}

/// Buckets behind `after` that have a lifecycle, in the order of their numbers, and where their walks are.
pub(crate) fn list(rows: &impl Read, after: Option<BucketId>) -> Result<Vec<(BucketId, Cursor)>, Error> {
    let all = keys::family(keys::LIFECYCLES);
    let from = after.map_or(all.start, |after| keys::successor(&keys::lifecycle(after)));
    let (mut found, mut failed) = (Vec::new(), None);
    rows.visit(&from, &all.end, &mut |key, value| {
        let bucket = keys::lifecycle_of(key).ok_or_else(|| unreadable(key, "no such key"));
        match bucket.and_then(|bucket| Ok((bucket, decode::<LifecycleRow>(key, value)?.cursor))) {
            Ok(walked) => found.push(walked),
            Err(error) => failed = Some(error),
        }
        failed.is_none() && found.len() < PAGE_MAX
    });
    failed.map_or(Ok(found), Err)
}
