//! Clients of HTTP: the one place where this process makes them, with TLS by rustls and ring, and with the files of its configuration.
//!
//! Duty: a client that believes the system's authorities and those of a file, and is known by a certificate; secrets out of their files;
//! what is wrong with any of it, by its key. Must not: send anything, keep a secret, or say one.
//!
//! rustls asks for its cryptography by a default of the process, and reqwest panics where there is none: so no client is made elsewhere.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, ClientBuilder};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Certificate, Identity};

use crate::config::{self, Config, Tls};

/// Most bytes of a file of certificates, a key or a secret (inclusive): the system's own bundle has 250 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A file cannot be read, or is no such file.
    #[error("{key}: file {path}: {fault}")]
    File {
        /// The key that names it.
        key: String,
        /// The file.
        path: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A header cannot be one.
    #[error("{key}: {fault}")]
    Header {
        /// The key that holds it.
        key: String,
        /// What is wrong with it, without its value.
        fault: &'static str,
    },
    /// All files can be read, and do not make a client.
    #[error("no HTTP client can be made: {fault}")]
    Client {
        /// The library's own words.
        fault: String,
    },
}

/// A builder of a client for these addresses. `tls` names the files that it needs; None where there are none. Proxies are those of the
/// environment (`HTTPS_PROXY`, `NO_PROXY`).
///
/// # Errors
/// Where a file cannot be read or does not hold what it should.
pub fn builder(
    mut urls: impl Iterator<Item = impl AsRef<str>>,
    tls: Option<Tls<'_>>,
    timeout: Duration,
) -> Result<ClientBuilder, HttpError> {
    // Fails where a default is there already, and then that one is good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().timeout(timeout);
    if !urls.any(|url| url.as_ref().trim().to_ascii_lowercase().starts_with("https:")) {
        // Without TLS nobody is believed: a system that has no certificates has a client too.
        return Ok(builder.tls_certs_only([]));
    }
    let Some(tls) = tls else { return Ok(builder) };
    let builder = match read(tls.ca)? {
        None => builder,
        Some(pem) => {
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(tls.ca, told(&error)))?;
            if certificates.is_empty() {
                return Err(wrong(tls.ca, "it holds no certificate in PEM".to_owned()));
            }
            builder.tls_certs_merge(certificates)
        }
    };
    let Some(mut identity) = read(tls.certificate)? else { return Ok(builder) };
    if let Some(key) = read(tls.key)? {
        identity.push(b'\n');
        identity.extend(key);
    }
    let named = if tls.key.1.as_os_str().is_empty() { tls.certificate } else { tls.key };
    let identity = Identity::from_pem(&identity).map_err(|error| {
        wrong(named, format!("no certificate with a key that is not encrypted, in PEM: {}", told(&error)))
    })?;
    Ok(builder.identity(identity))
}

/// The client of a builder, made on a thread of its own: an asynchronous runtime, where there is one around, makes it panic.
///
/// # Errors
/// Where the library refuses what it was given, or the system believes no authority.
pub fn client(builder: ClientBuilder) -> Result<Client, HttpError> {
    let made = std::thread::scope(|scope| scope.spawn(|| builder.build()).join());
    match made {
        Ok(made) => made.map_err(|error| HttpError::Client { fault: told(&error) }),
        Err(_) => Err(HttpError::Client { fault: "the library panicked".to_owned() }),
    }
}

/// A secret that is given, or that a file holds, whose last line may end with a line break; None where neither is set. `key` names
/// the file.
///
/// # Errors
/// Where the file cannot be read.
pub fn secret(given: &str, key: &str, file: &Path) -> Result<Option<String>, HttpError> {
    let Some(bytes) = read((key, file))? else { return Ok(Some(given.to_owned()).filter(|given| !given.is_empty())) };
    let text = String::from_utf8(bytes).map_err(|_| wrong((key, file), "it is not text in UTF-8".to_owned()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

/// The headers of every request to the collector.
///
/// # Errors
/// Where a file cannot be read, or a name or a value cannot be a header's.
pub fn collector_headers(config: &config::Telemetry) -> Result<BTreeMap<String, String>, HttpError> {
    let given = config.otlp_headers.iter().map(|(name, value)| Ok((name, "otlp-headers", value.clone())));
    let read = config.otlp_header_files.iter().map(|(name, file)| {
        let value = secret("", &format!("telemetry.otlp-header-files.{name}"), file)?;
        Ok((name, "otlp-header-files", value.unwrap_or_default()))
    });
    let mut headers = BTreeMap::new();
    for header in given.chain(read) {
        let (name, table, value) = header?;
        let refused = |fault| HttpError::Header { key: format!("telemetry.{table}.{name}"), fault };
        HeaderName::try_from(name).map_err(|_| refused("this is no name of a header"))?;
        HeaderValue::try_from(&value).map_err(|_| refused("a header's value is one line of visible characters"))?;
        headers.insert(name.clone(), value);
    }
    Ok(headers)
}

/// Every fault that the configured neighbours (the schema registry, the collector) show without being asked.
pub fn faults(config: &Config) -> Vec<String> {
    let (registry, telemetry) = (&config.schema_registry, &config.telemetry);
    let urls = &config.kafka.schema_registry_url;
    let mut faults: Vec<String> = Vec::new();
    let mut check = |result: Result<(), HttpError>| faults.extend(result.err().map(|error| error.to_string()));
    let timeout = Duration::from_secs(1);
    if !urls.is_empty() {
        check(builder(urls.split(','), Some(registry.tls()), timeout).and_then(client).map(drop));
        check(secret("", "schema-registry.password-file", &registry.password_file).map(drop));
        check(secret("", "schema-registry.token-file", &registry.token_file).map(drop));
    }
    if !telemetry.otlp_endpoint.is_empty() {
        let endpoint = std::iter::once(&telemetry.otlp_endpoint);
        check(builder(endpoint, Some(telemetry.tls()), timeout).and_then(client).map(drop));
        check(collector_headers(telemetry).map(drop));
    }
    faults
}

/// An error with its causes, of which others' errors say the first alone: that a certificate is not believed stands in the last.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !said.contains(&words) {
            said.push_str(": ");
            said.push_str(&words);
        }
        cause = error.source();
    }
    said
}

/// None where no file is named.
fn read((key, path): (&str, &Path)) -> Result<Option<Vec<u8>>, HttpError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let fault = |fault: std::io::Error| wrong((key, path), fault.to_string());
    let length = std::fs::metadata(path).map_err(fault)?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong((key, path), format!("it has {length} bytes, and {FILE_BYTES_MAX} are read at most")));
    }
    std::fs::read(path).map(Some).map_err(fault)
}

fn wrong((key, path): (&str, &Path), fault: String) -> HttpError {
    HttpError::File { key: key.to_owned(), path: path.display().to_string(), fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tls<'a>(ca: &'a Path, certificate: &'a Path) -> Tls<'a> {
        Tls {
            ca: ("x.ca-file", ca),
            certificate: ("x.certificate-file", certificate),
            key: ("x.key-file", Path::new("")),
        }
    }

    #[test]
    fn a_client_without_tls_needs_nothing_and_one_with_it_says_which_file_is_wrong() {
        let none = Path::new("");
        assert!(builder(["http://a"].iter(), Some(tls(none, none)), SECOND).and_then(client).is_ok());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("some.pem");
        let refused =
            |tls: Tls<'_>| builder(["http://a", " HTTPS://b"].iter(), Some(tls), SECOND).unwrap_err().to_string();
        let gone = refused(tls(&file, none));
        assert!(gone.starts_with("x.ca-file: file ") && gone.contains("No such file"), "{gone}");
        std::fs::write(&file, "no certificate").unwrap();
        assert!(refused(tls(&file, none)).ends_with("it holds no certificate in PEM"), "{}", refused(tls(&file, none)));
        let said = refused(tls(none, &file));
        assert!(said.starts_with("x.certificate-file") && said.contains("not encrypted"), "{said}");
    }

    #[test]
    fn a_secret_is_given_or_read_and_loses_one_line_break() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        std::fs::write(&file, "hush\n\r\n").unwrap();
        assert_eq!(secret("", "k", &file).unwrap().as_deref(), Some("hush\n"));
        assert_eq!(secret("given", "k", Path::new("")).unwrap().as_deref(), Some("given"));
        assert_eq!(secret("", "k", Path::new("")).unwrap(), None);
        std::fs::write(&file, [0xff]).unwrap();
        assert!(secret("", "k", &file).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn headers_of_the_collector_are_checked_and_not_said() {
        let mut config = crate::config::load(None, []).unwrap().telemetry;
        config.otlp_headers.insert("authorization".to_owned(), "Bearer x".to_owned());
        assert_eq!(collector_headers(&config).unwrap()["authorization"], "Bearer x");
        config.otlp_headers.insert("x-key".to_owned(), "hush\nhush".to_owned());
        let said = collector_headers(&config).unwrap_err().to_string();
        assert!(said.starts_with("telemetry.otlp-headers.x-key: ") && !said.contains("hush"), "{said}");
        config.otlp_headers = BTreeMap::from([("no name".to_owned(), String::new())]);
        assert!(collector_headers(&config).is_err());
    }
}
