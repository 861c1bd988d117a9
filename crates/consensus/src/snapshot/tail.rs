//! What a group commits while a snapshot of it is fetched: entries, kept in a file beside the rows until these are whole.
//!
//! Each frame: CRC-32C (4, little endian) of the rest, length of the entries' heads (4), heads, data. Where the frames are is known in memory
//! alone: a fetch that is cut short begins anew, and the file goes with the next start.

use crate::state::Error;
use crate::wire::{Entry, join_entries};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use protocol::wire::{decode, encode};
use raft::eraftpb;
use runtime::disk::{self, Disk, DiskFile, Open};
use std::collections::VecDeque;
use std::sync::Arc;

/// Entries that follow one another. Calls block on the drive, but for the counts.
pub(super) struct Tail {
    disk: Arc<dyn Disk>,
    name: String,
    file: Arc<dyn DiskFile>,
    /// Offset and length of what was not taken yet.
    frames: VecDeque<(u64, usize)>,
    end: u64,
}

impl Tail {
    /// An empty one; a leftover of that name is replaced.
    pub(super) fn create(disk: Arc<dyn Disk>, name: String) -> Result<Tail, disk::Error> {
        let file = disk.open(&name, Open::OrNew)?;
        file.set_len(0)?;
        Ok(Tail { disk, name, file, frames: VecDeque::new(), end: 0 })
    }

    /// Add entries, as they travel.
    pub(super) fn push(&mut self, heads: &[Entry], data: &[u8]) -> Result<(), Error> {
        if self.frames.is_empty() {
            self.end = 0;
        }
        let heads = encode(heads);
        let mut frame = vec![0; 4];
        frame.extend_from_slice(&u32::try_from(heads.len()).expect("an answer is bounded").to_le_bytes());
        frame.extend_from_slice(&heads);
        frame.extend_from_slice(data);
        let sum = checksum(CrcAlgorithm::Crc32Iscsi, &frame[4..]) as u32;
        frame[..4].copy_from_slice(&sum.to_le_bytes());
        self.file.write_at(self.end, &frame)?;
        self.frames.push_back((self.end, frame.len()));
        self.end += frame.len() as u64;
        Ok(())
    }

    /// The oldest entries that were added at once, which are forgotten; `None` if there are none.
    pub(super) fn pop(&mut self) -> Result<Option<Vec<eraftpb::Entry>>, Error> {
        let Some((offset, length)) = self.frames.pop_front() else { return Ok(None) };
        let mut frame = vec![0; length];
        self.file.read_at(offset, &mut frame)?;
        let damaged = || Error::of_sender("what follows it did not come back from the drive as it was written");
        let (sum, rest) = frame.split_first_chunk::<4>().ok_or_else(damaged)?;
        if u32::from_le_bytes(*sum) != checksum(CrcAlgorithm::Crc32Iscsi, rest) as u32 {
            return Err(damaged());
        }
        let (heads, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (heads, data) = rest.split_at_checked(u32::from_le_bytes(*heads) as usize).ok_or_else(damaged)?;
        let heads: Vec<Entry> = decode(heads).map_err(|_| damaged())?;
        join_entries(heads, Bytes::copy_from_slice(data)).map(Some).ok_or_else(damaged)
    }

    /// Length of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// How often entries were added that were not taken yet.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Remove the file. If this is never called, or fails, the next opening of the replica does it.
    pub(super) fn remove(&self) {
        let _ = self.disk.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::MemoryDisk;
    use crate::wire::split_entries;

    fn entries(indices: std::ops::Range<u64>) -> Vec<eraftpb::Entry> {
        let data = |index: u64| Bytes::from(vec![index as u8; index as usize % 7]);
        indices.map(|index| eraftpb::Entry { index, term: 1 + index / 4, data: data(index), ..eraftpb::Entry::default() }).collect()
    }

    fn push(tail: &mut Tail, entries: &[eraftpb::Entry]) {
        let mut body = Vec::new();
        let heads = split_entries(entries, &mut body);
        tail.push(&heads, &body.concat()).unwrap();
    }

    #[test]
    fn entries_come_back_in_order_and_the_file_goes() {
        let disk: Arc<MemoryDisk> = Arc::default();
        let mut tail = Tail::create(disk.clone(), "raft/some.tail".to_owned()).unwrap();
        assert_eq!(tail.pop().unwrap(), None);
        push(&mut tail, &entries(5..9));
        push(&mut tail, &entries(9..10));
        assert_eq!(tail.pop().unwrap(), Some(entries(5..9)));
        push(&mut tail, &entries(10..30));
        assert_eq!(tail.pop().unwrap(), Some(entries(9..10)));
        assert_eq!(tail.pop().unwrap(), Some(entries(10..30)));
        assert_eq!(tail.pop().unwrap(), None);
        tail.remove();
        assert!(disk.open("raft/some.tail", Open::Existing).is_err());
    }

    #[test]
    fn a_bit_that_rots_is_an_error() {
        let disk: Arc<MemoryDisk> = Arc::default();
        let length = {
            let mut tail = Tail::create(disk.clone(), "raft/some.tail".to_owned()).unwrap();
            push(&mut tail, &entries(5..9));
            disk.bytes("raft/some.tail").len()
        };
        for at in 0..length {
            let mut tail = Tail::create(disk.clone(), "raft/some.tail".to_owned()).unwrap();
            push(&mut tail, &entries(5..9));
            let mut rotten = disk.bytes("raft/some.tail");
            rotten[at] ^= 1 << (at % 8);
            disk.set("raft/some.tail", rotten);
            assert!(tail.pop().is_err(), "byte {at}");
        }
    }
}
