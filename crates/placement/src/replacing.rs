//! Replacing replicas whose drives are lost, or that nothing heals as their nodes say. The root's leader chooses a drive, asks the
//! group for the exchange, and writes down what came of it; whoever leads next goes on from what is written.
//!
//! Always holds: nothing here decides who belongs to a group. The root's rows say what is asked for, the group does it or not,
//! each step any number of times, and only its own word ends a replacement.

use crate::commands::{Command, Query, Reply};
use crate::replicas::replacement;
use crate::root::groups::{Group, PAGE_MAX, Replacing};
use crate::service::{Inner, unexpected};
use crate::watch::Spent;
use crate::{Error, leader};
use consensus::members::{Change, Refused};
use consensus::{Members, ReplicaPlace};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use protocol::{DriveId, GroupId, NodeId, ROOT, ReplicaId};
use runtime::time::{now, sleep};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at what is to be replaced.
const LOOK: Duration = Duration::from_secs(2);
/// The longest that one group is waited for at a time: a learner may have to fetch a whole state.
const EXCHANGE: Duration = Duration::from_secs(60);
/// The longest wait for the root group, and for a group that is to refuse a replica.
const STEP: Duration = Duration::from_secs(5);
/// The longest wait for a replica that left to be removed; it removes itself when it comes back.
const REMOVE: Duration = Duration::from_secs(1);
/// Groups at a time: each sends a state over the network.
const GROUPS_AT_ONCE: usize = 4;
/// Groups at a time whose former replicas are told: a message each.
const TOLD_AT_ONCE: usize = 16;

/// Replace what is lost and what is spent, while leading.
pub(crate) async fn replace_lost(inner: Arc<Inner>) {
    let mut places: Places<BoxFuture<'static, Result<(), Error>>> = Places::default();
    // The term in which nothing was under way that an earlier leader had begun.
    let mut settled = None;
    let look = |settled: Option<u64>| {
        let inner = inner.clone();
        Box::pin(async move {
            sleep(LOOK).await;
            let term = inner.term()?;
            Some((term, inner.look(settled == Some(term)).await))
        })
    };
    let mut looking = look(None);
    let mut telling = Box::pin(inner.tell_all_former());
    loop {
        runtime::select! {
            () = &mut telling => {}
            Some((group, outcome)) = places.next() => {
                if let Err(error) = outcome {
                    tracing::warn!(%group, %error, "a replica is not replaced yet; trying again");
                }
            }
            found = &mut looking => {
                match found {
                    // Whoever leads now goes on.
                    None => places = Places::default(),
                    Some((_, Err(error))) => tracing::debug!(%error, "the root's leader cannot look for replicas to replace"),
                    Some((term, Ok((due, groups, why)))) => {
                        settled = (due.is_empty() && places.is_empty()).then_some(term);
                        places.line_up(due.into_iter().map(|row| {
                            let (group, inner, groups, why) = (row.group, inner.clone(), groups.clone(), why.clone());
                            (group, async move { inner.replace_in(&row, &groups, &why).await }.boxed())
                        }));
                    }
                }
                looking = look(settled);
            }
        }
    }
}

/// Groups in which something is to be done, so many of them at a time. One that does not come to its end keeps its own place and no other's.
struct Places<F: Future> {
    under_way: FuturesUnordered<BoxFuture<'static, (GroupId, F::Output)>>,
    busy: BTreeSet<GroupId>,
    /// The others, as they were found last.
    waiting: VecDeque<(GroupId, F)>,
    /// How many had ended when each group did.
    ended: BTreeMap<GroupId, u64>,
    count: u64,
}

impl<F: Future> Default for Places<F> {
    fn default() -> Places<F> {
        Places { under_way: FuturesUnordered::new(), busy: BTreeSet::new(), waiting: VecDeque::new(), ended: BTreeMap::new(), count: 0 }
    }
}

impl<F: Future + Send + 'static> Places<F> {
    /// This is to be done now. What is under way goes on. Who had no turn comes first, and the root last of those: who leads it may have to
    /// hand it over, and what is under way here with it.
    fn line_up(&mut self, due: impl Iterator<Item = (GroupId, F)>) {
        let mut due: Vec<_> = due.filter(|(group, _)| !self.busy.contains(group)).collect();
        due.sort_by_key(|(group, _)| (self.ended.get(group).copied(), *group == ROOT, *group));
        self.waiting = due.into();
        self.fill();
    }

    fn fill(&mut self) {
        while self.busy.len() < GROUPS_AT_ONCE
            && let Some((group, work)) = self.waiting.pop_front()
        {
            self.busy.insert(group);
            self.under_way.push(async move { (group, work.await) }.boxed());
        }
    }

    /// What comes to its end next; `None` if nothing is under way.
    async fn next(&mut self) -> Option<(GroupId, F::Output)> {
        let (group, outcome) = self.under_way.next().await?;
        self.busy.remove(&group);
        self.count += 1;
        self.ended.insert(group, self.count);
        self.fill();
        Some((group, outcome))
    }

    fn is_empty(&self) -> bool {
        self.busy.is_empty() && self.waiting.is_empty()
    }
}

/// Why replicas are to be replaced.
struct Why {
    lost: BTreeSet<DriveId>,
    spent: Spent,
    /// Groups that were founded anew: the latest era, and by which node's word.
    refounded: BTreeMap<GroupId, (u64, NodeId)>,
}

impl Why {
    /// A voter that is to be replaced, or none if one is to enter beside the others, with the reason. Never one that others say it
    /// of, or that votes no more.
    fn of(&self, row: &Group) -> Option<(Option<ReplicaId>, &'static str)> {
        let lost = row.voters.iter().find(|voter| self.lost.contains(&voter.drive));
        let spent = || row.voters.iter().find(|voter| self.spent.has(row.group, voter) && !runtime::planted("spent-replica-kept"));
        let leaves = lost.map(|voter| (voter, "its drive is lost")).or_else(|| spent().map(|voter| (voter, "nothing heals it")));
        let replaced = leaves.map(|(voter, reason)| (Some(voter.replica), reason));
        replaced.or_else(|| row.is_short().then_some((None, "its group has too few voters")))
    }

    /// The node that knows of a later founding of the group than its row.
    fn knows_better(&self, row: &Group) -> Option<NodeId> {
        self.refounded.get(&row.group).filter(|(era, _)| *era > row.era).map(|(_, node)| *node)
    }

    /// Whether anything is to be done for the group.
    fn is_due(&self, row: &Group) -> bool {
        let after_recovery = row.doubtful || self.knows_better(row).is_some();
        after_recovery || row.replacing.is_some() || self.of(row).is_some()
    }

    /// Whether a replica that is to enter at this place would be for nothing.
    fn bars(&self, group: GroupId, place: &ReplicaPlace) -> bool {
        self.lost.contains(&place.drive) || self.spent.has(group, place)
    }
}

impl Inner {
    /// The groups in which something is to be done, all groups, and why. `settled`: nothing is under way that is not known.
    async fn look(&self, settled: bool) -> Result<(Vec<Group>, Arc<Vec<Group>>, Arc<Why>), Error> {
        let lost: BTreeSet<DriveId> = match self.read(Query::LostDrives, now() + STEP).await? {
            (_, Reply::Drives(drives)) => drives.into_iter().collect(),
            (_, other) => return Err(unexpected(&other)),
        };
        let why = Why { lost, spent: self.spent(), refounded: self.refounded() };
        if settled && why.lost.is_empty() && why.spent.is_empty() && why.refounded.is_empty() {
            return Ok((Vec::new(), Arc::default(), Arc::new(why)));
        }
        let groups = self.groups_of_root().await?;
        let due = groups.iter().filter(|row| why.is_due(row)).cloned().collect();
        Ok((due, Arc::new(groups), Arc::new(why)))
    }

    /// Bring one group a step further, to the end if it can be.
    async fn replace_in(&self, row: &Group, groups: &[Group], why: &Why) -> Result<(), Error> {
        let knows_better = why.knows_better(row);
        if row.doubtful || knows_better.is_some() {
            // The next look sees what comes of it.
            return self.note_members(row, knows_better).await;
        }
        let replacing = match row.replacing {
            Some(replacing) => replacing,
            None if why.of(row).is_none() => return Ok(()),
            None => self.begin(row, groups, why).await?,
        };
        let Replacing { leaves, enters, .. } = replacing;
        if why.bars(row.group, &enters) && self.abandon(row.group, replacing).await? {
            return Ok(());
        }
        let entered = match leaves {
            Some(leaves) => self.groups.exchange(row.group, enters, leaves, now() + EXCHANGE).await,
            None => self.groups.enlarge(row.group, enters, now() + EXCHANGE).await,
        };
        match entered {
            Ok(members) => self.finish(row, replacing, &members).await,
            Err(error @ consensus::client::Error::Unknown { .. }) if !self.is_barred(enters.drive) => Err(leader::error_of(error)),
            Err(error) => {
                // The new replica cannot be made or kept: another drive may do, if the group has not taken it as a voter.
                self.abandon(row.group, replacing).await?;
                Err(leader::error_of(error))
            }
        }
    }

    /// `node` has a replica of a group that was founded anew, or the group's row is doubtful: the row becomes what the group is.
    async fn note_members(&self, row: &Group, node: Option<NodeId>) -> Result<(), Error> {
        let (group, until) = (row.group, now() + STEP);
        let members = match node {
            Some(node) => self.groups.members_by(group, node, until).await.filter(|members| members.era() > row.era),
            // A step that changes nothing, as no such learner is: what the group itself answers is the truth.
            None => self.groups.change(group, Change::Release, until).await.map_err(leader::error_of)?.ok(),
        };
        let Some(members) = members else { return Err(Error::Unavailable(format!("nobody who has group {group} answers"))) };
        // Nobody remembers why they were taken.
        let unknown = |learner: &&ReplicaPlace| node.is_none() && row.replacing.is_none_or(|replacing| replacing.enters != **learner);
        for learner in members.learners.iter().filter(unknown) {
            let _ = self.groups.change(group, Change::RemoveLearner(learner.replica), now() + STEP).await;
        }
        let (version, voters) = (members.version, members.voters.len());
        self.propose(Command::NoteMembers { members }, now() + STEP).await?;
        runtime::probe!("placement: what a recovered group is was noted");
        tracing::warn!(%group, version, voters, "who belongs to a group was noted after a recovery");
        Ok(())
    }

    /// Go on telling former replicas, while leading. Not as a step of their groups, which may wait long for another voter: most of them
    /// together would go on as the group that they were.
    async fn tell_all_former(&self) {
        loop {
            sleep(LOOK).await;
            if self.term().is_none() || self.refounded().is_empty() {
                continue;
            }
            let mut groups = self.groups_of_root().await.unwrap_or_default();
            groups.retain(|row| !row.doubtful && !row.former.is_empty());
            futures::stream::iter(groups).for_each_concurrent(TOLD_AT_ONCE, |row| async move { self.tell_former(&row).await }).await;
        }
    }

    /// Replicas of before a group was founded anew, of whom those come back that were taken for lost: they must serve no more.
    async fn tell_former(&self, row: &Group) {
        let Ok(members) = self.groups.known(row.group) else { return };
        if runtime::planted("former-replica-not-told") {
            return;
        }
        // Also those on drives that were declared lost: they may come back all the same.
        for place in row.former.iter().filter(|place| members.era() >= row.era && !self.is_silent(place.node)) {
            let told = self.groups.remove_replica(row.group, *place, &members, now() + REMOVE).await;
            let told = match told {
                Ok(()) => self.propose(Command::FormerTold { group: row.group, replica: place.replica }, now() + STEP).await.map(drop),
                Err(error) => Err(leader::error_of(error)),
            };
            match told {
                Ok(()) => {
                    tracing::warn!(group = %row.group, replica = %place.replica, "a former replica knows that its group was founded anew")
                }
                Err(error) => tracing::debug!(group = %row.group, replica = %place.replica, %error, "a former replica is not told yet"),
            }
        }
    }

    async fn begin(&self, row: &Group, groups: &[Group], why: &Why) -> Result<Replacing, Error> {
        let Some((leaves, reason)) = why.of(row) else { return Err(Error::Refused("nothing is to be replaced".into())) };
        // Without a majority nothing would come of it, and an id would be burned for nothing.
        let view = self.groups.members(row.group, now() + STEP).await.map_err(leader::error_of)?;
        if view.leader.is_none() {
            return Err(Error::Unavailable(format!("group {} has no leader that is known", row.group)));
        }
        let all: Vec<ReplicaPlace> = groups.iter().flat_map(|row| row.voters.clone()).collect();
        let found = self.with_unusable(|map, unusable| {
            let barred: BTreeSet<DriveId> = why.lost.iter().chain(unusable).copied().collect();
            replacement(map, &row.voters, leaves, &all, &barred)
        })?;
        let Some((node, drive)) = found else {
            return Err(Error::Unavailable(format!("no drive is left for a replica of group {}: bring one back", row.group)));
        };
        let begin = Command::BeginReplace { group: row.group, leaves, node, drive };
        match self.propose(begin, now() + STEP).await? {
            (_, Reply::Group(Group { replacing: Some(replacing), .. })) => {
                let Replacing { leaves, enters, .. } = replacing;
                tracing::warn!(group = %row.group, ?leaves, enters = %enters.replica, %node, %drive, reason, "a replica is to enter");
                Ok(replacing)
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn finish(&self, row: &Group, replacing: Replacing, members: &Members) -> Result<(), Error> {
        let Replacing { attempt, leaves, enters } = replacing;
        self.propose(Command::FinishReplace { group: row.group, attempt }, now() + STEP).await?;
        runtime::probe!("placement: a lost replica was replaced");
        tracing::warn!(group = %row.group, ?leaves, enters = %enters.replica, "a replica entered");
        if let Some(place) = row.voters.iter().find(|voter| Some(voter.replica) == leaves) {
            // It may be gone with its drive.
            let _ = self.groups.remove_replica(row.group, *place, members, now() + REMOVE).await;
        }
        Ok(())
    }

    /// Have the group refuse the new replica for good. False if it has taken it as a voter already: then the exchange is to be
    /// finished, and the new replica replaced in its turn.
    async fn abandon(&self, group: GroupId, replacing: Replacing) -> Result<bool, Error> {
        let Replacing { attempt, enters, .. } = replacing;
        match self.groups.change(group, Change::RemoveLearner(enters.replica), now() + STEP).await.map_err(leader::error_of)? {
            Ok(_) => {
                runtime::probe!("placement: a replacement was abandoned");
                self.propose(Command::AbandonReplace { group, attempt }, now() + STEP).await?;
                Ok(true)
            }
            Err(Refused::NotLearner(_)) => Ok(false),
            Err(why) => Err(Error::Unavailable(why.to_string())),
        }
    }

    async fn groups_of_root(&self) -> Result<Vec<Group>, Error> {
        let mut groups: Vec<Group> = Vec::new();
        loop {
            let from = groups.last().map_or(ROOT, |last| GroupId(last.group.0 + 1));
            match self.read(Query::Groups { from, max: PAGE_MAX }, now() + STEP).await? {
                (_, Reply::Groups(page)) if page.is_empty() => return Ok(groups),
                (_, Reply::Groups(page)) => groups.extend(page),
                (_, other) => return Err(unexpected(&other)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::testing::map;
    use crate::watch::Watch;
    use crate::{DriveHealth, Heartbeat};

    #[test]
    fn a_group_that_is_stuck_keeps_its_own_place_and_no_other() {
        let mut places = Places::default();
        let work = |group: u64| -> (GroupId, BoxFuture<'static, ()>) {
            let stuck = (3..6).contains(&group);
            (GroupId(group), if stuck { futures::future::pending().boxed() } else { futures::future::ready(()).boxed() })
        };
        places.line_up((0..9).map(work));
        let mut ended = Vec::new();
        while let Some(Some((group, ()))) = places.next().now_or_never() {
            ended.push(group.0);
        }
        assert_eq!(ended, [1, 2, 6, 7, 8, 0], "the root last");
        // Who was found since does not wait for the stuck ones, and one that failed goes behind it.
        places.line_up([9, 1, 4].into_iter().map(work));
        let next = |places: &mut Places<BoxFuture<'static, ()>>| places.next().now_or_never().flatten().map(|(group, ())| group.0);
        assert_eq!([next(&mut places), next(&mut places), next(&mut places)], [Some(9), Some(1), None]);
        assert!(!places.is_empty());
    }

    #[test]
    fn only_a_voter_of_the_row_is_replaced_and_only_by_the_word_of_its_own_node() {
        let drive = |node: u64, ordinal| DriveId::at_bootstrap(NodeId(node), ordinal);
        let place = |replica, node| ReplicaPlace { replica: ReplicaId(replica), node: NodeId(node), drive: drive(node, 0) };
        let voters = vec![place(1, 1), place(2, 2), place(3, 3)];
        let row = Group {
            group: GroupId(7),
            voters,
            last: ReplicaId(3),
            replacing: None,
            ended: 0,
            wanted: 3,
            era: 0,
            doubtful: false,
            former: Vec::new(),
        };
        let says = |node: u64, replica: u64, without_replicas| {
            let health = DriveHealth { drive: drive(node, 0), closed: None, without_replicas, free_bytes: 1, total_bytes: 1 };
            let to_be_replaced = vec![(GroupId(7), ReplicaId(replica))];
            Heartbeat { node: NodeId(node), incarnation: 1, drives: vec![health], clock_ms: 0, to_be_replaced, refounded: Vec::new() }
        };
        let due = |heartbeats: Vec<Heartbeat>, lost: &[DriveId]| {
            let map = map(3, 1, 2);
            let mut watch = Watch::default();
            for heartbeat in heartbeats {
                watch.heard(&map, heartbeat);
            }
            let why = Why { lost: lost.iter().copied().collect(), spent: watch.spent(), refounded: BTreeMap::new() };
            why.of(&row).map(|(leaves, reason)| (leaves.expect("none is short").0, reason))
        };
        assert_eq!(due(vec![says(2, 2, false)], &[]), Some((2, "nothing heals it")));
        assert_eq!(due(vec![says(1, 2, false)], &[]), None, "it is another node's");
        assert_eq!(due(vec![says(2, 4, false)], &[]), None, "it does not vote, or no more");
        assert_eq!(due(vec![says(3, 9, true)], &[]), Some((3, "nothing heals it")), "the log of its drive is damaged");
        assert_eq!(due(vec![says(2, 2, false)], &[drive(3, 0)]), Some((3, "its drive is lost")));
        assert_eq!(due(Vec::new(), &[drive(3, 1)]), None);
    }
}
