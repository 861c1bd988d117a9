//! Identities of S3: what an operator does with them, and what a gateway knows of them.

use super::{Client, PAUSE, patience};
use crate::Error;
use crate::cache::Cached;
use crate::commands::{Command, Query, Reply};
use crate::root::identities::{Identity, SALT_BYTES};
use crate::service::{applied_somehow, unexpected};
use runtime::sync::Mutex;
use runtime::time::{Instant, now, timeout_at};

/// The last load of all identities: when it began, and what came of it. Held while one is under way, so that a crowd asks once.
pub(super) type Loads = Mutex<Option<(Instant, Result<(), Error>)>>;

impl Client {
    /// Enter an identity. `access_key` and `salt` are random; said twice, it is said once.
    pub async fn create_identity(
        &self,
        access_key: &str,
        name: &str,
        salt: [u8; SALT_BYTES],
        deadline: Instant,
    ) -> Result<Identity, Error> {
        let command = Command::CreateIdentity { access_key: access_key.to_owned(), name: name.to_owned(), salt };
        identity_of(self.command(command, deadline).await?.1)
    }

    /// Begin the next generation of an identity with another random `salt`: another secret key.
    pub async fn rotate_identity(&self, access_key: &str, salt: [u8; SALT_BYTES], deadline: Instant) -> Result<Identity, Error> {
        identity_of(self.command(Command::RotateIdentity { access_key: access_key.to_owned(), salt }, deadline).await?.1)
    }

    /// Refuse what an identity signs, or take it again. Gateways know within [`IDENTITY_AGE_MAX`](crate::IDENTITY_AGE_MAX).
    pub async fn set_identity_enabled(&self, access_key: &str, enabled: bool, deadline: Instant) -> Result<Identity, Error> {
        identity_of(self.command(Command::SetIdentityEnabled { access_key: access_key.to_owned(), enabled }, deadline).await?.1)
    }

    /// Remove an identity for good. Gateways know within [`IDENTITY_AGE_MAX`](crate::IDENTITY_AGE_MAX).
    pub async fn remove_identity(&self, access_key: &str, deadline: Instant) -> Result<(), Error> {
        match self.command(Command::RemoveIdentity { access_key: access_key.to_owned() }, deadline).await? {
            (_, Reply::Done) => Ok(()),
            (_, other) => Err(applied_somehow(&other)),
        }
    }

    /// All identities as they are now, linearizable, by access key.
    pub async fn identities(&self, deadline: Instant) -> Result<Vec<Identity>, Error> {
        Ok(self.list_identities(deadline).await?.1)
    }

    /// The identity of this access key as it was at most [`IDENTITY_AGE_MAX`](crate::IDENTITY_AGE_MAX) ago; `None` if there is none. While
    /// changes are heard of it is what it is now, but for the way here. An error: it is not known any more, and the root cannot be asked.
    ///
    /// Whatever access keys are asked for, known or not, the root is asked for all at once, by one caller at a time, and not at all
    /// while what is known is fresh.
    pub async fn identity(&self, access_key: &str, deadline: Instant) -> Result<Option<Identity>, Error> {
        let known = self.caches().identity(access_key);
        if let Cached::Fresh(found) = known {
            return Ok(found);
        }
        let is_known = matches!(known, Cached::Stale(Some(_)));
        let loaded = self.load_identities(patience(is_known, deadline)).await;
        // Judged again: the process may have stood still meanwhile, and what was asked for before is as old as that.
        let mut caches = self.caches();
        match (loaded, caches.identity(access_key)) {
            (Ok(()), Cached::Fresh(found) | Cached::Stale(found)) => Ok(found),
            (Ok(()), Cached::Absent) => Err(Error::Unavailable("what the root group said of identities came too late".into())),
            // That there is none is not said of old knowledge: whoever was made since would be told so.
            (
                Err(Error::Unavailable(_) | Error::Unknown(_) | Error::Busy),
                Cached::Fresh(found @ Some(_)) | Cached::Stale(found @ Some(_)),
            ) => {
                runtime::probe!("placement: a known identity was served while the root could not be asked");
                caches.excuse_identities();
                Ok(found)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// All identities that this client takes for what they are without asking; `None` while it takes none.
    pub fn covered_identities(&self) -> Option<Vec<Identity>> {
        self.caches().covered_identities()
    }

    /// Have the caches hold all identities as they were at some moment after this call.
    async fn load_identities(&self, limit: Instant) -> Result<(), Error> {
        let came = now();
        let Ok(mut last) = timeout_at(limit, self.inner.loads.lock()).await else { return Err(Error::Busy) };
        // Whoever had the turn meanwhile asked for all who were waiting.
        if let Some((_, result)) = last.as_ref().filter(|(asked, _)| *asked >= came) {
            return result.clone();
        }
        let asked = now();
        if asked + PAUSE >= limit {
            return Err(Error::Busy);
        }
        let result = self.list_identities(limit).await.map(|(revision, identities)| {
            self.caches().keep_identities(identities, revision, asked);
        });
        *last = Some((asked, result.clone()));
        result
    }

    async fn list_identities(&self, deadline: Instant) -> Result<(u64, Vec<Identity>), Error> {
        match self.query(Query::Identities, deadline).await? {
            (revision, Reply::Identities(identities)) => Ok((revision, identities)),
            (_, other) => Err(unexpected(&other)),
        }
    }
}

fn identity_of(reply: Reply) -> Result<Identity, Error> {
    match reply {
        Reply::Identity(identity) => Ok(identity),
        other => Err(applied_somehow(&other)),
    }
}
