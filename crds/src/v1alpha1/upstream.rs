//! Upstreams: servers to which queries are forwarded.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// One or more servers that are queried in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// IPv4 or IPv6 addresses, at least one, at most 8. None may be an address that this tier captures.
    #[schemars(schema_with = "schema::upstream_addresses")]
    pub addresses: Vec<IpAddr>,
    /// Port, 1 to 65535. Default: 53.
    #[serde(default = "dns_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// How the servers are queried. UDP: over UDP, and again over TCP after a truncated response. TCP: over TCP alone.
    /// Default: UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether names are sent to the servers in random case (0x20), which whoever forges responses has to guess.
    /// Enabled: yes, unless a server changes the case or compares names by octet, which the tier finds out. Disabled:
    /// names are sent in lower case. Default: Enabled.
    #[serde(default)]
    pub case_randomization: CaseRandomization,
}

impl Upstream {
    /// Returns the servers in the order of the spec.
    pub fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|address| SocketAddr::new(*address, self.port))
    }
}

fn dns_port() -> u16 {
    53
}

/// Transport of queries to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// Over UDP, again over TCP after a truncated response.
    #[default]
    #[serde(rename = "UDP")]
    Udp,
    /// Over TCP alone.
    #[serde(rename = "TCP")]
    Tcp,
}

/// Use of random case in the names of queries to an upstream (0x20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CaseRandomization {
    /// Names are sent in random case, unless a server changes it or compares names by octet.
    #[default]
    Enabled,
    /// Names are sent in lower case.
    Disabled,
}
