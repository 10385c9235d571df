//! Names that a pod may be probed for. They come from the configuration, so that a caller chooses none.

use serde::{Deserialize, Serialize};

use crate::Config;

/// Names in [`NodeCache::probes`](crate::NodeCache::probes), at most.
pub const MAX_PROBES: usize = 16;

/// A name and a type that a pod is probed for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeName {
    /// Name: `.`, or lower case without a final dot.
    pub name: String,
    /// Mnemonic of the type, or `TYPE` and a number (RFC 3597).
    #[serde(rename = "type")]
    pub rtype: String,
}

impl ProbeName {
    /// Returns the probe of a name for records of a type.
    #[must_use]
    pub fn new(name: &str, rtype: &str) -> Self {
        Self { name: name.to_owned(), rtype: rtype.to_owned() }
    }
}

/// Result of one probe past the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProbeResult {
    /// Probed name.
    pub name: String,
    /// Probed type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// Process that asked its upstreams.
    pub instance: String,
    /// Response code, a number (RFC 1035 §4.1.1).
    pub rcode: u16,
    /// Time from the query to the response.
    pub microseconds: u64,
    /// Digest of the rcode and the records of the answer section without their TTLs, in hexadecimal digits. Equal for
    /// equal answers in every process, release and platform.
    pub digest: String,
}

impl Config {
    /// Returns what a pod may be probed for: the root, the name of the Service that every cluster has, each route's
    /// SOA, and what the configuration lists.
    #[must_use]
    pub fn probes(&self) -> Vec<ProbeName> {
        let cluster = format!("kubernetes.default.svc.{}", self.cluster_domain);
        let always = [ProbeName::new(".", "NS"), ProbeName::new(&cluster, "A")];
        let routes = self.routes.iter().map(|route| ProbeName::new(&route.suffix, "SOA"));
        let mut probes: Vec<ProbeName> = Vec::new();
        for probe in always.into_iter().chain(routes).chain(self.node_cache.probes.iter().cloned()) {
            if !probes.contains(&probe) {
                probes.push(probe);
            }
        }
        probes
    }

    /// Returns the probe of a name, of the first type that it may be probed for if none is given; `None` when the
    /// configuration does not lead to it.
    #[must_use]
    pub fn find_probe(&self, name: &str, rtype: Option<&str>) -> Option<ProbeName> {
        self.probes().into_iter().find(|probe| probe.name == name && rtype.is_none_or(|rtype| probe.rtype == rtype))
    }
}

/// Returns whether a text has the form of a type: `A`, `TYPE65280`, `NSEC3PARAM`.
pub(crate) fn is_type(text: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=10).contains(&text.len()) && text.bytes().all(is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeCache, Route, fingerprint};

    #[test]
    fn only_names_of_the_configuration_can_be_probed() {
        let upstreams = Vec::new();
        let route = Route { suffix: "corp.example".to_owned(), upstreams, packet_budgets: Vec::new() };
        let listed = vec![ProbeName::new("www.example", "AAAA"), ProbeName::new(".", "NS")];
        let node_cache = NodeCache { probes: listed, ..NodeCache::default() };
        let config = Config { node_cache, routes: vec![route], ..Config::example() };
        let probes = [
            ProbeName::new(".", "NS"),
            ProbeName::new("kubernetes.default.svc.cluster.local", "A"),
            ProbeName::new("corp.example", "SOA"),
            ProbeName::new("www.example", "AAAA"),
        ];
        assert_eq!(config.probes(), probes);
        assert_eq!(config.find_probe("corp.example", None).as_ref(), Some(&probes[2]));
        assert_eq!(config.find_probe("www.example", Some("AAAA")).as_ref(), Some(&probes[3]));
        assert_eq!(config.find_probe("www.example", Some("A")), None);
        assert_eq!(config.find_probe("bank.example", None), None);
    }

    #[test]
    fn a_configuration_without_probes_has_the_fingerprint_of_before() {
        assert!(!serde_json::to_string(&Config::example()).unwrap().contains("probes"));
        let node_cache = NodeCache { probes: vec![ProbeName::new("www.example", "A")], ..NodeCache::default() };
        let config = Config { node_cache, ..Config::example() };
        assert_ne!(fingerprint(&config), fingerprint(&Config::example()));
        let json = serde_json::to_string(&config).unwrap();
        assert!(json.contains(r#""probes":[{"name":"www.example","type":"A"}]"#), "{json}");
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        assert!(config.validate().is_ok());
        let invalid = |probes: Vec<ProbeName>| {
            let node_cache = NodeCache { probes, ..NodeCache::default() };
            Config { node_cache, ..Config::example() }.validate().unwrap_err().to_string()
        };
        let many = (0..17).map(|number| ProbeName::new(&format!("w{number}.example"), "A")).collect();
        assert_eq!(invalid(many), "nodeCache.probes: 17 are listed, 16 at most can be");
        assert!(invalid(vec![ProbeName::new("www.example.", "A")]).starts_with("nodeCache.probes[0].name"));
        assert!(invalid(vec![ProbeName::new("www.example", "a b")]).starts_with("nodeCache.probes[0].type"));
    }
}
