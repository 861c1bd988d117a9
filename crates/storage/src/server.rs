//! Serves the slots of this node's drives.
//! Invariants: a drive that is closed, was refused or is not known answers [`Error::Drive`] by name; nothing is done
//! for a caller whose deadline has passed; what is read was verified on this node.

use crate::Error;
use crate::messages::{self, Append, CreateSlot, Fence, Listed, Page, Read, ReadReply, Reopen, decode_request, encode};
use bytes::Bytes;
use drive::{Drive, Slot};
use futures::FutureExt;
use protocol::layout::SlotAddress;
use protocol::{DriveId, Epoch};
use runtime::disk::{self, Disk};
use runtime::rpc::{Reply, Request, Rpc};
use runtime::task::{self, Task};
use runtime::time;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, RwLockReadGuard};
use std::time::Duration;

/// How often a drive's path is compared with what is open.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// The slots of this node's drives, served over RPC (service 1). Dropping it ends the watch over the drives' paths.
pub struct Server {
    drives: Arc<Drives>,
    _watch: Task<()>,
}

#[derive(Default)]
struct Drives(RwLock<BTreeMap<DriveId, Arc<Drive>>>);

/// State of one drive, for status pages and heartbeats.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct DriveStatus {
    pub drive: DriveId,
    pub label: String,
    /// Why it is closed, if it is.
    pub closed: Option<String>,
    pub slots: u64,
    pub shards: u64,
    /// Of shards, without headers.
    pub bytes: u64,
    /// Damaged ranges that recovery found, and slots that cannot be used.
    pub damage: u64,
}

impl Server {
    /// Recover the catalogs of `drives` (mounted by the caller, their identity checked) and register with `rpc`.
    /// A drive that fails is left out and reported.
    pub async fn open(rpc: &Rpc, drives: Vec<(DriveId, Arc<dyn Disk>)>) -> (Server, Vec<(DriveId, drive::Error)>) {
        let server = Server { drives: Arc::default(), _watch: task::spawn(std::future::ready(())) };
        let opened = futures::future::join_all(drives.into_iter().map(|(drive, disk)| {
            let adding = server.add_drive(drive, disk);
            async move { (drive, adding.await) }
        }))
        .await;
        let failed = opened.into_iter().filter_map(|(drive, outcome)| Some((drive, outcome.err()?))).collect();
        let served = server.drives.clone();
        rpc.register(
            messages::SERVICE,
            Arc::new(move |request| {
                let served = served.clone();
                async move { served.serve(request).await }.boxed()
            }),
        );
        let watch = task::spawn(watch(server.drives.clone()));
        (Server { drives: server.drives, _watch: watch }, failed)
    }

    /// Serve a drive, mounted by the caller, from now on: one that came back while the node runs. Replaces a drive of
    /// the same id, which is closed.
    pub async fn add_drive(&self, drive: DriveId, disk: Arc<dyn Disk>) -> Result<(), drive::Error> {
        let opening = disk.clone();
        let opened = disk::run(&disk, move || Drive::open(opening)).await?;
        let former = self.drives.write().insert(drive, Arc::new(opened));
        if let Some(former) = former {
            former.disk().close("another folder took its place");
        }
        Ok(())
    }

    /// All drives.
    pub fn status(&self) -> Vec<DriveStatus> {
        self.drives.status()
    }
}

/// Close drives whose path shows something else than what is open.
async fn watch(drives: Arc<Drives>) {
    loop {
        time::sleep(VERIFY_EVERY).await;
        let open: Vec<Arc<Drive>> = drives.read().values().filter(|drive| drive.disk().closed().is_none()).cloned().collect();
        for drive in open {
            let disk = drive.disk().clone();
            if let Err(error) = disk::run(drive.disk(), move || disk.verify()).await {
                tracing::error!(drive = drive.disk().label(), %error, "a drive was closed");
            }
        }
    }
}

impl Drives {
    async fn serve(&self, request: Request) -> Reply {
        let (meta, body) = match request.method {
            messages::CREATE_SLOT => (encode(&self.create_slot(&request).await), Bytes::new()),
            messages::APPEND => (encode(&self.append(&request).await), Bytes::new()),
            messages::READ => match self.read_blocks(&request).await {
                Ok((reply, body)) => (encode(&Ok::<_, Error>(reply)), body),
                Err(error) => (encode(&Err::<ReadReply, _>(error)), Bytes::new()),
            },
            messages::FENCE => (encode(&self.fence(&request).await), Bytes::new()),
            messages::REOPEN => (encode(&self.reopen(&request).await), Bytes::new()),
            messages::STATUS => (encode(&Ok::<_, Error>(self.status())), Bytes::new()),
            other => (encode(&Err::<(), _>(Error::Invalid { detail: format!("no method {:#06x}", other.0) })), Bytes::new()),
        };
        Reply { meta, body: if body.is_empty() { Vec::new() } else { vec![body] } }
    }

    async fn create_slot(&self, request: &Request) -> Result<(), Error> {
        let CreateSlot { drive, at, scheme } = decode_request(&request.meta)?;
        let drive = self.drive(drive)?;
        within(request, drive.create_slot(at, Epoch(request.epoch), scheme)).await
    }

    async fn append(&self, request: &Request) -> Result<(), Error> {
        let Append { drive, shard, header } = decode_request(&request.meta)?;
        let slot = self.slot(drive, shard.at)?;
        within(request, slot.append(shard.blob, Epoch(request.epoch), header, request.body.clone())).await
    }

    async fn read_blocks(&self, request: &Request) -> Result<(ReadReply, Bytes), Error> {
        let Read { drive, shard, first, count } = decode_request(&request.meta)?;
        let slot = self.slot(drive, shard.at)?;
        let drive::Blocks { header, checksums, bytes } = within(request, slot.read(shard.blob, first, count)).await?;
        Ok((ReadReply { header, checksums }, bytes))
    }

    async fn fence(&self, request: &Request) -> Result<Page, Error> {
        let Fence { drive, at, after } = decode_request(&request.meta)?;
        let slot = self.slot(drive, at)?;
        let epoch = Epoch(request.epoch);
        within(request, slot.fence(epoch)).await?;
        let page = within(request, slot.list(epoch, after)).await?;
        let shards = page.shards.into_iter().map(|(blob, header)| Listed { blob, header }).collect();
        Ok(Page { shards, intact: page.intact, next: page.next })
    }

    async fn reopen(&self, request: &Request) -> Result<(), Error> {
        let Reopen { drive, at } = decode_request(&request.meta)?;
        let slot = self.slot(drive, at)?;
        within(request, slot.reopen(Epoch(request.epoch))).await
    }

    fn status(&self) -> Vec<DriveStatus> {
        let state = |(&id, drive): (&DriveId, &Arc<Drive>)| {
            let usage = drive.usage();
            DriveStatus {
                drive: id,
                label: drive.disk().label().to_string(),
                closed: drive.disk().closed(),
                slots: usage.slots,
                shards: usage.shards,
                bytes: usage.bytes,
                damage: usage.damage,
            }
        };
        self.read().iter().map(state).collect()
    }

    fn slot(&self, drive: DriveId, at: SlotAddress) -> Result<Arc<Slot>, Error> {
        Ok(self.drive(drive)?.slot(at)?)
    }

    fn drive(&self, id: DriveId) -> Result<Arc<Drive>, Error> {
        let drive = self.read().get(&id).cloned();
        let drive = drive.ok_or_else(|| Error::Drive { detail: format!("drive {id} is not mounted here") })?;
        match drive.disk().closed() {
            None => Ok(drive),
            Some(reason) => Err(Error::Drive { detail: format!("{}: {reason}", drive.disk().label()) }),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<DriveId, Arc<Drive>>> {
        self.0.read().expect("nothing panics under this lock")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<DriveId, Arc<Drive>>> {
        self.0.write().expect("nothing panics under this lock")
    }
}

/// Do `work` until the request's deadline. What has begun may still be done after it: its outcome is unknown.
async fn within<T>(request: &Request, work: impl Future<Output = Result<T, drive::Refusal>>) -> Result<T, Error> {
    if request.deadline <= time::now() {
        return Err(Error::Busy);
    }
    match time::timeout_at(request.deadline, work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Error::Unknown { detail: "the drive did not answer before the deadline".to_string() }),
    }
}
