//! `x-keepstone-revision`: what the replies of object operations tell of the order. A write's is the revision that it
//! made in its key's partition, a read's the last one that it saw, a refusal's the one on which it was judged.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use protocol::Revision;
use s3s::S3Error;
use std::sync::Mutex;

/// The header's name.
pub const HEADER: HeaderName = HeaderName::from_static("x-keepstone-revision");

/// The revision of the last answer that a request got from its key's partition.
#[derive(Default)]
pub struct Witness(Mutex<Option<Revision>>);

impl Witness {
    /// Keep what the answer saw; its result.
    pub fn of<T>(&self, seen: metadata::client::Seen<T>) -> Result<T, metadata::Error> {
        *self.0.lock().expect("no holder panics") = seen.revision;
        seen.result
    }

    /// Tell it with an error that a condition or the absence of the key caused; others say nothing of the key.
    pub fn tell(&self, error: S3Error) -> S3Error {
        let revision = *self.0.lock().expect("no holder panics");
        match (error.code(), revision) {
            (s3s::S3ErrorCode::PreconditionFailed | s3s::S3ErrorCode::NoSuchKey | s3s::S3ErrorCode::NoSuchVersion, Some(revision)) => {
                with_error(error, revision)
            }
            _ => error,
        }
    }

    /// As a header.
    pub fn headers(&self) -> HeaderMap {
        self.0.lock().expect("no holder panics").map(headers).unwrap_or_default()
    }
}

/// The header alone.
pub fn headers(revision: Revision) -> HeaderMap {
    HeaderMap::from_iter([(HEADER, HeaderValue::from(revision.0))])
}

/// The error, with the header beside its own.
pub fn with_error(error: S3Error, revision: Revision) -> S3Error {
    with_headers(error, headers(revision))
}

/// The error, with these headers beside its own.
pub fn with_headers(mut error: S3Error, more: HeaderMap) -> S3Error {
    // Headers of an error take the place of all others.
    let own = error.headers().cloned();
    let mut all = own.unwrap_or_else(|| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/xml"))]));
    all.extend(more);
    error.set_headers(all);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use metadata::client::Seen;

    #[test]
    fn refused_conditions_tell_their_revision_and_other_errors_do_not() {
        let witness = Witness::default();
        let refused: Result<(), _> = witness.of(Seen { result: Err(metadata::Error::Precondition), revision: Some(Revision(7)) });
        let error = witness.tell(crate::error::of_metadata(refused.unwrap_err()));
        assert_eq!(error.headers().unwrap()[HEADER], "7");
        assert_eq!(error.headers().unwrap()[CONTENT_TYPE], "application/xml");
        assert!(witness.tell(crate::error::of_metadata(metadata::Error::Busy)).headers().is_none());
        assert_eq!(witness.headers()[HEADER], "7");
    }

    #[test]
    fn an_error_keeps_its_own_headers() {
        let mut error = S3Error::new(s3s::S3ErrorCode::NotModified);
        error.set_headers(HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"e\""))]));
        let headers = with_error(error, Revision(0)).headers().unwrap().clone();
        assert_eq!((headers[HEADER].as_bytes(), headers[http::header::ETAG].as_bytes()), (&b"0"[..], &b"\"e\""[..]));
        assert_eq!(headers.len(), 2);
    }
}
