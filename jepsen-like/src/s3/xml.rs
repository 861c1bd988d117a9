//! A small tree of an XML reply, and the few documents that requests carry.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Deepest nesting that a reply may have.
const DEPTH_MAX: usize = 16;

/// An element without its attributes and namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Element {
    pub name: String,
    /// Its own text, children's not included.
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// Parse a document; the error is for people.
    pub fn parse(document: &[u8]) -> Result<Element, String> {
        let text = std::str::from_utf8(document).map_err(|_| "the XML is not UTF-8".to_owned())?;
        let mut reader = Reader::from_str(text);
        // The first stands for the document.
        let mut open = vec![Element::default()];
        loop {
            match reader.read_event().map_err(|error| error.to_string())? {
                Event::Start(start) => {
                    if open.len() > DEPTH_MAX {
                        return Err(format!("XML nested deeper than {DEPTH_MAX}"));
                    }
                    open.push(Element { name: name(start.local_name().as_ref()), ..Element::default() });
                }
                Event::Empty(start) => {
                    let element = Element { name: name(start.local_name().as_ref()), ..Element::default() };
                    innermost(&mut open).children.push(element);
                }
                Event::End(_) => {
                    let closed = open.pop().expect("the reader checks that ends match starts");
                    open.last_mut().ok_or("XML closes more than it opens")?.children.push(closed);
                }
                Event::Text(part) => innermost(&mut open).text.push_str(&part.decode().map_err(|error| error.to_string())?),
                Event::CData(part) => innermost(&mut open).text.push_str(&part.decode().map_err(|error| error.to_string())?),
                Event::GeneralRef(reference) => {
                    let character = match reference.resolve_char_ref().map_err(|error| error.to_string())? {
                        Some(character) => character,
                        None => match reference.decode().map_err(|error| error.to_string())?.as_ref() {
                            "amp" => '&',
                            "lt" => '<',
                            "gt" => '>',
                            "quot" => '"',
                            "apos" => '\'',
                            other => return Err(format!("unknown XML entity {other}")),
                        },
                    };
                    innermost(&mut open).text.push(character);
                }
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        match (open.len(), open.swap_remove(0).children) {
            (1, mut roots) if roots.len() == 1 => Ok(roots.swap_remove(0)),
            _ => Err("not one whole XML document".to_owned()),
        }
    }

    /// The first child called `name`.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children called `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Text of the first child called `name`; empty without one.
    pub fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| child.text.as_str())
    }
}

fn name(local: &[u8]) -> String {
    String::from_utf8_lossy(local).into_owned()
}

fn innermost(open: &mut [Element]) -> &mut Element {
    open.last_mut().expect("the document itself is never closed")
}

/// Escape text for a document. Characters that XML cannot hold are written as references, as S3's clients do.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\n' => out.push_str("&#10;"),
            other => out.push(other),
        }
    }
    out
}

/// Body of DeleteObjects.
pub fn delete_objects(keys: &[String], quiet: bool) -> String {
    let mut body = String::from("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for key in keys {
        body.push_str(&format!("<Object><Key>{}</Key></Object>", escape(key)));
    }
    if quiet {
        body.push_str("<Quiet>true</Quiet>");
    }
    body.push_str("</Delete>");
    body
}

/// Body of CompleteMultipartUpload: part numbers and ETags.
pub fn complete_upload(parts: &[(u16, String)]) -> String {
    let mut body = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (number, etag) in parts {
        body.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", escape(etag)));
    }
    body.push_str("</CompleteMultipartUpload>");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_becomes_a_tree_with_references_resolved() {
        let document = b"<?xml version=\"1.0\"?>\n<Error xmlns=\"x\"><Code>NoSuchKey</Code><Message>a &amp; b &#x41;<![CDATA[<c>]]></Message><Empty/></Error>";
        let root = Element::parse(document).unwrap();
        assert_eq!((root.name.as_str(), root.text_of("Code"), root.text_of("Message")), ("Error", "NoSuchKey", "a & b A<c>"));
        assert!(root.child("Empty").is_some());
    }

    #[test]
    fn broken_documents_are_refused() {
        for bad in ["", "<a>", "<a></b>", "<a/><b/>", "<a>&nosuch;</a>", "</a>"] {
            assert!(Element::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = "<a>".repeat(40) + &"</a>".repeat(40);
        assert!(Element::parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn escaped_text_comes_back() {
        let key = "a<b>&\"c\r\nü";
        let root = Element::parse(delete_objects(&[key.to_owned()], true).as_bytes()).unwrap();
        assert_eq!(root.child("Object").unwrap().text_of("Key"), key);
        assert_eq!(root.text_of("Quiet"), "true");
    }
}
