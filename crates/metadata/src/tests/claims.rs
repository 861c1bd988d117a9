//! Claims about single commands.

use super::*;
use crate::commands::{Page, UploadLine};
use crate::rows::{PartRow, VersionHead, decode_head};
use crate::upload::RESULTS_KEPT;
use crate::{Etags, GarbageId, UploadQuery, keys};
use protocol::{Checksum, ChecksumKind, Home};

fn five_mib(counter: u64) -> BlobRef {
    blob(counter, 5 << 20)
}

fn completed_upload(machine: &mut Machine) -> Record {
    machine.create_upload("k", 1).unwrap();
    for number in 1..=3 {
        machine.put_part("k", 1, part(number, u64::from(number), &[five_mib(u64::from(number))])).unwrap();
    }
    machine.complete("k", 1, vec![named(1, 1), named(3, 3)]).unwrap()
}

#[test]
fn complete_computes_size_parts_and_the_etag_of_etags() {
    let mut machine = Machine::open();
    let record = completed_upload(&mut machine);
    assert_eq!(record.bytes, 10 * MIB);
    // md5(unhex("00..01" + "00..03")).
    assert_eq!(record.etag, "15eb7da3e6485675146fafa2c6d995dc-2");
    assert_eq!(machine.get("k"), Some(record.clone()));
    let numbers: Vec<u16> = match record.body {
        Body::Parts { upload: UploadId(1), parts } => parts.iter().map(|part| part.number).collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(numbers, [1, 3]);
}

#[test]
fn complete_repeated_gives_the_same_record_and_changes_nothing() {
    let mut machine = Machine::open();
    let record = completed_upload(&mut machine);
    let hash = machine.rows.state_hash();
    assert_eq!(machine.complete("k", 1, vec![named(1, 1), named(3, 3)]), Ok(record.clone()));
    assert_eq!(machine.complete("k", 1, vec![named(1, 1)]), Err(Error::NoSuchUpload));
    assert_eq!(machine.complete("k", 1, vec![named(1, 1), named(3, 2)]), Err(Error::NoSuchUpload));
    assert_eq!(machine.complete("other", 1, vec![named(1, 1), named(3, 3)]), Err(Error::NoSuchUpload));
    assert_eq!(machine.rows.state_hash(), hash);
    machine.put("k", record_of("later")).unwrap();
    assert_eq!(machine.complete("k", 1, vec![named(1, 1), named(3, 3)]), Ok(record), "also after the key was replaced");
    assert_eq!(machine.get("k").unwrap().etag, "later");
}

fn record_of(tag: &str) -> Record {
    record(tag, inline("bytes"))
}

#[test]
fn only_the_last_results_are_kept_by_revision() {
    let mut machine = Machine::open();
    let record = completed_upload(&mut machine);
    // Behind those of `completed_upload`.
    let first = 11;
    for upload in first..=first + u128::from(RESULTS_KEPT) + 1 {
        let number = u64::try_from(upload).unwrap();
        machine.create_upload("l", upload).unwrap();
        machine.put_part("l", upload, part(1, number, &[blob(number, 10)])).unwrap();
        machine.complete("l", upload, vec![named(1, number)]).unwrap();
    }
    assert_eq!(machine.family(keys::COMPLETED).len(), RESULTS_KEPT as usize);
    assert_eq!(machine.family(keys::COMPLETIONS).len(), RESULTS_KEPT as usize);
    assert_eq!(machine.complete("l", first + 1, vec![named(1, 12)]), Err(Error::NoSuchUpload));
    assert!(machine.complete("l", first + 2, vec![named(1, 13)]).is_ok());
    // What an older one made says so itself, until it is replaced.
    assert_eq!(machine.complete("k", 1, vec![named(1, 1), named(3, 3)]), Ok(record));
    assert_eq!(machine.complete("k", 1, vec![named(1, 1), named(3, 2)]), Err(Error::NoSuchUpload));
    assert_eq!(machine.complete("l", 1, vec![named(1, 1), named(3, 3)]), Err(Error::NoSuchUpload));
    machine.put("k", record_of("later")).unwrap();
    assert_eq!(machine.complete("k", 1, vec![named(1, 1), named(3, 3)]), Err(Error::NoSuchUpload));
}

#[test]
fn complete_refuses_what_differs_from_the_parts() {
    let mut machine = Machine::open();
    machine.create_upload("k", 1).unwrap();
    machine.put_part("k", 1, part(1, 1, &[blob(1, 100)])).unwrap();
    let checksum = Checksum { kind: ChecksumKind::Crc32, value: vec![1, 2, 3, 4], composite: false };
    machine.put_part("k", 1, Part { checksum: Some(checksum.clone()), ..part(2, 2, &[five_mib(2)]) }).unwrap();
    machine.put_part("k", 1, part(4, 4, &[blob(4, 1)])).unwrap();
    assert!(matches!(machine.complete("k", 1, vec![]), Err(Error::Malformed(_))));
    assert_eq!(machine.complete("k", 1, vec![named(2, 2), named(1, 1)]), Err(Error::InvalidPartOrder));
    assert_eq!(machine.complete("k", 1, vec![named(2, 2), named(2, 2)]), Err(Error::InvalidPartOrder));
    assert_eq!(machine.complete("k", 1, vec![named(2, 2), named(3, 3)]), Err(Error::InvalidPart { number: 3 }));
    assert_eq!(machine.complete("k", 1, vec![named(2, 2), named(9, 9)]), Err(Error::InvalidPart { number: 9 }));
    assert_eq!(machine.complete("k", 1, vec![named(2, 1)]), Err(Error::InvalidPart { number: 2 }));
    assert_eq!(machine.complete("k", 1, vec![named(1, 1), named(2, 2)]), Err(Error::EntityTooSmall { number: 1 }));
    let with = |value: Vec<u8>| NamedPart { checksum: Some(Checksum { value, ..checksum.clone() }), ..named(2, 2) };
    assert_eq!(machine.complete("k", 1, vec![with(vec![1, 2, 3, 5])]), Err(Error::InvalidPart { number: 2 }));
    let missing = NamedPart { checksum: Some(checksum.clone()), ..named(4, 4) };
    assert_eq!(machine.complete("k", 1, vec![missing]), Err(Error::InvalidPart { number: 4 }));
    assert!(machine.complete("k", 1, vec![with(vec![1, 2, 3, 4]), named(4, 4)]).is_ok(), "the last one may be small");
}

#[test]
fn completed_parts_are_those_that_complete_named_also_after_the_object_is_deleted() {
    let mut machine = Machine::open();
    completed_upload(&mut machine);
    let parts = |machine: &Machine, first_number: u16, max: u32| {
        let page: Page<Part> = machine.ask(&Query::CompletedParts { upload: UploadId(1), first_number, max }).unwrap();
        (page.entries.iter().map(|part| part.number).collect::<Vec<_>>(), page.truncated)
    };
    assert_eq!(parts(&machine, 1, 10), (vec![1, 3], false));
    assert_eq!(parts(&machine, 1, 1), (vec![1], true));
    assert_eq!(parts(&machine, 2, 1), (vec![3], false));
    machine.delete("k").unwrap();
    assert_eq!(parts(&machine, 1, 10), (vec![1, 3], false), "a reader that began before goes on");
    for step in machine.garbage() {
        assert_eq!(machine.apply(&Command::Collect { entry: step.id, through: step.through }), Ok(true));
    }
    assert_eq!(parts(&machine, 1, 10), (vec![], false));
    assert_eq!(machine.family(keys::BLOBS).len() + machine.family(keys::PARTS).len() + machine.family(keys::UNNAMED).len(), 0);
    assert!(machine.garbage().is_empty());
}

#[test]
fn deleting_a_large_upload_queues_one_entry_that_is_consumed_in_steps() {
    let mut machine = Machine::open();
    machine.create_upload("k", 1).unwrap();
    for number in 1..=600 {
        machine.put_part("k", 1, part(number, 1, &[blob(u64::from(number), 1)])).unwrap();
    }
    machine.apply::<()>(&Command::AbortUpload { bucket: BUCKET, key: "k".into(), upload: UploadId(1) }).unwrap();
    assert_eq!(machine.family(keys::GARBAGE).len(), 1);
    let mut blobs = Vec::new();
    let mut steps = 0;
    while let Some(step) = machine.garbage().pop() {
        assert_eq!(step.home, Home::of(BUCKET, "k"));
        // Telling of less than the step: only that is forgotten.
        assert_eq!(machine.apply(&Command::Collect { entry: step.id, through: 0 }), Ok(false));
        assert_eq!(machine.garbage(), std::slice::from_ref(&step));
        assert_eq!(machine.apply(&Command::Collect { entry: step.id, through: step.through }), Ok(!step.more));
        blobs.extend(step.blobs.iter().map(|blob| blob.blob.counter));
        steps += 1;
    }
    assert_eq!(blobs, (1..=600).collect::<Vec<u64>>());
    assert_eq!(steps, 3);
    assert_eq!(machine.family(keys::BLOBS).len() + machine.family(keys::PARTS).len(), 0);
    let gone = GarbageId { revision: Revision(1), ordinal: 0 };
    assert_eq!(machine.apply(&Command::Collect { entry: gone, through: 9 }), Ok(true), "collecting twice is harmless");
}

#[test]
fn settle_says_what_is_named_and_refuses_the_rest_for_ever() {
    let mut machine = Machine::open();
    machine.put("named", record("e", Body::Blobs(vec![blob(1, 9)]))).unwrap();
    let settle = |machine: &mut Machine, up_to: u64, counters: &[u64]| {
        let asked = counters.iter().map(|counter| (Home::of(BUCKET, "any"), blob_id(*counter))).collect();
        machine.apply::<Vec<BlobId>>(&Command::Settle { writer: WriterId(3), up_to, asked })
    };
    assert_eq!(settle(&mut machine, 2, &[1, 2]), Ok(vec![blob_id(1)]));
    assert_eq!(machine.put("late", record("e", Body::Blobs(vec![blob(2, 9)]))), Err(Error::Settled));
    assert_eq!(machine.put("late", record("e", Body::Blobs(vec![blob(3, 9), blob(2, 9)]))), Err(Error::Settled));
    machine.create_upload("late", 1).unwrap();
    assert_eq!(machine.put_part("late", 1, part(1, 1, &[blob(2, 9)])), Err(Error::Settled));
    machine.put_part("late", 1, part(1, 1, &[blob(4, 9)])).unwrap();
    assert_eq!(settle(&mut machine, 4, &[4]), Ok(vec![blob_id(4)]));
    machine.complete("late", 1, vec![named(1, 1)]).expect("Complete names no new blob");
    assert_eq!(settle(&mut machine, 1, &[]), Ok(vec![]));
    assert_eq!(machine.put("late", record("e", Body::Blobs(vec![blob(2, 9)]))), Err(Error::Settled), "a floor never sinks");
    assert!(matches!(settle(&mut machine, 5, &[6]), Err(Error::Malformed(_))), "asked about what is not fenced");
    machine.put("ours", record("e", Body::Blobs(vec![blob(5, 9)]))).unwrap();
    let other = BlobRef { blob: BlobId { writer: WriterId(4), counter: 1 }, ..blob(1, 9) };
    machine.put("theirs", record("e", Body::Blobs(vec![other]))).expect("other writers are not fenced");
}

#[test]
fn settle_in_the_wrong_partition_is_refused_as_a_whole() {
    let mut machine = Machine::default();
    let key = "key";
    let hash = protocol::key_hash(BUCKET, key);
    let wrong = Share { index: u32::try_from((hash + 1) % 4).unwrap(), of: 4 };
    machine.apply::<()>(&Command::OpenBucket { bucket: BUCKET, attempt: 1, share: wrong }).unwrap();
    let asked = vec![(Home::of(BUCKET, key), blob_id(1))];
    let settle = Command::Settle { writer: WriterId(3), up_to: 1, asked };
    assert_eq!(machine.apply::<Vec<BlobId>>(&settle), Err(Error::NotOpen));
    assert_eq!(machine.put(key, record_of("e")), Err(Error::NotOpen), "and so are writes");
    assert_eq!(Machine::default().apply::<Vec<BlobId>>(&settle), Err(Error::NotOpen), "where the bucket was never opened");
}

#[test]
fn a_blob_is_named_by_one_row_only_even_after_that_row_is_gone() {
    let mut machine = Machine::open();
    let body = || Body::Blobs(vec![blob(1, 9)]);
    machine.put("a", record("e", body())).unwrap();
    assert!(matches!(machine.put("b", record("e", body())), Err(Error::Malformed(_))));
    assert!(matches!(machine.put("a", record("e", body())), Err(Error::Malformed(_))), "nor by the row that replaces it");
    machine.delete("a").unwrap();
    assert!(matches!(machine.put("b", record("e", body())), Err(Error::Malformed(_))), "condemned");
    assert!(matches!(machine.put("b", record("e", Body::Blobs(vec![blob(2, 1), blob(2, 1)]))), Err(Error::Malformed(_))));
}

#[test]
fn conditions_are_judged_on_the_version_that_is_replaced() {
    let mut machine = Machine::open();
    let put = |machine: &mut Machine, tag: &str, conditions: &Preconditions| {
        machine
            .apply::<crate::Applied>(&Command::Put {
                bucket: BUCKET,
                key: "k".into(),
                record: record_of(tag),
                conditions: conditions.clone(),
            })
            .map(|applied| applied.replaced)
    };
    let absent = Preconditions { if_none_match: Some(Etags::Any), ..Preconditions::default() };
    let is = |tag: &str| Preconditions { if_match: Some(Etags::Of(vec![tag.into()])), ..Preconditions::default() };
    assert_eq!(put(&mut machine, "1", &is("1")), Err(Error::NoSuchKey));
    assert_eq!(put(&mut machine, "1", &absent), Ok(false));
    assert_eq!(put(&mut machine, "2", &absent), Err(Error::Precondition));
    assert_eq!(put(&mut machine, "2", &is("0")), Err(Error::Precondition));
    assert_eq!(put(&mut machine, "2", &is("1")), Ok(true));
    let delete = |machine: &mut Machine, conditions: Preconditions| {
        let delete = Command::Delete { bucket: BUCKET, key: "k".into(), version: None, conditions, modified_ms: 1 };
        machine.apply::<crate::Applied>(&delete).map(|applied| applied.replaced)
    };
    assert_eq!(delete(&mut machine, is("1")), Err(Error::Precondition));
    assert_eq!(delete(&mut machine, is("2")), Ok(true));
    assert_eq!(delete(&mut machine, is("2")), Err(Error::NoSuchKey));
    assert_eq!(delete(&mut machine, Preconditions::default()), Ok(false));
    machine.create_upload("k", 1).unwrap();
    machine.put_part("k", 1, part(1, 1, &[blob(1, 9)])).unwrap();
    let complete = |machine: &mut Machine, conditions: Preconditions| {
        machine.apply::<crate::Completed>(&Command::CompleteUpload {
            bucket: BUCKET,
            key: "k".into(),
            upload: UploadId(1),
            parts: vec![named(1, 1)],
            conditions,
            checksum: None,
            modified_ms: 1,
        })
    };
    assert_eq!(complete(&mut machine, is("2")), Err(Error::NoSuchKey));
    put(&mut machine, "3", &absent).unwrap();
    assert_eq!(complete(&mut machine, absent), Err(Error::Precondition));
    assert!(complete(&mut machine, is("3")).is_ok());
}

#[test]
fn keys_and_bodies_that_s3_does_not_know_are_refused() {
    let mut machine = Machine::open();
    let refused = |result: Result<crate::Applied, Error>| assert!(matches!(result, Err(Error::Malformed(_))), "{result:?}");
    refused(machine.put("", record_of("e")));
    refused(machine.put(&"k".repeat(1025), record_of("e")));
    refused(machine.put("k", Record { bytes: 4, ..record_of("e") }));
    refused(machine.put("k", record("e", Body::Parts { upload: UploadId(1), parts: vec![] })));
    assert!(machine.put(&"k".repeat(1024), record_of("e")).is_ok());
    machine.create_upload("k", 1).unwrap();
    for number in [0, 10_001] {
        assert!(matches!(machine.put_part("k", 1, part(number, 1, &[blob(1, 1)])), Err(Error::Malformed(_))));
    }
    assert!(matches!(machine.put_part("k", 1, Part { etag: "no md5".into(), ..part(1, 1, &[blob(1, 1)]) }), Err(Error::Malformed(_))));
    assert!(matches!(machine.create_upload("k", 1), Err(Error::Malformed(_))), "an upload id is used once");
}

#[test]
fn what_does_not_decode_gets_a_reply() {
    let mut rows = MemoryRows::default();
    for bytes in [&b""[..], b"\x01", b"\x02junk", b"\x01\xff\xff\xff\xff\xff\xff"] {
        let reply: Reply<()> = wire::decode(&Partition.apply(&mut rows.rows_mut(), bytes)).unwrap();
        assert!(matches!(reply.result, Err(Error::Malformed(_))));
        let reply: Reply<()> = wire::decode(&Partition.query(&rows.rows(), bytes)).unwrap();
        assert!(matches!(reply.result, Err(Error::Malformed(_))));
    }
}

fn newer() -> Machine {
    let mut machine = Machine::open();
    let revision = machine.put("k", record_of("etag")).unwrap().revision;
    let key = keys::object(BUCKET, "k", revision);
    let mut value = machine.rows.rows().get(&key).unwrap().to_vec();
    value[0] += 1;
    machine.rows.rows_mut().put(&key, &value);
    machine
}

#[test]
fn a_row_of_an_unknown_format_is_not_served() {
    let machine = newer();
    let get = Query::Get { bucket: BUCKET, key: "k".into(), version: None };
    assert!(matches!(machine.ask::<crate::Found>(&get), Err(Error::Unavailable(_))));
    let query = crate::ListQuery { max: 10, ..crate::ListQuery::default() };
    assert!(matches!(machine.ask::<Page<crate::Listed>>(&Query::List { bucket: BUCKET, query }), Err(Error::Unavailable(_))));
}

#[test]
#[should_panic(expected = "cannot be read on this replica: format version 2")]
fn a_command_that_meets_a_row_of_an_unknown_format_stops_the_replica() {
    let _ = newer().delete("k");
}

#[test]
fn the_head_of_a_record_is_read_without_its_body() {
    let headers = Headers {
        content_type: Some("text/plain".into()),
        expires: Some("never".into()),
        user: vec![("a".into(), "b".into()), ("c".into(), String::new())],
        ..Headers::default()
    };
    let checksum = Checksum { kind: ChecksumKind::Sha1, value: vec![7; 20], composite: true };
    let record = Record { headers, checksum: Some(checksum), modified_ms: u64::MAX, ..record("etag", inline("bytes")) };
    let value = wire::encode(&Version::Object(record.clone()));
    let VersionHead::Object(head) = decode_head(b"k", &value).unwrap() else { panic!("no marker") };
    assert_eq!((head.revision, head.null, head.bytes, head.etag, head.modified_ms), (record.revision, false, 5, "etag", u64::MAX));
    let checksum = head.checksum.unwrap();
    assert_eq!((checksum.kind, checksum.value, checksum.composite), (ChecksumKind::Sha1, &[7; 20][..], true));
    let row = PartRow { revision: Revision(8), part: part(2, 3, &[blob(1, 2)]) };
    let value = wire::encode(&row);
    let head: crate::rows::PartHead<'_> = decode_head(b"p", &value).unwrap();
    assert_eq!((head.number, head.bytes, head.etag.to_string(), head.checksum.is_none()), (2, 2, etag(3), true));
}

#[test]
fn a_change_of_tags_changes_tags_alone() {
    let mut machine = Machine::open();
    machine.put("k", Record { tags: tags(&[("of", "put")]), ..record("e", Body::Blobs(vec![blob(5, 300)])) }).unwrap();
    let before = machine.get("k").unwrap();
    let usage = |machine: &Machine| machine.ask::<Option<crate::BucketUsage>>(&Query::Usage { bucket: BUCKET }).unwrap();
    let counted = usage(&machine);
    let longest = tags(&[(&"\u{10ffff}".repeat(64), &"é".repeat(256))]);
    let tagged = machine.set_tags("k", None, longest.clone()).unwrap();
    assert_eq!(tagged, crate::Tagged { revision: Revision(2), version: None });
    assert_eq!(machine.get("k"), Some(Record { tags: longest, ..before }));
    assert_eq!((usage(&machine), machine.garbage()), (counted, vec![]), "nothing was added, and nothing given up");
    assert_eq!(machine.family(keys::OBJECTS).len(), 1);
}

#[test]
fn tags_beyond_the_limits_of_s3_are_refused() {
    let mut machine = Machine::open();
    machine.put("k", record_of("e")).unwrap();
    let eleven: Vec<_> = (10..=20).map(|number| (number.to_string(), String::new())).collect();
    for wrong in [eleven.clone(), tags(&[(&"\u{10ffff}".repeat(65), "")]), tags(&[("k", &"v".repeat(257))]), tags(&[("", "v")])] {
        assert!(matches!(machine.set_tags("k", None, wrong.clone()), Err(Error::Malformed(_))), "{wrong:?}");
        let put = machine.put("k", Record { tags: wrong.clone(), ..record_of("f") });
        assert!(matches!(put, Err(Error::Malformed(_))), "{wrong:?}");
    }
    machine.set_tags("k", None, eleven[1..].to_vec()).unwrap();
}

#[test]
fn a_completed_upload_has_the_tags_that_it_was_begun_with() {
    let mut machine = Machine::open();
    assert_eq!(completed_upload(&mut machine).tags, tags(&[("upload", "1")]));
    machine.set_tags("k", None, tags(&[])).unwrap();
    assert_eq!(machine.get("k").unwrap().tags, []);
    let repeated = machine.complete("k", 1, vec![named(1, 1), named(3, 3)]).unwrap();
    assert_eq!(
        (repeated.tags, machine.get("k").unwrap().tags),
        (tags(&[("upload", "1")]), vec![]),
        "it answers as it did, and does nothing"
    );
}

#[test]
fn uploads_of_one_key_are_listed_by_id_and_go_on_behind_a_marker() {
    let mut machine = Machine::open();
    for (key, upload) in [("a", 2), ("a", 1), ("a/b", 3), ("a/c", 4), ("b", 5)] {
        machine.create_upload(key, upload).unwrap();
    }
    let list = |query: UploadQuery| {
        let page: Page<UploadLine> = machine.ask(&Query::ListUploads { bucket: BUCKET, query }).unwrap();
        let lines = page.entries.into_iter().map(|line| match line {
            UploadLine::Upload(upload) => format!("{} {}", upload.key, upload.id),
            UploadLine::Prefix(prefix) => prefix,
        });
        (lines.collect::<Vec<_>>().join(", "), page.truncated)
    };
    let query = UploadQuery { max: 10, ..UploadQuery::default() };
    assert_eq!(list(query.clone()), ("a 1, a 2, a/b 3, a/c 4, b 5".into(), false));
    assert_eq!(list(UploadQuery { max: 1, ..query.clone() }), ("a 1".into(), true));
    let behind =
        |key: &str, upload: Option<u128>| UploadQuery { after_key: Some(key.into()), after_upload: upload.map(UploadId), ..query.clone() };
    assert_eq!(list(behind("a", Some(1))), ("a 2, a/b 3, a/c 4, b 5".into(), false));
    assert_eq!(list(behind("a", None)), ("a/b 3, a/c 4, b 5".into(), false));
    let rolled = |query: UploadQuery| UploadQuery { delimiter: Some("/".into()), ..query };
    assert_eq!(list(rolled(query.clone())), ("a 1, a 2, a/, b 5".into(), false));
    assert_eq!(list(rolled(behind("a/", None))), ("b 5".into(), false));
}
