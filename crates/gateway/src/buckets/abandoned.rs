//! What nobody goes on with: a creation, deletion or setting whose gateway ended or gave up in the midst of it. Until somebody goes on, such
//! a bucket takes no writes, or some of its partitions are set otherwise than others.
//!
//! Any gateway that has seen it under the same attempt for a while goes on under a new one, which the root group gives it only if
//! nobody else has begun one meanwhile. What was abandoned counts as asked for: its client was never told that it was refused.

use super::{Steps, soon};
use crate::error;
use placement::{Bucket, BucketState};
use runtime::time::{self, Instant};
use s3s::S3Result;
use std::collections::BTreeMap;
use std::time::Duration;

/// Who is at work has a new attempt, or an end, in less: a deletion has 12 s of patience and 5 s for its last step.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// How often each gateway looks: so many milliseconds, and up to as many more, that not all look at once.
const LOOK_MS: u64 = 5_000;

/// Look and go on, for as long as the gateway lives.
pub(super) async fn go_on(steps: Steps) {
    let mut seen: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
    loop {
        time::sleep(Duration::from_millis(LOOK_MS + runtime::entropy::u64() % LOOK_MS)).await;
        let unfinished = match steps.placement.unfinished_buckets(soon()).await {
            Ok(unfinished) => unfinished,
            Err(error) => {
                tracing::debug!(%error, "cannot look for buckets that are left half done");
                continue;
            }
        };
        if runtime::planted("abandoned-bucket-left-alone") {
            continue;
        }
        for bucket in due(&mut seen, &unfinished, time::now()) {
            runtime::probe!("bucket-abandoned-gone-on-with");
            tracing::warn!(bucket = %bucket.name, state = ?bucket.state, "left half done for long, going on with it");
            if let Err(error) = steps.take_over(bucket).await {
                tracing::info!(bucket = %bucket.name, %error, "cannot go on with it yet, or somebody else does");
            }
        }
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
    async fn take_over(&self, bucket: &Bucket) -> S3Result<()> {
        let deadline = soon();
        if bucket.state == BucketState::Live {
            // Whatever is being set, if anything still is.
            self.set_versioning(&bucket.name, None, deadline).await?;
            return self.set_lifecycle(&bucket.name, None, soon()).await.map(drop);
        }
        let taken = self.placement.take_over_bucket(&bucket.name, bucket.attempt, deadline).await.map_err(error::of_placement)?;
        match taken.state {
            BucketState::Creating => self.open(&taken, deadline).await,
            BucketState::Deleting => self.end(&taken).await.map(drop),
            BucketState::Live => Ok(()),
        }
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
