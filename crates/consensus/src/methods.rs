//! The methods that replicas serve to each other and to clients (service 2).

use crate::driver::Input;
use crate::host::{Refused, Switchboard};
use crate::log::Key;
use crate::replica::{Query, Waiter};
use crate::wire::{
    self, Answer, Create, Fetch, Frame, PageRequest, ProofRequest, Propose, ProposeChange, Read, Remove, Tail, TailRequest, WhoBelongs,
};
use bytes::Bytes;
use protocol::limits::COMMAND_BYTES_MAX;
use protocol::wire::{decode, encode};
use protocol::{DriveId, NodeId};
use runtime::rpc::{Reply, Request};
use runtime::sync::oneshot;
use runtime::time;
use std::sync::Arc;

const SERVICE: u8 = 2;

/// Serve `shared` until its host is gone.
pub(crate) fn register(shared: &Arc<Switchboard>) {
    // Weak, as the RPC holds its services and the host holds the RPC.
    let weak = Arc::downgrade(shared);
    let serve = move |request| {
        let shared = weak.upgrade();
        let reply: futures::future::BoxFuture<'static, Reply> = Box::pin(async move {
            match shared {
                Some(shared) => serve(shared, request).await,
                None => answer(Answer::NoReplica, Bytes::new()),
            }
        });
        reply
    };
    shared.rpc.register(SERVICE, Arc::new(serve));
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Answer {
        match refused {
            Refused::NoReplica => Answer::NoReplica,
            Refused::Busy => Answer::Busy,
        }
    }
}

fn answer(answer: Answer, body: Bytes) -> Reply {
    Reply { meta: encode(&answer).into(), body: if body.is_empty() { Vec::new() } else { vec![body] } }
}

async fn serve(shared: Arc<Switchboard>, request: Request) -> Reply {
    match request.method {
        wire::MESSAGES => {
            take_frame(&shared, request.from, &request.meta, request.body);
            Reply::default()
        }
        wire::PROPOSE => {
            let Ok(propose) = decode::<Propose>(&request.meta) else { return answer(Answer::Malformed, Bytes::new()) };
            if request.body.len() > COMMAND_BYTES_MAX {
                return answer(Answer::Malformed, Bytes::new());
            }
            let key = Key { group: propose.group, replica: propose.replica };
            let queued = match shared.queue(key, request.body.len()) {
                Ok(queued) => queued,
                Err(refused) => return answer(refused.into(), Bytes::new()),
            };
            let data = wire::encode_command(propose.session, &request.body);
            ask(&shared, key, request.deadline, |waiter| Input::Propose { key, data, queued, waiter }).await
        }
        wire::READ => {
            let Ok(read) = decode::<Read>(&request.meta) else { return answer(Answer::Malformed, Bytes::new()) };
            let key = Key { group: read.group, replica: read.replica };
            let input = |waiter| Input::Read { key, query: Query { query: request.body, since: time::now(), waiter } };
            ask(&shared, key, request.deadline, input).await
        }
        wire::FETCH => {
            let Ok(asked) = decode::<Fetch>(&request.meta) else { return answer(Answer::Malformed, Bytes::new()) };
            let key = Key { group: asked.group, replica: asked.to };
            let (waiter, wait) = oneshot::channel();
            if shared.offer(key, Input::Fetch { key, from: request.from, asked, waiter }).is_err() {
                return answer(Answer::NoReplica, Bytes::new());
            }
            match time::timeout_at(request.deadline, wait).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) | Err(_) => answer(Answer::NoReplica, Bytes::new()),
            }
        }
        wire::CHANGE => {
            let Ok(ProposeChange { group, replica, change }) = decode(&request.meta) else { return malformed() };
            let key = Key { group, replica };
            ask(&shared, key, request.deadline, |waiter| Input::Change { key, change, waiter }).await
        }
        wire::MEMBERS => match decode::<WhoBelongs>(&request.meta) {
            Ok(who) => answer(Answer::Reply, encode(&shared.told(who.group)).into()),
            Err(_) => malformed(),
        },
        wire::CREATE => {
            let Ok(Create { group, replica, drive }) = decode(&request.meta) else { return malformed() };
            let key = Key { group, replica };
            ask_drive(&shared, drive, request.deadline, |waiter| Input::Create { key, waiter }).await
        }
        wire::REMOVE => {
            let Ok(Remove { group, replica, drive, members }) = decode(&request.meta) else { return malformed() };
            let key = Key { group, replica };
            match shared.drive_of(key) {
                Some(drive) => ask_drive(&shared, drive, request.deadline, |waiter| Input::Remove { key, members, waiter }).await,
                None if shared.has(drive) => answer(Answer::Reply, Bytes::new()),
                // Whatever is on a drive that is not open comes back with it.
                None => answer(Answer::NoReplica, Bytes::new()),
            }
        }
        wire::SNAPSHOT_PAGE => match decode::<PageRequest>(&request.meta) {
            Ok(page) => shared.offers.serve(page, shared.settings.snapshot_page_bytes).await,
            Err(_) => answer(Answer::Malformed, Bytes::new()),
        },
        wire::SNAPSHOT_PROOF => match decode::<ProofRequest>(&request.meta) {
            Ok(asked) => Reply { meta: encode(&shared.offers.proof(asked.token)).into(), body: Vec::new() },
            Err(_) => malformed(),
        },
        wire::SNAPSHOT_TAIL => {
            let Ok(asked) = decode::<TailRequest>(&request.meta) else { return malformed() };
            let key = Key { group: asked.group, replica: asked.to };
            let (waiter, wait) = oneshot::channel();
            let told = |tail: Tail| Reply { meta: encode(&tail).into(), body: Vec::new() };
            match shared.offer(key, Input::Tail { key, from: request.from, asked, waiter }) {
                Ok(()) => {}
                Err(Refused::Busy) => return told(Tail::Entries(Vec::new())),
                Err(Refused::NoReplica) => return told(Tail::Gone),
            }
            match time::timeout_at(request.deadline, wait).await {
                Ok(Ok(reply)) => reply,
                // Refused for now, or it stops.
                Ok(Err(_)) | Err(_) => told(Tail::Entries(Vec::new())),
            }
        }
        _ => answer(Answer::Malformed, Bytes::new()),
    }
}

fn malformed() -> Reply {
    answer(Answer::Malformed, Bytes::new())
}

/// Ask a replica of this node and wait for its answer, at most until `deadline`.
async fn ask(shared: &Switchboard, key: Key, deadline: time::Instant, input: impl FnOnce(Waiter) -> Input) -> Reply {
    let (waiter, wait) = oneshot::channel();
    answered(shared.offer(key, input(waiter)), wait, deadline).await
}

/// Ask the driver of a drive of this node.
async fn ask_drive(shared: &Switchboard, drive: DriveId, deadline: time::Instant, input: impl FnOnce(Waiter) -> Input) -> Reply {
    let (waiter, wait) = oneshot::channel();
    answered(shared.tell(drive, input(waiter)), wait, deadline).await
}

async fn answered(taken: Result<(), Refused>, wait: oneshot::Receiver<(Answer, Bytes)>, deadline: time::Instant) -> Reply {
    match taken {
        Ok(()) => {}
        Err(refused) => return answer(refused.into(), Bytes::new()),
    }
    match time::timeout_at(deadline, wait).await {
        Ok(Ok((outcome, body))) => answer(outcome, body),
        // The replica's drive ended, or nothing came in time: what was taken may still be committed.
        Ok(Err(_)) | Err(_) => answer(Answer::Unknown, Bytes::new()),
    }
}

/// Pass on what another node's replicas say, if they live there.
fn take_frame(shared: &Switchboard, from: NodeId, meta: &[u8], mut body: Bytes) {
    let Ok(frame) = decode::<Frame>(meta) else { return };
    for message in frame.messages {
        let key = Key { group: message.group, replica: message.to };
        // A malformed message leaves the body at an unknown place: nothing after it can be told apart.
        let Some(message) = message.into_raft(&mut body) else { return };
        // Whether the sender may speak for itself from there is for the replica to say.
        shared.pass_on(key, from, message);
    }
    for note in frame.notes {
        shared.route(note.to(), Input::Note { from, note });
    }
}
