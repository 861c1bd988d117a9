//! A refusal: S3's code, a message that says what to do, and S3's XML for it.

use http::{HeaderName, HeaderValue, StatusCode, header};
use s3s::{Body, HttpResponse, S3ErrorCode};

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: S3ErrorCode,
    pub message: String,
    /// Further elements of the error document, such as `Region`.
    pub details: Vec<(&'static str, String)>,
    /// Further headers of the response.
    pub headers: Vec<(HeaderName, String)>,
}

impl Refusal {
    pub fn new(code: S3ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), details: Vec::new(), headers: Vec::new() }
    }

    /// 501 for a header that asks for what is not built.
    pub fn header_not_implemented(name: &str) -> Refusal {
        Refusal::new(
            S3ErrorCode::NotImplemented,
            format!("The header {name}, or its value, implies functionality that is not implemented."),
        )
        .detail("Header", name)
    }

    /// 501 for a query parameter that asks for what is not built.
    pub fn parameter_not_implemented(name: &str) -> Refusal {
        Refusal::new(S3ErrorCode::NotImplemented, format!("The query parameter {name} implies functionality that is not implemented."))
            .detail("ArgumentName", name)
    }

    pub fn detail(mut self, name: &'static str, value: impl Into<String>) -> Refusal {
        self.details.push((name, value.into()));
        self
    }

    pub fn status(&self) -> StatusCode {
        self.code.status_code().unwrap_or(StatusCode::BAD_REQUEST)
    }

    /// The response, without the headers that every response has.
    pub fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::new(Body::from(self.to_xml()));
        *response.status_mut() = self.status();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    fn to_xml(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error>");
        push_element(&mut xml, "Code", self.code.as_str());
        push_element(&mut xml, "Message", &self.message);
        for (name, value) in &self.details {
            push_element(&mut xml, name, value);
        }
        xml.push_str("</Error>");
        xml
    }
}

/// Append `<name>value</name>`. What XML 1.0 cannot carry is left out.
pub fn push_element(xml: &mut String, name: &str, value: &str) {
    xml.push('<');
    xml.push_str(name);
    xml.push('>');
    for character in value.chars() {
        match character {
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '&' => xml.push_str("&amp;"),
            '\t' => xml.push(' '),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {}
            other => xml.push(other),
        }
    }
    xml.push_str("</");
    xml.push_str(name);
    xml.push('>');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_cannot_leave_their_element() {
        let refusal = Refusal::header_not_implemented("x-amz-<evil>&\u{0}");
        assert_eq!(refusal.status(), StatusCode::NOT_IMPLEMENTED);
        assert!(refusal.to_xml().contains("<Header>x-amz-&lt;evil&gt;&amp;</Header></Error>"), "{}", refusal.to_xml());
    }
}
