//! Multipart uploads. Which are under way, and what is known of their parts, is common to all clients: some meddle
//! with the uploads of others.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::answer::{ask, failed, version, wrong};
use super::objects::{copy_source, whole_document, written};
use super::step::{Naming, Step, UploadName};
use super::values::Values;
use crate::history::{Action, ListedUpload, Outcome, Part, PartPage, Reply, Value};
use crate::s3::{Client, Condition, Payload, Request, complete_upload};

/// All uploads of a run.
#[derive(Default)]
pub(super) struct Uploads {
    begun: Mutex<Begun>,
}

#[derive(Default)]
struct Begun {
    /// By workload, client and number of the step.
    uploads: BTreeMap<(u32, u32, u32), Upload>,
    /// By workload and client.
    latest: BTreeMap<(u32, u32), u32>,
}

/// An upload that was begun.
#[derive(Clone)]
pub(super) struct Upload {
    name: (u32, u32, u32),
    pub bucket: String,
    pub key: String,
    pub id: String,
    /// What was acknowledged last of each part.
    parts: BTreeMap<u16, Value>,
    /// Parts of the last Complete, if its outcome is unknown.
    unknown: Option<Vec<Part>>,
}

impl Uploads {
    /// The upload of `step`'s client has begun.
    pub fn begin(&self, step: &Step, bucket: &str, key: &str, id: String) {
        let name = (step.workload, step.client, step.number);
        let upload = Upload { name, bucket: bucket.to_owned(), key: key.to_owned(), id, parts: BTreeMap::new(), unknown: None };
        let mut begun = self.begun.lock().expect("nothing panics under it");
        begun.uploads.insert(name, upload);
        begun.latest.insert((step.workload, step.client), step.number);
    }

    /// The upload that `step` means, if it was begun.
    pub fn find(&self, step: &Step, name: UploadName) -> Option<Upload> {
        let begun = self.begun.lock().expect("nothing panics under it");
        let (client, number) = match name {
            UploadName::Own(number) => (step.client, number),
            UploadName::LatestOf(client) => (client, *begun.latest.get(&(step.workload, client))?),
        };
        begun.uploads.get(&(step.workload, client, number)).cloned()
    }

    /// A part was acknowledged.
    pub fn add_part(&self, upload: &Upload, number: u16, value: Value) {
        self.with(upload, |upload| {
            upload.parts.insert(number, value);
        });
    }

    /// Complete has ended.
    pub fn completed(&self, upload: &Upload, parts: &[Part], outcome: &Outcome) {
        let unknown = matches!(outcome, Outcome::Unknown(_)).then(|| parts.to_vec());
        self.with(upload, |upload| upload.unknown = unknown);
    }

    fn with(&self, upload: &Upload, change: impl FnOnce(&mut Upload)) {
        let mut begun = self.begun.lock().expect("nothing panics under it");
        change(begun.uploads.get_mut(&upload.name).expect("uploads are never forgotten"));
    }
}

impl Upload {
    /// The parts that Complete names, in its order; `strange` is a value that nobody uploads. None if there is none.
    pub fn named(&self, naming: Naming, strange: Value) -> Option<Vec<Part>> {
        let mut parts: Vec<Part> = self.parts.iter().map(|(number, value)| Part { number: *number, value: *value }).collect();
        match naming {
            Naming::All => {}
            Naming::ButFirst => {
                parts.drain(..parts.len().min(1));
            }
            Naming::Descending => parts.reverse(),
            Naming::Strange => {
                if let Some(last) = parts.last_mut() {
                    last.value = strange;
                }
            }
        }
        (!parts.is_empty()).then_some(parts)
    }

    /// Whether it is to become an object only where there is none: one upload in four, by its name.
    pub fn if_absent(&self) -> bool {
        self.name.2.is_multiple_of(4)
    }

    /// The parts of the last Complete, if its outcome is unknown.
    pub fn in_doubt(&self) -> Option<Vec<Part>> {
        self.unknown.clone()
    }
}

/// CreateMultipartUpload.
pub(super) async fn create(client: &Client, bucket: &str, key: &str) -> Reply {
    let request = Request::object("POST", bucket, key).query("uploads", "");
    ask(client, &request).await.told(|_, body| match whole_document(body) {
        Ok(root) if root.text_of("UploadId").is_empty() => wrong("an upload without an id".to_owned()),
        Ok(root) => Outcome::Begun(root.text_of("UploadId").to_owned()),
        Err(outcome) => outcome,
    })
}

fn part_request(upload: &Upload, number: u16) -> Request {
    Request::object("PUT", &upload.bucket, &upload.key).query("partNumber", number.to_string()).query("uploadId", &upload.id)
}

/// UploadPart.
pub(super) async fn upload_part(client: &Client, values: &Values, upload: &Upload, number: u16, value: Value) -> Reply {
    let etag = values.add_part(value);
    let payload = if value.id.is_multiple_of(2) { Payload::Signed } else { Payload::Unsigned };
    let request = part_request(upload, number).source(value.content()).payload(payload);
    ask(client, &request).await.told(|headers, _| written(headers, &etag))
}

/// What UploadPartCopy reads.
pub(super) struct CopiedRange<'a> {
    pub bucket: &'a str,
    pub key: &'a str,
    /// The source must still have it.
    pub etag: &'a str,
    /// From the first to the last byte; all if it is none.
    pub range: Option<(u64, u64)>,
}

/// UploadPartCopy, which makes a part that is `value`.
pub(super) async fn copy_part(
    client: &Client,
    values: &Values,
    upload: &Upload,
    number: u16,
    from: CopiedRange<'_>,
    value: Value,
) -> Reply {
    let mut request = part_request(upload, number)
        .header("x-amz-copy-source", copy_source(from.bucket, from.key))
        .header("x-amz-copy-source-if-match", from.etag);
    if let Some((first, last)) = from.range {
        request = request.header("x-amz-copy-source-range", format!("bytes={first}-{last}"));
    }
    let etag = values.etag(value).expect("a part is known before it is sent");
    ask(client, &request).await.told(|_, body| acknowledged(body, &etag))
}

/// CompleteMultipartUpload.
pub(super) async fn complete(client: &Client, values: &Values, upload: &Upload, parts: &[Part]) -> Reply {
    let named: Vec<Value> = parts.iter().map(|part| part.value).collect();
    let (_, etag) = values.compose(&named);
    let etag_of = |value| values.etag(value).expect("parts are known before they are sent");
    let document = complete_upload(&parts.iter().map(|part| (part.number, etag_of(part.value))).collect::<Vec<_>>());
    let mut request = Request::object("POST", &upload.bucket, &upload.key).query("uploadId", &upload.id).source(document);
    if upload.if_absent() {
        request = Condition::Absent.apply(request);
    }
    let answer = ask(client, &request).await;
    if let Err(error) = &answer.result
        && upload.if_absent()
        && error.status() == Some(412)
    {
        return Reply { outcome: Outcome::PreconditionFailed, revision: answer.revision };
    }
    answer.told(|headers, body| match (acknowledged(body, &etag), version(headers)) {
        // Where versions are kept.
        (Outcome::Done, Some(id)) => Outcome::Made(Some(id)),
        (outcome, _) => outcome,
    })
}

/// AbortMultipartUpload.
pub(super) async fn abort(client: &Client, upload: &Upload) -> Reply {
    let request = Request::object("DELETE", &upload.bucket, &upload.key).query("uploadId", &upload.id);
    ask(client, &request).await.told(|_, _| Outcome::Done)
}

/// ListParts, one page.
pub(super) async fn list_parts(client: &Client, values: &Values, upload: &Upload, after: u16, parts_max: u16) -> Reply {
    let (rows, truncated) = match client.list_parts(&upload.bucket, &upload.key, &upload.id, after, parts_max).await {
        Ok(page) => page,
        Err(error) => return failed(&error).into(),
    };
    let mut parts = Vec::new();
    for row in rows {
        match values.part(&row.etag) {
            Some(value) if value.bytes == row.bytes => parts.push(Part { number: row.number, value }),
            Some(value) => {
                return wrong(format!("part {} is listed with {} bytes, and the ETag of {value:?}", row.number, row.bytes)).into();
            }
            None => return wrong(format!("part {} is listed with ETag {}, which is of no part", row.number, row.etag)).into(),
        }
    }
    Outcome::Parts(PartPage { parts, truncated }).into()
}

/// ListMultipartUploads of a whole bucket.
pub(super) async fn list(client: &Client, bucket: &str) -> Reply {
    match client.list_uploads(bucket, "").await {
        // A bucket of a workload has far fewer than a page holds.
        Ok(rows) => Outcome::Uploads(rows.into_iter().map(|(key, upload)| ListedUpload { key, upload }).collect()),
        Err(error) => failed(&error),
    }
    .into()
}

/// A document that acknowledges must name the ETag of what was made.
fn acknowledged(body: &[u8], etag: &str) -> Outcome {
    match whole_document(body) {
        Ok(root) if root.text_of("ETag") == etag => Outcome::Done,
        Ok(root) => wrong(format!("acknowledged with ETag {}, not {etag}", root.text_of("ETag"))),
        Err(outcome) => outcome,
    }
}

/// What a Complete of these parts does.
pub(super) fn completing(upload: &Upload, parts: &[Part]) -> Action {
    Action::Complete { upload: upload.id.clone(), parts: parts.to_vec(), if_absent: upload.if_absent() }
}

#[cfg(test)]
mod tests {
    use super::super::step::PlannedAction;
    use super::*;

    fn step(client: u32, number: u32) -> Step {
        Step { workload: 0, client, number, at_us: 0, endpoint: 0, action: PlannedAction::DeleteBucket(0) }
    }

    #[test]
    fn uploads_are_found_by_their_step_and_by_their_client() {
        let uploads = Uploads::default();
        uploads.begin(&step(1, 5), "b", "k", "first".to_owned());
        uploads.begin(&step(1, 9), "b", "k", "second".to_owned());
        let id = |client, name| uploads.find(&step(client, 20), name).map(|upload| upload.id);
        assert_eq!(id(1, UploadName::Own(5)), Some("first".to_owned()));
        assert_eq!(id(3, UploadName::LatestOf(1)), Some("second".to_owned()));
        assert_eq!((id(3, UploadName::Own(5)), id(1, UploadName::LatestOf(3))), (None, None));
    }

    #[test]
    fn complete_names_what_was_acknowledged_last() {
        let uploads = Uploads::default();
        uploads.begin(&step(1, 5), "b", "k", "id".to_owned());
        let found = || uploads.find(&step(1, 6), UploadName::Own(5)).unwrap();
        let value = |id| Value { id, bytes: 20 };
        assert_eq!(found().named(Naming::All, value(9)), None);
        for (number, id) in [(4, 1), (2, 2), (4, 3)] {
            uploads.add_part(&found(), number, value(id));
        }
        let named = |naming| found().named(naming, value(9)).unwrap().iter().map(|part| (part.number, part.value.id)).collect::<Vec<_>>();
        assert_eq!(named(Naming::All), [(2, 2), (4, 3)]);
        assert_eq!(named(Naming::ButFirst), [(4, 3)]);
        assert_eq!(named(Naming::Descending), [(4, 3), (2, 2)]);
        assert_eq!(named(Naming::Strange), [(2, 2), (4, 9)]);
        let parts = found().named(Naming::All, value(9)).unwrap();
        uploads.completed(&found(), &parts, &Outcome::Unknown("cut".to_owned()));
        assert_eq!(found().in_doubt(), Some(parts.clone()));
        uploads.completed(&found(), &parts, &Outcome::Done);
        assert_eq!(found().in_doubt(), None);
    }
}
