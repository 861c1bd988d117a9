//! The client over real partitions: one host over a real folder, three Raft groups of one replica each.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "a test")]

use consensus::{Bootstrap, GroupSpec, Host, HostDrive, ReplicaPlace, Settings};
use futures::FutureExt;
use futures::future::join_all;
use metadata::{BucketRef, Client, Deletion, Error, Etags, ListQuery, Listed, NamedPart, Part, Partition, Preconditions, UploadQuery};
use protocol::record::{Headers, run};
use protocol::{
    BlobId, BlobRef, Body, BucketId, ClusterId, DriveId, GroupId, Home, NodeId, Record, ReplicaId, Revision, VolumeId, WriterId,
};
use runtime::rpc::{Rpc, Secret};
use runtime::task::Task;
use runtime::time::{self, Instant};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

struct Node {
    host: Host,
    bucket: BucketRef,
    _listening: Task<()>,
    _folder: tempfile::TempDir,
}

fn soon() -> Instant {
    time::now() + Duration::from_secs(20)
}

async fn start() -> Node {
    let folder = tempfile::tempdir().unwrap();
    let rpc = Rpc::new(runtime::rpc::Settings {
        node: NodeId(1),
        cluster: ClusterId(1),
        secret: Secret(b"secret".as_slice().into()),
        listen: "127.0.0.1:0".parse().unwrap(),
        peers: BTreeMap::new(),
    });
    let listening = rpc.listen().await.unwrap();
    let voters = vec![ReplicaPlace { replica: ReplicaId(1), node: NodeId(1), drive: DriveId(1) }];
    let partitions: Vec<GroupId> = (1..=3).map(GroupId).collect();
    let groups = partitions.iter().map(|group| GroupSpec { group: *group, voters: voters.clone() }).collect();
    let disk = runtime::disk::open_folder(folder.path()).unwrap();
    let drives = vec![HostDrive { drive: DriveId(1), disk, bootstrap: Bootstrap::First }];
    let settings = Settings { tick: Duration::from_millis(20), ..Settings::default() };
    let (host, failed) = Host::open_with(settings, rpc, drives, groups, |_| Arc::new(Partition)).await;
    assert!(failed.is_empty(), "{failed:?}");
    Node { host, bucket: BucketRef { id: BucketId(7), partitions }, _listening: listening, _folder: folder }
}

fn record(etag: &str, body: Body) -> Record {
    let bytes = match &body {
        Body::Inline(inline) => inline.0.len() as u64,
        Body::Blobs(blobs) => blobs.iter().map(|blob| u64::from(blob.bytes)).sum(),
        Body::Parts { .. } => unreachable!("not in this test"),
    };
    Record {
        revision: Revision(0),
        null: false,
        bytes,
        etag: etag.into(),
        checksum: None,
        headers: Headers::default(),
        modified_ms: 5,
        tags: Vec::new(),
        body,
    }
}

fn inline() -> Body {
    Body::Inline(run::Bytes(b"bytes".as_slice().into()))
}

fn blob(writer: u64, counter: u64) -> BlobRef {
    BlobRef { volume: VolumeId(1), blob: BlobId { writer: WriterId(writer), counter }, bytes: 9, checksum: 1 }
}

#[test]
fn a_bucket_lives_and_dies_over_three_partitions() {
    runtime::process::block_on(async {
        let node = start().await;
        let (bucket, client) = (&node.bucket, Client::new(node.host.client(), WriterId(1)));
        let none = Preconditions::default;
        assert_eq!(client.put(bucket, "k", record("e", inline()), none(), soon()).await, Err(Error::NotOpen));
        client.open_bucket(bucket, 1, soon()).await.unwrap();

        // Many at once, through one session per partition.
        let keys: Vec<String> = (0..120).map(|number| format!("{}/{number:03}", number % 4)).collect();
        let puts = keys.iter().map(|key| client.put(bucket, key, record("e", inline()), none(), soon()));
        assert!(join_all(puts).await.into_iter().all(|put| put.is_ok_and(|applied| !applied.replaced)));
        let (found, seen) = client.get_seen(bucket, &keys[0], None, soon()).await.unwrap();
        assert!(found.version.is_some_and(|version| version.is_null() && version.revision() <= seen) && !found.versioned);

        let mut sorted = keys.clone();
        sorted.sort();
        let page = client.list(bucket, ListQuery { max: 1000, ..ListQuery::default() }, soon()).await.unwrap();
        let listed: Vec<String> = page
            .entries
            .iter()
            .map(|line| match line {
                Listed::Object { key, .. } => key.clone(),
                Listed::Prefix(prefix) => panic!("{prefix}"),
            })
            .collect();
        assert_eq!((listed, page.truncated), (sorted, false));
        let query = ListQuery { delimiter: Some("/".into()), max: 3, ..ListQuery::default() };
        let page = client.list(bucket, query, soon()).await.unwrap();
        assert_eq!((page.entries, page.truncated), (["0/", "1/", "2/"].map(|prefix| Listed::Prefix(prefix.into())).to_vec(), true));

        // Two writers, one of them wins.
        let other = Client::new(node.host.client(), WriterId(2));
        let absent = || Preconditions { if_none_match: Some(Etags::Any), ..none() };
        let races = [&client, &other].map(|client| client.put(bucket, "race", record("r", inline()), absent(), soon()));
        let won = join_all(races).await.into_iter().filter(|put| put.is_ok()).count();
        assert_eq!(won, 1);

        // Refusals too are witnesses of the order.
        let made = client.put_seen(bucket, "race", record("s", inline()), none(), soon()).await;
        assert_eq!(made.revision, Some(made.result.unwrap().revision));
        let refused = other.put_seen(bucket, "race", record("t", inline()), absent(), soon()).await;
        assert_eq!(refused.result, Err(Error::Precondition));
        assert!(refused.revision >= made.revision);

        // Callers that go away leave no gap that would stop the others.
        for _ in 0..20 {
            let _ = client.put(bucket, "abandoned", record("a", inline()), none(), soon()).now_or_never();
        }
        client.put(bucket, "abandoned", record("last", inline()), none(), soon()).await.unwrap();
        time::sleep(Duration::from_millis(200)).await;
        assert_eq!(client.get(bucket, "abandoned", soon()).await.unwrap().unwrap().etag, "last", "a late one is never applied after it");

        assert!(!client.close_bucket(bucket, 2, soon()).await.unwrap());
        assert_eq!(client.delete(bucket, "race", Deletion::default(), soon()).await, Err(Error::Closed));
        client.open_bucket(bucket, 2, soon()).await.unwrap();
        let deletes =
            keys.iter().map(String::as_str).chain(["race", "abandoned"]).map(|key| client.delete(bucket, key, Deletion::default(), soon()));
        assert!(join_all(deletes).await.into_iter().all(|delete| delete.is_ok_and(|applied| applied.replaced)));
        assert!(client.close_bucket(bucket, 3, soon()).await.unwrap());
        client.remove_bucket(bucket, 3, soon()).await.unwrap();
        assert_eq!(client.get(bucket, "race", soon()).await, Err(Error::NotOpen));
        assert_eq!(client.open_bucket(bucket, 9, soon()).await, Err(Error::StaleAttempt));
    });
}

#[test]
fn an_upload_is_completed_settled_deleted_and_collected() {
    runtime::process::block_on(async {
        let node = start().await;
        let (bucket, client) = (&node.bucket, Client::new(node.host.client(), WriterId(1)));
        client.open_bucket(bucket, 1, soon()).await.unwrap();
        let upload = client.create_upload(bucket, "k", Headers::default(), Vec::new(), None, 1, soon()).await.unwrap();
        let second = client.create_upload(bucket, "other", Headers::default(), Vec::new(), None, 1, soon()).await.unwrap();
        assert_ne!(upload, second, "also in different partitions");
        let etag = "0123456789abcdef0123456789abcdef";
        let part = |number: u16| Part {
            number,
            bytes: 9,
            etag: etag.into(),
            checksum: None,
            modified_ms: 1,
            body: Body::Blobs(vec![blob(1, number.into())]),
        };
        for number in 1..=5 {
            client.put_part(bucket, "k", upload, part(number), soon()).await.unwrap();
        }
        let (_, parts, more) = client.list_parts(bucket, "k", upload, 2, 2, soon()).await.unwrap();
        assert_eq!((parts, more), (vec![part(3), part(4)], true));
        let page = client.list_uploads(bucket, UploadQuery { max: 10, ..UploadQuery::default() }, soon()).await.unwrap();
        assert_eq!(page.uploads.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(), ["k", "other"]);

        let named = || vec![NamedPart { number: 5, etag: etag.into(), checksum: None }];
        let complete = || client.complete_upload(bucket, "k", upload, named(), Preconditions::default(), None, 3, soon());
        let record = complete().await.unwrap();
        assert_eq!(complete().await.unwrap(), record);
        assert_eq!(client.get(bucket, "k", soon()).await.unwrap(), Some(record.record));
        assert_eq!(client.completed_parts(bucket, "k", upload, 1, 10, soon()).await.unwrap(), [part(5)]);

        let home = Home::of(bucket.id, "k");
        let group = bucket.partitions[usize::try_from(home.key_hash % 3).unwrap()];
        let wrong = bucket.partitions[usize::try_from((home.key_hash + 1) % 3).unwrap()];
        let asked = vec![(home, blob(1, 5).blob), (home, blob(1, 6).blob)];
        assert_eq!(client.settle(wrong, WriterId(1), 6, asked.clone(), soon()).await, Err(Error::NotOpen));
        assert_eq!(client.settle(group, WriterId(1), 6, asked, soon()).await, Ok(vec![blob(1, 5).blob]));
        let late = client.put(bucket, "k", record_of(6), Preconditions::default(), soon()).await;
        assert_eq!(late, Err(Error::Settled));

        client.delete(bucket, "k", Deletion::default(), soon()).await.unwrap();
        let mut collected = Vec::new();
        for step in client.garbage(group, None, 10, soon()).await.unwrap() {
            collected.extend(step.blobs.iter().map(|blob| blob.blob.counter));
            assert!(client.collect(group, step.id, step.through, soon()).await.unwrap());
        }
        collected.sort_unstable();
        collected.dedup();
        assert_eq!(collected, [1, 2, 3, 4, 5]);
        assert!(client.garbage(group, None, 10, soon()).await.unwrap().is_empty());
        assert_eq!(client.named(group, (1..=6).map(|counter| blob(1, counter).blob).collect(), soon()).await, Ok(vec![]));
        let usage = client.usage(group, bucket.id, soon()).await.unwrap().unwrap();
        assert_eq!((usage.open, usage.objects, usage.bytes), (true, 0, 0));
    });
}

fn record_of(counter: u64) -> Record {
    record("e", Body::Blobs(vec![blob(1, counter)]))
}
