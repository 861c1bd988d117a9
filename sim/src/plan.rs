//! A seed becomes a plan: faults with times and targets, as data, before the run; the run follows it. Each purpose draws
//! from a generator of its own, so that removing one fault does not shift the others.

use crate::cluster::Shape;
use jepsen_like::scenario::{Budget, Fault, Nemesis, Scenario, Target, Unit, When};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::side::stream_for;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A node that came back is counted as down for this long yet: it has to catch up.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How long faults last where the scenario does not say.
const LASTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3);

/// A fault of the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// After the start of the workloads.
    pub at: Duration,
    pub lasts: Duration,
    pub fault: Fault,
    /// Nodes that it strikes, by index.
    pub nodes: Vec<usize>,
}

/// What the plan of a run is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub seed: u64,
    /// In the order of their times.
    pub faults: Vec<Planned>,
}

/// The scenario asks for what the simulator cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the fault `{0}` cannot be produced yet")]
    Fault(&'static str),
    #[error("the fault `{fault}` cannot strike {target:?} yet")]
    Target { fault: &'static str, target: Target },
    #[error("faults beyond the budget cannot be judged yet")]
    Beyond,
    #[error("nothing stops at the waypoint `{0}` yet")]
    Waypoint(String),
}

impl Plan {
    /// The plan that `seed` draws for `scenario`. Swarm: each kind of fault is left out altogether by one seed in four.
    pub fn draw(scenario: &Scenario, shape: &Shape, seed: u64) -> Result<Plan, Error> {
        let mut drawn = Vec::new();
        for (number, nemesis) in scenario.nemeses.iter().enumerate() {
            check(nemesis)?;
            let mut random = stream_for(seed, &format!("plan nemesis {number}"), 0, 0);
            if random.random_range(0..4) > 0 {
                strike(nemesis, shape, &mut random, &mut drawn);
            }
        }
        drawn.sort_by_key(|fault| fault.at);
        let mut faults: Vec<Planned> = Vec::new();
        for fault in drawn {
            if faults.iter().all(|earlier| compatible(earlier, &fault, shape)) {
                faults.push(fault);
            }
        }
        Ok(Plan { seed, faults })
    }
}

fn check(nemesis: &Nemesis) -> Result<(), Error> {
    let fault = nemesis.fault;
    if !matches!(fault, Fault::Kill | Fault::PowerCut | Fault::Pause | Fault::Partition) {
        return Err(Error::Fault(fault.name()));
    }
    if nemesis.budget != Budget::Within {
        return Err(Error::Beyond);
    }
    if let When::On { waypoint, .. } = &nemesis.when {
        return Err(Error::Waypoint(waypoint.clone()));
    }
    match nemesis.target {
        Target::Some(_, Unit::Node | Unit::Zone) | Target::All(Unit::Node | Unit::Zone) => Ok(()),
        target => Err(Error::Target { fault: fault.name(), target }),
    }
}

fn strike(nemesis: &Nemesis, shape: &Shape, random: &mut ChaCha12Rng, drawn: &mut Vec<Planned>) {
    let times = match nemesis.when {
        When::At(at) => vec![at],
        When::During { from, until, rate } => {
            let span = until.saturating_sub(from);
            let expected = rate.expected_in(span);
            // Whole part, and the rest by chance.
            let count = expected as u64 + u64::from(random.random_bool(expected.fract()));
            (0..count).map(|_| from + span.mul_f64(random.random())).collect()
        }
        When::On { .. } => unreachable!("refused in check()"),
    };
    let lasts = nemesis.lasts.clone().unwrap_or(LASTS);
    for at in times {
        let lasts = lasts.start().saturating_add(lasts.end().saturating_sub(*lasts.start()).mul_f64(random.random()));
        drawn.push(Planned { at, lasts, fault: nemesis.fault, nodes: targets(nemesis.target, shape, random) });
    }
}

fn targets(target: Target, shape: &Shape, random: &mut ChaCha12Rng) -> Vec<usize> {
    let nodes = shape.zones * shape.nodes_per_zone;
    match target {
        Target::Some(count, Unit::Zone) => pick(count, shape.zones, random).into_iter().flat_map(|zone| shape.zone(zone)).collect(),
        Target::Some(count, _) => pick(count, nodes, random),
        _ => (0..nodes).collect(),
    }
}

/// `count` different numbers below `among`, in order.
fn pick(count: u32, among: usize, random: &mut ChaCha12Rng) -> Vec<usize> {
    let mut left: Vec<usize> = (0..among).collect();
    let mut picked = Vec::new();
    for _ in 0..count.min(among as u32) {
        picked.push(left.swap_remove(random.random_range(0..left.len())));
    }
    picked.sort_unstable();
    picked
}

/// Whether both stay within the budget: faults at the same time strike different nodes of one zone only. A fault of all
/// nodes stands alone.
fn compatible(earlier: &Planned, later: &Planned, shape: &Shape) -> bool {
    if later.at > earlier.at + earlier.lasts + CATCH_UP {
        return true;
    }
    let zone = |node: &usize| node / shape.nodes_per_zone;
    let together = || earlier.nodes.iter().chain(&later.nodes);
    let first = earlier.nodes.first().map(zone);
    together().all(|node| Some(zone(node)) == first) && earlier.nodes.iter().all(|node| !later.nodes.contains(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { zones: 3, nodes_per_zone: 2, drives_per_node: 2, scheme: protocol::Scheme::ReedSolomon { k: 4, m: 2 } }
    }

    fn smoke() -> Scenario {
        Scenario::parse("smoke", include_str!("../../chaos-scenarios/smoke.toml")).unwrap()
    }

    #[test]
    fn the_same_seed_draws_the_same_plan_and_others_differ() {
        let plan = |seed| Plan::draw(&smoke(), &shape(), seed).unwrap();
        assert_eq!(plan(7), plan(7));
        let different: std::collections::BTreeSet<String> = (0..20).map(|seed| format!("{:?}", plan(seed).faults)).collect();
        assert!(different.len() > 15);
    }

    #[test]
    fn faults_at_the_same_time_stay_in_one_zone_unless_one_strikes_all() {
        for seed in 0..200 {
            let faults = Plan::draw(&smoke(), &shape(), seed).unwrap().faults;
            for (index, one) in faults.iter().enumerate() {
                for other in &faults[index + 1..] {
                    assert!(compatible(one, other, &shape()), "seed {seed}: {one:?} {other:?}");
                }
            }
        }
    }
}
