//! Replacing replicas whose drives are lost. The root's leader chooses a drive, asks the group for the exchange, and writes down
//! what came of it; whoever leads next goes on from what is written.
//!
//! Always holds: nothing here decides who belongs to a group. The root's rows say what is asked for, the group does it or not,
//! each step any number of times, and only its own word ends a replacement.

use crate::commands::{Command, Query, Reply};
use crate::replicas::replacement;
use crate::root::groups::{Group, PAGE_MAX, Replacing};
use crate::service::{Inner, unexpected};
use crate::{Error, leader};
use consensus::members::{Change, Refused};
use consensus::{Members, ReplicaPlace};
use protocol::{DriveId, GroupId, ROOT};
use runtime::time::{now, sleep};
use std::collections::BTreeSet;
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

/// Replace what is lost, while leading.
pub(crate) async fn replace_lost(inner: Arc<Inner>) {
    loop {
        sleep(LOOK).await;
        if !inner.leads() {
            continue;
        }
        if let Err(error) = inner.replace_once().await {
            tracing::debug!(%error, "the root's leader cannot look for replicas to replace");
        }
    }
}

impl Inner {
    async fn replace_once(&self) -> Result<(), Error> {
        let lost: BTreeSet<DriveId> = match self.read(Query::LostDrives, now() + STEP).await? {
            (_, Reply::Drives(drives)) => drives.into_iter().collect(),
            (_, other) => return Err(unexpected(&other)),
        };
        if lost.is_empty() {
            return Ok(());
        }
        let groups = self.groups_of_root().await?;
        let mut due: Vec<&Group> = groups.iter().filter(|row| row.replacing.is_some() || lost_voter(row, &lost).is_some()).collect();
        // The root last: who leads it may have to hand it over, and what is begun here with it.
        due.sort_by_key(|row| (row.group == ROOT, row.group));
        for some in due.chunks(GROUPS_AT_ONCE) {
            let outcomes = futures::future::join_all(some.iter().map(|row| self.replace_in(row, &groups, &lost))).await;
            for (row, outcome) in some.iter().zip(outcomes) {
                if let Err(error) = outcome {
                    tracing::warn!(group = %row.group, %error, "a lost replica is not replaced yet; trying again");
                }
            }
            if !self.leads() {
                break;
            }
        }
        Ok(())
    }

    /// Bring one group a step further, to the end if it can be.
    async fn replace_in(&self, row: &Group, groups: &[Group], lost: &BTreeSet<DriveId>) -> Result<(), Error> {
        let replacing = match row.replacing {
            Some(replacing) => replacing,
            None => self.begin(row, groups, lost).await?,
        };
        let Replacing { leaves, enters, .. } = replacing;
        if lost.contains(&enters.drive) && self.abandon(row.group, replacing).await? {
            return Ok(());
        }
        match self.groups.exchange(row.group, enters, leaves, now() + EXCHANGE).await {
            Ok(members) => self.finish(row, replacing, &members).await,
            Err(error @ consensus::client::Error::Unknown { .. }) if !self.is_barred(enters.drive) => Err(leader::error_of(error)),
            Err(error) => {
                // The new replica cannot be made or kept: another drive may do, if the group has not taken it as a voter.
                self.abandon(row.group, replacing).await?;
                Err(leader::error_of(error))
            }
        }
    }

    async fn begin(&self, row: &Group, groups: &[Group], lost: &BTreeSet<DriveId>) -> Result<Replacing, Error> {
        let Some(leaves) = lost_voter(row, lost) else { return Err(Error::Refused("nothing is to be replaced".into())) };
        let all: Vec<ReplicaPlace> = groups.iter().flat_map(|row| row.voters.clone()).collect();
        let found = self.with_unusable(|map, unusable| {
            let barred: BTreeSet<DriveId> = lost.iter().chain(unusable).copied().collect();
            replacement(map, &row.voters, leaves.replica, &all, &barred)
        })?;
        let Some((node, drive)) = found else {
            return Err(Error::Unavailable(format!("no drive is left for a replica of group {}: bring one back", row.group)));
        };
        let begin = Command::BeginReplace { group: row.group, leaves: leaves.replica, node, drive };
        match self.propose(begin, now() + STEP).await? {
            (_, Reply::Group(Group { replacing: Some(replacing), .. })) => {
                let Replacing { leaves, enters, .. } = replacing;
                tracing::warn!(group = %row.group, %leaves, enters = %enters.replica, %node, %drive, "replacing a replica whose drive is lost");
                Ok(replacing)
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn finish(&self, row: &Group, replacing: Replacing, members: &Members) -> Result<(), Error> {
        let Replacing { attempt, leaves, enters } = replacing;
        self.propose(Command::FinishReplace { group: row.group, attempt }, now() + STEP).await?;
        runtime::probe!("placement: a lost replica was replaced");
        tracing::warn!(group = %row.group, %leaves, enters = %enters.replica, "a replica whose drive was lost is replaced");
        if let Some(place) = row.voters.iter().find(|voter| voter.replica == leaves) {
            // Most often it is gone with its drive.
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

fn lost_voter(row: &Group, lost: &BTreeSet<DriveId>) -> Option<ReplicaPlace> {
    row.voters.iter().find(|voter| lost.contains(&voter.drive)).copied()
}
