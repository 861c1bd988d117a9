//! What is set for a bucket and steers no write: its tags. Rows beside those of the buckets, so that listings of buckets stay small.
//!
//! Always holds: a row stands only while its bucket does; a bucket of the same name that comes later begins without.

use super::{Verdict, buckets, decode_row};
use crate::commands::Reply;
use crate::{BucketState, Error};
use consensus::{Rows, RowsMut};
use protocol::limits::{BUCKET_TAGS_MAX, TAG_KEY_UNITS_MAX, TAG_VALUE_UNITS_MAX};
use protocol::wire;

const TAGS: &[u8] = b"bucket-tags/";

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

/// The bucket is gone, and with it all that was set for it.
pub(super) fn remove(rows: &mut RowsMut<'_>, name: &str) {
    let key = key(TAGS, name);
    if rows.get(&key).is_some() {
        rows.remove(&key);
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

    #[test]
    fn the_bytes_of_the_row_stay_as_documented() {
        assert_eq!(key(TAGS, "ab"), b"bucket-tags/ab");
        assert_eq!(wire::encode(&tags(&[("k", "v")])), [1, 1, 1, b'k', 1, b'v']);
    }
}
