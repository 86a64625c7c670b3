//! Whether a request was meant for this node: the host that it names, and the page that it comes from.
//!
//! A browser on this host can be led here by a name that somebody else resolves (DNS rebinding), or by a foreign page. Must
//! not: know what is asked.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Uri};

/// Names that the host itself has.
const LOOPBACK: &str = "localhost";

/// Which names this node goes by.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// Names that a request may name.
    names: Vec<String>,
    /// Names whose pages may ask.
    pages: Vec<String>,
}

impl Guard {
    /// The names of the addresses that are listened on (`host:port`), and others that are configured.
    pub(super) fn new<'a>(listen: impl IntoIterator<Item = &'a str>, hosts: &[String]) -> Self {
        let listened = listen.into_iter().map(|address| name_of(address).to_owned());
        let names = listened.chain(hosts.iter().cloned()).chain([LOOPBACK.to_owned()]);
        let names = names.map(|name| canonical(&name)).filter(|name| !name.is_empty()).collect();
        Self { names, pages: hosts.iter().map(|name| canonical(name)).collect() }
    }

    /// Why the request is refused, where it is.
    ///
    /// An address is always taken for a host: a name has to be resolved to lead here, an address does not. So is no host, which
    /// HTTP/1.0 allows and no browser sends.
    pub(super) fn refuses(&self, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
        let authority = uri.authority().map(|authority| authority.as_str());
        let mut hosts = headers.get_all(HOST).iter().map(text).chain(authority).peekable();
        let host = hosts.peek().copied();
        if !hosts.all(|host| self.is_own(host)) {
            return Some("this host is not one of the node's: name it in admin.hosts");
        }
        let is_foreign = |origin: &HeaderValue| !self.is_of_own_page(text(origin), host);
        let is_foreign = headers.get_all(ORIGIN).iter().any(is_foreign);
        is_foreign.then_some("this page's origin is not the node's own: name it in admin.hosts")
    }

    fn is_own(&self, host: &str) -> bool {
        let name = name_of(host);
        name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || self.names.contains(&canonical(name))
    }

    /// A page that the node itself gave, or one of a host that is configured.
    fn is_of_own_page(&self, origin: &str, host: Option<&str>) -> bool {
        let Some((_, authority)) = origin.split_once("://") else { return false };
        let is_same = host.is_some_and(|host| host.eq_ignore_ascii_case(authority));
        is_same || self.pages.contains(&canonical(name_of(authority)))
    }
}

fn text(value: &HeaderValue) -> &str {
    // A value that is no text is nobody's name.
    value.to_str().unwrap_or("?")
}

/// The name or address in `host[:port]`.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(headers: &[(&'static str, &str)]) -> bool {
        let guard = Guard::new(["127.0.0.1:9464", "node-7.internal:9465"], &["forewarm.example".to_owned()]);
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        guard.refuses(&"/health/live".parse().unwrap(), &headers.collect()).is_some()
    }

    #[test]
    fn names_that_are_not_the_nodes_are_refused() {
        for own in [
            "localhost",
            "LocalHost:9464",
            "localhost.",
            "127.0.0.1:9464",
            "10.1.2.3:9464",
            "[::1]",
            "[::1]:9464",
            "node-7.internal",
            "forewarm.example:80",
        ] {
            assert!(!refused(&[("host", own)]), "{own}");
        }
        assert!(!refused(&[]), "HTTP/1.0");
        for foreign in ["evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.nip.io", "", "é"] {
            assert!(refused(&[("host", foreign)]), "{foreign}");
        }
        assert!(refused(&[("host", "localhost"), ("host", "evil.example")]));
    }

    #[test]
    fn pages_of_others_are_refused() {
        let from = |origin: &str| refused(&[("host", "127.0.0.1:9464"), ("origin", origin)]);
        for own in ["http://127.0.0.1:9464", "https://forewarm.example", "https://forewarm.example:8443"] {
            assert!(!from(own), "{own}");
        }
        for foreign in
            ["null", "", "http://evil.example", "http://192.0.2.7", "http://127.0.0.1:8080", "http://localhost:3000"]
        {
            assert!(from(foreign), "{foreign}");
        }
    }

    #[test]
    fn an_address_in_the_request_line_counts_as_a_host() {
        let guard = Guard::new(["127.0.0.1:9464"], &[]);
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        assert!(guard.refuses(&"http://evil.example/chains".parse().unwrap(), &headers).is_some());
        assert!(guard.refuses(&"http://localhost:9464/chains".parse().unwrap(), &headers).is_none());
    }
}
