//! The one root identity. There is no other yet; who proves that he has its secret may do everything.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Error, S3ErrorCode, S3Result};

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

impl S3Auth for Identity {
    fn get_secret_key<'life0, 'life1, 'async_trait>(
        &'life0 self,
        access_key: &'life1 str,
    ) -> Pin<Box<dyn Future<Output = S3Result<SecretKey>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            if access_key == &*self.access_key {
                return Ok(self.secret_key.clone());
            }
            Err(S3Error::with_message(S3ErrorCode::InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records."))
        })
    }
}
