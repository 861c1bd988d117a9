//! [`Connection`]: the two kernels' ends of a connection and what is under way between them.
//!
//! Invariants: each direction delivers in the order of its queue, and only the head of a queue has a timer; a writer
//! never has more than [`WINDOW_BYTES`] under way or unread at the other end.

use bytes::Bytes;
use rand_chacha::ChaCha12Rng;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use super::link::Burst;

/// Bytes that may be under way or unread in each direction: a reader that does not read stops the writer.
pub(super) const WINDOW_BYTES: usize = 256 << 10;
/// The largest segment.
pub(super) const SEGMENT_BYTES: usize = 64 << 10;
/// The reader's kernel tells the writer's that there is room again when this much was read.
pub(super) const CREDIT_BYTES: usize = WINDOW_BYTES / 4;

/// The end that dialled; the way with this number leads from it.
pub(super) const DIALLED: usize = 0;
/// The end that listened.
pub(super) const LISTENED: usize = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Dialled, no answer yet.
    SynSent,
    /// Called, not sure yet that the caller hears us.
    SynReceived,
    Open,
    /// Reset, refused or timed out; the process has not let go yet.
    Failed,
    /// The process let go; the kernel still sends what was written, and answers bytes with a reset.
    Closed,
    /// No kernel knows of it, not yet or no longer: whatever comes but a call is answered with a reset.
    Vanished,
}

pub(super) enum Payload {
    Syn,
    SynAck,
    Ack,
    Data(Bytes),
    Fin,
    Reset,
}

impl Payload {
    pub fn len(&self) -> usize {
        if let Payload::Data(bytes) = self { bytes.len() } else { 0 }
    }
}

pub(super) struct Segment {
    pub departs: u64,
    pub arrives: u64,
    pub is_late: bool,
    pub payload: Payload,
}

/// The head of a queue did not get through: it is sent again after growing pauses.
pub(super) struct Stall {
    pub since: u64,
    /// Which one it is of this way, for its deadline.
    pub number: u64,
}

/// One direction.
pub(super) struct Way {
    pub flight: VecDeque<Segment>,
    /// Number of the event that looks at the head next.
    pub timer: Option<u64>,
    pub last_arrival: u64,
    pub stall: Option<Stall>,
    pub stalls: u64,
    pub burst: Burst,
    pub random: ChaCha12Rng,
    /// Bytes that were written and are not known to be read.
    pub outstanding: usize,
    /// Bytes that were read and of which the writer's kernel was not told.
    pub credit: usize,
    /// Bytes of which it was told while it could not hear.
    pub unheard_credit: usize,
}

impl Way {
    pub fn new(random: ChaCha12Rng) -> Way {
        Way {
            flight: VecDeque::new(),
            timer: None,
            last_arrival: 0,
            stall: None,
            stalls: 0,
            burst: Burst::default(),
            random,
            outstanding: 0,
            credit: 0,
            unheard_credit: 0,
        }
    }

    /// Forget everything that is under way.
    pub fn clear(&mut self) {
        self.flight.clear();
        self.timer = None;
        self.stall = None;
    }
}

pub(super) struct End {
    pub host: u64,
    pub address: SocketAddr,
    pub phase: Phase,
    /// The listening socket that it belongs to until it is accepted.
    pub listener: Option<u64>,
    pub received: VecDeque<Bytes>,
    /// The peer sent its last byte.
    pub is_read_out: bool,
    /// This end sent its last byte.
    pub is_written_out: bool,
    /// Told to the process once.
    pub error: Option<io::ErrorKind>,
    pub reader: Option<Waker>,
    /// Waits for room, or for the connection to stand.
    pub writer: Option<Waker>,
}

impl End {
    pub fn new(host: u64, address: SocketAddr, phase: Phase) -> End {
        End {
            host,
            address,
            phase,
            listener: None,
            received: VecDeque::new(),
            is_read_out: false,
            is_written_out: false,
            error: None,
            reader: None,
            writer: None,
        }
    }

    /// Whether a process holds it or may yet get hold of it.
    pub fn is_held(&self) -> bool {
        !matches!(self.phase, Phase::Closed | Phase::Vanished)
    }

    pub fn wake(&mut self) {
        self.wake_reader();
        self.wake_writer();
    }

    pub fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// The kernel has given it up.
    pub fn fail(&mut self, kind: io::ErrorKind) {
        self.phase = Phase::Failed;
        self.error = Some(kind);
        self.wake();
    }

    /// Nothing is left of it.
    pub fn vanish(&mut self) {
        self.phase = Phase::Vanished;
        self.received.clear();
        self.reader = None;
        self.writer = None;
    }
}

pub(super) struct Connection {
    pub ends: [End; 2],
    pub ways: [Way; 2],
}

impl Connection {
    /// The machines that `way` leads from and to.
    pub fn hosts(&self, way: usize) -> (u64, u64) {
        (self.ends[way].host, self.ends[1 - way].host)
    }

    /// Whether nobody will ever see or hear anything of it again.
    pub fn is_over(&self) -> bool {
        let is_quiet = self.ways.iter().all(|way| way.flight.is_empty());
        // A call that was given up may arrive all the same.
        let calls = self.ways[DIALLED].flight.front().is_some_and(|head| matches!(head.payload, Payload::Syn));
        let vanished = |end: &End| end.phase == Phase::Vanished;
        !self.ends.iter().any(End::is_held) && (is_quiet || (!calls && self.ends.iter().all(vanished)))
    }
}
