//! Writer ids: one for each start of a gateway (and of whatever else proposes with a session).
//!
//! Invariant: an id is given out once, ever. One whose reply is lost is burned.

use super::{Counters, Verdict};
use crate::commands::Reply;
use protocol::WriterId;

pub(super) fn open(counters: &mut Counters) -> Verdict {
    counters.writer += 1;
    Verdict::Changed(Reply::Writer(WriterId(counters.writer)))
}

#[cfg(test)]
mod tests {
    use crate::commands::{Command, Reply};
    use crate::root::testing::Model;
    use protocol::WriterId;

    #[test]
    fn writer_ids_are_never_given_twice() {
        let mut model = Model::default();
        for id in 1..100 {
            assert_eq!(model.apply(Command::OpenWriter).result, Ok(Reply::Writer(WriterId(id))));
        }
    }
}
