//! Which parts of a plan are tried next: of each kind all, then halves, then ever smaller pieces. Pure.

use std::ops::Range;

use super::parts::{KINDS, Kind, count};
use crate::plan::Plan;

/// Where the search is.
#[derive(Debug)]
pub struct Search {
    kind: usize,
    /// Parts in a piece.
    length: usize,
    /// Where among the parts, from the end: what comes last matters least.
    at: usize,
    /// Whether anything went since the search last began with the first kind.
    progress: bool,
    done: bool,
}

impl Search {
    pub fn new(plan: &Plan) -> Search {
        let mut search = Search { kind: 0, length: 0, at: 0, progress: false, done: false };
        search.begin(plan);
        search
    }

    fn begin(&mut self, plan: &Plan) {
        self.at = count(plan, self.kind());
        self.length = self.at.max(1);
    }

    /// The kind of the pieces that were given last.
    pub fn kind(&self) -> Kind {
        KINDS[self.kind]
    }

    /// The next pieces, all of one kind, at most `most`; none: no part can go.
    pub fn next(&mut self, plan: &Plan, most: usize) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        while !self.done && pieces.len() < most {
            if self.at > 0 {
                let from = self.at.saturating_sub(self.length);
                pieces.push(from..self.at);
                self.at = from;
            } else if !pieces.is_empty() {
                // Shorter pieces wait until these are known.
                break;
            } else if self.length > 1 {
                self.length = self.length.min(count(plan, self.kind()).max(2)).div_ceil(2);
                self.at = count(plan, self.kind());
            } else if self.kind + 1 < KINDS.len() {
                self.kind += 1;
                self.begin(plan);
            } else if std::mem::take(&mut self.progress) {
                // With fewer operations other faults may go.
                self.kind = 0;
                self.begin(plan);
            } else {
                self.done = true;
            }
        }
        pieces
    }

    /// Pieces went: `plan` is what is left.
    pub fn went(&mut self, plan: &Plan) {
        self.progress = true;
        self.at = self.at.min(count(plan, self.kind()));
    }
}
