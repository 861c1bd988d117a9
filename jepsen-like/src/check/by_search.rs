//! Linearizability of one key by search: exact, for histories that are not too concurrent.

use super::Verdict;
use super::register::{Effect, Step};
use super::search::{Found, Machine, Span, search};
use crate::history::Value;

/// States of the search for one key after which it gives up.
const STATES_MAX: usize = 500_000;
/// Steps of one key that are not searched any more.
const STEPS_MAX: usize = 20_000;

struct Register<'a>(&'a [Step<'a>]);

impl Machine for Register<'_> {
    type State = Option<Value>;

    fn ways(&self, operation: usize) -> usize {
        self.0[operation].effect.ways()
    }

    fn step(&self, state: &Option<Value>, operation: usize, way: usize) -> Option<Option<Value>> {
        self.0[operation].effect.apply(*state, way)
    }

    fn only_reads(&self, operation: usize) -> bool {
        self.0[operation].effect.only_reads()
    }
}

/// Judge the steps of one key.
pub(super) fn judge(steps: &[Step<'_>]) -> Verdict {
    if steps.len() > STEPS_MAX {
        return Verdict::Undecided(format!("{} operations are too many for a search", steps.len()));
    }
    let spans: Vec<Span> = steps.iter().map(|step| Span { begun: step.begun, ended: step.ended }).collect();
    match search(&spans, &Register(steps), None, STATES_MAX) {
        Found::Explained => Verdict::Linearizable,
        Found::GivenUp => Verdict::Undecided(format!("given up after {STATES_MAX} states")),
        Found::Impossible { placed, stuck } => Verdict::Violated(explain(steps, placed, stuck)),
    }
}

/// For people: what could not be placed, and what surrounds it.
fn explain(steps: &[Step<'_>], placed: usize, stuck: usize) -> String {
    let Some(culprit) = steps.get(stuck) else { return format!("only {placed} of {} operations fit", steps.len()) };
    let mut text = format!("at best {placed} of {} operations fit; then this one does not:\n    {}", steps.len(), culprit.describe());
    text.push_str("\n  the ones around it:");
    let around = steps.iter().enumerate().filter(|(index, step)| {
        let overlaps = step.begun < culprit.end() && step.end() > culprit.begun;
        let tells = !matches!(step.effect, Effect::Present);
        let last_before = index + 8 > stuck && *index < stuck;
        *index != stuck && tells && (overlaps || last_before)
    });
    for (_, step) in around.take(30) {
        text.push_str("\n    ");
        text.push_str(&step.describe());
    }
    text
}
