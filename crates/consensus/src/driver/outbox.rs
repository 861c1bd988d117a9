//! What leaves a driver for other replicas: all that a turn has to say to a node goes in one frame.

use super::{Driver, Input, TURN_BYTES_MAX};
use crate::log::Key;
use crate::wire::{self, Frame, Note};
use bytes::Bytes;
use protocol::limits::COMMAND_BYTES_MAX;
use protocol::{NodeId, ReplicaId};
use raft::eraftpb::{Entry, Message, MessageType};
use runtime::time;

/// Bytes of entries in one frame to another node, about.
const FRAME_BYTES: usize = 1 << 20;
/// Bytes of entries in one message, more than a turn brings: Raft puts all that a follower lacks into one.
const MESSAGE_BYTES: usize = TURN_BYTES_MAX + COMMAND_BYTES_MAX;

/// What an entry takes in a frame, about.
fn bytes_of(entry: &Entry) -> usize {
    entry.data.len() + 64
}

/// Leave out of an append the entries for which there is no `room`, in bytes; the `first` one goes in any case, if it is so. True if any was.
fn shorten(message: &mut Message, mut room: usize, mut first: bool) -> bool {
    if message.get_msg_type() != MessageType::MsgAppend {
        return false;
    }
    let mut kept = 0;
    while let Some(entry) = message.entries.get(kept)
        && (first || bytes_of(entry) <= room)
    {
        first = false;
        room = room.saturating_sub(bytes_of(entry));
        kept += 1;
    }
    let left = kept < message.entries.len();
    message.entries.truncate(kept);
    left
}

#[derive(Default)]
pub(super) struct Outgoing {
    frame: Frame,
    body: Vec<Bytes>,
    bytes: usize,
}

impl Driver {
    pub(super) fn send(&mut self, key: Key, messages: Vec<Message>) {
        for mut message in messages {
            let Some(replica) = self.replicas.get_mut(&key) else { return };
            let Some(node) = replica.node_of(ReplicaId(message.to)) else { continue };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let now = time::now();
                replica.offered.insert(message.to, now);
                replica.offered_at = Some(now);
            }
            if node == self.shared.node {
                let key = Key { group: key.group, replica: ReplicaId(message.to) };
                self.shared.pass_on(key, node, message);
                continue;
            }
            let outgoing = self.outgoing.entry(node).or_default();
            if !message.entries.is_empty() {
                let waits = outgoing.bytes + self.shared.rpc.queued_bytes(node);
                if shorten(&mut message, self.outbox_bytes.saturating_sub(waits).min(MESSAGE_BYTES), waits == 0) {
                    runtime::probe!("consensus-append-shortened-by-its-sender");
                    // What was left out is sent again when the other one has answered, or at its next heartbeat.
                    replica.raw.report_unreachable(message.to);
                }
            }
            let bytes: usize = message.entries.iter().map(bytes_of).sum();
            if let Some(converted) = wire::Message::from_raft(key.group, message, &mut outgoing.body) {
                outgoing.frame.messages.push(converted);
                outgoing.bytes += bytes;
            }
            if outgoing.bytes >= FRAME_BYTES {
                self.flush(node);
            }
        }
    }

    pub(super) fn send_note(&mut self, node: NodeId, note: Note) {
        if node == self.shared.node {
            self.shared.route(note.to(), Input::Note { from: node, note });
        } else {
            self.outgoing.entry(node).or_default().frame.notes.push(note);
        }
    }

    /// All that this turn has to say to a node, in one frame.
    pub(super) fn flush(&mut self, node: NodeId) {
        let Some(outgoing) = self.outgoing.remove(&node) else { return };
        let meta = protocol::wire::encode(&outgoing.frame);
        self.shared.rpc.cast(node, wire::MESSAGES, meta.into(), outgoing.body);
    }

    pub(super) fn publish(&mut self, key: Key) {
        if let Some(replica) = self.replicas.get(&key) {
            let status = replica.status(self.drive);
            self.shared.states.show(key, self.drive, &self.disk, &replica.state);
            self.shared.publish(key, status);
        }
    }
}
