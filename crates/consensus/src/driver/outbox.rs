//! What leaves a driver for other replicas: all that a turn has to say to a node goes in one frame.

use super::{Driver, Input};
use crate::log::Key;
use crate::wire::{self, Frame, Note};
use bytes::Bytes;
use protocol::{NodeId, ReplicaId};
use raft::eraftpb::{Message, MessageType};
use runtime::time;

/// Bytes of entries in one frame to another node, about.
const FRAME_BYTES: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Outgoing {
    frame: Frame,
    body: Vec<Bytes>,
    bytes: usize,
}

impl Driver {
    pub(super) fn send(&mut self, key: Key, messages: Vec<Message>) {
        for message in messages {
            let Some(replica) = self.replicas.get_mut(&key) else { return };
            let Some(node) = replica.node_of(ReplicaId(message.to)) else { continue };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let now = time::now();
                replica.offered.insert(message.to, now);
                replica.offered_at = Some(now);
            }
            if node == self.shared.node {
                let key = Key { group: key.group, replica: ReplicaId(message.to) };
                self.shared.route(key, Input::Message { key, from: node, message });
                continue;
            }
            let outgoing = self.outgoing.entry(node).or_default();
            let bytes: usize = message.entries.iter().map(|entry| entry.data.len() + 64).sum();
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
