//! The search of Wing, Gong and Lowe: is there an order of operations, each placed between its beginning and its end,
//! in which a state machine gives the results that were seen?
//!
//! An operation without an end may take effect at any time after it began, or never: it need not be placed. Exact, and
//! exponential in how many operations overlap; it gives up after a number of states.

use std::collections::BTreeSet;

/// When an operation may take effect: after `begun`, and before `ended` if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub begun: u64,
    pub ended: Option<u64>,
}

/// What the search came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Explained,
    /// At best `placed` operations fit; then the end of `stuck` came first.
    Impossible {
        placed: usize,
        stuck: usize,
    },
    GivenUp,
}

/// The operations of a search, by their number.
pub(super) trait Machine {
    type State: Clone + Ord;

    /// In how many ways it may take effect.
    fn ways(&self, _operation: usize) -> usize {
        1
    }
    /// The state after it took effect on `state` in this way; `None` if it cannot have.
    fn step(&self, state: &Self::State, operation: usize, way: usize) -> Option<Self::State>;
    /// Whether it never changes the state: where it fits, placing it at once forecloses nothing.
    fn only_reads(&self, operation: usize) -> bool;
}

/// Search from `initial`; give up after `states_max` states.
pub(super) fn search<M: Machine>(spans: &[Span], machine: &M, initial: M::State, states_max: usize) -> Found {
    let mut entries = Entries::new(spans);
    let mut to_place = entries.end_of.iter().flatten().count();
    let mut placed = Placed::new(spans.len());
    let mut state = initial;
    let mut tried: BTreeSet<(usize, Vec<u64>, M::State)> = BTreeSet::new();
    // What was placed: its entry, the way, the state before.
    let mut stack: Vec<(usize, usize, M::State)> = Vec::new();
    let mut best = (0, usize::MAX);
    let (mut entry, mut way) = (entries.next[0], 0);
    while to_place > 0 {
        assert!(entry != 0, "the end of an operation that is still to be placed lies ahead");
        let (operation, is_end) = entries.all[entry];
        if !is_end {
            if way >= machine.ways(operation) {
                (entry, way) = (entries.next[entry], 0);
                continue;
            }
            let Some(after) = machine.step(&state, operation, way) else {
                way += 1;
                continue;
            };
            placed.set(operation, true);
            let (from, words) = placed.key();
            if !tried.insert((from, words, after.clone())) {
                placed.set(operation, false);
                way += 1;
                continue;
            }
            if tried.len() > states_max {
                return Found::GivenUp;
            }
            stack.push((entry, way, std::mem::replace(&mut state, after)));
            entries.unlink(entry);
            if let Some(end) = entries.end_of[operation] {
                entries.unlink(end);
                to_place -= 1;
            }
            (entry, way) = (entries.next[0], 0);
            continue;
        }
        // This operation had ended before anything else could be placed: one of the choices so far was wrong.
        if stack.len() >= best.0 {
            best = (stack.len(), operation);
        }
        loop {
            let Some((undone, its_way, before)) = stack.pop() else { return Found::Impossible { placed: best.0, stuck: best.1 } };
            let operation = entries.all[undone].0;
            state = before;
            placed.set(operation, false);
            if let Some(end) = entries.end_of[operation] {
                entries.relink(end);
                to_place += 1;
            }
            entries.relink(undone);
            (entry, way) = (undone, its_way + 1);
            if !machine.only_reads(operation) {
                break;
            }
        }
    }
    Found::Explained
}

/// Beginnings and ends in the order of the run: a linked list from which placed ones are taken out.
struct Entries {
    /// (operation, whether it is its end), from index 1; 0 is the head.
    all: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    end_of: Vec<Option<usize>>,
}

impl Entries {
    fn new(spans: &[Span]) -> Entries {
        let mut order: Vec<(u64, usize, bool)> = Vec::new();
        for (index, span) in spans.iter().enumerate() {
            order.push((span.begun, index, false));
            order.extend(span.ended.map(|ended| (ended, index, true)));
        }
        order.sort_unstable();
        let mut all = vec![(usize::MAX, false)];
        let mut end_of = vec![None; spans.len()];
        for (_, operation, is_end) in order {
            if is_end {
                end_of[operation] = Some(all.len());
            }
            all.push((operation, is_end));
        }
        let count = all.len();
        // The list ends in the head's own index.
        let next = (1..count).chain([0]).collect();
        let previous = [count - 1].into_iter().chain(0..count - 1).collect();
        Entries { all, next, previous, end_of }
    }

    fn unlink(&mut self, entry: usize) {
        let (before, after) = (self.previous[entry], self.next[entry]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    /// Undo the last `unlink` that was not undone.
    fn relink(&mut self, entry: usize) {
        let (before, after) = (self.previous[entry], self.next[entry]);
        self.next[before] = entry;
        self.previous[after] = entry;
    }
}

/// The set of operations that are placed.
struct Placed {
    words: Vec<u64>,
    /// All words before this one are full.
    full: usize,
    /// All words from this one on are empty.
    empty: usize,
}

impl Placed {
    fn new(count: usize) -> Placed {
        Placed { words: vec![0; count / 64 + 1], full: 0, empty: 0 }
    }

    fn set(&mut self, operation: usize, placed: bool) {
        let (word, bit) = (operation / 64, 1u64 << (operation % 64));
        if placed {
            self.words[word] |= bit;
            self.empty = self.empty.max(word + 1);
            while self.words[self.full] == u64::MAX {
                self.full += 1;
            }
        } else {
            self.words[word] &= !bit;
            self.full = self.full.min(word);
            while self.empty > 0 && self.words[self.empty - 1] == 0 {
                self.empty -= 1;
            }
        }
    }

    /// The set in as few words as possible.
    fn key(&self) -> (usize, Vec<u64>) {
        (self.full, self.words[self.full.min(self.empty)..self.empty].to_vec())
    }
}
