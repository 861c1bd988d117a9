//! Whom a client asks.

use super::*;
use crate::members::Change;
use protocol::DriveId;

fn place(id: u64) -> ReplicaPlace {
    ReplicaPlace { replica: ReplicaId(id), node: NodeId(id), drive: DriveId(id) }
}

fn joint() -> (GroupSpec, Members) {
    let spec = GroupSpec { group: GroupId(1), voters: (1..=3).map(place).collect() };
    let mut members = Members::founding(&spec);
    members.take(Change::AddLearner(place(4))).unwrap();
    members.take(Change::Exchange { enters: ReplicaId(4), leaves: ReplicaId(2) }).unwrap();
    (spec, members)
}

#[test]
fn who_is_only_a_voter_before_an_exchange_may_lead_and_is_asked() {
    let tour = Tour::of(GroupId(1), &joint().1, Some(ReplicaId(2)), NodeId(9)).unwrap();
    assert_eq!(tour.voters, [place(1), place(4), place(3), place(2)]);
    assert_eq!(tour.place(), place(2));
}

/// Else the next tour would have nobody to ask, or somebody else's replicas.
#[test]
fn what_cannot_be_a_configuration_of_the_group_is_not_learned() {
    let (spec, members) = joint();
    let directory = Directory::of([&spec]);
    directory.learn(GroupId(1), &members);
    let other = Members { group: GroupId(2), version: 9, ..members.clone() };
    let nobody = Members { voters: Vec::new(), version: 9, ..members.clone() };
    [other, nobody].iter().for_each(|wrong| directory.learn(GroupId(1), wrong));
    assert_eq!(directory.members(GroupId(1)), Some(members));
}

/// Outside of any simulation: calls take real time, and unit tests have no machine.
#[cfg(test)]
#[cfg(not(madsim))]
mod shedding {
    use super::*;
    use runtime::rpc::{Reply, Request, Secret};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A client of a group of which the first so many replicas that are asked take no more, and how often they were asked.
    fn group_with(full: u64) -> (Client, Arc<AtomicU64>) {
        let rpc = Rpc::new(rpc::Settings {
            node: NodeId(1),
            cluster: protocol::ClusterId(1),
            secret: Secret(b"secret".as_slice().into()),
            listen: "127.0.0.1:0".parse().unwrap(),
            peers: BTreeMap::new(),
        });
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        let serve = move |_: Request| {
            let answer = if count.fetch_add(1, Ordering::Relaxed) < full { Answer::Busy } else { Answer::Reply };
            let reply: futures::future::BoxFuture<'static, Reply> =
                Box::pin(std::future::ready(Reply { meta: encode(&answer).into(), body: Vec::new() }));
            reply
        };
        rpc.register(2, Arc::new(serve));
        let voters = (1..=3).map(|id| ReplicaPlace { node: NodeId(1), ..place(id) }).collect();
        (Client::new(rpc, vec![GroupSpec { group: GroupId(1), voters }]), asked)
    }

    /// Whether it was busy, and how many replicas were asked in a second.
    fn asked(full: u64, read: bool) -> (bool, u64) {
        runtime::process::block_on(async {
            let (client, asked) = group_with(full);
            let deadline = time::now() + Duration::from_secs(1);
            let answer = if read {
                client.read(GroupId(1), Bytes::new(), deadline).await
            } else {
                client.propose(GroupId(1), None, Bytes::new(), deadline).await
            };
            assert!(matches!(answer, Ok(_) | Err(Error::Busy { .. })), "{answer:?}");
            assert!(time::now() < deadline, "who is refused hears of it before his deadline");
            (answer.is_err(), asked.load(Ordering::Relaxed))
        })
    }

    #[test]
    fn a_read_is_taken_by_another_replica_or_refused_but_never_put_to_everybody_again_and_again() {
        assert_eq!(asked(0, true), (false, 1));
        assert_eq!(asked(1, true), (false, 2));
        assert_eq!(asked(2, true), (true, 2));
        assert_eq!(asked(u64::MAX, true), (true, 2));
    }

    #[test]
    fn a_proposal_that_meets_a_full_leader_is_refused_at_once() {
        assert_eq!(asked(u64::MAX, false), (true, 1));
    }
}
