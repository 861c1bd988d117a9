//! [`Recorder`]: writes a history while it happens.

use std::sync::{Arc, Mutex};

use super::{Action, History, Operation, Outcome};

/// Writes a history while it happens; shared by all clients of a run.
pub struct Recorder {
    start: runtime::time::Instant,
    state: Mutex<Recording>,
}

struct Recording {
    history: History,
    next: u64,
    observers: Vec<Observer>,
}

type Observer = Arc<dyn Fn(&Operation) + Send + Sync>;

/// What a client learned from a reply, or from its absence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub outcome: Outcome,
    /// See [`Operation::revision`].
    pub revision: Option<u64>,
}

impl From<Outcome> for Reply {
    /// A reply that named no revision.
    fn from(outcome: Outcome) -> Reply {
        Reply { outcome, revision: None }
    }
}

/// A begun operation.
#[derive(Clone, Copy, Debug)]
pub struct Begun(usize);

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

impl Recorder {
    /// Time counts from now.
    pub fn new() -> Recorder {
        Recorder {
            start: runtime::time::now(),
            state: Mutex::new(Recording { history: History::default(), next: 0, observers: Vec::new() }),
        }
    }

    /// Just before the first byte is sent.
    pub fn begin(&self, client: u32, bucket: &str, key: &str, action: Action) -> Begun {
        let begun_us = self.elapsed_us();
        let mut state = self.state.lock().expect("nothing panics under it");
        let begun = state.next;
        state.next += 1;
        let outcome = Outcome::Unknown("never ended".to_owned());
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let operation = Operation { client, bucket, key, action, begun, begun_us, ended: None, ended_us: None, outcome, revision: None };
        state.history.operations.push(operation);
        Begun(state.history.operations.len() - 1)
    }

    /// Call `observer` with each operation at the moment at which its client has the reply, before the client goes on.
    /// It must not use the recorder.
    pub fn on_end(&self, observer: impl Fn(&Operation) + Send + Sync + 'static) {
        self.state.lock().expect("nothing panics under it").observers.push(Arc::new(observer));
    }

    /// Just after the last byte was received.
    pub fn end(&self, begun: Begun, reply: impl Into<Reply>) {
        let Reply { outcome, revision } = reply.into();
        let ended_us = self.elapsed_us();
        let mut state = self.state.lock().expect("nothing panics under it");
        let ended = state.next;
        state.next += 1;
        let recording = &mut *state;
        let operation = &mut recording.history.operations[begun.0];
        assert!(operation.ended.is_none(), "an operation ends once");
        (operation.ended, operation.ended_us, operation.outcome, operation.revision) = (Some(ended), Some(ended_us), outcome, revision);
        if recording.observers.is_empty() {
            return;
        }
        let (observers, operation) = (recording.observers.clone(), operation.clone());
        // An observer takes its time, and may fail: not under the lock.
        drop(state);
        for observer in observers {
            observer(&operation);
        }
    }

    /// The history so far.
    pub fn history(&self) -> History {
        self.state.lock().expect("nothing panics under it").history.clone()
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(runtime::time::now().saturating_duration_since(self.start).as_micros()).expect("a run ends within centuries")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Seen;

    #[test]
    fn an_observer_sees_each_operation_as_it_ends() {
        let (recorder, seen) = (Recorder::new(), Arc::new(Mutex::new(Vec::new())));
        let kept = seen.clone();
        recorder.on_end(move |operation| kept.lock().unwrap().push(operation.clone()));
        let first = recorder.begin(1, "b", "k", Action::Get);
        let second = recorder.begin(2, "b", "k", Action::Delete);
        recorder.end(second, Reply { outcome: Outcome::Done, revision: Some(7) });
        recorder.end(first, Outcome::Read(Seen::Absent));
        let (seen, history) = (seen.lock().unwrap().clone(), recorder.history());
        assert_eq!(seen, [history.operations[1].clone(), history.operations[0].clone()]);
        assert_eq!((seen[0].revision, seen[0].ended, seen[1].revision, seen[1].ended), (Some(7), Some(2), None, Some(3)));
    }
}
