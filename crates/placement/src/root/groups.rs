//! Which replicas vote in each group, which of them is being replaced by which, and which drives are lost.
//!
//! The group itself decides who belongs to it. These rows say what was asked of it, so that whoever leads the root group next
//! asks for the same and for nothing else; and what came of it, for whoever looks for the group or for a drive to use.
//!
//! Invariants: one replacement of a group at a time, under an attempt number that is never used again; a finish or an
//! abandonment acts only under it; a replica id is given out once, whatever became of it; no two replicas of a group are on one
//! drive; a lost drive is given none.

use super::{Counters, Verdict, decode_row, map, numbered};
use crate::commands::Reply;
use crate::{Bootstrap, Error, place_replicas};
use consensus::{GroupSpec, ReplicaPlace, Rows, RowsMut};
use protocol::{DriveId, DriveState, GroupId, NodeId, ROOT, ReplicaId, wire};
use serde::{Deserialize, Serialize};

const PREFIX: &[u8] = b"group/";
const PREFIX_END: &[u8] = b"group0";
/// Drives that will not come back with what they held; empty values.
const LOST: &[u8] = b"lost/";
const LOST_END: &[u8] = b"lost0";

/// Most groups in one answer.
pub const PAGE_MAX: u32 = 256;

/// The replicas of a group, as the root group has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    pub group: GroupId,
    /// Who votes, as of the last replacement that was finished.
    pub voters: Vec<ReplicaPlace>,
    /// The greatest replica id that was given out.
    pub last: ReplicaId,
    pub replacing: Option<Replacing>,
    /// The attempt of the last replacement that was finished or abandoned; 0 if there was none.
    pub ended: u64,
}

/// A replacement that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Replacing {
    pub attempt: u64,
    pub leaves: ReplicaId,
    pub enters: ReplicaPlace,
}

impl Group {
    fn founded(spec: GroupSpec) -> Group {
        let last = spec.voters.iter().map(|voter| voter.replica).max().unwrap_or(ReplicaId(0));
        Group { group: spec.group, voters: spec.voters, last, replacing: None, ended: 0 }
    }

    /// Drives on which it has replicas, or is about to have one.
    pub fn drives(&self) -> impl Iterator<Item = DriveId> {
        self.voters.iter().chain(self.replacing.as_ref().map(|replacing| &replacing.enters)).map(|place| place.drive)
    }
}

/// Enter all groups with the voters that they are founded with.
pub(super) fn found(rows: &mut RowsMut<'_>, bootstrap: &Bootstrap) {
    let mut groups = vec![ROOT];
    groups.extend(&bootstrap.partitions);
    for spec in place_replicas(&bootstrap.map, &groups) {
        store(rows, &Group::founded(spec));
    }
}

/// Put a new replica on `drive` in the place of the voter `leaves`. The same again is answered with what was begun.
pub(super) fn begin_replace(
    rows: &mut RowsMut<'_>,
    counters: &mut Counters,
    group: GroupId,
    leaves: ReplicaId,
    node: NodeId,
    drive: DriveId,
) -> Result<Verdict, Error> {
    let mut row = find(rows, group)?;
    if let Some(replacing) = row.replacing {
        let same = replacing.leaves == leaves && (replacing.enters.node, replacing.enters.drive) == (node, drive);
        let other = || Error::Refused(format!("replica {} of group {group} is being replaced already", replacing.leaves));
        return if same { Ok(Verdict::Unchanged(Reply::Group(row))) } else { Err(other()) };
    }
    if !row.voters.iter().any(|voter| voter.replica == leaves) {
        return Err(Error::Refused(format!("replica {leaves} is no voter of group {group}")));
    }
    check(rows, &row, node, drive).map_err(Error::Refused)?;
    counters.attempt += 1;
    row.last = ReplicaId(row.last.0 + 1);
    let enters = ReplicaPlace { replica: row.last, node, drive };
    row.replacing = Some(Replacing { attempt: counters.attempt, leaves, enters });
    store(rows, &row);
    Ok(Verdict::Changed(Reply::Group(row)))
}

/// The group itself has made the exchange.
pub(super) fn finish_replace(rows: &mut RowsMut<'_>, group: GroupId, attempt: u64) -> Result<Verdict, Error> {
    end_replace(rows, group, attempt, |row, replacing| {
        for voter in row.voters.iter_mut().filter(|voter| voter.replica == replacing.leaves) {
            *voter = replacing.enters;
        }
    })
}

/// The group itself will never make the exchange: it has refused the replica that was to enter, for good.
pub(super) fn abandon_replace(rows: &mut RowsMut<'_>, group: GroupId, attempt: u64) -> Result<Verdict, Error> {
    end_replace(rows, group, attempt, |_, _| {})
}

fn end_replace(rows: &mut RowsMut<'_>, group: GroupId, attempt: u64, end: impl FnOnce(&mut Group, Replacing)) -> Result<Verdict, Error> {
    let mut row = find(rows, group)?;
    match row.replacing {
        Some(replacing) if replacing.attempt == attempt => {
            end(&mut row, replacing);
            row.replacing = None;
            row.ended = attempt;
            store(rows, &row);
            Ok(Verdict::Changed(Reply::Group(row)))
        }
        _ if row.ended == attempt && attempt > 0 => Ok(Verdict::Unchanged(Reply::Group(row))),
        _ => Err(Error::StaleAttempt),
    }
}

/// The drive will not come back with what it held: its replicas are to be replaced, and it is given none.
pub(super) fn lose_drive(rows: &mut RowsMut<'_>, drive: DriveId) -> Result<Verdict, Error> {
    if bootstrap(rows)?.map.drive(drive).is_none() {
        return Err(Error::Refused(format!("drive {drive} is not known")));
    }
    let key = numbered(LOST, drive.0);
    if rows.get(&key).is_some() {
        return Ok(Verdict::Unchanged(Reply::Done));
    }
    rows.put(&key, &[]);
    Ok(Verdict::Changed(Reply::Done))
}

/// Groups with ids from `from` on, at most `max` and [`PAGE_MAX`].
pub(super) fn query_page(rows: &Rows<'_>, from: GroupId, max: u32) -> Reply {
    let mut groups = Vec::new();
    let max = max.min(PAGE_MAX) as usize;
    rows.scan(&numbered(PREFIX, from.0), PREFIX_END, &mut |_, value| {
        groups.push(wire::decode::<Group>(value).expect("rows of the root group are written by this state machine"));
        groups.len() < max
    });
    Reply::Groups(groups)
}

/// All drives that are lost.
pub(super) fn query_lost(rows: &Rows<'_>) -> Reply {
    let mut drives = Vec::new();
    rows.scan(LOST, LOST_END, &mut |key, _| {
        let number = key[LOST.len()..].try_into().expect("keys end in a number of 8 bytes");
        drives.push(DriveId(u64::from_be_bytes(number)));
        drives.len() < map::DRIVES_MAX
    });
    Reply::Drives(drives)
}

/// The leader chose by what it believed; what is believed here is the state.
fn check(rows: &RowsMut<'_>, row: &Group, node: NodeId, drive: DriveId) -> Result<(), String> {
    let bootstrap = bootstrap(rows).map_err(|error| error.to_string())?;
    let Some((on, known)) = bootstrap.map.drive(drive) else { return Err(format!("drive {drive} is not known")) };
    if on.id != node {
        return Err(format!("drive {drive} is on node {}, not {node}", on.id));
    }
    if known.state != DriveState::In || rows.get(&numbered(LOST, drive.0)).is_some() {
        return Err(format!("drive {drive} ({}) is out or lost", known.label));
    }
    if row.drives().any(|other| other == drive) {
        return Err(format!("group {} has a replica on drive {drive} ({}) already", row.group, known.label));
    }
    Ok(())
}

fn bootstrap(rows: &RowsMut<'_>) -> Result<Bootstrap, Error> {
    decode_row(rows.get(map::BOOTSTRAP)).ok_or_else(|| Error::Unavailable("the cluster is not founded yet".into()))
}

pub(crate) fn find(rows: &RowsMut<'_>, group: GroupId) -> Result<Group, Error> {
    decode_row(rows.get(&numbered(PREFIX, group.0))).ok_or_else(|| Error::Refused(format!("group {group} is not known")))
}

fn store(rows: &mut RowsMut<'_>, group: &Group) {
    rows.put(&numbered(PREFIX, group.group.0), &wire::encode(group));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, Query};
    use crate::root::testing::Model;

    fn groups(model: &Model) -> Vec<Group> {
        match model.query(Query::Groups { from: ROOT, max: PAGE_MAX }).result {
            Ok(Reply::Groups(groups)) => groups,
            other => panic!("{other:?}"),
        }
    }

    fn group_of(result: Result<Reply, Error>) -> Group {
        match result {
            Ok(Reply::Group(group)) => group,
            other => panic!("{other:?}"),
        }
    }

    /// A drive on which group 1 has no replica, and its node.
    fn free(model: &Model, row: &Group) -> (NodeId, DriveId) {
        let Ok(Reply::Bootstrap(Some(bootstrap))) = model.query(Query::Bootstrap).result else { panic!("not founded") };
        let all = bootstrap.map.nodes.iter().flat_map(|node| node.drives.iter().map(|drive| (node.id, drive.id)));
        let mut free = all.filter(|(_, drive)| row.drives().all(|used| used != *drive));
        free.next_back().unwrap()
    }

    #[test]
    fn all_groups_begin_with_the_voters_that_every_node_computes() {
        let model = Model::founded(3, 2, 2);
        let groups = groups(&model);
        assert_eq!(groups.len(), 9);
        let ids: Vec<GroupId> = groups.iter().map(|row| row.group).collect();
        let Ok(Reply::Bootstrap(Some(bootstrap))) = model.query(Query::Bootstrap).result else { panic!("not founded") };
        let computed = place_replicas(&bootstrap.map, &ids);
        assert!(groups.iter().zip(computed).all(|(row, spec)| row.voters == spec.voters && row.replacing.is_none()));
    }

    #[test]
    fn a_replacement_is_begun_once_finished_once_and_stale_attempts_change_nothing() {
        let mut model = Model::founded(3, 2, 2);
        let before = groups(&model)[1].clone();
        let (group, leaves) = (before.group, before.voters[2].replica);
        let (node, drive) = free(&model, &before);
        let begin = Command::BeginReplace { group, leaves, node, drive };
        let begun = group_of(model.apply(begin.clone()).result);
        let replacing = begun.replacing.unwrap();
        assert_eq!((replacing.enters.replica.0, replacing.leaves), (before.last.0 + 1, leaves));
        assert_eq!(group_of(model.apply(begin).result), begun, "the same again is what was begun");
        let other = Command::BeginReplace { group, leaves: before.voters[0].replica, node, drive };
        assert!(matches!(model.apply(other).result, Err(Error::Refused(_))), "one at a time");
        let attempt = replacing.attempt;
        let stale = model.apply(Command::FinishReplace { group, attempt: attempt + 1 });
        assert_eq!(stale.result, Err(Error::StaleAttempt));
        let finished = group_of(model.apply(Command::FinishReplace { group, attempt }).result);
        assert_eq!(finished.voters[2], replacing.enters);
        assert_eq!(finished.voters.len(), before.voters.len());
        let revision = model.query(Query::LostDrives).revision;
        assert_eq!(group_of(model.apply(Command::FinishReplace { group, attempt }).result), finished);
        assert_eq!(group_of(model.apply(Command::AbandonReplace { group, attempt }).result), finished, "a late one undoes nothing");
        assert_eq!(model.query(Query::LostDrives).revision, revision);
    }

    #[test]
    fn an_abandoned_replacement_burns_its_replica_id() {
        let mut model = Model::founded(3, 2, 2);
        let before = groups(&model)[1].clone();
        let (group, leaves) = (before.group, before.voters[0].replica);
        let (node, drive) = free(&model, &before);
        let begin = Command::BeginReplace { group, leaves, node, drive };
        let first = group_of(model.apply(begin.clone()).result).replacing.unwrap();
        let abandoned = group_of(model.apply(Command::AbandonReplace { group, attempt: first.attempt }).result);
        assert_eq!((&abandoned.voters, abandoned.replacing), (&before.voters, None));
        let second = group_of(model.apply(begin).result).replacing.unwrap();
        assert!(second.enters.replica > first.enters.replica && second.attempt > first.attempt);
        let late = model.apply(Command::FinishReplace { group, attempt: first.attempt });
        assert_eq!(group_of(late.result).voters, before.voters, "a late finish of what was abandoned exchanges nobody");
    }

    #[test]
    fn a_lost_drive_and_one_that_is_in_use_are_given_no_replica() {
        let mut model = Model::founded(3, 2, 2);
        let row = groups(&model)[1].clone();
        let (node, drive) = free(&model, &row);
        model.apply(Command::LoseDrive { drive }).result.unwrap();
        let once = model.query(Query::LostDrives);
        assert_eq!(once.result, Ok(Reply::Drives(vec![drive])));
        model.apply(Command::LoseDrive { drive }).result.unwrap();
        assert_eq!(model.query(Query::LostDrives), once, "said twice, it is lost once");
        assert!(model.apply(Command::LoseDrive { drive: DriveId(99) }).result.is_err());
        let leaves = row.voters[0].replica;
        let begin = |node, drive| Command::BeginReplace { group: row.group, leaves, node, drive };
        let used = row.voters[1];
        for (node, drive) in [(node, drive), (used.node, used.drive), (NodeId(99), drive), (node, DriveId(99))] {
            assert!(matches!(model.apply(begin(node, drive)).result, Err(Error::Refused(_))), "{node} {drive}");
        }
    }

    #[test]
    fn the_bytes_of_a_group_row_stay_as_documented() {
        let place = |replica| ReplicaPlace { replica: ReplicaId(replica), node: NodeId(2), drive: DriveId(300) };
        let replacing = Some(Replacing { attempt: 7, leaves: ReplicaId(1), enters: place(4) });
        let row = Group { group: GroupId(5), voters: vec![place(1)], last: ReplicaId(4), replacing, ended: 6 };
        assert_eq!(wire::encode(&row), [1, 5, 1, 1, 2, 0xac, 2, 4, 1, 7, 1, 4, 2, 0xac, 2, 6]);
    }
}
