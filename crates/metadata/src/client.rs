//! The typed client of partitions: chooses the partition, keeps the session, merges listings.
//!
//! Always holds: each command is sent under a number of its own and never again after its future has ended, be it
//! with a reply, with an error or by being dropped; [`Error::Unknown`] is the only outcome, with the dropped future,
//! after which a write may or may not have been applied.

use bytes::Bytes;
use futures::future::join_all;
use protocol::record::Headers;
use protocol::{
    BlobId, BucketId, ChecksumKind, GroupId, Home, Lifecycle, Record, Revision, UploadId, Version, VersionId, Versioning, WriterId,
    key_hash, wire,
};
use runtime::time::Instant;
use runtime::{planted, probe};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::commands::{Command, Page, Query, Reply, UploadLine};
use crate::rows::Share;
use crate::session::Sessions;
use crate::{
    Applied, BucketRef, BucketUsage, Completed, Deletion, Error, Found, Garbage, GarbageId, ListPage, ListQuery, NamedPart, Part,
    Preconditions, Tagged, Upload, UploadPage, UploadQuery, VersionPage, VersionQuery, merge, object,
};

/// Reads and writes records; cheap to clone. One writer id, one session per partition.
#[derive(Clone)]
pub struct Client {
    groups: consensus::Client,
    numbers: Arc<Numbers>,
}

/// What a partition answered to a command, and the last revision that its answer saw or made: a witness of the order,
/// also of a refusal. `None`: there was no answer.
#[derive(Debug)]
pub struct Seen<T> {
    pub result: Result<T, Error>,
    pub revision: Option<Revision>,
}

impl<T> Seen<T> {
    /// There was no answer.
    fn without_answer(error: Error) -> Seen<T> {
        Seen { result: Err(error), revision: None }
    }
}

struct Numbers {
    writer: WriterId,
    sessions: Sessions,
    /// Uploads begun so far; with the writer id it makes upload ids.
    uploads: AtomicU64,
}

impl Client {
    /// `writer` was given by the root group to this start of this gateway. Call it once for each writer id, and clone
    /// the client: a second one would count its commands from 1 again, and be refused.
    pub fn new(groups: consensus::Client, writer: WriterId) -> Client {
        Client { groups, numbers: Arc::new(Numbers { writer, sessions: Sessions::new(writer), uploads: AtomicU64::new(0) }) }
    }

    /// Open the incarnation in each of its partitions under `attempt` (from the root group, rising). Idempotent.
    pub async fn open_bucket(&self, bucket: &BucketRef, attempt: u64, deadline: Instant) -> Result<(), Error> {
        let opened: Vec<()> = self.everywhere(bucket, deadline, |share| Command::OpenBucket { bucket: bucket.id, attempt, share }).await?;
        debug_assert_eq!(opened.len(), bucket.partitions.len());
        Ok(())
    }

    /// Close it everywhere under `attempt`: writers get [`Error::Closed`] from then on. Returns whether every
    /// partition is empty (no key and no upload), proved inside the closing commands. If one is not, that is the answer, also if others
    /// were not reached: no partition has removed the bucket then, nor may under this attempt.
    pub async fn close_bucket(&self, bucket: &BucketRef, attempt: u64, deadline: Instant) -> Result<bool, Error> {
        let close = |share| Command::CloseBucket { bucket: bucket.id, attempt, share };
        let closed: Vec<Result<bool, Error>> = self.each(bucket, deadline, close).await?;
        if closed.contains(&Ok(false)) {
            return Ok(false);
        }
        closed.into_iter().collect::<Result<Vec<bool>, Error>>().map(|_| true)
    }

    /// Remove the closed, empty incarnation under `attempt`. Afterwards its partitions answer [`Error::NotOpen`], for ever.
    pub async fn remove_bucket(&self, bucket: &BucketRef, attempt: u64, deadline: Instant) -> Result<(), Error> {
        let _: Vec<()> = self.everywhere(bucket, deadline, |_| Command::RemoveBucket { bucket: bucket.id, attempt }).await?;
        Ok(())
    }

    /// Set in each partition, under `attempt`, the versioning that writes are judged by from then on.
    pub async fn set_versioning(&self, bucket: &BucketRef, attempt: u64, versioning: Versioning, deadline: Instant) -> Result<(), Error> {
        let set = |_| Command::SetVersioning { bucket: bucket.id, attempt, versioning };
        let _: Vec<()> = self.everywhere(bucket, deadline, set).await?;
        Ok(())
    }

    /// Set in each partition, under `attempt`, the lifecycle that it judges by from then on; one without rules: none. What an
    /// earlier one doomed and is still there when this is acknowledged stays.
    pub async fn set_lifecycle(&self, bucket: &BucketRef, attempt: u64, lifecycle: &Lifecycle, deadline: Instant) -> Result<(), Error> {
        let set = |_| Command::SetLifecycle { bucket: bucket.id, attempt, lifecycle: lifecycle.clone() };
        let _: Vec<()> = self.everywhere(bucket, deadline, set).await?;
        Ok(())
    }

    /// Commit a record (what its revision and null version say is set by the partition) and queue what it replaces as
    /// garbage. Every blob of the record must be new: written for this commit, named by no other one.
    pub async fn put_seen(
        &self,
        bucket: &BucketRef,
        key: &str,
        record: Record,
        conditions: Preconditions,
        deadline: Instant,
    ) -> Seen<Applied> {
        let group = match partition_of(bucket, key) {
            Ok(group) => group,
            Err(error) => return Seen::without_answer(error),
        };
        let conditions = if planted("precondition-outside-state-machine") {
            let judged = self.get(bucket, key, deadline).await.and_then(|current| object::judge(&conditions, current.as_ref()));
            if let Err(error) = judged {
                return Seen::without_answer(error);
            }
            Preconditions::default()
        } else {
            conditions
        };
        self.command_seen(group, &Command::Put { bucket: bucket.id, key: key.to_string(), record, conditions }, deadline).await
    }

    /// [`Client::put_seen`] for those who need no witness.
    pub async fn put(
        &self,
        bucket: &BucketRef,
        key: &str,
        record: Record,
        conditions: Preconditions,
        deadline: Instant,
    ) -> Result<Applied, Error> {
        self.put_seen(bucket, key, record, conditions, deadline).await.result
    }

    /// Delete the key, or one version of it. Deleting what is not there succeeds with `replaced: false`, as in S3, unless
    /// `If-Match` asks for a version: then it is [`Error::NoSuchKey`].
    pub async fn delete_seen(&self, bucket: &BucketRef, key: &str, deletion: Deletion, deadline: Instant) -> Seen<Applied> {
        let group = match partition_of(bucket, key) {
            Ok(group) => group,
            Err(error) => return Seen::without_answer(error),
        };
        let Deletion { version, conditions, modified_ms } = deletion;
        let command = Command::Delete { bucket: bucket.id, key: key.to_string(), version, conditions, modified_ms };
        self.command_seen(group, &command, deadline).await
    }

    /// [`Client::delete_seen`] for those who need no witness.
    pub async fn delete(&self, bucket: &BucketRef, key: &str, deletion: Deletion, deadline: Instant) -> Result<Applied, Error> {
        self.delete_seen(bucket, key, deletion, deadline).await.result
    }

    /// Set the tags of the current version, or of the one that is named, and nothing else of it. [`Error::NoSuchKey`],
    /// [`Error::NoSuchVersion`] or [`Error::Marked`] if it is no object.
    pub async fn set_tags_seen(
        &self,
        bucket: &BucketRef,
        key: &str,
        version: Option<VersionId>,
        tags: Vec<(String, String)>,
        deadline: Instant,
    ) -> Seen<Tagged> {
        match partition_of(bucket, key) {
            Ok(group) => {
                self.command_seen(group, &Command::SetTags { bucket: bucket.id, key: key.to_string(), version, tags }, deadline).await
            }
            Err(error) => Seen::without_answer(error),
        }
    }

    /// The current object, linearizable.
    pub async fn get(&self, bucket: &BucketRef, key: &str, deadline: Instant) -> Result<Option<Record>, Error> {
        Ok(self.get_seen(bucket, key, None, deadline).await?.0.version.and_then(Version::record))
    }

    /// The current version, or the one that is named, and the last revision of the partition that the read saw: a witness
    /// of the order.
    pub async fn get_seen(
        &self,
        bucket: &BucketRef,
        key: &str,
        version: Option<VersionId>,
        deadline: Instant,
    ) -> Result<(Found, Revision), Error> {
        let group = partition_of(bucket, key)?;
        self.ask_seen(group, &Query::Get { bucket: bucket.id, key: key.to_string(), version }, deadline).await
    }

    /// Where the version of that name stands among those of its key; `None`: there is no such null version.
    pub async fn place(&self, bucket: &BucketRef, key: &str, version: VersionId, deadline: Instant) -> Result<Option<Revision>, Error> {
        let group = partition_of(bucket, key)?;
        self.ask(group, &Query::Place { bucket: bucket.id, key: key.to_string(), version }, deadline).await
    }

    /// Rows of a completed upload's parts, `first_number..` in order, at most `max`; parts that Complete did not
    /// name are not among them. Fewer than `max` only if there are no more.
    pub async fn completed_parts(
        &self,
        bucket: &BucketRef,
        key: &str,
        upload: UploadId,
        first_number: u16,
        max: u32,
        deadline: Instant,
    ) -> Result<Vec<Part>, Error> {
        let group = partition_of(bucket, key)?;
        let mut parts: Vec<Part> = Vec::new();
        loop {
            let (first, left) = rest(&parts, first_number, max);
            let page: Page<Part> = self.ask(group, &Query::CompletedParts { upload, first_number: first, max: left }, deadline).await?;
            parts.extend(page.entries);
            if !page.truncated || parts.len() >= max as usize {
                return Ok(parts);
            }
        }
    }

    /// One page, merged from the bucket's partitions, no further than the smallest last key of a truncated one. It ends early,
    /// be it without an entry, rather than to find nothing until `deadline`.
    pub async fn list(&self, bucket: &BucketRef, query: ListQuery, deadline: Instant) -> Result<ListPage, Error> {
        let max = capped(query.max);
        check_partitions(bucket)?;
        let page = merge::page(bucket.partitions.len(), max, enough(deadline), |index, position, count| {
            let mut query = ListQuery { max: count, ..query.clone() };
            query.after = position.after.map_or(query.after, |(name, _)| Some(name));
            query.passed = position.passed.or(query.passed);
            self.asked(bucket.partitions[index], Query::List { bucket: bucket.id, query }, deadline)
        })
        .await?;
        Ok(ListPage { entries: page.entries, truncated: page.truncated, passed: page.passed, read: page.read })
    }

    /// One page of versions and markers, merged as [`Client::list`] does; each key's lie in one partition.
    pub async fn list_versions(&self, bucket: &BucketRef, query: VersionQuery, deadline: Instant) -> Result<VersionPage, Error> {
        let max = capped(query.max);
        check_partitions(bucket)?;
        let page = merge::page(bucket.partitions.len(), max, enough(deadline), |index, position, count| {
            let mut query = VersionQuery { max: count, ..query.clone() };
            if let Some((name, place)) = position.after {
                query.after_key = Some(name);
                // Newer ones come first, so places count downwards.
                query.after_version = place.map(|place| Revision(!u64::try_from(place).expect("made of a revision")));
            }
            self.asked(bucket.partitions[index], Query::ListVersions { bucket: bucket.id, query }, deadline)
        })
        .await?;
        Ok(VersionPage { entries: page.entries, truncated: page.truncated })
    }

    /// Begin a multipart upload.
    #[allow(clippy::too_many_arguments)]
    pub async fn create_upload(
        &self,
        bucket: &BucketRef,
        key: &str,
        headers: Headers,
        tags: Vec<(String, String)>,
        checksum: Option<(ChecksumKind, bool)>,
        created_ms: u64,
        deadline: Instant,
    ) -> Result<UploadId, Error> {
        let group = partition_of(bucket, key)?;
        let number = self.numbers.uploads.fetch_add(1, Ordering::Relaxed) + 1;
        let upload = UploadId(u128::from(self.numbers.writer.0) << 64 | u128::from(number));
        runtime::probe::never_twice("upload", &[self.numbers.writer.0, number]);
        let command = Command::CreateUpload { bucket: bucket.id, key: key.to_string(), upload, headers, tags, checksum, created_ms };
        let () = self.command(group, &command, deadline).await?;
        Ok(upload)
    }

    /// The upload, if it is under way.
    pub async fn upload(&self, bucket: &BucketRef, key: &str, upload: UploadId, deadline: Instant) -> Result<Upload, Error> {
        let group = partition_of(bucket, key)?;
        self.ask(group, &Query::Upload { bucket: bucket.id, key: key.to_string(), upload }, deadline).await
    }

    /// Commit a part; one with the same number is replaced and its blobs queued as garbage.
    pub async fn put_part(&self, bucket: &BucketRef, key: &str, upload: UploadId, part: Part, deadline: Instant) -> Result<(), Error> {
        let group = partition_of(bucket, key)?;
        self.command(group, &Command::PutPart { bucket: bucket.id, key: key.to_string(), upload, part }, deadline).await
    }

    /// Parts of an upload under way with `number > after`, in order, at most `max`, and whether there are more.
    pub async fn list_parts(
        &self,
        bucket: &BucketRef,
        key: &str,
        upload: UploadId,
        after: u16,
        max: u32,
        deadline: Instant,
    ) -> Result<(Upload, Vec<Part>, bool), Error> {
        let group = partition_of(bucket, key)?;
        let mut parts: Vec<Part> = Vec::new();
        loop {
            let left = max.saturating_sub(u32::try_from(parts.len()).unwrap_or(u32::MAX));
            let after = parts.last().map_or(after, |last| last.number);
            let query = Query::ListParts { bucket: bucket.id, key: key.to_string(), upload, after, max: left };
            let (begun, page): (Upload, Page<Part>) = self.ask(group, &query, deadline).await?;
            parts.extend(page.entries);
            if !page.truncated || parts.len() >= max as usize {
                return Ok((begun, parts, page.truncated));
            }
        }
    }

    /// Complete: the parts named become the key's version in one command; the others are queued as garbage.
    /// A repeated Complete of the same upload and parts returns the same record, whatever happened to the key since
    /// (the partition keeps its last 1000 results, and knows others by what they made as long as that is the newest version).
    ///
    /// `checksum` is the object's, as the gateway computed it: recorded, and checked for kind and length. A gateway
    /// that computes it from the parts' checksums names those in `parts`; the command compares them.
    #[allow(clippy::too_many_arguments)]
    pub async fn complete_upload_seen(
        &self,
        bucket: &BucketRef,
        key: &str,
        upload: UploadId,
        parts: Vec<NamedPart>,
        conditions: Preconditions,
        checksum: Option<protocol::Checksum>,
        modified_ms: u64,
        deadline: Instant,
    ) -> Seen<Completed> {
        let group = match partition_of(bucket, key) {
            Ok(group) => group,
            Err(error) => return Seen::without_answer(error),
        };
        let key = key.to_string();
        let command = Command::CompleteUpload { bucket: bucket.id, key, upload, parts, conditions, checksum, modified_ms };
        self.command_seen(group, &command, deadline).await
    }

    /// [`Client::complete_upload_seen`] for those who need no witness.
    #[allow(clippy::too_many_arguments)]
    pub async fn complete_upload(
        &self,
        bucket: &BucketRef,
        key: &str,
        upload: UploadId,
        parts: Vec<NamedPart>,
        conditions: Preconditions,
        checksum: Option<protocol::Checksum>,
        modified_ms: u64,
        deadline: Instant,
    ) -> Result<Completed, Error> {
        self.complete_upload_seen(bucket, key, upload, parts, conditions, checksum, modified_ms, deadline).await.result
    }

    /// Abort: the parts are queued as garbage. [`Error::NoSuchUpload`] if there is none.
    pub async fn abort_upload(&self, bucket: &BucketRef, key: &str, upload: UploadId, deadline: Instant) -> Result<(), Error> {
        let group = partition_of(bucket, key)?;
        self.command(group, &Command::AbortUpload { bucket: bucket.id, key: key.to_string(), upload }, deadline).await
    }

    /// Uploads under way, merged from the bucket's partitions.
    pub async fn list_uploads(&self, bucket: &BucketRef, query: UploadQuery, deadline: Instant) -> Result<UploadPage, Error> {
        let max = capped(query.max);
        check_partitions(bucket)?;
        let page = merge::page(bucket.partitions.len(), max, enough(deadline), |index, position, count| {
            let mut query = UploadQuery { max: count, ..query.clone() };
            if let Some((name, place)) = position.after {
                query.after_key = Some(name);
                query.after_upload = place.map(UploadId);
            }
            self.asked(bucket.partitions[index], Query::ListUploads { bucket: bucket.id, query }, deadline)
        })
        .await?;
        let mut merged = UploadPage { truncated: page.truncated, ..UploadPage::default() };
        for line in page.entries {
            match line {
                UploadLine::Upload(upload) => merged.uploads.push(upload),
                UploadLine::Prefix(prefix) => merged.prefixes.push(prefix),
            }
        }
        Ok(merged)
    }

    /// Fence `writer` in one partition: every later commit there of a new blob with a counter up to `up_to` is
    /// refused with [`Error::Settled`]. Returns which of `asked` (at most 10,000, all covered by the fence and at
    /// home in that partition, else it is refused as a whole) are named; the others never will be.
    pub async fn settle(
        &self,
        partition: GroupId,
        writer: WriterId,
        up_to: u64,
        asked: Vec<(Home, BlobId)>,
        deadline: Instant,
    ) -> Result<Vec<BlobId>, Error> {
        self.command(partition, &Command::Settle { writer, up_to, asked }, deadline).await
    }

    /// Which of `asked` (at most 10,000) are named in a partition now. Says nothing of the future: see [`Client::settle`].
    pub async fn named(&self, partition: GroupId, asked: Vec<BlobId>, deadline: Instant) -> Result<Vec<BlobId>, Error> {
        self.ask(partition, &Query::Named { asked }, deadline).await
    }

    /// Next steps of a partition's garbage queue, oldest entries first, behind `after`; at most `max`. None: the end.
    pub async fn garbage(&self, partition: GroupId, after: Option<GarbageId>, max: u32, deadline: Instant) -> Result<Vec<Garbage>, Error> {
        self.ask(partition, &Query::Garbage { after, max }, deadline).await
    }

    /// All blobs of this step are gone from all slots of their volumes: forget them. Returns whether the entry is
    /// finished; if not, [`Client::garbage`] gives its next step.
    pub async fn collect(&self, partition: GroupId, entry: GarbageId, through: u16, deadline: Instant) -> Result<bool, Error> {
        self.command(partition, &Command::Collect { entry, through }, deadline).await
    }

    /// State and counts of a bucket in one partition. `None`: it was never opened or closed there.
    pub async fn usage(&self, partition: GroupId, bucket: BucketId, deadline: Instant) -> Result<Option<BucketUsage>, Error> {
        self.ask(partition, &Query::Usage { bucket }, deadline).await
    }

    /// One command to each partition at once. Waits for all of them, also when one fails: none is abandoned.
    async fn everywhere<T: DeserializeOwned>(
        &self,
        bucket: &BucketRef,
        deadline: Instant,
        command: impl Fn(Share) -> Command,
    ) -> Result<Vec<T>, Error> {
        self.each(bucket, deadline, command).await?.into_iter().collect()
    }

    /// [`Client::everywhere`], with what each of them answered.
    async fn each<T: DeserializeOwned>(
        &self,
        bucket: &BucketRef,
        deadline: Instant,
        command: impl Fn(Share) -> Command,
    ) -> Result<Vec<Result<T, Error>>, Error> {
        let of = u32::try_from(bucket.partitions.len()).map_err(|_| Error::Malformed("too many partitions".into()))?;
        check_partitions(bucket)?;
        let commands: Vec<Command> = (0..of).map(|index| command(Share { index, of })).collect();
        let sent = bucket.partitions.iter().zip(&commands).map(|(group, command)| self.command(*group, command, deadline));
        Ok(join_all(sent).await)
    }

    /// Send a command under the next number of its partition's session.
    async fn command<T: DeserializeOwned>(&self, group: GroupId, command: &Command, deadline: Instant) -> Result<T, Error> {
        self.answer(group, command, deadline).await?.result
    }

    /// [`Client::command`] that tells the revision of the answer.
    async fn command_seen<T: DeserializeOwned>(&self, group: GroupId, command: &Command, deadline: Instant) -> Seen<T> {
        match self.answer(group, command, deadline).await {
            Ok(reply) => Seen { result: reply.result, revision: Some(reply.revision) },
            Err(error) => Seen::without_answer(error),
        }
    }

    /// What the partition answered.
    async fn answer<T: DeserializeOwned>(&self, group: GroupId, command: &Command, deadline: Instant) -> Result<Reply<T>, Error> {
        let encoded = wire::encode(command);
        if encoded.len() > protocol::limits::COMMAND_BYTES_MAX {
            return Err(Error::Malformed("the command is larger than 2 MiB".into()));
        }
        // Held until this future ends, in whatever way: from then on the number counts as finished.
        let under_way = self.numbers.sessions.begin(group)?;
        let proposed = self.groups.propose(group, Some(under_way.session), Bytes::from(encoded), deadline).await;
        answer_of(proposed)
    }

    async fn ask<T: DeserializeOwned>(&self, group: GroupId, query: &Query, deadline: Instant) -> Result<T, Error> {
        Ok(self.ask_seen(group, query, deadline).await?.0)
    }

    /// [`Client::ask`] that owns its query.
    async fn asked<T: DeserializeOwned>(&self, group: GroupId, query: Query, deadline: Instant) -> Result<T, Error> {
        self.ask(group, &query, deadline).await
    }

    async fn ask_seen<T: DeserializeOwned>(&self, group: GroupId, query: &Query, deadline: Instant) -> Result<(T, Revision), Error> {
        // A read changes nothing: whatever went wrong, it was not applied.
        reading_of(self.groups.read(group, Bytes::from(wire::encode(query)), deadline).await)
    }
}

/// What a group answered to a command.
pub(crate) fn answer_of<T: DeserializeOwned>(proposed: Result<Bytes, consensus::client::Error>) -> Result<Reply<T>, Error> {
    let reply = proposed.map_err(|error| match error {
        consensus::client::Error::Unavailable { .. } => Error::Unavailable(error.to_string()),
        consensus::client::Error::Busy { .. } => Error::Busy,
        // Refused as too old: an earlier try of this very command may have been applied before.
        consensus::client::Error::Unknown { .. } | consensus::client::Error::TooOld { .. } => {
            probe!("metadata-command-outcome-unknown");
            Error::Unknown(error.to_string())
        }
    })?;
    // It was applied, whatever it did: a reply that cannot be read hides what.
    wire::decode(&reply).map_err(|error| Error::Unknown(format!("the reply does not decode: {error}")))
}

/// What a group answered to a query, and the revision that it saw.
pub(crate) fn reading_of<T: DeserializeOwned>(read: Result<Bytes, consensus::client::Error>) -> Result<(T, Revision), Error> {
    let reply = read.map_err(|error| match error {
        consensus::client::Error::Busy { .. } => Error::Busy,
        error => Error::Unavailable(error.to_string()),
    })?;
    let reply: Reply<T> = wire::decode(&reply).map_err(|error| Error::Unavailable(format!("the reply does not decode: {error}")))?;
    Ok((reply.result?, reply.revision))
}

/// The partition that holds `key`.
fn partition_of(bucket: &BucketRef, key: &str) -> Result<GroupId, Error> {
    check_partitions(bucket)?;
    let index = key_hash(bucket.id, key) % bucket.partitions.len() as u64;
    Ok(bucket.partitions[usize::try_from(index).expect("less than a length")])
}

fn check_partitions(bucket: &BucketRef) -> Result<(), Error> {
    if bucket.partitions.is_empty() { Err(Error::Malformed("a bucket without partitions".into())) } else { Ok(()) }
}

fn capped(max: u32) -> usize {
    (max as usize).min(protocol::limits::LIST_KEYS_MAX)
}

/// Whether a listing that has until `deadline` goes on looking, or is cut short and continued by a request of its own: so it
/// does not lose all at the deadline, however much there is that it does not show.
fn enough(deadline: Instant) -> impl Fn() -> bool {
    let begun = runtime::time::now();
    let until = begun + deadline.saturating_duration_since(begun) * 2 / 5;
    move || runtime::time::now() >= until
}

/// Where to go on behind `parts`, and how many are still wanted.
fn rest(parts: &[Part], first: u16, max: u32) -> (u16, u32) {
    let first = parts.last().map_or(first, |last| last.number.saturating_add(1));
    (first, max.saturating_sub(u32::try_from(parts.len()).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_without_partitions_is_refused() {
        let bucket = BucketRef { id: BucketId(1), partitions: Vec::new() };
        assert!(matches!(partition_of(&bucket, "k"), Err(Error::Malformed(_))));
    }

    #[test]
    fn a_key_lies_in_the_partition_whose_share_holds_its_hash() {
        let bucket = BucketRef { id: BucketId(1), partitions: vec![GroupId(5), GroupId(9), GroupId(7)] };
        let mut hit = std::collections::BTreeSet::new();
        for number in 0..100 {
            let key = format!("key {number}");
            let group = partition_of(&bucket, &key).unwrap();
            let index = bucket.partitions.iter().position(|candidate| *candidate == group).unwrap();
            for other in 0..3 {
                assert_eq!(Share { index: other, of: 3 }.holds(key_hash(bucket.id, &key)), other as usize == index);
            }
            hit.insert(group);
        }
        assert_eq!(hit.len(), 3);
    }

    /// Gateways hold these futures across threads.
    #[allow(dead_code, reason = "compiling is the test")]
    fn futures_are_send(client: &Client, bucket: &BucketRef, deadline: Instant) {
        fn send(_: impl Send) {}
        send(client.list(bucket, ListQuery::default(), deadline));
        send(client.list_uploads(bucket, UploadQuery::default(), deadline));
        send(client.close_bucket(bucket, 1, deadline));
        send(client.list_versions(bucket, VersionQuery::default(), deadline));
        send(client.delete(bucket, "k", Deletion::default(), deadline));
    }
}
