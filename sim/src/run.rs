//! One run: build the cluster, let clients work while the plan's faults strike, heal, read everything back, judge.

use crate::cluster::{Cluster, Shape, client_address};
use crate::plan::{Plan, Planned};
use jepsen_like::check::{self, Violation};
use jepsen_like::history::Recorder;
use jepsen_like::s3::{Client, List, ListKind};
use jepsen_like::scenario::{Fault, Scenario};
use jepsen_like::workload;
use runtime::side::{self, Machine};
use runtime::task;
use runtime::time::{self, Instant};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BUCKET: &str = "simulated";
/// Simulated time in which a new cluster must serve.
const START_MAX: Duration = Duration::from_secs(60);
/// Simulated time after the last fault in which everything must be readable and all replicas equal.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Small, so that a listing has several pages.
const LIST_PAGE_KEYS: u32 = 7;

/// What a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// Operations by what became of them.
    pub tally: BTreeMap<String, usize>,
    pub violations: Vec<String>,
    /// Simulated time from start to end.
    pub took: Duration,
}

/// Run `scenario` under `plan`, inside the simulation.
pub async fn run(scenario: Scenario, plan: Plan) -> Report {
    let began = time::now();
    let mut report = Report::default();
    let cluster = Arc::new(Cluster::start(&Shape::of(&scenario)));
    let clients_machine = Machine::start("clients", client_address(0), Vec::new(), std::future::pending::<()>);
    let clients: Vec<Client> = (0..cluster.machines.len()).map(|index| cluster.client(index)).collect();

    let (first, deadline) = (clients[0].clone(), began + START_MAX);
    if let Err(reason) = clients_machine.spawn(create_bucket(first, deadline)).await {
        report.violations.push(format!("a cluster without faults does not serve within {} s: {reason}", START_MAX.as_secs()));
        return report;
    }

    let recorder = Arc::new(Recorder::new());
    let working = {
        let (scenario, clients, recorder, seed) = (scenario.clone(), clients.clone(), recorder.clone(), plan.seed);
        clients_machine.spawn(async move {
            let work = scenario.workloads.iter().map(|workload| workload::put_get_delete(workload, &clients, BUCKET, seed, &recorder));
            futures::future::join_all(work).await;
        })
    };
    strike(&cluster, &plan, time::now()).await;
    working.await;

    let keys = scenario.workloads.iter().map(|workload| workload.keys).max().unwrap_or(0);
    let (finals, listed) = {
        let (clients, recorder) = (clients.clone(), recorder.clone());
        let reading = async move {
            let finals = workload::read_all(keys, &clients, BUCKET, SETTLE_MAX, &recorder).await;
            (finals, list_all(&clients[1 % clients.len()]).await)
        };
        clients_machine.spawn(reading).await
    };
    let history = recorder.history();
    let mut violations: Vec<Violation> = check::read_back(&history, BUCKET, &finals);
    match listed {
        Ok(listed) => {
            violations.extend(check::listing(&finals, &listed));
        }
        Err(error) => report.violations.push(format!("no listing at the end: {error}")),
    }
    if scenario.expect.linearizable {
        violations.extend(check::linearizable(&history));
    }
    report.violations.extend(violations.iter().map(ToString::to_string));
    report.violations.extend(compare_replicas(&cluster).await);
    report.violations.extend(panics().into_iter().map(|panic| format!("a task panicked: {panic}")));
    report.tally = history.tally();
    report.took = time::now().duration_since(began);
    report
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keep every panic: one that a task or connection survives is a bug all the same.
pub fn watch_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(panic.to_string().replace('\n', " "));
        print(panic);
    }));
}

fn panics() -> Vec<String> {
    std::mem::take(&mut PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

async fn create_bucket(client: Client, deadline: Instant) -> Result<(), String> {
    loop {
        match client.create_bucket(BUCKET).await {
            Ok(()) => return Ok(()),
            // An earlier attempt's reply was lost.
            Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => return Ok(()),
            Err(error) if time::now() >= deadline => return Err(error.to_string()),
            Err(_) => time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// All keys, page by page.
async fn list_all(client: &Client) -> Result<Vec<String>, String> {
    let mut keys = Vec::new();
    let mut list = List { keys_max: Some(LIST_PAGE_KEYS), ..List::default() };
    loop {
        let page = client.list(BUCKET, ListKind::V2, &list).await.map_err(|error| error.to_string())?;
        keys.extend(page.objects.into_iter().map(|row| row.key));
        if !page.truncated {
            return Ok(keys);
        }
        list.token = page.next;
    }
}

/// Let the plan's faults strike, each healed after its time; returns when all are healed.
async fn strike(cluster: &Arc<Cluster>, plan: &Plan, start: Instant) {
    let mut lasting = Vec::new();
    for (number, planned) in plan.faults.iter().enumerate() {
        time::sleep_until(start + planned.at).await;
        lasting.push(task::spawn(strike_one(cluster.clone(), planned.clone(), plan.seed, number as u64)));
    }
    for fault in lasting {
        fault.await;
    }
}

async fn strike_one(cluster: Arc<Cluster>, planned: Planned, seed: u64, number: u64) {
    let struck: Vec<Machine> = planned.nodes.iter().map(|index| cluster.machines[*index].clone()).collect();
    let others: Vec<Machine> =
        (0..cluster.machines.len()).filter(|index| !planned.nodes.contains(index)).map(|index| cluster.machines[index].clone()).collect();
    match planned.fault {
        Fault::Kill => struck.iter().for_each(Machine::kill),
        Fault::PowerCut => {
            let mut random = side::stream_for(seed, "power cut", number, 0);
            struck.iter().for_each(|machine| machine.cut_power(&mut random));
        }
        Fault::Pause => struck.iter().for_each(Machine::pause),
        Fault::Partition => side::partition(&struck, &others),
        other => unreachable!("the plan refused {}", other.name()),
    }
    time::sleep(planned.lasts).await;
    match planned.fault {
        Fault::Pause => struck.iter().for_each(Machine::resume),
        Fault::Partition => side::heal(&struck, &others),
        _ => struck.iter().for_each(Machine::restart),
    }
}

/// Wait until the replicas of each group have applied the same, then compare their state hashes (I9).
async fn compare_replicas(cluster: &Cluster) -> Vec<String> {
    let deadline = time::now() + SETTLE_MAX;
    loop {
        let mut groups: BTreeMap<u64, Vec<(u64, u64, u64)>> = BTreeMap::new();
        for index in 0..cluster.machines.len() {
            let Some(node) = cluster.node(index) else { continue };
            for replica in node.host().status() {
                groups.entry(replica.group.0).or_default().push((replica.applied, replica.state_hash, replica.replica.0));
            }
        }
        let settled = groups.values().all(|replicas| replicas.iter().all(|replica| replica.0 == replicas[0].0));
        let differing: Vec<String> = groups
            .iter()
            .filter(|(_, replicas)| replicas.iter().any(|one| replicas.iter().any(|other| one.0 == other.0 && one.1 != other.1)))
            .map(|(group, replicas)| format!("replicas of group {group} differ (applied, state hash, replica): {replicas:x?}"))
            .collect();
        if settled || !differing.is_empty() {
            return differing;
        }
        if time::now() >= deadline {
            return vec![format!("replicas do not catch up within {} s (applied, state hash, replica): {groups:x?}", SETTLE_MAX.as_secs())];
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}
