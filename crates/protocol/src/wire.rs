//! Encoding of messages and rows: one byte of format version, then postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the encoding written by this build.
pub const FORMAT_VERSION: u8 = 1;

/// Bytes do not decode.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("format version {got}, this build reads {FORMAT_VERSION}: a newer node wrote it")]
    Version { got: u8 },
    #[error("malformed: {0}")]
    Malformed(postcard::Error),
    #[error("{0} bytes too many")]
    Trailing(usize),
    #[error("empty")]
    Empty,
}

/// Encode `value`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT_VERSION]).expect("plain data always encodes into memory")
}

/// Decode all of `encoded`; trailing bytes are an error.
pub fn decode<T: DeserializeOwned>(encoded: &[u8]) -> Result<T, Error> {
    let (&version, rest) = encoded.split_first().ok_or(Error::Empty)?;
    if version != FORMAT_VERSION {
        return Err(Error::Version { got: version });
    }
    let (value, rest) = postcard::take_from_bytes(rest).map_err(Error::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(Error::Trailing(rest.len())) }
}
