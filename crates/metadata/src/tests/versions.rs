//! Listings of versions, and listings of objects among markers and older versions.

use super::listings::{Question, Text, keys_of, merged as objects, names, page_of, reference};
use super::*;
use crate::commands::Page;
use crate::{ListQuery, Listed, ListedVersion, VersionQuery, listing, merge};
use futures::FutureExt;
use protocol::{Versioning, key_hash};
use quickcheck::QuickCheck;
use std::cell::Cell;
use std::collections::BTreeSet;

fn versioned(count: u32) -> Vec<Machine> {
    let mut machines: Vec<Machine> = (0..count).map(|_| Machine::default()).collect();
    for (index, machine) in (0..).zip(&mut machines) {
        let share = Share { index, of: count };
        machine.apply::<()>(&Command::OpenBucket { bucket: BUCKET, attempt: 1, share }).unwrap();
        machine.apply::<()>(&Command::SetVersioning { bucket: BUCKET, attempt: 2, versioning: Versioning::Enabled }).unwrap();
    }
    machines
}

fn of_key<'a>(machines: &'a mut [Machine], key: &str) -> &'a mut Machine {
    let index = usize::try_from(key_hash(BUCKET, key) % machines.len() as u64).unwrap();
    &mut machines[index]
}

/// Key, id, place and whether it is the latest.
pub fn line(line: &ListedVersion) -> (&str, VersionId, Revision, bool) {
    let id = |revision: Revision, null: bool| if null { VersionId::Null } else { VersionId::Numbered(revision) };
    match line {
        ListedVersion::Object { key, revision, null, latest, .. } => (key, id(*revision, *null), *revision, *latest),
        ListedVersion::Marker { key, latest, marker } => (key, id(marker.revision, marker.null), marker.revision, *latest),
        ListedVersion::Prefix(prefix) => panic!("{prefix}"),
    }
}

/// A page for which each partition is asked once, and works for `work` bytes; for all bytes: as often as it takes.
fn merged(machines: &[Machine], query: &VersionQuery, work: usize) -> (Vec<ListedVersion>, bool) {
    let fetch = |index: usize, position: merge::Position, count: u32| {
        let mut query = VersionQuery { max: count, ..query.clone() };
        if let Some((name, place)) = position.after {
            query.after_key = Some(name);
            query.after_version = place.map(|place| Revision(!u64::try_from(place).unwrap()));
        }
        std::future::ready(listing::versions(&machines[index].rows.rows(), BUCKET, &query, work))
    };
    let enough = || work < usize::MAX;
    let page = merge::page(machines.len(), query.max as usize, enough, fetch).now_or_never().expect("nothing waits").unwrap();
    assert!(!page.truncated || !page.entries.is_empty(), "a page of versions that goes nowhere");
    (page.entries, page.truncated)
}

#[test]
fn pages_of_versions_joined_by_their_last_entry_are_all_of_them_in_order() {
    fn agree(texts: Vec<Text>, writes: Vec<(u8, bool)>, count: u8, max: u8, work: Option<u8>) -> bool {
        let keys: Vec<String> = keys_of(texts).into_iter().collect();
        let mut machines = versioned(u32::from(count % 4) + 1);
        let mut expected: Vec<(String, u64)> = Vec::new();
        for (choice, delete) in writes.iter().filter(|_| !keys.is_empty()) {
            let key = &keys[usize::from(*choice) % keys.len()];
            let machine = of_key(&mut machines, key);
            let made = if *delete { machine.delete(key) } else { machine.put(key, record("e", inline("x"))) };
            expected.push((key.clone(), made.unwrap().revision.0));
        }
        expected.sort_by_key(|(key, revision)| (key.clone(), !revision));
        let latest = |index: usize| index == 0 || expected[index].0 != expected[index - 1].0;
        let expected: Vec<_> =
            expected.iter().enumerate().map(|(index, (key, revision))| (key.clone(), *revision, latest(index))).collect();
        let mut query = VersionQuery { max: u32::from(max % 4) + 1, ..VersionQuery::default() };
        let mut joined = Vec::new();
        loop {
            let (page, truncated) = merged(&machines, &query, work.map_or(usize::MAX, usize::from));
            let page: Vec<_> = page.iter().map(line).map(|(key, _, revision, latest)| (key.to_string(), revision.0, latest)).collect();
            joined.extend(page);
            if !truncated {
                return joined == expected;
            }
            let (key, revision, _) = joined.last().unwrap();
            (query.after_key, query.after_version) = (Some(key.clone()), Some(Revision(*revision)));
        }
    }
    QuickCheck::new().tests(500).quickcheck(agree as fn(Vec<Text>, Vec<(u8, bool)>, u8, u8, Option<u8>) -> bool);
}

/// Partitions with some versions of each key, hidden behind a marker as `hidden` says; and the others.
fn half_hidden(texts: Vec<Text>, hidden: &[bool], count: u8) -> (Vec<Machine>, BTreeSet<String>) {
    let mut machines = versioned(u32::from(count % 4) + 1);
    let mut shown = BTreeSet::new();
    for (key, hide) in keys_of(texts).into_iter().zip(hidden.iter().chain(std::iter::repeat(&false))) {
        let machine = of_key(&mut machines, &key);
        for _ in 0..=key.len() % 3 {
            machine.put(&key, record("e", inline("x"))).unwrap();
        }
        if *hide {
            machine.delete(&key).unwrap();
        } else {
            shown.insert(key);
        }
    }
    (machines, shown)
}

#[test]
fn objects_are_listed_as_if_markers_and_what_they_hide_were_not_there() {
    fn agree(texts: Vec<Text>, hidden: Vec<bool>, count: u8, question: Question) -> bool {
        let (machines, shown) = half_hidden(texts, &hidden, count);
        objects(&machines, &question.0) == reference(shown.iter().map(String::as_str), &question.0)
    }
    QuickCheck::new().tests(1000).quickcheck(agree as fn(Vec<Text>, Vec<bool>, u8, Question) -> bool);
}

#[test]
fn pages_that_are_cut_short_go_on_where_they_came_to_and_are_the_whole_listing() {
    fn agree(texts: Vec<Text>, hidden: Vec<bool>, count: u8, question: Question, work: u8) -> bool {
        let (machines, shown) = half_hidden(texts, &hidden, count);
        let mut query = ListQuery { max: question.0.max + 1, ..question.0 };
        let whole = reference(shown.iter().map(String::as_str), &ListQuery { max: 1000, ..query.clone() }).0;
        let mut joined = Vec::new();
        loop {
            let page = page_of(&machines, &query, work.into(), || true);
            joined.extend(names(&page).0);
            if !page.truncated {
                return joined == whole;
            }
            match joined.last().filter(|_| !page.entries.is_empty()) {
                Some((last, _)) => (query.after, query.passed) = (Some(last.clone()), None),
                None => {
                    assert!(page.passed.is_some() && page.passed > query.passed, "{:?} and then {:?}", query.passed, page.passed);
                    query.passed = page.passed;
                }
            }
        }
    }
    QuickCheck::new().tests(2000).quickcheck(agree as fn(Vec<Text>, Vec<bool>, u8, Question, u8) -> bool);
}

#[test]
fn listing_of_many_hidden_keys_comes_further_with_each_page_however_little_time_a_page_has() {
    let mut machines = versioned(3);
    for number in 0..1200 {
        let key = format!("deep/{number:04}");
        of_key(&mut machines, &key).put(&key, record("e", inline("x"))).unwrap();
        of_key(&mut machines, &key).delete(&key).unwrap();
    }
    let query = ListQuery { delimiter: Some("/".into()), max: 1000, ..ListQuery::default() };
    let page: Page<Listed> = machines[0].ask(&Query::List { bucket: BUCKET, query: query.clone() }).unwrap();
    assert!(page.truncated && page.entries.is_empty() && (400..700).contains(&page.read), "{} rows and as many seeks", page.read);
    // Time for each partition to answer twice.
    let (rounds, mut pages, mut query) = (Cell::new(0), 0, query);
    loop {
        let enough = || rounds.replace(rounds.get() + 1) % 2 == 1;
        let page = page_of(&machines, &query, 16 << 10, enough);
        assert!(page.entries.is_empty() && page.passed.is_some() == page.truncated);
        assert!(page.read < 100, "a page is bounded: {} rows", page.read);
        pages += 1;
        if !page.truncated {
            break;
        }
        assert!(page.passed > query.passed);
        query.passed = page.passed;
    }
    assert!((50..400).contains(&pages), "{pages}");
}

#[test]
fn the_latest_is_told_although_the_page_begins_behind_a_version_that_is_gone() {
    let mut machines = versioned(1);
    let ids: Vec<Revision> = (0..3).map(|_| machines[0].put("k", record("e", inline("x"))).unwrap().revision).collect();
    let query = VersionQuery { after_key: Some("k".into()), after_version: Some(ids[2]), max: 10, ..VersionQuery::default() };
    let page =
        |machines: &[Machine]| merged(machines, &query, usize::MAX).0.iter().map(|one| (line(one).2, line(one).3)).collect::<Vec<_>>();
    assert_eq!(page(&machines), [(ids[1], false), (ids[0], false)]);
    machines[0].delete_version("k", Some(VersionId::Numbered(ids[2]))).unwrap();
    assert_eq!(page(&machines), [(ids[1], true), (ids[0], false)]);
}

#[test]
fn a_page_that_finds_only_markers_says_how_far_it_came() {
    let mut machines = versioned(1);
    let body = Body::Inline(run::Bytes(vec![7; 1 << 20].into()));
    for number in 10..40 {
        // What hides a megabyte is read together with it.
        let key = format!("deep/{number}");
        machines[0].put(&key, record("e", body.clone())).unwrap();
        machines[0].delete(&key).unwrap();
    }
    machines[0].put("deep/z", record("e", inline("x"))).unwrap();
    let query = ListQuery { delimiter: Some("/".into()), max: 10, ..ListQuery::default() };
    let page: Page<Listed> = machines[0].ask(&Query::List { bucket: BUCKET, query: query.clone() }).unwrap();
    assert!(page.truncated && page.entries.is_empty() && page.passed.is_some(), "{page:?}");
    assert_eq!(objects(&machines, &query), (vec![("deep/".into(), true)], false), "the merge asks on");
}
