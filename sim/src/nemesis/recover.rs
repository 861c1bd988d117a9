//! Nodes are taken for lost for good. Groups that had most of their voters there are founded anew from what the other nodes have, by the very
//! code of the operator's tool on a machine whose node does not run; power may fail while it works. Later the lost nodes come back with all
//! that they had, and must learn that they are of before.
//!
//! The nodes go in a moment in which one of the others durably has all that anybody has of such a group. So nothing that was acknowledged may be
//! missing afterwards, though a survivor has not applied all of it, or does not know that it was committed.
//!
//! They come back one after another, each when the one before was told: most of the former voters together would go on as the group that they were.

use super::{Blow, Stage, World};
use crate::cluster::Errand;
use ::node::groups::{Survey, survey};
use ::node::recover::{Plan, Refusal, Wish, carry_out as tool, plan};
use ::node::settings::ConsensusSettings;
use consensus::ReplicaPlace;
use consensus::host::ReplicaStatus;
use consensus::refounding::{Refounded, Refounding};
use protocol::{DriveId, GroupId, NodeId, ReplicaId};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::disk::Disk;
use runtime::side::Machine;
use runtime::time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest that the moment is waited for, and how often is looked for it.
const MOMENT_MAX: Duration = Duration::from_secs(20);
const MOMENT_LOOK: Duration = Duration::from_millis(3);
/// The longest that those who are left run without the others, until their operator stops them.
const ALONE_MAX: Duration = Duration::from_secs(2);
/// Until he has his tool at hand.
const HANDS: Duration = Duration::from_millis(500);
/// The longest that the tool works.
const TOOL_MAX: Duration = Duration::from_secs(60);
/// Operations of a drive until power fails while it works.
const OPERATIONS_UNTIL_CUT: u64 = 160;
/// The longest that a node that came back is waited for, and how often is looked whether it was told.
const TOLD_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Strike, recover, and heal.
pub async fn carry_out(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let (world, lost) = (blow.world, &blow.struck.nodes);
    blow.let_go();
    let left: Vec<usize> = (0..world.shape.nodes()).filter(|node| !lost.contains(node)).collect();
    let away: BTreeSet<DriveId> = lost.iter().flat_map(|node| world.shape.drives_of(*node)).map(|place| world.id(place)).collect();
    let Some(groups) = moment(world, &away).await else {
        return world.note(blow.planned, Stage::Told, "something was on the nodes alone all the time: none was taken away".to_owned());
    };
    take_down(world, lost, random);
    world.note(blow.planned, Stage::Told, format!("nodes {lost:?} are gone, and groups {groups:?} cannot go on"));
    let mut anew = BTreeMap::new();
    if !groups.is_empty() {
        time::sleep(ALONE_MAX.mul_f64(random.random())).await;
        take_down(world, &left, random);
        time::sleep(HANDS).await;
        for group in groups {
            anew.extend(recover(blow, group, &left, random).await.map(|first| (group, first)));
        }
        left.iter().for_each(|node| world.bring_up(*node));
    }
    blow.last().await;
    for node in lost {
        world.bring_up(*node);
        let mut told = come_back(world, *node, &anew).await;
        if random.random() {
            // What it was told it knows for good.
            world.cut_power(*node, random);
            time::sleep(HANDS).await;
            world.bring_up(*node);
            told &= come_back(world, *node, &anew).await;
        }
        world.note(blow.planned, Stage::Told, format!("node {node} is back{}", if told { "" } else { ", and was not told" }));
    }
}

/// Wait for the moment in which nothing would be lost with what is `away`: the groups that could not go on then.
async fn moment(world: &World, away: &BTreeSet<DriveId>) -> Option<Vec<GroupId>> {
    let patience = time::now() + MOMENT_MAX;
    loop {
        match world.judge.endangered(away) {
            None if time::now() < patience => time::sleep(MOMENT_LOOK).await,
            found => return found,
        }
    }
}

/// All of them, in the same moment.
fn take_down(world: &World, nodes: &[usize], random: &mut ChaCha12Rng) {
    let power: bool = random.random();
    for node in nodes {
        match power {
            true => world.cut_power(*node, random),
            false => world.kill(*node),
        }
    }
}

/// What the operator does for one group: the replica with which it goes on.
async fn recover(blow: &Blow<'_>, group: GroupId, left: &[usize], random: &mut ChaCha12Rng) -> Option<ReplicaId> {
    let world = blow.world;
    let note = |what: String| world.note(blow.planned, Stage::Told, what);
    let cut = random.random_bool(0.5).then(|| random.random_range(0..OPERATIONS_UNTIL_CUT));
    // Power fails once at most.
    for cut in [cut, None] {
        let places = left.iter().flat_map(|node| world.shape.drives_of(*node));
        let drives: Vec<(DriveId, Arc<dyn Disk>)> = places.map(|place| (world.id(place), world.drive(place).inspect())).collect();
        let (surveys, unreadable) = survey(&drives);
        unreadable.into_iter().for_each(note);
        let Some(found) = surveys.into_iter().find(|survey| survey.group == group) else {
            note(format!("nothing is left of group {group}"));
            return None;
        };
        let plan = match wished(&found, world.machine(left[0]).wall_ms().0 / 1000, random.random()) {
            Ok(plan) => plan,
            // It was decided before power failed.
            Err(Refusal::Quorum) => return found.members().filter(|members| members.era() > 0).map(|members| members.last),
            Err(refusal) => {
                note(format!("group {group} is not recovered: {refusal}"));
                return None;
            }
        };
        world.judge.expects(&plan.refounding);
        let Refounding { from: ReplicaPlace { replica, .. }, whole_to, .. } = plan.refounding;
        note(format!("group {group} is to go on from replica {replica}, with all entries to {whole_to}"));
        match run(world, plan, cut, random).await {
            Ok(done) => return Some(done.members.last),
            Err(reason) => note(format!("group {group} is not recovered yet: {reason}")),
        }
    }
    None
}

/// Whoever is not there is said to be lost, as the tool asks for it.
fn wished(found: &Survey, at_s: u64, random: u64) -> Result<Plan, Refusal> {
    match plan(found, &Wish::default(), at_s, random) {
        Err(Refusal::NotNamed(missing)) => {
            let lost = missing.iter().map(|place| place.replica).collect();
            plan(found, &Wish { from: None, lost }, at_s, random)
        }
        outcome => outcome,
    }
}

/// Run the tool on the machine of the survivor. With `cut`, power fails after so many operations of its drive, or at the end.
async fn run(world: &World, plan: Plan, cut: Option<u64>, random: &mut ChaCha12Rng) -> Result<Refounded, String> {
    let ReplicaPlace { node, drive, .. } = plan.refounding.from;
    let node = (0..world.shape.nodes()).find(|index| NodeId(*index as u64 + 1) == node);
    let Some(place) = node.and_then(|node| world.place(node, drive)) else { return Err("its drive is nowhere".to_owned()) };
    let outcome: Arc<Mutex<Option<Result<Refounded, String>>>> = Arc::default();
    let told = outcome.clone();
    let work = move |drives: &[(DriveId, Arc<dyn Disk>)], settings: &ConsensusSettings| {
        let done = tool(&plan, drives, settings);
        *told.lock().expect("nothing panics under this lock") = Some(done);
    };
    let machine: &Machine = world.machine(place.node);
    world.cluster.send(place.node, Some(Errand { drive: place.drive, work: Arc::new(work) }));
    if let Some(operations) = cut {
        world.drive(place).cut_power_after(operations, random);
    }
    machine.restart();
    let patience = time::now() + TOOL_MAX;
    while time::now() < patience && !machine.is_dead() {
        time::sleep(LOOK).await;
    }
    world.cluster.send(place.node, None);
    match cut {
        Some(_) => machine.cut_power(random),
        None => machine.kill(),
    }
    outcome.lock().expect("nothing panics under this lock").take().unwrap_or_else(|| Err("the tool does not end".to_owned()))
}

/// Wait until a node that came back runs none of the replicas that are of before. `anew`: with which replica each group was founded anew.
async fn come_back(world: &World, node: usize, anew: &BTreeMap<GroupId, ReplicaId>) -> bool {
    let patience = time::now() + TOLD_MAX;
    let untold = |one: &ReplicaStatus| anew.get(&one.group).is_some_and(|first| one.replica < *first) && !one.to_be_replaced;
    while time::now() < patience {
        if world.cluster.node(node).is_some_and(|node| !node.host().status().iter().any(untold)) {
            return true;
        }
        time::sleep(LOOK).await;
    }
    false
}
