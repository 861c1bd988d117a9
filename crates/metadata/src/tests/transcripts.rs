//! Transcripts: commands to several partitions, and what each answers. The file's name is the claim.
//!
//! A line is `P<n> <verb> <arguments> => <answer>`; empty lines and lines that begin with `#` are skipped.

use super::*;
use crate::{Applied, Etags};
use std::collections::BTreeMap;

fn run(transcript: &str) {
    let mut partitions: BTreeMap<String, Machine> = BTreeMap::new();
    for (number, line) in (1..).zip(transcript.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (command, expected) = line.split_once(" => ").unwrap_or_else(|| panic!("line {number}: no `=>`"));
        let words: Vec<&str> = command.split_whitespace().collect();
        let machine = partitions.entry(words[0].to_string()).or_default();
        assert_eq!(step(machine, &words[1..]), expected, "line {number}: {line}");
    }
}

fn step(machine: &mut Machine, words: &[&str]) -> String {
    let attempt = |text: &str| text.parse::<u64>().unwrap();
    let say = |result: Result<String, Error>| result.unwrap_or_else(|error| format!("{error:?}"));
    let conditions = |words: &[&str]| match words {
        [] => Preconditions::default(),
        ["if-none-match", "*"] => Preconditions { if_none_match: Some(Etags::Any), ..Preconditions::default() },
        ["if-match", etag] => Preconditions { if_match: Some(Etags::Of(vec![etag.to_string()])), ..Preconditions::default() },
        other => panic!("{other:?}"),
    };
    let applied = |applied: Applied| if applied.replaced { "replaced" } else { "ok" }.to_string();
    match words {
        ["open", a] => {
            say(machine.apply::<()>(&Command::OpenBucket { bucket: BUCKET, attempt: attempt(a), share: WHOLE }).map(|()| "ok".into()))
        }
        ["close", a] => say(machine
            .apply::<bool>(&Command::CloseBucket { bucket: BUCKET, attempt: attempt(a), share: WHOLE })
            .map(|empty| if empty { "empty" } else { "not empty" }.into())),
        ["remove", a] => say(machine.apply::<()>(&Command::RemoveBucket { bucket: BUCKET, attempt: attempt(a) }).map(|()| "ok".into())),
        ["put", key, etag, rest @ ..] => {
            let conditions = conditions(rest);
            let record = record(etag, inline("bytes"));
            say(machine.apply(&Command::Put { bucket: BUCKET, key: key.to_string(), record, conditions }).map(applied))
        }
        ["delete", key, rest @ ..] => {
            let conditions = conditions(rest);
            say(machine.apply(&Command::Delete { bucket: BUCKET, key: key.to_string(), conditions }).map(applied))
        }
        ["get", key] => say(machine
            .ask::<Option<Record>>(&Query::Get { bucket: BUCKET, key: key.to_string() })
            .map(|found| found.map_or("nothing".into(), |record| record.etag))),
        ["create-upload", key, id] => say(machine.create_upload(key, id.parse().unwrap()).map(|()| "ok".into())),
        ["abort-upload", key, id] => {
            let upload = UploadId(id.parse().unwrap());
            say(machine.apply::<()>(&Command::AbortUpload { bucket: BUCKET, key: key.to_string(), upload }).map(|()| "ok".into()))
        }
        other => panic!("{other:?}"),
    }
}

macro_rules! transcripts {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(include_str!(concat!("transcripts/", stringify!($name), ".txt")));
        })*
    };
}

transcripts!(
    a_late_close_does_not_undo_the_reopening,
    a_partition_is_closed_by_default,
    a_removed_incarnation_never_opens_again,
    two_deletebuckets_and_one_put_lose_nothing,
);
