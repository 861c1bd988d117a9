//! The executable reference: what S3's uploads and buckets are, as state machines small enough to be read. A history is
//! right if some order of its operations, each within its own time, makes the machine give the results that were seen.

mod bucket;
mod upload;
pub(in crate::check) mod version;

pub use bucket::buckets;
pub use upload::uploads;
pub use version::versions;

use super::Violation;
use super::search::{Found, Machine, Span, search};
use crate::history::Operation;

/// States of one search after which it gives up.
const STATES_MAX: usize = 200_000;

/// Search for an order, and say what is wrong if there is none.
fn judge<M: Machine>(object: &str, operations: &[&Operation], spans: &[Span], machine: &M, initial: M::State) -> Option<Violation> {
    let describe = |index: usize| {
        let operation = operations[index];
        let until = spans[index].ended.map_or("open".to_owned(), |ended| ended.to_string());
        let key = if operation.key.is_empty() { String::new() } else { format!(" {}", operation.key) };
        format!("[{}..{until}] client {} {:?}{key} -> {:?}", operation.begun, operation.client, operation.action, operation.outcome)
    };
    let explanation = match search(spans, machine, initial, STATES_MAX) {
        Found::Explained => return None,
        Found::GivenUp => format!("undecided after {STATES_MAX} states: fewer clients at once, or fewer unknown outcomes"),
        Found::Impossible { placed, stuck } if stuck < spans.len() => {
            let around = (0..spans.len()).filter(|index| {
                let overlaps = spans[*index].begun < spans[stuck].ended.unwrap_or(u64::MAX);
                *index != stuck && overlaps && index + 12 > stuck
            });
            let around: Vec<String> = around.take(24).map(describe).collect();
            format!("at best {placed} operations fit; then not\n    {}\n  around it:\n    {}", describe(stuck), around.join("\n    "))
        }
        Found::Impossible { placed, .. } => format!("only {placed} of {} operations fit", spans.len()),
    };
    Some(Violation::Model { object: object.to_owned(), explanation })
}
