//! What nobody goes on with: a creation, deletion or setting whose gateway ended or gave up in the midst of it. Until it is ended, such
//! a bucket takes no writes, or some of its partitions are set otherwise than others.
//!
//! Any gateway that has seen it under the same attempt for a while ends it under a new one, which the root group gives it only if nobody
//! has begun another meanwhile. A creation is taken back, and so is a deletion, unless some partition has removed the bucket: then it is
//! brought to its end. For who began it may only be slow, and answer yet: what is taken back was not done, so that a refusal of his stays
//! true; and once he has begun to remove, or to set, he answers only success, or that the outcome is not known.

use super::{Steps, reference, soon};
use crate::error;
use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use metadata::BucketRef;
use placement::{Bucket, BucketState};
use runtime::time::{self, Instant};
use s3s::S3Result;
use std::collections::BTreeMap;
use std::time::Duration;

/// Who is at work has a new attempt, or an end, in less: a deletion has 12 s of patience and 5 s for its last step.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// How often each gateway looks: so many milliseconds, and up to as many more, that not all look at once.
const LOOK_MS: u64 = 5_000;
/// Ended at a time: one whose partitions do not answer must not be in the way of the others.
const AT_ONCE: usize = 8;
/// The longest wait for partitions of which some may be out of reach.
const ASK_WAIT: Duration = Duration::from_secs(1);

/// Look for them and end them, for as long as the gateway lives.
pub(super) async fn end_all(steps: Steps) {
    let mut seen: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
    loop {
        time::sleep(Duration::from_millis(LOOK_MS + runtime::entropy::u64() % LOOK_MS)).await;
        let unfinished = match steps.unfinished().await {
            Ok(unfinished) => unfinished,
            Err(error) => {
                tracing::debug!(%error, "cannot look for buckets that are left half done");
                continue;
            }
        };
        if runtime::planted("abandoned-bucket-left-alone") {
            continue;
        }
        let due = due(&mut seen, &unfinished, time::now());
        let end = |bucket| steps.end_reported(bucket);
        futures::stream::iter(due).for_each_concurrent(AT_ONCE, end).await;
    }
}

/// Those of `unfinished` that were seen under the same attempt for [`ABANDONED_AFTER`]; who is not among them is forgotten.
fn due<'a>(seen: &mut BTreeMap<String, (u64, Instant)>, unfinished: &'a [Bucket], now: Instant) -> Vec<&'a Bucket> {
    let before = std::mem::take(seen);
    let since = |bucket: &Bucket| match before.get(&bucket.name) {
        Some((attempt, since)) if *attempt == bucket.attempt => *since,
        _ => now,
    };
    seen.extend(unfinished.iter().map(|bucket| (bucket.name.clone(), (bucket.attempt, since(bucket)))));
    unfinished.iter().filter(|bucket| now.saturating_duration_since(seen[&bucket.name].1) >= ABANDONED_AFTER).collect()
}

impl Steps {
    async fn unfinished(&self) -> Result<Vec<Bucket>, placement::Error> {
        let mut all: Vec<Bucket> = Vec::new();
        loop {
            let after = all.last().map_or("", |bucket| bucket.name.as_str());
            let page = self.placement.unfinished_buckets(after, soon()).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    async fn end_reported(&self, bucket: &Bucket) {
        runtime::probe!("bucket-abandoned-ended");
        tracing::warn!(bucket = %bucket.name, state = ?bucket.state, "left half done for long, ending it");
        if let Err(error) = self.end(bucket).await {
            tracing::info!(bucket = %bucket.name, %error, "cannot end it yet, or somebody else does");
        }
    }

    /// End what stands under the attempt of `bucket`, if it still does.
    pub(super) async fn end(&self, bucket: &Bucket) -> S3Result<()> {
        let deadline = soon();
        let taken = self.placement.take_over_bucket(&bucket.name, bucket.attempt, deadline).await.map_err(error::of_placement)?;
        if taken.state == BucketState::Live {
            let versioning = self.set_versioning(&bucket.name, None, deadline).await;
            self.set_lifecycle(&bucket.name, None, soon()).await?;
            return versioning.map(drop);
        }
        let partitions = reference(&taken);
        if taken.state == BucketState::Deleting && self.was_reopened_somewhere(bucket, deadline).await {
            // It was found not to be empty: writers need not wait again for partitions that are out of reach.
            return self.reopen(&taken, deadline).await;
        }
        // From then on no partition obeys who began it.
        let empty = self.metadata.close_bucket(&partitions, taken.attempt, deadline).await.map_err(error::of_metadata)?;
        if taken.state == BucketState::Creating || (empty && self.is_removed_somewhere(&partitions, deadline).await?) {
            // Nobody could write yet, or all of it was proved empty, and nothing was opened since.
            return self.remove(&taken, soon()).await;
        }
        self.reopen(&taken, soon()).await
    }

    /// Whether a deletion under the attempt of `bucket` came to reopening: only what was not empty is opened under such an attempt, and
    /// no partition removes it then. Those that do not answer are not waited for long.
    async fn was_reopened_somewhere(&self, bucket: &Bucket, deadline: Instant) -> bool {
        let deadline = deadline.min(time::now() + ASK_WAIT);
        let ask = |group| self.metadata.usage(group, bucket.id, deadline);
        let known = join_all(bucket.partitions.iter().map(|group| ask(*group))).await;
        known.into_iter().flatten().flatten().any(|usage| usage.open && usage.attempt == bucket.attempt)
    }

    pub(super) async fn is_removed_somewhere(&self, bucket: &BucketRef, deadline: Instant) -> S3Result<bool> {
        let ask = |group| self.metadata.usage(group, bucket.id, deadline);
        let known = try_join_all(bucket.partitions.iter().map(|group| ask(*group))).await.map_err(error::of_metadata)?;
        Ok(known.into_iter().flatten().any(|usage| usage.removed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{BucketId, Versioning};

    #[test]
    fn a_bucket_is_due_once_it_stood_under_one_attempt_for_long() {
        let bucket = |name: &str, attempt| Bucket {
            name: name.into(),
            id: BucketId(1),
            owner: "o".into(),
            created_ms: 0,
            state: BucketState::Deleting,
            attempt,
            partitions: Vec::new(),
            versioning: Versioning::Unversioned,
            setting: None,
        };
        let (mut seen, start) = (BTreeMap::new(), time::now());
        let mut due_at = |seconds: u64, unfinished: &[(&str, u64)]| {
            let unfinished: Vec<_> = unfinished.iter().map(|(name, attempt)| bucket(name, *attempt)).collect();
            let due = due(&mut seen, &unfinished, start + Duration::from_secs(seconds));
            due.into_iter().map(|bucket| bucket.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(due_at(0, &[("a", 1), ("b", 2)]), [""; 0]);
        assert_eq!(due_at(29, &[("a", 1), ("b", 3)]), [""; 0]);
        assert_eq!(due_at(30, &[("a", 1), ("b", 3)]), ["a"]);
        // It was finished in between, and begun again.
        assert_eq!(due_at(40, &[("b", 3)]), [""; 0]);
        assert_eq!(due_at(59, &[("a", 1), ("b", 3)]), ["b"]);
        assert_eq!(due_at(80, &[("a", 1)]), [""; 0]);
    }
}
