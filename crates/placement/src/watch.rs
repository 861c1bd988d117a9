//! What the root's leader believes about nodes and drives: soft state, gone with the process, never in a log.
//!
//! Silence is counted in ticks in which this process ran and led, never by comparing two times: a leader that was
//! paused for an hour has heard nobody for one tick. A new leader believes that everybody lives, until it has led
//! for [`SUSPECT_AFTER`] without hearing from them. Suspicion only steers new data away; nothing is lost by it.

use crate::scheme_choice::Unusable;
use crate::{DriveHealth, Heartbeat, REFOUNDED_MAX, TO_BE_REPLACED_MAX};
use consensus::ReplicaPlace;
use protocol::limits::SUSPECT_AFTER;
use protocol::{ClusterMap, DriveId, GroupId, NodeId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The most silence that one tick may add, whatever the clock says.
pub const TICK_MAX: Duration = Duration::from_secs(1);
/// A drive with less free space than this is given no new slots.
pub const FREE_BYTES_MIN: u64 = 64 << 20;
/// A drive that is closed for this long, as its own node says all the while, keeps no voters: others are made elsewhere. Until then a
/// start of its node may bring it back. Metadata is small, so it does not wait as long as data does.
pub const CLOSED_MAX: Duration = Duration::from_secs(60);
/// Most drives that a heartbeat may carry.
const DRIVES_PER_NODE_MAX: usize = 1024;

/// Nodes as they were last heard of.
#[derive(Default)]
pub struct Watch {
    nodes: BTreeMap<NodeId, Seen>,
}

#[derive(Default)]
struct Seen {
    incarnation: u64,
    /// Led and ran without hearing from it.
    silence: Duration,
    /// A gateway could not reach it, and it was not heard since.
    unreachable: bool,
    /// By its last heartbeat; empty before the first.
    drives: BTreeMap<DriveId, DriveHealth>,
    /// Those of them that are closed: led and ran, and heard from the node, since that is known.
    closed: BTreeMap<DriveId, Duration>,
    heard: bool,
    /// What its clock showed in its last heartbeat.
    clock_ms: Option<u64>,
    /// Replicas on it that nothing heals, by its last heartbeat.
    to_be_replaced: Vec<(GroupId, ReplicaId)>,
    /// Groups on it that were founded anew, and their eras, by its last heartbeat.
    refounded: Vec<(GroupId, u64)>,
}

/// Replicas that nothing heals, as their nodes say. A node speaks for the replicas on it, and for no others.
#[derive(Default)]
pub struct Spent {
    replicas: BTreeSet<(NodeId, GroupId, ReplicaId)>,
    /// Drives of which all replicas are spent, and that can have no new ones: their logs are damaged, or they are closed for long.
    drives: BTreeSet<DriveId>,
}

impl Spent {
    /// Whether the replica of `group` at `place` is one of them.
    pub fn has(&self, group: GroupId, place: &ReplicaPlace) -> bool {
        self.drives.contains(&place.drive) || self.replicas.contains(&(place.node, group, place.replica))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.drives.is_empty() && self.replicas.is_empty()
    }

    /// Drives that can have no replicas.
    pub fn drives(&self) -> impl Iterator<Item = DriveId> {
        self.drives.iter().copied()
    }
}

impl Watch {
    /// This process begins to lead (again): everybody is assumed alive. What drives said of themselves stays.
    pub fn begin_term(&mut self, map: &ClusterMap) {
        for node in &map.nodes {
            self.nodes.entry(node.id).or_default();
        }
        for seen in self.nodes.values_mut() {
            seen.silence = Duration::ZERO;
            seen.unreachable = false;
            seen.closed.clear();
        }
    }

    /// This process led and ran for `elapsed`, of which at most [`TICK_MAX`] counts.
    pub fn tick(&mut self, elapsed: Duration) {
        let elapsed = elapsed.min(TICK_MAX);
        for seen in self.nodes.values_mut() {
            seen.silence = seen.silence.saturating_add(elapsed);
            if seen.silence >= SUSPECT_AFTER {
                // It may be starting again.
                continue;
            }
            for drive in seen.drives.values().filter(|drive| drive.closed.is_some()) {
                let closed = seen.closed.entry(drive.drive).or_default();
                *closed = closed.saturating_add(elapsed);
            }
        }
    }

    /// A heartbeat arrived. True if what is known of drives changed: new closings are to be acted on at once.
    pub fn heard(&mut self, map: &ClusterMap, heartbeat: Heartbeat) -> bool {
        let Some(node) = map.node(heartbeat.node) else { return false };
        let seen = self.nodes.entry(node.id).or_default();
        seen.silence = Duration::ZERO;
        seen.unreachable = false;
        if seen.heard && seen.incarnation != heartbeat.incarnation {
            runtime::probe!("placement: a node came back as another process");
        }
        let its = |health: &DriveHealth| node.drives.iter().any(|drive| drive.id == health.drive);
        let drives: BTreeMap<_, _> =
            heartbeat.drives.into_iter().take(DRIVES_PER_NODE_MAX).filter(its).map(|health| (health.drive, health)).collect();
        let mut closed_for = std::mem::take(&mut seen.closed);
        closed_for.retain(|drive, _| drives.get(drive).is_some_and(|health| health.closed.is_some()));
        let closed = |drives: &BTreeMap<DriveId, DriveHealth>| drives.values().map(|d| (d.drive, d.closed.is_some())).collect::<Vec<_>>();
        let changed = !seen.heard || closed(&drives) != closed(&seen.drives);
        let mut to_be_replaced = heartbeat.to_be_replaced;
        to_be_replaced.truncate(TO_BE_REPLACED_MAX);
        let mut refounded = heartbeat.refounded;
        refounded.truncate(REFOUNDED_MAX);
        let (incarnation, clock_ms) = (heartbeat.incarnation, Some(heartbeat.clock_ms));
        *seen = Seen { incarnation, heard: true, drives, closed: closed_for, clock_ms, to_be_replaced, refounded, ..Seen::default() };
        changed
    }

    /// A gateway could not reach the node: counts until its next heartbeat.
    pub fn unreachable(&mut self, node: NodeId) {
        if let Some(seen) = self.nodes.get_mut(&node) {
            seen.unreachable = true;
        }
    }

    /// Nodes to which nothing new goes, and why.
    pub fn suspected(&self) -> BTreeMap<NodeId, String> {
        let why = |seen: &Seen| {
            if seen.silence >= SUSPECT_AFTER {
                Some(format!("no heartbeat for {} s", seen.silence.as_secs()))
            } else {
                seen.unreachable.then(|| "unreachable from a gateway".to_string())
            }
        };
        self.nodes.iter().filter_map(|(node, seen)| Some((*node, why(seen)?))).collect()
    }

    /// What the node's clock showed when it was last heard, as it was then: it is not known how long ago by any clock that may be
    /// trusted. `None` if it is silent.
    pub fn clock_ms(&self, node: NodeId) -> Option<u64> {
        self.nodes.get(&node).filter(|seen| seen.silence < SUSPECT_AFTER)?.clock_ms
    }

    /// Replicas that nothing heals. What a node said of them stands until it says otherwise: they do not come back while it is silent.
    pub fn spent(&self) -> Spent {
        let mut spent = Spent::default();
        for (node, seen) in &self.nodes {
            spent.replicas.extend(seen.to_be_replaced.iter().map(|(group, replica)| (*node, *group, *replica)));
            spent.drives.extend(seen.drives.values().filter(|drive| drive.without_replicas).map(|drive| drive.drive));
            if !runtime::planted("closed-drive-keeps-its-voters") {
                spent.drives.extend(seen.closed.iter().filter(|(_, closed)| **closed >= CLOSED_MAX).map(|(drive, _)| *drive));
            }
        }
        spent
    }

    /// Groups that were founded anew, as nodes with a replica of them say: the latest era, and by which node's word.
    pub fn refounded(&self) -> BTreeMap<GroupId, (u64, NodeId)> {
        let mut most = BTreeMap::new();
        for (node, seen) in &self.nodes {
            for (group, era) in &seen.refounded {
                let known = most.entry(*group).or_insert((*era, *node));
                *known = (*known).max((*era, *node));
            }
        }
        most
    }

    /// Drives that closed themselves, and why.
    pub fn closed(&self) -> Vec<(DriveId, String)> {
        let drives = self.nodes.values().flat_map(|seen| seen.drives.values());
        drives.filter_map(|health| Some((health.drive, health.closed.clone()?))).collect()
    }

    /// Drives of `map` that get no new slots, and why.
    pub fn unusable(&self, map: &ClusterMap) -> BTreeMap<DriveId, Unusable> {
        let suspected = self.suspected();
        let mut unusable = BTreeMap::new();
        for node in &map.nodes {
            let seen = self.nodes.get(&node.id);
            for drive in &node.drives {
                let why = match (suspected.get(&node.id), seen) {
                    (Some(why), _) => Some(Unusable::Node(why.clone())),
                    (None, Some(seen)) if seen.heard => trouble(seen.drives.get(&drive.id)).map(Unusable::Drive),
                    (None, _) => None,
                };
                unusable.extend(why.map(|why| (drive.id, why)));
            }
        }
        unusable
    }
}

fn trouble(health: Option<&DriveHealth>) -> Option<String> {
    let Some(health) = health else { return Some("its node does not have it".into()) };
    match &health.closed {
        Some(why) => Some(format!("closed: {why}")),
        None if health.total_bytes > 0 && health.free_bytes < FREE_BYTES_MIN => {
            runtime::probe!("placement: a drive is nearly full");
            Some(format!("nearly full: {} MiB free", health.free_bytes >> 20))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::testing::map;

    fn heartbeat(node: u64, closed: &[u16]) -> Heartbeat {
        let drive = |ordinal: u16| DriveHealth {
            drive: DriveId::at_bootstrap(NodeId(node), ordinal),
            closed: closed.contains(&ordinal).then(|| "path shows another drive".to_string()),
            without_replicas: false,
            free_bytes: 1 << 40,
            total_bytes: 1 << 41,
        };
        let drives = (0..2).map(drive).collect();
        Heartbeat { node: NodeId(node), incarnation: 1, drives, clock_ms: 1000 + node, to_be_replaced: Vec::new(), refounded: Vec::new() }
    }

    fn led(watch: &mut Watch, seconds: u64) {
        (0..seconds * 2).for_each(|_| watch.tick(Duration::from_millis(500)));
    }

    #[test]
    fn a_new_leader_believes_in_everybody_until_it_has_led_long_enough() {
        let map = map(3, 1, 2);
        let mut watch = Watch::default();
        watch.begin_term(&map);
        led(&mut watch, 14);
        watch.heard(&map, heartbeat(2, &[]));
        assert!(watch.suspected().is_empty());
        led(&mut watch, 1);
        assert_eq!(watch.suspected().into_keys().collect::<Vec<_>>(), [NodeId(1), NodeId(3)]);
        watch.begin_term(&map);
        assert!(watch.suspected().is_empty());
    }

    #[test]
    fn a_leader_that_was_paused_suspects_nobody_for_it() {
        let map = map(3, 1, 2);
        let mut watch = Watch::default();
        watch.begin_term(&map);
        watch.tick(Duration::from_secs(3600));
        assert!(watch.suspected().is_empty());
    }

    #[test]
    fn the_clock_of_a_silent_node_is_not_known() {
        let map = map(3, 1, 2);
        let mut watch = Watch::default();
        watch.begin_term(&map);
        watch.heard(&map, heartbeat(2, &[]));
        led(&mut watch, 14);
        assert_eq!([1, 2, 77].map(|node| watch.clock_ms(NodeId(node))), [None, Some(1002), None]);
        led(&mut watch, 1);
        assert_eq!(watch.clock_ms(NodeId(2)), None);
    }

    #[test]
    fn a_report_counts_at_once_and_until_the_next_heartbeat() {
        let map = map(3, 1, 2);
        let mut watch = Watch::default();
        watch.begin_term(&map);
        watch.heard(&map, heartbeat(3, &[]));
        watch.unreachable(NodeId(3));
        watch.unreachable(NodeId(77));
        assert_eq!(watch.suspected().len(), 1);
        let unusable = watch.unusable(&map);
        assert_eq!(unusable.len(), 2);
        assert!(unusable.values().all(|why| matches!(why, Unusable::Node(_))));
        watch.heard(&map, heartbeat(3, &[]));
        assert!(watch.unusable(&map).is_empty());
    }

    #[test]
    fn a_node_speaks_for_its_own_replicas_and_drives_until_it_says_otherwise() {
        let map = map(3, 1, 2);
        let (group, replica) = (GroupId(4), ReplicaId(9));
        let place = |node: u64, ordinal| ReplicaPlace { replica, node: NodeId(node), drive: DriveId::at_bootstrap(NodeId(node), ordinal) };
        let mut watch = Watch::default();
        watch.begin_term(&map);
        watch.heard(&map, heartbeat(1, &[]));
        assert!(watch.spent().is_empty());
        let mut says = Heartbeat { to_be_replaced: vec![(group, replica)], ..heartbeat(1, &[]) };
        says.drives[1].without_replicas = true;
        // Of a drive that is another node's.
        says.drives[0] = DriveHealth { drive: place(2, 0).drive, without_replicas: true, ..says.drives[0].clone() };
        watch.heard(&map, says);
        let spent = watch.spent();
        assert!(spent.has(group, &place(1, 0)) && spent.has(GroupId(5), &place(1, 1)));
        assert!(!spent.has(group, &place(2, 0)) && !spent.has(GroupId(5), &place(1, 0)));
        assert_eq!(spent.drives().collect::<Vec<_>>(), [place(1, 1).drive]);
        led(&mut watch, 60);
        watch.begin_term(&map);
        assert!(watch.spent().has(group, &place(1, 0)), "silence heals nothing");
        let many = (0..1000).map(|id| (group, ReplicaId(id))).collect();
        watch.heard(&map, Heartbeat { to_be_replaced: many, ..heartbeat(1, &[]) });
        assert_eq!(watch.spent().replicas.len(), TO_BE_REPLACED_MAX);
        watch.heard(&map, heartbeat(1, &[]));
        assert!(watch.spent().is_empty());
    }

    #[test]
    fn a_drive_that_stays_closed_keeps_no_replicas_and_one_that_comes_back_keeps_all() {
        let map = map(3, 1, 2);
        let drive = DriveId::at_bootstrap(NodeId(1), 1);
        let mut watch = Watch::default();
        let spent = |watch: &Watch| watch.spent().drives().collect::<Vec<_>>();
        let says = |watch: &mut Watch, seconds: u64, closed: &[u16]| {
            for _ in 0..seconds {
                watch.heard(&map, heartbeat(1, closed));
                led(watch, 1);
            }
        };
        watch.begin_term(&map);
        says(&mut watch, 59, &[1]);
        assert!(spent(&watch).is_empty());
        // Its node started again, and it was there.
        says(&mut watch, 1, &[]);
        says(&mut watch, 59, &[1]);
        assert!(spent(&watch).is_empty());
        says(&mut watch, 1, &[1]);
        assert_eq!(spent(&watch), [drive]);
        says(&mut watch, 1, &[]);
        assert!(spent(&watch).is_empty());
        // Of a node that is silent nobody knows that it does not bring it back; and each leader sees for itself.
        says(&mut watch, 40, &[1]);
        led(&mut watch, 3600);
        assert!(spent(&watch).is_empty());
        says(&mut watch, 1, &[1]);
        watch.begin_term(&map);
        says(&mut watch, 59, &[1]);
        assert!(spent(&watch).is_empty());
        says(&mut watch, 1, &[1]);
        assert_eq!(spent(&watch), [drive]);
    }

    #[test]
    fn who_knows_of_the_latest_founding_of_a_group_is_asked_about_it() {
        let map = map(3, 1, 2);
        let mut watch = Watch::default();
        watch.begin_term(&map);
        let says = |node, refounded: &[(u64, u64)]| {
            let refounded = refounded.iter().map(|(group, era)| (GroupId(*group), *era)).collect();
            Heartbeat { refounded, ..heartbeat(node, &[]) }
        };
        watch.heard(&map, says(1, &[(4, 1), (5, 2)]));
        watch.heard(&map, says(2, &[(4, 2), (5, 1)]));
        assert_eq!(watch.refounded(), BTreeMap::from([(GroupId(4), (2, NodeId(2))), (GroupId(5), (2, NodeId(1)))]));
        watch.heard(&map, says(1, &[]));
        watch.heard(&map, Heartbeat { refounded: (0..2000).map(|group| (GroupId(group), 1)).collect(), ..heartbeat(2, &[]) });
        assert_eq!(watch.refounded().len(), REFOUNDED_MAX);
    }

    #[test]
    fn closed_missing_and_nearly_full_drives_get_nothing_new() {
        let map = map(3, 1, 2);
        let mut watch = Watch::default();
        watch.begin_term(&map);
        assert!(watch.heard(&map, heartbeat(1, &[])));
        assert!(!watch.heard(&map, heartbeat(1, &[])));
        assert!(watch.heard(&map, heartbeat(1, &[1])));
        let mut short = heartbeat(2, &[]);
        short.drives.pop();
        short.drives[0].free_bytes = 1;
        watch.heard(&map, short);
        assert_eq!(watch.closed(), [(DriveId::at_bootstrap(NodeId(1), 1), "path shows another drive".to_string())]);
        let unusable: Vec<_> = watch.unusable(&map).into_iter().map(|(drive, why)| format!("{drive} {why:?}")).collect();
        assert_eq!(
            unusable,
            [
                "65537 Drive(\"closed: path shows another drive\")",
                "131072 Drive(\"nearly full: 0 MiB free\")",
                "131073 Drive(\"its node does not have it\")",
            ]
        );
        // A heartbeat for a drive of another node says nothing about it.
        let mut liar = heartbeat(3, &[]);
        liar.drives[0].drive = DriveId::at_bootstrap(NodeId(1), 0);
        liar.drives[0].closed = Some("lie".into());
        watch.heard(&map, liar);
        assert_eq!(watch.closed().len(), 1);
    }
}
