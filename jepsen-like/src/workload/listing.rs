//! Listings, page by page: of the keys of a bucket, where each page is an operation of its own, and of the buckets, where all
//! pages are one.

use super::answer::{failed, wrong};
use super::step::BUCKETS_PREFIX;
use super::worker::Work;
use crate::history::{self, Action, After, List, Listed, Outcome, Page, Reply};
use crate::s3::{self, BucketPage, Client};

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

/// List the buckets whose names begin with `prefix`, to the last page. Those that are no workload's are left out: of them the
/// history knows nothing.
pub(super) async fn buckets(client: &Client, prefix: &str, buckets_max: Option<u32>) -> Reply {
    let mut names: Vec<String> = Vec::new();
    let mut token = None;
    for _ in 0..PAGES_MAX {
        let page = match client.list_buckets_page(prefix, buckets_max, token.as_deref()).await {
            Ok(page) => page,
            Err(error) => return failed(&error).into(),
        };
        if let Err(reason) = check_page(&page, prefix, buckets_max, names.last()) {
            return wrong(reason).into();
        }
        names.extend(page.names);
        token = page.next;
        if token.is_none() {
            names.retain(|name| name.starts_with(BUCKETS_PREFIX));
            return Outcome::Buckets(names).into();
        }
    }
    Outcome::NotDone(format!("not ended after {PAGES_MAX} pages")).into()
}

/// What no page can be, whatever buckets there are; `last` is the last name of the pages before.
fn check_page(page: &BucketPage, prefix: &str, buckets_max: Option<u32>, last: Option<&String>) -> Result<(), String> {
    if buckets_max.is_some_and(|most| page.names.len() > most as usize) {
        return Err(format!("{} buckets on a page of at most {buckets_max:?}", page.names.len()));
    }
    if let Some(stranger) = page.names.iter().find(|name| !name.starts_with(prefix)) {
        return Err(format!("bucket {stranger} is listed under the prefix {prefix}"));
    }
    let names: Vec<&String> = last.into_iter().chain(&page.names).collect();
    match names.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(format!("bucket {} is listed behind {}", pair[1], pair[0])),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_buckets_that_cannot_be_is_wrong() {
        let check = |names: &[&str], prefix: &str, most: Option<u32>, last: Option<&str>| {
            let page = BucketPage { names: names.iter().map(|name| (*name).to_owned()).collect(), next: None };
            check_page(&page, prefix, most, last.map(str::to_owned).as_ref()).is_ok()
        };
        assert!(check(&["a", "b"], "", None, None));
        assert!(check(&["ab", "ac"], "a", Some(2), Some("aa")));
        assert!(check(&[], "a", Some(1), Some("aa")));
        assert!(!check(&["a", "b"], "", Some(1), None));
        assert!(!check(&["b"], "a", None, None));
        assert!(!check(&["b", "a"], "", None, None));
        assert!(!check(&["a", "a"], "", None, None));
        assert!(!check(&["a", "b"], "", None, Some("a")));
    }
}
