//! Every kind of workload against the real binary, over real sockets and folders: what the simulator judges is also
//! what production does.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of real processes")]

mod server;

use jepsen_like::check;
use jepsen_like::history::{Outcome, Recorder, Seen};
use jepsen_like::scenario::Scenario;
use jepsen_like::workload::{self, Standing, Work};
use runtime::process::block_on;
use server::Up;
use std::sync::Arc;
use std::time::Duration;

const HEAD: &str = "# Claim: every kind of workload does on real processes what it should.\n\
    invariants = [\"I1\", \"I3\"]\nruns_on = [\"processes\"]\n\
    [cluster]\nzones = 3\nnodes_per_zone = 2\ndrives_per_node = 1\nscheme = \"rs(4,2)\"\n";
/// Clients, keys and sizes for each kind.
const KINDS: [(&str, usize, usize, &str); 8] = [
    ("put-get-delete", 3, 12, "0..300KiB"),
    ("list", 2, 30, "0..4KiB"),
    ("multipart", 2, 5, "100..64KiB"),
    ("copy", 2, 6, "20..300KiB"),
    ("buckets", 4, 2, "1..4KiB"),
    ("rude", 4, 6, "100..100KiB"),
    ("overload", 4, 6, "100KiB..2MiB"),
    ("versions", 3, 3, "20..50KiB"),
];

#[test]
fn every_workload_runs_on_real_processes_without_a_wrong_answer() {
    let tables = KINDS.map(|(kind, clients, keys, bytes)| {
        format!("[[workload]]\nkind = \"{kind}\"\nclients = {clients}\nkeys = {keys}\nobject_bytes = \"{bytes}\"\npause = \"100ms\"\nuntil = \"6s\"\n")
    });
    let scenario = Scenario::parse("workloads", &format!("{HEAD}{}", tables.concat())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data"));
    let (history, standing) = block_on(async {
        let client = up.client();
        for bucket in workload::buckets(&scenario) {
            client.create_bucket(&bucket).await.unwrap();
        }
        let recorder = Arc::new(Recorder::new());
        let work = Work::new(&[client], recorder.clone());
        let untils: Vec<Duration> = scenario.workloads.iter().map(|workload| workload.until).collect();
        work.run(workload::draw(&scenario, 7), &untils).await;
        let standing = work.read_all(Duration::from_secs(20)).await;
        (recorder.history(), standing)
    });

    let is_wrong = |outcome: &Outcome| matches!(outcome, Outcome::Read(Seen::Wrong(_)) | Outcome::Found { seen: Seen::Wrong(_), .. });
    let wrong = history.operations.iter().find(|operation| is_wrong(&operation.outcome));
    assert!(wrong.is_none(), "{wrong:?}");
    assert_eq!(standing.len(), KINDS.len() - 1 + 3, "each workload has a bucket, that of buckets three");
    for (bucket, Standing { finals, listed }) in &standing {
        assert_eq!(check::read_back(&history, bucket, finals), [], "{bucket}");
        assert_eq!(check::listing(finals, listed.as_ref().unwrap()), [], "{bucket}");
    }
    assert_eq!(check::model::versions(&history), []);
    let founded = workload::buckets(&scenario);
    assert_eq!(check::model::buckets(&history, &founded.iter().map(String::as_str).collect::<Vec<_>>()), []);
    let tally = history.tally();
    // What even a busy machine gets to in the time.
    for outcome in [
        "done",
        "read",
        "read absent",
        "page listed",
        "upload begun",
        "copied",
        "refused: bucket_exists",
        "buckets listed",
        "version made",
        "version read",
    ] {
        assert!(tally.contains_key(outcome), "{outcome}: {tally:?}");
    }
    assert!(tally.keys().any(|outcome| outcome.starts_with("not done: rude, ")), "{tally:?}");
}
