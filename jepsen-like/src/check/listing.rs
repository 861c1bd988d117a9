//! Listings while others write: each page must read every key of its range within its own time.
//!
//! The range of a page goes from where it was asked to begin to its last entry, or to the end of the bucket if it is
//! not truncated. A listing is no snapshot: each key of the range is read at a moment of its own between the beginning
//! and the end of the page. A key that is shown may have stood at some moment of that time; one that is not shown may
//! have been absent; a common prefix that is shown may have had a key. Pages that continue one another leave no gap and
//! do not overlap, so that no key that stood throughout is skipped or repeated. A truncated page without entries has read some
//! keys and does not say how many: what stands behind it and is not shown was read by it or by the page that goes on.

use std::collections::BTreeMap;

use super::Violation;
use super::register::{Effect, Registers, Step, registers};
use crate::history::{Action, After, History, List, ListKind, Operation, Outcome, Page, Value};

/// Most entries of a page, whatever is asked.
const KEYS_MAX: usize = 1000;

/// What a page tells of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cover {
    Shown(Option<Value>),
    NotShown,
    /// Under a common prefix that is shown.
    UnderPrefix,
    Outside,
}

/// A page, and which keys it speaks of.
pub(super) struct Range<'a> {
    pub operation: &'a Operation,
    list: &'a List,
    page: &'a Page,
    /// Only entries behind this one.
    after: Option<&'a str>,
    /// Where `after` lies inside a common prefix although no page of this listing ended there, S3's documents do not
    /// say whether the rest of that prefix is shown.
    continued: bool,
    /// Only entries up to this one.
    through: Option<&'a str>,
    /// When the first of those pages without entries began that this one goes on behind, or this one itself.
    since: u64,
    /// The first entry that is shown.
    first: Option<&'a str>,
    shown: BTreeMap<&'a str, Option<Value>>,
}

impl<'a> Range<'a> {
    /// What the page says of `key`.
    pub(super) fn cover(&self, key: &str) -> Cover {
        let Some(entry) = entry(self.list, key) else { return Cover::Outside };
        if self.list.keys_max == Some(0) || !self.is_in_range(entry) {
            return Cover::Outside;
        }
        if is_common_prefix(self.list, entry) {
            return if self.page.prefixes.iter().any(|prefix| prefix == entry) { Cover::UnderPrefix } else { Cover::NotShown };
        }
        self.shown.get(key).map_or(Cover::NotShown, |value| Cover::Shown(*value))
    }

    /// Since when `key` may have been read for this page.
    pub(super) fn begun(&self, key: &str) -> u64 {
        let is_first = |entry| self.first.is_none_or(|first| entry < first);
        if entry(self.list, key).is_some_and(is_first) { self.since } else { self.operation.begun }
    }

    fn is_in_range(&self, entry: &str) -> bool {
        let begins = self.after.is_none_or(|after| entry > after && !self.is_cut(entry));
        begins && self.through.is_none_or(|through| entry <= through)
    }

    /// Whether `entry` is a common prefix within which the page begins.
    fn is_cut(&self, entry: &str) -> bool {
        self.after.is_some_and(|after| after.starts_with(entry)) && is_common_prefix(self.list, entry)
    }

    /// Whether the page may or may not speak of `entry`.
    fn is_open_to_doubt(&self, entry: &str) -> bool {
        !self.continued && self.is_cut(entry)
    }
}

/// The entry of a listing in which `key` stands: itself, or its common prefix.
fn entry<'k>(list: &List, key: &'k str) -> Option<&'k str> {
    let rest = key.strip_prefix(list.prefix.as_str())?;
    let rolled = if list.delimiter.is_empty() { None } else { rest.find(&list.delimiter) };
    Some(rolled.map_or(key, |at| &key[..list.prefix.len() + at + list.delimiter.len()]))
}

/// Where a page goes on.
#[derive(Clone, Copy)]
struct Behind<'a> {
    /// This entry, if any was shown or named.
    after: Option<&'a str>,
    /// Since when what is behind it may have been read; `None`: only by the page that goes on.
    since: Option<u64>,
}

/// The ranges of all pages of `history`, and what is wrong with the pages themselves.
pub(super) fn ranges(history: &History) -> (Vec<Range<'_>>, Vec<Violation>) {
    let mut violations = Vec::new();
    let mut ranges: Vec<Range<'_>> = Vec::new();
    // Pages of each listing, by their tokens.
    let mut tokens: BTreeMap<(u64, &str), Behind<'_>> = BTreeMap::new();
    let mut markers: BTreeMap<(u64, &str), Behind<'_>> = BTreeMap::new();
    for operation in &history.operations {
        let (Action::List(list), Outcome::Listed(page)) = (&operation.action, &operation.outcome) else { continue };
        let mut say = |key: &str, reason: String| {
            let reason = format!("{reason} (page of listing {} begun at {})", list.listing, operation.begun);
            violations.push(Violation::Listing { key: key.to_owned(), reason });
        };
        let (behind, continued) = match &list.after {
            After::Start => (Behind { after: None, since: None }, false),
            After::Key(key) => match markers.get(&(list.listing, key.as_str())) {
                Some(behind) => (*behind, true),
                None => (Behind { after: Some(key), since: None }, false),
            },
            After::Token(token) => match tokens.get(&(list.listing, token.as_str())) {
                Some(behind) => (*behind, true),
                None => {
                    say("", format!("it goes on at token {token}, which no earlier page of its listing gave"));
                    continue;
                }
            },
        };
        let last_key = page.keys.last().map(|listed| listed.key.as_str());
        let last = last_key.max(page.prefixes.last().map(String::as_str));
        let first = page.keys.first().map(|listed| listed.key.as_str()).into_iter().chain(page.prefixes.first().map(String::as_str)).min();
        let since = behind.since.unwrap_or(operation.begun);
        let shown = page.keys.iter().map(|listed| (listed.key.as_str(), listed.value)).collect();
        // An empty page tells nothing until it is known how far it came.
        let through = page.truncated.then(|| last.or(behind.after).unwrap_or(""));
        let range = Range { operation, list, page, after: behind.after, continued, through, since, first, shown };
        judge_page(&range, last, &mut say);
        if let Some(next) = &page.next {
            let behind = match last {
                Some(_) => Behind { after: last, since: None },
                None => Behind { after: behind.after, since: Some(since) },
            };
            match list.kind {
                ListKind::V1 => markers.insert((list.listing, next), behind),
                ListKind::V2 => tokens.insert((list.listing, next), behind),
            };
        }
        ranges.push(range);
    }
    (ranges, violations)
}

/// What a page must be whatever the bucket holds.
fn judge_page(range: &Range<'_>, last: Option<&str>, say: &mut impl FnMut(&str, String)) {
    let (list, page) = (range.list, range.page);
    let count = page.keys.len() + page.prefixes.len();
    let most = list.keys_max.map_or(KEYS_MAX, |most| KEYS_MAX.min(usize::try_from(most).unwrap_or(KEYS_MAX)));
    if count > most {
        say(last.unwrap_or(""), format!("{count} entries, at most {most} were asked for"));
    }
    if page.truncated && page.next.is_none() && most > 0 {
        say(last.unwrap_or(""), "truncated, and nothing to go on with".to_owned());
    }
    let stands_still = match (&list.after, &page.next) {
        (After::Key(before) | After::Token(before), Some(next)) => before == next,
        _ => false,
    };
    if page.truncated && stands_still {
        say(last.unwrap_or(""), "truncated, and the next page begins where it began".to_owned());
    }
    if list.kind == ListKind::V1 && page.truncated && last.is_some() && page.next.as_deref() != last {
        say(last.unwrap_or(""), format!("the next marker is {:?}, the last entry another", page.next));
    }
    let keys = page.keys.iter().map(|listed| (listed.key.as_str(), false));
    let prefixes = page.prefixes.iter().map(|prefix| (prefix.as_str(), true));
    let mut before: [Option<&str>; 2] = [None, None];
    for (name, is_prefix) in keys.chain(prefixes) {
        let previous = before[usize::from(is_prefix)].replace(name);
        if previous.is_some_and(|previous| previous >= name) {
            say(name, "listed twice, or out of order".to_owned());
        }
        let stands = entry(list, name) == Some(name) && is_prefix == is_common_prefix(list, name);
        if !stands {
            say(name, format!("no {} of this listing", if is_prefix { "common prefix" } else { "key" }));
        } else if range.after.is_some_and(|after| name <= after) && !range.is_open_to_doubt(name) {
            say(name, format!("shown again, or before the page's beginning {:?}", range.after));
        }
    }
}

/// Whether `name`, as it stands, is a common prefix of this listing.
fn is_common_prefix(list: &List, name: &str) -> bool {
    let rest = name.strip_prefix(list.prefix.as_str()).filter(|rest| !rest.is_empty() && !list.delimiter.is_empty());
    rest.is_some_and(|rest| rest.find(&list.delimiter).is_some_and(|at| at + list.delimiter.len() == rest.len()))
}

/// Check every page of every listing of `history`.
pub fn listings(history: &History) -> Vec<Violation> {
    let (ranges, mut violations) = ranges(history);
    let registers = registers(history, &[]);
    // Of those the model of versions says what may be shown.
    let versioned = super::model::version::versioned(history);
    for range in ranges.iter().filter(|range| !versioned.contains(range.operation.bucket.as_str())) {
        judge_keys(range, &registers, &mut violations);
    }
    violations
}

fn judge_keys(range: &Range<'_>, registers: &Registers<'_>, violations: &mut Vec<Violation>) {
    let bucket = range.operation.bucket.as_str();
    let time = Time { begun: range.operation.begun, ended: range.operation.ended.unwrap_or(u64::MAX) };
    let mut say = |key: &str, reason: &str| {
        let reason = format!("{reason} (page of listing {} from {} to {})", range.list.listing, time.begun, time.ended);
        violations.push(Violation::Listing { key: key.to_owned(), reason });
    };
    // Whether some key of it may have stood.
    let mut prefixes: BTreeMap<&str, bool> = range.page.prefixes.iter().map(|prefix| (prefix.as_str(), false)).collect();
    for listed in &range.page.keys {
        if !registers.contains_key(&(bucket, listed.key.as_str())) {
            say(&listed.key, "listed, but nobody ever wrote it");
        }
    }
    for ((_, key), steps) in registers.range((bucket, "")..).take_while(|((of, _), _)| *of == bucket) {
        match range.cover(key) {
            Cover::Shown(value) if !may_stand(steps, value, time) => match value {
                Some(_) if may_stand(steps, None, time) => say(key, "listed with the ETag of a value that it did not hold then"),
                _ => say(key, "listed, although it did not exist then"),
            },
            Cover::NotShown if !may_be_absent(steps, Time { begun: range.begun(key), ..time }) => {
                say(key, "not listed, although it existed all the time")
            }
            Cover::UnderPrefix => {
                let entry = entry(range.list, key).expect("covered");
                prefixes.entry(entry).and_modify(|stands| *stands |= may_stand(steps, None, time));
            }
            Cover::Outside => {
                // The rest of a prefix within which the page begins.
                if let Some(entry) = entry(range.list, key).filter(|entry| range.is_open_to_doubt(entry)) {
                    prefixes.entry(entry).and_modify(|stands| *stands |= may_stand(steps, None, time));
                }
            }
            _ => {}
        }
    }
    for (prefix, _) in prefixes.into_iter().filter(|(_, stands)| !stands) {
        say(prefix, "a common prefix is listed, although no key stood under it then");
    }
}

/// Between the beginning and the end of a page.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub begun: u64,
    pub ended: u64,
}

/// Whether the key may have existed at some moment of `time`, with `value` if one is given.
pub(super) fn may_stand(steps: &[Step<'_>], value: Option<Value>, time: Time) -> bool {
    steps.iter().filter(|step| step.begun < time.ended).any(|write| {
        let writes = match &write.effect {
            Effect::Write(written) | Effect::WriteIf(_, written) => value.is_none_or(|value| value == *written),
            Effect::WriteOneOf(values) => value.is_none_or(|value| values.contains(&value)),
            _ => false,
        };
        // Ended for certain before the page began, by a change that wholly followed it.
        let over = |change: &Step<'_>| {
            let ends_it =
                matches!(change.effect, Effect::Remove | Effect::RemoveIf(_)) || (value.is_some() && change.effect.writes().is_some());
            ends_it && change.begun > write.end() && change.end() < time.begun
        };
        writes && !steps.iter().any(over)
    })
}

/// Whether the key may have been absent at some moment of `time`.
fn may_be_absent(steps: &[Step<'_>], time: Time) -> bool {
    // It certainly stood from then on, unless it was deleted later.
    let stands_since = |deleted: u64| {
        let writes = |step: &Step<'_>| matches!(step.effect, Effect::Write(_) | Effect::WriteIf(..) | Effect::WriteOneOf(_));
        steps.iter().any(|step| writes(step) && step.begun >= deleted && step.end() < time.begun)
    };
    let removed = steps.iter().filter(|step| matches!(step.effect, Effect::Remove | Effect::RemoveIf(_)) && step.begun < time.ended);
    // A delete without an end may be the last of all.
    !stands_since(0) || removed.into_iter().any(|delete| delete.ended.is_none_or(|ended| !stands_since(ended)))
}
