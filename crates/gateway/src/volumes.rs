//! The volumes that this gateway writes to at present: a few open ones, obtained from the root group, their slots created here
//! when they are new.
//!
//! Invariant: a volume is handed out only after every one of its slots was created durably. A layout kept here may be stale:
//! the slots' epochs fence it. One that is heard to have been sealed is let go of.

use crate::Cluster;
use crate::suspects::{SUSPICION, Suspects};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use protocol::layout::SlotAddress;
use protocol::{DriveId, Epoch, SlotIndex, SlotPlace, Volume, VolumeId, VolumeState};
use runtime::probe::waypoint;
use runtime::task::Task;
use runtime::time::Instant;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Volumes kept open at a time.
const OPEN: usize = 2;
/// A layout is fetched again after this long.
const FRESH: Duration = Duration::from_secs(30);
/// How long one answer of the root counts for "blobs can be placed", and for "no volume avoids the suspects".
const ANSWER_COUNTS: Duration = Duration::from_secs(1);
/// The longest wait for the slots of one new volume: a silent node must not use up a PUT's whole patience.
const BUILD_WAIT: Duration = Duration::from_millis(1200);
/// New volumes tried in one go.
const BUILDS_MAX: usize = 3;
/// Interval between attempts to have another volume open.
const SPREAD_EVERY: Duration = Duration::from_secs(5);

/// The volumes.
pub struct Volumes {
    cluster: Cluster,
    suspects: Arc<Suspects>,
    state: Mutex<State>,
    /// Held while the root is asked: one question at a time.
    asking: runtime::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    open: Vec<Open>,
    /// Rises with each choice, so that blobs are spread.
    turn: usize,
    /// Until then the root's answer counts that no volume avoids the suspects.
    unavoidable_until: Option<Instant>,
    writable_until: Option<Instant>,
    spread_at: Option<Instant>,
    spreading: Option<Task<()>>,
}

struct Open {
    volume: Arc<Volume>,
    since: Instant,
}

/// What the caller has tried and will not have again.
#[derive(Clone, Default, Debug)]
pub struct Failed {
    pub drives: Vec<DriveId>,
    pub volumes: Vec<(VolumeId, Epoch)>,
}

/// Why there is no volume.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// What the root says is missing, for people.
    #[error("no volume of {scheme} can be placed: {missing}")]
    CannotPlace { scheme: protocol::Scheme, missing: String },
    /// Slots of every new volume that was tried could not be created.
    #[error("no new volume could be built: {0}")]
    Build(String),
    #[error("the volume changes at this moment")]
    Changing,
    #[error(transparent)]
    Placement(placement::Error),
}

impl From<placement::Error> for Error {
    fn from(error: placement::Error) -> Error {
        match error {
            placement::Error::CannotPlace { scheme, missing } => Error::CannotPlace { scheme, missing },
            other => Error::Placement(other),
        }
    }
}

impl Volumes {
    pub fn new(cluster: Cluster, suspects: Arc<Suspects>) -> Arc<Volumes> {
        Arc::new(Volumes { cluster, suspects, state: Mutex::default(), asking: runtime::sync::Mutex::new(()) })
    }

    /// An open volume with nothing of `failed`, and without suspects if there is one.
    pub async fn pick(self: &Arc<Self>, failed: &Failed, deadline: Instant) -> Result<Arc<Volume>, Error> {
        if let Some(volume) = self.choose(failed, true) {
            self.spread();
            return Ok(volume);
        }
        let busy = |_| Error::Placement(placement::Error::Busy);
        let _asking = runtime::time::timeout_at(deadline, self.asking.lock()).await.map_err(busy)?;
        // Another blob may have asked meanwhile.
        if let Some(volume) = self.choose(failed, true) {
            return Ok(volume);
        }
        let suspected = self.suspected_drives(deadline).await;
        let unavoidable = self.state().unavoidable_until.is_some_and(|until| until > runtime::time::now());
        if !suspected.is_empty() && !unavoidable {
            let mut avoid = suspected;
            avoid.extend(&failed.drives);
            match self.obtain(&avoid, failed, deadline).await {
                Err(Error::CannotPlace { .. }) => self.state().unavoidable_until = Some(runtime::time::now() + ANSWER_COUNTS),
                other => return other,
            }
        }
        if let Some(volume) = self.choose(failed, false) {
            return Ok(volume);
        }
        self.obtain(&failed.drives, failed, deadline).await
    }

    /// Whether blobs can be placed, by an answer of the root at most about a second old: objects that lie inline must not
    /// promise what the class cannot hold.
    pub async fn writable(self: &Arc<Self>, deadline: Instant) -> Result<(), Error> {
        let counts = |state: &State| state.writable_until.is_some_and(|until| until > runtime::time::now());
        if counts(&self.state()) {
            return Ok(());
        }
        let busy = |_| Error::Placement(placement::Error::Busy);
        let _asking = runtime::time::timeout_at(deadline, self.asking.lock()).await.map_err(busy)?;
        if counts(&self.state()) {
            return Ok(());
        }
        self.obtain(&[], &Failed::default(), deadline).await?;
        self.state().writable_until = Some(runtime::time::now() + ANSWER_COUNTS);
        Ok(())
    }

    /// The volume refused a shard as sealed, full or under another epoch: ask for its layout again before using it.
    pub fn forget(&self, volume: VolumeId) {
        let mut state = self.state();
        state.open.retain(|open| open.volume.id != volume);
        state.writable_until = None;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }

    /// One of the open volumes, in turn.
    fn choose(&self, failed: &Failed, avoid_suspects: bool) -> Option<Arc<Volume>> {
        let now = runtime::time::now();
        let mut state = self.state();
        let placement = &self.cluster.placement;
        state.open.retain(|open| open.since + FRESH > now && !placement.is_outdated(&open.volume));
        state.turn = state.turn.wrapping_add(1);
        let fits = |volume: &Volume| {
            let drive_fits =
                |place: &SlotPlace| !failed.drives.contains(&place.drive) && (!avoid_suspects || !self.suspects.suspected(*place));
            !failed.volumes.contains(&(volume.id, volume.epoch)) && volume.slots.iter().all(drive_fits)
        };
        let fit: Vec<&Open> = state.open.iter().filter(|open| fits(&open.volume)).collect();
        let chosen = fit.get(state.turn % fit.len().max(1))?;
        Some(chosen.volume.clone())
    }

    /// All drives that are suspected, those of suspected nodes included.
    async fn suspected_drives(&self, deadline: Instant) -> Vec<DriveId> {
        let (mut drives, nodes) = self.suspects.present();
        if !nodes.is_empty()
            && let Ok(map) = self.cluster.placement.map(deadline).await
        {
            drives.extend(nodes.iter().filter_map(|node| map.node(*node)).flat_map(|node| node.drives.iter().map(|drive| drive.id)));
        }
        drives.sort_unstable();
        drives.dedup();
        drives
    }

    /// Ask the root for a volume that avoids these drives; build it if it is new.
    async fn obtain(&self, avoid: &[DriveId], failed: &Failed, deadline: Instant) -> Result<Arc<Volume>, Error> {
        let mut avoid = avoid.to_vec();
        let mut problem = Error::Changing;
        for _ in 0..BUILDS_MAX {
            let mut volume = self.cluster.placement.volume_for_writing(&avoid, deadline).await?;
            if failed.volumes.contains(&(volume.id, volume.epoch)) {
                volume = self.cluster.placement.refresh_volume(volume.id, deadline).await?;
            }
            match volume.state {
                VolumeState::Open if !failed.volumes.contains(&(volume.id, volume.epoch)) => {
                    self.keep(volume.clone());
                    return Ok(volume);
                }
                VolumeState::Open | VolumeState::Sealed => return Err(Error::Changing),
                VolumeState::Building => match self.build(&volume, deadline).await {
                    Ok(volume) => {
                        self.keep(volume.clone());
                        return Ok(volume);
                    }
                    Err((broken, error)) => {
                        runtime::probe!("volume-build-failed");
                        avoid.extend(broken);
                        problem = error;
                    }
                },
            }
            if runtime::time::now() >= deadline {
                break;
            }
        }
        Err(problem)
    }

    fn keep(&self, volume: Arc<Volume>) {
        let mut state = self.state();
        let now = runtime::time::now();
        state.open.retain(|open| open.volume.id != volume.id);
        state.open.push(Open { volume, since: now });
        if state.open.len() > OPEN {
            state.open.remove(0);
        }
    }

    /// Create every slot of a new volume, then tell the root that it may open. Fails with the drives that would not.
    async fn build(&self, volume: &Volume, deadline: Instant) -> Result<Arc<Volume>, (Vec<DriveId>, Error)> {
        waypoint("gateway-volume-before-slots").await;
        let wait = deadline.min(runtime::time::now() + BUILD_WAIT);
        let mut creating: FuturesUnordered<_> =
            volume.slots.iter().enumerate().map(|(index, place)| self.create_slot(volume, index, *place, wait)).collect();
        let mut broken = Vec::new();
        let mut reasons = Vec::new();
        while let Some((index, place, result)) = creating.next().await {
            if let Err(error) = result {
                tracing::warn!(volume = %volume.id, slot = index, node = %place.node, drive = %place.drive, %error, "slot not created");
                self.blame(volume.id, index, place, &error);
                broken.push(place.drive);
                reasons.push(format!("drive {} of node {}: {error}", place.drive, place.node));
            }
        }
        if !broken.is_empty() {
            return Err((broken, Error::Build(reasons.join("; "))));
        }
        waypoint("gateway-volume-before-opening").await;
        self.cluster.placement.volume_built(volume.id, deadline).await.map_err(|error| (Vec::new(), error.into()))
    }

    async fn create_slot(
        &self,
        volume: &Volume,
        index: usize,
        place: SlotPlace,
        deadline: Instant,
    ) -> (usize, SlotPlace, Result<(), storage::Error>) {
        let at = SlotAddress { volume: volume.id, generation: volume.generation, slot: slot_index(index) };
        let creating = self.cluster.storage.create_slot(place, at, volume.epoch, volume.scheme, deadline);
        let result = match runtime::time::timeout_at(deadline, creating).await {
            Ok(result) => result,
            Err(_) => Err(storage::Error::Unknown { detail: "no answer in time".into() }),
        };
        (index, place, result)
    }

    /// A slot failed a write: suspect it, and tell the root what it must know.
    pub fn blame(&self, volume: VolumeId, index: usize, place: SlotPlace, error: &storage::Error) {
        use storage::Error::*;
        match error {
            Unreachable { .. } => {
                self.suspects.suspect_node(place.node, SUSPICION);
                self.cluster.placement.report_unreachable(place.node);
                self.state().writable_until = None;
            }
            Unknown { .. } => self.suspects.suspect_drive(place.drive, SUSPICION),
            Busy => self.suspects.suspect_drive(place.drive, Duration::from_secs(1)),
            Drive { .. } => {
                self.suspects.suspect_drive(place.drive, SUSPICION);
                self.cluster.placement.report_slot(volume, slot_index(index), "drive unavailable");
                self.forget(volume);
            }
            Sealed { .. } | Full => {
                self.cluster.placement.report_slot(volume, slot_index(index), if matches!(error, Full) { "full" } else { "sealed" });
                self.forget(volume);
            }
            NotFound | Corrupt { .. } => {
                self.cluster.placement.report_slot(volume, slot_index(index), "slot missing or damaged");
                self.forget(volume);
            }
            StaleEpoch { .. } | Invalid { .. } => self.forget(volume),
        }
    }

    /// Have another volume open besides, now and then, without anybody waiting for it.
    fn spread(self: &Arc<Self>) {
        let now = runtime::time::now();
        let mut state = self.state();
        if state.open.len() >= OPEN || state.spread_at.is_some_and(|at| at > now) {
            return;
        }
        state.spread_at = Some(now + SPREAD_EVERY);
        let volumes = Arc::downgrade(self);
        state.spreading = Some(runtime::task::spawn(async move {
            let Some(volumes) = volumes.upgrade() else { return };
            let deadline = runtime::time::now() + protocol::limits::PUT_WAIT;
            let Ok(_asking) = runtime::time::timeout_at(deadline, volumes.asking.lock()).await else { return };
            let avoid = volumes.suspected_drives(deadline).await;
            if let Err(error) = volumes.obtain(&avoid, &Failed::default(), deadline).await {
                tracing::debug!(%error, "no further volume");
            }
        }));
    }
}

/// A slot's number. Volumes have at most [`protocol::limits::SLOTS_MAX`] slots.
pub fn slot_index(index: usize) -> SlotIndex {
    SlotIndex(u8::try_from(index).expect("a volume has at most 32 slots"))
}
