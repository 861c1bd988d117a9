//! What an operator asks of a running cluster: where the replicas of its groups are, to replace those of a drive that is gone, who may sign
//! requests, what it was founded with. Asks the nodes as one of them would, under an id that no node has, and keeps nothing.

mod identities;

pub use identities::{Issued, Listing};

use crate::settings::Bootstrap;
use consensus::client::GroupView;
use consensus::{Members, ReplicaPlace};
use gateway::secret_keys::SecretKeys;
use placement::{Error, Group, Replacing};
use protocol::{ClusterMap, DriveId, NodeId, ROOT, ReplicaId};
use runtime::rpc::{self, Rpc, Secret};
use runtime::time::Instant;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

/// Ids of nodes are below this, those of operators are not.
const IDS: u64 = 1 << 40;

/// A connection to a running cluster.
pub struct Operator {
    map: ClusterMap,
    groups: consensus::Client,
    placement: placement::Client,
    secret_keys: SecretKeys,
}

/// A group as the root group and the group itself have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    pub row: Group,
    /// `None` if none of its nodes answers.
    pub view: Option<GroupView>,
}

/// The groups of a cluster, and the drives that were lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterStatus {
    map: ClusterMap,
    pub groups: Vec<GroupStatus>,
    pub lost: BTreeSet<DriveId>,
}

impl Operator {
    /// Of the cluster that was founded with `bootstrap`.
    pub fn new(bootstrap: &Bootstrap, secret: Secret) -> Operator {
        let map = bootstrap.map.clone();
        let secret_keys = SecretKeys::new(&secret, map.cluster);
        let rpc = Rpc::new(rpc::Settings {
            node: NodeId(IDS + runtime::entropy::u64() % IDS),
            cluster: map.cluster,
            secret,
            // It is never listened to.
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            peers: map.nodes.iter().map(|node| (node.id, node.address)).collect(),
        });
        let groups = consensus::Client::new(rpc.clone(), crate::inspect::groups(bootstrap));
        let placement = placement::Client::new(rpc, groups.clone());
        Operator { map, groups, placement, secret_keys }
    }

    /// Where all replicas are.
    pub async fn status(&self, deadline: Instant) -> Result<ClusterStatus, Error> {
        let rows = self.placement.groups(deadline).await?;
        let lost = self.placement.lost_drives(deadline).await?.into_iter().collect();
        let views = rows.iter().map(|row| {
            // It may have left every node that it was founded on.
            self.groups.learn(row.group, &presumed(row));
            self.groups.members(row.group, deadline)
        });
        let views = futures::future::join_all(views).await;
        let groups = rows.into_iter().zip(views).map(|(row, view)| GroupStatus { row, view: view.ok() }).collect();
        Ok(ClusterStatus { map: self.map.clone(), groups, lost })
    }

    /// What the cluster was founded with.
    pub async fn founding(&self, deadline: Instant) -> Result<Bootstrap, Error> {
        self.placement.founding(deadline).await
    }

    /// The drive will not come back with what it held: have its replicas replaced. Returns when that is noted durably.
    pub async fn lose_drive(&self, drive: DriveId, deadline: Instant) -> Result<(), Error> {
        self.placement.lose_drive(drive, deadline).await
    }
}

/// Where to ask for a group; older than anything that the group says itself.
fn presumed(row: &Group) -> Members {
    let voters = row.voters.clone();
    Members {
        group: row.group,
        version: 1,
        voters,
        outgoing: Vec::new(),
        learners: Vec::new(),
        parting: Vec::new(),
        last: row.last,
        machine: 1,
    }
}

impl ClusterStatus {
    /// Replicas on `drive` that are not replaced yet.
    pub fn left_on(&self, drive: DriveId) -> usize {
        self.groups.iter().filter(|status| status.row.voters.iter().any(|voter| voter.drive == drive)).count()
    }

    fn place(&self, place: &ReplicaPlace) -> String {
        match self.map.drive(place.drive) {
            Some((node, drive)) => format!("node {}, drive {} ({}, zone {})", place.node, place.drive, drive.label, node.zone),
            None => format!("node {}, drive {}", place.node, place.drive),
        }
    }
}

impl fmt::Display for ClusterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for GroupStatus { row, view } in &self.groups {
            let name = if row.group == ROOT { "root group".to_owned() } else { format!("partition {}", row.group) };
            let leader = view.as_ref().and_then(|view| view.leader);
            match (view, leader) {
                (None, _) => writeln!(f, "{name}: NONE OF ITS NODES ANSWERS")?,
                (Some(_), None) => writeln!(f, "{name}: NO LEADER IS KNOWN")?,
                (Some(_), Some(leader)) => writeln!(f, "{name}: replica {leader} leads")?,
            }
            for voter in &row.voters {
                write!(f, "  replica {} on {}", voter.replica, self.place(voter))?;
                if self.lost.contains(&voter.drive) {
                    write!(f, ": DRIVE LOST")?;
                }
                match row.replacing.filter(|replacing| replacing.leaves == Some(voter.replica)) {
                    Some(replacing) => {
                        let enters = replacing.enters;
                        let how_far = view.as_ref().map_or("", |view| how_far(&view.members, enters.replica));
                        writeln!(f, "; replica {} on {} takes its place{how_far}", enters.replica, self.place(&enters))?;
                    }
                    None => writeln!(f)?,
                }
            }
            if row.doubtful {
                writeln!(f, "  as it was once: the root group was recovered, and has not heard yet who belongs to it now")?;
            }
            if row.is_short() {
                write!(f, "  TOO FEW: {} of {} voters", row.voters.len(), row.wanted)?;
                match row.replacing.filter(|replacing| replacing.leaves.is_none()) {
                    Some(Replacing { enters, .. }) => {
                        let how_far = view.as_ref().map_or("", |view| how_far(&view.members, enters.replica));
                        writeln!(f, "; replica {} on {} enters{how_far}", enters.replica, self.place(&enters))?;
                    }
                    None => writeln!(f)?,
                }
            }
            for former in &row.former {
                writeln!(
                    f,
                    "  former replica {} on {}: it was lost when the group was recovered, and has not been heard of since",
                    former.replica,
                    self.place(former)
                )?;
            }
        }
        for drive in &self.lost {
            match self.left_on(*drive) {
                0 => writeln!(f, "drive {drive} was lost; none of its replicas is needed any more")?,
                count => writeln!(f, "drive {drive} was lost; {count} of its replicas are not replaced yet")?,
            }
        }
        Ok(())
    }
}

fn how_far(members: &Members, enters: ReplicaId) -> &'static str {
    if members.is_learner(enters) {
        " when it has caught up"
    } else if members.is_voter(enters) && members.is_settled() {
        ", and votes already"
    } else if members.is_voter(enters) {
        " at this moment"
    } else {
        ", and is not there yet"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{ClusterId, Drive, DriveState, GroupId, Node};

    #[test]
    fn the_status_says_what_is_lost_and_how_far_its_replacement_is() {
        let node = |id: u64| Node {
            id: NodeId(id),
            zone: format!("z{id}"),
            rack: String::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 7000)),
            drives: vec![Drive { id: DriveId(id), state: DriveState::In, weight: 100, label: format!("/data/{id}") }],
        };
        let map = ClusterMap { cluster: ClusterId(1), version: 1, nodes: (1..=4).map(node).collect() };
        let place = |id: u64| ReplicaPlace { replica: ReplicaId(id), node: NodeId(id), drive: DriveId(id) };
        let replacing = Some(Replacing { attempt: 1, leaves: Some(ReplicaId(2)), enters: place(4) });
        let row = Group {
            group: GroupId(3),
            voters: (1..=3).map(place).collect(),
            last: ReplicaId(4),
            replacing,
            ended: 0,
            wanted: 3,
            era: 0,
            doubtful: false,
            former: Vec::new(),
        };
        let members = Members { learners: vec![place(4)], ..presumed(&row) };
        let view = Some(GroupView { members, leader: Some(ReplicaId(1)) });
        let lost = BTreeSet::from([DriveId(2)]);
        let status = ClusterStatus { map, groups: vec![GroupStatus { row, view }], lost };
        assert_eq!(
            status.to_string(),
            "partition 3: replica 1 leads
  replica 1 on node 1, drive 1 (/data/1, zone z1)
  replica 2 on node 2, drive 2 (/data/2, zone z2): DRIVE LOST; replica 4 on node 4, drive 4 (/data/4, zone z4) takes its place when it has caught up
  replica 3 on node 3, drive 3 (/data/3, zone z3)
drive 2 was lost; 1 of its replicas are not replaced yet
"
        );
        assert_eq!(status.left_on(DriveId(1)), 1);
        assert_eq!(status.left_on(DriveId(4)), 0);
    }
}
