//! Transcripts: commands to several partitions, and what each answers. The file's name is the claim.
//!
//! A line is `P<n> <verb> <arguments> => <answer>`; empty lines and lines that begin with `#` are skipped.

use super::*;
use crate::commands::Page;
use crate::{Applied, Etags, ListedVersion, VersionQuery};
use protocol::Versioning;
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
            let delete = Command::Delete { bucket: BUCKET, key: key.to_string(), version: None, conditions, modified_ms: 1 };
            say(machine.apply(&delete).map(applied))
        }
        ["delete-version", key, version] => say(machine.delete_version(key, Some(id(version))).map(applied)),
        ["tag", key, version, pairs @ ..] => {
            let tags = pairs.iter().map(|pair| pair.split_once('=').unwrap()).map(|(key, value)| (key.to_string(), value.to_string()));
            let version = (*version != "current").then(|| id(version));
            say(machine.set_tags(key, version, tags.collect()).map(|tagged| format!("{} {}", tagged.revision.0, shown(tagged.version))))
        }
        ["tags", key, version] => {
            let version = (*version != "current").then(|| id(version));
            let Some(Version::Object(record)) = machine.version(key, version) else { return "no object".into() };
            let tags: Vec<String> = record.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("{} at {}: {}", record.etag, record.revision.0, tags.join(" ")).trim_end().to_string()
        }
        ["versioning", state, a] => {
            let versioning = match *state {
                "enabled" => Versioning::Enabled,
                "suspended" => Versioning::Suspended,
                other => panic!("{other}"),
            };
            let set = Command::SetVersioning { bucket: BUCKET, attempt: attempt(a), versioning };
            say(machine.apply::<()>(&set).map(|()| "ok".into()))
        }
        ["versions", key] => say(machine
            .ask::<Page<ListedVersion>>(&Query::ListVersions {
                bucket: BUCKET,
                query: VersionQuery { prefix: key.to_string(), max: 100, ..VersionQuery::default() },
            })
            .map(|page| page.entries.iter().map(version_line).collect::<Vec<_>>().join(", "))),
        ["get", key, version @ ..] => say(machine
            .ask::<Found>(&Query::Get { bucket: BUCKET, key: key.to_string(), version: version.first().map(|version| id(version)) })
            .map(|found| match found.version {
                None => "nothing".into(),
                Some(Version::Object(record)) => record.etag,
                Some(Version::Marker(_)) => "marker".into(),
            })),
        ["create-upload", key, id] => say(machine.create_upload(key, id.parse().unwrap()).map(|()| "ok".into())),
        ["abort-upload", key, id] => {
            let upload = UploadId(id.parse().unwrap());
            say(machine.apply::<()>(&Command::AbortUpload { bucket: BUCKET, key: key.to_string(), upload }).map(|()| "ok".into()))
        }
        other => panic!("{other:?}"),
    }
}

fn shown(version: Option<VersionId>) -> String {
    match version {
        None => "-".into(),
        Some(VersionId::Null) => "null".into(),
        Some(VersionId::Numbered(revision)) => revision.0.to_string(),
    }
}

/// `null`, or the revision.
fn id(text: &str) -> VersionId {
    if text == "null" { VersionId::Null } else { VersionId::Numbered(Revision(text.parse().unwrap())) }
}

fn version_line(line: &ListedVersion) -> String {
    let name = |revision: Revision, null: bool, latest: bool| {
        format!("{}{}", if null { "null".to_string() } else { revision.0.to_string() }, if latest { "*" } else { "" })
    };
    match line {
        ListedVersion::Object { revision, null, latest, etag, .. } => format!("{} {etag}", name(*revision, *null, *latest)),
        ListedVersion::Marker { latest, marker, .. } => format!("{} marker", name(marker.revision, marker.null, *latest)),
        ListedVersion::Prefix(prefix) => prefix.clone(),
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
    a_version_goes_only_by_its_id_and_the_null_version_by_the_next_one,
    a_late_setting_of_versioning_changes_nothing,
    tags_change_without_making_a_version_and_go_with_theirs,
    two_deletebuckets_and_one_put_lose_nothing,
);
