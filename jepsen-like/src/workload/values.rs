//! [`Values`]: what the bytes of each value are, and which value an ETag means.
//!
//! Every value is made known before it is first sent, so whatever a reply shows must be known here.

use std::collections::BTreeMap;
use std::sync::Mutex;

use md5::{Digest, Md5};

use crate::history::Value;
use crate::s3::{Content, Source};

/// All values of a run.
#[derive(Default)]
pub(super) struct Values {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Bytes of those that are not simply the stream of their own name: compositions and slices.
    contents: BTreeMap<Value, Vec<Content>>,
    /// As an object or part put in one piece has it: the MD5 of its bytes.
    sums: BTreeMap<Value, [u8; 16]>,
    /// `None`: values with the same bytes, which it cannot tell apart.
    by_etag: BTreeMap<String, Option<Value>>,
    /// Slices by their bytes: whoever copies the same range has the same value.
    slices: BTreeMap<[u8; 16], Value>,
    /// Parts by their ETags, which a whole of one part has besides.
    parts: BTreeMap<String, Value>,
}

impl Values {
    /// Make `value` known; returns its ETag when it is put in one piece.
    pub fn add(&self, value: Value) -> String {
        let contents = self.contents(value);
        let sum = sum(&contents);
        let etag = quoted(&hex::encode(sum));
        let mut known = self.known.lock().expect("nothing panics under it");
        known.sums.insert(value, sum);
        known.name(etag.clone(), value);
        etag
    }

    /// Make `value` known as a part of an upload; returns the ETag that it has there.
    pub fn add_part(&self, value: Value) -> String {
        let etag = self.add(value);
        self.known.lock().expect("nothing panics under it").parts.insert(etag.clone(), value);
        etag
    }

    /// The part of an upload that has this ETag.
    pub fn part(&self, etag: &str) -> Option<Value> {
        self.known.lock().expect("nothing panics under it").parts.get(etag).copied()
    }

    /// Make bytes `from..from + length` of `source` known as a part of an upload: as `name`, unless they are known.
    pub fn add_slice(&self, name: u64, source: Value, from: u64, length: u64) -> Value {
        let contents = self.slice(source, from, length);
        let sum = sum(&contents);
        let mut known = self.known.lock().expect("nothing panics under it");
        if let Some(value) = known.slices.get(&sum) {
            return *value;
        }
        let value = Value { id: name, bytes: length };
        known.slices.insert(sum, value);
        known.parts.insert(quoted(&hex::encode(sum)), value);
        known.sums.insert(value, sum);
        known.contents.insert(value, contents);
        value
    }

    /// Make known what an upload completed with `parts`, each of them known, is: the value, and its ETag.
    pub fn compose(&self, parts: &[Value]) -> (Value, String) {
        let value = Value::composed(parts.iter().copied());
        let contents: Vec<Content> = parts.iter().flat_map(|part| self.contents(*part)).collect();
        let sum = sum(&contents);
        let mut known = self.known.lock().expect("nothing panics under it");
        let mut sums = Md5::new();
        for part in parts {
            sums.update(known.sums.get(part).expect("parts are known"));
        }
        let etag = quoted(&format!("{}-{}", hex::encode(sums.finalize()), parts.len()));
        known.contents.insert(value, contents);
        known.sums.insert(value, sum);
        known.name(etag.clone(), value);
        // A copy of it is put in one piece and has the MD5 of its bytes as its ETag. So has its only part, but no part
        // is ever an object.
        known.by_etag.insert(quoted(&hex::encode(sum)), Some(value));
        (value, etag)
    }

    /// The bytes of `value`.
    pub fn contents(&self, value: Value) -> Vec<Content> {
        if let Some(contents) = self.known.lock().expect("nothing panics under it").contents.get(&value) {
            return contents.clone();
        }
        if value.is_composed() { Vec::new() } else { vec![value.content()] }
    }

    /// Bytes `from..from + length` of `value`, which has so many.
    pub fn slice(&self, value: Value, from: u64, length: u64) -> Vec<Content> {
        let (mut skip, mut rest) = (from, length);
        let mut slices = Vec::new();
        for content in self.contents(value) {
            let from = skip.min(content.length);
            let take = rest.min(content.length - from);
            if take > 0 {
                slices.push(content.slice(from, take));
            }
            (skip, rest) = (skip - from, rest - take);
        }
        assert!(rest == 0, "a slice lies inside its value");
        slices
    }

    /// ETag of `value` when it is put in one piece, if it is known.
    pub fn etag(&self, value: Value) -> Option<String> {
        self.known.lock().expect("nothing panics under it").sums.get(&value).map(|sum| quoted(&hex::encode(sum)))
    }

    /// Whether any value has this ETag, and which, if it is only one.
    pub fn named(&self, etag: &str) -> Option<Option<Value>> {
        self.known.lock().expect("nothing panics under it").by_etag.get(etag).copied()
    }
}

impl Known {
    fn name(&mut self, etag: String, value: Value) {
        let named = self.by_etag.entry(etag).or_insert(Some(value));
        if *named != Some(value) {
            *named = None;
        }
    }
}

fn sum(contents: &[Content]) -> [u8; 16] {
    let mut sum = Md5::new();
    for content in contents {
        Source::from(*content).walk(|piece| sum.update(piece));
    }
    sum.finalize().into()
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(id: u64, bytes: u64) -> Value {
        Value { id, bytes }
    }

    #[test]
    fn etags_name_values_unless_their_bytes_are_the_same() {
        let values = Values::default();
        let etag = values.add(value(1, 100));
        assert_eq!(values.named(&etag), Some(Some(value(1, 100))));
        assert_eq!(values.add(value(1, 100)), etag);
        assert_eq!(values.named(&etag), Some(Some(value(1, 100))));
        let empty = values.add(value(2, 0));
        assert_eq!(empty, "\"d41d8cd98f00b204e9800998ecf8427e\"");
        values.add(value(3, 0));
        assert_eq!((values.named(&empty), values.named("\"x\"")), (Some(None), None));
    }

    #[test]
    fn a_composition_has_the_bytes_of_its_parts_and_two_etags() {
        let values = Values::default();
        let parts = [value(1, 30), value(2, 50)];
        parts.iter().for_each(|part| {
            values.add(*part);
        });
        let (whole, etag) = values.compose(&parts);
        assert!(etag.ends_with("-2\"") && values.named(&etag) == Some(Some(whole)));
        assert_eq!(values.named(&values.etag(whole).unwrap()), Some(Some(whole)));
        let bytes = |contents: Vec<Content>| contents.iter().flat_map(|content| content.bytes().to_vec()).collect::<Vec<u8>>();
        let all = bytes(values.contents(whole));
        assert_eq!(all.len(), 80);
        assert_eq!(bytes(values.slice(whole, 20, 40)), all[20..60]);
        assert_eq!(bytes(values.slice(whole, 30, 50)), all[30..]);
    }

    #[test]
    fn the_same_slice_is_the_same_value_and_so_is_what_is_made_of_it_alone() {
        let values = Values::default();
        values.add(value(1, 100));
        let slice = values.add_slice(9, value(1, 100), 20, 40);
        assert_eq!((slice, values.add_slice(10, value(1, 100), 20, 40)), (value(9, 40), value(9, 40)));
        assert_ne!(values.add_slice(11, value(1, 100), 21, 40), slice);
        let (whole, _) = values.compose(&[slice]);
        assert_eq!(values.named(&values.etag(slice).unwrap()), Some(Some(whole)));
        assert_eq!(values.add_slice(12, whole, 0, 40), slice);
    }
}
