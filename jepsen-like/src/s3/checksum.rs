//! S3's additional checksums, as a client sends and compares them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::Digest;

/// An algorithm of `x-amz-checksum-*`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Checksum {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Checksum {
    pub const ALL: [Checksum; 5] = [Checksum::Crc32, Checksum::Crc32c, Checksum::Crc64Nvme, Checksum::Sha1, Checksum::Sha256];

    /// Name of its header, in lower case.
    pub fn header(self) -> &'static str {
        match self {
            Checksum::Crc32 => "x-amz-checksum-crc32",
            Checksum::Crc32c => "x-amz-checksum-crc32c",
            Checksum::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Checksum::Sha1 => "x-amz-checksum-sha1",
            Checksum::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Name as in `x-amz-checksum-algorithm`.
    pub fn name(self) -> &'static str {
        match self {
            Checksum::Crc32 => "CRC32",
            Checksum::Crc32c => "CRC32C",
            Checksum::Crc64Nvme => "CRC64NVME",
            Checksum::Sha1 => "SHA1",
            Checksum::Sha256 => "SHA256",
        }
    }

    /// Start a sum.
    pub fn start(self) -> Sum {
        use crc_fast::{CrcAlgorithm, Digest as Crc};
        match self {
            Checksum::Crc32 => Sum::Crc32(Crc::new(CrcAlgorithm::Crc32IsoHdlc)),
            Checksum::Crc32c => Sum::Crc32(Crc::new(CrcAlgorithm::Crc32Iscsi)),
            Checksum::Crc64Nvme => Sum::Crc64(Crc::new(CrcAlgorithm::Crc64Nvme)),
            Checksum::Sha1 => Sum::Sha1(Box::default()),
            Checksum::Sha256 => Sum::Sha256(Box::default()),
        }
    }

    /// The header's value for `bytes`.
    pub fn of(self, bytes: &[u8]) -> String {
        let mut sum = self.start();
        sum.update(bytes);
        sum.finish()
    }
}

/// A checksum under way.
pub enum Sum {
    Crc32(crc_fast::Digest),
    Crc64(crc_fast::Digest),
    Sha1(Box<sha1::Sha1>),
    Sha256(Box<sha2::Sha256>),
}

impl Sum {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Crc32(sum) | Sum::Crc64(sum) => sum.update(bytes),
            Sum::Sha1(sum) => sum.update(bytes),
            Sum::Sha256(sum) => sum.update(bytes),
        }
    }

    /// The value as S3 writes it: base64 of the big-endian bytes.
    pub fn finish(self) -> String {
        match self {
            Sum::Crc32(sum) => BASE64.encode(u32::try_from(sum.finalize()).expect("a CRC32 has 32 bits").to_be_bytes()),
            Sum::Crc64(sum) => BASE64.encode(sum.finalize().to_be_bytes()),
            Sum::Sha1(sum) => BASE64.encode(sum.finalize()),
            Sum::Sha256(sum) => BASE64.encode(sum.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_check_values_of_123456789() {
        let value = |checksum: Checksum| hex::encode(BASE64.decode(checksum.of(b"123456789")).unwrap());
        assert_eq!(value(Checksum::Crc32), "cbf43926");
        assert_eq!(value(Checksum::Crc32c), "e3069283");
        assert_eq!(value(Checksum::Crc64Nvme), "ae8b14860a799888");
        assert_eq!(value(Checksum::Sha1), "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
        assert_eq!(value(Checksum::Sha256), "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
    }
}
