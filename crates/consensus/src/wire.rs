//! What travels between the replicas of a group, and between a client and a group.
//!
//! Raft's messages are converted to words of our own: no protobuf is parsed from the network. What cannot occur
//! (local messages, entries of unknown kinds, gaps) is refused here, before Raft sees it.

use crate::log::{Key, Run, kind_of, type_of};
use crate::members::{Change, Members};
use bytes::Bytes;
use protocol::{DriveId, GroupId, ReplicaId, wire};
use raft::eraftpb::{self, MessageType};
use runtime::rpc::Method;
use serde::{Deserialize, Serialize};

/// Raft messages, one way.
pub(crate) const MESSAGES: Method = Method(0x0201);
/// Propose a command to a replica.
pub(crate) const PROPOSE: Method = Method(0x0202);
/// Query a replica linearizably.
pub(crate) const READ: Method = Method(0x0203);
/// One page of the rows of a snapshot.
pub(crate) const SNAPSHOT_PAGE: Method = Method(0x0204);
/// Propose a change of a group's members to a replica.
pub(crate) const CHANGE: Method = Method(0x0205);
/// Who belongs to a group, as this node knows it.
pub(crate) const MEMBERS: Method = Method(0x0206);
/// Create a replica on a drive of this node, which belongs to nothing until its group says so.
pub(crate) const CREATE: Method = Method(0x0207);
/// Remove a replica of this node that left its group.
pub(crate) const REMOVE: Method = Method(0x0208);
/// What was committed behind a snapshot, for who fetches it.
pub(crate) const SNAPSHOT_TAIL: Method = Method(0x0209);
/// What the rows of a snapshot are proved by.
pub(crate) const SNAPSHOT_PROOF: Method = Method(0x020a);

/// What a replica has of entries that another one of its group lost.
pub(crate) const FETCH: Method = Method(0x0220);

/// All that one node has to say to another in one turn, for all groups. The data of entries follow in the body.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Frame {
    pub messages: Vec<Message>,
    pub notes: Vec<Note>,
}

/// Raft's message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub group: GroupId,
    pub kind: u8,
    pub to: ReplicaId,
    pub from: ReplicaId,
    pub term: u64,
    pub log_term: u64,
    pub index: u64,
    pub entries: Vec<Entry>,
    pub commit: u64,
    pub commit_term: u64,
    pub snapshot: Option<SnapshotOffer>,
    pub request_snapshot: u64,
    pub reject: bool,
    pub reject_hint: u64,
    pub context: Vec<u8>,
    pub priority: i64,
}

/// An entry; its data are `bytes` bytes of the body, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub term: u64,
    pub index: u64,
    /// 0 a command, 1 a change of members.
    pub kind: u8,
    pub bytes: u32,
}

/// A snapshot that can be fetched from its sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotOffer {
    pub index: u64,
    pub term: u64,
    pub members: Members,
    /// Names the frozen rows at the sender.
    pub token: u64,
    /// The rolling state hash at `index`.
    pub state_hash: u64,
    /// Rolling hashes at earlier marks.
    pub marks: Vec<(u64, u64)>,
}

/// Ask `to` for entries that `from` lost, and for a state that covers index `state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fetch {
    pub group: GroupId,
    pub to: ReplicaId,
    pub from: ReplicaId,
    pub wanted: Vec<Run>,
    pub state: Option<u64>,
}

/// The answer: see [`crate::refetch::Testimony`]. The data of entries follow in the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fetched {
    pub term: u64,
    pub leads: bool,
    pub commit: u64,
    pub start: u64,
    pub last: u64,
    pub acknowledged: u64,
    pub entries: Vec<Entry>,
    /// Not there at once: a state that is wanted is frozen meanwhile.
    pub offer: Option<SnapshotOffer>,
}

/// Entries as they travel, their data moved to `body`.
pub(crate) fn split_entries<'e>(entries: impl IntoIterator<Item = &'e eraftpb::Entry>, body: &mut Vec<Bytes>) -> Vec<Entry> {
    let mut split = Vec::new();
    for entry in entries {
        let bytes = u32::try_from(entry.data.len()).expect("commands are bounded");
        split.push(Entry { term: entry.term, index: entry.index, kind: kind_of(entry), bytes });
        if !entry.data.is_empty() {
            body.push(entry.data.clone());
        }
    }
    split
}

/// What [`split_entries`] took apart; `None` if it is malformed.
pub(crate) fn join_entries(entries: Vec<Entry>, mut body: Bytes) -> Option<Vec<eraftpb::Entry>> {
    let mut joined = Vec::with_capacity(entries.len());
    for entry in entries {
        if entry.bytes as usize > body.len() || entry.term == 0 || entry.index == 0 {
            return None;
        }
        let mut one = eraftpb::Entry::default();
        one.set_entry_type(type_of(entry.kind)?);
        (one.term, one.index) = (entry.term, entry.index);
        one.data = Bytes::copy_from_slice(&body.split_to(entry.bytes as usize));
        joined.push(one);
    }
    body.is_empty().then_some(joined)
}

/// A word between replicas beside Raft.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Note {
    /// `from` had this state hash when it had applied `index` (I9).
    Hash { group: GroupId, to: ReplicaId, from: ReplicaId, index: u64, hash: u64 },
    /// `from` could not fetch the snapshot that the leader `to` offered.
    SnapshotFailed { group: GroupId, to: ReplicaId, from: ReplicaId },
    /// `from` applied a configuration that `to` left for good, this one: it has nothing to say, and may go.
    Gone { group: GroupId, to: ReplicaId, from: ReplicaId, members: Box<Members> },
    /// Nobody sends `from` entries: has it left for good?
    AmIGone { group: GroupId, to: ReplicaId, from: ReplicaId },
    /// `from` fetches a snapshot already, which another leader offered.
    SnapshotBusy { group: GroupId, to: ReplicaId, from: ReplicaId },
    /// The program of `from` knows commands up to this version, which is newer than that of the group.
    Knows { group: GroupId, to: ReplicaId, from: ReplicaId, version: u32 },
}

impl Note {
    pub(crate) fn to(&self) -> Key {
        match self {
            Note::Hash { group, to, .. }
            | Note::SnapshotFailed { group, to, .. }
            | Note::Gone { group, to, .. }
            | Note::AmIGone { group, to, .. }
            | Note::SnapshotBusy { group, to, .. }
            | Note::Knows { group, to, .. } => Key { group: *group, replica: *to },
        }
    }

    pub(crate) fn from(&self) -> ReplicaId {
        match self {
            Note::Hash { from, .. }
            | Note::SnapshotFailed { from, .. }
            | Note::Gone { from, .. }
            | Note::AmIGone { from, .. }
            | Note::SnapshotBusy { from, .. }
            | Note::Knows { from, .. } => *from,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Propose {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub session: Option<SessionWord>,
}

/// A session as it stands in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionWord {
    pub writer: u64,
    pub counter: u64,
    pub lowest_unfinished: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Read {
    pub group: GroupId,
    pub replica: ReplicaId,
}

/// Propose `change` to a replica. Answered with a `Result<Members, Refused>` in the body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProposeChange {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub change: Change,
}

/// Answered with an `Option<Told>` in the body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WhoBelongs {
    pub group: GroupId,
}

/// What a node knows of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub members: Members,
    pub leader: Option<ReplicaId>,
}

/// Create the replica on `drive` of the node that is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub drive: DriveId,
}

/// Remove a replica. `members` is the proof: a configuration of its group that it left, newer than what it knows itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Remove {
    pub group: GroupId,
    pub replica: ReplicaId,
    /// Where its group has it.
    pub drive: DriveId,
    pub members: Members,
}

/// The answer to a proposal or a query; what the state machine said is in the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Reply,
    /// Certainly not taken.
    NotLeader {
        leader: Option<ReplicaId>,
    },
    /// Certainly not taken, and never will be.
    Dropped,
    Busy,
    /// It may have been applied, or may yet be.
    Unknown,
    TooOld,
    /// Too many unfinished commands of this writer.
    WindowFull,
    /// Applied once, but its reply was too large to be kept for a retry.
    ReplyNotKept,
    /// This node has no such replica, or it is damaged or stopped.
    NoReplica,
    Malformed,
    /// A learner does not have most of the log yet, or does not answer: ask again.
    Behind,
    /// Not done, for the reason in the body (text).
    Failed,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PageRequest {
    pub token: u64,
    /// 0 rows, 1 sessions.
    pub table: u8,
    pub after: Option<Vec<u8>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Page {
    /// The rows follow in the body, each as two lengths (4 bytes, little endian), key and value.
    Rows { count: u32, done: bool },
    /// The sender let go of the snapshot.
    Gone,
}

/// Answered with a [`Proof`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProofRequest {
    pub token: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Proof {
    /// Number of rows of the snapshot, and the hash over all of them in order.
    Known {
        rows: u64,
        rows_hash: u64,
    },
    /// They are being read: ask again.
    NotYet,
    Gone,
}

/// Ask `to` for entries that are committed and follow `after`; `from` has all up to it. Answered with a [`Tail`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct TailRequest {
    pub group: GroupId,
    pub to: ReplicaId,
    pub from: ReplicaId,
    pub after: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Tail {
    /// As many as an answer holds, without a gap. Their data follow in the body.
    Entries(Vec<Entry>),
    /// The log begins behind them, or there is no such replica.
    Gone,
}

const NET_KINDS: [MessageType; 13] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgTransferLeader,
];

impl Message {
    /// Convert, moving the entries' data to `body`. `None` for kinds that never leave a replica.
    pub(crate) fn from_raft(group: GroupId, message: eraftpb::Message, body: &mut Vec<Bytes>) -> Option<Message> {
        let kind = NET_KINDS.iter().position(|kind| *kind == message.get_msg_type())?;
        let snapshot = match message.get_msg_type() {
            MessageType::MsgSnapshot => Some(wire::decode(&message.get_snapshot().data).ok()?),
            _ => None,
        };
        let mut entries = Vec::with_capacity(message.entries.len());
        for entry in message.entries.iter() {
            let bytes = u32::try_from(entry.data.len()).ok()?;
            entries.push(Entry { term: entry.term, index: entry.index, kind: kind_of(entry), bytes });
            if !entry.data.is_empty() {
                body.push(entry.data.clone());
            }
        }
        Some(Message {
            group,
            kind: u8::try_from(kind).expect("a short table"),
            to: ReplicaId(message.to),
            from: ReplicaId(message.from),
            term: message.term,
            log_term: message.log_term,
            index: message.index,
            entries,
            commit: message.commit,
            commit_term: message.commit_term,
            snapshot,
            request_snapshot: message.request_snapshot,
            reject: message.reject,
            reject_hint: message.reject_hint,
            context: message.context.to_vec(),
            priority: message.priority,
        })
    }

    /// Convert back, taking the entries' data from the front of `body`. `None` if it is malformed.
    pub(crate) fn into_raft(self, body: &mut Bytes) -> Option<eraftpb::Message> {
        let kind = *NET_KINDS.get(usize::from(self.kind))?;
        // A message without a term is a local one to Raft; only forwarded reads have none.
        if self.term == 0 && !matches!(kind, MessageType::MsgReadIndex | MessageType::MsgTransferLeader) {
            return None;
        }
        let mut message = eraftpb::Message::default();
        message.set_msg_type(kind);
        message.to = self.to.0;
        message.from = self.from.0;
        message.term = self.term;
        message.log_term = self.log_term;
        message.index = self.index;
        message.commit = self.commit;
        message.commit_term = self.commit_term;
        message.request_snapshot = self.request_snapshot;
        message.reject = self.reject;
        message.reject_hint = self.reject_hint;
        message.context = self.context.into();
        message.priority = self.priority;
        let mut entries = Vec::with_capacity(self.entries.len());
        let appends = kind == MessageType::MsgAppend;
        for (nth, entry) in self.entries.iter().enumerate() {
            let bytes = entry.bytes as usize;
            // Appended entries follow one another from the one that they are matched against.
            if bytes > body.len() || (appends && Some(entry.index) != self.index.checked_add(1 + nth as u64)) {
                return None;
            }
            let mut converted = eraftpb::Entry::default();
            converted.set_entry_type(type_of(entry.kind)?);
            converted.term = entry.term;
            converted.index = entry.index;
            // In memory of their own: a part of the body would keep all of it, for as long as the log keeps the entry.
            converted.data = Bytes::copy_from_slice(&body.split_to(bytes));
            entries.push(converted);
        }
        // A read carries its context as the one entry; Raft indexes it without asking.
        if matches!(kind, MessageType::MsgReadIndex | MessageType::MsgReadIndexResp) && entries.len() != 1 {
            return None;
        }
        message.set_entries(entries.into());
        if kind == MessageType::MsgSnapshot {
            let offer = self.snapshot?;
            if offer.index == 0 || offer.members.group != self.group || !offer.members.is_sound() {
                return None;
            }
            message.set_snapshot(offer.to_raft());
        }
        Some(message)
    }
}

impl SnapshotOffer {
    /// The offer as Raft carries it: its own metadata, and all of it as the data.
    pub(crate) fn to_raft(&self) -> eraftpb::Snapshot {
        let mut snapshot = eraftpb::Snapshot { data: wire::encode(self).into(), ..eraftpb::Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.index;
        metadata.term = self.term;
        metadata.set_conf_state(self.members.to_raft());
        snapshot
    }
}

/// A command as it stands in an entry: version (1), whether a session follows (1), writer, counter and lowest
/// unfinished (8 each, little endian), then the command.
pub(crate) fn encode_command(session: Option<SessionWord>, command: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(command.len() + 26);
    data.push(wire::FORMAT_VERSION);
    data.push(u8::from(session.is_some()));
    if let Some(session) = session {
        data.extend_from_slice(&session.writer.to_le_bytes());
        data.extend_from_slice(&session.counter.to_le_bytes());
        data.extend_from_slice(&session.lowest_unfinished.to_le_bytes());
    }
    data.extend_from_slice(command);
    data
}

/// Take apart what [`encode_command`] made.
pub(crate) fn decode_command(data: &[u8]) -> Option<(Option<SessionWord>, &[u8])> {
    let ([version, session], rest) = data.split_first_chunk::<2>()?;
    if *version != wire::FORMAT_VERSION {
        return None;
    }
    match session {
        0 => Some((None, rest)),
        1 => {
            let (writer, rest) = rest.split_first_chunk()?;
            let (counter, rest) = rest.split_first_chunk()?;
            let (lowest, command) = rest.split_first_chunk()?;
            let session = SessionWord {
                writer: u64::from_le_bytes(*writer),
                counter: u64::from_le_bytes(*counter),
                lowest_unfinished: u64::from_le_bytes(*lowest),
            };
            Some((Some(session), command))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{GroupSpec, ReplicaPlace};
    use protocol::NodeId;
    use quickcheck::quickcheck;

    fn append() -> eraftpb::Message {
        let mut message = eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.to, message.from, message.term, message.log_term, message.index) = (2, 1, 5, 4, 10);
        let entry =
            |index, data: &'static [u8]| eraftpb::Entry { term: 5, index, data: Bytes::from_static(data), ..eraftpb::Entry::default() };
        let mut change = entry(13, b"three");
        change.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
        message.set_entries(vec![entry(11, b"one"), entry(12, b""), change].into());
        message
    }

    fn offer() -> SnapshotOffer {
        let place = ReplicaPlace { replica: ReplicaId(1), node: NodeId(1), drive: DriveId(1) };
        let members = Members::founding(&GroupSpec { group: GroupId(3), voters: vec![place] });
        SnapshotOffer { index: 9, term: 2, members, token: 1, state_hash: 0, marks: vec![(8, 3)] }
    }

    quickcheck! {
        /// A frame of which bytes were changed on the way, or of a hostile node.
        fn no_bytes_make_a_frame_stumble(changes: Vec<(u16, u8)>, cut: u8) -> bool {
            let mut body = Vec::new();
            let mut snapshot = append();
            snapshot.set_msg_type(MessageType::MsgSnapshot);
            snapshot.set_snapshot(offer().to_raft());
            let messages = [append(), snapshot].map(|message| Message::from_raft(GroupId(3), message, &mut body).unwrap());
            let members = Box::new(offer().members);
            let gone = Note::Gone { group: GroupId(3), to: ReplicaId(2), from: ReplicaId(1), members };
            let mut bytes = wire::encode(&Frame { messages: messages.to_vec(), notes: vec![gone] });
            let length = bytes.len();
            for (at, byte) in changes.iter().take(4) {
                bytes[usize::from(*at) % length] = *byte;
            }
            bytes.truncate(length - usize::from(cut % 4));
            let mut body = Bytes::from(body.concat());
            for message in wire::decode::<Frame>(&bytes).map(|frame| frame.messages).unwrap_or_default() {
                let Some(message) = message.into_raft(&mut body) else { break };
                if message.get_msg_type() == MessageType::MsgSnapshot {
                    assert!(wire::decode::<SnapshotOffer>(&message.get_snapshot().data).unwrap().members.is_sound());
                }
            }
            true
        }
    }

    #[test]
    fn raft_messages_survive_the_way_there_and_back() {
        let mut body = Vec::new();
        let message = Message::from_raft(GroupId(3), append(), &mut body).unwrap();
        let encoded = wire::encode(&Frame { messages: vec![message], notes: Vec::new() });
        let mut body = Bytes::from(body.concat());
        let mut frame: Frame = wire::decode(&encoded).unwrap();
        assert_eq!(frame.messages.pop().unwrap().into_raft(&mut body), Some(append()));
        assert!(body.is_empty());
    }

    #[test]
    fn what_raft_would_stumble_over_is_refused() {
        let convert = |change: &dyn Fn(&mut Message)| {
            let mut body = Vec::new();
            let mut message = Message::from_raft(GroupId(3), append(), &mut body).unwrap();
            change(&mut message);
            message.into_raft(&mut Bytes::from(body.concat()))
        };
        assert!(convert(&|_| {}).is_some());
        assert!(convert(&|message| message.kind = 200).is_none());
        assert!(convert(&|message| message.term = 0).is_none());
        assert!(convert(&|message| message.index = 11).is_none());
        assert!(convert(&|message| message.index = u64::MAX).is_none());
        assert!(convert(&|message| message.entries[0].bytes = 1 << 30).is_none());
        assert!(convert(&|message| message.entries[1].kind = 2).is_none(), "an entry of a kind that there is not");
        assert!(convert(&|message| message.kind = 8).is_none(), "a read with three entries");
        assert!(convert(&|message| message.kind = 4).is_none(), "a snapshot without an offer");
        let mut offered = append();
        offered.set_msg_type(MessageType::MsgSnapshot);
        offered.set_snapshot(offer().to_raft());
        let offers = |change: &dyn Fn(&mut SnapshotOffer)| {
            let mut body = Vec::new();
            let mut message = Message::from_raft(GroupId(3), offered.clone(), &mut body).unwrap();
            change(message.snapshot.as_mut().unwrap());
            message.into_raft(&mut Bytes::from(body.concat())).is_some()
        };
        assert!(offers(&|_| {}));
        assert!(!offers(&|offer| offer.index = 0));
        assert!(!offers(&|offer| offer.members.group = GroupId(4)), "of another group");
        assert!(!offers(&|offer| offer.members.voters.clear()), "of a configuration that cannot be");
        let mut local = eraftpb::Message::default();
        local.set_msg_type(MessageType::MsgHup);
        assert!(Message::from_raft(GroupId(3), local, &mut Vec::new()).is_none());
    }

    #[test]
    fn golden_bytes_of_a_command() {
        let session = SessionWord { writer: 2, counter: 3, lowest_unfinished: 1 };
        let encoded = encode_command(Some(session), b"x");
        assert_eq!(encoded, [1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'x']);
        assert_eq!(decode_command(&encoded), Some((Some(session), b"x".as_slice())));
        assert_eq!(decode_command(&encode_command(None, b"y")), Some((None, b"y".as_slice())));
        assert_eq!(decode_command(&[9, 0]), None);
    }
}
