//! The nemesis: carries the faults of a plan out on simulated machines, links, clocks and drives, and heals them.
//!
//! Invariant: faults that overlap compose. What several hold (a dead machine, a full drive, a slow link) stays as long as
//! one of them does: each effect is counted, or kept with the number of its fault, in [`Standing`].
//!
//! A strike that finds nothing to strike (no leader, no shard, a waypoint that is not reached) does nothing and says so.

mod aim;
mod clock;
mod drive;
mod lost;
mod network;
mod process;
mod recover;
mod rot;
mod seal;
mod standing;
mod stray;

use crate::cluster::Cluster;
use crate::judge::Judge;
use crate::plan::{Moment, Place, Plan, Planned, Shape};
use aim::Struck;
use jepsen_like::scenario::{Fault, Strikes};
use protocol::{DriveId, NodeId};
use runtime::side::{self, Machine, Reached, SimDrive};
use runtime::task;
use runtime::time::{self, Instant};
use serde::{Deserialize, Serialize};
use standing::Standing;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What the nemesis did, for the timeline of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deed {
    /// Number of the fault in the plan.
    pub number: u64,
    /// After the start of the workloads.
    pub at: Duration,
    pub stage: Stage,
    pub what: String,
}

/// How far a fault has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It found nothing to strike: it is over.
    Idle,
    /// It strikes now.
    Struck,
    /// What became of it meanwhile.
    Told,
    /// What it struck is healed.
    Healed,
}

/// All that the nemesis did.
#[derive(Clone, Default, Debug)]
pub struct Deeds {
    pub deeds: Vec<Deed>,
    /// Drives of which bytes were lost, changed or taken away; a node may refuse them.
    pub damaged: BTreeSet<Place>,
    /// Drives of which the state of some replica rotted: that alone is healed.
    pub rotten_states: BTreeSet<Place>,
    /// Places where another drive or an old copy was put.
    pub exchanged: BTreeSet<Place>,
    /// What fenced slots said that they hold.
    pub sealed: Vec<node::Sealed>,
}

impl Deeds {
    /// Faults that found nothing to strike.
    pub fn idle(&self) -> impl Iterator<Item = &Deed> {
        self.deeds.iter().filter(|deed| deed.stage == Stage::Idle)
    }
}

/// What a fault works on.
struct World {
    cluster: Arc<Cluster>,
    /// Looks at the drives in the moment of an answer, and knows of buckets and blobs what the logs hold.
    judge: Arc<Judge>,
    clients: Machine,
    shape: Shape,
    start: Instant,
    standing: Mutex<Standing>,
    done: Mutex<Deeds>,
}

/// Let the plan's faults strike, each healed after its time, counted from `start`; returns when all are healed and what is
/// not running was started again, as an operator would.
pub async fn carry_out(cluster: &Arc<Cluster>, judge: &Arc<Judge>, clients: &Machine, plan: &Plan, start: Instant) -> Deeds {
    let world = Arc::new(World {
        cluster: cluster.clone(),
        judge: judge.clone(),
        clients: clients.clone(),
        shape: plan.shape,
        start,
        standing: Mutex::new(Standing::new(plan)),
        done: Mutex::default(),
    });
    (0..cluster.machines.len()).for_each(|node| world.set_clock(node));
    let strikes: Vec<_> = plan.faults.iter().map(|planned| task::spawn(strike(world.clone(), planned.clone()))).collect();
    for fault in strikes {
        fault.await;
    }
    for node in 0..cluster.machines.len() {
        world.revive(node);
    }
    world.done.lock().expect("nothing panics under this lock").clone()
}

/// One fault, from its time to its healing.
async fn strike(world: Arc<World>, planned: Planned) {
    let mut random = planned.stream();
    let mut copies = Vec::new();
    if let Some(us) = planned.copied_us {
        time::sleep_until(world.start + Duration::from_micros(us)).await;
        copies = drive::copies(&world, &planned, &mut random);
    }
    time::sleep_until(world.start + planned.from()).await;
    let reached = match &planned.when {
        Moment::At { .. } => None,
        Moment::Reached { waypoint, nth, until_us, .. } => {
            let mut armed = side::arm_waypoint(waypoint, *nth);
            match time::timeout_at(world.start + Duration::from_micros(*until_us), armed.reached()).await {
                Ok(reached) => Some(reached),
                Err(_) => return world.note(&planned, Stage::Idle, format!("{waypoint} was not reached {nth} times")),
            }
        }
    };
    let Some(mut struck) = world.resolve(&planned, reached.as_ref(), &mut random) else {
        return world.note(&planned, Stage::Idle, "nothing to strike".to_string());
    };
    if !copies.is_empty() {
        struck.drives = copies.iter().map(|(place, _)| *place).collect();
    }
    world.note(&planned, Stage::Struck, format!("{} {struck}", planned.fault.name()));
    let blow = Blow { world: &world, planned: &planned, struck, held: Mutex::new(reached) };
    match planned.fault.strikes() {
        _ if rot::strikes(planned.fault) => rot::carry_out(&blow, &mut random).await,
        _ if planned.fault == Fault::GroupsRecovered => recover::carry_out(&blow, &mut random).await,
        Strikes::Drives if planned.fault == Fault::DriveDeclaredLost => lost::carry_out(&blow, &mut random).await,
        Strikes::Drives => drive::carry_out(&blow, copies, &mut random).await,
        Strikes::Volumes => seal::carry_out(&blow, &mut random).await,
        Strikes::Partitions => stray::carry_out(&blow, &mut random).await,
        _ => {
            if !clock::carry_out(&blow, &mut random).await && !process::carry_out(&blow, &mut random).await {
                network::carry_out(&blow, &mut random).await;
            }
        }
    }
    if planned.fault.ends() {
        world.note(&planned, Stage::Healed, format!("{} healed", planned.fault.name()));
    }
}

/// A fault that strikes now.
struct Blow<'a> {
    world: &'a Arc<World>,
    planned: &'a Planned,
    struck: Struck,
    /// A task that stands at the waypoint, until the fault has struck.
    held: Mutex<Option<Reached>>,
}

impl Blow<'_> {
    /// The fault has struck: who stands at the waypoint goes on.
    fn let_go(&self) {
        self.held.lock().expect("nothing panics under this lock").take();
    }

    /// As long as the fault lasts.
    async fn last(&self) {
        self.let_go();
        time::sleep(self.planned.lasts()).await;
    }
}

impl World {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().expect("nothing panics under this lock")
    }

    fn machine(&self, node: usize) -> &Machine {
        &self.cluster.machines[node]
    }

    fn drive(&self, place: Place) -> &SimDrive {
        &self.machine(place.node).drives()[place.drive]
    }

    fn id(&self, place: Place) -> DriveId {
        ::node::drives::ids(NodeId(place.node as u64 + 1)).nth(place.drive).expect("a node has few drives")
    }

    fn note(&self, planned: &Planned, stage: Stage, what: String) {
        runtime::probe::note_event("nemesis", what.as_bytes());
        let deed = Deed { number: planned.number, at: time::now().saturating_duration_since(self.start), stage, what };
        self.done.lock().expect("nothing panics under this lock").deeds.push(deed);
    }

    fn damaged(&self, places: &[Place]) {
        self.done.lock().expect("nothing panics under this lock").damaged.extend(places);
    }
}
