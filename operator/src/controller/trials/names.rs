//! Names of the probes of a look: those of the target and of the proven configuration, in parts when they are many.

use dnstier_crds::v1alpha1::{Probe, ProbeCompare};
use node_cache_config::Config;
use node_cache_config::probes::{ProbeName, ProbeResult};

use crate::controller::judge::pod_look::{Compare, ProbeOutcome};
use crate::controller::rollout::pods::Role;

/// Names that a pod is asked for in one look, at most: three are asked in a second.
const MAX_NAMES: usize = 48;

/// Returns the names that pods of a role are asked for in the look of this number: the names of every look and of the
/// spec, then the routes that lead elsewhere after the change, then the others, of both kinds of routes as many as
/// there is time for, in turn. A pod knows the names of its own configuration.
#[must_use]
pub(super) fn names(target: Option<&Config>, proven: Option<&Config>, role: Role, look: usize) -> Vec<ProbeName> {
    let mut names: Vec<ProbeName> = Vec::new();
    for probe in [target, proven].into_iter().flatten().flat_map(Config::probes) {
        let is_asked = role == Role::Node || [target, proven].into_iter().flatten().all(|it| leaves(it, &probe.name));
        if is_asked && !names.contains(&probe) {
            names.push(probe);
        }
    }
    let route = |config: Option<&Config>, name: &ProbeName| {
        config.and_then(|config| config.routes.iter().find(|route| route.suffix == name.name).cloned())
    };
    let is_of_route =
        |name: &ProbeName| name.rtype == "SOA" && (route(proven, name).is_some() || route(target, name).is_some());
    let (of_routes, mut chosen): (Vec<ProbeName>, Vec<ProbeName>) = names.into_iter().partition(is_of_route);
    let (changed, unchanged): (Vec<ProbeName>, Vec<ProbeName>) =
        of_routes.into_iter().partition(|name| route(proven, name) != route(target, name));
    for mut routes in [changed, unchanged] {
        let room = MAX_NAMES.saturating_sub(chosen.len());
        if !routes.is_empty() {
            let start = look * room % routes.len();
            routes.rotate_left(start);
        }
        chosen.extend(routes.into_iter().take(room));
    }
    chosen
}

/// Returns whether a resolver may be asked for a name: one that is outside of the cluster and of all routes. Others
/// never leave through the upstreams of the resolvers.
fn leaves(config: &Config, name: &str) -> bool {
    let is_below = |suffix: &str| name == suffix || name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    !is_below(&config.cluster_domain) && !config.routes.iter().any(|route| is_below(&route.suffix))
}

/// Returns the result of a probe with what the spec says to compare; of a name that the spec does not have, the rcode.
#[must_use]
pub(super) fn outcome(probe: &ProbeName, result: Option<&ProbeResult>, listed: &[Probe]) -> ProbeOutcome {
    let is_listed = |listed: &&Probe| listed.name == probe.name && listed.type_.name() == probe.rtype;
    let compare = match listed.iter().find(is_listed).map(|listed| listed.compare) {
        Some(ProbeCompare::Answers) => Compare::Answers,
        Some(ProbeCompare::Rcode) | None => Compare::Rcode,
    };
    ProbeOutcome {
        name: probe.name.clone(),
        rtype: probe.rtype.clone(),
        compare,
        rcode: result.map(|result| result.rcode),
        digest: result.map(|result| result.digest.clone()).unwrap_or_default(),
        microseconds: result.map_or(0, |result| result.microseconds),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use node_cache_config::{NodeCache, Route, Upstream};

    use super::*;

    fn config(routes: &[(&str, &str)]) -> Config {
        let route = |(suffix, server): &(&str, &str)| Route {
            suffix: (*suffix).to_owned(),
            upstreams: vec![Upstream::from(server.parse::<SocketAddr>().unwrap())],
            packet_budgets: Vec::new(),
        };
        let listed = ["www.example", "git.corp.example"].map(|name| ProbeName::new(name, "A"));
        let node_cache = NodeCache { probes: listed.to_vec(), ..NodeCache::default() };
        Config { node_cache, routes: routes.iter().map(route).collect(), ..Config::example() }
    }

    fn texts(names: &[ProbeName]) -> Vec<&str> {
        names.iter().map(|name| name.name.as_str()).collect()
    }

    #[test]
    fn resolvers_are_asked_for_nothing_that_never_leaves_the_cluster_or_its_routes() {
        let config = config(&[("corp.example", "192.0.2.1:53")]);
        let of_nodes = names(Some(&config), Some(&config), Role::Node, 0);
        let expected = [".", "kubernetes.default.svc.cluster.local", "www.example", "git.corp.example", "corp.example"];
        assert_eq!(texts(&of_nodes), expected);
        assert_eq!(texts(&names(Some(&config), None, Role::Resolver, 0)), [".", "www.example"]);
    }

    #[test]
    fn of_many_routes_those_that_lead_elsewhere_are_asked_in_each_look_and_the_others_in_turn() {
        let suffixes: Vec<String> = (0..100).map(|number| format!("r{number}.example")).collect();
        let of = |server: &str| -> Config {
            let server = |suffix: &str| if suffix == "r99.example" { server.to_owned() } else { "192.0.2.1:53".into() };
            let routes: Vec<(&str, String)> = suffixes.iter().map(|suffix| (suffix.as_str(), server(suffix))).collect();
            config(&routes.iter().map(|(suffix, server)| (*suffix, server.as_str())).collect::<Vec<_>>())
        };
        let (proven, target) = (of("192.0.2.1:53"), of("192.0.2.9:53"));
        let mut seen: Vec<String> = Vec::new();
        for look in 0..3 {
            let names = names(Some(&target), Some(&proven), Role::Node, look);
            assert_eq!(names.len(), MAX_NAMES);
            assert!(texts(&names[..5]).contains(&"r99.example"));
            seen.extend(names.into_iter().map(|name| name.name));
        }
        assert!(suffixes.iter().all(|suffix| seen.contains(suffix)));
    }

    #[test]
    fn of_many_routes_that_all_lead_elsewhere_each_is_asked_in_its_turn_and_what_the_spec_lists_in_each_look() {
        let suffixes: Vec<String> = (0..100).map(|number| format!("r{number}.example")).collect();
        let of = |server: &str| -> Config {
            config(&suffixes.iter().map(|suffix| (suffix.as_str(), server)).collect::<Vec<_>>())
        };
        let (proven, target) = (of("192.0.2.1:53"), of("192.0.2.9:53"));
        let mut seen: Vec<String> = Vec::new();
        for look in 0..3 {
            let names = names(Some(&target), Some(&proven), Role::Node, look);
            assert_eq!(names.len(), MAX_NAMES);
            assert!([".", "www.example", "git.corp.example"].iter().all(|name| texts(&names).contains(name)));
            seen.extend(names.into_iter().map(|name| name.name));
        }
        assert!(suffixes.iter().all(|suffix| seen.contains(suffix)));
    }
}
