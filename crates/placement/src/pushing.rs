//! The leader's side of watching: a watcher's question stays until there is news for it. A watcher costs the leader the question
//! that waits, and nothing that grows: what it has not heard yet stands in the ring that all share ([`crate::changes`]), or no more.

use crate::Error;
use crate::changes::{Changes, News};
use crate::commands::Query;
use crate::leader::{HOLD, Refusal, Told, Watch};
use crate::service::Inner;
use protocol::wire;
use runtime::rpc::Request;
use runtime::time::{Instant, now, sleep_until};
use std::sync::Weak;
use std::time::Duration;

/// The longest wait for the group's own word.
const READ: Duration = Duration::from_secs(1);

/// Answer a watcher. The service may end meanwhile: a question that waits does not keep it.
pub(crate) async fn serve(weak: &Weak<Inner>, changes: &Changes, request: &Request) -> Result<Told, Refusal> {
    let Watch { since } = wire::decode(&request.meta).map_err(|error| Refusal::Failed(Error::Malformed(error.to_string())))?;
    let gone = || Refusal::NotLeader { hint: None };
    let Some(_place) = changes.place() else {
        runtime::probe!("placement: too many watchers");
        return Err(Refusal::Failed(Error::Busy));
    };
    // The group's own word first: what happened while the watcher was away, or before this node led, wakes nobody.
    let first = weak.upgrade().ok_or_else(gone)?.news(since).await?;
    let Some(since) = since.filter(|_| first.is_nothing()) else { return Ok(Told::News(first)) };
    let mut signal = changes.signal();
    let until = request.deadline.min(now() + HOLD);
    loop {
        signal.borrow_and_update();
        if let Some(news) = changes.news_already(since) {
            runtime::probe!("placement: changes were pushed to a watcher");
            return Ok(Told::News(news));
        }
        weak.upgrade().ok_or_else(gone)?.refuse_unless_leading()?;
        runtime::select! {
            _ = signal.changed() => {}
            () = sleep_until(until) => break,
        }
    }
    weak.upgrade().ok_or_else(gone)?.news(Some(since)).await.map(Told::News)
}

impl Inner {
    /// What changed after `since`, up to now at least.
    async fn news(&self, since: Option<u64>) -> Result<News, Refusal> {
        self.refuse_unless_leading()?;
        let until: Instant = now() + READ;
        // Whatever is asked: each answer has the revision.
        let (revision, _) = self.read(Query::Time, until).await.map_err(Refusal::Failed)?;
        Ok(self.changes.news(since, revision))
    }
}
