//! Edge, s3s, operations and a whole cluster together: what only their seams can get wrong.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "the other test that uses it needs more of it")]
mod cluster;

use std::sync::Arc;

use bytes::Bytes;
use cluster::{Cluster, noise};
use gateway::gate::Gate;
use gateway::gate::target::Hosts;
use gateway::http::{Edge, Limits};
use gateway::identity::Identity;
use jepsen_like::s3::{Auth, Checksum, Client, Credentials, Payload, Request, Tamper};
use runtime::net::TcpListener;
use runtime::process::block_on;
use runtime::task;

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
