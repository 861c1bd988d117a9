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
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// How often a drive's path is compared with what is open.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// The slots of this node's drives, served over RPC (service 1). Dropping it ends the watch over the drives' paths.
pub struct Server {
    drives: Arc<Drives>,
    _watch: Task<()>,
}

#[derive(Default)]
struct Drives(RwLock<BTreeMap<DriveId, Known>>);

#[derive(Clone)]
enum Known {
    Open(Arc<Drive>),
    /// Refused, or closed: nothing of it is held any more, so that its folder can be opened again.
    Gone {
        label: String,
        reason: String,
    },
}

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
            let (server, label) = (&server, disk.label().to_string());
            async move { (drive, label, server.add_drive(drive, disk).await) }
        }))
        .await;
        let mut failed = Vec::new();
        for (drive, label, outcome) in opened {
            if let Err(error) = outcome {
                server.refuse_drive(drive, label, error.to_string());
                failed.push((drive, error));
            }
        }
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
    /// the same id, which is closed. The same folder can be opened again only when the last request that used it has
    /// ended, shortly after [`Server::status`] shows it closed with no slots: try again until then.
    pub async fn add_drive(&self, drive: DriveId, disk: Arc<dyn Disk>) -> Result<(), drive::Error> {
        let opening = disk.clone();
        let opened = disk::run(&disk, move || Drive::open(opening)).await?;
        let former = self.drives.write().insert(drive, Known::Open(Arc::new(opened)));
        if let Some(Known::Open(former)) = former {
            former.disk().close("another folder took its place");
        }
        Ok(())
    }

    /// A drive that should be here was refused: whoever asks for it is told so, with its name and the reason.
    pub fn refuse_drive(&self, drive: DriveId, label: String, reason: String) {
        let former = self.drives.write().insert(drive, Known::Gone { label, reason });
        if let Some(Known::Open(former)) = former {
            former.disk().close("it was refused");
        }
    }

    /// Bytes that appends and reads under way hold of the room for them, on all drives that are open.
    pub fn held_bytes(&self) -> usize {
        self.drives.open().iter().map(|(_, drive)| drive.held_bytes()).sum()
    }

    /// All drives.
    pub fn status(&self) -> Vec<DriveStatus> {
        self.drives.status()
    }
}

/// Close drives whose path shows something else than what is open, and let go of drives that are closed.
async fn watch(drives: Arc<Drives>) {
    loop {
        time::sleep(VERIFY_EVERY).await;
        for (id, drive) in drives.open() {
            let disk = drive.disk().clone();
            if disk.closed().is_none() {
                // Its outcome shows in `closed`.
                let _ = disk::run(drive.disk(), move || disk.verify()).await;
            }
            drives.let_go_if_closed(id, &drive);
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
        let state = |(&drive, known): (&DriveId, &Known)| match known {
            Known::Open(open) => {
                let drive::DriveUsage { slots, shards, bytes, damage } = open.usage();
                let (label, closed) = (open.disk().label().to_string(), open.disk().closed());
                DriveStatus { drive, label, closed, slots, shards, bytes, damage }
            }
            Known::Gone { label, reason } => {
                let (label, closed) = (label.clone(), Some(reason.clone()));
                DriveStatus { drive, label, closed, slots: 0, shards: 0, bytes: 0, damage: 0 }
            }
        };
        self.read().iter().map(state).collect()
    }

    fn open(&self) -> Vec<(DriveId, Arc<Drive>)> {
        let open = |(&id, known): (&DriveId, &Known)| match known {
            Known::Open(drive) => Some((id, drive.clone())),
            Known::Gone { .. } => None,
        };
        self.read().iter().filter_map(open).collect()
    }

    /// Its files and its lock are released with the last request that still uses it.
    fn let_go_if_closed(&self, id: DriveId, drive: &Arc<Drive>) {
        let Some(reason) = drive.disk().closed() else { return };
        let label = drive.disk().label().to_string();
        let mut drives = self.write();
        if drives.get(&id).is_some_and(|known| matches!(known, Known::Open(present) if Arc::ptr_eq(present, drive))) {
            tracing::error!(drive = label, reason, "a drive was closed");
            drives.insert(id, Known::Gone { label, reason });
        }
    }

    fn slot(&self, drive: DriveId, at: SlotAddress) -> Result<Arc<Slot>, Error> {
        Ok(self.drive(drive)?.slot(at)?)
    }

    fn drive(&self, id: DriveId) -> Result<Arc<Drive>, Error> {
        let gone = |label: &str, reason: &str| Err(Error::Drive { detail: format!("{label}: {reason}") });
        match self.read().get(&id) {
            Some(Known::Open(drive)) => match drive.disk().closed() {
                None => Ok(drive.clone()),
                Some(reason) => gone(drive.disk().label(), &reason),
            },
            Some(Known::Gone { label, reason }) => gone(label, reason),
            None => Err(Error::Drive { detail: format!("drive {id} is not mounted here") }),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<DriveId, Known>> {
        self.0.read().expect("nothing panics under this lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<DriveId, Known>> {
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
