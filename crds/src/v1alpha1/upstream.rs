//! Upstreams: servers to which queries are forwarded, and how much one node may send to them.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::validation::{BUDGET_HAS_A_RATE, PRESET_HAS_ITS_IN_FLIGHT, rules};

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
    /// How much one node may send to these servers together. For routes, the caches of a node share it; for resolvers,
    /// those on a node. Not given: no budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet_budget: Option<PacketBudget>,
}

impl Upstream {
    /// Returns the servers in the order of the spec.
    pub fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|address| SocketAddr::new(*address, self.port))
    }
}

/// Packets a second and queries in flight that one node may send to some servers together. A query over UDP is one
/// packet, one over TCP two, and a connection four.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[BUDGET_HAS_A_RATE, PRESET_HAS_ITS_IN_FLIGHT])))]
pub struct PacketBudget {
    /// The limits of a cloud: AWS (900 packets a second), Azure (900, and 180 queries in flight) or Huawei (540).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::budget_preset")]
    pub preset: Option<BudgetPreset>,
    /// Packets a second, 10 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 1_000_000))]
    pub packets_per_second: Option<u32>,
    /// Queries that wait for an answer at a time, 8 to 65535. Each counts until it is answered, or for five seconds.
    /// Not given: unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 65_535))]
    pub in_flight: Option<u32>,
}

impl PacketBudget {
    /// Returns the packets a second; `None` without preset and figure, which the API server refuses.
    #[must_use]
    pub fn packets_per_second(&self) -> Option<u32> {
        match self.preset {
            Some(BudgetPreset::Aws | BudgetPreset::Azure) => Some(900),
            Some(BudgetPreset::Huawei) => Some(540),
            None => self.packets_per_second,
        }
    }

    /// Returns the queries in flight; `None` where they are unbounded.
    #[must_use]
    pub fn in_flight(&self) -> Option<u32> {
        match self.preset {
            Some(BudgetPreset::Azure) => Some(180),
            Some(BudgetPreset::Aws | BudgetPreset::Huawei) => None,
            None => self.in_flight,
        }
    }
}

/// Cloud whose limits a packet budget obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BudgetPreset {
    /// Amazon Web Services: 1,024 packets a second of a network interface to link-local services.
    #[serde(rename = "AWS")]
    Aws,
    /// Microsoft Azure: 1,000 queries a second and 200 pending of a virtual machine.
    Azure,
    /// Huawei Cloud: 600 recursive queries a second of a server.
    Huawei,
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
