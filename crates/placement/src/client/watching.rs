//! Hearing of changes: one question stays with whoever leads the root group, and is asked again as soon as it is answered.
//!
//! Nothing rests on it but how fresh the caches are: while it is not answered they go by age.

use super::{Client, Inner, PAUSE};
use crate::changes::{Change, News};
use crate::{Bucket, Group};
use protocol::Volume;
use runtime::task::Task;
use runtime::time::{now, sleep};
use std::sync::Arc;
use std::time::Duration;

/// The longest pause before somebody is asked again.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest that the nodes of a group are waited for.
const ASK_GROUP: Duration = Duration::from_secs(1);

impl Client {
    /// Hear of changes of buckets, volumes, groups, identities and the map from the root's leader until the task is dropped, so that
    /// the caches of this client are as fresh as they can be. One request waits at a time.
    pub fn watch(&self) -> Task<()> {
        runtime::task::spawn(watch(self.inner.clone()))
    }

    /// Buckets and volumes that this client takes for what they are without asking, however long it has known them.
    pub fn covered(&self) -> (Vec<Arc<Bucket>>, Vec<Arc<Volume>>) {
        self.caches().covered()
    }
}

/// Whoever ends the watch ends what is believed because of it.
struct Hearing(Arc<Inner>);

impl Drop for Hearing {
    fn drop(&mut self) {
        self.0.caches().unheard();
    }
}

async fn watch(inner: Arc<Inner>) {
    let Hearing(inner) = &Hearing(inner);
    let mut pause = PAUSE;
    loop {
        let (since, asked) = (inner.caches().revision(), now());
        match inner.road.watch(since).await {
            Ok(news) => {
                pause = PAUSE;
                let (revision, told) = (news.revision, news.changes.as_ref().map(Vec::len));
                tracing::debug!(?since, revision, ?told, "heard of changes of the root group");
                inner.caches().hear(&news, asked, now());
                inner.meet_groups(news).await;
            }
            Err(error) => {
                tracing::debug!(?since, %error, "nobody tells of changes of the root group");
                inner.caches().unheard();
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

impl Inner {
    /// Groups got other replicas: learn where they are before somebody looks for them in vain.
    async fn meet_groups(&self, news: News) {
        let changed = news.changes.into_iter().flatten().filter_map(|(_, change)| match change {
            Change::Group(group) if group.replacing.is_none() => Some(group),
            _ => None,
        });
        for Group { group, voters, .. } in changed {
            let knows = self.groups.known(group).is_ok_and(|members| members.voters == voters);
            if !knows && let Err(error) = self.groups.members(group, now() + ASK_GROUP).await {
                tracing::debug!(%group, %error, "a group that has other replicas does not answer");
            }
        }
    }
}
