//! Memory of a node for entries: one bound for those of all its groups.
//!
//! Always holds: every entry that a replica keeps is counted, once, for as long as it is kept, and so is what waits for a drive's
//! driver. What is counted is given back when it is let go of, however that comes about. Nobody waits for room: a command that finds
//! none is refused, an append is shortened to what there is room for, and its leader sends the rest again.
//!
//! No group is starved by others: [`GROUP_BYTES_MIN`] are always there for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of entries that a group may hold however full its node is, beside the tail that it keeps for those who lag.
pub(crate) const GROUP_BYTES_MIN: usize = 64 << 10;
/// Beyond it a group takes no more, whatever is free.
const GROUP_BYTES_MAX: usize = 32 << 20;
/// The least that a node works with: a few of the largest commands at once.
pub(crate) const NODE_BYTES_MIN: usize = 8 << 20;
/// One part in this many of the bound is there besides, for what waits for drivers, and as much for what waits to be sent.
const QUEUES_SHARE: usize = 4;
/// The least that may wait for one driver: any message finds room in an empty queue, and most in one that is not.
const INBOX_BYTES_MIN: usize = 4 << 20;
/// The least that may wait to be sent to one node.
const OUTBOX_BYTES_MIN: usize = 1 << 20;

/// The bound, and what is held.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    entries: AtomicUsize,
    queued: AtomicUsize,
    most: AtomicUsize,
}

/// Entries in the memory of a node, in bytes. See [`crate::Settings::entries_bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EntriesHeld {
    /// Entries of replicas: not committed, not applied, not durable in a state yet, or kept for followers that lag.
    pub entries: usize,
    /// What waits for the drivers of the drives. Nothing, when nobody sends anything.
    pub queued: usize,
    /// The most that both were together since the node started.
    pub most: usize,
}

impl Budget {
    /// Of `bytes_max` bytes, [`NODE_BYTES_MIN`] at least.
    pub fn new(bytes_max: usize) -> Arc<Budget> {
        let bytes_max = bytes_max.max(NODE_BYTES_MIN);
        Arc::new(Budget { bytes_max, entries: AtomicUsize::new(0), queued: AtomicUsize::new(0), most: AtomicUsize::new(0) })
    }

    pub fn held(&self) -> EntriesHeld {
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        EntriesHeld { entries: load(&self.entries), queued: load(&self.queued), most: load(&self.most) }
    }

    /// A replica's share, empty yet.
    pub fn share(self: &Arc<Budget>) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }

    /// What waits for the driver of one of `drives` drives. Each has its own part: one that stands still holds up no other.
    pub fn inbox(self: &Arc<Budget>, drives: usize) -> Inbox {
        let bytes_max = (self.bytes_max / QUEUES_SHARE / drives.max(1)).max(INBOX_BYTES_MIN);
        Inbox { budget: self.clone(), bytes_max, queued: Arc::default() }
    }

    /// Whether checkpoints should make room without delay.
    pub fn is_short(&self) -> bool {
        self.free() < self.bytes_max / 4
    }

    /// Bytes that may wait to be sent to each of `peers` other nodes.
    pub fn outbox(&self, peers: usize) -> usize {
        (self.bytes_max / QUEUES_SHARE / peers.max(1)).max(OUTBOX_BYTES_MIN)
    }

    fn free(&self) -> usize {
        let held = self.held();
        self.bytes_max.saturating_sub(held.entries + held.queued)
    }

    fn note(&self, held: usize) {
        self.most.fetch_max(held, Ordering::Relaxed);
    }
}

/// What one replica holds.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// It holds this much now.
    pub fn set(&mut self, bytes: usize) {
        let all = &self.budget.entries;
        if bytes >= self.bytes {
            let before = all.fetch_add(bytes - self.bytes, Ordering::Relaxed);
            self.budget.note(before + bytes - self.bytes + self.budget.queued.load(Ordering::Relaxed));
        } else {
            all.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// Whether the group, which holds `held` bytes beside its tail, may take a command of `bytes`. None may hold more than is
    /// free then, so that a few that cannot commit leave something to all others.
    pub fn admits(&self, held: usize, bytes: usize) -> bool {
        let then = held.saturating_add(bytes);
        then <= GROUP_BYTES_MIN || (then <= GROUP_BYTES_MAX && then <= self.budget.free())
    }

    /// Bytes of entries that the group, which holds `held` beside its tail, may be given by its leader.
    pub fn room(&self, held: usize) -> usize {
        let free = self.budget.free().min(GROUP_BYTES_MAX.saturating_sub(held));
        free.max(GROUP_BYTES_MIN.saturating_sub(held))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Bytes that wait for one driver.
#[derive(Debug)]
pub(crate) struct Inbox {
    budget: Arc<Budget>,
    bytes_max: usize,
    queued: Arc<AtomicUsize>,
}

impl Inbox {
    /// Room for `bytes`, if there is some. What is larger than all of it is let through alone.
    pub fn queue(&self, bytes: usize) -> Option<Queued> {
        let with = |queued: usize| (bytes == 0 || queued == 0 || queued + bytes <= self.bytes_max).then_some(queued + bytes);
        self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).ok()?;
        let before = self.budget.queued.fetch_add(bytes, Ordering::Relaxed);
        self.budget.note(self.budget.entries.load(Ordering::Relaxed) + before + bytes);
        Some(Queued { budget: self.budget.clone(), queued: self.queued.clone(), bytes })
    }
}

/// Room that is taken while something waits for a driver.
#[derive(Debug)]
pub(crate) struct Queued {
    budget: Arc<Budget>,
    queued: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.queued.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_let_go_of_comes_back() {
        let budget = Budget::new(16 * MIB);
        let (mut one, mut other) = (budget.share(), budget.share());
        one.set(3 * MIB);
        other.set(MIB);
        one.set(2 * MIB);
        let queued = budget.inbox(1).queue(MIB).expect("4 MiB are free");
        assert_eq!(budget.held(), EntriesHeld { entries: 3 * MIB, queued: MIB, most: 4 * MIB });
        drop((one, other, queued));
        assert_eq!(budget.held(), EntriesHeld { entries: 0, queued: 0, most: 4 * MIB });
    }

    #[test]
    fn groups_that_never_commit_leave_room_to_others() {
        let budget = Budget::new(16 * MIB);
        let mut stuck = Vec::new();
        for _ in 0..20 {
            let mut share = budget.share();
            let mut held = 0;
            while share.admits(held, 8 << 10) {
                held += 8 << 10;
                share.set(held);
            }
            assert!(held >= GROUP_BYTES_MIN, "each has its minimum");
            stuck.push(share);
        }
        let bound = 16 * MIB + stuck.len() * GROUP_BYTES_MIN;
        assert!(budget.held().most <= bound, "{:?}", budget.held());
        assert!(stuck[0].bytes > 7 * MIB, "one alone has half of it");
        let late = budget.share();
        assert!(late.admits(0, GROUP_BYTES_MIN));
        assert!(!late.admits(0, 2 * MIB), "what is larger waits until something is free");
        assert_eq!(late.room(0), GROUP_BYTES_MIN.max(budget.free()));
        assert_eq!(stuck[0].room(stuck[0].bytes), budget.free());
    }

    #[test]
    fn an_inbox_lets_the_largest_through_alone_and_holds_up_no_other() {
        let budget = Budget::new(NODE_BYTES_MIN);
        let (inbox, other) = (budget.inbox(2), budget.inbox(2));
        let large = inbox.queue(5 * MIB).expect("nothing else waits");
        assert!(inbox.queue(1).is_none());
        assert!(inbox.queue(0).is_some(), "what is empty needs no room");
        assert!(other.queue(MIB).is_some());
        drop(large);
        let _small = inbox.queue(3 * MIB).expect("it is empty again");
        assert!(inbox.queue(MIB).is_some());
        assert!(inbox.queue(2 * MIB).is_none());
        assert_eq!(budget.held().queued, 3 * MIB);
    }
}
