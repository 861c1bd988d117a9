//! The event hash: one number over everything that happened in a simulation, in order, with its simulated time.
//! Two processes with the same binary and seed end with the same number, or something leaked.

use std::io::Write;
use std::sync::Mutex;

use madsim::time::TimeHandle;

use super::present;

/// Sees an event: simulated nanoseconds, kind, content.
pub type Watcher = Box<dyn FnMut(u64, &'static str, &[u8]) + Send>;

struct Events {
    hash: u64,
    count: u64,
    record: Option<Box<dyn Write + Send>>,
    watcher: Option<Watcher>,
}

static EVENTS: Mutex<Events> = Mutex::new(Events { hash: 0xcbf2_9ce4_8422_2325, count: 0, record: None, watcher: None });

/// Of an event's content, a record shows so many bytes.
const SHOWN_BYTES: usize = 48;

/// Add an event. Outside of a simulation nothing is added.
pub(crate) fn note(kind: &'static str, bytes: &[u8]) {
    let Some(nanos) = present::time(nanos) else { return };
    let content = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    let mut events = EVENTS.lock().expect("nothing panics under this lock");
    for byte in kind.bytes() {
        events.hash = mix(events.hash, u64::from(byte));
    }
    for word in [nanos, bytes.len() as u64, content] {
        events.hash = mix(events.hash, word);
    }
    events.count += 1;
    let (count, hash) = (events.count, events.hash);
    if let Some(record) = &mut events.record {
        // A record that cannot be written is shorter; the hash is not touched.
        let (machine, kind) = (super::machine_number(), kind.replace(' ', "-"));
        let _ = writeln!(record, "{count} {nanos} {machine} {kind} {} {content:016x} {hash:016x} {}", bytes.len(), shown(bytes));
    }
    if let Some(watcher) = &mut events.watcher {
        watcher(nanos, kind, bytes);
    }
}

fn nanos(time: &TimeHandle) -> u64 {
    time.elapsed().as_nanos() as u64
}

/// The beginning of an event's content for people: letters as they are, the rest in hex digits.
fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(SHOWN_BYTES) {
        match byte {
            b'!'..=b'~' => text.push(char::from(*byte)),
            b' ' | 0 => text.push('_'),
            other => text.push_str(&format!("<{other:02x}>")),
        }
    }
    text
}

/// FNV-1a over words, with a rotation so that high bits count too.
fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
}

/// The hash over all events of this process so far.
pub fn event_hash() -> u64 {
    EVENTS.lock().expect("nothing panics under this lock").hash
}

/// How many events there were so far.
pub fn event_count() -> u64 {
    EVENTS.lock().expect("nothing panics under this lock").count
}

/// Simulated nanoseconds since the simulation began.
pub fn elapsed_ns() -> u64 {
    present::time(nanos).unwrap_or(0)
}

/// Show each event from now on to `watcher`, which must neither add events nor wait.
pub fn watch_events(watcher: Watcher) {
    EVENTS.lock().expect("nothing panics under this lock").watcher = Some(watcher);
}

/// End what [`record_events`] began: all of it is written. A process that ends does not do so by itself.
pub fn end_record() {
    let record = EVENTS.lock().expect("nothing panics under this lock").record.take();
    if let Some(mut record) = record {
        // As above: the hash is what counts.
        let _ = record.flush();
    }
}

/// Write each event from now on as a line: number, nanoseconds, machine, kind, length and checksum of its content, hash so
/// far, and the beginning of the content. Comparing two records shows where two runs part.
pub fn record_events(record: Box<dyn Write + Send>) {
    EVENTS.lock().expect("nothing panics under this lock").record = Some(record);
}
