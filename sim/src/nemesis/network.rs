//! Faults of the network: silence in one direction or both, in all shapes of partitions; slow and lossy links; resets.
//!
//! Blocks of a direction add up in the simulated network itself. Of several faults that change the nature of one direction,
//! the latest in the plan shows.

use super::standing::End;
use super::{Blow, World};
use jepsen_like::scenario::{Fault, Side};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use runtime::side::{self, Link, Machine};
use runtime::time;
use std::time::Duration;

/// Strike and heal.
pub async fn carry_out(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let world = blow.world;
    let struck: Vec<End> =
        if blow.struck.clients { vec![End::Clients] } else { blow.struck.nodes.iter().map(|node| End::Node(*node)).collect() };
    let others: Vec<End> = world.nodes().filter(|end| !struck.contains(end)).collect();
    match blow.planned.fault {
        Fault::Partition => {
            let cut = Cut::both(&struck, &others);
            world.cut_while(&cut, blow.last()).await;
        }
        Fault::AsymmetricPartition => {
            let cut = match blow.planned.side {
                Some(Side::Out) => Cut::one_way(&struck, &others),
                _ => Cut::one_way(&others, &struck),
            };
            world.cut_while(&cut, blow.last()).await;
        }
        Fault::Ring => world.cut_while(&ring(&blow.struck.groups), blow.last()).await,
        Fault::Bridge => world.cut_while(&bridge(&blow.struck.groups), blow.last()).await,
        Fault::Flapping => flap(blow, &Cut::both(&struck, &others), random).await,
        Fault::SwizzleClog => swizzle(blow, random).await,
        Fault::ClientLinksCut => {
            let clients = [End::Clients];
            let struck: Vec<End> = if blow.struck.clients { world.nodes().collect() } else { struck };
            world.cut_while(&Cut::both(&struck, &clients), blow.last()).await;
        }
        Fault::BadNetwork => {
            let base = Duration::from_micros(random.random_range(500..20_000));
            let link = Link {
                latency: base..base * 4,
                tail: Some((random.random_range(0.001..0.05), base * 10..base * 100)),
                bytes_per_second: None,
                loss: random.random_range(0.005..0.15),
            };
            change(blow, &struck, &link).await;
        }
        Fault::SlowLink => {
            let base = Duration::from_millis(random.random_range(5..150));
            let mut link = Link::calm(base..base * 2);
            link.bytes_per_second = Some(random.random_range(64 << 10..2 << 20));
            change(blow, &struck, &link).await;
        }
        Fault::ResetConnections => {
            for (one, other) in Cut::both(&struck, &world.everybody()).0 {
                if one < other || !struck.contains(&other) {
                    side::reset_connections(world.end(one), world.end(other));
                }
            }
            blow.let_go();
        }
        Fault::SlowAccept => slow_accept(blow, random).await,
        other => unreachable!("{} is no fault of the network", other.name()),
    }
}

/// Directions that are silent.
struct Cut(Vec<(End, End)>);

impl Cut {
    fn one_way(from: &[End], to: &[End]) -> Cut {
        let ways = from.iter().flat_map(|from| to.iter().map(|to| (*from, *to)));
        Cut(ways.filter(|(from, to)| from != to).collect())
    }

    fn both(one: &[End], other: &[End]) -> Cut {
        let mut ways = Cut::one_way(one, other).0;
        ways.extend(Cut::one_way(other, one).0);
        ways.sort_unstable();
        ways.dedup();
        Cut(ways)
    }
}

/// Each group reaches the one before and the one behind.
fn ring(groups: &[Vec<usize>]) -> Cut {
    let count = groups.len();
    let apart = |one: usize, other: usize| {
        let steps = one.abs_diff(other);
        steps > 1 && steps != count - 1
    };
    between(groups, apart)
}

/// Both halves reach each other only through the first group.
fn bridge(groups: &[Vec<usize>]) -> Cut {
    let half = 1 + (groups.len() - 1) / 2;
    between(groups, |one, other| one > 0 && other > 0 && (one < half) != (other < half))
}

fn between(groups: &[Vec<usize>], apart: impl Fn(usize, usize) -> bool) -> Cut {
    let ends = |group: &Vec<usize>| group.iter().map(|node| End::Node(*node)).collect::<Vec<End>>();
    let mut ways = Vec::new();
    for (one, from) in groups.iter().enumerate() {
        for (other, to) in groups.iter().enumerate().filter(|(other, _)| apart(one, *other)) {
            assert_ne!(one, other, "a group is never apart from itself");
            ways.extend(Cut::one_way(&ends(from), &ends(to)).0);
        }
    }
    Cut(ways)
}

/// Silence that comes and goes.
async fn flap(blow: &Blow<'_>, cut: &Cut, random: &mut ChaCha12Rng) {
    blow.let_go();
    let end = time::now() + blow.planned.lasts();
    while time::now() < end {
        let (silent, open) = (random.random_range(100..1500), random.random_range(50..1000));
        blow.world.cut_while(cut, time::sleep(Duration::from_millis(silent))).await;
        time::sleep(Duration::from_millis(open)).await;
    }
}

/// The struck are cut off one after another in the first half of the time, and come back in another order in the second.
async fn swizzle(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    blow.let_go();
    let world = blow.world;
    let mut nodes = blow.struck.nodes.clone();
    let step = blow.planned.lasts() / (2 * nodes.len().max(1) as u32);
    let cut = |node: usize| Cut::both(&[End::Node(node)], &world.nodes().collect::<Vec<End>>());
    nodes.shuffle(random);
    for node in &nodes {
        world.block(&cut(*node));
        time::sleep(step).await;
    }
    nodes.shuffle(random);
    for node in &nodes {
        world.unblock(&cut(*node));
        time::sleep(step).await;
    }
}

/// Let all directions to and from the struck be like `link`.
async fn change(blow: &Blow<'_>, struck: &[End], link: &Link) {
    let (world, number) = (blow.world, blow.planned.number);
    let ways = Cut::both(struck, &world.everybody());
    for way in &ways.0 {
        world.standing().links.entry(*way).or_default().insert(number, link.clone());
        world.set_link(*way);
    }
    blow.last().await;
    for way in &ways.0 {
        world.standing().links.entry(*way).or_default().remove(&number);
        world.set_link(*way);
    }
}

async fn slow_accept(blow: &Blow<'_>, random: &mut ChaCha12Rng) {
    let (world, number) = (blow.world, blow.planned.number);
    let pause = Duration::from_millis(random.random_range(50..1500));
    for node in &blow.struck.nodes {
        world.standing().accepts[*node].insert(number, pause);
        world.set_accept(*node);
    }
    blow.last().await;
    for node in &blow.struck.nodes {
        world.standing().accepts[*node].remove(&number);
        world.set_accept(*node);
    }
}

impl World {
    fn nodes(&self) -> impl Iterator<Item = End> + use<> {
        (0..self.cluster.machines.len()).map(End::Node)
    }

    /// All nodes, and the clients.
    fn everybody(&self) -> Vec<End> {
        self.nodes().chain([End::Clients]).collect()
    }

    fn end(&self, end: End) -> &Machine {
        match end {
            End::Node(node) => self.machine(node),
            End::Clients => &self.clients,
        }
    }

    fn block(&self, cut: &Cut) {
        cut.0.iter().for_each(|(from, to)| side::block(self.end(*from), self.end(*to)));
    }

    fn unblock(&self, cut: &Cut) {
        cut.0.iter().for_each(|(from, to)| side::unblock(self.end(*from), self.end(*to)));
    }

    async fn cut_while(&self, cut: &Cut, while_this: impl Future<Output = ()>) {
        self.block(cut);
        while_this.await;
        self.unblock(cut);
    }

    fn set_link(&self, (from, to): (End, End)) {
        let link = self.standing().links.get(&(from, to)).and_then(|links| links.last_key_value().map(|(_, link)| link.clone()));
        match link {
            Some(link) => side::set_link(self.end(from), self.end(to), link),
            None => side::clear_link(self.end(from), self.end(to)),
        }
    }

    fn set_accept(&self, node: usize) {
        let pause = self.standing().accepts[node].values().max().copied().unwrap_or_default();
        side::set_slow_accept(self.machine(node), pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaches(cut: &Cut, from: usize, to: usize) -> bool {
        !cut.0.contains(&(End::Node(from), End::Node(to)))
    }

    #[test]
    fn in_a_ring_each_reaches_its_two_neighbours_only() {
        let cut = ring(&[vec![3], vec![0], vec![4], vec![1], vec![2]]);
        for (from, neighbours) in [(3, [2, 0]), (0, [3, 4]), (4, [0, 1]), (1, [4, 2]), (2, [1, 3])] {
            let reached: Vec<usize> = (0..5).filter(|to| *to != from && reaches(&cut, from, *to)).collect();
            let mut expected = neighbours.to_vec();
            expected.sort_unstable();
            assert_eq!(reached, expected, "from {from}");
        }
    }

    #[test]
    fn over_a_bridge_the_halves_meet_in_one_group_only() {
        let cut = bridge(&[vec![2], vec![0], vec![1], vec![3], vec![4]]);
        for (from, to, expected) in [(0, 1, true), (3, 4, true), (0, 3, false), (1, 4, false), (2, 0, true), (2, 4, true)] {
            assert!(reaches(&cut, from, to) == expected && reaches(&cut, to, from) == expected, "{from} {to}");
        }
    }

    #[test]
    fn nobody_is_cut_from_itself() {
        let ends: Vec<End> = (0..3).map(End::Node).collect();
        assert_eq!(Cut::both(&ends, &ends).0.len(), 6);
        assert_eq!(Cut::both(&ends[..1], &ends).0.len(), 4);
    }
}
