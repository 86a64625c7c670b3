//! `--version`: the release, what it was built with, and which libraries are in it.

use std::fmt::Write;
use std::sync::OnceLock;

use rdkafka::ClientConfig;

/// The features of this build, as Cargo names them.
const FEATURES: [(&str, bool); 3] =
    [("tls", cfg!(feature = "tls")), ("oidc", cfg!(feature = "oidc")), ("sasl", cfg!(feature = "sasl"))];

/// Everything that `--version` says behind the program's name.
pub(super) fn words() -> &'static str {
    static WORDS: OnceLock<String> = OnceLock::new();
    WORDS.get_or_init(made)
}

fn made() -> String {
    let had = |wanted: bool| {
        let names: Vec<_> = FEATURES.iter().filter(|(_, has)| *has == wanted).map(|(name, _)| *name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let mut words = env!("CARGO_PKG_VERSION").to_owned();
    // Writing to a string does not fail.
    let _ = write!(words, "\nfeatures:     {}; left out: {}", had(true), had(false));
    let _ = write!(words, "\nwasmtime:     {}", env!("FOREWARM_WASMTIME_VERSION"));
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    let _ = write!(words, "\nlibrdkafka:   {librdkafka} ({})", built_in());
    words
}

/// librdkafka's own list of what it was built with.
fn built_in() -> String {
    let config = ClientConfig::new().create_native_config();
    config.and_then(|config| config.get("builtin.features")).unwrap_or_else(|_| "it does not say with what".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_and_libraries_are_named() {
        let words = words();
        for name in ["tls", "oidc", "sasl", "\nwasmtime:     4", "\nlibrdkafka:   2.", "zstd"] {
            assert!(words.contains(name), "no {name} in {words}");
        }
        let (had, left_out) = words.lines().nth(1).and_then(|line| line.split_once("; left out: ")).unwrap();
        assert_eq!(had.contains("tls"), cfg!(feature = "tls"));
        assert_eq!(left_out.contains("sasl"), !cfg!(feature = "sasl"));
    }
}
