//! [`Outgoing`]: a request's body as it goes over the wire, plain or aws-chunked, and what misbehaving callers do
//! to it: pause, stop, leave out its end.
//!
//! At most one piece (64 KiB, or one chunk) is held at a time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body::Frame;

use super::checksum::{Checksum, Sum};
use super::content::Content;
use super::sign::Signer;

/// Bytes of a plain body that go out at once.
const PIECE_BYTES: usize = 64 << 10;

/// Where the payload comes from.
#[derive(Clone, Debug, Default)]
pub enum Source {
    #[default]
    Empty,
    Bytes(Bytes),
    /// Made while it is sent.
    Content(Content),
}

impl Source {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Source::Empty => 0,
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Content(content) => content.length,
        }
    }

    /// Call `each` with all bytes in order.
    pub fn walk(&self, mut each: impl FnMut(&[u8])) {
        let mut pieces = Pieces { source: self.clone(), at: 0 };
        while let Some(piece) = pieces.next(PIECE_BYTES) {
            each(&piece);
        }
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Source {
        Source::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Source {
        Source::Bytes(bytes.into())
    }
}

impl From<String> for Source {
    fn from(text: String) -> Source {
        Source::Bytes(text.into())
    }
}

impl From<&'static str> for Source {
    fn from(text: &'static str) -> Source {
        Source::Bytes(Bytes::from_static(text.as_bytes()))
    }
}

impl From<Content> for Source {
    fn from(content: Content) -> Source {
        Source::Content(content)
    }
}

/// Reads a source front to back.
struct Pieces {
    source: Source,
    at: u64,
}

impl Pieces {
    fn next(&mut self, bytes_max: usize) -> Option<Bytes> {
        let length = usize::try_from(self.source.length() - self.at).unwrap_or(usize::MAX).min(bytes_max);
        if length == 0 {
            return None;
        }
        let piece = match &self.source {
            Source::Empty => Bytes::new(),
            Source::Bytes(bytes) => {
                let from = usize::try_from(self.at).expect("inside bytes that are in memory");
                bytes.slice(from..from + length)
            }
            Source::Content(content) => {
                let mut piece = vec![0; length];
                content.fill(self.at, &mut piece);
                piece.into()
            }
        };
        self.at += length as u64;
        Some(piece)
    }
}

/// How aws-chunked framing looks.
pub(super) struct Chunking {
    pub chunk_bytes: usize,
    /// Chunk signatures: the signer, and the seed signature.
    pub signer: Option<(Signer, String)>,
    pub trailer: Option<Checksum>,
    /// Number of the chunk whose signature is spoilt.
    pub spoil_chunk: Option<u64>,
    /// A wrong checksum to send in the trailer.
    pub trailer_value: Option<String>,
    pub omit_trailer: bool,
    pub omit_last_chunk: bool,
}

impl Chunking {
    /// Bytes on the wire for a payload of `length`.
    pub fn wire_bytes(&self, length: u64) -> u64 {
        let signature = if self.signer.is_some() { ";chunk-signature=".len() as u64 + 64 } else { 0 };
        let chunk = |bytes: u64| format!("{bytes:x}").len() as u64 + signature + 2 + bytes + 2;
        let full = length / self.chunk_bytes as u64;
        let rest = length % self.chunk_bytes as u64;
        let mut total = full * chunk(self.chunk_bytes as u64) + if rest > 0 { chunk(rest) } else { 0 };
        if self.omit_last_chunk {
            return total;
        }
        total += 1 + signature + 2 + 2;
        if let (Some(checksum), false) = (self.trailer, self.omit_trailer) {
            let value = self.trailer_value.as_ref().map_or_else(|| checksum.of(b"").len(), String::len) as u64;
            total += checksum.header().len() as u64 + 1 + value + 2;
            if self.signer.is_some() {
                total += "x-amz-trailer-signature:".len() as u64 + 64 + 2;
            }
        }
        total
    }
}

enum Framing {
    Plain,
    Chunked(Box<Chunked>),
}

/// An aws-chunked body under way.
struct Chunked {
    chunking: Chunking,
    number: u64,
    previous: String,
    sum: Option<Sum>,
    ended: bool,
}

/// What to do to a body while it is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    /// Break the connection after this many bytes.
    pub abort_after: Option<u64>,
    /// Wait this long before each further piece of at most so many bytes.
    pub pace: Option<(usize, Duration)>,
}

/// The caller broke its own request off, as it was told to.
#[derive(Debug, thiserror::Error)]
#[error("the body was broken off on purpose after {0} bytes")]
pub struct BrokenOff(u64);

/// A request's body.
pub struct Outgoing {
    pieces: Pieces,
    framing: Framing,
    manner: Manner,
    /// Framed bytes not yet handed out.
    buffered: Bytes,
    sent: u64,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Outgoing {
    pub(super) fn new(source: Source, chunking: Option<Chunking>, manner: Manner) -> Outgoing {
        let framing = match chunking {
            None => Framing::Plain,
            Some(chunking) => {
                let previous = chunking.signer.as_ref().map_or_else(String::new, |(_, seed)| seed.clone());
                let sum = chunking.trailer.map(Checksum::start);
                Framing::Chunked(Box::new(Chunked { chunking, number: 0, previous, sum, ended: false }))
            }
        };
        Outgoing { pieces: Pieces { source, at: 0 }, framing, manner, buffered: Bytes::new(), sent: 0, waiting: None }
    }

    /// The next framed bytes; `None` at the end.
    fn refill(&mut self) -> Option<Bytes> {
        match &mut self.framing {
            Framing::Plain => self.pieces.next(PIECE_BYTES),
            Framing::Chunked(chunked) => chunked.refill(&mut self.pieces),
        }
    }

    /// Whether there is nothing to send at all.
    fn is_nothing(&self) -> bool {
        matches!(self.framing, Framing::Plain) && self.pieces.source.length() == 0 && self.manner.abort_after.is_none()
    }
}

impl Chunked {
    /// The next chunk, framed; `None` after the last.
    fn refill(&mut self, pieces: &mut Pieces) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let chunking = &self.chunking;
        let data = pieces.next(chunking.chunk_bytes);
        if data.is_none() {
            self.ended = true;
            if chunking.omit_last_chunk {
                return None;
            }
        }
        let data = data.unwrap_or_default();
        let mut out = BytesMut::with_capacity(data.len() + 256);
        out.put_slice(format!("{:x}", data.len()).as_bytes());
        if let Some((signer, _)) = &chunking.signer {
            self.previous = signer.chunk(&self.previous, &data);
            let mut shown = self.previous.clone();
            if chunking.spoil_chunk == Some(self.number) {
                let first = if shown.starts_with('0') { "1" } else { "0" };
                shown.replace_range(0..1, first);
            }
            out.put_slice(format!(";chunk-signature={shown}").as_bytes());
        }
        self.number += 1;
        out.put_slice(b"\r\n");
        if !self.ended {
            if let Some(sum) = &mut self.sum {
                sum.update(&data);
            }
            out.put_slice(&data);
            out.put_slice(b"\r\n");
            return Some(out.freeze());
        }
        if let (Some(checksum), Some(sum), false) = (chunking.trailer, self.sum.take(), chunking.omit_trailer) {
            let value = chunking.trailer_value.clone().unwrap_or_else(|| sum.finish());
            out.put_slice(format!("{}:{value}\r\n", checksum.header()).as_bytes());
            if let Some((signer, _)) = &chunking.signer {
                let signature = signer.trailer(&self.previous, &format!("{}:{value}\n", checksum.header()));
                out.put_slice(format!("x-amz-trailer-signature:{signature}\r\n").as_bytes());
            }
        }
        out.put_slice(b"\r\n");
        Some(out.freeze())
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        if self.manner.abort_after.is_some_and(|limit| self.sent >= limit) {
            return Poll::Ready(Some(Err(BrokenOff(self.sent))));
        }
        if self.buffered.is_empty() {
            match self.refill() {
                Some(bytes) => self.buffered = bytes,
                None => return Poll::Ready(None),
            }
        }
        let mut take = self.buffered.len();
        if let Some((bytes_max, _)) = self.manner.pace {
            take = take.min(bytes_max.max(1));
        }
        if let Some(limit) = self.manner.abort_after {
            take = take.min(usize::try_from(limit - self.sent).unwrap_or(usize::MAX));
        }
        let bytes = self.buffered.split_to(take);
        self.sent += take as u64;
        if let Some((_, pause)) = self.manner.pace {
            self.waiting = Some(Box::pin(runtime::time::sleep(pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        // Only what is empty from the start: hyper then sends no body. A size is never claimed here, so that a
        // `content-length` header, even a false one, is what goes out.
        self.is_nothing()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sign::Credentials;
    use super::*;
    use http_body::Body;
    use std::task::Waker;

    fn collect(body: Outgoing) -> Result<Vec<u8>, BrokenOff> {
        let mut body = Box::pin(body);
        let mut out = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match body.as_mut().poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => out.extend_from_slice(&frame.into_data().unwrap()),
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Ready(None) => return Ok(out),
                Poll::Pending => panic!("no pace was set"),
            }
        }
    }

    fn chunking(chunk_bytes: usize, signed: bool, trailer: Option<Checksum>) -> Chunking {
        let signer = Signer::new(&Credentials::new("a", "b"), "r", "s3", 0);
        Chunking {
            chunk_bytes,
            signer: signed.then(|| (signer, "0".repeat(64))),
            trailer,
            spoil_chunk: None,
            trailer_value: None,
            omit_trailer: false,
            omit_last_chunk: false,
        }
    }

    #[test]
    fn unsigned_trailer_is_framed_as_documented() {
        let body = Outgoing::new("hello world".into(), Some(chunking(8, false, Some(Checksum::Crc32c))), Manner::default());
        let text = String::from_utf8(collect(body).unwrap()).unwrap();
        let sum = Checksum::Crc32c.of(b"hello world");
        assert_eq!(text, format!("8\r\nhello wo\r\n3\r\nrld\r\n0\r\nx-amz-checksum-crc32c:{sum}\r\n\r\n"));
    }

    #[test]
    fn announced_wire_length_is_the_length_sent() {
        for length in [0u64, 1, 7, 8, 9, 16, 100_000] {
            for signed in [false, true] {
                for trailer in [None, Some(Checksum::Sha256), Some(Checksum::Crc64Nvme)] {
                    for (omit_trailer, omit_last_chunk) in [(false, false), (true, false), (false, true)] {
                        let make = || Chunking { omit_trailer, omit_last_chunk, ..chunking(8, signed, trailer) };
                        let body = Outgoing::new(Content::new(1, length).into(), Some(make()), Manner::default());
                        assert_eq!(collect(body).unwrap().len() as u64, make().wire_bytes(length));
                    }
                }
            }
        }
    }

    #[test]
    fn plain_content_goes_out_as_it_is_and_breaks_off_on_demand() {
        let content = Content::new(5, 200_000);
        let body = Outgoing::new(content.into(), None, Manner::default());
        assert_eq!(collect(body).unwrap(), content.bytes());
        let body = Outgoing::new(content.into(), None, Manner { abort_after: Some(70_000), pace: None });
        assert!(matches!(collect(body), Err(BrokenOff(70_000))));
    }
}
