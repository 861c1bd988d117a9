//! Drives and nodes that this gateway does not wait for at present: they failed it or were slow a moment ago.
//!
//! A suspicion is this gateway's alone and ends by itself; it steers choices and fences nothing.

use protocol::{DriveId, NodeId, SlotPlace};
use runtime::time::Instant;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// How long a suspicion lasts.
pub const SUSPICION: Duration = Duration::from_secs(10);

/// Present suspicions.
#[derive(Default)]
pub struct Suspects {
    until: Mutex<Until>,
}

#[derive(Default)]
struct Until {
    drives: BTreeMap<DriveId, Instant>,
    nodes: BTreeMap<NodeId, Instant>,
}

impl Suspects {
    /// Avoid the drive for `duration`.
    pub fn suspect_drive(&self, drive: DriveId, duration: Duration) {
        let mut until = self.until.lock().expect("nothing panics while holding it");
        raise(&mut until.drives, drive, runtime::time::now() + duration);
    }

    /// Avoid all drives of the node for `duration`.
    pub fn suspect_node(&self, node: NodeId, duration: Duration) {
        let mut until = self.until.lock().expect("nothing panics while holding it");
        raise(&mut until.nodes, node, runtime::time::now() + duration);
    }

    /// Whether the drive there or its node is suspected.
    pub fn suspected(&self, place: SlotPlace) -> bool {
        let now = runtime::time::now();
        let until = self.until.lock().expect("nothing panics while holding it");
        until.drives.get(&place.drive).is_some_and(|until| *until > now) || until.nodes.get(&place.node).is_some_and(|until| *until > now)
    }

    /// All that are suspected now; those whose time is over are forgotten.
    pub fn present(&self) -> (Vec<DriveId>, Vec<NodeId>) {
        let now = runtime::time::now();
        let mut until = self.until.lock().expect("nothing panics while holding it");
        until.drives.retain(|_, until| *until > now);
        until.nodes.retain(|_, until| *until > now);
        (until.drives.keys().copied().collect(), until.nodes.keys().copied().collect())
    }
}

fn raise<K: Ord>(map: &mut BTreeMap<K, Instant>, key: K, to: Instant) {
    let entry = map.entry(key).or_insert(to);
    *entry = (*entry).max(to);
}
