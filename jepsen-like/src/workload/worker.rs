//! [`Work`]: the clients of a run carry out its steps, each client its own in order, all clients at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime::time::{self, Instant};

use super::answer::UNSENT;
use super::draw::TINY_BYTES;
use super::listing;
use super::objects::{self, Range};
use super::rude;
use super::step::{Place, PlannedAction, PlannedList, Rudeness, Step, UploadName, bucket_name, key_name};
use super::uploads::{self, CopiedRange, Upload, Uploads};
use super::values::Values;
use crate::history::{Action, After, List, ListKind, Outcome, Part, Recorder, Reply, Seen, Source, Value};
use crate::s3::Client;

/// Longest wait of a client for one reply; what takes longer has an unknown outcome. Longer than servers keep a caller in
/// line before they refuse it (ten seconds are usual), so that refusals are heard.
const TIMEOUT: Duration = Duration::from_secs(12);

/// A gateway that accepts no connection is left alone for so long by the client that noticed, which asks another.
const SHUN: Duration = Duration::from_secs(1);

/// What the clients of a run have in common.
pub struct Work {
    clients: Vec<Client>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) values: Values,
    uploads: Uploads,
    /// Where a value was ever put, or may have been: bucket and key.
    placed: Mutex<BTreeSet<(String, String, Value)>>,
}

impl Work {
    /// `clients` are the endpoints, in the order in which steps number them.
    pub fn new(clients: &[Client], recorder: Arc<Recorder>) -> Arc<Work> {
        assert!(!clients.is_empty(), "a workload needs an endpoint");
        let clients = clients.iter().map(|client| client.with_timeout(TIMEOUT)).collect();
        Arc::new(Work { clients, recorder, values: Values::default(), uploads: Uploads::default(), placed: Mutex::default() })
    }

    /// Carry `steps` out, which are in the order of their times; `untils` says for each workload after which time, from
    /// now, no step begins.
    pub async fn run(self: &Arc<Work>, steps: Vec<Step>, untils: &[Duration]) {
        let start = time::now();
        let mut each: BTreeMap<(u32, u32), Vec<Step>> = BTreeMap::new();
        for step in steps {
            each.entry((step.workload, step.client)).or_default().push(step);
        }
        let workers: Vec<_> = each
            .into_iter()
            .map(|((workload, _), steps)| {
                let until = start + untils.get(workload as usize).copied().unwrap_or(Duration::MAX / 4);
                let worker = Worker {
                    work: self.clone(),
                    known: BTreeMap::new(),
                    versions: BTreeMap::new(),
                    copyable: BTreeMap::new(),
                    shunned: BTreeMap::new(),
                };
                runtime::task::spawn(worker.work(steps, start, until))
            })
            .collect();
        for worker in workers {
            worker.await;
        }
    }

    /// Note that a value is about to be put to a key. False if that is not the first time.
    pub(super) fn place(&self, bucket: &str, key: &str, value: Value) -> bool {
        self.placed.lock().expect("nothing panics under it").insert((bucket.to_owned(), key.to_owned(), value))
    }

    /// The gateway that attempt number `number` asks.
    pub(super) fn client(&self, number: usize) -> &Client {
        &self.clients[number % self.clients.len()]
    }
}

/// One client.
pub(super) struct Worker {
    pub(super) work: Arc<Work>,
    /// What it last knew of a key, with the ETag that it has there.
    pub(super) known: BTreeMap<(u32, Place), (Value, String)>,
    /// Version ids that it was told of a key, the latest last.
    pub(super) versions: BTreeMap<(u32, Place), Vec<String>>,
    /// The version that it last knew to be an object, with its value.
    pub(super) copyable: BTreeMap<(u32, Place), (String, Value)>,
    /// Gateways that accepted no connection, and until when they are left alone.
    shunned: BTreeMap<usize, Instant>,
}

impl Worker {
    async fn work(mut self, steps: Vec<Step>, start: Instant, until: Instant) {
        for step in steps {
            time::sleep_until(start + Duration::from_micros(step.at_us)).await;
            if let Some(open) = self.next_open() {
                time::sleep_until(open).await;
            }
            if time::now() >= until {
                return;
            }
            self.perform(&step).await;
        }
    }

    async fn perform(&mut self, step: &Step) {
        let work = self.work.clone();
        let client = work.client(self.endpoint(step));
        match &step.action {
            PlannedAction::Put { at, bytes } => self.put(step, client, *at, Action::Put(step.value(*bytes))).await,
            PlannedAction::PutIfAbsent { at, bytes } => self.put(step, client, *at, Action::PutIfAbsent(step.value(*bytes))).await,
            PlannedAction::PutIfMatches { at, bytes } => {
                let value = step.value(*bytes);
                let action = match self.known.get(&(step.workload, *at)) {
                    Some((expected, _)) => Action::PutIfMatches { value, expected: *expected },
                    None => Action::Put(value),
                };
                self.put(step, client, *at, action).await;
            }
            PlannedAction::Delete(at) => {
                let (bucket, key) = names(step, *at);
                self.record(step, *at, Action::Delete, objects::delete(client, &bucket, &key)).await;
                self.known.remove(&(step.workload, *at));
            }
            PlannedAction::DeleteIfMatches(at) => {
                let (bucket, key) = names(step, *at);
                match self.known.remove(&(step.workload, *at)) {
                    Some((expected, etag)) => {
                        let deleting = objects::delete_if(client, &bucket, &key, etag, |_| Outcome::Done);
                        self.record(step, *at, Action::DeleteIfMatches(expected), deleting).await;
                    }
                    None => drop(self.record(step, *at, Action::Delete, objects::delete(client, &bucket, &key)).await),
                }
            }
            PlannedAction::DeleteMany(places) => self.delete_many(step, client, places).await,
            PlannedAction::Get(at) => self.get(step, client, *at, None).await,
            PlannedAction::GetRange { at, from_end, bytes } => {
                self.get(step, client, *at, Some(Range { from_end: *from_end, bytes: *bytes })).await;
            }
            PlannedAction::Head(at) => {
                let (bucket, key) = names(step, *at);
                self.read(step, *at, Action::Head, objects::head_object(client, &work.values, &bucket, &key)).await;
            }
            PlannedAction::List(planned) => self.list(step, client, planned).await,
            PlannedAction::Copy { from, to } => self.copy(step, client, *from, *to).await,
            PlannedAction::CopyOntoItself(at) => self.copy(step, client, *at, *at).await,
            PlannedAction::CreateBucket(bucket) => self.bucket(step, client, *bucket, Action::CreateBucket).await,
            PlannedAction::DeleteBucket(bucket) => self.bucket(step, client, *bucket, Action::DeleteBucket).await,
            PlannedAction::ListBuckets { prefix, buckets_max } => {
                let action = Action::ListBuckets { prefix: prefix.clone(), buckets_max: *buckets_max };
                self.record_in(step, "", "", action, listing::buckets(client, prefix, *buckets_max)).await;
            }
            PlannedAction::Rude { manner, at, bytes } => self.rude(step, client, *manner, *at, step.value(*bytes)).await,
            PlannedAction::Version(action) => self.version(step, client, action).await,
            PlannedAction::CreateUpload(at) => {
                let (bucket, key) = names(step, *at);
                let reply = self.record(step, *at, Action::CreateUpload, uploads::create(client, &bucket, &key)).await;
                if let Outcome::Begun(id) = reply.outcome {
                    work.uploads.begin(step, &bucket, &key, id);
                }
            }
            PlannedAction::ListUploads(bucket) => {
                let bucket = bucket_name(step.workload, *bucket);
                self.record_in(step, &bucket, "", Action::ListUploads, uploads::list(client, &bucket)).await;
            }
            PlannedAction::UploadPart { upload, .. }
            | PlannedAction::ListParts { upload, .. }
            | PlannedAction::CopyPart { upload, .. }
            | PlannedAction::Complete { upload, .. }
            | PlannedAction::CompleteAgain { upload }
            | PlannedAction::Abort { upload } => self.upload(step, client, *upload).await,
        }
    }

    /// When the next gateway is asked again, if all are shunned: steps are not wasted on them.
    fn next_open(&self) -> Option<Instant> {
        let all = self.shunned.len() == self.work.clients.len();
        self.shunned.values().min().copied().filter(|_| all)
    }

    /// The gateway of `step`, or the next one that is not shunned; its own if all are.
    fn endpoint(&self, step: &Step) -> usize {
        let (count, now) = (self.work.clients.len(), time::now());
        let own = step.endpoint as usize % count;
        let open = |endpoint: &usize| self.shunned.get(endpoint).is_none_or(|until| *until <= now);
        (own..own + count).map(|endpoint| endpoint % count).find(open).unwrap_or(own)
    }

    /// Record `action` around what carries it out.
    pub(super) async fn record(&mut self, step: &Step, at: Place, action: Action, carried_out: impl Future<Output = Reply>) -> Reply {
        let (bucket, key) = names(step, at);
        self.record_in(step, &bucket, &key, action, carried_out).await
    }

    pub(super) async fn record_in(
        &mut self,
        step: &Step,
        bucket: &str,
        key: &str,
        action: Action,
        carried_out: impl Future<Output = Reply>,
    ) -> Reply {
        let endpoint = self.endpoint(step);
        let begun = self.work.recorder.begin(step.client_name(), bucket, key, action);
        let reply = carried_out.await;
        if matches!(&reply.outcome, Outcome::NotDone(reason) if reason.starts_with(UNSENT)) {
            self.shunned.insert(endpoint, time::now() + SHUN);
        }
        self.work.recorder.end(begun, reply.clone());
        reply
    }

    async fn put(&mut self, step: &Step, client: &Client, at: Place, action: Action) {
        let (bucket, key) = names(step, at);
        let work = self.work.clone();
        let reply = self.record(step, at, action.clone(), objects::put(client, &work.values, &bucket, &key, &action)).await;
        match (&action, reply.outcome) {
            (Action::Put(value) | Action::PutIfAbsent(value) | Action::PutIfMatches { value, .. }, Outcome::Done) => {
                let etag = work.values.etag(*value).expect("made known before it was sent");
                self.known.insert((step.workload, at), (*value, etag));
            }
            // What nobody knows is not expected.
            _ => {
                self.known.remove(&(step.workload, at));
            }
        }
    }

    /// One request, and an operation for each key: they are done or not independently of one another.
    async fn delete_many(&mut self, step: &Step, client: &Client, places: &[Place]) {
        let Some(Place(bucket, _)) = places.first() else { return };
        let bucket = bucket_name(step.workload, *bucket);
        let keys: Vec<String> = places.iter().map(|at| key_name(at.1)).collect();
        let begin = |key: &String| self.work.recorder.begin(step.client_name(), &bucket, key, Action::Delete);
        let begun: Vec<_> = keys.iter().map(begin).collect();
        let outcomes = objects::delete_many(client, &bucket, &keys).await;
        for ((begun, outcome), at) in begun.into_iter().zip(outcomes).zip(places) {
            self.work.recorder.end(begun, outcome);
            self.known.remove(&(step.workload, *at));
        }
    }

    async fn get(&mut self, step: &Step, client: &Client, at: Place, range: Option<Range>) {
        let (bucket, key) = names(step, at);
        let work = self.work.clone();
        self.read(step, at, Action::Get, objects::get(client, &work.values, &bucket, &key, range)).await;
    }

    /// Record a read, and learn from it.
    async fn read(&mut self, step: &Step, at: Place, action: Action, reading: impl Future<Output = (Reply, String)>) {
        let mut etag = String::new();
        let told = async {
            let (reply, shown) = reading.await;
            etag = shown;
            reply
        };
        let reply = self.record(step, at, action, told).await;
        match reply.outcome {
            Outcome::Read(Seen::Value(value)) => {
                self.known.insert((step.workload, at), (value, etag));
            }
            Outcome::Read(_) => {
                self.known.remove(&(step.workload, at));
            }
            _ => {}
        }
    }

    async fn list(&self, step: &Step, client: &Client, planned: &PlannedList) {
        let first = List {
            listing: step.name(),
            kind: if planned.first_version { ListKind::V1 } else { ListKind::V2 },
            prefix: planned.prefix.clone(),
            delimiter: planned.delimiter.clone(),
            after: planned.after.clone().map_or(After::Start, After::Key),
            keys_max: Some(planned.keys_max),
        };
        // What a page showed, or why it did not, is in the history.
        let _ = listing::list(&self.work, step.client_name(), client, &bucket_name(step.workload, planned.bucket), first).await;
    }

    async fn copy(&mut self, step: &Step, client: &Client, from: Place, to: Place) {
        let ((bucket, from_key), (_, key)) = (names(step, from), names(step, to));
        let action = Action::Copy(Source { bucket: bucket.clone(), key: from_key.clone() });
        let work = self.work.clone();
        self.record(step, to, action, objects::copy(client, &work.values, &bucket, &from_key, &key, step.name())).await;
        // Its ETag there is another one if it was composed: the next read shows it.
        self.known.remove(&(step.workload, to));
    }

    async fn bucket(&mut self, step: &Step, client: &Client, bucket: u32, action: Action) {
        let name = bucket_name(step.workload, bucket);
        let create = action == Action::CreateBucket;
        let carried_out = async {
            let done = if create { client.create_bucket(&name).await } else { client.delete_bucket(&name).await };
            done.map_or_else(|error| super::answer::failed(&error), |()| Outcome::Done).into()
        };
        self.record_in(step, &name, "", action, carried_out).await;
    }

    async fn rude(&mut self, step: &Step, client: &Client, manner: Rudeness, at: Place, value: Value) {
        let (bucket, key) = names(step, at);
        let work = self.work.clone();
        match manner {
            Rudeness::Garbage => rude::garbage(client, value).await,
            Rudeness::HangUp => {
                self.record(step, at, Action::Get, rude::hang_up(client, &bucket, &key)).await;
            }
            _ => {
                self.record(step, at, Action::Put(value), rude::put(client, &work.values, &bucket, &key, value, manner)).await;
                self.known.remove(&(step.workload, at));
            }
        }
    }

    /// A step of an upload that was begun; without one there is nothing to do.
    async fn upload(&mut self, step: &Step, client: &Client, name: UploadName) {
        let work = self.work.clone();
        let Some(upload) = work.uploads.find(step, name) else { return };
        match &step.action {
            PlannedAction::UploadPart { part, bytes, .. } => {
                let value = step.value(*bytes);
                let sending = uploads::upload_part(client, &work.values, &upload, *part, value);
                self.send_part(step, &upload, *part, value, sending).await;
            }
            PlannedAction::CopyPart { part, from, start_per_mille, bytes, .. } => {
                let Some((source, etag)) = self.known.get(&(step.workload, *from)).cloned() else { return };
                let first = source.bytes / 1000 * u64::from(*start_per_mille);
                let length = (source.bytes - first).min(*bytes);
                // All of an object that was put in one piece would be a part that no ETag tells from that object.
                let length = if length == source.bytes && !source.is_composed() { length - 1 } else { length };
                if length <= TINY_BYTES {
                    return;
                }
                let value = work.values.add_slice(step.name(), source, first, length);
                let (bucket, key) = names(step, *from);
                let range = (length < source.bytes).then(|| (first, first + length - 1));
                let copied = CopiedRange { bucket: &bucket, key: &key, etag: &etag, range };
                let sending = uploads::copy_part(client, &work.values, &upload, *part, copied, value);
                self.send_part(step, &upload, *part, value, sending).await;
            }
            PlannedAction::Complete { naming, .. } => {
                let strange = step.value(100);
                work.values.add(strange);
                if let Some(parts) = upload.named(*naming, strange) {
                    self.complete(step, client, &upload, parts).await;
                }
            }
            PlannedAction::CompleteAgain { .. } => {
                if let Some(parts) = upload.in_doubt() {
                    self.complete(step, client, &upload, parts).await;
                }
            }
            PlannedAction::Abort { .. } => {
                let action = Action::Abort { upload: upload.id.clone() };
                self.record_in(step, &upload.bucket, &upload.key, action, uploads::abort(client, &upload)).await;
            }
            PlannedAction::ListParts { after, parts_max, .. } => {
                let action = Action::ListParts { upload: upload.id.clone(), after: *after, parts_max: *parts_max };
                let listing = uploads::list_parts(client, &work.values, &upload, *after, *parts_max);
                self.record_in(step, &upload.bucket, &upload.key, action, listing).await;
            }
            other => unreachable!("{other:?} is not of an upload"),
        }
    }

    async fn send_part(&mut self, step: &Step, upload: &Upload, number: u16, value: Value, sending: impl Future<Output = Reply>) {
        let action = Action::UploadPart { upload: upload.id.clone(), number, value };
        let reply = self.record_in(step, &upload.bucket, &upload.key, action, sending).await;
        if reply.outcome == Outcome::Done {
            self.work.uploads.add_part(upload, number, value);
        }
    }

    async fn complete(&mut self, step: &Step, client: &Client, upload: &Upload, parts: Vec<Part>) {
        let work = self.work.clone();
        work.place(&upload.bucket, &upload.key, Value::composed(parts.iter().map(|part| part.value)));
        let completing = uploads::complete(client, &work.values, upload, &parts);
        let reply = self.record_in(step, &upload.bucket, &upload.key, uploads::completing(upload, &parts), completing).await;
        work.uploads.completed(upload, &parts, &reply.outcome);
    }
}

pub(super) fn names(step: &Step, at: Place) -> (String, String) {
    (bucket_name(step.workload, at.0), key_name(at.1))
}
