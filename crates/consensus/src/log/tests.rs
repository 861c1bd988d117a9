//! The log against torn tails and rot, on a drive in memory.

use super::*;
use runtime::disk::{self, Entry as FileEntry, Lane, Space};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A drive in memory. Names are durable at once, bytes when they are synced. Damage is done to its bytes by the tests.
#[derive(Default)]
pub(crate) struct MemoryDisk {
    files: Mutex<BTreeMap<String, Content>>,
    /// Bytes as of the last sync, by file.
    durable: Durable,
    /// Syncs fail: the process is killed before them.
    killed: Arc<AtomicBool>,
}

struct MemoryFile {
    content: Content,
    durable: Durable,
    killed: Arc<AtomicBool>,
}

type Content = Arc<Mutex<Vec<u8>>>;
/// Bytes as of the last sync, by file.
type Durable = Arc<Mutex<Vec<(Content, Vec<u8>)>>>;

impl MemoryDisk {
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        self.files.lock().unwrap()[name].lock().unwrap().clone()
    }

    pub(crate) fn set(&self, name: &str, bytes: Vec<u8>) {
        *self.files.lock().unwrap()[name].lock().unwrap() = bytes;
    }

    /// A drive with equal content.
    fn copy(&self) -> Arc<MemoryDisk> {
        let files = self.files.lock().unwrap();
        let copied = files.iter().map(|(name, bytes)| (name.clone(), Arc::new(Mutex::new(bytes.lock().unwrap().clone()))));
        Arc::new(MemoryDisk { files: Mutex::new(copied.collect()), ..MemoryDisk::default() })
    }

    /// From now on the process dies before any sync.
    fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    /// The process starts again: the system still holds all that was written.
    fn start_again(&self) {
        self.killed.store(false, Ordering::Relaxed);
    }

    /// Only what was synced is left.
    fn cut_power(&self) {
        let durable = self.durable.lock().unwrap();
        for content in self.files.lock().unwrap().values() {
            let kept = durable.iter().find(|(file, _)| Arc::ptr_eq(file, content));
            let mut content = content.lock().unwrap();
            let length = content.len();
            *content = kept.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
            content.resize(length, 0);
        }
    }

    fn segments(&self) -> Vec<String> {
        self.files.lock().unwrap().keys().filter(|name| name.contains("log-")).cloned().collect()
    }
}

impl Disk for MemoryDisk {
    fn label(&self) -> &str {
        "memory"
    }

    fn open(&self, name: &str, how: Open) -> disk::Result<Arc<dyn DiskFile>> {
        let mut files = self.files.lock().unwrap();
        if how == Open::Existing && !files.contains_key(name) {
            return Err(disk::Error::NotFound { drive: "memory".into(), name: name.into() });
        }
        assert!(how != Open::New || !files.contains_key(name), "{name} exists");
        let content = files.entry(name.into()).or_default().clone();
        Ok(Arc::new(MemoryFile { content, durable: self.durable.clone(), killed: self.killed.clone() }))
    }

    fn list(&self, folder: &str) -> disk::Result<Vec<FileEntry>> {
        let files = self.files.lock().unwrap();
        let inside = files.iter().filter_map(|(name, bytes)| {
            let name = name.strip_prefix(folder)?.strip_prefix('/')?.to_owned();
            Some(FileEntry { name, bytes: bytes.lock().unwrap().len() as u64 })
        });
        Ok(inside.collect())
    }

    fn create_folder(&self, _: &str) -> disk::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> disk::Result<()> {
        let mut files = self.files.lock().unwrap();
        let file = files.remove(from).expect("renamed files exist");
        files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> disk::Result<()> {
        self.files.lock().unwrap().remove(name).expect("removed files exist");
        Ok(())
    }

    fn sync_dir(&self, _: &str) -> disk::Result<()> {
        Ok(())
    }

    fn space(&self) -> disk::Result<Space> {
        Ok(Space { total: 1 << 30, free: 1 << 30 })
    }

    fn watch(&self, _: &str) -> disk::Result<()> {
        Ok(())
    }

    fn verify(&self) -> disk::Result<()> {
        Ok(())
    }

    fn close(&self, _: &str) {}

    fn closed(&self) -> Option<String> {
        None
    }

    fn submit(&self, _: Lane, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, target: &mut [u8]) -> disk::Result<()> {
        target.copy_from_slice(&self.content.lock().unwrap()[offset as usize..offset as usize + target.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> disk::Result<()> {
        let mut content = self.content.lock().unwrap();
        let end = offset as usize + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn len(&self) -> disk::Result<u64> {
        Ok(self.content.lock().unwrap().len() as u64)
    }

    fn set_len(&self, bytes: u64) -> disk::Result<()> {
        self.content.lock().unwrap().resize(bytes as usize, 0);
        Ok(())
    }

    fn sync(&self) -> disk::Result<()> {
        if self.killed.load(Ordering::Relaxed) {
            return Err(disk::Error::Closed { drive: "memory".into(), reason: "killed".into() });
        }
        let mut durable = self.durable.lock().unwrap();
        durable.retain(|(file, _)| !Arc::ptr_eq(file, &self.content));
        durable.push((self.content.clone(), self.content.lock().unwrap().clone()));
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> disk::Result<()> {
        self.set_len(bytes)
    }

    fn punch(&self, _: u64, _: u64) -> disk::Result<()> {
        Ok(())
    }
}

const A: Key = Key { group: GroupId(1), replica: ReplicaId(11) };
const B: Key = Key { group: GroupId(2), replica: ReplicaId(22) };
const SEGMENT: u64 = 16 << 10;

fn entry(index: u64, term: u64, bytes: usize) -> raft::eraftpb::Entry {
    let data = vec![index as u8; bytes].into();
    raft::eraftpb::Entry { index, term, data, ..Default::default() }
}

fn record(key: Key, term: u64, entries: Vec<raft::eraftpb::Entry>) -> Record {
    Record { key, hard: Some(Hard { term, vote: 7, commit: 0 }), entries, ..Record::default() }
}

fn open(disk: &Arc<MemoryDisk>) -> Result<(Log, BTreeMap<Key, Recovered>), Error> {
    Log::open(disk.clone(), DriveId(3), SEGMENT, true, &[A, B])
}

fn indexes(recovered: &BTreeMap<Key, Recovered>, key: Key) -> Vec<u64> {
    recovered[&key].entries.keys().copied().collect()
}

/// A log with one batch per call of `write`.
fn written(batches: &[Vec<Record>]) -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::default());
    let (mut log, _) = open(&disk).unwrap();
    for batch in batches {
        log.write(batch).unwrap();
    }
    disk
}

#[test]
fn a_replica_whose_vote_is_not_known_may_have_voted() {
    assert!(!Recovered::default().is_blank());
    assert!(Recovered { hard: Some(Hard::default()), ..Recovered::default() }.is_blank());
    assert!(!Recovered { hard: Some(Hard { term: 1, vote: 0, commit: 0 }), ..Recovered::default() }.is_blank());
}

/// Sectors in use of the only segment.
fn used_sectors(disk: &MemoryDisk) -> usize {
    let bytes = disk.bytes(&disk.segments()[0]);
    bytes.chunks(SECTOR_BYTES).take_while(|sector| sector.iter().any(|byte| *byte != 0)).count()
}

fn two_batches() -> Arc<MemoryDisk> {
    written(&[
        vec![record(A, 1, vec![entry(1, 1, 700), entry(2, 1, 0)]), record(B, 5, vec![entry(1, 5, 600)])],
        vec![record(A, 2, vec![entry(3, 2, 1200)])],
    ])
}

#[test]
fn what_was_written_is_recovered_over_many_starts() {
    let disk = two_batches();
    for _ in 0..4 {
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!(indexes(&recovered, A), [1, 2, 3]);
        assert_eq!(indexes(&recovered, B), [1]);
        assert_eq!(recovered[&A].hard, Some(Hard { term: 2, vote: 7, commit: 0 }));
        assert_eq!(recovered[&A].entries[&3], entry(3, 2, 1200));
        assert!(recovered.values().all(|one| one.damage().is_none()));
    }
    assert!(disk.segments().len() <= 5);
}

#[test]
fn what_a_start_recovered_outlasts_a_power_cut_after_it() {
    let disk = two_batches();
    let (mut log, _) = open(&disk).unwrap();
    disk.kill();
    assert!(log.write(&[record(A, 2, vec![entry(4, 2, 900)])]).is_err());
    drop(log);
    disk.start_again();
    // What was written before the kill is there, and counts as acknowledged from now on.
    let (log, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered, A), [1, 2, 3, 4]);
    drop(log);
    disk.cut_power();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered, A), [1, 2, 3, 4], "{:?}", recovered[&A].damage());
}

#[test]
fn a_tail_torn_at_any_sector_is_cut_to_the_batch_before() {
    let whole = two_batches();
    let name = whole.segments()[0].clone();
    let used = used_sectors(&whole);
    let before = used_sectors(&written(&[two_batches_first()]));
    // Any subset of the last batch's sectors may be missing; single ones and all from one on stand for them.
    for missing in before..used {
        for to in [missing + 1, used] {
            let disk = whole.copy();
            let mut bytes = disk.bytes(&name);
            bytes[missing * SECTOR_BYTES..to * SECTOR_BYTES].fill(0);
            disk.set(&name, bytes);
            let (mut log, recovered) = open(&disk).unwrap();
            assert_eq!(indexes(&recovered, A), [1, 2], "sectors {missing}..{to} of {used}");
            assert_eq!(recovered[&A].hard.unwrap().term, 1);
            assert!(recovered.values().all(|one| one.damage().is_none()), "sectors {missing}..{to}");
            // The torn sectors never come back, whatever is written next.
            log.write(&[record(A, 9, vec![entry(3, 9, 10)])]).unwrap();
            let (_, recovered) = open(&disk).unwrap();
            assert_eq!(recovered[&A].entries[&3].term, 9);
            assert!(recovered.values().all(|one| one.damage().is_none()));
        }
    }
}

fn two_batches_first() -> Vec<Record> {
    vec![record(A, 1, vec![entry(1, 1, 700), entry(2, 1, 0)]), record(B, 5, vec![entry(1, 5, 600)])]
}

#[test]
fn one_rotten_sector_never_loses_a_vote_nor_an_entry_silently() {
    let whole = two_batches();
    let name = whole.segments()[0].clone();
    for rotten in 0..used_sectors(&whole) {
        let disk = whole.copy();
        let mut bytes = disk.bytes(&name);
        bytes[rotten * SECTOR_BYTES + 100] ^= 0x55;
        disk.set(&name, bytes);
        let (_, recovered) = open(&disk).unwrap();
        for (key, term, expected) in [(A, 2, vec![1, 2, 3]), (B, 5, vec![1])] {
            assert_eq!(recovered[&key].hard.unwrap().term, term, "sector {rotten}: a vote is in two sectors");
            let intact = indexes(&recovered, key) == expected;
            assert_ne!(intact, recovered[&key].damage().is_some(), "sector {rotten} {key}: lost or reported, never neither");
        }
        assert!(recovered.values().filter(|one| one.damage().is_some()).count() <= 2);
        // Damage is remembered.
        let damaged: Vec<Key> = recovered.iter().filter(|(_, one)| one.damage().is_some()).map(|(key, _)| *key).collect();
        let (_, again) = open(&disk).unwrap();
        assert!(damaged.iter().all(|key| again[key].damage().is_some()), "sector {rotten}");
    }
}

#[test]
fn a_batch_that_rotted_away_is_named_by_the_next_one() {
    let disk = two_batches();
    let (name, used) = (disk.segments()[0].clone(), used_sectors(&disk));
    let first = used_sectors(&written(&[]));
    let second = used_sectors(&written(&[two_batches_first()]));
    let mut bytes = disk.bytes(&name);
    for sector in first..second {
        bytes[sector * SECTOR_BYTES + 9] ^= 1;
    }
    disk.set(&name, bytes);
    assert!(used > second);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered[&A].lost, BTreeMap::from([(1, 1), (2, 1)]));
    assert_eq!(indexes(&recovered, A), [3]);
    assert_eq!(recovered[&B].lost, BTreeMap::from([(1, 5)]));
    assert_eq!(recovered[&A].hard.unwrap().term, 2, "the next batch has a newer one");
    assert_eq!(recovered[&B].hard.unwrap().term, 5, "the next batch repeats it");
    // So it is said by every later start, also when the damaged segment is gone.
    let (mut log, _) = open(&disk).unwrap();
    let lost = |first, count, term| vec![Run { first, count, term }];
    let (start, hard) = (Some(Start::default()), None);
    log.write(&[
        Record { key: A, hard, start, reset: true, lost: lost(1, 2, 1), entries: vec![], damaged: false, removed: false },
        Record { key: A, entries: vec![entry(3, 2, 1200)], ..Record::default() },
        Record { key: B, hard, start, reset: true, lost: lost(1, 1, 5), entries: vec![], damaged: false, removed: false },
    ])
    .unwrap();
    assert!(!disk.segments().contains(&name));
    for _ in 0..2 {
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!(recovered[&A].lost, BTreeMap::from([(1, 1), (2, 1)]));
        assert_eq!(indexes(&recovered, A), [3]);
        assert_eq!(recovered[&B].lost, BTreeMap::from([(1, 5)]));
    }
    // Until something takes their place.
    let (mut log, _) = open(&disk).unwrap();
    log.write(&[
        Record { key: A, start: Some(Start { index: 2, term: 1 }), ..Record::default() },
        Record { key: B, entries: vec![entry(1, 6, 1)], ..Record::default() },
    ])
    .unwrap();
    for _ in 0..2 {
        let (_, recovered) = open(&disk).unwrap();
        assert!(recovered.values().all(|one| one.damage().is_none()));
        assert_eq!((indexes(&recovered, A), indexes(&recovered, B)), (vec![3], vec![1]));
    }
}

#[test]
fn the_end_of_an_older_segment_that_rotted_away_is_not_silently_lost() {
    for (batch, sectors) in [(vec![record(B, 5, vec![])], 2), (vec![record(A, 2, vec![entry(4, 2, 0)])], 3)] {
        let disk = two_batches();
        let name = disk.segments()[0].clone();
        let (mut log, _) = open(&disk).unwrap();
        log.write(&batch).unwrap();
        // The next start begins another segment behind it.
        let older = disk.segments().last().unwrap().clone();
        drop(open(&disk).unwrap());
        assert_ne!(older, name);
        let bytes = disk.bytes(&older);
        let used = bytes.chunks(SECTOR_BYTES).take_while(|sector| sector.iter().any(|byte| *byte != 0)).count();
        for fill in [0, 0xee] {
            let disk = disk.copy();
            let mut bytes = bytes.clone();
            bytes[(used - sectors) * SECTOR_BYTES..used * SECTOR_BYTES].fill(fill);
            disk.set(&older, bytes);
            let (_, recovered) = open(&disk).unwrap();
            assert_eq!(recovered[&A].damage().is_some(), sectors == 3, "{:?}", recovered[&A].damage());
            // Votes stand at the beginning of the next segment once more.
            assert_eq!(recovered[&B].hard, Some(Hard { term: 5, vote: 7, commit: 0 }));
            assert!(recovered[&B].damage().is_none());
        }
    }
}

#[test]
fn a_last_batch_that_rotted_away_stops_the_drive() {
    let disk = two_batches();
    let (name, used) = (disk.segments()[0].clone(), used_sectors(&disk));
    let second = used_sectors(&written(&[two_batches_first()]));
    let mut bytes = disk.bytes(&name);
    for sector in second..used {
        bytes[sector * SECTOR_BYTES + 9] ^= 1;
    }
    disk.set(&name, bytes);
    assert!(matches!(open(&disk), Err(Error::Damaged { .. })));
}

#[test]
fn entries_are_replaced_from_the_first_new_one_on() {
    let disk =
        written(&[vec![record(A, 1, (1..=5).map(|index| entry(index, 1, 10)).collect())], vec![record(A, 2, vec![entry(3, 2, 10)])]]);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered, A), [1, 2, 3]);
    assert_eq!(recovered[&A].entries[&3].term, 2);
}

#[test]
fn segments_go_when_nothing_in_them_is_needed_and_are_used_again() {
    let disk = Arc::new(MemoryDisk::default());
    let (mut log, _) = open(&disk).unwrap();
    log.write(&[record(B, 1, vec![entry(1, 1, 10)])]).unwrap();
    for index in 1..=200 {
        log.write(&[record(A, 1, vec![entry(index, 1, 500)])]).unwrap();
        if index % 10 == 0 {
            let start = Some(Start { index: index - 2, term: 1 });
            log.write(&[Record { key: A, start, ..Record::default() }]).unwrap();
        }
    }
    assert_eq!(log.pinned_by(), [B], "an idle group pins the oldest segment");
    let pinned = log.segments();
    assert!(pinned > 10);
    log.write(&[Record { key: B, entries: vec![entry(1, 1, 10)], ..Record::default() }]).unwrap();
    assert!(log.segments() <= 3, "{} segments are left", log.segments());
    assert!(disk.files.lock().unwrap().len() <= 3 + SPARES_MAX);
    for _ in 0..2 {
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!(indexes(&recovered, A), [199, 200]);
        assert_eq!(indexes(&recovered, B), [1]);
        assert_eq!(recovered[&A].start, Start { index: 198, term: 1 });
        assert!(recovered.values().all(|one| one.damage().is_none()));
    }
}

#[test]
fn a_lost_segment_in_the_middle_is_damage() {
    let disk = Arc::new(MemoryDisk::default());
    let (mut log, _) = open(&disk).unwrap();
    for index in 1..=100 {
        log.write(&[record(A, 1, vec![entry(index, 1, 500)])]).unwrap();
    }
    let names = disk.segments();
    disk.remove(&names[names.len() / 2]).unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert!(recovered[&A].damage().is_some());
    assert!(recovered[&B].damage().is_none());
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let disk = written(&[vec![record(A, 1, vec![entry(1, 1, 3 * SEGMENT as usize)])], vec![record(A, 1, vec![entry(2, 1, 10)])]]);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered, A), [1, 2]);
}

#[test]
fn a_reset_forgets_all_entries_and_a_log_that_vanished_is_not_made_anew() {
    let disk = written(&[
        vec![record(A, 1, (1..=5).map(|index| entry(index, 1, 10)).collect())],
        vec![Record { key: A, start: Some(Start { index: 3, term: 2 }), reset: true, ..Record::default() }],
        vec![record(A, 2, vec![entry(4, 2, 10)])],
    ]);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered, A), [4]);
    assert!(recovered[&A].damage().is_none());
    let empty = Arc::new(MemoryDisk::default());
    assert!(Log::open(empty, DriveId(3), SEGMENT, false, &[A]).is_err());
}

#[test]
fn golden_bytes_of_a_batch() {
    let records = [Record {
        key: A,
        hard: Some(Hard { term: 3, vote: 2, commit: 1 }),
        start: Some(Start { index: 4, term: 2 }),
        entries: vec![entry(5, 3, 2)],
        ..Record::default()
    }];
    let encoded = Encoded::new(DriveId(9), vec![], Some((6, 8)), &records);
    let bytes = encoded.place(Place { generation: 7, sector: 0, batch: 0 });
    assert_eq!(bytes.len(), 3 * SECTOR_BYTES);
    // Length; version; drive; previous generation and sectors; no records before; one record: key, hard, start, not reset,
    // not damaged, not removed, nothing lost, one run of entries (first, count, term), offset, bytes.
    let head = [25, 0, 0, 0, 1, 9, 6, 8, 0, 1, 1, 11, 1, 3, 2, 1, 1, 4, 2, 0, 0, 0, 0, 1, 5, 1, 3, 0, 15];
    assert_eq!(bytes[32..32 + head.len()], head);
    assert_eq!(bytes[2 * SECTOR_BYTES + 32..2 * SECTOR_BYTES + 32 + head.len()], head, "the head stands twice");
    assert_eq!(bytes[SECTOR_BYTES + 32..SECTOR_BYTES + 47], [3, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 5, 5]);
}
