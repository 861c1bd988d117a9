//! A state's file as redb sees it, each block proved against its sum. redb believes whatever bytes a drive shows: a rotten key hides its row,
//! a rotten pointer leads to rows of long ago, and nothing of that fails the checksum of a row.
//!
//! Always holds: bytes that redb gets are those that it wrote there last. Others are an error, like a sector that cannot be read.
//!
//! Sums become durable with what they are of, in the same sync, and never before it is asked for. A power cut may keep the ones without the
//! others: of pages that the last checkpoint does not name, and that nobody reads as long as every commit that lasts is made in two phases. The
//! header alone changes in place; it stands in one sector with its sum.
//!
//! Calls block on the drive.

use crc_fast::{CrcAlgorithm, Digest, checksum};
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What has a sum: redb's smallest page. It reads and writes whole ones, but for its header.
const BLOCK_BYTES: u64 = 4096;
/// Blocks behind each block of sums.
const GROUP_BLOCKS: u64 = BLOCK_BYTES / 4;
/// The header with its sum at its end: what a drive writes wholly or not at all.
const HEADER_BYTES: usize = 512;
const HEADER_PAYLOAD_BYTES: usize = HEADER_BYTES - 4;

/// Sums that were read or made, by group. They take a thousandth of what their blocks take.
type Groups = BTreeMap<u64, Group>;

struct Group {
    /// 0 for a block that was never written.
    sums: Vec<u32>,
    /// Not written since it changed.
    dirty: bool,
}

/// A storage with sums.
pub(crate) struct Summed<B> {
    inner: B,
    groups: Mutex<Groups>,
    /// From when it is set nothing is written.
    closed: Arc<AtomicBool>,
}

/// Blocks that follow each other in one group.
struct Run {
    group: u64,
    /// The first of them, in the group.
    within: usize,
    /// Number of the first of them, from the header on.
    block: u64,
    bytes: usize,
}

impl Run {
    /// Where it stands in the file.
    fn offset(&self) -> u64 {
        offset_of(self.group) + (1 + self.within as u64) * BLOCK_BYTES
    }
}

/// Where the sums of a group stand.
fn offset_of(group: u64) -> u64 {
    BLOCK_BYTES + group * (1 + GROUP_BLOCKS) * BLOCK_BYTES
}

/// The length of the file that holds `blocks`, in blocks.
fn with_sums(blocks: u64) -> u64 {
    blocks + blocks.saturating_sub(1).div_ceil(GROUP_BLOCKS)
}

/// How many blocks a file of so many holds.
fn without_sums(blocks: u64) -> u64 {
    blocks - blocks.saturating_sub(1).div_ceil(1 + GROUP_BLOCKS)
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The runs of `bytes` from `offset` on, in order.
fn runs(offset: u64, bytes: usize) -> io::Result<impl Iterator<Item = Run>> {
    if offset < BLOCK_BYTES || !offset.is_multiple_of(BLOCK_BYTES) || !(bytes as u64).is_multiple_of(BLOCK_BYTES) {
        return Err(invalid(format!("{bytes} bytes at {offset} are no blocks")));
    }
    let end = (offset + bytes as u64) / BLOCK_BYTES;
    let mut next = offset / BLOCK_BYTES;
    Ok(std::iter::from_fn(move || {
        let block = next;
        let (group, within) = ((block - 1) / GROUP_BLOCKS, (block - 1) % GROUP_BLOCKS);
        let count = (GROUP_BLOCKS - within).min(end - block);
        next += count;
        (count > 0).then_some(Run { group, within: within as usize, block, bytes: (count * BLOCK_BYTES) as usize })
    }))
}

/// Sums of the blocks in `bytes`, the first of which is number `block`: one that stands elsewhere has another one.
fn sums_of(block: u64, bytes: &[u8]) -> Vec<u32> {
    let sum = |(number, content): (u64, &[u8])| {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&number.to_le_bytes());
        digest.update(content);
        (digest.finalize() as u32).max(1)
    };
    (block..).zip(bytes.chunks(BLOCK_BYTES as usize)).map(sum).collect()
}

fn header_sum(header: &[u8; HEADER_BYTES]) -> [u8; 4] {
    (checksum(CrcAlgorithm::Crc32Iscsi, &header[..HEADER_PAYLOAD_BYTES]) as u32).to_le_bytes()
}

impl<B: StorageBackend> Summed<B> {
    pub(crate) fn new(inner: B, closed: Arc<AtomicBool>) -> Summed<B> {
        Summed { inner, groups: Mutex::default(), closed }
    }

    fn check_open(&self) -> io::Result<()> {
        match self.closed.load(Ordering::Relaxed) {
            true => Err(io::Error::other("it is closed")),
            false => Ok(()),
        }
    }

    /// The groups, with the sums of `group` among them.
    fn group(&self, group: u64) -> io::Result<MutexGuard<'_, Groups>> {
        let mut groups = self.groups.lock().expect("nothing panics under this lock");
        if let Entry::Vacant(place) = groups.entry(group) {
            let mut bytes = vec![0; BLOCK_BYTES as usize];
            self.inner.read(offset_of(group), &mut bytes)?;
            let sums = bytes.chunks_exact(4).map(|sum| u32::from_le_bytes(sum.try_into().expect("four bytes")));
            place.insert(Group { sums: sums.collect(), dirty: false });
        }
        Ok(groups)
    }

    fn read_header(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        let within = offset as usize..offset as usize + out.len();
        if within.end > HEADER_PAYLOAD_BYTES {
            return Err(invalid(format!("the header is shorter than {} bytes", within.end)));
        }
        self.inner.read(0, &mut header)?;
        if header[HEADER_PAYLOAD_BYTES..] != header_sum(&header) && !runtime::planted("rotten-page-believed") {
            runtime::probe!("consensus-rotten-page-found");
            return Err(invalid("the header fails its checksum"));
        }
        out.copy_from_slice(&header[within]);
        Ok(())
    }

    fn write_header(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset != 0 || bytes.len() > HEADER_PAYLOAD_BYTES {
            return Err(invalid(format!("{} bytes at {offset} are no header", bytes.len())));
        }
        let mut header = [0; HEADER_BYTES];
        header[..bytes.len()].copy_from_slice(bytes);
        let sum = header_sum(&header);
        header[HEADER_PAYLOAD_BYTES..].copy_from_slice(&sum);
        self.inner.write(0, &header)
    }
}

impl<B> std::fmt::Debug for Summed<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Summed(..)")
    }
}

impl<B: StorageBackend> StorageBackend for Summed<B> {
    fn len(&self) -> Result<u64, io::Error> {
        let bytes = self.inner.len()?;
        if !bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(invalid(format!("{bytes} bytes are no whole blocks")));
        }
        Ok(without_sums(bytes / BLOCK_BYTES) * BLOCK_BYTES)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        if offset < BLOCK_BYTES {
            return self.read_header(offset, out);
        }
        let mut rest = out;
        for run in runs(offset, rest.len())? {
            let (part, behind) = rest.split_at_mut(run.bytes);
            rest = behind;
            self.inner.read(run.offset(), part)?;
            let found = sums_of(run.block, part);
            let groups = self.group(run.group)?;
            let known = &groups[&run.group].sums[run.within..];
            if let Some(wrong) = found.iter().zip(known).position(|(found, known)| found != known)
                && !runtime::planted("rotten-page-believed")
            {
                runtime::probe!("consensus-rotten-page-found");
                return Err(invalid(format!("block {} fails its checksum", run.block + wrong as u64)));
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.check_open()?;
        if !len.is_multiple_of(BLOCK_BYTES) {
            return Err(invalid(format!("{len} bytes are no whole blocks")));
        }
        let blocks = with_sums(len / BLOCK_BYTES);
        self.inner.set_len(blocks * BLOCK_BYTES)?;
        // Written, they would make the file longer.
        self.groups.lock().expect("nothing panics under this lock").retain(|group, _| offset_of(*group) < blocks * BLOCK_BYTES);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.check_open()?;
        for (number, group) in self.groups.lock().expect("nothing panics under this lock").iter_mut().filter(|(_, group)| group.dirty) {
            let bytes: Vec<u8> = group.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            self.inner.write(offset_of(*number), &bytes)?;
            group.dirty = false;
        }
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.check_open()?;
        if offset < BLOCK_BYTES {
            return self.write_header(offset, data);
        }
        let mut rest = data;
        for run in runs(offset, rest.len())? {
            let (part, behind) = rest.split_at(run.bytes);
            rest = behind;
            self.inner.write(run.offset(), part)?;
            let sums = sums_of(run.block, part);
            let mut groups = self.group(run.group)?;
            let group = groups.get_mut(&run.group).expect("it is among them");
            group.sums[run.within..run.within + sums.len()].copy_from_slice(&sums);
            group.dirty = true;
        }
        Ok(())
    }

    fn close(&self) -> Result<(), io::Error> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::log::tests::MemoryDisk;
    use crate::rows::ROWS;
    use redb::{ReadableDatabase, ReadableTable};
    use runtime::disk::{Disk, Open};

    const NAME: &str = "raft/state";

    fn database(disk: &MemoryDisk) -> Result<redb::Database, redb::DatabaseError> {
        let file = disk.open(NAME, Open::OrNew).unwrap();
        redb::Builder::new().set_cache_size(64 << 10).create_with_backend(Summed::new(Backend(file), Arc::default()))
    }

    /// Write `rows` rows with values of `bytes`, durably.
    fn write(database: &redb::Database, rows: std::ops::Range<u32>, bytes: usize) {
        let mut transaction = database.begin_write().unwrap();
        transaction.set_quick_repair(true);
        {
            let mut table = transaction.open_table(ROWS).unwrap();
            for row in rows {
                table.insert(row.to_be_bytes().as_slice(), vec![row as u8; bytes].as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
    }

    type Content = Vec<(Vec<u8>, Vec<u8>)>;

    fn content(database: &redb::Database) -> Result<Content, redb::Error> {
        let mut content = Content::new();
        for row in database.begin_read()?.open_table(ROWS)?.iter()? {
            let (key, value) = row?;
            content.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(content)
    }

    #[test]
    fn lengths_come_back_and_blocks_stand_behind_their_sums() {
        for blocks in (0..5).chain(1020..1030).chain(2045..2055).chain([1 << 20]) {
            assert_eq!(without_sums(with_sums(blocks)), blocks, "{blocks}");
        }
        assert_eq!([0, 1, 2, 1025, 1026].map(with_sums), [0, 1, 3, 1026, 1028]);
        // From the last of a group on.
        let parts: Vec<_> =
            runs(1024 * BLOCK_BYTES, 2 * BLOCK_BYTES as usize).unwrap().map(|run| (run.group, run.within, run.bytes)).collect();
        assert_eq!(parts, [(0, 1023, 4096), (1, 0, 4096)]);
        let last = runs(1024 * BLOCK_BYTES, BLOCK_BYTES as usize).unwrap().next().unwrap();
        assert_eq!((last.offset() + BLOCK_BYTES, offset_of(1) + BLOCK_BYTES), (offset_of(1), (with_sums(1026) - 1) * BLOCK_BYTES));
        assert!(runs(100, 4096).is_err() && runs(4096, 100).is_err() && runs(0, 4096).is_err());
    }

    #[test]
    fn a_database_of_several_groups_grows_shrinks_and_is_opened_again() {
        let disk = MemoryDisk::default();
        let first = database(&disk).unwrap();
        write(&first, 0..3000, 3000);
        let all = content(&first).unwrap();
        assert_eq!(all.len(), 3000);
        drop(first);
        let again = database(&disk).unwrap();
        assert_eq!(content(&again).unwrap(), all);
        let transaction = again.begin_write().unwrap();
        transaction.open_table(ROWS).unwrap().retain(|key, _| key < [0, 0, 0, 9].as_slice()).unwrap();
        transaction.commit().unwrap();
        let mut again = again;
        again.compact().unwrap();
        assert!(disk.open(NAME, Open::Existing).unwrap().len().unwrap() < 4 << 20);
        write(&again, 9..3000, 3000);
        assert_eq!(content(&again).unwrap(), all);
    }

    #[test]
    fn no_bit_that_rots_anywhere_gives_another_row_or_none() {
        let disk = MemoryDisk::default();
        let written = database(&disk).unwrap();
        write(&written, 0..400, 40);
        write(&written, 400..500, 6000);
        let all = content(&written).unwrap();
        drop(written);
        let bytes = disk.bytes(NAME);
        let mut found = 0;
        // Every block several times, other bytes of it each time.
        for at in (0..bytes.len()).step_by(677) {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1 << (at % 8);
            if rotten == bytes || bytes[at] == 0 {
                continue;
            }
            disk.set(NAME, rotten);
            // Nothing panics either: redb sees what it wrote, or an error.
            match database(&disk).map_err(redb::Error::from).and_then(|database| content(&database)) {
                Ok(read) => assert!(read == all, "byte {at}"),
                Err(_) => found += 1,
            }
        }
        assert!(found > 300, "{found}");
    }

    #[test]
    fn what_stands_elsewhere_and_what_stood_there_before_is_not_believed() {
        let disk = MemoryDisk::default();
        let file = Summed::new(Backend(disk.open(NAME, Open::OrNew).unwrap()), Arc::default());
        let block = |filled: u8| vec![filled; BLOCK_BYTES as usize];
        file.set_len(8 * BLOCK_BYTES).unwrap();
        file.write(0, b"header").unwrap();
        (1..8).for_each(|number| file.write(number * BLOCK_BYTES, &block(number as u8)).unwrap());
        file.sync_data().unwrap();
        let before = disk.bytes(NAME);
        file.write(5 * BLOCK_BYTES, &block(55)).unwrap();
        file.sync_data().unwrap();
        let show = |change: &dyn Fn(&mut Vec<u8>), number: u64| {
            let good = disk.bytes(NAME);
            let mut shown = good.clone();
            change(&mut shown);
            disk.set(NAME, shown);
            let mut out = block(0);
            let read = Summed::new(Backend(disk.open(NAME, Open::Existing).unwrap()), Arc::default()).read(number * BLOCK_BYTES, &mut out);
            disk.set(NAME, good);
            read.is_ok().then(|| out[0])
        };
        let place = |number: usize| (number + 1) << 12..(number + 2) << 12;
        assert_eq!((show(&|_| {}, 5), show(&|_| {}, 4)), (Some(55), Some(4)));
        // A write that never came, and one that went elsewhere.
        assert_eq!(show(&|shown| shown[place(5)].copy_from_slice(&before[place(5)]), 5), None);
        assert_eq!(show(&|shown| shown[place(4)].copy_from_slice(&before[place(3)]), 4), None);
        assert_eq!(show(&|shown| shown[place(4)].copy_from_slice(&before[place(3)]), 3), Some(3));
    }
}
