//! Transcripts of configurations, the bytes of changes, and Raft's own opinion of each step.

use super::*;
use protocol::{DriveId, GroupId, NodeId};
use quickcheck::{Arbitrary, Gen, quickcheck};
use raft::storage::MemStorage;
use raft::{Config, RawNode};
use std::fmt::Write;

fn place(replica: u64) -> ReplicaPlace {
    ReplicaPlace { replica: ReplicaId(replica), node: NodeId(10 + replica), drive: DriveId(100 + replica) }
}

fn founding(voters: u64) -> Members {
    Members::founding(&GroupSpec { group: GroupId(1), voters: (1..=voters).map(place).collect() })
}

fn change_of(line: &str) -> Change {
    let words: Vec<&str> = line.split_whitespace().collect();
    let id = |at: usize| ReplicaId(words[at].parse().unwrap());
    match words[0] {
        "learner" => Change::AddLearner(place(id(1).0)),
        "learner-elsewhere" => Change::AddLearner(ReplicaPlace { drive: DriveId(7), ..place(id(1).0) }),
        "exchange" => Change::Exchange { leaves: id(1), enters: id(2) },
        "leave" => Change::Leave,
        "release" => Change::Release,
        "remove" => Change::RemoveLearner(id(1)),
        other => panic!("{other}"),
    }
}

fn told(members: &Members) -> String {
    let ids = |places: &[ReplicaPlace]| places.iter().map(|place| place.replica.to_string()).collect::<Vec<_>>().join(" ");
    let mut text = format!("version {} voters {}", members.version, ids(&members.voters));
    for (name, places) in [("outgoing", &members.outgoing), ("learners", &members.learners), ("parting", &members.parting)] {
        if !places.is_empty() {
            write!(text, " {name} {}", ids(places)).unwrap();
        }
    }
    write!(text, " last {}", members.last).unwrap();
    text
}

const TRANSCRIPTS: [&str; 4] = [
    include_str!("../../testdata/members/a-voter-is-exchanged-through-a-joint-configuration.txt"),
    include_str!("../../testdata/members/an-id-that-left-never-comes-back.txt"),
    include_str!("../../testdata/members/every-step-can-be-asked-for-again.txt"),
    include_str!("../../testdata/members/one-exchange-at-a-time.txt"),
];

/// Each transcript: `voters N`, then steps; under `----` what every step came to.
#[test]
fn transcripts() {
    for text in TRANSCRIPTS {
        let (steps, expected) = text.split_once("----\n").unwrap();
        let mut members = founding(0);
        let mut found = String::new();
        for line in steps.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(voters) = line.strip_prefix("voters ") {
                members = founding(voters.parse().unwrap());
                continue;
            }
            let outcome = match members.take(change_of(line)) {
                Ok(true) => told(&members),
                Ok(false) => "so already".to_owned(),
                Err(refused) => format!("refused: {refused}"),
            };
            writeln!(found, "{line}: {outcome}").unwrap();
        }
        assert_eq!(found, expected, "{steps}");
    }
}

#[test]
fn golden_bytes_of_changes() {
    let bytes = |change: Change| {
        let encoded = change.encode();
        assert_eq!(Change::decode(&encoded), Some(change));
        encoded
    };
    assert_eq!(bytes(Change::AddLearner(place(6))), [1, 0, 6, 16, 106]);
    assert_eq!(bytes(Change::Exchange { enters: ReplicaId(6), leaves: ReplicaId(2) }), [1, 1, 6, 2]);
    assert_eq!(bytes(Change::Leave), [1, 2]);
    assert_eq!(bytes(Change::Release), [1, 3]);
    assert_eq!(bytes(Change::RemoveLearner(ReplicaId(300))), [1, 4, 0xac, 2]);
    assert_eq!(bytes(Change::Raise(2)), [1, 5, 2]);
    let mut members = founding(1);
    members.take(Change::AddLearner(place(2))).unwrap();
    assert_eq!(wire::encode(&members), [1, 1, 1, 1, 11, 101, 0, 1, 2, 12, 102, 0, 2, 1]);
}

impl Arbitrary for Change {
    fn arbitrary(random: &mut Gen) -> Change {
        let mut id = || ReplicaId(1 + u64::arbitrary(random) % 9);
        let (one, other) = (id(), id());
        match u8::arbitrary(random) % 8 {
            0 | 1 => Change::AddLearner(place(one.0)),
            2 | 3 => Change::Exchange { enters: one, leaves: other },
            4 => Change::Leave,
            5 => Change::Release,
            6 => Change::Raise(one.0 as u32),
            _ => Change::RemoveLearner(one),
        }
    }
}

/// A Raft node that does nothing but change its configuration.
fn node(members: &Members) -> RawNode<MemStorage> {
    let store = MemStorage::new_with_conf_state(members.to_raft());
    RawNode::new(&Config::new(99), store, &slog::Logger::root(slog::Discard, slog::o!())).unwrap()
}

quickcheck! {
    fn raft_agrees_with_every_step_and_no_id_comes_back(changes: Vec<Change>) -> bool {
        let mut members = founding(3);
        let mut raft = node(&members);
        let mut gone: Vec<ReplicaId> = Vec::new();
        for change in changes {
            let before = members.clone();
            if !members.take(change).unwrap_or(false) {
                assert_eq!(members, before, "what is refused changes nothing");
                continue;
            }
            if let Some(change) = change.to_raft() {
                raft.apply_conf_change(&change).unwrap();
            }
            assert!(members.is_as(&raft.raft.prs().conf().to_conf_state()), "{change:?}: {before:?} {members:?}");
            // And whoever starts anew from what was stored is where the others are.
            assert!(members.is_as(&node(&members).raft.prs().conf().to_conf_state()));
            assert_eq!(members.version, before.version + 1);
            assert_eq!(members.voters.len(), 3, "a group keeps its number of voters");
            assert!(gone.iter().all(|id| members.place(*id).is_none()), "{gone:?} {members:?}");
            assert!(members.machine >= before.machine, "a version is never taken back");
            gone.extend(before.all().map(|place| place.replica).filter(|id| members.place(*id).is_none()));
            assert!(gone.iter().all(|id| members.is_gone(*id)));
        }
        true
    }

    fn any_bytes_decode_to_a_change_or_to_none(data: Vec<u8>) -> bool {
        Change::decode(&data).is_none_or(|change| Change::decode(&change.encode()) == Some(change))
    }
}
