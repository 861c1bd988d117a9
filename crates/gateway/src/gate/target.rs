//! What a request is about: the service, a bucket or an object, by path or by virtual host.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri, header};
use percent_encoding::percent_decode_str;
use s3s::S3ErrorCode;
use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};
use s3s::path::{ParseS3PathError, S3Path, parse_virtual_hosted_style};

use super::refusal::Refusal;

/// The base domains that serve virtual-host style. Any other host is path style.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// Lower case, longest first.
    domains: Vec<String>,
}

impl Hosts {
    pub fn new(domains: &[String]) -> Hosts {
        let mut domains: Vec<String> =
            domains.iter().map(|domain| domain.trim_matches('.').to_ascii_lowercase()).filter(|domain| !domain.is_empty()).collect();
        domains.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        Hosts { domains }
    }

    /// The bucket that `host` names, if it lies under one of the domains.
    pub fn bucket(&self, host: &str) -> Option<String> {
        let host = host.to_ascii_lowercase();
        let bare = match host.rsplit_once(':') {
            Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
            _ => host.as_str(),
        };
        for domain in &self.domains {
            for candidate in [host.as_str(), bare] {
                if candidate == domain {
                    return None;
                }
                if let Some(bucket) = candidate.strip_suffix(domain.as_str()).and_then(|rest| rest.strip_suffix('.')) {
                    return Some(bucket.to_owned());
                }
            }
        }
        None
    }
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let virtual_host = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            Some(bucket) => virtual_host.with_bucket(bucket),
            None => virtual_host,
        })
    }
}

/// Where a request points, as s3s will read it too.
#[derive(Debug)]
pub struct Target {
    pub path: S3Path,
    /// The bucket of a virtual host.
    pub host_bucket: Option<String>,
}

/// Read the target from `Host` and path.
pub fn read_target(hosts: &Hosts, uri: &Uri, headers: &HeaderMap) -> Result<Target, Refusal> {
    let mut values = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (values.next(), values.next()) else {
        return Err(Refusal::new(S3ErrorCode::InvalidRequest, "The request needs exactly one Host header."));
    };
    let host = host.to_str().map_err(|_| Refusal::new(S3ErrorCode::InvalidRequest, "The Host header is not text."))?;
    // s3s asks no virtual host about addresses; the signature of version 2 depends on it.
    let is_address = host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok();
    let host_bucket = if is_address { None } else { hosts.bucket(host) };

    let path = percent_decode_str(uri.path())
        .decode_utf8()
        .map_err(|_| Refusal::new(S3ErrorCode::InvalidURI, "The path is not UTF-8 after decoding."))?;
    let path = parse_virtual_hosted_style(host_bucket.as_deref(), &path).map_err(|error| match error {
        ParseS3PathError::InvalidPath => Refusal::new(S3ErrorCode::InvalidURI, "The path must start with a slash."),
        ParseS3PathError::InvalidBucketName => {
            Refusal::new(S3ErrorCode::InvalidBucketName, "Bucket names have 3 to 63 of the characters a-z, 0-9, dot and hyphen.")
        }
        ParseS3PathError::KeyTooLong => Refusal::new(S3ErrorCode::KeyTooLongError, "A key has at most 1024 bytes."),
    })?;
    if path.get_object_key().is_some_and(|key| key.contains('\0')) {
        return Err(Refusal::new(S3ErrorCode::InvalidURI, "A key cannot contain the character U+0000."));
    }
    Ok(Target { path, host_bucket })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configured_domains_are_virtual_hosts() {
        let hosts = Hosts::new(&["S3.example.com".into(), "eu.s3.example.com".into(), "box.test:9000".into()]);
        for (host, bucket) in [
            ("localhost:9000", None),
            ("localhost", None),
            ("s3.example.com", None),
            ("S3.Example.com:443", None),
            ("photos.s3.example.com", Some("photos")),
            ("photos.s3.example.com:9000", Some("photos")),
            ("photos.eu.s3.example.com", Some("photos")),
            ("a.b.S3.example.com", Some("a.b")),
            ("photos.box.test:9000", Some("photos")),
            ("photos.box.test", None),
            ("evils3.example.com", None),
            ("photos.elsewhere.test", None),
        ] {
            assert_eq!(hosts.bucket(host).as_deref(), bucket, "{host}");
        }
    }

    #[test]
    fn paths_are_read_as_s3s_reads_them() {
        let hosts = Hosts::new(&["s3.test".into()]);
        let target = |host: &'static str, uri: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, http::HeaderValue::from_static(host));
            read_target(&hosts, &Uri::from_static(uri), &headers).map(|target| target.path)
        };
        assert_eq!(target("localhost", "/").unwrap(), S3Path::root());
        assert_eq!(target("localhost", "/bucket/").unwrap(), S3Path::bucket("bucket"));
        assert_eq!(target("localhost", "/bucket/a%2Fb").unwrap(), S3Path::object("bucket", "a/b"));
        assert_eq!(target("bucket.s3.test", "/a").unwrap(), S3Path::object("bucket", "a"));
        assert_eq!(target("bucket.s3.test", "/").unwrap(), S3Path::bucket("bucket"));
        assert_eq!(target("localhost", "/NoSuch").unwrap_err().code, S3ErrorCode::InvalidBucketName);
        assert_eq!(target("localhost", "/bucket/%ff").unwrap_err().code, S3ErrorCode::InvalidURI);
        assert_eq!(target("localhost", "/bucket/%00").unwrap_err().code, S3ErrorCode::InvalidURI);
        assert!(read_target(&hosts, &Uri::from_static("/"), &HeaderMap::new()).is_err());
    }
}
