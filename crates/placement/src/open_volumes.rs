//! The volumes that are not sealed, as the root's leader knows them, and which of them it gives to writers. Pure.
//!
//! A copy of rows: it may be stale, as everything that it leads to is judged again by the state machine or fenced.

use crate::commands::Unsealed;
use crate::scheme_choice::{Choice, Unusable, choose_scheme};
use crate::{Allocator, Bootstrap, Error};
use protocol::{DriveId, Epoch, SlotPlace, Volume, VolumeId, VolumeState};
use std::collections::{BTreeMap, BTreeSet};

/// Volumes that are kept open for each scheme at least, so that writers spread over drives.
pub const OPEN_MIN: usize = 4;
/// Most volumes of a scheme that are usable at once, whoever avoids what.
pub const OPEN_MAX: usize = 64;
/// While fewer than [`OPEN_MIN`] are open, one answer in so many is a volume that is being built: whoever began may have given it up.
const BUILD_ALONG_EVERY: usize = 16;
/// Most volumes that one answer hands out.
pub const HANDED_MAX: usize = 4;

/// Volumes that are Building or Open.
#[derive(Default)]
pub struct OpenVolumes {
    volumes: BTreeMap<VolumeId, Volume>,
    /// The newest revision of the state that is reflected here.
    revision: u64,
    /// Volumes ever created: places the next one on the ring.
    created: u64,
    pub sealed: u64,
    pub at_risk: u64,
    /// Seals to propose, and why.
    to_seal: BTreeMap<VolumeId, (Epoch, String)>,
    /// Where the next answer starts among equals.
    turn: usize,
    /// Answers that were given while too few were open and some were being built.
    short: usize,
}

/// What to do for a writer that asks for a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Give these: open ones, or one that is being built and may be built by two.
    Hand(Vec<Volume>),
    /// Make another and give that.
    Create { choice: Choice, slots: Vec<SlotPlace> },
}

impl OpenVolumes {
    /// Take over what a query returned, unless something newer is known.
    pub fn refresh(&mut self, revision: u64, unsealed: Unsealed) {
        if revision < self.revision {
            return;
        }
        self.revision = revision;
        self.created = self.created.max(unsealed.created);
        (self.sealed, self.at_risk) = (unsealed.sealed, unsealed.at_risk);
        self.volumes = unsealed.volumes.into_iter().map(|volume| (volume.id, volume)).collect();
        self.to_seal.retain(|volume, (epoch, _)| self.volumes.get(volume).is_some_and(|volume| volume.epoch == *epoch));
    }

    /// Take over the answer to a command about one volume.
    pub fn learn(&mut self, revision: u64, volume: Volume) {
        self.revision = self.revision.max(revision);
        self.created = self.created.max(volume.id.0);
        if volume.state == VolumeState::Sealed {
            self.to_seal.remove(&volume.id);
            // One that is not here was counted already.
            self.sealed += u64::from(self.volumes.remove(&volume.id).is_some());
        } else {
            self.volumes.insert(volume.id, volume);
        }
    }

    /// Volumes in state Open.
    pub fn open(&self) -> u64 {
        self.volumes.values().filter(|volume| volume.state == VolumeState::Open).count() as u64
    }

    /// A slot failed for good: seal, if the volume is still at `epoch` (the reporter's; None: not known to it).
    /// True if there is something new to do.
    pub fn report(&mut self, id: VolumeId, epoch: Option<Epoch>, why: &str) -> bool {
        let Some(volume) = self.volumes.get(&id) else { return false };
        if epoch.is_some_and(|epoch| epoch != volume.epoch) || self.to_seal.contains_key(&id) {
            return false;
        }
        self.to_seal.insert(id, (volume.epoch, why.to_string()));
        true
    }

    /// Queue the sealing of every volume that has a slot on a closed drive.
    pub fn close_drives(&mut self, closed: &[(DriveId, String)]) {
        for (drive, why) in closed {
            let on_it = |volume: &&Volume| volume.slots.iter().any(|slot| slot.drive == *drive);
            let ids: Vec<_> = self.volumes.values().filter(on_it).map(|volume| volume.id).collect();
            for id in ids {
                self.report(id, None, &format!("drive {drive} closed: {why}"));
            }
        }
    }

    /// Some of the seals to propose; each stays queued until its volume is known to be sealed.
    pub fn seals(&self, max: usize) -> Vec<(VolumeId, Epoch, String)> {
        self.to_seal.iter().take(max).map(|(volume, (epoch, why))| (*volume, *epoch, why.clone())).collect()
    }

    /// Decide for a writer that avoids `avoid`, on drives of which `unusable` can take nothing. With [`Decision::Create`]
    /// come the open volumes that it may have if none can be created now.
    pub fn decide(
        &mut self,
        bootstrap: &Bootstrap,
        allocator: &Allocator,
        unusable: &BTreeMap<DriveId, Unusable>,
        avoid: &BTreeSet<DriveId>,
    ) -> Result<(Decision, Vec<Volume>), Error> {
        let mut excluded = unusable.clone();
        for drive in avoid {
            excluded.entry(*drive).or_insert(Unusable::Avoided);
        }
        let choice = choose_scheme(&bootstrap.map, bootstrap.scheme, &excluded)?;
        // A volume at risk serves only while nothing better can be made.
        let fits = |volume: &&Volume| volume.scheme == choice.scheme && (choice.at_risk || !volume.at_risk);
        let standing = |volume: &&Volume| !self.to_seal.contains_key(&volume.id);
        let healthy = |volume: &&Volume| volume.slots.iter().all(|slot| !unusable.contains_key(&slot.drive));
        let welcome = |volume: &&Volume| volume.slots.iter().all(|slot| !avoid.contains(&slot.drive));
        let healthy: Vec<&Volume> = self.volumes.values().filter(fits).filter(standing).filter(healthy).collect();
        let welcome: Vec<&Volume> = healthy.iter().copied().filter(welcome).collect();
        let open: Vec<&Volume> = welcome.iter().copied().filter(|volume| volume.state == VolumeState::Open).collect();
        let building: Vec<&Volume> = welcome.iter().copied().filter(|volume| volume.state == VolumeState::Building).collect();

        if open.len() < OPEN_MIN && !building.is_empty() {
            self.short = self.short.wrapping_add(1);
            if self.short.is_multiple_of(BUILD_ALONG_EVERY) {
                runtime::probe!("placement: a volume that is being built was handed out to be built along");
                let volume = building[self.short / BUILD_ALONG_EVERY % building.len()].clone();
                return Ok((Decision::Hand(vec![volume]), Vec::new()));
            }
        }
        if open.len() >= OPEN_MIN || (!open.is_empty() && welcome.len() >= OPEN_MIN) {
            let start = self.turn % open.len();
            let handed = open[start..].iter().chain(&open[..start]).take(HANDED_MAX).map(|volume| (*volume).clone()).collect();
            self.turn = self.turn.wrapping_add(1);
            return Ok((Decision::Hand(handed), Vec::new()));
        }
        if welcome.len() >= OPEN_MIN || healthy.len() >= OPEN_MAX {
            // Enough are on their way, or too many lie about: build along, or write where one can.
            let any = building.first().copied().or(open.first().copied());
            return any.map(|volume| (Decision::Hand(vec![volume.clone()]), Vec::new())).ok_or(Error::Busy);
        }
        let drives: BTreeSet<_> = excluded.keys().copied().collect();
        match allocator.choose(choice.scheme.total(), self.created + 1, &drives) {
            Ok(slots) => Ok((Decision::Create { choice, slots }, open.into_iter().cloned().collect())),
            // The scheme was chosen for as many drives as there are.
            Err(shortage) => Err(Error::Unavailable(format!("{} drives of {} needed", shortage.usable, shortage.needed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::testing::bootstrap;
    use protocol::Generation;

    struct Bench {
        bootstrap: Bootstrap,
        allocator: Allocator,
        volumes: OpenVolumes,
    }

    impl Bench {
        fn new(zones: u64, nodes: u64, drives: u16) -> Bench {
            let bootstrap = bootstrap(zones, nodes, drives);
            Bench { allocator: Allocator::new(&bootstrap.map), volumes: OpenVolumes::default(), bootstrap }
        }

        fn decide(&mut self, unusable: &BTreeMap<DriveId, Unusable>, avoid: &[DriveId]) -> Result<Decision, Error> {
            let avoid = avoid.iter().copied().collect();
            self.volumes.decide(&self.bootstrap, &self.allocator, unusable, &avoid).map(|(decision, _)| decision)
        }

        /// Ask, and build at once what is to be made.
        fn write(&mut self, unusable: &BTreeMap<DriveId, Unusable>, avoid: &[DriveId]) -> Result<Volume, Error> {
            match self.decide(unusable, avoid)? {
                Decision::Hand(volumes) => Ok(volumes[0].clone()),
                Decision::Create { choice, slots } => {
                    let id = VolumeId(self.volumes.created + 1);
                    let Choice { scheme, at_risk } = choice;
                    let (epoch, generation, state) = (Epoch(1), Generation(0), VolumeState::Open);
                    let volume = Volume { id, scheme, epoch, generation, state, slots, at_risk };
                    self.volumes.learn(id.0, volume.clone());
                    Ok(volume)
                }
            }
        }

        fn zone_gone(&self, zone: &str) -> BTreeMap<DriveId, Unusable> {
            let nodes = self.bootstrap.map.nodes.iter().filter(|node| node.zone == zone);
            nodes.flat_map(|node| &node.drives).map(|drive| (drive.id, Unusable::Node("silent".into()))).collect()
        }
    }

    #[test]
    fn a_few_volumes_are_made_and_then_taken_in_turns() {
        let mut bench = Bench::new(3, 2, 2);
        let ids: Vec<_> = (0..12).map(|_| bench.write(&BTreeMap::new(), &[]).unwrap().id.0).collect();
        assert_eq!(ids, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]);
        let Ok(Decision::Hand(handed)) = bench.decide(&BTreeMap::new(), &[]) else { panic!() };
        assert_eq!(handed.len(), HANDED_MAX);
    }

    #[test]
    fn volumes_whose_builder_gave_up_are_handed_out_while_one_is_open() {
        let mut bench = Bench::new(3, 2, 2);
        for id in 1..=4 {
            let Ok(Decision::Create { choice, slots }) = bench.decide(&BTreeMap::new(), &[]) else { panic!("{id}") };
            let state = if id == 3 { VolumeState::Open } else { VolumeState::Building };
            let (scheme, at_risk) = (choice.scheme, choice.at_risk);
            let volume = Volume { id: VolumeId(id), scheme, epoch: Epoch(1), generation: Generation(0), state, slots, at_risk };
            bench.volumes.learn(id, volume);
        }
        let mut handed = BTreeMap::<u64, usize>::new();
        for _ in 0..20 * BUILD_ALONG_EVERY {
            let Ok(Decision::Hand(volumes)) = bench.decide(&BTreeMap::new(), &[]) else { panic!() };
            *handed.entry(volumes[0].id.0).or_default() += 1;
        }
        assert_eq!(handed.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(handed[&3] > 14 * BUILD_ALONG_EVERY, "a writer seldom waits for one to be built: {handed:?}");
    }

    #[test]
    fn without_a_zone_new_volumes_avoid_it_and_afterwards_the_former_serve_again() {
        let mut bench = Bench::new(3, 2, 2);
        (0..4).for_each(|_| drop(bench.write(&BTreeMap::new(), &[]).unwrap()));
        let gone = bench.zone_gone("z2");
        for _ in 0..8 {
            let volume = bench.write(&gone, &[]).unwrap();
            assert_eq!((volume.scheme, volume.at_risk), ("rs(4,4)".parse().unwrap(), false));
            assert!(volume.slots.iter().all(|slot| !gone.contains_key(&slot.drive)));
        }
        assert_eq!(bench.volumes.volumes.len(), 8);
        assert!(bench.volumes.seals(9).is_empty(), "suspicion seals nothing");
        assert!((0..8).all(|_| bench.write(&BTreeMap::new(), &[]).unwrap().id.0 <= 4));
    }

    #[test]
    fn volumes_at_risk_serve_only_while_nothing_better_can_be_made() {
        let mut bench = Bench::new(3, 2, 3);
        let mut gone = bench.zone_gone("z1");
        gone.extend(bench.zone_gone("z2"));
        let narrow = bench.write(&gone, &[]).unwrap();
        assert!(narrow.at_risk && narrow.scheme == bench.bootstrap.scheme);
        assert!((0..9).all(|_| !bench.write(&BTreeMap::new(), &[]).unwrap().at_risk));
    }

    #[test]
    fn an_avoided_drive_is_not_used_and_no_gateway_makes_volumes_without_end() {
        let mut bench = Bench::new(3, 4, 4);
        let all: Vec<_> = bench.bootstrap.map.nodes.iter().flat_map(|node| &node.drives).map(|drive| drive.id).collect();
        let mut number = 1u64;
        for _ in 0..500 {
            number = crate::allocator::mix(number);
            let avoid: Vec<_> = all.iter().copied().filter(|drive| number >> (drive.0 % 61) & 3 == 0).collect();
            match bench.write(&BTreeMap::new(), &avoid) {
                Ok(volume) => assert!(volume.slots.iter().all(|slot| !avoid.contains(&slot.drive))),
                Err(error) => assert_eq!(error, Error::Busy),
            }
        }
        let mut by_scheme = BTreeMap::<_, usize>::new();
        bench.volumes.volumes.values().for_each(|volume| *by_scheme.entry(volume.scheme).or_default() += 1);
        assert!(by_scheme.values().all(|count| *count <= OPEN_MAX), "{by_scheme:?}");
    }

    #[test]
    fn a_failed_slot_seals_once_and_under_the_reported_epoch_only() {
        let mut bench = Bench::new(1, 1, 6);
        let volume = bench.write(&BTreeMap::new(), &[]).unwrap();
        assert!(!bench.volumes.report(volume.id, Some(Epoch(9)), "old news"));
        assert!(bench.volumes.report(volume.id, Some(volume.epoch), "full"));
        assert!(!bench.volumes.report(volume.id, None, "full"));
        assert_eq!(bench.volumes.seals(9), [(volume.id, Epoch(1), "full".to_string())]);
        // No longer handed out even before the seal is committed.
        assert_ne!(bench.write(&BTreeMap::new(), &[]).unwrap().id, volume.id);
        bench.volumes.learn(9, Volume { state: VolumeState::Sealed, epoch: Epoch(2), ..volume });
        assert!(bench.volumes.seals(9).is_empty());
    }

    #[test]
    fn a_closed_drive_seals_its_volumes_and_no_others() {
        let mut bench = Bench::new(3, 4, 4);
        let volumes: Vec<_> = (0..4).map(|_| bench.write(&BTreeMap::new(), &[]).unwrap()).collect();
        let drive = volumes[0].slots[0].drive;
        bench.volumes.close_drives(&[(drive, "EIO".into())]);
        let sealed: Vec<_> = bench.volumes.seals(9).into_iter().map(|(volume, _, _)| volume).collect();
        let touched: Vec<_> =
            volumes.iter().filter(|volume| volume.slots.iter().any(|slot| slot.drive == drive)).map(|volume| volume.id).collect();
        assert_eq!(sealed, touched);
    }

    #[test]
    fn writers_build_along_when_enough_volumes_are_on_their_way() {
        let mut bench = Bench::new(1, 1, 6);
        for id in 1..=4 {
            let Ok(Decision::Create { choice, slots }) = bench.decide(&BTreeMap::new(), &[]) else { panic!() };
            let (epoch, generation, state) = (Epoch(1), Generation(0), VolumeState::Building);
            let volume = Volume { id: VolumeId(id), scheme: choice.scheme, epoch, generation, state, slots, at_risk: false };
            bench.volumes.learn(id, volume);
        }
        let Ok(Decision::Hand(handed)) = bench.decide(&BTreeMap::new(), &[]) else { panic!() };
        assert_eq!(handed[0].state, VolumeState::Building);
    }

    #[test]
    fn an_older_answer_does_not_undo_a_newer_one() {
        let mut bench = Bench::new(1, 1, 6);
        let volume = bench.write(&BTreeMap::new(), &[]).unwrap();
        bench.volumes.learn(10, volume.clone());
        bench.volumes.refresh(9, Unsealed::default());
        assert_eq!(bench.volumes.open(), 1);
        bench.volumes.refresh(11, Unsealed { created: 1, sealed: 1, ..Unsealed::default() });
        assert_eq!((bench.volumes.open(), bench.volumes.sealed), (0, 1));
    }
}
