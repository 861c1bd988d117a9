//! I9: replicas that applied the same index hold the same bytes. A replica may have been damaged only for a reason that a fault
//! explains; what its group can give back to it, it has again soon; and one that nothing heals is replaced soon.

use super::drives::{Drives, Harm};
use super::refoundings::Anew;
use crate::cluster::Cluster;
use crate::violation::Violation;
use consensus::{GroupSpec, Members, ReplicaPlace, RowsDigest};
use protocol::{DriveId, GroupId, ReplicaId};
use runtime::time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Simulated time after the last fault in which the replicas of a group must have applied the same.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Who belongs to each group by the logs, and the drives that the root group calls lost.
pub(super) struct Placed {
    /// The groups as they began.
    pub founded: Vec<GroupSpec>,
    pub groups: Vec<(GroupId, Members)>,
    pub lost: BTreeSet<DriveId>,
    /// Drives whose replicas have lost nothing but states: their groups give them others, and they stay who they are.
    pub heal: BTreeSet<DriveId>,
    /// Groups that were founded anew.
    pub anew: BTreeMap<GroupId, Anew>,
    /// Each group must have its full number of voters, and all must run.
    pub full: bool,
}

impl Placed {
    /// Replicas that were replaced although they only had to be healed.
    fn replaced_without_need(&self) -> Vec<Violation> {
        let stays = |group: GroupId, replica: ReplicaId| {
            let members = self.groups.iter().find(|(known, _)| *known == group).map(|(_, members)| members);
            members.is_none_or(|members| members.has_vote(replica))
        };
        let founders = self.founded.iter().flat_map(|spec| spec.voters.iter().map(|voter| (spec.group, voter)));
        let gone = founders.filter(|(group, voter)| self.heal.contains(&voter.drive) && !stays(*group, voter.replica));
        let text = |(group, voter): (GroupId, &ReplicaPlace)| {
            format!("replica {} of group {group} was replaced, and only its state had rotted", voter.replica)
        };
        gone.map(|gone| Violation::new("heals-as-itself", text(gone))).collect()
    }

    /// Whether the replica is of before its group was founded anew.
    fn is_former(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.anew.get(&group).is_some_and(|anew| replica < anew.first)
    }

    /// What groups lack of their full number of voters that run, where that is expected.
    fn lacking(&self, running: &BTreeMap<u64, Vec<Replica>>) -> Vec<String> {
        let mut lacking = Vec::new();
        for spec in self.founded.iter().filter(|_| self.full) {
            let Some((group, members)) = self.groups.iter().find(|(known, _)| *known == spec.group) else { continue };
            let runs =
                |voter: &&ReplicaPlace| running.get(&group.0).is_some_and(|all| all.iter().any(|one| one.replica == voter.replica.0));
            let voters = members.voters.iter().filter(runs).count();
            if voters < spec.voters.len() {
                lacking.push(format!("group {group} has {voters} voters that run, of {}: {members:?}", spec.voters.len()));
            }
        }
        lacking
    }

    /// What is left to do of replacing replicas on lost drives.
    fn unreplaced(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (group, members) in &self.groups {
            let lost = members.voters.iter().filter(|voter| self.lost.contains(&voter.drive));
            left.extend(
                lost.map(|voter| format!("replica {} of group {group} is on a lost drive, and is not replaced yet", voter.replica)),
            );
            if !members.is_settled() {
                left.push(format!("an exchange of voters of group {group} does not come to its end: {members:?}"));
            }
        }
        left
    }
}

/// A replica that runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Replica {
    applied: u64,
    state_hash: u64,
    replica: u64,
}

/// Wait until the running replicas of each group have applied the same, then compare their state hashes. `touched`: drives
/// that a fault struck.
pub(super) async fn compare(
    cluster: &Cluster,
    drives: &Drives,
    touched: &BTreeSet<DriveId>,
    placed: impl Fn() -> Placed,
) -> Vec<Violation> {
    let deadline = time::now() + SETTLE_MAX;
    loop {
        let placed = placed();
        let (groups, mut unsettled, mut found) = gather(cluster, drives, touched, &placed);
        found.extend(differing(&groups));
        found.extend(placed.replaced_without_need());
        let lacking = placed.unreplaced().into_iter().chain(placed.lacking(&groups));
        unsettled.extend(lacking.map(|text| Violation::new("replica-healed", text)));
        let settled =
            unsettled.is_empty() && groups.values().all(|replicas| replicas.iter().all(|replica| replica.applied == replicas[0].applied));
        if settled || !found.is_empty() {
            return found;
        }
        if time::now() >= deadline && !unsettled.is_empty() {
            return unsettled;
        }
        if time::now() >= deadline {
            let text = format!("replicas do not catch up within {} s: {groups:x?}", SETTLE_MAX.as_secs());
            return vec![Violation::new("replicas-catch-up", text)];
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// Compare the rows themselves: the hash above is one of writes, and cannot tell that a row was lost.
pub(super) async fn compare_rows(cluster: &Cluster, touched: &BTreeSet<DriveId>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut met: BTreeMap<(GroupId, u64), RowsDigest> = BTreeMap::new();
    for (index, machine) in cluster.machines.iter().enumerate().filter(|(_, machine)| !machine.is_dead()) {
        let Some(node) = cluster.node(index) else { continue };
        for digest in machine.spawn(async move { node.host().digests().await }).await {
            let RowsDigest { group, replica, drive, applied, .. } = digest;
            if let Some(contradiction) = &digest.session_contradiction {
                let text = format!("I11: sessions of replica {replica} of group {group}: {contradiction}");
                found.push(Violation::new("sessions-sound", text));
            }
            match &digest.digest {
                Err(_) if touched.contains(&drive) => {}
                Err(reason) => {
                    let text = format!("the rows of replica {replica} of group {group} cannot be read: {reason}");
                    found.push(Violation::new("replica-rows", text));
                }
                Ok(rows) => {
                    let other = met.entry((group, applied)).or_insert_with(|| digest.clone());
                    if other.digest.as_ref() != Ok(rows) {
                        let text = format!(
                            "I9: replicas {} and {replica} of group {group} applied {applied} and hold other rows: {:?}, {rows:?}",
                            other.replica, other.digest
                        );
                        found.push(Violation::new("replica-rows", text));
                    }
                }
            }
        }
    }
    found
}

/// The replicas that run by group, what has to come to be otherwise soon, and those that do not run and should.
type Gathered = (BTreeMap<u64, Vec<Replica>>, Vec<Violation>, Vec<Violation>);

fn gather(cluster: &Cluster, drives: &Drives, touched: &BTreeSet<DriveId>, placed: &Placed) -> Gathered {
    let harm = Harm::now(drives, cluster);
    let refused: BTreeSet<DriveId> = cluster.refused().into_keys().filter_map(|place| drives.at(place.node, place.drive)).collect();
    let explained = |drive: DriveId| touched.contains(&drive) || harm.out(drive).is_some();
    let mut groups: BTreeMap<u64, Vec<Replica>> = BTreeMap::new();
    let (mut unsettled, mut found) = (Vec::new(), Vec::new());
    let healed = |text: String| Violation::new("replica-healed", text);
    let (mut seen, mut spent) = (BTreeSet::new(), Vec::new());
    for node in (0..cluster.machines.len()).filter_map(|index| cluster.node(index)) {
        for status in node.host().status() {
            seen.insert((status.group, status.replica));
            let (replica, group, drive) = (status.replica, status.group, drives.label(status.drive));
            if placed.is_former(group, replica) {
                if !status.to_be_replaced {
                    let text =
                        format!("replica {replica} of group {group} on {drive} was not told that it is of before: {:?}", status.trouble);
                    unsettled.push(Violation::new("former-set-aside", text));
                }
                continue;
            }
            if let Some(reason) = status.healed.filter(|_| !explained(status.drive)) {
                let text = format!("replica {replica} of group {group} had been damaged on {drive}, which no fault explains: {reason}");
                found.push(Violation::new("replica-stopped", text));
            }
            match &status.trouble {
                None => groups.entry(status.group.0).or_default().push(Replica {
                    applied: status.applied,
                    state_hash: status.state_hash,
                    replica: status.replica.0,
                }),
                Some(reason) if explained(status.drive) => {
                    if !status.to_be_replaced && harm.out(status.drive).is_none() {
                        unsettled.push(healed(format!("replica {replica} of group {group} on {drive} is crippled yet: {reason}")));
                    }
                    if status.to_be_replaced && placed.heal.contains(&status.drive) {
                        let text =
                            format!("replica {replica} of group {group} on {drive} lost its state alone, and is not healed: {reason}");
                        found.push(Violation::new("heals-as-itself", text));
                    } else if status.to_be_replaced {
                        spent.push((status.group, status.replica, format!("replica {replica} of group {group} on {drive}: {reason}")));
                    }
                }
                Some(reason) => {
                    let text = format!("replica {replica} of group {group} stopped on {drive}, which no fault explains: {reason}");
                    found.push(Violation::new("replica-stopped", text));
                }
            }
        }
    }
    for (group, replica, text) in spent {
        let Some((_, members)) = placed.groups.iter().find(|(known, _)| *known == group) else { continue };
        let running = groups.get(&group.0).map_or(0, Vec::len);
        let free = drives.iter().any(|(drive, _)| {
            let taken = members.all().any(|place| place.drive == drive) || placed.lost.contains(&drive);
            !taken && !explained(drive) && !refused.contains(&drive)
        });
        // It can be where the group has a majority without it, and a drive is left.
        if members.is_voter(replica) && running > members.voters.len() / 2 && free {
            unsettled.push(healed(format!("not replaced yet: {text}")));
        }
    }
    for (group, members) in &placed.groups {
        for voter in members.voters.iter().filter(|voter| !seen.contains(&(*group, voter.replica)) && !explained(voter.drive)) {
            let text = format!("replica {} of group {group} is not there, which no fault explains", voter.replica);
            found.push(Violation::new("replica-missing", text));
        }
    }
    for (group, former) in placed.anew.iter().flat_map(|(group, anew)| anew.former.iter().map(move |former| (*group, former))) {
        if !seen.contains(&(group, former.replica)) && !explained(former.drive) {
            let text = format!("replica {} of group {group} of before is not there, and was to keep what it has", former.replica);
            unsettled.push(Violation::new("former-kept", text));
        }
    }
    (groups, unsettled, found)
}

fn differing(groups: &BTreeMap<u64, Vec<Replica>>) -> Vec<Violation> {
    let differ = |replicas: &[Replica]| {
        replicas.iter().any(|one| replicas.iter().any(|other| one.applied == other.applied && one.state_hash != other.state_hash))
    };
    groups
        .iter()
        .filter(|(_, replicas)| differ(replicas))
        .map(|(group, replicas)| Violation::new("replicas-agree", format!("I9: replicas of group {group} differ: {replicas:x?}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_compared_where_they_applied_the_same() {
        let judge = |hashes: &[(u64, u64)]| {
            let replicas = hashes.iter().zip(1..).map(|((applied, state_hash), replica)| Replica {
                applied: *applied,
                state_hash: *state_hash,
                replica,
            });
            differing(&BTreeMap::from([(1, replicas.collect())])).len()
        };
        assert_eq!(judge(&[(5, 1), (5, 1), (6, 2)]), 0);
        assert_eq!(judge(&[(5, 1), (6, 2), (5, 3)]), 1);
    }
}
