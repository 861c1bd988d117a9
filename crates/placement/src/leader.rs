//! The messages of service 3 and the way to who answers them: the node whose root replica leads.
//!
//! Every message may be sent again: repeating one does at most what a second one would.

use crate::changes::News;
use crate::{Error, Health};
use bytes::Bytes;
use protocol::{DriveId, Epoch, NodeId, ROOT, SlotIndex, Volume, VolumeId, wire};
use runtime::rpc::{Class, Method, Rpc};
use runtime::time::{Instant, now, sleep};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Number of this service among those of a node.
pub(crate) const SERVICE: u8 = 3;
/// A [`Heartbeat`](crate::Heartbeat): taken by every node with a root replica, so that the next leader knows.
pub(crate) const HEARTBEAT: Method = Method(0x0301);
/// An [`Ask`]: answered by the leader alone.
pub(crate) const ASK: Method = Method(0x0302);
/// A [`Watch`]: answered by the leader alone, and only when there is news or [`HOLD`] is over.
pub(crate) const WATCH: Method = Method(0x0303);

/// The longest that a watcher is kept without news.
pub(crate) const HOLD: Duration = Duration::from_secs(10);
/// And the longest that it waits for that: whoever answers first makes sure that it is up to date.
const WATCH_ATTEMPT: Duration = Duration::from_secs(13);
/// The longest wait for one node before another is tried.
const ATTEMPT: Duration = Duration::from_millis(1500);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(320);

/// What the root's leader is asked or told.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Volumes for writing that use none of these drives.
    Volumes {
        avoid: Vec<DriveId>,
    },
    /// Every slot of the volume is durable.
    Built {
        volume: VolumeId,
    },
    /// A slot failed for good, as seen under `epoch`.
    Slot {
        volume: VolumeId,
        epoch: Option<Epoch>,
        slot: SlotIndex,
        reason: String,
    },
    /// A node could not be reached.
    Unreachable {
        node: NodeId,
    },
    Health,
}

/// Tell what changed, as soon as something has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Watch {
    /// The asking one knows all changes up to this revision; `None`: it knows nothing.
    pub since: Option<u64>,
}

/// What the leader answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    Done,
    Volumes(Vec<Volume>),
    Volume(Volume),
    Health(Health),
    News(News),
}

/// Why it does not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// Ask this one, if it is known.
    NotLeader {
        hint: Option<NodeId>,
    },
    Failed(Error),
}

/// Finds the leader among the nodes that hold root replicas, and remembers it.
pub(crate) struct Road {
    rpc: Rpc,
    groups: consensus::Client,
    last: Mutex<Last>,
}

/// What came of asking one node.
enum Attempt {
    Told(Told),
    /// It does not lead, or does not answer.
    Elsewhere(Error),
    /// It leads, and cannot do it just now.
    Later(Error),
    /// It is not to be had.
    Failed(Error),
}

#[derive(Default)]
struct Last {
    leader: Option<NodeId>,
    /// Which node is tried next while no leader is known.
    turn: usize,
}

impl Road {
    pub fn new(rpc: Rpc, groups: consensus::Client) -> Road {
        Road { rpc, groups, last: Mutex::default() }
    }

    pub fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// The nodes with replicas of the root group, as far as is known here.
    pub fn root_nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = Vec::new();
        for place in self.groups.known(ROOT).iter().flat_map(|members| members.all()) {
            if !nodes.contains(&place.node) {
                nodes.push(place.node);
            }
        }
        nodes
    }

    /// Ask until somebody answers as leader, or `deadline`. What may pass (no leader, busy) is asked again.
    pub async fn ask(&self, ask: &Ask, deadline: Instant) -> Result<Told, Error> {
        let meta = Bytes::from(wire::encode(ask));
        let mut why = Error::Unavailable("no node holds the root group".into());
        let mut pause = PAUSE_MIN;
        loop {
            let nodes = self.root_nodes();
            // Once around, and the same again for hints, before waiting.
            for _ in 0..nodes.len() * 2 {
                if now() >= deadline {
                    return Err(why);
                }
                match self.attempt(&nodes, ASK, meta.clone(), deadline.min(now() + ATTEMPT)).await {
                    Attempt::Told(told) => return Ok(told),
                    Attempt::Failed(error) => return Err(error),
                    Attempt::Elsewhere(error) => why = error,
                    Attempt::Later(error) => {
                        why = error;
                        break;
                    }
                }
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() || nodes.is_empty() {
                return Err(why);
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Ask whoever seems to lead for what changed after `since`, once. An error means that somebody else may lead by now.
    pub async fn watch(&self, since: Option<u64>) -> Result<News, Error> {
        let meta = Bytes::from(wire::encode(&Watch { since }));
        let nodes = self.root_nodes();
        if nodes.is_empty() {
            return Err(Error::Unavailable("no node holds the root group".into()));
        }
        match self.attempt(&nodes, WATCH, meta, now() + WATCH_ATTEMPT).await {
            Attempt::Told(Told::News(news)) => Ok(news),
            Attempt::Told(other) => Err(Error::Malformed(format!("unexpected answer {other:?}"))),
            Attempt::Failed(error) | Attempt::Elsewhere(error) | Attempt::Later(error) => Err(error),
        }
    }

    /// Ask the one of `nodes` that seems to lead, until `limit`.
    async fn attempt(&self, nodes: &[NodeId], method: Method, meta: Bytes, limit: Instant) -> Attempt {
        let to = self.next(nodes);
        let received = self.rpc.call(to, Class::Control, method, 0, meta, Vec::new(), limit).await.map_err(|error| error.to_string());
        let answer = received
            .and_then(|received| wire::decode::<Result<Told, Refusal>>(&received.meta).map_err(|error| format!("node {to}: {error}")));
        match answer {
            Ok(Ok(told)) => {
                self.last().leader = Some(to);
                Attempt::Told(told)
            }
            Ok(Err(Refusal::NotLeader { hint })) => {
                self.not(nodes, to, hint.filter(|hint| *hint != to));
                Attempt::Elsewhere(Error::Unavailable("the root group has no leader that is known".into()))
            }
            Ok(Err(Refusal::Failed(error @ (Error::Unavailable(_) | Error::Unknown(_) | Error::Busy)))) => Attempt::Later(error),
            Ok(Err(Refusal::Failed(error))) => Attempt::Failed(error),
            Err(reason) => {
                self.not(nodes, to, None);
                Attempt::Elsewhere(Error::Unavailable(reason))
            }
        }
    }

    fn next(&self, nodes: &[NodeId]) -> NodeId {
        let last = self.last();
        last.leader.unwrap_or_else(|| nodes[last.turn % nodes.len()])
    }

    /// `node` does not lead or does not answer.
    fn not(&self, nodes: &[NodeId], node: NodeId, hint: Option<NodeId>) {
        let mut last = self.last();
        last.leader = hint;
        if hint.is_none() && nodes[last.turn % nodes.len()] == node {
            last.turn = last.turn.wrapping_add(1);
        }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().expect("nothing panics under this lock")
    }
}

/// What a group's client says, in this crate's words.
pub(crate) fn error_of(error: consensus::client::Error) -> Error {
    use consensus::client::Error as Groups;
    match error {
        Groups::Unavailable { .. } => Error::Unavailable(error.to_string()),
        Groups::Unknown { .. } | Groups::TooOld { .. } => Error::Unknown(error.to_string()),
        Groups::Busy { .. } => Error::Busy,
    }
}
