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
        "enter" => Change::Enter(id(1)),
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

const TRANSCRIPTS: [&str; 6] = [
    include_str!("../../testdata/members/a-voter-enters-beside-the-others.txt"),
    include_str!("../../testdata/members/a-voter-is-exchanged-through-a-joint-configuration.txt"),
    include_str!("../../testdata/members/an-id-far-away-is-refused.txt"),
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
    assert_eq!(bytes(Change::Enter(ReplicaId(6))), [1, 6, 6]);
    let mut members = founding(1);
    members.take(Change::AddLearner(place(2))).unwrap();
    assert_eq!(wire::encode(&members), [1, 1, 1, 1, 1, 11, 101, 0, 1, 2, 12, 102, 0, 2, 1]);
}

impl Arbitrary for Change {
    fn arbitrary(random: &mut Gen) -> Change {
        let mut id = || ReplicaId(1 + u64::arbitrary(random) % 9);
        let (one, other) = (id(), id());
        match u8::arbitrary(random) % 9 {
            0 | 1 => Change::AddLearner(place(one.0)),
            2 | 3 => Change::Exchange { enters: one, leaves: other },
            4 => Change::Leave,
            5 => Change::Release,
            6 => Change::Raise(one.0 as u32),
            7 => Change::Enter(one),
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
            assert!(members.is_sound(), "{members:?}");
            let more = usize::from(matches!(change, Change::Enter(_)));
            assert_eq!(members.voters.len(), before.voters.len() + more, "a voter is exchanged for one other, or enters");
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

    /// Lists as short as they are in a configuration, of few ids, so that many are sound and many nearly are.
    fn raft_takes_every_configuration_that_is_sound(lists: (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>), last: u8) -> bool {
        let places = |ids: &[u8], most: usize| ids.iter().take(most).map(|id| place(u64::from(id % 8))).collect::<Vec<_>>();
        let mut members = founding(1);
        (members.voters, members.outgoing) = (places(&lists.0, 3), places(&lists.1, 3));
        (members.learners, members.parting) = (places(&lists.2, 2), places(&lists.3, 1));
        members.last = ReplicaId(u64::from(last % 16));
        assert!(!members.is_sound() || members.is_as(&node(&members).raft.prs().conf().to_conf_state()), "{members:?}");
        // And whatever becomes of it on the way.
        let mut bytes = wire::encode(&members);
        let at = usize::from(last) % bytes.len();
        bytes[at] = bytes[at].wrapping_add(lists.0.first().copied().unwrap_or(1));
        if let Ok(members) = wire::decode::<Members>(&bytes).map_err(drop).and_then(|members| members.is_sound().then_some(members).ok_or(())) {
            assert!(members.is_as(&node(&members).raft.prs().conf().to_conf_state()), "{members:?}");
            assert!(members.with_vote().count() > 0 && members.all().count() <= MEMBERS_MAX);
        }
        true
    }
}

#[test]
fn what_cannot_be_a_configuration_is_not_sound() {
    let joint = || {
        let mut members = founding(3);
        members.take(Change::AddLearner(place(4))).unwrap();
        members.take(Change::AddLearner(place(5))).unwrap();
        members.take(Change::Exchange { enters: ReplicaId(4), leaves: ReplicaId(2) }).unwrap();
        members
    };
    let sound = |change: &dyn Fn(&mut Members)| {
        let mut members = joint();
        change(&mut members);
        members.is_sound()
    };
    assert!(sound(&|_| {}));
    assert!(!sound(&|members| members.voters.clear()));
    assert!(!sound(&|members| members.voters.push(place(1))), "twice");
    assert!(!sound(&|members| members.learners.push(place(1))), "a voter and a learner");
    assert!(!sound(&|members| members.learners.push(place(2))), "a voter before and a learner");
    assert!(!sound(&|members| members.parting.push(place(5))), "a learner and parting");
    assert!(!sound(&|members| members.outgoing[0].drive = DriveId(9)), "in two places");
    assert!(!sound(&|members| members.last = ReplicaId(4)), "an id that is still to come");
    assert!(!sound(&|members| members.voters[0].replica = ReplicaId(0)), "Raft's name for nobody");
    assert!(!sound(&|members| {
        members.last = ReplicaId(1000);
        members.learners = (10..10 + MEMBERS_MAX as u64).map(place).collect();
    }));
}

#[test]
fn a_later_founding_is_newer_than_anything_of_before_whatever_ids_that_gave_out() {
    let mut before = founding(3);
    let anew = before.refounded(NodeId(11), DriveId(101), 1000, 0).unwrap();
    let again = before.refounded(NodeId(12), DriveId(102), 1001, 5).unwrap();
    let below = before.refounded(NodeId(12), DriveId(102), 1001, 0).unwrap();
    let above = before.refounded(NodeId(11), DriveId(101), 1000, 5).unwrap();
    for replica in (4..=9).map(place) {
        before.take(Change::AddLearner(replica)).unwrap();
    }
    assert!(anew.is_sound() && (anew.era(), again.era(), before.era()) == (1000, 1001, 0));
    assert!((1..=3).all(|id| anew.proves_gone(ReplicaId(id), &founding(3))));
    assert!(again.version > anew.version && again.last.0 - anew.last.0 > ID_STEP_MAX);
    assert!(again.proves_gone(anew.last, &anew) && !anew.proves_gone(again.last, &again));
    assert!(
        below.last < above.last && below.proves_gone(above.last, &above) && !above.proves_gone(below.last, &below),
        "by the time alone"
    );
    assert!(!again.proves_gone(again.last, &anew), "it belongs");
    let too_far = founding(3).take(Change::AddLearner(ReplicaPlace { replica: anew.last, ..place(1) }));
    assert_eq!(too_far, Err(Refused::TooFar(anew.last)), "the old group does not come to its id at one step");
    // By a clock that is behind it is newer all the same.
    assert_eq!(anew.refounded(NodeId(11), DriveId(101), 3, 0).unwrap().era(), 1001);
    assert_eq!(Members { version: u64::MAX, ..founding(1) }.refounded(NodeId(1), DriveId(1), 0, 0), None);
    assert_eq!(Members { last: ReplicaId(u64::MAX), ..founding(1) }.refounded(NodeId(1), DriveId(1), 0, 0), None);
}

#[test]
fn only_a_newer_configuration_of_the_same_group_proves_that_a_replica_left() {
    let own = founding(3);
    let mut proof = own.clone();
    proof.take(Change::AddLearner(place(4))).unwrap();
    assert!(!proof.proves_gone(ReplicaId(3), &own), "it belongs");
    for step in [Change::Exchange { enters: ReplicaId(4), leaves: ReplicaId(3) }, Change::Leave, Change::Release] {
        assert!(!proof.proves_gone(ReplicaId(3), &own), "it may be asked for its vote yet");
        proof.take(step).unwrap();
    }
    assert!(proof.proves_gone(ReplicaId(3), &own));
    assert!(!proof.proves_gone(ReplicaId(5), &own), "it is yet to come");
    let but = |change: &dyn Fn(&mut Members)| {
        let mut proof = proof.clone();
        change(&mut proof);
        proof.proves_gone(ReplicaId(3), &own)
    };
    assert!(!but(&|proof| proof.group = GroupId(2)));
    assert!(!but(&|proof| proof.version = own.version));
    assert!(!but(&|proof| proof.voters.clear()), "no configuration at all");
    let newer = Members { last: ReplicaId(9), ..own.clone() };
    assert!(!proof.proves_gone(ReplicaId(3), &newer), "it knows of ids that the proof does not");
}
