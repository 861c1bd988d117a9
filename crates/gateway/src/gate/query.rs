//! The query string as the gate sees it. Invariant: it is decoded exactly as s3s decodes it, and no name occurs twice,
//! so that gate and s3s can never disagree about a value.

use percent_encoding::percent_decode_str;
use s3s::S3ErrorCode;

use super::refusal::Refusal;

/// Most parameters in one query.
const PARAMETERS_MAX: usize = 64;

/// Decoded names and values, in the order of the request.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decode; refuses repeated names.
    pub fn parse(query: Option<&str>) -> Result<Query, Refusal> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for segment in segments(query.unwrap_or_default()) {
            let (name, value) = decode_segment(segment);
            if parameters.len() == PARAMETERS_MAX {
                return Err(Refusal::new(S3ErrorCode::InvalidArgument, "The request has too many query parameters."));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Refusal::new(S3ErrorCode::InvalidArgument, format!("The query parameter {name} occurs more than once."))
                    .detail("ArgumentName", name));
            }
            parameters.push((name, value));
        }
        Ok(Query(parameters))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The raw query without the parameters for which `drop` says yes.
    pub fn without(raw: &str, drop: impl Fn(&str) -> bool) -> String {
        segments(raw).filter(|segment| !drop(&decode_segment(segment).0)).collect::<Vec<_>>().join("&")
    }
}

fn segments(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|segment| !segment.is_empty())
}

fn decode_segment(segment: &str) -> (String, String) {
    let (name, value) = segment.split_once('=').unwrap_or((segment, ""));
    (decode(name), decode(value))
}

/// As forms are decoded: `+` is a space, bad escapes stay as they are, bad UTF-8 is replaced.
fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_like_a_form() {
        let query = Query::parse(Some("prefix=a%2Fb+c&delete&&x=%zz&y=%ff")).unwrap();
        let pairs: Vec<_> = query.iter().collect();
        assert_eq!(pairs, [("prefix", "a/b c"), ("delete", ""), ("x", "%zz"), ("y", "\u{fffd}")]);
        assert!(query.has("delete") && !query.has("deletes"));
    }

    #[test]
    fn a_repeated_name_is_refused_however_it_is_spelt() {
        let refusal = Query::parse(Some("uploadId=1&upload%49d=2")).unwrap_err();
        assert_eq!(refusal.code, S3ErrorCode::InvalidArgument);
    }

    #[test]
    fn parameters_are_dropped_without_touching_the_others() {
        let rest = Query::without("a=%2f&X-Amz-Signature=1&b+c=d", |name| name.starts_with("X-Amz-"));
        assert_eq!(rest, "a=%2f&b+c=d");
    }
}
