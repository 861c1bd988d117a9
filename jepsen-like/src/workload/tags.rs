//! Tags by number, so that any mixture of two sets shows: one to three tags, whose values are all that number.

use super::answer::{ask, version, wrong};
use super::objects::whole_document;
use super::versions::missing;
use crate::history::{Outcome, Reply, Value};
use crate::s3::{Client, Element, Request};

/// The keys of the tags of a number.
fn keys(number: u64) -> &'static [&'static str] {
    const KEYS: [&str; 3] = ["number", "of the", "tags"];
    &KEYS[..usize::try_from(number % 3).expect("below three") + 1]
}

/// With those of the value that is put.
pub(super) fn dress(request: Request, value: Value) -> Request {
    match value.tags() {
        None => request,
        Some(number) => {
            let pairs: Vec<String> = keys(number).iter().map(|key| format!("{}={number}", key.replace(' ', "%20"))).collect();
            request.header("x-amz-tagging", pairs.join("&"))
        }
    }
}

fn request(method: &str, bucket: &str, key: &str, id: Option<&str>) -> Request {
    let request = Request::object(method, bucket, key).query("tagging", "");
    match id {
        None => request,
        Some(id) => request.query("versionId", id),
    }
}

/// PutObjectTagging, or DeleteObjectTagging.
pub(super) async fn set(client: &Client, bucket: &str, key: &str, id: Option<&str>, tags: Option<u64>) -> Reply {
    let request = match tags {
        None => request("DELETE", bucket, key, id),
        Some(number) => {
            let tags: String = keys(number).iter().map(|key| format!("<Tag><Key>{key}</Key><Value>{number}</Value></Tag>")).collect();
            request("PUT", bucket, key, id).source(format!("<Tagging><TagSet>{tags}</TagSet></Tagging>"))
        }
    };
    told(client, &request, id, |headers, _| Outcome::Tagged(version(headers))).await
}

/// GetObjectTagging.
pub(super) async fn get(client: &Client, bucket: &str, key: &str, id: Option<&str>) -> Reply {
    let shown = |headers: &http::HeaderMap, body: &bytes::Bytes| match whole_document(body).map(|root| number(&root)) {
        Ok(Ok(tags)) => Outcome::Tags { tags, version: version(headers) },
        Ok(Err(reason)) => wrong(reason),
        Err(outcome) => outcome,
    };
    told(client, &request("GET", bucket, key, id), id, shown).await
}

async fn told(
    client: &Client,
    request: &Request,
    id: Option<&str>,
    good: impl FnOnce(&http::HeaderMap, &bytes::Bytes) -> Outcome,
) -> Reply {
    let answer = ask(client, request).await;
    if let Err(error) = &answer.result {
        return Reply { outcome: missing(error), revision: answer.revision };
    }
    answer.told(|headers, body| match (version(headers), id) {
        (Some(told), Some(id)) if told != id => wrong(format!("the tags of version {told}, not of {id}")),
        _ => good(headers, body),
    })
}

/// What number the tags of a document have.
fn number(root: &Element) -> Result<Option<u64>, String> {
    let set = root.child("TagSet").ok_or("no TagSet")?;
    let tags: Vec<(&str, &str)> = set.all("Tag").map(|tag| (tag.text_of("Key"), tag.text_of("Value"))).collect();
    let Some((_, value)) = tags.first() else { return Ok(None) };
    let number: u64 = value.parse().map_err(|_| format!("tags that nobody set: {tags:?}"))?;
    let expected: Vec<(&str, &str)> = keys(number).iter().map(|key| (*key, *value)).collect();
    if tags == expected { Ok(Some(number)) } else { Err(format!("tags that nobody set together: {tags:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_two_numbers_are_told_from_those_of_one() {
        let document = |tags: &[(&str, &str)]| {
            let tags: String = tags.iter().map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>")).collect();
            Element::parse(format!("<Tagging><TagSet>{tags}</TagSet></Tagging>").as_bytes()).unwrap()
        };
        assert_eq!(number(&document(&[])), Ok(None));
        assert_eq!(number(&document(&[("number", "7"), ("of the", "7")])), Ok(Some(7)));
        for wrong in [&[("number", "7"), ("of the", "8")][..], &[("number", "7")], &[("number", "x")], &[("tags", "6")]] {
            assert!(number(&document(wrong)).is_err(), "{wrong:?}");
        }
    }
}
