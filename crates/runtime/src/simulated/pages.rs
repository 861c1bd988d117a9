//! Pages of the simulated drives of this process. Equal content is held once however many drives hold it, and zeros cost
//! nothing: payloads of a short period, and the parity made of them, stay small.
//!
//! Invariant: a page that is shared is never changed; who changes one gets a copy of its own.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

pub(super) const PAGE_BYTES: u64 = 4096;
const SIZE: usize = PAGE_BYTES as usize;

/// Boxed, so that what only the table still refers to gives its bytes back at once.
type Content = Box<[u8; SIZE]>;

static ZEROS: [u8; SIZE] = [0; SIZE];

/// 4 KiB of a file.
#[derive(Clone, Default)]
pub(super) struct Page(
    /// `None` is zeros.
    Option<Arc<Content>>,
);

/// Content that was written as a whole page, by its checksum.
struct Held {
    pages: BTreeMap<u64, Weak<Content>>,
    /// Entries at which those of pages that are gone are removed.
    sweep_at: usize,
}

static HELD: Mutex<Held> = Mutex::new(Held { pages: BTreeMap::new(), sweep_at: 4096 });

impl Page {
    /// The page of this content, which is a whole page.
    fn of(bytes: &[u8]) -> Page {
        if bytes == ZEROS {
            return Page(None);
        }
        let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
        let mut held = HELD.lock().expect("nothing panics under this lock");
        if let Some(known) = held.pages.get(&checksum).and_then(Weak::upgrade)
            && known[..] == *bytes
        {
            return Page(Some(known));
        }
        let content: Content = bytes.to_vec().into_boxed_slice().try_into().expect("a whole page");
        let page = Arc::new(content);
        held.pages.insert(checksum, Arc::downgrade(&page));
        if held.pages.len() >= held.sweep_at {
            held.pages.retain(|_, page| page.strong_count() > 0);
            held.sweep_at = (held.pages.len() * 2).max(4096);
        }
        Page(Some(page))
    }

    pub fn bytes(&self) -> &[u8; SIZE] {
        self.0.as_ref().map_or(&ZEROS, |content| content)
    }

    /// Overwrite `within` with `bytes`, which are as long.
    pub fn write(&mut self, within: Range<usize>, bytes: &[u8]) {
        if within.len() == SIZE {
            *self = Page::of(bytes);
        } else if self.bytes()[within.clone()] != *bytes {
            let content = self.0.get_or_insert_with(|| Arc::new(Box::new(ZEROS)));
            Arc::make_mut(content)[within].copy_from_slice(bytes);
        }
    }

    /// Zero `within`.
    pub fn clear(&mut self, within: Range<usize>) {
        let length = within.len();
        self.write(within, &ZEROS[..length]);
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

/// Bytes of pages that the table knows, each content once.
pub fn shared_page_bytes() -> u64 {
    let held = HELD.lock().expect("nothing panics under this lock");
    held.pages.values().filter(|page| page.strong_count() > 0).count() as u64 * PAGE_BYTES
}
