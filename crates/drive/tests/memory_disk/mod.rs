//! A drive in memory that keeps what was written apart from what is durable. A power cut keeps, drops or tears each
//! unsynced write by sectors of 512 bytes, in any order, and forgets names whose folder was not synced.
#![allow(dead_code, reason = "each test file uses its part")]

use runtime::disk::{Disk, DiskFile, Entry, Error, Lane, Open, Result, Space};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;

/// A small generator; the same seed draws the same.
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }
}

#[derive(Default, Clone)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

#[derive(Default)]
struct Inner {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unreadable: BTreeSet<(String, u64)>,
    closed: Option<String>,
    /// Changing operations until the power is cut.
    left: Option<u64>,
    syncs: u64,
    reads: u64,
    capacity: u64,
    /// Jobs wait here while the drive stalls.
    stalled: Option<Vec<Job>>,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub struct MemoryDisk(Arc<Mutex<Inner>>);

impl MemoryDisk {
    pub fn new() -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(Inner { capacity: 1 << 40, ..Inner::default() })))
    }

    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// The power fails after `operations` more changing operations.
    pub fn cut_after(&self, operations: u64) {
        self.inner().left = Some(operations);
    }

    /// What is left after a power cut. Old handles are closed.
    pub fn after_power_cut(&self, draw: &mut Draw) -> MemoryDisk {
        let mut inner = self.inner();
        inner.closed = Some("power cut".to_string());
        let names: BTreeSet<&String> = inner.names.keys().chain(inner.durable_names.keys()).collect();
        let mut after = Inner { capacity: inner.capacity, ..Inner::default() };
        for name in names {
            let kept = if draw.below(2) == 0 { inner.names.get(name) } else { inner.durable_names.get(name) };
            let Some(&inode) = kept else { continue };
            let content = torn(&inner.inodes[inode], draw);
            after.durable_names.insert(name.clone(), after.inodes.len());
            after.names.insert(name.clone(), after.inodes.len());
            after.inodes.push(Inode { live: content.clone(), durable: content, dirty: BTreeSet::new() });
        }
        MemoryDisk(Arc::new(Mutex::new(after)))
    }

    /// What is left after the process was killed: everything written, synced or not. Old handles are closed.
    pub fn after_kill(&self) -> MemoryDisk {
        let mut inner = self.inner();
        let after = Inner {
            inodes: inner.inodes.clone(),
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            capacity: inner.capacity,
            ..Inner::default()
        };
        inner.closed = Some("killed".to_string());
        MemoryDisk(Arc::new(Mutex::new(after)))
    }

    /// Flip bits of a durable byte.
    pub fn rot(&self, name: &str, offset: u64) {
        let mut inner = self.inner();
        let inode = inner.names[name];
        inner.inodes[inode].live[offset as usize] ^= 0x55;
        inner.inodes[inode].durable[offset as usize] ^= 0x55;
    }

    pub fn unreadable(&self, name: &str, sector: u64) {
        self.inner().unreadable.insert((name.to_string(), sector));
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        let inner = self.inner();
        inner.inodes[inner.names[name]].live.clone()
    }

    pub fn set_content(&self, name: &str, content: Vec<u8>) {
        let mut inner = self.inner();
        let inode = inner.inodes.len();
        inner.names.insert(name.to_string(), inode);
        inner.durable_names.insert(name.to_string(), inode);
        inner.inodes.push(Inode { live: content.clone(), durable: content, dirty: BTreeSet::new() });
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.inner().capacity = bytes;
    }

    pub fn syncs(&self) -> u64 {
        self.inner().syncs
    }

    /// How often something was read.
    pub fn reads(&self) -> u64 {
        self.inner().reads
    }

    /// Jobs wait from now on.
    pub fn stall(&self) {
        self.inner().stalled.get_or_insert_default();
    }

    /// Do what waits, and stall no more.
    pub fn go_on(&self) {
        let stalled = self.inner().stalled.take();
        stalled.into_iter().flatten().for_each(|job| job());
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

fn torn(inode: &Inode, draw: &mut Draw) -> Vec<u8> {
    let mut content = inode.durable.clone();
    // The length may be the old or the new one; sectors that are kept extend it.
    if draw.below(2) == 0 {
        content.resize(inode.live.len(), 0);
    }
    let kind = draw.below(4);
    for &sector in &inode.dirty {
        let keep = match kind {
            0 => false,
            1 => true,
            _ => draw.below(4) > 0,
        };
        let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(inode.live.len()));
        if keep && from < to {
            if content.len() < to {
                content.resize(to, 0);
            }
            content[from..to].copy_from_slice(&inode.live[from..to]);
        }
    }
    content
}

impl Inner {
    fn check(&self) -> Result<()> {
        match &self.closed {
            None => Ok(()),
            Some(reason) => Err(Error::Closed { drive: "memory".to_string(), reason: reason.clone() }),
        }
    }

    fn change(&mut self) -> Result<()> {
        self.check()?;
        if let Some(left) = &mut self.left {
            if *left == 0 {
                self.closed = Some("power cut".to_string());
                return self.check();
            }
            *left -= 1;
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].live.len() as u64).sum()
    }
}

fn not_found(name: &str) -> Error {
    Error::NotFound { drive: "memory".to_string(), name: name.to_string() }
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk for MemoryDisk {
    fn label(&self) -> &str {
        "memory"
    }

    fn open(&self, name: &str, how: Open) -> Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner();
        inner.check()?;
        let inode = match (inner.names.get(name), how) {
            (Some(_), Open::New) => return Err(Error::Exists { drive: "memory".to_string(), name: name.to_string() }),
            (None, Open::Existing) => return Err(not_found(name)),
            (Some(&inode), _) => inode,
            (None, _) => {
                inner.change()?;
                let inode = inner.inodes.len();
                inner.inodes.push(Inode::default());
                inner.names.insert(name.to_string(), inode);
                inode
            }
        };
        Ok(Arc::new(MemoryFile { disk: self.clone(), name: name.to_string(), inode }))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let inner = self.inner();
        inner.check()?;
        let inside = inner.names.iter().filter(|(name, _)| folder_of(name) == folder);
        Ok(inside
            .map(|(name, &inode)| Entry {
                name: name.rsplit('/').next().expect("a name").to_string(),
                bytes: inner.inodes[inode].live.len() as u64,
            })
            .collect())
    }

    fn create_folder(&self, _folder: &str) -> Result<()> {
        self.inner().change()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut inner = self.inner();
        inner.change()?;
        let inode = inner.names.remove(from).ok_or_else(|| not_found(from))?;
        inner.names.insert(to.to_string(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut inner = self.inner();
        inner.change()?;
        inner.names.remove(name).map(|_| ()).ok_or_else(|| not_found(name))
    }

    fn sync_dir(&self, folder: &str) -> Result<()> {
        let mut inner = self.inner();
        inner.change()?;
        inner.syncs += 1;
        inner.durable_names.retain(|name, _| folder_of(name) != folder);
        let now: Vec<(String, usize)> =
            inner.names.iter().filter(|(name, _)| folder_of(name) == folder).map(|(name, &inode)| (name.clone(), inode)).collect();
        inner.durable_names.extend(now);
        Ok(())
    }

    fn space(&self) -> Result<Space> {
        let inner = self.inner();
        inner.check()?;
        Ok(Space { total: inner.capacity, free: inner.capacity.saturating_sub(inner.used()) })
    }

    fn watch(&self, name: &str) -> Result<()> {
        let inner = self.inner();
        inner.check()?;
        inner.names.get(name).map(|_| ()).ok_or_else(|| not_found(name))
    }

    fn verify(&self) -> Result<()> {
        self.inner().check()
    }

    fn close(&self, reason: &str) {
        self.inner().closed.get_or_insert(reason.to_string());
    }

    fn closed(&self) -> Option<String> {
        self.inner().closed.clone()
    }

    fn submit(&self, _: Lane, job: Job) {
        let mut inner = self.inner();
        match &mut inner.stalled {
            Some(stalled) => stalled.push(job),
            None => {
                drop(inner);
                job();
            }
        }
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    name: String,
    inode: usize,
}

impl MemoryFile {
    fn io(&self, offset: u64, reason: &str) -> Error {
        Error::Io { drive: "memory".to_string(), name: self.name.clone(), offset, reason: reason.to_string() }
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<()> {
        let mut inner = self.disk.inner();
        inner.reads += 1;
        inner.check()?;
        let sectors = offset / SECTOR as u64..(offset + target.len() as u64).div_ceil(SECTOR as u64);
        if inner.unreadable.iter().any(|(name, sector)| *name == self.name && sectors.contains(sector)) {
            return Err(self.io(offset, "unreadable"));
        }
        let (from, to) = (offset as usize, offset as usize + target.len());
        let bytes = inner.inodes[self.inode].live.get(from..to).ok_or_else(|| self.io(offset, "past the end"))?;
        target.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut inner = self.disk.inner();
        inner.change()?;
        let end = offset as usize + bytes.len();
        let inode = self.inode;
        let grown = end.saturating_sub(inner.inodes[inode].live.len()) as u64;
        if inner.used() + grown > inner.capacity {
            return Err(Error::Full { drive: "memory".to_string() });
        }
        let file = &mut inner.inodes[inode];
        if file.live.len() < end {
            file.live.resize(end, 0);
        }
        file.live[offset as usize..end].copy_from_slice(bytes);
        file.dirty.extend(offset as usize / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        let inner = self.disk.inner();
        inner.check()?;
        Ok(inner.inodes[self.inode].live.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> Result<()> {
        let mut inner = self.disk.inner();
        inner.change()?;
        let file = &mut inner.inodes[self.inode];
        let from = file.live.len().min(bytes as usize);
        file.live.resize(bytes as usize, 0);
        file.dirty.extend(from / SECTOR..(bytes as usize).div_ceil(SECTOR));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut inner = self.disk.inner();
        inner.change()?;
        inner.syncs += 1;
        let file = &mut inner.inodes[self.inode];
        file.durable = file.live.clone();
        file.dirty.clear();
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> Result<()> {
        if self.len()? < bytes { self.set_len(bytes) } else { Ok(()) }
    }

    fn punch(&self, offset: u64, bytes: u64) -> Result<()> {
        self.write_at(offset, &vec![0; bytes as usize])
    }
}
