//! Buckets in the root group: names, incarnations and the attempts that create and delete them.
//!
//! Invariants: an incarnation id and an attempt number are given out once, ever; a finish acts only for the attempt
//! that the row carries, so of two racing CreateBucket, or CreateBucket and DeleteBucket, one is told StaleAttempt.

use super::{Counters, Verdict, bucket_settings, decode_row, map};
use crate::allocator::mix;
use crate::commands::Reply;
use crate::{Bootstrap, Bucket, BucketState, Error};
use consensus::{Rows, RowsMut};
use protocol::{BucketId, GroupId, Versioning, wire};

/// Most buckets of a cluster (S3's default limit of an account).
pub const BUCKETS_MAX: u64 = 10_000;
/// Most partitions that hold the keys of a bucket: a listing asks them all.
pub const PARTITIONS_PER_BUCKET: usize = 4;
/// Most buckets in one page of a listing.
pub const LIST_BUCKETS_MAX: usize = 1000;
/// Longest bucket name that is stored; S3's own rules, judged at the gateway, are narrower.
const NAME_BYTES_MAX: usize = 255;
/// Longest owner that is stored.
const OWNER_BYTES_MAX: usize = 255;

const PREFIX: &[u8] = b"bucket/";
/// After every key of [`PREFIX`].
const PREFIX_END: &[u8] = b"bucket0";

pub(super) fn begin_create(
    rows: &mut RowsMut<'_>,
    counters: &mut Counters,
    name: String,
    owner: String,
    created_ms: u64,
) -> Result<Verdict, Error> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || owner.len() > OWNER_BYTES_MAX {
        return Err(Error::Refused(format!("bucket name or owner longer than {NAME_BYTES_MAX} bytes, or no name")));
    }
    let Some(bootstrap) = decode_row::<Bootstrap>(rows.get(map::BOOTSTRAP)) else {
        return Err(Error::Unavailable("the cluster is not founded yet".into()));
    };
    let bucket = match find_mut(rows, &name) {
        // Until a deletion ends the bucket is there: a second creation must not win without it.
        Some(Bucket { state: BucketState::Live | BucketState::Deleting, owner, .. }) => return Err(Error::BucketExists { owner }),
        Some(creating) => {
            runtime::probe!("placement: a creation goes on with another's");
            counters.attempt += 1;
            Bucket { owner, created_ms, attempt: counters.attempt, ..creating }
        }
        None if counters.buckets >= BUCKETS_MAX => return Err(Error::TooManyBuckets { limit: BUCKETS_MAX }),
        None => {
            counters.buckets += 1;
            counters.bucket += 1;
            counters.attempt += 1;
            let id = BucketId(counters.bucket);
            let partitions = choose_partitions(id, &bootstrap.partitions);
            let (state, attempt, versioning) = (BucketState::Creating, counters.attempt, Versioning::Unversioned);
            Bucket { name, id, owner, created_ms, state, attempt, partitions, versioning, setting: None }
        }
    };
    store(rows, &bucket);
    Ok(Verdict::Changed(Reply::Bucket(bucket)))
}

pub(super) fn finish_create(rows: &mut RowsMut<'_>, name: &str, attempt: u64) -> Result<Verdict, Error> {
    let bucket = of_attempt(rows, name, attempt)?;
    match bucket.state {
        BucketState::Creating => Ok(enter(rows, bucket, BucketState::Live)),
        BucketState::Live => Ok(Verdict::Unchanged(Reply::Done)),
        BucketState::Deleting => Err(Error::StaleAttempt),
    }
}

pub(super) fn begin_delete(rows: &mut RowsMut<'_>, counters: &mut Counters, name: &str) -> Result<Verdict, Error> {
    let bucket = find_mut(rows, name).ok_or(Error::NoSuchBucket)?;
    match bucket.state {
        // Invisible: for its caller there is nothing to delete.
        BucketState::Creating => return Err(Error::NoSuchBucket),
        BucketState::Live => {}
        BucketState::Deleting => runtime::probe!("placement: a deletion overtakes another"),
    }
    counters.attempt += 1;
    let bucket = Bucket { state: BucketState::Deleting, attempt: counters.attempt, ..bucket };
    store(rows, &bucket);
    Ok(Verdict::Changed(Reply::Bucket(bucket)))
}

pub(super) fn finish_delete(
    rows: &mut RowsMut<'_>,
    counters: &mut Counters,
    name: &str,
    attempt: u64,
    removed: bool,
) -> Result<Verdict, Error> {
    let bucket = of_attempt(rows, name, attempt)?;
    match (bucket.state, removed) {
        // A creation that was taken over ends so.
        (BucketState::Deleting | BucketState::Creating, true) => {
            rows.remove(&key(name));
            bucket_settings::remove(rows, name);
            counters.buckets -= 1;
            Ok(Verdict::Changed(Reply::Done))
        }
        (BucketState::Deleting, false) => Ok(enter(rows, bucket, BucketState::Live)),
        // The reopening was repeated.
        (BucketState::Live, false) => Ok(Verdict::Unchanged(Reply::Done)),
        // The attempt belongs to a creation, or was ended by reopening.
        (BucketState::Live, true) | (BucketState::Creating, false) => Err(Error::StaleAttempt),
    }
}

/// Take over the creation, deletion or setting that stands under `attempt`, to end it under a new one: nobody has begun anything since.
pub(super) fn take_over(rows: &mut RowsMut<'_>, counters: &mut Counters, name: &str, attempt: u64) -> Result<Verdict, Error> {
    let bucket = of_attempt(rows, name, attempt)?;
    match bucket.state {
        BucketState::Creating | BucketState::Deleting => runtime::probe!("placement: a bucket that was left half done was taken over"),
        BucketState::Live if bucket.setting.is_some() || bucket_settings::is_lifecycle_being_set(rows, name) => {}
        // It was finished under that attempt.
        BucketState::Live => return Err(Error::StaleAttempt),
    }
    counters.attempt += 1;
    let bucket = Bucket { attempt: counters.attempt, ..bucket };
    store(rows, &bucket);
    Ok(Verdict::Changed(Reply::Bucket(bucket)))
}

pub(super) fn begin_set_versioning(
    rows: &mut RowsMut<'_>,
    counters: &mut Counters,
    name: &str,
    versioning: Option<Versioning>,
) -> Result<Verdict, Error> {
    let bucket = find_mut(rows, name).ok_or(Error::NoSuchBucket)?;
    match bucket.state {
        BucketState::Creating => return Err(Error::NoSuchBucket),
        // The deletion has the attempt: it removes the bucket, or reopens it.
        BucketState::Deleting => return Err(Error::Refused("the bucket is being deleted".into())),
        BucketState::Live => {}
    }
    let setting = match versioning {
        Some(Versioning::Unversioned) => return Err(Error::Refused("versioning cannot be unset".into())),
        Some(versioning) => Some(versioning),
        None if bucket.setting.is_none() => return Ok(Verdict::Unchanged(Reply::Bucket(bucket))),
        None => bucket.setting,
    };
    if bucket.setting.is_some() {
        runtime::probe!("placement: a setting of versioning overtakes another");
    }
    counters.attempt += 1;
    let bucket = Bucket { attempt: counters.attempt, setting, ..bucket };
    store(rows, &bucket);
    Ok(Verdict::Changed(Reply::Bucket(bucket)))
}

pub(super) fn finish_set_versioning(rows: &mut RowsMut<'_>, name: &str, attempt: u64) -> Result<Verdict, Error> {
    let bucket = of_attempt(rows, name, attempt)?;
    match (bucket.state, bucket.setting) {
        (BucketState::Live, Some(versioning)) => {
            store(rows, &Bucket { versioning, setting: None, ..bucket });
            Ok(Verdict::Changed(Reply::Done))
        }
        (BucketState::Live, None) => Ok(Verdict::Unchanged(Reply::Done)),
        // The attempt belongs to a creation or deletion.
        (BucketState::Creating | BucketState::Deleting, _) => Err(Error::StaleAttempt),
    }
}

pub(super) fn query(rows: &Rows<'_>, name: &str) -> Result<Reply, Error> {
    find(rows, name).map(Reply::Bucket).ok_or(Error::NoSuchBucket)
}

/// Buckets that exist: Live, and Deleting as long as nothing was removed.
pub(super) fn query_page(rows: &Rows<'_>, after: &str, max: u32) -> Reply {
    let max = usize::try_from(max).unwrap_or(usize::MAX).min(LIST_BUCKETS_MAX);
    let mut page = Vec::new();
    if max > 0 {
        rows.scan(&behind(after), PREFIX_END, &mut |_, value| {
            let bucket: Option<Bucket> = decode_row(Some(bytes::Bytes::copy_from_slice(value)));
            page.extend(bucket.filter(|bucket| bucket.state != BucketState::Creating));
            page.len() < max
        });
    }
    Reply::Buckets(page)
}

/// Buckets behind `after` that are being created, deleted or set, at most [`LIST_BUCKETS_MAX`].
pub(super) fn query_unfinished(rows: &Rows<'_>, after: &str) -> Reply {
    let mut found = Vec::new();
    rows.scan(&behind(after), PREFIX_END, &mut |_, value| {
        let bucket: Option<Bucket> = decode_row(Some(bytes::Bytes::copy_from_slice(value)));
        let unfinished = |bucket: &Bucket| {
            bucket.state != BucketState::Live || bucket.setting.is_some() || bucket_settings::is_lifecycle_being_set_in(rows, &bucket.name)
        };
        found.extend(bucket.filter(unfinished));
        found.len() < LIST_BUCKETS_MAX
    });
    Reply::Buckets(found)
}

/// The bucket, if `attempt` is the one that it stands under.
pub(super) fn of_attempt(rows: &RowsMut<'_>, name: &str, attempt: u64) -> Result<Bucket, Error> {
    let bucket = find_mut(rows, name).ok_or(Error::NoSuchBucket)?;
    if bucket.attempt == attempt {
        return Ok(bucket);
    }
    runtime::probe!("placement: a stale attempt at a bucket was refused");
    Err(Error::StaleAttempt)
}

fn enter(rows: &mut RowsMut<'_>, bucket: Bucket, state: BucketState) -> Verdict {
    store(rows, &Bucket { state, ..bucket });
    Verdict::Changed(Reply::Done)
}

/// The bucket of that name, in whatever state.
pub(super) fn find(rows: &Rows<'_>, name: &str) -> Option<Bucket> {
    decode_row(rows.get(&key(name)))
}

/// [`find`] within a command.
pub(crate) fn find_mut(rows: &RowsMut<'_>, name: &str) -> Option<Bucket> {
    decode_row(rows.get(&key(name)))
}

/// Write the row of a bucket.
pub(super) fn store(rows: &mut RowsMut<'_>, bucket: &Bucket) {
    rows.put(&key(&bucket.name), &wire::encode(bucket));
}

/// The least key of a name greater than `after`.
fn behind(after: &str) -> Vec<u8> {
    let mut from = key(after);
    if !after.is_empty() {
        from.push(0);
    }
    from
}

fn key(name: &str) -> Vec<u8> {
    [PREFIX, name.as_bytes()].concat()
}

/// A few of all partitions, by highest hash, so that buckets spread evenly over them.
fn choose_partitions(bucket: BucketId, all: &[GroupId]) -> Vec<GroupId> {
    let mut ranked: Vec<_> = all.iter().map(|group| (mix(mix(bucket.0) ^ group.0), *group)).collect();
    ranked.sort();
    let mut chosen: Vec<_> = ranked.into_iter().rev().take(PARTITIONS_PER_BUCKET).map(|(_, group)| group).collect();
    chosen.sort();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, Query};
    use crate::root::testing::Model;
    use std::collections::{BTreeMap, BTreeSet};

    fn begin(name: &str, owner: &str) -> Command {
        Command::BeginCreateBucket { name: name.into(), owner: owner.into(), created_ms: 5 }
    }

    fn bucket(model: &mut Model, command: Command) -> Bucket {
        match model.apply(command).result {
            Ok(Reply::Bucket(bucket)) => bucket,
            other => panic!("{other:?}"),
        }
    }

    /// Runs lines such as `create a` or `finish-create a 3`, and gives back what each came to.
    fn transcript(model: &mut Model, lines: &str) -> String {
        let mut out = String::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<_> = line.split(' ').collect();
            let name = words[1].to_string();
            let attempt = words.get(2).map_or(0, |word| word.parse().unwrap_or(0));
            let answer = match words[0] {
                "create" => model.apply(begin(&name, words[2])),
                "finish-create" => model.apply(Command::FinishCreateBucket { name, attempt }),
                "delete" => model.apply(Command::BeginDeleteBucket { name }),
                "remove" => model.apply(Command::FinishDeleteBucket { name, attempt, removed: true }),
                "reopen" => model.apply(Command::FinishDeleteBucket { name, attempt, removed: false }),
                "set" => {
                    let versioning = match words[2] {
                        "enabled" => Some(Versioning::Enabled),
                        "suspended" => Some(Versioning::Suspended),
                        "never" => Some(Versioning::Unversioned),
                        "on" => None,
                        other => panic!("{other}"),
                    };
                    model.apply(Command::BeginSetVersioning { name, versioning })
                }
                "take-over" => model.apply(Command::TakeOverBucket { name, attempt }),
                "finish-set" => model.apply(Command::FinishSetVersioning { name, attempt }),
                "show" => model.query(Query::Bucket { name }),
                other => panic!("{other}"),
            };
            let shown = match answer.result {
                Ok(Reply::Bucket(b)) => {
                    let versioning = match (b.versioning, b.setting) {
                        (Versioning::Unversioned, None) => String::new(),
                        (versioning, setting) => format!(" {versioning:?} to {setting:?}"),
                    };
                    format!("{:?} id {} attempt {} of {}{versioning}", b.state, b.id, b.attempt, b.owner)
                }
                Ok(other) => format!("{other:?}"),
                Err(error) => format!("{error:?}"),
            };
            out.push_str(&format!("{line}: {shown}\n"));
        }
        out
    }

    #[test]
    fn two_create_bucket_never_both_win() {
        let trace = transcript(
            &mut Model::founded(1, 1, 6),
            "create a ann
             create a bob
             finish-create a 1
             finish-create a 2
             finish-create a 2
             create a ann
             show a",
        );
        assert_eq!(
            trace,
            "create a ann: Creating id 1 attempt 1 of ann\n\
             create a bob: Creating id 1 attempt 2 of bob\n\
             finish-create a 1: StaleAttempt\n\
             finish-create a 2: Done\n\
             finish-create a 2: Done\n\
             create a ann: BucketExists { owner: \"bob\" }\n\
             show a: Live id 1 attempt 2 of bob\n"
        );
    }

    #[test]
    fn two_delete_bucket_and_a_late_reopening() {
        let trace = transcript(
            &mut Model::founded(1, 1, 6),
            "create a ann
             finish-create a 1
             delete a
             delete a
             reopen a 2
             remove a 2
             create a bob
             reopen a 3
             remove a 3
             show a
             delete a
             remove a 4
             show a",
        );
        assert_eq!(
            trace,
            "create a ann: Creating id 1 attempt 1 of ann\n\
             finish-create a 1: Done\n\
             delete a: Deleting id 1 attempt 2 of ann\n\
             delete a: Deleting id 1 attempt 3 of ann\n\
             reopen a 2: StaleAttempt\n\
             remove a 2: StaleAttempt\n\
             create a bob: BucketExists { owner: \"ann\" }\n\
             reopen a 3: Done\n\
             remove a 3: StaleAttempt\n\
             show a: Live id 1 attempt 3 of ann\n\
             delete a: Deleting id 1 attempt 4 of ann\n\
             remove a 4: Done\n\
             show a: NoSuchBucket\n"
        );
    }

    #[test]
    fn what_was_left_half_done_is_taken_over_by_one_and_only_as_it_stands() {
        let trace = transcript(
            &mut Model::founded(1, 1, 6),
            "create a ann
             take-over a 1
             take-over a 1
             finish-create a 1
             finish-create a 2
             take-over a 2
             delete a
             take-over a 3
             reopen a 3
             remove a 4
             take-over a 4
             create a bob
             take-over a 4
             take-over a 5
             remove a 5
             reopen a 6
             remove a 6
             show a",
        );
        assert_eq!(
            trace,
            "create a ann: Creating id 1 attempt 1 of ann\n\
             take-over a 1: Creating id 1 attempt 2 of ann\n\
             take-over a 1: StaleAttempt\n\
             finish-create a 1: StaleAttempt\n\
             finish-create a 2: Done\n\
             take-over a 2: StaleAttempt\n\
             delete a: Deleting id 1 attempt 3 of ann\n\
             take-over a 3: Deleting id 1 attempt 4 of ann\n\
             reopen a 3: StaleAttempt\n\
             remove a 4: Done\n\
             take-over a 4: NoSuchBucket\n\
             create a bob: Creating id 2 attempt 5 of bob\n\
             take-over a 4: StaleAttempt\n\
             take-over a 5: Creating id 2 attempt 6 of bob\n\
             remove a 5: StaleAttempt\n\
             reopen a 6: StaleAttempt\n\
             remove a 6: Done\n\
             show a: NoSuchBucket\n"
        );
    }

    #[test]
    fn buckets_that_are_half_done_are_named_and_no_others() {
        let mut model = Model::founded(1, 1, 6);
        let named = |model: &Model| match model.query(Query::UnfinishedBuckets { after: String::new() }).result {
            Ok(Reply::Buckets(buckets)) => buckets.into_iter().map(|bucket| bucket.name).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let trace = "create a ann
             create b ann
             create c ann
             create d ann
             finish-create b 2
             finish-create c 3
             finish-create d 4
             delete c
             set d enabled";
        transcript(&mut model, trace);
        assert_eq!(named(&model), ["a", "c", "d"]);
        let set = Command::BeginSetLifecycle { name: "b".into(), lifecycle: Some(protocol::Lifecycle::default()) };
        let Ok(Reply::Lifecycle(begun)) = model.apply(set).result else { panic!("not begun") };
        assert_eq!(named(&model), ["a", "b", "c", "d"]);
        let behind = model.query(Query::UnfinishedBuckets { after: "b".into() }).result;
        assert!(matches!(behind, Ok(Reply::Buckets(buckets)) if buckets.len() == 2 && buckets[0].name == "c"));
        model.apply(Command::FinishSetLifecycle { name: "b".into(), attempt: begun.bucket.attempt }).result.unwrap();
        transcript(&mut model, "finish-create a 1\nreopen c 5\nfinish-set d 6");
        assert_eq!(named(&model), [""; 0]);
    }

    #[test]
    fn an_attempt_at_a_former_bucket_of_the_name_does_nothing_to_the_next() {
        let trace = transcript(
            &mut Model::founded(1, 1, 6),
            "create a ann
             finish-create a 1
             delete a
             remove a 2
             create a bob
             finish-create a 1
             remove a 2
             delete a
             show a",
        );
        assert!(trace.ends_with(
            "create a bob: Creating id 2 attempt 3 of bob\n\
             finish-create a 1: StaleAttempt\n\
             remove a 2: StaleAttempt\n\
             delete a: NoSuchBucket\n\
             show a: Creating id 2 attempt 3 of bob\n"
        ));
    }

    #[test]
    fn a_setting_of_versioning_is_finished_by_its_attempt_or_taken_over() {
        let trace = transcript(
            &mut Model::founded(1, 1, 6),
            "create a ann
             set a enabled
             finish-create a 1
             set a on
             set a never
             set a enabled
             set a suspended
             finish-set a 2
             set a on
             finish-set a 4
             finish-set a 4
             set a enabled
             delete a
             finish-set a 5
             set a enabled
             reopen a 6
             show a
             set a on
             finish-set a 7
             show a",
        );
        assert_eq!(
            trace,
            "create a ann: Creating id 1 attempt 1 of ann\n\
             set a enabled: NoSuchBucket\n\
             finish-create a 1: Done\n\
             set a on: Live id 1 attempt 1 of ann\n\
             set a never: Refused(\"versioning cannot be unset\")\n\
             set a enabled: Live id 1 attempt 2 of ann Unversioned to Some(Enabled)\n\
             set a suspended: Live id 1 attempt 3 of ann Unversioned to Some(Suspended)\n\
             finish-set a 2: StaleAttempt\n\
             set a on: Live id 1 attempt 4 of ann Unversioned to Some(Suspended)\n\
             finish-set a 4: Done\n\
             finish-set a 4: Done\n\
             set a enabled: Live id 1 attempt 5 of ann Suspended to Some(Enabled)\n\
             delete a: Deleting id 1 attempt 6 of ann Suspended to Some(Enabled)\n\
             finish-set a 5: StaleAttempt\n\
             set a enabled: Refused(\"the bucket is being deleted\")\n\
             reopen a 6: Done\n\
             show a: Live id 1 attempt 6 of ann Suspended to Some(Enabled)\n\
             set a on: Live id 1 attempt 7 of ann Suspended to Some(Enabled)\n\
             finish-set a 7: Done\n\
             show a: Live id 1 attempt 7 of ann Enabled to None\n"
        );
    }

    #[test]
    fn listing_shows_what_exists_in_pages() {
        let mut model = Model::founded(1, 1, 6);
        for name in ["a", "a.b", "b", "c", "half"] {
            let made = bucket(&mut model, begin(name, "ann"));
            if name != "half" {
                model.apply(Command::FinishCreateBucket { name: name.into(), attempt: made.attempt }).result.unwrap();
            }
        }
        bucket(&mut model, Command::BeginDeleteBucket { name: "b".into() });
        let page = |after: &str, max| match model.query(Query::Buckets { after: after.into(), max }).result {
            Ok(Reply::Buckets(page)) => page.into_iter().map(|b| b.name).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(page("", 100), ["a", "a.b", "b", "c"]);
        assert_eq!(page("a", 2), ["a.b", "b"]);
        assert_eq!(page("b", 2), ["c"]);
        assert_eq!(page("c", 2), [""; 0]);
        assert_eq!(page("", 0), [""; 0]);
    }

    #[test]
    fn buckets_lie_in_few_partitions_and_use_all_of_them_evenly() {
        let all: Vec<_> = (1..=16).map(GroupId).collect();
        let mut used = BTreeMap::new();
        for id in 1..=1000 {
            let chosen = choose_partitions(BucketId(id), &all);
            assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 4);
            chosen.iter().for_each(|group| *used.entry(*group).or_insert(0) += 1);
        }
        assert!(used.len() == 16 && used.values().all(|count| (180..320).contains(count)), "{used:?}");
        assert_eq!(choose_partitions(BucketId(1), &all[..2]), all[..2]);
    }

    #[test]
    fn the_ten_thousand_and_first_bucket_is_refused_with_a_type() {
        let mut model = Model::founded(1, 1, 6);
        let mut last = None;
        for number in 0..BUCKETS_MAX {
            last = Some(bucket(&mut model, begin(&format!("b{number}"), "ann")));
        }
        assert_eq!(model.apply(begin("more", "ann")).result, Err(Error::TooManyBuckets { limit: BUCKETS_MAX }));
        let last = last.unwrap();
        model.apply(Command::FinishCreateBucket { name: last.name.clone(), attempt: last.attempt }).result.unwrap();
        let deleting = bucket(&mut model, Command::BeginDeleteBucket { name: last.name.clone() });
        let remove = Command::FinishDeleteBucket { name: last.name, attempt: deleting.attempt, removed: true };
        model.apply(remove).result.unwrap();
        bucket(&mut model, begin("more", "ann"));
    }

    #[test]
    fn the_bytes_of_a_bucket_row_stay_as_documented() {
        let bucket = Bucket {
            name: "ab".into(),
            id: BucketId(3),
            owner: "o".into(),
            created_ms: 300,
            state: BucketState::Deleting,
            attempt: 7,
            partitions: vec![GroupId(1), GroupId(9)],
            versioning: Versioning::Enabled,
            setting: Some(Versioning::Suspended),
        };
        assert_eq!(wire::encode(&bucket), [1, 2, b'a', b'b', 3, 1, b'o', 0xac, 2, 2, 7, 2, 1, 9, 1, 1, 2]);
    }

    /// Random histories of three names under random attempts, against the invariants of the file header.
    #[test]
    fn in_every_history_only_the_current_attempt_acts_and_nothing_is_given_twice() {
        fn property(steps: Vec<(u8, u8, u8)>) -> bool {
            let mut model = Model::founded(1, 1, 6);
            let (mut last_attempt, mut creators) = (0, BTreeMap::<BucketId, u32>::new());
            for (verb, name, back) in steps {
                let name = format!("n{}", name % 3);
                let before = model.query(Query::Bucket { name: name.clone() }).result;
                let attempt = last_attempt - u64::from(back % 3).min(last_attempt);
                let command = match verb % 8 {
                    7 => Command::TakeOverBucket { name: name.clone(), attempt },
                    5 => Command::BeginSetVersioning { name: name.clone(), versioning: Some(Versioning::Enabled) },
                    6 => Command::FinishSetVersioning { name: name.clone(), attempt },
                    0 => begin(&name, "o"),
                    1 => Command::FinishCreateBucket { name: name.clone(), attempt },
                    2 => Command::BeginDeleteBucket { name: name.clone() },
                    3 => Command::FinishDeleteBucket { name: name.clone(), attempt, removed: true },
                    _ => Command::FinishDeleteBucket { name: name.clone(), attempt, removed: false },
                };
                let answer = model.apply(command).result;
                let after = model.query(Query::Bucket { name: name.clone() }).result;
                if let Ok(Reply::Bucket(begun)) = &answer {
                    // Attempts rise over all buckets.
                    if begun.attempt <= last_attempt {
                        return false;
                    }
                    last_attempt = begun.attempt;
                } else if before != after {
                    // A finish that changed something acted for the attempt that the row carried.
                    let Ok(Reply::Bucket(row)) = &before else { return false };
                    if row.attempt != attempt || answer != Ok(Reply::Done) {
                        return false;
                    }
                    if row.state == BucketState::Creating {
                        // One creation wins an incarnation, never two.
                        let wins = creators.entry(row.id).or_default();
                        *wins += 1;
                        if *wins > 1 {
                            return false;
                        }
                    }
                }
            }
            true
        }
        quickcheck::QuickCheck::new().tests(300).quickcheck(property as fn(Vec<(u8, u8, u8)>) -> bool);
    }
}
