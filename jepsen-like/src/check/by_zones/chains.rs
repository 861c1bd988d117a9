//! Clusters of a key's values, chained by the conditional writes that succeeded.

use std::collections::BTreeMap;

use super::Failure;
use crate::check::register::{Condition, Effect, Step};
use crate::history::Value;

/// A value with all operations that tell of it.
pub(super) struct Cluster {
    pub value: Value,
    pub write: usize,
    /// In the order in which they began.
    pub reads: Vec<usize>,
    /// The least end and the greatest beginning of all of them, and of a delete that found the value.
    pub end: u64,
    pub begun: u64,
}

/// Clusters that follow one another at once.
pub(super) struct Chain {
    pub clusters: Vec<Cluster>,
    /// The least end and the greatest beginning of all of them.
    pub end: u64,
    pub begun: u64,
    /// It begins with a conditional create.
    pub needs_absence: bool,
}

impl Chain {
    pub(super) fn is_forward(&self) -> bool {
        self.end < self.begun
    }
}

/// All that must find its place.
pub(super) struct Chains {
    /// In the order of their ends.
    pub all: Vec<Chain>,
    pub deletes: Vec<usize>,
    /// Writes of unknown outcome whose values nobody saw.
    pub unseen: Vec<usize>,
    pub absent_reads: Vec<usize>,
    /// Reads that ask for any value, or for another one than they name.
    pub vague_reads: Vec<usize>,
}

impl Chains {
    /// Sort out the steps of one key.
    pub(super) fn new(steps: &[Step<'_>]) -> Result<Chains, Failure> {
        check_names(steps)?;
        let mut writers: BTreeMap<Value, usize> = BTreeMap::new();
        let mut guesses = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            if let Effect::WriteOneOf(values) = &step.effect {
                guesses.extend(values.iter().copied());
            }
            if let Some(value) = step.effect.writes()
                && writers.insert(value, index).is_some()
            {
                return Err(Failure::Unclear(format!("{value:?} is written twice")));
            }
        }
        let writer = |value: Value, asks: &Step<'_>| match writers.get(&value) {
            Some(writer) => Ok(*writer),
            None if guesses.contains(&value) => Err(Failure::Unclear(format!("perhaps copied: {}", asks.describe()))),
            None => Err(Failure::Impossible(format!("nobody wrote {value:?} here: {}", asks.describe()))),
        };

        // Who certainly wrote: those acknowledged, those seen, and those that these follow.
        let mut needed: Vec<usize> = Vec::new();
        let mut reads: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
        // Deletes that asked for a value and found it.
        let mut removed: BTreeMap<Value, usize> = BTreeMap::new();
        let mut chains =
            Chains { all: Vec::new(), deletes: Vec::new(), unseen: Vec::new(), absent_reads: Vec::new(), vague_reads: Vec::new() };
        for (index, step) in steps.iter().enumerate() {
            match &step.effect {
                Effect::Write(_) | Effect::WriteIf(..) if step.ended.is_some() => needed.push(index),
                Effect::Write(_) | Effect::WriteIf(..) => {}
                Effect::WriteOneOf(_) => {}
                Effect::Remove => chains.deletes.push(index),
                // Otherwise a delete: an order that breaks its condition is no proof, and is left to the search.
                Effect::RemoveIf(Condition::Matches(expected)) if step.ended.is_some() => {
                    needed.push(writer(*expected, step)?);
                    if let Some(other) = removed.insert(*expected, index) {
                        let both = [other, index].map(|index| steps[index].describe());
                        return Err(Failure::Impossible(format!("both deleted the same value:\n    {}\n    {}", both[0], both[1])));
                    }
                    chains.deletes.push(index);
                }
                Effect::RemoveIf(_) => chains.deletes.push(index),
                Effect::Read(None) => chains.absent_reads.push(index),
                Effect::Read(Some(value)) => {
                    needed.push(writer(*value, step)?);
                    reads.entry(*value).or_default().push(index);
                }
                Effect::Failed(_) | Effect::Present => chains.vague_reads.push(index),
            }
        }
        let mut is_needed = vec![false; steps.len()];
        let mut followers: BTreeMap<usize, usize> = BTreeMap::new();
        while let Some(index) = needed.pop() {
            if std::mem::replace(&mut is_needed[index], true) {
                continue;
            }
            if let Effect::WriteIf(Condition::Matches(expected), _) = &steps[index].effect {
                let replaced = writer(*expected, &steps[index])?;
                needed.push(replaced);
                if let Some(other) = followers.insert(replaced, index) {
                    let both = [other, index].map(|index| steps[index].describe());
                    return Err(Failure::Impossible(format!("both replaced the same value:\n    {}\n    {}", both[0], both[1])));
                }
            }
        }
        chains.unseen.extend((0..steps.len()).filter(|index| !is_needed[*index] && steps[*index].effect.writes().is_some()));
        let mut chained = 0;
        for head in (0..steps.len()).filter(|index| is_needed[*index]) {
            if matches!(steps[head].effect, Effect::WriteIf(Condition::Matches(_), _)) {
                continue;
            }
            let mut clusters = Vec::new();
            let mut next = Some(head);
            while let Some(write) = next {
                clusters.push(cluster(steps, write, &mut reads, &removed)?);
                next = followers.get(&write).copied();
            }
            chained += clusters.len();
            chains.all.push(chain(steps, clusters)?);
        }
        if chained < is_needed.iter().filter(|needed| **needed).count() {
            return Err(Failure::Impossible("conditional writes that replaced one another in a circle".to_owned()));
        }
        chains.all.sort_by_key(|chain| chain.end);
        chains.check_zones(steps)?;
        chains.check_vague(steps)?;
        Ok(chains)
    }

    /// A refused condition, or a listing that shows the key, must fit where the state is certain: behind a change that
    /// overlapped no other, and before the next.
    fn check_vague(&self, steps: &[Step<'_>]) -> Result<(), Failure> {
        let changes: Vec<&Step<'_>> = steps.iter().filter(|step| !step.effect.only_reads()).collect();
        // The greatest end of the first so many.
        let mut ends = vec![0];
        for change in &changes {
            ends.push(change.end().max(ends[ends.len() - 1]));
        }
        for index in &self.vague_reads {
            let read = &steps[*index];
            let before = changes.partition_point(|change| change.begun < read.end());
            if ends[before] > read.begun {
                continue;
            }
            let state = match before.checked_sub(1) {
                None => None,
                Some(last) if changes[last].begun > ends[last] => changes[last].effect.writes(),
                Some(_) => continue,
            };
            if read.effect.apply(state, 0).is_none() {
                return Err(Failure::Impossible(format!("the key held {state:?}: {}", read.describe())));
            }
        }
        Ok(())
    }

    /// Forward zones exclude one another and all that lies wholly inside one.
    fn check_zones(&self, steps: &[Step<'_>]) -> Result<(), Failure> {
        let forward: Vec<&Chain> = self.all.iter().filter(|chain| chain.is_forward()).collect();
        let show = |chain: &Chain| {
            let (first, last) = (chain.clusters.first(), chain.clusters.last());
            let name = |cluster: Option<&Cluster>| cluster.map_or(String::new(), |cluster| steps[cluster.write].describe());
            let last = if chain.clusters.len() > 1 { format!(" up to\n    {}", name(last)) } else { String::new() };
            format!("between {} and {} the key held what was written by\n    {}{last}", chain.end, chain.begun, name(first))
        };
        for pair in forward.windows(2) {
            if pair[1].end < pair[0].begun {
                return Err(Failure::Impossible(format!("{}\n  and {}", show(pair[0]), show(pair[1]))));
            }
        }
        // The zone in which `begun..end` lies wholly.
        let around = |begun: u64, end: u64| {
            let before = forward.partition_point(|zone| zone.end < begun);
            before.checked_sub(1).map(|at| forward[at]).filter(|zone| end < zone.begun)
        };
        for chain in self.all.iter().filter(|chain| !chain.is_forward()) {
            if let Some(zone) = around(chain.begun, chain.end) {
                return Err(Failure::Impossible(format!("{}\n  but within that time {}", show(zone), show_inner(steps, chain))));
            }
        }
        for index in self.deletes.iter().chain(&self.absent_reads) {
            if let Some(zone) = around(steps[*index].begun, steps[*index].end()) {
                return Err(Failure::Impossible(format!("{}\n  but within that time {}", show(zone), steps[*index].describe())));
            }
        }
        Ok(())
    }
}

fn show_inner(steps: &[Step<'_>], chain: &Chain) -> String {
    chain.clusters.first().map_or(String::new(), |cluster| steps[cluster.write].describe())
}

/// Tiny values may share their bytes, and then a condition cannot tell them apart.
fn check_names(steps: &[Step<'_>]) -> Result<(), Failure> {
    let named = |step: &Step<'_>| match &step.effect {
        Effect::Failed(Condition::Matches(value))
        | Effect::WriteIf(Condition::Matches(value), _)
        | Effect::RemoveIf(Condition::Matches(value)) => Some(*value),
        _ => None,
    };
    if !steps.iter().any(|step| named(step).is_some_and(|value| value.bytes <= 16)) {
        return Ok(());
    }
    let mut tiny: Vec<Value> = steps.iter().filter_map(|step| step.effect.writes()).filter(|value| value.bytes <= 16).collect();
    tiny.sort_unstable();
    tiny.dedup();
    let mut contents: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
    for value in tiny.into_iter().filter(|value| !value.is_composed()) {
        if let Some(other) = contents.insert(value.content().bytes().to_vec(), value) {
            return Err(Failure::Unclear(format!("{other:?} and {value:?} have the same bytes")));
        }
    }
    Ok(())
}

fn cluster(
    steps: &[Step<'_>],
    write: usize,
    reads: &mut BTreeMap<Value, Vec<usize>>,
    removed: &BTreeMap<Value, usize>,
) -> Result<Cluster, Failure> {
    let value = steps[write].effect.writes().expect("a needed step writes");
    let (reads, removal) = (reads.remove(&value).unwrap_or_default(), removed.get(&value));
    if let Some(read) = reads.iter().chain(removal).find(|read| steps[**read].end() < steps[write].begun) {
        let reason = format!("{}\n    saw what was not yet written: {}", steps[*read].describe(), steps[write].describe());
        return Err(Failure::Impossible(reason));
    }
    let all = || reads.iter().chain([&write]).chain(removal).map(|index| &steps[*index]);
    let end = all().map(Step::end).min().expect("one at least");
    let begun = all().map(|step| step.begun).max().expect("one at least");
    Ok(Cluster { value, write, reads, end, begun })
}

fn chain(steps: &[Step<'_>], clusters: Vec<Cluster>) -> Result<Chain, Failure> {
    let mut begun = 0;
    for cluster in &clusters {
        if cluster.end < begun {
            let reason =
                format!("something of it ended before what it replaced was over (at {begun}): {}", steps[cluster.write].describe());
            return Err(Failure::Impossible(reason));
        }
        begun = begun.max(cluster.begun);
    }
    let end = clusters.iter().map(|cluster| cluster.end).min().expect("one at least");
    let head = &steps[clusters[0].write].effect;
    let needs_absence = matches!(head, Effect::WriteIf(Condition::Absent, _));
    Ok(Chain { clusters, end, begun, needs_absence })
}
