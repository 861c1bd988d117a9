//! Conditional requests: what their headers say, and what follows for a version at hand. Pure.

use http::{HeaderMap, HeaderName};
use metadata::{Etags, Preconditions};
use s3s::dto::{Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};

/// The conditions of a read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Conditions {
    if_match: Option<Etags>,
    if_none_match: Option<Etags>,
    /// Seconds since 1970, as HTTP dates have no finer ones.
    if_modified_since: Option<i64>,
    if_unmodified_since: Option<i64>,
}

/// What a read's conditions decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Proceed,
    /// 304, or 412 for the source of a copy.
    NotModified,
    /// 412.
    Failed,
}

impl Conditions {
    /// `If-Match` and its kin, each name behind `prefix` (empty, or `x-amz-copy-source-`).
    pub fn of_request(headers: &HeaderMap, prefix: &str) -> S3Result<Conditions> {
        let name = |plain: &str| format!("{prefix}{plain}");
        Ok(Conditions {
            if_match: etags(headers, &name("if-match"), Comparison::Strong)?,
            if_none_match: etags(headers, &name("if-none-match"), Comparison::Weak)?,
            if_modified_since: date(headers, &name("if-modified-since")),
            if_unmodified_since: date(headers, &name("if-unmodified-since")),
        })
    }

    /// S3's precedence: an `If-Match` that holds outweighs `If-Unmodified-Since`; an `If-None-Match` that is there outweighs
    /// `If-Modified-Since`.
    pub fn judge(&self, etag: &str, modified_ms: u64) -> Verdict {
        let modified = i64::try_from(modified_ms / 1000).unwrap_or(i64::MAX);
        match &self.if_match {
            Some(etags) if !names(etags, etag) => return Verdict::Failed,
            Some(_) => {}
            None if self.if_unmodified_since.is_some_and(|since| modified > since) => return Verdict::Failed,
            None => {}
        }
        match &self.if_none_match {
            Some(etags) if names(etags, etag) => Verdict::NotModified,
            Some(_) => Verdict::Proceed,
            None if self.if_modified_since.is_some_and(|since| modified <= since) => Verdict::NotModified,
            None => Verdict::Proceed,
        }
    }
}

/// Conditions of a write, judged by the partition.
pub fn of_write(headers: &HeaderMap) -> S3Result<Preconditions> {
    Ok(Preconditions {
        if_match: etags(headers, "if-match", Comparison::Strong)?,
        if_none_match: etags(headers, "if-none-match", Comparison::Weak)?,
    })
}

/// Whether a range holds under `If-Range`: with an ETag or date that no longer fits, the whole object is sent.
pub fn range_holds(headers: &HeaderMap, etag: &str, modified_ms: u64) -> bool {
    let Some(text) = headers.get("if-range") else { return true };
    // Exactly this date, says RFC 9110: an older object is another one just as a newer one is.
    if let Some(date) = date(headers, "if-range") {
        return i64::try_from(modified_ms / 1000).is_ok_and(|modified| modified == date);
    }
    text.to_str().is_ok_and(|text| matches!(parse_etags(text, Comparison::Strong), Some(etags) if names(&etags, etag)))
}

fn names(etags: &Etags, etag: &str) -> bool {
    match etags {
        Etags::Any => true,
        Etags::Of(etags) => etags.iter().any(|named| named == etag),
    }
}

/// `If-Match` compares strongly, and all our ETags are strong: a weak one never fits. `If-None-Match` compares weakly.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn etags(headers: &HeaderMap, name: &str, comparison: Comparison) -> S3Result<Option<Etags>> {
    let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else { return Ok(None) };
    let mut all: Option<Etags> = None;
    for text in headers.get_all(&header) {
        let parsed = text.to_str().ok().and_then(|text| parse_etags(text, comparison));
        let parsed = parsed.ok_or_else(|| s3_error!(InvalidArgument, "The {name} header is not a list of ETags"))?;
        all = Some(match (all, parsed) {
            (Some(Etags::Of(mut first)), Etags::Of(second)) => {
                first.extend(second);
                Etags::Of(first)
            }
            (None, parsed) => parsed,
            (Some(_), _) => Etags::Any,
        });
    }
    Ok(all)
}

/// `*`, or a list of ETags: quoted, weak, or bare as many clients send them.
fn parse_etags(text: &str, comparison: Comparison) -> Option<Etags> {
    let mut rest = text.trim();
    if rest == "*" {
        return Some(Etags::Any);
    }
    let mut etags = Vec::new();
    while !rest.is_empty() {
        let (weak, body) = match rest.strip_prefix("W/") {
            Some(body) if body.starts_with('"') => (true, body),
            _ => (false, rest),
        };
        let (etag, after) = match body.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => match body.split_once(',') {
                Some((bare, _)) => (bare.trim_end(), &body[bare.len()..]),
                None => (body, ""),
            },
        };
        if etag.is_empty() && !body.starts_with('"') || etag.contains('"') {
            return None;
        }
        if !weak || comparison == Comparison::Weak {
            etags.push(etag.to_string());
        }
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    if text.trim().is_empty() { None } else { Some(Etags::Of(etags)) }
}

/// A date that cannot be read is no condition, as HTTP has it.
fn date(headers: &HeaderMap, name: &str) -> Option<i64> {
    let text = headers.get(name)?.to_str().ok()?;
    let parsed = Timestamp::parse(TimestampFormat::HttpDate, text.trim()).ok()?;
    Some(time::OffsetDateTime::from(parsed).unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const MODIFIED: u64 = 1_445_412_480_999; // Wed, 21 Oct 2015 07:28:00 GMT and almost a second
    const BEFORE: &str = "Wed, 21 Oct 2015 07:27:59 GMT";
    const SAME: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
    const AFTER: &str = "Wed, 21 Oct 2015 07:28:01 GMT";

    fn judged(pairs: &[(&'static str, &str)]) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        Conditions::of_request(&headers, "").unwrap().judge("abc", MODIFIED)
    }

    #[test]
    fn each_condition_alone_decides() {
        use Verdict::*;
        for (name, value, verdict) in [
            ("if-match", "\"abc\"", Proceed),
            ("if-match", "abc", Proceed),
            ("if-match", "\"x\", \"abc\"", Proceed),
            ("if-match", "W/\"abc\"", Failed),
            ("if-match", "*", Proceed),
            ("if-match", "\"x\"", Failed),
            ("if-none-match", "\"abc\"", NotModified),
            ("if-none-match", "W/\"abc\"", NotModified),
            ("if-none-match", "x, abc", NotModified),
            ("if-none-match", "*", NotModified),
            ("if-none-match", "\"x\"", Proceed),
            ("if-modified-since", BEFORE, Proceed),
            ("if-modified-since", SAME, NotModified),
            ("if-modified-since", AFTER, NotModified),
            ("if-modified-since", "yesterday", Proceed),
            ("if-unmodified-since", BEFORE, Failed),
            ("if-unmodified-since", SAME, Proceed),
            ("if-unmodified-since", AFTER, Proceed),
        ] {
            assert_eq!(judged(&[(name, value)]), verdict, "{name}: {value}");
        }
    }

    #[test]
    fn a_true_if_match_outweighs_a_false_if_unmodified_since() {
        assert_eq!(judged(&[("if-match", "\"abc\""), ("if-unmodified-since", BEFORE)]), Verdict::Proceed);
        assert_eq!(judged(&[("if-match", "\"x\""), ("if-unmodified-since", AFTER)]), Verdict::Failed);
    }

    #[test]
    fn if_none_match_outweighs_if_modified_since() {
        assert_eq!(judged(&[("if-none-match", "\"abc\""), ("if-modified-since", BEFORE)]), Verdict::NotModified);
        assert_eq!(judged(&[("if-none-match", "\"x\""), ("if-modified-since", AFTER)]), Verdict::Proceed);
    }

    #[test]
    fn a_range_holds_only_under_its_own_version() {
        let holds = |value: &str| {
            let headers = [(http::header::IF_RANGE, value.parse().unwrap())].into_iter().collect();
            range_holds(&headers, "abc", MODIFIED)
        };
        assert!(holds("\"abc\"") && holds(SAME));
        assert!(!holds("\"x\"") && !holds("W/\"abc\"") && !holds(BEFORE) && !holds(AFTER));
    }

    #[test]
    fn what_is_no_list_of_etags_is_refused() {
        for text in ["\"abc", "\"a\" \"b\"", "", ",", "a\"b"] {
            assert!(parse_etags(text, Comparison::Strong).is_none(), "{text}");
        }
    }

    quickcheck! {
        fn any_text_is_parsed_without_panic(text: String) -> bool {
            let _ = parse_etags(&text, Comparison::Weak);
            true
        }

        fn quoted_etags_come_back(etags: Vec<u32>) -> bool {
            let etags: Vec<String> = etags.into_iter().map(|etag| format!("{etag:x}")).collect();
            let text = etags.iter().map(|etag| format!("\"{etag}\"")).collect::<Vec<_>>().join(" , ");
            etags.is_empty() || parse_etags(&text, Comparison::Strong) == Some(Etags::Of(etags))
        }
    }
}
