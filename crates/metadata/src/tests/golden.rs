//! Bytes of rows as drives hold them. If a test here fails, the format changed: that needs a new format version.

use super::*;
use crate::rows::{Ages, BucketRow, BucketState, CompletedRow, Condemned, Counters, GarbageRow, LifecycleRow, PartRow, UploadRow, decode};
use crate::{Cursor, GarbageId, Upload, keys};
use protocol::lifecycle::{Expiration, Lifecycle, Rule};
use protocol::record::PartRef;
use protocol::{Checksum, ChecksumKind, Home, Marker, Versioning};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(key: &[u8], key_hex: &str, value: &T, value_hex: &str) {
    let encoded = wire::encode(value);
    assert_eq!((hex(key).as_str(), hex(&encoded).as_str()), (key_hex, value_hex));
    assert_eq!(decode::<T>(key, &encoded).as_ref(), Ok(value));
}

fn headers() -> Headers {
    Headers { content_type: Some("t".into()), user: vec![("n".into(), "v".into())], ..Headers::default() }
}

fn checksum() -> Checksum {
    Checksum { kind: ChecksumKind::Crc32C, value: vec![1, 2, 3, 4], composite: true }
}

#[test]
fn bucket_counters_and_floor_rows() {
    let share = Share { index: 1, of: 4 };
    let row = BucketRow {
        state: BucketState::Closed,
        attempt: 300,
        share,
        versioning: Versioning::Unversioned,
        objects: 2,
        bytes: 128,
        uploads: 3,
    };
    golden(&keys::bucket(BUCKET), "620000000000000007", &row, "0101ac0201040002800103");
    golden(&keys::counters(), "72", &Counters { revision: Revision(9), completed: 2 }, "010902");
    golden(&keys::floor(WriterId(3)), "770000000000000003", &5u64, "0105");
    golden(&keys::blob(blob_id(5)), "7800000000000000030000000000000005", &Home { bucket: BUCKET, key_hash: 300 }, "0107ac02");
}

#[test]
fn record_rows() {
    let record = Record {
        revision: Revision(9),
        null: true,
        checksum: Some(checksum()),
        headers: headers(),
        tags: tags(&[("a", "1"), ("b", "")]),
        ..record("ab", Body::Blobs(vec![blob(5, 300)]))
    };
    golden(
        &keys::object(BUCKET, "a\0/é", Revision(9)),
        "6f00000000000000076100ff2fc3a90000fffffffffffffff6",
        &Version::Object(record.clone()),
        "01000901ac020261620101040102030401010174000000000001016e01760502016101310162000101010305ac0205",
    );
    let record =
        Record { null: false, body: inline("xyz"), bytes: 3, checksum: None, headers: Headers::default(), tags: Vec::new(), ..record };
    golden(
        &keys::object(BUCKET, "b", Revision(9)),
        "6f0000000000000007620000fffffffffffffff6",
        &Version::Object(record.clone()),
        "010009000302616200000000000000000500000378797a",
    );
    let parts = Body::Parts { upload: UploadId(1 << 64 | 2), parts: vec![PartRef { number: 3, bytes: 300 }] };
    let record = Record { body: parts, bytes: 300, etag: "ab-1".into(), ..record };
    golden(
        &keys::object(BUCKET, "c", Revision(9)),
        "6f0000000000000007630000fffffffffffffff6",
        &Version::Object(record.clone()),
        "01000900ac020461622d310000000000000000050002828080808080808080020103ac02",
    );
    let row = CompletedRow { bucket: BUCKET, key: "c".into(), record, versioned: true };
    golden(
        &keys::completed(UploadId(1 << 64 | 2)),
        "6300000000000000010000000000000002",
        &row,
        "010701630900ac020461622d310000000000000000050002828080808080808080020103ac0201",
    );
    let marker = Marker { revision: Revision(300), null: false, modified_ms: 5 };
    let row = Version::Marker(marker);
    golden(&keys::object(BUCKET, "c", Revision(300)), "6f0000000000000007630000fffffffffffffed3", &row, "0101ac020005");
    golden(&keys::null(BUCKET, "c"), "6e0000000000000007630000", &Revision(300), "01ac02");
    golden(&keys::completion(Revision(9)), "640000000000000009", &UploadId(1 << 64 | 2), "0182808080808080808002");
}

#[test]
fn upload_and_part_rows() {
    let id = UploadId(1 << 64 | 2);
    let upload = Upload {
        id,
        key: "k".into(),
        headers: headers(),
        tags: tags(&[("a", "1")]),
        checksum: Some((ChecksumKind::Sha256, true)),
        created_ms: 128,
    };
    golden(
        &keys::upload(BUCKET, "k", id),
        "7500000000000000076b000000000000000000010000000000000002",
        &UploadRow { revision: Revision(8), upload },
        "010882808080808080808002016b010174000000000001016e017601016101310104018001",
    );
    let part = Part { checksum: Some(checksum()), ..part(3, 0xab, &[blob(5, 300)]) };
    golden(
        &keys::part(id, 3),
        "70000000000000000100000000000000020003",
        &PartRow { revision: Revision(9), part },
        "010903ac022030303030303030303030303030303030303030303030303030303030303061620101040102030401060101010305ac0205",
    );
    golden(&keys::unnamed(id), "7300000000000000010000000000000002", &vec![1u16, 300], "010201ac02");
}

#[test]
fn lifecycle_and_age_rows() {
    let rule = Rule { id: "r".into(), enabled: true, expiration: Some(Expiration::Days(300)), ..Rule::default() };
    let lifecycle = Lifecycle { day_ms: 300, rules: vec![rule] };
    let cursor = Cursor { attempt: 7, walk: 2, at: vec![0x6f, 0xff] };
    golden(
        &keys::lifecycle(BUCKET),
        "6c0000000000000007",
        &LifecycleRow { lifecycle, cursor, walked_ms: 300 },
        "01ac0201017201000000000001 00ac020000 0702026fffac02".replace(' ', "").as_str(),
    );
    assert_eq!(keys::lifecycle_of(&keys::lifecycle(BUCKET)), Some(BUCKET));
    golden(&keys::ages(), "74", &Ages { marks: vec![(Revision(9), 300)] }, "010109ac02");
}

#[test]
fn garbage_rows() {
    let home = Home { bucket: BUCKET, key_hash: 300 };
    let row = |condemned| GarbageRow { home, condemned };
    let key = |ordinal| keys::garbage(GarbageId { revision: Revision(9), ordinal });
    golden(&key(0), "67000000000000000900", &row(Condemned::Blobs(vec![blob(5, 300)])), "0107ac020001010305ac0205");
    golden(&key(0), "67000000000000000900", &row(Condemned::Upload(UploadId(2))), "0107ac020102");
    golden(&key(1), "67000000000000000901", &row(Condemned::Unnamed(UploadId(2))), "0107ac020202");
}
