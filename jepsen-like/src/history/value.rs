//! [`Value`]: what an object holds, by name.

use serde::{Deserialize, Serialize};

use crate::s3::Content;

/// The bytes of an object: `bytes` repeating bytes of the seed `id`, or the parts of a multipart upload under an
/// id made of theirs. Ids are never used twice in a history, except by copies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Value {
    /// Below [`Value::COMPOSED`] for whatever is put, as an object or as a part.
    pub id: u64,
    pub bytes: u64,
}

impl Value {
    /// The bit that only ids of composed values have.
    pub const COMPOSED: u64 = 1 << 63;

    /// What an upload completed with `parts` holds: its ETag differs from that of the same bytes put in one piece.
    pub fn composed(parts: impl IntoIterator<Item = Value>) -> Value {
        let mut whole = Value { id: 0x6b65_6570, bytes: 0 };
        for part in parts {
            // A step of FNV-1a for each id and length, then splitmix64's finaliser, so that order counts.
            for number in [part.id, part.bytes] {
                let mut z = (whole.id ^ number).wrapping_mul(0x0100_0000_01b3).wrapping_add(0x9e37_79b9_7f4a_7c15);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                whole.id = z ^ (z >> 31);
            }
            whole.bytes += part.bytes;
        }
        Value { id: whole.id | Value::COMPOSED, ..whole }
    }

    /// Whether it is [`Value::composed`].
    pub fn is_composed(self) -> bool {
        self.id & Value::COMPOSED != 0
    }

    /// Number of the tags that its PUT gives it where versions are kept; every third has some, of those that are not composed.
    pub fn tags(self) -> Option<u64> {
        (self.id.is_multiple_of(3) && !self.is_composed()).then_some(self.id)
    }

    /// Its bytes. A composed value has only those of its parts.
    pub fn content(self) -> Content {
        assert!(!self.is_composed(), "the parts of a composed value have contents, it has not");
        Content::repeating(self.id, self.bytes)
    }

    /// Whether both have the same bytes, and so the same ETag: tiny ones may although they differ in id.
    pub fn same_bytes(self, other: Value) -> bool {
        let tiny = self.bytes == other.bytes && self.bytes <= 16 && !self.is_composed() && !other.is_composed();
        self == other || (tiny && self.content().bytes() == other.content().bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_composed_value_is_told_from_its_parts_and_from_their_other_orders() {
        let value = |id| Value { id, bytes: 4 };
        let composed = |ids: &[u64]| Value::composed(ids.iter().map(|id| value(*id)));
        assert_eq!(composed(&[1, 2]), composed(&[1, 2]));
        assert_eq!(composed(&[1, 2]).bytes, 8);
        assert!(composed(&[1]).is_composed() && !value(1).is_composed());
        assert_ne!(composed(&[1, 2]), composed(&[2, 1]));
        assert!(!composed(&[1]).same_bytes(value(1)));
    }

    #[test]
    fn tiny_values_may_have_the_same_bytes() {
        let value = |id| Value { id, bytes: 0 };
        assert!(value(1).same_bytes(value(2)));
    }
}
