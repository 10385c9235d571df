//! Validation of a configuration. The operator validates before it writes a revision, the data plane before it
//! activates one.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use crate::probes::{MAX_PROBES, ProbeName, is_type};
use crate::{Config, LastResort, PacketBudget, Upstream, UpstreamSource, is_suffix};

/// Reason why a configuration is invalid: the field and the correction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The JSON is not a configuration.
    #[error("not a configuration: {0}")]
    Syntax(String),
    /// A value is not a domain name.
    #[error("{field}: {value:?} is not a domain name; write it in lower case and without a final dot")]
    Name {
        /// Path of the field.
        field: String,
        /// Invalid value.
        value: String,
    },
    /// A required list is empty.
    #[error("{field}: at least one entry is needed")]
    Empty {
        /// Path of the field.
        field: String,
    },
    /// A list has a duplicate.
    #[error("{field}: {value} is named twice; once is enough")]
    Twice {
        /// Path of the field.
        field: String,
        /// Duplicate value.
        value: String,
    },
    /// A server is a captured address: queries to it would be a forwarding loop.
    #[error("{field}: {address} is an address that this tier captures; its questions would come back to it")]
    Loop {
        /// Path of the field.
        field: String,
        /// Captured address.
        address: IpAddr,
    },
    /// A list has too many entries.
    #[error("{field}: {count} are listed, {max} at most can be")]
    TooMany {
        /// Path of the field.
        field: String,
        /// Number of entries.
        count: usize,
        /// Largest number.
        max: usize,
    },
    /// A value is not a type of records.
    #[error("{field}: {value:?} is not a type of records such as A, MX or TYPE65")]
    Type {
        /// Path of the field.
        field: String,
        /// Invalid value.
        value: String,
    },
    /// A number that stands for an amount is 0.
    #[error("{field}: 0 is too few; name a number from 1 on")]
    Zero {
        /// Path of the field.
        field: String,
    },
    /// A server has port 0, to which nothing can be sent.
    #[error("{field}: port 0 of {address} cannot be asked; name a port from 1 to 65535")]
    Port {
        /// Path of the field.
        field: String,
        /// Address of the server.
        address: IpAddr,
    },
    /// A packet budget allows nothing.
    #[error("{field}: a budget must allow a packet and a query in flight, and have a process to use it")]
    Budget {
        /// Path of the field.
        field: String,
    },
}

impl Config {
    /// Parses and validates a configuration.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the first invalid field.
    pub fn from_json(json: &[u8]) -> Result<Self, Invalid> {
        let config: Self = serde_json::from_slice(json).map_err(|error| Invalid::Syntax(error.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Validates every field that a process relies on.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the first invalid field.
    pub fn validate(&self) -> Result<(), Invalid> {
        require_name("clusterDomain", &self.cluster_domain)?;
        require_name("clusterDns.service", &self.cluster_dns.service)?;
        let captured: HashSet<IpAddr> = self.node_cache.captured.iter().map(|captured| captured.address).collect();
        require_servers("clusterDns.bootstrap", &self.cluster_dns.bootstrap, &captured)?;
        require_distinct("nodeCache.captured", self.node_cache.captured.iter().map(|captured| captured.address))?;
        require_entries("nodeCache.captured", &self.node_cache.captured)?;
        require_probes("nodeCache.probes", &self.node_cache.probes)?;
        require_entries("nodeCache.allowFrom", &self.node_cache.allow_from)?;
        require_entries("resolver.allowFrom", &self.resolver.allow_from)?;
        if let LastResort::Upstreams { packets_per_second, instances } = self.node_cache.last_resort {
            require_positive("nodeCache.lastResort.packetsPerSecond", packets_per_second)?;
            require_positive("nodeCache.lastResort.instances", instances)?;
        }
        require_distinct("zones", self.zones.iter().map(|zone| zone.name.clone()))?;
        for (index, zone) in self.zones.iter().enumerate() {
            require_name(&format!("zones[{index}].service"), &zone.service)?;
            require_servers(&format!("zones[{index}].bootstrap"), &zone.bootstrap, &captured)?;
        }
        if let UpstreamSource::Servers(upstreams) = &self.resolver.upstreams {
            require_upstreams("resolver.upstreams", upstreams, &captured)?;
            let servers = upstreams.iter().chain(&self.resolver.fallback);
            require_distinct("resolver.fallback", servers.map(|server| server.address))?;
        }
        if !self.resolver.fallback.is_empty() {
            require_upstreams("resolver.fallback", &self.resolver.fallback, &captured)?;
        }
        require_distinct("resolver.privateSuffixes", self.resolver.private_suffixes.iter())?;
        for (index, suffix) in self.resolver.private_suffixes.iter().enumerate() {
            require_name(&format!("resolver.privateSuffixes[{index}]"), suffix)?;
        }
        require_budgets("resolver.packetBudgets", &self.resolver.packet_budgets)?;
        require_distinct("routes", self.routes.iter().map(|route| route.suffix.clone()))?;
        for (index, route) in self.routes.iter().enumerate() {
            require_name(&format!("routes[{index}].suffix"), &route.suffix)?;
            require_upstreams(&format!("routes[{index}].upstreams"), &route.upstreams, &captured)?;
            require_budgets(&format!("routes[{index}].packetBudgets"), &route.packet_budgets)?;
        }
        Ok(())
    }
}

fn require_name(field: &str, value: &str) -> Result<(), Invalid> {
    if is_suffix(value) {
        return Ok(());
    }
    Err(Invalid::Name { field: field.to_owned(), value: value.to_owned() })
}

fn require_probes(field: &str, probes: &[ProbeName]) -> Result<(), Invalid> {
    if probes.len() > MAX_PROBES {
        return Err(Invalid::TooMany { field: field.to_owned(), count: probes.len(), max: MAX_PROBES });
    }
    for (index, probe) in probes.iter().enumerate() {
        if probe.name != "." {
            require_name(&format!("{field}[{index}].name"), &probe.name)?;
        }
        if !is_type(&probe.rtype) {
            return Err(Invalid::Type { field: format!("{field}[{index}].type"), value: probe.rtype.clone() });
        }
    }
    Ok(())
}

fn require_positive(field: &str, number: u32) -> Result<(), Invalid> {
    if number == 0 {
        return Err(Invalid::Zero { field: field.to_owned() });
    }
    Ok(())
}

fn require_entries<T>(field: &str, list: &[T]) -> Result<(), Invalid> {
    if list.is_empty() {
        return Err(Invalid::Empty { field: field.to_owned() });
    }
    Ok(())
}

fn require_distinct<T: Eq + Hash + Display>(field: &str, values: impl Iterator<Item = T>) -> Result<(), Invalid> {
    let mut previous = HashSet::new();
    for value in values {
        if previous.contains(&value) {
            return Err(Invalid::Twice { field: field.to_owned(), value: value.to_string() });
        }
        previous.insert(value);
    }
    Ok(())
}

fn require_upstreams(field: &str, upstreams: &[Upstream], captured: &HashSet<IpAddr>) -> Result<(), Invalid> {
    let addresses: Vec<SocketAddr> = upstreams.iter().map(|upstream| upstream.address).collect();
    require_servers(field, &addresses, captured)
}

fn require_budgets(field: &str, budgets: &[PacketBudget]) -> Result<(), Invalid> {
    for budget in budgets {
        require_entries(&format!("{field}.servers"), &budget.servers)?;
        if budget.packets_per_second == 0 || budget.in_flight == Some(0) || budget.processes == 0 {
            return Err(Invalid::Budget { field: field.to_owned() });
        }
    }
    require_distinct(field, budgets.iter().flat_map(|budget| &budget.servers))
}

fn require_servers(field: &str, servers: &[SocketAddr], captured: &HashSet<IpAddr>) -> Result<(), Invalid> {
    require_entries(field, servers)?;
    require_distinct(field, servers.iter())?;
    for server in servers {
        if server.port() == 0 {
            return Err(Invalid::Port { field: field.to_owned(), address: server.ip() });
        }
        if captured.contains(&server.ip()) {
            return Err(Invalid::Loop { field: field.to_owned(), address: server.ip() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Captured, ClusterDns, NodeCache, PrivateAnswers, Resolver, Route, Zone};

    const SERVER: &str = "192.0.2.53:53";

    fn upstream(address: &str) -> Upstream {
        address.parse::<SocketAddr>().unwrap().into()
    }

    fn forwarding_to(servers: &[&str]) -> Config {
        let upstreams = UpstreamSource::Servers(servers.iter().map(|server| upstream(server)).collect());
        Config { resolver: Resolver { upstreams, ..Resolver::default() }, ..Config::example() }
    }

    fn with_last_resort(last_resort: LastResort) -> Config {
        Config { node_cache: NodeCache { last_resort, ..NodeCache::default() }, ..Config::example() }
    }

    fn with_fallback(server: &str, private_suffixes: &[&str]) -> Config {
        let private_suffixes = private_suffixes.iter().map(|suffix| (*suffix).to_owned()).collect();
        let forwarding = forwarding_to(&[SERVER]);
        let resolver = Resolver { fallback: vec![upstream(server)], private_suffixes, ..forwarding.resolver };
        Config { resolver, ..forwarding }
    }

    fn with_route(suffix: &str, server: &str) -> Config {
        let route = Route { suffix: suffix.into(), upstreams: vec![upstream(server)], packet_budgets: Vec::new() };
        Config { routes: vec![route], ..Config::example() }
    }

    fn zone(name: &str, service: &str, bootstrap: &[&str]) -> Zone {
        let bootstrap = bootstrap.iter().map(|server| server.parse().unwrap()).collect();
        Zone { name: name.into(), bootstrap, service: service.into() }
    }

    /// Returns a configuration with packet budgets for these servers.
    fn with_budgets(budgets: &[(&[&str], u32)]) -> Config {
        let budget = |(servers, packets_per_second): &(&[&str], u32)| PacketBudget {
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            packets_per_second: *packets_per_second,
            in_flight: None,
            processes: 2,
        };
        let mut config = forwarding_to(&[SERVER]);
        config.resolver.packet_budgets = budgets.iter().map(budget).collect();
        config
    }

    #[test]
    fn a_configuration_without_budgets_does_not_mention_them() {
        let json = serde_json::to_string(&with_route("corp.example", SERVER)).unwrap();
        assert!(!json.contains("udget"), "{json}");
        let json = serde_json::to_value(with_budgets(&[(&[SERVER], 900)])).unwrap();
        let budget = serde_json::json!({"servers": [SERVER], "packetsPerSecond": 900, "processes": 2});
        assert_eq!(json["resolver"]["packetBudgets"], serde_json::json!([budget]));
    }

    #[test]
    fn a_valid_configuration_survives_its_json() {
        let zones = vec![zone("", "none.svc.cluster.local", &[SERVER]), zone("a", "a.svc.cluster.local", &[SERVER])];
        for config in [
            Config::example(),
            Config { resolver: Resolver::default(), ..Config::example() },
            Config { zones, ..Config::example() },
            with_route("corp.example", SERVER),
            with_fallback("192.0.2.54:53", &["corp.example"]),
            with_budgets(&[(&[SERVER], 900)]),
        ] {
            let json = serde_json::to_vec(&config).unwrap();
            assert_eq!(Config::from_json(&json), Ok(config));
        }
    }

    #[test]
    fn fields_of_a_newer_release_are_ignored_and_routes_may_be_missing() {
        let mut json = serde_json::to_value(Config::example()).unwrap();
        json["future"] = true.into();
        json.as_object_mut().unwrap().remove("routes");
        assert_eq!(Config::from_json(&serde_json::to_vec(&json).unwrap()), Ok(Config::example()));
        assert!(matches!(Config::from_json(b"{}"), Err(Invalid::Syntax(_))));
    }

    #[test]
    fn a_configuration_without_private_answers_allows_them_and_one_with_another_word_is_invalid() {
        let refusing = NodeCache { private_answers: PrivateAnswers::Refuse, ..NodeCache::default() };
        let mut json = serde_json::to_value(Config { node_cache: refusing.clone(), ..Config::example() }).unwrap();
        let read = |json: &serde_json::Value| Config::from_json(&serde_json::to_vec(json).unwrap());
        assert_eq!(json["nodeCache"]["privateAnswers"], "Refuse");
        assert_eq!(read(&json).map(|config| config.node_cache), Ok(refusing));
        json["nodeCache"]["privateAnswers"] = "refuse".into();
        assert!(matches!(read(&json), Err(Invalid::Syntax(_))));
        json["nodeCache"].as_object_mut().unwrap().remove("privateAnswers");
        assert_eq!(read(&json), Ok(Config::example()));
    }

    #[test]
    fn a_last_resort_that_is_not_the_default_one_survives_its_json() {
        for last_resort in [LastResort::Disabled, LastResort::Upstreams { packets_per_second: 1, instances: 8 }] {
            let config = with_last_resort(last_resort);
            let json = serde_json::to_vec(&config).unwrap();
            assert_eq!(Config::from_json(&json), Ok(config));
        }
    }

    #[test]
    fn the_first_invalid_field_is_named() {
        let link_local = Captured { address: "169.254.20.10".parse().unwrap(), service: false };
        let captured_twice = NodeCache { captured: vec![link_local.clone(), link_local], ..NodeCache::default() };
        let dns_at = |bootstrap| ClusterDns { bootstrap, ..Config::example().cluster_dns };
        for (sentence, config) in [
            (
                "clusterDomain: \"Cluster.local\" is not a",
                Config { cluster_domain: "Cluster.local".into(), ..Config::example() },
            ),
            ("clusterDns.bootstrap: at least one", Config { cluster_dns: dns_at(vec![]), ..Config::example() }),
            (
                "nodeCache.captured: 169.254.20.10 is named twice",
                Config { node_cache: captured_twice, ..Config::example() },
            ),
            (
                "nodeCache.captured: at least one",
                Config { node_cache: NodeCache { captured: vec![], ..NodeCache::default() }, ..Config::example() },
            ),
            (
                "nodeCache.allowFrom: at least one",
                Config { node_cache: NodeCache { allow_from: vec![], ..NodeCache::default() }, ..Config::example() },
            ),
            (
                "resolver.allowFrom: at least one",
                Config { resolver: Resolver { allow_from: vec![], ..Resolver::default() }, ..Config::example() },
            ),
            (
                "zones: a is named twice",
                Config {
                    zones: vec![zone("a", "a.example", &[SERVER]), zone("a", "b.example", &[SERVER])],
                    ..Config::example()
                },
            ),
            (
                "zones[0].service: \"a.\" is not a",
                Config { zones: vec![zone("a", "a.", &[SERVER])], ..Config::example() },
            ),
            (
                "zones[0].bootstrap: at least one",
                Config { zones: vec![zone("a", "a.example", &[])], ..Config::example() },
            ),
            ("resolver.upstreams: at least one", forwarding_to(&[])),
            ("resolver.upstreams: 192.0.2.53:53 is named twice", forwarding_to(&[SERVER, SERVER])),
            ("resolver.upstreams: port 0 of 192.0.2.53", forwarding_to(&["192.0.2.53:0"])),
            ("resolver.upstreams: 169.254.20.10 is an address that", forwarding_to(&["169.254.20.10:53"])),
            (
                "nodeCache.lastResort.packetsPerSecond: 0 is too few",
                with_last_resort(LastResort::Upstreams { packets_per_second: 0, instances: 2 }),
            ),
            (
                "nodeCache.lastResort.instances: 0 is too few",
                with_last_resort(LastResort::Upstreams { packets_per_second: 1, instances: 0 }),
            ),
            ("resolver.fallback: 192.0.2.53:53 is named twice", with_fallback(SERVER, &[])),
            ("resolver.fallback: port 0 of 192.0.2.54", with_fallback("192.0.2.54:0", &[])),
            ("resolver.fallback: 169.254.20.10 is an address that", with_fallback("169.254.20.10:53", &[])),
            ("resolver.privateSuffixes: a.b is named twice", with_fallback("192.0.2.54:53", &["a.b", "a.b"])),
            ("resolver.privateSuffixes[0]: \"a.b.\" is not a", with_fallback("192.0.2.54:53", &["a.b."])),
            ("resolver.packetBudgets: a budget must allow", with_budgets(&[(&[SERVER], 0)])),
            ("resolver.packetBudgets.servers: at least one", with_budgets(&[(&[], 900)])),
            ("resolver.packetBudgets: 192.0.2.53:53 is named twice", with_budgets(&[(&[SERVER], 9), (&[SERVER], 9)])),
            ("routes[0].suffix: \"corp.example.\" is not a", with_route("corp.example.", SERVER)),
            ("routes[0].upstreams: 169.254.20.10 is an", with_route("corp.example", "169.254.20.10:53")),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(sentence), "{sentence}: {error}");
        }
    }
}
