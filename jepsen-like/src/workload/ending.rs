//! What stands when all faults are healed: every key of the history is read, every bucket listed, and where versioning was
//! set every version listed and read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use runtime::time::{self, Instant};

use super::listing;
use super::objects;
use super::tags;
use super::versions;
use super::worker::Work;
use crate::check::{self, Final, Violation};
use crate::history::{Action, After, List, ListKind, Outcome, Refusal, Seen};

/// The client of these reads in the history: linearizability covers them.
pub const READER: u32 = u32::MAX;
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_millis(250);
/// Small, so that a listing has several pages.
const PAGE_KEYS: u32 = 7;

/// A bucket as it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What each key that anybody ever used gave.
    pub finals: BTreeMap<String, Final>,
    /// All keys that a listing shows, or why there is none.
    pub listed: Result<Vec<String>, String>,
}

impl Work {
    /// Read every key, and list every bucket, of the history; each is tried until it answers or `patience` is over.
    pub async fn read_all(&self, patience: Duration) -> BTreeMap<String, Standing> {
        let deadline = time::now() + patience;
        let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut versioned = BTreeSet::new();
        for operation in self.recorder.history().operations {
            if matches!(operation.action, Action::SetVersioning(_)) {
                versioned.insert(operation.bucket.clone());
            }
            // A listing of the buckets is of none of them.
            if operation.bucket.is_empty() {
                continue;
            }
            let keys = used.entry(operation.bucket).or_default();
            if !operation.key.is_empty() {
                keys.insert(operation.key);
            }
        }
        let mut standing = BTreeMap::new();
        for (number, (bucket, keys)) in used.into_iter().enumerate() {
            let mut finals = BTreeMap::new();
            for (attempt, key) in keys.into_iter().enumerate() {
                let found = self.read_one(&bucket, &key, attempt, deadline).await;
                finals.insert(key, found);
            }
            let mut listed = self.list_one(&bucket, number, deadline).await;
            // A write whose outcome nobody knows may have taken effect between the read and the listing: the read after it tells.
            let disputed = listed.as_ref().map_or_else(|_| Vec::new(), |listed| check::listing(&finals, listed));
            for violation in disputed {
                if let Violation::Listing { key, .. } = violation
                    && finals.contains_key(&key)
                {
                    let found = self.read_one(&bucket, &key, number, deadline).await;
                    finals.insert(key, found);
                }
            }
            if versioned.contains(&bucket)
                && let Err(reason) = self.read_versions(&bucket, deadline).await
            {
                listed = Err(reason);
            }
            standing.insert(bucket, Standing { finals, listed });
        }
        standing
    }

    async fn read_one(&self, bucket: &str, key: &str, first: usize, deadline: Instant) -> Final {
        let mut attempt = first;
        loop {
            let begun = self.recorder.begin(READER, bucket, key, Action::Get);
            let (reply, _) = objects::get(self.client(attempt), &self.values, bucket, key, None).await;
            self.recorder.end(begun, reply.clone());
            match reply.outcome {
                Outcome::Read(seen) => return Ok(seen),
                Outcome::Refused(Refusal::NoSuchBucket) => return Ok(Seen::Absent),
                other if time::now() >= deadline => return Err(reason(other)),
                _ => {}
            }
            attempt += 1;
            time::sleep(PAUSE).await;
        }
    }

    /// List all versions and read each by its id, its tags too; what they must be the model of versions says.
    async fn read_versions(&self, bucket: &str, deadline: Instant) -> Result<(), String> {
        let mut attempt = 0;
        let all = loop {
            match versions::list(self, READER, self.client(attempt), bucket, "", PAGE_KEYS).await {
                Ok(all) => break all,
                Err(other) if time::now() >= deadline => return Err(format!("no listing of versions: {}", reason(other))),
                Err(_) => {}
            }
            attempt += 1;
            time::sleep(PAUSE).await;
        };
        for version in all.into_iter().filter(|version| version.value.is_some()) {
            loop {
                let action = Action::GetVersion(version.id.clone());
                let begun = self.recorder.begin(READER, bucket, &version.key, action);
                let reply = versions::get(self.client(attempt), &self.values, bucket, &version.key, Some(&version.id)).await;
                self.recorder.end(begun, reply.clone());
                match reply.outcome {
                    Outcome::Found { .. } => break,
                    other if time::now() >= deadline => {
                        return Err(format!("version {} of {} cannot be read: {}", version.id, version.key, reason(other)));
                    }
                    _ => {}
                }
                attempt += 1;
                time::sleep(PAUSE).await;
            }
            loop {
                let begun = self.recorder.begin(READER, bucket, &version.key, Action::GetTags(Some(version.id.clone())));
                let reply = tags::get(self.client(attempt), bucket, &version.key, Some(&version.id)).await;
                self.recorder.end(begun, reply.clone());
                match reply.outcome {
                    Outcome::Tags { .. } | Outcome::Found { .. } => break,
                    other if time::now() >= deadline => {
                        return Err(format!("tags of version {} of {} cannot be read: {}", version.id, version.key, reason(other)));
                    }
                    _ => {}
                }
                attempt += 1;
                time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn list_one(&self, bucket: &str, number: usize, deadline: Instant) -> Result<Vec<String>, String> {
        let mut attempt = number;
        loop {
            let first = List {
                // Names of steps are below 2^63.
                listing: u64::MAX - ((number as u64) << 32) - attempt as u64,
                kind: ListKind::V2,
                prefix: String::new(),
                delimiter: String::new(),
                after: After::Start,
                keys_max: Some(PAGE_KEYS),
            };
            match listing::list(self, READER, self.client(attempt), bucket, first).await {
                Ok(keys) => return Ok(keys),
                Err(Outcome::Refused(Refusal::NoSuchBucket)) => return Ok(Vec::new()),
                Err(other) if time::now() >= deadline => return Err(reason(other)),
                Err(_) => {}
            }
            attempt += 1;
            time::sleep(PAUSE).await;
        }
    }
}

fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::NotDone(reason) | Outcome::Unknown(reason) => reason,
        other => format!("{other:?}"),
    }
}
