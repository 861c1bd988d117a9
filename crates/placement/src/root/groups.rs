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
use consensus::members::ID_STEP_MAX;
use consensus::{GroupSpec, Members, ReplicaPlace, Rows, RowsMut};
use protocol::{DriveId, DriveState, GroupId, NodeId, ROOT, ReplicaId, wire};
use serde::{Deserialize, Serialize};

const PREFIX: &[u8] = b"group/";
const PREFIX_END: &[u8] = b"group0";
/// Drives that will not come back with what they held; empty values.
const LOST: &[u8] = b"lost/";
const LOST_END: &[u8] = b"lost0";

/// Replica ids of each group that are left out when the root group is founded anew. A group refuses ids that are more than
/// [`ID_STEP_MAX`] beyond its last one.
const SKIPPED_IDS: u64 = 1 << 16;

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
    /// How many voters it is to have.
    pub wanted: u8,
    /// Which founding it is of ([`Members::era`]), as far as is noted here.
    pub era: u64,
    /// The root group itself was founded anew, and may know less of this one than it did: nothing is asked of it before it was asked who
    /// belongs.
    pub doubtful: bool,
    /// Replicas that it had before it was founded anew and that have not been told of it yet: they are where nobody hears them, and
    /// must not serve when they come back.
    pub former: Vec<ReplicaPlace>,
}

/// A replacement that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Replacing {
    pub attempt: u64,
    /// `None` if the new one comes to vote beside the others.
    pub leaves: Option<ReplicaId>,
    pub enters: ReplicaPlace,
}

impl Group {
    fn founded(spec: GroupSpec) -> Group {
        let last = spec.voters.iter().map(|voter| voter.replica).max().unwrap_or(ReplicaId(0));
        let wanted = u8::try_from(spec.voters.len()).expect("a group is founded with five voters at the most");
        Group {
            group: spec.group,
            voters: spec.voters,
            last,
            replacing: None,
            ended: 0,
            wanted,
            era: 0,
            doubtful: false,
            former: Vec::new(),
        }
    }

    /// Whether it has fewer voters than it is to have.
    pub fn is_short(&self) -> bool {
        self.voters.len() < usize::from(self.wanted)
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

/// Put a new replica on `drive` in the place of the voter `leaves`, or beside the others where voters are too few. The same again is
/// answered with what was begun.
pub(super) fn begin_replace(
    rows: &mut RowsMut<'_>,
    counters: &mut Counters,
    group: GroupId,
    leaves: Option<ReplicaId>,
    node: NodeId,
    drive: DriveId,
) -> Result<Verdict, Error> {
    let mut row = find(rows, group)?;
    if let Some(replacing) = row.replacing {
        let same = replacing.leaves == leaves && (replacing.enters.node, replacing.enters.drive) == (node, drive);
        let other = || Error::Refused(format!("replica {} of group {group} is about to enter already", replacing.enters.replica));
        return if same { Ok(Verdict::Unchanged(Reply::Group(row))) } else { Err(other()) };
    }
    match leaves {
        Some(leaves) if row.voters.iter().all(|voter| voter.replica != leaves) => {
            return Err(Error::Refused(format!("replica {leaves} is no voter of group {group}")));
        }
        None if !row.is_short() => return Err(Error::Refused(format!("group {group} has {} voters already", row.voters.len()))),
        _ => {}
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
    end_replace(rows, group, attempt, |row, replacing| match replacing.leaves {
        None => row.voters.push(replacing.enters),
        Some(leaves) => row.voters.iter_mut().filter(|voter| voter.replica == leaves).for_each(|voter| *voter = replacing.enters),
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

/// The group has `members` now: it was founded anew, or its row was doubtful. If it was founded anew, its replicas of before, and one that was
/// about to enter, are noted as former ones.
pub(super) fn note_members(rows: &mut RowsMut<'_>, members: &Members) -> Result<Verdict, Error> {
    let mut row = find(rows, members.group)?;
    let anew = members.era() > row.era;
    let cleared = row.doubtful && members.era() == row.era;
    if !(anew || cleared) {
        return Ok(Verdict::Unchanged(Reply::Group(row)));
    }
    if !members.is_sound() {
        return Err(Error::Refused(format!("this cannot be a configuration of group {}", members.group)));
    }
    if anew {
        if let Some(Replacing { attempt, enters, .. }) = row.replacing.take() {
            row.ended = attempt;
            row.former.push(enters);
        }
        row.former.append(&mut row.voters);
    } else if let Some(Replacing { attempt, enters, leaves }) = row.replacing
        && (members.is_gone(enters.replica) || members.is_voter(enters.replica) && leaves.is_none_or(|leaves| members.is_gone(leaves)))
    {
        // It came to its end, one way or the other.
        row.ended = attempt;
        row.replacing = None;
    }
    row.former.retain(|place| members.place(place.replica).is_none());
    row.voters.clone_from(&members.voters);
    // Ids that are left out for lost commands must not come to be out of the group's reach.
    row.last = row.last.clamp(members.last, ReplicaId(members.last.0 + ID_STEP_MAX / 2));
    // One node's word may be old: the group itself is asked next.
    (row.era, row.doubtful) = (members.era(), anew);
    store(rows, &row);
    Ok(Verdict::Changed(Reply::Group(row)))
}

/// A former replica knows that the group was founded anew without it.
pub(super) fn former_told(rows: &mut RowsMut<'_>, group: GroupId, replica: ReplicaId) -> Result<Verdict, Error> {
    let mut row = find(rows, group)?;
    let Some(at) = row.former.iter().position(|place| place.replica == replica) else { return Ok(Verdict::Unchanged(Reply::Group(row))) };
    row.former.remove(at);
    store(rows, &row);
    Ok(Verdict::Changed(Reply::Group(row)))
}

/// The root group itself was founded anew: commands that nobody here knows may have given out ids of replicas, and exchanged some.
pub(super) fn doubt(rows: &mut RowsMut<'_>) {
    let mut groups = Vec::new();
    rows.scan(PREFIX, PREFIX_END, &mut |_, value| {
        groups.push(wire::decode::<Group>(value).expect("rows of the root group are written by this state machine"));
        true
    });
    for mut row in groups {
        row.last.0 += SKIPPED_IDS;
        row.doubtful = true;
        store(rows, &row);
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
    use consensus::{Change, StateMachine};

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
        let begin = Command::BeginReplace { group, leaves: Some(leaves), node, drive };
        let begun = group_of(model.apply(begin.clone()).result);
        let replacing = begun.replacing.unwrap();
        assert_eq!((replacing.enters.replica.0, replacing.leaves), (before.last.0 + 1, Some(leaves)));
        assert_eq!(group_of(model.apply(begin).result), begun, "the same again is what was begun");
        let other = Command::BeginReplace { group, leaves: Some(before.voters[0].replica), node, drive };
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
        let begin = Command::BeginReplace { group, leaves: Some(leaves), node, drive };
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
        let begin = |node, drive| Command::BeginReplace { group: row.group, leaves: Some(leaves), node, drive };
        let used = row.voters[1];
        for (node, drive) in [(node, drive), (used.node, used.drive), (NodeId(99), drive), (node, DriveId(99))] {
            assert!(matches!(model.apply(begin(node, drive)).result, Err(Error::Refused(_))), "{node} {drive}");
        }
    }

    #[test]
    fn a_group_that_was_founded_anew_has_its_voters_and_room_for_others_and_is_noted_once() {
        let mut model = Model::founded(3, 2, 2);
        let before = groups(&model)[1].clone();
        let (group, leaves) = (before.group, before.voters[2].replica);
        let (node, drive) = free(&model, &before);
        let begin = |leaves, (node, drive)| Command::BeginReplace { group, leaves, node, drive };
        assert!(model.apply(begin(None, (node, drive))).result.is_err(), "it has all its voters");
        let begun = group_of(model.apply(begin(Some(leaves), (node, drive))).result).replacing.unwrap();
        let known = Members::founding(&GroupSpec { group, voters: before.voters.clone() });
        let survivor = before.voters[1];
        let members = known.refounded(survivor.node, survivor.drive, 1, 5).unwrap();
        assert!(model.apply(Command::NoteMembers { members: Members { voters: Vec::new(), ..members.clone() } }).result.is_err());
        assert_eq!(group_of(model.apply(Command::NoteMembers { members: known.clone() }).result).era, 0, "it is what it was");
        let noted = group_of(model.apply(Command::NoteMembers { members: members.clone() }).result);
        assert_eq!((noted.era, &noted.voters, noted.last), (1, &members.voters, members.last));
        assert_eq!(noted.former.len(), 6, "all of before, and who was about to enter");
        assert!(noted.is_short() && noted.replacing.is_none() && noted.doubtful, "one node said so");
        let noted = group_of(model.apply(Command::NoteMembers { members: members.clone() }).result);
        assert!(!noted.doubtful, "the group said so");
        let revision = model.query(Query::LostDrives).revision;
        assert_eq!(group_of(model.apply(Command::NoteMembers { members }).result), noted);
        assert_eq!(model.query(Query::LostDrives).revision, revision, "said twice, it is noted once");
        assert_eq!(
            group_of(model.apply(Command::FinishReplace { group, attempt: begun.attempt }).result),
            noted,
            "a late one does nothing"
        );
        // Another voter enters beside it.
        let place = free(&model, &noted);
        let entering = group_of(model.apply(begin(None, place)).result).replacing.unwrap();
        assert_eq!((entering.leaves, entering.enters.replica.0), (None, noted.last.0 + 1));
        let finished = group_of(model.apply(Command::FinishReplace { group, attempt: entering.attempt }).result);
        assert_eq!(finished.voters, [noted.voters[0], entering.enters]);
        // Who came back was told.
        let told = Command::FormerTold { group, replica: leaves };
        let left = group_of(model.apply(told.clone()).result);
        assert_eq!(left.former.len(), 5);
        assert_eq!(group_of(model.apply(told).result), left);
        // Somebody who knew nothing of that founded it anew from another survivor, later: that counts, whoever it is heard of from first.
        let other = before.voters[0];
        let later = known.refounded(other.node, other.drive, 9, 600).unwrap();
        let noted = group_of(model.apply(Command::NoteMembers { members: later.clone() }).result);
        assert_eq!((noted.era, &noted.voters), (9, &later.voters));
        assert!(noted.former.contains(&finished.voters[0]) && noted.former.contains(&entering.enters));
    }

    #[test]
    fn a_doubtful_row_becomes_what_the_group_says_and_an_exchange_that_nobody_remembers_is_in_it() {
        let mut model = Model::founded(3, 2, 2);
        let before = groups(&model)[1].clone();
        let (group, leaves) = (before.group, before.voters[2].replica);
        let (node, drive) = free(&model, &before);
        let mut members = Members::founding(&GroupSpec { group, voters: before.voters.clone() });
        let enters = ReplicaPlace { replica: ReplicaId(before.last.0 + 3), node, drive };
        for step in [Change::AddLearner(enters), Change::Exchange { enters: enters.replica, leaves }, Change::Leave, Change::Release] {
            members.take(step).unwrap();
        }
        let note = Command::NoteMembers { members: members.clone() };
        assert_eq!(group_of(model.apply(note.clone()).result), before, "what is not doubtful is not overruled");
        crate::root::Root.refounded(&mut model.0.rows_mut());
        assert!(groups(&model).iter().all(|row| row.doubtful));
        let noted = group_of(model.apply(note).result);
        assert_eq!((&noted.voters, noted.doubtful, noted.era), (&members.voters, false, 0));
        assert!(noted.former.is_empty() && noted.last > members.last);
    }

    #[test]
    fn a_root_group_that_was_founded_anew_gives_no_id_out_a_second_time() {
        let mut model = Model::founded(3, 2, 2);
        model.apply(Command::OpenWriter).result.unwrap();
        let (before, revision) = (groups(&model), model.query(Query::LostDrives).revision);
        crate::root::Root.refounded(&mut model.0.rows_mut());
        assert!(
            groups(&model).iter().zip(&before).all(|(now, before)| now.last.0 >= before.last.0 + (1 << 16) && now.voters == before.voters)
        );
        assert!(model.query(Query::LostDrives).revision > revision + (1 << 31), "caches count by it");
        match model.apply(Command::OpenWriter).result {
            Ok(Reply::Writer(writer)) => assert!(writer.0 > 1 << 31, "{writer}"),
            other => panic!("{other:?}"),
        }
        let row = groups(&model)[1].clone();
        let (node, drive) = free(&model, &row);
        let begin = Command::BeginReplace { group: row.group, leaves: Some(row.voters[0].replica), node, drive };
        assert!(group_of(model.apply(begin).result).replacing.unwrap().attempt > 1 << 31);
    }

    #[test]
    fn the_bytes_of_a_group_row_stay_as_documented() {
        let place = |replica| ReplicaPlace { replica: ReplicaId(replica), node: NodeId(2), drive: DriveId(300) };
        let replacing = Some(Replacing { attempt: 7, leaves: Some(ReplicaId(1)), enters: place(4) });
        let former = vec![place(3)];
        let row = Group {
            group: GroupId(5),
            voters: vec![place(1)],
            last: ReplicaId(4),
            replacing,
            ended: 6,
            wanted: 5,
            era: 1,
            doubtful: true,
            former,
        };
        assert_eq!(wire::encode(&row), [1, 5, 1, 1, 2, 0xac, 2, 4, 1, 7, 1, 1, 4, 2, 0xac, 2, 6, 5, 1, 1, 1, 3, 2, 0xac, 2]);
    }
}
