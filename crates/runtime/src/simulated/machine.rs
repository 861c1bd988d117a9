//! A simulated machine: a process that can be killed, paused, cut from power and started again, with its drives and clock.

use rand_chacha::ChaCha12Rng;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use super::net::SimNet;
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
        let id = madsim::runtime::Handle::current().create_node().name(name).init(start).build().id();
        SimNet::current().add(super::number_of(id), address);
        super::note("machine start", name.as_bytes());
        Machine { id, name: name.into(), drives: drives.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its drives.
    pub fn drives(&self) -> &[SimDrive] {
        &self.drives
    }

    /// Its number in the simulation, from 1.
    pub(super) fn number(&self) -> u64 {
        super::number_of(self.id)
    }

    /// `kill -9`: its tasks end at once; what it wrote to its drives, synced or not, stays. Its kernel lives: it sends what was
    /// written, closes or resets the connections and refuses new ones.
    pub fn kill(&self) {
        super::note("machine kill", self.name.as_bytes());
        SimNet::current().process_died(self.number());
        self.end_process();
    }

    /// As [`Machine::kill`], but nobody hears of it: peers wait in silence until [`Machine::restart`], then what they send is
    /// answered with a reset.
    pub fn kill_silently(&self) {
        super::note("machine silent kill", self.name.as_bytes());
        SimNet::current().host_died(self.number());
        self.end_process();
    }

    fn end_process(&self) {
        for drive in self.drives.iter() {
            drive.process_ended_on(self.number());
        }
        madsim::runtime::Handle::current().kill(self.id);
    }

    /// Loss of power: as [`Machine::kill_silently`], and its drives keep of what was not synced what `random` decides.
    pub fn cut_power(&self, random: &mut ChaCha12Rng) {
        super::note("machine power cut", self.name.as_bytes());
        SimNet::current().host_died(self.number());
        for drive in self.drives.iter() {
            drive.process_ended_on(self.number());
            drive.cut_power(random);
        }
        madsim::runtime::Handle::current().kill(self.id);
    }

    /// Start it again after [`Machine::kill`], [`Machine::kill_silently`], [`Machine::cut_power`] or its own end.
    pub fn restart(&self) {
        let simulation = madsim::runtime::Handle::current();
        if !simulation.is_exit(self.id) {
            self.kill();
        }
        super::note("machine restart", self.name.as_bytes());
        let network = SimNet::current();
        // It may have ended by itself a moment ago, and its sockets are not dropped yet.
        network.process_died(self.number());
        network.power_on(self.number());
        simulation.restart(self.id);
    }

    /// Stop its tasks where they are (SIGSTOP). Its kernel still takes connections and bytes, as far as there is room.
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
        super::clock::set(self.number(), clock);
    }

    /// What its wall clock shows, and the latest that it ever showed, in milliseconds since 1970.
    pub fn wall_ms(&self) -> (u64, u64) {
        super::clock::wall_of(self.number())
    }

    /// Its clock as it was set last.
    pub fn clock(&self) -> Clock {
        super::clock::of(self.number())
    }
}
