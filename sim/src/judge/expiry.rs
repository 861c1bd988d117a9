//! [`Expiry`]: what the steps of lifecycles may remove, by what a partition was told, one command after another, and without the
//! state machine that judged it: only what stands as a rule asks, and is old enough by cluster time whatever any clock shows.

use crate::violation::Violation;
use metadata::commands::{Command, Reply};
use metadata::{Applied, Completed, Doomed, Expired, Gone};
use protocol::lifecycle::{Expiration, Rule};
use protocol::{BucketId, Lifecycle, Revision, UploadId, VersionId, wire};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// What stands in one partition, as far as lifecycles go.
#[derive(Default)]
pub struct Expiry {
    lifecycles: BTreeMap<BucketId, Lifecycle>,
    /// By key, the oldest first.
    versions: BTreeMap<(BucketId, String), Vec<One>>,
    /// Cluster time when they were begun, at least.
    uploads: BTreeMap<(BucketId, UploadId), u64>,
    /// Readings of cluster time that were brought since they were last taken.
    readings: Vec<u64>,
}

#[derive(Clone, Debug)]
struct One {
    revision: Revision,
    id: VersionId,
    marker: bool,
    /// Cluster time when it was made, at least.
    made_ms: u64,
}

impl Expiry {
    /// Take in a command that was applied, with its reply, when cluster time was no less than `known_ms`; says what it should not
    /// have removed.
    pub fn judge(&mut self, command: &Command, reply: &[u8], known_ms: u64) -> Vec<Violation> {
        match command {
            Command::Put { bucket, key, .. } => {
                if let Some(Applied { revision, version, .. }) = accepted(reply) {
                    self.add(*bucket, key, revision, version, false, known_ms);
                }
            }
            Command::Delete { bucket, key, version, .. } => match (accepted::<Applied>(reply), version) {
                (Some(applied), None) if applied.marker => {
                    self.add(*bucket, key, applied.revision, applied.version, true, known_ms);
                }
                (Some(_), _) => self.remove(*bucket, key, version.unwrap_or(VersionId::Null)),
                (None, _) => {}
            },
            Command::CreateUpload { bucket, upload, .. } if accepted::<()>(reply).is_some() => {
                self.uploads.insert((*bucket, *upload), known_ms);
            }
            Command::AbortUpload { bucket, upload, .. } if accepted::<()>(reply).is_some() => {
                self.uploads.remove(&(*bucket, *upload));
            }
            Command::CompleteUpload { bucket, key, upload, .. } => {
                // A repeated one makes nothing.
                if let Some(Completed { record, .. }) = accepted(reply)
                    && self.uploads.remove(&(*bucket, *upload)).is_some()
                {
                    let id = if record.null { VersionId::Null } else { VersionId::Numbered(record.revision) };
                    self.add(*bucket, key, record.revision, Some(id), false, known_ms);
                }
            }
            Command::SetLifecycle { bucket, lifecycle, .. } if accepted::<()>(reply).is_some() => {
                self.lifecycles.insert(*bucket, lifecycle.clone());
            }
            Command::MarkAge { now_ms, .. } if accepted::<()>(reply).is_some() => self.readings.push(*now_ms),
            Command::Expire { bucket, now_ms, .. } => {
                if let Some(Expired { gone, .. }) = accepted(reply) {
                    self.readings.push(*now_ms);
                    let wrong = gone.iter().filter_map(|gone| Some((gone, self.unfounded(*bucket, gone, *now_ms)?)));
                    let text = |(gone, why): (&Gone, String)| format!("{:?} of {} expired at {now_ms} ms: {why}", gone.what, gone.key);
                    let found = wrong.map(|wrong| Violation::new("expiry-by-rules", text(wrong))).collect();
                    for gone in &gone {
                        self.take_away(*bucket, gone, *now_ms);
                    }
                    return found;
                }
            }
            _ => {}
        }
        Vec::new()
    }

    /// Readings of cluster time since the last call.
    pub fn take_readings(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.readings)
    }

    fn add(&mut self, bucket: BucketId, key: &str, revision: Revision, id: Option<VersionId>, marker: bool, made_ms: u64) {
        let id = id.unwrap_or(VersionId::Null);
        if id == VersionId::Null {
            self.remove(bucket, key, id);
        }
        self.versions.entry((bucket, key.to_owned())).or_default().push(One { revision, id, marker, made_ms });
    }

    fn remove(&mut self, bucket: BucketId, key: &str, id: VersionId) {
        if let Some(versions) = self.versions.get_mut(&(bucket, key.to_owned())) {
            versions.retain(|one| one.id != id);
        }
    }

    fn take_away(&mut self, bucket: BucketId, gone: &Gone, now_ms: u64) {
        match (gone.what, gone.marker) {
            // Made in that very step.
            (Doomed::Current(_), Some(id)) => self.add(bucket, &gone.key, gone.revision, Some(id), true, now_ms),
            (Doomed::Current(_), None) => self.remove(bucket, &gone.key, VersionId::Null),
            (Doomed::Version(_, id), _) => self.remove(bucket, &gone.key, id),
            (Doomed::Upload(id), _) => drop(self.uploads.remove(&(bucket, id))),
        }
    }

    /// Why no rule could have doomed it, if so. Tags and sizes are left out.
    fn unfounded(&self, bucket: BucketId, gone: &Gone, now_ms: u64) -> Option<String> {
        let Some(lifecycle) = self.lifecycles.get(&bucket) else { return Some("the bucket has no lifecycle".to_owned()) };
        let versions = self.versions.get(&(bucket, gone.key.clone())).map_or(&[][..], Vec::as_slice);
        let midnight_ms = now_ms / lifecycle.day_ms.max(1) * lifecycle.day_ms;
        let due = |made_ms: u64, days: u32| made_ms.saturating_add(u64::from(days) * lifecycle.day_ms) <= midnight_ms;
        let expires = |rule: &Rule, made_ms: u64| match rule.expiration {
            Some(Expiration::Days(days)) => due(made_ms, days),
            Some(Expiration::At(time_ms)) => time_ms <= now_ms,
            Some(Expiration::Markers(_)) | None => false,
        };
        let chosen = |rule: &&Rule| rule.enabled && rule.filter.prefix.as_ref().is_none_or(|prefix| gone.key.starts_with(prefix.as_str()));
        let any = |doomed: &dyn Fn(&Rule) -> bool| lifecycle.rules.iter().filter(chosen).any(doomed);
        match gone.what {
            Doomed::Current(revision) => match versions.last() {
                Some(one) if one.revision != revision || one.marker => Some(format!("{one:?} is newer")),
                Some(one) if !any(&|rule| expires(rule, one.made_ms)) => Some(format!("it was made at {} ms or later", one.made_ms)),
                Some(_) => None,
                None => Some("it is not there".to_owned()),
            },
            Doomed::Version(revision, id) => {
                let Some(at) = versions.iter().position(|one| one.revision == revision && one.id == id) else {
                    return Some("it is not there".to_owned());
                };
                let (one, newer) = (&versions[at], &versions[at + 1..]);
                let Some(next) = newer.first() else {
                    let alone = one.marker && versions.len() == 1;
                    let founded = any(&|rule| rule.expiration == Some(Expiration::Markers(true)) || expires(rule, one.made_ms));
                    return (!alone || !founded).then(|| format!("it is current: {versions:?}"));
                };
                let objects = newer[..newer.len() - 1].iter().filter(|one| !one.marker).count();
                let founded = |rule: &Rule| {
                    rule.noncurrent.is_some_and(|rule| due(next.made_ms, rule.days) && objects >= usize::try_from(rule.newer).unwrap_or(0))
                };
                (!any(&founded)).then(|| format!("it is not current since {} ms or later; {objects} newer ones are not", next.made_ms))
            }
            Doomed::Upload(id) => match self.uploads.get(&(bucket, id)) {
                Some(begun_ms) if any(&|rule| rule.abort_days.is_some_and(|days| due(*begun_ms, days))) => None,
                Some(begun_ms) => Some(format!("it was begun at {begun_ms} ms or later")),
                None => Some("it is not there".to_owned()),
            },
        }
    }
}

/// What a partition answered to a command that it accepted.
fn accepted<T: DeserializeOwned>(reply: &[u8]) -> Option<T> {
    wire::decode::<Reply<T>>(reply).ok()?.result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use metadata::{Cursor, Preconditions};
    use protocol::lifecycle::Noncurrent;
    use serde::Serialize;

    const BUCKET: BucketId = BucketId(7);

    fn done<T: Serialize>(result: T) -> Vec<u8> {
        wire::encode(&Reply { revision: Revision(1), result: Ok(result) })
    }

    /// With rules of a day of 10 ms, and versions of `k` that were made at these times, the last one at most a marker.
    fn standing(times: &[u64], marker: bool) -> Expiry {
        let mut expiry = Expiry::default();
        let rule = Rule {
            enabled: true,
            expiration: Some(Expiration::Days(1)),
            noncurrent: Some(Noncurrent { days: 2, newer: 0 }),
            ..Rule::default()
        };
        let lifecycle = Lifecycle { day_ms: 10, rules: vec![rule] };
        expiry.judge(&Command::SetLifecycle { bucket: BUCKET, attempt: 1, lifecycle }, &done(()), 0);
        for (number, made_ms) in (1..).zip(times) {
            let id = Some(VersionId::Numbered(Revision(number)));
            let applied =
                Applied { revision: Revision(number), replaced: false, version: id, marker: marker && number == times.len() as u64 };
            let (key, conditions) = ("k".to_owned(), Preconditions::default());
            // Which command it is tells only whether a version or a marker is made.
            let delete = Command::Delete { bucket: BUCKET, key, version: None, conditions, modified_ms: 0 };
            if applied.marker {
                expiry.judge(&delete, &done(applied), *made_ms);
            } else {
                expiry.add(BUCKET, "k", applied.revision, id, false, *made_ms);
            }
        }
        expiry
    }

    fn found(mut expiry: Expiry, what: Doomed, now_ms: u64) -> usize {
        let gone = vec![Gone { key: "k".to_owned(), what, revision: Revision(9), marker: Some(VersionId::Numbered(Revision(9))) }];
        let command = Command::Expire { bucket: BUCKET, from: Cursor::default(), at: Vec::new(), now_ms };
        let found = expiry.judge(&command, &done(Expired { gone, cursor: Cursor::default() }), 0).len();
        assert_eq!(expiry.take_readings(), [now_ms]);
        found
    }

    #[test]
    fn what_goes_too_early_or_is_not_as_a_rule_asks_is_found() {
        let version = |number| Doomed::Version(Revision(number), VersionId::Numbered(Revision(number)));
        let current = |number| Doomed::Current(Revision(number));
        assert_eq!((found(standing(&[101], false), current(1), 119), found(standing(&[101], false), current(1), 120)), (1, 0));
        assert_eq!(found(standing(&[101, 115], false), current(1), 120), 1, "another one is current");
        assert_eq!(found(standing(&[101, 115], false), current(2), 120), 1, "the newer one is young");
        assert_eq!((found(standing(&[1, 115], false), version(1), 139), found(standing(&[1, 115], false), version(1), 140)), (1, 0));
        assert_eq!(found(standing(&[1, 115], false), version(2), 200), 1, "a current object goes by Delete");
        assert_eq!((found(standing(&[1], true), version(1), 20), found(standing(&[1, 2], true), version(2), 200)), (0, 1));
        assert_eq!(found(Expiry::default(), current(1), 200), 1);
    }
}
