//! Clients at work: seeded choices, every operation recorded before it is sent and after it is answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runtime::time::{self, Instant};

use super::Draws;
use crate::check::Final;
use crate::history::{Action, Outcome, Recorder, Seen, Value};
use crate::s3::{Checksum, Client, Condition, Error, Payload, Request};
use crate::scenario::Workload;

/// User metadata that names the value that was put: `id:bytes`.
const VALUE_HEADER: &str = "x-amz-meta-value";
/// Longest wait of a workload's client for one reply; what takes longer has an unknown outcome.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Name of key number `index` of a workload.
pub fn key(index: usize) -> String {
    format!("key-{index:04}")
}

/// Run `workload` against `bucket`, which exists, until its time (from now) is over. `clients` are the endpoints;
/// each worker begins at another one and moves on when its own does not serve.
pub async fn put_get_delete(workload: &Workload, clients: &[Client], bucket: &str, seed: u64, recorder: &Arc<Recorder>) {
    assert!(!clients.is_empty(), "a workload needs an endpoint");
    let until = time::now() + workload.until;
    let mut workers = Vec::new();
    for number in 0..workload.clients {
        let worker = Worker {
            number: u32::try_from(number).expect("few clients"),
            clients: clients.iter().map(|client| client.with_timeout(TIMEOUT)).collect(),
            endpoint: number % clients.len(),
            bucket: bucket.to_owned(),
            draws: Draws::new(seed, &format!("client {number}")),
            // Ids of different workers and runs never meet.
            id_base: (Draws::new(seed, "values").number() << 40 & !Value::COMPOSED) | ((number as u64) << 24),
            puts: 0,
            known: BTreeMap::new(),
            recorder: recorder.clone(),
            workload: workload.clone(),
        };
        workers.push(runtime::task::spawn(worker.work(until)));
    }
    for worker in workers {
        worker.await;
    }
}

struct Worker {
    number: u32,
    clients: Vec<Client>,
    endpoint: usize,
    bucket: String,
    draws: Draws,
    id_base: u64,
    puts: u64,
    /// What this worker last knew of a key.
    known: BTreeMap<String, Value>,
    recorder: Arc<Recorder>,
    workload: Workload,
}

impl Worker {
    async fn work(mut self, until: Instant) {
        loop {
            let pause_us = u64::try_from(self.workload.pause.as_micros()).expect("a short pause");
            time::sleep(Duration::from_micros(self.draws.between(0, pause_us))).await;
            if time::now() >= until {
                return;
            }
            let key = key(usize::try_from(self.draws.below(self.workload.keys as u64)).expect("an index"));
            let action = self.choose(&key);
            let begun = self.recorder.begin(self.number, &self.bucket, &key, action.clone());
            let outcome = perform(&self.clients[self.endpoint], &self.bucket, &key, &action).await;
            self.learn(&key, &action, &outcome);
            self.recorder.end(begun, outcome);
        }
    }

    fn choose(&mut self, key: &str) -> Action {
        let expected = self.known.get(key).copied();
        match (self.draws.below(20), expected) {
            (0..=7, _) => Action::Get,
            (8..=10, _) => Action::Delete,
            (11..=13, _) => Action::PutIfAbsent(self.value()),
            (14..=15, Some(expected)) => Action::PutIfMatches { value: self.value(), expected },
            _ => Action::Put(self.value()),
        }
    }

    fn value(&mut self) -> Value {
        let (least, most) = (*self.workload.object_bytes.start(), *self.workload.object_bytes.end());
        // Half of them small: sizes spread over their magnitudes, not over their range.
        let most = if self.draws.below(2) == 0 { most } else { least.max(most >> self.draws.below(16)) };
        self.puts += 1;
        Value { id: self.id_base | self.puts, bytes: self.draws.between(least, most) }
    }

    fn learn(&mut self, key: &str, action: &Action, outcome: &Outcome) {
        match (action, outcome) {
            (Action::Put(value) | Action::PutIfAbsent(value) | Action::PutIfMatches { value, .. }, Outcome::Done)
            | (Action::Get, Outcome::Read(Seen::Value(value))) => {
                self.known.insert(key.to_owned(), *value);
            }
            (_, Outcome::NotDone(_) | Outcome::Unknown(_)) => {
                // Perhaps this endpoint is down.
                self.endpoint = (self.endpoint + 1) % self.clients.len();
            }
            _ => {
                self.known.remove(key);
            }
        }
    }
}

/// Do `action` once, and say what came of it.
pub async fn perform(client: &Client, bucket: &str, key: &str, action: &Action) -> Outcome {
    match *action {
        Action::Get => get(client, bucket, key).await,
        Action::Delete => outcome(client.delete(bucket, key).await, false),
        Action::Put(value) => outcome(client.put_with(put_request(bucket, key, value)).await, false),
        Action::PutIfAbsent(value) => outcome(client.put_with(Condition::Absent.apply(put_request(bucket, key, value))).await, true),
        Action::PutIfMatches { value, expected } => {
            let condition = Condition::Matches(etag(expected));
            outcome(client.put_with(condition.apply(put_request(bucket, key, value))).await, true)
        }
        _ => unreachable!("this workload does not draw {action:?}"),
    }
}

/// The ETag of a value that was put in one piece.
fn etag(value: Value) -> String {
    use md5::Digest;
    let mut sum = md5::Md5::new();
    crate::s3::Source::from(value.content()).walk(|piece| sum.update(piece));
    format!("\"{}\"", hex::encode(sum.finalize()))
}

/// Each way of signing a payload takes part, chosen by the value.
fn put_request(bucket: &str, key: &str, value: Value) -> Request {
    let chunk_bytes = 8 << 10;
    let checksum = Checksum::ALL[usize::try_from(value.id / 5 % 5).expect("below five")];
    let payload = match value.id % 5 {
        0 => Payload::Signed,
        1 => Payload::Unsigned,
        2 => Payload::SignedChunks { chunk_bytes },
        3 => Payload::SignedChunksTrailer { chunk_bytes, checksum },
        _ => Payload::UnsignedTrailer { chunk_bytes, checksum },
    };
    Request::object("PUT", bucket, key)
        .header(VALUE_HEADER, format!("{}:{}", value.id, value.bytes))
        .source(value.content())
        .payload(payload)
}

fn outcome<T>(result: Result<T, Error>, conditional: bool) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(Error::Refused { status: 412, .. }) if conditional => Outcome::PreconditionFailed,
        // If-Match on a key that does not exist.
        Err(Error::Refused { status: 404, code, .. }) if conditional && code == "NoSuchKey" => Outcome::PreconditionFailed,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> Outcome {
    // Codes, not whole messages: tallies should stay short.
    let reason = match error {
        Error::Refused { status, code, .. } => format!("{status} {code}"),
        other => other.to_string(),
    };
    if error.is_certainly_not_done() { Outcome::NotDone(reason) } else { Outcome::Unknown(reason) }
}

async fn get(client: &Client, bucket: &str, key: &str) -> Outcome {
    let reply = match client.get_stream(bucket, key).await {
        Ok(reply) => reply,
        Err(Error::Refused { status: 404, code, .. }) if code == "NoSuchKey" => return Outcome::Read(Seen::Absent),
        Err(error) => return failed(&error),
    };
    let named = reply.header(VALUE_HEADER).to_owned();
    let shown_etag = reply.header("etag").to_owned();
    let value = match named.split_once(':').map(|(id, bytes)| (id.parse(), bytes.parse())) {
        Some((Ok(id), Ok(bytes))) => Value { id, bytes },
        _ => return Outcome::Read(Seen::Wrong(format!("its metadata name the value \"{named}\""))),
    };
    match reply.verify(value.content()).await {
        Ok(()) if shown_etag != etag(value) => Outcome::Read(Seen::Wrong(format!("ETag {shown_etag} is not the MD5 of its bytes"))),
        Ok(()) => Outcome::Read(Seen::Value(value)),
        Err(Error::WrongBytes(mismatch)) => Outcome::Read(Seen::Wrong(mismatch.to_string())),
        // Cut: a reply that cannot be completed may end early, it was no complete reply.
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// Read every key of a workload at the end, until it answers or `patience` is over. Recorded as client `u32::MAX`, so
/// that linearizability covers it.
pub async fn read_all(
    keys: usize,
    clients: &[Client],
    bucket: &str,
    patience: Duration,
    recorder: &Arc<Recorder>,
) -> BTreeMap<String, Final> {
    let deadline = time::now() + patience;
    let mut finals = BTreeMap::new();
    for index in 0..keys {
        let key = key(index);
        let mut attempt = index;
        let found = loop {
            let begun = recorder.begin(u32::MAX, bucket, &key, Action::Get);
            let outcome = perform(&clients[attempt % clients.len()].with_timeout(TIMEOUT), bucket, &key, &Action::Get).await;
            recorder.end(begun, outcome.clone());
            match outcome {
                Outcome::Read(seen) => break Ok(seen),
                Outcome::NotDone(reason) | Outcome::Unknown(reason) if time::now() >= deadline => break Err(reason),
                Outcome::NotDone(_) | Outcome::Unknown(_) => {}
                _ => unreachable!("a GET reads or fails"),
            }
            attempt += 1;
            time::sleep(Duration::from_millis(250)).await;
        };
        finals.insert(key, found);
    }
    finals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_not_done_and_a_failing_of_the_server_is_unknown() {
        let refused = |status, code: &str| Err::<(), _>(Error::Refused { status, code: code.to_owned(), message: String::new() });
        assert_eq!(outcome(refused(412, "PreconditionFailed"), true), Outcome::PreconditionFailed);
        assert_eq!(outcome(refused(412, "PreconditionFailed"), false), Outcome::NotDone("412 PreconditionFailed".to_owned()));
        assert_eq!(
            outcome(refused(409, "ConditionalRequestConflict"), true),
            Outcome::NotDone("409 ConditionalRequestConflict".to_owned())
        );
        assert_eq!(outcome(refused(404, "NoSuchBucket"), true), Outcome::NotDone("404 NoSuchBucket".to_owned()));
        assert_eq!(outcome(refused(503, "SlowDown"), true), Outcome::Unknown("503 SlowDown".to_owned()));
        assert_eq!(outcome(Err::<(), _>(Error::Unsent("x".to_owned())), true), Outcome::NotDone("not sent: x".to_owned()));
    }
}
