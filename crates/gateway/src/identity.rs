//! Who may sign requests: the node's own identity, which stands in its file, and those of the root group. There are no policies yet: who
//! proves that he has a secret key of either kind may do everything.
//!
//! Always holds: the node's own identity wins, needs nobody once the gateway serves, and cannot be changed from elsewhere. Any other is taken only as it was at most
//! [`placement::IDENTITY_AGE_MAX`] ago; if that is not known, nothing is said of it but 503. One that is disabled is answered as one that
//! does not exist.

use crate::secret_keys::SecretKeys;
use runtime::time::now;
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The longest that a request waits for the root group to say who sends it.
const WAIT: Duration = Duration::from_secs(5);
/// What S3 says of an access key that nobody has.
pub(crate) const UNKNOWN: &str = "The AWS Access Key Id you provided does not exist in our records.";

/// An access key and its secret; the secret is never printed.
#[derive(Clone)]
pub struct Identity {
    access_key: Arc<str>,
    secret_key: SecretKey,
}

impl Identity {
    pub fn new(access_key: &str, secret_key: &str) -> Identity {
        Identity { access_key: access_key.into(), secret_key: secret_key.into() }
    }

    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    pub(crate) fn secret_key(&self) -> &str {
        self.secret_key.expose()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// All whose requests a gateway takes; cheap to clone.
#[derive(Clone, Debug)]
pub struct Identities {
    own: Identity,
    of_the_root: Option<OfTheRoot>,
}

#[derive(Clone)]
struct OfTheRoot {
    placement: placement::Client,
    secret_keys: SecretKeys,
}

impl fmt::Debug for OfTheRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfTheRoot(..)")
    }
}

impl From<Identity> for Identities {
    /// This one and no other.
    fn from(own: Identity) -> Identities {
        Identities { own, of_the_root: None }
    }
}

impl Identities {
    /// `own`, and those that the root group has.
    pub fn new(own: Identity, placement: placement::Client, secret_keys: SecretKeys) -> Identities {
        Identities { own, of_the_root: Some(OfTheRoot { placement, secret_keys }) }
    }

    /// Whoever has this access key and may use it; `None` if there is nobody.
    async fn find(&self, access_key: &str) -> Result<Option<Identity>, placement::Error> {
        if access_key == self.own.access_key() {
            return Ok(Some(self.own.clone()));
        }
        let Some(OfTheRoot { placement, secret_keys }) = &self.of_the_root else { return Ok(None) };
        let row = placement.identity(access_key, now() + WAIT).await?.filter(|row| row.enabled);
        Ok(row.map(|row| Identity::new(&row.access_key, &secret_keys.of(&row))))
    }

    /// Who signed the request that is being verified, if he may; an error is its answer.
    pub(crate) async fn signer(&self, access_key: &str) -> S3Result<Identity> {
        // In one word and no louder than that, as whoever asks has not proved who he is.
        let found = self.find(access_key).await.map_err(|error| {
            tracing::debug!(%error, "identities are not known");
            s3_error!(ServiceUnavailable, "It cannot be told at this moment who signed the request. Please try again.")
        })?;
        found.ok_or_else(|| S3Error::with_message(S3ErrorCode::InvalidAccessKeyId, UNKNOWN))
    }
}

impl S3Auth for Identities {
    fn get_secret_key<'life0, 'life1, 'async_trait>(
        &'life0 self,
        access_key: &'life1 str,
    ) -> Pin<Box<dyn Future<Output = S3Result<SecretKey>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move { self.signer(access_key).await.map(|identity| identity.secret_key) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", Identities::from(Identity::new("ann", "hunter22")));
        assert!(shown.contains("ann") && !shown.contains("hunter22"), "{shown}");
    }
}
