//! `[schema-registry]`, and what it shares with the collector's part of `[telemetry]`: how this node is known to its neighbours that
//! are asked over HTTP, and what certificates it believes.
//!
//! Must not: read a file (`http` does), or show a secret.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::REDACTED;

/// The keys of `[schema-registry]`. Empty: none.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SchemaRegistry {
    /// Certificates of authorities in PEM, which are believed besides those of the system.
    pub ca_file: PathBuf,
    /// The certificate by which this node is known, with those that lead to its authority, in PEM.
    pub certificate_file: PathBuf,
    /// That certificate's key in PEM; empty where it is in the same file.
    pub key_file: PathBuf,
    /// Basic authentication.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The file that holds it instead.
    pub password_file: PathBuf,
    /// A bearer token.
    pub token: String,
    /// The file that holds it instead.
    pub token_file: PathBuf,
}

impl SchemaRegistry {
    /// What TLS needs of it.
    pub fn tls(&self) -> Tls<'_> {
        Tls {
            ca: ("schema-registry.ca-file", &self.ca_file),
            certificate: ("schema-registry.certificate-file", &self.certificate_file),
            key: ("schema-registry.key-file", &self.key_file),
        }
    }

    /// `urls` is `kafka.schema-registry-url`.
    pub(super) fn faults(&self, urls: &str) -> Vec<String> {
        let mut faults: Vec<String> = self.tls().fault().into_iter().collect();
        for url in urls.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            let credentials = "schema-registry.user and schema-registry.password-file";
            faults.extend(url_fault("kafka.schema-registry-url", url, credentials));
        }
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(format!("schema-registry.{fault}"));
            }
        };
        let is_given = |file: &Path| !file.as_os_str().is_empty();
        let has_password = !self.password.is_empty() || is_given(&self.password_file);
        let has_token = !self.token.is_empty() || is_given(&self.token_file);
        check(
            self.password.is_empty() || !is_given(&self.password_file),
            "password and password-file are both set: leave one of them out",
        );
        check(
            self.token.is_empty() || !is_given(&self.token_file),
            "token and token-file are both set: leave one of them out",
        );
        check(!has_password || !self.user.is_empty(), "user is missing beside the password");
        check(
            !has_token || self.user.is_empty(),
            "user and a token are both set: a registry is asked with one of them",
        );
        let is_used = *self != Self::default();
        check(!is_used || !urls.trim().is_empty(), "… is set, and kafka.schema-registry-url names no registry");
        faults
    }

    pub(super) fn redact(&mut self) {
        for secret in [&mut self.password, &mut self.token] {
            if !secret.is_empty() {
                REDACTED.clone_into(secret);
            }
        }
    }
}

impl fmt::Debug for SchemaRegistry {
    /// Without its secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.clone();
        shown.redact();
        f.debug_struct("SchemaRegistry")
            .field("ca_file", &shown.ca_file)
            .field("certificate_file", &shown.certificate_file)
            .field("key_file", &shown.key_file)
            .field("user", &shown.user)
            .field("password", &shown.password)
            .field("password_file", &shown.password_file)
            .field("token", &shown.token)
            .field("token_file", &shown.token_file)
            .finish()
    }
}

/// The files that TLS needs to one neighbour, each with its key; an empty path is none.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    /// Authorities that are believed besides the system's.
    pub ca: (&'static str, &'a Path),
    /// This node's certificate.
    pub certificate: (&'static str, &'a Path),
    /// Its key, where that is not in the same file.
    pub key: (&'static str, &'a Path),
}

impl Tls<'_> {
    pub(super) fn fault(&self) -> Option<String> {
        let is_given = |(_, file): (&str, &Path)| !file.as_os_str().is_empty();
        let ((key, _), (certificate, _)) = (self.key, self.certificate);
        (is_given(self.key) && !is_given(self.certificate)).then(|| format!("{key} is set, and {certificate} is not"))
    }
}

/// What is wrong with the address of a neighbour, without a word of what may be secret in it. `credentials` is where those belong.
pub(super) fn url_fault(key: &str, url: &str, credentials: &str) -> Option<String> {
    let shown = super::kafka::without_userinfo(url);
    let Some((scheme, rest)) = url.split_once("://") else {
        return Some(format!("{key}: {shown:?} is no address: it begins with http:// or https://"));
    };
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Some(format!("{key}: {shown:?} cannot be asked by this build: use http:// or https://"));
    }
    // A password may hold a slash, too; whoever means a path writes %40 for an @ in it.
    if rest.contains('@') {
        return Some(format!("{key}: {shown:?} has credentials in it: put them in {credentials}"));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (host.is_empty() || host.starts_with(':')).then(|| format!("{key}: {shown:?} names no host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_or_https_and_holds_no_secret() {
        let fault = |url: &str| url_fault("some.url", url, "some.password-file");
        for sound in ["http://a", "https://a:8081/path?x=1", "HTTPS://[::1]:8081"] {
            assert_eq!(fault(sound), None);
        }
        for (url, word) in [
            ("localhost:8081", "begins with http:// or https://"),
            ("ftp://a", "this build"),
            ("https://", "no host"),
            ("http://:80/x", "no host"),
            ("https://me:hush@a", "some.password-file"),
            ("https://me:h/hush@a", "some.password-file"),
            ("me:hush@a:8081", "begins with"),
        ] {
            let said = fault(url).unwrap();
            assert!(said.starts_with("some.url: ") && said.contains(word) && !said.contains("hush"), "{said}");
        }
    }

    #[test]
    fn credentials_are_one_kind_and_whole() {
        let file = PathBuf::from("/run/secrets/x");
        let faults = |registry: SchemaRegistry| registry.faults("https://a");
        let user = || SchemaRegistry { user: "me".to_owned(), ..SchemaRegistry::default() };
        assert!(faults(SchemaRegistry { password_file: file.clone(), ..user() }).is_empty());
        assert!(faults(SchemaRegistry { token_file: file.clone(), ..SchemaRegistry::default() }).is_empty());
        for (registry, word) in [
            (SchemaRegistry { password: "p".to_owned(), password_file: file.clone(), ..user() }, "both set"),
            (SchemaRegistry { token_file: file.clone(), ..user() }, "one of them"),
            (SchemaRegistry { password_file: file.clone(), ..SchemaRegistry::default() }, "user is missing"),
            (SchemaRegistry { key_file: file.clone(), ..SchemaRegistry::default() }, "certificate-file is not"),
        ] {
            let said = faults(registry);
            assert!(said.len() == 1 && said[0].contains(word), "{said:?}");
        }
        assert!(user().faults("")[0].contains("kafka.schema-registry-url"));
    }
}
