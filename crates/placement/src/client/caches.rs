//! What a client knows without asking: caches, and how changes that the root's leader tells of keep them fresh.
//!
//! Always holds: an entry is covered only if every change to it after the revision of which it is will be told, or was. An answer
//! to a question may come after later changes were told of: then the entry goes by its age, as without a watch.

use super::roster::Roster;
use super::{AGE_MAX, BUCKETS_MAX, REPORT_EVERY, REPORTS_MAX, VOLUMES_MAX};
use crate::cache::{Cache, Cached};
use crate::changes::{Change, News};
use crate::root::identities::Identity;
use crate::{Bucket, BucketState};
use protocol::{ClusterMap, DriveId, NodeId, Volume, VolumeId, VolumeState};
use runtime::time::{Instant, now};
use std::sync::Arc;
use std::time::Duration;

/// A watch of which nothing was heard for so long is no longer believed: longer than a question without news takes.
const LIVE: Duration = Duration::from_secs(13);

pub(super) struct Caches {
    map: Cache<(), Arc<ClusterMap>>,
    buckets: Cache<String, Arc<Bucket>>,
    volumes: Cache<VolumeId, Arc<Volume>>,
    /// All identities, if they were asked for.
    roster: Option<Roster>,
    pub handed: Handed,
    /// What was reported lately, with its epoch and reason left out.
    reported: Cache<(Option<NodeId>, Option<VolumeId>), ()>,
    /// All changes up to this revision are known here; `None` before the first news.
    revision: Option<u64>,
    /// When that was last heard to be all, if the watch stands.
    heard: Option<Instant>,
}

/// The open volumes of the leader's last answer.
#[derive(Default)]
pub(super) struct Handed {
    pub volumes: Vec<Arc<Volume>>,
    pub since: Option<Instant>,
    pub turn: usize,
}

impl Caches {
    pub fn new() -> Caches {
        Caches {
            map: Cache::new(1, AGE_MAX),
            buckets: Cache::new(BUCKETS_MAX, AGE_MAX),
            volumes: Cache::new(VOLUMES_MAX, AGE_MAX),
            roster: None,
            handed: Handed::default(),
            reported: Cache::new(REPORTS_MAX * 4, REPORT_EVERY),
            revision: None,
            heard: None,
        }
    }

    /// All changes up to this revision are known here.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// Whether changes are heard of at present.
    pub fn is_live(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < LIVE)
    }

    /// Nothing is heard of changes: entries go by their age.
    pub fn unheard(&mut self) {
        self.heard = None;
    }

    /// Take in what changed, as was asked at `asked`.
    pub fn hear(&mut self, news: &News, asked: Instant, now: Instant) {
        match &news.changes {
            None => {
                runtime::probe!("placement: a watcher began anew");
                self.map.doubt(news.revision);
                self.buckets.doubt(news.revision);
                self.volumes.doubt(news.revision);
                self.roster.iter_mut().for_each(|roster| roster.doubt(news.revision));
            }
            Some(changes) => changes.iter().for_each(|(revision, change)| self.take(*revision, change, now)),
        }
        self.revision = Some(news.revision);
        self.heard = (!news.more).then_some(now);
        if let Some(roster) = self.roster.as_mut().filter(|_| !news.more) {
            roster.confirm(asked);
        }
    }

    fn take(&mut self, revision: u64, change: &Change, now: Instant) {
        match change {
            Change::Bootstrap => self.map.doubt(revision),
            Change::Bucket { bucket: Some(bucket), .. } if bucket.state == BucketState::Live => {
                self.buckets.renew(&bucket.name, Arc::new(bucket.clone()), now, revision);
            }
            Change::Bucket { name, .. } => self.buckets.forget(name),
            Change::Volume(volume) => {
                if volume.state == VolumeState::Sealed {
                    self.handed.volumes.retain(|handed| handed.id != volume.id);
                }
                self.volumes.renew(&volume.id, Arc::new(volume.clone()), now, revision);
            }
            Change::Identity { access_key, identity } => {
                self.roster.iter_mut().for_each(|roster| roster.take(revision, access_key, identity.as_ref()));
            }
            Change::LostDrive(drive) => {
                self.handed.volumes.retain(|handed| handed.slots.iter().all(|slot| slot.drive != *drive));
            }
            // Who looks for a group asks its nodes.
            Change::Group(_) => {}
        }
    }

    /// Whether what is as of `revision` is covered: no change after it was told of before it came.
    fn is_covered(&self, revision: u64) -> bool {
        revision > 0 && self.revision.is_some_and(|known| revision >= known)
    }

    pub fn map(&self) -> Cached<Arc<ClusterMap>> {
        self.map.get(&(), now(), self.is_live(now()))
    }

    pub fn keep_map(&mut self, map: Arc<ClusterMap>, revision: u64) {
        let covered = self.is_covered(revision);
        self.map.put((), map, now(), revision, covered);
    }

    /// The root cannot be asked: what is cached counts as young again, else everybody waited for it.
    pub fn put_up_with_map(&mut self) {
        self.map.touch(&(), now());
    }

    pub fn bucket(&self, name: &str) -> Cached<Arc<Bucket>> {
        self.buckets.get(&name.to_string(), now(), self.is_live(now()))
    }

    /// Only live ones are kept: of the others the root is asked each time.
    pub fn keep_bucket(&mut self, bucket: &Arc<Bucket>, revision: u64) {
        if bucket.state == BucketState::Live {
            let covered = self.is_covered(revision);
            self.buckets.put(bucket.name.clone(), bucket.clone(), now(), revision, covered);
        } else {
            self.buckets.forget(&bucket.name);
        }
    }

    pub fn put_up_with_bucket(&mut self, name: &str) {
        self.buckets.touch(&name.to_string(), now());
    }

    pub fn forget_bucket(&mut self, name: &str) {
        self.buckets.forget(name);
    }

    pub fn volume(&self, volume: VolumeId) -> Cached<Arc<Volume>> {
        self.volumes.get(&volume, now(), self.is_live(now()))
    }

    /// The volume as it was last known, however long ago.
    pub fn last_known(&self, volume: VolumeId) -> Option<&Arc<Volume>> {
        self.volumes.peek(&volume)
    }

    /// Cache a volume as the root says it is; `revision` is 0 where that is not known. One that is being built is about to change.
    pub fn keep_volume(&mut self, volume: &Arc<Volume>, revision: u64) {
        if volume.state == VolumeState::Building {
            return;
        }
        if volume.state == VolumeState::Sealed {
            self.handed.volumes.retain(|handed| handed.id != volume.id);
        }
        // A volume only goes forward: of which revision it is need not be known to tell that it is no newer than what is there.
        match self.volumes.peek(&volume.id) {
            Some(known) if revision == 0 && !is_later(volume, known) => self.volumes.touch(&volume.id, now()),
            _ => {
                let covered = self.is_covered(revision);
                self.volumes.put(volume.id, volume.clone(), now(), revision, covered);
            }
        }
    }

    pub fn put_up_with_volume(&mut self, volume: VolumeId) {
        self.volumes.touch(&volume, now());
    }

    pub fn forget_volume(&mut self, volume: VolumeId) {
        self.volumes.forget(&volume);
        self.handed.volumes.retain(|handed| handed.id != volume);
    }

    pub fn was_reported(&self, what: (Option<NodeId>, Option<VolumeId>)) -> bool {
        matches!(self.reported.get(&what, now(), false), Cached::Fresh(()))
    }

    pub fn note_reported(&mut self, what: (Option<NodeId>, Option<VolumeId>)) {
        self.reported.put(what, (), now(), 0, false);
    }

    /// The identity, or `None` within if there is none.
    pub fn identity(&self, access_key: &str) -> Cached<Option<Identity>> {
        let live = self.is_live(now());
        self.roster.as_ref().map_or(Cached::Absent, |roster| roster.get(access_key, now(), live))
    }

    /// Keep all identities as they were at `revision`, when they were asked for at `asked`.
    pub fn keep_identities(&mut self, identities: Vec<Identity>, revision: u64, asked: Instant) {
        let told = self.revision;
        match self.roster.as_mut().filter(|roster| roster.is_later_than(revision, told)) {
            // Then the rows that are known are of a moment that came after that question.
            Some(roster) => roster.confirm_as_listed(asked),
            None => self.roster = Some(Roster::new(identities, revision, asked, self.is_covered(revision))),
        }
    }

    /// The root cannot be asked for identities.
    pub fn excuse_identities(&mut self) {
        self.roster.iter_mut().for_each(|roster| roster.excuse(now()));
    }

    /// All identities that are what they are whatever their age; `None` while that is not known of any.
    pub fn covered_identities(&self) -> Option<Vec<Identity>> {
        self.roster.as_ref().filter(|_| self.is_live(now()))?.covered()
    }

    /// Buckets and volumes that are fresh whatever their age; nothing while changes are not heard of.
    pub fn covered(&self) -> (Vec<Arc<Bucket>>, Vec<Arc<Volume>>) {
        if !self.is_live(now()) {
            return (Vec::new(), Vec::new());
        }
        (self.buckets.covered().cloned().collect(), self.volumes.covered().cloned().collect())
    }
}

/// Whether a volume has gone further than `known` has.
pub(super) fn is_later(volume: &Volume, known: &Volume) -> bool {
    let far = |volume: &Volume| {
        let state = match volume.state {
            VolumeState::Building => 0,
            VolumeState::Open => 1,
            VolumeState::Sealed => 2,
        };
        (volume.epoch, state)
    };
    far(volume) > far(known)
}

impl Handed {
    /// The next volume that uses none of `avoid`, if the list is no older than `age_max`.
    pub fn take(&mut self, avoid: &[DriveId], age_max: Duration) -> Option<Arc<Volume>> {
        if now().saturating_duration_since(self.since?) >= age_max || self.volumes.is_empty() {
            return None;
        }
        let start = self.turn % self.volumes.len();
        self.turn = self.turn.wrapping_add(1);
        let mut in_turn = self.volumes[start..].iter().chain(&self.volumes[..start]);
        in_turn.find(|volume| volume.slots.iter().all(|slot| !avoid.contains(&slot.drive))).cloned()
    }
}

// Outside of any simulation: the caches read the time, and unit tests have no machine whose time it were.
#[cfg(test)]
#[cfg(not(madsim))]
mod tests {
    use super::*;
    use protocol::{BucketId, Epoch, Generation, Versioning};

    fn bucket(attempt: u64, state: BucketState) -> Bucket {
        Bucket {
            name: "photos".into(),
            id: BucketId(1),
            owner: "ann".into(),
            created_ms: 5,
            state,
            attempt,
            partitions: Vec::new(),
            versioning: Versioning::Unversioned,
            setting: None,
        }
    }

    fn told(revision: u64, bucket: Option<Bucket>) -> News {
        let change = Change::Bucket { name: "photos".into(), bucket };
        News { revision, changes: Some(vec![(revision, change)]), more: false }
    }

    fn nothing(revision: u64) -> News {
        News { revision, changes: Some(Vec::new()), more: false }
    }

    fn volume(state: VolumeState, epoch: u64) -> Arc<Volume> {
        let scheme = "rs(2,1)".parse().unwrap();
        Arc::new(Volume {
            id: VolumeId(3),
            scheme,
            epoch: Epoch(epoch),
            generation: Generation(0),
            state,
            slots: Vec::new(),
            at_risk: false,
        })
    }

    fn attempt(caches: &Caches) -> Option<u64> {
        match caches.bucket("photos") {
            Cached::Fresh(bucket) => Some(bucket.attempt),
            Cached::Stale(_) | Cached::Absent => None,
        }
    }

    #[test]
    fn what_is_told_renews_what_is_cached_and_removes_what_is_gone() {
        let mut caches = Caches::new();
        caches.hear(&News { revision: 4, changes: None, more: false }, now(), now());
        caches.keep_bucket(&Arc::new(bucket(1, BucketState::Live)), 4);
        caches.hear(&told(6, Some(bucket(2, BucketState::Live))), now(), now());
        assert_eq!((attempt(&caches), caches.revision()), (Some(2), Some(6)));
        assert_eq!(caches.covered().0.len(), 1);
        caches.hear(&told(7, Some(bucket(3, BucketState::Deleting))), now(), now());
        assert_eq!(attempt(&caches), None);
        // It is not entered because somebody else made it: whoever asks for it will.
        caches.hear(&told(8, Some(bucket(4, BucketState::Live))), now(), now());
        assert!(matches!(caches.bucket("photos"), Cached::Absent));
    }

    #[test]
    fn an_answer_that_comes_after_later_changes_were_told_is_not_covered() {
        let mut caches = Caches::new();
        caches.hear(&News { revision: 4, changes: None, more: false }, now(), now());
        caches.hear(&told(9, None), now(), now());
        // Asked before the deletion at 9, and it came after it.
        caches.keep_bucket(&Arc::new(bucket(1, BucketState::Live)), 8);
        assert!(caches.covered().0.is_empty());
        caches.keep_bucket(&Arc::new(bucket(5, BucketState::Live)), 9);
        assert_eq!(caches.covered().0.len(), 1);
        caches.unheard();
        assert!(caches.covered().0.is_empty() && !caches.is_live(now()));
        caches.hear(&News { more: true, ..nothing(12) }, now(), now());
        assert!(!caches.is_live(now()), "the rest is not known yet");
        caches.hear(&nothing(13), now(), now());
        assert_eq!(caches.covered().0.len(), 1);
        assert!(!caches.is_live(now() + LIVE));
    }

    #[test]
    fn who_begins_anew_asks_again_for_all_that_is_of_before() {
        let mut caches = Caches::new();
        caches.hear(&nothing(4), now(), now());
        caches.keep_bucket(&Arc::new(bucket(1, BucketState::Live)), 5);
        caches.hear(&News { revision: 9, changes: None, more: false }, now(), now());
        assert!(matches!(caches.bucket("photos"), Cached::Stale(_)), "it serves if the root cannot be asked");
        caches.put_up_with_bucket("photos");
        assert_eq!(attempt(&caches), Some(1));
        assert!(caches.covered().0.is_empty());
    }

    #[test]
    fn identities_are_covered_by_what_is_told_after_them() {
        let identity = |access_key: &str| Identity {
            access_key: access_key.into(),
            name: String::new(),
            generation: 1,
            salt: [7; 16],
            enabled: true,
            created_ms: 5,
        };
        let names = |caches: &Caches| {
            caches.covered_identities().map(|all| all.into_iter().map(|identity| identity.access_key).collect::<Vec<_>>())
        };
        let mut caches = Caches::new();
        assert!(matches!(caches.identity("A"), Cached::Absent));
        // Nothing is heard of changes yet; when it is, the same list of the same revision is covered.
        caches.keep_identities(vec![identity("A")], 7, now());
        caches.hear(&News { revision: 7, changes: None, more: false }, now(), now());
        assert_eq!(names(&caches), None);
        caches.keep_identities(vec![identity("A")], 7, now());
        assert_eq!(names(&caches), Some(vec!["A".to_owned()]));
        let told = |access_key: &str, identity: Option<Identity>| Change::Identity { access_key: access_key.into(), identity };
        let changes = vec![(8, told("B", Some(identity("B")))), (9, told("A", None))];
        caches.hear(&News { revision: 9, changes: Some(changes), more: false }, now(), now());
        assert_eq!(names(&caches), Some(vec!["B".to_owned()]));
        // Asked before that, and come after it.
        caches.keep_identities(vec![identity("A")], 8, now());
        assert_eq!(names(&caches), Some(vec!["B".to_owned()]));
        caches.hear(&News { revision: 12, changes: None, more: false }, now(), now());
        assert_eq!(names(&caches), None);
        assert!(matches!(caches.identity("B"), Cached::Fresh(Some(_))), "it is young, and no older than that");
        caches.keep_identities(vec![identity("C")], 12, now());
        assert_eq!(names(&caches), Some(vec!["C".to_owned()]));
    }

    #[test]
    fn a_sealed_volume_is_handed_out_no_more_and_never_becomes_open_again() {
        let mut caches = Caches::new();
        caches.hear(&nothing(4), now(), now());
        let open = volume(VolumeState::Open, 1);
        caches.keep_volume(&open, 0);
        caches.handed = Handed { volumes: vec![open.clone()], since: Some(now()), turn: 0 };
        let sealed = volume(VolumeState::Sealed, 2);
        caches.hear(&News { changes: Some(vec![(5, Change::Volume((*sealed).clone()))]), ..nothing(5) }, now(), now());
        assert!(caches.handed.take(&[], Duration::from_secs(1)).is_none());
        assert_eq!(caches.covered().1, std::slice::from_ref(&sealed));
        // An older answer of the leader comes late.
        caches.keep_volume(&open, 0);
        caches.keep_volume(&open, 4);
        assert_eq!(caches.last_known(VolumeId(3)), Some(&sealed));
        assert!(is_later(&sealed, &open) && !is_later(&open, &open));
    }
}
