//! `[admin]`: the node's own words over HTTP.

use serde::{Deserialize, Serialize};

/// The keys of `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Admin {
    /// Where the admin interface listens, `host:port`; empty: nowhere.
    pub listen: String,
}

impl Admin {
    /// Faults that the keys have in themselves.
    pub(super) fn faults(&self) -> Vec<String> {
        let is_address = |text: &str| {
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if self.listen.is_empty() || is_address(&self.listen) {
            return Vec::new();
        }
        vec![format!("admin.listen: {:?} is not host:port, such as 127.0.0.1:9464; empty switches it off", self.listen)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        let faults = |listen: &str| Admin { listen: listen.to_owned() }.faults().len();
        assert_eq!(["", "127.0.0.1:9464", "[::1]:0", "localhost:80"].map(faults), [0; 4]);
        assert_eq!(["9464", ":9464", "localhost", "localhost:99999"].map(faults), [1; 4]);
    }
}
