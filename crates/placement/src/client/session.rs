//! The session of one client with the root group: a writer id of its own and the numbers of its commands.
//!
//! Invariant: `lowest_unfinished` of a session is at or below every command that may still be retried, and a number
//! is used for one command only. A command is finished when its [`Turn`] is dropped, also if its caller gave up.

use crate::Error;
use consensus::client::Session;
use protocol::{CommandId, WriterId};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Default)]
pub(super) struct Sessions {
    numbers: Arc<Mutex<Numbers>>,
    /// Held while the writer id is fetched, so that it is fetched once.
    opening: runtime::sync::Mutex<()>,
}

#[derive(Default)]
struct Numbers {
    writer: Option<WriterId>,
    last: u64,
    unfinished: BTreeSet<u64>,
}

/// One command under way.
pub(super) struct Turn {
    session: Session,
    numbers: Arc<Mutex<Numbers>>,
}

impl Sessions {
    /// Number a command. `open` fetches the writer id, before the first.
    pub async fn begin(&self, open: impl AsyncFnOnce() -> Result<WriterId, Error>) -> Result<Turn, Error> {
        if let Some(turn) = self.number() {
            return Ok(turn);
        }
        let _opening = self.opening.lock().await;
        if let Some(turn) = self.number() {
            return Ok(turn);
        }
        let writer = open().await?;
        lock(&self.numbers).writer = Some(writer);
        Ok(self.number().expect("the writer id was just set"))
    }

    fn number(&self) -> Option<Turn> {
        let mut numbers = lock(&self.numbers);
        let writer = numbers.writer?;
        numbers.last += 1;
        let counter = numbers.last;
        numbers.unfinished.insert(counter);
        let lowest_unfinished = numbers.unfinished.first().copied().expect("this very command is unfinished");
        let session = Session { id: CommandId { writer, counter }, lowest_unfinished };
        runtime::probe::never_twice("command", &[protocol::ROOT.0, writer.0, counter]);
        Some(Turn { session, numbers: self.numbers.clone() })
    }
}

impl Turn {
    pub fn session(&self) -> Session {
        self.session
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.numbers).unfinished.remove(&self.session.id.counter);
    }
}

fn lock(numbers: &Mutex<Numbers>) -> MutexGuard<'_, Numbers> {
    numbers.lock().expect("nothing panics under this lock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn numbers_are_used_once_and_the_lowest_unfinished_waits_for_the_slowest() {
        let sessions = Sessions::default();
        let begin = || sessions.begin(async || Ok(WriterId(9))).now_or_never().unwrap().unwrap();
        let (first, second) = (begin(), begin());
        assert_eq!((first.session().id.counter, second.session().id.counter), (1, 2));
        drop(second);
        assert_eq!(begin().session().lowest_unfinished, 1);
        drop(first);
        let next = begin().session();
        assert_eq!((next.id, next.lowest_unfinished), (CommandId { writer: WriterId(9), counter: 4 }, 4));
    }

    #[test]
    fn without_a_writer_id_nothing_begins() {
        let sessions = Sessions::default();
        let refused = sessions.begin(async || Err(Error::Busy)).now_or_never().unwrap();
        assert!(matches!(refused, Err(Error::Busy)));
        assert!(sessions.numbers.lock().unwrap().unfinished.is_empty());
    }
}
