//! What is set for a bucket and steers no write: its tags and its lifecycle. Rows beside those of the buckets, so that listings
//! of buckets stay small.
//!
//! Always holds: a row stands only while its bucket does; a bucket of the same name that comes later begins without. A lifecycle is
//! the bucket's once a finish under its attempt says that every partition has it; one that is left half done is gone on with by
//! whoever asks for it, or replaced by the next one.

use super::{Counters, Verdict, buckets, decode_row};
use crate::commands::Reply;
use crate::{Bucket, BucketLifecycle, BucketState, Error};
use consensus::{Rows, RowsMut};
use protocol::limits::{BUCKET_TAGS_MAX, TAG_KEY_UNITS_MAX, TAG_VALUE_UNITS_MAX};
use protocol::{Lifecycle, wire};
use serde::{Deserialize, Serialize};

const TAGS: &[u8] = b"bucket-tags/";
const LIFECYCLE: &[u8] = b"bucket-lifecycle/";

/// Key and value, sorted by keys.
pub type Tags = Vec<(String, String)>;

/// Set the tags of a live bucket in place of those that it has.
pub(super) fn set_tags(rows: &mut RowsMut<'_>, name: &str, tags: &Tags) -> Result<Verdict, Error> {
    check_live(buckets::find_mut(rows, name).map(|bucket| bucket.state))?;
    check(tags)?;
    let key = key(TAGS, name);
    let known: Tags = decode_row(rows.get(&key)).unwrap_or_default();
    if known == *tags {
        return Ok(Verdict::Unchanged(Reply::Done));
    }
    if tags.is_empty() {
        rows.remove(&key);
    } else {
        rows.put(&key, &wire::encode(tags));
    }
    Ok(Verdict::Changed(Reply::Done))
}

/// The tags of a bucket that exists.
pub(super) fn query_tags(rows: &Rows<'_>, name: &str) -> Result<Reply, Error> {
    check_exists(rows, name)?;
    Ok(Reply::Tags(decode_row(rows.get(&key(TAGS, name))).unwrap_or_default()))
}

/// The row of a bucket that has a lifecycle, or is about to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct LifecycleRow {
    /// As it was last set in every partition.
    set: Lifecycle,
    /// What it is being set to: some partitions may have it already.
    setting: Option<Lifecycle>,
}

/// Begin to set the lifecycle of a live bucket, under a new attempt. `None`: go on with what is under way, if anything is.
pub(super) fn begin_set_lifecycle(
    rows: &mut RowsMut<'_>,
    counters: &mut Counters,
    name: &str,
    lifecycle: Option<Lifecycle>,
) -> Result<Verdict, Error> {
    let bucket = buckets::find_mut(rows, name);
    check_live(bucket.as_ref().map(|bucket| bucket.state))?;
    let bucket = bucket.ok_or(Error::NoSuchBucket)?;
    if let Some(why) = lifecycle.as_ref().and_then(Lifecycle::unsound) {
        return Err(Error::Refused(why.into()));
    }
    let key = key(LIFECYCLE, name);
    let row: LifecycleRow = decode_row(rows.get(&key)).unwrap_or_default();
    let Some(setting) = lifecycle.or_else(|| row.setting.clone()) else {
        return Ok(Verdict::Unchanged(Reply::Lifecycle(Box::new(BucketLifecycle { bucket, set: row.set, setting: None }))));
    };
    if row.setting.is_some() {
        runtime::probe!("placement: a setting of a lifecycle overtakes another");
    }
    counters.attempt += 1;
    let bucket = Bucket { attempt: counters.attempt, ..bucket };
    buckets::store(rows, &bucket);
    let row = LifecycleRow { setting: Some(setting), ..row };
    rows.put(&key, &wire::encode(&row));
    Ok(Verdict::Changed(Reply::Lifecycle(Box::new(BucketLifecycle { bucket, set: row.set, setting: row.setting }))))
}

/// Every partition has it, for the current attempt only.
pub(super) fn finish_set_lifecycle(rows: &mut RowsMut<'_>, name: &str, attempt: u64) -> Result<Verdict, Error> {
    let bucket = buckets::of_attempt(rows, name, attempt)?;
    if bucket.state != BucketState::Live {
        // The attempt belongs to a creation or deletion.
        return Err(Error::StaleAttempt);
    }
    let key = key(LIFECYCLE, name);
    let row: LifecycleRow = decode_row(rows.get(&key)).unwrap_or_default();
    match row.setting {
        None => return Ok(Verdict::Unchanged(Reply::Done)),
        Some(set) if set.rules.is_empty() => rows.remove(&key),
        Some(set) => rows.put(&key, &wire::encode(&LifecycleRow { set, setting: None })),
    }
    Ok(Verdict::Changed(Reply::Done))
}

/// The lifecycle of a bucket that exists.
pub(super) fn query_lifecycle(rows: &Rows<'_>, name: &str) -> Result<Reply, Error> {
    check_exists(rows, name)?;
    let bucket = buckets::find(rows, name).ok_or(Error::NoSuchBucket)?;
    let row: LifecycleRow = decode_row(rows.get(&key(LIFECYCLE, name))).unwrap_or_default();
    Ok(Reply::Lifecycle(Box::new(BucketLifecycle { bucket, set: row.set, setting: row.setting })))
}

/// Whether a setting of its lifecycle is under way.
pub(super) fn is_lifecycle_being_set(rows: &RowsMut<'_>, name: &str) -> bool {
    decode_row::<LifecycleRow>(rows.get(&key(LIFECYCLE, name))).is_some_and(|row| row.setting.is_some())
}

/// [`is_lifecycle_being_set`] within a query.
pub(super) fn is_lifecycle_being_set_in(rows: &Rows<'_>, name: &str) -> bool {
    decode_row::<LifecycleRow>(rows.get(&key(LIFECYCLE, name))).is_some_and(|row| row.setting.is_some())
}

/// The bucket is gone, and with it all that was set for it.
pub(super) fn remove(rows: &mut RowsMut<'_>, name: &str) {
    for family in [TAGS, LIFECYCLE] {
        let key = key(family, name);
        if rows.get(&key).is_some() {
            rows.remove(&key);
        }
    }
}

fn check_live(state: Option<BucketState>) -> Result<(), Error> {
    match state {
        None | Some(BucketState::Creating) => Err(Error::NoSuchBucket),
        Some(BucketState::Deleting) => Err(Error::Refused("the bucket is being deleted".into())),
        Some(BucketState::Live) => Ok(()),
    }
}

fn check_exists(rows: &Rows<'_>, name: &str) -> Result<(), Error> {
    match buckets::find(rows, name).map(|bucket| bucket.state) {
        None | Some(BucketState::Creating) => Err(Error::NoSuchBucket),
        Some(BucketState::Live | BucketState::Deleting) => Ok(()),
    }
}

fn check(tags: &Tags) -> Result<(), Error> {
    let fits = |text: &str, most: usize| text.encode_utf16().count() <= most;
    let sound = |(key, value): &(String, String)| !key.is_empty() && fits(key, TAG_KEY_UNITS_MAX) && fits(value, TAG_VALUE_UNITS_MAX);
    if tags.len() > BUCKET_TAGS_MAX || !tags.is_sorted_by(|left, right| left.0 < right.0) || !tags.iter().all(sound) {
        return Err(Error::Malformed("a bucket has at most 50 tags, sorted, each key once, of 1 to 128 and 256 characters".into()));
    }
    Ok(())
}

fn key(family: &[u8], name: &str) -> Vec<u8> {
    [family, name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, Query};
    use crate::root::testing::Model;
    use protocol::lifecycle::{Expiration, Filter, Noncurrent, Rule};

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn create(model: &mut Model, name: &str) {
        let begin = Command::BeginCreateBucket { name: name.into(), owner: "o".into(), created_ms: 5 };
        let Ok(Reply::Bucket(bucket)) = model.apply(begin).result else { panic!("not begun") };
        model.apply(Command::FinishCreateBucket { name: name.into(), attempt: bucket.attempt }).result.unwrap();
    }

    fn begin_delete(model: &mut Model, name: &str) -> u64 {
        let Ok(Reply::Bucket(bucket)) = model.apply(Command::BeginDeleteBucket { name: name.into() }).result else { panic!("not begun") };
        bucket.attempt
    }

    fn set(model: &mut Model, tags: Tags) -> Result<Reply, Error> {
        model.apply(Command::SetBucketTags { name: "a".into(), tags }).result
    }

    fn get(model: &Model) -> Result<Reply, Error> {
        model.query(Query::BucketTags { name: "a".into() }).result
    }

    #[test]
    fn tags_are_replaced_as_a_whole_and_go_with_their_bucket() {
        let mut model = Model::founded(1, 1, 6);
        assert_eq!(get(&model), Err(Error::NoSuchBucket));
        assert_eq!(set(&mut model, tags(&[("k", "v")])), Err(Error::NoSuchBucket));
        create(&mut model, "a");
        assert_eq!(get(&model), Ok(Reply::Tags(tags(&[]))));
        set(&mut model, tags(&[("k", "v"), ("l", "")])).unwrap();
        set(&mut model, tags(&[("m", "w")])).unwrap();
        assert_eq!(get(&model), Ok(Reply::Tags(tags(&[("m", "w")]))));
        let attempt = begin_delete(&mut model, "a");
        assert!(matches!(set(&mut model, tags(&[])), Err(Error::Refused(_))));
        model.apply(Command::FinishDeleteBucket { name: "a".into(), attempt, removed: false }).result.unwrap();
        assert_eq!(get(&model), Ok(Reply::Tags(tags(&[("m", "w")]))), "a deletion that reopened took nothing");
        let attempt = begin_delete(&mut model, "a");
        model.apply(Command::FinishDeleteBucket { name: "a".into(), attempt, removed: true }).result.unwrap();
        create(&mut model, "a");
        assert_eq!(get(&model), Ok(Reply::Tags(tags(&[]))), "the next bucket of the name has none of them");
    }

    #[test]
    fn tags_out_of_bounds_or_order_are_refused() {
        let mut model = Model::founded(1, 1, 6);
        create(&mut model, "a");
        let many: Tags = (0..51).map(|number| (format!("{number:02}"), String::new())).collect();
        set(&mut model, many[..50].to_vec()).unwrap();
        let before = model.0.state_hash();
        for wrong in [many, tags(&[("b", ""), ("a", "")]), tags(&[("a", ""), ("a", "")]), tags(&[("", "")])] {
            assert!(matches!(set(&mut model, wrong), Err(Error::Malformed(_))));
        }
        let (key, value) = ("k".repeat(129), "v".repeat(257));
        assert!(set(&mut model, tags(&[(&key, "")])).is_err() && set(&mut model, tags(&[("k", &value)])).is_err());
        assert_eq!(before, model.0.state_hash());
        set(&mut model, tags(&[])).unwrap();
        assert_eq!(get(&model), Ok(Reply::Tags(Vec::new())));
    }

    fn lifecycle(days: u32) -> Lifecycle {
        let rule = Rule {
            id: "r".into(),
            enabled: true,
            filter: Filter { prefix: Some("p".into()), tags: tags(&[("k", "v")]), larger_than: Some(300), smaller_than: None },
            expiration: Some(Expiration::Days(days)),
            noncurrent: Some(Noncurrent { days: 2, newer: 3 }),
            abort_days: Some(4),
            ..Rule::default()
        };
        Lifecycle { day_ms: 300, rules: vec![rule] }
    }

    fn begin(model: &mut Model, lifecycle: Option<Lifecycle>) -> Result<BucketLifecycle, Error> {
        match model.apply(Command::BeginSetLifecycle { name: "a".into(), lifecycle }).result? {
            Reply::Lifecycle(begun) => Ok(*begun),
            other => panic!("{other:?}"),
        }
    }

    fn finish(model: &mut Model, attempt: u64) -> Result<Reply, Error> {
        model.apply(Command::FinishSetLifecycle { name: "a".into(), attempt }).result
    }

    fn known(model: &Model) -> (Lifecycle, Option<Lifecycle>) {
        match model.query(Query::BucketLifecycle { name: "a".into() }).result {
            Ok(Reply::Lifecycle(known)) => (known.set, known.setting),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lifecycle_is_finished_by_its_attempt_or_taken_over() {
        let mut model = Model::founded(1, 1, 6);
        assert_eq!(begin(&mut model, Some(lifecycle(1))), Err(Error::NoSuchBucket));
        create(&mut model, "a");
        assert_eq!(begin(&mut model, None).unwrap().setting, None, "nothing to go on with");
        let first = begin(&mut model, Some(lifecycle(1))).unwrap();
        assert_eq!((first.bucket.attempt, known(&model)), (2, (Lifecycle::default(), Some(lifecycle(1)))));
        let second = begin(&mut model, Some(lifecycle(2))).unwrap();
        assert_eq!(finish(&mut model, first.bucket.attempt), Err(Error::StaleAttempt));
        let on = begin(&mut model, None).unwrap();
        assert_eq!((on.bucket.attempt, on.setting), (second.bucket.attempt + 1, Some(lifecycle(2))));
        finish(&mut model, on.bucket.attempt).unwrap();
        finish(&mut model, on.bucket.attempt).unwrap();
        assert_eq!(known(&model), (lifecycle(2), None));
        // Taken away: what stood before stands until every partition says so.
        let none = begin(&mut model, Some(Lifecycle::default())).unwrap();
        assert_eq!(known(&model), (lifecycle(2), Some(Lifecycle::default())));
        finish(&mut model, none.bucket.attempt).unwrap();
        assert_eq!(known(&model), (Lifecycle::default(), None));
        assert!(model.0.rows().get(&key(LIFECYCLE, "a")).is_none());
        // A setting of versioning has an attempt of its own, and stops one that is under way.
        let begun = begin(&mut model, Some(lifecycle(3))).unwrap();
        model.apply(Command::BeginSetVersioning { name: "a".into(), versioning: Some(protocol::Versioning::Enabled) }).result.unwrap();
        assert_eq!(finish(&mut model, begun.bucket.attempt), Err(Error::StaleAttempt));
        let attempt = begin_delete(&mut model, "a");
        assert!(matches!(begin(&mut model, Some(lifecycle(4))), Err(Error::Refused(_))));
        assert_eq!(finish(&mut model, attempt), Err(Error::StaleAttempt));
        model.apply(Command::FinishDeleteBucket { name: "a".into(), attempt, removed: true }).result.unwrap();
        create(&mut model, "a");
        assert_eq!(known(&model), (Lifecycle::default(), None), "the next bucket of the name has none of it");
    }

    #[test]
    fn a_lifecycle_out_of_bounds_is_refused() {
        let mut model = Model::founded(1, 1, 6);
        create(&mut model, "a");
        let rule = lifecycle(1).rules.remove(0);
        let long = Rule { id: "i".repeat(1000), ..rule.clone() };
        for rules in [vec![rule; 1001], vec![long; 200]] {
            assert!(matches!(begin(&mut model, Some(Lifecycle { day_ms: 300, rules })), Err(Error::Refused(_))));
        }
        assert!(matches!(begin(&mut model, Some(Lifecycle { day_ms: 0, ..lifecycle(1) })), Err(Error::Refused(_))));
        assert_eq!(known(&model), (Lifecycle::default(), None));
    }

    #[test]
    fn the_bytes_of_the_rows_stay_as_documented() {
        assert_eq!(key(TAGS, "ab"), b"bucket-tags/ab");
        assert_eq!(wire::encode(&tags(&[("k", "v")])), [1, 1, 1, b'k', 1, b'v']);
        assert_eq!(key(LIFECYCLE, "ab"), b"bucket-lifecycle/ab");
        let row = LifecycleRow { set: lifecycle(5), setting: Some(Lifecycle::default()) };
        let rule = [1, b'r', 1, 1, 1, b'p', 1, 1, b'k', 1, b'v', 1, 0xac, 2, 0, 0, 1, 0, 5, 1, 2, 3, 1, 4];
        assert_eq!(wire::encode(&row), [&[1, 0xac, 2, 1][..], &rule, &[1, 0, 0]].concat());
    }
}
