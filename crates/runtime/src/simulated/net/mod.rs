//! The simulated network: machines, links, and TCP connections as kernels keep them.
//!
//! It is as unkind as a network may be: bounded windows, so that who does not read stops who writes; half close; resets
//! where a process ended, silence where a machine or a link did; slow, narrow, lossy and one-way links; full backlogs.
//! Bytes move as they were written, one copy in and one out; a connection has at most one timer for each direction.
//!
//! Invariant: whatever is drawn comes from a stream of the seed, the two machines and the number of their connection;
//! what happens to one connection never shifts what is drawn for another.

mod connection;
mod faults;
mod host;
mod link;
mod socket;
mod wire;

pub use faults::{
    Connections, block, clear_link, connections, heal, heal_all, partition, partition_one_way, reset_connections, set_default_link,
    set_link, set_slow_accept, unblock,
};
pub use link::Link;
pub(crate) use socket::{TcpListener, TcpStream};

use madsim::plugin::{Simulator, simulator};
use madsim::time::TimeHandle;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use connection::Connection;
use host::Host;
use link::LinkState;

/// The number and the address of the simulator's own machine.
const SIMULATOR: u64 = 0;
const SIMULATOR_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 255, 255, 254));
/// madsim wakes timers this much late, so that they are never early.
const CLOCK_NANOS: u64 = 50;

/// The network, as madsim's runtime holds it.
pub(crate) struct SimNet {
    time: TimeHandle,
    net: Mutex<Net>,
}

/// Everything that the kernels know.
struct Net {
    seed: u64,
    /// Nanoseconds since the simulation began.
    now: u64,
    default_link: Link,
    hosts: BTreeMap<u64, Host>,
    addresses: BTreeMap<IpAddr, u64>,
    links: BTreeMap<(u64, u64), LinkState>,
    connections: BTreeMap<u64, Connection>,
    /// Connections and listening sockets so far.
    sockets: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    /// Times at which madsim will wake the driver.
    armed: BTreeSet<u64>,
    driver: Option<Waker>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The head of a direction arrives.
    Arrival { id: u64, way: usize },
    /// The writer learns that there is room again.
    Credit { id: u64, way: usize, bytes: usize },
    /// A kernel stops trying.
    GiveUp { id: u64, way: usize, stall: u64 },
    /// A slow listener may take the next connection.
    Accept { host: u64, port: u16 },
}

impl Simulator for SimNet {
    fn new(_random: &madsim::rand::GlobalRng, time: &TimeHandle, _config: &madsim::Config) -> SimNet {
        let net = Net {
            seed: 0,
            now: 0,
            default_link: Link::calm(Duration::ZERO..Duration::ZERO),
            hosts: BTreeMap::new(),
            addresses: BTreeMap::new(),
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            sockets: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            armed: BTreeSet::new(),
            driver: None,
        };
        SimNet { time: time.clone(), net: Mutex::new(net) }
    }

    /// A kill that did not go through [`super::Machine`] ends the process alone.
    fn reset_node(&self, id: madsim::task::NodeId) {
        let number = super::number_of(id);
        self.with(|net| net.process_died(number));
    }
}

/// Start the network of this simulation. It runs for as long as the simulation.
pub(super) fn start(seed: u64, link: Link) {
    let network = SimNet::current();
    network.with(|net| {
        net.seed = seed;
        net.default_link = link;
    });
    network.add(SIMULATOR, SIMULATOR_ADDRESS);
    madsim::task::spawn(async move {
        std::future::poll_fn(|context| {
            network.with(|net| net.drive(context.waker()));
            Poll::<()>::Pending
        })
        .await;
    });
}

impl SimNet {
    pub(super) fn current() -> Arc<SimNet> {
        simulator::<SimNet>()
    }

    /// A new machine.
    pub(super) fn add(&self, number: u64, address: IpAddr) {
        self.with(|net| {
            let other = net.addresses.insert(address, number);
            assert!(other.is_none(), "two machines have the address {address}");
            net.hosts.insert(number, Host::new(address));
        });
    }

    pub(super) fn process_died(&self, number: u64) {
        self.with(|net| net.process_died(number));
    }

    pub(super) fn host_died(&self, number: u64) {
        self.with(|net| net.host_died(number));
    }

    pub(super) fn power_on(&self, number: u64) {
        self.with(|net| net.power_on(number));
    }

    /// Act on the network now.
    fn with<T>(&self, act: impl FnOnce(&mut Net) -> T) -> T {
        // A panic under this lock ends the simulation; destructors that run then must not panic again.
        let mut net = self.net.lock().unwrap_or_else(PoisonError::into_inner);
        net.now = self.time.elapsed().as_nanos() as u64;
        let outcome = act(&mut net);
        net.arm(&self.time);
        outcome
    }
}

impl Net {
    /// Let `event` happen at a time; gives its number.
    fn schedule(&mut self, at: u64, event: Event) -> u64 {
        self.scheduled += 1;
        let number = self.scheduled;
        self.events.push(Reverse(Scheduled { at, number, event }));
        number
    }

    /// Let everything happen that is due.
    fn drive(&mut self, waker: &Waker) {
        if self.driver.as_ref().is_none_or(|driver| !driver.will_wake(waker)) {
            self.driver = Some(waker.clone());
        }
        while self.armed.first().is_some_and(|at| *at <= self.now) {
            self.armed.pop_first();
        }
        while let Some(Reverse(next)) = self.events.peek()
            && next.at <= self.now
            && let Some(Reverse(Scheduled { number, event, .. })) = self.events.pop()
        {
            match event {
                Event::Arrival { id, way } => self.arrive(id, way, number),
                Event::Credit { id, way, bytes } => self.credit(id, way, bytes),
                Event::GiveUp { id, way, stall } => self.give_up(id, way, stall),
                Event::Accept { host, port } => {
                    let listener = self.hosts.get_mut(&host).and_then(|host| host.listeners.get_mut(&port));
                    if let Some(waker) = listener.and_then(|listener| listener.waker.take()) {
                        waker.wake();
                    }
                }
            }
        }
    }

    /// Make sure that the driver is woken for the next event. Timers of madsim cannot be taken back, so each time is
    /// armed once at most.
    fn arm(&mut self, time: &TimeHandle) {
        let (Some(Reverse(next)), Some(driver)) = (self.events.peek(), &self.driver) else { return };
        if self.armed.first().is_some_and(|armed| *armed <= next.at) {
            return;
        }
        self.armed.insert(next.at);
        let wait = Duration::from_nanos(next.at.saturating_sub(self.now).max(CLOCK_NANOS));
        // Reset, because a sleep of less than a millisecond is made one.
        let mut sleep = pin!(time.sleep(wait));
        sleep.as_mut().reset(time.now_instant() + wait);
        if sleep.poll(&mut Context::from_waker(driver)).is_ready() {
            driver.wake_by_ref();
        }
    }
}
