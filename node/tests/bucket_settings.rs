//! What is set for buckets, as S3's clients see it, against the real binary.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "a test of a real process")]

mod server;

use jepsen_like::s3::{Client, Element, Error, Request};
use runtime::process::block_on;
use server::Up;

fn code<T>(answer: Result<T, Error>) -> String {
    match answer {
        Ok(_) => "no error".into(),
        Err(error) => error.code().map_or_else(|| format!("{error}"), str::to_string),
    }
}

async fn ask(client: &Client, request: Request) -> Result<String, Error> {
    let (_, body) = client.call_whole(&request).await?;
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// A request for `?SETTING` of the bucket.
fn setting(method: &str, setting: &str, document: &str) -> Request {
    let request = Request::bucket(method, "bucket").query(setting, "");
    if document.is_empty() { request } else { request.source(document.to_string()) }
}

#[test]
fn tags_of_a_bucket_are_set_as_a_whole_and_go_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data"));
    block_on(async {
        let client = up.client();
        let document = |pairs: &[(&str, &str)]| {
            let tags: String = pairs.iter().map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>")).collect();
            format!("<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><TagSet>{tags}</TagSet></Tagging>")
        };
        let put = async |pairs: &[(&str, &str)]| ask(&client, setting("PUT", "tagging", &document(pairs))).await;
        let get = async || {
            let body = ask(&client, setting("GET", "tagging", "")).await?;
            let root = Element::parse(body.as_bytes()).unwrap();
            let tags = root.child("TagSet").unwrap().all("Tag").map(|tag| format!("{}={}", tag.text_of("Key"), tag.text_of("Value")));
            Ok::<_, Error>(tags.collect::<Vec<_>>().join("&"))
        };
        assert_eq!((code(put(&[("a", "1")]).await), code(get().await)), ("NoSuchBucket".into(), "NoSuchBucket".into()));
        client.create_bucket("bucket").await.unwrap();
        assert_eq!(code(get().await), "NoSuchTagSet");
        put(&[("b", "2"), ("a é", "1/")]).await.unwrap();
        assert_eq!(get().await.unwrap(), "a é=1/&b=2");
        let many: Vec<String> = (0..51).map(|number| number.to_string()).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "")).collect();
        for (wrong, expected) in [(&many[..], "BadRequest"), (&[("a", "1"), ("a", "2")], "InvalidTag"), (&[("aws:a", "")], "InvalidTag")] {
            assert_eq!(code(put(wrong).await), expected);
        }
        assert_eq!(code(ask(&client, setting("PUT", "tagging", "<Tagging><TagSet/><Other/></Tagging>")).await), "NotImplemented");
        assert_eq!(get().await.unwrap(), "a é=1/&b=2", "what is refused changes nothing");
        put(&many[..50]).await.unwrap();
        assert_eq!(get().await.unwrap().split('&').count(), 50);
        ask(&client, setting("DELETE", "tagging", "")).await.unwrap();
        assert_eq!(code(get().await), "NoSuchTagSet");
        put(&[("c", "")]).await.unwrap();
        client.delete_bucket("bucket").await.unwrap();
        client.create_bucket("bucket").await.unwrap();
        assert_eq!(code(get().await), "NoSuchTagSet", "another bucket of the name");
    });
}
