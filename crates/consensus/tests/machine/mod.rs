//! A state machine for tests: named lists of numbers that are appended to.

use bytes::Bytes;
use consensus::{Rows, RowsMut, StateMachine};

/// A command for this list is a bug of the machine: it panics.
pub const BROKEN_LIST: u8 = 255;

/// `append` replies how long the list is then; `query` returns the whole list. A number that is appended twice shows.
pub struct Lists;

/// The command that appends `number` to `list`, with padding.
pub fn append(list: u8, number: u64, padding: usize) -> Bytes {
    let mut command = vec![list];
    command.extend_from_slice(&number.to_le_bytes());
    command.resize(9 + padding, 0xa5);
    command.into()
}

/// The numbers of a list, from a query's reply.
#[allow(dead_code, reason = "not every test reads")]
pub fn numbers(reply: &[u8]) -> Vec<u64> {
    reply.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect()
}

fn row(list: u8, position: u64) -> [u8; 9] {
    let mut key = [list; 9];
    key[1..].copy_from_slice(&position.to_be_bytes());
    key
}

impl StateMachine for Lists {
    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
        if command.len() < 9 {
            return b"malformed".to_vec();
        }
        assert_ne!(command[0], BROKEN_LIST, "a bug of the state machine");
        let length_key = [command[0]];
        let length = rows.get(&length_key).map_or(0, |value| u64::from_le_bytes(value.as_ref().try_into().expect("eight bytes")));
        rows.put(&row(command[0], length), &command[1..]);
        rows.put(&length_key, &(length + 1).to_le_bytes());
        (length + 1).to_le_bytes().to_vec()
    }

    fn refounded(&self, _: &mut RowsMut<'_>) {}

    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8> {
        let list = query[0];
        let mut numbers = Vec::new();
        rows.scan(&row(list, 0), &row(list, u64::MAX), &mut |_, value| {
            numbers.extend_from_slice(&value[..8]);
            true
        });
        numbers
    }
}
