//! An S3 client of our own over hyper: it works in production and in the simulator, never repeats a request, and can
//! get every part of a request wrong on purpose.
//!
//! ```no_run
//! # use jepsen_like::s3::{Client, Content, Credentials};
//! # async fn example() -> Result<(), jepsen_like::s3::Error> {
//! let client = Client::new("127.0.0.1:9000".parse().expect("an address"), Credentials::new("key", "secret"), "us-east-1");
//! client.create_bucket("bucket").await?;
//! let content = Content::new(7, 5 << 30);
//! client.put("bucket", "key", content).await?;
//! client.get_stream("bucket", "key").await?.verify(content).await?;
//! # Ok(())
//! # }
//! ```

mod body;
mod checksum;
mod client;
mod content;
mod request;
mod sign;
mod verbs;
mod xml;

pub use body::{BrokenOff, Source};
pub use checksum::{Checksum, Sum};
pub use client::{CONNECTIONS, Client, Error, REPLY_BYTES_MAX, Reply, Step, TIMEOUT, raw_exchange};
pub use content::{Content, Mismatch, Verifier};
pub use request::{Auth, Payload, Request, Tamper};
pub use sign::Credentials;
pub use verbs::{BucketPage, Condition, Head, List, ListKind, Listed, Page, Part, Written};
pub use xml::{Element, complete_upload};
