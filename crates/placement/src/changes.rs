//! What changed in the rows of the root group lately, for those who keep copies of them: a ring in memory, fed by every replica of
//! the root group on this node as it applies commands. Soft state: it is in no row, and gone with the process.
//!
//! Always holds: what is told of the revisions after `since` up to some revision is all that changed there, in order, or else that it
//! is not known ([`Page::Anew`]). That rests on two things: a revision stands for one command, and its outcome is the same on every
//! replica (I9). So whoever applies it first may tell of it, also before its transaction is committed: the command is.

use crate::Bucket;
use crate::commands::Command;
use crate::root::groups::{self, Group};
use crate::root::identities::{self, Identity};
use crate::root::{buckets, counters, volumes};
use consensus::{Members, Rows, RowsMut, StateMachine};
use protocol::{DriveId, Volume, VolumeId, wire};
use runtime::planted;
use runtime::sync::{OwnedSemaphorePermit, Semaphore, watch};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Watchers that one node keeps waiting at a time; the others ask again later, and go by age meanwhile.
const WATCHERS_MAX: usize = 2048;

/// What bounds the ring and what one answer takes from it.
#[derive(Clone, Copy)]
struct Bounds {
    changes: usize,
    bytes: usize,
    page_changes: usize,
    page_bytes: usize,
}

const BOUNDS: Bounds = Bounds { changes: 8192, bytes: 2 << 20, page_changes: 1024, page_bytes: 256 << 10 };

/// A row that changed, as it is since then.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// The cluster was founded, or what it was founded with is another now: to be read again.
    Bootstrap,
    /// `None`: there is no bucket of this name.
    Bucket {
        name: String,
        bucket: Option<Bucket>,
    },
    Volume(Volume),
    Group(Group),
    /// The drive will not come back.
    LostDrive(DriveId),
    /// `None`: there is no identity of this access key any more.
    Identity {
        access_key: String,
        identity: Option<Identity>,
    },
}

/// What a watcher is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct News {
    /// Whoever takes this in knows all changes up to this revision.
    pub revision: u64,
    /// What changed since the revision that was asked for, each with its revision, in order. `None`: that is not known, and what is
    /// cached from before `revision` may be anything.
    pub changes: Option<Vec<(u64, Change)>>,
    /// There is more to be had at once.
    pub more: bool,
}

impl News {
    fn anew(revision: u64) -> News {
        News { revision, changes: None, more: false }
    }

    /// Whether there is nothing in it but that nothing changed.
    pub fn is_nothing(&self) -> bool {
        self.changes.as_ref().is_some_and(Vec::is_empty)
    }
}

/// What the ring has after a revision.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Page {
    /// All changes up to `revision`, which is no less than what was asked for.
    Changes { changes: Vec<(u64, Change)>, revision: u64, more: bool },
    /// It does not reach back so far.
    Anew,
}

/// The changes after `base` up to `last`.
struct Ring {
    bounds: Bounds,
    base: u64,
    last: u64,
    /// By revision, with the bytes of each. Revisions that changed no row that anybody watches are not among them.
    changes: VecDeque<(u64, Change, usize)>,
    bytes: usize,
}

impl Ring {
    fn new(bounds: Bounds) -> Ring {
        Ring { bounds, base: 0, last: 0, changes: VecDeque::new(), bytes: 0 }
    }

    /// A command made `revision`. True if that is news for somebody.
    fn push(&mut self, revision: u64, change: Option<Change>) -> bool {
        if revision <= self.last {
            // Another replica on this node was first, or a state was opened again as of an earlier checkpoint.
            return false;
        }
        let gap = revision != self.last + 1;
        if gap {
            // A snapshot was installed, or the process began: what lies between nobody here has seen.
            self.changes.clear();
            self.bytes = 0;
            self.base = revision - 1;
        }
        self.last = revision;
        let Some(change) = change else { return gap };
        let bytes = wire::encode(&change).len();
        self.bytes += bytes;
        self.changes.push_back((revision, change, bytes));
        while self.changes.len() > self.bounds.changes || self.bytes > self.bounds.bytes {
            let Some((revision, _, bytes)) = self.changes.pop_front() else { break };
            self.bytes -= bytes;
            self.base = revision;
        }
        true
    }

    /// What changed after `since`.
    fn page(&self, since: u64) -> Page {
        if since < self.base {
            return Page::Anew;
        }
        let from = self.changes.partition_point(|(revision, ..)| *revision <= since);
        let (mut changes, mut total) = (Vec::new(), 0);
        let (mut revision, mut more) = (self.last.max(since), false);
        for (at, change, bytes) in self.changes.range(from..) {
            if changes.len() >= self.bounds.page_changes || (total + bytes > self.bounds.page_bytes && !changes.is_empty()) {
                runtime::probe!("placement: changes for a watcher filled a page");
                (revision, more) = (changes.last().map_or(since, |(at, _)| *at), true);
                break;
            }
            total += bytes;
            changes.push((*at, change.clone()));
        }
        if planted("push-skips-a-change") {
            changes.pop();
        }
        Page::Changes { changes, revision, more }
    }
}

/// The changes that a node knows of; cheap to clone. Give it to the root group's machine and to the [`Service`](crate::Service).
#[derive(Clone)]
pub struct Changes {
    inner: Arc<Inner>,
}

struct Inner {
    ring: Mutex<Ring>,
    /// Counts what watchers are to be woken for.
    signal: watch::Sender<u64>,
    places: Arc<Semaphore>,
}

impl Default for Changes {
    fn default() -> Changes {
        let (signal, _) = watch::channel(0);
        let places = Arc::new(Semaphore::new(WATCHERS_MAX));
        Changes { inner: Arc::new(Inner { ring: Mutex::new(Ring::new(BOUNDS)), signal, places }) }
    }
}

impl Changes {
    /// The same machine of the root group, whose commands are taken in here as they are applied.
    pub fn fed_by(&self, machine: Arc<dyn StateMachine>) -> Arc<dyn StateMachine> {
        Arc::new(Fed { machine, changes: self.clone() })
    }

    /// What to tell a watcher that knows all up to `since`, at a time when the group is at `revision` at least.
    pub(crate) fn news(&self, since: Option<u64>, revision: u64) -> News {
        let Some(since) = since.filter(|since| *since <= revision) else { return News::anew(revision) };
        match self.ring().page(since) {
            Page::Changes { changes, revision: reached, more } if more || reached >= revision => {
                News { revision: reached, changes: Some(changes), more }
            }
            _ => {
                runtime::probe!("placement: a watcher was told to begin anew");
                News::anew(revision)
            }
        }
    }

    /// What happened after `since`, if anything is known to have.
    pub(crate) fn news_already(&self, since: u64) -> Option<News> {
        let ring = self.ring();
        match ring.page(since) {
            Page::Changes { changes, .. } if changes.is_empty() => None,
            Page::Changes { changes, revision, more } => Some(News { revision, changes: Some(changes), more }),
            Page::Anew => Some(News::anew(ring.last)),
        }
    }

    /// A place among those who wait; `None` if there is none.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.inner.places.clone().try_acquire_owned().ok()
    }

    /// Changes when there is something to look for.
    pub(crate) fn signal(&self) -> watch::Receiver<u64> {
        self.inner.signal.subscribe()
    }

    /// Have all who wait look.
    pub(crate) fn wake(&self) {
        self.inner.signal.send_modify(|count| *count += 1);
    }

    fn push(&self, revision: u64, change: impl FnOnce() -> Option<Change>) {
        if revision <= self.ring().last {
            return;
        }
        // Not under the lock: a row that cannot be read unwinds.
        let change = change();
        if self.ring().push(revision, change) {
            self.wake();
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.inner.ring.lock().expect("nothing panics under this lock")
    }
}

/// The root group's machine, watched as it applies.
struct Fed {
    machine: Arc<dyn StateMachine>,
    changes: Changes,
}

impl StateMachine for Fed {
    fn version(&self) -> u32 {
        self.machine.version()
    }

    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
        let before = counters(rows).revision;
        let reply = self.machine.apply(rows, command);
        let after = counters(rows).revision;
        if after != before {
            self.changes.push(after, || changed(rows, command));
        }
        reply
    }

    /// The node does not run meanwhile, so nobody watches.
    fn refounded(&self, rows: &mut RowsMut<'_>) {
        self.machine.refounded(rows);
    }

    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8> {
        self.machine.query(rows, query)
    }
}

/// The row that `command`, which changed something, was about, as it is now; `None` if nobody watches it. No command changes two
/// rows, but the founding.
fn changed(rows: &RowsMut<'_>, command: &[u8]) -> Option<Change> {
    let volume = |id: VolumeId| volumes::find_mut(rows, id).map(Change::Volume);
    match wire::decode::<Command>(command).ok()? {
        Command::Bootstrap(_) => Some(Change::Bootstrap),
        // Tags of buckets are asked for each time; so is what a lifecycle says, but its attempt is the bucket's.
        Command::OpenWriter | Command::MarkTime { .. } | Command::SetBucketTags { .. } => None,
        Command::BeginCreateBucket { name, .. }
        | Command::FinishCreateBucket { name, .. }
        | Command::BeginDeleteBucket { name }
        | Command::FinishDeleteBucket { name, .. }
        | Command::BeginSetVersioning { name, .. }
        | Command::FinishSetVersioning { name, .. }
        | Command::BeginSetLifecycle { name, .. }
        | Command::FinishSetLifecycle { name, .. }
        | Command::TakeOverBucket { name, .. } => {
            let bucket = buckets::find_mut(rows, &name);
            Some(Change::Bucket { name, bucket })
        }
        // Its id is the last one that was given out.
        Command::CreateVolume { .. } => volume(VolumeId(counters(rows).volume)),
        Command::VolumeBuilt { volume: id } | Command::SealVolume { volume: id, .. } => volume(id),
        Command::BeginReplace { group, .. }
        | Command::FinishReplace { group, .. }
        | Command::AbandonReplace { group, .. }
        | Command::FormerTold { group, .. }
        | Command::NoteMembers { members: Members { group, .. } } => groups::find(rows, group).ok().map(Change::Group),
        Command::LoseDrive { drive } => Some(Change::LostDrive(drive)),
        Command::CreateIdentity { access_key, .. }
        | Command::RotateIdentity { access_key, .. }
        | Command::SetIdentityEnabled { access_key, .. }
        | Command::RemoveIdentity { access_key } => {
            let identity = identities::find(rows, &access_key);
            Some(Change::Identity { access_key, identity })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Query, Reply};
    use crate::root::testing::Model;
    use crate::root::{Root, numbered};
    use consensus::GroupSpec;
    use consensus::members::ERA;
    use consensus::rows::MemoryRows;
    use protocol::{Epoch, NodeId, ROOT, ReplicaId, SlotPlace, Versioning};
    use std::collections::BTreeMap;

    fn drive(id: u64) -> Change {
        Change::LostDrive(DriveId(id))
    }

    /// A watcher from `since` to the end: what it was told, and whether it had to begin anew.
    fn follow(ring: &Ring, mut since: u64) -> (Vec<(u64, Change)>, u64, bool) {
        let (mut told, mut pages) = (Vec::new(), 0);
        loop {
            match ring.page(since) {
                Page::Anew => return (told, since, true),
                Page::Changes { changes, revision, more } => {
                    assert!(changes.len() <= ring.bounds.page_changes);
                    assert!(revision > since || !more, "each page brings the watcher forward");
                    told.extend(changes);
                    since = revision;
                    if !more {
                        return (told, since, false);
                    }
                }
            }
            pages += 1;
            assert!(pages < 10_000);
        }
    }

    #[test]
    fn whoever_asks_is_told_exactly_what_changed_or_to_begin_anew() {
        // Steps: 0 a revision that nobody watches, 1 to 5 a change, 6 a gap as after a snapshot, 7 what was pushed before again.
        fn holds(steps: Vec<u8>, sinces: Vec<u8>) -> bool {
            let bounds = Bounds { changes: 12, bytes: 40, page_changes: 3, page_bytes: 9 };
            let mut ring = Ring::new(bounds);
            let (mut all, mut revision, mut seen_from) = (BTreeMap::new(), 0u64, 0u64);
            for step in steps {
                match step % 8 {
                    0 => {
                        revision += 1;
                        assert!(!ring.push(revision, None) || ring.base == revision - 1);
                    }
                    6 => {
                        revision += 3;
                        seen_from = revision - 1;
                        all.insert(revision, drive(revision));
                        assert!(ring.push(revision, Some(drive(revision))));
                    }
                    7 => assert!(revision == 0 || !ring.push(revision, Some(drive(999)))),
                    _ => {
                        revision += 1;
                        all.insert(revision, drive(revision << (step % 8)));
                        assert!(ring.push(revision, Some(drive(revision << (step % 8)))));
                    }
                }
                assert!(ring.changes.len() <= bounds.changes && ring.bytes <= bounds.bytes);
            }
            sinces.into_iter().map(u64::from).chain([0, revision, revision + 1]).all(|since| {
                let (told, reached, anew) = follow(&ring, since);
                let exact: Vec<(u64, Change)> = all.range(since + 1..).map(|(at, change)| (*at, change.clone())).collect();
                let after = exact.len();
                if anew {
                    // Only one that lags further than the ring can hold, or than this node has seen.
                    told.is_empty() && (since < seen_from || after > 3)
                } else {
                    told == exact && reached == revision.max(since)
                }
            })
        }
        quickcheck::quickcheck(holds as fn(Vec<u8>, Vec<u8>) -> bool);
    }

    #[test]
    fn a_watcher_is_told_no_less_than_the_group_has_done() {
        let changes = Changes::default();
        assert_eq!(changes.news(None, 7), News::anew(7));
        // This process has applied nothing yet, and the group was at 7 all the time.
        assert!(changes.news(Some(7), 7).is_nothing());
        assert_eq!(changes.news(Some(6), 7), News::anew(7));
        assert_eq!(changes.news(Some(8), 7), News::anew(7), "of a group that went back nothing is known");
        changes.push(8, || Some(drive(8)));
        changes.push(9, || None);
        let told = News { revision: 9, changes: Some(vec![(8, drive(8))]), more: false };
        assert_eq!(changes.news(Some(7), 9), told);
        assert_eq!(changes.news_already(7), Some(told));
        assert_eq!(changes.news_already(8), None);
        assert!(changes.news(Some(8), 9).is_nothing());
        assert_eq!(changes.news(Some(8), 10), News::anew(10), "what the group did since is not in the ring");
        assert_eq!(changes.news_already(3), Some(News::anew(9)));
    }

    #[test]
    fn who_waits_is_woken_by_what_it_watches_only() {
        let changes = Changes::default();
        changes.push(1, || Some(drive(1)));
        let mut signal = changes.signal();
        signal.borrow_and_update();
        changes.push(2, || None);
        changes.push(1, || Some(drive(1)));
        assert!(!signal.has_changed().unwrap());
        changes.push(3, || Some(drive(3)));
        assert!(signal.has_changed().unwrap());
    }

    /// The rows that are watched, as they are.
    fn watched(rows: &MemoryRows) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        rows.rows().scan(b"", b"\xff", &mut |key, value| {
            let prefixes: [&[u8]; 6] = [b"bootstrap", b"bucket/", b"group/", b"identity/", b"lost/", b"volume/"];
            if prefixes.iter().any(|prefix| key.starts_with(prefix)) {
                all.insert(key.to_vec(), value.to_vec());
            }
            true
        });
        all
    }

    #[test]
    fn a_copy_that_takes_in_every_change_is_what_the_rows_are() {
        fn command(model: &Model, step: (u8, u8, bool)) -> Command {
            let (kind, which, yes) = step;
            let name = format!("bucket-{}", which % 3);
            let attempt = match model.query(Query::Bucket { name: name.clone() }).result {
                Ok(Reply::Bucket(bucket)) => bucket.attempt,
                _ => 1,
            };
            let slots = (0..6).map(|n| SlotPlace { node: NodeId(1), drive: DriveId::at_bootstrap(NodeId(1), n) }).collect();
            let volume = VolumeId(u64::from(which % 4) + 1);
            let Ok(Reply::Groups(groups)) = model.query(Query::Groups { from: ROOT, max: 9 }).result else { panic!("no groups") };
            let row = &groups[usize::from(which) % groups.len()];
            let (group, attempt_of_group) = (row.group, row.replacing.map_or(row.ended, |replacing| replacing.attempt));
            let leaves = row.voters.first().map_or(ReplicaId(1), |voter| voter.replica);
            let spare = DriveId::at_bootstrap(NodeId(1), u16::from(which % 8));
            let (access_key, salt) = (format!("ACCESSKEY{:08}", which % 3), [which / 16; 16]);
            match kind % 21 {
                0 => Command::BeginCreateBucket { name, owner: "ann".into(), created_ms: 1 },
                1 => Command::FinishCreateBucket { name, attempt },
                2 => Command::BeginDeleteBucket { name },
                3 => Command::FinishDeleteBucket { name, attempt, removed: yes },
                4 => Command::CreateVolume { scheme: "rs(4,2)".parse().unwrap(), slots, at_risk: yes },
                5 => Command::VolumeBuilt { volume },
                6 => Command::SealVolume { volume, epoch: Epoch(1) },
                7 => Command::BeginSetVersioning { name, versioning: Some(Versioning::Enabled) },
                8 => Command::FinishSetVersioning { name, attempt },
                9 => Command::MarkTime { clocks: vec![(ReplicaId(1), Some(u64::from(which)))] },
                10 => Command::BeginReplace { group, leaves: (!row.is_short()).then_some(leaves), node: NodeId(1), drive: spare },
                11 => Command::FinishReplace { group, attempt: attempt_of_group },
                12 => Command::AbandonReplace { group, attempt: attempt_of_group },
                13 => Command::CreateIdentity { access_key, name: name.clone(), salt },
                14 => Command::RotateIdentity { access_key, salt },
                15 => Command::SetIdentityEnabled { access_key, enabled: yes },
                16 => Command::RemoveIdentity { access_key },
                17 if yes => Command::LoseDrive { drive: spare },
                18 => {
                    let known = Members::founding(&GroupSpec { group, voters: row.voters.clone() });
                    let known = Members { version: row.era * ERA, ..known };
                    Command::NoteMembers { members: known.refounded(NodeId(1), spare, 0, 0).expect("ids are left") }
                }
                19 => Command::FormerTold { group, replica: row.former.first().map_or(leaves, |former| former.replica) },
                20 => Command::TakeOverBucket { name, attempt },
                _ => Command::OpenWriter,
            }
        }
        fn holds(steps: Vec<(u8, u8, bool)>) -> bool {
            let mut model = Model::founded(1, 1, 8);
            let mut copy = watched(&model.0);
            let changes = Changes::default();
            let machine = changes.fed_by(Arc::new(Root));
            let mut since = model.query(Query::LostDrives).revision;
            for step in steps {
                let command = command(&model, step);
                machine.apply(&mut model.0.rows_mut(), &wire::encode(&command));
                let revision = model.query(Query::LostDrives).revision;
                let news = changes.news(Some(since), revision);
                since = news.revision;
                for (_, change) in news.changes.expect("it saw every one") {
                    let (key, value) = match change {
                        Change::Bootstrap => unreachable!("it is founded"),
                        Change::Bucket { name, bucket } => {
                            (format!("bucket/{name}").into_bytes(), bucket.map(|bucket| wire::encode(&bucket)))
                        }
                        Change::Volume(volume) => (numbered(b"volume/", volume.id.0), Some(wire::encode(&volume))),
                        Change::Group(group) => (numbered(b"group/", group.group.0), Some(wire::encode(&group))),
                        Change::LostDrive(drive) => (numbered(b"lost/", drive.0), Some(Vec::new())),
                        Change::Identity { access_key, identity } => {
                            (format!("identity/{access_key}").into_bytes(), identity.map(|identity| wire::encode(&identity)))
                        }
                    };
                    match value {
                        Some(value) => drop(copy.insert(key, value)),
                        None => drop(copy.remove(&key)),
                    }
                }
                if since != revision || copy != watched(&model.0) {
                    return false;
                }
            }
            true
        }
        quickcheck::quickcheck(holds as fn(Vec<(u8, u8, bool)>) -> bool);
    }
}
