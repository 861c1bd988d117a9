//! Identities of S3, as an operator makes and ends them. Whoever may do this knows the cluster's secret, and with it every secret key: the
//! commands say no more than he could find out.

use super::Operator;
use gateway::gate::signing::format_iso;
use gateway::secret_keys;
use placement::{Error, Identity};
use runtime::time::Instant;
use std::fmt;

/// An identity with the secret key of its present generation.
pub struct Issued {
    pub identity: Identity,
    pub secret_key: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// All identities, for people: a line each.
pub struct Listing(pub Vec<Identity>);

impl Operator {
    /// A new identity that people call `name`.
    pub async fn create_identity(&self, name: &str, deadline: Instant) -> Result<Issued, Error> {
        let (mut random, mut salt) = ([0; secret_keys::ACCESS_KEY_BYTES], [0; _]);
        runtime::entropy::fill(&mut random);
        runtime::entropy::fill(&mut salt);
        let access_key = secret_keys::access_key(random);
        Ok(self.issued(self.placement.create_identity(&access_key, name, salt, deadline).await?))
    }

    /// Another secret key for an identity; the former one is refused from then on.
    pub async fn rotate_identity(&self, access_key: &str, deadline: Instant) -> Result<Issued, Error> {
        let mut salt = [0; _];
        runtime::entropy::fill(&mut salt);
        Ok(self.issued(self.placement.rotate_identity(access_key, salt, deadline).await?))
    }

    /// Refuse what an identity signs, or take it again.
    pub async fn set_identity_enabled(&self, access_key: &str, enabled: bool, deadline: Instant) -> Result<Identity, Error> {
        self.placement.set_identity_enabled(access_key, enabled, deadline).await
    }

    /// Remove an identity for good.
    pub async fn remove_identity(&self, access_key: &str, deadline: Instant) -> Result<(), Error> {
        self.placement.remove_identity(access_key, deadline).await
    }

    /// All identities of the root group.
    pub async fn identities(&self, deadline: Instant) -> Result<Listing, Error> {
        self.placement.identities(deadline).await.map(Listing)
    }

    fn issued(&self, identity: Identity) -> Issued {
        Issued { secret_key: self.secret_keys.of(&identity), identity }
    }
}

impl fmt::Display for Issued {
    /// As files with credentials have it. The only place where a secret key is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "access_key = \"{}\"", self.identity.access_key)?;
        writeln!(f, "secret_key = \"{}\"", self.secret_key)
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Identity { access_key, name, generation, enabled, created_ms, .. } in &self.0 {
            let state = if *enabled { "enabled" } else { "disabled" };
            let created = if *created_ms == 0 { "in its first seconds".to_owned() } else { format_iso(*created_ms) };
            let rotated = match generation {
                1 => String::new(),
                2 => ", rotated once".to_owned(),
                more => format!(", rotated {} times", more - 1),
            };
            writeln!(f, "{access_key}  {state:8}  made {created}{rotated}  {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(generation: u64, enabled: bool, created_ms: u64) -> Identity {
        Identity { access_key: "KSAEBAGBAFAYDQQCIK".into(), name: "backup".into(), generation, salt: [7; 16], enabled, created_ms }
    }

    #[test]
    fn a_listing_says_how_identities_stand_and_no_secret() {
        let listing = Listing(vec![identity(1, true, 1_369_353_600_000), identity(2, false, 0), identity(4, true, 5)]);
        assert_eq!(
            listing.to_string(),
            "KSAEBAGBAFAYDQQCIK  enabled   made 2013-05-24T00:00:00Z  backup
KSAEBAGBAFAYDQQCIK  disabled  made in its first seconds, rotated once  backup
KSAEBAGBAFAYDQQCIK  enabled   made 1970-01-01T00:00:00Z, rotated 3 times  backup
"
        );
    }

    #[test]
    fn a_secret_key_is_written_as_files_with_credentials_have_it_and_not_for_debugging() {
        let issued = Issued { identity: identity(1, true, 5), secret_key: "SECRET".into() };
        assert_eq!(issued.to_string(), "access_key = \"KSAEBAGBAFAYDQQCIK\"\nsecret_key = \"SECRET\"\n");
        let parsed: crate::config::Credentials = crate::config::parse(std::path::Path::new("c"), &issued.to_string()).unwrap();
        assert_eq!(parsed.secret_key, "SECRET");
        assert!(!format!("{issued:?}").contains("SECRET"));
    }
}
