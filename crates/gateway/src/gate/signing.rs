//! How a request proves who sent it, and the rules of S3 that s3s does not check: one mechanism only; every `x-amz-*`
//! header signed; service and region ours; a 15-minute window, and at most seven days for a link, by our own clock.
//!
//! What s3s checks afterwards: the signature of version 4, of the chunks and trailers, and the payload's hash.
//! Invariant: a request that passes here still has to pass there; nothing is let in by this file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, Method, header};
use s3s::S3ErrorCode;
use sha1::Sha1;
use subtle::ConstantTimeEq;
use time::{Date, Month, Time};

use super::query::Query;
use super::refusal::Refusal;
use crate::identity::{Identity, UNKNOWN};

/// How far a request's date may lie from our clock.
const WINDOW_MS: u64 = 15 * 60 * 1000;
/// Longest life of a presigned query.
const PRESIGNED_S_MAX: u64 = 7 * 24 * 60 * 60;

/// Parameters of a presigned query of version 4.
const V4_PARAMETERS: [&str; 6] =
    ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"];
/// Parameters of a presigned query of version 2.
const V2_PARAMETERS: [&str; 3] = ["AWSAccessKeyId", "Signature", "Expires"];

/// Parameters that version 2 signs.
const V2_SIGNED: [&str; 14] = [
    "delete",
    "location",
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "uploadId",
    "uploads",
    "versionId",
    "versions",
];

/// The mechanism that a request uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    HeaderV4,
    QueryV4,
    QueryV2,
}

impl Mechanism {
    /// Whether `name` is a parameter of the signature itself.
    pub fn is_parameter(self, name: &str) -> bool {
        match self {
            Mechanism::HeaderV4 => false,
            Mechanism::QueryV4 => V4_PARAMETERS.contains(&name),
            Mechanism::QueryV2 => V2_PARAMETERS.contains(&name),
        }
    }
}

/// What the request offers as proof. Anonymous requests end here, whatever they ask for: whether a bucket exists is
/// nobody's business who has not proved who he is.
pub fn find_mechanism(headers: &HeaderMap, query: &Query, presigned_v2: bool) -> Result<Mechanism, Refusal> {
    let authorizations = headers.get_all(header::AUTHORIZATION).iter().count();
    let query_v4 = V4_PARAMETERS.iter().any(|name| query.has(name));
    let query_v2 = query.has("AWSAccessKeyId") || query.has("Signature");
    if authorizations + usize::from(query_v4) + usize::from(query_v2) > 1 {
        return Err(Refusal::new(
            S3ErrorCode::InvalidArgument,
            "Only one auth mechanism allowed: the Authorization header, or the X-Amz-Algorithm or the Signature query parameter.",
        ));
    }
    if query_v4 {
        return Ok(Mechanism::QueryV4);
    }
    if query_v2 {
        if !presigned_v2 {
            return Err(Refusal::new(
                S3ErrorCode::InvalidRequest,
                "Presigned queries of signature version 2 are turned off here. Please use AWS4-HMAC-SHA256.",
            ));
        }
        return Ok(Mechanism::QueryV2);
    }
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        return Err(Refusal::new(S3ErrorCode::AccessDenied, "Access Denied"));
    };
    let authorization = authorization.to_str().unwrap_or_default();
    if authorization.starts_with("AWS4-HMAC-SHA256 ") {
        return Ok(Mechanism::HeaderV4);
    }
    if authorization.starts_with("AWS ") {
        return Err(Refusal::new(
            S3ErrorCode::InvalidRequest,
            "The authorization mechanism you have provided is not supported: signature version 2 in the Authorization header. \
             Please use AWS4-HMAC-SHA256.",
        ));
    }
    Err(Refusal::new(S3ErrorCode::InvalidArgument, "Unsupported Authorization type. Please use AWS4-HMAC-SHA256."))
}

/// What of the request version 2 signs, and the gate needs to judge it.
pub struct Signed<'a> {
    pub method: &'a Method,
    pub raw_path: &'a str,
    pub host_bucket: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub query: &'a Query,
}

/// A signature of version 2, and what it has to be the signature of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresignedClaim {
    /// Whose it says that it is.
    pub access_key: String,
    signature: String,
    signed: String,
}

impl PresignedClaim {
    /// Whether `identity` made it, in constant time; s3s compares again, by then equal strings.
    pub fn verify(&self, identity: &Identity) -> Result<(), Refusal> {
        let mut mac = Hmac::<Sha1>::new_from_slice(identity.secret_key().as_bytes()).expect("HMAC takes keys of any length");
        mac.update(self.signed.as_bytes());
        let expected = BASE64.encode(mac.finalize().into_bytes());
        if bool::from(expected.as_bytes().ct_eq(self.signature.as_bytes())) {
            return Ok(());
        }
        Err(Refusal::new(
            S3ErrorCode::SignatureDoesNotMatch,
            "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
        ))
    }
}

/// Judge the rules of `mechanism` at `now_ms` by our clock. A signature of version 2 is still to be verified.
pub fn check(mechanism: Mechanism, request: &Signed<'_>, region: &str, now_ms: u64) -> Result<Option<PresignedClaim>, Refusal> {
    match mechanism {
        Mechanism::HeaderV4 => check_header_v4(request, region, now_ms).map(|()| None),
        Mechanism::QueryV4 => check_query_v4(request, region, now_ms).map(|()| None),
        Mechanism::QueryV2 => check_query_v2(request, now_ms).map(Some),
    }
}

fn check_header_v4(request: &Signed<'_>, region: &str, now_ms: u64) -> Result<(), Refusal> {
    let malformed = |why: &str| {
        Refusal::new(S3ErrorCode::AuthorizationHeaderMalformed, format!("The authorization header is malformed; {why}."))
            .detail("Region", region)
    };
    let authorization = text(request.headers, &header::AUTHORIZATION).ok_or_else(|| malformed("it is not text"))?;
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| malformed("the algorithm is unknown"))?;
    let field = |name: &str| {
        let mut found = fields.split(',').filter_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
        match (found.next(), found.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(malformed(&format!("it needs exactly one {name}"))),
        }
    };
    let scope = Scope::parse(field("Credential")?).ok_or_else(|| malformed("the Credential is mal-formed"))?;
    let signed_headers = field("SignedHeaders")?;
    field("Signature")?;
    scope.check(region).map_err(|why| {
        let mut refusal = malformed(&why);
        refusal.headers.push((HeaderName::from_static("x-amz-bucket-region"), region.to_owned()));
        refusal
    })?;

    let date = text(request.headers, &HeaderName::from_static("x-amz-date"))
        .ok_or_else(|| Refusal::new(S3ErrorCode::AccessDenied, "AWS authentication requires a valid x-amz-date header"))?;
    let date_ms = parse_amz_date(date)
        .ok_or_else(|| Refusal::new(S3ErrorCode::AccessDenied, "AWS authentication requires a valid x-amz-date header"))?;
    if !date.starts_with(scope.date) {
        return Err(malformed("the date of the Credential is not that of x-amz-date"));
    }
    check_window(date, date_ms, now_ms)?;
    check_signed_headers(request.headers, signed_headers)
}

fn check_query_v4(request: &Signed<'_>, region: &str, now_ms: u64) -> Result<(), Refusal> {
    let malformed = |why: &str| Refusal::new(S3ErrorCode::AuthorizationQueryParametersError, why.to_owned()).detail("Region", region);
    let parameter = |name: &str| {
        request.query.get(name).ok_or_else(|| {
            malformed(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, \
                 X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            )
        })
    };
    if parameter("X-Amz-Algorithm")? != "AWS4-HMAC-SHA256" {
        return Err(malformed("X-Amz-Algorithm only supports AWS4-HMAC-SHA256."));
    }
    let scope = Scope::parse(parameter("X-Amz-Credential")?).ok_or_else(|| malformed("The X-Amz-Credential is mal-formed."))?;
    scope.check(region).map_err(|why| malformed(&format!("Error parsing the X-Amz-Credential parameter; {why}.")))?;
    let date = parameter("X-Amz-Date")?;
    let date_ms = parse_amz_date(date).ok_or_else(|| malformed("X-Amz-Date must be in the ISO8601 Long Format yyyyMMdd'T'HHmmss'Z'."))?;
    if !date.starts_with(scope.date) {
        return Err(malformed("The date of the X-Amz-Credential is not that of X-Amz-Date."));
    }
    let expires_s = parse_digits(parameter("X-Amz-Expires")?).ok_or_else(|| malformed("X-Amz-Expires should be a number."))?;
    if !(1..=PRESIGNED_S_MAX).contains(&expires_s) {
        return Err(malformed("X-Amz-Expires must be from 1 to 604800 seconds, a week."));
    }
    let signed_headers = parameter("X-Amz-SignedHeaders")?;
    parameter("X-Amz-Signature")?;

    if date_ms > now_ms.saturating_add(WINDOW_MS) {
        check_window(date, date_ms, now_ms)?;
    }
    if now_ms > date_ms + expires_s * 1000 {
        return Err(Refusal::new(S3ErrorCode::AccessDenied, "Request has expired").detail("X-Amz-Expires", expires_s.to_string()));
    }
    check_signed_headers(request.headers, signed_headers)
}

fn check_query_v2(request: &Signed<'_>, now_ms: u64) -> Result<PresignedClaim, Refusal> {
    let parameter = |name: &str| {
        request.query.get(name).ok_or_else(|| {
            Refusal::new(
                S3ErrorCode::AccessDenied,
                "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
            )
        })
    };
    let access_key = parameter("AWSAccessKeyId")?;
    let signature = parameter("Signature")?;
    let expires = parameter("Expires")?;
    let expires_s = parse_digits(expires)
        .ok_or_else(|| Refusal::new(S3ErrorCode::AccessDenied, format!("Invalid date (should be seconds since epoch): {expires}")))?;
    let now_s = now_ms / 1000;
    if now_s > expires_s {
        return Err(Refusal::new(S3ErrorCode::AccessDenied, "Request has expired").detail("Expires", expires));
    }
    if expires_s > now_s + PRESIGNED_S_MAX {
        return Err(Refusal::new(
            S3ErrorCode::AuthorizationQueryParametersError,
            "Expires lies more than a week ahead; a presigned query lives for a week at most.",
        ));
    }
    let signed = string_to_sign_v2(request, expires);
    Ok(PresignedClaim { access_key: access_key.to_owned(), signature: signature.to_owned(), signed })
}

fn string_to_sign_v2(request: &Signed<'_>, expires: &str) -> String {
    let plain = |name: HeaderName| text(request.headers, &name).unwrap_or_default();
    let mut lines =
        format!("{}\n{}\n{}\n{expires}\n", request.method, plain(HeaderName::from_static("content-md5")), plain(header::CONTENT_TYPE));
    let mut names: Vec<&HeaderName> = request.headers.keys().filter(|name| name.as_str().starts_with("x-amz-")).collect();
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    for name in names {
        lines.push_str(&format!("{name}:{}\n", text(request.headers, name).unwrap_or_default().trim()));
    }
    if let Some(bucket) = request.host_bucket {
        lines.push('/');
        lines.push_str(bucket);
    }
    lines.push_str(request.raw_path);
    let mut separator = '?';
    for name in V2_SIGNED {
        if let Some(value) = request.query.get(name) {
            lines.push(separator);
            separator = '&';
            lines.push_str(name);
            if !value.is_empty() {
                lines.push('=');
                lines.push_str(value);
            }
        }
    }
    lines
}

/// 403 for an access key that nobody has.
pub fn unknown_access_key(access_key: &str) -> Refusal {
    Refusal::new(S3ErrorCode::InvalidAccessKeyId, UNKNOWN).detail("AWSAccessKeyId", access_key)
}

/// Host and every `x-amz-*` header must be signed, or what is not could have been added on the way.
fn check_signed_headers(headers: &HeaderMap, signed: &str) -> Result<(), Refusal> {
    let is_signed = |name: &str| signed.split(';').any(|other| other == name);
    let must_be_signed = |name: &str| name == "host" || name.starts_with("x-amz-");
    match headers.keys().map(HeaderName::as_str).find(|name| must_be_signed(name) && !is_signed(name)) {
        None => Ok(()),
        Some(name) => Err(Refusal::new(S3ErrorCode::AccessDenied, "There were headers present in the request which were not signed")
            .detail("HeadersNotSigned", name)),
    }
}

fn check_window(date: &str, date_ms: u64, now_ms: u64) -> Result<(), Refusal> {
    if date_ms.abs_diff(now_ms) <= WINDOW_MS {
        return Ok(());
    }
    Err(Refusal::new(S3ErrorCode::RequestTimeTooSkewed, "The difference between the request time and the server's time is too large.")
        .detail("RequestTime", date)
        .detail("ServerTime", format_iso(now_ms))
        .detail("MaxAllowedSkewMilliseconds", WINDOW_MS.to_string()))
}

/// `<access key>/<date>/<region>/<service>/aws4_request`
struct Scope<'a> {
    date: &'a str,
    region: &'a str,
    service: &'a str,
}

impl<'a> Scope<'a> {
    fn parse(credential: &'a str) -> Option<Scope<'a>> {
        let mut parts = credential.split('/');
        let (_access_key, date, region, service, end) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let whole = parts.next().is_none() && end == "aws4_request" && date.len() == 8;
        whole.then_some(Scope { date, region, service })
    }

    fn check(&self, region: &str) -> Result<(), String> {
        if self.service != "s3" {
            return Err(format!("incorrect service '{}', this endpoint belongs to 's3'", self.service));
        }
        if self.region != region {
            return Err(format!("the region '{}' is wrong; expecting '{region}'", self.region));
        }
        Ok(())
    }
}

/// The one value of a header, if it is text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
}

fn parse_digits(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 15 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `20130524T000000Z` as milliseconds since 1970.
fn parse_amz_date(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |range: std::ops::Range<usize>| parse_digits(text.get(range)?);
    let month = Month::try_from(u8::try_from(number(4..6)?).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(number(0..4)?).ok()?, month, u8::try_from(number(6..8)?).ok()?).ok()?;
    let part = |range| u8::try_from(number(range)?).ok();
    let time = Time::from_hms(part(9..11)?, part(11..13)?, part(13..15)?).ok()?;
    u64::try_from(date.with_time(time).assume_utc().unix_timestamp()).ok()?.checked_mul(1000)
}

/// `2013-05-24T00:00:00Z`; empty beyond the year 9999.
pub fn format_iso(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    match time::OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) => {
            let (year, month, day) = at.to_calendar_date();
            format!("{year:04}-{:02}-{day:02}T{:02}:{:02}:{:02}Z", u8::from(month), at.hour(), at.minute(), at.second())
        }
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const NOW_MS: u64 = 1_369_353_600_000; // 20130524T000000Z
    const DAY_MS: u64 = 86_400_000;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn judge(headers: &HeaderMap, query: &str, now_ms: u64) -> Result<Mechanism, S3ErrorCode> {
        let query = Query::parse(Some(query)).unwrap();
        let request = Signed { method: &Method::GET, raw_path: "/photos/puppy.jpg", host_bucket: None, headers, query: &query };
        let judged =
            find_mechanism(headers, &query, true).and_then(|mechanism| check(mechanism, &request, "us-east-1", now_ms).map(|_| mechanism));
        judged.map_err(|refusal| refusal.code)
    }

    fn v4(scope: &str, signed: &str) -> String {
        format!("AWS4-HMAC-SHA256 Credential=key/{scope}/aws4_request, SignedHeaders={signed}, Signature=00")
    }

    #[test]
    fn header_v4_rules() {
        use S3ErrorCode::*;
        let good = "20130524/us-east-1/s3";
        for (scope, signed, date, now_ms, expected) in [
            (good, "host;x-amz-date", "20130524T000000Z", NOW_MS, Ok(Mechanism::HeaderV4)),
            (good, "host;x-amz-date", "20130524T000000Z", NOW_MS + WINDOW_MS, Ok(Mechanism::HeaderV4)),
            (good, "host;x-amz-date", "20130524T000000Z", NOW_MS + WINDOW_MS + 1, Err(RequestTimeTooSkewed)),
            (good, "host;x-amz-date", "20130524T000000Z", NOW_MS - WINDOW_MS - 1, Err(RequestTimeTooSkewed)),
            (good, "host;x-amz-date", "20130524T0000", NOW_MS, Err(AccessDenied)),
            (good, "host;x-amz-date", "20130230T000000Z", NOW_MS, Err(AccessDenied)),
            (good, "host;x-amz-date", "20130525T000000Z", NOW_MS, Err(AuthorizationHeaderMalformed)),
            (good, "host", "20130524T000000Z", NOW_MS, Err(AccessDenied)),
            (good, "x-amz-date", "20130524T000000Z", NOW_MS, Err(AccessDenied)),
            ("20130524/eu-west-1/s3", "host;x-amz-date", "20130524T000000Z", NOW_MS, Err(AuthorizationHeaderMalformed)),
            ("20130524/us-east-1/sts", "host;x-amz-date", "20130524T000000Z", NOW_MS, Err(AuthorizationHeaderMalformed)),
            ("20130524/us-east-1/s3/extra", "host;x-amz-date", "20130524T000000Z", NOW_MS, Err(AuthorizationHeaderMalformed)),
        ] {
            let headers = headers(&[("host", "h"), ("x-amz-date", date), ("authorization", &v4(scope, signed))]);
            assert_eq!(judge(&headers, "", now_ms), expected, "{scope} {signed} {date} {now_ms}");
        }
    }

    #[test]
    fn the_right_region_is_named() {
        let headers = headers(&[("host", "h"), ("authorization", &v4("20130524/eu-west-1/s3", "host"))]);
        let query = Query::default();
        let request = Signed { method: &Method::GET, raw_path: "/", host_bucket: None, headers: &headers, query: &query };
        let refusal = check(Mechanism::HeaderV4, &request, "us-east-1", NOW_MS).unwrap_err();
        assert!(refusal.message.ends_with("the region 'eu-west-1' is wrong; expecting 'us-east-1'."), "{}", refusal.message);
        assert_eq!(refusal.details, [("Region", "us-east-1".to_owned())]);
    }

    #[test]
    fn other_mechanisms() {
        use S3ErrorCode::*;
        let host = ("host", "h");
        let signed = v4("20130524/us-east-1/s3", "host");
        for (headers, query, expected) in [
            (headers(&[host]), "", AccessDenied),
            (headers(&[host, ("authorization", "AWS AKIA:c2ln")]), "", InvalidRequest),
            (headers(&[host, ("authorization", "Bearer x")]), "", InvalidArgument),
            (headers(&[host, ("authorization", "AWS4-ECDSA-P256-SHA256 Credential=a")]), "", InvalidArgument),
            (headers(&[host, ("authorization", &signed), ("authorization", &signed)]), "", InvalidArgument),
            (headers(&[host, ("authorization", &signed)]), "Signature=x", InvalidArgument),
            (headers(&[host, ("authorization", &signed)]), "X-Amz-Signature=x", InvalidArgument),
            (headers(&[host]), "Signature=x&X-Amz-Signature=x", InvalidArgument),
            (headers(&[host]), "X-Amz-Signature=x", AuthorizationQueryParametersError),
            (headers(&[host]), "Signature=x", AccessDenied),
        ] {
            assert_eq!(judge(&headers, query, NOW_MS), Err(expected), "{headers:?} {query}");
        }
    }

    #[test]
    fn presigned_v4_rules() {
        use S3ErrorCode::*;
        let query = |date: &str, expires: &str, signed: &str| {
            format!(
                "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=key%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date={date}\
                 &X-Amz-Expires={expires}&X-Amz-SignedHeaders={signed}&X-Amz-Signature=00"
            )
        };
        let date = "20130524T000000Z";
        for (extra, query, now_ms, expected) in [
            (None, query(date, "60", "host"), NOW_MS, Ok(Mechanism::QueryV4)),
            (None, query(date, "60", "host"), NOW_MS + 60_000, Ok(Mechanism::QueryV4)),
            (None, query(date, "60", "host"), NOW_MS + 60_001, Err(AccessDenied)),
            (None, query(date, "604800", "host"), NOW_MS + 7 * DAY_MS, Ok(Mechanism::QueryV4)),
            (None, query(date, "604801", "host"), NOW_MS, Err(AuthorizationQueryParametersError)),
            (None, query(date, "691200", "host"), NOW_MS, Err(AuthorizationQueryParametersError)),
            (None, query(date, "0", "host"), NOW_MS, Err(AuthorizationQueryParametersError)),
            (None, query(date, "-1", "host"), NOW_MS, Err(AuthorizationQueryParametersError)),
            (None, query(date, "60", "host"), NOW_MS - WINDOW_MS - 1, Err(RequestTimeTooSkewed)),
            (None, query(date, "60", "range"), NOW_MS, Err(AccessDenied)),
            (Some("x-amz-acl"), query(date, "60", "host"), NOW_MS, Err(AccessDenied)),
            (Some("x-amz-acl"), query(date, "60", "host%3Bx-amz-acl"), NOW_MS, Ok(Mechanism::QueryV4)),
        ] {
            let mut headers = headers(&[("host", "h")]);
            if let Some(name) = extra {
                headers.insert(name, HeaderValue::from_static("private"));
            }
            assert_eq!(judge(&headers, &query, now_ms), expected, "{query} {now_ms}");
        }
    }

    #[test]
    fn presigned_v2_rules() {
        use S3ErrorCode::*;
        // The example of the S3 manual: GET /photos/puppy.jpg of johnsmith by virtual host, Expires=1175139620.
        let identity = Identity::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let headers = headers(&[("host", "h")]);
        let judge = |signature: &str, key: &str, now_ms: u64| {
            let query = Query::parse(Some(&format!("AWSAccessKeyId={key}&Signature={signature}&Expires=1175139620"))).unwrap();
            let request = Signed {
                method: &Method::GET,
                raw_path: "/photos/puppy.jpg",
                host_bucket: Some("johnsmith"),
                headers: &headers,
                query: &query,
            };
            let claim = check(Mechanism::QueryV2, &request, "us-east-1", now_ms).map_err(|refusal| refusal.code)?;
            let claim = claim.expect("a signature of version 2");
            assert_eq!(claim.access_key, key);
            claim.verify(&identity).map_err(|refusal| refusal.code)
        };
        let (good, key, at) = ("NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D", "AKIAIOSFODNN7EXAMPLE", 1_175_139_620_000);
        let good_here = {
            let query = Query::parse(None).unwrap();
            let request = Signed {
                method: &Method::GET,
                raw_path: "/photos/puppy.jpg",
                host_bucket: Some("johnsmith"),
                headers: &headers,
                query: &query,
            };
            string_to_sign_v2(&request, "1175139620")
        };
        assert_eq!(good_here, "GET\n\n\n1175139620\n/johnsmith/photos/puppy.jpg");
        assert_eq!(judge(good, key, at), Ok(()));
        assert_eq!(judge(good, key, at - 7 * DAY_MS), Ok(()));
        assert_eq!(judge(good, key, at - 8 * DAY_MS), Err(AuthorizationQueryParametersError));
        assert_eq!(judge(good, key, at + 1_000), Err(AccessDenied));
        assert_eq!(judge("NpgCjnDzrM", key, at), Err(SignatureDoesNotMatch));
        assert_eq!(judge("NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3E", key, at), Err(SignatureDoesNotMatch));
    }
}
