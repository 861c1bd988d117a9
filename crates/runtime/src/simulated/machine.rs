//! A simulated machine: a process that can be killed, paused, cut from power and started again, with its drives and clock.

use rand_chacha::ChaCha12Rng;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Clock, SimDrive};

/// A simulated machine; cheap to clone.
#[derive(Clone)]
pub struct Machine {
    id: madsim::task::NodeId,
    name: Arc<str>,
    drives: Arc<[SimDrive]>,
}

impl Machine {
    /// A machine at `address` that runs `start` now, and again after each [`Machine::restart`]. When the future ends the
    /// machine is dead.
    pub fn start<S, F>(name: &str, address: IpAddr, drives: Vec<SimDrive>, start: S) -> Machine
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static,
    {
        let node = madsim::runtime::Handle::current().create_node().name(name).ip(address).init(start).build();
        super::note("machine start", name.as_bytes());
        Machine { id: node.id(), name: name.into(), drives: drives.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its drives.
    pub fn drives(&self) -> &[SimDrive] {
        &self.drives
    }

    /// `kill -9`: its tasks end at once, its connections close; what it wrote to its drives, synced or not, stays.
    pub fn kill(&self) {
        super::note("machine kill", self.name.as_bytes());
        for drive in self.drives.iter() {
            drive.process_ended_on(super::number_of(self.id));
        }
        madsim::runtime::Handle::current().kill(self.id);
    }

    /// Loss of power: as [`Machine::kill`], and its drives keep of what was not synced what `random` decides.
    pub fn cut_power(&self, random: &mut ChaCha12Rng) {
        super::note("machine power cut", self.name.as_bytes());
        for drive in self.drives.iter() {
            drive.cut_power(random);
        }
        madsim::runtime::Handle::current().kill(self.id);
    }

    /// Start it again after [`Machine::kill`], [`Machine::cut_power`] or its own end.
    pub fn restart(&self) {
        let simulation = madsim::runtime::Handle::current();
        if !simulation.is_exit(self.id) {
            // Without a kill before, madsim leaves the ports bound.
            self.kill();
        }
        super::note("machine restart", self.name.as_bytes());
        simulation.restart(self.id);
    }

    /// Stop its tasks where they are (SIGSTOP); connections stay open and silent.
    pub fn pause(&self) {
        super::note("machine pause", self.name.as_bytes());
        madsim::runtime::Handle::current().pause(self.id);
    }

    /// Let it go on.
    pub fn resume(&self) {
        super::note("machine resume", self.name.as_bytes());
        madsim::runtime::Handle::current().resume(self.id);
    }

    /// Whether it was killed or has ended.
    pub fn is_dead(&self) -> bool {
        madsim::runtime::Handle::current().is_exit(self.id)
    }

    /// Run `future` on this machine, in its present life.
    pub fn spawn<F>(&self, future: F) -> crate::task::Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // A handle from an earlier life would spawn into that: ask for the present one.
        let node = madsim::runtime::Handle::current().get_node(self.id).expect("machines are never removed");
        crate::task::held(node.spawn(future))
    }

    /// Set its clocks from now on: see [`Clock`].
    pub fn set_clock(&self, clock: Clock) {
        super::note("machine clock", format!("{} {clock:?}", self.name).as_bytes());
        super::clock::set(super::number_of(self.id), clock);
    }

    /// Its clock as it was set last.
    pub fn clock(&self) -> Clock {
        super::clock::of(super::number_of(self.id))
    }
}

/// Let nothing pass from any of `one` to any of `other`, nor back.
pub fn partition(one: &[Machine], other: &[Machine]) {
    each_link(one, other, "partition", |network, from, to| network.clog_link(from, to));
}

/// Undo [`partition`].
pub fn heal(one: &[Machine], other: &[Machine]) {
    each_link(one, other, "heal", |network, from, to| network.unclog_link(from, to));
}

fn each_link(
    one: &[Machine],
    other: &[Machine],
    what: &'static str,
    act: impl Fn(&madsim::net::NetSim, madsim::task::NodeId, madsim::task::NodeId),
) {
    let network = madsim::net::NetSim::current();
    for from in one {
        for to in other {
            super::note(what, format!("{} {}", from.name, to.name).as_bytes());
            act(&network, from.id, to.id);
            act(&network, to.id, from.id);
        }
    }
}
