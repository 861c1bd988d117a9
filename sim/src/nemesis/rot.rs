//! Rot that hits what it hits by what that is, not by where chance falls: entries of logs that are whole elsewhere, and those written last;
//! and the databases of replicas.

use super::drive::anywhere;
use super::{Blow, World};
use crate::plan::Place;
use consensus::inspect::{EntrySector, LogView, entry_sectors};
use jepsen_like::scenario::Fault;
use protocol::GroupId;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::disk::Open;
use runtime::time;
use std::collections::BTreeSet;
use std::time::Duration;

/// Sectors of a log that rot on each drive.
const SECTORS: usize = 2;
/// Sectors of a database that rot, many of which nobody reads any more.
const STATE_SECTORS: usize = 24;
const SECTOR_BYTES: u64 = 512;
/// A machine that was killed for what rots is down for so long.
const DOWN: Duration = Duration::from_millis(500);

/// Whether `fault` is one of this family.
pub fn strikes(fault: Fault) -> bool {
    matches!(fault, Fault::LogRot | Fault::LastBatchRot | Fault::LogRuined | Fault::StateRot)
}

/// Strike and heal.
pub async fn carry_out(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let world = blow.world;
    if blow.planned.fault == Fault::StateRot {
        // Pages that a process has in memory rot unseen: every other time it is gone, and its next life reads them.
        let at_rest: bool = random.random();
        let nodes: BTreeSet<usize> = blow.struck.drives.iter().map(|place| place.node).filter(|_| at_rest).collect();
        nodes.iter().for_each(|node| world.kill(*node));
        blow.struck.drives.iter().for_each(|place| world.rot_state(*place, random));
        blow.let_go();
        time::sleep(if at_rest { DOWN } else { Duration::ZERO }).await;
        return nodes.iter().for_each(|node| world.bring_up(*node));
    }
    if blow.planned.fault == Fault::LogRuined {
        let nodes: BTreeSet<usize> = blow.struck.drives.iter().map(|place| place.node).collect();
        nodes.iter().for_each(|node| world.kill(*node));
        blow.struck.drives.iter().for_each(|place| world.ruin_log(*place, random));
        blow.let_go();
        time::sleep(DOWN).await;
        return nodes.iter().for_each(|node| world.bring_up(*node));
    }
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
    /// Flip bits in every sector of the log that was written.
    fn ruin_log(&self, place: Place, random: &mut ChaCha12Rng) {
        let drive = self.drive(place);
        let looking = drive.inspect();
        for file in drive.files().into_iter().filter(|file| file.name.starts_with("raft/log-")) {
            let mut content = vec![0; usize::try_from(file.bytes).expect("64 bits")];
            let Ok(()) = looking.open(&file.name, Open::Existing).and_then(|opened| opened.read_at(0, &mut content)) else { continue };
            let sectors = content.chunks(SECTOR_BYTES as usize).enumerate();
            for (sector, _) in sectors.filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)) {
                // It stood there a moment ago.
                let _ = drive.rot(&file.name, sector as u64 * SECTOR_BYTES, 8, random);
            }
        }
        self.damaged(&[place]);
    }

    /// Flip bits in sectors of one database.
    fn rot_state(&self, place: Place, random: &mut ChaCha12Rng) {
        let drive = self.drive(place);
        let states: Vec<_> = drive.files().into_iter().filter(|file| file.name.ends_with(".redb")).collect();
        let share: f64 = random.random();
        let Some(state) = states.get((share * states.len() as f64) as usize) else { return };
        for _ in 0..STATE_SECTORS {
            let Some((file, sector)) = anywhere(drive, std::slice::from_ref(state), random) else { continue };
            let within = random.random_range(0..SECTOR_BYTES - 4);
            if drive.rot(&file.name, sector + within, 2, random).is_ok() {
                self.done.lock().expect("nothing panics under this lock").rotten_states.insert(place);
            }
        }
    }

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
