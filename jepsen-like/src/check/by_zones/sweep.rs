//! Makes an order of the chains, deletes and reads of a key, going through time once.
//!
//! Forward chains take the register from their end to their beginning. Between them everything waits for its deadline,
//! except reads, which are placed as soon as they fit. What a forward chain would make late goes in front of it. A
//! delete is preceded by all chains that are ready: it leaves nothing of them. A conditional create goes into any
//! absence that is about to end.

use std::collections::BTreeSet;

use super::Failure;
use super::chains::{Chain, Chains};
use crate::check::register::{Effect, Step};
use crate::history::Value;

/// The steps in an order that should explain all results.
pub(super) fn order(steps: &[Step<'_>], chains: &Chains) -> Result<Vec<usize>, Failure> {
    let mut sweep = Sweep {
        steps,
        chains,
        order: Vec::with_capacity(steps.len()),
        value: None,
        zone: None,
        is_ripe: false,
        placed: vec![false; steps.len()],
        begun: BTreeSet::new(),
        ready: BTreeSet::new(),
        ready_creates: BTreeSet::new(),
        ready_deletes: BTreeSet::new(),
        ready_unseen: BTreeSet::new(),
        wait_absence: BTreeSet::new(),
        wait_presence: BTreeSet::new(),
        wait_change: BTreeSet::new(),
        busy_until: 0,
        doubt: false,
    };
    for (now, event) in events(steps, chains) {
        sweep.happen(event, now)?;
    }
    Ok(sweep.order)
}

/// In the order in which they are taken at one time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    ChainBegins(usize),
    DeleteReady(usize),
    UnseenReady(usize),
    AbsentReadBegins(usize),
    VagueReadBegins(usize),
    /// A read of (chain, cluster).
    ReadBegins(usize, usize, usize),
    /// Everything of it has begun.
    ChainReady(usize),
    ZoneBegins(usize),
    ChainDue(usize),
    /// Something of this cluster ends.
    ClusterDue(usize, usize),
    DeleteDue(usize),
    AbsentReadDue(usize),
    VagueReadDue(usize),
}

fn events(steps: &[Step<'_>], chains: &Chains) -> Vec<(u64, Event)> {
    let mut events = Vec::with_capacity(2 * steps.len());
    for (number, chain) in chains.all.iter().enumerate() {
        events.push((steps[chain.clusters[0].write].begun, Event::ChainBegins(number)));
        events.push((chain.begun, Event::ChainReady(number)));
        events.push((chain.end, if chain.is_forward() { Event::ZoneBegins(number) } else { Event::ChainDue(number) }));
        for (place, cluster) in chain.clusters.iter().enumerate() {
            if place > 0 && cluster.end < u64::MAX {
                events.push((cluster.end, Event::ClusterDue(number, place)));
            }
            events.extend(cluster.reads.iter().map(|read| (steps[*read].begun, Event::ReadBegins(number, place, *read))));
        }
    }
    for index in &chains.deletes {
        events.push((steps[*index].begun, Event::DeleteReady(*index)));
        events.extend(steps[*index].ended.map(|ended| (ended, Event::DeleteDue(*index))));
    }
    events.extend(chains.unseen.iter().map(|index| (steps[*index].begun, Event::UnseenReady(*index))));
    for index in &chains.absent_reads {
        events.extend([(steps[*index].begun, Event::AbsentReadBegins(*index)), (steps[*index].end(), Event::AbsentReadDue(*index))]);
    }
    for index in &chains.vague_reads {
        events.extend([(steps[*index].begun, Event::VagueReadBegins(*index)), (steps[*index].end(), Event::VagueReadDue(*index))]);
    }
    events.sort_unstable();
    events
}

/// Waiting things by their deadline.
type Waiting = BTreeSet<(u64, usize)>;

struct Sweep<'a> {
    steps: &'a [Step<'a>],
    chains: &'a Chains,
    order: Vec<usize>,
    value: Option<Value>,
    /// The chain that holds the register, and its present cluster: a forward one, or one that had to begin early.
    zone: Option<(usize, usize)>,
    /// All of that chain has begun: it can end whenever something else asks for the register.
    is_ripe: bool,
    /// Reads of values that were placed.
    placed: Vec<bool>,
    /// Chains whose first write has begun, by the time at which all of it has.
    begun: Waiting,
    /// Backward chains of which everything has begun; those that begin with a conditional create apart.
    ready: Waiting,
    ready_creates: Waiting,
    ready_deletes: Waiting,
    /// Writes of unknown outcome whose values nobody saw.
    ready_unseen: Waiting,
    wait_absence: Waiting,
    wait_presence: Waiting,
    /// Refused conditions on the value that the register holds now.
    wait_change: Waiting,
    /// What was placed could have been placed until then.
    busy_until: u64,
    /// A choice was made that may have been wrong.
    doubt: bool,
}

impl Sweep<'_> {
    fn happen(&mut self, event: Event, now: u64) -> Result<(), Failure> {
        match event {
            Event::ChainBegins(chain) => {
                self.begun.insert((self.chains.all[chain].begun, chain));
            }
            Event::ChainReady(chain) if self.holds(chain) => {
                self.is_ripe = true;
                self.end_zone_if_last();
            }
            Event::ChainReady(chain) => {
                self.begun.remove(&(self.chains.all[chain].begun, chain));
                let waiting = if self.chains.all[chain].needs_absence { &mut self.ready_creates } else { &mut self.ready };
                waiting.insert((self.chains.all[chain].end, chain));
            }
            Event::DeleteReady(index) => {
                self.ready_deletes.insert((self.steps[index].end(), index));
            }
            Event::UnseenReady(index) => {
                self.ready_unseen.insert((self.steps[index].begun, index));
            }
            Event::AbsentReadBegins(index) if self.value.is_none() => self.order.push(index),
            Event::AbsentReadBegins(index) => {
                self.wait_absence.insert((self.steps[index].end(), index));
            }
            Event::VagueReadBegins(index) if self.steps[index].effect.apply(self.value, 0).is_some() => self.order.push(index),
            Event::VagueReadBegins(index) => {
                let waiting = if self.value.is_none() { &mut self.wait_presence } else { &mut self.wait_change };
                waiting.insert((self.steps[index].end(), index));
            }
            Event::ReadBegins(chain, cluster, read) if self.zone == Some((chain, cluster)) => self.place_read(read),
            // Placed when its cluster's turn comes.
            Event::ReadBegins(..) => {}
            // It may have been begun early.
            Event::ZoneBegins(chain) if self.holds(chain) => {}
            Event::ZoneBegins(chain) => {
                self.begin_zone(chain, now)?;
                self.forget_doubt(now);
            }
            Event::ClusterDue(chain, cluster) if self.holds(chain) => self.advance(chain, cluster, now),
            // All of it was placed at once.
            Event::ClusterDue(..) => {}
            Event::ChainDue(chain) => {
                let due = (self.chains.all[chain].end, chain);
                if self.ready.contains(&due) || self.ready_creates.contains(&due) {
                    self.place_chain(chain, now)?;
                }
            }
            Event::DeleteDue(index) => {
                while self.ready_deletes.contains(&(self.steps[index].end(), index)) {
                    self.delete(index, now)?;
                }
            }
            Event::AbsentReadDue(index) => {
                if self.wait_absence.contains(&(self.steps[index].end(), index)) {
                    self.delete(index, now)?;
                }
            }
            Event::VagueReadDue(index) => self.satisfy(index, now)?,
        }
        Ok(())
    }

    /// Place everything that the chain would make late, then its first cluster. It holds the register until all of it
    /// has begun.
    fn begin_zone(&mut self, number: usize, now: u64) -> Result<(), Failure> {
        let chain = &self.chains.all[number];
        let cause = chain.clusters[0].write;
        self.check_free(cause, now)?;
        self.begun.remove(&(chain.begun, number));
        let due = |waiting: &Waiting| waiting.first().is_some_and(|(deadline, _)| *deadline < chain.begun);
        if due(&self.wait_absence) {
            self.delete(cause, now)?;
        }
        while due(&self.ready_creates) {
            let (_, create) = *self.ready_creates.first().expect("one is due");
            self.place_chain(create, now)?;
        }
        if !chain.needs_absence && !due(&self.ready_deletes) {
            while due(&self.ready) {
                let (_, first) = *self.ready.first().expect("one is due");
                self.place_chain(first, now)?;
            }
        }
        while due(&self.ready_deletes) {
            self.delete(cause, now)?;
        }
        if chain.needs_absence {
            // A delete is preceded by all chains that are ready.
            if self.value.is_some() || due(&self.ready) {
                self.delete(cause, now)?;
            }
        } else {
            self.use_absence(now)?;
        }
        self.check_free(cause, now)?;
        (self.zone, self.is_ripe) = (Some((number, 0)), false);
        self.enter(chain, 0, now);
        Ok(())
    }

    /// Place the clusters up to `cluster` of the chain that holds the register.
    fn advance(&mut self, number: usize, cluster: usize, now: u64) {
        let (_, present) = self.zone.expect("asked for the chain that holds the register");
        for next in present + 1..=cluster {
            self.zone = Some((number, next));
            self.enter(&self.chains.all[number], next, now);
        }
        self.end_zone_if_last();
    }

    /// Where a forward chain holds the register and nothing else is under way, it does not matter any more what was chosen.
    fn forget_doubt(&mut self, now: u64) {
        let waiting = [
            &self.ready,
            &self.ready_creates,
            &self.ready_deletes,
            &self.wait_absence,
            &self.wait_presence,
            &self.wait_change,
            &self.begun,
        ];
        if now >= self.busy_until && waiting.iter().all(|waiting| waiting.is_empty()) {
            self.doubt = false;
        }
    }

    fn holds(&self, chain: usize) -> bool {
        self.zone.is_some_and(|(holder, _)| holder == chain)
    }

    fn end_zone_if_last(&mut self) {
        if let Some((number, present)) = self.zone
            && self.is_ripe
            && present + 1 == self.chains.all[number].clusters.len()
        {
            self.zone = None;
        }
    }

    /// Place a chain at once.
    fn place_chain(&mut self, number: usize, now: u64) -> Result<(), Failure> {
        let chain = &self.chains.all[number];
        self.ready.remove(&(chain.end, number));
        self.ready_creates.remove(&(chain.end, number));
        self.check_free(chain.clusters[0].write, now)?;
        if chain.needs_absence && self.value.is_some() {
            self.delete(chain.clusters[0].write, now)?;
        } else if !chain.needs_absence {
            self.use_absence(now)?;
            self.check_free(chain.clusters[0].write, now)?;
        }
        // Later clusters wait until they are due, or something else asks for the register.
        (self.zone, self.is_ripe) = (Some((number, 0)), true);
        self.enter(chain, 0, now);
        self.end_zone_if_last();
        Ok(())
    }

    /// If absence is about to end, and a conditional create is ready for it, let that one end it.
    fn use_absence(&mut self, now: u64) -> Result<(), Failure> {
        match self.ready_creates.first() {
            Some((_, create)) if self.value.is_none() => self.place_chain(*create, now),
            _ => Ok(()),
        }
    }

    /// Place a delete, the one that is due first; `cause` asks for it.
    fn delete(&mut self, cause: usize, now: u64) -> Result<(), Failure> {
        self.check_free(cause, now)?;
        let Some((_, delete)) = self.ready_deletes.pop_first() else {
            return Err(self.stuck("nothing had deleted the key", cause));
        };
        self.use_absence(now)?;
        while let Some((_, first)) = self.ready.first().copied() {
            self.place_chain(first, now)?;
        }
        self.check_free(cause, now)?;
        self.order.push(delete);
        self.busy_until = self.busy_until.max(self.steps[delete].end());
        self.set(None);
        Ok(())
    }

    /// A refused condition, or a listing that shows the key, ends: it needs another state than this one.
    fn satisfy(&mut self, index: usize, now: u64) -> Result<(), Failure> {
        let waiting = (self.steps[index].end(), index);
        if !self.wait_presence.contains(&waiting) && !self.wait_change.contains(&waiting) {
            return Ok(());
        }
        if let Some((number, present)) = self.zone {
            let clusters = &self.chains.all[number].clusters;
            let is_over = clusters[..=present].iter().all(|cluster| cluster.begun < now);
            if is_over && clusters.get(present + 1).is_some_and(|next| self.steps[next.write].begun < now) {
                self.advance(number, present + 1, now);
                return Ok(());
            }
            if !self.is_ripe {
                return Err(self.stuck("the key held all the time what it must not have held", index));
            }
            self.zone = None;
        }
        self.doubt = true;
        if let Some((_, create)) = self.ready_creates.first().copied().filter(|_| self.value.is_none()) {
            return self.place_chain(create, now);
        }
        if let Some((_, chain)) = self.ready.first().copied() {
            return self.place_chain(chain, now);
        }
        // Something that has begun may go first, and stay until all of it has begun.
        let begun = self.begun.iter().find(|(_, chain)| self.value.is_none() || !self.chains.all[*chain].needs_absence);
        if let Some((_, chain)) = begun.copied() {
            return self.begin_zone(chain, now);
        }
        let fits = |(_, unseen): &&(u64, usize)| self.steps[*unseen].effect.apply(self.value, 0).is_some();
        if let Some((begun, unseen)) = self.ready_unseen.iter().find(fits).copied() {
            self.ready_unseen.remove(&(begun, unseen));
            self.order.push(unseen);
            self.set(self.steps[unseen].effect.writes());
            return Ok(());
        }
        if self.value.is_some() && !self.ready_deletes.is_empty() {
            return self.delete(index, now);
        }
        Err(self.stuck("nothing had changed the key as this asks", index))
    }

    /// Place the write of a cluster, and those of its reads that have begun.
    fn enter(&mut self, chain: &Chain, cluster: usize, now: u64) {
        self.busy_until = self.busy_until.max(chain.end);
        let cluster = &chain.clusters[cluster];
        self.order.push(cluster.write);
        self.set(Some(cluster.value));
        for read in &cluster.reads {
            if self.steps[*read].begun <= now {
                self.place_read(*read);
            }
        }
    }

    fn place_read(&mut self, read: usize) {
        if !std::mem::replace(&mut self.placed[read], true) {
            self.order.push(read);
        }
    }

    /// The register changes: reads that waited for it are placed.
    fn set(&mut self, value: Option<Value>) {
        if self.value != value {
            self.order.extend(std::mem::take(&mut self.wait_change).into_iter().map(|(_, index)| index));
        }
        self.value = value;
        let waited = if value.is_none() { &mut self.wait_absence } else { &mut self.wait_presence };
        self.order.extend(std::mem::take(waited).into_iter().map(|(_, index)| index));
    }

    /// Nothing may come between while a forward chain holds the register.
    fn check_free(&mut self, cause: usize, now: u64) -> Result<(), Failure> {
        match self.zone {
            None => Ok(()),
            Some((number, _)) if self.is_ripe => {
                self.advance(number, self.chains.all[number].clusters.len() - 1, now);
                Ok(())
            }
            Some((number, _)) => {
                let holder = self.steps[self.chains.all[number].clusters[0].write].describe();
                Err(self.stuck(&format!("the key held what was written by\n    {holder}\n   "), cause))
            }
        }
    }

    fn stuck(&self, why: &str, cause: usize) -> Failure {
        let reason = format!("{why}: {}", self.steps[cause].describe());
        let is_vague = matches!(self.steps[cause].effect, Effect::Failed(_) | Effect::Present);
        if self.doubt || is_vague { Failure::Unclear(reason) } else { Failure::Impossible(reason) }
    }
}
