//! What a simulated drive holds: files, their names, and the space that they take.
//!
//! Invariants: durable names change only by a sync of their folder or a power cut, which keeps or drops each unsynced change of
//! a folder on its own; a file is kept while a name leads to it, now or after a power cut, or somebody has it open.

use rand::Rng;
use rand_chacha::ChaCha12Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::content::{Content, SECTOR_BYTES, Syncing, View};
use super::pages::PAGE_BYTES;
use crate::disk::{Entry, Open};

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

    pub(super) fn tears(self) -> bool {
        matches!(self, Cut::Each(_))
    }

    pub(super) fn keeps(self, random: &mut ChaCha12Rng) -> bool {
        match self {
            Cut::DropAll => false,
            Cut::KeepAll => true,
            Cut::Each(probability) => random.random_bool(probability),
        }
    }
}

/// In which way bytes of a drive are wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wrong {
    /// Bits flipped.
    Rotten,
    /// EIO.
    Unreadable,
    /// A write was reported as done, and the old bytes are still there.
    Lost,
    /// Bytes that belong elsewhere were written over them.
    Overwritten,
}

/// Bytes of a file that are shown wrongly or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultMark {
    pub file: String,
    pub bytes: Range<u64>,
    pub wrong: Wrong,
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
    last_change: u64,
    folders: BTreeSet<String>,
    capacity_pages: u64,
    used_pages: u64,
    /// Pages that may still be taken, if fewer than there are.
    pub free_max: Option<u64>,
}

#[derive(Clone, Default)]
struct File {
    content: Content,
    /// How often each mount has it open.
    handles: BTreeMap<u64, u64>,
}

#[derive(Clone)]
struct Change {
    number: u64,
    /// The folder whose sync makes it durable: of a rename, the one that it leads to.
    folder: String,
    file: u64,
    what: What,
}

#[derive(Clone)]
enum What {
    Create(String),
    Remove(String),
    Rename { from: String, to: String },
}

impl Change {
    fn names(&self) -> impl Iterator<Item = &str> {
        let (one, other) = match &self.what {
            What::Create(name) | What::Remove(name) => (name, None),
            What::Rename { from, to } => (from, Some(to)),
        };
        std::iter::once(one).chain(other).map(String::as_str)
    }
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether a file lies in `folder` or in a folder of it; "" is the whole drive.
pub(super) fn is_within(name: &str, folder: &str) -> bool {
    folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

impl Platter {
    pub fn new(capacity: u64) -> Platter {
        Platter {
            files: BTreeMap::new(),
            last_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            last_change: 0,
            folders: BTreeSet::from([String::new()]),
            capacity_pages: capacity / PAGE_BYTES,
            used_pages: 0,
            free_max: None,
        }
    }

    pub fn open(&mut self, name: &str, how: Open, mount: u64) -> Result<u64, Fault> {
        if !self.folders.contains(folder_of(name)) || self.folders.contains(name) {
            return Err(Fault::NotFound);
        }
        let file = match (self.names.get(name), how) {
            (Some(_), Open::New) => return Err(Fault::Exists),
            (None, Open::Existing) => return Err(Fault::NotFound),
            (Some(file), _) => *file,
            (None, _) => {
                self.last_file += 1;
                let file = self.last_file;
                self.files.insert(file, File::default());
                self.names.insert(name.to_string(), file);
                self.changed(folder_of(name).to_string(), file, What::Create(name.to_string()));
                file
            }
        };
        *self.file(file).handles.entry(mount).or_default() += 1;
        Ok(file)
    }

    pub fn close(&mut self, file: u64, mount: u64) {
        let handles = &mut self.file(file).handles;
        let open = handles.get_mut(&mount).expect("closed as often as opened");
        *open -= 1;
        if *open == 0 {
            handles.remove(&mount);
            self.forget_if_lost([file]);
        }
    }

    /// What a mount had open is closed: its process is no more.
    pub fn close_all(&mut self, mount: u64) {
        let opened: Vec<u64> = self.files.iter_mut().filter_map(|(number, file)| file.handles.remove(&mount).map(|_| *number)).collect();
        self.forget_if_lost(opened);
    }

    /// Nobody has anything open: it is looked at by others from now on.
    pub fn close_everything(&mut self) {
        let files: Vec<u64> = self.files.keys().copied().collect();
        for file in self.files.values_mut() {
            file.handles.clear();
        }
        self.forget_if_lost(files);
    }

    pub fn list(&self, folder: &str, view: View) -> Vec<Entry> {
        let files = self.names_of(view).iter().filter(|(name, _)| folder_of(name) == folder);
        let entry = |name: &str, file| Entry { name: name.to_string(), bytes: self.length(file, view) };
        files.map(|(name, file)| entry(&name[name.rfind('/').map_or(0, |at| at + 1)..], *file)).collect()
    }

    /// All names and lengths, of all folders.
    pub fn entries(&self) -> Vec<Entry> {
        self.names.iter().map(|(name, file)| Entry { name: name.clone(), bytes: self.length(*file, View::Truth) }).collect()
    }

    fn names_of(&self, view: View) -> &BTreeMap<String, u64> {
        if view == View::Durable { &self.durable_names } else { &self.names }
    }

    /// The file that `name` shows.
    pub fn find(&self, name: &str, view: View) -> Result<u64, Fault> {
        self.names_of(view).get(name).copied().ok_or(Fault::NotFound)
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
        self.changed(folder_of(to).to_string(), file, What::Rename { from: from.to_string(), to: to.to_string() });
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<(), Fault> {
        let file = self.names.remove(name).ok_or(Fault::NotFound)?;
        self.changed(folder_of(name).to_string(), file, What::Remove(name.to_string()));
        Ok(())
    }

    fn changed(&mut self, folder: String, file: u64, what: What) {
        self.last_change += 1;
        self.changes.push(Change { number: self.last_change, folder, file, what });
    }

    /// Begin a sync of a folder: returns the last change that it covers.
    pub fn begin_sync_dir(&self, folder: &str) -> Result<u64, Fault> {
        if self.folders.contains(folder) { Ok(self.last_change) } else { Err(Fault::NotFound) }
    }

    pub fn end_sync_dir(&mut self, folder: &str, last: u64) {
        self.make_durable_if(|change| change.folder == folder && change.number <= last);
    }

    /// Make the changes that `wanted` names durable, and the earlier ones of the same files and names, without which they could
    /// not have happened: a file that was renamed away cannot be lost because another took its name.
    fn make_durable_if(&mut self, mut wanted: impl FnMut(&Change) -> bool) {
        let wanted: Vec<bool> = self.changes.iter().map(&mut wanted).collect();
        let (mut files, mut names) = (BTreeSet::new(), BTreeSet::new());
        let (mut durable, mut left) = (Vec::new(), Vec::new());
        for (change, wanted) in std::mem::take(&mut self.changes).into_iter().zip(wanted).rev() {
            let needed = files.contains(&change.file) || change.names().any(|name| names.contains(name));
            if wanted || needed {
                files.insert(change.file);
                names.extend(change.names().map(str::to_string));
                durable.push(change);
            } else {
                left.push(change);
            }
        }
        left.reverse();
        durable.reverse();
        self.changes = left;
        self.make_durable(durable);
    }

    fn make_durable(&mut self, changes: Vec<Change>) {
        let mut touched = Vec::new();
        for Change { file, what, .. } in changes {
            touched.push(file);
            match what {
                What::Create(name) => touched.extend(self.durable_names.insert(name, file)),
                What::Remove(name) => {
                    if self.durable_names.get(&name) == Some(&file) {
                        self.durable_names.remove(&name);
                    }
                }
                What::Rename { from, to } => {
                    if self.durable_names.get(&from) == Some(&file) {
                        self.durable_names.remove(&from);
                    }
                    touched.extend(self.durable_names.insert(to, file));
                }
            }
        }
        self.forget_if_lost(touched);
    }

    /// Bytes in all and bytes that are free.
    pub fn space(&self) -> (u64, u64) {
        (self.capacity_pages * PAGE_BYTES, self.free_pages() * PAGE_BYTES)
    }

    fn free_pages(&self) -> u64 {
        self.capacity_pages.saturating_sub(self.used_pages).min(self.free_max.unwrap_or(u64::MAX))
    }

    fn take_pages(&mut self, pages: u64) {
        self.used_pages += pages;
        if let Some(free) = &mut self.free_max {
            *free = free.saturating_sub(pages);
        }
    }

    pub fn length(&self, file: u64, view: View) -> u64 {
        self.files[&file].content.length(view)
    }

    pub fn read(&self, file: u64, offset: u64, target: &mut [u8], view: View) -> Result<(), Fault> {
        self.files[&file].content.read(offset, target, view)
    }

    /// Write `bytes`, or, if space runs out on the way, as many of them as there is room for.
    pub fn write(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.write_as(file, offset, bytes, Content::write)
    }

    /// A write that is reported as done and never reaches the medium.
    pub fn lose_write(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.write_as(file, offset, bytes, Content::lose_write)
    }

    /// A write that is reported as done and lands elsewhere in `folder`, if there is a place for it.
    pub fn misdirect_write(&mut self, file: u64, offset: u64, bytes: &[u8], folder: &str, random: &mut ChaCha12Rng) -> Result<(), Fault> {
        let place = self.other_place(file, offset, bytes.len() as u64, folder, random);
        self.lose_write(file, offset, bytes)?;
        if let Some((victim, at)) = place {
            self.file(victim).content.overlay(at, bytes, Wrong::Overwritten);
        }
        Ok(())
    }

    fn write_as(&mut self, file: u64, offset: u64, bytes: &[u8], act: fn(&mut Content, u64, &[u8])) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        let free = self.free_pages();
        let end = offset + bytes.len() as u64;
        let written = &mut self.files.get_mut(&file).expect("open files are kept").content;
        let mut taken = 0;
        let mut room = end;
        for page in written.unpaid(offset..end) {
            if taken == free {
                room = (page * PAGE_BYTES).max(offset);
                break;
            }
            taken += 1;
        }
        if room > offset {
            act(written, offset, &bytes[..(room - offset) as usize]);
            self.take_pages(taken);
        }
        if room < end { Err(Fault::Full) } else { Ok(()) }
    }

    /// A place of `bytes` bytes, in sectors, in a file of `folder`, that is not the one given.
    pub fn other_place(&self, file: u64, offset: u64, bytes: u64, folder: &str, random: &mut ChaCha12Rng) -> Option<(u64, u64)> {
        let fits = |number: &u64| self.length(*number, View::Truth) >= bytes;
        let files: Vec<u64> =
            self.names.iter().filter(|(name, file)| is_within(name, folder) && fits(file)).map(|(_, file)| *file).collect();
        if files.is_empty() {
            return None;
        }
        // A drive whose only file is hardly longer than the write may have no other place.
        for _ in 0..16 {
            let place = files[random.random_range(0..files.len())];
            let sectors = (self.length(place, View::Truth) - bytes) / SECTOR_BYTES;
            let at = random.random_range(0..=sectors) * SECTOR_BYTES;
            if place != file || at + bytes <= offset || offset + bytes <= at {
                return Some((place, at));
            }
        }
        None
    }

    pub fn set_length(&mut self, file: u64, length: u64) {
        self.recount(file, |content| content.set_length(length));
    }

    /// Zero the range; whole pages of it are given back.
    pub fn punch(&mut self, file: u64, offset: u64, bytes: u64) {
        self.recount(file, |content| content.punch(offset, bytes));
    }

    pub fn allocate(&mut self, file: u64, bytes: u64) -> Result<(), Fault> {
        let free = self.free_pages();
        let content = &self.files[&file].content;
        if bytes > 0 && content.unpaid(0..bytes).count() as u64 > free {
            return Err(Fault::Full);
        }
        self.recount(file, |content| content.allocate(bytes));
        Ok(())
    }

    pub fn begin_sync(&mut self, file: u64) -> Syncing {
        self.file(file).content.begin_sync()
    }

    pub fn end_sync(&mut self, file: u64, syncing: Syncing) -> Result<(), Fault> {
        // The file may have lost its name and its handles while the sync was under way.
        self.files.get_mut(&file).map_or(Ok(()), |file| file.content.end_sync(syncing))
    }

    /// A sync that failed: the file holds from now on what of it reached the drive.
    pub fn fail_sync(&mut self, file: u64, random: &mut ChaCha12Rng) {
        if self.files.contains_key(&file) {
            self.recount(file, |content| content.cut(Cut::draw(random), random));
        }
    }

    /// Power is lost: of what was not synced there is now what `cut` says, or each file's own draw.
    pub fn cut_power(&mut self, cut: Option<Cut>, random: &mut ChaCha12Rng) {
        let files: Vec<u64> = self.files.keys().copied().collect();
        for file in &files {
            let cut = cut.unwrap_or_else(|| Cut::draw(random));
            if !self.files[file].content.is_synced() {
                self.recount(*file, |content| content.cut(cut, random));
            }
            self.file(*file).handles.clear();
        }
        let cut = cut.unwrap_or_else(|| Cut::draw(random));
        self.make_durable_if(|_| cut.keeps(random));
        self.changes.clear();
        self.names = self.durable_names.clone();
        self.forget_if_lost(files);
    }

    /// Flip a bit in each of `bytes` bytes as they are shown.
    pub fn rot(&mut self, name: &str, offset: u64, bytes: u64, random: &mut ChaCha12Rng) -> Result<(), Fault> {
        let file = self.find(name, View::Truth)?;
        self.file(file).content.rot(offset..offset.saturating_add(bytes), random);
        Ok(())
    }

    /// Make the sectors of the range unreadable.
    pub fn damage(&mut self, name: &str, offset: u64, bytes: u64) -> Result<(), Fault> {
        let file = self.find(name, View::Truth)?;
        self.file(file).content.damage(offset..offset.saturating_add(bytes));
        Ok(())
    }

    pub fn fault_marks(&self) -> Vec<FaultMark> {
        let mut marks = Vec::new();
        for (name, file) in &self.names {
            let wrongs = self.files[file].content.wrongs().into_iter();
            marks.extend(wrongs.map(|(bytes, wrong)| FaultMark { file: name.clone(), bytes, wrong }));
        }
        marks
    }

    fn file(&mut self, file: u64) -> &mut File {
        self.files.get_mut(&file).expect("files with a name or a handle are kept")
    }

    /// Change a file, and what is used of the drive with it.
    fn recount(&mut self, file: u64, change: impl FnOnce(&mut Content)) {
        let content = &mut self.file(file).content;
        let before = content.blocks();
        change(content);
        let after = content.blocks();
        if after > before {
            self.take_pages(after - before);
        } else {
            self.used_pages -= before - after;
        }
    }

    /// Drop those of `files` that no name leads to, now or after a power cut, and that nobody has open.
    fn forget_if_lost(&mut self, files: impl IntoIterator<Item = u64>) {
        for number in files {
            let Some(file) = self.files.get(&number) else { continue };
            let named = |names: &BTreeMap<String, u64>| names.values().any(|named| *named == number);
            let kept = !file.handles.is_empty()
                || named(&self.names)
                || named(&self.durable_names)
                || self.changes.iter().any(|change| change.file == number);
            if !kept {
                self.used_pages -= file.content.blocks();
                self.files.remove(&number);
            }
        }
    }
}
