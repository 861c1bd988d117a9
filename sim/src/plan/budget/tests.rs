use super::*;
use jepsen_like::scenario::Fault;
use quickcheck::{Gen, TestResult};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

fn shape(k: u8, m: u8) -> Shape {
    Shape { zones: 3, nodes_per_zone: 2, drives_per_node: 2, scheme: protocol::Scheme::ReedSolomon { k, m } }
}

/// A fault of any kind anywhere; times close enough to overlap often.
fn any_fault(random: &mut ChaCha12Rng, number: u64, shape: &Shape) -> Planned {
    let fault = Fault::ALL[random.random_range(0..Fault::ALL.len())];
    let node = random.random_range(0..shape.nodes());
    let aim = match random.random_range(0..6) {
        0 => Aim::Nodes((0..shape.nodes()).collect()),
        1 => Aim::Nodes(shape.zone(random.random_range(0..shape.zones))),
        2 => Aim::Shards { among: shape.drives() },
        3 => Aim::RootLeader,
        4 => Aim::Drives(shape.drives_of(node).collect()),
        _ => Aim::Nodes(vec![node]),
    };
    Planned {
        side: None,
        copied_us: None,
        number,
        when: Moment::At { us: random.random_range(0..30_000_000) },
        lasts_us: random.random_range(0..5_000_000),
        fault,
        aim,
        beyond: false,
        draw: random.random(),
    }
}

fn admitted(seed: u64, shape: Shape) -> Vec<Planned> {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    let mut faults: Vec<Planned> = (0..20).map(|number| any_fault(&mut random, number, &shape)).collect();
    faults.sort_by_key(|fault| (fault.from(), fault.number));
    let mut budget = Budget::new(shape);
    faults.into_iter().filter_map(|fault| budget.admit(fault)).collect()
}

/// `seats` even over zones, then nodes, on distinct drives: a layout as the allocator makes them, another one each time.
fn layout(seats: usize, shape: &Shape, random: &mut ChaCha12Rng) -> BTreeSet<Place> {
    let mut chosen: BTreeSet<Place> = BTreeSet::new();
    for _ in 0..seats {
        let mut free: Vec<Place> = shape.drives().into_iter().filter(|place| !chosen.contains(place)).collect();
        free.shuffle(random);
        let load = |place: &Place| {
            let in_zone = chosen.iter().filter(|other| shape.zone_of(other.node) == shape.zone_of(place.node)).count();
            (in_zone, chosen.iter().filter(|other| other.node == place.node).count())
        };
        let seat = free.into_iter().min_by_key(load).unwrap();
        chosen.insert(seat);
    }
    chosen
}

/// Judged by layouts themselves, not by the bounds that the budget uses.
fn keeps_enough(shape: &Shape, away: &BTreeSet<Place>, random: &mut ChaCha12Rng) -> bool {
    (0..20).all(|_| {
        let stripe = layout(shape.scheme.total(), shape, random);
        let voters = layout(5, shape, random);
        stripe.difference(away).count() >= shape.scheme.data() && voters.difference(away).count() >= 3
    })
}

/// What a fault takes away at some moment.
fn taken(fault: &Planned, shape: &Shape, random: &mut ChaCha12Rng) -> BTreeSet<Place> {
    match (&fault.aim, fault.fault) {
        (Aim::Nodes(nodes), Fault::RollingRestart | Fault::RollingUpgrade) => {
            shape.drives_of(nodes[random.random_range(0..nodes.len())]).collect()
        }
        (Aim::Drives(places), Fault::DriveMountedTwice) => shape.drives_of(places[places.len() - 1].node).collect(),
        _ => match fault.aim.places(shape) {
            Some(places) => places.into_iter().collect(),
            None => shape.drives_of(random.random_range(0..shape.nodes())).collect(),
        },
    }
}

#[test]
fn plans_within_the_budget_never_exceed_it() {
    fn holds(seed: u64, parity: u8) -> TestResult {
        let shape = if parity.is_multiple_of(2) { shape(4, 2) } else { shape(5, 4) };
        let faults = admitted(seed, shape);
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let mut damaged = BTreeSet::new();
        for fault in &faults {
            if matches!(cost(fault.fault), Cost::Damage | Cost::State) {
                damaged.extend(fault.aim.places(&shape).unwrap_or_default());
            }
        }
        // Damage alone must be bearable in any layout, also one that is not even.
        if damaged.len() > shape.scheme.parity() || damaged.len() > 2 || !keeps_enough(&shape, &damaged, &mut random) {
            return TestResult::failed();
        }
        for (index, outage) in faults.iter().enumerate().filter(|(_, fault)| cost(fault.fault) == Cost::Outage) {
            let mut away = taken(outage, &shape, &mut random);
            let mut others = 0;
            for (at, other) in faults.iter().enumerate() {
                let overlaps = other.from() <= outage.from() && outage.from() <= other.until();
                if at != index && cost(other.fault) == Cost::Outage && overlaps {
                    others += 1;
                    away.extend(taken(other, &shape, &mut random));
                }
            }
            if others > 0 && !keeps_enough(&shape, &away, &mut random) {
                return TestResult::failed();
            }
        }
        TestResult::passed()
    }
    quickcheck::QuickCheck::new().tests(300).rng(Gen::new(100)).quickcheck(holds as fn(u64, u8) -> TestResult);
}

#[test]
fn the_limit_of_damage_is_the_weaker_of_data_and_metadata() {
    assert_eq!(damage_max(&shape(4, 2)), 2);
    assert_eq!(damage_max(&shape(5, 4)), 2);
    assert_eq!(damage_max(&shape(5, 1)), 1);
    let small = Shape { zones: 1, nodes_per_zone: 1, drives_per_node: 4, scheme: protocol::Scheme::ReedSolomon { k: 2, m: 2 } };
    assert_eq!(damage_max(&small), 1);
}

fn planned(fault: Fault, at_s: u64, aim: Aim) -> Planned {
    let lasts_us = if cost(fault) == Cost::Outage { 2_000_000 } else { 0 };
    Planned {
        number: at_s,
        when: Moment::At { us: at_s * 1_000_000 },
        lasts_us,
        fault,
        aim,
        side: None,
        copied_us: None,
        beyond: false,
        draw: at_s,
    }
}

#[test]
fn a_zone_may_be_away_alone_but_not_together_with_another_node() {
    let mut budget = Budget::new(shape(4, 2));
    assert!(budget.admit(planned(Fault::Partition, 1, Aim::Nodes(vec![0, 1]))).is_some());
    assert!(budget.admit(planned(Fault::Kill, 2, Aim::Nodes(vec![2]))).is_none());
    assert!(budget.admit(planned(Fault::Kill, 2, Aim::Nodes(vec![1]))).is_some());
    assert!(budget.admit(planned(Fault::BitRot, 2, Aim::Drives(vec![Place { node: 3, drive: 0 }]))).is_none());
    assert!(budget.admit(planned(Fault::PowerCut, 20, Aim::Nodes((0..6).collect()))).is_some());
    assert!(budget.admit(planned(Fault::Kill, 21, Aim::Nodes(vec![2]))).is_none());
}

#[test]
fn rot_goes_on_where_there_is_rot_when_no_other_drive_may_be_damaged() {
    let mut budget = Budget::new(shape(4, 2));
    let all = Aim::Shards { among: shape(4, 2).drives() };
    let struck: BTreeSet<Place> = (1..=50)
        .map(|at| budget.admit(planned(Fault::BitRot, at * 10, all.clone())).unwrap().aim.places(&shape(4, 2)).unwrap())
        .inspect(|places| assert_eq!(places.len(), 1))
        .flatten()
        .collect();
    assert_eq!(struck.len(), 2);
}

#[test]
fn states_that_rot_count_as_lost_and_hold_no_outage_off() {
    let mut budget = Budget::new(shape(4, 2));
    let all = Aim::Logs { among: shape(4, 2).drives() };
    let strike = |budget: &mut Budget, at: u64| budget.admit(planned(Fault::StateRot, at * 10, all.clone())).unwrap().aim;
    let struck: BTreeSet<Place> = (1..=50).flat_map(|at| strike(&mut budget, at).places(&shape(4, 2)).unwrap()).collect();
    assert_eq!(struck.len(), 2);
    let elsewhere = |node: usize| struck.iter().all(|place| place.node != node);
    let node = (0..6).find(|node| elsewhere(*node)).unwrap();
    assert!(budget.admit(planned(Fault::BitRot, 600, Aim::Drives(vec![Place { node, drive: 0 }]))).is_none());
    assert!(budget.admit(planned(Fault::Kill, 610, Aim::Nodes(vec![node]))).is_some());
}

#[test]
fn beyond_the_budget_everything_is_admitted_and_counted() {
    let mut budget = Budget::new(shape(4, 2));
    let mut many = planned(Fault::DriveGone, 1, Aim::Drives(shape(4, 2).drives()));
    many.beyond = true;
    assert!(budget.admit(many).is_some());
    assert!(budget.admit(planned(Fault::BitRot, 2, Aim::Drives(vec![Place { node: 0, drive: 0 }]))).is_none());
}
