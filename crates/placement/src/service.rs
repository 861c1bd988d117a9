//! What the root group's leader does beside its state machine: heartbeats, reports, choosing drives.

use crate::Bootstrap;
use runtime::rpc::Rpc;

/// Runs on every node that has a replica of the root group; acts only while that replica leads.
pub struct Service {
    _todo: (),
}

impl Service {
    /// Register the placement methods (service 3) with `rpc` and run. Proposes `bootstrap` once if the root
    /// group is empty; panics never, and logs loudly if the stored cluster differs from it.
    pub fn start(rpc: Rpc, host: std::sync::Arc<consensus::Host>, bootstrap: Bootstrap) -> Service {
        let _ = (rpc, &host, bootstrap);
        todo!()
    }
}
