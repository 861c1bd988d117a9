//! Walks that carry out the lifecycles of buckets, partition after partition.
//!
//! Always holds: what goes is judged by the partition, in the command that removes it; a walk only says where to look, and brings
//! readings of cluster time. No clock of this node has a part in it: its timers say how often, never what.

use metadata::{Cursor, Error, Walks};
use protocol::{BucketId, GroupId, Revision};
use runtime::task::Task;
use runtime::time::{Instant, now, since, sleep};
use runtime::{planted, probe};
use std::time::Duration;

/// The longest wait for one answer.
const WAIT: Duration = Duration::from_secs(10);
/// Between two readings of cluster time that must differ: it goes on every ten seconds.
const SETTLE_PAUSE: Duration = Duration::from_secs(3);
/// Readings until a round goes without marks: time enough for two steps, and as much again.
const SETTLE_TRIES: u32 = 16;
/// After each answer a walk rests so many times as long as that took: it takes a fifth of what a partition can do at most.
const REST: u32 = 4;
const REST_MIN: Duration = Duration::from_millis(1);

/// Walk every `every` over the partitions that `led` says this node leads, until the task is dropped.
pub fn carry_out_lifecycles(
    placement: placement::Client,
    walks: Walks,
    every: Duration,
    led: impl Fn() -> Vec<GroupId> + Send + Sync + 'static,
) -> Task<()> {
    let walker = Walker { placement, walks };
    runtime::task::spawn(async move {
        loop {
            sleep(every).await;
            let partitions = led();
            if !partitions.is_empty()
                && let Err(error) = walker.round(partitions).await
            {
                tracing::debug!(%error, "a walk for lifecycles goes on another time");
            }
        }
    })
}

struct Walker {
    placement: placement::Client,
    walks: Walks,
}

impl Walker {
    async fn round(&self, partitions: Vec<GroupId>) -> Result<(), placement::Error> {
        // What these revisions speak of was made before time is read.
        let mut seen: Vec<(GroupId, Revision)> = Vec::new();
        for partition in partitions {
            match self.walks.lifecycles(partition, None, soon()).await {
                Ok((_, revision)) => seen.push((partition, revision)),
                Err(error) => tracing::debug!(%partition, %error, "no walk over a partition that does not answer"),
            }
        }
        let (now_ms, settled) = self.read_time().await?;
        // All of them before the first walk, which may take long.
        for (partition, revision) in seen.iter().filter(|_| settled) {
            if let Err(error) = self.walks.mark_age(*partition, *revision, now_ms, soon()).await {
                tracing::debug!(%partition, %error, "a partition took no mark");
            }
        }
        for (partition, _) in seen.into_iter().filter(|_| now_ms > 0) {
            match self.walk(partition, now_ms).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(%partition, removed, "lifecycles removed versions and uploads"),
                // Another node walks there, or will.
                Err(error) => tracing::debug!(%partition, %error, "a walk over a partition ended early"),
            }
        }
        Ok(())
    }

    /// Cluster time, and whether it tells when this was called, too: that it was no earlier than what most clocks of the root
    /// voters showed then. While no majority agrees it stands, and then catches up in steps, so that what is made meanwhile would
    /// count as made long before it was. So it must go on, by less than such a step, and twice: the first time it may have been read from what
    /// the clocks had shown before this process, or the whole cluster, was suspended; the second time nodes have been heard of since.
    async fn read_time(&self) -> Result<(u64, bool), placement::Error> {
        if planted("expired-by-the-walkers-clock") {
            return Ok((runtime::time::wall_ms(), true));
        }
        let mut before = self.placement.cluster_time_ms(soon()).await?;
        let mut steps = 0;
        for _ in 0..SETTLE_TRIES {
            sleep(SETTLE_PAUSE).await;
            let now_ms = self.placement.cluster_time_ms(soon()).await?;
            match now_ms.saturating_sub(before) {
                0 => {}
                step if step < placement::root::time::STEP_MS_MAX => steps += 1,
                _ => steps = 0,
            }
            if steps == 2 {
                return Ok((now_ms, true));
            }
            before = now_ms;
        }
        probe!("lifecycle-walk-without-marks");
        Ok((before, false))
    }

    /// Over all buckets of a partition that have a lifecycle; how much was removed.
    async fn walk(&self, partition: GroupId, now_ms: u64) -> Result<usize, Error> {
        let (mut removed, mut after) = (0, None);
        loop {
            let (page, _) = self.walks.lifecycles(partition, after, soon()).await?;
            let Some((last, _)) = page.last() else { return Ok(removed) };
            after = Some(*last);
            for (bucket, cursor) in page {
                match self.walk_bucket(partition, bucket, cursor, now_ms, &mut removed).await {
                    // It is being deleted.
                    Ok(()) | Err(Error::Closed | Error::NotOpen) => {}
                    // It has another lifecycle by now, or somebody else walks here at a later time: the rest is for him, or for the next round.
                    Err(Error::StaleAttempt) => return Ok(removed),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// From where the walk is to the end of the bucket.
    async fn walk_bucket(
        &self,
        partition: GroupId,
        bucket: BucketId,
        mut cursor: Cursor,
        now_ms: u64,
        removed: &mut usize,
    ) -> Result<(), Error> {
        let mut at = cursor.at.clone();
        loop {
            let begun = now();
            let ahead = self.walks.ahead(partition, bucket, at, now_ms, soon()).await?;
            rest(begun).await;
            if !ahead.due && !ahead.end {
                at = ahead.at;
                continue;
            }
            if !ahead.due && cursor.at.is_empty() {
                // From the first row to the last, and nothing to say.
                return Ok(());
            }
            let (begun, walk) = (now(), cursor.walk);
            let expired = self.walks.expire(partition, bucket, cursor, ahead.at, now_ms, soon()).await?;
            rest(begun).await;
            *removed += expired.gone.len();
            if expired.cursor.walk != walk {
                return Ok(());
            }
            at = expired.cursor.at.clone();
            cursor = expired.cursor;
        }
    }
}

fn soon() -> Instant {
    now() + WAIT
}

async fn rest(begun: Instant) {
    sleep((since(begun) * REST).max(REST_MIN)).await;
}
