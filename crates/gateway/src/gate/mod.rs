//! The gate: decides what a request asks for, or refuses it, before s3s sees it and before its body is asked for.
//!
//! Invariant: nothing that a client sends is silently ignored. What is let in is in the table of `operation.rs`, with
//! every parameter and every `x-amz-*` header honoured, or of a value that asks for what happens anyway.

pub mod framing;
pub mod operation;
pub mod query;
pub mod refusal;
pub mod signing;
pub mod target;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request};
use protocol::limits::USER_METADATA_BYTES_MAX;
use s3s::S3ErrorCode;
use s3s::dto::Range;

use crate::identity::Identities;
use framing::{Framing, read_framing};
use operation::{CONDITIONAL, EVERYWHERE, Level, Operation, Row, find_row};
use query::Query;
use refusal::Refusal;
use signing::{Mechanism, PresignedClaim, Signed, find_mechanism};
use target::{Hosts, read_target};

/// Most bytes of a request's path and query.
const URI_BYTES_MAX: usize = 16 << 10;
/// Most bytes of all headers, names and values.
const HEADER_BYTES_MAX: usize = 32 << 10;

/// The rules of one gateway.
#[derive(Clone, Debug)]
pub struct Gate {
    pub identities: Identities,
    pub region: String,
    pub hosts: Hosts,
    pub presigned_v2: bool,
}

/// What the gate found a request to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admitted {
    pub operation: Operation,
    pub framing: Framing,
    pub mechanism: Mechanism,
    /// The `Range` is to be dropped once the signature that may cover it is verified.
    pub drop_range: bool,
    /// A signature of version 2, to be verified with the secret of whoever it names; others s3s verifies.
    claim: Option<PresignedClaim>,
}

impl Gate {
    /// Judge a request at `now_ms` by our clock. Headers that a presigned query carries as parameters are put among the
    /// headers; nothing else of `head` changes, as it is what was signed.
    pub fn admit(&self, head: &mut request::Parts, now_ms: u64) -> Result<Admitted, Refusal> {
        check_head(head)?;
        let query = Query::parse(head.uri.query())?;
        let mechanism = find_mechanism(&head.headers, &query, self.presigned_v2)?;
        let target = read_target(&self.hosts, &head.uri, &head.headers)?;

        let carried = carried_headers(mechanism, &query, &head.headers)?;
        let copies = [&head.headers, &carried].iter().any(|headers| headers.contains_key("x-amz-copy-source"));
        let is_apart = |name: &str| mechanism.is_parameter(name) || is_carried(mechanism, name);
        let row = find_row(&head.method, Level::of(&target.path), &query, copies, is_apart)?;
        check_parameters(row, &query, mechanism, &head.headers, is_apart)?;
        if mechanism == Mechanism::QueryV2 && !row.presigned_v2 {
            return Err(Refusal::new(
                S3ErrorCode::InvalidRequest,
                format!("Signature version 2 does not sign all parameters of {}. Please use AWS4-HMAC-SHA256.", row.operation.name()),
            ));
        }

        let signed = Signed {
            method: &head.method,
            raw_path: head.uri.path(),
            host_bucket: target.host_bucket.as_deref(),
            headers: &head.headers,
            query: &query,
        };
        let claim = signing::check(mechanism, &signed, &self.region, now_ms)?;

        head.headers.extend(carried);
        check_headers(row, &head.headers)?;
        let framing = read_framing(&head.headers, row.operation, row.content, mechanism)?;
        Ok(Admitted { operation: row.operation, framing, mechanism, drop_range: has_useless_range(row, &head.headers), claim })
    }

    /// Verify the signature of what was admitted, if it is of version 2.
    pub async fn verify(&self, admitted: &Admitted) -> Result<(), Refusal> {
        let Some(claim) = &admitted.claim else { return Ok(()) };
        match self.identities.signer(&claim.access_key).await {
            Ok(identity) => claim.verify(&identity),
            Err(error) if error.code() == &S3ErrorCode::InvalidAccessKeyId => Err(signing::unknown_access_key(&claim.access_key)),
            Err(error) => Err(Refusal::new(error.code().clone(), error.message().unwrap_or_default())),
        }
    }
}

/// What is refused whoever sends it.
fn check_head(head: &request::Parts) -> Result<(), Refusal> {
    if head.uri.path_and_query().is_some_and(|path| path.as_str().len() > URI_BYTES_MAX) {
        return Err(Refusal::new(S3ErrorCode::InvalidURI, format!("The path and query have more than {URI_BYTES_MAX} bytes.")));
    }
    let header_bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > HEADER_BYTES_MAX {
        return Err(Refusal::new(
            S3ErrorCode::RequestHeaderSectionTooLarge,
            format!("The headers have more than {HEADER_BYTES_MAX} bytes."),
        ));
    }
    // s3s reads a form whole before it knows who sends it.
    const FORM: &[u8] = b"multipart/form-data";
    let is_form = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().windows(FORM.len()).any(|window| window == FORM);
    if head.method == Method::POST && head.headers.get_all(header::CONTENT_TYPE).iter().any(is_form) {
        return Err(Refusal::new(S3ErrorCode::NotImplemented, "Uploads by POST form are not implemented. Use PUT."));
    }
    Ok(())
}

/// Whether a presigned query of version 4 carries the header `name`: SDKs move headers there, and S3 honours them.
fn is_carried(mechanism: Mechanism, name: &str) -> bool {
    mechanism == Mechanism::QueryV4 && !mechanism.is_parameter(name) && is_amazon(name)
}

/// Whether SDKs repeat the header `name` in a presigned query of version 2. It is the header that is signed and honoured.
fn is_repeated(name: &str) -> bool {
    is_amazon(name) || ["content-type", "content-md5"].iter().any(|repeated| name.eq_ignore_ascii_case(repeated))
}

fn is_amazon(name: &str) -> bool {
    name.get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case("x-amz-"))
}

/// They are signed, as all of the query is.
fn carried_headers(mechanism: Mechanism, query: &Query, headers: &HeaderMap) -> Result<HeaderMap, Refusal> {
    let mut carried = HeaderMap::new();
    for (name, value) in query.iter().filter(|(name, _)| is_carried(mechanism, name)) {
        let (Ok(header), Ok(header_value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) else {
            return Err(Refusal::parameter_not_implemented(name));
        };
        if headers.contains_key(&header) || carried.insert(header, header_value).is_some() {
            return Err(Refusal::new(S3ErrorCode::InvalidArgument, format!("{name} is given both as header and as parameter."))
                .detail("ArgumentName", name));
        }
    }
    Ok(carried)
}

fn check_parameters(
    row: &Row,
    query: &Query,
    mechanism: Mechanism,
    headers: &HeaderMap,
    is_apart: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    for (name, value) in query.iter() {
        if is_apart(name) || row.selectors.contains(&name) {
            continue;
        }
        // SDKs repeat the operation's name.
        if name == "x-id" && value == row.operation.name() {
            continue;
        }
        if mechanism == Mechanism::QueryV2 && is_repeated(name) {
            match headers.get(name) {
                Some(header) if header.as_bytes() == value.as_bytes() => continue,
                // Alone it would be a header that asks for something and is not honoured.
                None if is_amazon(name) => return Err(Refusal::parameter_not_implemented(name)),
                _ => {}
            }
            return Err(Refusal::new(
                S3ErrorCode::SignatureDoesNotMatch,
                format!("The link was signed for the header {name}: the request must carry it, with the value that the link names."),
            ));
        }
        match row.parameters.iter().find(|(permitted, _)| *permitted == name) {
            Some((_, rule)) if rule.permits(value) => {}
            Some(_) => {
                return Err(Refusal::new(S3ErrorCode::InvalidArgument, format!("The query parameter {name} has an invalid value."))
                    .detail("ArgumentName", name)
                    .detail("ArgumentValue", value));
            }
            None => return Err(Refusal::parameter_not_implemented(name)),
        }
    }
    Ok(())
}

fn check_headers(row: &Row, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut metadata_bytes = 0;
    for name in headers.keys() {
        let text = name.as_str();
        let is_amazon = text.starts_with("x-amz-");
        if !is_amazon {
            if CONDITIONAL.contains(&text) && !row.conditions.contains(&text) {
                return Err(Refusal::header_not_implemented(text));
            }
            continue;
        }
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Refusal::new(S3ErrorCode::InvalidArgument, format!("The header {text} occurs more than once.")));
        };
        // s3s leaves headers that are not UTF-8 out of what it verifies and parses.
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| Refusal::new(S3ErrorCode::InvalidArgument, format!("The header {text} is not UTF-8.")))?;
        if let Some(key) = text.strip_prefix("x-amz-meta-") {
            if !row.metadata || key.is_empty() {
                return Err(Refusal::header_not_implemented(text));
            }
            metadata_bytes += key.len() + value.len();
            continue;
        }
        match EVERYWHERE.iter().chain(row.headers).find(|(permitted, _)| *permitted == text) {
            Some((_, rule)) if rule.permits(value) => {}
            _ => return Err(Refusal::header_not_implemented(text)),
        }
    }
    if metadata_bytes > USER_METADATA_BYTES_MAX {
        return Err(Refusal::new(S3ErrorCode::MetadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size.")
            .detail("Size", metadata_bytes.to_string())
            .detail("MaxSizeAllowed", USER_METADATA_BYTES_MAX.to_string()));
    }
    Ok(())
}

/// S3 serves the whole object for several ranges and for garbage; s3s would answer 400.
fn has_useless_range(row: &Row, headers: &HeaderMap) -> bool {
    if !matches!(row.operation, Operation::GetObject | Operation::HeadObject) || !headers.contains_key(header::RANGE) {
        return false;
    }
    let mut values = headers.get_all(header::RANGE).iter();
    let range = values.next().and_then(|value| value.to_str().ok());
    // s3s takes a suffix without digits for one of no bytes.
    let range = range.filter(|value| !value.ends_with("=-")).and_then(|value| Range::parse(value).ok());
    range.is_none() || values.next().is_some()
}

#[cfg(test)]
mod tests;
