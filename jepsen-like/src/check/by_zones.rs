//! Linearizability of one key by the zones of its values: O(n log n).
//!
//! Each value is written once, so a read names its write. The operations of a value are its *cluster*; a conditional
//! write follows the value that it replaces at once, which makes *chains* of clusters. The zone of a chain lies between
//! its least end and its greatest beginning. Where the end comes first the zone is *forward*: the chain holds the
//! register throughout, and everything else stays out. Otherwise it is *backward*: the whole chain may take effect at
//! any one moment of it (Gibbons and Korach).
//!
//! Proof of violation: a read before its write began; a successor before what it replaces; two successors of one value;
//! forward zones that overlap; a chain, a delete or a read of absence that lies wholly inside a forward zone.
//! Proof of linearizability: an order, made by a sweep that does everything as late as it may and each read as soon as
//! it can, and then replayed from its beginning against the results and the times.
//!
//! Absence has no name: which delete made it is chosen by the sweep, the one whose time is over first. That is exact
//! unless a conditional create competes for the same absence, a delete asks what it deletes, or a refused condition asks for
//! a change that nobody else needs. Where the sweep fails after such a choice it is undecided, and left to the search. So are values written
//! twice (copies), tiny values with equal bytes, and reads that only a copy of unknown outcome explains. Writes of
//! unknown outcome that nobody saw are left out; seen ones have no end; deletes of unknown outcome are at hand from
//! their beginning.

mod chains;
mod sweep;

use super::Verdict;
use super::register::Step;
use chains::Chains;

/// Why there is no order.
enum Failure {
    /// Proved.
    Impossible(String),
    /// This method cannot tell.
    Unclear(String),
}

/// Judge the steps of one key.
pub(super) fn judge(steps: &[Step<'_>]) -> Verdict {
    let order = Chains::new(steps).and_then(|chains| sweep::order(steps, &chains));
    match order {
        Err(Failure::Impossible(why)) => Verdict::Violated(why),
        Err(Failure::Unclear(why)) => Verdict::Undecided(why),
        Ok(order) => match replay(steps, &order) {
            Ok(()) => Verdict::Linearizable,
            Err(why) => Verdict::Undecided(format!("its order does not hold: {why}")),
        },
    }
}

/// Whether `order` explains every result within the times; steps without an end may be missing.
fn replay(steps: &[Step<'_>], order: &[usize]) -> Result<(), String> {
    let mut placed = vec![false; steps.len()];
    let (mut state, mut begun) = (None, 0);
    for index in order {
        let step = &steps[*index];
        begun = begun.max(step.begun);
        if std::mem::replace(&mut placed[*index], true) || step.end() < begun {
            return Err(format!("placed twice or too late: {}", step.describe()));
        }
        state = step.effect.apply(state, 0).ok_or_else(|| format!("finds {state:?}: {}", step.describe()))?;
    }
    match steps.iter().zip(&placed).find(|(step, placed)| !**placed && step.ended.is_some()) {
        Some((step, _)) => Err(format!("not placed: {}", step.describe())),
        None => Ok(()),
    }
}
