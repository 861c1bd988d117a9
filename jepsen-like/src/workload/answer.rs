//! From a reply to an outcome. What is not proved is unknown.

use bytes::Bytes;
use http::HeaderMap;

use crate::history::{Outcome, Refusal, Reply, Seen};
use crate::s3::{self, Client, Error, REPLY_BYTES_MAX, Request};

/// The revision that a reply saw or made, see [`crate::history::Operation::revision`].
const REVISION_HEADER: &str = "x-keepstone-revision";

/// What outcomes begin with of requests that were never sent: the gateway accepts no connection.
pub(super) const UNSENT: &str = "not sent: ";

/// What a reply tells of the version that it made or read.
const VERSION_HEADER: &str = "x-amz-version-id";

/// A whole reply, or why there is none, and the revision that it named.
pub(super) struct Answer {
    pub result: Result<(HeaderMap, Bytes), Error>,
    pub revision: Option<u64>,
}

/// The version id that a reply tells.
pub(super) fn version(headers: &HeaderMap) -> Option<String> {
    headers.get(VERSION_HEADER).map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned())
}

/// Send `request` and read its whole reply.
pub(super) async fn ask(client: &Client, request: &Request) -> Answer {
    match head(client, request).await {
        Ok((mut reply, revision)) => {
            let headers = std::mem::take(&mut reply.headers);
            Answer { result: reply.bytes(REPLY_BYTES_MAX).await.map(|bytes| (headers, bytes)), revision }
        }
        Err((error, revision)) => Answer { result: Err(error), revision },
    }
}

/// Send `request` and wait for the head of a good reply; a refusal is read whole.
pub(super) async fn head(client: &Client, request: &Request) -> Result<(s3::Reply, Option<u64>), (Error, Option<u64>)> {
    let reply = client.send(request).await.map_err(|error| (error, None))?;
    let revision = reply.header(REVISION_HEADER).parse().ok();
    if reply.status < 400 {
        return Ok((reply, revision));
    }
    // One that is cut is no refusal: nothing is known.
    Err((reply.into_refusal().await.unwrap_or_else(|error| error), revision))
}

impl Answer {
    /// The reply as history has it; `good` says what a good one means.
    pub fn told(self, good: impl FnOnce(&HeaderMap, &Bytes) -> Outcome) -> Reply {
        let outcome = match &self.result {
            Ok((headers, bytes)) => good(headers, bytes),
            Err(error) => failed(error),
        };
        Reply { outcome, revision: self.revision }
    }
}

/// A reply that is not a good one.
pub(super) fn failed(error: &Error) -> Outcome {
    // Codes, not whole messages: tallies should stay short.
    let reason = match error {
        Error::Refused { status, code, .. } => format!("{status} {code}"),
        Error::Unsent(reason) => format!("{UNSENT}{reason}"),
        other => other.to_string(),
    };
    if !error.is_certainly_not_done() {
        return Outcome::Unknown(reason);
    }
    match error.code().and_then(Refusal::of_code) {
        Some(refusal) => Outcome::Refused(refusal),
        None => Outcome::NotDone(reason),
    }
}

/// Whether a write was refused because its condition did not hold: also If-Match on a key that does not exist.
pub(super) fn condition_failed(error: &Error) -> bool {
    error.status() == Some(412) || is_no_such_key(error)
}

pub(super) fn is_no_such_key(error: &Error) -> bool {
    error.status() == Some(404) && error.code() == Some("NoSuchKey")
}

/// A complete reply that says what cannot be.
pub(super) fn wrong(reason: String) -> Outcome {
    Outcome::Read(Seen::Wrong(reason))
}

/// A header's text; empty if there is none.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_not_done_and_a_failing_of_the_server_is_unknown() {
        let refused = |status, code: &str| Error::Refused { status, code: code.to_owned(), message: String::new() };
        assert!(condition_failed(&refused(412, "PreconditionFailed")) && condition_failed(&refused(404, "NoSuchKey")));
        assert!(!condition_failed(&refused(404, "NoSuchBucket")));
        let conflict = "409 ConditionalRequestConflict".to_owned();
        assert_eq!(failed(&refused(409, "ConditionalRequestConflict")), Outcome::NotDone(conflict));
        assert_eq!(failed(&refused(404, "NoSuchBucket")), Outcome::Refused(Refusal::NoSuchBucket));
        assert_eq!(failed(&refused(503, "SlowDown")), Outcome::Unknown("503 SlowDown".to_owned()));
        // Complete may answer 200 first and then fail: that is a 500, whatever its code.
        assert_eq!(failed(&refused(500, "NoSuchUpload")), Outcome::Unknown("500 NoSuchUpload".to_owned()));
        assert_eq!(failed(&Error::Unsent("x".to_owned())), Outcome::NotDone("not sent: x".to_owned()));
    }
}
