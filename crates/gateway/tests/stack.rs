//! Edge, s3s, operations and a whole cluster together: what only their seams can get wrong.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;

use std::sync::Arc;

use bytes::Bytes;
use cluster::{Cluster, noise, secret_keys};
use gateway::gate::Gate;
use gateway::gate::target::Hosts;
use gateway::http::{Edge, Limits};
use gateway::identity::{Identities, Identity};
use jepsen_like::s3::{Auth, Checksum, Client, Credentials, Payload, Request, Tamper};
use runtime::net::TcpListener;
use runtime::process::block_on;
use runtime::task;
use runtime::time::{Instant, now};
use std::time::Duration;

fn object(method: &str, key: &str) -> Request {
    Request::object(method, "bucket", key)
}

async fn code(client: &Client, request: Request) -> String {
    match client.call(&request).await {
        Ok(reply) => reply.status.to_string(),
        Err(error) => error.code().map_or_else(|| error.to_string(), str::to_owned),
    }
}

#[test]
fn trailing_checksums_documents_and_verdicts_pass_all_layers() {
    block_on(async {
        let cluster = Cluster::start().await;
        let identities = Identity::new("key", "secret").into();
        let gate = Gate { identities, region: "us-east-1".into(), hosts: Hosts::default(), presigned_v2: true };
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let _server = task::spawn(Arc::new(Edge::new(gate, cluster.operations, Limits::default())).serve(listener));
        let client = Client::new(address, Credentials::new("key", "secret"), "us-east-1");

        assert_eq!(code(&client, Request::bucket("PUT", "bucket")).await, "200");
        let chunk_bytes = 65536;
        for checksum in Checksum::ALL {
            for length in [0, 100, 3 << 20] {
                let body = Bytes::from(noise(length, 7));
                for payload in [Payload::UnsignedTrailer { chunk_bytes, checksum }, Payload::SignedChunksTrailer { chunk_bytes, checksum }]
                {
                    let put = object("PUT", "key").source(body.clone()).payload(payload);
                    let wrong = Tamper { trailer_value: Some(checksum.of(b"something else")), ..Tamper::default() };
                    assert_eq!(code(&client, put.clone().tamper(wrong)).await, "BadDigest", "{checksum:?} {length}");
                    let cut = Tamper { omit_last_chunk: true, ..Tamper::default() };
                    assert_eq!(code(&client, put.clone().tamper(cut)).await, "IncompleteBody", "{checksum:?} {length}");
                    assert_eq!(code(&client, object("GET", "key")).await, "NoSuchKey", "{checksum:?} {length}");

                    assert_eq!(code(&client, put).await, "200");
                    let get = object("GET", "key").header("x-amz-checksum-mode", "ENABLED");
                    let (headers, read) = client.call_whole(&get).await.unwrap();
                    assert!(read == body, "{checksum:?} {length}");
                    assert_eq!(headers[checksum.header()].to_str().unwrap(), checksum.of(&body));
                    assert!(!headers.contains_key("content-encoding"));

                    let document = "<Delete><Object><Key>key</Key></Object></Delete>".as_bytes();
                    let delete = Request::bucket("POST", "bucket").query("delete", "").source(document.to_vec());
                    let delete = delete.payload(Payload::UnsignedTrailer { chunk_bytes, checksum });
                    assert_eq!(code(&client, delete).await, "200");
                }
            }
        }

        let body = noise(100, 1);
        assert_eq!(code(&client, object("PUT", "key").source(body.clone())).await, "200");
        for (range, expected) in [("bytes=10-19", &body[10..20]), ("bytes=1-2,5-6", &body[..]), ("rubbish", &body[..])] {
            let (_, read) = client.call_whole(&object("GET", "key").header("range", range)).await.unwrap();
            assert_eq!(read, expected, "{range}");
        }
        for auth in [Auth::Query { expires_s: 60 }, Auth::QueryV2 { expires_s: 60 }] {
            assert_eq!(client.call_whole(&object("GET", "key").auth(auth)).await.unwrap().1, body);
        }
        assert_eq!(code(&client, object("PUT", "key").header("if-none-match", "*").source(body)).await, "PreconditionFailed");
        assert_eq!(code(&client, object("DELETE", "key").query("acl", "")).await, "NotImplemented");
        assert_eq!(code(&client, object("DELETE", "key").auth(Auth::Anonymous)).await, "AccessDenied");
        assert_eq!(code(&client, object("GET", "key")).await, "200");
    });
}

fn soon() -> Instant {
    now() + Duration::from_secs(20)
}

#[test]
fn the_nodes_own_identity_wins_over_a_row_and_rows_are_taken_as_they_stand() {
    block_on(async {
        let cluster = Cluster::start().await;
        let placement = &cluster.placement;
        let (own, other) = ("KEYOFTHENODEITSELF", "KEYOFSOMEBODYELSE0");
        let shadow = placement.create_identity(own, "shadow", [1; 16], soon()).await.unwrap();
        let row = placement.create_identity(other, "", [2; 16], soon()).await.unwrap();
        let identities = Identities::new(Identity::new(own, "secret of the file"), placement.clone(), secret_keys());
        let gate = Gate { identities, region: "us-east-1".into(), hosts: Hosts::default(), presigned_v2: true };
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let _server = task::spawn(Arc::new(Edge::new(gate, Silent, Limits::default())).serve(listener));
        let ask = async |access_key: &str, secret_key: &str| {
            let client = Client::new(address, Credentials::new(access_key, secret_key), "us-east-1");
            let link = object("GET", "key").auth(Auth::QueryV2 { expires_s: 60 });
            let (header, link) = (code(&client, object("GET", "key")).await, code(&client, link).await);
            assert_eq!(header, link, "{access_key}");
            header
        };
        // What the operation itself says, which implements nothing.
        const TAKEN: &str = "NotImplemented";
        assert_eq!(ask(own, "secret of the file").await, TAKEN);
        assert_eq!(ask(own, &secret_keys().of(&shadow)).await, "SignatureDoesNotMatch");
        assert_eq!(ask(other, &secret_keys().of(&row)).await, TAKEN);
        assert_eq!(ask(other, "secret of the file").await, "SignatureDoesNotMatch");
        assert_eq!(ask("KEYOFNOBODY", "secret of the file").await, "InvalidAccessKeyId");

        // Nobody tells this client of changes: what it knows goes by age.
        placement.set_identity_enabled(own, false, soon()).await.unwrap();
        placement.set_identity_enabled(other, false, soon()).await.unwrap();
        let began = now();
        while ask(other, &secret_keys().of(&row)).await == TAKEN {
            assert!(now() < began + placement::IDENTITY_AGE_MAX, "it is still taken");
            runtime::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(ask(other, &secret_keys().of(&row)).await, "InvalidAccessKeyId");
        assert_eq!(ask(own, "secret of the file").await, TAKEN);
    });
}

/// Operations that do nothing: whoever gets so far was taken.
struct Silent;

impl s3s::S3 for Silent {}
