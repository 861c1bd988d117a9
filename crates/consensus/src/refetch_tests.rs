//! The transcripts in `testdata/refetch`: each file is a claim. Commands, `----`, what comes of them.
//!
//! `patient` describes the crippled replica, each `witness` what one of the others says, `hear` judges it, `cover` puts a state
//! in, `wanted` tells what is asked for. An entry is `index.term`; the term 0 of a lost one is not known. `state=-` is a state that is lost.

use super::*;
use crate::log::Key;
use std::fmt::Write;

fn name(text: &str) -> (u64, u64) {
    let (index, term) = text.split_once('.').unwrap();
    (index.parse().unwrap(), term.parse().unwrap())
}

fn names(text: &str) -> Vec<(u64, u64)> {
    text.split(',').filter(|text| !text.is_empty()).map(name).collect()
}

fn start(text: &str) -> Start {
    let (index, term) = name(text);
    Start { index, term }
}

fn entries(text: &str) -> BTreeMap<u64, Entry> {
    names(text).into_iter().map(|(index, term)| (index, Entry { index, term, ..Entry::default() })).collect()
}

fn words(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split_whitespace().skip(1).map(|word| word.split_once('=').unwrap_or((word, "")))
}

fn patient(line: &str) -> Patient {
    let mut patient = Patient { applied: Some(Start::default()), ..Patient::default() };
    for (word, value) in words(line) {
        match word {
            "term" => patient.hard.term = value.parse().unwrap(),
            "commit" => patient.hard.commit = value.parse().unwrap(),
            "start" => patient.start = start(value),
            "entries" => patient.entries = entries(value),
            "lost" => patient.lost = names(value).into_iter().collect(),
            "state" => patient.applied = (value != "-").then(|| start(value)),
            other => panic!("{other}"),
        }
    }
    patient
}

fn witness(line: &str) -> Testimony {
    let mut witness = Testimony::default();
    for (word, value) in words(line) {
        match word {
            "leads" => witness.leads = true,
            "entries" => witness.entries = entries(value),
            "term" => witness.term = value.parse().unwrap(),
            "commit" => witness.commit = value.parse().unwrap(),
            "start" => witness.start = value.parse().unwrap(),
            "last" => witness.last = value.parse().unwrap(),
            "acknowledged" => witness.acknowledged = value.parse().unwrap(),
            other => panic!("{other}"),
        }
    }
    witness
}

fn told(patient: &Patient) -> String {
    let name = |(index, term): (u64, u64)| format!(" {index}.{term}");
    let entries: String = patient.entries.values().map(|entry| name((entry.index, entry.term))).collect();
    let lost: String = patient.lost.iter().map(|(index, term)| name((*index, *term))).collect();
    format!("after {}.{} stand{entries} lost{lost}\n", patient.start.index, patient.start.term)
}

fn cure_told(cure: &Cure) -> String {
    let mut told = String::new();
    let Cure { found, superseded, doubted, state, missing, contradiction } = cure;
    let numbers = [(*found, "found"), (*missing, "missing")];
    numbers.iter().filter(|(count, _)| *count > 0).for_each(|(count, what)| writeln!(told, "{what} {count}").unwrap());
    let marks = [(superseded, "superseded from"), (doubted, "doubted from"), (state, "needs a state up to")];
    marks
        .iter()
        .filter_map(|(index, what)| Some((index.as_ref()?, what)))
        .for_each(|(index, what)| writeln!(told, "{what} {index}").unwrap());
    contradiction.iter().for_each(|reason| writeln!(told, "contradiction: {reason}").unwrap());
    told
}

fn play(commands: &str) -> String {
    let mut one = Patient::default();
    let mut witnesses = Vec::new();
    let mut out = String::new();
    for line in commands.lines() {
        match line.split_whitespace().next() {
            Some("patient") => one = patient(line),
            Some("witness") => witnesses.push(witness(line)),
            Some("hear") => {
                let before = one.hard.commit;
                out += &cure_told(&one.hear(&std::mem::take(&mut witnesses)));
                if one.hard.commit != before {
                    writeln!(out, "knows committed up to {}", one.hard.commit).unwrap();
                }
                out += &told(&one);
            }
            Some("wanted") => {
                let names: String =
                    one.wanted(9).into_iter().flat_map(|run| run.names()).map(|(index, term)| format!(" {index}.{term}")).collect();
                writeln!(out, "wants{names}").unwrap();
            }
            Some("cover") => {
                one.cover(start(line.split_whitespace().nth(1).unwrap()));
                out += &told(&one);
            }
            Some("#") | None => {}
            Some(other) => panic!("{other}"),
        }
    }
    // Whatever it came to, it can be written down and read back.
    let written = one.records(Record { key: Key::default(), ..Record::default() });
    let mut entries = BTreeMap::new();
    let mut lost = BTreeMap::new();
    for record in &written {
        lost.extend(record.lost.iter().flat_map(|run| run.names()));
        entries.extend(record.entries.iter().map(|entry| (entry.index, entry.clone())));
        let consecutive = record.entries.windows(2).all(|pair| pair[0].index + 1 == pair[1].index);
        assert!(consecutive && (record.lost.is_empty() || record.entries.is_empty()), "{record:?}");
    }
    assert_eq!((entries, lost), (one.entries, one.lost));
    out
}

const TRANSCRIPTS: [&str; 7] = [
    include_str!("../testdata/refetch/a-state-over-what-is-not-known.txt"),
    include_str!("../testdata/refetch/an-entry-follows-only-what-the-leader-has-before-it.txt"),
    include_str!("../testdata/refetch/an-entry-is-given-up-only-if-it-never-was-committed.txt"),
    include_str!("../testdata/refetch/the-very-entry-is-taken-from-whoever-has-it.txt"),
    include_str!("../testdata/refetch/what-the-giver-knows-to-be-committed-comes-with-the-entry.txt"),
    include_str!("../testdata/refetch/what-was-lost-without-a-name-is-replaced-by-the-leaders-log.txt"),
    include_str!("../testdata/refetch/where-the-others-have-cut-a-state-is-fetched.txt"),
];

#[test]
fn transcripts() {
    for text in TRANSCRIPTS {
        let mut rest = text;
        while let Some((commands, after)) = rest.split_once("----\n") {
            let (expected, next) = after.split_once("\n\n").unwrap_or((after.trim_end(), ""));
            assert_eq!(play(commands).trim_end(), expected, "{commands}");
            rest = next;
        }
    }
}
