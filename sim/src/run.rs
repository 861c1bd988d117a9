//! One run: build the cluster, let clients work while the plan's faults strike, heal, read everything back, judge.

use crate::cluster::{Cluster, client_address};
use crate::judge::Judge;
use crate::nemesis::{self, Deeds};
use crate::plan::{Place, Plan};
use crate::timeline::Watch;
use crate::violation::Violation;
use crate::{identities, lifecycle};
use jepsen_like::history::{History, Recorder};
use jepsen_like::s3::Client;
use jepsen_like::workload::{self, Work};
use runtime::side::{self, Machine};
use runtime::task;
use runtime::time::{self, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Simulated time in which a new cluster must serve.
const START_MAX: Duration = Duration::from_secs(60);
/// Simulated time after the last fault in which everything must be readable.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How often the judge looks at the drives when nothing is acknowledged.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// What a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// Operations by what became of them.
    pub tally: BTreeMap<String, usize>,
    pub violations: Vec<Violation>,
    /// What the nemesis did.
    pub deeds: Deeds,
    /// Simulated time from start to end.
    pub took: Duration,
}

/// Carry `plan` out, inside the simulation.
pub async fn run(plan: Plan, watch: Watch) -> Report {
    let began = time::now();
    let mut report = Report::default();
    let scenario = plan.scenario().expect("checked when the plan was drawn or read");
    side::set_default_link(plan.knobs.link());
    let cluster = Arc::new(Cluster::start(&plan));
    let clients_machine = Machine::start("clients", client_address(0), Vec::new(), std::future::pending::<()>);
    let clients: Vec<Client> = (0..cluster.machines.len()).map(|index| cluster.client(index)).collect();

    let judge = Arc::new(Judge::new(&scenario, cluster.clone()));
    let hearing = judge.clone();
    side::listen(Box::new(move |kind, numbers| hearing.told(kind, numbers)));
    let watching = judge.clone();
    let judging = task::spawn(async move {
        loop {
            watching.watch();
            time::sleep(WATCH_INTERVAL).await;
        }
    });
    let creating = create_buckets(clients[0].clone(), workload::buckets(&scenario), began + START_MAX);
    if let Err(reason) = clients_machine.spawn(creating).await {
        let text = format!("a cluster without faults does not serve within {} s: {reason}", START_MAX.as_secs());
        report.violations.push(Violation::new("serves-at-start", text));
        drop(judging);
        report.violations.extend(judge.end(&History::default(), &BTreeMap::new(), &[]).await);
        report.took = time::now().duration_since(began);
        return report;
    }

    let day = plan.knobs.day_ms.map(Duration::from_millis);
    if day.is_some() {
        let clients = clients.clone();
        let begun = clients_machine.spawn(async move { lifecycle::begin(&clients, time::now() + START_MAX).await }).await;
        let text = |error| format!("the lifecycle of a bucket cannot be set in a cluster without faults: {error}");
        report.violations.extend(begun.err().map(|error| Violation::new("serves-at-start", text(error))));
    }

    let recorder = Arc::new(Recorder::new());
    let _watching = watch.start(cluster.clone(), plan.shape);
    let told = judge.clone();
    recorder.on_end(move |operation| told.acknowledged(operation));
    let work = Work::new(&clients, recorder.clone());
    let working = {
        let (work, steps) = (work.clone(), plan.steps.clone());
        let untils: Vec<Duration> = scenario.workloads.iter().map(|workload| workload.until).collect();
        clients_machine.spawn(async move { work.run(steps, &untils).await })
    };
    let expiring = day.map(|_| {
        let (clients, until) = (clients.clone(), time::now() + scenario.until());
        clients_machine.spawn(async move { lifecycle::work(&clients, until).await })
    });
    let book = plan.knobs.identities.then(Arc::<identities::Book>::default);
    let operating = book.clone().map(|book| {
        let office = Machine::start("operator", client_address(1), Vec::new(), std::future::pending::<()>);
        let (cluster, clients, until) = (cluster.clone(), clients.clone(), time::now() + scenario.until());
        let asked = book.clone();
        let watching = clients_machine.spawn(async move { identities::watch(&clients, &asked, until).await });
        (office.spawn(async move { identities::work(cluster.operator(), book, until).await }), watching)
    });
    let deeds = nemesis::carry_out(&cluster, &judge, &clients_machine, &plan, time::now()).await;
    let healed = time::now();
    {
        let (judge, clients) = (judge.clone(), clients.clone());
        clients_machine.spawn(async move { judge.serves_again(&clients, healed).await }).await;
    }
    working.await;
    if let (Some(expiring), Some(day)) = (expiring, day) {
        expiring.await;
        let clients = clients.clone();
        report.violations.extend(clients_machine.spawn(async move { lifecycle::ends(&clients, day).await }).await);
    }
    let mut said = BTreeMap::new();
    if let (Some((working, watching)), Some(book)) = (operating, book) {
        working.await;
        report.violations.extend(watching.await);
        said = book.tally();
        let clients = clients.clone();
        report.violations.extend(clients_machine.spawn(async move { identities::ends(&clients, &book).await }).await);
    }

    let read_back = clients_machine.spawn(async move { work.read_all(SETTLE_MAX).await }).await;
    drop(judging);
    let history = recorder.history();
    watch.finish(&plan, &scenario.claim, &deeds.deeds, &history);
    let ids =
        |places: &BTreeSet<Place>| places.iter().map(|place| cluster.bootstrap.map.nodes[place.node].drives[place.drive].id).collect();
    judge.explain(&ids(&deeds.damaged), &ids(&deeds.rotten_states), &ids(&deeds.exchanged));
    report.violations.extend(judge.end(&history, &read_back, &deeds.sealed).await);
    report.violations.extend(refused_without_reason(&cluster, &deeds));
    report.deeds = deeds;
    report.tally = history.tally();
    report.tally.extend(said);
    report.tally.extend(judge.standing().into_iter().map(|(name, count)| (name.to_owned(), count)));
    report.took = time::now().duration_since(began);
    report
}

/// A drive that no fault has touched is one that its node takes at every start.
fn refused_without_reason(cluster: &Cluster, deeds: &Deeds) -> Vec<Violation> {
    let refused = cluster.refused().into_iter().filter(|(place, _)| !deeds.damaged.contains(place));
    let text = |(place, reason): (Place, String)| format!("node {} refused its good drive {}: {reason}", place.node, place.drive);
    refused.map(|refused| Violation::new("good-drive-refused", text(refused))).collect()
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
