//! The encoding: what it looks like, and what it does with bytes that nobody encoded.
#![allow(clippy::unwrap_used, reason = "a test")]

use protocol::record::{Body, Headers, Record};
use protocol::wire::{Error, decode, encode};
use protocol::{BlobId, BlobRef, BucketId, Checksum, ChecksumKind, Home, Revision, Scheme, VolumeId, WriterId};
use quickcheck::quickcheck;

fn record() -> Record {
    let blob = BlobId { writer: WriterId(7), counter: 300 };
    Record {
        revision: Revision(1),
        null: true,
        bytes: 5,
        etag: "ab".to_string(),
        checksum: Some(Checksum { kind: ChecksumKind::Crc32C, value: vec![1, 2, 3, 4], composite: false }),
        headers: Headers { content_type: Some("x".to_string()), user: vec![("k".to_string(), "v".to_string())], ..Headers::default() },
        modified_ms: 1000,
        tags: vec![("a".to_string(), "1".to_string()), ("b".to_string(), String::new())],
        body: Body::Blobs(vec![BlobRef { volume: VolumeId(2), blob, bytes: 5, checksum: 9 }]),
    }
}

#[test]
fn a_record_looks_like_this() {
    let expected = [
        1, // format version
        1, 1, 5, 2, b'a', b'b', // revision, null, bytes, etag
        1, 1, 4, 1, 2, 3, 4, 0, // checksum: there, CRC32C, value, not composite
        1, 1, b'x', 0, 0, 0, 0, 0, 1, 1, b'k', 1, b'v', // headers
        0xe8, 0x07, // modified_ms
        2, 1, b'a', 1, b'1', 1, b'b', 0, // tags
        1, 1, 2, 7, 0xac, 0x02, 5, 9, // body: blobs, one, volume, writer, counter, bytes, checksum
    ];
    assert_eq!(encode(&record()), expected);
    assert_eq!(decode::<Record>(&expected).unwrap(), record());
}

#[test]
fn version_and_trailing_bytes_are_refused() {
    let mut encoded = encode(&record());
    encoded.push(0);
    assert!(matches!(decode::<Record>(&encoded), Err(Error::Trailing(1))));
    encoded[0] = 2;
    assert!(matches!(decode::<Record>(&encoded), Err(Error::Version { got: 2 })));
    assert!(matches!(decode::<Record>(&[]), Err(Error::Empty)));
}

#[test]
fn the_key_hash_never_changes() {
    assert_eq!(Home::of(BucketId(1), "a").key_hash, Home::of(BucketId(1), "a").key_hash);
    assert_ne!(Home::of(BucketId(1), "a").key_hash, Home::of(BucketId(2), "a").key_hash);
    // CRC-64/NVME over eight bytes of bucket and the key; computed bit by bit here.
    let mut crc = u64::MAX;
    for byte in 5u64.to_be_bytes().into_iter().chain(*b"photos/1") {
        crc ^= u64::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x9a6c_9329_ac4b_c9b5 } else { crc >> 1 };
        }
    }
    assert_eq!(Home::of(BucketId(5), "photos/1").key_hash, !crc);
}

#[test]
fn schemes_read_as_they_are_written() {
    for text in ["rs(4,2)", "rs(1,31)", "replicas(3)"] {
        assert_eq!(text.parse::<Scheme>().unwrap().to_string(), text);
    }
    assert_eq!(" rs( 4 , 2 ) ".parse::<Scheme>().unwrap(), Scheme::ReedSolomon { k: 4, m: 2 });
    for text in ["rs(4)", "rs(0,2)", "rs(4,0)", "rs(30,3)", "replicas(0)", "replicas(33)", "raid", "rs(4,2", ""] {
        assert!(text.parse::<Scheme>().is_err(), "{text}");
    }
}

quickcheck! {
    fn bytes_that_nobody_encoded_never_panic(bytes: Vec<u8>) -> bool {
        let _ = decode::<Record>(&bytes);
        let mut versioned = vec![1];
        versioned.extend(bytes);
        let _ = decode::<Record>(&versioned);
        true
    }

    fn a_damaged_record_never_panics(at: usize, with: u8) -> bool {
        let mut encoded = encode(&record());
        let at = at % encoded.len();
        encoded[at] = with;
        let _ = decode::<Record>(&encoded);
        let _ = decode::<Record>(&encoded[..at]);
        true
    }
}
