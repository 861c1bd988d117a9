//! The event hash: one number over everything that happened in a simulation, in order, with its simulated time.
//! Two processes with the same binary and seed end with the same number, or something leaked.

use std::io::Write;
use std::sync::Mutex;

struct Events {
    hash: u64,
    count: u64,
    record: Option<Box<dyn Write + Send>>,
}

static EVENTS: Mutex<Events> = Mutex::new(Events { hash: 0xcbf2_9ce4_8422_2325, count: 0, record: None });

/// Add an event. Outside of a simulation nothing is added.
pub(crate) fn note(kind: &'static str, bytes: &[u8]) {
    let Some(time) = madsim::time::TimeHandle::try_current() else { return };
    let nanos = time.elapsed().as_nanos() as u64;
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
        let _ = writeln!(record, "{count} {nanos} {kind} {} {content:016x} {hash:016x}", bytes.len());
    }
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

/// Write each event from now on as a line: number, nanoseconds, kind, length and checksum of its content, hash so far.
/// Comparing two records shows where two runs part.
pub fn record_events(record: Box<dyn Write + Send>) {
    EVENTS.lock().expect("nothing panics under this lock").record = Some(record);
}
