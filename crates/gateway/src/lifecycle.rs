//! Lifecycles as clients give them, in documents: parsed, judged by the rules of S3, and shown again as they came.

use crate::tags;
use protocol::Lifecycle;
use protocol::lifecycle::{Expiration, Filter, Noncurrent, Rule};
use protocol::limits::{KEY_BYTES_MAX, LIFECYCLE_RULES_MAX};
use s3s::dto::{
    AbortIncompleteMultipartUpload, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleAndOperator, LifecycleRuleFilter,
    NoncurrentVersionExpiration, Tag,
};
use s3s::{S3Error, S3Result, s3_error};
use std::collections::BTreeSet;

/// Longest id of a rule in units of UTF-16 (S3's limit).
const ID_UNITS_MAX: usize = 255;
/// Most noncurrent versions that a rule keeps (S3's limit).
const NEWER_MAX: i32 = 100;
const MIDNIGHT_MS: u64 = 24 * 3600 * 1000;

/// A document's rules. `make_id` names those that come without an id.
pub fn of_document(rules: Vec<LifecycleRule>, day_ms: u64, make_id: impl Fn() -> String) -> S3Result<Lifecycle> {
    if rules.is_empty() {
        return Err(malformed());
    }
    if rules.len() > LIFECYCLE_RULES_MAX {
        return Err(s3_error!(InvalidRequest, "A lifecycle configuration has at most {LIFECYCLE_RULES_MAX} rules"));
    }
    let rules: Vec<Rule> = rules.into_iter().map(|rule| of_rule(rule, &make_id)).collect::<S3Result<_>>()?;
    let ids: BTreeSet<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
    if ids.len() != rules.len() {
        return Err(s3_error!(InvalidArgument, "Rule ID must be unique. Found same ID for more than one rule"));
    }
    let lifecycle = Lifecycle { day_ms, rules };
    match lifecycle.unsound() {
        Some(why) => Err(s3_error!(InvalidRequest, "The lifecycle configuration cannot be kept: {why}")),
        None => Ok(lifecycle),
    }
}

fn of_rule(rule: LifecycleRule, make_id: &impl Fn() -> String) -> S3Result<Rule> {
    if rule.transitions.is_some() || rule.noncurrent_version_transitions.is_some() {
        return Err(s3_error!(NotImplemented, "Transitions are not implemented: there is no storage class but STANDARD."));
    }
    let id = rule.id.filter(|id| !id.is_empty()).unwrap_or_else(make_id);
    if id.encode_utf16().count() > ID_UNITS_MAX {
        return Err(s3_error!(InvalidArgument, "ID length should not exceed allowed limit of {ID_UNITS_MAX}"));
    }
    let enabled = match rule.status.as_str() {
        ExpirationStatus::ENABLED => true,
        ExpirationStatus::DISABLED => false,
        _ => return Err(malformed()),
    };
    let (filter, bare_prefix) = match (rule.filter, rule.prefix) {
        (Some(filter), None) => (of_filter(filter)?, false),
        (None, Some(prefix)) => (Filter { prefix: Some(prefix), ..Filter::default() }, true),
        (Some(_), Some(_)) | (None, None) => return Err(malformed()),
    };
    if filter.prefix.as_ref().is_some_and(|prefix| prefix.len() > KEY_BYTES_MAX) {
        return Err(s3_error!(InvalidRequest, "The maximum size of a prefix is {KEY_BYTES_MAX}."));
    }
    let expiration = rule.expiration.map(of_expiration).transpose()?;
    let noncurrent = rule.noncurrent_version_expiration.map(of_noncurrent).transpose()?;
    let abort = rule.abort_incomplete_multipart_upload;
    let abort_days =
        abort.map(|abort| days(abort.days_after_initiation, "'DaysAfterInitiation' for AbortIncompleteMultipartUpload")).transpose()?;
    if expiration.is_none() && noncurrent.is_none() && abort_days.is_none() {
        return Err(s3_error!(InvalidRequest, "At least one action needs to be specified in a rule."));
    }
    if filter.is_of_objects() && abort_days.is_some() {
        return Err(s3_error!(InvalidRequest, "AbortIncompleteMultipartUpload cannot be specified with tags or sizes of objects."));
    }
    if filter.is_of_objects() && matches!(expiration, Some(Expiration::Markers(_))) {
        return Err(s3_error!(InvalidRequest, "ExpiredObjectDeleteMarker cannot be specified with tags or sizes of objects."));
    }
    Ok(Rule { id, enabled, filter, bare_prefix, expiration, noncurrent, abort_days })
}

/// One condition, none, or all of those under `And`.
fn of_filter(filter: LifecycleRuleFilter) -> S3Result<Filter> {
    let LifecycleRuleFilter { and, object_size_greater_than, object_size_less_than, prefix, tag } = filter;
    let alone = of_conditions(prefix, tag.into_iter().collect(), object_size_greater_than, object_size_less_than)?;
    match and {
        None if alone.conditions() <= 1 => Ok(alone),
        Some(and) if alone.conditions() == 0 => {
            let tags = and.tags.unwrap_or_default();
            let all = of_conditions(and.prefix, tags, and.object_size_greater_than, and.object_size_less_than)?;
            if all.conditions() < 2 { Err(malformed()) } else { Ok(all) }
        }
        None | Some(_) => Err(malformed()),
    }
}

fn of_conditions(prefix: Option<String>, tags: Vec<Tag>, larger_than: Option<i64>, smaller_than: Option<i64>) -> S3Result<Filter> {
    let bytes = |size: Option<i64>| {
        let bytes = size.map(u64::try_from).transpose();
        bytes.map_err(|_| s3_error!(InvalidRequest, "ObjectSizeGreaterThan and ObjectSizeLessThan must not be negative."))
    };
    let (larger_than, smaller_than) = (bytes(larger_than)?, bytes(smaller_than)?);
    if let (Some(least), Some(most)) = (larger_than, smaller_than)
        && least >= most
    {
        return Err(s3_error!(InvalidRequest, "'ObjectSizeGreaterThan' has to be a value less than 'ObjectSizeLessThan'."));
    }
    Ok(Filter { prefix, tags: tags::of_document(tags)?, larger_than, smaller_than })
}

fn of_expiration(expiration: LifecycleExpiration) -> S3Result<Expiration> {
    match (expiration.days, expiration.date, expiration.expired_object_delete_marker) {
        (Some(count), None, None | Some(false)) => Ok(Expiration::Days(days(Some(count), "'Days' for Expiration")?)),
        (None, Some(date), None | Some(false)) => {
            let nanoseconds = time::OffsetDateTime::from(date).unix_timestamp_nanos();
            let at = u64::try_from(nanoseconds / 1_000_000).ok().filter(|ms| ms % MIDNIGHT_MS == 0 && nanoseconds % 1_000_000 == 0);
            at.map(Expiration::At).ok_or_else(|| s3_error!(InvalidArgument, "'Date' must be at midnight GMT"))
        }
        (None, None, Some(markers)) => Ok(Expiration::Markers(markers)),
        _ => Err(malformed()),
    }
}

fn of_noncurrent(noncurrent: NoncurrentVersionExpiration) -> S3Result<Noncurrent> {
    let Some(count) = noncurrent.noncurrent_days else { return Err(malformed()) };
    let newer = match noncurrent.newer_noncurrent_versions {
        None => 0,
        Some(newer @ 1..=NEWER_MAX) => u32::try_from(newer).expect("positive"),
        Some(_) => return Err(s3_error!(InvalidArgument, "'NewerNoncurrentVersions' must be between 1 and {NEWER_MAX}")),
    };
    Ok(Noncurrent { days: days(Some(count), "'NoncurrentDays' for NoncurrentVersionExpiration")?, newer })
}

fn days(days: Option<i32>, what: &str) -> S3Result<u32> {
    match days {
        None => Err(malformed()),
        Some(days @ 1..) => Ok(u32::try_from(days).expect("positive")),
        Some(_) => Err(s3_error!(InvalidArgument, "{what} action must be a positive integer")),
    }
}

fn malformed() -> S3Error {
    s3_error!(MalformedXML, "The XML you provided was not well-formed or did not validate against our published schema")
}

/// The rules as a document has them.
pub fn to_document(lifecycle: Lifecycle) -> Vec<LifecycleRule> {
    lifecycle.rules.into_iter().map(to_rule).collect()
}

fn to_rule(rule: Rule) -> LifecycleRule {
    let (filter, prefix) = if rule.bare_prefix { (None, rule.filter.prefix) } else { (Some(to_filter(rule.filter)), None) };
    let signed = |days: u32| i32::try_from(days).unwrap_or(i32::MAX);
    LifecycleRule {
        abort_incomplete_multipart_upload: rule
            .abort_days
            .map(|days| AbortIncompleteMultipartUpload { days_after_initiation: Some(signed(days)) }),
        expiration: rule.expiration.map(|expiration| match expiration {
            Expiration::Days(days) => LifecycleExpiration { days: Some(signed(days)), ..LifecycleExpiration::default() },
            Expiration::At(ms) => LifecycleExpiration { date: Some(crate::operations::timestamp(ms)), ..LifecycleExpiration::default() },
            Expiration::Markers(yes) => LifecycleExpiration { expired_object_delete_marker: Some(yes), ..LifecycleExpiration::default() },
        }),
        filter,
        id: Some(rule.id),
        noncurrent_version_expiration: rule.noncurrent.map(|noncurrent| NoncurrentVersionExpiration {
            newer_noncurrent_versions: (noncurrent.newer > 0).then(|| signed(noncurrent.newer)),
            noncurrent_days: Some(signed(noncurrent.days)),
        }),
        noncurrent_version_transitions: None,
        prefix,
        status: ExpirationStatus::from_static(if rule.enabled { ExpirationStatus::ENABLED } else { ExpirationStatus::DISABLED }),
        transitions: None,
    }
}

fn to_filter(filter: Filter) -> LifecycleRuleFilter {
    let is_alone = filter.conditions() <= 1;
    let bytes = |size: Option<u64>| size.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let (object_size_greater_than, object_size_less_than) = (bytes(filter.larger_than), bytes(filter.smaller_than));
    let mut tags = filter.tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) });
    let prefix = filter.prefix;
    if is_alone {
        return LifecycleRuleFilter { and: None, object_size_greater_than, object_size_less_than, prefix, tag: tags.next() };
    }
    let tags: Vec<Tag> = tags.collect();
    let tags = (!tags.is_empty()).then_some(tags);
    let and = LifecycleRuleAndOperator { object_size_greater_than, object_size_less_than, prefix, tags };
    LifecycleRuleFilter { and: Some(and), ..LifecycleRuleFilter::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::lifecycle::DAY_MS;
    use quickcheck::{Arbitrary, Gen, quickcheck};

    fn rule() -> LifecycleRule {
        to_rule(Rule {
            id: "r".into(),
            enabled: true,
            filter: Filter { prefix: Some("p".into()), ..Filter::default() },
            expiration: Some(Expiration::Days(1)),
            ..Rule::default()
        })
    }

    fn code(rules: Vec<LifecycleRule>) -> String {
        of_document(rules, DAY_MS, || "made".into()).map_or_else(|error| error.code().as_str().to_string(), |_| "no error".into())
    }

    fn changed(change: impl FnOnce(&mut LifecycleRule)) -> String {
        let mut rule = rule();
        change(&mut rule);
        code(vec![rule])
    }

    #[test]
    fn what_s3_refuses_is_refused_with_its_codes() {
        assert_eq!(changed(|_| {}), "no error");
        assert_eq!((code(vec![]), code(vec![rule(), rule()])), ("MalformedXML".into(), "InvalidArgument".into()));
        assert_eq!(changed(|rule| rule.id = Some("i".repeat(256))), "InvalidArgument");
        assert_eq!(changed(|rule| rule.id = Some("i".repeat(255))), "no error");
        assert_eq!(changed(|rule| rule.status = ExpirationStatus::from("enabled".to_string())), "MalformedXML");
        assert_eq!(changed(|rule| rule.filter = None), "MalformedXML");
        assert_eq!(changed(|rule| rule.prefix = Some("p".into())), "MalformedXML");
        assert_eq!(changed(|rule| rule.expiration = None), "InvalidRequest");
        assert_eq!(changed(|rule| rule.filter.as_mut().unwrap().prefix = Some("p".repeat(1025))), "InvalidRequest");
        assert_eq!(changed(|rule| rule.transitions = Some(vec![])), "NotImplemented");
        for (days, expected) in [(0, "InvalidArgument"), (-1, "InvalidArgument"), (i32::MAX, "no error")] {
            assert_eq!(changed(|rule| rule.expiration.as_mut().unwrap().days = Some(days)), expected, "{days}");
            let noncurrent = NoncurrentVersionExpiration { noncurrent_days: Some(days), newer_noncurrent_versions: None };
            assert_eq!(changed(|rule| rule.noncurrent_version_expiration = Some(noncurrent)), expected, "{days}");
            let abort = AbortIncompleteMultipartUpload { days_after_initiation: Some(days) };
            assert_eq!(changed(|rule| rule.abort_incomplete_multipart_upload = Some(abort)), expected, "{days}");
        }
        for (newer, expected) in [(0, "InvalidArgument"), (1, "no error"), (100, "no error"), (101, "InvalidArgument")] {
            let noncurrent = NoncurrentVersionExpiration { noncurrent_days: Some(1), newer_noncurrent_versions: Some(newer) };
            assert_eq!(changed(|rule| rule.noncurrent_version_expiration = Some(noncurrent)), expected, "{newer}");
        }
        let date = |ms: u64| LifecycleExpiration { date: Some(crate::operations::timestamp(ms)), ..LifecycleExpiration::default() };
        assert_eq!(changed(|rule| rule.expiration = Some(date(20_000 * DAY_MS))), "no error");
        assert_eq!(changed(|rule| rule.expiration = Some(date(20_000 * DAY_MS + 1))), "InvalidArgument");
        assert_eq!(changed(|rule| rule.expiration.as_mut().unwrap().expired_object_delete_marker = Some(true)), "MalformedXML");
        assert_eq!(changed(|rule| rule.expiration.as_mut().unwrap().date = Some(crate::operations::timestamp(0))), "MalformedXML");
    }

    #[test]
    fn filters_are_one_condition_or_several_under_and() {
        let filtered = |change: &dyn Fn(&mut LifecycleRuleFilter)| changed(|rule| change(rule.filter.as_mut().unwrap()));
        let tag = || Tag { key: Some("k".into()), value: Some("v".into()) };
        assert_eq!(filtered(&|filter| filter.prefix = None), "no error");
        assert_eq!(filtered(&|filter| filter.tag = Some(tag())), "MalformedXML");
        assert_eq!(filtered(&|filter| (filter.prefix, filter.tag) = (None, Some(tag()))), "no error");
        let and = |tags: Vec<Tag>| LifecycleRuleAndOperator { tags: Some(tags), ..LifecycleRuleAndOperator::default() };
        assert_eq!(filtered(&|filter| filter.and = Some(and(vec![tag(), tag()]))), "MalformedXML", "beside a prefix");
        assert_eq!(filtered(&|filter| (filter.prefix, filter.and) = (None, Some(and(vec![tag()])))), "MalformedXML", "one alone");
        assert_eq!(filtered(&|filter| (filter.prefix, filter.and) = (None, Some(and(vec![tag(), tag()])))), "InvalidTag", "twins");
        let sizes = |least, most| LifecycleRuleAndOperator {
            object_size_greater_than: Some(least),
            object_size_less_than: Some(most),
            ..LifecycleRuleAndOperator::default()
        };
        for (least, most, expected) in [(1, 2, "no error"), (2, 2, "InvalidRequest"), (-1, 2, "InvalidRequest")] {
            assert_eq!(filtered(&|filter| (filter.prefix, filter.and) = (None, Some(sizes(least, most)))), expected);
        }
        let with_tag = |change: &dyn Fn(&mut LifecycleRule)| {
            changed(|rule| {
                rule.filter = Some(LifecycleRuleFilter { tag: Some(tag()), ..LifecycleRuleFilter::default() });
                change(rule);
            })
        };
        let abort = AbortIncompleteMultipartUpload { days_after_initiation: Some(1) };
        assert_eq!(with_tag(&|rule| rule.abort_incomplete_multipart_upload = Some(abort.clone())), "InvalidRequest");
        let markers = LifecycleExpiration { expired_object_delete_marker: Some(true), ..LifecycleExpiration::default() };
        assert_eq!(with_tag(&|rule| rule.expiration = Some(markers.clone())), "InvalidRequest");
    }

    /// A rule that clients can give.
    #[derive(Clone, Debug)]
    struct Sound(Rule);

    impl Arbitrary for Sound {
        fn arbitrary(g: &mut Gen) -> Sound {
            let some = |g: &mut Gen| u32::from(u8::arbitrary(g) % 100) + 1;
            let prefix = Option::<u8>::arbitrary(g).map(|prefix| prefix.to_string());
            let bare_prefix = prefix.is_some() && bool::arbitrary(g);
            let mut filter = Filter { prefix, ..Filter::default() };
            if !bare_prefix {
                filter.tags = (0..u8::arbitrary(g) % 3).map(|key| (key.to_string(), "v".into())).collect();
                filter.larger_than = Option::<u8>::arbitrary(g).map(u64::from);
                filter.smaller_than = Option::<u8>::arbitrary(g).map(|bytes| u64::from(bytes) + 256);
            }
            let expiration = match u8::arbitrary(g) % 3 {
                0 => Expiration::At(u64::from(u16::arbitrary(g)) * DAY_MS),
                1 if !filter.is_of_objects() => Expiration::Markers(bool::arbitrary(g)),
                _ => Expiration::Days(some(g)),
            };
            let noncurrent = bool::arbitrary(g).then(|| Noncurrent { days: some(g), newer: some(g) - 1 });
            let abort_days = (!filter.is_of_objects() && bool::arbitrary(g)).then(|| some(g));
            let id = format!("{}", u16::arbitrary(g));
            Sound(Rule { id, enabled: bool::arbitrary(g), filter, bare_prefix, expiration: Some(expiration), noncurrent, abort_days })
        }
    }

    quickcheck! {
        fn a_rule_is_shown_as_it_came(rule: Sound) -> bool {
            let lifecycle = Lifecycle { day_ms: DAY_MS, rules: vec![rule.0] };
            of_document(to_document(lifecycle.clone()), DAY_MS, || "made".into()).unwrap() == lifecycle
        }
    }
}
