//! [`History`]: who asked what, when, and what came back. The only thing that checkers look at.
//!
//! As text it is one JSON object a line, one operation each, in the order in which they began:
//!
//! ```json
//! {"client":2,"bucket":"b","key":"k07","action":{"put":{"id":7,"bytes":900}},"begun":41,"begun_us":1200345,"ended":44,"ended_us":1203001,"outcome":"done","revision":118}
//! {"client":0,"bucket":"b","key":"k07","action":"get","begun":45,"begun_us":1203400,"ended":47,"ended_us":1204100,"outcome":{"read":{"value":{"id":7,"bytes":900}}},"revision":120}
//! {"client":1,"bucket":"b","key":"k08","action":{"copy":{"bucket":"b","key":"k07"}},"begun":48,"begun_us":1204200,"ended":49,"ended_us":1206000,"outcome":{"copied":{"id":7,"bytes":900}},"revision":121}
//! {"client":1,"bucket":"b","key":"","action":{"list":{"listing":3,"kind":"v2","prefix":"k","delimiter":"","after":{"token":"AWswNw"},"keys_max":7}},"begun":50,"begun_us":1206100,"ended":51,"ended_us":1207000,"outcome":{"listed":{"keys":[{"key":"k08","value":{"id":7,"bytes":900}}],"prefixes":[],"truncated":false,"next":null}},"revision":null}
//! {"client":3,"bucket":"b","key":"k09","action":{"complete":{"upload":"5a","parts":[{"number":1,"value":{"id":8,"bytes":5242880}}]}},"begun":52,"begun_us":1207100,"ended":null,"ended_us":null,"outcome":{"unknown":"never ended"},"revision":null}
//! {"client":2,"bucket":"v","key":"k","action":{"delete_version":"1f"},"begun":52,"begun_us":1207150,"ended":53,"ended_us":1207160,"outcome":{"made":"1f"},"revision":130}
//! {"client":2,"bucket":"v","key":"k","action":{"set_tags":{"version":null,"tags":9}},"begun":52,"begun_us":1207170,"ended":53,"ended_us":1207180,"outcome":{"tagged":"1f"},"revision":131}
//! {"client":3,"bucket":"c","key":"","action":"create_bucket","begun":53,"begun_us":1207200,"ended":54,"ended_us":1208000,"outcome":{"refused":"bucket_exists"},"revision":null}
//! {"client":0,"bucket":"","key":"","action":{"list_buckets":{"prefix":"c","buckets_max":2}},"begun":55,"begun_us":1208100,"ended":56,"ended_us":1209000,"outcome":{"buckets":["c"]},"revision":null}
//! ```
//!
//! `begun` and `ended` count all beginnings and ends of the run in one sequence: one operation precedes another if
//! its `ended` is lower than the other's `begun`. Times are microseconds since the start, for people. `key` is empty
//! where a whole bucket is asked, and `bucket` too where all are. `revision` is what the reply's `x-keepstone-revision` said: see [`Operation::revision`].

mod recorder;
mod value;

pub use recorder::{Begun, Recorder, Reply};
pub use value::Value;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is asked. Beside each action stands what its reply may tell, apart from [`Outcome::NotDone`] and
/// [`Outcome::Unknown`], which all may; and [`Refusal::NoSuchBucket`], which all but CreateBucket and ListBuckets may.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// [`Outcome::Done`].
    Put(Value),
    /// PUT with `If-None-Match: *`: [`Outcome::Done`], [`Outcome::PreconditionFailed`].
    PutIfAbsent(Value),
    /// PUT with `If-Match` of the ETag of `expected`: [`Outcome::Done`], [`Outcome::PreconditionFailed`] (412, and 404
    /// NoSuchKey).
    PutIfMatches { value: Value, expected: Value },
    /// [`Outcome::Done`], whether the key existed or not.
    Delete,
    /// DELETE with `If-Match` of the ETag of this value: [`Outcome::Done`], [`Outcome::PreconditionFailed`] (412, and 404
    /// NoSuchKey).
    DeleteIfMatches(Value),
    /// [`Outcome::Read`].
    Get,
    /// [`Outcome::Read`]: the value that ETag, length and user metadata name.
    Head,
    /// CopyObject of this source to the operation's key: [`Outcome::Copied`]; [`Outcome::Read`] of
    /// [`Seen::Absent`] if the source did not exist.
    Copy(Source),
    /// One page of a listing; each page is an operation of its own: [`Outcome::Listed`].
    List(List),
    /// [`Outcome::Begun`].
    CreateUpload,
    /// [`Outcome::Done`], [`Refusal::NoSuchUpload`].
    UploadPart { upload: String, number: u16, value: Value },
    /// CompleteMultipartUpload that names these parts by the ETags of their values. The object that it makes is
    /// [`Value::composed`] of them. [`Outcome::Done`], [`Refusal::NoSuchUpload`], [`Refusal::InvalidPart`],
    /// [`Refusal::InvalidPartOrder`], [`Refusal::EntityTooSmall`]; with `If-None-Match: *` also [`Outcome::PreconditionFailed`].
    Complete {
        upload: String,
        parts: Vec<Part>,
        /// With `If-None-Match: *`: all Completes of an upload, or none.
        #[serde(default, skip_serializing_if = "is_false")]
        if_absent: bool,
    },
    /// [`Outcome::Done`], [`Refusal::NoSuchUpload`].
    Abort { upload: String },
    /// One page of the parts with higher numbers than `after`, at most `parts_max` of them: [`Outcome::Parts`],
    /// [`Refusal::NoSuchUpload`].
    ListParts { upload: String, after: u16, parts_max: u16 },
    /// All uploads under way in the bucket: [`Outcome::Uploads`].
    ListUploads,
    /// [`Outcome::Done`], [`Refusal::BucketExists`].
    CreateBucket,
    /// [`Outcome::Done`], [`Refusal::BucketNotEmpty`].
    DeleteBucket,
    /// All pages of ListBuckets, each of at most `buckets_max`, as one operation: [`Outcome::Buckets`].
    ListBuckets { prefix: String, buckets_max: Option<u32> },
    /// PutBucketVersioning, Enabled or Suspended: [`Outcome::Done`]. In buckets of which somebody asks it, writes and
    /// deletions end with [`Outcome::Made`], reads with [`Outcome::Found`].
    SetVersioning(bool),
    /// [`Outcome::Versioning`].
    GetVersioning,
    /// GET of the version of this id: [`Outcome::Found`], of [`Seen::Absent`] if it is not there or a marker.
    GetVersion(String),
    /// DELETE of the version of this id: [`Outcome::Made`].
    DeleteVersion(String),
    /// CopyObject of a version of another key, of which its reader knows that it is this value, to the operation's key, with the tags of
    /// that value: [`Outcome::Made`], [`Outcome::Found`] of [`Seen::Absent`] if the version is not there.
    CopyVersion { from: String, version: String, value: Value },
    /// One page of ListObjectVersions: [`Outcome::Versions`].
    ListVersions(VersionList),
    /// PutObjectTagging of the tags of this number, or DeleteObjectTagging; of the current
    /// version, or of that of the id: [`Outcome::Tagged`], [`Outcome::Found`] of [`Seen::Absent`] if there is no object.
    SetTags { version: Option<String>, tags: Option<u64> },
    /// GetObjectTagging: [`Outcome::Tags`], [`Outcome::Found`] as with `SetTags`.
    GetTags(Option<String>),
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// One page of versions that is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionList {
    pub prefix: String,
    /// The last line of the page that it goes on behind; `None`: from the first key.
    pub behind: Option<ListedVersion>,
    pub keys_max: u32,
}

/// A version or marker as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedVersion {
    pub key: String,
    pub id: String,
    pub latest: bool,
    /// The value that ETag and length name; `None`: a delete marker.
    pub value: Option<Value>,
}

/// A page of versions that was shown.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VersionPage {
    /// Versions and markers of each key newest first, keys in their order.
    pub versions: Vec<ListedVersion>,
    pub truncated: bool,
}

/// What a copy reads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Source {
    pub bucket: String,
    pub key: String,
}

/// A part as Complete names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Part {
    pub number: u16,
    pub value: Value,
}

/// The two listings of S3.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListKind {
    V1,
    V2,
}

/// Where a page begins.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// At the first key.
    #[default]
    Start,
    /// Behind this key: `marker` (V1) or `start-after` (V2).
    Key(String),
    /// Where the page of the same listing ended whose [`Page::next`] this is (V2).
    Token(String),
}

/// One page that is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct List {
    /// Pages that continue one another share it; no other pages do.
    pub listing: u64,
    pub kind: ListKind,
    pub prefix: String,
    /// Empty: none.
    pub delimiter: String,
    pub after: After,
    pub keys_max: Option<u32>,
}

/// A key as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub key: String,
    /// The value that ETag and length name; `None`: nobody compared them.
    pub value: Option<Value>,
}

/// A page that was shown.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Page {
    /// In the order of the reply.
    pub keys: Vec<Listed>,
    /// Common prefixes in the order of the reply.
    pub prefixes: Vec<String>,
    pub truncated: bool,
    /// `NextContinuationToken` (V2), `NextMarker` or else the last key (V1), if it is truncated.
    pub next: Option<String>,
}

/// A page of the parts of an upload.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PartPage {
    /// In the order of the reply, each by the value that its ETag names.
    pub parts: Vec<Part>,
    pub truncated: bool,
}

/// An upload as a listing shows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ListedUpload {
    pub key: String,
    pub upload: String,
}

/// What a GET or HEAD saw.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// NoSuchKey.
    Absent,
    /// Every byte of it.
    Value(Value),
    /// A complete reply with bytes or headers that are no value's.
    Wrong(String),
}

/// Refusals that tell something of the state, and that a checker can therefore contradict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    NoSuchBucket,
    /// BucketAlreadyOwnedByYou, BucketAlreadyExists.
    BucketExists,
    BucketNotEmpty,
    NoSuchUpload,
    InvalidPart,
    InvalidPartOrder,
    EntityTooSmall,
}

/// What came of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A write, delete or other change was acknowledged.
    Done,
    Read(Seen),
    /// A copy was acknowledged, with the ETag of this value.
    Copied(Value),
    /// An upload was begun under this id.
    Begun(String),
    Listed(Page),
    Parts(PartPage),
    /// In the order of the reply.
    Uploads(Vec<ListedUpload>),
    /// Those of workloads, in order; others are left out.
    Buckets(Vec<String>),
    /// A write or deletion was acknowledged, and this version id told with it.
    Made(Option<String>),
    /// What was read, and the version id told with it.
    Found {
        seen: Seen,
        version: Option<String>,
    },
    Versions(VersionPage),
    /// A change of tags was acknowledged, and the id told of the version that has them.
    Tagged(Option<String>),
    /// The tags of a version, by their number, and the id told with them.
    Tags {
        tags: Option<u64>,
        version: Option<String>,
    },
    /// Whether versioning is enabled; `None`: it was never set.
    Versioning(Option<bool>),
    /// The condition did not hold.
    PreconditionFailed,
    /// Certainly without effect, and the state was so that it had to be refused.
    Refused(Refusal),
    /// Certainly without effect, now and later; it tells nothing of the state.
    NotDone(String),
    /// It may have been done, or may yet be done.
    Unknown(String),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    pub client: u32,
    /// Empty for those on all buckets.
    pub bucket: String,
    /// Empty for operations on a bucket.
    pub key: String,
    pub action: Action,
    /// Place in the run's sequence of beginnings and ends.
    pub begun: u64,
    pub begun_us: u64,
    /// None: it had not ended when the run did.
    pub ended: Option<u64>,
    pub ended_us: Option<u64>,
    pub outcome: Outcome,
    /// A witness of the order: the revision of the key's partition that a write made, or a read saw. Comparable
    /// among the operations of one key only, during one life of its bucket. `None`: the reply did not say, or there was
    /// none.
    #[serde(default)]
    pub revision: Option<u64>,
}

/// All operations of a run in the order in which they began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
}

/// A line that is no operation.
#[derive(Debug, thiserror::Error)]
#[error("history line {line}: {reason}")]
pub struct Error {
    pub line: usize,
    pub reason: String,
}

impl Refusal {
    /// As in the lines of a history.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::NoSuchBucket => "no_such_bucket",
            Refusal::BucketExists => "bucket_exists",
            Refusal::BucketNotEmpty => "bucket_not_empty",
            Refusal::NoSuchUpload => "no_such_upload",
            Refusal::InvalidPart => "invalid_part",
            Refusal::InvalidPartOrder => "invalid_part_order",
            Refusal::EntityTooSmall => "entity_too_small",
        }
    }

    /// The refusal that S3's code stands for, if it tells something of the state.
    pub fn of_code(code: &str) -> Option<Refusal> {
        Some(match code {
            "NoSuchBucket" => Refusal::NoSuchBucket,
            "BucketAlreadyOwnedByYou" | "BucketAlreadyExists" => Refusal::BucketExists,
            "BucketNotEmpty" => Refusal::BucketNotEmpty,
            "NoSuchUpload" => Refusal::NoSuchUpload,
            "InvalidPart" => Refusal::InvalidPart,
            "InvalidPartOrder" => Refusal::InvalidPartOrder,
            "EntityTooSmall" => Refusal::EntityTooSmall,
            _ => return None,
        })
    }
}

impl Operation {
    /// The value that it gives its key if it is done; `None` also for a copy that does not know what it copied.
    pub fn writes(&self) -> Option<Value> {
        match (&self.action, &self.outcome) {
            (Action::Put(value) | Action::PutIfAbsent(value) | Action::PutIfMatches { value, .. }, _) => Some(*value),
            (Action::CopyVersion { value, .. }, _) | (Action::Copy(_), Outcome::Copied(value)) => Some(*value),
            (Action::Complete { parts, .. }, _) => Some(Value::composed(parts.iter().map(|part| part.value))),
            _ => None,
        }
    }

    /// Whether it may have changed its key, or may yet.
    pub fn may_change_key(&self) -> bool {
        let changes = matches!(
            self.action,
            Action::Put(_)
                | Action::PutIfAbsent(_)
                | Action::PutIfMatches { .. }
                | Action::Delete
                | Action::DeleteIfMatches(_)
                | Action::DeleteVersion(_)
                | Action::Copy(_)
                | Action::CopyVersion { .. }
                | Action::Complete { .. }
        );
        changes && matches!(self.outcome, Outcome::Done | Outcome::Made(_) | Outcome::Copied(_) | Outcome::Unknown(_))
    }

    /// Whether a change was acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.outcome, Outcome::Done | Outcome::Made(_) | Outcome::Copied(_) | Outcome::Begun(_))
    }
}

impl History {
    /// One line of JSON for each operation.
    pub fn to_lines(&self) -> String {
        let mut text = String::new();
        for operation in &self.operations {
            text.push_str(&serde_json::to_string(operation).expect("an operation has only plain fields"));
            text.push('\n');
        }
        text
    }

    /// Read what [`to_lines`](History::to_lines) wrote.
    pub fn from_lines(text: &str) -> Result<History, Error> {
        let read =
            |(index, line): (usize, &str)| serde_json::from_str(line).map_err(|error| Error { line: index + 1, reason: error.to_string() });
        let operations = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(read).collect::<Result<_, _>>()?;
        Ok(History { operations })
    }

    /// Operations by bucket and key, in the order in which they began; those on buckets are under an empty key.
    pub fn by_key(&self) -> BTreeMap<(&str, &str), Vec<&Operation>> {
        let mut keys: BTreeMap<(&str, &str), Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry((&operation.bucket, &operation.key)).or_default().push(operation);
        }
        keys
    }

    /// How many operations ended how, and why those failed that did.
    pub fn tally(&self) -> BTreeMap<String, usize> {
        let mut tally = BTreeMap::new();
        for operation in &self.operations {
            let name = match &operation.outcome {
                Outcome::Done => "done".to_owned(),
                Outcome::Read(Seen::Absent) => "read absent".to_owned(),
                Outcome::Read(Seen::Value(_)) => "read".to_owned(),
                Outcome::Read(Seen::Wrong(_)) => "read WRONG".to_owned(),
                Outcome::Copied(_) => "copied".to_owned(),
                Outcome::Begun(_) => "upload begun".to_owned(),
                Outcome::Listed(_) => "page listed".to_owned(),
                Outcome::Parts(_) => "parts listed".to_owned(),
                Outcome::Uploads(_) => "uploads listed".to_owned(),
                Outcome::Buckets(_) => "buckets listed".to_owned(),
                Outcome::Made(_) => "version made".to_owned(),
                Outcome::Found { seen: Seen::Value(_), .. } => "version read".to_owned(),
                Outcome::Found { seen: Seen::Absent, .. } => "no version".to_owned(),
                Outcome::Found { seen: Seen::Wrong(_), .. } => "version read WRONG".to_owned(),
                Outcome::Versions(_) => "page of versions listed".to_owned(),
                Outcome::Tagged(_) => "tags set".to_owned(),
                Outcome::Tags { .. } => "tags read".to_owned(),
                Outcome::Versioning(_) => "versioning read".to_owned(),
                Outcome::Refused(refusal) => format!("refused: {}", refusal.name()),
                Outcome::PreconditionFailed => "precondition failed".to_owned(),
                Outcome::NotDone(reason) => format!("not done: {reason}"),
                Outcome::Unknown(reason) => format!("unknown: {reason}"),
            };
            *tally.entry(name).or_insert(0) += 1;
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_were() {
        let value = Value { id: u64::MAX, bytes: 900 };
        let operation = |action, outcome| Operation {
            client: 1,
            bucket: "b".to_owned(),
            key: "a \"b\"\n".to_owned(),
            action,
            begun: 4,
            begun_us: 5,
            ended: Some(6),
            ended_us: Some(7),
            outcome,
            revision: Some(8),
        };
        let mut history = History {
            operations: vec![
                operation(Action::Put(value), Outcome::Done),
                operation(Action::PutIfMatches { value, expected: value }, Outcome::PreconditionFailed),
                operation(Action::Get, Outcome::Read(Seen::Value(value))),
                operation(Action::Get, Outcome::Read(Seen::Absent)),
                operation(Action::DeleteIfMatches(value), Outcome::PreconditionFailed),
                operation(Action::Complete { upload: "u".to_owned(), parts: Vec::new(), if_absent: true }, Outcome::Done),
                operation(Action::Delete, Outcome::Unknown("cut".to_owned())),
            ],
        };
        history.operations[6].ended = None;
        assert_eq!(History::from_lines(&history.to_lines()).unwrap(), history);
        assert_eq!(history.to_lines().lines().count(), 7);
        assert_eq!(History::from_lines("\n{}").unwrap_err().line, 2);
    }

    #[test]
    fn documented_lines_parse() {
        let text = include_str!("mod.rs");
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("//! {")).collect();
        assert_eq!(lines.len(), 9);
        for line in lines {
            let line = format!("{{{line}\n");
            assert_eq!(History::from_lines(&line).unwrap().to_lines(), line);
        }
    }
}
