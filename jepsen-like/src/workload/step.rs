//! [`Step`]: one operation of one client, as data, before the run. As JSON:
//!
//! ```json
//! {"w":0,"c":3,"n":17,"t":2400310,"e":4,"a":{"put":{"k":[0,12],"b":90211}}}
//! {"w":1,"c":0,"n":4,"t":900,"e":0,"a":{"upload_part":{"u":{"own":2},"p":3,"b":70}}}
//! ```
//!
//! Names are short since a plan has thousands of steps. Nothing in a step depends on another one being done: values
//! are named by (workload, client, number), and a step that speaks of an upload or of a value that the run does not
//! have is passed over.

use serde::{Deserialize, Serialize};

use crate::history::Value;

/// One operation of one client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Place of the workload in its scenario.
    #[serde(rename = "w")]
    pub workload: u32,
    #[serde(rename = "c")]
    pub client: u32,
    /// Names the step within its client, from 1 on; stays when others are removed.
    #[serde(rename = "n")]
    pub number: u32,
    /// Not before so many microseconds after the start of the workloads, and not before the client's step before it
    /// has ended.
    #[serde(rename = "t")]
    pub at_us: u64,
    /// Which gateway is asked, modulo their number.
    #[serde(rename = "e")]
    pub endpoint: u32,
    #[serde(rename = "a")]
    pub action: PlannedAction,
}

/// What a step asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedAction {
    Put {
        #[serde(rename = "k")]
        at: Place,
        #[serde(rename = "b")]
        bytes: u64,
    },
    PutIfAbsent {
        #[serde(rename = "k")]
        at: Place,
        #[serde(rename = "b")]
        bytes: u64,
    },
    /// If the key still has the value that this client last knew; without condition if it knows none.
    PutIfMatches {
        #[serde(rename = "k")]
        at: Place,
        #[serde(rename = "b")]
        bytes: u64,
    },
    Delete(Place),
    /// If the key still has the value that this client last knew; without condition if it knows none.
    DeleteIfMatches(Place),
    /// DeleteObjects of different keys of one bucket; in the history a delete of each.
    DeleteMany(Vec<Place>),
    Get(Place),
    /// The last bytes, or all from byte number `bytes` on, counted from 1.
    GetRange {
        #[serde(rename = "k")]
        at: Place,
        #[serde(rename = "e", default, skip_serializing_if = "is_false")]
        from_end: bool,
        #[serde(rename = "b")]
        bytes: u64,
    },
    Head(Place),
    /// All pages, one after another.
    List(PlannedList),
    CreateUpload(Place),
    UploadPart {
        #[serde(rename = "u")]
        upload: UploadName,
        #[serde(rename = "p")]
        part: u16,
        #[serde(rename = "b")]
        bytes: u64,
    },
    /// UploadPartCopy of a range of the value that this client last knew there, at most so long, on condition that it is
    /// still there.
    CopyPart {
        #[serde(rename = "u")]
        upload: UploadName,
        #[serde(rename = "p")]
        part: u16,
        #[serde(rename = "f")]
        from: Place,
        /// Where the range begins, in thousandths of the value's length.
        #[serde(rename = "s")]
        start_per_mille: u16,
        #[serde(rename = "b")]
        bytes: u64,
    },
    /// One upload in four, by its name, only where there is no object.
    Complete {
        #[serde(rename = "u")]
        upload: UploadName,
        #[serde(rename = "p")]
        naming: Naming,
    },
    /// The last Complete of this upload once more, if its outcome is unknown.
    CompleteAgain {
        #[serde(rename = "u")]
        upload: UploadName,
    },
    Abort {
        #[serde(rename = "u")]
        upload: UploadName,
    },
    /// One page of parts behind this number.
    ListParts {
        #[serde(rename = "u")]
        upload: UploadName,
        #[serde(rename = "a")]
        after: u16,
        #[serde(rename = "m")]
        parts_max: u16,
    },
    /// The uploads under way in a bucket.
    ListUploads(u32),
    Copy {
        #[serde(rename = "f")]
        from: Place,
        #[serde(rename = "k")]
        to: Place,
    },
    /// Onto itself, with other metadata.
    CopyOntoItself(Place),
    CreateBucket(u32),
    DeleteBucket(u32),
    /// All pages, one after another, each of at most so many.
    ListBuckets {
        #[serde(rename = "p", default, skip_serializing_if = "String::is_empty")]
        prefix: String,
        #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
        buckets_max: Option<u32>,
    },
    /// In a workload of versions.
    #[serde(rename = "v")]
    Version(VersionAction),
    Rude {
        #[serde(rename = "m")]
        manner: Rudeness,
        #[serde(rename = "k")]
        at: Place,
        #[serde(rename = "b")]
        bytes: u64,
    },
}

/// What a step of a workload of versions asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionAction {
    /// A PUT, DELETE, GET or HEAD whose reply tells a version id.
    Plain(Box<PlannedAction>),
    /// GET by id: one of the versions that this client knows of the key, counted from the latest; the null version if it
    /// knows none.
    Get(Place, u32),
    /// DELETE by id, of what `Get` would read.
    Delete(Place, u32),
    /// CopyObject of the version that this client last knew of a key, unless the other key ever was of that value: versions of one key are
    /// told apart by their values.
    Copy {
        #[serde(rename = "f")]
        from: Place,
        #[serde(rename = "k")]
        to: Place,
    },
    /// PutObjectTagging, or without tags DeleteObjectTagging; of the current version, or of what `Get` would read.
    SetTags {
        #[serde(rename = "k")]
        at: Place,
        #[serde(rename = "i")]
        pick: Option<u32>,
        #[serde(rename = "d")]
        none: bool,
    },
    GetTags(Place, Option<u32>),
    /// All pages, one after another.
    List {
        #[serde(rename = "p")]
        prefix: String,
        #[serde(rename = "m")]
        keys_max: u32,
    },
    /// Enable or suspend.
    Set(bool),
    Setting,
}

/// A key: number of the workload's bucket, number of the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Place(pub u32, pub u32);

/// Which upload is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadName {
    /// That of this client's step with this number.
    Own(u32),
    /// The latest that this client of the same workload has begun.
    LatestOf(u32),
}

/// Which parts Complete names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// Every part that was acknowledged, as it was acknowledged last.
    All,
    /// All but the one with the lowest number.
    ButFirst,
    /// In descending order: must be refused where there are two.
    Descending,
    /// The last one by the ETag of bytes that nobody uploaded: must be refused.
    Strange,
}

/// A listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedList {
    #[serde(rename = "k")]
    pub bucket: u32,
    #[serde(rename = "v1", default, skip_serializing_if = "is_false")]
    pub first_version: bool,
    #[serde(rename = "p", default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    #[serde(rename = "d", default, skip_serializing_if = "String::is_empty")]
    pub delimiter: String,
    /// Begins behind this key.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    #[serde(rename = "m")]
    pub keys_max: u32,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// What a rude caller does. None of it may change anything, save what is slow or hangs up while it reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rudeness {
    /// A good PUT that comes in small pieces with pauses.
    Slow,
    /// A PUT whose connection breaks in the middle of its body.
    Aborted,
    /// A PUT whose chunks end without the last one.
    Truncated,
    /// Chunks without the trailer that was announced.
    NoTrailer,
    /// Chunks with a trailer that is not the checksum of the body.
    WrongTrailer,
    /// One chunk's signature is wrong.
    WrongChunkSignature,
    /// The body is not what was signed.
    WrongHash,
    WrongSignature,
    Unsigned,
    /// Signed an hour ago.
    Replayed,
    /// Headers that were added after signing.
    UnsignedHeader,
    /// More user metadata than S3 takes.
    MuchMetadata,
    LongKey,
    /// More bytes announced than an object may have.
    HugeLength,
    /// A decoded length that is not that of the chunks.
    WrongDecodedLength,
    /// Bytes that are no HTTP.
    Garbage,
    /// A GET whose reader hangs up.
    HangUp,
    /// A PUT with more bytes of headers than any request needs.
    HugeHeaders,
}

impl Rudeness {
    pub const ALL: [Rudeness; 18] = [
        Rudeness::Slow,
        Rudeness::Aborted,
        Rudeness::Truncated,
        Rudeness::NoTrailer,
        Rudeness::WrongTrailer,
        Rudeness::WrongChunkSignature,
        Rudeness::WrongHash,
        Rudeness::WrongSignature,
        Rudeness::Unsigned,
        Rudeness::Replayed,
        Rudeness::UnsignedHeader,
        Rudeness::MuchMetadata,
        Rudeness::LongKey,
        Rudeness::HugeLength,
        Rudeness::WrongDecodedLength,
        Rudeness::Garbage,
        Rudeness::HangUp,
        Rudeness::HugeHeaders,
    ];
}

impl Step {
    /// The value that it writes, if it writes one of its own. In decimal its name is readable: workload, client, number.
    pub fn value(&self, bytes: u64) -> Value {
        Value { id: self.name(), bytes }
    }

    /// A number that no other step of the plan has.
    pub fn name(&self) -> u64 {
        assert!(self.client < 100_000 && self.number < 10_000_000, "a scenario has at most 1000 clients, a plan 200,000 steps");
        u64::from(self.workload) * 1_000_000_000_000 + u64::from(self.client) * 10_000_000 + u64::from(self.number)
    }

    /// The client in a history: no two of different workloads are the same.
    pub fn client_name(&self) -> u32 {
        self.workload * 1000 + self.client
    }
}

/// What names of workloads' buckets begin with, and no others'.
pub(super) const BUCKETS_PREFIX: &str = "work-";

/// Name of bucket number `bucket` of a workload.
pub fn bucket_name(workload: u32, bucket: u32) -> String {
    format!("{BUCKETS_PREFIX}{workload}-{bucket}")
}

/// What keys begin with, in turn: folders, letters that must be escaped, neighbours of the delimiter.
const PREFIXES: [&str; 8] = ["", "a/", "a/b/", "a b+c/", "a-", "a/b//", "ü%2F/", "b/"];

/// Keys from here on lie in many folders: a bucket that has them is a wide one.
pub(super) const WIDE_FROM: u32 = 100;
/// Those folders: more than a short page holds, and each with keys in every partition.
const FOLDERS: u32 = 25;

/// Name of key number `index`, the same in all workloads.
pub fn key_name(index: u32) -> String {
    if index >= WIDE_FROM {
        return format!("d{:02}/{index:04}", index % FOLDERS);
    }
    format!("{}{index:04}", PREFIXES[index as usize % PREFIXES.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_short_line_and_comes_back() {
        let actions = [
            PlannedAction::Put { at: Place(0, 12), bytes: 90211 },
            PlannedAction::UploadPart { upload: UploadName::Own(2), part: 3, bytes: 70 },
            PlannedAction::List(PlannedList {
                bucket: 0,
                first_version: false,
                prefix: "a/".to_owned(),
                delimiter: "/".to_owned(),
                after: None,
                keys_max: 7,
            }),
            PlannedAction::Complete { upload: UploadName::LatestOf(3), naming: Naming::ButFirst },
            PlannedAction::DeleteBucket(2),
            PlannedAction::ListBuckets { prefix: "work-0-".to_owned(), buckets_max: Some(1) },
            PlannedAction::ListBuckets { prefix: String::new(), buckets_max: None },
            PlannedAction::Rude { manner: Rudeness::WrongTrailer, at: Place(0, 1), bytes: 7 },
        ];
        for action in actions {
            let step = Step { workload: 0, client: 3, number: 17, at_us: 2_400_310, endpoint: 4, action };
            let json = serde_json::to_string(&step).unwrap();
            assert!(json.len() < 110, "{json}");
            assert_eq!(serde_json::from_str::<Step>(&json).unwrap(), step);
        }
    }

    #[test]
    fn documented_steps_parse() {
        let lines = include_str!("step.rs").lines().filter_map(|line| line.strip_prefix("//! {"));
        assert_eq!(lines.map(|line| serde_json::from_str::<Step>(&format!("{{{line}")).unwrap()).count(), 2);
    }

    #[test]
    fn names_are_unique() {
        let keys: std::collections::BTreeSet<String> = (0..1000).map(key_name).collect();
        assert_eq!(keys.len(), 1000);
        let step = |workload, client, number| {
            let action = PlannedAction::Get(Place(0, 0));
            Step { workload, client, number, at_us: 0, endpoint: 0, action }.name()
        };
        assert_eq!(step(2, 3, 41), 2_000_030_000_041);
        assert_ne!(step(1, 0, 1), step(0, 1, 1));
    }
}
