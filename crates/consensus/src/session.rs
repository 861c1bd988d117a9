//! Sessions: a command that is retried is applied once, one that was finished long ago never again.
//!
//! Rows of a writer: its number alone (8, big endian) -> its lowest unfinished command (8) and the number of replies
//! kept (8), little endian; number and command (8, big endian) -> the reply, behind one byte: 1 kept, 2 too large to
//! be kept. They are replicated state: part of the hash and of snapshots. Nothing here looks at a clock: a session
//! ends only by what its writer says.

use crate::rows::{StateHash, StorageFailure, decode_value, encode_value};
use crate::wire::{Answer, SessionWord};
use bytes::Bytes;
use redb::ReadableTable;
use std::panic::resume_unwind;

/// Most commands that a writer may have unfinished in one group.
pub(crate) const WINDOW: u64 = 1024;
/// Largest reply that is kept for a retry.
const REPLY_BYTES_MAX: usize = 64 << 10;
const KEPT: u8 = 1;
const NOT_KEPT: u8 = 2;

type Table<'a> = redb::Table<'a, &'static [u8], &'static [u8]>;

fn or_unwind<T>(result: Result<T, redb::StorageError>) -> T {
    result.unwrap_or_else(|error| resume_unwind(Box::new(StorageFailure(error))))
}

fn get(table: &Table<'_>, key: &[u8]) -> Option<Bytes> {
    let stored = or_unwind(table.get(key))?;
    Some(Bytes::copy_from_slice(or_unwind(decode_value(key, stored.value()))))
}

fn put(table: &mut Table<'_>, hash: &mut StateHash, key: &[u8], value: &[u8]) {
    hash.write(StateHash::TAG_SESSIONS, key, Some(value));
    or_unwind(table.insert(key, encode_value(key, value).as_slice()));
}

fn remove(table: &mut Table<'_>, hash: &mut StateHash, key: &[u8]) {
    hash.write(StateHash::TAG_SESSIONS, key, None);
    or_unwind(table.remove(key));
}

fn reply_key(writer: u64, counter: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&writer.to_be_bytes());
    key[8..].copy_from_slice(&counter.to_be_bytes());
    key
}

/// The writer's lowest unfinished command and how many of its replies are kept.
fn bounds(table: &Table<'_>, writer: u64) -> (u64, u64) {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    match get(table, &writer.to_be_bytes()) {
        Some(row) if row.len() == 16 => (number(&row[..8]), number(&row[8..])),
        _ => (0, 0),
    }
}

fn put_bounds(table: &mut Table<'_>, hash: &mut StateHash, writer: u64, lowest: u64, kept: u64) {
    let mut row = [0; 16];
    row[..8].copy_from_slice(&lowest.to_le_bytes());
    row[8..].copy_from_slice(&kept.to_le_bytes());
    put(table, hash, &writer.to_be_bytes(), &row);
}

/// Before a command is applied: forget what its writer has finished, and say if the command must not be applied.
pub(crate) fn begin(table: &mut Table<'_>, hash: &mut StateHash, session: SessionWord) -> Option<(Answer, Bytes)> {
    let (mut lowest, mut kept) = bounds(table, session.writer);
    if session.lowest_unfinished > lowest && session.lowest_unfinished <= session.counter {
        let (from, to) = (reply_key(session.writer, lowest), reply_key(session.writer, session.lowest_unfinished));
        let finished: Vec<Vec<u8>> =
            or_unwind(table.range::<&[u8]>(from.as_slice()..to.as_slice())).map(|row| or_unwind(row).0.value().to_vec()).collect();
        for key in &finished {
            remove(table, hash, key);
        }
        lowest = session.lowest_unfinished;
        kept -= finished.len() as u64;
        put_bounds(table, hash, session.writer, lowest, kept);
    }
    let forgotten = runtime::planted("session-forgotten-by-time") && session.lowest_unfinished <= session.counter;
    if session.counter < lowest && forgotten {
        return None;
    }
    if session.counter < lowest || session.lowest_unfinished > session.counter {
        runtime::probe!("consensus-command-too-old");
        return Some((Answer::TooOld, Bytes::new()));
    }
    if let Some(row) = get(table, &reply_key(session.writer, session.counter))
        && !runtime::planted("retried-command-applied-twice")
    {
        runtime::probe!("consensus-command-deduplicated");
        return Some(match row.first() {
            Some(&KEPT) => (Answer::Reply, row.slice(1..)),
            _ => (Answer::ReplyNotKept, Bytes::new()),
        });
    }
    if session.counter - lowest >= WINDOW || kept >= WINDOW {
        return Some((Answer::WindowFull, Bytes::new()));
    }
    None
}

/// After a command was applied: keep its reply.
pub(crate) fn finish(table: &mut Table<'_>, hash: &mut StateHash, session: SessionWord, reply: &[u8]) {
    let (lowest, kept) = bounds(table, session.writer);
    let mut row = vec![if reply.len() <= REPLY_BYTES_MAX { KEPT } else { NOT_KEPT }];
    if reply.len() <= REPLY_BYTES_MAX {
        row.extend_from_slice(reply);
    }
    let key = reply_key(session.writer, session.counter);
    // Present already only if a command is applied a second time, which is the planted bug.
    let again = get(table, &key).is_some();
    put(table, hash, &key, &row);
    put_bounds(table, hash, session.writer, lowest, kept + u64::from(!again));
}

/// What in the sessions contradicts itself: no reply is kept below its writer's lowest unfinished command, and each writer's
/// bound counts the replies that are there.
pub(crate) fn contradiction(table: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<Option<String>, redb::StorageError> {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    // The bound of a writer stands before its replies.
    let (mut writer, mut lowest, mut missing) = (None, 0, 0);
    for row in table.iter()? {
        let (key, stored) = row?;
        let (key, row) = (key.value(), decode_value(key.value(), stored.value())?);
        match key.len() {
            8 if missing != 0 => break,
            8 if row.len() == 16 => {
                let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
                (writer, lowest, missing) = (Some(number(key)), word(&row[..8]), word(&row[8..]));
            }
            16 if writer == Some(number(&key[..8])) && number(&key[8..]) < lowest => {
                return Ok(Some(format!(
                    "command {} of writer {writer:?} was applied after all below {lowest} were finished",
                    number(&key[8..])
                )));
            }
            16 if writer == Some(number(&key[..8])) && missing > 0 => missing -= 1,
            _ => return Ok(Some(format!("a row of {} bytes stands behind the bound of writer {writer:?}", key.len()))),
        }
    }
    Ok((missing != 0).then(|| format!("{missing} replies of writer {writer:?} are missing")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::SESSIONS;

    fn in_table(test: impl FnOnce(&mut Table<'_>, &mut StateHash)) {
        let database = redb::Builder::new().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        test(&mut transaction.open_table(SESSIONS).unwrap(), &mut StateHash::default());
        transaction.abort().unwrap();
    }

    fn word(counter: u64, lowest_unfinished: u64) -> SessionWord {
        SessionWord { writer: 5, counter, lowest_unfinished }
    }

    #[test]
    fn a_retry_gets_the_first_reply_and_a_late_duplicate_is_too_old() {
        in_table(|table, hash| {
            assert_eq!(begin(table, hash, word(1, 1)), None);
            finish(table, hash, word(1, 1), b"first");
            assert_eq!(begin(table, hash, word(1, 1)), Some((Answer::Reply, Bytes::from_static(b"first"))));
            assert_eq!(begin(table, hash, word(2, 2)), None);
            finish(table, hash, word(2, 2), b"second");
            assert_eq!(begin(table, hash, word(1, 1)), Some((Answer::TooOld, Bytes::new())));
            assert_eq!(begin(table, hash, word(2, 1)), Some((Answer::Reply, Bytes::from_static(b"second"))));
            assert_eq!(or_unwind(table.range::<&[u8]>(..)).count(), 2, "one bound and one reply");
        });
    }

    #[test]
    fn sessions_do_not_contradict_themselves_and_a_finished_command_applied_again_shows() {
        in_table(|table, hash| {
            for (counter, lowest) in [(1, 1), (2, 1), (3, 2), (5, 3), (4, 3)] {
                assert_eq!(begin(table, hash, word(counter, lowest)), None);
                finish(table, hash, word(counter, lowest), b"reply");
                assert_eq!(contradiction(table).unwrap(), None);
            }
            assert!(begin(table, hash, word(1, 1)).is_some());
            finish(table, hash, word(1, 1), b"again");
            assert!(contradiction(table).unwrap().unwrap().contains("command 1 of writer"));
        });
        in_table(|table, hash| {
            put_bounds(table, hash, 5, 1, 1);
            assert!(contradiction(table).unwrap().unwrap().contains("missing"));
            put_bounds(table, hash, 6, 1, 0);
            assert!(contradiction(table).unwrap().unwrap().contains("writer Some(5)"));
        });
    }

    #[test]
    fn commands_out_of_order_are_each_applied_once() {
        in_table(|table, hash| {
            for counter in [3, 1, 2] {
                assert_eq!(begin(table, hash, word(counter, 1)), None);
                finish(table, hash, word(counter, 1), &[counter as u8]);
            }
            for counter in [1, 2, 3] {
                assert_eq!(begin(table, hash, word(counter, 1)), Some((Answer::Reply, Bytes::from(vec![counter as u8]))));
            }
        });
    }

    #[test]
    fn window_and_reply_size_are_bounded() {
        in_table(|table, hash| {
            assert_eq!(begin(table, hash, word(WINDOW, 1)), None);
            assert_eq!(begin(table, hash, word(WINDOW, 0)), None);
            assert_eq!(begin(table, hash, word(WINDOW + 1, 1)), Some((Answer::WindowFull, Bytes::new())));
            assert_eq!(begin(table, hash, word(7, 9)), Some((Answer::TooOld, Bytes::new())));
            finish(table, hash, word(7, 1), &vec![1; REPLY_BYTES_MAX + 1]);
            assert_eq!(begin(table, hash, word(7, 1)), Some((Answer::ReplyNotKept, Bytes::new())));
        });
    }
}
