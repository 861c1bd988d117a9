//! Lifecycles: what expires, when, and what each step leaves as it is.

use super::*;
use crate::commands::{Page, UploadLine};
use crate::rows::Read;
use crate::versions;
use crate::{Ahead, Cursor, Doomed, Expired, ListedVersion, UploadQuery, VersionQuery, keys};
use protocol::lifecycle::{Expiration, Filter, Lifecycle, Noncurrent, Rule};
use protocol::{Marker, Versioning};
use quickcheck::{Arbitrary, Gen, QuickCheck};
use std::collections::{BTreeMap, BTreeSet};

/// Days are short here.
const DAY: u64 = 10;

fn rule() -> Rule {
    Rule { id: "r".into(), enabled: true, ..Rule::default() }
}

fn days(days: u32) -> Rule {
    Rule { expiration: Some(Expiration::Days(days)), ..rule() }
}

fn noncurrent(days: u32, newer: u32) -> Rule {
    Rule { noncurrent: Some(Noncurrent { days, newer }), ..rule() }
}

impl Machine {
    fn with(rules: Vec<Rule>, versioning: Versioning) -> Machine {
        let mut machine = Machine::open();
        if versioning != Versioning::Unversioned {
            machine.apply::<()>(&Command::SetVersioning { bucket: BUCKET, attempt: 2, versioning }).unwrap();
        }
        machine.set_lifecycle(3, rules).unwrap();
        machine
    }

    fn set_lifecycle(&mut self, attempt: u64, rules: Vec<Rule>) -> Result<(), Error> {
        self.apply(&Command::SetLifecycle { bucket: BUCKET, attempt, lifecycle: Lifecycle { day_ms: DAY, rules } })
    }

    fn revision(&self) -> Revision {
        self.rows.rows().counters().unwrap().revision
    }

    /// What stands now was made by `now_ms`.
    fn mark(&mut self, now_ms: u64) {
        let revision = self.revision();
        self.apply::<()>(&Command::MarkAge { revision, now_ms }).unwrap();
    }

    fn cursor(&self) -> Option<Cursor> {
        self.ask::<Vec<(BucketId, Cursor)>>(&Query::Lifecycles { after: None }).unwrap().pop().map(|(_, cursor)| cursor)
    }

    fn expire(&mut self, from: Cursor, at: Vec<u8>, now_ms: u64) -> Result<Expired, Error> {
        self.apply(&Command::Expire { bucket: BUCKET, from, at, now_ms })
    }

    /// One walk from its cursor to the end, as a walker makes it: what went, as `key what`.
    fn walk(&mut self, now_ms: u64) -> Vec<String> {
        let Some(mut cursor) = self.cursor() else { return Vec::new() };
        let (walk, mut at, mut gone) = (cursor.walk, cursor.at.clone(), Vec::new());
        loop {
            let ahead: Ahead = self.ask(&Query::Ahead { bucket: BUCKET, at, now_ms }).unwrap();
            if !ahead.due && !ahead.end {
                at = ahead.at;
                continue;
            }
            let expired = self.expire(cursor, ahead.at, now_ms).unwrap();
            assert_eq!(ahead.due, !expired.gone.is_empty(), "what is due goes, and nothing else");
            gone.extend(expired.gone.iter().map(|gone| {
                let what = match gone.what {
                    Doomed::Current(_) => "current".to_string(),
                    Doomed::Version(Revision(revision), _) => revision.to_string(),
                    Doomed::Upload(UploadId(id)) => format!("upload {id}"),
                };
                format!("{} {what}", gone.key)
            }));
            if expired.cursor.walk != walk {
                gone.sort();
                return gone;
            }
            at = expired.cursor.at.clone();
            cursor = expired.cursor;
        }
    }

    /// Key, revision, whether it is a marker; newest first within each key.
    fn all_versions(&self) -> Vec<(String, Revision, bool)> {
        let query = VersionQuery { max: 1000, ..VersionQuery::default() };
        let page: Page<ListedVersion> = self.ask(&Query::ListVersions { bucket: BUCKET, query }).unwrap();
        let line = |line: ListedVersion| match line {
            ListedVersion::Object { key, revision, .. } => (key, revision, false),
            ListedVersion::Marker { key, marker, .. } => (key, marker.revision, true),
            ListedVersion::Prefix(prefix) => panic!("{prefix}"),
        };
        page.entries.into_iter().map(line).collect()
    }

    fn all_uploads(&self) -> Vec<(String, UploadId)> {
        let query = UploadQuery { max: 1000, ..UploadQuery::default() };
        let page: Page<UploadLine> = self.ask(&Query::ListUploads { bucket: BUCKET, query }).unwrap();
        let line = |line: UploadLine| match line {
            UploadLine::Upload(upload) => (upload.key, upload.id),
            UploadLine::Prefix(prefix) => panic!("{prefix}"),
        };
        page.entries.into_iter().map(line).collect()
    }
}

#[test]
fn an_object_goes_at_the_end_of_its_last_day_and_no_earlier() {
    let mut machine = Machine::with(vec![days(2)], Versioning::Unversioned);
    machine.put("k", record("e", Body::Blobs(vec![blob(1, 5)]))).unwrap();
    // Nobody knows how old it is.
    assert!(machine.walk(1000).is_empty());
    let mut machine = Machine::with(vec![days(2)], Versioning::Unversioned);
    machine.put("k", record("e", Body::Blobs(vec![blob(1, 5)]))).unwrap();
    machine.mark(101);
    for now_ms in [101, 121, 129] {
        assert!(machine.walk(now_ms).is_empty(), "{now_ms}");
    }
    assert_eq!(machine.walk(130), ["k current"]);
    assert!(machine.get("k").is_none() && machine.all_versions().is_empty());
    assert_eq!(machine.garbage().len(), 1, "its blobs are garbage, as with Delete");
    let usage: Option<crate::BucketUsage> = machine.ask(&Query::Usage { bucket: BUCKET }).unwrap();
    assert_eq!(usage.map(|usage| (usage.objects, usage.bytes)), Some((0, 0)));
    // At midnight to the millisecond.
    machine.put("m", record("e", inline("x"))).unwrap();
    machine.mark(140);
    assert!(machine.walk(159).is_empty());
    assert_eq!(machine.walk(160), ["m current"]);
}

#[test]
fn an_object_that_was_written_again_is_as_old_as_its_last_write() {
    let mut machine = Machine::with(vec![days(1)], Versioning::Unversioned);
    machine.put("k", record("e", inline("x"))).unwrap();
    machine.mark(100);
    machine.put("k", record("f", inline("y"))).unwrap();
    machine.mark(112);
    assert!(machine.walk(125).is_empty());
    assert_eq!(machine.walk(130), ["k current"]);
}

#[test]
fn versions_go_as_delete_would_have_them_go() {
    // Enabled: a marker hides the current one; noncurrent ones go by their names, as old as their successors.
    let mut machine = Machine::with(vec![days(1), noncurrent(2, 0)], Versioning::Enabled);
    let first = machine.put("k", record("e", inline("1"))).unwrap().revision;
    machine.mark(100);
    let second = machine.put("k", record("e", inline("2"))).unwrap().revision;
    machine.mark(150);
    assert!(machine.walk(159).is_empty(), "the first is old, and was current until a moment ago");
    assert_eq!(machine.walk(160), ["k current"]);
    let third = machine.revision();
    let all = [("k".to_string(), third, true), ("k".to_string(), second, false), ("k".to_string(), first, false)];
    assert_eq!(machine.all_versions(), all);
    assert_eq!(machine.version("k", None), Some(Version::Marker(Marker { revision: third, null: false, modified_ms: 160 })));
    machine.mark(165);
    assert_eq!(machine.walk(170), [format!("k {}", first.0)]);
    assert_eq!(machine.walk(190), [format!("k {}", second.0)]);
    assert_eq!(machine.walk(200), [format!("k {}", third.0)], "a marker that hides nothing is an object that expired");
    assert!(machine.all_versions().is_empty());
    // Suspended: a null marker takes the place of the null version.
    let mut machine = Machine::with(vec![days(1)], Versioning::Suspended);
    machine.put("k", record("e", inline("1"))).unwrap();
    machine.mark(100);
    assert_eq!(machine.walk(110), ["k current"]);
    assert_eq!(machine.version("k", Some(VersionId::Null)).map(|version| version.record()), Some(None));
    assert_eq!(machine.all_versions().len(), 1);
}

#[test]
fn a_null_version_and_the_version_that_hides_it_may_expire_in_one_step() {
    let mut machine = Machine::with(vec![days(1), noncurrent(1, 0)], Versioning::Unversioned);
    let null = machine.put("k", record("e", inline("null"))).unwrap().revision;
    machine.apply::<()>(&Command::SetVersioning { bucket: BUCKET, attempt: 4, versioning: Versioning::Enabled }).unwrap();
    let numbered = machine.put("k", record("e", inline("numbered"))).unwrap().revision;
    machine.apply::<()>(&Command::SetVersioning { bucket: BUCKET, attempt: 5, versioning: Versioning::Suspended }).unwrap();
    machine.mark(100);
    assert_eq!(machine.walk(110), [format!("k {}", null.0), "k current".to_string()]);
    let marker = machine.revision();
    assert_eq!(machine.all_versions(), [("k".to_string(), marker, true), ("k".to_string(), numbered, false)]);
    assert!(machine.get("k").is_none(), "the marker stays, or the object would be there again");
}

#[test]
fn the_newest_noncurrent_objects_stay_also_where_a_walk_begins_among_them() {
    let mut machine = Machine::with(vec![noncurrent(1, 2)], Versioning::Enabled);
    let ids: Vec<Revision> = (0..5).map(|_| machine.put("k", record("e", inline("x"))).unwrap().revision).collect();
    machine.delete("k").unwrap();
    machine.mark(100);
    let cursor = machine.cursor().unwrap();
    // From the third object on, the fourth from the end: two newer ones are not current.
    let at = keys::object(BUCKET, "k", ids[2]);
    let ahead: Ahead = machine.ask(&Query::Ahead { bucket: BUCKET, at: at.clone(), now_ms: 110 }).unwrap();
    assert_eq!((ahead.due, ahead.at == at), (true, true));
    let mut twin = machine.clone();
    assert_eq!(twin.expire(cursor, at, 110).unwrap().gone.len(), 3);
    assert_eq!(machine.walk(110), [0, 1, 2].map(|index| format!("k {}", ids[index].0)));
    assert_eq!(machine.all_versions(), twin.all_versions());
}

#[test]
fn a_delete_marker_goes_only_alone() {
    let mut machine = Machine::with(vec![Rule { expiration: Some(Expiration::Markers(true)), ..rule() }], Versioning::Enabled);
    let version = machine.put("k", record("e", inline("x"))).unwrap().revision;
    machine.delete("k").unwrap();
    assert!(machine.walk(100).is_empty(), "it hides a version");
    machine.delete_version("k", Some(VersionId::Numbered(version))).unwrap();
    assert_eq!(machine.walk(101).len(), 1);
    assert!(machine.all_versions().is_empty());
    machine.put("k", record("e", inline("x"))).unwrap();
    assert!(machine.walk(102).is_empty());
}

#[test]
fn uploads_are_given_up_with_their_parts() {
    let mut machine = Machine::with(vec![Rule { abort_days: Some(1), ..rule() }], Versioning::Unversioned);
    machine.create_upload("a", 1).unwrap();
    machine.put_part("a", 1, part(1, 1, &[blob(7, 100)])).unwrap();
    machine.mark(100);
    machine.create_upload("a", 2).unwrap();
    machine.mark(105);
    assert_eq!(machine.walk(110), ["a upload 1"]);
    assert_eq!(machine.complete("a", 1, vec![named(1, 1)]), Err(Error::NoSuchUpload));
    assert_eq!(machine.garbage().len(), 1);
    assert_eq!(machine.walk(120), ["a upload 2"]);
}

#[test]
fn a_late_step_changes_nothing() {
    let mut machine = Machine::with(vec![days(1)], Versioning::Unversioned);
    machine.put("a", record("e", inline("x"))).unwrap();
    machine.mark(100);
    let from = machine.cursor().unwrap();
    // An earlier time, or none that a mark knows.
    assert_eq!(machine.expire(from.clone(), Vec::new(), 99), Err(Error::StaleAttempt));
    machine.expire(from.clone(), Vec::new(), 105).unwrap();
    for now_ms in [105, 1000] {
        assert_eq!(machine.expire(from.clone(), Vec::new(), now_ms), Err(Error::StaleAttempt), "the walk has gone on");
    }
    let next = machine.cursor().unwrap();
    assert_eq!((next.walk, next.at.is_empty()), (1, true));
    assert_eq!(machine.expire(next.clone(), Vec::new(), 104), Err(Error::StaleAttempt), "time does not go back");
    // Another lifecycle, or none: steps for the one before are over.
    machine.set_lifecycle(7, vec![days(9)]).unwrap();
    assert_eq!(machine.set_lifecycle(6, vec![days(1)]), Err(Error::StaleAttempt));
    assert_eq!(machine.expire(next, Vec::new(), 1000), Err(Error::StaleAttempt));
    machine.set_lifecycle(8, Vec::new()).unwrap();
    assert_eq!(machine.cursor(), None);
    let cursor = Cursor { attempt: 8, walk: 0, at: Vec::new() };
    assert_eq!(machine.expire(cursor, Vec::new(), 1000), Err(Error::StaleAttempt));
    assert!(machine.get("a").is_some());
    // In a bucket that is closed or gone nothing expires.
    machine.set_lifecycle(9, vec![days(1)]).unwrap();
    let cursor = machine.cursor().unwrap();
    machine.apply::<bool>(&Command::CloseBucket { bucket: BUCKET, attempt: 10, share: WHOLE }).unwrap();
    assert_eq!(machine.expire(cursor.clone(), Vec::new(), 1000), Err(Error::Closed));
    assert_eq!(machine.set_lifecycle(11, vec![days(1)]), Err(Error::Closed));
    machine.apply::<()>(&Command::OpenBucket { bucket: BUCKET, attempt: 10, share: WHOLE }).unwrap();
    assert_eq!(machine.expire(cursor.clone(), Vec::new(), 1000).unwrap().gone.len(), 1);
    machine.apply::<bool>(&Command::CloseBucket { bucket: BUCKET, attempt: 12, share: WHOLE }).unwrap();
    machine.apply::<()>(&Command::RemoveBucket { bucket: BUCKET, attempt: 12 }).unwrap();
    assert_eq!((machine.cursor(), machine.expire(cursor, Vec::new(), 2000)), (None, Err(Error::NotOpen)));
}

#[test]
fn steps_are_bounded_and_stay_in_their_bucket() {
    let mut machine = Machine::with(vec![days(1)], Versioning::Unversioned);
    for number in 0..600 {
        machine.put(&format!("{number:03}"), record("e", inline("x"))).unwrap();
    }
    machine.mark(100);
    let from = machine.cursor().unwrap();
    for outside in [vec![0], keys::object(BucketId(8), "a", Revision(1)), keys::upload(BucketId(6), "a", UploadId(1)), vec![0xff]] {
        assert!(matches!(machine.expire(from.clone(), outside, 200), Err(Error::Malformed(_))));
    }
    let expired = machine.expire(from, Vec::new(), 110).unwrap();
    assert_eq!((expired.gone.len(), expired.cursor.walk), (256, 0));
    assert_eq!(machine.cursor(), Some(expired.cursor.clone()));
    let before = Cursor { at: Vec::new(), ..expired.cursor.clone() };
    assert_eq!(machine.expire(before, Vec::new(), 110), Err(Error::StaleAttempt));
    let back = keys::object(BUCKET, "000", Revision(1));
    assert_eq!(machine.expire(expired.cursor, back, 110), Err(Error::StaleAttempt), "a walk goes forward only");
    assert_eq!(machine.walk(110).len(), 600 - 256);
}

#[test]
fn what_no_rule_chooses_stays() {
    let chosen = Filter { prefix: Some("a".into()), tags: tags(&[("k", "v")]), larger_than: Some(1), smaller_than: Some(4) };
    let disabled = Rule { enabled: false, ..days(1) };
    let mut machine = Machine::with(vec![Rule { filter: chosen, ..days(1) }, disabled], Versioning::Unversioned);
    let tagged = |text: &'static str, pairs: &[(&str, &str)]| Record { tags: tags(pairs), ..record("e", inline(text)) };
    machine.put("a/yes", tagged("xy", &[("k", "v"), ("other", "")])).unwrap();
    machine.put("a/too small", tagged("x", &[("k", "v")])).unwrap();
    machine.put("a/too large", tagged("wxyz", &[("k", "v")])).unwrap();
    machine.put("a/other value", tagged("xy", &[("k", "w")])).unwrap();
    machine.put("b/other prefix", tagged("xy", &[("k", "v")])).unwrap();
    machine.mark(100);
    assert_eq!(machine.walk(110), ["a/yes current"]);
    // Tags count as they are when the step is made.
    machine.set_tags("a/other value", None, tags(&[("k", "v")])).unwrap();
    assert_eq!(machine.walk(110), ["a/other value current"]);
    assert_eq!(machine.all_versions().len(), 3);
}

#[derive(Clone, Debug)]
enum Op {
    Put {
        key: u8,
        bytes: u8,
        tag: u8,
    },
    Delete {
        key: u8,
    },
    DeleteVersion {
        key: u8,
        pick: u8,
    },
    Tag {
        key: u8,
        tag: u8,
    },
    Begin {
        key: u8,
    },
    Versioning(bool),
    Pass(u8),
    Mark,
    /// From the row of this version on, or from the cursor.
    Step {
        pick: u8,
    },
    Walk,
}

#[derive(Clone, Debug)]
struct AnyRule(Rule);

const NAMES: [&str; 4] = ["a", "a/b", "b", "b\0"];
const BODIES: [&str; 3] = ["", "x", "xyz"];

fn tag(number: u8) -> Vec<(String, String)> {
    if number.is_multiple_of(2) { Vec::new() } else { tags(&[("t", "1")]) }
}

impl Arbitrary for Op {
    fn arbitrary(g: &mut Gen) -> Op {
        let (key, pick) = (u8::arbitrary(g), u8::arbitrary(g));
        match u8::arbitrary(g) % 24 {
            0..=5 => Op::Put { key, bytes: pick, tag: u8::arbitrary(g) },
            6..=8 => Op::Delete { key },
            9 => Op::DeleteVersion { key, pick },
            10 => Op::Tag { key, tag: pick },
            11 => Op::Begin { key },
            12 => Op::Versioning(bool::arbitrary(g)),
            13..=16 => Op::Pass(pick % 12),
            17..=19 => Op::Mark,
            20..=21 => Op::Step { pick },
            _ => Op::Walk,
        }
    }
}

impl Arbitrary for AnyRule {
    fn arbitrary(g: &mut Gen) -> AnyRule {
        let some = |g: &mut Gen| u32::from(u8::arbitrary(g) % 3) + 1;
        let prefix = g.choose(&[None, None, Some("a"), Some("b")]).unwrap().map(str::to_string);
        let mut filter = Filter { prefix, ..Filter::default() };
        if u8::arbitrary(g) % 4 == 0 {
            filter.tags = tag(1);
        }
        if u8::arbitrary(g) % 4 == 0 {
            filter.larger_than = Some(0);
        }
        let expiration = match u8::arbitrary(g) % 5 {
            0 => Some(Expiration::Markers(true)),
            1 => Some(Expiration::At(1000 + u64::from(u8::arbitrary(g)))),
            2 | 3 => Some(Expiration::Days(some(g))),
            _ => None,
        };
        let noncurrent = bool::arbitrary(g).then(|| Noncurrent { days: some(g), newer: some(g) - 1 });
        let abort_days = bool::arbitrary(g).then(|| some(g));
        AnyRule(Rule { enabled: u8::arbitrary(g) % 8 > 0, filter, expiration, noncurrent, abort_days, ..rule() })
    }
}

/// What is to be known of the machine besides what it shows.
#[derive(Default)]
struct Naive {
    rules: Vec<Rule>,
    /// Bytes and tags of each version, by revision; when it was made, by cluster time.
    bodies: BTreeMap<Revision, (u64, Vec<(String, String)>)>,
    made: BTreeMap<Revision, u64>,
    uploads: BTreeMap<UploadId, Revision>,
    marks: Vec<(Revision, u64)>,
}

impl Naive {
    /// When a revision counts as made.
    fn counts(&self, revision: Revision) -> Option<u64> {
        self.marks.iter().filter(|(seen, _)| *seen >= revision).map(|(_, at_ms)| *at_ms).min()
    }

    fn is_due(&self, revision: Revision, days: u32, now_ms: u64) -> bool {
        self.counts(revision).is_some_and(|made_ms| (made_ms + u64::from(days) * DAY).div_ceil(DAY) * DAY <= now_ms)
    }

    fn chooses(&self, rule: &Rule, key: &str, revision: Option<Revision>, marker: bool) -> bool {
        let filter = &rule.filter;
        if !rule.enabled || !filter.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix)) {
            return false;
        }
        match revision.filter(|_| !marker).and_then(|revision| self.bodies.get(&revision)) {
            Some((bytes, tags)) => {
                filter.larger_than.is_none_or(|least| *bytes > least) && filter.tags.iter().all(|tag| tags.contains(tag))
            }
            None => filter.tags.is_empty() && filter.larger_than.is_none(),
        }
    }

    /// Everything that is doomed, as [`Machine::walk`] writes it.
    fn doomed(&self, machine: &Machine, now_ms: u64) -> BTreeSet<String> {
        let mut doomed = BTreeSet::new();
        let all = machine.all_versions();
        for (index, (key, revision, marker)) in all.iter().enumerate() {
            let newer: Vec<_> = all[..index].iter().filter(|(other, ..)| other == key).collect();
            let alone = all.iter().filter(|(other, ..)| other == key).count() == 1;
            for rule in self.rules.iter().filter(|rule| self.chooses(rule, key, Some(*revision), *marker)) {
                let expires = match rule.expiration {
                    Some(Expiration::Days(days)) => self.is_due(*revision, days, now_ms),
                    Some(Expiration::At(time_ms)) => time_ms <= now_ms,
                    Some(Expiration::Markers(_)) => *marker,
                    None => false,
                };
                if newer.is_empty() && expires && !marker {
                    doomed.insert(format!("{key} current"));
                } else if newer.is_empty() && expires && alone {
                    doomed.insert(format!("{key} {}", revision.0));
                }
                if let (Some(noncurrent), Some((_, since, _))) = (rule.noncurrent, newer.last()) {
                    let objects = newer[1..].iter().filter(|(_, _, marker)| !marker).count();
                    if self.is_due(*since, noncurrent.days, now_ms) && objects >= noncurrent.newer as usize {
                        doomed.insert(format!("{key} {}", revision.0));
                    }
                }
            }
        }
        for (key, id) in machine.all_uploads() {
            let due = |rule: &&Rule| rule.abort_days.is_some_and(|days| self.is_due(self.uploads[&id], days, now_ms));
            if self.rules.iter().filter(|rule| self.chooses(rule, &key, None, true)).any(|rule| due(&rule)) {
                doomed.insert(format!("{key} upload {}", id.0));
            }
        }
        doomed
    }
}

/// A run of operations: after each walk exactly what the naive model dooms is gone, a step takes nothing else, nothing counts as
/// older than it is, and the machine's own books agree.
fn agrees(rules: Vec<AnyRule>, ops: Vec<Op>) -> bool {
    let rules: Vec<Rule> = rules.into_iter().take(3).map(|rule| rule.0).collect();
    let mut machine = Machine::with(rules.clone(), Versioning::Unversioned);
    let mut naive = Naive { rules, ..Naive::default() };
    let (mut now_ms, mut attempt, mut upload) = (1000, 10, 0);
    for op in ops {
        let before = machine.revision();
        let name = |key: u8| NAMES[usize::from(key) % NAMES.len()];
        match op {
            Op::Put { key, bytes, tag: number } => {
                let body = BODIES[usize::from(bytes) % BODIES.len()];
                let made = machine.put(name(key), Record { tags: tag(number), ..record("e", inline(body)) }).unwrap();
                naive.bodies.insert(made.revision, (body.len() as u64, tag(number)));
            }
            Op::Delete { key } => {
                machine.delete(name(key)).unwrap();
            }
            Op::DeleteVersion { key, pick } => {
                let of_key: Vec<_> = machine.all_versions().into_iter().filter(|(other, ..)| other == name(key)).collect();
                if !of_key.is_empty() {
                    let (_, revision, _) = of_key[usize::from(pick) % of_key.len()];
                    let found = versions::place(&machine.rows.rows(), BUCKET, name(key), VersionId::Null).unwrap();
                    let id = if found == Some(revision) { VersionId::Null } else { VersionId::Numbered(revision) };
                    machine.delete_version(name(key), Some(id)).unwrap();
                }
            }
            Op::Tag { key, tag: number } => {
                if let Some(current) = machine.get(name(key)) {
                    machine.set_tags(name(key), None, tag(number)).unwrap();
                    naive.bodies.get_mut(&current.revision).unwrap().1 = tag(number);
                }
            }
            Op::Begin { key } => {
                upload += 1;
                machine.create_upload(name(key), upload).unwrap();
                naive.uploads.insert(UploadId(upload), machine.revision());
            }
            Op::Versioning(enabled) => {
                attempt += 1;
                let versioning = if enabled { Versioning::Enabled } else { Versioning::Suspended };
                machine.apply::<()>(&Command::SetVersioning { bucket: BUCKET, attempt, versioning }).unwrap();
            }
            Op::Pass(ms) => now_ms += u64::from(ms),
            Op::Mark => {
                machine.mark(now_ms);
                naive.marks.push((machine.revision(), now_ms));
            }
            Op::Step { pick } => {
                let all = machine.all_versions();
                let Some(cursor) = machine.cursor().filter(|_| !all.is_empty()) else { continue };
                let (key, revision, _) = &all[usize::from(pick) % all.len()];
                let doomed = naive.doomed(&machine, now_ms);
                let Ok(expired) = machine.expire(cursor, keys::object(BUCKET, key, *revision), now_ms) else { continue };
                let what = |gone: &crate::Gone| match gone.what {
                    Doomed::Current(_) => format!("{} current", gone.key),
                    Doomed::Version(Revision(revision), _) => format!("{} {revision}", gone.key),
                    Doomed::Upload(UploadId(id)) => format!("{} upload {id}", gone.key),
                };
                if !expired.gone.iter().all(|gone| doomed.contains(&what(gone))) {
                    return false;
                }
            }
            Op::Walk if machine.cursor().is_some() => {
                if machine.cursor().is_some_and(|cursor| !cursor.at.is_empty()) {
                    // What lies before it is for the next walk.
                    let doomed = naive.doomed(&machine, now_ms);
                    if !machine.walk(now_ms).iter().all(|gone| doomed.contains(gone)) {
                        return false;
                    }
                }
                let doomed = naive.doomed(&machine, now_ms);
                let gone: BTreeSet<String> = machine.walk(now_ms).into_iter().collect();
                if gone != doomed {
                    return false;
                }
            }
            Op::Walk => {}
        }
        for revision in before.0 + 1..=machine.revision().0 {
            naive.made.insert(Revision(revision), now_ms);
        }
        if !naive.made.iter().all(|(revision, made_ms)| naive.counts(*revision).is_none_or(|counts_ms| counts_ms >= *made_ms)) {
            return false;
        }
    }
    let usage: crate::BucketUsage = machine.ask::<Option<_>>(&Query::Usage { bucket: BUCKET }).unwrap().unwrap();
    let objects = machine.all_versions().iter().filter(|(_, _, marker)| !marker).count();
    (usage.objects, usage.uploads) == (objects as u64, machine.all_uploads().len() as u64)
}

#[test]
fn a_walk_removes_exactly_what_a_naive_reading_of_the_rules_dooms() {
    QuickCheck::new().tests(1500).quickcheck(agrees as fn(Vec<AnyRule>, Vec<Op>) -> bool);
}
