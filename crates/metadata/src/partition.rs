//! The state machine of one partition: which command and query is judged where.
//!
//! Always holds: the same commands make the same rows, on every replica; a row that this replica cannot read stops
//! the replica rather than the truth: to answer "refused" for a command that other replicas apply would make a
//! gateway abandon blobs that a record names.

use consensus::{Rows, RowsMut, StateMachine};
use protocol::wire;
use serde::Serialize;

use crate::commands::{Command, Query, Reply};
use crate::listing::WORK_BYTES;
use crate::rows::{Read, skip_revisions};
use crate::upload::Completion;
use crate::{Deletion, Error, Upload, ages, blob, bucket, garbage, lifecycle, listing, object, tags, upload, versions};

/// One partition. Its whole state is in its rows.
#[derive(Default)]
pub struct Partition;

impl StateMachine for Partition {
    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8> {
        // The text is fixed: replies are part of what replicas must agree on.
        let Ok(command) = wire::decode(command) else {
            return applied::<()>(rows, Err(bucket::malformed("the command does not decode")));
        };
        match command {
            Command::OpenBucket { bucket, attempt, share } => {
                let result = bucket::open(rows, bucket, attempt, share);
                applied(rows, result)
            }
            Command::CloseBucket { bucket, attempt, share } => {
                let result = bucket::close(rows, bucket, attempt, share);
                applied(rows, result)
            }
            Command::RemoveBucket { bucket, attempt } => {
                let result = bucket::remove(rows, bucket, attempt);
                applied(rows, result)
            }
            Command::Put { bucket, key, record, conditions } => {
                let result = object::put(rows, bucket, &key, record, &conditions);
                applied(rows, result)
            }
            Command::Delete { bucket, key, version, conditions, modified_ms } => {
                let result = object::delete(rows, bucket, &key, &Deletion { version, conditions, modified_ms });
                applied(rows, result)
            }
            Command::CreateUpload { bucket, key, upload, headers, tags, checksum, created_ms } => {
                let result = upload::create(rows, bucket, Upload { id: upload, key, headers, tags, checksum, created_ms });
                applied(rows, result)
            }
            Command::PutPart { bucket, key, upload, part } => {
                let result = upload::put_part(rows, bucket, &key, upload, part);
                applied(rows, result)
            }
            Command::CompleteUpload { bucket, key, upload, parts, conditions, checksum, modified_ms } => {
                let completion = Completion { parts, conditions, checksum, modified_ms };
                let result = upload::complete(rows, bucket, &key, upload, completion);
                applied(rows, result)
            }
            Command::AbortUpload { bucket, key, upload } => {
                let result = upload::abort(rows, bucket, &key, upload);
                applied(rows, result)
            }
            Command::Settle { writer, up_to, asked } => {
                let result = blob::settle(rows, writer, up_to, &asked);
                applied(rows, result)
            }
            Command::Collect { entry, through } => {
                let result = garbage::collect(rows, entry, through);
                applied(rows, result)
            }
            Command::SetVersioning { bucket, attempt, versioning } => {
                let result = bucket::set_versioning(rows, bucket, attempt, versioning);
                applied(rows, result)
            }
            Command::SetTags { bucket, key, version, tags } => {
                let result = tags::set(rows, bucket, &key, version, tags);
                applied(rows, result)
            }
            Command::SetLifecycle { bucket, attempt, lifecycle } => {
                let result = lifecycle::set(rows, bucket, attempt, lifecycle);
                applied(rows, result)
            }
            Command::MarkAge { revision, now_ms } => {
                let result = ages::mark(rows, revision, now_ms);
                applied(rows, result)
            }
            Command::Expire { bucket, from, at, now_ms } => {
                let result = lifecycle::expire(rows, bucket, &from, &at, now_ms);
                applied(rows, result)
            }
        }
    }

    fn refounded(&self, rows: &mut RowsMut<'_>) {
        skip_revisions(rows).expect("the counters decode, as every command reads them");
    }

    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8> {
        let Ok(query) = wire::decode(query) else {
            return answered::<()>(rows, Err(bucket::malformed("the query does not decode")));
        };
        match query {
            Query::Get { bucket, key, version } => answered(rows, object::get(rows, bucket, &key, version)),
            Query::CompletedParts { upload, first_number, max } => answered(rows, upload::completed_parts(rows, upload, first_number, max)),
            Query::List { bucket, query } => answered(rows, listing::objects(rows, bucket, &query, WORK_BYTES)),
            Query::Upload { bucket, key, upload } => answered(rows, upload::get(rows, bucket, &key, upload)),
            Query::ListParts { bucket, key, upload, after, max } => {
                answered(rows, upload::list_parts(rows, bucket, &key, upload, after, max))
            }
            Query::ListUploads { bucket, query } => answered(rows, listing::uploads(rows, bucket, &query, WORK_BYTES)),
            Query::Named { asked } => answered(rows, blob::named(rows, &asked)),
            Query::Garbage { after, max } => answered(rows, garbage::list(rows, after, max)),
            Query::Usage { bucket } => answered(rows, bucket::usage(rows, bucket)),
            Query::ListVersions { bucket, query } => answered(rows, listing::versions(rows, bucket, &query, WORK_BYTES)),
            Query::Place { bucket, key, version } => {
                let readable = bucket::readable(rows, bucket);
                answered(rows, readable.and_then(|_| versions::place(rows, bucket, &key, version)))
            }
            Query::Lifecycles { after } => answered(rows, lifecycle::list(rows, after)),
            Query::Ahead { bucket, at, now_ms } => answered(rows, lifecycle::ahead(rows, bucket, &at, now_ms)),
        }
    }
}

fn applied<T: Serialize>(rows: &RowsMut<'_>, result: Result<T, Error>) -> Vec<u8> {
    if let Err(Error::Unavailable(why)) = &result {
        panic!("a command met a row that this replica cannot read: {why}");
    }
    let revision = rows.counters().expect("the counters were read or written by the command, or decode").revision;
    wire::encode(&Reply { revision, result })
}

fn answered<T: Serialize>(rows: &Rows<'_>, result: Result<T, Error>) -> Vec<u8> {
    let reply = match rows.counters() {
        Ok(counters) => Reply { revision: counters.revision, result },
        Err(error) => Reply { revision: protocol::Revision(0), result: Err(error) },
    };
    wire::encode(&reply)
}
