//! Sealing a volume: no blob becomes safe on it any more, and what is safe is known.

use futures::future::join_all;
use protocol::layout::SlotAddress;
use protocol::{SlotIndex, SlotPlace, Volume, VolumeId, VolumeState};
use runtime::time::Instant;
use std::sync::Arc;
use storage::List;

/// A volume that takes no more blobs.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// As the root group has it: sealed, under the epoch of the fences.
    pub volume: Arc<Volume>,
    /// Slot by slot what it holds, or why it was not fenced.
    pub lists: Vec<Result<List, storage::Error>>,
}

impl Sealed {
    /// The lists from which absence can be told: of fenced slots without damage.
    pub fn intact(&self) -> impl Iterator<Item = (SlotPlace, &List)> {
        let fenced = self.volume.slots.iter().zip(&self.lists);
        fenced.filter_map(|(place, list)| list.as_ref().ok().filter(|list| list.intact).map(|list| (*place, list)))
    }
}

/// A volume is not sealed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root group did not raise the epoch, or it is not known whether it did; no slot was fenced.
    #[error("volume {volume} is not sealed: {error}")]
    Placement { volume: VolumeId, error: placement::Error },
    /// The epoch is raised and some slots are fenced, but too few to say what was acknowledged.
    #[error("volume {volume}: {fenced} slots are fenced, {needed} are needed; last refusal: {last}")]
    TooFew { volume: VolumeId, fenced: usize, needed: usize, last: storage::Error },
}

/// Seal `volume`, or fence it again: the root group raises its epoch (unless it is sealed already), then every slot that
/// can be reached until `deadline` makes the fence durable and gives its list.
pub async fn seal(placement: &placement::Client, storage: &storage::Client, volume: VolumeId, deadline: Instant) -> Result<Sealed, Error> {
    let refused = |error| Error::Placement { volume, error };
    let mut known = placement.refresh_volume(volume, deadline).await.map_err(refused)?;
    while known.state != VolumeState::Sealed {
        // Somebody else may raise the epoch in between: the command answers with the volume as it is then.
        known = placement.seal_volume(volume, known.epoch, deadline).await.map_err(refused)?;
    }
    let lists = join_all(known.slots.iter().zip(0..).map(|(place, slot)| {
        let at = SlotAddress { volume, generation: known.generation, slot: SlotIndex(slot) };
        storage.fence(*place, at, known.epoch, deadline)
    }))
    .await;
    let fenced = lists.iter().filter(|list| list.is_ok()).count();
    let needed = known.scheme.data();
    tracing::info!(%volume, epoch = %known.epoch, fenced, slots = lists.len(), "sealed a volume and fenced its slots");
    if fenced < needed
        && let Some(last) = lists.iter().rev().find_map(|list| list.as_ref().err().cloned())
    {
        runtime::probe!("repair: too few slots fenced");
        return Err(Error::TooFew { volume, fenced, needed, last });
    }
    Ok(Sealed { volume: known, lists })
}
