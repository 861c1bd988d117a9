//! One run: build the cluster, let clients work while the plan's faults strike, heal, read everything back, judge.

use crate::cluster::{Cluster, Shape, client_address};
use crate::judge::Judge;
use crate::plan::{Plan, Planned};
use jepsen_like::history::Recorder;
use jepsen_like::s3::Client;
use jepsen_like::scenario::{Fault, Scenario};
use jepsen_like::workload::{self, Work};
use runtime::side::{self, Machine};
use runtime::task;
use runtime::time::{self, Instant};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Simulated time in which a new cluster must serve.
const START_MAX: Duration = Duration::from_secs(60);
/// Simulated time after the last fault in which everything must be readable.
const SETTLE_MAX: Duration = Duration::from_secs(60);

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

    let creating = create_buckets(clients[0].clone(), workload::buckets(&scenario), began + START_MAX);
    if let Err(reason) = clients_machine.spawn(creating).await {
        report.violations.push(format!("a cluster without faults does not serve within {} s: {reason}", START_MAX.as_secs()));
        return report;
    }

    let judge = Judge::new(&scenario, cluster.clone());
    let recorder = Arc::new(Recorder::new());
    let work = Work::new(&clients, recorder.clone());
    let working = {
        let (work, steps) = (work.clone(), workload::draw(&scenario, plan.seed));
        let untils: Vec<Duration> = scenario.workloads.iter().map(|workload| workload.until).collect();
        clients_machine.spawn(async move { work.run(steps, &untils).await })
    };
    strike(&cluster, &plan, time::now()).await;
    working.await;

    let read_back = clients_machine.spawn(async move { work.read_all(SETTLE_MAX).await }).await;
    let history = recorder.history();
    report.violations.extend(judge.end(&history, &read_back).await);
    report.tally = history.tally();
    report.took = time::now().duration_since(began);
    report
}

async fn create_buckets(client: Client, buckets: Vec<String>, deadline: Instant) -> Result<(), String> {
    for bucket in buckets {
        loop {
            match client.create_bucket(&bucket).await {
                Ok(()) => break,
                // An earlier attempt's reply was lost.
                Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => break,
                Err(error) if time::now() >= deadline => return Err(error.to_string()),
                Err(_) => time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
    Ok(())
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
