//! The next program: what production will be after an upgrade, for runs in which old and new programs serve one cluster. Its
//! machines know version 2 of the commands, at which each leaves a trace of where it was applied.

use consensus::{Rows, RowsMut, StateMachine};
use protocol::GroupId;
use std::sync::Arc;

/// The version that the next program knows.
const VERSION: u32 = 2;
/// How many commands were applied at that version (8, little endian). A replica that applied one of them at another version
/// has other rows than the rest. Behind all rows of the machines.
const COUNT: &[u8] = b"\xff\xffapplied at version 2";

/// The machine of a group as the next program has it.
pub fn machine(group: GroupId) -> Arc<dyn StateMachine> {
    Arc::new(Next(node::inspect::machine(group)))
}

struct Next(Arc<dyn StateMachine>);

impl StateMachine for Next {
    fn version(&self) -> u32 {
        VERSION
    }

    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
        if rows.version() >= VERSION {
            let count = rows.get(COUNT).and_then(|count| count.first_chunk().copied()).map_or(0, u64::from_le_bytes);
            rows.put(COUNT, &(count + 1).to_le_bytes());
        }
        self.0.apply(rows, command)
    }

    fn refounded(&self, rows: &mut RowsMut<'_>) {
        self.0.refounded(rows);
    }

    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8> {
        self.0.query(rows, query)
    }
}
