//! The state machine of one partition.

use consensus::{Rows, RowsMut, StateMachine};

/// One partition. Its whole state is in its rows.
#[derive(Default)]
pub struct Partition;

impl StateMachine for Partition {
    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
        let _ = (rows, command);
        todo!()
    }

    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8> {
        let _ = (rows, query);
        todo!()
    }
}
