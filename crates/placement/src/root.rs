//! The state machine of the root group.

use consensus::{Rows, RowsMut, StateMachine};

/// The root group's state machine. Its whole state is in its rows.
#[derive(Default)]
pub struct Root;

impl StateMachine for Root {
    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
        let _ = (rows, command);
        todo!()
    }

    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8> {
        let _ = (rows, query);
        todo!()
    }
}
