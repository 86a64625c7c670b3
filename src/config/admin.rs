//! `[admin]`: the node's own words over HTTP.

use serde::{Deserialize, Serialize};

/// The keys of `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Admin {
    /// Where the admin interface listens, `host:port`; empty: nowhere.
    pub listen: String,
    /// Where health alone is answered besides, `host:port`; empty: nowhere.
    pub health_listen: String,
    /// Names, besides those of the addresses and of the host itself, by which requests may name this node.
    pub hosts: Vec<String>,
}

impl Admin {
    /// Faults that the keys have in themselves.
    pub(super) fn faults(&self) -> Vec<String> {
        let is_address = |text: &str| {
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let mut faults = Vec::new();
        for (key, address) in [("admin.listen", &self.listen), ("admin.health-listen", &self.health_listen)] {
            if !address.is_empty() && !is_address(address) {
                faults.push(format!(
                    "{key}: {address:?} is not host:port, such as 127.0.0.1:9464; empty switches it off"
                ));
            }
        }
        let is_name = |name: &&String| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        };
        for name in self.hosts.iter().filter(|name| !is_name(name)) {
            faults.push(format!(
                "admin.hosts: {name:?} is not a host's name: it has letters, digits, '.', '-', '_', and no port"
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        let admin = |listen: &str, health: &str, hosts: &[&str]| Admin {
            listen: listen.to_owned(),
            health_listen: health.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        };
        let faults = |address: &str| admin(address, "", &[]).faults().len();
        assert_eq!(admin("", "9465", &["forewarm.example", "http://x", "x:80", ""]).faults().len(), 4);
        assert_eq!(["", "127.0.0.1:9464", "[::1]:0", "localhost:80"].map(faults), [0; 4]);
        assert_eq!(["9464", ":9464", "localhost", "localhost:99999"].map(faults), [1; 4]);
    }
}
