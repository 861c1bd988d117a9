//! [`Rules`]: what the commands of a partition's log may do, one after another, by what the design says of them and without
//! the state machine that answered them. So a fence that gives way shows at the first command that passes it (I10, I11), long
//! before anything is lost by it, and a blob that may not be named when it is named (I5, Home).

use crate::violation::Violation;
use metadata::commands::{Command, Reply};
use metadata::rows::Share;
use metadata::{Applied, Completed, Doomed, Expired, Gone, Tagged};
use protocol::{BlobId, Body, BucketId, Home, Revision, VersionId, Versioning, WriterId, key_hash, wire};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// What was accepted so far in one partition.
#[derive(Default)]
pub struct Rules {
    buckets: BTreeMap<BucketId, Standing>,
    /// By writer, the counter up to which nothing new may be named.
    settled: BTreeMap<WriterId, u64>,
    /// The last revision that a write of a key made.
    revision: Option<Revision>,
    /// Blobs that were named since they were last taken, and the homes that named them.
    named: Vec<(BlobId, Home)>,
}

/// An incarnation of a bucket, as the accepted commands left it.
struct Standing {
    state: State,
    /// The highest that was obeyed.
    attempt: u64,
    share: Share,
    versioning: Versioning,
    /// Keys with each version and marker that they have; the one of a key where versioning was never set is a null version.
    versions: BTreeSet<(String, VersionId)>,
}

impl Standing {
    fn new(state: State, attempt: u64, share: Share) -> Standing {
        Standing { state, attempt, share, versioning: Versioning::Unversioned, versions: BTreeSet::new() }
    }

    /// The version id that a write of `revision` makes here, as the one who writes is told it.
    fn told(&self, revision: Revision) -> Option<VersionId> {
        match self.versioning {
            Versioning::Unversioned => None,
            Versioning::Enabled => Some(VersionId::Numbered(revision)),
            Versioning::Suspended => Some(VersionId::Null),
        }
    }

    /// A version or a marker of `key` was made.
    fn made(&mut self, key: &str, revision: Revision, told: Option<VersionId>, fence: &mut impl FnMut(String)) {
        if told != self.told(revision) {
            fence(format!("a write of {key} at {revision:?} made {told:?} in a bucket that is {:?}", self.versioning));
        }
        self.versions.insert((key.to_owned(), told.unwrap_or(VersionId::Null)));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Closed,
    Removed,
}

impl Rules {
    /// Take in a command that was applied, with its reply; says what it should not have done.
    pub fn judge(&mut self, command: &Command, reply: &[u8]) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut fence = |text: String| found.push(Violation::new("bucket-fence", format!("I11: {text}")));
        match command {
            Command::OpenBucket { bucket, attempt, share } if accepted::<()>(reply).is_some() => {
                self.obey(*bucket, *attempt, *share, State::Open, &mut fence);
            }
            // One that is removed stays so, and says that it is empty.
            Command::CloseBucket { bucket, .. } if self.buckets.get(bucket).is_some_and(|known| known.state == State::Removed) => {}
            Command::CloseBucket { bucket, attempt, share } if accepted::<bool>(reply).is_some() => {
                self.obey(*bucket, *attempt, *share, State::Closed, &mut fence);
            }
            Command::RemoveBucket { bucket, attempt } if accepted::<()>(reply).is_some() => match self.buckets.get_mut(bucket) {
                None => fence(format!("{bucket:?} was removed where it was never opened")),
                Some(standing) => {
                    if *attempt < standing.attempt || standing.state == State::Open {
                        fence(format!(
                            "{bucket:?} was removed by attempt {attempt}; it is {:?} under {}",
                            standing.state, standing.attempt
                        ));
                    }
                    if let Some((key, version)) = standing.versions.first() {
                        fence(format!("{bucket:?} was removed with {} versions, {version:?} of {key} for one", standing.versions.len()));
                    }
                    standing.state = State::Removed;
                }
            },
            Command::Put { bucket, key, record, .. } if let Some(applied) = accepted::<Applied>(reply) => {
                self.revision = self.revision.max(Some(applied.revision));
                self.write(*bucket, key, &mut fence).made(key, applied.revision, applied.version, &mut fence);
                self.name(Home::of(*bucket, key), &record.body, &mut found);
            }
            Command::Delete { bucket, key, version, .. } if let Some(applied) = accepted::<Applied>(reply) => {
                self.revision = self.revision.max(Some(applied.revision));
                let standing = self.write(*bucket, key, &mut fence);
                if version.is_none() && standing.versioning != Versioning::Unversioned {
                    standing.made(key, applied.revision, applied.version, &mut fence);
                } else {
                    standing.versions.remove(&(key.clone(), version.unwrap_or(VersionId::Null)));
                }
            }
            Command::CreateUpload { bucket, key, .. } | Command::AbortUpload { bucket, key, .. } if accepted::<()>(reply).is_some() => {
                self.write(*bucket, key, &mut fence);
            }
            Command::PutPart { bucket, key, part, .. } if accepted::<()>(reply).is_some() => {
                self.write(*bucket, key, &mut fence);
                self.name(Home::of(*bucket, key), &part.body, &mut found);
            }
            Command::CompleteUpload { bucket, key, .. } if let Some(Completed { record, versioned }) = accepted(reply) => {
                // A repeated one answers with the record that it made before, whatever became of the key since.
                let repeated = Some(record.revision) <= self.revision;
                self.revision = self.revision.max(Some(record.revision));
                let standing = self.write(*bucket, key, &mut fence);
                if !repeated {
                    let id = if record.null { VersionId::Null } else { VersionId::Numbered(record.revision) };
                    standing.made(key, record.revision, versioned.then_some(id), &mut fence);
                }
            }
            Command::SetVersioning { bucket, attempt, versioning } if accepted::<()>(reply).is_some() => match self.buckets.get_mut(bucket)
            {
                Some(standing) if standing.state == State::Open && *attempt >= standing.attempt => {
                    (standing.attempt, standing.versioning) = (*attempt, *versioning);
                }
                known => {
                    let known = known.map(|standing| (standing.state, standing.attempt));
                    fence(format!("{bucket:?} obeyed attempt {attempt} to make it {versioning:?}; it is {known:?}"));
                }
            },
            Command::SetLifecycle { bucket, attempt, .. } if accepted::<()>(reply).is_some() => match self.buckets.get_mut(bucket) {
                Some(standing) if standing.state == State::Open && *attempt >= standing.attempt => standing.attempt = *attempt,
                known => {
                    let known = known.map(|standing| (standing.state, standing.attempt));
                    fence(format!("{bucket:?} obeyed attempt {attempt} to have another lifecycle; it is {known:?}"));
                }
            },
            Command::Expire { bucket, .. } if let Some(Expired { gone, .. }) = accepted(reply) => {
                for Gone { key, what, revision, marker } in gone {
                    self.revision = self.revision.max(Some(revision));
                    let standing = self.write(*bucket, &key, &mut fence);
                    match (what, marker) {
                        (Doomed::Current(_), Some(_)) => standing.made(&key, revision, marker, &mut fence),
                        (Doomed::Current(_), None) => drop(standing.versions.remove(&(key, VersionId::Null))),
                        (Doomed::Version(_, id), _) => drop(standing.versions.remove(&(key, id))),
                        (Doomed::Upload(_), _) => {}
                    }
                }
            }
            Command::SetTags { bucket, key, version, .. } if let Some(tagged) = accepted::<Tagged>(reply) => {
                self.revision = self.revision.max(Some(tagged.revision));
                let standing = self.write(*bucket, key, &mut fence);
                let place = (key.clone(), version.or(tagged.version).unwrap_or(VersionId::Null));
                if !standing.versions.contains(&place) {
                    fence(format!("tags were given to version {:?} of {key}, which is not there", place.1));
                }
                if version.is_some() && tagged.version.is_some() && *version != tagged.version {
                    fence(format!("version {version:?} of {key} was to have tags, and {:?} has them", tagged.version));
                }
            }
            Command::Settle { writer, up_to, .. } if accepted::<Vec<BlobId>>(reply).is_some() => {
                let floor = self.settled.entry(*writer).or_default();
                *floor = (*floor).max(*up_to);
            }
            _ => {}
        }
        found
    }

    /// Blobs that were named since the last call.
    pub fn take_named(&mut self) -> Vec<(BlobId, Home)> {
        std::mem::take(&mut self.named)
    }

    fn obey(&mut self, bucket: BucketId, attempt: u64, share: Share, state: State, fence: &mut impl FnMut(String)) {
        let standing = self.buckets.entry(bucket).or_insert(Standing::new(state, attempt, share));
        if attempt < standing.attempt {
            fence(format!("{bucket:?} obeyed attempt {attempt} ({state:?}) after it had obeyed {}", standing.attempt));
        }
        if standing.state == State::Removed {
            fence(format!("{bucket:?} was removed, and attempt {attempt} made it {state:?}"));
        }
        standing.attempt = standing.attempt.max(attempt);
        standing.state = state;
        if state == State::Open {
            standing.share = share;
        }
    }

    /// The standing of a bucket that took a write to `key`.
    fn write(&mut self, bucket: BucketId, key: &str, fence: &mut impl FnMut(String)) -> &mut Standing {
        let nowhere = Share { index: 0, of: 0 };
        let known = self.buckets.contains_key(&bucket);
        let standing = self.buckets.entry(bucket).or_insert(Standing::new(State::Closed, 0, nowhere));
        if !known {
            fence(format!("{bucket:?} took a write to {key}, and was never opened there"));
        } else if standing.state != State::Open {
            fence(format!("{bucket:?} took a write to {key}, and is {:?}", standing.state));
        } else if !standing.share.holds(key_hash(bucket, key)) {
            fence(format!("{bucket:?} took a write to {key}, which lies in another partition"));
        }
        standing
    }

    fn name(&mut self, home: Home, body: &Body, found: &mut Vec<Violation>) {
        let Body::Blobs(blobs) = body else { return };
        for blob in blobs.iter().map(|named| named.blob) {
            if self.settled.get(&blob.writer).is_some_and(|floor| blob.counter <= *floor) {
                let text = format!("I5: {blob:?} was named by {home:?} after it was settled that it never would be");
                found.push(Violation::new("settled-blob", text));
            }
            self.named.push((blob, home));
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
    use metadata::Preconditions;
    use protocol::record::Headers;
    use protocol::{BlobRef, Record, VolumeId};
    use serde::Serialize;

    const BUCKET: BucketId = BucketId(7);
    const ALL: Share = Share { index: 0, of: 1 };

    fn done<T: Serialize>(result: T) -> Vec<u8> {
        wire::encode(&Reply { revision: Revision(1), result: Ok(result) })
    }

    fn open(attempt: u64) -> (Command, Vec<u8>) {
        (Command::OpenBucket { bucket: BUCKET, attempt, share: ALL }, done(()))
    }

    fn close(attempt: u64) -> (Command, Vec<u8>) {
        (Command::CloseBucket { bucket: BUCKET, attempt, share: ALL }, done(true))
    }

    fn remove(attempt: u64) -> (Command, Vec<u8>) {
        (Command::RemoveBucket { bucket: BUCKET, attempt }, done(()))
    }

    fn put(counter: u64) -> (Command, Vec<u8>) {
        put_as(counter, None)
    }

    /// One that is told that it made `version`.
    fn put_as(counter: u64, version: Option<VersionId>) -> (Command, Vec<u8>) {
        let blob = BlobId { writer: WriterId(3), counter };
        let record = Record {
            revision: Revision(0),
            null: true,
            bytes: 1,
            etag: String::new(),
            checksum: None,
            headers: Headers::default(),
            modified_ms: 0,
            tags: Vec::new(),
            body: Body::Blobs(vec![BlobRef { volume: VolumeId(1), blob, bytes: 1, checksum: 0 }]),
        };
        let conditions = Preconditions::default();
        let applied = Applied { revision: Revision(1), replaced: false, version, marker: false };
        (Command::Put { bucket: BUCKET, key: "k".into(), record, conditions }, done(applied))
    }

    fn settle(up_to: u64) -> (Command, Vec<u8>) {
        (Command::Settle { writer: WriterId(3), up_to, asked: Vec::new() }, done(Vec::<BlobId>::new()))
    }

    /// How many of `commands` break a rule.
    fn broken(commands: &[(Command, Vec<u8>)]) -> usize {
        let mut rules = Rules::default();
        commands.iter().map(|(command, reply)| rules.judge(command, reply).len()).sum()
    }

    #[test]
    fn what_the_fences_let_pass_is_accepted() {
        assert_eq!(broken(&[open(1), put(1), close(2), open(2), put(2)]), 0);
        assert_eq!(broken(&[close(3), open(3), close(4), remove(4), close(5)]), 0);
        let refused = wire::encode(&Reply::<Applied> { revision: Revision(1), result: Err(metadata::Error::Closed) });
        assert_eq!(broken(&[open(1), close(2), (put(1).0, refused)]), 0);
    }

    #[test]
    fn a_command_that_passes_a_fence_is_found() {
        for commands in [
            vec![put(1)],
            vec![open(1), close(2), put(1)],
            vec![open(2), close(3), open(2)],
            vec![open(1), close(2), remove(2), open(3)],
            vec![open(1), put(1), close(2), remove(2)],
            vec![open(1), remove(1)],
        ] {
            assert_eq!(broken(&commands), 1, "{:?}", commands.last());
        }
        let elsewhere = Share { index: 1 - (key_hash(BUCKET, "k") % 2) as u32, of: 2 };
        assert_eq!(broken(&[(Command::OpenBucket { bucket: BUCKET, attempt: 1, share: elsewhere }, done(())), put(1)]), 1);
    }

    #[test]
    fn a_version_is_made_as_the_partition_was_told_last() {
        let set = |attempt, versioning| (Command::SetVersioning { bucket: BUCKET, attempt, versioning }, done(()));
        let numbered = Some(VersionId::Numbered(Revision(1)));
        let enabled = [open(1), put(1), set(2, Versioning::Enabled)];
        let after = |last: (Command, Vec<u8>)| broken(&[enabled.to_vec(), vec![last]].concat());
        assert_eq!(after(put_as(2, numbered)), 0);
        assert_eq!(after(put_as(2, Some(VersionId::Null))), 1);
        assert_eq!(after(put(2)), 1);
        assert_eq!(after(set(1, Versioning::Suspended)), 1);
        assert_eq!(broken(&[open(1), set(2, Versioning::Suspended), put_as(1, numbered)]), 1);
        // A marker hides the version before it; the bucket is not empty.
        let marker = Applied { revision: Revision(2), replaced: true, version: Some(VersionId::Numbered(Revision(2))), marker: true };
        let delete =
            Command::Delete { bucket: BUCKET, key: "k".into(), version: None, conditions: Preconditions::default(), modified_ms: 0 };
        assert_eq!(broken(&[enabled.to_vec(), vec![(delete, done(marker)), close(3), remove(3)]].concat()), 1);
    }

    #[test]
    fn tags_are_given_to_versions_that_are_there() {
        let tag = |version: Option<VersionId>, told| {
            let command = Command::SetTags { bucket: BUCKET, key: "k".into(), version, tags: Vec::new() };
            (command, done(Tagged { revision: Revision(2), version: told }))
        };
        let numbered = Some(VersionId::Numbered(Revision(1)));
        let set = (Command::SetVersioning { bucket: BUCKET, attempt: 2, versioning: Versioning::Enabled }, done(()));
        assert_eq!(broken(&[open(1), put(1), tag(None, None), tag(Some(VersionId::Null), None)]), 0);
        let versioned = [open(1), set, put_as(1, numbered)];
        let after = |last: (Command, Vec<u8>)| broken(&[versioned.to_vec(), vec![last]].concat());
        assert_eq!((after(tag(None, numbered)), after(tag(numbered, numbered))), (0, 0));
        assert_eq!((after(tag(Some(VersionId::Null), Some(VersionId::Null))), after(tag(None, Some(VersionId::Null)))), (1, 1));
        assert_eq!(broken(&[open(1), tag(None, None)]), 1);
        assert_eq!(broken(&[open(1), put(1), close(2), tag(None, None)]), 1);
    }

    #[test]
    fn a_blob_that_is_named_after_it_was_settled_is_found() {
        assert_eq!(broken(&[open(1), settle(4), put(5)]), 0);
        assert_eq!(broken(&[open(1), settle(4), put(4)]), 1);
    }
}
