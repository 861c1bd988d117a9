//! Operations on a bucket whose versioning is set: their replies tell version ids, and versions are read and deleted by
//! them.

use super::answer::{ask, failed, head, version, wrong};
use super::objects::{self, shown};
use super::step::{Place, PlannedAction, Step, VersionAction, bucket_name};
use super::tags;
use super::values::Values;
use super::worker::{Work, Worker, names};
use crate::history::{Action, ListedVersion, Outcome, Reply, Seen, Value, VersionList, VersionPage};
use crate::s3::{Client, Element, Error, Request};

/// As clients call the null version. Another one may take its place, so it is not copied.
const NULL: &str = "null";
/// Pages of one listing at most.
const PAGES_MAX: usize = 100;

impl Worker {
    pub(super) async fn version(&mut self, step: &Step, client: &Client, action: &VersionAction) {
        let bucket = bucket_name(step.workload, 0);
        match action {
            VersionAction::Plain(action) => self.plain(step, client, action).await,
            VersionAction::Get(at, pick) => {
                let (id, (_, key), work) = (self.pick(step, *at, *pick), names(step, *at), self.work.clone());
                let reading = get(client, &work.values, &bucket, &key, Some(&id));
                self.record(step, *at, Action::GetVersion(id.clone()), reading).await;
            }
            VersionAction::Delete(at, pick) => {
                let (id, (_, key)) = (self.pick(step, *at, *pick), names(step, *at));
                let request = Request::object("DELETE", &bucket, &key).query("versionId", &id);
                let deleting = async { ask(client, &request).await.told(|headers, _| Outcome::Made(version(headers))) };
                self.record(step, *at, Action::DeleteVersion(id), deleting).await;
            }
            VersionAction::Copy { from, to } => {
                let ((_, source), (_, key), work) = (names(step, *from), names(step, *to), self.work.clone());
                let Some((version, value)) = self.copyable.get(&(step.workload, *from)).cloned() else { return };
                if source == key || !work.place(&bucket, &key, value) {
                    return;
                }
                let copying = copy(client, &work.values, &bucket, (&source, &version), &key, value);
                let action = Action::CopyVersion { from: source.clone(), version: version.clone(), value };
                let reply = self.record(step, *to, action.clone(), copying).await;
                self.learn(step, *to, &action, reply.outcome);
            }
            VersionAction::SetTags { at, pick, none } => {
                let (version, (_, key)) = (pick.map(|pick| self.pick(step, *at, pick)), names(step, *at));
                let tags = (!none).then(|| step.name());
                let setting = tags::set(client, &bucket, &key, version.as_deref(), tags);
                self.record(step, *at, Action::SetTags { version: version.clone(), tags }, setting).await;
            }
            VersionAction::GetTags(at, pick) => {
                let (version, (_, key)) = (pick.map(|pick| self.pick(step, *at, pick)), names(step, *at));
                let asking = tags::get(client, &bucket, &key, version.as_deref());
                self.record(step, *at, Action::GetTags(version.clone()), asking).await;
            }
            VersionAction::List { prefix, keys_max } => {
                // What a page showed, or why it did not, is in the history.
                let _ = list(&self.work, step.client_name(), client, &bucket, prefix, *keys_max).await;
            }
            VersionAction::Set(enabled) => {
                let status = if *enabled { "Enabled" } else { "Suspended" };
                let body = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
                let request = Request::bucket("PUT", &bucket).query("versioning", "").source(body);
                let setting = async { ask(client, &request).await.told(|_, _| Outcome::Done) };
                self.record_in(step, &bucket, "", Action::SetVersioning(*enabled), setting).await;
            }
            VersionAction::Setting => {
                let request = Request::bucket("GET", &bucket).query("versioning", "");
                let asking = async { ask(client, &request).await.told(|_, body| setting(body)) };
                self.record_in(step, &bucket, "", Action::GetVersioning, asking).await;
            }
        }
    }

    /// What needs no version id, but is told one.
    async fn plain(&mut self, step: &Step, client: &Client, action: &PlannedAction) {
        let work = self.work.clone();
        let (at, action) = match action {
            PlannedAction::Put { at, bytes } => (*at, Action::Put(step.value(*bytes))),
            PlannedAction::PutIfAbsent { at, bytes } => (*at, Action::PutIfAbsent(step.value(*bytes))),
            PlannedAction::PutIfMatches { at, bytes } => {
                let value = step.value(*bytes);
                // What an upload made has another ETag than its bytes have.
                let known = self.known.get(&(step.workload, *at)).map(|(expected, _)| *expected).filter(|expected| !expected.is_composed());
                (*at, known.map_or(Action::Put(value), |expected| Action::PutIfMatches { value, expected }))
            }
            PlannedAction::Delete(at) => (*at, Action::Delete),
            PlannedAction::DeleteIfMatches(at) => {
                let known = self.known.get(&(step.workload, *at)).map(|(expected, _)| *expected).filter(|expected| !expected.is_composed());
                (*at, known.map_or(Action::Delete, Action::DeleteIfMatches))
            }
            PlannedAction::Get(at) => (*at, Action::Get),
            PlannedAction::Head(at) => (*at, Action::Head),
            other => unreachable!("{other:?} tells no version"),
        };
        let (bucket, key) = names(step, at);
        if let Action::Put(value) | Action::PutIfAbsent(value) | Action::PutIfMatches { value, .. } = &action {
            work.place(&bucket, &key, *value);
        }
        let carried_out = async {
            match &action {
                Action::Get => get(client, &work.values, &bucket, &key, None).await,
                Action::Head => head_object(client, &work.values, &bucket, &key).await,
                Action::Delete => {
                    let request = Request::object("DELETE", &bucket, &key);
                    ask(client, &request).await.told(|headers, _| Outcome::Made(version(headers)))
                }
                Action::DeleteIfMatches(expected) => {
                    let etag = work.values.etag(*expected).expect("a value that was seen is known");
                    objects::delete_if(client, &bucket, &key, etag, |headers| Outcome::Made(version(headers))).await
                }
                put => {
                    let made = |headers: &http::HeaderMap| Outcome::Made(version(headers));
                    objects::put_told(client, &work.values, &bucket, &key, put, tags::dress, made).await
                }
            }
        };
        let reply = self.record(step, at, action.clone(), carried_out).await;
        self.learn(step, at, &action, reply.outcome);
    }

    fn learn(&mut self, step: &Step, at: Place, action: &Action, outcome: Outcome) {
        let place = (step.workload, at);
        let value = match (action, &outcome) {
            (Action::Put(value) | Action::PutIfAbsent(value) | Action::PutIfMatches { value, .. }, Outcome::Made(_))
            | (Action::CopyVersion { value, .. }, Outcome::Made(_)) => Some(*value),
            (_, Outcome::Found { seen: Seen::Value(value), .. }) => Some(*value),
            _ => None,
        };
        match value {
            Some(value) => drop(self.known.insert(place, (value, String::new()))),
            None => drop(self.known.remove(&place)),
        }
        let (Outcome::Made(Some(id)) | Outcome::Found { version: Some(id), .. }) = outcome else { return };
        if let Some(value) = value.filter(|_| id != NULL) {
            self.copyable.insert(place, (id.clone(), value));
        }
        let known = self.versions.entry(place).or_default();
        known.retain(|other| *other != id);
        known.push(id);
    }

    /// One of the versions that this client was told of, counted from the latest. It may be gone.
    fn pick(&self, step: &Step, at: Place, from_latest: u32) -> String {
        let known = self.versions.get(&(step.workload, at)).map_or(&[][..], Vec::as_slice);
        let picked = known.iter().rev().nth(usize::try_from(from_latest).unwrap_or(0) % known.len().max(1));
        picked.cloned().unwrap_or_else(|| "null".to_owned())
    }
}

/// GET of the current object or of one version, every byte compared.
pub(super) async fn get(client: &Client, values: &Values, bucket: &str, key: &str, id: Option<&str>) -> Reply {
    let mut request = Request::object("GET", bucket, key);
    if let Some(id) = id {
        request = request.query("versionId", id);
    }
    let (reply, revision) = match head(client, &request).await {
        Ok(reply) => reply,
        Err((error, revision)) => return Reply { outcome: missing(&error), revision },
    };
    let told = version(&reply.headers);
    let found = |seen| Outcome::Found { seen, version: told.clone() };
    let outcome = match (shown(&reply.headers, values), id) {
        (Err(reason), _) => found(Seen::Wrong(reason)),
        (Ok(_), Some(id)) if told.as_deref().is_some_and(|told| told != id) => found(Seen::Wrong(format!("version {told:?}, not {id}"))),
        (Ok(value), _) => match reply.verify_all(values.contents(value)).await {
            Ok(()) => found(Seen::Value(value)),
            Err(Error::WrongBytes(mismatch)) => found(Seen::Wrong(mismatch.to_string())),
            // Cut: it was no complete reply.
            Err(error) => Outcome::Unknown(error.to_string()),
        },
    };
    Reply { outcome, revision }
}

/// CopyObject of a version of `value` of another key.
async fn copy(client: &Client, values: &Values, bucket: &str, (from, id): (&str, &str), key: &str, value: Value) -> Reply {
    let source = format!("{}?versionId={id}", objects::copy_source(bucket, from));
    let request = Request::object("PUT", bucket, key).header("x-amz-copy-source", source).header("x-amz-tagging-directive", "REPLACE");
    let answer = ask(client, &tags::dress(request, value)).await;
    if let Err(error) = &answer.result
        && let outcome @ Outcome::Found { .. } = missing(error)
    {
        return Reply { outcome, revision: answer.revision };
    }
    answer.told(|headers, body| {
        let root = match objects::whole_document(body) {
            Ok(root) => root,
            Err(outcome) => return outcome,
        };
        let etag = root.text_of("ETag");
        match values.named(etag) {
            Some(Some(copied)) if copied == value => Outcome::Made(version(headers)),
            _ => wrong(format!("a copy of version {id} of {from} has ETag {etag}, which is not of {value:?}")),
        }
    })
}

/// What a refused read says: no such key or version, or a marker.
pub(super) fn missing(error: &Error) -> Outcome {
    match (error.status(), error.code()) {
        (Some(404), Some("NoSuchKey" | "NoSuchVersion")) | (Some(405), Some("MethodNotAllowed")) => {
            Outcome::Found { seen: Seen::Absent, version: None }
        }
        _ => failed(error),
    }
}

async fn head_object(client: &Client, values: &Values, bucket: &str, key: &str) -> Reply {
    let answer = ask(client, &Request::object("HEAD", bucket, key)).await;
    if let Err(Error::Refused { status: 404, .. }) = &answer.result {
        return Reply { outcome: Outcome::Found { seen: Seen::Absent, version: None }, revision: answer.revision };
    }
    answer
        .told(|headers, _| Outcome::Found { seen: shown(headers, values).map_or_else(Seen::Wrong, Seen::Value), version: version(headers) })
}

fn setting(body: &[u8]) -> Outcome {
    match objects::whole_document(body) {
        Err(outcome) => outcome,
        Ok(root) => match root.text_of("Status") {
            "" => Outcome::Versioning(None),
            "Enabled" => Outcome::Versioning(Some(true)),
            "Suspended" => Outcome::Versioning(Some(false)),
            other => wrong(format!("versioning has the status {other}")),
        },
    }
}

/// List the versions of `bucket`, until the end, or until a page fails: then why.
pub(super) async fn list(
    work: &Work,
    client_name: u32,
    client: &Client,
    bucket: &str,
    prefix: &str,
    keys_max: u32,
) -> Result<Vec<ListedVersion>, Outcome> {
    let mut all: Vec<ListedVersion> = Vec::new();
    let mut markers = None;
    for _ in 0..PAGES_MAX {
        let asked = VersionList { prefix: prefix.to_owned(), behind: all.last().filter(|_| markers.is_some()).cloned(), keys_max };
        let begun = work.recorder.begin(client_name, bucket, "", Action::ListVersions(asked));
        let mut request =
            Request::bucket("GET", bucket).query("versions", "").query("encoding-type", "url").query("max-keys", keys_max.to_string());
        if !prefix.is_empty() {
            request = request.query("prefix", prefix);
        }
        if let Some((key, id)) = &markers {
            request = request.query("key-marker", key).query("version-id-marker", id);
        }
        let answer = ask(client, &request).await;
        let mut next = None;
        let reply = answer.told(|_, body| match objects::whole_document(body).map(|root| page(&root, &work.values)) {
            Ok(Ok((page, markers))) => {
                next = markers;
                Outcome::Versions(page)
            }
            Ok(Err(reason)) => wrong(reason),
            Err(outcome) => outcome,
        });
        work.recorder.end(begun, reply.clone());
        let Outcome::Versions(page) = reply.outcome else { return Err(reply.outcome) };
        all.extend(page.versions);
        markers = next;
        if !page.truncated {
            return Ok(all);
        }
    }
    Err(Outcome::NotDone(format!("not ended after {PAGES_MAX} pages")))
}

/// A page, and where the next one begins.
fn page(root: &Element, values: &Values) -> Result<(VersionPage, Option<(String, String)>), String> {
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded.map(|text| text.into_owned()).map_err(|_| format!("{text} does not decode to UTF-8"))
    };
    let mut page = VersionPage { versions: Vec::new(), truncated: root.text_of("IsTruncated") == "true" };
    for row in root.children.iter().filter(|child| ["Version", "DeleteMarker"].contains(&child.name.as_str())) {
        let (key, id) = (decode(row.text_of("Key"))?, row.text_of("VersionId").to_owned());
        let value = if row.name == "DeleteMarker" {
            None
        } else {
            let (etag, size) = (row.text_of("ETag"), row.text_of("Size"));
            match values.named(etag).flatten() {
                Some(value) if value.bytes.to_string() == size => Some(value),
                _ => return Err(format!("version {id} of {key} is listed with ETag {etag} and {size} bytes, which is no value")),
            }
        };
        page.versions.push(ListedVersion { key, id, latest: row.text_of("IsLatest") == "true", value });
    }
    let next = (decode(root.text_of("NextKeyMarker"))?, root.text_of("NextVersionIdMarker").to_owned());
    match page.versions.last() {
        Some(last) if page.truncated && last.key == next.0 && !next.1.is_empty() => Ok((page, Some(next))),
        _ if page.truncated => Err(format!("a truncated page that goes on at {next:?}")),
        _ => Ok((page, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_versions_keeps_the_order_of_its_document() {
        let values = Values::default();
        let value = Value { id: 1, bytes: 100 };
        let etag = values.add(value).replace('"', "&quot;");
        let row = format!(
            "<Version><Key>a%2Fb</Key><VersionId>x</VersionId><IsLatest>false</IsLatest><ETag>{etag}</ETag><Size>100</Size></Version>"
        );
        let marker = "<DeleteMarker><Key>a%2Fb</Key><VersionId>null</VersionId><IsLatest>true</IsLatest></DeleteMarker>";
        let document =
            |rows: &str, rest: &str| Element::parse(format!("<ListVersionsResult>{rows}{rest}</ListVersionsResult>").as_bytes()).unwrap();
        let (shown, next) = page(&document(&format!("{marker}{row}"), "<IsTruncated>false</IsTruncated>"), &values).unwrap();
        let line = |id: &str, latest, value| ListedVersion { key: "a/b".to_owned(), id: id.to_owned(), latest, value };
        assert_eq!((shown.versions, next), (vec![line("null", true, None), line("x", false, Some(value))], None));
        let rest = "<IsTruncated>true</IsTruncated><NextKeyMarker>a%2Fb</NextKeyMarker><NextVersionIdMarker>p</NextVersionIdMarker>";
        assert_eq!(page(&document(marker, rest), &values).unwrap().1, Some(("a/b".to_owned(), "p".to_owned())));
        assert!(page(&document("", rest), &values).is_err());
    }

    #[test]
    fn what_is_not_there_or_a_marker_is_absent() {
        let refused = |status, code: &str| Error::Refused { status, code: code.to_owned(), message: String::new() };
        for (status, code) in [(404, "NoSuchKey"), (404, "NoSuchVersion"), (405, "MethodNotAllowed")] {
            assert!(matches!(missing(&refused(status, code)), Outcome::Found { seen: Seen::Absent, .. }));
        }
        assert!(matches!(missing(&refused(400, "InvalidArgument")), Outcome::NotDone(_)));
        assert!(matches!(setting(b"<VersioningConfiguration/>"), Outcome::Versioning(None)));
    }
}
