//! The calls of one connection, each from its entry to its reply, its withdrawal or the connection's end.
//!
//! Invariants: until a call is begun to be written, what it sends is held by its entry alone, and freed with it; whether
//! it was written or withdrawn first is decided under one lock, so that one that was withdrawn unwritten is never sent;
//! calls are bounded in number; none is entered after the end, which fails all of them.

use bytes::Bytes;
use protocol::NodeId;
use protocol::limits::REQUESTS_PER_CONNECTION_MAX;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::{Error, Method, Received};
use crate::sync::oneshot;
use crate::time::Instant;

/// The calls of one connection to `to`.
pub(crate) struct Calls {
    to: NodeId,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    waiting: BTreeMap<u64, Call>,
    last: u64,
    ended: bool,
}

/// A call that waits for its reply.
pub(crate) struct Call {
    reply: oneshot::Sender<Result<Received, Error>>,
    /// None once it was begun to be written.
    unsent: Option<Unsent>,
}

/// What a call is to send.
pub(crate) struct Unsent {
    pub method: Method,
    pub epoch: u64,
    pub deadline: Instant,
    pub meta: Bytes,
    pub body: Vec<Bytes>,
}

/// Why a call was not entered.
pub(crate) enum Refused {
    /// The connection has ended; what was to be sent is given back.
    Ended(Unsent),
    /// Too many are under way.
    Full,
}

impl Call {
    /// False: it was not begun to be written, and never will be.
    pub fn is_written(&self) -> bool {
        self.unsent.is_none()
    }

    pub fn finish(self, result: Result<Received, Error>) {
        // The caller may have given up.
        let _ = self.reply.send(result);
    }
}

impl Calls {
    pub fn new(to: NodeId) -> Calls {
        Calls { to, table: Mutex::default() }
    }

    /// Enter a call: its id, and where its result comes.
    pub fn enter(&self, unsent: Unsent) -> Result<(u64, oneshot::Receiver<Result<Received, Error>>), Refused> {
        let mut table = self.table();
        if table.ended {
            return Err(Refused::Ended(unsent));
        }
        if table.waiting.len() >= REQUESTS_PER_CONNECTION_MAX {
            return Err(Refused::Full);
        }
        table.last += 1;
        let id = table.last;
        let (reply, receiver) = oneshot::channel();
        table.waiting.insert(id, Call { reply, unsent: Some(unsent) });
        Ok((id, receiver))
    }

    /// Take what `id` sends: from now on it counts as written. None: nobody waits for it any more, or not after `at`.
    pub fn begin_writing(&self, id: u64, at: Instant) -> Option<Unsent> {
        self.table().waiting.get_mut(&id)?.unsent.take_if(|unsent| at < unsent.deadline)
    }

    /// Take `id` out: it is answered or withdrawn.
    pub fn take(&self, id: u64) -> Option<Call> {
        self.table().waiting.remove(&id)
    }

    /// No call is entered any more.
    pub fn has_ended(&self) -> bool {
        self.table().ended
    }

    /// No call waits.
    pub fn is_empty(&self) -> bool {
        self.table().waiting.is_empty()
    }

    /// End if no call waits; whether it has ended.
    pub fn end_if_empty(&self) -> bool {
        let mut table = self.table();
        table.ended |= table.waiting.is_empty();
        table.ended
    }

    /// Fail all calls, and those to come.
    pub fn end(&self, reason: &str) {
        let waiting = {
            let mut table = self.table();
            table.ended = true;
            std::mem::take(&mut table.waiting)
        };
        for call in waiting.into_values() {
            let (to, reason) = (self.to, reason.to_string());
            let error = if call.is_written() { Error::Unknown { to, reason } } else { Error::Unreachable { to, reason } };
            call.finish(Err(error));
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics under this lock")
    }
}

/// A call's place in the table; given back when its caller stops waiting, and with it what was not sent yet.
pub(crate) struct Entry<'a> {
    pub calls: &'a Calls,
    pub id: u64,
}

impl Entry<'_> {
    /// Stop waiting. None: the reply is being read, or has come.
    pub fn withdraw(self) -> Option<Call> {
        self.calls.take(self.id)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.calls.take(self.id);
    }
}
