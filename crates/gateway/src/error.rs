//! From what failed below to S3's codes. Messages say what to do; what only an operator can use goes to the log.

use crate::admission::Busy;
use crate::{read, volumes, write};
use http::StatusCode;
use s3s::{S3Error, S3ErrorCode, StdError, s3_error};

/// A partition refused, or could not be asked.
pub fn of_metadata(error: metadata::Error) -> S3Error {
    use metadata::Error::*;
    match error {
        NotOpen => s3_error!(ServiceUnavailable, "The bucket is being created or deleted at this moment. Please try again."),
        Closed => s3_error!(OperationAborted, "The bucket is being deleted. Try again when that has ended."),
        StaleAttempt => {
            s3_error!(OperationAborted, "A conflicting conditional operation is currently in progress against this resource. Try again.")
        }
        Precondition => s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"),
        NoSuchKey => no_such_key(),
        NoSuchVersion => no_such_version(),
        Marked(_) => s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource."),
        NoSuchUpload => no_such_upload(),
        InvalidPart { number } => s3_error!(
            InvalidPart,
            "One or more of the specified parts could not be found: part {number} was not uploaded, or its entity tag or checksum differs."
        ),
        InvalidPartOrder => {
            s3_error!(InvalidPartOrder, "The list of parts was not in ascending order. Parts must be ordered by part number.")
        }
        EntityTooSmall { number } => {
            s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed size: part {number} has less than 5 MiB.")
        }
        Settled => s3_error!(ServiceUnavailable, "The write took too long and was given up; nothing was stored. Please try again."),
        Malformed(detail) => {
            tracing::warn!(%detail, "a partition refused a command or query as malformed");
            s3_error!(InvalidArgument, "The request could not be understood: {detail}")
        }
        Unavailable(detail) => {
            tracing::warn!(%detail, "partition unavailable");
            s3_error!(ServiceUnavailable, "The metadata of this key has no quorum at this moment; nothing was changed. Please try again.")
        }
        Unknown(detail) => {
            runtime::probe!("commit-outcome-unknown");
            tracing::warn!(%detail, "outcome of a command unknown");
            s3_error!(ServiceUnavailable, "It is not known whether the request took effect. Look before you repeat it.")
        }
        Busy => slow_down(),
    }
}

/// The root group refused, or could not be asked.
pub fn of_placement(error: placement::Error) -> S3Error {
    use placement::Error::*;
    match error {
        BucketExists { .. } => s3_error!(BucketAlreadyExists, "The requested bucket name is not available. Select a different name."),
        NoSuchBucket => no_such_bucket(),
        TooManyBuckets { limit } => s3_error!(TooManyBuckets, "You have attempted to create more buckets than allowed: at most {limit}."),
        StaleAttempt => {
            s3_error!(OperationAborted, "A conflicting conditional operation is currently in progress against this resource. Try again.")
        }
        CannotPlace { scheme, missing } => cannot_place(&scheme.to_string(), &missing),
        NoSuchVolume => {
            tracing::error!("a record names a volume that the root group does not know");
            s3_error!(InternalError, "The object names a volume that does not exist.")
        }
        Refused(detail) => {
            tracing::warn!(%detail, "the root group refused");
            s3_error!(OperationAborted, "The request conflicts with the present state: {detail}")
        }
        Malformed(detail) => {
            tracing::warn!(%detail, "the root group refused a command or query as malformed");
            s3_error!(InvalidArgument, "The request could not be understood: {detail}")
        }
        Unavailable(detail) => {
            tracing::warn!(%detail, "root group unavailable");
            s3_error!(ServiceUnavailable, "The root group has no quorum at this moment; nothing was changed. Please try again.")
        }
        Unknown(detail) => {
            tracing::warn!(%detail, "outcome of a root command unknown");
            s3_error!(ServiceUnavailable, "It is not known whether the request took effect. Look before you repeat it.")
        }
        Busy => slow_down(),
        // Of an operator's commands: no request leads there.
        NoSuchIdentity | TooManyIdentities { .. } => s3_error!(InternalError, "{error}"),
    }
}

/// No volume takes the bytes.
pub fn of_volumes(error: volumes::Error) -> S3Error {
    match error {
        volumes::Error::CannotPlace { scheme, missing } => cannot_place(&scheme.to_string(), &missing),
        volumes::Error::Build(reasons) => {
            s3_error!(ServiceUnavailable, "No volume could be made ready in time ({reasons}). Please try again.")
        }
        volumes::Error::Changing => s3_error!(ServiceUnavailable, "The volumes change at this moment. Please try again."),
        volumes::Error::Placement(error) => of_placement(error),
    }
}

/// The bytes could not be made safe.
pub fn of_write(error: write::Error) -> S3Error {
    match error {
        write::Error::Body(error) => error,
        write::Error::Busy => slow_down(),
        write::Error::Volumes(error) => of_volumes(error),
        write::Error::Late { waiting } => s3_error!(
            ServiceUnavailable,
            "The bytes could not be made safe on all drives of any volume in time; nothing was stored. Waiting for: {waiting}."
        ),
    }
}

/// The bytes could not be read.
pub fn of_read(error: read::Error) -> S3Error {
    match error {
        read::Error::Busy => slow_down(),
        read::Error::Gone => no_such_key(),
        read::Error::TooFew { have, need, missing, lost: true } => {
            s3_error!(InternalError, "The object is damaged: {have} of {need} shards needed are intact. Lost: {missing}.")
        }
        read::Error::TooFew { have, need, missing, lost: false } => s3_error!(
            ServiceUnavailable,
            "The object cannot be read at this moment: {have} of {need} shards needed were reached. Bring back: {missing}."
        ),
        read::Error::Damaged => s3_error!(InternalError, "The object is damaged: its bytes fail their checksum and were not returned."),
        read::Error::Metadata(error) => of_metadata(error),
        read::Error::Placement(error) => of_placement(error),
    }
}

/// Admission timed out.
pub fn of_busy(_: Busy) -> S3Error {
    slow_down()
}

/// A request body broke off or failed its proof. s3s's types are private: their words are all there is. Errors of our own
/// wrappers travel as [`S3Error`].
pub fn of_body(error: &StdError) -> S3Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = cause {
        if let Some(own) = error.downcast_ref::<S3Error>() {
            let mut copy = S3Error::new(own.code().clone());
            if let Some(message) = own.message() {
                copy.set_message(message.to_string());
            }
            if let Some(status) = own.status_code() {
                copy.set_status_code(status);
            }
            return copy;
        }
        cause = error.source();
    }
    let text = error.to_string();
    let says = |word: &str| text.contains(word);
    if says("Sha256Mismatch") {
        let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
        let mut error = S3Error::with_message(S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()), message);
        error.set_status_code(StatusCode::BAD_REQUEST);
        error
    } else if says("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch, "The signature of a chunk does not match the signature you provided.")
    } else if says("ChunkMetaTooLarge") || says("TrailersTooLarge") || says("TooManyTrailerHeaders") {
        s3_error!(InvalidRequest, "The framing of the aws-chunked body is larger than allowed.")
    } else if says("LengthMismatch") || says("FormatError") || says("Incomplete") {
        s3_error!(IncompleteBody, "The request body did not end as its headers say.")
    } else {
        tracing::debug!(error = %text, "request body broke off");
        s3_error!(IncompleteBody, "The request body terminated unexpectedly")
    }
}

/// 404.
pub fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

/// 404.
pub fn no_such_version() -> S3Error {
    s3_error!(NoSuchVersion, "The specified version does not exist.")
}

/// 404.
pub fn no_such_bucket() -> S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist")
}

/// 404.
pub fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )
}

pub fn slow_down() -> S3Error {
    s3_error!(SlowDown, "Please reduce your request rate.")
}

fn cannot_place(scheme: &str, missing: &str) -> S3Error {
    s3_error!(ServiceUnavailable, "Objects cannot be stored as {scheme} at this moment; nothing was stored. Missing: {missing}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Text(&'static str);

    #[test]
    fn broken_bodies_get_the_codes_of_s3() {
        for (text, code, status) in [
            ("UploadStreamError: Sha256Mismatch", "XAmzContentSHA256Mismatch", 400),
            ("AwsChunkedStreamError: SignatureMismatch", "SignatureDoesNotMatch", 403),
            ("AwsChunkedStreamError: Incomplete", "IncompleteBody", 400),
            ("UploadStreamError: Underlying: connection reset", "IncompleteBody", 400),
        ] {
            let error: StdError = Box::new(Text(text));
            let mapped = of_body(&error);
            assert_eq!(mapped.code().as_str(), code);
            assert_eq!(mapped.status_code().map(|status| status.as_u16()), Some(status), "{text}");
        }
        let own: StdError = Box::new(s3_error!(EntityTooLarge, "a chunk of more than 16 MiB"));
        assert_eq!(of_body(&own).code(), &S3ErrorCode::EntityTooLarge);
    }

    #[test]
    fn every_refusal_for_want_of_the_cluster_is_503() {
        for error in [
            of_metadata(metadata::Error::Busy),
            of_metadata(metadata::Error::Unavailable("x".into())),
            of_metadata(metadata::Error::Unknown("x".into())),
            of_placement(placement::Error::Busy),
            of_write(write::Error::Late { waiting: "x".into() }),
            of_busy(Busy),
        ] {
            assert_eq!(error.status_code(), Some(StatusCode::SERVICE_UNAVAILABLE), "{error}");
        }
    }
}
