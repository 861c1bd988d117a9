//! Rot in logs that hits entries by what they are, not by where chance falls: entries that are whole elsewhere, and those
//! written last.

use super::{Blow, World};
use crate::plan::Place;
use consensus::inspect::{EntrySector, LogView, entry_sectors};
use jepsen_like::scenario::Fault;
use protocol::GroupId;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use std::collections::BTreeSet;

/// Sectors that rot on each drive.
const SECTORS: usize = 2;
const SECTOR_BYTES: u64 = 512;

/// Whether `fault` is one of this family.
pub fn strikes(fault: Fault) -> bool {
    matches!(fault, Fault::LogRot | Fault::LastBatchRot)
}

/// Strike and heal.
pub async fn carry_out(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let world = blow.world;
    if blow.planned.fault == Fault::LogRot {
        let mut taken = BTreeSet::new();
        for place in &blow.struck.drives {
            let committed = committed(world, *place);
            world.rot(*place, random, |sector| {
                let names: BTreeSet<(GroupId, u64)> = sector.entries.iter().map(|(group, _, index)| (*group, *index)).collect();
                let fits = names.is_subset(&committed) && names.is_disjoint(&taken);
                if fits {
                    taken.extend(names);
                }
                fits
            });
        }
        return blow.let_go();
    }
    let nodes = &blow.struck.nodes;
    nodes.iter().for_each(|node| world.kill(*node));
    for place in nodes.iter().flat_map(|node| world.shape.drives_of(*node)) {
        world.rot(place, random, |sector| sector.last_batch);
    }
    blow.last().await;
    nodes.iter().for_each(|node| world.bring_up(*node));
}

/// Entries in the log of a drive that are still needed and were committed.
fn committed(world: &World, place: Place) -> BTreeSet<(GroupId, u64)> {
    let mut view = LogView::default();
    if view.advance(world.drive(place).inspect().as_ref()).is_err() {
        return BTreeSet::new();
    }
    let of_replica = |((group, _), log): (&(GroupId, _), &consensus::inspect::ReplicaLog)| {
        let (group, start, commit) = (*group, log.start, log.commit);
        log.entries.keys().copied().filter(move |index| *index > start && *index <= commit).map(move |index| (group, index)).collect()
    };
    view.replicas().iter().flat_map(|one| -> Vec<_> { of_replica(one) }).collect()
}

impl World {
    /// Flip bits in a few sectors that `choose` takes.
    fn rot(&self, place: Place, random: &mut ChaCha12Rng, mut choose: impl FnMut(&EntrySector) -> bool) {
        let drive = self.drive(place);
        let mut sectors = entry_sectors(drive.inspect().as_ref()).unwrap_or_default();
        for _ in 0..SECTORS {
            let share: f64 = random.random();
            let count = sectors.len();
            sectors.rotate_left(((share * count as f64) as usize).min(count));
            let Some(at) = sectors.iter().position(&mut choose) else { return };
            let EntrySector { file, offset, .. } = sectors.remove(at);
            let within = random.random_range(0..SECTOR_BYTES - 4);
            if drive.rot(&file, offset + within, 2, random).is_ok() {
                self.damaged(&[place]);
            }
        }
    }
}
