use super::*;
use jepsen_like::scenario::Fault;
use std::collections::BTreeSet;

const SMOKE: &str = include_str!("../../../chaos-scenarios/smoke.toml");

fn plan(seed: u64) -> Plan {
    Plan::draw("smoke", SMOKE, seed).unwrap()
}

#[test]
fn the_same_seed_draws_the_same_plan_and_others_differ() {
    assert_eq!(plan(7), plan(7));
    let different: BTreeSet<String> = (0..40).map(|seed| format!("{:?}", plan(seed).faults)).collect();
    assert!(different.len() > 30, "{}", different.len());
    let knobs: BTreeSet<String> = (0..40).map(|seed| format!("{:?}", plan(seed).knobs)).collect();
    assert!(knobs.len() > 30, "{}", knobs.len());
}

#[test]
fn a_plan_read_back_from_json_is_the_same_and_needs_no_scenario_file() {
    for seed in 0..40 {
        let read = Plan::from_json(&plan(seed).to_json()).unwrap();
        assert_eq!(read, plan(seed));
        assert_eq!(read.scenario().unwrap(), Scenario::parse("smoke", SMOKE).unwrap());
    }
}

#[test]
fn a_nemesis_draws_the_same_whatever_other_nemeses_the_scenario_has() {
    let without_second = {
        let (head, tail) = SMOKE.split_at(SMOKE.match_indices("[[nemesis]]").nth(1).unwrap().0);
        head.to_string() + &tail[tail.find("[expect]").unwrap()..]
    };
    let mut compared = 0;
    for seed in 0..40 {
        let alone = Plan::draw("smoke", &without_second, seed).unwrap().faults;
        for fault in plan(seed).faults.iter().filter(|fault| fault.number < 1_000_000) {
            if let Some(same) = alone.iter().find(|other| other.number == fault.number) {
                assert_eq!(same, fault);
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "{compared}");
}

#[test]
fn no_fault_and_exactly_one_fault_are_drawn_too() {
    let counts: BTreeSet<usize> = (0..200).map(|seed| plan(seed).faults.len()).collect();
    assert!(counts.contains(&0) && counts.contains(&1) && counts.len() > 4, "{counts:?}");
}

#[test]
fn a_plan_of_another_version_or_with_places_that_do_not_exist_is_refused() {
    let json = plan(1).to_json();
    assert_eq!(Plan::from_json(&json.replace("\"format_version\": 1", "\"format_version\": 2")), Err(Error::Version(2)));
    assert!(matches!(Plan::from_json("{"), Err(Error::Unreadable(_))));
    let mut wrong = plan(1);
    wrong.knobs.clocks.pop();
    assert!(matches!(Plan::from_json(&wrong.to_json()), Err(Error::Unreadable(_))));
}

#[test]
fn the_scenarios_together_have_every_fault_and_stop_at_every_waypoint() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../chaos-scenarios");
    let (mut faults, mut waypoints) = (BTreeSet::new(), BTreeSet::new());
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "toml") {
            let (name, text) = (path.file_stem().unwrap().to_string_lossy(), std::fs::read_to_string(&path).unwrap());
            // Also refuses what cannot be drawn: a waypoint that no code has, a target that a fault does not take.
            for fault in (0..4).flat_map(|seed| Plan::draw(&name, &text, seed).unwrap().faults) {
                faults.insert(fault.fault);
                if let Moment::Reached { waypoint, .. } = fault.when {
                    waypoints.insert(waypoint);
                }
            }
        }
    }
    let missed: Vec<&str> = Fault::ALL.iter().filter(|fault| !faults.contains(fault)).map(|fault| fault.name()).collect();
    assert!(missed.is_empty(), "{missed:?}");
    let missed: Vec<&&str> = runtime::probe::WAYPOINTS.iter().filter(|name| !waypoints.contains(**name)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn what_the_scenario_fixes_is_not_drawn() {
    let knobs = "[knobs]\npartitions = 3\nblob_bytes = \"32KiB\"\ngateway_bytes_max = \"16MiB\"\ndrive_bytes = \"1GiB\"\nlatency = \"2ms\"\n\n[expect]";
    let text = include_str!("../../../chaos-scenarios/smoke.toml").replacen("[expect]", knobs, 1);
    for seed in 0..20 {
        let knobs = Plan::draw("smoke", &text, seed).unwrap().knobs;
        assert_eq!((knobs.partitions, knobs.blob_bytes, knobs.gateway_bytes_max), (3, 32 << 10, 16 << 20));
        assert_eq!((knobs.drive_bytes, knobs.latency_us), (1 << 30, (2_000, 2_001)));
    }
}
