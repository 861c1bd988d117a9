//! What a simulated drive holds: what its process sees, what is durable, and what its faults show instead.
//!
//! Invariants: durable bytes and names change only by a sync or a power cut; a power cut keeps or drops each unsynced
//! sector of 512 bytes and each unsynced change of a folder on its own; rot and unreadable sectors change what is shown,
//! never the truth, and stay until the bytes are written again.

use rand::Rng;
use rand_chacha::ChaCha12Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::disk::{Entry, Open};

/// The unit in which a drive writes: a power cut tears a write between sectors, never inside one.
pub(super) const SECTOR_BYTES: u64 = 512;
const PAGE_BYTES: u64 = 4096;
const SECTORS_PER_PAGE: u64 = PAGE_BYTES / SECTOR_BYTES;

type Page = Arc<[u8; PAGE_BYTES as usize]>;

/// How much of what was not synced survives a power cut.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Cut {
    /// Nothing.
    DropAll,
    /// Everything.
    KeepAll,
    /// Each sector and each change of a folder with this probability.
    Each(f64),
}

impl Cut {
    /// Drawn anew for each file and for the folders, so that whole losses are as common as torn ones.
    pub fn draw(random: &mut ChaCha12Rng) -> Cut {
        match random.random_range(0..4) {
            0 => Cut::DropAll,
            1 => Cut::KeepAll,
            2 => Cut::Each(0.5),
            _ => Cut::Each(random.random_range(0.0..1.0)),
        }
    }

    fn keeps(self, random: &mut ChaCha12Rng) -> bool {
        match self {
            Cut::DropAll => false,
            Cut::KeepAll => true,
            Cut::Each(probability) => random.random_bool(probability),
        }
    }
}

/// Why an operation failed; the drive adds its name.
#[derive(Debug)]
pub(super) enum Fault {
    NotFound,
    Exists,
    Full,
    Io { offset: u64, reason: &'static str },
}

#[derive(Clone)]
pub(super) struct Platter {
    files: BTreeMap<u64, File>,
    last_file: u64,
    /// Names as the process sees them.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of folders since their last sync, in order.
    changes: Vec<Change>,
    folders: BTreeSet<String>,
    capacity_pages: u64,
    used_pages: u64,
    /// Writes to new blocks fail.
    pub full: bool,
}

#[derive(Clone)]
enum Change {
    Create { name: String, file: u64 },
    Remove { name: String, file: u64 },
    Rename { from: String, to: String, file: u64 },
}

impl Change {
    /// The folder whose sync makes it durable: of a rename, the one that it leads to.
    fn folder(&self) -> &str {
        let (Change::Create { name, .. } | Change::Remove { name, .. } | Change::Rename { to: name, .. }) = self;
        folder_of(name)
    }

    fn file(&self) -> u64 {
        let (Change::Create { file, .. } | Change::Remove { file, .. } | Change::Rename { file, .. }) = self;
        *file
    }
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[derive(Clone, Default)]
struct File {
    pages: BTreeMap<u64, Page>,
    length: u64,
    /// Pages that changed since the last sync, as they are durable.
    before: BTreeMap<u64, Before>,
    durable_length: u64,
    /// Pages that are paid for although nothing was written to them: allocated.
    reserved: BTreeMap<u64, u64>,
    /// Offset of a byte to the mask that is shown over it.
    rot: BTreeMap<u64, u8>,
    /// Numbers of sectors that cannot be read.
    unreadable: BTreeSet<u64>,
    handles: u64,
}

#[derive(Clone)]
struct Before {
    page: Option<Page>,
    /// One bit for each sector that changed.
    sectors: u8,
}

impl Platter {
    pub fn new(capacity: u64) -> Platter {
        Platter {
            files: BTreeMap::new(),
            last_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            folders: BTreeSet::from([String::new()]),
            capacity_pages: capacity / PAGE_BYTES,
            used_pages: 0,
            full: false,
        }
    }

    pub fn open(&mut self, name: &str, how: Open) -> Result<u64, Fault> {
        if !self.folders.contains(folder_of(name)) || self.folders.contains(name) {
            return Err(Fault::NotFound);
        }
        let file = match (self.names.get(name), how) {
            (Some(_), Open::New) => return Err(Fault::Exists),
            (None, Open::Existing) => return Err(Fault::NotFound),
            (Some(file), _) => *file,
            (None, _) => {
                self.last_file += 1;
                self.files.insert(self.last_file, File::default());
                self.names.insert(name.to_string(), self.last_file);
                self.changes.push(Change::Create { name: name.to_string(), file: self.last_file });
                self.last_file
            }
        };
        self.file(file).handles += 1;
        Ok(file)
    }

    pub fn close(&mut self, file: u64) {
        self.file(file).handles -= 1;
        self.forget_lost_files();
    }

    /// All handles belonged to a process that is no more.
    pub fn close_all(&mut self) {
        for file in self.files.values_mut() {
            file.handles = 0;
        }
        self.forget_lost_files();
    }

    pub fn list(&self, folder: &str) -> Vec<Entry> {
        let files = self.names.iter().filter(|(name, _)| folder_of(name) == folder);
        files
            .map(|(name, file)| Entry { name: name[name.rfind('/').map_or(0, |at| at + 1)..].to_string(), bytes: self.files[file].length })
            .collect()
    }

    /// All names and lengths, of all folders.
    pub fn names(&self) -> Vec<Entry> {
        self.names.iter().map(|(name, file)| Entry { name: name.clone(), bytes: self.files[file].length }).collect()
    }

    pub fn create_folder(&mut self, folder: &str) -> Result<(), Fault> {
        if !self.folders.contains(folder_of(folder)) {
            return Err(Fault::NotFound);
        }
        if self.names.contains_key(folder) {
            return Err(Fault::Exists);
        }
        self.folders.insert(folder.to_string());
        Ok(())
    }

    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), Fault> {
        if !self.folders.contains(folder_of(to)) {
            return Err(Fault::NotFound);
        }
        let file = self.names.remove(from).ok_or(Fault::NotFound)?;
        self.names.insert(to.to_string(), file);
        self.changes.push(Change::Rename { from: from.to_string(), to: to.to_string(), file });
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<(), Fault> {
        let file = self.names.remove(name).ok_or(Fault::NotFound)?;
        self.changes.push(Change::Remove { name: name.to_string(), file });
        Ok(())
    }

    pub fn sync_dir(&mut self, folder: &str) -> Result<(), Fault> {
        if !self.folders.contains(folder) {
            return Err(Fault::NotFound);
        }
        let changes = std::mem::take(&mut self.changes);
        for change in changes {
            if change.folder() == folder {
                self.make_durable(&change);
            } else {
                self.changes.push(change);
            }
        }
        self.forget_lost_files();
        Ok(())
    }

    fn make_durable(&mut self, change: &Change) {
        match change {
            Change::Create { name, file } => {
                self.durable_names.insert(name.clone(), *file);
            }
            Change::Remove { name, file } => {
                if self.durable_names.get(name) == Some(file) {
                    self.durable_names.remove(name);
                }
            }
            Change::Rename { from, to, file } => {
                if self.durable_names.get(from) == Some(file) {
                    self.durable_names.remove(from);
                }
                // The file has one name: its creation under the former one in another folder can no longer surface.
                self.changes
                    .retain(|earlier| !matches!(earlier, Change::Create { name, file: created } if name == from && created == file));
                self.durable_names.insert(to.clone(), *file);
            }
        }
    }

    /// Bytes in all and bytes that are free.
    pub fn space(&self) -> (u64, u64) {
        let free = if self.full { 0 } else { self.capacity_pages.saturating_sub(self.used_pages) };
        (self.capacity_pages * PAGE_BYTES, free * PAGE_BYTES)
    }

    pub fn length(&self, file: u64) -> u64 {
        self.files[&file].length
    }

    /// Fill `target` with what the drive shows, or, if `truth`, with what it holds.
    pub fn read(&self, file: u64, offset: u64, target: &mut [u8], truth: bool) -> Result<(), Fault> {
        let file = &self.files[&file];
        let end = offset.checked_add(target.len() as u64).filter(|end| *end <= file.length);
        let end = end.ok_or(Fault::Io { offset, reason: "read past the end" })?;
        if !truth && let Some(sector) = file.unreadable.range(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)).next() {
            return Err(Fault::Io { offset: sector * SECTOR_BYTES, reason: "unreadable sector" });
        }
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let length = (PAGE_BYTES as usize - within).min((end - at) as usize);
            let part = &mut target[(at - offset) as usize..][..length];
            match file.pages.get(&page) {
                Some(page) => part.copy_from_slice(&page[within..within + length]),
                None => part.fill(0),
            }
            at += length as u64;
        }
        if !truth {
            for (byte, mask) in file.rot.range(offset..end) {
                target[(byte - offset) as usize] ^= mask;
            }
        }
        Ok(())
    }

    pub fn write(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset + bytes.len() as u64;
        let pages = offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES);
        let written = self.files.get_mut(&file).expect("open files are kept");
        let new_pages = pages.filter(|page| !written.pages.contains_key(page) && !written.is_reserved(*page)).count() as u64;
        if new_pages > 0 && (self.full || self.used_pages + new_pages > self.capacity_pages) {
            return Err(Fault::Full);
        }
        self.used_pages += new_pages;
        written.change(offset, end, |page, within, at| {
            let part = &bytes[(at - offset) as usize..][..within.len()];
            Arc::make_mut(page.get_or_insert_with(blank))[within].copy_from_slice(part);
        });
        written.length = written.length.max(end);
        Ok(())
    }

    pub fn set_length(&mut self, file: u64, length: u64) {
        self.recount(file, |file| {
            if length < file.length {
                let end = file.length.next_multiple_of(PAGE_BYTES);
                file.change(length, end, clear);
                file.release(length.div_ceil(PAGE_BYTES), u64::MAX);
            }
            file.length = length;
        });
    }

    /// Zero the range; whole pages of it are given back.
    pub fn punch(&mut self, file: u64, offset: u64, bytes: u64) {
        self.recount(file, |file| {
            let end = offset.saturating_add(bytes).min(file.length.next_multiple_of(PAGE_BYTES));
            if offset < end {
                file.change(offset, end, clear);
                file.release(offset.div_ceil(PAGE_BYTES), end / PAGE_BYTES);
            }
        });
    }

    pub fn allocate(&mut self, file: u64, bytes: u64) -> Result<(), Fault> {
        let (used_before, capacity, full) = (self.used_pages, self.capacity_pages, self.full);
        let allocated = self.files.get_mut(&file).expect("open files are kept");
        let reserved_before = allocated.reserved.clone();
        self.used_pages -= allocated.blocks();
        allocated.reserve(bytes.div_ceil(PAGE_BYTES));
        self.used_pages += allocated.blocks();
        if self.used_pages > used_before && (full || self.used_pages > capacity) {
            allocated.reserved = reserved_before;
            self.used_pages = used_before;
            return Err(Fault::Full);
        }
        allocated.length = allocated.length.max(bytes);
        Ok(())
    }

    pub fn sync(&mut self, file: u64) {
        let file = self.file(file);
        file.before.clear();
        file.durable_length = file.length;
    }

    /// A sync that failed: the file holds from now on what of it reached the drive.
    pub fn fail_sync(&mut self, file: u64, random: &mut ChaCha12Rng) {
        self.recount(file, |file| file.cut(Cut::draw(random), random));
    }

    /// Power is lost: of what was not synced there is now what `cut` says, or each file's own draw.
    pub fn cut_power(&mut self, cut: Option<Cut>, random: &mut ChaCha12Rng) {
        let files: Vec<u64> = self.files.keys().copied().collect();
        for file in files {
            let cut = cut.unwrap_or_else(|| Cut::draw(random));
            self.recount(file, |file| file.cut(cut, random));
        }
        let cut = cut.unwrap_or_else(|| Cut::draw(random));
        for change in std::mem::take(&mut self.changes) {
            if cut.keeps(random) {
                self.make_durable(&change);
            }
        }
        self.names = self.durable_names.clone();
        self.close_all();
    }

    /// Show `bytes` bytes from `offset` of a file wrongly.
    pub fn rot(&mut self, name: &str, offset: u64, bytes: u64, random: &mut ChaCha12Rng) -> Result<(), Fault> {
        let file = self.named(name)?;
        for byte in offset..(offset + bytes).min(file.length) {
            file.rot.insert(byte, 1 << random.random_range(0..8));
        }
        Ok(())
    }

    /// Make the sectors of the range unreadable.
    pub fn damage(&mut self, name: &str, offset: u64, bytes: u64) -> Result<(), Fault> {
        let file = self.named(name)?;
        file.unreadable.extend(offset / SECTOR_BYTES..(offset + bytes).div_ceil(SECTOR_BYTES));
        Ok(())
    }

    /// The file that `name` shows.
    pub fn find(&self, name: &str) -> Result<u64, Fault> {
        self.names.get(name).copied().ok_or(Fault::NotFound)
    }

    fn named(&mut self, name: &str) -> Result<&mut File, Fault> {
        let file = self.find(name)?;
        Ok(self.file(file))
    }

    fn file(&mut self, file: u64) -> &mut File {
        self.files.get_mut(&file).expect("files with a name or a handle are kept")
    }

    /// Change a file, and what is used of the drive with it.
    fn recount(&mut self, file: u64, change: impl FnOnce(&mut File)) {
        let changed = self.files.get_mut(&file).expect("files with a name or a handle are kept");
        self.used_pages -= changed.blocks();
        change(changed);
        self.used_pages += changed.blocks();
    }

    /// Drop files that no name leads to, now or after a power cut, and that nobody has open.
    fn forget_lost_files(&mut self) {
        let named = self.names.values().chain(self.durable_names.values()).copied();
        let reachable: BTreeSet<u64> = named.chain(self.changes.iter().map(Change::file)).collect();
        let used_pages = &mut self.used_pages;
        self.files.retain(|number, file| {
            let keep = file.handles > 0 || reachable.contains(number);
            if !keep {
                *used_pages -= file.blocks();
            }
            keep
        });
    }
}

fn blank() -> Page {
    Arc::new([0; PAGE_BYTES as usize])
}

fn clear(page: &mut Option<Page>, within: std::ops::Range<usize>, _at: u64) {
    if let Some(page) = page {
        Arc::make_mut(page)[within].fill(0);
    }
}

impl File {
    /// Let `act` change the bytes of each page in the range, remembering what is durable. It is given the page, the range
    /// inside it, and where in the file that is.
    fn change(&mut self, offset: u64, end: u64, mut act: impl FnMut(&mut Option<Page>, std::ops::Range<usize>, u64)) {
        let mut at = offset;
        while at < end {
            let number = at / PAGE_BYTES;
            let within = (at % PAGE_BYTES) as usize;
            let length = (PAGE_BYTES as usize - within).min((end - at) as usize);
            let mut page = self.pages.remove(&number);
            let before = self.before.entry(number).or_insert_with(|| Before { page: page.clone(), sectors: 0 });
            let sectors = within as u64 / SECTOR_BYTES..((within + length) as u64).div_ceil(SECTOR_BYTES);
            before.sectors |= sectors.fold(0, |bits, sector| bits | 1 << sector);
            act(&mut page, within..within + length, at);
            if let Some(page) = page {
                self.pages.insert(number, page);
            }
            at += length as u64;
        }
        // What is written anew is whole again.
        let rotten: Vec<u64> = self.rot.range(offset..end).map(|(byte, _)| *byte).collect();
        for byte in rotten {
            self.rot.remove(&byte);
        }
        let healed: Vec<u64> = self.unreadable.range(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)).copied().collect();
        for sector in healed {
            self.unreadable.remove(&sector);
        }
    }

    /// Give the pages `from..to` back.
    fn release(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let released: Vec<u64> = self.pages.range(from..to).map(|(page, _)| *page).collect();
        for page in released {
            self.pages.remove(&page);
        }
        let overlapping: Vec<(u64, u64)> = self.reserved.range(..to).filter(|(_, end)| **end > from).map(|(a, b)| (*a, *b)).collect();
        for (start, end) in overlapping {
            self.reserved.remove(&start);
            if start < from {
                self.reserved.insert(start, from);
            }
            if end > to {
                self.reserved.insert(to, end);
            }
        }
    }

    /// Pay for the first `pages` pages.
    fn reserve(&mut self, pages: u64) {
        let end = self.reserved.iter().filter(|(start, _)| **start <= pages).map(|(_, end)| *end).fold(pages, u64::max);
        self.reserved.retain(|start, _| *start > pages);
        if end > 0 {
            self.reserved.insert(0, end);
        }
    }

    fn is_reserved(&self, page: u64) -> bool {
        self.reserved.range(..=page).next_back().is_some_and(|(_, end)| page < *end)
    }

    /// Pages that the file takes of the drive.
    fn blocks(&self) -> u64 {
        let reserved: u64 = self.reserved.iter().map(|(start, end)| end - start).sum();
        reserved + self.pages.keys().filter(|page| !self.is_reserved(**page)).count() as u64
    }

    fn cut(&mut self, cut: Cut, random: &mut ChaCha12Rng) {
        let (short, long) = (self.length.min(self.durable_length), self.length.max(self.durable_length));
        let length = match cut {
            Cut::DropAll => self.durable_length,
            Cut::KeepAll => self.length,
            Cut::Each(_) if short == long => short,
            Cut::Each(_) => match random.random_range(0..3) {
                0 => self.durable_length,
                1 => self.length,
                _ => random.random_range(short..=long),
            },
        };
        for (number, before) in std::mem::take(&mut self.before) {
            let mut page = self.pages.get(&number).cloned();
            for sector in (0..SECTORS_PER_PAGE).filter(|sector| before.sectors & 1 << sector != 0) {
                let start = number * PAGE_BYTES + sector * SECTOR_BYTES;
                // Beyond the present end the file was cut; if that is lost, the old bytes are back.
                let keeps_new = start < self.length && cut.keeps(random);
                if !keeps_new {
                    let range = (sector * SECTOR_BYTES) as usize..((sector + 1) * SECTOR_BYTES) as usize;
                    match (&before.page, &mut page) {
                        (None, None) => {}
                        (None, Some(page)) => Arc::make_mut(page)[range].fill(0),
                        (Some(old), page) => Arc::make_mut(page.get_or_insert_with(blank))[range.clone()].copy_from_slice(&old[range]),
                    }
                }
            }
            match page {
                Some(page) => self.pages.insert(number, page),
                None => self.pages.remove(&number),
            };
        }
        if !length.is_multiple_of(PAGE_BYTES)
            && let Some(page) = self.pages.get_mut(&(length / PAGE_BYTES))
        {
            Arc::make_mut(page)[(length % PAGE_BYTES) as usize..].fill(0);
        }
        self.pages.split_off(&length.div_ceil(PAGE_BYTES));
        (self.length, self.durable_length) = (length, length);
    }
}
