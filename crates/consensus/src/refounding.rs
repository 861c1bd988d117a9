//! Founding a group anew from one replica that is left of it, when a majority of its voters is lost for good.
//!
//! An operator's decision, carried out on a drive whose node does not run. The survivor's state is copied into one of a new replica, all
//! entries that follow it without a gap are applied to that, committed or not, and the new replica becomes the only voter of a
//! configuration that no replica of the old one can have known or come to. Others enter beside it when its node runs.
//!
//! Always holds:
//! - until the one batch of the log that is the decision the survivor is as it was; from then on it has left, and the new replica stands with
//!   term and start. A crash before it leaves files that count for nothing and go with the next start, and all can be done again; a crash
//!   after it is mended by the next start;
//! - the new replica has an id that the old group did not give out (ids come one by one, and none more than
//!   [`ID_STEP_MAX`](crate::members::ID_STEP_MAX) beyond the last one is taken), so nothing that its replicas say is ever taken for a word to it;
//! - its term is beyond every one that the old group can come to, so that index and term go on naming one entry;
//! - what the machine gives out once goes on beyond all that the lost replicas can have given out ([`StateMachine::refounded`]).
//!
//! What was acknowledged by others alone is lost; who decides is told of it before (`keepstone group recover`).

use crate::StateMachine;
use crate::host::{self, ReplicaPlace, Settings};
use crate::log::{FOLDER, Hard, Key, Log, Record, Recovered, Start, kind_of};
use crate::manifest::{self, Manifest, state_name};
use crate::members::{Change, Members};
use crate::opening::{patient_of, stands};
use crate::state::{self, Meta, State, catching};
use protocol::{DriveId, GroupId, ReplicaId};
use runtime::disk::{self, Disk};
use std::sync::Arc;

/// The step of the term: elections that replicas of the old group might still win among themselves before they hear that it is over.
const TERM_STEP: u64 = 1 << 20;
/// Bytes of entries that are applied in one transaction, about.
const APPLY_BYTES: usize = 1 << 20;
/// Memory for pages of a database meanwhile, in bytes.
const CACHE_BYTES: usize = 16 << 20;

/// What is decided.
#[derive(Clone, Debug)]
pub struct Refounding {
    pub group: GroupId,
    /// The replica to go on from, and where it is.
    pub from: ReplicaPlace,
    /// All of its entries up to this are to be in the new state, or nothing is done.
    pub whole_to: u64,
    /// The newest configuration, committed or not, of which any drive that is left tells.
    pub newest: Members,
    /// The greatest term of which any drive that is left tells.
    pub term: u64,
    /// When it was decided, in seconds since 1970: of two decisions that know nothing of each other the later one counts.
    pub at_s: u64,
    /// Tells it from every other decision.
    pub random: u64,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refounded {
    /// The configuration with which the group goes on.
    pub members: Members,
}

/// Why the group was not founded anew. Nothing is changed but where it says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("drive {drive} has no replica {replica} of group {group} that could be gone on from: {reason}")]
    Survivor { group: GroupId, replica: ReplicaId, drive: DriveId, reason: String },
    #[error("{0}")]
    State(String),
    #[error(transparent)]
    Log(#[from] host::Error),
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The decision may be durable, or not.
    #[error("whether it is done is not known: look at this very drive again before anything else is done ({0})")]
    Unknown(host::Error),
}

impl From<state::Error> for Error {
    fn from(error: state::Error) -> Error {
        Error::State(error.to_string())
    }
}

/// Found the group anew on a drive whose node does not run. Blocks on the drive; needs as much room as the survivor's state takes.
pub fn refound(disk: &Arc<dyn Disk>, settings: &Settings, plan: &Refounding, machine: &dyn StateMachine) -> Result<Refounded, Error> {
    let key = Key { group: plan.group, replica: plan.from.replica };
    let no = |reason: &str| refused(plan, reason.to_owned());
    let (mut log, mut recovered) =
        Log::open(disk.clone(), plan.from.drive, settings.segment_bytes, false, &manifest::list(disk.as_ref())?)?;
    manifest::settle_prepared(disk.as_ref(), |key| stands(&recovered, key))?;
    let survivor = recovered.remove(&key).unwrap_or_default();
    if survivor.removed {
        return Err(no("it left its group"));
    }
    let manifest = Manifest::read(disk.as_ref(), plan.from.drive, key)?.ok_or_else(|| no("it has no manifest"))?;
    let hard = survivor.hard;
    let terms = survivor.entries.values().map(|entry| entry.term).chain(hard.map(|hard| hard.term)).chain([plan.term]);
    let term = terms.max().unwrap_or(0).checked_add(TERM_STEP + plan.random % TERM_STEP).ok_or_else(|| no("terms have come to an end"))?;
    let rebuilt = catching(|| rebuild(disk, settings, plan, machine, &manifest, survivor, term))??;
    let Rebuilt { members, key: new, start, old_start } = rebuilt;
    let stands = Hard { term, vote: 0, commit: start.index };
    // The decision: both, or none.
    let decision = [
        Record { key: new, hard: Some(stands), start: Some(start), reset: true, ..Record::default() },
        Record { key, hard, start: Some(old_start), reset: true, removed: true, ..Record::default() },
    ];
    log.write(&decision).map_err(Error::Unknown)?;
    let tidied = manifest::settle_prepared(disk.as_ref(), |key| key == new)
        .and_then(|_| manifest::remove_files(disk.as_ref(), key))
        .and_then(|()| disk.sync_dir(FOLDER));
    if let Err(error) = tidied {
        // It is decided: the next start of the node does it.
        tracing::warn!(replica = %key, %error, "files of the replica that was gone on from stay until its node starts");
    }
    Ok(Refounded { members })
}

fn refused(plan: &Refounding, reason: String) -> Error {
    Error::Survivor { group: plan.group, replica: plan.from.replica, drive: plan.from.drive, reason }
}

/// The new replica's state, durable; nothing names it yet.
struct Rebuilt {
    members: Members,
    key: Key,
    start: Start,
    /// Where the survivor's log began.
    old_start: Start,
}

fn rebuild(
    disk: &Arc<dyn Disk>,
    settings: &Settings,
    plan: &Refounding,
    machine: &dyn StateMachine,
    manifest: &Manifest,
    survivor: Recovered,
    term: u64,
) -> Result<Result<Rebuilt, Error>, state::Error> {
    let no = |reason: String| Ok(Err(refused(plan, reason)));
    let name = state_name(manifest.key, manifest.file);
    let old = State::open(disk, &name, CACHE_BYTES, settings.mark_interval, manifest.key, machine.version())?;
    let meta = old.meta();
    let old_start = survivor.start;
    if meta.applied < old_start.index {
        return no(format!("its state ends at {}, its log begins after {}", meta.applied, old_start.index));
    }
    let mut patient = patient_of(survivor);
    patient.cover(Start { index: meta.applied, term: meta.term });
    // What follows a gap may have been acknowledged, and cannot be applied.
    let entries: Vec<_> = (meta.applied + 1..).map_while(|index| patient.entries.remove(&index)).collect();
    let whole_to = entries.last().map_or(meta.applied, |entry| entry.index);
    if whole_to < plan.whole_to {
        return no(format!("it is whole to {whole_to}, not to {}", plan.whole_to));
    }

    // Who belongs when all of them are applied, and by what anybody else knows: the id is needed now.
    let mut members = meta.members.clone();
    for change in entries.iter().filter(|entry| kind_of(entry) == 1).filter_map(|entry| Change::decode(&entry.data)) {
        let _ = members.take(change);
    }
    members.version = members.version.max(plan.newest.version);
    members.last = members.last.max(plan.newest.last);
    let Some(members) = members.refounded(plan.from.node, plan.from.drive, plan.at_s, plan.random) else {
        return no("ids or versions have come to an end".to_owned());
    };
    let key = Key { group: plan.group, replica: members.last };
    let fresh = Meta { key, ..meta };
    // First of all: it shows what is to go if nothing comes of this.
    Manifest { drive: plan.from.drive, key, file: 1 }.prepare(disk.as_ref())?;
    let state = State::create(disk, &state_name(key, 1), CACHE_BYTES, settings.mark_interval, fresh.clone())?;
    let frozen = old.freeze()?;
    state.copy(&frozen, settings.snapshot_page_bytes)?;
    let (rows, rows_hash) = frozen.digest()?;
    state.seal(fresh, rows, rows_hash)?;
    let mut rest = if runtime::planted("refounded-without-the-tail") { &[] } else { entries.as_slice() };
    while !rest.is_empty() {
        let mut bytes = 0;
        let count = rest.iter().take_while(|entry| {
            let more = bytes < APPLY_BYTES;
            bytes += entry.data.len();
            more
        });
        let (now, later) = rest.split_at(count.count());
        state.apply(machine, now)?;
        rest = later;
    }
    let start = Start { index: whole_to + 1, term };
    state.refound(machine, members.clone(), start)?;
    Ok(Ok(Rebuilt { members, key, start, old_start }))
}
