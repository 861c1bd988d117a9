//! Linearizability of one key by its revisions: O(n log n).
//!
//! A write's reply names the revision that it made, a read's the last one that it saw. So the order is known: writes by
//! their revisions, each read behind the last write that is no younger than what it saw. It remains to verify that this
//! order keeps to real time, and that every value, absence and condition is what the order makes it.
//!
//! Writes of unknown outcome have no revision: one is put where a result asks for it, and only there. Results without a
//! revision (listings, sources of copies, DeleteBucket) must fit somewhere between what is ordered.
//!
//! Decided: whatever needs no choice. Undecided, and left to the other methods: keys with an acknowledged write
//! without a revision; results that several writes of unknown outcome could explain, if the choice made here fails.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::register::{Condition, Effect, Step, told};
use crate::history::Value;

/// Judge the steps of one key.
pub(super) fn judge(steps: &[Step<'_>]) -> Verdict {
    let open_or_numbered = |step: &Step<'_>| step.effect.only_reads() || step.ended.is_none() || step.revision.is_some();
    if let Some(step) = steps.iter().find(|step| !open_or_numbered(step)) {
        return Verdict::Undecided(format!("no revision: {}", step.describe()));
    }
    if !steps.iter().any(|step| step.revision.is_some()) && !steps.is_empty() {
        return Verdict::Undecided("no revisions".to_owned());
    }
    let mut order = Order::new(steps);
    match order.replay().and_then(|()| order.place_the_rest()) {
        Ok(()) => Verdict::Linearizable,
        Err(reason) if order.chose => Verdict::Undecided(reason),
        Err(reason) => Verdict::Violated(reason),
    }
}

struct Order<'a> {
    steps: &'a [Step<'a>],
    /// Steps with a revision and an end, in the order that the revisions give.
    ordered: Vec<usize>,
    /// The least end of what stands at this place of `ordered` or behind it.
    least_end: Vec<u64>,
    /// Writes of unknown outcome that were not put anywhere yet, by value; and deletes, by their beginning.
    open: BTreeMap<Value, usize>,
    open_deletes: BTreeSet<(u64, usize)>,
    /// Values that somebody saw.
    told: BTreeSet<Value>,
    /// What happens was chosen, or a copy of unknown outcome may have written anything, or a conditional delete of unknown outcome
    /// removed it.
    chose: bool,
    state: Option<Value>,
    /// The greatest beginning so far.
    begun: u64,
    culprit: Option<usize>,
    states: Vec<Held>,
}

/// A state of the register, in the order of the revisions.
struct Held {
    state: Option<Value>,
    /// The greatest beginning of all up to the step that made it.
    begun: u64,
    /// Place in `ordered` in front of which it ends.
    until: usize,
}

impl<'a> Order<'a> {
    fn new(steps: &'a [Step<'a>]) -> Order<'a> {
        // Of the same revision: first who made it, then who saw it. A delete of what does not exist only sees: of
        // several the one that began first is the likeliest to have made it.
        let rank = |step: &Step<'_>| match step.effect {
            Effect::Remove => 1,
            _ if step.effect.only_reads() => 2,
            _ => 0,
        };
        let is_ordered = |index: &usize| steps[*index].revision.is_some() && steps[*index].ended.is_some();
        let mut ordered: Vec<usize> = (0..steps.len()).filter(is_ordered).collect();
        ordered.sort_by_key(|index| {
            let step = &steps[*index];
            let rank = rank(step);
            (step.revision, rank, if rank == 1 { Some(step.begun) } else { step.ended })
        });
        let mut least_end = vec![u64::MAX; ordered.len() + 1];
        for place in (0..ordered.len()).rev() {
            least_end[place] = least_end[place + 1].min(steps[ordered[place]].end());
        }
        let (mut open, mut open_deletes, mut chose) = (BTreeMap::new(), BTreeSet::new(), false);
        for (index, step) in steps.iter().enumerate().filter(|(_, step)| step.ended.is_none()) {
            match &step.effect {
                Effect::Remove => {
                    open_deletes.insert((step.begun, index));
                }
                Effect::WriteOneOf(_) | Effect::RemoveIf(_) => chose = true,
                effect => {
                    if let Some(value) = effect.writes() {
                        chose |= open.insert(value, index).is_some();
                    }
                }
            }
        }
        let told = steps.iter().filter_map(|step| told(&step.effect)).collect();
        Order { steps, ordered, least_end, open, open_deletes, told, chose, state: None, begun: 0, culprit: None, states: Vec::new() }
    }

    /// Let everything that is ordered take effect.
    fn replay(&mut self) -> Result<(), String> {
        self.hold(0);
        let mut place = 0;
        while place < self.ordered.len() {
            // What only saw this revision is in no order among itself.
            let revision = self.steps[self.ordered[place]].revision;
            let mut end = place;
            let (mut makers, mut saw_begun) = (0, self.begun);
            self.hide_delete(place);
            while end < self.ordered.len() && self.steps[self.ordered[end]].revision == revision {
                let step = &self.steps[self.ordered[end]];
                // A delete made the revision if there was something to delete.
                let only_saw = step.effect.only_reads() || (step.effect == Effect::Remove && self.state.is_none());
                if only_saw && step.effect == Effect::Remove {
                    self.in_time(self.ordered[end])?;
                } else {
                    self.take_effect(self.ordered[end], end)?;
                }
                saw_begun = saw_begun.max(step.begun);
                if !only_saw {
                    makers += 1;
                    if makers > 1 {
                        return Err(format!("two writes made one revision, the second is {}", step.describe()));
                    }
                    self.note(self.ordered[end]);
                    self.hold(end);
                }
                end += 1;
            }
            self.begun = self.begun.max(saw_begun);
            place = end;
        }
        Ok(())
    }

    /// Where the group of one revision begins with a delete that cannot have made it, as something of the group had ended
    /// before: then a delete of unknown outcome did.
    fn hide_delete(&mut self, place: usize) {
        let first = &self.steps[self.ordered[place]];
        let saw = |index: &usize| self.steps[*index].revision == first.revision && self.steps[*index].end() < first.begun;
        if first.effect == Effect::Remove
            && self.state.is_some()
            && self.ordered[place + 1..].iter().take_while(|index| self.steps[**index].revision == first.revision).any(saw)
        {
            let limit = self.least_end[place];
            self.reach(None, limit, place, 0);
        }
    }

    /// Let the step at `place` take effect, after writes of unknown outcome if it asks for them.
    fn take_effect(&mut self, index: usize, place: usize) -> Result<(), String> {
        let step = &self.steps[index];
        self.in_time(index)?;
        if step.effect.apply(self.state, 0).is_none() {
            let asked = match &step.effect {
                Effect::Read(seen) => Some(*seen),
                Effect::WriteIf(Condition::Absent, _) => Some(None),
                Effect::WriteIf(Condition::Matches(value), _) | Effect::RemoveIf(Condition::Matches(value)) => Some(Some(*value)),
                // Anything else than what is.
                _ => self.another(place),
            };
            let limit = self.least_end[place];
            if !asked.is_some_and(|asked| self.reach(asked, limit, place, 0)) {
                let held = self.state;
                let culprit = self.culprit.map_or("nothing".to_owned(), |index| self.steps[index].describe());
                return Err(format!("{}\n    finds {held:?}, last set by {culprit}", step.describe()));
            }
        }
        let Some(after) = step.effect.apply(self.state, 0) else {
            return Err(format!("{} finds {:?}", step.describe(), self.state));
        };
        self.state = after;
        Ok(())
    }

    /// Whether the step may come behind everything so far.
    fn in_time(&self, index: usize) -> Result<(), String> {
        let step = &self.steps[index];
        if step.end() < self.begun {
            return Err(format!(
                "{}\n    had ended before something began (at {}) that its revision puts in front of it",
                step.describe(),
                self.begun
            ));
        }
        Ok(())
    }

    /// Put writes of unknown outcome here, so that the register holds `asked`, if there are any that had begun.
    fn reach(&mut self, asked: Option<Value>, limit: u64, place: usize, depth: usize) -> bool {
        if self.state == asked || (asked.is_some() && Condition::Matches(asked.expect("just seen")).holds(self.state)) {
            return true;
        }
        let index = match asked {
            Some(value) => match self.open.remove(&value) {
                Some(index) => index,
                None => {
                    // Another with the same bytes would do.
                    self.chose |= self.open.keys().any(|other| other.same_bytes(value));
                    return false;
                }
            },
            // The earliest begun: any later one fits wherever this one would have.
            None => match self.open_deletes.pop_first() {
                Some((_, index)) => index,
                None => return false,
            },
        };
        let step = &self.steps[index];
        if step.begun >= limit || depth > 1000 {
            return false;
        }
        let needs = match step.effect {
            Effect::WriteIf(Condition::Absent, _) => Some(None),
            Effect::WriteIf(Condition::Matches(value), _) => Some(Some(value)),
            _ => None,
        };
        if let Some(needed) = needs
            && !self.reach(needed, limit, place, depth + 1)
        {
            return false;
        }
        self.note(index);
        self.state = asked;
        self.hold(place);
        true
    }

    /// What the register may come to hold by a write of unknown outcome, when anything else than now will do.
    fn another(&mut self, place: usize) -> Option<Option<Value>> {
        self.chose |= !self.open.is_empty() || !self.open_deletes.is_empty();
        let limit = self.least_end[place];
        // Best what is asked for next anyway.
        let next = self.ordered[place..].iter().take(64).find_map(|index| match self.steps[*index].effect {
            Effect::Read(Some(value)) if self.open.contains_key(&value) => Some(value),
            _ => None,
        });
        // Else one that nobody saw, and that could take effect just now.
        let worth = |value: &Value, index: usize| {
            let step = &self.steps[index];
            (self.told.contains(value), step.effect.apply(self.state, 0).is_none(), step.begun)
        };
        let begun = self.open.iter().filter(|(_, index)| self.steps[**index].begun < limit);
        let any = || begun.min_by_key(|(value, index)| worth(value, **index)).map(|(value, _)| *value);
        let value = next.or_else(any);
        match value {
            Some(value) => Some(Some(value)),
            None => self.state.map(|_| None),
        }
    }

    fn note(&mut self, index: usize) {
        self.begun = self.begun.max(self.steps[index].begun);
        self.culprit = Some(index);
    }

    /// Remember the state that begins now, as the one before it ends: in front of `place`.
    fn hold(&mut self, place: usize) {
        if let Some(before) = self.states.last_mut() {
            before.until = place;
        }
        self.states.push(Held { state: self.state, begun: self.begun, until: self.ordered.len() });
    }

    /// Find a place for each result without a revision: as early as those before it in real time allow.
    fn place_the_rest(&mut self) -> Result<(), String> {
        let mut rest: Vec<usize> =
            (0..self.steps.len()).filter(|index| self.steps[*index].effect.only_reads() && self.steps[*index].revision.is_none()).collect();
        if rest.is_empty() {
            return Ok(());
        }
        rest.sort_by_key(|index| self.steps[*index].begun);
        let mut index_of = Places::new(&self.states);
        // Ends of those placed, with their places; the greatest place of those that ended before now.
        let mut ends: std::collections::BinaryHeap<Reverse<(u64, usize)>> = std::collections::BinaryHeap::new();
        let mut floor = 0;
        for index in rest {
            let step = &self.steps[index];
            while let Some(Reverse((end, place))) = ends.peek().copied()
                && end < step.begun
            {
                floor = floor.max(place);
                ends.pop();
            }
            // Not in a state that ends before something that had ended before this began.
            let from = self.states.partition_point(|held| self.least_end[held.until] < step.begun).max(floor);
            let until = self.states.partition_point(|held| held.begun < step.end());
            match index_of.first(&step.effect, from, &self.states).filter(|place| *place < until) {
                Some(place) => ends.push(Reverse((step.end(), place))),
                None => {
                    // One of unknown outcome that nobody else asked for may explain it.
                    self.chose |= !self.open.is_empty() || !self.open_deletes.is_empty();
                    return Err(format!("{}\n    fits nowhere in the order of the revisions", step.describe()));
                }
            }
        }
        Ok(())
    }
}

/// Finds states.
struct Places {
    of: BTreeMap<Option<Value>, Vec<usize>>,
    /// The next state at or behind each that differs from it.
    differs: Vec<usize>,
    absent: Vec<usize>,
}

impl Places {
    fn new(states: &[Held]) -> Places {
        let mut of: BTreeMap<Option<Value>, Vec<usize>> = BTreeMap::new();
        for (place, held) in states.iter().enumerate() {
            of.entry(held.state).or_default().push(place);
        }
        let mut differs = vec![states.len(); states.len()];
        for place in (0..states.len().saturating_sub(1)).rev() {
            differs[place] = if states[place].state == states[place + 1].state { differs[place + 1] } else { place + 1 };
        }
        let absent = of.get(&None).cloned().unwrap_or_default();
        Places { of, differs, absent }
    }

    /// The first state from `from` on that `effect` may have seen.
    fn first(&mut self, effect: &Effect, from: usize, states: &[Held]) -> Option<usize> {
        let behind = |places: &Vec<usize>| places.get(places.partition_point(|place| *place < from)).copied();
        match effect {
            Effect::Read(Some(value)) => self.of.get(&Some(*value)).and_then(behind),
            Effect::Read(None) => behind(&self.absent),
            _ => {
                let mut place = from;
                while place < states.len() && effect.apply(states[place].state, 0).is_none() {
                    place = self.differs[place];
                }
                Some(place).filter(|place| *place < states.len())
            }
        }
    }
}
