//! A simulated drive against a naive model: what may be there after any power cut, and nothing else ever is.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test: what fails here fails it")]

use quickcheck::quickcheck;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use runtime::disk::{Disk, DiskFile, Open};
use runtime::side::{SimDrive, stream_for};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SECTOR: usize = 512;
const LENGTH_MAX: usize = 24 * SECTOR;

fn all(file: &Arc<dyn DiskFile>) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn sector(bytes: &[u8], number: usize) -> [u8; SECTOR] {
    let mut padded = [0; SECTOR];
    let part = bytes.get(number * SECTOR..).unwrap_or_default();
    let length = part.len().min(SECTOR);
    padded[..length].copy_from_slice(&part[..length]);
    padded
}

/// One file: what it holds, what is durable, and every content that a sector had since.
struct Model {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Lengths that it may have after a power cut: a length that is set is there or not, one that grows may be left on the way.
    lengths: BTreeSet<usize>,
    sectors: BTreeMap<usize, BTreeSet<[u8; SECTOR]>>,
}

impl Model {
    fn of(bytes: Vec<u8>) -> Model {
        let mut model = Model { durable: bytes.clone(), now: bytes, lengths: BTreeSet::new(), sectors: BTreeMap::new() };
        model.remember();
        model
    }

    fn remember(&mut self) {
        self.lengths.insert(self.now.len());
        for number in 0..LENGTH_MAX / SECTOR {
            self.sectors.entry(number).or_default().insert(sector(&self.now, number));
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.now);
        self.remember();
    }

    fn write(&mut self, bytes: std::ops::Range<usize>, byte: u8) {
        self.lengths.extend(self.now.len()..bytes.end);
        self.change(|now| {
            now.resize(now.len().max(bytes.end), 0);
            now[bytes].fill(byte);
        });
    }

    /// What is wrong with `found` after a power cut.
    fn judge(&self, found: &[u8]) -> Option<String> {
        if !self.lengths.contains(&found.len()) {
            return Some(format!("{} bytes, which it never had", found.len()));
        }
        (0..found.len().div_ceil(SECTOR)).find_map(|number| {
            let length = (found.len() - number * SECTOR).min(SECTOR);
            let part = &found[number * SECTOR..][..length];
            let known = self.sectors[&number].iter().any(|sector| sector[..length] == *part);
            (!known).then(|| format!("sector {number} holds what it never held"))
        })
    }
}

/// One change of the file and of its model.
fn step(file: &Arc<dyn DiskFile>, model: &mut Model, random: &mut ChaCha12Rng, byte: u8) {
    let offset = random.random_range(0..LENGTH_MAX);
    let end = (offset + random.random_range(0..LENGTH_MAX / 3)).min(LENGTH_MAX);
    match random.random_range(0..6) {
        0..3 if offset < end => {
            file.write_at(offset as u64, &vec![byte; end - offset]).unwrap();
            model.write(offset..end, byte);
        }
        3 => {
            file.set_len(offset as u64).unwrap();
            model.change(|bytes| bytes.resize(offset, 0));
        }
        4 => {
            file.punch(offset as u64, (end - offset) as u64).unwrap();
            model.change(|bytes| {
                let length = bytes.len();
                bytes[offset.min(length)..end.min(length)].fill(0);
            });
        }
        _ => {
            file.sync().unwrap();
            *model = Model::of(model.now.clone());
        }
    }
}

quickcheck! {
    fn after_a_power_cut_each_sector_holds_something_that_it_held_since_it_was_durable(seed: u64, steps: u8) -> bool {
        let mut random = stream_for(seed, "test", 0, 0);
        let drive = SimDrive::new("drive", 1 << 20);
        let mut disk = drive.mount();
        let mut file = disk.open("a", Open::New).unwrap();
        disk.sync_dir("").unwrap();
        let mut model = Model::of(Vec::new());
        for byte in 0..steps {
            step(&file, &mut model, &mut random, byte);
            let durable = drive.durable().open("a", Open::Existing).unwrap();
            if all(&file) != model.now || all(&durable) != model.durable {
                eprintln!("seed {seed}, step {byte}: another content");
                return false;
            }
            if random.random_ratio(1, 8) {
                drive.cut_power(&mut random);
                disk = drive.mount();
                file = disk.open("a", Open::Existing).unwrap();
                let found = all(&file);
                if let Some(wrong) = model.judge(&found) {
                    eprintln!("seed {seed}, step {byte}: {wrong}");
                    return false;
                }
                model = Model::of(found);
            }
        }
        drop(file);
        disk.remove("a").unwrap();
        disk.sync_dir("").unwrap();
        let space = disk.space().unwrap();
        space.free == space.total
    }

    fn after_a_power_cut_each_name_leads_to_a_file_that_had_it_and_synced_names_stay(seed: u64, steps: u8) -> bool {
        let mut random = stream_for(seed, "test", 0, 0);
        let drive = SimDrive::new("drive", 1 << 20);
        let mut disk = drive.mount();
        disk.create_folder("f").unwrap();
        // Content of each name now, and all that it had since its folder was synced; 0 is no file.
        let mut now: BTreeMap<String, u16> = BTreeMap::new();
        let mut since: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        for step in 1..=u16::from(steps) {
            let mut draw = || ["a", "b", "c", "f/a", "f/b"][random.random_range(0..5)].to_string();
            let (one, other) = (draw(), draw());
            let touched = match random.random_range(0..4) {
                0 => {
                    let file = disk.open(&one, Open::OrNew).unwrap();
                    if file.is_empty().unwrap() {
                        file.write_at(0, &step.to_le_bytes()).unwrap();
                        file.sync().unwrap();
                        now.insert(one.clone(), step);
                    }
                    vec![one]
                }
                1 if one != other && now.contains_key(&one) => {
                    disk.rename(&one, &other).unwrap();
                    let content = now.remove(&one).unwrap();
                    now.insert(other.clone(), content);
                    vec![one, other]
                }
                2 if now.contains_key(&one) => {
                    disk.remove(&one).unwrap();
                    now.remove(&one);
                    vec![one]
                }
                _ => {
                    // Both: a rename between two folders is durable with the one that it leads to.
                    disk.sync_dir("").unwrap();
                    disk.sync_dir("f").unwrap();
                    since.clear();
                    vec![]
                }
            };
            for (name, held) in &mut since {
                held.insert(now.get(name).copied().unwrap_or(0));
            }
            for name in touched {
                let held = since.entry(name.clone()).or_insert_with(|| {
                    let durable = drive.durable();
                    BTreeSet::from([content(&durable, &name)])
                });
                held.insert(now.get(&name).copied().unwrap_or(0));
            }
            if random.random_ratio(1, 10) {
                drive.cut_power(&mut random);
                disk = drive.mount();
                for name in ["a", "b", "c", "f/a", "f/b"] {
                    let found = content(&disk, name);
                    let synced = now.get(name).copied().unwrap_or(0);
                    let sound = since.get(name).map_or(found == synced, |held| held.contains(&found));
                    if !sound {
                        eprintln!("seed {seed}, step {step}: {name} holds {found}, which it never did; {since:?}");
                        return false;
                    }
                    if found == 0 {
                        now.remove(name);
                    } else {
                        now.insert(name.to_string(), found);
                    }
                }
                since.clear();
            }
        }
        true
    }
}

/// What stands in a file; 0 if it is not there, or empty.
fn content(disk: &Arc<dyn Disk>, name: &str) -> u16 {
    let Ok(file) = disk.open(name, Open::Existing) else { return 0 };
    let mut bytes = [0; 2];
    if file.is_empty().unwrap() {
        return 0;
    }
    file.read_at(0, &mut bytes).unwrap();
    u16::from_le_bytes(bytes)
}
