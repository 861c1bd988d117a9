//! A volume is sealed, through some node, as repair will: what its slots then list must have every acknowledged blob.

use super::{Blow, Stage};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::{side::Machine, time};
use std::time::Duration;

/// A seal that is not done by then is given up.
const SEAL_MAX: Duration = Duration::from_secs(5);

/// Strike: there is nothing to heal, the volume stays sealed.
pub async fn carry_out(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let world = blow.world;
    let share: f64 = random.random();
    let running: Vec<usize> = (0..world.cluster.machines.len()).filter(|node| world.cluster.node(*node).is_some()).collect();
    let (Some(volume), Some(through)) = (blow.struck.volume, running.get((share * running.len() as f64) as usize)) else {
        return world.note(blow.planned, Stage::Idle, "no node to seal through".to_string());
    };
    let machine: &Machine = world.machine(*through);
    let Some(node) = world.cluster.node(*through) else { return };
    let sealing = machine.spawn(async move { node.seal_volume(volume, time::now() + SEAL_MAX).await });
    // The machine may die meanwhile, and the task with it.
    match time::timeout(SEAL_MAX * 2, sealing).await {
        Ok(Ok(sealed)) => {
            world.judge.fenced(&sealed);
            let fenced = sealed.lists.iter().filter(|list| list.is_ok()).count();
            world.note(blow.planned, Stage::Told, format!("volume {volume} sealed through node {through}, {fenced} slots fenced"));
            world.done.lock().expect("nothing panics under this lock").sealed.push(sealed);
        }
        Ok(Err(error)) => world.note(blow.planned, Stage::Told, error.to_string()),
        Err(_) => world.note(blow.planned, Stage::Told, format!("sealing volume {volume} through node {through} did not end")),
    }
}
