//! The state machine of the root group.
//!
//! Its whole state is in its rows (README.md lists them). `apply` is a pure function of rows and command; a refused
//! command changes no row, an accepted one that changes something raises `revision` by one.

pub mod bucket_settings;
pub mod buckets;
pub mod groups;
pub mod identities;
pub mod map;
pub mod time;
pub mod volumes;
pub mod writers;

use crate::Error;
use crate::commands::{Answer, Command, Query, Reply};
use bytes::Bytes;
use consensus::{Rows, RowsMut, StateMachine};
use protocol::wire;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The root group's state machine. Its whole state is in its rows.
#[derive(Default)]
pub struct Root;

/// The numbers that never go back. No id below one of them is ever given out again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Raised by each command that changed something.
    pub revision: u64,
    /// The last writer id given out.
    pub writer: u64,
    /// The last bucket incarnation given out.
    pub bucket: u64,
    /// The last attempt number: one counter for all buckets and groups, so that an attempt at a former bucket of the same
    /// name can never pass for one at the present bucket.
    pub attempt: u64,
    /// The last volume id given out.
    pub volume: u64,
    /// Rows of buckets, in whatever state.
    pub buckets: u64,
    /// Volumes in state Sealed.
    pub volumes_sealed: u64,
    /// Volumes in whatever state that are marked at risk.
    pub volumes_at_risk: u64,
}

const COUNTERS: &[u8] = b"counters";
/// Numbers of each kind that are left out when the group is founded anew: more than replicas that were lost can have given out.
const SKIPPED: u64 = 1 << 32;

/// The verdict on a command: what to reply, and whether rows were written (then the counters are too).
pub(crate) enum Verdict {
    Changed(Reply),
    Unchanged(Reply),
}

impl StateMachine for Root {
    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
        let mut counters = counters(rows);
        let verdict = match wire::decode::<Command>(command) {
            Ok(command) => apply_command(rows, &mut counters, command),
            // A fixed text: replies are replicated state, and another build may say it in other words.
            Err(_) => Err(Error::Malformed("the root group cannot read this command".to_owned())),
        };
        let result = match verdict {
            Ok(Verdict::Changed(reply)) => {
                counters.revision += 1;
                rows.put(COUNTERS, &wire::encode(&counters));
                Ok(reply)
            }
            Ok(Verdict::Unchanged(reply)) => Ok(reply),
            Err(error) => Err(error),
        };
        wire::encode(&Answer { revision: self::counters(rows).revision, result })
    }

    fn refounded(&self, rows: &mut RowsMut<'_>) {
        let mut counters = counters(rows);
        let Counters { revision, writer, bucket, attempt, volume, buckets: _, volumes_sealed: _, volumes_at_risk: _ } = &mut counters;
        for number in [revision, writer, bucket, attempt, volume] {
            *number += SKIPPED;
        }
        rows.put(COUNTERS, &wire::encode(&counters));
        groups::doubt(rows);
    }

    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8> {
        let counters: Counters = decode_row(rows.get(COUNTERS)).unwrap_or_default();
        let result = match wire::decode::<Query>(query) {
            Ok(Query::Bootstrap) => Ok(Reply::Bootstrap(decode_row(rows.get(map::BOOTSTRAP)))),
            Ok(Query::Bucket { name }) => buckets::query(rows, &name),
            Ok(Query::Buckets { after, max }) => Ok(buckets::query_page(rows, &after, max)),
            Ok(Query::Volume { volume }) => volumes::query(rows, volume),
            Ok(Query::Unsealed) => Ok(volumes::query_unsealed(rows, &counters)),
            Ok(Query::Time) => Ok(Reply::Time { now_ms: time::now_ms(rows.get(time::row())) }),
            Ok(Query::Groups { from, max }) => Ok(groups::query_page(rows, from, max)),
            Ok(Query::LostDrives) => Ok(groups::query_lost(rows)),
            Ok(Query::BucketTags { name }) => bucket_settings::query_tags(rows, &name),
            Ok(Query::BucketLifecycle { name }) => bucket_settings::query_lifecycle(rows, &name),
            Ok(Query::Identities) => Ok(identities::query(rows)),
            Ok(Query::UnfinishedBuckets { after }) => Ok(buckets::query_unfinished(rows, &after)),
            Err(error) => Err(Error::Malformed(error.to_string())),
        };
        wire::encode(&Answer { revision: counters.revision, result })
    }
}

fn apply_command(rows: &mut RowsMut<'_>, counters: &mut Counters, command: Command) -> Result<Verdict, Error> {
    match command {
        Command::Bootstrap(bootstrap) => map::bootstrap(rows, &bootstrap),
        Command::OpenWriter => Ok(writers::open(counters)),
        Command::BeginCreateBucket { name, owner, created_ms } => buckets::begin_create(rows, counters, name, owner, created_ms),
        Command::FinishCreateBucket { name, attempt } => buckets::finish_create(rows, &name, attempt),
        Command::BeginDeleteBucket { name } => buckets::begin_delete(rows, counters, &name),
        Command::FinishDeleteBucket { name, attempt, removed } => buckets::finish_delete(rows, counters, &name, attempt, removed),
        Command::CreateVolume { scheme, slots, at_risk } => volumes::create(rows, counters, scheme, slots, at_risk),
        Command::VolumeBuilt { volume } => volumes::built(rows, volume),
        Command::SealVolume { volume, epoch } => volumes::seal(rows, counters, volume, epoch),
        Command::BeginSetVersioning { name, versioning } => buckets::begin_set_versioning(rows, counters, &name, versioning),
        Command::FinishSetVersioning { name, attempt } => buckets::finish_set_versioning(rows, &name, attempt),
        Command::MarkTime { clocks } => time::mark(rows, &clocks),
        Command::BeginReplace { group, leaves, node, drive } => groups::begin_replace(rows, counters, group, leaves, node, drive),
        Command::FinishReplace { group, attempt } => groups::finish_replace(rows, group, attempt),
        Command::AbandonReplace { group, attempt } => groups::abandon_replace(rows, group, attempt),
        Command::NoteMembers { members } => groups::note_members(rows, &members),
        Command::FormerTold { group, replica } => groups::former_told(rows, group, replica),
        Command::LoseDrive { drive } => groups::lose_drive(rows, drive),
        Command::SetBucketTags { name, tags } => bucket_settings::set_tags(rows, &name, &tags),
        Command::BeginSetLifecycle { name, lifecycle } => bucket_settings::begin_set_lifecycle(rows, counters, &name, lifecycle),
        Command::FinishSetLifecycle { name, attempt } => bucket_settings::finish_set_lifecycle(rows, &name, attempt),
        Command::CreateIdentity { access_key, name, salt } => identities::create(rows, access_key, name, salt),
        Command::RotateIdentity { access_key, salt } => identities::rotate(rows, &access_key, salt),
        Command::SetIdentityEnabled { access_key, enabled } => identities::set_enabled(rows, &access_key, enabled),
        Command::RemoveIdentity { access_key } => identities::remove(rows, &access_key),
        Command::TakeOverBucket { name, attempt } => buckets::take_over(rows, counters, &name, attempt),
    }
}

/// The counters as they are stored.
pub(crate) fn counters(rows: &RowsMut<'_>) -> Counters {
    decode_row(rows.get(COUNTERS)).unwrap_or_default()
}

/// A row's value. Rows are written only by this state machine and checksummed below it, so one that does not
/// decode is our bug or a newer build's state: going on would make replicas differ.
pub(crate) fn decode_row<T: DeserializeOwned>(row: Option<Bytes>) -> Option<T> {
    row.map(|bytes| wire::decode(&bytes).expect("rows of the root group are written by this state machine"))
}

/// `prefix` and a number in big endian, so that rows are ordered by number.
pub(crate) fn numbered(prefix: &[u8], number: u64) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key
}

#[cfg(test)]
pub(crate) mod testing {
    //! A root group in memory and small maps, for the tests of this crate.

    use super::*;
    use crate::Bootstrap;
    use consensus::rows::MemoryRows;
    use protocol::{ClusterId, ClusterMap, Drive, DriveId, DriveState, GroupId, Node, NodeId};

    #[derive(Default)]
    pub struct Model(pub MemoryRows);

    impl Model {
        pub fn founded(zones: u64, nodes: u64, drives: u16) -> Model {
            let mut model = Model::default();
            model.apply(Command::Bootstrap(bootstrap(zones, nodes, drives))).result.unwrap();
            model
        }

        pub fn apply(&mut self, command: Command) -> Answer {
            wire::decode(&Root.apply(&mut self.0.rows_mut(), &wire::encode(&command))).unwrap()
        }

        pub fn query(&self, query: Query) -> Answer {
            wire::decode(&Root.query(&self.0.rows(), &wire::encode(&query))).unwrap()
        }
    }

    pub fn bootstrap(zones: u64, nodes: u64, drives: u16) -> Bootstrap {
        let scheme = "rs(4,2)".parse().unwrap();
        let (map, partitions) = (map(zones, nodes, drives), (1..=8).map(GroupId).collect());
        Bootstrap { map, partitions, scheme, best_effort: true, region: "us-east-1".into() }
    }

    /// `zones` zones of `nodes` nodes each with `drives` drives; each node is a rack of its own.
    pub fn map(zones: u64, nodes: u64, drives: u16) -> ClusterMap {
        let node = |zone: u64, node: u64| {
            let id = NodeId(1 + zone * nodes + node);
            let drive = |ordinal| Drive {
                id: DriveId::at_bootstrap(id, ordinal),
                state: DriveState::In,
                weight: 100,
                label: format!("/n{}/d{ordinal}", id.0),
            };
            Node {
                id,
                zone: format!("z{zone}"),
                rack: format!("r{node}"),
                address: std::net::SocketAddr::from(([127, 0, 0, 1], 7000 + id.0 as u16)),
                drives: (0..drives).map(drive).collect(),
            }
        };
        let nodes = (0..zones).flat_map(|zone| (0..nodes).map(move |n| node(zone, n))).collect();
        ClusterMap { cluster: ClusterId(7), version: 1, nodes }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    #[test]
    fn a_command_that_does_not_decode_is_answered_and_changes_nothing() {
        let mut model = Model::founded(1, 1, 6);
        let before = model.query(Query::Bootstrap).revision;
        let answer: Answer = wire::decode(&Root.apply(&mut model.0.rows_mut(), &[9, 9, 9])).unwrap();
        assert!(matches!(answer.result, Err(Error::Malformed(_))));
        assert_eq!(answer.revision, before);
        let answer: Answer = wire::decode(&Root.query(&model.0.rows(), &[])).unwrap();
        assert!(matches!(answer.result, Err(Error::Malformed(_))));
    }

    #[test]
    fn a_refused_command_leaves_the_revision_and_an_accepted_one_raises_it_by_one() {
        let mut model = Model::founded(1, 1, 6);
        assert_eq!(model.query(Query::Unsealed).revision, 1);
        assert!(model.apply(Command::BeginDeleteBucket { name: "none".into() }).result.is_err());
        assert_eq!(model.query(Query::Unsealed).revision, 1);
        assert_eq!(model.apply(Command::OpenWriter).revision, 2);
    }

    #[test]
    fn the_bytes_of_the_counters_row_stay_as_documented() {
        let counters =
            Counters { revision: 1, writer: 2, bucket: 3, attempt: 4, volume: 300, buckets: 5, volumes_sealed: 6, volumes_at_risk: 7 };
        assert_eq!(wire::encode(&counters), [1, 1, 2, 3, 4, 0xac, 2, 5, 6, 7]);
    }
}
