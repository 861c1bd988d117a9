//! Cluster time: what expires is judged by it. The leader gathers what the root voters' clocks showed, and a command brings
//! all of it; here the median is taken.
//!
//! Always holds: cluster time never goes back, and a mark brings it forward by [`STEP_MS_MAX`] at most, the first one
//! excepted. It moves only while the clocks of a majority of the voters are heard and agree within [`AGREE_MS`], and is no later than
//! one of those that agree: at most `(n - 1) / 2` of `n` clocks, showing whatever, be they fast, slow or silent, neither hasten nor delay
//! it; and where more are wild, it stands unless those that are agree. A reading is as old as its way here, and older ones do no
//! harm: cluster time is a lower bound.

use super::{Verdict, decode_row};
use crate::Error;
use crate::commands::Reply;
use consensus::RowsMut;
use protocol::limits::SUSPECT_AFTER;
use protocol::{ReplicaId, wire};
use runtime::{planted, probe};
use std::collections::BTreeSet;

const TIME: &[u8] = b"time";

/// Furthest that one mark goes, in milliseconds: thirty times [`crate::service::MARK_EVERY`]. So clocks of which most are wrong at
/// once do limited harm, and after a month in which the cluster was off cluster time catches up in a day.
pub const STEP_MS_MAX: u64 = 5 * 60 * 1000;

/// Furthest that the readings of clocks lie apart which agree, in milliseconds: a minute, and as long as a node's last word may be old.
pub const AGREE_MS: u64 = 60_000 + SUSPECT_AFTER.as_millis() as u64;

/// Most voters that a mark may name.
const VOTERS_MAX: usize = 64;

/// Take in what the voters' clocks showed; `None` for one that was not heard.
pub(super) fn mark(rows: &mut RowsMut<'_>, clocks: &[(ReplicaId, Option<u64>)]) -> Result<Verdict, Error> {
    let voters: BTreeSet<ReplicaId> = clocks.iter().map(|(voter, _)| *voter).collect();
    if clocks.is_empty() || clocks.len() > VOTERS_MAX || voters.len() != clocks.len() {
        return Err(Error::Malformed("a mark of time names each voter once, and at most 64".into()));
    }
    let known = now_ms(rows.get(TIME));
    let shown: Vec<Option<u64>> = clocks.iter().map(|(_, shown)| *shown).collect();
    if !agree(&shown) && !planted("cluster-time-follows-a-wild-median") {
        probe!("placement: cluster time was held as no majority of the clocks agrees");
        return Ok(Verdict::Unchanged(Reply::Time { now_ms: known }));
    }
    // It is one of those that agree: a majority of neighbours has the middle among it.
    let shown = median(shown.into_iter().map(Option::unwrap_or_default).collect());
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

/// Whether what a majority of the voters' clocks showed lies within [`AGREE_MS`]; `None` for one that was not heard.
pub fn agree(shown: &[Option<u64>]) -> bool {
    let mut heard: Vec<u64> = shown.iter().flatten().copied().collect();
    heard.sort_unstable();
    let majority = shown.len() / 2 + 1;
    heard.windows(majority).any(|some| some[majority - 1] - some[0] <= AGREE_MS)
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
    fn it_is_held_while_the_clocks_of_no_majority_agree() {
        const YEAR: u64 = 365 * 24 * 3600 * 1000;
        let mut model = Model::founded(3, 1, 2);
        assert_eq!(mark(&mut model, &[Some(START), Some(START + YEAR), Some(START + 9 * YEAR)]), 0, "not even at first");
        mark(&mut model, &[Some(START); 3]);
        let apart = |later: u64| [Some(START + later), Some(START + YEAR + later), Some(START + 9 * YEAR + later)];
        for later in [10_000, 20_000] {
            assert_eq!(mark(&mut model, &apart(later)), START, "the one in the middle is as wild as the others");
        }
        assert_eq!(mark(&mut model, &[Some(START + 30_000), Some(START + YEAR), None]), START, "and one of two is no majority");
        // As soon as two of three agree it goes on with them.
        let agreeing = [Some(START + 40_000), Some(START + 9 * YEAR), Some(START + 40_000 + AGREE_MS)];
        assert_eq!(mark(&mut model, &agreeing), START + 40_000 + AGREE_MS);
        let mut model = Model::founded(3, 1, 2);
        mark(&mut model, &[Some(START); 3]);
        assert_eq!(mark(&mut model, &[Some(START + 9), Some(START + 10 + AGREE_MS), None]), START, "a little further apart is too far");
        // Two of four are no majority, though they agree.
        assert_eq!(mark(&mut model, &[Some(START + 9), Some(START + 9), Some(START + YEAR), Some(START + 2 * YEAR)]), START);
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

    /// Marks: what the right clocks show, which agree, and the wild ones, each with whether it is heard.
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
