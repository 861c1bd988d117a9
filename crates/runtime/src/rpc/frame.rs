//! One frame: a fixed header, then meta, then a raw body. See the crate's README for the bytes.
//!
//! Invariants: a header is believed only after its MAC, which covers its place in the stream; nothing is allocated
//! for a frame before its lengths were checked; meta and body are handed on only after their checksum.

use bytes::{BufMut, Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use protocol::limits::{FRAME_BODY_BYTES_MAX, FRAME_META_BYTES_MAX};
use sha2::Sha256;
use std::io::{self, IoSlice};
use std::time::Duration;

use super::life::Life;
use crate::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use crate::time::{now, since};

/// `KSFR`, the first bytes of each frame.
const MAGIC: [u8; 4] = *b"KSFR";
/// Version of the frame format.
pub(crate) const VERSION: u8 = 1;
/// Bytes of a header, its MAC included.
pub(crate) const HEADER_BYTES: usize = 56;
/// Bytes of a header that the MAC covers.
const COVERED_BYTES: usize = 40;
const MAC_BYTES: usize = HEADER_BYTES - COVERED_BYTES;
/// Most slices in one vectored write.
const SLICES_MAX: usize = 64;
/// Bytes that are read and thrown away at a time.
const DISCARD_BYTES: usize = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Asks for a reply.
    Request = 1,
    /// Answers a request.
    Reply = 2,
    /// One way; never answered.
    Cast = 3,
    /// Answers a request that was not begun: too many are under way.
    Busy = 4,
    /// Answers a request that was not begun; meta says why.
    Refused = 5,
    /// Answers a request that was begun and stopped before its end.
    Stopped = 6,
    /// Are you there?
    Ping = 7,
    /// Yes.
    Pong = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Request, Kind::Reply, Kind::Cast, Kind::Busy, Kind::Refused, Kind::Stopped, Kind::Ping, Kind::Pong]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The fields of a header that have a meaning to either end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub kind: Kind,
    pub method: u16,
    pub id: u64,
    pub epoch: u64,
    /// Milliseconds until the caller gives up; 0 in frames that are no request.
    pub remaining_ms: u32,
    pub meta_bytes: u32,
    pub body_bytes: u32,
    /// CRC-32C over meta and body.
    pub checksum: u32,
}

/// A frame to be sent.
#[derive(Debug)]
pub(crate) struct Frame {
    pub kind: Kind,
    pub method: u16,
    pub id: u64,
    pub epoch: u64,
    pub remaining_ms: u32,
    pub meta: Bytes,
    pub body: Vec<Bytes>,
}

impl Frame {
    /// A frame without meta and body.
    pub fn bare(kind: Kind, id: u64) -> Frame {
        Frame { kind, method: 0, id, epoch: 0, remaining_ms: 0, meta: Bytes::new(), body: Vec::new() }
    }

    /// Whether the sections are within the limits.
    pub fn check(&self) -> Result<(), Error> {
        check_sizes(self.meta.len(), self.body.iter().map(Bytes::len).sum())
    }

    fn header(&self) -> Result<Header, Error> {
        let body_bytes = self.body.iter().map(Bytes::len).sum();
        check_sizes(self.meta.len(), body_bytes)?;
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        digest.update(&self.meta);
        for part in &self.body {
            digest.update(part);
        }
        Ok(Header {
            kind: self.kind,
            method: self.method,
            id: self.id,
            epoch: self.epoch,
            remaining_ms: self.remaining_ms,
            meta_bytes: self.meta.len() as u32,
            body_bytes: body_bytes as u32,
            checksum: digest.finalize() as u32,
        })
    }
}

/// A frame or a stream of frames is not as it must be. The connection is closed on every one of these.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("these are no frames")]
    Magic,
    #[error("frame version {got}, this build speaks {VERSION}")]
    Version { got: u8 },
    #[error("forged, replayed or damaged header")]
    Mac,
    #[error("unknown kind of frame {got}")]
    Kind { got: u8 },
    #[error("{section} of {got} bytes, at most {max} are allowed")]
    TooLarge { section: &'static str, got: usize, max: usize },
    #[error("checksum {got:08x}, expected {expected:08x}: damaged on the way")]
    Checksum { got: u32, expected: u32 },
}

/// Refuse sections over the limits.
pub(crate) fn check_sizes(meta: usize, body: usize) -> Result<(), Error> {
    if meta > FRAME_META_BYTES_MAX {
        return Err(Error::TooLarge { section: "meta", got: meta, max: FRAME_META_BYTES_MAX });
    }
    if body > FRAME_BODY_BYTES_MAX {
        return Err(Error::TooLarge { section: "body", got: body, max: FRAME_BODY_BYTES_MAX });
    }
    Ok(())
}

/// The key of one direction, and the number of the next frame in it: the same frame at another place has another MAC.
#[derive(Clone)]
pub(crate) struct Seal {
    mac: Hmac<Sha256>,
    sequence: u64,
}

impl Seal {
    pub fn new(key: &[u8; 32]) -> Seal {
        Seal { mac: Hmac::new_from_slice(key).expect("HMAC takes keys of any length"), sequence: 0 }
    }

    /// The bytes of `header` as the next frame.
    pub fn encode(&mut self, header: &Header) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = header.kind as u8;
        bytes[6..8].copy_from_slice(&header.method.to_le_bytes());
        bytes[8..16].copy_from_slice(&header.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&header.epoch.to_le_bytes());
        bytes[24..28].copy_from_slice(&header.remaining_ms.to_le_bytes());
        bytes[28..32].copy_from_slice(&header.meta_bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&header.body_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&header.checksum.to_le_bytes());
        let mac = self.next(&bytes[..COVERED_BYTES]).finalize().into_bytes();
        bytes[COVERED_BYTES..].copy_from_slice(&mac[..MAC_BYTES]);
        bytes
    }

    /// The header of the next frame, if it is one and its lengths are within the limits.
    pub fn decode(&mut self, bytes: &[u8; HEADER_BYTES]) -> Result<Header, Error> {
        if bytes[0..4] != MAGIC {
            return Err(Error::Magic);
        }
        if bytes[4] != VERSION {
            return Err(Error::Version { got: bytes[4] });
        }
        self.next(&bytes[..COVERED_BYTES]).verify_truncated_left(&bytes[COVERED_BYTES..]).map_err(|_| Error::Mac)?;
        let header = Header {
            kind: Kind::from_byte(bytes[5]).ok_or(Error::Kind { got: bytes[5] })?,
            method: u16::from_le_bytes(array(&bytes[6..8])),
            id: u64::from_le_bytes(array(&bytes[8..16])),
            epoch: u64::from_le_bytes(array(&bytes[16..24])),
            remaining_ms: u32::from_le_bytes(array(&bytes[24..28])),
            meta_bytes: u32::from_le_bytes(array(&bytes[28..32])),
            body_bytes: u32::from_le_bytes(array(&bytes[32..36])),
            checksum: u32::from_le_bytes(array(&bytes[36..40])),
        };
        check_sizes(header.meta_bytes as usize, header.body_bytes as usize)?;
        Ok(header)
    }

    fn next(&mut self, covered: &[u8]) -> Hmac<Sha256> {
        let mac = self.mac.clone().chain_update(self.sequence.to_le_bytes()).chain_update(covered);
        self.sequence += 1;
        mac
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the ranges above have the lengths of their integers")
}

/// Send `frame`: header, meta and parts of the body in vectored writes, without copying them together. Not flushed.
pub(crate) async fn write<W: AsyncWrite + Unpin>(target: &mut W, seal: &mut Seal, frame: &Frame, life: &Life) -> Result<(), Error> {
    let header = seal.encode(&frame.header()?);
    crate::side::note("frame sent", &header[..COVERED_BYTES]);
    let mut slices = Vec::with_capacity(2 + frame.body.len());
    slices.push(IoSlice::new(&header));
    slices.extend([&frame.meta].into_iter().chain(&frame.body).filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)));
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let begun = now();
        let written = target.write_vectored(&rest[..rest.len().min(SLICES_MAX)]).await?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        // A write that had to wait shows that the peer took bytes. One that did not shows nothing.
        if since(begun) >= Duration::from_millis(1) {
            life.touch();
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

/// Wait for the next header. None: the peer closed the stream between two frames.
pub(crate) async fn read_header<R: AsyncRead + Unpin>(source: &mut R, seal: &mut Seal, life: &Life) -> Result<Option<Header>, Error> {
    let mut bytes = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        let read = source.read(&mut bytes[filled..]).await?;
        if read == 0 {
            return if filled == 0 { Ok(None) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) };
        }
        life.hear();
        filled += read;
    }
    let header = seal.decode(&bytes)?;
    crate::side::note("frame received", &bytes[..COVERED_BYTES]);
    Ok(Some(header))
}

/// Read meta and body behind `header`, each into a buffer of exactly its size, and check them.
pub(crate) async fn read_sections<R: AsyncRead + Unpin>(source: &mut R, header: &Header, life: &Life) -> Result<(Bytes, Bytes), Error> {
    let meta = read_exactly(source, header.meta_bytes as usize, life).await?;
    let body = read_exactly(source, header.body_bytes as usize, life).await?;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&meta);
    digest.update(&body);
    let got = digest.finalize() as u32;
    if got != header.checksum {
        return Err(Error::Checksum { got, expected: header.checksum });
    }
    Ok((meta, body))
}

/// Read meta and body behind `header` and throw them away.
pub(crate) async fn discard_sections<R: AsyncRead + Unpin>(source: &mut R, header: &Header, life: &Life) -> Result<(), Error> {
    let mut left = header.meta_bytes as usize + header.body_bytes as usize;
    let mut scratch = vec![0; DISCARD_BYTES.min(left)];
    while left > 0 {
        let length = scratch.len().min(left);
        let read = source.read(&mut scratch[..length]).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        life.hear();
        left -= read;
    }
    Ok(())
}

async fn read_exactly<R: AsyncRead + Unpin>(source: &mut R, length: usize, life: &Life) -> Result<Bytes, Error> {
    if length == 0 {
        return Ok(Bytes::new());
    }
    let mut target = BytesMut::with_capacity(length).limit(length);
    while target.has_remaining_mut() {
        if source.read_buf(&mut target).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        life.hear();
    }
    Ok(target.into_inner().freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn header() -> Header {
        Header {
            kind: Kind::Request,
            method: 0x0102,
            id: 3,
            epoch: 4,
            remaining_ms: 5000,
            meta_bytes: 6,
            body_bytes: 7,
            checksum: 0xdead_beef,
        }
    }

    #[test]
    fn header_bytes_are_golden() {
        let bytes = Seal::new(&[7; 32]).encode(&header());
        assert_eq!(&bytes[..6], b"KSFR\x01\x01");
        assert_eq!(bytes[6..16], [2, 1, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..28], [4, 0, 0, 0, 0, 0, 0, 0, 0x88, 0x13, 0, 0]);
        assert_eq!(bytes[28..40], [6, 0, 0, 0, 7, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde]);
        let mut mac = Hmac::<Sha256>::new_from_slice(&[7; 32]).unwrap();
        mac.update(&[0; 8]);
        mac.update(&bytes[..40]);
        assert_eq!(bytes[40..], mac.finalize().into_bytes()[..16]);
    }

    #[test]
    fn a_replayed_header_is_refused() {
        let (mut ours, mut theirs) = (Seal::new(&[7; 32]), Seal::new(&[7; 32]));
        let bytes = ours.encode(&header());
        assert_eq!(theirs.decode(&bytes).unwrap(), header());
        assert!(matches!(theirs.decode(&bytes), Err(Error::Mac)));
    }

    #[test]
    fn lengths_over_the_limits_are_refused_even_with_a_right_mac() {
        for oversize in [
            Header { meta_bytes: FRAME_META_BYTES_MAX as u32 + 1, ..header() },
            Header { body_bytes: FRAME_BODY_BYTES_MAX as u32 + 1, ..header() },
        ] {
            let bytes = Seal::new(&[7; 32]).encode(&oversize);
            assert!(matches!(Seal::new(&[7; 32]).decode(&bytes), Err(Error::TooLarge { .. })));
        }
    }

    quickcheck! {
        fn any_changed_bit_of_a_header_is_noticed(method: u16, id: u64, epoch: u64, remaining_ms: u32, checksum: u32, bit: usize) -> bool {
            let sent = Header { method, id, epoch, remaining_ms, checksum, ..header() };
            let mut bytes = Seal::new(&[9; 32]).encode(&sent);
            let intact = Seal::new(&[9; 32]).decode(&bytes).is_ok_and(|got| got == sent);
            let bit = bit % (HEADER_BYTES * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            intact && Seal::new(&[9; 32]).decode(&bytes).is_err()
        }
    }
}
