//! [`Host`]: a machine as its network sees it, and how connections end when processes and machines do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use super::connection::{DIALLED, LISTENED, Payload, Phase};
use super::{Event, Net};

/// Connections that wait to be accepted, or to be; calls beyond are not heard.
const BACKLOG: usize = 128;
/// Ports that are given out.
const PORTS_FIRST: u16 = 32768;
const PORTS_LAST: u16 = 60999;

pub(super) struct Host {
    pub address: IpAddr,
    /// Without power it hears nothing and says nothing.
    pub has_power: bool,
    pub listeners: BTreeMap<u16, Listener>,
    /// Ports of connections that were dialled here.
    pub dialling: BTreeSet<u16>,
    next_port: u16,
    /// How long each accept takes.
    pub accept_nanos: u64,
}

pub(super) struct Listener {
    pub number: u64,
    /// The address that it was bound to, or the unspecified one for all of the machine's.
    pub bound: IpAddr,
    /// Connections to be accepted, and since when.
    pub queue: VecDeque<(u64, u64)>,
    /// Connections whose handshake is not finished.
    pub unfinished: usize,
    pub accepted_at: u64,
    pub waker: Option<Waker>,
}

impl Listener {
    pub fn is_full(&self) -> bool {
        self.queue.len() + self.unfinished >= BACKLOG
    }
}

impl Host {
    pub fn new(address: IpAddr) -> Host {
        Host { address, has_power: true, listeners: BTreeMap::new(), dialling: BTreeSet::new(), next_port: PORTS_FIRST, accept_nanos: 0 }
    }

    /// Who listens at `address`, which is one of this machine's.
    pub fn listener(&mut self, address: SocketAddr) -> Option<&mut Listener> {
        let listener = self.listeners.get_mut(&address.port())?;
        (listener.bound.is_unspecified() || listener.bound == address.ip()).then_some(listener)
    }

    /// A port that nobody uses.
    pub fn free_port(&mut self) -> io::Result<u16> {
        for _ in PORTS_FIRST..=PORTS_LAST {
            let port = self.next_port;
            self.next_port = if port == PORTS_LAST { PORTS_FIRST } else { port + 1 };
            if !self.dialling.contains(&port) && !self.listeners.contains_key(&port) {
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "all ports are in use"))
    }
}

impl Net {
    pub(super) fn listener_of(&mut self, host: u64, port: u16, number: u64) -> Option<&mut Listener> {
        self.hosts.get_mut(&host)?.listeners.get_mut(&port).filter(|listener| listener.number == number)
    }

    /// A finished handshake: the listening process may accept the connection.
    pub(super) fn offer(&mut self, id: u64) {
        let now = self.now;
        if let Some(listener) = self.listener_of_call(id) {
            listener.unfinished -= 1;
            listener.queue.push_back((id, now));
            if let Some(waker) = listener.waker.take() {
                waker.wake();
            }
        }
    }

    /// Forget a handshake that will not be finished.
    pub(super) fn drop_call(&mut self, id: u64) {
        if let Some(listener) = self.listener_of_call(id) {
            listener.unfinished -= 1;
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ends[LISTENED].vanish();
        }
    }

    fn listener_of_call(&mut self, id: u64) -> Option<&mut Listener> {
        let end = &self.connections.get(&id)?.ends[LISTENED];
        let (host, port, number) = (end.host, end.address.port(), end.listener?);
        self.listener_of(host, port, number)
    }

    /// The next connection that can be accepted now. If none can yet, `waker` is woken when one may.
    pub(super) fn accept(&mut self, host: u64, port: u16, number: u64, waker: &Waker) -> Option<u64> {
        let now = self.now;
        let accept_nanos = self.hosts.get(&host)?.accept_nanos;
        let listener = self.listener_of(host, port, number)?;
        let ready = listener.queue.front().map(|(_, since)| (*since).max(listener.accepted_at) + accept_nanos);
        if ready.is_some_and(|ready| accept_nanos == 0 || ready <= now) {
            listener.accepted_at = now;
            let (id, _) = listener.queue.pop_front()?;
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.ends[LISTENED].listener = None;
            }
            return Some(id);
        }
        listener.waker = Some(waker.clone());
        if let Some(ready) = ready {
            self.schedule(ready, Event::Accept { host, port });
        }
        None
    }

    /// A listening socket is closed: whoever was not accepted is reset.
    pub(super) fn close_listener(&mut self, host: u64, port: u16, number: u64) {
        if self.listener_of(host, port, number).is_none() {
            return;
        }
        let waiting = |end: &super::connection::End| end.host == host && end.listener == Some(number);
        let unaccepted: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| waiting(&connection.ends[LISTENED])).map(|(id, _)| *id).collect();
        for id in unaccepted {
            self.close(id, LISTENED);
        }
        if let Some(host) = self.hosts.get_mut(&host) {
            host.listeners.remove(&port);
        }
    }

    /// The process lets go of its end of a connection.
    pub(super) fn close(&mut self, id: u64, number: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = &mut connection.ends[number];
        match end.phase {
            Phase::SynSent => {
                end.vanish();
                if connection.ways[number].stall.is_some() {
                    connection.ways[number].clear();
                }
            }
            Phase::SynReceived => {
                self.drop_call(id);
                self.send_reset(id, number);
            }
            Phase::Open if !end.received.is_empty() || end.listener.is_some() => {
                // The peer must learn that not everything that it sent was read.
                end.vanish();
                self.send_reset(id, number);
            }
            Phase::Open => {
                end.phase = Phase::Closed;
                let says_end = !std::mem::replace(&mut end.is_written_out, true);
                if says_end {
                    self.send(id, number, Payload::Fin);
                }
            }
            Phase::Failed => end.vanish(),
            Phase::Closed | Phase::Vanished => {}
        }
        self.forget_if_over(id);
    }

    fn ends_at(&self, host: u64) -> Vec<(u64, usize)> {
        let at = |(id, connection): (&u64, &super::connection::Connection)| {
            let id = *id;
            [DIALLED, LISTENED].map(|number| (connection.ends[number].host == host).then_some((id, number)))
        };
        self.connections.iter().flat_map(at).flatten().collect()
    }

    /// The process ends, the kernel lives: it closes what was open.
    pub(super) fn process_died(&mut self, host: u64) {
        for (id, number) in self.ends_at(host) {
            self.close(id, number);
        }
        let listeners: Vec<(u16, u64)> = match self.hosts.get(&host) {
            Some(host) => host.listeners.iter().map(|(port, listener)| (*port, listener.number)).collect(),
            None => return,
        };
        for (port, number) in listeners {
            self.close_listener(host, port, number);
        }
    }

    /// The machine ends: of its connections nothing is left but what is on the wire.
    pub(super) fn host_died(&mut self, number: u64) {
        let now = self.now;
        for (id, end) in self.ends_at(number) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.ends[end].vanish();
            let way = &mut connection.ways[end];
            let on_the_wire = match way.stall {
                Some(_) => 0,
                None => way.flight.iter().take_while(|segment| segment.departs <= now && !segment.is_late).count(),
            };
            way.flight.truncate(on_the_wire);
            if on_the_wire == 0 {
                way.clear();
            }
            self.forget_if_over(id);
        }
        if let Some(host) = self.hosts.get_mut(&number) {
            host.has_power = false;
            host.listeners.clear();
        }
    }

    /// The machine has power (again).
    pub(super) fn power_on(&mut self, number: u64) {
        let Some(host) = self.hosts.get_mut(&number) else { return };
        if !std::mem::replace(&mut host.has_power, true) {
            self.go_on(|connection| connection.ends.iter().any(|end| end.host == number));
        }
    }
}
