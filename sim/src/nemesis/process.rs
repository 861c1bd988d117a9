//! Faults of processes: killed with and without a sound, cut from power, paused, restarted in order, and leaders moved.

use super::{Blow, World};
use jepsen_like::scenario::Fault;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::time;
use std::time::Duration;

/// Operations of a drive until a power cut in the middle of its work strikes.
const OPERATIONS_UNTIL_CUT: u64 = 60;
/// An orderly stop that takes longer than this is ended.
const STOP_MAX: Duration = Duration::from_secs(15);
/// How often is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(50);

/// How a process ends.
enum Death<'a> {
    Kill,
    Silent,
    Power(&'a mut ChaCha12Rng),
}

/// Strike and heal; false: the fault is none of processes.
pub async fn carry_out(blow: &Blow<'_>, random: &mut ChaCha12Rng) -> bool {
    let (world, nodes) = (blow.world, &blow.struck.nodes);
    match blow.planned.fault {
        Fault::Kill => nodes.iter().for_each(|node| world.take_down(*node, Death::Kill)),
        Fault::KillSilently => nodes.iter().for_each(|node| world.take_down(*node, Death::Silent)),
        Fault::PowerCut => nodes.iter().for_each(|node| world.take_down(*node, Death::Power(random))),
        Fault::PowerCutMidWrite => {
            // Who stands at the waypoint goes on, or nothing may ever be written.
            blow.let_go();
            mid_write(blow, random).await;
            nodes.iter().for_each(|node| world.take_down(*node, Death::Power(random)));
        }
        Fault::Pause => {
            pause(blow).await;
            return true;
        }
        Fault::RollingRestart | Fault::RollingUpgrade => {
            rolling_restart(blow).await;
            return true;
        }
        Fault::LeaderTransfer => {
            if let (Some(node), Some(group)) = (nodes.first().and_then(|node| world.cluster.node(*node)), blow.struck.group) {
                node.host().transfer_leadership(group);
            }
            blow.let_go();
            return true;
        }
        _ => return false,
    }
    blow.last().await;
    nodes.iter().for_each(|node| world.bring_up(*node));
    true
}

/// Wait until some drive of the struck nodes has stopped halfway through a write, at most as long as the fault lasts.
async fn mid_write(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let machines: Vec<_> = blow.struck.nodes.iter().map(|node| blow.world.machine(*node)).collect();
    let mut lost = Vec::new();
    for drive in machines.iter().filter(|machine| !machine.is_dead()).flat_map(|machine| machine.drives()) {
        drive.cut_power_after(random.random_range(0..OPERATIONS_UNTIL_CUT), random);
        lost.push(Box::pin(drive.power_lost()));
    }
    if !lost.is_empty() {
        // Without any write the power is cut all the same.
        let _ = time::timeout(blow.planned.lasts(), futures::future::select_all(lost)).await;
    }
}

async fn pause(blow: &Blow<'_>) {
    let (world, nodes) = (blow.world, &blow.struck.nodes);
    let mut paused = Vec::new();
    for node in nodes.iter().copied().filter(|node| !world.machine(*node).is_dead()) {
        let process = &mut world.standing().processes[node];
        process.paused += 1;
        paused.push((node, process.life));
        if process.paused == 1 {
            world.machine(node).pause();
        }
    }
    blow.last().await;
    for (node, life) in paused {
        let process = &mut world.standing().processes[node];
        // A pause ends with the life that it stopped.
        if process.life == life {
            process.paused -= 1;
            if process.paused == 0 {
                world.machine(node).resume();
            }
        }
    }
}

/// Each node in its turn: an orderly stop, and a start.
async fn rolling_restart(blow: &Blow<'_>) {
    let (world, nodes) = (blow.world, &blow.struck.nodes);
    blow.let_go();
    let turn = blow.planned.lasts() / nodes.len().max(1) as u32;
    for node in nodes {
        let next = time::now() + turn;
        world.stop(*node).await;
        if blow.planned.fault == Fault::RollingUpgrade {
            world.cluster.upgrade(*node);
        }
        world.bring_up(*node);
        time::sleep_until(next).await;
    }
}

impl World {
    fn take_down(&self, node: usize, death: Death<'_>) {
        let machine = self.machine(node);
        let mut standing = self.standing();
        let process = &mut standing.processes[node];
        process.down += 1;
        process.life += 1;
        if std::mem::take(&mut process.paused) > 0 {
            machine.resume();
        }
        match death {
            // What is dead already stays as it died, unless power goes too.
            Death::Kill | Death::Silent if machine.is_dead() => {}
            Death::Kill => machine.kill(),
            Death::Silent => machine.kill_silently(),
            Death::Power(random) => machine.cut_power(random),
        }
    }

    /// A kill, until [`World::bring_up`].
    pub(super) fn kill(&self, node: usize) {
        self.take_down(node, Death::Kill);
    }

    /// A loss of power, until [`World::bring_up`].
    pub(super) fn cut_power(&self, node: usize, random: &mut ChaCha12Rng) {
        self.take_down(node, Death::Power(random));
    }

    /// Undo one taking down; the last one starts the machine.
    pub(super) fn bring_up(&self, node: usize) {
        let process = &mut self.standing().processes[node];
        process.down -= 1;
        if process.down == 0 {
            self.machine(node).restart();
        }
    }

    /// Start a machine that ended by itself: what an operator, or its supervisor, does.
    pub(super) fn revive(&self, node: usize) {
        if self.standing().processes[node].down == 0 && self.machine(node).is_dead() {
            self.machine(node).restart();
        }
    }

    /// Let a node end in order, until [`World::bring_up`].
    async fn stop(&self, node: usize) {
        let machine = self.machine(node);
        let life = {
            let process = &mut self.standing().processes[node];
            process.down += 1;
            process.life
        };
        self.cluster.stop(node);
        let deadline = time::now() + STOP_MAX;
        while !machine.is_dead() && time::now() < deadline {
            time::sleep(LOOK).await;
        }
        let process = &mut self.standing().processes[node];
        if process.life == life {
            process.life += 1;
            process.paused = 0;
            if !machine.is_dead() {
                machine.resume();
                machine.kill();
            }
        }
    }
}
