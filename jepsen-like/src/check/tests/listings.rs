//! Listings: good ones of a bucket that is written meanwhile, and doctored ones.

use quickcheck::{Gen, QuickCheck};

use super::*;
use crate::history::{After, List, ListKind, Listed, Operation, Page};
use crate::workload::Draws;

/// A bucket of concurrent writers and listings, each key of a page read at a moment of its own.
struct Bucket {
    draws: Draws,
    history: History,
    next: u64,
    keys: std::collections::BTreeMap<String, Value>,
    writes: u64,
}

const NAMES: [&str; 9] = ["a", "a/", "a/b", "a/c/d", "b", "b/x", "c", "d/y", "e"];

impl Bucket {
    fn new(seed: u64) -> Bucket {
        Bucket { draws: Draws::new(seed, "listing"), history: History::default(), next: 0, keys: Default::default(), writes: 0 }
    }

    fn begin(&mut self, key: &str, action: Action) -> usize {
        let mut log = Log::default();
        log.begin(action);
        let operation = Operation { key: key.to_owned(), begun: self.next, ..log.history.operations.remove(0) };
        self.history.operations.push(operation);
        self.next += 1;
        self.history.operations.len() - 1
    }

    fn end(&mut self, index: usize, outcome: Outcome) {
        (self.history.operations[index].ended, self.history.operations[index].outcome) = (Some(self.next), outcome);
        self.next += 1;
    }

    /// A write, whole, while pages are under way.
    fn write(&mut self) {
        let name = NAMES[usize::try_from(self.draws.below(NAMES.len() as u64)).unwrap()];
        self.writes += 1;
        let (action, value) =
            if self.draws.below(3) == 0 { (Action::Delete, None) } else { (Action::Put(value(self.writes)), Some(value(self.writes))) };
        let index = self.begin(name, action);
        let lost = self.draws.below(10) == 0;
        if !lost || self.draws.below(2) == 0 {
            match value {
                Some(value) => self.keys.insert(name.to_owned(), value),
                None => self.keys.remove(name),
            };
        }
        self.end(index, if lost { Outcome::Unknown("lost".to_owned()) } else { Outcome::Done });
    }

    fn listing(&mut self, number: u64) {
        let kind = if self.draws.below(2) == 0 { ListKind::V1 } else { ListKind::V2 };
        let prefix = ["", "", "a", "a/", "b"][usize::try_from(self.draws.below(5)).unwrap()].to_owned();
        let delimiter = if self.draws.below(2) == 0 { "/" } else { "" }.to_owned();
        let keys_max = Some(1 + u32::try_from(self.draws.below(4)).unwrap());
        let start = ["", "", "a", "a/b", "b"][usize::try_from(self.draws.below(5)).unwrap()];
        let mut after = if start.is_empty() { After::Start } else { After::Key(start.to_owned()) };
        let (mut position, mut passed) = (start.to_owned(), "");
        loop {
            let list = List { listing: number, kind, prefix: prefix.clone(), delimiter: delimiter.clone(), after, keys_max };
            let index = self.begin("", Action::List(list.clone()));
            let page = self.page(&list, &position, &mut passed);
            self.end(index, Outcome::Listed(page.clone()));
            for _ in 0..self.draws.below(3) {
                self.write();
            }
            let Some(next) = page.next else { return };
            let last = page.keys.last().map(|listed| listed.key.clone()).max(page.prefixes.last().cloned());
            position = last.unwrap_or(position);
            after = if kind == ListKind::V1 { After::Key(next) } else { After::Token(next) };
        }
    }

    /// Each key is read at a moment of its own: writes come between. Pages without entries say how far they came.
    fn page(&mut self, list: &List, position: &str, passed: &mut &'static str) -> Page {
        let mut page = Page::default();
        let (before, mut walked) = (*passed, *passed);
        for name in NAMES.into_iter().filter(|name| *name > before) {
            if page.keys.is_empty() && page.prefixes.is_empty() && walked > before && self.draws.below(4) == 0 {
                *passed = walked;
                return Page { truncated: true, next: Some(format!("passed-{walked}")), ..page };
            }
            walked = name;
            for _ in 0..self.draws.below(2) {
                self.write();
            }
            let Some(rest) = name.strip_prefix(list.prefix.as_str()) else { continue };
            let Some(value) = self.keys.get(name) else { continue };
            let rolled = if list.delimiter.is_empty() { None } else { rest.find('/') };
            let entry = rolled.map_or(name, |at| &name[..list.prefix.len() + at + 1]);
            let inside = rolled.is_some() && position.starts_with(entry);
            if entry <= position || inside || page.prefixes.last().is_some_and(|last| last == entry) {
                continue;
            }
            if page.keys.len() + page.prefixes.len() == list.keys_max.unwrap() as usize {
                page.truncated = true;
                let last = page.keys.last().map(|listed| listed.key.clone()).max(page.prefixes.last().cloned()).unwrap();
                page.next = Some(if list.kind == ListKind::V1 { last } else { format!("token-{last}") });
                break;
            }
            match rolled {
                Some(_) => page.prefixes.push(entry.to_owned()),
                None => page.keys.push(Listed { key: name.to_owned(), value: Some(*value) }),
            }
        }
        page
    }
}

fn simulated(seed: u64) -> History {
    let mut bucket = Bucket::new(seed);
    for _ in 0..6 {
        bucket.write();
    }
    for number in 0..6 {
        bucket.listing(number);
    }
    bucket.history
}

#[test]
fn whatever_a_bucket_lists_is_explained() {
    fn holds(seed: u64) -> bool {
        let history = simulated(seed);
        let violations = [listings(&history), linearizable(&history)].concat();
        if let Some(first) = violations.first() {
            eprintln!("{first}\n{}", history.to_lines());
        }
        violations.is_empty()
    }
    QuickCheck::new().rng(Gen::from_size_and_seed(100, 1)).tests(300).quickcheck(holds as fn(u64) -> bool);
}

/// Where each page begins, its keys, its common prefixes, and what to go on with.
type Pages<'a> = &'a [(After, &'a [&'a str], &'a [&'a str], Option<&'a str>)];

/// A bucket at rest with keys a, b, c/d, c/e: one listing of it.
fn listed(kind: ListKind, delimiter: &str, pages: Pages<'_>) -> Vec<Violation> {
    let mut bucket = Bucket::new(0);
    for (number, name) in (1..).zip(["a", "b", "c/d", "c/e", "gone"]) {
        let put = bucket.begin(name, Action::Put(value(number)));
        bucket.end(put, Outcome::Done);
    }
    let delete = bucket.begin("gone", Action::Delete);
    bucket.end(delete, Outcome::Done);
    for (after, keys, prefixes, next) in pages {
        let list = List {
            listing: 1,
            kind,
            prefix: String::new(),
            delimiter: delimiter.to_owned(),
            after: after.clone(),
            keys_max: Some(if next.is_some() { u32::try_from(keys.len() + prefixes.len()).unwrap().max(1) } else { 1000 }),
        };
        let keys = keys.iter().map(|key| Listed { key: (*key).to_owned(), value: None }).collect();
        let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        let page = Page { keys, prefixes, truncated: next.is_some(), next: next.map(str::to_owned) };
        let index = bucket.begin("", Action::List(list));
        bucket.end(index, Outcome::Listed(page));
    }
    let found = listings(&bucket.history);
    // What listings tell of single keys, the checkers of linearizability must find too.
    if found.iter().any(|violation| violation.to_string().contains("existed all the time")) {
        assert!(!linearizable(&bucket.history).is_empty());
    }
    found
}

#[test]
fn good_pages_pass() {
    let key = |key: &str| After::Key(key.to_owned());
    let token = || After::Token("t".to_owned());
    assert_eq!(listed(ListKind::V2, "", &[(After::Start, &["a", "b", "c/d", "c/e"], &[], None)]), []);
    assert_eq!(listed(ListKind::V2, "", &[(After::Start, &["a", "b"], &[], Some("t")), (token(), &["c/d", "c/e"], &[], None)]), []);
    assert_eq!(listed(ListKind::V1, "", &[(After::Start, &["a", "b"], &[], Some("b")), (key("b"), &["c/d", "c/e"], &[], None)]), []);
    assert_eq!(listed(ListKind::V2, "/", &[(After::Start, &["a", "b"], &["c/"], None)]), []);
    assert_eq!(listed(ListKind::V1, "/", &[(After::Start, &["a", "b"], &["c/"], Some("c/")), (key("c/"), &[], &[], None)]), []);
    // Within a common prefix: S3 does not say.
    assert_eq!(listed(ListKind::V2, "/", &[(key("c/d"), &[], &[], None)]), []);
    assert_eq!(listed(ListKind::V2, "/", &[(key("c/d"), &[], &["c/"], None)]), []);
    // Without an entry to show for it.
    let begin = (After::Start, &["a"][..], &[][..], Some("t"));
    assert_eq!(
        listed(ListKind::V2, "", &[begin, (token(), &[], &[], Some("u")), (After::Token("u".into()), &["b", "c/d", "c/e"], &[], None)]),
        []
    );
    assert_eq!(listed(ListKind::V1, "/", &[(After::Start, &[], &[], Some("c/a...")), (key("c/a..."), &["a", "b"], &["c/"], None)]), []);
}

#[test]
fn doctored_pages_are_found() {
    let key = |key: &str| After::Key(key.to_owned());
    let token = || After::Token("t".to_owned());
    let lies: [(ListKind, &str, Pages<'_>); 18] = [
        // Missing, deleted, never written, twice, out of order.
        (ListKind::V2, "", &[(After::Start, &["a", "c/d", "c/e"], &[], None)]),
        (ListKind::V2, "", &[(After::Start, &["a", "b", "c/d", "c/e", "gone"], &[], None)]),
        (ListKind::V2, "", &[(After::Start, &["a", "b", "bb", "c/d", "c/e"], &[], None)]),
        (ListKind::V2, "", &[(After::Start, &["a", "a", "b", "c/d", "c/e"], &[], None)]),
        (ListKind::V2, "", &[(After::Start, &["b", "a", "c/d", "c/e"], &[], None)]),
        // Dropped and repeated at the border of pages; a border behind the last entry.
        (ListKind::V2, "", &[(After::Start, &["a", "b"], &[], Some("t")), (token(), &["c/e"], &[], None)]),
        (ListKind::V2, "", &[(After::Start, &["a", "b"], &[], Some("t")), (token(), &["b", "c/d", "c/e"], &[], None)]),
        (ListKind::V1, "", &[(After::Start, &["a", "b"], &[], Some("c/d")), (key("c/d"), &["c/e"], &[], None)]),
        (ListKind::V2, "", &[(token(), &["a", "b", "c/d", "c/e"], &[], None)]),
        // Common prefixes: missing, without a key, repeated, a key that belongs under one.
        (ListKind::V2, "/", &[(After::Start, &["a", "b"], &[], None)]),
        (ListKind::V2, "/", &[(After::Start, &["a", "b"], &["c/", "f/"], None)]),
        (ListKind::V1, "/", &[(After::Start, &["a", "b"], &["c/"], Some("c/")), (key("c/"), &[], &["c/"], None)]),
        (ListKind::V2, "/", &[(After::Start, &["a", "b", "c/d"], &["c/"], None)]),
        // Cut short, with nothing to go on with.
        (ListKind::V2, "", &[(After::Start, &["a"], &[], None)]),
        // Skipped by a page without entries, shown again behind one, given up there, or standing still.
        (ListKind::V2, "", &[(After::Start, &[], &[], Some("t")), (token(), &["b", "c/d", "c/e"], &[], None)]),
        (
            ListKind::V2,
            "",
            &[
                (After::Start, &["a"], &[], Some("s")),
                (After::Token("s".into()), &[], &[], Some("t")),
                (token(), &["a", "b", "c/d", "c/e"], &[], None),
            ],
        ),
        (
            ListKind::V2,
            "/",
            &[(After::Start, &["a", "b"], &[], Some("s")), (After::Token("s".into()), &[], &[], Some("t")), (token(), &[], &[], None)],
        ),
        (
            ListKind::V2,
            "",
            &[(After::Start, &[], &[], Some("t")), (token(), &[], &[], Some("t")), (token(), &["a", "b", "c/d", "c/e"], &[], None)],
        ),
    ];
    for (number, (kind, delimiter, pages)) in lies.into_iter().enumerate() {
        assert!(!listed(kind, delimiter, pages).is_empty(), "lie {number}");
    }
}

#[test]
fn a_page_shows_what_was_there_in_its_own_time() {
    // A key that is deleted and written again while a page is under way may be shown or not; the page after it must show it.
    let page = |keys: &[&str], during: bool| {
        let mut bucket = Bucket::new(0);
        let put = bucket.begin("k", Action::Put(value(1)));
        bucket.end(put, Outcome::Done);
        let list =
            List { listing: 1, kind: ListKind::V2, prefix: String::new(), delimiter: String::new(), after: After::Start, keys_max: None };
        let mut index = if during { bucket.begin("", Action::List(list.clone())) } else { 0 };
        let delete = bucket.begin("k", Action::Delete);
        bucket.end(delete, Outcome::Done);
        let put = bucket.begin("k", Action::Put(value(2)));
        bucket.end(put, Outcome::Done);
        if !during {
            index = bucket.begin("", Action::List(list));
        }
        let keys = keys.iter().map(|key| Listed { key: (*key).to_owned(), value: None }).collect();
        bucket.end(index, Outcome::Listed(Page { keys, ..Page::default() }));
        listings(&bucket.history).is_empty()
    };
    assert!(page(&["k"], true) && page(&[], true) && page(&["k"], false));
    assert!(!page(&[], false));
}
