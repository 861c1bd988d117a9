//! aws-chunked framing, watched as the bytes pass by: `size[;chunk-signature=hex]CRLF data CRLF ... 0 CRLF trailers CRLF`.
//! s3s decodes the same bytes afterwards and verifies the signatures; this file makes sure that what it decodes is
//! bounded, whole, and as long as announced. Pure.
//!
//! Invariant: bytes are passed on only when all of them are in order.

use s3s::S3ErrorCode;

/// Largest chunk: s3s holds a whole one in memory.
pub const CHUNK_BYTES_MAX: u64 = 16 << 20;
/// Longest line that announces a chunk: size, name and hex of a signature.
const SIZE_LINE_BYTES_MAX: usize = 128;
/// Most bytes of trailers.
const TRAILER_BYTES_MAX: usize = 4096;

/// What is wrong with a body.
pub type Fault = (S3ErrorCode, &'static str);

/// Where in the framing we are.
#[derive(Debug)]
enum State {
    SizeLine,
    Data {
        left: u64,
    },
    /// The CRLF after the data of a chunk.
    DataEnd {
        seen: usize,
    },
    Trailers,
    End,
}

/// Watches one body.
#[derive(Debug)]
pub struct ChunkWatch {
    state: State,
    /// The line that is being read.
    line: Vec<u8>,
    signed: bool,
    /// Decoded bytes that must still come.
    left: u64,
    /// The checksum trailer that must come, until it has.
    trailer: Option<String>,
    trailer_bytes: usize,
    trailer_signed: bool,
    /// The size of the chunk under way.
    chunk_bytes: u64,
}

impl ChunkWatch {
    /// A body of `length` decoded bytes, with a trailer `trailer` if one is announced.
    pub fn new(length: u64, signed: bool, trailer: Option<String>) -> ChunkWatch {
        ChunkWatch {
            state: State::SizeLine,
            line: Vec::new(),
            signed,
            left: length,
            trailer,
            trailer_bytes: 0,
            trailer_signed: false,
            chunk_bytes: 0,
        }
    }

    /// The size of the chunk under way; 0 between chunks.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The next bytes of the body.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some(&byte) = bytes.first() {
            match &mut self.state {
                State::Data { left } => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.state = State::DataEnd { seen: 0 };
                    }
                    continue;
                }
                State::DataEnd { seen } => {
                    if byte != b"\r\n"[*seen] {
                        return Err((S3ErrorCode::IncompleteBody, "A chunk is not followed by CRLF."));
                    }
                    *seen += 1;
                    if *seen == 2 {
                        self.chunk_bytes = 0;
                        self.state = State::SizeLine;
                    }
                }
                State::SizeLine => {
                    self.push(byte, SIZE_LINE_BYTES_MAX, "The line that announces a chunk is too long.")?;
                    if byte == b'\n' {
                        self.end_size_line()?;
                    }
                }
                State::Trailers => {
                    self.trailer_bytes += 1;
                    self.push(byte, TRAILER_BYTES_MAX, "The trailers are too long.")?;
                    if self.trailer_bytes > TRAILER_BYTES_MAX {
                        return Err((S3ErrorCode::InvalidRequest, "The trailers are too long."));
                    }
                    if byte == b'\n' {
                        self.end_trailer_line()?;
                    }
                }
                State::End => return Err((S3ErrorCode::InvalidRequest, "The body goes on after its end.")),
            }
            bytes = &bytes[1..];
        }
        Ok(())
    }

    /// The body has ended.
    pub fn finish(&mut self) -> Result<(), Fault> {
        if let State::Trailers = self.state {
            // The last line may lack its end, and the empty line after it may be missing.
            if !self.line.is_empty() {
                self.end_trailer_line()?;
            }
        }
        match self.state {
            State::Trailers | State::End => {}
            _ => return Err((S3ErrorCode::IncompleteBody, "The body ends before its last chunk, the one of size 0.")),
        }
        if self.trailer.is_some() {
            return Err((S3ErrorCode::InvalidRequest, "The trailer that x-amz-trailer announces is missing."));
        }
        Ok(())
    }

    fn push(&mut self, byte: u8, most: usize, too_long: &'static str) -> Result<(), Fault> {
        if self.line.len() == most {
            return Err((S3ErrorCode::InvalidRequest, too_long));
        }
        self.line.push(byte);
        Ok(())
    }

    fn end_size_line(&mut self) -> Result<(), Fault> {
        const BAD: Fault = (S3ErrorCode::InvalidRequest, "A chunk is announced by a line that is no size.");
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok()).ok_or(BAD)?;
        let (size, extension) = line.split_once(';').map_or((line, None), |(size, extension)| (size, Some(extension)));
        if size.is_empty() || size.len() > 8 || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BAD);
        }
        let is_signed = match extension.map(|extension| extension.strip_prefix("chunk-signature=")) {
            None => false,
            Some(Some(hex)) if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => true,
            Some(_) => return Err(BAD),
        };
        if self.signed && !is_signed {
            return Err((S3ErrorCode::InvalidRequest, "A chunk lacks its signature."));
        }
        let size = u64::from(u32::from_str_radix(size, 16).map_err(|_| BAD)?);
        if size > CHUNK_BYTES_MAX {
            return Err((S3ErrorCode::InvalidRequest, "A chunk is larger than 16 MiB."));
        }
        self.left = self
            .left
            .checked_sub(size)
            .ok_or((S3ErrorCode::IncompleteBody, "The chunks hold more than x-amz-decoded-content-length says."))?;
        self.chunk_bytes = size;
        self.state = if size > 0 {
            State::Data { left: size }
        } else if self.left > 0 {
            return Err((S3ErrorCode::IncompleteBody, "The chunks hold less than x-amz-decoded-content-length says."));
        } else {
            State::Trailers
        };
        Ok(())
    }

    fn end_trailer_line(&mut self) -> Result<(), Fault> {
        const BAD: Fault = (S3ErrorCode::InvalidRequest, "A trailer is malformed, repeated, or was not announced.");
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| BAD)?.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            self.state = State::End;
            return Ok(());
        }
        let name = line.split_once(':').ok_or(BAD)?.0.trim().to_ascii_lowercase();
        if name == "x-amz-trailer-signature" && self.signed && !self.trailer_signed {
            self.trailer_signed = true;
            return Ok(());
        }
        if self.trailer.as_deref() != Some(name.as_str()) {
            return Err(BAD);
        }
        self.trailer = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const SIGNATURE: &str = "chunk-signature=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// Feeds `body` in pieces of each size from 1 on; all must agree.
    fn watch(length: u64, signed: bool, trailer: Option<&str>, body: &str) -> Result<(), S3ErrorCode> {
        let mut results: Vec<_> = [1, 2, 3, 7, body.len().max(1)]
            .iter()
            .map(|&piece| {
                let mut watch = ChunkWatch::new(length, signed, trailer.map(str::to_owned));
                let fed = body.as_bytes().chunks(piece).try_for_each(|bytes| watch.feed(bytes));
                fed.and_then(|()| watch.finish()).map_err(|(code, _)| code)
            })
            .collect();
        results.dedup();
        assert_eq!(results.len(), 1, "{results:?}");
        results.remove(0)
    }

    #[test]
    fn whole_bodies_pass() {
        let crc = Some("x-amz-checksum-crc32");
        assert_eq!(watch(5, false, None, "5\r\nhello\r\n0\r\n\r\n"), Ok(()));
        assert_eq!(watch(5, false, None, "2\r\nhe\r\n3\r\nllo\r\n0\r\n"), Ok(()));
        assert_eq!(watch(0, false, None, "0\r\n\r\n"), Ok(()));
        assert_eq!(watch(5, true, None, &format!("5;{SIGNATURE}\r\nhello\r\n0;{SIGNATURE}\r\n\r\n")), Ok(()));
        assert_eq!(watch(5, false, crc, "5\r\nhello\r\n0\r\nX-Amz-Checksum-Crc32:NhCmhg==\r\n\r\n"), Ok(()));
        assert_eq!(watch(5, false, crc, "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg=="), Ok(()));
        let signed =
            format!("5;{SIGNATURE}\r\nhello\r\n0;{SIGNATURE}\r\nx-amz-checksum-crc32:NhCmhg==\nx-amz-trailer-signature:00\r\n\r\n");
        assert_eq!(watch(5, true, crc, &signed), Ok(()));
    }

    #[test]
    fn bodies_cut_anywhere_are_incomplete() {
        let body = "5\r\nhello\r\n5\r\nworld\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n";
        let trailer_ends = body.len() - 4;
        for end in 0..body.len() {
            let whole = watch(10, false, Some("x-amz-checksum-crc32"), &body[..end]);
            // The value of the trailer is judged by whoever compares it.
            assert_eq!(whole.is_ok(), end >= trailer_ends - "NhCmhg==".len(), "{:?}", &body[..end]);
        }
        assert_eq!(watch(10, false, None, "5\r\nhello\r\n"), Err(S3ErrorCode::IncompleteBody));
    }

    #[test]
    fn bodies_of_another_length_are_refused() {
        assert_eq!(watch(4, false, None, "5\r\nhello\r\n0\r\n\r\n"), Err(S3ErrorCode::IncompleteBody));
        assert_eq!(watch(6, false, None, "5\r\nhello\r\n0\r\n\r\n"), Err(S3ErrorCode::IncompleteBody));
        assert_eq!(watch(5, false, None, "5\r\nhello\r\n0\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), Err(S3ErrorCode::InvalidRequest));
    }

    #[test]
    fn oversized_and_malformed_frames_are_refused_at_their_announcement() {
        let mut watch_one = ChunkWatch::new(1 << 40, false, None);
        assert_eq!(watch_one.feed(b"1000001\r\n"), Err((S3ErrorCode::InvalidRequest, "A chunk is larger than 16 MiB.")));
        let mut largest = ChunkWatch::new(1 << 40, false, None);
        assert_eq!(largest.feed(b"1000000\r\n"), Ok(()));
        assert_eq!(largest.chunk_bytes(), CHUNK_BYTES_MAX);
        for body in ["ffffffff\r\n", "fffffffff\r\n", "-1\r\n", "5 \r\n", "\r\n", "5\nhello", "5;x=y\r\n", "5\r\nhelloXX", "zz\r\n"] {
            assert!(watch(5, false, None, body).is_err(), "{body:?}");
        }
        assert_eq!(watch(5, false, None, &"0".repeat(4096)), Err(S3ErrorCode::InvalidRequest));
        assert_eq!(watch(5, true, None, "5\r\nhello\r\n0\r\n\r\n"), Err(S3ErrorCode::InvalidRequest));
        assert_eq!(watch(0, false, None, &format!("0\r\n{}", "a".repeat(5000))), Err(S3ErrorCode::InvalidRequest));
    }

    #[test]
    fn trailers_are_exactly_those_announced() {
        let crc = Some("x-amz-checksum-crc32");
        let body = |trailers: &str| format!("0\r\n{trailers}\r\n");
        assert_eq!(watch(0, false, crc, &body("")), Err(S3ErrorCode::InvalidRequest));
        assert_eq!(watch(0, false, crc, &body("x-amz-checksum-sha1:a\r\n")), Err(S3ErrorCode::InvalidRequest));
        assert_eq!(watch(0, false, crc, &body("x-amz-checksum-crc32:a\r\nx-amz-checksum-crc32:b\r\n")), Err(S3ErrorCode::InvalidRequest));
        assert_eq!(watch(0, false, None, &body("x-amz-checksum-crc32:a\r\n")), Err(S3ErrorCode::InvalidRequest));
        assert_eq!(watch(0, false, crc, &body("x-amz-checksum-crc32\r\n")), Err(S3ErrorCode::InvalidRequest));
        assert_eq!(watch(0, false, crc, &body("x-amz-checksum-crc32:a\r\nx-amz-meta-a:b\r\n")), Err(S3ErrorCode::InvalidRequest));
    }

    quickcheck! {
        fn no_body_panics(length: u64, signed: bool, body: Vec<u8>, sizes: Vec<u32>) -> bool {
            let framed: Vec<u8> = sizes.iter().flat_map(|size| {
                let mut chunk = format!("{:x}\r\n", size % 9).into_bytes();
                chunk.extend(std::iter::repeat_n(b'a', (*size % 10) as usize));
                chunk.extend(b"\r\n");
                chunk
            }).collect();
            for bytes in [&body, &framed] {
                let mut watch = ChunkWatch::new(length, signed, None);
                let _ = watch.feed(bytes).and_then(|()| watch.finish());
            }
            true
        }
    }
}
