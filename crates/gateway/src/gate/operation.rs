//! The table: (method, level, subresource) -> operation, and all that each operation permits.
//!
//! Invariant: what no row names is refused. A subresource, parameter or header that s3s does not know would otherwise
//! fall through to the plain operation: `PUT /b/k?append` would overwrite, `DELETE /b/k?acl` would delete the object.

use http::Method;
use s3s::path::S3Path;

use super::query::Query;
use super::refusal::Refusal;

/// What a client can ask for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketVersioning,
    PutBucketVersioning,
    GetBucketTagging,
    PutBucketTagging,
    DeleteBucketTagging,
    GetBucketLifecycleConfiguration,
    PutBucketLifecycleConfiguration,
    DeleteBucketLifecycle,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    ListMultipartUploads,
    DeleteObjects,
    PutObject,
    CopyObject,
    GetObject,
    HeadObject,
    DeleteObject,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
}

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Service,
    Bucket,
    Object,
}

/// What a request of an operation carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    Nothing,
    /// A document of at most `XML_BYTES_MAX`, read and verified before the operation sees it.
    Xml,
    /// Bytes of an object, streamed.
    Bytes,
}

/// Which values a permitted header or parameter may have.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Any: the operation honours it.
    Any,
    /// These alone: the operation honours them, or they ask for what happens anyway.
    Values(&'static [&'static str]),
}

/// A permitted header or parameter.
pub type Permitted = (&'static str, Rule);

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    pub operation: Operation,
    pub method: &'static str,
    pub level: Level,
    /// Parameters that must be there; the row with the most wins. `list-type` must be 2.
    pub selectors: &'static [&'static str],
    /// Whether the header `x-amz-copy-source` selects this row.
    pub copies: bool,
    pub content: Content,
    /// Permitted parameters besides the selectors.
    pub parameters: &'static [Permitted],
    /// Permitted `x-amz-*` headers besides those of every request.
    pub headers: &'static [Permitted],
    /// Permitted ones of the standard headers in [`CONDITIONAL`].
    pub conditions: &'static [&'static str],
    /// Whether `x-amz-meta-*` is permitted.
    pub metadata: bool,
    /// Whether a presigned query of signature version 2 may ask for it. Only where version 2 signs every parameter:
    /// else the holder of a link could change what it does.
    pub presigned_v2: bool,
}

/// Standard headers that change what an operation does, refused where they are not honoured.
pub const CONDITIONAL: [&str; 5] = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "content-range"];

/// `x-amz-*` headers that every operation permits.
pub const EVERYWHERE: &[Permitted] = &[
    ("x-amz-date", Rule::Any),
    ("x-amz-content-sha256", Rule::Any),
    ("x-amz-user-agent", Rule::Any),
    ("x-amz-api-version", Rule::Values(&["2006-03-01"])),
    ("x-amz-request-payer", Rule::Values(&["requester"])),
];

/// Checksum algorithms, as their headers spell them.
pub const ALGORITHMS: &[&str] = &["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"];

const READ_CONDITIONS: &[&str] = &["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];
const WRITE_CONDITIONS: &[&str] = &["if-match", "if-none-match"];

const ACL: Permitted = ("x-amz-acl", Rule::Values(&["private", "bucket-owner-full-control"]));
const STORAGE_CLASS: Permitted = ("x-amz-storage-class", Rule::Values(&["STANDARD"]));
const TAGGING: Permitted = ("x-amz-tagging", Rule::Any);
const CHECKSUM_ALGORITHM: Permitted = ("x-amz-checksum-algorithm", Rule::Values(ALGORITHMS));
const CHECKSUM_MODE: Permitted = ("x-amz-checksum-mode", Rule::Values(&["ENABLED"]));
const CHECKSUM_TYPE: Permitted = ("x-amz-checksum-type", Rule::Values(&["COMPOSITE", "FULL_OBJECT"]));
const TRAILING_OFFER: Permitted = ("x-amz-te", Rule::Values(&["append-md5"]));
const DECODED_LENGTH: Permitted = ("x-amz-decoded-content-length", Rule::Any);
const ENCODING_TYPE: Permitted = ("encoding-type", Rule::Values(&["url"]));

/// What the body of an upload may be checked by.
const DIGESTS: &[Permitted] = &[
    DECODED_LENGTH,
    ("x-amz-trailer", Rule::Any),
    ("x-amz-sdk-checksum-algorithm", Rule::Values(ALGORITHMS)),
    ("x-amz-checksum-crc32", Rule::Any),
    ("x-amz-checksum-crc32c", Rule::Any),
    ("x-amz-checksum-crc64nvme", Rule::Any),
    ("x-amz-checksum-sha1", Rule::Any),
    ("x-amz-checksum-sha256", Rule::Any),
];

const PUT_HEADERS: &[Permitted] =
    &[ACL, STORAGE_CLASS, TAGGING, DIGESTS[0], DIGESTS[1], DIGESTS[2], DIGESTS[3], DIGESTS[4], DIGESTS[5], DIGESTS[6], DIGESTS[7]];

const COPY_HEADERS: &[Permitted] = &[
    ACL,
    STORAGE_CLASS,
    CHECKSUM_ALGORITHM,
    ("x-amz-copy-source", Rule::Any),
    ("x-amz-copy-source-if-match", Rule::Any),
    ("x-amz-copy-source-if-none-match", Rule::Any),
    ("x-amz-copy-source-if-modified-since", Rule::Any),
    ("x-amz-copy-source-if-unmodified-since", Rule::Any),
    ("x-amz-metadata-directive", Rule::Values(&["COPY", "REPLACE"])),
    TAGGING,
    ("x-amz-tagging-directive", Rule::Values(&["COPY", "REPLACE"])),
];

const PART_COPY_HEADERS: &[Permitted] = &[
    ("x-amz-copy-source", Rule::Any),
    ("x-amz-copy-source-range", Rule::Any),
    ("x-amz-copy-source-if-match", Rule::Any),
    ("x-amz-copy-source-if-none-match", Rule::Any),
    ("x-amz-copy-source-if-modified-since", Rule::Any),
    ("x-amz-copy-source-if-unmodified-since", Rule::Any),
];

/// On CompleteMultipartUpload the checksums are those of the object, not of the document.
const COMPLETE_HEADERS: &[Permitted] =
    &[DECODED_LENGTH, CHECKSUM_TYPE, ("x-amz-mp-object-size", Rule::Any), DIGESTS[3], DIGESTS[4], DIGESTS[5], DIGESTS[6], DIGESTS[7]];

const VERSION: Permitted = ("versionId", Rule::Any);

const READ_PARAMETERS: &[Permitted] = &[
    VERSION,
    ("partNumber", Rule::Any),
    ("response-cache-control", Rule::Any),
    ("response-content-disposition", Rule::Any),
    ("response-content-encoding", Rule::Any),
    ("response-content-language", Rule::Any),
    ("response-content-type", Rule::Any),
    ("response-expires", Rule::Any),
];

const LIST_PARAMETERS: &[Permitted] =
    &[("prefix", Rule::Any), ("delimiter", Rule::Any), ("marker", Rule::Any), ("max-keys", Rule::Any), ENCODING_TYPE];

const LIST_V2_PARAMETERS: &[Permitted] = &[
    ("prefix", Rule::Any),
    ("delimiter", Rule::Any),
    ("start-after", Rule::Any),
    ("continuation-token", Rule::Any),
    ("max-keys", Rule::Any),
    ("fetch-owner", Rule::Values(&["true", "false"])),
    ENCODING_TYPE,
];

const LIST_VERSIONS_PARAMETERS: &[Permitted] = &[
    ("prefix", Rule::Any),
    ("delimiter", Rule::Any),
    ("key-marker", Rule::Any),
    ("version-id-marker", Rule::Any),
    ("max-keys", Rule::Any),
    ENCODING_TYPE,
];

const LIST_UPLOADS_PARAMETERS: &[Permitted] = &[
    ("prefix", Rule::Any),
    ("delimiter", Rule::Any),
    ("key-marker", Rule::Any),
    ("upload-id-marker", Rule::Any),
    ("max-uploads", Rule::Any),
    ENCODING_TYPE,
];

const fn row(operation: Operation, method: &'static str, level: Level) -> Row {
    Row {
        operation,
        method,
        level,
        selectors: &[],
        copies: false,
        content: Content::Nothing,
        parameters: &[],
        headers: &[],
        conditions: &[],
        metadata: false,
        presigned_v2: false,
    }
}

/// Every operation that is served.
pub static TABLE: [Row; 32] = [
    Row {
        parameters: &[("prefix", Rule::Any), ("max-buckets", Rule::Any), ("continuation-token", Rule::Any), ("bucket-region", Rule::Any)],
        ..row(Operation::ListBuckets, "GET", Level::Service)
    },
    Row {
        content: Content::Xml,
        headers: &[
            DECODED_LENGTH,
            ("x-amz-acl", Rule::Values(&["private"])),
            ("x-amz-object-ownership", Rule::Values(&["BucketOwnerEnforced"])),
            ("x-amz-bucket-object-lock-enabled", Rule::Values(&["false"])),
        ],
        ..row(Operation::CreateBucket, "PUT", Level::Bucket)
    },
    row(Operation::HeadBucket, "HEAD", Level::Bucket),
    row(Operation::DeleteBucket, "DELETE", Level::Bucket),
    Row { selectors: &["location"], ..row(Operation::GetBucketLocation, "GET", Level::Bucket) },
    Row { selectors: &["versioning"], ..row(Operation::GetBucketVersioning, "GET", Level::Bucket) },
    Row {
        selectors: &["versioning"],
        content: Content::Xml,
        headers: DIGESTS,
        ..row(Operation::PutBucketVersioning, "PUT", Level::Bucket)
    },
    Row { selectors: &["tagging"], ..row(Operation::GetBucketTagging, "GET", Level::Bucket) },
    Row { selectors: &["tagging"], content: Content::Xml, headers: DIGESTS, ..row(Operation::PutBucketTagging, "PUT", Level::Bucket) },
    Row { selectors: &["tagging"], ..row(Operation::DeleteBucketTagging, "DELETE", Level::Bucket) },
    Row { selectors: &["lifecycle"], ..row(Operation::GetBucketLifecycleConfiguration, "GET", Level::Bucket) },
    Row {
        selectors: &["lifecycle"],
        content: Content::Xml,
        headers: DIGESTS,
        ..row(Operation::PutBucketLifecycleConfiguration, "PUT", Level::Bucket)
    },
    Row { selectors: &["lifecycle"], ..row(Operation::DeleteBucketLifecycle, "DELETE", Level::Bucket) },
    Row { parameters: LIST_PARAMETERS, ..row(Operation::ListObjects, "GET", Level::Bucket) },
    Row { selectors: &["list-type"], parameters: LIST_V2_PARAMETERS, ..row(Operation::ListObjectsV2, "GET", Level::Bucket) },
    Row { selectors: &["versions"], parameters: LIST_VERSIONS_PARAMETERS, ..row(Operation::ListObjectVersions, "GET", Level::Bucket) },
    Row { selectors: &["uploads"], parameters: LIST_UPLOADS_PARAMETERS, ..row(Operation::ListMultipartUploads, "GET", Level::Bucket) },
    Row { selectors: &["delete"], content: Content::Xml, headers: DIGESTS, ..row(Operation::DeleteObjects, "POST", Level::Bucket) },
    Row {
        content: Content::Bytes,
        headers: PUT_HEADERS,
        conditions: WRITE_CONDITIONS,
        metadata: true,
        presigned_v2: true,
        ..row(Operation::PutObject, "PUT", Level::Object)
    },
    Row {
        copies: true,
        headers: COPY_HEADERS,
        conditions: WRITE_CONDITIONS,
        metadata: true,
        ..row(Operation::CopyObject, "PUT", Level::Object)
    },
    Row {
        parameters: READ_PARAMETERS,
        headers: &[CHECKSUM_MODE, TRAILING_OFFER],
        conditions: READ_CONDITIONS,
        presigned_v2: true,
        ..row(Operation::GetObject, "GET", Level::Object)
    },
    Row {
        parameters: READ_PARAMETERS,
        headers: &[CHECKSUM_MODE],
        conditions: READ_CONDITIONS,
        presigned_v2: true,
        ..row(Operation::HeadObject, "HEAD", Level::Object)
    },
    Row { parameters: &[VERSION], conditions: &["if-match"], presigned_v2: true, ..row(Operation::DeleteObject, "DELETE", Level::Object) },
    Row { selectors: &["tagging"], parameters: &[VERSION], ..row(Operation::GetObjectTagging, "GET", Level::Object) },
    Row {
        selectors: &["tagging"],
        parameters: &[VERSION],
        content: Content::Xml,
        headers: DIGESTS,
        ..row(Operation::PutObjectTagging, "PUT", Level::Object)
    },
    Row { selectors: &["tagging"], parameters: &[VERSION], ..row(Operation::DeleteObjectTagging, "DELETE", Level::Object) },
    Row {
        selectors: &["uploads"],
        headers: &[ACL, STORAGE_CLASS, TAGGING, CHECKSUM_ALGORITHM, CHECKSUM_TYPE],
        metadata: true,
        ..row(Operation::CreateMultipartUpload, "POST", Level::Object)
    },
    Row {
        selectors: &["partNumber", "uploadId"],
        content: Content::Bytes,
        headers: DIGESTS,
        presigned_v2: true,
        ..row(Operation::UploadPart, "PUT", Level::Object)
    },
    Row {
        selectors: &["partNumber", "uploadId"],
        copies: true,
        headers: PART_COPY_HEADERS,
        ..row(Operation::UploadPartCopy, "PUT", Level::Object)
    },
    Row {
        selectors: &["uploadId"],
        content: Content::Xml,
        headers: COMPLETE_HEADERS,
        conditions: WRITE_CONDITIONS,
        ..row(Operation::CompleteMultipartUpload, "POST", Level::Object)
    },
    Row { selectors: &["uploadId"], ..row(Operation::AbortMultipartUpload, "DELETE", Level::Object) },
    Row {
        selectors: &["uploadId"],
        parameters: &[("max-parts", Rule::Any), ("part-number-marker", Rule::Any)],
        ..row(Operation::ListParts, "GET", Level::Object)
    },
];

impl Operation {
    /// S3's name of it, which is s3s's too.
    pub fn name(self) -> &'static str {
        match self {
            Operation::ListBuckets => "ListBuckets",
            Operation::CreateBucket => "CreateBucket",
            Operation::HeadBucket => "HeadBucket",
            Operation::DeleteBucket => "DeleteBucket",
            Operation::GetBucketLocation => "GetBucketLocation",
            Operation::GetBucketVersioning => "GetBucketVersioning",
            Operation::PutBucketVersioning => "PutBucketVersioning",
            Operation::GetBucketTagging => "GetBucketTagging",
            Operation::PutBucketTagging => "PutBucketTagging",
            Operation::DeleteBucketTagging => "DeleteBucketTagging",
            Operation::GetBucketLifecycleConfiguration => "GetBucketLifecycleConfiguration",
            Operation::PutBucketLifecycleConfiguration => "PutBucketLifecycleConfiguration",
            Operation::DeleteBucketLifecycle => "DeleteBucketLifecycle",
            Operation::ListObjects => "ListObjects",
            Operation::ListObjectsV2 => "ListObjectsV2",
            Operation::ListObjectVersions => "ListObjectVersions",
            Operation::ListMultipartUploads => "ListMultipartUploads",
            Operation::DeleteObjects => "DeleteObjects",
            Operation::PutObject => "PutObject",
            Operation::CopyObject => "CopyObject",
            Operation::GetObject => "GetObject",
            Operation::HeadObject => "HeadObject",
            Operation::DeleteObject => "DeleteObject",
            Operation::GetObjectTagging => "GetObjectTagging",
            Operation::PutObjectTagging => "PutObjectTagging",
            Operation::DeleteObjectTagging => "DeleteObjectTagging",
            Operation::CreateMultipartUpload => "CreateMultipartUpload",
            Operation::UploadPart => "UploadPart",
            Operation::UploadPartCopy => "UploadPartCopy",
            Operation::CompleteMultipartUpload => "CompleteMultipartUpload",
            Operation::AbortMultipartUpload => "AbortMultipartUpload",
            Operation::ListParts => "ListParts",
        }
    }
}

impl Level {
    pub fn of(path: &S3Path) -> Level {
        match path {
            S3Path::Root => Level::Service,
            S3Path::Bucket { .. } => Level::Bucket,
            S3Path::Object { .. } => Level::Object,
        }
    }
}

impl Rule {
    pub fn permits(self, value: &str) -> bool {
        match self {
            Rule::Any => true,
            Rule::Values(values) => values.contains(&value),
        }
    }
}

impl Row {
    fn matches(&self, method: &Method, level: Level, query: &Query, copies: bool) -> bool {
        let selected = |name: &&str| match query.get(name) {
            Some(value) => *name != "list-type" || value == "2",
            None => false,
        };
        self.method == method.as_str() && self.level == level && self.selectors.iter().all(selected) && (copies || !self.copies)
    }
}

/// The row that a request asks for. `is_signing` names the parameters that belong to the signature.
pub fn find_row(
    method: &Method,
    level: Level,
    query: &Query,
    copies: bool,
    is_signing: impl Fn(&str) -> bool,
) -> Result<&'static Row, Refusal> {
    let weight = |row: &&Row| row.selectors.len() + usize::from(row.copies);
    match TABLE.iter().filter(|row| row.matches(method, level, query, copies)).max_by_key(weight) {
        Some(row) => Ok(row),
        None => Err(match query.iter().find(|(name, _)| !is_signing(name)) {
            Some((name, _)) => Refusal::parameter_not_implemented(name),
            None => Refusal::new(s3s::S3ErrorCode::MethodNotAllowed, format!("The method {method} is not allowed against this resource.")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(method: Method, level: Level, query: &str, copies: bool) -> Result<Operation, s3s::S3ErrorCode> {
        let query = Query::parse(Some(query)).unwrap();
        find_row(&method, level, &query, copies, |_| false).map(|row| row.operation).map_err(|refusal| refusal.code)
    }

    #[test]
    fn the_most_specific_row_wins() {
        use Level::*;
        for (method, level, query, copies, operation) in [
            (Method::GET, Service, "", false, Operation::ListBuckets),
            (Method::PUT, Bucket, "", false, Operation::CreateBucket),
            (Method::HEAD, Bucket, "", false, Operation::HeadBucket),
            (Method::DELETE, Bucket, "", false, Operation::DeleteBucket),
            (Method::GET, Bucket, "location", false, Operation::GetBucketLocation),
            (Method::GET, Bucket, "versioning", false, Operation::GetBucketVersioning),
            (Method::PUT, Bucket, "versioning", false, Operation::PutBucketVersioning),
            (Method::GET, Bucket, "tagging", false, Operation::GetBucketTagging),
            (Method::PUT, Bucket, "tagging", false, Operation::PutBucketTagging),
            (Method::DELETE, Bucket, "tagging", false, Operation::DeleteBucketTagging),
            (Method::GET, Bucket, "lifecycle", false, Operation::GetBucketLifecycleConfiguration),
            (Method::PUT, Bucket, "lifecycle", false, Operation::PutBucketLifecycleConfiguration),
            (Method::DELETE, Bucket, "lifecycle", false, Operation::DeleteBucketLifecycle),
            (Method::GET, Bucket, "versions&prefix=a", false, Operation::ListObjectVersions),
            (Method::GET, Bucket, "prefix=a", false, Operation::ListObjects),
            (Method::GET, Bucket, "list-type=2&prefix=a", false, Operation::ListObjectsV2),
            (Method::GET, Bucket, "list-type=1", false, Operation::ListObjects),
            (Method::GET, Bucket, "uploads", false, Operation::ListMultipartUploads),
            (Method::POST, Bucket, "delete", false, Operation::DeleteObjects),
            (Method::PUT, Object, "", false, Operation::PutObject),
            (Method::PUT, Object, "", true, Operation::CopyObject),
            (Method::PUT, Object, "partNumber=1", false, Operation::PutObject),
            (Method::PUT, Object, "partNumber=1&uploadId=x", false, Operation::UploadPart),
            (Method::PUT, Object, "partNumber=1&uploadId=x", true, Operation::UploadPartCopy),
            (Method::GET, Object, "", false, Operation::GetObject),
            (Method::HEAD, Object, "partNumber=2", false, Operation::HeadObject),
            (Method::DELETE, Object, "", false, Operation::DeleteObject),
            (Method::GET, Object, "tagging", false, Operation::GetObjectTagging),
            (Method::PUT, Object, "tagging&versionId=null", false, Operation::PutObjectTagging),
            (Method::DELETE, Object, "tagging", false, Operation::DeleteObjectTagging),
            (Method::POST, Object, "uploads", false, Operation::CreateMultipartUpload),
            (Method::POST, Object, "uploadId=x", false, Operation::CompleteMultipartUpload),
            (Method::DELETE, Object, "uploadId=x", false, Operation::AbortMultipartUpload),
            (Method::GET, Object, "uploadId=x", false, Operation::ListParts),
        ] {
            assert_eq!(find(method.clone(), level, query, copies), Ok(operation), "{method} {level:?} {query}");
        }
    }

    #[test]
    fn what_no_row_names_is_refused() {
        use s3s::S3ErrorCode::{MethodNotAllowed, NotImplemented};
        for (method, level, query, code) in [
            (Method::POST, Level::Service, "", MethodNotAllowed),
            (Method::POST, Level::Bucket, "", MethodNotAllowed),
            (Method::POST, Level::Bucket, "metadataTable", NotImplemented),
            (Method::POST, Level::Object, "restore", NotImplemented),
            (Method::POST, Level::Object, "select&select-type=2", NotImplemented),
            (Method::PATCH, Level::Object, "", MethodNotAllowed),
            (Method::OPTIONS, Level::Bucket, "", MethodNotAllowed),
            (Method::CONNECT, Level::Service, "", MethodNotAllowed),
            (Method::PUT, Level::Service, "", MethodNotAllowed),
        ] {
            assert_eq!(find(method.clone(), level, query, false), Err(code), "{method} {level:?} {query}");
        }
    }

    #[test]
    fn every_operation_has_one_row() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(TABLE[index + 1..].iter().all(|other| other.operation != row.operation), "{:?}", row.operation);
        }
    }
}
