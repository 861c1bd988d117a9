//! Operations on one key: PUT, GET, HEAD, DELETE and CopyObject.

use http::HeaderMap;

use super::answer::{ask, condition_failed, failed, head, is_no_such_key, text, wrong};
use super::values::Values;
use crate::history::{Action, Outcome, Reply, Seen, Value};
use crate::s3::{Checksum, Client, Condition, Element, Error, Payload, Request};

/// User metadata that names the value that was put: `id:bytes`.
const VALUE_HEADER: &str = "x-amz-meta-value";

/// A range of an object, as a GET asks for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub from_end: bool,
    pub bytes: u64,
}

/// PUT, with the condition that `action` names; `known_etag` is that of the value that If-Match expects.
pub(super) async fn put(client: &Client, values: &Values, bucket: &str, key: &str, action: &Action) -> Reply {
    put_told(client, values, bucket, key, action, |request, _| request, |_| Outcome::Done).await
}

/// [`put`] whose request `dress` completes; `done` says what an acknowledgement tells.
pub(super) async fn put_told(
    client: &Client,
    values: &Values,
    bucket: &str,
    key: &str,
    action: &Action,
    dress: impl Fn(Request, Value) -> Request,
    done: impl Fn(&HeaderMap) -> Outcome,
) -> Reply {
    let (value, condition) = match *action {
        Action::Put(value) => (value, None),
        Action::PutIfAbsent(value) => (value, Some(Condition::Absent)),
        Action::PutIfMatches { value, expected } => {
            let etag = values.etag(expected).expect("a value that was seen is known");
            (value, Some(Condition::Matches(etag)))
        }
        _ => unreachable!("{action:?} is no PUT"),
    };
    let etag = values.add(value);
    let mut request = dress(put_request(bucket, key, value), value);
    if let Some(condition) = &condition {
        request = condition.apply(request);
    }
    let answer = ask(client, &request).await;
    if let (Err(error), Some(_)) = (&answer.result, &condition)
        && condition_failed(error)
    {
        return Reply { outcome: Outcome::PreconditionFailed, revision: answer.revision };
    }
    answer.told(|headers, _| match written(headers, &etag) {
        Outcome::Done => done(headers),
        wrong => wrong,
    })
}

/// An acknowledged write must name the ETag of what was sent.
pub(super) fn written(headers: &HeaderMap, etag: &str) -> Outcome {
    match text(headers, "etag") {
        shown if shown == etag => Outcome::Done,
        shown => wrong(format!("acknowledged with ETag {shown}, sent was {etag}")),
    }
}

/// Each way of signing a payload takes part, chosen by the value.
pub(super) fn put_request(bucket: &str, key: &str, value: Value) -> Request {
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

pub(super) async fn delete(client: &Client, bucket: &str, key: &str) -> Reply {
    ask(client, &Request::object("DELETE", bucket, key)).await.told(|_, _| Outcome::Done)
}

/// DELETE on condition that the key has this ETag; `done` says what an acknowledgement tells.
pub(super) async fn delete_if(client: &Client, bucket: &str, key: &str, etag: String, done: impl Fn(&HeaderMap) -> Outcome) -> Reply {
    let answer = ask(client, &Condition::Matches(etag).apply(Request::object("DELETE", bucket, key))).await;
    if let Err(error) = &answer.result
        && condition_failed(error)
    {
        return Reply { outcome: Outcome::PreconditionFailed, revision: answer.revision };
    }
    answer.told(|headers, _| done(headers))
}

/// DeleteObjects: what became of each key.
pub(super) async fn delete_many(client: &Client, bucket: &str, keys: &[String]) -> Vec<Outcome> {
    let refusals = match client.delete_objects(bucket, keys).await {
        Ok(refusals) => refusals,
        Err(error) => return vec![failed(&error); keys.len()],
    };
    let outcome = |key: &String| match refusals.iter().find(|(refused, _)| refused == key) {
        None => Outcome::Done,
        // The reply does not say whether it is refused, or failed half way.
        Some((_, code)) => Outcome::Unknown(format!("DeleteObjects: {code}")),
    };
    keys.iter().map(outcome).collect()
}

/// GET, of all or of a range; every byte is compared. Also the ETag that was shown.
pub(super) async fn get(client: &Client, values: &Values, bucket: &str, key: &str, range: Option<Range>) -> (Reply, String) {
    let mut request = Request::object("GET", bucket, key);
    if let Some(Range { from_end, bytes }) = range {
        let bytes = bytes.max(1);
        request = request.header("range", if from_end { format!("bytes=-{bytes}") } else { format!("bytes={}-", bytes - 1) });
    }
    let (reply, revision) = match head(client, &request).await {
        Ok(reply) => reply,
        Err((error, revision)) => {
            let outcome = if is_no_such_key(&error) { Outcome::Read(Seen::Absent) } else { failed(&error) };
            return (Reply { outcome, revision }, String::new());
        }
    };
    let etag = text(&reply.headers, "etag").to_owned();
    let told = |outcome| (Reply { outcome, revision }, etag.clone());
    let value = match shown(&reply.headers, values) {
        Ok(value) => value,
        Err(reason) => return told(wrong(reason)),
    };
    let contents = match range {
        None => values.contents(value),
        Some(range) => match part(range, value, text(&reply.headers, "content-range")) {
            Ok((from, length)) => values.slice(value, from, length),
            Err(reason) => return told(wrong(reason)),
        },
    };
    told(match reply.verify_all(contents).await {
        Ok(()) => Outcome::Read(Seen::Value(value)),
        Err(Error::WrongBytes(mismatch)) => wrong(mismatch.to_string()),
        // Cut: a reply that cannot be completed may end early, it was no complete reply.
        Err(error) => Outcome::Unknown(error.to_string()),
    })
}

/// Where the part of `value` that `range` asks for lies, if that is what the reply says.
fn part(range: Range, value: Value, said: &str) -> Result<(u64, u64), String> {
    let bytes = range.bytes.max(1);
    let (from, length) = if range.from_end {
        (value.bytes.saturating_sub(bytes), value.bytes.min(bytes))
    } else {
        (bytes - 1, value.bytes.saturating_sub(bytes - 1))
    };
    if length == 0 {
        return Err(format!("a range beyond the end was served, of {} bytes", value.bytes));
    }
    let expected = format!("bytes {from}-{}/{}", from + length - 1, value.bytes);
    if said == expected { Ok((from, length)) } else { Err(format!("content-range is \"{said}\", not \"{expected}\"")) }
}

pub(super) async fn head_object(client: &Client, values: &Values, bucket: &str, key: &str) -> (Reply, String) {
    let answer = ask(client, &Request::object("HEAD", bucket, key)).await;
    // A HEAD has no body that could say what is missing; workloads with buckets that go do not use it.
    if let Err(Error::Refused { status: 404, .. }) = &answer.result {
        return (Reply { outcome: Outcome::Read(Seen::Absent), revision: answer.revision }, String::new());
    }
    let etag = answer.result.as_ref().map(|(headers, _)| text(headers, "etag").to_owned()).unwrap_or_default();
    let reply = answer.told(|headers, _| match shown(headers, values) {
        Ok(value) if text(headers, "content-length") == value.bytes.to_string() => Outcome::Read(Seen::Value(value)),
        Ok(value) => wrong(format!("content-length is {}, not {}", text(headers, "content-length"), value.bytes)),
        Err(reason) => wrong(reason),
    });
    (reply, etag)
}

/// The value that a reply's headers show, if they agree with one another.
pub(super) fn shown(headers: &HeaderMap, values: &Values) -> Result<Value, String> {
    let (etag, metadata) = (text(headers, "etag"), text(headers, VALUE_HEADER));
    // What an upload made, and a copy with other metadata, names no value.
    let named = match metadata.split_once(':').map(|(id, bytes)| (id.parse(), bytes.parse())) {
        Some((Ok(id), Ok(bytes))) => Some(Value { id, bytes }),
        None if metadata.is_empty() => None,
        _ => return Err(format!("its metadata name the value \"{metadata}\"")),
    };
    match (values.named(etag), named) {
        (None, _) => Err(format!("ETag {etag} is of no value that anybody wrote (metadata \"{metadata}\")")),
        (Some(Some(value)), Some(named)) if value != named => Err(format!("ETag {etag} is of {value:?}, metadata name {named:?}")),
        (Some(None), Some(named)) if values.etag(named).as_deref() != Some(etag) => Err(format!("ETag {etag} is not of {named:?}")),
        (Some(None), None) => Err(format!("ETag {etag} is of several values, and no metadata name one")),
        (Some(Some(value)), _) => Ok(value),
        (Some(None), Some(named)) => Ok(named),
    }
}

/// CopyObject within a bucket. Onto itself: with metadata `mark` instead of its own.
pub(super) async fn copy(client: &Client, values: &Values, bucket: &str, from: &str, key: &str, mark: u64) -> Reply {
    let mut request = Request::object("PUT", bucket, key).header("x-amz-copy-source", copy_source(bucket, from));
    if from == key {
        request = request.header("x-amz-metadata-directive", "REPLACE").header("x-amz-meta-copied", mark.to_string());
    }
    let answer = ask(client, &request).await;
    if let Err(error) = &answer.result
        && is_no_such_key(error)
    {
        return Reply { outcome: Outcome::Read(Seen::Absent), revision: answer.revision };
    }
    answer.told(|_, body| {
        let root = match whole_document(body) {
            Ok(root) => root,
            Err(outcome) => return outcome,
        };
        let etag = root.text_of("ETag");
        match values.named(etag) {
            Some(Some(value)) => Outcome::Copied(value),
            _ => wrong(format!("a copy has ETag {etag}, which is of no one value that anybody wrote")),
        }
    })
}

/// A key as the source of a copy.
pub(super) fn copy_source(bucket: &str, key: &str) -> String {
    // The request's own path is encoded as a copy's source is.
    Request::object("PUT", bucket, key).path
}

/// The document of a reply that may begin with 200 and then fail.
pub(super) fn whole_document(body: &[u8]) -> Result<Element, Outcome> {
    match Element::parse(body) {
        Ok(root) if root.name == "Error" => Err(Outcome::Unknown(format!("200, then {}", root.text_of("Code")))),
        Ok(root) => Ok(root),
        Err(reason) => Err(Outcome::Unknown(format!("200 with a broken document: {reason}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn a_reply_shows_a_value_only_if_etag_and_metadata_agree() {
        let values = Values::default();
        let (one, two, empty) = (Value { id: 1, bytes: 100 }, Value { id: 2, bytes: 100 }, Value { id: 3, bytes: 0 });
        let etag = values.add(one);
        values.add(two);
        let tiny = values.add(empty);
        values.add(Value { id: 4, bytes: 0 });
        let show = |etag: &str, metadata: &str| shown(&headers(&[("etag", etag), (VALUE_HEADER, metadata)]), &values);
        assert_eq!(show(&etag, "1:100"), Ok(one));
        assert_eq!(shown(&headers(&[("etag", &etag)]), &values), Ok(one));
        assert_eq!(show(&tiny, "3:0"), Ok(empty));
        for (etag, metadata) in [(etag.as_str(), "2:100"), ("\"x\"", "1:100"), (&tiny, "1:100"), (&etag, "x"), (&tiny, "")] {
            assert!(show(etag, metadata).is_err(), "{etag} {metadata}");
        }
    }

    #[test]
    fn a_range_is_judged_by_what_it_should_be() {
        let value = Value { id: 1, bytes: 100 };
        let range = |from_end, bytes| Range { from_end, bytes };
        assert_eq!(part(range(false, 1), value, "bytes 0-99/100"), Ok((0, 100)));
        assert_eq!(part(range(false, 41), value, "bytes 40-99/100"), Ok((40, 60)));
        assert_eq!(part(range(true, 41), value, "bytes 59-99/100"), Ok((59, 41)));
        assert_eq!(part(range(true, 500), value, "bytes 0-99/100"), Ok((0, 100)));
        assert!(part(range(false, 41), value, "bytes 0-59/100").is_err());
        assert!(part(range(false, 101), value, "bytes 0-99/100").is_err());
    }
}
