//! The methods that replicas serve to each other and to clients (service 2).

use crate::driver::Input;
use crate::host::{Refused, Switchboard};
use crate::log::Key;
use crate::replica::{Query, Waiter};
use crate::wire::{self, Answer, Fetch, Frame, Note, PageRequest, Propose, Read};
use bytes::Bytes;
use protocol::limits::COMMAND_BYTES_MAX;
use protocol::wire::{decode, encode};
use protocol::{GroupId, NodeId, ReplicaId};
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
            let data = wire::encode_command(propose.session, &request.body);
            let input = |waiter| Input::Propose { key, data, waiter };
            ask(&shared, key, request.deadline, input).await
        }
        wire::READ => {
            let Ok(read) = decode::<Read>(&request.meta) else { return answer(Answer::Malformed, Bytes::new()) };
            let key = Key { group: read.group, replica: read.replica };
            let input = |waiter| Input::Read { key, query: Query { query: request.body, since: time::now(), waiter } };
            ask(&shared, key, request.deadline, input).await
        }
        wire::FETCH => {
            let Ok(asked) = decode::<Fetch>(&request.meta) else { return answer(Answer::Malformed, Bytes::new()) };
            if !lives_there(&shared, asked.group, asked.from, request.from) {
                return answer(Answer::NoReplica, Bytes::new());
            }
            let key = Key { group: asked.group, replica: asked.to };
            let (waiter, wait) = oneshot::channel();
            if shared.offer(key, Input::Fetch { key, asked, waiter }).is_err() {
                return answer(Answer::NoReplica, Bytes::new());
            }
            match time::timeout_at(request.deadline, wait).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) | Err(_) => answer(Answer::NoReplica, Bytes::new()),
            }
        }
        wire::SNAPSHOT_PAGE => match decode::<PageRequest>(&request.meta) {
            Ok(page) => shared.offers.serve(page, shared.settings.snapshot_page_bytes).await,
            Err(_) => answer(Answer::Malformed, Bytes::new()),
        },
        _ => answer(Answer::Malformed, Bytes::new()),
    }
}

/// Ask a replica of this node and wait for its answer, at most until `deadline`.
async fn ask(shared: &Switchboard, key: Key, deadline: time::Instant, input: impl FnOnce(Waiter) -> Input) -> Reply {
    let (waiter, wait) = oneshot::channel();
    match shared.offer(key, input(waiter)) {
        Ok(()) => {}
        Err(Refused::Busy) => return answer(Answer::Busy, Bytes::new()),
        Err(Refused::NoReplica) => return answer(Answer::NoReplica, Bytes::new()),
    }
    match time::timeout_at(deadline, wait).await {
        Ok(Ok((outcome, body))) => answer(outcome, body),
        // The replica's drive ended, or nothing came in time: what was taken may still be committed.
        Ok(Err(_)) | Err(_) => answer(Answer::Unknown, Bytes::new()),
    }
}

fn lives_there(shared: &Switchboard, group: GroupId, replica: ReplicaId, node: NodeId) -> bool {
    let spec = shared.groups.get(&group);
    spec.is_some_and(|spec| spec.voters.iter().any(|voter| voter.replica == replica && voter.node == node))
}

/// Pass on what another node's replicas say, if they live there.
fn take_frame(shared: &Switchboard, from: NodeId, meta: &[u8], mut body: Bytes) {
    let Ok(frame) = decode::<Frame>(meta) else { return };
    let lives_there = |group: GroupId, replica: ReplicaId| lives_there(shared, group, replica, from);
    for message in frame.messages {
        let (group, sender) = (message.group, message.from);
        let key = Key { group, replica: message.to };
        // A malformed message leaves the body at an unknown place: nothing after it can be told apart.
        let Some(message) = message.into_raft(&mut body) else { return };
        if lives_there(group, sender) {
            shared.route(key, Input::Message { key, message });
        }
    }
    for note in frame.notes {
        let (Note::Hash { group, from: sender, .. } | Note::SnapshotFailed { group, from: sender, .. }) = &note;
        if lives_there(*group, *sender) {
            shared.route(note.to(), Input::Note(note));
        }
    }
}
