//! A drive is declared lost, through some node, as an operator would: its replicas are replaced by others elsewhere.

use super::{Blow, Stage};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::{side::Machine, time};
use std::time::Duration;

/// An operator gives up after this time, and asks again through another node.
const ATTEMPT: Duration = Duration::from_secs(8);
const ATTEMPTS: usize = 8;

/// Strike: there is nothing to heal, a lost drive stays lost.
pub async fn carry_out(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let world = blow.world;
    blow.let_go();
    for place in &blow.struck.drives {
        let id = world.id(*place);
        for _ in 0..ATTEMPTS {
            let share: f64 = random.random();
            let running: Vec<usize> = (0..world.cluster.machines.len()).filter(|node| world.cluster.node(*node).is_some()).collect();
            let through = running.get((share * running.len() as f64) as usize);
            let Some((through, node)) = through.and_then(|through| Some((*through, world.cluster.node(*through)?))) else {
                time::sleep(ATTEMPT).await;
                continue;
            };
            let machine: &Machine = world.machine(through);
            let saying = machine.spawn(async move { node.lose_drive(id, time::now() + ATTEMPT).await });
            // The machine may die meanwhile, and the task with it.
            match time::timeout(ATTEMPT * 2, saying).await {
                Ok(Ok(())) => {
                    world.note(blow.planned, Stage::Told, format!("drive {id} declared lost through node {through}"));
                    break;
                }
                Ok(Err(error)) => world.note(blow.planned, Stage::Told, error.to_string()),
                Err(_) => world.note(blow.planned, Stage::Told, format!("declaring drive {id} lost through node {through} did not end")),
            }
        }
    }
}
