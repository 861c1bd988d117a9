//! What the nemesis does to the network, and what it sees of it.

use std::time::Duration;

use super::connection::{Connection, DIALLED, LISTENED, Phase};
use super::link::{Link, nanos};
use super::{Net, SimNet};
use crate::side::{Machine, note};

/// Make one direction between two machines like `link`, for what is sent from now on.
pub fn set_link(from: &Machine, to: &Machine, link: Link) {
    link.check();
    tell("set link", from, to);
    let pair = (from.number(), to.number());
    SimNet::current().with(|net| net.links.entry(pair).or_default().settings = Some(link));
}

/// Undo [`set_link`]: the direction is like all others again.
pub fn clear_link(from: &Machine, to: &Machine) {
    tell("clear link", from, to);
    let pair = (from.number(), to.number());
    SimNet::current().with(|net| net.links.entry(pair).or_default().settings = None);
}

/// Make every link that was not [`set_link`] like `link`, for what is sent from now on.
pub fn set_default_link(link: Link) {
    link.check();
    note("set default link", &[]);
    SimNet::current().with(|net| net.default_link = link);
}

/// Let nothing arrive from one machine at another any more. What is under way waits, and so does who connects. Blocks
/// add up: each is undone by one [`unblock`].
pub fn block(from: &Machine, to: &Machine) {
    tell("block", from, to);
    let pair = (from.number(), to.number());
    if pair.0 != pair.1 {
        SimNet::current().with(|net| net.links.entry(pair).or_default().blocks += 1);
    }
}

/// Undo one [`block`]. What waited is sent again when its kernel next tries.
pub fn unblock(from: &Machine, to: &Machine) {
    tell("unblock", from, to);
    let (from, to) = (from.number(), to.number());
    SimNet::current().with(|net| {
        let blocks = &mut net.links.entry((from, to)).or_default().blocks;
        let stood = std::mem::replace(blocks, blocks.saturating_sub(1));
        if stood == 1 {
            net.go_on(|connection| is_between(connection, from, to));
        }
    });
}

/// [`block`] both directions between each of `one` and each of `other`.
pub fn partition(one: &[Machine], other: &[Machine]) {
    each_pair(one, other, |from, to| {
        block(from, to);
        block(to, from);
    });
}

/// Undo one [`partition`] of the same machines.
pub fn heal(one: &[Machine], other: &[Machine]) {
    each_pair(one, other, |from, to| {
        unblock(from, to);
        unblock(to, from);
    });
}

/// [`block`] each direction from one of `from` to one of `to`.
pub fn partition_one_way(from: &[Machine], to: &[Machine]) {
    each_pair(from, to, block);
}

/// Undo all blocks of all links.
pub fn heal_all() {
    note("heal all", &[]);
    SimNet::current().with(|net| {
        net.links.values_mut().for_each(|link| link.blocks = 0);
        net.go_on(|_| true);
    });
}

/// Break each connection between two machines: both processes see a reset, what is under way is lost.
pub fn reset_connections(one: &Machine, other: &Machine) {
    tell("reset connections", one, other);
    let (one, other) = (one.number(), other.number());
    SimNet::current().with(|net| net.reset_between(one, other));
}

/// Let each accept on a machine take this long; connections beyond the backlog are not heard. Zero undoes it.
pub fn set_slow_accept(machine: &Machine, pause: Duration) {
    note("set slow accept", machine.name().as_bytes());
    SimNet::current().with(|net| {
        let Some(host) = net.hosts.get_mut(&machine.number()) else { return };
        host.accept_nanos = nanos(pause);
        for waker in host.listeners.values_mut().filter_map(|listener| listener.waker.take()) {
            waker.wake();
        }
    });
}

/// How many ends of connections a machine has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Connections {
    /// Both ends live.
    pub open: usize,
    /// The other end is gone, and this one was not told.
    pub half_open: usize,
    /// In their handshake.
    pub connecting: usize,
    /// Closed by the process, but not everything that it wrote has arrived.
    pub closing: usize,
}

/// The connections of a machine at present.
pub fn connections(machine: &Machine) -> Connections {
    let host = machine.number();
    let mut counted = Connections::default();
    SimNet::current().with(|net| {
        for connection in net.connections.values() {
            for number in [DIALLED, LISTENED].into_iter().filter(|number| connection.ends[*number].host == host) {
                match connection.ends[number].phase {
                    Phase::SynSent | Phase::SynReceived => counted.connecting += 1,
                    Phase::Open if connection.ends[1 - number].phase == Phase::Vanished => counted.half_open += 1,
                    Phase::Open => counted.open += 1,
                    Phase::Closed if !connection.ways[number].flight.is_empty() => counted.closing += 1,
                    Phase::Failed | Phase::Closed | Phase::Vanished => {}
                }
            }
        }
    });
    counted
}

impl Net {
    fn reset_between(&mut self, one: u64, other: u64) {
        let between: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| is_between(connection, one, other)).map(|(id, _)| *id).collect();
        for id in between {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.ways.iter_mut().for_each(super::connection::Way::clear);
            }
            self.reset_end(id, DIALLED);
            self.reset_end(id, LISTENED);
            self.forget_if_over(id);
        }
    }
}

fn is_between(connection: &Connection, one: u64, other: u64) -> bool {
    let hosts = connection.hosts(DIALLED);
    hosts == (one, other) || hosts == (other, one)
}

fn each_pair(one: &[Machine], other: &[Machine], act: impl Fn(&Machine, &Machine)) {
    for from in one {
        for to in other {
            act(from, to);
        }
    }
}

fn tell(what: &'static str, from: &Machine, to: &Machine) {
    note(what, format!("{} {}", from.name(), to.name()).as_bytes());
}
