//! Cluster time: what expires is judged by it. The leader gathers what the root voters' clocks showed, and a command brings
//! all of it; here the median is taken.
//!
//! Always holds: cluster time never goes back, and a mark brings it forward by [`STEP_MS_MAX`] at most, the first one
//! excepted. It is no later than the clock of some voter, and no earlier than that of another, outside of those
//! that a minority of wild clocks could choose: at most `(n - 1) / 2` of `n` clocks, showing whatever, be they fast, slow or silent,
//! neither hasten nor delay it. While no majority is heard it stands still. A reading is as old as its way here, and older
//! ones do no harm: cluster time is a lower bound.

use super::{Verdict, decode_row};
use crate::Error;
use crate::commands::Reply;
use consensus::RowsMut;
use protocol::{ReplicaId, wire};
use runtime::{planted, probe};
use std::collections::BTreeSet;

const TIME: &[u8] = b"time";

/// Furthest that one mark goes, in milliseconds: thirty times [`crate::service::MARK_EVERY`]. So clocks of which most are wrong at
/// once do limited harm, and after a month in which the cluster was off cluster time catches up in a day.
pub const STEP_MS_MAX: u64 = 5 * 60 * 1000;

/// Most voters that a mark may name.
const VOTERS_MAX: usize = 64;

/// Take in what the voters' clocks showed; `None` for one that was not heard.
pub(super) fn mark(rows: &mut RowsMut<'_>, clocks: &[(ReplicaId, Option<u64>)]) -> Result<Verdict, Error> {
    let voters: BTreeSet<ReplicaId> = clocks.iter().map(|(voter, _)| *voter).collect();
    if clocks.is_empty() || clocks.len() > VOTERS_MAX || voters.len() != clocks.len() {
        return Err(Error::Malformed("a mark of time names each voter once, and at most 64".into()));
    }
    let known = now_ms(rows.get(TIME));
    let shown = median(clocks.iter().map(|(_, shown)| shown.unwrap_or(0)).collect());
    let next = if known == 0 { shown } else { shown.min(known.saturating_add(STEP_MS_MAX)) };
    if next < shown {
        probe!("placement: cluster time catches up in steps");
    }
    if next <= known && !planted("cluster-time-goes-back") {
        probe!("placement: cluster time was held");
        return Ok(Verdict::Unchanged(Reply::Time { now_ms: known }));
    }
    rows.put(TIME, &wire::encode(&next));
    Ok(Verdict::Changed(Reply::Time { now_ms: next }))
}

/// Cluster time in this row; 0 before the first mark.
pub(super) fn now_ms(row: Option<bytes::Bytes>) -> u64 {
    decode_row(row).unwrap_or(0)
}

/// The key of its row.
pub(super) fn row() -> &'static [u8] {
    TIME
}

/// The one in the middle; of an even number the lower one, which leaves a minority on either side of it, too.
fn median(mut shown: Vec<u64>) -> u64 {
    if planted("cluster-time-of-the-fastest-clock") {
        return shown.into_iter().max().expect("not empty");
    }
    shown.sort_unstable();
    shown[(shown.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, Query};
    use crate::root::testing::Model;
    use quickcheck::quickcheck;

    /// An hour of 2023, in milliseconds.
    const START: u64 = 1_700_000_000_000;

    fn mark(model: &mut Model, clocks: &[Option<u64>]) -> u64 {
        let clocks = clocks.iter().zip(1..).map(|(shown, voter)| (ReplicaId(voter), *shown)).collect();
        match model.apply(Command::MarkTime { clocks }).result {
            Ok(Reply::Time { now_ms }) => now_ms,
            other => panic!("{other:?}"),
        }
    }

    fn at(model: &Model) -> u64 {
        match model.query(Query::Time).result {
            Ok(Reply::Time { now_ms }) => now_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_minority_of_wild_clocks_neither_hastens_nor_delays() {
        let mut model = Model::founded(3, 1, 2);
        assert_eq!(at(&model), 0);
        assert_eq!(mark(&mut model, &[Some(START + 5), Some(START), Some(u64::MAX)]), START + 5);
        assert_eq!(mark(&mut model, &[Some(START + 9), Some(0), Some(START + 7)]), START + 7);
        assert_eq!(mark(&mut model, &[Some(START + 20), Some(0), None, Some(START + 30), Some(START + 10)]), START + 10);
        assert_eq!(at(&model), START + 10);
    }

    #[test]
    fn it_is_held_while_no_majority_is_heard_or_agrees() {
        let mut model = Model::founded(3, 1, 2);
        assert_eq!(mark(&mut model, &[Some(START), None, None]), 0);
        mark(&mut model, &[Some(START), Some(START), None]);
        let revision = model.query(Query::Time).revision;
        assert_eq!(mark(&mut model, &[Some(START + 9), None, None]), START);
        assert_eq!(mark(&mut model, &[Some(START + 9), Some(START + 9), None, None]), START, "two of four are no majority");
        assert_eq!(mark(&mut model, &[Some(START - 9), Some(START - 9), Some(START - 9)]), START, "never back");
        assert_eq!(model.query(Query::Time).revision, revision);
    }

    #[test]
    fn it_catches_up_in_steps() {
        let mut model = Model::founded(3, 1, 2);
        mark(&mut model, &[Some(START); 3]);
        let day = START + 24 * 3600 * 1000;
        assert_eq!(mark(&mut model, &[Some(day); 3]), START + STEP_MS_MAX);
        for _ in 0..24 * 12 {
            mark(&mut model, &[Some(day); 3]);
        }
        assert_eq!(at(&model), day);
    }

    #[test]
    fn a_mark_that_names_nobody_or_somebody_twice_is_refused() {
        let mut model = Model::founded(3, 1, 2);
        for voters in [vec![], vec![1, 2, 1], (1..=65).collect()] {
            let clocks = voters.into_iter().map(|voter| (ReplicaId(voter), Some(START))).collect();
            assert!(matches!(model.apply(Command::MarkTime { clocks }).result, Err(Error::Malformed(_))));
        }
        assert_eq!(at(&model), 0);
    }

    #[test]
    fn the_bytes_of_the_row_stay_as_documented() {
        assert_eq!(wire::encode(&300u64), [1, 0xac, 2]);
    }

    /// Marks: what the right clocks show, and the wild ones, each with whether it is heard.
    type Marks = Vec<(Vec<u16>, Vec<(u64, bool)>)>;

    quickcheck! {
        fn cluster_time_lies_among_the_right_clocks_and_never_goes_back(marks: Marks) -> bool {
            let mut model = Model::founded(3, 1, 2);
            let mut before = 0;
            // Most any right clock showed so far, and least that the last ones did.
            let mut most = 0;
            marks.into_iter().filter(|(right, _)| !right.is_empty()).all(|(right, mut wild)| {
                let right: Vec<u64> = right.into_iter().take(20).map(|late| START + u64::from(late)).collect();
                wild.truncate(right.len() - 1);
                let clocks: Vec<Option<u64>> =
                    right.iter().copied().map(Some).chain(wild.into_iter().map(|(shown, heard)| heard.then_some(shown))).collect();
                let now = mark(&mut model, &clocks);
                most = most.max(*right.iter().max().unwrap());
                let sound = now >= before && now >= *right.iter().min().unwrap() && now <= most;
                before = now;
                sound
            })
        }
    }
}
