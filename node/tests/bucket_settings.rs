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

#[test]
fn a_lifecycle_is_shown_as_it_was_set_until_it_is_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data"));
    block_on(async {
        let client = up.client();
        let rules = |rules: &str| {
            format!("<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{rules}</LifecycleConfiguration>")
        };
        let put = async |inner: &str| ask(&client, setting("PUT", "lifecycle", &rules(inner))).await;
        let get = async || ask(&client, setting("GET", "lifecycle", "")).await;
        assert_eq!(code(get().await), "NoSuchBucket");
        client.create_bucket("bucket").await.unwrap();
        assert_eq!(code(get().await), "NoSuchLifecycleConfiguration");
        let first = "<Rule><Expiration><Days>30</Days></Expiration><Filter><And><Prefix>logs/</Prefix><Tag><Key>a</Key><Value>1</Value></Tag>\
            <ObjectSizeGreaterThan>100</ObjectSizeGreaterThan></And></Filter><ID>first</ID><Status>Enabled</Status></Rule>";
        let second = "<Rule><AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>\
            <Expiration><Date>2030-01-01T00:00:00.000Z</Date></Expiration><ID>second</ID><NoncurrentVersionExpiration><NewerNoncurrentVersions>3</NewerNoncurrentVersions>\
            <NoncurrentDays>9</NoncurrentDays></NoncurrentVersionExpiration><Prefix>old form</Prefix><Status>Disabled</Status></Rule>";
        put(&format!("{first}{second}")).await.unwrap();
        let shown = get().await.unwrap();
        let root = Element::parse(shown.as_bytes()).unwrap();
        assert_eq!(root.name, "LifecycleConfiguration");
        let found: Vec<&Element> = root.all("Rule").collect();
        assert_eq!(found.iter().map(|rule| rule.text_of("ID")).collect::<Vec<_>>(), ["first", "second"]);
        let and = found[0].child("Filter").and_then(|filter| filter.child("And")).unwrap();
        assert_eq!((and.text_of("Prefix"), and.text_of("ObjectSizeGreaterThan"), and.all("Tag").count()), ("logs/", "100", 1));
        assert_eq!(found[0].child("Expiration").unwrap().text_of("Days"), "30");
        assert_eq!(
            (found[1].text_of("Prefix"), found[1].text_of("Status"), found[1].child("Filter").is_none()),
            ("old form", "Disabled", true)
        );
        assert_eq!(found[1].child("Expiration").unwrap().text_of("Date"), "2030-01-01T00:00:00.000Z");
        let noncurrent = found[1].child("NoncurrentVersionExpiration").unwrap();
        assert_eq!((noncurrent.text_of("NoncurrentDays"), noncurrent.text_of("NewerNoncurrentVersions")), ("9", "3"));
        assert_eq!(found[1].child("AbortIncompleteMultipartUpload").unwrap().text_of("DaysAfterInitiation"), "7");

        let rule = |inner: &str| format!("<Rule><ID>x</ID><Status>Enabled</Status><Filter/>{inner}</Rule>");
        let days = "<Expiration><Days>1</Days></Expiration>";
        for (wrong, expected) in [
            (String::new(), "MalformedXML"),
            (rule(""), "InvalidRequest"),
            (rule("<Expiration><Days>0</Days></Expiration>"), "InvalidArgument"),
            (rule("<Expiration><Date>2030-01-01T00:00:01.000Z</Date></Expiration>"), "InvalidArgument"),
            (rule("<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>"), "NotImplemented"),
            (rule("<Expiration><Days>1</Days><Whenever/></Expiration>"), "NotImplemented"),
            (format!("{}{}", rule(days), rule(days)), "InvalidArgument"),
            (rule(days).replace("<Filter/>", ""), "MalformedXML"),
            (rule(days).replace("Enabled", "On"), "MalformedXML"),
        ] {
            assert_eq!(code(put(&wrong).await), expected, "{wrong}");
        }
        assert_eq!(get().await.unwrap(), shown, "what is refused changes nothing");

        // Another one in its place, with an id that is made.
        put(&rule(days).replace("<ID>x</ID>", "")).await.unwrap();
        let root = Element::parse(get().await.unwrap().as_bytes()).unwrap();
        assert_eq!((root.all("Rule").count(), root.all("Rule").next().unwrap().text_of("ID").len()), (1, 16));
        ask(&client, setting("DELETE", "lifecycle", "")).await.unwrap();
        ask(&client, setting("DELETE", "lifecycle", "")).await.unwrap();
        assert_eq!(code(get().await), "NoSuchLifecycleConfiguration");
        put(&rule(days)).await.unwrap();
        client.delete_bucket("bucket").await.unwrap();
        client.create_bucket("bucket").await.unwrap();
        assert_eq!(code(get().await), "NoSuchLifecycleConfiguration", "another bucket of the name");
    });
}
