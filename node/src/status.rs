//! Figures about a running node, for status files and benches.

use crate::drives::Refused;
use crate::node::Node;

/// One JSON object: drives, replicas, and what the process has synced so far.
pub fn figures(node: &Node) -> String {
    let drives: Vec<_> = node
        .storage()
        .status()
        .into_iter()
        .map(|drive| {
            serde_json::json!({
                "drive": drive.drive.0, "label": drive.label, "closed": drive.closed,
                "slots": drive.slots, "shards": drive.shards, "bytes": drive.bytes,
            })
        })
        .collect();
    let replicas: Vec<_> = node
        .host()
        .status()
        .into_iter()
        .map(|replica| {
            serde_json::json!({
                "group": replica.group.0, "replica": replica.replica.0, "drive": replica.drive.0, "term": replica.term,
                "leader": replica.leader.map(|leader| leader.0), "applied": replica.applied, "committed": replica.committed,
                "state_hash": format!("{:016x}", replica.state_hash),
                "trouble": replica.trouble, "program_too_old": replica.program_too_old,
                "members": replica.members.map(|members| serde_json::json!({
                    "version": members.version,
                    "voters": members.voters.iter().map(|place| place.replica.0).collect::<Vec<_>>(),
                    "outgoing": members.outgoing.iter().map(|place| place.replica.0).collect::<Vec<_>>(),
                    "parting": members.parting.iter().map(|place| place.replica.0).collect::<Vec<_>>(),
                    "learners": members.learners.iter().map(|place| place.replica.0).collect::<Vec<_>>(),
                })),
            })
        })
        .collect();
    let named = |drives: &[Refused]| -> Vec<_> {
        drives.iter().map(|drive| serde_json::json!({ "label": drive.label, "reason": drive.reason })).collect()
    };
    serde_json::json!({
        "syncs": runtime::disk::syncs(),
        "drives": drives,
        "replicas": replicas,
        "refused": named(node.refused()),
        "without_replicas": named(node.without_replicas()),
    })
    .to_string()
}
