//! A whole cluster in this process: one node with six folders, every service, and the operations of S3 on top.
#![allow(dead_code, reason = "not every test needs all of it")]

use bytes::Bytes;
use futures::{Stream, StreamExt};
use gateway::secret_keys::SecretKeys;
use gateway::{Operations, Settings};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use placement::{Bootstrap, DriveHealth, Heartbeat};
use protocol::{ClusterId, ClusterMap, Drive, DriveId, DriveState, GroupId, Node, NodeId, ROOT, Scheme};
use runtime::rpc::{Rpc, Secret};
use runtime::task::Task;
use runtime::time::{now, sleep};
use s3s::dto::*;
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3, S3Request, S3Result, StdError};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId(77);
const NODE: NodeId = NodeId(1);
const DRIVES: u16 = 6;
/// Blobs are small here, so that small bodies have several.
pub const BLOB_BYTES: usize = 1 << 20;
pub const INLINE_BYTES: usize = 8 << 10;

pub struct Cluster {
    pub operations: Operations,
    pub placement: placement::Client,
    pub metadata: metadata::Client,
    pub server: Arc<storage::Server>,
    folders: Vec<TempDir>,
    /// Ends before the folders go.
    _running: (placement::Service, Vec<Task<()>>),
}

/// What its gateways derive secret keys from.
pub fn secret_keys() -> SecretKeys {
    SecretKeys::new(&Secret(b"secret".as_slice().into()), CLUSTER)
}

impl Cluster {
    /// Six folders, formatted, with all that lives on them; ready when a bucket can be listed.
    pub async fn start() -> Cluster {
        let folders: Vec<TempDir> = (0..DRIVES).map(|_| TempDir::new().unwrap()).collect();
        let rpc = Rpc::new(runtime::rpc::Settings {
            node: NODE,
            cluster: CLUSTER,
            secret: Secret(b"secret".as_slice().into()),
            listen: "127.0.0.1:0".parse().unwrap(),
            peers: BTreeMap::new(),
        });
        let listening = rpc.listen().await.unwrap();
        let mut disks = Vec::new();
        let mut drives = Vec::new();
        for (ordinal, folder) in (0..DRIVES).zip(&folders) {
            let id = DriveId::at_bootstrap(NODE, ordinal);
            let disk = runtime::disk::open_folder(folder.path()).unwrap();
            drive::format(&disk, CLUSTER, id).unwrap();
            drive::mount(&disk, CLUSTER, id).unwrap();
            drives.push(Drive { id, state: DriveState::In, weight: 100, label: folder.path().display().to_string() });
            disks.push((id, disk));
        }
        let node = Node { id: NODE, zone: "a".into(), rack: "1".into(), address: rpc.address().unwrap(), drives };
        let map = ClusterMap { cluster: CLUSTER, version: 1, nodes: vec![node] };
        let partitions: Vec<GroupId> = (1..=3).map(GroupId).collect();
        let mut groups = vec![ROOT];
        groups.extend(&partitions);
        let specs = placement::place_replicas(&map, &groups);
        let (server, failed) = storage::Server::open(&rpc, disks.clone()).await;
        assert!(failed.is_empty(), "{failed:?}");
        let server = Arc::new(server);
        let host_drives = disks
            .iter()
            .map(|(drive, disk)| consensus::HostDrive { drive: *drive, disk: disk.clone(), bootstrap: consensus::Bootstrap::First })
            .collect();
        let settings = consensus::Settings { tick: Duration::from_millis(20), ..consensus::Settings::default() };
        let changes = placement::Changes::default();
        let fed = changes.clone();
        let (host, failed) = consensus::Host::open_with(settings, rpc.clone(), host_drives, specs.clone(), move |group| {
            if group == ROOT { fed.fed_by(Arc::new(placement::Root)) } else { Arc::new(metadata::Partition) }
        })
        .await;
        assert!(failed.is_empty(), "{failed:?}");
        let groups = consensus::Client::new(rpc.clone(), specs);
        let bootstrap =
            Bootstrap { map, partitions, scheme: Scheme::ReedSolomon { k: 4, m: 2 }, best_effort: true, region: "us-east-1".into() };
        let service = placement::Service::start(rpc.clone(), Arc::new(host), bootstrap, changes);
        let placement = placement::Client::new(rpc.clone(), groups.clone());
        let pulse = server.clone();
        let heart = placement.heartbeat(move || Heartbeat {
            node: NODE,
            incarnation: 1,
            drives: pulse
                .status()
                .into_iter()
                .map(|drive| DriveHealth {
                    drive: drive.drive,
                    closed: drive.closed,
                    without_replicas: false,
                    free_bytes: 1 << 40,
                    total_bytes: 1 << 40,
                })
                .collect(),
            clock_ms: 0,
            to_be_replaced: Vec::new(),
            refounded: Vec::new(),
        });
        let writer = placement.open_writer(now() + Duration::from_secs(20)).await.unwrap();
        let asked = placement.clone();
        let clients = gateway::Cluster {
            metadata: metadata::Client::new(groups, writer),
            storage: storage::Client::new(rpc.clone()),
            placement,
            writer,
            secret_keys: secret_keys(),
        };
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            region: "us-east-1".into(),
            access_key: "key".into(),
            secret_key: Secret(b"secret".as_slice().into()),
            presigned_v2: true,
            bytes_max: 64 << 20,
            domains: Vec::new(),
            inline_bytes_max: INLINE_BYTES,
            blob_bytes: BLOB_BYTES,
            day_ms: protocol::lifecycle::DAY_MS,
        };
        let metadata = clients.metadata.clone();
        let operations = Operations::new(settings, clients);
        Cluster { operations, placement: asked, metadata, server, folders, _running: (service, vec![listening, heart]) }
    }

    pub fn folder(&self, ordinal: usize) -> &Path {
        self.folders[ordinal].path()
    }

    /// Remove a folder under the running node, and wait until the node has noticed.
    pub async fn lose_folder(&self, ordinal: usize) {
        std::fs::remove_dir_all(self.folder(ordinal)).unwrap();
        let drive = DriveId::at_bootstrap(NODE, ordinal as u16);
        for _ in 0..100 {
            if self.server.status().iter().any(|status| status.drive == drive && status.closed.is_some()) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("the node did not notice that {} is gone", self.folder(ordinal).display());
    }

    /// Files of slots in a folder.
    pub fn slot_files(&self, ordinal: usize) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder(ordinal).join("slots")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    pub async fn create_bucket(&self, bucket: &str) -> S3Result<()> {
        let input = CreateBucketInput { bucket: bucket.into(), ..CreateBucketInput::default() };
        self.operations.create_bucket(request(input)).await.map(|_| ())
    }

    pub async fn delete_bucket(&self, bucket: &str) -> S3Result<()> {
        let input = DeleteBucketInput { bucket: bucket.into(), ..DeleteBucketInput::default() };
        self.operations.delete_bucket(request(input)).await.map(|_| ())
    }

    pub async fn put(&self, bucket: &str, key: &str, body: &[u8]) -> S3Result<PutObjectOutput> {
        self.put_with(bucket, key, body, &[]).await
    }

    pub async fn put_with(&self, bucket: &str, key: &str, body: &[u8], headers: &[(&str, &str)]) -> S3Result<PutObjectOutput> {
        let input = PutObjectInput {
            bucket: bucket.into(),
            key: key.into(),
            content_length: Some(body.len() as i64),
            body: Some(sent(body)),
            ..PutObjectInput::default()
        };
        Ok(self.operations.put_object(with_headers(input, headers)).await?.output)
    }

    pub async fn get(&self, bucket: &str, key: &str) -> S3Result<Vec<u8>> {
        self.get_range(bucket, key, None).await
    }

    pub async fn get_range(&self, bucket: &str, key: &str, range: Option<Range>) -> S3Result<Vec<u8>> {
        let input = GetObjectInput { bucket: bucket.into(), key: key.into(), range, ..GetObjectInput::default() };
        let output = self.operations.get_object(request(input)).await?.output;
        let length = output.content_length.unwrap();
        let body = received(output.body.unwrap()).await.expect("the body comes whole");
        assert_eq!(body.len() as i64, length);
        Ok(body)
    }

    pub async fn list(&self, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
        Ok(self.operations.list_objects_v2(request(input)).await?.output)
    }
}

pub fn request<T>(input: T) -> S3Request<T> {
    with_headers(input, &[])
}

pub fn with_headers<T>(input: T, headers: &[(&str, &str)]) -> S3Request<T> {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::try_from(*value).unwrap()))
        .collect();
    S3Request {
        input,
        method: Method::GET,
        uri: "/".parse().unwrap(),
        headers,
        extensions: http::Extensions::new(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

/// A body that comes in uneven pieces.
pub fn sent(body: &[u8]) -> StreamingBlob {
    StreamingBlob::new(Uneven(body.chunks(100_003).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect()))
}

/// A body that breaks off after `bytes`.
pub fn broken(body: &[u8], bytes: usize) -> StreamingBlob {
    let mut pieces: VecDeque<Result<Bytes, StdError>> =
        body[..bytes].chunks(50_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    pieces.push_back(Err("connection reset".into()));
    StreamingBlob::new(Uneven(pieces))
}

pub async fn received(mut body: StreamingBlob) -> Result<Vec<u8>, StdError> {
    let mut all = Vec::new();
    while let Some(piece) = body.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

/// Bytes that do not compress or repeat.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

struct Uneven(VecDeque<Result<Bytes, StdError>>);

impl Stream for Uneven {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.pop_front())
    }
}

impl ByteStream for Uneven {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::unknown()
    }
}
