//! Documents of requests, said again in the words that s3s understands.
//!
//! s3s 0.14 leaves out CDATA, takes a character reference above U+FFFF for an error, skips elements in places where it does not
//! expect them, and reads a number up to the first letter that is no digit. A key of which a part was left out is another object's key, tags in the
//! wrong place are no tags, and a lifecycle of 1,000 days is none of one day: so text is written anew, every element must stand where S3 has it,
//! numbers must be numbers, and what cannot be understood is refused.

use std::borrow::Cow;

use bytes::Bytes;
use quick_xml::escape::{escape, resolve_xml_entity};
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::gate::operation::Operation;

/// Deeper than any document of S3.
const DEPTH_MAX: usize = 16;

/// Elements by those that they stand in; "" is the document itself. `None`: s3s judges the places by itself.
fn places(operation: Operation) -> Option<&'static [(&'static str, &'static [&'static str])]> {
    Some(match operation {
        Operation::DeleteObjects => {
            &[("", &["Delete"]), ("Delete", &["Object", "Quiet"]), ("Object", &["Key", "VersionId", "ETag", "LastModifiedTime", "Size"])]
        }
        Operation::PutObjectTagging | Operation::PutBucketTagging => {
            &[("", &["Tagging"]), ("Tagging", &["TagSet"]), ("TagSet", &["Tag"]), ("Tag", &["Key", "Value"])]
        }
        Operation::PutBucketLifecycleConfiguration => &[
            ("", &["LifecycleConfiguration"]),
            ("LifecycleConfiguration", &["Rule"]),
            (
                "Rule",
                &[
                    "ID",
                    "Status",
                    "Filter",
                    "Prefix",
                    "Expiration",
                    "NoncurrentVersionExpiration",
                    "AbortIncompleteMultipartUpload",
                    "Transition",
                    "NoncurrentVersionTransition",
                ],
            ),
            ("Filter", &["Prefix", "Tag", "And", "ObjectSizeGreaterThan", "ObjectSizeLessThan"]),
            ("And", &["Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"]),
            ("Tag", &["Key", "Value"]),
            ("Expiration", &["Days", "Date", "ExpiredObjectDeleteMarker"]),
            ("NoncurrentVersionExpiration", &["NoncurrentDays", "NewerNoncurrentVersions"]),
            ("AbortIncompleteMultipartUpload", &["DaysAfterInitiation"]),
            // What they hold is refused with them.
            ("Transition", &["Days", "Date", "StorageClass"]),
            ("NoncurrentVersionTransition", &["NoncurrentDays", "NewerNoncurrentVersions", "StorageClass"]),
        ],
        Operation::PutBucketVersioning => &[("", &["VersioningConfiguration"]), ("VersioningConfiguration", &["Status", "MfaDelete"])],
        Operation::CompleteMultipartUpload => &[
            ("", &["CompleteMultipartUpload"]),
            ("CompleteMultipartUpload", &["Part"]),
            ("Part", &["PartNumber", "ETag", "ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256"]),
        ],
        _ => return None,
    })
}

/// Elements whose text is a whole number.
const NUMBERS: [&str; 8] = [
    "Days",
    "DaysAfterInitiation",
    "NewerNoncurrentVersions",
    "NoncurrentDays",
    "ObjectSizeGreaterThan",
    "ObjectSizeLessThan",
    "PartNumber",
    "Size",
];

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn malformed() -> S3Error {
    let text = "The XML you provided was not well-formed or did not validate against our published schema.";
    S3Error::with_message(S3ErrorCode::MalformedXML, text)
}

/// `document` with plain text in the place of CDATA and of references, and without comments; `MalformedXML` if it is no XML, declares
/// entities of its own, or has an element where `operation` has none.
pub(crate) fn restate(document: &[u8], operation: Operation) -> S3Result<Bytes> {
    if document.iter().all(u8::is_ascii_whitespace) {
        // Some operations go without one.
        return Ok(Bytes::new());
    }
    let mut reader = Reader::from_reader(document);
    reader.config_mut().expand_empty_elements = true;
    let mut writer = Writer::new(Vec::with_capacity(document.len()));
    let mut path: Vec<String> = Vec::new();
    // Since the last element began.
    let mut said = String::new();
    loop {
        let event = match reader.read_event().map_err(|_| malformed())? {
            Event::Start(start) => {
                let name = local(start.local_name().as_ref())?;
                let parent = path.last().map_or("", String::as_str);
                if !may_stand(operation, parent, &name) || path.len() >= DEPTH_MAX {
                    return Err(malformed());
                }
                // What stands behind the name goes along: attributes.
                let attributes = start.get(start.name().as_ref().len()..).unwrap_or_default();
                let attributes = std::str::from_utf8(attributes).map_err(|_| malformed())?;
                let event = Event::Start(BytesStart::from_content(format!("{name}{attributes}"), name.len()));
                path.push(name);
                said.clear();
                event
            }
            Event::End(_) => {
                let name = path.pop().ok_or_else(malformed)?;
                if NUMBERS.contains(&name.as_str()) && !is_number(&said) {
                    return Err(malformed());
                }
                Event::End(BytesEnd::new(name))
            }
            Event::Text(text) => plain(&text.decode().map_err(|_| malformed())?, &mut said),
            Event::CData(text) => plain(&text.decode().map_err(|_| malformed())?, &mut said),
            Event::GeneralRef(reference) => {
                let character = reference.resolve_char_ref().map_err(|_| malformed())?;
                let name = reference.decode().map_err(|_| malformed())?;
                let text = match character {
                    Some(character) => Cow::Owned(character.to_string()),
                    None => Cow::Borrowed(resolve_xml_entity(&name).ok_or_else(malformed)?),
                };
                plain(&text, &mut said)
            }
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => continue,
            Event::DocType(_) => return Err(malformed()),
            Event::Eof if path.is_empty() => return Ok(writer.into_inner().into()),
            Event::Eof => return Err(malformed()),
            Event::Empty(_) => unreachable!("the reader expands them"),
        };
        writer.write_event(event).expect("memory takes what is written");
    }
}

fn local(name: &[u8]) -> S3Result<String> {
    std::str::from_utf8(name).map(str::to_owned).map_err(|_| malformed())
}

fn plain(text: &str, said: &mut String) -> Event<'static> {
    said.push_str(text);
    Event::Text(BytesText::from_escaped(escape(text).into_owned()))
}

fn may_stand(operation: Operation, parent: &str, name: &str) -> bool {
    places(operation).is_none_or(|places| places.iter().any(|(within, names)| *within == parent && names.contains(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restated(operation: Operation, document: &str) -> Result<String, S3ErrorCode> {
        let restated = restate(document.as_bytes(), operation).map_err(|error| error.code().clone())?;
        Ok(String::from_utf8(restated.to_vec()).unwrap())
    }

    fn key(text: &str) -> Result<String, S3ErrorCode> {
        let document = format!("<?xml version=\"1.0\"?><!-- no --><Delete><Object><Key>{text}</Key></Object></Delete>");
        let restated = restated(Operation::DeleteObjects, &document)?;
        let (_, rest) = restated.split_once("<Key>").unwrap();
        Ok(rest.split_once("</Key>").unwrap().0.to_owned())
    }

    #[test]
    fn no_part_of_a_key_is_left_out() {
        for (given, said) in [
            ("logs/<![CDATA[2024]]>", "logs/2024"),
            ("<![CDATA[a<b>&amp;]]>c", "a&lt;b&gt;&amp;amp;c"),
            ("a&amp;b&lt;&#x1F600;&#65;", "a&amp;b&lt;\u{1f600}A"),
            (" a <!-- no -->b", " a b"),
        ] {
            assert_eq!(key(given).as_deref(), Ok(said), "{given}");
        }
        for wrong in ["&nbsp;", "&#0;", "&#xD800;", "&#x110000;", "<Part/>"] {
            assert_eq!(key(wrong), Err(S3ErrorCode::MalformedXML), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_numbers() {
        let rule = |inside: &str| format!("<LifecycleConfiguration><Rule>{inside}</Rule></LifecycleConfiguration>");
        let check = |inside: &str| restated(Operation::PutBucketLifecycleConfiguration, &rule(inside)).map(drop);
        for days in ["1", "365", "+7", "-1", "<![CDATA[30]]>", "&#51;0"] {
            assert_eq!(check(&format!("<Expiration><Days>{days}</Days></Expiration>")), Ok(()), "{days}");
        }
        for days in ["1,000", "1 000", "1O0", "1e6", "1_000", "", " 7", "7<!-- -->x", "0x10", "-"] {
            assert_eq!(check(&format!("<Expiration><Days>{days}</Days></Expiration>")), Err(S3ErrorCode::MalformedXML), "{days}");
        }
        let outside = "<LifecycleConfiguration><Filter><Prefix>a</Prefix></Filter></LifecycleConfiguration>";
        assert_eq!(restated(Operation::PutBucketLifecycleConfiguration, outside), Err(S3ErrorCode::MalformedXML));
        let part = "<CompleteMultipartUpload><Part><PartNumber>1O</PartNumber></Part></CompleteMultipartUpload>";
        assert_eq!(restated(Operation::CompleteMultipartUpload, part), Err(S3ErrorCode::MalformedXML));
    }

    #[test]
    fn elements_stand_where_they_belong() {
        let tag = "<Key>a</Key><Value>b</Value>";
        let check = |document: &str| restated(Operation::PutObjectTagging, document).map(drop);
        assert_eq!(check(&format!("<t:Tagging xmlns:t=\"u\"><t:TagSet><Tag>{tag}</Tag></t:TagSet></t:Tagging>")), Ok(()));
        assert_eq!(check("<Tagging><TagSet/></Tagging>"), Ok(()));
        for wrong in [
            format!("<Tagging><TagSet>{tag}</TagSet></Tagging>"),
            format!("<Tagging><TagSet/><Tag>{tag}</Tag></Tagging>"),
            "<TagSet/>".to_owned(),
            "<Tagging><TagSet></Tagging>".to_owned(),
            "<Tagging>".to_owned(),
            "<!DOCTYPE x [<!ENTITY e \"v\">]><Tagging><TagSet/></Tagging>".to_owned(),
            "<Delete><Object><Key>a</Key></Object><Key>x</Key></Delete>".to_owned(),
        ] {
            assert_eq!(check(&wrong), Err(S3ErrorCode::MalformedXML), "{wrong}");
        }
        let deep = format!("{}{}", "<a>".repeat(DEPTH_MAX + 1), "</a>".repeat(DEPTH_MAX + 1));
        assert_eq!(restated(Operation::CreateBucket, &deep), Err(S3ErrorCode::MalformedXML));
        assert_eq!(restated(Operation::CreateBucket, " \n"), Ok(String::new()));
        assert_eq!(restated(Operation::CreateBucket, "<C a=\"b\"><L>x</L></C>").as_deref(), Ok("<C a=\"b\"><L>x</L></C>"));
    }
}
