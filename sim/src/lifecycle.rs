//! Objects that expire while faults strike. Not through recorded clients: what goes by itself would be a loss to their models. That
//! nothing goes too early the logs tell (`judge/expiry.rs`); that all goes in the end is seen here.

use crate::violation::Violation;
use jepsen_like::s3::{Client, Content, Error, Request};
use runtime::time::{self, Instant};
use std::time::Duration;

/// One whose versioning was never set, and one where it is enabled.
const BUCKETS: [&str; 2] = ["expiring", "expiring-versions"];
/// Everything goes after a day.
const RULES: &str = "<LifecycleConfiguration><Rule><ID>all</ID><Status>Enabled</Status><Filter/>\
    <Expiration><Days>1</Days></Expiration>\
    <NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>\
    <AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>\
    </Rule></LifecycleConfiguration>";
const VERSIONING: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
/// Few, so that young versions hide old ones.
const KEYS: u64 = 5;
const PAUSE: Duration = Duration::from_millis(600);
/// Days that the last version of a key takes to go: one until a marker hides it, one until it goes, one until the marker does,
/// each up to its end; and a walk after each.
const DAYS: u32 = 8;
/// Cluster time lags by so much, and walks wait for it.
const LAG: Duration = Duration::from_secs(60);

/// Make the buckets, with their rules, until `deadline`.
pub async fn begin(clients: &[Client], deadline: Instant) -> Result<(), Error> {
    for (number, bucket) in BUCKETS.into_iter().enumerate() {
        let mut requests = vec![Request::bucket("PUT", bucket)];
        if number == 1 {
            requests.push(Request::bucket("PUT", bucket).query("versioning", "").source(VERSIONING.to_string()));
        }
        requests.push(Request::bucket("PUT", bucket).query("lifecycle", "").source(RULES.to_string()));
        for request in requests {
            let mut turn = 0;
            while let Err(error) = clients[turn % clients.len()].call_whole(&request).await {
                if error.code() == Some("BucketAlreadyOwnedByYou") {
                    break;
                }
                if time::now() >= deadline {
                    return Err(error);
                }
                turn += 1;
                time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

/// Write, delete and begin uploads until `until`. What fails is no loss.
pub async fn work(clients: &[Client], until: Instant) {
    for step in 0_u64.. {
        if time::now() >= until {
            return;
        }
        let client = &clients[usize::try_from(step).unwrap_or(0) % clients.len()];
        let (bucket, key) = (BUCKETS[usize::from(step % 2 == 1)], format!("expiring-{}", step / 2 % KEYS));
        match step % 11 {
            7 => drop(client.delete(bucket, &key).await),
            8 => drop(client.create_upload(bucket, &key).await),
            _ => drop(client.put(bucket, &key, Content::new(step, 100 + 700 * step % 20_000)).await),
        }
        time::sleep(PAUSE).await;
    }
}

/// All of it goes by itself, if nobody writes any more.
pub async fn ends(clients: &[Client], day: Duration) -> Option<Violation> {
    let deadline = time::now() + day * DAYS + LAG;
    let mut left = String::new();
    for turn in 0.. {
        let client = &clients[turn % clients.len()];
        match standing(client).await {
            Ok(standing) if standing.is_empty() => return None,
            Ok(standing) => left = standing,
            Err(error) => left = format!("unknown: {error}"),
        }
        if time::now() >= deadline {
            break;
        }
        time::sleep(day / 8).await;
    }
    Some(Violation::new("expires-in-the-end", format!("{} s after the last write there is still {left}", (day * DAYS + LAG).as_secs())))
}

/// What is left, in words.
async fn standing(client: &Client) -> Result<String, Error> {
    let mut left = Vec::new();
    for bucket in BUCKETS {
        for (setting, rows) in [("versions", &["Version", "DeleteMarker"][..]), ("uploads", &["Upload"][..])] {
            let root = client.call(&Request::bucket("GET", bucket).query(setting, "")).await?.xml().await?;
            let of_rows = root.children.iter().filter(|child| rows.contains(&child.name.as_str()));
            left.extend(of_rows.map(|row| format!("{} {} of {bucket}", row.name, row.text_of("Key"))));
        }
    }
    left.truncate(5);
    Ok(left.join(", "))
}
