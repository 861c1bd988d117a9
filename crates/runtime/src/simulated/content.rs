//! One file of a simulated drive: what its process wrote, what of it is durable, and what faults show instead.
//!
//! Invariants: `pages` and `length` are the truth; `before` leads from them back to what is durable; `shown` and `unreadable`
//! lie over the truth and never change it; a page that is not in `before` is durable as it is.

use rand::Rng;
use rand_chacha::ChaCha12Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::pages::{PAGE_BYTES, Page};
use super::platter::{Cut, Fault, Wrong};

/// The unit in which a drive writes: a power cut tears a write between sectors, never inside one.
pub(super) const SECTOR_BYTES: u64 = 512;
const SECTORS_PER_PAGE: u64 = PAGE_BYTES / SECTOR_BYTES;

type Sector = Box<[u8; SECTOR_BYTES as usize]>;

/// Which content is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// What the drive shows, faults and all.
    Shown,
    /// What was written.
    Truth,
    /// What is left if everything unsynced is dropped, without faults.
    Durable,
}

#[derive(Clone, Default)]
pub(super) struct Content {
    pages: BTreeMap<u64, Page>,
    length: u64,
    /// Pages that changed since they were durable, as they are durable.
    before: BTreeMap<u64, Before>,
    durable_length: u64,
    /// How the length changed since it was durable, the oldest first.
    resized: Vec<Resized>,
    /// Pages that are paid for although nothing was written to them: allocated.
    reserved: BTreeMap<u64, u64>,
    /// Sectors that show something else than the truth.
    shown: BTreeMap<u64, Shown>,
    /// Numbers of sectors that cannot be read.
    unreadable: BTreeSet<u64>,
    /// Faults that were written over since the last sync: they are back if that is lost.
    healed: BTreeMap<u64, Healed>,
    /// The last sync that began, and the last that ended.
    begun: u64,
    ended: u64,
    /// The last sync that had begun when something unsynced was dropped.
    dropped: u64,
}

/// A change of a file's length.
#[derive(Clone)]
struct Resized {
    /// The last sync that had begun.
    begun: u64,
    length: u64,
    /// Whether it came by being set. File systems log that as one change of the inode, so a cut leaves it done or not done; a file
    /// that grows as it is written to or reserved may be left at any length on the way.
    at_once: bool,
}

#[derive(Clone)]
struct Before {
    page: Option<Page>,
    /// One bit for each sector that changed.
    sectors: u8,
    /// The page before it was last written to, and what had changed by then: the system may have written that already.
    between: Option<(Page, u8)>,
}

#[derive(Clone)]
struct Shown {
    bytes: Sector,
    wrong: Wrong,
}

#[derive(Clone, Default)]
struct Healed {
    shown: Option<Shown>,
    unreadable: bool,
}

/// A sync that has begun: what it will make durable.
pub(super) struct Syncing {
    number: u64,
    length: u64,
    pages: Vec<(u64, Page, u8)>,
}

/// The sectors that a range of bytes touches.
fn sectors(range: &Range<u64>) -> Range<u64> {
    range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES)
}

/// Call `act` for each page that a range touches, with the page's number, the part inside it, and where in the range that is.
fn each_page(range: Range<u64>, mut act: impl FnMut(u64, Range<usize>, Range<usize>)) {
    let mut at = range.start;
    while at < range.end {
        let within = (at % PAGE_BYTES) as usize;
        let length = (PAGE_BYTES as usize - within).min((range.end - at) as usize);
        let done = (at - range.start) as usize;
        act(at / PAGE_BYTES, within..within + length, done..done + length);
        at += length as u64;
    }
}

impl Content {
    pub fn length(&self, view: View) -> u64 {
        if view == View::Durable { self.durable_length } else { self.length }
    }

    /// Fill `target` from `offset`.
    pub fn read(&self, offset: u64, target: &mut [u8], view: View) -> Result<(), Fault> {
        let end = offset.checked_add(target.len() as u64).filter(|end| *end <= self.length(view));
        let range = offset..end.ok_or(Fault::Io { offset, reason: "read past the end" })?;
        if view == View::Shown
            && let Some(sector) = self.unreadable.range(sectors(&range)).next()
        {
            return Err(Fault::Io { offset: sector * SECTOR_BYTES, reason: "unreadable sector" });
        }
        self.copy(range.clone(), target, view == View::Durable);
        if view == View::Shown {
            for (sector, shown) in self.shown.range(sectors(&range)) {
                let start = sector * SECTOR_BYTES;
                let (from, to) = (start.max(range.start), (start + SECTOR_BYTES).min(range.end));
                let part = &shown.bytes[(from - start) as usize..(to - start) as usize];
                target[(from - range.start) as usize..][..part.len()].copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn copy(&self, range: Range<u64>, target: &mut [u8], durable: bool) {
        each_page(range, |number, within, part| {
            let page = match self.before.get(&number) {
                Some(before) if durable => before.page.as_ref(),
                _ => self.pages.get(&number),
            };
            match page {
                Some(page) => target[part].copy_from_slice(&page.bytes()[within]),
                None => target[part].fill(0),
            }
        });
    }

    /// Pages of the range that are not paid for yet, from the first on.
    pub fn unpaid(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        let pages = range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES);
        pages.filter(|page| !self.pages.contains_key(page) && !self.is_reserved(*page))
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.change(offset..end, |page, within, part| page.get_or_insert_default().write(within, &bytes[part]));
        self.grow(end);
        self.heal(offset..end);
    }

    /// A write that is reported as done and never reaches the medium: the old bytes are shown as before.
    pub fn lose_write(&mut self, offset: u64, bytes: &[u8]) {
        let old = self.shown_sectors(&(offset..offset + bytes.len() as u64));
        self.write(offset, bytes);
        for (sector, bytes) in old {
            self.show(sector, bytes, Wrong::Lost);
        }
    }

    /// Bytes that belong elsewhere land here.
    pub fn overlay(&mut self, offset: u64, bytes: &[u8], wrong: Wrong) {
        let end = offset + bytes.len() as u64;
        for (sector, mut shown) in self.shown_sectors(&(offset..end)) {
            let start = sector * SECTOR_BYTES;
            let (from, to) = (start.max(offset), (start + SECTOR_BYTES).min(end));
            shown[(from - start) as usize..(to - start) as usize].copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
            self.show(sector, shown, wrong);
        }
    }

    /// Flip a bit of each byte of the range.
    pub fn rot(&mut self, range: Range<u64>, random: &mut ChaCha12Rng) {
        let range = range.start..range.end.min(self.length);
        for (sector, mut shown) in self.shown_sectors(&range) {
            let start = sector * SECTOR_BYTES;
            for byte in start.max(range.start)..(start + SECTOR_BYTES).min(range.end) {
                shown[(byte - start) as usize] ^= 1 << random.random_range(0..8);
            }
            self.show(sector, shown, Wrong::Rotten);
        }
    }

    /// Make the sectors of the range unreadable.
    pub fn damage(&mut self, range: Range<u64>) {
        self.unreadable.extend(sectors(&(range.start..range.end.min(self.length))));
    }

    /// What each sector of the range shows, whole.
    fn shown_sectors(&self, range: &Range<u64>) -> Vec<(u64, Sector)> {
        if range.is_empty() {
            return Vec::new();
        }
        let shown = |sector| match self.shown.get(&sector) {
            Some(shown) => shown.bytes.clone(),
            None => self.true_sector(sector),
        };
        sectors(range).map(|sector| (sector, shown(sector))).collect()
    }

    fn true_sector(&self, sector: u64) -> Sector {
        let mut bytes = Box::new([0; SECTOR_BYTES as usize]);
        self.copy(sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES, &mut bytes[..], false);
        bytes
    }

    fn show(&mut self, sector: u64, bytes: Sector, wrong: Wrong) {
        if bytes == self.true_sector(sector) {
            self.shown.remove(&sector);
        } else {
            self.shown.insert(sector, Shown { bytes, wrong });
        }
    }

    /// What is written anew is whole again.
    fn heal(&mut self, range: Range<u64>) {
        if self.shown.is_empty() && self.unreadable.is_empty() {
            return;
        }
        let touched = self.shown.range(sectors(&range)).map(|(sector, _)| *sector).chain(self.unreadable.range(sectors(&range)).copied());
        let touched: BTreeSet<u64> = touched.collect();
        for sector in touched {
            let (shown, unreadable) = (self.shown.remove(&sector), self.unreadable.remove(&sector));
            self.healed.entry(sector).or_insert_with(|| Healed { shown: shown.clone(), unreadable });
            if let Some(Shown { mut bytes, wrong }) = shown {
                let start = sector * SECTOR_BYTES;
                let written = range.start.max(start) - start..range.end.min(start + SECTOR_BYTES) - start;
                let written = written.start as usize..written.end as usize;
                bytes[written.clone()].copy_from_slice(&self.true_sector(sector)[written]);
                self.show(sector, bytes, wrong);
            }
        }
    }

    pub fn set_length(&mut self, length: u64) {
        if length < self.length {
            let end = self.length.next_multiple_of(PAGE_BYTES);
            self.clear(length..end);
            self.release(length.div_ceil(PAGE_BYTES), u64::MAX);
        }
        if length != self.length {
            self.length = length;
            self.resized.push(Resized { begun: self.begun, length, at_once: true });
        }
    }

    /// Be at least `length` bytes long.
    fn grow(&mut self, length: u64) {
        if length <= self.length {
            return;
        }
        self.length = length;
        match self.resized.last_mut() {
            Some(last) if !last.at_once && last.begun == self.begun => last.length = length,
            _ => self.resized.push(Resized { begun: self.begun, length, at_once: false }),
        }
    }

    /// Zero the range; whole pages of it are given back.
    pub fn punch(&mut self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes).min(self.length.next_multiple_of(PAGE_BYTES));
        if offset < end {
            self.clear(offset..end);
            self.release(offset.div_ceil(PAGE_BYTES), end / PAGE_BYTES);
        }
    }

    /// Pay for the first `bytes` bytes, and be at least as long.
    pub fn allocate(&mut self, bytes: u64) {
        let pages = bytes.div_ceil(PAGE_BYTES);
        let end = self.reserved.iter().filter(|(start, _)| **start <= pages).map(|(_, end)| *end).fold(pages, u64::max);
        self.reserved.retain(|start, _| *start > pages);
        if end > 0 {
            self.reserved.insert(0, end);
        }
        self.grow(bytes);
    }

    /// Pages that the file takes of the drive.
    pub fn blocks(&self) -> u64 {
        if self.reserved.is_empty() {
            return self.pages.len() as u64;
        }
        let reserved: u64 = self.reserved.iter().map(|(start, end)| end - start).sum();
        reserved + self.pages.keys().filter(|page| !self.is_reserved(**page)).count() as u64
    }

    fn is_reserved(&self, page: u64) -> bool {
        self.reserved.range(..=page).next_back().is_some_and(|(_, end)| page < *end)
    }

    fn clear(&mut self, range: Range<u64>) {
        // Holes are zeros already, and may be long.
        let held: Vec<u64> = self.pages.range(range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)).map(|(page, _)| *page).collect();
        for number in held {
            let part = range.start.max(number * PAGE_BYTES)..range.end.min((number + 1) * PAGE_BYTES);
            self.change(part, |page, within, _| page.get_or_insert_default().clear(within));
        }
        self.heal(range);
    }

    /// Let `act` change the bytes of each page of the range, remembering what is durable. It is given the page, the part inside
    /// it, and where in the range that is.
    fn change(&mut self, range: Range<u64>, mut act: impl FnMut(&mut Option<Page>, Range<usize>, Range<usize>)) {
        each_page(range, |number, within, part| {
            let mut page = self.pages.remove(&number);
            let before = self.before.entry(number).or_insert_with(|| Before { page: page.clone(), sectors: 0, between: None });
            if before.sectors != 0 {
                before.between = Some((page.clone().unwrap_or_default(), before.sectors));
            }
            for sector in within.start as u64 / SECTOR_BYTES..(within.end as u64).div_ceil(SECTOR_BYTES) {
                before.sectors |= 1 << sector;
            }
            act(&mut page, within, part);
            if let Some(page) = page {
                self.pages.insert(number, page);
            }
        });
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

    /// Begin a sync: what was written until now is what it will make durable, and nothing that comes later.
    pub fn begin_sync(&mut self) -> Syncing {
        self.begun += 1;
        let page = |number| self.pages.get(number).cloned().unwrap_or_default();
        let pages = self.before.iter().map(|(number, before)| (*number, page(number), before.sectors)).collect();
        Syncing { number: self.begun, length: self.length, pages }
    }

    /// What a sync covers is durable, unless some of it was dropped meanwhile.
    pub fn end_sync(&mut self, syncing: Syncing) -> Result<(), Fault> {
        if syncing.number <= self.dropped {
            return Err(Fault::Io { offset: 0, reason: "another sync failed, and dropped what this one was to make durable" });
        }
        if syncing.number < self.ended {
            // One that began later has ended before, and covers it.
            return Ok(());
        }
        self.ended = syncing.number;
        self.durable_length = syncing.length;
        self.resized.retain(|resized| resized.begun >= syncing.number);
        for (number, page, synced) in syncing.pages {
            let Some(before) = self.before.get_mut(&number) else { continue };
            let live = self.pages.get(&number).cloned().unwrap_or_default();
            if live.is(&page) {
                self.before.remove(&number);
                if let Some(page) = self.pages.get_mut(&number) {
                    page.settle();
                }
                continue;
            }
            // Written to again meanwhile.
            before.between = None;
            let mut durable = before.page.take().unwrap_or_default();
            for sector in (0..SECTORS_PER_PAGE).filter(|sector| synced & 1 << sector != 0) {
                let within = (sector * SECTOR_BYTES) as usize..((sector + 1) * SECTOR_BYTES) as usize;
                durable.write(within.clone(), &page.bytes()[within.clone()]);
                if live.bytes()[within.clone()] == durable.bytes()[within] {
                    before.sectors &= !(1 << sector);
                }
            }
            before.page = Some(durable);
            if before.sectors == 0 {
                self.before.remove(&number);
            }
        }
        let before = &self.before;
        self.healed.retain(|sector, _| {
            before.get(&(sector / SECTORS_PER_PAGE)).is_some_and(|before| before.sectors & 1 << (sector % SECTORS_PER_PAGE) != 0)
        });
        Ok(())
    }

    /// Whether everything is durable.
    pub fn is_synced(&self) -> bool {
        self.before.is_empty() && self.resized.is_empty()
    }

    /// What was not synced is now kept or dropped, sector by sector; all that is left is durable.
    pub fn cut(&mut self, cut: Cut, random: &mut ChaCha12Rng) {
        let length = match cut {
            Cut::DropAll => self.durable_length,
            Cut::KeepAll => self.length,
            Cut::Each(_) if self.resized.is_empty() => self.durable_length,
            Cut::Each(_) => match random.random_range(0..3) {
                0 => self.durable_length,
                1 => self.length,
                _ => self.a_length_on_the_way(random),
            },
        };
        self.resized.clear();
        let mut healed = std::mem::take(&mut self.healed);
        for (number, before) in std::mem::take(&mut self.before) {
            let mut page = self.pages.remove(&number);
            for sector in (0..SECTORS_PER_PAGE).filter(|sector| before.sectors & 1 << sector != 0) {
                let place = number * SECTORS_PER_PAGE + sector;
                // Beyond the present end the file was cut; if that is lost, the old bytes are back.
                if place * SECTOR_BYTES < self.length && cut.keeps(random) {
                    continue;
                }
                let within = (sector * SECTOR_BYTES) as usize..((sector + 1) * SECTOR_BYTES) as usize;
                let between = before.between.as_ref().filter(|(_, changed)| cut.tears() && changed & 1 << sector != 0);
                if let Some((between, _)) = between
                    && random.random()
                {
                    page.get_or_insert_default().write(within.clone(), &between.bytes()[within]);
                    continue;
                }
                match (&before.page, &mut page) {
                    (None, None) => {}
                    (None, Some(page)) => page.clear(within),
                    (Some(old), page) => page.get_or_insert_default().write(within.clone(), &old.bytes()[within]),
                }
                if let Some(Healed { shown, unreadable }) = healed.remove(&place) {
                    match shown {
                        Some(shown) => self.shown.insert(place, shown),
                        None => self.shown.remove(&place),
                    };
                    if unreadable {
                        self.unreadable.insert(place);
                    }
                }
            }
            if let Some(mut page) = page {
                page.settle();
                self.pages.insert(number, page);
            }
        }
        if !length.is_multiple_of(PAGE_BYTES)
            && let Some(page) = self.pages.get_mut(&(length / PAGE_BYTES))
        {
            page.clear((length % PAGE_BYTES) as usize..PAGE_BYTES as usize);
        }
        self.pages.split_off(&length.div_ceil(PAGE_BYTES));
        (self.length, self.durable_length) = (length, length);
        self.dropped = self.begun;
        self.forget_what_is_right();
    }

    /// A length that the file may have had on the drive since its length was durable.
    fn a_length_on_the_way(&self, random: &mut ChaCha12Rng) -> u64 {
        let last = random.random_range(0..self.resized.len());
        let Resized { length, at_once, .. } = self.resized[last];
        let from = last.checked_sub(1).map_or(self.durable_length, |previous| self.resized[previous].length);
        if at_once { length } else { random.random_range(from.min(length)..=length) }
    }

    /// Drop faults that show the truth after all, or lie beyond the end.
    fn forget_what_is_right(&mut self) {
        let end = self.length.div_ceil(SECTOR_BYTES);
        self.shown.split_off(&end);
        self.unreadable.split_off(&end);
        let shown = std::mem::take(&mut self.shown);
        for (sector, Shown { bytes, wrong }) in shown {
            self.show(sector, bytes, wrong);
        }
    }

    /// Ranges of bytes that are shown wrongly or not at all.
    pub fn wrongs(&self) -> Vec<(Range<u64>, Wrong)> {
        let mut found: Vec<(Range<u64>, Wrong)> = Vec::new();
        let mut add = |range: Range<u64>, wrong| match found.last_mut() {
            Some((last, kind)) if last.end == range.start && *kind == wrong => last.end = range.end,
            _ => found.push((range, wrong)),
        };
        let places: BTreeSet<u64> = self.shown.keys().chain(&self.unreadable).copied().collect();
        for sector in places {
            let start = sector * SECTOR_BYTES;
            let length = self.length.saturating_sub(start).min(SECTOR_BYTES);
            if self.unreadable.contains(&sector) {
                add(start..start + length, Wrong::Unreadable);
            } else if let Some(shown) = self.shown.get(&sector) {
                let truth = self.true_sector(sector);
                for byte in (0..length).filter(|byte| truth[*byte as usize] != shown.bytes[*byte as usize]) {
                    add(start + byte..start + byte + 1, shown.wrong);
                }
            }
        }
        found
    }
}
