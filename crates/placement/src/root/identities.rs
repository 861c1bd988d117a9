//! Identities of S3 in the root group: who may sign requests, beside the one that stands in each node's own file.
//!
//! Always holds: no row has a secret. The secret key of an identity follows from the cluster's secret and from what its row says of its
//! present generation (`gateway::secret_keys`), and whoever sees only rows, logs and snapshots learns nothing of it. What is random in a
//! row was drawn by whoever proposed it: replicas draw nothing. A generation of an access key has one salt, and a later one another.

use super::{Verdict, decode_row, time};
use crate::Error;
use crate::commands::Reply;
use consensus::{Rows, RowsMut};
use protocol::wire;
use serde::{Deserialize, Serialize};

/// Most identities of a cluster: every gateway keeps all of them.
pub const IDENTITIES_MAX: usize = 1000;
/// Longest name of an identity.
pub const NAME_BYTES_MAX: usize = 64;
/// Random bytes of a generation.
pub const SALT_BYTES: usize = 16;
/// Shortest and longest access key that is drawn for an identity.
const ACCESS_KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=32;

const PREFIX: &[u8] = b"identity/";
/// After every key of [`PREFIX`].
const PREFIX_END: &[u8] = b"identity0";

/// Who may sign requests. Nothing in it is secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub access_key: String,
    /// What people call it; nothing depends on it.
    pub name: String,
    /// Rises by one whenever its secret key is exchanged for another.
    pub generation: u64,
    /// Random, another one in each generation.
    pub salt: [u8; SALT_BYTES],
    /// Requests that it signs are refused while this is false.
    pub enabled: bool,
    /// Cluster time at which it was made; 0 if the cluster did not know its time yet.
    pub created_ms: u64,
}

/// Enter an identity. The same again changes nothing.
pub(super) fn create(rows: &mut RowsMut<'_>, access_key: String, name: String, salt: [u8; SALT_BYTES]) -> Result<Verdict, Error> {
    if !ACCESS_KEY_BYTES.contains(&access_key.len()) || !access_key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Error::Malformed("the access key of an identity has 16 to 32 letters and digits".into()));
    }
    // Names are shown on terminals.
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Error::Malformed("the name of an identity has at most 64 bytes, and no control characters".into()));
    }
    let created_ms = time::now_ms(rows.get(time::row()));
    let identity = Identity { access_key, name, generation: 1, salt, enabled: true, created_ms };
    if let Some(known) = find(rows, &identity.access_key) {
        let same = Identity { created_ms: known.created_ms, ..identity } == known;
        return if same { Ok(Verdict::Unchanged(Reply::Identity(known))) } else { Err(Error::Refused("the access key is taken".into())) };
    }
    if count(rows) >= IDENTITIES_MAX {
        return Err(Error::TooManyIdentities { limit: IDENTITIES_MAX as u64 });
    }
    Ok(store(rows, identity))
}

/// Another secret key under the same access key. The same again changes nothing.
pub(super) fn rotate(rows: &mut RowsMut<'_>, access_key: &str, salt: [u8; SALT_BYTES]) -> Result<Verdict, Error> {
    let identity = find(rows, access_key).ok_or(Error::NoSuchIdentity)?;
    if identity.salt == salt {
        return Ok(Verdict::Unchanged(Reply::Identity(identity)));
    }
    let generation = identity.generation + 1;
    Ok(store(rows, Identity { generation, salt, ..identity }))
}

/// Refuse what it signs, or take it again.
pub(super) fn set_enabled(rows: &mut RowsMut<'_>, access_key: &str, enabled: bool) -> Result<Verdict, Error> {
    let identity = find(rows, access_key).ok_or(Error::NoSuchIdentity)?;
    if identity.enabled == enabled {
        return Ok(Verdict::Unchanged(Reply::Identity(identity)));
    }
    Ok(store(rows, Identity { enabled, ..identity }))
}

/// For good: what its secret key signs is never taken again.
pub(super) fn remove(rows: &mut RowsMut<'_>, access_key: &str) -> Result<Verdict, Error> {
    find(rows, access_key).ok_or(Error::NoSuchIdentity)?;
    rows.remove(&key(access_key));
    Ok(Verdict::Changed(Reply::Done))
}

/// All of them, by access key.
pub(super) fn query(rows: &Rows<'_>) -> Reply {
    let mut all = Vec::new();
    rows.scan(PREFIX, PREFIX_END, &mut |_, value| {
        all.extend(decode_row::<Identity>(Some(bytes::Bytes::copy_from_slice(value))));
        true
    });
    Reply::Identities(all)
}

/// The identity of this access key, within a command.
pub(crate) fn find(rows: &RowsMut<'_>, access_key: &str) -> Option<Identity> {
    decode_row(rows.get(&key(access_key)))
}

fn count(rows: &RowsMut<'_>) -> usize {
    let mut count = 0;
    rows.scan(PREFIX, PREFIX_END, &mut |_, _| {
        count += 1;
        true
    });
    count
}

fn store(rows: &mut RowsMut<'_>, identity: Identity) -> Verdict {
    rows.put(&key(&identity.access_key), &wire::encode(&identity));
    Verdict::Changed(Reply::Identity(identity))
}

fn key(access_key: &str) -> Vec<u8> {
    [PREFIX, access_key.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, Query};
    use crate::root::testing::Model;
    use protocol::ReplicaId;
    use std::collections::BTreeMap;

    fn access_key(number: usize) -> String {
        format!("KEYNUMBER{number:010}")
    }

    fn create(number: usize, salt: u8) -> Command {
        Command::CreateIdentity { access_key: access_key(number), name: "backup".into(), salt: [salt; SALT_BYTES] }
    }

    fn all(model: &Model) -> Vec<Identity> {
        match model.query(Query::Identities).result {
            Ok(Reply::Identities(all)) => all,
            other => panic!("{other:?}"),
        }
    }

    fn identity(result: Result<Reply, Error>) -> Identity {
        match result {
            Ok(Reply::Identity(identity)) => identity,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_life_of_an_identity() {
        let mut model = Model::founded(3, 1, 2);
        let clocks = (1..=3).map(|voter| (ReplicaId(voter), Some(1_700_000_000_000))).collect();
        model.apply(Command::MarkTime { clocks }).result.unwrap();
        let made = identity(model.apply(create(1, 7)).result);
        assert_eq!((made.generation, made.enabled, made.created_ms), (1, true, 1_700_000_000_000));
        let revision = model.query(Query::Identities).revision;
        assert_eq!(identity(model.apply(create(1, 7)).result), made, "a command that is sent again");
        assert_eq!(model.apply(create(1, 8)).result, Err(Error::Refused("the access key is taken".into())));
        let rotate = |salt: u8| Command::RotateIdentity { access_key: access_key(1), salt: [salt; SALT_BYTES] };
        assert_eq!(identity(model.apply(rotate(7)).result), made);
        assert_eq!(model.query(Query::Identities).revision, revision, "nothing of that changed anything");
        let set = |enabled| Command::SetIdentityEnabled { access_key: access_key(1), enabled };
        assert!(!identity(model.apply(set(false)).result).enabled);
        let rotated = identity(model.apply(rotate(9)).result);
        assert_eq!(rotated, Identity { generation: 2, salt: [9; SALT_BYTES], enabled: false, ..made });
        assert!(identity(model.apply(set(true)).result).enabled);
        assert_eq!(all(&model), [Identity { enabled: true, ..rotated }]);
        let remove = Command::RemoveIdentity { access_key: access_key(1) };
        assert_eq!(model.apply(remove.clone()).result, Ok(Reply::Done));
        for command in [remove, rotate(1), set(true)] {
            assert_eq!(model.apply(command).result, Err(Error::NoSuchIdentity));
        }
        assert_eq!(all(&model), []);
    }

    #[test]
    fn what_is_too_long_or_not_printable_is_refused() {
        let mut model = Model::founded(1, 1, 6);
        let named = |access_key: &str, name: &str| Command::CreateIdentity {
            access_key: access_key.into(),
            name: name.into(),
            salt: [0; SALT_BYTES],
        };
        for (access_key, name) in [
            ("SHORT", ""),
            (&*"A".repeat(33), ""),
            ("WITH/SLASHWITHSLASH", ""),
            ("WITHÜMLAUTWITHUMLAUT", ""),
            ("ABCDEFGHIJKLMNOPQRST", &*"n".repeat(65)),
            ("ABCDEFGHIJKLMNOPQRST", "red\x1b[31m"),
            ("ABCDEFGHIJKLMNOPQRST", "two\nlines"),
        ] {
            assert!(matches!(model.apply(named(access_key, name)).result, Err(Error::Malformed(_))), "{access_key} {name:?}");
        }
        identity(model.apply(named("ABCDEFGHIJKLMNOPQRST", "Büro, 2nd floor")).result);
    }

    #[test]
    fn one_more_than_may_be_is_refused_with_a_type() {
        let mut model = Model::founded(1, 1, 6);
        for number in 0..IDENTITIES_MAX {
            identity(model.apply(create(number, 1)).result);
        }
        assert_eq!(model.apply(create(IDENTITIES_MAX, 1)).result, Err(Error::TooManyIdentities { limit: IDENTITIES_MAX as u64 }));
        identity(model.apply(create(5, 1)).result);
        model.apply(Command::RemoveIdentity { access_key: access_key(5) }).result.unwrap();
        identity(model.apply(create(IDENTITIES_MAX, 1)).result);
        assert_eq!(all(&model).len(), IDENTITIES_MAX);
    }

    #[test]
    fn the_bytes_of_a_row_stay_as_documented() {
        let identity =
            Identity { access_key: "KS".into(), name: "a".into(), generation: 300, salt: [7; SALT_BYTES], enabled: true, created_ms: 5 };
        assert_eq!(wire::encode(&identity), [&[1, 2, b'K', b'S', 1, b'a', 0xac, 2][..], &[7; 16], &[1, 5]].concat());
    }

    /// Random histories of three access keys against a map of what they should be.
    #[test]
    fn in_every_history_the_rows_are_what_the_commands_say() {
        fn property(steps: Vec<(u8, u8, u8)>) -> bool {
            let mut model = Model::founded(1, 1, 6);
            let mut expected: BTreeMap<String, (u64, u8, bool)> = BTreeMap::new();
            let mut revision = model.query(Query::Identities).revision;
            for (verb, number, salt) in steps {
                let key = access_key(usize::from(number % 3));
                let known = expected.get(&key).copied();
                let (command, next) = match (verb % 5, known) {
                    (0, None) => (create(usize::from(number % 3), salt), Some((1, salt, true))),
                    (0, known) => (create(usize::from(number % 3), salt), known),
                    (1, known) => {
                        let rotated = known.map(|(generation, old, enabled)| (generation + u64::from(old != salt), salt, enabled));
                        (Command::RotateIdentity { access_key: key.clone(), salt: [salt; SALT_BYTES] }, rotated)
                    }
                    (2 | 3, known) => {
                        let enabled = verb % 5 == 2;
                        let set = known.map(|(generation, salt, _)| (generation, salt, enabled));
                        (Command::SetIdentityEnabled { access_key: key.clone(), enabled }, set)
                    }
                    (_, _) => (Command::RemoveIdentity { access_key: key.clone() }, None),
                };
                let answer = model.apply(command);
                match next {
                    Some(next) => drop(expected.insert(key, next)),
                    None => drop(expected.remove(&key)),
                }
                // Exactly what changes something has a revision of its own.
                if answer.revision != revision + u64::from(known != next) {
                    return false;
                }
                revision = answer.revision;
                let rows = all(&model).into_iter().map(|row| (row.access_key, (row.generation, row.salt[0], row.enabled)));
                if rows.collect::<BTreeMap<_, _>>() != expected {
                    return false;
                }
            }
            true
        }
        quickcheck::QuickCheck::new().tests(300).quickcheck(property as fn(Vec<(u8, u8, u8)>) -> bool);
    }
}
