//! Good files are read as written; every refusal names its line.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use jepsen_like::scenario::{Acknowledged, Budget, Error, Fault, Knobs, Nemesis, Rate, RunsOn, Scenario, Side, Target, Unit, When};
use protocol::Scheme;

const GOOD: &str = include_str!("../../chaos-scenarios/smoke.toml");

fn refused(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    Scenario::parse("x", &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
}

/// `GOOD` with one nemesis more; its table begins at line `TABLE`.
const TABLE: usize = 47;

fn with_nemesis(nemesis: &str) -> Result<Scenario, Error> {
    let text = format!("{}\n[[nemesis]]\n{nemesis}\n", GOOD.trim_end());
    Scenario::parse("x", &text)
}

fn nemesis(table: &str) -> Nemesis {
    with_nemesis(table).unwrap().nemeses.pop().unwrap()
}

/// The refusal, and its line counted from that of `[[nemesis]]`.
fn refused_nemesis(table: &str) -> (usize, String) {
    let error = with_nemesis(table).unwrap_err().to_string();
    let (line, reason) = error.strip_prefix("scenario x: line ").unwrap().split_once(": ").unwrap();
    (line.parse::<usize>().unwrap() - TABLE, reason.to_owned())
}

#[test]
fn smoke_is_read_as_written() {
    let smoke = Scenario::parse("smoke", GOOD).unwrap();
    assert_eq!(GOOD.trim_end().lines().count() + 1, TABLE);
    assert!(smoke.claim.starts_with("whatever is killed") && smoke.claim.ends_with("half there."));
    assert_eq!((smoke.cluster.nodes(), smoke.cluster.scheme), (6, Scheme::ReedSolomon { k: 4, m: 2 }));
    assert_eq!(smoke.workloads[0].object_bytes, 1..=96 << 10);
    let Nemesis { when, fault, target, lasts, side, budget, always } = &smoke.nemeses[0];
    let rate = Rate { count: 1, per: Duration::from_secs(4) };
    assert_eq!(*when, When::During { from: Duration::from_secs(2), until: Duration::from_secs(18), rate });
    assert_eq!((*fault, *target, *budget), (Fault::Kill, Target::Some(1, Unit::Node), Budget::Within));
    assert_eq!((side, always), (&None, &false));
    assert_eq!(*lasts, Some(Duration::from_secs(1)..=Duration::from_secs(3)));
    assert!(smoke.expect.linearizable && smoke.expect.acknowledged == Some(Acknowledged::NeverLost));
    assert!(smoke.expect.not_judged().is_empty() && !smoke.beyond_budget());
    assert_eq!((smoke.until(), smoke.knobs), (Duration::from_secs(20), Knobs::default()));
}

#[test]
fn unknown_keys_and_values_are_refused_with_their_line() {
    assert_eq!(refused("clients = 6", "clents = 6").split_once(", expected").unwrap().0, "scenario x: line 14: unknown field `clents`");
    assert!(refused("zones = 3", "zones = 3\ncolour = 1").contains("line 8: unknown field `colour`"));
    let fault = refused("fault  = \"kill\"", "fault  = \"explode\"");
    assert!(fault.contains("line 22") && fault.contains("explode"), "{fault}");
    assert!(refused("until = \"20s\"", "until = \"20 s\"").contains("line 18"));
    assert!(refused("never lost", "mostly kept").contains("mostly kept"));
    assert!(refused("\"I1\"", "\"I13\"").contains("line 3: there is no invariant I13"));
    assert!(refused("[\"sim\"]", "[]").contains("line 4: runs nowhere"));
    assert!(refused("# Claim: ", "# ").contains("line 1: a scenario begins with its claim"));
    assert!(refused("rs(4,2)", "rs(14,4)").contains("line 10: rs(14,4) needs 18 drives, the cluster has 12"));
    assert!(refused("rs(4,2)", "rs(4;2)").contains("line 10: invalid value: string \"rs(4;2)\", expected a scheme"));
    assert!(refused("zones = 3", "zones = 0").contains("line 7: zones is between 1 and 100"));
    assert!(refused("clients = 6", "clients = 0").contains("line 13: put-get-delete: 1 to 1000 clients"));
    assert!(refused("\"20s\"", "\"200h\"").contains("line 13: put-get-delete: it would be"));
    assert!(refused("put-get-delete", "dance").contains("line 13: unknown variant `dance`"));
    assert!(refused("rate   = \"1 per 4s\"\n", "").contains("line 22: kill: either"));
}

#[test]
fn waypoints_sides_and_leaders_are_read() {
    let read = nemesis(
        "on = \"gateway-before-commit\"\nnth = \"1..20\"\nduring = \"5s..20s\"\nfault = \"pause\"\ntarget = \"the node there\"\nalways = true",
    );
    let during = Some(Duration::from_secs(5)..=Duration::from_secs(20));
    assert_eq!(read.when, When::On { waypoint: "gateway-before-commit".to_owned(), nth: 1..=20, during });
    assert_eq!((read.fault, read.target, read.always), (Fault::Pause, Target::NodeThere, true));
    let read = nemesis("on = \"gateway-before-commit\"\nfault = \"power-cut\"\ntarget = \"all nodes\"");
    assert_eq!(read.when, When::On { waypoint: "gateway-before-commit".to_owned(), nth: 1..=1, during: None });
    let read = nemesis("at = \"3s\"\nfault = \"asymmetric-partition\"\nside = \"in\"\ntarget = \"the root leader\"\nlasts = \"4s\"");
    assert_eq!((read.when, read.side, read.target), (When::At(Duration::from_secs(3)), Some(Side::In), Target::RootLeader));
}

#[test]
fn what_a_nemesis_cannot_mean_is_refused_with_its_line() {
    for (table, line, reason) in [
        ("at = \"1s\"\nfault = \"kill\"\ntarget = \"one drive\"", 3, "kill: cannot strike one drive: it strikes nodes or zones"),
        ("at = \"1s\"\nfault = \"ring\"\ntarget = \"one node\"", 3, "ring: cannot strike one node: it arranges all nodes or all zones"),
        ("at = \"1s\"\nfault = \"bit-rot\"\ntarget = \"the clients\"", 3, "bit-rot: cannot strike the clients: it strikes drives"),
        (
            "at = \"1s\"\nfault = \"drives-swapped\"\ntarget = \"one drive\"",
            3,
            "drives-swapped: cannot strike one drive: it swaps 2 drives",
        ),
        ("at = \"1s\"\ntarget = \"one drive\"\nlasts = \"1s\"\nfault = \"bit-rot\"", 3, "bit-rot: does not end by itself: no `lasts`"),
        ("at = \"1s\"\nfault = \"kill\"\nside = \"in\"\ntarget = \"one node\"", 3, "kill: has no `side`"),
        ("at = \"1s\"\nfault = \"kill\"\ntarget = \"the node there\"", 3, "kill: only a waypoint has the node there"),
        ("at = \"1s\"\nnth = \"2\"\nfault = \"kill\"\ntarget = \"one node\"", 3, "kill: `nth` counts"),
        ("on = \"A b\"\nfault = \"kill\"\ntarget = \"one node\"", 1, "kill: `A b` is no waypoint"),
        ("on = \"a\"\nat = \"1s\"\nfault = \"kill\"\ntarget = \"one node\"", 3, "kill: either `at`"),
        ("during = \"1s..2s\"\nrate = \"1 per 1s\"\non = \"a\"\nfault = \"kill\"\ntarget = \"one node\"", 4, "kill: either `at`"),
        ("during = \"1s\"\nrate = \"1 per 1s\"\nfault = \"kill\"\ntarget = \"one node\"", 3, "kill: either `at`"),
    ] {
        let refusal = refused_nemesis(table);
        assert!(refusal.0 == line && refusal.1.starts_with(reason), "{table}\n{refusal:?}");
    }
}

#[test]
fn a_fault_that_processes_cannot_receive_is_refused_by_name_with_its_line() {
    let both = GOOD.replacen("[\"sim\"]", "[\"sim\", \"processes\"]", 1);
    let error = Scenario::parse("x", &both).unwrap_err().to_string();
    assert_eq!(error, "scenario x: line 30: power-cut: real processes cannot receive it");
    let kills = both.replace("power-cut", "kill");
    assert_eq!(Scenario::parse("x", &kills).unwrap().runs_on, [RunsOn::Sim, RunsOn::Processes]);
    let leader = kills.replacen("one node", "the root leader", 1);
    assert!(Scenario::parse("x", &leader).unwrap_err().to_string().contains("line 23: kill: who is the root leader cannot be seen"));
    let waypoint = format!("{kills}\n[[nemesis]]\non = \"a\"\nfault = \"kill\"\ntarget = \"one node\"\n");
    assert!(Scenario::parse("x", &waypoint).unwrap_err().to_string().contains("real processes do not stop at waypoints"));
}

#[test]
fn expectations_are_read_and_those_not_judged_yet_are_named() {
    let more = "listings = \"complete\"\nredundancy = \"full within 120s of the last fault\"\nservice = \"back within 10s of the last fault\"\n\
        orphans = \"none\"\nqueues = \"empty\"\nmemory = \"bounded\"\n";
    let expect = Scenario::parse("x", &format!("{GOOD}{more}")).unwrap().expect;
    assert_eq!(expect.not_judged(), ["redundancy", "orphans", "queues"]);
    assert!(expect.listings_complete && expect.memory_bounded);
    assert_eq!(expect.service_within, Some(Duration::from_secs(10)));
}

#[test]
fn losses_are_expected_beyond_the_budget_and_nowhere_else() {
    let ledger = GOOD.replace("never lost", "lost as the ledger says");
    assert!(Scenario::parse("x", &ledger).unwrap_err().to_string().contains("line 46: acknowledged: nothing is lost unless"));
    let beyond = ledger.replacen("\"within\"", "\"beyond\"", 1);
    let read = Scenario::parse("x", &beyond).unwrap();
    assert!(read.beyond_budget() && read.expect.acknowledged == Some(Acknowledged::LostAsTheLedgerSays));
    assert!(refused("\"within\"", "\"beyond\"").contains("line 46: acknowledged: faults beyond the budget may lose"));
}

#[test]
fn knobs_are_read() {
    let knobs = "[knobs]\npartitions = 2\nblob_bytes = \"64KiB\"\ndrive_bytes = \"1GiB\"\nlog_tail_bytes = \"0\"\nlatency = \"1ms..20ms\"\n[expect]";
    let read = Scenario::parse("x", &GOOD.replacen("[expect]", knobs, 1)).unwrap().knobs;
    assert_eq!((read.partitions, read.blob_bytes, read.drive_bytes), (Some(2), Some(64 << 10), Some(1 << 30)));
    assert_eq!((read.log_tail_bytes, read.log_segment_bytes, read.checkpoint_bytes), (Some(0), None, None));
    assert_eq!(read.latency, Some(Duration::from_millis(1)..=Duration::from_millis(20)));
    assert!(refused("[expect]", "[knobs]\nblob_bytes = \"1..2\"\n[expect]").contains("line 45: one size, not a range"));
    assert!(refused("[expect]", "[knobs]\npartitions = 0\n[expect]").contains("line 45: partitions is between 1 and 1000"));
}

#[test]
fn every_scenario_in_the_repository_parses() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../chaos-scenarios");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // What lies in folders are plans, not scenarios.
        if path.extension().is_some_and(|extension| extension == "toml") {
            Scenario::parse(&path.display().to_string(), &std::fs::read_to_string(&path).unwrap()).unwrap();
        }
    }
}
