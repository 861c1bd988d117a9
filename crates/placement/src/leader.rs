//! The messages of service 3 and the way to who answers them: the node whose root replica leads.
//!
//! Every message may be sent again: repeating one does at most what a second one would.

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

/// What the leader answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    Done,
    Volumes(Vec<Volume>),
    Volume(Volume),
    Health(Health),
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
                let to = self.next(&nodes);
                match self.ask_one(to, meta.clone(), deadline).await {
                    Ok(Ok(told)) => {
                        self.last().leader = Some(to);
                        return Ok(told);
                    }
                    Ok(Err(Refusal::NotLeader { hint })) => {
                        why = Error::Unavailable("the root group has no leader that is known".into());
                        self.not(&nodes, to, hint.filter(|hint| *hint != to));
                    }
                    Ok(Err(Refusal::Failed(error @ (Error::Unavailable(_) | Error::Unknown(_) | Error::Busy)))) => {
                        why = error;
                        break;
                    }
                    Ok(Err(Refusal::Failed(error))) => return Err(error),
                    Err(reason) => {
                        why = Error::Unavailable(reason);
                        self.not(&nodes, to, None);
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

    async fn ask_one(&self, to: NodeId, meta: Bytes, deadline: Instant) -> Result<Result<Told, Refusal>, String> {
        let limit = deadline.min(now() + ATTEMPT);
        let received = self.rpc.call(to, Class::Control, ASK, 0, meta, Vec::new(), limit).await.map_err(|error| error.to_string())?;
        wire::decode(&received.meta).map_err(|error| format!("node {to}: {error}"))
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
