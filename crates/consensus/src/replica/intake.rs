//! What a replica takes: commands while it leads, and what its leader appends, as far as there is memory for it.

use super::{DISPUTED, PROPOSALS_MAX, Proposal, Replica, UNCOMMITTED_BYTES_MAX, Waiter};
use crate::store::{weight, weight_of};
use crate::wire::Answer;
use bytes::Bytes;
use raft::eraftpb::Message;

impl Replica {
    /// Propose an encoded command; the waiter is answered when it is applied, or certainly never will be.
    pub(crate) fn propose(&mut self, data: Vec<u8>, waiter: Waiter) {
        // Whoever asked has given up. It was never taken, so it is as if it had never come.
        if waiter.is_closed() {
            return;
        }
        if self.disputed {
            let _ = waiter.send((Answer::Failed, Bytes::from_static(DISPUTED.as_bytes())));
            return;
        }
        if !self.leads() {
            let _ = waiter.send((Answer::NotLeader { leader: self.leader() }, Bytes::new()));
            return;
        }
        let uncommitted = self.raw.raft.uncommitted_size();
        let full = uncommitted > 0 && uncommitted + data.len() > UNCOMMITTED_BYTES_MAX as usize;
        let store = self.raw.store();
        let bytes = weight_of(data.len());
        let crowded = !store.share().admits(store.held(), bytes);
        if crowded {
            runtime::probe!("consensus-command-refused-for-memory");
            self.give_back();
        }
        if self.proposals.len() >= PROPOSALS_MAX || full || crowded {
            let _ = waiter.send((Answer::Busy, Bytes::new()));
            return;
        }
        let before = self.raw.raft.raft_log.last_index();
        match self.raw.propose(Vec::new(), data) {
            Ok(()) => {
                let index = self.raw.raft.raft_log.last_index();
                assert_eq!(index, before + 1, "a leader appends what it takes");
                self.proposals.insert(index, Proposal { term: self.raw.raft.term, waiter });
                self.raw.mut_store().expect(bytes);
            }
            Err(_) => {
                // Leadership is being handed over, or too much is uncommitted.
                let answer = if self.raw.raft.lead_transferee.is_some() { Answer::Dropped } else { Answer::Busy };
                let _ = waiter.send((answer, Bytes::new()));
            }
        }
    }

    /// Take from an append the entries for which there is no room, as if they had not been sent: the leader hears up to where this replica
    /// is, and sends the rest again.
    ///
    /// None is withheld for ever, as no room is asked for unless what is held goes away without more entries: what is committed is
    /// applied and made durable, and what is of this leader's own term it may commit as soon as most have it. What earlier leaders left here
    /// and nobody knows to be committed stays until an entry of this leader follows it.
    pub(crate) fn shorten(&mut self, message: &mut Message) {
        let (log, store) = (&self.raw.raft.raft_log, self.raw.store());
        let last = log.last_index();
        if last > log.committed && log.term(last).unwrap_or(0) != message.term {
            return;
        }
        let room = store.share().room(store.held());
        // What is here already takes no room; and one entry must find some, however large it is.
        let mut kept = message.entries.iter().take_while(|entry| entry.index <= last).count();
        let (mut taken, mut first) = (0, store.held() == 0);
        while let Some(entry) = message.entries.get(kept)
            && (first || taken + weight(entry) <= room)
        {
            first = false;
            taken += weight(entry);
            kept += 1;
        }
        self.raw.mut_store().expect(taken);
        if kept < message.entries.len() {
            runtime::probe!("consensus-append-shortened");
            message.entries.truncate(kept);
            self.give_back();
        }
    }

    /// There was no room: what is applied is made durable in the state without delay, so that it need not be kept.
    fn give_back(&mut self) {
        self.checkpoint_wanted |= self.applied > self.durable;
    }
}
