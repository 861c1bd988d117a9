//! Histories of versions that S3 can give, and lies.

use super::*;
use crate::check::read_back::tests::{Log, value};
use crate::history::{VersionList, VersionPage};

fn made(id: &str) -> Outcome {
    Outcome::Made(Some(id.to_owned()))
}

fn found(id: u64, version: &str) -> Outcome {
    Outcome::Found { seen: Seen::Value(value(id)), version: Some(version.to_owned()) }
}

fn absent() -> Outcome {
    Outcome::Found { seen: Seen::Absent, version: None }
}

fn line(id: &str, of: Option<u64>, latest: bool) -> ListedVersion {
    ListedVersion { key: "k".to_owned(), id: id.to_owned(), latest, value: of.map(value) }
}

fn page(lines: &[ListedVersion], truncated: bool) -> Outcome {
    Outcome::Versions(VersionPage { versions: lines.to_vec(), truncated })
}

fn list(behind: Option<ListedVersion>) -> Action {
    Action::ListVersions(VersionList { prefix: String::new(), behind, keys_max: 9 })
}

fn holds(mut log: Log) -> bool {
    for operation in &mut log.history.operations {
        if matches!(operation.action, Action::SetVersioning(_) | Action::GetVersioning | Action::ListVersions(_)) {
            operation.key.clear();
        }
    }
    versions(&log.history).is_empty()
}

/// Null version 1, then versions 2 and 3, and a marker.
fn log() -> Log {
    let mut log = Log::default();
    log.end(Action::Put(value(1)), Outcome::Made(None)).done(Action::SetVersioning(true));
    log.end(Action::Put(value(2)), made("b")).end(Action::Put(value(3)), made("c")).end(Action::Delete, made("d"));
    log
}

#[test]
fn a_key_with_versions_lives_as_s3_says() {
    let mut log = log();
    log.end(Action::Get, absent()).end(Action::GetVersion("b".to_owned()), found(2, "b"));
    let lines = [line("d", None, true), line("c", Some(3), false), line("b", Some(2), false), line("null", Some(1), false)];
    log.end(list(None), page(&lines, false));
    log.end(list(None), page(&lines[..2], true)).end(list(Some(lines[1].clone())), page(&lines[2..], false));
    log.end(Action::DeleteVersion("d".to_owned()), made("d")).end(Action::Get, found(3, "c"));
    log.done(Action::SetVersioning(false)).end(Action::GetVersioning, Outcome::Versioning(Some(false)));
    log.end(Action::Put(value(4)), made("null")).end(Action::GetVersion("null".to_owned()), found(4, "null"));
    let lines = [line("null", Some(4), true), line("c", Some(3), false), line("b", Some(2), false)];
    log.end(list(None), page(&lines, false)).end(Action::Delete, made("null")).end(Action::GetVersion("null".to_owned()), absent());
    log.end(Action::PutIfAbsent(value(5)), made("null")).unknown(Action::SetVersioning(true)).end(Action::Put(value(6)), made("f"));
    assert!(holds(log));
}

fn tagged(id: &str) -> Outcome {
    Outcome::Tagged(Some(id.to_owned()))
}

fn tags(of: Option<u64>, id: &str) -> Outcome {
    Outcome::Tags { tags: of, version: Some(id.to_owned()) }
}

fn set(version: Option<&str>, tags: Option<u64>) -> Action {
    Action::SetTags { version: version.map(str::to_owned), tags }
}

fn ask(version: Option<&str>) -> Action {
    Action::GetTags(version.map(str::to_owned))
}

#[test]
fn tags_belong_to_versions() {
    let mut log = log();
    // Version 3 was put with tags of its own number.
    log.end(ask(Some("c")), tags(Some(3), "c")).end(ask(Some("b")), tags(None, "b"));
    log.end(set(Some("b"), Some(7)), tagged("b")).end(ask(Some("b")), tags(Some(7), "b"));
    log.end(set(None, Some(8)), absent()).end(ask(Some("d")), absent()).end(set(Some("d"), None), absent());
    log.end(Action::DeleteVersion("d".to_owned()), made("d")).end(set(None, Some(9)), tagged("c"));
    log.end(ask(None), tags(Some(9), "c")).end(set(Some("c"), None), tagged("c")).end(ask(None), tags(None, "c"));
    log.unknown(set(None, Some(10))).end(Action::Put(value(5)), made("e")).end(ask(Some("c")), tags(Some(10), "c"));
    log.end(ask(None), tags(None, "e")).unknown(set(None, Some(11))).end(ask(None), tags(None, "e"));
    log.end(set(Some("null"), Some(12)), tagged("null")).end(ask(Some("null")), tags(Some(12), "null"));
    assert!(holds(log));
}

#[test]
fn doctored_tags_are_found() {
    let lies: [(&str, Vec<(Action, Outcome)>); 7] = [
        ("tags that were never set", vec![(ask(Some("b")), tags(Some(7), "b"))]),
        ("tags of the put are gone", vec![(ask(Some("c")), tags(None, "c"))]),
        ("tags of a marker", vec![(set(None, Some(7)), tagged("d"))]),
        ("an acknowledged change is gone", vec![(set(Some("b"), Some(7)), tagged("b")), (ask(Some("b")), tags(None, "b"))]),
        ("a change of another version", vec![(set(Some("b"), Some(7)), tagged("b")), (ask(Some("c")), tags(Some(7), "c"))]),
        ("an object is none", vec![(ask(Some("b")), absent())]),
        (
            "the tags outlive their version",
            vec![
                (set(Some("null"), Some(7)), tagged("null")),
                (Action::SetVersioning(false), Outcome::Done),
                (Action::Put(value(4)), made("null")),
                (ask(None), tags(Some(7), "null")),
            ],
        ),
    ];
    for (what, lie) in lies {
        let mut log = log();
        for (action, outcome) in lie {
            log.end(action, outcome);
        }
        assert!(!holds(log), "{what}");
    }
}

/// What a doctored history holds more than a true one.
type Lie = Box<dyn Fn(&mut Log)>;

#[test]
fn doctored_versions_are_found() {
    let all = || [line("d", None, true), line("c", Some(3), false), line("b", Some(2), false), line("null", Some(1), false)];
    let lies: Vec<(&str, Lie)> = vec![
        (
            "a version is gone",
            Box::new(|log| {
                log.end(Action::GetVersion("b".to_owned()), absent());
            }),
        ),
        (
            "the null version went",
            Box::new(|log| {
                log.end(Action::GetVersion("null".to_owned()), absent());
            }),
        ),
        (
            "a write under the setting before",
            Box::new(|log| {
                log.end(Action::Put(value(4)), made("null"));
            }),
        ),
        (
            "a marker hides nothing",
            Box::new(|log| {
                log.end(Action::Get, found(3, "c"));
            }),
        ),
        (
            "another setting",
            Box::new(|log| {
                log.end(Action::GetVersioning, Outcome::Versioning(None));
            }),
        ),
        (
            "an id twice",
            Box::new(|log| {
                log.end(Action::Put(value(4)), made("c"));
            }),
        ),
        (
            "a line is missing",
            Box::new(move |log| {
                log.end(list(None), page(&all()[..3], false));
            }),
        ),
        (
            "the latest is not",
            Box::new(move |log| {
                log.end(list(None), page(&[line("d", None, false)], true));
            }),
        ),
        (
            "lost at the border",
            Box::new(move |log| {
                log.end(list(Some(all()[1].clone())), page(&[], false));
            }),
        ),
        (
            "out of order",
            Box::new(move |log| {
                let mut lines = all();
                lines.swap(1, 2);
                log.end(list(None), page(&lines, false));
            }),
        ),
        (
            "the null version twice",
            Box::new(move |log| {
                log.done(Action::SetVersioning(false)).end(Action::Put(value(4)), made("null"));
                let lines: Vec<_> = [line("null", Some(4), true), line("d", None, false)].into_iter().chain(all()[1..].to_vec()).collect();
                log.end(list(None), page(&lines, false));
            }),
        ),
        (
            "a write that costs a version",
            Box::new(|log| {
                log.done(Action::SetVersioning(false)).end(Action::Put(value(4)), made("null"));
                log.end(Action::GetVersion("c".to_owned()), absent());
            }),
        ),
    ];
    for (what, lie) in lies {
        let mut log = log();
        lie(&mut log);
        assert!(!holds(log), "{what}");
    }
}

#[test]
fn a_copy_and_an_upload_are_versions_like_others_and_a_copy_reads_its_source() {
    let copy = |of: u64| Action::CopyVersion { from: "k".to_owned(), version: "b".to_owned(), value: value(of) };
    let elsewhere = |log: &mut Log| "other".clone_into(&mut log.history.operations.last_mut().unwrap().key);
    let part = crate::history::Part { number: 1, value: value(7) };
    let composed = Value::composed([value(7)]);
    let upload = || Action::Complete { upload: "u".to_owned(), parts: vec![part], if_absent: false };
    let mut log = log();
    log.end(copy(2), made("a"));
    elsewhere(&mut log);
    log.end(upload(), made("e")).end(Action::Get, Outcome::Found { seen: Seen::Value(composed), version: Some("e".to_owned()) });
    log.end(Action::DeleteVersion("b".to_owned()), made("b")).end(copy(2), absent());
    elsewhere(&mut log);
    log.end(Action::Put(value(9)), made("x"));
    elsewhere(&mut log);
    log.end(Action::CopyVersion { from: "other".to_owned(), version: "x".to_owned(), value: value(9) }, made("f"));
    log.end(Action::Get, found(9, "f"));
    assert!(holds(log));
    for lie in 0..4 {
        let mut log = self::log();
        match lie {
            // Of what was deleted, or is still there.
            0 => drop(log.end(Action::DeleteVersion("b".to_owned()), made("b")).end(copy(2), made("a"))),
            1 => drop(log.end(copy(2), absent())),
            2 => drop(log.end(upload(), Outcome::Done)),
            _ => drop(log.end(upload(), made("e")).end(Action::Get, found(3, "c"))),
        }
        if lie < 2 {
            elsewhere(&mut log);
        }
        assert!(!holds(log), "{lie}");
    }
}

#[test]
fn registers_leave_such_buckets_to_this_model() {
    let mut log = log();
    log.end(Action::DeleteVersion("d".to_owned()), made("d")).end(Action::Get, found(3, "c"));
    assert!(crate::check::linearizable(&log.history).is_empty());
    let finals = BTreeMap::from([("k".to_owned(), Ok(Seen::Value(value(3))))]);
    assert!(crate::check::read_back(&log.history, "b", &finals).is_empty());
}
