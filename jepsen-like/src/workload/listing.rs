//! Listings, page by page; each page is an operation of its own.

use super::answer::{failed, wrong};
use super::worker::Work;
use crate::history::{self, Action, After, List, Listed, Outcome, Page};
use crate::s3::{self, Client};

/// Pages of one listing at most: with small pages of many keys the rest says nothing new.
const PAGES_MAX: usize = 100;

/// List `bucket` from `first` on, until the end, or until a page fails. Returns all keys that were shown, and why it
/// ended too early.
pub(super) async fn list(work: &Work, client_name: u32, client: &Client, bucket: &str, first: List) -> Result<Vec<String>, Outcome> {
    let mut keys = Vec::new();
    let mut list = first;
    for _ in 0..PAGES_MAX {
        let begun = work.recorder.begin(client_name, bucket, "", Action::List(list.clone()));
        let outcome = page(work, client, bucket, &list).await;
        work.recorder.end(begun, outcome.clone());
        let Outcome::Listed(page) = outcome else { return Err(outcome) };
        keys.extend(page.keys.into_iter().map(|listed| listed.key));
        let Some(next) = page.next.filter(|_| page.truncated) else { return Ok(keys) };
        list.after = match list.kind {
            history::ListKind::V1 => After::Key(next),
            history::ListKind::V2 => After::Token(next),
        };
    }
    Err(Outcome::NotDone(format!("not ended after {PAGES_MAX} pages")))
}

async fn page(work: &Work, client: &Client, bucket: &str, list: &List) -> Outcome {
    let (after, token) = match &list.after {
        After::Start => (String::new(), None),
        After::Key(key) => (key.clone(), None),
        After::Token(token) => (String::new(), Some(token.clone())),
    };
    let asked =
        s3::List { prefix: list.prefix.clone(), delimiter: list.delimiter.clone(), after, token, keys_max: list.keys_max, plain: false };
    let kind = match list.kind {
        history::ListKind::V1 => s3::ListKind::V1,
        history::ListKind::V2 => s3::ListKind::V2,
    };
    let page = match client.list(bucket, kind, &asked).await {
        Ok(page) => page,
        Err(error) => return failed(&error),
    };
    if page.truncated && page.next.is_none() {
        return wrong("a truncated page that does not say where to go on".to_owned());
    }
    let mut keys = Vec::new();
    for row in page.objects {
        let Some(named) = work.values.named(&row.etag) else {
            return wrong(format!("{} is listed with ETag {}, which is of no value that anybody wrote", row.key, row.etag));
        };
        if let Some(value) = named
            && value.bytes != row.bytes
        {
            return wrong(format!("{} is listed with {} bytes, and the ETag of {value:?}", row.key, row.bytes));
        }
        keys.push(Listed { key: row.key, value: named });
    }
    Outcome::Listed(Page { keys, prefixes: page.prefixes, truncated: page.truncated, next: page.next })
}
