//! The fault budget: which faults may strike together so that nothing acknowledged may be lost.
//!
//! Two limits. They need to know neither the layouts of volumes nor where replicas live, only that no two shards of a
//! stripe and no two voters of a group share a drive:
//!
//! - **Durability**, never exceeded within the budget. A drive counts as damaged for ever once bytes on it were lost or
//!   changed, found or not: nothing repairs yet. A stripe loses at most one shard to each damaged drive, so up to n - k of
//!   them leave k intact; a group loses at most one voter to each, so fewer than half of its voters leave it a quorum. The
//!   limit is the smaller of both. It holds in every layout, also those chosen while a zone was out. What a group gives back to its
//!   replica counts here too, as nobody promises when it does; it holds off no outage, which it soon outlasts.
//! - **Reach**. What is down for a while is not lost: it comes back with all that was durable. But a cluster that is mostly
//!   down acknowledges nothing, and then nothing is tested. So outages that overlap, together with the damaged drives, must
//!   leave k shards of every stripe and a quorum of every group in reach, in the layouts of a whole cluster: slots and
//!   voters even over zones, then over nodes. An outage that exceeds this by itself (a zone with damage elsewhere, all
//!   power lost) stands alone: nothing else overlaps it. Damage too must keep within reach of what is down when it
//!   strikes, unless that is such an outage that stands alone.
//!
//! A log that silently forgets what it acknowledged (a write that never reached its place, and nobody noticed) is no lost
//! voter but one that lies: two majorities may have only it in common. No quorum bears that, so within the budget such
//! writes are lost among shards only; a log may lose one beyond it.
//!
//! What was acknowledged must then be readable once everything healed; during an outage errors are allowed, wrong answers
//! never. Strikes at waypoints come at an unknown time within their window and take one machine for a short while: they
//! count for durability only. A fault that is marked as beyond the budget is not asked about, but what it damages and takes
//! away counts for those that are.

use super::{Aim, Moment, Place, Planned, Shape};
use jepsen_like::scenario::Fault;
use rand::Rng;
use std::collections::BTreeSet;
use std::time::Duration;

/// A node that came back counts as down for this long yet: it has to catch up.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Voters of a group, where there are so many drives.
const VOTERS: [usize; 3] = [5, 3, 1];

/// What a fault costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cost {
    /// Bytes that were durable are lost, changed or out of reach for good.
    Damage,
    /// The state of a replica is lost, and its group gives it another one.
    State,
    /// Something does not answer until it is healed.
    Outage,
    /// Slowness, clocks, elections, clients: everything still answers.
    Nothing,
}

/// What `fault` costs.
pub fn cost(fault: Fault) -> Cost {
    match fault {
        Fault::DriveGone
        // The drive stays closed until its node starts again, which nobody promises.
        | Fault::SyncError
        | Fault::SectorError
        | Fault::BitRot
        | Fault::LogRuined
        | Fault::MisdirectedWrite
        // A replica that reads wrong bytes may stop for good.
        | Fault::MisdirectedRead
        | Fault::LostWrite
        | Fault::OldDriveCopy
        // Each is refused where it is now.
        | Fault::DrivesSwapped => Cost::Damage,
        Fault::StateRot => Cost::State,
        Fault::Kill
        | Fault::KillSilently
        | Fault::PowerCut
        | Fault::PowerCutMidWrite
        // What rots with it is fetched from the others when the node is back.
        | Fault::LastBatchRot
        | Fault::Pause
        | Fault::RollingRestart
        | Fault::RollingUpgrade
        // The nodes come back, and it waits for a moment in which nothing is on them alone.
        | Fault::GroupsRecovered
        | Fault::Partition
        | Fault::AsymmetricPartition
        | Fault::Ring
        | Fault::Bridge
        | Fault::Flapping
        | Fault::SwizzleClog
        | Fault::DriveFull
        | Fault::DriveStuck
        | Fault::DriveMountedTwice => Cost::Outage,
        Fault::BadNetwork
        | Fault::SlowLink
        | Fault::ResetConnections
        | Fault::SlowAccept
        | Fault::ClientLinksCut
        | Fault::ClockSkew
        | Fault::ClockDrift
        | Fault::ClockJump
        | Fault::ClockFreeze
        | Fault::DriveSlow
        // Each of these entries is whole on most drives: it is fetched from them.
        | Fault::LogRot
        // Its shards stay, and its replicas until others are there.
        | Fault::DriveDeclaredLost
        | Fault::LeaderTransfer
        | Fault::VolumeSealed
        | Fault::StrayCommands
        | Fault::OrphansSettled
        | Fault::LateDuplicates => Cost::Nothing,
    }
}

/// Decides which faults a plan may have, in the order of their times.
pub struct Budget {
    shape: Shape,
    damaged: BTreeSet<Place>,
    /// Drives that lost the state of some replica.
    stateless: BTreeSet<Place>,
    /// Drives that will be damaged, which ones shows during the run.
    unknown: usize,
    outages: Vec<Outage>,
}

#[derive(Clone)]
struct Outage {
    from: Duration,
    until: Duration,
    /// What it takes away: one of these, which one shows during the run or changes meanwhile.
    either: Vec<BTreeSet<Place>>,
    /// More than the cluster serves through: nothing else overlaps it.
    alone: bool,
}

impl Budget {
    /// Nothing spent yet.
    pub fn new(shape: Shape) -> Budget {
        Budget { shape, damaged: BTreeSet::new(), stateless: BTreeSet::new(), unknown: 0, outages: Vec::new() }
    }

    /// The fault as it may strike: with fewer drives to choose among, or not at all.
    pub fn admit(&mut self, mut fault: Planned) -> Option<Planned> {
        match cost(fault.fault) {
            Cost::Nothing => Some(fault),
            Cost::Damage | Cost::State => {
                match fault.aim.places(&self.shape) {
                    Some(places) => {
                        let places = self.damage(&fault, places.into_iter().collect())?;
                        if let Aim::Shards { among } | Aim::Logs { among } = &mut fault.aim {
                            *among = places.iter().copied().collect();
                        }
                        let lost = if cost(fault.fault) == Cost::State { &mut self.stateless } else { &mut self.damaged };
                        lost.extend(places);
                    }
                    // One drive of whichever node it will be.
                    None if fault.beyond || self.may_damage(&BTreeSet::new(), 1, &fault) => self.unknown += 1,
                    None => return None,
                }
                Some(fault)
            }
            Cost::Outage => {
                if let Moment::At { .. } = fault.when {
                    let outage = self.outage(&fault)?;
                    self.outages.push(outage);
                }
                Some(fault)
            }
        }
    }

    /// The drives among `all` that `fault` may damage.
    fn damage(&self, fault: &Planned, all: BTreeSet<Place>) -> Option<BTreeSet<Place>> {
        if !matches!(fault.aim, Aim::Shards { .. } | Aim::Logs { .. }) {
            return (fault.beyond || self.may_damage(&all, 0, fault)).then_some(all);
        }
        if fault.beyond {
            return Some(all);
        }
        // One of them is chosen here; if another one would be too many, one that is damaged already.
        let mut random = fault.stream();
        let any: Vec<Place> = all.iter().copied().collect();
        let damaged: Vec<Place> =
            all.iter().filter(|place| self.damaged.contains(place) || self.stateless.contains(place)).copied().collect();
        for choices in [any, damaged] {
            if choices.is_empty() {
                continue;
            }
            let one = BTreeSet::from([choices[random.random_range(0..choices.len())]]);
            if self.may_damage(&one, 0, fault) {
                return Some(one);
            }
        }
        None
    }

    fn may_damage(&self, more: &BTreeSet<Place>, unknown: usize, fault: &Planned) -> bool {
        let damaged: BTreeSet<Place> = self.damaged.union(more).copied().collect();
        if damaged.union(&self.stateless).count() + self.unknown + unknown > damage_max(&self.shape) {
            return false;
        }
        if cost(fault.fault) == Cost::State {
            return true;
        }
        let meanwhile = self.overlapping(fault.from(), fault.until());
        meanwhile.iter().any(|outage| outage.alone) || self.within_reach(&damaged, &meanwhile)
    }

    /// What `fault` takes away, if it may.
    fn outage(&self, fault: &Planned) -> Option<Outage> {
        let of_node = |node| self.shape.drives_of(node).collect::<BTreeSet<Place>>();
        let either: Vec<BTreeSet<Place>> = match (&fault.aim, fault.fault) {
            // One after another.
            (Aim::Nodes(nodes), Fault::RollingRestart | Fault::RollingUpgrade) => nodes.iter().copied().map(of_node).collect(),
            // Its node starts again without one of its own.
            (Aim::Drives(places), Fault::DriveMountedTwice) => places.last().map(|place| of_node(place.node)).into_iter().collect(),
            _ => match fault.aim.places(&self.shape) {
                Some(places) => vec![places.into_iter().collect()],
                None => (0..self.shape.nodes()).map(of_node).collect(),
            },
        };
        let mut outage = Outage { from: fault.from(), until: fault.until() + CATCH_UP, either, alone: false };
        outage.alone = !self.within_reach(&self.damaged, &[&outage]);
        if fault.beyond {
            return Some(outage);
        }
        let mut together = self.overlapping(outage.from, outage.until);
        if together.is_empty() {
            return Some(outage);
        }
        if outage.alone || together.iter().any(|other| other.alone) {
            return None;
        }
        together.push(&outage);
        self.within_reach(&self.damaged, &together).then(|| outage.clone())
    }

    fn overlapping(&self, from: Duration, until: Duration) -> Vec<&Outage> {
        self.outages.iter().filter(|outage| outage.from <= until && from <= outage.until).collect()
    }

    /// Whether all that `outages` may take away together, and what is damaged, leaves everything in reach.
    fn within_reach(&self, damaged: &BTreeSet<Place>, outages: &[&Outage]) -> bool {
        let (known, unknown): (Vec<&Outage>, Vec<&Outage>) = outages.iter().copied().partition(|outage| outage.either.len() == 1);
        let mut away = damaged.clone();
        known.iter().for_each(|outage| away.extend(&outage.either[0]));
        match unknown.as_slice() {
            [] => self.leaves_enough(&away),
            [one] => one.either.iter().all(|places| self.leaves_enough(&away.union(places).copied().collect())),
            // Which of all the combinations it will be nobody knows: too many at once.
            _ => false,
        }
    }

    fn leaves_enough(&self, away: &BTreeSet<Place>) -> bool {
        let (shape, voters) = (&self.shape, voters(self.shape.drives().len()));
        let spare = |seats: usize, spare: usize| lost_at_most(shape, away, seats) + self.unknown <= spare;
        spare(shape.scheme.total(), shape.scheme.parity()) && spare(voters, (voters - 1) / 2)
    }
}

/// Drives whose damage leaves every stripe k shards and every group a quorum.
pub fn damage_max(shape: &Shape) -> usize {
    let drives = shape.drives().len();
    shape.scheme.parity().min((voters(drives) - 1) / 2)
}

fn voters(drives: usize) -> usize {
    VOTERS.into_iter().find(|voters| *voters <= drives).expect("a cluster has a drive")
}

/// Of `spread` seats on distinct drives, even over zones and within them over nodes, the most that `away` takes.
fn lost_at_most(shape: &Shape, away: &BTreeSet<Place>, spread: usize) -> usize {
    let of_zone = spread.div_ceil(shape.zones);
    let of_node = of_zone.div_ceil(shape.nodes_per_zone);
    let of_nodes = |node: usize| away.iter().filter(|place| place.node == node).count().min(of_node);
    (0..shape.zones).map(|zone| shape.zone(zone).into_iter().map(of_nodes).sum::<usize>().min(of_zone)).sum()
}

#[cfg(test)]
mod tests;
