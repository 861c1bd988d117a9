//! Pages of the simulated drives of this process. Equal content is held once however many drives hold it, zeros cost
//! nothing, and rows that repeat are held once: payloads of a short period, and the parity made of them, stay small.
//!
//! Packed, a page is what differs from the row of 64 bytes before it, in runs: place (two bytes), length - 1 (one byte), bytes.
//!
//! Invariant: a page that is shared is never changed; who changes one gets a copy of its own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

pub(super) const PAGE_BYTES: u64 = 4096;
const SIZE: usize = PAGE_BYTES as usize;
/// The period that is looked for.
const ROW: usize = 64;
/// Packed pages are shorter than this; what does not become so is held as it is.
const PACKED_MAX: usize = SIZE / 2;
/// Runs with fewer equal bytes between them are one.
const GAP_MIN: usize = 4;
const RUN_MAX: usize = 256;

static ZEROS: [u8; SIZE] = [0; SIZE];

/// 4 KiB of a file.
#[derive(Clone, Default)]
pub(super) struct Page(
    /// `None` is zeros.
    Option<Arc<Content>>,
);

/// Boxed, so that what only the table still refers to gives its bytes back at once.
enum Content {
    Plain(Box<[u8; SIZE]>),
    Packed(Box<[u8]>),
}

/// Content that was written as a whole page, by its checksum.
struct Held {
    pages: BTreeMap<u64, Weak<Content>>,
    /// Entries at which those of pages that are gone are removed.
    sweep_at: usize,
}

static HELD: Mutex<Held> = Mutex::new(Held { pages: BTreeMap::new(), sweep_at: 4096 });

impl Content {
    fn of(bytes: &[u8; SIZE]) -> Content {
        pack(bytes).map_or_else(|| Content::Plain(Box::new(*bytes)), Content::Packed)
    }

    fn bytes(&self) -> Cow<'_, [u8; SIZE]> {
        match self {
            Content::Plain(bytes) => Cow::Borrowed(bytes),
            Content::Packed(packed) => Cow::Owned(unpack(packed)),
        }
    }

    /// As it is held; the same for the same page.
    fn held(&self) -> &[u8] {
        match self {
            Content::Plain(bytes) => &bytes[..],
            Content::Packed(packed) => packed,
        }
    }
}

/// What of a page differs from the row before, if that is little.
fn pack(bytes: &[u8; SIZE]) -> Option<Box<[u8]>> {
    let differs = |at: usize| bytes[at] != if at < ROW { 0 } else { bytes[at - ROW] };
    let word = |at: usize| -> [u8; 8] { bytes[at..at + 8].try_into().expect("eight bytes") };
    let mut packed = Vec::with_capacity(PACKED_MAX);
    let mut at = 0;
    while at < SIZE {
        if at % 8 == 0 && word(at) == if at < ROW { [0; 8] } else { word(at - ROW) } {
            at += 8;
            continue;
        }
        if !differs(at) {
            at += 1;
            continue;
        }
        // The run ends behind the last byte that differs before a gap.
        let (start, mut end, mut next) = (at, at + 1, at + 1);
        while next < SIZE && next - start < RUN_MAX && next - end < GAP_MIN {
            if differs(next) {
                end = next + 1;
            }
            next += 1;
        }
        if packed.len() + 3 + end - start >= PACKED_MAX {
            return None;
        }
        packed.extend_from_slice(&(start as u16).to_le_bytes());
        packed.push((end - start - 1) as u8);
        packed.extend_from_slice(&bytes[start..end]);
        at = end;
    }
    Some(packed.into_boxed_slice())
}

fn unpack(packed: &[u8]) -> [u8; SIZE] {
    let mut bytes = ZEROS;
    let mut rest = packed;
    let mut copied = ROW;
    while let [low, high, length, more @ ..] = rest {
        let (start, length) = (usize::from(u16::from_le_bytes([*low, *high])), usize::from(*length) + 1);
        // What lies before the run repeats, also what lies in its own row before it.
        repeat(&mut bytes, copied, start);
        bytes[start..start + length].copy_from_slice(&more[..length]);
        copied = copied.max(start + length);
        rest = &more[length..];
    }
    repeat(&mut bytes, copied, SIZE);
    bytes
}

/// Let `from..until` be what lies a row before.
fn repeat(bytes: &mut [u8; SIZE], from: usize, until: usize) {
    let mut at = from.max(ROW);
    while at < until {
        let length = ROW.min(until - at);
        bytes.copy_within(at - ROW..at - ROW + length, at);
        at += length;
    }
}

impl Page {
    /// The page of this content.
    fn of(bytes: &[u8; SIZE]) -> Page {
        if *bytes == ZEROS {
            return Page(None);
        }
        let content = Content::of(bytes);
        let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, content.held());
        let mut held = HELD.lock().expect("nothing panics under this lock");
        if let Some(known) = held.pages.get(&checksum).and_then(Weak::upgrade)
            && known.held() == content.held()
        {
            return Page(Some(known));
        }
        let page = Arc::new(content);
        held.pages.insert(checksum, Arc::downgrade(&page));
        if held.pages.len() >= held.sweep_at {
            held.pages.retain(|_, page| page.strong_count() > 0);
            held.sweep_at = (held.pages.len() * 2).max(4096);
        }
        Page(Some(page))
    }

    pub fn bytes(&self) -> Cow<'_, [u8; SIZE]> {
        self.0.as_ref().map_or(Cow::Borrowed(&ZEROS), |content| content.bytes())
    }

    /// Overwrite `within` with `bytes`, which are as long.
    pub fn write(&mut self, within: Range<usize>, bytes: &[u8]) {
        if let Ok(whole) = bytes.try_into() {
            *self = Page::of(whole);
        } else if self.bytes()[within.clone()] != *bytes {
            let mut plain = match self.0.take().map(Arc::try_unwrap) {
                None => Box::new(ZEROS),
                Some(Ok(Content::Plain(own))) => own,
                Some(Ok(packed)) => Box::new(packed.bytes().into_owned()),
                Some(Err(shared)) => Box::new(shared.bytes().into_owned()),
            };
            plain[within].copy_from_slice(bytes);
            self.0 = Some(Arc::new(Content::Plain(plain)));
        }
    }

    /// Zero `within`.
    pub fn clear(&mut self, within: Range<usize>) {
        let length = within.len();
        self.write(within, &ZEROS[..length]);
    }

    /// It will hardly be written to again: hold it in less, if it is small when packed.
    pub fn settle(&mut self) {
        if let Some(content) = &self.0
            && let Content::Plain(bytes) = &**content
            && let Some(packed) = pack(bytes)
        {
            self.0 = (!packed.is_empty()).then(|| Arc::new(Content::Packed(packed)));
        }
    }

    /// Whether nothing was written to it since the other was cloned from it, as far as that is cheap to know.
    pub fn is(&self, other: &Page) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// Bytes of pages that the table knows, each content once, as they are held.
pub fn shared_page_bytes() -> u64 {
    let held = HELD.lock().expect("nothing panics under this lock");
    held.pages.values().filter_map(Weak::upgrade).map(|page| page.held().len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes_back(bytes: &[u8; SIZE]) -> Option<usize> {
        let packed = pack(bytes)?;
        assert!(unpack(&packed) == *bytes, "a packed page comes back as it was");
        Some(packed.len())
    }

    fn page(byte: impl Fn(usize) -> u8) -> [u8; SIZE] {
        std::array::from_fn(byte)
    }

    #[test]
    fn what_repeats_is_small_and_comes_back() {
        assert_eq!(comes_back(&ZEROS), Some(0));
        assert_eq!(comes_back(&page(|at| (at % 64) as u8 + 1)), Some(3 + 64));
        // A header, then rows with a mark in each that changes every 512 bytes.
        let mark = |at: usize| if at % 64 >= 60 { (at / 512 * 37 + at % 64) as u8 } else { (at % 64) as u8 | 0x80 };
        let marked = comes_back(&page(|at| if at < 1000 { (at * at / 7) as u8 } else { mark(at) })).unwrap();
        assert!(marked < 1300, "{marked}");
        assert_eq!(comes_back(&page(|at| u8::from(at == SIZE - 1))), Some(4));
    }

    #[test]
    fn random_changes_come_back_and_noise_is_not_packed() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        for changes in 0..150 {
            let mut bytes = page(|at| (at % 64) as u8);
            for _ in 0..changes {
                let (at, length) = (next() % SIZE, next() % 9);
                let end = (at + length).min(SIZE);
                bytes[at..end].iter_mut().for_each(|byte| *byte = next() as u8);
            }
            comes_back(&bytes);
        }
        let noise: [u8; SIZE] = std::array::from_fn(|_| next() as u8);
        assert_eq!(comes_back(&noise), None);
    }

    #[test]
    fn a_page_reads_the_same_whether_it_is_settled_or_not() {
        let mut written = Page::default();
        written.write(100..164, &[7; 64]);
        written.write(164..228, &[7; 64]);
        let (before, shared) = (written.bytes().into_owned(), written.clone());
        written.settle();
        assert!(*written.bytes() == before && !written.is(&shared));
        written.write(0..1, &[9]);
        assert!(written.bytes()[0] == 9 && written.bytes()[100] == 7 && shared.bytes()[0] == 0);
        written.clear(0..SIZE);
        assert!(written.is(&Page::default()));
    }
}
