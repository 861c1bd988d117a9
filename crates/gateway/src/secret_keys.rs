//! Secret keys of the identities that the root group has. They are stored nowhere: each follows from the cluster's secret and the row of
//! its identity, by HMAC-SHA256.
//!
//! ```text
//! key        = HMAC(cluster secret, "keepstone s3 secret keys 1" | cluster id, 16 bytes big endian)
//! secret key = base32 of the first 25 bytes of HMAC(key, generation, 8 bytes big endian | salt, 16 bytes | access key)
//! ```
//!
//! 200 bits as 40 letters and digits, which no shell, URL, configuration file or double click breaks. Who does not know the cluster's
//! secret learns nothing of any of them from the others, nor from rows, logs, snapshots or copies of drives. The label is a domain of its
//! own: what nodes prove to each other by the same secret (`runtime::rpc`) has other ones.

use hmac::{Hmac, KeyInit, Mac};
use placement::Identity;
use protocol::ClusterId;
use runtime::rpc::Secret;
use sha2::Sha256;
use std::fmt;

const LABEL: &[u8] = b"keepstone s3 secret keys 1";
/// Base32 of RFC 4648.
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Bytes of a secret key before they are written as letters.
const SECRET_BYTES: usize = 25;
/// What begins every access key that is drawn.
const ACCESS_KEY_PREFIX: &str = "KS";
/// Random bytes of an access key.
pub const ACCESS_KEY_BYTES: usize = 10;

/// Makes the secret keys of one cluster's identities; cheap to clone.
#[derive(Clone)]
pub struct SecretKeys {
    key: [u8; 32],
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKeys(..)")
    }
}

impl SecretKeys {
    /// Those of the cluster `cluster` whose nodes know `secret`.
    pub fn new(secret: &Secret, cluster: ClusterId) -> SecretKeys {
        SecretKeys { key: mac(&secret.0, &[LABEL, &cluster.0.to_be_bytes()]) }
    }

    /// The secret key of the identity's present generation.
    pub fn of(&self, identity: &Identity) -> String {
        let bytes = mac(&self.key, &[&identity.generation.to_be_bytes(), &identity.salt, identity.access_key.as_bytes()]);
        letters(&bytes[..SECRET_BYTES])
    }
}

/// The access key that these random bytes make.
pub fn access_key(random: [u8; ACCESS_KEY_BYTES]) -> String {
    format!("{ACCESS_KEY_PREFIX}{}", letters(&random))
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Base32 of a multiple of five bytes.
fn letters(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() / 5 * 8);
    for group in bytes.chunks_exact(5) {
        let bits = group.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        text.extend((0..8).rev().map(|place| char::from(LETTERS[(bits >> (place * 5) & 31) as usize])));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn identity() -> Identity {
        let access_key = access_key([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        Identity { access_key, name: "n".into(), generation: 1, salt: [7; 16], enabled: true, created_ms: 5 }
    }

    fn keys(secret: &'static [u8], cluster: u128) -> SecretKeys {
        SecretKeys::new(&Secret(Arc::from(secret)), ClusterId(cluster))
    }

    #[test]
    fn letters_are_base32() {
        assert_eq!(letters(b"fooba"), "MZXW6YTB");
        assert_eq!(letters(&[0; 5]), "AAAAAAAA");
        assert_eq!(letters(&[255; 5]), "77777777");
        assert_eq!(access_key([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), "KSAEBAGBAFAYDQQCIK");
    }

    #[test]
    fn the_secret_key_of_a_row_stays_what_it_is() {
        // Of another implementation of the header's lines.
        assert_eq!(keys(b"secret", 7).of(&identity()), "6QD4KMMVGVZFQTOU7J52Z2VF34XXXKAB75AVRC4U");
    }

    #[test]
    fn whatever_differs_makes_another_secret_key_and_what_people_call_it_does_not() {
        let first = keys(b"secret", 7).of(&identity());
        assert!(first.len() == 40 && first.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{first}");
        assert_eq!(keys(b"secret", 7).of(&Identity { name: "m".into(), enabled: false, created_ms: 6, ..identity() }), first);
        let others = [
            keys(b"secreu", 7).of(&identity()),
            keys(b"secret", 8).of(&identity()),
            keys(b"secret", 7).of(&Identity { generation: 2, ..identity() }),
            keys(b"secret", 7).of(&Identity { salt: [8; 16], ..identity() }),
            keys(b"secret", 7).of(&Identity { access_key: "KSAEBAGBAFAYDQQCIL".into(), ..identity() }),
        ];
        assert!(others.iter().all(|other| *other != first), "{others:?}");
    }

    #[test]
    fn what_makes_secret_keys_shows_none() {
        assert_eq!(format!("{:?}", keys(b"secret", 7)), "SecretKeys(..)");
    }
}
