//! What makes a configuration one that a process may put in force. The operator checks before it writes, the data
//! plane before it obeys.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use crate::{Config, Upstream, UpstreamSource, is_suffix};

/// Why a configuration is refused: the field and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The bytes are not a configuration.
    #[error("not a configuration: {0}")]
    Syntax(String),
    /// A name is not one.
    #[error("{field}: {value:?} is not a domain name; write it in lower case and without a final dot")]
    Name {
        /// Path of the field.
        field: String,
        /// What stands there.
        value: String,
    },
    /// A list that must not be empty is empty.
    #[error("{field}: at least one entry is needed")]
    Empty {
        /// Path of the field.
        field: String,
    },
    /// Something is named twice.
    #[error("{field}: {value} is named twice; once is enough")]
    Twice {
        /// Path of the field.
        field: String,
        /// What is repeated.
        value: String,
    },
    /// A server that would ask this tier itself.
    #[error("{field}: {address} is an address that this tier captures; its questions would come back to it")]
    Loop {
        /// Path of the field.
        field: String,
        /// The captured address.
        address: IpAddr,
    },
    /// A port that nothing can be sent to.
    #[error("{field}: port 0 of {address} cannot be asked; name a port from 1 to 65535")]
    Port {
        /// Path of the field.
        field: String,
        /// The address.
        address: IpAddr,
    },
}

impl Config {
    /// Reads a configuration and validates it.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the first field that is wrong.
    pub fn from_json(json: &[u8]) -> Result<Self, Invalid> {
        let config: Self = serde_json::from_slice(json).map_err(|error| Invalid::Syntax(error.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks everything that a process relies on.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the first field that is wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        name("clusterDomain", &self.cluster_domain)?;
        name("clusterDns.service", &self.cluster_dns.service)?;
        let captured: HashSet<IpAddr> = self.node_cache.captured.iter().map(|captured| captured.address).collect();
        servers("clusterDns.bootstrap", &self.cluster_dns.bootstrap, &captured)?;
        distinct("nodeCache.captured", self.node_cache.captured.iter().map(|captured| captured.address))?;
        not_empty("nodeCache.captured", &self.node_cache.captured)?;
        not_empty("nodeCache.allowFrom", &self.node_cache.allow_from)?;
        not_empty("resolver.allowFrom", &self.resolver.allow_from)?;
        distinct("zones", self.zones.iter().map(|zone| zone.name.clone()))?;
        for (index, zone) in self.zones.iter().enumerate() {
            name(&format!("zones[{index}].service"), &zone.service)?;
            servers(&format!("zones[{index}].bootstrap"), &zone.bootstrap, &captured)?;
        }
        if let UpstreamSource::Servers(list) = &self.resolver.upstreams {
            upstreams("resolver.upstreams", list, &captured)?;
        }
        distinct("routes", self.routes.iter().map(|route| route.suffix.clone()))?;
        for (index, route) in self.routes.iter().enumerate() {
            name(&format!("routes[{index}].suffix"), &route.suffix)?;
            upstreams(&format!("routes[{index}].upstreams"), &route.upstreams, &captured)?;
        }
        Ok(())
    }
}

fn name(field: &str, value: &str) -> Result<(), Invalid> {
    if is_suffix(value) {
        return Ok(());
    }
    Err(Invalid::Name { field: field.to_owned(), value: value.to_owned() })
}

fn not_empty<T>(field: &str, list: &[T]) -> Result<(), Invalid> {
    if list.is_empty() {
        return Err(Invalid::Empty { field: field.to_owned() });
    }
    Ok(())
}

fn distinct<T: Eq + std::hash::Hash + std::fmt::Display>(
    field: &str,
    values: impl Iterator<Item = T>,
) -> Result<(), Invalid> {
    let mut seen = HashSet::new();
    for value in values {
        if seen.contains(&value) {
            return Err(Invalid::Twice { field: field.to_owned(), value: value.to_string() });
        }
        seen.insert(value);
    }
    Ok(())
}

fn upstreams(field: &str, list: &[Upstream], captured: &HashSet<IpAddr>) -> Result<(), Invalid> {
    let addresses: Vec<SocketAddr> = list.iter().map(|upstream| upstream.address).collect();
    servers(field, &addresses, captured)
}

fn servers(field: &str, list: &[SocketAddr], captured: &HashSet<IpAddr>) -> Result<(), Invalid> {
    not_empty(field, list)?;
    distinct(field, list.iter())?;
    for server in list {
        if server.port() == 0 {
            return Err(Invalid::Port { field: field.to_owned(), address: server.ip() });
        }
        if captured.contains(&server.ip()) {
            return Err(Invalid::Loop { field: field.to_owned(), address: server.ip() });
        }
    }
    Ok(())
}
