//! How old what stands in a partition is, by cluster time.
//!
//! A mark (revision, time) says: whatever has a revision up to this one was made when cluster time was no later than this.
//! Who brings a mark read the revision first and cluster time after it; what had been made by then was made before that
//! reading, and cluster time never goes back. So a mark is true for good, whoever brings it, late or twice, and no clock but cluster
//! time's has a part in it. What no mark speaks of yet has no age.
//!
//! Always holds: marks rise, in revision and in time. One that is left out makes what it spoke of look younger, never
//! older: what expires does so late rather than early.

use consensus::RowsMut;
use protocol::Revision;
use protocol::lifecycle::DAY_MS;
use runtime::probe;

use crate::bucket::malformed;
use crate::rows::{Ages, Read, write};
use crate::{Error, keys};

/// The newest marks are all kept: three weeks of hourly ones. Of those before, one for each day.
const RECENT: usize = 512;
/// Most marks: twenty years of daily ones. What is older has the age of the oldest mark.
const MARKS_MAX: usize = 8192;

/// Take in a mark.
pub(crate) fn mark(rows: &mut RowsMut<'_>, revision: Revision, now_ms: u64) -> Result<(), Error> {
    if revision > rows.counters()?.revision {
        return Err(malformed("a mark of revisions that were not made yet"));
    }
    let mut ages = of(rows)?;
    if ages.take(revision, now_ms) {
        write(rows, &keys::ages(), &ages);
    } else {
        probe!("mark-of-ages-told-nothing-new");
    }
    Ok(())
}

/// As the rows say.
pub(crate) fn of(rows: &impl Read) -> Result<Ages, Error> {
    Ok(rows.row(&keys::ages())?.unwrap_or_default())
}

impl Ages {
    /// Whether it told anything new.
    fn take(&mut self, revision: Revision, now_ms: u64) -> bool {
        match self.marks.last_mut() {
            // What it speaks of has a better mark already.
            Some((known, at_ms)) if revision <= *known || now_ms < *at_ms => return false,
            Some((known, at_ms)) if now_ms == *at_ms => *known = revision,
            _ => self.marks.push((revision, now_ms)),
        }
        if let Some(leaving) = self.marks.len().checked_sub(RECENT + 1)
            && leaving > 0
            // What it spoke of has the age of the mark behind it from then on.
            && self.marks[leaving + 1].1 <= self.marks[leaving - 1].1.saturating_add(DAY_MS)
        {
            self.marks.remove(leaving);
        }
        if self.marks.len() > MARKS_MAX {
            self.marks.remove(0);
        }
        true
    }

    /// The last revision that was surely made when cluster time was no later than `time_ms`.
    pub(crate) fn made_by(&self, time_ms: u64) -> Option<Revision> {
        let after = self.marks.partition_point(|(_, at_ms)| *at_ms <= time_ms);
        self.marks[..after].last().map(|(revision, _)| *revision)
    }

    /// Cluster time of the last mark.
    pub(crate) fn last_ms(&self) -> u64 {
        self.marks.last().map_or(0, |(_, at_ms)| *at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const HOUR_MS: u64 = 3600 * 1000;

    #[test]
    fn hourly_marks_of_ten_years_are_few_and_late_by_a_day_at_most() {
        let mut ages = Ages::default();
        let hours = 10 * 365 * 24;
        for hour in 1..=hours {
            assert!(ages.take(Revision(hour), hour * HOUR_MS));
        }
        assert!(ages.marks.len() < RECENT + 10 * 366, "{}", ages.marks.len());
        assert!(ages.marks.is_sorted_by(|left, right| left.0 < right.0 && left.1 < right.1));
        for hour in 1..=hours {
            // The revision of each hour was made then; when does it count as made?
            let counted = ages.marks.iter().find(|(revision, _)| revision.0 >= hour).unwrap().1;
            let late = counted - hour * HOUR_MS;
            let most = if hour > hours - RECENT as u64 { 0 } else { DAY_MS };
            assert!(late <= most, "{hour}: {late}");
        }
    }

    #[test]
    fn marks_before_a_long_silence_stay() {
        let mut ages = Ages::default();
        let silence = 30 * DAY_MS;
        for hour in 1..=24 {
            ages.take(Revision(hour), hour * HOUR_MS);
        }
        for hour in 25..=2000 {
            ages.take(Revision(hour), hour * HOUR_MS + silence);
        }
        assert!(ages.marks.contains(&(Revision(24), 24 * HOUR_MS)), "what was made by then is older than the silence");
        assert_eq!(ages.made_by(25 * HOUR_MS), Some(Revision(24)));
    }

    quickcheck! {
        /// Marks as they come, early and late ones: what counts as made by a time was made by then.
        fn nothing_counts_as_made_before_it_was(steps: Vec<(u8, u8, bool)>, asked: u16) -> bool {
            let (mut ages, mut revision, mut now_ms) = (Ages::default(), 0_u64, 1_u64);
            // When each revision was made, by cluster time.
            let mut made = vec![0];
            let mut late = (0, 1);
            for (writes, passes, delayed) in steps {
                for _ in 0..writes % 5 {
                    revision += 1;
                    made.push(now_ms);
                }
                let seen = revision;
                now_ms += u64::from(passes % 7);
                let mark = (seen, now_ms);
                // One is held up until after the next.
                let (seen, read_ms) = if delayed { std::mem::replace(&mut late, mark) } else { mark };
                ages.take(Revision(seen), read_ms);
            }
            let time_ms = u64::from(asked) % (now_ms + 2);
            ages.made_by(time_ms).is_none_or(|Revision(last)| made[..=usize::try_from(last).unwrap()].iter().all(|at| *at <= time_ms))
        }
    }
}
