//! Clients that hang up in the midst of what is done to a bucket in several steps.
#![cfg(not(madsim))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;

use cluster::{Cluster, request};
use runtime::process::block_on;
use runtime::time::{self, sleep, timeout};
use s3s::S3;
use s3s::dto::*;
use std::time::Duration;

/// Waits until `done`, for less than a gateway takes to find what others left half done.
async fn soon(what: &str, mut done: impl AsyncFnMut() -> Option<()>) {
    let end = time::now() + Duration::from_secs(10);
    while done().await.is_none() {
        assert!(time::now() < end, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn what_a_client_hangs_up_on_comes_to_its_end() {
    block_on(async {
        let cluster = Cluster::start().await;
        for round in 0..60 {
            let (name, patience) = (format!("bucket-{round}"), Duration::from_micros(150 * round));
            let created = timeout(patience, cluster.create_bucket(&name)).await;
            // Whether or not it was begun, the name can be had.
            soon("created", async || {
                let error = cluster.create_bucket(&name).await.err();
                error.is_none_or(|error| error.code().as_str() == "BucketAlreadyOwnedByYou").then_some(())
            })
            .await;
            cluster.put(&name, "key", b"x").await.unwrap();
            let deleted = timeout(patience, cluster.delete_bucket(&name)).await;
            assert!(deleted.is_err() || deleted.unwrap().unwrap_err().code().as_str() == "BucketNotEmpty");
            soon("a bucket that is not empty takes writes again", async || cluster.put(&name, "key", b"y").await.is_ok().then_some(()))
                .await;
            let versioning = VersioningConfiguration {
                status: Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
                ..VersioningConfiguration::default()
            };
            let set = PutBucketVersioningInput::builder().bucket(name.clone()).versioning_configuration(versioning).build().unwrap();
            let _ = timeout(patience, cluster.operations.put_bucket_versioning(request(set))).await;
            let delete =
                DeleteObjectInput { bucket: name.clone(), key: "key".into(), version_id: Some("null".into()), ..Default::default() };
            // That deletion may only have begun behind the write.
            soon("and deletions", async || cluster.operations.delete_object(request(delete.clone())).await.is_ok().then_some(())).await;
            let _ = timeout(patience, cluster.delete_bucket(&name)).await;
            soon("an empty bucket is deleted", async || match cluster.delete_bucket(&name).await {
                Ok(()) => Some(()),
                Err(error) => (error.code().as_str() == "NoSuchBucket").then_some(()),
            })
            .await;
            assert!(round > 0 || created.is_err(), "at first nobody waits at all");
        }
    });
}

/// As a gateway leaves it that ends while it takes back what another one left.
#[test]
fn a_name_whose_creation_was_half_taken_back_can_be_created_at_once() {
    block_on(async {
        let cluster = Cluster::start().await;
        let deadline = || time::now() + Duration::from_secs(10);
        let begun = cluster.placement.begin_create_bucket("name", "keepstone", 1, deadline()).await.unwrap();
        let left = metadata::BucketRef { id: begun.id, partitions: begun.partitions.clone() };
        cluster.metadata.open_bucket(&left, begun.attempt, deadline()).await.unwrap();
        let taken = cluster.placement.take_over_bucket("name", begun.attempt, deadline()).await.unwrap();
        assert!(cluster.metadata.close_bucket(&left, taken.attempt, deadline()).await.unwrap());
        cluster.metadata.remove_bucket(&left, taken.attempt, deadline()).await.unwrap();
        cluster.create_bucket("name").await.unwrap();
        cluster.put("name", "key", b"x").await.unwrap();
        assert_ne!(cluster.placement.bucket_now("name", deadline()).await.unwrap().id, begun.id, "another incarnation");
    });
}
