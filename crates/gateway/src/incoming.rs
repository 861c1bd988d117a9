//! The body of a PUT on its way in: counted, hashed, and believed only when it has ended as it promised.

use crate::digest::{Digested, Digests, Expected};
use crate::error;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use s3s::dto::StreamingBlob;
use s3s::{S3Result, TrailingHeaders, s3_error};
use std::time::Duration;

/// A client that sends nothing for this long while its bytes are admitted is cut off.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A body under way.
pub struct Incoming {
    stream: BoxStream<'static, S3Result<Bytes>>,
    trailing: Option<TrailingHeaders>,
    digests: Option<Digests>,
    /// Received, counted and hashed, not yet taken.
    pending: Bytes,
    /// Bytes that are yet to come.
    awaited: u64,
}

impl Incoming {
    /// A client's body of exactly `bytes`.
    pub fn of_client(body: Option<StreamingBlob>, bytes: u64, trailing: Option<TrailingHeaders>, expected: Expected) -> Incoming {
        let stream = match body {
            Some(body) => body.map_err(|error| error::of_body(&error)).boxed(),
            None => futures::stream::empty().boxed(),
        };
        Incoming { stream, trailing, digests: Some(Digests::new(expected)), pending: Bytes::new(), awaited: bytes }
    }

    /// Exactly `bytes` read from elsewhere in the cluster.
    pub fn of_copy(stream: BoxStream<'static, S3Result<Bytes>>, bytes: u64, expected: Expected) -> Incoming {
        Incoming { stream, trailing: None, digests: Some(Digests::new(expected)), pending: Bytes::new(), awaited: bytes }
    }

    /// Bytes that have not been taken yet.
    pub fn remaining(&self) -> u64 {
        self.awaited + self.pending.len() as u64
    }

    /// The next bytes, at least one and at most `max`, while any remain. Can be cancelled without loss.
    pub async fn next(&mut self, max: usize) -> S3Result<Bytes> {
        while self.pending.is_empty() && self.awaited > 0 {
            let Some(bytes) = self.poll().await? else {
                return Err(s3_error!(
                    IncompleteBody,
                    "You did not provide the number of bytes specified by the Content-Length HTTP header"
                ));
            };
            self.accept(bytes)?;
        }
        Ok(self.pending.split_to(self.pending.len().min(max)))
    }

    /// All bytes were taken: the body must end here, with the digests and trailers that it promised.
    pub async fn finish(&mut self) -> S3Result<Digested> {
        debug_assert_eq!(self.remaining(), 0);
        // Signatures of the last chunk and of the whole body are verified where the stream ends.
        while let Some(bytes) = self.poll().await? {
            self.accept(bytes)?;
        }
        let trailers = self.trailing.as_ref().and_then(TrailingHeaders::take);
        let digests = self.digests.take().ok_or_else(|| s3_error!(InternalError, "a body ended twice"))?;
        digests.finish(trailers.as_ref())
    }

    async fn poll(&mut self) -> S3Result<Option<Bytes>> {
        match runtime::time::timeout(IDLE_MAX, self.stream.next()).await {
            Ok(next) => next.transpose(),
            Err(_) => Err(s3_error!(
                RequestTimeout,
                "Your socket connection to the server was not read from or written to within the timeout period."
            )),
        }
    }

    fn accept(&mut self, bytes: Bytes) -> S3Result<()> {
        let count = bytes.len() as u64;
        if count > self.awaited {
            return Err(s3_error!(
                IncompleteBody,
                "The body is longer than the Content-Length or x-amz-decoded-content-length header says"
            ));
        }
        self.awaited -= count;
        if let Some(digests) = &mut self.digests {
            digests.update(&bytes);
        }
        self.pending = bytes;
        Ok(())
    }
}
