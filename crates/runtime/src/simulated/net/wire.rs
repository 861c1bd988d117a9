//! What happens to segments: they leave, arrive, are sent again, are answered.
//!
//! Invariants: bytes of a connection are never lost nor reordered while both kernels live; whatever arrives where
//! nobody knows of it is answered with a reset; a reset itself is never sent again by its own.

use rand::Rng;
use std::io::ErrorKind;

use super::connection::{Connection, DIALLED, LISTENED, Payload, Phase, Segment, Stall, WINDOW_BYTES};
use super::link::{self, Link, RETRANSMIT_NANOS};
use super::{Event, Net};

/// The first retransmission of a call comes this much later.
const CALL_RETRANSMIT_NANOS: u64 = SECOND;
/// The longest pause between retransmissions.
const RETRANSMIT_NANOS_MAX: u64 = 120 * SECOND;
/// How long kernels try, as Linux does by default.
const CALL_NANOS_MAX: u64 = 127 * SECOND;
const ANSWER_NANOS_MAX: u64 = 63 * SECOND;
const OPEN_NANOS_MAX: u64 = 924 * SECOND;
const CLOSED_NANOS_MAX: u64 = 100 * SECOND;
const SECOND: u64 = 1_000_000_000;

/// What became of a segment at the other end.
enum Arrival {
    Taken,
    /// It was answered with a reset, or could not be: it stays until the reset arrives, or is sent again.
    Stays,
    /// It was dropped for lack of room: it is sent again.
    Again,
}

impl Net {
    /// Send something along `way` of a connection.
    pub(super) fn send(&mut self, id: u64, way: usize, payload: Payload) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (from, to) = connection.hosts(way);
        let taken = &mut connection.ways[way];
        let passage = if from == to {
            link::loopback(self.now)
        } else {
            let link = self.links.entry((from, to)).or_default();
            link.pass(&self.default_link, self.now, payload.len(), &mut taken.burst, &mut taken.random)
        };
        let arrives = passage.arrives.max(taken.last_arrival);
        taken.last_arrival = arrives;
        taken.flight.push_back(Segment { departs: passage.departs, arrives, is_late: passage.is_late, payload });
        if taken.flight.len() == 1 && taken.stall.is_none() {
            self.look(id, way, arrives);
        }
    }

    /// Look at the head of `way` at a time.
    fn look(&mut self, id: u64, way: usize, at: u64) {
        let number = self.schedule(at, Event::Arrival { id, way });
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ways[way].timer = Some(number);
        }
    }

    /// Deliver what has arrived by now.
    pub(super) fn arrive(&mut self, id: u64, way: usize, number: u64) {
        match self.connections.get_mut(&id) {
            Some(connection) if connection.ways[way].timer == Some(number) => connection.ways[way].timer = None,
            _ => return,
        }
        while let Some(connection) = self.connections.get(&id) {
            let Some(head) = connection.ways[way].flight.front() else { break };
            if head.arrives > self.now {
                let arrives = head.arrives;
                return self.look(id, way, arrives);
            }
            let is_reset = matches!(head.payload, Payload::Reset);
            let (from, to) = connection.hosts(way);
            let arrival = match self.is_passable(from, to) {
                true => self.deliver(id, way),
                // Nobody sends a reset again of its own accord.
                false if is_reset => Arrival::Taken,
                false => Arrival::Stays,
            };
            match arrival {
                Arrival::Taken => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.ways[way].flight.pop_front();
                        connection.ways[way].stall = None;
                    }
                }
                Arrival::Stays => return self.stall(id, way),
                Arrival::Again => {
                    self.stall(id, way);
                    return self.retry(id, way);
                }
            }
        }
        self.forget_if_over(id);
    }

    /// Give the head of `way` to the kernel that it leads to.
    fn deliver(&mut self, id: u64, way: usize) -> Arrival {
        let Some(connection) = self.connections.get_mut(&id) else { return Arrival::Taken };
        let Some(head) = connection.ways[way].flight.front_mut() else { return Arrival::Taken };
        let end = &mut connection.ends[1 - way];
        match (&mut head.payload, end.phase) {
            (Payload::Syn, _) => return self.call(id),
            (Payload::Reset, _) => {
                self.reset_end(id, 1 - way);
                return Arrival::Taken;
            }
            (Payload::SynAck, Phase::SynSent) => {
                end.phase = Phase::Open;
                end.wake_writer();
                self.send(id, DIALLED, Payload::Ack);
            }
            (Payload::Ack, Phase::SynReceived) => {
                end.phase = Phase::Open;
                self.offer(id);
            }
            (Payload::Data(bytes), Phase::Open) => {
                end.received.push_back(std::mem::take(bytes));
                end.wake_reader();
            }
            (Payload::Fin, Phase::Open) => {
                end.is_read_out = true;
                end.wake_reader();
            }
            (Payload::Fin | Payload::Ack, Phase::Closed) => {}
            (_, Phase::Closed) => {
                // Bytes that nobody will read: the kernel gives up what it still had to send, too.
                end.vanish();
                let given_up = &mut connection.ways[1 - way];
                if given_up.stall.is_some() {
                    given_up.clear();
                }
                self.answer_with_reset(id, way);
                return Arrival::Stays;
            }
            (_, Phase::Failed | Phase::Vanished) => {
                self.answer_with_reset(id, way);
                return Arrival::Stays;
            }
            (payload, phase) => unreachable!("a segment of {} bytes in {phase:?}", payload.len()),
        }
        Arrival::Taken
    }

    /// A call arrives at a machine.
    fn call(&mut self, id: u64) -> Arrival {
        let Some(connection) = self.connections.get_mut(&id) else { return Arrival::Taken };
        let end = &mut connection.ends[LISTENED];
        let (host, address) = (end.host, end.address);
        let listener = self.hosts.get_mut(&host).and_then(|host| host.listener(address));
        let Some(listener) = listener else {
            end.vanish();
            self.answer_with_reset(id, DIALLED);
            return Arrival::Stays;
        };
        if listener.is_full() {
            return Arrival::Again;
        }
        listener.unfinished += 1;
        end.phase = Phase::SynReceived;
        end.listener = Some(listener.number);
        self.send(id, LISTENED, Payload::SynAck);
        Arrival::Taken
    }

    /// Whoever receives along `way` answers with a reset, if the answer gets through.
    fn answer_with_reset(&mut self, id: u64, way: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (from, to) = connection.hosts(way);
        if self.is_passable(to, from) {
            self.send_reset(id, 1 - way);
        }
    }

    /// Send a reset along `way`. What is under way there already may be overtaken by it.
    pub(super) fn send_reset(&mut self, id: u64, way: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let taken = &mut connection.ways[way];
        let overtakes: bool = taken.random.random();
        if overtakes || taken.stall.is_some() {
            taken.clear();
        }
        if !taken.flight.iter().any(|segment| matches!(segment.payload, Payload::Reset)) {
            self.send(id, way, Payload::Reset);
        }
    }

    /// A kernel learns that its peer knows nothing of the connection.
    pub(super) fn reset_end(&mut self, id: u64, end: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.ways[end].clear();
        let reset = &mut connection.ends[end];
        match reset.phase {
            Phase::SynSent => reset.fail(ErrorKind::ConnectionRefused),
            Phase::Open if reset.is_read_out => reset.fail(ErrorKind::BrokenPipe),
            Phase::Open => reset.fail(ErrorKind::ConnectionReset),
            Phase::SynReceived => self.drop_call(id),
            Phase::Closed => reset.vanish(),
            Phase::Failed | Phase::Vanished => {}
        }
    }

    /// The head of `way` did not get through.
    fn stall(&mut self, id: u64, way: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let phase = connection.ends[way].phase;
        let stalled = &mut connection.ways[way];
        if stalled.stall.is_some() || stalled.flight.is_empty() {
            return;
        }
        stalled.stalls += 1;
        let number = stalled.stalls;
        stalled.stall = Some(Stall { since: self.now, number });
        let patience = match phase {
            Phase::SynSent => CALL_NANOS_MAX,
            Phase::SynReceived => ANSWER_NANOS_MAX,
            Phase::Open => OPEN_NANOS_MAX,
            Phase::Failed | Phase::Closed | Phase::Vanished => CLOSED_NANOS_MAX,
        };
        self.schedule(self.now + patience, Event::GiveUp { id, way, stall: number });
    }

    /// Send the stalled head of `way` again at its next time.
    fn retry(&mut self, id: u64, way: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (from, to) = connection.hosts(way);
        let stalled = &connection.ways[way];
        let Some(Stall { since, .. }) = stalled.stall else { return };
        if stalled.timer.is_some() {
            return;
        }
        let is_call = stalled.flight.front().is_some_and(|head| matches!(head.payload, Payload::Syn | Payload::SynAck));
        let mut pause = if is_call { CALL_RETRANSMIT_NANOS } else { RETRANSMIT_NANOS };
        let mut at = since + pause;
        while at <= self.now {
            pause = (2 * pause).min(RETRANSMIT_NANOS_MAX);
            at += pause;
        }
        let at = at + self.link(from, to).shortest();
        self.look(id, way, at);
    }

    /// A kernel has tried for long enough.
    pub(super) fn give_up(&mut self, id: u64, way: usize, stall: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let given_up = &mut connection.ways[way];
        if given_up.stall.as_ref().is_none_or(|present| present.number != stall) {
            return;
        }
        given_up.clear();
        let end = &mut connection.ends[way];
        match end.phase {
            Phase::SynSent | Phase::Open => end.fail(ErrorKind::TimedOut),
            Phase::SynReceived => self.drop_call(id),
            Phase::Closed => end.vanish(),
            Phase::Failed | Phase::Vanished => {}
        }
        self.forget_if_over(id);
    }

    /// Tell the writer along `way` that `bytes` were read.
    pub(super) fn send_credit(&mut self, id: u64, way: usize, bytes: usize) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (from, to) = connection.hosts(way);
        let at = if from == to { link::loopback(self.now).arrives } else { self.now + self.link(to, from).shortest() };
        self.schedule(at, Event::Credit { id, way, bytes });
    }

    pub(super) fn credit(&mut self, id: u64, way: usize, bytes: usize) {
        let Some((from, to)) = self.connections.get(&id).map(|connection| connection.hosts(way)) else { return };
        let heard = self.is_passable(to, from);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let credited = &mut connection.ways[way];
        if !heard {
            credited.unheard_credit += bytes;
            return;
        }
        credited.outstanding -= bytes;
        debug_assert!(credited.outstanding <= WINDOW_BYTES);
        connection.ends[way].wake_writer();
    }

    /// Something between the machines changed for the better: what waits for that goes on.
    pub(super) fn go_on(&mut self, concerns: impl Fn(&Connection) -> bool) {
        let concerned: Vec<u64> = self.connections.iter().filter(|(_, connection)| concerns(connection)).map(|(id, _)| *id).collect();
        for id in concerned {
            for way in [DIALLED, LISTENED] {
                self.retry(id, way);
                let unheard =
                    self.connections.get_mut(&id).map_or(0, |connection| std::mem::take(&mut connection.ways[way].unheard_credit));
                if unheard > 0 {
                    self.send_credit(id, way, unheard);
                }
            }
        }
    }

    pub(super) fn link(&self, from: u64, to: u64) -> &Link {
        self.links.get(&(from, to)).and_then(|link| link.settings.as_ref()).unwrap_or(&self.default_link)
    }

    /// Whether what is sent from one machine to another arrives at a living kernel.
    pub(super) fn is_passable(&self, from: u64, to: u64) -> bool {
        let lives = self.hosts.get(&to).is_some_and(|host| host.has_power);
        lives && (from == to || self.links.get(&(from, to)).is_none_or(|link| link.blocks == 0))
    }

    pub(super) fn forget_if_over(&mut self, id: u64) {
        if self.connections.get(&id).is_some_and(Connection::is_over)
            && let Some(connection) = self.connections.remove(&id)
            && let Some(host) = self.hosts.get_mut(&connection.ends[DIALLED].host)
        {
            host.dialling.remove(&connection.ends[DIALLED].address.port());
        }
    }
}
