//! Command numbers of one writer in its partitions.
//!
//! Always holds: a number is given once; a command that reports `lowest_unfinished = n` was sent when nobody would
//! retry a command below n any more. A command whose caller went away is finished, with an unknown outcome: the next
//! command's report makes the group refuse it should it still arrive.

use protocol::{CommandId, GroupId, WriterId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Error;

/// A partition keeps the replies from the lowest unfinished command on, 1024 at most (`consensus`); so no command is
/// begun that would be this far ahead of the oldest one under way. It bounds those under way as well.
const AHEAD_MAX: u64 = 1000;

/// The sessions of one writer.
#[derive(Debug)]
pub(crate) struct Sessions {
    writer: WriterId,
    groups: Mutex<BTreeMap<GroupId, Arc<Mutex<Numbers>>>>,
}

#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    unfinished: BTreeSet<u64>,
}

/// A command under way; finished when dropped, in whatever way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    numbers: Arc<Mutex<Numbers>>,
    pub session: consensus::client::Session,
}

impl Sessions {
    pub fn new(writer: WriterId) -> Sessions {
        Sessions { writer, groups: Mutex::default() }
    }

    /// The next number in `group`.
    pub fn begin(&self, group: GroupId) -> Result<UnderWay, Error> {
        let numbers = Arc::clone(lock(&self.groups).entry(group).or_default());
        let mut state = lock(&numbers);
        let lowest = state.unfinished.first().copied();
        if lowest.is_some_and(|lowest| state.last - lowest >= AHEAD_MAX) {
            runtime::probe!("metadata-session-full");
            return Err(Error::Busy);
        }
        state.last += 1;
        let counter = state.last;
        state.unfinished.insert(counter);
        let id = CommandId { writer: self.writer, counter };
        runtime::probe::never_twice("command", &[group.0, id.writer.0, id.counter]);
        let session = consensus::client::Session { id, lowest_unfinished: lowest.unwrap_or(counter) };
        drop(state);
        Ok(UnderWay { numbers, session })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.numbers).unfinished.remove(&self.session.id.counter);
    }
}

/// Nothing panics while it holds these locks, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);

    fn numbers(under_way: &UnderWay) -> (u64, u64) {
        (under_way.session.id.counter, under_way.session.lowest_unfinished)
    }

    #[test]
    fn numbers_count_from_one_in_each_group() {
        let sessions = Sessions::new(WriterId(5));
        assert_eq!(numbers(&sessions.begin(GROUP).unwrap()), (1, 1));
        assert_eq!(numbers(&sessions.begin(GROUP).unwrap()), (2, 2));
        assert_eq!(numbers(&sessions.begin(GroupId(4)).unwrap()), (1, 1));
    }

    #[test]
    fn the_lowest_unfinished_is_that_of_the_oldest_command_under_way() {
        let sessions = Sessions::new(WriterId(5));
        let first = sessions.begin(GROUP).unwrap();
        let second = sessions.begin(GROUP).unwrap();
        assert_eq!(numbers(&second), (2, 1));
        drop(first);
        let third = sessions.begin(GROUP).unwrap();
        assert_eq!(numbers(&third), (3, 2));
        drop(third);
        assert_eq!(numbers(&sessions.begin(GROUP).unwrap()), (4, 2));
        drop(second);
        assert_eq!(numbers(&sessions.begin(GROUP).unwrap()), (5, 5));
    }

    #[test]
    fn an_abandoned_command_is_never_reported_as_unfinished_again() {
        let sessions = Arc::new(Sessions::new(WriterId(5)));
        let abandoned = {
            let sessions = Arc::clone(&sessions);
            Box::pin(async move {
                let _under_way = sessions.begin(GROUP).unwrap();
                std::future::pending::<()>().await;
            })
        };
        let mut abandoned = abandoned;
        assert!(futures::FutureExt::now_or_never(&mut abandoned).is_none());
        assert_eq!(numbers(&sessions.begin(GROUP).unwrap()), (2, 1), "it is under way");
        drop(abandoned);
        assert_eq!(numbers(&sessions.begin(GROUP).unwrap()), (3, 3), "its caller went away");
    }

    #[test]
    fn a_stuck_command_bounds_how_many_results_the_group_must_keep() {
        let sessions = Sessions::new(WriterId(5));
        let _stuck = sessions.begin(GROUP).unwrap();
        for _ in 0..AHEAD_MAX {
            drop(sessions.begin(GROUP).unwrap());
        }
        assert_eq!(sessions.begin(GROUP).map(|_| ()), Err(Error::Busy));
        assert!(sessions.begin(GroupId(9)).is_ok());
    }
}
