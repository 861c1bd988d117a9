//! [`History`]: who asked what, when, and what came back. The only thing that checkers look at.
//!
//! As text it is one JSON object a line, one operation each, in the order in which they began:
//!
//! ```json
//! {"client":2,"key":"k07","action":{"put":{"id":7,"bytes":900}},"begun":41,"begun_us":1200345,"ended":44,"ended_us":1203001,"outcome":"done"}
//! {"client":0,"key":"k07","action":"get","begun":45,"begun_us":1203400,"ended":47,"ended_us":1204100,"outcome":{"read":{"value":{"id":7,"bytes":900}}}}
//! ```
//!
//! `begun` and `ended` count all beginnings and ends of the run in one sequence: one operation precedes another if
//! its `ended` is lower than the other's `begun`. Times are microseconds since the start, for people.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::s3::Content;

/// What a PUT writes: `bytes` pseudo-random bytes of the seed `id`. Ids are never used twice in a history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Value {
    pub id: u64,
    pub bytes: u64,
}

impl Value {
    pub fn content(self) -> Content {
        Content::new(self.id, self.bytes)
    }

    /// Whether both have the same bytes, and so the same ETag: tiny ones may although they differ in id.
    pub fn same_bytes(self, other: Value) -> bool {
        self == other || (self.bytes == other.bytes && self.bytes <= 16 && self.content().bytes() == other.content().bytes())
    }
}

/// What is asked of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Put(Value),
    /// PUT with `If-None-Match: *`.
    PutIfAbsent(Value),
    /// PUT with `If-Match` of the ETag of `expected`.
    PutIfMatches {
        value: Value,
        expected: Value,
    },
    Delete,
    Get,
}

/// What a GET saw.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// NoSuchKey.
    Absent,
    /// Every byte of it.
    Value(Value),
    /// A complete reply with bytes or headers that are no value's.
    Wrong(String),
}

/// What came of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A write or delete was acknowledged.
    Done,
    Read(Seen),
    /// The condition did not hold.
    PreconditionFailed,
    /// Certainly without effect, now and later.
    NotDone(String),
    /// It may have been done, or may yet be done.
    Unknown(String),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    pub client: u32,
    pub key: String,
    pub action: Action,
    /// Place in the run's sequence of beginnings and ends.
    pub begun: u64,
    pub begun_us: u64,
    /// None: it had not ended when the run did.
    pub ended: Option<u64>,
    pub ended_us: Option<u64>,
    pub outcome: Outcome,
}

/// All operations of a run in the order in which they began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
}

/// A line that is no operation.
#[derive(Debug, thiserror::Error)]
#[error("history line {line}: {reason}")]
pub struct Error {
    pub line: usize,
    pub reason: String,
}

impl History {
    /// One line of JSON for each operation.
    pub fn to_lines(&self) -> String {
        let mut text = String::new();
        for operation in &self.operations {
            text.push_str(&serde_json::to_string(operation).expect("an operation has only plain fields"));
            text.push('\n');
        }
        text
    }

    /// Read what [`to_lines`](History::to_lines) wrote.
    pub fn from_lines(text: &str) -> Result<History, Error> {
        let read =
            |(index, line): (usize, &str)| serde_json::from_str(line).map_err(|error| Error { line: index + 1, reason: error.to_string() });
        let operations = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(read).collect::<Result<_, _>>()?;
        Ok(History { operations })
    }

    /// Operations of each key, in the order in which they began.
    pub fn by_key(&self) -> BTreeMap<&str, Vec<&Operation>> {
        let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(&operation.key).or_default().push(operation);
        }
        keys
    }

    /// How many operations ended how, and why those failed that did.
    pub fn tally(&self) -> BTreeMap<String, usize> {
        let mut tally = BTreeMap::new();
        for operation in &self.operations {
            let name = match &operation.outcome {
                Outcome::Done => "done".to_owned(),
                Outcome::Read(Seen::Absent) => "read absent".to_owned(),
                Outcome::Read(Seen::Value(_)) => "read".to_owned(),
                Outcome::Read(Seen::Wrong(_)) => "read WRONG".to_owned(),
                Outcome::PreconditionFailed => "precondition failed".to_owned(),
                Outcome::NotDone(reason) => format!("not done: {reason}"),
                Outcome::Unknown(reason) => format!("unknown: {reason}"),
            };
            *tally.entry(name).or_insert(0) += 1;
        }
        tally
    }
}

/// Writes a history while it happens; shared by all clients of a run.
pub struct Recorder {
    start: runtime::time::Instant,
    state: Mutex<Recording>,
}

struct Recording {
    history: History,
    next: u64,
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
        Recorder { start: runtime::time::now(), state: Mutex::new(Recording { history: History::default(), next: 0 }) }
    }

    /// Just before the first byte is sent.
    pub fn begin(&self, client: u32, key: &str, action: Action) -> Begun {
        let begun_us = self.elapsed_us();
        let mut state = self.state.lock().expect("nothing panics under it");
        let begun = state.next;
        state.next += 1;
        let outcome = Outcome::Unknown("never ended".to_owned());
        let operation = Operation { client, key: key.to_owned(), action, begun, begun_us, ended: None, ended_us: None, outcome };
        state.history.operations.push(operation);
        Begun(state.history.operations.len() - 1)
    }

    /// Just after the last byte was received.
    pub fn end(&self, begun: Begun, outcome: Outcome) {
        let ended_us = self.elapsed_us();
        let mut state = self.state.lock().expect("nothing panics under it");
        let ended = state.next;
        state.next += 1;
        let operation = &mut state.history.operations[begun.0];
        assert!(operation.ended.is_none(), "an operation ends once");
        (operation.ended, operation.ended_us, operation.outcome) = (Some(ended), Some(ended_us), outcome);
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

    #[test]
    fn lines_come_back_as_they_were() {
        let value = Value { id: u64::MAX, bytes: 900 };
        let operation = |action, outcome| Operation {
            client: 1,
            key: "a \"b\"\n".to_owned(),
            action,
            begun: 4,
            begun_us: 5,
            ended: Some(6),
            ended_us: Some(7),
            outcome,
        };
        let mut history = History {
            operations: vec![
                operation(Action::Put(value), Outcome::Done),
                operation(Action::PutIfMatches { value, expected: value }, Outcome::PreconditionFailed),
                operation(Action::Get, Outcome::Read(Seen::Value(value))),
                operation(Action::Get, Outcome::Read(Seen::Absent)),
                operation(Action::Delete, Outcome::Unknown("cut".to_owned())),
            ],
        };
        history.operations[4].ended = None;
        assert_eq!(History::from_lines(&history.to_lines()).unwrap(), history);
        assert_eq!(history.to_lines().lines().count(), 5);
        assert_eq!(History::from_lines("\n{}").unwrap_err().line, 2);
    }

    #[test]
    fn documented_lines_parse() {
        let text = include_str!("history.rs");
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("//! {")).collect();
        assert_eq!(lines.len(), 2);
        for line in lines {
            History::from_lines(&format!("{{{line}")).unwrap();
        }
    }
}
