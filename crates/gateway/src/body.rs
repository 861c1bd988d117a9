//! The bodies of requests: [`GuardedBody`] stands before s3s and lets through only what is in order, [`DecodedBody`]
//! stands behind it, before the operation.
//!
//! Invariants: whoever reads a body to its end has read exactly the announced bytes, verified as the request announced;
//! whatever goes wrong is kept in the request's [`BodyWatch`], whose verdict becomes the response.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body::{Body, Frame, SizeHint};
use runtime::sync::{OwnedSemaphorePermit, Semaphore};
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Error, S3ErrorCode, StdError};

use crate::chunks::ChunkWatch;
use crate::gate::framing::Framing;
use crate::gate::refusal::Refusal;
use crate::patience::Patience;

/// A body that gives less than this while we wait for [`crate::http::Limits::body_idle`] is given up.
const BODY_BYTES_MIN: usize = 1024;

/// Chunks up to this size need no share of [`ChunkRoom`].
const CHUNK_BYTES_FREE: u64 = 1 << 20;
/// Bytes of large chunks that s3s may hold at once, all requests together.
const CHUNK_ROOM_BYTES: usize = 64 << 20;

/// The room for large aws-chunked chunks, which s3s holds whole until their signature is verified. A request that finds
/// none left is told to slow down: waiting here, with part of a blob admitted, could wait for ever.
#[derive(Clone)]
pub struct ChunkRoom(Arc<Semaphore>);

impl Default for ChunkRoom {
    fn default() -> ChunkRoom {
        ChunkRoom(Arc::new(Semaphore::new(CHUNK_ROOM_BYTES)))
    }
}

impl ChunkRoom {
    /// Bytes of chunks that are held at present.
    pub fn held_bytes(&self) -> usize {
        CHUNK_ROOM_BYTES - self.0.available_permits()
    }
}

/// What became of a request's body.
#[derive(Debug, Default)]
pub struct BodyWatch(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    failure: Option<Refusal>,
    read_whole: bool,
}

impl BodyWatch {
    /// Why the body cannot be had, if so. It explains every error of the operation that read it.
    pub fn failure(&self) -> Option<Refusal> {
        self.lock().failure.clone()
    }

    /// Keep the first failure.
    pub(crate) fn fail(&self, code: S3ErrorCode, message: &str) {
        self.lock().failure.get_or_insert_with(|| Refusal::new(code, message));
    }

    /// Whether the client has nothing more to send.
    pub(crate) fn is_read_whole(&self) -> bool {
        self.lock().read_whole
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().expect("no holder panics")
    }
}

/// The error of a body, for whoever reads it.
#[derive(Debug)]
pub struct BodyError(String);

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BodyError {}

/// A body as the client sends it, guarded before anything is decoded.
pub struct GuardedBody<B> {
    inner: Option<B>,
    watch: Arc<BodyWatch>,
    chunks: Option<ChunkWatch>,
    room: ChunkRoom,
    held: Option<OwnedSemaphorePermit>,
    patience: Patience,
}

impl<B> GuardedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// `idle` is how long the body may give next to nothing.
    pub fn new(inner: B, framing: &Framing, watch: Arc<BodyWatch>, room: ChunkRoom, idle: Duration) -> GuardedBody<B> {
        if inner.is_end_stream() {
            watch.lock().read_whole = true;
        }
        let chunks = match framing {
            Framing::Plain { .. } => None,
            Framing::Chunked { length, signed, trailer } => Some(ChunkWatch::new(*length, *signed, trailer.clone())),
        };
        GuardedBody { inner: Some(inner), watch, chunks, room, held: None, patience: Patience::new(idle, BODY_BYTES_MIN) }
    }

    /// Nothing more is read; the failure is the verdict.
    fn fail(&mut self, code: S3ErrorCode, message: &str) -> BodyError {
        self.watch.fail(code, message);
        self.inner = None;
        self.held = None;
        BodyError(message.to_owned())
    }

    fn admit_data(&mut self, data: &Bytes) -> Result<(), BodyError> {
        let Some(chunks) = &mut self.chunks else { return Ok(()) };
        let before = chunks.chunk_bytes();
        if let Err((code, message)) = chunks.feed(data) {
            return Err(self.fail(code, message));
        }
        let now = chunks.chunk_bytes();
        if now == before {
            return Ok(());
        }
        // s3s asked for more than the last chunk: that one is with the operation.
        self.held = None;
        if now > CHUNK_BYTES_FREE {
            let bytes = u32::try_from(now).expect("at most 16 MiB");
            match self.room.0.clone().try_acquire_many_owned(bytes) {
                Ok(permit) => self.held = Some(permit),
                Err(_) => return Err(self.fail(S3ErrorCode::SlowDown, "Too many large chunks at once. Use smaller ones or slow down.")),
            }
        }
        Ok(())
    }
}

impl<B> Body for GuardedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let Some(inner) = &mut this.inner else {
                // Ended; or failed, and then an end would look like success.
                return Poll::Ready(this.watch.failure().map(|refusal| Err(BodyError(refusal.message))));
            };
            match Pin::new(inner).poll_frame(cx) {
                Poll::Pending => {
                    ready!(this.patience.poll_exhausted(cx));
                    let message = "Your socket connection to the server was not read from or written to within the timeout period.";
                    return Poll::Ready(Some(Err(this.fail(S3ErrorCode::RequestTimeout, message))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of HTTP itself carry nothing that S3 knows.
                    let Ok(data) = frame.into_data() else { continue };
                    this.patience.progress(data.len());
                    return Poll::Ready(Some(this.admit_data(&data).map(|()| Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => {
                    let message = format!("The request body ended early or is malformed: {error}");
                    return Poll::Ready(Some(Err(this.fail(S3ErrorCode::IncompleteBody, &message))));
                }
                Poll::Ready(None) => {
                    this.watch.lock().read_whole = true;
                    if let Some(Err((code, message))) = this.chunks.as_mut().map(ChunkWatch::finish) {
                        return Poll::Ready(Some(Err(this.fail(code, message))));
                    }
                    this.inner = None;
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // A chunked body's end has to be judged, so it must be asked for.
        self.chunks.is_none() && self.inner.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// A body as the operation reads it: decoded, exactly as long as announced. The last bytes are held back until the
/// end was verified, so that a reader who merely counts cannot miss a failed signature or digest.
pub struct DecodedBody {
    inner: StreamingBlob,
    watch: Arc<BodyWatch>,
    /// Bytes that must still come from below.
    left: u64,
    /// The last bytes, until the end below is verified.
    last: Option<Bytes>,
    ended: bool,
}

impl DecodedBody {
    pub fn new(inner: StreamingBlob, length: u64, watch: Arc<BodyWatch>) -> DecodedBody {
        DecodedBody { inner, watch, left: length, last: None, ended: false }
    }

    fn fail(&mut self, code: S3ErrorCode, message: &str) -> StdError {
        self.watch.fail(code.clone(), message);
        self.ended = true;
        self.last = None;
        // What went wrong first says more than what followed from it.
        let verdict = self.watch.failure().unwrap_or_else(|| Refusal::new(code, message));
        Box::new(S3Error::with_message(verdict.code, verdict.message))
    }
}

impl Stream for DecodedBody {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    let length = bytes.len() as u64;
                    if length > this.left {
                        return Poll::Ready(Some(Err(this.fail(S3ErrorCode::IncompleteBody, "The body is longer than announced."))));
                    }
                    this.left -= length;
                    if this.left > 0 {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                    this.last = Some(bytes);
                }
                Some(Err(error)) => {
                    let (code, message) = classify(&error.to_string());
                    return Poll::Ready(Some(Err(this.fail(code, message))));
                }
                None if this.left > 0 => {
                    return Poll::Ready(Some(Err(this.fail(S3ErrorCode::IncompleteBody, "The body is shorter than announced."))));
                }
                None => {
                    this.ended = true;
                    return Poll::Ready(this.last.take().map(Ok));
                }
            }
        }
    }
}

impl ByteStream for DecodedBody {
    fn remaining_length(&self) -> RemainingLength {
        let left = self.left + self.last.as_ref().map_or(0, |bytes| bytes.len() as u64);
        usize::try_from(left).map_or_else(|_| RemainingLength::unknown(), RemainingLength::new_exact)
    }
}

/// What an error of s3s's decoders means. Their types are private; their texts are pinned with the version, and by tests.
pub(crate) fn classify(text: &str) -> (S3ErrorCode, &'static str) {
    if text.contains("Sha256Mismatch") {
        let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
        return (code, "The provided 'x-amz-content-sha256' header does not match what was computed.");
    }
    if text.contains("SignatureMismatch") {
        return (S3ErrorCode::SignatureDoesNotMatch, "The signature of a chunk or of the trailers does not match.");
    }
    if text.contains("FormatError") || text.contains("TooLarge") || text.contains("TooMany") {
        return (S3ErrorCode::InvalidRequest, "The aws-chunked body is malformed.");
    }
    (S3ErrorCode::IncompleteBody, "You did not provide the number of bytes specified by the Content-Length HTTP header.")
}

// On the real executor: one process runs one simulation, and these are many.
#[cfg(test)]
#[cfg(not(madsim))]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};
    use runtime::process::block_on;

    const IDLE: Duration = Duration::from_secs(30);

    #[test]
    fn a_silent_body_is_given_up_and_one_that_trickles_too() {
        let framing = Framing::Plain { length: 100_000 };
        let read = |gap_ms: u64, bytes: usize| {
            let frames = stream::unfold((), move |()| async move {
                runtime::time::sleep(Duration::from_millis(gap_ms)).await;
                Some((Ok::<_, BodyError>(Frame::data(Bytes::from(vec![0; bytes]))), ()))
            });
            let watch = Arc::new(BodyWatch::default());
            let body = StreamBody::new(Box::pin(frames.take(20)));
            let body = GuardedBody::new(body, &framing, watch.clone(), ChunkRoom::default(), Duration::from_millis(200));
            (block_on(body.collect()).is_ok(), watch.failure().map(|refusal| refusal.code))
        };
        assert_eq!(read(5_000, 1 << 20), (false, Some(S3ErrorCode::RequestTimeout)));
        assert_eq!(read(50, 1), (false, Some(S3ErrorCode::RequestTimeout)));
        assert_eq!(read(20, 4096), (true, None));
    }

    #[test]
    fn the_reader_s_own_pauses_are_not_the_client_s() {
        let framing = Framing::Plain { length: 10 };
        let frames = stream::iter((0..10).map(|_| Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"x")))));
        let mut body = GuardedBody::new(StreamBody::new(frames), &framing, Arc::default(), ChunkRoom::default(), Duration::from_millis(50));
        block_on(async {
            for _ in 0..10 {
                runtime::time::sleep(Duration::from_millis(20)).await;
                assert!(body.frame().await.unwrap().is_ok());
            }
        });
    }

    fn guarded(framing: &Framing, pieces: &[&'static str]) -> (Result<Bytes, String>, Arc<BodyWatch>) {
        let frames: Vec<_> = pieces.iter().map(|piece| Ok::<_, BodyError>(Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
        let watch = Arc::new(BodyWatch::default());
        let body = GuardedBody::new(StreamBody::new(stream::iter(frames)), framing, watch.clone(), ChunkRoom::default(), IDLE);
        let read = block_on(body.collect()).map(|collected| collected.to_bytes()).map_err(|error| error.to_string());
        (read, watch)
    }

    #[test]
    fn a_cut_chunked_body_is_an_error_although_it_ends_between_chunks() {
        let framing = Framing::Chunked { length: 10, signed: false, trailer: None };
        let (read, watch) = guarded(&framing, &["5\r\nhello\r\n"]);
        assert!(read.is_err());
        assert_eq!(watch.failure().unwrap().code, S3ErrorCode::IncompleteBody);
        let (read, watch) = guarded(&framing, &["5\r\nhello\r\n", "5\r\nworld\r\n0\r\n\r\n"]);
        assert_eq!(read.unwrap(), "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n");
        assert!(watch.failure().is_none() && watch.is_read_whole());
    }

    #[test]
    fn an_oversized_chunk_is_refused_before_its_data_is_read() {
        let framing = Framing::Chunked { length: 1 << 31, signed: false, trailer: None };
        let (read, watch) = guarded(&framing, &["80000000\r\n", "data"]);
        assert!(read.is_err());
        assert_eq!(watch.failure().unwrap().message, "A chunk is larger than 16 MiB.");
        assert!(!watch.is_read_whole());
    }

    #[test]
    fn large_chunks_share_one_room_and_give_it_back() {
        let framing = Framing::Chunked { length: 1 << 30, signed: false, trailer: None };
        let room = ChunkRoom::default();
        let body = || {
            let frames = stream::iter([Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"1000000\r\n")))]).chain(stream::pending());
            GuardedBody::new(StreamBody::new(frames), &framing, Arc::default(), room.clone(), IDLE)
        };
        let mut bodies: Vec<_> = (0..4).map(|_| body()).collect();
        for body in &mut bodies {
            assert!(block_on(body.frame()).unwrap().is_ok());
        }
        let mut fifth = body();
        assert!(block_on(fifth.frame()).unwrap().is_err());
        assert_eq!(fifth.watch.failure().unwrap().code, S3ErrorCode::SlowDown);
        bodies.pop();
        assert!(block_on(body().frame()).unwrap().is_ok());
    }

    fn decoded(length: u64, pieces: Vec<Result<Bytes, BodyError>>) -> (Vec<Result<Bytes, String>>, Arc<BodyWatch>) {
        let watch = Arc::new(BodyWatch::default());
        let body = DecodedBody::new(StreamingBlob::wrap(stream::iter(pieces)), length, watch.clone());
        (block_on(body.map(|piece| piece.map_err(|error| error.to_string())).collect()), watch)
    }

    #[test]
    fn the_last_bytes_wait_for_the_verdict() {
        let data = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        let (pieces, watch) = decoded(10, vec![data("hello"), data("world")]);
        assert_eq!(pieces, [Ok("hello".into()), Ok("world".into())]);
        assert!(watch.failure().is_none());
        for (text, code) in [
            ("UploadStreamError: Sha256Mismatch", S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into())),
            ("AwsChunkedStreamError: SignatureMismatch", S3ErrorCode::SignatureDoesNotMatch),
            ("AwsChunkedStreamError: FormatError", S3ErrorCode::InvalidRequest),
            ("AwsChunkedStreamError: Incomplete", S3ErrorCode::IncompleteBody),
        ] {
            let (pieces, watch) = decoded(10, vec![data("hello"), data("world"), Err(BodyError(text.into()))]);
            assert_eq!(pieces.len(), 2, "{pieces:?}");
            assert!(pieces[1].is_err(), "{text}: the last bytes were given away");
            assert_eq!(watch.failure().unwrap().code, code, "{text}");
        }
    }

    #[test]
    fn decoded_bodies_are_as_long_as_announced() {
        let data = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        for pieces in [vec![data("hell")], vec![data("hello!")], vec![data("hello"), data("!")], vec![]] {
            let (read, watch) = decoded(5, pieces);
            assert!(read.last().unwrap().is_err(), "{read:?}");
            assert_eq!(watch.failure().unwrap().code, S3ErrorCode::IncompleteBody);
        }
        assert_eq!(decoded(0, vec![]).0, []);
    }

    #[test]
    fn the_first_failure_is_the_verdict() {
        let watch = BodyWatch::default();
        watch.fail(S3ErrorCode::RequestTimeout, "first");
        watch.fail(S3ErrorCode::IncompleteBody, "second");
        assert_eq!(watch.failure().unwrap().code, S3ErrorCode::RequestTimeout);
    }
}
