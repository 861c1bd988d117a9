//! Faults of drives. Those that damage are for good; those that end are healed. Where a process has meanwhile closed the drive, or
//! does not get its replicas to run again by itself, its node is started again: "bring it back and start the node again", says its
//! log.

use super::aim::SHARDS;
use super::{Blow, World};
use crate::plan::{Place, Planned};
use jepsen_like::scenario::Fault;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::disk::{Entry, Open};
use runtime::side::SimDrive;
use runtime::time;
use std::time::Duration;

/// A machine that was killed to have its drives changed is down for so long.
const HANDS: Duration = Duration::from_millis(500);
/// Time for replicas to run again by themselves, and how often is looked whether they do.
const BY_ITSELF: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(250);
const SECTOR_BYTES: u64 = 512;
/// Draws of a place with content, before one without is taken.
const DRAWS_MAX: usize = 20;

/// Take the copies that an old-drive fault will bring back.
pub fn copies(world: &World, planned: &Planned, random: &mut ChaCha12Rng) -> Vec<(Place, SimDrive)> {
    let Some(struck) = world.resolve(planned, None, &mut random.clone()) else { return Vec::new() };
    struck.drives.iter().map(|place| (*place, world.drive(*place).copy("an old copy"))).collect()
}

/// Strike and heal.
pub async fn carry_out(blow: &Blow<'_>, copies: Vec<(Place, SimDrive)>, random: &mut ChaCha12Rng) {
    let (world, places) = (blow.world, &blow.struck.drives);
    let folder = match blow.planned.fault {
        // A log that forgets what it acknowledged is more than any quorum bears: see `budget`.
        Fault::LostWrite | Fault::MisdirectedWrite if !blow.planned.beyond => SHARDS,
        _ => blow.struck.folder,
    };
    let damaging = crate::plan::budget::cost(blow.planned.fault) == crate::plan::budget::Cost::Damage;
    if damaging || blow.planned.fault == Fault::DriveMountedTwice {
        world.damaged(places);
    }
    let each = |what: fn(&SimDrive, &str, &mut ChaCha12Rng), random: &mut ChaCha12Rng| {
        places.iter().for_each(|place| what(world.drive(*place), folder, random));
    };
    match blow.planned.fault {
        Fault::DriveGone => each(|drive, _, _| drive.fail_for_good("pulled"), random),
        Fault::SyncError => each(|drive, _, random| drive.fail_next_sync(random), random),
        Fault::SectorError => each(|drive, folder, random| mark(drive, folder, random, false), random),
        Fault::BitRot => each(|drive, folder, random| mark(drive, folder, random, true), random),
        Fault::MisdirectedWrite => each(|drive, folder, random| drive.misdirect_next_write(folder, random), random),
        Fault::MisdirectedRead => each(|drive, folder, random| drive.misdirect_next_read(folder, random), random),
        Fault::LostWrite => each(|drive, folder, _| drive.lose_next_write(folder), random),
        Fault::OldDriveCopy => {
            blow.let_go();
            exchange(world, &copies.iter().map(|(place, _)| *place).collect::<Vec<_>>(), || {
                copies.iter().for_each(|(place, copy)| world.drive(*place).bring_back(copy));
            })
            .await;
        }
        Fault::DrivesSwapped => {
            blow.let_go();
            if let [one, other] = places[..] {
                exchange(world, places, || world.drive(one).swap_contents(world.drive(other))).await;
            }
        }
        Fault::DriveMountedTwice => mounted_twice(blow).await,
        _ => return condition(blow, random).await,
    }
    blow.let_go();
}

/// Change drives while their machines are down.
async fn exchange(world: &World, places: &[Place], change: impl FnOnce()) {
    let mut nodes: Vec<usize> = places.iter().map(|place| place.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes.iter().for_each(|node| world.kill(*node));
    world.done.lock().expect("nothing panics under this lock").exchanged.extend(places);
    change();
    time::sleep(HANDS).await;
    nodes.iter().for_each(|node| world.bring_up(*node));
}

/// The first place's drive shows in the second place as well, whose node starts again and finds it there.
async fn mounted_twice(blow: &Blow<'_>) {
    let world = blow.world;
    let [one, again] = blow.struck.drives[..] else { return blow.let_go() };
    world.kill(again.node);
    world.cluster.show(again, Some(world.drive(one).clone()));
    time::sleep(HANDS).await;
    world.bring_up(again.node);
    blow.last().await;
    world.kill(again.node);
    world.cluster.show(again, None);
    time::sleep(HANDS).await;
    world.bring_up(again.node);
}

/// Full, slow or stuck, for a while.
async fn condition(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let (world, number, fault) = (blow.world, blow.planned.number, blow.planned.fault);
    // Full at once, or in the middle of some later write.
    let free = if random.random() { 0 } else { random.random_range(0..256 << 10) };
    let factor = random.random_range(20..200);
    for place in &blow.struck.drives {
        let mut standing = world.standing();
        let conditions = standing.drives.entry(*place).or_default();
        match fault {
            Fault::DriveFull => drop(conditions.full.insert(number, free)),
            Fault::DriveSlow => drop(conditions.slow.insert(number, factor)),
            Fault::DriveStuck => conditions.stuck += 1,
            other => unreachable!("{} is no condition of a drive", other.name()),
        }
        drop(standing);
        world.set_conditions(*place);
    }
    blow.last().await;
    for place in &blow.struck.drives {
        {
            let mut standing = world.standing();
            let conditions = standing.drives.entry(*place).or_default();
            match fault {
                Fault::DriveFull => drop(conditions.full.remove(&number)),
                Fault::DriveSlow => drop(conditions.slow.remove(&number)),
                _ => conditions.stuck -= 1,
            }
        }
        world.set_conditions(*place);
        world.restart_if_it_gave_up(*place).await;
    }
}

/// Flip a few bits, or make a few sectors unreadable, where something was written.
fn mark(drive: &SimDrive, folder: &str, random: &mut ChaCha12Rng, rot: bool) {
    let files: Vec<_> = drive.files().into_iter().filter(|file| file.bytes >= SECTOR_BYTES && file.name.starts_with(folder)).collect();
    let Some((file, sector)) = anywhere(drive, &files, random) else { return };
    let within = random.random_range(0..SECTOR_BYTES);
    let bytes = random.random_range(1..=4u64).min(file.bytes - sector - within);
    let marked = if rot { drive.rot(&file.name, sector + within, bytes, random) } else { drive.damage(&file.name, sector, SECTOR_BYTES) };
    // The file stood there a moment ago; if it is gone by now nothing is left to be damaged.
    drop(marked);
}

/// A sector of one of `files`, and where in it: one where something was written, if one is drawn soon.
pub(super) fn anywhere<'f>(drive: &SimDrive, files: &'f [Entry], random: &mut ChaCha12Rng) -> Option<(&'f Entry, u64)> {
    let looking = drive.inspect();
    let mut chosen = None;
    for _ in 0..DRAWS_MAX {
        let (which, share): (f64, f64) = (random.random(), random.random());
        let file = files.get((which * files.len() as f64) as usize)?;
        let sector = (share * (file.bytes / SECTOR_BYTES) as f64) as u64 * SECTOR_BYTES;
        let mut bytes = [0; SECTOR_BYTES as usize];
        let read = looking.open(&file.name, Open::Existing).and_then(|opened| opened.read_at(sector, &mut bytes));
        chosen = Some((file, sector));
        if read.is_ok() && bytes.iter().any(|byte| *byte != 0) {
            break;
        }
    }
    chosen
}

impl World {
    fn set_conditions(&self, place: Place) {
        let conditions = self.standing().drives.entry(place).or_default().clone();
        let drive = self.drive(place);
        drive.set_free(conditions.full.values().min().copied());
        drive.set_slow(conditions.slow.values().max().copied().unwrap_or(1));
        drive.set_stuck(conditions.stuck > 0);
    }

    /// A drive that is healed serves again only after its node's start, if its process has closed it; replicas that stopped for
    /// want of room run again by themselves.
    async fn restart_if_it_gave_up(&self, place: Place) {
        let patience = time::now() + BY_ITSELF;
        while time::now() < patience && self.gave_up(place, false) && !self.gave_up(place, true) {
            time::sleep(LOOK).await;
        }
        if self.gave_up(place, false) && self.standing().processes[place.node].down == 0 {
            self.kill(place.node);
            self.bring_up(place.node);
        }
        self.revive(place.node);
    }

    /// Whether something of a drive does not run; with `closed`, whether its process has closed it altogether.
    fn gave_up(&self, place: Place, closed: bool) -> bool {
        let id = self.id(place);
        self.cluster.node(place.node).is_some_and(|node| {
            let stopped = node.host().status().iter().any(|replica| replica.drive == id && replica.trouble.is_some());
            let shut = node.storage().status().iter().any(|drive| drive.drive == id && drive.closed.is_some());
            let refused = || node.refused().iter().chain(node.without_replicas()).any(|refused| refused.drive == id);
            shut || refused() || (stopped && !closed)
        })
    }
}
