//! Drawing the faults of a plan.
//!
//! Swarm: one seed in sixteen has no fault, one in sixteen exactly one; in all others each nemesis of the scenario is left
//! out by one seed in four, so that faults meet in every combination and also stand alone. Nemeses that the scenario wants
//! `always` are never left out.

use super::budget::Budget;
use super::{Aim, Error, Moment, Place, Planned, Shape};
use jepsen_like::scenario::{self, Fault, Nemesis, Scenario, Side, Strikes, Target, Unit, When};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use runtime::probe::WAYPOINTS;
use runtime::side::stream_for;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long faults last where the scenario does not say.
const LASTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3);
/// Numbers of one nemesis's strikes; more than it can have.
const NUMBERS: u64 = 1_000_000;

/// The faults that `seed` draws, in the order of their times.
pub fn faults(scenario: &Scenario, shape: &Shape, seed: u64) -> Result<Vec<Planned>, Error> {
    let mut drawn = Vec::new();
    for (index, nemesis) in scenario.nemeses.iter().enumerate() {
        let stream = |purpose: String| stream_for(seed, &format!("plan nemesis {index} {purpose}"), 0, 0);
        let mut of_this = Vec::new();
        for (number, when) in moments(nemesis, scenario, &stream)?.into_iter().enumerate() {
            let mut random = stream(format!("strike {number}"));
            of_this.push(strike(nemesis, shape, index as u64 * NUMBERS + number as u64, when, &mut random)?);
        }
        let may_be_left_out = scenario.nemeses.len() > 1 && !nemesis.always;
        if !may_be_left_out || stream("swarm".to_string()).random_range(0..4) > 0 {
            drawn.extend(of_this);
        }
    }
    drawn.sort_by_key(|fault| (fault.from(), fault.number));
    let mut budget = Budget::new(*shape);
    let mut faults: Vec<Planned> = drawn.into_iter().filter_map(|fault| budget.admit(fault)).collect();
    let always = |fault: &Planned| scenario.nemeses[(fault.number / NUMBERS) as usize].always;
    let mut swarm = stream_for(seed, "plan swarm", 0, 0);
    match swarm.random_range(0..16) {
        0 => faults.retain(always),
        1 if !faults.is_empty() => {
            let kept = faults[swarm.random_range(0..faults.len())].number;
            faults.retain(|fault| fault.number == kept || always(fault));
        }
        _ => {}
    }
    Ok(faults)
}

/// When a nemesis strikes.
fn moments(nemesis: &Nemesis, scenario: &Scenario, stream: &impl Fn(String) -> ChaCha12Rng) -> Result<Vec<Moment>, Error> {
    Ok(match &nemesis.when {
        When::At(at) => vec![Moment::At { us: micros(*at) }],
        When::During { from, until, rate } => {
            let span = until.saturating_sub(*from);
            let expected = rate.expected_in(span);
            // Whole part, and the rest by chance.
            let count = expected as u64 + u64::from(stream("count".to_string()).random_bool(expected.fract()));
            let time = |number| *from + span.mul_f64(stream(format!("time {number}")).random());
            (0..count).map(|number| Moment::At { us: micros(time(number)) }).collect()
        }
        When::On { waypoint, nth, during } => {
            if !WAYPOINTS.contains(&waypoint.as_str()) {
                return Err(Error::Waypoint(waypoint.clone()));
            }
            let nth = stream("nth".to_string()).random_range(nth.clone());
            let during = during.clone().unwrap_or(Duration::ZERO..=scenario.until());
            vec![Moment::Reached {
                waypoint: waypoint.clone(),
                nth: u64::from(nth),
                from_us: micros(*during.start()),
                until_us: micros(*during.end()),
            }]
        }
    })
}

fn strike(nemesis: &Nemesis, shape: &Shape, number: u64, when: Moment, random: &mut ChaCha12Rng) -> Result<Planned, Error> {
    // Always drawn in this order, so that an aim that draws more shifts nothing.
    let draw = random.random();
    let (share, age): (f64, f64) = (random.random(), random.random());
    let side = if random.random() { Side::In } else { Side::Out };
    let fault = nemesis.fault;
    let lasts = match &nemesis.lasts {
        Some(lasts) => lasts.clone(),
        None => LASTS,
    };
    let lasts = *lasts.start() + lasts.end().saturating_sub(*lasts.start()).mul_f64(share);
    let aim = aim(fault, nemesis.target, shape, random)?;
    let beyond = nemesis.budget == scenario::Budget::Beyond;
    if !beyond && matches!(fault, Fault::LostWrite | Fault::MisdirectedWrite) && matches!(aim, Aim::Logs { .. }) {
        return Err(Error::ForgetfulLog(fault.name()));
    }
    let lasts = match (&aim, fault) {
        // One after another, each for this time.
        (Aim::Nodes(nodes), Fault::RollingRestart | Fault::RollingUpgrade) => lasts * nodes.len() as u32,
        _ if fault.ends() => lasts,
        _ => Duration::ZERO,
    };
    let mut planned = Planned {
        number,
        when,
        lasts_us: micros(lasts),
        fault,
        aim,
        side: (fault == Fault::AsymmetricPartition).then_some(nemesis.side.unwrap_or(side)),
        copied_us: None,
        beyond,
        draw,
    };
    if fault == Fault::OldDriveCopy {
        planned.copied_us = Some(micros(planned.from().mul_f64(age)));
    }
    Ok(planned)
}

fn aim(fault: Fault, target: Target, shape: &Shape, random: &mut ChaCha12Rng) -> Result<Aim, Error> {
    let nodes: Vec<usize> = (0..shape.nodes()).collect();
    let zones: Vec<usize> = (0..shape.zones).collect();
    Ok(match (fault.strikes(), target) {
        (Strikes::Drives, Target::Some(count, Unit::Drive)) => Aim::Drives(drives(fault, count as usize, shape, random)),
        (Strikes::Drives, Target::All(Unit::Drive)) => Aim::Drives(shape.drives()),
        (Strikes::Drives, Target::DrivesThatHoldShards) => Aim::Shards { among: shape.drives() },
        (Strikes::Drives, Target::DrivesThatHoldLogs) => Aim::Logs { among: shape.drives() },
        (Strikes::Arrangement, Target::All(unit)) => {
            let mut groups: Vec<Vec<usize>> = match unit {
                Unit::Zone => zones.iter().map(|zone| shape.zone(*zone)).collect(),
                _ => nodes.iter().map(|node| vec![*node]).collect(),
            };
            groups.shuffle(random);
            Aim::Groups(groups)
        }
        (_, Target::RootLeader) => Aim::RootLeader,
        (_, Target::PartitionLeader) => Aim::PartitionLeader,
        (_, Target::NodeThere) => Aim::NodeThere,
        (_, Target::Clients) => Aim::Clients,
        (Strikes::Volumes, Target::Volume) => Aim::Volume,
        (Strikes::Partitions, Target::All(Unit::Partition)) => Aim::Partitions,
        (Strikes::Nodes | Strikes::Links, Target::Some(count, Unit::Node)) => Aim::Nodes(pick(count as usize, &nodes, random)),
        (Strikes::Nodes | Strikes::Links, Target::Some(count, Unit::Zone)) => {
            Aim::Nodes(pick(count as usize, &zones, random).into_iter().flat_map(|zone| shape.zone(zone)).collect())
        }
        (Strikes::Nodes | Strikes::Links, Target::All(Unit::Node | Unit::Zone)) => Aim::Nodes(nodes),
        (Strikes::Nodes | Strikes::Links, Target::MajorityOfNodes) => Aim::Nodes(pick(nodes.len() / 2 + 1, &nodes, random)),
        _ => return Err(Error::Target { fault: fault.name(), target }),
    })
}

/// Drives that a fault strikes together. A drive that is mounted twice comes with the place where it shows again, one of
/// another node.
fn drives(fault: Fault, count: usize, shape: &Shape, random: &mut ChaCha12Rng) -> Vec<Place> {
    let mut chosen = pick(count, &shape.drives(), random);
    if fault == Fault::DriveMountedTwice {
        chosen.truncate(1);
        let elsewhere: Vec<Place> = shape.drives().into_iter().filter(|place| place.node != chosen[0].node).collect();
        chosen.extend(pick(1, &elsewhere, random));
    }
    chosen
}

/// At most `count` different ones, in order.
fn pick<T: Copy + Ord>(count: usize, among: &[T], random: &mut ChaCha12Rng) -> Vec<T> {
    let mut left = among.to_vec();
    let mut picked = Vec::new();
    while picked.len() < count && !left.is_empty() {
        picked.push(left.swap_remove(random.random_range(0..left.len())));
    }
    picked.sort_unstable();
    picked
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("a scenario is shorter than a life")
}
